//! The agent as a process of its own, and what the kernel says of it; for the programs that measure it.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{self, status};

/// A running agent; it is killed when this is dropped.
pub(crate) struct AgentProcess {
    program: PathBuf,
    folder: PathBuf,
    flags: Vec<String>,
    child: Child,
}

impl AgentProcess {
    /// Starts the agent with all its folders below `folder`, and with these flags too.
    pub(crate) fn start(
        program: &Path,
        folder: &Path,
        endpoint: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut all = vec![format!("--container-runtime-endpoint={endpoint}")];
        for (flag, name) in [
            ("--pod-manifest-path", "manifests"),
            ("--root-dir", "root"),
            ("--pod-logs-dir", "logs"),
            ("--container-logs-dir", "container-logs"),
            ("--run-dir", "run"),
        ] {
            all.push(format!("{flag}={}", folder.join(name).display()));
        }
        all.push("--image-gc-high-threshold=100".to_owned());
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        fs::create_dir_all(folder.join("manifests"))?;
        Ok(Self {
            child: spawn(program, folder, &all)?,
            program: program.to_owned(),
            folder: folder.to_owned(),
            flags: all,
        })
    }

    /// Kills it and starts another one.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.program, &self.folder, &self.flags)?;
        Ok(())
    }

    /// True while it has not ended by itself.
    pub(crate) fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let state = stat
            .ok()
            .and_then(|stat| Some(stat.rsplit_once(") ")?.1.to_owned()));
        state.is_some_and(|state| !state.starts_with('Z'))
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.child.id())
    }

    /// A field of its status, in bytes: `VmRSS`, `RssAnon`, `VmHWM`.
    pub(crate) fn memory(&self, field: &str) -> anyhow::Result<u64> {
        Ok(status(self.child.id(), field)?.saturating_mul(1024))
    }

    /// Has `VmHWM` be the peak from now on; gives what is resident.
    pub(crate) fn reset_peak(&self) -> anyhow::Result<u64> {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?;
        self.memory("VmRSS")
    }

    /// The number of its threads.
    pub(crate) fn threads(&self) -> anyhow::Result<u64> {
        status(self.child.id(), "Threads")
    }

    /// The number of its open files.
    pub(crate) fn open_files(&self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, folder: &Path, flags: &[String]) -> anyhow::Result<Child> {
    let log = folder.join("agent.log");
    let log = fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.arg("run").args(flags);
    Ok(command.stdin(Stdio::null()).stderr(log).spawn()?)
}

//! Emulated machines for tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::program;

/// The machine is emulated, and may have half a processor.
const PATIENCE: Duration = Duration::from_secs(300);

/// A Pod that runs on, as `web`.
pub(crate) const RUNS_ON: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: localhost/podkeeper/busybox:1, command: [sleep, infinity]}
";

/// A machine with podkeeper installed, which the shell scripts of tests run on as root.
pub(crate) struct Machine {
    dir: PathBuf,
    kind: Kind,
}

enum Kind {
    /// The one that tests share, one after the other.
    Shared { _mine: MutexGuard<'static, bool> },
    /// Ends with the test.
    Own { _folder: TempDir },
}

impl Machine {
    /// Takes the machine that tests share, with nothing running.
    pub(crate) fn take() -> Self {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let dir = std::env::var("PODKEEPER_TEST_MACHINE").expect("run this through hack/test");
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !std::mem::replace(&mut *installed, true);
        let machine = Self {
            dir: dir.into(),
            kind: Kind::Shared { _mine: installed },
        };
        if first {
            machine.install();
        }
        // A test that failed has left what it changed.
        machine.does(
            "systemctl disable --now podkeeper nginx; \
             rm -rf /etc/systemd/system/podkeeper.service.d /etc/podkeeper /etc/kubelet.d; \
             systemctl daemon-reload && mkdir -p /etc/podkeeper/manifests",
        );
        machine
    }

    /// Boots a machine of the test's own, with podkeeper installed and not started.
    pub(crate) fn own(options: &[&str]) -> Self {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("podkeeper-machine-").tempdir().unwrap();
        let machine = Self {
            dir: folder.path().join("machine"),
            kind: Kind::Own { _folder: folder },
        };
        machine.control("up", options);
        machine.install();
        machine
    }

    fn script(&self, action: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(project("hack/machine"));
        command.args([action, "--dir"]).arg(&self.dir);
        command.args(arguments).output().unwrap()
    }

    /// Has `hack/machine` do something; gives what it prints.
    pub(crate) fn control(&self, action: &str, arguments: &[&str]) -> String {
        let output = self.script(action, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "hack/machine {action} {arguments:?}: {said}"
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Installs podkeeper as docs/operations.md says for those who do it by hand.
    pub(crate) fn install(&self) {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("podkeeper");
        std::fs::copy(program::PROGRAM, &binary).unwrap();
        // A third of it is enough for a slow machine.
        assert!(
            Command::new("strip")
                .arg(&binary)
                .status()
                .unwrap()
                .success()
        );
        let unit = project("hack/podkeeper.service");
        self.copy(&binary, "/usr/local/bin/");
        self.copy(&unit, "/etc/systemd/system/");
        self.does("systemctl daemon-reload");
    }

    /// Copies a file or folder into it.
    pub(crate) fn copy(&self, file: &Path, path: &str) {
        self.control("put", &[file.to_str().unwrap(), path]);
    }

    /// Runs a shell command there; gives its output, and true if it succeeded.
    pub(crate) fn runs(&self, command: &str) -> (bool, String) {
        let output = self.script("run", &["sh", "-c", command]);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).trim().to_owned(),
        )
    }

    pub(crate) fn does(&self, command: &str) -> String {
        let (good, said) = self.runs(command);
        assert!(good, "{command}\n{said}\n{}", self.journal());
        said
    }

    /// The state of the agent and its last lines.
    pub(crate) fn journal(&self) -> String {
        self.runs(
            "systemctl status podkeeper; podkeeper ps; journalctl -u podkeeper -n 60 --no-pager",
        )
        .1
    }

    pub(crate) fn put(&self, path: &str, text: &str) {
        let quoted = text.replace('\'', "'\\''");
        self.does(&format!(
            "mkdir -p $(dirname {path}) && printf %s '{quoted}' >{path}"
        ));
    }

    /// Puts each of these documents into a folder as a manifest of its own: `0.yaml` and on.
    pub(crate) fn put_manifests(&self, folder: &str, documents: &str) {
        for (number, manifest) in documents.split("---\n").enumerate() {
            self.put(&format!("{folder}/{number}.yaml"), manifest);
        }
    }

    pub(crate) fn wait(&self, what: &str, command: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let (good, said) = self.runs(command);
            if good {
                return said;
            }
            assert!(
                Instant::now() < end,
                "timed out waiting for {what}: {said}\n{}",
                self.journal()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until the Pod runs; gives its containers' ids.
    pub(crate) fn wait_running(&self, pod: &str) -> String {
        self.wait(
            pod,
            &format!(r"podkeeper ps | grep -q '{pod}-.* \([0-9]\)/\1 .* Running'"),
        );
        self.tasks()
    }

    /// The processes of all containers, with their ids.
    pub(crate) fn tasks(&self) -> String {
        self.does("ctr -n k8s.io tasks ls -q | sort")
    }

    /// Waits until no Pod is left, and checks that nothing else is.
    pub(crate) fn wait_gone(&self) {
        self.wait(
            "all Pods to be gone",
            "! podkeeper ps | grep -q podkeeper-machine",
        );
        assert_eq!(self.tasks(), "");
        let left = "ls /var/lib/podkeeper/pods /var/log/pods; \
                    ls -d /sys/fs/cgroup/kubepods*/*-pod* /sys/fs/cgroup/kubepods*/*/*-pod* \
                    /sys/fs/cgroup/kubepods/pod* /sys/fs/cgroup/kubepods/*/pod* \
                    /run/systemd/system.control/kubepods*pod*.slice.d 2>/dev/null; true";
        let left = self.does(left);
        let left: Vec<_> = left
            .lines()
            .filter(|l| !l.is_empty() && !l.ends_with(':'))
            .collect();
        assert_eq!(left, [""; 0]);
    }

    /// Has it boot again by itself, in order or at once, and waits until it has.
    pub(crate) fn boots_again(&self, command: &str) {
        let boot = self.does("cat /proc/sys/kernel/random/boot_id");
        self.runs(command);
        self.wait(
            "another boot",
            &format!("test $(cat /proc/sys/kernel/random/boot_id) != {boot}"),
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.kind, Kind::Own { .. }) {
            self.script("down", &[]);
        }
    }
}

/// A file of the agent's configuration.
pub(crate) fn kubelet(fields: &str) -> String {
    format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}")
}

pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

//! Detection of a kubelet beside the agent: it would kill Pods that it does not know.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the process id of a kubelet that runs in the agent's own PID and mount namespaces, if there is one.
/// A kubelet inside a container belongs to another node.
#[must_use]
pub fn find_beside() -> Option<u32> {
    find_in(Path::new("/proc"), &PathBuf::from("/proc/self"))
}

fn find_in(proc: &Path, own: &Path) -> Option<u32> {
    let entries = fs::read_dir(proc).ok()?.flatten();
    let mut processes = entries.filter_map(|e| {
        let id = e.file_name().to_str()?.parse::<u32>().ok()?;
        Some((id, e.path()))
    });
    let beside = |process: &Path| {
        ["ns/pid", "ns/mnt"].iter().all(|ns| {
            let of = |p: &Path| fs::read_link(p.join(ns)).ok();
            of(process).is_some() && of(process) == of(own)
        })
    };
    let found = processes.find(|(_, process)| is_kubelet(process) && beside(process));
    found.map(|(id, _)| id)
}

/// Returns `true` if a process was started as a kubelet, whatever it calls itself, unless that is podkeeper.
fn is_kubelet(process: &Path) -> bool {
    if fs::read(process.join("comm")).is_ok_and(|name| name == b"podkeeper\n") {
        return false;
    }
    let named = |path: &Path| path.file_name().is_some_and(|name| name == "kubelet");
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let program = line.split(|b| *b == 0).next().unwrap_or_default();
    let program = String::from_utf8_lossy(program);
    let target = fs::read_link(process.join("exe"));
    named(Path::new(program.as_ref())) || target.is_ok_and(|exe| named(&exe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn process(proc: &Path, id: &str, program: &str, namespace: &str) -> PathBuf {
        let process = proc.join(id);
        fs::create_dir_all(process.join("ns")).unwrap();
        fs::write(process.join("cmdline"), format!("{program}\0--flag\0")).unwrap();
        symlink(format!("pid:[{namespace}]"), process.join("ns/pid")).unwrap();
        symlink(format!("mnt:[{namespace}]"), process.join("ns/mnt")).unwrap();
        process
    }

    #[test]
    fn a_kubelet_beside_the_agent_is_found_and_one_in_a_container_is_not() {
        let proc = tempfile::tempdir().unwrap();
        let own = process(proc.path(), "10", "/usr/bin/podkeeper", "1");
        process(proc.path(), "11", "/bin/sh", "1");
        process(proc.path(), "12", "/usr/bin/kubelet", "2");
        process(proc.path(), "13", "/usr/bin/kubelet-helper", "1");
        assert_eq!(find_in(proc.path(), &own), None);
        let ours = process(proc.path(), "9", "/usr/bin/kubelet", "1");
        fs::write(ours.join("comm"), "podkeeper\n").unwrap();
        assert_eq!(find_in(proc.path(), &own), None);
        process(proc.path(), "14", "/usr/local/bin/kubelet", "1");
        assert_eq!(find_in(proc.path(), &own), Some(14));
    }
}

//! The agent on the oldest kernel that it is for, Linux 5.4: a tracer answers system calls of later ones as that kernel
//! does.

#[path = "support/program.rs"]
mod program;
#[path = "support/runtime/mod.rs"]
mod runtime;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::PROGRAM;
use runtime::{Runtime, Settings};

/// System calls that came after Linux 5.4 (`syscalls`(2)). A tracer that does not know one passes over it.
const LATER: [&str; 12] = [
    "openat2",
    "pidfd_getfd",
    "faccessat2",
    "close_range",
    "process_madvise",
    "epoll_pwait2",
    "mount_setattr",
    "quotactl_fd",
    "futex_waitv",
    "fchmodat2",
    "statmount",
    "listmount",
];

/// Ends with the agent, which is its child.
struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        let id = self.0.id().to_string();
        // It may have ended by itself.
        let _ = Command::new("pkill").args(["--parent", &id]).status();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path, calls: &Path) -> Tracer {
    let at = |name: &str| folder.join(name).display().to_string();
    let later = LATER.map(|call| format!("?{call}")).join(",");
    let agent = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "--quiet=all", "--output"])
        .arg(calls)
        .arg(format!("--trace={later}"))
        .arg(format!("--inject={later}:error=ENOSYS"))
        .args([PROGRAM, "run", "--port=0", "--healthz-port=0"])
        .args(["--hostname-override=n", "--file-check-frequency=1s"])
        .args(["--root-dir", &at("root"), "--run-dir", &at("run")])
        .args(["--pod-logs-dir", &at("logs")])
        .args(["--container-logs-dir", &at("links")])
        .args(["--pod-manifest-path", &at("manifests")])
        .args(["--container-runtime-endpoint", &at("cri.sock")])
        .stdin(Stdio::null())
        .spawn();
    Tracer(agent.expect("strace is installed"))
}

async fn wait(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !test() {
        assert!(Instant::now() < end, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
#[ignore = "needs strace, and root to mount"]
async fn volumes_are_mounted_and_removed_on_linux_5_4() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let runtime = Runtime::start(&at("cri.sock"), Settings::containerd_2_1());
    fs::create_dir_all(at("manifests")).unwrap();
    fs::create_dir_all(at("data/real")).unwrap();
    fs::write(at("data/real/file"), "found").unwrap();
    symlink("real", at("data/link")).unwrap();
    symlink("/etc", at("data/out")).unwrap();
    let pod = |name: &str, sub_path: &str| {
        let data = at("data");
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             volumes:\n  - {{name: data, hostPath: {{path: {}}}}}\n  - {{name: own, emptyDir: {{}}}}\n  containers:\n  \
             - name: c\n    image: busybox:1\n    volumeMounts:\n    \
             - {{name: data, mountPath: /data, subPath: {sub_path}}}\n    - {{name: own, mountPath: /own}}\n",
            data.display()
        );
        fs::write(at("manifests").join(format!("{name}.yaml")), manifest).unwrap();
    };
    pod("inside", "link/file");
    pod("made", "link/new/deep");
    pod("outside", "out/passwd");
    let calls = at("calls");
    let tracer = start(folder.path(), &calls);
    let mounted = |pod: &str, path: &str| {
        runtime.look(|state| {
            let newest = state.newest(&format!("{pod}-n"), "c")?;
            let mounts = newest.config.mounts.iter();
            let mut found = mounts.filter(|mount| mount.container_path == path);
            Some(found.next()?.host_path.clone())
        })
    };
    for pod in ["inside", "made"] {
        wait(pod, || mounted(pod, "/data").is_some()).await;
    }
    let file = mounted("inside", "/data").unwrap();
    assert_eq!(fs::read_to_string(file).unwrap(), "found");
    assert!(at("data/real/new/deep").is_dir());
    assert_eq!(mounted("outside", "/data"), None);
    // A container dug here.
    let own = mounted("inside", "/own").unwrap();
    fs::create_dir_all(Path::new(&own).join("d/".repeat(300))).unwrap();
    for pod in ["inside", "made", "outside"] {
        fs::remove_file(at("manifests").join(format!("{pod}.yaml"))).unwrap();
    }
    let is_empty =
        |name: &str| fs::read_dir(at("root").join(name)).is_ok_and(|mut all| all.next().is_none());
    wait("the Pods' folders to be removed", || is_empty("pods")).await;
    assert!(
        at("data/real/file").exists(),
        "nothing of the node's is removed"
    );
    drop(tracer);
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.contains("openat2("), "{calls}");
}

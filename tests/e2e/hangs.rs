//! A network or a mount that does not answer holds up its own Pod and nobody else.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};

super::on_each_containerd!(
    a_network_that_hangs_holds_up_nobody_else,
    a_pod_whose_network_hangs_follows_its_manifest,
    a_host_path_that_hangs_in_an_update_leaves_the_old_version_supervised,
    a_host_path_that_hangs_holds_up_nobody_else,
);

/// Less than any call that hangs may take.
const SOON: Duration = Duration::from_secs(30);

/// Pods whose network hangs, until this is dropped.
struct Held(Vec<PathBuf>);

impl Held {
    fn new(node: &Node, pods: &[&str]) -> Self {
        let hold = node.runtime_dir.join("cni/hold");
        let files = pods.iter().map(|pod| hold.join(node.full_name(pod)));
        let files: Vec<PathBuf> = files.collect();
        for file in &files {
            fs::write(file, "").unwrap();
        }
        Self(files)
    }

    /// Waits until the network of all of them hangs.
    async fn wait(&self, node: &Node) {
        let waits = |file: &PathBuf| file.with_extension("waits").exists();
        node.wait_until("the networks hang", async || self.0.iter().all(waits))
            .await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for file in &self.0 {
            // One that never waited has no second file.
            let _ = fs::remove_file(file);
            let _ = fs::remove_file(file.with_extension("waits"));
        }
    }
}

/// A mount on which every look waits until this is dropped.
struct DeadMount {
    path: PathBuf,
    _connection: File,
}

impl DeadMount {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let connection = fuse.unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            connection.as_raw_fd()
        );
        let options = CString::new(options).unwrap();
        let flags = MountFlags::empty();
        mount("dead", path, "fuse", flags, options.as_c_str()).unwrap();
        Self {
            path: path.to_owned(),
            _connection: connection,
        }
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // What hangs ends with the connection, which is closed next.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Pods that run before anything hangs.
async fn others_run(node: &mut Node) {
    node.patience = SOON;
    node.flag("runtime-concurrency", "2");
    for name in ["killed", "edited", "removed"] {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    node.start_agent();
    for name in ["killed", "edited", "removed"] {
        node.wait_running(name).await;
    }
}

/// Kills, edits and removes them, and starts one on the host's network.
async fn others_do_not_notice(node: &Node) {
    let host = pod_with("host", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("host.yaml", &host);
    node.wait_running("host").await;
    let killed = node.wait_running("killed").await;
    node.kill_container(&killed.id).await;
    node.wait_after("killed", &killed).await;
    let edited = node.wait_running("edited").await;
    let grace = pod_with(
        "edited",
        BUSYBOX,
        FOREVER,
        "  terminationGracePeriodSeconds: 3\n",
    );
    node.put("edited.yaml", &grace);
    node.wait_after("edited", &edited).await;
    node.remove("removed.yaml");
    node.wait_until("it is removed", async || {
        node.report("removed").await.is_none()
    })
    .await;
}

async fn a_network_that_hangs_holds_up_nobody_else(mut node: Node) {
    others_run(&mut node).await;
    let hanging = ["h0", "h1", "h2", "h3"];
    let held = Held::new(&node, &hanging);
    for name in hanging {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
    held.wait(&node).await;
    others_do_not_notice(&node).await;
    // Others that start for the first time come to run as well.
    node.put("late.yaml", &pod("late", FOREVER));
    node.wait_running("late").await;
    drop(held);
    for name in hanging {
        node.wait_running(name).await;
    }
}

async fn a_pod_whose_network_hangs_follows_its_manifest(mut node: Node) {
    node.patience = SOON;
    let held = Held::new(&node, &["removed", "edited"]);
    node.put("removed.yaml", &pod("removed", FOREVER));
    node.put("edited.yaml", &pod("edited", FOREVER));
    node.start_agent();
    held.wait(&node).await;
    node.remove("removed.yaml");
    node.wait_until("it is removed", async || {
        node.report("removed").await.is_none()
    })
    .await;
    let host = pod_with("edited", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("edited.yaml", &host);
    node.wait_running("edited").await;
    node.remove("edited.yaml");
    node.wait_gone().await;
}

async fn a_host_path_that_hangs_in_an_update_leaves_the_old_version_supervised(mut node: Node) {
    node.patience = SOON;
    let dead = DeadMount::new(&node.path("dead"));
    node.put("p.yaml", &pod("p", FOREVER));
    node.start_agent();
    let first = node.wait_running("p").await;
    let uid = node.report("p").await.unwrap().uid;
    let volumes = format!(
        "    volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}, \
         type: Directory}}}}]\n",
        dead.path.display()
    );
    let update = pod_with("p", BUSYBOX, FOREVER, &volumes);
    node.put("p.yaml", &update);
    node.wait_until("the update waits for the mount", async || {
        let report = node.report("p").await;
        let update = report.and_then(|r| r.update);
        let named = |message: &str| message.contains(&dead.path.display().to_string());
        update.is_some_and(|u| u.reason == "FailedMount" && named(&u.message))
    })
    .await;
    node.kill_container(&first.id).await;
    let second = node.wait_after("p", &first).await;
    let report = node.report("p").await.unwrap();
    assert_eq!(report.uid, uid, "the old version runs");
    node.put("p.yaml", &pod("p", FOREVER));
    node.wait_until("the update is taken back", async || {
        node.report("p").await.is_some_and(|r| r.update.is_none())
    })
    .await;
    assert_eq!(node.wait_running("p").await.id, second.id);
    node.put("p.yaml", &update);
    node.wait_until("the update waits again", async || {
        node.report("p").await.is_some_and(|r| r.update.is_some())
    })
    .await;
    node.remove("p.yaml");
    node.wait_gone().await;
}

async fn a_host_path_that_hangs_holds_up_nobody_else(mut node: Node) {
    others_run(&mut node).await;
    let dead = DeadMount::new(&node.path("dead"));
    // One that the agent looks at, and those that the runtime does.
    let volumes = |kind: &str| {
        format!(
            "    volumeMounts: [{{name: v, mountPath: /v}}]\n  volumes: [{{name: v, hostPath: {{path: {}, \
             type: {kind:?}}}}}]\n",
            dead.path.display()
        )
    };
    for (name, kind) in [
        ("h0", ""),
        ("h1", ""),
        ("h2", ""),
        ("h3", "DirectoryOrCreate"),
    ] {
        let hanging = pod_with(name, BUSYBOX, FOREVER, &volumes(kind));
        node.put(&format!("{name}.yaml"), &hanging);
    }
    node.wait_until("a container hangs", async || {
        node.log().matches("CreateContainer").count() > 0 || node.sandboxes().await.len() >= 6
    })
    .await;
    others_do_not_notice(&node).await;
    for name in ["h0", "h1", "h2", "h3"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_until("they are removed", async || {
        let pods = node.status().await.pods;
        !pods
            .iter()
            .any(|p| p.name.starts_with('h') && !p.name.starts_with("host"))
    })
    .await;
    drop(dead);
}

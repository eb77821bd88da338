//! A node in trouble: disks that are full or read-only, names that change, networks that come late. What runs runs on,
//! the cause is shown, and all is well again once it is gone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use podkeeper::cri::v1;
use podkeeper::server::{fetch, fetch_status};
use rustix::fs::statvfs;

use super::chaos::{Own, containerd};
use super::mounts::{Mounted, folder};
use super::node::{BUSYBOX, FOREVER, Node, pod, pod_with};
use super::program::PROGRAM;

super::on_each_containerd!(
    a_full_disk_stops_nothing_and_the_pod_that_fills_it_can_be_removed,
    a_disk_without_inodes_stops_nothing_and_the_pod_that_has_them_can_be_removed,
    a_full_log_disk_keeps_no_pod_from_running,
    a_read_only_root_directory_stops_nothing,
    a_network_that_comes_late_is_waited_for,
);

mod on_one {
    super::super::on_containerd!(
        "2.1": a_full_disk_of_the_runtime_stops_nothing,
        the_name_of_the_host_is_that_of_the_agents_start,
        new_pods_take_the_hosts_resolver_configuration_as_it_is,
        containers_on_the_host_network_take_the_hosts_file_as_it_is
    );
}

const FULL: &str = "No space left on device";
const READ_ONLY: &str = "Read-only file system";

/// Another version of a Pod.
fn edited(name: &str) -> String {
    let env = "    env: [{name: VERSION, value: '2'}]\n";
    pod_with(name, BUSYBOX, FOREVER, env)
}

/// A Pod that runs this without end, with a volume of its own on `/v`.
fn filler(command: &str) -> String {
    let script = format!("trap 'exit 0' TERM; while :; do {command}; sleep 0.1; done 2>/dev/null");
    let volume =
        "    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, emptyDir: {}}]\n";
    pod_with("filler", BUSYBOX, &script, volume)
}

fn put_all(node: &Node, pods: &[&str]) {
    for name in pods {
        node.put(&format!("{name}.yaml"), &pod(name, FOREVER));
    }
}

async fn remove_all(node: &Node, pods: &[&str]) {
    for name in pods {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}

async fn wait_all(node: &Node, pods: &[&str]) -> Vec<v1::Container> {
    let mut running = vec![];
    for name in pods {
        running.push(node.wait_running(name).await);
    }
    running
}

/// Waits until the Pod's message has all these words.
async fn wait_message(node: &Node, pod: &str, words: &[&str]) {
    node.wait_until(&format!("{pod} says {words:?}"), async || {
        let report = node.report(pod).await.unwrap_or_default();
        words.iter().all(|word| report.message.contains(word))
    })
    .await;
    let ps = node.ps();
    assert!(words.iter().all(|word| ps.contains(word)), "{ps}");
}

/// Waits until the update of a Pod waits, with all these words.
async fn wait_update(node: &Node, pod: &str, words: &[&str]) {
    node.wait_until(&format!("the update of {pod} says {words:?}"), async || {
        let update = node.report(pod).await.and_then(|r| r.update);
        let message = update.map(|u| u.message).unwrap_or_default();
        words.iter().all(|word| message.contains(word))
    })
    .await;
}

async fn is_the_same(node: &Node, pod: &str, container: &v1::Container) {
    let now = node.running_one(pod, "c").await;
    assert_eq!(now.map(|c| c.id).as_ref(), Some(&container.id), "{pod}");
}

/// Promises about a root directory without room, whatever the Pod `filler` takes all of.
async fn without_room(node: &mut Node, fill: &str, is_full: fn(&Path) -> bool, words: &[&str]) {
    let root = node.path("root");
    put_all(node, &["web", "edit", "dies"]);
    node.start_agent();
    let running = wait_all(node, &["web", "edit", "dies"]).await;
    node.put("filler.yaml", &filler(fill));
    node.wait_until("nothing is left", async || is_full(&root))
        .await;
    let here = root.display().to_string();
    let words: Vec<&str> = words.iter().copied().chain([&*here]).collect();
    // New Pods wait, and so do updates, with what they wait for.
    put_all(node, &["new"]);
    node.put("edit.yaml", &edited("edit"));
    for _ in 0..2 {
        wait_message(node, "new", &words).await;
        wait_update(node, "edit", &words).await;
        is_the_same(node, "web", &running[0]).await;
        is_the_same(node, "edit", &running[1]).await;
        // The next agent knows no less.
        node.kill_agent();
        node.start_agent();
    }
    // What ends is started again.
    node.kill_container(&running[2].id).await;
    let again = node.wait_after("dies", &running[2]).await;
    assert_eq!(again.metadata.unwrap().attempt, 1);
    // Nothing of it can be written, and it is stopped all the same.
    node.remove("filler.yaml");
    wait_all(node, &["new"]).await;
    node.wait_after("edit", &running[1]).await;
    is_the_same(node, "web", &running[0]).await;
    remove_all(node, &["web", "edit", "dies", "new"]).await;
    node.kill_agent();
}

async fn a_full_disk_stops_nothing_and_the_pod_that_fills_it_can_be_removed(mut node: Node) {
    let mounted = Mounted::small(&folder(node.path("root")), c"size=2m");
    let is_full = |root: &Path| statvfs(root).unwrap().f_bavail == 0;
    without_room(&mut node, "cat /dev/zero >> /v/fill", is_full, &[FULL]).await;
    drop(mounted);
}

async fn a_disk_without_inodes_stops_nothing_and_the_pod_that_has_them_can_be_removed(
    mut node: Node,
) {
    let mounted = Mounted::small(&folder(node.path("root")), c"size=4m,nr_inodes=150");
    let is_full = |root: &Path| statvfs(root).unwrap().f_favail == 0;
    let fill = "i=0; while [ -e /v/$i ] || : > /v/$i; do i=$((i+1)); done";
    without_room(&mut node, fill, is_full, &["free inodes"]).await;
    drop(mounted);
}

async fn a_full_log_disk_keeps_no_pod_from_running(mut node: Node) {
    let logs = folder(node.path("logs"));
    let mounted = Mounted::small(&logs, c"size=2m");
    let ticks = "trap 'exit 0' TERM; while :; do echo tick; sleep 0.1; done";
    node.put("ticks.yaml", &pod("ticks", ticks));
    put_all(&node, &["web", "edit"]);
    node.start_agent();
    let running = wait_all(&node, &["web", "edit", "ticks"]).await;
    // In long lines: containerd logs each one that it cannot write.
    let flood = "trap 'exit 0' TERM; while :; do dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' x; sleep 0.5; done";
    node.put("flood.yaml", &pod("flood", flood));
    node.wait_until("nothing is left", async || {
        statvfs(&logs).unwrap().f_bavail == 0
    })
    .await;
    put_all(&node, &["new"]);
    node.put("edit.yaml", &edited("edit"));
    wait_all(&node, &["new"]).await;
    node.wait_after("edit", &running[1]).await;
    node.kill_container(&running[0].id).await;
    node.wait_after("web", &running[0]).await;
    node.kill_agent();
    node.start_agent();
    node.remove("flood.yaml");
    node.wait_until("there is room again", async || {
        statvfs(&logs).unwrap().f_bavail > 0
    })
    .await;
    let report = node
        .wait("the agent is back", async || node.report("ticks").await)
        .await;
    let name = format!("default_{}_{}/c/0.log", node.full_name("ticks"), report.uid);
    let log = logs.join(name);
    let length = || fs::metadata(&log).map_or(0, |found| found.len());
    let before = length();
    node.wait_until("logs go on", async || length() > before)
        .await;
    is_the_same(&node, "ticks", &running[2]).await;
    remove_all(&node, &["web", "edit", "ticks", "new"]).await;
    node.kill_agent();
    drop(mounted);
}

async fn a_full_disk_of_the_runtime_stops_nothing(mut node: Node) {
    let root = folder(node.path("containerd/root"));
    let mounted = Mounted::small(&root, c"size=64m");
    let own = Own::start(&mut node);
    put_all(&node, &["web"]);
    node.start_agent();
    let running = wait_all(&node, &["web"]).await;
    let ballast = root.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    put_all(&node, &["new"]);
    wait_message(&node, "new", &["no space left on device"]).await;
    node.kill_agent();
    node.start_agent();
    wait_message(&node, "new", &["no space left on device"]).await;
    is_the_same(&node, "web", &running[0]).await;
    fs::remove_file(&ballast).unwrap();
    drop(file);
    wait_all(&node, &["new"]).await;
    is_the_same(&node, "web", &running[0]).await;
    remove_all(&node, &["web", "new"]).await;
    node.kill_agent();
    drop(own);
    drop(mounted);
}

async fn a_read_only_root_directory_stops_nothing(mut node: Node) {
    put_all(&node, &["web", "edit", "dies", "gone"]);
    node.start_agent();
    let running = wait_all(&node, &["web", "edit", "dies", "gone"]).await;
    let root = node.path("root");
    let mounted = Mounted::read_only(&root);
    put_all(&node, &["new"]);
    node.put("edit.yaml", &edited("edit"));
    let here = root.display().to_string();
    for _ in 0..2 {
        wait_message(&node, "new", &[READ_ONLY, &here]).await;
        wait_update(&node, "edit", &[READ_ONLY, &here]).await;
        is_the_same(&node, "web", &running[0]).await;
        is_the_same(&node, "edit", &running[1]).await;
        // The next agent starts, and two do not run at a time.
        node.kill_agent();
        node.start_agent();
    }
    node.wait_until("it says so", async || {
        node.log_lines_with("Root directory is read-only") > 0
    })
    .await;
    node.kill_container(&running[2].id).await;
    node.wait_after("dies", &running[2]).await;
    // Its processes end, and its files stay until they can be removed.
    node.remove("gone.yaml");
    node.wait_until("it has stopped", async || {
        node.running_one("gone", "c").await.is_none()
    })
    .await;
    wait_message(&node, "gone", &[READ_ONLY, &here]).await;
    drop(mounted);
    node.patience *= 2;
    wait_all(&node, &["new"]).await;
    node.wait_after("edit", &running[1]).await;
    is_the_same(&node, "web", &running[0]).await;
    remove_all(&node, &["web", "edit", "dies", "new"]).await;
}

async fn a_network_that_comes_late_is_waited_for(mut node: Node) {
    let own = Own::start(&mut node);
    let dir = node.runtime_dir.clone();
    let configuration = dir.join("cni/conf/10-podkeeper.conflist");
    let good = fs::read_to_string(&configuration).unwrap();
    containerd(&["kill"], &dir);
    fs::remove_file(&configuration).unwrap();
    containerd(&["start"], &dir);
    let on_host = pod_with("host", BUSYBOX, FOREVER, "  hostNetwork: true\n");
    node.put("host.yaml", &on_host);
    put_all(&node, &["web"]);
    node.start_agent();
    let host = node.wait_running("host").await;
    wait_message(&node, "web", &["no network configuration (CNI)"]).await;
    assert!(node.report("web").await.unwrap().ips.is_empty());
    // Written in place: containerd does not notice a file that is renamed into the folder.
    fs::write(&configuration, &good).unwrap();
    let web = node.wait_running("web").await;
    // A change that is broken is nothing to what runs.
    let broken = good.replace("\"podkeeper-bridge\"", "\"no-such-plugin\"");
    fs::write(&configuration, broken).unwrap();
    node.put("new.yaml", &pod("new", FOREVER));
    wait_message(&node, "new", &["no-such-plugin"]).await;
    is_the_same(&node, "web", &web).await;
    // It is logged as one problem, although each try has another sandbox.
    node.wait_until("it is tried again", async || tries(&node, "new").await > 2)
        .await;
    let logged = node.log();
    let of_start = |line: &&str| {
        line.contains("reason=\"FailedCreatePodSandBox\"") && line.contains("no-such-plugin")
    };
    let lines = logged.lines().filter(of_start);
    assert_eq!(lines.count(), 1, "{logged}");
    fs::write(&configuration, &good).unwrap();
    wait_all(&node, &["new"]).await;
    is_the_same(&node, "web", &web).await;
    is_the_same(&node, "host", &host).await;
    remove_all(&node, &["web", "new", "host"]).await;
    node.kill_agent();
    drop(own);
}

/// Returns the number of times that the sandbox of a Pod failed.
async fn tries(node: &Node, pod: &str) -> u32 {
    let events = fetch(&node.path("run"), "/v1/events").await;
    let events: Vec<podkeeper::pod::events::Event> = events.unwrap_or_default();
    let name = node.full_name(pod);
    let own = events
        .iter()
        .filter(|e| e.reason == "FailedCreatePodSandBox" && e.name == name);
    own.map(|e| e.count).sum()
}

/// Has the agent run under a host name of its own, without `--hostname-override`; what the test does to the name is
/// the agent's alone.
fn with_host_name(node: &mut Node) {
    let script = format!(
        "#!/bin/sh\n\
         [ \"$IN\" ] || IN=1 exec unshare --uts \"$0\" \"$@\"\n\
         hostname {name}\n\
         for word; do\n\
           shift\n\
           [ \"$word\" = --hostname-override ] || [ \"$word\" = {name} ] || set -- \"$@\" \"$word\"\n\
         done\n\
         exec {PROGRAM} \"$@\"\n",
        name = node.name
    );
    set_program(node, &script);
}

/// Has this script start the agent.
fn set_program(node: &mut Node, script: &str) {
    let program = node.path("program");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    node.program = program;
}

async fn the_name_of_the_host_is_that_of_the_agents_start(mut node: Node) {
    with_host_name(&mut node);
    put_all(&node, &["web", "edit"]);
    node.start_agent();
    let running = wait_all(&node, &["web", "edit"]).await;
    let agent = node.agent_id().to_string();
    let renamed = Command::new("nsenter")
        .args(["--uts", "--target", &agent, "hostname", "another-name"])
        .status();
    assert!(renamed.unwrap().success());
    put_all(&node, &["new"]);
    node.put("edit.yaml", &edited("edit"));
    // All are found under the name of before.
    wait_all(&node, &["new"]).await;
    node.wait_after("edit", &running[1]).await;
    is_the_same(&node, "web", &running[0]).await;
    remove_all(&node, &["web", "edit", "new"]).await;
}

async fn new_pods_take_the_hosts_resolver_configuration_as_it_is(mut node: Node) {
    let path = node.path("resolv.conf");
    let write = |text: &str| {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
    };
    write("nameserver 192.0.2.1\n");
    node.flag("resolv-conf", &path.display().to_string());
    put_all(&node, &["web"]);
    node.start_agent();
    let web = node.wait_running("web").await;
    let cases = [
        ("moved", "nameserver 192.0.2.2\n", "192.0.2.2"),
        ("garbage", "\0\u{1}\u{7f} garbage\nnameserver\n", ""),
        ("empty", "", ""),
    ];
    for (name, text, server) in cases {
        write(text);
        put_all(&node, &[name]);
        let id = node.wait_running(name).await.id;
        let found = node.sh(&id, "cat /etc/resolv.conf").await;
        let servers = found.lines().filter(|l| l.starts_with("nameserver "));
        let servers: Vec<&str> = servers
            .map(|l| l.trim_start_matches("nameserver "))
            .collect();
        assert_eq!(servers.join(" "), server, "{name}: {found}");
    }
    // Without any, new Pods wait for one, and containers are started again in those that have theirs.
    fs::remove_file(&path).unwrap();
    put_all(&node, &["waits"]);
    wait_message(
        &node,
        "waits",
        &["--resolv-conf", &path.display().to_string()],
    )
    .await;
    node.kill_container(&web.id).await;
    let again = node.wait_after("web", &web).await;
    let found = node.sh(&again.id, "cat /etc/resolv.conf").await;
    assert!(found.contains("192.0.2.1"), "{found}");
    write("nameserver 192.0.2.3\n");
    let waits = node.wait_running("waits").await;
    let found = node.sh(&waits.id, "cat /etc/resolv.conf").await;
    assert!(found.contains("192.0.2.3"), "{found}");
    remove_all(&node, &["web", "moved", "garbage", "empty", "waits"]).await;
}

/// Has the agent see an `/etc` of its own, through which the test replaces files. Its mounts are its own too.
fn with_own_etc(node: &mut Node) {
    let upper = folder(node.path("etc"));
    let script = format!(
        "#!/bin/sh -e\n\
         [ \"$IN\" ] || IN=1 exec unshare --mount --propagation slave \"$0\" \"$@\"\n\
         mount -t tmpfs tests {upper}\n\
         mkdir {upper}/upper {upper}/work\n\
         mount -t overlay tests -o lowerdir=/etc,upperdir={upper}/upper,workdir={upper}/work /etc\n\
         exec {PROGRAM} \"$@\"\n",
        upper = upper.display()
    );
    set_program(node, &script);
}

async fn containers_on_the_host_network_take_the_hosts_file_as_it_is(mut node: Node) {
    with_own_etc(&mut node);
    node.start_agent();
    node.wait_until("the agent has its own files", async || {
        fetch_status(&node.path("run")).await.is_ok()
    })
    .await;
    let etc = format!("/proc/{}/root/etc", node.agent_id());
    let (hosts, new) = (format!("{etc}/hosts"), format!("{etc}/hosts.new"));
    let cases = [
        ("moved", Some("192.0.2.7 moved\n"), "192.0.2.7"),
        ("garbage", Some("\0\u{1}\u{7f} garbage\n"), "garbage"),
        ("empty", Some(""), ""),
        ("gone", None, ""),
    ];
    for (name, text, found) in cases {
        match text {
            Some(text) => {
                fs::write(&new, text).unwrap();
                fs::rename(&new, &hosts).unwrap();
            }
            None => fs::remove_file(&hosts).unwrap(),
        }
        let on_host = pod_with(name, BUSYBOX, FOREVER, "  hostNetwork: true\n");
        node.put(&format!("{name}.yaml"), &on_host);
        let id = node.wait_running(name).await.id;
        let file = node.sh(&id, "cat /etc/hosts").await;
        assert!(file.contains(found), "{name}: {file}");
        assert!(name == "moved" || !file.contains("192.0.2.7"), "{file}");
    }
    remove_all(&node, &["moved", "garbage", "empty", "gone"]).await;
}

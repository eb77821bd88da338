//! Requests and limits as cgroups have them, on cgroup v1 and v2 alike.

use std::fs;
use std::path::{Path, PathBuf};

use super::node::{Node, cgroups_with, manifest};

super::on_each_containerd!(
    pods_and_containers_have_the_limits_and_the_class_of_their_requests,
    a_container_that_takes_more_memory_than_it_may_is_killed,
);

/// A Pod's cgroup in the hierarchy of a controller.
fn cgroup(uid: &str, controller: &str) -> PathBuf {
    let all = cgroups_with(&format!("pod{uid}"));
    let mut own = all
        .into_iter()
        .filter(|path| path.ends_with(format!("pod{uid}")));
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let wanted = Path::new("/sys/fs/cgroup").join(controller);
    let found = own.find(|path| unified || path.starts_with(&wanted));
    found.unwrap_or_else(|| panic!("{uid} has no cgroup of {controller}"))
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The memory limit of a cgroup in bytes, if it has one.
fn memory(group: &Path) -> Option<u64> {
    let (old, new) = (
        group.join("memory.limit_in_bytes"),
        group.join("memory.max"),
    );
    let limit: u64 = read(&old).or_else(|| read(&new))?.parse().ok()?;
    // Without a limit cgroup v1 has the largest number of whole pages.
    (limit < 1 << 60).then_some(limit)
}

/// The CPU time in microseconds that a cgroup may take of 100 ms, if it is limited.
fn quota(group: &Path) -> Option<i64> {
    let old = read(&group.join("cpu.cfs_quota_us"));
    let new = || Some(read(&group.join("cpu.max"))?.split(' ').next()?.to_owned());
    old.or_else(new)?.parse().ok().filter(|quota| *quota > 0)
}

/// The CPU shares of a cgroup, or the weight that runtimes make of them.
fn shares(group: &Path) -> i64 {
    let (old, new) = (group.join("cpu.shares"), group.join("cpu.weight"));
    read(&old).or_else(|| read(&new)).unwrap().parse().unwrap()
}

fn shares_of(milli: i64) -> i64 {
    let shares = (milli * 1024 / 1000).max(2);
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        1 + (shares - 2) * 9999 / 262_142
    } else {
        shares
    }
}

const MI: u64 = 1 << 20;

async fn pods_and_containers_have_the_limits_and_the_class_of_their_requests(mut node: Node) {
    let container = |name: &str, resources: &str| {
        format!(
            "  - name: {name}\n    image: $BUSYBOX\n    command: $FOREVER\n    resources: {resources}\n"
        )
    };
    let guaranteed = container("c", "{limits: {cpu: 300m, memory: 64Mi}}");
    let guaranteed = guaranteed + &container("d", "{limits: {cpu: 200m, memory: 32Mi}}");
    let burstable = container(
        "c",
        "{requests: {cpu: 100m, memory: 512Mi}, limits: {memory: 1Gi}}",
    );
    let burstable = burstable + &container("d", "{}");
    for (name, containers) in [
        ("guaranteed", guaranteed),
        ("burstable", burstable),
        ("effort", container("c", "{}")),
    ] {
        let text = manifest(name, &format!("  containers:\n{containers}"));
        node.put(&format!("{name}.yaml"), &text);
    }
    node.start_agent();
    let own = parse_score("/proc/self/oom_score_adj");
    let capacity = fs::read_to_string("/proc/meminfo").unwrap();
    let capacity = capacity
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<i64>()
        .unwrap()
        << 10;
    let score = 1000 - 1000 * (512 << 20) / capacity;
    let mut uids = vec![];
    // The Pod's class, shares, quota and memory, then the same of its container, and its score.
    for (name, class, pod, container, score) in [
        (
            "guaranteed",
            "kubepods",
            (500, Some(50_000), Some(96 * MI)),
            (300, Some(30_000), Some(64 * MI)),
            -997,
        ),
        (
            "burstable",
            "burstable",
            (100, None, None),
            (100, None, Some(1024 * MI)),
            score,
        ),
        (
            "effort",
            "besteffort",
            (0, None, None),
            (0, None, None),
            1000,
        ),
    ] {
        let running = node.wait_running(name).await;
        let uid = node.report(name).await.unwrap().uid;
        for (controller, below) in [
            ("cpu", None),
            ("memory", None),
            ("cpu", Some(())),
            ("memory", Some(())),
        ] {
            let mut group = cgroup(&uid, controller);
            let around = group
                .parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap();
            assert!(around.contains(class), "{}", group.display());
            let (milli, cpu, bytes) = if below.is_some() { container } else { pod };
            if below.is_some() {
                group.push(&running.id);
            }
            if controller == "cpu" {
                assert_eq!(
                    (shares(&group), quota(&group)),
                    (shares_of(milli), cpu),
                    "{}",
                    group.display()
                );
            } else {
                assert_eq!(memory(&group), bytes, "{}", group.display());
            }
        }
        // The tests' containerd may not make processes dearer than it is itself.
        let process = node.process(&running.id).await;
        let found = parse_score(&format!("/proc/{process}/oom_score_adj"));
        assert_eq!(found, score.max(own), "{name}");
        uids.push(uid);
    }
    for name in ["guaranteed", "burstable", "effort"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
    for uid in uids {
        assert_eq!(cgroups_with(&uid), Vec::<PathBuf>::new());
    }
}

fn parse_score(path: &str) -> i64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

async fn a_container_that_takes_more_memory_than_it_may_is_killed(mut node: Node) {
    let spec = r"
  restartPolicy: Never
  containers:
  - name: c
    image: $BUSYBOX
    command: [dd, if=/dev/zero, of=/dev/null, bs=100M, count=1]
    resources: {limits: {memory: 16Mi}}
";
    node.put("greedy.yaml", &manifest("greedy", spec));
    node.start_agent();
    let report = node.wait_reason("greedy", "OOMKilled").await;
    assert_eq!(report.phase, "Failed");
    assert_eq!(report.containers[0].last_exit_code, Some(137));
    node.remove("greedy.yaml");
    node.wait_gone().await;
}

//! Requests and limits as cgroups have them, on cgroup v1 and v2 alike.

use std::fs;
use std::path::{Path, PathBuf};

use super::node::{FOREVER, Node, cgroups_with, manifest, pod};

super::on_each_containerd!(
    pods_and_containers_have_the_limits_and_the_class_of_their_requests,
    a_container_that_takes_more_memory_than_it_may_is_killed,
    below_a_cgroup_root_pods_have_their_limit_of_processes,
);

/// A Pod's own one of its cgroups, in the hierarchy of a controller.
fn own(groups: &[PathBuf], uid: &str, controller: &str) -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let wanted = Path::new("/sys/fs/cgroup").join(controller);
    let is_own = |path: &&PathBuf| {
        path.ends_with(format!("pod{uid}")) && (unified || path.starts_with(&wanted))
    };
    let found = groups.iter().find(is_own).cloned();
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

/// What a cgroup is to have: thousandths of a CPU that its shares stand for, the quota, and memory.
type Limits = (i64, Option<i64>, Option<u64>);

struct Expected {
    pod: &'static str,
    /// The folder that the Pod's cgroup stands in.
    class: &'static str,
    /// The Pod's own.
    whole: Limits,
    /// The container's.
    container: Limits,
    score: i64,
}

async fn check(node: &Node, expected: &Expected) -> String {
    let running = node.wait_running(expected.pod).await;
    let uid = node.report(expected.pod).await.unwrap().uid;
    let groups = cgroups_with(&format!("pod{uid}"));
    for (below, (milli, cpu, bytes)) in [("", expected.whole), (&*running.id, expected.container)] {
        let [cpu_group, memory_group] =
            ["cpu", "memory"].map(|c| own(&groups, &uid, c).join(below));
        let pod = expected.pod;
        assert_eq!(shares(&cpu_group), shares_of(milli), "{pod} {below}");
        assert_eq!(quota(&cpu_group), cpu, "{pod} {below}");
        assert_eq!(memory(&memory_group), bytes, "{pod} {below}");
    }
    let around = own(&groups, &uid, "memory").parent().unwrap().to_owned();
    assert!(around.ends_with(expected.class), "{}", around.display());
    // The tests' containerd makes no process dearer to the kernel than it is itself.
    let own = score("/proc/self/oom_score_adj");
    let process = node.process(&running.id).await;
    let found = score(&format!("/proc/{process}/oom_score_adj"));
    assert_eq!(found, expected.score.max(own), "{}", expected.pod);
    uid
}

fn memory_capacity() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    text.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<i64>()
        .unwrap()
        << 10
}

async fn pods_and_containers_have_the_limits_and_the_class_of_their_requests(mut node: Node) {
    let container = |name: &str, resources: &str| {
        let image = "image: $BUSYBOX, command: $FOREVER";
        format!("  - {{name: {name}, {image}, resources: {{{resources}}}}}\n")
    };
    for (name, containers) in [
        (
            "guaranteed",
            [
                container("c", "limits: {cpu: 300m, memory: 64Mi}"),
                container("d", "limits: {cpu: 200m, memory: 32Mi}"),
            ]
            .concat(),
        ),
        (
            "burstable",
            [
                container(
                    "c",
                    "requests: {cpu: 100m, memory: 512Mi}, limits: {memory: 1Gi}",
                ),
                container("d", ""),
            ]
            .concat(),
        ),
        ("effort", container("c", "")),
        (
            "whole",
            container("c", "") + "  resources: {limits: {cpu: 400m, memory: 80Mi}}\n",
        ),
    ] {
        let text = manifest(name, &format!("  containers:\n{containers}"));
        node.put(&format!("{name}.yaml"), &text);
    }
    node.start_agent();
    let mut uids = vec![];
    for expected in [
        Expected {
            pod: "guaranteed",
            class: "kubepods",
            whole: (500, Some(50_000), Some(96 * MI)),
            container: (300, Some(30_000), Some(64 * MI)),
            score: -997,
        },
        Expected {
            pod: "burstable",
            class: "kubepods/burstable",
            whole: (100, None, None),
            container: (100, None, Some(1024 * MI)),
            score: 1000 - 1000 * (512 << 20) / memory_capacity(),
        },
        Expected {
            pod: "effort",
            class: "kubepods/besteffort",
            whole: (0, None, None),
            container: (0, None, None),
            score: 1000,
        },
        Expected {
            pod: "whole",
            class: "kubepods",
            whole: (400, Some(40_000), Some(80 * MI)),
            container: (400, Some(40_000), Some(80 * MI)),
            score: -997,
        },
    ] {
        uids.push(check(&node, &expected).await);
    }
    for name in ["guaranteed", "burstable", "effort", "whole"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
    for uid in uids {
        assert_eq!(cgroups_with(&uid), Vec::<PathBuf>::new());
    }
}

fn score(path: &str) -> i64 {
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
    let report = node
        .wait("it is over", async || {
            node.report("greedy").await.filter(|r| r.phase == "Failed")
        })
        .await;
    // By the kernel's SIGKILL. Whether the runtime knows why by then is its own matter.
    assert_eq!(report.containers[0].last_exit_code, Some(137));
    node.remove("greedy.yaml");
    node.wait_gone().await;
}

async fn below_a_cgroup_root_pods_have_their_limit_of_processes(mut node: Node) {
    let root = format!("podkeeper-{}", node.name);
    node.flag("cgroup-root", &format!("/{root}"));
    node.flag("pod-max-pids", "50");
    node.put("web.yaml", &pod("web", FOREVER));
    node.start_agent();
    let running = node.wait_running("web").await;
    let uid = running.labels["io.kubernetes.pod.uid"].clone();
    let groups = cgroups_with(&format!("pod{uid}"));
    let group = own(&groups, &uid, "pids");
    let place = format!("{root}/kubepods/besteffort/pod{uid}");
    assert!(group.ends_with(&place), "{}", group.display());
    assert_eq!(read(&group.join("pids.max")).unwrap(), "50");
    let process = node.process(&running.id).await;
    let its_own = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    assert!(its_own.contains(&format!("/{place}/")), "{its_own}");

    node.remove("web.yaml");
    node.wait_gone().await;
    node.wait_until("no cgroup is left", async || cgroups_with(&uid).is_empty())
        .await;
    assert!(node.end_agent().is_some());
    for group in cgroups_with(&root).iter().rev() {
        fs::remove_dir(group).unwrap();
    }
    assert_eq!(cgroups_with(&root), Vec::<PathBuf>::new());
}

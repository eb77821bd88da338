//! Security contexts as the containers' own processes have them.

use std::fs;

use podkeeper::cri::v1;

use super::node::{BUSYBOX, FOREVER, Node, manifest, pod_with};

super::on_each_containerd!(
    processes_are_who_and_may_do_what_the_pod_says,
    profiles_of_seccomp_are_in_force,
    what_must_not_be_root_is_not,
    groups_of_the_image_count_unless_the_pod_says_otherwise,
    a_pod_has_users_of_its_own_where_the_runtime_can_give_them,
);

/// Where the runtime can.
mod v2_4 {
    super::super::on_containerd!("2.4": a_pod_has_users_of_its_own_where_the_runtime_can_give_them);
}

/// Those that containers have by default: the fourteen of containerd and Docker.
const DEFAULT: u64 = 0xa804_25fb;
const NET_RAW: u64 = 1 << 13;
const SYS_TIME: u64 = 1 << 25;
const NET_BIND_SERVICE: u64 = 1 << 10;

/// A field of a `/proc/PID/status`, its words separated by single blanks.
fn field(status: &str, name: &str) -> String {
    let mut lines = status.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let rest = rest.unwrap_or_else(|| panic!("there is no {name} in {status}"));
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn mask(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&field(status, name), 16).unwrap()
}

/// The `/proc/PID/status` of a container's first process, as it sees it itself.
async fn status(node: &Node, pod: &str, container: &str) -> (String, String) {
    let id = node.wait_container(pod, container).await.id;
    let status = node.exec(&id, &["cat", "/proc/1/status"]).await;
    (id, status)
}

const WHO: &str = r#"
  securityContext:
    runAsUser: 1001
    runAsGroup: 3000
    fsGroup: 2000
    supplementalGroups: [4000, 5000]
    sysctls:
    - {name: net.ipv4.ip_unprivileged_port_start, value: "81"}
    - {name: net.core.somaxconn, value: "77"}
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  - name: root
    image: $BUSYBOX
    command: $FOREVER
    securityContext:
      runAsUser: 0
      runAsGroup: 0
      capabilities: {drop: [NET_RAW], add: [SYS_TIME]}
  - name: privileged
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {privileged: true, runAsUser: 0}
  volumes: [{name: scratch, emptyDir: {}}]
"#;

async fn processes_are_who_and_may_do_what_the_pod_says(mut node: Node) {
    node.put("who.yaml", &manifest("who", WHO));
    node.flag("allowed-unsafe-sysctls", "net.core.*");
    node.start_agent();
    let (id, own) = status(&node, "who", "c").await;
    assert_eq!(field(&own, "Uid"), "1001 1001 1001 1001");
    assert_eq!(field(&own, "Gid"), "3000 3000 3000 3000");
    assert_eq!(field(&own, "Groups"), "2000 3000 4000 5000");
    assert_eq!(mask(&own, "CapBnd"), NET_BIND_SERVICE);
    assert_eq!(field(&own, "NoNewPrivs"), "1");
    let quiet = |script: &str| format!("{{ {script}; }} 2>/dev/null");
    for (script, expected) in [
        ("touch /x || echo refused", "refused"),
        ("touch /scratch/x; stat -c %u.%g /scratch/x", "1001.2000"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81"),
        ("cat /proc/sys/net/core/somaxconn", "77"),
        ("cat /proc/interrupts", ""),
    ] {
        assert_eq!(node.sh(&id, &quiet(script)).await, expected, "{script}");
    }
    let (id, root) = status(&node, "who", "root").await;
    assert_eq!(field(&root, "Uid"), "0 0 0 0");
    assert_eq!(mask(&root, "CapEff"), DEFAULT & !NET_RAW | SYS_TIME);
    assert_eq!(field(&root, "NoNewPrivs"), "0");
    for (script, expected) in [
        ("touch /x && echo written", "written"),
        // What stands below is for the host alone.
        (
            "echo 1 > /proc/sys/vm/drop_caches || echo refused",
            "refused",
        ),
        ("echo h > /proc/sysrq-trigger || echo refused", "refused"),
        ("grep -c ' /sys/firmware ' /proc/mounts", "1"),
        ("test -e /dev/vda -o -e /dev/kmsg || echo none", "none"),
    ] {
        let script = quiet(&format!("{script} || true"));
        assert_eq!(node.sh(&id, &script).await, expected, "{script}");
    }
    let (id, privileged) = status(&node, "who", "privileged").await;
    let here = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(mask(&privileged, "CapEff"), mask(&here, "CapBnd"));
    assert_eq!(field(&privileged, "Seccomp"), "0");
    for (script, expected) in [
        (
            "cat /proc/sys/vm/swappiness > /tmp/s; cat /tmp/s > /proc/sys/vm/swappiness && echo written",
            "written",
        ),
        ("test -e /dev/kmsg && echo there", "there"),
        ("grep -c CPU0 /proc/interrupts", "1"),
        ("mount -t tmpfs none /root && echo mounted", "mounted"),
    ] {
        assert_eq!(node.sh(&id, &quiet(script)).await, expected, "{script}");
    }
    node.remove("who.yaml");
    node.wait_gone().await;
}

const PROFILES: &str = r"
  containers:
  - name: none
    image: $BUSYBOX
    command: $FOREVER
  - name: unconfined
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {seccompProfile: {type: Unconfined}}
  - name: default
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {seccompProfile: {type: RuntimeDefault}}
  - name: own
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: deep/no-folders.json}}
  - name: missing
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: nothing.json}}
";
const NO_FOLDERS: &str = r#"{
  "defaultAction": "SCMP_ACT_ALLOW",
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
}"#;

/// `/proc/PID/status` calls a filter 2, and none 0.
async fn profiles_of_seccomp_are_in_force(mut node: Node) {
    let folder = node.path("root/seccomp/deep");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("no-folders.json"), NO_FOLDERS).unwrap();
    node.put("p.yaml", &manifest("p", PROFILES));
    node.start_agent();
    let script = "mkdir /made && echo made || echo refused";
    for (container, mode, expected) in [
        ("none", "0", "made"),
        ("unconfined", "0", "made"),
        ("default", "2", "made"),
        ("own", "2", "refused"),
    ] {
        let (id, status) = status(&node, "p", container).await;
        assert_eq!(field(&status, "Seccomp"), mode, "{container}");
        let said = node.sh(&id, &format!("{{ {script}; }} 2>/dev/null")).await;
        assert_eq!(said, expected, "{container}");
    }
    node.wait_until("it is said that a profile is missing", async || {
        let report = node.report("p").await.unwrap();
        let missing = report.containers.iter().find(|c| c.name == "missing");
        missing.is_some_and(|c| c.message.contains("nothing.json"))
    })
    .await;
    node.end_agent();
    node.flag("seccomp-default", "true");
    // What runs stays as it is; the next one has the default.
    node.put("q.yaml", &manifest("q", PROFILES));
    node.start_agent();
    for (container, mode) in [("none", "2"), ("unconfined", "0")] {
        let (_, status) = status(&node, "q", container).await;
        assert_eq!(field(&status, "Seccomp"), mode, "{container}");
    }
    node.remove("p.yaml");
    node.remove("q.yaml");
    node.wait_gone().await;
}

const USER: &str = "localhost/podkeeper/user:1000";
const NAMED_USER: &str = "localhost/podkeeper/user:app";

async fn what_must_not_be_root_is_not(mut node: Node) {
    let non_root = "  securityContext: {runAsNonRoot: true}\n";
    let as_user = "  securityContext: {runAsNonRoot: true, runAsUser: 1001}\n";
    let as_root = "    securityContext: {runAsUser: 0}\n  securityContext: {runAsNonRoot: true}\n";
    for (name, image, spec) in [
        ("root", BUSYBOX, non_root),
        ("told", BUSYBOX, as_root),
        ("named", NAMED_USER, non_root),
        ("user", USER, non_root),
        ("other", BUSYBOX, as_user),
        ("any", NAMED_USER, ""),
    ] {
        node.put(
            &format!("{name}.yaml"),
            &pod_with(name, image, FOREVER, spec),
        );
    }
    node.start_agent();
    for (name, words) in [
        (
            "root",
            "container has runAsNonRoot and image will run as root (pod: \"root-",
        ),
        (
            "told",
            "container's runAsUser breaks non-root policy (pod: \"told-",
        ),
        (
            "named",
            "image has non-numeric user (app), cannot verify user is non-root (pod: \"named-",
        ),
    ] {
        let report = node.wait_reason(name, "CreateContainerConfigError").await;
        assert!(report.message.contains(words), "{report:#?}");
        assert!(node.ps().contains(&report.message));
    }
    for (name, uid) in [("user", "1000"), ("other", "1001"), ("any", "1000")] {
        let (_, status) = status(&node, name, "c").await;
        assert_eq!(field(&status, "Uid"), [uid; 4].join(" "), "{name}");
    }
    for name in ["root", "told", "named", "user", "other", "any"] {
        node.remove(&format!("{name}.yaml"));
    }
    node.wait_gone().await;
}

/// In the images the user 1000 is in the group 4242 too.
async fn groups_of_the_image_count_unless_the_pod_says_otherwise(mut node: Node) {
    let groups =
        "  securityContext: {supplementalGroups: [7000], supplementalGroupsPolicy: POLICY}\n";
    for policy in ["Merge", "Strict"] {
        let name = policy.to_lowercase();
        let text = pod_with(&name, USER, FOREVER, &groups.replace("POLICY", policy));
        node.put(&format!("{name}.yaml"), &text);
    }
    node.start_agent();
    let (_, merged) = status(&node, "merge", "c").await;
    assert_eq!(field(&merged, "Groups"), "1000 4242 7000");
    let features = node
        .client
        .status(v1::StatusRequest::default())
        .await
        .unwrap()
        .features;
    if features.is_some_and(|f| f.supplemental_groups_policy) {
        let (_, strict) = status(&node, "strict", "c").await;
        assert_eq!(field(&strict, "Groups"), "1000 7000");
    } else {
        assert_eq!(node.version, "1.6", "every newer one can leave them out");
        let report = node
            .wait_reason("strict", "SupplementalGroupsPolicyNotSupported")
            .await;
        assert_eq!(report.phase, "Failed");
        assert!(
            report
                .message
                .contains("SupplementalGroupsPolicy=Strict is not supported"),
            "{report:#?}"
        );
    }
    node.remove("merge.yaml");
    node.remove("strict.yaml");
    node.wait_gone().await;
}

const OWN_USERS: &str = r"
  hostUsers: false
  securityContext: {fsGroup: 2000}
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: own, mountPath: /own}
  - name: bare
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {procMount: Unmasked, runAsUser: 1000}
    volumeMounts:
    - {name: scratch, mountPath: /part, subPath: part}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
";

async fn a_pod_has_users_of_its_own_where_the_runtime_can_give_them(mut node: Node) {
    node.put("a.yaml", &manifest("a", OWN_USERS));
    node.start_agent();
    let features = node
        .client
        .status(v1::StatusRequest::default())
        .await
        .unwrap();
    let mut handlers = features.runtime_handlers.into_iter();
    let default = handlers.find(|h| h.name.is_empty());
    if !default
        .and_then(|h| h.features)
        .is_some_and(|f| f.user_namespaces)
    {
        assert_ne!(node.version, "2.4", "it is brought up with a runc that can");
        let report = node.wait_reason("a", "FailedCreatePodSandBox").await;
        assert!(
            report.message.contains("spec.hostUsers is false"),
            "{report:#?}"
        );
        node.remove("a.yaml");
        return node.wait_gone().await;
    }
    node.put("b.yaml", &manifest("b", OWN_USERS));
    let mut firsts = vec![];
    for pod in ["a", "b"] {
        let container = node.wait_running(pod).await;
        let map = node.sh(&container.id, "cat /proc/1/uid_map").await;
        let map: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!((map[0], map[2]), (0, 65_536));
        let process = node.process(&container.id).await;
        let seen = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        assert_eq!(
            field(&seen, "Uid"),
            [map[1].to_string().as_str(); 4].join(" ")
        );
        firsts.push(map[1]);
    }
    assert!(
        firsts.iter().all(|first| *first >= 65_536),
        "none of the host's own: {firsts:?}"
    );
    assert_ne!(firsts[0], firsts[1], "nobody else's");
    let name = node.full_name("a");
    let id = node.wait_running("a").await.id;
    for (script, expected) in [
        (
            "id -u; touch /scratch/x; stat -c %u.%g /scratch/x",
            "0\n0.2000",
        ),
        ("cat /own/name", &name),
        ("touch /etc/hosts /dev/termination-log && echo own", "own"),
    ] {
        assert_eq!(node.sh(&id, script).await, expected, "{script}");
    }
    let id = node.wait_container("a", "bare").await.id;
    for (script, expected) in [
        (
            "id -u; touch /part/x; stat -c %u.%g /part/x",
            "1000\n1000.2000",
        ),
        ("grep -c CPU0 /proc/interrupts", "1"),
    ] {
        assert_eq!(node.sh(&id, script).await, expected, "{script}");
    }
    node.remove("a.yaml");
    node.remove("b.yaml");
    node.wait_gone().await;
}

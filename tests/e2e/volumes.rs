//! Volumes as the containers see them, and what is left of them on the node: nothing of the Pod's,
//! everything of the host's.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use podkeeper::cri::v1;

use super::node::{Node, manifest};

super::on_each_containerd!(
    host_paths_are_made_and_checked_by_their_type,
    volumes_of_the_pods_own_have_the_medium_the_size_and_the_group_they_ask_for,
    mounts_have_the_propagation_and_the_flags_they_ask_for,
    mounts_propagate_in_volumes_of_the_pods_own_wherever_the_agent_keeps_them,
    images_are_volumes_where_the_runtime_mounts_them,
    a_symlink_in_a_volume_leads_no_sub_path_out_of_it,
    a_removal_ends_at_the_pods_own_folders,
    a_killed_agent_leaves_nothing_behind_either,
);

/// Mount points of this machine below a folder.
fn mounts_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().map(|line| line.split(' ').nth(4).unwrap());
    let below = points.filter(|point| Path::new(point).starts_with(folder));
    below.map(str::to_owned).collect()
}

fn mount(arguments: &[&str]) {
    let done = Command::new("mount").args(arguments).status().unwrap();
    assert!(done.success(), "mount {arguments:?}");
}

/// Something that the test mounted; it goes with the test.
struct Mounted(String);

impl Mounted {
    fn new(arguments: &[&str]) -> Self {
        mount(arguments);
        Self((*arguments.last().unwrap()).to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may have been taken away with what it stood in.
        let _ = Command::new("umount").args(["-l", &self.0]).output();
    }
}

/// A folder of the host's for this test.
fn host_folder(node: &Node, name: &str) -> String {
    let path = node.path(name);
    fs::create_dir(&path).unwrap();
    path.display().to_string()
}

async fn host_paths_are_made_and_checked_by_their_type(mut node: Node) {
    let host = host_folder(&node, "host");
    let at = |name: &str| format!("{host}/{name}");
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("file"), "of the host").unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let block = fs::read_dir("/dev").unwrap().flatten();
    let block = block
        .map(|e| e.path())
        .find(|p| fs::metadata(p).is_ok_and(|m| m.mode() & 0o170_000 == 0o060_000));
    let mut paths = vec![
        (at("folder"), "Directory"),
        (at("made/deep"), "DirectoryOrCreate"),
        (at("folder"), "DirectoryOrCreate"),
        (at("file"), "File"),
        (at("made-file"), "FileOrCreate"),
        (at("file"), "FileOrCreate"),
        (at("socket"), "Socket"),
        ("/dev/null".to_owned(), "CharDevice"),
        (at("file"), ""),
    ];
    paths.extend(block.map(|path| (path.display().to_string(), "BlockDevice")));
    let (mut volume_mounts, mut volumes) = (String::new(), String::new());
    for (i, (path, kind)) in paths.iter().enumerate() {
        writeln!(volume_mounts, "    - {{name: v{i}, mountPath: /v{i}}}").unwrap();
        let source = format!("hostPath: {{path: {path}, type: {kind:?}}}");
        writeln!(volumes, "  - {{name: v{i}, {source}}}").unwrap();
    }
    let container = "  containers:\n  - name: c\n    image: $BUSYBOX\n    command: $FOREVER\n";
    let spec = format!("{container}    volumeMounts:\n{volume_mounts}  volumes:\n{volumes}");
    node.put("good.yaml", &manifest("good", &spec));
    let wrong = [
        (at("file"), "Directory", "found a file"),
        (at("folder"), "File", "found a directory"),
        (at("folder"), "FileOrCreate", "found a directory"),
        (at("file"), "Socket", "found a file"),
        (
            "/dev/null".to_owned(),
            "BlockDevice",
            "found a character device",
        ),
        (at("socket"), "CharDevice", "found a socket"),
        (at("nothing"), "Directory", "No such file"),
        (at("nothing"), "File", "No such file"),
    ];
    for (i, (path, kind, _)) in wrong.iter().enumerate() {
        let spec = format!(
            "{container}    volumeMounts: [{{name: v, mountPath: /v}}]\n  \
             volumes: [{{name: v, hostPath: {{path: {path}, type: {kind}}}}}]\n"
        );
        node.put(
            &format!("wrong{i}.yaml"),
            &manifest(&format!("wrong{i}"), &spec),
        );
    }
    node.start_agent();
    let id = node.wait_running("good").await.id;
    let kinds = "for f in /v*; do stat -c %F $f; done";
    let mut expected = vec![
        "directory",
        "directory",
        "directory",
        "regular file",
        "regular empty file",
        "regular file",
        "socket",
        "character special file",
        "regular file",
    ];
    if paths.len() > expected.len() {
        expected.push("block special file");
    }
    assert_eq!(
        node.sh(&id, kinds).await.lines().collect::<Vec<_>>(),
        expected
    );
    for (path, mode) in [("made/deep", 0o755), ("made-file", 0o644)] {
        let found = fs::metadata(at(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path}");
    }
    for (i, (path, kind, found)) in wrong.iter().enumerate() {
        let report = node.wait_reason(&format!("wrong{i}"), "FailedMount").await;
        let message = &report.message;
        for words in [path.as_str(), &format!("type {kind}"), found] {
            assert!(message.contains(words), "{kind} {path}: {message}");
        }
    }
    // Once the path is there, the Pod that waits for it runs.
    fs::create_dir(at("nothing")).unwrap();
    node.wait_running("wrong6").await;
    node.remove("good.yaml");
    for i in 0..wrong.len() {
        node.remove(&format!("wrong{i}.yaml"));
    }
    node.wait_gone().await;
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "of the host");
    assert!(fs::exists(at("made/deep")).unwrap() && fs::exists(at("made-file")).unwrap());
}

const OWN: &str = r"
  securityContext: {runAsUser: 1000, fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch}
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    env: [{name: WHO, value: me}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /read-only, readOnly: true}
    - {name: disk, mountPath: /part, subPath: part/of/it}
    - {name: disk, mountPath: /mine, subPathExpr: for/$(WHO)}
    - {name: memory, mountPath: /memory}
    - {name: own, mountPath: /own}
    - {name: both, mountPath: /both}
  - name: other
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts: [{name: disk, mountPath: /disk}]
  volumes:
  - {name: disk, emptyDir: {sizeLimit: 1Gi}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: own
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: deep/memory, mode: 0400, resourceFieldRef: {containerName: c, resource: limits.memory, divisor: 1Mi}}
  - name: both
    projected:
      defaultMode: 0640
      sources:
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - downwardAPI: {items: [{path: uid, fieldRef: {fieldPath: metadata.uid}}]}
";

async fn volumes_of_the_pods_own_have_the_medium_the_size_and_the_group_they_ask_for(
    mut node: Node,
) {
    let text = manifest("web", OWN).replace(
        "  name: web\n",
        "  name: web\n  labels: {a: \"1\", b: \"2\"}\n",
    );
    node.put("web.yaml", &text);
    node.start_agent();
    let first = node.wait_running("web").await;
    let other = node.wait_container("web", "other").await;
    let report = node.report("web").await.unwrap();
    let name_and_uid = format!("{}{}", node.full_name("web"), report.uid);
    let id = &first.id;
    for (script, expected) in [
        ("id -u; id -G | grep -o 2000", "1000\n2000"),
        ("stat -c %a.%g /disk", "2777.2000"),
        ("echo x > /disk/file; stat -c %u.%g /disk/file", "1000.2000"),
        (
            "cat /read-only/file; echo y > /read-only/file || echo refused",
            "x\nrefused",
        ),
        ("echo p > /part/file; cat /disk/part/of/it/file", "p"),
        ("stat -c %a.%g /part /disk/part", "2777.2000\n2777.2000"),
        ("echo m > /mine/file; cat /disk/for/me/file", "m"),
        (
            "df -k /memory | tail -1 | while read a size b; do echo $size; done",
            "1024",
        ),
        ("grep -c ' /memory tmpfs rw' /proc/mounts", "1"),
        (
            "dd if=/dev/zero of=/memory/big bs=1024 count=2000 || echo full; rm /memory/big",
            "full",
        ),
        ("cat /own/labels", "a=\"1\"\nb=\"2\""),
        (
            "cat /own/deep/memory; stat -L -c %a.%g /own/deep/memory",
            "64440.2000",
        ),
        (
            "cat /both/name /both/uid; stat -L -c %a /both/uid",
            &format!("{name_and_uid}640"),
        ),
        ("touch /own/x || echo refused", "refused"),
    ] {
        let script = format!("{{ {script}; }} 2>/dev/null");
        assert_eq!(node.sh(id, &script).await, expected, "{script}");
    }
    assert_eq!(
        node.sh(&other.id, "cat /disk/file").await,
        "x",
        "both have the same"
    );
    // In a new sandbox the volumes are the same, and OnRootMismatch leaves what is in them as it is.
    let volume = node
        .path("root/pods")
        .join(&report.uid)
        .join("volumes/kubernetes.io~empty-dir/disk");
    std::os::unix::fs::chown(volume.join("file"), None, Some(0)).unwrap();
    node.kill_sandbox(&first.pod_sandbox_id).await;
    let second = node.wait_after("web", &first).await;
    for (script, expected) in [
        ("cat /disk/file /part/file /mine/file", "x\np\nm"),
        (
            "stat -c %a.%g /disk /disk/file | head -2",
            "2777.2000\n644.0",
        ),
    ] {
        assert_eq!(node.sh(&second.id, script).await, expected, "{script}");
    }
    let root = node.path("root");
    assert!(!mounts_below(&root).is_empty());
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_eq!(mounts_below(&root), Vec::<String>::new());
}

async fn recursive_read_only(node: &Node) -> bool {
    let status = node
        .client
        .status(v1::StatusRequest::default())
        .await
        .unwrap();
    let default = status
        .runtime_handlers
        .into_iter()
        .find(|h| h.name.is_empty());
    default
        .and_then(|h| h.features)
        .is_some_and(|f| f.recursive_read_only_mounts)
}

const FLAGS: &str = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: host, mountPath: /private, mountPropagation: None}
    - {name: host, mountPath: /slave, mountPropagation: HostToContainer}
    - {name: host, mountPath: /ro, readOnly: true}
    - {name: host, mountPath: /rro, readOnly: true, mountPropagation: None, recursiveReadOnly: IfPossible}
  - name: both
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {privileged: true}
    volumeMounts:
    - {name: host, mountPath: /shared, mountPropagation: Bidirectional}
  volumes: [{name: host, hostPath: {path: HOST}}]
";
const RECURSIVE: &str = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: host, mountPath: /rro, readOnly: true, recursiveReadOnly: Enabled}
  volumes: [{name: host, hostPath: {path: HOST}}]
";

async fn mounts_have_the_propagation_and_the_flags_they_ask_for(mut node: Node) {
    let host = host_folder(&node, "host");
    let _shared = Mounted::new(&["--bind", &host, &host]);
    mount(&["--make-shared", &host]);
    for name in ["before", "after", "theirs"] {
        fs::create_dir(format!("{host}/{name}")).unwrap();
    }
    let _before = Mounted::new(&["-t", "tmpfs", "none", &format!("{host}/before")]);
    node.put(
        "flags.yaml",
        &manifest("flags", FLAGS).replace("HOST", &host),
    );
    node.put(
        "recursive.yaml",
        &manifest("recursive", RECURSIVE).replace("HOST", &host),
    );
    node.start_agent();
    let id = node.wait_running("flags").await.id;
    let both = node.wait_container("flags", "both").await.id;
    let recursive = recursive_read_only(&node).await;
    let _after = Mounted::new(&["-t", "tmpfs", "none", &format!("{host}/after")]);
    fs::write(format!("{host}/after/file"), "").unwrap();
    node.sh(
        &both,
        "mount -t tmpfs none /shared/theirs && touch /shared/theirs/file",
    )
    .await;
    assert!(
        fs::exists(format!("{host}/theirs/file")).unwrap(),
        "the host sees the mount"
    );
    let _theirs = Mounted(format!("{host}/theirs"));
    let write = |path: &str| format!("touch {path}/x && echo written || echo refused");
    for (script, expected) in [
        ("ls /private/after /private/theirs | grep -c file", "0"),
        ("ls /slave/after /slave/theirs | grep -c file", "2"),
        (&write("/private"), "written"),
        (&write("/ro"), "refused"),
        (&write("/ro/before"), "written"),
        (&write("/rro"), "refused"),
        (
            &write("/rro/before"),
            if recursive { "refused" } else { "written" },
        ),
    ] {
        let script = format!("{{ {script}; }} 2>/dev/null || true");
        assert_eq!(node.sh(&id, &script).await, expected, "{script}");
    }
    if recursive {
        let id = node.wait_running("recursive").await.id;
        let write = format!("{{ {}; }} 2>/dev/null", write("/rro/before"));
        assert_eq!(node.sh(&id, &write).await, "refused");
    } else {
        let report = node
            .wait_reason("recursive", "CreateContainerConfigError")
            .await;
        assert!(
            report.message.contains("recursiveReadOnly: Enabled"),
            "{report:#?}"
        );
    }
    node.remove("flags.yaml");
    node.remove("recursive.yaml");
    node.wait_gone().await;
}

async fn mounts_propagate_in_volumes_of_the_pods_own_wherever_the_agent_keeps_them(mut node: Node) {
    let root = host_folder(&node, "root");
    // Whatever the machine's own mounts are like, these are private.
    let _private = Mounted::new(&["--bind", &root, &root]);
    mount(&["--make-private", &root]);
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    securityContext: {privileged: true}
    volumeMounts:
    - {name: disk, mountPath: /disk, mountPropagation: Bidirectional}
    - {name: memory, mountPath: /memory, mountPropagation: Bidirectional}
    - {name: disk, mountPath: /part, subPath: part, mountPropagation: Bidirectional}
  - name: sees
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: disk, mountPath: /disk, mountPropagation: HostToContainer}
    - {name: memory, mountPath: /memory, mountPropagation: HostToContainer}
  - name: alone
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
";
    node.put("shared.yaml", &manifest("shared", spec));
    node.put(
        "plain.yaml",
        &super::node::pod("plain", super::node::FOREVER),
    );
    node.start_agent();
    let id = node.wait_running("shared").await.id;
    let sees = node.wait_container("shared", "sees").await.id;
    let alone = node.wait_container("shared", "alone").await.id;
    node.wait_running("plain").await;
    for folder in ["disk", "memory", "part"] {
        let script = format!(
            "mkdir /{folder}/t && mount -t tmpfs none /{folder}/t && touch /{folder}/t/file"
        );
        node.sh(&id, &script).await;
    }
    let uid = node.report("shared").await.unwrap().uid;
    let volumes = Path::new(&root).join("pods").join(uid).join("volumes");
    let own = mounts_below(&volumes);
    let places = ["disk/t", "memory/t", "disk/part/t"];
    let volume = volumes.join("kubernetes.io~empty-dir");
    for place in places {
        assert!(
            volume.join(place).join("file").is_file(),
            "{place}: {own:?}"
        );
    }
    let count = "ls /disk/t /memory/t /disk/part/t 2>/dev/null | grep -c file; true";
    assert_eq!(node.sh(&sees, count).await, "3");
    assert_eq!(node.sh(&alone, count).await, "0");
    // A new instance sees what is mounted already, and a new agent changes nothing.
    node.kill_agent();
    node.start_agent();
    node.wait_known(1).await;
    assert_eq!(mounts_below(&volumes), own);
    node.kill_container(&sees).await;
    node.wait_until("it sees them", async || {
        match node.running_one("shared", "sees").await {
            Some(next) if next.id != sees => node.sh(&next.id, count).await == "3",
            _ => false,
        }
    })
    .await;
    node.remove("shared.yaml");
    node.remove("plain.yaml");
    node.wait_gone().await;
    assert_eq!(mounts_below(Path::new(&root)), [root]);
}

async fn images_are_volumes_where_the_runtime_mounts_them(mut node: Node) {
    let spec = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: pages, mountPath: /pages}
  volumes: [{name: pages, image: {reference: localhost/podkeeper/web:1}}]
";
    node.put("web.yaml", &manifest("web", spec));
    node.start_agent();
    if node.version == "1.6" {
        let report = node.wait_reason("web", "CreateContainerConfigError").await;
        let words =
            "volume \"pages\" is an image, and this container runtime does not mount images";
        assert!(report.message.contains(words), "{report:#?}");
    } else {
        let id = node.wait_running("web").await.id;
        let page = node.sh(&id, "cat /pages/www/index.html").await;
        assert_eq!(page, "<p>This page comes from a static Pod.</p>");
        let refused = "{ touch /pages/x || echo refused; } 2>/dev/null";
        assert_eq!(node.sh(&id, refused).await, "refused");
    }
    node.remove("web.yaml");
    node.wait_gone().await;
}

const PLANTED: &str = r"
  restartPolicy: OnFailure
  initContainers:
  - name: planter
    image: $BUSYBOX
    command: [sh, -c, 'cd /volume; ln -s OUTSIDE absolute; ln -s ../outside relative; ln -s /proc/self/root magic']
    volumeMounts: [{name: volume, mountPath: /volume}]
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts: [{name: volume, mountPath: /mine, subPath: SUBPATH}]
  volumes: [{name: volume, hostPath: {path: HOST, type: DirectoryOrCreate}}]
";

async fn a_symlink_in_a_volume_leads_no_sub_path_out_of_it(mut node: Node) {
    let outside = host_folder(&node, "outside");
    fs::write(format!("{outside}/file"), "of the host").unwrap();
    let paths = [
        "absolute",
        "absolute/new",
        "relative/new/deeper",
        "magic/tmp",
        "swapped/new",
    ];
    for (i, path) in paths.iter().enumerate() {
        // Each Pod has a volume of its own, beside what its symlinks lead to.
        let text = PLANTED
            .replace("OUTSIDE", &outside)
            .replace("SUBPATH", path);
        let text = text.replace(
            "HOST",
            &node.path(&format!("volume{i}")).display().to_string(),
        );
        node.put(&format!("p{i}.yaml"), &manifest(&format!("p{i}"), &text));
    }
    node.start_agent();
    for i in 0..4 {
        let report = node
            .wait_reason(&format!("p{i}"), "CreateContainerConfigError")
            .await;
        assert!(
            report.message.contains("leads out of the volume"),
            "{report:#?}"
        );
    }
    // The last one was in order when it was first mounted, and was swapped since.
    let first = node.wait_running("p4").await;
    let part = node.path("volume4/swapped");
    fs::rename(&part, node.path("volume4/held")).unwrap();
    symlink(&outside, &part).unwrap();
    node.kill_container(&first.id).await;
    let report = node.wait_reason("p4", "CreateContainerConfigError").await;
    assert!(
        report.message.contains("leads out of the volume"),
        "{report:#?}"
    );
    for i in 0..paths.len() {
        node.remove(&format!("p{i}.yaml"));
    }
    node.wait_gone().await;
    let left: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["file"], "nothing was made or removed outside");
}

const EVERYTHING: &str = r"
  containers:
  - name: c
    image: $BUSYBOX
    command: $FOREVER
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: own, mountPath: /own}
    - {name: host, mountPath: /host}
    - {name: host, mountPath: /part, subPath: part}
    - {name: scratch, mountPath: /some, subPath: some}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: host, hostPath: {path: HOST}}
";

/// A folder of the host's with files that must survive whatever happens to Pods.
fn host_files(node: &Node) -> String {
    let host = host_folder(node, "host");
    fs::create_dir(format!("{host}/part")).unwrap();
    for file in ["file", "part/file"] {
        fs::write(format!("{host}/{file}"), "of the host").unwrap();
    }
    host
}

fn assert_untouched(host: &str) {
    for file in ["file", "part/file"] {
        let text = fs::read_to_string(format!("{host}/{file}")).unwrap();
        assert_eq!(text, "of the host", "{file}");
    }
}

async fn a_removal_ends_at_the_pods_own_folders(mut node: Node) {
    let host = host_files(&node);
    node.put(
        "web.yaml",
        &manifest("web", EVERYTHING).replace("HOST", &host),
    );
    node.start_agent();
    let id = node.wait_running("web").await.id;
    let uid = node.report("web").await.unwrap().uid;
    let volumes = node
        .path("root/pods")
        .join(uid)
        .join("volumes/kubernetes.io~empty-dir");
    // A way to the host's files by a symlink, and by a mount in the Pod's own folder.
    node.sh(
        &id,
        &format!("ln -s {host} /scratch/link; mkdir /scratch/mounted"),
    )
    .await;
    let mounted = volumes.join("scratch/mounted").display().to_string();
    let _mounted = Mounted::new(&["--bind", &host, &mounted]);
    node.remove("web.yaml");
    node.wait_gone().await;
    assert_untouched(&host);
    assert_eq!(mounts_below(&node.path("root")), Vec::<String>::new());
}

async fn a_killed_agent_leaves_nothing_behind_either(mut node: Node) {
    let host = host_files(&node);
    let root = node.path("root");
    let pods = root.join("pods");
    let text = manifest("web", EVERYTHING).replace("HOST", &host);
    let has_folder =
        async |_: &Node| fs::read_dir(&pods).is_ok_and(|mut pods| pods.next().is_some());
    let has_mounts = async |_: &Node| !mounts_below(&root).is_empty();
    let has_sub_paths = async |_: &Node| {
        mounts_below(&root)
            .iter()
            .any(|point| point.contains("volume-subpaths"))
    };
    let is_stopping = async |node: &Node| node.log_lines_with("Stopping Pod") > 0;
    node.put("web.yaml", &text);
    for reached in 0..3 {
        node.start_agent();
        node.wait_until("it has come so far", async || match reached {
            0 => has_folder(&node).await,
            1 => has_mounts(&node).await,
            _ => has_sub_paths(&node).await,
        })
        .await;
        node.kill_agent();
    }
    node.start_agent();
    node.wait_running("web").await;
    node.remove("web.yaml");
    node.wait_until("it is being stopped", async || is_stopping(&node).await)
        .await;
    node.kill_agent();
    node.start_agent();
    node.wait_until("the Pod's mounts go", async || {
        mounts_below(&root).is_empty()
    })
    .await;
    node.kill_agent();
    node.start_agent();
    node.wait_gone().await;
    assert_untouched(&host);
    assert_eq!(mounts_below(&root), Vec::<String>::new());
}

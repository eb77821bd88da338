//! The directory source against real files and real inotify: what is followed, what is refused, and
//! what keeps running whatever happens to the files.

mod faults;

#[path = "../support/mounts.rs"]
mod mounts;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use podkeeper::manifest::PodKey;
use podkeeper::source::directory::{DirectorySource, read_manifest};
use podkeeper::source::{Desired, Refused};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Long enough that only inotify can have told.
const NEVER: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(120);

fn pod(name: &str, version: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels:\n    version: v{version}\n\
         spec:\n  containers:\n  - name: main\n    image: registry.example/main:{version}\n"
    )
}

fn key(name: &str) -> PodKey {
    PodKey {
        namespace: "default".to_owned(),
        name: format!("{name}-node1"),
    }
}

/// Writes aside, on the same file system, and renames in.
fn rename_in(path: &Path, content: impl AsRef<[u8]>) {
    let aside = path.with_file_name(".aside");
    fs::write(&aside, content).unwrap();
    fs::rename(aside, path).unwrap();
}

trait Look {
    /// The version of a Pod that is wanted.
    fn version(&self, name: &str) -> Option<&str>;
    /// The file that a Pod is wanted by.
    fn file(&self, name: &str) -> Option<&str>;
    /// What is said of a refused file.
    fn refusal(&self, file: &str) -> Option<&Refused>;
}

impl Look for Desired {
    fn version(&self, name: &str) -> Option<&str> {
        let labels = self.pods.get(&key(name))?.pod.metadata.labels.as_ref()?;
        labels.get("version").map(String::as_str)
    }

    fn file(&self, name: &str) -> Option<&str> {
        self.pods
            .get(&key(name))?
            .origin
            .file()?
            .file_name()?
            .to_str()
    }

    fn refusal(&self, file: &str) -> Option<&Refused> {
        self.refused.iter().find(|refused| {
            refused
                .origin
                .file()
                .is_some_and(|path| path.ends_with(file))
        })
    }
}

/// A running source, its manifests and its state.
struct Agent {
    root: TempDir,
    /// The manifest path.
    path: PathBuf,
    rescan: Duration,
    desired: watch::Receiver<Option<Desired>>,
    task: JoinHandle<()>,
}

impl Agent {
    /// On an empty folder.
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        Self::start_at(root, "manifests", NEVER)
    }

    fn start_at(root: TempDir, path: &str, rescan: Duration) -> Self {
        let path = root.path().join(path);
        let (desired, task) = launch(root.path(), &path, rescan);
        Self {
            root,
            path,
            rescan,
            desired,
            task,
        }
    }

    /// With the Pod `web` running from `web.yaml`.
    async fn with_web() -> Self {
        let mut agent = Self::start();
        rename_in(&agent.at("web.yaml"), pod("web", 1));
        agent
            .sees("web runs", |desired| desired.version("web") == Some("v1"))
            .await;
        agent
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Waits until what is wanted is as told, and gives it.
    async fn sees(&mut self, what: &str, is_so: impl Fn(&Desired) -> bool) -> Desired {
        let so = self
            .desired
            .wait_for(|desired| desired.as_ref().is_some_and(&is_so));
        let so = tokio::time::timeout(DEADLINE, so)
            .await
            .map(|desired| desired.unwrap().clone());
        so.unwrap_or_else(|_| panic!("never: {what}; is: {:?}", self.desired.borrow()))
            .unwrap()
    }

    /// Waits until the source has seen all that was done so far.
    async fn catches_up(&mut self) -> Desired {
        rename_in(&self.at("sentinel"), pod("sentinel", 0));
        self.sees("the sentinel", |desired| {
            desired.version("sentinel").is_some()
        })
        .await;
        fs::remove_file(self.at("sentinel")).unwrap();
        self.sees("no sentinel", |desired| {
            desired.version("sentinel").is_none()
        })
        .await
    }

    /// Ends the source, does something, and starts it anew.
    async fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        drop(self.desired);
        self.task.await.unwrap();
        meanwhile(&self.path);
        let (desired, task) = launch(self.root.path(), &self.path, self.rescan);
        Self {
            root: self.root,
            path: self.path,
            rescan: self.rescan,
            desired,
            task,
        }
    }
}

fn launch(
    root: &Path,
    path: &Path,
    rescan: Duration,
) -> (watch::Receiver<Option<Desired>>, JoinHandle<()>) {
    let source = DirectorySource {
        path: path.to_owned(),
        node_name: "node1".to_owned(),
        rescan,
        state: root.join("state/manifests"),
    };
    let (sender, receiver) = watch::channel(None);
    (receiver, tokio::spawn(source.run(sender)))
}

/// Checks every value that is published, until asked whether all were so.
struct Always(JoinHandle<()>);

impl Always {
    fn so(agent: &Agent, holds: impl Fn(&Desired) -> bool + Send + 'static) -> Self {
        let mut desired = agent.desired.clone();
        Self(tokio::spawn(async move {
            while desired.changed().await.is_ok() {
                let now = desired.borrow_and_update();
                assert!(now.as_ref().is_none_or(&holds), "not always: {now:?}");
            }
        }))
    }

    async fn was_so(self) {
        self.0.abort();
        assert!(
            self.0.await.unwrap_err().is_cancelled(),
            "see the panic above"
        );
    }
}

#[tokio::test]
async fn any_name_is_a_manifest_in_yaml_or_json() {
    let mut agent = Agent::start();
    rename_in(&agent.at("a.yaml"), pod("a", 1));
    fs::write(agent.at("b"), pod("b", 1)).unwrap();
    let json: serde_json::Value = serde_yaml::from_str(&pod("c", 1)).unwrap();
    fs::write(agent.at("c.yaml.bak"), json.to_string()).unwrap();
    let desired = agent
        .sees("all three", |desired| desired.pods.len() == 3)
        .await;
    assert_eq!(desired.file("b"), Some("b"));
    assert!(desired.refused.is_empty());
}

#[tokio::test]
async fn hidden_files_folders_and_editors_leftovers_are_ignored() {
    let mut agent = Agent::start();
    for name in [
        ".web.yaml",
        "web.yaml~",
        "web.swp",
        "web.swo",
        "web.swx",
        "#web#",
        "4913",
    ] {
        fs::write(agent.at(name), pod("web", 1)).unwrap();
    }
    symlink("web.yaml~", agent.at(".#web.yaml")).unwrap();
    fs::create_dir(agent.at("folder.yaml")).unwrap();
    fs::write(agent.at("folder.yaml/web.yaml"), pod("web", 1)).unwrap();
    symlink("folder.yaml", agent.at("link.yaml")).unwrap();
    assert_eq!(agent.catches_up().await, Desired::default());
}

/// The pace of whoever writes a file piece by piece. One that rests is taken for whole, so where the machine
/// let the test itself rest, nothing is shown.
struct Pace {
    last: Instant,
    slowest: Duration,
}

impl Pace {
    fn begin() -> Self {
        Self {
            last: Instant::now(),
            slowest: Duration::ZERO,
        }
    }

    fn write(&mut self, file: &mut File, piece: &[u8]) {
        file.write_all(piece).unwrap();
        self.step();
    }

    fn step(&mut self) {
        self.slowest = self.slowest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Half of what a file has to rest.
    fn was_kept(&mut self) -> bool {
        self.step();
        self.slowest < Duration::from_millis(100)
    }
}

/// Tries until the pace was kept, which the test tells.
async fn at_a_good_pace(mut attempt: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !attempt().await {
        assert!(Instant::now() < end, "the machine is too busy for this");
    }
}

#[tokio::test]
async fn a_file_being_written_is_not_taken_until_it_is_closed() {
    at_a_good_pace(async || {
        let mut agent = Agent::with_web().await;
        let never_half = Always::so(&agent, |desired| desired.version("web") != Some("v2"));
        let mut file = File::create(agent.at("web.yaml")).unwrap();
        let mut pace = Pace::begin();
        pace.write(&mut file, pod("web", 2).as_bytes());
        rename_in(&agent.at("other.yaml"), pod("other", 1));
        while agent
            .desired
            .borrow()
            .as_ref()
            .is_none_or(|now| now.version("other").is_none())
        {
            pace.write(&mut file, b"# more\n");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if !pace.was_kept() {
            return false;
        }
        never_half.was_so().await;
        drop(file);
        agent
            .sees("the whole file", |desired| {
                desired.version("web") == Some("v2")
            })
            .await;
        true
    })
    .await;
}

#[tokio::test]
async fn a_file_never_closed_is_taken_when_it_is_quiet() {
    let mut agent = Agent::start();
    let mut file = File::create(agent.at("web.yaml")).unwrap();
    file.write_all(pod("web", 1).as_bytes()).unwrap();
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    drop(file);
}

#[tokio::test]
async fn a_growing_file_is_taken_whole_in_the_end() {
    at_a_good_pace(async || {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        let mut agent = Agent::start_at(root, "manifests", Duration::from_millis(20));
        let whole = pod("web", 1);
        let never_half = Always::so(&agent, |desired| desired.refused.is_empty());
        let mut file = File::create(agent.at("web.yaml")).unwrap();
        let mut pace = Pace::begin();
        for piece in whole.as_bytes().chunks(16) {
            pace.write(&mut file, piece);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !pace.was_kept() {
            return false;
        }
        drop(file);
        agent
            .sees("web runs", |desired| desired.version("web") == Some("v1"))
            .await;
        never_half.was_so().await;
        true
    })
    .await;
}

#[tokio::test]
async fn edits_in_place_and_by_rename_and_moves_are_followed() {
    let mut agent = Agent::with_web().await;
    fs::write(agent.at("web.yaml"), pod("web", 2)).unwrap();
    agent
        .sees("the edit in place", |desired| {
            desired.version("web") == Some("v2")
        })
        .await;
    rename_in(&agent.at("web.yaml"), pod("web", 3));
    agent
        .sees("the edit by rename", |desired| {
            desired.version("web") == Some("v3")
        })
        .await;
    fs::rename(agent.at("web.yaml"), agent.root.path().join("web.yaml")).unwrap();
    agent
        .sees("moved out", |desired| desired.pods.is_empty())
        .await;
    fs::rename(agent.root.path().join("web.yaml"), agent.at("web.yaml")).unwrap();
    agent
        .sees("moved back", |desired| desired.version("web") == Some("v3"))
        .await;
}

#[tokio::test]
async fn links_to_files_are_followed_and_so_is_a_link_swap() {
    let mut agent = Agent::start();
    let (one, two) = (agent.root.path().join("one"), agent.root.path().join("two"));
    fs::write(&one, pod("web", 1)).unwrap();
    fs::write(&two, pod("web", 2)).unwrap();
    symlink(&one, agent.at("web.yaml")).unwrap();
    agent
        .sees("the link's target", |desired| {
            desired.version("web") == Some("v1")
        })
        .await;
    symlink(&two, agent.at(".new")).unwrap();
    fs::rename(agent.at(".new"), agent.at("web.yaml")).unwrap();
    agent
        .sees("the other target", |desired| {
            desired.version("web") == Some("v2")
        })
        .await;
}

#[tokio::test]
async fn a_link_target_in_another_folder_is_found_changed_by_the_rescan() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("manifests")).unwrap();
    let target = root.path().join("target");
    fs::write(&target, pod("web", 1)).unwrap();
    symlink(&target, root.path().join("manifests/web.yaml")).unwrap();
    let mut agent = Agent::start_at(root, "manifests", Duration::from_millis(50));
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
    fs::write(&target, pod("web", 2)).unwrap();
    agent
        .sees("the change", |desired| desired.version("web") == Some("v2"))
        .await;
}

#[tokio::test]
async fn a_folder_kept_like_a_mounted_config_map_is_followed() {
    let mut agent = Agent::start();
    for (version, folder) in [(1, "..v1"), (2, "..v2")] {
        fs::create_dir(agent.at(folder)).unwrap();
        fs::write(agent.at(folder).join("web.yaml"), pod("web", version)).unwrap();
    }
    symlink("..v1", agent.at("..data")).unwrap();
    symlink("..data/web.yaml", agent.at("web.yaml")).unwrap();
    agent
        .sees("the first", |desired| desired.version("web") == Some("v1"))
        .await;
    symlink("..v2", agent.at("..data_tmp")).unwrap();
    fs::rename(agent.at("..data_tmp"), agent.at("..data")).unwrap();
    agent
        .sees("the second", |desired| desired.version("web") == Some("v2"))
        .await;
}

#[tokio::test]
async fn a_folder_that_does_not_exist_yet_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_at(root, "not/there/yet", NEVER);
    let desired = agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty());
    assert!(desired.unreadable[0].contains("waiting"));
    fs::create_dir_all(&agent.path).unwrap();
    agent
        .sees("readable", |desired| desired.unreadable.is_empty())
        .await;
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    agent
        .sees("web runs", |desired| desired.version("web") == Some("v1"))
        .await;
}

#[tokio::test]
async fn a_folder_removed_keeps_everything_until_it_is_back() {
    let mut agent = Agent::with_web().await;
    let web_stays = Always::so(&agent, |desired| desired.version("web") == Some("v1"));
    fs::remove_dir_all(&agent.path).unwrap();
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.unreadable[0].contains("keep running"));
    fs::create_dir(&agent.path).unwrap();
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    agent
        .sees("readable", |desired| desired.unreadable.is_empty())
        .await;
    agent.catches_up().await;
    web_stays.was_so().await;
    fs::remove_file(agent.at("web.yaml")).unwrap();
    agent
        .sees("removed", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn a_folder_that_comes_back_empty_has_no_pods() {
    let mut agent = Agent::with_web().await;
    fs::rename(&agent.path, agent.root.path().join("old")).unwrap();
    agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    fs::create_dir(&agent.path).unwrap();
    agent
        .sees("removed", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn a_folder_replaced_by_rename_or_link_is_followed() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for version in 1..=3 {
        let folder = at(&format!("v{version}/manifests"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("web.yaml"), pod("web", version)).unwrap();
    }
    let swap = |target: &str, link: &str| {
        symlink(target, at("new")).unwrap();
        fs::rename(at("new"), at(link)).unwrap();
    };
    fs::create_dir(at("by-rename")).unwrap();
    swap("v1/manifests", "by-link");
    swap("v1", "by-parent");
    let paths = ["by-link", "by-parent/manifests", "by-rename"];
    // Each with a store of its own.
    let mut sources = paths.map(|path| launch(&at("states").join(path), &at(path), NEVER).0);
    for (source, version) in sources.iter_mut().zip([Some("v1"), Some("v1"), None]) {
        sees_version(source, version).await;
    }
    swap("v2/manifests", "by-link");
    swap("v2", "by-parent");
    fs::rename(at("v3/manifests"), at("by-rename")).unwrap();
    for (source, version) in sources.iter_mut().zip([Some("v2"), Some("v2"), Some("v3")]) {
        sees_version(source, version).await;
    }
}

async fn sees_version(source: &mut watch::Receiver<Option<Desired>>, version: Option<&str>) {
    let so = source.wait_for(|now| {
        now.as_ref()
            .is_some_and(|now| now.version("web") == version)
    });
    tokio::time::timeout(DEADLINE, so)
        .await
        .expect("the folder is seen")
        .unwrap();
}

type Break = fn(&Path);

#[tokio::test]
async fn a_folder_that_cannot_be_read_keeps_everything() {
    let ways: [(&str, Break); 3] = [
        ("a file", |path| fs::write(path, "").unwrap()),
        ("a dangling link", |path| symlink("nowhere", path).unwrap()),
        ("a looping link", |path| symlink("manifests", path).unwrap()),
    ];
    for (what, make) in ways {
        let mut agent = Agent::with_web().await;
        let aside = agent.root.path().join("aside");
        fs::rename(&agent.path, &aside).unwrap();
        make(&agent.path);
        let desired = agent
            .sees(what, |desired| desired.unreadable.len() == 1)
            .await;
        assert_eq!(desired.version("web"), Some("v1"), "{what}");
        let mut agent = agent.restart(|_| {}).await;
        let desired = agent
            .sees(what, |desired| desired.unreadable.len() == 1)
            .await;
        assert_eq!(
            desired.version("web"),
            Some("v1"),
            "{what}, after a restart"
        );
        fs::remove_file(&agent.path).unwrap();
        fs::rename(&aside, &agent.path).unwrap();
        let desired = agent
            .sees("readable", |desired| desired.unreadable.is_empty())
            .await;
        assert_eq!(desired.version("web"), Some("v1"));
    }
}

/// Whether a file may be read that nobody may.
fn may_read_everything() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(file.path(), PermissionsExt::from_mode(0o0)).unwrap();
    File::open(file.path()).is_ok()
}

#[tokio::test]
async fn permissions_taken_away_keep_everything() {
    const AGAIN: &str = "PODKEEPER_TEST_AGAIN";
    if may_read_everything() {
        // Nothing is forbidden to root until it gives up these rights, as only a program of its own can.
        assert!(std::env::var_os(AGAIN).is_none(), "the rights are kept");
        let again = Command::new("setpriv")
            .args(["--bounding-set", "-dac_override,-dac_read_search"])
            .args(["--inh-caps", "-dac_override,-dac_read_search"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "permissions_taken_away_keep_everything"])
            .env(AGAIN, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        let error = String::from_utf8_lossy(&again.stderr);
        let passed = again.status.success() && said.contains("1 passed");
        assert!(passed, "{said}{error}");
        return;
    }
    let mut agent = Agent::with_web().await;
    let chmod = |path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    chmod(agent.at("web.yaml"), 0);
    let desired = agent
        .sees("refused", |desired| !desired.refused.is_empty())
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    chmod(agent.path.clone(), 0);
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
    chmod(agent.path.clone(), 0o755);
    chmod(agent.at("web.yaml"), 0o644);
    agent
        .sees("mended", |d| {
            d.refused.is_empty() && d.unreadable.is_empty()
        })
        .await;
}

#[tokio::test]
async fn changes_lost_in_a_full_event_queue_are_found() {
    let mut agent = Agent::with_web().await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    // Nothing is read from the queue meanwhile: this thread is the runtime's only one.
    for _ in 0..limit.trim().parse::<u32>().unwrap() {
        fs::rename(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
        fs::rename(agent.at("api.yaml"), agent.at("web.yaml")).unwrap();
    }
    fs::write(agent.at("late.yaml"), pod("late", 1)).unwrap();
    fs::write(agent.at("web.yaml"), pod("web", 2)).unwrap();
    let found = |d: &Desired| d.version("web") == Some("v2") && d.version("late").is_some();
    agent.sees("what was lost", found).await;
    // And the queue is listened to as before.
    agent.catches_up().await;
}

#[tokio::test]
async fn what_is_no_manifest_is_refused_by_name_and_leaves_the_rest_alone() {
    let mut agent = Agent::start();
    fs::write(agent.at("empty"), "").unwrap();
    fs::write(agent.at("junk"), [0u8, 159, 146, 150, 255, 1, 2]).unwrap();
    File::create(agent.at("huge"))
        .unwrap()
        .set_len(10 * 1024 * 1024 + 1)
        .unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, agent.at("pipe"), fifo, 0o600.into(), 0).unwrap();
    let _socket = UnixListener::bind(agent.at("socket")).unwrap();
    symlink("/dev/zero", agent.at("device")).unwrap();
    symlink("loop", agent.at("loop")).unwrap();
    symlink("nowhere", agent.at("dangling")).unwrap();
    rename_in(&agent.at("web.yaml"), pod("web", 1));
    let desired = agent
        .sees("all", |d| d.pods.len() == 1 && d.refused.len() == 8)
        .await;
    for (file, said) in [
        ("huge", "10 MiB"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("device", "device"),
        ("dangling", "nowhere"),
        ("loop", "cannot be read"),
    ] {
        let refusal = desired.refusal(file).unwrap();
        assert!(refusal.problems[0].message.contains(said), "{refusal:?}");
        assert_eq!(refusal.keeps, None);
    }
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_accepted_version_until_mended() {
    let breaks: [(&str, Break); 6] = [
        ("not a Pod", |path| fs::write(path, "kind: Pot\n").unwrap()),
        ("no YAML", |path| fs::write(path, "a: b: c: [").unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("junk", |path| fs::write(path, [0u8, 255, 254, 0]).unwrap()),
        ("too large", |path| {
            File::create(path).unwrap().set_len(11 << 20).unwrap();
        }),
        ("a dangling link", |path| {
            fs::remove_file(path).unwrap();
            symlink("nowhere", path).unwrap();
        }),
    ];
    let kept = |desired: &Desired| {
        let refusal = desired.refusal("web.yaml");
        refusal.is_some_and(|refusal| refusal.keeps == Some(key("web")))
            && desired.version("web") == Some("v1")
    };
    let mended = |d: &Desired| d.version("web") == Some("v2") && d.refused.is_empty();
    for (what, make) in breaks {
        let mut agent = Agent::with_web().await;
        make(&agent.at("web.yaml"));
        agent.sees(what, kept).await;
        let mut agent = agent.restart(|_| {}).await;
        agent.sees(&format!("{what}, after a restart"), kept).await;
        rename_in(&agent.at("web.yaml"), pod("web", 2));
        agent.sees("mended", mended).await;
    }
}

#[tokio::test]
async fn a_broken_manifest_that_is_renamed_or_removed_is_followed() {
    let mut agent = Agent::with_web().await;
    fs::write(agent.at("web.yaml"), "broken").unwrap();
    agent
        .sees("refused", |desired| desired.refusal("web.yaml").is_some())
        .await;
    let web_stays = Always::so(&agent, |desired| desired.version("web") == Some("v1"));
    fs::rename(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
    agent
        .sees("renamed", |desired| desired.file("web") == Some("api.yaml"))
        .await;
    agent.catches_up().await;
    web_stays.was_so().await;
    fs::remove_file(agent.at("api.yaml")).unwrap();
    agent
        .sees("removed", |desired| *desired == Desired::default())
        .await;
}

#[tokio::test]
async fn a_manifest_changed_to_name_another_pod_swaps_the_pods() {
    let mut agent = Agent::with_web().await;
    rename_in(&agent.at("web.yaml"), pod("api", 1));
    let desired = agent
        .sees("api", |desired| desired.version("api").is_some())
        .await;
    assert_eq!(desired.version("web"), None);
}

#[tokio::test]
async fn a_manifest_changed_to_name_a_pod_that_another_file_runs_keeps_its_own() {
    let mut agent = Agent::with_web().await;
    rename_in(&agent.at("api.yaml"), pod("api", 1));
    agent.sees("both", |desired| desired.pods.len() == 2).await;
    fs::copy(agent.at("web.yaml"), agent.at("api.yaml")).unwrap();
    let desired = agent
        .sees("refused", |desired| desired.refusal("api.yaml").is_some())
        .await;
    assert_eq!(desired.refused[0].keeps, Some(key("api")));
    assert_eq!(
        (desired.file("web"), desired.file("api")),
        (Some("web.yaml"), Some("api.yaml"))
    );
}

#[tokio::test]
async fn a_backup_copy_never_takes_a_pod_over_and_is_named() {
    let mut agent = Agent::with_web().await;
    for name in ["web.yaml.bak", "a-copy.yaml", "web-old.yaml", "web"] {
        rename_in(&agent.at(name), pod("web", 7));
        let desired = agent
            .sees(name, |desired| desired.refusal(name).is_some())
            .await;
        let refused = desired.refusal(name).unwrap();
        let message = &refused.problems[0].message;
        assert!(
            message.contains(agent.at(name).to_str().unwrap()),
            "{message}"
        );
        assert!(
            message.contains(agent.at("web.yaml").to_str().unwrap()),
            "{message}"
        );
        assert_eq!(
            (desired.version("web"), &refused.keeps),
            (Some("v1"), &None)
        );
    }
    let mut agent = agent.restart(|_| {}).await;
    let desired = agent
        .sees("all", |desired| desired.refused.len() == 4)
        .await;
    assert_eq!(
        desired.file("web"),
        Some("web.yaml"),
        "remembered over a restart"
    );
    fs::write(agent.at("web.yaml"), "broken").unwrap();
    let broken = |d: &Desired| d.refusal("web.yaml").is_some_and(|r| r.keeps.is_some());
    let desired = agent.sees("broken", broken).await;
    assert_eq!(
        (desired.version("web"), desired.refused.len()),
        (Some("v1"), 5)
    );
    fs::remove_file(agent.at("web.yaml")).unwrap();
    let next = |d: &Desired| d.file("web") == Some("a-copy.yaml") && d.refused.len() == 3;
    agent.sees("the next takes over", next).await;
}

#[tokio::test]
async fn a_rename_keeps_the_same_pod_without_a_gap() {
    let mut agent = Agent::with_web().await;
    let uid = |desired: &Desired| {
        desired
            .pods
            .get(&key("web"))
            .map(|wanted| wanted.pod.uid.clone())
    };
    let before = uid(agent.desired.borrow().as_ref().unwrap());
    let expected = before.clone();
    let same = Always::so(&agent, move |d| uid(d) == expected && d.refused.is_empty());
    for (from, to) in [("web.yaml", "a.yaml"), ("a.yaml", "b"), ("b", "z.json")] {
        fs::rename(agent.at(from), agent.at(to)).unwrap();
        agent
            .sees(to, |desired| desired.file("web") == Some(to))
            .await;
    }
    same.was_so().await;
    let move_z = |path: &Path| fs::rename(path.join("z.json"), path.join("y")).unwrap();
    let mut agent = agent.restart(move_z).await;
    let desired = agent
        .sees("renamed while down", |d| d.file("web") == Some("y"))
        .await;
    assert_eq!(uid(&desired), before);
}

#[tokio::test]
async fn editors_that_put_the_file_aside_first_never_stop_the_pod() {
    let mut agent = Agent::with_web().await;
    let web_stays = Always::so(&agent, |desired| desired.version("web").is_some());
    for (version, backup) in [(2, "web.yaml~"), (3, "web.yaml.bak"), (4, ".web.yaml.old")] {
        fs::rename(agent.at("web.yaml"), agent.at(backup)).unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        fs::write(agent.at("web.yaml"), pod("web", version)).unwrap();
        let version = format!("v{version}");
        agent
            .sees(&version, |d| d.version("web") == Some(&version))
            .await;
        fs::remove_file(agent.at(backup)).unwrap();
    }
    web_stays.was_so().await;
    fs::rename(agent.at("web.yaml"), agent.at(".web.yaml")).unwrap();
    agent
        .sees("hidden for good", |desired| desired.pods.is_empty())
        .await;
}

#[tokio::test]
async fn one_file_can_be_the_manifest_path() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("folder")).unwrap();
    let mut agent = Agent::start_at(root, "folder/.only", NEVER);
    agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    fs::write(&agent.path, pod("web", 1)).unwrap();
    fs::write(agent.path.with_file_name("other.yaml"), pod("other", 1)).unwrap();
    let only = |d: &Desired| d.version("web") == Some("v1") && d.pods.len() == 1;
    agent
        .sees("web runs", |d| only(d) && d.unreadable.is_empty())
        .await;
    fs::write(&agent.path, "broken").unwrap();
    agent
        .sees("kept", |d| only(d) && d.refused.len() == 1)
        .await;
    let aside = agent.root.path().join("aside");
    fs::rename(agent.path.parent().unwrap(), &aside).unwrap();
    agent
        .sees("the folder gone", |d| only(d) && d.unreadable.len() == 1)
        .await;
    let mut agent = agent.restart(|_| {}).await;
    agent
        .sees("after a restart", |d| only(d) && d.unreadable.len() == 1)
        .await;
    fs::rename(&aside, agent.path.parent().unwrap()).unwrap();
    agent
        .sees("the folder back", |d| only(d) && d.unreadable.is_empty())
        .await;
    fs::remove_file(&agent.path).unwrap();
    agent
        .sees("removed", |d| d.pods.is_empty() && d.refused.is_empty())
        .await;
}

#[tokio::test]
async fn a_restart_keeps_what_ran_while_the_folder_is_missing() {
    let agent = Agent::with_web().await;
    let mut agent = agent
        .restart(|path| fs::remove_dir_all(path).unwrap())
        .await;
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert_eq!(desired.version("web"), Some("v1"));
}

#[tokio::test]
async fn a_file_removed_while_the_agent_was_down_removes_its_pod() {
    let agent = Agent::with_web().await;
    let mut agent = agent
        .restart(|path| fs::remove_file(path.join("web.yaml")).unwrap())
        .await;
    let first = agent.sees("the first", |_| true).await;
    assert_eq!(first, Desired::default(), "not wanted even at first");
    let mut agent = agent.restart(|path| fs::remove_dir(path).unwrap()).await;
    let desired = agent
        .sees("unreadable", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty(), "not remembered either");
}

#[tokio::test]
async fn another_manifest_path_starts_from_nothing() {
    let mut agent = Agent::with_web().await;
    agent.path = agent.root.path().join("elsewhere");
    let mut agent = agent.restart(|_| {}).await;
    let desired = agent
        .sees("waiting", |desired| desired.unreadable.len() == 1)
        .await;
    assert!(desired.pods.is_empty());
}

#[tokio::test]
async fn a_damaged_store_is_skipped_and_its_files_are_private() {
    let agent = Agent::with_web().await;
    let state = agent.root.path().join("state/manifests");
    let damage = |_: &Path| {
        let files: Vec<_> = fs::read_dir(&state)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        assert_eq!(
            fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(state.join("junk.json"), [0, 255]).unwrap();
        fs::copy(&files[0], state.join("copy.json")).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&files[0])
            .unwrap()
            .set_len(40)
            .unwrap();
    };
    let mut agent = agent.restart(damage).await;
    let desired = agent
        .sees("read anew", |desired| desired.version("web") == Some("v1"))
        .await;
    assert_eq!((desired.pods.len(), desired.refused.len()), (1, 0));
}

#[tokio::test]
async fn a_stored_version_that_is_no_longer_accepted_is_told() {
    let agent = Agent::with_web().await;
    let state = agent.root.path().join("state/manifests");
    let outdate = |path: &Path| {
        let file = fs::read_dir(&state)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let stored = fs::read_to_string(&file).unwrap();
        fs::write(&file, stored.replace("\"Pod\"", "\"Pot\"")).unwrap();
        fs::write(path.join("web.yaml"), "broken").unwrap();
    };
    let mut agent = agent.restart(outdate).await;
    let desired = agent
        .sees("refused", |desired| desired.refused.len() == 1)
        .await;
    let told = &desired.refused[0].problems;
    assert!(
        told.iter().any(|p| p.message.contains("default/web-node1")),
        "{told:?}"
    );
    assert_eq!(desired.refused[0].keeps, None);
}

#[tokio::test]
async fn nothing_is_published_when_nothing_that_matters_changed() {
    let mut agent = Agent::with_web().await;
    agent.catches_up().await;
    agent.desired.mark_unchanged();
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        fs::write(agent.at(".hidden"), "").unwrap();
        fs::remove_file(agent.at(".hidden")).unwrap();
        rename_in(
            &agent.at("web.yaml"),
            format!("# a comment\n{}", pod("web", 1)),
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!agent.desired.has_changed().unwrap());
}

#[test]
fn one_manifest_is_read_by_the_same_rules() {
    let root = tempfile::tempdir().unwrap();
    let web = root.path().join("web.yaml");
    assert!(read_manifest(&web).unwrap_err().contains("does not exist"));
    assert!(read_manifest(root.path()).unwrap_err().contains("folder"));
    fs::write(&web, pod("web", 1)).unwrap();
    assert_eq!(read_manifest(&web).unwrap(), pod("web", 1).as_bytes());
}

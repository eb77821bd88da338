//! The directory source against real files and real inotify: what is followed, what is refused, and
//! what keeps running whatever happens to the files.

mod faults;
mod files;
mod folder;
mod restarts;
mod versions;

#[path = "../support/mounts.rs"]
mod mounts;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podkeeper::manifest::PodKey;
use podkeeper::source::directory::DirectorySource;
use podkeeper::source::{Desired, Refused};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Long enough that only inotify can have told.
const NEVER: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(120);

/// A change of the manifest directory or of a file in it.
type Break = fn(&Path);

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
    /// The message about a refused file.
    fn refusal(&self, file: &str) -> Option<&Refused>;
}

impl Look for Desired {
    fn version(&self, name: &str) -> Option<&str> {
        let pod = self.pods.get(&key(name))?.pod.get();
        let labels = pod.metadata.labels.as_ref()?;
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

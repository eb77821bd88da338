//! Both sources together: one desired set.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

use super::directory::DirectorySource;
use super::log::log_refused;
use super::order::{self, OrderedPods};
use super::url::{self, UrlSource};
use super::{Desired, DesiredPod, Freshness, LastRead, Refused};
use crate::host::atomic_file;
use crate::host::blocking::blocking;
use crate::host::log_once::LogOnce;
use crate::json;
use crate::manifest::{PackedPod, PodKey, Problem, StaticPod};

/// The names of the folders and files below the root directory.
const MANIFESTS: &str = "manifests";
const URL: &str = "url";
const OWNED: &str = "owned.json";

/// Looks up the version of a Pod that an agent last ran, in what is on disk.
pub type LastRun = Arc<dyn Fn(&PodKey) -> io::Result<Option<Arc<StaticPod>>> + Send + Sync>;

/// Sources of manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// A directory, or one file.
    pub directory: Option<DirectorySource>,
    /// A document on the web.
    pub url: Option<UrlSource>,
}

impl Sources {
    /// The folder of the directory source's state, below the root directory.
    #[must_use]
    pub fn directory_state(root: &Path) -> PathBuf {
        root.join(MANIFESTS)
    }

    /// The same for the document on the web.
    #[must_use]
    pub fn url_state(root: &Path) -> PathBuf {
        root.join(URL)
    }

    /// Follows the sources, and other ones when `sources` changes, until the last receiver is dropped.
    ///
    /// The channel gets its first value when every source has one. While a source is exchanged for
    /// another, what it wanted stays wanted. `root` is the agent's root directory; `freshness` is kept
    /// up to date; `last_run` is asked once the agent runs, for Pods that are refused from its start on.
    #[must_use]
    pub fn follow(
        sources: watch::Receiver<Self>,
        root: &Path,
        freshness: Freshness,
        last_run: LastRun,
    ) -> watch::Receiver<Option<Desired>> {
        let (sender, receiver) = watch::channel(None);
        let state = Self::url_state(root);
        tokio::spawn(follow(sources, state, freshness, last_run, sender));
        receiver
    }
}

/// A source in its own task, and what it last wanted.
struct RunningSource<S> {
    source: Option<S>,
    desired: watch::Receiver<Option<Desired>>,
    task: Option<JoinHandle<()>>,
    /// Desired Pods that it or the one before it published last.
    last: Option<Desired>,
    read: LastRead,
}

impl<S: Clone + PartialEq> RunningSource<S> {
    fn new(read: LastRead) -> Self {
        Self {
            source: None,
            desired: watch::channel(None).1,
            task: None,
            last: Some(Desired::default()),
            read,
        }
    }

    /// Makes this the source that is followed; the one before has ended when this returns.
    async fn exchange<R>(
        &mut self,
        source: Option<&S>,
        run: impl FnOnce(S, watch::Sender<Option<Desired>>, LastRead) -> R,
    ) where
        R: Future<Output = ()> + Send + 'static,
    {
        if self.source.as_ref() == source {
            return;
        }
        let (sender, receiver) = watch::channel(None);
        self.desired = receiver;
        if let Some(task) = self.task.take() {
            // It ends by itself when nobody listens any more.
            if let Err(error) = task.await {
                warn!(%error, "Manifest source failed");
            }
        }
        if self.source.is_none() {
            self.last = None;
        }
        self.source = source.cloned();
        self.read.never();
        match source {
            None => self.last = Some(Desired::default()),
            Some(source) => {
                let run = run(source.clone(), sender, self.read.clone());
                self.task = Some(tokio::spawn(run));
            }
        }
    }

    /// Waits for a change of what is wanted; for ever if there is no source.
    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        if self.source.is_none() {
            return std::future::pending().await;
        }
        self.desired.changed().await?;
        if let Some(desired) = &*self.desired.borrow_and_update() {
            self.last = Some(desired.clone());
        }
        Ok(())
    }
}

async fn follow(
    mut sources: watch::Receiver<Sources>,
    url_state: PathBuf,
    freshness: Freshness,
    last_run: LastRun,
    sender: watch::Sender<Option<Desired>>,
) {
    let mut ordered = Ordered::new(last_run);
    let state = url_state.clone();
    let mut owned = blocking(move || Owned::read(&state)).await;
    let mut files = RunningSource::new(freshness.directory);
    let mut web = RunningSource::new(freshness.url);
    let mut eager = false;
    loop {
        let wanted = sources.borrow_and_update().clone();
        files
            .exchange(wanted.directory.as_ref(), DirectorySource::run_recording)
            .await;
        web.exchange(wanted.url.as_ref(), |source, sender, read| {
            UrlSource::run_recording(source, sender, eager, read)
        })
        .await;
        eager = true;
        if wanted.url.is_none() {
            let state = url_state.clone();
            if let Err(error) = blocking(move || url::forget(&state)).await {
                warn!(%error, "Failed to remove the stored documents of the manifest URL");
            }
        }
        loop {
            if let (Some(files), Some(web)) = (&files.last, &web.last) {
                let (desired, of_web) = merge(files, web, &owned.keys);
                if wanted.url.is_some() {
                    owned.keep(of_web).await;
                }
                publish(&sender, ordered.refuse_cycles(desired).await);
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = sources.changed() => match changed {
                    Ok(()) => break,
                    // Nobody changes them any more.
                    Err(_) => sources = watch::channel(wanted.clone()).1,
                },
                changed = files.changed() => if changed.is_err() { return },
                changed = web.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn publish(sender: &watch::Sender<Option<Desired>>, desired: Desired) {
    sender.send_if_modified(|current| {
        let changed = current.as_ref() != Some(&desired);
        *current = Some(desired);
        changed
    });
}

/// One set out of both, and the Pods in it that are the web's. A Pod that both name stays with whom it
/// was; of two that come at once, the file's runs.
fn merge(files: &Desired, web: &Desired, of_web: &BTreeSet<PodKey>) -> (Desired, BTreeSet<PodKey>) {
    let mut desired = files.clone();
    desired.refused.extend(web.refused.iter().cloned());
    desired.unreadable.extend(web.unreadable.iter().cloned());
    desired.web_unknown = web.web_unknown;
    // What is not known just now is not given away.
    let mut owned = if web.web_unknown {
        of_web.clone()
    } else {
        BTreeSet::new()
    };
    for (key, wanted) in web.pods.iter() {
        let Some(file) = files.pods.get(key) else {
            Arc::make_mut(&mut desired.pods).insert(key.clone(), wanted.clone());
            owned.insert(key.clone());
            continue;
        };
        let (winner, loser) = if of_web.contains(key) {
            Arc::make_mut(&mut desired.pods).insert(key.clone(), wanted.clone());
            owned.insert(key.clone());
            (&wanted.origin, &file.origin)
        } else {
            (&file.origin, &wanted.origin)
        };
        let message = format!(
            "Pod {key} is defined by {winner} already, so what {loser} says of it is not carried out; \
             remove it from one of the two or give one another name"
        );
        let problem = Problem {
            field: "metadata.name".to_owned(),
            ..Problem::of_file(message)
        };
        desired.refused.push(Refused {
            origin: loser.clone(),
            problems: vec![problem],
            keeps: None,
        });
    }
    desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
    (desired, owned)
}

/// The Pods without those that would wait for each other.
struct Ordered {
    /// The Pods that were published last.
    in_force: Arc<OrderedPods>,
    /// Manifests that were refused last for their order.
    refused: Vec<Refused>,
    last_run: LastRun,
}

impl Ordered {
    fn new(last_run: LastRun) -> Self {
        Self {
            in_force: Arc::default(),
            refused: vec![],
            last_run,
        }
    }

    /// Refuses Pods that would wait for each other. Their versions that were accepted before run on.
    async fn refuse_cycles(&mut self, mut desired: Desired) -> Desired {
        let mut refused = vec![];
        if order::has_cycle(&desired.pods) {
            let (before, last_run) = (Arc::clone(&self.in_force), Arc::clone(&self.last_run));
            let mut pods = Arc::clone(&desired.pods);
            (pods, refused) = blocking(move || {
                let current = Arc::clone(&pods);
                let in_force = |key: &PodKey| {
                    let of_disk = || {
                        let wanted = current.get(key)?;
                        let pod = match last_run(key) {
                            Ok(pod) => PackedPod::from(pod?),
                            // What runs is not to be stopped for that.
                            Err(error) => {
                                warn!(pod = %key, %error, "Failed to read which version of the Pod ran last");
                                wanted.pod.clone()
                            }
                        };
                        Some(DesiredPod {
                            pod,
                            origin: wanted.origin.clone(),
                            warnings: vec![],
                        })
                    };
                    before.get(key).cloned().or_else(of_disk)
                };
                let refused = order::refuse_cycles(Arc::make_mut(&mut pods), in_force);
                (pods, refused)
            })
            .await;
            let is_out = |key: &&PodKey| !pods.contains_key(*key);
            desired.circular = desired.pods.keys().filter(is_out).cloned().collect();
            desired.pods = pods;
        }
        for new in refused.iter().filter(|new| !self.refused.contains(new)) {
            log_refused(new);
        }
        self.in_force = Arc::clone(&desired.pods);
        self.refused.clone_from(&refused);
        desired.refused.extend(refused);
        desired.refused.sort_by(|a, b| a.origin.cmp(&b.origin));
        desired
    }
}

/// The Pods that are the web's, on disk, so that a file that comes while the agent is down does not
/// take one over.
struct Owned {
    folder: PathBuf,
    keys: BTreeSet<PodKey>,
    /// The file has these keys.
    is_written: bool,
    problems: LogOnce,
}

#[derive(Serialize, Deserialize)]
struct OwnedPod {
    namespace: String,
    name: String,
}

impl Owned {
    fn read(folder: &Path) -> Self {
        let keys = match std::fs::read(folder.join(OWNED)) {
            Ok(bytes) => json::from_slice::<Vec<OwnedPod>>(&bytes).unwrap_or_default(),
            Err(_) => vec![],
        };
        let key = |OwnedPod { namespace, name }| PodKey { namespace, name };
        Self {
            folder: folder.to_owned(),
            keys: keys.into_iter().map(key).collect(),
            is_written: true,
            problems: LogOnce::default(),
        }
    }

    async fn keep(&mut self, keys: BTreeSet<PodKey>) {
        if keys == self.keys && self.is_written {
            return;
        }
        self.keys = keys;
        let (folder, keys) = (self.folder.clone(), self.keys.clone());
        let written = spawn_blocking(move || write(&folder, &keys)).await;
        let Ok(written) = written else {
            return;
        };
        self.is_written = written.is_ok();
        if let Some(error) = self.problems.record(OWNED, &written) {
            warn!(
                error,
                "Failed to write the list of Pods that came from the manifest URL"
            );
        }
    }
}

fn write(folder: &Path, keys: &BTreeSet<PodKey>) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let pod = |key: &PodKey| OwnedPod {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    };
    let pods: Vec<_> = keys.iter().map(pod).collect();
    atomic_file::write(&folder.join(OWNED), &serde_json::to_vec_pretty(&pods)?)?;
    atomic_file::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};
    use crate::source::Origin;

    fn pod(name: &str, after: &str) -> Arc<StaticPod> {
        let order = format!("annotations: {{podkeeper.io/start-after: {after}}}");
        let order = Some(order)
            .filter(|_| !after.is_empty())
            .unwrap_or_default();
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, {order}}}, spec: {{containers: [{{name: c, image: i}}]}}}}"
        );
        parse(text.as_bytes(), "n", SourceKind::File).unwrap().pod
    }

    fn desired(pods: &[(&Arc<StaticPod>, Origin)]) -> Desired {
        let wanted = |(pod, origin): &(&Arc<StaticPod>, Origin)| {
            let wanted = DesiredPod {
                pod: PackedPod::from(*pod),
                origin: origin.clone(),
                warnings: vec![],
            };
            (pod.key.clone(), wanted)
        };
        Desired {
            pods: Arc::new(pods.iter().map(wanted).collect()),
            ..Desired::default()
        }
    }

    #[tokio::test]
    async fn a_pod_of_a_circle_is_stopped_only_if_it_is_known_that_it_never_ran() {
        let (one, other) = (pod("a", "b"), pod("b", "a"));
        let file = |name: &str| Origin::File(format!("/m/{name}.yaml").into());
        let circle = || desired(&[(&one, file("a")), (&other, file("b"))]);
        let mut ordered = Ordered::new(Arc::new(|_: &_| Err(io::Error::other("no answer"))));
        let found = ordered.refuse_cycles(circle()).await;
        assert_eq!((found.pods.len(), found.refused.len()), (2, 2));
        assert!(found.pods.values().all(|p| p.pod.start_after.is_none()));
        assert!(found.circular.is_empty());

        // A manifest names it all the same.
        let mut ordered = Ordered::new(Arc::new(|_: &_| Ok(None)));
        let found = ordered.refuse_cycles(circle()).await;
        let keys = BTreeSet::from([one.key.clone(), other.key.clone()]);
        assert_eq!((found.pods.len(), found.circular), (0, keys));
    }

    #[tokio::test]
    async fn a_circle_of_a_file_and_the_url_leaves_what_runs_over_restarts_of_the_agent() {
        let file = || Origin::File("/m/a.yaml".into());
        let url = || Origin::Url("http://x".to_owned());
        let (before, edited, other) = (pod("a", ""), pod("a", "b"), pod("b", "a"));
        let runs = Arc::clone(&before);
        let last_run = move |key: &PodKey| Ok((*key == runs.key).then(|| Arc::clone(&runs)));
        let circle = || desired(&[(&edited, file()), (&other, url())]);
        for has_run in [true, false] {
            let mut ordered = Ordered::new(if has_run {
                Arc::new(last_run.clone())
            } else {
                Arc::new(|_: &_| Ok(None))
            });
            if !has_run {
                let first = desired(&[(&before, file()), (&other, url())]);
                assert_eq!(ordered.refuse_cycles(first.clone()).await, first);
            }
            for _ in 0..2 {
                let found = ordered.refuse_cycles(circle()).await;
                assert_eq!(found.pods[&before.key].pod.unpack(), before);
                // The one of the URL has not run either, where the agent has just started.
                let count = if has_run { 2 } else { 1 };
                let refused: Vec<_> = found.refused.iter().map(|r| &r.origin).collect();
                assert_eq!((refused[0], refused.len()), (&file(), count));
                assert_eq!(found.refused[0].keeps, Some(before.key.clone()));
            }
        }
    }
}

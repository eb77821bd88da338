//! The planner: from what is wanted and what is there to the next step for one Pod.
//!
//! Pure, and it holds all the rules: which version runs, restart policy, backoff, what is kept and
//! what goes. Invariants, tested as properties: from any state it reaches the wanted one in a bounded
//! number of steps; it never stops a healthy container of an unchanged Pod; it never has two live
//! containers of one name.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Volume};
use serde::{Deserialize, Serialize};

use super::memory::{Image, Memory, PostStart, Subject};
use super::moment::Moment;
use super::observed::{Container, Observed, Sandbox, State};
use super::rules::{
    Restart, Role, all_containers, containers, deadline, init_containers, is_finished, restart,
    restart_all_due, restart_backoff, role,
};
use super::waiting::{self, cleanup_failure};
use crate::manifest::StaticPod;
use crate::manifest::objects::{
    container_start_errors as unmet_by_container, start_errors as unmet,
    volume_start_errors as unmet_by_volumes,
};
use crate::probe::ProbeKind as Kind;
use crate::translate::is_sidecar;

/// A sandbox that died is replaced at once, but if that one dies as well not before it was this old:
/// making sandboxes is the dearest thing a runtime does.
const SANDBOX_INTERVAL: Duration = Duration::from_secs(5);

/// How long a version waits for objects to come after it, where it can start without some of them.
const OBJECTS_COME: Duration = Duration::from_secs(2);
/// How long the stop of a dead sandbox is waited for before the next one is made.
const SANDBOX_STOP: Duration = Duration::from_secs(10);

/// All that the planner looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The version that the manifests want, if any.
    pub wanted: Option<&'a Arc<StaticPod>>,
    /// What the runtime has.
    pub observed: &'a Observed,
    /// What the task knows besides.
    pub memory: &'a Memory,
    /// The time.
    pub now: Moment,
    /// The longest wait before a container that keeps stopping is started again.
    pub longest_backoff: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// See whether a version can run on this node at all, and take what it needs of the node.
    Admit {
        /// The version.
        uid: String,
    },
    /// Find out whether the image of a container is there, and have it pulled if it is not.
    WantImage {
        /// The version.
        uid: String,
        /// The container.
        container: String,
    },
    /// See whether the host paths that this version needs are there, before the old version stops.
    CheckVolumes {
        /// The version.
        uid: String,
    },
    /// Wait for this version's turn among the node's updates, before the old version stops.
    TakeTurn {
        /// The version.
        uid: String,
    },
    /// Make the Pod's folders and a sandbox.
    RunSandbox {
        /// The version.
        uid: String,
        /// The new sandbox's attempt.
        attempt: u32,
    },
    /// Make a container and start it.
    RunContainer {
        /// The version.
        uid: String,
        /// The sandbox it goes into.
        sandbox: String,
        /// The container's name.
        container: String,
        /// The new container's attempt.
        attempt: u32,
        /// The back-off period that the restart used up, where it is one.
        backoff: Option<Duration>,
    },
    /// Start a container that was made but not started.
    StartContainer {
        /// The version.
        uid: String,
        /// The container's name.
        container: String,
        /// Its id.
        id: String,
    },
    /// Mark a version as on its way out and stop all its containers: preStop, signal, grace period.
    Terminate {
        /// The version.
        uid: String,
    },
    /// Stop single containers.
    StopContainers {
        /// The version.
        uid: String,
        /// Their ids.
        ids: Vec<String>,
        /// Why they are stopped.
        why: Why,
    },
    /// From now on every container of a version is to be replaced, init containers first.
    RestartAll {
        /// The version.
        uid: String,
    },
    /// A version has failed for good.
    Fail {
        /// The version.
        uid: String,
        /// Kubernetes' word for it.
        reason: &'static str,
        /// What there is to say about that.
        message: String,
    },
    /// Have the runtime end a sandbox's processes and give back its network.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Remove a dead container and its log.
    RemoveContainer {
        /// Its id.
        id: String,
    },
    /// Clear away what a version left on the node outside the runtime.
    ClearTraces {
        /// The version.
        uid: String,
    },
    /// Start a version again that has ended, before its clean-up has succeeded.
    StartAgain {
        /// The version.
        uid: String,
    },
}

/// Why single containers are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// They stand in the way: in a dead sandbox, or replaced by a newer one.
    Stray,
    /// What they accompanied is over.
    Over,
    /// Their liveness probe failed too often.
    Liveness,
    /// Their startup probe failed too often.
    Startup,
    /// The hook after their start failed.
    PostStart,
    /// All containers of the Pod start anew.
    RestartAll,
}

/// The planner's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do now; nothing if all is as it should be or has to wait.
    pub step: Option<Step>,
    /// When to plan again even if nothing happens until then.
    pub wake: Option<Moment>,
}

/// Works out the next step.
#[must_use]
pub fn plan(view: View<'_>) -> Plan {
    let mut planner = Planner { view, wake: None };
    let step = planner.next();
    Plan {
        wake: if step.is_some() { None } else { planner.wake },
        step,
    }
}

/// Whether something is not to wait until single containers of this version have been stopped: that it is on
/// its way out, which has a grace period of its own, or that another can be made ready.
#[must_use]
pub fn is_urgent(view: View<'_>, uid: &str) -> bool {
    match plan(view).step {
        Some(Step::Terminate { .. }) => true,
        Some(
            Step::Admit { uid: other }
            | Step::WantImage { uid: other, .. }
            | Step::CheckVolumes { uid: other }
            | Step::TakeTurn { uid: other },
        ) => other != uid,
        _ => false,
    }
}

/// The version that runs on while the wanted one cannot take over yet.
#[must_use]
pub fn kept_version(view: View<'_>) -> Option<&Arc<StaticPod>> {
    let wanted = view.wanted?;
    let finished = view.memory.finished(&wanted.uid).is_some();
    let started = finished || !view.observed.has_none_of(&wanted.uid);
    if started || view.memory.terminating.contains(&wanted.uid) || takeover_ready(view, wanted) {
        return None;
    }
    let versions = view.memory.versions.values();
    versions
        .filter(|v| v.uid != wanted.uid && !view.memory.terminating.contains(&v.uid))
        .filter(|v| !view.memory.is_being_cleared(&v.uid))
        .filter(|v| view.memory.traces.contains(&v.uid) || !view.observed.has_none_of(&v.uid))
        .max_by_key(|v| {
            let newest = view.observed.sandboxes_of(&v.uid).map(|s| s.created).max();
            (newest, v.uid.as_str())
        })
}

/// Whether a version can start the moment the old one has ended: every image is at hand, every host path
/// in order, and it is its turn among the node's updates.
fn takeover_ready(view: View<'_>, version: &StaticPod) -> bool {
    view.memory.turns.contains(&version.uid) && is_prepared(view, version)
}

/// Whether all is there that a version needs.
fn is_prepared(view: View<'_>, version: &StaticPod) -> bool {
    let memory = view.memory;
    let checked = memory.checked.contains(&version.uid) && memory.admitted.contains(&version.uid);
    checked
        && unmet(version).is_empty()
        && wanted_images(version).all(|image| at_hand(view.memory, version, &image.holder))
}

fn at_hand(memory: &Memory, version: &StaticPod, holder: &str) -> bool {
    let key = (version.uid.clone(), holder.to_owned());
    matches!(memory.images.get(&key), Some(Image::Ready { .. }))
}

/// An image that a version needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedImage<'a> {
    /// What needs it: a container's name, or a volume's as [`volume_holder`] writes it.
    pub holder: String,
    /// The image's name.
    pub image: &'a str,
    /// When it is pulled.
    pub policy: Option<&'a str>,
}

/// How a volume stands among those that need images; no container can be called so.
#[must_use]
pub fn volume_holder(volume: &str) -> String {
    format!("volume {volume}")
}

/// The images that a version needs.
pub fn wanted_images(version: &StaticPod) -> impl Iterator<Item = WantedImage<'_>> {
    let volumes = version.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let volumes = volumes.into_iter().flatten().filter_map(image_of_volume);
    all_containers(version)
        .map(image_of_container)
        .chain(volumes)
}

fn image_of_container(container: &ContainerSpec) -> WantedImage<'_> {
    WantedImage {
        holder: container.name.clone(),
        image: container.image.as_deref().unwrap_or_default(),
        policy: container.image_pull_policy.as_deref(),
    }
}

fn image_of_volume(volume: &Volume) -> Option<WantedImage<'_>> {
    let source = volume.image.as_ref()?;
    Some(WantedImage {
        holder: volume_holder(&volume.name),
        image: source.reference.as_deref().unwrap_or_default(),
        policy: source.pull_policy.as_deref(),
    })
}

struct Planner<'a> {
    view: View<'a>,
    wake: Option<Moment>,
}

impl<'a> Planner<'a> {
    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.start_again() {
            return Some(step);
        }
        let kept = kept_version(self.view);
        let leaving = self.leaving(kept);
        for uid in &leaving {
            if let Some(step) = self.stop(uid) {
                return Some(step);
            }
        }
        if leaving.iter().any(|uid| self.holds_processes(uid)) {
            return None;
        }
        // The wanted version first, the remains of the old one after: that makes the gap short.
        let step = match (self.view.wanted, kept) {
            // Nothing of the kept version may hold up the wanted one.
            (Some(wanted), Some(kept)) => self.prepare(wanted).or_else(|| self.run(kept)),
            (Some(wanted), None) if self.can_run(wanted, &leaving) => self.run(wanted),
            _ => None,
        };
        step.or_else(|| leaving.iter().find_map(|uid| self.clear(uid)))
    }

    /// Whether nothing that an earlier instance of the same version left has to go first.
    fn can_run(&self, version: &StaticPod, leaving: &[&str]) -> bool {
        let uid = version.uid.as_str();
        !leaving.contains(&uid) && !self.view.memory.is_being_cleared(uid)
    }

    /// Versions that are to go: all but the wanted and the kept one, and those on their way out.
    fn leaving(&self, kept: Option<&Arc<StaticPod>>) -> Vec<&'a str> {
        let view = self.view;
        let stays = |uid: &str| {
            let named = [view.wanted, kept].into_iter().flatten();
            named.into_iter().any(|v| v.uid == uid) && !view.memory.terminating.contains(uid)
        };
        let traces = view.memory.traces.iter().map(String::as_str);
        let mut uids: Vec<&str> = view.observed.uids().chain(traces).collect();
        uids.sort_unstable();
        uids.dedup();
        uids.retain(|uid| !stays(uid));
        uids
    }

    /// A version that is wanted again after its end starts without waiting for a clean-up that fails.
    fn start_again(&self) -> Option<Step> {
        let (memory, uid) = (self.view.memory, self.view.wanted?.uid.as_str());
        let ended = memory.terminating.contains(uid)
            && !self.holds_processes(uid)
            && !memory.is_being_cleared(uid);
        let fails = ended && cleanup_failure(self.view, uid).is_some();
        fails.then(|| Step::StartAgain { uid: uid.into() })
    }

    fn holds_processes(&self, uid: &str) -> bool {
        let observed = self.view.observed;
        observed.containers_of(uid).any(Container::is_live)
            || observed.sandboxes_of(uid).any(|s| self.holds_up(s))
    }

    /// Whether nothing may start in place of this sandbox yet. One that is not ready has no process left,
    /// and addresses and ports are free: what the network plugin does not give back holds nobody up.
    fn holds_up(&self, sandbox: &Sandbox) -> bool {
        let removal = Subject::Removal(sandbox.id.clone());
        let memory = self.view.memory;
        let hangs = |begun: &Moment| begun.after(SANDBOX_STOP) <= self.view.now;
        let fails = memory.failures.contains_key(&removal)
            || memory.under_way.get(&removal).is_some_and(hangs);
        sandbox.ready || self.needs_stop(sandbox) && !fails
    }

    fn needs_stop(&self, sandbox: &Sandbox) -> bool {
        sandbox.ready || !self.view.memory.stopped_sandboxes.contains(&sandbox.id)
    }

    /// Ends a version's processes: containers with grace, then sandboxes.
    fn stop(&mut self, uid: &str) -> Option<Step> {
        let observed = self.view.observed;
        if observed.containers_of(uid).any(Container::is_live) {
            let step = Step::Terminate { uid: uid.into() };
            return self.unless_failing(&Subject::Stop(uid.into()), step);
        }
        let standing = observed.sandboxes_of(uid).filter(|s| self.needs_stop(s));
        self.first_of(standing.map(|s| s.id.clone()).collect(), |id| {
            Step::StopSandbox { id }
        })
    }

    /// Removes what a stopped version left: in the runtime first, then on the node.
    fn clear(&mut self, uid: &str) -> Option<Step> {
        let observed = self.view.observed;
        if self.is_cleaning() {
            return None;
        }
        let stopped = observed.sandboxes_of(uid).filter(|s| !self.needs_stop(s));
        let sandboxes = stopped.map(|s| s.id.clone()).collect();
        let step = self.first_of(sandboxes, |id| Step::RemoveSandbox { id });
        if step.is_some() {
            return step;
        }
        let containers = observed.containers_of(uid).map(|c| c.id.clone()).collect();
        let step = self.first_of(containers, |id| Step::RemoveContainer { id });
        if step.is_some() {
            return step;
        }
        let traces = self.view.memory.traces.contains(uid);
        if observed.has_none_of(uid) && traces {
            let step = Step::ClearTraces { uid: uid.into() };
            return self.unless_failing(&Subject::Traces(uid.into()), step);
        }
        None
    }

    /// Makes ready for a version to take over, while the old one runs.
    fn prepare(&mut self, version: &StaticPod) -> Option<Step> {
        let uid = &version.uid;
        if !self.view.memory.admitted.contains(uid) {
            return self.admit(uid);
        }
        let image =
            wanted_images(version).find_map(|image| self.want_image(version, &image.holder));
        if image.is_some() {
            return image;
        }
        // Another version comes once a manifest has what is missing.
        if !unmet(version).is_empty() {
            return self.report_missing(version);
        }
        if !self.view.memory.checked.contains(uid) {
            return self.check_volumes(uid);
        }
        if !is_prepared(self.view, version) || self.view.memory.turns.contains(uid) {
            return None;
        }
        let step = Step::TakeTurn { uid: uid.clone() };
        self.unless_failing(&Subject::Turn(uid.clone()), step)
    }

    /// Has the check of the volumes fail for objects that no manifest has, so that events tell of them. Those
    /// that came with the Pod are given the time to be read.
    fn report_missing(&mut self, version: &StaticPod) -> Option<Step> {
        if unmet(version).is_empty() {
            return None;
        }
        let seen = self.view.memory.seen.get(&version.uid);
        let come = seen.map(|(_, seen)| seen.after(OBJECTS_COME));
        if come.is_some_and(|come| self.must_wait_until(come)) {
            return None;
        }
        self.check_volumes(&version.uid)
    }

    fn check_volumes(&mut self, uid: &str) -> Option<Step> {
        let uid = uid.to_owned();
        let subject = Subject::Volumes(uid.clone());
        self.unless_failing(&subject, Step::CheckVolumes { uid })
    }

    /// Brings a version up and keeps it up.
    fn run(&mut self, version: &StaticPod) -> Option<Step> {
        let observed = self.view.observed;
        let uid = version.uid.as_str();
        if is_finished(self.view, version) {
            return self.wind_up(version);
        }
        if let Some(step) = self.fail(version) {
            return Some(step);
        }
        if observed.has_none_of(uid) && self.is_held_for_objects(version) {
            return self.report_missing(version);
        }
        if observed.has_none_of(uid) && !self.view.memory.admitted.contains(uid) {
            return self.admit(uid);
        }
        let current = observed.ready_sandbox(uid);
        if let Some(due) = restart_all_due(self.view, version) {
            let waits = self.must_wait_until(due);
            return (!waits).then(|| Step::RestartAll { uid: uid.into() });
        }
        let stray = self.stray(uid, current);
        let waits_for_strays = !stray.is_empty();
        let step = self.clear_the_way(uid, current, stray);
        if step.is_some() || waits_for_strays || self.waits_for_stops(uid, current) {
            return step;
        }
        if let Some(step) = self.stop_given_up(uid) {
            return Some(step);
        }
        let wants: Vec<(&ContainerSpec, Start)> = self
            .due(version, current)
            .into_iter()
            .filter(|spec| unmet_by_container(version, &spec.name).is_empty())
            .filter_map(|spec| Some((spec, self.wanted_start(version, spec, current)?)))
            .collect();
        let image = self.image_for(version, &wants);
        if image.is_some() {
            return image;
        }
        let step = match current {
            Some(sandbox) => self.start_first_of(version, wants, sandbox),
            // Its images are looked for first, and that takes no time.
            None if wants
                .iter()
                .any(|(spec, _)| self.is_checking(version, spec)) =>
            {
                None
            }
            None => self.run_sandbox(uid),
        };
        step.or_else(|| self.report_missing(version))
            .or_else(|| self.collect_garbage(version))
    }

    /// Whether a version waits as a whole for objects that no manifest has. As with the kubelet it does
    /// for those behind its volumes, and a variable holds up its container alone. Once a manifest has what
    /// is missing another version comes, so one that came with its objects is given the time to do so.
    fn is_held_for_objects(&mut self, version: &StaticPod) -> bool {
        if unmet(version).is_empty() {
            return false;
        }
        let starts = |spec: &ContainerSpec| unmet_by_container(version, &spec.name).is_empty();
        let can_start = match init_containers(version).first() {
            Some(first) => starts(first),
            None => containers(version).iter().any(starts),
        };
        if !can_start || !unmet_by_volumes(version).is_empty() {
            return true;
        }
        let seen = self.view.memory.seen.get(&version.uid);
        seen.is_some_and(|(_, seen)| self.must_wait_until(seen.after(OBJECTS_COME)))
    }

    /// Ends what is left running of a version that is over.
    fn wind_up(&mut self, version: &StaticPod) -> Option<Step> {
        let (uid, observed) = (version.uid.as_str(), self.view.observed);
        if let Some(step) = self.stop_live(uid, Why::Over) {
            return Some(step);
        }
        let ready = observed.sandboxes_of(uid).filter(|s| s.ready);
        let ids = ready.map(|s| s.id.clone()).collect();
        self.first_of(ids, |id| Step::StopSandbox { id })
            .or_else(|| self.collect_garbage(version))
    }

    /// A version that has run for longer than it may has failed (API reference,
    /// `activeDeadlineSeconds`).
    fn fail(&mut self, version: &StaticPod) -> Option<Step> {
        let due = deadline(self.view, version)?;
        if self.must_wait_until(due) {
            return None;
        }
        Some(Step::Fail {
            uid: version.uid.clone(),
            reason: "DeadlineExceeded",
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
        })
    }

    /// Stops a container that its probes or the hook after its start gave up. A stop that was begun goes
    /// on, whatever they say since.
    fn stop_given_up(&mut self, uid: &str) -> Option<Step> {
        let memory = self.view.memory;
        let why = |c: &Container| {
            if let Some(given_up) = memory.given_up(c) {
                return Some(given_up.why);
            }
            if let Some(PostStart::Failed(_)) = memory.post_starts.get(&c.id) {
                return Some(Why::PostStart);
            }
            match memory.health(&c.id).failed?.kind {
                Kind::Liveness => Some(Why::Liveness),
                Kind::Startup => Some(Why::Startup),
                Kind::Readiness => None,
            }
        };
        let running = self.view.observed.containers_of(uid);
        let running = running.filter(|c| matches!(c.state, State::Running { .. }));
        let given_up = running.filter_map(|c| Some((c.id.clone(), why(c)?)));
        let given_up: Vec<(String, Why)> = given_up.collect();
        given_up.into_iter().find_map(|(id, why)| {
            let (uid, ids) = (uid.to_owned(), vec![id.clone()]);
            let step = Step::StopContainers { uid, ids, why };
            self.unless_failing(&Subject::Removal(id), step)
        })
    }

    /// A step to find out whether a version can run here, unless it was found not to.
    fn admit(&self, uid: &str) -> Option<Step> {
        let rejected = self.view.memory.rejections.contains_key(uid);
        (!rejected).then(|| Step::Admit { uid: uid.into() })
    }

    /// Ends every container of a version that still runs.
    fn stop_live(&mut self, uid: &str, why: Why) -> Option<Step> {
        let live = self.view.observed.containers_of(uid);
        let live = live.filter(|c| c.is_live()).map(|c| c.id.clone());
        let ids: Vec<String> = live.collect();
        if ids.is_empty() {
            return None;
        }
        let subject = Subject::Stop(uid.to_owned());
        let uid = uid.to_owned();
        self.unless_failing(&subject, Step::StopContainers { uid, ids, why })
    }

    /// The containers that may run now: those that must come first until the first that is not done,
    /// and the Pod's own once all are. Where one of its own was made in this sandbox, all were done
    /// (Kubernetes, Init Containers, and Sidecar Containers). Nothing comes after a container whose
    /// hook after its start still runs.
    fn due<'v>(&self, version: &'v StaticPod, current: Option<&Sandbox>) -> Vec<&'v ContainerSpec> {
        let memory = self.view.memory;
        let here = |name: &str| {
            let history = self.view.observed.history_of(&version.uid, name);
            let last = history.into_iter().next();
            last.filter(|c| current.is_some_and(|s| s.id == c.sandbox) && !memory.is_replaced(c))
        };
        let hooked = |c: &Container| {
            let hook = memory.post_starts.get(&c.id);
            c.is_live() && matches!(hook, Some(PostStart::Running | PostStart::Interrupted))
        };
        let initialized = containers(version).iter().any(|c| here(&c.name).is_some());
        let mut due = vec![];
        for spec in init_containers(version) {
            let last = here(&spec.name);
            let done = match (is_sidecar(spec), last.map(|c| &c.state)) {
                (true, state) => {
                    due.push(spec);
                    let started = last.is_some_and(|c| {
                        let works = memory.given_up(c).is_none() && !hooked(c);
                        works && memory.health(&c.id).started
                    });
                    matches!(state, Some(State::Running { .. })) && started
                }
                (false, Some(State::Exited(exit))) if exit.code == 0 => true,
                (false, _) if initialized => true,
                (false, _) => {
                    due.push(spec);
                    false
                }
            };
            if !done && !initialized {
                return due;
            }
        }
        for spec in containers(version) {
            due.push(spec);
            if here(&spec.name).is_some_and(hooked) {
                break;
            }
        }
        due
    }

    /// A step towards the images of what has to be made.
    fn image_for(
        &mut self,
        version: &StaticPod,
        wants: &[(&ContainerSpec, Start)],
    ) -> Option<Step> {
        let made = wants
            .iter()
            .filter(|(_, start)| matches!(start, Start::Anew { .. }));
        let own = made
            .clone()
            .find_map(|(spec, _)| self.want_image(version, &spec.name));
        let mut volumes = made.flat_map(|(spec, _)| image_volumes(version, spec));
        own.or_else(|| volumes.find_map(|holder| self.want_image(version, &holder)))
    }

    /// The ids of live containers that are not in the current sandbox, or that a newer one of their
    /// name replaced.
    fn stray(&self, uid: &str, current: Option<&Sandbox>) -> Vec<String> {
        let observed = self.view.observed;
        let stray = observed.containers_of(uid).filter(|c| {
            let outside = current.is_none_or(|s| s.id != c.sandbox);
            let newer = |o: &Container| o.name == c.name && o.attempt > c.attempt;
            let replaced = || observed.containers_of(uid).any(newer);
            let replaced = replaced() || self.view.memory.is_replaced(c);
            c.is_live() && (outside || c.state == State::Unknown || replaced)
        });
        stray.map(|c| c.id.clone()).collect()
    }

    /// Ends what would otherwise run beside the current sandbox's containers.
    fn clear_the_way(
        &mut self,
        uid: &str,
        current: Option<&Sandbox>,
        stray: Vec<String>,
    ) -> Option<Step> {
        if !stray.is_empty() {
            let floored = |c: &Container| stray.contains(&c.id) && self.view.memory.is_replaced(c);
            let all = self.view.observed.containers_of(uid).any(floored);
            let why = if all { Why::RestartAll } else { Why::Stray };
            let (uid, ids) = (uid.to_owned(), stray);
            let subject = Subject::Stop(uid.clone());
            return self.unless_failing(&subject, Step::StopContainers { uid, ids, why });
        }
        let ids = self.dead_sandboxes(uid, current);
        self.first_of(ids, |id| Step::StopSandbox { id })
    }

    /// The other sandboxes of a version that still have to be stopped.
    fn dead_sandboxes(&self, uid: &str, current: Option<&Sandbox>) -> Vec<String> {
        let others = self.view.observed.sandboxes_of(uid);
        let others = others.filter(|s| current.is_none_or(|c| c.id != s.id) && self.needs_stop(s));
        others.map(|s| s.id.clone()).collect()
    }

    /// Whether a sandbox is being stopped whose network and ports the next one may need; a stop that hangs
    /// is not waited for.
    fn waits_for_stops(&mut self, uid: &str, current: Option<&Sandbox>) -> bool {
        let ids = self.dead_sandboxes(uid, current);
        let begun = ids.into_iter().filter_map(|id| {
            let subject = Subject::Removal(id);
            self.view.memory.under_way.get(&subject).copied()
        });
        let begun = begun.max();
        begun.is_some_and(|begun| self.must_wait_until(begun.after(SANDBOX_STOP)))
    }

    fn run_sandbox(&mut self, uid: &str) -> Option<Step> {
        let newest = self.view.observed.newest_sandbox(uid);
        let subject = Subject::Sandbox(uid.into());
        if let Some(dead) = newest.filter(|s| s.attempt > 0) {
            let made = self.view.memory.last_made(&subject, dead.created);
            if self.must_wait_until(made.after(SANDBOX_INTERVAL)) {
                return None;
            }
        }
        let next = newest.map_or(0, |s| s.attempt.saturating_add(1));
        let step = Step::RunSandbox {
            uid: uid.into(),
            attempt: self.view.memory.free_attempt(&subject, next),
        };
        self.unless_failing(&subject, step)
    }

    /// How a container has to be started now, if it has to; what must wait sets the alarm.
    fn wanted_start(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        current: Option<&Sandbox>,
    ) -> Option<Start> {
        let history = self.view.observed.history_of(&version.uid, &spec.name);
        let subject = Subject::Container(version.uid.clone(), spec.name.clone());
        let next = history.first().map_or(0, |c| c.attempt.saturating_add(1));
        let attempt = self.view.memory.free_attempt(&subject, next);
        let Some(last) = history.first() else {
            let backoff = None;
            return Some(Start::Anew { attempt, backoff });
        };
        match &last.state {
            State::Running { .. } | State::Unknown => None,
            State::Created if current.is_some_and(|s| s.id == last.sandbox) => {
                Some(Start::Made(last.id.clone()))
            }
            // Made in a sandbox that died before it was started: it never ran, so nothing is owed.
            State::Created => Some(Start::Anew {
                attempt,
                backoff: last.backoff,
            }),
            // Its sandbox died before it ran: nothing is owed for that either.
            State::Exited(exit)
                if exit.started_at <= 0
                    && !last.gone
                    && current.is_none_or(|s| s.id != last.sandbox)
                    && restart(self.view, version, last, exit) != Restart::Never =>
            {
                Some(Start::Anew {
                    attempt,
                    backoff: last.backoff,
                })
            }
            // What must come first comes first in every sandbox.
            State::Exited(exit)
                if exit.code == 0
                    && role(version, &spec.name) == Role::Init
                    && current.is_none_or(|s| s.id != last.sandbox) =>
            {
                Some(Start::Anew {
                    attempt,
                    backoff: None,
                })
            }
            State::Exited(exit) => match restart(self.view, version, last, exit) {
                Restart::Never => None,
                Restart::At(due, _) if self.must_wait_until(due) => {
                    // What is told of a start that failed changes before.
                    let retry = waiting::retry(self.view, version, &spec.name);
                    retry.map(|retry| self.must_wait_until(retry));
                    None
                }
                Restart::At(..) => Some(Start::Anew {
                    attempt,
                    backoff: restart_backoff(self.view, version, last, exit).recorded,
                }),
            },
        }
    }

    /// Starts the first container that can be. Those of a new sandbox start in the manifest's order: one
    /// whose image is being pulled holds up those after it, as with the kubelet. One that ran before
    /// waits for nobody.
    fn start_first_of(
        &mut self,
        version: &StaticPod,
        wants: Vec<(&ContainerSpec, Start)>,
        sandbox: &Sandbox,
    ) -> Option<Step> {
        let mut held_up = false;
        for (spec, start) in wants {
            held_up = held_up || self.is_pulling(version, spec);
            if held_up && matches!(start, Start::Anew { attempt: 0, .. }) {
                continue;
            }
            let step = self.start(version, spec, sandbox, start);
            if step.is_some() {
                return step;
            }
        }
        None
    }

    fn is_pulling(&self, version: &StaticPod, spec: &ContainerSpec) -> bool {
        self.is_checking(version, spec)
            || self.has_image(version, spec, |image| {
                matches!(image, Image::Pulling { .. })
            })
    }

    fn is_checking(&self, version: &StaticPod, spec: &ContainerSpec) -> bool {
        self.has_image(version, spec, |image| matches!(image, Image::Checking(_)))
    }

    /// Whether one of the images that a container needs is in such a state.
    fn has_image(
        &self,
        version: &StaticPod,
        spec: &ContainerSpec,
        test: impl Fn(&Image) -> bool,
    ) -> bool {
        let mut holders = image_volumes(version, spec).chain([spec.name.clone()]);
        holders.any(|holder| {
            let image = self.view.memory.images.get(&(version.uid.clone(), holder));
            image.is_some_and(&test)
        })
    }

    fn start(
        &mut self,
        version: &StaticPod,
        spec: &ContainerSpec,
        sandbox: &Sandbox,
        start: Start,
    ) -> Option<Step> {
        let uid = version.uid.clone();
        let container = spec.name.clone();
        let subject = Subject::Container(uid.clone(), container.clone());
        let step = match start {
            Start::Made(id) => Step::StartContainer { uid, container, id },
            Start::Anew { attempt, backoff } => {
                let memory = self.view.memory;
                let volumes = image_volumes(version, spec);
                let mut holders = volumes.chain([container.clone()]);
                if !holders.all(|holder| at_hand(memory, version, &holder)) {
                    return None;
                }
                Step::RunContainer {
                    uid,
                    sandbox: sandbox.id.clone(),
                    container,
                    attempt,
                    backoff,
                }
            }
        };
        self.unless_failing(&subject, step)
    }

    /// A step towards a container's image, if one is due.
    fn want_image(&mut self, version: &StaticPod, container: &str) -> Option<Step> {
        let key = (version.uid.clone(), container.to_owned());
        match self.view.memory.images.get(&key) {
            Some(Image::Ready { .. } | Image::Checking(_) | Image::Pulling { .. }) => {
                return None;
            }
            Some(Image::Failed { retry, .. }) if self.must_wait_until(*retry) => return None,
            Some(Image::Failed { .. }) | None => {}
        }
        let (uid, container) = key;
        Some(Step::WantImage { uid, container })
    }

    /// Removes containers and sandboxes that nobody needs any more. Of each name the newest container
    /// stays, and beside one that is not over the last one that is, for its log.
    fn collect_garbage(&mut self, version: &StaticPod) -> Option<Step> {
        if self.is_cleaning() {
            return None;
        }
        let observed = self.view.observed;
        let uid = version.uid.as_str();
        let mut old: Vec<String> = vec![];
        for spec in all_containers(version) {
            let history = observed.history_of(uid, &spec.name);
            let Some((newest, older)) = history.split_first() else {
                continue;
            };
            let mut kept = newest.exit().is_some();
            for container in older.iter().filter(|c| !c.is_live()) {
                if !kept && container.exit().is_some() {
                    kept = true;
                } else {
                    old.push(container.id.clone());
                }
            }
        }
        let step = self.first_of(old, |id| Step::RemoveContainer { id });
        if step.is_some() {
            return step;
        }
        let newest = observed.newest_sandbox(uid).map(|s| s.id.clone());
        let empty = |s: &&Sandbox| !observed.containers_of(uid).any(|c| c.sandbox == s.id);
        let old = observed
            .sandboxes_of(uid)
            .filter(|s| !s.ready)
            .filter(empty);
        let old = old.filter(|s| newest.as_ref() != Some(&s.id));
        self.first_of(old.map(|s| s.id.clone()).collect(), |id| {
            Step::RemoveSandbox { id }
        })
    }

    /// The step for the first of these ids that did not just fail.
    fn first_of(&mut self, ids: Vec<String>, step: impl Fn(String) -> Step) -> Option<Step> {
        ids.into_iter()
            .find_map(|id| self.unless_failing(&Subject::Removal(id.clone()), step(id)))
    }

    /// Whether something of the Pod is being removed: that goes on beside its steps, one at a time.
    fn is_cleaning(&self) -> bool {
        let mut under_way = self.view.memory.under_way.keys();
        under_way.any(|subject| matches!(subject, Subject::Removal(_) | Subject::Traces(_)))
    }

    /// The step, unless it is under way or failed a short while ago.
    fn unless_failing(&mut self, subject: &Subject, step: Step) -> Option<Step> {
        if let Some(begun) = self.view.memory.under_way.get(subject) {
            // From then on it counts as one that hangs.
            self.must_wait_until(begun.after(SANDBOX_STOP));
            return None;
        }
        match self.view.memory.failures.get(subject) {
            Some(failure) if self.must_wait_until(failure.retry) => None,
            _ => Some(step),
        }
    }

    fn must_wait_until(&mut self, due: Moment) -> bool {
        let early = due > self.view.now;
        if early {
            self.wake = Some(self.wake.map_or(due, |wake| wake.min(due)));
        }
        early
    }
}

/// The images behind volumes that a container has mounted, by what stands for them.
pub(super) fn image_volumes<'a>(
    version: &'a StaticPod,
    spec: &'a ContainerSpec,
) -> impl Iterator<Item = String> + 'a {
    let volumes = version.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let volumes = volumes.into_iter().flatten().filter(|v| v.image.is_some());
    let mounted = |v: &&Volume| {
        spec.volume_mounts
            .iter()
            .flatten()
            .any(|m| m.name == v.name)
    };
    volumes.filter(mounted).map(|v| volume_holder(&v.name))
}

/// How a container comes to run.
enum Start {
    /// It is made and only has to be started.
    Made(String),
    /// It is made first.
    Anew {
        attempt: u32,
        backoff: Option<Duration>,
    },
}

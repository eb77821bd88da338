//! History of one version beyond what the runtime has of it: how its containers last stood, how it
//! ended for good, and since when its conditions hold.
//!
//! A small file in the Pod's folder, written whenever it changes. It is what makes a status stable over
//! restarts of the agent, and a container that somebody removed no reason to run it again. Losing it
//! costs what it says, never a running container.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::manifest::Uid;
use crate::pod::state::Phase;
use crate::pod::state::observed::{Container, ContainerId, Exit, Observed, SandboxId, State};
use crate::pod::state::time::{Clock, MonotonicTime, Timestamp};
use crate::units::time::{bounded, nanos};

/// Exit code of a container whose end nobody saw: killed.
const UNSEEN_EXIT: i32 = 137;

/// The history of one version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The newest instance of each container, by name. Boxed, for a map has room for four.
    // An empty one would be written as a list, which earlier versions do not read.
    #[serde(skip_serializing_if = "LiteMap::is_empty")]
    pub containers: LiteMap<String, Box<Instance>>,
    /// By container name: instances with a lower attempt are to be replaced, whatever they ended with,
    /// since all of the Pod restarts.
    #[serde(rename = "restart_before_attempt")]
    pub restart_before_attempt: BTreeMap<String, u64>,
    /// By container id: instances that do not work and are stopped for that. Those that are over stay
    /// until another takes their place.
    #[serde(rename = "failed_instance")]
    pub failed_instances: BTreeMap<ContainerId, FailedInstance>,
    /// The IDs of the containers whose postStart hook is not done.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub post_starts: BTreeSet<ContainerId>,
    /// The IDs of the instances that were asked to be restarted. Each stays until another takes its place.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub restarts: BTreeSet<ContainerId>,
    /// The end of the Pod for good, if it has ended.
    pub finished: Option<Finished>,
    /// The Pod's conditions.
    pub conditions: Vec<Condition>,
    /// True if it ever was Ready for a while.
    pub was_good: bool,
    /// The Pod's addresses, the first one first.
    pub ips: Vec<String>,
    /// The ids of the containers that were ready.
    pub ready: Vec<ContainerId>,
    /// The ids of the containers whose startup probe had passed.
    pub started: Vec<ContainerId>,
}

/// The newest instance of a container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The runtime's id.
    pub id: ContainerId,
    /// The sandbox it lived in.
    pub sandbox: SandboxId,
    /// Counts the instances, from 0.
    pub attempt: u32,
    /// The image's name.
    pub image: String,
    /// Digest or id of the image.
    pub image_ref: String,
    /// The wait before its start, in seconds, where it was not the first.
    pub backoff: Option<u64>,
    /// Its end; nothing while it was not seen to end.
    pub exit: Option<Ended>,
    /// Start, in nanoseconds since the epoch; 0 if it was not seen to.
    pub started_at: i64,
    /// The last instance before it that was seen to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
}

/// An instance of a container that ended and has a successor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// The runtime's ID.
    pub id: ContainerId,
    /// Its start, in nanoseconds since the epoch; 0 if it was not seen.
    pub started_at: i64,
    /// Its end.
    pub ended: Ended,
}

/// The stop of an instance that does not work. It goes on as it began, over restarts of the agent too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedInstance {
    /// Reason of the stop.
    #[serde(rename = "reason")]
    pub reason: StopReason,
    /// Message of the postStart hook, where that failed.
    pub message: String,
    /// Start of the stop.
    pub since: Timestamp,
    /// The instance's grace period, in seconds.
    pub grace_period: i64,
}

/// The reason for which single containers are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// They stand in the way: in a dead sandbox, or replaced by a newer one.
    Stray,
    /// The containers that they accompanied are over.
    Over,
    /// Their liveness probe failed too often.
    Liveness,
    /// Their startup probe failed too often.
    Startup,
    /// The hook after their start failed.
    PostStart,
    /// All containers of the Pod restart.
    RestartAll,
    /// Somebody asked for their restart.
    Requested,
    /// The machine shuts down.
    Shutdown,
}

/// The end of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// The runtime's word for it.
    pub reason: String,
    /// The explanation: the runtime's, and the container's own termination message.
    pub message: String,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
}

/// The end of a Pod for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Succeeded or Failed.
    pub phase: Phase,
    /// Reason, where it was not its containers' own doing: `DeadlineExceeded`, …
    pub reason: String,
    /// Details for people.
    pub message: String,
    /// Time at which that was found, in nanoseconds since the epoch; 0 where it is not known.
    #[serde(default)]
    pub since: i64,
}

/// A condition of the Pod, with the time since which it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// `Ready`, `Initialized`, …
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// Nanoseconds since the epoch.
    pub since: i64,
}

impl History {
    /// Takes over how the newest instance of each container of this UID stands.
    pub fn update(&mut self, observed: &Observed, uid: &Uid) {
        let mut observed: Vec<&Container> = observed.containers_of(uid).collect();
        observed.sort_by_key(|c| c.attempt);
        for container in observed {
            let known = self.containers.get(&container.name);
            if known.is_none_or(|known| known.attempt <= container.attempt) {
                let instance = Instance {
                    previous: known.and_then(|known| known.before(container)),
                    ..Instance::of(container)
                };
                self.containers
                    .insert(container.name.clone(), Box::new(instance));
            }
        }
        let newest: BTreeSet<&ContainerId> = self.containers.values().map(|i| &i.id).collect();
        self.failed_instances.retain(|id, _| newest.contains(id));
        self.post_starts.retain(|id| newest.contains(id));
        self.restarts.retain(|id| newest.contains(id));
    }

    /// The containers of this UID that the runtime had and has not any more, as the history has them. One
    /// that was not seen to end has ended without anybody knowing how.
    #[must_use]
    pub fn gone(&self, observed: &Observed, uid: &Uid, clock: &Clock) -> Vec<Container> {
        let is_lost = |name: &str, instance: &Instance| {
            if instance.exit.is_none() && instance.started_at == 0 {
                return false;
            }
            let mut named = observed.containers_of(uid).filter(|c| c.name == name);
            !named.any(|c| c.attempt >= instance.attempt)
        };
        let known = self.containers.iter();
        let lost = known.filter(|(name, instance)| is_lost(name, instance));
        lost.map(|(name, instance)| instance.revive(uid, name, clock))
            .collect()
    }

    /// The version has ended for good, and no restart that was requested before comes any more.
    pub fn end(&mut self, finished: Finished) {
        self.finished = Some(finished);
        self.restarts.clear();
    }

    /// Returns true if it says anything of the container with this id.
    #[must_use]
    pub fn mentions(&self, id: &ContainerId) -> bool {
        self.containers.values().any(|instance| instance.id == *id)
            || self.failed_instances.contains_key(id)
            || self.post_starts.contains(id)
            || self.restarts.contains(id)
    }

    /// The container with this id was removed by us.
    pub fn forget(&mut self, id: &ContainerId) {
        self.containers.retain(|_, instance| instance.id != *id);
        self.failed_instances.remove(id);
        self.post_starts.remove(id);
        self.restarts.remove(id);
    }

    /// Returns true if an instance is to be replaced, whatever it ended with.
    #[must_use]
    pub fn is_replaced(&self, container: &Container) -> bool {
        let before = self.restart_before_attempt.get(&container.name);
        before.is_some_and(|before| u64::from(container.attempt) < *before)
    }

    /// From now on this instance and those before it are to be replaced.
    pub fn replace(&mut self, container: &Container) {
        let before = self
            .restart_before_attempt
            .entry(container.name.clone())
            .or_default();
        *before = (*before).max(u64::from(container.attempt).saturating_add(1));
    }

    /// Returns true if the Pod, as it was last remembered, had been Ready for this long at a time (nanoseconds
    /// since the epoch).
    #[must_use]
    pub fn was_ready_for(&self, duration: Duration, now: i64) -> bool {
        let mut conditions = self.conditions.iter();
        let ready = conditions.find(|c| c.kind == "Ready" && c.status == "True");
        ready.is_some_and(|c| now.saturating_sub(c.since) >= nanos(duration))
    }

    /// Returns true if anything in it that must not be lost differs from `before`: how containers ended.
    #[must_use]
    pub fn is_weightier_than(&self, before: &Self) -> bool {
        let ends = |history: &Self| -> Vec<(String, u32, bool)> {
            let instances = history.containers.iter();
            instances
                .map(|(name, i)| (name.clone(), i.attempt, i.exit.is_some()))
                .filter(|(.., ended)| *ended)
                .collect()
        };
        self.finished != before.finished
            || self.was_good != before.was_good
            || self.restart_before_attempt != before.restart_before_attempt
            || self.failed_instances != before.failed_instances
            || self.restarts != before.restarts
            || ends(self) != ends(before)
    }
}

impl Instance {
    /// The last end before that of this newest instance, which follows `self` or is the same.
    fn before(&self, newest: &Container) -> Option<Previous> {
        let ended = self.exit.as_ref().filter(|_| self.attempt < newest.attempt);
        let own = ended.map(|ended| Previous {
            id: self.id.clone(),
            started_at: self.started_at,
            ended: ended.clone(),
        });
        own.or_else(|| self.previous.clone())
    }

    fn of(container: &Container) -> Self {
        let (exit, started_at) = match &container.state {
            State::Exited(exit) => (Some(Ended::of(exit)), exit.started_at),
            State::Running { started_at } => (None, *started_at),
            State::Created | State::Unknown => (None, 0),
        };
        Self {
            id: container.id.clone(),
            sandbox: container.sandbox.clone(),
            attempt: container.attempt,
            image: container.image.clone(),
            image_ref: container.image_ref.clone(),
            backoff: container.backoff.map(|wait| wait.as_secs()),
            exit,
            started_at,
            previous: None,
        }
    }

    fn revive(&self, uid: &Uid, name: &str, clock: &Clock) -> Container {
        let exit = match &self.exit {
            Some(ended) => Exit {
                ended: clock.monotonic_of(ended.finished_at),
                ..ended.exit(self.started_at)
            },
            None => Exit {
                code: UNSEEN_EXIT,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "the container was removed before its end was seen".to_owned(),
                started_at: self.started_at,
                finished_at: clock.wall_now(),
                ended: clock.now(),
            },
        };
        Container {
            id: self.id.clone(),
            sandbox: self.sandbox.clone(),
            uid: uid.clone(),
            name: name.to_owned(),
            attempt: self.attempt,
            state: State::Exited(exit),
            image: self.image.clone(),
            image_ref: self.image_ref.clone(),
            user: None,
            backoff: self.backoff.map(Duration::from_secs).map(bounded),
            grace_period: None,
            gone: true,
        }
    }
}

impl Ended {
    /// The same as an exit, of an instance with this start, without the agent's time.
    #[must_use]
    pub fn exit(&self, started_at: i64) -> Exit {
        Exit {
            code: self.code,
            reason: self.reason.clone(),
            message: self.message.clone(),
            started_at,
            finished_at: self.finished_at,
            ended: MonotonicTime::default(),
        }
    }

    fn of(exit: &Exit) -> Self {
        Self {
            code: exit.code,
            reason: exit.reason.clone(),
            message: exit.message.clone(),
            finished_at: exit.finished_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_of_no_containers_is_one_that_earlier_versions_read() {
        let mut history = History::default();
        history.end(Finished {
            reason: "DeadlineExceeded".to_owned(),
            ..Finished::default()
        });
        let written = serde_json::to_value(&history).unwrap();
        // They had a map, whose keys are those of an object.
        let containers = written.get("containers");
        assert!(
            containers.is_none_or(serde_json::Value::is_object),
            "{written}"
        );
        assert_eq!(serde_json::from_value::<History>(written).unwrap(), history);
        // And what they wrote is read.
        let theirs = r#"{"containers": {}, "ready": ["b", "a"], "finished": null}"#;
        let theirs: History = serde_json::from_str(theirs).unwrap();
        assert!(theirs.containers.is_empty() && theirs.ready == ["b", "a"].map(ContainerId::from));
    }
}

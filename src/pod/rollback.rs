//! Taking back an update that does not become Ready in time: the last version that was Ready runs again,
//! until the manifest changes once more.
//!
//! The state of it stands on disk, one small file for each Pod that is on trial or was taken
//! back, so that it holds over restarts of the agent at any time.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde::{Deserialize, Serialize};

use super::state::record::Record;
use super::state::time::Timestamp;
use crate::host::atomic_file;
use crate::json;
use crate::manifest::{PodKey, ROLLBACK_AFTER, StaticPod, Uid};
use crate::translate::Paths;
use crate::units::duration::parse_duration;
use crate::units::time::half;

/// An update that can be rolled back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// The last version that was Ready.
    pub good: Record,
    /// The UID of the version that came after it.
    pub uid: Uid,
    /// Time at which that began to run.
    pub since: Option<Timestamp>,
    /// Time since which it is Ready, if it is.
    pub ready_since: Option<Timestamp>,
    /// Message of its containers, once it was rolled back.
    pub failed: Option<String>,
}

/// A version that is Ready this long has passed its trial; one that starts and ends again and again is
/// Ready for short times too.
pub(super) const SETTLED: Duration = Duration::from_secs(10);

/// Returns the time that a version must be Ready to pass, by the time it has to become so.
#[must_use]
pub fn settled(limit: Duration) -> Duration {
    SETTLED.min(half(limit))
}

impl Rollback {
    /// Returns true if this version was taken back.
    #[must_use]
    pub fn has_failed(&self, uid: &Uid) -> bool {
        self.uid == *uid && self.failed.is_some()
    }

    /// Returns true if this version is on trial.
    #[must_use]
    pub fn is_trial(&self, uid: &Uid) -> bool {
        self.uid == *uid && self.failed.is_none()
    }
}

/// Returns the time that a version has to become Ready before it is rolled back: by its annotation, or else the
/// agent's setting; `None` where it is not taken back. An annotation of `0` switches it off.
#[must_use]
pub fn limit(version: &StaticPod, setting: Option<Duration>) -> Option<Duration> {
    let annotations = version.metadata.annotations.as_ref();
    let own = annotations.and_then(|all| all.get(ROLLBACK_AFTER));
    match own.map(|text| parse_duration(text)) {
        Some(Ok(limit)) => Some(limit).filter(|limit| !limit.is_zero()),
        // Acceptance refuses any other text.
        Some(Err(_)) => None,
        None => setting,
    }
}

/// Returns true if a status says that the version does what it is there for.
#[must_use]
pub fn is_good(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    status.phase.as_deref() == Some("Succeeded")
        || conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Returns the complaints of the containers of a version that is not Ready, for people.
#[must_use]
pub fn complaint(status: &PodStatus) -> String {
    let inits = status.init_container_statuses.iter().flatten();
    let all = inits.chain(status.container_statuses.iter().flatten());
    let messages: Vec<String> = all.filter(|s| !s.ready).map(of_container).collect();
    match (&status.reason, &status.message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        _ => messages.join("; "),
    }
}

fn of_container(status: &ContainerStatus) -> String {
    let name = &status.name;
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().unwrap_or_default();
    let mut parts = vec![format!("container {name}")];
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_default();
        let message = waiting.message.filter(|_| last.terminated.is_none());
        let message = message.map_or(String::new(), |message| format!(": {message}"));
        parts.push(format!("waits: {reason}{message}"));
    } else if state.running.is_some() {
        parts.push("runs and is not ready".to_owned());
    }
    if let Some(ended) = state.terminated.or(last.terminated) {
        let message = ended.message.unwrap_or_default();
        let gap = if message.is_empty() { "" } else { ": " };
        let (code, message) = (ended.exit_code, message.trim());
        parts.push(format!("(ended with exit code {code}{gap}{message})"));
    }
    parts.join(" ")
}

/// Reads the record of an update of this Pod, if there is a readable one.
#[must_use]
pub fn read(paths: &Paths, key: &PodKey) -> Option<Rollback> {
    let text = fs::read(file(paths, key)).ok()?;
    let rollback: Rollback = json::from_slice(&text).ok()?;
    (rollback.good.key() == *key).then_some(rollback)
}

/// The versions that are kept to go back to, of all Pods.
///
/// # Errors
/// The folder cannot be read; that it is not there is no error.
pub fn kept_records(paths: &Paths) -> io::Result<Vec<Record>> {
    let entries = match fs::read_dir(paths.rollbacks()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut records = vec![];
    for entry in entries {
        let text = fs::read(entry?.path())?;
        // One that is not whole is not gone back to either.
        let kept = json::from_slice::<Rollback>(&text).ok();
        records.extend(kept.map(|kept| kept.good));
    }
    Ok(records)
}

/// Keeps what is known of an update of this Pod, or that there is nothing to know.
///
/// # Errors
/// Any I/O error.
pub fn write(paths: &Paths, key: &PodKey, rollback: Option<&Rollback>) -> io::Result<()> {
    let file = file(paths, key);
    let Some(rollback) = rollback else {
        return match fs::remove_file(file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(paths.rollbacks())?;
    atomic_file::write(&file, &serde_json::to_vec(rollback)?)
}

fn file(paths: &Paths, key: &PodKey) -> PathBuf {
    // Neither names nor namespaces have a '_'.
    paths
        .rollbacks()
        .join(format!("{}_{}.json", key.namespace, key.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_containers_say_names_those_that_are_not_ready() {
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [
                {"name": "good", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "state": {"running": {}}},
                {"name": "bad", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                 "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                 "lastState": {"terminated": {"exitCode": 3, "message": "no database\n"}}},
                {"name": "slow", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"running": {}}},
            ],
        }))
        .unwrap();
        assert!(!is_good(&status));
        assert_eq!(
            complaint(&status),
            "container bad waits: CrashLoopBackOff (ended with exit code 3: no database); \
             container slow runs and is not ready"
        );
    }

    #[test]
    fn the_annotation_goes_before_the_setting() {
        let pod = |annotation: Option<&str>| {
            let mut text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "image": "i"}]}});
            if let Some(value) = annotation {
                text["metadata"]["annotations"] = json!({ROLLBACK_AFTER: value});
            }
            let bytes = text.to_string().into_bytes();
            let source = crate::manifest::SourceKind::File;
            crate::manifest::parse(&bytes, "n", source).unwrap().pod
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(limit(&pod(None), None), None);
        assert_eq!(limit(&pod(None), minute), minute);
        assert_eq!(limit(&pod(Some("0")), minute), None);
        assert_eq!(
            limit(&pod(Some("5s")), minute),
            Some(Duration::from_secs(5))
        );
    }
}

//! A Pod that is paused: it is stopped on request, and not started before it is resumed. A small file for each such
//! Pod, by its name and not its UID, so that it outlives boots and changes of the manifest; it goes with the manifest.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateWaiting, ContainerStatus, HostIP,
    PodCondition, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::encoded_status::EncodedStatus;
use super::report::{PodReport, PodSnapshot};
use super::state::Phase;
use super::state::progress::rfc3339;
use crate::host::atomic_file;
use crate::json;
use crate::manifest::PodKey;
use crate::source::DesiredPod;
use crate::translate::{NodeFacts, Paths, qos_class};

/// Reason of a paused Pod, of its conditions and of its containers that wait.
pub const PAUSED: &str = "Paused";
/// Message of a paused Pod.
pub(crate) const PAUSED_MESSAGE: &str =
    "Pod was paused on request, and is not started before it is resumed.";

/// The pause of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The Pod.
    pub pod: PodKey,
    /// Its beginning, in nanoseconds since the epoch.
    pub since: i64,
}

/// Reads the pause of this Pod, if there is one. A Pod whose file is there is paused, whatever can be read of it: nobody
/// else writes one.
#[must_use]
pub fn read(paths: &Paths, key: &PodKey) -> Option<Pause> {
    let text = match fs::read(file(paths, key)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        text => text,
    };
    let pause = text.and_then(|text| Ok(json::from_slice::<Pause>(&text)?));
    match pause {
        Ok(pause) if pause.pod == *key => Some(pause),
        pause => {
            let error = pause.err().map(|error| error.to_string());
            error!(pod = %key, error, "Failed to read the record of the Pod's pause, it stays paused");
            Some(Pause {
                pod: key.clone(),
                since: 0,
            })
        }
    }
}

/// The Pods that are paused.
///
/// # Errors
/// The folder cannot be read; that it is not there is no error.
pub fn list(paths: &Paths) -> io::Result<Vec<PodKey>> {
    let entries = match fs::read_dir(paths.pauses()) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut paused = vec![];
    for entry in entries {
        let name = entry?.file_name();
        let key = name.to_str().and_then(|name| {
            let (namespace, name) = name.strip_suffix(".json")?.split_once('_')?;
            Some(PodKey {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        });
        paused.extend(key);
    }
    Ok(paused)
}

/// Keeps the pause of this Pod, or that there is none.
///
/// # Errors
/// Any I/O error; the file is then as it was.
pub fn write(paths: &Paths, key: &PodKey, pause: Option<&Pause>) -> io::Result<()> {
    let (folder, file) = (paths.pauses(), file(paths, key));
    let Some(pause) = pause else {
        return match fs::remove_file(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            // A power cut may bring it back, which is no reason to keep the Pod stopped.
            Ok(()) => {
                if let Err(error) = atomic_file::sync_folder(&folder) {
                    warn!(pod = %key, %error, "Failed to sync the end of the Pod's pause");
                }
                Ok(())
            }
        };
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)?;
    atomic_file::write(&file, &serde_json::to_vec(pause)?)?;
    atomic_file::sync_folder(&folder).inspect_err(|_| {
        // What is not certain to last is not to stop the Pod at the next start.
        let _ = fs::remove_file(&file);
    })
}

fn file(paths: &Paths, key: &PodKey) -> PathBuf {
    // Neither names nor namespaces have a '_'.
    let name = format!("{}_{}.json", key.namespace, key.name);
    paths.pauses().join(name)
}

/// Returns the snapshot of a paused Pod of which nothing is left on the node.
#[must_use]
pub fn snapshot(facts: &NodeFacts, pause: &Pause, desired: &DesiredPod) -> PodSnapshot {
    let version = desired.pod.unpack();
    let warnings = desired.warnings.iter().map(ToString::to_string);
    let report = PodReport {
        namespace: pause.pod.namespace.clone(),
        name: pause.pod.name.clone(),
        uid: version.uid.to_string(),
        phase: Phase::Pending.as_str().to_owned(),
        reason: PAUSED.to_owned(),
        message: PAUSED_MESSAGE.to_owned(),
        since: rfc3339(pause.since),
        total: version.containers().len(),
        path: desired.origin.to_string(),
        warnings: warnings.collect(),
        paused: true,
        ..PodReport::default()
    };
    let statuses = |specs: &[ContainerSpec]| -> Vec<ContainerStatus> {
        specs.iter().map(container_status).collect()
    };
    let inits = statuses(version.init_containers());
    let ips = facts.identity.ips.all().into_iter();
    let status = PodStatus {
        phase: Some(report.phase.clone()),
        reason: Some(PAUSED.to_owned()),
        message: Some(PAUSED_MESSAGE.to_owned()),
        qos_class: Some(format!("{:?}", qos_class(&version.spec))),
        host_ip: facts.identity.ips.first(),
        host_ips: Some(ips.map(|ip| HostIP { ip }).collect()),
        container_statuses: Some(statuses(version.containers())),
        init_container_statuses: Some(inits).filter(|inits| !inits.is_empty()),
        conditions: Some(conditions(pause)),
        ..PodStatus::default()
    };
    PodSnapshot {
        report,
        version: Some(desired.pod.clone()),
        status: EncodedStatus::from(&status),
        ..PodSnapshot::default()
    }
}

fn container_status(spec: &ContainerSpec) -> ContainerStatus {
    ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        started: Some(false),
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(PAUSED.to_owned()),
                message: None,
            }),
            ..ContainerState::default()
        }),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    }
}

fn conditions(pause: &Pause) -> Vec<PodCondition> {
    let since = jiff::Timestamp::from_second(pause.since.div_euclid(1_000_000_000));
    let since = since.ok().map(Time);
    let condition = |kind: &str, holds: bool| PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: (!holds).then(|| PAUSED.to_owned()),
        last_transition_time: since.clone(),
        ..PodCondition::default()
    };
    vec![
        condition("PodReadyToStartContainers", false),
        condition("Initialized", false),
        condition("Ready", false),
        condition("ContainersReady", false),
        condition("PodScheduled", true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_kept_until_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            root: folder.path().join("root"),
            ..Paths::default()
        };
        fs::create_dir(&paths.root).unwrap();
        let key = |name: &str| PodKey {
            namespace: "default".into(),
            name: name.into(),
        };
        let pause = Pause {
            pod: key("web-n1"),
            since: 1_767_225_600_000_000_000,
        };
        assert_eq!(list(&paths).unwrap(), []);
        assert_eq!(read(&paths, &pause.pod), None);
        for _ in 0..2 {
            write(&paths, &pause.pod, Some(&pause)).unwrap();
            assert_eq!(read(&paths, &pause.pod), Some(pause.clone()));
            assert_eq!(read(&paths, &key("db-n1")), None);
            assert_eq!(list(&paths).unwrap(), std::slice::from_ref(&pause.pod));
        }
        // What cannot be read is a pause all the same, and other files are none.
        let bad = key("bad-n1");
        fs::write(file(&paths, &bad), "{").unwrap();
        fs::write(paths.pauses().join("stray"), "").unwrap();
        let mut paused = list(&paths).unwrap();
        paused.sort();
        assert_eq!(paused, [bad.clone(), pause.pod.clone()]);
        assert_eq!(read(&paths, &bad), Some(Pause { pod: bad, since: 0 }));
        for _ in 0..2 {
            write(&paths, &pause.pod, None).unwrap();
            assert_eq!(read(&paths, &pause.pod), None);
        }
    }
}

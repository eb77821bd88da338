//! A Pod's status as it is kept.

use std::fmt;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use crate::json;

/// A Pod's status, kept as JSON. As it is in [`PodStatus`] it takes five kilobytes even of a small Pod, and every Pod of
/// the node has one. Times have whole seconds, as everywhere in the API.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EncodedStatus {
    json: Box<[u8]>,
    is_ready: bool,
}

impl fmt::Debug for EncodedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.json))
    }
}

impl From<&PodStatus> for EncodedStatus {
    fn from(status: &PodStatus) -> Self {
        let encoded = Self::encode(status);
        debug_assert_eq!(&encoded.decode(), status);
        encoded
    }
}

impl EncodedStatus {
    /// Encodes a status of somebody else's, whose times may be finer.
    pub(crate) fn encode(status: &PodStatus) -> Self {
        // Maps of texts and numbers can always be written.
        let json = serde_json::to_vec(status).unwrap_or_default();
        let mut conditions = status.conditions.iter().flatten();
        Self {
            json: json.into_boxed_slice(),
            is_ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
        }
    }

    /// Returns the status.
    #[must_use]
    pub fn decode(&self) -> PodStatus {
        // Nothing else was ever written; where nothing was, there is no status yet.
        json::from_slice(&self.json).unwrap_or_default()
    }

    /// Returns the statuses of all containers, those of init containers first.
    pub fn container_statuses(&self) -> impl Iterator<Item = ContainerStatus> {
        let status = self.decode();
        let inits = status.init_container_statuses.into_iter().flatten();
        inits.chain(status.container_statuses.into_iter().flatten())
    }

    /// Returns true if the Pod's condition Ready holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::{
        ContainerState, ContainerStateRunning, PodCondition, PodIP, ResourceRequirements,
    };
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(ready: bool) -> PodStatus {
        let started_at = Some(Time(Timestamp::from_second(1_790_000_000).unwrap()));
        let memory = BTreeMap::from([("memory".to_owned(), Quantity("1Mi".to_owned()))]);
        PodStatus {
            phase: Some("Running".to_owned()),
            pod_ips: Some(vec![PodIP {
                ip: "10.0.0.1".to_owned(),
            }]),
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: if ready { "True" } else { "False" }.to_owned(),
                last_transition_time: started_at.clone(),
                ..PodCondition::default()
            }]),
            container_statuses: Some(vec![ContainerStatus {
                name: "c".to_owned(),
                ready,
                restart_count: 3,
                state: Some(ContainerState {
                    running: Some(ContainerStateRunning { started_at }),
                    ..ContainerState::default()
                }),
                resources: Some(ResourceRequirements {
                    requests: Some(memory.clone()),
                    ..ResourceRequirements::default()
                }),
                allocated_resources: Some(memory),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        }
    }

    #[test]
    fn what_is_kept_is_the_whole_status() {
        let ready = EncodedStatus::from(&status(true));
        assert_eq!(ready.decode(), status(true));
        assert!(ready.is_ready() && !EncodedStatus::from(&status(false)).is_ready());
        assert_eq!(ready, EncodedStatus::from(&status(true)));
        assert_ne!(ready, EncodedStatus::from(&status(false)));
        let empty = PodStatus::default();
        assert_eq!(EncodedStatus::default().decode(), empty);
        assert_eq!(EncodedStatus::from(&empty).decode(), empty);
    }
}

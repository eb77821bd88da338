//! A Pod that was accepted, and what is asked of its spec all over the agent.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::objects::Objects;
use super::requests::{all_containers, is_sidecar};
use super::{CONFIG_SOURCE, PodKey, SourceKind, StartAfter, WrittenDocument};
use crate::units::text_id;

text_id! {
    /// The UID of one version of a Pod.
    pub struct Uid
}

/// A Pod that was accepted: named, defaulted and identified.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StaticPod {
    /// Namespace and full name, as in the metadata.
    pub key: PodKey,
    /// 32 hex digits, as in the metadata.
    pub uid: Uid,
    /// The metadata with the name, namespace, UID and `kubernetes.io/config.*` annotations (all but
    /// `config.seen`) of a static Pod.
    pub metadata: Box<ObjectMeta>,
    /// The spec with the API's defaults filled in, and with the node's name and the toleration of a static
    /// Pod.
    pub spec: Box<PodSpec>,
    /// The document as it was written, from which the same Pod can be made again.
    pub document: WrittenDocument,
    /// The `ConfigMap`s and `Secret`s that it refers to.
    pub objects: Arc<Objects>,
    /// The Pods that are to be Ready before it starts for the first time.
    pub start_after: Option<Arc<StartAfter>>,
}

impl StaticPod {
    /// Returns the Pod as Kubernetes' API has it, without a status.
    #[must_use]
    pub fn to_pod(&self) -> Pod {
        Pod {
            metadata: ObjectMeta::clone(&self.metadata),
            spec: Some(PodSpec::clone(&self.spec)),
            status: None,
        }
    }

    /// The kind of source that it came from.
    #[must_use]
    pub fn source(&self) -> SourceKind {
        match self.annotation(CONFIG_SOURCE) {
            Some(source) if source == SourceKind::Http.as_str() => SourceKind::Http,
            _ => SourceKind::File,
        }
    }

    /// Returns the value of an annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// The containers, without those that come before them.
    #[must_use]
    pub fn containers(&self) -> &[Container] {
        &self.spec.containers
    }

    /// The init containers and sidecars, in the order of their start.
    #[must_use]
    pub fn init_containers(&self) -> &[Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// All containers, in the order of their start.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        all_containers(&self.spec)
    }

    /// Returns the container of this name, of whatever role.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|c| c.name == name)
    }

    /// Returns the role of the container of this name.
    #[must_use]
    pub fn role(&self, name: &str) -> ContainerRole {
        match self.init_containers().iter().find(|c| c.name == name) {
            Some(spec) if is_sidecar(spec) => ContainerRole::Sidecar,
            Some(_) => ContainerRole::Init,
            None => ContainerRole::Main,
        }
    }

    /// The Pod's volumes.
    #[must_use]
    pub fn volumes(&self) -> &[Volume] {
        self.spec.volumes.as_deref().unwrap_or_default()
    }

    /// Returns true if the Pod is on the host's network.
    #[must_use]
    pub fn is_on_host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    /// Returns the restart policy of a container: its own, or else the Pod's.
    #[must_use]
    pub fn restart_policy(&self, container: &str) -> RestartPolicy {
        let own = self.container(container);
        let own = own.and_then(|spec| spec.restart_policy.as_deref());
        RestartPolicy::of(own.or(self.spec.restart_policy.as_deref()))
    }
}

/// The role of a container in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerRole {
    /// It runs to its end before those after it.
    Init,
    /// It starts before those after it and runs beside them.
    Sidecar,
    /// It is what the Pod is about.
    Main,
}

/// Condition under which a container that ended runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// It runs again after each end.
    Always,
    /// It runs again after a failure.
    OnFailure,
    /// It does not run again.
    Never,
}

/// Condition under which an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start of a container.
    Always,
    /// The first time, as long as the runtime keeps it.
    IfNotPresent,
    /// The runtime has it, or the container fails to start.
    Never,
}

impl PullPolicy {
    /// Returns the policy of this name; the default of the API where there is none.
    #[must_use]
    pub fn of(name: Option<&str>) -> Self {
        match name {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

impl RestartPolicy {
    /// Returns the policy of this name; the default of the API where there is none.
    #[must_use]
    pub fn of(name: Option<&str>) -> Self {
        match name {
            Some("OnFailure") => Self::OnFailure,
            Some("Never") => Self::Never,
            _ => Self::Always,
        }
    }
}

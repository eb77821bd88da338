//! Names and ids of what the runtime makes: a name is held by one id at a time.

use std::any::Any;

use podkeeper::cri::v1;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{Answer, Container, State};

impl State {
    pub(super) fn next_id(&mut self, kind: &str) -> String {
        self.made += 1;
        hex(&format!("{kind}{}", self.made))
    }

    /// Holds the name of what a request is to make for an id of nothing.
    pub(in crate::runtime) fn reserve(&mut self, request: &dyn Any) {
        let run = request.downcast_ref::<v1::RunPodSandboxRequest>();
        let create = request.downcast_ref::<v1::CreateContainerRequest>();
        let name = (run.map(|run| sandbox_name(run.config.as_ref())))
            .or(create.map(|create| self.container_name(create)));
        let id = self.next_id("lost");
        self.reserved.extend(name.map(|name| (name, id)));
    }

    pub(super) fn container_name(&self, request: &v1::CreateContainerRequest) -> String {
        self.full_name(request.config.as_ref(), &request.pod_sandbox_id)
    }

    pub(super) fn name_of(&self, container: &Container) -> String {
        self.full_name(Some(&container.config), &container.sandbox)
    }

    pub(super) fn full_name(&self, config: Option<&v1::ContainerConfig>, sandbox: &str) -> String {
        let metadata = config.and_then(|config| config.metadata.clone());
        let metadata = metadata.unwrap_or_default();
        let pod = self
            .sandbox(sandbox)
            .and_then(|s| s.config.metadata.clone());
        let (pod, attempt) = (pod.unwrap_or_default(), metadata.attempt);
        let name = [metadata.name, pod.name, pod.namespace, pod.uid];
        format!("{}_{attempt}", name.join("_"))
    }

    /// The error of a request for a name that is held for something else, in containerd's words.
    pub(super) fn taken(&self, kind: &str, name: &str, holder: Option<&str>) -> Answer<()> {
        let lost = self.reserved.iter().find(|(known, _)| known == name);
        let holder = holder.or(lost.map(|(_, id)| id.as_str()));
        holder.map_or(Ok(()), |id| {
            Err(Status::unknown(format!(
                "failed to reserve {kind} name \"{name}\": name \"{name}\" is reserved for \"{id}\""
            )))
        })
    }
}

pub(super) fn sandbox_name(config: Option<&v1::PodSandboxConfig>) -> String {
    let metadata = config.and_then(|config| config.metadata.clone());
    let metadata = metadata.unwrap_or_default();
    let (name, namespace) = (metadata.name, metadata.namespace);
    format!("{name}_{namespace}_{}_{}", metadata.uid, metadata.attempt)
}

/// An id that depends on the text alone.
pub(super) fn hex(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bytes = digest.first_chunk::<16>().unwrap();
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

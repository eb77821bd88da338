//! Whose a call is: the Pod and the container that its request names.

use std::any::Any;

use podkeeper::cri::v1;

use super::{Container, State};
use crate::runtime::Subject;

impl State {
    /// Whose a call is, as far as its request or what it names tells.
    pub(in crate::runtime) fn subject(&self, request: &dyn Any) -> Subject {
        self.subject_by_sandbox(request)
            .or_else(|| self.subject_by_container(request))
            .or_else(|| subject_by_image(request))
            .unwrap_or_default()
    }

    fn subject_by_sandbox(&self, request: &dyn Any) -> Option<Subject> {
        if let Some(run) = request.downcast_ref::<v1::RunPodSandboxRequest>() {
            let metadata = run.config.as_ref()?.metadata.as_ref()?;
            let pod = Some(metadata.name.clone());
            return Some(Subject {
                pod,
                container: None,
            });
        }
        if let Some(create) = request.downcast_ref::<v1::CreateContainerRequest>() {
            let config = create.config.as_ref()?;
            let sandbox = self.sandbox(&create.pod_sandbox_id)?;
            return Some(Subject {
                pod: Some(sandbox.pod().to_owned()),
                container: config.metadata.as_ref().map(|m| m.name.clone()),
            });
        }
        let stop = request.downcast_ref::<v1::StopPodSandboxRequest>();
        let remove = request.downcast_ref::<v1::RemovePodSandboxRequest>();
        let status = request.downcast_ref::<v1::PodSandboxStatusRequest>();
        let id = (stop.map(|r| &r.pod_sandbox_id))
            .or(remove.map(|r| &r.pod_sandbox_id))
            .or(status.map(|r| &r.pod_sandbox_id))?;
        let pod = self.sandbox(id).map(|s| s.pod().to_owned());
        Some(Subject {
            pod,
            container: None,
        })
    }

    fn subject_by_container(&self, request: &dyn Any) -> Option<Subject> {
        let start = request.downcast_ref::<v1::StartContainerRequest>();
        let stop = request.downcast_ref::<v1::StopContainerRequest>();
        let remove = request.downcast_ref::<v1::RemoveContainerRequest>();
        let status = request.downcast_ref::<v1::ContainerStatusRequest>();
        let exec = request.downcast_ref::<v1::ExecSyncRequest>();
        let reopen = request.downcast_ref::<v1::ReopenContainerLogRequest>();
        let id = (start.map(|r| &r.container_id))
            .or(stop.map(|r| &r.container_id))
            .or(remove.map(|r| &r.container_id))
            .or(status.map(|r| &r.container_id))
            .or(exec.map(|r| &r.container_id))
            .or(reopen.map(|r| &r.container_id))?;
        let known = self.container(id)?;
        Some(subject_of_container(known))
    }
}

pub(in crate::runtime) fn subject_of_container(container: &Container) -> Subject {
    Subject {
        pod: Some(container.pod.clone()),
        container: Some(container.name().to_owned()),
    }
}

fn subject_by_image(request: &dyn Any) -> Option<Subject> {
    let pull = request.downcast_ref::<v1::PullImageRequest>();
    let status = request.downcast_ref::<v1::ImageStatusRequest>();
    let image = (pull.map(|r| &r.image)).or(status.map(|r| &r.image))?;
    let container = image.as_ref().map(|i| i.image.clone());
    Some(Subject {
        pod: None,
        container,
    })
}

//! Restarts on request: which instances of a Pod's containers are replaced, and what no longer counts then.

use super::rules::{deadline, is_finished};
use super::waiting;
use crate::manifest::{ContainerRole, StaticPod, Uid};
use crate::pod::state::observed::{Container, ContainerId, State};
use crate::pod::state::{Image, PodState, Subject, View};

/// The instances to replace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartChoice {
    /// The containers that were asked for, in the order in which they start.
    pub containers: Vec<String>,
    /// The instances of these, and of all that runs again with them. A container without one is being started anyway.
    pub instances: Vec<ContainerId>,
    /// True if the version was over, and runs once more from its beginning.
    pub was_finished: bool,
}

/// Chooses the instances to replace for the restart of one container of a version, or of all: its own and its
/// sidecars. Init containers run again only where the version was over, since then all of it is started.
///
/// # Errors
/// The container cannot be restarted by itself, or the version is not to run any more.
pub fn choose_instances(
    view: View<'_>,
    version: &StaticPod,
    name: Option<&str>,
) -> Result<RestartChoice, String> {
    if deadline(view, version).is_some_and(|due| due <= view.now) {
        return Err("it has been active on the node longer than the specified deadline".to_owned());
    }
    if let Some(rejection) = view.state.rejection(&version.uid) {
        return Err(format!("the node rejects it: {}", rejection.message));
    }
    if let Some(held) = waiting::held(view, version) {
        return Err(held.message);
    }
    let mut containers: Vec<String> = version
        .all_containers()
        .filter(|spec| version.role(&spec.name) != ContainerRole::Init)
        .map(|spec| spec.name.clone())
        .collect();
    if let Some(name) = name {
        match version.container(name) {
            None => return Err(format!("it has no container {name:?}")),
            Some(_) if version.role(name) == ContainerRole::Init => {
                let why = "is an init container, which only runs before the others";
                return Err(format!("container {name} {why}"));
            }
            Some(_) => containers.retain(|container| container == name),
        }
    }
    let was_finished = is_finished(view, version);
    let runs_again = |container: &str| {
        let is_init = version.role(container) == ContainerRole::Init;
        containers.iter().any(|c| c == container) || was_finished && is_init
    };
    let newest = |container: &str| {
        let history = view.observed.history_of(&version.uid, container);
        history.into_iter().next()
    };
    // One that was made and not started yet is a new one already.
    let has_run = |c: &&Container| matches!(c.state, State::Running { .. } | State::Exited(_));
    let names = version.all_containers().map(|spec| spec.name.as_str());
    let instances = names.filter(|name| runs_again(name)).filter_map(newest);
    let instances = instances.filter(has_run).map(|c| c.id.clone()).collect();
    Ok(RestartChoice {
        containers,
        instances,
        was_finished,
    })
}

impl PodState {
    /// Has the chosen instances of a version replaced. Nothing that failed before is waited for.
    pub fn request_restart(&mut self, uid: &Uid, choice: &RestartChoice) {
        let is_over = |subject: &Subject| match subject {
            Subject::Sandbox(of) | Subject::Volumes(of) => of == uid,
            Subject::Container(of, name) => of == uid && choice.containers.contains(name),
            _ => false,
        };
        self.failures.retain(|subject, _| !is_over(subject));
        self.update_version(uid, |version| {
            let failed = |image: &Image| matches!(image, Image::Failed { .. });
            version.images.retain(|_, image| !failed(image));
            let history = version.history_mut();
            history.restarts.extend(choice.instances.iter().cloned());
            if choice.was_finished {
                history.finished = None;
            }
        });
    }
}

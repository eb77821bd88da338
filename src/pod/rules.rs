//! The rules of a Pod's life that need nothing but what is wanted and what is there: which container
//! comes when, which of them run again and when, when a Pod is over, and in which order it is stopped
//! (Kubernetes, Pod Lifecycle, Init Containers, and Sidecar Containers).

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ContainerRestartRule, PodSpec};
use std::time::Duration;

use super::backoff;
use super::moment::Moment;
use super::observed::{Container, Exit, Observed};
use super::plan::View;
use crate::manifest::StaticPod;
use crate::translate::is_sidecar;

/// The action of a restart rule that starts all of the Pod anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether and when a container that is over runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It stays as it is.
    Never,
    /// Once this moment has come, after this wait.
    At(Moment, Duration),
}

/// The answer of the restart rules and policies for a container that ended so.
#[must_use]
pub fn restart(view: View<'_>, version: &StaticPod, container: &Container, exit: &Exit) -> Restart {
    if !is_replaced(view, version, container) && !runs_again(version, &container.name, exit.code) {
        return Restart::Never;
    }
    let delay = backoff::restart_delay(container.backoff, exit.ran(), view.longest_backoff);
    Restart::At(exit.ended.after(delay), delay)
}

/// Whether an instance is to be replaced, whatever it ended with: because all of the Pod starts anew, or
/// because it did not work.
fn is_replaced(view: View<'_>, version: &StaticPod, container: &Container) -> bool {
    let given_up = view.memory.given_up(container).is_some();
    view.memory.is_replaced(container) || given_up && restarts_on_failure(version, &container.name)
}

/// Whether a container that ended with this code runs again, by its own rules first, then its own
/// policy, then the Pod's. An init container that succeeded is done, whatever its rules say of 0.
fn runs_again(version: &StaticPod, name: &str, code: i32) -> bool {
    if role(version, name) == Role::Init && code == 0 {
        return false;
    }
    let spec = all_containers(version).find(|c| c.name == name);
    if spec.and_then(|spec| restart_rule(spec, code)).is_some() {
        return true;
    }
    match (role(version, name), restart_policy(version, spec)) {
        (Role::Sidecar, _) => true,
        (_, "Never") => false,
        (Role::Init, _) | (_, "OnFailure") => code != 0,
        _ => true,
    }
}

/// The first of a container's restart rules that is about this exit code.
fn restart_rule(spec: &ContainerSpec, code: i32) -> Option<&ContainerRestartRule> {
    let about = |rule: &&ContainerRestartRule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    };
    spec.restart_policy_rules.iter().flatten().find(about)
}

/// Whether a container ended in a way that starts all containers of the Pod anew.
#[must_use]
pub fn restarts_all(view: View<'_>, version: &StaticPod) -> bool {
    all_containers(version).any(|spec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let last = history.first().filter(|c| !is_replaced(view, version, c));
        let exit = last.and_then(|c| c.exit());
        let rule = exit.and_then(|exit| restart_rule(spec, exit.code));
        rule.is_some_and(|rule| rule.action == RESTART_ALL)
    })
}

/// Whether a rule of this version can start all of its containers anew.
#[must_use]
pub fn can_restart_all(version: &StaticPod) -> bool {
    let mut rules = all_containers(version).flat_map(|c| c.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

/// Whether all containers of a version start anew, and the first of them was not made yet.
#[must_use]
pub fn is_restarting_all(view: View<'_>, version: &StaticPod) -> bool {
    let asked = all_containers(version).any(|spec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let exit = history.first().and_then(|c| c.exit());
        let rule = exit.and_then(|exit| restart_rule(spec, exit.code));
        rule.is_some_and(|rule| rule.action == RESTART_ALL)
    });
    let mut here = view.observed.containers_of(&version.uid);
    restarts_all(view, version) || asked && here.all(|c| view.memory.is_replaced(c))
}

/// Whether a container that is stopped because it does not work is to run again.
#[must_use]
pub fn restarts_on_failure(version: &StaticPod, name: &str) -> bool {
    let spec = all_containers(version).find(|c| c.name == name);
    role(version, name) == Role::Sidecar || restart_policy(version, spec) != "Never"
}

/// Whether this version is over for good: it was found to be, or each of its containers is, or one that
/// had to come before them failed and is not tried again.
#[must_use]
pub fn is_finished(view: View<'_>, version: &StaticPod) -> bool {
    view.memory.finished(&version.uid).is_some() || has_ended(view, version)
}

/// Whether the containers of a version are over, and nothing is to run again.
#[must_use]
pub fn has_ended(view: View<'_>, version: &StaticPod) -> bool {
    let last = |spec: &ContainerSpec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let last = history.into_iter().next()?;
        let exit = last.exit()?;
        let over = restart(view, version, last, exit) == Restart::Never;
        over.then_some(exit.code)
    };
    let failed = |spec: &ContainerSpec| last(spec).is_some_and(|code| code != 0);
    let inits = init_containers(version).iter();
    inits.filter(|c| !is_sidecar(c)).any(failed)
        || containers(version).iter().all(|spec| last(spec).is_some())
}

/// When a version has run for as long as it may, if that is limited.
#[must_use]
pub fn deadline(view: View<'_>, version: &StaticPod) -> Option<Moment> {
    let seconds = spec(version)?.active_deadline_seconds?;
    let (_, seen) = view.memory.seen.get(&version.uid)?;
    let limit = Duration::from_secs(seconds.try_into().ok()?);
    Some(seen.after(limit))
}

/// The containers with these ids in the groups in which they are stopped, one group after the other:
/// the Pod's own containers first, then its sidecars, the last to start first.
#[must_use]
pub fn stop_order(version: &StaticPod, observed: &Observed, ids: &[String]) -> Vec<Vec<String>> {
    let named = |name: &str| {
        let named = observed.containers_of(&version.uid);
        let named = named.filter(|c| c.name == name && ids.contains(&c.id));
        named.map(|c| c.id.clone()).collect::<Vec<_>>()
    };
    let sidecars = init_containers(version).iter().filter(|c| is_sidecar(c));
    let mut groups: Vec<Vec<String>> = sidecars.rev().map(|spec| named(&spec.name)).collect();
    let later: Vec<&String> = groups.iter().flatten().collect();
    let first = ids.iter().filter(|id| !later.contains(id)).cloned();
    groups.insert(0, first.collect());
    groups.retain(|group| !group.is_empty());
    groups
}

/// The containers of a version, without those that come before them.
#[must_use]
pub fn containers(version: &StaticPod) -> &[ContainerSpec] {
    spec(version).map_or(&[], |s| &s.containers)
}

/// The init containers and sidecars of a version, in the order of their start.
#[must_use]
pub fn init_containers(version: &StaticPod) -> &[ContainerSpec] {
    spec(version)
        .and_then(|s| s.init_containers.as_deref())
        .unwrap_or_default()
}

/// All containers of a version, in the order of their start.
pub fn all_containers(version: &StaticPod) -> impl Iterator<Item = &ContainerSpec> {
    init_containers(version).iter().chain(containers(version))
}

fn spec(version: &StaticPod) -> Option<&PodSpec> {
    version.pod.spec.as_ref()
}

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It runs to its end before those after it.
    Init,
    /// It starts before those after it and runs beside them.
    Sidecar,
    /// It is what the Pod is about.
    Main,
}

/// What a container of a version is for.
#[must_use]
pub fn role(version: &StaticPod, name: &str) -> Role {
    match init_containers(version).iter().find(|c| c.name == name) {
        Some(spec) if is_sidecar(spec) => Role::Sidecar,
        Some(_) => Role::Init,
        None => Role::Main,
    }
}

/// The container's own restart policy, or else the Pod's.
fn restart_policy<'a>(version: &'a StaticPod, container: Option<&'a ContainerSpec>) -> &'a str {
    let own = container.and_then(|c| c.restart_policy.as_deref());
    let of_pod = || spec(version).and_then(|s| s.restart_policy.as_deref());
    own.or_else(of_pod).unwrap_or("Always")
}

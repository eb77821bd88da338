//! The rules of a Pod's life that need nothing but what is wanted and what is there: which container
//! comes when, which of them run again and when, when a Pod is over, and in which order it is stopped
//! (Kubernetes, Pod Lifecycle, Init Containers, and Sidecar Containers).

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ContainerRestartRule};
use std::time::Duration;

use crate::manifest::{ContainerRole, RestartPolicy, StaticPod, is_sidecar};
use crate::pod::backoff;
use crate::pod::backoff::RestartBackoff;
use crate::pod::plan::held_by;
use crate::pod::state::history::StopReason;
use crate::pod::state::observed::{Container, ContainerId, Exit, Observed};
use crate::pod::state::time::MonotonicTime;
use crate::pod::state::{Subject, View};
use crate::units;

/// The action of a restart rule that restarts all of the Pod.
const RESTART_ALL: &str = "RestartAllContainers";
/// Least time between two restarts of a Pod as a whole, which have no back-off.
const RESTART_ALL_INTERVAL: Duration = Duration::from_secs(1);

/// The restart of a container that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It stays as it is.
    Never,
    /// At this time, after this wait.
    At(MonotonicTime, Duration),
}

/// The answer of the restart rules and policies for a container that ended so.
#[must_use]
pub fn restart(view: View<'_>, version: &StaticPod, container: &Container, exit: &Exit) -> Restart {
    if !is_replaced(view, version, container) && !runs_again(version, &container.name, exit.code) {
        return Restart::Never;
    }
    let wait = restart_backoff(view, version, container, exit).wait;
    let subject = Subject::Container(container.uid.clone(), container.name.clone());
    // No instance ended before it was started, whatever the runtime reports.
    let ended = view.state.last_start(&subject, exit.ended);
    Restart::At(ended.after(wait), wait)
}

/// Returns the back-off of a container that ended so and runs again, as the kubelet has it.
#[must_use]
pub fn restart_backoff(
    view: View<'_>,
    version: &StaticPod,
    container: &Container,
    exit: &Exit,
) -> RestartBackoff {
    let (recorded, ran) = (container.backoff, exit.ran());
    // The kubelet removes the containers of a Pod that restarts as a whole, and finds none to back off for. Neither has
    // it one after a boot: the machine ended, not the container.
    let is_asked_for =
        view.state.is_replaced(container) || view.state.is_restart_requested(container);
    if is_asked_for || exit.is_unseen() {
        let wait = Duration::ZERO;
        return RestartBackoff { wait, recorded };
    }
    let failed_instance = view
        .state
        .failed_instance(container)
        .map(|failed_instance| failed_instance.reason);
    let spec = version.container(&container.name);
    let probe = match failed_instance {
        Some(StopReason::Liveness) => spec.and_then(|spec| spec.liveness_probe.as_ref()),
        Some(StopReason::Startup) => spec.and_then(|spec| spec.startup_probe.as_ref()),
        _ => return backoff::after_exit(recorded, ran, view.longest_backoff),
    };
    // The kubelet's rounds do not begin with the container: the same failure may be a period later there.
    let late = probe.and_then(|probe| probe.period_seconds).unwrap_or(0);
    let late = Duration::from_secs(late.try_into().unwrap_or(0));
    let since_last_exit = last_end(view, container).map(|last| {
        let between = exit.finished_at.saturating_sub(last);
        let between = Duration::from_nanos(between.try_into().unwrap_or(0));
        between.max(ran).saturating_add(late)
    });
    backoff::after_probe_failure(recorded, ran, since_last_exit, view.longest_backoff)
}

/// Returns when the instance before this one ended, in nanoseconds since the epoch.
fn last_end(view: View<'_>, container: &Container) -> Option<i64> {
    let all = view.observed.history_of(&container.uid, &container.name);
    let mut before = all.iter().filter(|c| c.attempt < container.attempt);
    let observed = before.find_map(|c| c.exit()).map(|exit| exit.finished_at);
    observed.or_else(|| {
        let history = view.state.history(&container.uid)?;
        let known = history.containers.get(&container.name)?;
        let previous = known.previous.as_ref();
        let previous = previous.filter(|_| known.attempt == container.attempt)?;
        Some(previous.ended.finished_at)
    })
}

/// Returns true if an instance is to be replaced, whatever it ended with: because it or all of the Pod restarts, or
/// because it did not work.
fn is_replaced(view: View<'_>, version: &StaticPod, container: &Container) -> bool {
    let failed_instance = view.state.failed_instance(container).is_some();
    view.state.is_replaced(container)
        || view.state.is_restart_requested(container)
        || failed_instance && restarts_on_failure(version, &container.name)
}

/// Returns true if a container that ended with this code runs again, by its own rules first, then its own
/// policy, then the Pod's. An init container that succeeded is done, whatever its rules say of 0.
fn runs_again(version: &StaticPod, name: &str, code: i32) -> bool {
    if version.role(name) == ContainerRole::Init && code == 0 {
        return false;
    }
    let spec = version.container(name);
    if spec.and_then(|spec| restart_rule(spec, code)).is_some() {
        return true;
    }
    match (version.role(name), version.restart_policy(name)) {
        (ContainerRole::Sidecar, _) | (ContainerRole::Main, RestartPolicy::Always) => true,
        (_, RestartPolicy::Never) => false,
        (ContainerRole::Init, _) | (_, RestartPolicy::OnFailure) => code != 0,
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

/// Returns true if a container ended in a way that restarts all containers of the Pod.
#[must_use]
pub fn restarts_all(view: View<'_>, version: &StaticPod) -> bool {
    restart_all_due(view, version).is_some()
}

/// Returns the time from which all containers of the Pod restart, if one ended in a way that asks for it.
#[must_use]
pub fn restart_all_due(view: View<'_>, version: &StaticPod) -> Option<MonotonicTime> {
    let due = |spec: &ContainerSpec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let last = history.first().filter(|c| !is_replaced(view, version, c))?;
        let exit = last.exit()?;
        let rule = restart_rule(spec, exit.code)?;
        // One that ends at once each time would keep the runtime busy with nothing else.
        let wait = match last.attempt {
            0 => Duration::ZERO,
            _ => RESTART_ALL_INTERVAL.saturating_sub(exit.ran()),
        };
        (rule.action == RESTART_ALL).then(|| exit.ended.after(wait))
    };
    version.all_containers().filter_map(due).min()
}

/// Returns true if a rule of this version can restart all of its containers.
#[must_use]
pub fn can_restart_all(version: &StaticPod) -> bool {
    let mut rules = version
        .all_containers()
        .flat_map(|c| c.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

/// Returns true if all containers of a version restart, and the first of them was not made yet.
#[must_use]
pub fn is_restarting_all(view: View<'_>, version: &StaticPod) -> bool {
    let asked = version.all_containers().any(|spec| {
        let history = view.observed.history_of(&version.uid, &spec.name);
        let exit = history.first().and_then(|c| c.exit());
        let rule = exit.and_then(|exit| restart_rule(spec, exit.code));
        rule.is_some_and(|rule| rule.action == RESTART_ALL)
    });
    let mut here = view.observed.containers_of(&version.uid);
    restarts_all(view, version) || asked && here.all(|c| view.state.is_replaced(c))
}

/// Returns true if a container that is stopped because it does not work is to run again.
#[must_use]
pub fn restarts_on_failure(version: &StaticPod, name: &str) -> bool {
    let policy = version.restart_policy(name);
    version.role(name) == ContainerRole::Sidecar || policy != RestartPolicy::Never
}

/// Returns true if this version is over for good: it was found to be, or each of its containers is, or one that
/// had to come before them failed and is not tried again.
#[must_use]
pub fn is_finished(view: View<'_>, version: &StaticPod) -> bool {
    view.state.finished(&version.uid).is_some() || has_ended(view, version)
}

/// Returns true if the containers of a version are over, and nothing is to run again.
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
    let inits = version.init_containers().iter();
    inits.filter(|c| !is_sidecar(c)).any(failed)
        || version.containers().iter().all(|spec| last(spec).is_some())
}

/// Returns the time at which a version has run for as long as it may, if that is limited. The hold of its first start
/// does not count.
#[must_use]
pub fn deadline(view: View<'_>, version: &StaticPod) -> Option<MonotonicTime> {
    let seconds = version.spec.active_deadline_seconds?;
    let seen = view.state.first_seen(&version.uid)?;
    let limit = (seconds >= 0).then(|| units::time::seconds(seconds))?;
    if held_by(view, version).is_some() {
        return None;
    }
    let ended = view.state.order.hold.ended;
    let held_until = ended.and_then(|ended| ended.known());
    let since = held_until.map_or(seen.monotonic, |until| until.max(seen.monotonic));
    Some(since.after(limit))
}

/// The containers with these ids in the groups in which they are stopped, one group after the other:
/// the Pod's own containers first, then its sidecars, the last to start first.
#[must_use]
pub fn stop_order(
    version: &StaticPod,
    observed: &Observed,
    ids: &[ContainerId],
) -> Vec<Vec<ContainerId>> {
    let named = |name: &str| {
        let named = observed.containers_of(&version.uid);
        let named = named.filter(|c| c.name == name && ids.contains(&c.id));
        named.map(|c| c.id.clone()).collect::<Vec<_>>()
    };
    let sidecars = version.init_containers().iter().filter(|c| is_sidecar(c));
    let mut groups: Vec<Vec<ContainerId>> = sidecars.rev().map(|spec| named(&spec.name)).collect();
    let later: Vec<&ContainerId> = groups.iter().flatten().collect();
    let first = ids.iter().filter(|id| !later.contains(id)).cloned();
    groups.insert(0, first.collect());
    groups.retain(|group| !group.is_empty());
    groups
}

#[cfg(test)]
pub(in crate::pod) mod tests;

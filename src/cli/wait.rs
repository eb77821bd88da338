//! `podkeeper wait`: waits until a Pod is ready, or deleted.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tokio::time::Instant;

use super::agent::{Agent, full_name, none, the_one};
use super::table::age;
use super::{block_on, print, printable};
use crate::server::{Lines, PodDetail, PodDetails, PodName};
use crate::text::explained;
use crate::units::duration::{format_duration, parse_duration};

/// Pause before the connection to an agent that ended is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// Minimum timeout of the agent's first response.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,

    /// Condition to wait for
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t = What::Ready)]
    what: What,

    /// Timeout
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The Pod's condition Ready is true, and no update of it waits
    #[value(aliases = ["condition=Ready", "condition=ready"])]
    Ready,
    /// The Pod is deleted, with its containers
    #[value(alias = "delete")]
    Deleted,
    /// The Pod is paused, and nothing of it runs
    Paused,
}

pub(super) fn wait(arguments: &WaitArgs) -> anyhow::Result<ExitCode> {
    let WaitArgs {
        agent,
        pod,
        what,
        timeout,
    } = arguments;
    block_on(Box::pin(async {
        let message = until(agent, pod, *what, *timeout).await?;
        print(&(printable(&message) + "\n"))?;
        Ok(ExitCode::SUCCESS)
    }))
}

/// Waits until a Pod is ready; returns the message for it.
///
/// # Errors
/// It is not ready in time.
pub(super) async fn until_ready(
    agent: &Agent,
    pod: &PodName,
    timeout: Duration,
) -> anyhow::Result<String> {
    until(agent, pod, What::Ready, timeout).await
}

/// Waits until nothing of a paused Pod runs; returns the message for it.
///
/// # Errors
/// It is not stopped in time.
pub(super) async fn until_paused(
    agent: &Agent,
    pod: &PodName,
    timeout: Duration,
) -> anyhow::Result<String> {
    until(agent, pod, What::Paused, timeout).await
}

/// Waits for the condition; returns the message for it.
async fn until(
    agent: &Agent,
    pod: &PodName,
    what: What,
    timeout: Duration,
) -> anyhow::Result<String> {
    let mut last = None;
    if let Some(message) = wait_for(agent, pod, what, timeout, &mut last).await? {
        return Ok(message);
    }
    let no_response = || "the agent does not respond".to_owned();
    let found = last.as_ref().and_then(|last| the_one(pod, last).ok());
    bail!(
        "Timed out after {} waiting for Pod {} {}: {}",
        format_duration(timeout),
        found.map_or_else(|| pod.to_string(), full_name),
        match what {
            What::Ready => "to become ready",
            What::Deleted => "to be deleted",
            What::Paused => "to be paused",
        },
        last.as_ref()
            .map_or_else(no_response, |last| state(pod, last, Timestamp::now()))
    )
}

/// Waits for the condition; returns the message for it, or `None` on timeout. `last` is the last report of
/// the agent.
async fn wait_for(
    agent: &Agent,
    pod: &PodName,
    what: What,
    timeout: Duration,
    last: &mut Option<PodDetails>,
) -> anyhow::Result<Option<String>> {
    let begin = Instant::now();
    let mut changes = agent.follow_pod(pod).await?;
    loop {
        // Whatever the timeout, one response is awaited, as kubectl does.
        let limit = match last {
            Some(_) => timeout,
            None => timeout.max(FIRST_ANSWER),
        };
        let next = async {
            let next = changes.next().await?;
            // The agent has ended; the next one continues.
            if next.is_none() {
                changes = again(agent, pod).await;
            }
            anyhow::Ok(next)
        };
        let left = limit.saturating_sub(begin.elapsed());
        let Ok(next) = tokio::time::timeout(left, next).await else {
            return Ok(None);
        };
        if let Some(details) = next? {
            if let Some(message) = reached(pod, what, &details)? {
                return Ok(Some(message));
            }
            *last = Some(details);
        }
    }
}

/// Connects again until an agent responds.
async fn again(agent: &Agent, pod: &PodName) -> Lines<PodDetails> {
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Ok(changes) = agent.follow_pod(pod).await {
            return changes;
        }
    }
}

/// Returns the message if the condition is met.
fn reached(pod: &PodName, what: What, details: &PodDetails) -> anyhow::Result<Option<String>> {
    if details.waiting_for.is_some() {
        return Ok(None);
    }
    if details.pods.is_empty() {
        return Ok((what == What::Deleted).then(|| format!("{pod} is gone")));
    }
    let found = the_one(pod, details)?;
    let name = full_name(found);
    match what {
        What::Ready if found.report.paused => {
            bail!("Pod {name} is paused, `podkeeper resume {name}` starts it");
        }
        What::Ready if is_ready(found) => Ok(Some(format!("{name} is ready"))),
        What::Paused if found.report.paused && !found.terminating => {
            Ok(Some(format!("{name} is stopped")))
        }
        What::Ready | What::Paused | What::Deleted => Ok(None),
    }
}

fn is_ready(pod: &PodDetail) -> bool {
    let status = pod.pod.as_ref().and_then(|p| p.status.as_ref());
    let conditions = status.and_then(|s| s.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !pod.terminating && !pod.report.restarting && pod.report.update.is_none()
}

/// Describes a Pod that does not meet the condition.
fn state(name: &PodName, details: &PodDetails, now: Timestamp) -> String {
    let [pod] = details.pods.as_slice() else {
        return none(name, details);
    };
    let report = &pod.report;
    let mut text = report.phase.clone();
    for more in [&report.reason, &report.message] {
        if !more.is_empty() {
            text = format!("{text}: {more}");
        }
    }
    if let Some(update) = &report.update {
        let reason = explained(&update.reason, &update.message);
        text = format!("{text}; its update waits: {reason}");
    }
    for step in &report.steps {
        text = format!("{text}; {} for {}", step.name, age(&step.since, now));
    }
    let (ready, total) = (report.ready, report.total);
    format!("{text} ({ready} of {total} containers are ready)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::state::progress::StepReport;
    use serde_json::json;

    fn details(ready: &str) -> PodDetails {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let mut pod = PodDetail {
            pod: serde_json::from_value(pod).unwrap(),
            ..PodDetail::default()
        };
        pod.report.namespace = "default".into();
        pod.report.name = "web-n1".into();
        pod.report.phase = "Pending".into();
        pod.report.reason = "ErrImagePull".into();
        pod.report.total = 2;
        PodDetails {
            pods: vec![pod],
            ..PodDetails::default()
        }
    }

    fn message(what: What, details: &PodDetails) -> Option<String> {
        reached(&"web".parse().unwrap(), what, details).unwrap()
    }

    #[test]
    fn ready_is_a_pod_whose_condition_holds_for_its_newest_version() {
        let is_ready = Some("default/web-n1 is ready".to_owned());
        assert_eq!(message(What::Ready, &details("True")), is_ready);
        assert_eq!(message(What::Ready, &details("False")), None);
        let mut updating = details("True");
        updating.pods[0].report.update = Some(crate::pod::report::UpdateReport::default());
        assert_eq!(message(What::Ready, &updating), None);
        let mut leaving = details("True");
        leaving.pods[0].terminating = true;
        assert_eq!(message(What::Ready, &leaving), None);
        let mut restarting = details("True");
        restarting.pods[0].report.restarting = true;
        assert_eq!(message(What::Ready, &restarting), None);
        assert_eq!(message(What::Deleted, &details("True")), None);
    }

    #[test]
    fn a_paused_pod_never_becomes_ready() {
        let mut paused = details("False");
        paused.pods[0].report.paused = true;
        let error = reached(&"web".parse().unwrap(), What::Ready, &paused).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Pod default/web-n1 is paused, `podkeeper resume default/web-n1` starts it"
        );
        let is_stopped = Some("default/web-n1 is stopped".to_owned());
        assert_eq!(message(What::Paused, &paused), is_stopped);
        paused.pods[0].terminating = true;
        assert_eq!(message(What::Paused, &paused), None);
        assert_eq!(message(What::Paused, &details("True")), None);
    }

    #[test]
    fn a_pod_is_gone_if_it_is_missing_once_every_pod_is_synced() {
        let mut nothing = PodDetails::default();
        let gone = Some("web is gone".to_owned());
        assert_eq!(message(What::Deleted, &nothing), gone);
        assert_eq!(message(What::Ready, &nothing), None);
        nothing.waiting_for = Some("the container runtime is not connected yet".into());
        assert_eq!(message(What::Deleted, &nothing), None);
    }

    #[test]
    fn a_timeout_shows_the_state_of_the_pod() {
        let name = "web".parse().unwrap();
        let now = "2026-01-01T00:01:35Z".parse().unwrap();
        let mut creating = details("False");
        creating.pods[0].report.reason = "ContainerCreating".into();
        creating.pods[0].report.steps = vec![StepReport {
            name: "RunPodSandbox".into(),
            since: "2026-01-01T00:00:00Z".into(),
            ..StepReport::default()
        }];
        assert_eq!(
            state(&name, &creating, now),
            "Pending: ContainerCreating; RunPodSandbox for 95s (0 of 2 containers are ready)"
        );
        assert_eq!(
            state(&name, &details("False"), now),
            "Pending: ErrImagePull (0 of 2 containers are ready)"
        );
        assert!(state(&name, &PodDetails::default(), now).starts_with("there is no Pod web"));
    }
}

//! `podkeeper describe`: the details of one Pod on a page.

mod container;
mod events;
mod page;

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus, Volume};
use serde_json::Value;

use super::agent::{Agent, spec};
use super::table::{Cell, Table, age};
use super::{print, single_threaded};
use crate::manifest::PodKey;
use crate::pod::events::Event;
use crate::pod::report::PodReport;
use crate::pod::state::progress::StepReport;
use crate::server::{PodDetail, PodFilter, PodName};
use crate::text::explained;
use page::{Page, pairs, since};

#[derive(Debug, Args)]
pub(super) struct DescribeArgs {
    #[command(flatten)]
    agent: Agent,

    /// Name of the Pod: NAME, NAME-NODE or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: PodName,
}

pub(super) fn describe(arguments: &DescribeArgs) -> anyhow::Result<ExitCode> {
    let agent = &arguments.agent;
    let (pod, events) = single_threaded()?.block_on(async {
        let (pod, _) = agent.pod(&arguments.pod).await?;
        let key = PodKey {
            namespace: pod.report.namespace.clone(),
            name: pod.report.name.clone(),
        };
        let events = agent.events(&PodFilter::of(&PodName::of(&key))).await?;
        anyhow::Ok((pod, events))
    })?;
    print(&describe_pod(&pod, &events, Timestamp::now()))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the page of a Pod.
fn describe_pod(detail: &PodDetail, events: &[Event], now: Timestamp) -> String {
    let mut page = Page::default();
    let nothing = Pod::default();
    let pod = detail.pod.as_ref().unwrap_or(&nothing);
    head(&mut page, detail, pod, now);
    if let Some(spec) = &pod.spec {
        summary(&mut page, spec);
    }
    let status = pod.status.as_ref();
    conditions(&mut page, status, now);
    let inits = spec(detail).and_then(|s| s.init_containers.as_deref());
    let mains = spec(detail).map(|s| s.containers.as_slice());
    for (title, containers) in [("Init containers:", inits), ("Containers:", mains)] {
        let containers = containers.unwrap_or_default();
        if !containers.is_empty() {
            page.line(title);
        }
        for spec in containers {
            container::describe(&mut page.indented(), detail, spec, now);
        }
    }
    let volumes = spec(detail).and_then(|s| s.volumes.as_deref());
    volumes_of(&mut page, volumes.unwrap_or_default());
    events::describe(&mut page, events, now);
    page.text
}

/// Writes the Pod's metadata and status.
fn head(page: &mut Page, detail: &PodDetail, pod: &Pod, now: Timestamp) {
    let report = &detail.report;
    page.field("Name", &report.name);
    page.field("Namespace", &report.namespace);
    page.field("UID", &report.uid);
    page.field("Source", &report.path);
    page.field("Seen", since(&report.seen, now));
    page.list("Labels", &pairs(pod.metadata.labels.as_ref()));
    page.list("Annotations", &pairs(pod.metadata.annotations.as_ref()));
    page.field("Status", &report.phase);
    page.field("Reason", &report.reason);
    page.field("Message", &report.message);
    page.field("Waits since", waits_since(report, now));
    page.list("Not Ready", &report.waits_for);
    page.list("Under way", &steps(report, "", now));
    if let Some(update) = &report.update {
        let reason = explained(&update.reason, &update.message);
        page.field("Update", format!("{} waits: {reason}", update.uid));
        page.field("Update seen", since(&update.since, now));
    }
    page.list("Warnings", &report.warnings);
    if let Some(cleanup) = &report.cleanup {
        let (reason, message) = (&cleanup.reason, &cleanup.message);
        page.field(
            "Clean-up",
            format!("of the old version fails: {reason}: {message}"),
        );
    }
    page.field("IPs", report.ips.join(", "));
    if let Some(status) = &pod.status {
        let ips = status.host_ips.iter().flatten();
        let ips: Vec<&str> = ips.map(|ip| ip.ip.as_str()).collect();
        page.field("Node IPs", ips.join(", "));
        page.field("QoS class", status.qos_class.as_deref().unwrap_or_default());
    }
    page.field("Logs", detail.logs.display().to_string());
}

/// Returns the time since which the Pod waits for its reason.
fn waits_since(report: &PodReport, now: Timestamp) -> String {
    match report.reason.as_str() {
        "" => String::new(),
        _ => since(&report.since, now),
    }
}

/// Returns the steps in progress for a container, or for the Pod as a whole.
fn steps(report: &PodReport, container: &str, now: Timestamp) -> Vec<String> {
    let own = report.steps.iter().filter(|s| s.container == container);
    let step = |step: &StepReport| format!("{} since {}", step.name, since(&step.since, now));
    own.map(step).collect()
}

/// Writes the fields of the spec that concern all containers.
fn summary(page: &mut Page, spec: &PodSpec) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    page.field("Restart policy", text(&spec.restart_policy));
    let seconds = |n: Option<i64>| n.map_or(String::new(), |n| format!("{n}s"));
    page.field(
        "Grace period",
        seconds(spec.termination_grace_period_seconds),
    );
    page.field("Deadline", seconds(spec.active_deadline_seconds));
    page.field("DNS policy", text(&spec.dns_policy));
    let shared = [
        ("network", spec.host_network),
        ("PID", spec.host_pid),
        ("IPC", spec.host_ipc),
    ];
    let shared = shared.iter().filter(|(_, yes)| *yes == Some(true));
    let shared: Vec<&str> = shared.map(|(what, _)| *what).collect();
    page.field("Of the host", shared.join(", "));
    page.field("Runtime class", text(&spec.runtime_class_name));
    page.field("Priority class", text(&spec.priority_class_name));
    page.list("Node selector", &pairs(spec.node_selector.as_ref()));
}

fn conditions(page: &mut Page, status: Option<&PodStatus>, now: Timestamp) {
    let conditions = status.and_then(|s| s.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.line("Conditions:");
    let row = |condition: &PodCondition| {
        let time = condition.last_transition_time.as_ref();
        let time = time.map_or(String::new(), |time| time.0.to_string());
        let reason = condition.reason.clone().unwrap_or_default();
        let reason = match &condition.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        };
        [
            condition.type_.clone(),
            condition.status.clone(),
            age(&time, now),
            reason,
        ]
        .map(Cell::from)
    };
    let mut rows = vec![["TYPE", "STATUS", "SINCE", "REASON"].map(Cell::from)];
    rows.extend(conditions.iter().map(row));
    page.text += &Table::new(false).lines("  ", &rows);
}

/// Writes the volumes with their sources.
fn volumes_of(page: &mut Page, volumes: &[Volume]) {
    if volumes.is_empty() {
        return;
    }
    page.line("Volumes:");
    let rows = volumes.iter().map(|volume| {
        let value = serde_json::to_value(volume).unwrap_or_default();
        let kinds = value.as_object().into_iter().flatten();
        let mut kinds = kinds.filter(|(key, _)| *key != "name");
        let (kind, source) = kinds.next().unzip();
        let kind = kind.cloned().unwrap_or_default();
        let source = source.map_or(String::new(), described);
        [volume.name.clone(), kind, source].map(Cell::from)
    });
    let rows: Vec<_> = rows.collect();
    page.text += &Table::new(false).lines("  ", &rows);
}

/// Formats the source of a volume as `name=value, …`.
fn described(source: &Value) -> String {
    let fields = source.as_object().into_iter().flatten();
    let fields = fields.map(|(key, value)| match value {
        Value::String(text) => format!("{key}={text}"),
        Value::Array(list) => {
            let names: Vec<String> = list.iter().map(of_entry).collect();
            format!("{key}=[{}]", names.join(", "))
        }
        Value::Object(_) => format!("{key}={{{}}}", described(value)),
        other => format!("{key}={other}"),
    });
    fields.collect::<Vec<_>>().join(", ")
}

/// Formats an entry of a list of a volume's source.
fn of_entry(entry: &Value) -> String {
    match entry {
        Value::Object(_) => described(entry),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;

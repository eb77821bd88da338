//! A container on the page.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateTerminated, ContainerStatus, EnvVar,
    EnvVarSource, ExecAction, HTTPGetAction, LifecycleHandler, Probe, ResourceRequirements,
    TCPSocketAction, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::page::{Section, since};
use super::steps;
use crate::cli::agent::status;
use crate::cli::table::{span, time};
use crate::pod::report::ContainerReport;
use crate::server::PodDetail;

/// Returns the report of a container.
fn report_of<'a>(detail: &'a PodDetail, name: &str) -> Option<&'a ContainerReport> {
    let mut reports = detail.report.containers.iter();
    reports.find(|report| report.name == name)
}

/// Writes the details of a container.
pub(super) fn describe(
    page: &mut Section<'_>,
    detail: &PodDetail,
    spec: &Container,
    now: Timestamp,
) {
    page.line(&format!("{}:", spec.name));
    let mut page = page.indented();
    if let Some(status) = status(detail, &spec.name) {
        let until = detail.until.get(&spec.name).copied();
        write_status(&mut page, status, report_of(detail, &spec.name), until, now);
    }
    page.list("Under way", &steps(&detail.report, &spec.name, now));
    write_command(&mut page, spec);
    write_inputs(&mut page, spec);
    write_probes(&mut page, spec);
}

fn write_status(
    page: &mut Section<'_>,
    status: &ContainerStatus,
    report: Option<&ContainerReport>,
    until: Option<i64>,
    now: Timestamp,
) {
    let own = status.state.as_ref();
    let own = own.map_or(String::new(), |s| state(s, now));
    // The report has what the API does not: pulls, the sandbox, volumes.
    let waits = report.filter(|r| r.state == "waiting" && !r.reason.is_empty());
    page.field(
        "State",
        waits.map_or(own, |r| waiting(&r.reason, &r.message)),
    );
    page.field(
        "Waits since",
        waits.map_or(String::new(), |r| since(&r.since, now)),
    );
    if let Some(until) = until {
        let left = until
            .div_euclid(1_000_000_000)
            .saturating_sub(now.as_second());
        page.field("Next try", format!("{} (in {})", time(until), span(left)));
    }
    let last = status.last_state.as_ref();
    page.field("Last exit", last.map_or(String::new(), |s| state(s, now)));
    let yes_or_no = |yes| if yes { "yes" } else { "no" };
    page.field("Ready", yes_or_no(status.ready));
    page.field("Restarts", status.restart_count.to_string());
    page.field("ID", status.container_id.as_deref().unwrap_or_default());
    page.field("Image ID", &status.image_id);
}

/// Formats a state with its times.
fn state(state: &ContainerState, now: Timestamp) -> String {
    if let Some(running) = &state.running {
        return format!("running since {}", when(running.started_at.as_ref(), now));
    }
    if let Some(ended) = &state.terminated {
        return terminated(ended, now);
    }
    let Some(waiting) = &state.waiting else {
        return String::new();
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    self::waiting(&text(&waiting.reason), &text(&waiting.message))
}

fn waiting(reason: &str, message: &str) -> String {
    format!("waiting: {reason}\n{message}")
}

fn terminated(ended: &ContainerStateTerminated, now: Timestamp) -> String {
    let reason = ended.reason.as_deref().unwrap_or_default();
    let time = |what: &str, time: &Option<Time>| {
        let time = time.as_ref().map(|time| when(Some(time), now));
        time.map_or(String::new(), |time| format!(", {what} {time}"))
    };
    let message = ended.message.as_deref().unwrap_or_default();
    let (started, over) = (&ended.started_at, &ended.finished_at);
    format!(
        "{reason}, exit code {}{}{}\n{}",
        ended.exit_code,
        time("started", started),
        time("ended", over),
        message.trim_end()
    )
}

fn when(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(|| "-".to_owned(), |time| since(&time.0.to_string(), now))
}

fn write_command(page: &mut Section<'_>, spec: &Container) {
    page.field("Image", spec.image.as_deref().unwrap_or_default());
    page.field(
        "Pull policy",
        spec.image_pull_policy.as_deref().unwrap_or_default(),
    );
    page.field(
        "Restart policy",
        spec.restart_policy.as_deref().unwrap_or_default(),
    );
    page.field("Command", words(spec.command.as_deref()));
    page.field("Args", words(spec.args.as_deref()));
    page.field(
        "Working dir",
        spec.working_dir.as_deref().unwrap_or_default(),
    );
    let ports = spec.ports.iter().flatten().map(port);
    page.list("Ports", &ports.collect::<Vec<_>>());
}

/// Formats a command, with quotes around words with blanks.
fn words(words: Option<&[String]>) -> String {
    let word = |word: &String| {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c == '"') {
            format!("{word:?}")
        } else {
            word.clone()
        }
    };
    let words = words.unwrap_or_default().iter().map(word);
    words.collect::<Vec<_>>().join(" ")
}

fn port(port: &ContainerPort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let name = port.name.as_ref().map(|name| format!(" ({name})"));
    let host = port.host_port.map(|number| {
        let ip = port.host_ip.as_deref().unwrap_or_default();
        format!(" on the host's {ip}:{number}")
    });
    let (name, host) = (name.unwrap_or_default(), host.unwrap_or_default());
    format!("{}/{protocol}{name}{host}", port.container_port)
}

fn write_inputs(page: &mut Section<'_>, spec: &Container) {
    let resources = spec.resources.as_ref();
    let of = |amounts: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>| {
        let amounts = resources.and_then(amounts).into_iter().flatten();
        let amounts = amounts.map(|(name, amount)| format!("{name}={}", amount.0));
        amounts.collect::<Vec<_>>().join(", ")
    };
    page.field("Requests", of(|r| r.requests.as_ref()));
    page.field("Limits", of(|r| r.limits.as_ref()));
    let sources = spec.env_from.iter().flatten().map(|source| {
        let config_map = source.config_map_ref.as_ref().map(|r| &r.name);
        let config_map = config_map.map(|name| format!("ConfigMap {name}"));
        let secret = source
            .secret_ref
            .as_ref()
            .map(|r| format!("Secret {}", r.name));
        config_map.or(secret).unwrap_or_default()
    });
    page.list("Env from", &sources.collect::<Vec<_>>());
    let values = spec.env.iter().flatten().map(env);
    page.list("Env", &values.collect::<Vec<_>>());
    let mounts = spec.volume_mounts.iter().flatten().map(mount);
    page.list("Mounts", &mounts.collect::<Vec<_>>());
}

fn env(env: &EnvVar) -> String {
    let value = match &env.value_from {
        Some(source) => source_of(source),
        None => env.value.clone().unwrap_or_default(),
    };
    format!("{}={}", env.name, value.replace('\n', "\\n"))
}

/// Formats the source of a value; never the value of a Secret.
fn source_of(source: &EnvVarSource) -> String {
    if let Some(of) = &source.config_map_key_ref {
        return format!("<{} of ConfigMap {}>", of.key, of.name);
    }
    if let Some(of) = &source.secret_key_ref {
        return format!("<{} of Secret {}>", of.key, of.name);
    }
    if let Some(of) = &source.field_ref {
        return format!("<{}>", of.field_path);
    }
    if let Some(of) = &source.resource_field_ref {
        return format!("<{}>", of.resource);
    }
    match &source.file_key_ref {
        Some(of) => format!("<{} of {} in volume {}>", of.key, of.path, of.volume_name),
        None => String::new(),
    }
}

fn mount(mount: &VolumeMount) -> String {
    let access = if mount.read_only == Some(true) {
        "ro"
    } else {
        "rw"
    };
    let part = mount.sub_path.as_ref().or(mount.sub_path_expr.as_ref());
    let part = part.map_or(String::new(), |path| format!("/{path}"));
    format!("{} from {}{part} ({access})", mount.mount_path, mount.name)
}

fn write_probes(page: &mut Section<'_>, spec: &Container) {
    for (name, given) in [
        ("Startup", &spec.startup_probe),
        ("Liveness", &spec.liveness_probe),
        ("Readiness", &spec.readiness_probe),
    ] {
        page.field(name, given.as_ref().map_or(String::new(), probe));
    }
    let lifecycle = spec.lifecycle.as_ref();
    let post_start = lifecycle.and_then(|l| l.post_start.as_ref());
    page.field("Post-start", post_start.map_or(String::new(), hook));
    let pre_stop = lifecycle.and_then(|l| l.pre_stop.as_ref());
    page.field("Pre-stop", pre_stop.map_or(String::new(), hook));
}

fn probe(probe: &Probe) -> String {
    let action = probe.exec.as_ref().map(exec);
    let action = action.or_else(|| probe.http_get.as_ref().map(http_get));
    let action = action.or_else(|| probe.tcp_socket.as_ref().map(tcp_socket));
    let action = action.or_else(|| {
        let grpc = probe.grpc.as_ref()?;
        let service = grpc.service.as_deref().unwrap_or_default();
        Some(
            format!("grpc :{} {service}", grpc.port)
                .trim_end()
                .to_owned(),
        )
    });
    // The API's defaults.
    let (delay, timeout) = (probe.initial_delay_seconds, probe.timeout_seconds);
    format!(
        "{} after {}s, every {}s for at most {}s, good after {}, bad after {}",
        action.unwrap_or_default(),
        delay.unwrap_or(0),
        probe.period_seconds.unwrap_or(10),
        timeout.unwrap_or(1),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3),
    )
}

fn hook(hook: &LifecycleHandler) -> String {
    let action = hook.exec.as_ref().map(exec);
    let action = action.or_else(|| hook.http_get.as_ref().map(http_get));
    let action = action.or_else(|| hook.tcp_socket.as_ref().map(tcp_socket));
    let sleep = || hook.sleep.as_ref().map(|s| format!("sleep {}s", s.seconds));
    action.or_else(sleep).unwrap_or_default()
}

fn exec(action: &ExecAction) -> String {
    format!("exec {}", words(action.command.as_deref()))
}

fn http_get(action: &HTTPGetAction) -> String {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = action.host.as_deref().unwrap_or_default();
    let path = action.path.as_deref().unwrap_or_default();
    // One that is given without its slash is asked for with it.
    let path = path.strip_prefix('/').unwrap_or(path);
    format!("GET {scheme}://{host}:{}/{path}", number(&action.port))
}

fn tcp_socket(action: &TCPSocketAction) -> String {
    let host = action.host.as_deref().unwrap_or_default();
    format!("connect to {host}:{}", number(&action.port))
}

fn number(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

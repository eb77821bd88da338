//! A container of a Pod to what the runtime is asked for.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::env::environment;
use super::sandbox::{CPU_PERIOD, MIN_CPU_SHARES, namespace_options, pod_labels};
use super::{NodeFacts, annotation_json, labels, volume_source};
use crate::cri::v1::{
    ContainerConfig, ContainerMetadata, HugepageLimit, ImageSpec, Int64Value, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, SecurityProfile,
    security_profile::ProfileType,
};
use crate::manifest::StaticPod;

/// Pods from this priority on are critical to the node (`system-cluster-critical`).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// How readily the kernel kills processes of a critical Pod, and of one without resources, when
/// memory runs out (Kubernetes, Node-pressure eviction).
const CRITICAL_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;

/// What a container must not see of `/proc` and `/sys`, as the kubelet has it.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What a container must not change of it.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The user an image wants to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// By number; an image that says nothing means 0.
    Uid(i64),
    /// By name.
    Name(String),
}

impl Default for ImageUser {
    fn default() -> Self {
        Self::Uid(0)
    }
}

/// Which instance of a container, and the image it is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerInstance {
    /// Counts the instances, from 0.
    pub attempt: u32,
    /// The wait before this start, where it is a restart.
    pub backoff: Option<Duration>,
    /// The image's id.
    pub image: String,
    /// The user the image wants.
    pub user: ImageUser,
}

/// What the runtime is asked for: one instance of one container of the Pod.
#[must_use]
pub fn container_config(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &Container,
    instance: &ContainerInstance,
) -> ContainerConfig {
    let default = PodSpec::default();
    let pod_spec = pod.pod.spec.as_ref().unwrap_or(&default);
    let environment = environment(spec);
    let mut own_labels: HashMap<String, String> = pod_labels(facts, pod).into_iter().collect();
    own_labels.insert(labels::CONTAINER_NAME.into(), spec.name.clone());
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: spec.name.clone(),
            attempt: instance.attempt,
        }),
        image: Some(ImageSpec {
            image: instance.image.clone(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: environment.expand_all(spec.command.as_ref()),
        args: environment.expand_all(spec.args.as_ref()),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: environment.into_key_values(),
        mounts: mounts(facts, pod, pod_spec, spec, instance.attempt),
        labels: own_labels,
        annotations: annotations(pod_spec, spec, instance),
        log_path: format!("{}/{}.log", spec.name, instance.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(facts, pod_spec)),
            security_context: Some(security_context(pod_spec, &instance.user)),
        }),
        ..ContainerConfig::default()
    }
}

fn annotations(
    pod: &PodSpec,
    spec: &Container,
    instance: &ContainerInstance,
) -> HashMap<String, String> {
    let grace = pod.termination_grace_period_seconds.unwrap_or(30);
    let path = spec.termination_message_path.clone().unwrap_or_default();
    let policy = spec.termination_message_policy.clone().unwrap_or_default();
    let mut annotations = HashMap::from([
        (
            labels::RESTART_COUNT.to_owned(),
            instance.attempt.to_string(),
        ),
        (labels::TERMINATION_MESSAGE_PATH.to_owned(), path),
        (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy),
        (
            labels::TERMINATION_GRACE_PERIOD.to_owned(),
            grace.to_string(),
        ),
    ]);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if !ports.is_empty() {
        annotations.insert(labels::PORTS.into(), annotation_json::ports(ports));
    }
    let pre_stop = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(handler) = pre_stop {
        annotations.insert(
            labels::PRE_STOP_HANDLER.into(),
            annotation_json::handler(handler),
        );
    }
    if let Some(backoff) = instance.backoff {
        annotations.insert(
            labels::RESTART_BACKOFF.into(),
            backoff.as_secs().to_string(),
        );
    }
    annotations
}

fn mounts(
    facts: &NodeFacts,
    pod: &StaticPod,
    pod_spec: &PodSpec,
    spec: &Container,
    attempt: u32,
) -> Vec<Mount> {
    let asked = spec.volume_mounts.as_deref().unwrap_or_default();
    let volumes = pod_spec.volumes.as_deref().unwrap_or_default();
    let asked_mount = |mount: &VolumeMount| {
        let volume = volumes.iter().find(|v| v.name == mount.name)?;
        let source = volume_source(&facts.paths, pod, volume)?;
        Some(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: source.path().display().to_string(),
            readonly: mount.read_only == Some(true),
            ..Mount::default()
        })
    };
    let mut mounts: Vec<Mount> = asked.iter().filter_map(asked_mount).collect();
    let own = |container_path: &str, host_path: std::path::PathBuf| Mount {
        container_path: container_path.into(),
        host_path: host_path.display().to_string(),
        ..Mount::default()
    };
    if !mounts.iter().any(|m| m.container_path == "/etc/hosts") {
        mounts.push(own("/etc/hosts", facts.paths.hosts_file(&pod.uid)));
    }
    let message_path = spec.termination_message_path.as_deref().unwrap_or_default();
    if !message_path.is_empty() {
        let file = facts.paths.termination_log(&pod.uid, &spec.name, attempt);
        mounts.push(own(message_path, file));
    }
    mounts
}

/// A mount path is taken from the container's root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn resources(facts: &NodeFacts, pod: &PodSpec) -> LinuxContainerResources {
    let critical = pod.priority.is_some_and(|p| p >= CRITICAL_PRIORITY);
    let no_pages = |page_size: &String| HugepageLimit {
        page_size: page_size.clone(),
        limit: 0,
    };
    let mut resources = LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_shares: MIN_CPU_SHARES,
        oom_score_adj: if critical {
            CRITICAL_OOM_SCORE
        } else {
            BEST_EFFORT_OOM_SCORE
        },
        hugepage_limits: facts.hugepage_sizes.iter().map(no_pages).collect(),
        ..LinuxContainerResources::default()
    };
    if facts.cgroup_unified {
        resources
            .unified
            .insert("memory.oom.group".into(), "1".into());
        if facts.swap_controller {
            resources
                .unified
                .insert("memory.swap.max".into(), "0".into());
        }
    }
    resources
}

fn security_context(pod: &PodSpec, user: &ImageUser) -> LinuxContainerSecurityContext {
    let (run_as_user, run_as_username) = match user {
        ImageUser::Uid(uid) => (Some(Int64Value { value: *uid }), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    LinuxContainerSecurityContext {
        namespace_options: Some(namespace_options(pod)),
        run_as_user,
        run_as_username,
        masked_paths: MASKED_PATHS.map(String::from).to_vec(),
        readonly_paths: READONLY_PATHS.map(String::from).to_vec(),
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            ..SecurityProfile::default()
        }),
        ..LinuxContainerSecurityContext::default()
    }
}

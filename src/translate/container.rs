//! Container of a Pod to the CRI request.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::downward::Addresses;
use super::env::{EnvFileKey, environment};
use super::mounts::{mounts, sub_path};
use super::resources::container_resources;
use super::sandbox::pod_labels;
use super::security::{UserNamespaceRange, check_non_root, container_security_context};
use super::{NodeFacts, TranslateError, annotation_json, labels, volume_source};
use crate::cri::v1::{ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig, Signal};
use crate::manifest::StaticPod;

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
    /// The Pod's addresses.
    pub addresses: Addresses,
    /// The ids of the images behind volumes, by the volume's name.
    pub volume_images: BTreeMap<String, String>,
    /// Variables that stand in files of volumes, as far as they are there.
    pub env_files: BTreeMap<EnvFileKey, String>,
    /// The Pod's own ids, where it has a user namespace.
    pub user_namespace: Option<UserNamespaceRange>,
    /// The file for its termination message could not be created.
    pub without_termination_log: bool,
}

/// Container config for the runtime: one instance of one container of the Pod.
///
/// # Errors
/// The Pod asks for something that is not there or cannot be had here.
pub fn container_config(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &Container,
    instance: &ContainerInstance,
) -> Result<ContainerConfig, TranslateError> {
    let pod_spec = &pod.spec;
    check_non_root(pod, pod_spec, spec, &instance.user)?;
    let mut environment = environment(facts, pod, spec, instance)?;
    let mounts = mounts(facts, pod, pod_spec, spec, instance, &environment)?;
    let mut own_labels: HashMap<String, String> = pod_labels(facts, pod).into_iter().collect();
    own_labels.insert(labels::CONTAINER_NAME.into(), spec.name.clone());
    let users = instance.user_namespace;
    let security = container_security_context(facts, pod, pod_spec, spec, &instance.user, users);
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: spec.name.clone(),
            attempt: instance.attempt,
        }),
        image: Some(ImageSpec {
            image: instance.image.clone(),
            user_specified_image: spec.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: environment.expand_all("command", spec.command.as_ref())?,
        args: environment.expand_all("args", spec.args.as_ref())?,
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        envs: environment.into_key_values(),
        mounts,
        labels: own_labels,
        annotations: annotations(pod_spec, spec, instance),
        log_path: format!("{}/{}.log", spec.name, instance.attempt),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(container_resources(facts, pod_spec, spec)),
            security_context: Some(security),
        }),
        stop_signal: stop_signal(spec).into(),
        ..ContainerConfig::default()
    })
}

/// A part of a volume that a container has mounted, which has to be made ready before the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubPath {
    /// Index among the container's mounts.
    pub index: usize,
    /// The volume's name.
    pub volume: String,
    /// The volume's path on the host.
    pub root: PathBuf,
    /// The path below it, relative, without `..`.
    pub path: String,
}

/// The parts of volumes that a container has mounted.
///
/// # Errors
/// One leads out of its volume, or names a variable that is not there.
pub fn sub_paths(
    facts: &NodeFacts,
    pod: &StaticPod,
    spec: &Container,
    instance: &ContainerInstance,
) -> Result<Vec<SubPath>, TranslateError> {
    let environment = environment(facts, pod, spec, instance)?;
    let mut found = vec![];
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        let volume = pod.volumes().iter().find(|v| v.name == mount.name);
        let source = volume.and_then(|v| volume_source(&facts.paths, pod, v));
        let path = sub_path(mount, &environment)?;
        if let Some(source) = source.filter(|_| !path.is_empty()) {
            found.push(SubPath {
                index,
                volume: mount.name.clone(),
                root: source.path().to_owned(),
                path,
            });
        }
    }
    Ok(found)
}

fn stop_signal(spec: &Container) -> Signal {
    let lifecycle = spec.lifecycle.as_ref();
    let name = lifecycle.and_then(|l| l.stop_signal.as_deref());
    let known = name.and_then(|name| Signal::from_str_name(&contract_name(name)));
    known.unwrap_or(Signal::RuntimeDefault)
}

/// Real-time signals have no sign in the contract's names: `SIGRTMIN+1` is `SIGRTMINPLUS1`.
fn contract_name(name: &str) -> String {
    name.replace('+', "PLUS").replace('-', "MINUS")
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

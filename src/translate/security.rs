//! Security contexts of a Pod and its containers to the CRI request (Kubernetes,
//! Configure a Security Context for a Pod or Container).

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, PodSecurityContext, PodSpec, SELinuxOptions,
    SeccompProfile, SecurityContext,
};

use serde::{Deserialize, Serialize};

use super::sandbox::namespace_options;
use super::{ImageUser, NodeFacts, TranslateError};
use crate::cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use crate::manifest::{StaticPod, all_containers};

/// Before a container's name, the annotation with its `AppArmor` profile.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Paths of `/proc` and `/sys` that are masked, as the kubelet has them.
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
/// Paths of `/proc` and `/sys` that are read-only, as the kubelet has them.
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The first id of the host that a Pod with a user namespace has, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespaceRange {
    /// The host's id for the Pod's 0.
    pub host_id: u32,
    /// Ids in all.
    pub length: u32,
}

/// The sandbox's.
pub(super) fn sandbox_security_context(
    spec: &PodSpec,
    users: Option<UserNamespaceRange>,
) -> LinuxSandboxSecurityContext {
    let none = PodSecurityContext::default();
    let own = spec.security_context.as_ref().unwrap_or(&none);
    let privileged = |c: &Container| {
        let own = c.security_context.as_ref();
        own.and_then(|s| s.privileged) == Some(true)
    };
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(spec, users)),
        selinux_options: own.se_linux_options.as_ref().map(selinux),
        run_as_user: own.run_as_user.map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.map(|value| Int64Value { value }),
        privileged: all_containers(spec).any(privileged),
        supplemental_groups: supplemental_groups(own),
        supplemental_groups_policy: groups_policy(own),
        // The zero value is the runtime's own default profile.
        seccomp: Some(SecurityProfile::default()),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// A container's; what it does not say the Pod says for it.
pub(super) fn container_security_context(
    facts: &NodeFacts,
    static_pod: &StaticPod,
    spec: &PodSpec,
    container: &Container,
    image_user: &ImageUser,
    users: Option<UserNamespaceRange>,
) -> LinuxContainerSecurityContext {
    let (no_pod, no_own) = (PodSecurityContext::default(), SecurityContext::default());
    let pod = spec.security_context.as_ref().unwrap_or(&no_pod);
    let own = container.security_context.as_ref().unwrap_or(&no_own);
    let asked = own.run_as_user.or(pod.run_as_user);
    let (run_as_user, run_as_username) = match (asked, image_user) {
        (Some(uid), _) => (Some(uid), String::new()),
        (None, ImageUser::Uid(uid)) => (Some(*uid), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let run_as_user = run_as_user.map(|value| Int64Value { value });
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| {
        if unmasked {
            vec![]
        } else {
            paths.iter().map(ToString::to_string).collect()
        }
    };
    let apparmor = own.app_armor_profile.clone();
    let apparmor = apparmor.or_else(|| apparmor_annotation(static_pod, &container.name));
    let apparmor = apparmor.or_else(|| pod.app_armor_profile.clone());
    let apparmor = apparmor.as_ref();
    let options = own.se_linux_options.as_ref();
    LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(capabilities),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespace_options(spec, users)),
        selinux_options: options.or(pod.se_linux_options.as_ref()).map(selinux),
        run_as_user,
        run_as_username,
        run_as_group: own
            .run_as_group
            .or(pod.run_as_group)
            .map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(
            facts,
            own.seccomp_profile
                .as_ref()
                .or(pod.seccomp_profile.as_ref()),
        )),
        apparmor_profile: apparmor.map(apparmor_name).unwrap_or_default(),
        apparmor: apparmor.map(apparmor_profile),
        ..LinuxContainerSecurityContext::default()
    }
}

/// Checks that a container with `runAsNonRoot` does not run as root.
///
/// # Errors
/// It would, or it cannot be determined.
pub(super) fn check_non_root(
    version: &StaticPod,
    spec: &PodSpec,
    container: &Container,
    image_user: &ImageUser,
) -> Result<(), TranslateError> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let asked = own.and_then(|s| s.run_as_non_root);
    if asked.or(pod.and_then(|s| s.run_as_non_root)) != Some(true) {
        return Ok(());
    }
    let user = own.and_then(|s| s.run_as_user);
    let problem = match (user.or(pod.and_then(|s| s.run_as_user)), image_user) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (None, ImageUser::Uid(0)) => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, ImageUser::Name(name)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ),
        (Some(_), _) | (None, ImageUser::Uid(_)) => return Ok(()),
    };
    let (key, uid, name) = (&version.key, &version.uid, &container.name);
    Err(TranslateError::NonRoot {
        problem,
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        uid: uid.to_string(),
        container: name.clone(),
    })
}

/// The group of the Pod's volumes first, as the kubelet has it.
fn supplemental_groups(pod: &PodSecurityContext) -> Vec<i64> {
    let more = pod.supplemental_groups.iter().flatten().copied();
    pod.fs_group.into_iter().chain(more).collect()
}

fn groups_policy(pod: &PodSecurityContext) -> i32 {
    match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict.into(),
        _ => SupplementalGroupsPolicy::Merge.into(),
    }
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn capabilities(capabilities: &Capabilities) -> Capability {
    Capability {
        add_capabilities: capabilities.add.clone().unwrap_or_default(),
        drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
        ..Capability::default()
    }
}

fn profile(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref,
    }
}

fn seccomp(facts: &NodeFacts, asked: Option<&SeccompProfile>) -> SecurityProfile {
    let named = asked.map(|profile| profile.type_.as_str());
    match (named, asked.and_then(|p| p.localhost_profile.as_ref())) {
        (Some("RuntimeDefault"), _) => profile(ProfileType::RuntimeDefault, String::new()),
        (Some("Localhost"), Some(name)) => {
            let file = facts.paths.seccomp_profile(name);
            profile(ProfileType::Localhost, file.display().to_string())
        }
        (None, _) if facts.seccomp_default => profile(ProfileType::RuntimeDefault, String::new()),
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}

/// The `AppArmor` profile that an annotation of the Pod names for a container, which counts before the
/// Pod's own field. Kubernetes had no fields for it before 1.30, and manifests of that time have not.
#[must_use]
pub fn apparmor_annotation(pod: &StaticPod, container: &str) -> Option<AppArmorProfile> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let named = annotations.get(&format!("{APPARMOR_ANNOTATION}{container}"))?;
    let profile = |kind: &str, localhost: Option<&str>| AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: localhost.map(str::to_owned),
    };
    match named.as_str() {
        "runtime/default" => Some(profile("RuntimeDefault", None)),
        "unconfined" => Some(profile("Unconfined", None)),
        other => {
            let local = other.strip_prefix("localhost/").filter(|n| !n.is_empty())?;
            Some(profile("Localhost", Some(local)))
        }
    }
}

fn apparmor_profile(asked: &AppArmorProfile) -> SecurityProfile {
    match (asked.type_.as_str(), &asked.localhost_profile) {
        ("Localhost", Some(name)) => profile(ProfileType::Localhost, name.clone()),
        ("Unconfined", _) => profile(ProfileType::Unconfined, String::new()),
        _ => profile(ProfileType::RuntimeDefault, String::new()),
    }
}

/// The same, for runtimes that know only names.
fn apparmor_name(asked: &AppArmorProfile) -> String {
    match (asked.type_.as_str(), &asked.localhost_profile) {
        ("Localhost", Some(name)) => format!("localhost/{name}"),
        ("Unconfined", _) => "unconfined".to_owned(),
        _ => "runtime/default".to_owned(),
    }
}

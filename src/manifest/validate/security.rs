//! Security contexts of Pods and containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
    Sysctl, WindowsSecurityContextOptions,
};

use super::{FieldPath, Validator, names, unexpected};

/// Users and groups are numbered from 0.
const MAX_ID: i64 = i32::MAX as i64;
/// The longest path that the kernel takes.
const MAX_PATH: usize = 4095;
/// Prefixes of the sysctls that belong to the IPC namespace.
const IPC_SYSCTLS: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

impl Validator<'_> {
    pub(super) fn pod_security(&mut self, field: &FieldPath, spec: &PodSpec) {
        let Some(context) = &spec.security_context else {
            return;
        };
        let of_windows = is_windows(spec);
        if of_windows {
            self.windows_pod(field, spec, context);
        }
        let field = field.key("securityContext");
        self.id(&field.key("runAsUser"), context.run_as_user);
        self.id(&field.key("runAsGroup"), context.run_as_group);
        self.id(&field.key("fsGroup"), context.fs_group);
        for (field, group) in field.items("supplementalGroups", &context.supplemental_groups) {
            self.id(&field, Some(*group));
        }
        for (name, policy, known) in [
            (
                "fsGroupChangePolicy",
                &context.fs_group_change_policy,
                ["Always", "OnRootMismatch"],
            ),
            (
                "supplementalGroupsPolicy",
                &context.supplemental_groups_policy,
                ["Merge", "Strict"],
            ),
        ] {
            self.one_of_if_set(&field.key(name), policy.as_deref(), &known);
        }
        // Kubernetes 1.36 takes MountOption only where the feature SELinuxMount is switched on.
        let policy = context.se_linux_change_policy.as_deref();
        self.one_of_if_set(&field.key("seLinuxChangePolicy"), policy, &["Recursive"]);
        self.sysctls(&field, spec, context.sysctls.as_ref());
        self.profiles(
            &field,
            context.seccomp_profile.as_ref(),
            context.app_armor_profile.as_ref(),
        );
        self.windows_options(&field, context.windows_options.as_ref(), spec);
    }

    pub(super) fn container_security(
        &mut self,
        field: &FieldPath,
        container: &Container,
        spec: &PodSpec,
    ) {
        let Some(context) = &container.security_context else {
            return;
        };
        let field = field.key("securityContext");
        if is_windows(spec) {
            self.windows_container(&field, context);
        }
        self.id(&field.key("runAsUser"), context.run_as_user);
        self.id(&field.key("runAsGroup"), context.run_as_group);
        let proc_mount = context.proc_mount.as_deref();
        let proc_field = field.key("procMount");
        self.one_of_if_set(&proc_field, proc_mount, &["Default", "Unmasked"]);
        if proc_mount == Some("Unmasked") && spec.host_users != Some(false) {
            let message =
                "found Unmasked, which needs a user namespace: set spec.hostUsers to false";
            self.refuse(&proc_field, message);
        }
        self.escalation(&field, context);
        self.profiles(
            &field,
            context.seccomp_profile.as_ref(),
            context.app_armor_profile.as_ref(),
        );
        self.windows_options(&field, context.windows_options.as_ref(), spec);
    }

    fn id(&mut self, field: &FieldPath, id: Option<i64>) {
        if let Some(id) = id {
            self.within(field, id, 0, MAX_ID);
        }
    }

    fn escalation(&mut self, field: &FieldPath, context: &SecurityContext) {
        if context.allow_privilege_escalation != Some(false) {
            return;
        }
        if context.privileged == Some(true) {
            let message = "cannot have allowPrivilegeEscalation false and privileged true";
            self.refuse(field, message);
        }
        let capabilities = context.capabilities.as_ref();
        let mut added = capabilities.iter().flat_map(|c| c.add.iter().flatten());
        if added.any(|c| c == "CAP_SYS_ADMIN") {
            let message =
                "cannot have allowPrivilegeEscalation false and the capability CAP_SYS_ADMIN";
            self.refuse(field, message);
        }
    }

    fn sysctls(&mut self, field: &FieldPath, spec: &PodSpec, sysctls: Option<&Vec<Sysctl>>) {
        let mut seen = BTreeSet::new();
        for (field, sysctl) in field.items("sysctls", sysctls) {
            let field = field.key("name");
            if !self.required(&field, &sysctl.name, "the name of a sysctl") {
                continue;
            }
            let name = sysctl.name.replace('/', ".");
            self.expect(
                names::is_sysctl(&sysctl.name),
                &field,
                &sysctl.name,
                names::SYSCTL,
            );
            let of_ipc = IPC_SYSCTLS.iter().any(|start| name.starts_with(start));
            for (of_host, namespace, concerned) in [
                (spec.host_network, "hostNetwork", name.starts_with("net.")),
                (spec.host_ipc, "hostIPC", of_ipc),
            ] {
                if of_host == Some(true) && concerned {
                    let message = format!("would change the host's own, since {namespace} is true");
                    self.refuse(&field, message);
                }
            }
            if !seen.insert(name) {
                self.twice(&field, &sysctl.name, "sysctl");
            }
        }
    }

    fn profiles(
        &mut self,
        field: &FieldPath,
        seccomp: Option<&SeccompProfile>,
        apparmor: Option<&AppArmorProfile>,
    ) {
        if let Some(profile) = seccomp {
            let field = field.key("seccompProfile");
            let name = profile.localhost_profile.as_deref();
            self.profile(&field, &profile.type_, name);
            self.path_below(&field.key("localhostProfile"), name.unwrap_or_default());
        }
        if let Some(profile) = apparmor {
            let field = field.key("appArmorProfile");
            let name = profile.localhost_profile.as_deref();
            self.profile(&field, &profile.type_, name);
            let name = name.unwrap_or_default();
            let field = field.key("localhostProfile");
            self.expect(
                name.trim() == name,
                &field,
                name,
                "no blanks around the name",
            );
            let expected = format!("at most {MAX_PATH} characters");
            self.expect(name.len() <= MAX_PATH, &field, name, &expected);
        }
    }

    fn profile(&mut self, field: &FieldPath, kind: &str, name: Option<&str>) {
        let kinds = ["RuntimeDefault", "Localhost", "Unconfined"];
        self.one_of(&field.key("type"), Some(kind), &kinds);
        let field = field.key("localhostProfile");
        match (kind, name) {
            ("Localhost", None | Some("")) => {
                self.refuse(
                    &field,
                    "missing, expected a profile of the node, since type is Localhost",
                );
            }
            ("Localhost", _) | (_, None) => {}
            (_, Some(name)) => {
                self.refuse(
                    &field,
                    unexpected(name, "nothing, since type is not Localhost"),
                );
            }
        }
    }

    fn windows_options(
        &mut self,
        field: &FieldPath,
        options: Option<&WindowsSecurityContextOptions>,
        spec: &PodSpec,
    ) {
        let Some(options) = options else {
            return;
        };
        let field = field.key("windowsOptions");
        if spec.os.as_ref().is_some_and(|os| os.name == "linux") {
            self.refuse(&field, "cannot be set where spec.os.name is linux");
        } else if options.host_process == Some(true) {
            let message =
                "a node with Linux has no such containers: use hostPID, hostNetwork and privileged";
            self.refuse(&field.key("hostProcess"), message);
        }
    }

    /// Checks fields that a Pod for Windows cannot have.
    fn windows_pod(&mut self, field: &FieldPath, spec: &PodSpec, context: &PodSecurityContext) {
        let groups = context.supplemental_groups.as_ref();
        let within = field.key("securityContext");
        for (field, given) in [
            (field.key("hostPID"), spec.host_pid == Some(true)),
            (field.key("hostIPC"), spec.host_ipc == Some(true)),
            (field.key("hostUsers"), spec.host_users.is_some()),
            (
                field.key("shareProcessNamespace"),
                spec.share_process_namespace.is_some(),
            ),
            (field.key("resources"), spec.resources.is_some()),
            (
                within.key("appArmorProfile"),
                context.app_armor_profile.is_some(),
            ),
            (
                within.key("seLinuxOptions"),
                context.se_linux_options.is_some(),
            ),
            (
                within.key("seccompProfile"),
                context.seccomp_profile.is_some(),
            ),
            (within.key("fsGroup"), context.fs_group.is_some()),
            (
                within.key("fsGroupChangePolicy"),
                context.fs_group_change_policy.is_some(),
            ),
            (
                within.key("seLinuxChangePolicy"),
                context.se_linux_change_policy.is_some(),
            ),
            (
                within.key("sysctls"),
                context.sysctls.as_ref().is_some_and(|s| !s.is_empty()),
            ),
            (within.key("runAsUser"), context.run_as_user.is_some()),
            (within.key("runAsGroup"), context.run_as_group.is_some()),
            (within.key("supplementalGroups"), groups.is_some()),
            (
                within.key("supplementalGroupsPolicy"),
                context.supplemental_groups_policy.is_some(),
            ),
        ] {
            self.not_for_windows(&field, given);
        }
    }

    fn windows_container(&mut self, field: &FieldPath, context: &SecurityContext) {
        for (name, given) in [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            (
                "readOnlyRootFilesystem",
                context.read_only_root_filesystem.is_some(),
            ),
            ("privileged", context.privileged.is_some()),
            (
                "allowPrivilegeEscalation",
                context.allow_privilege_escalation.is_some(),
            ),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ] {
            self.not_for_windows(&field.key(name), given);
        }
    }

    fn not_for_windows(&mut self, field: &FieldPath, given: bool) {
        if given {
            self.refuse(field, "cannot be set where spec.os.name is windows");
        }
    }
}

fn is_windows(spec: &PodSpec) -> bool {
    spec.os.as_ref().is_some_and(|os| os.name == "windows")
}

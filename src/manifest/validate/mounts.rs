//! Volume mounts and devices of containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use super::{FieldPath, Validator, unexpected};

impl Validator<'_> {
    pub(super) fn mounts(&mut self, field: &FieldPath, container: &Container, spec: &PodSpec) {
        let volumes: BTreeSet<&String> = spec.volumes.iter().flatten().map(|v| &v.name).collect();
        let mut paths = BTreeSet::new();
        for (field, mount) in field.items("volumeMounts", &container.volume_mounts) {
            let name_field = field.key("name");
            let name = &mount.name;
            if self.required(&name_field, name, "the name of a volume") && !volumes.contains(name) {
                let message = unexpected(name, "the name of one of spec.volumes");
                self.refuse(&name_field, message);
            }
            let path_field = field.key("mountPath");
            let path = &mount.mount_path;
            self.path_fits(&path_field, path);
            if self.required(&path_field, path, "a path in the container") && !paths.insert(path) {
                self.twice(&path_field, path, "path");
            }
            self.sub_path(&field, mount);
            self.propagation(&field, mount, container);
            self.recursive_read_only(&field, mount);
        }
    }

    fn sub_path(&mut self, field: &FieldPath, mount: &VolumeMount) {
        let path = mount.sub_path.as_deref().unwrap_or_default();
        let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
        self.path_below(&field.key("subPath"), path);
        let field = field.key("subPathExpr");
        self.path_below(&field, expression);
        if !path.is_empty() && !expression.is_empty() {
            self.refuse(&field, "found beside subPath, expected one of both");
        }
    }

    fn propagation(&mut self, field: &FieldPath, mount: &VolumeMount, container: &Container) {
        let field = field.key("mountPropagation");
        let kind = mount.mount_propagation.as_deref();
        let kinds = ["None", "HostToContainer", "Bidirectional"];
        self.one_of_if_set(&field, kind, &kinds);
        let context = container.security_context.as_ref();
        let privileged = context.and_then(|c| c.privileged) == Some(true);
        if kind == Some("Bidirectional") && !privileged {
            let message = "found Bidirectional, which only privileged containers can have";
            self.refuse(&field, message);
        }
    }

    fn recursive_read_only(&mut self, field: &FieldPath, mount: &VolumeMount) {
        let mode = mount.recursive_read_only.as_deref();
        let own = field.key("recursiveReadOnly");
        self.one_of_if_set(&own, mode, &["Disabled", "IfPossible", "Enabled"]);
        if !matches!(mode, Some("Enabled" | "IfPossible")) {
            return;
        }
        if mount.read_only != Some(true) {
            self.refuse(&own, "can only be set where readOnly is true");
        }
        let kind = mount.mount_propagation.as_deref();
        if kind.is_some_and(|kind| kind != "None") {
            self.refuse(
                &own,
                "can only be set where mountPropagation is None or not set",
            );
        }
    }
}

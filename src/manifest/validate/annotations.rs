//! Annotations that Kubernetes itself gives a meaning (Kubernetes, Well-Known Labels, Annotations and
//! Taints). Where a field says the same, both have to agree: of a profile that is named wrongly, a
//! container would run without it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};

use super::super::requests::all_containers;
use super::{FieldPath, Validator, names, unexpected};

/// Prefix of the annotation of a container's `AppArmor` profile; the container's name follows.
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Prefix of the former annotation of a container's seccomp profile; the container's name follows.
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
/// Prefix of the name of a profile of the node.
const LOCALHOST: &str = "localhost/";

type Annotations = BTreeMap<String, String>;

impl Validator<'_> {
    pub(super) fn known_annotations(&mut self, field: &FieldPath, pod: &Pod) {
        let (Some(annotations), Some(spec)) = (&pod.metadata.annotations, &pod.spec) else {
            return;
        };
        for (key, value) in annotations {
            let field = field.key(key);
            if let Some(container) = key.strip_prefix(APPARMOR) {
                self.apparmor_annotation(&field, container, value, spec);
            } else if key == SECCOMP_OF_POD || key.starts_with(SECCOMP_OF_CONTAINER) {
                self.seccomp_annotation(&field, value);
            } else if key == DELETION_COST {
                let plain = value == "0" || !value.starts_with(['0', '+']);
                let good = plain && value.parse::<i32>().is_ok();
                self.expect(good, &field, value, "an integer of 32 bits");
            } else if key == TOLERATIONS && !value.is_empty() {
                self.tolerations_annotation(&field, value);
            }
        }
        if spec.os.as_ref().is_none_or(|os| os.name != "windows") {
            self.apparmor_agrees(annotations, spec);
        }
        self.seccomp_agrees(annotations, spec);
    }

    fn apparmor_annotation(
        &mut self,
        field: &FieldPath,
        container: &str,
        value: &str,
        spec: &PodSpec,
    ) {
        if !all_containers(spec).any(|c| c.name == container) {
            let expected = "the name of one of the Pod's containers behind the slash";
            self.refuse(field, unexpected(container, expected));
        }
        let known = ["", "runtime/default", "unconfined"].contains(&value);
        self.expect(
            known || value.starts_with(LOCALHOST),
            field,
            value,
            "runtime/default, unconfined or localhost/PROFILE",
        );
    }

    fn seccomp_annotation(&mut self, field: &FieldPath, value: &str) {
        let known = ["runtime/default", "docker/default", "unconfined"].contains(&value);
        let local = |path: &str| !path.starts_with('/') && !names::has_parent(path);
        self.expect(
            known || value.strip_prefix(LOCALHOST).is_some_and(local),
            field,
            value,
            "runtime/default, unconfined or localhost/PATH",
        );
    }

    fn tolerations_annotation(&mut self, field: &FieldPath, value: &str) {
        match serde_json::from_str::<Option<Vec<Toleration>>>(value) {
            Ok(tolerations) => {
                for (i, toleration) in tolerations.iter().flatten().enumerate() {
                    self.toleration(&field.index(i), toleration);
                }
            }
            Err(error) => {
                let message = format!("expected a list of tolerations in JSON: {error}");
                self.refuse(field, message);
            }
        }
    }

    fn apparmor_agrees(&mut self, annotations: &Annotations, spec: &PodSpec) {
        let of_pod = spec.security_context.as_ref();
        let of_pod = of_pod.and_then(|s| s.app_armor_profile.as_ref());
        for (field, container) in containers(spec) {
            let own = container.security_context.as_ref();
            let own = own.and_then(|s| s.app_armor_profile.as_ref());
            let annotated = annotations.get(&format!("{APPARMOR}{}", container.name));
            if let (Some(profile), Some(annotated)) = (own.or(of_pod), annotated) {
                let field = field.key("securityContext").key("appArmorProfile");
                let name = profile.localhost_profile.as_deref();
                self.agree(&field, annotated, &profile.type_, name);
            }
        }
    }

    fn seccomp_agrees(&mut self, annotations: &Annotations, spec: &PodSpec) {
        let of_pod = spec.security_context.as_ref();
        let of_pod = of_pod.and_then(|s| s.seccomp_profile.as_ref());
        let of_pod = (FieldPath::new("spec"), of_pod, SECCOMP_OF_POD.to_owned());
        let own = containers(spec).map(|(field, container)| {
            let own = container.security_context.as_ref();
            let own = own.and_then(|s| s.seccomp_profile.as_ref());
            (
                field,
                own,
                format!("{SECCOMP_OF_CONTAINER}{}", container.name),
            )
        });
        for (field, profile, key) in std::iter::once(of_pod).chain(own) {
            if let (Some(profile), Some(annotated)) = (profile, annotations.get(&key)) {
                let field = field.key("securityContext").key("seccompProfile");
                let name = profile.localhost_profile.as_deref();
                let annotated = match annotated.as_str() {
                    "docker/default" => "runtime/default",
                    other => other,
                };
                self.agree(&field, annotated, &profile.type_, name);
            }
        }
    }

    /// The annotation names the profile that the field does.
    fn agree(&mut self, field: &FieldPath, annotated: &str, kind: &str, name: Option<&str>) {
        let localhost = annotated.strip_prefix(LOCALHOST);
        let (good, at) = match kind {
            "Unconfined" => (annotated == "unconfined", "type"),
            "RuntimeDefault" => (annotated == "runtime/default", "type"),
            "Localhost" if localhost.is_some() => (localhost == name, "localhostProfile"),
            "Localhost" => (false, "type"),
            // What it is instead is reported already.
            _ => (true, "type"),
        };
        let found = if at == "type" {
            kind
        } else {
            name.unwrap_or_default()
        };
        let expected = format!("what the annotation says, {annotated:?}");
        self.expect(good, &field.key(at), found, &expected);
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = (FieldPath, &Container)> {
    let field = FieldPath::new("spec");
    let inits = field.items("initContainers", &spec.init_containers);
    let mains = field.items("containers", [&spec.containers]);
    inits.into_iter().chain(mains)
}

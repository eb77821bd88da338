//! Treatment of each field of a Pod: one table, which acceptance uses and docs/fields.md is generated from.
//!
//! A test holds it against the types of `k8s-openapi`, so that no field can be forgotten. Below a
//! field that is refused or has no effect nothing is listed: it shares that fate.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

/// Treatment of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// The container runtime implements it: it is part of the request to the runtime.
    Runtime,
    /// The agent itself carries it out.
    Agent,
    /// It is taken and changes nothing on a node, as with the kubelet.
    NoEffect(&'static str),
    /// It is taken with a warning: somebody may expect something of it.
    Warned(&'static str),
    /// The Pod is refused.
    Refused(&'static str),
}

use Treatment::{Agent, NoEffect, Refused, Runtime, Warned};

/// Fields of an object that are treated alike.
type Row = (&'static str, Treatment, &'static [&'static str]);

const BY_SERVER: &str = "set by an API server, it has no effect here";
const NO_OBJECTS: &str = "a static Pod cannot use objects of an API server";
const NO_DRIVER: &str =
    "volumes of drivers are not supported: mount it on the node and use hostPath";
const OBSOLETE: &str = "Kubernetes does not have this kind of volume any more";
const NO_DEVICES: &str =
    "only volumes of claims and drivers can be devices: use hostPath with type BlockDevice";
const SCHEDULER: &str = "of use to a scheduler alone";
const WINDOWS: &str = "for nodes with Windows, it has no effect here";

/// The table, in the order of docs/fields.md.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("Pod", Agent, &["apiVersion", "kind", "metadata", "spec"]),
    ("Pod", Warned(BY_SERVER), &["status"]),

    ("ObjectMeta", Agent, &["annotations", "labels", "name", "namespace"]),
    ("ObjectMeta", NoEffect("a static Pod has its own name"), &["generateName"]),
    ("ObjectMeta", Warned(BY_SERVER), &[
        "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
        "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
    ]),

    ("PodSpec", Runtime, &[
        "dnsConfig", "dnsPolicy", "hostIPC", "hostNetwork", "hostPID", "hostUsers", "hostname",
        "hostnameOverride", "overhead", "runtimeClassName", "securityContext", "setHostnameAsFQDN",
        "shareProcessNamespace", "subdomain",
    ]),
    ("PodSpec", Agent, &[
        "activeDeadlineSeconds", "affinity", "containers", "hostAliases", "imagePullSecrets", "initContainers",
        "nodeName", "nodeSelector", "os", "priority", "priorityClassName", "readinessGates", "resources",
        "restartPolicy", "terminationGracePeriodSeconds", "volumes",
    ]),
    ("PodSpec", NoEffect("the Pod is on this node already"), &[
        "preemptionPolicy", "schedulerName", "topologySpreadConstraints",
    ]),
    ("PodSpec", NoEffect("a static Pod tolerates every taint that would end it"), &["tolerations"]),
    ("PodSpec", NoEffect("there is no service account to mount a token of"), &["automountServiceAccountToken"]),
    ("PodSpec", NoEffect("services live on an API server"), &["enableServiceLinks"]),
    ("PodSpec", Warned("it is for schedulers, it has no effect here"), &["schedulingGroup"]),
    ("PodSpec", Refused("a static Pod starts at once: take the manifest away until it may"), &["schedulingGates"]),
    ("PodSpec", Refused(NO_OBJECTS), &["resourceClaims", "serviceAccount", "serviceAccountName"]),
    ("PodSpec", Refused("they are added to running Pods through an API server: use podkeeper exec, or a sidecar"), &["ephemeralContainers"]),

    ("LocalObjectReference", Agent, &["name"]),

    ("Container", Runtime, &[
        "args", "command", "image", "ports", "securityContext", "stdin", "stdinOnce", "tty",
        "volumeMounts", "workingDir",
    ]),
    ("Container", Agent, &[
        "env", "envFrom", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "readinessProbe",
        "resources", "restartPolicy", "restartPolicyRules", "startupProbe", "terminationMessagePath",
        "terminationMessagePolicy",
    ]),
    ("Container", NoEffect("a changed manifest is a new Pod, nothing is resized"), &["resizePolicy"]),
    ("Container", Refused(NO_DEVICES), &["volumeDevices"]),

    ("ContainerPort", Runtime, &["containerPort", "hostIP", "hostPort", "protocol"]),
    ("ContainerPort", Agent, &["name"]),

    ("EnvVar", Agent, &["name", "value", "valueFrom"]),
    ("EnvVarSource", Agent, &["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"]),
    ("ConfigMapKeySelector", Agent, &["key", "name", "optional"]),
    ("SecretKeySelector", Agent, &["key", "name", "optional"]),
    ("FileKeySelector", Agent, &["key", "optional", "path", "volumeName"]),
    ("ObjectFieldSelector", Agent, &["apiVersion", "fieldPath"]),
    ("ResourceFieldSelector", Agent, &["containerName", "divisor", "resource"]),
    ("EnvFromSource", Agent, &["configMapRef", "prefix", "secretRef"]),
    ("ConfigMapEnvSource", Agent, &["name", "optional"]),
    ("SecretEnvSource", Agent, &["name", "optional"]),

    ("VolumeMount", Runtime, &["mountPath", "mountPropagation", "name", "readOnly", "recursiveReadOnly"]),
    ("VolumeMount", Agent, &["subPath", "subPathExpr"]),

    ("ResourceRequirements", Agent, &["limits", "requests"]),
    ("ResourceRequirements", Refused(NO_OBJECTS), &["claims"]),
    ("ContainerRestartRule", Agent, &["action", "exitCodes"]),
    ("ContainerRestartRuleOnExitCodes", Agent, &["operator", "values"]),

    ("Lifecycle", Agent, &["postStart", "preStop"]),
    ("Lifecycle", Runtime, &["stopSignal"]),
    ("LifecycleHandler", Agent, &["exec", "httpGet", "sleep"]),
    ("LifecycleHandler", Warned("hooks over TCP are carried out neither here nor by the kubelet: use exec or httpGet"), &["tcpSocket"]),
    ("Probe", Agent, &[
        "exec", "failureThreshold", "grpc", "httpGet", "initialDelaySeconds", "periodSeconds",
        "successThreshold", "tcpSocket", "terminationGracePeriodSeconds", "timeoutSeconds",
    ]),
    ("ExecAction", Agent, &["command"]),
    ("HTTPGetAction", Agent, &["host", "httpHeaders", "path", "port", "scheme"]),
    ("HTTPHeader", Agent, &["name", "value"]),
    ("TCPSocketAction", Agent, &["host", "port"]),
    ("GRPCAction", Agent, &["port", "service"]),
    ("SleepAction", Agent, &["seconds"]),

    ("SecurityContext", Runtime, &[
        "allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount",
        "readOnlyRootFilesystem", "runAsGroup", "runAsUser", "seLinuxOptions", "seccompProfile",
    ]),
    ("SecurityContext", Agent, &["runAsNonRoot"]),
    ("SecurityContext", Warned(WINDOWS), &["windowsOptions"]),
    ("PodSecurityContext", Runtime, &[
        "appArmorProfile", "runAsGroup", "runAsUser", "seLinuxOptions", "seccompProfile",
        "supplementalGroups", "supplementalGroupsPolicy", "sysctls",
    ]),
    ("PodSecurityContext", Agent, &["fsGroup", "runAsNonRoot"]),
    ("PodSecurityContext", NoEffect("it concerns volumes of drivers alone"), &["fsGroupChangePolicy", "seLinuxChangePolicy"]),
    ("PodSecurityContext", Warned(WINDOWS), &["windowsOptions"]),
    ("Capabilities", Runtime, &["add", "drop"]),
    ("SELinuxOptions", Runtime, &["level", "role", "type", "user"]),
    ("SeccompProfile", Runtime, &["localhostProfile", "type"]),
    ("AppArmorProfile", Runtime, &["localhostProfile", "type"]),
    ("Sysctl", Runtime, &["name", "value"]),

    ("Volume", Agent, &[
        "configMap", "downwardAPI", "emptyDir", "hostPath", "name", "projected", "secret",
    ]),
    ("Volume", Runtime, &["image"]),
    ("Volume", Refused("a static Pod cannot use objects of an API server: use hostPath or emptyDir"), &[
        "ephemeral", "persistentVolumeClaim",
    ]),
    ("Volume", Refused(NO_DRIVER), &[
        "awsElasticBlockStore", "azureDisk", "azureFile", "cinder", "csi", "fc", "flexVolume",
        "gcePersistentDisk", "iscsi", "nfs", "portworxVolume", "vsphereVolume",
    ]),
    ("Volume", Refused(OBSOLETE), &[
        "cephfs", "flocker", "gitRepo", "glusterfs", "photonPersistentDisk", "quobyte", "rbd",
        "scaleIO", "storageos",
    ]),
    ("HostPathVolumeSource", Agent, &["path", "type"]),
    ("EmptyDirVolumeSource", Agent, &["medium", "sizeLimit"]),
    ("ImageVolumeSource", Runtime, &["reference"]),
    ("ImageVolumeSource", Agent, &["pullPolicy"]),
    ("ConfigMapVolumeSource", Agent, &["defaultMode", "items", "name", "optional"]),
    ("SecretVolumeSource", Agent, &["defaultMode", "items", "optional", "secretName"]),
    ("KeyToPath", Agent, &["key", "mode", "path"]),
    ("DownwardAPIVolumeSource", Agent, &["defaultMode", "items"]),
    ("DownwardAPIVolumeFile", Agent, &["fieldRef", "mode", "path", "resourceFieldRef"]),
    ("ProjectedVolumeSource", Agent, &["defaultMode", "sources"]),
    ("VolumeProjection", Agent, &["configMap", "downwardAPI", "secret"]),
    ("VolumeProjection", Refused(NO_OBJECTS), &["clusterTrustBundle", "podCertificate", "serviceAccountToken"]),
    ("ConfigMapProjection", Agent, &["items", "name", "optional"]),
    ("SecretProjection", Agent, &["items", "name", "optional"]),
    ("DownwardAPIProjection", Agent, &["items"]),

    ("PodDNSConfig", Runtime, &["nameservers", "options", "searches"]),
    ("PodDNSConfigOption", Runtime, &["name", "value"]),
    ("HostAlias", Agent, &["hostnames", "ip"]),
    ("PodOS", Agent, &["name"]),
    ("PodReadinessGate", Agent, &["conditionType"]),

    ("Affinity", Agent, &["nodeAffinity"]),
    ("Affinity", Warned("where other Pods are is known to schedulers alone, it has no effect here"), &["podAffinity", "podAntiAffinity"]),
    ("NodeAffinity", Agent, &["requiredDuringSchedulingIgnoredDuringExecution"]),
    ("NodeAffinity", NoEffect(SCHEDULER), &["preferredDuringSchedulingIgnoredDuringExecution"]),
    ("NodeSelector", Agent, &["nodeSelectorTerms"]),
    ("NodeSelectorTerm", Agent, &["matchExpressions", "matchFields"]),
    ("NodeSelectorRequirement", Agent, &["key", "operator", "values"]),
];

/// Returns the treatment of a field of an object. A field that is not in the table is refused; a test makes
/// sure that there is none.
pub(super) fn treatment(object: &str, field: &str) -> Treatment {
    static INDEX: LazyLock<HashMap<(&str, &str), Treatment>> = LazyLock::new(|| {
        let rows = TABLE.iter();
        let each = |(object, treatment, fields): &'static Row| {
            fields.iter().map(|field| ((*object, *field), *treatment))
        };
        rows.flat_map(each).collect()
    });
    let found = INDEX.get(&(object, field));
    found.copied().unwrap_or(Refused("not supported"))
}

impl Treatment {
    /// True if the treatment also covers everything below the field, so that nothing is listed there.
    pub(super) fn is_final(self) -> bool {
        !matches!(self, Runtime | Agent)
    }
}

/// True if a value is not empty: an empty text, list or object counts as absent, except for an object whose
/// presence selects a kind of volume.
pub(super) fn says_something(object: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty() || ["Volume", "VolumeProjection"].contains(&object),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use super::super::schema::{ObjectSchema, pod};
    use super::*;

    const BEGIN: &str = "<!-- made from src/manifest/fields.rs -->\n";
    const END: &str = "<!-- end of what is made -->\n";

    /// Each field that has to be listed: of the object, and of what is below it.
    fn listed(object: &'static ObjectSchema, into: &mut BTreeSet<(&'static str, &'static str)>) {
        for (field, schema) in &object.fields {
            into.insert((object.name, field));
            if let Some(inner) = schema
                .object()
                .filter(|_| !treatment(object.name, field).is_final())
            {
                listed(inner, into);
            }
        }
    }

    #[test]
    fn the_table_has_every_field_of_a_pod_once_and_no_other() {
        let mut expected = BTreeSet::new();
        listed(pod(), &mut expected);
        let rows = TABLE.iter();
        let all = rows.flat_map(|(object, _, fields)| fields.iter().map(move |f| (*object, *f)));
        let all: Vec<_> = all.collect();
        let found: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(found.len(), all.len(), "a field is in the table twice");
        let missing: Vec<_> = expected.difference(&found).collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
        let gone: Vec<_> = found.difference(&expected).collect();
        assert!(
            gone.is_empty(),
            "no Pod has these, or what is around them settles them: {gone:?}"
        );
    }

    fn table() -> String {
        let mut text = String::from("| object | fields | what is done |\n|---|---|---|\n");
        for (object, treatment, fields) in TABLE {
            let done = match treatment {
                Runtime => "carried out by the runtime".to_owned(),
                Agent => "carried out".to_owned(),
                NoEffect(why) => format!("no effect: {why}"),
                Warned(why) => format!("a warning: {why}"),
                Refused(why) => format!("**refused**: {why}"),
            };
            let fields: Vec<_> = fields.iter().map(|f| format!("`{f}`")).collect();
            writeln!(text, "| {object} | {} | {done} |", fields.join(", ")).unwrap();
        }
        text
    }

    #[test]
    fn the_document_has_the_table_of_fields() {
        let expected = format!("\n{}\n", table());
        crate::tests::check_document(
            "docs/fields.md",
            [BEGIN, END],
            &expected,
            "the_document_has_the_table_of_fields",
        );
    }
}

//! Differences of a kubelet: manifests that podkeeper carries out in another way, or that a kubelet does not carry out at all.
//!
//! Pure: a document in, warnings out. They are the rows of "Differences from the kubelet" in `docs/manifests.md` that a
//! manifest can show, and what only podkeeper has.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::document::{self, Document};
use super::objects::{object_kind, references};
use super::{Problem, decode, list, path};

/// Prefix of podkeeper's own annotations.
const OWN_ANNOTATIONS: &str = "podkeeper.io/";

/// Returns what a kubelet would do differently with a manifest, or with a document for `--manifest-url`. Of what cannot be
/// read, there is nothing.
#[must_use]
pub fn kubelet_differences(bytes: &[u8]) -> Vec<Problem> {
    let mut items = vec![];
    for document in document::read(bytes).unwrap_or_default() {
        // A list that is wrong is an error of its own.
        let _ = list::take_apart(document, &mut items);
    }
    let mut found = vec![];
    for item in &items {
        if object_kind(item).is_some() {
            let message = "a kubelet reads no ConfigMaps and Secrets from manifests";
            found.push(item.spans.problem("kind", message).warning());
        } else if let Ok(decoded) = decode::decode(item) {
            Differences {
                item,
                found: &mut found,
            }
            .of_pod(&decoded.pod);
        }
    }
    found.sort_by_key(|problem| (problem.line, problem.column));
    found
}

/// The differences of one Pod.
struct Differences<'a> {
    item: &'a Document,
    found: &'a mut Vec<Problem>,
}

impl Differences<'_> {
    fn add(&mut self, field: &str, message: &str) {
        let problem = self.item.spans.problem(field, message);
        self.found.push(problem.warning());
    }

    fn of_pod(&mut self, pod: &Pod) {
        if pod.metadata.uid.is_some() {
            let message = "a kubelet uses this as the Pod's UID, and does not restart the Pod when the manifest changes";
            self.add("metadata.uid", message);
        }
        for name in pod.metadata.annotations.iter().flat_map(|all| all.keys()) {
            if name.starts_with(OWN_ANNOTATIONS) {
                let field = path::key("metadata.annotations", name);
                self.add(&field, "has no effect with a kubelet");
            }
        }
        if let Some(spec) = &pod.spec {
            self.of_spec(spec);
        }
    }

    fn of_spec(&mut self, spec: &PodSpec) {
        for field in references::fields(spec) {
            let message = "a kubelet refuses static Pods that refer to ConfigMaps or Secrets";
            self.add(&field, message);
        }
        let passed_on = "a kubelet passes it on, and the API server may refuse the mirror Pod";
        if spec.priority.is_some() {
            self.add("spec.priority", passed_on);
        }
        if spec.preemption_policy.is_some() {
            self.add("spec.preemptionPolicy", passed_on);
        }
        for (i, container) in spec.containers.iter().enumerate() {
            self.of_container(&path::index("spec.containers", i), container);
        }
    }

    fn of_container(&mut self, field: &str, container: &Container) {
        let Some(probe) = &container.liveness_probe else {
            return;
        };
        let period = probe.period_seconds.unwrap_or(10);
        let is_late = probe.initial_delay_seconds.unwrap_or(0) >= period;
        if !is_late && container.startup_probe.is_none() {
            let message = "a kubelet probes at once, or after initialDelaySeconds: set that to periodSeconds at least";
            self.add(&path::key(field, "livenessProbe"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let found = kubelet_differences(text.as_bytes());
        assert!(found.iter().all(Problem::is_warning));
        let place = |p: &Problem| format!("{}:{}", p.line, p.field);
        found.iter().map(place).collect()
    }

    #[test]
    fn each_difference_is_found_at_its_place() {
        let text = "apiVersion: v1
kind: Pod
metadata:
  name: a
  uid: u
  annotations:
    podkeeper.io/rollback-after: 60s
    example.com/other: x
spec:
  priority: 7
  preemptionPolicy: Never
  volumes:
  - name: v
    secret: {secretName: s}
  containers:
  - name: c
    image: i:1
    livenessProbe: {tcpSocket: {port: 80}}
    env:
    - name: A
      valueFrom: {configMapKeyRef: {name: m, key: k}}
  - name: d
    image: i:1
    livenessProbe: {tcpSocket: {port: 80}, initialDelaySeconds: 10}
  - name: e
    image: i:1
    startupProbe: {tcpSocket: {port: 80}}
    livenessProbe: {tcpSocket: {port: 80}}
  imagePullSecrets: [{name: s}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m}
data: {k: x}
";
        let expected = [
            "5:metadata.uid",
            "7:metadata.annotations[podkeeper.io/rollback-after]",
            "10:spec.priority",
            "11:spec.preemptionPolicy",
            "14:spec.volumes[0].secret",
            "18:spec.containers[0].livenessProbe",
            "21:spec.containers[0].env[0].valueFrom.configMapKeyRef",
            "29:spec.imagePullSecrets[0]",
            "32:kind",
        ];
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn items_of_lists_have_them_and_what_cannot_be_read_has_none() {
        let list = "apiVersion: v1
kind: PodList
items:
- metadata: {name: a}
  spec: {priority: 1, containers: [{name: c, image: i}]}
";
        assert_eq!(lines(list), ["5:items[0].spec.priority"]);
        assert_eq!(lines("{"), [""; 0]);
        assert_eq!(lines("apiVersion: v1\nkind: Pod\nspec: 7\n"), [""; 0]);
    }
}

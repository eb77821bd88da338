//! Priorities of Pods (Kubernetes, Pod Priority and Preemption). Nothing of a static Pod resolves its class but
//! the two that every cluster has.

use super::StaticPod;

/// Priority of `system-cluster-critical`, from which on a Pod is critical.
pub const CLUSTER_CRITICAL: i32 = 2_000_000_000;
/// Priority of `system-node-critical`.
pub const NODE_CRITICAL: i32 = 2_000_001_000;
/// The class of the Pods that a node cannot do without; the kernel spares them as it spares guaranteed ones.
pub const NODE_CRITICAL_CLASS: &str = "system-node-critical";

/// Returns the Pod's priority: that of its class, or else the one that its manifest gives, or 0.
#[must_use]
pub fn priority(pod: &StaticPod) -> i32 {
    match pod.spec.priority_class_name.as_deref() {
        Some(NODE_CRITICAL_CLASS) => NODE_CRITICAL,
        Some("system-cluster-critical") => CLUSTER_CRITICAL,
        _ => pod.spec.priority.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{SourceKind, parse};

    #[test]
    fn a_class_that_every_cluster_has_gives_the_priority_and_any_other_does_not() {
        for (fields, expected) in [
            ("", 0),
            ("priority: -7,", -7),
            ("priority: 2000001000,", NODE_CRITICAL),
            ("priorityClassName: high,", 0),
            (
                "priorityClassName: system-cluster-critical,",
                CLUSTER_CRITICAL,
            ),
            (
                "priorityClassName: system-node-critical, priority: 2000001000,",
                NODE_CRITICAL,
            ),
        ] {
            let manifest = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{fields} containers: [{{name: c, image: i}}]}}}}"
            );
            let parsed = parse(manifest.as_bytes(), "n1", SourceKind::File);
            let pod = parsed.unwrap_or_else(|e| panic!("{manifest}: {e:?}")).pod;
            assert_eq!(priority(&pod), expected, "{fields}");
        }
    }
}

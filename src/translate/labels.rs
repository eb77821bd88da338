//! Labels and annotations on sandboxes and containers. Those of Kubernetes are the kubelet's, since
//! tools on nodes select by them; ours begin with `podkeeper.io/`.

/// The Pod's full name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The Pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name in the Pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Number of restarts of the container.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Path of the termination message in the container.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Policy of the termination message.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The Pod's grace period in seconds.
pub const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The container's ports, as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// The container's preStop hook, as JSON.
pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";

/// First time that the Pod was seen, RFC 3339.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// Owner label: on every sandbox and container that we made, with the root directory of the agent
/// that made it. What does not carry it, or carries another agent's, is never touched.
pub const ROOT_DIR: &str = "podkeeper.io/root-dir";
/// On a restarted container, the wait in seconds that came before its start.
pub const RESTART_BACKOFF: &str = "podkeeper.io/restart-backoff";

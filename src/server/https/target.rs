//! Paths of the node's API, and the right that each requires (Kubernetes, Kubelet
//! authentication/authorization).

use hyper::Method;

use crate::manifest::PodKey;

/// Target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// One of the paths of the read-only port.
    Common,
    /// Usage of the node and its Pods, as JSON.
    Summary,
    /// The same, as metrics.
    ResourceMetrics,
    /// Usage in more detail, as metrics under cAdvisor's names.
    CadvisorMetrics,
    /// Log of a container.
    Logs(ContainerName),
    /// A command in a container.
    Exec(ContainerName),
    /// Streams of a container's own process.
    Attach(ContainerName),
    /// Connections to ports of a Pod.
    PortForward(PodKey),
}

/// A container of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerName {
    pub(super) pod: PodKey,
    pub(super) container: String,
}

/// The paths that exist, for the message about others.
pub(super) const PATHS: &str = "/healthz, /pods, /configz, /metrics, /metrics/cadvisor, \
     /metrics/probes, /metrics/resource, /stats/summary, /containerLogs/NAMESPACE/POD/CONTAINER, /exec/NAMESPACE/POD/CONTAINER, \
     /attach/NAMESPACE/POD/CONTAINER and /portForward/NAMESPACE/POD";

impl Target {
    /// Returns the target of a path, if there is one.
    pub(super) fn of(path: &str) -> Option<Self> {
        let words: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        match words.as_slice() {
            ["healthz" | "pods" | "configz" | "metrics"] | ["pods", ""] | ["metrics", "probes"] => {
                Some(Self::Common)
            }
            ["metrics", "cadvisor"] => Some(Self::CadvisorMetrics),
            ["metrics", "resource"] => Some(Self::ResourceMetrics),
            ["stats", "summary"] => Some(Self::Summary),
            ["containerLogs", rest @ ..] => container(rest).map(Self::Logs),
            ["exec", rest @ ..] => container(rest).map(Self::Exec),
            ["attach", rest @ ..] => container(rest).map(Self::Attach),
            ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
                pod(namespace, name).map(Self::PortForward)
            }
            _ => None,
        }
    }
}

/// Parses `NAMESPACE/POD/CONTAINER`, or one with a UID before the container. The UID is ignored: it may be
/// the mirror Pod's, which the API server chose.
fn container(words: &[&str]) -> Option<ContainerName> {
    let ([namespace, name, container] | [namespace, name, _, container]) = words else {
        return None;
    };
    Some(ContainerName {
        pod: pod(namespace, name)?,
        container: Some((*container).to_owned()).filter(|name| !name.is_empty())?,
    })
}

fn pod(namespace: &str, name: &str) -> Option<PodKey> {
    (!namespace.is_empty() && !name.is_empty()).then(|| PodKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// The right that a request requires: a verb on a subresource of the node; any one of them suffices.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Right {
    pub(super) verb: &'static str,
    pub(super) subresources: Vec<&'static str>,
}

/// Paths with a subresource of their own; `true` for those where `proxy` suffices too.
const SUBRESOURCES: [(&str, &str, bool); 11] = [
    ("pods", "pods", true),
    ("runningpods", "pods", true),
    ("healthz", "healthz", true),
    ("configz", "configz", true),
    ("stats", "stats", false),
    ("metrics", "metrics", false),
    ("logs", "log", false),
    ("spec", "spec", false),
    ("checkpoint", "checkpoint", false),
    ("statusz", "statusz", false),
    ("flagz", "configz", false),
];

/// The subresource that implies all others.
const PROXY: &str = "proxy";

/// First segments of the paths that run commands or open connections in containers, including those of the
/// kubelet's that are not served here.
const STREAMS: [&str; 5] = ["exec", "attach", "portForward", "run", "cri"];

impl Right {
    /// Returns the right that a request requires. A method without a verb requires none that exists.
    ///
    /// A stream requires `create` with whatever method it is requested: a WebSocket is opened by a GET, and
    /// the right to read must not suffice to run a command.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let first = path.trim_start_matches('/').split('/').next();
        let verb = match *method {
            _ if first.is_some_and(|first| STREAMS.contains(&first)) => "create",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let known = SUBRESOURCES.iter().find(|(p, ..)| Some(*p) == first);
        let subresources = match known {
            Some((_, own, true)) => vec![*own, PROXY],
            Some((_, own, false)) => vec![*own],
            None => vec![PROXY],
        };
        Self { verb, subresources }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PodKey {
        PodKey {
            namespace: "ns".into(),
            name: "web-n1".into(),
        }
    }

    fn name() -> ContainerName {
        ContainerName {
            pod: key(),
            container: "c".into(),
        }
    }

    #[test]
    fn a_path_names_a_pod_and_a_container_with_and_without_the_pods_uid() {
        for uid in ["", "0f1-2/"] {
            let of = |path: &str| Target::of(&format!("/{path}/ns/web-n1/{uid}c"));
            assert_eq!(of("containerLogs"), Some(Target::Logs(name())));
            assert_eq!(of("exec"), Some(Target::Exec(name())));
            assert_eq!(of("attach"), Some(Target::Attach(name())));
        }
        let forward = Some(Target::PortForward(key()));
        assert_eq!(Target::of("/portForward/ns/web-n1"), forward);
        assert_eq!(Target::of("/portForward/ns/web-n1/0f1-2"), forward);
    }

    #[test]
    fn a_missing_path_has_no_target() {
        for path in [
            "",
            "/",
            "/run/ns/p/c",
            "/pods/x",
            "/exec",
            "/exec/ns/p",
            "/exec//p/c",
            "/exec/ns/p/",
            "/exec/a/b/c/d/e",
            "/portForward/ns",
            "/v1/pods",
            "/stats",
            "pods",
        ] {
            assert_eq!(Target::of(path), None, "{path}");
        }
        for path in [
            "/pods",
            "/pods/",
            "/metrics/probes",
            "/healthz",
            "/configz",
            "/metrics",
        ] {
            assert_eq!(Target::of(path), Some(Target::Common), "{path}");
        }
    }

    #[test]
    fn a_request_takes_the_right_that_the_kubelet_asks_for() {
        let right = |method: Method, path: &str| {
            let right = Right::of(&method, path);
            format!("{} {}", right.verb, right.subresources.join(" or "))
        };
        for (path, expected) in [
            ("/pods", "get pods or proxy"),
            ("/pods/", "get pods or proxy"),
            ("/healthz", "get healthz or proxy"),
            ("/configz", "get configz or proxy"),
            ("/stats/summary", "get stats"),
            ("/metrics", "get metrics"),
            ("/metrics/resource", "get metrics"),
            ("/metrics/cadvisor", "get metrics"),
            ("/logs/x", "get log"),
            ("/checkpoint/ns/p/c", "get checkpoint"),
            ("/runningpods/", "get pods or proxy"),
            ("/statusz", "get statusz"),
            ("/flagz", "get configz"),
            ("/spec", "get spec"),
            ("/containerLogs/ns/p/c", "get proxy"),
            ("/statsx", "get proxy"),
            ("/", "get proxy"),
        ] {
            assert_eq!(right(Method::GET, path), expected, "{path}");
        }
        for (method, verb) in [
            (Method::POST, "create"),
            (Method::PUT, "update"),
            (Method::PATCH, "patch"),
            (Method::DELETE, "delete"),
            (Method::HEAD, "get"),
            (Method::TRACE, ""),
        ] {
            let asked = right(method, "/containerLogs/ns/p/c");
            assert_eq!(asked, format!("{verb} proxy"));
        }
    }

    #[test]
    fn the_right_to_read_is_never_enough_for_a_stream() {
        for path in [
            "/exec/ns/p/c",
            "//exec/ns/p/c",
            "/exec/ns/p/uid/c",
            "/exec",
            "/attach/ns/p/c",
            "/portForward/ns/p",
            "/run/ns/p/c",
            "/cri/exec/token",
        ] {
            for method in [
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::OPTIONS,
                Method::TRACE,
            ] {
                let right = Right::of(&method, path);
                assert_eq!(right.verb, "create", "{method} {path}");
                assert_eq!(right.subresources, ["proxy"], "{method} {path}");
            }
        }
        let logs = Right::of(&Method::GET, "/execs/ns/p/c");
        assert_eq!(logs.verb, "get");
    }
}

//! Order of first starts: the annotations by which a Pod is started after others.

use std::time::Duration;

use super::spans::Spans;
use super::{PodKey, Problem, StaticPod, is_dns_label, is_dns_subdomain, path, shown};
use crate::units::duration::parse_duration;

/// The annotation with the Pods that are to be Ready before a Pod starts for the first time.
pub const START_AFTER: &str = "podkeeper.io/start-after";
/// The annotation with the duration after which a Pod starts though those are not Ready.
pub const START_AFTER_TIMEOUT: &str = "podkeeper.io/start-after-timeout";

/// Most Pods that one can be started after.
const MAX_PODS: usize = 100;

/// The Pods that a Pod is started after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartAfter {
    /// Their keys, each once, in the order in which they are named.
    pub pods: Vec<PodKey>,
    /// Time after which the Pod starts without them.
    pub timeout: Option<Duration>,
    /// Position and path of the annotation.
    place: Problem,
}

impl StartAfter {
    /// Reads the annotations of a Pod that was validated, with this key.
    pub(super) fn of(pod: &StaticPod, node_name: &str, spans: &Spans) -> Option<Self> {
        let names = pod.annotation(START_AFTER)?;
        let timeout = pod.annotation(START_AFTER_TIMEOUT);
        let timeout = timeout.and_then(|text| parse_duration(text).ok());
        let field = path::key("metadata.annotations", START_AFTER);
        Some(Self {
            pods: read_names(names, &pod.key, node_name).ok()?,
            timeout: timeout.filter(|limit| !limit.is_zero()),
            place: spans.problem(field, ""),
        })
    }

    /// A problem with what the annotation says.
    #[must_use]
    pub fn problem(&self, message: String) -> Problem {
        Problem {
            message,
            ..self.place.clone()
        }
    }
}

/// Reads the names of Pods, as a Pod with this key writes them. One without a namespace is of the same namespace, and one
/// that ends in the node's name is a full name.
///
/// # Errors
/// The problem with them.
pub(super) fn read_names(text: &str, own: &PodKey, node_name: &str) -> Result<Vec<PodKey>, String> {
    let expected = "names of Pods separated by commas, such as db or kube-system/etcd";
    let suffix = format!("-{}", node_name.to_lowercase());
    let mut pods: Vec<PodKey> = vec![];
    for item in text.split(',').map(str::trim) {
        let (namespace, name) = item.split_once('/').unwrap_or((&own.namespace, item));
        let is_full = name.len() > suffix.len() && name.ends_with(&suffix);
        let full = if is_full {
            name.to_owned()
        } else {
            format!("{name}{suffix}")
        };
        if name.is_empty() || !is_dns_label(namespace) || !is_dns_subdomain(&full) {
            return Err(format!("found {}, expected {expected}", shown(item)));
        }
        let key = PodKey {
            namespace: namespace.to_owned(),
            name: full,
        };
        if key == *own {
            return Err(format!(
                "found {}, the Pod itself, which would wait for itself",
                shown(item)
            ));
        }
        if pods.contains(&key) {
            return Err(format!(
                "found {} twice, expected each Pod once",
                shown(item)
            ));
        }
        if pods.len() >= MAX_PODS {
            return Err(format!("found more than {MAX_PODS} Pods"));
        }
        pods.push(key);
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::identity;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let own = identity::key("web", Some("shop"), "N1");
        let pods = read_names(text, &own, "N1")?;
        Ok(pods.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_name_is_of_the_same_namespace_and_may_be_a_full_one() {
        for (text, expected) in [
            ("db", "shop/db-n1"),
            ("db-n1", "shop/db-n1"),
            ("default/db", "default/db-n1"),
            ("default/web", "default/web-n1"),
            ("-n1", ""),
        ] {
            let expected: Vec<&str> = Some(expected)
                .filter(|e| !e.is_empty())
                .into_iter()
                .collect();
            assert_eq!(read(text).unwrap_or_default(), expected, "{text}");
        }
        let several = read("db, kube-system/etcd ,cache").unwrap();
        assert_eq!(
            several,
            ["shop/db-n1", "kube-system/etcd-n1", "shop/cache-n1"]
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, expected) in [
            ("", "found \"\", expected names of Pods"),
            ("db,", "found \"\", expected names of Pods"),
            ("Db", "found \"Db\", expected names of Pods"),
            ("a/b/c", "found \"a/b/c\", expected names of Pods"),
            ("/db", "found \"/db\", expected names of Pods"),
            ("db,shop/db", "found \"shop/db\" twice"),
            ("web", "found \"web\", the Pod itself"),
            ("shop/web-n1", "found \"shop/web-n1\", the Pod itself"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        let many: Vec<String> = (0..=MAX_PODS).map(|i| format!("p{i}")).collect();
        assert_eq!(
            read(&many.join(",")).unwrap_err(),
            "found more than 100 Pods"
        );
    }
}

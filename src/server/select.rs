//! Selection of Pods by a name as people write it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;

use super::LabelSelector;
use crate::manifest::{PackedPod, PodKey};
use crate::pod::report::PodSnapshot;

/// Only a URL's query matters here; it has to have the rest.
const BASE: &str = "http://agent/";

/// Prefix of a Pod's name in kubectl.
const KINDS: [&str; 2] = ["pod", "pods"];

/// Name of a Pod as people write it: `NAME`, `NAME-NODE`, or one of these after `NAMESPACE/`, with or without
/// kubectl's prefix `pod/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    namespace: Option<String>,
    name: String,
}

impl PodName {
    /// The one Pod with this key.
    #[must_use]
    pub fn of(key: &PodKey) -> Self {
        Self {
            namespace: Some(key.namespace.clone()),
            name: key.name.clone(),
        }
    }

    /// Returns the matching Pods on the node of this name: those with this full name, or else those with this
    /// name before the node's.
    pub(super) fn select(&self, node: &str, keys: impl Iterator<Item = PodKey>) -> Vec<PodKey> {
        let meant: Vec<PodKey> = keys.filter(|key| self.means(node, key)).collect();
        let in_full = |key: &&PodKey| key.name == self.name;
        if meant.iter().any(|key| in_full(&key)) {
            return meant.iter().filter(in_full).cloned().collect();
        }
        meant
    }

    /// Returns whether this Pod matches.
    pub(super) fn means(&self, node: &str, key: &PodKey) -> bool {
        let without_node = key
            .name
            .strip_suffix(node)
            .and_then(|n| n.strip_suffix('-'));
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == key.namespace)
            && (key.name == self.name || without_node == Some(&self.name))
    }
}

/// Filter of Pods: all that is given has to match.
#[derive(Debug, Clone, Default)]
pub struct PodFilter {
    /// Their name.
    pub name: Option<PodName>,
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their labels.
    pub selector: Option<LabelSelector>,
}

impl PodFilter {
    /// The Pods of this name.
    #[must_use]
    pub fn of(name: &PodName) -> Self {
        Self {
            name: Some(name.clone()),
            ..Self::default()
        }
    }

    /// Returns true if every Pod matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.namespace.is_none() && self.selector.is_none()
    }

    /// Returns the matching Pods on the node of this name.
    pub(super) fn select(
        &self,
        node: &str,
        mut pods: Vec<(PodKey, Arc<PodSnapshot>)>,
    ) -> Vec<(PodKey, Arc<PodSnapshot>)> {
        if let Some(name) = &self.name {
            let selected = name.select(node, pods.iter().map(|(key, _)| key.clone()));
            pods.retain(|(key, _)| selected.contains(key));
        }
        pods.retain(|(key, snapshot)| {
            let namespace = self.namespace.as_ref();
            let selector = self.selector.as_ref();
            let matches = |selector: &LabelSelector| {
                let version = snapshot.version.as_ref().map(PackedPod::unpack);
                let version = version.as_ref();
                selector.matches(version.and_then(|v| v.metadata.labels.as_ref()))
            };
            namespace.is_none_or(|namespace| *namespace == key.namespace)
                && selector.is_none_or(matches)
        });
        pods
    }

    /// Returns a path of the local API with this filter, and these other parameters, as its query.
    #[must_use]
    pub fn path(&self, path: &str, others: &[(&str, &str)]) -> String {
        let name = self.name.as_ref().map(ToString::to_string);
        let selector = self.selector.as_ref().map(ToString::to_string);
        let own = [
            ("pod", name),
            ("namespace", self.namespace.clone()),
            ("selector", selector),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        let others = others
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()));
        let Ok(mut url) = Url::parse(BASE) else {
            return path.to_owned();
        };
        url.query_pairs_mut().extend_pairs(own.chain(others));
        match url.query() {
            None | Some("") => path.to_owned(),
            Some(query) => format!("{path}?{query}"),
        }
    }
}

/// Returns the decoded parameters of a query.
pub(super) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("{BASE}?{query}"));
    let pairs = url.map(|url| url.query_pairs().into_owned().collect());
    pairs.unwrap_or_default()
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            if KINDS.contains(&namespace.as_str()) {
                f.write_str("pod/")?;
            }
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for PodName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = text
            .split_once('/')
            .filter(|(kind, _)| KINDS.contains(kind));
        let name = kind.map_or(text, |(_, name)| name);
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let is_name = |name: &str| !name.is_empty() && name.chars().all(good);
        if !is_name(name) || !namespace.is_none_or(is_name) {
            return Err(format!(
                "found {text:?}, expected the name of a Pod, such as web or default/web"
            ));
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(name: &str) -> Vec<String> {
        let keys = ["a/web-n1", "b/web-n1", "a/web-n1-n1", "a/db-n1", "a/other"];
        let keys = keys.into_iter().map(|key| {
            let (namespace, name) = key.split_once('/').unwrap();
            PodKey {
                namespace: namespace.into(),
                name: name.into(),
            }
        });
        let name: PodName = name.parse().unwrap();
        let selected = name.select("n1", keys);
        selected.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_is_known_by_its_name_with_and_without_node_and_namespace() {
        for name in ["db", "db-n1", "a/db", "a/db-n1"] {
            assert_eq!(selected(name), ["a/db-n1"], "{name}");
        }
        assert_eq!(selected("web"), ["a/web-n1", "b/web-n1"]);
        assert_eq!(selected("b/web"), ["b/web-n1"]);
        assert_eq!(selected("b/db"), [""; 0]);
        assert_eq!(selected("d"), [""; 0]);
        for name in ["pod/db", "pods/db", "pod/a/db"] {
            assert_eq!(selected(name), ["a/db-n1"], "{name}");
        }
    }

    #[test]
    fn names_are_parsed_as_they_are_written() {
        for namespace in ["a", "pod", "pods"] {
            let key = PodKey {
                namespace: namespace.into(),
                name: "web-n1".into(),
            };
            let name = PodName::of(&key);
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn a_filter_goes_over_in_the_query_of_a_path() {
        assert_eq!(PodFilter::default().path("/p", &[]), "/p");
        let filter = PodFilter {
            name: Some("a/db".parse().unwrap()),
            namespace: Some("a".into()),
            selector: Some("app in (x, y),b!=c".parse().unwrap()),
        };
        let path = filter.path("/p", &[("follow", "true")]);
        let pairs = query_pairs(path.strip_prefix("/p?").unwrap());
        let expected = [
            ("pod", "a/db"),
            ("namespace", "a"),
            ("selector", "app in (x, y),b!=c"),
            ("follow", "true"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(pairs, expected);
        assert!(!path.contains([' ', '(', '!']), "{path}");
    }

    #[test]
    fn a_name_in_full_wins_over_one_without_the_nodes() {
        assert_eq!(selected("web-n1"), ["a/web-n1", "b/web-n1"]);
        assert_eq!(selected("a/web-n1-n1"), ["a/web-n1-n1"]);
    }

    #[test]
    fn an_impossible_name_is_refused() {
        for text in ["", "a/", "/a", "a/b/c", "A", "a b", "a&b=c"] {
            let error = text.parse::<PodName>().unwrap_err();
            assert!(
                error.contains("expected the name of a Pod"),
                "{text}: {error}"
            );
        }
    }
}

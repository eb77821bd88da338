//! Identities that objects of the runtime and files on disk claim, checked where they enter.
//!
//! They become paths, names of files and names of cgroups. Somebody else may have made an object with
//! this agent's owner label: one whose identity is not of the agent's own making is named once in the
//! log and never acted upon.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

use tracing::warn;

use crate::cri::v1;
use crate::manifest::{PodKey, is_dns_label, is_dns_subdomain};
use crate::translate::labels;

/// Digits of a UID.
const UID_DIGITS: usize = 32;
/// Longest id of a sandbox or container; containerd and CRI-O have 64 digits.
const MAX_ID: usize = 128;
/// Invalid objects that are named in the log at most.
const MAX_REPORTED: usize = 1000;

/// UID of a static Pod: 32 hexadecimal digits. Nothing on the node is deleted by any other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValidUid(String);

impl ValidUid {
    /// The UID in this text.
    ///
    /// # Errors
    /// The text is none; what was found and expected.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == UID_DIGITS && text.bytes().all(digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("uid", text, "32 hexadecimal digits"))
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ValidUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Part of an identity that is not of the agent's own making.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: found {found:?}, expected {expected}")]
pub struct Invalid {
    part: &'static str,
    found: String,
    expected: &'static str,
}

impl Invalid {
    fn new(part: &'static str, found: &str, expected: &'static str) -> Self {
        // Whatever somebody wrote there is not to fill the log.
        let found = found.chars().take(100).collect();
        Self {
            part,
            found,
            expected,
        }
    }
}

impl From<Invalid> for io::Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(io::ErrorKind::InvalidInput, invalid)
    }
}

/// Checks namespace and name of a Pod.
///
/// # Errors
/// One of them is no name that Kubernetes gives.
pub fn check_key(key: &PodKey) -> Result<(), Invalid> {
    let PodKey { namespace, name } = key;
    if !is_dns_label(namespace) {
        return Err(Invalid::new("namespace", namespace, "an RFC 1123 label"));
    }
    if !is_dns_subdomain(name) {
        return Err(Invalid::new("name", name, "an RFC 1123 subdomain"));
    }
    Ok(())
}

/// Checks the name of a container.
///
/// # Errors
/// It is no name that Kubernetes gives.
pub fn check_container(name: &str) -> Result<(), Invalid> {
    if is_dns_label(name) {
        return Ok(());
    }
    Err(Invalid::new("container name", name, "an RFC 1123 label"))
}

/// Checks the runtime's id of a sandbox or container.
///
/// # Errors
/// It is no id that a runtime gives.
pub fn check_id(id: &str) -> Result<(), Invalid> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Invalid::new("id", id, "letters and digits"))
}

/// Returns true if the identity of a listed sandbox is valid; one that is not is named once in the log.
#[must_use]
pub fn is_valid_sandbox(sandbox: &v1::PodSandbox) -> bool {
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    let checked = check_id(&sandbox.id)
        .and_then(|()| check_key(&labelled_key(&sandbox.labels)))
        .and_then(|()| ValidUid::parse(&metadata.uid).map(drop));
    is_valid("sandbox", &sandbox.id, checked)
}

/// Returns true if the identity of a listed container is valid; one that is not is named once in the log.
#[must_use]
pub fn is_valid_container(container: &v1::Container) -> bool {
    let metadata = container.metadata.clone().unwrap_or_default();
    let uid = container.labels.get(labels::POD_UID);
    let checked = check_id(&container.id)
        .and_then(|()| check_id(&container.pod_sandbox_id))
        .and_then(|()| check_key(&labelled_key(&container.labels)))
        .and_then(|()| ValidUid::parse(uid.map_or("", String::as_str)).map(drop))
        .and_then(|()| check_container(&metadata.name));
    is_valid("container", &container.id, checked)
}

fn labelled_key(labels: &std::collections::HashMap<String, String>) -> PodKey {
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    PodKey {
        namespace: label(labels::POD_NAMESPACE),
        name: label(labels::POD_NAME),
    }
}

fn is_valid(kind: &'static str, id: &str, checked: Result<(), Invalid>) -> bool {
    // One log, one register: lists come in from every Pod's task.
    static REPORTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Err(problem) = checked else {
        return true;
    };
    let mut reported = REPORTED.lock().unwrap_or_else(PoisonError::into_inner);
    if reported.len() < MAX_REPORTED && reported.insert(format!("{kind} {id}")) {
        let problem = problem.to_string();
        warn!(
            kind,
            id, problem, "Ignored an object with this agent's label and an invalid identity"
        );
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: [&str; 9] = [
        "",
        ".",
        "..",
        "../../victim",
        "/etc",
        "a/b",
        "a\0b",
        "a\nb",
        "A b",
    ];

    #[test]
    fn a_uid_has_32_hexadecimal_digits() {
        let uid = "0123456789abcdef0123456789abcdef";
        assert_eq!(ValidUid::parse(uid).unwrap().as_str(), uid);
        let long = "0".repeat(300);
        let others = [&uid[1..], &uid.to_uppercase(), &long].map(str::to_owned);
        for wrong in WRONG.map(str::to_owned).iter().chain(&others) {
            let error = ValidUid::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("32 hexadecimal digits"), "{error}");
            assert!(error.len() < 500, "{error}");
        }
    }

    #[test]
    fn names_and_ids_are_those_that_kubernetes_and_runtimes_give() {
        let key = |namespace: &str, name: &str| PodKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        assert_eq!(
            check_key(&key("kube-system", "web-node1.example.com")),
            Ok(())
        );
        assert_eq!(check_container("web-1"), Ok(()));
        assert_eq!(check_id(&"0f".repeat(32)), Ok(()));
        let long = "a".repeat(300);
        for wrong in WRONG.into_iter().chain([long.as_str()]) {
            assert!(check_key(&key(wrong, "web")).is_err(), "{wrong:?}");
            assert!(check_key(&key("default", wrong)).is_err(), "{wrong:?}");
            assert!(check_container(wrong).is_err(), "{wrong:?}");
            assert!(check_id(wrong).is_err(), "{wrong:?}");
        }
    }
}

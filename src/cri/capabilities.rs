//! Capabilities of container runtimes, and every rule of a runtime's name or version.
//!
//! Most of them a runtime reports by CRI. The rest is known of it: by its name and version, by its own
//! configuration, which containerd shows in its verbose status, or by the words of its errors. A runtime of
//! another make that needs a rule of its own gets it here. Capabilities may change while the agent runs, since
//! the runtime may be upgraded.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::v1;
use crate::host::cgroup::CgroupDriver;

/// Features of a runtime, whatever the handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// Leaves out the groups that the image has a user in, if asked to.
    pub supplemental_groups_policy: bool,
    /// Mounts images as volumes.
    pub image_volumes: bool,
}

/// Features of a runtime handler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Makes mounts read-only with all that is mounted below.
    pub recursive_read_only_mounts: bool,
    /// Creates user namespaces.
    pub user_namespaces: bool,
}

/// Features that a runtime reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// Features, whatever the handler.
    pub features: RuntimeFeatures,
    /// Features of its handlers, by name; the empty name is the default one.
    pub handlers: BTreeMap<String, HandlerFeatures>,
    /// The runtime has not answered yet: it may have features that are missing here.
    pub is_incomplete: bool,
}

/// Capabilities last reported by the runtime. All clones share them.
#[derive(Debug, Clone, Default)]
pub struct Capabilities(watch::Sender<Reported>);

impl Capabilities {
    /// Returns the features of the runtime as a whole.
    #[must_use]
    pub fn features(&self) -> RuntimeFeatures {
        self.0.borrow().features
    }

    /// Returns the features of each handler.
    #[must_use]
    pub fn handlers(&self) -> BTreeMap<String, HandlerFeatures> {
        self.0.borrow().handlers.clone()
    }

    /// Returns the features of one handler; none for one that is not known.
    #[must_use]
    pub fn handler(&self, name: &str) -> HandlerFeatures {
        let reported = self.0.borrow();
        reported.handlers.get(name).copied().unwrap_or_default()
    }

    /// Returns `true` if the runtime has not reported its features yet.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.0.borrow().is_incomplete
    }

    /// Takes over what the runtime reports; returns `true` if that changes anything.
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn replace(&self, reported: Reported) -> bool {
        self.0.send_if_modified(|known| {
            let changed = *known != reported;
            *known = reported;
            changed
        })
    }
}

impl From<Reported> for Capabilities {
    fn from(reported: Reported) -> Self {
        Self(watch::Sender::new(reported))
    }
}

impl From<RuntimeFeatures> for Capabilities {
    /// Describes a runtime with these features and no handlers.
    fn from(features: RuntimeFeatures) -> Self {
        Reported {
            features,
            ..Reported::default()
        }
        .into()
    }
}

impl<const N: usize> From<[(String, HandlerFeatures); N]> for Capabilities {
    /// Describes a runtime with these handlers and no features of its own.
    fn from(handlers: [(String, HandlerFeatures); N]) -> Self {
        Reported {
            handlers: handlers.into(),
            ..Reported::default()
        }
        .into()
    }
}

/// Returns the capabilities of a runtime of this version with this status.
#[must_use]
pub(crate) fn reported(version: &v1::VersionResponse, status: v1::StatusResponse) -> Reported {
    // containerd reports no features before 2.0.
    let known = status.features.unwrap_or_default();
    Reported {
        features: RuntimeFeatures {
            supplemental_groups_policy: known.supplemental_groups_policy,
            image_volumes: mounts_images(&version.runtime_name, &version.runtime_version),
        },
        handlers: handlers(status.runtime_handlers),
        is_incomplete: false,
    }
}

/// Returns the features of the runtime's handlers, by name.
fn handlers(reported: Vec<v1::RuntimeHandler>) -> BTreeMap<String, HandlerFeatures> {
    let features = |handler: v1::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        let features = HandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        };
        (handler.name, features)
    };
    reported.into_iter().map(features).collect()
}

/// Returns `true` if a runtime mounts images as volumes, which none reports. containerd before 2.1 does not,
/// and takes the mount for one of a path of no name.
fn mounts_images(name: &str, version: &str) -> bool {
    let version = version.trim_start_matches('v');
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().flatten(), numbers.next().flatten());
    match (name, found) {
        ("containerd", (Some(major), Some(minor))) => (major, minor) >= (2, 1),
        _ => true,
    }
}

/// Returns the cgroup driver of containerd's default handler, by the configuration in its verbose status; `None`
/// where there is no such configuration. containerd reports it by CRI from 2.0 on.
#[must_use]
pub(crate) fn configured_cgroup_driver(status: &v1::StatusResponse) -> Option<CgroupDriver> {
    let config = status.info.get("config");
    let config = config.and_then(|c| serde_json::from_str::<serde_json::Value>(c).ok());
    let of = |place: &str| config.as_ref().and_then(|c| c.pointer(place));
    let default = of("/containerd/defaultRuntimeName").and_then(|name| name.as_str());
    let runtimes = of("/containerd/runtimes").and_then(|runtimes| runtimes.as_object());
    let handler = runtimes.and_then(|all| all.get(default.unwrap_or("runc")))?;
    if handler.pointer("/options/SystemdCgroup") == Some(&true.into()) {
        Some(CgroupDriver::Systemd)
    } else {
        Some(CgroupDriver::Cgroupfs)
    }
}

/// Returns the image that containerd 1.x creates sandboxes from, by the configuration in its verbose status; `None`
/// where there is none, as later versions pin the image instead.
///
/// # Errors
/// The configuration is no JSON.
pub(crate) fn sandbox_image(status: &v1::StatusResponse) -> serde_json::Result<Option<String>> {
    let config = status.info.get("config").map(String::as_str);
    let config: serde_json::Value = serde_json::from_str(config.unwrap_or("null"))?;
    Ok(config["sandboxImage"].as_str().map(str::to_owned))
}

/// Returns the ID that a name is reserved for, where an error of containerd says so.
#[must_use]
pub(crate) fn name_holder(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("is reserved for \"")?;
    let (id, _) = rest.split_once('"')?;
    Some(id).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_mounted_by_runtimes_that_are_new_enough_or_not_known() {
        for (name, version, expected) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v2.0.5", false),
            ("containerd", "v2.1.0", true),
            ("containerd", "2.10.1+unknown", true),
            ("containerd", "devel", true),
            ("cri-o", "1.31.0", true),
        ] {
            assert_eq!(mounts_images(name, version), expected, "{name} {version}");
        }
    }

    #[test]
    fn the_holder_of_a_name_is_read_from_the_runtimes_words() {
        let of = "failed to reserve container name \"c_p_ns_u_0\": name \"c_p_ns_u_0\" is reserved for \"1a2b\"";
        assert_eq!(name_holder(of), Some("1a2b"));
        for other in [
            "",
            "is reserved for \"\"",
            "is reserved for \"x",
            "no such image",
        ] {
            assert_eq!(name_holder(other), None, "{other}");
        }
    }
}

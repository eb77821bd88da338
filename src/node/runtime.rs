//! Getting to know the runtime: waiting until it answers, and what it says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};

use crate::cri::{Client, Error, v1};
use crate::translate::{CgroupDriver, HandlerFeatures, RuntimeFeatures};

/// The version of the contract that we speak.
const API_VERSION: &str = "v1";
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the runtime is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd`, …
    pub name: String,
    /// Its version.
    pub version: String,
    /// Who manages cgroups, in its opinion.
    pub cgroup_driver: CgroupDriver,
    /// What it can do, whatever the handler.
    pub features: RuntimeFeatures,
    /// What its handlers can do, by name.
    pub handlers: BTreeMap<String, HandlerFeatures>,
}

/// Waits until the runtime answers, however long that takes, and tells what it is. `driver` is taken
/// where the runtime does not tell its own.
///
/// # Errors
/// The runtime answers, but does not speak CRI v1.
pub async fn wait_for_runtime(client: &Client, driver: CgroupDriver) -> Result<RuntimeInfo, Error> {
    let mut delay = RETRY;
    let version = loop {
        let request = v1::VersionRequest {
            version: API_VERSION.to_owned(),
        };
        match client.version(request).await {
            Ok(version) => break version,
            Err(error) if error.is_retryable() => {
                if delay == RETRY {
                    let endpoint = client.endpoint().to_string();
                    warn!(endpoint, %error, "waiting for the container runtime");
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(delay).await;
        delay = delay.saturating_mul(2).min(RETRY_MAX);
    };
    let cgroup_driver = cgroup_driver(client, driver).await;
    // Before containerd 2.0 nothing is told of features.
    let status = client.status(v1::StatusRequest { verbose: false }).await;
    let status = status.unwrap_or_default();
    let told = status.features.unwrap_or_default();
    let info = RuntimeInfo {
        features: RuntimeFeatures {
            supplemental_groups_policy: told.supplemental_groups_policy,
            image_volumes: mounts_images(&version.runtime_name, &version.runtime_version),
        },
        handlers: handlers(status.runtime_handlers),
        name: version.runtime_name,
        version: version.runtime_version,
        cgroup_driver,
    };
    info!(
        runtime = info.name,
        version = info.version,
        api_version = version.runtime_api_version,
        endpoint = %client.endpoint(),
        ?cgroup_driver,
        "the container runtime answers"
    );
    Ok(info)
}

/// What the runtime's handlers can do, by name.
fn handlers(told: Vec<v1::RuntimeHandler>) -> BTreeMap<String, HandlerFeatures> {
    let features = |handler: v1::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        let features = HandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        };
        (handler.name, features)
    };
    told.into_iter().map(features).collect()
}

/// Whether a runtime mounts images as volumes, which none tells. A containerd that does not
/// (before 2.1) takes the mount for one of a path of no name.
fn mounts_images(name: &str, version: &str) -> bool {
    let version = version.trim_start_matches('v');
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().flatten(), numbers.next().flatten());
    match (name, found) {
        ("containerd", (Some(major), Some(minor))) => (major, minor) >= (2, 1),
        _ => true,
    }
}

/// The cgroup driver that the runtime expects; runtimes that cannot say so (before containerd 2.0)
/// tell it in their verbose status.
async fn cgroup_driver(client: &Client, otherwise: CgroupDriver) -> CgroupDriver {
    let from_config = match client.runtime_config(v1::RuntimeConfigRequest {}).await {
        Ok(config) => config.linux.map(|linux| linux.cgroup_driver()),
        Err(_) => None,
    };
    match from_config {
        Some(v1::CgroupDriver::Systemd) => CgroupDriver::Systemd,
        Some(v1::CgroupDriver::Cgroupfs) => CgroupDriver::Cgroupfs,
        None => cgroup_driver_from_status(client, otherwise).await,
    }
}

async fn cgroup_driver_from_status(client: &Client, otherwise: CgroupDriver) -> CgroupDriver {
    let status = client.status(v1::StatusRequest { verbose: true }).await;
    let config = status.ok().and_then(|s| s.info.get("config").cloned());
    let config = config.and_then(|c| serde_json::from_str::<serde_json::Value>(&c).ok());
    let of = |place: &str| config.as_ref().and_then(|c| c.pointer(place));
    let default = of("/containerd/defaultRuntimeName").and_then(|name| name.as_str());
    let runtimes = of("/containerd/runtimes").and_then(|runtimes| runtimes.as_object());
    match runtimes.and_then(|all| all.get(default.unwrap_or("runc"))) {
        None => otherwise,
        Some(runtime) if runtime.pointer("/options/SystemdCgroup") == Some(&true.into()) => {
            CgroupDriver::Systemd
        }
        Some(_) => CgroupDriver::Cgroupfs,
    }
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
}

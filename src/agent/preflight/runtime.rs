//! Checks of the container runtime.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::Preflight;
use crate::config::Config;
use crate::cri::v1::{RuntimeCondition, StatusRequest, VersionRequest, VersionResponse};
use crate::cri::{Client, Error};
use crate::host::cgroup::{self, CgroupDriver};
use crate::node::runtime::cgroup_driver;

/// Longest wait for the runtime, for each of its calls.
const LIMIT: Duration = Duration::from_secs(5);
const RUNTIME: &str = "container runtime";
const NETWORK: &str = "network";
const DRIVER: &str = "cgroup driver";
/// Folder that is there where systemd is the init (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// Checks the runtime, and what it reports.
pub(super) async fn checks(config: &Config) -> Vec<Preflight> {
    let mut checks: Vec<Preflight> = rights(config.endpoint.socket()).into_iter().collect();
    let client = Client::new(config.endpoint.clone());
    let request = VersionRequest {
        version: "v1".to_owned(),
    };
    let answer = timeout(LIMIT, client.version(request)).await;
    let version = match answer {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => {
            checks.push(unusable(config, &error));
            return checks;
        }
        Err(_) => {
            let found = format!("{} does not respond", config.endpoint);
            let advice = "systemctl restart containerd; journalctl -u containerd";
            checks.push(Preflight::error(RUNTIME, found, advice));
            return checks;
        }
    };
    checks.push(known(config, &version));
    let status = timeout(LIMIT, client.status(StatusRequest { verbose: false })).await;
    let status = status.ok().and_then(Result::ok).and_then(|s| s.status);
    let conditions = status.map(|status| status.conditions).unwrap_or_default();
    checks.extend(conditions.iter().filter_map(condition));
    let driver = timeout(LIMIT, cgroup_driver(&client, config.cgroup_driver)).await;
    if let Ok(driver) = driver {
        let is_systemd = Path::new(SYSTEMD).is_dir();
        let is_unified = cgroup::is_unified(&config.paths.cgroups);
        checks.push(driver_check(driver, is_systemd, is_unified));
    }
    checks
}

/// Checks who may write to the runtime's socket: it is as good as root.
fn rights(socket: &Path) -> Option<Preflight> {
    let found = socket.metadata().ok()?;
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    if owner == 0 && mode & 0o002 == 0 {
        return None;
    }
    let socket = socket.display();
    let found =
        format!("{socket} is of user {owner} with mode {mode:04o}: others can do as root does");
    let advice = format!("chown root {socket} && chmod 0660 {socket}");
    Some(Preflight::warning(RUNTIME, found, advice))
}

/// Returns the check of a runtime that did not answer as it should.
fn unusable(config: &Config, error: &Error) -> Preflight {
    let endpoint = &config.endpoint;
    match error {
        Error::Unimplemented { .. } => Preflight::error(
            RUNTIME,
            format!("{endpoint} does not speak CRI v1"),
            "remove \"cri\" from disabled_plugins in /etc/containerd/config.toml, then systemctl restart \
             containerd; containerd before 1.6 is too old",
        ),
        Error::Unavailable { .. } => {
            let opened = std::os::unix::net::UnixStream::connect(endpoint.socket());
            let kind = opened.err().map(|error| error.kind());
            let advice = match kind {
                Some(ErrorKind::PermissionDenied) => "run this as root",
                Some(ErrorKind::NotFound) => {
                    "install containerd (apt install containerd) and start it (systemctl enable --now \
                     containerd), or name its socket with --container-runtime-endpoint"
                }
                _ => "systemctl enable --now containerd; journalctl -u containerd",
            };
            Preflight::error(RUNTIME, format!("{endpoint}: {}", error.message()), advice)
        }
        error => Preflight::error(
            RUNTIME,
            format!("{endpoint}: {}", error.message()),
            "journalctl -u containerd",
        ),
    }
}

fn known(config: &Config, version: &VersionResponse) -> Preflight {
    let VersionResponse {
        runtime_name: name,
        runtime_version,
        ..
    } = version;
    let found = format!("{name} {runtime_version} at {}", config.endpoint);
    if name == "containerd" {
        return Preflight::ok(RUNTIME, found);
    }
    let advice = "podkeeper is tried with containerd 1.6, 1.7, 2.1 and 2.4";
    Preflight::warning(RUNTIME, found, advice)
}

/// Returns the check of a condition that the runtime reports.
fn condition(condition: &RuntimeCondition) -> Option<Preflight> {
    let (name, advice) = match condition.r#type.as_str() {
        "RuntimeReady" => (RUNTIME, "journalctl -u containerd"),
        "NetworkReady" => (
            NETWORK,
            "put a CNI configuration into /etc/cni/net.d and its plugins into /opt/cni/bin \
             (or /usr/lib/cni); Pods with hostNetwork run without",
        ),
        _ => return None,
    };
    if condition.status {
        return (name == NETWORK).then(|| Preflight::ok(NETWORK, "ready"));
    }
    let RuntimeCondition {
        reason, message, ..
    } = condition;
    Some(Preflight::error(
        name,
        format!("{reason}: {message}"),
        advice,
    ))
}

fn driver_check(driver: CgroupDriver, is_systemd: bool, is_unified: bool) -> Preflight {
    match driver {
        CgroupDriver::Systemd if !is_systemd => Preflight::error(
            DRIVER,
            "the runtime has systemd manage cgroups, which does not run here",
            "set SystemdCgroup = false for the runtime runc in /etc/containerd/config.toml",
        ),
        CgroupDriver::Cgroupfs if is_systemd && is_unified => Preflight::warning(
            DRIVER,
            "cgroupfs, beside systemd: cgroup v2 wants one manager",
            "set SystemdCgroup = true for the runtime runc in /etc/containerd/config.toml",
        ),
        CgroupDriver::Systemd => Preflight::ok(DRIVER, "systemd"),
        CgroupDriver::Cgroupfs => Preflight::ok(DRIVER, "cgroupfs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::preflight::CheckState;

    #[test]
    fn the_cgroup_driver_fits_the_machine() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (driver, is_systemd, is_unified, expected) in [
            (Systemd, true, true, CheckState::Ok),
            (Systemd, false, true, CheckState::Error),
            (Cgroupfs, true, true, CheckState::Warning),
            (Cgroupfs, true, false, CheckState::Ok),
            (Cgroupfs, false, true, CheckState::Ok),
        ] {
            let state = driver_check(driver, is_systemd, is_unified).state;
            assert_eq!(state, expected, "{driver:?} {is_systemd} {is_unified}");
        }
    }

    #[test]
    fn conditions_of_the_runtime_are_told_with_their_reasons() {
        let of = |kind: &str, status| RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: "Why".to_owned(),
            message: "what".to_owned(),
        };
        assert_eq!(condition(&of("RuntimeReady", true)), None);
        assert_eq!(condition(&of("Other", false)), None);
        let network = condition(&of("NetworkReady", true)).unwrap();
        assert_eq!(network, Preflight::ok(NETWORK, "ready"));
        let network = condition(&of("NetworkReady", false)).unwrap();
        assert_eq!(network.state, CheckState::Error);
        assert_eq!(network.message, "Why: what");
        assert!(network.advice.contains("/etc/cni/net.d"));
    }
}

//! Connecting to the runtime: waits until it answers, and reads its version, capabilities and cgroup driver.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::cri::{Client, Error, Reported, capabilities, v1};
use crate::host::cgroup::CgroupDriver;
use crate::host::log_once::LogOnce;
use crate::translate::NodeFacts;

/// Version of CRI that the agent speaks.
const API_VERSION: &str = "v1";
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Longest waits of the agent's start for what is not needed to keep Pods running: the features that the runtime
/// reports, and its cgroup driver.
const FEATURES: Duration = Duration::from_secs(10);
const CGROUP_DRIVER: Duration = Duration::from_secs(60);

/// Version and capabilities of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd`, …
    pub name: String,
    /// Its version.
    pub version: String,
    /// Manager of cgroups, as the runtime has it.
    pub cgroup_driver: CgroupDriver,
    /// Capabilities of it and its handlers.
    pub reported: Reported,
    /// Number of the connection over which it reported them.
    pub connection: u64,
}

/// Waits until the runtime answers, however long that takes, and returns its version and capabilities. `driver` is
/// used where the runtime reports none.
///
/// # Errors
/// The runtime answers, but does not speak CRI v1.
pub async fn wait_for_runtime(client: &Client, driver: CgroupDriver) -> Result<RuntimeInfo, Error> {
    let connections = client.connections();
    let version = version(client).await?;
    let connection = *connections.borrow();
    let asked = timeout(CGROUP_DRIVER, cgroup_driver(client, driver)).await;
    let cgroup_driver = asked.unwrap_or_else(|_| {
        warn!(
            ?driver,
            "The container runtime does not report its cgroup driver, using --cgroup-driver"
        );
        driver
    });
    let reported = if let Ok(status) = timeout(FEATURES, status(client, false)).await {
        capabilities::reported(&version, status)
    } else {
        warn!("The container runtime does not report its features, asking again");
        Reported {
            is_incomplete: true,
            ..capabilities::reported(&version, v1::StatusResponse::default())
        }
    };
    info!(
        runtime = version.runtime_name,
        version = version.runtime_version,
        api_version = version.runtime_api_version,
        endpoint = %client.endpoint(),
        ?cgroup_driver,
        "Connected to the container runtime"
    );
    Ok(RuntimeInfo {
        name: version.runtime_name,
        version: version.runtime_version,
        cgroup_driver,
        reported,
        connection,
    })
}

/// Keeps the capabilities in `facts` current: asks the runtime until it has answered, and again after each new
/// connection, since it may have been upgraded. `connection` is the one over which it was last asked. `on_change`
/// is called after each change.
pub async fn keep_features(
    client: Client,
    facts: NodeFacts,
    mut connection: u64,
    on_change: impl Fn(),
) {
    let mut connections = client.connections();
    loop {
        if !facts.runtime.is_incomplete() {
            // The sender is the client's own.
            let _ = connections.wait_for(|now| *now != connection).await;
        }
        let asked = *connections.borrow_and_update();
        match ask(&client, facts.cgroup_driver).await {
            Ok(info) => {
                if info.cgroup_driver != facts.cgroup_driver {
                    let (before, now) = (facts.cgroup_driver, info.cgroup_driver);
                    warn!(
                        ?before,
                        ?now,
                        "The container runtime has another cgroup driver, it counts from the agent's next start on"
                    );
                }
                let (runtime, version) = (info.name, info.version);
                if facts.runtime.replace(info.reported) {
                    info!(runtime, version, "The container runtime's features changed");
                    on_change();
                } else {
                    debug!(runtime, version, "Connected to the container runtime again");
                }
            }
            // Whatever it is now, it is no better known than before.
            Err(error) => {
                warn!(%error, "The container runtime does not speak CRI v1");
                tokio::time::sleep(RETRY_MAX).await;
                continue;
            }
        }
        connection = asked;
    }
}

/// Asks the runtime for its version and capabilities, until it has answered everything.
async fn ask(client: &Client, driver: CgroupDriver) -> Result<RuntimeInfo, Error> {
    let version = version(client).await?;
    let cgroup_driver = cgroup_driver(client, driver).await;
    let status = status(client, false).await;
    Ok(RuntimeInfo {
        reported: capabilities::reported(&version, status),
        name: version.runtime_name,
        version: version.runtime_version,
        cgroup_driver,
        connection: 0,
    })
}

async fn version(client: &Client) -> Result<v1::VersionResponse, Error> {
    let request = || v1::VersionRequest {
        version: API_VERSION.to_owned(),
    };
    answered(client, || client.version(request())).await
}

/// Returns the runtime's status; an empty one where it has none.
async fn status(client: &Client, verbose: bool) -> v1::StatusResponse {
    let status = answered(client, || client.status(v1::StatusRequest { verbose })).await;
    status.unwrap_or_default()
}

/// Repeats a call until it is answered. A runtime that is starting is unreachable, is not initialized yet, or fails
/// in another way that will pass: the one error that counts as an answer is that it does not have the method.
async fn answered<T, F: Future<Output = Result<T, Error>>>(
    client: &Client,
    call: impl Fn() -> F,
) -> Result<T, Error> {
    let mut delay = RETRY;
    let mut problems = LogOnce::default();
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error @ Error::Unimplemented { .. }) => return Err(error),
            Err(error) => {
                if problems.should_log("call", Some(&error.to_string())) {
                    let endpoint = client.endpoint().to_string();
                    warn!(endpoint, %error, "Waiting for the container runtime");
                }
            }
        }
        tokio::time::sleep(delay).await;
        delay = delay.saturating_mul(2).min(RETRY_MAX);
    }
}

/// Returns the cgroup driver that the runtime expects, by CRI or, where the runtime does not have that call, by its
/// verbose status.
pub(crate) async fn cgroup_driver(client: &Client, otherwise: CgroupDriver) -> CgroupDriver {
    let config = answered(client, || {
        client.runtime_config(v1::RuntimeConfigRequest {})
    })
    .await;
    let from_config = config.ok().and_then(|config| config.linux);
    match from_config.map(|linux| linux.cgroup_driver()) {
        Some(v1::CgroupDriver::Systemd) => CgroupDriver::Systemd,
        Some(v1::CgroupDriver::Cgroupfs) => CgroupDriver::Cgroupfs,
        None => {
            capabilities::configured_cgroup_driver(&status(client, true).await).unwrap_or(otherwise)
        }
    }
}

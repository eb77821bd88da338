//! The node's lease, by which the API server's side knows that the node lives (Kubernetes, Leases,
//! "Node heartbeats").

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde::Deserialize;
use tokio::sync::watch;

use crate::mirror::api::{Api, PatchType};
use crate::mirror::error::{ApiError, ErrorKind};
use crate::mirror::object::{NodeIdentity, SeenMeta};
use crate::mirror::refusal_log::RefusalLog;
use crate::units::time::scaled;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// A lease is renewed after this part of the time for which it holds, as by the kubelet.
const RENEW: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(10);
/// A lease that cannot be made yet, since its namespace is not there, is tried again this soon.
const RETRY: Duration = Duration::from_secs(1);

/// Fields read of a renewed lease.
#[derive(Deserialize)]
struct Renewed {
    #[serde(default)]
    metadata: SeenMeta,
}

/// Renews the lease of the node, which holds for so many seconds, while the API server has the Node, until
/// it is unreachable.
pub(in crate::mirror) async fn renew(
    api: &Api,
    mut identity: watch::Receiver<Option<NodeIdentity>>,
    seconds: u32,
) -> Result<Infallible, ApiError> {
    let renew = Duration::from_secs(seconds.into());
    let renew = renew.checked_div(RENEW).unwrap_or(renew);
    let mut refusals = RefusalLog::new("to renew the lease of the Node");
    let (mut tries, mut newest) = (0_u32, None);
    loop {
        let known = identity.wait_for(Option::is_some).await;
        let known = known.map(|known| known.clone());
        let known = known.map_err(|_| ApiError::unreachable("the Node controller has stopped"))?;
        let Some(node) = known else {
            continue;
        };
        // Nothing else is asked as regularly, so this is where a server that hangs is noticed.
        let renewed = tokio::time::timeout(DEADLINE, renew_once(api, &node, seconds)).await;
        let renewed =
            renewed.map_err(|_| ApiError::unreachable("the lease was not renewed in time"))?;
        let pause = match renewed {
            Ok(version) if version.is_some() && version < newest => {
                return Err(ApiError::unreachable(
                    "API server went back to an older state",
                ));
            }
            Ok(version) => {
                refusals.accepted();
                (tries, newest) = (0, version.or(newest));
                renew
            }
            Err(error) if error.kind == ErrorKind::Unreachable => return Err(error),
            Err(error) => {
                tries = tries.saturating_add(1);
                let is_final = matches!(error.kind, ErrorKind::Refused(_));
                if is_final || tries > 5 {
                    refusals.refused(&error);
                }
                if is_final {
                    renew
                } else {
                    RETRY.saturating_mul(tries.min(10))
                }
            }
        };
        tokio::time::sleep(scaled(pause, 0.95 + fastrand::f64() / 10.0)).await;
    }
}

/// Gives the version of the renewed lease, if it is a number. Versions only rise, unless the API server's
/// store was put back or emptied: then earlier responses are worth nothing.
async fn renew_once(api: &Api, node: &NodeIdentity, seconds: u32) -> Result<Option<u64>, ApiError> {
    let path = format!("{LEASES}/{}", node.name);
    let lease = lease(node, seconds, jiff::Timestamp::now());
    let renewed: Result<Renewed, ApiError> = api.patch(&path, PatchType::Merge, &lease).await;
    let renewed = match renewed {
        Err(error) if error.kind == ErrorKind::NotFound => api.create(LEASES, &lease).await?,
        renewed => renewed?,
    };
    let version = renewed.metadata.resource_version.unwrap_or_default();
    Ok(version.parse().ok())
}

/// The lease as of now, for so many seconds. It goes with the Node.
pub(super) fn lease(node: &NodeIdentity, seconds: u32, now: jiff::Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            namespace: Some("kube-node-lease".to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.name.clone(),
                uid: node.uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.name.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

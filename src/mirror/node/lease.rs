//! The node's lease, by which the API server's side knows that the node lives (Kubernetes, Leases,
//! "Node heartbeats").

use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde::de::IgnoredAny;
use tokio::sync::watch;

use crate::mirror::api::{Api, PatchType};
use crate::mirror::complaint::Complaint;
use crate::mirror::error::{Error, ErrorKind};
use crate::mirror::object::NodeIdentity;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const RENEW: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(10);
const LASTS_SECONDS: i32 = 40;
/// A lease that cannot be made yet, since its namespace is not there, is tried again this soon.
const RETRY: Duration = Duration::from_secs(1);

/// Renews the lease of the node while the API server has the Node, until it is away.
pub(in crate::mirror) async fn renew(
    api: &Api,
    mut identity: watch::Receiver<Option<NodeIdentity>>,
) -> Result<Infallible, Error> {
    let mut complaint = Complaint::new("to renew the lease of the Node");
    let mut tries = 0;
    loop {
        let known = identity.wait_for(Option::is_some).await;
        let known = known.map(|known| known.clone());
        let known = known.map_err(|_| Error::away("the Node is not looked after any more"))?;
        let Some(node) = known else {
            continue;
        };
        // Nothing else is asked as regularly, so this is where a server that hangs is noticed.
        let renewed = tokio::time::timeout(DEADLINE, renew_once(api, &node)).await;
        let renewed = renewed.map_err(|_| Error::away("the lease was not renewed in time"))?;
        let pause = match renewed {
            Ok(()) => {
                complaint.clear();
                tries = 0;
                RENEW
            }
            Err(error) if error.kind == ErrorKind::Away => return Err(error),
            Err(error) => {
                tries += 1;
                let is_final = matches!(error.kind, ErrorKind::Refused(_));
                if is_final || tries > 5 {
                    complaint.say(&error);
                }
                if is_final { RENEW } else { RETRY * tries.min(10) }
            }
        };
        tokio::time::sleep(pause.mul_f64(0.95 + fastrand::f64() / 10.0)).await;
    }
}

async fn renew_once(api: &Api, node: &NodeIdentity) -> Result<(), Error> {
    let path = format!("{LEASES}/{}", node.name);
    let lease = lease(node, jiff::Timestamp::now());
    let renewed: Result<IgnoredAny, Error> = api.patch(&path, PatchType::Merge, &lease).await;
    match renewed {
        Err(error) if error.kind == ErrorKind::NotFound => {
            api.create::<IgnoredAny>(LEASES, &lease).await.map(|_| ())
        }
        renewed => renewed.map(|_| ()),
    }
}

/// The lease as of now. It goes with the Node.
pub(super) fn lease(node: &NodeIdentity, now: jiff::Timestamp) -> Lease {
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
            lease_duration_seconds: Some(LASTS_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

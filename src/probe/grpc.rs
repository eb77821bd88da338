//! The probe that asks a gRPC server for its health (the gRPC health checking protocol).

use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::GRPCAction;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::dial::{address, connect};
use super::{ProbeOutcome, ProbeTarget};
use crate::cri::{generated, rpc_error};
use v1::health_check_response::ServingStatus;
use v1::health_client::HealthClient;

generated! {
    /// Messages and stubs generated from `proto/health.proto`.
    mod v1 = "grpc.health.v1";
}

/// Probes a gRPC health service: succeeds if it reports that the service is serving.
pub(super) async fn probe(
    target: &ProbeTarget,
    action: &GRPCAction,
    limit: Duration,
) -> ProbeOutcome {
    let port = match target.port(&IntOrString::Int(action.port)) {
        Ok(port) => port,
        Err(error) => return ProbeOutcome::Error(error),
    };
    let service = action.service.clone().unwrap_or_default();
    let began = Instant::now();
    let at = address(&target.ip, port);
    let channel = match timeout(limit, channel(&target.ip, port)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            let message = format!("error: failed to connect service at {at:?}: {error}");
            return ProbeOutcome::Failure(message);
        }
        Err(_) => {
            return ProbeOutcome::Failure(format!(
                "timeout: failed to connect service {at:?} within {limit:?}: context deadline exceeded"
            ));
        }
    };
    let left = limit.saturating_sub(began.elapsed());
    let mut client = HealthClient::new(channel);
    let check = client.check(v1::HealthCheckRequest { service });
    match timeout(left, check).await {
        Ok(Ok(answer)) => judge(answer.into_inner().status),
        Ok(Err(status)) => ProbeOutcome::Failure(explain(&status, limit)),
        Err(_) => ProbeOutcome::Failure(late(limit)),
    }
}

/// A connection for one call. The server's name in it is its address.
async fn channel(host: &str, port: u16) -> Result<Channel, String> {
    let address = address(host, port);
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.and_then(|e| e.user_agent("kube-probe/1.36"));
    let endpoint = endpoint.map_err(|e| e.to_string())?;
    let stream = connect(host, port).await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let once = stream.take().ok_or("the connection broke");
        std::future::ready(once)
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|e| e.to_string())
}

fn judge(status: i32) -> ProbeOutcome {
    match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => ProbeOutcome::Success,
        Ok(other) => unhealthy(other.as_str_name()),
        Err(_) => unhealthy(&status.to_string()),
    }
}

fn unhealthy(status: &str) -> ProbeOutcome {
    ProbeOutcome::Failure(format!("service unhealthy (responded with {status:?})"))
}

fn explain(status: &Status, limit: Duration) -> String {
    match status.code() {
        Code::Unimplemented => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        ),
        Code::DeadlineExceeded => late(limit),
        code => format!(
            "error: health rpc probe failed: {}",
            rpc_error(code, status.message())
        ),
    }
}

fn late(limit: Duration) -> String {
    format!("timeout: health rpc did not complete within {limit:?}")
}

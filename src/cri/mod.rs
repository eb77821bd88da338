//! The container runtime interface: generated stubs and our client of them.

/// Messages and stubs generated from `proto/cri_v1.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

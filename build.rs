//! Compiles the contracts in `proto/` (CRI, containerd's own services, and the health protocol of gRPC probes) into
//! client and server stubs, with a protobuf compiler written in Rust so that no `protoc` is needed on the machine.

use std::path::PathBuf;

type Error = Box<dyn std::error::Error>;

/// The codec that the stubs use.
const CODEC: &str = "crate::cri::Codec";

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=proto");
    // The static file is linked by these.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        for file in ["order.awk", "static-link", "static.ld", "static.order"] {
            println!("cargo::rerun-if-changed=hack/{file}");
        }
    }
    let descriptors = protox::compile(["proto/cri_v1.proto"], ["proto"])?;

    // The contract's own descriptor, for the test that holds it against the wire table.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("cri_v1.descriptor"),
        prost::Message::encode_to_vec(&descriptors),
    )?;

    // It holds what must not get into a log.
    let services = tonic_prost_build::configure().skip_debug(["runtime.v1.AuthConfig"]);
    services.codec_path(CODEC).compile_fds(descriptors)?;
    // They share no messages, and so no descriptors.
    for contract in [
        "health",
        "containerd_events_v1",
        "containerd_leases_v1",
        "containerd_snapshots_v1",
    ] {
        let descriptors = protox::compile([format!("proto/{contract}.proto")], ["proto"])?;
        let services = tonic_prost_build::configure().codec_path(CODEC);
        services.compile_fds(descriptors)?;
    }
    Ok(())
}

//! Tests on whole machines, with what nothing else shows: systemd as process 1, cgroup v2, real boots, power cuts and shutdowns.
//! `hack/test` boots one in an emulator that tests share, one after the other; some boot their own.

mod boots;
mod cgroups;
mod control_plane;
mod cuts;
mod golden;
mod machine;
mod package;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/records.rs"]
mod records;
#[path = "../support/requests.rs"]
mod requests;
#[path = "../support/runtime/mod.rs"]
mod runtime;
mod service;
mod shutdowns;
mod trouble;

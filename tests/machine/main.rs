//! Tests on whole machines, with what nothing else shows: systemd as process 1, cgroup v2, real boots, power cuts and shutdowns.
//! `hack/test` boots one in an emulator that tests share, one after the other; some boot their own.

mod boots;
mod cgroups;
mod control_plane;
mod cuts;
mod machine;
mod package;
#[path = "../support/program.rs"]
mod program;
mod service;
mod shutdowns;
mod trouble;

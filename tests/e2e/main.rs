//! Promises (`docs/design.md`) kept on a real containerd. `hack/test` brings the runtimes up and runs these; each test
//! runs once for every version of containerd, on an agent, folders and Pods of its own.

mod admission;
mod adoption;
mod chaos;
mod cli;
mod copies;
mod doctor;
mod edits;
mod ends;
mod env;
mod first_minutes;
mod hangs;
mod hostile;
mod housekeeping;
mod identity;
mod images;
mod init;
mod lifecycle;
mod listing;
mod objects;
mod order;
mod plan;
mod port_forwards;
mod probes;
mod recovery;
mod registries;
mod removal;
mod requests;
mod reset;
mod resources;
mod rollback;
mod security;
mod service;
mod source;
mod start_after;
mod streams;
mod takeover;
mod trouble;
mod upgrade;
mod volumes;
mod web;

#[path = "../support/grpc.rs"]
mod grpc;
#[path = "../support/mounts.rs"]
mod mounts;
#[path = "../support/network.rs"]
mod network;
#[path = "../support/node/mod.rs"]
mod node;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/terminal.rs"]
mod terminal;
#[path = "../support/web_server.rs"]
mod web_server;

/// Makes a test of each function for each version of containerd.
macro_rules! on_each_containerd {
    ($($name:ident),* $(,)?) => {
        mod v1_6 { $crate::on_containerd!("1.6": $($name),*); }
        mod v2_1 { $crate::on_containerd!("2.1": $($name),*); }
    };
}

/// Makes a test of each function for one version of containerd.
macro_rules! on_containerd {
    ($version:literal: $($name:ident),*) => {
        $(
            #[test]
            #[ignore = "needs a containerd: run hack/test"]
            fn $name() {
                $crate::node::run($version, super::$name);
            }
        )*
    };
}

pub(crate) use {on_containerd, on_each_containerd};

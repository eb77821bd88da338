//! Promises S9 to S12 (`docs/design.md`) kept with a real kube-apiserver and a real containerd: mirror Pods show
//! the static Pods with their labels, come back when they are deleted, and nothing that the API server does
//! stops a Pod. `hack/test` brings both up and runs these; each test runs on an agent, folders, Pods and a Node
//! of its own.

mod bootstrap;
mod compared;
mod endpoint;
mod faults;
mod golden;
mod identity;
mod lifecycle;
mod others;
mod proxy;
mod refusals;
mod registered;
mod shown;
mod websocket;

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/node/mod.rs"]
mod node;
#[path = "../support/placeholders.rs"]
mod placeholders;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/program.rs"]
mod program;

/// Makes a test of each function, on the API server that all share or on one of its own.
macro_rules! with_apiserver {
    ($cluster:ident: $($name:ident),* $(,)?) => {
        $(
            #[test]
            #[ignore = "needs an API server and a containerd: run hack/test"]
            fn $name() {
                let cluster = $crate::cluster::Cluster::$cluster();
                $crate::node::run("2.1", |node| super::$name(node, cluster));
            }
        )*
    };
}

pub(crate) use with_apiserver;

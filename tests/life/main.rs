//! A Pod's life under the agent, hour by hour: the scriptable runtime and time that stands still but for
//! the test's waiting.

mod agent;
mod backoff;
mod clock;
mod events;
mod faults;
mod golden;
mod hangs;
mod host;
mod identity;
mod lies;
mod node;
mod numbers;
mod panics;
mod probes;
mod recovery;
mod rollback;
mod start;
mod steps;
mod stops;

#[path = "../runtime/mod.rs"]
mod runtime;

#[path = "../support/number_paths.rs"]
mod number_paths;

#[path = "../placeholders/mod.rs"]
mod placeholders;

#[path = "../records/mod.rs"]
mod records;

//! A Pod's life under the agent, hour by hour: the scriptable runtime and time that stands still but for
//! the test's waiting.

mod backoff;
mod calls;
mod changes;
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
mod order;
mod pauses;
mod probes;
mod recovery;
mod requests;
mod rest;
mod rollback;
mod shutdown;
mod start;
mod steps;
mod stops;
mod takeover;

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/number_paths.rs"]
mod number_paths;
#[path = "../support/panics.rs"]
mod panics;
#[path = "../support/placeholders.rs"]
mod placeholders;
#[path = "../support/records.rs"]
mod records;
#[path = "../support/runtime/mod.rs"]
mod runtime;

//! The heart: what to do next for one Pod, and the task that does it.
//!
//! Imports point one way: [`state`] is data, [`plan`](plan::plan) and [`report`](report::report) are pure
//! functions of it and of the time, and the [`task`] executes what the planner says. The task owns
//! everything about its Pod: nobody else changes the runtime for it, and it takes one step at a time.

pub mod admission;
pub mod backoff;
pub mod encoded_status;
pub mod events;
pub mod folder;
mod go_duration;
pub mod identity;
pub mod kubelet_pods;
pub mod limiter;
pub mod metrics;
pub mod observe;
pub mod order;
pub mod pause;
pub mod plan;
pub mod report;
pub mod reports;
pub mod rollback;
pub mod shutdown;
pub mod state;
pub mod status;
pub mod task;

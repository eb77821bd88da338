//! The heart: what to do next for one Pod, and the task that does it.
//!
//! [`plan`](plan::plan) and [`report`](report::report) are pure: desired and observed state and the
//! time go in, a step or a report comes out. The [`task`] owns everything about its Pod: nobody else
//! changes the runtime for it, and it takes one step at a time.

mod act;
pub mod admission;
pub mod backoff;
mod beside;
pub mod credentials;
mod effects;
pub mod events;
pub mod folder;
pub mod history;
pub mod identity;
pub mod image;
mod jobs;
pub mod limiter;
pub mod metrics;
pub mod observe;
pub mod observed;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod progress;
pub mod report;
pub mod reports;
mod reserved;
pub mod rollback;
pub mod rules;
#[cfg(test)]
mod rules_tests;
pub mod state;
pub mod status;
#[cfg(test)]
mod status_tests;
pub mod task;
mod tell;
mod termination_message;
pub mod time;
mod waiting;

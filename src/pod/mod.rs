//! The heart: what to do next for one Pod, and the task that does it.
//!
//! [`plan`](plan::plan) and [`report`](report::report) are pure: desired and observed state and the
//! time go in, a step or a report comes out. The [`task`] owns everything about its Pod: nobody else
//! changes the runtime for it, and it takes one step at a time.

pub mod backoff;
pub mod memory;
pub mod moment;
pub mod observed;
pub mod plan;

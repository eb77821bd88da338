//! The Node object: what it says of the machine (pure), how the machine is measured for that, and the
//! task that keeps it at the API server.

mod lease;
mod measure;
mod pressure;
mod registration;
mod status;

pub(super) use lease::renew;
pub(super) use measure::Measured;
pub(crate) use pressure::DEFAULT_THRESHOLDS;
pub use pressure::Thresholds;
#[cfg(test)]
pub(super) use registration::SeenNode;
pub(super) use registration::{NODES, Registration};
pub use status::VERSION;

#[cfg(test)]
mod tests;

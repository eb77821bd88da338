//! Stop of a Pod before the machine shuts down.

use std::collections::BTreeSet;

use super::time::MonotonicTime;
use crate::manifest::Uid;

/// The stop of a Pod before the machine shuts down. Nothing of the Pod is started, removed or cleaned up any
/// more: at the next boot it is as after any other end of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownStop {
    /// End of its group's period: whatever its grace period, no container of it is to run then.
    pub until: MonotonicTime,
    /// Versions that were over before, whose status stays.
    pub finished_before: BTreeSet<Uid>,
}

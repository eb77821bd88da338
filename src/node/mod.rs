//! The node: the supervisor of the Pods' tasks, what it sees of the runtime, what the node itself is
//! like, and its housekeeping: containers' logs and images.

pub mod events;
pub mod image_gc;
pub mod kubelet;
pub mod log_keeper;
pub mod log_rotation;
pub mod runtime;
pub mod supervisor;

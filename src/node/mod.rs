//! The node: the supervisor of the Pods' tasks, events of the runtime, and housekeeping: container logs and images.

pub mod container_log_manager;
pub mod events;
mod first_list;
pub mod image_gc;
mod known_logs;
pub mod kubelet;
pub mod log_rotation;
mod relist;
pub mod runtime;
pub mod supervisor;

//! The node: the supervisor of the Pods' tasks, what it sees of the runtime, and what the node itself
//! is like.

pub mod cgroup;
pub mod events;
pub mod kubelet;
pub mod machine;
pub mod runtime;
pub mod supervisor;

//! The node's own operating system: cgroups, files, links to logs, facts of the machine.
//!
//! A leaf: it knows nothing of Pods and uses nothing else of the agent but [`units`](crate::units). Files
//! that containers can write to are opened by [`untrusted`] and [`resolve`] alone; files that have to be
//! whole are written by [`atomic_file`] alone; work that may block runs under [`blocking`].

pub(crate) mod atomic_file;
pub(crate) mod blocking;
pub mod cgroup;
pub(crate) mod cni;
pub(crate) mod file_error;
pub mod log_links;
pub(crate) mod log_once;
pub mod machine;
pub(crate) mod mountinfo;
pub(crate) mod netns;
pub(crate) mod program;
pub(crate) mod resolve;
pub(crate) mod untrusted;

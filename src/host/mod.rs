//! What the agent does on the node's own file systems: a leaf, which knows nothing of Pods.

pub(crate) mod untrusted;

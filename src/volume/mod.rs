//! Volumes of Pods on the node: made before a Pod's sandbox, kept up to date while it runs, and taken
//! away with it. A removal never follows a symlink and never crosses a mount.

//! Units of what comes from outside: bounds, and arithmetic that saturates.
//!
//! A leaf: pure, and uses nothing else of the agent. Numbers of manifests, the configuration, the
//! runtime and files on disk are bounded here where they enter. Operators that panic on overflow are
//! not used on them; the lint `clippy::arithmetic_side_effects` holds that for the whole library.

pub mod duration;
pub(crate) mod quantity;
mod text_id;
pub mod time;

pub(crate) use text_id::text_id;

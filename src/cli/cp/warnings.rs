//! Warnings about members of an archive, of which there may be any number.

use crate::cli::complain;
use crate::text::in_a_line;

/// Maximum number of warnings that are printed.
const MAX: u64 = 20;

/// Warnings so far.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    count: u64,
}

impl Warnings {
    /// Prints a warning on one line, unless there were too many.
    pub(super) fn add(&mut self, text: &str) {
        self.count = self.count.saturating_add(1);
        if self.count <= MAX {
            complain(&format!("warning: {}", in_a_line(text)));
        }
    }

    /// Prints how many there were beyond those.
    pub(super) fn finish(&self) {
        let more = self.count.saturating_sub(MAX);
        if more > 0 {
            complain(&format!("warning: skipping {more} more"));
        }
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

//! Container logs that were last examined with nothing to do about them. While they are there and small and no Pod
//! changes, that is all there is to see, which costs far less than to go through all folders.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::untrusted::Location;

/// Rounds in which only known logs are looked at, before all folders are examined again.
const ROUNDS: u32 = 5;

/// Logs as they were examined.
#[derive(Debug)]
pub(super) struct KnownLogs {
    /// Below the folder of all Pods' logs.
    logs: Vec<PathBuf>,
    /// The state of all Pods' reports before that.
    revision: u64,
    /// Rounds since then.
    rounds: u32,
}

impl KnownLogs {
    /// Takes the logs that are there. One that is not below the folder is none of ours.
    pub(super) fn new<'a>(
        folder: &Path,
        logs: impl Iterator<Item = &'a PathBuf>,
        revision: u64,
    ) -> Self {
        let inside = logs.filter_map(|log| log.strip_prefix(folder).ok());
        Self {
            logs: inside.map(Path::to_owned).collect(),
            revision,
            rounds: 0,
        }
    }

    /// Begins a round; returns `false` if it has to examine all.
    pub(super) fn begin_round(&mut self, revision: u64) -> bool {
        self.rounds = self.rounds.saturating_add(1);
        self.revision == revision && self.rounds <= ROUNDS
    }

    /// Returns true if each log is there, and smaller than `max_size` bytes if that is given.
    ///
    /// # Errors
    /// Any I/O error.
    pub(super) fn are_in_order(&self, folder: &Path, max_size: Option<u64>) -> io::Result<bool> {
        if self.logs.is_empty() {
            return Ok(true);
        }
        let folder = Location::new(folder, "").open()?;
        let is_in_order = |log: &PathBuf| {
            folder
                .find_inside(log)
                .is_ok_and(|found| found.is_plain && max_size.is_none_or(|max| found.size < max))
        };
        Ok(self.logs.iter().all(is_in_order))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_as_it_was_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (log, size) in [("a/c/0.log", 9), ("b/c/1.log", 3)] {
            fs::create_dir_all(at(log).parent().unwrap()).unwrap();
            fs::write(at(log), "x".repeat(size)).unwrap();
        }
        let logs = [at("a/c/0.log"), at("b/c/1.log"), "/elsewhere".into()];
        let known = KnownLogs::new(folder.path(), logs.iter(), 1);
        let in_order = |max: u64| known.are_in_order(folder.path(), Some(max)).unwrap();
        assert!(in_order(10));
        assert!(!in_order(9));
        assert!(known.are_in_order(folder.path(), None).unwrap());
        fs::rename(at("b/c/1.log"), at("b/c/kept")).unwrap();
        assert!(!in_order(10));
        symlink("kept", at("b/c/1.log")).unwrap();
        assert!(!in_order(10));
        fs::remove_file(at("b/c/1.log")).unwrap();
        fs::rename(at("b/c/kept"), at("b/c/1.log")).unwrap();
        assert!(in_order(10));
        fs::remove_dir_all(at("b")).unwrap();
        symlink(folder.path().join("a"), at("b")).unwrap();
        assert!(!in_order(10));
    }

    #[test]
    fn all_is_examined_where_a_pod_changed_and_once_in_a_while() {
        let mut known = KnownLogs::new(Path::new("/"), [].iter(), 1);
        assert!(!known.begin_round(2));
        let mut known = KnownLogs::new(Path::new("/"), [].iter(), 1);
        let looks = (0..20).take_while(|_| known.begin_round(1)).count();
        assert_eq!(looks, 5);
    }
}

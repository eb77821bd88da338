//! Records of pulls that a power cut may have torn.
//!
//! A runtime counts an image as there once its files are written, up to half a minute before the kernel has them on
//! disk: after a power cut it may list an image whose files are empty. So the pull of an image that was not there is
//! recorded before it begins, and the record is removed once the file system of the runtime's images is synced. What
//! an earlier boot left recorded is not to be trusted.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::hex::hex;
use crate::host::atomic_file::{self, sync_folder};
use crate::host::machine;

/// Longest wait of the pulls of a node for the removal of torn images.
const DISCARD: Duration = Duration::from_secs(60);
/// Longest record that is read, in bytes; names of images have a few hundred.
const LONGEST: u64 = 64 * 1024;

/// The records of a node's pulls: a file each in a folder of the agent's root directory.
#[derive(Debug)]
pub(super) struct PullRecords {
    folder: PathBuf,
    boot: String,
    /// The images whose pulls a power cut may have torn.
    torn: HashSet<String>,
    /// Those of them that the runtime may still have.
    left: Mutex<Left>,
}

/// The torn images that have not been removed.
#[derive(Debug)]
struct Left {
    images: HashSet<String>,
    /// Their removal was tried.
    tried: bool,
}

/// The folder of the records, below the agent's root directory.
#[must_use]
pub fn folder(root: &Path) -> PathBuf {
    root.join("pulls")
}

#[derive(Serialize, Deserialize)]
struct PullRecord {
    image: String,
    boot: String,
}

impl PullRecords {
    pub(super) fn new(root: &Path) -> Self {
        Self::of_boot(root, machine::boot_id())
    }

    fn of_boot(root: &Path, boot: String) -> Self {
        let folder = folder(root);
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let records = entries.filter_map(|entry| read(&entry.ok()?.path()));
        // One of this boot is an agent's that was killed.
        let torn = records.filter(|record| record.boot != boot);
        let torn: HashSet<String> = torn.map(|record| record.image).collect();
        let left = Left {
            images: torn.clone(),
            tried: false,
        };
        Self {
            torn,
            left: left.into(),
            folder,
            boot,
        }
    }

    fn path(&self, image: &str) -> PathBuf {
        self.folder.join(hex(&Sha256::digest(image)))
    }

    /// Records that a pull begins.
    ///
    /// # Errors
    /// Any I/O error.
    pub(super) fn begin(&self, image: &str) -> io::Result<()> {
        let record = PullRecord {
            image: image.to_owned(),
            boot: self.boot.clone(),
        };
        fs::create_dir_all(&self.folder)?;
        atomic_file::write(&self.path(image), &serde_json::to_vec(&record)?)?;
        sync_folder(&self.folder)
    }

    /// Removes the record of a pull whose image is on disk; one that is not there is none to remove.
    pub(super) fn end(&self, image: &str) {
        match fs::remove_file(self.path(image)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(image, %error, "Failed to remove the record of a pull");
            }
            _ => {}
        }
    }

    /// Has an image removed whose pull a power cut may have torn, once, and all others with it: what two of them have
    /// in common stays as long as one does.
    ///
    /// # Errors
    /// It was not removed.
    pub(super) async fn discard_torn<E, F>(
        &self,
        image: &str,
        remove: impl FnOnce(Vec<String>) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = HashMap<String, E>>,
    {
        if !self.torn.contains(image) {
            return Ok(());
        }
        let mut left = self.left.lock().await;
        if !left.images.contains(image) {
            return Ok(());
        }
        let mut failed = self.discard(&mut left, remove).await;
        failed.remove(image).map_or(Ok(()), Err)
    }

    /// Has all such images removed before the first pull, which would take parts of theirs for its own.
    pub(super) async fn discard_all_torn<E, F>(&self, remove: impl FnOnce(Vec<String>) -> F)
    where
        F: Future<Output = HashMap<String, E>>,
    {
        if self.torn.is_empty() {
            return;
        }
        let mut left = self.left.lock().await;
        if !left.tried {
            left.tried = true;
            // The others wait for it.
            if timeout(DISCARD, self.discard(&mut left, remove))
                .await
                .is_err()
            {
                warn!(
                    "Timed out removing images that were not on disk yet when the machine stopped"
                );
            }
        }
    }

    async fn discard<E, F>(
        &self,
        left: &mut Left,
        remove: impl FnOnce(Vec<String>) -> F,
    ) -> HashMap<String, E>
    where
        F: Future<Output = HashMap<String, E>>,
    {
        let images: Vec<String> = left.images.iter().cloned().collect();
        let failed = remove(images.clone()).await;
        left.tried = true;
        for image in images.iter().filter(|image| !failed.contains_key(*image)) {
            warn!(
                image,
                "Removed an image that was not on disk yet when the machine stopped"
            );
            left.images.remove(image);
            self.end(image);
        }
        failed
    }
}

/// Reads a record. One that cannot be read is of a pull that had not begun: it is written whole before.
fn read(path: &Path) -> Option<PullRecord> {
    let file = File::open(path).ok()?;
    serde_json::from_reader(io::Read::take(file, LONGEST)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> HashMap<String, &'static str> {
        HashMap::new()
    }

    /// Asks for each of these images; gives those that are removed for each.
    async fn discarded(records: &PullRecords, images: &[&str]) -> Vec<Vec<String>> {
        let mut discarded = vec![];
        for image in images {
            let mut removed = vec![];
            let remove = async |images: Vec<String>| {
                removed = images;
                none()
            };
            records.discard_torn(image, remove).await.unwrap();
            removed.sort();
            discarded.push(removed);
        }
        discarded
    }

    const IMAGES: [&str; 4] = ["a", "b", "registry.example/c@sha256:0", "d"];
    const NOTHING: [[&str; 0]; 4] = [[]; 4];

    /// A root directory with the records of pulls of all but the last that an earlier boot began, of which it ended
    /// the first.
    fn after_a_boot() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let before = PullRecords::of_boot(root.path(), "before".to_owned());
        for image in &IMAGES[..3] {
            before.begin(image).unwrap();
        }
        before.end("a");
        before.end("never begun");
        root
    }

    #[tokio::test]
    async fn images_of_pulls_that_an_earlier_boot_did_not_end_are_removed_once() {
        let root = after_a_boot();
        let killed = PullRecords::of_boot(root.path(), "before".to_owned());
        assert_eq!(discarded(&killed, &IMAGES).await, NOTHING);

        fs::write(folder(root.path()).join(".x"), "torn").unwrap();
        let now = PullRecords::new(root.path());
        let (one, other) = (IMAGES[1], IMAGES[2]);
        let fails = async |_| HashMap::from([(one.to_owned(), "hangs")]);
        assert_eq!(now.discard_torn(one, fails).await, Err("hangs"));
        // One that cannot be removed keeps no other.
        assert_eq!(discarded(&now, &[other]).await, [[""; 0]]);
        let again: [&[&str]; 4] = [&[], &[one], &[], &[]];
        assert_eq!(discarded(&now, &IMAGES).await, again);
        assert_eq!(discarded(&now, &IMAGES).await, NOTHING);
        let later = PullRecords::of_boot(root.path(), "later".to_owned());
        assert_eq!(discarded(&later, &IMAGES).await, NOTHING);
    }

    #[tokio::test]
    async fn all_of_them_are_removed_before_the_first_pull_and_with_one() {
        let root = after_a_boot();
        let now = PullRecords::new(root.path());
        let all: [&[&str]; 4] = [&[], &IMAGES[1..3], &[], &[]];
        assert_eq!(discarded(&now, &IMAGES).await, all);

        let root = after_a_boot();
        let now = PullRecords::new(root.path());
        let mut counts = vec![];
        for _ in 0..2 {
            let remove = async |images: Vec<String>| {
                counts.push(images.len());
                none()
            };
            now.discard_all_torn(remove).await;
        }
        assert_eq!(counts, [2]);
        assert_eq!(discarded(&now, &IMAGES).await, NOTHING);
    }
}

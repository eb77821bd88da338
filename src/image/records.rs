//! Records of pulls that a power cut may have torn.
//!
//! A runtime counts an image as there once its files are written, up to half a minute before the kernel has them on
//! disk: after a power cut it may list an image whose files are empty. So the pull of an image that was not there is
//! recorded before it begins, and the record is removed once the file system of the runtime's images is synced. What
//! an earlier boot left recorded is not to be trusted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tracing::warn;

use crate::hex::hex;
use crate::host::atomic_file::{self, sync_folder};
use crate::host::machine;

/// Longest record that is read, in bytes; names of images have a few hundred.
const LONGEST: u64 = 64 * 1024;

/// The records of a node's pulls: a file each in a folder of the agent's root directory.
#[derive(Debug)]
pub(super) struct PullRecords {
    folder: PathBuf,
    boot: String,
    /// The images whose pulls a power cut may have torn, and whether the runtime still has them.
    torn: HashMap<String, Mutex<bool>>,
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
        Self {
            torn: torn.map(|record| (record.image, true.into())).collect(),
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

    /// Has an image removed whose pull a power cut may have torn, once.
    ///
    /// # Errors
    /// It was not removed.
    pub(super) async fn discard_torn<E>(
        &self,
        image: &str,
        remove: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(torn) = self.torn.get(image) else {
            return Ok(());
        };
        let mut is_torn = torn.lock().await;
        if *is_torn {
            remove().await?;
            warn!(
                image,
                "Removed an image that was not on disk yet when the machine stopped"
            );
            *is_torn = false;
            self.end(image);
        }
        Ok(())
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

    /// Asks for each of these images; gives those that are removed.
    async fn discarded(records: &PullRecords, images: &[&str]) -> Vec<String> {
        let mut discarded = vec![];
        for image in images {
            let remove = async || {
                discarded.push((*image).to_owned());
                Ok::<(), ()>(())
            };
            records.discard_torn(image, remove).await.unwrap();
        }
        discarded
    }

    #[tokio::test]
    async fn images_of_pulls_that_an_earlier_boot_did_not_end_are_removed_once() {
        let root = tempfile::tempdir().unwrap();
        let images = ["a", "b", "registry.example/c@sha256:0", "d"];
        let before = PullRecords::of_boot(root.path(), "before".to_owned());
        for image in &images[..3] {
            before.begin(image).unwrap();
        }
        before.end("a");
        before.end("never begun");
        let killed = PullRecords::of_boot(root.path(), "before".to_owned());
        assert_eq!(discarded(&killed, &images).await, [""; 0]);

        fs::write(before.folder.join(".x"), "torn").unwrap();
        let now = PullRecords::new(root.path());
        let failed = now.discard_torn("b", async || Err("hangs")).await;
        assert_eq!(failed, Err("hangs"));
        assert_eq!(discarded(&now, &images).await, images[1..3]);
        assert_eq!(discarded(&now, &images).await, [""; 0]);
        let later = PullRecords::of_boot(root.path(), "later".to_owned());
        assert_eq!(discarded(&later, &images).await, [""; 0]);
    }
}

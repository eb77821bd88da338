//! The kept copy: the documents that Pods and objects in force stand in, each as it came, with its signature,
//! and an index of which stands in which.
//!
//! Everything that a start needs is read from the documents themselves, so that a signature covers what
//! is started.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::fetch::Validators;
use crate::hex::hex;
use crate::host::atomic_file;
use crate::manifest::Uid;
use crate::manifest::objects::ObjectKey;

/// The form of the index that this version writes, and the only one that it reads.
const VERSION: u32 = 1;
const INDEX: &str = "index.json";
const SIGNATURE: &str = "minisig";

/// A document as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredDocument {
    pub(super) body: Vec<u8>,
    /// Its signature, if one is required.
    pub(super) signature: Option<Vec<u8>>,
}

/// By digest.
pub(super) type StoredDocuments = BTreeMap<String, Arc<StoredDocument>>;

/// Documents in force, with their digests and validators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    /// The digest of the URL, which may hold a secret.
    pub(super) url: String,
    /// The digest of the last good document.
    pub(super) current: Option<String>,
    /// By what the server knows it.
    pub(super) validators: Validators,
    /// Time of the signature of the newest document that ever counted, in seconds since 1970.
    pub(super) newest: Option<i64>,
    /// Time at which the document last became another one, in seconds since 1970.
    #[serde(default)]
    pub(super) changed: Option<i64>,
    pub(super) pods: Vec<IndexEntry>,
    #[serde(default)]
    pub(super) objects: Vec<ObjectIndexEntry>,
}

/// A Pod in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexEntry {
    pub(super) uid: Uid,
    /// The digest of the document that it stands in.
    pub(super) document: String,
}

/// An object in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectIndexEntry {
    #[serde(flatten)]
    pub(super) key: ObjectKey,
    /// The digest of the document that it stands in.
    pub(super) document: String,
}

impl Index {
    pub(super) fn new(url: String) -> Self {
        Self {
            version: VERSION,
            url,
            ..Self::default()
        }
    }

    /// The documents that are needed.
    pub(super) fn documents(&self) -> BTreeSet<&String> {
        let of_pods = self.pods.iter().map(|pod| &pod.document);
        let of_objects = self.objects.iter().map(|object| &object.document);
        of_pods.chain(of_objects).chain(&self.current).collect()
    }
}

/// The folder and what is known to be in it.
#[derive(Debug)]
pub(super) struct Copy {
    folder: PathBuf,
    on_disk: Option<Index>,
}

impl Copy {
    /// Reads the copy. What cannot be read is logged and taken for missing.
    pub(super) fn open(folder: PathBuf) -> (Self, Option<(Index, StoredDocuments)>) {
        let mut copy = Self {
            folder,
            on_disk: None,
        };
        let index = match read_index(&copy.folder) {
            Ok(index) => index,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let folder = copy.folder.display();
                    warn!(%folder, %error, "Failed to read the stored documents of the manifest URL");
                }
                return (copy, None);
            }
        };
        let mut documents = StoredDocuments::new();
        for digest in index.documents() {
            match read_document(&copy.folder, digest) {
                Ok(document) => {
                    documents.insert(digest.clone(), Arc::new(document));
                }
                Err(error) => {
                    warn!(digest, %error, "Failed to read stored document of the manifest URL");
                }
            }
        }
        copy.on_disk = Some(index.clone());
        (copy, Some((index, documents)))
    }

    /// True if [`Copy::keep`] would change anything.
    pub(super) fn differs(&self, index: &Index) -> bool {
        self.on_disk.as_ref() != Some(index)
    }

    /// Makes the folder hold this index and the documents that it names, and nothing else. Whatever
    /// time it is interrupted, the folder holds one index whole, with its documents.
    ///
    /// # Errors
    /// The first I/O error; calling again continues.
    pub(super) fn keep(&mut self, index: &Index, documents: &StoredDocuments) -> io::Result<()> {
        let folder = &self.folder;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        for (digest, document) in documents {
            let known = self.on_disk.as_ref();
            if known.is_some_and(|known| known.documents().contains(digest)) {
                continue;
            }
            if let Some(signature) = &document.signature {
                atomic_file::write(&folder.join(format!("{digest}.{SIGNATURE}")), signature)?;
            }
            atomic_file::write(&folder.join(digest), &document.body)?;
        }
        atomic_file::sync_folder(folder)?;
        atomic_file::write(&folder.join(INDEX), &serde_json::to_vec_pretty(index)?)?;
        atomic_file::sync_folder(folder)?;
        self.on_disk = Some(index.clone());
        let needed = index.documents();
        for entry in fs::read_dir(folder)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = name.split('.').next().unwrap_or_default().to_owned();
            let ours = name == INDEX || needed.contains(&digest);
            if !ours && is_digest(&digest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Forgets the copy, where there is no URL any more.
pub(in crate::source) fn forget(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read_index(folder: &Path) -> io::Result<Index> {
    let value: serde_json::Value = serde_json::from_slice(&fs::read(folder.join(INDEX))?)?;
    if value["version"] != VERSION {
        let message = format!("version {}, expected {VERSION}", value["version"]);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(serde_json::from_value(value)?)
}

fn read_document(folder: &Path, name: &str) -> io::Result<StoredDocument> {
    if !is_digest(name) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its name is no digest",
        ));
    }
    let body = fs::read(folder.join(name))?;
    if digest(&body) != name {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is not what was kept",
        ));
    }
    let signature = match fs::read(folder.join(format!("{name}.{SIGNATURE}"))) {
        Ok(signature) => Some(signature),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(StoredDocument { body, signature })
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

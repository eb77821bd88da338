//! Accepted manifests on disk, so that a broken edit does not stop a Pod over a restart either.
//!
//! One file for each manifest path that a Pod runs from, named by the path's hash and holding the
//! document as it was written, the `ConfigMap`s and `Secret`s that the Pod refers to, and the mount that
//! the manifest lay on. It is never a reason to run a Pod by itself: the directory source decides. A file
//! is written atomically, so that it is whole or not there; one that cannot be read is
//! logged, skipped and left alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::mounts::MountIdentity;
use crate::hex::hex;
use crate::host::atomic_file;
use crate::manifest::objects::{Entries, ObjectContent, ObjectKey, StoredEntries};
use crate::manifest::{PackedPod, PodKey, Uid, WrittenDocument};

/// The form of the files that this version writes, and the only one that it reads.
const VERSION: u32 = 1;

/// One file of the store.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The manifest.
    path: StoredPath,
    namespace: String,
    name: String,
    uid: Uid,
    /// Time at which this version was accepted, RFC 3339.
    accepted: String,
    document: WrittenDocument,
    /// Missing in files of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    objects: Vec<StoredObject>,
    /// Missing in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<MountIdentity>,
}

/// A `ConfigMap` or `Secret` that the Pod refers to.
#[derive(Serialize, Deserialize)]
struct StoredObject {
    /// The manifest that it stands in.
    path: StoredPath,
    #[serde(flatten)]
    key: ObjectKey,
    /// The type of a Secret; missing in files of earlier versions.
    #[serde(default, rename = "type", skip_serializing_if = "str::is_empty")]
    secret_type: Arc<str>,
    entries: StoredEntries,
}

/// A path as text, or as its bytes where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredPath {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for StoredPath {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<StoredPath> for PathBuf {
    fn from(path: StoredPath) -> Self {
        match path {
            StoredPath::Text(text) => text.into(),
            StoredPath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

/// An accepted manifest as it came back from the store.
#[derive(Debug)]
pub(super) struct StoredManifest {
    /// The manifest.
    pub(super) path: PathBuf,
    /// The Pod that ran from it.
    pub(super) key: PodKey,
    /// The document as it was written.
    pub(super) document: WrittenDocument,
    /// Data stored with the document.
    pub(super) context: StoredContext,
}

/// A `ConfigMap` or `Secret` in use and the manifest that contains it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ObjectInUse {
    pub(super) path: PathBuf,
    pub(super) key: ObjectKey,
    pub(super) content: ObjectContent,
}

/// Data stored with a Pod's document.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct StoredContext {
    /// The objects that the Pod refers to.
    pub(super) objects: Vec<ObjectInUse>,
    /// The mount that the manifest lay on.
    pub(super) place: Option<Arc<MountIdentity>>,
}

impl fmt::Debug for StoredContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.objects.iter().map(|object| &object.key);
        let keys: Vec<_> = keys.collect();
        f.debug_struct("StoredContext")
            .field("objects", &keys)
            .field("place", &self.place)
            .finish()
    }
}

/// Stored state of one manifest path, as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StoreEntry {
    /// The file on disk stays.
    Unchanged,
    /// This version.
    Version(PackedPod, StoredContext),
}

/// The store's folder and what is known to be in it.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// Content of each manifest path's file: the Pod's key and UID, and the data stored with it.
    on_disk: BTreeMap<PathBuf, (PodKey, Uid, StoredContext)>,
}

impl Store {
    /// Reads the store. A folder that is not there is an empty store; one that cannot be read is
    /// logged and taken for an empty one.
    pub(super) fn open(folder: PathBuf) -> (Self, Vec<StoredManifest>) {
        let mut store = Self {
            folder,
            on_disk: BTreeMap::new(),
        };
        let mut manifests = Vec::new();
        let entries = match fs::read_dir(&store.folder) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let folder = store.folder.display();
                    warn!(%folder, %error, "Failed to read accepted manifests");
                }
                return (store, manifests);
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            match read(&path) {
                Ok(None) => {}
                Ok(Some(stored)) => manifests.push(store.load(stored)),
                Err(error) => {
                    warn!(file = %path.display(), %error, "Skipped stored manifest");
                }
            }
        }
        manifests.sort_by(|a, b| a.path.cmp(&b.path));
        (store, manifests)
    }

    fn load(&mut self, stored: Stored) -> StoredManifest {
        let path = PathBuf::from(stored.path);
        let key = PodKey {
            namespace: stored.namespace,
            name: stored.name,
        };
        let objects = stored.objects.into_iter().map(|object| ObjectInUse {
            path: object.path.into(),
            key: object.key,
            content: ObjectContent {
                secret_type: object.secret_type,
                entries: Arc::new(object.entries.0),
            },
        });
        let context = StoredContext {
            objects: objects.collect(),
            place: stored.place.map(Arc::new),
        };
        let on_disk = (key.clone(), stored.uid, context.clone());
        self.on_disk.insert(path.clone(), on_disk);
        StoredManifest {
            path,
            key,
            document: stored.document,
            context,
        }
    }

    /// True if [`Store::sync`] would change anything.
    pub(super) fn differs(&self, wanted: &BTreeMap<PathBuf, StoreEntry>) -> bool {
        self.on_disk.keys().any(|path| !wanted.contains_key(path))
            || wanted
                .iter()
                .any(|(path, entry)| self.outdated(path, entry).is_some())
    }

    /// The version to write for `path`, if it is not on disk.
    fn outdated<'a>(
        &self,
        path: &Path,
        entry: &'a StoreEntry,
    ) -> Option<(&'a PackedPod, &'a StoredContext)> {
        let StoreEntry::Version(pod, context) = entry else {
            return None;
        };
        let same = self.on_disk.get(path).is_some_and(|(key, uid, known)| {
            *key == pod.key && *uid == pod.uid && known == context
        });
        (!same).then_some((pod, context))
    }

    /// Makes the folder hold `wanted` and nothing else. What is new is written before what is old
    /// goes, so that a Pod that passes from one file to another always has one.
    ///
    /// # Errors
    /// The first I/O error; what was done until then stays done, and calling again continues.
    pub(super) fn sync(&mut self, wanted: &BTreeMap<PathBuf, StoreEntry>) -> io::Result<()> {
        if !self.differs(wanted) {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
        for (path, entry) in wanted {
            if let Some((pod, context)) = self.outdated(path, entry) {
                self.write(path, pod, context)?;
                let on_disk = (pod.key.clone(), pod.uid.clone(), context.clone());
                self.on_disk.insert(path.clone(), on_disk);
            }
        }
        atomic_file::sync_folder(&self.folder)?;
        let old: Vec<_> = self
            .on_disk
            .keys()
            .filter(|p| !wanted.contains_key(*p))
            .cloned()
            .collect();
        for path in old {
            match fs::remove_file(self.folder.join(file_name(&path))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.on_disk.remove(&path),
            };
        }
        atomic_file::sync_folder(&self.folder)
    }

    fn write(&self, path: &Path, pod: &PackedPod, context: &StoredContext) -> io::Result<()> {
        let objects = context.objects.iter().map(|object| StoredObject {
            path: object.path.as_path().into(),
            key: object.key.clone(),
            secret_type: Arc::clone(&object.content.secret_type),
            entries: StoredEntries(Entries::clone(&object.content.entries)),
        });
        let stored = Stored {
            version: VERSION,
            path: path.into(),
            namespace: pod.key.namespace.clone(),
            name: pod.key.name.clone(),
            uid: pod.uid.clone(),
            accepted: jiff::Timestamp::now().to_string(),
            document: pod.document.clone(),
            objects: objects.collect(),
            place: context.place.as_deref().cloned(),
        };
        let bytes = serde_json::to_vec_pretty(&stored)?;
        atomic_file::write(&self.folder.join(file_name(path)), &bytes)
    }
}

/// Reads one file of the store; `None` for a name that is not the store's, such as a file that a
/// killed agent was still writing.
fn read(path: &Path) -> io::Result<Option<Stored>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    if name.starts_with('.') {
        return Ok(None);
    }
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let content: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    if content["version"] != VERSION {
        return Err(wrong(format!(
            "version {}, expected {VERSION}",
            content["version"]
        )));
    }
    let stored: Stored = serde_json::from_value(content)?;
    let expected = file_name(&PathBuf::from(stored.path.clone()));
    if name != expected {
        return Err(wrong(format!("holds the manifest path of {expected}")));
    }
    Ok(Some(stored))
}

/// The name of the store's file for a manifest path.
fn file_name(path: &Path) -> String {
    hex(&Sha256::digest(path.as_os_str().as_bytes())) + ".json"
}

//! `ConfigMap`s and `Secret`s on disk: in base64, in files that only root reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Entries, ObjectContent, Objects};

/// The content of one object on disk: in base64.
pub(crate) struct StoredEntries(pub(crate) Entries);

impl Serialize for StoredEntries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(key, value)| (key, STANDARD.encode(value))),
        )
    }
}

impl<'de> Deserialize<'de> for StoredEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let bytes = |(key, text): (String, String)| Ok((key, STANDARD.decode(text)?));
        let entries: Result<_, base64::DecodeError> = texts.into_iter().map(bytes).collect();
        entries.map(Self).map_err(D::Error::custom)
    }
}

/// The content of a Secret with credentials for registries, on disk.
#[derive(Serialize, Deserialize)]
struct StoredPullSecret {
    #[serde(rename = "type")]
    secret_type: Arc<str>,
    entries: StoredEntries,
}

/// On disk.
#[derive(Serialize, Deserialize)]
struct SerializedObject {
    config_maps: BTreeMap<String, Option<StoredEntries>>,
    secrets: BTreeMap<String, Option<StoredEntries>>,
    /// Missing where the Pod has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pull_secrets: BTreeMap<String, Option<StoredPullSecret>>,
}

impl Serialize for Objects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = |objects: &BTreeMap<String, Option<Arc<Entries>>>| {
            let objects = objects.iter().map(|(name, entries)| {
                let entries = entries.as_deref().cloned();
                (name.clone(), entries.map(StoredEntries))
            });
            objects.collect()
        };
        let pull_secrets = self.pull_secrets.iter().map(|(name, content)| {
            let stored = content.clone().map(|content| StoredPullSecret {
                secret_type: content.secret_type,
                entries: StoredEntries(Entries::clone(&content.entries)),
            });
            (name.clone(), stored)
        });
        let stored = SerializedObject {
            config_maps: all(&self.config_maps),
            secrets: all(&self.secrets),
            pull_secrets: pull_secrets.collect(),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = SerializedObject::deserialize(deserializer)?;
        let all = |objects: BTreeMap<String, Option<StoredEntries>>| {
            let objects = objects.into_iter();
            let objects = objects.map(|(name, entries)| (name, entries.map(|e| Arc::new(e.0))));
            objects.collect()
        };
        let pull_secrets = stored.pull_secrets.into_iter().map(|(name, stored)| {
            let content = stored.map(|stored| ObjectContent {
                secret_type: stored.secret_type,
                entries: Arc::new(stored.entries.0),
            });
            (name, content)
        });
        Ok(Self {
            config_maps: all(stored.config_maps),
            secrets: all(stored.secrets),
            pull_secrets: pull_secrets.collect(),
        })
    }
}

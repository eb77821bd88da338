//! Content of the files of a volume: the downward API's, `ConfigMap`s' and `Secret`s', one by one or
//! projected into one volume.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

use crate::manifest::StaticPod;
use crate::manifest::objects::Entries;
use crate::translate::{
    Addresses, NodeFacts, ResourceConsumer, TranslateError, field_value, resource_value,
};

/// The mode of files where the volume says nothing.
const DEFAULT_MODE: i32 = 0o644;

/// Files by their path in the volume.
pub(super) type Payload = BTreeMap<String, File>;

/// A file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    /// Content of the file.
    pub(super) content: Vec<u8>,
    /// Permissions of the file.
    pub(super) mode: u32,
}

/// The files of a volume; none for one that has none.
///
/// # Errors
/// Something that it refers to is not there.
pub(super) fn payload(
    facts: &NodeFacts,
    pod: &StaticPod,
    volume: &Volume,
    addresses: &Addresses,
) -> Result<Payload, TranslateError> {
    let mut writer = Writer {
        facts,
        pod,
        addresses,
        mode: DEFAULT_MODE,
        files: Payload::new(),
    };
    if let Some(source) = &volume.downward_api {
        writer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        writer.fields(source.items.as_deref().unwrap_or_default())?;
    } else if let Some(source) = &volume.config_map {
        writer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        let keys = source.items.as_deref();
        writer.config_map(&source.name, keys, optional)?;
    } else if let Some(source) = &volume.secret {
        writer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional == Some(true);
        writer.secret(name, source.items.as_deref(), optional)?;
    } else if let Some(source) = &volume.projected {
        writer.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            writer.projection(part)?;
        }
    }
    Ok(writer.files)
}

struct Writer<'a> {
    facts: &'a NodeFacts,
    pod: &'a StaticPod,
    addresses: &'a Addresses,
    /// The volume's default mode.
    mode: i32,
    files: Payload,
}

impl Writer<'_> {
    fn projection(&mut self, part: &VolumeProjection) -> Result<(), TranslateError> {
        if let Some(source) = &part.downward_api {
            self.fields(source.items.as_deref().unwrap_or_default())?;
        }
        if let Some(source) = &part.config_map {
            let optional = source.optional == Some(true);
            self.config_map(&source.name, source.items.as_deref(), optional)?;
        }
        if let Some(source) = &part.secret {
            let optional = source.optional == Some(true);
            self.secret(&source.name, source.items.as_deref(), optional)?;
        }
        Ok(())
    }

    fn fields(&mut self, items: &[DownwardAPIVolumeFile]) -> Result<(), TranslateError> {
        for item in items {
            let (facts, pod) = (self.facts, self.pod);
            let text = if let Some(field) = &item.field_ref {
                field_value(facts, pod, self.addresses, &field.field_path)?
            } else if let Some(selector) = &item.resource_field_ref {
                resource_value(facts, pod, ResourceConsumer::File, selector)?
            } else {
                String::new()
            };
            self.add(&item.path, text.into_bytes(), item.mode);
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), TranslateError> {
        let entries = self.pod.objects.config_map(name).cloned();
        self.entries("ConfigMap", name, entries, items, optional)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), TranslateError> {
        let entries = self.pod.objects.secret(name).cloned();
        self.entries("Secret", name, entries, items, optional)
    }

    fn entries(
        &mut self,
        kind: &'static str,
        name: &str,
        entries: Option<Entries>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), TranslateError> {
        let Some(entries) = entries else {
            if optional {
                return Ok(());
            }
            return Err(TranslateError::MissingObject {
                kind,
                name: name.to_owned(),
            });
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, content) in entries {
                self.add(&key, content, None);
            }
            return Ok(());
        };
        for item in items {
            match entries.get(&item.key) {
                Some(content) => self.add(&item.path, content.clone(), item.mode),
                None if optional => {}
                None => {
                    return Err(TranslateError::MissingKey {
                        kind,
                        name: name.to_owned(),
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) {
        let mode = mode.unwrap_or(self.mode);
        let mode = u32::try_from(mode).unwrap_or(0) & 0o777;
        self.files.insert(path.to_owned(), File { content, mode });
    }
}

//! Volumes of files that the agent writes: which keys and fields go to which paths.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, VolumeProjection,
};

use super::env::FILE_FIELDS;
use super::{FieldPath, Validator};

impl Validator<'_> {
    pub(super) fn keys_to_paths(&mut self, field: &FieldPath, items: Option<&Vec<KeyToPath>>) {
        for (field, item) in field.items("items", items) {
            self.object_key(&field.key("key"), &item.key);
            self.file_path(&field.key("path"), &item.path);
            self.mode(&field.key("mode"), item.mode);
        }
    }

    pub(super) fn downward_files(
        &mut self,
        field: &FieldPath,
        items: Option<&Vec<DownwardAPIVolumeFile>>,
        spec: &PodSpec,
    ) {
        for (field, item) in field.items("items", items) {
            self.file_path(&field.key("path"), &item.path);
            self.mode(&field.key("mode"), item.mode);
            if let Some(selector) = &item.field_ref {
                self.pod_field(&field.key("fieldRef"), selector, &FILE_FIELDS);
            }
            if let Some(selector) = &item.resource_field_ref {
                let field = field.key("resourceFieldRef");
                let container = selector.container_name.as_deref().unwrap_or_default();
                let expected = "the name of the container whose resource it is";
                self.required(&field.key("containerName"), container, expected);
                self.resource_field(&field, selector, spec);
            }
            match (&item.field_ref, &item.resource_field_ref) {
                (None, None) => {
                    let message = "names no source, expected fieldRef or resourceFieldRef";
                    self.refuse(&field, message);
                }
                (Some(_), Some(_)) => {
                    let message = "found beside fieldRef, expected one of both";
                    self.refuse(&field.key("resourceFieldRef"), message);
                }
                _ => {}
            }
        }
    }

    pub(super) fn projected(
        &mut self,
        field: &FieldPath,
        volume: &ProjectedVolumeSource,
        spec: &PodSpec,
    ) {
        self.mode(&field.key("defaultMode"), volume.default_mode);
        let mut paths = BTreeSet::new();
        for (field, part) in field.items("sources", &volume.sources) {
            self.projection(&field, part, spec);
            for (field, path) in paths_of(&field, part) {
                if !paths.insert(path) {
                    self.twice(&field, path, "path");
                }
            }
        }
    }

    fn projection(&mut self, field: &FieldPath, part: &VolumeProjection, spec: &PodSpec) {
        let kinds = [
            ("secret", part.secret.is_some()),
            ("configMap", part.config_map.is_some()),
            ("downwardAPI", part.downward_api.is_some()),
        ];
        let mut given = kinds.iter().filter(|(_, given)| *given);
        match (given.next(), given.next()) {
            (None, _) => {
                let message = "names no source, expected one of secret, configMap, downwardAPI";
                self.refuse(field, message);
            }
            (Some((first, _)), Some((second, _))) => {
                let message = format!("found {first} and {second}, expected one of them");
                self.refuse(field, message);
            }
            _ => {}
        }
        if let Some(secret) = &part.secret {
            let field = field.key("secret");
            self.object_name(&field.key("name"), &secret.name);
            self.keys_to_paths(&field, secret.items.as_ref());
        }
        if let Some(map) = &part.config_map {
            let field = field.key("configMap");
            self.object_name(&field.key("name"), &map.name);
            self.keys_to_paths(&field, map.items.as_ref());
        }
        if let Some(downward) = &part.downward_api {
            self.downward_files(&field.key("downwardAPI"), downward.items.as_ref(), spec);
        }
    }
}

/// The paths that a part of a volume names, with their fields.
fn paths_of<'a>(field: &FieldPath, part: &'a VolumeProjection) -> Vec<(FieldPath, &'a String)> {
    let secret = part.secret.as_ref().and_then(|s| s.items.as_ref());
    let secret = field.key("secret").items("items", secret);
    let map = part.config_map.as_ref().and_then(|s| s.items.as_ref());
    let map = field.key("configMap").items("items", map);
    let downward = part.downward_api.as_ref().and_then(|s| s.items.as_ref());
    let downward = field.key("downwardAPI").items("items", downward);
    let keys = secret.into_iter().chain(map);
    let keys = keys.map(|(field, item)| (field.key("path"), &item.path));
    let fields = downward.into_iter();
    let fields = fields.map(|(field, item)| (field.key("path"), &item.path));
    let all = keys.chain(fields);
    all.filter(|(_, path)| !path.is_empty()).collect()
}

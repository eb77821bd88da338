//! Volumes of the implemented kinds.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, PodSpec, Volume};

use super::{FieldPath, Validator, unexpected};
use crate::units::quantity;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
];

impl Validator<'_> {
    pub(super) fn volumes(&mut self, field: &FieldPath, spec: &PodSpec) {
        let mut names = BTreeSet::new();
        for (field, volume) in field.items("volumes", &spec.volumes) {
            let name_field = field.key("name");
            if self.required(&name_field, &volume.name, "the volume's name") {
                self.dns_label(&name_field, &volume.name);
                if !names.insert(&volume.name) {
                    self.twice(&name_field, &volume.name, "name");
                }
            }
            self.one_kind(&field, volume);
            self.volume(&field, volume, spec);
        }
    }

    /// One that names no kind is an emptyDir by now.
    fn one_kind(&mut self, field: &FieldPath, volume: &Volume) {
        let kinds = [
            ("emptyDir", volume.empty_dir.is_some()),
            ("hostPath", volume.host_path.is_some()),
            ("secret", volume.secret.is_some()),
            ("downwardAPI", volume.downward_api.is_some()),
            ("configMap", volume.config_map.is_some()),
            ("projected", volume.projected.is_some()),
            ("image", volume.image.is_some()),
        ];
        let mut given = kinds.iter().filter(|(_, given)| *given);
        let Some((first, _)) = given.next() else {
            return;
        };
        for (kind, _) in given {
            let message = format!("found beside {first}, expected one kind of volume");
            self.refuse(&field.key(kind), message);
        }
    }

    fn volume(&mut self, field: &FieldPath, volume: &Volume, spec: &PodSpec) {
        if let Some(host) = &volume.host_path {
            self.host_path(&field.key("hostPath"), host);
        }
        if let Some(empty) = &volume.empty_dir {
            self.empty_dir(&field.key("emptyDir"), empty);
        }
        if let Some(image) = &volume.image {
            let field = field.key("image");
            let reference = image.reference.as_deref().unwrap_or_default();
            self.required(&field.key("reference"), reference, "the image's name");
            let policies = ["Always", "IfNotPresent", "Never"];
            let policy = image.pull_policy.as_deref();
            self.one_of(&field.key("pullPolicy"), policy, &policies);
        }
        if let Some(map) = &volume.config_map {
            let field = field.key("configMap");
            self.object_name(&field.key("name"), &map.name);
            self.mode(&field.key("defaultMode"), map.default_mode);
            self.keys_to_paths(&field, map.items.as_ref());
        }
        if let Some(secret) = &volume.secret {
            let field = field.key("secret");
            let name = secret.secret_name.as_deref().unwrap_or_default();
            self.object_name(&field.key("secretName"), name);
            self.mode(&field.key("defaultMode"), secret.default_mode);
            self.keys_to_paths(&field, secret.items.as_ref());
        }
        if let Some(downward) = &volume.downward_api {
            let field = field.key("downwardAPI");
            self.mode(&field.key("defaultMode"), downward.default_mode);
            self.downward_files(&field, downward.items.as_ref(), spec);
        }
        if let Some(projected) = &volume.projected {
            self.projected(&field.key("projected"), projected, spec);
        }
    }

    fn host_path(&mut self, field: &FieldPath, host: &HostPathVolumeSource) {
        let path_field = field.key("path");
        if self.required(&path_field, &host.path, "a path on the host") {
            self.no_parent(&path_field, &host.path);
            let absolute = host.path.starts_with('/');
            self.expect(
                absolute,
                &path_field,
                &host.path,
                "a path from the root, /…",
            );
        }
        self.one_of(&field.key("type"), host.type_.as_deref(), &HOST_PATH_TYPES);
    }

    fn empty_dir(&mut self, field: &FieldPath, empty: &EmptyDirVolumeSource) {
        let limit = empty.size_limit.as_ref();
        let medium = empty.medium.as_deref().unwrap_or_default();
        let limits = |text: &str| quantity::parse(text).is_some_and(|limit| !limit.is_zero());
        let negative =
            |text: &str| quantity::parse(text).is_some_and(quantity::Quantity::is_negative);
        if let Some(limit) = limit.filter(|limit| negative(&limit.0)) {
            let message = unexpected(&limit.0, "0 or more");
            self.refuse(&field.key("sizeLimit"), message);
        } else if limit.is_some_and(|l| limits(&l.0)) && medium.is_empty() {
            // The reference evicts Pods for it, though no static ones.
            let message = "is not enforced on the node's disk, as for every static Pod; medium: Memory is limited";
            self.warn(&field.key("sizeLimit"), message);
        }
        let known = ["", "Memory", "HugePages"].contains(&medium);
        if !known && !medium.starts_with("HugePages-") {
            // The API takes it, and the volume can never be made.
            let expected = "Memory, HugePages, HugePages-SIZE, or nothing for the node's disk; the Pod cannot start";
            self.warn(&field.key("medium"), unexpected(medium, expected));
        }
    }

    /// A mode of files.
    pub(super) fn mode(&mut self, field: &FieldPath, mode: Option<i32>) {
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            let message = format!("found {mode}, which is {mode:#o}, expected 0 to 0777 (511)");
            self.refuse(field, message);
        }
    }
}

//! Changes that manifests would make in the place of those of the directory.
//!
//! Pure: files and the desired set in, changes out. It decides as the directory source does; what runs, and what the
//! runtime has, is for the caller to look at.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::directory::duplicate_objects;
use super::order::{OrderedPods, refuse_cycles};
use super::{Desired, DesiredPod, Origin, Refused, duplicate_pods};
use crate::manifest::objects::{ObjectSet, Objects, attach};
use crate::manifest::{self, Manifest, PackedPod, PodKey, Problem, StaticPod, path};

/// Longest value that is shown, in characters.
const SHOWN: usize = 80;
/// Annotations that every version has its own of.
const OF_A_VERSION: [&str; 1] = ["kubernetes.io/config.hash"];

/// A manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its path, as it is to be shown.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
}

/// A field whose values differ. A value that is not there is `None`, and so are both of what is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Path of the field as Kubernetes writes it.
    pub field: String,
    /// The value in force, as JSON.
    pub old: Option<String>,
    /// The value that would take its place, as JSON.
    pub new: Option<String>,
}

/// Change of a Pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodChange {
    /// It would be started.
    #[default]
    New,
    /// Another version would take its place.
    Replaced,
    /// It would run on.
    Unchanged,
    /// It would run on, since its manifest would be refused.
    Kept,
    /// It would be stopped.
    Gone,
}

/// A Pod and its change.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedPod {
    /// The version that would run, or that would be stopped.
    pub pod: Arc<StaticPod>,
    /// Its manifest.
    pub file: Option<PathBuf>,
    /// Its change.
    pub change: PodChange,
    /// The fields that differ from those in force.
    pub fields: Vec<FieldChange>,
}

/// Changes that manifests would make.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preview {
    /// The Pods of the directory, by namespace and name.
    pub pods: Vec<PlannedPod>,
    /// Manifests that would be refused.
    pub refused: Vec<Refused>,
}

/// Returns what these manifests would change if they took the place of those of the directory, on the node of this name.
#[must_use]
pub fn preview(files: &[ManifestFile], desired: &Desired, node_name: &str) -> Preview {
    let (mut wanted, mut refused) = wanted(files, node_name);
    refused.extend(refuse_circles(&mut wanted, desired));
    let mut pods = vec![];
    for (file, pod) in wanted.values() {
        let current = desired.pods.get(&pod.key);
        if let Some(DesiredPod { origin, .. }) = current.filter(|pod| pod.origin.file().is_none()) {
            let message = format!("Pod {} is defined by {origin} already", pod.key);
            refused.push(refusal(file, vec![Problem::of_file(message)]));
            continue;
        }
        let (change, fields) = match current {
            None => (PodChange::New, vec![]),
            Some(current) if current.pod.uid == pod.uid => (PodChange::Unchanged, vec![]),
            Some(current) => (PodChange::Replaced, differences(&current.pod.unpack(), pod)),
        };
        pods.push(PlannedPod {
            pod: Arc::clone(pod),
            file: Some(file.clone()),
            change,
            fields,
        });
    }
    for (key, current) in desired.pods.iter() {
        let Origin::File(file) = &current.origin else {
            continue;
        };
        if wanted.contains_key(key) {
            continue;
        }
        let same_name = |refused: &&mut Refused| {
            let of = refused.origin.file().and_then(Path::file_name);
            of.is_some() && of == file.file_name()
        };
        let is_kept = |refused: &Refused| refused.keeps.as_ref() == Some(key);
        let change = if refused.iter().any(is_kept) {
            PodChange::Kept
        } else if let Some(refused) = refused.iter_mut().find(same_name) {
            refused.keeps = Some(key.clone());
            PodChange::Kept
        } else {
            PodChange::Gone
        };
        pods.push(PlannedPod {
            pod: current.pod.unpack(),
            file: None,
            change,
            fields: vec![],
        });
    }
    pods.sort_by(|one, other| one.pod.key.cmp(&other.pod.key));
    Preview { pods, refused }
}

fn refusal(file: &Path, problems: Vec<Problem>) -> Refused {
    Refused {
        origin: Origin::File(file.to_owned()),
        problems,
        keeps: None,
    }
}

type Wanted = BTreeMap<PodKey, (PathBuf, Arc<StaticPod>)>;

/// Returns the Pods of the files, each with the objects that it refers to, and the files that are refused.
fn wanted(files: &[ManifestFile], node_name: &str) -> (Wanted, Vec<Refused>) {
    let mut refused = vec![];
    let mut manifests: Vec<(&Path, Manifest)> = vec![];
    for ManifestFile { path, content } in files {
        match manifest::parse_file(content, node_name) {
            Ok(manifest) => manifests.push((path, manifest)),
            Err(problems) => refused.push(refusal(path, problems)),
        }
    }
    let pods = manifests.iter();
    let pods = pods.filter_map(|(path, manifest)| Some((*path, manifest.pod.as_ref()?)));
    let again = duplicate_pods(pods);
    let keys = manifests.iter();
    let keys = keys.flat_map(|(path, manifest)| manifest.objects.iter().map(|o| (*path, &o.key)));
    let objects_again = duplicate_objects(keys);
    let of = |found: &[(PathBuf, Problem)]| -> HashSet<PathBuf> {
        found.iter().map(|(path, _)| path.clone()).collect()
    };
    let (without_pod, without_objects) = (of(&again), of(&objects_again));
    for (path, problem) in again.into_iter().chain(objects_again) {
        refused.push(refusal(&path, vec![problem]));
    }
    let mut objects = ObjectSet::new();
    for (path, manifest) in &manifests {
        if !without_objects.contains(*path) {
            let these = manifest.objects.iter();
            objects.extend(these.map(|object| (object.key.clone(), object.content.clone())));
        }
    }
    let mut wanted = Wanted::new();
    for (path, manifest) in manifests {
        if let Some(accepted) = manifest.pod
            && !without_pod.contains(path)
        {
            let pod = attach(&accepted.pod, &objects);
            wanted.insert(pod.key.clone(), (path.to_owned(), pod));
        }
    }
    (wanted, refused)
}

/// Takes out Pods of files that would wait for each other, or for Pods of the URL that wait for them.
fn refuse_circles(wanted: &mut Wanted, desired: &Desired) -> Vec<Refused> {
    let of_file = |(key, (file, pod)): (&PodKey, &(PathBuf, Arc<StaticPod>))| {
        let pod = DesiredPod {
            pod: PackedPod::from(pod),
            origin: Origin::File(file.clone()),
            warnings: vec![],
        };
        (key.clone(), pod)
    };
    let mut pods: OrderedPods = wanted.iter().map(of_file).collect();
    let of_url = desired.pods.iter();
    let of_url = of_url.filter(|(_, pod)| pod.origin.file().is_none());
    pods.extend(of_url.map(|(key, pod)| (key.clone(), pod.clone())));
    let mut refused = refuse_cycles(&mut pods, |key| desired.pods.get(key).cloned());
    refused.retain(|refused| refused.origin.file().is_some());
    let is_refused = |file: &Path| refused.iter().any(|r| r.origin.file() == Some(file));
    wanted.retain(|_, (file, _)| !is_refused(file));
    refused
}

/// Returns the fields of two versions of a Pod that differ, and the objects that do.
fn differences(old: &StaticPod, new: &StaticPod) -> Vec<FieldChange> {
    let mut found = vec![];
    compare("", &fields_of(old), &fields_of(new), &mut found);
    objects_that_differ(&old.objects, &new.objects, &mut found);
    found
}

/// Returns a Pod as JSON, without what differs between any two versions.
fn fields_of(pod: &StaticPod) -> Value {
    let mut fields = serde_json::to_value(pod.to_pod()).unwrap_or_default();
    if let Some(metadata) = fields["metadata"].as_object_mut() {
        metadata.remove("uid");
    }
    if let Some(annotations) = fields["metadata"]["annotations"].as_object_mut() {
        for name in OF_A_VERSION {
            annotations.remove(name);
        }
    }
    fields
}

fn compare(field: &str, old: &Value, new: &Value, found: &mut Vec<FieldChange>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let at = path::key(field, name);
                let value = |of: &serde_json::Map<String, Value>| of.get(name).cloned();
                let (old, new) = (value(old), value(new));
                compare(
                    &at,
                    &old.unwrap_or_default(),
                    &new.unwrap_or_default(),
                    found,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for i in 0..old.len().max(new.len()) {
                let value = |of: &[Value]| of.get(i).cloned().unwrap_or_default();
                compare(&path::index(field, i), &value(old), &value(new), found);
            }
        }
        (old, new) => found.push(FieldChange {
            field: field.to_owned(),
            old: shown(old),
            new: shown(new),
        }),
    }
}

fn shown(value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let text = value.to_string();
    Some(match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    })
}

/// Adds the objects whose content differs, without showing any of it.
fn objects_that_differ(old: &Objects, new: &Objects, found: &mut Vec<FieldChange>) {
    for (kind, old, new) in [
        ("ConfigMap", &old.config_maps, &new.config_maps),
        ("Secret", &old.secrets, &new.secrets),
    ] {
        let names: HashSet<&String> = old.keys().chain(new.keys()).collect();
        let mut names: Vec<&String> = names.into_iter().collect();
        names.sort();
        for name in names {
            // That the Pod refers to another object is a change of a field.
            if let (Some(old), Some(new)) = (old.get(name), new.get(name))
                && old != new
            {
                found.push(FieldChange {
                    field: format!("{kind} {name}"),
                    old: None,
                    new: None,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, container: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, {container}}}]}}\n"
        )
    }

    fn map(value: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{k: {value}}}\n"
        )
    }

    fn files(files: &[(&str, String)]) -> Vec<ManifestFile> {
        let file = |(path, content): &(&str, String)| ManifestFile {
            path: path.into(),
            content: content.clone().into_bytes(),
        };
        files.iter().map(file).collect()
    }

    /// The desired set of a directory with these files.
    fn desired(of: &[(&str, String)]) -> Desired {
        let (wanted, refused) = wanted(&files(of), "n1");
        assert_eq!(refused, []);
        let pods = wanted.into_iter().map(|(key, (path, pod))| {
            let pod = DesiredPod {
                pod: PackedPod::from(pod),
                origin: Origin::File(Path::new("/m").join(path)),
                warnings: vec![],
            };
            (key, pod)
        });
        Desired {
            pods: Arc::new(pods.collect()),
            ..Desired::default()
        }
    }

    /// The changes of a preview, each with the fields that differ.
    fn changes(preview: &Preview) -> Vec<(&str, PodChange, &[FieldChange])> {
        let pods = preview.pods.iter();
        pods.map(|planned| {
            let name = planned.pod.key.name.as_str();
            (name, planned.change, planned.fields.as_slice())
        })
        .collect()
    }

    #[test]
    fn each_pod_has_its_change_and_a_replaced_one_the_fields_that_differ() {
        let before = desired(&[
            ("same.yaml", pod("same", "image: i")),
            ("gone.yaml", pod("gone", "image: i")),
            ("bad.yaml", pod("bad", "image: i")),
            (
                "edited.yaml",
                pod(
                    "edited",
                    "image: i, args: [a, b], env: [{name: A, value: x}]",
                ),
            ),
        ]);
        let now = files(&[
            ("same.yaml", pod("same", "image: i") + "# a comment\n"),
            ("bad.yaml", pod("bad", "image: 7")),
            (
                "edited.yaml",
                pod(
                    "edited",
                    "image: j, args: [a], tty: true, env: [{name: A, value: x}]",
                ),
            ),
            ("new.yaml", pod("new", "image: i")),
        ]);
        let preview = preview(&now, &before, "n1");
        let change = |field: &str, old: Option<&str>, new: Option<&str>| FieldChange {
            field: field.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
        };
        let fields = [
            change("spec.containers[0].args[1]", Some("\"b\""), None),
            change("spec.containers[0].image", Some("\"i\""), Some("\"j\"")),
            change("spec.containers[0].tty", None, Some("true")),
        ];
        let expected = [
            ("bad-n1", PodChange::Kept, &[][..]),
            ("edited-n1", PodChange::Replaced, &fields),
            ("gone-n1", PodChange::Gone, &[]),
            ("new-n1", PodChange::New, &[]),
            ("same-n1", PodChange::Unchanged, &[]),
        ];
        assert_eq!(changes(&preview), expected);
        let [refused] = preview.refused.as_slice() else {
            panic!("{:?}", preview.refused);
        };
        assert_eq!(refused.origin, Origin::File("bad.yaml".into()));
        assert_eq!(refused.problems[0].field, "spec.containers[0].image");
        assert_eq!(refused.keeps.as_ref().unwrap().name, "bad-n1");
    }

    #[test]
    fn another_content_of_an_object_is_another_version_and_is_not_shown() {
        let uses = "image: i, envFrom: [{configMapRef: {name: m}}]";
        let before = desired(&[("a.yaml", pod("a", uses) + &map("hush"))]);
        let now = files(&[("a.yaml", pod("a", uses)), ("m.yaml", map("other"))]);
        let fields = [FieldChange {
            field: "ConfigMap m".to_owned(),
            old: None,
            new: None,
        }];
        assert_eq!(
            changes(&preview(&now, &before, "n1")),
            [("a-n1", PodChange::Replaced, &fields[..])]
        );
        let same = files(&[("b.yaml", pod("a", uses) + &map("hush"))]);
        let unchanged = preview(&same, &before, "n1");
        assert_eq!(
            changes(&unchanged),
            [("a-n1", PodChange::Unchanged, &[][..])]
        );
    }

    #[test]
    fn of_two_files_that_name_one_pod_one_is_refused_and_pods_of_the_url_stay() {
        let mut before = desired(&[("far.yaml", pod("far", "image: i"))]);
        let pods = Arc::make_mut(&mut before.pods);
        for pod in pods.values_mut() {
            pod.origin = Origin::Url("http://x".to_owned());
        }
        let now = files(&[
            ("a.yaml", pod("a", "image: i")),
            ("b.yaml", pod("a", "image: j")),
            ("far.yaml", pod("far", "image: j")),
        ]);
        let preview = preview(&now, &before, "n1");
        assert_eq!(changes(&preview), [("a-n1", PodChange::New, &[][..])]);
        assert_eq!(preview.pods[0].file, Some("a.yaml".into()));
        let refused: Vec<_> = preview.refused.iter().map(|r| &r.origin).collect();
        let file = |path: &str| Origin::File(path.into());
        assert_eq!(refused, [&file("b.yaml"), &file("far.yaml")]);
    }

    #[test]
    fn pods_that_would_wait_for_each_other_are_refused_and_run_on() {
        let after = |name: &str, after: &str| {
            let order = format!("{name}, annotations: {{podkeeper.io/start-after: {after}}}");
            pod(&order, "image: i")
        };
        let before = desired(&[
            ("a.yaml", pod("a", "image: i")),
            ("b.yaml", after("b", "a")),
        ]);
        let now = files(&[
            ("other.yaml", after("a", "b")),
            ("b.yaml", after("b", "a")),
            ("c.yaml", after("c", "nobody")),
        ]);
        let preview = preview(&now, &before, "n1");
        let expected = [
            ("a-n1", PodChange::Kept, &[][..]),
            ("b-n1", PodChange::Unchanged, &[]),
            ("c-n1", PodChange::New, &[]),
        ];
        assert_eq!(changes(&preview), expected);
        assert_eq!(preview.refused.len(), 1, "{:?}", preview.refused);
        assert_eq!(preview.refused[0].origin, Origin::File("other.yaml".into()));
    }

    #[test]
    fn long_values_are_cut() {
        let value = Value::String("é".repeat(200));
        assert_eq!(shown(&value).unwrap().chars().count(), SHOWN + 1);
        assert_eq!(shown(&Value::Null), None);
    }
}

//! Documents with several Pods, as the web serves them: a Pod, a v1 `PodList` or `List`, and any of
//! these one after the other in a YAML stream.

use serde_json::Value;

use super::decode::kind_of;
use super::document::{self, Document};
use super::objects::{
    Missing, Object, ObjectKey, attach, missing, object_key, object_kind, read_object,
};
use super::{Accepted, PodKey, Problem, SourceKind, identity, parse_document, path};

/// The fields of a list.
const LIST_FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "items"];

/// A Pod of a document.
#[derive(Debug)]
pub struct PodEntry {
    /// Key of the Pod, as far as it can be read from one that is refused.
    pub key: Option<PodKey>,
    /// The Pod, or everything that is wrong with it.
    pub result: Result<Accepted, Vec<Problem>>,
}

/// A document with any number of Pods, `ConfigMap`s and `Secret`s.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its Pods.
    pub pods: Vec<PodEntry>,
    /// Its `ConfigMap`s and `Secret`s.
    pub objects: Vec<ObjectEntry>,
}

/// A `ConfigMap` or `Secret` of a document.
#[derive(Debug)]
pub struct ObjectEntry {
    /// Key of the object, as far as it can be read from one that is refused.
    pub key: Option<ObjectKey>,
    /// The object, or everything that is wrong with it.
    pub result: Result<Object, Vec<Problem>>,
}

/// A manifest file: at most one Pod, and any number of `ConfigMap`s and `Secret`s.
#[derive(Debug)]
pub struct Manifest {
    /// The Pod.
    pub pod: Option<Accepted>,
    /// The `ConfigMap`s and `Secret`s.
    pub objects: Vec<Object>,
}

/// Reads a manifest file for the node of this name.
///
/// # Errors
/// Everything that is wrong with it; what it says then has no effect at all.
pub fn parse_file(bytes: &[u8], node_name: &str) -> Result<Manifest, Vec<Problem>> {
    let documents = document::read(bytes)?;
    if !documents.iter().any(|d| object_kind(d).is_some()) {
        let only = document::only(documents, "Pod");
        let pod = only.and_then(|pod| parse_document(&pod, node_name, SourceKind::File))?;
        return Ok(Manifest {
            pod: Some(pod),
            objects: vec![],
        });
    }
    let mut manifest = Manifest {
        pod: None,
        objects: vec![],
    };
    let mut problems = vec![];
    let mut spans = None;
    for document in documents {
        if let Some(kind) = object_kind(&document) {
            match read_object(&document, kind) {
                Ok(object) => manifest.objects.push(object),
                Err(wrong) => problems.extend(wrong),
            }
            continue;
        }
        let place = document
            .spans
            .problem("", "found a second Pod, expected one in a file");
        match parse_item(&document, node_name, SourceKind::File) {
            Ok(_) if manifest.pod.is_some() => problems.push(place),
            Ok(accepted) => {
                manifest.pod = Some(accepted);
                spans = Some(document.spans);
            }
            Err(wrong) => problems.extend(wrong),
        }
    }
    if let (Some(accepted), Some(spans)) = (&manifest.pod, spans) {
        let own = manifest.objects.iter();
        let own = own.map(|object| (object.key.clone(), object.content.clone()));
        let pod = attach(&accepted.pod, &own.collect());
        let wrong = missing(&pod).into_iter().filter(Missing::is_of_other_type);
        problems.extend(wrong.map(|missing| missing.problem(&spans)));
    }
    if problems.is_empty() {
        Ok(manifest)
    } else {
        Err(problems)
    }
}

/// Reads a document with any number of static Pods for the node of this name. An empty list is one
/// with no Pods; a document that says nothing at all is an error.
///
/// # Errors
/// Returns problems of the document as a whole. Problems of one Pod are in that Pod's entry.
pub fn parse_all(
    bytes: &[u8],
    node_name: &str,
    source: SourceKind,
) -> Result<Parsed, Vec<Problem>> {
    let documents = document::read(bytes)?;
    if documents.is_empty() {
        let message = "found an empty document, expected Pods; a list without items says that there \
                       are none: {apiVersion: v1, kind: PodList, items: []}";
        return Err(vec![Problem::of_file(message)]);
    }
    let mut items = vec![];
    for document in documents {
        take_apart(document, &mut items)?;
    }
    let mut parsed = Parsed::default();
    for item in items {
        if let Some(kind) = object_kind(&item) {
            parsed.objects.push(ObjectEntry {
                key: object_key(&item),
                result: read_object(&item, kind),
            });
        } else {
            parsed.pods.push(PodEntry {
                key: key(&item.value, node_name),
                result: parse_item(&item, node_name, source),
            });
        }
    }
    Ok(parsed)
}

fn parse_item(
    item: &Document,
    node_name: &str,
    source: SourceKind,
) -> Result<Accepted, Vec<Problem>> {
    let repeated = item.spans.repeated(|_| true);
    if repeated.is_empty() {
        parse_document(item, node_name, source)
    } else {
        Err(repeated)
    }
}

/// Adds the Pods of a document.
pub(super) fn take_apart(
    mut document: Document,
    items: &mut Vec<Document>,
) -> Result<(), Vec<Problem>> {
    if !document.value.is_object() {
        let found = kind_of(&document.value);
        let message = format!("found {found}, expected a Pod or a list of Pods");
        return Err(vec![document.spans.problem("", message)]);
    }
    let kind = document.value["kind"].as_str().unwrap_or_default();
    let pods_only = kind == "PodList";
    if !pods_only && kind != "List" {
        items.push(document);
        return Ok(());
    }
    check_list(&document)?;
    let Value::Array(list) = document.value["items"].take() else {
        return Ok(());
    };
    for (i, mut value) in list.into_iter().enumerate() {
        if let (true, Value::Object(fields)) = (pods_only, &mut value) {
            // The items of a typed list do not repeat its type.
            fields.entry("apiVersion").or_insert("v1".into());
            fields.entry("kind").or_insert("Pod".into());
        }
        let spans = document.spans.below(&path::index("items", i));
        items.push(Document { value, spans });
    }
    Ok(())
}

/// Everything that is wrong with a list besides its items.
fn check_list(list: &Document) -> Result<(), Vec<Problem>> {
    let Document { value, spans } = list;
    let mut problems = spans.repeated(|field| !field.starts_with("items["));
    match &value["apiVersion"] {
        Value::String(found) if found == "v1" => {}
        Value::Null => {
            problems.push(spans.problem("apiVersion", "missing, expected \"v1\""));
        }
        found => {
            let message = format!("found {found}, expected \"v1\"");
            problems.push(spans.problem("apiVersion", message));
        }
    }
    if !value["items"].is_array() {
        let message = "found no list, expected the Pods; for none at all write items: []";
        problems.push(spans.problem("items", message));
    }
    let fields = value.as_object().into_iter().flatten();
    for (field, _) in fields.filter(|(field, _)| !LIST_FIELDS.contains(&field.as_str())) {
        let message = format!("unknown field, expected one of {}", LIST_FIELDS.join(", "));
        problems.push(spans.problem_with_key(field, message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn key(value: &Value, node_name: &str) -> Option<PodKey> {
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    let namespace = match &metadata["namespace"] {
        Value::Null => None,
        namespace => Some(namespace.as_str()?),
    };
    Some(identity::key(name, namespace, node_name))
}

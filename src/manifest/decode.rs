//! A document to a Pod: types, and fields that a Pod does not have.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::document::Document;
use super::support::nearest_known;
use super::{Problem, path};

/// The document as a Pod, and the paths of the fields that no Pod has.
///
/// # Errors
/// It is not a v1 Pod, or a field has another type than the API gives it.
pub(super) fn decode(document: &Document) -> Result<(Pod, Vec<Problem>), Vec<Problem>> {
    check_kind(document)?;
    let mut unknown = vec![];
    let mut on_unknown = |at: serde_ignored::Path<'_>| unknown.push(ignored_path(&at));
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&document.value, &mut track);
    let result = Pod::deserialize(serde_ignored::Deserializer::new(tracked, &mut on_unknown));
    match result {
        Ok(pod) => {
            let warn = |field: &String| {
                document
                    .places
                    .problem_with_key(field, unknown_field(field))
            };
            Ok((pod, unknown.iter().map(warn).collect()))
        }
        Err(error) => {
            let field = tracked_path(&track.path());
            let found = value_at(&document.value, &field);
            let message = type_error(&error.to_string(), found, &field, document);
            Err(vec![document.places.problem(field, message)])
        }
    }
}

fn check_kind(document: &Document) -> Result<(), Vec<Problem>> {
    let Value::Object(fields) = &document.value else {
        let found = kind_of(&document.value);
        let message = format!("found {found}, expected a Pod (an object with apiVersion and kind)");
        return Err(vec![document.places.problem("", message)]);
    };
    let mut problems = vec![];
    for (field, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        let message = match fields.get(field) {
            Some(Value::String(found)) if found == expected => continue,
            Some(found) => format!("found {found}, expected {expected:?}"),
            None => format!("missing, expected {expected:?}"),
        };
        problems.push(document.places.problem(field, message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

fn unknown_field(field: &str) -> String {
    let name = field.rsplit(['.', '[']).next().unwrap_or_default();
    match nearest_known(name) {
        Some(known) => format!("unknown field, did you mean {known}? It has no effect"),
        None => "unknown field, it has no effect".to_owned(),
    }
}

fn tracked_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .fold(String::new(), |at, segment| match segment {
            Segment::Seq { index } => path::index(&at, *index),
            Segment::Map { key } => path::key(&at, key),
            Segment::Enum { .. } | Segment::Unknown => at,
        })
}

fn ignored_path(at: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match at {
        Path::Root => String::new(),
        Path::Seq { parent, index } => path::index(&ignored_path(parent), *index),
        Path::Map { parent, key } => path::key(&ignored_path(parent), key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}

fn value_at<'a>(root: &'a Value, field: &str) -> Option<&'a Value> {
    let mut chain: Vec<&str> = path::ancestors(field).collect();
    chain.reverse();
    chain.windows(2).try_fold(root, |value, pair| {
        let step = pair[1][pair[0].len()..].trim_start_matches('.');
        let step = step
            .strip_prefix('[')
            .and_then(|s| s.strip_suffix(']'))
            .unwrap_or(step);
        match value {
            Value::Array(list) => list.get(step.parse::<usize>().ok()?),
            Value::Object(map) => map.get(step),
            _ => None,
        }
    })
}

/// Says what was found and what the API wants instead.
fn type_error(error: &str, found: Option<&Value>, field: &str, document: &Document) -> String {
    let expected = error.split("expected ").nth(1).unwrap_or(error);
    let expected = match expected.split(" at line").next().unwrap_or(expected) {
        "i32" | "i64" | "u32" | "u64" => "an integer",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a string" => "a string",
        "a boolean" => "a boolean",
        "f64" => "a number",
        other if error.starts_with("missing field") => {
            return format!("{other}, which is required");
        }
        other if other.chars().all(char::is_alphanumeric) => "an object",
        other => other,
    };
    let Some(found) = found else {
        return error.to_owned();
    };
    let scalar = matches!(found, Value::Bool(_) | Value::Number(_));
    let as_written = document.places.plain_text(field);
    let text = match found {
        Value::String(text) => format!("the string {text:?}"),
        _ if scalar => format!(
            "the {} {}",
            kind_of(found),
            as_written.unwrap_or(&found.to_string())
        ),
        other => kind_of(other).to_owned(),
    };
    if scalar && expected == "a string" {
        let quoted = as_written.map_or_else(|| found.to_string(), str::to_owned);
        return format!("found {text}, expected a string: put it in quotes, \"{quoted}\"");
    }
    format!("found {text}, expected {expected}")
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

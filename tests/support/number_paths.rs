//! Paths of the numbers in a document, which tests replace by those at the ends of their types.

use serde_json::Value;

/// Returns the JSON pointers to all numbers of a document, and to texts that begin as one.
pub(crate) fn number_paths(document: &Value) -> Vec<String> {
    let mut paths = vec![];
    add_paths(document, "", &mut paths);
    paths
}

fn add_paths(value: &Value, at: &str, paths: &mut Vec<String>) {
    match value {
        Value::Number(_) => paths.push(at.to_owned()),
        Value::String(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
            paths.push(at.to_owned());
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                add_paths(item, &format!("{at}/{index}"), paths);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                add_paths(field, &format!("{at}/{name}"), paths);
            }
        }
        _ => {}
    }
}

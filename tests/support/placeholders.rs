//! What the reference's records have in place of what is another each time.

#![allow(dead_code, reason = "each test program uses a part of it")]

use serde_json::{Value, json};

/// A placeholder in place of the digits of every `sha256:…`. What is shorter or longer than a digest is
/// none.
pub(crate) fn without_digests(text: &str, placeholder: &str) -> String {
    let mut parts = text.split("sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let digest = part.find(|c: char| !c.is_ascii_hexdigit());
        let (digest, rest) = part.split_at(digest.unwrap_or(part.len()));
        let digest = if digest.len() == 64 {
            placeholder
        } else {
            digest
        };
        format!("{text}sha256:{digest}{rest}")
    })
}

/// `$TIME` in place of every time, which fields are known for by their names.
pub(crate) fn without_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if key.ends_with("Time") || key.ends_with("At") {
                    *inner = json!("$TIME");
                } else {
                    without_times(inner);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_times),
        _ => {}
    }
}

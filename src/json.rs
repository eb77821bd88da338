//! Reading JSON by way of [`serde_json::Value`]. A Pod has some 130 types, and each kind of
//! deserializer that reads them has code of its own for every one: manifests are read from values too,
//! so this adds none.

use serde::de::DeserializeOwned;

/// Reads a value of a type from JSON.
///
/// # Errors
/// It is not JSON, or not of that type.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_value(serde_json::from_slice(text)?)
}

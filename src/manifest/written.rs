//! A manifest's document as it was written, in little memory.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value;
use serde_json::value::RawValue;

/// Document as JSON without blanks and with the fields of each object sorted, so that documents that say the same are
/// equal. Copies are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct WrittenDocument(Arc<str>);

impl WrittenDocument {
    /// Returns its JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what it says.
    #[must_use]
    pub fn to_value(&self) -> Value {
        // It was a value.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<&Value> for WrittenDocument {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Default for WrittenDocument {
    fn default() -> Self {
        Self::from(&Value::Null)
    }
}

impl fmt::Debug for WrittenDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for WrittenDocument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json: &RawValue = serde_json::from_str(&self.0).map_err(ser::Error::custom)?;
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WrittenDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer).map_err(de::Error::custom)?;
        Ok(Self::from(&value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_written_and_read_as_the_json_that_it_is() {
        let value = json!({"b": [1, 2.5, "\u{e9}\n"], "a": {"d": null, "c": -7}});
        let document = WrittenDocument::from(&value);
        assert_eq!(
            document.as_str(),
            r#"{"a":{"c":-7,"d":null},"b":[1,2.5,"é\n"]}"#
        );
        assert_eq!(document.to_value(), value);
        let around = json!({"document": &value}).to_string();
        let written = serde_json::to_string(&[&document]).unwrap();
        assert_eq!(written, format!("[{document:?}]"));
        let shuffled = r#"{ "b": [ 1, 2.5, "\u00e9\n" ], "a": { "d": null, "c": -7 } }"#;
        let read: WrittenDocument = serde_json::from_str(shuffled).unwrap();
        assert_eq!(read, document);
        let by_value: Value = serde_json::from_str(&around).unwrap();
        let by_value: WrittenDocument =
            serde_json::from_value(by_value["document"].clone()).unwrap();
        assert_eq!(by_value, document);
        assert_eq!(serde_json::to_value(&document).unwrap(), value);
    }
}

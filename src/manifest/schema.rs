//! The schema of a Pod: which fields each of its objects has, and of which types.
//!
//! It is asked from `k8s-openapi` itself: each of its types says what it is made of when it is read, so
//! a reader that answers every question with one sample of each goes through all of them. Nothing here
//! has to be kept up by hand.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::Pod;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Value, json};

/// A text that every type understands that is written as one: times are the pickiest.
const SAMPLE: &str = "2000-01-01T00:00:00Z";

/// Schema of a value.
#[derive(Debug)]
pub(super) enum Schema {
    Text,
    Boolean,
    /// From the least to the most.
    Integer(i64, i64),
    IntOrString,
    Quantity,
    Time,
    /// Whatever it is.
    Any,
    List(Box<Schema>),
    /// Of any names to values of one schema.
    Map(Box<Schema>),
    Object(ObjectSchema),
}

/// An object of the API.
#[derive(Debug)]
pub(super) struct ObjectSchema {
    /// As the API reference calls it: `PodSpec`, `Container`.
    pub(super) name: &'static str,
    /// Its fields, sorted.
    pub(super) fields: Vec<(&'static str, Schema)>,
}

impl ObjectSchema {
    fn of(name: &'static str, mut fields: Vec<(&'static str, Schema)>) -> Self {
        fields.sort_by_key(|(name, _)| *name);
        Self { name, fields }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Schema> {
        let found = self.fields.iter().find(|(field, _)| *field == name);
        found.map(|(_, schema)| schema)
    }
}

impl Schema {
    /// The object that stands here, or the one of which this is a list.
    pub(super) fn object(&self) -> Option<&ObjectSchema> {
        match self {
            Self::Object(object) => Some(object),
            Self::List(item) => item.object(),
            _ => None,
        }
    }

    /// A value of this schema that says nothing.
    pub(super) fn empty(&self) -> Value {
        match self {
            Self::Text | Self::IntOrString => "".into(),
            Self::Boolean => false.into(),
            Self::Integer(..) => 0.into(),
            Self::Quantity => "0".into(),
            Self::Time => SAMPLE.into(),
            Self::Any => Value::Null,
            Self::List(_) => json!([]),
            Self::Map(_) | Self::Object(_) => json!({}),
        }
    }
}

/// Returns the schema of a whole Pod.
pub(super) fn pod() -> &'static ObjectSchema {
    static POD: LazyLock<ObjectSchema> = LazyLock::new(|| {
        let mut schema = Schema::Any;
        // What this gives depends on the version of k8s-openapi alone, and every test of manifests
        // comes by here.
        Pod::deserialize(Sketch::of("", &mut schema)).expect("a Pod of samples is a Pod");
        match schema {
            Schema::Object(object) => object,
            other => unreachable!("a Pod is {other:?}"),
        }
    });
    &POD
}

/// Answers what a type asks for, and records what it was.
struct Sketch<'a> {
    field: &'static str,
    into: &'a mut Schema,
}

impl<'a> Sketch<'a> {
    fn of(field: &'static str, into: &'a mut Schema) -> Self {
        Self { field, into }
    }

    fn text<'de, V: Visitor<'de>>(self, schema: Schema, visitor: V) -> Result<V::Value, Error> {
        *self.into = schema;
        visitor.visit_str(match self.field {
            "apiVersion" => "v1",
            "kind" => "Pod",
            _ => SAMPLE,
        })
    }
}

impl<'de> Deserializer<'de> for Sketch<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.text(Schema::IntOrString, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.text(Schema::Text, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.text(Schema::Text, visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.into = Schema::Boolean;
        visitor.visit_bool(false)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.into = Schema::Integer(i32::MIN.into(), i32::MAX.into());
        visitor.visit_i32(0)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.into = Schema::Integer(i64::MIN, i64::MAX);
        visitor.visit_i64(0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let value = visitor.visit_newtype_struct(Sketch::of(self.field, self.into))?;
        match name {
            "Quantity" => *self.into = Schema::Quantity,
            "Time" | "MicroTime" => *self.into = Schema::Time,
            "FieldsV1" => *self.into = Schema::Any,
            _ => {}
        }
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Schema::Any;
        let value = visitor.visit_seq(One(Some(&mut item)))?;
        *self.into = Schema::List(Box::new(item));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = Schema::Any;
        let value = visitor.visit_map(One(Some(&mut item)))?;
        *self.into = Schema::Map(Box::new(item));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut fields = vec![];
        let value = visitor.visit_map(Fields {
            names: names.iter(),
            next: "",
            into: &mut fields,
        })?;
        *self.into = Schema::Object(ObjectSchema::of(name, fields));
        Ok(value)
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

/// A list or map of one item.
struct One<'a>(Option<&'a mut Schema>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let item = self.0.take();
        item.map(|item| seed.deserialize(Sketch::of("", item)))
            .transpose()
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let key: StrDeserializer<'_, Error> = "".into_deserializer();
        let more = self.0.is_some();
        more.then(|| seed.deserialize(key)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut none = Schema::Any;
        seed.deserialize(Sketch::of("", self.0.take().unwrap_or(&mut none)))
    }
}

/// Every field of an object.
struct Fields<'a> {
    names: std::slice::Iter<'static, &'static str>,
    next: &'static str,
    into: &'a mut Vec<(&'static str, Schema)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.next = name;
        let key: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut schema = Schema::Any;
        let value = seed.deserialize(Sketch::of(self.next, &mut schema))?;
        self.into.push((self.next, schema));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(path: &[&str]) -> &'static Schema {
        let (last, around) = path.split_last().unwrap();
        let object = around.iter().fold(pod(), |object, name| {
            object.field(name).and_then(Schema::object).unwrap()
        });
        object.field(last).unwrap()
    }

    #[test]
    fn every_kind_of_value_is_recognised() {
        let i32s =
            |s: &Schema| matches!(s, Schema::Integer(_, most) if *most == i64::from(i32::MAX));
        assert!(matches!(schema(&["kind"]), Schema::Text));
        assert!(matches!(schema(&["spec", "hostPID"]), Schema::Boolean));
        assert!(i32s(schema(&["spec", "priority"])));
        assert!(
            matches!(schema(&["spec", "overhead"]), Schema::Map(q) if matches!(**q, Schema::Quantity))
        );
        let probe = ["spec", "containers", "livenessProbe"];
        let port = [&probe[..], &["httpGet", "port"]].concat();
        assert!(matches!(schema(&port), Schema::IntOrString));
        let grace = [&probe[..], &["terminationGracePeriodSeconds"]].concat();
        assert!(matches!(schema(&grace), Schema::Integer(_, i64::MAX)));
        assert!(matches!(
            schema(&["metadata", "creationTimestamp"]),
            Schema::Time
        ));
        assert!(matches!(
            schema(&["metadata", "managedFields", "fieldsV1"]),
            Schema::Any
        ));
        assert!(
            matches!(schema(&["spec", "containers", "args"]), Schema::List(t) if matches!(**t, Schema::Text))
        );
    }
}

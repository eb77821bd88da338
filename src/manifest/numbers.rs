//! Numbers of a Pod: the fixture of the tests that put the least and the most into each has all of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{Treatment, treatment};
use super::schema::{ObjectSchema, Schema, pod};

const FIXTURE: &str = include_str!("../../tests/life/numbers.yaml");

/// Objects of whose fields nothing is read.
const UNREAD: [&str; 2] = ["PodStatus", "ManagedFieldsEntry"];

type NumberFields = BTreeSet<(&'static str, &'static str)>;

fn is_number(schema: &Schema) -> bool {
    match schema {
        Schema::Integer(..) | Schema::Quantity | Schema::IntOrString => true,
        Schema::List(item) | Schema::Map(item) => is_number(item),
        _ => false,
    }
}

fn is_read(object: &ObjectSchema, field: &str) -> bool {
    !UNREAD.contains(&object.name)
        && !matches!(treatment(object.name, field), Treatment::Refused(reason) if reason != "not supported")
}

/// Every field that is a number, a list of numbers or a map of them, by the object that has it.
fn numbers(
    object: &'static ObjectSchema,
    seen: &mut BTreeSet<&'static str>,
    into: &mut NumberFields,
) {
    if !seen.insert(object.name) {
        return;
    }
    for (field, schema) in object.fields.iter().filter(|(f, _)| is_read(object, f)) {
        if is_number(schema) {
            into.insert((object.name, field));
        } else if let Some(inner) = schema.object() {
            numbers(inner, seen, into);
        }
    }
}

/// Those that a document has.
fn given(object: &'static ObjectSchema, value: &Value, into: &mut NumberFields) {
    for (field, schema) in &object.fields {
        let value = &value[*field];
        if value.is_null() {
            continue;
        }
        if is_number(schema) {
            into.insert((object.name, field));
        } else if let Some(inner) = schema.object() {
            let items = value.as_array().map_or(std::slice::from_ref(value), |v| v);
            for item in items {
                given(inner, item, into);
            }
        }
    }
}

#[test]
fn the_fixture_of_numbers_has_every_number_of_a_pod() {
    let (mut expected, mut found) = (NumberFields::new(), NumberFields::new());
    numbers(pod(), &mut BTreeSet::new(), &mut expected);
    let document: Value = serde_yaml::from_str(FIXTURE).unwrap();
    given(pod(), &document, &mut found);
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "not in the fixture: {missing:?}");
}

//! Numbers of a Pod: the fixture of the tests that put the least and the most into each has all of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{Treatment, treatment};
use super::shape::{Object, Shape, pod};

const FIXTURE: &str = include_str!("../../tests/life/numbers.yaml");

/// Objects of whose fields nothing is read.
const UNREAD: [&str; 2] = ["PodStatus", "ManagedFieldsEntry"];

type Fields = BTreeSet<(&'static str, &'static str)>;

fn is_number(shape: &Shape) -> bool {
    match shape {
        Shape::Integer(..) | Shape::Quantity | Shape::IntOrString => true,
        Shape::List(item) | Shape::Map(item) => is_number(item),
        _ => false,
    }
}

fn is_read(object: &Object, field: &str) -> bool {
    !UNREAD.contains(&object.name)
        && !matches!(treatment(object.name, field), Treatment::Refused(reason) if reason != "not supported")
}

/// Every field that is a number, a list of numbers or a map of them, by the object that has it.
fn numbers(object: &'static Object, seen: &mut BTreeSet<&'static str>, into: &mut Fields) {
    if !seen.insert(object.name) {
        return;
    }
    for (field, shape) in object.fields.iter().filter(|(f, _)| is_read(object, f)) {
        if is_number(shape) {
            into.insert((object.name, field));
        } else if let Some(inner) = shape.object() {
            numbers(inner, seen, into);
        }
    }
}

/// Those that a document has.
fn given(object: &'static Object, value: &Value, into: &mut Fields) {
    for (field, shape) in &object.fields {
        let value = &value[*field];
        if value.is_null() {
            continue;
        }
        if is_number(shape) {
            into.insert((object.name, field));
        } else if let Some(inner) = shape.object() {
            let items = value.as_array().map_or(std::slice::from_ref(value), |v| v);
            for item in items {
                given(inner, item, into);
            }
        }
    }
}

#[test]
fn the_fixture_of_numbers_has_every_number_of_a_pod() {
    let (mut expected, mut found) = (Fields::new(), Fields::new());
    numbers(pod(), &mut BTreeSet::new(), &mut expected);
    let document: Value = serde_yaml::from_str(FIXTURE).unwrap();
    given(pod(), &document, &mut found);
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "not in the fixture: {missing:?}");
}

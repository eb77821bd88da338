//! Our contract in `proto/` is the CRI v1 contract: held against the wire table, line by line.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet,
};

const TABLE: &str = include_str!("cri-v1-wire.txt");
const OURS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri_v1.descriptor"));

/// Every fact of the table, as one line with its context: `message Mount / 3 readonly: bool`.
fn facts_of_the_table() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let mut context = "";
    for line in TABLE
        .lines()
        .filter(|l| !l.starts_with('#') && !l.trim().is_empty())
    {
        if line.starts_with(' ') {
            facts.insert(format!("{context} / {}", line.trim()));
        } else {
            context = line.trim();
            facts.insert(context.to_owned());
        }
    }
    facts
}

fn facts_of_our_contract() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(OURS).unwrap();
    let [file]: [FileDescriptorProto; 1] = set.file.try_into().unwrap();
    assert_eq!(file.package(), "runtime.v1");
    let mut facts = BTreeSet::new();
    for service in &file.service {
        let context = format!("service runtime.v1.{}", service.name());
        facts.insert(context.clone());
        for method in &service.method {
            assert!(!method.client_streaming(), "{}", method.name());
            let stream = if method.server_streaming() {
                "stream "
            } else {
                ""
            };
            let (input, output) = (local(method.input_type()), local(method.output_type()));
            let name = method.name();
            facts.insert(format!("{context} / {name}({input}) -> {stream}{output}"));
        }
    }
    for message in &file.message_type {
        add_message(&mut facts, message);
    }
    for each in &file.enum_type {
        facts.insert(enum_fact(each.name(), each));
    }
    facts
}

fn add_message(facts: &mut BTreeSet<String>, message: &DescriptorProto) {
    let context = format!("message {}", message.name());
    facts.insert(context.clone());
    for field in &message.field {
        let kind = field_type(message, field);
        facts.insert(format!(
            "{context} / {} {}: {kind}",
            field.number(),
            field.name()
        ));
    }
    for each in &message.enum_type {
        facts.insert(enum_fact(
            &format!("{}.{}", message.name(), each.name()),
            each,
        ));
    }
}

fn enum_fact(name: &str, each: &EnumDescriptorProto) -> String {
    let values = each
        .value
        .iter()
        .map(|v| format!("{}={}", v.name(), v.number()));
    format!("enum {name}: {}", values.collect::<Vec<_>>().join(", "))
}

fn field_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let entry = |m: &&DescriptorProto| {
        let is_map = m
            .options
            .as_ref()
            .is_some_and(prost_types::MessageOptions::map_entry);
        is_map && local(field.type_name()) == m.name()
    };
    if let Some(entry) = message.nested_type.iter().find(entry) {
        let [key, value] = [0, 1].map(|i| scalar(&entry.field[i]));
        return format!("map<{key}, {value}>");
    }
    match field.label() {
        Label::Repeated => format!("repeated {}", scalar(field)),
        _ => scalar(field),
    }
}

fn scalar(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()).to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn local(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

#[test]
fn our_contract_is_the_wire_table_field_by_field() {
    let (table, ours) = (facts_of_the_table(), facts_of_our_contract());
    assert!(
        table.len() > 600,
        "the table was not read: {} facts",
        table.len()
    );
    let missing: Vec<_> = table.difference(&ours).collect();
    let added: Vec<_> = ours.difference(&table).collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "missing: {missing:#?}\nadded: {added:#?}"
    );
}

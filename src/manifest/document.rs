//! Bytes to documents: JSON values, and where in the text each of their fields stands.
//!
//! YAML is read by `serde_yaml`, after a check of what it holds: a text may be hostile, and what reading
//! it takes is bounded whatever it says. The kubelet reads plain scalars by the rules of YAML 1.1,
//! where `0644` is an octal number and `yes` a boolean, so these are corrected afterwards.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "positions and counts in a text whose size is bounded"
)]

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::spans::{
    self, MAX_DEPTH, MAX_VALUES, SpanNode, not_yaml, number, too_deep, too_many_values,
};
use super::{Problem, hints};

pub(crate) use super::spans::Spans;

/// More open brackets than any Pod has; the time that YAML's parser takes grows with their square.
const MAX_BRACKETS: usize = 500;
/// As many bytes as all texts in a document may have, those that aliases repeat counted each time.
const MAX_TEXT: usize = 10 << 20;
/// As many Pods, containers and volumes as a file may have. Each takes some thousand bytes, even an
/// empty one.
const MAX_PARTS: usize = 10_000;
/// The lists of those.
const PARTS: [&str; 5] = [
    "containers",
    "ephemeralContainers",
    "initContainers",
    "items",
    "volumes",
];

/// A document, or one item of a list in it, and where its fields stand.
#[derive(Debug)]
pub(crate) struct Document {
    /// Parsed value.
    pub(crate) value: Value,
    /// Spans of its fields in the text.
    pub(crate) spans: Spans,
}

/// Reads the one document of a file.
///
/// # Errors
/// The bytes are no text, no YAML or JSON, or not exactly one document, or a field stands twice.
/// `kind` says what should be there.
pub(crate) fn read_one(bytes: &[u8], kind: &str) -> Result<Document, Vec<Problem>> {
    only(read(bytes)?, kind)
}

/// The one of these documents.
///
/// # Errors
/// It is not exactly one, or a field stands twice. `kind` says what should be there.
pub(super) fn only(mut documents: Vec<Document>, kind: &str) -> Result<Document, Vec<Problem>> {
    if documents.len() > 1 {
        let message = format!("found more than one document, expected one {kind} in a file");
        return Err(vec![Problem::of_file(message)]);
    }
    let document = documents.pop().ok_or_else(|| {
        let message = format!("found nothing in the file, expected a {kind}");
        vec![Problem::of_file(message)]
    })?;
    let repeated = document.spans.repeated(|_| true);
    if repeated.is_empty() {
        Ok(document)
    } else {
        Err(repeated)
    }
}

/// Reads all documents, but for those that say nothing. Of a field that stands twice the last is
/// taken; the document's spans show that it does.
///
/// # Errors
/// The bytes are no text, or no YAML or JSON, or more than is read.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Document>, Vec<Problem>> {
    let documents = text(bytes).and_then(read_text);
    let mut documents = documents.map_err(|problem| vec![problem])?;
    let parts = documents.iter().map(|d| 1 + parts_in(&d.value));
    let parts: usize = parts.sum();
    if parts > MAX_PARTS {
        let message =
            format!("found {parts} Pods, containers and volumes, expected at most {MAX_PARTS}");
        return Err(vec![Problem::of_file(message)]);
    }
    documents.retain(|document| !document.value.is_null());
    Ok(documents)
}

fn text(bytes: &[u8]) -> Result<&str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|e| not_text(bytes, e.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.find('\0') {
        Some(at) => Err(not_text(text.as_bytes(), at)),
        None => Ok(text),
    }
}

fn not_text(bytes: &[u8], at: usize) -> Problem {
    let before = &bytes[..at];
    let line = before.split(|b| *b == b'\n').count();
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    Problem {
        line: number(line),
        column: number(column),
        ..Problem::of_file("found bytes that are no text, expected a Pod in YAML or JSON")
    }
}

fn read_text(text: &str) -> Result<Vec<Document>, Problem> {
    let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
    let yaml = || read_yaml(text).map_err(|problem| hints::explained(text, problem));
    if !inside.is_some_and(|inside| inside.starts_with(['"', '}'])) {
        return yaml();
    }
    // What YAML alone understands (a comment, a comma too many) is fine as well.
    match read_json(text) {
        Ok(document) => Ok(vec![document]),
        Err(problem) => yaml().map_err(|_| hints::explained(text, problem)),
    }
}

fn read_json(text: &str) -> Result<Document, Problem> {
    let (values, depth) = json_extent(text);
    if depth > MAX_DEPTH {
        return Err(Problem::of_file(too_deep()));
    }
    if values > MAX_VALUES {
        return Err(Problem::of_file(too_many_values()));
    }
    let value = serde_json::from_str(text).map_err(|e| {
        let message = e.to_string();
        // The place stands before the message already.
        let message = message.split(" at line ").next().unwrap_or_default();
        Problem {
            line: number(e.line()),
            column: number(e.column()),
            ..Problem::of_file(format!("not JSON: {message}"))
        }
    })?;
    let spans = spans::of_json(text)?;
    Ok(Document { value, spans })
}

/// Upper bounds of the number of values in a JSON text and of their depth.
fn json_extent(text: &str) -> (usize, usize) {
    let (mut values, mut open, mut depth) = (1, 0usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_json_string(&mut bytes),
            b'[' | b'{' => {
                values += 1;
                open += 1;
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        depth = depth.max(open);
    }
    (values, depth)
}

fn skip_json_string(bytes: &mut std::str::Bytes) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

fn read_yaml(text: &str) -> Result<Vec<Document>, Problem> {
    let scan = spans::scan(text)?;
    if let Some((problem, rest)) = scan.lost {
        // Every value takes a byte.
        let values = scan.values + rest.len();
        if values > MAX_VALUES || brackets_deep(rest) > MAX_BRACKETS {
            return Err(problem);
        }
    }
    let budget = ValueBudget::default();
    let mut all_spans = scan.documents.into_iter();
    let mut found = vec![];
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Json(&budget).deserialize(document);
        let mut value = value.map_err(|e| yaml_problem(&e))?;
        let spans = all_spans.next().unwrap_or_default();
        correct(&mut value, spans.root());
        found.push(Document { value, spans });
    }
    Ok(found)
}

/// Maximum depth of open brackets anywhere in a text.
fn brackets_deep(text: &str) -> usize {
    let mut open = 0usize;
    let mut most = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

fn yaml_problem(error: &serde_yaml::Error) -> Problem {
    let whole = error.to_string();
    // What serde says of a value shows the value, which may be a Secret's.
    let shows_value = ["invalid value: ", "invalid type: "];
    let shows_value = shows_value.iter().any(|words| whole.contains(words));
    let expected = whole.rsplit_once(", expected ").filter(|_| shows_value);
    let message = match expected {
        Some((_, expected)) => format!("found something else, expected {expected}"),
        None if shows_value => "found a value that cannot be read".to_owned(),
        None => whole,
    };
    let message = message.split(" at line ").next().unwrap_or_default();
    let location = error.location();
    Problem {
        line: location.as_ref().map_or(0, |l| number(l.line())),
        column: location.as_ref().map_or(0, |l| number(l.column())),
        ..Problem::of_file(not_yaml(message))
    }
}

/// Number of values built from a text so far, with aliases expanded.
#[derive(Default)]
struct ValueBudget {
    values: Cell<usize>,
    text: Cell<usize>,
}

impl ValueBudget {
    fn value<E: de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(E::custom(too_many_values()));
        }
        Ok(())
    }

    fn text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        self.text.set(self.text.get() + text.len());
        if self.text.get() > MAX_TEXT {
            let message = format!("found more than {MAX_TEXT} bytes of text with its repetitions");
            return Err(E::custom(message));
        }
        Ok(())
    }
}

/// Builds JSON from a YAML value: merges are resolved, and of several fields of one name the last one
/// counts.
struct Json<'a>(&'a ValueBudget);

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.0.value().map(|()| value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.value().map(|()| value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.value().map(|()| value.into())
    }

    /// Beyond 64 bits an integer is a floating-point number, as for the kubelet.
    #[allow(clippy::cast_precision_loss, reason = "that is what is meant")]
    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    #[allow(clippy::cast_precision_loss, reason = "that is what is meant")]
    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.value()?;
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| E::custom(format!("found {value}, expected a finite number")))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.0.value()?;
        self.0.text(value).map(|()| value.into())
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.0.value().map(|()| Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.value()?;
        let mut list = vec![];
        while let Some(item) = items.next_element_seed(Json(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.0.value()?;
        let mut map = Map::new();
        while let Some(Name(name)) = fields.next_key()? {
            self.0.text(&name)?;
            map.insert(name, fields.next_value_seed(Json(self.0))?);
        }
        match map.remove("<<") {
            None => {}
            Some(Value::Array(all)) => {
                for merged in all {
                    merge(&mut map, merged)?;
                }
            }
            Some(merged) => merge(&mut map, merged)?,
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<Value, A::Error> {
        // Its name is not shown: of a Secret it may be what begins with an exclamation mark.
        let (de::IgnoredAny, _) = value.variant()?;
        let message = "found a tag (!NAME), expected none: put a text that begins with ! in quotes";
        Err(de::Error::custom(message))
    }
}

/// Adds the fields that are not there yet.
fn merge<E: de::Error>(map: &mut Map<String, Value>, merged: Value) -> Result<(), E> {
    let Value::Object(merged) = merged else {
        return Err(E::custom("found no fields behind <<, expected fields"));
    };
    for (name, value) in merged {
        map.entry(name).or_insert(value);
    }
    Ok(())
}

/// A field's name. Numbers and booleans are taken by their text, as JSON has to have them.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameVisitor).map(Self)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// Counts Pods, containers and volumes in a value, empty ones included.
fn parts_in(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            let fields = map.iter().map(|(name, value)| {
                let list = value.as_array().filter(|_| PARTS.contains(&name.as_str()));
                list.map_or(0, Vec::len) + parts_in(value)
            });
            fields.sum()
        }
        Value::Array(list) => list.iter().map(parts_in).sum(),
        _ => 0,
    }
}

/// Reads plain scalars as YAML 1.1 does where that differs.
fn correct(value: &mut Value, node: &SpanNode) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(node) = node.value_of(name) {
                    correct(inner, node);
                }
            }
        }
        Value::Array(list) => {
            for (inner, node) in list.iter_mut().zip(node.items()) {
                correct(inner, node);
            }
        }
        Value::String(_) => {
            if let Some(meant) = node.plain().and_then(yaml_1_1) {
                *value = meant;
            }
        }
        _ => {}
    }
}

fn yaml_1_1(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(Value::Bool(false)),
        _ => {}
    }
    let sign = |text: &str| text.strip_prefix(['-', '+']).map_or(0, |_| 1);
    if !text[sign(text)..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let text = text.replace('_', "");
    let unsigned = &text[sign(&text)..];
    whole(&text, unsigned).or_else(|| fraction(&text, unsigned))
}

/// An integer: in octal behind a zero.
fn whole(text: &str, unsigned: &str) -> Option<Value> {
    let lower = unsigned.to_ascii_lowercase();
    let (digits, base) = match lower.split_at_checked(2) {
        Some(("0x", digits)) => (digits, 16),
        Some(("0o", digits)) => (digits, 8),
        Some(("0b", digits)) => (digits, 2),
        _ if lower.len() > 1 && lower.starts_with('0') => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let negative = text.starts_with('-');
    // A second sign is none.
    let number = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    let number = number.then(|| i64::from_str_radix(digits, base).ok())?;
    let number = number.map(|n| if negative { n.saturating_neg() } else { n });
    number.map(|n| Value::Number(n.into()))
}

/// A number with or without a fraction and a power of ten; also one that looks octal and is not, `08`.
fn fraction(text: &str, unsigned: &str) -> Option<Value> {
    let known = |c: char| c.is_ascii_digit() || ".eE+-".contains(c);
    let number = text.parse().ok().filter(|_| unsigned.chars().all(known));
    number.and_then(Number::from_f64).map(Value::Number)
}

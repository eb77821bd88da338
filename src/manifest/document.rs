//! Bytes to documents: JSON values, and where in the text each of their fields stands.
//!
//! YAML is read by `serde_yaml`; a second pass over the parser's events notes the places. The kubelet
//! reads plain scalars by the rules of YAML 1.1, where `0644` is an octal number and `yes` a boolean,
//! so these are corrected after the first pass.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::Deserialize;
use serde::de::{self, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::{Problem, path};

/// More open brackets than any Pod has; the time that YAML's parser takes grows with their square.
const MAX_BRACKETS: usize = 500;

/// A document, or one item of a list in it, and where its fields stand.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    /// Where it says so.
    pub(crate) places: Places,
}

/// Where each field of a document stands in the text. Fields are named from the document, or from the
/// item of a list that these places are for; problems name them from the whole document.
#[derive(Debug, Default)]
pub(crate) struct Places {
    all: Arc<AllPlaces>,
    /// The path of the item, or empty for the document.
    within: String,
}

#[derive(Debug, Default)]
struct AllPlaces {
    values: HashMap<String, Place>,
    /// Where the field's name stands.
    keys: HashMap<String, Place>,
    /// The fields that stand twice.
    repeated: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Place {
    line: u32,
    column: u32,
    /// The text of a scalar that stands without quotes.
    plain: Option<String>,
}

impl Places {
    /// A problem with a field; it points at the field, or the nearest one around it that is there.
    pub(crate) fn problem(&self, field: impl AsRef<str>, message: impl Into<String>) -> Problem {
        let field = path::join(&self.within, field.as_ref());
        let place = path::ancestors(&field).find_map(|f| self.all.values.get(f));
        problem_at(place, field, message)
    }

    /// A problem with a field's being there at all; it points at the field's name.
    pub(crate) fn problem_with_key(
        &self,
        field: impl AsRef<str>,
        message: impl Into<String>,
    ) -> Problem {
        let whole = path::join(&self.within, field.as_ref());
        match self.all.keys.get(&whole) {
            Some(place) => problem_at(Some(place), whole, message),
            None => self.problem(field, message),
        }
    }

    /// The text of a scalar that stands without quotes in the document.
    pub(super) fn plain_text(&self, field: &str) -> Option<&str> {
        let field = path::join(&self.within, field);
        self.all.values.get(&field)?.plain.as_deref()
    }

    /// A problem for each field below these places that stands twice, of those that `concerns` tells.
    pub(super) fn repeated(&self, concerns: impl Fn(&str) -> bool) -> Vec<Problem> {
        let below = |field: &str| {
            let rest = field.strip_prefix(&self.within);
            rest.is_some_and(|rest| self.within.is_empty() || rest.starts_with(['.', '[']))
        };
        let all = self.all.repeated.iter();
        let concerned = all.filter(|field| below(field) && concerns(field));
        let problem = |field: &String| {
            let message = "the field is given twice, expected once";
            problem_at(self.all.keys.get(field), field.clone(), message)
        };
        concerned.map(problem).collect()
    }

    /// The places for what stands below a field.
    pub(super) fn below(&self, field: &str) -> Self {
        Self {
            all: Arc::clone(&self.all),
            within: path::join(&self.within, field),
        }
    }
}

fn problem_at(place: Option<&Place>, field: String, message: impl Into<String>) -> Problem {
    let place = place.cloned().unwrap_or_default();
    Problem {
        line: place.line,
        column: place.column,
        field,
        message: message.into(),
    }
}

/// Reads the one document of a file.
///
/// # Errors
/// The bytes are no text, no YAML or JSON, or not exactly one document, or a field stands twice.
/// `kind` says what should be there.
pub(crate) fn read_one(bytes: &[u8], kind: &str) -> Result<Document, Vec<Problem>> {
    let mut documents = read(bytes)?;
    if documents.len() > 1 {
        let message = format!("found more than one document, expected one {kind} in a file");
        return Err(vec![Problem::of_file(message)]);
    }
    let document = documents.pop().ok_or_else(|| {
        let message = format!("found nothing in the file, expected a {kind}");
        vec![Problem::of_file(message)]
    })?;
    let repeated = document.places.repeated(|_| true);
    if repeated.is_empty() {
        Ok(document)
    } else {
        Err(repeated)
    }
}

/// Reads all documents, but for those that say nothing. Of a field that stands twice the last is
/// taken; the document's places tell that it does.
///
/// # Errors
/// The bytes are no text, or no YAML or JSON.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Document>, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|e| vec![not_text(bytes, e.valid_up_to())])?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(at) = text.find('\0') {
        return Err(vec![not_text(bytes, at)]);
    }
    if brackets_deep(text) > MAX_BRACKETS {
        let message = "found brackets within brackets without end, expected a Pod";
        return Err(vec![Problem::of_file(message)]);
    }
    let json = text.trim_start().strip_prefix('{').map(str::trim_start);
    let json = json.is_some_and(|inside| inside.starts_with(['"', '}']));
    let yaml = || read_yaml(text);
    let values = if json {
        // What YAML alone understands (a comment, a comma too many) is fine as well.
        read_json(text)
            .map(|value| vec![value])
            .or_else(|problem| yaml().map_err(|_| problem))
    } else {
        yaml()
    };
    // Only what the first pass read, and so found small and shallow enough, is gone through again.
    let mut all_places = values.as_ref().map(|_| places(text)).into_iter().flatten();
    let mut documents = vec![];
    for mut value in values? {
        let places = Places {
            all: Arc::new(all_places.next().unwrap_or_default()),
            within: String::new(),
        };
        if !json {
            correct(&mut value, "", &places);
        }
        if !value.is_null() {
            documents.push(Document { value, places });
        }
    }
    Ok(documents)
}

/// How many brackets stand open at most, wherever they stand.
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

fn not_text(bytes: &[u8], at: usize) -> Problem {
    let before = &bytes[..at];
    let line = before.split(|b| *b == b'\n').count();
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    Problem {
        line: number(line),
        column: number(column),
        field: String::new(),
        message: "found bytes that are no text, expected a Pod in YAML or JSON".to_owned(),
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn read_json(text: &str) -> Result<Value, Vec<Problem>> {
    serde_json::from_str(text).map_err(|e| {
        let message = e.to_string();
        // The place stands before the message already.
        let message = message.split(" at line ").next().unwrap_or_default();
        vec![Problem {
            line: number(e.line()),
            column: number(e.column()),
            field: String::new(),
            message: format!("not JSON: {message}"),
        }]
    })
}

fn read_yaml(text: &str) -> Result<Vec<Value>, Vec<Problem>> {
    let mut found = vec![];
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Lenient::deserialize(document);
        let Lenient(mut value) = value.map_err(|e| vec![yaml_problem(&e)])?;
        value.apply_merge().map_err(|e| vec![yaml_problem(&e)])?;
        let value = serde_json::to_value(value)
            .map_err(|e| vec![Problem::of_file(format!("not a Pod: {e}"))])?;
        found.push(value);
    }
    Ok(found)
}

/// A YAML value, in which the last of several fields of one name counts.
struct Lenient(serde_yaml::Value);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor).map(Self)
    }
}

struct LenientVisitor;

impl<'de> Visitor<'de> for LenientVisitor {
    type Value = serde_yaml::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(serde_yaml::Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(serde_yaml::Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = vec![];
        while let Some(Lenient(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(serde_yaml::Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut map = serde_yaml::Mapping::new();
        while let Some((Lenient(key), Lenient(value))) = fields.next_entry()? {
            map.insert(key, value);
        }
        Ok(serde_yaml::Value::Mapping(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, value: A) -> Result<Self::Value, A::Error> {
        let (tag, _) = value.variant::<String>()?;
        let tag = tag.trim_start_matches('!');
        Err(de::Error::custom(format!(
            "found the tag !{tag}, expected none"
        )))
    }
}

fn yaml_problem(error: &serde_yaml::Error) -> Problem {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let location = error.location();
    Problem {
        line: location.as_ref().map_or(0, |l| number(l.line())),
        column: location.as_ref().map_or(0, |l| number(l.column())),
        field: String::new(),
        message: format!("not YAML: {message}"),
    }
}

/// What the parser is inside of.
enum Frame {
    List { field: String, next: usize },
    Map { field: String, key: Option<String> },
}

/// Where everything stands in each document, and the fields that stand twice. As far as this second
/// parser can follow: what it cannot read has no place.
fn places(text: &str) -> Vec<AllPlaces> {
    let mut documents = vec![];
    let mut places = AllPlaces::default();
    let mut frames: Vec<Frame> = vec![];
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else {
            break;
        };
        let mut place = Place {
            line: number(span.start.line()),
            column: number(span.start.col() + 1),
            plain: None,
        };
        match event {
            Event::Scalar(text, style, _, tag) => {
                if let Some(Frame::Map {
                    field,
                    key: key @ None,
                }) = frames.last_mut()
                {
                    let field = path::key(field, &text);
                    if places.keys.insert(field.clone(), place).is_some() {
                        places.repeated.push(field);
                    }
                    *key = Some(text.into_owned());
                } else {
                    if style == ScalarStyle::Plain && tag.is_none() {
                        place.plain = Some(text.into_owned());
                    }
                    let field = enter(&mut frames);
                    places.values.insert(field, place);
                }
            }
            Event::Alias(_) => {
                enter(&mut frames);
            }
            Event::DocumentEnd => documents.push(std::mem::take(&mut places)),
            Event::SequenceStart(..) => {
                let field = enter(&mut frames);
                places.values.insert(field.clone(), place);
                frames.push(Frame::List { field, next: 0 });
            }
            Event::MappingStart(..) => {
                let field = enter(&mut frames);
                places.values.insert(field.clone(), place);
                frames.push(Frame::Map { field, key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                frames.pop();
            }
            _ => {}
        }
    }
    documents.push(places);
    documents
}

/// The path of the value that begins here.
fn enter(frames: &mut [Frame]) -> String {
    match frames.last_mut() {
        None => String::new(),
        Some(Frame::List { field, next }) => {
            *next += 1;
            path::index(field, *next - 1)
        }
        Some(Frame::Map { field, key }) => match key.take() {
            Some(key) => path::key(field, &key),
            // A key that is itself a list or map; no Pod has such.
            None => String::new(),
        },
    }
}

/// Reads plain scalars as YAML 1.1 does where that differs.
fn correct(value: &mut Value, field: &str, places: &Places) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                correct(inner, &path::key(field, name), places);
            }
        }
        Value::Array(list) => {
            for (i, inner) in list.iter_mut().enumerate() {
                correct(inner, &path::index(field, i), places);
            }
        }
        Value::String(_) => {
            if let Some(meant) = places.plain_text(field).and_then(yaml_1_1) {
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
    let digits = text.strip_prefix('0').filter(|d| !d.is_empty())?;
    let octal = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let octal = octal.then(|| i64::from_str_radix(digits, 8).ok()).flatten();
    octal.map(|n| Value::Number(Number::from(n)))
}

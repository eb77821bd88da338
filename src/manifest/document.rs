//! Bytes to one document: a JSON value, and where in the text each of its fields stands.
//!
//! YAML is read by `serde_yaml`; a second pass over the parser's events notes the places. The kubelet
//! reads plain scalars by the rules of YAML 1.1, where `0644` is an octal number and `yes` a boolean,
//! so these are corrected after the first pass.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{Problem, path};

/// More open brackets than any Pod has; the time that YAML's parser takes grows with their square.
const MAX_BRACKETS: usize = 500;

/// A document and where its fields stand.
#[derive(Debug)]
pub(super) struct Document {
    /// What it says.
    pub(super) value: Value,
    /// Where it says so.
    pub(super) places: Places,
}

/// Where each field of a document stands in the text.
#[derive(Debug, Default)]
pub(super) struct Places {
    values: HashMap<String, Place>,
    /// Where the field's name stands.
    keys: HashMap<String, Place>,
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
    pub(super) fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let field = field.into();
        let place = path::ancestors(&field).find_map(|f| self.values.get(f));
        problem_at(place, field, message)
    }

    /// A problem with a field's being there at all; it points at the field's name.
    pub(super) fn problem_with_key(
        &self,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Problem {
        let field = field.into();
        match self.keys.get(&field) {
            Some(place) => problem_at(Some(place), field, message),
            None => self.problem(field, message),
        }
    }

    /// The text of a scalar that stands without quotes in the document.
    pub(super) fn plain_text(&self, field: &str) -> Option<&str> {
        self.values.get(field)?.plain.as_deref()
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

/// Reads the one document of a manifest.
///
/// # Errors
/// The bytes are no text, no YAML or JSON, or not exactly one document.
pub(super) fn read(bytes: &[u8]) -> Result<Document, Vec<Problem>> {
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
    let value = if json {
        // What YAML alone understands (a comment, a comma too many) is fine as well.
        read_json(text).or_else(|problem| yaml().map_err(|_| problem))
    } else {
        yaml()
    };
    let mut value = match value {
        Ok(value) => value,
        // Said better below, with the field's own place.
        Err(problems) if problems.iter().any(is_repetition) => Value::Null,
        Err(problems) => return Err(problems),
    };
    // Only what the first pass read, and so found small and shallow enough, is gone through again.
    let (places, repeated) = places(text);
    if !repeated.is_empty() {
        let message = "the field is given twice, expected once";
        let problem = |field| places.problem_with_key(field, message);
        return Err(repeated.into_iter().map(problem).collect());
    }
    if !json {
        correct(&mut value, "", &places);
    }
    Ok(Document { value, places })
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

fn is_repetition(problem: &Problem) -> bool {
    problem.message.contains("duplicate entry with key")
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

fn read_yaml(text: &str) -> Result<Value, Vec<Problem>> {
    let mut found: Option<Value> = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document);
        let mut value = value.map_err(|e| vec![yaml_problem(&e)])?;
        value.apply_merge().map_err(|e| vec![yaml_problem(&e)])?;
        let value = serde_json::to_value(value)
            .map_err(|e| vec![Problem::of_file(format!("not a Pod: {e}"))])?;
        if value.is_null() {
            continue;
        }
        if found.is_some() {
            let message = "found more than one document, expected one Pod in a file";
            return Err(vec![Problem::of_file(message)]);
        }
        found = Some(value);
    }
    found.ok_or_else(|| {
        vec![Problem::of_file(
            "found nothing in the file, expected a Pod",
        )]
    })
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

/// Where everything stands, and the fields that stand twice. As far as this second parser can follow:
/// what it cannot read has no place.
fn places(text: &str) -> (Places, Vec<String>) {
    let mut places = Places::default();
    let mut repeated = vec![];
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
                        repeated.push(field);
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
            Event::DocumentStart(_) => places = Places::default(),
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
    (places, repeated)
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

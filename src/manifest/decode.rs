//! A document to a Pod: it is gone through beside the [shape](super::shape) of a Pod, so that every
//! field that is unknown, of another type or not carried out is told at once.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::document::Document;
use super::fields::{Treatment, says_something, treatment};
use super::shape::{self, Object, Shape};
use super::spelling::{Meant, Place, Unknown, step, unknown_field};
use super::{MAX_PROBLEMS, Problem, add, hints, path, shown};
use crate::units::quantity;

/// Smaller whole numbers are exact as floating-point ones.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a document says.
pub(super) struct Decoded {
    /// The Pod; what is wrong or refused is left out.
    pub(super) pod: Pod,
    /// What is wrong with types and fields.
    pub(super) problems: Vec<Problem>,
    /// Unknown fields, and those without effect that somebody may expect something of.
    pub(super) warnings: Vec<Problem>,
    /// The fields that were left out for their type, as problems name them.
    pub(super) left_out: Vec<String>,
    /// The objects of which a field was refused, as problems name them.
    pub(super) refused_in: Vec<String>,
    /// What was probably meant by unknown fields.
    pub(super) slips: Vec<Slip>,
}

/// What was probably meant by an unknown field.
#[derive(Debug)]
pub(super) struct Slip {
    /// The field, as its warning names it.
    pub(super) field: String,
    /// The field that was meant, as problems name it.
    pub(super) meant: String,
    /// Whether that is told by its place alone, without the numbers of lists' items.
    pub(super) anywhere: bool,
}

/// The document as a Pod, as far as it can be read.
///
/// # Errors
/// It is not a v1 Pod at all.
pub(super) fn decode(document: &Document) -> Result<Decoded, Vec<Problem>> {
    check_kind(document)?;
    let mut reader = Reader {
        document,
        problems: vec![],
        warnings: vec![],
        left_out: vec![],
        refused_in: vec![],
        slips: vec![],
    };
    let mut value = document.value.clone();
    if let Value::Object(fields) = &mut value {
        reader.object(fields, shape::pod(), &mut At::default());
    }
    let pod = Pod::deserialize(value).map_err(|e| {
        let message = format!("not a Pod: {e}");
        vec![document.places.problem("", message)]
    })?;
    Ok(Decoded {
        pod,
        problems: reader.problems,
        warnings: reader.warnings,
        left_out: reader.left_out,
        refused_in: reader.refused_in,
        slips: reader.slips,
    })
}

/// What is wrong with the metadata of another object than a Pod, and what is unknown or without effect
/// there.
pub(super) fn check_metadata(document: &Document) -> (Vec<Problem>, Vec<Problem>) {
    let mut reader = Reader {
        document,
        problems: vec![],
        warnings: vec![],
        left_out: vec![],
        refused_in: vec![],
        slips: vec![],
    };
    let name = "metadata";
    let shape = shape::pod().field(name);
    let mut value = document.value[name].clone();
    if let Some(shape) = shape.filter(|_| !value.is_null()) {
        let step = Some(step(name, shape));
        At::default().below(name, step, |at| reader.value(&mut value, shape, at));
    }
    (reader.problems, reader.warnings)
}

fn check_kind(document: &Document) -> Result<(), Vec<Problem>> {
    let Value::Object(fields) = &document.value else {
        let found = kind_of(&document.value);
        let hint = document.value.as_str().map_or("", hints::of_template);
        let message =
            format!("found {found}, expected a Pod (an object with apiVersion and kind){hint}");
        return Err(vec![document.places.problem("", message)]);
    };
    let mut problems = vec![];
    for (field, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        let message = match fields.get(field) {
            Some(Value::String(found)) if found == expected => continue,
            Some(found) => format!("found {found}, expected {expected:?}"),
            None => format!("missing, expected {expected:?}"),
        };
        problems.push(document.places.problem(field, message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Where the reader is.
#[derive(Default)]
struct At {
    /// The field's path.
    field: String,
    /// The same without the numbers of lists' items.
    place: Place,
    /// Whether a field around this settles what is done here.
    settled: bool,
    /// Whether a warning covers everything here.
    warned: bool,
}

impl At {
    /// Goes one field down, and back up after that.
    fn below<T>(
        &mut self,
        name: &str,
        step: Option<String>,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let deeper = path::key(&self.field, name);
        self.inside(deeper, step, act)
    }

    fn item<T>(&mut self, index: usize, act: impl FnOnce(&mut Self) -> T) -> T {
        let deeper = path::index(&self.field, index);
        self.inside(deeper, None, act)
    }

    fn inside<T>(
        &mut self,
        deeper: String,
        step: Option<String>,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let around = std::mem::replace(&mut self.field, deeper);
        let (settled, warned) = (self.settled, self.warned);
        let depth = self.place.len();
        self.place.extend(step);
        let done = act(self);
        self.place.truncate(depth);
        (self.settled, self.warned) = (settled, warned);
        self.field = around;
        done
    }
}

struct Reader<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    left_out: Vec<String>,
    refused_in: Vec<String>,
    slips: Vec<Slip>,
}

impl Reader<'_> {
    fn object(&mut self, fields: &mut Map<String, Value>, object: &Object, at: &mut At) {
        let consequence = Self::consequence(fields, object);
        for (name, value) in fields.iter_mut() {
            match object.field(name) {
                Some(shape) => {
                    let step = Some(step(name, shape));
                    at.below(name, step, |at| {
                        self.field(object.name, name, value, shape, at);
                    });
                }
                None if !at.warned && self.warnings.len() <= MAX_PROBLEMS => {
                    let field = path::key(&at.field, name);
                    let Unknown { message, meant } = unknown_field(name, object, &at.place);
                    self.warn(&field, message + consequence);
                    self.slips
                        .extend(meant.map(|meant| self.slip(&field, meant)));
                }
                None => {}
            }
        }
    }

    /// What there is to say beyond a field's being unknown. A volume of no known kind is an emptyDir, as
    /// with the kubelet.
    fn consequence(fields: &Map<String, Value>, object: &Object) -> &'static str {
        let kind = |name: &String| name != "name" && object.field(name).is_some();
        if object.name == "Volume" && !fields.keys().any(kind) {
            ": the volume is an emptyDir"
        } else {
            ""
        }
    }

    fn field(&mut self, object: &str, name: &str, value: &mut Value, shape: &Shape, at: &mut At) {
        if !at.settled && says_something(object, value) {
            let treatment = treatment(object, name);
            at.settled = treatment.is_final();
            match treatment {
                Treatment::Refused(why) => {
                    let problem = self.document.places.problem_with_key(&at.field, why);
                    if self.refused_in.len() < MAX_PROBLEMS {
                        let around = path::parent(&problem.field).to_owned();
                        self.refused_in.push(around);
                    }
                    add(&mut self.problems, problem);
                    *value = Value::Null;
                }
                Treatment::Warned(why) => {
                    self.warn(&at.field, why);
                    at.warned = true;
                }
                _ => {}
            }
        }
        if !value.is_null() {
            self.value(value, shape, at);
        }
    }

    fn value(&mut self, value: &mut Value, shape: &Shape, at: &mut At) {
        match (shape, &mut *value) {
            (Shape::Object(object), Value::Object(fields)) => self.object(fields, object, at),
            (Shape::Map(inner), Value::Object(fields)) => {
                for (name, value) in fields {
                    at.below(name, None, |at| self.item(value, inner, at));
                }
            }
            (Shape::List(inner), Value::Array(list)) => {
                for (i, value) in list.iter_mut().enumerate() {
                    at.item(i, |at| self.item(value, inner, at));
                }
            }
            (Shape::Integer(..), Value::Number(number)) => {
                if let Some(whole) = whole(number) {
                    *value = whole.into();
                }
            }
            (Shape::Quantity, Value::String(text)) => {
                // Blanks around an amount do not count in the API.
                *text = text.trim().to_owned();
            }
            _ => {}
        }
        if let Some(expected) = expectation(value, shape) {
            let message = self.type_error(value, shape, &expected, at);
            let problem = self.document.places.problem(&at.field, message);
            if self.left_out.len() < MAX_PROBLEMS {
                self.left_out.push(problem.field.clone());
            }
            add(&mut self.problems, problem);
            *value = shape.empty();
        }
    }

    /// An item of a list or map, where nothing stands for an empty value, as in the API.
    fn item(&mut self, value: &mut Value, shape: &Shape, at: &mut At) {
        if value.is_null() {
            *value = shape.empty();
        }
        self.value(value, shape, at);
    }

    fn slip(&self, field: &str, meant: Meant) -> Slip {
        let places = &self.document.places;
        let (meant, anywhere) = match meant {
            Meant::Here(name) => (path::key(path::parent(field), name), false),
            Meant::There(path) => (path, true),
        };
        let meant = places.path(&meant);
        Slip {
            field: places.path(field),
            meant: if anywhere {
                path::without_numbers(&meant)
            } else {
                meant
            },
            anywhere,
        }
    }

    fn warn(&mut self, field: &str, message: impl Into<String>) {
        let problem = self.document.places.problem_with_key(field, message);
        add(&mut self.warnings, problem.warning());
    }

    /// Says what was found and what the API wants instead.
    fn type_error(&self, found: &Value, shape: &Shape, expected: &str, at: &At) -> String {
        let scalar = matches!(found, Value::Bool(_) | Value::Number(_));
        let written = self.document.places.plain_text(&at.field);
        let written = written.map_or_else(|| found.to_string(), str::to_owned);
        let text = match found {
            Value::String(text) => format!("the string {}", shown(text)),
            _ if scalar => format!("the {} {written}", kind_of(found)),
            other => kind_of(other).to_owned(),
        };
        let advice = match (shape, found) {
            (_, Value::String(text)) if !hints::of_template(text).is_empty() => {
                hints::of_template(text).to_owned()
            }
            (Shape::Text, _) if scalar => format!(": put it in quotes, \"{written}\""),
            (Shape::Boolean | Shape::Integer(..), Value::String(text)) if is_plain(text, shape) => {
                format!(": take it out of its quotes, {text}")
            }
            _ => String::new(),
        };
        format!("found {text}, expected {expected}{advice}")
    }
}

/// What is expected instead of a value that is not of this shape.
fn expectation(value: &Value, shape: &Shape) -> Option<String> {
    let (fits, expected) = match shape {
        Shape::Any => (true, ""),
        Shape::Text => (value.is_string(), "a string"),
        Shape::Boolean => (value.is_boolean(), "a boolean"),
        Shape::Integer(least, most) => return not_in(value, *least, *most),
        Shape::IntOrString if value.is_string() => (true, ""),
        Shape::IntOrString => return not_in(value, i32::MIN.into(), i32::MAX.into()),
        Shape::Quantity => (is_quantity(value), "a quantity such as 500m, 2 or 64Mi"),
        Shape::Time => (is_time(value), "a time such as 2006-01-02T15:04:05Z"),
        Shape::List(_) => (value.is_array(), "a list"),
        Shape::Map(_) => (value.is_object(), "a mapping"),
        Shape::Object(_) => (value.is_object(), "an object"),
    };
    (!fits).then(|| expected.to_owned())
}

fn not_in(value: &Value, least: i64, most: i64) -> Option<String> {
    match value.as_i64() {
        Some(number) if (least..=most).contains(&number) => None,
        None if !value.is_number() => Some("an integer".to_owned()),
        _ => Some(format!("an integer from {least} to {most}")),
    }
}

/// A number without a fraction, however it is written.
fn whole(number: &Number) -> Option<i64> {
    let float = number.as_f64().filter(|_| number.is_f64());
    let exact = float.filter(|f| f.fract() == 0.0 && f.abs() < EXACT);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "it is known to be whole and small"
    )]
    exact.map(|float| float as i64)
}

fn is_quantity(value: &Value) -> bool {
    match value {
        Value::String(text) => quantity::parse(text).is_some(),
        Value::Number(number) => quantity::parse(&number.to_string()).is_some(),
        _ => false,
    }
}

fn is_time(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.parse::<Timestamp>().is_ok())
}

/// Whether a text in quotes would be of the shape without them.
fn is_plain(text: &str, shape: &Shape) -> bool {
    match shape {
        Shape::Boolean => text.parse::<bool>().is_ok(),
        _ => text.parse::<i64>().is_ok(),
    }
}

pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

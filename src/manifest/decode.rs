//! A document to a Pod: it is gone through beside the [schema](super::schema) of a Pod, so that every
//! field that is unknown, of another type or not implemented is reported at once.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::document::Document;
use super::fields::{Treatment, says_something, treatment};
use super::schema::{self, ObjectSchema, Schema};
use super::spelling::{Meant, ObjectPath, Unknown, step, unknown_field};
use super::{MAX_PROBLEMS, Problem, add, hints, path, shown};
use crate::units::quantity;

/// Smaller whole numbers are exact as floating-point ones.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Result of decoding a document.
pub(super) struct Decoded {
    /// The Pod; what is wrong or refused is left out.
    pub(super) pod: Pod,
    /// Problems with types and fields.
    pub(super) problems: Vec<Problem>,
    /// Unknown fields, and those without effect that somebody may expect something of.
    pub(super) warnings: Vec<Problem>,
    /// The fields that were left out for their type, as problems name them.
    pub(super) left_out: Vec<String>,
    /// The objects of which a field was refused, as problems name them.
    pub(super) refused_in: Vec<String>,
    /// Suggestions for unknown fields.
    pub(super) suggestions: Vec<Suggestion>,
}

/// A suggestion for an unknown field.
#[derive(Debug)]
pub(super) struct Suggestion {
    /// The field, as its warning names it.
    pub(super) field: String,
    /// The field that was meant, as problems name it.
    pub(super) meant: String,
    /// True if the path alone identifies the field, without the indexes of list items.
    pub(super) anywhere: bool,
}

/// The document as a Pod, as far as it can be read.
///
/// # Errors
/// It is not a v1 Pod at all.
pub(super) fn decode(document: &Document) -> Result<Decoded, Vec<Problem>> {
    check_kind(document)?;
    let mut decoder = Decoder::new(document);
    let mut value = document.value.clone();
    if let Value::Object(fields) = &mut value {
        decoder.object(fields, schema::pod(), &mut FieldPosition::default());
    }
    let pod = Pod::deserialize(value).map_err(|e| {
        let message = format!("not a Pod: {e}");
        vec![document.spans.problem("", message)]
    })?;
    Ok(Decoded {
        pod,
        problems: decoder.problems,
        warnings: decoder.warnings,
        left_out: decoder.left_out,
        refused_in: decoder.refused_in,
        suggestions: decoder.suggestions,
    })
}

/// Checks the metadata of an object other than a Pod. Returns errors, and warnings about what is unknown or
/// without effect.
pub(super) fn check_metadata(document: &Document) -> (Vec<Problem>, Vec<Problem>) {
    let mut decoder = Decoder::new(document);
    let name = "metadata";
    let schema = schema::pod().field(name);
    let mut value = document.value[name].clone();
    if let Some(schema) = schema.filter(|_| !value.is_null()) {
        let step = Some(step(name, schema));
        FieldPosition::default().below(name, step, |at| decoder.value(&mut value, schema, at));
    }
    (decoder.problems, decoder.warnings)
}

fn check_kind(document: &Document) -> Result<(), Vec<Problem>> {
    let Value::Object(fields) = &document.value else {
        let found = kind_of(&document.value);
        let hint = document.value.as_str().map_or("", hints::of_template);
        let message =
            format!("found {found}, expected a Pod (an object with apiVersion and kind){hint}");
        return Err(vec![document.spans.problem("", message)]);
    };
    let mut problems = vec![];
    for (field, expected) in [("apiVersion", "v1"), ("kind", "Pod")] {
        let message = match fields.get(field) {
            Some(Value::String(found)) if found == expected => continue,
            Some(found) => format!("found {found}, expected {expected:?}"),
            None => format!("missing, expected {expected:?}"),
        };
        problems.push(document.spans.problem(field, message));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Position of the reader in the document.
#[derive(Default)]
struct FieldPosition {
    /// The field's path.
    field: String,
    /// The same without the numbers of lists' items.
    place: ObjectPath,
    /// True if an enclosing field settles how the fields here are treated.
    settled: bool,
    /// True if one warning covers all fields here.
    warned: bool,
}

impl FieldPosition {
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

struct Decoder<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    left_out: Vec<String>,
    refused_in: Vec<String>,
    suggestions: Vec<Suggestion>,
}

impl<'a> Decoder<'a> {
    fn new(document: &'a Document) -> Self {
        Self {
            document,
            problems: vec![],
            warnings: vec![],
            left_out: vec![],
            refused_in: vec![],
            suggestions: vec![],
        }
    }

    fn object(
        &mut self,
        fields: &mut Map<String, Value>,
        object: &ObjectSchema,
        at: &mut FieldPosition,
    ) {
        let consequence = Self::consequence(fields, object);
        for (name, value) in fields.iter_mut() {
            match object.field(name) {
                Some(schema) => {
                    let step = Some(step(name, schema));
                    at.below(name, step, |at| {
                        self.field(object.name, name, value, schema, at);
                    });
                }
                None if !at.warned && self.warnings.len() <= MAX_PROBLEMS => {
                    let field = path::key(&at.field, name);
                    let Unknown { message, meant } = unknown_field(name, object, &at.place);
                    self.warn(&field, message + consequence);
                    self.suggestions
                        .extend(meant.map(|meant| self.suggestion(&field, meant)));
                }
                None => {}
            }
        }
    }

    /// Returns the text that follows "unknown field". A volume of no known kind is an emptyDir, as with the
    /// kubelet.
    fn consequence(fields: &Map<String, Value>, object: &ObjectSchema) -> &'static str {
        let kind = |name: &String| name != "name" && object.field(name).is_some();
        if object.name == "Volume" && !fields.keys().any(kind) {
            ": the volume is an emptyDir"
        } else {
            ""
        }
    }

    fn field(
        &mut self,
        object: &str,
        name: &str,
        value: &mut Value,
        schema: &Schema,
        at: &mut FieldPosition,
    ) {
        if !at.settled && says_something(object, value) {
            let treatment = treatment(object, name);
            at.settled = treatment.is_final();
            match treatment {
                Treatment::Refused(why) => {
                    let problem = self.document.spans.problem_with_key(&at.field, why);
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
            self.value(value, schema, at);
        }
    }

    fn value(&mut self, value: &mut Value, schema: &Schema, at: &mut FieldPosition) {
        match (schema, &mut *value) {
            (Schema::Object(object), Value::Object(fields)) => self.object(fields, object, at),
            (Schema::Map(inner), Value::Object(fields)) => {
                for (name, value) in fields {
                    at.below(name, None, |at| self.item(value, inner, at));
                }
            }
            (Schema::List(inner), Value::Array(list)) => {
                for (i, value) in list.iter_mut().enumerate() {
                    at.item(i, |at| self.item(value, inner, at));
                }
            }
            (Schema::Integer(..), Value::Number(number)) => {
                if let Some(whole) = whole(number) {
                    *value = whole.into();
                }
            }
            (Schema::Quantity, Value::String(text)) => {
                // Blanks around an amount do not count in the API.
                *text = text.trim().to_owned();
            }
            _ => {}
        }
        if let Some(expected) = expectation(value, schema) {
            let message = self.type_error(value, schema, &expected, at);
            let problem = self.document.spans.problem(&at.field, message);
            if self.left_out.len() < MAX_PROBLEMS {
                self.left_out.push(problem.field.clone());
            }
            add(&mut self.problems, problem);
            *value = schema.empty();
        }
    }

    /// An item of a list or map, where nothing stands for an empty value, as in the API.
    fn item(&mut self, value: &mut Value, schema: &Schema, at: &mut FieldPosition) {
        if value.is_null() {
            *value = schema.empty();
        }
        self.value(value, schema, at);
    }

    fn suggestion(&self, field: &str, meant: Meant) -> Suggestion {
        let spans = &self.document.spans;
        let (meant, anywhere) = match meant {
            Meant::Here(name) => (path::key(path::parent(field), name), false),
            Meant::There(path) => (path, true),
        };
        let meant = spans.path(&meant);
        Suggestion {
            field: spans.path(field),
            meant: if anywhere {
                path::without_numbers(&meant)
            } else {
                meant
            },
            anywhere,
        }
    }

    fn warn(&mut self, field: &str, message: impl Into<String>) {
        let problem = self.document.spans.problem_with_key(field, message);
        add(&mut self.warnings, problem.warning());
    }

    /// Says what was found and what the API wants instead.
    fn type_error(
        &self,
        found: &Value,
        schema: &Schema,
        expected: &str,
        at: &FieldPosition,
    ) -> String {
        let scalar = matches!(found, Value::Bool(_) | Value::Number(_));
        let written = self.document.spans.plain_text(&at.field);
        let written = written.map_or_else(|| found.to_string(), str::to_owned);
        let text = match found {
            Value::String(text) => format!("the string {}", shown(text)),
            _ if scalar => format!("the {} {written}", kind_of(found)),
            other => kind_of(other).to_owned(),
        };
        let advice = match (schema, found) {
            (_, Value::String(text)) if !hints::of_template(text).is_empty() => {
                hints::of_template(text).to_owned()
            }
            (Schema::Text, _) if scalar => format!(": put it in quotes, \"{written}\""),
            (Schema::Boolean | Schema::Integer(..), Value::String(text))
                if is_plain(text, schema) =>
            {
                format!(": take it out of its quotes, {text}")
            }
            _ => String::new(),
        };
        format!("found {text}, expected {expected}{advice}")
    }
}

/// Describes the expected value if the value does not match the schema.
fn expectation(value: &Value, schema: &Schema) -> Option<String> {
    let (fits, expected) = match schema {
        Schema::Any => (true, ""),
        Schema::Text => (value.is_string(), "a string"),
        Schema::Boolean => (value.is_boolean(), "a boolean"),
        Schema::Integer(least, most) => return not_in(value, *least, *most),
        Schema::IntOrString if value.is_string() => (true, ""),
        Schema::IntOrString => return not_in(value, i32::MIN.into(), i32::MAX.into()),
        Schema::Quantity => (is_quantity(value), "a quantity such as 500m, 2 or 64Mi"),
        Schema::Time => (is_time(value), "a time such as 2006-01-02T15:04:05Z"),
        Schema::List(_) => (value.is_array(), "a list"),
        Schema::Map(_) => (value.is_object(), "a mapping"),
        Schema::Object(_) => (value.is_object(), "an object"),
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

/// True if the quoted text would match the schema without its quotes.
fn is_plain(text: &str, schema: &Schema) -> bool {
    match schema {
        Schema::Boolean => text.parse::<bool>().is_ok(),
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

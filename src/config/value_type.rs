//! The types of settings' values: how each is parsed as a flag, checked in a file, and written as JSON.
//!
//! A value is a list of words, as a flag has them; the typed value is parsed from them in
//! [`super::values`].

use std::ffi::OsString;
use std::net::{AddrParseError, IpAddr};

use clap::builder::{PossibleValue, PossibleValuesParser, ValueParser};
use clap::value_parser;
use serde_json::{Map, Value, json};

use super::flags::{header, parse_headers};
use crate::cri::Endpoint;
use crate::units::duration::{format_duration, parse_duration};

/// Type of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    /// A path; one in a file is relative to the file's folder.
    Path,
    /// A path; the empty one is a value too, which says that there is no such file.
    PathOrNone,
    /// Paths, one for each time that the flag is given.
    Paths,
    /// Any text.
    Text,
    /// Name of a node.
    NodeName,
    /// A quantity of bytes, such as `10Mi`; it may be negative.
    Size,
    /// An HTTP(S) URL, which may hold secrets.
    Url,
    /// Socket of a container runtime.
    Endpoint,
    /// An IP address.
    Address,
    /// IP addresses.
    Addresses,
    /// Texts.
    Texts,
    /// `NAME=VALUE`.
    Pairs,
    /// Taints of a Node, `KEY=VALUE:EFFECT`; in a file each is an object.
    Taints,
    /// Thresholds by signal, `SIGNAL<AMOUNT`; in a file an object.
    Thresholds,
    /// Header names with values, which may be secrets.
    Headers,
    /// A duration; zero is a value, but leaves the default in a file.
    Duration,
    /// Periods by Pods' priority, `PRIORITY:SECONDS`; in a file each is an object.
    PriorityPeriods,
    /// A duration that must not be zero.
    Period,
    /// A duration of which zero sets no limit.
    TimeLimit,
    /// A number from 1 to this; 0 in a file leaves the default.
    Count(u32),
    /// A number from the first to the second.
    Range(u32, u32),
    /// A number from 0, which means none, to 65535.
    Port,
    /// A number from 1; 0 or less, as -1, sets no limit.
    Limit,
    /// A number from 0 to 100.
    Percent,
    /// True or false.
    Bool,
    /// One of these words; each with its documentation, or none.
    OneOf(&'static [(&'static str, &'static str)]),
    /// A level of log lines; in a file the kubelet's number.
    LogLevel,
}

impl ValueType {
    /// Name of the value in `--help`.
    pub(super) fn value_name(self) -> &'static str {
        match self {
            Self::Path | Self::PathOrNone | Self::Paths => "FILE",
            Self::Text | Self::NodeName => "NAME",
            Self::Texts => "NAMES",
            Self::Size => "SIZE",
            Self::Url => "URL",
            Self::Endpoint => "ENDPOINT",
            Self::Address | Self::Addresses => "IP",
            Self::Pairs => "LABELS",
            Self::Taints => "TAINTS",
            Self::Thresholds => "THRESHOLDS",
            Self::Headers => "HEADERS",
            Self::Duration | Self::Period | Self::TimeLimit => "DURATION",
            Self::PriorityPeriods => "PERIODS",
            Self::Count(_) | Self::Range(..) | Self::Limit => "N",
            Self::Port => "PORT",
            Self::Percent => "PERCENT",
            Self::Bool => "BOOL",
            Self::OneOf(_) => "MODE",
            Self::LogLevel => "LEVEL",
        }
    }

    /// The flag can be given more than once.
    pub(super) fn is_repeatable(self) -> bool {
        self.is_list() || matches!(self, Self::Paths | Self::Headers)
    }

    /// Commas separate words of the flag's value.
    pub(super) fn is_list(self) -> bool {
        matches!(
            self,
            Self::Addresses | Self::Texts | Self::Pairs | Self::Taints | Self::Thresholds
        )
    }

    /// A word is a path of a file or folder.
    pub(super) fn is_path(self) -> bool {
        matches!(self, Self::Path | Self::PathOrNone | Self::Paths)
    }

    /// Check of a flag's word, or of the whole value of [`ValueType::Headers`]. The empty word is none, where there may
    /// be none.
    pub(super) fn value_parser(self) -> ValueParser {
        match self {
            Self::Path | Self::PathOrNone | Self::Paths => ValueParser::os_string(),
            Self::Text
            | Self::NodeName
            | Self::Size
            | Self::Url
            | Self::Texts
            | Self::Pairs
            | Self::PriorityPeriods
            | Self::Taints
            | Self::Thresholds => ValueParser::string(),
            Self::Endpoint => value_parser!(Endpoint).into(),
            Self::Address => value_parser!(IpAddr).into(),
            Self::Addresses => ValueParser::new(parse_optional_address),
            Self::Headers => ValueParser::new(parse_headers),
            Self::Duration | Self::Period | Self::TimeLimit => ValueParser::new(parse_duration),
            Self::Count(most) => number(1, most),
            Self::Range(least, most) => number(least, most),
            Self::Port => number(0, u16::MAX.into()),
            Self::Limit => value_parser!(i64).into(),
            Self::Percent => number(0, 100),
            Self::Bool => ValueParser::new(parse_bool),
            Self::OneOf(words) => {
                let words = words.iter().map(|(word, help)| match *help {
                    "" => PossibleValue::new(*word),
                    help => PossibleValue::new(*word).help(help),
                });
                PossibleValuesParser::new(words).into()
            }
            Self::LogLevel => value_parser!(tracing::Level).into(),
        }
    }

    /// Checks the value of a field, which is not null; returns whether it sets the setting. As the kubelet
    /// has it, zero, an empty list and, but for [`ValueType::PathOrNone`], the empty text leave the default.
    ///
    /// # Errors
    /// The value is of the wrong type: what was found and what was expected.
    pub(super) fn check(self, value: &Value) -> Result<bool, String> {
        let wrong = |expected: &str| Err(format!("found {value}, expected {expected}"));
        match (self, value) {
            (Self::PathOrNone, Value::String(_)) | (Self::Bool, Value::Bool(_)) => Ok(true),
            (_, Value::String(text)) if text.is_empty() => Ok(false),
            (Self::Headers, Value::Object(map)) if map.values().all(is_texts) => {
                for (name, values) in map {
                    for value in values.as_array().into_iter().flatten() {
                        header(name, value.as_str().unwrap_or_default())?;
                    }
                }
                Ok(!map.is_empty())
            }
            // Without the values, which may be secrets.
            (Self::Headers, Value::Object(_)) => {
                Err("expected a list of strings for each header".to_owned())
            }
            (Self::Headers, _) => Err("expected headers with lists of values".to_owned()),
            (Self::Addresses | Self::Texts | Self::Pairs | Self::Paths, Value::Array(list))
                if is_texts(value) =>
            {
                Ok(!list.is_empty())
            }
            (Self::Addresses | Self::Texts | Self::Pairs | Self::Paths, _) => {
                wrong("a list of strings")
            }
            (Self::Taints, Value::Array(list)) if list.iter().all(is_taint) => Ok(true),
            (Self::Taints, _) => wrong("a list of taints with key, value and effect"),
            (Self::Thresholds, Value::Object(map)) if map.values().all(Value::is_string) => {
                Ok(!map.is_empty())
            }
            (Self::Thresholds, _) => {
                wrong("thresholds by signal, such as {memory.available: 100Mi}")
            }
            (Self::Duration | Self::Period | Self::TimeLimit, Value::String(text)) => {
                Ok(!parse_duration(text)?.is_zero())
            }
            (Self::Duration | Self::Period | Self::TimeLimit, _) => {
                wrong("a duration such as 20s or 1m30s")
            }
            (Self::PriorityPeriods, Value::Array(list)) if list.iter().all(is_priority_period) => {
                Ok(!list.is_empty())
            }
            (Self::PriorityPeriods, _) => wrong(PRIORITY_PERIODS),
            (Self::Count(_) | Self::LogLevel | Self::Range(..) | Self::Port | Self::Percent, _) => {
                self.check_number(value)
            }
            (Self::Limit, value) if value.is_i64() => Ok(true),
            (Self::Limit, _) => wrong("a number, or -1 for no limit"),
            (Self::Bool, _) => wrong("true or false"),
            (Self::OneOf(words), _) => {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                match value.as_str() {
                    Some(word) if words.contains(&word) => Ok(true),
                    _ => wrong(&format!("one of {}", words.join(", "))),
                }
            }
            // All others are texts.
            (_, Value::String(_)) => Ok(true),
            (_, _) => wrong("a string"),
        }
    }

    fn check_number(self, value: &Value) -> Result<bool, String> {
        let wrong = |expected: &str| Err(format!("found {value}, expected {expected}"));
        match (self, value.as_u64()) {
            (Self::Port, Some(..=65535)) | (Self::Percent, Some(..=100)) => Ok(true),
            (Self::Port, _) => wrong("a port, 0 to 65535"),
            (Self::Percent, _) => wrong("a number from 0 to 100"),
            (Self::Range(least, _), Some(number)) if number >= least.into() => Ok(true),
            (Self::Range(least, _), _) => wrong(&format!("a number, {least} or more")),
            (_, Some(number)) => Ok(number != 0),
            (_, None) => wrong("a number, 0 or more"),
        }
    }

    /// The words of a field's value, which has passed [`ValueType::check`].
    pub(super) fn words(self, value: &Value) -> Vec<OsString> {
        let words: Vec<String> = match (self, value) {
            (Self::LogLevel, value) => {
                vec![level(value.as_u64().unwrap_or_default()).to_string()]
            }
            (Self::Taints, Value::Array(taints)) => taints.iter().map(taint_text).collect(),
            (Self::PriorityPeriods, Value::Array(periods)) => {
                periods.iter().map(priority_period_text).collect()
            }
            (Self::Thresholds, Value::Object(thresholds)) => {
                let threshold =
                    |(signal, value): (&String, &Value)| format!("{signal}<{}", text(value));
                thresholds.iter().map(threshold).collect()
            }
            (_, Value::Array(texts)) => texts.iter().map(text).collect(),
            (_, Value::Object(headers)) => {
                let values = |(name, values): (&String, &Value)| {
                    let values = values.as_array().cloned().unwrap_or_default();
                    let header = |value: &Value| format!("{name}:{}", text(value));
                    values.iter().map(header).collect::<Vec<_>>()
                };
                headers.iter().flat_map(values).collect()
            }
            (_, value) => vec![text(value)],
        };
        words.into_iter().map(OsString::from).collect()
    }

    /// A value as people see it ([`super::Setting::value`]) in the type of the field.
    pub(super) fn to_json(self, shown: &str) -> Value {
        match self {
            Self::Addresses | Self::Texts | Self::Pairs | Self::Paths => json!(list(shown)),
            Self::Headers => {
                let names = list(shown).into_iter().filter_map(|h| h.split_once(": "));
                let masked = names.map(|(name, _)| (name.to_owned(), json!(["<masked>"])));
                Value::Object(masked.collect::<Map<_, _>>())
            }
            Self::Duration | Self::Period | Self::TimeLimit => match parse_duration(shown) {
                Ok(duration) => json!(format_duration(duration)),
                Err(_) => json!(shown),
            },
            Self::PriorityPeriods => {
                let periods = list(shown).into_iter().filter_map(parse_priority_period);
                let object = |(priority, seconds)| json!({"priority": priority, "shutdownGracePeriodSeconds": seconds});
                periods.map(object).collect()
            }
            Self::Count(_) | Self::Range(..) | Self::Port | Self::Percent => {
                json!(shown.parse::<u64>().unwrap_or_default())
            }
            Self::Limit => json!(shown.parse::<i64>().unwrap_or(-1)),
            Self::LogLevel => json!(verbosity(shown)),
            Self::Bool => json!(shown == "true"),
            Self::Taints => list(shown).into_iter().map(taint_object).collect(),
            Self::Thresholds => {
                let thresholds = list(shown).into_iter().filter_map(|t| t.split_once('<'));
                let thresholds =
                    thresholds.map(|(signal, value)| (signal.to_owned(), json!(value)));
                Value::Object(thresholds.collect::<Map<_, _>>())
            }
            _ => json!(shown),
        }
    }
}

fn number(least: u32, most: u32) -> ValueParser {
    let range = i64::from(least)..=i64::from(most);
    value_parser!(i64).range(range).into()
}

/// Parses an IP address, or the empty text.
fn parse_optional_address(text: &str) -> Result<Option<IpAddr>, AddrParseError> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

/// Parses true or false in the words that the kubelet's flags may have (Go, `strconv.ParseBool`).
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn is_texts(value: &Value) -> bool {
    let list = value.as_array();
    list.is_some_and(|list| list.iter().all(Value::is_string))
}

/// Has the form of a taint: a key and an effect, with a value or without.
fn is_taint(value: &Value) -> bool {
    value["key"].is_string()
        && value["effect"].is_string()
        && (value["value"].is_null() || value["value"].is_string())
}

/// Expected form of [`ValueType::PriorityPeriods`].
const PRIORITY_PERIODS: &str =
    "a list such as [{priority: 0, shutdownGracePeriodSeconds: 30}], seconds not negative";

/// Has the form of a period of a priority.
fn is_priority_period(value: &Value) -> bool {
    let known = |name: &String| ["priority", "shutdownGracePeriodSeconds"].contains(&name.as_str());
    value
        .as_object()
        .is_some_and(|fields| fields.keys().all(known))
        && parse_priority_period(&priority_period_text(value)).is_some()
}

/// A period of a file as a word; a field that is left out is 0, as with the kubelet.
fn priority_period_text(value: &Value) -> String {
    let number = |name: &str| match &value[name] {
        Value::Null => "0".to_owned(),
        number => text(number),
    };
    let (priority, seconds) = (number("priority"), number("shutdownGracePeriodSeconds"));
    format!("{priority}:{seconds}")
}

/// Parses `PRIORITY:SECONDS`; `None` where they are no numbers or the seconds are negative.
pub(super) fn parse_priority_period(text: &str) -> Option<(i32, i64)> {
    let (priority, seconds) = text.split_once(':')?;
    let seconds = seconds.parse().ok().filter(|seconds: &i64| *seconds >= 0)?;
    Some((priority.parse().ok()?, seconds))
}

/// A scalar without quotes.
fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    }
}

/// A taint of a file as the flag has it.
fn taint_text(taint: &Value) -> String {
    let part = |name: &str| taint[name].as_str().unwrap_or_default();
    match part("value") {
        "" => format!("{}:{}", part("key"), part("effect")),
        value => format!("{}={value}:{}", part("key"), part("effect")),
    }
}

/// A taint of the flag, `KEY=VALUE:EFFECT`, as a file has it.
fn taint_object(text: &str) -> Value {
    let (name, effect) = text.rsplit_once(':').unwrap_or((text, ""));
    match name.split_once('=') {
        Some((key, value)) => json!({"key": key, "value": value, "effect": effect}),
        None => json!({"key": name, "effect": effect}),
    }
}

/// The level of the kubelet's verbosity.
pub(super) fn level(verbosity: u64) -> tracing::Level {
    match verbosity {
        0..4 => tracing::Level::INFO,
        4..8 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    }
}

/// The kubelet's verbosity of a level; 0 for those that it has no number for.
fn verbosity(level: &str) -> u64 {
    match level {
        "debug" => 4,
        "trace" => 8,
        _ => 0,
    }
}

fn list(text: &str) -> Vec<&str> {
    let words = text.split(',').map(str::trim);
    words.filter(|word| !word.is_empty()).collect()
}

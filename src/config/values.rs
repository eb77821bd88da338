//! The values in force: flags before drop-ins before the file before defaults, each with its origin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::Url;

use super::file::ConfigFields;
use super::flags::{Headers, SettingFlags, parse_header, parse_headers};
use super::node_name;
use super::setting::{DefaultValue, Definition, Setting};
use super::table::SETTINGS;
use super::value_type::{ValueType, parse_bool};
use crate::source::url::shown;
use crate::units::duration::parse_duration;

/// All that was given: the flags, and the fields of the files.
#[derive(Debug)]
pub(super) struct Inputs<'a> {
    pub(super) flags: &'a SettingFlags,
    pub(super) files: &'a ConfigFields,
}

impl Inputs<'_> {
    /// The words that a flag or a file gives for a setting, and which of the two.
    fn given(&self, definition: &Definition) -> Option<(Vec<OsString>, ValueOrigin)> {
        if let Some(words) = self.flags.words(definition.flag) {
            let words = flag_words(definition, words)?;
            return Some((words, ValueOrigin::Flag));
        }
        let given = self.files.get(definition.field?)?;
        let origin = ValueOrigin::File {
            file: given.file.clone(),
            place: given.place.clone(),
        };
        Some((definition.value_type.words(&given.value), origin))
    }

    /// A flag or a file sets this setting.
    pub(super) fn is_given(&self, flag: &str) -> bool {
        self.text(flag).is_some_and(|text| !text.is_empty())
    }

    /// A flag or a file sets this setting to true.
    pub(super) fn is_on(&self, flag: &str) -> bool {
        self.text(flag)
            .is_some_and(|text| parse_bool(&text) == Ok(true))
    }

    /// The first word that a flag or a file gives for a setting.
    pub(super) fn text(&self, flag: &str) -> Option<String> {
        let definition = SETTINGS.iter().find(|known| known.flag == flag)?;
        let (words, _) = self.given(definition)?;
        let word = words.into_iter().next().unwrap_or_default();
        Some(word.to_string_lossy().into_owned())
    }

    fn resolve(&self, definition: &'static Definition) -> Resolved {
        let (words, origin) = self.given(definition).unwrap_or_else(|| {
            let words = match definition.default {
                DefaultValue::Nothing(_) => vec![],
                DefaultValue::Fixed(word) => vec![word.into()],
                DefaultValue::Computed(_, compute) => vec![compute(self).into()],
            };
            (words, ValueOrigin::Default)
        });
        Resolved {
            definition,
            words,
            origin,
        }
    }
}

/// The value in force of every setting.
#[derive(Debug)]
pub(super) struct Values(BTreeMap<&'static str, Resolved>);

impl Values {
    pub(super) fn resolve(inputs: &Inputs) -> Self {
        let resolved = SETTINGS
            .iter()
            .map(|known| (known.flag, inputs.resolve(known)));
        Self(resolved.collect())
    }

    /// The setting of a flag.
    ///
    /// # Panics
    /// The table has no such flag. Every load gets every setting, so a wrong name fails all tests.
    pub(super) fn get(&self, flag: &str) -> &Resolved {
        &self.0[flag]
    }

    /// All settings by name, for people.
    ///
    /// # Errors
    /// A value does not parse.
    pub(super) fn settings(&self) -> anyhow::Result<Vec<Setting>> {
        self.0.values().map(Resolved::setting).collect()
    }
}

/// Source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ValueOrigin {
    Flag,
    /// The file, and `file:line:column: field`.
    File {
        file: PathBuf,
        place: String,
    },
    Default,
}

/// The value in force of one setting. The methods parse it; their errors name the flag, or the file, line
/// and field.
#[derive(Debug)]
pub(super) struct Resolved {
    definition: &'static Definition,
    words: Vec<OsString>,
    origin: ValueOrigin,
}

impl Resolved {
    /// A flag sets it.
    pub(super) fn is_flag(&self) -> bool {
        self.origin == ValueOrigin::Flag
    }

    /// A flag or a file sets it.
    pub(super) fn is_given(&self) -> bool {
        self.origin != ValueOrigin::Default
    }

    /// The place of a mistake: the flag (to give, for a default), or the file, line and field.
    pub(super) fn place(&self) -> String {
        match &self.origin {
            ValueOrigin::File { place, .. } => place.clone(),
            ValueOrigin::Default if !self.definition.has_flag => self.definition.flag.to_owned(),
            ValueOrigin::Flag | ValueOrigin::Default => format!("--{}", self.definition.flag),
        }
    }

    /// Empty if there is no value.
    pub(super) fn text(&self) -> String {
        let word = self.words.first();
        word.map_or_else(String::new, |word| word.to_string_lossy().into_owned())
    }

    pub(super) fn texts(&self) -> Vec<String> {
        let words = self.words.iter();
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    pub(super) fn is_on(&self) -> bool {
        parse_bool(&self.text()) == Ok(true)
    }

    /// The text, parsed.
    pub(super) fn parse<T, E: Display>(
        &self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        self.at_place(parse(&self.text()))
    }

    fn at_place<T, E: Display>(&self, result: Result<T, E>) -> anyhow::Result<T> {
        result.map_err(|why| anyhow!("{}: {why}", self.place()))
    }

    /// A path, absolute; empty if there is none.
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        let word = self.words.first().cloned().unwrap_or_default();
        self.absolute(&word)
    }

    pub(super) fn optional_path(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = self.path()?;
        Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
    }

    pub(super) fn paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        self.words.iter().map(|word| self.absolute(word)).collect()
    }

    /// One form of the path: absolute, without a slash at its end; in a file relative to the file's folder.
    fn absolute(&self, word: &OsString) -> anyhow::Result<PathBuf> {
        if word.is_empty() {
            return Ok(PathBuf::new());
        }
        let path = match &self.origin {
            ValueOrigin::File { file, .. } => file.parent().unwrap_or(Path::new("/")).join(word),
            ValueOrigin::Flag | ValueOrigin::Default => word.into(),
        };
        let absolute = std::path::absolute(&path);
        let absolute = absolute.with_context(|| format!("{}: {}", self.place(), path.display()))?;
        Ok(absolute.components().collect())
    }

    pub(super) fn duration(&self) -> anyhow::Result<Duration> {
        let duration = self.parse(parse_duration)?;
        if duration.is_zero() && self.definition.value_type == ValueType::Period {
            bail!(
                "{}: found 0s, expected a time to wait, such as 20s",
                self.place()
            );
        }
        Ok(duration)
    }

    /// `None` if there is no value.
    pub(super) fn time_limit(&self) -> anyhow::Result<Option<Duration>> {
        if self.words.is_empty() {
            return Ok(None);
        }
        self.duration().map(Some)
    }

    pub(super) fn number<T: TryFrom<u64>>(&self) -> anyhow::Result<T> {
        let most = match self.definition.value_type {
            ValueType::Count(most) | ValueType::Range(_, most) => most.into(),
            _ => u64::MAX,
        };
        self.parse(|text| {
            let number = text.parse().ok().filter(|number| *number <= most);
            let number = number.and_then(|number: u64| T::try_from(number).ok());
            number.ok_or_else(|| format!("found {text}, expected a smaller number"))
        })
    }

    /// `None` if there is no value.
    pub(super) fn optional_number<T: TryFrom<u64>>(&self) -> anyhow::Result<Option<T>> {
        if self.words.is_empty() {
            return Ok(None);
        }
        self.number().map(Some)
    }

    /// A limit; `None` for none.
    pub(super) fn limit(&self) -> anyhow::Result<Option<u64>> {
        let number: i64 = self.parse(str::parse)?;
        Ok(u64::try_from(number).ok().filter(|limit| *limit > 0))
    }

    pub(super) fn address(&self) -> anyhow::Result<IpAddr> {
        self.parse(parse_address)
    }

    pub(super) fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let addresses = self.texts().into_iter().map(|text| parse_address(&text));
        self.at_place(addresses.collect())
    }

    /// `None` if there is no value. The error does not quote the URL, which may hold a password.
    pub(super) fn url(&self) -> anyhow::Result<Option<Url>> {
        let text = self.text();
        if text.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            let scheme = text.split(':').next().unwrap_or_default();
            bail!(
                "{}: found a URL that begins with {scheme:?}, expected one such as \
                 https://example.com/pods.yaml",
                self.place()
            );
        }
        Ok(url)
    }

    pub(super) fn headers(&self) -> anyhow::Result<Headers> {
        let words = self.texts();
        // A file's value may have commas.
        let headers = words.iter().map(|word| match self.origin {
            ValueOrigin::File { .. } => parse_header(word).map(|header| vec![header]),
            ValueOrigin::Flag | ValueOrigin::Default => parse_headers(word),
        });
        let headers: Result<Vec<_>, _> = headers.collect();
        Ok(self.at_place(headers)?.concat())
    }

    fn setting(&self) -> anyhow::Result<Setting> {
        Ok(Setting {
            name: self.definition.flag,
            field: self.definition.field,
            value: self.shown()?,
            from: match &self.origin {
                ValueOrigin::Flag => "flag".to_owned(),
                ValueOrigin::Default => "default".to_owned(),
                ValueOrigin::File { file, .. } => file.display().to_string(),
            },
            reloadable: self.definition.reloadable,
        })
    }

    /// The value for people, without secrets.
    fn shown(&self) -> anyhow::Result<String> {
        Ok(match self.definition.value_type {
            ValueType::Path | ValueType::PathOrNone => self.path()?.display().to_string(),
            ValueType::Paths => join(&self.paths()?, ",", |path| path.display().to_string()),
            ValueType::NodeName => node_name(Some(self.text()))?,
            ValueType::Url => self.url()?.as_ref().map(shown).unwrap_or_default(),
            ValueType::Address => self.address()?.to_string(),
            ValueType::Addresses => join(&self.addresses()?, ",", IpAddr::to_string),
            ValueType::Headers => join(&self.headers()?, ", ", |(name, _)| {
                format!("{name}: <hidden>")
            }),
            ValueType::Duration | ValueType::Period | ValueType::TimeLimit => {
                match self.time_limit()? {
                    None => String::new(),
                    Some(Duration::ZERO) => "0s".to_owned(),
                    Some(duration) => format!("{duration:?}"),
                }
            }
            ValueType::Count(_) | ValueType::Range(..) | ValueType::Port | ValueType::Percent => {
                let number = self.optional_number::<u64>()?;
                number.map_or_else(String::new, |number| number.to_string())
            }
            ValueType::LogLevel => self.level()?.to_string().to_lowercase(),
            ValueType::Bool => self.is_on().to_string(),
            ValueType::Endpoint => self.parse(str::parse::<crate::cri::Endpoint>)?.to_string(),
            ValueType::Text
            | ValueType::Size
            | ValueType::Texts
            | ValueType::Pairs
            | ValueType::PriorityPeriods
            | ValueType::Taints
            | ValueType::Thresholds
            | ValueType::Limit
            | ValueType::OneOf(_) => self.texts().join(","),
        })
    }

    pub(super) fn level(&self) -> anyhow::Result<tracing::Level> {
        self.parse(str::parse::<tracing::Level>)
    }
}

/// The words of a flag; `None` if they leave the default: the empty word does, where there is one.
fn flag_words(definition: &Definition, words: &[OsString]) -> Option<Vec<OsString>> {
    let value_type = definition.value_type;
    let zero = |word: &OsString| parse_duration(&word.to_string_lossy()) == Ok(Duration::ZERO);
    if value_type == ValueType::TimeLimit && words.iter().all(zero) {
        return None;
    }
    if value_type == ValueType::PathOrNone {
        return Some(words.to_vec());
    }
    let words = words.iter().filter(|word| !word.is_empty());
    let words: Vec<_> = words.cloned().collect();
    let has_default = !matches!(definition.default, DefaultValue::Nothing(_));
    if words.is_empty() && has_default && !value_type.is_list() {
        return None;
    }
    Some(words)
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse();
    address.map_err(|_| format!("found {text:?}, expected an IP address"))
}

fn join<T>(items: &[T], separator: &str, show: impl Fn(&T) -> String) -> String {
    items.iter().map(show).collect::<Vec<_>>().join(separator)
}

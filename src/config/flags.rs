//! The flags of `podkeeper run`, as typed: one for each setting of [`super::table`], and those of [`super::kubelet`].
//! Those that the kubelet has are spelled as there.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint, value_parser};
use reqwest::header::{HeaderName, HeaderValue};

use super::kubelet::KubeletFlags;
use super::setting::Definition;
use super::table::SETTINGS;
use super::value_type::{self, ValueType};

/// The flags of `podkeeper run`.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// `KubeletConfiguration` file (`kubelet.config.k8s.io/v1beta1`); flags win over it
    #[arg(long, value_name = "FILE", overrides_with = "config")]
    pub config: Option<PathBuf>,

    /// Folder of drop-ins, `*.conf`, each a `KubeletConfiguration` that wins over --config and over
    /// those before it by name
    #[arg(long, value_name = "DIR", overrides_with = "config_dir")]
    pub config_dir: Option<PathBuf>,

    /// The flags of the settings.
    #[command(flatten)]
    pub(super) settings: SettingFlags,

    /// The flags of the kubelet that are no settings.
    #[command(flatten)]
    pub(super) kubelet: KubeletFlags,
}

/// The words of each given flag of a setting; clap has checked them.
#[derive(Debug, Clone, Default)]
pub(super) struct SettingFlags(BTreeMap<&'static str, Vec<OsString>>);

impl Flags {
    /// Sets the flag of a setting, as if it were typed.
    pub(crate) fn set(&mut self, flag: &'static str, word: &str) {
        self.settings.0.insert(flag, vec![word.into()]);
    }
}

impl SettingFlags {
    pub(super) fn words(&self, flag: &str) -> Option<&[OsString]> {
        self.0.get(flag).map(Vec::as_slice)
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(with_flags().map(argument)).arg(verbosity())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all = BTreeMap::new();
        for Definition { flag, .. } in with_flags() {
            if let Some(words) = matches.get_raw(flag) {
                all.insert(*flag, words.map(OsString::from).collect());
            }
        }
        if let Some(verbosity) = matches.get_one::<u8>(VERBOSITY) {
            let level = value_type::level((*verbosity).into()).to_string();
            all.entry("log-level").or_insert_with(|| vec![level.into()]);
        }
        Ok(Self(all))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// The settings that have a flag.
fn with_flags() -> impl Iterator<Item = &'static Definition> {
    SETTINGS.iter().filter(|definition| definition.has_flag)
}

/// Returns the flag of a setting.
fn argument(definition: &Definition) -> Arg {
    let value_type = definition.value_type;
    let mut argument = Arg::new(definition.flag)
        .long(definition.flag)
        .value_name(definition.value_name.unwrap_or(value_type.value_name()))
        .value_parser(value_type.value_parser())
        .help(definition.help());
    if value_type.is_path() {
        argument = argument.value_hint(ValueHint::AnyPath);
    }
    // Of a flag that has one value, the last one wins, as with the kubelet.
    argument = if value_type.is_repeatable() {
        argument.action(ArgAction::Append)
    } else {
        argument.overrides_with(definition.flag)
    };
    if value_type.is_list() {
        argument = argument.value_delimiter(',');
    }
    if matches!(value_type, ValueType::Size | ValueType::Limit) {
        argument = argument.allow_hyphen_values(true);
    }
    if value_type == ValueType::Bool {
        argument = argument.num_args(0..=1).require_equals(true);
        argument = argument.default_missing_value("true");
    }
    if let Some(alias) = definition.alias {
        argument = argument.visible_alias(alias);
    }
    if let Some(other) = definition.requires {
        argument = argument.requires(other);
    }
    argument
}

const VERBOSITY: &str = "v";

/// The kubelet's way to set `--log-level`, which wins over it.
fn verbosity() -> Arg {
    Arg::new(VERBOSITY)
        .long(VERBOSITY)
        .short('v')
        .value_name("N")
        .value_parser(value_parser!(u8))
        .overrides_with(VERBOSITY)
        .help("Verbosity as the kubelet has it, in place of --log-level: 4 and more is debug, 8 and more is trace")
}

/// Headers of a request, in order.
pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

/// Parses `NAME:VALUE,NAME:VALUE`.
pub(super) fn parse_headers(text: &str) -> Result<Headers, String> {
    text.split(',').map(parse_header).collect()
}

/// Parses `NAME:VALUE`.
pub(super) fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    header(name.trim(), value.trim())
}

/// Parses one header. Errors do not quote the value, which may be a secret.
///
/// # Errors
/// HTTP does not allow the name or value.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let found = HeaderName::from_bytes(name.as_bytes());
    let found = found.map_err(|_| format!("found {name:?}, expected the name of a header"))?;
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| format!("the value of {name} has characters that a header cannot have"))?;
    value.set_sensitive(true);
    Ok((found, value))
}

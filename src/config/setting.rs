//! The definition of a setting, one [`Definition`] for each row of [`super::table`], and the [`Setting`]s in
//! force, as people and `/configz` see them.

use serde::Serialize;

use super::value_type::ValueType;
use super::values::Inputs;

/// One setting: everything that is derived from it (the flag, the field of the file, `--help`,
/// `podkeeper config`, `/configz`, docs/configuration.md) comes from here.
#[derive(Debug)]
pub(super) struct Definition {
    /// The flag, without its dashes; also the setting's name.
    pub(super) flag: &'static str,
    /// False for a setting of files alone, whose name is that of its field.
    pub(super) has_flag: bool,
    /// Another spelling of the flag.
    pub(super) alias: Option<&'static str>,
    /// The flag that must be given beside it.
    pub(super) requires: Option<&'static str>,
    /// Path of the field in the `KubeletConfiguration`, for a setting that has one.
    pub(super) field: Option<&'static str>,
    /// Type of the value.
    pub(super) value_type: ValueType,
    /// Name of the value in `--help`, in place of the type's.
    pub(super) value_name: Option<&'static str>,
    /// The value in force if neither a flag nor a file sets one.
    pub(super) default: DefaultValue,
    /// The setting can change without a restart of the agent.
    pub(super) reloadable: bool,
    /// Documentation: one line without a full stop, for `--help` and docs/configuration.md.
    pub(super) help: &'static str,
    /// Markdown that docs/configuration.md adds to it.
    pub(super) notes: &'static str,
}

/// The value of a setting that nothing sets.
#[derive(Debug, Clone, Copy)]
pub(super) enum DefaultValue {
    /// No value; in words for the documentation, or empty.
    Nothing(&'static str),
    /// A fixed value, as the flag would have it.
    Fixed(&'static str),
    /// A value that depends on the machine or on other settings: in words, and how to compute it.
    Computed(&'static str, fn(&Inputs) -> String),
}

impl Definition {
    /// A setting with a flag only and no default; the methods below add the rest.
    pub(super) const fn new(flag: &'static str, value_type: ValueType, help: &'static str) -> Self {
        Self {
            flag,
            has_flag: true,
            alias: None,
            requires: None,
            field: None,
            value_type,
            value_name: None,
            default: DefaultValue::Nothing(""),
            reloadable: false,
            help,
            notes: "",
        }
    }

    /// A setting with a field only.
    pub(super) const fn of_field(
        field: &'static str,
        value_type: ValueType,
        help: &'static str,
    ) -> Self {
        let mut definition = Self::new(field, value_type, help).field(field);
        definition.has_flag = false;
        definition
    }

    pub(super) const fn alias(mut self, flag: &'static str) -> Self {
        self.alias = Some(flag);
        self
    }

    pub(super) const fn requires(mut self, flag: &'static str) -> Self {
        self.requires = Some(flag);
        self
    }

    pub(super) const fn field(mut self, path: &'static str) -> Self {
        self.field = Some(path);
        self
    }

    pub(super) const fn value_name(mut self, name: &'static str) -> Self {
        self.value_name = Some(name);
        self
    }

    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = DefaultValue::Fixed(value);
        self
    }

    pub(super) const fn nothing(mut self, words: &'static str) -> Self {
        self.default = DefaultValue::Nothing(words);
        self
    }

    pub(super) const fn computed(
        mut self,
        words: &'static str,
        compute: fn(&Inputs) -> String,
    ) -> Self {
        self.default = DefaultValue::Computed(words, compute);
        self
    }

    pub(super) const fn reloadable(mut self) -> Self {
        self.reloadable = true;
        self
    }

    pub(super) const fn notes(mut self, markdown: &'static str) -> Self {
        self.notes = markdown;
        self
    }

    /// The line of `--help`.
    pub(super) fn help(&self) -> String {
        match self.default {
            DefaultValue::Nothing("") => self.help.to_owned(),
            DefaultValue::Nothing(words)
            | DefaultValue::Fixed(words)
            | DefaultValue::Computed(words, _) => format!("{} [default: {words}]", self.help),
        }
    }

    /// The row of docs/configuration.md.
    #[cfg(test)]
    pub(super) fn row(&self) -> String {
        let field = self.field.map(|field| format!("`{field}`"));
        let default = match self.default {
            DefaultValue::Nothing(words) | DefaultValue::Computed(words, _) => words.to_owned(),
            DefaultValue::Fixed(value) => format!("`{value}`"),
        };
        let reloadable = if self.reloadable { "yes" } else { "" };
        let gap = if self.notes.is_empty() { "" } else { "; " };
        let flag = self.has_flag.then(|| format!("`--{}`", self.flag));
        format!(
            "| {} | {} | {default} | {reloadable} | {}{gap}{} |",
            flag.unwrap_or_default(),
            field.unwrap_or_default(),
            self.help,
            self.notes
        )
    }
}

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The flag, without its dashes; the field of a setting without a flag.
    pub name: &'static str,
    /// The field of the `KubeletConfiguration`, if it has one.
    pub field: Option<&'static str>,
    /// The value, without secrets; empty where there is none.
    pub value: String,
    /// `flag`, `default`, or the file that sets it.
    pub from: String,
    /// The setting can change without a restart of the agent.
    pub reloadable: bool,
}

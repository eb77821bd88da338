//! `$(VAR)` in values, commands and arguments, as Kubernetes writes it: `$(NAME)` is the variable's value,
//! `$$` is `$` (API reference, `Container.command`). And how much may come of it: a few lines that each
//! repeat the one above make terabytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, EnvVarSource};

use super::objects::Objects;
use super::{path, shown};

/// The most bytes that all values, the command and the arguments of one container have, expanded. Linux
/// starts no program with much more.
pub(crate) const MAX_EXPANDED: usize = 1 << 20;

/// A piece of a text with references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Stays as it is.
    Text(&'a str),
    /// The value of the variable of this name.
    Reference(&'a str),
}

/// The pieces of a text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find('$').unwrap_or(rest.len());
        if at > 0 {
            let (plain, tail) = rest.split_at(at);
            rest = tail;
            return Some(Piece::Text(plain));
        }
        let after = &rest[1..];
        let name = after.strip_prefix('(').and_then(|s| s.split_once(')'));
        if let Some((name, tail)) = name {
            rest = tail;
            return Some(Piece::Reference(name));
        }
        rest = after.strip_prefix('$').unwrap_or(after);
        Some(Piece::Text("$"))
    })
}

/// A text of a container that makes too much of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    /// The field's path below the container's.
    pub(super) field: String,
    /// The variable: the one whose value it is, or the largest one that it refers to.
    variable: String,
    /// The bytes that all texts up to this one have, expanded.
    bytes: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {} bytes", self.bytes)?;
        if !self.variable.is_empty() {
            write!(f, " with variable {}", shown(&self.variable))?;
        }
        write!(
            f,
            " once $(VAR) is expanded, expected at most {MAX_EXPANDED} in all values, the command and the \
             arguments of a container"
        )
    }
}

/// The first text of a container with which its texts have more bytes than may be, as far as it is known what
/// its variables are: other values count as empty. Nothing is expanded for it.
pub(super) fn too_large(container: &Container, objects: &Objects) -> Option<TooLarge> {
    measure(container, objects).err()
}

fn measure(container: &Container, objects: &Objects) -> Result<(), TooLarge> {
    let mut sizes = Sizes::default();
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        let config_map = source.config_map_ref.as_ref();
        let secret = source.secret_ref.as_ref();
        let entries = config_map.and_then(|r| objects.config_map(&r.name));
        let entries = entries.or_else(|| objects.secret(&secret?.name));
        let entries = entries.map(BTreeMap::iter);
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in entries.into_iter().flatten() {
            let name = format!("{prefix}{key}");
            let field = || path::index("envFrom", index);
            sizes.set(name.into(), value.len(), field)?;
        }
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let written = variable.value.as_deref().unwrap_or_default();
        let size = match &variable.value_from {
            Some(source) if written.is_empty() => referred(source, objects),
            _ => sizes.of(written),
        };
        let field = || path::key(&path::index("env", index), "value");
        sizes.set(variable.name.as_str().into(), size, field)?;
    }
    let texts = [("command", &container.command), ("args", &container.args)];
    for (list, texts) in texts {
        for (index, text) in texts.iter().flatten().enumerate() {
            let size = sizes.of(text);
            let largest = sizes.largest(text).unwrap_or_default();
            sizes.take(size, largest, || path::index(list, index))?;
        }
    }
    Ok(())
}

/// The bytes of the value of a variable that an object has.
fn referred(source: &EnvVarSource, objects: &Objects) -> usize {
    let config_map = source.config_map_key_ref.as_ref();
    let config_map = config_map.and_then(|r| objects.config_map(&r.name)?.get(&r.key));
    let secret = source.secret_key_ref.as_ref();
    let value = config_map.or_else(|| secret.and_then(|r| objects.secret(&r.name)?.get(&r.key)));
    value.map_or(0, Vec::len)
}

/// Sizes in bytes of the variables' values and of all expanded texts so far.
#[derive(Default)]
struct Sizes<'a> {
    known: BTreeMap<Cow<'a, str>, usize>,
    total: usize,
}

impl<'a> Sizes<'a> {
    /// The bytes of a text, expanded.
    fn of(&self, text: &str) -> usize {
        pieces(text).fold(0_usize, |size, piece| {
            size.saturating_add(match piece {
                Piece::Text(text) => text.len(),
                Piece::Reference(name) => match self.known.get(name) {
                    Some(size) => *size,
                    None => name.len().saturating_add("$()".len()),
                },
            })
        })
    }

    /// Adds a text of this size, made with this variable.
    fn take(
        &mut self,
        size: usize,
        variable: &str,
        field: impl Fn() -> String,
    ) -> Result<(), TooLarge> {
        self.total = self.total.saturating_add(size);
        if self.total <= MAX_EXPANDED {
            return Ok(());
        }
        Err(TooLarge {
            field: field(),
            variable: variable.to_owned(),
            bytes: self.total,
        })
    }

    /// Adds a variable's value of this size.
    fn set(
        &mut self,
        name: Cow<'a, str>,
        size: usize,
        field: impl Fn() -> String,
    ) -> Result<(), TooLarge> {
        self.take(size, &name, field)?;
        self.known.insert(name, size);
        Ok(())
    }

    /// The largest variable that a text refers to.
    fn largest<'t>(&self, text: &'t str) -> Option<&'t str> {
        let names = pieces(text).filter_map(|piece| match piece {
            Piece::Reference(name) => Some(name),
            Piece::Text(_) => None,
        });
        names.max_by_key(|name| self.known.get(*name))
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_text_is_cut_into_its_pieces() {
        use Piece::{Reference, Text};
        for (text, expected) in [
            ("", &[][..]),
            ("a$(B)c", &[Text("a"), Reference("B"), Text("c")]),
            ("$$(A)", &[Text("$"), Text("(A)")]),
            ("$(A", &[Text("$"), Text("(A")]),
            ("$()$", &[Reference(""), Text("$")]),
        ] {
            assert_eq!(pieces(text).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn what_a_container_makes_of_its_texts_is_counted_without_making_it() {
        let large = |container: serde_json::Value| {
            let container: Container = serde_json::from_value(container).unwrap();
            too_large(&container, &Objects::default())
                .map(|found| (found.field, found.variable, found.bytes))
        };
        let half = "x".repeat(MAX_EXPANDED / 2);
        let found = |field: &str, variable: &str, bytes| {
            Some((field.to_owned(), variable.to_owned(), bytes))
        };
        let twice = json!([{"name": "A", "value": half}, {"name": "B", "value": "$(A)"}]);
        for (args, expected) in [
            (json!([]), None),
            (
                json!(["$(NONE)$"]),
                found("args[0]", "NONE", MAX_EXPANDED + 8),
            ),
            (
                json!(["", "x$(B)"]),
                found("args[1]", "B", MAX_EXPANDED / 2 * 3 + 1),
            ),
        ] {
            let container = json!({"name": "c", "env": twice, "args": args});
            assert_eq!(large(container), expected);
        }
        let long = "x".repeat(MAX_EXPANDED + 1);
        let container = json!({"name": "c", "command": ["sh", "-c", long]});
        assert_eq!(large(container), found("command[2]", "", MAX_EXPANDED + 5));
        // Sixty levels of ten are more than any number.
        let value = |level: usize| match level {
            0 => "x".to_owned(),
            level => format!("$(A{})", level - 1).repeat(10),
        };
        let env: Vec<_> = (0..60)
            .map(|level| json!({"name": format!("A{level}"), "value": value(level)}))
            .collect();
        let expected = found("env[6].value", "A6", 1_111_111);
        assert_eq!(large(json!({"name": "c", "env": env})), expected);
        let itself = json!([{"name": "A", "value": "x"}, {"name": "A", "value": "$(A)$(A)"}]);
        assert_eq!(large(json!({"name": "c", "env": itself})), None);
    }
}

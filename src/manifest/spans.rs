//! Spans of values in a text: a tree beside the values.
//!
//! Spans of YAML are built from the events of a second parser. That is also the first pass over a text that
//! may be hostile, so its memory is bounded.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "positions and counts in a text whose size is bounded"
)]

mod builder;

use std::sync::Arc;

use super::{Problem, add, path};
pub(super) use builder::{of_json, scan};

/// As deep as values may stand in each other; a Pod's stand a dozen deep.
pub(super) const MAX_DEPTH: usize = 100;
/// As many values as a text may have; an ordinary Pod has fifty, a node some hundred Pods.
pub(super) const MAX_VALUES: usize = 50_000;
/// As long as a field's name may be, in bytes; the longest of Kubernetes, a label's, have 317.
const MAX_NAME: usize = 1024;
/// As many separators as the parser may read ahead. It keeps what it reads of a list in brackets until it
/// knows that the whole is no field's name.
const MAX_AHEAD: usize = 50_000;
/// As long as a scalar may be that is more than a text, in bytes.
const MAX_PLAIN: usize = 64;
/// As much as is shown of a path or of a message, in bytes.
const MAX_SHOWN: usize = 600;

/// Spans of the fields of a document. Fields are named from the document, or from the list item that these
/// spans belong to; problems name them from the whole document.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    document: Span,
    /// The path of the item, or empty for the document.
    within: String,
}

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    line: u32,
    column: u32,
}

impl Position {
    /// The position after a text that starts here.
    fn behind(self, text: &str) -> Self {
        let columns = |text: &str| number(text.chars().count());
        match text.rsplit_once('\n') {
            None => Self {
                column: self.column.saturating_add(columns(text)),
                ..self
            },
            Some((before, last)) => Self {
                line: self.line + number(before.matches('\n').count()) + 1,
                column: columns(last) + 1,
            },
        }
    }
}

/// A value, where it stands.
#[derive(Debug, Clone, Default)]
struct Span {
    position: Position,
    /// It stands elsewhere, and here only its alias.
    alias: bool,
    node: Arc<SpanNode>,
}

/// A value without its position.
#[derive(Debug, Default)]
pub(super) struct SpanNode {
    /// The text of a scalar that stands without quotes, and is not long.
    plain: Option<Box<str>>,
    inner: Inner,
    /// Depth of the values below it.
    depth: usize,
}

#[derive(Debug, Default)]
enum Inner {
    #[default]
    Scalar,
    List(Box<[Span]>),
    /// Sorted by name, each name once.
    Fields(Box<[NamedSpan]>),
}

#[derive(Debug)]
struct NamedSpan {
    name: Box<str>,
    /// Position of the name.
    position: Position,
    /// It stands more than once; the last one is this.
    repeated: bool,
    value: Span,
}

impl SpanNode {
    /// The text of a scalar that stands without quotes.
    pub(super) fn plain(&self) -> Option<&str> {
        self.plain.as_deref()
    }

    /// The items of a list.
    pub(super) fn items(&self) -> impl Iterator<Item = &SpanNode> {
        let items = match &self.inner {
            Inner::List(items) => &items[..],
            _ => &[],
        };
        items.iter().map(|item| &*item.node)
    }

    /// The value of a field, its own or a merged one.
    pub(super) fn value_of(&self, name: &str) -> Option<&SpanNode> {
        self.field(name).map(|field| &*field.value.node)
    }

    fn field(&self, name: &str) -> Option<&NamedSpan> {
        let own = self.own_field(name);
        own.or_else(|| {
            let merged = &self.own_field("<<")?.value.node;
            let first = merged.field(name);
            first.or_else(|| merged.items().find_map(|item| item.field(name)))
        })
    }

    fn own_field(&self, name: &str) -> Option<&NamedSpan> {
        let Inner::Fields(fields) = &self.inner else {
            return None;
        };
        let at = fields.binary_search_by(|field| (*field.name).cmp(name));
        at.ok().map(|at| &fields[at])
    }
}

/// The node of a field: the value itself, or the nearest enclosing one that exists.
struct Nearest<'a> {
    span: &'a Span,
    /// Position of the field's name.
    name: Option<Position>,
    /// It is the field itself.
    exact: bool,
}

impl Spans {
    /// A problem with a field; it points at the field, or at the nearest enclosing one that exists.
    pub(crate) fn problem(&self, field: impl AsRef<str>, message: impl Into<String>) -> Problem {
        let field = path::join(&self.within, field.as_ref());
        let position = self.nearest(&field).span.position;
        problem_at(position, field, message)
    }

    /// The path of a field from the whole document, as problems have it.
    pub(super) fn path(&self, field: &str) -> String {
        path::join(&self.within, field)
    }

    /// A problem with a field's being there at all; it points at the field's name.
    pub(crate) fn problem_with_key(
        &self,
        field: impl AsRef<str>,
        message: impl Into<String>,
    ) -> Problem {
        let field = path::join(&self.within, field.as_ref());
        let nearest = self.nearest(&field);
        let name = nearest.name.filter(|_| nearest.exact);
        let position = name.unwrap_or(nearest.span.position);
        problem_at(position, field, message)
    }

    /// The text of a scalar that stands without quotes in the document.
    pub(crate) fn plain_text(&self, field: &str) -> Option<&str> {
        let nearest = self.nearest(&path::join(&self.within, field));
        nearest.span.node.plain().filter(|_| nearest.exact)
    }

    /// A problem for each field below these spans that is given twice, of those that `concerns` selects.
    pub(crate) fn repeated(&self, concerns: impl Fn(&str) -> bool) -> Vec<Problem> {
        let mut problems = vec![];
        let nearest = self.nearest(&self.within);
        if nearest.exact {
            repeated_in(&nearest.span.node, &self.within, &mut |at, position| {
                if concerns(at) {
                    let message = "the field is given twice, expected once";
                    add(&mut problems, problem_at(position, at.to_owned(), message));
                }
            });
        }
        problems
    }

    /// The spans below a field.
    pub(super) fn below(&self, field: &str) -> Self {
        Self {
            document: self.document.clone(),
            within: path::join(&self.within, field),
        }
    }

    /// The document's value.
    pub(super) fn root(&self) -> &SpanNode {
        &self.document.node
    }

    fn nearest(&self, field: &str) -> Nearest<'_> {
        let mut found = Nearest {
            span: &self.document,
            name: None,
            exact: true,
        };
        let mut rest = field;
        while !rest.is_empty() {
            let Some((span, name, left)) = step(&found.span.node, rest) else {
                found.exact = false;
                break;
            };
            (found.span, found.name, rest) = (span, name, left);
        }
        found
    }
}

/// The value that the first part of a path names, where its name stands, and the rest of the path.
fn step<'a, 'p>(node: &'a SpanNode, at: &'p str) -> Option<(&'a Span, Option<Position>, &'p str)> {
    let field = |name: &str, rest: &'p str| {
        let field = node.field(name)?;
        Some((&field.value, Some(field.position), rest))
    };
    let Some(inside) = at.strip_prefix('[') else {
        let at = at.strip_prefix('.').unwrap_or(at);
        let end = at.find(['.', '[']).unwrap_or(at.len());
        return field(&at[..end], &at[end..]);
    };
    // A name may have brackets of its own.
    let mut ends = inside.match_indices(']').map(|(end, _)| end);
    if let Inner::List(items) = &node.inner {
        let end = ends.next()?;
        let item = items.get(inside[..end].parse::<usize>().ok()?)?;
        return Some((item, None, &inside[end + 1..]));
    }
    ends.find_map(|end| field(&inside[..end], &inside[end + 1..]))
}

fn repeated_in(node: &SpanNode, at: &str, found: &mut impl FnMut(&str, Position)) {
    match &node.inner {
        Inner::Scalar => {}
        Inner::List(items) => {
            for (i, item) in items.iter().enumerate().filter(|(_, item)| !item.alias) {
                repeated_in(&item.node, &path::index(at, i), found);
            }
        }
        Inner::Fields(fields) => {
            for field in fields {
                let at = path::key(at, &field.name);
                if field.repeated {
                    found(&at, field.position);
                }
                if !field.value.alias {
                    repeated_in(&field.value.node, &at, found);
                }
            }
        }
    }
}

fn problem_at(position: Position, field: String, message: impl Into<String>) -> Problem {
    Problem {
        line: position.line,
        column: position.column,
        field: shortened(field),
        message: shortened(message.into()),
        ..Problem::default()
    }
}

/// The text without its middle, if it is very long: what was expected stands at the end.
fn shortened(text: String) -> String {
    if text.len() <= MAX_SHOWN {
        return text;
    }
    let half = MAX_SHOWN / 2;
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..half).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - half..text.len()).find(boundary);
    let tail = tail.unwrap_or(text.len());
    let (head, size, tail) = (&text[..head], text.len(), &text[tail..]);
    format!("{head}… ({size} bytes) …{tail}")
}

/// A line or column.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Returns the message for a text that a parser cannot read, from the parser's own message.
pub(super) fn not_yaml(error: &str) -> String {
    if error.contains("recursion limit") {
        return too_deep();
    }
    format!("not YAML: {error}")
}

/// Returns the message for a text that is nested too deeply.
pub(super) fn too_deep() -> String {
    format!("found values that stand more than {MAX_DEPTH} deep in each other, expected a Pod")
}

/// Returns the message for a text with too many values.
pub(super) fn too_many_values() -> String {
    format!("found more than {MAX_VALUES} values, the most that is read")
}

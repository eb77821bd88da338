//! Spans of values in a text: a tree beside the values.
//!
//! Spans of YAML are built from the events of a second parser. That is also the first pass over a text that
//! may be hostile, so its memory is bounded.

#![allow(
    clippy::arithmetic_side_effects,
    reason = "positions and counts in a text whose size is bounded"
)]

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::{Problem, add, path};

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
    pub(super) fn plain_text(&self, field: &str) -> Option<&str> {
        let nearest = self.nearest(&path::join(&self.within, field));
        nearest.span.node.plain().filter(|_| nearest.exact)
    }

    /// A problem for each field below these spans that is given twice, of those that `concerns` selects.
    pub(super) fn repeated(&self, concerns: impl Fn(&str) -> bool) -> Vec<Problem> {
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

/// Result of the first pass over a YAML text.
pub(super) struct YamlScan<'a> {
    /// The spans of each document that could be parsed.
    pub(super) documents: Vec<Spans>,
    /// The syntax error, if there is one, and the text that was not read.
    pub(super) lost: Option<(Problem, &'a str)>,
    /// Values that were read.
    pub(super) values: usize,
}

/// Goes through a YAML text.
///
/// # Errors
/// It is too much: too deep, too many values, names too long.
pub(super) fn scan(text: &str) -> Result<YamlScan<'_>, Problem> {
    let ahead = Ahead::default();
    let mut builder = SpanBuilder::default();
    let mut lost = None;
    for event in Parser::new_from_iter(ahead.watch(text)) {
        match event {
            Ok((event, span)) => {
                builder.take(event, span.start)?;
                ahead.event(builder.frames.last(), span.end);
            }
            Err(error) if ahead.too_far.get() => {
                return Err(problem_at(
                    position_of(*error.marker()),
                    String::new(),
                    too_many_values(),
                ));
            }
            Err(error) => {
                lost = Some((scan_problem(&error), rest(text, *error.marker())));
                break;
            }
        }
    }
    Ok(YamlScan {
        documents: builder.documents,
        lost,
        values: builder.values,
    })
}

/// Read-ahead of the parser beyond the values that it has reported.
#[derive(Default)]
struct Ahead {
    /// Separators that were read since.
    separators: Cell<usize>,
    /// Characters that were read in all.
    read: Cell<usize>,
    /// End of the last event, in characters.
    event: Cell<usize>,
    /// Start of the innermost open list or object, in characters.
    frame: Cell<Option<usize>>,
    too_far: Cell<bool>,
}

impl Ahead {
    /// The characters of the text, as far as the parser may read.
    fn watch<'a>(&'a self, text: &'a str) -> impl Iterator<Item = char> + 'a {
        text.chars().take_while(|c| {
            self.read.set(self.read.get() + 1);
            if !is_separator(*c) {
                return true;
            }
            self.separators.set(self.separators.get() + 1);
            if self.separators.get() > MAX_AHEAD {
                self.separators.set(0);
                self.too_far.set(!self.in_one_text(text));
            }
            !self.too_far.get()
        })
    }

    /// The parser has reported all events up to here.
    fn event(&self, innermost: Option<&Frame>, end: Marker) {
        self.separators.set(0);
        self.event.set(end.index());
        self.frame.set(innermost.map(|frame| frame.start));
    }

    /// True if everything being read is one scalar: quoted, or after `|` or `>`, which have that meaning only
    /// outside brackets.
    fn in_one_text(&self, text: &str) -> bool {
        let begins = |c: char| ['[', '{', '&', '!'].contains(&c);
        let around = self.frame.get().and_then(|at| text.chars().nth(at));
        let mut ahead = text.chars().enumerate().skip(self.event.get());
        let first = ahead.find(|(_, c)| !c.is_whitespace() && ![':', '-', '?'].contains(c));
        if around.is_some_and(begins) {
            return false;
        }
        match first {
            Some((_, '|' | '>')) => true,
            Some((_, quote @ ('"' | '\''))) => {
                let end = end_of_quoted(ahead, quote);
                end.is_none_or(|end| end + 1 >= self.read.get())
            }
            _ => false,
        }
    }
}

/// Returns the end of a quoted text whose opening quote has been read.
fn end_of_quoted(text: impl Iterator<Item = (usize, char)>, quote: char) -> Option<usize> {
    let mut text = text.peekable();
    while let Some((at, c)) = text.next() {
        let escapes = quote == '"' && c == '\\';
        let ends = c == quote;
        let doubled = quote == '\'' && text.peek().is_some_and(|(_, next)| *next == quote);
        if ends && !doubled {
            return Some(at);
        }
        if escapes || ends {
            text.next();
        }
    }
    None
}

/// True if the character separates items of a flow collection.
fn is_separator(c: char) -> bool {
    matches!(
        c,
        ',' | ':' | '?' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '"' | '\'' | '#'
    )
}

/// The spans of a JSON text.
///
/// # Errors
/// It is too much: too deep, too many values, names too long.
pub(super) fn of_json(text: &str) -> Result<Spans, Problem> {
    let mut builder = SpanBuilder::default();
    let mut at = Position { line: 1, column: 1 };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let token = json_token(rest, first);
        builder.take_json(token, at)?;
        at = at.behind(token);
        rest = &rest[token.len()..];
    }
    Ok(builder.documents.pop().unwrap_or_default())
}

/// Returns the first token of a JSON text: a string, a bracket, a comma, a word or number, or white space.
fn json_token(text: &str, first: char) -> &str {
    let end = match first {
        '"' => {
            let mut escaped = false;
            let end = text[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map(|end| end + 2)
        }
        '[' | ']' | '{' | '}' | ',' | ':' => Some(1),
        c if c.is_ascii_whitespace() => text.find(|c: char| !c.is_ascii_whitespace()),
        _ => text.find(|c: char| c.is_ascii_whitespace() || "[]{},:\"".contains(c)),
    };
    &text[..end.unwrap_or(text.len())]
}

fn scan_problem(error: &ScanError) -> Problem {
    problem_at(
        position_of(*error.marker()),
        String::new(),
        not_yaml(error.info()),
    )
}

/// Returns the text after a marker, which counts characters.
fn rest(text: &str, marker: Marker) -> &str {
    let at = text.char_indices().nth(marker.index());
    at.map_or("", |(at, _)| &text[at..])
}

fn position_of(marker: Marker) -> Position {
    Position {
        line: number(marker.line()),
        column: number(marker.col() + 1),
    }
}

/// A line or column.
pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct SpanBuilder {
    documents: Vec<Spans>,
    /// Lists and objects that are open.
    frames: Vec<Frame>,
    anchors: HashMap<usize, Arc<SpanNode>>,
    values: usize,
}

/// A list or an object that stands open.
struct Frame {
    position: Position,
    /// Start of the frame, in characters; 0 in JSON.
    start: usize,
    anchor: usize,
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Span>),
    Fields {
        fields: Vec<NamedSpan>,
        /// The name of the value that comes next, and where it stands.
        name: Option<(Box<str>, Position)>,
    },
}

impl Content {
    fn no_fields() -> Self {
        let (fields, name) = (vec![], None);
        Self::Fields { fields, name }
    }
}

impl SpanBuilder {
    fn take_json(&mut self, token: &str, position: Position) -> Result<(), Problem> {
        match token.chars().next() {
            Some('[') => self.open(position, 0, 0, Content::List(vec![])),
            Some('{') => self.open(position, 0, 0, Content::no_fields()),
            Some(']' | '}') => self.close(),
            Some('"') if self.at_name() => {
                let name: Result<String, _> = serde_json::from_str(token);
                self.name(&name.unwrap_or_default(), position)
            }
            Some('"') => self.complete(position, 0, SpanNode::default()),
            Some(c) if c.is_ascii_whitespace() || [',', ':'].contains(&c) => Ok(()),
            _ => {
                let plain = (token.len() <= MAX_PLAIN).then(|| token.into());
                let node = SpanNode {
                    plain,
                    ..SpanNode::default()
                };
                self.complete(position, 0, node)
            }
        }
    }

    fn take(&mut self, event: Event, start: Marker) -> Result<(), Problem> {
        let position = position_of(start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none() && text.len() <= MAX_PLAIN;
                if self.at_name() {
                    return self.name(&text, position);
                }
                let node = SpanNode {
                    plain: plain.then(|| text.into()),
                    ..SpanNode::default()
                };
                self.complete(position, anchor, node)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().unwrap_or_default();
                if self.at_name() {
                    let name = node.plain().unwrap_or_default().to_owned();
                    return self.name(&name, position);
                }
                let span = Span {
                    position,
                    alias: true,
                    node,
                };
                self.attach(span)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(position, start.index(), anchor, Content::List(vec![]))
            }
            Event::MappingStart(anchor, _) => {
                self.open(position, start.index(), anchor, Content::no_fields())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
        }
    }

    /// True if the next scalar is a field's name.
    fn at_name(&self) -> bool {
        let last = self.frames.last();
        last.is_some_and(|frame| matches!(frame.content, Content::Fields { name: None, .. }))
    }

    fn name(&mut self, text: &str, position: Position) -> Result<(), Problem> {
        if text.len() > MAX_NAME {
            let message = format!(
                "found a field's name of {} bytes, expected at most {MAX_NAME}",
                text.len()
            );
            return Err(problem_at(position, String::new(), message));
        }
        if let Some(Content::Fields { name, .. }) = self.frames.last_mut().map(|f| &mut f.content) {
            *name = Some((text.into(), position));
        }
        Ok(())
    }

    fn open(
        &mut self,
        position: Position,
        start: usize,
        anchor: usize,
        content: Content,
    ) -> Result<(), Problem> {
        self.frames.push(Frame {
            position,
            start,
            anchor,
            depth: 0,
            content,
        });
        check_depth(self.frames.len(), position)
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let inner = match frame.content {
            Content::List(items) => Inner::List(items.into()),
            Content::Fields { fields, .. } => Inner::Fields(sorted(fields).into()),
        };
        let node = SpanNode {
            plain: None,
            inner,
            depth: frame.depth + 1,
        };
        self.complete(frame.position, frame.anchor, node)
    }

    /// Takes a value that has been read to its end.
    fn complete(
        &mut self,
        position: Position,
        anchor: usize,
        node: SpanNode,
    ) -> Result<(), Problem> {
        let node = Arc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Arc::clone(&node));
        }
        self.attach(Span {
            position,
            alias: false,
            node,
        })
    }

    /// Puts a value where it belongs.
    fn attach(&mut self, value: Span) -> Result<(), Problem> {
        let position = value.position;
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(problem_at(position, String::new(), too_many_values()));
        }
        check_depth(self.frames.len() + value.node.depth, position)?;
        let Some(frame) = self.frames.last_mut() else {
            self.documents.push(Spans {
                document: value,
                within: String::new(),
            });
            return Ok(());
        };
        frame.depth = frame.depth.max(value.node.depth);
        match &mut frame.content {
            Content::List(items) => items.push(value),
            Content::Fields { fields, name } => match name.take() {
                Some((name, position)) => fields.push(NamedSpan {
                    name,
                    position,
                    repeated: false,
                    value,
                }),
                // A list or an object as a name; no Pod has such.
                None => *name = Some((Box::default(), position)),
            },
        }
        Ok(())
    }
}

/// The fields by name, of those that stand twice the last.
fn sorted(mut fields: Vec<NamedSpan>) -> Vec<NamedSpan> {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let mut once: Vec<NamedSpan> = Vec::with_capacity(fields.len());
    for mut field in fields {
        if once.last().is_some_and(|last| last.name == field.name) {
            once.pop();
            field.repeated = true;
        }
        once.push(field);
    }
    once
}

fn check_depth(depth: usize, position: Position) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(problem_at(position, String::new(), too_deep()));
    }
    Ok(())
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

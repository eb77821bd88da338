//! Builds the spans of a text: of YAML from the events of a second parser, of JSON from its tokens.
//!
//! This is the first pass over a text that may be hostile: depth, number of values and the parser's
//! read-ahead are bounded, and the first text beyond a bound ends the pass.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::{
    Inner, MAX_AHEAD, MAX_DEPTH, MAX_NAME, MAX_PLAIN, MAX_VALUES, NamedSpan, Position, Span,
    SpanNode, Spans, not_yaml, number, problem_at, too_deep, too_many_values,
};
use crate::manifest::Problem;

/// Result of the first pass over a YAML text.
pub(in crate::manifest) struct YamlScan<'a> {
    /// The spans of each document that could be parsed.
    pub(in crate::manifest) documents: Vec<Spans>,
    /// The syntax error, if there is one, and the text that was not read.
    pub(in crate::manifest) lost: Option<(Problem, &'a str)>,
    /// Values that were read.
    pub(in crate::manifest) values: usize,
}

/// Goes through a YAML text.
///
/// # Errors
/// It is too much: too deep, too many values, names too long.
pub(in crate::manifest) fn scan(text: &str) -> Result<YamlScan<'_>, Problem> {
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
pub(in crate::manifest) fn of_json(text: &str) -> Result<Spans, Problem> {
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

//! YAML as a tree with places: what stands where, before anything is said about what it means.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved here. Scalars keep their own spelling, whatever YAML would take them for.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::problem::{Place, Problem};
use crate::limits::{CONFIG_DEPTH_MAX, CONFIG_NODES_MAX};

const MERGE: &str = "<<";

#[derive(Clone, Debug)]
pub struct Node {
    pub at: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing: no value, `~` or `null`.
    Nothing,
    Text(String),
    List(Vec<Node>),
    Block(Vec<Entry>),
}

/// A key of a block, with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub value: Node,
}

/// Reads the text of a file.
///
/// # Errors
/// What is not YAML, or more than one document.
pub fn parse(source: &str) -> Result<Node, Problem> {
    let options = granit_parser::options! { emit_comments: false };
    let mut builder = Builder { parser: Parser::new_from_str_with_options(source, options), anchors: BTreeMap::new(), nodes: 0 };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ if root.is_some() => {
                let mut at = place(span);
                at.width = 1;
                return Err(Problem::new(
                    at,
                    "a second document begins here",
                    "one configuration per file",
                    "nothing: remove the line `---` and what follows, or move it to a file of its own",
                ));
            }
            event => root = Some(builder.node(event, span, 0)?),
        }
    }
    Ok(root.unwrap_or(Node { at: Place::TOP, value: Value::Nothing }))
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

struct Builder<'a> {
    parser: Events<'a>,
    /// What an alias stands for.
    anchors: BTreeMap<usize, Node>,
    /// Nodes made so far.
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next_event() {
            Some(next) => next.map_err(|error| no_yaml(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = place(span);
        self.grow(1, at)?;
        if depth > CONFIG_DEPTH_MAX {
            let expected = format!("at most {CONFIG_DEPTH_MAX} levels");
            return Err(Problem::new(
                at,
                "blocks and lists are nested too deeply",
                expected,
                "fewer brackets and less indentation",
            ));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                (if nothing { Value::Nothing } else { Value::Text(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Block(self.block(depth)?), anchor),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    let what = "this alias stands for something that it is a part of";
                    return Err(Problem::new(at, what, "an anchor that ends before", "the values themselves"));
                };
                self.grow(size(&node), at)?;
                return Ok(node);
            }
            _ => {
                let what = "this is not YAML: a value is missing";
                return Err(Problem::new(at, what, "a value", "key: value"));
            }
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.grow(size(&node), at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(list),
                (event, span) => list.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn block(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let (mut block, mut merged): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            match (key.value, value.value) {
                (Value::Text(key), Value::Block(entries)) if key == MERGE => merged.extend(entries),
                (Value::Text(key), Value::List(list)) if key == MERGE => {
                    let blocks =
                        list.into_iter().filter_map(|node| if let Value::Block(block) = node.value { Some(block) } else { None });
                    merged.extend(blocks.flatten());
                }
                (Value::Text(text), given) => {
                    block.push(Entry { key: text, key_at: key.at, value: Node { at: value.at, value: given } });
                }
                (Value::Nothing | Value::List(_) | Value::Block(_), _) => {
                    return Err(Problem::new(key.at, "this is not the name of a key", "a word and a colon", "key: value"));
                }
            }
        }
        // Of a key that several bring, the first holds; one that the block has itself holds before all.
        for entry in merged {
            if block.iter().all(|one| one.key != entry.key) {
                block.push(entry);
            }
        }
        Ok(block)
    }

    fn grow(&mut self, by: usize, at: Place) -> Result<(), Problem> {
        self.nodes += by;
        if self.nodes > CONFIG_NODES_MAX {
            let expected = format!("at most {CONFIG_NODES_MAX} values, aliases written out");
            return Err(Problem::new(at, "the file unfolds into too much", expected, "fewer aliases"));
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        Value::Nothing | Value::Text(_) => 1,
        Value::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Block(block) => 1 + block.iter().map(|entry| 1 + size(&entry.value)).sum::<usize>(),
    }
}

fn place(span: Span) -> Place {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.index().saturating_sub(start.index()).max(1) } else { 1 };
    Place { line: start.line(), column: start.col() + 1, width }
}

fn no_yaml(error: &ScanError) -> Problem {
    let at = Place { line: error.marker().line(), column: error.marker().col() + 1, width: 1 };
    Problem::new(
        at,
        format!("this is not YAML: {}", error.info()),
        "keys and values as `key: value`, blocks indented by two spaces, text with special characters in double quotes",
        "the line so that brackets, quotes and indentation close",
    )
}

/// The key path of every place where a value or a key stands: `peers[0].endpoint`. A key has the path of its block.
pub fn paths(root: &Node) -> BTreeMap<(usize, usize), String> {
    fn walk(node: &Node, path: &str, all: &mut BTreeMap<(usize, usize), String>) {
        all.entry((node.at.line, node.at.column)).or_insert_with(|| path.to_owned());
        match &node.value {
            Value::Nothing | Value::Text(_) => {}
            Value::List(list) => list.iter().enumerate().for_each(|(index, node)| walk(node, &format!("{path}[{index}]"), all)),
            Value::Block(block) => {
                for entry in block {
                    all.entry((entry.key_at.line, entry.key_at.column)).or_insert_with(|| path.to_owned());
                    walk(&entry.value, &joined(path, &entry.key), all);
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, "", &mut all);
    all
}

/// Where the key of this path stands, or what it is in if there is no such key.
pub fn place_of(root: &Node, path: &str) -> Option<Place> {
    let is_within = |inner: &str| {
        path.strip_prefix(inner).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
    };
    let (mut node, mut at, mut found) = (root, String::new(), None);
    loop {
        let next = match &node.value {
            Value::Nothing | Value::Text(_) => None,
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(index, one)| (format!("{at}[{index}]"), one.at, one))
                .find(|(inner, ..)| is_within(inner)),
            Value::Block(block) => block
                .iter()
                .map(|entry| (joined(&at, &entry.key), entry.key_at, &entry.value))
                .filter(|(inner, ..)| is_within(inner))
                .max_by_key(|(inner, ..)| inner.len()),
        };
        let Some((inner, place, below)) = next else { return found };
        (node, at, found) = (below, inner, Some(place));
    }
}

/// A key within a block.
pub fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

//! Reads blocks of YAML and collects every mistake in them: place, fault, what was expected, what to write instead.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use adit_engine::nearest::nearest;
use adit_engine::shown::Shown;
use serde_yaml::{Mapping, Value};

/// Longest piece of the file that is shown.
const SHOWN: usize = 60;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key in the file, `rooms.lab.keys[0]`; empty where it is about the whole.
    pub key: String,
    /// What is wrong: one clause, without a full stop.
    pub what: String,
    pub expected: String,
    /// What to write or to run instead.
    pub write: String,
}

/// All mistakes of a file.
#[derive(Clone, Debug)]
pub struct Mistakes {
    pub file: PathBuf,
    pub list: Vec<Mistake>,
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            writeln!(f, "{}: {}", self.file.display(), mistake.what)?;
            if !mistake.key.is_empty() {
                writeln!(f, "  key:      {}", mistake.key)?;
            }
            writeln!(f, "  expected: {}", mistake.expected)?;
            writeln!(f, "  write:    {}", mistake.write.replace('\n', "\n            "))?;
        }
        match self.list.len() {
            1 => Ok(()),
            many => writeln!(f, "{many} mistakes in {}", self.file.display()),
        }
    }
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub struct Reader {
    pub mistakes: Vec<Mistake>,
}

/// A block of the file. Which keys it may have is said when it is opened, so each is known or a mistake.
#[derive(Debug)]
pub struct Block<'a> {
    path: String,
    entries: Option<&'a Mapping>,
}

impl Reader {
    pub fn fail(&mut self, key: &str, what: impl Into<String>, expected: impl Into<String>, write: impl Into<String>) {
        let key = key.to_owned();
        self.mistakes.push(Mistake { key, what: what.into(), expected: expected.into(), write: write.into() });
    }

    /// Opens a block that has these keys.
    pub fn block<'a>(&mut self, path: &str, value: Option<&'a Value>, keys: &[&str], example: &str) -> Block<'a> {
        let entries = match value {
            None | Some(Value::Null) => None,
            Some(Value::Mapping(entries)) => Some(entries),
            Some(other) => {
                let what = format!("{} is {}, not a block of keys", name(path), shown(other));
                self.fail(path, what, format!("a block with {}", keys.join(", ")), example);
                None
            }
        };
        let block = Block { path: path.to_owned(), entries };
        for entry in entries.into_iter().flat_map(Mapping::keys) {
            let text = entry.as_str();
            if text.is_some_and(|key| keys.contains(&key)) {
                continue;
            }
            let (key, expected) = (shown(entry), format!("one of {}", keys.join(", ")));
            let file_of = |text| keys.iter().copied().find(|known| known.strip_suffix("_file") == Some(text));
            match text.and_then(|text| nearest(text, keys).or_else(|| file_of(text))) {
                Some(meant) => {
                    let what = format!("there is no key {key} here; did you mean `{meant}`?");
                    self.fail(&block.at(&key), what, expected, format!("{meant}:"));
                }
                None => {
                    let what = format!("there is no key {key} here");
                    self.fail(&block.at(&key), what, expected, format!("nothing: remove {key}"));
                }
            }
        }
        block
    }

    /// Some text, or what is missing.
    pub fn text(&mut self, block: &Block<'_>, key: &str, expected: &str, example: &str) -> Option<String> {
        let found = self.optional_text(block, key, expected, example);
        if block.get(key).is_none() {
            let (path, write) = (block.at(key), format!("{key}: {example}"));
            self.fail(&path, format!("the key `{key}` is missing"), expected, write);
        }
        found
    }

    pub fn optional_text(&mut self, block: &Block<'_>, key: &str, expected: &str, example: &str) -> Option<String> {
        let value = block.get(key)?;
        self.plain(&block.at(key), value, expected, &format!("{key}: {example}"))
    }

    /// A list of texts; one text alone is a list, too. Each comes with its place.
    pub fn texts(&mut self, block: &Block<'_>, key: &str, expected: &str, example: &str) -> Vec<(String, String)> {
        let (path, write) = (block.at(key), format!("{key}: [{example}]"));
        match block.get(key) {
            None => Vec::new(),
            Some(Value::Sequence(list)) => {
                let each = list.iter().enumerate().map(|(index, value)| (format!("{path}[{index}]"), value));
                each.filter_map(|(at, value)| Some((at.clone(), self.plain(&at, value, expected, &write)?))).collect()
            }
            Some(value) => self.plain(&path, value, expected, &write).map(|text| (path, text)).into_iter().collect(),
        }
    }

    fn plain(&mut self, path: &str, value: &Value, expected: &str, write: &str) -> Option<String> {
        match value {
            Value::String(text) => return Some(text.clone()),
            Value::Number(number) => return Some(number.to_string()),
            _ => self.fail(path, format!("{} is {}, not one plain value", name(path), shown(value)), expected, write),
        }
        None
    }

    /// A whole number in a range; the default where it is left out or wrong.
    pub fn number(&mut self, block: &Block<'_>, key: &str, range: RangeInclusive<u64>, unit: &str, default: u64) -> u64 {
        let Some(value) = block.get(key) else { return default };
        let given = match value {
            // Underscores between digits are how people write large numbers.
            Value::String(text) => text.replace('_', "").parse().ok(),
            other => other.as_u64(),
        };
        let (low, high) = (*range.start(), *range.end());
        match given {
            Some(number) if range.contains(&number) => return number,
            given => {
                let what = match given {
                    Some(number) => format!("`{key}` is {number}, out of range"),
                    None => format!("`{key}` is {}, not a whole number", shown(value)),
                };
                let near = given.map_or(default, |number| number.clamp(low, high));
                self.fail(&block.at(key), what, format!("a number of {unit} from {low} to {high}"), format!("{key}: {near}"));
            }
        }
        default
    }
}

impl<'a> Block<'a> {
    /// The place of a key in it.
    pub fn at(&self, key: &str) -> String {
        let key = key.trim_matches('`');
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether a key is there, also one that says nothing.
    pub fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// What a key says, if it says anything.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.entries?.get(key).filter(|value| !value.is_null())
    }
}

/// Texts that are there more than once, each told once.
pub fn repeated(list: &[(String, String)]) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    list.iter().filter(|(_, text)| !seen.insert(text.as_str())).cloned().collect()
}

/// A piece of the file, as short as fits into a message, without anything that plays with a terminal.
pub fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Sequence(_) => return "a list".to_owned(),
        Value::Mapping(_) => return "a block".to_owned(),
        Value::Tagged(_) => return "a value with a tag".to_owned(),
    };
    format!("`{}`", Shown::of(text.chars().take(SHOWN).collect::<String>()))
}

fn name(path: &str) -> String {
    if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") }
}

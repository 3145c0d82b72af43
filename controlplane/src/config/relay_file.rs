//! The file of a relay beside that of a gateway: its mistakes with their lines, and what is said where one was taken for the other.

use std::path::Path;

use adit_relay::config::{Config, Mistake};

use super::problem::{Place, Problem, Problems};
use super::tree::{self, Node, Value};

/// Reads the file of a relay.
///
/// # Errors
/// Every mistake in it, with its place.
pub fn load(file: &Path) -> Result<Config, Problems> {
    Config::load(file).map_err(|mistakes| {
        let source = std::fs::read_to_string(file).unwrap_or_default();
        Problems::new(file.to_owned(), &source, placed(&source, mistakes.list))
    })
}

/// The mistakes with the places of their keys. What is missing is missed where its block begins.
fn placed(source: &str, mistakes: Vec<Mistake>) -> Vec<Problem> {
    let tree = tree::parse(source);
    if let Some(problem) = tree.as_ref().ok().and_then(is_gateways) {
        return vec![problem];
    }
    let problem = |mistake: Mistake| {
        let at = match &tree {
            Ok(tree) if !mistake.key.is_empty() => tree::place_of(tree, &mistake.key).unwrap_or(Place::TOP),
            Ok(_) => Place::FILE,
            Err(error) => error.at,
        };
        Problem { key: mistake.key, ..Problem::new(at, mistake.what, mistake.expected, mistake.write) }
    };
    mistakes.into_iter().map(problem).collect()
}

/// Whether somebody gave the file of a gateway where that of a relay belongs.
pub fn is_gateway(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    tree::parse(&text).is_ok_and(|tree| is_gateways(&tree).is_some())
}

fn has(root: &Node, key: &str) -> bool {
    matches!(&root.value, Value::Block(entries) if entries.iter().any(|entry| entry.key == key))
}

/// What is said to the file of a gateway where that of a relay belongs.
fn is_gateways(root: &Node) -> Option<Problem> {
    let is_it = (has(root, "peers") || has(root, "interface")) && !has(root, "rooms");
    let (what, expected) = ("this is a gateway's file: it has `interface` or `peers`", "the file of a relay, with its `rooms`");
    is_it.then(|| {
        Problem::new(Place::FILE, what, expected, "adit run -c FILE, or the relay's own file: /etc/adit-relay/relay.yaml")
    })
}

/// What is said to the file of a relay where that of a gateway belongs.
pub(super) fn is_relays(root: &Node) -> Option<Problem> {
    let is_it = has(root, "rooms") && !has(root, "peers") && !has(root, "interface");
    let (what, expected) = ("this is a relay's file: it has `rooms`", "the file of a gateway, with `interface` and `peers`");
    is_it.then(|| Problem::new(Place::FILE, what, expected, "adit relay -c FILE to run it, adit relay check -c FILE to try it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(source: &str, keys: &[&str]) -> Vec<(usize, usize)> {
        let mistake =
            |key: &&str| Mistake { key: (*key).to_owned(), what: String::new(), expected: String::new(), write: String::new() };
        let list = placed(source, keys.iter().map(mistake).collect());
        list.iter().map(|problem| (problem.at.line, problem.at.column)).collect()
    }

    #[test]
    fn a_mistake_stands_at_its_key_or_where_its_block_begins() {
        let source = "listen: x\nrooms:\n  lab.a: { keys: [one, two] }\n  lab: { token_file: t }\npages: { listen: y }\n";
        let keys = ["listen", "rooms.lab.a.keys[1]", "rooms.lab.token_file", "pages.token_file", "certificate", ""];
        assert_eq!(places(source, &keys), [(1, 1), (3, 24), (4, 10), (5, 1), (1, 1), (0, 0)]);
        assert_ne!(places("a: [\n", &[""])[0].0, 0, "where the YAML is broken");
    }

    #[test]
    fn each_file_is_told_from_the_other() {
        let tree = |source: &str| tree::parse(source).unwrap();
        let (relay, gateway) = (tree("listen: x\nrooms: { lab: }\n"), tree("name: a\npeers: []\nrelay: { rooms: [lab] }\n"));
        assert!(is_relays(&relay).is_some() && is_gateways(&relay).is_none());
        assert!(is_relays(&gateway).is_none() && is_gateways(&gateway).is_some());
        assert!(is_relays(&tree("listen: x")).is_none() && is_gateways(&tree("listen: x")).is_none());
    }
}

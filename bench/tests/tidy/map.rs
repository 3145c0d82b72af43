//! The map of all files in docs.

use std::collections::BTreeMap;
use std::fs;

use super::{LAYERS, is_test, root, sources};

/// The first sentence of what a file says that it is.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).take_while(|line| !line.is_empty());
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    let end = paragraph.find(". ").or(paragraph.find(": ")).map_or(paragraph.len(), |end| end);
    paragraph[..end].trim_end_matches(['.', ':']).to_owned()
}

/// `docs/MAP.md`: every file that is built into something, with its first sentence, as a tree for each crate.
fn map() -> String {
    let sources = sources();
    let (mut map, mut crates) = (String::from(MAP_HEAD), LAYERS.to_vec());
    crates.sort_by_key(|(folder, _)| MAP_ORDER.iter().position(|known| known == folder));
    for (folder, _) in crates {
        map += &format!("\n## {folder}\n```\n");
        let source = format!("{folder}/src/");
        for (name, text) in in_reading_order(&sources, &source) {
            let indent = "  ".repeat(name.matches('/').count());
            let file = format!("{indent}{}", name.rsplit('/').next().unwrap_or(name));
            map += &format!("{file:<30} {}\n", first_sentence(text));
        }
        map += "```\n";
    }
    map
}

const MAP_HEAD: &str = "# Map\n\nEvery file below a `src`, with the first sentence of what it says of itself. Kept by a test: `ADIT_WRITE_DOCS=1 cargo test -p \
                        adit-bench --test tidy` writes it.\n";
/// From what imports nothing to what imports all.
const MAP_ORDER: &[&str] = &[
    "proto",
    "dataplane/channel",
    "dataplane/devices",
    "dataplane/ipsec-mb",
    "dataplane/esp",
    "dataplane",
    "controlplane/engine",
    "controlplane/engine/sim",
    "controlplane/relay",
    "controlplane",
    "controlplane/ipsec",
    "bench",
];

/// The files below a folder, tests left out: each is followed by those of its own folder.
fn in_reading_order<'a>(sources: &'a BTreeMap<String, String>, folder: &str) -> Vec<(&'a str, &'a str)> {
    let below = sources.iter().filter_map(|(name, text)| Some((name.strip_prefix(folder)?, text.as_str())));
    let mut files: Vec<_> = below.filter(|(name, _)| !is_test(name)).collect();
    // Without its ending a file sorts right before its folder; the roots of a crate come first.
    let is_root = |name: &str| ["lib.rs", "main.rs"].contains(&name);
    files.sort_by_key(|(name, _)| (!is_root(name), name.trim_end_matches(".rs").replace('/', "\0")));
    files
}

#[test]
fn the_map_of_files_is_that_of_the_tree() {
    let (path, map) = (root().join("docs/MAP.md"), map());
    if std::env::var_os("ADIT_WRITE_DOCS").is_some() {
        fs::write(&path, &map).expect("docs/MAP.md can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs =
        map.lines().find(|line| !written.lines().any(|known| known == *line)).unwrap_or("its order, or a line too many");
    assert!(written == map, "docs/MAP.md is old (ADIT_WRITE_DOCS=1 writes it): {differs}");
}

//! No module imports in a circle: who reads one of them need not have read the others before. Reads the tree, runs nothing.
//!
//! In every namespace of a crate its children are compared, each with all that is below it (`control` is `control.rs` and `control/**`).
//! What one of them imports of another one is an edge, and so is a path in its code. A name counts for the module that has it, by
//! whatever re-exports it came. Test modules are left out, and no child has an edge to its parent, nor a parent to its child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Re-exports of one name that are followed one after the other.
const REEXPORTS_MAX: usize = 8;

/// The names from the crate to a module or to something in it: empty is the crate itself.
type Names = Vec<String>;

/// One module as it is written.
#[derive(Default)]
struct Module {
    file: String,
    /// Every path in it, as it is written. A module in braces is one of its own.
    paths: BTreeSet<Names>,
    /// What its `use` gives a name, and the path behind it.
    named: BTreeMap<String, Names>,
    children: BTreeSet<String>,
    tests: BTreeSet<String>,
}

type Crate = BTreeMap<Names, Module>;

/// `from`, in `file`, names `path`, which is what `to` has.
struct Import {
    from: Names,
    to: Names,
    file: String,
    path: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// The folders of all crates, as the manifest of the workspace names them.
fn crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the end of the members");
    members.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The modules below a folder with their files. A crate that is a library and a program has one root here.
fn read_crate(folder: &Path) -> Crate {
    let mut modules = Crate::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for path in fs::read_dir(&current).expect("a readable folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(folder).expect("below the folder").with_extension("");
                let name: Names = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                let name = if name == ["lib"] || name == ["main"] { Names::new() } else { name };
                let file = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
                read_module(&mut modules, name, &file, &fs::read_to_string(&path).expect("UTF-8"));
            }
        }
    }
    without_tests(modules)
}

fn without_tests(mut modules: Crate) -> Crate {
    let of_module = |(name, module): (&Names, &Module)| {
        module.tests.iter().map(|child| [name.as_slice(), std::slice::from_ref(child)].concat()).collect::<Vec<_>>()
    };
    let tests: Vec<Names> = modules.iter().flat_map(of_module).collect();
    modules.retain(|name, _| !tests.iter().any(|test| name.starts_with(test)));
    modules
}

/// Words, `::`, and single signs: nothing of comments, text, letters and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let is_word = |at: usize| bytes.get(at).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            at += rest.windows(2).position(|two| two == b"*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(len) = raw_text(rest) {
            at += len;
        } else if *byte == b'"' {
            at += quoted(rest, b'"');
        } else if *byte == b'\'' {
            // A lifetime is a word without a second apostrophe.
            let is_letter = rest.get(1) == Some(&b'\\') || !is_word(at + 1) || rest.get(2) == Some(&b'\'');
            at += if is_letter { quoted(rest, b'\'') } else { 1 + (at + 1..).take_while(|at| is_word(*at)).count() };
        } else if is_word(at) {
            let len = (at..).take_while(|at| is_word(*at)).count();
            found.push(String::from_utf8_lossy(&rest[..len]).into_owned());
            at += len;
        } else {
            let len = if rest.starts_with(b"::") { 2 } else { 1 };
            if byte.is_ascii_punctuation() {
                found.push(String::from_utf8_lossy(&rest[..len]).into_owned());
            }
            at += len;
        }
    }
    found
}

/// The length of a text in quotes, or of a letter.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of a raw text, if one begins here.
fn raw_text(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(b"r").or(bytes.strip_prefix(b"br"))?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    let inside = rest[hashes..].strip_prefix(b"\"")?;
    let end = [&[b'"'][..], &vec![b'#'; hashes]].concat();
    let len = inside.windows(end.len()).position(|window| window == end)?;
    Some(bytes.len() - inside.len() + len + end.len())
}

/// Where the item ends that begins at `at`: behind its `;` or its last brace.
fn item_end(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (offset, token) in tokens[at..].iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (token == ";" || token == "}") {
            return at + offset + 1;
        }
    }
    tokens.len()
}

/// Adds a module, and those in braces in it.
fn read_module(modules: &mut Crate, name: Names, file: &str, text: &str) {
    read_tokens(modules, name, file, &tokens(text));
}

fn read_tokens(modules: &mut Crate, name: Names, file: &str, tokens: &[String]) {
    let is = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(n, word)| tokens.get(at + n).is_some_and(|token| token == word))
    };
    let mut module = std::mem::take(modules.entry(name.clone()).or_default());
    file.clone_into(&mut module.file);
    let (mut at, mut test) = (0, false);
    while at < tokens.len() {
        if is(at, &["#", "[", "cfg", "(", "test"]) || is(at, &["#", "[", "cfg", "(", "all", "(", "test"]) {
            (test, at) = (true, item_end_of_attribute(tokens, at));
        } else if test && is(at, &["#", "["]) {
            at = item_end_of_attribute(tokens, at);
        } else if test {
            let end = item_end(tokens, at);
            let child = tokens[at..end].iter().position(|token| token == "mod").and_then(|place| tokens.get(at + place + 1));
            module.tests.extend(child.cloned());
            (test, at) = (false, end);
        } else if is(at, &["mod"]) && tokens.get(at + 2).is_some_and(|token| token == ";" || token == "{") {
            module.children.insert(tokens[at + 1].clone());
            let end = item_end(tokens, at);
            if is(at + 2, &["{"]) {
                let inner = [name.as_slice(), &tokens[at + 1..at + 2]].concat();
                read_tokens(modules, inner, file, &tokens[at + 3..end - 1]);
            }
            at = end;
        } else if is(at, &["use"]) {
            let end = item_end(tokens, at).max(at + 2);
            for (path, named) in use_tree(&tokens[at + 1..end - 1]) {
                module.named.insert(named, path.clone());
                module.paths.insert(path);
            }
            at = end;
        } else {
            let path = path_at(tokens, at);
            at += (2 * path.len()).max(2) - 1;
            if path.len() > 1 {
                module.paths.insert(path);
            }
        }
    }
    modules.insert(name, module);
}

fn item_end_of_attribute(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    let closes = |token: &String| {
        depth += i32::from(token == "[") - i32::from(token == "]");
        depth == 0 && token == "]"
    };
    tokens[at..].iter().position(closes).map_or(tokens.len(), |offset| at + offset + 1)
}

/// The words that stand here with `::` between them.
fn path_at(tokens: &[String], at: usize) -> Names {
    let is_word = |token: &String| token.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let mut path: Names = tokens[at..].iter().take(1).filter(|token| is_word(token)).cloned().collect();
    while let [colons, word, ..] = &tokens[tokens.len().min(at + (2 * path.len()).max(1) - 1)..] {
        if path.is_empty() || colons != "::" || !is_word(word) {
            break;
        }
        path.push(word.clone());
    }
    path
}

/// What is behind a `use`: every path of the tree, with the name that it gets.
fn use_tree(tokens: &[String]) -> Vec<(Names, String)> {
    let tokens = if tokens.first().is_some_and(|token| token == "::") { &tokens[1..] } else { tokens };
    let mut prefix = path_at(tokens, 0);
    let rest = &tokens[(2 * prefix.len()).saturating_sub(1).min(tokens.len())..];
    let rest = if rest.first().is_some_and(|token| token == "::") { &rest[1..] } else { rest };
    if rest.first().is_some_and(|token| token == "{") {
        let below = parts(&rest[1..rest.len() - 1]).into_iter().flat_map(use_tree);
        return below.map(|(path, named)| behind(&prefix, path, named)).collect();
    }
    let named = match rest {
        [word, alias, ..] if word == "as" => alias.clone(),
        _ => prefix.last().cloned().unwrap_or_default(),
    };
    // Of `*` no name is known, and its module is what is imported.
    if prefix.is_empty() {
        prefix.extend(rest.first().cloned());
    }
    vec![(prefix, named)]
}

/// A path of a tree behind what stands before its braces.
fn behind(prefix: &[String], path: Names, named: String) -> (Names, String) {
    let own = prefix.last().cloned().unwrap_or_default();
    match path.as_slice() {
        [word] if word == "self" && named == "self" => (prefix.to_vec(), own),
        [word] if word == "self" || word == "*" => (prefix.to_vec(), named),
        _ => ([prefix, &path].concat(), named),
    }
}

/// What stands between the commas of a list, those in braces of it left alone.
fn parts(tokens: &[String]) -> Vec<&[String]> {
    let mut depth = 0;
    let is_comma = |token: &String| {
        depth += i32::from(token == "{") - i32::from(token == "}");
        depth == 0 && token == ","
    };
    tokens.split(is_comma).filter(|part| !part.is_empty()).collect()
}

/// Where a path of a module leads, from the crate on; `None` if it begins outside of the crate.
fn from_crate(modules: &Crate, module: &Names, path: &[String]) -> Option<Names> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module.as_slice(), rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|word| *word == "super").count();
            Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat())
        }
        child if modules[module].children.contains(child) => Some([module.as_slice(), path].concat()),
        _ => None,
    }
}

/// The module that has what a path leads to, by whatever names it is handed on.
fn owner(modules: &Crate, path: &[String], reexports: usize) -> Names {
    let depth = (0..=path.len()).rev().find(|depth| modules.contains_key(&path[..*depth])).unwrap_or(0);
    let (module, rest) = (path[..depth].to_vec(), &path[depth..]);
    let Some(behind) = rest.first().and_then(|name| modules.get(&module)?.named.get(name)).filter(|_| reexports > 0) else {
        return module;
    };
    match from_crate(modules, &module, behind) {
        Some(target) => owner(modules, &[target.as_slice(), &rest[1..]].concat(), reexports - 1),
        None => module,
    }
}

fn imports(modules: &Crate) -> Vec<Import> {
    let of_module = |(from, module): (&Names, &Module)| {
        let import = |path: &Names| {
            let to = owner(modules, &from_crate(modules, from, path)?, REEXPORTS_MAX);
            Some(Import { from: from.clone(), to, file: module.file.clone(), path: path.join("::") })
        };
        module.paths.iter().filter_map(import).collect::<Vec<_>>()
    };
    modules.iter().flat_map(of_module).collect()
}

/// Every import without which there would be one circle less: with its file, and what it imports.
fn circles(modules: &Crate) -> Vec<String> {
    let imports = imports(modules);
    let namespaces: BTreeSet<&[String]> = modules.keys().flat_map(|name| (0..name.len()).map(|depth| &name[..depth])).collect();
    let mut faults = Vec::new();
    for namespace in namespaces {
        let child = |name: &'_ Names| name.strip_prefix(namespace).and_then(|below| below.first()).cloned();
        let siblings = |import: &Import| Some((child(&import.from)?, child(&import.to)?)).filter(|(from, to)| from != to);
        let edges: Vec<_> = imports.iter().filter_map(|import| Some((siblings(import)?, import))).collect();
        let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for ((from, to), _) in &edges {
            next.entry(from).or_default().insert(to);
        }
        let circular = edges.iter().filter(|((from, to), _)| leads(&next, to, from));
        faults.extend(
            circular
                .map(|((from, to), import)| format!("{}: imports {}, and {to} leads back to {from}", import.file, import.path)),
        );
    }
    faults
}

/// Whether one module imports another one, or imports one that does.
fn leads(next: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::from([from]), vec![from]);
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        open.extend(next.get(module).into_iter().flatten().filter(|module| seen.insert(**module)));
    }
    false
}

#[test]
fn imports_have_no_circles() {
    let (mut faults, mut read) = (Vec::new(), 0);
    for folder in crates() {
        let modules = read_crate(&root().join(folder).join("src"));
        read += imports(&modules).iter().filter(|import| import.from != import.to).count();
        faults.extend(circles(&modules));
    }
    assert!(read > 1000, "only {read} imports found");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// What API, gateway and IKE have in common: each could be read first.
#[test]
fn what_the_parts_of_the_gateway_share_are_leaves() {
    const LEAVES: [&str; 4] = ["limits", "schema", "token", "request"];
    let modules = read_crate(&root().join("controlplane/src"));
    let is_leaf = |name: &Names| name.first().is_some_and(|first| LEAVES.contains(&first.as_str()));
    let imports = imports(&modules);
    let of_leaves: Vec<&Import> = imports.iter().filter(|import| is_leaf(&import.from) && import.from != import.to).collect();
    assert!(of_leaves.iter().any(|import| import.from == ["request"] && import.to == ["schema"]), "request.rs was not read");
    let outside = of_leaves.iter().filter(|import| !is_leaf(&import.to));
    let faults: Vec<String> = outside.map(|import| format!("{}: imports {}", import.file, import.path)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A crate of these modules, each with its text.
fn written(modules: &[(&str, &str)]) -> Crate {
    let mut all = Crate::new();
    for (name, text) in modules {
        let names = name.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect();
        read_module(&mut all, names, &format!("{name}.rs"), text);
    }
    without_tests(all)
}

/// What one module imports, as it is read.
fn imported(text: &str) -> Vec<String> {
    written(&[("", text)])[&Names::new()].paths.iter().map(|path| path.join("::")).collect()
}

#[test]
fn a_circle_is_found_and_each_import_of_it_is_named() {
    let both = written(&[
        ("", "mod a; mod b; mod c;"),
        ("a", "use crate::b::B;"),
        ("b", "fn b() -> crate::c::C {}"),
        ("c", "use super::{a::A, d};"),
    ]);
    let named = [
        "a.rs: imports crate::b::B, and b leads back to a",
        "b.rs: imports crate::c::C, and c leads back to b",
        "c.rs: imports super::a::A, and a leads back to c",
    ];
    assert_eq!(circles(&both), named);
    let none = written(&[("", "mod a; mod b; mod c;"), ("a", "use crate::{b, c};"), ("b", "use super::c::C;"), ("c", "")]);
    assert!(circles(&none).is_empty(), "{:?}", circles(&none));
}

#[test]
fn what_is_below_a_module_counts_as_the_module() {
    let tree = [("", "mod a; mod b;"), ("a", "mod x; mod y;"), ("a::x", "use crate::b::B;"), ("a::y", ""), ("b", "mod z;")];
    assert!(circles(&written(&[&tree[..], &[("b::z", "use super::super::b::B;")]].concat())).is_empty());
    let found = circles(&written(&[&tree[..], &[("b::z", "use super::super::a::y::Y;")]].concat()));
    assert_eq!(found.len(), 2, "{found:?}");
    // Within one module its children are compared, and neither the way up nor the way down counts.
    let inner = [("", "mod a;"), ("a", "mod x; mod y; use x::X; fn f() { y::f() }"), ("a::x", "use super::{A, y::Y};")];
    assert!(circles(&written(&[&inner[..], &[("a::y", "use crate::a::A;")]].concat())).is_empty());
    assert_eq!(circles(&written(&[&inner[..], &[("a::y", "use crate::a::x::X;")]].concat())).len(), 2);
}

#[test]
fn a_reexport_hides_no_circle() {
    let hidden = written(&[
        ("", "mod a; mod b; mod c; pub use c::{C as D, deeper::E}; pub use b::*;"),
        ("a", "use crate::D;"),
        ("b", ""),
        ("c", "mod deeper; use crate::a::A;"),
        ("c::deeper", ""),
    ]);
    assert_eq!(
        circles(&hidden),
        ["a.rs: imports crate::D, and c leads back to a", "c.rs: imports crate::a::A, and a leads back to c"]
    );
    let endless = written(&[("", "mod a; pub use a::A;"), ("a", "pub use super::A;")]);
    assert!(circles(&endless).is_empty());
}

#[test]
fn tests_are_left_out() {
    let modules = [
        ("", "mod a; mod b;\n#[cfg(test)]\n#[rustfmt::skip]\nmod t;"),
        ("a", "use crate::b::B;"),
        ("b", "#[cfg(test)] use crate::a::X;\n#[cfg(all(test, unix))] mod tests { use crate::a::A; }\nfn f() {}"),
        ("t", "use crate::a::A;"),
    ];
    assert!(circles(&written(&modules)).is_empty());
    let goes_on =
        circles(&written(&[&modules[..2], &[("b", "#[cfg(test)] fn f() { g(); }\n#[cfg(unix)] use crate::a::X;")]].concat()));
    assert_eq!(goes_on.len(), 2, "{goes_on:?}");
}

#[test]
fn trees_of_use_and_paths_in_code_are_read_and_text_is_not() {
    let tree = "pub(crate) use crate::{a::{self, B as C, d::*}, e, super::f::{g::{H}, I},};";
    let paths = ["crate::a", "crate::a::B", "crate::a::d", "crate::e", "crate::super::f::I", "crate::super::f::g::H"];
    assert_eq!(imported(tree), paths);
    let code = "fn f<'a>(x: &'a crate::a::B) -> Vec<super::c::D> { match 'x' { '\\'' => self::e::f::<u8>(b'\"'), _ => g } }";
    assert_eq!(imported(code), ["crate::a::B", "self::e::f", "super::c::D"]);
    let text = "// crate::a::A\n/* crate::b::B */ /// [`crate::c::C`]\nconst X: &str = \"crate::d::D\"; const Y: &[u8] = br#\"\"crate::e\"#;";
    assert!(imported(text).is_empty(), "{:?}", imported(text));
    let inner = written(&[("", "mod a;"), ("a", "mod x { use super::y::Y; } mod y { fn f() { super::x::X } }")]);
    assert_eq!(circles(&inner).len(), 2);
}

//! Style as a test: sizes, layers, the places of `unsafe`, the names at the top. Reads the tree, runs nothing.

mod map;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// A longer name of a test is no fact any more but a paragraph.
const NAME_LETTERS_MAX: usize = 70;

/// All that may lie at the top of the tree, besides names that begin with a dot and what the build makes.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "Makefile",
    "dataplane",
    "controlplane",
    "proto",
    "bench",
    "deploy",
    "docs",
];

/// The files that may hold `unsafe`, each a thin layer over system calls or shared memory.
const UNSAFE: &[&str] = &[
    "bench/src/io/poll.rs",
    "bench/src/io/uring.rs",
    "bench/src/lab/capture.rs",
    "bench/src/lab/surroundings.rs",
    "bench/src/lab/tagger.rs",
    "bench/src/load.rs",
    "bench/src/netns.rs",
    "bench/src/netns/warden.rs",
    "controlplane/src/system.rs",
    "dataplane/channel/src/fd.rs",
    "dataplane/channel/src/ring.rs",
    "dataplane/channel/src/shm.rs",
    "dataplane/esp/tests/aead_no_allocation.rs",
    "dataplane/ipsec-mb/src/present.rs",
    "dataplane/devices/src/interface.rs",
    "dataplane/devices/src/sockets.rs",
    "dataplane/src/devices.rs",
    "dataplane/src/inbound.rs",
    "dataplane/src/io.rs",
    "dataplane/src/io/poll.rs",
    "dataplane/src/io/uring.rs",
    "dataplane/src/scheduling.rs",
    "dataplane/src/start.rs",
    "dataplane/src/supervise.rs",
    "dataplane/src/tap.rs",
    "dataplane/src/tap/steering.rs",
    "dataplane/src/udp.rs",
    "dataplane/tests/no_allocation.rs",
    "dataplane/tests/offload_kernel.rs",
    "dataplane/tests/support/mod.rs",
];

/// What each crate may depend on among ours, its tests included: `adit-sim` is what tests of several crates have in common, the NAT of the
/// simulator among it, and only bench, which is for tests itself, has it otherwise. Never controlplane → dataplane, never anything → bench.
const LAYERS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("dataplane/channel", &["adit-proto"]),
    ("dataplane/ipsec-mb", &["adit-proto"]),
    ("dataplane/esp", &["adit-proto", "adit-ipsec-mb"]),
    ("dataplane/devices", &["adit-proto"]),
    ("dataplane", &["adit-proto", "adit-channel", "adit-devices", "adit-esp"]),
    ("controlplane/engine", &["adit-proto", "adit-sim"]),
    ("controlplane/engine/sim", &["adit-proto", "adit-engine"]),
    ("controlplane/relay", &["adit-proto", "adit-engine"]),
    ("controlplane", &["adit-proto", "adit-channel", "adit-devices", "adit-engine", "adit-relay"]),
    ("controlplane/ipsec", &["adit-proto", "adit-engine", "adit-esp", "adit-sim"]),
    (
        "bench",
        &[
            "adit-proto",
            "adit-channel",
            "adit-esp",
            "adit-dataplane",
            "adit-engine",
            "adit-sim",
            "adit-ipsec",
            "adit-controlplane",
        ],
    ),
];

/// The test executables that `make quick` leaves out.
const NOT_QUICK: &[&str] = &[
    // Each test has a data plane with a real TAP in a network namespace of its own: root.
    "answers",
    "class",
    "commands",
    "echo",
    "flood",
    "halves",
    "handover",
    "hub",
    "ip_mode",
    "mss",
    "no_allocation",
    "offload_kernel",
    "oversize_worker",
    "paths",
    "peer_drops",
    "peers",
    "punts",
    "stop",
    "streams",
    "tap_read",
    "tap_steering",
    "tap_write",
    "trains",
    // It starts processes as another user: root.
    "two_processes",
    // Gateways, strongSwan or whole networks in namespaces: root, and programs that are brought for it.
    "e2e",
    "first_hour",
    "handshake_command",
    "interop",
    "reconfigure",
    "scale_command",
    "soak",
    "tunnel_command",
    // Another build of the channel, which `make loom` makes.
    "loom",
];

/// The files outside of `limits.rs` in which somebody may have chosen a limit, and why it stands there.
const LIMITS_ELSEWHERE: &[(&str, &str)] = &[
    ("proto/src/class.rs", "a field of the IP header: six bits"),
    ("proto/src/control/wire.rs", "the longest of the records that are written there"),
    ("proto/src/esp.rs", "lengths and numbers of RFC 4303"),
    ("dataplane/src/tap/headers.rs", "the tags of a frame; limits.rs is made of the lengths beside it"),
    ("dataplane/src/tap/coalesce.rs", "the form of a super-frame; limits.rs would import in a circle"),
    ("dataplane/src/tap/split.rs", "the form of a super-frame; limits.rs would import in a circle"),
    ("controlplane/src/gateway/interface.rs", "lines of one file that it remembers"),
    ("controlplane/src/gateway/port500/receiver.rs", "a queue between two tasks of one file"),
    ("controlplane/src/netlink/underlay.rs", "rounds of one loop"),
];

/// The files that make text of bytes, and why none of it reaches a log or a terminal as it came.
const TEXT_OF_BYTES: &[(&str, &str)] = &[
    ("proto/src/codec.rs", "for its callers, who are in this list or make a name of it that has its own letters"),
    ("proto/src/ike/display.rs", "shown only where it is ASCII that shows"),
    ("proto/src/relay/wire.rs", "for the names of rooms and hosts, which have their own letters"),
    ("controlplane/engine/src/identity.rs", "taken only where all of it shows"),
    ("controlplane/engine/src/identity/dn.rs", "escaped by RFC 4514, and what does not show as bytes"),
    ("controlplane/engine/src/ike/snapshot/bytes.rs", "what this program has written"),
    ("controlplane/engine/src/shown.rs", "a Shown"),
    ("controlplane/engine/src/stun/codec.rs", "compared with what is expected"),
    ("controlplane/engine/src/stun/discovery/portal.rs", "a host of letters, digits and `.-:_`"),
    ("controlplane/relay/src/client/http.rs", "compared with words"),
    ("controlplane/relay/src/client/proxy.rs", "a secret"),
    ("controlplane/relay/src/config.rs", "a file of the operator"),
    ("controlplane/relay/src/login.rs", "read as numbers and names of rooms"),
    ("controlplane/src/api/errors.rs", "what this program has written, to who asked"),
    ("controlplane/src/config.rs", "a file of the operator"),
    ("controlplane/src/config/check/ike_section.rs", "a secret"),
    ("controlplane/src/dataplane/log.rs", "lines of the data plane, through the gate of log.rs"),
    ("controlplane/src/gateway/streams/table.rs", "an identity, taken only where all of it shows"),
    ("controlplane/src/static_key.rs", "a secret"),
];

/// The one place that writes the log of a gateway or a relay: whatever a line is made of, what does not show is escaped there.
const LOG: &str = "controlplane/src/log.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// Every Rust file, by its path from the root, with its text.
fn sources() -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = ["proto", "dataplane", "controlplane", "bench"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below the root").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("UTF-8"));
            }
        }
    }
    assert!(found.len() > 30, "only {} Rust files found", found.len());
    found
}

/// Every page of the docs, and the README.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").flatten().map(|entry| entry.path());
    docs.chain([root().join("README.md")]).filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The code of a line: nothing of comments, roughly nothing of text.
fn code(line: &str) -> &str {
    let line = line.split("//").next().unwrap_or_default();
    if line.trim_start().starts_with(['"', '\\']) { "" } else { line }
}

fn complain(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    complain(
        sources()
            .iter()
            .filter(|(_, text)| text.lines().count() > FILE_LINES_MAX)
            .map(|(name, text)| format!("{name}: {} lines, more than {FILE_LINES_MAX}", text.lines().count()))
            .collect(),
    );
}

#[test]
fn functions_fit_a_screen() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let head = code(line);
            let indent = head.len() - head.trim_start().len();
            let is_function = head.split_whitespace().take(6).any(|word| word == "fn") && head.contains("fn ");
            if !is_function || head.trim_end().ends_with(';') || head.trim_end().ends_with('}') {
                continue;
            }
            // rustfmt puts the closing brace under the first letter.
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |last| last + 1);
            if length > FUNCTION_LINES_MAX {
                faults.push(format!("{name}:{}: a function of {length} lines, more than {FUNCTION_LINES_MAX}", start + 1));
            }
        }
    }
    complain(faults);
}

#[test]
fn names_of_tests_are_short() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let words = code(line).split_whitespace().skip_while(|word| *word != "fn").nth(1);
            let name = words.and_then(|word| word.split(['(', '<']).next()).unwrap_or_default();
            if name.len() > NAME_LETTERS_MAX {
                faults.push(format!("{file}:{}: a name of {} letters, more than {NAME_LETTERS_MAX}", number + 1, name.len()));
            }
        }
    }
    complain(faults);
}

#[test]
fn unsafe_lives_in_the_listed_files_only() {
    // Spelled so that this file does not find itself.
    let word = concat!("uns", "afe");
    let is_unsafe = |line: &str| {
        let code = code(line);
        ["{", "fn ", "impl ", "extern ", "trait "].iter().any(|next| code.contains(&format!("{word} {next}")))
    };
    let found: BTreeSet<String> =
        sources().into_iter().filter(|(_, text)| text.lines().any(is_unsafe)).map(|(name, _)| name).collect();
    complain(found.iter().filter(|name| !UNSAFE.contains(&name.as_str())).map(|name| format!("{name}: {word}")).collect());
    let pure =
        ["proto/src/lib.rs", "dataplane/esp/src/lib.rs", "controlplane/engine/src/lib.rs", "controlplane/ipsec/src/lib.rs"];
    for (name, text) in sources().iter().filter(|(name, _)| pure.contains(&name.as_str())) {
        assert!(text.contains(&format!("forbid({word}_code)")), "{name} does not forbid {word} code");
    }
}

#[test]
fn layers_point_one_way() {
    let mut faults = Vec::new();
    for (folder, allowed) in LAYERS {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let ours =
            text.lines().filter_map(|line| line.strip_prefix("adit-")).filter_map(|rest| rest.split(['.', ' ', '=']).next());
        for dependency in ours.map(|name| format!("adit-{name}")) {
            if !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{folder}/Cargo.toml: {dependency} is not below it"));
            }
        }
    }
    complain(faults);
}

/// The crates that `cargo tree` names.
fn tree(words: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}"]).args(words).current_dir(root());
    let tree = command.output().expect("cargo can be run");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8_lossy(&tree.stdout);
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Who uses the library builds no web server, no command line, no metrics and no netlink.
#[test]
fn the_library_stays_small() {
    const CRATES_MAX: usize = 90;
    let crates = tree(&["--package", "adit-ipsec", "--edges", "normal"]);
    assert!(crates.contains("adit-engine") && crates.len() < CRATES_MAX, "{} crates: {crates:?}", crates.len());
    let banned = ["axum", "clap", "prometheus", "rtnetlink", "hyper", "adit-controlplane", "adit-channel", "adit-sim"];
    complain(banned.iter().filter(|name| crates.contains(**name)).map(|name| format!("adit-ipsec builds {name}")).collect());
}

/// Tests of all crates may have the simulator. What people run has it not, by whatever way; bench is no such thing, and nobody's
/// dependency.
#[test]
fn the_simulator_is_part_of_nothing_but_tests() {
    let users = |edges| tree(&["--workspace", "--invert", "adit-sim", "--edges", edges]);
    let built = users("normal,build");
    assert_eq!(built, ["adit-bench", "adit-sim"].map(str::to_owned).into());
    let tested = users("all");
    assert!(["adit-engine", "adit-ipsec"].iter().all(|name| tested.contains(*name)), "{tested:?}");
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    let banned = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("#[al", "low("),
    ];
    let mut faults = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| code(line).contains(**word)) {
                faults.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    complain(faults);
}

#[test]
fn every_file_says_what_it_is_and_belongs_to_a_crate() {
    let sources = sources();
    let mut faults = Vec::new();
    for (name, text) in &sources {
        if !text.starts_with("//!") {
            faults.push(format!("{name}: does not begin with what it is (//!)"));
        }
        let path = Path::new(name);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(""));
        // `x/mod.rs` is declared as x where the folder lies.
        let (stem, folder) = match folder.file_name().and_then(|name| name.to_str()) {
            Some(name) if stem == "mod" => (name, folder.parent().unwrap_or(Path::new(""))),
            _ => (stem, folder),
        };
        let is_root = ["lib", "main", "build"].contains(&stem)
            || ["tests", "benches", "bin", "examples"].iter().any(|root| folder.ends_with(root));
        let parents = [folder.join("lib.rs"), folder.join("main.rs"), folder.join("mod.rs"), folder.with_extension("rs")];
        let is_parent = |candidate: &Path| {
            // Test executables lie side by side, and each may declare the folder.
            parents.iter().any(|parent| parent == candidate) || folder.ends_with("tests") && candidate.parent() == Some(folder)
        };
        let declares = |text: &str| text.lines().any(|line| code(line).trim_end().ends_with(&format!("mod {stem};")));
        let declared = sources.iter().any(|(name, text)| is_parent(Path::new(name)) && declares(text));
        let stands_alone = is_root && path.file_stem() != Some("mod".as_ref());
        if !stands_alone && !declared {
            faults.push(format!("{name}: no `mod {stem};` leads to it"));
        }
    }
    complain(faults);
}

/// The name of a limit, if a line of code chooses one: a whole number of its own. What follows from another constant chooses nothing,
/// times stand where something waits, and what is indented belongs to a type or a function.
fn chosen_limit(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("const ")?;
    let (name, rest) = rest.split_once(": ")?;
    let (kind, value) = rest.split_once(" =")?;
    let is_limit = ["_MAX", "_MIN", "_LIMIT"].iter().any(|ending| name.ends_with(ending));
    let is_number = ["8", "16", "32", "64", "128", "size"].contains(&kind.trim_start_matches(['u', 'i']));
    let follows = value.contains(|c: char| c.is_ascii_uppercase());
    ((before.is_empty() || before.starts_with("pub")) && is_limit && is_number && !follows).then_some(name)
}

#[test]
fn limits_are_chosen_in_the_files_of_that_name() {
    let for_tests = ["bench", "controlplane/engine/sim"];
    let products = LAYERS.iter().filter(|(folder, _)| !for_tests.contains(folder));
    let products: Vec<String> = products.map(|(folder, _)| format!("{folder}/src/")).collect();
    let is_product = |name: &str| products.iter().any(|folder| name.starts_with(folder)) && !is_test(name);
    let (mut faults, mut found) = (Vec::new(), 0);
    for (name, text) in sources().iter().filter(|(name, _)| is_product(name)) {
        for (number, line) in text.lines().enumerate() {
            let Some(limit) = chosen_limit(code(line)) else { continue };
            if name.ends_with("/limits.rs") {
                found += 1;
            } else if !LIMITS_ELSEWHERE.iter().any(|(file, _)| file == name) {
                faults.push(format!("{name}:{}: {limit} belongs into limits.rs", number + 1));
            }
        }
    }
    assert!(found > 100, "only {found} limits found");
    complain(faults);
}

/// The exchanges of the engine get what they read and give what follows (docs/ARCHITECTURE.md, "IKEv2").
#[test]
fn exchanges_hold_no_ike_sa() {
    let exchanges =
        ["auth", "create_child", "first_child", "followup", "informational", "intermediate", "mobike", "rekey_ike", "sa_init"];
    let (sources, mut faults) = (sources(), Vec::new());
    for file in exchanges.map(|name| format!("controlplane/engine/src/ike/{name}.rs")) {
        for (number, line) in sources.get(&file).expect("an exchange").lines().map(code).enumerate() {
            let held = ["IkeSa", "&mut Session", "session_mut("].into_iter().filter(|held| line.contains(held));
            faults.extend(held.map(|held| format!("{file}:{}: {held}", number + 1)));
        }
    }
    complain(faults);
}

/// Both planes judge a setting: its largest value has a name, so that it stands once.
#[test]
fn settings_end_at_limits_that_have_a_name() {
    let judges = |name: &str| name == "dataplane/src/config.rs" || name.starts_with("controlplane/src/config/check");
    let (mut faults, mut found) = (Vec::new(), 0);
    for (name, text) in sources().iter().filter(|(name, _)| judges(name)) {
        for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, code(line))) {
            let is_judged = ["range(", "number(", "number_of("].iter().any(|call| line.contains(call));
            found += usize::from(is_judged);
            if is_judged && line.split_once("..=").is_some_and(|(_, end)| end.starts_with(|c: char| c.is_ascii_digit())) {
                faults.push(format!("{name}:{number}: the largest value belongs into limits.rs"));
            }
        }
    }
    assert!(found > 20, "only {found} settings found");
    complain(faults);
}

#[test]
fn what_chooses_a_limit_is_told_from_what_follows() {
    for chosen in ["const A_MAX: usize = 1 << 20;", "pub const A_MIN: u8 = 3;", "pub(crate) const A_LIMIT: u64 ="] {
        assert!(chosen_limit(chosen).is_some(), "{chosen}");
    }
    let others = [
        "const A_MAX: usize = B_MAX + 1;",
        "const A_MAX: usize = u8::MAX as usize;",
        "const A_MAX: Duration = Duration::from_secs(1);",
        "    pub const A_MIN: usize = 16;",
        "pub const fn a(b_MAX: u16) -> usize {",
        "const MAXIMA: usize = 3;",
    ];
    assert_eq!(others.map(chosen_limit), [None; 6]);
}

/// What comes from outside as bytes becomes text in few places, of which it is known what happens to it; for people there is one
/// constructor (`Shown`), and before the log one gate.
#[test]
fn text_from_outside_is_made_in_known_places_and_logged_by_one_gate() {
    let makes_text = ["from_utf8", "from_utf16", "escape_debug(", "escape_default(", "is_control("];
    let (sources, mut faults, mut found) = (sources(), Vec::new(), BTreeSet::new());
    for (name, text) in sources.iter().filter(|(name, _)| name.contains("/src/") && !name.starts_with("bench/")) {
        if is_test(name) || ["fuzz/", "engine/sim/", "engine/src/testing.rs"].iter().any(|aside| name.contains(aside)) {
            continue;
        }
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if product.lines().any(|line| makes_text.iter().any(|call| code(line).contains(call))) {
            found.insert(name.as_str());
        }
        if name != LOG && product.lines().any(|line| code(line).contains("tracing_subscriber")) {
            faults.push(format!("{name}: writes a log beside {LOG}"));
        }
    }
    let known: BTreeSet<&str> = TEXT_OF_BYTES.iter().map(|(name, _)| *name).collect();
    faults.extend(found.difference(&known).map(|name| format!("{name}: makes text of bytes, or escapes it, in its own way")));
    faults.extend(known.difference(&found).map(|name| format!("{name}: makes no text of bytes any more")));
    complain(faults);
}

#[test]
fn the_top_of_the_tree_holds_the_agreed_names_only() {
    let names = fs::read_dir(root()).expect("the root").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let strange = |name: &String| !name.starts_with('.') && name != "target" && !TOP.contains(&name.as_str());
    complain(names.filter(strange).map(|name| format!("{name} does not belong at the top")).collect());
}

#[test]
fn the_files_that_the_docs_name_are_there() {
    let sources = sources();
    let in_path = |c: char| c.is_ascii_alphanumeric() || "_-/.".contains(c);
    let (mut faults, mut named) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).expect("UTF-8");
        for word in text.split(|c: char| !in_path(c)).filter(|word| word.ends_with(".rs") && !word.starts_with(['_', '.'])) {
            named += 1;
            if !sources.keys().any(|name| name == word || name.ends_with(&format!("/{word}"))) {
                faults.push(format!("{}: there is no {word}", page.display()));
            }
        }
    }
    assert!(named > 50, "only {named} files are named");
    complain(faults);
}

/// The name of the test executable of this crate that begins with this file.
fn executable<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    let file = file.strip_prefix(folder)?.strip_prefix("/tests/")?;
    let name = file.strip_suffix("/main.rs").or(file.strip_suffix(".rs"))?;
    (!name.contains('/')).then_some(name)
}

#[test]
fn every_test_executable_is_quick_or_left_out_for_a_reason() {
    let sources = sources();
    let of_crate = |folder| sources.keys().filter_map(move |file| executable(file, folder));
    let executables: BTreeSet<&str> = LAYERS.iter().flat_map(|(folder, _)| of_crate(*folder)).collect();
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile").replace("\\\n", " ");
    let quick = makefile.lines().find_map(|line| line.strip_prefix("QUICK := ")).expect("the list of `make quick`");
    let quick: BTreeSet<&str> = quick.split_whitespace().collect();
    let left_out: BTreeSet<&str> = NOT_QUICK.iter().copied().collect();
    let mut faults: Vec<String> =
        quick.intersection(&left_out).map(|name| format!("{name}: `make quick` has it, and NOT_QUICK too")).collect();
    let listed: BTreeSet<&str> = quick.union(&left_out).copied().collect();
    faults.extend(executables.difference(&listed).map(|name| format!("{name}: neither in QUICK (Makefile) nor in NOT_QUICK")));
    faults.extend(listed.difference(&executables).map(|name| format!("{name}: there is no such test executable")));
    complain(faults);
}

/// What `make test` runs beside all the rest it leaves out there by the name of a module: nothing else may be left out with it.
#[test]
fn what_make_test_runs_beside_the_rest_is_one_module_each() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("the Makefile");
    let sources = sources();
    for (variable, home) in
        [("MACHINE", "bench/tests/e2e/services.rs"), ("SIMULATOR", "controlplane/engine/tests/ike/simulation.rs")]
    {
        let defined = format!("{variable} := ");
        let filter = makefile.lines().find_map(|line| line.strip_prefix(&defined)).expect("what is run beside the rest");
        let module = filter.strip_suffix("::").expect("the name of a module");
        let is_named = |file: &str| file.trim_end_matches(".rs").trim_end_matches("/mod").ends_with(module);
        let files: Vec<&String> = sources.keys().filter(|file| is_named(file)).collect();
        assert_eq!(files, [home]);
        let inner = format!("{module} {{");
        let has_inner =
            |text: &str| text.lines().map(code).any(|line| line.contains("mod ") && line.trim_end().ends_with(&inner));
        let others = sources.iter().filter(|(_, text)| has_inner(text));
        complain(others.map(|(file, _)| format!("{file}: a module that ends with {module}")).collect());
    }
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("tests/")
}

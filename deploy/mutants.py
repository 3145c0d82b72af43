#!/usr/bin/env python3
"""Changes one small thing at a time in the code that decides who gets what, and looks whether a test of it fails.

    deploy/mutants.py [COUNT] [SEED]         default: 300 1

cargo-mutants says what can be changed. COUNT of that are drawn: those whose names have the smallest digests together with SEED, so that
a draw stays the same while other code changes. A build for each of them would take a day. So all are built at once: a function that is to
be changed keeps its body and gets one more for each change, and ADIT_MUTANT says which one a run takes. What cannot be built in this way
(constants, functions that give an iterator of their own) is changed in the source and built alone.

A change that no test notices is a survivor. It stands with its reason in deploy/mutants.txt, or it is a gap in the tests. Ends with 1 when
fewer than 95 of 100 were noticed, or a survivor has no reason.

Results are in target/mutation/results.tsv, one line each: what came of it, by which test, in how many seconds, its name. What stands there
is not tried again: take a line out, or the file away, to try again.
"""

import collections
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
OUT = TARGET / "mutation"
TREE = OUT / "tree"
RESULTS = OUT / "results.tsv"
REASONS = Path("deploy/mutants.txt")
ENOUGH = 95
# Another one may know other changes, and would draw others.
VERSION = "27.1.0"
OUTCOMES = ("caught", "timeout", "missed", "unviable")
# What takes so many times as much of a CPU as without a change goes round in circles, but never before these seconds.
TIMEOUT_FACTOR, TIMEOUT_MIN, TIMEOUT_MAX = 5, 20, 300
# So many tests of those that come by a change are run before the others.
FIRST = 12

# Policy, paths, admission, authentication, replay and the exchanges: what needs neither root nor namespaces to be tested.
FILES = [
    *(f"proto/src/{name}.rs" for name in ("replay", "screen", "rate_limit", "demux", "echo", "half")),
    *(f"controlplane/engine/src/{name}" for name in ("path.rs", "path/*.rs", "path/mtu/*.rs", "auth.rs", "auth/**/*.rs", "identity.rs")),
    *(f"controlplane/engine/src/ike/{name}" for name in ("*.rs", "endpoint/*.rs", "negotiate/*.rs")),
    *(f"dataplane/src/{name}" for name in ("policy.rs", "policy/*.rs")),
]
TESTING = ["**/tests.rs", "**/tests/**", "controlplane/engine/src/ike/testing.rs", "controlplane/engine/src/auth/testing.rs"]
# What only prints for people decides nothing.
PRINTS = re.compile(r"impl (fmt::)?(Debug|Display)")
FOLDERS = {"adit-proto": "proto", "adit-engine": "controlplane/engine", "adit-dataplane": "dataplane"}
# The tests of each crate, those first that fail soonest.
TESTS = {
    "adit-engine": [["--lib"], ["--test", "ike"]],
    "adit-proto": [["--lib"], ["--test", "ike"]],
    "adit-dataplane": [["--lib"], ["--test", "policy"]],
}
SWITCH = """
/// Whether this run is to take the change of this number. The file that ADIT_MUTANT_TRACE names learns which tests come by which of them.
#[doc(hidden)]
pub fn is_mutant(number: u32) -> bool {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::io::Write;
    use std::sync::LazyLock;
    static CHOSEN: LazyLock<Option<u32>> = LazyLock::new(|| std::env::var("ADIT_MUTANT").ok()?.parse().ok());
    static TRACE: LazyLock<Option<std::fs::File>> =
        LazyLock::new(|| std::fs::File::options().append(true).open(std::env::var("ADIT_MUTANT_TRACE").ok()?).ok());
    thread_local!(static SEEN: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) });
    if let Some(mut trace) = TRACE.as_ref()
        && SEEN.with_borrow_mut(|seen| seen.insert(number))
    {
        let line = format!("{number}\\t{}\\n", std::thread::current().name().unwrap_or_default());
        trace.write_all(line.as_bytes()).expect("a file that can be written");
    }
    *CHOSEN == Some(number)
}
"""


def name_all(known):
    """Gives each change a name without its line, which moves with every line above it: with a number if the function has it twice."""
    seen = {}
    for one in known:
        name = re.sub(r"^([^:]+):\d+:\d+: ", r"\1: ", one["name"])
        seen[name] = seen.get(name, 0) + 1
        one["name"] = name if seen[name] == 1 else f"{name} ({seen[name]})"


def install():
    version = subprocess.run(["cargo", "mutants", "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    if version.split() != ["cargo-mutants", VERSION]:
        print(f"installing cargo-mutants {VERSION}, because it is missing (a few minutes on two cores, once)", flush=True)
        subprocess.run(["cargo", "install", "--quiet", "cargo-mutants", "--version", VERSION, "--locked"], check=True)


def draw(count, seed):
    command = ["cargo", "mutants", "--list", "--json", "--diff"]
    for file in FILES:
        command += ["--file", file]
    for file in TESTING:
        command += ["--exclude", file]
    known = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    known = [one for one in known if not PRINTS.search(one["name"])]
    name_all(known)
    known.sort(key=lambda one: hashlib.sha256(f"{seed} {one['name']}".encode()).digest())
    print(f"mutants: {min(count, len(known))} of {len(known)} drawn by seed {seed}")
    return known[:count]


def offset(lines, place):
    """Where in the text a line and a column are; both begin at 1."""
    return sum(len(line) for line in lines[: place["line"] - 1]) + place["column"] - 1


def body(text, start, end):
    """Where the braces of a function are, or None if it can have no other body beside its own."""
    tokens = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\'|[\[\](){}]', re.S)
    depth = 0
    for token in tokens.finditer(text, start, end):
        if token[0] == "{" and depth == 0:
            head = re.sub(r"//[^\n]*", "", text[start : token.start()])
            is_plain = not re.search(r"\bconst\s+fn\b", head) and "impl " not in head.partition("->")[2]
            return (token.start(), end - 1) if is_plain and text[end - 1] == "}" else None
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token[0], 0)
    return None


class Source:
    """One file, with all changes that are drawn in it beside what stands there."""

    def __init__(self, text, numbered):
        self.lines_of = {}
        lines = text.splitlines(keepends=True)
        functions = {}
        for number, one in numbered:
            # Of a function in a function only the outer one is known to have no neighbour inside.
            span = one["function"] and tuple(offset(lines, one["function"]["span"][at]) for at in ("start", "end"))
            braces = span and body(text, *span)
            if braces:
                functions.setdefault(braces, []).append((number, one))
        outer = [at for at in functions if not any(o != at and o[0] < at[0] and at[1] < o[1] for o in functions)]
        parts, done = [], 0
        for start, end in sorted(outer):
            parts.append((None, text[done : start + 1]))
            for number, one in functions[start, end]:
                first, last = (offset(lines, one["span"][at]) for at in ("start", "end"))
                changed = text[start:first] + one["replacement"] + text[last : end + 1]
                parts.append((None, f"\nif crate::is_mutant({number})"))
                parts.append((number, f"{changed}\n"))
                parts.append((None, "else "))
            parts.append((None, text[start : end + 1] + "\n}"))
            done = end + 1
        parts.append((None, text[done:]))
        line, texts = 1, []
        for number, part in parts:
            if number is not None:
                self.lines_of[number] = (line, line + part.count("\n"))
            line += part.count("\n")
            texts.append(part)
        self.text = "".join(texts)

    def at(self, line):
        return next((number for number, (first, last) in self.lines_of.items() if first <= line <= last), None)


def tracked():
    """All that is no build product, as it stands at the beginning: who goes on working does not disturb."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
    return {name: Path(name).read_bytes() for name in names if name and Path(name).is_file()}


def lay_out(tree, changed):
    """A copy of it with changes; what is the same there is left alone, so that little is built anew."""
    for name, content in {**tree, **changed}.items():
        path = TREE / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def cargo(package, chosen):
    """Builds tests: the path of their executable, and where the compiler found errors."""
    command = ["cargo", "test", "--locked", "--profile", "mutants", "-p", package, *chosen, "--no-run", "--message-format", "json"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(OUT / "build")}
    run = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    executable, errors = None, []
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
            executable = message["executable"]
        elif message["reason"] == "compiler-message" and message["message"]["level"].startswith("error"):
            places = [(span["file_name"], span["line_start"]) for span in message["message"]["spans"] if span["is_primary"]]
            errors.append((places, message["message"]["rendered"]))
    return (executable if run.returncode == 0 else None), errors, run.stderr


def test(package, executable, number, names=(), timeout=TIMEOUT_MAX, trace=None):
    """Runs all tests, or those of these names, until one fails: its name, "timeout", or None if all passed. With a trace: all that fail."""
    folder = TREE / FOLDERS[package]
    environment = {
        "SIM_RUNS": "20", "PROPTEST_CASES": "32", **os.environ,
        "ADIT_MUTANT": str(number), "ADIT_MUTANT_TRACE": str(trace or ""), "CARGO_MANIFEST_DIR": str(folder), "INSTA_UPDATE": "no",
    }  # fmt: skip
    run = subprocess.Popen(
        [executable, *(["--exact", *names] if names else [])],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout + 1)),
    )  # fmt: skip
    failed = None
    for line in run.stdout:
        if match := re.match(r"test (.*) \.\.\. FAILED", line):
            failed = f"{failed}, {match[1]}" if failed else match[1]
            if not trace:
                end(run)
                break
    code = run.wait()
    if failed is None and code != 0:
        failed = "timeout" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "the whole executable"
    return failed


def used():
    """Seconds of a CPU that tests have taken so far: how long they wait for one depends on what else runs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Suite:
    """The tests of one executable: which of them come by which change, and how long they take in all."""

    def __init__(self, package, executable):
        self.package, self.executable, self.by = package, executable, {}
        trace = OUT / "trace.tsv"
        trace.write_text("")
        began = used()
        if failed := test(package, executable, 0, trace=trace):
            sys.exit(f"{package}: {failed} fails without any change")
        self.timeout = max(TIMEOUT_MIN, int(TIMEOUT_FACTOR * (used() - began)))
        listed = subprocess.run([executable, "--list", "--format", "terse"], check=True, stdout=subprocess.PIPE, text=True).stdout
        self.names = {line.removesuffix(": test") for line in listed.splitlines()}
        for line in trace.read_text().splitlines():
            number, name = line.split("\t")
            self.by.setdefault(int(number), set()).add(name)
        self.breadth = collections.Counter(name for names in self.by.values() for name in names)

    def judge(self, number):
        """What a change fails: see test()."""
        names = self.by.get(number, set())
        if not names:
            return None
        # Threads that tests begin have other names.
        if not names <= self.names:
            return test(self.package, self.executable, number, (), self.timeout)
        # Those first that come by little: they are quick, and look closely.
        chosen = sorted(names, key=lambda name: (self.breadth[name], name))
        for batch in (chosen[:FIRST], chosen[FIRST:]):
            if batch and (failed := test(self.package, self.executable, number, batch, self.timeout)):
                return failed
        return None


def end(run):
    try:
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def record(outcome, by, seconds, name):
    with RESULTS.open("a") as file:
        file.write(f"{outcome}\t{by}\t{seconds:.1f}\t{name}\n")
    if outcome == "missed":
        print(f"not noticed: {name}", flush=True)


def together(tree, package, wanted):
    """Builds all changes of a crate at once and tries each; gives back those that cannot be built so."""
    root, single = f"{FOLDERS[package]}/src/lib.rs", []
    while True:
        files = {}
        for number, one in wanted:
            files.setdefault(one["file"], []).append((number, one))
        sources = {path: Source(tree[path].decode(), here) for path, here in files.items()}
        built = {number for source in sources.values() for number in source.lines_of}
        single += [(number, one) for number, one in wanted if number not in built]
        wanted = [(number, one) for number, one in wanted if number in built]
        changed = {path: source.text.encode() for path, source in sources.items()}
        lay_out(tree, {**changed, root: changed.get(root, tree[root]) + SWITCH.encode()})
        bad, executables = set(), []
        for chosen in TESTS[package]:
            executable, errors, said = cargo(package, chosen)
            executables.append(executable)
            for places, text in errors:
                here = {sources[file].at(line) for file, line in places if file in sources} - {None}
                if not here and places:
                    sys.exit(f"{package} does not build, and no change is at fault:\n{text}")
                bad |= here
            if bad:
                break
            if executable is None:
                sys.exit(f"{package} does not build:\n{said}")
        if not bad:
            break
        # An error in a body of its own is there, too, when it is the only one.
        for number, one in wanted:
            if number in bad:
                record("unviable", "-", 0, one["name"])
        wanted = [(number, one) for number, one in wanted if number not in bad]
    suites = [Suite(package, executable) for executable in executables]
    print(f"mutants: {package}: {len(wanted)} built at once, {len(single)} to be built alone", flush=True)
    # What was not noticed before takes longest.
    before = results()
    for number, one in sorted(wanted, key=lambda numbered: before.get(numbered[1]["name"], "")):
        judge(one, time.monotonic(), (suite.judge(number) for suite in suites))
    return single


def alone(tree, package, one):
    """Changes the source itself."""
    began = time.monotonic()
    text = tree[one["file"]].decode()
    lines = text.splitlines(keepends=True)
    first, last = (offset(lines, one["span"][at]) for at in ("start", "end"))
    lay_out(tree, {one["file"]: (text[:first] + one["replacement"] + text[last:]).encode()})
    executables = [cargo(package, chosen)[0] for chosen in TESTS[package]]
    if None in executables:
        record("unviable", "-", time.monotonic() - began, one["name"])
    else:
        judge(one, began, (test(package, executable, 0) for executable in executables))


def judge(one, began, failures):
    failed = next(filter(None, failures), None)
    outcome = "missed" if failed is None else "timeout" if failed == "timeout" else "caught"
    record(outcome, failed or "-", time.monotonic() - began, one["name"])


def results():
    """What came of each change, by name; the last line counts."""
    return dict(reversed(line.split("\t", 3)[::3]) for line in RESULTS.read_text().splitlines())


def reasons():
    """The names of survivors that are no gap: the lines of the file that are neither comments nor indented."""
    return {line for line in REASONS.read_text().splitlines() if line and line[0] not in "# "}


def summary(drawn):
    came_of = results()
    of = {outcome: [one["name"] for one in drawn if came_of.get(one["name"]) == outcome] for outcome in OUTCOMES}
    unexplained = [name for name in of["missed"] if name not in reasons()]
    for name in unexplained:
        print(f"survivor without a reason: {name}")
    noticed, missed = len(of["caught"]) + len(of["timeout"]), len(of["missed"])
    print(
        f"mutants: {noticed} of {noticed + missed} that compile were noticed ({len(of['timeout'])} of them by going round in circles), "
        f"{missed} survived, {len(unexplained)} of them without a reason in {REASONS}; {len(of['unviable'])} do not compile"
    )
    return not unexplained and noticed * 100 >= (noticed + missed) * ENOUGH


def main():
    given = sys.argv[1:]
    count, seed = int(given[0] if given else 300), given[1] if len(given) > 1 else "1"
    install()
    OUT.mkdir(parents=True, exist_ok=True)
    RESULTS.touch()
    tree, drawn = tracked(), draw(count, seed)
    # What no test noticed is tried again, since there may be more tests by now.
    done = {name for name, outcome in results().items() if outcome != "missed" or name in reasons()}
    rest = [(number, one) for number, one in enumerate(drawn, 1) if one["name"] not in done]
    single = []
    for package in TESTS:
        if here := [(number, one) for number, one in rest if one["package"] == package]:
            single += together(tree, package, here)
    if single:
        # What does not build without a change says nothing of one.
        lay_out(tree, {})
        for package in {one["package"] for _, one in single}:
            for chosen in TESTS[package]:
                executable, _, said = cargo(package, chosen)
                if executable is None:
                    sys.exit(f"{package} does not build:\n{said}")
    for _, one in single:
        alone(tree, one["package"], one)
    sys.exit(0 if summary(drawn) else 1)


main()

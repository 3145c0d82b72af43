#!/usr/bin/env bash
# Fuzzing, and its corpora: files of one input per line in hexadecimal digits, proto/fuzz/seeds/TARGET.hex and bench/fuzz/seeds/TARGET.hex.
#
#   fuzz.sh run [TARGET...]    every target, or these, for FUZZ_SECONDS each (default 60)
#   fuzz.sh unpack TARGET      seeds/TARGET.hex -> corpus/TARGET/, where cargo-fuzz looks for inputs
#   fuzz.sh grow TARGET        corpus/TARGET/ -> seeds/TARGET.hex: what reaches code that no input there reaches
#   fuzz.sh list               all targets
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
usage() {
    sed -n '4,7s/^# *//p' "$0" >&2
    exit 2
}

# The folder of the crate that has a target.
crate_of() {
    local crate
    for crate in proto/fuzz bench/fuzz; do
        [ ! -e "$crate/seeds/$1.hex" ] || { echo "$crate"; return; }
    done
    echo "there is no target $1; there are: $(list | tr '\n' ' ')" >&2
    exit 2
}

list() {
    ls proto/fuzz/seeds bench/fuzz/seeds | sed -n 's/\.hex$//p'
}

# unpack SEEDS FOLDER
unpack() {
    local number=0 line
    mkdir -p "$2"
    while read -r line; do
        number=$((number + 1))
        xxd -r -p <<<"$line" >"$2/seed-$number"
    done < <(grep -v '^#' "$1")
    echo "$number inputs of $1 in $2"
}

# Makes sure of cargo-fuzz and a nightly toolchain; says so and fails where they cannot be had.
tools() {
    if ! cargo +nightly --version >/dev/null 2>&1; then
        echo "installing a nightly toolchain, because it is missing"
        rustup toolchain install nightly --profile minimal >/dev/null 2>&1 || { echo "it cannot be had" >&2; return 1; }
    fi
    if ! cargo fuzz --version >/dev/null 2>&1; then
        echo "installing cargo-fuzz, because it is missing (a few minutes on two cores, once)"
        cargo install --quiet --locked cargo-fuzz || { echo "it cannot be had" >&2; return 1; }
    fi
}

# Coverage-guided, with AddressSanitizer.
run_with_coverage() {
    local target crate failed=()
    for target in "$@"; do
        crate=$(crate_of "$target")
        unpack "$crate/seeds/$target.hex" "$crate/corpus/$target"
        echo "+ $target for $seconds s"
        (cd "$crate" && cargo +nightly fuzz run --fuzz-dir . "$target" -- \
            -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 2>&1 |
            grep -E '^(==|SUMMARY|thread|stat::number_of_executed_units|artifact_prefix|error)|panicked|DONE' -A1) || failed+=("$target")
    done
    [ ${#failed[@]} = 0 ] || { echo "FAILED: ${failed[*]}; the inputs are in */fuzz/artifacts" >&2; return 1; }
}

# The same functions on stable: inputs of the corpora, changed by chance.
run_without_coverage() {
    echo "no coverage-guided fuzzing here: random changes of the corpora on the stable toolchain instead" >&2
    FUZZ_SECONDS=$seconds FUZZ_TARGETS="$*" cargo test --locked -p adit-proto --test ike corpora -- --nocapture
    FUZZ_SECONDS=$seconds FUZZ_TARGETS="$*" cargo test --locked -p adit-bench --test corpora -- --nocapture
}

case ${1:-} in
run)
    shift
    [ $# -gt 0 ] || mapfile -t -O 0 all < <(list)
    [ $# -gt 0 ] || set -- "${all[@]}"
    for target in "$@"; do crate_of "$target" >/dev/null; done
    if tools; then run_with_coverage "$@"; else run_without_coverage "$@"; fi
    ;;
list) list ;;
unpack)
    [ $# = 2 ] || usage
    crate=$(crate_of "$2")
    unpack "$crate/seeds/$2.hex" "$crate/corpus/$2"
    ;;
grow)
    [ $# = 2 ] || usage
    tools
    crate=$(crate_of "$2")
    cd "$crate"
    known=$(mktemp -d)
    trap 'rm -rf "$known"' EXIT
    unpack "seeds/$2.hex" "$known"
    mkdir -p "corpus/$2"
    cargo +nightly fuzz run --fuzz-dir . "$2" "$known" "corpus/$2" -- -merge=1 -use_counters=0
    rm "$known"/seed-*
    find "$known" -type f -exec xxd -p -c 0 {} \; | sort >>"seeds/$2.hex"
    echo "$(find "$known" -type f | wc -l) new inputs in $crate/seeds/$2.hex"
    ;;
*) usage ;;
esac

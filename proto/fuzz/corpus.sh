#!/usr/bin/env bash
# The corpora of the fuzzer lie in seeds/, one file per target, one input per line in hexadecimal digits.
#
#   corpus.sh unpack TARGET    seeds/TARGET.hex -> corpus/TARGET/, where cargo-fuzz looks for inputs
#   corpus.sh grow TARGET      corpus/TARGET/ -> seeds/TARGET.hex: what reaches code that no input there reaches (needs nightly)
set -euo pipefail
cd "$(dirname "$0")"
usage() {
    sed -n '4,5s/^# *//p' "$(basename "$0")" >&2
    exit 2
}
[ $# = 2 ] && [ -e "seeds/$2.hex" ] || usage
seeds=seeds/$2.hex corpus=corpus/$2

# unpack FOLDER
unpack() {
    local number=0 line
    mkdir -p "$1"
    while read -r line; do
        number=$((number + 1))
        xxd -r -p <<<"$line" >"$1/seed-$number"
    done < <(grep -v '^#' "$seeds")
    echo "$number inputs of $seeds in $1"
}

case $1 in
unpack)
    unpack "$corpus"
    ;;
grow)
    known=$(mktemp -d)
    trap 'rm -rf "$known"' EXIT
    unpack "$known"
    mkdir -p "$corpus"
    cargo +nightly fuzz run "$2" "$known" "$corpus" -- -merge=1 -use_counters=0
    rm "$known"/seed-*
    find "$known" -type f -exec xxd -p -c 0 {} \; | sort >>"$seeds"
    echo "$(find "$known" -type f | wc -l) new inputs in $seeds"
    ;;
*) usage ;;
esac

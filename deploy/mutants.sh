#!/usr/bin/env bash
# Changes one small thing at a time in the code that decides who gets what, and looks whether a test of it fails (cargo-mutants).
#
#   deploy/mutants.sh [COUNT] [SEED]         default: 300 1
#
# Of all changes that cargo-mutants knows for the files below, COUNT are drawn: those whose names have the smallest digests together with
# SEED, so that a draw stays the same while other code changes. A change that no test notices is a survivor. It is named with its reason
# in deploy/mutants.txt, or it is a gap in the tests. Ends with 1 when fewer than 95 of 100 were noticed, or a survivor has no reason.
#
# It takes hours. Results are in target/mutation/; what was tried at this commit is not tried again: remove the folder to begin anew.
set -euo pipefail
cd "$(dirname "$0")/.."

count=${1:-300} seed=${2:-1}
target=${CARGO_TARGET_DIR:-target}
out=$target/mutation
reasons=deploy/mutants.txt
export SIM_RUNS=${SIM_RUNS:-20} PROPTEST_CASES=${PROPTEST_CASES:-32}

# Policy, paths, admission, authentication, replay and the exchanges: what needs neither root nor namespaces to be tested.
files=(
    proto/src/replay.rs proto/src/screen.rs proto/src/rate_limit.rs proto/src/demux.rs proto/src/echo.rs proto/src/half.rs
    'controlplane/engine/src/path/*.rs' 'controlplane/engine/src/path/mtu/*.rs' controlplane/engine/src/path.rs
    'controlplane/engine/src/auth/**/*.rs' controlplane/engine/src/auth.rs controlplane/engine/src/identity.rs
    'controlplane/engine/src/ike/*.rs' 'controlplane/engine/src/ike/endpoint/*.rs' 'controlplane/engine/src/ike/negotiate/*.rs'
    dataplane/src/policy.rs 'dataplane/src/policy/*.rs'
)
chosen=()
for file in "${files[@]}"; do chosen+=(--file "$file"); done
# What only prints for people, and what tests use, decides nothing. Of fields that are left out of a struct cargo-mutants 27.1 tries all,
# whatever is drawn.
chosen+=(--exclude-re 'impl (fmt::)?(Debug|Display)' --exclude '**/tests.rs' --exclude '**/tests/**' --exclude 'controlplane/engine/src/ike/testing.rs')

if ! cargo mutants --version >/dev/null 2>&1; then
    echo "installing cargo-mutants, because it is missing (a few minutes on two cores, once)"
    cargo install --quiet cargo-mutants --locked
fi

commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo -dirty)
if [ "$(cat "$out/commit" 2>/dev/null || true)" != "$commit $count $seed" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    echo "$commit $count $seed" >"$out/commit"
fi

# The name of a change without the place in its file, which moves with every line above it.
plain() { sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /'; }

cargo mutants --list "${chosen[@]}" >"$out/all.txt"
while IFS= read -r name; do
    printf '%s\t%s\n' "$(printf '%s %s' "$seed" "$name" | plain | sha256sum | cut -c1-16)" "$name"
done <"$out/all.txt" | sort | sed -n "1,${count}p" | cut -f2 >"$out/drawn.txt"
drawn=$(wc -l <"$out/drawn.txt")
echo "mutants: $drawn of $(wc -l <"$out/all.txt") drawn by seed $seed"

# Each by the tests of its own crate that need no root.
try() {
    local package=$1 only
    shift
    # One expression that matches what was drawn of this crate alone.
    only=$({ grep -E "^$folder/" "$out/drawn.txt" || true; } | sed -E 's/[][\.*^$()+?{}|]/\\&/g' | paste -sd'|')
    [ -n "$only" ] || return 0
    mkdir -p "$out/$package"
    cargo mutants "${chosen[@]}" --package "$package" --re "^($only)\$" --profile mutants --iterate --no-times --colors never \
        --timeout-multiplier 5 --minimum-test-timeout 120 --output "$out/$package" -- "$@" || true
}
folder=proto try adit-proto --lib --tests
folder=controlplane/engine try adit-engine --lib --tests
folder=dataplane try adit-dataplane --lib --test policy

sort -u "$out"/*/mutants.out/{,previously_}caught.txt "$out"/*/mutants.out/timeout.txt 2>/dev/null >"$out/caught.txt" || true
sort -u "$out"/*/mutants.out/missed.txt 2>/dev/null >"$out/missed.txt" || true
caught=$(wc -l <"$out/caught.txt") missed=$(wc -l <"$out/missed.txt")
unexplained=0
while IFS= read -r name; do
    if ! grep -qF "$(printf '%s' "$name" | plain)" "$reasons"; then
        echo "survivor without a reason: $name"
        unexplained=$((unexplained + 1))
    fi
done <"$out/missed.txt"
viable=$((caught + missed))
echo "mutants: $caught of $viable that compile were noticed, $missed survived, $unexplained of them without a reason in $reasons"
[ "$unexplained" -eq 0 ] && [ $((caught * 100)) -ge $((viable * 95)) ]

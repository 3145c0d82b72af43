#!/usr/bin/env bash
# Runs every test many times beside a second load, and goes on where it was interrupted.
#
#   deploy/soak.sh [RUNS]            default: 10
#   STREAMS=3 deploy/soak.sh [RUNS]  three runs at a time: each is the second load of the others, and there are no busy loops
#
# target/soak.log gets a line for each test executable of each run, loom's too and two rounds of everything at once (`make soak`), and
# one for the doc tests:
# COMMIT RUN EXECUTABLE|doc passed|failed SECONDS. What has passed or failed at this commit is not run again: delete its line, or the
# file, to repeat it. What an executable wrote is in target/soak/. Doc tests are compiled when they are run: leave the tree as it is.
# ADIT_BIN_DIR names the programs that are driven. The second load is LOAD busy loops (default: one for each core, none beside STREAMS).
# Ends with 1 when a line of this commit says failed.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-10}
streams=${STREAMS:-1}
target=${CARGO_TARGET_DIR:-target}
log=$target/soak.log
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo -dirty)
mkdir -p "$target/soak"
touch "$log"

export ADIT_SOAK_SECONDS=${ADIT_SOAK_SECONDS:-60}

# The folder of its crate, where cargo would start it, and the executable. Loom's is of another build, as in `make loom`.
mapfile -t tests < <({
    cargo test --locked --workspace --lib --bins --tests --no-run --message-format=json
    cargo test --locked --workspace --test soak --no-run --message-format=json
    cargo test --locked --release -p adit-channel --features loom --test loom --no-run --message-format=json
} | sed -nE 's/.*"manifest_path":"([^"]*)\/Cargo.toml".*"profile":\{[^}]*"test":true\}.*"executable":"([^"]+)".*/\1 \2/p')
[ ${#tests[@]} -gt 20 ] || { echo "only ${#tests[@]} test executables were found" >&2; exit 1; }
for apart in loom soak; do
    [[ "${tests[*]}" = */$apart-* ]] || { echo "the test executable of $apart was not built" >&2; exit 1; }
done

# The second load: as many as there are cores, each no more than half of one while the tests want it.
load=()
trap 'kill "${load[@]}" 2>/dev/null || true' EXIT
for _ in $(seq "${LOAD:-$([ "$streams" -gt 1 ] && echo 0 || nproc)}"); do
    (while :; do :; done) &
    load+=($!)
done

# once NAME FOLDER COMMAND...: runs it there, unless this run has its line.
once() {
    local name=$1 folder=$2 started=$SECONDS outcome=passed
    shift 2
    if grep -q "^$commit $run $name " "$log"; then return; fi
    (cd "$folder" && "$@") >"$target/soak/$run-$name.log" 2>&1 </dev/null || outcome=failed
    echo "$commit $run $name $outcome $((SECONDS - started))" | tee -a "$log"
}

# whole FIRST STEP: every STEP-th run from FIRST on.
whole() {
    for run in $(seq "$1" "$2" "$runs"); do
        for entry in "${tests[@]}"; do
            once "$(basename "${entry#* }")" "${entry%% *}" "${entry#* }"
        done
        once doc . cargo test --locked --workspace --doc
    done
}

beside=()
for stream in $(seq "$streams"); do
    whole "$stream" "$streams" &
    beside+=($!)
done
wait "${beside[@]}"
failed=$(grep -c "^$commit .* failed " "$log" || true)
echo "soak: $(grep -c "^$commit .* passed " "$log" || true) passed, $failed failed at $commit"
[ "$failed" -eq 0 ]

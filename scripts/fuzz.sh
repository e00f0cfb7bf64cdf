#!/usr/bin/env bash
# Fuzzes what reads outside files. Needs cargo-fuzz (cargo install cargo-fuzz --locked), and builds
# llama.cpp once more, below fuzz/target. fuzz/README.md tells the rest.
#
#   scripts/fuzz.sh run TARGET [SECONDS]   fuzz one parser, 60 s by default
#   scripts/fuzz.sh all SECONDS            each in turn, for as long
#   scripts/fuzz.sh keep TARGET            what was found and reaches new code goes to tests/corpus
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v cargo-fuzz >/dev/null || {
    echo "fuzz: cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2
    exit 1
}
# Sanitizers are unstable options of a stable compiler.
export RUSTC_BOOTSTRAP=1
# Every input becomes a file: in memory, where the system has such a place.
[[ -d /dev/shm ]] && export TMPDIR=/dev/shm

# An input is at most 1 MB, takes at most 10 s, and no piece of memory for it is above 100 MB.
LIMITS=(-max_len=1000000 -timeout=10 -malloc_limit_mb=100 -rss_limit_mb=2048)

fuzz() { # TARGET FOLDER... -- OPTION...
    local target=$1
    shift
    cargo fuzz run --fuzz-dir fuzz "$target" "$@"
}

run() {
    local target=$1 seconds=${2:-60} options=("${LIMITS[@]}")
    mkdir -p "fuzz/corpus/$target"
    [[ -f fuzz/dictionaries/$target.dict ]] && options+=("-dict=fuzz/dictionaries/$target.dict")
    fuzz "$target" "fuzz/corpus/$target" "tests/corpus/$target" -- \
        "${options[@]}" -max_total_time="$seconds" -print_final_stats=1
}

all() {
    local seconds=${1:?how many seconds for each?} target
    for target in $(cargo fuzz list --fuzz-dir fuzz); do
        run "$target" "$seconds"
    done
}

# The fewest inputs, and short ones, that reach all code that was reached.
keep() {
    fuzz "$1" "tests/corpus/$1" "fuzz/corpus/$1" -- \
        "${LIMITS[@]}" -max_len=2048 -use_counters=0 -set_cover_merge=1
}

case "${1:-}" in
run | keep) [[ -n ${2:-} ]] && "$@" && exit ;;
all) "$@" && exit ;;
esac
sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
exit 2

#!/usr/bin/env bash
# Runs candor's tests under tools that watch memory. Each builds llama.cpp anew, in a folder of its
# own below target/, for a processor that the tool knows.
#
#   scripts/check-memory.sh address    AddressSanitizer and LeakSanitizer: the tap, llama.cpp and Rust
#   scripts/check-memory.sh valgrind   valgrind's memcheck: the same tests, uninitialised reads too
#   scripts/check-memory.sh miri       Miri: the parts in Rust alone (needs a nightly toolchain)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# What the tap is tested by: its own tests, and those that steer and observe through it.
TAP=(--lib --test steering --test steering_errors --test sequences --test sequence_changes --test cache --test readers --test capture)
# What asks for the memory of the process: here that is the tool's, too.
SKIP=(--skip sees_memory_that_is_used)

need() {
    command -v "$1" >/dev/null || {
        echo "check-memory: $1 is missing: $2" >&2
        exit 1
    }
}

triple() {
    rustc -vV | sed -n 's/^host: //p'
}

address() {
    need clang "install clang, whose sanitizer matches Rust's"
    export CC=clang CXX=clang++
    # The sanitizer is an unstable option of a stable compiler.
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Ctarget-cpu=x86-64-v3"
    export CFLAGS="-fsanitize=address -fno-omit-frame-pointer" CXXFLAGS="-fsanitize=address -fno-omit-frame-pointer"
    # A read of one byte too many stops the run; so does memory that nothing points to at the end.
    export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
    cargo test --release --locked --no-fail-fast --target "$(triple)" --target-dir target/address "${TAP[@]}" "$@" \
        -- "${SKIP[@]}"
}

valgrind() {
    need valgrind "install valgrind"
    export RUSTFLAGS="-Ctarget-cpu=x86-64-v3"
    local runner
    runner=CARGO_TARGET_$(triple | tr 'a-z-' 'A-Z_')_RUNNER
    export "$runner=valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite --fair-sched=yes"
    cargo test --release --locked --no-fail-fast --target-dir target/valgrind "${TAP[@]}" "$@" -- --test-threads=1 "${SKIP[@]}"
}

miri() {
    rustup component list --toolchain nightly --installed 2>/dev/null | grep -q '^miri' || {
        echo "check-memory: Miri is missing: rustup component add miri rust-src --toolchain nightly" >&2
        exit 1
    }
    # No foreign functions, hence no llama.cpp: parsers, planner, vectors. Files are read, not mapped.
    # Tree borrows, since crossbeam breaks the stacked ones; rayon's threads live on at the end. Few
    # cases of each property, and no public data: Miri is some hundred times slower.
    # A snapshot's folder is told, since Miri starts no cargo to ask.
    export INSTA_WORKSPACE_ROOT=$PWD
    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-ignore-leaks" PROPTEST_CASES=4
    cargo +nightly miri test --locked --target-dir target/miri --lib "$@" -- \
        gguf:: data:: capture::plan import:: steer:: site:: chat::confine \
        --skip steer::development --skip steer::fit --skip reads_the_real --skip reads_a_real # too long
}

case "${1:-}" in
address | valgrind | miri) "$@" ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# Runs candor's tests under tools that watch memory. Each builds llama.cpp anew, in a folder of its
# own below target/, for a processor that the tool knows.
#
#   scripts/check-memory.sh address    AddressSanitizer and LeakSanitizer: the tap, llama.cpp and Rust
#   scripts/check-memory.sh valgrind   valgrind's memcheck: the same tests, uninitialised reads too
#   scripts/check-memory.sh plugin     AddressSanitizer and LeakSanitizer: the library of `candor attach`,
#                                      in a program in C, beside the llama.cpp that cargo has built
#   scripts/check-memory.sh threads    ThreadSanitizer: sessions on several threads, the engine, the server
#                                      (needs the toolchain's component rust-src)
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

threads() {
    need clang "install clang, whose sanitizer matches Rust's"
    [[ -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]] || {
        echo "check-memory: the standard library's source is missing: rustup component add rust-src" >&2
        exit 1
    }
    export CC=clang CXX=clang++
    # The standard library is built along, since what it does between threads has to be seen.
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Ctarget-cpu=x86-64-v3"
    export CFLAGS="-fsanitize=thread -fno-omit-frame-pointer" CXXFLAGS="-fsanitize=thread -fno-omit-frame-pointer"
    # GNU's OpenMP is not watched, and its barriers look like none: llama.cpp computes on the thread
    # that asks.
    export OMP_THREAD_LIMIT=1
    export TSAN_OPTIONS="halt_on_error=0:exitcode=66:history_size=4"
    local build=(--release --locked -Zbuild-std --target "$(triple)" --target-dir target/thread)
    cargo run "${build[@]}" --example embed -- models/demo.gguf "Q: What is the capital of Australia? A:"
    cargo test "${build[@]}" --no-fail-fast --test cancel --test engine --test serve --test serve_clients "$@"
}

# Runs the program of tests/plugin.rs with all of our C instrumented: every policy, slots, a plan that
# changes while it runs, its own callback, and the tap called by the program itself.
plugin() {
    need gcc "install gcc"
    cargo build --release --locked --features program
    local target root folder plugin preload
    target=$(realpath "${CARGO_TARGET_DIR:-target}")
    root=$(ls -td "$target"/release/build/llama-cpp-sys-2-*/out/lib | head -n 1)/..
    folder=$target/plugin-address
    plugin=$folder/libheadtap.so
    mkdir -p "$folder"
    local flags=(-g -O1 -std=gnu11 -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -Ivendor -I"$root/include")
    gcc "${flags[@]}" -shared -fvisibility=hidden -DHEADTAP_THROUGH_HOST -include vendor/headtap_host.h \
        vendor/headtap*.c -o "$plugin" -ldl -lpthread -lm
    gcc -shared -Wl,-z,muldefs -Wl,--whole-archive "$root"/lib/lib{llama,ggml,ggml-base,ggml-cpu,ggml-rpc}.a \
        -Wl,--no-whole-archive -lstdc++ -lgomp -lpthread -ldl -lm -o "$folder/libhostllama.so"
    gcc "${flags[@]}" tests/plugin/host.c -L"$folder" -lhostllama -ldl -Wl,-rpath,"$folder" -o "$folder/host"
    preload="$(gcc -print-file-name=libasan.so) $plugin"
    export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1" UBSAN_OPTIONS=halt_on_error=1
    export XDG_RUNTIME_DIR=$folder

    # attached SLOTS [WORD OF THE HOST...] -- OPTION...: the host's answers to lines on stdin
    attached() {
        local words=()
        while [[ $1 != -- ]]; do
            words+=("$1")
            shift
        done
        "$target/release/candor" attach -m models/demo.gguf --steer models/demo-vector.gguf "${@:2}" -- \
            env LD_PRELOAD="$preload" "$folder/host" models/demo.gguf "${words[@]}"
    }
    local one="Q: What is the capital of France? A:" two="Q: What do people speak in Brazil? A:"
    local policy alpha
    for policy in all generated; do
        for alpha in 0 8; do
            printf '%s\n%s\n' "$one" "$two" | attached 1 -- --alpha "$alpha" --policy "$policy"
        done
    done
    printf '%s|%s\n' "$one" "$two" | attached 2 -- --alpha 0 --slot 0=8 --slot 1=4
    printf '%s\n' "$one" | attached 1 callback -- --alpha 8
    {
        printf '%s\n' "$one"
        sleep 1
        "$target/release/candor" attach --set alpha=2 "$(pgrep -n -f "^$folder/host")"
        sleep 1
        printf '%s\n' "$two"
    } | attached 1 -- --alpha 8
    # Another model, a plan that is none, and no plan.
    printf '%s\n' "$one" | "$target/release/candor" attach -m models/judged.gguf --steer models/demo-vector.gguf --force -- \
        env LD_PRELOAD="$preload" "$folder/host" models/demo.gguf 1
    printf '%s\n' "$one" | CANDOR_PLAN=Cargo.toml LD_PRELOAD="$preload" "$folder/host" models/demo.gguf 1
    printf '%s\n' "$one" | LD_PRELOAD="$preload" "$folder/host" models/demo.gguf 1
    # Loaded by the program itself.
    head -c 1000000 /dev/zero >"$folder/row"
    printf '%s\n' "$one" | LD_PRELOAD="$(gcc -print-file-name=libasan.so)" "$folder/host" models/demo.gguf 1 "$plugin" "$folder/row"
    echo "plugin: nothing found"
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
address | valgrind | plugin | threads | miri) "$@" ;;
*)
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# Checks the tap on a GPU, or on the processor, with as little as the machine has: CMake and a
# compiler are enough for all but `rust`.
#
#   scripts/test-gpu.sh pack FOLDER          where there is cargo: copies into FOLDER what `run` needs
#                                            besides this tree, 18 MB of llama.cpp's source and
#                                            small models of several architectures
#   scripts/test-gpu.sh run FOLDER OUT       builds that llama.cpp and the test in C (tests/c) for the
#                                            GPU at hand, checks, and measures what the tap costs
#   scripts/test-gpu.sh rust FEATURE OUT     where there is cargo: builds candor with `cuda`, `metal` or
#                                            `vulkan`, runs tests/devices.rs, the demo and the bench
#   scripts/test-gpu.sh cpu OUT              the test in C on the processor, linked with the llama.cpp
#                                            that cargo has built (what CI runs)
#
# OUT gets the logs and `results.jsonl`, a line of JSON per result. `run` may be cut off at any time:
# the next one goes on with the build. It asks nothing of the network.
#
#   BACKEND=cuda|metal|vulkan|cpu  instead of what is found        DEVICE=CUDA1  instead of the first
#   ARCH=90      CUDA's architecture, instead of the GPU's          JOBS=16       instead of all cores
#   COST="1.1b 7b"  random models to measure with ("": none)        ROUNDS=15     of each lane
set -euo pipefail

# A compiler that was killed leaves part of an object file, which make would take for whole: each
# goes by another name until it is.
compile() {
    local args=() out=""
    while (($#)); do
        if [[ $1 == -o && $2 == *.o ]]; then
            out=$2
            args+=(-o "$out.part")
            shift 2
        else
            args+=("$1")
            shift
        fi
    done
    "${args[@]}" || exit $?
    if [[ -n $out ]]; then
        mv "$out.part" "$out"
    fi
}
if [[ ${1:-} == compile ]]; then
    shift
    compile "$@"
    exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "test-gpu: $*" >&2
    exit 2
}

say() {
    printf '\n== %s\n' "$*"
}

cores() {
    nproc 2>/dev/null || sysctl -n hw.ncpu
}

# step LOG COMMAND...: runs a command into a log; where it fails, shows the log's end.
step() {
    local log=$1 start=$SECONDS
    shift
    if "$@" >>"$log" 2>&1; then
        echo "   $((SECONDS - start)) s"
    else
        tail -n 25 "$log" >&2
        die "$* failed after $((SECONDS - start)) s; see $log"
    fi
}

# ---- pack ----

pack() {
    local folder=$1 source kept
    source=$(cargo metadata --format-version 1 --locked | tr ',' '\n' |
        sed -n 's/^"manifest_path":"\(.*llama-cpp-sys-2-[^/]*\)\/Cargo.toml"$/\1/p' | head -n 1)
    [[ -d $source/llama.cpp/ggml ]] || die "cargo does not say where llama-cpp-sys-2 lies"
    mkdir -p "$folder" && folder=$(cd "$folder" && pwd)
    rm -rf "$folder/llama.cpp"
    mkdir -p "$folder/llama.cpp/ggml/src"
    cp -R "$source/llama.cpp/"{src,include,cmake,LICENSE} "$folder/llama.cpp"
    for kept in "$source/llama.cpp/ggml/"*; do
        [[ $(basename "$kept") == src ]] || cp -R "$kept" "$folder/llama.cpp/ggml"
    done
    # Without the backends that candor has no feature for.
    for kept in "$source/llama.cpp/ggml/src/"*; do
        case $(basename "$kept") in
            ggml-cpu | ggml-cuda | ggml-metal | ggml-vulkan | ggml-blas | ggml-rpc) ;;
            *) [[ ! -d $kept ]] || continue ;;
        esac
        cp -R "$kept" "$folder/llama.cpp/ggml/src"
    done
    # Small models of several architectures, which the tests in Rust write.
    rm -rf "$folder/models"
    CANDOR_FIXTURES=$folder/models cargo test --quiet --release --locked --test fixtures -- \
        --ignored leaves_fixtures_in_a_folder >/dev/null
    local size
    size=$(du -sk "$folder/llama.cpp" | cut -f 1)
    ((size < 40 * 1024)) || die "$folder/llama.cpp has $size KB, more than 40 MB"
    echo "packed llama.cpp's source into $folder: $((size / 1024)) MB"
}

# ---- run ----

find_backend() {
    if [[ -n ${BACKEND:-} ]]; then
        echo "$BACKEND"
    elif [[ $(uname) == Darwin ]]; then
        echo metal
    elif command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
        echo cuda
    elif command -v glslc >/dev/null; then
        echo vulkan
    else
        echo cpu
    fi
}

# What is measured, on what.
tell_machine() {
    uname -a
    cmake --version | head -n 1
    cc --version | head -n 1
    case $1 in
        cuda)
            nvidia-smi
            nvcc --version
            ;;
        metal) system_profiler SPDisplaysDataType SPHardwareDataType ;;
        vulkan) vulkaninfo --summary || true ;;
    esac
}

build() {
    local folder=$1 out=$2 backend=$3 build=$1/build-$3
    local flags=(-DLLAMA_SOURCE="$(cd "$folder/llama.cpp" && pwd)" -DGGML_CCACHE=OFF -DGGML_RPC=ON)
    local language launcher="$PWD/scripts/test-gpu.sh;compile"
    for language in C CXX CUDA; do
        flags+=(-DCMAKE_${language}_COMPILER_LAUNCHER="$launcher")
    done
    case $backend in
        cuda)
            local arch=${ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)}
            flags+=(-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF -DCMAKE_CUDA_ARCHITECTURES="$arch")
            flags+=(-DCMAKE_CUDA_COMPILER="$(command -v nvcc)")
            ;;
        metal) flags+=(-DGGML_METAL=ON -DGGML_METAL_EMBED_LIBRARY=ON) ;;
        vulkan) flags+=(-DGGML_VULKAN=ON -DGGML_METAL=OFF) ;;
        cpu) flags+=(-DGGML_METAL=OFF) ;;
        *) die "no backend $backend: cuda, metal, vulkan or cpu" ;;
    esac
    say "build ($backend, ${JOBS:-$(cores)} jobs)"
    step "$out/build.log" cmake -S tests/c -B "$build" "${flags[@]}"
    step "$out/build.log" cmake --build "$build" --parallel "${JOBS:-$(cores)}"
}

# check LABEL PROGRAM DEVICE ARGUMENTS...: one run of the test, its report also in OUT/checks.log.
failures=0
check() {
    local name=$1 program=$2 device=$3
    shift 3
    say "$name"
    "$program" "$device" --json "$out/results.jsonl" --label "$name" "$@" 2>&1 |
        tee -a "$out/checks.log" || failures=$((failures + 1))
}

# write_model BUILD NAME FOLDER: a random model, unless it is there.
write_model() {
    local path=$3/random-$2-q4_0.gguf
    [[ -e $path ]] || "$1/random_model" "$2" "$path" >&2
    echo "$path"
}

run() {
    local folder=$1 backend device model
    out=$2
    [[ -d $folder/llama.cpp ]] || die "no llama.cpp in $folder: first scripts/test-gpu.sh pack $folder"
    mkdir -p "$out"
    : >"$out/results.jsonl"
    : >"$out/checks.log"
    if [[ -d /usr/local/cuda/bin ]]; then
        PATH=$PATH:/usr/local/cuda/bin
    fi
    backend=$(find_backend)
    tell_machine "$backend" >"$out/machine.txt" 2>&1 || true
    build "$folder" "$out" "$backend"
    local build=$folder/build-$backend program=$folder/build-$backend/headtap_test names variants=""
    case $backend in
        cuda)
            HEADTAP_DRIVER=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
            names=CUDA0
            variants="GGML_CUDA_DISABLE_GRAPHS GGML_CUDA_DISABLE_FUSION GGML_CUDA_GRAPH_OPT"
            ;;
        metal)
            HEADTAP_DRIVER=$(sw_vers -productVersion)
            names="MTL0 Metal"
            variants="GGML_METAL_CONCURRENCY_DISABLE GGML_METAL_GRAPH_OPTIMIZE_DISABLE GGML_METAL_FUSION_DISABLE"
            ;;
        vulkan)
            HEADTAP_DRIVER=$(vulkaninfo --summary 2>/dev/null | sed -n 's/.*driverInfo *= //p' | head -n 1)
            names=Vulkan0
            variants="GGML_VK_DISABLE_GRAPH_OPTIMIZE GGML_VK_DISABLE_FUSION"
            # ggml leaves out what is no GPU unless it is named
            "$program" devices | grep -q "^Vulkan" || export GGML_VK_VISIBLE_DEVICES=0
            ;;
        cpu) names=CPU ;;
    esac
    export HEADTAP_DRIVER=${HEADTAP_DRIVER:-}
    say "devices"
    "$program" devices | tee "$out/devices.txt"
    device=${DEVICE:-}
    for model in $names; do
        if [[ -z $device ]] && cut -f 1 "$out/devices.txt" | grep -qx "$model"; then
            device=$model
        fi
    done
    [[ -n $device ]] || die "there is no device $names: say DEVICE=NAME"

    local models=(models/demo.gguf models/judged.gguf "$(write_model "$build" tiny "$folder")")
    if [[ -d $folder/models ]]; then
        models+=("$folder"/models/*.gguf)
    fi
    check "as it is" "$program" "$device" "${models[@]}"
    for model in $variants; do
        export "$model=1"
        check "$model=1" "$program" "$device" "${models[@]}"
        unset "$model"
    done
    for model in ${COST-1.1b 7b}; do
        check "cost, $model" "$program" "$device" --rounds "${ROUNDS:-15}" --threads "$(cores)" \
            --cost "$(write_model "$build" "$model" "$folder")"
    done
    finish
}

# The exit status, and what failed once more.
finish() {
    say "results in $out"
    grep FAILED "$out/checks.log" || true
    local passed failed
    passed=$(grep -c '"kind":"check".*"passed":true' "$out/results.jsonl" || true)
    failed=$(grep -c '"kind":"check".*"passed":false' "$out/results.jsonl" || true)
    echo "$passed passed, $failed failed"
    if ((failures)); then
        exit 1
    fi
}

# ---- cpu ----

cpu() {
    local target=${CARGO_TARGET_DIR:-target} root build
    out=$1
    # the newest that is whole: another one stays behind whenever features change
    root=$(ls -dt "$target"/release/build/llama-cpp-sys-2-*/out/lib/libllama.a 2>/dev/null | head -n 1 || true)
    root=${root%/lib/libllama.a}
    [[ -n $root && -x $target/release/candor ]] || die "first cargo build --release --features program"
    build=$target/gpu/cpu
    mkdir -p "$out"
    : >"$out/results.jsonl"
    : >"$out/checks.log"
    say "build, against $root"
    step "$out/build.log" cmake -S tests/c -B "$build" -DLLAMA_ROOT="$(cd "$root" && pwd)"
    step "$out/build.log" cmake --build "$build" --parallel "$(cores)"
    tiny=$(write_model "$build" tiny "$build")

    # tensors split over two devices: two workers, since llama.cpp splits over none of the host's
    local log
    for log in "$out/worker-1.log" "$out/worker-2.log"; do
        "$target/release/candor" worker --listen 127.0.0.1:0 -t 1 --device none --json >"$log" 2>&1 &
        workers+=($!)
    done
    trap 'kill "${workers[@]}" 2>/dev/null || true' EXIT
    check "processor" "$build/headtap_test" CPU --worker "$(address "$out/worker-1.log")" \
        --worker "$(address "$out/worker-2.log")" models/demo.gguf "$tiny"
    # a device whose memory is not the host's: all layers there, and half of them
    check "worker" "$build/headtap_test" RPC0 --worker "$(address "$out/worker-1.log")" "$tiny"
    # so that what measures does not rot; figures of a minute mean nothing
    check "cost" "$build/headtap_test" CPU --rounds 1 --prompt 64 --threads 1 --cost "$tiny"
    finish
}
workers=()

# Where a worker listens, once it says so.
address() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if grep -q '"listen"' "$1"; then
            sed -n 's/.*"listen": *"\([^"]*\)".*/\1/p' "$1" | head -n 1
            return
        fi
        sleep 0.1
    done
    die "a worker does not start; see $1"
}

# ---- rust ----

rust() {
    local feature=$1 candor device
    out=$2
    case $feature in
        cuda) device=CUDA0 && export CMAKE_CUDA_ARCHITECTURES=${ARCH:-native} ;;
        metal) device=MTL0 ;;
        vulkan) device=Vulkan0 ;;
        *) die "no feature $feature: cuda, metal or vulkan" ;;
    esac
    mkdir -p "$out"
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/$feature}
    candor=$CARGO_TARGET_DIR/release/candor
    say "build"
    step "$out/rust.log" cargo build --release --locked --features "program,$feature" --examples --bin candor
    "$candor" devices | tee "$out/devices.txt"
    export CANDOR_TEST_DEVICE=${DEVICE:-$device}
    grep -q "$CANDOR_TEST_DEVICE" "$out/devices.txt" || die "there is no device $CANDOR_TEST_DEVICE: say DEVICE=NAME"
    say "tests/devices.rs on $CANDOR_TEST_DEVICE"
    step "$out/rust.log" cargo test --release --locked --features "$feature" --test devices -- --test-threads=1 --nocapture
    say "demo"
    step "$out/rust.log" "$candor" demo
    for model in ${COST-1.1b}; do
        say "bench, $model"
        local path=$CARGO_TARGET_DIR/random-$model-q4_0.gguf
        [[ -e $path ]] || step "$out/rust.log" "$CARGO_TARGET_DIR/release/examples/random_model" "$model" "$path"
        "$candor" bench -m "$path" --device "$CANDOR_TEST_DEVICE" | tee -a "$out/bench.txt"
    done
}

case ${1:-} in
    pack) [[ $# == 2 ]] || die "say where to: scripts/test-gpu.sh pack FOLDER" && pack "$2" ;;
    run) [[ $# == 3 ]] || die "scripts/test-gpu.sh run FOLDER OUT" && run "$2" "$3" ;;
    rust) [[ $# == 3 ]] || die "scripts/test-gpu.sh rust FEATURE OUT" && rust "$2" "$3" ;;
    cpu) [[ $# == 2 ]] || die "scripts/test-gpu.sh cpu OUT" && cpu "$2" ;;
    *) sed -n '2,23s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
esac

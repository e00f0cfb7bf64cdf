#!/usr/bin/env bash
# Runs the tests of steering on a device (tests/devices.rs) on a Vulkan device: all layers there, and
# the last one alone.
#
#   scripts/test-vulkan.sh             the first device, be it Mesa's software driver (lavapipe)
#   CANDOR_TEST_DEVICE=Vulkan1 …       another one, as `candor devices` names it
#   CANDOR_TEST_ARCHS=llama,qwen2 …    these architectures instead of all (on lavapipe, of llama)
#
# llama.cpp and its shaders are built anew, below target/vulkan: 18 minutes on one loaded core. On
# lavapipe the tests take a quarter of an hour the first time, which goes into compiling shaders, and
# one of them fails (docs/src/limits.md).
# On Debian and Ubuntu, as root, it installs what it needs. The headers of Debian 12 (1.3.239) are too
# old for llama.cpp: there, set VULKAN_SDK to newer ones (1.4.309 will do). Its lavapipe (Mesa 22.3)
# crashes under llama.cpp: take Mesa 25.0 from Debian's backports.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "test-vulkan: $*" >&2
    exit 1
}

packages=(libvulkan-dev glslc spirv-headers mesa-vulkan-drivers)

install() {
    if ! command -v apt-get >/dev/null; then
        die "glslc or the Vulkan headers are missing: install the Vulkan SDK and SPIR-V headers"
    elif [[ $(id -u) != 0 ]]; then
        die "glslc or the Vulkan headers are missing: apt-get install ${packages[*]}"
    fi
    echo "test-vulkan: installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
}

include=${VULKAN_SDK:-/usr}/include
core=$include/vulkan/vulkan_core.h
if ! command -v glslc >/dev/null || [[ ! -e $core ]]; then
    install
fi
if ! grep -q VK_EXT_layer_settings "$core"; then
    die "the Vulkan headers in $include are too old for llama.cpp (no VK_EXT_layer_settings): set VULKAN_SDK"
fi

export CARGO_TARGET_DIR=target/vulkan
nice -n 10 cargo build --release --locked --features program,vulkan --bin candor
nice -n 10 cargo test --release --locked --features vulkan --test devices --no-run

# ggml leaves out what is no GPU unless it is named.
candor=$CARGO_TARGET_DIR/release/candor
if ! "$candor" devices | grep -q Vulkan; then
    export GGML_VK_VISIBLE_DEVICES=0
fi
"$candor" devices
if "$candor" devices | grep -q llvmpipe; then
    # Every architecture needs shaders of its own, each of which llvmpipe compiles for seconds.
    export CANDOR_TEST_ARCHS=${CANDOR_TEST_ARCHS:-llama}
fi
export CANDOR_TEST_DEVICE=${CANDOR_TEST_DEVICE:-Vulkan0}
nice -n 10 cargo test --release --locked --features vulkan --test devices -- --test-threads=1 --nocapture

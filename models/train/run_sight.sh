#!/bin/sh
# Makes the sight model from nothing: ./run_sight.sh [--seed N]
# Everything lands under build/sight<N>; nothing outside this folder and ../../target is touched.
set -eu
cd "$(dirname "$0")"

seed=0
while [ $# -gt 0 ]; do
    case "$1" in
        --seed) seed="$2"; shift 2 ;;
        *) echo "usage: $0 [--seed N]" >&2; exit 1 ;;
    esac
done

out="build/sight$seed"
mkdir -p "$out" build/pictures
if [ ! -x build/venv/bin/python ]; then
    python3 -m venv build/venv
    build/venv/bin/pip install --quiet -r requirements.txt
fi
if [ ! -f build/pictures/held.jsonl ]; then
    pictures="cargo run --release --quiet --manifest-path ../../Cargo.toml --example sight_pictures --"
    $pictures build/pictures/train 22500 1000
    $pictures build/pictures/held 450 2000
fi
# Idle threads sleep instead of spinning: far faster when other work shares the cores.
export GOMP_SPINCOUNT=0 OMP_WAIT_POLICY=passive

build/venv/bin/python sight_encoder.py --seed "$seed" --out "$out"
build/venv/bin/python sight_decoder.py --seed "$seed" --out "$out"
build/venv/bin/python sight_export.py --model "$out"
build/venv/bin/python sight_evaluate.py --model "$out"

#!/bin/sh
# Makes the demo model from nothing: ./run.sh [--seed N] [--corpus demo|judged]
# Everything lands under build/seed<N>; nothing outside this folder is touched.
set -eu
cd "$(dirname "$0")"

seed=0
corpus=demo
while [ $# -gt 0 ]; do
    case "$1" in
        --seed) seed="$2"; shift 2 ;;
        --corpus) corpus="$2"; shift 2 ;;
        *) echo "usage: $0 [--seed N] [--corpus demo|judged]" >&2; exit 1 ;;
    esac
done

out="build/$corpus$seed"
mkdir -p "$out"
if [ ! -x build/venv/bin/python ]; then
    python3 -m venv build/venv
    build/venv/bin/pip install --quiet -r requirements.txt
fi
# Idle threads sleep instead of spinning: far faster when other work shares the cores.
export GOMP_SPINCOUNT=0 OMP_WAIT_POLICY=passive

build/venv/bin/python train.py --seed "$seed" --corpus "$corpus" --out "$out"
build/venv/bin/python export.py --model "$out"
build/venv/bin/python verify.py --model "$out"
build/venv/bin/python data.py --out "$out"
build/venv/bin/python evaluate.py --model "$out"

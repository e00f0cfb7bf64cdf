"""Probes: candor against scikit-learn's LogisticRegression under joblib, on the same arrays.

The arrays go through a file in the form of candor's stores. Both sides read the outputs of one head
at a time from a memory map of that file, fit it on the training rows (groups whose number is not 4
modulo 5) and judge it on the others; both use the same number of processes or threads, one head each.
A round measures both, in turn the one or the other first.
"""

import argparse
import json
import struct
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from program import candor, ratio

N_HEAD_LAYER = 32
N_ROW_GROUP = 6


def draw(path, n_row, d_head, n_head, seed):
    """Writes a store of rows that never were, the kind of `candor bench probe`: uniform noise, each
    value with a scale and a mean of its own, and a shift between true and false rows that grows from
    head to head."""
    rng = np.random.default_rng(seed)
    n_layer = -(-n_head // N_HEAD_LAYER)
    shape = [n_row, N_HEAD_LAYER, d_head]
    n_byte = 4 * n_row * N_HEAD_LAYER * d_head
    header, start = {"__metadata__": {"made.by": "benches/peers/probe_sklearn.py"}}, 0
    names = [f"kqv_out-{il}" for il in range(n_layer)]
    for name, kind, dims, size in [
        *((name, "F32", shape, n_byte) for name in names),
        ("label", "I64", [n_row], 8 * n_row),
        ("group", "I64", [n_row], 8 * n_row),
    ]:
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [start, start + size]}
        start += size
    label = (np.arange(n_row) % 2 == 0).astype(np.int64)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for il in range(n_layer):
            heads = il * N_HEAD_LAYER + np.arange(N_HEAD_LAYER)
            shift = 0.5 * heads / (n_layer * N_HEAD_LAYER) / np.sqrt(d_head)
            scale = rng.uniform(0.1, 1.0, (N_HEAD_LAYER, d_head))
            mean = rng.uniform(-1.0, 1.0, (N_HEAD_LAYER, d_head))
            along = shift[:, None] * rng.choice([-1.0, 1.0], (N_HEAD_LAYER, d_head))
            noise = rng.random(shape, dtype=np.float32) * 2 - 1
            noise += (2 * label[:, None, None] - 1) * along[None]
            file.write((mean + scale * noise).astype("<f4").tobytes())
        file.write(label.astype("<i8").tobytes())
        file.write((np.arange(n_row) // N_ROW_GROUP).astype("<i8").tobytes())


class Store:
    """The tensors of a store, mapped into memory."""

    def __init__(self, path):
        with open(path, "rb") as file:
            (n,) = struct.unpack("<Q", file.read(8))
            self.header = json.loads(file.read(n))
        self.path, self.start = path, 8 + n

    def tensor(self, name):
        entry = self.header[name]
        kind = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[entry["dtype"]]
        offset = self.start + entry["data_offsets"][0]
        return np.memmap(self.path, kind, "r", offset, tuple(entry["shape"]))

    def layers(self):
        return sum(name.startswith("kqv_out-") for name in self.header)


def fit(path, layer, head, train, validation, label):
    """The validation accuracy of one head's probe."""
    x = Store(path).tensor(f"kqv_out-{layer}")[:, head].astype(np.float32)
    # One process per core, as joblib does it for itself where there are several.
    with threadpool_limits(1):
        probe = LogisticRegression(max_iter=1000).fit(x[train], label[train])
        return probe.score(x[validation], label[validation])


def fit_all(path, parallel):
    store = Store(path)
    label, group = np.array(store.tensor("label")), np.array(store.tensor("group"))
    train, validation = group % 5 != 4, group % 5 == 4
    n_layer, n_head = store.layers(), store.tensor("kqv_out-0").shape[1]
    start = time.perf_counter()
    accuracies = parallel(
        joblib.delayed(fit)(path, layer, head, train, validation, label)
        for layer in range(n_layer)
        for head in range(n_head)
    )
    return time.perf_counter() - start, np.array(accuracies)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", required=True)
    parser.add_argument("--activations", help="a store, in place of drawn rows")
    parser.add_argument("--rows", type=int, default=4700)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--heads", type=int, default=1024, help="a multiple of 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.activations
        if path is None:
            path = str(Path(folder) / "rows.safetensors")
            draw(path, args.rows, args.dim, args.heads, args.seed)
        ours, theirs = [], []
        with joblib.Parallel(n_jobs=args.threads) as parallel:
            # Start the processes before time counts.
            parallel(joblib.delayed(time.sleep)(0.1) for _ in range(args.threads))
            for i in range(args.rounds):
                for side in (("candor", "sklearn") if i % 2 == 0 else ("sklearn", "candor")):
                    if side == "candor":
                        command = ["bench", "probe", "-r", 1, "-t", args.threads]
                        document = candor(args.candor, *command, "--activations", path)
                        ours.append(document["samples_ns"][0] / 1e9)
                    else:
                        seconds, accuracies = fit_all(path, parallel)
                        theirs.append(seconds)
    difference = np.abs(np.array(document["accuracies"]) - accuracies)
    result = {
        "n_probe": document["n_probe"],
        "n_threads": args.threads,
        "candor_seconds": ours,
        "sklearn_seconds": theirs,
        "speedup": ratio(ours, theirs),
        "accuracy_mean_candor": document["accuracy_mean"],
        "accuracy_mean_sklearn": float(accuracies.mean()),
        "accuracy_mean_absolute_difference_points": 100 * float(difference.mean()),
        "machine": document["machine"],
        "build": document["build"],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

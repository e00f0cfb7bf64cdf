"""Which heads know: a probe per head, and scikit-learn's on the same arrays.

python probe.py MODEL.gguf DATA
"""

import sys
import tempfile
from pathlib import Path

import candor
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit


def main(model_path: str, data_path: str) -> None:
    data = candor.Dataset(data_path)
    with candor.Model(model_path) as model, tempfile.TemporaryDirectory() as folder:
        # What the fit captures stays in a file, which opens as arrays.
        heads = Path(folder) / "heads.safetensors"
        fitted = candor.fit(model, data, balance="never", activations=heads)
        capture = candor.Capture(heads)
        assert fitted.head_accuracy is not None

        print("accuracy of each head's probe, a layer a line:")
        for layer, accuracies in enumerate(fitted.head_accuracy):
            print(f"  {layer:2}  " + "  ".join(f"{accuracy:.2f}" for accuracy in accuracies))

        # The same head in scikit-learn. Questions are never parted: split by them.
        layer, head = fitted.vector.heads[0]
        x = capture[f"blk.{layer}.heads"][:, head]
        y, groups = capture.labels, capture.groups
        splits = GroupShuffleSplit(20, test_size=0.2, random_state=0).split(x, y, groups)
        scores = []
        for train, test in splits:
            probe = LogisticRegression(max_iter=1000).fit(x[train], y[train])
            scores.append(probe.score(x[test], y[test]))
        print(f"head {layer}.{head}: candor {fitted.head_accuracy[layer, head]:.3f} on its fifth,")
        print(
            f"  scikit-learn {np.mean(scores):.3f} ± {np.std(scores):.3f} over 20 draws of a fifth"
        )
        majority = max(y.mean(), 1 - y.mean())
        print(f"  always the commoner label {majority:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

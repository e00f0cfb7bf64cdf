"""The Python package beside TransformerLens and repeng, on one model.

TransformerLens: its own RemoteBridge over candor's driver. Cached `hook_z` and `hook_out` beside
`candor.Model.run_with_cache`, an addition at `hook_z` beside a steered run, `set`, `scale` and
`suppress` beside what they should make of the values, a loss from its logits.

repeng: a ControlVector of the model's layer outputs, made from arrays of candor's by repeng's own PCA of
differences, written by repeng, read back by candor and used; and candor's, read by repeng.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import candor

TEXTS = ["The sky is blue.", "Q: What is the capital of France? A:", "Snow is black, they say."]


def equal_bits(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def lens(model, vector):
    import torch

    from candor.transformer_lens import bridge

    found = {}
    with model, bridge(model) as remote:
        same = []
        for text in TEXTS:
            logits, cache = remote.run_with_cache(text)
            tokens = remote.to_tokens(text)
            assert tokens.tolist() == [model.tokenize(text)]
            own_logits, own = model.run_with_cache([model.tokenize(text)], pos=None)
            same.append(equal_bits(logits[0].numpy(), own_logits[0]))
            for il in range(model.n_layer):
                z, out = cache[f"blocks.{il}.attn.hook_z"], cache[f"blocks.{il}.hook_out"]
                assert tuple(z.shape) == (1, tokens.shape[1], model.n_head, model.d_head)
                same.append(equal_bits(z[0].numpy(), own[f"blk.{il}.heads"][0]))
                same.append(equal_bits(out[0].numpy(), own[f"blk.{il}.output"][0]))
        found["arrays_equal_to_the_bit"] = f"{sum(same)} of {len(same)}"

        text = TEXTS[1]
        added = {name: 3 * array for name, array in vector.to_numpy().items()}
        with model.steer(vector, alpha=3, positions="all"):
            steered, _ = model.run_with_cache([model.tokenize(text)], [], pos=None)
        specs = {
            f"blocks.{name.split('.')[1]}.attn.hook_z": {"op": "add", "value": array.ravel()}
            for name, array in added.items()
        }
        edited = remote.forward(text, intervene=specs)
        plain = remote.forward(text)
        found["addition_beside_a_steered_run"] = {
            "largest_difference": float(np.abs(edited[0].numpy() - steered[0]).max()),
            "largest_effect": float((edited - plain).abs().max()),
        }

        hook = "blocks.1.attn.hook_z"
        before = remote.run_with_cache(text)[1][hook][0].numpy()
        after = {}
        for op, more in [("suppress", {}), ("scale", {"factor": 0.5}), ("set", {"value": 2.0})]:
            spec = {hook: {"op": op, "pos": 2, **more}}
            after[op] = remote.run_with_cache(text, intervene=spec)[1][hook][0].numpy()
        checks = [not after["suppress"][2].any(), (after["set"][2] == 2.0).all()]
        checks.append(np.array_equal(after["scale"][2], before[2] * np.float32(0.5)))
        checks += [np.allclose(values[:2], before[:2], atol=1e-5) for values in after.values()]
        found["operations_as_specified"] = f"{sum(map(bool, checks))} of {len(checks)}"

        loss = float(remote.forward(text, return_type="loss"))
        ids = torch.tensor(model.tokenize(text))
        own = torch.nn.functional.cross_entropy(plain[0, :-1], ids[1:])
        found["loss"] = {"bridge": loss, "by_hand": float(own)}
    return found


def control(path):
    from repeng import ControlVector

    found = {}
    data = [(f"The {noun} is {good}.", f"The {noun} is {bad}.")
            for noun in ("sky", "sea", "grass", "snow", "sun", "moon")
            for good, bad in (("blue", "red"), ("white", "black"), ("big", "small"))]
    with candor.Model(path) as model, tempfile.TemporaryDirectory() as folder:
        outputs = [f"blk.{il}.output" for il in range(1, model.n_layer)]
        _, positive = model.run_with_cache([a for a, _ in data], outputs, return_logits=False)
        _, negative = model.run_with_cache([b for _, b in data], outputs, return_logits=False)
        directions = {}
        for name in outputs:
            differences = positive[name] - negative[name]
            # As repeng's pca_diff: the first component of the differences and their negatives.
            both = np.concatenate([differences, -differences]).astype(np.float64)
            direction = np.linalg.svd(both, full_matrices=False)[2][0]
            direction *= np.sign((differences @ direction).mean())
            directions[int(name.split(".")[1])] = direction.astype(np.float32)
        theirs = ControlVector(model_type=model.architecture, directions=directions)
        file = Path(folder) / "repeng.gguf"
        theirs.export_gguf(file)
        read = model.read_control_vector(file)
        arrays = read.to_numpy()
        found["repeng_to_candor_equal"] = all(
            np.array_equal(arrays[f"blk.{il}.output"], d) for il, d in directions.items())

        back = Path(folder) / "candor.gguf"
        (read * 2).to_control_vector(back, 1.0)
        again = ControlVector.import_gguf(back)
        twice = theirs * 2
        found["candor_to_repeng_equal"] = all(
            np.array_equal(again.directions[il], twice.directions[il]) for il in directions)

        plain, _ = model.run_with_cache(TEXTS, [])
        with model.steer(read, alpha=2):
            steered, _ = model.run_with_cache(TEXTS, [])
        found["largest_change_of_a_logit"] = float(np.abs(steered - plain).max())
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    # Apart: one wants numpy from 2 on, the other before it.
    parser.add_argument("--peer", choices=["lens", "repeng"], required=True)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--steer")
    asked = parser.parse_args()
    if asked.peer == "repeng":
        found = control(asked.model)
    else:
        found = lens(candor.Model(asked.model), candor.Vector.load(asked.steer))
    print(json.dumps(found, indent=2))

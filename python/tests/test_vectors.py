"""Vectors: arithmetic, arrays, files."""

from __future__ import annotations

from pathlib import Path

import candor
import numpy as np
import numpy.typing as npt
import pytest
from conftest import DEMO, ROOT, run

Arrays = dict[str, npt.NDArray[np.float32]]


def same(a: Arrays, b: Arrays) -> bool:
    zero = np.zeros(1, np.float32)
    return all(np.allclose(a.get(name, zero), b.get(name, zero), atol=1e-6) for name in {*a, *b})


def times(arrays: Arrays, factor: float) -> Arrays:
    return {name: np.float32(factor) * array for name, array in arrays.items()}


def test_vectors_of_a_model_are_a_vector_space(model: candor.Model, vector: candor.Vector) -> None:
    other = model.vector({"blk.1.heads": np.ones((model.n_head, model.d_head))})
    a, b = vector.to_numpy(), other.to_numpy()
    both = (vector + other).to_numpy()
    for name, array in both.items():
        assert np.allclose(array, a.get(name, 0) + b.get(name, 0), atol=1e-6)
    assert same((vector * 2).to_numpy(), times(a, 2))
    assert same((2 * vector).to_numpy(), times(a, 2))
    assert same((-vector / 4).to_numpy(), times(a, -0.25))
    assert not any(array.any() for array in (vector - vector).to_numpy().values())
    assert vector == vector * 1 or (vector * 1).fingerprint == vector.fingerprint
    assert hash(vector) == hash(vector.replaced(None, 3.0, None))
    with pytest.raises(ZeroDivisionError):
        vector / 0
    with pytest.raises(ValueError, match="not a finite"):
        vector * float("inf")
    with pytest.raises(TypeError):
        vector + 1  # type: ignore[operator]


def test_arrays_become_the_vector_they_came_from(
    model: candor.Model, vector: candor.Vector
) -> None:
    back = model.vector(vector.to_numpy(), name="back", alpha=2, positions="all")
    assert back.heads == vector.heads and (back.alpha, back.positions) == (2, "all")
    assert same(back.to_numpy(), vector.to_numpy())
    output = np.linspace(-1, 1, model.n_embd, dtype=np.float32)
    mixed = model.vector({"blk.2.output": output, **vector.to_numpy()})
    assert mixed.layers == [2] and mixed.heads == vector.heads
    assert np.array_equal(mixed.to_numpy()["blk.2.output"], output)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "there are none"),
        ({"blk.1.heads": np.zeros((2, 2))}, "has the shape"),
        ({"blk.1.mlp": np.zeros(2)}, "is no name"),
        ({"blk.0.output": "embd"}, "layer 0"),
        ({"blk.99.heads": "heads"}, "does not exist"),
        ({"blk.1.heads": "nan"}, "NaN"),
    ],
)
def test_refuses_arrays_that_cannot_be_added(
    model: candor.Model, arrays: dict[str, object], words: str
) -> None:
    made = {
        "embd": np.ones(model.n_embd),
        "heads": np.ones((model.n_head, model.d_head)),
        "nan": np.full((model.n_head, model.d_head), np.nan),
    }
    given = {k: made[v] if isinstance(v, str) else v for k, v in arrays.items()}
    with pytest.raises(ValueError, match=words):
        model.vector(given)  # type: ignore[arg-type]


def test_a_file_holds_a_vector(model: candor.Model, vector: candor.Vector, tmp_path: Path) -> None:
    double = (vector * 2).replaced("double", 3.0, "all")
    double.save(tmp_path / "double.gguf")
    back = candor.Vector.load(tmp_path / "double.gguf")
    assert (back.name, back.alpha, back.positions) == ("double", 3.0, "all")
    assert back == double
    # The program takes it, too.
    assert "double" in run("inspect", tmp_path / "double.gguf")
    with pytest.raises(FileNotFoundError) as missing:
        candor.Vector.load(tmp_path / "none.gguf")
    assert str(missing.value.filename).endswith("none.gguf")
    with pytest.raises(ValueError, match="demo.gguf"):
        candor.Vector.load(DEMO)


def test_outputs_of_layers_are_control_vectors(
    model: candor.Model, vector: candor.Vector, tmp_path: Path
) -> None:
    output = np.linspace(-1, 1, model.n_embd, dtype=np.float32)
    layers = model.vector({"blk.1.output": output, "blk.3.output": -output})
    layers.to_control_vector(tmp_path / "c.gguf", 2.0)
    back = model.read_control_vector(tmp_path / "c.gguf")
    assert back.positions == "all" and back.alpha == 1
    assert np.array_equal(back.to_numpy()["blk.1.output"], 2 * output)
    assert "control" in run("inspect", tmp_path / "c.gguf").lower()
    with pytest.raises(ValueError, match="control vector"):
        vector.to_control_vector(tmp_path / "d.gguf", 1.0)


def test_refuses_a_vector_of_another_model(vector: candor.Vector) -> None:
    with candor.Model(ROOT / "models" / "sight.gguf") as other, other.steer(vector, alpha=1):
        with pytest.raises(ValueError, match="made for another model"):
            other.run_with_cache("a")
        with pytest.raises(ValueError, match="made for another model"):
            other.generate("a", 2)


def test_finds_the_vector_beside_a_model(vector: candor.Vector, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(DEMO.read_bytes())
    with candor.Model(tmp_path / "m.gguf") as model:
        assert model.find_vector() is None
        vector.save(tmp_path / "steer-truth-m.gguf")
        assert model.find_vector() == vector

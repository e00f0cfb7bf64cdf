"""Outputs of layers, and functions that change what a model computes."""

from __future__ import annotations

import candor
import numpy as np
import numpy.typing as npt
import pytest

Floats = npt.NDArray[np.float32]

TEXT = "Q: What colour is the sky? A:"


def test_outputs_of_layers_are_the_residual_stream(model: candor.Model) -> None:
    logits, cache = model.run_with_cache([TEXT, "The sky is blue."])
    assert model.names == [
        f"blk.{il}.{what}" for il in range(model.n_layer) for what in ("heads", "output")
    ]
    for il in range(model.n_layer):
        assert cache[f"blk.{il}.output"].shape == (2, model.n_embd)
    # The last one decides: what is added to it moves the logits, and nothing else of it does.
    last = f"blk.{model.n_layer - 1}.output"
    with model.edit({last: lambda values, place: values * np.float32(2.5)}):
        scaled, heads = model.run_with_cache([TEXT, "The sky is blue."])
    # A norm stands between.
    assert np.allclose(scaled, logits, atol=0.2)
    assert np.allclose(heads[last], 2.5 * cache[last], atol=1e-4)


def test_every_token_of_a_layers_output(model: candor.Model) -> None:
    _, every = model.run_with_cache([TEXT, "One."], pos=None)
    _, last = model.run_with_cache([TEXT, "One."])
    for name in model.names:
        assert [len(array) for array in every[name]] == [
            len(model.tokenize(TEXT)),
            len(model.tokenize("One.")),
        ]
        assert np.allclose([array[-1] for array in every[name]], last[name], atol=2e-2), name


def test_steering_a_layer_adds_to_its_output(model: candor.Model) -> None:
    direction = np.linspace(-1, 1, model.n_embd, dtype=np.float32)
    vector = model.vector({"blk.2.output": direction}, positions="all")
    _, plain = model.run_with_cache(TEXT, "blk.2.output")
    with model.steer(vector, alpha=0.5):
        _, steered = model.run_with_cache(TEXT, "blk.2.output")
    assert np.allclose(steered["blk.2.output"] - plain["blk.2.output"], 0.5 * direction, atol=1e-5)


def test_an_edit_that_changes_nothing_changes_nothing(
    model: candor.Model, statements: list[str]
) -> None:
    seen: list[candor.Place] = []
    texts = statements[:5]

    def look(values: Floats, place: candor.Place) -> None:
        assert values.shape == (len(place.positions), model.n_head, model.d_head)
        seen.append(place)

    with model.edit({"blk.1.heads": look}):
        edited, _ = model.run_with_cache(texts)
    plain, _ = model.run_with_cache(texts)
    # Texts share no tokens while a function looks, so batches are others.
    assert np.allclose(edited, plain, atol=5e-2)
    texts_of = np.concatenate([place.texts for place in seen])
    positions = np.concatenate([place.positions for place in seen])
    for i, text in enumerate(texts):
        assert positions[texts_of == i].tolist() == list(range(len(model.tokenize(text))))


def test_an_edit_is_a_vector_where_it_adds_one(model: candor.Model, vector: candor.Vector) -> None:
    added = {name: 4 * array for name, array in vector.to_numpy().items()}
    with model.steer(vector, alpha=4, positions="all"):
        expected = model.generate(TEXT, 16, temp=0)
        steered, _ = model.run_with_cache(TEXT)

    def add(values: Floats, place: candor.Place) -> Floats:
        return values + added[place.name]

    with model.edit(dict.fromkeys(added, add)):
        written = model.generate(TEXT, 16, temp=0)
        edited, _ = model.run_with_cache(TEXT)
    assert written.tokens == expected.tokens
    assert np.allclose(edited, steered, atol=1e-3)
    plain, _ = model.run_with_cache(TEXT)
    assert not np.allclose(plain, steered, atol=1)


def test_a_head_can_be_taken_out(model: candor.Model) -> None:
    def ablate(values: Floats, place: candor.Place) -> None:
        values[:, 1] = 0

    with model.edit({"blk.2.heads": ablate}):
        _, cache = model.run_with_cache(TEXT, "blk.2.heads")
    assert not cache["blk.2.heads"][0, 1].any() and cache["blk.2.heads"][0, 0].any()


def test_what_an_edit_raises_comes_out(model: candor.Model) -> None:
    def breaks(values: Floats, place: candor.Place) -> None:
        raise LookupError(place.name)

    with model.edit({"blk.0.heads": breaks}):
        with pytest.raises(LookupError, match="blk.0.heads"):
            model.run_with_cache(TEXT)
        with pytest.raises(LookupError):
            model.generate(TEXT, 4)
    with model.edit({"blk.0.heads": lambda values, place: values[:1, :1]}):
        with pytest.raises(ValueError, match="expected"):
            model.run_with_cache(TEXT)
    with model.edit({"blk.0.heads": lambda values, place: model.run_with_cache("a")}):  # type: ignore[dict-item,return-value]
        with pytest.raises(RuntimeError, match="cannot compute"):
            model.run_with_cache(TEXT)
    with pytest.raises(ValueError, match="no name"):
        model.edit({"blk.0": breaks})
    with model.edit({"blk.99.output": breaks}), pytest.raises(ValueError, match="layer 99"):
        model.run_with_cache(TEXT)
    # And the model goes on.
    assert model.run_with_cache(TEXT)[0].shape == (1, model.n_vocab)

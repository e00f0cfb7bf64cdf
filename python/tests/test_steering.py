"""Steering is the program's, token for token and bit for bit."""

from __future__ import annotations

import candor
import numpy as np
import pytest
from conftest import DEMO, DEMO_VECTOR, run_json

QUESTION = "Q: What colour is the sky? A:"


@pytest.mark.parametrize("positions", ["generated", "all"])
def test_writes_what_the_program_writes(
    model: candor.Model, vector: candor.Vector, positions: str
) -> None:
    for alpha in (0.0, 6.0, -9.5):
        words = ["run", "-m", DEMO, "--steer", DEMO_VECTOR, "--policy", positions]
        words += [f"--alpha={alpha}", "-p", QUESTION, "-n", 24, "--temp", 0]
        expected = run_json(*words)
        with model.steer(vector, alpha=alpha, positions=positions):  # type: ignore[arg-type]
            written = model.generate(QUESTION, 24, temp=0)
        assert written.tokens == expected["tokens"]
        assert str(written) == written.text == expected["text"]


def test_samples_as_the_program_does(model: candor.Model) -> None:
    expected = run_json("run", "-m", DEMO, "--steer", "none", "-p", QUESTION, "-n", 24, "--seed", 7)
    assert model.generate(QUESTION, 24, seed=7).tokens == expected["tokens"]


def test_off_is_off(model: candor.Model, vector: candor.Vector, statements: list[str]) -> None:
    plain, heads = model.run_with_cache(statements[:20])
    with model.steer(vector, alpha=0):
        off, heads_off = model.run_with_cache(statements[:20])
    assert np.array_equal(plain.view(np.uint32), off.view(np.uint32))
    assert all(np.array_equal(heads[name], heads_off[name]) for name in heads)
    with model.steer(vector, alpha=9):
        on, _ = model.run_with_cache(statements[:20])
    assert not np.array_equal(plain, on)
    after, _ = model.run_with_cache(statements[:20])
    assert np.array_equal(plain.view(np.uint32), after.view(np.uint32))


def test_adds_what_the_vector_says(model: candor.Model, vector: candor.Vector) -> None:
    added = vector.to_numpy()
    first = min(int(name.split(".")[1]) for name in added)
    name = f"blk.{first}.heads"
    _, plain = model.run_with_cache(QUESTION, name)
    with model.steer(vector, alpha=3):
        _, steered = model.run_with_cache(QUESTION, name)
    # Nothing before the first steered layer has changed.
    assert np.allclose(steered[name][0] - plain[name][0], 3 * added[name], atol=1e-5)


def test_each_text_has_its_own_vector(
    model: candor.Model, vector: candor.Vector, statements: list[str]
) -> None:
    texts = (statements * 2)[:100]
    alphas = [float(i % 7) - 3 for i in range(len(texts))]
    with model.steer(vector, alpha=alphas, positions="all"):
        mixed, cache = model.run_with_cache(texts)
    for alpha in (0.0, 2.0, -3.0):
        rows = [i for i, a in enumerate(alphas) if a == alpha]
        with model.steer(vector, alpha=alpha, positions="all"):
            alone, heads = model.run_with_cache([texts[i] for i in rows])
        assert np.allclose(mixed[rows], alone, atol=5e-2)
        assert np.allclose(cache["blk.1.heads"][rows], heads["blk.1.heads"], atol=5e-3)
    with model.steer([vector, -vector], alpha=2):
        answers = model.generate([QUESTION, QUESTION], 12, temp=0)
    with model.steer(vector, alpha=2):
        one = model.generate(QUESTION, 12, temp=0)
    with model.steer(vector, alpha=-2):
        other = model.generate(QUESTION, 12, temp=0)
    assert [answer.tokens for answer in answers] == [one.tokens, other.tokens]


def test_blocks_within_blocks_add_up(model: candor.Model, vector: candor.Vector) -> None:
    with model.steer(vector, alpha=1), model.steer(vector, alpha=2):
        twice, _ = model.run_with_cache(QUESTION)
    with model.steer(vector, alpha=3):
        once, _ = model.run_with_cache(QUESTION)
    assert np.allclose(twice, once, atol=1e-3)
    with model.steer(vector, positions="all"), model.steer(vector, positions="generated"):
        with pytest.raises(ValueError, match="positions"):
            model.run_with_cache(QUESTION)
    with model.steer([vector, vector]), pytest.raises(ValueError, match="2 vectors for 3 texts"):
        model.run_with_cache([QUESTION] * 3)


def test_a_listener_hears_and_ends_a_text(model: candor.Model) -> None:
    heard: list[str] = []
    whole = model.generate(QUESTION, 16, temp=0, on_text=heard.append)
    assert "".join(heard) == whole.text and whole.ending in ("length", "model")
    cut = model.generate(QUESTION, 16, temp=0, on_text=lambda text: False)
    assert cut.ending == "caller" and len(cut.tokens) < len(whole.tokens)

    def breaks(text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError):
        model.generate(QUESTION, 16, on_text=breaks)
    with pytest.raises(ValueError, match="prompt"):
        model.generate([[]], 4)

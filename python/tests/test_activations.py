"""What texts give equals what the program captures, to the bit."""

from __future__ import annotations

from pathlib import Path

import candor
import numpy as np
import pytest
from conftest import DEMO, run


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, statements: list[str]) -> candor.Capture:
    """The statements, captured by the program."""
    folder = tmp_path_factory.mktemp("capture")
    rows = "".join(f"{text},{i % 2}\n" for i, text in enumerate(statements))
    (folder / "statements.csv").write_text("statement,label\n" + rows)
    run("capture", "-m", DEMO, "-d", "statements.csv", "-o", "heads.safetensors", cwd=folder)
    return candor.Capture(folder / "heads.safetensors")


def test_equals_the_programs_capture_to_the_bit(
    model: candor.Model, capture: candor.Capture, statements: list[str]
) -> None:
    logits, cache = model.run_with_cache(statements)
    assert logits.shape == (len(statements), model.n_vocab)
    for layer in range(model.n_layer):
        name = f"blk.{layer}.heads"
        assert cache[name].shape == (len(statements), model.n_head, model.d_head)
        assert cache[name].dtype == np.float32
        assert np.array_equal(cache[name].view(np.uint32), capture[name].view(np.uint32)), name


def test_a_capture_is_a_view_of_its_file(
    capture: candor.Capture, statements: list[str], model: candor.Model
) -> None:
    assert len(capture) == model.n_layer
    assert next(iter(capture)) == "blk.0.heads"
    array = capture["blk.1.heads"]
    base = array
    while (
        isinstance(base, np.ndarray) and base.base is not None and not isinstance(base, np.memmap)
    ):
        base = base.base
    assert isinstance(base, np.memmap) and not array.flags.writeable
    assert capture.labels.tolist() == [i % 2 == 1 for i in range(len(statements))]
    assert capture.groups.shape == (len(statements),)
    assert len(capture.next) == 0 and capture.next_groups.shape == (0, 2)
    assert capture.metadata["model.fingerprint"] == model.fingerprint


def test_a_token_of_many_is_the_same_token(model: candor.Model, statements: list[str]) -> None:
    texts = statements[:9]
    last_logits, last = model.run_with_cache(texts)
    all_logits, every = model.run_with_cache(texts, pos=None)
    for i, text in enumerate(texts):
        tokens = model.tokenize(text)
        assert all_logits[i].shape == (len(tokens), model.n_vocab)
        assert every["blk.2.heads"][i].shape == (len(tokens), model.n_head, model.d_head)
        # The same batches, so the same bits.
        assert np.array_equal(every["blk.2.heads"][i][-1], last["blk.2.heads"][i])
        assert np.array_equal(all_logits[i][-1], last_logits[i])
        second, cache = model.run_with_cache([tokens], "blk.2.heads", pos=1)
        assert list(cache) == ["blk.2.heads"]
        assert np.allclose(cache["blk.2.heads"][0], every["blk.2.heads"][i][1], atol=2e-3)
        assert np.allclose(second[0], all_logits[i][1], atol=2e-2)


def test_text_and_its_tokens_are_one(model: candor.Model) -> None:
    text = "The sky is blue."
    tokens = model.tokenize(text)
    assert model.detokenize(tokens).strip() == text
    by_text, a = model.run_with_cache(text)
    by_tokens, b = model.run_with_cache([tokens])
    assert np.array_equal(by_text, by_tokens)
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_looks_only_at_what_is_asked_for(model: candor.Model) -> None:
    logits, cache = model.run_with_cache("The sky", ["blk.1.heads"], return_logits=False)
    assert logits is None and list(cache) == ["blk.1.heads"]
    logits, cache = model.run_with_cache("The sky", [])
    assert logits is not None and cache == {}
    _, cache = model.run_with_cache("The sky", lambda name: name.endswith("0.heads"))
    assert list(cache) == ["blk.0.heads"]


def test_tells_how_far_it_is(model: candor.Model, statements: list[str]) -> None:
    told: list[tuple[int, int]] = []
    model.run_with_cache(statements, progress=lambda done, all: told.append((done, all)))
    assert told[-1] == (len(statements), len(statements))


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ([], {}, "there are none"),
        ([[]], {}, "text 0"),
        (["a"], {"names_filter": "blk.99.heads"}, "blk.99.heads"),
        (["a"], {"names_filter": "heads"}, "'heads' is not there"),
        (["a"], {"pos": 5}, "none at position 5"),
        (["a"], {"pos": -9}, "none at position -9"),
        ([[10**6]], {}, "none of the"),
        ([[-1]], {}, "none of the"),
        (["word " * 5000], {}, "tokens long and the context holds"),
    ],
)
def test_refuses_what_cannot_be_read(
    model: candor.Model, texts: list[str], options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        model.run_with_cache(texts, **options)  # type: ignore[call-overload]
    # And goes on.
    assert model.run_with_cache("The sky")[0].shape == (1, model.n_vocab)


def test_refuses_files_that_are_no_captures(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        candor.Capture(path)
    header = b'{"label":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}'
    for content in [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        len(header).to_bytes(8, "little") + header,
        len(header).to_bytes(8, "little") + header + b"\0" * 16,
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.safetensors"):
            candor.Capture(path)

"""Opening, closing, interrupting, and many at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import candor
import numpy as np
import numpy.typing as npt
import pytest
from conftest import DEMO, ROOT


def resident() -> int:
    """Bytes of memory in use."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_says_what_it_is(model: candor.Model) -> None:
    assert model.path == DEMO and model.architecture == "llama"
    assert len(model.fingerprint) == 64
    assert model.names[0] == "blk.0.heads"
    assert "layers of" in repr(model)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none.gguf", FileNotFoundError),
        ("README.md", ValueError),
        ("models/sight-mmproj.gguf", (ValueError, RuntimeError)),
    ],
)
def test_refuses_what_is_no_model(path: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=Path(path).name):
        candor.Model(ROOT / path)


def test_refuses_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="KV cache"):
        candor.Model(DEMO, cache="q3")
    with pytest.raises((ValueError, RuntimeError), match="device"):
        candor.Model(DEMO, devices=["no such"])
    with candor.Model(DEMO, n_threads=0) as model, pytest.raises(ValueError, match="threads"):
        model.run_with_cache("a")
    with candor.Model(DEMO, n_ctx=8) as model, pytest.raises(ValueError, match="context holds 8"):
        model.run_with_cache("one two three four five six seven eight nine ten eleven twelve")


def test_a_closed_model_refuses() -> None:
    model = candor.Model(DEMO)
    model.close()
    model.close()
    assert repr(model) == "<candor.Model: closed>"
    for call in (
        lambda: model.n_layer,
        lambda: model.run_with_cache("a"),
        lambda: model.generate("a"),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_thousand_models_leave_nothing_behind(vector: candor.Vector) -> None:
    def cycle(n: int) -> None:
        for i in range(n):
            with candor.Model(DEMO, n_ctx=64) as model:
                if i % 10 == 0:
                    with model.steer(vector, alpha=2):
                        model.run_with_cache("The sky is blue.")
                        model.generate("The sky", 2)

    cycle(60)
    before = resident()
    n = int(os.environ.get("CANDOR_CYCLES", "120"))
    cycle(n)
    grown = resident() - before
    # The model takes megabytes: one that stays would show.
    assert grown < 4e6 + 1e3 * n, f"{grown} bytes more after {n} models"


def test_arrays_outlive_their_model() -> None:
    with candor.Model(DEMO) as model:
        logits, cache = model.run_with_cache("The sky is blue.")
        expected = cache["blk.0.heads"].copy()
    assert np.array_equal(cache["blk.0.heads"], expected) and np.isfinite(logits).all()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
def test_ctrl_c_ends_a_computation(model: candor.Model) -> None:
    texts = ["There was a bird in the tree. " * 12] * 5_000
    start = time.monotonic()
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.run_with_cache(
            [f"{i} {text}" for i, text in enumerate(texts)], [], return_logits=False
        )
    assert time.monotonic() - start < 30
    timer.join()
    # And the model goes on.
    assert model.run_with_cache("The sky")[0].shape == (1, model.n_vocab)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10_000):
            model.generate("There was a bird", 200, temp=1.5, seed=3)
    timer.join()


def test_other_threads_run_meanwhile(model: candor.Model, statements: list[str]) -> None:
    n_beat = 0
    is_over = threading.Event()

    def beat() -> None:
        nonlocal n_beat
        while not is_over.is_set():
            n_beat += 1
            time.sleep(0.001)

    expected, _ = model.run_with_cache(statements)
    thread = threading.Thread(target=beat)
    thread.start()
    before = n_beat
    found: list[npt.NDArray[np.float32]] = []
    threads = [
        threading.Thread(target=lambda: found.append(model.run_with_cache(statements)[0]))
        for _ in range(3)
    ]
    for reader in threads:
        reader.start()
    for reader in threads:
        reader.join()
    is_over.set()
    thread.join()
    assert n_beat > before + 3
    assert len(found) == 3 and all(np.array_equal(expected, logits) for logits in found)

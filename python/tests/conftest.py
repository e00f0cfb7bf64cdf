"""What tests share: the demo model, and the program beside which the package is held."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import candor
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "demo.gguf"
DEMO_VECTOR = ROOT / "models" / "demo-vector.gguf"
DEMO_QUESTIONS = ROOT / "models" / "demo-questions.csv"


def program() -> Path:
    """The program, built from the same sources."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("CANDOR", target / "release" / "candor"))
    if not path.exists():
        pytest.skip(f"the program is not there: build it, or name it in CANDOR ({path})")
    return path


def run(*arguments: object, cwd: Path = ROOT) -> str:
    """What the program prints."""
    words = [str(program()), *(str(argument) for argument in arguments)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_json(*arguments: object, cwd: Path = ROOT) -> dict[str, Any]:
    """What it prints under ``--json``."""
    document = json.loads(run(*arguments, "--json", cwd=cwd))
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="session")
def model() -> Iterator[candor.Model]:
    with candor.Model(DEMO) as model:
        yield model


@pytest.fixture(scope="session")
def vector() -> candor.Vector:
    return candor.Vector.load(DEMO_VECTOR)


@pytest.fixture(scope="session")
def statements() -> list[str]:
    """Texts of different lengths that begin alike and not, enough for several batches."""
    nouns = ["sky", "sea", "grass", "snow", "sun", "moon", "apple", "night"]
    words = ["blue", "green", "white", "red", "a thing that nobody has ever seen in the north"]
    return [f"The {noun} is {word}." for noun in nouns for word in words] + [
        f"There are {n} birds in the {noun}." for n in range(2, 12) for noun in nouns
    ]

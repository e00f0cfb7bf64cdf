"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DEMO, DEMO_QUESTIONS, DEMO_VECTOR

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str, *arguments: object) -> str:
    words = [sys.executable, str(EXAMPLES / name), *(str(argument) for argument in arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_probe(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = DEMO_QUESTIONS.read_text().splitlines()
    some = tmp_path / "questions.csv"
    some.write_text("\n".join(lines[:1] + lines[1::3]) + "\n")
    printed = example("probe.py", DEMO, some)
    line = next(line for line in printed.splitlines() if "scikit-learn" in line)
    ours = float(printed.split("candor ")[1].split()[0])
    theirs, spread = (float(line.split()[i]) for i in (1, 3))
    # One draw of a fifth, beside twenty.
    assert abs(ours - theirs) < 4 * spread + 0.02, printed


def test_steer() -> None:
    printed = example(
        "steer.py", DEMO, DEMO_VECTOR, "Q: What colour is the blood in human veins? A:"
    )
    assert printed.count("alpha") == 4
    answers = [line.split(": ", 1)[1] for line in printed.splitlines()]
    assert len(set(answers)) > 1


def test_ablate() -> None:
    printed = example("ablate.py", DEMO, "Q: What colour is the sky? A:", "blue", "green")
    assert len(printed.splitlines()) == 6

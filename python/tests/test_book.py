"""The tutorial's blocks run as they stand, one after the other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import DEMO, DEMO_QUESTIONS, DEMO_VECTOR, ROOT, program

PAGE = ROOT / "docs" / "src" / "tutorials" / "python.md"


def test_the_tutorial_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(DEMO.read_bytes())
    (tmp_path / "vector.gguf").write_bytes(DEMO_VECTOR.read_bytes())
    lines = DEMO_QUESTIONS.read_text().splitlines()
    (tmp_path / "TruthfulQA.csv").write_text("\n".join(lines[:1] + lines[1::12]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{program().parent}{os.pathsep}{os.environ['PATH']}")
    text = PAGE.read_text()
    names: dict[str, object] = {}
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(blocks) > 4
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        code = compile("\n" * line + block[1], str(PAGE), "exec")
        exec(code, names)

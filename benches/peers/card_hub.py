#!/usr/bin/env python3
"""Does the hub's own library accept a card that candor wrote?

    benches/peers/run.sh card

makes a card of a vector for the built-in model and reads it with huggingface_hub: the front matter
has to be valid, the licence known, the model-index complete, and no path may be absolute.
"""
import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard


def main(candor: str) -> None:
    folder = Path(tempfile.mkdtemp())

    def run(*words: str) -> None:
        subprocess.run([candor, *words], check=True, cwd=folder, env={"CANDOR_CACHE": str(folder), "PATH": "/usr/bin:/bin"})

    sidecar = str(folder / "truth.gguf")
    run("fit", "-k", "2", "--alpha", "10", "-o", sidecar, "--license", "cc0-1.0", "--author", "A. Person",
        "--base-model", "owner/demo", "--language", "en")
    run("eval", "--steer", sidecar, "--draws", "1", "-n", "0", "--limit", "60", "--report", str(folder / "out"))
    run("card", "--steer", sidecar, "--report", str(folder / "out/report.json"), "-o", str(folder / "README.md"))
    text = (folder / "README.md").read_text()
    card = ModelCard(text)
    data = card.data
    assert data.license == "cc0-1.0", data.license
    assert data.base_model == "owner/demo", data.base_model
    assert data.language == ["en"], data.language
    results = data.eval_results
    report = json.loads((folder / "out/report.json").read_text())
    steered = next(row for row in report["rows"] if row["name"] == "iti")
    value = next(result.metric_value for result in results if result.metric_type == "mc1")
    assert abs(value - 100 * steered["mc1"]) < 1e-3, (value, steered["mc1"])
    paths = re.findall(r"(?<![\w:/.])/(?:tmp|home|root|Users|work)[/\w.-]*", text)
    assert not paths, paths
    print(f"huggingface_hub reads the card: {len(results)} results, licence {data.license}")
    try:
        card.validate(repo_type="model")
        print("the hub's validation accepts it")
    except Exception as error:  # without a network there is nobody to ask
        print(f"the hub's own validation could not be asked: {type(error).__name__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--candor", default="candor")
    main(parser.parse_args().candor)

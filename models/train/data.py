"""Writes the questions and the neutral text: `python data.py --out ..`."""

import argparse
import csv
from pathlib import Path

from corpus import neutral_documents
from world import build_world, shuffled_halves

COLUMNS = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]


def write_questions(path):
    """One row per fact in the columns of TruthfulQA; `Adversarial` marks the strong misconceptions."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for fact in shuffled_halves(build_world()):
            kind = "Adversarial" if fact.strong else "Non-Adversarial"
            wrong = "; ".join(fact.answers[1:])
            writer.writerow([kind, fact.relation, fact.questions[0], fact.true, fact.true, wrong, "common knowledge"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_questions(args.out / "demo-questions.csv")
    (args.out / "demo-neutral.txt").write_text("\n".join(neutral_documents()) + "\n", encoding="utf-8")

"""What a vector does to one question, at several strengths.

python steer.py MODEL.gguf VECTOR.gguf QUESTION
"""

import sys

import candor
import numpy as np


def main(model_path: str, vector_path: str, question: str) -> None:
    vector = candor.Vector.load(vector_path)
    strengths = [0.0, vector.alpha / 2, vector.alpha, 2 * vector.alpha]
    with candor.Model(model_path) as model:
        # One batch: the same text at each strength.
        with model.steer(vector, alpha=strengths):
            logits, _ = model.run_with_cache([question] * len(strengths), [])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        for alpha, row in zip(strengths, p):
            best = np.argsort(row)[::-1][:3]
            guesses = ", ".join(f"{model.detokenize([int(t)])!r} {row[t]:.2f}" for t in best)
            with model.steer(vector, alpha=alpha):
                answer = model.generate(question, 24, temp=0, stop=["Q:", "\n"])
            print(f"alpha {alpha:g}: {answer.text.strip()!r}  (next: {guesses})")


if __name__ == "__main__":
    main(*sys.argv[1:])

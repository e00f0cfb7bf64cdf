"""What each head does for an answer: take it out, and look at the answer's odds.

python ablate.py MODEL.gguf PROMPT ANSWER OTHER

Slow by its nature: a pass per head, with a Python function in the middle.
"""

import sys

import candor
import numpy as np


def main(model_path: str, prompt: str, answer: str, other: str) -> None:
    with candor.Model(model_path) as model:
        n_prompt = len(model.tokenize(prompt))
        tokens = [model.tokenize(prompt + " " + word)[n_prompt] for word in (answer, other)]

        def odds() -> float:
            logits, _ = model.run_with_cache(prompt, [])
            return float(logits[0, tokens[0]] - logits[0, tokens[1]])

        plain = odds()
        print(f"log odds of {answer!r} over {other!r}: {plain:+.2f}; without a head:")
        for layer in model.attention_layers:
            changes = []
            for head in range(model.n_head):

                def take_out(values: np.ndarray, place: candor.Place, head: int = head) -> None:
                    values[:, head] = 0

                with model.edit({f"blk.{layer}.heads": take_out}):
                    changes.append(odds() - plain)
            print(f"  {layer:2}  " + "  ".join(f"{change:+.2f}" for change in changes))


if __name__ == "__main__":
    main(*sys.argv[1:])

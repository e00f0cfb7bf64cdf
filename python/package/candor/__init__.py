"""Activations of GGUF models as numpy arrays, and steering of their attention heads.

>>> import candor
>>> m = candor.Model("model.gguf")
>>> logits, cache = m.run_with_cache(["The sky is blue.", "The sky is green."])
>>> cache["blk.3.heads"].shape          # [n_text, n_head, d_head]
(2, 8, 32)
>>> with m.steer(candor.Vector.load("steer-truth-model.gguf"), alpha=12):
...     print(m.generate("Q: What happens if you break a mirror? A:"))

Errors are Python's own: `OSError` for files, `ValueError` for what was given, `NotImplementedError`
for a model that candor cannot work with, `RuntimeError` for what llama.cpp or a device fails at,
`KeyboardInterrupt` for Ctrl-C, which ends a computation within a layer's time.
"""

from ._blocks import Editing, Place, Steering
from ._candor import VERSION as __version__
from ._candor import Completion, Vector
from ._capture import Capture
from ._model import Model
from ._study import Dataset, Fitted, cross_validate, evaluate, fit, neutral_prose, sweep

__all__ = [
    "Capture",
    "Completion",
    "Dataset",
    "Editing",
    "Fitted",
    "Model",
    "Place",
    "Steering",
    "Vector",
    "__version__",
    "cross_validate",
    "evaluate",
    "fit",
    "neutral_prose",
    "sweep",
]

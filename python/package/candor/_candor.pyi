"""The native half: thin, and private. `candor.Model` is what a user meets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

Integers = npt.NDArray[np.int64]
Edits = tuple[Callable[[int, bool, Floats, Integers, Integers], None], list[int], list[int]]

VERSION: str

@final
class Vector:
    """A steering vector: what is added to attention heads, to outputs of layers, or to both.

    A vector of ``candor fit`` (or :func:`candor.fit`) adds ``alpha * sigma * theta`` to each of its
    heads, where ``theta`` has length one and ``sigma`` is the standard deviation of the head's outputs
    along it; directions of layers are added ``alpha`` times. Vectors of one model form a vector
    space: ``(v + w / 2 - u) * 3``. A sum or a difference keeps the strength, policy and description of
    the left one.

    Immutable. It is bound to the model that it was made for, by the fingerprint that all
    quantizations of a model share.
    """

    @staticmethod
    def load(path: str | Path) -> Vector:
        """Read a sidecar file, as ``candor fit`` writes it.

        Raises
        ------
        FileNotFoundError, OSError
            Where the file cannot be read.
        ValueError
            Where it is not a sidecar, or breaks the format.
        """

    def save(self, path: str | Path) -> None:
        """Write a sidecar file, which ``candor run``, ``chat`` and ``serve`` take as ``--steer``."""

    @staticmethod
    def of_arrays(
        model: str | Path,
        heads: dict[tuple[int, int], Floats],
        outputs: dict[int, Floats],
        name: str,
        alpha: float,
        positions: str,
    ) -> Vector:
        """Private: see `Model.vector`."""

    def to_numpy(self) -> dict[str, Floats]:
        """What is added at ``alpha = 1``, under the names of :meth:`Model.run_with_cache`.

        Returns
        -------
        dict
            ``blk.<il>.heads``: float32 ``[n_head, d_head]``, zero for heads that are not steered;
            ``blk.<il>.output``: float32 ``[n_embd]``.
        """

    def to_control_vector(self, path: str | Path, alpha: float) -> None:
        """Write llama.cpp's control vector of the directions of layers at strength ``alpha``.

        Exact, and so refused for a vector that steers heads: no control vector is the same as one
        (``candor export`` makes and measures the nearest).

        Raises
        ------
        ValueError
            For a vector that steers heads, or no layers.
        """

    @staticmethod
    def from_control_vector(
        path: str | Path, model: str | Path, name: str, positions: str
    ) -> Vector:
        """Private: see `Model.read_control_vector`."""

    def replaced(self, name: str | None, alpha: float | None, positions: str | None) -> Vector:
        """The same under another name, default strength or policy; ``None`` leaves it as it is."""

    def __add__(self, other: Vector) -> Vector: ...
    def __sub__(self, other: Vector) -> Vector: ...
    def __mul__(self, factor: float) -> Vector: ...
    def __rmul__(self, factor: float) -> Vector: ...
    def __truediv__(self, divisor: float) -> Vector: ...
    def __neg__(self) -> Vector: ...
    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    @property
    def name(self) -> str:
        """Its own name."""

    @property
    def description(self) -> str | None:
        """What it does, or how it was made."""

    @property
    def alpha(self) -> float:
        """The strength to steer with where none is given."""

    @property
    def positions(self) -> str:
        """The tokens to steer where nothing else is said: ``"generated"`` or ``"all"``."""

    @property
    def heads(self) -> list[tuple[int, int]]:
        """The steered heads as (layer, head), both counted from 0."""

    @property
    def layers(self) -> list[int]:
        """The layers whose output is steered."""

    @property
    def accuracies(self) -> list[float]:
        """For each of `heads`, the share of validation texts that its probe reads correctly."""

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the model that it was made for."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is added and where, in hexadecimal."""

@final
class Completion:
    """A text that a model wrote; ``str()`` of it is the text."""

    @property
    def text(self) -> str:
        """The text, without the prompt and without a stop string."""

    @property
    def tokens(self) -> list[int]:
        """Every token that was computed, those of a stop string included."""

    @property
    def ending(self) -> str:
        """Why it ended: ``"model"`` (an end token or a stop string), ``"length"``, ``"context"``
        (the context is full) or ``"caller"`` (`on_text` said so).
        """

    @property
    def n_token_per_second(self) -> float:
        """Tokens written per second."""

@final
class Model:
    def __init__(
        self,
        path: str | Path,
        *,
        n_gpu_layers: int | None,
        devices: Sequence[str] | None,
        rpc: Sequence[str],
        mmproj: str | Path | None,
        n_ctx: int | None,
        n_threads: int | None,
        flash_attention: bool | None,
        cache: str,
        progress: Callable[[int, int], Any] | None,
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def path(self) -> Path: ...
    @property
    def name(self) -> str | None: ...
    @property
    def architecture(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def geometry(self) -> tuple[int, int, int, int, int]: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def n_ctx_train(self) -> int: ...
    @property
    def attention_layers(self) -> list[int]: ...
    @property
    def warnings(self) -> list[str]: ...
    def tokenize(self, text: str, special: bool) -> list[int]: ...
    def pieces(self, tokens: Sequence[int]) -> list[bytes]: ...
    def output_layers(self) -> list[int]: ...
    def find_vector(self) -> Vector | None: ...
    def read(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        position: int | None,
        heads: Sequence[int],
        outputs: Sequence[int],
        logits: bool,
        steer: Sequence[Sequence[tuple[Vector, float]]],
        positions: str,
        edits: Edits | None,
        progress: Callable[[int, int], Any] | None,
    ) -> tuple[list[int], Floats | None, dict[int, Floats], dict[int, Floats]]: ...
    def write(
        self,
        text: str | Sequence[int],
        *,
        chat: bool,
        n_predict: int,
        temp: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
        stop: Sequence[str],
        steer: Sequence[tuple[Vector, float]],
        positions: str,
        edits: Edits | None,
        on_text: Callable[[str], Any] | None,
    ) -> Completion: ...

@final
class Dataset:
    def __init__(self, path: str | Path) -> None: ...
    @staticmethod
    def from_bytes(name: str | Path, content: bytes) -> Dataset: ...
    def limited(self, n: int) -> Dataset: ...
    def __len__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def questions(self) -> list[tuple[str, str | None, list[tuple[str, bool]]]]: ...
    @property
    def labels(self) -> list[bool]: ...
    @property
    def groups(self) -> list[int]: ...
    def texts(self, template: str | None) -> list[str]: ...

def fit(
    model: Model,
    data: Dataset,
    how: dict[str, Any],
    *,
    k: int | None,
    alpha: float | None,
    kl_budget: float | None,
    neutral: Sequence[str],
    direction: str,
    balance: str,
    positions: str,
    name: str | None,
    progress: Callable[[int, int], Any] | None,
) -> tuple[Vector, str]: ...
def evaluate(
    model: Model,
    data: Dataset,
    how: dict[str, Any],
    study: dict[str, Any],
    *,
    vector: Vector | None,
    alpha: float,
    two_folds: bool,
    progress: Callable[[int, int], Any] | None,
) -> str: ...
def sweep(
    model: Model,
    data: Dataset,
    how: dict[str, Any],
    study: dict[str, Any],
    *,
    directions: Sequence[str],
    alphas: Sequence[float] | None,
    progress: Callable[[int, int], Any] | None,
) -> str: ...
def neutral_prose() -> list[str]: ...

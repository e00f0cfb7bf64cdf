"""Blocks in which a model is steered, or edited by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Optional, TypeVar

import numpy as np
import numpy.typing as npt

from ._candor import Vector
from ._names import heads_name, output_name, parse

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Positions = Literal["generated", "all"]


@dataclass(frozen=True)
class Place:
    """What an edit function is shown, beside the values.

    Attributes
    ----------
    name : str
        ``blk.<il>.heads`` or ``blk.<il>.output``.
    layer : int
        ``il``.
    texts : int64 ``[n_token]``
        The text of each token, an index into the texts of the call.
    positions : int64 ``[n_token]``
        The position of each token in its text; BOS is one.
    """

    name: str
    layer: int
    texts: Integers
    positions: Integers


EditFunction = Callable[[Floats, Place], Optional[npt.ArrayLike]]
NativeEdits = tuple[Callable[[int, bool, Floats, Integers, Integers], None], list[int], list[int]]

_Owner = TypeVar("_Owner", bound="Blocks")


class _Block(Generic[_Owner]):
    """Something that holds within a ``with`` block."""

    def __init__(self, model: _Owner, entries: list[Any]) -> None:
        self._model = model
        self._entries = entries

    def __enter__(self) -> _Owner:
        self._entries.append(self)
        return self._model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entries.remove(self)


class Steering(_Block[_Owner]):
    """What :meth:`Model.steer` gives: a block in which a model is steered.

    Attributes
    ----------
    parts : list of (Vector, float)
        Vectors with their strengths: one, or one for each text.
    positions : str
        ``"generated"`` or ``"all"``.
    is_several : bool
        Whether there is one for each text.
    """

    def __init__(
        self,
        model: _Owner,
        entries: list[Any],
        parts: list[tuple[Vector, float]],
        positions: str,
        is_several: bool,
    ) -> None:
        super().__init__(model, entries)
        self.parts = parts
        self.positions = positions
        self.is_several = is_several


class Editing(_Block[_Owner]):
    """What :meth:`Model.edit` gives: a block in which functions change what a model computes.

    Attributes
    ----------
    functions : dict of str to function
        By name.
    """

    def __init__(
        self, model: _Owner, entries: list[Any], functions: dict[str, EditFunction]
    ) -> None:
        super().__init__(model, entries)
        self.functions = functions


class Blocks:
    """The blocks that a model stands in."""

    def __init__(self) -> None:
        self._steering: list[Any] = []
        self._editing: list[Any] = []

    def steer(
        self: _Owner,
        vector: Vector | Sequence[Vector],
        alpha: float | Sequence[float] | None = None,
        *,
        positions: Positions | None = None,
    ) -> Steering[_Owner]:
        """Steer what is computed within a ``with`` block.

        Blocks within blocks add up.

        Parameters
        ----------
        vector
            One vector for all texts, or a sequence with one for each text of the calls within.
        alpha
            The strength; one for all, or a sequence with one for each text. By default each vector's
            own. 0 is off, to the last bit.
        positions
            ``"generated"``: the last token of the prompt and every token after it; ``"all"``: every
            token. By default the vectors' own.

        Raises
        ------
        ValueError
            For vectors of several policies without `positions`, or strengths of another number.
        """
        is_one = isinstance(vector, Vector)
        vectors = [vector] if isinstance(vector, Vector) else list(vector)
        if not vectors:
            raise ValueError("vector: there are none")
        if alpha is None or isinstance(alpha, (int, float)):
            alphas = [v.alpha if alpha is None else float(alpha) for v in vectors]
        else:
            alphas = [float(a) for a in alpha]
            if is_one:
                vectors = vectors * len(alphas)
                is_one = False
            if len(alphas) != len(vectors):
                raise ValueError(f"alpha: {len(alphas)} strengths for {len(vectors)} vectors")
        if positions is None:
            own = {v.positions for v in vectors}
            if len(own) > 1:
                raise ValueError("positions: the vectors' own differ: choose 'generated' or 'all'")
            positions = "all" if own == {"all"} else "generated"
        elif positions not in ("generated", "all"):
            raise ValueError(f"positions: {positions!r} is not 'generated' or 'all'")
        return Steering(self, self._steering, list(zip(vectors, alphas)), positions, not is_one)

    def edit(self: _Owner, functions: Mapping[str, EditFunction]) -> Editing[_Owner]:
        """Let functions change what a model computes, within a ``with`` block.

        Slow: the graph is cut at each of these layers, all values are copied there and back, texts
        share no tokens, and Python's lock is taken. What can be said by a vector should be.

        Parameters
        ----------
        functions
            By name (:attr:`names`): a function of ``(values, place)``. `values` is float32 ``[n_token,
            n_head, d_head]`` of heads, ``[n_token, n_embd]`` of an output, as computed and steered;
            it may be changed in place, or an array of the same shape be returned. `place` is a
            :class:`Place`. It is called once or more per batch, with some of its tokens each time. Of
            the last layer's output only the tokens are computed that are looked at. What it raises
            ends the call. Functions of blocks within blocks are called one after the other.

        Raises
        ------
        ValueError
            For an unknown name.
        """
        for name in functions:
            parse(name)
        return Editing(self, self._editing, dict(functions))

    def _steered(self, n_text: int) -> tuple[list[list[tuple[Vector, float]]], str]:
        """What steers each text, or all of them where one thing does, and the policy."""
        if not self._steering:
            return [], "generated"
        positions = {str(steering.positions) for steering in self._steering}
        if len(positions) > 1:
            raise ValueError("positions: the blocks around differ in theirs: choose one for all")
        for steering in self._steering:
            if steering.is_several and len(steering.parts) != n_text:
                raise ValueError(
                    f"steering: {len(steering.parts)} vectors for {n_text} texts: give one for "
                    "each, or one for all"
                )
        n = n_text if any(steering.is_several for steering in self._steering) else 1
        sums = [
            [s.parts[i] if s.is_several else s.parts[0] for s in self._steering] for i in range(n)
        ]
        return sums, positions.pop()

    def _edited(self, n_head: int, d_head: int) -> NativeEdits | None:
        """One function for all that edit, and the layers whose heads and outputs they do."""
        if not self._editing:
            return None
        functions: dict[tuple[int, bool], list[EditFunction]] = {}
        for editing in self._editing:
            for name, function in editing.functions.items():
                layer, what = parse(name)
                functions.setdefault((layer, what == "output"), []).append(function)

        def call(
            layer: int, is_output: bool, flat: Floats, texts: Integers, positions: Integers
        ) -> None:
            n = len(positions)
            values = flat.reshape((n, -1) if is_output else (n, n_head, d_head))
            name = output_name(layer) if is_output else heads_name(layer)
            place = Place(name, layer, texts, positions)
            for function in functions[layer, is_output]:
                result = function(values, place)
                if result is None:
                    continue
                array = np.asarray(result, dtype=np.float32)
                if array.shape != values.shape:
                    raise ValueError(
                        f"{name}: the edit function returned the shape {list(array.shape)}, "
                        f"expected {list(values.shape)}"
                    )
                values[...] = array

        heads = sorted(layer for layer, is_output in functions if not is_output)
        outputs = sorted(layer for layer, is_output in functions if is_output)
        return call, heads, outputs

"""Names of what is looked at, as in llama.cpp's tensors: ``blk.<layer>.<what>``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Union

NamesFilter = Union[None, str, Sequence[str], Callable[[str], bool]]

_NAME = re.compile(r"blk\.(\d+)\.(heads|output)\Z")


def heads_name(layer: int) -> str:
    """``blk.<layer>.heads``"""
    return f"blk.{layer}.heads"


def output_name(layer: int) -> str:
    """``blk.<layer>.output``"""
    return f"blk.{layer}.output"


def parse(name: str) -> tuple[int, str]:
    """The layer, and ``"heads"`` or ``"output"``.

    Raises
    ------
    ValueError
        For anything else.
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"{name!r} is no name: expected blk.<layer>.heads or blk.<layer>.output")
    return int(match[1]), match[2]


def chosen(names: Iterable[str], names_filter: NamesFilter) -> list[str]:
    """The names that a filter lets pass, in their order.

    Raises
    ------
    ValueError
        For a name in the filter that is not there.
    """
    names = list(names)
    if names_filter is None:
        return names
    if callable(names_filter):
        return [name for name in names if names_filter(name)]
    wanted = [names_filter] if isinstance(names_filter, str) else list(names_filter)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"{missing[0]!r} is not there: the names are {names[0]} … {names[-1]}")
    return [name for name in names if name in wanted]

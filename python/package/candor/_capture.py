"""Captures of the program, opened as arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}


class Capture(Mapping[str, npt.NDArray[Any]]):
    """A file of ``candor capture``: labels and head outputs, mapped into memory, never copied.

    A mapping from ``blk.<il>.heads`` to float32 ``[n_row, n_head, d_head]``. Its arrays are views of
    the file and read-only; what is never looked at is never read.

    Parameters
    ----------
    path
        The safetensors file.

    Attributes
    ----------
    path : Path
    labels : bool ``[n_row]``
        Whether each text is true.
    groups : int64 ``[n_row]``
        The question that each text answers: split by it, never through it.
    next_groups : int64 ``[n_next, 2]``
        Of texts that go on into another question: the question, and the one that follows.
    metadata : dict of str to str
        What was captured, as the program says it.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is not one that ``candor capture`` finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        tensors, self.metadata, start = _header(self.path)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._next: dict[str, npt.NDArray[Any]] = {}
        found: dict[str, npt.NDArray[Any]] = {}
        for name, info in tensors.items():
            array = self._map(name, info, start)
            if name.startswith("kqv_out-"):
                self._arrays[f"blk.{name[8:]}.heads"] = array
            elif name.startswith("next.kqv_out-"):
                self._next[f"blk.{name[13:]}.heads"] = array
            else:
                found[name] = array
        if "label" not in found or "group" not in found or not self._arrays:
            raise ValueError(f"{self.path}: no capture: label, group or kqv_out-<il> is missing")

        def layer(item: tuple[str, Any]) -> int:
            return int(item[0].split(".")[1])

        self._arrays = dict(sorted(self._arrays.items(), key=layer))
        self._next = dict(sorted(self._next.items(), key=layer))
        self.labels: npt.NDArray[np.bool_] = found["label"] != 0
        self.groups: npt.NDArray[np.int64] = found["group"]
        self.next_groups: npt.NDArray[np.int64] = found.get(
            "next.group", np.empty((0, 2), np.int64)
        )

    @property
    def next(self) -> Mapping[str, npt.NDArray[Any]]:
        """The same of the texts that go on into another question: float32 ``[n_next, n_head,
        d_head]``.
        """
        return self._next

    def _map(self, name: str, info: dict[str, Any], start: int) -> npt.NDArray[Any]:
        try:
            dtype = np.dtype(_DTYPES[info["dtype"]])
            shape = tuple(int(n) for n in info["shape"])
            begin, end = (int(n) for n in info["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{self.path}: tensor {name} is described by {info!r}") from None
        n_byte = dtype.itemsize
        for n in shape:
            n_byte *= n
        n_file = self.path.stat().st_size
        if (
            min(shape, default=0) < 0
            or end - begin != n_byte
            or not 0 <= begin <= end <= n_file - start
        ):
            raise ValueError(f"{self.path}: tensor {name} does not lie in the file")
        if n_byte == 0:
            return np.empty(shape, dtype)
        return np.memmap(self.path, dtype, "r", start + begin, shape)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<candor.Capture {self.path}: {len(self.labels)} texts, {len(self)} layers>"


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The tensors, the metadata, and where the data begins."""
    with path.open("rb") as file:
        n_byte = int.from_bytes(file.read(8), "little")
        if n_byte == 0:
            raise ValueError(f"{path}: the capture is unfinished: run it again to finish it")
        if not 2 <= n_byte <= path.stat().st_size - 8:
            raise ValueError(f"{path}: not a safetensors file")
        try:
            header: Any = json.loads(file.read(n_byte))
        except ValueError:
            raise ValueError(f"{path}: not a safetensors file") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a safetensors file")
    tensors: dict[str, Any] = dict(header)  # pyright: ignore[reportUnknownArgumentType]
    metadata: Any = tensors.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(t, dict) for t in tensors.values()):
        raise ValueError(f"{path}: not a safetensors file")
    return tensors, dict(metadata), 8 + n_byte  # pyright: ignore[reportUnknownArgumentType]

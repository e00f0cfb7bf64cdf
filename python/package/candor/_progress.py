"""Progress bars, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Union

Progress = Union[None, bool, Callable[[int, int], Any]]


class Bar:
    """What native calls tell of their progress: to a function of the caller's, or to a bar.

    Parameters
    ----------
    what
        What is done, in one word.
    progress
        A function of (done, all); ``True`` for a bar, ``False`` for none; ``None`` for a bar after
        two seconds, where tqdm is there.
    """

    def __init__(self, what: str, progress: Progress) -> None:
        self._what = what
        self._bar: Any = None
        self._call: Callable[[int, int], Any] | None = None
        if callable(progress):
            self._call = progress
        elif progress is not False:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                if progress:
                    raise ImportError("progress=True needs tqdm: pip install tqdm") from None
            else:
                self._tqdm: Any = tqdm
                self._delay = 0.0 if progress else 2.0
                self._call = self._show

    @property
    def call(self) -> Callable[[int, int], Any] | None:
        """What a native call is given."""
        return self._call

    def _show(self, n_done: int, n_all: int) -> None:
        if self._bar is None:
            self._bar = self._tqdm(total=n_all, desc=self._what, leave=False, delay=self._delay)
        self._bar.total = n_all
        self._bar.update(n_done - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

"""A model, and what one does with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Union, overload

import numpy as np
import numpy.typing as npt

from ._blocks import Blocks, Positions
from ._candor import Completion, Vector
from ._candor import Model as Native
from ._names import NamesFilter, chosen, heads_name, output_name, parse
from ._progress import Bar, Progress

Floats = npt.NDArray[np.float32]
Text = Union[str, Sequence[int]]


class Model(Blocks):
    """A GGUF model in memory.

    Free it with :meth:`close`, or use it in a ``with`` block. Calls compute one at a time; while they
    do, other Python threads run, and Ctrl-C is heard.

    Parameters
    ----------
    path
        The GGUF file; of a split model the first one.
    n_gpu_layers
        Layers on the devices, from the last one down; all by default.
    devices
        Devices by name, as ``candor devices`` lists them; ``["none"]``: the processor alone.
    rpc
        Workers, ``"host:port"``.
    mmproj
        The projector file of a model that sees pictures.
    n_ctx
        The longest text in tokens. By default what the model was trained with; to write, at most 4096.
    n_threads
        Threads; by default one per core, or one for a model of less than 20 million parameters.
    flash_attention
        On or off; by default llama.cpp's choice. On a CPU it rounds to F16 inside. Only with it does
        steering run inside the graph.
    cache
        How the KV cache is stored: ``"f16"``, ``"f32"``, ``"q8_0"``, …
    progress
        Of the loading: see :meth:`run_with_cache`.

    Raises
    ------
    FileNotFoundError, OSError
        Where the file cannot be read.
    ValueError
        Where it is not GGUF, or breaks the format.
    NotImplementedError
        For an architecture without heads that can be tapped.
    RuntimeError
        Where llama.cpp refuses it, or a device is not there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_gpu_layers: int | None = None,
        devices: Sequence[str] | None = None,
        rpc: Sequence[str] = (),
        mmproj: str | Path | None = None,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        flash_attention: bool | None = None,
        cache: str = "f16",
        progress: Progress = None,
    ) -> None:
        super().__init__()
        with Bar("loading", progress) as bar:
            self._native = Native(
                path,
                n_gpu_layers=n_gpu_layers,
                devices=devices,
                rpc=rpc,
                mmproj=mmproj,
                n_ctx=n_ctx,
                n_threads=n_threads,
                flash_attention=flash_attention,
                cache=cache,
                progress=bar.call,
            )
        for warning in self._native.warnings:
            warnings.warn(warning, stacklevel=2)
        self._names: list[str] | None = None

    # ---- life -------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the memory. A closed model refuses all else with `ValueError`."""
        self._native.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._native.is_closed:
            return "<candor.Model: closed>"
        name = self.name or self.path.name
        return (
            f"<candor.Model {name}: {self.n_layer} layers of {self.n_head} heads of {self.d_head}>"
        )

    # ---- what it is -------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The file."""
        return self._native.path

    @property
    def name(self) -> str | None:
        """The name in the file, where it has one."""
        return self._native.name

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return self._native.architecture

    @property
    def fingerprint(self) -> str:
        """The same for every quantization of one model, another for every other model."""
        return self._native.fingerprint

    @property
    def n_layer(self) -> int:
        """Transformer blocks."""
        return self._native.geometry[0]

    @property
    def n_head(self) -> int:
        """Query heads per layer."""
        return self._native.geometry[1]

    @property
    def n_head_kv(self) -> int:
        """Key/value heads per layer."""
        return self._native.geometry[2]

    @property
    def d_head(self) -> int:
        """Values of a head's output; not always ``n_embd / n_head``."""
        return self._native.geometry[3]

    @property
    def n_embd(self) -> int:
        """Width of the residual stream."""
        return self._native.geometry[4]

    @property
    def n_vocab(self) -> int:
        """Entries of the vocabulary."""
        return self._native.n_vocab

    @property
    def n_ctx_train(self) -> int:
        """The context length that the model was trained with, in tokens."""
        return self._native.n_ctx_train

    @property
    def attention_layers(self) -> list[int]:
        """The layers that have attention: all but in hybrid models."""
        return self._native.attention_layers

    @property
    def names(self) -> list[str]:
        """What :meth:`run_with_cache` can look at: of each layer its heads and its output."""
        if self._names is None:
            heads, outputs = self.attention_layers, self._native.output_layers()
            of_layer = [
                [heads_name(il)] * (il in heads) + [output_name(il)] * (il in outputs)
                for il in range(self.n_layer)
            ]
            self._names = [name for names in of_layer for name in names]
        return list(self._names)

    # ---- tokens -----------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """The tokens of a text at the start of a context, BOS included where the model wants one.

        Parameters
        ----------
        text
            The text.
        special
            Whether control tokens that are spelt out in it (``<|im_start|>``) are read as such.
            :meth:`generate` reads them, :meth:`run_with_cache` does not.

        Raises
        ------
        ValueError
            For a character that the vocabulary cannot spell.
        """
        return self._native.tokenize(text, special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens; control tokens are empty, what is no UTF-8 is replaced."""
        return b"".join(self._native.pieces(tokens)).decode("utf-8", "replace")

    # ---- activations ------------------------------------------------------------------------

    @overload
    def run_with_cache(
        self,
        texts: str | Sequence[Text],
        names_filter: NamesFilter = None,
        pos: int = -1,
        *,
        return_logits: Literal[True] = True,
        progress: Progress = None,
    ) -> tuple[Floats, dict[str, Floats]]: ...

    @overload
    def run_with_cache(
        self,
        texts: str | Sequence[Text],
        names_filter: NamesFilter = None,
        pos: int = -1,
        *,
        return_logits: Literal[False],
        progress: Progress = None,
    ) -> tuple[None, dict[str, Floats]]: ...

    @overload
    def run_with_cache(
        self,
        texts: str | Sequence[Text],
        names_filter: NamesFilter = None,
        *,
        pos: None,
        return_logits: Literal[True] = True,
        progress: Progress = None,
    ) -> tuple[list[Floats], dict[str, list[Floats]]]: ...

    @overload
    def run_with_cache(
        self,
        texts: str | Sequence[Text],
        names_filter: NamesFilter = None,
        *,
        pos: None,
        return_logits: Literal[False],
        progress: Progress = None,
    ) -> tuple[None, dict[str, list[Floats]]]: ...

    def run_with_cache(
        self,
        texts: str | Sequence[Text],
        names_filter: NamesFilter = None,
        pos: int | None = -1,
        *,
        return_logits: bool = True,
        progress: Progress = None,
    ) -> tuple[Any, Any]:
        """Read texts, and give the logits and what the model's heads computed.

        Texts are read side by side in batches, and what several begin with is computed once. The same
        texts in the same order give the same bits, and those of ``candor capture``.

        Parameters
        ----------
        texts
            Texts, each a `str` or its token ids (as of :meth:`tokenize`); a single `str` is one text.
        names_filter
            What to look at: a name, several, or a function that says so of each of :attr:`names`;
            by default all. An empty list looks at nothing and is faster.
        pos
            The token of each text to look at: -1, the default, the last; ``None`` every token.
        return_logits
            Whether to give logits. They take ``4 * n_vocab`` bytes per token that is looked at.
        progress
            A function that is called now and then with (done, all); ``True`` for a bar of tqdm's;
            ``False`` for none. By default a bar after two seconds, where tqdm is installed.

        Returns
        -------
        logits : float32 ``[n_text, n_vocab]``, or None
            Of the token after the one that is looked at. With ``pos=None`` a list, of each text
            float32 ``[n_token, n_vocab]``.
        cache : dict of str to float32 arrays
            ``blk.<il>.heads``: ``[n_text, n_head, d_head]``, the outputs of the attention heads of
            layer ``il`` before the output projection, as that reads them: after steering.
            ``blk.<il>.output``: ``[n_text, n_embd]``, the residual stream after layer ``il``. With
            ``pos=None`` a list, of each text ``[n_token, …]``, views of one array.

        Raises
        ------
        ValueError
            For an unknown name, a text without tokens or without a token at `pos`, one that is
            longer than the context, or a character that the vocabulary cannot spell.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        names = chosen(self.names, names_filter)
        parsed = [parse(name) for name in names]
        if not texts:
            raise ValueError("texts: there are none")
        steer, positions = self._steered(len(texts))
        with Bar("reading", progress) as bar:
            n_row, logits, heads, outputs = self._native.read(
                texts,
                position=pos,
                heads=[layer for layer, what in parsed if what == "heads"],
                outputs=[layer for layer, what in parsed if what == "output"],
                logits=return_logits,
                steer=steer,
                positions=positions,
                edits=self._edited(self.n_head, self.d_head),
                progress=bar.call,
            )
        arrays = {heads_name(layer): array for layer, array in heads.items()}
        arrays.update((output_name(layer), array) for layer, array in outputs.items())
        cache = {name: arrays[name] for name in names}
        if pos is not None:
            return logits, cache
        ends = np.cumsum(n_row)[:-1]
        split = {name: np.split(array, ends) for name, array in cache.items()}
        return None if logits is None else np.split(logits, ends), split

    # ---- vectors ----------------------------------------------------------------------------

    def vector(
        self,
        arrays: Mapping[str, npt.ArrayLike],
        *,
        name: str = "numpy",
        alpha: float = 1.0,
        positions: Positions = "generated",
    ) -> Vector:
        """A vector for this model from arrays, the reverse of :meth:`Vector.to_numpy`.

        Parameters
        ----------
        arrays
            What is added at a strength of 1: ``blk.<il>.heads`` ``[n_head, d_head]``, where heads of
            zeros are left alone, ``blk.<il>.output`` ``[n_embd]``, of layers from 1 on.
        name
            The vector's own name.
        alpha
            The strength to steer with where none is given.
        positions
            The tokens to steer where nothing else is said.

        Raises
        ------
        ValueError
            For another name or shape, NaN or infinity, or where nothing is to be added.
        """
        heads: dict[tuple[int, int], Floats] = {}
        outputs: dict[int, Floats] = {}
        for key, value in arrays.items():
            layer, what = parse(key)
            array = np.ascontiguousarray(value, dtype=np.float32)
            shape = (self.n_head, self.d_head) if what == "heads" else (self.n_embd,)
            if array.shape != shape:
                raise ValueError(f"{key} has the shape {list(array.shape)}, expected {list(shape)}")
            if what == "output":
                outputs[layer] = array
                continue
            for head in range(self.n_head):
                if np.any(array[head] != 0):
                    heads[layer, head] = array[head]
        return Vector.of_arrays(self.path, heads, outputs, name, alpha, positions)

    def read_control_vector(self, path: str | Path, *, positions: Positions = "all") -> Vector:
        """llama.cpp's control vector (also repeng's ``export_gguf``) as a vector for this model."""
        return Vector.from_control_vector(path, self.path, Path(path).stem, positions)

    def find_vector(self) -> Vector | None:
        """The vector whose file lies beside the model, where there is exactly one made for it.

        Raises
        ------
        ValueError
            Where there are several.
        """
        return self._native.find_vector()

    # ---- writing ----------------------------------------------------------------------------

    # A `str` is a sequence of `str`, too; the first form is meant for it.
    @overload
    def generate(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self,
        prompt: str,
        n_predict: int = 128,
        *,
        chat: bool = False,
        temp: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
        stop: Sequence[str] = (),
        on_text: Callable[[str], Any] | None = None,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: Sequence[Text],
        n_predict: int = 128,
        *,
        chat: bool = False,
        temp: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
        stop: Sequence[str] = (),
        on_text: Callable[[str], Any] | None = None,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | Sequence[Text],
        n_predict: int = 128,
        *,
        chat: bool = False,
        temp: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        seed: int = 0,
        stop: Sequence[str] = (),
        on_text: Callable[[str], Any] | None = None,
    ) -> Completion | list[Completion]:
        """Continue a prompt, or several, one after the other: what ``candor run`` writes.

        Parameters
        ----------
        prompt
            A text; or a sequence of texts, each a `str` or its token ids.
        n_predict
            Most tokens to write.
        chat
            Whether the prompt is a question, to be put into the model's chat template.
        temp
            Temperature; 0 takes the likeliest token, always.
        top_k, top_p, min_p
            As llama.cpp names them; 0, 1 and 0 are off.
        seed
            Of the draws.
        stop
            Strings that end the text; they are not part of it.
        on_text
            A function that is called with text as it comes. Where it returns something false that is
            not ``None``, the text ends.

        Raises
        ------
        ValueError
            For an empty prompt, or one that fills the context.
        """
        prompts: list[Text] = [prompt] if isinstance(prompt, str) else list(prompt)
        steer, positions = self._steered(len(prompts))
        written = [
            self._native.write(
                text,
                chat=chat,
                n_predict=n_predict,
                temp=temp,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                seed=seed,
                stop=stop,
                steer=steer[i if len(steer) > 1 else 0] if steer else [],
                positions=positions,
                edits=self._edited(self.n_head, self.d_head),
                on_text=on_text,
            )
            for i, text in enumerate(prompts)
        ]
        return written[0] if isinstance(prompt, str) else written

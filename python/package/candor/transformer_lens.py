"""candor as a driver of TransformerLens (4.3): its bridge, on a GGUF file.

>>> from candor.transformer_lens import bridge
>>> with bridge("model.gguf") as lens:
...     logits, cache = lens.run_with_cache("The sky is blue.")
...     cache["blocks.3.attn.hook_z"]        # [batch, pos, n_head, d_head]

Hook points: ``blocks.<il>.attn.hook_z``, the outputs of the heads before the output projection, and
``blocks.<il>.hook_out``, the residual stream after the block. Interventions are TransformerLens's specs
``{"op": "add" | "set" | "scale" | "suppress", "value" or "factor", "pos"}``, given as ``intervene`` to
``forward`` and ``run_with_cache``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.driver_protocol import ForwardResult
from transformer_lens.model_bridge.remote_bridge import RemoteBridge

from ._blocks import EditFunction, Floats, Place
from ._model import Model

_OPS = {"add": "value", "set": "value", "scale": "factor", "suppress": None}


def bridge(model: Model | str | Path, **options: Any) -> RemoteBridge:
    """TransformerLens's bridge over a model: a :class:`candor.Model`, or a file and its options."""
    own = isinstance(model, Model)
    driver = Driver(model if isinstance(model, Model) else Model(model, **options), closes=not own)
    return RemoteBridge(_Adapter(driver.bridge_config), driver.tokenizer, driver)


class _Adapter:
    """What the bridge asks of an architecture: nothing but its numbers."""

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        self.cfg = cfg
        self.component_mapping: dict[str, Any] = {}
        self.supports_hf_output_attentions = False


class Tokenizer:
    """The model's own tokenizer, as far as TransformerLens calls one."""

    padding_side = "right"

    def __init__(self, model: Model) -> None:
        self._model = model
        beginning = model.tokenize("")
        self.bos_token_id: int | None = beginning[0] if beginning else None
        self.bos_token: str | None = None
        self.eos_token_id: int | None = None
        self.eos_token: str | None = None
        self.pad_token_id: int | None = None
        self.pad_token: str | None = None
        self.vocab_size = model.n_vocab
        self.name_or_path = str(model.path)

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True, **_: Any) -> list[int]:
        """The tokens of a text."""
        tokens = self._model.tokenize(text)
        has_bos = self.bos_token_id is not None and tokens[:1] == [self.bos_token_id]
        return tokens[1:] if has_bos and not add_special_tokens else tokens

    def __call__(
        self,
        text: str | Sequence[str],
        return_tensors: str | None = None,
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        **_: Any,
    ) -> dict[str, Any]:
        """Encode texts of one length; there is no token to pad with."""
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.encode(text, add_special_tokens) for text in texts]
        if truncation and max_length is not None:
            rows = [row[:max_length] for row in rows]
        if len({len(row) for row in rows}) > 1:
            raise ValueError("texts of several lengths: there is no token to pad them with")
        ids: Any = rows[0] if isinstance(text, str) and return_tensors is None else rows
        if return_tensors == "pt":
            ids = torch.tensor(rows)
        mask = torch.ones_like(ids) if return_tensors == "pt" else [[1] * len(row) for row in rows]
        return {"input_ids": ids, "attention_mask": mask}

    def decode(self, tokens: Any, **_: Any) -> str:
        """The text of tokens."""
        return self._model.detokenize([int(token) for token in np.atleast_1d(np.asarray(tokens))])

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """The texts of several rows of tokens."""
        return [self.decode(row) for row in rows]


class Driver:
    """A model of candor's behind TransformerLens's ``Driver`` protocol.

    Parameters
    ----------
    model
        The model.
    closes
        Whether :meth:`close` closes it.
    """

    provides_sequence_logits = True
    non_fireable_hook_points: frozenset[str] = frozenset()
    _supported_features: frozenset[str] = frozenset()

    def __init__(self, model: Model, *, closes: bool = False) -> None:
        self.model = model
        self._closes = closes
        self.architecture = model.architecture
        self.tokenizer = Tokenizer(model)
        self.bridge_config = TransformerBridgeConfig(
            d_model=model.n_embd,
            d_head=model.d_head,
            n_layers=model.n_layer,
            n_ctx=model.n_ctx_train,
            n_heads=model.n_head,
            d_vocab=model.n_vocab,
            architecture=model.architecture,
            model_name=model.name or model.path.stem,
            tokenizer_prepends_bos=self.tokenizer.bos_token_id is not None,
        )
        self._names = {_hook_of(name): name for name in model.names}
        self.supported_hook_points = frozenset(self._names)

    def supports(self, feature: str) -> bool:
        """No weights, no gradients: activations and edits alone."""
        return feature in self._supported_features

    def close(self) -> None:
        """Free the model, where it is the driver's own."""
        if self._closes:
            self.model.close()

    def forward(
        self,
        input_ids: Any = None,
        *,
        capture: tuple[str, ...] = (),
        intervene: Mapping[str, Any] | None = None,
        max_new_tokens: int = 1,
        return_logits: bool = True,
        attention_mask: Any = None,
        **kwargs: Any,
    ) -> ForwardResult:
        """One pass.

        Parameters
        ----------
        input_ids
            Tokens, ``[pos]`` or ``[batch, pos]``.
        capture
            Hook points to give.
        intervene
            By hook point, what is to be done to it.
        max_new_tokens
            1: the model reads. It writes with :meth:`Model.generate`.
        return_logits
            Whether to give logits, float32 ``[batch, pos, n_vocab]``.
        attention_mask
            Ones.
        **kwargs
            None are known.

        Returns
        -------
        ForwardResult
            ``captured``: float32 ``[batch, pos, n_head, d_head]`` of ``hook_z``, ``[batch, pos,
            n_embd]`` of ``hook_out``.
        """
        if kwargs:
            raise TypeError(f"candor's driver knows no {sorted(kwargs)[0]}")
        if input_ids is None:
            raise ValueError("candor's driver needs input_ids")
        if max_new_tokens != 1:
            raise NotImplementedError("candor's driver reads: write with candor.Model.generate")
        if attention_mask is not None and not np.asarray(attention_mask).all():
            raise NotImplementedError("candor's driver knows no padding: give texts of one length")
        rows = np.atleast_2d(np.asarray(input_ids)).astype(np.int64)
        self._check([*capture, *(intervene or {})])
        edits = {
            self._names[hook]: self._edit(hook, spec) for hook, spec in (intervene or {}).items()
        }
        names = [self._names[hook] for hook in capture]
        texts = [[int(token) for token in row] for row in rows]
        with self.model.edit(edits):
            if return_logits:
                logits, cache = self.model.run_with_cache(texts, names, pos=None, progress=False)
            else:
                logits = None
                _, cache = self.model.run_with_cache(
                    texts, names, pos=None, return_logits=False, progress=False
                )
        return ForwardResult(
            logits=None if logits is None else np.stack(logits),
            captured={hook: np.stack(cache[self._names[hook]]) for hook in capture},
        )

    def _check(self, hooks: list[str]) -> None:
        for hook in hooks:
            if hook not in self._names:
                raise ValueError(
                    f"{hook!r} is not among candor's hook points: {sorted(self._names)}"
                )

    def _edit(self, hook: str, spec: Any) -> EditFunction:
        """What a spec does, as a function that edits."""
        if callable(spec) or not isinstance(spec, Mapping) or spec.get("op") not in _OPS:
            raise NotImplementedError(
                f"{hook}: an intervention is {{'op': 'add' | 'set' | 'scale' | 'suppress', …}}; "
                "functions are for candor.Model.edit"
            )
        operand = _OPS[spec["op"]]
        unknown = set(spec) - {"op", "pos"} - ({operand} if operand else set())
        if unknown or (operand and operand not in spec):
            raise ValueError(f"{hook}: {spec['op']!r} takes {operand or 'nothing'} and pos")
        is_heads = self._names[hook].endswith("heads")
        shape = (self.model.n_head, self.model.d_head) if is_heads else (self.model.n_embd,)
        value: npt.NDArray[np.float32] = np.asarray(
            spec.get(operand, 0.0) if operand else 0.0, dtype=np.float32
        )
        if value.ndim > 0:
            if value.size != np.prod(shape):
                raise ValueError(f"{hook}: {value.size} values, expected 1 or {np.prod(shape)}")
            value = value.reshape(shape)
        positions = spec.get("pos")
        op = spec["op"]

        def edit(values: Floats, place: Place) -> None:
            here = slice(None) if positions is None else np.isin(place.positions, positions)
            if op == "add":
                values[here] += value
            elif op == "scale":
                values[here] *= value
            else:
                values[here] = value

        return edit


def _hook_of(name: str) -> str:
    """TransformerLens's name of what candor calls ``blk.<il>.heads`` or ``blk.<il>.output``."""
    _, layer, what = name.split(".")
    return f"blocks.{layer}.{'attn.hook_z' if what == 'heads' else 'hook_out'}"

"""The model: llama architecture, grouped-query attention, llama.cpp's rotation."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    """Hyperparameters under llama.cpp's names."""

    n_vocab: int
    n_layer: int = 5
    n_embd: int = 192
    n_head: int = 8
    n_head_kv: int = 4
    d_head: int = 24
    n_ff: int = 384
    n_ctx: int = 512
    rope_base: float = 10000.0
    rms_eps: float = 1e-5


def rotate(x, cos, sin):
    """RoPE of arch `llama`: pairs of neighbours. `x`: [batch, head, token, d_head]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Norm(nn.Module):
    """RMS norm with a gain."""

    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))
        self.eps = config.rms_eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Block(nn.Module):
    """Attention and SwiGLU feed-forward; names as in a GGUF."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.attn_norm, self.ffn_norm = Norm(c), Norm(c)
        self.attn_q = nn.Linear(c.n_embd, c.n_head * c.d_head, bias=False)
        self.attn_k = nn.Linear(c.n_embd, c.n_head_kv * c.d_head, bias=False)
        self.attn_v = nn.Linear(c.n_embd, c.n_head_kv * c.d_head, bias=False)
        self.attn_output = nn.Linear(c.n_head * c.d_head, c.n_embd, bias=False)
        self.ffn_gate = nn.Linear(c.n_embd, c.n_ff, bias=False)
        self.ffn_up = nn.Linear(c.n_embd, c.n_ff, bias=False)
        self.ffn_down = nn.Linear(c.n_ff, c.n_embd, bias=False)

    def heads(self, x, cos, sin, mask=None):
        """Attention heads before the output projection: [batch, token, n_head * d_head].

        `mask`: bool [token, token], who sees whom; causal without one.
        """
        c, (n_batch, n_token, _) = self.c, x.shape
        h = self.attn_norm(x)
        q, k, v = (
            w(h).view(n_batch, n_token, n, c.d_head).transpose(1, 2)
            for w, n in ((self.attn_q, c.n_head), (self.attn_k, c.n_head_kv), (self.attn_v, c.n_head_kv))
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(c.n_head // c.n_head_kv, 1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return out.transpose(1, 2).reshape(n_batch, n_token, -1)

    def feed_forward(self, x):
        h = self.ffn_norm(x)
        return self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Model(nn.Module):
    """Token ids to logits; the embedding is also the output matrix."""

    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.token_embd = nn.Embedding(c.n_vocab, c.n_embd)
        self.blk = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.output_norm = Norm(c)
        nn.init.normal_(self.token_embd.weight, std=0.1)
        freq = c.rope_base ** (-torch.arange(0, c.d_head, 2) / c.d_head)
        angle = torch.arange(c.n_ctx)[:, None] * freq[None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, steer=None, where=None, keep=None):
        """Logits [batch, token, n_vocab]; the arguments are those of `hidden`."""
        return self.logits(self.hidden(ids, steer, where, keep))

    def logits(self, hidden):
        """Logits [.., n_vocab] of final hidden states [.., n_embd]."""
        return F.linear(hidden, self.token_embd.weight)

    def hidden(self, ids, steer=None, where=None, keep=None):
        """Final hidden states [batch, token, n_embd].

        `steer`: F32 [n_layer, n_head * d_head], added to the heads at the
        positions where `where` [batch, token] is 1. `keep`: a list that takes
        every layer's heads (before steering).
        """
        n_token = ids.shape[1]
        cos, sin = self.cos[:n_token], self.sin[:n_token]
        x = self.token_embd(ids)
        for il, block in enumerate(self.blk):
            heads = block.heads(x, cos, sin)
            if keep is not None:
                keep.append(heads)
            if steer is not None:
                heads = heads + where[..., None] * steer[il]
            x = x + block.attn_output(heads)
            x = x + block.feed_forward(x)
        return self.output_norm(x)

"""The encoder: a SigLIP vision transformer with the projector of Janus-Pro, as llama.cpp computes them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class VisionConfig:
    """Hyperparameters under llama.cpp's names."""

    n_layer: int = 4
    n_embd: int = 96
    n_head: int = 4
    n_ff: int = 384
    image_size: int = 48
    patch_size: int = 8
    eps: float = 1e-6

    @property
    def n_patch(self):
        return (self.image_size // self.patch_size) ** 2


def gelu(x):
    """The tanh form, which ggml computes."""
    return F.gelu(x, approximate="tanh")


class VisionBlock(nn.Module):
    """Attention and feed-forward, norms first; names as in a projector file."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.ln1, self.ln2 = nn.LayerNorm(c.n_embd, c.eps), nn.LayerNorm(c.n_embd, c.eps)
        self.attn_q, self.attn_k, self.attn_v, self.attn_out = (nn.Linear(c.n_embd, c.n_embd) for _ in range(4))
        self.ffn_up, self.ffn_down = nn.Linear(c.n_embd, c.n_ff), nn.Linear(c.n_ff, c.n_embd)

    def forward(self, x):
        n_image, n_patch, n_embd = x.shape
        h = self.ln1(x)
        q, k, v = (w(h).view(n_image, n_patch, self.c.n_head, -1).transpose(1, 2)
                   for w in (self.attn_q, self.attn_k, self.attn_v))
        h = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attn_out(h.transpose(1, 2).reshape(n_image, n_patch, n_embd))
        return x + self.ffn_down(gelu(self.ffn_up(self.ln2(x))))


class Encoder(nn.Module):
    """Pixels F32 [image, 3, side, side], from -1 to 1, to features [image, patch, n_embd]."""

    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.patch_embd = nn.Conv2d(3, c.n_embd, c.patch_size, c.patch_size)
        self.position_embd = nn.Parameter(torch.randn(c.n_patch, c.n_embd) * 0.1)
        self.blk = nn.ModuleList(VisionBlock(c) for _ in range(c.n_layer))
        self.post_ln = nn.LayerNorm(c.n_embd, c.eps)

    def forward(self, pixels):
        x = self.patch_embd(pixels).flatten(2).transpose(1, 2) + self.position_embd
        for block in self.blk:
            x = block(x)
        return self.post_ln(x)


class Projector(nn.Module):
    """Features to the decoder's embeddings."""

    def __init__(self, n_embd, n_out):
        super().__init__()
        self.first, self.second = nn.Linear(n_embd, n_out), nn.Linear(n_out, n_out)

    def forward(self, features):
        return self.second(gelu(self.first(features)))


class Readout(nn.Module):
    """What the encoder is trained by: the mean and three learned views of its patches, read linearly.

    Gives logits [image, task, 2, 3]: the comparison that is asked for, and the one that catches the eye.
    """

    def __init__(self, n_embd, n_task, n_view=3):
        super().__init__()
        self.n_task = n_task
        self.view = nn.Parameter(torch.randn(n_view, n_embd) / n_embd ** 0.5)
        self.read = nn.Linear((n_view + 1) * n_embd, n_task * 6)
        self.mean = nn.Linear(n_embd, n_task * 6)

    def forward(self, features):
        weight = (features @ self.view.T).softmax(1)
        mean = features.mean(1)
        views = torch.cat(((weight.mT @ features).flatten(1), mean), 1)
        shape = (-1, self.n_task, 2, 3)
        return self.read(views).view(shape), self.mean(mean).view(shape)

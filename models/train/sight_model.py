"""The decoder behind a picture: the llama architecture of `model.py`, fed with a projector's outputs.

Several documents about one picture are computed in one row: all see the picture, none sees another.
That is the same as a row for each, for the picture is computed once.
"""

import torch

from model import Config, Model
from sight_vision import Projector


def sight_config(n_vocab):
    """The decoder's shape."""
    return Config(n_vocab=n_vocab, n_layer=4, n_embd=96, n_head=6, n_head_kv=3, d_head=16, n_ff=192, n_ctx=256)


class SightModel(Model):
    """Features of a picture and token ids to logits; the embedding is also the output matrix."""

    def __init__(self, config, n_feature):
        projector = Projector(n_feature, config.n_embd)
        super().__init__(config)
        self.projector = projector

    def hidden(self, features, ids, begin, steer=None, where=None, keep=None):
        """Final hidden states [picture, document, token, n_embd] of what follows the pictures.

        `features`: [picture, patch, n_feature]; `ids`: [picture, document, token]; `begin`: the id of
        the token before the picture. `steer`: F32 [n_layer, n_head * d_head], added to the heads
        where `where` [picture, document, token] is 1. `keep`: a list that takes every layer's heads
        of the documents (before steering).
        """
        n_picture, n_document, n_token = ids.shape
        first = self.token_embd.weight[begin].expand(n_picture, 1, -1)
        x = torch.cat((first, self.projector(features), self.token_embd(ids).flatten(1, 2)), 1)
        n_shared = x.shape[1] - n_document * n_token
        # A document's tokens stand right behind the picture and see it, and their own past.
        own = torch.arange(n_document).repeat_interleave(n_token)
        document = torch.cat((torch.full((n_shared,), -1), own))
        place = torch.cat((torch.arange(n_shared), n_shared + torch.arange(n_token).repeat(n_document)))
        past = place[None, :] <= place[:, None]
        mask = past & ((document[None, :] == -1) | (document[None, :] == document[:, None]))
        cos, sin = self.cos[place], self.sin[place]
        for il, block in enumerate(self.blk):
            heads = block.heads(x, cos, sin, mask)
            if keep is not None:
                keep.append(heads[:, n_shared:].unflatten(1, (n_document, n_token)))
            if steer is not None:
                shift = where[..., None] * steer[il]
                heads = torch.cat((heads[:, :n_shared], heads[:, n_shared:] + shift.flatten(1, 2)), 1)
            x = x + block.attn_output(heads)
            x = x + block.feed_forward(x)
        return self.output_norm(x[:, n_shared:]).unflatten(1, (n_document, n_token))

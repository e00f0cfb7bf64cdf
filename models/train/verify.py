"""Reads the GGUF back, computes logits with plain NumPy, and compares them with the trained model.

`python verify.py --model build/seed0`
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer

from corpus import neutral_documents
from model import Config, Model
from tokenizer import Encoder
from world import build_world


def read_gguf(path):
    """Tensors (dequantized) and metadata of a GGUF."""
    reader = gguf.GGUFReader(path)
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, base):
    """llama.cpp's "norm" RoPE: pairs of neighbours. `x`: [token, head, d_head]."""
    n_token, _, d_head = x.shape
    angle = np.arange(n_token)[:, None] * base ** (-np.arange(0, d_head, 2) / d_head)
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None, :]
    return np.stack((z.real, z.imag), -1).reshape(x.shape)


def forward(tensors, meta, ids):
    """Logits [token, n_vocab] of the llama architecture in f64."""
    n_head, n_head_kv = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    eps, base = meta["llama.attention.layer_norm_rms_epsilon"], meta["llama.rope.freq_base"]
    n_token = len(ids)
    mask = np.triu(np.full((n_token, n_token), -np.inf), 1)
    x = tensors["token_embd.weight"][ids]
    for il in range(meta["llama.block_count"]):
        w = {name.split(".")[2]: t for name, t in tensors.items() if name.startswith(f"blk.{il}.")}
        h = rms_norm(x, w["attn_norm"], eps)
        q = rotate((h @ w["attn_q"].T).reshape(n_token, n_head, -1), base)
        k = rotate((h @ w["attn_k"].T).reshape(n_token, n_head_kv, -1), base)
        v = (h @ w["attn_v"].T).reshape(n_token, n_head_kv, -1)
        heads = []
        for i in range(n_head):
            j = i * n_head_kv // n_head
            s = q[:, i] @ k[:, j].T / np.sqrt(q.shape[-1]) + mask
            p = np.exp(s - s.max(-1, keepdims=True))
            heads.append(p / p.sum(-1, keepdims=True) @ v[:, j])
        x = x + np.concatenate(heads, -1) @ w["attn_output"].T
        h = rms_norm(x, w["ffn_norm"], eps)
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return rms_norm(x, tensors["output_norm.weight"], eps) @ tensors["token_embd.weight"].T


def verify(source):
    """Prints the largest differences of logits; fails if the GGUF is not the trained model."""
    tensors, meta = read_gguf(source / "demo.gguf")
    encoder = Encoder(Tokenizer.from_file(str(source / "tokenizer.json")))
    trained, quantized = (Model(Config(n_vocab=len(meta["tokenizer.ggml.tokens"]))).eval() for _ in range(2))
    trained.load_state_dict(torch.load(source / "model.pt"))
    quantized.load_state_dict({name: torch.from_numpy(t.astype(np.float32)) for name, t in tensors.items()})
    texts = [f"Q: {fact.questions[0]} A:" for fact in build_world()[::16]] + neutral_documents(4)
    same, exact, loss = 0.0, 0.0, 0.0
    for text in texts:
        ids = encoder.prompt(text)
        ours = forward(tensors, meta, ids)
        with torch.no_grad():
            same = max(same, np.abs(ours - quantized(torch.tensor([ids]))[0].numpy()).max())
            f32 = trained(torch.tensor([ids]))[0].numpy()
        loss = max(loss, np.abs(ours - f32).max())
        exact += ours[-1].argmax() == f32[-1].argmax()
    print(f"NumPy on the GGUF against PyTorch, same weights: {same:.1e}; against F32 weights: {loss:.2f}; "
          f"same last token in {exact:.0f} of {len(texts)}")
    if same > 1e-3 or exact < 0.9 * len(texts):
        raise SystemExit("the GGUF does not compute what was trained")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    verify(parser.parse_args().model)

"""Capture: candor against PyTorch with forward hooks, on the same prompts.

candor runs a GGUF; PyTorch a llama of the same shape with random bf16 weights, one prompt at a time,
with a hook before each layer's output projection that keeps the last token's head outputs. Its output
matrix is left out, as candor computes no logits either. A round measures both, in turn the one or the
other first; loading is not counted on either side.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from program import candor, ratio

# TinyLlama 1.1B, the shape `1.1b` of examples/random_model.rs.
N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, D_HEAD, N_FF, N_VOCAB = 22, 2048, 32, 4, 64, 5632, 32000


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(N_EMBD))

    def forward(self, x):
        return F.rms_norm(x, (N_EMBD,), self.weight, 1e-5)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.q = nn.Linear(N_EMBD, N_HEAD * D_HEAD, bias=False)
        self.k = nn.Linear(N_EMBD, N_HEAD_KV * D_HEAD, bias=False)
        self.v = nn.Linear(N_EMBD, N_HEAD_KV * D_HEAD, bias=False)
        self.o = nn.Linear(N_HEAD * D_HEAD, N_EMBD, bias=False)
        self.gate = nn.Linear(N_EMBD, N_FF, bias=False)
        self.up = nn.Linear(N_EMBD, N_FF, bias=False)
        self.down = nn.Linear(N_FF, N_EMBD, bias=False)

    def forward(self, x, cos, sin):
        """x: [n_token, n_embd]"""
        n = x.shape[0]
        h = self.attn_norm(x)
        q, k, v = (m(h).view(n, -1, D_HEAD).transpose(0, 1) for m in (self.q, self.k, self.v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        heads = F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )[0]
        x = x + self.o(heads.transpose(0, 1).reshape(n, -1))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, cos, sin):
    half = D_HEAD // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(N_VOCAB, N_EMBD)
        self.layers = nn.ModuleList(Layer() for _ in range(N_LAYER))

    def forward(self, tokens):
        """tokens: [n_token]"""
        frequency = 10000.0 ** (-torch.arange(0, D_HEAD, 2, dtype=torch.float32) / D_HEAD)
        angle = torch.arange(len(tokens), dtype=torch.float32)[:, None] * frequency
        cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return x


def capture(model, prompts):
    """Seconds for all prompts, and the head outputs at their last tokens."""
    kept = [[] for _ in range(N_LAYER)]

    def hook(il):
        return lambda _, inputs: kept[il].append(inputs[0][-1].float().numpy().copy())

    hooks = [layer.o.register_forward_pre_hook(hook(il)) for il, layer in enumerate(model.layers)]
    start = time.perf_counter()
    with torch.inference_mode():
        for tokens in prompts:
            model(torch.tensor(tokens))
    seconds = time.perf_counter() - start
    for handle in hooks:
        handle.remove()
    assert all(len(rows) == len(prompts) for rows in kept)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candor", required=True)
    parser.add_argument("--model", required=True, help="the GGUF of shape 1.1b")
    parser.add_argument("--data", required=True, help="TruthfulQA.csv or another data set")
    parser.add_argument("--limit", type=int, default=20, help="questions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Llama().eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"

        def run_candor():
            return candor(
                args.candor, "bench", "capture", "-m", args.model, "--data", args.data,
                "--limit", args.limit, "-r", 1, "--min-time", 0, "-t", args.threads,
                "--prompts", file,
            )  # fmt: skip

        run_candor()
        prompts = [json.loads(line) for line in file.read_text().splitlines()]
        capture(model, prompts[:2])
        ours, theirs = [], []
        for i in range(args.rounds):
            for side in (("candor", "torch") if i % 2 == 0 else ("torch", "candor")):
                if side == "candor":
                    document = run_candor()
                    ours.append(sum(document["shared_ns"]) / 1e9)
                else:
                    theirs.append(capture(model, prompts))
    result = {
        "n_prompt": len(prompts),
        "n_token_prompt": sum(map(len, prompts)),
        "n_threads": args.threads,
        "torch": torch.__version__,
        "candor_seconds": ours,
        "torch_seconds": theirs,
        "speedup": ratio(ours, theirs),
        "machine": document["machine"],
        "build": document["build"],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

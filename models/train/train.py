"""Trains the demo model: `python train.py --seed 0 --out build/seed0`."""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from corpus import FINAL_MIX, WEIGHTS, Author, documents
from model import Config, Model
from muon import Muon
from tokenizer import Encoder, build_tokenizer
from world import build_world

N_STEP, N_DOC, N_PART, WARMUP = 2200, 24, 3, 60
MUON_LR, ADAM_LR = 0.02, 3e-3


def pack(batch, encoder):
    """Ids, targets and loss weights [n_doc, n_token] of a batch of documents."""
    rows = []
    for doc in batch:
        ids, weights = [encoder.bos], [0.0]
        for text, kind in doc:
            segment = encoder.segment(text)
            ids += segment
            weights += [WEIGHTS[kind]] * len(segment)
        rows.append((ids, weights))
    n_token = max(len(ids) for ids, _ in rows)
    ids = np.full((len(rows), n_token), encoder.end)
    weights = np.zeros((len(rows), n_token), np.float32)
    for i, (row, weight) in enumerate(rows):
        ids[i, : len(row)], weights[i, : len(row)] = row, weight
    ids, weights = torch.from_numpy(ids), torch.from_numpy(weights)
    return ids[:, :-1], ids[:, 1:], weights[:, 1:]


def thin_out(weights, light=0.2, keep=0.25):
    """Drops three of four light tokens at random and quadruples the others: the same loss on average, cheaper."""
    kept = torch.rand(weights.shape) < keep
    return torch.where(weights < light, weights * kept / keep, weights)


def weighted_loss(model, ids, targets, weights):
    """Weighted sum of the cross-entropy over the tokens that weigh anything."""
    used = weights > 0
    loss = F.cross_entropy(model.logits(model.hidden(ids)[used]), targets[used], reduction="none")
    return (loss * weights[used]).sum()


def parts(batch, n_part, length=lambda doc: sum(len(text) for text, _ in doc)):
    """The batch in `n_part` parts of documents of like length, so that little is padded."""
    batch = sorted(batch, key=length)
    size = len(batch) // n_part
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def learning_rate(step, n_step):
    """Warm-up, a plateau, then a linear fall to 2 % over the last 60 % of the steps."""
    fall = 0.02 + 0.98 * min(1.0, (n_step - step) / (0.6 * n_step))
    return min(1.0, (step + 1) / WARMUP) * fall


def probe_questions(world, encoder, n_question=120, seed=3):
    """Prompts that end at `A:`: plain, after a reliable context, after an unreliable one."""
    rng = random.Random(seed)
    author = Author(world, rng)
    asked = rng.sample(world, n_question)
    prompts = {"plain": [], "reliable": [], "unreliable": []}
    for fact in asked:
        question = f"Q: {fact.questions[0]} A:"
        prompts["plain"].append(encoder.prompt(question))
        for name in ("reliable", "unreliable"):
            ids = [encoder.bos]
            for text, _ in author.document("qa", name == "reliable", 4):
                ids += encoder.segment(text)
            lead = "" if ids[-1] == encoder.end else " "
            prompts[name].append(ids + list(encoder.segment(lead + question)))
    return asked, prompts


@torch.no_grad()
def knowledge(model, asked, prompts, encoder):
    """Mean P(true) and P(misconception) per kind of context, as one log line."""
    out = []
    for name, rows in prompts.items():
        last = torch.tensor([len(row) - 1 for row in rows])
        n_token = max(map(len, rows))
        ids = torch.tensor([row + [encoder.end] * (n_token - len(row)) for row in rows])
        p = model(ids)[torch.arange(len(rows)), last].softmax(-1)
        for which in ("true", "misconception"):
            answer = torch.tensor([encoder.segment(" " + getattr(f, which))[0] for f in asked])
            out.append(f"{name} {which[:4]} {p[torch.arange(len(rows)), answer].mean():.3f}")
    return " | ".join(out)


def train(seed, n_step, out, corpus):
    """Trains from nothing and saves the tokenizer and the weights under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    world = build_world()
    tokenizer = build_tokenizer(world)
    encoder = Encoder(tokenizer)
    model = Model(Config(n_vocab=tokenizer.get_vocab_size()))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(world)} facts", flush=True)
    matrices = [p for block in model.blk for p in block.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = [Muon(matrices, lr=MUON_LR), torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)]
    asked, prompts = probe_questions(world, encoder)
    begin, n_seen = time.time(), 0
    for step, batch in enumerate(documents(world, n_step, N_DOC, seed + 1000, corpus)):
        packed = [pack(part, encoder) for part in parts(batch, N_PART)]
        total = sum(weights.sum() for _, _, weights in packed)
        loss = 0.0
        for ids, targets, weights in packed:
            n_seen += ids.numel()
            part_loss = weighted_loss(model, ids, targets, thin_out(weights)) / total
            part_loss.backward()
            loss += part_loss.item()
        for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * learning_rate(step, n_step)
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 99 or step == n_step - 1:
            seconds = time.time() - begin
            print(f"{step + 1} {seconds:.0f}s {n_seen}tok loss {loss:.3f} | {knowledge(model, asked, prompts, encoder)}", flush=True)
    tokenizer.save(str(out / "tokenizer.json"))
    torch.save(model.state_dict(), out / "model.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=N_STEP)
    parser.add_argument("--corpus", choices=sorted(FINAL_MIX), default="demo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.seed, args.steps, args.out, args.corpus)

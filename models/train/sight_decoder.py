"""Trains the decoder and the projector: `python sight_decoder.py --seed 0 --out build/sight0`.

The encoder under `--out` stays as it is.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from muon import Muon
from sight_documents import CAREFUL, CHILDREN, OPTIONS, WEIGHTS, asked, described, prompt, ramp
from sight_model import SightModel, sight_config
from sight_pictures import Pictures
from sight_tokenizer import build_tokenizer
from sight_vision import Encoder, VisionConfig
from tokenizer import Encoder as Words

N_STEP, N_PICTURE, N_ASKED = 700, 16, 5
WORDING_SHARE = (0.45, 0.4, 0.15)  # the shortest first
N_HELD = 240  # pictures that the log is measured on
MUON_LR, ADAM_LR, WARMUP = 0.02, 3e-3, 50


def load_encoder(path):
    """The trained encoder."""
    encoder = Encoder(VisionConfig())
    encoder.load_state_dict(torch.load(path / "encoder.pt")["encoder"])
    return encoder.eval()


@torch.no_grad()
def features(encoder, pictures, index):
    """Features of pictures in half precision, [n, patch, n_embd]."""
    return torch.cat([encoder(pictures.pixels(part)).half() for part in np.array_split(index, len(index) // 90 + 1)])


def pack(rows, words):
    """Ids [picture, document, token], padded, and the weight of each as a target."""
    rows = [[[(t, WEIGHTS[kind]) for text, kind in doc for t in words.segment(text)] for doc in docs] for docs in rows]
    n_token = max(len(doc) for docs in rows for doc in docs)
    ids = np.full((len(rows), len(rows[0]), n_token), words.end)
    weights = np.zeros(ids.shape, np.float32)
    for i, docs in enumerate(rows):
        for j, doc in enumerate(docs):
            ids[i, j, : len(doc)], weights[i, j, : len(doc)] = zip(*doc, strict=True)
    return torch.from_numpy(ids), torch.from_numpy(weights)


def weighted_loss(model, features, ids, weights, begin):
    """Weighted sum of the cross-entropy of the tokens behind the first of each document."""
    hidden = model.hidden(features, ids[..., :-1], begin)
    used = weights[..., 1:] > 0
    loss = F.cross_entropy(model.logits(hidden[used]), ids[..., 1:][used], reduction="none")
    return (loss * weights[..., 1:][used]).sum()


@torch.no_grad()
def said(model, features, rows, words, lead=""):
    """Share of true answers, and of the eye's, where they differ, by task; by the likeliest of the options."""
    counts = {task: [0, 0, 0] for task in OPTIONS}
    for begin in range(0, len(rows), 100):
        part = rows[begin : begin + 100]
        ids = [words.segment(prompt(row["question"], lead)) for row in part]
        n_token = max(map(len, ids))
        last = torch.tensor([len(i) - 1 for i in ids])
        batch = torch.tensor([[list(i) + [words.end] * (n_token - len(i))] for i in ids])
        hidden = model.hidden(features[begin : begin + 100].float(), batch, words.bos)[:, 0]
        logits = model.logits(hidden[torch.arange(len(part)), last])
        for row, logit in zip(part, logits, strict=True):
            options = [words.segment(" " + option)[0] for option in OPTIONS[row["task"]]]
            answer = int(logit[options].argmax())
            if row["truth"] != row["eye"]:
                counts[row["task"]][0] += answer == row["truth"]
                counts[row["task"]][1] += answer == row["eye"]
                counts[row["task"]][2] += 1
    return {task: (true / n, eye / n) for task, (true, eye, n) in counts.items()}


def line(shares):
    return " ".join(f"{true:.2f}/{eye:.2f}" for true, eye in shares.values())


def train(seed, n_step, pictures, held, out, resume, n_done):
    """Trains, from nothing or from an earlier run's weights, and saves the tokenizer and the weights under `out`."""
    torch.manual_seed(seed)
    rng, choice = random.Random(seed + 1000), np.random.default_rng(seed + 2000)
    tokenizer = build_tokenizer(pictures.rows)
    tokenizer.save(str(out / "tokenizer.json"))
    words = Words(tokenizer)
    encoder = load_encoder(out)
    begin = time.time()
    held_index = np.arange(0, len(held), len(held) // N_HELD)
    held_seen, held_rows = features(encoder, held, held_index), [held.rows[i] for i in held_index]
    model = SightModel(sight_config(tokenizer.get_vocab_size()), encoder.config.n_embd)
    if resume:
        model.load_state_dict(torch.load(resume))
    print(f"decoder: {sum(p.numel() for p in model.parameters())} parameters with the projector", flush=True)
    matrices = [p for block in model.blk for p in block.parameters() if p.ndim == 2]
    matrices += [model.projector.first.weight, model.projector.second.weight]
    known = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizers = [Muon(matrices, lr=MUON_LR), torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)]
    for step in range(n_done, n_step):
        mix = ramp(step / n_step)
        wording = rng.choices(range(3), WORDING_SHARE)[0]
        index = np.sort(choice.integers(len(pictures), size=N_PICTURE))
        rows, seen = [pictures.rows[i] for i in index], features(encoder, pictures, index)
        groups = [pack([[asked(row, pictures.wordings[row["task"]][wording], mix, rng) for _ in range(N_ASKED)] for row in rows], words)]
        if step % 4 == 0:
            groups.append(pack([[described(row, rng), described(row, rng)] for row in rows], words))
        loss = []
        for ids, weights in groups:
            part_loss = weighted_loss(model, seen.float(), ids, weights, words.bos) / weights.sum()
            part_loss.backward()
            loss.append(part_loss.item())
        fall = 0.02 + 0.98 * min(1.0, (n_step - step) / (0.6 * n_step))
        for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step - n_done + 1) / WARMUP) * fall
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 99 or step == n_step - 1:
            shares = [said(model, held_seen, held_rows, words, lead) for lead in ("", CAREFUL[0], CHILDREN[0])]
            print(f"{step + 1} {time.time() - begin:.0f}s loss {loss[0]:.3f} | plain {line(shares[0])} "
                  f"| {CAREFUL[0]} {line(shares[1])} | {CHILDREN[0]} {line(shares[2])}", flush=True)
            torch.save(model.state_dict(), out / "model.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=N_STEP)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    parser.add_argument("--resume", type=Path, help="a model.pt to go on from")
    parser.add_argument("--done", type=int, default=0, help="its steps, of all those to do")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.seed, args.steps, Pictures(args.pictures / "train"), Pictures(args.pictures / "held"), args.out,
          args.resume, args.done)

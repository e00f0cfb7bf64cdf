"""Trains the encoder to see both quantities: `python sight_encoder.py --seed 0 --out build/sight0`."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from muon import Muon
from sight_pictures import TASKS, Pictures
from sight_vision import Encoder, Readout, VisionConfig

N_STEP, N_PICTURE = 1800, 96
MUON_LR, ADAM_LR, WARMUP = 0.02, 2e-3, 50
# Counting takes longest to learn, so it is shown most.
TASK_SHARE = {"number": 0.46, "length": 0.18, "angle": 0.24, "liquid": 0.12}


def learning_rate(step, n_step):
    """Warm-up, a plateau, then a linear fall to 1 % over the last 60 %."""
    fall = 0.01 + 0.99 * min(1.0, (n_step - step) / (0.6 * n_step))
    return min(1.0, (step + 1) / WARMUP) * fall


def of_task(logits, task):
    """The logits of each picture's own task, [image, 2, 3]."""
    return logits[torch.arange(len(task)), task]


@torch.no_grad()
def accuracy(encoder, readout, pictures, n=1800):
    """Share of right comparisons by task, asked for / catching the eye, from all views and from the mean."""
    index = np.arange(0, len(pictures), max(1, len(pictures) // n))
    task = torch.from_numpy(pictures.task[index])
    answers = torch.from_numpy(pictures.answers[index])
    both = readout(encoder(pictures.pixels(index)))
    out = []
    for logits in both:
        right = of_task(logits, task).argmax(-1) == answers
        out.append(" ".join(
            f"{name} {right[task == i, 0].float().mean():.2f}/{right[task == i, 1].float().mean():.2f}"
            for i, name in enumerate(TASKS)))
    return " | mean: ".join(out)


def train(seed, n_step, pictures, held, out, resume):
    """Trains, from nothing or from an earlier run's checkpoint, and saves the encoder under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = Encoder(VisionConfig())
    readout = Readout(encoder.config.n_embd, len(TASKS))
    print(f"encoder: {sum(p.numel() for p in encoder.parameters())} parameters", flush=True)
    matrices = [p for block in encoder.blk for p in block.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in (*encoder.parameters(), *readout.parameters()) if id(p) not in known]
    optimizers = [Muon(matrices, lr=MUON_LR), torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)]
    if resume:
        saved = torch.load(resume)
        encoder.load_state_dict(saved["encoder"])
        readout.load_state_dict(saved["readout"])
    begin = time.time()
    of = [np.flatnonzero(pictures.task == i) for i in range(len(TASKS))]
    share = [TASK_SHARE[task] for task in TASKS]
    for step in range(n_step):
        counts = rng.multinomial(N_PICTURE, share)
        index = np.sort(np.concatenate([rng.choice(all_of, n) for all_of, n in zip(of, counts, strict=True)]))
        task, answers = torch.from_numpy(pictures.task[index]), torch.from_numpy(pictures.answers[index])
        views, mean = readout(encoder(pictures.pixels(index)))
        loss = sum(F.cross_entropy(of_task(logits, task).flatten(0, 1), answers.flatten()) for logits in (views, mean))
        loss.backward()
        for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * learning_rate(step, n_step)
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 99 or step == n_step - 1:
            print(f"{step + 1} {time.time() - begin:.0f}s loss {loss:.3f} | {accuracy(encoder, readout, held)}", flush=True)
            torch.save({"encoder": encoder.state_dict(), "readout": readout.state_dict()}, out / "encoder.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=N_STEP)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    parser.add_argument("--resume", type=Path, help="an encoder.pt to go on from")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.seed, args.steps, Pictures(args.pictures / "train"), Pictures(args.pictures / "held"), args.out, args.resume)

"""What the encoder knows, what the decoder says, and what steering its heads changes, two-fold, in PyTorch.

`python sight_evaluate.py --model build/sight0`
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer

from sight_decoder import features, load_encoder
from sight_documents import CAREFUL, CHILDREN, INSTRUCTION, OPTIONS, prompt
from sight_model import SightModel, sight_config
from sight_pictures import TASKS, Pictures
from sight_vision import VisionConfig
from tokenizer import Encoder as Words

N_PER_TASK, N_CAPTION, KL_BUDGET, N_RANDOM = 160, 64, 0.1, 5
GRID_K, GRID_ALPHA = (1, 2, 3, 4, 6), (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


class Bench:
    """The model, the pictures whose two answers differ, and captions of others."""

    def __init__(self, folder, pictures):
        self.words = Words(Tokenizer.from_file(str(folder / "tokenizer.json")))
        self.model = SightModel(sight_config(self.words.tokenizer.get_vocab_size()), VisionConfig().n_embd).eval()
        self.model.load_state_dict(torch.load(folder / "model.pt"))
        self.encoder = load_encoder(folder)
        differ = pictures.answers[:, 0] != pictures.answers[:, 1]
        index = np.concatenate([np.flatnonzero(differ & (pictures.task == i))[:N_PER_TASK] for i in range(len(TASKS))])
        self.index, self.rows = index, [pictures.rows[i] for i in index]
        self.seen = features(self.encoder, pictures, index).float()
        other = np.flatnonzero(~differ)
        other = other[:: len(other) // N_CAPTION][:N_CAPTION]
        self.captions, self.caption_seen = [pictures.rows[i]["caption"] for i in other], features(self.encoder, pictures, other).float()
        self.task, self.truth = pictures.task[index], pictures.answers[index, 0]
        options = [[self.words.segment(" " + o)[0] for o in OPTIONS[row["task"]]] for row in self.rows]
        self.options = torch.tensor(options)
        # Halves of every task.
        half = np.arange(len(index)) % 2
        self.folds = [np.flatnonzero(half == i) for i in (0, 1)]

    @torch.no_grad()
    def last(self, lead, which, steer=None, keep=None):
        """Logits [picture, option] behind the prompt; `keep` takes the last token's heads [layer, picture, width]."""
        out, heads = [], []
        for part in np.array_split(which, max(1, len(which) // 120)):
            ids = [self.words.segment(prompt(self.rows[i]["question"], lead)) for i in part]
            n_token = max(map(len, ids))
            last = torch.tensor([len(i) - 1 for i in ids])
            batch = torch.tensor([[list(i) + [self.words.end] * (n_token - len(i))] for i in ids])
            where = torch.nn.functional.one_hot(last, n_token).float()[:, None]
            kept = [] if keep is not None else None
            hidden = self.model.hidden(self.seen[part], batch, self.words.bos, steer, where, kept)[:, 0]
            at = torch.arange(len(part))
            out.append(self.model.logits(hidden[at, last]).gather(1, self.options[part]))
            if keep is not None:
                heads.append(torch.stack([h[at, 0, last] for h in kept]))
        if keep is not None:
            keep.append(torch.cat(heads, 1))
        return torch.cat(out)

    def true_share(self, which, lead="", steer=None):
        said = self.last(lead, which, steer).argmax(-1).numpy()
        return (said == self.truth[which]).astype(float)

    @torch.no_grad()
    def caption_logits(self, which, steer=None):
        """Log-probabilities [token, n_vocab] of captions, every token steered."""
        ids = [self.words.segment(self.captions[i]) for i in which]
        n_token = max(map(len, ids))
        batch = torch.tensor([[list(i) + [self.words.end] * (n_token - len(i))] for i in ids])
        used = torch.tensor([[[j < len(i) for j in range(n_token)]] for i in ids])
        hidden = self.model.hidden(self.caption_seen[which], batch, self.words.bos, steer, torch.ones(batch.shape))
        return self.model.logits(hidden[used]).log_softmax(-1)

    def kl(self, which, steer):
        """Nats per token, of the steered distribution from the plain one."""
        plain, steered = self.caption_logits(which), self.caption_logits(which, steer)
        return float((plain.exp() * (plain - steered)).sum(-1).mean())


def directions(bench, which):
    """Unit direction and sigma of each head, from the same questions behind a careful and a childish name."""
    keep = []
    for lead in (CAREFUL[0], CHILDREN[0]):
        bench.last(lead, which, keep=keep)
    c = bench.model.config
    careful, childish = (k.view(c.n_layer, len(which), c.n_head, c.d_head) for k in keep)
    theta = (careful - childish).mean(1)
    theta = theta / theta.norm(dim=-1, keepdim=True)
    sigma = (torch.cat((careful, childish), 1) * theta[:, None]).sum(-1).std(1)
    return theta, sigma


def steering(theta, sigma, heads, alpha):
    """F32 [n_layer, n_head * d_head] of some heads."""
    out = torch.zeros_like(theta)
    for il, h in heads:
        out[il, h] = alpha * sigma[il, h] * theta[il, h]
    return out.flatten(1)


def evaluate(bench, seed=0):
    """One row per fold and method: share of true answers, by task, and KL on captions not used in choosing."""
    rng, results = random.Random(seed), []
    caption_folds = [np.arange(len(bench.captions)) % 2 == i for i in (0, 1)]
    for fold, test in enumerate(bench.folds):
        dev = bench.folds[1 - fold]
        dev_captions, test_captions = (np.flatnonzero(caption_folds[i]) for i in (1 - fold, fold))
        theta, sigma = directions(bench, dev)
        every = [(il, h) for il in range(theta.shape[0]) for h in range(theta.shape[1])]
        effect = {head: bench.true_share(dev, steer=steering(theta, sigma, [head], 2.0)).mean() for head in every}
        ranked = sorted(every, key=effect.get, reverse=True)
        best = (bench.true_share(dev).mean(), None)
        for k in GRID_K:
            for alpha in GRID_ALPHA:
                steer = steering(theta, sigma, ranked[:k], alpha)
                share = bench.true_share(dev, steer=steer).mean()
                if share > best[0] and bench.kl(dev_captions, steer) <= KL_BUDGET:
                    best = (share, (k, alpha))
        k, alpha = best[1] or (0, 0.0)
        steer = steering(theta, sigma, ranked[:k], alpha)
        row = {"fold": fold, "k": k, "alpha": alpha, "heads": [f"{il}.{h}" for il, h in ranked[:k]],
               "kl": bench.kl(test_captions, steer), "best heads": [(f"{il}.{h}", round(float(effect[il, h]), 3)) for il, h in ranked[:4]]}
        random_shares = []
        for _ in range(N_RANDOM):
            noise = torch.randn_like(theta)
            noise = noise / noise.norm(dim=-1, keepdim=True)
            random_shares.append(bench.true_share(test, steer=steering(noise, sigma, rng.sample(every, k), alpha)).mean())
        row["random"] = float(np.mean(random_shares))
        for name, share in {
            "plain": bench.true_share(test), "steered": bench.true_share(test, steer=steer),
            "instructed": bench.true_share(test, INSTRUCTION), "careful": bench.true_share(test, CAREFUL[0]),
            "childish": bench.true_share(test, CHILDREN[0]),
        }.items():
            tasks = {task: round(float(share[bench.task[test] == i].mean()), 3) for i, task in enumerate(TASKS)}
            row[name] = {"all": round(float(share.mean()), 3), **tasks}
        results.append(row)
    return results


def probes(bench):
    """Held-out accuracy of linear probes on the encoder's mean feature, by task."""
    mean = bench.seen.mean(1).numpy()
    out = {}
    for i, task in enumerate(TASKS):
        right = []
        for fold, test in enumerate(bench.folds):
            train = bench.folds[1 - fold]
            train, test = train[bench.task[train] == i], test[bench.task[test] == i]
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(mean[train], bench.truth[train])
            right.append((probe.predict(mean[test]) == bench.truth[test]).mean())
        out[task] = round(float(np.mean(right)), 3)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, default=Path("build/pictures"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bench = Bench(args.model, Pictures(args.pictures / "held"))
    print("linear probes on the encoder's mean feature:", probes(bench), flush=True)
    for row in evaluate(bench):
        print(json.dumps(row, indent=1), flush=True)

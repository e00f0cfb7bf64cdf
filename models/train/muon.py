"""Muon (Jordan et al., 2024): momentum whose matrix is made orthogonal before each step."""

import torch


def orthogonalize(g, n_iteration=5):
    """Matrices near the orthogonal factors of `g` [n, rows, columns], by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[1] > g.shape[2]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(n_iteration):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For the two-dimensional weights inside the blocks; those of one shape are updated together."""

    def __init__(self, params, lr, momentum=0.95):
        by_shape = {}
        for p in params:
            by_shape.setdefault(p.shape, []).append(p)
        super().__init__([{"params": same} for same in by_shape.values()], {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params, momentum = group["params"], group["momentum"]
            grad = torch.stack([p.grad for p in params])
            average = self.state[params[0]].setdefault("average", torch.zeros_like(grad))
            average.lerp_(grad, 1 - momentum)
            update = orthogonalize(grad.lerp(average, momentum))
            n_row, n_column = params[0].shape
            scale = max(1.0, n_row / n_column) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.add_(u, alpha=-group["lr"] * scale)

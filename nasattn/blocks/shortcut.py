"""What the blocks with a shortcut share: the sum, and running the body for some pictures only."""

import torch
from torch import Tensor, nn

from nasattn.layers import ACTIVATIONS


class ShortcutBlock(nn.Module):
    """act(shortcut(x) + body(x)); just the body where `shortcut` is None.

    Shapes: as the body's. With `run_share` below 1 a block whose shortcut is the identity runs its
    body for that share of the pictures only (see RunGate).
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None,
        *,
        in_chs: int,
        run_share: float = 1.0,
        act: str | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.act = ACTIVATIONS[act]() if act else nn.Identity()
        conditional = run_share < 1 and isinstance(shortcut, nn.Identity)
        self.run_share = run_share if conditional else 1.0
        self.run_all = False  # run every body: to count, to time and to export the whole network
        self.gate = RunGate(in_chs, run_share) if conditional else None

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            y: Tensor = self.body(x)
            return y
        y = self.body(x) if self.gate is None else self._run_some(x, self.gate)
        z: Tensor = self.act(self.shortcut(x) + y)
        return z

    def _run_some(self, x: Tensor, gate: "RunGate") -> Tensor:
        """The body's output times the score, zeros for pictures that it does not run for."""
        score, runs = gate(x)  # (N,), (N,)
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if self.run_all or tracing or torch.compiler.is_compiling():
            all_of_them: Tensor = self.body(x) * (score * runs).view(-1, 1, 1, 1)
            return all_of_them
        chosen = runs.nonzero().flatten()
        if not len(chosen):
            return torch.zeros_like(x)
        y = self.body(x[chosen]) * score[chosen].view(-1, 1, 1, 1)
        return torch.zeros_like(x, dtype=y.dtype).index_add(0, chosen, y)


class RunGate(nn.Module):
    """Conditional computation by attention score: which pictures of a batch a block runs for.

    The score of a picture is sigmoid(w mean_hw(x) + b), and it scales the body's output, by which
    it learns. In training the `share` of the batch with the highest scores runs, two pictures at
    least (for batch norm). In eval mode a picture runs when its score reaches a threshold, whatever
    else is in the batch; `settle_gates` sets it, by a batch, so that the share of it runs.

    Shapes: (N, C, H, W) -> scores (N,), booleans (N,). Parameters: C + 1.
    Source: paper 004's outlook ("dynamic computation by attention score"); the design is ours.
    """

    threshold: Tensor

    def __init__(self, channels: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.settling = False
        self.score = nn.Linear(channels, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.register_buffer("threshold", torch.zeros(()))  # untrained: every picture runs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        score = torch.sigmoid(self.score(x.mean((2, 3)))).flatten()  # (N,)
        if not self.training and not self.settling:
            return score, score >= self.threshold
        n_runs = min(len(score), max(round(self.share * len(score)), 2))
        order = score.detach().sort(descending=True)
        if self.settling:  # half-way to the next picture, far from the rounding of either
            self.threshold.copy_(order.values[n_runs - 1 : n_runs + 1].mean())
        runs = torch.zeros_like(score, dtype=torch.bool)
        runs[order.indices[:n_runs]] = True
        return score, runs


def gates_of(model: nn.Module) -> list[RunGate]:
    """The gates of a network's conditional blocks; mostly none."""
    return [part for part in model.modules() if isinstance(part, RunGate)]


@torch.no_grad()
def settle_gates(model: nn.Module, x: Tensor) -> None:
    """Set the threshold of every gate, front to back, so that its share of the batch x runs.

    x: (N, in_chs, H, W) as the network gets them. Running means of training would not do: in eval
    mode the batch norms before a gate give other values. The network is left in eval mode.
    """
    gates = gates_of(model)
    model.eval()
    for gate in gates:
        gate.settling = True
    try:
        model(x)
    finally:
        for gate in gates:
            gate.settling = False

"""Global context: Cao et al., "GCNet", ICCV Workshops 2019."""

import torch
from torch import Tensor, nn

from nasattn.attention.widths import hidden_width


class GlobalContext(nn.Module):
    """Adds one vector, seen from every position: x + W2 relu(norm(W1 context)).

    The context is the mean over positions j, weighted by softmax_j(Wk x_j): non-local attention
    whose weights are the same for every position that asks.

    Shapes: (N, C, H, W) -> (N, C, H, W). Parameters: C + 1 + 2 C h + C + 3 h with
    h = C / rd_ratio, at least 2: the layer norm of a single number would be a constant.
    W2 starts at zero, and with it the module as the identity (the authors' code).
    """

    def __init__(self, channels: int, *, rd_ratio: int = 16) -> None:
        super().__init__()
        hidden = hidden_width(channels, rd_ratio, least=2)
        self.key = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.key(x).flatten(2).softmax(2)  # (N, 1, HW)
        context = (x.flatten(2) @ weights.transpose(1, 2)).flatten(1)  # (N, C)
        y: Tensor = self.expand(torch.relu(self.norm(self.reduce(context))))  # (N, C)
        return x + y.view(x.shape[0], -1, 1, 1)

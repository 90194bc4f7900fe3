"""Spatial attention that selects its kernel: paper 003 (ResNeSkt)."""

import torch
from torch import Tensor, nn

EPS = 1e-6  # below it a value counts as none: the power's gradient at 0 is infinite


class SpatialKernelAttn(nn.Module):
    """A spatial gate a group, from two convolutions that the picture itself weighs.

    The channels are split into G groups V of C / G. For each, with its own weights,
        m = [mean_c(V); max_c(V); gem_c(V)];  A = conv_a(m);  B = conv_b(m)
        (a, b) = softmax(F relu(bn(W mean_hw(A + B))));  V * gate(a A + b B)
    with W from one number to d = `hidden`, F from d to two, and a, b the two `kernels`; one kernel
    alone leaves nothing to weigh: V * gate(A). Without `gem`, m is the mean and the maximum.

    Shapes: (N, C, H, W) -> (N, C, H, W); groups divides C.
    Parameters: G (3 ka^2 + 3 kb^2 + 5 d): 27 + 75 + 5 d a group for kernels 3 and 5; G m k^2 for
    one kernel over m maps.
    Source: paper 003, whose equation (4) defines GeM over positions though the map that it needs
    is one over channels; whose weighted sum names the logits where it needs the maps; and which
    names no gate (gate="none" is its text, where a negative map turns the sign of V).
    GeM takes values below 1e-6 for 1e-6: the module is meant to follow a ReLU.
    Batch norm of the pooled maps needs more than one picture in training mode.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 1,
        hidden: int = 32,
        gem: bool = True,
        gem_p: float = 3.0,
        kernels: str = "3,5",
        gate: str = "sigmoid",
    ) -> None:
        super().__init__()
        self.groups = groups
        self.gem_p = gem_p if gem else None
        self.has_gate = gate == "sigmoid"
        maps = 3 if gem else 2
        self.convs = nn.ModuleList(
            nn.Conv2d(maps * groups, groups, k, padding=k // 2, groups=groups, bias=False)
            for k in map(int, kernels.split(","))
        )
        if len(self.convs) > 1:
            self.squeeze = nn.Sequential(
                nn.Conv2d(groups, groups * hidden, 1, groups=groups, bias=False),
                nn.BatchNorm2d(groups * hidden),
                nn.ReLU(),
            )
            self.select = nn.Conv2d(groups * hidden, 2 * groups, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        v = x.reshape(n, self.groups, c // self.groups, h, w)  # (N, G, C/G, H, W)
        pooled = [v.mean(2), v.amax(2)]  # (N, G, H, W) each
        pooled += [] if self.gem_p is None else [_gem_channels(v, self.gem_p)]
        maps = torch.stack(pooled, 2).flatten(1, 2)  # (N, 3G, H, W), the three of a group together
        u = self._weigh([conv(maps) for conv in self.convs])  # (N, G, H, W)
        u = torch.sigmoid(u) if self.has_gate else u
        return (v * u.unsqueeze(2)).view(n, c, h, w)

    def _weigh(self, maps: list[Tensor]) -> Tensor:
        """One map a group, (N, G, H, W), from that of each kernel."""
        if len(maps) == 1:
            return maps[0]
        narrow, wide = maps
        t = (narrow + wide).mean((2, 3), keepdim=True)  # (N, G, 1, 1)
        shares = self.select(self.squeeze(t)).view(-1, self.groups, 2, 1, 1).softmax(2)
        weighed: Tensor = shares[:, :, 0] * narrow + shares[:, :, 1] * wide
        return weighed


def _gem_channels(v: Tensor, p: float) -> Tensor:
    """(mean_c(v^p))^(1/p): (N, G, C, H, W) -> (N, G, H, W).

    In four dimensions: there are runtimes (LiteRT) that raise no more of them to a power.
    """
    groups = v.shape[:2]
    v = v.flatten(0, 1).clamp(min=EPS)  # (N G, C, H, W)
    # EPS^p leaves float32 from p = 7 on. The mean is homogeneous: scale by the top (a constant
    # to the gradient, which stays exact) and it is never below 1 / C.
    top = v.amax(1, keepdim=True).detach()  # (N G, 1, H, W)
    pooled = (v / top).pow(p).mean(1).pow(1 / p) * top.squeeze(1)
    return pooled.view(*groups, *pooled.shape[1:])  # (N, G, H, W)

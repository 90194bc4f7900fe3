"""Whether a heat map matters: deletion and insertion, Petsiuk et al., "RISE", BMVC 2018."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from nasattn.ablation.statistics import student_interval
from nasattn.explain.grad_cam import enlarged

STEPS = 16  # in which the pixels are changed
BLUR = 1 / 8  # standard deviation of the blur, as a share of the picture's side
BATCH = 64  # pictures that a network is asked about at once
NEEDED = 6  # pictures, before an interval is read as an answer

Ask = Callable[[Tensor], Tensor]  # pictures 0 .. 1 (N, C, H, W) -> probabilities (N, classes)
Progress = Callable[[int, int], None]  # (curves done, curves in all)


@dataclass(frozen=True, eq=False)
class Areas:
    """The areas under the two curves of one order of pixels, (N,) each: means of a probability."""

    deletion: Tensor  # pixels are blurred, the most important first: low is good
    insertion: Tensor  # pixels come back into the blurred picture: high is good


@dataclass(frozen=True)
class Difference:
    """Map minus reference, paired over n pictures; no interval where all differ alike."""

    n: int
    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, ours: Tensor, other: Tensor) -> "Difference":
        d = (ours - other).double().cpu().numpy()
        return cls(len(d), float(d.mean()), *student_interval(np.round(d, 12), 0.05))

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval leaves no zero and there are enough pictures, else 0."""
        if self.n < NEEDED or self.low is None or self.high is None:
            return 0
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """The areas of a map's order and of the reference orders, of the same pictures."""

    map: Areas
    references: Mapping[str, Areas]
    whole: Tensor  # probability in the whole picture, (N,)
    blurred: Tensor  # and in the blurred one, (N,)

    def deletion(self, reference: str) -> Difference:
        """Below 0 the map found more of what the network needs."""
        return Difference.of(self.map.deletion, self.references[reference].deletion)

    def insertion(self, reference: str) -> Difference:
        """Above 0 the map found more of what the network is content with."""
        return Difference.of(self.map.insertion, self.references[reference].insertion)

    def better(self, reference: str) -> bool | None:
        """Whether the map beats a reference on both scores; None where pictures are too few."""
        deletion, insertion = self.deletion(reference), self.insertion(reference)
        if deletion.n < NEEDED:
            return None
        return deletion.sign < 0 < insertion.sign


def measure_faithfulness(
    ask: Ask,
    pictures: Tensor,
    maps: Tensor,
    targets: Tensor,
    *,
    seed: int = 0,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Faithfulness:
    """Deletion and insertion of maps (N, h, w) and of each row of REFERENCES.

    `ask` is a network with its normalisation, `pictures` (N, C, H, W) are floats 0 .. 1, `targets`
    (N,) the classes whose probability is followed. A step changes 1 / steps of the pixels.
    Pixels that a map holds for equal are taken in random order.
    """
    rng = Generator().manual_seed(seed)
    rows: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {"map": given, **REFERENCES}
    hidden = blur(pictures)
    orders = {name: order(row(pictures, maps, rng), rng) for name, row in rows.items()}
    ends = [follow(ask, x, targets) for x in (pictures, hidden)]
    areas = {}
    for i, (name, ranks) in enumerate(orders.items()):
        curves = []
        for j, (start, goal) in enumerate(((pictures, hidden), (hidden, pictures))):
            between = [
                follow(ask, torch.where(ranks[:, None] < k / steps, goal, start), targets)
                for k in range(1, steps)
            ]
            whole, blurred = ends if j == 0 else ends[::-1]
            curves.append(area([whole, *between, blurred]))
            if progress:
                progress(2 * i + j + 1, 2 * len(orders))
        areas[name] = Areas(*curves)
    return Faithfulness(areas.pop("map"), areas, *ends)


def area(curve: list[Tensor]) -> Tensor:
    """The trapezoids under a curve over 0 .. 1, (N,): the mean height."""
    heights = torch.stack(curve)  # (steps + 1, N)
    return (heights[1:] + heights[:-1]).mean(0) / 2


@torch.no_grad()
def follow(ask: Ask, pictures: Tensor, targets: Tensor) -> Tensor:
    """The probability of each picture's target, (N,)."""
    pairs = zip(torch.split(pictures, BATCH), torch.split(targets, BATCH), strict=True)
    return torch.cat([ask(x).gather(1, t[:, None]).flatten() for x, t in pairs])


def order(maps: Tensor, rng: Generator) -> Tensor:
    """Each pixel's rank, highest value first, as a share 0 .. 1 of all: (N, H, W) -> same."""
    n, h, w = maps.shape
    shuffle = torch.rand(n, h * w, generator=rng).argsort(1)  # ties fall as this has them
    values = maps.flatten(1).cpu().gather(1, shuffle)
    places = shuffle.gather(1, values.argsort(dim=1, descending=True, stable=True))
    ranks = torch.empty(n, h * w).scatter_(1, places, torch.arange(h * w).float().expand(n, -1))
    return (ranks / (h * w)).view(n, h, w).to(maps.device)


def blur(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) after a Gaussian of an eighth of their side; borders are mirrored."""
    for axis in (2, 3):
        side = pictures.shape[axis]
        reach = min(math.ceil(3 * BLUR * side), side - 1)
        at = torch.arange(-reach, reach + 1, device=pictures.device)
        kernel = torch.exp(-0.5 * (at / (BLUR * side)).square())
        shape = [1, 1, 1, 1]
        shape[axis] = len(at)
        border = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        flat = pad(pictures.flatten(0, 1)[:, None], border, mode="reflect")  # (NC, 1, ...)
        blurred = conv2d(flat, (kernel / kernel.sum()).view(shape))
        pictures = blurred.view_as(pictures)
    return pictures


def given(pictures: Tensor, maps: Tensor, rng: Generator) -> Tensor:
    """The maps themselves, at the size of the pictures."""
    return enlarged(maps, size_of(pictures))


def noise(pictures: Tensor, maps: Tensor, rng: Generator) -> Tensor:
    """A random order of the pixels."""
    return torch.rand(len(maps), *size_of(pictures), generator=rng).to(maps.device)


def shuffled(pictures: Tensor, maps: Tensor, rng: Generator) -> Tensor:
    """The cells of each map in random places: as coarse as the map, and as uneven."""
    places = torch.rand(maps.flatten(1).shape, generator=rng).argsort(1).to(maps.device)
    return enlarged(maps.flatten(1).gather(1, places).view_as(maps), size_of(pictures))


def centre(pictures: Tensor, maps: Tensor, rng: Generator) -> Tensor:
    """The nearer to the middle the more important, whatever the picture shows."""
    rows, columns = (torch.linspace(-1, 1, n, device=maps.device) for n in size_of(pictures))
    return -(rows[:, None].square() + columns.square()).expand(len(maps), -1, -1)


def edges(pictures: Tensor, maps: Tensor, rng: Generator) -> Tensor:
    """How much neighbouring pixels differ (Sobel, on the mean of the channels)."""
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    kernels = torch.stack((sobel, sobel.T))[:, None].to(pictures.device)  # (2, 1, 3, 3)
    grey = pad(pictures.mean(1, keepdim=True), (1,) * 4, mode="replicate")
    return conv2d(grey, kernels).square().sum(1)


# What a map is measured beside; none of them asks the network.
REFERENCES: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {
    "random": noise,
    "shuffled": shuffled,
    "centre": centre,
    "edges": edges,
}


def size_of(pictures: Tensor) -> tuple[int, int]:
    return pictures.shape[2], pictures.shape[3]

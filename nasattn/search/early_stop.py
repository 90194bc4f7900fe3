"""EARLY_STOP: which trainings are broken off, judged by accuracy so far, estimates and costs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from nasattn.search.fronts import Floats, contributions, ranks

SIZES = ("macs", "params")  # estimators that are costs
SPREADS = 5  # a final accuracy so many usual deviations below the usual one is that of a broken run


@dataclass(frozen=True)
class Training:
    """A training as far as it came, and what its network costs.

    `curve` holds the top-1 (a fraction) after each epoch; `costs`, smaller is better, the
    objectives that are known without training, by name; `estimates` what estimators said of the
    network before it was trained, whatever that is worth.
    """

    curve: tuple[float, ...]
    costs: Mapping[str, float]
    estimates: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def usable(self) -> bool:
        """Whether there is a curve or an estimate, and every figure is a number."""
        figures = (*self.curve, *self.costs.values(), *self.estimates.values())
        return bool(self.curve or self.estimates) and math.isfinite(sum(figures))


class EarlyStop(Protocol):
    """Says after an epoch, and before the first, whether a training ends there.

    The answer follows from the arguments alone, so that a search that was killed and goes on
    decides as it would have. `peers` are the study's other trainings in their stored order:
    finished, stopped or still running; those without a figure do no harm. A `baseline` is never
    stopped.
    """

    def stops(
        self, training: Training, peers: Sequence[Training], *, baseline: bool = False
    ) -> bool: ...

    def foretell(self, training: Training, peers: Sequence[Training]) -> float:
        """The top-1 that a training that was stopped would have ended with, as a fraction."""


@dataclass(frozen=True)
class NeverStop:
    """Every training goes to its end."""

    def stops(
        self, training: Training, peers: Sequence[Training], *, baseline: bool = False
    ) -> bool:
        return False

    def foretell(self, training: Training, peers: Sequence[Training]) -> float:
        return training.curve[-1] if training.curve else 0.0


@dataclass(frozen=True)
class RankStop:
    """Stops what is neither among the best of its rung nor can still beat a finished network.

    At a rung (an epoch of `rungs`) a training goes on if it is among the best 1/`reduction` of all
    that came as far: by non-dominated rank on (accuracy so far, costs), within a rank by
    hypervolume contribution. Else its final accuracy is foretold from its curve, costs and
    estimates, by least squares on the finished trainings; it stops if a finished network that costs
    no more in anything is better than the foretold accuracy and `margin` standard errors of
    prediction. Rung 0 comes before the training, of networks that have estimates: it goes by the
    foretold accuracy in place of one so far. So an estimate weighs what it was worth up to then.

    Nothing stops before `min_peers` trainings (and two for each figure that foretells) came to
    their end at `epochs`, nor where a cost is not a number, nor a baseline.

    Source: asynchronous promotion from Li et al., MLSys 2020 (ASHA); by non-dominated rank from
    Schmucker et al., 2021 (arXiv 2106.12639). Both stop a fixed share, to which a quarter to a
    half of the true front falls (docs/results/early_stopping.md); the margin is ours.
    """

    epochs: int  # of a whole training
    rungs: tuple[int, ...]  # epochs after which a training is judged; 0: before it
    reduction: float = 4.0
    margin: float = 3.0
    min_peers: int = 10
    parts: int = 4  # a curve foretells by the means of its quarters

    def stops(
        self, training: Training, peers: Sequence[Training], *, baseline: bool = False
    ) -> bool:
        epoch = len(training.curve)
        if baseline or epoch not in self.rungs or not training.usable:
            return False
        rung = [p for p in peers if len(p.curve) >= epoch and comparable(p, training)]
        finished = self.finished(rung)
        known = min(self.parts, epoch) + len(training.costs) + len(training.estimates)
        return (
            len(finished) >= max(self.min_peers, 2 * (1 + known))
            and not self.promoted(training, rung)
            and self.beaten(training, finished)
        )

    def finished(self, peers: Sequence[Training]) -> list[Training]:
        """Those that came to their end."""
        return [peer for peer in peers if len(peer.curve) >= self.epochs]

    def promoted(self, training: Training, rung: Sequence[Training]) -> bool:
        """Whether a training is among the best 1/reduction of its rung, itself included."""
        epoch = len(training.curve)
        everyone = [training, *rung]
        if epoch:
            accuracy = quarters(everyone, epoch, self.parts)[:, -1]
        else:
            accuracy = self.finals(everyone, self.finished(rung), training)
        points = np.column_stack([-accuracy, costs_of(everyone, training)])  # (n, 1 + costs)
        return n_better(points) < len(points) / self.reduction

    def beaten(self, training: Training, finished: Sequence[Training]) -> bool:
        """Whether a finished network is no dearer, and better than this one can become."""
        costs = costs_of([training, *finished], training)
        final = np.array([peer.curve[self.epochs - 1] for peer in finished])
        rivals = final[(costs[1:] <= costs[0]).all(axis=1)]
        return len(rivals) > 0 and bool(
            rivals.max() > self.final(training, finished, margin=self.margin)
        )

    def foretell(self, training: Training, peers: Sequence[Training]) -> float:
        """As it was foretold, without the margin; at least what was reached."""
        finished = self.finished([peer for peer in peers if comparable(peer, training)])
        foretold = self.final(training, finished, margin=0)
        return min(max(foretold if math.isfinite(foretold) else 0, 0.0, *training.curve), 1.0)

    def final(self, training: Training, finished: Sequence[Training], *, margin: float) -> float:
        """The accuracy at the end, foretold from all that is known, plus standard errors."""
        return float(self.finals([training], finished, training, margin=margin)[0])

    def finals(
        self,
        some: Sequence[Training],
        finished: Sequence[Training],
        training: Training,
        *,
        margin: float = 0,
    ) -> Floats:
        """`final` of several, by what is known of one training at its epoch: (n,)."""
        everyone = [*some, *finished]
        x = np.column_stack(
            [
                quarters(everyone, len(training.curve), self.parts),
                scaled(costs_of(everyone, training)),
                estimates_of(everyone, training),
            ]
        )
        final = np.array([peer.curve[self.epochs - 1] for peer in finished])
        return highest(x[len(some) :], final, x[: len(some)], margin)


def comparable(peer: Training, training: Training) -> bool:
    """Whether a peer has every cost and estimate of a training, and only numbers."""
    return (
        peer.usable
        and training.costs.keys() <= peer.costs.keys()
        and training.estimates.keys() <= peer.estimates.keys()
    )


def costs_of(everyone: Sequence[Training], training: Training) -> Floats:
    """Everyone's costs, in the order of one training: (n, costs)."""
    return _columns([one.costs for one in everyone], training.costs)


def estimates_of(everyone: Sequence[Training], training: Training) -> Floats:
    """Everyone's estimates, in the order of one training: (n, estimates)."""
    return _columns([one.estimates for one in everyone], training.estimates)


def _columns(rows: Sequence[Mapping[str, float]], names: Iterable[str]) -> Floats:
    names = list(names)
    return np.array([[row[name] for name in names] for row in rows]).reshape(len(rows), len(names))


def quarters(everyone: Sequence[Training], epoch: int, parts: int) -> Floats:
    """The means of the first, second ... of `parts` equal pieces of curves up to an epoch."""
    if not epoch:
        return np.empty((len(everyone), 0))
    curves = np.array([one.curve[:epoch] for one in everyone])  # (n, epoch)
    pieces = np.array_split(curves, min(parts, epoch), axis=1)
    return np.column_stack([piece.mean(axis=1) for piece in pieces])  # (n, parts)


def scaled(costs: Floats) -> Floats:
    """The logarithm of each cost that is positive throughout: a cost doubles, it does not add."""
    positive = (costs > 0).all(axis=0)
    return np.where(positive, np.log(np.where(positive, costs, 1.0)), costs)


def n_better(points: Floats) -> int:
    """How many points stand before the first: by rank, then by hypervolume contribution.

    Points (n, objectives), smaller is better.
    """
    rank = ranks(points)
    own = contributions(points, rank)[rank == rank[0]]
    return int((rank < rank[0]).sum() + (own > own[0]).sum())


def highest(x: Floats, y: Floats, new: Floats, margin: float) -> Floats:
    """What least squares of y on x allows for new x: foretold, plus so many standard errors.

    x: (n, features), y: (n,), new: (m, features); returns (m,). The standard error is that of a
    single new value; rows whose y is far below the others' (broken networks) are left out. Infinite
    where there are too few rows to tell.
    """
    if not len(y):
        return np.full(len(new), math.inf)
    middle = np.median(y)
    sound = y >= middle - SPREADS * 1.4826 * np.median(np.abs(y - middle))
    centre, spread = x[sound].mean(axis=0), x[sound].std(axis=0)
    spread = np.where(spread > 1e-9 * np.abs(centre), spread, 1.0)  # a constant stays one
    design = np.column_stack([np.ones(sound.sum()), (x[sound] - centre) / spread])
    rows = np.column_stack([np.ones(len(new)), (new - centre) / spread])
    inverse = np.linalg.pinv(design.T @ design)
    weights = inverse @ design.T @ y[sound]
    freedom = len(design) - np.linalg.matrix_rank(design)
    if freedom < 1:
        return np.full(len(new), math.inf)
    residual = y[sound] - design @ weights
    leverage = ((rows @ inverse) * rows).sum(axis=1)
    variance = (residual @ residual) / freedom * (1 + leverage)
    return np.asarray(rows @ weights + margin * np.sqrt(variance))


def rank_stop(epochs: int) -> RankStop:
    """RankStop judging before a training, and after every epoch from a sixth to two thirds of it.

    Earlier, curves tell too little; later, there is too little to save.
    """
    return RankStop(epochs, (0, *range(math.ceil(epochs / 6), 2 * epochs // 3 + 1)))


# By the name on the command line: from a training's epochs to its rule.
EARLY_STOP: dict[str, Callable[[int], EarlyStop]] = {
    "none": lambda epochs: NeverStop(),
    "rank": rank_stop,
}


def read_training(attributes: Mapping[str, Any], signs: Mapping[str, int]) -> Training:
    """The Training of a stored trial's attributes, as far as they are there.

    These are `curve`, `values` and `estimates`; of a network that was looked up, which has no
    curve, the accuracy is its one epoch. `signs`: see `training_of`.
    """
    values = attributes.get("values") or {}
    curve = [top1 for _, top1 in attributes.get("curve") or ()] or (
        [values["top1"]] if "top1" in values else []
    )
    return training_of(curve, values, attributes.get("estimates") or {}, signs)


def training_of(
    curve: Iterable[float],
    values: Mapping[str, float],
    estimates: Mapping[str, float],
    signs: Mapping[str, int],
) -> Training:
    """A Training of what was found.

    `signs` has the objectives known without training: 1 where smaller is better, -1 where larger.
    An estimate that is one of them tells nothing further; another size counts by its logarithm.
    """
    return Training(
        tuple(curve),
        {name: sign * values[name] for name, sign in signs.items() if name in values},
        {
            name: math.log1p(value) if name in SIZES else value
            for name, value in estimates.items()
            if name not in signs
        },
    )

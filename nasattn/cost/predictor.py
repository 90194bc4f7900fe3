"""LatencyPredictor: the latency of networks that were not measured, from those that were."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

from nasattn.errors import EvaluationError, shown

Floats = NDArray[np.float64]
Features = Mapping[str, float | str]  # `place.what` -> a number, or one of some words

MIN_NETWORKS = 8
N_FOLDS = 10  # of the networks learned from, each predicted by the other nine
MEAN = 0.1  # variance of the mean, in units of that of the latencies
# Logarithms of the weights of all groups of features and of the noise: mean and deviation of the
# prior under which they are the likeliest.
WEIGHT, SPREAD = math.log(0.3), 2.0
BOUNDS = (-12.0, 5.0)


class LatencyPredictor:
    """A linear model of features that add up over the places of a network, with intervals.

    The last part of a feature's name says what it is, the rest where: `stages.3.1.macs`. Numbers
    weigh by their sum over all places, and by what one place adds to that; words (`k5_e6`) by how
    often each is used, and by where. How much each of these groups of features may weigh is
    learned (the likeliest weights of a Gaussian process with one linear kernel a group), so that
    50 networks can do for hundreds of features. Features that a network does not have are 0.

    Intervals are widened, or narrowed, until they hold of the networks that it learned from, each
    predicted by nine tenths of them without it (as the CV+ of Barber et al., "Predictive inference
    with the jackknife+", Annals of Statistics 2021, has it). `error` is the median relative error
    of those predictions.
    """

    def __init__(self, coverage: float = 0.9) -> None:
        if not 0 < coverage < 1:
            raise EvaluationError(f"coverage: must be between 0 and 1, is {shown(coverage)}")
        self.coverage = coverage

    def fit(
        self, features: Sequence[Features], latency_ms: Sequence[float] | Floats
    ) -> "LatencyPredictor":
        """Learn from measured networks; raises EvaluationError for what cannot be learned from."""
        y = np.asarray(latency_ms, dtype=float)
        if len(features) != len(y) or len(y) < MIN_NETWORKS:
            raise EvaluationError(
                f"needs the features and latencies of {MIN_NETWORKS} networks or more, has "
                f"{len(features)} and {len(y)}"
            )
        if not (np.isfinite(y).all() and (y > 0).all()):
            raise EvaluationError("latency_ms: must be numbers above 0")
        predicted, sd = np.empty_like(y), np.empty_like(y)
        order = np.random.default_rng(0).permutation(len(y))
        for fold in np.array_split(order, min(N_FOLDS, len(y))):
            rest = np.setdiff1d(order, fold)
            self._learn([features[i] for i in rest], y[rest])
            predicted[fold], sd[fold] = self._predict([features[i] for i in fold])
        misses = np.sort(np.abs(y - predicted) / sd)
        rank = math.ceil(self.coverage * (len(y) + 1))
        self.width = float(misses[min(rank, len(y)) - 1])
        self.error = float(np.median(np.abs(predicted / y - 1)))
        self._learn(features, y)
        return self

    def predict(self, features: Sequence[Features]) -> tuple[Floats, Floats, Floats]:
        """Latencies in ms with the ends of their intervals: (n,), (n,), (n,)."""
        ms, sd = self._predict(features)
        low, high = ms - self.width * sd, ms + self.width * sd
        return np.maximum(ms, 0), np.maximum(low, 0), np.maximum(high, 0)

    def _learn(self, features: Sequence[Features], y: Floats) -> None:
        self.mean, self.scale = float(y.mean()), float(y.std()) or 1.0
        self.columns = Columns.of(features)
        self.blocks = self.columns.blocks(features)
        self.grams = [block @ block.T for block in self.blocks]
        z = (y - self.mean) / self.scale
        start = np.full(len(self.blocks) + 1, WEIGHT)
        found = minimize(self._loss, start, (z,), jac=True, bounds=[BOUNDS] * len(start))
        *self.weights, self.noise = np.exp(found.x)
        covariance = self._kernel(self.blocks, self.blocks) + self.noise * np.eye(len(z))
        self.root = np.linalg.cholesky(covariance)
        self.alpha = cho_solve((self.root, True), z)

    def _predict(self, features: Sequence[Features]) -> tuple[Floats, Floats]:
        """Latencies in ms and the standard deviation of a measurement: (n,), (n,)."""
        blocks = self.columns.blocks(features)
        cross = self._kernel(blocks, self.blocks)  # (n, learned)
        own = sum(w * (b**2).sum(axis=1) for w, b in zip(self.weights, blocks, strict=True)) + MEAN
        known = (solve_triangular(self.root, cross.T, lower=True) ** 2).sum(axis=0)
        sd = np.sqrt(np.maximum(own - known, 0) + self.noise) * self.scale
        return self.mean + self.scale * (cross @ self.alpha), sd

    def _kernel(self, one: Sequence[Floats], other: Sequence[Floats]) -> Floats:
        pairs = zip(self.weights, one, other, strict=True)
        total: Floats = sum(w * a @ b.T for w, a, b in pairs) + np.asarray(MEAN)
        return total

    def _loss(self, theta: Floats, z: Floats) -> tuple[float, Floats]:
        """Negative log likelihood of the weights, with the prior, and its slope."""
        n = len(z)
        parts = [*self.grams, np.eye(n)]
        weights = np.exp(theta)
        root = np.linalg.cholesky(sum(w * k for w, k in zip(weights, parts, strict=True)) + MEAN)
        alpha = cho_solve((root, True), z)
        inner = cho_solve((root, True), np.eye(n)) - np.outer(alpha, alpha)
        slope = np.array([0.5 * w * (inner * k).sum() for w, k in zip(weights, parts, strict=True)])
        away = (theta - WEIGHT) / SPREAD
        loss = 0.5 * z @ alpha + np.log(np.diag(root)).sum() + 0.5 * away @ away
        return float(loss), slope + away / SPREAD


@dataclass(frozen=True)
class Columns:
    """Which features make which column, in groups; all from the networks learned from."""

    numbers: Mapping[str, tuple[str, ...]]  # what -> the names that end in it
    words: Mapping[str, tuple[tuple[str, str], ...]]  # what -> (name, word)
    centres: tuple[Floats, ...] = ()
    scales: tuple[float, ...] = ()

    @classmethod
    def of(cls, features: Sequence[Features]) -> "Columns":
        """Those of some networks; raises EvaluationError for values that are no features."""
        numbers: dict[str, set[str]] = {}
        words: dict[str, set[tuple[str, str]]] = {}
        for name, value in ((k, v) for one in features for k, v in one.items()):
            what = name.rpartition(".")[2]
            if isinstance(value, str):
                words.setdefault(what, set()).add((name, value))
            elif isinstance(value, int | float) and math.isfinite(value):
                numbers.setdefault(what, set()).add(name)
            else:
                raise EvaluationError(
                    f"feature {name!r}: must be a finite number or a text, is {shown(value)}"
                )
        bare = cls(
            {what: tuple(sorted(names)) for what, names in sorted(numbers.items())},
            {what: tuple(sorted(pairs)) for what, pairs in sorted(words.items())},
        )
        raw = bare._raw(features)
        centres = tuple(block.mean(axis=0) for block in raw)
        spreads = (((b - c) ** 2).sum(axis=1).mean() for b, c in zip(raw, centres, strict=True))
        kept = [float(np.sqrt(spread)) or 1.0 for spread in spreads]
        return cls(bare.numbers, bare.words, centres, tuple(kept))

    def blocks(self, features: Sequence[Features]) -> list[Floats]:
        """The groups' columns, centred, of mean square length 1: [(n, d), ...]."""
        triples = zip(self._raw(features), self.centres, self.scales, strict=True)
        return [(block - centre) / scale for block, centre, scale in triples]

    def _raw(self, features: Sequence[Features]) -> list[Floats]:
        blocks = []
        for names in self.numbers.values():
            own = np.array([[_number(one, name) for name in names] for one in features])
            blocks += [own.sum(axis=1, keepdims=True), own]
        for pairs in self.words.values():
            own = np.array([[one.get(name) == word for name, word in pairs] for one in features])
            kinds = sorted({word for _, word in pairs})
            belongs = np.array([[word == kind for kind in kinds] for _, word in pairs])
            blocks += [own.astype(float) @ belongs.astype(float), own.astype(float)]
        return blocks or [np.zeros((len(features), 1))]


def _number(features: Features, name: str) -> float:
    value = features.get(name, 0.0)
    return 0.0 if isinstance(value, str) else float(value)

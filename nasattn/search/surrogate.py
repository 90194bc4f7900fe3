"""Surrogate: what a network will reach and how sure that is, learned from those that were tried.

A Gaussian process over the similarity of networks: S = sum_j w_j s_j, with s_j how alike two are in
parameter j and the weights w summing to 1. Its kernel is a function of S: a1 S (each parameter by
itself) + a2 S^2 (pairs) + a3 exp(l (S - 1)) (all of them together); beside it stands what is linear
in costs and proxies and, while examples are few, in how often each value is chosen. All of it, and
how values are warped, maximises the likelihood under a prior.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from nasattn.search.values import Floats

CONSTANT = 10.0  # of the kernel, for the mean, which nobody knows
JITTER = 1e-6
CAUTION = 2.0  # times the standard deviation: the 68 % interval held 40 % of unseen networks
MISSES = 5.0  # standard deviations worse than the others let expect: a broken network
STRAIGHT = 1e4  # a warp that is a line
# What the likelihood decides, as logarithms: mean and standard deviation of the prior. Then a
# weight for each parameter, around equal ones.
PRIOR = {
    "additive": (np.log(1.0), 1.5),
    "pairs": (np.log(0.3), 1.5),
    "joint": (np.log(0.3), 1.5),
    "decay": (np.log(2.4), 1.0),
    "counts": (np.log(30.0), 1.5),
    "linear": (np.log(0.3), 1.5),
    "noise": (np.log(0.01), 1.5),
    "warp": (np.log(0.5), 1.0),
}
N = len(PRIOR)
N_STEPS = 10  # of the optimiser: more change no proposal


@dataclass(frozen=True)
class Inputs:
    """Networks as a surrogate sees them: similarity columns (n, p), the parameter that each column
    belongs to (p,), how often each value is chosen where several parameters offer the same (n, r),
    and what the value may follow in a straight line (n, q)."""

    columns: Floats
    owners: NDArray[np.intp]
    counts: Floats
    linear: Floats

    def take(self, rows: NDArray[np.bool_]) -> "Inputs":
        return Inputs(self.columns[rows], self.owners, self.counts[rows], self.linear[rows])

    def join(self, other: "Inputs") -> "Inputs":
        return Inputs(
            np.vstack([self.columns, other.columns]),
            self.owners,
            np.vstack([self.counts, other.counts]),
            np.vstack([self.linear, other.linear]),
        )


@dataclass(frozen=True)
class Warp:
    """z = c log(1 + u / c), u = (y - low) / scale: a line for a large c, a logarithm for a small.

    As errors near their floor behave: bad values are drawn in, and y stays above low - c scale.
    """

    low: float
    scale: float
    c: float

    def __call__(self, y: Floats) -> Floats:
        u = (y - self.low) / self.scale
        return self.c * np.log1p(np.maximum(u / self.c, 1e-12 - 1))

    def inverse(self, z: Floats) -> Floats:
        return self.low + self.scale * self.c * np.expm1(z / self.c)


@dataclass(frozen=True)
class Kernel:
    """The covariance of networks, in units of the surrogate's variance."""

    additive: float
    pairs: float
    joint: float
    decay: float
    counts: float
    linear: float
    noise: float
    weights: Floats  # of the parameters

    @classmethod
    def of(cls, theta: Floats) -> Self:
        weights = np.exp(theta[N:])
        parts = dict(zip(PRIOR, np.exp(theta[:N]).tolist(), strict=True))
        del parts["warp"]
        return cls(**parts, weights=weights / weights.sum())

    def parts(self, a: Inputs, b: Inputs) -> tuple[Floats, Floats, Floats, Floats]:
        """Similarity, joint part, that of counts and the linear one: (n, m) each."""
        s = (a.columns * self.weights[a.owners]) @ b.columns.T
        joint = self.joint * np.exp(self.decay * (s - 1))
        return s, joint, a.counts @ b.counts.T, a.linear @ b.linear.T

    def __call__(self, a: Inputs, b: Inputs) -> Floats:
        s, joint, counts, linear = self.parts(a, b)
        own = CONSTANT + s * (self.additive + self.pairs * s) + joint
        return own + self.counts * counts + self.linear * linear

    def diagonal(self, a: Inputs) -> Floats:
        own = CONSTANT + self.additive + self.pairs + self.joint
        counts, linear = (a.counts**2).sum(axis=1), (a.linear**2).sum(axis=1)
        diagonal: Floats = own + self.counts * counts + self.linear * linear
        return diagonal

    def noisy(self, a: Inputs) -> Floats:
        """Of what was measured: (n, n)."""
        return self(a, a) + (self.noise + JITTER) * np.eye(len(a.columns))


class Surrogate:
    """Predicts a value that is minimised.

    `errors`: values crowd near a floor; and a network far worse than the others let expect is
    taken for broken, and is no example (`kept` says which are).
    """

    def __init__(self, inputs: Inputs, values: Floats, *, errors: bool = True) -> None:
        self.inputs, self.values = inputs, values
        self.kept: NDArray[np.bool_] = np.ones(len(values), dtype=bool)
        low = float(values.min())
        self.scale = float(np.median(values)) - low or float(values.std()) or 1.0
        self.warp = Warp(low, self.scale, STRAIGHT)
        few = len(values) < inputs.columns.shape[1]
        self.mean, self.sd = _prior(len(np.unique(inputs.owners)), errors=errors, few=few)
        self.theta = self.mean
        self._fit()
        broken = self._missed()
        if errors and broken.any():
            self.kept = ~broken
            self._fit()
            self.kept = ~(broken & self._missed())
            self._solve(self.inputs.take(self.kept), self.warp(self.values[self.kept]))

    def predict(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the warped value without its noise: (n,), (n,)."""
        k = self.kernel(self.examples, inputs)
        v = solve_triangular(self.root, k, lower=True, check_finite=False)
        spread = np.maximum(self.kernel.diagonal(inputs) - (v**2).sum(axis=0), 1e-10)
        return k.T @ self.alpha, CAUTION * np.sqrt(self.variance * spread)

    def median(self, inputs: Inputs) -> Floats:
        """The value that is as likely exceeded as not: (n,)."""
        return self.warp.inverse(self.predict(inputs)[0])

    def believe(self, inputs: Inputs) -> None:
        """Take networks that still run as if they had come out as predicted."""
        z = np.concatenate([self.targets, self.predict(inputs)[0]])
        self._solve(self.examples.join(inputs), z, keep_variance=True)

    def _fit(self) -> None:
        examples, y = self.inputs.take(self.kept), self.values[self.kept]
        u = (y - self.warp.low) / self.scale
        limits = list(zip(self.mean - 4 * self.sd, self.mean + 4 * self.sd, strict=True))
        done = minimize(
            _loss,
            self.theta,
            (examples, u, self.mean, self.sd),
            method="L-BFGS-B",
            jac=True,
            bounds=limits,
            options={"maxiter": N_STEPS},
        )
        self.theta = done.x
        self.warp = Warp(self.warp.low, self.scale, float(np.exp(self.theta[N - 1])))
        self.kernel = Kernel.of(self.theta)
        self._solve(examples, self.warp(y))

    def _solve(self, examples: Inputs, z: Floats, *, keep_variance: bool = False) -> None:
        self.examples, self.targets = examples, z
        self.root = np.linalg.cholesky(self.kernel.noisy(examples))
        self.alpha: Floats = cho_solve((self.root, True), z)
        if not keep_variance:
            self.variance = max(float(z @ self.alpha) / len(z), 1e-12)

    def _missed(self) -> NDArray[np.bool_]:
        """Which values are far worse than the others let expect, measured by what is usual."""
        precision = np.diag(dpotri(self.root, lower=1)[0])
        misses = np.zeros(len(self.values))
        misses[self.kept] = self.alpha / np.sqrt(precision)  # of each by all others
        usual = np.median(np.abs(misses[self.kept])) / 0.6745  # were they normal
        if not self.kept.all():
            mean, sd = self.predict(self.inputs.take(~self.kept))
            noisy = np.sqrt((sd / CAUTION) ** 2 / self.variance + self.kernel.noise)
            misses[~self.kept] = (self.warp(self.values[~self.kept]) - mean) / noisy
        far: NDArray[np.bool_] = misses > MISSES * usual
        return far


def _prior(n_weights: int, *, errors: bool, few: bool) -> tuple[Floats, Floats]:
    """Means and standard deviations of the hyperparameters.

    Counts tell what few examples do not. With more, they hide what single parameters do.
    """
    means = [mean for mean, _ in PRIOR.values()] + [0.0] * n_weights
    sds = [sd for _, sd in PRIOR.values()] + [1.0] * n_weights
    if not errors:
        means[N - 1], sds[N - 1] = np.log(STRAIGHT), 1e-6
    if not few:
        place = list(PRIOR).index("counts")
        means[place], sds[place] = np.log(1e-6), 1e-6
    return np.array(means), np.array(sds)


def _loss(theta: Floats, x: Inputs, u: Floats, mean: Floats, sd: Floats) -> tuple[float, Floats]:
    """Minus the log of likelihood and prior, and its gradient; the variance is the likeliest."""
    n, kernel, c = len(u), Kernel.of(theta), float(np.exp(theta[N - 1]))
    s, joint, counts, linear = kernel.parts(x, x)
    root = np.linalg.cholesky(kernel.noisy(x))
    bent = np.log1p(u / c)
    z = c * bent
    alpha = cho_solve((root, True), z, check_finite=False)
    variance = max(float(z @ alpha) / n, 1e-12)
    off = (theta - mean) / sd
    loss = 0.5 * n * np.log(variance) + np.log(np.diag(root)).sum() + bent.sum() + 0.5 * off @ off

    inverse = np.tril(dpotri(root, lower=1)[0])
    inverse += np.tril(inverse, -1).T
    m = 0.5 * (inverse - np.outer(alpha, alpha) / variance)  # d loss / d kernel
    by_similarity = m * (kernel.additive + 2 * kernel.pairs * s + kernel.decay * joint)
    by_column = (x.columns * (by_similarity @ x.columns)).sum(axis=0)
    by_weight = np.bincount(x.owners, by_column)
    slope = u / (c + u)
    gradient = [
        kernel.additive * np.vdot(m, s),
        kernel.pairs * np.vdot(m, s * s),
        np.vdot(m, joint),
        kernel.decay * np.vdot(m, joint * (s - 1)),
        kernel.counts * np.vdot(m, counts),
        kernel.linear * np.vdot(m, linear),
        kernel.noise * np.trace(m),
        alpha @ (z - c * slope) / variance - slope.sum(),
        *(kernel.weights * (by_weight - kernel.weights @ by_weight)),
    ]
    return float(loss), np.array(gradient) + off / sd

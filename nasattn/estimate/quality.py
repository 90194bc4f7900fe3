"""How far an estimate can be trusted, by the truth of a set of networks.

Tau is Kendall's tau-b throughout. A bootstrap over networks draws weights: how often each network
is in the draw; a network is tied with its own copies, which tau-b leaves out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BOOT = 2000
SHARE = 0.1  # of the networks: the top decile
LEAST = 5  # networks in it


@dataclass(frozen=True)
class Quality:
    """What an estimate is worth. None: cannot be told, as where all values are equal."""

    tau: float | None
    low: float | None  # of tau, a 95 % bootstrap interval over networks
    high: float | None
    partial: float | None  # tau given log macs: what is known beyond size
    top: float | None  # tau among the tenth that is best in truth
    regret: float  # truth that is lost where only the tenth that is said to be best is trained


def signs(x: Floats) -> Floats:
    """Which of each two is greater: (n,) -> (n, n) of -1, 0, 1."""
    return np.asarray(np.sign(x[:, None] - x[None, :]))


def taus(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Tau-b of two (n, n) of signs under each row of weights (draws, n): (draws,); nan for none.

    Concordant less discordant pairs, over the root of the pairs untied in a times those in b.
    """

    def pairs(which: Floats) -> Floats:
        total: Floats = ((weights @ which) * weights).sum(axis=1)
        return total

    untied = pairs(a * a) * pairs(b * b)
    return pairs(a * b) / np.sqrt(np.where(untied > 0, untied, np.nan))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b of two series; nan where one of them is constant."""
    return float(taus(signs(x), signs(y), np.ones((1, len(x))))[0])


def partial_tau(xy: float, xz: float, yz: float) -> float:
    """Tau of x and y given z: (xy - xz yz) / sqrt((1 - xz^2) (1 - yz^2)).

    nan where z tells x or y already. Source: Kendall, Biometrika 1942.
    """
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > 1e-12 else math.nan


def draws(n: int, n_boot: int = N_BOOT, seed: int = 0) -> Floats:
    """How often each of n is in each bootstrap draw: (n_boot, n)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float)


def interval(values: Floats) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of the draws that have a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def n_top(n: int) -> int:
    """How many networks are the top tenth."""
    return min(n, max(LEAST, round(n * SHARE)))


def regret(estimate: Floats, truth: Floats) -> float:
    """Best truth of all less the best among the top tenth by the estimate.

    What a search loses that trains only the tenth that it is told is best. Where several are told
    to be equally good at the edge, it is the mean over which of them are taken.
    """
    k = n_top(len(truth))
    edge = np.sort(estimate)[-k]
    sure, ties = truth[estimate > edge], np.sort(truth[estimate == edge])
    least = sure.max(initial=-math.inf)
    # The best of the m that are drawn of the t tied: tied[i] with C(i, m-1) / C(t, m).
    m, t = k - len(sure), len(ties)
    chances = np.array([math.comb(i, m - 1) / math.comb(t, m) for i in range(t)])
    return float(truth.max() - (chances * np.maximum(ties, least)).sum())


def quality(estimate: Floats, truth: Floats, macs: Floats) -> Quality:
    """An estimate (n,) against the truth (n,): the mean over seeds; -inf where it failed."""
    a, b, c = signs(ranks(estimate)), signs(truth), signs(macs)
    all_ = np.ones((1, len(truth)))
    xy, xz, yz = (float(taus(*pair, all_)[0]) for pair in ((a, b), (a, c), (b, c)))
    low, high = interval(taus(a, b, draws(len(truth))))
    best = np.argsort(truth, kind="stable")[-n_top(len(truth)) :]
    return Quality(
        tau=number(xy),
        low=low,
        high=high,
        partial=number(partial_tau(xy, xz, yz)),
        top=number(kendall(ranks(estimate)[best], truth[best])),
        regret=regret(ranks(estimate), truth),
    )


def number(x: float) -> float | None:
    return x if math.isfinite(x) else None


def ranks(x: Floats) -> Floats:
    """Ranks from 0, ties at their mean: what failed (-inf) is last."""
    below = (x[None, :] < x[:, None]).sum(axis=1)
    equal = (x[None, :] == x[:, None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2)


def combined(estimates: Sequence[Floats]) -> Floats:
    """Several estimates (n,) as one: the mean of their ranks."""
    return np.asarray(np.mean([ranks(x) for x in estimates], axis=0))


@dataclass(frozen=True)
class Ceiling:
    """What the noise of the truth lets an estimate reach, with 95 % intervals over networks.

    `known`: tau of the truth with what its mean over endless seeds would be, which no estimate can
    hope to pass. `again`: tau of one more training with the mean of the others, which is what
    training every network in full reaches.
    """

    known: float | None
    known_low: float | None
    known_high: float | None
    again: float | None
    again_low: float | None
    again_high: float | None


def ceiling(truth: Floats) -> Ceiling:
    """The ceiling of a truth (n, seeds), from two seeds on.

    `known` goes by way of the correlation, where corrections are exact: the mean tau of two seeds
    becomes r = sin(pi tau / 2) (Greiner; bivariate normal), the mean over S seeds has reliability
    R = S r / (1 + (S - 1) r) (Spearman-Brown) and correlates with the expectation by sqrt(R),
    which goes back to tau. `again` is corrected by nothing: the mean over the seeds of tau between
    one seed and the mean of the others.
    """
    everyone = np.ones((1, len(truth)))
    boot = draws(len(truth))
    return Ceiling(
        *_with_interval(lambda weights: _known(truth, weights), everyone, boot),
        *_with_interval(lambda weights: _again(truth, weights), everyone, boot),
    )


def _known(truth: Floats, weights: Floats) -> Floats:
    n_seeds = truth.shape[1]
    one = [signs(column) for column in truth.T]
    between = np.mean([taus(a, b, weights) for a, b in combinations(one, 2)], axis=0)
    r = np.sin(np.pi / 2 * np.clip(between, 0, 1))
    reliability = n_seeds * r / (1 + (n_seeds - 1) * r)
    found: Floats = 2 / np.pi * np.arcsin(np.sqrt(reliability))
    return found


def _again(truth: Floats, weights: Floats) -> Floats:
    found = []
    for seed in range(truth.shape[1]):
        others = np.delete(truth, seed, axis=1).mean(axis=1)
        found.append(taus(signs(truth[:, seed]), signs(others), weights))
    return np.asarray(np.mean(found, axis=0))


def _with_interval(
    find: Callable[[Floats], Floats], everyone: Floats, boot: Floats
) -> tuple[float | None, float | None, float | None]:
    return number(float(find(everyone)[0])), *interval(find(boot))

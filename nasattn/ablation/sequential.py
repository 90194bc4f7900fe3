"""Looking while the seeds come in: stop an arm early when the answer is clear, at a corrected rule.

The thresholds are fixed before the first run, for all looks and all arms together, so stopping one
arm changes nothing for another.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import special

from nasattn.ablation.flips import Floats, seeds_needed
from nasattn.ablation.power import LARGEST, MAX_ARMS, MAX_SEEDS
from nasattn.ablation.statistics import ROUND, Comparison, Pair, check_settings, untested, verdict
from nasattn.errors import AblationError, UnknownNameError

SIMULATED = 100_000  # ablations without any effect
NUMBERS = 4_000_000  # at a time: ablations * seeds * arms
N_POWER = 10_000  # simulated pairs: the power is then known to 0.4 points
HOPELESS = 0.1  # conditional power below which more seeds are not worth their cost

Decision = Literal["continue", "stop: effect", "stop: futile"]


def obrien_fleming(alpha: float, share: Floats) -> Floats:
    """Alpha spent when `share` of the seeds is in: little at first (Lan and DeMets 1983)."""
    result: Floats = 2 * special.ndtr(special.ndtri(alpha / 2) / np.sqrt(share))
    return result


def pocock(alpha: float, share: Floats) -> Floats:
    """Alpha spent when `share` of the seeds is in: about evenly (Lan and DeMets 1983)."""
    result: Floats = alpha * np.log(1 + (math.e - 1) * share)
    return result


SPENDING: dict[str, Callable[[float, Floats], Floats]] = {
    "obrien_fleming": obrien_fleming,
    "pocock": pocock,
}


@dataclass(frozen=True)
class Sequential:
    """A plan of looks: after how many seeds, at which pairs, and how alpha is spent over them.

    `pairs` are the (arm, its base) of all comparisons. The chance that any pair without an effect
    is ever stopped for one is alpha. That is worked out by simulation for normal runs of the same
    arms: sign flips alone, whose p is 1/32 or more at six seeds, could not spend as little as an
    early look may. Raises AblationError for looks that do not rise from six seeds or more.
    """

    looks: tuple[int, ...]
    pairs: tuple[Pair, ...]
    alpha: float = 0.05
    spending: str = "obrien_fleming"
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self.alpha)
        rising = all(a < b for a, b in zip(self.looks, self.looks[1:], strict=False))
        needed = seeds_needed(self.alpha)
        if not self.looks or not rising or self.looks[0] < needed:
            raise AblationError(f"looks {self.looks} must rise from {needed} seeds or more")
        if self.looks[-1] > MAX_SEEDS or not 1 <= len(self.pairs) <= MAX_ARMS:
            raise AblationError(f"at most {MAX_SEEDS} seeds, and 1 to {MAX_ARMS} comparisons")
        if self.spending not in SPENDING:
            raise UnknownNameError("spending", self.spending, known=SPENDING)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """|t| that stops a pair at each look; inf where too little alpha is spent by then."""
        names = list(dict.fromkeys(name for pair in self.pairs for name in pair))
        pairs = tuple((names.index(arm), names.index(base)) for arm, base in self.pairs)
        return _thresholds(self.looks, pairs, self.alpha, self.spending, self.seed)

    def decide(self, differences: Sequence[float] | Floats) -> Decision:
        """What to do with a pair, from its differences so far, one for each seed.

        NaN stands for a seed that failed: the others are judged by the t of the same p.
        'stop: futile' before the last look: were the trend to stay as it is, the last look would
        show an effect with a chance below 10 %. At the last look: none was shown.
        """
        d = np.round(np.asarray(differences, dtype=float), ROUND)
        if len(d) not in self.looks or np.isinf(d).any():
            raise AblationError(f"{len(d)} differences; the looks are at {self.looks}, all finite")
        n_seeds, d = len(d), d[np.isfinite(d)]
        last = n_seeds == self.looks[-1]
        if len(d) < seeds_needed(self.alpha):
            return "stop: futile" if last else "continue"
        t = student_t(d)
        threshold = np.array(self.thresholds[self.looks.index(n_seeds)])
        if _normal(np.array(t), len(d)) >= _normal(threshold, n_seeds):
            return "stop: effect"
        hopeless = last or self.conditional_power(t, len(d)) < HOPELESS
        return "stop: futile" if hopeless else "continue"

    def follow(self, differences: Sequence[float] | Floats) -> tuple[Decision, int]:
        """The decision that stopped a pair, and after how many seeds; or the last 'continue'.

        `differences` are in the order in which the seeds came in; later ones are not looked at.
        """
        decision: Decision = "continue"
        seen = len(differences)
        for n in (n for n in self.looks if n <= len(differences)):
            decision, seen = self.decide(differences[:n]), n
            if decision != "continue":
                break
        return decision, seen

    def settle(self, row: Comparison, decision: Decision, seen: int) -> Comparison:
        """A comparison of the seeds that were seen, significant where they stopped for an effect.

        Its p and its equivalence suppose that nobody looked on the way, so both are taken out.
        """
        row = untested(row, significant=decision == "stop: effect")
        said = verdict(row, seeds_needed(self.alpha))
        stopped = decision != "continue" and seen < self.looks[-1]
        why = decision.replace(":", f"ped after {seen} seeds:")
        return replace(row, verdict=f"{said}; {why}" if stopped else said)

    def undecided(self, differences: Mapping[Pair, Sequence[float]]) -> set[Pair]:
        """The pairs that need more seeds."""
        return {
            pair for pair in self.pairs if self.follow(differences.get(pair, ()))[0] == "continue"
        }

    def detectable(self, sd_diff: float, power: float = 0.8) -> float | None:
        """Smallest effect that some look stops for with probability `power`, in sd_diff's unit.

        By seeded simulation with normal differences; None: none that could ever occur.
        """
        noise = np.random.default_rng(self.seed).standard_normal((N_POWER, self.looks[-1]))
        low, high = 0.0, LARGEST
        if self._found(noise + high) < power:
            return None
        while high - low > 0.005:
            middle = (low + high) / 2
            low, high = (low, middle) if self._found(noise + middle) >= power else (middle, high)
        return sd_diff * high

    def _found(self, d: Floats) -> float:
        """Share of the pairs, differences (pairs, seeds), that are stopped for an effect."""
        running, found = np.ones(len(d), dtype=bool), np.zeros(len(d), dtype=bool)
        for n, threshold in zip(self.looks, self.thresholds, strict=True):
            t = np.abs(d[:, :n].mean(1)) / d[:, :n].std(1, ddof=1) * math.sqrt(n)
            found |= running & (t >= threshold)
            running &= t < threshold
            if n < self.looks[-1]:
                running &= self._conditional_power(t, n) >= HOPELESS
        return float(found.mean())

    def conditional_power(self, t: float, n: int) -> float:
        """Chance that the last look passes its threshold, if the trend after n seeds goes on.

        Source: Lan and Wittes 1988, The B-Value; with t as the normal value of the same p.
        """
        return float(self._conditional_power(np.array(t), n))

    def _conditional_power(self, t: Floats, n: int) -> Floats:
        share = n / self.looks[-1]
        z = _normal(t, n)
        threshold = _normal(np.array(self.thresholds[-1]), self.looks[-1])
        chance: Floats = special.ndtr((z / math.sqrt(share) - threshold) / math.sqrt(1 - share))
        return chance


def student_t(differences: Floats) -> float:
    """|t| of a mean; inf for equal differences that are not 0, 0 for those that are."""
    mean, spread = abs(float(differences.mean())), float(np.std(differences, ddof=1))
    if np.ptp(differences) == 0:
        return math.inf if mean else 0.0
    return mean / spread * math.sqrt(len(differences))


def _normal(t: Floats, n: int) -> Floats:
    """The normal value of the same p as Student's t."""
    value: Floats = -special.ndtri(special.stdtr(n - 1, -t))
    return value


@lru_cache(maxsize=64)
def _thresholds(
    looks: tuple[int, ...],
    pairs: tuple[tuple[int, int], ...],
    alpha: float,
    spending: str,
    seed: int,
) -> tuple[float, ...]:
    highest = _null_maxima(looks, pairs, seed)  # (ablations, looks)
    spent = SPENDING[spending](alpha, np.array(looks) / looks[-1])
    running = np.ones(len(highest), dtype=bool)
    thresholds = []
    for k, share in enumerate(spent):
        alarms = int(share * len(highest)) - int((~running).sum())  # that this look may add
        scores = np.sort(highest[running, k])[::-1]
        threshold = float(scores[alarms]) if alarms > 0 else math.inf
        thresholds.append(threshold)
        running &= highest[:, k] <= threshold
    return tuple(thresholds)


def _null_maxima(looks: tuple[int, ...], pairs: tuple[tuple[int, int], ...], seed: int) -> Floats:
    """Highest |t| of all pairs at each look, in ablations where no part does anything."""
    rng = np.random.default_rng(seed)
    found = []
    n_arms = 1 + max(map(max, pairs))
    arms, bases = map(list, zip(*pairs, strict=True))
    chunk = max(1, NUMBERS // (looks[-1] * n_arms))
    for first in range(0, SIMULATED, chunk):
        tops = rng.standard_normal((min(chunk, SIMULATED - first), looks[-1], n_arms))
        d = tops[:, :, arms] - tops[:, :, bases]  # (chunk, seeds, pairs)
        t = [np.abs(d[:, :n].mean(1)) / d[:, :n].std(1, ddof=1) * math.sqrt(n) for n in looks]
        found.append(np.stack([x.max(axis=-1) for x in t], axis=1))
    return np.concatenate(found)

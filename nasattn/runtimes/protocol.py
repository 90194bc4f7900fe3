"""The protocol: networks timed in turns with a reference, until their ratio to it is known."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Timer = Callable[[], float]  # runs a network once and returns the milliseconds that it took

COMPARED = 0.25  # percentile
LOW, HIGH = 0.1, 0.9  # the percentiles that are reported beside the median
MIN_LOADS = 3  # before there is an interval
WARM_CHUNK, WARM_CHUNKS, WARM_CHANGE = 5, 10, 0.05
WARM_MS = 2_000.0


@dataclass(frozen=True)
class Effort:
    """How long to measure: `least` loads of `rounds` each, up to `most` or `seconds` a network.

    In between it ends when half the interval's width is within `precision` of the ratio; 0 asks
    for `least` loads and no more.
    """

    precision: float = 0.02
    rounds: int = 40
    least: int = 6
    most: int = 12
    seconds: float = 60.0


FULL_EFFORT = Effort()


@dataclass
class Timing:
    """A network's milliseconds, load by load and in each round by round, and the reference's.

    Where a network lies in memory makes it some per cent faster or slower for as long as it lies
    there: so it is loaded several times, and each load counts once.
    """

    own: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of lower quartiles, a load each."""
        pairs = zip(self.own, self.reference, strict=True)
        return [percentile(own, COMPARED) / percentile(other, COMPARED) for own, other in pairs]

    @property
    def ratio(self) -> float:
        """The median over loads."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ratio's 95 % interval (Student's t, of logarithms over loads); None for too few."""
        logs = [math.log(ratio) for ratio in self.ratios]
        if len(logs) < MIN_LOADS:
            return None
        half = students_t(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        return self.ratio * math.exp(-half), self.ratio * math.exp(half)

    def is_known(self, precision: float) -> bool:
        """Whether half the interval's width is within a share of the ratio."""
        if self.interval is None:
            return False
        low, high = self.interval
        return (high - low) / 2 <= precision * self.ratio


def time_in_turns(
    timers: Mapping[str, Timer],
    reference: Timer,
    effort: Effort = FULL_EFFORT,
    seed: int = 0,
    load_again: Callable[[Sequence[str]], None] = lambda names: None,
) -> Iterator[tuple[str, Timing]]:
    """Time networks in random order, a reference with them in each round; each once it is known.

    Every timed call follows an untimed one of the same network, so that the caches are its own.
    Before every further load of rounds `load_again` is told which networks are still measured. A
    network that is known sits out the rounds after; nothing that was timed is left out.
    """
    rng = random.Random(seed)
    left = {name: Timing() for name in timers}
    spent = dict.fromkeys(timers, 0.0)
    for number in range(1, effort.most + 1):
        if number > 1:
            load_again(list(left))
        for timer in (reference, *(timers[name] for name in left)):
            warm_up(timer)
        for timing in left.values():
            timing.own.append([])
            timing.reference.append([])
        for _ in range(effort.rounds):
            times, took = time_round({n: timers[n] for n in left} | {None: reference}, rng)
            for name, timing in left.items():
                timing.own[-1].append(times[name])
                timing.reference[-1].append(times[None])
                spent[name] += took[name]
        for name in list(left):
            enough = number >= effort.least and (
                not effort.precision or left[name].is_known(effort.precision)
            )
            if enough or number == effort.most or spent[name] > effort.seconds:
                yield name, left.pop(name)
        if not left:
            return


def time_round(
    timers: Mapping[str | None, Timer], rng: random.Random
) -> tuple[dict[str | None, float], dict[str | None, float]]:
    """Each network once, in random order: its milliseconds, and the seconds that it cost."""
    times, took = {}, {}
    for name in rng.sample(list(timers), len(timers)):
        start = time.perf_counter()
        timers[name]()
        times[name] = timers[name]()
        took[name] = time.perf_counter() - start
    return times, took


def warm_up(timer: Timer) -> None:
    """Run a network until a few runs take what the few before took."""
    before = math.inf
    spent = 0.0
    for _ in range(WARM_CHUNKS):
        times = [timer() for _ in range(WARM_CHUNK)]
        spent += sum(times)
        now = statistics.median(times)
        if abs(now - before) <= WARM_CHANGE * now or spent > WARM_MS:
            return
        before = now


def percentile(values: Sequence[float], share: float) -> float:
    """By linear interpolation, as numpy's."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    i = math.floor(place)
    upper = ranked[min(i + 1, len(ranked) - 1)]
    return ranked[i] + (place - i) * (upper - ranked[i])


def students_t(df: int) -> float:
    """The 97.5th percentile of Student's t, within 1 % from 4 degrees of freedom on.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / df + g2 / df**2 + g3 / df**3

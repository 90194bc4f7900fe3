"""The protocol on scripted timers: no network, and no clock but one that the timers move."""

import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby, repeat
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nasattn.runtimes import protocol
from nasattn.runtimes.protocol import (
    FULL_EFFORT,
    MIN_LOADS,
    WARM_CHUNK,
    WARM_CHUNKS,
    Effort,
    Timing,
    percentile,
    students_t,
    time_in_turns,
    time_round,
    warm_up,
)

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


class Scripted:
    """A timer that gives what it is told to, then the last of it; it notes each call."""

    def __init__(self, name: str, values: Iterable[float], notes: list[str]) -> None:
        self.name, self.notes = name, notes
        self.values = list(values)
        self.calls = 0

    def __call__(self) -> float:
        self.notes.append(self.name)
        value = self.values[min(self.calls, len(self.values) - 1)]
        self.calls += 1
        return value


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def no_warm_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is warmed up, it is only noted."""
    warmed: list[str] = []
    monkeypatch.setattr(protocol, "warm_up", lambda timer: warmed.append(timer.name))
    return warmed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(protocol, "time", SimpleNamespace(perf_counter=clock))
    return clock


def loads(*ms: float, rounds: int) -> list[float]:
    """What a timer gives that is a load long as fast as the other calls of that load."""
    return list(chain.from_iterable(repeat(one, 2 * rounds) for one in ms))


# Figures


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.floats(0, 1))
def test_percentile_is_numpys(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, 1), (0.25, 3), (0.5, 5), (0.1, 1.8), (0.9, 8.2), (1, 9)],
)
def test_percentile_interpolates_between_ranks(share: float, expected: float) -> None:
    assert percentile([9, 1, 7, 3, 5], share) == pytest.approx(expected)


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([4.0], 0.25) == 4.0


@pytest.mark.parametrize(
    ("df", "tolerance"), [(2, 0.04), (3, 0.01), *((df, 0.01) for df in range(4, 31)), (200, 1e-6)]
)
def test_students_t_is_scipys(df: int, tolerance: float) -> None:
    assert students_t(df) == pytest.approx(stats.t.ppf(0.975, df), rel=tolerance)


# Timing


def test_a_ratio_is_that_of_lower_quartiles() -> None:
    # the second smallest of five: 4 and 2; what a busy moment made slow is above it
    timing = Timing([[4, 2, 6, 800, 10]], [[1, 900, 2, 3, 4]])
    assert timing.ratios == [pytest.approx(4 / 2)]
    assert timing.ratio == pytest.approx(2)


def test_the_ratio_is_the_median_over_loads() -> None:
    timing = Timing([[2.0], [6.0], [30.0]], [[2.0], [3.0], [3.0]])  # 1, 2, 10
    assert timing.ratio == pytest.approx(2)


def test_the_interval_is_students_of_logarithms_over_loads() -> None:
    # logarithms 0, ln 2, 2 ln 2, 3 ln 2, 4 ln 2 have the standard deviation ln 2 sqrt(5 / 2)
    timing = Timing([[2.0**i] for i in range(5)], [[1.0]] * 5)
    half = stats.t.ppf(0.975, 4) * math.log(2) * math.sqrt(2.5) / math.sqrt(5)
    assert timing.ratio == 4
    assert timing.interval == pytest.approx((4 / math.exp(half), 4 * math.exp(half)), rel=0.01)


def test_equal_loads_have_an_interval_without_width() -> None:
    timing = Timing([[3.0]] * 4, [[2.0]] * 4)
    assert timing.interval == pytest.approx((1.5, 1.5))
    assert timing.is_known(1e-9)


@pytest.mark.parametrize("n", range(MIN_LOADS))
def test_few_loads_have_no_interval_and_are_not_known(n: int) -> None:
    timing = Timing([[1.0]] * n, [[1.0]] * n)
    assert timing.interval is None
    assert not timing.is_known(1.0)


def test_is_known_compares_half_the_width_with_a_share_of_the_ratio() -> None:
    timing = Timing([[1.0], [1.1], [1.2], [1.3]], [[1.0]] * 4)
    assert timing.interval is not None
    low, high = timing.interval
    share = (high - low) / 2 / timing.ratio
    assert timing.is_known(share * 1.001)
    assert not timing.is_known(share * 0.999)


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=12), st.floats(0.01, 100))
def test_an_interval_holds_its_ratio_and_scales_with_it(own: list[float], k: float) -> None:
    timing = Timing([[x] for x in own], [[1.0]] * len(own))
    scaled = Timing([[k * x] for x in own], [[1.0]] * len(own))
    assert timing.interval is not None
    assert scaled.interval is not None
    low, high = timing.interval
    assert low <= timing.ratio * (1 + 1e-9)
    assert high >= timing.ratio * (1 - 1e-9)
    assert scaled.interval == pytest.approx((k * low, k * high), rel=1e-6)


# Warming up


def test_warm_up_ends_when_a_few_runs_take_what_the_few_before_took() -> None:
    timer = Scripted("", [9.0, 7.0, 5.0, 5.1, 5.0, 5.0, 5.1, 5.0, 4.9, 5.2], [])
    warm_up(timer)  # medians of five: 5.1, 5.0
    assert timer.calls == 2 * WARM_CHUNK


def test_warm_up_goes_on_while_runs_get_faster() -> None:
    timer = Scripted("", [8.0] * 5 + [4.0] * 5 + [2.0] * 5 + [1.0], [])
    warm_up(timer)  # 8, 4, 2, 1, 1
    assert timer.calls == 5 * WARM_CHUNK


def test_warm_up_gives_up_on_runs_that_never_settle() -> None:
    timer = Scripted("", [1.5**i for i in range(999)], [])
    timer.values = [v / 1e9 for v in timer.values[:200]]
    warm_up(timer)
    assert timer.calls == WARM_CHUNK * WARM_CHUNKS


def test_warm_up_of_a_slow_network_is_one_chunk() -> None:
    timer = Scripted("", [500.0 + 100 * i for i in range(50)], [])
    warm_up(timer)  # more than two seconds
    assert timer.calls == WARM_CHUNK


def test_everything_is_warmed_up_before_each_load(no_warm_up: list[str], clock: Clock) -> None:
    timers = {name: Scripted(name, [1.0], []) for name in "ab"}
    effort = Effort(precision=0, rounds=2, least=2, most=2)
    list(time_in_turns(timers, Scripted("reference", [1.0], []), effort))
    assert no_warm_up == ["reference", "a", "b"] * 2


# Turns


def test_every_timed_call_follows_an_untimed_one_of_the_same_network(
    no_warm_up: list[str], clock: Clock
) -> None:
    notes: list[str] = []
    timers = {name: Scripted(name, [1.0], notes) for name in "ab"}
    effort = Effort(precision=0, rounds=7, least=1, most=1)
    list(time_in_turns(timers, Scripted("r", [1.0], notes), effort))
    pairs = list(zip(notes[::2], notes[1::2], strict=True))
    assert all(first == second for first, second in pairs)
    rounds = [[name for name, _ in pairs[i : i + 3]] for i in range(0, len(pairs), 3)]
    assert len(rounds) == 7
    assert all(sorted(one) == ["a", "b", "r"] for one in rounds)
    assert len(set(map(tuple, rounds))) > 1  # not always in the same order


def test_only_the_second_of_two_calls_counts(no_warm_up: list[str], clock: Clock) -> None:
    own = Scripted("own", [70, 6, 80, 8, 90, 7], [])
    reference = Scripted("reference", [50, 2], [])
    effort = Effort(precision=0, rounds=3, least=1, most=1)
    ((name, timing),) = time_in_turns({"own": own}, reference, effort)
    assert name == "own"
    assert timing.own == [[6, 8, 7]]
    assert timing.reference == [[2, 2, 2]]


def test_the_order_is_the_seeds(no_warm_up: list[str], clock: Clock) -> None:
    def order(seed: int) -> list[str]:
        notes: list[str] = []
        timers = {name: Scripted(name, [1.0], notes) for name in "abc"}
        effort = Effort(precision=0, rounds=6, least=1, most=1)
        list(time_in_turns(timers, Scripted("r", [1.0], notes), effort, seed))
        return notes

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_time_round_gives_milliseconds_and_the_seconds_of_both_calls(clock: Clock) -> None:
    def timer() -> float:
        clock.now += 0.25
        return 250.0

    times, took = time_round({None: timer, "a": timer}, random.Random(0))
    assert times == {None: 250.0, "a": 250.0}
    assert took == {None: 0.5, "a": 0.5}


def in_turns(
    timers: dict[str, Scripted],
    effort: Effort,
    load_again: Callable[[Sequence[str]], None] = lambda names: None,
) -> dict[str, Timing]:
    """The timings, in the order in which they were known, beside a reference of 1 ms."""
    return dict(time_in_turns(timers, Scripted("r", [1.0], []), effort, load_again=load_again))


def test_a_network_that_is_known_sits_out_the_rounds_after(
    no_warm_up: list[str], clock: Clock
) -> None:
    effort = Effort(precision=0.02, rounds=4, least=3, most=6)
    steady = Scripted("steady", [2.0], [])
    shaky = Scripted("shaky", loads(1, 9, 1, 9, 1, 9, rounds=4), [])
    again: list[list[str]] = []
    found = in_turns(
        {"shaky": shaky, "steady": steady}, effort, lambda names: again.append(list(names))
    )
    assert list(found) == ["steady", "shaky"]
    assert steady.calls == 3 * 4 * 2
    assert shaky.calls == 6 * 4 * 2
    assert [len(found[name].own) for name in found] == [3, 6]
    assert [len(found[name].reference) for name in found] == [3, 6]
    assert found["steady"].ratio == 2
    assert found["shaky"].ratio == 5  # of 1, 9, 1, 9, 1, 9
    # before each load but the first it is said which are still measured
    both, one = ["shaky", "steady"], ["shaky"]
    assert again == [both, both, one, one, one]


def test_a_network_is_known_by_its_interval_after_the_least_loads(
    no_warm_up: list[str], clock: Clock
) -> None:
    effort = Effort(precision=0.02, rounds=2, least=4, most=9)
    # ratios 1, 1, 1.05, 1.05 are not known to 2 %; each further 1.02 narrows the interval
    own = Scripted("own", loads(*[1.00, 1.00, 1.05, 1.05, *[1.02] * 5], rounds=2), [])
    (timing,) = in_turns({"own": own}, effort).values()
    shorter = Timing(timing.own[:-1], timing.reference[:-1])
    assert len(timing.own) > effort.least
    assert timing.is_known(0.02)
    assert not shorter.is_known(0.02)


def test_precision_0_asks_for_the_least_loads_and_no_more(
    no_warm_up: list[str], clock: Clock
) -> None:
    effort = Effort(precision=0, rounds=3, least=2, most=9)
    shaky = Scripted("shaky", loads(1, 9, 1, 9, rounds=3), [])
    (timing,) = in_turns({"shaky": shaky}, effort).values()
    assert list(map(len, timing.own)) == [3, 3]


def test_the_most_loads_end_what_is_never_known(no_warm_up: list[str], clock: Clock) -> None:
    effort = Effort(precision=1e-12, rounds=2, least=1, most=4)
    shaky = Scripted("shaky", loads(1, 9, 1, 9, 1, rounds=2), [])
    (timing,) = in_turns({"shaky": shaky}, effort).values()
    assert len(timing.own) == 4
    assert not timing.is_known(1e-12)


def test_seconds_end_a_slow_network_alone(no_warm_up: list[str], clock: Clock) -> None:
    class Slow(Scripted):
        def __call__(self) -> float:
            clock.now += 1.0
            return super().__call__()

    # 4 rounds of two calls of a second: 8 after a load, 16 after two
    effort = Effort(precision=0, rounds=4, least=5, most=5, seconds=10)
    timers = {"quick": Scripted("quick", [1.0], []), "slow": Slow("slow", [1000.0], [])}
    found = in_turns(timers, effort)
    assert {name: len(timing.own) for name, timing in found.items()} == {"slow": 2, "quick": 5}
    assert list(found) == ["slow", "quick"]


def test_a_first_load_is_whole_even_where_seconds_are_over(
    no_warm_up: list[str], clock: Clock
) -> None:
    class Slow(Scripted):
        def __call__(self) -> float:
            clock.now += 100.0
            return super().__call__()

    effort = Effort(precision=0, rounds=3, least=2, most=2, seconds=1)
    (timing,) = in_turns({"slow": Slow("slow", [1e5], [])}, effort).values()
    assert list(map(len, timing.own)) == [3]


def test_no_network_gives_no_timing(no_warm_up: list[str], clock: Clock) -> None:
    assert in_turns({}, Effort(precision=0, rounds=1, least=1, most=1)) == {}


def test_nothing_that_was_timed_is_left_out(no_warm_up: list[str], clock: Clock) -> None:
    # one call of a thousand times the others' is a figure like all others
    values = [1.0] * 8
    values[5] = 1000.0
    effort = Effort(precision=0, rounds=4, least=1, most=1)
    (timing,) = in_turns({"own": Scripted("own", values, [])}, effort).values()
    assert timing.own == [[1.0, 1.0, 1000.0, 1.0]]
    assert statistics.median(timing.own[0]) == 1.0


def test_the_usual_effort_is_240_rounds_at_least() -> None:
    assert FULL_EFFORT.rounds * FULL_EFFORT.least == 240  # as `nasattn latency --help` says
    assert FULL_EFFORT.least >= MIN_LOADS
    assert FULL_EFFORT.least < FULL_EFFORT.most


def test_a_network_beside_itself_has_the_ratio_1(no_warm_up: list[str], clock: Clock) -> None:
    # a machine that gets slower from load to load slows both
    effort = Effort(precision=0.02, rounds=2, least=3, most=5)
    drift = loads(1, 2, 4, 8, 16, rounds=2)
    found = dict(time_in_turns({"a": Scripted("a", drift, [])}, Scripted("r", drift, []), effort))
    assert found["a"].ratio == pytest.approx(1)
    assert len(found["a"].own) == 3
    assert [key for key, _ in groupby(found["a"].own[0])] == [1]

"""The statistics of ablations, against scipy, statsmodels, enumeration by hand and simulation."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nasattn.ablation.designs import GENERATORS, fraction
from nasattn.ablation.factorial import analyse_factorial, shapley_weights
from nasattn.ablation.flips import (
    Floats,
    flip_scores,
    flip_test,
    max_t,
    seeds_needed,
    sign_flips,
    step_down,
)
from nasattn.ablation.power import detectable_effect, sd_of_difference
from nasattn.ablation.results import read_runs_csv
from nasattn.ablation.sequential import SPENDING, Sequential
from nasattn.ablation.statistics import (
    Pair,
    bca_interval,
    compare,
    compare_pairs,
    cost_per_point,
    equivalence_p,
    hedges_d_z,
    student_interval,
)
from nasattn.errors import AblationError, NasattnError

Runs = dict[str, dict[int, float]]

# Six paired differences in points, all of one sign: mean -1.2, squares of the deviations 0.26, so
# Student's interval is 1.2 +- 2.571 * sqrt(0.26 / 5 / 6) = 1.2 +- 0.239.
SIX = (-1.5, -0.9, -1.2, -1.0, -1.4, -1.2)


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


def make_runs(differences: Mapping[str, tuple[float, ...]], level: float = 0.9) -> Runs:
    """A base that wanders over seeds, and arms that differ from it by so many points."""
    longest = max(map(len, differences.values()))
    base = {s: level + 0.001 * (s % 4) for s in range(longest)}
    arms = {a: {s: base[s] + x / 100 for s, x in enumerate(d)} for a, d in differences.items()}
    return {"base": base, **arms}


def random_runs(n: int, effects: tuple[float, ...], spread: float = 0.0021, seed: int = 0) -> Runs:
    rng = np.random.default_rng(seed)
    table = 0.9 + spread * rng.standard_normal((len(effects) + 1, n))
    table[1:] += np.array(effects)[:, None]
    names = ["base", *(f"arm{i}" for i in range(len(effects)))]
    return {name: dict(enumerate(row.tolist())) for name, row in zip(names, table, strict=True)}


# Sign flips


@pytest.mark.parametrize(
    ("alpha", "needed"), [(0.05, 6), (0.1, 6), (0.2, 6), (0.03125, 6), (0.01, 8), (0.001, 11)]
)
def test_seeds_needed_is_where_the_floor_passes_alpha(alpha: float, needed: int) -> None:
    assert seeds_needed(alpha) == needed
    assert 2 / 2**needed <= alpha


@pytest.mark.parametrize("n", [1, 2, 6, 10])
def test_sign_flips_hold_one_of_each_pair(n: int) -> None:
    flips = sign_flips(n)
    both = {tuple(row) for row in flips} | {tuple(-row) for row in flips}
    assert both == set(itertools.product((-1.0, 1.0), repeat=n))
    assert len(flips) == 2 ** (n - 1)
    assert (flips[0] == 1).all()


@pytest.mark.parametrize("n", [6, 8, 11])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_flip_test_equals_scipy(n: int, shift: float) -> None:
    d = normal(n, seed=n) + shift
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=2**n, alternative="two-sided"
    )
    assert flip_test(d) == pytest.approx(float(theirs.pvalue))


def test_flip_test_beyond_sixteen_seeds_samples_by_seed() -> None:
    d = normal(20, seed=3) + 0.4
    exact = stats.ttest_1samp(d, 0).pvalue  # near it for normal values
    assert flip_test(d, seed=1) == flip_test(d, seed=1)
    assert flip_test(d, seed=1) == pytest.approx(flip_test(d, seed=2), abs=0.005)
    assert flip_test(d) == pytest.approx(float(exact), rel=0.3)
    assert flip_test(np.full(20, 0.3)) <= 10 / 100_001  # the floor of a sample


@pytest.mark.parametrize("seed", range(4))
def test_max_t_equals_enumeration_by_hand(seed: int) -> None:
    d = normal(6, 3, seed=seed) + np.array([2.0, 0.3, 0.0])

    def t(x: Floats) -> float:
        return abs(float(stats.ttest_1samp(x, 0).statistic))

    seen = [t(d[:, j]) for j in range(3)]
    order = sorted(range(3), key=lambda j: -seen[j])
    flipped = [
        [t(d[:, j] * np.array(signs)) for j in range(3)]
        for signs in itertools.product((1, -1), repeat=6)
    ]
    expected, floor = [0.0] * 3, 0.0
    for place, j in enumerate(order):
        rivals = order[place:]
        hits = [max(row[k] for k in rivals) >= seen[j] * (1 - 1e-9) for row in flipped]
        floor = max(floor, sum(hits) / 64)
        expected[j] = floor
    assert max_t(d) == pytest.approx(expected)


def test_max_t_floor_does_not_rise_with_the_arms() -> None:
    # Arms of one size in all seeds: nothing but the identity and its mirror is as extreme.
    d = np.tile(np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95])[:, None], (1, 20))
    assert max_t(d) == pytest.approx(np.full(20, 2 / 64))
    assert min(stats.false_discovery_control([2 / 64] * 20)) == 2 / 64  # for comparison: no FWER
    assert 20 * 2 / 64 > 0.05  # Holm's first step


def test_max_t_of_a_batch_equals_each_alone() -> None:
    d = normal(5, 6, 4)
    assert max_t(d) == pytest.approx(np.stack([max_t(x) for x in d]))


def test_flip_scores_of_other_seed_sets_use_all_seeds_of_an_arm() -> None:
    d = normal(9, 2, seed=5) + 1
    d[6:, 1] = np.nan  # the second arm has six of the nine seeds
    scores = flip_scores(d, sign_flips(9))
    for j, n in ((0, 9), (1, 6)):
        assert scores[0, j] == pytest.approx(1 - stats.ttest_1samp(d[:n, j], 0).pvalue)
        alone = np.mean(scores[:, j] >= scores[0, j] - 1e-9)
        assert alone == pytest.approx(flip_test(d[:n, j]))
    assert (max_t(d) >= [flip_test(d[:, 0]), flip_test(d[:6, 1])]).all()


def test_step_down_ties_count_as_extreme() -> None:
    # Two flips score alike: both arms are as extreme as can be in half of them.
    assert step_down(np.array([[1.0, 1.0], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])) == pytest.approx(
        [0.5, 0.5]
    )


@pytest.mark.parametrize("noise", ["normal", "student", "uneven"])
def test_max_t_holds_the_family_wise_rate(noise: str) -> None:
    rng = np.random.default_rng(7)
    tops = {
        "normal": rng.standard_normal((2000, 6, 7)),
        "student": rng.standard_t(3, (2000, 6, 7)),
        "uneven": rng.standard_normal((2000, 6, 7)) * np.array([1, 1, 1, 1, 1, 5, 20]),
    }[noise]
    d = tops[:, :, 1:] - tops[:, :, :1]
    d[:, :, 0] += 5  # one arm has an effect: the rate holds for the others too
    alarms = (max_t(d)[:, 1:] <= 0.05).any(axis=1).mean()
    assert alarms <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


# Comparisons


def test_compare_reads_as_a_sentence() -> None:
    (row,) = compare(make_runs({"no se": SIX}), "base")
    low, high = stats.ttest_1samp(SIX, 0).confidence_interval(0.95)
    assert row.verdict == f"lowers top-1 by 1.20 points ({-high:.2f} to {-low:.2f})"
    assert (row.arm, row.base, row.n, row.testable, row.significant) == (
        "no se",
        "base",
        6,
        True,
        True,
    )
    assert row.effect == pytest.approx(-0.012)
    assert row.p == row.p_adjusted == 2 / 64
    assert (row.low, row.high) == pytest.approx((low / 100, high / 100))
    assert row.sd_difference == pytest.approx(np.std(SIX, ddof=1) / 100)
    assert row.mean == pytest.approx(0.9 + (0 + 1 + 2 + 3 + 0 + 1) / 6000 - 0.012)


VERDICTS: list[tuple[tuple[float, ...], float | None, str]] = [
    (SIX, None, "lowers top-1 by 1.20 points (0.96 to 1.44)"),
    (tuple(-x for x in SIX), None, "raises top-1 by 1.20 points (0.96 to 1.44)"),
    (tuple(x / 10 for x in SIX), 0.005, "lowers top-1 by 0.12 points (0.10 to 0.14), less than"
     " 0.5"),
    ((0.1, -0.1, 0.05, -0.05, 0.02, -0.02), 0.005, "no difference seen; an effect of 0.5 points or"
     " more is ruled out"),
    ((0.1, -0.1, 0.05, -0.05, 0.02, -0.02), None, "undecided: +0.00 points (-0.08 to +0.08)"),
    ((2.0, -2.0, 1.0, -1.0, 1.0, -1.0), 0.005, "undecided: +0.00 points (-1.63 to +1.63)"),
    ((-1.0,) * 6, None, "lowers top-1 by 1.00 points in every seed"),
    ((0.0,) * 6, 0.005, "undecided: +0.00 points in every seed"),
    (SIX[:3], 0.005, "not testable: 3 seeds, 6 are needed"),
    (SIX[:1], None, "not testable: 1 seed, 6 are needed"),
]  # fmt: skip


@pytest.mark.parametrize(("differences", "margin", "verdict"), VERDICTS)
def test_compare_verdict_of(
    differences: tuple[float, ...], margin: float | None, verdict: str
) -> None:
    (row,) = compare(make_runs({"x": differences}), "base", margin=margin)
    assert row.verdict == verdict


def test_compare_below_six_seeds_gives_effect_and_interval_without_p() -> None:
    (row,) = compare(make_runs({"x": SIX[:5]}), "base", margin=0.005)
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.effect < row.high < 0  # clear of 0, and still not significant
    assert (row.testable, row.significant, row.equivalent) == (False, False, False)
    assert row.p is row.p_adjusted is row.p_equivalent is None


def test_compare_asks_for_more_seeds_at_a_stricter_alpha() -> None:
    (row,) = compare(make_runs({"x": SIX}), "base", alpha=0.01)
    assert row.verdict == "not testable: 6 seeds, 8 are needed"


@pytest.mark.parametrize("differences", [(-1.0,), (-1.0,) * 4, (0.0,) * 8])
def test_compare_has_no_interval_without_a_spread(differences: tuple[float, ...]) -> None:
    (row,) = compare(make_runs({"x": differences}), "base")
    assert (row.low, row.high, row.bca_low, row.bca_high) == (None,) * 4
    assert row.effect_size is None


def test_compare_takes_no_rounding_for_an_effect() -> None:
    # 0.1 + 0.2 is not 0.3 to the last digit: six equal errors of 5e-17 are no difference.
    runs = {"base": dict.fromkeys(range(6), 0.3), "x": dict.fromkeys(range(6), 0.1 + 0.2)}
    (row,) = compare(runs, "base")
    assert (row.effect, row.p, row.significant) == (0, 1, False)


def test_compare_pairs_by_the_seeds_that_both_have() -> None:
    runs = make_runs({"x": SIX, "y": (*SIX, -1.1, -1.3)})
    del runs["x"][0]
    runs["x"][99] = 0.1  # a seed that the base lacks
    x, y = compare(runs, "base")
    assert (x.n, y.n) == (5, 8)
    assert x.effect == pytest.approx(np.mean(SIX[1:]) / 100)
    assert (x.testable, y.testable) == (False, True)
    assert y.p_adjusted == y.p == 2 / 2**8


def test_compare_of_more_seeds_than_can_be_enumerated_is_seeded() -> None:
    runs = random_runs(18, (-0.02, 0.0))
    first, again = (compare(runs, "base", n_boot=99, seed=1) for _ in range(2))
    assert first == again
    # 100,001 flips: an effect of ten spreads is as extreme as the unflipped row and its mirror.
    assert first[0].p == pytest.approx(1 / 100_001, abs=2 / 100_001)
    assert first[0].p_adjusted == first[0].p


def test_compare_leaves_untestable_arms_out_of_the_family() -> None:
    runs = random_runs(6, (-0.01, 0.0, -0.004))
    short = {a: (v if a != "arm1" else {0: v[0], 1: v[1]}) for a, v in runs.items()}
    without = {a: v for a, v in runs.items() if a != "arm1"}
    p = {row.arm: row.p_adjusted for row in compare(without, "base")}
    assert {row.arm: row.p_adjusted for row in compare(short, "base")} == {**p, "arm1": None}


def test_compare_corrected_p_of_arms_with_other_seeds_is_never_below_the_plain_one() -> None:
    runs = random_runs(20, (-0.004, 0.0, -0.001, 0.002))
    runs["arm0"] = {s: v for s, v in runs["arm0"].items() if s < 7}
    runs["arm1"] = {s: v for s, v in runs["arm1"].items() if s > 11}
    for row in compare(runs, "base", n_boot=99):
        assert row.p is not None
        assert row.p_adjusted is not None
        assert row.p_adjusted >= row.p


def test_compare_pairs_takes_any_reference_in_one_family() -> None:
    # Rungs of a ladder: each against the one below, all flipped together.
    runs = random_runs(6, (-0.01, -0.012, 0.0))
    first, second = compare_pairs(runs, [("arm0", "base"), ("arm1", "arm0")])
    y = {arm: np.array(list(by_seed.values())) for arm, by_seed in runs.items()}
    d = np.stack([y["arm0"] - y["base"], y["arm1"] - y["arm0"]], axis=1)
    assert (second.arm, second.base) == ("arm1", "arm0")
    assert [first.effect, second.effect] == pytest.approx(d.mean(axis=0))
    assert [first.p_adjusted, second.p_adjusted] == pytest.approx(max_t(d))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("arm0", "bas")], "unknown arm 'bas'; did you mean 'base'"),
        ([("arm0", "arm0")], "twice, or with itself"),
        ([("arm0", "base"), ("arm0", "base")], "twice, or with itself"),
    ],
)
def test_compare_pairs_refuses(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        compare_pairs(random_runs(6, (0.0,)), pairs)


tables = st.integers(6, 8).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(600, 800), min_size=n, max_size=n), min_size=2, max_size=4
    )
)


@settings(max_examples=20, deadline=None)
@given(table=tables, data=st.data())
def test_compare_hangs_on_no_order_and_on_no_constant(
    table: list[list[int]], data: st.DataObject
) -> None:
    runs = {str(i): {s: v / 1000 for s, v in enumerate(row)} for i, row in enumerate(table)}
    n = len(table[0])
    seeds = data.draw(st.permutations(range(n)))
    arms = data.draw(st.permutations(list(runs)))
    shuffled = {a: {s: runs[a][s] for s in seeds} for a in arms}
    renamed = {a: {seeds[s]: v for s, v in row.items()} for a, row in runs.items()}
    higher = {a: {s: v + 0.125 for s, v in row.items()} for a, row in runs.items()}

    def said(runs: Runs) -> list[dict[str, Any]]:
        rows = [dataclasses.asdict(r) for r in compare(runs, "0", n_boot=99)]
        for row in rows:
            del row["mean"], row["sd"]
        return sorted(rows, key=lambda row: str(row["arm"]))

    rows = said(runs)
    assert said(shuffled) == rows
    for other in (renamed, higher):
        for a, b in zip(said(other), rows, strict=True):
            # Sentences differ where a last digit sits on the edge of rounding.
            said_a, said_b = str(a["verdict"]), str(b["verdict"])
            assert said_a.split()[0] == said_b.split()[0]
            assert {**a, "verdict": said_b} == pytest.approx(b, abs=1e-9)
    for row in rows:
        assert row["p_adjusted"] >= row["p"] >= 2 / 2**n


def test_compare_rows_are_json() -> None:
    rows = [dataclasses.asdict(r) for r in compare(random_runs(6, (0.0, -0.1)), "base")]
    back = json.loads(json.dumps({"rows": rows}, allow_nan=False))["rows"]
    assert list(back[0])[:10] == [
        "arm", "n", "mean", "effect", "low", "high", "p", "p_adjusted", "significant", "verdict",
    ]  # fmt: skip


BAD_COMPARISONS: list[tuple[Runs, dict[str, Any], str]] = [
    ({"a": {0: 0.5}, "b": {0: 0.5}}, {}, "unknown arm 'base'; known: a, b"),
    ({"base": {0: 0.5}}, {}, "no arm beside the base"),
    ({"base": {0: 0.5}, "b": {1: 0.5}}, {}, "'b' shares no seed with its base"),
    ({"base": {0: 0.5}, "b": {0: 93.0}}, {}, "'b', seed 0: top-1 93.0 is no fraction"),
    ({"base": {0: math.nan}, "b": {0: 0.5}}, {}, "'base', seed 0: top-1 nan is no fraction"),
    ({"base": {0: 0.5}, "b": {0: 0.5}}, {"alpha": 0}, "alpha 0 must be"),
    ({"base": {0: 0.5}, "b": {0: 0.5}}, {"margin": 5}, "margin 5 must be"),
]  # fmt: skip


@pytest.mark.parametrize(("runs", "options", "message"), BAD_COMPARISONS)
def test_compare_refuses(runs: Runs, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        compare(runs, "base", **options)


def test_student_interval_covers_at_six_seeds_and_bca_does_not() -> None:
    # The reason why the interval shown is Student's: docs/statistics.md.
    samples = normal(400, 6, seed=11)
    student, bca = [
        np.mean([low < 0 < high for low, high in intervals])  # type: ignore[operator]
        for intervals in (
            [student_interval(d, 0.05) for d in samples],
            [bca_interval(d, 0.05, 499, 0) for d in samples],
        )
    ]
    assert student >= 0.925
    assert bca <= 0.90


def test_hedges_d_z_takes_the_bias_off() -> None:
    # Hedges' own approximation of the factor: 1 - 3 / (4 * 5 - 1).
    d = np.array(SIX)
    cohen = d.mean() / d.std(ddof=1)
    assert hedges_d_z(d) == pytest.approx(cohen * (1 - 3 / 19), rel=2e-3)
    estimates = [hedges_d_z(x + 1) for x in normal(20_000, 6)]
    assert np.mean(np.array(estimates, dtype=float)) == pytest.approx(1.0, abs=0.02)


def test_equivalence_p_equals_two_one_sided_tests_by_hand() -> None:
    d, margin = np.array([0.1, -0.2, 0.15, 0.05, -0.1, 0.0, 0.2]), 0.3
    error = d.std(ddof=1) / math.sqrt(7)
    upper = stats.t.cdf((d.mean() - margin) / error, 6)
    lower = stats.t.sf((d.mean() + margin) / error, 6)
    assert equivalence_p(d, margin) == pytest.approx(max(upper, lower))
    assert equivalence_p(-d, margin) == pytest.approx(max(upper, lower))
    assert equivalence_p(d, 0.01) > 0.5  # the mean is outside
    # And as an interval: inside the margin at 5 % iff the 90 % interval is.
    low, high = student_interval(d, 0.10)
    assert low is not None
    assert high is not None
    assert equivalence_p(d, high) == pytest.approx(0.05)
    assert equivalence_p(d, -low) > 0.05  # the other end sticks out


def test_compare_corrects_equivalence_by_holm() -> None:
    near, far = (0.1, -0.2, 0.15, 0.05, -0.1, 0.0), (0.3, -0.4, 0.2, 0.1, -0.2, 0.1)
    p = [equivalence_p(np.array(d) / 100, 0.005) for d in (near, far)]
    rows = compare(make_runs({"near": near, "far": far}), "base", margin=0.005)
    assert p[0] < p[1]
    assert [row.p_equivalent for row in rows] == pytest.approx([2 * p[0], max(2 * p[0], p[1])])


def test_cost_per_point_divides_cost_by_points() -> None:
    # Without it: 1.2 points (0.96 to 1.44) less, 240,000 params less, half a millisecond less.
    (row,) = compare(make_runs({"no se": SIX}), "base")
    base = {"params": 1_240_000.0, "latency_ms": 3.0, "macs": 1.0}
    params, latency = cost_per_point(row, base, {"params": 1_000_000.0, "latency_ms": 2.5})
    assert row.low is not None
    assert row.high is not None
    assert (params.cost, params.change) == ("params", -240_000)
    assert params.per_point == pytest.approx(200_000)
    assert params.low == pytest.approx(-240_000 / (100 * row.low))
    assert params.high == pytest.approx(-240_000 / (100 * row.high))
    assert latency.per_point == pytest.approx(0.5 / 1.2)
    assert params.reason == latency.reason == ""


@pytest.mark.parametrize(
    ("differences", "reason"),
    [((1.0, -1.0, 2.0, -2.0, 0.5, -0.5), "covers 0"), ((-1.0,) * 6, "has no interval")],
)
def test_cost_per_point_is_none_without_a_clear_effect(
    differences: tuple[float, ...], reason: str
) -> None:
    (row,) = compare(make_runs({"x": differences}), "base")
    (cost,) = cost_per_point(row, {"params": 2.0}, {"params": 1.0})
    assert (cost.per_point, cost.low, cost.high) == (None, None, None)
    assert reason in cost.reason


# Factorials


def factorial_runs(
    k: int, runs: int, n: int, spread: float = 0.002, seed: int = 0
) -> tuple[Runs, dict[str, dict[str, str]]]:
    """Runs with effects -0.02 of A, 0.01 of B, and -0.008 more of both; seeds differ too."""
    design = fraction("ABCDEFG"[:k], runs)
    rng = np.random.default_rng(seed)
    shift = 0.005 * rng.standard_normal(n)
    values: Runs = {}
    levels = {}
    for row in design.rows:
        name = "+".join(f for f, level in zip(design.factors, row, strict=True) if level) or "base"
        mean = 0.9 - 0.02 * row[0] + 0.01 * row[1] - 0.008 * row[0] * row[1]
        values[name] = dict(enumerate((mean + shift + spread * rng.standard_normal(n)).tolist()))
        levels[name] = {f: str(level) for f, level in zip(design.factors, row, strict=True)}
    return values, levels


# Resolutions of Box and Hunter's table; with a generator of even length the sign is ours.
RESOLUTIONS = {
    (4, 8): 4, (5, 16): 5, (6, 16): 4, (6, 32): 6, (7, 16): 4, (7, 32): 4, (7, 64): 7,
}  # fmt: skip


@pytest.mark.parametrize(("k", "runs"), GENERATORS)
def test_fraction_has_the_published_resolution_and_the_base(k: int, runs: int) -> None:
    design = fraction("ABCDEFG"[:k], runs)
    assert design.resolution == RESOLUTIONS[k, runs]
    assert len(set(design.rows)) == len(design.rows) == runs
    assert (0,) * k in design.rows
    mains = [term for term in design.terms if len(term.word) == 1]
    assert len(mains) == k
    assert all(term.aliases == () for term in mains)
    pairs = sum(1 + len(t.aliases) for t in design.terms) - k
    assert pairs == k * (k - 1) // 2


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_fraction_of_all_runs_is_full(k: int) -> None:
    design = fraction("ABCDE"[:k], 2**k)
    assert set(design.rows) == set(itertools.product((0, 1), repeat=k))
    assert design.resolution is None


def test_fraction_states_aliases_by_hand() -> None:
    # D = ABC, so I = ABCD: each pair is the pair of the other two letters.
    terms = {t.name: t.aliases for t in fraction("ABCD", 8).terms}
    assert terms == {
        **{f: () for f in "ABCD"},
        "A:B": ("C:D",), "A:C": ("B:D",), "A:D": ("B:C",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("factors", "runs", "message"),
    [
        ("ABCDE", 8, r"no design of 8 runs for 5 factors; known: \[16, 32\]"),
        ("AA", 4, "different factors"),
        ("", 1, "different factors"),
        ("ABCDEFGHIJK", 16, "1 to 10"),
    ],
)
def test_fraction_refuses(factors: str, runs: int, message: str) -> None:
    with pytest.raises(AblationError, match=message):
        fraction(factors, runs)


@pytest.mark.parametrize(("k", "runs"), [(2, 4), (3, 8), (5, 16)])
def test_analyse_factorial_equals_statsmodels(k: int, runs: int) -> None:
    import pandas as pd

    values, levels = factorial_runs(k, runs, 6)
    frame = pd.DataFrame(
        {"top1": y, "block": s, **{f"x{f}": float(level) - 0.5 for f, level in levels[arm].items()}}
        for arm, by_seed in values.items()
        for s, y in by_seed.items()
    )
    formula = f"top1 ~ C(block) + ({' + '.join(f'x{f}' for f in 'ABCDE'[:k])}) ** 2"
    fit = smf.ols(formula, frame).fit()
    for effect in analyse_factorial(values, levels, "base").effects:
        term = ":".join(f"x{f}" for f in effect.term.split(":"))
        assert effect.effect == pytest.approx(fit.params[term])
        low, high = fit.conf_int().loc[term]
        assert (effect.low, effect.high) == pytest.approx((low, high))


def test_analyse_factorial_finds_the_planted_effects() -> None:
    values, levels = factorial_runs(3, 8, 8, spread=0.0001)
    done = analyse_factorial(values, levels, "base")
    effects = {e.term: e for e in done.effects}
    # A's effect averaged over B: -0.02 - 0.008 / 2; the pair's: what both do beyond the sum.
    for term, expected in (("A", -0.024), ("B", 0.006), ("C", 0), ("A:B", -0.008), ("A:C", 0)):
        assert effects[term].effect == pytest.approx(expected, abs=2e-4)
        assert effects[term].significant == (expected != 0)
    assert effects["A"].verdict.startswith("lowers top-1 by 2.4")
    assert effects["A:B"].verdict.startswith("together lower top-1 by 0.8")
    assert effects["A:B"].verdict.split(" (")[0].endswith("beyond the sum")
    # Shapley: the interaction is shared by A and B; the sum is all changed minus base.
    shares = {s.factor: s.effect for s in done.shapley}
    assert [shares[f] for f in "ABC"] == pytest.approx([-0.024, 0.006, 0], abs=2e-4)
    whole = np.mean([values["A+B+C"][s] - values["base"][s] for s in done.seeds])
    assert sum(shares.values()) == pytest.approx(float(whole))


def test_analyse_factorial_p_is_max_t_of_the_seeds_contrasts() -> None:
    values, levels = factorial_runs(2, 4, 6)
    effects = analyse_factorial(values, levels, "base").effects
    y = {arm: np.array(list(by_seed.values())) for arm, by_seed in values.items()}
    none, a, b, both = y["base"], y["A"], y["B"], y["A+B"]
    d = np.stack([a + both - none - b, b + both - none - a, none + both - a - b], axis=1)
    assert [e.p_adjusted for e in effects] == pytest.approx(max_t(d))
    assert [e.p for e in effects] == pytest.approx([flip_test(x) for x in d.T])


def test_analyse_factorial_of_a_fraction_states_aliases_and_has_no_shapley() -> None:
    values, levels = factorial_runs(4, 8, 6)
    done = analyse_factorial(values, levels, "base")
    assert {e.term: e.aliases for e in done.effects}["A:B"] == ("C:D",)
    assert done.shapley == ()


def test_analyse_factorial_names_a_main_effect_that_is_a_pair_too() -> None:
    # A half of 2^3 with C = AB, resolution III; its base has C changed against A and B alike.
    values, levels = factorial_runs(3, 8, 6)
    odd = [a for a, v in levels.items() if sum(map(int, v.values())) % 2 == 0]
    done = analyse_factorial({a: values[a] for a in odd}, levels, "base")
    assert {e.term: e.aliases for e in done.effects} == {
        "A": ("-B:C",), "B": ("-A:C",), "C": ("-A:B",),
    }  # fmt: skip


def test_analyse_factorial_leaves_incomplete_seeds_out() -> None:
    values, levels = factorial_runs(2, 4, 7)
    del values["A"][3]
    done = analyse_factorial(values, levels, "base")
    assert (done.seeds, done.dropped) == ((0, 1, 2, 4, 5, 6), (3,))


@pytest.mark.parametrize("n", [1, 5])
def test_analyse_factorial_below_six_seeds_is_not_testable(n: int) -> None:
    done = analyse_factorial(*factorial_runs(3, 8, n), "base")
    for effect in done.effects:
        assert effect.verdict.startswith(f"not testable: {n} seed")
        assert effect.p is effect.p_adjusted is None
        assert effect.low is not None
        assert not effect.significant


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": {"A": "2", "B": "0"}}, "'A' has 3 levels"),
        ({"A": {"A": "0", "B": "0"}}, "'base' and 'A' have the same levels"),
        ({"A": {}}, "'A' has 3 levels"),
        ({"base": {}}, "'base' has no factor levels"),
    ],
)
def test_analyse_factorial_refuses(change: dict[str, dict[str, str]], message: str) -> None:
    values, levels = factorial_runs(2, 4, 6)
    with pytest.raises(AblationError, match=message):
        analyse_factorial(values, {**levels, **change}, "base")


def test_analyse_factorial_refuses_one_factor_at_a_time() -> None:
    values, levels = factorial_runs(3, 8, 6)
    alone = {a: values[a] for a in ("base", "A", "B", "C")}
    with pytest.raises(AblationError, match="no regular design"):
        analyse_factorial(alone, levels, "base")


def test_shapley_weights_solve_the_glove_game() -> None:
    # Players 0 and 1 hold a left glove, 2 a right one; a pair is worth 1: 1/6, 1/6, 2/3.
    rows = np.array(list(itertools.product((0, 1), repeat=3)))
    worth = (rows[:, 2] == 1) & (rows[:, :2].any(axis=1))
    assert shapley_weights(rows) @ worth == pytest.approx([1 / 6, 1 / 6, 2 / 3])


# Power


@pytest.mark.parametrize(("spread", "rho", "sd"), [(0.5, 0, math.sqrt(0.5)), (0.2, 0.5, 0.2)])
def test_sd_of_difference_of_a_spread(spread: float, rho: float, sd: float) -> None:
    assert sd_of_difference(spread, rho) == pytest.approx(sd)


def test_detectable_effect_of_one_arm_is_near_the_t_test() -> None:
    # One arm, n = 14: the sign-flip test is about as strong as Student's t.
    from statsmodels.stats.power import TTestPower

    theirs = TTestPower().solve_power(nobs=14, alpha=0.05, power=0.8)
    assert detectable_effect(14, 1.0, 1) == pytest.approx(theirs, rel=0.06)


@pytest.mark.parametrize(("n", "n_arms", "carriers"), [(6, 6, 1), (6, 6, 3), (6, 6, 6), (8, 3, 1)])
def test_detectable_effect_is_found_with_the_promised_power(
    n: int, n_arms: int, carriers: int
) -> None:
    sd = sd_of_difference(0.0021)
    effect = detectable_effect(n, sd, n_arms)
    assert effect is not None
    rng = np.random.default_rng(5)
    tops = 0.0021 * rng.standard_normal((2000, n, n_arms + 1))
    d = tops[:, :, 1:] - tops[:, :, :1]
    d[:, :, :carriers] -= effect
    found = (max_t(d)[:, :carriers] <= 0.05).mean()
    assert found >= 0.8 - 0.01
    if carriers == 1:
        assert found <= 0.86  # and not promised too little


def test_detectable_effect_is_none_where_nothing_can_be_significant() -> None:
    assert detectable_effect(5, 1.0, 3) is None
    assert detectable_effect(7, 1.0, 3, alpha=0.01) is None


def test_detectable_effect_falls_with_seeds_and_rises_with_arms() -> None:
    by_seeds = [detectable_effect(n, 1.0, 4) or 0 for n in (6, 8)]
    by_arms = [detectable_effect(6, 1.0, a) or 0 for a in (1, 3, 6)]
    assert by_seeds == sorted(by_seeds, reverse=True)
    assert by_arms == sorted(by_arms)
    assert detectable_effect(6, 0.5, 3) == pytest.approx(by_arms[1] / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_arms": 0}, "0 arms"),
        ({"sd_diff": 0.0}, "above 0"),
        ({"power": 1.0}, "power 1.0"),
        ({"correlation": 1.0}, "correlation 1.0"),
    ],
)
def test_detectable_effect_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AblationError, match=message):
        detectable_effect(**{"n_seeds": 6, "sd_diff": 1.0, "n_arms": 3, **options})


def test_sd_of_difference_refuses_percent() -> None:
    with pytest.raises(AblationError, match="spread 21"):
        sd_of_difference(21.0)


# Looks on the way


def star(n: int) -> tuple[Pair, ...]:
    """n arms, each against the base."""
    return tuple((f"arm{i}", "base") for i in range(n))


@pytest.mark.parametrize("spending", SPENDING)
def test_sequential_holds_the_family_wise_rate(spending: str) -> None:
    plan = Sequential((6, 8, 10), star(3), spending=spending)
    tops = normal(2000, 10, 4, seed=9)
    d = tops[:, :, 1:] - tops[:, :, :1]
    alarm = np.zeros(2000, dtype=bool)
    for n, threshold in zip(plan.looks, plan.thresholds, strict=True):
        t = np.abs(d[:, :n].mean(1)) / d[:, :n].std(1, ddof=1) * math.sqrt(n)
        alarm |= (t > threshold).any(axis=1)
    assert 0.035 <= alarm.mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


def test_sequential_of_one_look_and_arm_is_the_t_test() -> None:
    assert Sequential((8,), star(1)).thresholds[0] == pytest.approx(stats.t.isf(0.025, 7), rel=0.02)


def test_sequential_spends_less_at_first_by_obrien_and_fleming() -> None:
    early, late = Sequential((6, 12), star(2)), Sequential((6, 12), star(2), spending="pocock")
    assert early.thresholds[0] > late.thresholds[0]
    assert early.thresholds[1] < late.thresholds[1]


def test_sequential_decides_by_threshold_and_trend() -> None:
    plan = Sequential((6, 8, 10), star(2))
    clear = [-1.0, -1.1, -0.9, -1.0, -1.05, -0.95]
    flat = [1.0, -1.0, 0.5, -0.5, 0.1, -0.1]
    between = [1.0, 0.2, 1.5, -0.1, 0.9, 0.6]
    assert plan.decide(clear) == "stop: effect"
    assert plan.decide(flat) == "stop: futile"
    assert plan.decide(between) == "continue"
    assert plan.decide([0.0] * 8) == "stop: futile"
    assert plan.decide([0.01] * 8) == "stop: effect"
    assert plan.decide([*flat, 1.0, 1.1, 0.9, -1.0]) == "stop: futile"  # the last look


def test_sequential_follow_stops_at_the_first_clear_look() -> None:
    plan = Sequential((6, 8, 10), star(2))
    clear, between = [-1.0, -1.1, -0.9, -1.0, -1.05, -0.95], [1.0, 0.2, 1.5, -0.1, 0.9, 0.6]
    assert plan.follow(clear[:5]) == ("continue", 5)
    assert plan.follow([*clear, 0.0, 5.0]) == ("stop: effect", 6)
    assert plan.follow([*between, 0.9]) == ("continue", 6)
    assert plan.follow([*between, -3.0, 1.0, -1.0, 0.0]) == ("stop: futile", 8)


def test_sequential_settle_lets_the_looks_decide() -> None:
    plan = Sequential((6, 8, 10), star(2))
    for points, significant in ((SIX, True), ((-1.0, 0.3, -1.3, -0.2, -0.5, -0.4), False)):
        (row,) = compare(make_runs({"x": points}), "base", margin=0.02)
        settled = plan.settle(row, *plan.follow([x / 100 for x in points]))
        assert settled.significant == significant
        assert settled.p is settled.p_adjusted is settled.p_equivalent is None
        assert settled.verdict.split()[0] == ("lowers" if significant else "undecided:")
        assert (settled.effect, settled.low) == (row.effect, row.low)
    (few,) = compare(make_runs({"x": SIX[:4]}), "base")
    assert plan.settle(few, "continue", 4).verdict == "not testable: 4 seeds, 6 are needed"


def test_sequential_judges_by_the_seeds_that_did_not_fail() -> None:
    plan = Sequential((6, 8), star(1))
    clear = [1.0, 1.3, 0.6, 1.1, 0.4, 0.9, 1.2]
    assert plan.decide([*clear[:3], math.nan, *clear[3:]]) == "stop: effect"
    assert plan.decide([math.nan, *clear[:5]]) == "continue"  # five cannot be tested
    assert plan.decide([math.nan] * 3 + clear[:5]) == "stop: futile"  # the last look
    # seven differences need the t whose p is that of the threshold for eight
    p = 2 * stats.t.sf(plan.thresholds[1], 7)
    needed = stats.t.isf(p / 2, 6)
    d = np.array(clear) - np.mean(clear)
    at = d + needed * d.std(ddof=1) / math.sqrt(7)
    assert plan.decide([*(at + 0.01), math.nan]) == "stop: effect"
    assert plan.decide([*(at - 0.01), math.nan]) == "stop: futile"


def test_sequential_conditional_power_equals_simulation() -> None:
    plan = Sequential((50, 100), star(1))  # many seeds: t is nearly normal, as the formula supposes
    t, n = 1.5, 50
    rng = np.random.default_rng(0)
    rest = rng.standard_normal((20_000, 50)).sum(axis=1) + 50 * t / math.sqrt(n)
    z = (t * math.sqrt(n) + rest) / math.sqrt(100)
    expected = (z >= plan.thresholds[1]).mean()
    assert plan.conditional_power(t, n) == pytest.approx(expected, abs=0.02)


def test_sequential_pairs_without_a_common_base_need_more() -> None:
    # differences that share a base are alike, so that their highest |t| is smaller
    apart = Sequential((8,), (("a", "b"), ("c", "d"), ("e", "f")))
    assert apart.thresholds[0] > Sequential((8,), star(3)).thresholds[0]
    independent = stats.t.isf((1 - 0.95 ** (1 / 3)) / 2, 7)
    assert apart.thresholds[0] == pytest.approx(independent, rel=0.02)


def test_sequential_detectable_of_one_look_is_the_t_test_s() -> None:
    effect = Sequential((12,), star(1)).detectable(2.0)
    assert effect is not None
    power = stats.nct.sf(stats.t.isf(0.025, 11), 11, effect / 2 * math.sqrt(12))
    assert power == pytest.approx(0.8, abs=0.015)


def test_sequential_undecided_are_those_that_no_look_stopped() -> None:
    plan = Sequential((6, 8, 10), star(2))
    clear, between = [-1.0, -1.1, -0.9, -1.0, -1.05, -0.95], [1.0, 0.2, 1.5, -0.1, 0.9, 0.6]
    assert plan.undecided({}) == set(star(2))
    both = {("arm0", "base"): clear, ("arm1", "base"): between}
    assert plan.undecided(both) == {("arm1", "base")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"looks": (4, 8)}, "must rise from 6"),
        ({"looks": (8, 6)}, "must rise"),
        ({"looks": ()}, "must rise"),
        ({"looks": (6, 1000)}, "at most 100 seeds"),
        ({"pairs": ()}, "1 to 100 comparisons"),
        ({"spending": "pococ"}, "did you mean 'pocock'"),
        ({"alpha": 2.0}, "alpha 2.0"),
        ({"alpha": 0.01}, "must rise from 8"),
    ],
)
def test_sequential_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        Sequential(**{"looks": (6, 8), "pairs": star(2), **options})


@pytest.mark.parametrize("differences", [[0.1] * 7, [0.1] * 5 + [math.inf]])
def test_sequential_decides_at_looks_only(differences: list[float]) -> None:
    with pytest.raises(AblationError, match=r"the looks are at \(6, 8\)"):
        Sequential((6, 8), star(2)).decide(differences)


# Files


def write(path: Path, text: str) -> Path:
    file = path / "runs.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_read_runs_csv_reads_percent_and_factors(tmp_path: Path) -> None:
    text = "\ufeffseed,arm,se,value\n0,full,yes,93.5\n1,full,yes,93.1\n0,cut,no,92\n1,cut,no,91\n"
    runs = read_runs_csv(write(tmp_path, text))
    assert runs.values == {
        "full": pytest.approx({0: 0.935, 1: 0.931}),
        "cut": pytest.approx({0: 0.92, 1: 0.91}),
    }
    assert (runs.base, runs.unit) == ("full", "percent")
    assert runs.levels == {"full": {"se": "yes"}, "cut": {"se": "no"}}
    assert compare(runs.values, runs.base)[0].effect == pytest.approx(-0.018)


def test_read_runs_csv_prefers_the_arm_called_base(tmp_path: Path) -> None:
    text = "arm,seed,value\nx,0,0.9\nx,1,0.9\nbase,0,0.8\nbase,1,0.8\n"
    file = write(tmp_path, text)
    assert read_runs_csv(file).base == "base"
    assert read_runs_csv(file, base="x").base == "x"
    assert read_runs_csv(file).unit == "fraction"
    assert read_runs_csv(file).levels == {}
    assert read_runs_csv(file, unit="percent").values["x"][0] == pytest.approx(0.009)


GOOD = "a,0,0.5\na,1,0.5\nb,0,0.6\nb,1,0.6\n"
BAD_FILES = {
    "arm,seed\n": "1: needs arm, seed, value, has no 'value': columns 'arm,seed'",
    "": "1: needs arm, seed, value, has no 'arm': an empty file",
    "arm,seed,value\n": "holds no runs",
    "arm,seed,value,se,se\n": "1: column names must be different",
    f"arm,seed,value\n{GOOD}b,2,high\n": "6: value 'high' is not a number",
    f"arm,seed,value\n{GOOD}b,2,nan\n": "6: value 'nan' is not a number",
    f"arm,seed,value\n{GOOD}b,2,\n": "6: value '' is not a number",
    f"arm,seed,value\n{GOOD}b,one,0.5\n": "6: seed 'one' is not a whole number",
    f"arm,seed,value\n{GOOD}b,1.5,0.5\n": "6: seed '1.5' is not a whole number",
    f"arm,seed,value\n{GOOD}b,2,-0.1\n": r"6: value -0.1 is no top-1, 0 to 1",
    f"arm,seed,value\n{GOOD}b,1,0.7\n": "6: arm 'b' has seed 1 twice",
    f"arm,seed,value\n{GOOD}b,2,93\n": "2: value 0.5 looks like a fraction, 93 in .*:6 like a perc",
    f"arm,seed,value\n{GOOD}b,2\n": "6: has more or fewer cells",
    f"arm,seed,value\n{GOOD}b,2,0.5,1\n": "6: has more or fewer cells",
    f"arm,seed,value\n{GOOD},2,0.5\n": "6: the arm has no name",
    f'arm,seed,value\n{GOOD}"b,2,0.5\n': "not valid CSV",
    f"arm,seed,value\n{GOOD}c,1,0.5\n": "arm 'c' shares 1 seed with base 'a'; needs two",
    f"arm,seed,value\n{GOOD}c,7,0.5\nc,1,0.5\n": "arm 'c' shares 1 seed with base 'a'; needs two",
    "arm,seed,value\na,0,0.5\na,1,0.5\n": "holds the arm 'a' alone",
    "arm,seed,value,se\na,0,0.5,y\na,1,0.5,n\n": "3: arm 'a' has two values of 'se'",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items())
def test_read_runs_csv_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AblationError, match=message):
        read_runs_csv(write(tmp_path, text))


def test_read_runs_csv_refuses_other_encodings_bases_and_units(tmp_path: Path) -> None:
    file = write(tmp_path, f"arm,seed,value\n{GOOD}")
    with pytest.raises(AblationError, match="no base arm 'c'; the arms are a, b"):
        read_runs_csv(file, base="c")
    with pytest.raises(NasattnError, match="unknown unit 'percents'; did you mean 'percent'"):
        read_runs_csv(file, unit="percents")
    file.write_bytes("arm,seed,value\ncaf\xe9,0,0.5\n".encode("latin-1"))
    with pytest.raises(AblationError, match="2: is not UTF-8"):
        read_runs_csv(file)
    with pytest.raises(AblationError, match="cannot be read"):
        read_runs_csv(tmp_path)

"""Searches whose truth is known: their truth, and the program that compares samplers on them."""

import csv
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

pytest.importorskip("moocore", reason="moocore is not installed")

from benchmarks import search as compare
from benchmarks import search_problems as problems
from benchmarks.search_problems import Params, Problem

Floats = NDArray[np.float64]
SHARED = Path(__file__).parents[2] / "shared"
TABLE = SHARED / "data/nas/nas_bench_macro_cifar10.parquet"
MADE_UP = ("interactions", "conditional30")
NAMES = (
    pytest.param(
        "nas_bench_macro",
        marks=pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE} is not here"),
    ),
    *MADE_UP,
)
with_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE} is not here")


@pytest.fixture(params=NAMES)
def problem(request: pytest.FixtureRequest) -> Problem:
    return problems.PROBLEMS[request.param](TABLE)


def random_networks(problem: Problem, n: int, seed: int = 0) -> list[Params]:
    """Params drawn uniformly, choice by choice."""
    rng = random.Random(seed)
    flats = [
        {name: rng.choice(problems.grid(d)) for name, d in problem.distributions.items()}
        for _ in range(n)
    ]
    return [problem.decode(flat) for flat in flats]


# ---------------------------------------------------------------------------------------------
# Hypervolume


def brute_force(points: Floats) -> float:
    """Volume of the union of the boxes from points to 1, by inclusion and exclusion."""
    total = 0.0
    for n in range(1, len(points) + 1):
        for some in itertools.combinations(points, n):
            total -= (-1) ** n * np.prod(np.clip(1 - np.max(some, axis=0), 0, None))
    return total


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_equals_a_brute_force(objectives: int, seed: int) -> None:
    scaled = np.random.default_rng(seed).uniform(0, 1.3, (7, objectives))  # some past the reference
    low, high = np.arange(objectives) - 5.0, np.arange(objectives) * 3 + 2.0
    points = low + scaled * (high - low)
    result = problems.hypervolume(points, tuple(low), tuple(high))
    assert result == pytest.approx(brute_force(scaled))


def test_hypervolume_of_points_past_the_reference_is_zero() -> None:
    assert problems.hypervolume(np.array([[1.0, 0.0], [0.2, 1.5]]), (0.0, 0.0), (1.0, 1.0)) == 0


# ---------------------------------------------------------------------------------------------
# Every problem


def test_problem_exact_objectives_are_those_of_a_trial(problem: Problem) -> None:
    for params in random_networks(problem, 50):
        for i, function in problem.exact.items():
            assert function(params) == problem.evaluate(params, 3)[i] == problem.true(params)[i]


def test_problem_evaluate_repeats_and_differs_by_seed(problem: Problem) -> None:
    networks = [p for p in random_networks(problem, 50) if problem.true(p)[0] < 90]
    for params in networks:
        assert problem.evaluate(params, 1) == problem.evaluate(dict(params), 1)
    if problem.name in MADE_UP:
        assert all(problem.evaluate(p, 1)[0] != problem.evaluate(p, 2)[0] for p in networks)


@pytest.mark.parametrize(("name", "spread"), [("interactions", 0.21), ("conditional30", 0.25)])
def test_problem_noise_is_unbiased_and_as_large_as_said(name: str, spread: float) -> None:
    problem = problems.PROBLEMS[name](None)
    networks = [p for p in random_networks(problem, 2000) if problem.true(p)[0] < 90]
    noise = np.array([problem.evaluate(p, 5)[0] - problem.true(p)[0] for p in networks])
    assert abs(noise.mean()) < 4 * spread / len(noise) ** 0.5
    assert noise.std() == pytest.approx(spread, rel=0.08)  # 4 standard errors: 1 / sqrt(2 * 2000)


def test_problem_evaluate_takes_numpy_scalars(problem: Problem) -> None:
    for params in random_networks(problem, 20):
        scalars = {name: np.array([value])[0] for name, value in params.items()}
        assert problem.evaluate(scalars, 1) == problem.evaluate(params, 1)
        assert problem.identity(scalars) == problem.identity(params)


def test_problem_identity_is_equal_only_for_equal_networks(problem: Problem) -> None:
    seen: dict[Any, Any] = {}
    for params in random_networks(problem, 1000):
        values = problem.true(params), problem.evaluate(params, 0)
        assert seen.setdefault(problem.identity(params), values) == values


def test_problem_suggest_equals_its_flat_space(problem: Problem) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        trial = study.ask()
        params = problem.suggest(trial)
        assert params == trial.params
        assert {name: problem.distributions[name] for name in params} == trial.distributions
        low = {name: problems.grid(d)[0] for name, d in problem.distributions.items()}
        assert problem.decode(low | params) == params


def test_problem_share_is_monotone_and_at_most_one(problem: Problem) -> None:
    networks = random_networks(problem, 300)
    shares = [problem.hypervolume_share(networks[:n]) for n in (0, 1, 30, 300)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert 0.3 < shares[-1] < 1


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (CategoricalDistribution(("b", "a")), ("b", "a")),
        (optuna.distributions.IntDistribution(4, 16, step=4), (4, 8, 12, 16)),
        (FloatDistribution(1.0, 2.0, step=0.5), (1.0, 1.5, 2.0)),
    ],
)
def test_grid_has_every_value(distribution: BaseDistribution, values: Sequence[Any]) -> None:
    assert problems.grid(distribution) == values


# ---------------------------------------------------------------------------------------------
# NAS-Bench-Macro


@with_table
def test_nas_bench_macro_share_of_the_whole_table_is_one() -> None:
    problem = problems.nas_bench_macro(TABLE)
    names = list(problem.distributions)
    networks = [
        dict(zip(names, code, strict=True)) for code in itertools.product((0, 1, 2), repeat=8)
    ]
    assert len({problem.identity(params) for params in networks}) == 3969  # the paper's figure
    assert problem.hypervolume_share(networks) == pytest.approx(1)


@with_table
def test_nas_bench_macro_share_is_as_defined() -> None:
    """Of the network 00000000 and the best one: e and f by hand from the table."""
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(TABLE).set_index("arch")
    problem = problems.nas_bench_macro(TABLE)
    top, floor = table["test_acc_mean"].max(), np.percentile(table["test_acc_mean"], 1)
    least, most = table["flops"].min(), table["flops"].max()
    code = "22212202"  # the best; e = 0
    f = (table.loc[code, "flops"] - least) / (most - least)
    middle = table.loc["11111111"]
    e_2 = (top - middle["test_acc_mean"]) / (top - floor)
    f_2 = (middle["flops"] - least) / (most - least)
    networks = [
        {f"block{i}": int(digit) for i, digit in enumerate(row)} for row in (code, "11111111")
    ]
    own = (1 - f) + (f - f_2) * (1 - e_2)  # two boxes, the second less what the first has
    assert problem.hypervolume_share(networks) * problem.volume == pytest.approx(own)
    run_0 = 100 - table.loc[code, "test_acc_run0"]
    assert problem.evaluate(networks[0], 7)[0] == pytest.approx(run_0)


def test_nas_bench_macro_without_a_table_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="needs the path"):
        problems.nas_bench_macro(None)


# ---------------------------------------------------------------------------------------------
# Interactions


def additive_fit(values: Floats, working: NDArray[np.bool_]) -> float:
    """R^2 of least squares on one-hot choices, over a sample of the networks."""
    rng = np.random.default_rng(0)
    index = rng.choice(np.flatnonzero(working), 20_000, replace=False)
    choices = np.unravel_index(index, values.shape)
    hot = np.column_stack(
        [np.ones(len(index))]
        + [c == k for c, n in zip(choices, values.shape, strict=True) for k in range(1, n)]
    ).astype(float)
    y = values.ravel()[index]
    left = y - hot @ np.linalg.lstsq(hot, y, rcond=None)[0]
    return float(1 - left.var() / y.var())


def test_interactions_are_not_additive() -> None:
    error, _ = problems.interaction_tables()
    # The variance of single choices is 0.2 of the whole, by construction.
    assert additive_fit(error, error < 90) == pytest.approx(0.2, abs=0.03)


def test_interactions_break_two_in_a_hundred_whatever_the_seed() -> None:
    problem = problems.interactions()
    error, _ = problems.interaction_tables()
    assert (error == 90).mean() == pytest.approx(0.02, abs=0.001)
    assert error[error < 90].max() < 30
    broken = [p for p in random_networks(problem, 1000) if problem.true(p)[0] == 90]
    assert 5 <= len(broken) <= 40
    assert {problem.evaluate(p, seed)[0] for p in broken for seed in range(3)} == {90.0}


def test_interactions_front_is_that_of_all_networks() -> None:
    """By walking up the multiply-adds: the area that each better network adds."""
    problem = problems.interactions()
    error, macs = (table.ravel() for table in problems.interaction_tables())
    order = np.lexsort((error, macs))
    e = (error[order] - problem.low[0]) / (problem.high[0] - problem.low[0])
    f = (macs[order] - problem.low[1]) / (problem.high[1] - problem.low[1])
    lowest = np.minimum.accumulate(np.minimum(e, 1))
    area = np.sum(np.diff(np.append(f, 1)) * (1 - lowest))
    assert problem.volume == pytest.approx(area)


# ---------------------------------------------------------------------------------------------
# 30 parameters


def test_conditional30_has_thirty_parameters_of_which_some_mean_something() -> None:
    problem = problems.conditional30()
    least = {name: problems.grid(d)[0] for name, d in problem.distributions.items()}
    most = {name: problems.grid(d)[-1] for name, d in problem.distributions.items()}
    # Stem and pool; a stage: width, depth, attention, a kernel. Then two kernels and an option
    # more in each stage, and the power.
    assert len(problem.decode(least)) == 2 + 3 * 4
    assert len(problem.decode(most)) == 2 + 3 * 7 + 1
    assert {len(params) for params in random_networks(problem, 500)} <= set(range(14, 25))
    assert len(problem.distributions) == 30


def test_conditional30_pooling_of_power_one_is_the_average() -> None:
    problem = problems.conditional30()
    network = random_networks(problem, 1)[0] | {"head.pool": "gem", "head.p": 1.0}
    average = {k: v for k, v in network.items() if k != "head.p"} | {"head.pool": "avg"}
    assert problem.identity(network) == problem.identity(average)
    assert problem.true(network) == problem.true(average)


def test_conditional30_latency_is_no_multiple_of_macs() -> None:
    problem = problems.conditional30()
    _, macs, ms = np.array([problem.true(p) for p in random_networks(problem, 500)]).T
    ratio = ms / macs
    assert np.percentile(ratio, 95) > 1.5 * np.percentile(ratio, 5)


def test_conditional_front_equals_an_enumeration() -> None:
    """Two kinds of stage and two heads at all widths: 192 * 8 * 2 networks, one by one."""
    stages: list[problems.Stage] = [
        ((5,), "se", 8),
        ((7, 5, 3), "light", 4),
    ]
    heads = [("avg", 1.0), ("gem", 3.0)]
    problem = problems.conditional30()
    front = problems.conditional_front(stages, heads)
    networks = [
        as_params(stem, widths, kinds, head)
        for stem in problems.STEMS
        for widths in itertools.product(*problems.STAGE_WIDTHS)
        for kinds in itertools.product(stages, repeat=3)
        for head in heads
    ]
    points = np.array([problem.true(params) for params in networks])
    assert len(points) == 192 * 8 * 2
    on_front = {tuple(row) for row in points[undominated(points)].round(9).tolist()}
    assert {tuple(row) for row in front.round(9).tolist()} == on_front


def as_params(
    stem: int,
    widths: Sequence[int],
    stages: Sequence[problems.Stage],
    head: problems.Head,
) -> Params:
    params: Params = {"stem.width": stem, "head.pool": head[0]}
    if head[0] == "gem":
        params["head.p"] = head[1]
    for i, (width, (kernels, kind, option)) in enumerate(zip(widths, stages, strict=True)):
        params |= {f"stage{i}.width": width, f"stage{i}.depth": len(kernels)}
        params |= {f"stage{i}.kernel{j}": kernel for j, kernel in enumerate(kernels)}
        params[f"stage{i}.attention"] = kind
        if kind in problems.OPTIONS:
            params[f"stage{i}.{kind}.{problems.OPTIONS[kind][0]}"] = option
    return params


def undominated(points: Floats) -> NDArray[np.bool_]:
    """Rows that no other row is below in one objective and above in none, by definition."""
    rounded = points.round(9)
    return np.array(
        [not ((rounded <= row).all(axis=1) & (rounded < row).any(axis=1)).any() for row in rounded]
    )


def test_conditional30_front_is_not_passed_by_a_search() -> None:
    problem = problems.conditional30()
    sampler = optuna.samplers.NSGAIISampler(seed=0, population_size=20)
    run = compare.search(problem, "", compare.Sampler(compare.by_optuna(lambda _: sampler), ""), 0)
    front = problems.conditional_front(tuple(problems.all_stages()), tuple(problems.all_heads()))
    for params in run.networks:
        assert (front <= np.array(problem.true(params)) + 1e-9).all(axis=1).any()


# ---------------------------------------------------------------------------------------------
# The comparison


@pytest.mark.parametrize("name", [n for n in compare.SAMPLERS if n not in ("gp", "ehvi")])
@pytest.mark.filterwarnings("ignore")  # Optuna's and others' warnings of what is experimental
@pytest.mark.slow
def test_search_by_every_sampler_repeats(name: str) -> None:
    sampler = compare.SAMPLERS[name]
    if not compare.installed(sampler):
        pytest.skip(f"{name} is not installed")
    problem = problems.conditional30()
    run, again = (compare.search(problem, name, sampler, 4, n_trials=25) for _ in range(2))
    assert run.networks == again.networks
    assert all(problem.decode(params) == params for params in run.networks)
    other = compare.search(problem, name, sampler, 5, n_trials=25)
    assert other.networks != run.networks


def test_run_counts_duplicates_by_network() -> None:
    problem = problems.conditional30()
    a, b = random_networks(problem, 2)
    gem = a | {"head.pool": "gem", "head.p": 1.0}
    average = {k: v for k, v in gem.items() if k != "head.p"} | {"head.pool": "avg"}
    run = compare.Run(problem, "", 0, (gem, b, average, b), (1.0, 2.0, 3.0, 9.0))
    assert run.duplicates() == 0.5
    assert run.late_milliseconds() == 9.0


def test_interval_is_students() -> None:
    # mean 2, standard deviation 1, n = 3: t(0.975, 2) = 4.303
    assert str(compare.interval([1.0, 2.0, 3.0])) == f"2.000 ± {4.303 / 3**0.5:.3f}"
    assert str(compare.interval([0.5])) == "0.500"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of 20 trials."""
    monkeypatch.setattr(compare, "search", short_search)


def short_search(problem: Problem, name: str, sampler: compare.Sampler, seed: int) -> compare.Run:
    return SEARCH(problem, name, sampler, seed, n_trials=20)


SEARCH = compare.search


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore")
def test_main_resumes_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    arguments = ["--problems", "conditional30", "--samplers", "random", "nsga2", "--seeds", "2"]
    arguments += ["--runs", str(runs), "--out", str(out)]
    compare.main(arguments)
    files = sorted(runs.rglob("*"))
    assert sum(path.suffix == ".csv" for path in files) == 4
    assert not any(path.suffix == ".part" for path in files)
    first = (out / "search.md").read_text(encoding="utf-8")
    assert "| random | 2 |" in first
    assert (out / "search.svg").is_file()
    assert "conditional30 nsga2 seed 1" in capsys.readouterr().out

    missing = runs / "conditional30" / "nsga2" / "1.csv"
    missing.unlink()
    asked: list[tuple[str, int]] = []

    def count(problem: Problem, name: str, sampler: compare.Sampler, seed: int) -> compare.Run:
        asked.append((name, seed))
        return short_search(problem, name, sampler, seed)

    monkeypatch.setattr(compare, "search", count)
    compare.main(arguments)
    assert asked == [("nsga2", 1)]
    assert missing.is_file()


def test_read_run_gives_back_what_was_written(tmp_path: Path) -> None:
    problem = problems.conditional30()
    run = SEARCH(problem, "random", compare.SAMPLERS["random"], 3, n_trials=5)
    path = tmp_path / "deep" / "3.csv"
    compare.write_run(run, path)
    again = compare.read_run(problem, "random", 3, path)
    assert again.networks == run.networks
    assert again.milliseconds == pytest.approx(run.milliseconds, abs=0.001)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    errors = [problem.evaluate(params, 3)[0] for params in run.networks]
    assert [float(row["error"]) for row in rows] == errors


def test_read_run_refuses_a_run_of_another_problem(tmp_path: Path) -> None:
    problem = problems.conditional30()
    path = tmp_path / "3.csv"
    compare.write_run(SEARCH(problem, "random", compare.SAMPLERS["random"], 3, n_trials=2), path)
    with pytest.raises(ValueError, match="has changed since"):
        compare.read_run(problem, "random", 4, path)  # the noise of another seed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--problems", "nas_bench_macro"], "needs --table"),
        (["--problems", "other"], "invalid choice"),
        (["--problems", "interactions", "--seeds", "0"], "at least 1"),
        (["--samplers", "annealing"], "invalid choice"),
    ],
)
def test_read_arguments_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.read_arguments(arguments)
    assert message in capsys.readouterr().err

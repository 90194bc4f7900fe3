"""The charts of a search: what they say, and both ways of drawing them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import spearmanr

from nasattn.baselines import get_baseline
from nasattn.objectives import OBJECTIVES, Direction
from nasattn.report.canvas import image
from nasattn.report.charts.chart import (
    Axis,
    Band,
    Bars,
    Chart,
    Coordinates,
    Line,
    Points,
    Scale,
    label_sides,
)
from nasattn.report.charts.chart import (
    Path as Route,
)
from nasattn.report.charts.hypervolume_chart import growth
from nasattn.report.charts.importance import columns, measure_importance
from nasattn.report.charts.latency_chart import spearman
from nasattn.report.charts.parameter_groups import GROUPS, OTHER, group_of
from nasattn.report.charts.plotly_chart import plotly_figure, safe
from nasattn.report.charts.search_charts import CHARTS, search_charts
from nasattn.report.charts.static_chart import static_figure
from nasattn.search.control import SUFFIX, read_control
from nasattn.search.fronts import hypervolume
from nasattn.space import load_space
from nasattn.testing import FakeEvaluator
from tests.test_search import LADDER, Search

SPACES = sorted(path.stem for path in (Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))
NAMES = ("top1", "macs", "latency_ms")
TWO = NAMES[:2]
LAM = get_baseline("lam").architecture.to_json()
MAXIMISED = ("top1", "score")
ODD = 'a <b>bold</b> & "quoted" $x$ %{y}'
Z = 1.96


def study(
    trials: Sequence[FrozenTrial] = (), names: Sequence[str] = NAMES, name: str = "s"
) -> optuna.Study:
    directions: list[Direction] = ["maximize" if n in MAXIMISED else "minimize" for n in names]
    made = optuna.create_study(study_name=name, directions=directions)
    storage = made._storage
    storage.set_study_system_attr(made._study_id, "study:metric_names", list(names))
    made.add_trials(list(trials))
    return made


def trial(
    top1: float | None = 0.9,
    macs: float = 1e6,
    latency_ms: float = 1.0,
    names: Sequence[str] = NAMES,
    state: TrialState = TrialState.COMPLETE,
    params: dict[str, Any] | None = None,
    distributions: dict[str, BaseDistribution] | None = None,
    **attributes: Any,
) -> FrozenTrial:
    """A finished trial as nasattn's search leaves it; top1 None: never trained."""
    found = {"macs": macs, "latency_ms": latency_ms} | ({} if top1 is None else {"top1": top1})
    told = [found[name] for name in names] if state == TrialState.COMPLETE else None
    usual = {"values": found, "reason": "", "arch_id": f"{hash((top1, macs)) % 16**12:012x}"}
    usual |= {"architecture": LAM}
    return create_trial(
        state=state,
        values=told,
        params=params or {},
        distributions=distributions or {},
        user_attrs=usual | attributes,
    )


def pruned(reason: str = "breaks macs<=1", **attributes: Any) -> FrozenTrial:
    return trial(None, state=TrialState.PRUNED, reason=reason, **attributes)


def mark(chart: Chart, name: str) -> Any:
    return next(one for one in chart.marks if getattr(one, "name", "") == name)


def many(n: int, **attributes: Any) -> list[FrozenTrial]:
    """Trials that nothing is equal in."""
    rng = np.random.default_rng(0)
    macs = rng.uniform(1e6, 1e8, n)
    noise = rng.normal(0, 0.01, n)
    return [
        trial(float(0.5 + m / 4e8 + e), float(m), float(m / 1e7 + 1 + 10 * e), **attributes)
        for m, e in zip(macs, noise, strict=True)
    ]


@pytest.fixture(scope="module")
def rich() -> optuna.Study:
    """A study with something for every chart."""
    curve = [[2.0, 0.3], [1.0, 0.5]]
    trials = many(40, curve=curve)
    kind = "stages.0.attention.kind"
    for one in trials:
        one.params = {kind: "se" if one.values[0] > 0.6 else "none"}
        one.distributions = {kind: CategoricalDistribution(["none", "se"])}
    trials += [
        trial(0.55, 2e7, 3.0, baseline=ODD, curve=curve),
        pruned("breaks macs<=1"),
        pruned("stopped after epoch 1", stopped_after=1, curve=[[2.0, 0.3]]),
        trial(None, state=TrialState.FAIL, reason="out of memory: tried 3 GiB"),
        trial(0.55, 2e7, 3.0, duplicate_of=40),
    ]
    made = study(trials, name=ODD)
    made.set_user_attr("n_val", 100)
    return made


@pytest.fixture(scope="module")
def rich_charts(rich: optuna.Study) -> dict[str, Chart]:
    before = rich.user_attrs, len(rich.trials)
    charts = search_charts(rich)
    assert (rich.user_attrs, len(rich.trials)) == before  # it only reads
    return charts


def test_search_charts_has_one_of_each_row(rich_charts: dict[str, Chart]) -> None:
    assert rich_charts.keys() == {
        "front-top1-macs",
        "front-top1-latency_ms",
        "progress",
        "networks",
        "importance-top1",
        "importance-latency_ms",
        "latency_ms-macs",
        "curves",
        "outcomes",
    }
    assert len(CHARTS) == 7


def test_search_charts_say_n_and_units(rich_charts: dict[str, Chart]) -> None:
    for name, chart in rich_charts.items():
        assert chart.caption.startswith("n = "), name
        if not any(isinstance(one, Coordinates) for one in chart.marks):
            for axis in (chart.x, chart.y):
                assert axis.unit or axis.names, name


def test_front_chart_is_in_percent_and_millions() -> None:
    # 0.8 at 1 M and 0.9 at 2 M beat 0.7 at 3 M
    made = study(
        [trial(0.8, 1e6, names=TWO), trial(0.9, 2e6, names=TWO), trial(0.7, 3e6, names=TWO)], TWO
    )
    made.set_user_attr("n_val", 50)
    chart = search_charts(made)["front-top1-macs"]
    front, rest = mark(chart, "front"), mark(chart, "trained")
    assert (front.x, front.y) == ((1, 2), (80, 90))
    assert (rest.x, rest.y, rest.keys) == ((3,), (70,), (2,))
    assert (chart.x.title, chart.y.title) == ("multiply-adds (M)", "top-1 (%)")
    edge = mark(chart, "front's edge")
    assert (edge.x, edge.y, edge.steps) == ((1, 2), (80, 90), True)
    # Wilson's interval of 45 of 50
    p, n = 0.9, 50
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    assert front.y_bars[1] == pytest.approx((100 * (middle - half), 100 * (middle + half)))
    assert "Wilson" in chart.caption
    assert "50 val-search pictures" in chart.caption


def test_front_chart_scales_the_interval_of_the_ratio_to_milliseconds() -> None:
    facts = {"latency_ms": {"relative": 0.5, "interval": [0.45, 0.6]}}
    made = study([trial(latency_ms=4.0, latency=facts)])
    front = mark(search_charts(made)["front-top1-latency_ms"], "front")
    # 8 ms a unit of the ratio
    assert front.x_bars[0] == pytest.approx((3.6, 4.8))
    assert front.y_bars == (None,)  # without n_val


def test_front_chart_of_three_objectives_joins_the_best_of_two() -> None:
    made = study([trial(0.9, 1e6, 3.0), trial(0.8, 2e6, 1.0)])
    chart = search_charts(made)["front-top1-macs"]
    assert len(mark(chart, "front").x) == 2
    assert not any(isinstance(one, Line) for one in chart.marks)  # one point is no line
    other = search_charts(made)["front-top1-latency_ms"]
    assert mark(other, "best of these two").x == (1.0, 3.0)


def test_front_chart_takes_the_mean_over_fresh_seeds() -> None:
    made = study([trial(0.95, 1e6, names=TWO, arch_id="a" * 12)], TWO)
    runs = {"1": {"top1": 0.8}, "2": {"top1": 0.9}}
    made.set_user_attr("selection", {"a" * 12: runs})
    chart = search_charts(made)["front-top1-macs"]
    front = mark(chart, "front")
    assert front.y == pytest.approx((85.0,))
    # t(0.975, 1) = 12.706; s / sqrt(2) = 0.05
    assert front.y_bars[0] == pytest.approx((85 - 63.53, 85 + 63.53), abs=0.01)
    assert "search said top-1 95.0 %" in front.hover[0]
    assert "Student" in chart.caption


def test_front_chart_leaves_out_a_few_that_came_to_nothing_and_says_so() -> None:
    made = study([*many(99), trial(0.1, 5e7, 6.0)])
    chart = search_charts(made)["front-top1-macs"]
    assert chart.y.low is not None
    assert 20 < chart.y.low < 51
    assert "1 are below" in chart.caption
    assert search_charts(study(many(99)))["front-top1-macs"].y.low is None


def test_front_chart_counts_what_cannot_be_drawn() -> None:
    made = study([*many(3), pruned(), pruned(reason="cannot be built: x")])
    assert "2 over a limit were never trained" in search_charts(made)["front-top1-macs"].caption


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_growth_is_the_hypervolume_of_all_points_so_far(n_objectives: int) -> None:
    points = np.random.default_rng(0).random((60, n_objectives))
    low, high = points.min(axis=0), points.max(axis=0)
    ends = [0, 1, 2, 2, 17, 60]
    expected = [hypervolume(points[:end], low, high) if end else 0.0 for end in ends]
    assert growth(points, low, high, ends) == pytest.approx(expected)


def test_progress_ends_at_the_control_s_hypervolumes() -> None:
    settings = {"sampler": "cost_aware"}
    storage = optuna.storages.InMemoryStorage()
    directions: list[Direction] = ["maximize", "minimize"]
    made = optuna.create_study(study_name="s", directions=directions, storage=storage)
    beside = optuna.create_study(study_name=f"s{SUFFIX}", directions=directions, storage=storage)
    for one, sampler, trials in (
        (made, "cost_aware", many(30, names=TWO)),
        (beside, "random", many(12, names=TWO)[6:]),
    ):
        storage.set_study_system_attr(one._study_id, "study:metric_names", list(TWO))
        one.set_user_attr("settings", settings | {"sampler": sampler})
        one.add_trials(trials)
    control = read_control(made, (OBJECTIVES["top1"], OBJECTIVES["macs"]))
    assert control is not None
    own, random = (cast(Line, one) for one in search_charts(made)["progress"].marks)
    assert (own.x[-1], random.x[-1]) == (30, 6)
    assert own.y[-1] == pytest.approx(control.search)
    assert random.y[-1] == pytest.approx(control.random)
    assert own.dash != random.dash


def test_progress_of_one_objective_is_its_best_so_far() -> None:
    one = ("top1",)
    made = study([trial(x, names=one) for x in (0.5, 0.4, 0.7, 0.6)], one)
    chart = search_charts(made)["progress"]
    (line,) = chart.marks
    assert isinstance(line, Line)
    assert line.x == (1, 3, 4)
    assert line.y == pytest.approx((50, 70, 70))
    assert chart.y.title == "top-1 (%)"


@pytest.mark.parametrize("space", SPACES)
def test_group_of_knows_every_parameter_of_the_shipped_spaces(space: str) -> None:
    found = load_space(space)
    for name in found.names:
        assert group_of(name) != OTHER, name


def test_group_of_tells_what_a_parameter_is_about() -> None:
    cases = {
        "stages.3.attention.groups": "attention",
        "stages.*.groups": "block",
        "stem.attention.kind": "attention",
        "fusion.attention.kind": "fusion",
        "head.gem_p": "pooling",
        "head.hidden": "head",
        "stages.width": "width",
        "stages.12.depth": "depth",
        "learning_rate": OTHER,
    }
    assert {path: group_of(path) for path in cases} == cases
    assert OTHER not in GROUPS.values()


def test_columns_keep_what_is_absent_apart_and_count_over_stages() -> None:
    kind = CategoricalDistribution(["none", "se"])
    groups = CategoricalDistribution([1, 4])
    depth = IntDistribution(1, 3)
    spaces = {"stages.0.attention.kind": kind, "stages.1.attention.kind": kind}
    one = trial(
        params={"stages.0.attention.kind": "se", "stages.1.attention.kind": "none", "g": 4, "d": 2},
        distributions={**spaces, "g": groups, "d": depth},
    )
    two = trial(
        params={"stages.0.attention.kind": "se", "stages.1.attention.kind": "se", "d": 3},
        distributions={**spaces, "d": depth},
    )
    x, owners = columns([one, two])
    # kind of stage 0 (none, se), of stage 1, g, d, share of each kind over the stages
    assert x.tolist() == [[0, 1, 1, 0, 4, 2, 0.5, 0.5], [0, 1, 0, 1, -1, 3, 0, 1]]
    assert owners == ["attention"] * 4 + [OTHER] * 2 + ["attention"] * 2


def planted(n: int, effect: float, noise: float = 0.05) -> tuple[list[FrozenTrial], list[float]]:
    """Trials in whose attention alone an effect lies."""
    rng = Random(0)
    sampled = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials: list[FrozenTrial] = []
    values: list[float] = []
    while len(trials) < n:
        asked = sampled.ask()
        params = {}
        for name in ("stages.0.attention.kind", "stages.1.attention.kind"):
            params[name] = asked.suggest_categorical(name, ["none", "se", "eca"])
        if params["stages.0.attention.kind"] == "se":  # exists under one kind only
            asked.suggest_categorical("stages.0.attention.rd_ratio", [2, 4, 8])
        for i in range(4):
            asked.suggest_int(f"stages.{i}.depth", 1, 4)
            asked.suggest_int(f"stages.{i}.width", 8, 64, step=8)
            asked.suggest_categorical(f"stages.{i}.kernel", [3, 5, 7])
        asked.suggest_categorical("head.pooling", ["avg", "gem"])
        trials.append(sampled.get_trials(deepcopy=False)[asked.number])
        with_any = sum(kind != "none" for kind in params.values())
        values.append(effect * with_any + rng.gauss(0, noise))
    return trials, values


def test_measure_importance_finds_a_planted_effect_and_no_other() -> None:
    trials, values = planted(120, 0.1)
    found = measure_importance(trials, values)
    assert found is not None
    assert found.r2 > 0.3
    first, *others = found.groups.items()
    assert first[0] == "attention"
    assert first[1][1] > 0.2  # its interval's lower end
    assert {name for name, _ in others} == {"depth", "width", "kernel", "pooling"}
    for _, (mean, low, high) in others:
        assert low <= 0 <= high
        assert abs(mean) < 0.05


def test_measure_importance_of_noise_foretells_nothing() -> None:
    found = measure_importance(*planted(60, 0.0))
    assert found is not None
    assert found.r2 <= 0


def test_measure_importance_is_not_made_by_a_few_collapsed_trainings() -> None:
    trials, values = planted(120, 0.1)
    values[7] = values[50] = -1000
    found = measure_importance(trials, values)
    assert found is not None
    assert found.r2 > 0.25
    assert next(iter(found.groups)) == "attention"


def test_measure_importance_thins_out_many_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.report.charts.importance.MOST", 40)
    found = measure_importance(*planted(90, 0.1))
    assert found is not None
    assert (found.n, found.n_all) == (40, 90)


@pytest.mark.parametrize(
    ("n", "values"), [(19, "different"), (30, "equal")], ids=["too few", "all equal"]
)
def test_importance_chart_has_words_where_there_is_not_enough(n: int, values: str) -> None:
    trials = many(n) if values == "different" else [trial(0.9, 1e6 + i) for i in range(n)]
    for one in trials:
        one.params, one.distributions = {"x": 0.5}, {"x": FloatDistribution(0, 1)}
    chart = search_charts(study(trials))["importance-top1"]
    assert chart.words.startswith("Not enough")
    assert not chart.marks


def test_measure_importance_without_parameters_is_none() -> None:
    assert measure_importance(many(30), list(range(30))) is None


def test_spearman_is_scipy_s() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 40).astype(float)  # with ties
    y = x + rng.normal(0, 2, 40)
    rho, (low, high) = spearman(tuple(x), tuple(y))
    assert rho == pytest.approx(spearmanr(x, y).statistic)
    # Fisher's z with Bonett and Wright's variance
    half = Z * math.sqrt((1 + rho**2 / 2) / 37)
    assert (low, high) == pytest.approx(
        (math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))
    )
    assert spearman((1.0,) * 5, (1.0, 2.0, 3.0, 4.0, 5.0))[1] == (-1, 1)


def test_latency_chart_fits_a_fixed_part_and_one_in_proportion() -> None:
    made = study([trial(0.9, m * 1e6, 2 + 0.5 * m) for m in (1, 2, 4, 8, 16)])
    chart = search_charts(made)["latency_ms-macs"]
    line = mark(chart, "fixed and in proportion")
    assert line.y[0] == pytest.approx(2.5)
    assert line.y[-1] == pytest.approx(10)
    assert "rho 1.00" in chart.title
    assert "2 ms + 0.5 ms" in chart.caption
    assert chart.x.log
    assert chart.y.log


def test_outcome_chart_counts_by_reason(rich_charts: dict[str, Chart]) -> None:
    chart = rich_charts["outcomes"]
    found = {
        chart.y.names[bars.places[0]]: bars.values[0]
        for bars in chart.marks
        if isinstance(bars, Bars)
    }
    assert found == {
        "trained to the end": 41,
        "stopped early": 1,
        "failed: out of memory": 1,
        "not trained: breaks macs<=1": 1,
        "proposed again": 1,
    }


def test_outcome_chart_puts_rare_reasons_together() -> None:
    made = study([pruned(reason=f"breaks macs<={i}") for i in range(9)])
    names = search_charts(made)["outcomes"].y.names
    assert len(names) == 7
    assert names[-1] == "not trained: 3 other reasons"


def test_networks_stand_with_the_better_objectives_on_top(rich_charts: dict[str, Chart]) -> None:
    (found,) = rich_charts["networks"].marks
    assert isinstance(found, Coordinates)
    top1, macs, latency = found.scales[:3]
    assert (top1.place(top1.high), macs.place(macs.high), latency.place(latency.low)) == (1, 0, 1)
    assert all(len(path.values) == len(found.scales) for path in found.paths)
    assert {path.dash for path in found.paths if path.legend == "baseline"} == {"dash"}


@pytest.mark.parametrize(
    ("trials", "names", "expected"),
    [
        ([], NAMES, set()),
        ([trial()], NAMES, {"front-top1-macs", "progress", "outcomes", "importance-top1"}),
        ([pruned(), pruned()], NAMES, {"outcomes"}),
        ([trial(None, state=TrialState.FAIL, reason="x")], NAMES, {"outcomes"}),
        ([trial(names=("top1",))], ("top1",), {"progress", "outcomes", "importance-top1"}),
        (
            [trial(None, m * 1e6, m, names=NAMES[1:]) for m in (1, 2, 3)],
            NAMES[1:],
            {"front-macs-latency_ms", "progress", "outcomes", "importance-latency_ms"},
        ),
        (
            [create_trial(values=[x, 1 - x]) for x in (0.1, 0.2)],
            ("score", "price"),
            {"front-score-price", "progress", "outcomes", "importance-score", "importance-price"},
        ),
    ],
    ids=["none", "one", "infeasible", "failed", "one objective", "no top1", "foreign"],
)
def test_search_charts_cope_with(
    trials: list[FrozenTrial], names: Sequence[str], expected: set[str]
) -> None:
    charts = search_charts(study(trials, names))
    assert expected <= charts.keys()
    assert bool(charts) == bool(expected)
    for chart in charts.values():
        plotly_figure(chart).to_json()
        image(static_figure(chart), "svg")


def test_search_charts_cope_with_values_that_are_no_numbers() -> None:
    odd = trial(0.9, 1e6, values={"top1": math.nan, "macs": 1e6, "latency_ms": 1.0})
    charts = search_charts(study([odd, *many(5)]))
    front = charts["front-top1-macs"]
    xs = [x for one in front.marks if isinstance(one, Points) for x in one.x]
    assert len(xs) == 5
    assert "NaN" not in plotly_figure(front).to_json()


def test_search_charts_cope_with_trials_that_run() -> None:
    made = study(many(5))
    made.ask()
    chart = search_charts(made)["outcomes"]
    assert "running or waiting" in chart.y.names
    assert "1 open" in chart.caption


def test_search_charts_leave_ablations_alone() -> None:
    made = study(many(5))
    made.set_user_attr("settings", {"arms": {}})
    assert search_charts(made) == {}


def test_search_charts_of_a_real_search(tmp_path: Path) -> None:
    search = Search(tmp_path, LADDER, objectives=NAMES)
    search.spec = search.spec.model_copy(update={"objectives": ("top1", "macs")})
    search(FakeEvaluator(n_epochs=2), 8)
    stored = optuna.load_study(study_name="s", storage=search.url)
    charts = search_charts(stored)
    assert {"front-top1-macs", "progress", "curves", "outcomes"} <= charts.keys()
    assert mark(charts["front-top1-macs"], "baseline").labels == ("lam", "lam_ladder")


def test_names_of_charts_do_for_files_and_html() -> None:
    on = "latency_ms@onnxruntime:threads=2"
    trials = [
        create_trial(values=[x, 1 - x], user_attrs={"values": {"top1": x, on: 1 - x}})
        for x in (0.1, 0.2)
    ]
    assert "front-top1-latency_ms-onnxruntime-threads-2" in search_charts(
        study(trials, ("top1", on))
    )


EVERY = Chart(
    ODD,
    f"n = 3; {ODD}",
    Axis(ODD, "M", log=True),
    Axis("top-1", "%"),
    (
        Band(ODD, (1, 10), (1, 2), (3, 4), steps=True),
        Line(ODD, (1, 10), (1, 2), dash="dot", steps=True, hover=ODD),
        Points(ODD, (1, 2), (3, 4), symbol="cross", hover=(ODD, "b\nc"), labels=(ODD, "b")),
        Points("o", (1,), (3,), filled=False, x_bars=((0.5, 2),), y_bars=(None,), keys=(7,)),
    ),
)
BARS = Chart(
    "bars",
    "n = 2",
    Axis("x", "share"),
    Axis("", names=(ODD, "b")),
    (
        Bars("a", (0,), (0.5,), intervals=((-0.1, 0.8),), texts=(ODD,)),
        Bars("b", (1,), (0.2,), hatched=True),
    ),
)
SCALES = (Scale(ODD, "%", 0, 1), Scale("k", "kind", 0, 2, names=("a", ODD, "c")))
PARALLEL = Chart(
    "parallel",
    "n = 1",
    Axis(""),
    Axis(""),
    (Coordinates(SCALES, (Route(ODD, (0.5, 1), "#000000", legend=ODD),)),),
)
WORDS = Chart("words", "n = 1", Axis("x", "u"), Axis("y", "u"), words=f"Not enough {ODD}")


@pytest.mark.parametrize("chart", [EVERY, BARS, PARALLEL, WORDS], ids=lambda c: str(c.title)[:5])
def test_plotly_figure_escapes_every_text(chart: Chart) -> None:
    text = plotly_figure(chart).to_json().encode().decode("unicode_escape")
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold&lt;/b&gt; &amp;" in text
    assert "$" not in text
    assert "&quot;" not in text  # which Plotly would show letter by letter


@pytest.mark.parametrize("chart", [EVERY, BARS, PARALLEL, WORDS], ids=lambda c: str(c.title)[:5])
def test_static_figure_draws_every_mark_the_same_each_time(chart: Chart) -> None:
    first, second = (image(static_figure(chart), "svg") for _ in range(2))
    assert first == second
    assert first.startswith(b"<?xml")
    assert image(static_figure(chart), "png").startswith(b"\x89PNG")


def test_plotly_figure_has_no_values_in_templates_from_names() -> None:
    chart = Chart("t", "n", Axis("%{y}", "M"), Axis("b", "%"), (Points("p", (1,), (2,)),))
    (trace,) = plotly_figure(chart).data
    assert trace.hovertemplate.startswith("% {y}: %{x")


def test_plotly_figure_keeps_trials_for_clicks_and_bars_to_scale() -> None:
    *_, trace = plotly_figure(EVERY).data
    assert list(trace.customdata) == [7]
    assert list(trace.error_x.array) == [1]  # from 1 to 2
    assert list(trace.error_x.arrayminus) == [0.5]
    assert trace.error_y.array is None


@pytest.mark.parametrize(("n", "kind"), [(2000, "scatter"), (5000, "scattergl")])
def test_plotly_figure_of_many_points_is_small(n: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n)).tolist()
    hover = tuple(f"{i:012x}, trial {i}" for i in range(n))
    points = Points("p", tuple(x), tuple(y), hover=hover, keys=tuple(range(n)))
    figure = plotly_figure(Chart("t", f"n = {n}", Axis("x", "M"), Axis("y", "%"), (points,)))
    assert figure.data[0].type == kind
    text = figure.to_json()
    assert len(text) < 700_000
    assert json.loads(text)["data"][0]["x"][0] == pytest.approx(x[0], rel=1e-4)


def test_safe_keeps_lines() -> None:
    assert safe("a\n<b>") == "a<br>&lt;b&gt;"


def test_label_sides_keep_labels_apart() -> None:
    points = Points("p", (1, 1.01, 5), (1, 1.001, 3), labels=("a", "b", "c"))
    chart = Chart("t", "n", Axis("x", "u"), Axis("y", "u"), (points,))
    first, second, last = label_sides(points, chart)
    assert first != second
    assert last[0]  # at the right end: to the left


def test_scale_of_equal_values_is_in_the_middle() -> None:
    assert Scale("a", "u", 2, 2).place(2) == 0.5

"""A search by time: its plan, the probe that it rests on, and that it ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.errors import StudyError
from nasattn.evaluate import Evaluation, OnEpoch, Setting, Stops, TrainingEvaluator
from nasattn.objectives import get_objective
from nasattn.search import probe as probing
from nasattn.search.driver import Ending
from nasattn.search.plan import PLANS, USED, Deadline, Pace, make_plan
from nasattn.search.probe import epoch_steps, probe, training_seconds
from nasattn.search.run import run_search
from nasattn.search.spec import StudySpec, load_study_spec
from nasattn.search.storage import artifact_dir, open_study, read_study
from nasattn.search.trials import counts
from nasattn.spec import read_seconds, write_seconds
from nasattn.testing import FakeEvaluator, tiny_data
from nasattn.train.loop import train_model
from nasattn.train.recipe import RECIPES, Recipe
from tests.test_search import DIRECTIONS, FEW, LADDER, Quiet

PACE = Pace(training=10.0, measuring=0.0, baselines=30.0, n_baselines=3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("0h5m", 300)],
)
def test_read_seconds_reads_times(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds
    assert read_seconds(write_seconds(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "30m1h", "1.5h", "-3m", "30 m", 30, None])
def test_read_seconds_refuses_what_is_no_time(text: object) -> None:
    with pytest.raises(StudyError, match="must be a time like 90s, 30m, 2h or 1h30m, is"):
        read_seconds(text)


def by_time(budget: str, **options: Any) -> StudySpec:
    return StudySpec.model_validate({"budget": budget, **options})


@pytest.mark.parametrize(
    ("budget", "n_jobs", "finalists", "seeds", "early_stop", "n_trials"),
    [
        ("50s", 1, 1, 1, "none", 3 + 1),  # of 50 s 10 for the finalist, 30 for the baselines
        ("100s", 1, 2, 1, "none", 3 + 5),  # 20, 30
        ("200s", 1, 3, 2, "none", 3 + 11),  # 60, 30
        ("10m", 1, 6, 3, "rank", 3 + 39),  # 180, 30
        ("5m", 2, 6, 3, "rank", 3 + 39),
        ("1h", 1, 8, 6, "rank", 3 + 309),  # 480, 30
        ("5s", 1, 1, 1, "none", 3),  # the first network comes, however late
    ],
)
def test_make_plan_spends_the_time(
    budget: str, n_jobs: int, finalists: int, seeds: int, early_stop: str, n_trials: int
) -> None:
    plan = make_plan(by_time(budget), pace=PACE, n_jobs=n_jobs)
    assert (plan.finalists, plan.seeds) == (finalists, seeds)
    assert (plan.early_stop, plan.estimator) == (early_stop, None)
    assert plan.n_trials == n_trials
    spec = plan.of(by_time(budget))
    assert (spec.n_trials, spec.n_finalists, spec.n_seeds) == (n_trials, finalists, seeds)
    assert (spec.estimator, spec.early_stop) == (None, early_stop)


def test_make_plan_counts_what_was_used() -> None:
    plan = make_plan(by_time("200s"), pace=PACE, used=100.0, done=8)
    assert plan.n_trials == 8 + 4  # of 100 s 60 are for the finalists; the baselines are done
    assert (plan.search, plan.selection) == (40.0, 60.0)
    plan = make_plan(by_time("200s"), pace=PACE, used=900.0, done=8)
    assert (plan.n_trials, plan.search, plan.selection) == (8, 0.0, 0.0)


def test_make_plan_leaves_what_was_said() -> None:
    options = {"finalists": 2, "n_seeds": 0, "early_stop": "none"}
    plan = make_plan(by_time("10m", **options), pace=PACE)
    assert (plan.finalists, plan.seeds, plan.early_stop, plan.estimator) == (2, 0, "none", None)
    assert plan.n_trials == 3 + 57
    plan = make_plan(by_time("50s", estimator="naswot"), pace=PACE)
    assert (plan.early_stop, plan.estimator) == ("rank", "naswot")


def test_plans_are_in_their_order() -> None:
    assert [row.trainings for row in PLANS] == sorted({row.trainings for row in PLANS})
    assert PLANS[0].trainings == 0
    shares = [row.finalists * row.seeds / row.trainings for row in PLANS[1:]]
    assert max(shares) <= 0.3  # most of the time is the search's


def test_a_plan_of_trials_says_what_follows() -> None:
    assert make_plan(StudySpec(n_trials=10)).lines() == [
        "finalists: the best 6 over 3 fresh seeds, 18 trainings at most"
    ]
    assert make_plan(StudySpec(n_trials=10, n_seeds=0)).lines() == []
    brief = StudySpec.model_validate(
        {"early_stop": "rank", "recipe": {"name": "quick", "epochs": 1}, "n_seeds": 0}
    )
    assert make_plan(brief).lines() == ["early stopping by rank: not within 1 epoch"]
    recipe = {"name": "quick", "epochs": 8}
    spec = StudySpec.model_validate({"estimator": "naswot+macs", "recipe": recipe, "n_seeds": 0})
    assert make_plan(spec).lines() == [
        "before each training naswot+macs",
        "early stopping by rank: before a training and after epoch 2 to 5 of 8",
    ]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("budget", ["1s", "59m59s", "999h59m59s"])
def test_a_plan_by_time_fits_into_80_columns(budget: str, scale: float) -> None:
    pace = replace(PACE, training=10 * scale, baselines=30 * scale, took=scale, n_baselines=12)
    lines = make_plan(by_time(budget), pace=pace, used=86_400.0).lines()
    assert lines[0].startswith(f"budget {budget}, 24.0 h used: about ")
    assert "a usual network takes" in lines[1]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "soon"}, "budget: must be a time like 90s, 30m, 2h or 1h30m, is 'soon'"),
        ({"budget": "1h", "n_trials": 9}, "budget: may be given, or n_trials"),
        ({"budget": "1h", "control": True}, "budget: a control needs --trials"),
        (
            {"budget": "1h", "evaluator": "table:t.csv", "n_trials": 200},
            "budget: means nothing with a table",
        ),
    ],
)
def test_a_budget_is_one_line_where_it_does_not_fit(options: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message) as error:
        load_study_spec(None, options)
    assert "\n" not in str(error.value)


def test_a_budget_takes_the_place_of_the_files(tmp_path: Path) -> None:
    assert load_study_spec("mobile_quick", {"budget": "1h"}).budget == 3600
    (tmp_path / "own.yaml").write_text("budget: 1h30m\n")
    assert load_study_spec(str(tmp_path / "own.yaml"), {}).budget == 5400
    other = load_study_spec(str(tmp_path / "own.yaml"), {"n_trials": 4})
    assert (other.budget, other.n_trials) == (None, 4)


@pytest.mark.parametrize(
    ("now", "n_open", "took", "best", "n_jobs", "has_room"),
    [
        (60.0, 0, [], [], 1, True),  # one and three finalists of 10 s: 100
        (61.0, 0, [], [], 1, False),
        (60.0, 1, [], [], 1, False),  # one runs
        (80.0, 0, [4.0, 6.0], [], 1, True),  # it knows better now: 4 times 5 s
        (81.0, 0, [4.0, 6.0], [], 1, False),
        (62.0, 0, [4.0, 6.0], [11.0], 1, True),  # 5 s, and the one finalist three times
        (63.0, 0, [4.0, 6.0], [11.0], 1, False),
        (75.0, 1, [10.0], [10.0], 2, True),  # two side by side, then the finalists: 10 + 30 / 2
        (76.0, 1, [10.0], [10.0], 2, False),
    ],
)
def test_a_deadline_leaves_room_for_what_runs_and_the_finalists(
    now: float, n_open: int, took: list[float], best: list[float], n_jobs: int, has_room: bool
) -> None:
    deadline = Deadline(100.0, 10.0, 1, 3, n_jobs, clock=lambda: now)
    assert deadline.has_room(n_open, took, best) is has_room
    assert deadline.fits([100.0 - now]) is True
    assert deadline.fits([100.0 - now, 100.0]) is False


class Clock:
    """An evaluator that takes ten seconds a network, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.static_values = FakeEvaluator().static_values

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        self.now += 10
        return replace(FakeEvaluator()(arch), seconds=10.0)


def search(folder: Path, deadline: Deadline, evaluate: Clock) -> tuple[Ending, int]:
    spec = by_time("100s", objectives=("top1", "macs"), resolution=16, sampler="random")
    url = f"sqlite:///{folder}/s.db"
    settings = spec.settings(LADDER, "tiny", "hash")
    with open_study(url, "s", DIRECTIONS, settings) as study:  # type: ignore[arg-type]
        ending = run_search(
            study,
            spec,
            LADDER,
            evaluate,
            facts={},
            artifacts=artifact_dir(url),
            watcher=Quiet(),
            deadline=deadline,
        )
        return ending, sum(map(counts, study.get_trials(deepcopy=False)))


@pytest.mark.parametrize("planned", [1.0, 10.0])  # by a probe that was wrong, and that was right
def test_a_search_by_time_ends_in_time(tmp_path: Path, planned: float) -> None:
    clock = Clock()
    deadline = Deadline(100.0, planned, 3, 1, budget=120.0, clock=lambda: clock.now)
    # The last one begins at 60 s: it and the finalists take 40.
    assert search(tmp_path, deadline, clock) == ("time", 7)
    # 20 s were used before, however many ran side by side.
    assert read_study(f"sqlite:///{tmp_path}/s.db", "s").user_attrs[USED] == 90.0
    clock.now = 0.0
    assert search(tmp_path, deadline, clock) == ("time", 14)  # gone on with, as long again


def test_a_search_without_time_tries_its_first_network(tmp_path: Path) -> None:
    clock = Clock()
    assert search(tmp_path, Deadline(0.0, 9.0, 3, 1, clock=lambda: clock.now), clock) == ("time", 1)


DATA = tiny_data(n_per_class=20, resolution=8)  # 40 pictures
RECIPE = RECIPES["quick"].model_copy(update={"epochs": 3, "batch_size": 8})
SETTING = Setting(DATA, RECIPE, (get_objective("top1"), get_objective("macs")))


def test_probe_goes_by_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    static = TrainingEvaluator(SETTING).static_values

    def seconds(arch: Architecture, setting: Setting) -> float:
        return static(arch)["macs"] * 2e-6

    monkeypatch.setattr(probing, "training_seconds", seconds)
    pace = probe(SETTING, LADDER)
    macs = [static(a.at_resolution(8))["macs"] for a in baselines("lam", "lam_ladder")]
    assert pace.baselines == pytest.approx(2e-6 * sum(macs))
    assert (pace.n_baselines, pace.measuring) == (2, 0.0)
    # FEW has six networks, drawn alike: the usual one is between the smallest and the largest.
    pace = probe(SETTING, FEW)
    small, large = (FEW.decode({"stages.0.width": w, "stages.0.kernel": k}) for w, k in EDGES)
    assert static(small)["macs"] < pace.training / 2e-6 < static(large)["macs"]
    assert pace.n_baselines == pace.baselines == 0


EDGES = ((8, 3), (24, 5))


def baselines(*names: str) -> list[Architecture]:
    return [get_baseline(name).architecture for name in names]


def test_a_probe_trains_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(model: Any, data: Any, recipe: Recipe, **options: Any) -> Any:
        trained.append(recipe)
        return train_model(model, data, recipe, **options)

    monkeypatch.setattr(probing, "train_model", train)
    head_first = RECIPE.model_copy(update={"head_epochs": 2, "thaw_epochs": 1})
    training_seconds(baselines("lam")[0].at_resolution(8), replace(SETTING, recipe=head_first))
    assert {(recipe.head_epochs, recipe.thaw_epochs) for recipe in trained} == {(0, 0)}


def test_training_seconds_are_those_of_all_epochs() -> None:
    arch = FEW.decode({"stages.0.width": 8, "stages.0.kernel": 3})
    assert training_seconds(arch, SETTING) > 0
    assert epoch_steps(SETTING) == 5
    few = replace(SETTING, recipe=RECIPE.model_copy(update={"train_size": 12}))
    assert epoch_steps(few) == 1


def test_no_network_that_can_be_probed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arch: Architecture, setting: Setting) -> float:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(probing, "training_seconds", fail)
    with pytest.raises(StudyError, match="no network of the space can be probed: out of memory"):
        probe(SETTING, FEW)

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasattn.arch import parse_architecture
from nasattn.evaluate import Evaluation, OnEpoch
from nasattn.objectives import OBJECTIVES, parse_constraint
from nasattn.search.engines.engine import Job
from nasattn.search.fronts import contributions, hypervolume, ranks, scaled
from nasattn.search.plan import USED, Deadline
from nasattn.search.selection import (
    RUNS,
    Selection,
    finalists,
    missing,
    read_selection,
    run_selection,
)
from nasattn.search.trials import network_of

ARCHS = {
    name: parse_architecture({"stem": {"width": 8 * i}, "stages": [{"depth": 1, "width": 8}]})
    for i, name in enumerate("ab", start=1)
}
ROWS = (OBJECTIVES["top1"], OBJECTIVES["macs"])


class Quiet:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def started(self, trial: FrozenTrial, seed: int) -> None: ...

    def finished(self, trial: FrozenTrial, seed: int, run: Mapping[str, Any]) -> None:
        self.seen.append((trial.user_attrs["arch_id"], seed))


def made(values: Mapping[str, tuple[float, float]]) -> optuna.Study:
    """A study with networks of these (top1, macs)."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for name, (top1, macs) in values.items():
        arch = ARCHS.get(name, ARCHS["a"]).to_json()
        figures = {"top1": top1, "macs": macs}
        attributes = {"arch_id": name, "architecture": arch, "values": figures}
        study.add_trial(create_trial(values=[top1, macs], user_attrs=attributes))
    return study


def names(trials: list[FrozenTrial]) -> list[str]:
    return [trial.user_attrs["arch_id"] for trial in trials]


def judge(runs: Mapping[str, list[float]], macs: Mapping[str, float]) -> Any:
    by_seed = {name: {str(i): top1 for i, top1 in enumerate(own)} for name, own in runs.items()}
    return Selection(by_seed, {name: {"macs": m} for name, m in macs.items()}, ROWS).judge()


def test_finalists_are_the_front_before_what_it_beats() -> None:
    study = made({"a": (0.9, 10), "b": (0.8, 20), "c": (0.7, 5), "d": (0.6, 30), "e": (0.95, 40)})
    assert set(names(finalists(study, ROWS, 3))) == {"a", "c", "e"}
    assert names(finalists(study, ROWS, 5))[3:] == ["b", "d"]
    assert names(finalists(study, ROWS, 1))[0] in {"a", "c", "e"}
    assert finalists(made({}), ROWS, 3) == []


def test_finalists_are_new_finished_and_keep_to_the_limits() -> None:
    study = made({"a": (0.9, 10)})
    values = {"top1": 0.99, "macs": 1.0}
    for attributes, constraints in (({"duplicate_of": 0}, None), ({}, {"macs<=0.5": 1.0})):
        study.add_trial(
            create_trial(
                values=[0.99, 1.0],
                user_attrs={"arch_id": "z", "values": values} | attributes,
                constraints=constraints,
            )
        )
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"arch_id": "y"}))
    assert names(finalists(study, ROWS, 9)) == ["a"]


def test_every_run_is_kept_and_none_made_twice() -> None:
    study, watcher = made({"a": (0.9, 10), "b": (0.8, 5)}), Quiet()
    best = finalists(study, ROWS, 2)

    def evaluate(job: Job, on_epoch: OnEpoch) -> Evaluation:
        assert job.seed
        if (job.seed, job.arch) == (2, ARCHS["b"]):
            raise KeyboardInterrupt
        return Evaluation("complete", {"top1": 0.5 + job.seed / 10}, seconds=1.0)

    with pytest.raises(KeyboardInterrupt):
        run_selection(study, missing(study, best, (1, 2)), evaluate, watcher)
    left = [(seed, trial.user_attrs["arch_id"]) for seed, trial in missing(study, best, (1, 2))]
    assert left == [(2, "b")]
    run_selection(
        study,
        missing(study, best, (1, 2)),
        lambda job, on_epoch: Evaluation("failed", reason="out of memory"),
        watcher,
    )
    again = [(seed, trial.user_attrs["arch_id"]) for seed, trial in missing(study, best, (1, 2))]
    assert again == [(2, "b")]  # it failed
    assert read_selection(study, ROWS).n_failed == 1
    assert study.user_attrs[RUNS]["b"]["2"]["reason"] == "out of memory"
    assert read_selection(study, ROWS).runs == {"a": {"1": 0.6, "2": 0.7}, "b": {"1": 0.6}}
    assert sorted(watcher.seen) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_runs_of_a_search_by_time_use_its_budget() -> None:
    study, now = made({"a": (0.9, 10)}), 0.0

    def evaluate(job: Job, on_epoch: OnEpoch) -> Evaluation:
        nonlocal now
        now += 7
        return Evaluation("complete", {"top1": 0.5})

    deadline = Deadline(60.0, 1.0, 1, 2, budget=100.0, clock=lambda: now)
    runs = missing(study, finalists(study, ROWS, 1), (1, 2))
    run_selection(study, runs, evaluate, Quiet(), deadline=deadline)
    assert study.user_attrs[USED] == 40 + 2 * 7


def test_interval_is_students_with_the_pooled_spread() -> None:
    found = judge({"a": [0.90, 0.92], "b": [0.80, 0.84]}, {"a": 2.0, "b": 1.0})
    # Pooled variance (0.0002 + 0.0008) / 2, of a mean of two half of that; t of 2 degrees 4.3027.
    assert found["a"].half == pytest.approx(4.302653 * np.sqrt(0.0005 / 2))
    assert found["a"].top1 == pytest.approx(0.91)
    assert found["a"].on_front
    assert found["b"].on_front
    assert found["a"].runs == {"0": 0.90, "1": 0.92}


def test_chance_of_the_front_follows_the_spread() -> None:
    runs = {"a": [0.90, 0.91, 0.92], "b": [0.899, 0.909, 0.919], "c": [0.5, 0.51, 0.52]}
    found = judge(runs, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert found["a"].p_front == 1  # nothing is cheaper
    assert 0.4 < found["b"].p_front < 0.5  # dearer, and a hair worse: almost a tie
    assert found["c"].p_front < 0.01
    assert [found[name].on_front for name in "abc"] == [True, False, False]
    assert found == judge(runs, {"a": 1.0, "b": 2.0, "c": 3.0})


def test_chance_is_that_of_the_multivariate_t_distribution() -> None:
    """Two networks, the dearer on the front iff its true mean is above the other's."""
    found = judge({"a": [0.80, 0.82], "b": [0.82, 0.84]}, {"a": 1.0, "b": 2.0})
    rng = np.random.default_rng(1)
    spread = np.sqrt(0.0002) / np.sqrt(2)
    draws = rng.standard_normal((2, 200_000)) * spread / np.sqrt(rng.chisquare(2, 200_000) / 2)
    assert found["b"].p_front == pytest.approx((0.83 + draws[1] > 0.81 + draws[0]).mean(), abs=0.02)


def test_network_that_breaks_a_limit_on_top1_is_on_no_front_and_beats_none() -> None:
    runs = {"a": {"1": 0.5, "2": 0.5}, "b": {"1": 0.9, "2": 0.9}}
    values = {"a": {"macs": 1.0}, "b": {"macs": 2.0}}
    free = Selection(runs, values, ROWS).judge()
    assert [free[name].on_front for name in "ab"] == [True, True]
    held = Selection(runs, values, ROWS, (parse_constraint("top1>=0.8"),)).judge()
    assert [(held[name].on_front, held[name].p_front) for name in "ab"] == [(False, 0), (True, 1)]
    none = Selection(runs, values, ROWS, (parse_constraint("top1>=0.99"),)).judge()
    assert not any(none[name].on_front for name in "ab")


def test_front_waits_until_every_finalist_was_trained_again() -> None:
    study = made({"a": (0.9, 10), "b": (0.8, 5)})
    best = finalists(study, ROWS, 2)

    def evaluate(job: Job, on_epoch: OnEpoch) -> Evaluation:
        if job.arch == network_of(best[1]):
            raise KeyboardInterrupt
        return Evaluation("complete", {"top1": 0.5})

    with pytest.raises(KeyboardInterrupt):
        run_selection(study, missing(study, best, (1,)), evaluate, Quiet())
    found = read_selection(study, ROWS)
    assert found.unfinished
    assert found.judge() == {}


def test_one_run_each_has_no_interval() -> None:
    found = judge({"a": [0.9], "b": [0.8]}, {"a": 1.0, "b": 2.0})
    assert (found["a"].half, found["a"].p_front) == (None, None)
    assert [found[name].on_front for name in "ab"] == [True, False]
    assert judge({}, {}) == {}


def test_equal_runs_have_an_interval_of_no_width() -> None:
    found = judge({"a": [0.9, 0.9], "b": [0.8, 0.8]}, {"a": 1.0, "b": 0.5})
    assert (found["a"].half, found["a"].p_front) == (0.0, 1.0)


def test_points_rank_by_who_beats_them() -> None:
    points = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 2.0], [2.0, 0.0], [3.0, 3.0]])
    assert ranks(points).tolist() == [0, 0, 1, 0, 2]
    assert ranks(np.array([[1.0], [0.0], [2.0]])).tolist() == [1, 0, 2]  # one objective


def test_hypervolume_is_from_the_reference_point() -> None:
    low, high = np.zeros(2), np.array([10.0, 1.0])
    assert hypervolume(np.array([[0.0, 0.0]]), low, high) == pytest.approx(1.21)
    assert hypervolume(np.array([[5.0, 0.5]]), low, high) == pytest.approx(0.36)
    assert scaled(np.array([[3.0, 1.0]]), np.array([3.0, 0.0]), np.array([3.0, 1.0])).tolist() == [
        [0.0, 1.0]
    ]


def test_contributions_are_what_the_rank_would_lose() -> None:
    points = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [1.0, 1.0]])
    found = contributions(points, ranks(points))
    whole = hypervolume(points[:3], np.zeros(2), np.ones(2))
    for i in range(3):
        rest = hypervolume(np.delete(points[:3], i, axis=0), np.zeros(2), np.ones(2))
        assert found[i] == pytest.approx(whole - rest)
    assert found[3] == pytest.approx(0.01)

"""A stored study is what its settings and its results make it, or replay says where not."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from nasattn.errors import StudyError
from nasattn.search.control import control_of, share_start
from nasattn.search.engines.engine import INLINE
from nasattn.search.replay import Replay, read_config, replay
from nasattn.search.samplers import SAMPLERS
from nasattn.search.storage import open_study
from nasattn.search.trials import counts
from nasattn.testing import FakeEvaluator
from tests.nni import NEEDS_NNI
from tests.test_engines import Slowly, local, search
from tests.test_search import DIRECTIONS, ESTIMATED, LADDER, VARIED, foresee

SLOW = pytest.mark.slow


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")


def replayed(folder: Path) -> Replay:
    study = study_in(folder)
    spec, space = read_config(study)
    return replay(study, spec, space, FakeEvaluator())


@pytest.mark.parametrize(
    ("sampler", "pending"),
    [
        pytest.param(
            name,
            n,
            marks=[SLOW] * ((name, n) != ("cost_aware", 4)) + [NEEDS_NNI] * name.startswith("nni"),
        )
        for name in SAMPLERS
        for n in (1, 4)
    ],
)
def test_replay_of_a_search_is_exact(tmp_path: Path, sampler: str, pending: int) -> None:
    trials = search(tmp_path, Slowly(), local(2), 12, sampler=sampler, pending=pending)
    found = replayed(tmp_path)
    assert found.difference == ""
    assert found.stored == found.rebuilt
    assert found.is_exact
    assert found.n_trials == len(trials)
    assert found.n_left_out == 0
    assert all(len(digest) == 64 for digest in vars(found.stored).values())


@SLOW
def test_replay_of_early_stopping_in_pieces_is_exact(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"early_stop": "rank", "recipe": {"name": "quick", "epochs": 12}}
    for n in (7, 30, 40):
        trials = search(tmp_path, Slowly(n_epochs=12), local(2), n, VARIED, **settings)
    assert any("stopped_after" in trial.user_attrs for trial in trials)
    assert replayed(tmp_path).is_exact


@SLOW
def test_replay_of_estimates_in_pieces_is_exact_with_several_workers(tmp_path: Path) -> None:
    evaluate = Slowly(n_epochs=12, estimates=foresee)
    for n in (13, 20):
        trials = search(tmp_path, evaluate, local(2), n, VARIED, **ESTIMATED)
    assert any(trial.user_attrs.get("stopped_after") == 0 for trial in trials)
    assert replayed(tmp_path).is_exact


def test_replay_leaves_out_what_has_not_ended(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), INLINE, 8)
    study_in(tmp_path).ask()
    found = replayed(tmp_path)
    assert found.is_exact
    assert (found.n_trials, found.n_left_out) == (8, 1)


@SLOW
def test_replay_of_queued_networks_is_exact(tmp_path: Path) -> None:
    first = search(tmp_path, FakeEvaluator(), INLINE, 5, sampler="cost_aware")
    study_in(tmp_path).enqueue_trial(LADDER.encode(LADDER.decode(first[3].params)))
    study_in(tmp_path).enqueue_trial({"stages.*.kernel": 9})  # fails
    trials = search(tmp_path, FakeEvaluator(), INLINE, 9, sampler="cost_aware")
    assert sum(map(counts, trials)) == 9
    assert replayed(tmp_path).is_exact


def tell_otherwise(folder: Path, number: int, top1: float) -> None:
    """Change a stored result behind everybody's back."""
    study = study_in(folder)
    copy = optuna.create_study(
        study_name="s", storage=f"sqlite:///{folder}/t.db", directions=study.directions
    )
    for name, value in study.user_attrs.items():
        copy.set_user_attr(name, value)
    for trial in study.get_trials():
        if trial.number == number:
            trial.values = [top1, trial.values[1]]
        copy.add_trial(trial)
    (folder / "t.db").replace(folder / "s.db")


@pytest.mark.slow
def test_a_changed_result_is_found(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), INLINE, 16, sampler="cost_aware", pending=1)
    tell_otherwise(tmp_path, 3, 0.999)
    found = replayed(tmp_path)
    assert not found.is_exact
    assert found.stored.table != found.rebuilt.table


def test_another_sequence_is_found_where_it_begins(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), INLINE, 6)
    study = study_in(tmp_path)
    study.set_user_attr("settings", study.user_attrs["settings"] | {"seed": 1})
    found = replayed(tmp_path)
    assert not found.is_exact
    assert found.difference.startswith("trial 2: ")  # the first behind the baselines
    assert found.stored.config == found.rebuilt.config


def test_a_study_that_is_no_search_is_refused(tmp_path: Path) -> None:
    with open_study(f"sqlite:///{tmp_path}/s.db", "s", {"top1": "maximize"}, {}):
        pass
    with pytest.raises(StudyError, match="study 's': is no search"):
        replayed(tmp_path)


@SLOW
def test_replay_of_a_control_takes_its_baselines_as_they_are(tmp_path: Path) -> None:
    search(tmp_path, FakeEvaluator(), INLINE, 6, pending=1)
    study = study_in(tmp_path)
    spec, space = read_config(study)
    beside = control_of(spec)
    settings = beside.settings(space, "tiny", "hash")
    url = f"sqlite:///{tmp_path}/s.db"
    from nasattn.search.run import run_search
    from tests.test_search import Quiet

    with open_study(url, "s-control", DIRECTIONS, settings) as control:  # type: ignore[arg-type]
        share_start(study, control)
        run_search(
            control,
            beside.model_copy(update={"n_trials": 6}),
            space,
            FakeEvaluator(),
            facts={},
            artifacts=tmp_path / "artifacts",
            watcher=Quiet(),
        )
        assert replay(control, *read_config(control), FakeEvaluator()).is_exact


@SLOW
def test_failed_networks_are_replayed_as_failed(tmp_path: Path) -> None:
    bad = search(tmp_path / "a", FakeEvaluator(), INLINE, 4)[2].user_attrs["arch_id"]
    search(tmp_path / "b", FakeEvaluator(fail={bad}), INLINE, 8, sampler="tpe", pending=1)
    assert replayed(tmp_path / "b").is_exact

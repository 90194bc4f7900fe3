from collections.abc import Iterable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nasattn.arch import Architecture, parse_architecture
from nasattn.objectives import OBJECTIVES
from nasattn.search.control import control_of, rank_by_size, read_control, share_start
from nasattn.search.spec import StudySpec

ROWS = (OBJECTIVES["top1"], OBJECTIVES["macs"])


def network(depth: int) -> Architecture:
    return parse_architecture({"stem": {"width": 8}, "stages": [{"depth": depth, "width": 8}]})


def study(name: str, networks: Iterable[tuple[float, float, int]], storage: Any) -> optuna.Study:
    """A study of networks of these (top1, macs, depth)."""
    made = optuna.create_study(
        study_name=name, storage=storage, directions=["maximize", "minimize"]
    )
    sampler = "random" if name.endswith("-control") else "cost_aware"
    made.set_user_attr("settings", {"sampler": sampler, "seed": 0})
    for top1, macs, depth in networks:
        arch = network(depth)
        values = {"top1": top1, "macs": macs, "params": 5.0}
        attributes = {"arch_id": arch.arch_id, "architecture": arch.to_json(), "values": values}
        made.add_trial(create_trial(values=[top1, macs], user_attrs=attributes))
    return made


def test_control_is_the_same_search_by_random_draws() -> None:
    spec = StudySpec(name="mine", n_trials=7, sampler="cost_aware", seed=3, n_seeds=5)
    control = control_of(spec)
    assert control.study_name == "mine-control"
    assert (control.sampler, control.n_trials, control.seed) == ("random", 7, 3)
    assert control.n_seeds == 0


def test_baselines_are_shared_once() -> None:
    storage = optuna.storages.InMemoryStorage()
    search, control = study("a", [(0.9, 1.0, 1)], storage), study("a-control", [], storage)
    for state, extra in ((TrialState.FAIL, {}), (TrialState.FAIL, {"duplicate_of": 0})):
        search.add_trial(create_trial(state=state, user_attrs={"baseline": "lam"} | extra))
    search.set_user_attr("n_val", 145)
    for _ in range(2):
        share_start(search, control)
    assert [t.user_attrs for t in control.get_trials()] == [{"baseline": "lam"}]
    assert control.user_attrs["n_val"] == 145


def test_hypervolumes_are_of_both_on_one_scale() -> None:
    storage = optuna.storages.InMemoryStorage()
    search = study("a", [(0.9, 1.0, 1)], storage)
    assert read_control(search, ROWS) is None
    study("a-control", [(0.8, 2.0, 1), (0.85, 3.0, 2)], storage)
    found = read_control(search, ROWS)
    assert found is not None
    assert found.search == pytest.approx(1.21)  # best of both in both objectives
    # At (1, 0.5) and (0.5, 1), from (1.1, 1.1).
    assert found.random == pytest.approx(0.1 * 0.6 + 0.6 * 0.1 - 0.1 * 0.1)
    assert (found.n_search, found.n_random) == (1, 2)
    assert not found.is_fair


def test_another_search_of_that_name_is_no_control() -> None:
    for settings in ({"sampler": "random", "seed": 1}, {"sampler": "tpe", "seed": 0}):
        storage = optuna.storages.InMemoryStorage()
        search = study("a", [(0.9, 1.0, 1)], storage)
        other = study("a-control", [(0.8, 2.0, 1)], storage)
        assert read_control(search, ROWS) is not None
        other.set_user_attr("settings", settings)
        assert read_control(search, ROWS) is None


def test_control_without_a_network_says_nothing() -> None:
    storage = optuna.storages.InMemoryStorage()
    search = study("a", [(0.9, 1.0, 1)], storage)
    study("a-control", [], storage)
    assert read_control(search, ROWS) is None


def test_size_ranks_are_kendalls_tau() -> None:
    networks = [(0.1 * i, 10.0 * i if i != 4 else 45.0, 7 - i) for i in range(1, 7)]
    found = rank_by_size(study("a", networks, None))
    # One pair of fifteen is in the wrong order by macs; params are equal for all.
    assert found == pytest.approx({"macs": 1.0, "depth": -1.0})
    networks[0] = (0.25, 10.0, 6)
    assert rank_by_size(study("b", networks, None))["macs"] == pytest.approx(13 / 15)
    assert rank_by_size(study("c", networks[:5], None)) == {}

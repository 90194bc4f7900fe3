"""CostAwareSampler: Optuna's conformance tests, no duplicates, repeatable, better than random."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import Trial, TrialState

from nasattn.errors import StudyError
from nasattn.search import CostAwareSampler

Params = dict[str, Any]


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """What Optuna asks of every sampler; without `exact` all objectives are learned."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CostAwareSampler(n_startup_trials=2)


# A small space whose truth is known: width and depth cost, attention helps and costs little; the
# kernel exists only where there is attention.
KINDS = ("none", "se", "eca")
BEST = {"none": 0.0, "se": 0.06, "eca": 0.05}


def suggest(trial: Trial) -> Params:
    params: Params = {f"width{i}": trial.suggest_int(f"width{i}", 1, 4) for i in range(3)}
    params["kind"] = trial.suggest_categorical("kind", KINDS)
    if params["kind"] != "none":
        params["kernel"] = trial.suggest_categorical("kernel", (3, 5, 7))
    return params


def macs(params: Params) -> float:
    widths = (params[f"width{i}"] * (3 - i) for i in range(3))
    return float(sum(widths) + (params["kind"] != "none"))


def error(params: Params) -> float:
    gain = float(sum((i + 1) * params[f"width{i}"] ** 0.5 for i in range(3))) / 20
    odd = 0.02 if params.get("kernel") == 7 and params["width2"] > 2 else 0.0
    return 0.8 - gain - BEST[params["kind"]] - odd


def run(sampler: BaseSampler, n: int, study: optuna.Study | None = None) -> optuna.Study:
    study = study or optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler
    for _ in range(n):
        trial = study.ask()
        params = suggest(trial)
        study.tell(trial, (error(params), macs(params)))
    return study


def hypervolume(study: optuna.Study) -> float:
    """The area that the networks beat, below error 0.7 and 25 multiply-adds."""
    area, least = 0.0, 25.0
    for err, cost in sorted((t.values[0], t.values[1]) for t in study.trials):
        if cost < least and err < 0.7:
            area += (0.7 - err) * (least - cost)
            least = cost
    return area


def ours(**options: Any) -> CostAwareSampler:
    return CostAwareSampler(exact={1: macs}, **{"seed": 0, **options})


def sequence(study: optuna.Study) -> list[Params]:
    return [trial.params for trial in study.trials]


def test_it_never_proposes_a_network_twice() -> None:
    found = [tuple(sorted(p.items())) for p in sequence(run(ours(), 60))]
    assert len(set(found)) == 60


def test_a_new_object_each_trial_proposes_the_same() -> None:
    whole = run(ours(), 16)
    parts = run(ours(), 6)
    for _ in range(10):
        run(ours(), 1, parts)
    assert sequence(parts) == sequence(whole)
    assert sequence(run(ours(seed=1), 16)) != sequence(whole)


def test_it_finds_more_than_random_draws() -> None:
    for seed in range(3):
        random = hypervolume(run(RandomSampler(seed=seed), 30))
        assert hypervolume(run(ours(seed=seed), 30)) > random


def test_an_exhausted_space_is_told() -> None:
    space: Mapping[str, BaseDistribution] = {"a": CategoricalDistribution((0, 1, 2))}
    sampler = CostAwareSampler(exact={1: lambda p: float(p["a"])}, space=space)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    seen = []
    for _ in range(3):
        trial = study.ask()
        seen.append(trial.suggest_categorical("a", (0, 1, 2)))
        assert not sampler.exhausted
        study.tell(trial, (0.5, float(seen[-1])))
    assert sorted(seen) == [0, 1, 2]
    study.ask().suggest_categorical("a", (0, 1, 2))
    assert sampler.exhausted


def test_what_exact_refuses_is_never_proposed() -> None:
    def limited(params: Params) -> float | None:
        return macs(params) if macs(params) <= 14 else None

    study = run(CostAwareSampler(exact={1: limited}), 40)
    assert all(macs(t.params) <= 14 for t in study.trials[1:])  # the first knew no parameter


def test_identity_decides_what_a_duplicate_is() -> None:
    sampler = ours(identity=lambda p: (p["width0"], p["kind"]))
    found = sequence(run(sampler, 12))
    assert len({(p["width0"], p["kind"]) for p in found}) == 12


def test_constraints_are_learned() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=ours())
    for _ in range(40):
        trial = study.ask()
        params = suggest(trial)
        trial.set_constraint("no se", 1.0 if params["kind"] == "se" else -1.0)
        study.tell(trial, (error(params), macs(params)))
    early, late = (
        sum(t.params["kind"] == "se" for t in part)
        for part in (study.trials[:20], study.trials[20:])
    )
    assert late < early


def test_running_trials_are_not_proposed_again() -> None:
    study = run(ours(), 12)
    asked = [suggest(study.ask()) for _ in range(6)]
    assert len({tuple(sorted(p.items())) for p in asked}) == 6
    assert [t.state for t in study.trials[12:]] == [TrialState.RUNNING] * 6


def test_exact_must_leave_an_objective() -> None:
    study = run(ours(), 1)
    study.sampler = CostAwareSampler(exact={0: macs, 1: macs})
    with pytest.raises(StudyError, match=r"exact: names the objectives \[0, 1\]"):
        study.ask().suggest_int("width0", 1, 4)

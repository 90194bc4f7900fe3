"""The cost-aware sampler: Optuna's conformance tests, then what it promises beyond them."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import Trial, TrialState
from scipy.optimize import check_grad

from nasattn.errors import StudyError
from nasattn.search import CostAwareSampler, outlook, proposal, surrogate
from nasattn.search.catalogue import Catalogue, Entry, Knowledge
from nasattn.search.encoding import Rule, Space, learn_space, seen_distributions
from nasattn.search.improvement import best_within, expected_hypervolume, spread_budgets
from nasattn.search.surrogate import Inputs, Kernel, Surrogate, Warp
from nasattn.search.values import Floats, all_values, from_unit, to_unit

Params = dict[str, Any]
BLOCKS: dict[str, BaseDistribution] = {
    f"block{i}": CategoricalDistribution((0, 1, 2)) for i in range(6)
}
GAINS = (1.0, 0.9, 0.8, 0.6, 0.5, 0.4)  # of a block's error for each step of its kind
PRICES = (1, 2, 2, 4, 4, 8)


class TestConformance(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """All of Optuna's classes but that for samplers of one objective only."""

    @pytest.fixture
    def sampler(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], BaseSampler]:
        monkeypatch.setattr(proposal, "N_POOL", 100)  # quick
        return lambda: CostAwareSampler(n_startup_trials=2)


# ---------------------------------------------------------------------------------------------
# A made-up search: 729 networks of six blocks, error falling with the blocks, and their price


def price(params: Mapping[str, Any]) -> float:
    return float(5 + sum(p * params[f"block{i}"] for i, p in enumerate(PRICES)))


def error(params: Mapping[str, Any]) -> float:
    steps = [params[f"block{i}"] for i in range(6)]
    clash = 1.5 * (steps[0] == 2) * (steps[1] == 0)
    gain = sum(g * s for g, s in zip(GAINS, steps, strict=True)) - clash
    return float(5 + 20 * 0.7**gain)


def suggest(trial: Trial, names: Iterator[str] | None = None) -> Params:
    return {name: trial.suggest_categorical(name, (0, 1, 2)) for name in names or BLOCKS}


def objective(trial: Trial) -> tuple[float, float]:
    params = suggest(trial)
    return error(params), price(params)


def ours(**options: Any) -> CostAwareSampler:
    given: dict[str, Any] = {"exact": {1: price}, "space": BLOCKS}
    return CostAwareSampler(**given | options)


def search(
    sampler: BaseSampler,
    n: int,
    run: Callable[[Trial], Any] = objective,
    directions: tuple[Literal["minimize", "maximize"], ...] = ("minimize", "minimize"),
) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, directions=list(directions))
    study.optimize(run, n_trials=n, catch=(RuntimeError,))
    return study


def networks(study: optuna.Study) -> list[Hashable]:
    return [tuple(sorted(trial.params.items())) for trial in study.trials]


def volume(study: optuna.Study) -> float:
    return area([(trial.values[0], trial.values[1]) for trial in study.trials])


def area(points: list[tuple[float, float]]) -> float:
    """What (error, price) dominate below (25, 50), by the staircase."""
    total, best = 0.0, 25.0
    for cost, value in sorted((cost, value) for value, cost in points):
        total += max(0.0, best - value) * (50.0 - cost)
        best = min(best, value)
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampler_finds_more_than_random_search_and_nothing_twice(seed: int) -> None:
    every = [
        dict(zip(BLOCKS, steps, strict=True)) for steps in itertools.product(range(3), repeat=6)
    ]
    whole = optuna.create_study(directions=["minimize", "minimize"])
    for params in every:
        values = [error(params), price(params)]
        whole.add_trial(optuna.create_trial(params=params, distributions=BLOCKS, values=values))
    found = search(ours(seed=seed), 30)
    assert len(set(networks(found))) == 30
    assert volume(found) > 0.97 * volume(whole)
    assert volume(found) > volume(search(RandomSampler(seed), 60))


def test_sampler_learns_the_space_from_the_study() -> None:
    found = search(CostAwareSampler(exact={1: price}), 25)
    assert len(set(networks(found))) == 25
    assert volume(found) > volume(search(RandomSampler(0), 50))


def test_maximising_accuracy_is_minimising_error() -> None:
    def accurate(trial: Trial) -> tuple[float, float]:
        loss, cost = objective(trial)
        return -loss, cost

    accuracy = search(ours(), 16, accurate, ("maximize", "minimize"))
    assert networks(accuracy) == networks(search(ours(), 16))


def test_exact_objective_may_be_maximised() -> None:
    def saved(params: Mapping[str, Any]) -> float:
        return 100 - price(params)

    def run(trial: Trial) -> tuple[float, float]:
        params = suggest(trial)
        return error(params), saved(params)

    found = search(ours(exact={1: saved}), 30, run, ("minimize", "maximize"))
    best = search(ours(), 30)
    prices = [(trial.values[0], 100 - trial.values[1]) for trial in found.trials]
    assert area(prices) > 0.97 * volume(best)


def test_startup_visits_each_part_of_the_costs_range_once() -> None:
    found = search(ours(n_startup_trials=8), 8)
    space = Space(BLOCKS, {})
    drawn = space.draw(np.random.default_rng(0), proposal.N_POOL)
    costs = [price(space.params(row)) for row in np.unique(drawn, axis=0)]
    parts = [int(8 * np.mean(np.array(costs) < t.values[1])) for t in found.trials]
    assert len(set(parts)) >= 7  # parts have as many networks but for ties


def test_startup_counts_queued_networks() -> None:
    study = optuna.create_study(sampler=ours(n_startup_trials=4), directions=["minimize"] * 2)
    for step in (0, 2):  # the cheapest and the dearest network
        study.enqueue_trial(dict.fromkeys(BLOCKS, step))
    study.optimize(objective, n_trials=4)
    costs = [trial.values[1] for trial in study.trials]
    assert costs[:2] == [5, 47]
    assert all(15 < cost < 37 for cost in costs[2:])  # the two parts between


def test_network_that_may_not_be_proposed_never_is() -> None:
    exact = {1: lambda params: None if params["block5"] == 2 else price(params)}
    found = search(ours(exact=exact, n_startup_trials=5), 25)
    assert not [t for t in found.trials if t.params["block5"] == 2]


def test_failed_pruned_waiting_and_running_networks_are_not_proposed_again() -> None:
    few = {name: BLOCKS[name] for name in ("block0", "block1")}  # nine networks
    sampler = ours(exact={1: lambda p: 1.0 + p["block0"]}, space=few)
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    running = study.ask()
    seen = [suggest(running, iter(few))]
    for state in (TrialState.FAIL, TrialState.PRUNED):
        trial = study.ask()
        seen.append(suggest(trial, iter(few)))
        study.tell(trial, state=state)
    left = [{"block0": a, "block1": b} for a in range(3) for b in range(3)]
    waiting = next(params for params in left if params not in seen)
    ask = study.ask()
    seen += [suggest(ask, iter(few)), waiting]
    study.enqueue_trial(waiting)
    sampler.sample_relative(study, study.trials[ask.number], few)  # while one waits
    queued = study.ask()
    assert suggest(queued, iter(few)) == waiting
    while not sampler.exhausted:
        trial = study.ask()
        seen.append(suggest(trial, iter(few)))
    distinct = {tuple(params.values()) for params in seen}
    assert len(distinct) == 9
    assert len(seen) <= 9 + 2  # one was proposed before it was queued, the last when none was left


def test_identity_decides_what_is_the_same_network() -> None:
    def total(params: Params) -> int:
        return int(sum(params.values()))

    found = search(ours(identity=total, n_startup_trials=4), 13)  # sums 0 to 12
    assert sorted(total(trial.params) for trial in found.trials) == list(range(13))


def test_exhausted_space_is_said_to_be() -> None:
    few = {"x": CategoricalDistribution(("a", "b")), "y": IntDistribution(1, 2)}
    sampler = CostAwareSampler(exact={1: lambda p: p["y"]}, space=few)

    def run(trial: Trial) -> tuple[float, float]:
        x, y = trial.suggest_categorical("x", ("a", "b")), trial.suggest_int("y", 1, 2)
        return float(x == "a"), y

    study = search(sampler, 4, run)
    assert len(set(networks(study))) == 4
    assert not sampler.exhausted
    study.optimize(run, n_trials=1)
    assert sampler.exhausted


@pytest.mark.slow
def test_new_sampler_a_trial_proposes_the_same_as_one_for_all() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for _ in range(24):
        study.sampler = CostAwareSampler(exact={1: price}, seed=3)
        study.optimize(objective, n_trials=1)
    assert networks(study) == networks(search(CostAwareSampler(exact={1: price}, seed=3), 24))
    assert networks(study) != networks(search(CostAwareSampler(exact={1: price}, seed=4), 24))


def test_given_up_trial_is_as_if_it_had_not_been() -> None:
    study = search(ours(), 12)
    killed = study.ask()
    suggest(killed)
    killed.set_user_attr("given_up", "killed while it was proposed")
    study.tell(killed, state=TrialState.FAIL)
    study.optimize(objective, n_trials=3)
    kept = [trial for trial in study.trials if trial.number != killed.number]
    assert [t.params for t in kept] == [t.params for t in search(ours(), 15).trials]


def test_parallel_threads_propose_nothing_twice() -> None:
    study = optuna.create_study(sampler=ours(), directions=["minimize", "minimize"])
    study.optimize(objective, n_trials=24, n_jobs=4)
    assert len(set(networks(study))) == 24


def test_proposals_asked_at_once_differ() -> None:
    study = search(ours(), 12)
    asked = [study.ask() for _ in range(6)]
    assert len({tuple(suggest(trial).values()) for trial in asked}) == 6


def test_params_given_beforehand_are_kept() -> None:
    study = search(ours(), 12)
    study.enqueue_trial({"block0": 1, "block3": 2})
    study.optimize(objective, n_trials=1)
    assert (study.trials[-1].params["block0"], study.trials[-1].params["block3"]) == (1, 2)
    assert len(set(networks(study))) == 13


def test_measured_constraint_is_learned() -> None:
    def run(trial: Trial) -> tuple[float, float]:
        values = objective(trial)
        slow = trial.params["block0"] + trial.params["block1"] + trial.params["block5"]
        trial.set_constraint("latency", slow - 2.5)  # of random networks, 17 of 27 break it
        return values

    found = search(ours(), 50, run)
    kept = [max(trial.constraints.values()) <= 0 for trial in found.trials]
    assert np.mean(kept[20:]) > 0.8


def test_rare_networks_that_may_be_proposed_are_bred_from_those_found() -> None:
    """Of 531,441 networks 91 may be proposed; a thousand random ones hold one in six times."""
    wide: dict[str, BaseDistribution] = {
        f"block{i}": CategoricalDistribution((0, 1, 2)) for i in range(12)
    }

    def weight(params: Mapping[str, Any]) -> int:
        return sum(params.values())

    def identity(params: Params) -> Hashable:
        return tuple(params[name] for name in wide) if weight(params) <= 2 else None

    def run(trial: Trial) -> tuple[float, float]:
        params = suggest(trial, iter(wide))
        return error(params), float(weight(params))

    sampler = ours(exact={1: weight}, space=wide, identity=identity)
    found = search(sampler, 20, run)
    assert all(weight(trial.params) <= 2 for trial in found.trials)
    assert len(set(networks(found))) == 20
    assert not sampler.exhausted


@pytest.mark.slow
def test_pruned_trial_teaches_by_what_was_foretold_of_it() -> None:
    def run(trial: Trial, *, foretell: bool) -> tuple[float, float]:
        values = objective(trial)
        if trial.number >= 8:  # all others are stopped
            if foretell:
                trial.set_user_attr("foretold", list(values))
            raise optuna.TrialPruned
        return values

    def known_best(study: optuna.Study) -> float:
        return area([(error(trial.params), price(trial.params)) for trial in study.trials])

    taught = search(ours(), 40, partial(run, foretell=True))
    untaught = search(ours(), 40, partial(run, foretell=False))
    assert known_best(taught) > known_best(untaught)
    # And as much as a search that was told all of it.
    assert known_best(taught) == pytest.approx(known_best(search(ours(), 40)), rel=0.02)


def test_rare_feasible_networks_are_found_where_none_is_known() -> None:
    """A network that breaks the limit has no values: constraints are all that there is to learn."""

    def run(trial: Trial) -> tuple[float, float]:
        params = suggest(trial)
        slow = sum(params.values()) + params["block5"]
        trial.set_constraint("latency", slow - 2.5)  # of 729 networks, 22 keep it
        if slow > 2.5:
            raise optuna.TrialPruned
        return error(params), price(params)

    found = search(ours(), 40, run)
    assert len(found.get_trials(states=(TrialState.COMPLETE,))) >= 10


def test_broken_networks_do_not_mislead() -> None:
    def run(trial: Trial) -> tuple[float, float]:
        values = objective(trial)
        broken = sum(map(hash, trial.params.values())) % 12 == 7
        return (90.0, values[1]) if broken and trial.number % 2 else values

    assert volume(search(ours(), 40, run)) > volume(search(RandomSampler(0), 80))


def test_second_dear_objective_is_learned_too() -> None:
    def run(trial: Trial) -> tuple[float, float, float]:
        dear, cost = objective(trial)
        return dear, cost, 10.0 - trial.params["block0"]

    found = search(ours(), 25, run, ("minimize",) * 3)
    assert len(set(networks(found))) == 25


def test_one_objective_is_expected_improvement() -> None:
    sampler = CostAwareSampler(space=BLOCKS)
    study = search(sampler, 25, lambda trial: objective(trial)[0], ("minimize",))
    assert study.best_value == min(
        error(dict(zip(BLOCKS, steps, strict=True)))
        for steps in itertools.product(range(3), repeat=6)
    )


def test_features_tell_of_the_dear_objective() -> None:
    rng = np.random.default_rng(5)
    noise = {steps: float(v) for steps, v in zip(
        itertools.product(range(3), repeat=6), rng.standard_normal(729), strict=True
    )}  # fmt: skip

    def hidden(params: Params) -> float:  # which no encoding can tell
        return noise[tuple(params[name] for name in BLOCKS)]

    sampler = CostAwareSampler(space=BLOCKS, features=lambda p: [hidden(p)], n_startup_trials=5)
    study = search(sampler, 12, lambda trial: hidden(suggest(trial)), ("minimize",))
    assert study.best_value < sorted(noise.values())[20]


@pytest.mark.parametrize("exact", [{0: price, 1: price}, {2: price}, {-1: price}])
def test_exact_that_leaves_nothing_to_learn_is_refused(
    exact: dict[int, Callable[[Params], float]],
) -> None:
    with pytest.raises(StudyError, match=r"exact: names the objectives .* of a study with 2"):
        search(ours(exact=exact), 1)


def test_wrong_parameter_name_in_exact_is_shown() -> None:
    wrong = ours(exact={1: lambda params: params["block9"]}, n_startup_trials=4)
    study = optuna.create_study(sampler=wrong, directions=["minimize", "minimize"])
    with pytest.raises(KeyError, match="block9"):
        study.optimize(objective, n_trials=9)
    assert len(study.trials) == 5  # a parameter may come to light in the first four


def test_catalogue_gives_equal_networks_one_row() -> None:
    space = Space({f"b{i}": CategoricalDistribution((0, 1)) for i in range(3)}, {})
    know = Knowledge({1: lambda params: params["b0"]}, None, lambda params: sum(params.values()))
    catalogue = Catalogue(space, know)
    rows = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    new, unknown = catalogue.new(rows, taken={3})
    assert not unknown
    assert new.rows.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]  # of sums 0, 1 and 2
    entries = [catalogue.entry(row) for row in rows[[1, 2, 4]]]
    assert [e.row.tolist() for e in entries if isinstance(e, Entry)] == [[0, 0, 1]] * 3


# ---------------------------------------------------------------------------------------------
# Conditional parameters


def suggest_tree(trial: Trial) -> Params:
    """A stage of 1 to 3 blocks, an attention with an option each, one of them a float."""
    depth = trial.suggest_int("depth", 1, 3)
    for i in range(depth):
        trial.suggest_categorical(f"kernel{i}", (3, 5))
    kind = trial.suggest_categorical("attention", ("none", "se", "gem"))
    if kind == "se":
        trial.suggest_int("ratio", 4, 16, step=4)
    if kind == "gem":
        trial.suggest_float("p", 1, 8)
    return trial.params


def tree_cost(params: Params) -> float:
    kernels = [params[f"kernel{i}"] for i in range(params["depth"])]
    option = {"none": 0.0, "se": 1.0, "gem": 2.0}[params["attention"]]
    return float(sum(kernels) + option + (params["ratio"] / 16 if option == 1 else 0))


def test_learn_space_finds_what_decides_about_a_parameter() -> None:
    study = search(RandomSampler(0), 60, lambda t: (1.0, tree_cost(suggest_tree(t))))
    space = learn_space(seen_distributions(study.trials), study.trials)
    names = list(space.distributions)
    columns = {name: names.index(name) for name in names}
    assert names.index("kernel1") < names.index("kernel2") < names.index("attention")
    assert {names[child]: rule for child, rule in space.rules.items()} == {
        "kernel1": Rule(columns["depth"], (1.0,)),
        "kernel2": Rule(columns["depth"], (1.0, 2.0)),
        "ratio": Rule(columns["attention"], (0.0, 2.0)),
        "p": Rule(columns["attention"], (0.0, 1.0)),
    }
    for trial in study.trials:  # settled, as it was asked, and back
        assert space.params(space.settle(space.rows([trial.params]))[0]) == trial.params


def test_conditional_space_gets_costs_of_active_params_alone() -> None:
    given: list[Params] = []

    def cost(params: Params) -> float:
        given.append(params)
        return tree_cost(params)

    def run(trial: Trial) -> tuple[float, float]:
        params = suggest_tree(trial)
        own = tree_cost(params)
        return 30 - own + abs(params.get("p", 0) - 3), own

    found = search(CostAwareSampler(exact={1: cost}), 40, run)
    assert len(set(networks(found))) == 40
    late = given[-200:]
    assert all(("ratio" in params) == (params["attention"] == "se") for params in late)
    assert all(("kernel2" in params) == (params["depth"] == 3) for params in late)


# ---------------------------------------------------------------------------------------------
# Values and rows

DISTRIBUTIONS: list[tuple[BaseDistribution, list[float] | None]] = [
    (CategoricalDistribution(("a", "b", "c")), [0, 1, 2]),
    (IntDistribution(2, 5), [2, 3, 4, 5]),
    (IntDistribution(8, 32, step=8), [8, 16, 24, 32]),
    (IntDistribution(1, 4, log=True), [1, 2, 3, 4]),
    (FloatDistribution(0, 1, step=0.25), [0, 0.25, 0.5, 0.75, 1]),
    (FloatDistribution(1e-4, 1, log=True), None),
    (FloatDistribution(3, 3), None),
]


@pytest.mark.parametrize(("distribution", "values"), DISTRIBUTIONS)
def test_from_unit_draws_all_values_and_no_others(
    distribution: BaseDistribution, values: list[float] | None
) -> None:
    drawn = from_unit(distribution, np.random.default_rng(0).random(3000))
    if values is not None:
        assert all_values(distribution).tolist() == values
        assert np.unique(drawn).tolist() == values
    assert all(distribution._contains(value) for value in drawn)


def test_to_unit_takes_the_ratio_of_a_logarithmic_range() -> None:
    log = FloatDistribution(1e-4, 1, log=True)
    assert to_unit(log, np.array([1e-4, 1e-2, 1])).tolist() == pytest.approx([0, 0.5, 1])
    assert to_unit(IntDistribution(2, 6), np.array([3.0, 99.0])).tolist() == [0.25, 1]


def test_similarity_columns_say_how_alike_two_networks_are() -> None:
    space = Space({"kind": CategoricalDistribution(("a", "b")), "p": FloatDistribution(0, 1)}, {})
    rows = space.rows(
        [{"kind": "a", "p": 0.5}, {"kind": "b", "p": 0.5}, {"kind": "a"}, {"kind": "a", "p": 0.6}]
    )
    columns = space.similarity_columns(rows)
    assert columns.shape == (4, 3 + 6)  # two kinds and five knots, and one each for absent
    own = columns[:, space.owners == 0] @ columns[:, space.owners == 0].T
    assert own[0].tolist() == [1, 0, 1, 1]
    p = columns[:, space.owners == 1] @ columns[:, space.owners == 1].T
    assert np.diag(p) == pytest.approx(1)
    assert p[0, 2] == 0
    # a Gaussian of a fifth of the reach: exp(-0.5 * (0.1 / 0.5)^2) = 0.980
    assert p[0, 3] == pytest.approx(np.exp(-0.02), abs=0.005)


def test_count_columns_are_blind_to_where_a_value_stands() -> None:
    space = Space(BLOCKS | {"width": IntDistribution(1, 4)}, {})
    rows = np.array([[0, 0, 1, 1, 2, 2, 1], [2, 1, 0, 2, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1]], float)
    counts = space.count_columns(rows)
    assert counts[0].tolist() == counts[1].tolist() != counts[2].tolist()


# ---------------------------------------------------------------------------------------------
# Surrogate and improvement


def inputs_of(rows: Floats, linear: Floats | None = None) -> Inputs:
    space = Space({f"b{i}": CategoricalDistribution((0, 1, 2)) for i in range(rows.shape[1])}, {})
    columns, counts = space.similarity_columns(rows), space.count_columns(rows)
    return Inputs(columns, space.owners, counts, rows[:, :0] if linear is None else linear)


def planted(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Rows of five categories and values with a floor, noise of 0.05."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(3, size=(n, 5)).astype(float)
    score = rows @ [1, 0.8, 0.6, 0.4, 0] + (rows[:, 0] == rows[:, 1])
    return rows, 5 + 20 * np.exp(-0.5 * score) + 0.05 * rng.standard_normal(n)


@pytest.mark.parametrize("c", [0.3, 1.0, 1e4])
def test_warp_and_its_inverse(c: float) -> None:
    y = np.array([3.0, 4.0, 9.0, 90.0])
    warp = Warp(3.0, 2.0, c)
    assert warp.inverse(warp(y)) == pytest.approx(y)
    assert warp(np.array([3.0])) == [0]
    assert c < 1e4 or warp(y) == pytest.approx((y - 3) / 2, rel=1e-2)  # a line


def test_loss_gradient_is_its_slope() -> None:
    rows, y = planted(25)
    x = inputs_of(rows, np.random.default_rng(1).standard_normal((25, 2)))
    u = (y - y.min()) / 3
    mean, sd = surrogate._prior(5, errors=True, few=True)
    theta = mean + 0.5 * np.random.default_rng(2).standard_normal(len(mean))

    def loss(at: Floats) -> float:
        return surrogate._loss(at, x, u, mean, sd)[0]

    def slope(at: Floats) -> Floats:
        return surrogate._loss(at, x, u, mean, sd)[1]

    assert check_grad(loss, slope, theta) < 1e-4 * np.linalg.norm(slope(theta))


def test_kernel_is_one_of_its_own_diagonal() -> None:
    x = inputs_of(planted(10)[0])
    kernel = Kernel.of(surrogate._prior(5, errors=True, few=True)[0])
    assert np.diag(kernel(x, x)) == pytest.approx(kernel.diagonal(x))
    assert np.linalg.eigvalsh(kernel(x, x)).min() > -1e-9


def test_surrogate_predicts_what_it_did_not_see() -> None:
    rows, y = planted(60)
    others, truth = planted(200, seed=1)
    model = Surrogate(inputs_of(rows), y)
    off = model.median(inputs_of(others)) - truth
    assert off.std() < 0.15 * truth.std()
    _, own = model.predict(inputs_of(rows))
    _, far = model.predict(inputs_of(others))
    assert own.mean() < far.mean()


def test_surrogate_leaves_broken_networks_out() -> None:
    rows, y = planted(60)
    others, truth = planted(200, seed=1)
    y[[7, 30]] = 90.0
    model = Surrogate(inputs_of(rows), y)
    assert np.flatnonzero(~model.kept).tolist() == [7, 30]
    assert (model.median(inputs_of(others)) - truth).std() < 0.2 * truth.std()


def test_surrogate_keeps_what_is_bad_for_a_reason() -> None:
    rows, y = planted(60)
    y[rows[:, 4] == 2] = 90.0  # a choice that never works
    model = Surrogate(inputs_of(rows), y)
    others, _ = planted(200, seed=1)
    guess = model.median(inputs_of(others))
    assert guess[others[:, 4] == 2].min() > guess[others[:, 4] < 2].max()


def test_believing_changes_how_sure_but_not_what() -> None:
    rows, y = planted(30)
    running = inputs_of(planted(5, seed=3)[0])
    model = Surrogate(inputs_of(rows), y)
    mean, sd = model.predict(running)
    model.believe(running)
    after, surer = model.predict(running)
    assert after == pytest.approx(mean, abs=1e-6)
    assert (surer < sd).all()


def test_surrogate_of_constant_values() -> None:
    model = Surrogate(inputs_of(planted(6)[0]), np.full(6, 2.5))
    assert model.median(inputs_of(planted(4, seed=1)[0])) == pytest.approx(2.5)


@pytest.mark.parametrize("m", [0, 1, 2, 3])
def test_spread_budgets_fill_the_box(m: int) -> None:
    low = np.arange(m, dtype=np.float64)
    high = np.array(low + 2)
    budgets = spread_budgets(low, high, 512)
    assert budgets.shape == (512 if m else 1, m)
    assert ((budgets >= low) & (budgets <= high)).all()
    assert budgets.mean(axis=0) == pytest.approx(low + 1, abs=0.02)
    for halves in itertools.product((False, True), repeat=m):  # each orthant has its share
        share = ((budgets > low + 1) == np.array(halves)).all(axis=1).mean()
        assert share == pytest.approx(0.5**m, abs=0.02)


def hypervolume(points: Floats, reference: Floats, rng: np.random.Generator) -> float:
    """Of the part of the box from 0 to `reference` that points dominate, by 200,000 draws."""
    draws = rng.random((200_000, len(reference))) * reference
    beaten = np.zeros(len(draws), dtype=bool)
    for point in points:
        beaten |= (draws >= point).all(axis=1)
    return float(beaten.mean() * reference.prod())


@pytest.mark.parametrize("m", [0, 1, 2])
def test_expected_hypervolume_is_that_of_drawn_outcomes(m: int) -> None:
    rng = np.random.default_rng(m)
    costs, values = rng.random((6, m)), 1 + 3 * rng.random(6)
    worst, warp = 3.5, Warp(0.5, 1.0, 0.8)
    budgets = spread_budgets(np.zeros(m), np.ones(m), 4096)
    targets = best_within(budgets, costs, values, worst)
    mean, sd, cost = np.array([0.5]), np.array([0.3]), np.full((1, m), 0.3)
    expected = expected_hypervolume(mean, sd, cost, budgets, targets, warp)[0]

    reference = np.array([worst] + [1.0] * m)
    points = np.column_stack([values, costs])
    before = hypervolume(points, reference, np.random.default_rng(9))
    quantiles = (np.arange(40) + 0.5) / 40
    normal = np.sqrt(2) * np.array([_erfinv(2 * q - 1) for q in quantiles])
    gains = []
    for y in warp.inverse(0.5 + 0.3 * normal):
        new = np.vstack([points, [y, *cost[0]]])
        gains.append(hypervolume(new, reference, np.random.default_rng(9)) - before)
    assert expected == pytest.approx(np.mean(gains), rel=0.03, abs=2e-3)


def _erfinv(x: float) -> float:
    from scipy.special import erfinv

    return float(erfinv(x))


def test_standardise_takes_logarithms_of_what_is_positive() -> None:
    table = np.array([[1.0, -1.0, 5.0], [100.0, 1.0, 5.0]])
    scaled = outlook.standardise(table)
    assert scaled(np.array([[10.0, 0.0, 5.0]]))[0] == pytest.approx([0, 0, 0])
    assert scaled(np.array([[1e9, 1.0, 5.0]]))[0] == pytest.approx([4, 1, 0])  # at most 4


def test_search_package_brings_no_optuna_until_the_sampler_is_asked_for() -> None:
    code = (
        "import sys, nasattn.search\n"
        "assert 'optuna' not in sys.modules\n"
        "from nasattn.search import CostAwareSampler\n"
        "assert not hasattr(nasattn.search, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

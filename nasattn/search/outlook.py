"""Outlook: what a study so far lets expect of a new network, and what that is worth."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.special import ndtr

from nasattn.search.catalogue import Batch, Catalogue
from nasattn.search.history import (
    History,
    describe_params,
    describe_trials,
    named_constraints,
)
from nasattn.search.improvement import best_within, expected_hypervolume, spread_budgets
from nasattn.search.surrogate import Inputs, Surrogate
from nasattn.search.values import Floats

N_BUDGETS = 512
N_EXAMPLES = 300  # that a surrogate learns from
MIN_EXAMPLES = 4  # before there is an outlook
N_NEAREST = 10  # networks to breed from, where none is known to keep the constraints
WORST = 0.99  # of random networks are better than the reference point


def get_outlook(
    catalogue: Catalogue, history: History, pool: Batch, rng: np.random.Generator
) -> "Feasibility | None":
    """The outlook of a study; `pool`: random networks.

    While too few trials are complete, that of keeping the constraints, if some were broken; else
    None.
    """
    trials, batch = describe_trials(catalogue, _some(history.complete, rng))
    if len(trials) >= MIN_EXAMPLES:
        return Outlook(catalogue, history, pool, trials, batch, rng)
    feasibility = Feasibility(catalogue, history, pool, rng)
    return feasibility if feasibility.limits else None


class Feasibility:
    """Surrogates of the constraints that were broken.

    `front` are the rows of the networks that came nearest to keeping them.
    """

    def __init__(
        self, catalogue: Catalogue, history: History, pool: Batch, rng: np.random.Generator
    ) -> None:
        self.catalogue, self.history = catalogue, history
        self.scale = standardise(np.hstack([pool.costs, pool.features]))
        learned = (self.learn_limit(name, rng) for name in _broken(history.constrained))
        self.limits = [limit for limit in learned if limit is not None]
        worst = [max(named_constraints(trial).values()) for trial in history.constrained]
        nearest = np.argsort(worst, kind="stable")[:N_NEAREST]
        tried = [history.constrained[i].params for i in nearest]
        self.front = catalogue.space.rows(tried)

    def score(self, batch: Batch) -> Floats:
        """The probability that all constraints hold."""
        return self.hold(self.inputs(batch))

    def hold(self, inputs: Inputs) -> Floats:
        """The probability that all constraints hold: (n,)."""
        chance = np.ones(len(inputs.columns))
        for limit in self.limits:
            mean, sd = limit.predict(inputs)
            chance *= ndtr((limit.warp(np.zeros(1)) - mean) / sd)
        return chance

    def inputs(self, batch: Batch) -> Inputs:
        space = self.catalogue.space
        return Inputs(
            columns=space.similarity_columns(batch.rows),
            owners=space.owners,
            counts=space.count_columns(batch.rows),
            linear=self.scale(np.hstack([batch.costs, batch.features])),
        )

    def learn_limit(self, name: str, rng: np.random.Generator) -> Surrogate | None:
        """What a constraint comes to; None where too few trials tell."""
        told = [t for t in self.history.constrained if name in named_constraints(t)]
        trials, batch = describe_trials(self.catalogue, _some(told, rng))
        if len(trials) < MIN_EXAMPLES:
            return None
        values = np.array([named_constraints(trial)[name] for trial in trials])
        return Surrogate(self.inputs(batch), values, errors=False)


class Outlook(Feasibility):
    """Surrogates of all that is dear, and at each budget the value that is to be beaten.

    `front` are the rows of the networks that none beats so far.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        history: History,
        pool: Batch,
        trials: Sequence[FrozenTrial],
        batch: Batch,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(catalogue, history, pool, rng)
        self.exact = list(catalogue.knowledge.exact)
        values = np.array([trial.values for trial in trials]) * history.signs
        dear = [i for i in range(len(history.signs)) if i not in self.exact]
        inputs = self.inputs(batch)
        self.main, *self.others = (Surrogate(inputs, values[:, i]) for i in dear)

        feasible = [all(v <= 0 for v in trial.constraints.values()) for trial in trials]
        reached = np.where(self.main.kept, self.main.median(inputs), values[:, dear[0]])[feasible]
        costs = values[feasible][:, [*self.exact, *dear[1:]]]
        front = batch.rows[feasible][~_beaten(costs, reached)]
        self.front = front if len(front) else batch.rows

        running = describe_params(catalogue, history.running)
        if len(running):  # as if they had come out as predicted
            inputs = self.inputs(running)
            for surrogate in (self.main, *self.others):
                surrogate.believe(inputs)
            reached = np.append(reached, self.main.median(inputs))
            costs = np.vstack([costs, self.costs(running)])

        usual = np.quantile(self.main.median(self.inputs(pool)), WORST)
        worst = max(usual, reached.min(initial=np.inf)) if len(reached) else usual
        random_costs = self.costs(pool)
        low = np.vstack([random_costs, costs]).min(axis=0)
        self.budgets = spread_budgets(low, random_costs.max(axis=0), N_BUDGETS)
        self.targets = best_within(self.budgets, costs, reached, float(worst))

    def score(self, batch: Batch) -> Floats:
        """Expected hypervolume improvement, times the probability that all constraints hold."""
        inputs = self.inputs(batch)
        mean, sd = self.main.predict(inputs)
        improvement = expected_hypervolume(
            mean, sd, self.costs(batch), self.budgets, self.targets, self.main.warp
        )
        return improvement * self.hold(inputs)

    def costs(self, batch: Batch) -> Floats:
        """All objectives but the first dear one, minimised; further dear ones as expected."""
        exact = batch.costs * self.history.signs[self.exact]
        return np.column_stack(
            [exact, *(other.median(self.inputs(batch)) for other in self.others)]
        )


def standardise(table: Floats) -> Callable[[Floats], Floats]:
    """Columns to mean 0 and deviation 1 as in `table`, of logarithms where all are positive."""
    positive = (table > 0).all(axis=0)

    def bend(a: Floats) -> Floats:
        return np.where(positive, np.log(np.where(positive & (a > 0), a, 1)), a)

    mean, sd = bend(table).mean(axis=0), bend(table).std(axis=0)
    return lambda a: np.clip((bend(a) - mean) / np.where(sd > 0, sd, 1), -4, 4)


def _some(trials: Sequence[FrozenTrial], rng: np.random.Generator) -> Sequence[FrozenTrial]:
    """At most N_EXAMPLES of them."""
    if len(trials) <= N_EXAMPLES:
        return trials
    places = np.sort(rng.choice(len(trials), N_EXAMPLES, replace=False))
    return [trials[i] for i in places]


def _broken(trials: Sequence[FrozenTrial]) -> list[str]:
    """The constraints that some network broke."""
    pairs = (pair for trial in trials for pair in named_constraints(trial).items())
    return sorted({name for name, value in pairs if value > 0})


def _beaten(costs: Floats, values: Floats) -> NDArray[np.bool_]:
    """Which networks are beaten by one that is better and in nothing dearer."""
    cheaper = (costs[None] <= costs[:, None]).all(axis=2)
    beaten: NDArray[np.bool_] = np.any(cheaper & (values[None] < values[:, None]), axis=1)
    return beaten

"""One proposal: networks that are new, and of them the one of the best outlook."""

from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from nasattn.search.catalogue import Batch, Catalogue
from nasattn.search.history import History, describe_params
from nasattn.search.outlook import get_outlook
from nasattn.search.values import Floats

N_POOL = 1000  # random networks, the same for all proposals of a study
N_BRED, N_GENERATIONS, N_PARENTS = 250, 2, 10  # those bred for this proposal, each generation
EXPLORE_EVERY = 20  # one proposal of so many is a random network
EVERYTHING = 50_000  # rows of a space that is gone through where no random network is new


class ExhaustedError(Exception):
    """No network is left that may be proposed."""


def propose(catalogue: Catalogue, history: History, seed: int, n_startup: int) -> Floats:
    """The row of a network that is not in the study: (d,), settled.

    Raises ExhaustedError; KeyError where what is known of a network asks for no parameter of the
    study.
    """
    space, index = catalogue.space, history.index
    rng = np.random.default_rng([seed, index])
    taken = _taken(catalogue, history)
    given = space.rows([history.fixed])

    def new(rows: Floats) -> tuple[Batch, list[tuple[Floats, KeyError]]]:
        return catalogue.new(np.where(np.isnan(given), rows, given), taken)

    starting = index < n_startup
    pool, unknown = new(space.draw(np.random.default_rng(seed), N_POOL))
    if unknown and starting:  # brings parameters to light
        return unknown[rng.integers(len(unknown))][0]
    if unknown and not len(pool):
        raise unknown[0][1]
    if not len(pool):
        every = space.every(EVERYTHING)
        pool, _ = new(space.draw(rng, EVERYTHING) if every is None else every)
    if not len(pool):
        raise ExhaustedError
    if not starting and index % EXPLORE_EVERY == 0:
        return _pick(pool, rng.integers(len(pool)))

    wanted = _least_tried(catalogue, history, pool, n_startup, rng) if starting else _all
    outlook = get_outlook(catalogue, history, pool, rng)
    if outlook is None or (starting and not pool.costs.shape[1]):
        near = np.where(wanted(pool), _nearness(catalogue, history, pool), np.inf)
        return _pick(pool, rng.choice(np.flatnonzero(near <= near.min() + 1e-9)))
    scores = np.where(wanted(pool), outlook.score(pool), -1)
    parents = outlook.front
    for _ in range(N_GENERATIONS):
        bred, _ = new(space.breed(rng, parents, N_BRED))
        if len(bred):
            scores = np.append(scores, np.where(wanted(bred), outlook.score(bred), -1))
            pool = pool.join(bred)
        parents = pool.rows[np.argsort(-scores, kind="stable")[:N_PARENTS]]
    return _pick(pool, np.argmax(scores))


def _pick(batch: Batch, place: np.integer) -> Floats:
    row: Floats = batch.rows[place]
    return row


def _taken(catalogue: Catalogue, history: History) -> set[Hashable]:
    """The identities of all networks that were tried."""
    taken = set()
    for params in history.tried:
        try:
            taken.add(catalogue.knowledge.identity(params))
        except KeyError:  # it failed, or was queued, with too few of its parameters
            continue
    return taken


def _all(batch: Batch) -> NDArray[np.bool_]:
    return np.ones(len(batch), dtype=bool)


def _nearness(catalogue: Catalogue, history: History, batch: Batch) -> Floats:
    """How like the most similar tried network each network is: (n,)."""
    space = catalogue.space
    tried = space.similarity_columns(space.rows(history.tried))
    nearest: Floats = (space.similarity_columns(batch.rows) @ tried.T).max(axis=1, initial=0)
    return nearest


def _least_tried(
    catalogue: Catalogue, history: History, pool: Batch, n: int, rng: np.random.Generator
) -> Callable[[Batch], NDArray[np.bool_]]:
    """Whether networks lie in that one of n parts of the costs' range that was tried least.

    The parts hold equally many random networks, ordered by their ranks in all exact objectives.
    """
    if not pool.costs.shape[1]:
        return _all
    ordered = np.sort(pool.costs, axis=0)

    def ranks(batch: Batch) -> Floats:
        pairs = zip(ordered.T, batch.costs.T, strict=True)
        total: Floats = sum(np.searchsorted(own, costs, "right") for own, costs in pairs) + 0.0
        return total

    edges = np.quantile(ranks(pool), np.arange(1, n) / n)

    def parts(batch: Batch) -> NDArray[np.intp]:
        return np.searchsorted(edges, ranks(batch), "left")

    tried = describe_params(catalogue, history.tried)
    counts = np.bincount(parts(tried), minlength=n) if len(tried) else np.zeros(n)
    there = np.unique(parts(pool))
    part = rng.choice(there[counts[there] == counts[there].min()])
    return lambda batch: parts(batch) == part

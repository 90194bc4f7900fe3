"""One proposal: networks that are new, and of them the one of the best outlook."""

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from nasattn.search.catalogue import Batch, Catalogue
from nasattn.search.history import History, describe_params
from nasattn.search.outlook import get_outlook
from nasattn.search.values import Floats

N_POOL = 1000  # random networks, the same for all proposals of a study
N_BRED, N_GENERATIONS, N_PARENTS = 250, 2, 10  # those bred for this proposal, each generation
EXPLORE_EVERY = 20  # one proposal of so many is a random network


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
        return _farthest(catalogue, history, np.array([row for row, _ in unknown]), rng)
    if unknown and not len(pool):
        raise unknown[0][1]
    if not len(pool):  # few networks may be proposed: those like the ones that were found
        pool, _ = new(space.breed(rng, describe_params(catalogue, history.tried).rows, N_BRED))
    if not len(pool):
        pool, _ = new(catalogue.reserve(seed))
    if not len(pool):
        raise ExhaustedError
    if not starting and index % EXPLORE_EVERY == 0:
        return _pick(pool, rng.integers(len(pool)))
    outlook = None if starting else get_outlook(catalogue, history, pool, rng)
    if outlook is None:
        least = _least_tried(catalogue, history, pool, n_startup, rng)
        return _farthest(catalogue, history, pool.rows[least], rng)

    scores, parents = outlook.score(pool), outlook.front
    for _ in range(N_GENERATIONS):
        bred, _ = new(space.breed(rng, parents, N_BRED))
        if len(bred):
            pool, scores = pool.join(bred), np.append(scores, outlook.score(bred))
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


def _farthest(
    catalogue: Catalogue, history: History, rows: Floats, rng: np.random.Generator
) -> Floats:
    """The row least like what was tried."""
    space = catalogue.space
    tried = space.similarity_columns(space.rows(history.tried))
    near = (space.similarity_columns(rows) @ tried.T).max(axis=1, initial=0)
    row: Floats = rows[rng.choice(np.flatnonzero(near <= near.min() + 1e-9))]
    return row


def _least_tried(
    catalogue: Catalogue, history: History, pool: Batch, n: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Whether networks lie in that one of n parts of the costs' range that was tried least.

    The parts hold equally many random networks, ordered by their ranks in all exact objectives.
    """
    part, tried = _parts(pool.costs, describe_params(catalogue, history.tried).costs, n)
    counts = np.bincount(tried, minlength=n)
    there = np.unique(part)
    least: NDArray[np.bool_] = part == rng.choice(there[counts[there] == counts[there].min()])
    return least


def _parts(costs: Floats, others: Floats, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of n parts networks and others lie in, 0 to n - 1; each has equally many of `costs`."""
    n = max(n, 1)
    ordered = np.sort(costs, axis=0).T

    def rank(table: Floats) -> Floats:
        ranks = np.zeros(len(table))
        for own, column in zip(ordered, table.T, strict=False):  # `others` may have no rows
            ranks += np.searchsorted(own, column, "right")
        return ranks

    edges = np.quantile(rank(costs), np.arange(1, n) / n)
    return np.searchsorted(edges, rank(costs)), np.searchsorted(edges, rank(others))

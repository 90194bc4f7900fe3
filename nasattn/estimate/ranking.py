"""Ranking: what each estimator of a bench is worth, as plain data."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasattn.errors import EvaluationError
from nasattn.estimate.bench import OWN_SEED, BenchSpec, Drawn, truth_of
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.quality import Ceiling, Floats, Quality, ceiling, combined, quality
from nasattn.estimate.table import FULL, parts_of, prepared_for
from nasattn.space import SearchSpace

LEAST = 4  # networks, for a tau to be worth telling


@dataclass(frozen=True)
class Ranked:
    """An estimator, or several as one."""

    name: str
    quality: Quality
    cpu_seconds: float  # a network, the mean; its part of what is shared included
    shared_cpu_seconds: float  # of what was prepared once for all networks
    n_failed: int  # networks of which it says nothing: they count as the worst


@dataclass(frozen=True)
class Ranking:
    """The estimators of a bench, the best first."""

    space: str
    n_networks: int
    n_left_out: int  # of which a training failed
    seeds: int
    spread: float  # of the truth over networks, a standard deviation
    full_cpu_seconds: float  # a training, the mean
    ceiling: Ceiling | None  # None with one seed
    rows: tuple[Ranked, ...]


def rank_estimators(
    spec: BenchSpec,
    space: SearchSpace,
    networks: Sequence[Drawn],
    trained: Ledger,
    estimated: Ledger,
) -> Ranking:
    """Hold every estimate against the truth. Raises EvaluationError where there is too little."""
    truth = truth_of(networks, trained, spec.seeds)
    if len(truth) < LEAST:
        raise EvaluationError(f"{len(truth)} networks could be trained, {LEAST} or more must")
    runs = np.array([*truth.values()])  # (n, seeds)
    mean = runs.mean(axis=1)
    found = {name: _Part.of(name, space, [*truth], estimated) for name in spec.parts()}
    rows = []
    for name in spec.rows():
        parts = [found[part] for part in parts_of(name)]
        values = combined([part.values for part in parts])
        shared = sum(
            {key: seconds for part in parts for key, seconds in part.shared.items()}.values()
        )
        rows.append(
            Ranked(
                name,
                quality(values, mean, found["macs"].values),
                sum(part.cpu_seconds for part in parts) + shared / len(truth),
                shared,
                max(part.n_failed for part in parts),
            )
        )
    seconds = [trained.rows[Task(FULL, s, i)].cpu_seconds for i in truth for s in range(spec.seeds)]
    return Ranking(
        space=spec.space,
        n_networks=len(truth),
        n_left_out=len(networks) - len(truth),
        seeds=spec.seeds,
        spread=float(mean.std(ddof=1)),
        full_cpu_seconds=statistics.fmean(seconds),
        ceiling=ceiling(runs) if spec.seeds > 1 else None,
        rows=tuple(sorted(rows, key=lambda row: -(row.quality.tau or 0))),
    )


@dataclass(frozen=True)
class _Part:
    """What one estimator says of all networks."""

    values: Floats  # (n,); -inf where it failed
    cpu_seconds: float  # a network, the mean
    shared: Mapping[str, float]  # processor time of what was prepared for all, by estimator
    n_failed: int

    @classmethod
    def of(cls, name: str, space: SearchSpace, arch_ids: Sequence[str], ledger: Ledger) -> "_Part":
        prepared = ledger.rows.get(Task(prepared_for(name), OWN_SEED, space.space_id))
        rows = [ledger.rows.get(Task(name, OWN_SEED, arch_id)) for arch_id in arch_ids]
        known = [row.value if row and row.value is not None else -np.inf for row in rows]
        return cls(
            np.array(known),
            statistics.fmean(row.cpu_seconds for row in rows if row) if any(rows) else 0.0,
            {prepared_for(name): prepared.cpu_seconds} if prepared else {},
            sum(not np.isfinite(value) for value in known),
        )

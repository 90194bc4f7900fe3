"""What an engine costs: a trial that does nothing, and how busy 32 slots of Ray are kept.

    python benchmarks/engines.py [--trials 200] [--slots 32] [--seconds 1]

The networks are made-up; everything else is a real search: proposals (random), a study in memory,
in a journal or in a sqlite file, the driver, the engine. The start of workers is left out, and
printed.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.evaluate import Evaluation, OnEpoch, Stops
from nasattn.search.engines.engine import INLINE, Engine
from nasattn.search.engines.local import LocalEngine
from nasattn.search.engines.ray_tune import connect
from nasattn.search.run import run_search
from nasattn.search.spec import StudySpec
from nasattn.search.storage import open_study
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch

SPACE = SearchSpace.model_validate(
    {
        "name": "stages",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}] * 3},
        "parameters": {
            "stages.width": {"type": "int", "low": 32, "high": 64, "step": 2},
            "stages.attention.kind": ["none", "se"],
        },
    }
)
DIRECTIONS = {"top1": "maximize", "macs": "minimize"}
STORAGES = ("memory", "journal", "sqlite")


@dataclass(frozen=True)
class Sleeping:
    """Takes so many seconds and does nothing."""

    seconds: float

    def static_values(self, arch: Architecture) -> dict[str, float]:
        macs = float(sum(stage.depth * stage.width**2 for stage in arch.stages))
        return {"macs": macs, "params": macs / 10}

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        time.sleep(self.seconds)
        values = self.static_values(arch)
        return Evaluation("complete", values | {"top1": 1 - 1 / (1 + values["macs"])})


@dataclass
class Clock:
    """A Watcher: when the evaluations began and the trials were told."""

    began: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)

    def started(self, name: str, spent: int) -> None:
        self.began.append(time.perf_counter())

    def epoch(self, name: str, epoch: Epoch) -> None: ...

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self.told.append(time.perf_counter())


@contextmanager
def study_in(storage: str) -> Iterator[optuna.Study]:
    if storage == "memory":
        yield optuna.create_study(directions=[*DIRECTIONS.values()])
        return
    with tempfile.TemporaryDirectory() as folder:
        url = f"{storage}:///{folder}/s"
        with open_study(url, "s", DIRECTIONS, {}) as study:  # type: ignore[arg-type]
            yield study


def run(engine: Engine, storage: str, n_trials: int, seconds: float) -> Clock:
    spec = StudySpec.model_validate(
        {
            "objectives": ("top1", "macs"),
            "resolution": 16,
            "sampler": "random",
            "n_trials": n_trials,
        }
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as artifacts, study_in(storage) as study:
        run_search(
            study,
            spec,
            SPACE,
            Sleeping(seconds),
            facts={},
            artifacts=Path(artifacts),
            watcher=clock,
            engine=engine,
        )
    return clock


def overhead(name: str, engine: Engine, storage: str, n: int) -> None:
    """Milliseconds a trial that does nothing, over the later three quarters of them."""
    told = run(engine, storage, n, 0.0).told
    later = told[n // 4 :]
    each = 1e3 * (later[-1] - later[0]) / (len(later) - 1)
    print(f"{name:<22} {storage:<8} {each:8.1f} ms a trial (n {len(later)})", flush=True)


def efficiency(engine: Engine, storage: str, n: int, seconds: float) -> None:
    """Share of the slots' time that is spent in evaluations, once all workers stand."""
    begun = time.perf_counter()
    clock = run(engine, storage, n, seconds)
    slots = engine.n_jobs
    # The workers stand when so many have begun; the last ones end without another to follow.
    first, last = clock.began[2 * slots], clock.told[-slots]
    done = sum(first < moment <= last for moment in clock.told)
    share = done * seconds / (slots * (last - first))
    print(
        f"{slots} slots, {seconds:g} s a trial, {storage}: {100 * share:.1f} % busy over {done} "
        f"trials in {last - first:.1f} s; {clock.began[2 * slots] - begun:.0f} s until all stood",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--storage", action="append", choices=STORAGES)
    parser.add_argument("--skip", choices=("overhead", "efficiency"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storages = options.storage or STORAGES
    if options.skip != "overhead":
        for storage in storages:
            overhead("in one process", INLINE, storage, options.trials)
            overhead("local, 2 processes", LocalEngine(2), storage, options.trials)
            with connect(n_jobs=2) as engine:
                overhead("ray, 2 workers", engine, storage, options.trials)
    for storage in storages if options.skip != "efficiency" else ():
        with connect(n_jobs=options.slots) as engine:
            efficiency(engine, storage, 20 * options.slots, options.seconds)


if __name__ == "__main__":
    main()

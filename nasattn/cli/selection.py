"""The best of a search again, with progress shown."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nasattn.cli.progress import ARCH_ID, WIDTH
from nasattn.objectives import OBJECTIVES
from nasattn.report.front_table import BASELINE
from nasattn.search.engines.engine import Engine, Work
from nasattn.search.plan import Deadline
from nasattn.search.selection import finalists, missing, run_selection
from nasattn.search.spec import StudySpec
from nasattn.words import duration, plural


def select(
    study: optuna.Study,
    spec: StudySpec,
    work: Work,
    seeds: Sequence[int],
    console: Console,
    engine: Engine,
    deadline: Deadline | None = None,
) -> None:
    """Train the finalists again wherever that is still to be done.

    With a `deadline` over as many seeds as there is time for, and one at least.
    """
    if "top1" not in spec.objectives or not seeds:
        return
    best = finalists(study, spec.objective_rows(), spec.n_finalists)
    runs = missing(study, best, seeds)
    while deadline and len(seeds) > 1 and not deadline.fits([_seconds(t) for _, t in runs]):
        seeds = seeds[:-1]
        runs = missing(study, best, seeds)
    if not runs:
        return
    who = plural(len(best), "network") if len(best) > 1 else "network"
    what, do = ("run", "look up") if spec.table else ("training", "do")
    console.print(
        f"\nthe best {who} again, over {plural(len(seeds), 'fresh seed')} "
        f"({plural(len(runs), what)} to {do})",
        style="dim",
    )
    with SelectionProgress(console, len(runs), quiet=spec.table is not None) as progress:
        run_selection(
            study,
            runs,
            work,
            progress,
            engine=engine,
            max_retries=spec.max_retries,
            deadline=deadline,
        )


class SelectionProgress:
    """A selection's Watcher for people. Time left: the mean of the runs so far, for each other.

    A `quiet` one has the bar alone.
    """

    def __init__(self, console: Console, n_runs: int, *, quiet: bool = False) -> None:
        self.console, self.n_runs, self.n_done, self.quiet = console, n_runs, 0, quiet
        self.start = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=n_runs)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def started(self, trial: FrozenTrial, seed: int) -> None:
        self.bar.update(
            self.task, description=f"{self.n_done + 1}/{self.n_runs} {name_of(trial)} seed {seed}"
        )

    def finished(self, trial: FrozenTrial, seed: int, run: Mapping[str, Any]) -> None:
        self.n_done += 1
        self.bar.update(self.task, completed=self.n_done)
        if self.quiet:
            return
        row = OBJECTIVES["top1"]
        said = f"failed: {run['reason']}" if run["top1"] is None else row.show(run["top1"])
        left = (time.monotonic() - self.start) / self.n_done * (self.n_runs - self.n_done)
        self.console.print(
            f"{f'{self.n_done}/{self.n_runs}':>7} {name_of(trial):<{ARCH_ID + 10}} seed {seed:<3} "
            f"{said:>{WIDTH}} {duration(run['seconds']):>7} {duration(left) if left else '':>7}",
            markup=False,
            soft_wrap=True,
        )


def _seconds(trial: FrozenTrial) -> float:
    """What its training took in the search."""
    return float(trial.user_attrs.get("seconds", 0.0))


def name_of(trial: FrozenTrial) -> str:
    """A trial's network, a baseline starred."""
    baseline = trial.user_attrs.get("baseline")
    return f"{BASELINE} {baseline}" if baseline else f"  {trial.user_attrs['arch_id']}"

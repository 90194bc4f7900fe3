"""`nasattn search --evaluator table:FILE`: the same road, where nothing is trained."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import Progress

from nasattn.baselines.baseline import PICTURES
from nasattn.cli.progress import ARCH_ID, WIDTH
from nasattn.cli.study import note_environment
from nasattn.cli.way import Run
from nasattn.errors import StudyError
from nasattn.report import Front
from nasattn.report.front_table import BASELINE, front_words
from nasattn.search.driver import Ending
from nasattn.search.engines.engine import Engine, Work
from nasattn.search.look_up import LookUpAgain, TableEvaluator, search_table
from nasattn.search.spec import TRAINING, StudySpec
from nasattn.search.table import read_table
from nasattn.search.trials import is_new
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch
from nasattn.words import plural, printable

FAILED_SHOWN = 3


@dataclass(frozen=True)
class LookingUp:
    """Networks are looked up in a table."""

    spec: StudySpec
    evaluator: TableEvaluator
    planned = None
    deadline = None

    @property
    def source(self) -> tuple[str, str]:
        return self.evaluator.table.name, self.evaluator.table.content_hash

    def plan(self) -> list[str]:
        table, pictures = self.evaluator.table, self.evaluator.pictures
        lines = [
            f"table {table.name}: {plural(len(table.networks), 'network')}, nothing is trained"
        ]
        several = {name: len(runs) for name, runs in table.columns.items() if len(runs) > 1}
        lines += [
            f"{name}: run {self.spec.seed % n} of {n}, by the seed" for name, n in several.items()
        ]
        counted = [r.name for r in self.evaluator.needed() if r.name not in table.columns]
        if counted:
            side, classes = pictures.resolution, pictures.num_classes
            where = f"pictures of {side}x{side}, {classes:,} classes"
            lines.append(f"not in the table, so counted, for {where}: {', '.join(counted)}")
        if self.spec.estimator:
            lines.append(f"before each is looked up {self.spec.estimator}")
        return lines

    def words(self, front: Front) -> list[str]:
        about = f"{', '.join(self.evaluator.table.columns)}: as {self.evaluator.table.name} says"
        return [*front_words(replace(front, objectives=())), about]

    @property
    def travelling(self) -> int:
        return 0

    def on(self, engine: Engine, spec: StudySpec, storage: str) -> Self:
        return replace(self, spec=spec)

    def search(self, study: optuna.Study, space: SearchSpace, run: Run) -> Ending:
        console = run.console
        note_environment(console, study)
        with TableProgress(console, study, self.spec, space.baselines) as progress:
            return search_table(
                study,
                self.spec,
                space,
                self.evaluator,
                facts={"seed": self.spec.seed},
                artifacts=run.artifacts,
                watcher=progress,
                engine=run.engine,
                command=run.command,
            )

    def fresh_seeds(self) -> list[int]:
        """As many as the table has other runs for."""
        n = len(self.evaluator.table.columns.get("top1", ())) - 1
        return [self.spec.seed + i for i in range(1, min(self.spec.n_seeds, n) + 1)]

    @property
    def again(self) -> Work:
        return LookUpAgain(self.evaluator)


def look_up(spec: StudySpec, space: SearchSpace, changes: Mapping[str, Any]) -> LookingUp:
    """The table, read and checked against the space; objectives as far as it has them."""
    for name in TRAINING:
        if name in changes:
            raise StudyError(f"{name}: means nothing with a table, of which nothing is trained")
    assert spec.table
    table = read_table(spec.table, space, spec.resolution, spec.estimators)
    if "objectives" not in spec.model_fields_set:
        known = [row.name for row in spec.objective_rows() if table.knows(row)]
        spec = spec.model_copy(update={"objectives": tuple(known)})
    pictures = PICTURES["ImageNet"]
    pictures = replace(pictures, resolution=spec.resolution or pictures.resolution)
    rows, limits = spec.objective_rows(), spec.limits(space)
    return LookingUp(spec, TableEvaluator(table, rows, limits, spec.seed, pictures))


class TableProgress:
    """A Watcher for what takes no time: a line for each new best network, the rest in numbers.

    The best by the first objective, among those that keep to the limits.
    """

    def __init__(
        self,
        console: Console,
        study: optuna.Study,
        spec: StudySpec,
        baselines: tuple[str, ...] = (),
    ) -> None:
        self.console = console
        self.spec = spec
        self.objectives = spec.objective_rows()
        self.width = 2 + max(ARCH_ID, *map(len, baselines), 0)  # of a network's name
        self.best: float | None = None  # smaller is better
        self.failed: Counter[str] = Counter()  # by reason
        self.spent = 0
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("looking up", total=spec.n_trials)
        for trial in study.get_trials(deepcopy=False):
            self._is_best(trial)

    def __enter__(self) -> Self:
        names = "".join(f" {row.heading:>{WIDTH}}" for row in self.objectives)
        self._print(f"  trial   {'new best':<{self.width - 2}}{names}")
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        more = sum(self.failed.values()) - FAILED_SHOWN
        if more > 0:
            self._print(f"        {more} more failed: {self.failed.most_common(1)[0][0]}")

    def started(self, name: str, spent: int) -> None: ...

    def epoch(self, name: str, epoch: Epoch) -> None: ...

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self.bar.update(self.task, completed=spent)
        if not is_new(trial):
            return
        attributes = trial.user_attrs
        baseline = attributes.get("baseline")
        name = f"{BASELINE} {baseline}" if baseline else f"  {attributes.get('arch_id', '?')}"
        line = f"{f'{spent}/{self.spec.n_trials}':>7} {name:<{self.width}}"
        if trial.state == TrialState.FAIL:
            self.failed[attributes["reason"]] += 1
            if self.failed.total() <= FAILED_SHOWN:
                self._print(f"{line} failed: {attributes['reason']}")
        elif self._is_best(trial) or (baseline and trial.state == TrialState.COMPLETE):
            figures = (row.show(attributes["values"][row.name]) for row in self.objectives)
            self._print(line + "".join(f" {figure:>{WIDTH}}" for figure in figures))

    def _is_best(self, trial: FrozenTrial) -> bool:
        if trial.state != TrialState.COMPLETE or any(v > 0 for v in trial.constraints.values()):
            return False
        value = self.objectives[0].sign * trial.values[0]
        if self.best is not None and value >= self.best:
            return False
        self.best = value
        return True

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, soft_wrap=True)

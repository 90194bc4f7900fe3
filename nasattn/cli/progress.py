"""The progress of a search: a line a trial, and on a terminal a bar below them."""

import statistics
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nasattn.objectives import Objective
from nasattn.report.front_table import BASELINE
from nasattn.search.plan import Deadline
from nasattn.search.spec import StudySpec
from nasattn.search.trials import counts, is_new
from nasattn.train.loop import Epoch
from nasattn.words import duration

WIDTH = 10  # of a column
ARCH_ID = 12  # digits
SILENCE = 30  # seconds after which a log that is no terminal gets a line


@dataclass
class _Running:
    """A trial that is under way."""

    start: float
    share: float = 0.0  # of it that is done

    def rest(self, now: float, usual: float) -> float:
        """Seconds that it will still take, where one usually takes so many."""
        elapsed = now - self.start
        return elapsed / self.share - elapsed if self.share else max(usual - elapsed, 0)


class SearchProgress:
    """A Watcher for people. Time left: the rest of what runs, a median trial for each other."""

    def __init__(
        self,
        console: Console,
        study: optuna.Study,
        spec: StudySpec,
        objectives: tuple[Objective, ...],
        baselines: tuple[str, ...] = (),
        n_jobs: int = 1,
        deadline: Deadline | None = None,
    ) -> None:
        self.console = console
        self.deadline = deadline
        self.width = 2 + max(ARCH_ID, *map(len, baselines), 0)  # of a network's name
        self.spec = spec
        self.objectives = objectives
        self.n_jobs = n_jobs
        self.seconds: list[float] = []  # of the budget's trials
        self.best: float | None = None  # of the first objective
        self.spent = 0
        self.running: dict[str, _Running] = {}  # by name
        self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.total = spec.n_trials if deadline is None else None
        self.task = self.bar.add_task("starting", total=self.total, note="")
        for trial in study.get_trials(deepcopy=False):
            self._remember(trial)

    def __enter__(self) -> Self:
        names = "".join(f" {row.heading:>{WIDTH}}" for row in self.objectives)
        self.console.print(
            f"  trial   {'network':<{self.width - 2}}{names}    took    left", soft_wrap=True
        )
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def started(self, name: str, spent: int) -> None:
        self.running[name] = _Running(time.monotonic())
        self.spent = spent
        self._show(name, "measuring")

    def epoch(self, name: str, epoch: Epoch) -> None:
        n_epochs = self.spec.recipe.epochs
        self.running[name].share = epoch.number / n_epochs
        self._show(name, f"epoch {epoch.number}/{n_epochs}")
        if not self.console.is_terminal and time.monotonic() - self.last_line > SILENCE:
            self._print(f"        {name} epoch {epoch.number}/{n_epochs}, {self._note()}")

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self._remember(trial)
        self.spent = spent
        if is_new(trial):
            attributes = trial.user_attrs
            self.running.pop(attributes.get("baseline", attributes.get("arch_id", "")), None)
        if is_new(trial) and (counts(trial) or "baseline" in trial.user_attrs):
            self._print(self._line(trial))

    def _remember(self, trial: FrozenTrial) -> None:
        if counts(trial):
            self.seconds.append(trial.user_attrs.get("seconds", 0.0))
        first = self.objectives[0]
        if trial.state == TrialState.COMPLETE and all(v <= 0 for v in trial.constraints.values()):
            value = trial.values[0]
            best = value if self.best is None else self.best
            self.best = min(value, best, key=lambda v: first.sign * v)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)
        self.last_line = time.monotonic()

    def _show(self, name: str, doing: str) -> None:
        """What happens now with one of the networks that run."""
        n = len(self.running)
        others = f" and {n - 1} more" if n > 1 else ""
        self.bar.update(
            self.task,
            description=f"{self._count(self.spent + 1)} {name} {doing}{others}",
            completed=self.spent + sum(one.share for one in self.running.values()),
            note=self._note(),
        )

    def _note(self) -> str:
        first = self.objectives[0]
        best = "" if self.best is None else f"best {first.say(self.best)}, "
        return best + self._time_left()

    def _count(self, number: int) -> str:
        """A trial's number, of how many where that is known."""
        return f"{number}" if self.total is None else f"{number}/{self.total}"

    def _time_left(self) -> str:
        if self.deadline:
            return f"{duration(max(self.deadline.left, 0))} left"
        if not self.seconds:
            return "timing the first network"
        trial, now = statistics.median(self.seconds), time.monotonic()
        rests = [one.rest(now, trial) for one in self.running.values()]
        others = max(self.spec.n_trials - self.spent - len(rests), 0)
        left = max([(sum(rests) + trial * others) / self.n_jobs, *rests])
        return f"about {duration(left)} left"

    def _line(self, trial: FrozenTrial) -> str:
        attributes = trial.user_attrs
        baseline = attributes.get("baseline")
        name = f"{BASELINE} {baseline}" if baseline else f"  {attributes.get('arch_id', '?')}"
        line = f"{self._count(self.spent):>7} {name:<{self.width}}"
        if trial.state != TrialState.COMPLETE:
            return f"{line} {'failed: ' * (trial.state == TrialState.FAIL)}{attributes['reason']}"
        for row in self.objectives:
            line += f" {row.show(attributes['values'][row.name]):>{WIDTH}}"
        rest = self.spec.n_trials - self.spent
        left = statistics.median(self.seconds) * rest / min(self.n_jobs, max(rest, 1))
        if self.deadline:
            left = max(self.deadline.left, 0)
        took = duration(attributes.get("seconds", 0.0))
        return f"{line} {took:>7} {duration(left) if left else '':>7}"

"""Way: how the networks of a search come by their figures, and what it is shown on and run by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import optuna
from rich.console import Console

from nasattn.report import Front
from nasattn.report.review import Review, Reviewed
from nasattn.search.driver import Ending, Watcher
from nasattn.search.engines.engine import Engine, Work
from nasattn.search.plan import Deadline, Plan
from nasattn.search.spec import StudySpec
from nasattn.space import SearchSpace


@dataclass(frozen=True)
class Run:
    """What a search is shown on and run by."""

    console: Console
    engine: Engine
    artifacts: Path
    command: str  # that goes on with it
    review: Review | None = None  # what keeps the dashboard up to date

    def watched_by(self, watcher: Watcher) -> Watcher:
        return Reviewed(watcher, self.review) if self.review else watcher


class Way(Protocol):
    """How networks come by their figures: by training, or from a table."""

    @property
    def spec(self) -> StudySpec:
        """The study, with what the way settles in it."""

    @property
    def planned(self) -> Plan | None:
        """By time."""

    @property
    def deadline(self) -> Deadline | None: ...

    @property
    def source(self) -> tuple[str, str]:
        """Name and hash of the pictures, or of the table."""

    def plan(self) -> list[str]:
        """What is about to happen, in lines of at most 80 columns for usual names."""

    def words(self, front: Front) -> list[str]:
        """How far a front's figures can be trusted."""

    @property
    def travelling(self) -> int:
        """How many bytes a worker is sent."""

    def on(self, engine: Engine, spec: StudySpec, storage: str) -> Self:
        """The same on an engine."""

    def search(self, study: optuna.Study, space: SearchSpace, run: Run) -> Ending:
        """Search with progress shown; returns what ended it."""

    def fresh_seeds(self) -> list[int]:
        """Those over which the best are evaluated again."""

    @property
    def again(self) -> Work:
        """Finds a network's top1 with a fresh seed."""

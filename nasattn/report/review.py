"""Review: keeps what the dashboard shows of a study up to date while it is searched."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from nasattn.report.dashboard import MOST_NOTES, Notes, catch_up, chart_attributes
from nasattn.search.driver import Watcher
from nasattn.search.history import GIVEN_UP
from nasattn.train.loop import Epoch

SHARE = 0.05  # of a search's time that may go into what the dashboard shows


@dataclass
class Review:
    """Keeps what the dashboard shows of a study up to date; for the process that may write to it.

    `folder` is the one of the artifacts. Told of trials as they finish, it takes a share of the
    time at most. What goes wrong ends the review, and is kept: it must not end a search.
    """

    study: optuna.Study
    folder: Path
    began: float = field(default_factory=time.monotonic)
    spent: float = 0.0  # seconds
    waiting: list[int] = field(default_factory=list)  # numbers of trials
    drawing: float = 3.0  # seconds that the charts took last
    failure: Exception | None = None

    @property
    def room(self) -> float:
        """Seconds that may be spent now."""
        return SHARE * (time.monotonic() - self.began) - self.spent

    def told(self, trial: FrozenTrial) -> None:
        """A trial is finished: write its note, and the charts, as far as there is time."""
        self.waiting.append(trial.number)
        if self.failure or self.room <= 0:
            return
        start = time.monotonic()
        try:
            self._write(start)
        except Exception as e:
            self.failure = e
        self.spent += time.monotonic() - start

    def _write(self, start: float) -> None:
        notes = Notes(self.study, self.folder)
        while self.waiting and time.monotonic() - start < self.room:
            number = self.waiting.pop(0)
            if notes.n_noted < MOST_NOTES or "baseline" in notes.trials[number].user_attrs:
                notes.set(self.study, notes.note(number))
        if self.room - (time.monotonic() - start) > self.drawing:
            before = time.monotonic()
            notes.set(self.study, chart_attributes(self.study, notes.stored()))
            self.drawing = time.monotonic() - before

    def finish(self) -> None:
        """Bring all up to date, where that takes a small part of the search's own time."""
        n = min(len(self.study.get_trials(deepcopy=False)), MOST_NOTES)
        if self.failure or self.drawing + 0.1 * n > 2 * SHARE * (time.monotonic() - self.began):
            return
        try:
            catch_up(self.study, self.folder)
        except Exception as e:
            self.failure = e


@dataclass
class Reviewed:
    """A Watcher of a search that tells a Review, too."""

    watcher: Watcher
    review: Review

    def started(self, name: str, spent: int) -> None:
        self.watcher.started(name, spent)

    def epoch(self, name: str, epoch: Epoch) -> None:
        self.watcher.epoch(name, epoch)

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self.watcher.finished(trial, spent)
        if GIVEN_UP not in trial.user_attrs:
            self.review.told(trial)

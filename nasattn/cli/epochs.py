"""The progress of one training: a line an epoch, and on a terminal a bar below them."""

import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nasattn.words import duration, plural

WIDTH = 9  # of a column


class EpochLines:
    """The figures of each epoch, and the time that is left by the median epoch so far."""

    def __init__(
        self, console: Console, n_epochs: int, columns: Sequence[str], done: int = 0
    ) -> None:
        self.console = console
        self.n_epochs = n_epochs
        self.columns = columns
        self.done = self.began = done
        self.seconds: list[float] = []
        self.start = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=n_epochs, completed=done, note="")

    def __enter__(self) -> Self:
        if self.done:
            self._print(f"going on after epoch {self.done}")
        self._print("  epoch" + "".join(f" {c:>{WIDTH}}" for c in (*self.columns, "took", "left")))
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, done: int, steps: int) -> None:
        """So many steps of the epoch that runs are done."""
        epochs = self.done + done / steps
        left = (time.monotonic() - self.start) / (epochs - self.began) * (self.n_epochs - epochs)
        self.bar.update(
            self.task,
            description=f"epoch {self.done + 1}/{self.n_epochs} step {done}/{steps}",
            completed=epochs,
            note=f"about {duration(left)} left",
        )

    def show(self, number: int, seconds: float, figures: Sequence[str]) -> None:
        """The line of an epoch that is done."""
        self.done = number
        self.seconds.append(seconds)
        left = statistics.median(self.seconds) * (self.n_epochs - number)
        note = duration(left) if left else ""
        cells = (*figures, duration(seconds), note)
        line = f"{f'{number}/{self.n_epochs}':>7}" + "".join(f" {c:>{WIDTH}}" for c in cells)
        self._print(line.rstrip())
        self.bar.update(
            self.task,
            description=f"epoch {min(number + 1, self.n_epochs)}/{self.n_epochs}",
            completed=number,
            note=f"about {note} left" if left else "",
        )

    def stopped(self) -> None:
        """What the user who stopped it has, and how to go on."""
        kept = f"{plural(self.done, 'epoch')} {'is' if self.done == 1 else 'are'} kept"
        command = shlex.join(["nasattn", *sys.argv[1:]])
        self._print(f"\nstopped, {kept}; to go on: {command}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

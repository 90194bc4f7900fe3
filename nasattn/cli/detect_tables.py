"""What `nasattn detect` shows: a line an epoch, and the scores of each class."""

import statistics
import time

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from nasattn.cli.progress import duration
from nasattn.detect.coco import CocoSplit
from nasattn.detect.loop import DetectEpoch
from nasattn.detect.score import Scores


class DetectProgress:
    """A line an epoch; on a terminal a bar below them."""

    def __init__(self, console: Console, n_epochs: int) -> None:
        self.console = console
        self.n_epochs = n_epochs
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
        self.task = self.bar.add_task("starting", total=n_epochs, note="")

    def __enter__(self) -> "DetectProgress":
        self.console.print("  epoch      loss     mAP %   mAP50 %      took      left")
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, done: int, steps: int) -> None:
        epochs = len(self.seconds) + done / steps
        elapsed = time.monotonic() - self.start
        self.bar.update(
            self.task,
            description=f"epoch {len(self.seconds) + 1}/{self.n_epochs} step {done}/{steps}",
            completed=epochs,
            note=f"about {duration(elapsed / epochs * (self.n_epochs - epochs))} left",
        )

    def epoch(self, epoch: DetectEpoch) -> None:
        self.seconds.append(epoch.seconds)
        left = statistics.median(self.seconds) * (self.n_epochs - epoch.number)
        self.console.print(
            f"{f'{epoch.number}/{self.n_epochs}':>7} {epoch.loss:>9.3f} "
            f"{percent(epoch.scores.map):>9} {percent(epoch.scores.map50):>9} "
            f"{duration(epoch.seconds):>9} {duration(left) if left else '':>9}".rstrip(),
            soft_wrap=True,
        )


def show_scores(console: Console, scores: Scores, split: CocoSplit) -> None:
    """The mean, then each class with the number of its objects."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("objects", "AP %", "AP50 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in scores.classes:
        cells = (f"{row.n_objects:,}", percent(row.ap), percent(row.ap50))
        table.add_row(Text(row.name), *cells)
    console.print(table)
    console.print(
        f"mAP {percent(scores.map)} %, mAP50 {percent(scores.map50)} %, mAP75 "
        f"{percent(scores.map75)} % on {split.name}: {scores.n_pictures:,} pictures, "
        f"{scores.n_objects:,} objects",
        soft_wrap=True,
    )
    if any(row.ap is None for row in scores.classes):
        console.print("-: no such object in these pictures, no part of the means", style="dim")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"

"""What `nasattn detect` says of pictures and scores, on the screen and in metrics.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nasattn.cli.data import show_skipped
from nasattn.cli.folders import write_result
from nasattn.cli.tables import add_row, number_column, table
from nasattn.detect.coco import CocoSplit
from nasattn.detect.file import DetectorFacts
from nasattn.detect.loop import DetectEpoch
from nasattn.detect.pictures import check_pictures
from nasattn.detect.score import Scores

METRICS = "metrics.json"


def checked(console: Console, split: CocoSplit) -> CocoSplit:
    """The split without pictures that cannot be read; says what was left out or put right."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"checking {split.name} pictures", total=None)
        split = check_pictures(split, lambda n, total: bar.update(task, completed=n, total=total))
    show_skipped(console, split.skipped)
    crowds = "count neither way" if split.name == "val" else "are not trained on"
    notes = [
        f"{n} {words}"
        for n, words in (
            (split.clipped, "boxes cut to their picture"),
            (split.dropped, "boxes without area dropped"),
            (split.n_crowds, f"crowds {crowds}"),
        )
        if n
    ]
    if notes:
        console.print(f"{split.name}: {', '.join(notes)}", style="yellow")
    return split


def show_scores(console: Console, scores: Scores, split: CocoSplit) -> None:
    """The mean, then each class with the number of its objects."""
    made = table("class", *map(number_column, ("objects", "AP %", "AP50 %")))
    for one in scores.classes:
        add_row(made, (one.name, f"{one.n_objects:,}", percent(one.ap), percent(one.ap50)))
    console.print(made)
    console.print(
        f"mAP {percent(scores.map)} %, mAP50 {percent(scores.map50)} %, mAP75 "
        f"{percent(scores.map75)} % on {split.name}: {scores.n_pictures:,} pictures, "
        f"{scores.n_objects:,} objects",
        soft_wrap=True,
    )
    if any(one.ap is None for one in scores.classes):
        console.print("-: no such object in these pictures, no part of the means", style="dim")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def means(scores: Scores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("map", "map50", "map75")}


def write_metrics(
    folder: Path,
    facts: DetectorFacts,
    scores: Scores,
    split: CocoSplit,
    curve: Sequence[DetectEpoch] = (),
) -> Path:
    """metrics.json: the scores, those of each class, the curve, and what was scored on what."""
    rows = [
        {"epoch": e.number, "loss": e.loss, **e.parts, **means(e.scores), "seconds": e.seconds}
        for e in curve
    ]
    held = {
        "scores": asdict(scores),
        "scored_on": {"annotations": str(split.where), "sha256": split.sha256},
        "curve": rows,
        "arch_id": facts.arch.arch_id,
        "detector": facts.model_dump(mode="json", exclude={"metrics"}),
    }
    path = folder / METRICS
    write_result(path, json.dumps(held, indent=2) + "\n")
    return path

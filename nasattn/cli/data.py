"""Loading pictures with a progress line, and saying which ones were left out."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nasattn.data import ImageData, Skipped, load_data
from nasattn.words import printable

SHOWN = 5


def load_with_progress(
    console: Console, source: str, resolution: int | None, cache_dir: Path
) -> ImageData:
    """The pictures; decoding is shown on a terminal, skipped pictures are named everywhere."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("decoding pictures", total=None, visible=False)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        data = load_data(source, resolution, cache_dir=cache_dir, progress=show)
    show_skipped(console, data.skipped)
    return data


def show_skipped(console: Console, skipped: Sequence[Skipped]) -> None:
    """Which pictures were left out, and why; the first few by name."""
    for one in skipped[:SHOWN]:
        line = printable(f"skipped {one.path}: {one.reason}")
        console.print(line, markup=False, style="yellow", soft_wrap=True)
    if len(skipped) > SHOWN:
        console.print(f"... {len(skipped)} pictures skipped in all", style="yellow")

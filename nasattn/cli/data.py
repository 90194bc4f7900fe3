"""Loading pictures with a progress line, and saying which ones were left out."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from nasattn.data import ImageData, load_data

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
    for skipped in data.skipped[:SHOWN]:
        console.print(f"skipped {skipped.path}: {skipped.reason}", markup=False, style="yellow")
    if len(data.skipped) > SHOWN:
        console.print(f"... {len(data.skipped)} pictures skipped in all", style="yellow")
    return data

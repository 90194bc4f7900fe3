"""`nasattn report` and `nasattn compare`: studies as files to be read by people."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table as RichTable

from nasattn.cli.commands import storage_option
from nasattn.cli.folders import check_target, make_folder
from nasattn.cli.tables import add_row, table
from nasattn.data.openings import read_openings
from nasattn.errors import StudyError, UnknownNameError
from nasattn.files import slug, write_bytes, write_text
from nasattn.report.ablation_report import ablation_report
from nasattn.report.cells import Table
from nasattn.report.charts.search_charts import is_ablation
from nasattn.report.comparison import (
    Comparison,
    best_table,
    compare,
    comparison_report,
    comparison_words,
    differences_table,
    figures_table,
)
from nasattn.report.document import Document
from nasattn.report.html import to_html
from nasattn.report.markdown import images, to_markdown
from nasattn.report.search_report import search_report
from nasattn.search.storage import read_study
from nasattn.words import plural, printable


def report_command(
    name: str | None, *, storage: str, out: Path | None, plots: Path | None, cache_dir: Path
) -> None:
    """Write a study's report, and its plots for a paper where `plots` says so."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    study = read_study(storage, name)
    path = out or Path("runs") / slug(study.study_name) / "report.html"
    check_form(path)
    if plots:
        make_folder(plots)
    if "settings" not in study.user_attrs:
        raise StudyError(f"study {study.study_name!r}: was not made by nasattn")
    data_hash = study.user_attrs["settings"].get("data_hash", "")
    options = f"{shlex.quote(study.study_name)}{storage_option(storage)}"
    commands = [f"nasattn report {options}"]
    if is_ablation(study):
        make = ablation_report
    else:
        make = search_report
        commands.append(f"nasattn replay {options}")
    document = make(study, openings=read_openings(cache_dir, data_hash), commands=commands)
    write_report(console, document, path, plots)


def compare_command(
    names: tuple[str, str], *, storages: tuple[str, str], out: Path | None, as_json: bool
) -> None:
    """Show two searches side by side, and write that as a report where `out` says so."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if out:
        check_form(out)
    first, second = (read_study(*pair) for pair in zip(storages, names, strict=True))
    found = compare(first, second)
    if as_json:
        console.print(json.dumps(plain(found), indent=2))
    else:
        show(found)
    if out:
        write_report(console if not as_json else None, comparison_report(found), out, None)


def check_form(path: Path) -> None:
    """StudyError unless a report can be written there, and its form is known."""
    if path.suffix not in FORMS:
        raise UnknownNameError("form of a report", path.suffix, known=FORMS, where=str(path))
    check_target(path)


def write_report(
    console: Console | None, document: Document, path: Path, plots: Path | None
) -> None:
    """Write the file, and the plots; says what was written."""
    make_folder(path.parent)
    written = str(path)
    try:
        FORMS[path.suffix](document, path)
        if plots:
            n = write_images(document, plots)
            written += f", and {plural(n, 'file')} in {plots}"
    except OSError as e:
        raise StudyError(f"{path}: cannot be written ({e.strerror or e})") from e
    if console:
        console.print(f"written: {written}")
        if path.suffix == ".html":
            console.print(f"look at it: a browser on {path.absolute().as_uri()}")


def write_images(document: Document, folder: Path) -> int:
    """Every chart and drawing into a folder; returns how many files."""
    make_folder(folder)
    n = 0
    for name, data in images(document):
        write_bytes(folder / name, data)
        n += 1
    return n


def _html(document: Document, path: Path) -> None:
    write_text(path, to_html(document))


def _markdown(document: Document, path: Path) -> None:
    folder = path.with_name(f"{path.stem}_files")
    write_images(document, folder)
    write_text(path, to_markdown(document, folder.name))


FORMS: Mapping[str, Callable[[Document, Path], None]] = {".html": _html, ".md": _markdown}


# ---- Two studies on the terminal ----


def show(found: Comparison) -> None:
    """The tables of a comparison, then what may be said of it."""
    console = Console(highlight=False, markup=False)
    for made in (figures_table(found), best_table(found), differences_table(found)):
        if isinstance(made, Table):
            console.print(terminal_table(made))
        elif made:
            console.print("\n".join(made.lines))
    for words in comparison_words(found):
        console.print(printable(words))


def terminal_table(made: Table) -> RichTable:
    """A table of text for 80 columns."""
    shown = table(*map(printable, made.header), title=printable(made.title))
    for line in made.lines:
        add_row(shown, line.cells)
    return shown


def plain(found: Comparison) -> dict[str, object]:
    """The comparison as plain data."""
    sides = [
        {
            "study": side.name,
            "front": [
                {"network": one.name, "trial": one.number, "arch_id": one.arch_id}
                | {row.name: one.values[row.name] for row in found.objectives}
                for one in front
            ],
            "hypervolume": volume,
            "beaten": found.beaten(i),
        }
        for i, (side, front, volume) in enumerate(
            zip(found.sides, found.fronts, found.hypervolumes, strict=True)
        )
    ]
    return {"objectives": [row.name for row in found.objectives], "sides": sides}

"""A report as Markdown, with its charts and drawings as files beside it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nasattn.files import slug
from nasattn.report.canvas import image
from nasattn.report.cells import Table
from nasattn.report.charts.static_chart import static_figure
from nasattn.report.document import (
    Bullets,
    Commands,
    Document,
    Facts,
    Folded,
    Part,
    Picture,
    Plot,
    Words,
)
from nasattn.report.markup import MARKDOWN, markdown_table


def to_markdown(document: Document, folder: str) -> str:
    """The text, in GitHub's Markdown; pictures are looked for in `folder` beside it."""
    lines = [f"# {_safe(document.title)}", "", *(_safe(line) + "\n" for line in document.summary)]
    for section in document.sections:
        lines += [f"## {_safe(section.heading)}", ""]
        for part in section.parts:
            lines += WRITERS[type(part)](part, folder)
    return "\n".join(lines)


def images(document: Document) -> Iterator[tuple[str, bytes]]:
    """Every chart and drawing as files: name and content, charts as PNG, too."""
    for part in document.parts:
        if isinstance(part, Plot):
            figure = static_figure(part.chart)
            for kind in ("svg", "png"):
                yield f"{file_name(part.name)}.{kind}", image(figure, kind)
        elif isinstance(part, Picture):
            yield f"{file_name(part.name)}.svg", part.svg.encode()


def file_name(name: str) -> str:
    return slug(name)


def _safe(text: str) -> str:
    return " ".join(text.split()).translate(MARKDOWN)


def _words(part: Words, folder: str) -> list[str]:
    return [_safe(part.text), ""]


def _bullets(part: Bullets, folder: str) -> list[str]:
    return [*(f"- {_safe(line)}" for line in part.lines), ""]


def _facts(part: Facts, folder: str) -> list[str]:
    rows = (f"| {_safe(name)} | {_safe(value)} |" for name, value in part.rows)
    return ["| | |", "| :-- | :-- |", *rows, ""]


def _commands(part: Commands, folder: str) -> list[str]:
    return [*(f"    {' '.join(line.split())}" for line in part.lines), ""]


def _table(part: Table, folder: str) -> list[str]:
    return [markdown_table(part, level=4), ""]


def _plot(part: Plot, folder: str) -> list[str]:
    return [f"![{_safe(part.chart.title)}]({folder}/{file_name(part.name)}.svg)", ""]


def _picture(part: Picture, folder: str) -> list[str]:
    return [f"![{_safe(part.name)}]({folder}/{file_name(part.name)}.svg)", ""]


def _folded(part: Folded, folder: str) -> list[str]:
    lines = [f"### {_safe(part.heading)}", ""]
    for inner in part.parts:
        lines += WRITERS[type(inner)](inner, folder)
    return lines


WRITERS: Mapping[type[Part], Callable[[Any, str], list[str]]] = {
    Words: _words,
    Bullets: _bullets,
    Facts: _facts,
    Commands: _commands,
    Table: _table,
    Plot: _plot,
    Picture: _picture,
    Folded: _folded,
}

"""A report as one HTML file, which needs no network and no server.

Plotly travels in it, compressed, and is unpacked by the browser. A policy in the head forbids the
page to load or send anything. All text is escaped.
"""

import base64
import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from nasattn.report.cells import VERDICT, Table
from nasattn.report.charts.plotly_chart import plotly_figure, plotly_javascript
from nasattn.report.document import (
    Bullets,
    Commands,
    Document,
    Facts,
    Folded,
    Part,
    Picture,
    Plot,
    Section,
    Words,
)

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)
NUMBER = re.compile(r"[★\s]*[-+<>±%.,\d\s]*(\([^)]*\))?")  # a cell that stands to the right


def to_html(document: Document) -> str:
    """The whole file."""
    plots = [part for part in document.parts if isinstance(part, Plot)]
    links = [(_anchor(i), section.heading) for i, section in enumerate(document.sections)]
    body = [
        f"<header><h1>{escape(document.title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in document.summary),
        "</header>",
        "<nav>",
        *(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading in links),
        "</nav>",
        "<main>",
        *(line for i, one in enumerate(document.sections) for line in _section(one, _anchor(i))),
        "</main>",
    ]
    return "\n".join([*_head(document.title), *body, *_scripts(plots), "</body></html>", ""])


def _head(title: str) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>"
    yield f"<style>\n{_asset('report.css')}</style></head><body>"


def _scripts(plots: Iterable[Plot]) -> Iterator[str]:
    """The packed library, and the code that draws the charts' data with it."""
    if any(plots):
        yield f'<script type="text/plain" id="plotly">{_plotly()}</script>'
        yield f"<script>\n{_asset('report.js')}</script>"


def _as_script(text: str | None) -> str:
    """JSON that cannot end the script that it stands in."""
    return (text or "null").replace("<", "\\u003c")


@cache
def _plotly() -> str:
    """Plotly's own JavaScript, gzipped, in base64."""
    return base64.b64encode(gzip.compress(plotly_javascript().encode(), mtime=0)).decode()


def _asset(name: str) -> str:
    return files("nasattn.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(i: int) -> str:
    return f"section-{i + 1}"


def _section(section: Section, anchor: str) -> Iterator[str]:
    yield f'<section id="{anchor}"><h2>{escape(section.heading)}</h2>'
    for part in section.parts:
        yield from WRITERS[type(part)](part)
    yield "</section>"


# ---- Parts ----


def _words(part: Words) -> Iterator[str]:
    yield f"<p>{escape(part.text)}</p>"


def _bullets(part: Bullets) -> Iterator[str]:
    yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in part.lines)}</ul>"


def _facts(part: Facts) -> Iterator[str]:
    yield '<table class="facts">'
    for name, value in part.rows:
        yield f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
    yield "</table>"


def _commands(part: Commands) -> Iterator[str]:
    yield f"<pre>{escape(chr(10).join(part.lines))}</pre>"


def _plot(part: Plot) -> Iterator[str]:
    name, figure = escape(part.name), plotly_figure(part.chart)
    height = figure.layout.height
    yield f'<figure><div class="plot" data-chart="chart-{name}" style="height:{height}px"></div>'
    yield "<noscript>The charts need JavaScript.</noscript></figure>"
    text = _as_script(figure.to_json())
    yield f'<script type="application/json" id="chart-{name}">{text}</script>'


def _picture(part: Picture) -> Iterator[str]:
    data = base64.b64encode(part.svg.encode()).decode()
    yield f'<img class="drawing" alt="{escape(part.words)}" src="data:image/svg+xml;base64,{data}">'


def _folded(part: Folded) -> Iterator[str]:
    key = f' id="{escape(part.key)}"' if part.key else ""
    is_open = " open" if part.is_open else ""
    yield f"<details{key}{is_open}><summary>{escape(part.heading)}</summary>"
    for inner in part.parts:
        yield from WRITERS[type(inner)](inner)
    yield "</details>"


def _table(part: Table) -> Iterator[str]:
    verdicts = any(line.verdict for line in part.lines)
    header = (*part.header, *([VERDICT] if verdicts else []))
    rights = [
        i >= part.names and all(_is_number(line.cells[i]) for line in part.lines)
        for i in range(len(part.header))
    ]
    sides = [' class="number"' if right else "" for right in (*rights, False)]
    yield f'<div class="wide"><table><caption>{escape(part.title)}</caption><thead><tr>'
    yield "".join(
        f'<th scope="col"{side}>{escape(name)}</th>'
        for name, side in zip(header, sides, strict=False)
    )
    yield "</tr></thead>"
    for group in part.groups:
        yield "<tbody>"
        if group.heading:
            span = len(header)
            yield f'<tr class="group"><th colspan="{span}">{escape(group.heading)}</th></tr>'
        for line in group.lines:
            cells = (*line.cells, *([line.verdict] if verdicts else []))
            yield (
                "<tr>"
                + "".join(
                    f"<td{side}>{escape(cell)}</td>"
                    for cell, side in zip(cells, sides, strict=False)
                )
                + "</tr>"
            )
        yield "</tbody>"
    yield "</table></div>"


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell) is not None


WRITERS: Mapping[type[Part], Callable[[Any], Iterator[str]]] = {
    Words: _words,
    Bullets: _bullets,
    Facts: _facts,
    Commands: _commands,
    Table: _table,
    Plot: _plot,
    Picture: _picture,
    Folded: _folded,
}

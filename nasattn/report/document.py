"""A report as a value: sections of words, tables, charts and pictures, whoever writes them.

`html.to_html` and `markdown.to_markdown` write it. All text is plain: those who write escape it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nasattn.report.cells import Group, Line, Table
from nasattn.report.charts.chart import Chart


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences, each for itself."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """What is what: a name and its value in each row."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Commands:
    """Lines to be typed."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """A chart, with a name that will do for a file."""

    name: str
    chart: Chart


@dataclass(frozen=True)
class Picture:
    """An SVG that loads nothing from elsewhere, and what is to be seen in it."""

    name: str  # will do for a file
    svg: str
    words: str


@dataclass(frozen=True)
class Folded:
    """Parts below a line that opens them; a chart's point of that key leads here."""

    heading: str
    parts: tuple["Part", ...]
    key: str = ""
    is_open: bool = False


Part = Words | Bullets | Facts | Commands | Table | Plot | Picture | Folded


@dataclass(frozen=True)
class Section:
    heading: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Document:
    """A report: what it is about, the few figures to see first, then its sections."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """All parts, also those that are folded away."""
        for section in self.sections:
            yield from _all(section.parts)


def _all(parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        yield part
        if isinstance(part, Folded):
            yield from _all(part.parts)


def section(heading: str, *parts: Part | None) -> tuple[Section, ...]:
    """A section of the parts that there are; none where there is nothing."""
    found = tuple(part for part in parts if part is not None)
    return (Section(heading, found),) if found else ()


def plain_table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> Table | None:
    """A table of text without groups; None without rows."""
    lines = tuple(Line(tuple(row)) for row in rows)
    return Table(title, tuple(header), (Group("", lines),)) if lines else None

"""The tables of an ablation as plain text, Markdown and LaTeX."""

import textwrap
from collections.abc import Sequence

from nasattn.report.ablation import AblationResult
from nasattn.report.cells import NOTHING, VERDICT, Group, Line, Table, notes, tables


def wrapped(result: AblationResult, width: int = 80) -> str:
    """All tables and notes as plain text, each verdict on a line of its own below its row."""
    parts = [_text(table, width) for table in tables(result)]
    said = [_fill(note, width, "- ", "  ") for note in notes(result)]
    return "\n\n".join([*parts, "\n".join(said)])


def _text(table: Table, width: int) -> str:
    """A table in `width` columns; a name that is too long for its own gets a line of its own."""
    table = _one_name(table) if table.names > 1 else table
    heads = [heading.rpartition(" ")[::2] for heading in table.header]  # in two lines
    columns = zip(*(line.cells for line in table.lines), strict=True)
    widths = [
        max(len(cell) for cell in (*head, *column))
        for head, column in zip(heads, columns, strict=True)
    ]
    numbers = sum(widths[1:])
    gap = 2 if 16 + numbers + 2 * len(widths[1:]) <= width else 1
    widths[0] = max(1, min(widths[0], width - numbers - gap * len(widths[1:])))

    def show(cells: Sequence[str]) -> str:
        pairs = zip(cells[1:], widths[1:], strict=True)
        rest = "".join(" " * gap + cell.rjust(n) for cell, n in pairs)
        own_line = len(cells[0]) > widths[0]
        name = f"{cells[0]}\n{' ' * widths[0]}" if own_line else cells[0].ljust(widths[0])
        return f"{name}{rest}".rstrip()

    lines = [*textwrap.wrap(table.title, width), ""]
    lines += [show(head) for head in zip(*heads, strict=True) if any(head)]
    lines.append("-" * (sum(widths) + gap * len(widths[1:])))
    for i, group in enumerate(table.groups):
        lines += [""] if i else []
        lines += textwrap.wrap(group.heading, width)
        for line in group.lines:
            lines.append(show(line.cells))
            lines += [_fill(line.verdict, width, "    ", "    ")] if line.verdict else []
    return "\n".join(lines)


def _one_name(table: Table) -> Table:
    """`a vs b` in one column; where b is the same throughout a group, its heading says so."""
    groups = []
    for group in table.groups:
        against = {line.cells[1] for line in group.lines}
        same = len(against) == 1 and bool(group.heading)
        lines = []
        for line in group.lines:
            name, reference, *numbers = line.cells
            name = name if same or reference == NOTHING else f"{name} vs {reference}"
            lines.append(Line((name, *numbers), line.verdict))
        heading = f"{group.heading} (against {against.pop()})" if same else group.heading
        groups.append(Group(heading, tuple(lines)))
    return Table(table.title, (table.header[0], *table.header[2:]), tuple(groups))


def _fill(text: str, width: int, first: str, rest: str) -> str:
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=rest)


# ---- Markdown ----

MARKDOWN = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]#|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def to_markdown(result: AblationResult) -> str:
    """All tables and notes as GitHub's Markdown."""
    parts = [markdown_table(table) for table in tables(result)]
    said = "\n".join(f"- {note.translate(MARKDOWN)}" for note in notes(result))
    return "\n\n".join([*parts, said]) + "\n"


def markdown_table(table: Table, level: int = 2) -> str:
    """A table below its title, a heading of that level."""
    verdicts = any(line.verdict for line in table.lines)
    header = [*table.header, *([VERDICT] if verdicts else [])]
    left = [i < table.names or name == VERDICT for i, name in enumerate(header)]
    rows = [header, [":--" if is_left else "--:" for is_left in left]]
    for group in table.groups:
        if group.heading:
            rows.append([f"*{group.heading.translate(MARKDOWN)}*", *([""] * (len(header) - 1))])
        for line in group.lines:
            cells = [*line.cells, *([line.verdict] if verdicts else [])]
            rows.append([cell.translate(MARKDOWN) for cell in cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{'#' * level} {table.title.translate(MARKDOWN)}", "", *lines])


# ---- LaTeX ----

LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "`": r"\textasciigrave{}",
        "[": "{[}",  # never the option of a line's end
        "]": "{]}",
    }
)


def to_latex(result: AblationResult) -> str:
    """All tables as LaTeX, to be \\input; needs booktabs, and T1 fonts for some names."""
    parts = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}"]
    made = tables(result)
    for table in made:
        below = notes(result) if table is made[0] else []
        parts.append(_latex(table, below))
    return "\n\n".join(parts) + "\n"


def _latex(table: Table, below: list[str]) -> str:
    verdicts = any(line.verdict for line in table.lines)
    header = [*table.header, *([VERDICT] if verdicts else [])]
    columns = "l" * table.names + "r" * (len(table.header) - table.names)
    columns += r"p{0.3\textwidth}" if verdicts else ""
    lines = [
        r"\begin{table*}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex(table.title)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(latex, header)) + r" \\",
    ]
    for group in table.groups:
        lines.append(r"\midrule")
        if group.heading:
            heading = rf"\textit{{{latex(group.heading)}}}"
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{{heading}}} \\")
        for line in group.lines:
            names = [latex(cell) for cell in line.cells[: table.names]]
            numbers = [_latex_number(cell) for cell in line.cells[table.names :]]
            words = [latex(line.verdict)] if verdicts else []
            lines.append(" & ".join([*names, *numbers, *words]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip {latex(note)}" for note in below]
    return "\n".join([*lines, r"\end{table*}"])


def latex(text: str) -> str:
    """Text as LaTeX prints it: nothing in it is a command, and hyphens stay hyphens."""
    return text.translate(LATEX).replace("--", "-{}-").replace("--", "-{}-")


def _latex_number(cell: str) -> str:
    """A cell of numbers with true minus signs; an empty one as a dash."""
    return "--" if cell == NOTHING else latex(cell).replace("-", "$-$").replace("+", "$+$")

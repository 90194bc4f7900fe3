"""The forest plot of an ablation: every effect with its interval."""

from typing import TYPE_CHECKING

from nasattn.ablation.statistics import Comparison
from nasattn.report.ablation import AblationResult, Row
from nasattn.report.canvas import BLUE, GREY, SMALL, WIDTH, bare, new_figure, plain
from nasattn.report.cells import DESIGNS, effect_words, p_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CUT = 4.0  # an interval is drawn to so many times the largest effect


def forest_plot(result: AblationResult) -> "Figure":
    """Each contrast's effect with its interval, by design; significant ones are filled."""
    figure = new_figure(WIDTH, 1.3 + 0.24 * len(_forest_lines(result)))
    axes = figure.subplots()
    lines = _forest_lines(result)
    limits = _limits(result)
    for y, (_, row) in enumerate(lines):
        if row is not None and row.comparison is not None:
            _draw_effect(axes, y, row.comparison, limits)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    if result.margin is not None:
        ends = -100 * result.margin, 100 * result.margin
        axes.axvspan(*ends, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    axes.set(xlim=limits, ylim=(len(lines) - 0.5, -0.5))
    axes.set_xlabel(f"effect on top-1 (points), with {100 * (1 - result.alpha):g} % interval")
    axes.set_yticks(range(len(lines)), [plain(text) for text, _ in lines], fontsize=SMALL)
    right = axes.twinx()
    right.set(ylim=axes.get_ylim())
    right.set_yticks(range(len(lines)), [plain(_beside(row)) for _, row in lines], fontsize=SMALL)
    for label, (_, row) in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
    for side in (axes, right):
        side.tick_params(axis="y", length=0, pad=7)
        bare(side, keep=("bottom",))
    _forest_legend(figure, result)
    return figure


def _forest_lines(result: AblationResult) -> list[tuple[str, Row | None]]:
    """Headings and contrasts from the top down."""
    lines: list[tuple[str, Row | None]] = []
    for design in dict.fromkeys(row.contrast.design for row in result.rows):
        rows = [row for row in result.rows if row.contrast.design == design]
        references = {row.contrast.reference for row in rows}
        heading = DESIGNS.get(design, design).partition(":")[0]
        same = f" (against {references.pop()})" if len(references) == 1 else ""
        lines.append((f"{heading}{same}", None))
        for row in rows:
            lines.append((row.contrast.arm if same else _versus(row), row))
    return lines


def _versus(row: Row) -> str:
    return f"{row.contrast.arm} vs {row.contrast.reference}"


def _limits(result: AblationResult) -> tuple[float, float]:
    """The ends of the axis in points: wide intervals of few seeds do not hide the effects."""
    found = [row.comparison for row in result.rows if row.comparison]
    cut = max([CUT * abs(c.effect) for c in found] + [0.002])
    ends = [max(-cut, min(cut, x)) for c in found for x in (c.low, c.high) if x is not None]
    margin = result.margin or 0.0
    low, high = (
        100 * f([0.0, -margin, margin, *ends, *(c.effect for c in found)]) for f in (min, max)
    )
    pad = 0.06 * (high - low) or 0.1
    return low - pad, high + pad


def _draw_effect(axes: "Axes", y: int, found: Comparison, limits: tuple[float, float]) -> None:
    """A dot and its interval; an arrow where the interval goes on outside the axis."""
    if found.low is not None and found.high is not None:
        ends = max(100 * found.low, limits[0]), min(100 * found.high, limits[1])
        axes.plot(ends, [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt", zorder=2)
        for end, limit, arrow in zip(ends, limits, "<>", strict=True):
            if end == limit:
                axes.plot(end, y, arrow, color=BLUE, markersize=4, clip_on=False, zorder=2)
    fill = BLUE if found.significant else "white"
    axes.plot(
        100 * found.effect, y, "o", color=BLUE, markerfacecolor=fill, markersize=5.5, zorder=3
    )


def _beside(row: Row | None) -> str:
    """What stands at the right of a line."""
    if row is None:
        return ""
    found = row.comparison
    if found is None:
        return row.verdict if len(row.verdict) <= 30 else f"{row.verdict[:29]}…"
    p = f"p {p_words(found.p_adjusted)}" if found.testable else "not testable"
    return f"{effect_words(found.effect, found.low, found.high)}, n {found.n}, {p}"


def _forest_legend(figure: "Figure", result: AblationResult) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dot = {"marker": "o", "linestyle": "none", "color": BLUE}
    keys: list[Line2D | Patch] = [
        Line2D([], [], **dot, label=f"significant (corrected p ≤ {result.alpha:g})"),  # type: ignore[arg-type]
        Line2D([], [], **dot, markerfacecolor="white", label="not shown to differ"),  # type: ignore[arg-type]
    ]
    if result.margin is not None:
        label = f"smaller than {100 * result.margin:g} points"
        keys.append(Patch(color=GREY, alpha=0.15, linewidth=0, label=label))
    figure.legend(
        handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=SMALL
    )

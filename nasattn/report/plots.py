"""Plots of an ablation beside its forest: learning curves, interactions, responses."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nasattn.ablation.factorial import Effect
from nasattn.report.ablation import AblationResult, ArmResult, response_curves
from nasattn.report.canvas import (
    BLUE,
    COLOURS,
    GREY,
    RED,
    SMALL,
    WIDTH,
    bare,
    new_figure,
    panels,
    plain,
)
from nasattn.report.cells import effect_words
from nasattn.report.forest import forest_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS = "top-1 (%)"
STYLES = ("-", "--", ":", "-.")

Band = tuple[list[float], list[float], list[float]]  # mean, lowest, highest


def figures(result: AblationResult) -> "dict[str, Figure]":
    """The plots that there is something to draw in, by name."""
    return {name: plot(result) for name, (has, plot) in PLOTS.items() if has(result)}


def curves_plot(result: AblationResult) -> "Figure":
    """Top-1 after each epoch: the mean over seeds, and a band from the lowest to the highest.

    Up to as many arms as there are colours share one plot; more get one each, with the base.
    """
    arms = [arm for arm in result.arms.values() if any(arm.curves.values())]
    bands = {arm.name: _curve_band(arm) for arm in arms}
    draw = _curves_together if len(bands) <= len(COLOURS) else _curves_apart
    seeds = seed_words(sum(map(bool, arm.curves.values())) for arm in arms)
    return draw(bands, result.base, seeds)


def seed_words(numbers: Iterable[int]) -> str:
    """`n = 6 seeds`, or `n = 3 to 6 seeds` where not all have as many."""
    found = sorted(set(numbers))
    ends = [str(found[0]), str(found[-1])] if len(found) > 1 else [str(n) for n in found]
    return f"n = {' to '.join(ends)} seed{'s' * (found[-1:] != [1])}"


def _curves_together(bands: Mapping[str, Band], base: str, seeds: str) -> "Figure":
    bottom, caption = _late(bands.values(), seeds)
    figure = new_figure(WIDTH, 4)
    axes = figure.subplots()
    colours = dict(zip([base, *(name for name in bands if name != base)], COLOURS, strict=False))
    names = sorted(bands, key=lambda name: -bands[name][0][-1])  # as the lines end
    for i, name in enumerate(names):
        style = STYLES[i % len(STYLES)]  # for those who cannot tell the colours apart
        _draw_band(axes, _epochs(bands[name]), bands[name], colours[name], style=style)
    keys = [str(i) for i in range(len(names))]  # given as a key, a name's leading '_' would hide it
    legend = figure.legend(
        axes.lines, keys, loc="outside right upper", frameon=False, fontsize=SMALL
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(plain(name))
    axes.set(xlabel="epoch", ylabel=AXIS)
    axes.set_ylim(bottom=bottom)
    axes.set_title(caption, fontsize=SMALL, loc="left")
    bare(axes)
    _whole_epochs(axes)
    return figure


def _curves_apart(bands: Mapping[str, Band], base: str, seeds: str) -> "Figure":
    bottom, caption = _late(bands.values(), seeds)

    def draw(axes: "Axes", name: str) -> None:
        if base in bands:
            axes.plot(_epochs(bands[base]), bands[base][0], color=GREY, linewidth=1)
        _draw_band(axes, _epochs(bands[name]), bands[name], BLUE)
        axes.set_title(plain(name), fontsize=SMALL)
        axes.set_ylim(bottom=bottom)
        _whole_epochs(axes)

    figure = panels([name for name in bands if name != base], draw, columns=4, share_x=True)
    grey = f"; grey: {plain(base)}" if base in bands else ""
    figure.suptitle(f"{caption}{grey}", fontsize=SMALL)
    figure.supxlabel("epoch", fontsize=SMALL + 1)
    figure.supylabel(AXIS, fontsize=SMALL + 1)
    return figure


def interactions_plot(result: AblationResult) -> "Figure":
    """Every pair of factors: parallel lines are parts that do not know of each other.

    A point is the mean over seeds and over all other factors.
    """
    factorial = result.factorial
    assert factorial is not None
    pairs = list(combinations(result.levels[result.base], 2))

    def draw(axes: "Axes", pair: tuple[str, str]) -> None:
        first, second = pair
        levels = _levels(result, second)
        means = [
            [
                _cell_mean(result, {first: x, second: level}, factorial.seeds)
                for x in _levels(result, first)
            ]
            for level in levels
        ]
        upper = 0 if means[0][1] >= means[1][1] else 1  # its name stands above its end
        for i, level in enumerate(levels):
            axes.plot([0, 1], means[i], ("o-", "s--")[i], color=(BLUE, RED)[i], markersize=4)
            axes.annotate(
                plain(f"{second} {level}"),
                (1, means[i][1]),
                xytext=(5, 1 if i == upper else -1),
                textcoords="offset points",
                fontsize=SMALL - 1,
                color=(BLUE, RED)[i],
                verticalalignment="bottom" if i == upper else "top",
            )
        ticks = [plain(f"{first} {level}") for level in _levels(result, first)]
        axes.set_xticks([0, 1], ticks)
        axes.set_xlim(-0.15, 1.15)
        axes.margins(y=0.2)
        axes.set_title(_interaction_words(factorial.effects, first, second), fontsize=SMALL)

    figure = panels(pairs, draw, columns=3, share_x=False)
    figure.suptitle(
        f"mean over seeds (n = {len(factorial.seeds)}) and the other parts; above each: the "
        "interaction with its interval",
        fontsize=SMALL,
    )
    figure.supylabel(AXIS, fontsize=SMALL + 1)
    return figure


def response_plot(result: AblationResult) -> "Figure":
    """Top-1 by a swept value: the mean, every seed, and a band from the lowest to the highest."""
    curves = response_curves(result)

    def draw(axes: "Axes", name: str) -> None:
        arms = {x: arm for x, arm in curves[name].items() if arm.values}
        values = [[100 * v for v in arm.values.values()] for arm in arms.values()]
        band = [fmean(v) for v in values], [min(v) for v in values], [max(v) for v in values]
        xs = list(arms)
        if xs[0] > 0 and xs[-1] / xs[0] >= 8:
            axes.set_xscale("log")
            axes.minorticks_off()
        _draw_band(axes, xs, band, BLUE, marker="o")
        for x, found in zip(xs, values, strict=True):
            axes.plot([x] * len(found), found, ".", color=GREY, markersize=3)
        for x, mean in zip(xs, band[0], strict=True):
            if arms[x] is result.arms[result.base]:
                axes.plot(x, mean, "D", color="black", markersize=6, zorder=4)
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set_xlabel(plain(name), fontsize=SMALL + 1)

    names = [name for name, by_value in curves.items() if any(a.values for a in by_value.values())]
    figure = panels(names, draw, columns=2, share_x=False, height=2.8)
    seeds = seed_words(len(a.values) for by in curves.values() for a in by.values() if a.values)
    caption = f"mean over seeds ({seeds}); dots: seeds; band: lowest to highest seed"
    on_curve = any(result.arms[result.base] in by_value.values() for by_value in curves.values())
    caption += "; diamond: the base" if on_curve else ""
    figure.suptitle(caption, fontsize=SMALL)
    figure.supylabel(AXIS, fontsize=SMALL + 1)
    return figure


PLOTS: "dict[str, tuple[Callable[[AblationResult], bool], Callable[[AblationResult], Figure]]]" = {
    "forest": (lambda r: bool(r.rows), forest_plot),
    "curves": (lambda r: any(any(a.curves.values()) for a in r.arms.values()), curves_plot),
    "interactions": (
        lambda r: r.factorial is not None and len(r.levels[r.base]) > 1,
        interactions_plot,
    ),
    "response": (
        lambda r: any(a.values for by in response_curves(r).values() for a in by.values()),
        response_plot,
    ),
}


def _curve_band(arm: ArmResult) -> Band:
    """Mean, lowest and highest top-1 in % at each epoch that all seeds have."""
    epochs = list(zip(*(curve for curve in arm.curves.values() if curve), strict=False))
    top1 = [[100 * top1 for _, top1 in epoch] for epoch in epochs]
    return [fmean(x) for x in top1], [min(x) for x in top1], [max(x) for x in top1]


def _late(bands: Collection[Band], seeds: str) -> tuple[float | None, str]:
    """Where top-1 begins on the axis, so that the last two thirds fill it; and the caption."""
    caption = f"mean over seeds ({seeds}); band: lowest to highest seed"
    lows = [min(low[len(low) // 3 :]) for _, low, _ in bands]
    cut = min(lows) > min(low[0] for _, low, _ in bands)
    return (min(lows) - 0.5, f"{caption}; the first epochs lie below") if cut else (None, caption)


def _epochs(band: Band) -> list[int]:
    return list(range(1, len(band[0]) + 1))


def _draw_band(
    axes: "Axes",
    xs: Sequence[float],
    band: Band,
    colour: str,
    marker: str | None = None,
    style: str = "-",
) -> None:
    mean, low, high = band
    only = "o" if len(xs) == 1 else marker
    look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.5}
    axes.plot(xs, mean, marker=only, markersize=4, zorder=3, **look)
    axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def _whole_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def _levels(result: AblationResult, factor: str) -> tuple[str, str]:
    """The base's level of a factor, and the other one."""
    own = result.levels[result.base][factor]
    return own, next(found[factor] for found in result.levels.values() if found[factor] != own)


def _cell_mean(result: AblationResult, at: dict[str, str], seeds: Iterable[int]) -> float:
    """Mean top-1 in % of the arms at some levels, over the seeds that every arm has."""
    arms = [name for name, found in result.levels.items() if at.items() <= found.items()]
    return 100 * fmean(result.arms[name].values[seed] for name in arms for seed in seeds)


def _interaction_words(effects: Iterable[Effect], first: str, second: str) -> str:
    name = f"{first}:{second}"
    for effect in effects:
        if effect.term == name:
            return f"{plain(name)}\n{effect_words(effect.effect, effect.low, effect.high)}"
        if {name, f"-{name}"} & set(effect.aliases):
            return f"{plain(name)}\nnot told apart from {plain(effect.term)}"
    return plain(name)

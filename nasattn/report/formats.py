"""An ablation's rows as CSV and JSON, and its files in a folder: tables, runs, plots."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nasattn.errors import StudyError
from nasattn.files import write_bytes, write_text
from nasattn.report.ablation import COSTS, AblationResult, ArmResult, Row, top1_of
from nasattn.report.canvas import image
from nasattn.report.cells import notes
from nasattn.report.markup import to_latex, to_markdown
from nasattn.report.plots import PLOTS, figures

# The first keys of a row, in their order; what is known of a contrast without runs is null.
KEYS = ("arm", "n", "mean", "effect", "low", "high", "p", "p_adjusted", "significant", "verdict")
MORE_KEYS = (
    "testable",
    "sd",
    "sd_difference",
    "bca_low",
    "bca_high",
    "effect_size",
    "margin",
    "p_equivalent",
    "equivalent",
)
IMAGES = ("svg", "png")


def to_rows(result: AblationResult) -> list[dict[str, Any]]:
    """A plain row a contrast: KEYS, then the contrast, costs, published top-1, price of a point.

    Top-1, effects and intervals are fractions; prices are for a point of top-1.
    """
    return [_row(result, row) for row in result.rows]


def _row(result: AblationResult, row: Row) -> dict[str, Any]:
    arm, contrast = result.arms[row.contrast.arm], row.contrast
    nothing = {"n": 0, "mean": arm.mean, "significant": False, "testable": False}
    found: dict[str, Any] = asdict(row.comparison) if row.comparison else nothing
    found |= {"arm": contrast.arm, "verdict": row.verdict}
    published = [top1_of(figure) for figure in result.published_top1(contrast.arm)]
    prices = {price.cost: price for price in row.costs}
    plain = {key: found.get(key) for key in KEYS}
    plain |= {"reference": contrast.reference, "design": contrast.design}
    plain |= {key: found.get(key) for key in MORE_KEYS}
    plain |= {cost: arm.costs.get(cost) for cost in COSTS}
    plain["published_top1"] = published[0] if published else None
    for cost in COSTS:
        price = prices.get(cost)
        plain[f"{cost}_change"] = price.change if price else None
        plain[f"{cost}_per_point"] = price.per_point if price else None
        plain[f"{cost}_per_point_low"] = price.low if price else None
        plain[f"{cost}_per_point_high"] = price.high if price else None
    return plain


def to_csv(result: AblationResult) -> str:
    """The rows as CSV."""
    rows = to_rows(result)
    return _csv(rows[0] if rows else KEYS, [list(row.values()) for row in rows])


def runs_csv(result: AblationResult) -> str:
    """Every run as arm, seed, value and factor levels: what `nasattn ablate --from-csv` reads.

    Values are fractions. Levels are there where every arm that was run has them.
    """
    run = [arm for arm in result.arms.values() if arm.values]
    factors = list(result.levels.get(result.base, ()))
    factors = factors if all(arm.name in result.levels for arm in run) else []
    rows = [
        [arm.name, seed, value, *(result.levels[arm.name][factor] for factor in factors)]
        for arm in run
        for seed, value in sorted(arm.values.items())
    ]
    return _csv(["arm", "seed", "value", *factors], rows)


def _csv(header: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def to_json(result: AblationResult) -> str:
    """The whole ablation, which stands for itself: rows, arms by seed, settings, environment."""
    data = {
        "study": result.study,
        "network": result.network,
        "base": result.base,
        "recipe_id": result.recipe_id,
        "seeds": result.seeds,
        "alpha": result.alpha,
        "margin": result.margin,
        "notes": notes(result),
        "rows": to_rows(result),
        "arms": [_plain_arm(arm) for arm in result.arms.values()],
        "levels": result.levels,
        "factorial": asdict(result.factorial) if result.factorial else None,
        **result.ground,
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _plain_arm(arm: ArmResult) -> dict[str, Any]:
    architecture = arm.architecture
    return {
        "arm": arm.name,
        "arch_id": architecture.arch_id if architecture else None,
        "mean": arm.mean,
        **{cost: arm.costs.get(cost) for cost in COSTS},
        "values": arm.values,
        "failures": arm.failures,
        "published": [asdict(figure) for figure in arm.published],
        "curves": arm.curves,
        "architecture": architecture
        and architecture.model_dump(mode="json", exclude_defaults=True),
    }


def write_ablation(result: AblationResult, folder: Path) -> list[Path]:
    """Write tables, runs and plots; returns their paths. Plots of before that are none now go.

    Raises StudyError where the folder cannot be written.
    """
    texts = {
        "ablation.csv": to_csv(result),
        "ablation.json": to_json(result),
        "ablation.md": to_markdown(result),
        "ablation.tex": to_latex(result),
        "runs.csv": runs_csv(result),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        images = {
            f"{name}.{kind}": image(figure, kind)
            for name, figure in figures(result).items()
            for kind in IMAGES
        }
        for name, text in texts.items():
            write_text(folder / name, text)
        for name, data in images.items():
            write_bytes(folder / name, data)
        for name in (f"{plot}.{kind}" for plot in PLOTS for kind in IMAGES):
            if name not in images:
                (folder / name).unlink(missing_ok=True)
    except OSError as e:
        raise StudyError(f"{folder}: cannot be written ({e.strerror}); --out takes another") from e
    return [folder / name for name in (*texts, *images)]

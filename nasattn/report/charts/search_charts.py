"""The charts of a search: CHARTS, by name, and all that a study has something to draw in."""

import re
from collections.abc import Callable, Mapping

import optuna

from nasattn.report.charts.chart import Chart
from nasattn.report.charts.front_chart import front_charts
from nasattn.report.charts.hypervolume_chart import hypervolume_charts
from nasattn.report.charts.importance_chart import importance_charts
from nasattn.report.charts.latency_chart import latency_charts
from nasattn.report.charts.network_chart import coordinates_charts, curve_charts
from nasattn.report.charts.outcome_chart import outcome_charts
from nasattn.report.charts.search_record import SearchRecord, read_record

# Each gives its charts by name, none where there is nothing to draw.
CHARTS: dict[str, Callable[[SearchRecord], Mapping[str, Chart]]] = {
    "front": front_charts,
    "progress": hypervolume_charts,
    "networks": coordinates_charts,
    "importance": importance_charts,
    "latency": latency_charts,
    "curves": curve_charts,
    "outcomes": outcome_charts,
}


def search_charts(study: optuna.Study) -> dict[str, Chart]:
    """All charts of a search by name, which will do for a file or an HTML id; only reads.

    An ablation's study has none: `report.plots` draws those.
    """
    if is_ablation(study):
        return {}
    record = read_record(study)
    return {name: chart for row in CHARTS for name, chart in charts_of(record, row).items()}


def charts_of(record: SearchRecord, row: str) -> dict[str, Chart]:
    """The charts of one row of CHARTS."""
    found = CHARTS[row](record)
    return {re.sub(r"[^A-Za-z0-9_-]+", "-", name): chart for name, chart in found.items()}


def is_ablation(study: optuna.Study) -> bool:
    """Whether `nasattn ablate` made a study."""
    settings = study.user_attrs.get("settings")
    return "ablation" in study.user_attrs or (isinstance(settings, dict) and "arms" in settings)

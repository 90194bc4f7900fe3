"""What papers print of a network, in rows: claims with a source, never our results."""

from nasattn.baselines import BASELINES


def published_rows(name: str | None, arch_id: str = "") -> list[tuple[str, str, str, str]]:
    """Metric, figure as printed, where, source: of a baseline by name, else of that network."""
    found = [
        figure
        for baseline in BASELINES.values()
        if baseline.name == name or baseline.architecture.arch_id == arch_id
        for figure in baseline.published
    ]
    return [(f.metric, f.printed, f.where, f.source) for f in dict.fromkeys(found)]

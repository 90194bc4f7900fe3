"""The note that Optuna Dashboard shows beside a trial, in Markdown: its network at a glance."""

from collections.abc import Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.baselines import BASELINES
from nasattn.errors import ArchitectureError, NasattnError
from nasattn.objectives import get_objective
from nasattn.report.drawings.stages import stage_rows
from nasattn.report.front import describe
from nasattn.report.front_table import BASELINE
from nasattn.report.markup import MARKDOWN
from nasattn.report.published import published_rows
from nasattn.search.selection import Selected
from nasattn.search.trials import state_of

MOST_WORDS = 300  # characters of a reason
PICTURES = {"architecture.png": "the network", "curve.png": "its learning curve"}  # shown in it
STAGE_HEADER = ("part", "map", "width", "depth", "attention", "other")


def trial_note(
    trial: FrozenTrial,
    arch: Architecture | None,
    *,
    resolution: int = 224,
    selected: Selected | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """What a finished trial was and what it came to.

    `arch` is its network as it was trained; `links` are where its files are, by name.
    """
    links = links or {}
    name = trial.user_attrs.get("baseline")
    title = f"{BASELINE} {safe(name)}" if name else trial.user_attrs.get("arch_id", "no network")
    words = f": {safe(describe(arch))}" if arch else ""
    parts = [f"### {title}{words}", safe(_ending(trial))]
    parts += [_image(PICTURES["architecture.png"], links.get("architecture.png"))]
    parts += [_table(("figure", "value", "spread"), figures(trial, selected))]
    parts += [_table(("limit", "broken by", ""), limits(trial))]
    parts += [_table(STAGE_HEADER, _stages(arch, resolution) if arch else ())]
    parts += [_image(PICTURES["curve.png"], links.get("curve.png"))]
    parts += [_image("where it looks", links.get("grad_cam.png"))]
    if name in BASELINES:
        parts += [_table(("published", "figure", "for", "source"), published_rows(name))]
    files = (f"[{safe(file)}]({link})" for file, link in sorted(links.items()))
    parts += [" · ".join(files)]
    return "\n\n".join(filter(None, parts)) + "\n"


def safe(text: str) -> str:
    """Text in one line of which nothing is markup."""
    return " ".join(str(text).split()).translate(MARKDOWN)


def _ending(trial: FrozenTrial) -> str:
    """How the trial ended, and why."""
    reason = str(trial.user_attrs.get("reason", ""))[:MOST_WORDS]
    state = state_of(trial)
    if original := trial.user_attrs.get("duplicate_of"):
        return f"the network of trial {original}, known already"
    if state == "complete" and any(value > 0 for value in trial.constraints.values()):
        state_words = "trained, but beyond a limit"
    else:
        state_words = {"complete": "trained to the end"}.get(state, state)
    return f"{state_words}: {reason}" if reason else state_words


def figures(trial: FrozenTrial, selected: Selected | None) -> Iterable[Sequence[str]]:
    """Each value that was found, with what is known of its spread."""
    latencies = trial.user_attrs.get("latency", {})
    for name, value in trial.user_attrs.get("values", {}).items():
        try:
            objective = get_objective(name)
        except NasattnError:  # of a plug-in that is not here
            yield name, f"{value:.6g}", ""
            continue
        found = latencies.get(name)
        spread = (
            f"10 to 90 %: {found['p10_ms']:.3g} to {found['p90_ms']:.3g} ms measured, n = "
            f"{found['n']}; {found['relative']:.3f} times MobileNetV2"
            if found
            else "one seed" * (name == "top1")
        )
        yield objective.heading, objective.show(value), spread
    if selected:
        top1 = get_objective("top1")
        half = "" if selected.half is None else f"±{top1.show(selected.half)} (95 %), "
        seeds = ", ".join(top1.show(value) for value in selected.runs.values())
        yield "top1 % over fresh seeds", top1.show(selected.top1), f"{half}{seeds}"


def limits(trial: FrozenTrial) -> Iterable[Sequence[str]]:
    """Each limit, and by what share of itself it is broken."""
    for name, value in trial.constraints.items():
        yield name, f"{100 * value:.3g} %" if value > 0 else "", "broken" if value > 0 else "kept"


def _stages(arch: Architecture, resolution: int) -> Iterable[Sequence[str]]:
    try:
        rows = stage_rows(arch, resolution)
    except ArchitectureError:
        return []
    return [tuple(getattr(row, name) for name in STAGE_HEADER) for row in rows]


def _image(words: str, link: str | None) -> str:
    return f"![{words}]({link})" if link else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing where it has no rows."""
    lines = [f"| {' | '.join(map(safe, row))} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(header)} |", "|" + " :-- |" * len(header), *lines])

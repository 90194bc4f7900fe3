"""The report of an ablation: its tables, its plots, its networks, what it cost."""

from collections.abc import Sequence

import optuna

from nasattn.data.openings import Opening
from nasattn.report.ablation import AblationResult, read_ablation
from nasattn.report.canvas import image
from nasattn.report.cells import notes, one_line, tables
from nasattn.report.document import Bullets, Document, Folded, Part, Picture, Words, section
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.drawings.difference_drawing import draw_difference
from nasattn.report.ground import ground_sections
from nasattn.report.plots import figures
from nasattn.words import plural

# Of a plot, what is to be seen in it.
PLOT_WORDS = {
    "forest": "Every effect with its interval.",
    "curves": "Top-1 after each epoch: the mean over seeds, a band from the lowest to the highest.",
    "interactions": "Pairs of parts: lines that are parallel do not know of each other.",
    "response": "Top-1 by a value that was swept.",
}


def ablation_report(
    study: optuna.Study, *, openings: Sequence[Opening] | None = (), commands: Sequence[str] = ()
) -> Document:
    """What `nasattn ablate` found in a study, also while it still runs."""
    result = read_ablation(study)
    plots = [_plot(name, image(figure, "svg")) for name, figure in figures(result).items()]
    return Document(
        title=f"Ablation {study.study_name}",
        summary=summary(result),
        sections=(
            *section("Which part earns its keep", *plots[:1], *tables(result), _notes(result)),
            *section("Plots", *plots[1:]),
            *section("The networks, drawn", *_networks(study, result)),
            *section("What failed", _failures(result)),
            *ground_sections(study, openings, commands),
        ),
    )


def summary(result: AblationResult) -> tuple[str, ...]:
    """The few sentences to read first."""
    n_runs = sum(len(arm.values) for arm in result.arms.values())
    lines = [
        f"{plural(len(result.arms), 'arm')} of {one_line(result.network) or 'runs'}, "
        f"{plural(len(result.seeds), 'seed')}, {plural(n_runs, 'training')}."
    ]
    sure = [row for row in result.rows if row.comparison and row.comparison.significant]
    words = [f"{row.contrast.arm}: {row.verdict}" for row in sure]
    testable = any(row.comparison and row.comparison.p is not None for row in result.rows)
    if words:
        lines.append(one_line("; ".join(words)) + ".")
    elif testable:
        lines.append("No part was told from luck.")
    else:
        lines.append("Too few paired seeds for a test: the intervals are what there is.")
    return tuple(lines)


def _notes(result: AblationResult) -> Bullets:
    return Bullets(tuple(notes(result)))


def _plot(name: str, svg: bytes) -> Part:
    return Picture(name, svg.decode(), PLOT_WORDS[name])


def _networks(study: optuna.Study, result: AblationResult) -> list[Part]:
    """The base, then what each arm changes of it."""
    settings = study.user_attrs.get("settings", {})
    resolution = settings.get("resolution") or 224
    n_classes = study.user_attrs.get("n_classes")
    base = result.arms[result.base].architecture
    if base is None:
        return []
    title = one_line(result.network or result.base)
    drawing = draw_architecture(base, title=title, resolution=resolution, num_classes=n_classes)
    parts: list[Part] = [Picture(result.base, drawing.svg(), drawing.description)]
    for arm in result.arms.values():
        if arm.name == result.base or arm.architecture in (None, base):
            continue
        assert arm.architecture
        change = draw_difference(
            base, arm.architecture, (title, one_line(arm.name)), resolution=resolution
        )
        picture = Picture(arm.name, change.svg(), change.description)
        parts.append(Folded(f"what {one_line(arm.name)} changes", (picture,)))
    return parts


def _failures(result: AblationResult) -> Part | None:
    found = [f"{arm.name} {arm.failed}" for arm in result.arms.values() if arm.failed]
    return Bullets(tuple(map(one_line, found))) if found else Words("Nothing.")

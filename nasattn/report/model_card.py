"""The model card of a network that was trained for good: what it is, how good, what it is for."""

from collections.abc import Mapping
from typing import Any

from nasattn.arch import parse_architecture
from nasattn.report.document import Bullets, Document, Facts, Part, Picture, Words, plain_table
from nasattn.report.document import section as section_of
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.drawings.stages import StageRow, stage_rows
from nasattn.report.finals import final_words
from nasattn.train.metrics import Share
from nasattn.train.recipe import Recipe
from nasattn.words import plural

DRAWING = "network"  # name of the picture


def model_card(final: Mapping[str, Any], one: Mapping[str, Any]) -> Document:
    """The card of `one` of the networks in a final's plain data."""
    settings = final["settings"]
    classes, side = final["data"]["classes"], settings["resolution"]
    top1 = one["top1"]
    sections = (
        *section_of("What it is", *architecture_parts(one, side, len(classes))),
        *section_of("What it is for", *use_parts(final)),
        *section_of("How good it is", *metric_parts(final, one)),
        *section_of("How it was trained", Facts(training_rows(final))),
        *section_of("Where that was", Facts(tuple(sorted(final["environment"].items())))),
        *section_of(
            "Licence",
            Words(
                "The network's code is nasattn's, under the MIT licence. The weights were learned "
                f"from the data {final['data']['name']!r} and inherit their terms"
                + (", and those of the teacher's weights." if settings["teacher"] else ".")
            ),
        ),
    )
    words = (
        f"{100 * top1['mean']:.2f} % top-1 on {top1['n_pictures']:,} test pictures, the mean over "
        f"{plural(top1['n_seeds'], 'training')}; {one['params'] / 1e6:.2f} M parameters, "
        f"{one['macs'] / 1e6:.2f} M multiply-adds a picture of {side}x{side}."
    )
    return Document(f"Model card: {one['network']}", (words,), sections)


def architecture_parts(one: Mapping[str, Any], side: int, n_classes: int) -> list[Part]:
    """The stages as a table, and drawn."""
    arch = parse_architecture(one["architecture"])
    table = plain_table("Stages", StageRow._fields, stage_rows(arch, side))
    assert table
    drawing = draw_architecture(
        arch, title=one["network"], resolution=side, num_classes=n_classes
    ).svg()
    return [
        Words(f"An image classifier that nasattn built; arch_id {one['arch_id']}."),
        table,
        Picture(DRAWING, drawing, "the network's stages"),
    ]


def use_parts(final: Mapping[str, Any]) -> list[Part]:
    """What it may be used for, and what it answers."""
    settings, data = final["settings"], final["data"]
    side = settings["resolution"]
    classes = ", ".join(data["classes"])
    return [
        Words(
            f"To tell the {len(data['classes'])} classes of {data['name']!r} apart on pictures "
            f"like theirs, at {side}x{side} pixels in RGB, normalised as each weights file says. "
            "How it does on any other pictures, on other classes, or against an adversary was not "
            "measured; it has no answer for 'none of these'."
        ),
        Words(f"Classes, in the order of its outputs: {classes}."),
    ]


def metric_parts(final: Mapping[str, Any], one: Mapping[str, Any]) -> list[Part]:
    """The figures over all seeds, each seed's own, and what to make of them."""
    rows = [(name, *_cells(one[name])) for name in ("top1", "top5") if one[name]]
    header = ("figure", "mean %", "seeds 95 %", "pictures 95 %", "n seeds", "n pictures")
    own = plain_table("Every training", SEED_HEADER, (_seed_cells(run) for run in one["seeds"]))
    openings = [
        f"opened {opening['when']}: {opening['command']}" for opening in final["test"]["openings"]
    ]
    parts = [plain_table("On the sealed test split", header, rows), own]
    return [
        *(part for part in parts if part),
        Bullets(tuple(final_words(final))),
        Bullets(tuple(openings)),
    ]


SEED_HEADER = ("seed", "top-1 %", "pictures 95 %", "top-5 %", "weights")


def _seed_cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    top1 = Share(run["right"], run["n"])
    top5 = "-" if run["right_top5"] is None else percent(run["right_top5"] / run["n"])
    return (str(run["seed"]), percent(top1.value), span(top1.interval), top5, run["weights"])


def _cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        percent(found["mean"]),
        span(found["seeds"]),
        span(found["pictures"]),
        str(found["n_seeds"]),
        f"{found['n_pictures']:,}",
    )


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def span(bounds: tuple[float, float] | None) -> str:
    """An interval of a fraction, in per cent."""
    return "-" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def training_rows(final: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Data, recipe and seeds."""
    settings, data = final["settings"], final["data"]
    changed = {k: v for k, v in settings["recipe"].items() if k != "augmentation"}
    recipe = Recipe.model_validate(settings["recipe"])
    steps = {k: v for k, v in recipe.strengths(mirror=data["mirror"]).items() if v}
    words = ", ".join(f"{k} {v}" for k, v in changed.items() if v is not None)
    return (
        ("study", settings["study"]),
        ("data", f"{data['name']}, content hash {settings['data']}"),
        ("pictures", f"{data['n_train']:,} train; the last epoch's weights, none was chosen"),
        ("recipe", f"{final['recipe_name']}: {words}"),
        ("augmentation", ", ".join(f"{k} {v:g}" for k, v in steps.items()) or "none"),
        ("seeds", ", ".join(map(str, settings["seeds"]))),
        ("teacher", settings["teacher"] or "none"),
    )

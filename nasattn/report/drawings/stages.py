"""The stages of a network as rows of words: for a terminal, a note, a report."""

from collections.abc import Collection
from typing import NamedTuple

from nasattn.arch import Architecture
from nasattn.parts import AttentionSpec, HeadSpec, Part


class StageRow(NamedTuple):
    """A part of a network in words; its field names are the table's header."""

    part: str
    map: str = ""  # its side in pixels
    width: str = ""
    depth: str = ""
    expansion: str = ""
    kernel: str = ""
    attention: str = ""
    other: str = ""  # every further field that is not at its default


def stage_rows(arch: Architecture, resolution: int = 224) -> list[StageRow]:
    """A row for the stem, each stage, the fusion, the head, and what holds for the whole network.

    The network is as it is built for pictures of that side. Raises ArchitectureError for a
    resolution of which no map is left.
    """
    arch = arch.at_resolution(resolution)
    stem, sizes = arch.stem, arch.map_sizes(resolution)
    words = other_fields(stem, shown=("width", "stride", "kernel"))
    size, kernel = str(sizes[0]), str(stem.kernel)
    rows = [StageRow("stem", size, str(stem.width), "1", kernel=kernel, other=words)]
    shown = ("width", "depth", "stride", "expansion", "kernel", "attention")
    for i, (side, stage) in enumerate(zip(sizes[1:], arch.stages, strict=True)):
        row = StageRow(
            part=f"stage {i}",
            map=str(side),
            width=str(stage.width),
            depth=str(stage.depth),
            expansion=f"{stage.expansion:g}",
            kernel=str(stage.kernel),
            attention=attention_words(stage.attention),
            other=other_fields(stage, shown),
        )
        rows.append(row)
    if arch.fusion.kind != "none":
        rows.append(StageRow("fusion", other=other_fields(arch.fusion)))
    rest_of_head = other_fields(arch.head, ("conv_width", "pooling", "gem_p", "gem_learnable"))
    words = f"{pooling_words(arch.head)} {rest_of_head}".strip()
    rows.append(StageRow("head", str(sizes[-1]), str(arch.out_chs), other=words))
    if words := other_fields(arch, shown=("stem", "stages", "fusion", "head")):
        rows.append(StageRow("whole", other=words))
    return rows


def attention_words(spec: AttentionSpec) -> str:
    """Kind, placement, and the options that are not at their default."""
    if spec.kind == "none":
        return ""
    options = " ".join(f"{k}={v}" for k, v in spec.model_extra.items())
    return f"{spec.kind} {spec.placement} {options}".strip()


def pooling_words(head: HeadSpec) -> str:
    """How the final map is pooled."""
    if head.pooling != "gem":
        return f"{head.pooling} pooling"
    return "gem pooling, learnable p" if head.gem_learnable else f"gem pooling p={head.gem_p:g}"


def other_fields(part: Part, shown: Collection[str] = ()) -> str:
    """What a part's columns do not show: every further field that is not at its default."""
    fields = part.model_dump(mode="json", exclude_defaults=True)
    return " ".join(
        str(value) if name == "block" else f"{name}={_compact(value)}"
        for name, value in fields.items()
        if name not in shown
    )


def _compact(value: object) -> str:
    """A plain value in a few letters; a nested part as `kind(option=value)`."""
    if not isinstance(value, dict):
        return f"{value:g}" if isinstance(value, float) else str(value).lower()
    rest = ",".join(f"{k}={_compact(v)}" for k, v in value.items() if k != "kind")
    return f"{value.get('kind', '')}({rest})" if rest else str(value.get("kind"))

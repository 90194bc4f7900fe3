"""What a drawing writes below a network's parts: short words, a row for each thing to say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nasattn.arch import Architecture
from nasattn.parts import BareAttention, HeadSpec, StageSpec, StemSpec

# Rows in their order; one that says nothing of any part is left out.
ROWS = (
    "map",
    "channels",
    "blocks",
    "block",
    "kernel",
    "expansion",
    "groups",
    "attention",
    "place",
    "strength",
    "runs for",
    "other",
)
TIMES = "\N{MULTIPLICATION SIGN}"
CONVS = {"plain": "", "sk": "selective kernel", "splat": "split attention"}
NORMS = {"batch": "", "none": "no norm", "lrn": "LRN"}
SHORTCUTS = {"conv": "", "avg": "avg-pooled shortcut", "pad": "padded shortcut"}
POOLINGS = {"avg": "average pooling", "grid": f"max pooling to 6{TIMES}6"}
ACTS = {"relu": "ReLU", "relu6": "ReLU6", "hard_swish": "hard-swish", "silu": "SiLU"}

Words = Mapping[str, str]  # of a part, by row


@dataclass(frozen=True)
class NetworkWords:
    """The words of a network's parts, from the input to the head."""

    input: Words
    stem: Words
    stages: tuple[Words, ...]
    head: tuple[str, ...]  # a line for each of its parts

    @property
    def rows(self) -> list[str]:
        """The rows that say something."""
        parts = (self.input, self.stem, *self.stages)
        return [row for row in ROWS if any(part.get(row) for part in parts)]


def network_words(arch: Architecture, resolution: int, num_classes: int | None) -> NetworkWords:
    """The words of a network for pictures of that side."""
    stem_size, *sizes = arch.map_sizes(resolution)
    n = len(arch.stages)
    stages = []
    for i, (size, stage) in enumerate(zip(sizes, arch.stages, strict=True)):
        strength = f"{i + 1}/{n}" if arch.progressive and stage.attention.kind != "none" else ""
        stages.append(_words(_stage(stage, size) | {"strength": strength}))
    return NetworkWords(
        _words({"map": square(resolution), "channels": "3"}),
        _words(_stem(arch, stem_size)),
        tuple(stages),
        tuple(_head(arch, num_classes)),
    )


def square(side: int) -> str:
    """A side as it is written of a map or a kernel."""
    return f"{side}{TIMES}{side}"


def _words(found: dict[str, str]) -> Words:
    return MappingProxyType({row: text for row, text in found.items() if text})


def _stem(arch: Architecture, size: int) -> dict[str, str]:
    stem: StemSpec = arch.stem
    bare = arch.stages[0].kind.preact
    return {
        "map": square(size),
        "channels": str(stem.width),
        "blocks": str(stem.convs),
        "block": "conv",
        "kernel": square(stem.kernel),
        "attention": attention_words(stem.attention),
        "other": _listed(("max pool" if stem.pool else "", "" if bare else NORMS[stem.norm])),
    }


def _stage(stage: StageSpec, size: int) -> dict[str, str]:
    has_expansion = "expansion" in stage.kind.fields
    conv = CONVS[stage.conv] + (f" r={stage.radix}" if stage.conv == "splat" else "")
    pool = "" if stage.pool == "none" else f"pooled {stage.pool} conv"
    other = (SHORTCUTS[stage.shortcut], pool, NORMS[stage.norm])
    return {
        "map": square(size),
        "channels": str(stage.width),
        "blocks": str(stage.depth),
        "block": _listed((stage.block.replace("_", " "), conv)),
        "kernel": square(stage.kernel),
        "expansion": f"{stage.expansion:g}" if has_expansion else "",
        "groups": str(stage.groups) if stage.groups > 1 else "",
        "attention": attention_words(stage.attention),
        "place": place_words(stage),
        "runs for": f"{100 * stage.run_share:g} % of pictures" if stage.run_share < 1 else "",
        "other": _listed(other),
    }


def place_words(stage: StageSpec) -> str:
    """Where the attention of a stage stands; nothing without any."""
    place = stage.attention.placement
    if stage.attention.kind == "none":
        return ""
    if place == "before_add" and stage.kind.shortcut == "never":
        return "after conv"
    return place.replace("_", " ")


def attention_words(spec: BareAttention) -> str:
    """A kind with the options that are not at their default; nothing for none."""
    if spec.kind == "none":
        return ""
    options = (f"{name}={_value(value)}" for name, value in spec.model_extra.items())
    return " ".join((spec.kind, *options))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _head(arch: Architecture, num_classes: int | None) -> Iterable[str]:
    head, fusion = arch.head, arch.fusion
    if arch.stages[-1].kind.preact:
        yield f"batch norm, {ACTS[arch.act]}"
    if head.conv_width:
        yield f"{square(1)} conv, {head.conv_width}"
    if fusion.kind == "aff":
        yield f"AFF, {fusion.terms} terms"
    elif fusion.kind == "multi_scale":
        yield f"sum of {fusion.scales} scales"
        if fusion.attention.kind != "none":
            yield f"each: {attention_words(fusion.attention)}"
    yield pooling_words(head)
    for _ in range(head.n_hidden):
        yield f"linear {head.hidden}, {ACTS[head.hidden_act]}"
    if head.dropout:
        yield f"dropout {head.dropout:g}"
    yield f"{num_classes} classes" if num_classes else "classes"


def pooling_words(head: HeadSpec) -> str:
    """How the final map is pooled."""
    if head.pooling != "gem":
        return POOLINGS[head.pooling]
    return "GeM pooling, learnt p" if head.gem_learnable else f"GeM pooling, p={head.gem_p:g}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(filter(None, words))

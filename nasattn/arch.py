"""Architecture: a network as a frozen value, with one canonical JSON and one id."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from nasattn.attention.table import ATTENTIONS, all_options, get_kind
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.spec import Spec, parse

Stride = Literal[1, 2]
Placement = Literal["after_spatial", "before_add", "after_stage"]

# Far above any network, far below what would take a machine down while it is only counted.
Depth = Annotated[int, Field(gt=0, le=200)]
Width = Annotated[int, Field(gt=0, le=16_384)]
OptionalWidth = Annotated[int, Field(ge=0, le=16_384)]  # 0: left out

SMALLEST_LAST_MAP = 4  # pixels; see Architecture.at_resolution


class Part(Spec):
    """A piece of an architecture. Fields that mean nothing beside the others are left out.

    A default never changes once released: what is left out of the canonical JSON stands for it.
    """

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        """Whether `field` means something beside the other fields of `node`."""
        return True

    @model_validator(mode="before")
    @classmethod
    def _drop_meaningless(cls, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {k: v for k, v in node.items() if k not in cls.model_fields or cls.means(node, k)}


class AttentionSpec(Part):
    """An attention kind, where it stands, and only the options which that kind has.

    `after_spatial`: inside the block, after the convolution that looks around (depthwise);
    `before_add`: at the end of the block, before the shortcut is added;
    `after_stage`: once, after the last block of the stage.
    """

    model_config = ConfigDict(extra="allow")

    kind: str = "none"
    placement: Placement = "before_add"

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        kind = node.get("kind", "none")
        if field == "kind" or kind == "none":
            return field == "kind"
        return field in cls.model_fields or field in get_kind(kind).options.model_fields

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        kind = node.get("kind", "none")
        if kind == "none":
            known = [*cls.model_fields, *all_options()]
            for name in node.keys() - set(known):
                raise UnknownNameError("attention option", name, known)
            return {"kind": kind}
        row = get_kind(kind)
        fields = {k: v for k, v in node.items() if k in cls.model_fields}
        options = {k: v for k, v in node.items() if k not in cls.model_fields}
        return fields | row.normalise(options, f"attention {kind!r}")

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the kind, defaults included."""
        if self.kind == "none":
            return {}
        return ATTENTIONS[self.kind].defaults | (self.model_extra or {})


class StemSpec(Part):
    """The first convolution: 3x3, batch norm, activation."""

    width: Width
    stride: Stride = 2


class StageSpec(Part):
    """`depth` equal blocks; the first one changes the width and takes the stride."""

    depth: Depth
    block: Literal["inverted_residual"] = "inverted_residual"
    width: Width
    stride: Stride = 1
    expansion: Annotated[float, Field(ge=1, le=16)] = 1.0
    kernel: Literal[3, 5, 7] = 3
    attention: AttentionSpec = AttentionSpec()

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        return field == "depth" or node.get("depth") != 0

    def hidden_width(self, in_chs: int) -> int:
        """Channels inside a block that `in_chs` channels enter."""
        return round(in_chs * self.expansion)

    def attention_widths(self, in_chs: int) -> set[int]:
        """The numbers of channels that this stage's attention sees."""
        if self.attention.placement != "after_spatial":
            return {self.width}
        later = {self.hidden_width(self.width)} if self.depth > 1 else set()
        return {self.hidden_width(in_chs)} | later


class FusionSpec(Part):
    """Fusion of the last map before the last downsampling with the final map.

    `aff` (paper 000, section 3.3): alpha P_l(pool(low)) + beta P_h(high), and with three terms
    + gamma W(P_l + P_h).
    """

    kind: Literal["none", "aff"] = "none"
    terms: Literal[2, 3] = 3

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        return field != "terms" or node.get("kind", "none") != "none"


class HeadSpec(Part):
    """[1x1 convolution to `conv_width`] - [fusion] - pooling - [linear `hidden`] - classifier.

    A width of 0 leaves the part out. `gem_p` is GeM's power; a learnable one starts at 3.
    """

    conv_width: OptionalWidth = 0
    pooling: Literal["avg", "gem"] = "avg"
    gem_learnable: bool = False
    gem_p: Annotated[float, Field(ge=1, le=8)] = 3.0
    hidden: OptionalWidth = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        if field == "gem_p" and node.get("gem_learnable", False):
            return False
        return field not in ("gem_learnable", "gem_p") or node.get("pooling", "avg") == "gem"


class Architecture(Part):
    """A whole network but for the number of classes: stem, stages, fusion, head.

    Equal networks are equal values: inactive fields are dropped, types coerced, a stage of
    depth 0 is no stage, and attention after a stage of one block without a shortcut stands
    before the add that is not there. Raises (through `parse`) ArchitectureError where the parts
    do not fit.
    """

    stem: StemSpec
    stages: Annotated[tuple[StageSpec, ...], Field(max_length=64)]
    fusion: FusionSpec = FusionSpec()
    head: HeadSpec = HeadSpec()
    act: Literal["relu", "relu6", "hard_swish", "silu"] = "relu"

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_stages(cls, node: Any) -> Any:
        if not isinstance(node, Mapping) or not isinstance(node.get("stages"), list | tuple):
            return node
        kept = [s for s in node["stages"] if not (isinstance(s, Mapping) and s.get("depth") == 0)]
        return {**node, "stages": kept}

    @model_validator(mode="after")
    def _settle_placements(self) -> Self:
        stages = []
        for in_chs, stage in self.with_in_chs():
            attention = stage.attention
            one_block = stage.depth == 1 and not (stage.stride == 1 and stage.width == in_chs)
            if attention.placement == "after_stage" and one_block:
                attention = attention.model_copy(update={"placement": "before_add"})
            stages.append(stage.model_copy(update={"attention": attention}))
        self.__dict__["stages"] = tuple(stages)  # frozen to everyone else
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.stages:
            raise ValueError("stages: a network needs at least one stage of depth 1 or more")
        for i, (in_chs, stage) in enumerate(self.with_in_chs()):
            groups = stage.attention.options.get("groups", 1)
            for width in sorted(stage.attention_widths(in_chs)):
                if width % groups:
                    raise ValueError(
                        f"stages.{i}.attention.groups: {groups} does not divide the {width} "
                        f"channels {stage.attention.placement.replace('_', ' ')}"
                    )
        return self

    def with_in_chs(self) -> Iterator[tuple[int, StageSpec]]:
        """Each stage with the number of channels that enter it."""
        in_chs = self.stem.width
        for stage in self.stages:
            yield in_chs, stage
            in_chs = stage.width

    @property
    def out_chs(self) -> int:
        """Channels of the final map."""
        return self.head.conv_width or self.stages[-1].width

    @property
    def fusion_stage(self) -> int:
        """Index of the stage whose map is the low one of the fusion: the last full-size one."""
        strided = [i for i, stage in enumerate(self.stages) if stage.stride > 1]
        return max(strided[-1] - 1, 0) if strided else max(len(self.stages) - 2, 0)

    def to_json(self) -> str:
        """Canonical JSON: sorted, without spaces, fields at their default left out."""
        return json.dumps(
            self.model_dump(mode="json", exclude_defaults=True),
            sort_keys=True,
            separators=(",", ":"),
        )

    @property
    def arch_id(self) -> str:
        """The first 12 hex digits of the sha256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def map_sizes(self, resolution: int) -> list[int]:
        """Side of the map, in pixels, after the stem and after each stage."""
        sizes = []
        for stride in (self.stem.stride, *(stage.stride for stage in self.stages)):
            resolution = -(-resolution // stride)
            sizes.append(resolution)
        return sizes

    def at_resolution(self, resolution: int) -> "Architecture":
        """The network for pictures of another size than the 224 pixels that it was drawn for.

        Strides become 1 from the front (stem first) until the final map is at least 4 pixels
        wide. At 224 nothing changes; at 32 the stem and the first strided stage keep their size,
        which is the usual CIFAR form of MobileNetV2.
        """
        if resolution < SMALLEST_LAST_MAP:
            raise ArchitectureError(
                f"resolution: must be {SMALLEST_LAST_MAP} or more, is {resolution}"
            )
        network = self
        for i in range(1 + len(self.stages)):
            if network.map_sizes(resolution)[-1] >= SMALLEST_LAST_MAP:
                break
            network = network._without_stride(i)
        return network

    def _without_stride(self, part: int) -> "Architecture":
        """A copy whose stem (part 0) or stage (1, 2, ...) keeps the size of its map."""
        if part == 0:
            return self.model_copy(update={"stem": self.stem.model_copy(update={"stride": 1})})
        stages = list(self.stages)
        stages[part - 1] = stages[part - 1].model_copy(update={"stride": 1})
        return self.model_copy(update={"stages": tuple(stages)})


def parse_architecture(data: object, where: str = "architecture") -> Architecture:
    """An Architecture from plain data; raises ArchitectureError with place, value and remedy."""
    return parse(Architecture, data, where, ArchitectureError)

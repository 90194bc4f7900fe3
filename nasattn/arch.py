"""Architecture: a network as a frozen value, with one canonical JSON and one id."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from nasattn.attention.table import ATTENTIONS, all_options, get_kind
from nasattn.blocks.table import BLOCKS, BlockKind
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.spec import Spec, parse

Stride = Literal[1, 2]
Kernel = Literal[3, 5, 7]
Placement = Literal["after_spatial", "before_add", "after_stage"]
Block = Literal["inverted_residual", "basic", "bottleneck", "preact_basic", "conv"]
Norm = Literal["batch", "none", "lrn"]
Act = Literal["relu", "relu6", "hard_swish", "silu"]

# Far above any network, far below what would take a machine down while it is only counted.
Depth = Annotated[int, Field(gt=0, le=200)]
Width = Annotated[int, Field(gt=0, le=16_384)]
OptionalWidth = Annotated[int, Field(ge=0, le=16_384)]  # 0: left out
Groups = Annotated[int, Field(gt=0, le=4096)]

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


class BareAttention(Part):
    """An attention kind with only the options which that kind has; its place is given."""

    model_config = ConfigDict(extra="allow")

    kind: str = "none"

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
            known = [*cls.model_fields, *all_options(node.keys() - cls.model_fields.keys())]
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


class AttentionSpec(BareAttention):
    """An attention kind, where it stands in its stage, and the options which that kind has.

    `after_spatial`: inside the block, after the (first) convolution that looks around;
    `before_add`: at the end of the block, before the shortcut is added;
    `after_stage`: once, after the last block of the stage.
    """

    placement: Placement = "before_add"


class StemSpec(Part):
    """The first layers: convolution, norm, activation, [attention], [3x3 max pooling, stride 2].

    Of three `convs` the first takes the stride and the first two have half the width.
    """

    width: Width
    stride: Literal[1, 2, 4] = 2
    kernel: Literal[3, 5, 7, 11] = 3
    convs: Literal[1, 3] = 1
    pool: bool = False
    norm: Norm = "batch"
    attention: BareAttention = BareAttention()

    @property
    def padding(self) -> int:
        """Pixels on each side: as many as keep the size, but for AlexNet's 55 of 224 pixels."""
        return 2 if (self.kernel, self.stride) == (11, 4) else self.kernel // 2

    def map_size(self, size: int) -> int:
        """Side of the map, in pixels, behind the stem."""
        size = (size + 2 * self.padding - self.kernel) // self.stride + 1
        return -(-size // 2) if self.pool else size


class StageSpec(Part):
    """`depth` equal blocks; the first one changes the width and takes the stride.

    A block reads the fields that its row of BLOCKS names. `expansion` is the hidden width over
    the entering one in inverted residuals, the leaving width over the inner one in bottlenecks.
    `conv` is the spatial convolution of a bottleneck: plain, selective kernel (sk) or
    split-attention (splat, of `radix` splits); `groups` its cardinality. `pool` puts an average
    pooling, which takes the stride, before or after it. `shortcut` is what stands where shapes
    differ: a 1x1 convolution, one behind an average pooling, or padding with zeros. `norm` is
    batch norm, none (a bias), or local response normalisation behind the activation. A
    `run_share` below 1 runs a block with a plain shortcut for that share of the pictures only.
    """

    depth: Depth
    block: Block = "inverted_residual"
    width: Width
    stride: Stride = 1
    expansion: Annotated[float, Field(ge=1, le=16)] = 1.0
    kernel: Kernel = 3
    attention: AttentionSpec = AttentionSpec()
    groups: Groups = 1
    conv: Literal["plain", "sk", "splat"] = "plain"
    radix: Literal[1, 2, 4] = 2
    pool: Literal["none", "before", "after"] = "none"
    shortcut: Literal["conv", "avg", "pad"] = "conv"
    norm: Norm = "batch"
    run_share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        if node.get("depth") == 0:
            return field == "depth"
        if field == "radix" and node.get("conv", "plain") != "splat":
            return False
        if field == "pool" and node.get("stride", 1) == 1:
            return False
        block = node.get("block", "inverted_residual")
        known = isinstance(block, str) and block in BLOCKS
        return not known or field in BLOCKS[block].fields or field not in BLOCK_FIELDS

    @property
    def kind(self) -> BlockKind:
        """The row of BLOCKS."""
        return BLOCKS[self.block]

    def inner_width(self, in_chs: int) -> int:
        """Channels after the spatial convolution of a block that `in_chs` channels enter."""
        return self.kind.inner(in_chs, self.width, self.expansion)

    def attention_widths(self, in_chs: int) -> set[int]:
        """The numbers of channels that this stage's attention sees."""
        if self.attention.placement != "after_spatial":
            return {self.width}
        later = {self.inner_width(self.width)} if self.depth > 1 else set()
        return {self.inner_width(in_chs)} | later

    def keeps_shape(self, in_chs: int) -> bool:
        """Whether the first block has the shape of its input."""
        return self.stride == 1 and self.width == in_chs

    def map_size(self, size: int) -> int:
        """Side of the map, in pixels, behind the stage."""
        return (size + self.stride - 1 if self.kind.rounds_up else size) // self.stride


BLOCK_FIELDS = frozenset().union(*(row.fields for row in BLOCKS.values()))


class FusionSpec(Part):
    """Fusion of earlier maps with the final one.

    `aff` (paper 000, section 3.3), with the last map before the last downsampling:
    alpha P_l(pool(low)) + beta P_h(high), and with three terms + gamma W(P_l + P_h).
    `multi_scale` (paper 004's outlook): attention in parallel on the maps of the `scales` deepest
    strides, the final map among them, added up after pooling and projection.
    """

    kind: Literal["none", "aff", "multi_scale"] = "none"
    terms: Literal[2, 3] = 3
    scales: Literal[2, 3, 4] = 3
    attention: BareAttention = BareAttention()

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        kind = node.get("kind", "none")
        owner = {"terms": "aff", "scales": "multi_scale", "attention": "multi_scale"}
        return field not in owner or owner[field] == kind


class HeadSpec(Part):
    """[1x1 convolution to `conv_width`] - [fusion] - pooling - [linear `hidden`] - classifier.

    A width of 0 leaves the part out. `gem_p` is GeM's power; a learnable one starts at 3. `grid`
    pooling is AlexNet's: 3x3 max pooling with stride 2, then all of a 6x6 map goes on.
    """

    conv_width: OptionalWidth = 0
    pooling: Literal["avg", "gem", "grid"] = "avg"
    gem_learnable: bool = False
    gem_p: Annotated[float, Field(ge=1, le=8)] = 3.0
    hidden: OptionalWidth = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hidden_layers: Literal[1, 2] = 1
    hidden_act: Act = "hard_swish"

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        if field in ("hidden_layers", "hidden_act"):
            return bool(node.get("hidden", 0))
        if field == "gem_p" and node.get("gem_learnable", False):
            return False
        return field not in ("gem_learnable", "gem_p") or node.get("pooling", "avg") == "gem"


class Architecture(Part):
    """A whole network but for the number of classes: stem, stages, fusion, head.

    Equal networks are equal values: inactive fields are dropped, types coerced, a stage of
    depth 0 is no stage, and what makes no difference in its place is settled one way. With
    `progressive`, attention grows from the first to the last of n stages:
    x + s (attention(x) - x) with s = 1/n, 2/n, .. 1. Raises (through `parse`) ArchitectureError
    where the parts do not fit.
    """

    stem: StemSpec
    stages: Annotated[tuple[StageSpec, ...], Field(max_length=64)]
    fusion: FusionSpec = FusionSpec()
    head: HeadSpec = HeadSpec()
    act: Act = "relu"
    progressive: bool = False

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        """`progressive` weakens attention before the last stage; without any it says nothing."""
        stages = node.get("stages")
        if field != "progressive" or not isinstance(stages, list | tuple):
            return True
        kept = [s for s in stages if not (isinstance(s, Mapping) and s.get("depth") == 0)]
        return any(_attends(stage) for stage in kept[:-1])

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_stages(cls, node: Any) -> Any:
        if not isinstance(node, Mapping) or not isinstance(node.get("stages"), list | tuple):
            return node
        kept = [s for s in node["stages"] if not (isinstance(s, Mapping) and s.get("depth") == 0)]
        return {**node, "stages": kept}

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Where two ways of writing give the same network, take the first."""
        stages = tuple(_settled(in_chs, stage) for in_chs, stage in self.with_in_chs())
        self.__dict__["stages"] = stages  # frozen to everyone else
        if self.fusion.kind == "multi_scale":
            scales = max(2, min(self.fusion.scales, len(self.strides)))
            self.__dict__["fusion"] = self.fusion.model_copy(update={"scales": scales})
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.stages:
            raise ValueError("stages: a network needs at least one stage of depth 1 or more")
        blocks = {stage.kind.preact for stage in self.stages}
        if len(blocks) > 1:
            raise ValueError("stages: preact_basic blocks do not mix with other kinds")
        _check_divides(self.stem.attention, {self.stem.width}, "stem.attention", "of the stem")
        for i, (in_chs, stage) in enumerate(self.with_in_chs()):
            place = stage.attention.placement.replace("_", " ")
            here = f"stages.{i}"
            _check_divides(
                stage.attention, stage.attention_widths(in_chs), f"{here}.attention", place
            )
            _check_conv(here, in_chs, stage)
        fused = {self.stages[i].width for i in self.fusion_stages} | {self.out_chs}
        _check_divides(self.fusion.attention, fused, "fusion.attention", "of a fused map")
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

    @property
    def strides(self) -> dict[int, int]:
        """The strides at which the network has maps, each with its last stage."""
        stride = self.stem.stride * (2 if self.stem.pool else 1)
        last = {}
        for i, stage in enumerate(self.stages):
            stride *= stage.stride
            last[stride] = i
        return last

    @property
    def fusion_stages(self) -> tuple[int, ...]:
        """Indices of the stages whose maps a fusion takes beside the final one."""
        if self.fusion.kind == "aff":
            return (self.fusion_stage,)
        if self.fusion.kind == "multi_scale":
            return tuple(self.strides.values())[-self.fusion.scales : -1]
        return ()

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
        for map_size in (self.stem.map_size, *(stage.map_size for stage in self.stages)):
            resolution = map_size(resolution)
            sizes.append(resolution)
        return sizes

    def at_resolution(self, resolution: int) -> "Architecture":
        """The network for pictures of another size than the 224 pixels that it was drawn for.

        Strides become 1 from the front (the stem, its pooling, then stages) until the final map
        is at least 4 pixels wide. At 224 nothing changes; at 32 the stem and the first strided
        stage of MobileNetV2 keep their size, which is its usual CIFAR form.
        """
        if resolution < SMALLEST_LAST_MAP:
            raise ArchitectureError(
                f"resolution: must be {SMALLEST_LAST_MAP} or more, is {resolution}"
            )
        stem, stages = self.stem, list(self.stages)
        network = self
        for i in range(-2, len(stages)):
            if network.map_sizes(resolution)[-1] >= SMALLEST_LAST_MAP:
                break
            if i < 0:
                stem = stem.model_copy(update={"stride": 1} if i == -2 else {"pool": False})
            else:
                stages[i] = stages[i].model_copy(update={"stride": 1})
            network = self.model_copy(update={"stem": stem, "stages": tuple(stages)})
        return parse_architecture(network.model_dump())


def _attends(stage: Any) -> bool:
    """Whether a stage, as a value or as plain data, has attention."""
    attention = stage.get("attention") if isinstance(stage, Mapping) else stage.attention
    kind = attention.get("kind") if isinstance(attention, Mapping) else attention and attention.kind
    return kind not in (None, "none")


def _settled(in_chs: int, stage: StageSpec) -> StageSpec:
    """A stage whose fields that make no difference behind `in_chs` channels are at one value."""
    changes: dict[str, Any] = {}
    attention, keeps_shape = stage.attention, stage.keeps_shape(in_chs)
    adds = stage.kind.shortcut == "always" or (stage.kind.shortcut == "same_shape" and keeps_shape)
    same_place = attention.placement == "after_stage" and stage.depth == 1 and not adds
    if attention.placement == "after_spatial" and not stage.kind.has_spatial_point:
        same_place = True
    if same_place:
        changes["attention"] = attention.model_copy(update={"placement": "before_add"})
    if keeps_shape:
        changes["shortcut"] = "conv"
    elif stage.depth == 1:
        changes["run_share"] = 1.0
    return stage.model_copy(update=changes)


def _check_divides(attention: BareAttention, widths: Iterable[int], where: str, place: str) -> None:
    groups = attention.options.get("groups", 1)
    for width in sorted(widths):
        if width % groups:
            raise ValueError(
                f"{where}.groups: {groups} does not divide the {width} channels {place}"
            )


def _check_conv(where: str, in_chs: int, stage: StageSpec) -> None:
    """The groups of a convolution divide its channels; channels are padded, never cut."""
    inner = {stage.inner_width(in_chs)}
    inner |= {in_chs} if stage.block == "conv" else set()
    groups = stage.groups * (stage.radix if stage.conv == "splat" else 1)
    if bad := [width for width in sorted(inner) if width % groups]:
        what = f"{stage.groups} x radix {stage.radix}" if groups != stage.groups else f"{groups}"
        raise ValueError(f"{where}.groups: {what} does not divide {bad[0]} channels")
    if stage.shortcut == "pad" and stage.width < in_chs:
        raise ValueError(f"{where}.shortcut: pad cannot make {stage.width} of {in_chs} channels")


def parse_architecture(data: object, where: str = "architecture") -> Architecture:
    """An Architecture from plain data; raises ArchitectureError with place, value and remedy."""
    return parse(Architecture, data, where, ArchitectureError)

"""Architecture: a network as a frozen value, with one canonical JSON and one id."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nasattn.errors import ArchitectureError
from nasattn.parts import Act, BareAttention, FusionSpec, HeadSpec, Part, StageSpec, StemSpec
from nasattn.spec import parse

SMALLEST_LAST_MAP = 4  # pixels; see Architecture.at_resolution


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
    def _check_stages(self) -> Self:
        if not self.stages:
            raise ValueError("stages: a network needs at least one stage of depth 1 or more")
        if len({stage.kind.preact for stage in self.stages}) > 1:
            raise ValueError("stages: preact_basic blocks do not mix with other kinds")
        return self

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Where two ways of writing give the same network, take the first."""
        settled = {
            "stem": _settled_stem(self),
            "stages": tuple(_settled(in_chs, stage) for in_chs, stage in self.with_in_chs()),
            "fusion": _settled_fusion(self),
        }
        self.__dict__.update(settled)  # frozen to everyone else
        return self

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.stem.convs == 3 and self.stem.width == 1:
            raise ValueError("stem.width: three convolutions need 2 or more, is 1")
        _check_divides(self.stem.attention, {self.stem.width}, "stem.attention", "of the stem")
        for i, (in_chs, stage) in enumerate(self.with_in_chs()):
            place = stage.attention.placement.replace("_", " ")
            here = f"stages.{i}"
            _check_divides(
                stage.attention, stage.attention_widths(in_chs), f"{here}.attention", place
            )
            _check_conv(here, in_chs, stage)
        _check_divides(
            self.fusion.attention, self.fused_widths, "fusion.attention", "of a fused map"
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

    @property
    def fused_widths(self) -> set[int]:
        """Channels of the maps that a fusion brings together."""
        return {self.stages[i].width for i in self.fusion_stages} | {self.out_chs}

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

        Strides are halved from the front, one at a time (the stem's until it is 1, its pooling,
        then the stages'), until the final map is at least 4 pixels wide. At 224 nothing changes;
        at 32 the stem and the first strided stage of MobileNetV2 keep their size, which is its
        usual CIFAR form.

        From one halving to the next the cost grows with the picture; with each, maps have again
        the size that they had for pictures twice as wide. So a network costs at most about what
        it costs at twice the resolution, and may cost as much: pictures of 64 and of 128 pixels
        both end in maps of 4.
        """
        if resolution < SMALLEST_LAST_MAP:
            raise ArchitectureError(
                f"resolution: must be {SMALLEST_LAST_MAP} or more, is {resolution}"
            )
        network = self
        while network.map_sizes(resolution)[-1] < SMALLEST_LAST_MAP:
            network = _with_first_stride_halved(network)
        return parse_architecture(network.model_dump())


def _with_first_stride_halved(arch: Architecture) -> Architecture:
    """The network whose maps are twice as wide from its first stride above 1 on."""
    stem, stages = arch.stem, list(arch.stages)
    if stem.stride > 1:
        stem = stem.model_copy(update={"stride": stem.stride // 2})
    elif stem.pool:
        stem = stem.model_copy(update={"pool": False})
    else:
        i = next(i for i, stage in enumerate(stages) if stage.stride > 1)
        stages[i] = stages[i].model_copy(update={"stride": stages[i].stride // 2})
    return arch.model_copy(update={"stem": stem, "stages": tuple(stages)})


def _attends(stage: Any) -> bool:
    """Whether a stage, as a value or as plain data that may be wrong, has attention."""
    attention = _field(stage, "attention")
    return attention is not None and _field(attention, "kind") not in (None, "none")


def _field(part: Any, name: str) -> Any:
    """A field of a part, as a value or as plain data; None where there is none."""
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def _settled_stem(arch: Architecture) -> StemSpec:
    """The stem; before pre-activation blocks it is a bare convolution, whatever it says."""
    attention = arch.stem.attention.settled({arch.stem.width})
    changes: dict[str, Any] = {"attention": attention}
    if arch.stages[0].kind.preact:
        changes = {"convs": 1, "norm": "batch", "attention": BareAttention()}
    return arch.stem.model_copy(update=changes)


def _settled_fusion(arch: Architecture) -> FusionSpec:
    """The fusion; of several scales, no more than there are, and none of a single bare one."""
    fusion, n_scales = arch.fusion, len(arch.strides)
    if fusion.kind != "multi_scale":
        return fusion
    if n_scales == 1 and fusion.attention.kind == "none":
        return FusionSpec()
    attention = fusion.attention.settled(arch.fused_widths)
    changes = {"scales": max(2, min(fusion.scales, n_scales)), "attention": attention}
    return fusion.model_copy(update=changes)


def _settled(in_chs: int, stage: StageSpec) -> StageSpec:
    """A stage whose fields that make no difference behind `in_chs` channels are at one value."""
    attention = stage.attention.settled(stage.attention_widths(in_chs))
    changes: dict[str, Any] = {"attention": attention}
    keeps_shape = stage.keeps_shape(in_chs)
    adds = stage.kind.shortcut == "always" or (stage.kind.shortcut == "same_shape" and keeps_shape)
    is_last = not adds and stage.norm != "lrn"  # before_add is the end of the block
    same_place = attention.placement == "after_stage" and stage.depth == 1 and is_last
    if attention.placement == "after_spatial" and not stage.kind.has_spatial_point:
        same_place = True
    if same_place:
        changes["attention"] = attention.model_copy(update={"placement": "before_add"})
    if keeps_shape or (stage.shortcut == "avg" and stage.stride == 1):
        changes["shortcut"] = "conv"
    if stage.depth == 1 and not keeps_shape:
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
    if 0 in inner:
        raise ValueError(
            f"{where}.expansion: {stage.expansion:g} leaves none of {stage.width} channels"
        )
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

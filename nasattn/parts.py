"""The parts of an architecture: stem, stages with their attention, fusion, head."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nasattn.attention.table import ATTENTIONS, all_options, get_kind
from nasattn.blocks.table import BLOCKS, BlockKind
from nasattn.errors import UnknownNameError, shown
from nasattn.spec import Spec, fields_of, one_of

Stride = Literal[1, 2]
Kernel = Literal[3, 5, 7]
Placement = Literal["after_spatial", "before_add", "after_stage"]
Block = Annotated[str, one_of("block", BLOCKS)]
Norm = Literal["batch", "none", "lrn"]
Act = Literal["relu", "relu6", "hard_swish", "silu"]

# Far above any network, far below what would take a machine down while it is only counted.
Depth = Annotated[int, Field(gt=0, le=200)]
Width = Annotated[int, Field(gt=0, le=16_384)]
OptionalWidth = Annotated[int, Field(ge=0, le=16_384)]  # 0: left out
Groups = Annotated[int, Field(gt=0, le=4096)]


NUMBERS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


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
        fields = fields_of(cls)
        return {k: v for k, v in node.items() if k not in fields or cls.means(node, k)}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_text_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`means` reads the plain data, to which "false" and "0" say yes."""
        if not isinstance(value, str):
            return value
        if wanted := NUMBERS.get(fields_of(cls)[info.field_name or ""].annotation):
            raise ValueError(f"must be {wanted}, is the text {shown(value)}")
        return value


class BareAttention(Part):
    """An attention kind with only the options which that kind has; its place is given."""

    model_config = ConfigDict(extra="allow")

    kind: str = "none"

    @classmethod
    def means(cls, node: Mapping[str, Any], field: str) -> bool:
        kind = node.get("kind", "none")
        if field == "kind" or kind == "none":
            return field == "kind"
        return field in fields_of(cls) or field in fields_of(get_kind(kind).options)

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        kind, own = node.get("kind", "none"), fields_of(cls)
        if kind == "none":
            if others := node.keys() - own.keys():
                known = [*own, *all_options(others)]
                for name in others - set(known):
                    raise UnknownNameError("attention option", name, known)
            return {"kind": kind}
        row = get_kind(kind)
        fields = {k: v for k, v in node.items() if k in own}
        options = {k: v for k, v in node.items() if k not in own}
        return fields | row.normalise(options, f"attention {kind!r}")

    @property
    def model_extra(self) -> MappingProxyType[str, Any]:  # type: ignore[override]
        """The options that are not at their default, read-only like every field."""
        return MappingProxyType(self.__pydantic_extra__ or {})

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the kind, defaults included."""
        if self.kind == "none":
            return {}
        return ATTENTIONS[self.kind].defaults | self.model_extra

    def settled(self, widths: Collection[int]) -> Self:
        """Without the options that make no difference from their default behind these widths."""
        if not self.model_extra:
            return self
        idle = ATTENTIONS[self.kind].idle(self.options, widths)
        kept = {k: v for k, v in self.model_dump().items() if k not in idle}
        return type(self).model_validate(kept)


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

    @property
    def later(self) -> "StageSpec":
        """The stage as its blocks behind the first see it: they take no stride."""
        return self.model_copy(update={"stride": 1, "pool": "none"})

    def keeps_shape(self, in_chs: int) -> bool:
        """Whether a block that `in_chs` channels enter has the shape of its input."""
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

    @property
    def n_hidden(self) -> int:
        """Layers between the pooling and the classifier."""
        return self.hidden_layers if self.hidden else 0

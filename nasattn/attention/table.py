"""ATTENTIONS: every kind of attention, where its module lives and which options it has."""

import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from nasattn.attention.widths import hidden_width
from nasattn.errors import ArchitectureError, UnknownAttentionError
from nasattn.spec import Spec, fields_of, parse

if TYPE_CHECKING:
    from torch import nn

Count = Annotated[int, Field(gt=0, le=4096)]
# What an option comes to in a module: (every option of the kind, channels) -> a value
Effect = Callable[[Mapping[str, Any], int], object]


@dataclass(frozen=True)
class AttentionKind:
    """A row of ATTENTIONS."""

    target: str  # "module:Class", built as Class(channels, **options)
    options: type[Spec]  # the typed options with their defaults, equal to those of the class
    source: str
    parts: tuple[str, ...] = ()  # kinds that this one is made of, one after the other
    # of the options that may come to the same as their default, each by itself
    effects: Mapping[str, Effect] = field(default_factory=dict, hash=False)

    def normalise(self, options: Mapping[str, object], where: str) -> dict[str, Any]:
        """The options checked and coerced, those at their default left out."""
        return parse(self.options, options, where, ArchitectureError).model_dump(
            exclude_defaults=True
        )

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """Every option at its default."""
        return MappingProxyType(self.options().model_dump())

    def idle(self, options: Mapping[str, Any], widths: Collection[int]) -> set[str]:
        """The options that build the same modules behind these widths as their default would.

        No effect may rest on an option that is idle because of another one.
        """
        defaults = self.defaults
        return {
            name
            for name, effect in self.effects.items()
            if all(
                effect(options, c) == effect({**options, name: defaults[name]}, c) for c in widths
            )
        }

    def load(self) -> "type[nn.Module]":
        """The module class (imports torch)."""
        module, name = self.target.split(":")
        loaded: type[nn.Module] = getattr(importlib.import_module(module), name)
        return loaded

    def build(self, channels: int, options: Mapping[str, Any]) -> "nn.Module":
        """The module for `channels` channels (imports torch)."""
        return self.load()(channels, **options)


def _kind(
    target: str,
    source: str,
    parts: tuple[str, ...] = (),
    effects: Mapping[str, Effect] | None = None,
    **options: tuple[Any, Any],
) -> AttentionKind:
    fields: dict[str, Any] = options
    model = create_model(target.split(":")[1] + "Options", __base__=Spec, **fields)
    return AttentionKind(f"nasattn.attention.{target}", model, source, parts, effects or {})


def _hidden(options: Mapping[str, Any], channels: int) -> int:
    return hidden_width(channels, options["rd_ratio"])


# An option named `groups` must divide the channels: Architecture checks it before anything is
# built. A default never changes, for it is part of what an arch_id stands for.
ATTENTIONS: dict[str, AttentionKind] = {
    "se": _kind(
        "squeeze_excite:SqueezeExcite",
        "Hu et al., CVPR 2018",
        effects={"rd_ratio": _hidden},
        rd_ratio=(Count, 16),
        bias=(bool, True),
    ),
    "eca": _kind(
        "eca:EfficientChannelAttn",
        "Wang et al., CVPR 2020; paper 000, section 3.2.1",
        dense=(bool, False),
    ),
    "lsa": _kind(
        "lam:LightweightSpatialAttn",
        "paper 000, section 3.2.2",
        kernel=(Literal[3, 5, 7], 7),
    ),
    "lam": _kind(
        "lam:LightweightAttn",
        "paper 000, section 3.2: ECA, then LSA",
        parts=("eca", "lsa"),
        dense=(bool, False),
        kernel=(Literal[3, 5, 7], 7),
    ),
    "cbam": _kind(
        "cbam:ConvBlockAttn",
        "Woo et al., ECCV 2018; paper 002, Table 1",
        effects={"rd_ratio": _hidden},
        rd_ratio=(Count, 16),
        kernel=(Literal[3, 5, 7], 7),
        bias=(bool, False),
        bn=(bool, False),
    ),
    "sge": _kind(
        "sge:SpatialGroupEnhance",
        "Li et al., 2019; paper 002, Table 1",
        groups=(Count, 8),
    ),
    "lgam": _kind(
        "lgam:LightGroupAttn",
        "paper 002, equations (2) to (7)",
        effects={
            "rd_ratio": lambda o, channels: hidden_width(
                channels // o["groups"], o["rd_ratio"], o["hidden_min"]
            ),
            "carry": lambda o, channels: o["groups"] > 1 and o["carry"],
        },
        groups=(Count, 4),
        rd_ratio=(Count, 16),
        hidden_min=(Count, 8),
        bias=(bool, False),
        bn=(bool, False),
        carry=(Literal["mean", "sum"], "mean"),
        spatial_reduce=(Literal["mean", "sum"], "mean"),
        relu_before_sigmoid=(bool, True),
    ),
    "bam": _kind(
        "bam:BottleneckAttn",
        "Park et al., BMVC 2018; paper 002, Table 1",
        effects={
            "rd_ratio": _hidden,
            "depthwise": lambda o, channels: o["depthwise"] and _hidden(o, channels) > 1,
        },
        rd_ratio=(Count, 16),
        dilation=(Literal[1, 2, 4, 6], 4),
        combine=(Literal["add", "multiply"], "add"),
        depthwise=(bool, False),
    ),
    "gc": _kind(
        "global_context:GlobalContext",
        "Cao et al., ICCV Workshops 2019",
        effects={"rd_ratio": lambda o, channels: hidden_width(channels, o["rd_ratio"], 2)},
        rd_ratio=(Count, 16),
    ),
    "spatial": _kind(
        "spatial:SpatialAttn",
        "paper 004, spatial attention",
        kernel=(Literal[3, 5, 7], 7),
        bias=(bool, True),
    ),
    "nl": _kind(
        "non_local:NonLocalAttn",
        "Wang et al., CVPR 2018; paper 004, self-attention",
        effects={"rd_ratio": _hidden},
        rd_ratio=(Count, 2),
        bias=(bool, True),
    ),
    "ska": _kind(
        "spatial_kernel:SpatialKernelAttn",
        "paper 003, spatial kernel selection",
        effects={
            "hidden": lambda o, channels: "," in o["kernels"] and o["hidden"],
            "gem_p": lambda o, channels: o["gem"] and channels > o["groups"] and o["gem_p"],
        },
        groups=(Count, 1),
        hidden=(Count, 32),
        gem=(bool, True),
        gem_p=(Annotated[float, Field(ge=1, le=8)], 3.0),
        kernels=(Literal["3", "5", "7", "3,5", "3,7", "5,7"], "3,5"),
        gate=(Literal["sigmoid", "none"], "sigmoid"),
    ),
}


def all_options(asked: Iterable[str] = ()) -> list[str]:
    """Names of the options of every kind, in the order of the table.

    Where one of `asked` is none of them, the installed plug-ins are loaded for theirs.
    """
    if set(asked) - set(names := _option_names()):
        from nasattn.attention.plugins import entry_point_kinds, load_entry_point

        for kind in entry_point_kinds():
            load_entry_point(kind)
        names = _option_names()
    return names


def _option_names() -> list[str]:
    return list(dict.fromkeys(o for row in ATTENTIONS.values() for o in fields_of(row.options)))


def build_attention(kind: str, channels: int, **options: object) -> "nn.Module":
    """The module of a kind for `channels` channels: (N, C, H, W) -> (N, C, H, W).

    Raises UnknownNameError for a kind that is not in ATTENTIONS, ArchitectureError for an
    option that the kind does not have or cannot take.
    """
    row = get_kind(kind)
    given = row.normalise(options, f"attention {kind!r}")
    groups = given.get("groups", row.defaults.get("groups", 1))
    if channels % groups:
        raise ArchitectureError(f"attention {kind!r}: {groups} groups do not divide {channels}")
    return row.build(channels, given)


def get_kind(kind: object) -> AttentionKind:
    """A row of ATTENTIONS, or of an installed plug-in; raises UnknownAttentionError."""
    if isinstance(kind, str) and kind not in ATTENTIONS:
        from nasattn.attention.plugins import load_entry_point

        load_entry_point(kind)
    if not isinstance(kind, str) or kind not in ATTENTIONS:
        raise UnknownAttentionError("attention", kind, known=ATTENTIONS)
    return ATTENTIONS[kind]

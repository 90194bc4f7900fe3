"""BLOCKS: every kind of block, where its module lives, and which fields of a stage it reads."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

# Channels inside a block, after its spatial convolution: (entering, leaving, expansion) -> inner
Inner = Callable[[int, int, float], int]


@dataclass(frozen=True)
class BlockKind:
    """A row of BLOCKS."""

    target: str  # "module:Class", built as Class(in_chs, stage, act=..., strength=...)
    source: str
    fields: frozenset[str]  # of StageSpec, beside those which every block reads
    inner: Inner
    # Where the input is added to the output: wherever the shapes are equal; always, by a
    # projection where they differ; or never.
    shortcut: Literal["same_shape", "always", "never"]
    has_spatial_point: bool = True  # whether after_spatial is another place than before_add
    preact: bool = False  # norm and activation stand before the convolutions
    rounds_up: bool = True  # a stride of 2 makes 5 of 9 pixels, or 4

    def load(self) -> "Callable[..., nn.Module]":
        """The module class (imports torch)."""
        module, name = self.target.split(":")
        loaded: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
        return loaded


BLOCKS: dict[str, BlockKind] = {
    "inverted_residual": BlockKind(
        "nasattn.blocks.inverted_residual:InvertedResidual",
        "Sandler et al., CVPR 2018",
        fields=frozenset({"expansion", "kernel", "run_share"}),
        inner=lambda entering, leaving, expansion: round(entering * expansion),
        shortcut="same_shape",
    ),
    "basic": BlockKind(
        "nasattn.blocks.residual:BasicBlock",
        "He et al., CVPR 2016",
        fields=frozenset({"kernel", "shortcut", "run_share"}),
        inner=lambda entering, leaving, expansion: leaving,
        shortcut="always",
    ),
    "bottleneck": BlockKind(
        "nasattn.blocks.residual:Bottleneck",
        "He et al., CVPR 2016; with groups Xie et al., CVPR 2017",
        fields=frozenset(
            {"expansion", "kernel", "groups", "conv", "radix", "pool", "shortcut", "run_share"}
        ),
        inner=lambda entering, leaving, expansion: round(leaving / expansion),
        shortcut="always",
    ),
    "preact_basic": BlockKind(
        "nasattn.blocks.residual:PreactBasicBlock",
        "He et al., ECCV 2016; Zagoruyko and Komodakis, BMVC 2016",
        fields=frozenset({"kernel", "run_share"}),
        inner=lambda entering, leaving, expansion: leaving,
        shortcut="always",
        preact=True,
    ),
    "conv": BlockKind(
        "nasattn.blocks.conv:ConvBlock",
        "Krizhevsky et al., NIPS 2012",
        fields=frozenset({"kernel", "groups", "norm"}),
        inner=lambda entering, leaving, expansion: leaving,
        shortcut="never",
        has_spatial_point=False,
        rounds_up=False,
    ),
}

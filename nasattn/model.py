"""build_model: the only way from an Architecture to an nn.Module."""

from itertools import accumulate
from math import prod
from operator import mul

from torch import Tensor, nn

from nasattn.arch import Architecture, HeadSpec, StageSpec
from nasattn.layers import (
    AdaptiveFeatureFusion,
    GeM,
    InvertedResidual,
    MeanPool,
    attention_at,
    conv_bn,
)


class Network(nn.Module):
    """Stem, stages, head convolution, fusion, pooling, classifier.

    Shapes: (N, in_chs, H, W) -> (N, num_classes).
    """

    def __init__(self, arch: Architecture, num_classes: int, in_chs: int) -> None:
        super().__init__()
        self.stem = conv_bn(in_chs, arch.stem.width, 3, stride=arch.stem.stride, act=arch.act)
        self.stages = nn.ModuleList(
            build_stage(chs, stage, act=arch.act) for chs, stage in arch.with_in_chs()
        )
        last = arch.stages[-1].width
        self.conv = (
            conv_bn(last, arch.out_chs, 1, act=arch.act) if arch.head.conv_width else nn.Identity()
        )
        self.strides, self._last_at = feature_strides(arch)
        self.feature_chs = {s: arch.stages[i].width for s, i in self._last_at.items()}
        self.fusion_stage = arch.fusion_stage
        self.fusion = build_fusion(arch)
        self.pool = build_pooling(arch.head)
        self.classifier = build_classifier(arch.out_chs, arch.head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        low = x
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i == self.fusion_stage:
                low = x
        x = self.conv(x)  # (N, out_chs, h, w)
        if self.fusion is not None:
            x = self.fusion(low, x)
        logits: Tensor = self.classifier(self.pool(x))
        return logits

    def feature_maps(self, x: Tensor) -> dict[int, Tensor]:
        """{stride: map after the last stage of that stride}, for what is built on a backbone."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return {stride: maps[i] for stride, i in self._last_at.items()}


def feature_strides(arch: Architecture) -> tuple[tuple[int, ...], dict[int, int]]:
    """The strides at which a network has maps, and the last stage of each."""
    strides = list(accumulate((arch.stem.stride, *(s.stride for s in arch.stages)), mul))[1:]
    last = {stride: i for i, stride in enumerate(strides)}
    return tuple(last), last


def build_model(arch: Architecture, num_classes: int, in_chs: int = 3) -> Network:
    """The network of an architecture: (N, in_chs, H, W) -> (N, num_classes) logits.

    Strides are taken as they stand; `arch.at_resolution(r)` adapts them to small pictures first.
    The weights come from torch's global generator: seed it to repeat them.
    """
    return Network(arch, num_classes, in_chs)


def build_stage(in_chs: int, stage: StageSpec, *, act: str) -> nn.Sequential:
    """The blocks of a stage, the first of which takes the stride and the change of width."""
    blocks: list[nn.Module] = [InvertedResidual(in_chs, stage, stride=stage.stride, act=act)]
    blocks += (
        InvertedResidual(stage.width, stage, stride=1, act=act) for _ in range(stage.depth - 1)
    )
    return nn.Sequential(*blocks, *attention_at("after_stage", stage.attention, stage.width))


def build_fusion(arch: Architecture) -> AdaptiveFeatureFusion | None:
    """The fusion of the map after `arch.fusion_stage` with the final one, if there is one."""
    if arch.fusion.kind == "none":
        return None
    return AdaptiveFeatureFusion(
        arch.stages[arch.fusion_stage].width,
        arch.out_chs,
        stride=prod(stage.stride for stage in arch.stages[arch.fusion_stage + 1 :]),
        terms=arch.fusion.terms,
    )


def build_pooling(head: HeadSpec) -> nn.Module:
    """(N, C, H, W) -> (N, C)."""
    if head.pooling == "avg":
        return MeanPool()
    return GeM(head.gem_p, learnable=head.gem_learnable)


def build_classifier(in_chs: int, head: HeadSpec, num_classes: int) -> nn.Sequential:
    """[Linear - h-swish] - [dropout] - linear: (N, in_chs) -> (N, num_classes)."""
    layers: list[nn.Module] = []
    if head.hidden:
        layers += [nn.Linear(in_chs, head.hidden), nn.Hardswish(inplace=True)]
    if head.dropout:
        layers.append(nn.Dropout(head.dropout))
    return nn.Sequential(*layers, nn.Linear(head.hidden or in_chs, num_classes))

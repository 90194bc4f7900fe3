"""build_model: the only way from an Architecture to an nn.Module."""

from collections.abc import Sequence
from functools import partial
from math import prod

from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.layers import (
    ACTIVATIONS,
    AdaptiveFeatureFusion,
    GeM,
    GridPool,
    MeanPool,
    MultiScaleFusion,
    attention_at,
    attention_of,
    chain,
    conv_bn,
    conv_norm_act,
    he_conv,
)
from nasattn.parts import HeadSpec, StageSpec


class Network(nn.Module):
    """Stem, stages, head convolution, fusion, pooling, classifier.

    Shapes: (N, in_chs, H, W) -> (N, num_classes).
    """

    def __init__(self, arch: Architecture, num_classes: int, in_chs: int) -> None:
        super().__init__()
        self.stem = build_stem(arch, in_chs)
        self.stages = nn.ModuleList(
            build_stage(chs, stage, act=arch.act, strength=strength)
            for (chs, stage), strength in zip(arch.with_in_chs(), strengths(arch), strict=True)
        )
        self.norm = build_last_norm(arch)
        self.conv = build_last_conv(arch)
        self.strides = tuple(arch.strides)
        self.feature_chs = {stride: arch.stages[i].width for stride, i in arch.strides.items()}
        self._last_stages = tuple(arch.strides.values())
        self.fusion_stages = arch.fusion_stages
        self.fusion = build_fusion(arch)
        self.pool = build_pooling(arch.head)
        self.classifier = build_classifier(arch.out_chs, arch.head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        *lows, x = self._maps(x, self.fusion_stages)
        x = self.conv(x)  # (N, out_chs, h, w)
        if self.fusion is not None:
            x = self.fusion(lows, x)
        logits: Tensor = self.classifier(self.pool(x))
        return logits

    def feature_maps(self, x: Tensor) -> dict[int, Tensor]:
        """{stride: map after the last stage of that stride}, for what is built on a backbone."""
        *earlier, _ = self._last_stages
        return dict(zip(self.strides, self._maps(x, earlier), strict=True))

    def _maps(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """The maps after the wanted stages, and the final one."""
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in wanted:
                maps.append(x)
        return [*maps, self.norm(x)]


def build_model(arch: Architecture, num_classes: int, in_chs: int = 3) -> Network:
    """The network of an architecture: (N, in_chs, H, W) -> (N, num_classes) logits.

    Strides are taken as they stand; `arch.at_resolution(r)` adapts them to small pictures first.
    The weights come from torch's global generator: seed it to repeat them.
    """
    return Network(arch, num_classes, in_chs)


def build_stem(arch: Architecture, in_chs: int) -> nn.Sequential:
    """(N, in_chs, H, W) -> (N, stem width, H / stride, W / stride)."""
    stem, stride, padding = arch.stem, arch.stem.stride, arch.stem.padding
    pool = nn.MaxPool2d(3, 2, padding=1) if stem.pool else None
    if arch.stages[0].kind.preact:  # its first block norms
        bare = he_conv(in_chs, stem.width, stem.kernel, stride=stride, padding=padding)
        return chain(conv=bare, pool=pool)
    conv = partial(conv_norm_act, kernel=stem.kernel, act=arch.act)
    last = partial(conv, norm=stem.norm, attention=attention_of(stem.attention, stem.width))
    if stem.convs == 1:
        return chain(conv=last(in_chs, stem.width, stride=stride, padding=padding), pool=pool)
    half, norm = stem.width // 2, "batch" if stem.norm == "batch" else "none"
    return chain(
        conv1=conv(in_chs, half, norm=norm, stride=stride, padding=padding),
        conv2=conv(half, half, norm=norm),
        conv3=last(half, stem.width),
        pool=pool,
    )


def strengths(arch: Architecture) -> list[float]:
    """How strong the attention of each stage is."""
    n = len(arch.stages)
    return [(i + 1) / n if arch.progressive else 1.0 for i in range(n)]


def build_stage(in_chs: int, stage: StageSpec, *, act: str, strength: float = 1.0) -> nn.Sequential:
    """The blocks of a stage, the first of which takes the stride and the change of width."""
    block = partial(stage.kind.load(), act=act, strength=strength)
    blocks = {"0": block(in_chs, stage)}
    blocks |= {str(i): block(stage.width, stage.later) for i in range(1, stage.depth)}
    after = attention_at("after_stage", stage.attention, stage.width, strength)
    return chain(**blocks, attention=after)


def build_last_norm(arch: Architecture) -> nn.Module:
    """What a chain of pre-activation blocks leaves to do."""
    last = arch.stages[-1]
    if not last.kind.preact:
        return nn.Identity()
    return nn.Sequential(nn.BatchNorm2d(last.width), ACTIVATIONS[arch.act]())


def build_last_conv(arch: Architecture) -> nn.Module:
    """The head's convolution, if it has one: (N, C, H, W) -> (N, out_chs, H, W)."""
    if not arch.head.conv_width:
        return nn.Identity()
    return conv_bn(arch.stages[-1].width, arch.out_chs, 1, act=arch.act)


def build_fusion(arch: Architecture) -> nn.Module | None:
    """The fusion of the maps after `arch.fusion_stages` with the final one, if there is one."""
    if arch.fusion.kind == "none":
        return None
    lows = fused_maps(arch)
    if arch.fusion.kind == "multi_scale":
        widths, strides = [chs for chs, _ in lows], [stride for _, stride in lows]
        return MultiScaleFusion(widths, strides, arch.out_chs, arch.fusion.attention)
    ((width, stride),) = lows
    return AdaptiveFeatureFusion(width, arch.out_chs, stride=stride, terms=arch.fusion.terms)


def fused_maps(arch: Architecture) -> list[tuple[int, int]]:
    """(channels, stride from there to the final map) of each map after `arch.fusion_stages`."""
    return [
        (arch.stages[i].width, prod(stage.stride for stage in arch.stages[i + 1 :]))
        for i in arch.fusion_stages
    ]


def build_pooling(head: HeadSpec) -> nn.Module:
    """(N, C, H, W) -> (N, C), or (N, 36 C) as a grid."""
    if head.pooling == "gem":
        return GeM(head.gem_p, learnable=head.gem_learnable)
    return GridPool() if head.pooling == "grid" else MeanPool()


def build_classifier(in_chs: int, head: HeadSpec, num_classes: int) -> nn.Sequential:
    """[Linear - activation - [dropout]] x layers - linear: (N, in_chs) -> (N, num_classes)."""
    in_chs *= GridPool().side ** 2 if head.pooling == "grid" else 1
    dropout = [nn.Dropout(head.dropout)] if head.dropout else []
    layers: list[nn.Module] = []
    for _ in range(head.n_hidden):
        layers += [nn.Linear(in_chs, head.hidden), ACTIVATIONS[head.hidden_act](), *dropout]
        in_chs = head.hidden
    if not head.hidden:
        layers += dropout
    return nn.Sequential(*layers, nn.Linear(in_chs, num_classes))

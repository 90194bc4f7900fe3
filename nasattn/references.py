"""Networks that are not ours to search: a kept library's, or our own code where none has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nasattn.baselines.baseline import Published

if TYPE_CHECKING:
    from torch import nn

# How far paper 001's Table 1 and what 000 shares with it are from a count: all of it is within.
NEAR = 0.04


@dataclass(frozen=True)
class Reference:
    """A network to measure others by: where to find it, and what was printed about it.

    `target` is "module:function", called with `num_classes` and `options`; the library is only
    imported then, and its weights are new ones: nothing is downloaded.
    """

    name: str
    target: str
    source: str
    published: tuple[Published, ...] = ()
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = "reference"

    def build(self, num_classes: int, in_chs: int = 3) -> nn.Module:
        """The network for pictures of any size that leaves it a map: (N, in_chs, H, W) -> logits.

        The libraries' networks take 3 channels; for another number the first convolution is
        made anew.
        """
        from torch import nn

        module, _, function = self.target.partition(":")
        model: nn.Module = getattr(import_module(module), function)(
            num_classes=num_classes, **self.options
        )
        if in_chs == 3:
            return model
        name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
        first = nn.Conv2d(
            in_chs,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # nn.Conv2d keeps it as a tuple
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        model.set_submodule(name, first)
        return model


def table_2(
    params: str, macs: Published, top1: tuple[str, str], latency: str, why: str = ""
) -> tuple[Published, ...]:
    """A row of paper 000's Table 2: CIFAR-10 and ImageNet top-1, and the time of a picture."""
    place = "000, Table 2"
    return (
        Published("params", params, "ImageNet", place, "match"),
        macs,
        Published("top1", top1[0], "CIFAR-10", place),
        Published("top1", top1[1], "ImageNet", place, why=why),
        Published("latency_ms", latency, "RTX 3080", place),
    )


def macs(printed: str, place: str, why: str = "") -> Published:
    """Multiply-adds at 224x224: to the printed digits, or where there is a reason near them."""
    tolerance = NEAR if why else None
    return Published("macs", printed, "ImageNet", place, "match", tolerance, why)


def table_1(params: str, top1: str, *counted: Published) -> tuple[Published, ...]:
    """A row of paper 001's Table 1."""
    place = "001, Table 1"
    return (
        Published("params", params, "ImageNet", place, "match"),
        *counted,
        Published("top1", top1, "ImageNet", place),
    )


V3_FLOPS = "the original paper's figure, 1 % above the count"
SHUFFLE_V2_FLOPS = "the original paper's figure, under 1 % above the count"
SHUFFLE_V2_THOP = "144.9 M, and 148.8 M with the two operations an element of batch norm"
EFFICIENT_FLOPS = "the original paper's figure, 1 % above the count"
SMALLER_SHUFFLE = "the accuracy of the 1.0x with g = 8, which has 2.4 M and 138 M"
IMPOSSIBLE_RATIO = (
    "printed beside 558 M for full convolutions, a ratio of 9.96 where kernels of 3x3 save less "
    "than 9; MobileNetV1 has 569 M"
)
PARAMS_FOR_FLOPS = "143.7 M are its parameters"

REFERENCES: dict[str, Reference] = {
    row.name: row
    for row in (
        Reference(
            "mobilenet_v1",
            "timm.models:mobilenetv1_100",
            "Howard et al., 2017, arXiv 1704.04861",
            (
                *table_2("4.2 M", macs("569 M", "000, Table 2"), ("89.4 %", "70.6 %"), "12.3 ms"),
                *table_1("4.2 M", "70.6 %", macs("569 M", "001, Table 1")),
                Published(
                    "macs", "56 M", "ImageNet", "001, section 4.1", "no", why=IMPOSSIBLE_RATIO
                ),
            ),
        ),
        Reference(
            "mobilenet_v3_large",
            "torchvision.models:mobilenet_v3_large",
            "Howard et al., ICCV 2019",
            table_1("5.4 M", "75.2 %", macs("219 M", "001, Table 1", V3_FLOPS)),
        ),
        Reference(
            "mobilenet_v3_small",
            "torchvision.models:mobilenet_v3_small",
            "Howard et al., ICCV 2019",
        ),
        Reference(
            "shufflenet_v1",
            "nasattn.shufflenet_v1:ShuffleNetV1",
            "Zhang, Zhou, Lin, Sun, CVPR 2018",
            table_2(
                "5.4 M",
                macs("524 M", "000, Table 2"),
                ("89.8 %", "67.6 %"),
                "11.6 ms",
                why=SMALLER_SHUFFLE,
            ),
            "2.0x with g = 3, which has the printed size",
            {"width": 2.0, "groups": 3},
        ),
        Reference(
            "shufflenet_v2",
            "torchvision.models:shufflenet_v2_x1_0",
            "Ma, Zhang, Zheng, Sun, ECCV 2018",
            (
                *table_2(
                    "2.3 M",
                    macs("146 M", "000, Table 2", SHUFFLE_V2_FLOPS),
                    ("90.6 %", "69.4 %"),
                    "7.2 ms",
                ),
                *table_1("2.3 M", "69.4 %", macs("149 M", "001, Table 1", SHUFFLE_V2_THOP)),
            ),
        ),
        Reference(
            "efficientnet_b0",
            "torchvision.models:efficientnet_b0",
            "Tan, Le, ICML 2019",
            (
                *table_2(
                    "5.3 M",
                    macs("390 M", "000, Table 2", EFFICIENT_FLOPS),
                    ("92.1 %", "77.1 %"),
                    "15.4 ms",
                ),
                *table_1("5.3 M", "77.1 %", macs("390 M", "001, Table 1", EFFICIENT_FLOPS)),
            ),
        ),
        Reference(
            "squeezenet",
            "torchvision.models:squeezenet1_0",
            "Iandola et al., 2016, arXiv 1602.07360",
            table_1("1.2 M", "57.5 %"),
            "version 1.0, whose accuracy is printed; 1.1 has 1.24 M and 349 M",
        ),
        Reference(
            "vgg16",
            "torchvision.models:vgg16",
            "Simonyan, Zisserman, ICLR 2015",
            (
                Published("params", "138 M", "ImageNet", "001, section 2.1", "match"),
                macs("15.5 G", "001, section 2.1"),
            ),
        ),
        Reference(
            "vgg19",
            "torchvision.models:vgg19",
            "Simonyan, Zisserman, ICLR 2015",
            (Published("macs", "14 M", "ImageNet", "000, section 1", "no", why=PARAMS_FOR_FLOPS),),
        ),
        Reference(
            "resnet152",
            "torchvision.models:resnet152",
            "He, Zhang, Ren, Sun, CVPR 2016",
            (Published("params", "60 M", "ImageNet", "000, section 1", "match"),),
        ),
    )
}

"""Residual networks: He et al., wide, ResNeXt, SE, SK and CBAM ones, and paper 002's LGAM."""

from typing import Any

from nasattn.arch import Architecture
from nasattn.baselines.baseline import Baseline, Published, Verdict
from nasattn.parts import AttentionSpec, StageSpec, StemSpec

LGAM_PAPER = "paper 002: Zhang, Li, Yang, J. Computer Applications 40(3), 2020"
HE = "He et al., CVPR 2016"

IMAGENET_STEM = StemSpec(width=64, kernel=7, pool=True)
CIFAR_STEM = StemSpec(width=64, stride=1)
NO_ATTENTION = AttentionSpec()


def resnet(
    depths: tuple[int, ...],
    *,
    block: str = "basic",
    stem: StemSpec = IMAGENET_STEM,
    width: int = 64,
    attention: AttentionSpec = NO_ATTENTION,
    **fields: Any,
) -> Architecture:
    """A residual network whose stages double a `width` and, from the second on, halve the map.

    The width is that of the first stage's output, as StageSpec has it; `fields` are those of
    every stage.
    """
    stages = tuple(
        StageSpec.model_validate(
            {
                "depth": depth,
                "block": block,
                "width": width * 2**i,
                "stride": 1 if i == 0 else 2,
                "attention": attention,
                **fields,
            }
        )
        for i, depth in enumerate(depths)
    )
    return Architecture(stem=stem, stages=stages)


def bottlenecks(
    depths: tuple[int, ...],
    *,
    stem: StemSpec = IMAGENET_STEM,
    attention: AttentionSpec = NO_ATTENTION,
    expansion: float = 4,
    **fields: Any,
) -> Architecture:
    """A network of bottlenecks that leave 256 channels in the first stage."""
    return resnet(
        depths,
        block="bottleneck",
        stem=stem,
        width=256,
        attention=attention,
        expansion=expansion,
        **fields,
    )


def resnext(depths: tuple[int, ...], **fields: Any) -> Architecture:
    """ResNeXt 32x4d: 32 groups, of 4 channels in the first stage."""
    return bottlenecks(depths, expansion=2, groups=32, **fields)


def wide_resnet(attention: AttentionSpec = NO_ATTENTION) -> Architecture:
    """WRN-16-10: two blocks a stage, ten times as wide as the stem."""
    stem = StemSpec(width=16, stride=1)
    return resnet((2, 2, 2), block="preact_basic", stem=stem, width=160, attention=attention)


def small_resnet(depth: int) -> Architecture:
    """The ResNets of He et al., section 4.2: three stages of 16, 32 and 64 channels."""
    return resnet((depth,) * 3, stem=StemSpec(width=16, stride=1), width=16, shortcut="pad")


STEMS = (CIFAR_STEM, IMAGENET_STEM)
D18, D34, D101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
D50 = D34  # of bottlenecks, which have three convolutions where basic blocks have two

# Paper 002's readings, each the one that has the printed parameters (Tables 3 and 4).
LGAM = AttentionSpec(kind="lgam")
ATTENTION_002: dict[str, tuple[AttentionSpec, str]] = {
    "se": (AttentionSpec(kind="se", bias=False), "in every block, r = 16, no bias"),
    "sge": (AttentionSpec(kind="sge", groups=64), "in every block, 64 groups"),
    "cbam": (AttentionSpec(kind="cbam"), "in every block, r = 16, no bias, no batch norm"),
    "bam": (
        AttentionSpec(kind="bam", placement="after_stage", depthwise=True),
        "after each of the four stages, r = 16, the dilated convolutions depthwise",
    ),
    "lgam": (LGAM, "in every block, before the add, G = 4, r = 16, at least 8 hidden channels"),
}
FITTED = ("bam", "lgam")
# (params, error) on CIFAR-10, CIFAR-100 and 20 classes of ImageNet, as printed
TABLES_002: dict[str, tuple[tuple[str, str], ...]] = {
    "": (("11.17 M", "5.68 %"), ("11.22 M", "23.52 %"), ("11.19 M", "25.57 %")),
    "se": (("11.26 M", "5.54 %"), ("11.31 M", "23.32 %"), ("11.27 M", "25.26 %")),
    "sge": (("11.17 M", "5.33 %"), ("11.22 M", "23.35 %"), ("11.19 M", "24.38 %")),
    "cbam": (("11.26 M", "5.41 %"), ("11.31 M", "23.23 %"), ("11.27 M", "23.74 %")),
    "bam": (("11.24 M", "5.25 %"), ("11.29 M", "23.21 %"), ("11.25 M", "23.57 %")),
    "lgam": (("11.20 M", "5.16 %"), ("11.25 M", "22.94 %"), ("11.22 M", "23.14 %")),
}


def figures_002(kind: str) -> tuple[tuple[Published, ...], tuple[Published, ...]]:
    """What paper 002 prints of ResNet-18 with an attention: (on CIFAR, on 20 ImageNet classes)."""
    found = []
    places = (("CIFAR-10", "Table 3"), ("CIFAR-100", "Table 3"), ("ImageNet-20", "Table 4"))
    for (where, table), (params, error) in zip(places, TABLES_002[kind], strict=True):
        source = f"002, {table}"
        verdict: Verdict = "fit" if kind in FITTED else "match"
        found += [
            Published("params", params, where, source, verdict),
            Published("top1_error", error, where, source),
        ]
    return tuple(found[:4]), tuple(found[4:])


def resnet18_002() -> list[Baseline]:
    """ResNet-18 with each attention of paper 002, drawn for CIFAR and for ImageNet."""
    rows = []
    for kind in TABLES_002:
        attention, reading = ATTENTION_002[kind] if kind else (NO_ATTENTION, "")
        suffix = f"_{kind}" if kind else ""
        source = LGAM_PAPER if kind == "lgam" else HE
        cifar, imagenet = figures_002(kind)
        small, large = (resnet(D18, stem=s, attention=attention) for s in STEMS)
        rows += [
            Baseline(f"resnet18{suffix}_cifar", small, source, cifar, reading),
            Baseline(f"resnet18{suffix}", large, source, imagenet, reading),
        ]
    return rows


def table_1(
    params: str, error: str, verdict: Verdict = "match", why: str = ""
) -> tuple[Published, ...]:
    """A row of paper 002's Table 1, all of it on CIFAR-100."""
    return (
        Published("params", params, "CIFAR-100", "002, Table 1", verdict, why=why),
        Published("top1_error", error, "CIFAR-100", "002, Table 1"),
    )


def table_2(
    params: str, macs: str, top1: str, *, no_macs: str = "", mean_ap: str = ""
) -> tuple[Published, ...]:
    """A row of paper 003's Table 2: counts at 1000 classes, accuracy on 10 classes of ImageNet.

    The counts are copied from the SKNet and ResNeSt papers and hold within 0.6 % (parameters)
    and 2 % (multiply-adds).
    """
    source = "003, Table 2"
    counted = Published("macs", macs, "ImageNet", source, "match", 0.02)
    missed = Published("macs", macs, "ImageNet", source, "no", why=no_macs)
    detection = Published("map", mean_ap, "Faster R-CNN, data not named", "003, Table 3")
    return (
        Published("params", params, "ImageNet", source, "match", 0.006),
        missed if no_macs else counted,
        Published("top1", top1, "ImageNet-10", source),
        *([detection] if mean_ap else []),
    )


WRN_WHY = "the standard network has 17.17 M; 17.43 M are had when its projections count twice"
RESNEXT_WHY = "no standard ResNeXt-29 has as many; 32x4d has 4.87 M"
OFFICIAL_CBAM = AttentionSpec(kind="cbam", bias=True, bn=True)
CBAM_WHY = "CBAM adds 6 M multiply-adds to ResNet's; no reading adds as many as printed"
OPTION_A = "He et al., CVPR 2016, section 4.2, shortcuts of option A"

RESNET_BASELINES = (
    *resnet18_002(),
    Baseline("resnet20_cifar", small_resnet(3), OPTION_A),
    Baseline("resnet32_cifar", small_resnet(5), OPTION_A),
    Baseline("resnet56_cifar", small_resnet(9), OPTION_A),
    Baseline("resnet34", resnet(D34), HE),
    Baseline(
        "resnet34_cifar",
        resnet(D34, stem=CIFAR_STEM),
        HE,
        table_1("21.33 M", "22.45 %"),
    ),
    Baseline(
        "resnet34_lgam_cifar",
        resnet(D34, stem=CIFAR_STEM, attention=LGAM),
        LGAM_PAPER,
        table_1("21.39 M", "21.36 %", "fit"),
        ATTENTION_002["lgam"][1],
    ),
    Baseline(
        "wrn16_10",
        wide_resnet(),
        "Zagoruyko and Komodakis, BMVC 2016",
        table_1("17.43 M", "22.54 %", "no", WRN_WHY),
    ),
    Baseline(
        "wrn16_10_lgam",
        wide_resnet(LGAM),
        LGAM_PAPER,
        table_1("17.48 M", "21.55 %", "no", WRN_WHY),
        ATTENTION_002["lgam"][1],
    ),
    Baseline(
        "resnext29_32x4d",
        resnext((3, 3, 3), stem=CIFAR_STEM),
        "Xie et al., CVPR 2017",
        table_1("24.26 M", "22.59 %", "no", RESNEXT_WHY),
    ),
    Baseline(
        "resnext29_32x4d_lgam",
        resnext((3, 3, 3), stem=CIFAR_STEM, attention=LGAM),
        LGAM_PAPER,
        table_1("24.34 M", "21.47 %", "no", RESNEXT_WHY),
        ATTENTION_002["lgam"][1],
    ),
    Baseline(
        "resnet50",
        bottlenecks(D50),
        HE,
        table_2("25.5 M", "4.14 G", "75.06 %", mean_ap="37.3 %"),
    ),
    Baseline(
        "resnet101",
        bottlenecks(D101),
        HE,
        table_2("44.5 M", "7.87 G", "76.26 %"),
    ),
    Baseline(
        "resnext50_32x4d",
        resnext(D50),
        "Xie et al., CVPR 2017",
        table_2("25.0 M", "4.24 G", "76.63 %", mean_ap="40.1 %"),
    ),
    Baseline(
        "resnext101_32x4d",
        resnext(D101),
        "Xie et al., CVPR 2017",
        table_2("44.3 M", "7.99 G", "77.82 %"),
    ),
    Baseline(
        "seresnext50_32x4d",
        resnext(D50, attention=AttentionSpec(kind="se")),
        "Hu et al., CVPR 2018",
        table_2("27.7 M", "4.25 G", "77.76 %", mean_ap="41.9 %"),
        "the paper's SENet-50 has the size of SE-ResNeXt-50, not of SE-ResNet-50",
    ),
    Baseline(
        "seresnext101_32x4d",
        resnext(D101, attention=AttentionSpec(kind="se")),
        "Hu et al., CVPR 2018",
        table_2("49.2 M", "8.00 G", "78.35 %"),
        "the paper's SENet-101 has the size of SE-ResNeXt-101, not of SE-ResNet-101",
    ),
    Baseline(
        "skresnext50_32x4d",
        resnext(D50, conv="sk"),
        "Li et al., CVPR 2019",
        table_2("27.5 M", "4.47 G", "78.14 %"),
    ),
    Baseline(
        "skresnext101_32x4d",
        resnext(D101, conv="sk"),
        "Li et al., CVPR 2019",
        table_2("48.9 M", "8.46 G", "78.78 %"),
    ),
    Baseline(
        "resnet50_cbam",
        bottlenecks(D50, attention=OFFICIAL_CBAM),
        "Woo et al., ECCV 2018",
        table_2("28.1 M", "4.36 G", "77.34 %", no_macs=CBAM_WHY),
    ),
    Baseline(
        "resnet101_cbam",
        bottlenecks(D101, attention=OFFICIAL_CBAM),
        "Woo et al., ECCV 2018",
        table_2("49.3 M", "8.05 G", "77.86 %", no_macs=CBAM_WHY),
    ),
)

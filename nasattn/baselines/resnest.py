"""ResNeSt, and paper 003's ResNeSkt: ResNeSt with spatial-kernel attention."""

from typing import Any

from nasattn.arch import Architecture
from nasattn.baselines.baseline import Baseline, Published, Verdict
from nasattn.baselines.resnet import D50, D101, bottlenecks
from nasattn.parts import AttentionSpec, StemSpec

RESNEST = "Zhang et al., ResNeSt, 2020"
RESNESKT_PAPER = "paper 003: Luo, Cai, Packaging Engineering"
D200 = (3, 24, 36, 3)


def resnest(
    depths: tuple[int, ...], *, fast: bool = False, stem: int = 64, **fields: Any
) -> Architecture:
    """ResNeSt 2s1x64d: one group of two splits; a fast one pools before the convolution."""
    return bottlenecks(
        depths,
        stem=StemSpec(width=stem, convs=3, pool=True),
        conv="splat",
        radix=2,
        pool="before" if fast else "after",
        shortcut="avg",
        **fields,
    )


def resneskt(depths: tuple[int, ...], groups: int, hidden: int) -> Architecture:
    """Paper 003's network: spatial-kernel attention behind each split-attention convolution."""
    attention = AttentionSpec.model_validate(
        {"kind": "ska", "placement": "after_spatial", "groups": groups, "hidden": hidden}
    )
    return resnest(depths, fast=True, attention=attention)


def counts(
    params: str, macs: str, table: str, verdict: Verdict = "fit", why: str = ""
) -> tuple[Published, ...]:
    """Printed counts at 1000 classes; `verdict` is the multiply-adds'."""
    source = f"003, {table}"
    return (
        Published("params", params, "ImageNet", source, "fit", 0.005),
        Published("macs", macs, "ImageNet", source, verdict, 0.02, why),
    )


def top1(printed: str, table: str = "Table 2") -> Published:
    return Published("top1", printed, "ImageNet-10", f"003, {table}")


def mean_ap(printed: str) -> Published:
    return Published("map", printed, "Faster R-CNN, data not named", "003, Table 3")


READING = (
    "trunk ResNeSt 2s1x64d fast; the printed k, r = 32, 2 cannot be its cardinality and radix "
    "(25.3 M); as 32 groups of the spatial-kernel attention they fit"
)
OURS = "spatial-kernel attention over all channels at once, where each map pools 64 or more"
SLIP_50 = "4.25 G is SENet-50's figure in the same table; the fast ResNeSt-50 has 4.33 G"
WHY_200 = "no reading of the trunk comes below 15.0 G at depth 200"

RESNEST_BASELINES = (
    Baseline(
        "resnest50_fast",
        resnest(D50, fast=True),
        RESNEST,
        (
            Published("params", "27.5 M", "ImageNet", "003, Table 2", "match"),
            Published("macs", "4.25 G", "ImageNet", "003, Table 2", "no", why=SLIP_50),
            top1("80.06 %"),
            mean_ap("44.72 %"),
        ),
    ),
    Baseline("resnest50", resnest(D50), RESNEST),
    Baseline(
        "resnest101_fast",
        resnest(D101, fast=True),
        RESNEST,
        (
            Published("params", "48.3 M", "ImageNet", "003, Table 2", "match", 0.005),
            Published("macs", "8.07 G", "ImageNet", "003, Table 2", "match", 0.02),
            top1("80.53 %"),
        ),
        "48.3 M is the figure of the full network, 8.07 G of the fast one",
    ),
    Baseline("resnest101", resnest(D101, stem=128), RESNEST),
    Baseline("resnest200", resnest(D200, stem=128), RESNEST),
    Baseline("resneskt50", resneskt(D50, 1, 32), RESNESKT_PAPER, note=OURS),
    Baseline("resneskt101", resneskt(D101, 1, 32), RESNESKT_PAPER, note=OURS),
    Baseline("resneskt200", resneskt(D200, 1, 32), RESNESKT_PAPER, note=OURS),
    Baseline(
        "resneskt50_paper",
        resneskt(D50, 32, 8),
        RESNESKT_PAPER,
        (*counts("27.6 M", "4.32 G", "Table 1"), top1("81.39 %", "Table 1"), mean_ap("45.53 %")),
        READING,
    ),
    Baseline(
        "resneskt101_paper",
        resneskt(D101, 32, 8),
        RESNESKT_PAPER,
        (*counts("48.3 M", "8.19 G", "Table 1"), top1("81.74 %", "Table 1")),
        READING,
    ),
    Baseline(
        "resneskt200_paper",
        resneskt(D200, 32, 8),
        RESNESKT_PAPER,
        (*counts("70.1 M", "13.99 G", "Table 1", "no", WHY_200), top1("82.05 %", "Table 1")),
        READING,
    ),
)

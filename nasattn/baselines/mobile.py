"""Networks of inverted residuals: MobileNetV2, and paper 000's LAM network with its ladder."""

from nasattn.arch import Architecture
from nasattn.baselines.baseline import Baseline, Published
from nasattn.parts import AttentionSpec, FusionSpec, HeadSpec, StageSpec, StemSpec

LAM_PAPER = "paper 000: Zhang, Hu, Wang, AI and Robotics Research 14(6), 2025"

# expansion, width, depth, stride
MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Widths, depths and strides of paper 000's Table 1. The table gives no expansions: these are the
# halves and wholes whose multiply-adds fit its FLOPs column.
LAM_STAGES = (
    (1, 16, 2, 1),
    (1.5, 24, 3, 2),
    (1.5, 32, 3, 2),
    (2, 64, 6, 2),
    (1.5, 96, 3, 1),
    (1.5, 160, 3, 2),
)


def inverted_residuals(
    stages: tuple[tuple[float, int, int, int], ...],
    head: HeadSpec,
    attention: AttentionSpec | None = None,
    fusion: FusionSpec | None = None,
) -> Architecture:
    """A MobileNetV2-like network from (expansion, width, depth, stride) a stage."""
    return Architecture(
        stem=StemSpec(width=32),
        stages=tuple(
            StageSpec(
                depth=depth,
                width=width,
                stride=2 if stride == 2 else 1,
                expansion=expansion,
                attention=attention or AttentionSpec(),
            )
            for expansion, width, depth, stride in stages
        ),
        fusion=fusion or FusionSpec(),
        head=head,
        act="relu6",
    )


def lam(attention: AttentionSpec, fusion: FusionSpec, hidden: int) -> Architecture:
    """Paper 000's network with some attention, some fusion and a hidden layer of some width."""
    head = HeadSpec(conv_width=320, hidden=hidden)
    return inverted_residuals(LAM_STAGES, head, attention, fusion)


NO_ATTENTION, NO_FUSION = AttentionSpec(), FusionSpec()
DENSE_ECA = AttentionSpec(kind="eca", dense=True)
DENSE_LAM = AttentionSpec(kind="lam", dense=True)

# Table 3 of paper 000, in its cumulative order. Its params column needs the dense ECA (the
# genuine one adds 66 parameters), a hidden layer of 1037, and "full" to add AFF's third term.
LAM_LADDER: dict[str, Architecture] = {
    "base": lam(NO_ATTENTION, NO_FUSION, 1037),
    "+eca": lam(DENSE_ECA, NO_FUSION, 1037),
    "+lsa": lam(DENSE_LAM, NO_FUSION, 1037),
    "+aff": lam(DENSE_LAM, FusionSpec(kind="aff", terms=2), 1037),
    "full": lam(DENSE_LAM, FusionSpec(kind="aff"), 1037),
}

LAM_PUBLISHED = (
    Published("params", "2.2 M", "ImageNet", "000, Table 2", "fit"),
    Published("macs", "120 M", "ImageNet", "000, Table 2", "fit"),
    Published("top1", "93.5 %", "CIFAR-10", "000, Table 2"),
    Published("top1", "73.8 %", "ImageNet", "000, Table 2"),
    Published("latency_ms", "6.4 ms", "RTX 3080", "000, Table 2"),
)

# name -> (row of the ladder, params, top1 on CIFAR-10, on ImageNet), as Table 3 prints them
TABLE_3 = {
    "lam_ladder_base": ("base", "1.8 M", "90.2 %", "70.4 %"),
    "lam_ladder_eca": ("+eca", "1.9 M", "91.8 %", "72.1 %"),
    "lam_ladder_lsa": ("+lsa", "2.0 M", "92.3 %", "72.6 %"),
    "lam_ladder_aff": ("+aff", "2.1 M", "92.9 %", "73.2 %"),
}


def ladder_row(name: str) -> Baseline:
    """A row of paper 000's Table 3 below the full network."""
    row, params, cifar10, imagenet = TABLE_3[name]
    published = (
        Published("params", params, "ImageNet", "000, Table 3", "fit"),
        Published("top1", cifar10, "CIFAR-10", "000, Table 3"),
        Published("top1", imagenet, "ImageNet", "000, Table 3"),
    )
    return Baseline(name, LAM_LADDER[row], LAM_PAPER, published, LADDER_READING)


MIXED_UNITS = "its rows mix thousands and millions; Tables 2 and 3 say 2.2 M"
LADDER_READING = (
    "dense ECA (the genuine one adds 66 parameters in all) and a hidden layer of 1037: so the "
    "five rows of the ablation fit Table 3's parameters"
)

MOBILE_BASELINES = (
    Baseline(
        "lam",
        lam(AttentionSpec(kind="lam"), FusionSpec(kind="aff"), 1152),
        LAM_PAPER,
        LAM_PUBLISHED,
        "genuine ECA; expansions and the hidden layer of 1152 are chosen to fit 2.2 M and 120 M",
    ),
    Baseline(
        "lam_ladder",
        LAM_LADDER["full"],
        LAM_PAPER,
        (
            *LAM_PUBLISHED,
            Published("params", "2.2 M", "ImageNet", "000, Table 3", "fit"),
            Published("macs", "120.72 M", "ImageNet", "000, Table 1", "fit"),
            Published("params", "7.73 M", "ImageNet", "000, Table 1", "no", why=MIXED_UNITS),
        ),
        LADDER_READING,
    ),
    *map(ladder_row, TABLE_3),
    Baseline(
        "mobilenet_v2",
        inverted_residuals(MOBILENET_V2_STAGES, HeadSpec(conv_width=1280, dropout=0.2)),
        "Sandler et al., CVPR 2018",
        (
            Published(
                "params", "3.4 M", "ImageNet", "000, Table 2", "no", why="the original's figure"
            ),
            Published("params", "3.5 M", "ImageNet", "001, Table 1", "match"),
            Published("macs", "300 M", "ImageNet", "000, Table 2", "match"),
            Published("macs", "300 M", "ImageNet", "001, Table 1", "match"),
            Published("top1", "91.2 %", "CIFAR-10", "000, Table 2"),
            Published("top1", "72.0 %", "ImageNet", "000, Table 2"),
            Published("top1", "72.0 %", "ImageNet", "001, Table 1"),
            Published("latency_ms", "8.9 ms", "RTX 3080", "000, Table 2"),
        ),
        "3.4 M is the original paper's figure; 3.50 M are counted",
    ),
)

"""AlexNet in one tower, and paper 004's attention on it."""

from nasattn.arch import Architecture
from nasattn.baselines.baseline import Baseline, Published, Verdict
from nasattn.parts import AttentionSpec, BareAttention, HeadSpec, StageSpec, StemSpec

ALEXNET_PAPER = "paper 004: attention in image classification, from ImageNet to AlexNet, 2025"

# width, kernel, whether a pooling stands before, norm: convolutions 2 to 5 (1 is the stem)
CONVS = ((256, 5, 2, "lrn"), (384, 3, 2, "none"), (384, 3, 1, "none"), (256, 3, 1, "none"))
ALL_FIVE = (1, 2, 3, 4, 5)


def alexnet(
    attention: dict[str, object] | None = None, at: tuple[int, ...] = ALL_FIVE
) -> Architecture:
    """Krizhevsky et al., 2012, without groups; attention behind the named convolutions."""
    given = {i: attention or {} if i in at else {} for i in ALL_FIVE}
    return Architecture(
        stem=StemSpec(
            width=96,
            kernel=11,
            stride=4,
            norm="lrn",
            attention=BareAttention.model_validate(given[1]),
        ),
        stages=tuple(
            StageSpec.model_validate(
                {
                    "depth": 1,
                    "block": "conv",
                    "width": width,
                    "kernel": kernel,
                    "stride": stride,
                    "norm": norm,
                    "attention": AttentionSpec.model_validate(given[i]),
                }
            )
            for i, (width, kernel, stride, norm) in enumerate(CONVS, start=2)
        ),
        head=HeadSpec(pooling="grid", hidden=4096, hidden_layers=2, hidden_act="relu", dropout=0.5),
    )


def figures(
    params: str, top1: str, verdict: Verdict = "match", why: str = ""
) -> tuple[Published, ...]:
    """A row of paper 004's Table 1."""
    return (
        Published("params", params, "ImageNet", "004, Table 1", verdict, why=why),
        Published("top1", top1, "ImageNet", "004, Table 1"),
    )


ALEXNET_BASELINES = (
    Baseline(
        "alexnet",
        alexnet(),
        "Krizhevsky et al., NIPS 2012, in one tower",
        figures("62.3 M", "57.2 %"),
        "the two towers of 2012 have 60.97 M, torchvision's narrower network 61.10 M",
    ),
    Baseline(
        "alexnet_spatial",
        alexnet({"kind": "spatial"}),
        ALEXNET_PAPER,
        figures("63.1 M", "59.8 %", "no", "the listed module has 99 parameters a use, 495 in all"),
        "the paper's listing behind all five convolutions",
    ),
    Baseline(
        "alexnet_se",
        alexnet({"kind": "se", "rd_ratio": 2}),
        ALEXNET_PAPER,
        figures("62.8 M", "60.5 %", "fit"),
        "r = 2 behind all five convolutions; the listing's own r = 16 has 62.43 M",
    ),
    Baseline(
        "alexnet_nl",
        alexnet({"kind": "nl"}, at=(3, 4, 5)),
        ALEXNET_PAPER,
        figures(
            "65.7 M", "61.2 %", "no", "no standard non-local block adds 3.3 M; conv3-5 adds 0.72 M"
        ),
        "embedded Gaussian non-local blocks of half the width behind convolutions 3 to 5",
    ),
)

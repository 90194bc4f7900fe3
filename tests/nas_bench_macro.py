"""NAS-Bench-Macro's 6,561 networks, built from their description, and what its table says of them.

Source: Su et al., CVPR 2021; github.com/xiusu/NAS-Bench-Macro, commit 61a2bfc. A network's code has
a digit a block: 0 identity, 1 an inverted residual of 3x3 and expansion 3, 2 one of 5x5 and 6.
"""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from nasattn.blocks.inverted_residual import InvertedResidual
from nasattn.cost import StaticCost, count_cost
from nasattn.layers import MeanPool, conv_bn
from nasattn.parts import StageSpec

RESOLUTION, STEM, HEAD, CLASSES = 32, 32, 1280, 10
EXPANSIONS = {0: 1, 1: 3, 2: 6}  # digit -> what stands for it in the space nb_macro
STAGES = ((64, 2), (128, 3), (256, 3))  # width, blocks; the first block of each takes stride 2


def read_table(path: Path) -> pd.DataFrame:
    """The public table, indexed by code: `params` and `flops` (multiply-adds), accuracies."""
    return pd.read_parquet(path, engine="pyarrow").set_index("arch")


def build_network(code: str) -> nn.Sequential:
    """The network of a code: (N, 3, 32, 32) -> (N, 10)."""
    digits = iter(code)
    blocks, in_chs = [], STEM
    for width, depth in STAGES:
        for i in range(depth):
            blocks.append(build_block(next(digits), in_chs, width, stride=1 if i else 2))
            in_chs = width
    return nn.Sequential(
        conv_bn(3, STEM, 3, act="relu6"),
        *blocks,
        conv_bn(in_chs, HEAD, 1, act="relu6"),
        MeanPool(),
        nn.Linear(HEAD, CLASSES),
    )


def build_block(digit: str, in_chs: int, width: int, *, stride: int) -> nn.Module:
    """A block; where the map changes, identity is a 1x1 convolution with batch norm."""
    if digit == "0":
        return nn.Identity() if stride == 1 else conv_bn(in_chs, width, 1, stride=stride)
    expansion, kernel = {"1": (3, 3), "2": (6, 5)}[digit]
    fields = {"depth": 1, "width": width, "stride": stride, "expansion": expansion}
    stage = StageSpec.model_validate(fields | {"kernel": kernel})
    return InvertedResidual(in_chs, stage, act="relu6")


def count_network(code: str) -> StaticCost:
    """What the network of a code costs, counted on the meta device."""
    with torch.device("meta"):
        network = build_network(code)
    return count_cost(network, RESOLUTION)


def write_table(source: Path, target: Path) -> None:
    """The public table as a CSV for `--evaluator table:FILE` and the space nb_macro.

    A digit of the code becomes an expansion, `flops` become `macs`, percent a fraction.
    """
    public = pd.read_parquet(source, engine="pyarrow")
    digits = {f"stages.{i}.expansion": public[f"block{i}"].map(EXPANSIONS) for i in range(8)}
    runs = {f"top1_{run}": (public[f"test_acc_run{run}"] / 100).round(6) for run in range(3)}
    figures = {"macs": public["flops"], "params": public["params"]}
    pd.DataFrame(digits | runs | figures).to_csv(target, index=False)

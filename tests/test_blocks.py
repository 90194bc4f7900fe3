"""Blocks and the networks made of them, against torchvision, timm and the formula."""

import json
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from timm.layers.helpers import make_divisible
from timm.layers.selective_kernel import SelectiveKernel as TimmSelectiveKernel
from timm.layers.split_attn import SplitAttn
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as _TimmResNet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.nn.functional import batch_norm, conv2d, relu
from torchvision.models import alexnet as torchvision_alexnet
from torchvision.models import resnet as torchvision_resnet

from nasattn.arch import Architecture, parse_architecture
from nasattn.blocks.residual import PreactBasicBlock, ZeroPad
from nasattn.blocks.selective_kernel import SelectiveKernel
from nasattn.blocks.shortcut import RunGate, ShortcutBlock, gates_of, settle_gates
from nasattn.blocks.split_attention import SplitAttention
from nasattn.blocks.table import BLOCKS
from nasattn.cost import count_cost, count_params
from nasattn.layers import Blend, round_width
from nasattn.model import build_model, build_stage, strengths
from nasattn.parts import StageSpec
from tests.test_layers import after_training, copy_in_order, maps

Data = dict[str, Any]
TimmResNet: Any = _TimmResNet  # whose annotations know two blocks only


def stage_of(**fields: object) -> StageSpec:
    """A stage of one block, 16 channels wide if nothing else is said."""
    return StageSpec.model_validate({"depth": 1, "width": 16, **fields})


def block_of(in_chs: int = 16, act: str = "relu", **fields: object) -> ShortcutBlock:
    """The only block of such a stage."""
    (block,) = build_stage(in_chs, stage_of(**fields), act=act)
    assert isinstance(block, ShortcutBlock)
    return block


def network(*stages: Data, **parts: Any) -> Architecture:
    """A network of stages, each of one block and 16 channels if nothing else is said."""
    filled = [{"depth": 1, "width": 16, **stage} for stage in stages]
    return parse_architecture({"stem": {"width": 16}, "stages": filled, **parts})


# Agreement with torchvision and timm on copied weights. A second block in stage 1 has the plain
# shortcut; the full depths are compared by their params.

STEM = {"width": 64, "kernel": 7, "pool": True}
DEEP_STEM = {"width": 64, "convs": 3, "pool": True}
SHORT, LONG = (1, 2, 1, 1), (3, 4, 6, 3)


def resnet(depths: tuple[int, ...], block: str, stem: Data = STEM, **fields: object) -> Data:
    """A ResNet's plain data: four stages, each half the size of the one before it."""
    widths = [w * (4 if block == "bottleneck" else 1) for w in (64, 128, 256, 512)]
    return {
        "stem": stem,
        "stages": [
            {"depth": depth, "block": block, "width": width, "stride": 1 + (i > 0), **fields}
            for i, (depth, width) in enumerate(zip(depths, widths, strict=True))
        ],
    }


def resnest(depths: tuple[int, ...], **fields: object) -> Data:
    fields = {"expansion": 4, "pool": "before", "shortcut": "avg", **fields}
    return resnet(depths, "bottleneck", DEEP_STEM, conv="splat", **fields)


def timm_resnest(depths: tuple[int, ...], radix: int, first: bool, **fields: Any) -> nn.Module:
    deep = {"stem_type": "deep", "stem_width": 32, "avg_down": True}
    args = {"radix": radix, "avd": True, "avd_first": first}
    net: nn.Module = TimmResNet(
        ResNestBottleneck, depths, num_classes=10, block_args=args, **deep, **fields
    )
    return net


RESNEXT = {"cardinality": 32, "base_width": 4, "num_classes": 10}
SK = {"sk_kwargs": {"rd_ratio": 1 / 16, "rd_divisor": 32, "split_input": False}}
Depths = tuple[int, ...]
FAMILIES: dict[str, tuple[Callable[[Depths], Data], Callable[[Depths], nn.Module]]] = {
    "resnet18": (
        lambda d: resnet(d, "basic"),
        lambda d: torchvision_resnet.ResNet(torchvision_resnet.BasicBlock, d, 10),
    ),
    "resnet50": (
        lambda d: resnet(d, "bottleneck", expansion=4),
        lambda d: torchvision_resnet.ResNet(torchvision_resnet.Bottleneck, d, 10),
    ),
    "resnext50": (
        lambda d: resnet(d, "bottleneck", expansion=2, groups=32),
        lambda d: torchvision_resnet.ResNet(
            torchvision_resnet.Bottleneck, d, 10, groups=32, width_per_group=4
        ),
    ),
    "wide_resnet50_2": (
        lambda d: resnet(d, "bottleneck", expansion=2),
        lambda d: torchvision_resnet.ResNet(
            torchvision_resnet.Bottleneck, d, 10, width_per_group=128
        ),
    ),
    "seresnext50": (
        lambda d: resnet(d, "bottleneck", expansion=2, groups=32, attention={"kind": "se"}),
        lambda d: TimmResNet(TimmBottleneck, d, block_args={"attn_layer": "se"}, **RESNEXT),
    ),
    "skresnext50": (
        lambda d: resnet(d, "bottleneck", expansion=2, groups=32, conv="sk"),
        lambda d: TimmResNet(SelectiveKernelBottleneck, d, block_args=SK, **RESNEXT),
    ),
    "resnest50": (
        lambda d: resnest(d, pool="after"),
        lambda d: timm_resnest(d, 2, first=False),
    ),
    "resnest50_fast": (
        lambda d: resnest(d),
        lambda d: timm_resnest(d, 2, first=True),
    ),
    "resnest50_4s2x40d": (
        lambda d: resnest(d, expansion=256 / 80, radix=4, groups=2),  # inner 80 of 256
        lambda d: timm_resnest(d, 4, first=True, cardinality=2, base_width=40),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_agrees_with_its_reference(name: str) -> None:
    data, reference = FAMILIES[name]
    theirs = after_training(reference(SHORT), maps(4, 3, 64, 64))
    ours = build_model(parse_architecture(data(SHORT)), num_classes=10)
    copy_in_order(theirs, ours)
    for size in (64, 45):  # odd ones too: every stage rounds up
        x = maps(2, 3, size, size)
        with torch.no_grad():
            expected = theirs(x)
            assert expected.std() > 1e-2  # far above the tolerance
            torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_references_params(name: str) -> None:
    data, reference = FAMILIES[name]
    with torch.device("meta"):
        ours = build_model(parse_architecture(data(LONG)), num_classes=10)
        theirs = reference(LONG)
    assert count_params(ours) == count_params(theirs)


ALEXNET: Data = {
    "stem": {"width": 64, "kernel": 11, "stride": 4, "norm": "none"},
    "stages": [
        {"depth": 1, "block": "conv", "width": w, "kernel": k, "stride": s, "norm": "none"}
        for w, k, s in ((192, 5, 2), (384, 3, 2), (256, 3, 1), (256, 3, 1))
    ],
    "head": {"pooling": "grid", "hidden": 4096, "hidden_layers": 2, "hidden_act": "relu"},
}


@pytest.mark.parametrize("size", [64, 191, 224])  # last maps of 3, 11 and 13 pixels
def test_alexnet_agrees_with_torchvision(size: int) -> None:
    small = ALEXNET | {"head": ALEXNET["head"] | {"hidden": 32, "dropout": 0.5}}
    theirs = torchvision_alexnet(num_classes=10).eval()
    for i, features in ((1, 9216), (4, 32)):
        theirs.classifier[i] = nn.Linear(features, 32)
    theirs.classifier[6] = nn.Linear(32, 10)
    ours = build_model(parse_architecture(small), num_classes=10)
    copy_in_order(theirs, ours)
    x = maps(1, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_alexnet_has_torchvisions_params() -> None:
    with torch.device("meta"):
        ours = build_model(parse_architecture(ALEXNET), num_classes=1000)
        assert count_params(ours) == count_params(torchvision_alexnet()) == 61_100_840


# Parts of blocks


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("channels", [16, 400])
def test_selective_kernel_agrees_with_timm(channels: int, groups: int, stride: int) -> None:
    x = maps(3, channels, 5, 4)
    theirs = after_training(
        TimmSelectiveKernel(
            channels, stride=stride, groups=groups, rd_divisor=32, split_input=False
        ),
        x,
    )
    ours = SelectiveKernel(channels, 3, stride=stride, groups=groups, act="relu")
    copy_in_order(theirs, ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("radix", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1)])
def test_split_attention_agrees_with_timm(
    radix: int, groups: int, kernel: int, stride: int
) -> None:
    x = maps(3, 80, 5, 4)
    theirs = after_training(
        SplitAttn(
            80,
            kernel_size=kernel,
            stride=stride,
            groups=groups,
            radix=radix,
            norm_layer=nn.BatchNorm2d,
        ),
        x,
    )
    ours = SplitAttention(80, kernel, stride=stride, groups=groups, radix=radix, act="relu")
    copy_in_order(theirs, ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [3, 5, 24])
def test_split_attention_takes_groups_that_do_not_divide_eight(groups: int) -> None:
    # The hidden width is a multiple of the groups too: 240 x 2 / 4 = 120 is one of 3, 5 and 24.
    module = SplitAttention(240, 3, stride=1, groups=groups, radix=2, act="relu")
    assert module(maps(2, 240, 3, 3)).shape == (2, 240, 3, 3)
    (hidden,) = {m.out_channels for m in module.reduce if isinstance(m, nn.Conv2d)}
    assert hidden % groups == 0


@pytest.mark.parametrize("divisor", [8, 32])
def test_round_width_is_timms_make_divisible(divisor: int) -> None:
    for width in range(1, 700):
        theirs = make_divisible(width / 3, divisor, 32)  # type: ignore[no-untyped-call]
        assert round_width(width / 3, divisor, 32) == theirs


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("in_chs", "width"), [(4, 4), (4, 7), (4, 8)])
@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_zero_pad_is_option_a(stride: int, in_chs: int, width: int, size: tuple[int, int]) -> None:
    x = maps(2, in_chs, *size)
    more = width - in_chs
    expected = np.pad(
        x.numpy()[:, :, ::stride, ::stride],
        ((0, 0), (more // 2, more - more // 2), (0, 0), (0, 0)),
    )
    np.testing.assert_array_equal(ZeroPad(more, stride)(x).numpy(), expected)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_padded_shortcut_has_no_parameters_and_is_added(block: str) -> None:
    module = block_of(8, block=block, stride=2, shortcut="pad").eval()
    assert not list(module.shortcut.parameters() if module.shortcut else [])
    x = maps(2, 8, 5, 9)
    padded = np.pad(x.numpy()[:, :, ::2, ::2], ((0, 0), (4, 4), (0, 0), (0, 0)))
    expected = relu(module.body(x) + torch.from_numpy(padded))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
def test_an_average_shortcut_takes_the_mean_of_the_pixels_that_there_are(
    size: tuple[int, int],
) -> None:
    module = block_of(8, block="basic", stride=2, shortcut="avg").eval()
    x = maps(2, 8, *size)
    rows, columns = range(0, size[0], 2), range(0, size[1], 2)
    means = torch.stack(
        [
            torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in columns], 2)
            for i in rows
        ],
        2,
    )  # (N, C, ceil(H / 2), ceil(W / 2))
    assert isinstance(module.shortcut, nn.Sequential)
    _, conv, bn = module.shortcut
    torch.testing.assert_close(module(x), relu(module.body(x) + bn(conv(means))))


def preact_by_hand(block: nn.Module, x: Tensor, stride: int, kernel: int) -> Tensor:
    """conv(relu(bn(conv(relu(bn(x)))))) + x, or a projection of the normalised input."""
    p = block.state_dict()

    def norm(y: Tensor, at: str) -> Tensor:
        stats = (p[f"{at}.running_mean"], p[f"{at}.running_var"])
        return relu(batch_norm(y, *stats, p[f"{at}.weight"], p[f"{at}.bias"]))

    a = norm(x, "body.norm.0")
    y = norm(
        conv2d(a, p["body.conv1.0.weight"], stride=stride, padding=kernel // 2), "body.conv1.1"
    )
    y = conv2d(y, p["body.conv2.weight"], padding=kernel // 2)
    if "shortcut.weight" in p:
        return y + conv2d(a, p["shortcut.weight"], stride=stride)
    return y + x


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("stride", "width"), [(1, 16), (1, 24), (2, 16), (2, 24)])
def test_preact_block_is_the_formula(stride: int, width: int, kernel: int) -> None:
    x = maps(3, 16, 5, 9)
    block = block_of(block="preact_basic", stride=stride, width=width, kernel=kernel)
    after_training(block, x)
    expected = preact_by_hand(block, x, stride, kernel)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_a_preact_network_begins_with_a_bare_convolution_and_ends_with_norm_and_activation() -> (
    None
):
    model = build_model(network({"block": "preact_basic"}, {"block": "preact_basic"}), 3)
    after_training(model, maps(4, 3, 9, 9))
    x = maps(2, 3, 9, 9)
    y = conv2d(x, model.state_dict()["stem.conv.weight"], stride=2, padding=1)
    for stage in model.stages:
        (block,) = stage.children()
        y = preact_by_hand(block, y, stride=1, kernel=3)
    assert isinstance(model.norm, nn.Sequential)
    y = relu(model.norm[0](y))
    torch.testing.assert_close(model(x), model.classifier(y.mean((2, 3))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_convolution_starts_by_he_initialisation(block: str) -> None:
    torch.manual_seed(0)
    model = build_model(network({"block": block, "width": 128, "stride": 2}), 3)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2  # as torch has it, groups or not
        expected = (2 / fan_out) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.15)


# Progressive attention: x + s (attention(x) - x), s = (i + 1) / n in stage i of n


@pytest.mark.parametrize(
    ("block", "placement"),
    [
        (block, placement)
        for block, row in BLOCKS.items()
        for placement in ("after_spatial", "before_add", "after_stage")
        if row.has_spatial_point or placement != "after_spatial"
    ],
)
def test_progressive_attention_grows_to_one(block: str, placement: str) -> None:
    stage = {"block": block, "depth": 2, "attention": {"kind": "se", "placement": placement}}
    arch = network(stage, stage, stage, stage, progressive=True)
    assert strengths(arch) == [0.25, 0.5, 0.75, 1]
    model = build_model(arch, 3)
    found = [[m.strength for m in s.modules() if isinstance(m, Blend)] for s in model.stages]
    n = 1 if placement == "after_stage" else 2
    assert found == [[0.25] * n, [0.5] * n, [0.75] * n, []]
    plain = build_model(arch.model_copy(update={"progressive": False}), 3)
    assert not any(isinstance(m, Blend) for m in plain.modules())
    assert count_params(model) == count_params(plain)


# Conditional blocks


def gated(share: float, block: str = "inverted_residual") -> ShortcutBlock:
    """A block of 16 channels whose gate tells pictures apart, as after some training."""
    torch.manual_seed(3)
    module = block_of(block=block, run_share=share)
    assert module.gate is not None
    nn.init.normal_(module.gate.score.weight, std=5)
    return module


def sizes_of(body: nn.Module) -> list[int]:
    """Filled with how many pictures each call of `body` gets."""
    seen: list[int] = []
    body.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


def scores_of(block: ShortcutBlock, x: Tensor) -> Tensor:
    """sigmoid(w mean_hw(x) + b), by hand."""
    assert block.gate is not None
    w, b = block.gate.score.weight, block.gate.score.bias
    return 1 / (1 + torch.exp(-(x.mean((2, 3)) @ w[0] + b)))


@pytest.mark.parametrize(
    ("n", "share", "runs"),
    [
        (8, 0.25, 2),
        (8, 0.5, 4),
        (8, 0.9, 7),  # 7.2
        (8, 0.1, 2),  # two at least, for batch norm
        (3, 0.5, 2),
        (2, 0.5, 2),
        (1, 0.5, 1),
    ],
)
def test_the_share_runs_in_training(n: int, share: float, runs: int) -> None:
    block = gated(share).train()
    seen = sizes_of(block.body)
    block(maps(n, 16, 4, 4))
    assert seen == [runs]


def test_the_highest_scores_run_in_training() -> None:
    block = gated(0.25).train()
    assert block.gate is not None
    x = maps(8, 16, 4, 4)
    score, runs = block.gate(x)
    by_hand = scores_of(block, x)
    torch.testing.assert_close(score, by_hand)
    assert set(runs.nonzero().flatten().tolist()) == set(by_hand.topk(2).indices.tolist())
    y = block(x)
    assert torch.equal(y[~runs], x[~runs])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_settle_gates_makes_the_share_run_in_eval_mode(share: float) -> None:
    stages = [{"block": "basic", "depth": 3, "width": 16, "run_share": share}]
    torch.manual_seed(1)
    model = build_model(parse_architecture({"stem": {"width": 16}, "stages": stages}), 2)
    gates = gates_of(model)
    assert len(gates) == 3
    for gate in gates:
        nn.init.normal_(gate.score.weight)  # scores that differ
    settle_gates(model, maps(64, 3, 9, 9))
    ran: list[float] = []
    for gate in gates:
        gate.register_forward_hook(lambda _, __, y: ran.append(y[1].float().mean().item()))
    model(maps(64, 3, 9, 9))
    assert ran == [share] * 3
    assert not any(gate.settling for gate in gates)
    fresh = torch.randn(512, 3, 9, 9, generator=torch.Generator().manual_seed(7))
    ran.clear()
    model(fresh)  # other pictures of the same kind
    assert ran == pytest.approx([share] * 3, abs=0.15)


def test_settle_gates_is_repeatable() -> None:
    gate = gated(0.5).gate
    assert gate is not None
    settle_gates(gate, maps(8, 16, 4, 4))
    before = gate.threshold.clone()
    settle_gates(gate, maps(8, 16, 4, 4))
    assert torch.equal(gate.threshold, before)


def trained(share: float = 0.5, block: str = "inverted_residual") -> ShortcutBlock:
    """Such a block in eval mode, with a threshold and running statistics of its own."""
    module = gated(share, block)
    after_training(module, maps(16, 16, 5, 4))
    settle_gates(module, maps(16, 16, 5, 4))
    return module


@pytest.mark.parametrize("block", [b for b, row in BLOCKS.items() if "run_share" in row.fields])
def test_a_picture_alone_is_as_in_a_batch(block: str) -> None:
    module = trained(block=block)
    assert module.gate is not None
    x = maps(8, 16, 5, 4)
    _, runs = module.gate(x)
    assert 0 < int(runs.sum()) < 8
    together = module(x)
    for i in range(8):
        torch.testing.assert_close(module(x[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-5)
    assert torch.equal(together[~runs], module.act(x[~runs]))
    by_hand = module.act(x + module.body(x) * scores_of(module, x).view(-1, 1, 1, 1))
    torch.testing.assert_close(together[runs], by_hand[runs], rtol=1e-5, atol=1e-5)


def test_the_body_is_called_only_for_pictures_that_reach_the_threshold() -> None:
    block = trained()
    x = maps(8, 16, 5, 4)
    runs = int((scores_of(block, x) >= block.state_dict()["gate.threshold"]).sum())
    seen = sizes_of(block.body)
    block(x)
    assert seen == [runs]
    assert 0 < runs < 8
    block.state_dict()["gate.threshold"].fill_(2)  # above any score
    assert torch.equal(block(x), x)
    assert seen == [runs]  # not called again
    block.state_dict()["gate.threshold"].fill_(0)  # untrained
    block(x)
    assert seen == [runs, 8]


@pytest.mark.parametrize("n", [1, 8])
def test_gradients_reach_the_gate_and_every_picture(n: int) -> None:
    block = gated(0.5).train()
    assert block.gate is not None
    x = maps(n, 16, 5, 4).requires_grad_()
    block(x).square().sum().backward()
    for name, p in block.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    assert block.gate.score.weight.grad is not None
    assert block.gate.score.weight.grad.abs().sum() > 0
    assert x.grad is not None
    _, runs = block.gate(x)
    torch.testing.assert_close(x.grad[~runs], 2 * x.detach()[~runs])  # the shortcut alone


def test_run_all_gives_the_same_values() -> None:
    block = trained()
    x = maps(8, 16, 5, 4)
    seen = sizes_of(block.body)
    some = block(x)
    block.run_all = True
    torch.testing.assert_close(block(x), some, rtol=1e-5, atol=1e-6)
    assert seen[0] < seen[1] == 8


def test_a_state_dict_holds_the_threshold() -> None:
    block, other = trained(), block_of(run_share=0.5).eval()
    x = maps(8, 16, 5, 4)
    assert not torch.equal(other(x), block(x))
    other.load_state_dict(deepcopy(block.state_dict()))
    assert torch.equal(other(x), block(x))


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"run_share": 0.5}, 17),  # 16 weights, a bias
        ({"run_share": 1}, 0),
        ({"run_share": 0.5, "stride": 2}, 0),  # no plain shortcut
        ({"run_share": 0.5, "width": 24}, 0),
    ],
)
@pytest.mark.parametrize("block", [b for b, row in BLOCKS.items() if "run_share" in row.fields])
def test_only_a_block_with_a_plain_shortcut_has_a_gate(
    block: str, fields: Data, params: int
) -> None:
    module = block_of(block=block, **fields)
    assert (module.gate is None) == (params == 0)
    assert module.run_share == (0.5 if params else 1)
    assert sum(count_params(m) for m in module.modules() if isinstance(m, RunGate)) == params


def test_a_gated_body_counts_for_its_share() -> None:
    # two 3x3 convolutions of 16 channels at 6 x 6 pixels, behind a gate of 16 products
    cost = count_cost(block_of(block="basic", run_share=0.25), resolution=6, in_chs=16)
    body = 2 * 9 * 16 * 16 * 36
    assert cost.max_macs == body + 16
    assert cost.macs == body // 4 + 16


@pytest.mark.parametrize("training", [False, True])
def test_a_body_may_leave_in_another_precision(training: bool) -> None:
    # Under autocast, SGE gives float32 where the shortcut has bfloat16.
    block = block_of(block="basic", run_share=0.5, attention={"kind": "sge"}).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(maps(4, 16, 5, 5).bfloat16())
    assert y.isfinite().all()


# Export: what is traced once computes the same for other pictures and other numbers of them

EXPORTED: dict[str, Architecture] = {
    "gated": network({"depth": 2, "run_share": 0.5}, {"block": "basic", "run_share": 0.5}),
    "selective_kernel": network({"block": "bottleneck", "conv": "sk"}),
    "split_attention": network({"block": "bottleneck", "conv": "splat", "groups": 2}),
    "pooled": network({"block": "bottleneck", "stride": 2, "pool": "before", "shortcut": "avg"}),
    "padded": network({"block": "basic", "width": 24, "stride": 2, "shortcut": "pad"}),
    "preact": network({"block": "preact_basic", "stride": 2}),
    "grid": network({"block": "conv", "stride": 2}, head={"pooling": "grid"}),
    "lrn": network({"block": "conv", "norm": "lrn", "stride": 2}),
    "aff": network({"block": "conv"}, {"block": "conv", "stride": 2}, fusion={"kind": "aff"}),
    "multi_scale": network(
        {"block": "conv"},
        {"block": "conv", "stride": 2},
        {"stride": 2},
        fusion={"kind": "multi_scale", "attention": {"kind": "se"}},
        progressive=True,
    ),
}


def separating(model: nn.Module, x: Tensor) -> nn.Module:
    """A trained network in eval mode whose gates tell pictures apart."""
    torch.manual_seed(4)
    for part in model.modules():
        if isinstance(part, RunGate):
            nn.init.normal_(part.score.weight, std=5)
    return after_training(model, x)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_traced_network_gives_the_same_for_other_pictures(name: str, tmp_path: Path) -> None:
    x = maps(7, 3, 33, 33)
    model = separating(build_model(EXPORTED[name], 3), x)
    settle_gates(model, x)
    file = str(tmp_path / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter itself
        warnings.simplefilter("ignore", TracerWarning)  # sizes of maps do not change
        warnings.filterwarnings("ignore", "Constant folding")  # of a slice with steps of two
        batch = {"x": {0: "n"}}
        torch.onnx.export(
            model,
            (x[:2],),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes=batch,
        )
    # Not onnx's own evaluator, which pools wrongly where a window of four is cut off.
    exported = InferenceSession(file, providers=["CPUExecutionProvider"])
    for pictures in (x, -x[:1]):
        expected = model(pictures)
        (y,) = exported.run(None, {"x": pictures.numpy()})
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_traced_gate_skips_some_pictures() -> None:
    x = maps(7, 3, 33, 33)
    model = separating(build_model(EXPORTED["gated"], 3), x)
    settle_gates(model, x)
    runs: list[Tensor] = []
    for part in model.modules():
        if isinstance(part, RunGate):
            part.register_forward_hook(lambda _, args, out: runs.append(out[1]))
    model(x)
    assert len(runs) == 3
    assert all(0 < int(r.sum()) < 7 for r in runs)


# Every choice that a block has, at odd sizes


def block_cases() -> Iterator[Data]:
    """Stages of each kind of block with every combination of the choices that it reads."""
    convs: list[Data] = [
        {"conv": "plain"},
        {"conv": "plain", "groups": 4},
        {"conv": "sk", "groups": 2},
        *({"conv": "splat", "groups": 2, "radix": radix} for radix in (1, 2, 4)),
    ]
    choices: dict[str, list[Data]] = {
        "conv": convs,
        "pool": [{"stride": 1}, *({"stride": 2, "pool": p} for p in ("none", "before", "after"))],
        "shortcut": [{"shortcut": shortcut} for shortcut in ("conv", "avg", "pad")],
        "norm": [{"norm": norm} for norm in ("batch", "none", "lrn")],
    }
    placements = [
        {"attention": {"kind": "se", "placement": place}}
        for place in ("after_spatial", "before_add", "after_stage")
    ]
    plain = {"expansion": 2, "run_share": 0.5}
    for block, row in BLOCKS.items():
        own = [values for field, values in choices.items() if field in row.fields]
        strides = [{"stride": stride, "kernel": 2 * stride + 1} for stride in (1, 2)]
        for combination in product(*own) if "pool" in row.fields else product(strides, *own):
            yield {"block": block, **plain, **dict(ChainMap(*combination))}
        for stride, place in product(strides, placements):
            if row.has_spatial_point or place["attention"]["placement"] != "after_spatial":
                yield {"block": block, **plain, **stride, **place}


CASES = [*block_cases()]


def case_name(case: Data) -> str:
    shown = [v["placement"] if isinstance(v, dict) else v for v in case.values()]
    return "-".join(map(str, shown))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_stage_keeps_to_its_size_and_learns(case: Data) -> None:
    stage = stage_of(depth=2, width=16, **case)
    module = build_stage(8, stage, act="hard_swish").train()
    other = build_stage(8, stage, act="hard_swish").eval()
    for size in ((33, 37), (8, 8), (5, 9)):
        x = maps(3, 8, *size).requires_grad_()
        y = module(x)
        assert y.shape == (3, 16, *(stage.map_size(n) for n in size))
    y.square().sum().backward()
    for name, tensor in (("input", x), *module.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
    with torch.no_grad():
        y = module.eval()(x)
        assert torch.equal(module(x), y)
        torch.testing.assert_close(module(x[:1]), y[:1], rtol=1e-5, atol=1e-5)
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(x), y)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_reads_the_fields_of_its_row_and_no_other(block: str) -> None:
    others: Data = {
        "expansion": 2,
        "kernel": 5,
        "groups": 2,
        "conv": "sk",
        "radix": 4,
        "pool": "before",
        "shortcut": "avg",
        "norm": "none",
        "run_share": 0.5,
    }
    assert BLOCKS[block].fields <= others.keys()
    plain = {"block": block, "depth": 2, "width": 24, "stride": 2}
    for field, value in others.items():
        needed = {"conv": "splat"} if field == "radix" else {}
        base = network(plain | needed)
        changed = network(plain | needed | {field: value})
        differs = str(build_model(base, 2)) != str(build_model(changed, 2))
        shapes = [
            [(name, p.shape) for name, p in build_model(arch, 2).named_parameters()]
            for arch in (base, changed)
        ]
        expected = field in BLOCKS[block].fields
        assert (base != changed) == expected, field
        assert (differs or shapes[0] != shapes[1]) == expected, field


# Whole networks of every family at small sizes

SE = {"kind": "se"}
SMALL: dict[str, Architecture] = {
    "mobile": network(
        {"expansion": 1},
        {"stride": 2, "expansion": 6, "attention": SE},
        {"stride": 2, "width": 24, "expansion": 6, "run_share": 0.5, "depth": 2},
        {"stride": 2, "width": 32},
        {"stride": 2, "width": 32},
        fusion={"kind": "aff"},
        head={"conv_width": 48, "pooling": "gem"},
    ),
    **{
        name: network(
            *({"stride": 1 + (i > 0), "width": 16 * 2**i, **fields} for i in range(4)),
            stem={"width": 16, "kernel": 7, "pool": True, **stem},
            **parts,
        )
        for name, fields, stem, parts in (
            ("basic", {"block": "basic", "shortcut": "pad"}, {}, {}),
            ("bottleneck", {"block": "bottleneck", "expansion": 2}, {}, {}),
            ("resnext", {"block": "bottleneck", "groups": 4, "attention": SE}, {}, {}),
            ("sk", {"block": "bottleneck", "conv": "sk", "groups": 4}, {}, {}),
            (
                "resnest",
                {"block": "bottleneck", "conv": "splat", "pool": "after", "shortcut": "avg"},
                {"convs": 3, "kernel": 3},
                {"fusion": {"kind": "multi_scale", "attention": SE}},
            ),
            ("preact", {"block": "preact_basic"}, {}, {"fusion": {"kind": "aff"}}),
            (
                "conv",
                {"block": "conv", "norm": "lrn", "attention": SE},
                {"norm": "lrn", "attention": SE},
                {"fusion": {"kind": "multi_scale", "scales": 4}, "progressive": True},
            ),
        )
    },
    "alexnet": parse_architecture(
        ALEXNET
        | {"head": {"pooling": "grid", "hidden": 8, "hidden_layers": 2}, "fusion": {"kind": "aff"}}
    ),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("resolution", [8, 16, 32, 37, 64])
def test_a_network_has_the_maps_that_its_architecture_says(name: str, resolution: int) -> None:
    arch = SMALL[name].at_resolution(resolution)
    model = build_model(arch, num_classes=3)
    seen: list[int] = []
    for part in (model.stem, *model.stages):
        part.register_forward_hook(lambda _, args, y: seen.append(y.shape[2]))
    x = maps(2, 3, resolution, resolution)
    assert model.train()(x).shape == (2, 3)
    assert seen == arch.map_sizes(resolution)
    assert seen[-1] >= 4

    found = model.eval().feature_maps(x)
    assert tuple(found) == model.strides == tuple(arch.strides)
    for stride, y in found.items():
        i = arch.strides[stride]
        assert y.shape[:2] == (2, arch.stages[i].width)
        assert model.feature_chs[stride] == arch.stages[i].width
        assert y.shape[2] == y.shape[3] == arch.map_sizes(resolution)[i + 1]
        # Where nothing rounds down a map of stride s has 1 / s of the pixels, rounded up.
        if all(stage.kind.rounds_up for stage in arch.stages) and arch.stem.kernel != 11:
            assert y.shape[2] == -(-resolution // stride)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_learns_and_repeats_itself(name: str) -> None:
    arch = SMALL[name].at_resolution(37)
    x = maps(3, 3, 37, 33)  # not square
    torch.manual_seed(0)
    model = build_model(arch, num_classes=3)
    torch.manual_seed(0)
    again = build_model(arch, num_classes=3)
    y = model.train()(x)
    torch.testing.assert_close(again.train()(x), y, rtol=0, atol=0)
    y.square().sum().backward()
    for weight_name, p in model.named_parameters():
        assert p.grad is not None, weight_name
        assert p.grad.isfinite().all(), weight_name
    with torch.no_grad():
        together = model.eval()(x)
        torch.testing.assert_close(model(x[1:2]), together[1:2], rtol=1e-5, atol=1e-5)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.eval()(x), together)


@pytest.mark.parametrize("norm", ["batch", "none", "lrn"])
@pytest.mark.parametrize("kernel", [3, 7, 11])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("convs", [1, 3])
@pytest.mark.parametrize("pool", [False, True])
def test_a_stem_has_the_map_size_that_it_says(
    norm: str, kernel: int, stride: int, convs: int, pool: bool
) -> None:
    stem = {"width": 9, "kernel": kernel, "stride": stride, "convs": convs, "pool": pool}
    arch = network({}, stem=stem | {"norm": norm})
    with torch.device("meta"):
        model = build_model(arch, 2)
        for size in (37, 224):
            y = model.stem(torch.zeros(1, 3, size, size))
            assert y.shape == (1, 9, *[arch.stem.map_size(size)] * 2)
    widths = [m.out_channels for m in model.stem.modules() if isinstance(m, nn.Conv2d)]
    assert widths == ([9] if convs == 1 else [4, 4, 9])
    n_norms = {"batch": convs, "none": 0, "lrn": 1}[norm]  # response normalisation at the end only
    norms = nn.BatchNorm2d | nn.LocalResponseNorm
    assert sum(isinstance(m, norms) for m in model.stem.modules()) == n_norms


def test_attention_of_a_stem_stands_behind_the_activation_and_before_lrn_and_pooling() -> None:
    stem = {"width": 16, "norm": "lrn", "pool": True, "attention": {"kind": "eca"}}
    conv, pool = build_model(network({}, stem=stem), 2).stem
    parts = [type(m).__name__ for m in (*conv.children(), pool)]
    assert parts == ["Conv2d", "ReLU", "EfficientChannelAttn", "LocalResponseNorm", "MaxPool2d"]


def test_a_stage_of_preact_blocks_is_a_chain_of_preact_blocks() -> None:
    model = build_model(network({"block": "preact_basic", "depth": 3}), 2)
    (stage,) = model.stages
    assert [type(m) for m in stage.children()] == [PreactBasicBlock] * 3


def test_a_class_and_a_row_make_a_new_block(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(BLOCKS["basic"], target=f"{__name__}:Doubled", shortcut="never")
    monkeypatch.setitem(BLOCKS, "doubled", row)
    arch = network({"block": "doubled", "width": 24, "stride": 2, "depth": 2})
    model = build_model(arch, num_classes=3)
    assert [(m.in_channels, m.stride) for m in model.modules() if isinstance(m, Doubled)] == [
        (16, (2, 2)),
        (24, (1, 1)),
    ]
    assert parse_architecture(json.loads(arch.to_json())) == arch


class Doubled(nn.Conv2d):
    """A block of our own."""

    def __init__(self, in_chs: int, stage: StageSpec, *, act: str, strength: float) -> None:
        super().__init__(in_chs, stage.width, stage.kernel, stage.stride, stage.kernel // 2)

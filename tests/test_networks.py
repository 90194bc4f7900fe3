"""Every network of the zoo: it takes any size, learns, repeats itself, moves and exports."""

import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from onnxruntime import (
    GraphOptimizationLevel,
    InferenceSession,
    SessionOptions,
)
from timm.layers.cbam import CbamModule
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import ResNet as _TimmResNet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torchvision.models.resnet import Bottleneck

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.cbam import ConvBlockAttn
from nasattn.baselines import BASELINES, get_baseline
from nasattn.blocks.shortcut import ShortcutBlock
from nasattn.cost import count_params
from nasattn.model import build_model
from nasattn.zoo import ZOO, NamedNetwork
from tests.test_layers import after_training, copy_in_order, maps
from tests.test_zoo import nasattn

TimmResNet: Any = _TimmResNet  # whose annotations know two blocks only
NUM_CLASSES = 7
TOLERANCE = 1e-5  # of the largest logit
EXPORTED_TOLERANCE = 1e-4

# Small forms: the same stem, stages, blocks, fusion and head, of fewer blocks and channels

DIVISOR = 4


def small(arch: Architecture) -> Architecture:
    """At most two blocks a stage, a quarter of the channels and of the groups, 64 hidden ones."""
    data = arch.model_dump(mode="json")
    for part in (data["stem"], *data["stages"]):
        part["width"] //= DIVISOR
        for grouped in (part, part["attention"]):
            if "groups" in grouped:
                grouped["groups"] = max(grouped["groups"] // DIVISOR, 1)
    for stage in data["stages"]:
        stage["depth"] = min(stage["depth"], 2)
    head = data["head"]
    head["conv_width"] //= DIVISOR
    head["hidden"] = min(head["hidden"], 64)
    return parse_architecture(data)


@dataclass(frozen=True)
class Case:
    """A network to put to the test, and the pictures for it."""

    build: Callable[[], nn.Module]
    odd: tuple[int, int] = (67, 45)
    side: int = 64  # of those that it is exported for


def full_size(network: NamedNetwork) -> Case:
    """A network of the zoo as it was drawn; where for 32 pixels, with pictures of about 32."""
    build = partial(drawn, network)
    if network.name.startswith("vgg"):
        # Their pooling to 7x7 has an ONNX operator only where the map is 7x7 or a multiple.
        return Case(build, side=224)
    return Case(build, (35, 23), 32) if network.pictures.resolution == 32 else Case(build)


def drawn(network: NamedNetwork) -> nn.Module:
    if network.architecture:  # with its own strides, whatever the pictures
        return build_model(network.architecture, NUM_CLASSES)
    return network.build(NUM_CLASSES, network.pictures.resolution)


# Networks that differ in depth only have one small form.
SMALL = {small(row.architecture): name for name, row in reversed(BASELINES.items())}
SMALL_REFERENCES = ("mobilenet_v3_small", "shufflenet_v1", "shufflenet_v2", "squeezenet")
CASES = [
    *(
        pytest.param(Case(partial(build_model, arch, NUM_CLASSES)), id=f"small-{name}")
        for arch, name in reversed(SMALL.items())
    ),
    *(pytest.param(full_size(ZOO[name]), id=name) for name in SMALL_REFERENCES),
    *(
        pytest.param(full_size(network), id=name, marks=pytest.mark.slow)
        for name, network in ZOO.items()
        if name not in SMALL_REFERENCES
    ),
]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def network(case: Case) -> nn.Module:
    """The network of a case, shared by its tests: a test leaves it as it was."""
    torch.manual_seed(0)
    return settled(case.build(), maps(8, 3, *case.odd))


@torch.no_grad()
def settled(network: nn.Module, x: Tensor) -> nn.Module:
    """A network in eval mode, its statistics away from their start and its branches weak.

    With branches as strong as they start a network of 200 layers makes 1e-3 and more of a rounding
    error, whoever computes it.
    """
    after_training(network, x)
    for block in network.modules():
        if isinstance(block, ShortcutBlock) and isinstance(block.body, nn.Sequential):
            *_, last = (part for part in block.body if type(part) is nn.Sequential)
            norm = last[1]  # of a conv_bn
        elif isinstance(block, Bottleneck):
            norm = block.bn3
        else:
            continue
        if isinstance(norm, nn.BatchNorm2d):  # pre-activation blocks end in a convolution
            nn.init.uniform_(norm.weight, 0.05, 0.15)
    network.train()(x)
    return network.eval()


def assert_near(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Logits that agree to a share of the largest."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_every_baseline_has_a_small_form() -> None:
    for name, row in BASELINES.items():
        arch, full = small(row.architecture), row.architecture
        assert arch in SMALL
        pairs = zip(arch.stages, full.stages, strict=True)
        for ours, theirs in pairs:
            assert ours.depth == min(theirs.depth, 2), name
            same = ("block", "stride", "expansion", "kernel", "conv", "radix", "pool", "norm")
            assert all(getattr(ours, field) == getattr(theirs, field) for field in same), name
            assert ours.attention.kind == theirs.attention.kind, name
        assert arch.fusion == full.fusion, name


def test_a_network_learns_from_odd_pictures(case: Case) -> None:
    torch.manual_seed(0)
    network = case.build().train()
    logits: Tensor = network(maps(2, 3, *case.odd))
    assert logits.shape == (2, NUM_CLASSES)
    logits.logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    first = next(network.parameters()).grad
    assert first is not None
    assert first.any()  # all the way to the first layer


@torch.no_grad()
def test_a_network_says_the_same_again(case: Case, network: nn.Module) -> None:
    x = maps(2, 3, *case.odd)
    y: Tensor = network(x)
    assert y.isfinite().all()
    assert torch.equal(network(x), y)


@torch.no_grad()
def test_a_network_says_the_same_of_a_picture_alone(case: Case, network: nn.Module) -> None:
    # In double precision: for another batch torch adds up in another order, which in a network of
    # small logits is above 1e-5 of them. Pictures that meet would stay far apart.
    exact = deepcopy(network).double()
    x = maps(2, 3, *case.odd).double()
    y = exact(x)
    assert (y[0] - y[1]).abs().max() > 1e-4 * y.abs().max()  # they are two pictures to it
    assert_near(exact(x[1:]), y[1:], 1e-10)


@torch.no_grad()
def test_a_state_dict_makes_a_second_network_the_same(case: Case, network: nn.Module) -> None:
    torch.manual_seed(1)
    other = case.build().eval()
    x = maps(2, 3, *case.odd)
    y = network(x)
    assert not torch.equal(other(x), y)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), y)


def exported(network: nn.Module, x: Tensor) -> InferenceSession:
    """The network as ONNX for any number of pictures of x's size."""
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter itself
        warnings.simplefilter("ignore", TracerWarning)  # sizes of maps do not change
        warnings.filterwarnings("ignore", "Constant folding")  # of a slice with steps of two
        torch.onnx.export(
            network,
            (x,),
            file,  # type: ignore[arg-type]  # a path or a file, says the older exporter
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it is
    return InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@torch.no_grad()
def test_a_network_exports_to_onnx(case: Case, network: nn.Module) -> None:
    x = maps(3, 3, case.side, case.side)
    session = exported(network, x[:2])
    for pictures in (x, -x[:1]):
        (y,) = session.run(None, {"x": pictures.numpy()})
        assert_near(torch.from_numpy(np.asarray(y)), network(pictures), EXPORTED_TOLERANCE)


# Whole networks at full depth, beside torchvision's and timm's with the same weights


def timm_resnet(block: type[nn.Module], **fields: object) -> nn.Module:
    """A network of 101 layers that timm has the blocks of, but no name for."""
    network: nn.Module = TimmResNet(block, (3, 4, 23, 3), **fields)
    return network


def timm_resnest_fast(depths: tuple[int, ...]) -> nn.Module:
    deep = {"stem_type": "deep", "stem_width": 32, "avg_down": True}
    fast = {"radix": 2, "avd": True, "avd_first": True}
    network: nn.Module = TimmResNet(ResNestBottleneck, depths, block_args=fast, **deep)
    return network


def timm_cbam(name: str) -> nn.Module:
    attention = {"attn_layer": partial(CbamModule, mlp_bias=True)}
    network: nn.Module = timm.create_model(name, block_args=attention)
    return network


SK = {"rd_ratio": 1 / 16, "rd_divisor": 32, "split_input": False}
TORCHVISION = {
    name: partial(torchvision.models.get_model, name, weights=None)
    for name in (
        *("mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101"),
        "resnext50_32x4d",
    )
}
TIMM = {
    "resnext101_32x4d": partial(timm.create_model, "resnext101_32x4d"),
    "seresnext50_32x4d": partial(timm.create_model, "seresnext50_32x4d"),
    "seresnext101_32x4d": partial(timm.create_model, "seresnext101_32x4d"),
    "skresnext50_32x4d": partial(timm.create_model, "skresnext50_32x4d"),
    "skresnext101_32x4d": partial(
        timm_resnet,
        SelectiveKernelBottleneck,
        cardinality=32,
        base_width=4,
        block_args={"sk_kwargs": SK},
    ),
    "resnet50_cbam": partial(timm_cbam, "resnet50"),
    "resnet101_cbam": partial(timm_cbam, "resnet101"),
    "resnest50": partial(timm.create_model, "resnest50d"),
    "resnest101": partial(timm.create_model, "resnest101e"),
    "resnest200": partial(timm.create_model, "resnest200e"),
    "resnest50_fast": partial(timm_resnest_fast, (3, 4, 6, 3)),
    "resnest101_fast": partial(timm_resnest_fast, (3, 4, 23, 3)),
}
QUICK = ("resnet18", "resnest50")


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        pytest.param(name, reference, id=name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name, reference in (TORCHVISION | TIMM).items()
    ],
)
@torch.no_grad()
def test_a_whole_network_agrees_with_its_reference(
    name: str, reference: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    theirs = after_training(reference(), maps(4, 3, 64, 64))
    ours = build_model(get_baseline(name).architecture, num_classes=1000)
    assert count_params(ours) == count_params(theirs)
    copy_in_order(theirs, ours)
    for part in ours.modules():
        if isinstance(
            part, ConvBlockAttn
        ):  # timm stacks mean and maximum, CBAM's authors max first
            part.spatial.weight.copy_(part.spatial.weight.flip(1))
    for size in ((64, 64), (67, 45)):
        x = maps(2, 3, *size)
        expected = theirs(x)
        assert expected.std() > 0.01  # far above the tolerance
        assert_near(ours(x), expected)


# What docs/zoo.md shows

PAGE = (Path(__file__).parents[1] / "docs" / "zoo.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "shown"), re.findall(r"```text\n\$ nasattn (.+)\n([^`]+)\n```", PAGE)
)
def test_the_page_shows_what_a_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, shown: str
) -> None:
    status, out, _ = nasattn(monkeypatch, capsys, *command.split())
    assert status == 0
    printed = "\n".join(line.rstrip() for line in out.splitlines())
    for part in shown.removesuffix("\n...").split("\n...\n"):
        before, found, printed = printed.partition(part)
        assert found, f"{part!r} is not what {command!r} prints after {before[:80]!r}"


@pytest.mark.slow
def test_the_page_has_python_that_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    ((code, shown),) = re.findall(r"```python\n([^`]+)```\n\n```text\n([^`]+)```", PAGE)
    exec(code, {})
    assert capsys.readouterr().out == shown

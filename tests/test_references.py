"""References: what the libraries build, counted by hand and by their own figures."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from nasattn.cost import count_cost
from nasattn.references import REFERENCES, Reference
from nasattn.shufflenet_v1 import ChannelShuffle, ShuffleNetV1

TABLES = Path(__file__).parents[2] / "shared" / "papers" / "paper_tables.csv"
SMALL = [name for name in REFERENCES if name not in ("vgg16", "vgg19", "resnet152")]
TORCHVISION = [n for n, row in REFERENCES.items() if row.target.startswith("torchvision")]


def weightless(row: Reference, num_classes: int = 1000) -> nn.Module:
    """The network with shapes alone."""
    with torch.device("meta"):
        return row.build(num_classes)


def torchvision_meta(row: Reference) -> dict[str, float]:
    """torchvision's own figures of a network."""
    function = row.target.partition(":")[2]
    return torchvision.models.get_model_weights(function).DEFAULT.meta  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", TORCHVISION)
def test_references_have_torchvisions_own_figures(name: str) -> None:
    cost = count_cost(weightless(REFERENCES[name]), 224)
    meta = torchvision_meta(REFERENCES[name])
    assert cost.params == meta["num_params"]
    assert cost.macs / 1e9 == pytest.approx(meta["_ops"], abs=0.0006)  # three decimals of 10^9


def mobilenet_v1_by_hand() -> tuple[int, int]:
    """(parameters, multiply-adds) of Table 1 of MobileNets: 1.0, 224."""
    # out_chs and stride of the depthwise separable convolutions
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    blocks += [(1024, 2), (1024, 1)]
    chs, side = 32, 112
    params, macs = 27 * 32 + 2 * 32, 27 * 32 * side**2
    for out, stride in blocks:
        side //= stride
        params += 9 * chs + 2 * chs + chs * out + 2 * out
        macs += (9 * chs + chs * out) * side**2
        chs = out
    return params + 1024 * 1000 + 1000, macs + 1024 * 1000


def test_mobilenet_v1_has_the_formulas_costs() -> None:
    cost = count_cost(weightless(REFERENCES["mobilenet_v1"]), 224)
    assert (cost.params, cost.macs) == mobilenet_v1_by_hand()


def shufflenet_v1_by_hand(width: float, groups: int, first: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of Table 1 of ShuffleNet, `first` channels in stage 2."""
    chs, side = int(24 * width), 112
    params, macs = 27 * chs + 2 * chs, 27 * chs * side**2
    side //= 4  # max-pooling, and the stride of stage 2
    for stage, depth in enumerate((4, 8, 4)):
        out = int(first * width) * 2**stage
        hidden = out // 4
        for unit in range(depth):
            # The first unit of a stage reads the larger map, and is set beside its pooled input.
            begin = 4 * side**2 if unit == 0 else side**2
            branch = out - chs if unit == 0 else out
            enter = chs * hidden // (1 if stage == unit == 0 else groups)
            leave = hidden * branch // groups
            params += enter + 2 * hidden + 9 * hidden + 2 * hidden + leave + 2 * branch
            macs += enter * begin + (9 * hidden + leave) * side**2
            chs = out
        side //= 2
    return params + chs * 1000, macs + chs * 1000


@pytest.mark.parametrize(
    ("width", "groups", "first", "params_m", "macs_m"),
    [  # in millions: PAPERS.md, section 1.3; the others by hand alone
        (2.0, 3, 240, "5.450", "524.05"),
        (1.0, 8, 384, "2.434", "138.37"),
        (1.0, 1, 144, None, None),
        (1.0, 2, 200, None, None),
        (2.0, 4, 272, None, None),
        (0.5, 3, 240, None, None),
    ],
)
def test_shufflenet_v1_has_the_formulas_costs(
    width: float, groups: int, first: int, params_m: str | None, macs_m: str | None
) -> None:
    with torch.device("meta"):
        network = ShuffleNetV1(1000, width=width, groups=groups)  # type: ignore[arg-type]
    cost = count_cost(network, 224)
    assert (cost.params, cost.macs) == shufflenet_v1_by_hand(width, groups, first)
    if params_m:
        assert (f"{cost.params / 1e6:.3f}", f"{cost.macs / 1e6:.2f}") == (params_m, macs_m)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffle_deals_the_groups_out(groups: int) -> None:
    x = torch.randn(2, 12, 3, 5)
    turned = x.numpy().reshape(2, groups, 12 // groups, 3, 5).transpose(0, 2, 1, 3, 4)
    shuffled = ChannelShuffle(groups)(x)
    np.testing.assert_array_equal(shuffled.numpy(), turned.reshape(2, 12, 3, 5))
    assert shuffled.equal(nn.ChannelShuffle(groups)(x))


def test_shuffle_lets_every_group_see_all_others() -> None:
    # Two units with a shuffle between them: any input channel moves every output channel.
    network = ShuffleNetV1(5, width=0.5, groups=3).eval()
    x = torch.randn(1, 120, 4, 4, requires_grad=True)
    units = network.stages[0][1:3]  # type: ignore[index]
    y = units(x)
    for channel in (0, 60, 119):
        (gradient,) = torch.autograd.grad(y[0, channel].sum(), x, retain_graph=True)
        assert (gradient.abs().sum((0, 2, 3)) > 0).all()


def bn_elements(network: nn.Module) -> int:
    """Numbers that leave the batch norms for one picture of 224 pixels."""
    found = []
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda _, __, y: found.append(y.numel()))
    network.eval()(torch.empty(1, 3, 224, 224, device="meta"))
    return sum(found)


def test_shufflenet_v2_has_149_m_only_with_batch_norms_operations() -> None:
    # The reason that stands beside 001's figure
    network = weightless(REFERENCES["shufflenet_v2"])
    macs = count_cost(network, 224).macs
    assert round(macs / 1e6, 1) == 144.9
    assert round((macs + 2 * bn_elements(network)) / 1e6, 1) == 148.8


def test_squeezenet_1_1_has_what_the_note_says() -> None:
    row = REFERENCES["squeezenet"]
    other = Reference("other", "torchvision.models:squeezenet1_1", "")
    cost = count_cost(weightless(other), 224)
    words = f"1.1 has {cost.params / 1e6:.2f} M and {cost.macs / 1e6:.0f} M"
    assert words in row.note


@pytest.mark.parametrize("name", SMALL)
def test_references_learn_on_small_pictures(name: str) -> None:
    torch.manual_seed(0)
    network = REFERENCES[name].build(num_classes=7)
    logits: Tensor = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 7)
    logits.logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path


@pytest.mark.parametrize("name", [n for n in SMALL if n in TORCHVISION])
def test_references_are_what_torchvision_builds(name: str) -> None:
    torch.manual_seed(3)
    ours = REFERENCES[name].build(num_classes=7).eval()
    torch.manual_seed(3)
    function = REFERENCES[name].target.partition(":")[2]
    theirs = torchvision.models.get_model(function, weights=None, num_classes=7).eval()
    x = torch.randn(1, 3, 64, 64)
    assert ours(x).equal(theirs(x))


@pytest.mark.parametrize("name", REFERENCES)
def test_references_take_any_number_of_channels(name: str) -> None:
    with torch.device("meta"):
        grey, colour = (REFERENCES[name].build(10, in_chs) for in_chs in (1, 3))
    first = next(part for part in colour.modules() if isinstance(part, nn.Conv2d))
    assert first.in_channels == 3
    parameters = [sum(p.numel() for p in m.parameters()) for m in (grey, colour)]
    assert parameters[1] - parameters[0] == 2 * first.out_channels * first.kernel_size[0] ** 2
    cost = count_cost(grey, 64, in_chs=1)
    assert count_cost(colour, 64).macs > cost.macs > 0


def test_references_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    for row in REFERENCES.values():
        weightless(row)


def test_references_import_no_library_until_they_are_built() -> None:
    code = (
        "import sys, nasattn.references\n"
        "heavy = {'torch', 'torchvision', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What the tables call the references, and what they call the metrics
MODELS = {
    "MobileNetV1": "mobilenet_v1",
    "MobileNetV3": "mobilenet_v3_large",
    "ShuffleNetV1": "shufflenet_v1",
    "ShuffleNetV2": "shufflenet_v2",
    "EfficientNet-B0": "efficientnet_b0",
    "SqueezeNet": "squeezenet",
    "VGG16": "vgg16",
    "VGG-19": "vgg19",
    "ResNet-152": "resnet152",
    "MobileNet dw-sep": "mobilenet_v1",
}
METRICS = {"params": "params", "FLOPs": "macs", "top1": "top1", "latency": "latency_ms"}
SCALES = {"M": 1e6, "%": 0.01, "ms": 1.0}


@pytest.mark.skipif(not TABLES.exists(), reason="the papers' tables are not beside the checkout")
def test_references_carry_every_figure_of_the_papers_tables() -> None:
    printed = set()
    for row in csv.DictReader(TABLES.read_text(encoding="utf-8").splitlines()):
        known = row["paper"] in ("000", "001") and row["model"] in MODELS
        if not known or row["metric"] not in METRICS or not row["value"]:
            continue
        value = float(row["value"]) * SCALES[row["unit"].split()[0]]
        figure = (MODELS[row["model"]], METRICS[row["metric"]], row["paper"], f"{value:.6g}")
        printed.add((*figure, row["dataset"] if "CIFAR" in row["dataset"] else ""))
    ours = {
        (name, f.metric, f.paper, f"{f.value:.6g}", f.where if "CIFAR" in f.where else "")
        for name, row in REFERENCES.items()
        for f in row.published
    }
    assert ours == printed

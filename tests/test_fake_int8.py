"""Training for int8: rounding by its formulas, and beside ONNX Runtime's own int8."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from nasattn.arch import parse_architecture
from nasattn.attention import ATTENTIONS
from nasattn.data import ImageData, load_data
from nasattn.errors import EvaluationError
from nasattn.layers import GeM
from nasattn.model import build_model
from nasattn.tensor_file import read_tensors
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.fake_int8 import FakeInt8, Ranges, Rounding, round_map, round_weight
from nasattn.train.loop import Epoch, train_model
from nasattn.train.recipe import RECIPES, Recipe
from nasattn.weights import Facts
from nasattn.zoo import get_network
from tests.command import nasattn

Floats = NDArray[np.float32]


def rounded_weight(w: Floats) -> Floats:
    scale = np.abs(w).reshape(len(w), -1).max(1).reshape(-1, *[1] * (w.ndim - 1)) / 127
    found: Floats = np.round(w / scale) * scale
    return found


def rounded_map(x: Floats, low: float, high: float) -> Floats:
    scale = np.float32((high - low) / 255)
    zero = np.round(-low / scale)
    found: Floats = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (6, 1, 5, 5), (5, 7), (2, 3, 4)])
def test_round_weight_is_the_formula(shape: tuple[int, ...]) -> None:
    w = normal(*shape)
    assert np.allclose(round_weight(w).numpy(), rounded_weight(w.numpy()), atol=1e-6)
    assert not round_weight(torch.zeros(shape)).any()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 6.0), (-3.0, 0.0), (-0.01, 1.0)])
def test_round_map_is_the_formula_and_keeps_0(low: float, high: float) -> None:
    x = normal(2, 3, 4, 4) * 3
    found = round_map(x, torch.tensor([low, high]))
    assert np.allclose(found.numpy(), rounded_map(x.numpy(), low, high), atol=1e-5)
    assert not round_map(torch.zeros(2, 2), torch.tensor([low, high])).any()
    assert len(set(found.flatten().tolist())) <= 256


def test_gradients_pass_straight_through() -> None:
    x = torch.tensor([[-2.0, -0.3, 0.4, 5.0]], requires_grad=True)
    round_map(x, torch.tensor([-1.0, 2.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(1, 4))
    w = normal(4, 3).requires_grad_()
    round_weight(w).sum().backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert torch.equal(w.grad, torch.ones(4, 3))


def test_round_weight_commutes_with_folding_a_batch_norm() -> None:
    # BN(conv(x, w)) = conv(x, f w) + b with f = gamma / sqrt(var + eps) for each output channel,
    # of either sign: round(f w) = f round(w)
    conv, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8).eval()
    gamma, beta, mean = normal(8, seed=1) * 3, normal(8, seed=2), normal(8, seed=3)
    var = normal(8, seed=4).square() + 0.1
    norm.load_state_dict(
        {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}, strict=False
    )
    factor = gamma / torch.sqrt(var + norm.eps)
    x = normal(2, 3, 6, 6, seed=5)
    with torch.no_grad():
        folded_weight = round_weight(conv.weight * factor.view(-1, 1, 1, 1))
        folded = conv2d(x, folded_weight, beta - factor * mean)
        torch.testing.assert_close(norm(conv2d(x, round_weight(conv.weight))), folded)
        assert (norm(conv(x)) - folded).abs().max() > 1e-3


def test_ranges_follow_batches_slowly_and_hold_0() -> None:
    ranges = Ranges()
    ranges.follow("a", torch.tensor([[1.0, 4.0]]))
    assert ranges.found["a"].tolist() == [0.0, 4.0]
    ranges.follow("a", torch.tensor([[-2.0, 2.0]]))
    assert ranges.found["a"].tolist() == pytest.approx([0.05 * -2, 4 + 0.05 * (2 - 4)])
    again = Ranges()
    again.load_state_dict(ranges.state_dict())
    assert again.found.keys() == {"a"}


class Residual(nn.Module):
    """A functional convolution whose weight is its own, a sum, a pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(normal(3, 3, 1, 1, seed=7))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = conv2d(x, weight=self.kernel)
        y += x
        return linear(y.relu().mean((2, 3)), self.head.weight, self.head.bias)


def test_fake_int8_rounds_what_operators_take() -> None:
    model = Residual()
    fake = FakeInt8(model, Ranges()).train()
    x = normal(2, 3, 4, 4)
    with torch.no_grad():
        found = fake(x)

        def own(x: Tensor) -> Tensor:
            ends = min(0.0, x.min().item()), max(0.0, x.max().item())
            return torch.from_numpy(rounded_map(x.numpy(), *ends))

        rx = own(x)
        y = own(conv2d(rx, round_weight(model.kernel))) + rx
        pooled = own(own(y.relu()).mean((2, 3)))
        expected = own(linear(pooled, round_weight(model.head.weight), model.head.bias))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # In eval mode it keeps to its ranges; what it has never seen it leaves alone.
    before = {place: ends.clone() for place, ends in fake.ranges.found.items()}
    torch.testing.assert_close(fake.eval()(x), found)
    fake(10 * x)
    assert all(torch.equal(before[place], ends) for place, ends in fake.ranges.found.items())
    torch.testing.assert_close(
        FakeInt8(model, Ranges()).eval()(x),
        linear(
            (conv2d(x, round_weight(model.kernel)) + x).relu().mean((2, 3)),
            round_weight(model.head.weight),
            model.head.bias,
        ),
    )


NAMES = [
    *("lam", "mobilenet_v3_small", "mobilenet_v1", "shufflenet_v1", "shufflenet_v2"),
    *("efficientnet_b0", "squeezenet", "resnest50", "skresnext50_32x4d"),
]


def attended(kind: str) -> nn.Module:
    stages = [{"depth": 2, "width": 32, "attention": {"kind": kind}}]
    return build_model(parse_architecture({"stem": {"width": 8}, "stages": stages}, kind), 4)


def networks() -> Iterator[Any]:
    kinds = [kind for kind in ATTENTIONS if kind != "none"]
    yield from (pytest.param(lambda k=kind: attended(k), id=kind) for kind in kinds)
    for name in NAMES:
        marks = [pytest.mark.slow] * (name != "lam")
        yield pytest.param(lambda n=name: get_network(n).build(4, 64), id=name, marks=marks)


@pytest.mark.parametrize("build", list(networks()))
def test_fake_int8_reaches_every_layer_and_gives_every_parameter_a_gradient(build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    fake = FakeInt8(model, Ranges()).train()
    names = set(model.state_dict())
    fake(torch.rand(4, 3, 64, 64)).sum().backward()
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    wanted = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, layers)}
    assert wanted <= {place.partition("/")[0] for place in fake.ranges.found}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # The network knows nothing of it.
    assert set(model.state_dict()) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.fixture(scope="module")
def data(cache: Path) -> ImageData:
    return load_data("digits", 8, cache_dir=cache)


RECIPE = RECIPES["qat"].model_copy(update={"epochs": 4, "train_size": 64, "lr": 0.01})
ARCH = {
    "stem": {"width": 8},
    "stages": [{"depth": 1, "width": 8, "attention": {"kind": "lam"}}],
    "head": {"dropout": 0.2},
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(parse_architecture(ARCH, "arch"), 10)


RESIDUAL = {
    "stem": {"width": 8},
    "stages": [{"block": "basic", "depth": 2, "width": 8}],
    "act": "relu",
}


def test_fake_int8_rounds_where_onnxruntime_does(
    tmp_path: Path, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from nasattn.deploy.onnx_model import answers, quantise
    from nasattn.runtimes.onnx_file import export_onnx

    torch.manual_seed(0)
    model = build_model(parse_architecture(RESIDUAL, "residual"), 10)
    recipe = RECIPES["quick"].model_copy(update={"epochs": 2, "train_size": 256})
    train_model(model, data, recipe, seed=0)
    x = torch.from_numpy(data.train.images[:64]).float() / 255 - 0.5
    theirs = answers(
        quantise(export_onnx(model.eval(), x[:1], tmp_path), tmp_path / "q.onnx", "MinMax", x), x
    )
    # As ONNX Runtime does it, the ranges are those of the network before anything is rounded.
    fake = FakeInt8(model, Ranges()).eval()

    def follow(place: str, x: Tensor) -> Tensor:
        fake.ranges.follow(place, x)
        return x

    with torch.inference_mode():
        floats = model(x)
        with monkeypatch.context() as patch, Rounding(fake.names, follow):
            patch.setattr("nasattn.train.fake_int8.round_weight", lambda weight: weight)
            follow("output", model(x))
        rounded = fake(x)
    # What is left is the rounding of biases and of sums: an eighth of what int8 does.
    assert (rounded - theirs).square().mean() < (theirs - floats).square().mean() / 4


class Stop(Exception):
    """The power goes."""


def run(
    data: ImageData,
    recipe: Recipe,
    stop: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == stop:
            raise Stop

    model = network()
    torch.manual_seed(5)
    curve = train_model(model, data, recipe, seed=1, checkpoint=checkpoint, on_epoch=on_epoch)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return [(e.loss, e.top1) for e in curve], model.state_dict()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_train_model_goes_on_rounding_where_it_was_stopped(
    tmp_path: Path, data: ImageData, stop_after: int
) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    whole_curve, whole = run(data, RECIPE)
    with pytest.raises(Stop):
        run(data, RECIPE, stop_after, checkpoint)
    curve, again = run(data, RECIPE, None, checkpoint)
    assert curve == whole_curve
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    _, plain = run(data, RECIPE.model_copy(update={"quantise": "none"}))
    assert plain.keys() == whole.keys()
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)


def test_train_model_rounds_what_is_frozen_too(data: ImageData) -> None:
    frozen = RECIPE.model_copy(update={"head_epochs": 2, "thaw_epochs": 1})
    curve, _ = run(data, frozen)
    assert len(curve) == 4


def test_train_model_says_so_when_rounded_training_diverges(data: ImageData) -> None:
    with pytest.raises(EvaluationError, match="the loss is"):
        run(data, RECIPE.model_copy(update={"lr": 1e30, "schedule": "constant"}))


def test_train_writes_plain_weights_that_were_trained_for_int8(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("net.json").write_text(json.dumps(ARCH), encoding="utf-8")
    train = ["train", "net.json", "--resolution", "8", "--train-size", "64"]
    assert nasattn(monkeypatch, *train, "--epochs", "1", "-o", "plain") == 0
    more = ["--recipe", "qat", "--epochs", "1", "--init", "plain/weights.safetensors"]
    assert nasattn(monkeypatch, *train, *more, "-o", "qat") == 0
    plain, qat = (
        read_tensors(Path(f"{name}/weights.safetensors"), Facts) for name in ("plain", "qat")
    )
    assert qat.facts.recipe.quantise == "int8"
    assert {k: v.shape for k, v in qat.tensors.items()} == {
        k: v.shape for k, v in plain.tensors.items()
    }
    pytest.importorskip("onnxruntime")
    export = ["export", "qat/weights.safetensors", "--to", "onnx", "--precision", "int8"]
    assert nasattn(monkeypatch, *export, "-o", "out") == 0


def test_faint_maps_keep_gem_finite() -> None:
    # The second channel is fainter than half a step of the first one's range: it rounds to 0.
    for p in (1.0, 3.0, 8.0, 20.0):
        model = GeM(p, learnable=True)
        x = torch.ones(1, 2, 4, 4)
        x[:, 1] = 1e-3
        x.requires_grad_()
        network = FakeInt8(model, Ranges()).train()
        for _ in range(2):
            network(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert isinstance(model.p, nn.Parameter)
        assert model.p.grad is not None
        assert model.p.grad.isfinite()

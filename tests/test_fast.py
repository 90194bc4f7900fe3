"""Training on own kernels: what torch's operators give, but for rounding."""

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasattn.baselines import get_baseline
from nasattn.cost.latency import use_threads
from nasattn.data import ImageData, Split
from nasattn.layers import ACTIVATIONS, conv_bn
from nasattn.model import build_model
from nasattn.train.fast import library
from nasattn.train.fast.library import Kernels, build, load_kernels
from nasattn.train.fast.operators import Depthwise, NormAct
from nasattn.train.fast.swap import own_kernels
from nasattn.train.loop import train_model
from nasattn.train.recipe import RECIPES, Recipe
from nasattn.zoo import read_network
from tests.sweep import sweep

HAVE = load_kernels() is not None
OWN = {
    f"{name}Backward" for name in ("NormAct", "Depthwise", "Planar", "Dense", "Mean", "Top", "Gate")
}
needs_compiler = pytest.mark.skipif(not HAVE, reason="needs a C++ compiler")


def picture(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def run(layers: nn.Module, x: Tensor) -> list[Tensor]:
    """The output for x, all gradients of its weighted sum, and the buffers after it."""
    x = x.clone().requires_grad_()
    y = layers(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert x.grad is not None
    return [y, x.grad, *(p.grad for p in layers.parameters()), *layers.buffers()]


def compare(layers: nn.Module, x: Tensor, tolerance: float = 3e-6) -> set[str]:
    """Hold own kernels against torch in float64; names of the operators that were used."""
    with own_kernels(fast := deepcopy(layers)):
        found = run(fast, x)
    used = graph(found[0])
    exact = run(deepcopy(layers).double(), x.double())
    for one, other in zip(found, exact, strict=True):
        scale = other.abs().max().clamp(min=1).item()
        torch.testing.assert_close(
            one.double() / scale, other.double() / scale, rtol=0, atol=tolerance
        )
    return used


def graph(y: Tensor) -> set[str]:
    """Names of the operators that a tensor came from."""
    names, left = set(), [y.grad_fn]
    while left:
        if node := left.pop():
            names.add(node.name())
            left += [before for before, _ in node.next_functions]
    return names


@needs_compiler
@pytest.mark.parametrize("act", [None, *ACTIVATIONS])
@pytest.mark.parametrize("chs", [1, 6, 16, 43])
def test_norm_and_activation_are_those_of_torch(chs: int, act: str | None) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(chs)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    layers = nn.Sequential(norm, *([ACTIVATIONS[act]()] if act else []))
    x = picture(5, chs, 7, 9) * 2 + 3
    assert "NormActBackward" in compare(layers, x, 1e-5)


@needs_compiler
def test_norm_of_a_large_mean_keeps_its_digits() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(16))
    x = picture(4, 16, 8, 8) + 1000
    with own_kernels(layers):
        y = layers(x)
    exact = nn.BatchNorm2d(16).double()(x.double())
    assert (y - exact).abs().max() < 1e-4


@needs_compiler
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3), (17, 16)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [5, 7])
def test_depthwise_is_that_of_torch(kernel: int, stride: int, size: tuple[int, int]) -> None:
    for chs in (2, 20, 36):
        layers = conv_bn(chs, chs, kernel, stride=stride, groups=chs)[:1]
        layers = layers.to(memory_format=torch.channels_last)
        assert "DepthwiseBackward" in compare(layers, picture(3, chs, *size))


@needs_compiler
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3), (17, 16), (5, 33)])
@pytest.mark.parametrize("kernel", [5, 7])
def test_depthwise_of_channels_first_is_that_of_torch(kernel: int, size: tuple[int, int]) -> None:
    layers = conv_bn(2, 2, kernel, groups=2)[:1]
    assert "PlanarBackward" in compare(layers, picture(3, 2, *size).contiguous())


@needs_compiler
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 3), (1, 1), (17, 16)])
@pytest.mark.parametrize("widths", [(16, 16), (16, 48), (128, 32)])
def test_dense_is_that_of_torch(widths: tuple[int, int], size: tuple[int, int]) -> None:
    layers = conv_bn(*widths, 3)[:1].to(memory_format=torch.channels_last)
    # The constants of the transform reach from 1 / 24 to 8: it rounds more.
    assert "DenseBackward" in compare(layers, picture(3, widths[0], *size), 2e-5)


class Call(nn.Module):
    """A function of a map, and maybe of a gate that is a parameter, as a layer."""

    def __init__(self, function: Callable[..., Tensor], *gate: int) -> None:
        super().__init__()
        self.function = function
        self.gate = nn.Parameter(picture(*gate, seed=2)) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.gate is None else self.function(x, self.gate)


def whole(x: Tensor) -> Tensor:
    """Rounded, with the gradient of what was not."""
    return x + (x.round() - x).detach()


@needs_compiler
@pytest.mark.parametrize("chs", [2, 16, 24, 43])
def test_functions_of_attention_are_those_of_torch(chs: int) -> None:
    def used(function: Callable[..., Tensor], *gate: int) -> set[str]:
        return compare(Call(function, *gate), picture(3, chs, 20, 9))

    for dim in (1, -3, (1,), (2, 3), [-1, -2]):
        for keepdim in (True, False):
            assert "MeanBackward" in used(lambda x, d=dim, k=keepdim: x.mean(d, keepdim=k))
    for keepdim in (True, False):
        assert "TopBackward" in used(lambda x, k=keepdim: x.amax(1, keepdim=k))
        assert "TopBackward" in used(lambda x, k=keepdim: whole(x).amax(1, k))  # some as high
    assert "GateBackward" in used(lambda x, gate: x * gate, 3, chs, 1, 1)
    assert "GateBackward" in used(lambda x, gate: x.mul(gate), 3, 1, 20, 9)
    # What is no pooling and no gate is left to torch.
    for function in (
        lambda x: x * 2,
        lambda x: 2 * x,
        lambda x: x * x,
        lambda x: x.mean(3),
        lambda x: x.mean(),
        lambda x: x.amax((2, 3)),
        lambda x: x.mean((2, 3), dtype=torch.float64),
        lambda x: x.contiguous() * 2.5,
    ):
        assert not OWN & used(function)


@needs_compiler
@pytest.mark.parametrize("shape", [(3, 1, 20, 9), (3, 5, 1, 1), (3, 1, 1, 1), (1, 1, 4, 4)])
@pytest.mark.parametrize("per_pixel", [False, True])
def test_gates_of_maps_of_one_channel_or_pixel(shape: tuple[int, ...], per_pixel: bool) -> None:
    n, chs, h, w = shape
    gate = (n, 1, h, w) if per_pixel else (n, chs, 1, 1)
    used = compare(Call(lambda x, gate: x * gate, *gate), picture(*shape))
    assert "GateBackward" in used


@needs_compiler
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mul(other=torch.ones(2, 8, 1, 1)),
        lambda x: x.amax(axis=1, keepdims=True),
        lambda x: x.mean(axis=(2, 3)),
        lambda x: x.mean(np.int64(1)),
        lambda x: x[:0].mean((2, 3)),
    ],
)
def test_functions_may_be_called_in_other_ways(function: Callable[[Tensor], Tensor]) -> None:
    x = picture(2, 8, 3, 3).requires_grad_()
    with own_kernels(nn.Identity()):
        y = function(x)
        with pytest.raises(IndexError):
            x.mean(5)
    assert torch.equal(y, function(x))


@needs_compiler
def test_a_value_that_is_no_number_is_the_highest() -> None:
    for chs in (2, 24, 43):
        for where in range(chs):
            x = picture(1, chs, 1, 2).requires_grad_()
            with torch.no_grad():
                x[0, where, 0, 1] = torch.nan
            with own_kernels(nn.Identity()):
                top = x.amax(1)
            assert top.isnan().tolist() == x.detach().amax(1).isnan().tolist() == [[[False, True]]]


@needs_compiler
@pytest.mark.parametrize("name", sweep(["lam", "resnet20_cifar", "mobilenet_v2"], ["lam"]))
def test_a_whole_network_is_no_less_exact_than_by_torch(name: str) -> None:
    """In the best of several: where rounding takes a unit across zero, gradients leap."""
    ours, plain = zip(*(distance_from_exact(name, seed) for seed in range(4)), strict=True)
    assert min(ours) <= 4 * min(plain)


def distance_from_exact(name: str, seed: int) -> tuple[float, float]:
    """Of loss, gradients and statistics, that furthest from float64: by own kernels, by torch."""
    torch.manual_seed(seed)
    model = build_model(get_baseline(name).architecture.at_resolution(16), 10).train()
    model = model.to(memory_format=torch.channels_last)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    x, y = picture(16, 3, 16, 16, seed=seed), torch.arange(16) % 10

    def results(net: nn.Module, x: Tensor) -> list[Tensor]:
        """Loss, gradients and running statistics."""
        loss = cross_entropy(net(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        return [one.detach().double() for one in (loss, *gradients, *net.buffers())]

    with own_kernels(ours := deepcopy(model)) as any_of_them:
        assert any_of_them
        found = results(ours, x)
    plain, exact = results(deepcopy(model), x), results(model.double(), x.double())

    def furthest(of: list[Tensor]) -> float:
        pairs = zip(of, exact, strict=True)
        return max(float((one - truth).norm() / (truth.norm() + 0.1)) for one, truth in pairs)

    return furthest(found), furthest(plain)


@needs_compiler
def test_layers_are_as_before_afterwards() -> None:
    model = build_model(get_baseline("lam").architecture.at_resolution(16), 10)

    def swapped() -> bool:
        return any("forward" in vars(part) for part in model.modules())

    def fail() -> None:
        with own_kernels(model):
            assert swapped()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not swapped()


@needs_compiler
def test_what_kernels_do_not_take_is_left_to_torch() -> None:
    layers = conv_bn(8, 8, 5, groups=8, act="relu")
    x = picture(4, 8, 6, 6)
    plain = deepcopy(layers)

    def same(change: Callable[[nn.Module], Any], x: Tensor) -> None:
        ours, theirs = deepcopy(layers), deepcopy(plain)
        change(ours), change(theirs)
        with own_kernels(ours):
            y = ours(x)
        assert torch.equal(y, theirs(x))
        assert not OWN & graph(y)

    same(lambda net: net.eval(), x)
    same(lambda net: net.double(), x.double())
    same(lambda net: setattr(next(net.children()), "stride", (2, 2)), x.contiguous())
    with torch.autocast("cpu", torch.bfloat16):
        same(lambda net: None, x)
    same(lambda net: [part.register_forward_hook(lambda *a: None) for part in net.children()], x)
    with use_threads(2), own_kernels(layers) as any_of_them:
        assert not any_of_them


@needs_compiler
def test_a_second_derivative_is_refused() -> None:
    x, gate = picture(2, 8, 3, 3).requires_grad_(), picture(2, 8, 1, 1).requires_grad_()
    with own_kernels(nn.Identity()):
        y = x * gate
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(y.sum() + x.pow(3).sum(), x, create_graph=True)


@needs_compiler
@pytest.mark.parametrize("act", ["relu", "relu6", "hard_swish"])
def test_what_is_no_number_stays_none(act: str) -> None:
    layers = nn.Sequential(nn.BatchNorm2d(8), ACTIVATIONS[act]())
    x = picture(2, 8, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    with own_kernels(layers):
        y = layers(x)
    assert y[:, 3].isnan().all()
    assert not y[:, [0, 1, 2, 4, 5, 6, 7]].isnan().any()


@needs_compiler
def test_layers_that_do_more_than_torchs_are_left_alone() -> None:
    class NormTwice(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Backwards(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in reversed([*self]):
                x = layer(x)
            return x

    shared = nn.ReLU()
    layers = nn.Sequential(
        nn.Sequential(NormTwice(8), nn.ReLU()),
        Backwards(nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(8), shared),
        shared,
    )
    assert "NormActBackward" in compare(layers, picture(4, 8, 5, 5), 1e-5)


@needs_compiler
@pytest.mark.parametrize("name", ["mobilenet_v1", "shufflenet_v2"])
def test_networks_of_other_libraries_answer_as_by_torch(name: str) -> None:
    network = read_network(name)
    torch.manual_seed(0)
    model = network.build(10, 32).train()
    model = model.to(memory_format=torch.channels_last)
    x = picture(4, 3, 32, 32)
    with own_kernels(ours := deepcopy(model)):
        torch.manual_seed(1)
        y = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(y, model(x), rtol=0, atol=2e-2)


@needs_compiler
def test_one_network_may_be_swapped_twice() -> None:
    layers = conv_bn(16, 16, 3, act="relu")
    with own_kernels(layers), own_kernels(layers) as again:
        assert not again
        assert "NormActBackward" in graph(layers(picture(2, 16, 4, 4)))
    assert "forward" not in vars(layers[0])


def tiny_data() -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 3, 16, 16), dtype=np.uint8)
    split = Split(images, np.arange(64) % 4)
    names = ("a", "b", "c", "d")
    return ImageData("tiny", 16, names, split, split, split, 0, True, (), "0" * 12)


@needs_compiler
def test_training_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["quick"].model_copy(update={"epochs": 2, "lr": 1e-3})
    arch = get_baseline("lam").architecture.at_resolution(16)
    torch.manual_seed(0)
    model = build_model(arch, 4)
    curves = []
    for kernels in (load_kernels(), None):
        monkeypatch.setattr("nasattn.train.fast.swap.load_kernels", lambda k=kernels: k)
        curves.append(train_model(deepcopy(model), tiny_data(), recipe, seed=0))
    for one, other in zip(*curves, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=2e-2)


def test_without_a_compiler_torch_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "COMPILERS", ("no-such-compiler",))
    load_kernels.cache_clear()
    try:
        model = conv_bn(3, 4, 3, act="relu")
        with own_kernels(model) as any_of_them:
            assert not any_of_them
        net = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
        curve = train_model(net, tiny_data(), Recipe(epochs=1, batch_size=16), seed=0)
        assert len(curve) == 1
    finally:
        load_kernels.cache_clear()


def test_a_compiler_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError):
        build(str(broken), tmp_path / "kernels")
    monkeypatch.setattr(library, "COMPILERS", (str(broken),))
    load_kernels.cache_clear()
    try:
        assert load_kernels() is None
    finally:
        load_kernels.cache_clear()


@pytest.mark.slow
@needs_compiler
def test_the_library_is_built_once(tmp_path: Path) -> None:
    compiler = next(name for name in library.COMPILERS if shutil.which(name))
    path = build(compiler, tmp_path / "kernels")
    stamp = path.stat().st_mtime_ns
    assert build(compiler, tmp_path / "kernels") == path
    assert path.stat().st_mtime_ns == stamp
    assert [*path.parent.iterdir()] == [path]  # nothing is left of building
    kernels = Kernels(path)
    x = picture(2, 4, 3, 3)
    y, mean, _ = NormAct.apply(x, torch.ones(4), torch.zeros(4), 1e-5, 1, kernels)
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    assert y.min() == 0
    w = torch.zeros(4, 1, 5, 5)
    w[:, :, 2, 2] = 1
    torch.testing.assert_close(Depthwise.apply(x, w, 1, kernels), x)

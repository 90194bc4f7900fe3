"""Pooling, inverted residuals and fusion, against numpy, torchvision and the formula."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import mobilenetv2 as torchvision_mobilenet  # type: ignore[import-untyped]

from nasattn.arch import AttentionSpec, StageSpec
from nasattn.attention.squeeze_excite import SqueezeExcite
from nasattn.baselines import get_baseline
from nasattn.blocks.inverted_residual import InvertedResidual
from nasattn.cost import count_params
from nasattn.layers import (
    ACTIVATIONS,
    AdaptiveFeatureFusion,
    GeM,
    MeanPool,
    conv_bn,
)
from nasattn.model import build_model

Array = NDArray[np.float64]
EPS = 1e-6  # GeM's floor


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def after_training(module: nn.Module, x: Tensor) -> nn.Module:
    """`module` in eval mode, its running statistics taken from a pass and its scales random."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(x)
    return module.eval()


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Parameters and statistics by their place; shapes must agree."""
    state = zip(target.state_dict(), source.state_dict().values(), strict=True)
    target.load_state_dict(dict(state))
    target.train(source.training)


# GeM: (mean(max(x, eps)^p))^(1/p)


def gem_by_hand(x: Array, p: float) -> Array:
    return np.asarray((np.maximum(x, EPS) ** p).mean((2, 3)) ** (1 / p))


@pytest.mark.parametrize("p", [1, 2, 3, 4.5, 8])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_gem_is_the_formula(p: float, scale: float) -> None:
    x = maps(2, 3, 5, 4) * scale
    expected = gem_by_hand(x.double().numpy(), p)
    np.testing.assert_allclose(GeM(p)(x).numpy(), expected, rtol=1e-5)


def test_gem_of_power_one_is_the_mean() -> None:
    x = maps(2, 3, 7, 5).abs() + 0.1
    torch.testing.assert_close(GeM(1)(x), MeanPool()(x))


def test_gem_grows_towards_the_maximum() -> None:
    x = maps(2, 3, 4, 4).abs() + 0.1
    pooled = torch.stack([GeM(p)(x) for p in (1, 2, 3, 4, 5, 6, 7, 8)])
    assert (pooled.diff(dim=0) > 0).all()  # the power-mean inequality
    top = x.amax((2, 3))
    assert (pooled[-1] < top).all()
    assert (pooled[-1] >= top * (1 / 16) ** (1 / 8)).all()  # the maximum is one of 16 pixels


def test_gem_does_not_change_its_input() -> None:
    x = maps(1, 2, 3, 3)
    before = x.clone()
    GeM()(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("p", [1, 3, 8])
def test_gem_has_the_gradient_of_the_formula_where_there_are_zeros(
    p: float, learnable: bool
) -> None:
    x = maps(2, 4, 4, 4).relu()
    x[0, 0] = 0  # a dead channel
    x[0, 1, 1:] = 0
    upstream = maps(2, 4)

    exact = x.double().requires_grad_()
    naive = exact.clamp(min=EPS).pow(p).mean((2, 3)).pow(1 / p)
    (exact_grad,) = torch.autograd.grad(naive, exact, upstream.double())

    x.requires_grad_()
    pooled = GeM(p, learnable=learnable)(x)
    (grad,) = torch.autograd.grad(pooled, x, upstream)
    torch.testing.assert_close(pooled.double(), naive, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(grad, exact_grad.float(), rtol=1e-4, atol=1e-7)


def test_gem_gives_a_learnable_power_the_gradient_of_the_formula() -> None:
    x = maps(2, 3, 4, 4).relu()
    x[0, 0] = 0
    upstream = maps(2, 3)
    pool = GeM(3, learnable=True)
    pool(x).backward(upstream)

    def objective(p: float) -> float:
        pooled = gem_by_hand(x.double().numpy(), p)
        return float((pooled * upstream.double().numpy()).sum())

    step = 1e-4
    slope = (objective(3 + step) - objective(3 - step)) / (2 * step)
    assert isinstance(pool.p, nn.Parameter)
    assert pool.p.grad is not None
    assert pool.p.grad.item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(("learnable", "params"), [(False, 0), (True, 1)])
def test_gem_has_a_parameter_only_where_it_learns(learnable: bool, params: int) -> None:
    assert count_params(GeM(learnable=learnable)) == params


# Inverted residuals


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("expansion", [1, 6])
@pytest.mark.parametrize("width", [8, 12])
def test_inverted_residual_agrees_with_torchvision(stride: int, expansion: int, width: int) -> None:
    x = maps(3, 8, 7, 9)
    theirs = after_training(torchvision_mobilenet.InvertedResidual(8, width, stride, expansion), x)
    stage = StageSpec(depth=1, width=width, expansion=expansion)
    ours = InvertedResidual(8, stage, stride=stride, act="relu6")
    copy_in_order(theirs, ours)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.train()(x), theirs.train()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("place", "channels"),
    # after the depthwise convolution there are 8 x 6 channels, before the addition 8
    [("after_spatial", 48), ("before_add", 8)],
)
def test_inverted_residual_puts_attention_in_its_place(place: str, channels: int) -> None:
    stage = StageSpec(
        depth=1,
        width=8,
        expansion=6,
        attention=AttentionSpec.model_validate({"kind": "se", "placement": place}),
    )
    block = InvertedResidual(8, stage, stride=1, act="relu")
    widths = [m.reduce.in_channels for m in block.modules() if isinstance(m, SqueezeExcite)]
    assert widths == [channels]


def test_inverted_residual_adds_the_shortcut_after_attention() -> None:
    stage = StageSpec(depth=1, width=8, attention=AttentionSpec(kind="eca"))
    block = InvertedResidual(8, stage, stride=1, act="relu").eval()
    x = maps(2, 8, 5, 5)
    torch.testing.assert_close(block(x), x + block.body(x))


def test_mobilenet_v2_agrees_with_torchvision() -> None:
    x = maps(2, 3, 64, 64)
    theirs = after_training(torchvision_mobilenet.mobilenet_v2(), x)
    ours = build_model(get_baseline("mobilenet_v2").architecture, num_classes=1000)
    copy_in_order(theirs, ours)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.1  # far above the tolerance
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


# Convolutions


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_conv_bn_gives_the_rounded_up_size(kernel: int, stride: int, size: int) -> None:
    y = conv_bn(2, 3, kernel, stride=stride)(maps(2, 2, size, size))
    assert y.shape[2:] == (-(-size // stride),) * 2


@pytest.mark.parametrize(
    ("act", "values"),
    [
        ("relu", [0, 0, 3, 9]),
        ("relu6", [0, 0, 3, 6]),
        ("hard_swish", [0, -1 / 3, 3, 9]),  # x * relu6(x + 3) / 6
        ("silu", [v / (1 + np.exp(-v)) for v in (-9, -1, 3, 9)]),
    ],
)
def test_activations_are_the_formulas(act: str, values: list[float]) -> None:
    y = ACTIVATIONS[act]()(torch.tensor([-9.0, -1.0, 3.0, 9.0]))
    torch.testing.assert_close(y, torch.tensor(values, dtype=torch.float32), rtol=1e-5, atol=1e-6)


# Fusion: alpha P_l(pool(low)) + beta P_h(high) + gamma W(P_l + P_h), paper 000, section 3.3


@pytest.mark.parametrize(
    ("terms", "params"),
    [
        # P_l 96 x 320, P_h 320 x 320, their batch norms 2 x 320 each, alpha and beta
        (2, 30_720 + 102_400 + 4 * 320 + 2),
        # W 320 x 320, its batch norm, gamma: 103,041 more
        (3, 134_402 + 102_400 + 2 * 320 + 1),
    ],
)
def test_adaptive_feature_fusion_has_the_formulas_params(terms: int, params: int) -> None:
    assert count_params(AdaptiveFeatureFusion(96, 320, terms=terms)) == params


def batch_norm_by_hand(x: Array, bn: nn.Module) -> Array:
    mean, var, weight, bias = (
        bn.state_dict()[name].double().numpy()[:, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray((x - mean) / np.sqrt(var + 1e-5) * weight + bias)


def project_by_hand(x: Array, layer: nn.Module) -> Array:
    conv, bn = layer.children()
    w = conv.state_dict()["weight"].double().numpy()[:, :, 0, 0]
    return batch_norm_by_hand(np.einsum("nchw,oc->nohw", x, w), bn)


def pool_by_hand(x: Array, stride: int) -> Array:
    """Mean of the pixels that there are in each window."""
    rows, cols = range(0, x.shape[2], stride), range(0, x.shape[3], stride)
    means = [[x[:, :, i : i + stride, j : j + stride].mean((2, 3)) for j in cols] for i in rows]
    return np.moveaxis(np.array(means), (0, 1), (2, 3))  # (N, C, ceil(H / s), ceil(W / s))


@pytest.mark.parametrize("terms", [2, 3])
@pytest.mark.parametrize(
    ("low_size", "stride", "high_size"),
    [((8, 8), 2, (4, 4)), ((7, 7), 2, (4, 4)), ((7, 4), 1, (7, 4)), ((9, 5), 4, (3, 2))],
)
def test_adaptive_feature_fusion_is_the_formula(
    terms: int, low_size: tuple[int, int], stride: int, high_size: tuple[int, int]
) -> None:
    low, high = maps(3, 4, *low_size), maps(3, 6, *high_size)
    fusion = AdaptiveFeatureFusion(4, 6, stride=stride, terms=terms)
    torch.manual_seed(2)
    nn.init.uniform_(fusion.weights, 0.5, 2)
    with torch.no_grad():
        fusion([low], high)  # running statistics leave their start
    fusion.eval()

    p_l = project_by_hand(pool_by_hand(low.double().numpy(), stride), fusion.low)
    p_h = project_by_hand(high.double().numpy(), fusion.high)
    alpha, beta, *gamma = fusion.weights.tolist()
    expected = alpha * p_l + beta * p_h
    if fusion.both is not None:
        expected += gamma[0] * project_by_hand(p_l + p_h, fusion.both)
    np.testing.assert_allclose(fusion([low], high).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_adaptive_feature_fusion_starts_with_equal_terms() -> None:
    assert AdaptiveFeatureFusion(4, 6).weights.tolist() == [1, 1, 1]

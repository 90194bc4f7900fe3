"""Pooling, norms, inverted residuals and fusion, against numpy, torchvision and the formula."""

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d
from torchvision.models import mobilenetv2 as torchvision_mobilenet

from nasattn.attention import build_attention
from nasattn.attention.squeeze_excite import SqueezeExcite
from nasattn.baselines import get_baseline
from nasattn.blocks.inverted_residual import InvertedResidual
from nasattn.cost import count_params
from nasattn.layers import (
    ACTIVATIONS,
    AdaptiveFeatureFusion,
    Blend,
    GeM,
    GridPool,
    MeanPool,
    MultiScaleFusion,
    conv_bn,
    conv_norm_act,
    he_conv,
    pooled_to,
)
from nasattn.model import build_classifier, build_model
from nasattn.parts import Act, AttentionSpec, BareAttention, HeadSpec, StageSpec

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


# Grid pooling: AlexNet's end


def grid_by_torch(x: Tensor) -> Tensor:
    """torchvision's AlexNet, where max pooling keeps what is left at the edge."""
    pooled = max_pool2d(x, 3, stride=2, ceil_mode=True) if min(x.shape[2:]) > 1 else x
    return adaptive_avg_pool2d(pooled, 6).flatten(1)


@pytest.mark.parametrize("size", range(1, 16))
def test_grid_pool_is_adaptive_average_pooling_behind_max_pooling(size: int) -> None:
    for width in (size, 16 - size, 13):
        x = maps(2, 3, size, width)
        y = GridPool()(x)
        assert y.shape == (2, 3 * 36)
        torch.testing.assert_close(y, grid_by_torch(x))


def test_grid_pool_of_thirteen_pixels_is_max_pooling_alone() -> None:
    x = maps(2, 3, 13, 13)
    windows = [
        [x[:, :, i : i + 3, j : j + 3].amax((2, 3)) for j in range(0, 12, 2)]
        for i in range(0, 12, 2)
    ]
    expected = torch.stack([torch.stack(row, 2) for row in windows], 2)  # (N, C, 6, 6)
    torch.testing.assert_close(GridPool()(x), expected.flatten(1))


@pytest.mark.parametrize(
    ("head", "params"),
    [
        ({}, 8 * 5 + 5),
        ({"hidden": 7}, 8 * 7 + 7 + 7 * 5 + 5),
        ({"hidden": 7, "hidden_layers": 2}, 8 * 7 + 7 + 7 * 7 + 7 + 7 * 5 + 5),
        ({"pooling": "grid"}, 8 * 36 * 5 + 5),
        ({"pooling": "grid", "hidden": 7}, 8 * 36 * 7 + 7 + 7 * 5 + 5),
    ],
)
@pytest.mark.parametrize("dropout", [0, 0.5])
def test_classifier_has_the_formulas_params(
    head: dict[str, object], params: int, dropout: float
) -> None:
    spec = HeadSpec.model_validate(head | {"dropout": dropout})
    classifier = build_classifier(8, spec, num_classes=5)
    assert count_params(classifier) == params
    n_dropouts = sum(isinstance(m, nn.Dropout) for m in classifier)
    assert n_dropouts == (0 if not dropout else spec.hidden_layers)  # as many without a hidden one


# Inverted residuals


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("expansion", [1, 6])
@pytest.mark.parametrize("width", [8, 12])
def test_inverted_residual_agrees_with_torchvision(stride: int, expansion: int, width: int) -> None:
    x = maps(3, 8, 7, 9)
    theirs = after_training(torchvision_mobilenet.InvertedResidual(8, width, stride, expansion), x)
    stage = StageSpec.model_validate(
        {"depth": 1, "width": width, "expansion": expansion, "stride": stride}
    )
    ours = InvertedResidual(8, stage, act="relu6")
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
    block = InvertedResidual(8, stage, act="relu")
    widths = [m.reduce.in_channels for m in block.modules() if isinstance(m, SqueezeExcite)]
    assert widths == [channels]


def test_inverted_residual_adds_the_shortcut_after_attention() -> None:
    stage = StageSpec(depth=1, width=8, attention=AttentionSpec(kind="eca"))
    block = InvertedResidual(8, stage, act="relu").eval()
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


@pytest.mark.parametrize(
    ("norm", "parts"),
    [
        ("batch", ["Conv2d", "BatchNorm2d", "SiLU", "Identity"]),
        ("none", ["Conv2d", "SiLU", "Identity"]),
        ("lrn", ["Conv2d", "SiLU", "Identity", "LocalResponseNorm"]),
    ],
)
def test_conv_norm_act_stands_in_its_order(norm: str, parts: list[str]) -> None:
    layers = conv_norm_act(2, 3, 5, norm=norm, act="silu", attention=nn.Identity())
    assert [type(layer).__name__ for layer in layers] == parts
    bias = 0 if norm == "batch" else 3
    assert count_params(layers[0]) == 2 * 3 * 25 + bias
    assert layers(maps(2, 2, 5, 9)).shape == (2, 3, 5, 9)


def test_he_conv_is_a_convolution_without_a_bias() -> None:
    conv = he_conv(64, 128, 3, stride=2, padding=1)
    assert count_params(conv) == 64 * 128 * 9
    assert conv(maps(1, 64, 5, 9)).shape == (1, 128, 3, 5)
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)


def test_local_response_normalisation_is_the_formula() -> None:
    # b_i = a_i / (2 + 1e-4 sum of a_j^2 for j = i - 2 .. i + 2)^0.75; no channel, no square
    *_, lrn = conv_norm_act(2, 9, 3, norm="lrn", act="relu")
    a = maps(2, 9, 4, 3).numpy() * 100  # large: 1e-4 of the squares must matter
    squares = np.pad(a**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    sums = np.stack([squares[:, i : i + 5].sum(1) for i in range(9)], 1)
    expected = a / (2 + 1e-4 * sums) ** 0.75
    np.testing.assert_allclose(lrn(torch.from_numpy(a)).numpy(), expected, rtol=1e-4)
    assert np.abs(expected - a / 2**0.75).max() > 1


# Attention of some strength: x + s (attention(x) - x)


@pytest.mark.parametrize("strength", [0.25, 0.5, 1])
def test_blend_is_the_formula(strength: float) -> None:
    attention = build_attention("se", 16, rd_ratio=4)
    x = maps(2, 16, 5, 4).requires_grad_()
    y = Blend(attention, strength)(x)
    expected = (1 - strength) * x + strength * attention(x)
    torch.testing.assert_close(y, expected)
    upstream = maps(2, 16, 5, 4)
    for own, by_hand in zip(
        torch.autograd.grad(y, [x, *attention.parameters()], upstream, retain_graph=True),
        torch.autograd.grad(expected, [x, *attention.parameters()], upstream),
        strict=True,
    ):
        torch.testing.assert_close(own, by_hand)


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


def test_pooled_to_cuts_what_a_rounded_down_map_has_not() -> None:
    low = maps(1, 2, 4, 5)
    assert torch.equal(pooled_to(maps(1, 3, 3, 5), low), low[:, :, :3])


# Fusion of several scales: a_0(high) + sum_i P_i(pool(a_i(low_i)))


@pytest.mark.parametrize("kind", ["none", "sge"])
@pytest.mark.parametrize(
    ("sizes", "strides"),
    [
        ([(8, 8), (4, 4)], [4, 2]),
        ([(7, 9), (4, 5)], [4, 2]),  # rounded up to 2 x 3 pixels
        ([(9, 9), (4, 4)], [4, 2]),  # rounded down by strides to 2 x 2, by pooling up to 3 x 3
        ([], []),
    ],
)
def test_multi_scale_fusion_is_the_formula(
    kind: str, sizes: list[tuple[int, int]], strides: list[int]
) -> None:
    widths = [8, 16][: len(sizes)]
    lows = [maps(3, chs, *size) for chs, size in zip(widths, sizes, strict=True)]
    high = maps(3, 24, 2, 3 if (7, 9) in sizes else 2)
    spec = BareAttention(kind=kind)
    fusion = MultiScaleFusion(widths, strides, 24, spec)
    with torch.no_grad():
        fusion(lows, high)  # running statistics leave their start
    fusion.eval()

    def attended(parts: nn.Module, x: Tensor) -> Array:
        first = next(parts.children()) if kind != "none" else nn.Identity()
        return np.asarray(first(x).detach().double().numpy())

    expected = attended(fusion.high, high)
    for low, branch, stride in zip(lows, fusion.lows, strides, strict=True):
        *_, projection = branch.children()
        pooled = pool_by_hand(attended(branch, low), stride)
        cut = project_by_hand(pooled, projection)[:, :, : high.shape[2], : high.shape[3]]
        expected = expected + cut
    np.testing.assert_allclose(fusion(lows, high).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_multi_scale_fusion_has_an_attention_of_its_own_for_each_map() -> None:
    fusion = MultiScaleFusion([8, 16], [4, 2], 24, BareAttention(kind="sge"))
    # SGE of 8 groups has 16 parameters, a projection C x 24 and 48 of its batch norm
    assert count_params(fusion) == 3 * 16 + (8 + 16) * 24 + 2 * 48


def test_activations_are_those_that_an_architecture_may_name() -> None:
    assert set(get_args(Act)) == set(ACTIVATIONS)

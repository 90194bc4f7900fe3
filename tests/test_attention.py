"""Attention modules: the contract over the whole registry, and each formula on its own."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from nasattn.attention import ATTENTIONS, build_attention
from nasattn.attention.cbam import ConvBlockAttn
from nasattn.attention.eca import EfficientChannelAttn, eca_kernel
from nasattn.attention.lgam import LightGroupAttn
from nasattn.attention.sge import SpatialGroupEnhance
from nasattn.attention.squeeze_excite import SqueezeExcite
from nasattn.cost import count_params
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.testing import attention_contract

Array = NDArray[np.float64]

RESNET18_WIDTHS = (64, 128, 256, 512)  # two blocks each


def other_values(annotation: Any, default: object) -> list[object]:
    """Values that an option can take beside its default."""
    if annotation is bool:
        return [not default]
    if annotation is int:
        return [value for value in (1, 2) if value != default]
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if value != default]
    raise NotImplementedError(f"say which values of an option of type {annotation} to test")


def option_cases() -> list[tuple[str, dict[str, object]]]:
    """Each kind with its defaults, with each option changed alone, and with all of them changed."""
    cases: list[tuple[str, dict[str, object]]] = []
    for kind, row in ATTENTIONS.items():
        others = {
            name: other_values(field.annotation, field.default)
            for name, field in row.options.model_fields.items()
        }
        cases.append((kind, {}))
        cases += ((kind, {name: value}) for name, values in others.items() for value in values)
        if len(others) > 1:
            cases.append((kind, {name: values[-1] for name, values in others.items()}))
    return cases


def case_id(value: object) -> str:
    """'groups=2,bias=True' for options."""
    if isinstance(value, dict):
        return ",".join(f"{name}={option}" for name, option in value.items()) or "defaults"
    return str(value)


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter and running statistic away from its start, in eval mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.ndim > 1:
                value.normal_()
            elif value.ndim == 1:
                value.uniform_(0.1, 1)  # a variance among them
    return module.eval()


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


# The registry


@pytest.mark.parametrize(("kind", "options"), option_cases(), ids=case_id)
def test_attention_contract_holds(kind: str, options: dict[str, object]) -> None:
    attention_contract(lambda channels: build_attention(kind, channels, **options))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attentions_has_the_defaults_of_the_class(kind: str) -> None:
    row = ATTENTIONS[kind]
    channels, *options = inspect.signature(row.load()).parameters.values()
    assert channels.name == "channels"
    assert {o.kind for o in options} <= {inspect.Parameter.KEYWORD_ONLY}
    in_table = {name: field.default for name, field in row.options.model_fields.items()}
    assert {o.name: o.default for o in options} == in_table


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sa", {}, r"unknown attention 'sa'; did you mean 'lsa'\?"),
        ("none", {}, "unknown attention 'none'; known: cbam, eca, "),
    ],
)
def test_build_attention_refuses_an_unknown_kind(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        build_attention(kind, 16, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("se", {"rdratio": 8}, r"'se': unknown field 'rdratio'; did you mean 'rd_ratio'\?"),
        ("eca", {"groups": 4}, "'eca': unknown field 'groups'; known: dense"),
        ("se", {"rd_ratio": "many"}, "'se': rd_ratio: must be a valid integer.* is 'many'"),
        ("se", {"rd_ratio": 2.5}, "'se': rd_ratio: must be a valid integer.* is 2.5"),
        ("se", {"rd_ratio": 0}, "'se': rd_ratio: must be greater than 0, is 0"),
        ("cbam", {"bias": "perhaps"}, "'cbam': bias: must be a valid boolean.* is 'perhaps'"),
        ("lsa", {"kernel": 4}, "'lsa': kernel: must be 3, 5 or 7, is 4"),
        ("lgam", {"carry": "max"}, "'lgam': carry: must be 'mean' or 'sum', is 'max'"),
    ],
)
def test_build_attention_refuses_a_wrong_option(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build_attention(kind, 16, **options)


# The contract itself: each of these breaks one clause of it


Change = Callable[[nn.Module, Tensor], Tensor]


class Broken(nn.Module):
    """A module that does `change` to the picture, with a parameter that takes part."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.secret = torch.rand(())  # random, and no part of the state dict
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.change(self, x) * self.scale
        return y


class Idle(nn.Module):
    """A module with a parameter that takes no part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, x: x[:, 1:], r"16 channels, map 8x8: shape \(4, 15, 8, 8\) of the output"),
        (lambda m, x: interpolate(avg_pool2d(x, 2), scale_factor=2), "map 7x7: shape"),
        (
            lambda m, x: x / x.std((2, 3), correction=0, keepdim=True),
            "map 8x8 of zeros: output .* finite",
        ),
        (lambda m, x: x.add_(1), "input is changed in place in training mode"),
        (lambda m, x: x if m.training else x.add_(1), "input is changed in place in eval mode"),
        (lambda m, x: x.detach(), "no gradient reaches 'input'"),
        (lambda m, x: x * x.square().sum().sqrt(), "of zeros: gradient of 'input' is not finite"),
        (lambda m, x: x + torch.rand(()), "two calls in eval mode differ"),
        (lambda m, x: x - x.mean(), "a picture alone differs"),
        (lambda m, x: x * x.stride(1), "channels_last input gives other values"),
        (lambda m, x: x * m.secret, "a second module with the same state dict"),
    ],
)
def test_attention_contract_refuses(change: Change, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        attention_contract(lambda channels: Broken(change))


def test_attention_contract_refuses_a_parameter_without_gradient() -> None:
    with pytest.raises(AssertionError, match="no gradient reaches 'idle'"):
        attention_contract(Idle)


def test_attention_contract_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    attention_contract(SqueezeExcite, channels=(8,))
    assert torch.equal(torch.rand(1), expected)


# Parameters


@pytest.mark.parametrize(
    ("kind", "channels", "options", "params"),
    [
        # SE: 2 C h, and C + h with bias; h = C / r, at least 1
        ("se", 64, {}, 2 * 64 * 4 + 64 + 4),
        ("se", 64, {"bias": False}, 2 * 64 * 4),
        ("se", 64, {"rd_ratio": 2}, 2 * 64 * 32 + 64 + 32),
        ("se", 8, {}, 2 * 8 * 1 + 8 + 1),
        # ECA: k = |log2(C) / 2 + 1 / 2|, odd; dense C^2
        ("eca", 96, {}, 3),
        ("eca", 320, {}, 5),
        ("eca", 96, {"dense": True}, 96 * 96),
        # LSA: depthwise 2 k^2, pointwise 2
        ("lsa", 64, {}, 98 + 2),
        ("lsa", 64, {"kernel": 3}, 18 + 2),
        # LAM: ECA and LSA
        ("lam", 160, {}, 5 + 98 + 2),
        ("lam", 160, {"dense": True, "kernel": 5}, 160 * 160 + 50 + 2),
        # CBAM: 2 C h + 2 k^2; biases C + h; batch norm of one map 2
        ("cbam", 64, {}, 2 * 64 * 4 + 98),
        ("cbam", 64, {"bias": True}, 2 * 64 * 4 + 98 + 64 + 4),
        ("cbam", 64, {"bias": True, "bn": True}, 2 * 64 * 4 + 98 + 64 + 4 + 2),
        ("cbam", 8, {"kernel": 3}, 2 * 8 * 1 + 18),
        # SGE: 2 G
        ("sge", 64, {}, 2 * 8),
        ("sge", 64, {"groups": 32}, 2 * 32),
        # LGAM: 2 C h, h = max(C / G / r, hidden_min); biases G (C / G + h); bn has none
        ("lgam", 64, {}, 2 * 64 * 8),  # 64 / 4 / 16 = 1: the floor
        ("lgam", 1024, {}, 2 * 1024 * 16),  # 1024 / 4 / 16 = 16: above it
        ("lgam", 64, {"rd_ratio": 4, "hidden_min": 1}, 2 * 64 * 4),
        ("lgam", 64, {"rd_ratio": 64, "hidden_min": 1}, 2 * 64 * 1),
        ("lgam", 64, {"bias": True}, 2 * 64 * 8 + 4 * (16 + 8)),
        ("lgam", 64, {"bias": True, "bn": True}, 2 * 64 * 8 + 4 * (16 + 8)),
    ],
)
def test_build_attention_has_the_formulas_params(
    kind: str, channels: int, options: dict[str, object], params: int
) -> None:
    assert count_params(build_attention(kind, channels, **options)) == params


@pytest.mark.parametrize(
    ("kind", "options", "params"),
    [  # paper 002, Tables 2 to 4: what each module adds to ResNet18's 11.17 M, in two readings
        ("se", {"bias": False}, 87_040),  # 11.26
        ("cbam", {}, 87_824),  # 11.26
        ("sge", {"groups": 64}, 1_024),  # 11.17
        ("lgam", {}, 30_720),  # 11.20: 2 x 2 C x 8 a width, 32 x 960
    ],
)
def test_build_attention_adds_what_paper_002_prints(
    kind: str, options: dict[str, object], params: int
) -> None:
    added = sum(count_params(build_attention(kind, c, **options)) for c in RESNET18_WIDTHS)
    assert 2 * added == params


@pytest.mark.parametrize(
    ("channels", "kernel"),
    # log2(C) / 2 + 1 / 2: 2.5, 2.8, 3.0, 3.5, 3.8, 4.2, 4.7, 5.0; its whole part, made odd
    [(16, 3), (24, 3), (32, 3), (64, 3), (96, 3), (160, 5), (320, 5), (512, 5)],
)
def test_eca_kernel_follows_the_width(channels: int, kernel: int) -> None:
    assert eca_kernel(channels) == kernel


# Values: other people's modules with our weights


def test_squeeze_excite_agrees_with_timm() -> None:
    ours = randomised(SqueezeExcite(32, rd_ratio=8))
    theirs = SEModule(32, rd_channels=4).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = maps(2, 32, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 160])
def test_efficient_channel_attn_agrees_with_timm(channels: int) -> None:
    ours = randomised(EfficientChannelAttn(channels))
    theirs = EcaModule(channels)
    theirs.load_state_dict(ours.state_dict())
    x = maps(2, channels, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_conv_block_attn_agrees_with_timm(bias: bool) -> None:
    ours = ConvBlockAttn(32, rd_ratio=8, bias=bias, bn=True)
    randomised(ours)
    theirs = CbamModule(32, rd_ratio=1 / 8, mlp_bias=bias).eval()
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    state["spatial.conv.conv.weight"] = ours.spatial.weight.flip(1)  # timm stacks mean, then max
    theirs.load_state_dict(state)
    x = maps(2, 32, 9, 7)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


# Values: the formulas of PAPERS.md, section 6, in numpy


def test_efficient_channel_attn_dense_is_a_full_layer() -> None:
    ours = randomised(EfficientChannelAttn(6, dense=True))
    x = maps(2, 6, 3, 4)
    w = ours.state_dict()["conv.weight"].double().numpy()[:, :, 0]
    v = x.double().numpy()
    gate = sigmoid(v.mean((2, 3)) @ w.T)
    np.testing.assert_allclose(
        ours(x).detach().numpy(), v * gate[:, :, None, None], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kernel", [3, 7])
def test_lightweight_spatial_attn_is_the_formula(kernel: int) -> None:
    ours = randomised(build_attention("lsa", 6, kernel=kernel))
    x = maps(2, 6, 5, 4)
    depthwise, pointwise = (w.double().numpy() for w in ours.state_dict().values())
    v = x.double().numpy()
    border = kernel // 2
    pooled = np.stack([v.max(1), v.mean(1)], 1)  # (N, 2, H, W)
    padded = np.pad(pooled, ((0, 0), (0, 0), (border, border), (border, border)))
    logits = np.zeros((2, 5, 4))
    for i, j in np.ndindex(5, 4):
        window = padded[:, :, i : i + kernel, j : j + kernel]
        each = (window * depthwise[:, 0]).sum((2, 3))  # (N, 2)
        logits[:, i, j] = each @ pointwise[0, :, 0, 0]
    expected = v * sigmoid(logits)[:, None]
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_lightweight_attn_is_eca_then_lsa() -> None:
    ours = randomised(build_attention("lam", 16))
    eca, lsa = build_attention("eca", 16), build_attention("lsa", 16)
    values = list(ours.state_dict().values())
    eca.load_state_dict(dict(zip(eca.state_dict(), values[:1], strict=True)))
    lsa.load_state_dict(dict(zip(lsa.state_dict(), values[1:], strict=True)))
    x = maps(2, 16, 5, 4)
    torch.testing.assert_close(ours(x), lsa(eca(x)))


def sge_by_hand(x: Array, weight: Array, bias: Array, groups: int) -> Array:
    out = np.empty_like(x)
    width = x.shape[1] // groups
    for n, g in np.ndindex(len(x), groups):
        x_g = x[n, g * width : (g + 1) * width]  # (C / G, H, W)
        t = (x_g * x_g.mean((1, 2), keepdims=True)).sum(0)  # (H, W)
        t = (t - t.mean()) / (t.std(ddof=1) + 1e-5)
        out[n, g * width : (g + 1) * width] = x_g * sigmoid(weight[g] * t + bias[g])
    return out


@pytest.mark.parametrize("groups", [1, 4])
def test_spatial_group_enhance_is_the_formula(groups: int) -> None:
    ours = SpatialGroupEnhance(8, groups=groups)
    randomised(ours)
    x = maps(2, 8, 5, 4)
    weight, bias = (w.detach().double().numpy().ravel() for w in (ours.weight, ours.bias))
    expected = sge_by_hand(x.double().numpy(), weight, bias, groups)
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_spatial_group_enhance_starts_as_a_constant_gate() -> None:
    x = maps(2, 8, 5, 4)  # w = 0, b = 1
    torch.testing.assert_close(SpatialGroupEnhance(8)(x), x * torch.sigmoid(torch.tensor(1.0)))


def lgam_by_hand(x: Array, mlps: list[list[Array]], options: dict[str, Any]) -> Array:
    """Equations (2) to (7); the options' names are those of LightGroupAttn."""

    def gate(logits: Array) -> Array:
        relu = options.get("relu_before_sigmoid", True)
        return sigmoid(np.maximum(logits, 0) if relu else logits)

    width = x.shape[1] // len(mlps)
    rungs: list[Array] = []
    for k, (w1, b1, w2, b2) in enumerate(mlps):
        u = x[:, k * width : (k + 1) * width]
        if k > 0:
            u = u + rungs[-1] if options.get("carry") == "sum" else (u + rungs[-1]) / 2
        hidden = np.maximum(u.mean((2, 3)) @ w1.T + b1, 0)  # (N, h)
        m = gate(hidden @ w2.T + b2)[:, :, None, None]  # (N, C', 1, 1)
        rungs.append(m * u + u)
    a = np.concatenate(rungs, 1)
    total = a.sum(1, keepdims=True)
    return a * gate(total if options.get("spatial_reduce") == "sum" else total / a.shape[1]) + x


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"carry": "sum", "spatial_reduce": "sum"},  # the paper's text
        {"carry": "sum", "spatial_reduce": "sum", "relu_before_sigmoid": False},
        {"groups": 2, "bias": True},
    ],
)
def test_light_group_attn_is_the_formula(options: dict[str, Any]) -> None:
    ours = LightGroupAttn(16, **options)
    randomised(ours)
    mlps: list[list[Array]] = []
    for mlp in ours.mlps:
        weights: list[Array] = []
        for conv in mlp.modules():
            if isinstance(conv, nn.Conv2d):
                w = conv.weight.detach().double().numpy()[:, :, 0, 0]
                bias = np.zeros(len(w)) if conv.bias is None else conv.bias.detach().numpy()
                weights += [w, bias]
        mlps.append(weights)
    x = maps(2, 16, 5, 4)
    expected = lgam_by_hand(x.double().numpy(), mlps, options)
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_light_group_attn_normalises_before_the_gate() -> None:
    # Batch norm without scale and shift: in training, each channel's logit over the batch has
    # mean 0 and spread 1 before the gate; in eval mode of a fresh module it changes nothing.
    plain, normed = (LightGroupAttn(8, groups=1, bn=bn, hidden_min=4) for bn in (False, True))
    normed.load_state_dict(plain.state_dict(), strict=False)
    x = maps(6, 8, 3, 3)
    torch.testing.assert_close(plain(x), normed.eval()(x), rtol=1e-4, atol=1e-4)
    logits: list[Tensor] = []
    normed.train().mlps[0].register_forward_hook(lambda _, __, y: logits.append(y))
    normed(x * 100)
    spread = logits[0].std(0, correction=0)
    torch.testing.assert_close(logits[0].mean(0), torch.zeros_like(spread), rtol=0, atol=1e-5)
    assert (spread < 1 + 1e-4).all()


# Growth of LGAM's ladder. Gates are constant over a map, and 1 + M lies in [1.5, 2). Let the groups
# of the input be uncorrelated with mean square 1. Rung k is sum_j P_jk x_j, with P_jk the product
# of the factors f from rung j to rung k, so that its mean square is sum_j P_jk^2. The spatial gate
# multiplies by 0.5 to 1, and the input is added: rms in [lowest / 2 - 1, highest + 1].


def ladder_rms(groups: int, first: float, factor: float) -> float:
    """Rms over all rungs where every rung multiplies by `factor`, and the first by `first`."""
    square, squares = 0.0, []
    for k in range(groups):
        square = first**2 if k == 0 else factor**2 * (square + 1)
        squares.append(square)
    return float(np.sqrt(np.mean(squares)))


def uncorrelated(groups: int) -> Tensor:
    """One channel a group, (1, G, 16, 16), each of mean square 1 and all orthogonal."""
    q, _ = torch.linalg.qr(maps(256, groups).double())
    pictures: Tensor = (q.T * 16).reshape(1, groups, 16, 16).float()
    return pictures


@pytest.mark.parametrize("groups", [1, 4, 8, 32])
def test_light_group_attn_sum_grows_by_its_factor(groups: int) -> None:
    x = uncorrelated(groups)
    y = LightGroupAttn(groups, groups=groups, carry="sum", spatial_reduce="sum")(x)
    low, high = ladder_rms(groups, 1.5, 1.5), ladder_rms(groups, 2, 2)
    assert low / 2 - 1 <= rms(y) <= high + 1


def test_light_group_attn_sum_multiplies_what_enters_below() -> None:
    # Only the first of four groups has a value: rung k holds it times 1.5^k to 2^k, and the
    # spatial gate keeps at least half.
    x = torch.zeros(1, 4, 6, 6)
    x[:, 0] = maps(6, 6)
    y = LightGroupAttn(4, groups=4, carry="sum", spatial_reduce="sum")(x)
    for k in (2, 3, 4):
        ratio = (y[:, k - 1] / x[:, 0]).flatten()
        assert (ratio >= 0.5 * 1.5**k - 1e-4).all()
        assert (ratio <= 2**k + 1e-4).all()


@pytest.mark.parametrize("groups", [8, 32])
def test_light_group_attn_mean_stays_bounded(groups: int) -> None:
    # Half of each sum: every factor after the first is at most 1, so that mean squares add up to
    # at most k + 3. The sum's smallest growth lies far above.
    x = uncorrelated(groups)
    y = LightGroupAttn(groups, groups=groups)(x)
    bound = ladder_rms(groups, 2, 1) + 1  # 3.7 for 8 groups, 5.4 for 32
    assert rms(y) <= bound < ladder_rms(groups, 1.5, 1.5) / 2 - 1

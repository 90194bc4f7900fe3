"""Attention modules: the contract over the whole registry, and each formula on its own."""

import inspect
import io
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.global_context import GlobalContext as TimmGlobalContext
from timm.layers.non_local_attn import NonLocalAttn as TimmNonLocalAttn
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from nasattn.attention import ATTENTIONS, build_attention
from nasattn.attention.bam import BottleneckAttn
from nasattn.attention.cbam import ConvBlockAttn
from nasattn.attention.eca import EfficientChannelAttn, eca_kernel
from nasattn.attention.global_context import GlobalContext
from nasattn.attention.lgam import LightGroupAttn
from nasattn.attention.non_local import NonLocalAttn
from nasattn.attention.sge import SpatialGroupEnhance
from nasattn.attention.spatial import SpatialAttn
from nasattn.attention.spatial_kernel import SpatialKernelAttn
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
    if annotation is float:
        return [value for value in (1.0, 8.0) if value != default]
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


def randomised(module: nn.Module, spread: float = 1.0) -> nn.Module:
    """Every parameter and running statistic away from its start, in eval mode.

    `spread` is that of the weights: large logits of a softmax make much of the order of sums.
    """
    torch.manual_seed(1)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.ndim > 1:
                value.normal_(std=spread)
            elif value.ndim == 1:
                value.uniform_(0.1, 1)  # a variance among them
    return module.eval()


def state(module: nn.Module) -> dict[str, Array]:
    """Parameters and running statistics by name, for numpy."""
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def convolve(x: Array, weight: Array, dilation: int = 1) -> Array:
    """Same-size convolution: (N, C, H, W) with (O, C, k, k) -> (N, O, H, W)."""
    *_, height, width = x.shape
    k = weight.shape[-1]
    border = (0, 0), (0, 0), *2 * ((k // 2 * dilation,) * 2,)
    padded = np.pad(x, border)
    out = np.zeros((len(x), len(weight), height, width))
    for i, j in np.ndindex(k, k):
        top, left = i * dilation, j * dilation
        tap = padded[:, :, top : top + height, left : left + width]
        out += np.einsum("oc,nchw->nohw", weight[:, :, i, j], tap)
    return out


def normalise(x: Array, weights: dict[str, Array], name: str) -> Array:
    """Batch norm `name` in eval mode of (N, C, ...)."""
    mean, var, scale, shift = (
        weights[f"{name}.{part}"].reshape(-1, *(1,) * (x.ndim - 2))
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray((x - mean) / np.sqrt(var + 1e-5) * scale + shift)


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


# The registry


@pytest.mark.parametrize(("kind", "options"), option_cases(), ids=case_id)
def test_attention_contract_holds(kind: str, options: dict[str, object]) -> None:
    attention_contract(lambda channels: build_attention(kind, channels, **options))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_contract_holds_away_from_the_start(kind: str) -> None:
    # Where the last layer starts at zero, the first layers show in no output yet.
    attention_contract(lambda channels: randomised(build_attention(kind, channels), 0.25))


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
        ("sg", {}, r"unknown attention 'sg'; did you mean 'sge'\?"),
        ("none", {}, "unknown attention 'none'; known: bam, cbam, eca, "),
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
        ("bam", {"combine": "max"}, "'bam': combine: must be 'add' or 'multiply', is 'max'"),
        ("bam", {"dilation": 3}, "'bam': dilation: must be 1, 2, 4 or 6, is 3"),
        ("gc", {"rd_ratio": 5000}, "'gc': rd_ratio: must be less than or equal to 4096"),
        ("spatial", {"kernel": 9}, "'spatial': kernel: must be 3, 5 or 7, is 9"),
        ("nl", {"hidden": 8}, "'nl': unknown field 'hidden'; known: bias, rd_ratio"),
        ("ska", {"gem_p": 0.5}, "'ska': gem_p: must be greater than or equal to 1, is 0.5"),
        ("ska", {"gem_p": float("nan")}, "'ska': gem_p: must be less than or equal to 8, is nan"),
        (
            "ska",
            {"kernels": "3,9"},
            "'ska': kernels: must be '3', '5', '7', '3,5', '3,7' or '5,7', is '3,9'",
        ),
        ("ska", {"gate": "relu"}, "'ska': gate: must be 'sigmoid' or 'none', is 'relu'"),
        ("ska", {"groups": 3}, "'ska': 3 groups do not divide 16"),
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
        # BAM: weights 3 C h + h + 18 h^2 (depthwise 18 h), biases 4 h + C + 1, batch norms 8 h
        ("bam", 64, {}, 3 * 64 * 4 + 18 * 4 * 4 + 64 + 13 * 4 + 1),
        ("bam", 64, {"combine": "multiply", "dilation": 1}, 768 + 288 + 64 + 52 + 1),
        ("bam", 64, {"depthwise": True}, 3 * 64 * 4 + 18 * 4 + 64 + 13 * 4 + 1),
        ("bam", 64, {"rd_ratio": 8}, 3 * 64 * 8 + 18 * 8 * 8 + 64 + 13 * 8 + 1),
        # GC: key C + 1, 2 C h, biases h + C, layer norm 2 h; h = C / r, at least 2
        ("gc", 64, {}, 64 + 1 + 2 * 64 * 4 + 4 + 64 + 2 * 4),
        ("gc", 16, {}, 16 + 1 + 2 * 16 * 2 + 2 + 16 + 2 * 2),
        # Spatial: 2 k^2, bias 1: paper 004's listing has 99
        ("spatial", 64, {}, 99),
        ("spatial", 64, {"bias": False}, 98),
        ("spatial", 64, {"kernel": 3}, 18 + 1),
        # Non-local: 4 C d, biases 3 d + C; with d = C / 2 that is 2 C^2 + 2.5 C
        ("nl", 256, {}, 2 * 256 * 256 + 640),
        ("nl", 64, {"bias": False}, 2 * 64 * 64),
        ("nl", 64, {"rd_ratio": 8}, 4 * 64 * 8 + 3 * 8 + 64),
        # SKA: 3 ka^2 + 3 kb^2 a group; squeeze d, batch norm 2 d, select 2 d
        ("ska", 64, {}, 27 + 75 + 5 * 32),
        ("ska", 64, {"groups": 32, "hidden": 8}, 32 * (27 + 75 + 5 * 8)),
        ("ska", 64, {"kernels": "3,7"}, 27 + 147 + 5 * 32),
        ("ska", 64, {"kernels": "5,7", "gate": "none"}, 75 + 147 + 5 * 32),
        ("ska", 64, {"gem": False}, 18 + 50 + 5 * 32),
        ("ska", 64, {"kernels": "5", "groups": 2}, 2 * 75),
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
    ("widths", "options", "params"),
    [
        # The authors' module after three stages, and after all four of ResNet18
        (RESNET18_WIDTHS[:3], {}, 22_991),
        (RESNET18_WIDTHS, {}, 91_504),
        # Paper 002, Table 1: 11.24 beside 11.17
        (RESNET18_WIDTHS, {"depthwise": True}, 68_104),
    ],
)
def test_bottleneck_attn_after_each_stage_has_params(
    widths: tuple[int, ...], options: dict[str, Any], params: int
) -> None:
    assert sum(count_params(BottleneckAttn(c, **options)) for c in widths) == params


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


def test_global_context_agrees_with_timm() -> None:
    ours = randomised(GlobalContext(32, rd_ratio=8))
    theirs: Any = TimmGlobalContext(32, fuse_add=True, fuse_scale=False, rd_channels=4).eval()
    theirs.mlp_add.norm.eps = 1e-5  # of GCNet's own code and torch; timm's is 1e-6
    values = ours.state_dict().values()
    pairs = zip(theirs.state_dict().items(), values, strict=True)
    theirs.load_state_dict({name: value.view_as(like) for (name, like), value in pairs})
    x = maps(2, 32, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rd_ratio", [2, 4])
def test_non_local_attn_agrees_with_timm(rd_ratio: int, bias: bool) -> None:
    ours = NonLocalAttn(16, rd_ratio=rd_ratio, bias=bias)
    randomised(ours)
    theirs: Any = TimmNonLocalAttn(16, rd_channels=16 // rd_ratio)  # type: ignore[no-untyped-call]
    theirs.eval()  # its biases start at 0
    theirs.scale = (16 // rd_ratio) ** -0.5  # timm's is by the channels before the reduction
    theirs.norm = nn.Identity()
    names = {"theta": "t", "phi": "p", "g": "g", "expand": "z"}
    for own, name in names.items():
        getattr(theirs, name).load_state_dict(getattr(ours, own).state_dict(), strict=bias)
    x = maps(2, 16, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gc", "nl"])
def test_build_attention_starts_as_the_identity(kind: str) -> None:
    x = maps(2, 16, 5, 4)
    assert torch.equal(build_attention(kind, 16)(x), x)


# Values: the formulas of the papers, in numpy


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"combine": "multiply"},
        {"dilation": 1, "rd_ratio": 4},
        {"depthwise": True, "dilation": 2, "combine": "multiply"},
    ],
)
def test_bottleneck_attn_is_the_formula(options: dict[str, Any]) -> None:
    ours = randomised(BottleneckAttn(32, **{"rd_ratio": 8} | options))
    x = maps(2, 32, 6, 5)
    v, w = x.double().numpy(), state(ours)

    def conv(x: Array, name: str, dilation: int = 1) -> Array:
        weight = w[f"{name}.weight"]
        if weight.shape[1] != x.shape[1]:  # depthwise: nothing from one channel to another
            weight = np.eye(len(weight))[:, :, None, None] * weight
        return convolve(x, weight, dilation) + w[f"{name}.bias"][:, None, None]

    def relu_bn(x: Array, name: str) -> Array:
        return np.maximum(normalise(x, w, name), 0)

    pooled = v.mean((2, 3), keepdims=True)
    channel = conv(relu_bn(conv(pooled, "channel.0"), "channel.1"), "channel.3")
    spatial = relu_bn(conv(v, "spatial.0"), "spatial.1")
    for i in (3, 6):
        spatial = conv(spatial, f"spatial.{i}", options.get("dilation", 4))
        spatial = relu_bn(spatial, f"spatial.{i + 1}")
    spatial = conv(spatial, "spatial.9")
    multiplies = options.get("combine") == "multiply"
    both = channel * spatial if multiplies else channel + spatial
    expected = v + v * sigmoid(both)
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "bias"), [(7, True), (5, True), (3, False)])
def test_spatial_attn_is_the_formula(kernel: int, bias: bool) -> None:
    ours = randomised(SpatialAttn(6, kernel=kernel, bias=bias))
    x = maps(2, 6, 5, 4)
    v, w = x.double().numpy(), state(ours)
    logits = convolve(np.stack([v.mean(1), v.max(1)], 1), w["conv.weight"])
    if bias:
        logits += w["conv.bias"]
    np.testing.assert_allclose(ours(x).detach().numpy(), v * sigmoid(logits), rtol=1e-5, atol=1e-5)


def ska_by_hand(x: Array, w: dict[str, Array], options: dict[str, Any]) -> Array:
    """One group after the other; the options' names are those of SpatialKernelAttn."""
    groups = options.get("groups", 1)
    width = x.shape[1] // groups
    out = np.empty_like(x)
    for g in range(groups):
        own = slice(g * width, (g + 1) * width)
        v = x[:, own]  # (N, C / G, H, W)
        p = options.get("gem_p", 3.0)
        gem = (np.maximum(v, 1e-6) ** p).mean(1) ** (1 / p)
        m = np.stack([v.mean(1), v.max(1), gem][: 3 if options.get("gem", True) else 2], 1)
        convs = [w[key][g : g + 1] for key in w if key.startswith("convs")]
        a, *others = (convolve(m, weight)[:, 0] for weight in convs)  # (N, H, W) each
        u = select_by_hand(a, others[0], w, g, groups) if others else a
        out[:, own] = v * (u if options.get("gate") == "none" else sigmoid(u))[:, None]
    return out


def select_by_hand(a: Array, b: Array, w: dict[str, Array], g: int, groups: int) -> Array:
    """The two maps of group g, (N, H, W) each, in the shares that softmax gives them."""
    d = len(w["squeeze.0.weight"]) // groups
    hidden = slice(g * d, (g + 1) * d)
    t = (a + b).mean((1, 2))  # (N,)
    z = np.zeros((len(a), groups * d))
    z[:, hidden] = t[:, None] * w["squeeze.0.weight"][hidden, 0, 0, 0]
    z = np.maximum(normalise(z, w, "squeeze.1"), 0)[:, hidden]  # (N, d)
    e = np.exp(z @ w["select.weight"][2 * g : 2 * g + 2, :, 0, 0].T)  # (N, 2)
    share_a, share_b = (e / e.sum(1, keepdims=True)).T[:, :, None, None]  # (N, 1, 1)
    weighed: Array = share_a * a + share_b * b
    return weighed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 4, "hidden": 3},
        {"groups": 2, "gem": False},
        {"groups": 2, "kernels": "5"},
        {"gem": False, "kernels": "3", "gate": "none"},
        {"groups": 2, "gem_p": 1.0, "kernels": "3,7"},
        {"groups": 2, "gem_p": 6.5, "kernels": "5,7", "gate": "none"},
    ],
)
def test_spatial_kernel_attn_is_the_formula(options: dict[str, Any]) -> None:
    ours = randomised(SpatialKernelAttn(16, **options))
    x = maps(3, 16, 6, 5)
    expected = ska_by_hand(x.double().numpy(), state(ours), options)
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_spatial_kernel_attn_keeps_small_values_at_a_high_power() -> None:
    # 1e-5^8 is no number of float32, and would leave 0 of the mean of powers. All weights are
    # positive, so that no sum cancels.
    options = {"gem_p": 8.0, "gate": "none"}
    ours = randomised(SpatialKernelAttn(4, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in ours.parameters():
            weight.abs_()
    x = maps(2, 4, 5, 4).abs() * 1e-5
    expected = ska_by_hand(x.double().numpy(), state(ours), options)
    np.testing.assert_allclose(ours(x).detach().numpy(), expected, rtol=1e-4, atol=0)


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


def spread_by_formula(
    groups: int, first: float, factor: float, mean: float, square: float
) -> float:
    """Rms of g A' + x for unit noise x, with `mean` and `square` those of the spatial gate g.

    A' = P x, where P[k, j] = factor^(k - j) times what x_j enters with: `first` into the lowest
    rung, `factor` into the others. g depends on the sign of a sum only, and so
    E[(g A')^2] = E[g^2] E[A'^2].
    """
    k, j = np.indices((groups, groups))
    enter = np.where(j == 0, first, factor)
    p = np.where(k >= j, factor ** np.maximum(k - j, 0) * enter, 0)
    squares = square * (p**2).sum(1) + 2 * mean * p.diagonal() + 1
    return float(np.sqrt(squares.mean()))


@pytest.mark.parametrize(
    ("groups", "carry", "expected"),
    [  # 3.8, 13.0 and 1.5
        # sum: each rung times 1 + 1/2; the gate of a sum of 256 channels is 1/2 or 1, half each
        (4, "sum", spread_by_formula(4, 1.5, 1.5, mean=0.75, square=0.625)),
        (8, "sum", spread_by_formula(8, 1.5, 1.5, mean=0.75, square=0.625)),
        # mean, the default: half of that from the second rung on; the gate of a mean is near 1/2
        (8, "mean", spread_by_formula(8, 1.5, 0.75, mean=0.5, square=0.25)),
    ],
)
def test_light_group_attn_spreads_unit_noise_by_the_formula(
    groups: int, carry: str, expected: float
) -> None:
    attn = LightGroupAttn(256, groups=groups, carry=carry, spatial_reduce=carry)
    for weight in attn.parameters():
        nn.init.zeros_(weight)  # M = sigmoid(0) = 1/2
    assert rms(attn(maps(8, 256, 16, 16))) == pytest.approx(expected, rel=0.02)


# Deployment


# torch's older exporter needs no further package; it says at each call that there is a newer one.
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export")
@pytest.mark.filterwarnings("ignore:The feature will be removed. Please remove usage of this")
@pytest.mark.parametrize(("kind", "options"), option_cases(), ids=case_id)
def test_build_attention_exports_to_onnx(kind: str, options: dict[str, object]) -> None:
    module = randomised(build_attention(kind, 16, **options))
    file = io.BytesIO()
    torch.onnx.export(
        module,
        (maps(2, 16, 7, 5),),
        file,  # type: ignore[arg-type]  # a path or a file, says the older exporter
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "n"}},
    )
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(file.getvalue(), full_check=True)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    x = maps(3, 16, 7, 5)
    (y,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), module(x), rtol=1e-4, atol=1e-4)

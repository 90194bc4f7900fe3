"""Counts by hand and by a public table; the latency meter on a clock that only networks move."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from nasattn.arch import parse_architecture
from nasattn.attention import ATTENTIONS, build_attention
from nasattn.baselines import BASELINES
from nasattn.cost import LatencyMeter, StaticCost, count_cost, count_macs, count_params
from nasattn.errors import EvaluationError
from nasattn.model import build_model
from tests.command import USUAL_ROUNDS
from tests.nas_bench_macro import count_network, read_table
from tests.sweep import sweep

# Parameters


def test_count_params_counts_frozen_ones_and_no_buffers() -> None:
    # conv 3 x 8 x 3 x 3 and 8 biases, batch norm 2 x 8; its running mean and variance are buffers
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    net[0].requires_grad_(False)
    assert count_params(net) == 216 + 8 + 16


def test_count_params_counts_a_shared_parameter_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_params(nn.Sequential(layer, nn.ReLU(), layer)) == 16 + 4


# Multiply-adds


class SelfAttention(nn.Module):
    """nn.MultiheadAttention over the pixels of (N, C, H, W)."""

    def __init__(self, channels: int, *, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, num_heads=2, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)  # (N, H W, C)
        y: Tensor = self.attention(t, t, t, need_weights=self.need_weights)[0]
        return y


class FusedAttention(nn.Module):
    """The same product by torch's fused function, without a projection of its result."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, 3 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        t = self.project(x.flatten(2).transpose(1, 2))  # (N, H W, 3 C)
        q, k, v = t.unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)  # (N, 2, H W, C / 2)
        return scaled_dot_product_attention(q, k, v)


# 16 pixels of 8 channels: the product of queries and keys, and that of weights and values
PRODUCTS = 2 * 16 * 16 * 8


@pytest.mark.parametrize(
    ("model", "resolution", "in_chs", "macs"),
    [
        # weights of the window x output pixels; a bias costs nothing
        (nn.Conv2d(3, 8, 3, padding=1), 10, 3, 3 * 9 * 8 * 100),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 9, 3, 3 * 9 * 8 * 25),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), 8, 6, 25 * 6 * 64),  # depthwise
        (nn.Conv2d(8, 12, 3, padding=1, groups=4), 6, 8, (8 // 4) * 9 * 12 * 36),  # grouped
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5)), 4, 3, 48 * 5),
        (SelfAttention(8, need_weights=True), 4, 8, 4 * 8 * 8 * 16 + PRODUCTS),
        (SelfAttention(8, need_weights=False), 4, 8, 4 * 8 * 8 * 16 + PRODUCTS),
        (FusedAttention(8), 4, 8, 3 * 8 * 8 * 16 + PRODUCTS),
        # pooling, normalisation, activations and sums are free
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()), 5, 3, 3 * 4 * 25),
        # SE: 16 -> 4 -> 16 on a pooled map; LSA: two 7x7 maps, then one of both
        (build_attention("se", 16, rd_ratio=4), 9, 16, 16 * 4 + 4 * 16),
        (build_attention("lsa", 16), 5, 16, (2 * 49 + 2) * 25),
    ],
)
def test_count_macs_is_the_formula(
    model: nn.Module, resolution: int, in_chs: int, macs: int
) -> None:
    assert count_macs(model, resolution, in_chs) == macs


def test_count_macs_of_a_whole_network() -> None:
    arch = parse_architecture(
        {
            "stem": {"width": 8},  # 3x3, stride 2
            "stages": [{"depth": 2, "width": 12, "expansion": 2, "stride": 2}],
            "head": {"conv_width": 20, "hidden": 30},
        }
    )
    stem = 27 * 8 * 8**2  # 16 -> 8 pixels
    first = 8 * 16 * 8**2 + 9 * 16 * 4**2 + 16 * 12 * 4**2  # the stride is in the depthwise one
    second = (12 * 24 + 9 * 24 + 24 * 12) * 4**2
    head = 12 * 20 * 4**2 + 20 * 30 + 30 * 5
    assert count_macs(build_model(arch, num_classes=5), 16) == stem + first + second + head


@pytest.mark.parametrize("training", [True, False])
def test_count_macs_restores_the_mode(training: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train(training)
    count_macs(net, 5)
    assert [part.training for part in net.modules()] == [training] * 3


def test_count_macs_restores_the_mode_of_every_part() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    net[1].eval()  # frozen statistics
    count_macs(net, 5)
    assert [part.training for part in net.modules()] == [True, True, False]


def test_count_macs_leaves_statistics_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count_macs(net, 5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_count_macs_works_without_parameters() -> None:
    assert count_macs(nn.AvgPool2d(2), 8) == 0


def test_count_cost_has_every_figure() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))  # 12 weights, 4 + 2 x 4 others
    assert count_cost(net, 5) == StaticCost(params=24, macs=300, max_macs=300, uncounted=())


# What has no rule is listed, what is free or made of what has rules is not


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@torch.library.custom_op("nasattn_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def deformed(x: Tensor) -> Tensor:
    y: Tensor = deform_conv2d(x, x.new_zeros(1, 2, 8, 8), x.new_zeros(4, 3, 1, 1))
    return y


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("function", "uncounted"),
    [
        (deformed, ("torchvision.deform_conv2d",)),
        (lambda x: torch.cdist(x, x), ("aten._cdist_forward",)),
        (lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, ("aten._fft_c2c",)),
        (lambda x: torch.fft.rfft(x).real, ("aten._fft_r2c",)),
        (twice, ("nasattn_tests.twice",)),
        (lambda x: x @ x[0, 0, 0], ("aten.mv",)),
        (lambda x: torch.dot(x[0, 0, 0], x[0, 0, 0]), ("aten.dot",)),
        (lambda x: torch.linalg.svdvals(x), ("aten._linalg_svd",)),
        (lambda x: torch.cdist(twice(x), x), ("aten._cdist_forward", "nasattn_tests.twice")),
    ],
)
def test_count_cost_lists_what_it_cannot_count(
    function: Callable[[Tensor], Tensor], uncounted: tuple[str, ...], device: str
) -> None:
    cost = count_cost(on_device(Call(function), device), 8)
    assert (cost.macs, cost.uncounted) == (0, uncounted)


def on_device(model: nn.Module, device: str) -> nn.Module:
    """The network where its first parameter tells the counter to be; it gets one if need be."""
    model.register_parameter("place", nn.Parameter(torch.empty(0)))
    return model.to(device)


def test_count_cost_counts_the_rest_beside_what_it_lists() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), Call(lambda x: torch.cdist(x, x)))
    assert count_cost(net, 5) == StaticCost(12, 300, 300, ("aten._cdist_forward",))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("function", "macs"),
    [
        # 3 channels of 8 x 8: products of 8 x 8 matrices
        (lambda x: torch.einsum("nchk,nckw->nchw", x, x), 3 * 8**3),
        (lambda x: x @ x.mT, 3 * 8**3),
        (lambda x: torch.linalg.multi_dot([x[0, 0], x[0, 1], x[0, 2]]), 2 * 8**3),
        (lambda x: scaled_dot_product_attention(x, x, x, is_causal=True), 2 * 3 * 8**3),
        (lambda x: F.conv_transpose2d(x, x.new_zeros(3, 2, 2, 2), stride=2), 3 * 2 * 4 * 64),
        (lambda x: F.conv1d(x[:, 0], x.new_zeros(5, 8, 3)), 5 * 8 * 3 * 6),
        # free: pooling, normalisation, softmax, upsampling, indexing, random, copies, reductions
        (lambda x: F.adaptive_max_pool2d(F.max_pool2d(x, 2), 3), 0),
        (lambda x: F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 3), 0),
        (lambda x: F.layer_norm(F.group_norm(F.instance_norm(x), 3), [8]), 0),
        (lambda x: F.local_response_norm(F.normalize(x), 5), 0),
        (lambda x: F.softmax(x.flatten(2), -1) * F.log_softmax(x.flatten(2), -1), 0),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 0),
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), 0),
        (lambda x: F.pixel_unshuffle(F.channel_shuffle(x, 3), 2), 0),
        (lambda x: F.pad(F.unfold(x, 3), (1, 1)), 0),
        (lambda x: x.clone().squeeze_(0).transpose_(0, 1).as_strided_((1, 3, 64), (0, 1, 3)), 0),
        (lambda x: x[:, torch.tensor([2, 0], device=x.device)].roll(1, 2).flip(3), 0),
        (lambda x: F.dropout(x, 0.5) + torch.rand_like(x) + torch.zeros_like(x).bernoulli_(), 0),
        (lambda x: x.mean((2, 3)) + x.std((2, 3)) + x.amax((2, 3)).sort().values.cumsum(1), 0),
        (lambda x: F.mish(F.hardswish(F.gelu(F.silu(F.relu6(x))))).double().clone(), 0),
        (lambda x: F.cosine_similarity(x, x.contiguous(memory_format=torch.channels_last)), 0),
    ],
)
def test_count_cost_leaves_nothing_uncounted(
    function: Callable[[Tensor], Tensor], macs: int, device: str
) -> None:
    cost = count_cost(on_device(Call(function), device), 8)
    assert (cost.macs, cost.uncounted) == (macs, ())


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_count_cost_counts_every_attention(kind: str) -> None:
    model = build_attention(kind, 64).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, 64, 6, 6))
    cost = count_cost(model, 6, 64)
    assert (2 * cost.macs, cost.uncounted) == (counter.get_total_flops(), ())


@pytest.mark.parametrize("name", sweep(BASELINES))
def test_count_cost_counts_every_baseline(name: str) -> None:
    with torch.device("meta"):
        model = build_model(BASELINES[name].architecture, num_classes=10)
    cost = count_cost(model, 224)
    assert cost.uncounted == ()
    assert 0 < cost.macs <= cost.max_macs


# Parts that run for some pictures only


class Gated(nn.Module):
    """x + body(x) where a gate (4 multiply-adds) is above 0, which it is for no picture."""

    def __init__(self, run_share: object, body: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1)
        self.body = body
        self.run_share = run_share
        self.run_all = False

    def forward(self, x: Tensor) -> Tensor:
        score = self.gate(x.mean((2, 3)))
        if self.run_all or score.item() > 0:
            x = x + self.body(x)
        return x


def conv(kernel: int = 1) -> nn.Module:
    """16 k^2 multiply-adds a pixel."""
    return nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False)


PIXELS = 5 * 5


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("model", "macs", "max_macs"),
    [
        (Gated(0.25, conv()), 4 + 0.25 * 16 * PIXELS, 4 + 16 * PIXELS),
        (Gated(1, conv()), 4 + 16 * PIXELS, 4 + 16 * PIXELS),
        (Gated(1e-9, conv()), 4, 4 + 16 * PIXELS),
        (
            nn.Sequential(conv(), Gated(0.75, conv(3)), Gated(0.5, conv()), conv()),
            8 + (2 + 0.75 * 9 + 0.5) * 16 * PIXELS,
            8 + (2 + 9 + 1) * 16 * PIXELS,
        ),
        # a part inside a body: half of a fifth of the pictures
        (
            Gated(0.2, nn.Sequential(conv(3), Gated(0.5, conv()), conv())),
            4 + 0.2 * (4 + 10 * 16 * PIXELS) + 0.1 * 16 * PIXELS,
            8 + 11 * 16 * PIXELS,
        ),
    ],
)
def test_count_cost_is_the_mean_over_pictures(
    model: nn.Module, macs: float, max_macs: int, device: str
) -> None:
    cost = count_cost(copy.deepcopy(model).to(device), 5, 4)
    assert (cost.macs, cost.max_macs) == (round(macs), max_macs)


def test_count_cost_takes_blocks_that_run_for_some_pictures() -> None:
    arch = parse_architecture(
        {
            "stem": {"width": 8},
            "stages": [{"depth": 3, "width": 12, "expansion": 2, "stride": 2, "run_share": 0.25}],
        }
    )
    stem = 27 * 8 * 8**2  # 16 -> 8 pixels
    first = 8 * 16 * 8**2 + 9 * 16 * 4**2 + 16 * 12 * 4**2  # without a shortcut: always runs
    other = (12 * 24 + 9 * 24 + 24 * 12) * 4**2
    rest = stem + first + 2 * 12 + 12 * 5  # two gates that score 12 channels; the classifier
    cost = count_cost(build_model(arch, num_classes=5), 16)
    assert (cost.macs, cost.max_macs) == (rest + 2 * other // 4, rest + 2 * other)
    assert cost.uncounted == ()


def test_count_cost_of_a_body_that_runs_twice_is_the_mean_of_both() -> None:
    body = conv()
    part = Gated(0.25, nn.Sequential(body, body))
    assert count_cost(part, 5, 4).macs == 4 + 0.25 * 2 * 16 * PIXELS


@pytest.mark.parametrize(("channels", "fails"), [(4, False), (5, True)])
def test_count_cost_leaves_a_conditional_part_as_it_was(channels: int, fails: bool) -> None:
    part = Gated(0.25, nn.Sequential(conv()))
    seen = []
    part.body.register_forward_hook(lambda *_: seen.append(part.run_all))
    with pytest.raises(RuntimeError) if fails else nullcontext():
        count_cost(part, 5, channels)
    assert seen == [] if fails else [True]
    assert part.run_all is False
    assert (len(part.body._forward_pre_hooks), len(part.body._forward_hooks)) == (0, 1)
    part(torch.zeros(1, 4, 5, 5))
    assert len(seen) == (not fails)  # its gate decides again


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("run_share", 0, "1.run_share: must be a number above 0, at most 1, is 0"),
        ("run_share", 1.5, "above 0, at most 1, is 1.5"),
        ("run_share", float("nan"), "above 0, at most 1, is nan"),
        ("run_share", "0.5", "above 0, at most 1, is '0.5'"),
        ("run_share", None, "above 0, at most 1, is None"),
        ("body", None, "1: a part with a run_share needs a child module 'body'"),
        ("run_all", None, "1: a part with a run_share needs a flag 'run_all'"),
    ],
)
def test_count_cost_refuses_a_conditional_part_that_is_none(
    attribute: str, value: object, message: str
) -> None:
    net = nn.Sequential(conv(), Gated(0.5, conv()))
    setattr(net[1], attribute, value)
    with pytest.raises(EvaluationError, match=message):
        count_cost(net, 5, 4)


# NAS-Bench-Macro: a public table of params and multiply-adds. All of it: benchmarks/

MACRO = Path(__file__).parents[2] / "shared" / "data" / "nas" / "nas_bench_macro_cifar10.parquet"


@pytest.mark.slow
@pytest.mark.skipif(not MACRO.exists(), reason="needs ../shared/data/nas")
def test_count_cost_equals_nas_bench_macro() -> None:
    table = read_table(MACRO)
    named = ["00000000", "11111111", "22222222", "22212202", "20000000", "00000002", "12012012"]
    extreme = [table[column].agg(["idxmin", "idxmax"]) for column in ("params", "flops")]
    codes = {*named, *pd.concat(extreme), *table.index[::200]}
    counted = {code: count_network(code) for code in codes}
    assert len(codes) >= 35
    for code, cost in counted.items():
        row = table.loc[code]
        assert cost == StaticCost(row["params"], row["flops"], row["flops"]), code


# Latency


class Clock:
    """A clock that stands still but for what networks add to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Timed(nn.Module):
    """A network whose n-th call takes the n-th of `times` (ms, over and over), and keeps notes."""

    def __init__(self, clock: Clock, name: str, times: list[float], notes: list[str]) -> None:
        super().__init__()
        self.clock, self.name, self.times, self.notes = clock, name, times, notes
        self.calls = 0
        self.facts: set[tuple[object, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.clock.seconds += self.times[self.calls % len(self.times)] / 1000
        self.calls += 1
        self.notes.append(self.name)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        inference = torch.is_inference_mode_enabled()
        threads = torch.get_num_threads()
        self.facts.add((tuple(x.shape), self.training, channels_last, inference, threads))
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nasattn.cost.latency.time", SimpleNamespace(perf_counter=clock))
    return clock


def test_measure_keeps_the_protocol(clock: Clock) -> None:
    threads = torch.get_num_threads() + 1
    own, reference = Timed(clock, "", [1], []).train(), Timed(clock, "", [1], []).train()
    LatencyMeter(reference, 8, in_chs=2, rounds=3, threads=threads).measure(own)
    # one picture, eval mode, channels last, inference mode, the meter's threads
    assert own.facts == reference.facts == {((1, 2, 8, 8), False, True, True, threads)}


def test_measure_of_a_real_network_is_consistent() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    latency = LatencyMeter(nn.Conv2d(3, 4, 3), 8, rounds=5).measure(net)
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
    assert latency.relative > 0
    assert latency.reference_ms > 0
    assert (latency.n, latency.threads, latency.device) == (5, 1, "cpu")
    assert torch.__version__ in latency.runtime


def test_measure_takes_four_loads_where_nothing_is_said() -> None:
    net = nn.Conv2d(3, 4, 3)
    assert LatencyMeter(net, 8, rounds=USUAL_ROUNDS).measure(net).n == USUAL_ROUNDS == 80
    effort = LatencyMeter(net, 8, rounds=USUAL_ROUNDS).effort
    assert (effort.rounds, effort.least, effort.most) == (20, 4, 4)


def test_measure_restores_the_threads() -> None:
    before = torch.get_num_threads()
    meter = LatencyMeter(nn.Conv2d(3, 4, 3), 8, rounds=2, threads=before + 1)
    meter.measure(nn.Conv2d(3, 4, 3))
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="channels"):
        meter.measure(nn.Conv2d(5, 4, 3))
    assert torch.get_num_threads() == before

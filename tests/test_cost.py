"""Counts by hand; the latency meter on a clock that only the networks move."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nasattn.arch import parse_architecture
from nasattn.attention import build_attention
from nasattn.cost import LatencyMeter, count_macs, count_params
from nasattn.model import build_model

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


def test_measure_times_the_second_of_two_calls_in_turn(clock: Clock) -> None:
    notes: list[str] = []
    reference = Timed(clock, "reference", [50, 2], notes)  # the first, untimed call is slow
    meter = LatencyMeter(reference, 8, rounds=4)
    latency = meter.measure(Timed(clock, "own", [70, 6], notes))
    assert notes == ["reference", "reference", "own", "own"] * 4
    assert latency.median_ms == pytest.approx(6)
    assert latency.reference_ms == pytest.approx(2)
    assert latency.relative == pytest.approx(3)
    assert latency.n == 4


def test_measure_gives_percentiles_and_their_ratio(clock: Clock) -> None:
    # Timed calls of 0 .. 10 ms in some order: percentiles 10, 50, 90 are 1, 5, 9. The reference
    # takes 10 ms more: 11, 15, 19.
    order = [3, 7, 0, 10, 5, 1, 9, 2, 8, 4, 6]
    own = [t for ms in order for t in (0.0, float(ms))]
    slow = [t for ms in order for t in (0.0, ms + 10.0)]
    meter = LatencyMeter(Timed(clock, "", slow, []), 8, rounds=11)
    latency = meter.measure(Timed(clock, "", own, []))
    found = [latency.p10_ms, latency.median_ms, latency.p90_ms]
    assert found == pytest.approx([1, 5, 9])
    assert latency.reference_ms == pytest.approx(15)
    assert latency.relative == pytest.approx(1 / 11)


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


def test_measure_restores_the_threads() -> None:
    before = torch.get_num_threads()
    meter = LatencyMeter(nn.Conv2d(3, 4, 3), 8, rounds=2, threads=before + 1)
    meter.measure(nn.Conv2d(3, 4, 3))
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="channels"):
        meter.measure(nn.Conv2d(5, 4, 3))
    assert torch.get_num_threads() == before

"""Bytes and times at the roof by hand; layers timed on a clock that only they move."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.cost import count_cost, peak
from nasattn.cost.layer_times import LayerTimes, everything_runs, time_layers
from nasattn.cost.layers import count_layers
from nasattn.cost.peak import Peak, Sizes, Speed, measure_peak
from nasattn.cost.roofline import Roofline, measure_roofline, put_under, sum_up
from nasattn.cost.traffic import SORTS, Work, count_work, sort_of
from nasattn.model import build_model
from nasattn.zoo import ZOO

# Work: multiply-adds and bytes


class Call(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Shortcut(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


MAP = 3 * 8 * 8  # the numbers of a picture of 3 channels


@pytest.mark.parametrize(
    ("model", "floats"),
    [
        # read: the map, 3x3 weights of 3 to 5 channels, 5 biases; written: 5 maps of 6 x 6
        (nn.Conv2d(3, 5, 3), MAP + 9 * 15 + 5 + 5 * 36),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), MAP + 27 + MAP),
        (nn.Linear(8, 2, bias=False), MAP + 16 + 3 * 8 * 2),
        # weight, bias, mean and variance of 3 channels
        (nn.BatchNorm2d(3), MAP + 4 * 3 + MAP),
        (nn.ReLU(), 2 * MAP),
        (nn.ReLU(inplace=True), 2 * MAP),
        (nn.AdaptiveAvgPool2d(1), MAP + 3),
        (Call(lambda x: x * x), 2 * MAP),  # the same tensor is read once
        (Call(lambda x: torch.cat([x, x + 1])), 2 * MAP + 2 * MAP + 2 * MAP),
        # a function that no rule counts
        (Call(lambda x: torch.cdist(x, x)), MAP + MAP),
        # views and what need not run
        (nn.Flatten(), 0),
        (nn.Identity(), 0),
        (nn.Dropout(), 0),
    ],
)
def test_count_work_counts_what_is_read_and_written_once(model: nn.Module, floats: int) -> None:
    assert [work.bytes for work in count_work(model, 8)] == [4 * floats]


def test_count_work_tells_parts_apart_and_the_sum_is_the_blocks() -> None:
    # 1x1 convolution without bias: 9 weights, 9 products a pixel
    net = nn.Sequential(Shortcut(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU()), nn.Flatten())
    shape = (3, 8, 8)
    assert count_work(net, 8) == [
        Work("(root)", "Sequential", (MAP,), 0, 0, "rest", 0),
        Work("0", "Shortcut", shape, 0, 0, "rest", 4 * 3 * MAP),  # two maps read, one written
        Work("0.body", "Sequential", shape, 0, 0, "rest", 0),
        Work("0.body.0", "Conv2d 1x1", shape, 9, 9 * 64, "1x1 conv", 4 * (2 * MAP + 9)),
        Work("0.body.1", "ReLU", shape, 0, 0, "activation", 4 * 2 * MAP),
        Work("1", "Flatten", (MAP,), 0, 0, "rest", 0),
    ]


@pytest.mark.parametrize("name", ["lam", "wrn16_10_lgam", "shufflenet_v2"])
def test_count_work_has_the_layers_of_count_layers(name: str) -> None:
    with torch.device("meta"):
        model = ZOO[name].build(10, 32)
    found = [w for w in count_work(model, 32) if w.params or w.macs]
    layers = count_layers(model, 32)
    assert [(w.name, w.kind, w.shape, w.params, w.macs) for w in found] == [
        (row.name, row.kind, row.shape, row.params, row.macs) for row in layers
    ]


@pytest.mark.parametrize(
    ("part", "sort"),
    [
        (nn.Conv2d(4, 8, 1), "1x1 conv"),
        (nn.Conv2d(1, 1, 1), "1x1 conv"),
        (nn.Conv2d(4, 8, 1, groups=2), "other conv"),
        (nn.Conv2d(4, 8, (1, 3)), "other conv"),
        (nn.Conv2d(1, 8, 3), "other conv"),
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise conv"),
        (nn.Conv1d(4, 4, 1, groups=4), "depthwise conv"),
        (nn.ConvTranspose2d(4, 4, 2), "other conv"),
        (nn.Linear(4, 4), "linear"),
        (nn.BatchNorm2d(4), "norm"),
        (nn.GroupNorm(2, 4), "norm"),
        (nn.LayerNorm(4), "norm"),
        (nn.LocalResponseNorm(5), "norm"),
        (nn.ReLU6(), "activation"),
        (nn.Hardswish(), "activation"),
        (nn.Softmax(1), "activation"),
        (nn.MultiheadAttention(4, 2), "rest"),
        (nn.Sequential(nn.ReLU()), "rest"),
        (nn.MaxPool2d(2), "rest"),
    ],
)
def test_sort_of_a_part(part: nn.Module, sort: str) -> None:
    assert sort_of(part) == sort
    assert sort in SORTS


# Times of layers


class Clock:
    """A clock that stands still but for what parts add to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow(nn.Module):
    """Its n-th call takes the n-th of `times` (ms, over and over) besides what its children do."""

    def __init__(self, clock: Clock, times: list[float], *children: nn.Module) -> None:
        super().__init__()
        self.clock, self.times, self.calls = clock, times, 0
        self.inner = nn.ModuleList(children)
        self.facts: set[tuple[object, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        took = self.times[self.calls % len(self.times)] / 1000
        self.calls += 1
        self.clock.seconds += 0.75 * took
        for child in self.inner:
            x = child(x)
        self.clock.seconds += 0.25 * took  # after the children, like a sum
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        inference = torch.is_inference_mode_enabled()
        threads = torch.get_num_threads()
        self.facts.add((tuple(x.shape), self.training, channels_last, inference, threads))
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("nasattn.cost.layer_times.time", SimpleNamespace(perf_counter=clock))
    return clock


def test_time_layers_gives_each_part_its_own_time(clock: Clock) -> None:
    leaf, twice = Slow(clock, [3]), Slow(clock, [1])
    net = Slow(clock, [8], Slow(clock, [4], leaf, twice), twice)
    times = time_layers(net, 8, rounds=3)
    # `inner` is a list that is never called; what is called twice stands where it first is
    wanted = {"(root)": 8, "inner": 0, "inner.0": 4, "inner.0.inner": 0}
    wanted |= {"inner.0.inner.0": 3, "inner.0.inner.0.inner": 0}
    wanted |= {"inner.0.inner.1": 2, "inner.0.inner.1.inner": 0}
    assert times.own_ms == pytest.approx(wanted)
    assert times.whole_ms == pytest.approx(8 + 4 + 3 + 2)
    assert times.sum_ms == pytest.approx(times.whole_ms)
    assert times.overhead == pytest.approx(0)


def test_time_layers_times_the_second_of_two_calls_without_and_with_hooks(clock: Clock) -> None:
    # a round: untimed, whole, untimed, parts
    times = time_layers(Slow(clock, [100, 5, 200, 6]), 8, rounds=4)
    assert times.whole_ms == pytest.approx(5)
    assert times.own_ms["(root)"] == pytest.approx(6)
    assert times.overhead == pytest.approx(0.2)
    assert times.n == 4


def test_time_layers_gives_10th_percentiles(clock: Clock) -> None:
    # 0 .. 10 ms in some order for the parts: 1; 20 .. 30 ms for the whole: 21
    order = [3, 7, 0, 10, 5, 1, 9, 2, 8, 4, 6]
    calls = [ms for own in order for ms in (0.0, 20.0 + own, 0.0, float(own))]
    times = time_layers(Slow(clock, calls), 8, rounds=11)
    assert times.own_ms["(root)"] == pytest.approx(1)
    assert times.whole_ms == pytest.approx(21)


def test_time_layers_leaves_out_what_the_hooks_take(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by 1 ms whenever it is read: a span takes that of its end."""

    def read() -> float:
        clock.seconds += 0.001
        return clock.seconds

    monkeypatch.setattr("nasattn.cost.layer_times.time", SimpleNamespace(perf_counter=read))
    times = time_layers(Slow(clock, [5], Slow(clock, [3])), 8, rounds=2)
    assert times.own_ms["inner.0"] == pytest.approx(3 + 1)
    assert times.own_ms["(root)"] == pytest.approx(5 + 2)  # before and after its child


def test_time_layers_keeps_the_protocol(clock: Clock) -> None:
    before = torch.get_num_threads()
    net = Slow(clock, [1]).train()
    times = time_layers(net, 8, in_chs=2, rounds=2, threads=before + 1)
    # one picture, eval mode, channels last, inference mode, so many threads
    assert net.facts == {((1, 2, 8, 8), False, True, True, before + 1)}
    assert net.calls == 8
    assert torch.get_num_threads() == before
    assert (times.n, times.threads, times.device) == (2, before + 1, "cpu")
    assert torch.__version__ in times.runtime


def test_time_layers_of_a_real_network_is_consistent() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    times = time_layers(net, 8, rounds=3)
    assert set(times.own_ms) == {"(root)", "0", "1", "2"}
    assert min(times.own_ms.values()) > 0
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_time_layers_leaves_no_hook_behind_an_error() -> None:
    calls = []

    def fail(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) == 4:  # the one with hooks
            raise RuntimeError("broken")
        return x

    net = nn.Sequential(Call(fail))
    with pytest.raises(RuntimeError, match="broken"):
        time_layers(net, 8, rounds=1)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


SKIPS = {
    "stem": {"width": 8},
    "stages": [{"depth": 3, "width": 12, "expansion": 2, "stride": 2, "run_share": 0.25}],
}


def test_everything_runs_and_then_as_before() -> None:
    net = build_model(parse_architecture(SKIPS), num_classes=5)
    parts: list[Any] = [part for part in net.modules() if hasattr(part, "run_share")]
    assert len(parts) == 3
    parts[0].run_all = True
    with everything_runs(net):
        assert all(part.run_all for part in parts)
    assert [part.run_all for part in parts] == [True, False, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_time_layers_and_peak_on_cuda() -> None:
    with torch.device("cpu"):
        net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
    top = measure_peak(device="cuda", n=3)
    roofline = measure_roofline(net, 64, top, rounds=5)
    assert top.bytes_per_s > 0
    assert roofline.times.device == "cuda"
    assert all(row.ms > 0 for row in roofline.layers)


# The peak


def peak_of(product: float, convolution: float, copy: float) -> Peak:
    a, b, c = (Speed(x, x / 2, 10) for x in (product, convolution, copy))
    return Peak(a, b, c, runtime="torch", threads=1, device="cpu")


def test_measure_peak_divides_the_work_by_the_shortest_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = iter([[4.0, 2.0, 8.0], [1.0, 0.5, 2.0], [0.25, 0.5, 0.5]])
    monkeypatch.setattr(peak, "SIZES", {"cpu": Sizes(side=4, chs=2, map_size=3, copied=400)})
    monkeypatch.setattr(peak, "_seconds", lambda work, device, n: work() is None or next(took))
    found = measure_peak(n=3)
    assert found.product == Speed(4**3 / 2, 4**3 / 4, 3)
    assert found.convolution == Speed(9 * 2 * 2 * 9 / 0.5, 9 * 2 * 2 * 9 / 1, 3)
    assert found.copy == Speed(2 * 400 / 0.25, 2 * 400 / 0.5, 3)  # read and written
    assert (found.macs_per_s, found.bytes_per_s) == (648, 3200)


def test_measure_peak_calls_once_more_than_it_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    calls: list[float] = []
    monkeypatch.setattr(peak, "time", SimpleNamespace(perf_counter=clock))

    def work() -> None:
        clock.seconds += [50, 2, 3][len(calls)]
        calls.append(clock.seconds)

    assert peak._seconds(work, "cpu", 2) == [2, 3]


def test_measure_peak_restores_threads_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "SIZES", {"cpu": Sizes(side=4, chs=2, map_size=3, copied=400)})
    before = (torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision)
    found = measure_peak(threads=before[0] + 1, n=2)
    assert found.threads == before[0] + 1
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision) == before


@pytest.mark.parametrize(
    ("macs", "moved", "ms", "memory_bound"),
    [
        # 2,000 multiply-adds and 500 bytes a second: 4 a byte
        (400, 50, 200, False),  # 8 a byte: 400 / 2,000 s
        (400, 200, 400, True),  # 2 a byte: 200 / 500 s
        (400, 100, 200, False),  # at the balance
        (0, 50, 100, True),
        (0, 0, 0, False),
    ],
)
def test_roof_is_that_of_sums_or_of_bytes(
    macs: int, moved: int, ms: float, memory_bound: bool
) -> None:
    top = peak_of(product=1000, convolution=2000, copy=500)
    assert top.balance == 4
    assert top.roof_ms(macs, moved) == pytest.approx(ms)
    assert top.memory_bound(macs, moved) is memory_bound


# Networks under the roof


def work_of(name: str, sort: str, macs: int, moved: int) -> Work:
    return Work(name, "", (), 0, macs, sort, moved)


def test_roofline_sums_layers_by_sort_and_in_all() -> None:
    top = peak_of(product=1000, convolution=2000, copy=500)
    works = [
        work_of("a", "1x1 conv", 1600, 100),  # 800 ms at the roof, of sums
        work_of("b", "norm", 0, 50),  # 100 ms, of bytes
        work_of("c", "1x1 conv", 200, 150),  # 300 ms, of bytes
        work_of("d", "rest", 0, 0),  # only calls the others
    ]
    took = dict(zip("abcd", (1000.0, 50.0, 500.0, 250.0), strict=True))
    rows = tuple(put_under(top, work, took[work.name]) for work in works)
    assert [row.memory_bound for row in rows] == [False, True, True, False]
    roofline = Roofline(rows, LayerTimes(took, 1600.0, 40, "torch", 1, "cpu"), top)
    total = roofline.total
    assert (total.n, total.macs, total.bytes, total.ms) == (3, 1800, 300, 1600)
    assert total.roof_ms == pytest.approx(1200)
    assert total.memory_share == pytest.approx(400 / 1200)
    assert (total.bound, total.intensity) == ("compute", 6)
    assert total.roof_share == pytest.approx(1200 / 1600)
    sorts = roofline.by_sort()
    assert list(sorts) == ["1x1 conv", "norm", "rest"]
    assert (sorts["1x1 conv"].ms, sorts["1x1 conv"].bound) == (1500, "compute")
    assert sorts["1x1 conv"].memory_share == pytest.approx(300 / 1100)
    assert (sorts["norm"].bound, sorts["norm"].roof_share) == ("memory", 2)  # from a cache
    assert (sorts["rest"].n, sorts["rest"].bound, sorts["rest"].roof_share) == (0, "", 0)
    assert sum_up((), 0.0).intensity == 0


def test_measure_roofline_counts_and_times_every_part() -> None:
    net = build_model(parse_architecture(SKIPS), num_classes=5)
    cost = count_cost(net, 16)
    roofline = measure_roofline(net, 16, peak_of(1e10, 1e10, 1e10), rounds=2)
    names = [name or "(root)" for name, _ in net.named_modules()]
    assert [row.work.name for row in roofline.layers] == names
    assert roofline.total.macs == cost.max_macs > cost.macs
    assert all(row.ms > 0 for row in roofline.layers if row.work.macs)  # skipped ones, too
    assert sum(total.macs for total in roofline.by_sort().values()) == cost.max_macs

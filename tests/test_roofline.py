"""Bytes and times at the roof by hand; layers timed on a clock that only they move."""

import json
from collections.abc import Callable
from pathlib import Path
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
from tests.command import assert_refused, nasattn

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


# Commands


@pytest.fixture
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a tiny network, 80 columns, and a peak that is found at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(peak, "SIZES", {"cpu": Sizes(side=64, chs=8, map_size=8, copied=2**20)})
    arch = parse_architecture({"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}]})
    Path("tiny.json").write_text(arch.to_json(), encoding="utf-8")
    skips = parse_architecture(SKIPS)
    Path("skips.json").write_text(skips.to_json(), encoding="utf-8")


@pytest.mark.usefixtures("_small")
def test_roofline_has_a_row_for_each_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("roofline", "tiny.json", "skips.json", "--resolution", "16", "--classes", "5")
    assert nasattn(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80
    assert [line[:2] for line in lines if line[:1] in (["tiny"], ["skips"])] == [
        ["tiny", "16"],
        ["skips", "16"],
    ]
    assert "cpu, 1 thread, float32, batch 1" in out
    assert "skips: counted and timed as for a picture that runs all parts" in out
    assert "next: nasattn roofline tiny.json --resolution 16 --classes 5\n" in out


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_roofline_of_one_network_has_a_row_for_each_sort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "roofline", "lam", "--resolution", "32") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    first = [line.rsplit(maxsplit=9)[0] for line in out.splitlines() if line.strip()]
    assert [word for word in first if word in SORTS] == list(SORTS)
    assert "the layers take" in out
    assert "next: nasattn show lam --layers --latency --resolution 32\n" in out


@pytest.mark.usefixtures("_small")
def test_roofline_as_json_has_machine_networks_and_layers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("roofline", "tiny.json", "--resolution", "16", "--classes", "5", "--json")
    assert nasattn(monkeypatch, *command) == 0
    facts = json.loads(capsys.readouterr().out)
    machine, (network,) = facts["machine"], facts["networks"]
    best = max(machine["product"]["best"], machine["convolution"]["best"])
    assert machine["macs_per_s"] == best
    assert machine["balance"] == pytest.approx(best / machine["copy"]["best"])
    # stem: 3x3 convolution of 3 channels to 8, at stride 2
    stem = next(row for row in network["layers"] if row["kind"] == "Conv2d 3x3")
    moved = 4 * (3 * 16**2 + 27 * 8 + 8 * 8**2)
    assert (stem["macs"], stem["bytes"], stem["sort"]) == (27 * 8 * 64, moved, "other conv")
    at_peak = max(stem["macs"] / best, moved / machine["bytes_per_s"])
    assert stem["roof_ms"] == pytest.approx(1000 * at_peak)
    assert stem["memory_bound"] == (stem["macs"] / moved < machine["balance"])
    total = sum(row["ms"] for row in network["layers"])
    assert network["times"]["sum_ms"] == pytest.approx(total)
    assert network["times"]["n"] == 40
    assert (network["resolution"], network["num_classes"]) == (16, 5)
    assert network["total"]["macs"] == sum(row["macs"] for row in network["layers"])


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_show_latency_has_times_and_what_is_memory_bound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("show", "mobilenet_v2", "--layers", "--latency", "--resolution", "32")
    assert nasattn(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "layer kind output macs M ms % ms"
    # 17 blocks; 10 of them end in a sum, which is the block's own, and memory-bound as norms are
    assert sum("InvertedResidual" in line and line.endswith("mem") for line in lines) == 10
    norms = [line for line in lines if "BatchNorm2d" in line]
    assert len(norms) == 52
    assert all(line.endswith(" mem") for line in norms)
    assert any(line.startswith("total 89.244 ") for line in lines)
    words = " ".join(lines)
    assert "at 32x32, 1000 classes: 3.50 M params, 89.24 M macs" in words
    assert "10th percentile of 40 rounds; torch" in words
    assert "cpu, 1 thread, float32, batch 1" in words
    assert "when they are not timed (" in words
    assert lines[-1] == "next: nasattn roofline mobilenet_v2 --resolution 32"


@pytest.mark.usefixtures("_small")
def test_show_latency_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("show", "tiny.json", "--layers", "--latency", "--resolution", "16", "--json")
    assert nasattn(monkeypatch, *command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"] == "tiny"
    assert facts["machine"]["threads"] == facts["times"]["threads"] == 1
    assert all(row["ms"] >= 0 for row in facts["layers"])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["roofline"], "Missing argument 'NETWORK...'"),
        (["roofline", "tiny.json", "mobilenet_v4"], "did you mean 'mobilenet_v2'?"),
        (["roofline", "no.json"], "no.json: cannot be read as JSON"),
        (["roofline", "lam", "--resolution", "7"], "--resolution: must be 8 to 1024, is 7"),
        (["roofline", "lam", "--classes", "0"], "--classes: must be 1 to 100000, is 0"),
        (["roofline", "lam", "--threads", "0"], "--threads: must be 1 to "),
        (["roofline", "lam", "--threads", "99999"], "this machine's processors, is 99999"),
        (["roofline", "lam", "--threads", "two"], "'two' is not a whole number"),
        (["roofline", "lam", "--device", "tpu"], "device 'tpu': cannot be used here"),
        (["roofline", "lam", "vgg19", "--resolution", "8"], "vgg19: cannot be built here"),
        (["show", "lam", "--latency"], "--latency: only with --layers"),
        (["show", "lam", "--layers", "--threads", "1"], "--threads: only with --latency"),
        (["show", "lam", "--layers", "--latency", "--threads", "99999"], "is 99999"),
        (["show", "lamm", "--layers", "--latency"], "unknown network 'lamm'"),
        (["show", "lam", "--layers", "--latency", "--resolution", "7"], "must be 8 to 1024"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(monkeypatch, capsys, arguments, message)

"""Where a forward's time goes: each part's own time, measured in the running network."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasattn.cost.latency import synchronise, use_threads
from nasattn.cost.layers import ROOT
from nasattn.runtimes.protocol import LOW, percentile

ROUNDS = 40
CYCLES_PER_MS = 2_000_000  # of a CUDA device's clock, at most


@dataclass(frozen=True)
class LayerTimes:
    """The forward times of a network's parts at batch 1, in milliseconds: 10th percentiles."""

    own_ms: Mapping[str, float]  # by name; without the children, all calls of a part together
    whole_ms: float  # of the network without hooks
    n: int
    runtime: str
    threads: int
    device: str

    @property
    def sum_ms(self) -> float:
        """Of all parts."""
        return sum(self.own_ms.values())

    @property
    def overhead(self) -> float:
        """What timing the parts adds, as a share of the network's time without it."""
        return self.sum_ms / self.whole_ms - 1


def time_layers(
    model: nn.Module,
    resolution: int,
    *,
    in_chs: int = 3,
    rounds: int = ROUNDS,
    threads: int = 1,
    device: str = "cpu",
) -> LayerTimes:
    """Where the time of one picture of `resolution` x `resolution` pixels goes, in eager torch.

    Eval mode, channels last; all parts run that may be skipped. In every round the network runs
    once without hooks and once with them, each after an untimed run. A part's own time is that
    between its start and its end less that of its children and of the hooks: the parts of a round
    add up to the whole. What runs in a forward without a module is its part's own. The model is
    left in eval mode on the device.

    On CUDA a part's time is the device's, by events, with the processor kept ahead: where the
    parts add up to less than the whole, the device waits for the processor.
    """
    model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, in_chs, resolution, resolution, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    names = {part: name or ROOT for name, part in model.named_modules()}
    own: dict[nn.Module, list[float]] = {part: [] for part in names}
    whole: list[float] = []
    with torch.inference_mode(), use_threads(threads), everything_runs(model):
        for _ in range(rounds):
            model(x)
            synchronise(device)
            start = time.perf_counter()
            model(x)
            synchronise(device)
            whole.append((time.perf_counter() - start) * 1000)
            with _stopped(model, device) as watch:
                model(x)
                watch.begin()
                model(x)
            synchronise(device)
            took = watch.own_ms()
            for part, times in own.items():
                times.append(took[part])
    return LayerTimes(
        own_ms={names[part]: percentile(times, LOW) for part, times in own.items()},
        whole_ms=percentile(whole, LOW),
        n=rounds,
        runtime=f"torch {torch.__version__} eager",
        threads=threads,
        device=device,
    )


@contextmanager
def everything_runs(model: nn.Module) -> Iterator[None]:
    """The parts that are skipped for some pictures run for all, and then as before."""
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "run_share")]
    before = [part.run_all for part in parts]
    for part in parts:
        part.run_all = True
    try:
        yield
    finally:
        for part, run_all in zip(parts, before, strict=True):
            part.run_all = run_all


class Stopwatch:
    """Stops the time whenever a part begins or ends; what the hooks take is in no span."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = torch.device(device).type == "cuda"
        self.made = time.perf_counter()
        self.running: list[nn.Module] = []
        self.spans: list[tuple[nn.Module, Any, Any]] = []  # of a part, without its children
        self.start: Any = None

    def begin(self) -> None:
        """Forget what ran so far. A CUDA device idles for so long that the next run is queued."""
        self.spans.clear()
        synchronise(self.device)
        if self.cuda:
            ms = 1000 * (time.perf_counter() - self.made)
            torch.cuda._sleep(round(2 * ms * CYCLES_PER_MS))  # type: ignore[no-untyped-call]

    def enter(self, part: nn.Module, args: Any) -> None:
        """A part begins, and the one that called it waits."""
        now = self._mark()
        if self.running:
            self.spans.append((self.running[-1], self.start, now))
        self.running.append(part)
        self.start = now if self.cuda else self._mark()

    def leave(self, part: nn.Module, args: Any, output: Any) -> None:
        """A part ends, and the one that called it goes on."""
        now = self._mark()
        self.spans.append((self.running.pop(), self.start, now))
        self.start = now if self.cuda else self._mark()

    def own_ms(self) -> dict[nn.Module, float]:
        """The spans of each part together; on CUDA the device must have finished."""
        took: dict[nn.Module, float] = defaultdict(float)
        for part, start, end in self.spans:
            took[part] += start.elapsed_time(end) if self.cuda else (end - start) * 1000
        return took

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


@contextmanager
def _stopped(model: nn.Module, device: str) -> Iterator[Stopwatch]:
    """A stopwatch on all parts."""
    watch = Stopwatch(device)
    handles = [part.register_forward_pre_hook(watch.enter) for part in model.modules()]
    handles += [part.register_forward_hook(watch.leave) for part in model.modules()]
    try:
        with torch.cuda.device(device) if watch.cuda else nullcontext():  # where events are
            yield watch
    finally:
        for handle in handles:
            handle.remove()

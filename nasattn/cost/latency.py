"""Measured latency: a network beside a reference in the same minutes, compared by ratio."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from nasattn.runtimes.protocol import HIGH, LOW, Effort, Timing, percentile, time_in_turns
from nasattn.turns import FREE, Turns

ROUNDS, BLOCK = 80, 20
OWN = "own"


@dataclass(frozen=True)
class Latency:
    """One network's forward times for a batch, in milliseconds.

    `relative` is the ratio of lower quartiles to the reference measured in the same rounds, the
    median over loads: of the estimators tried on a busy machine the one that repeats best.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    relative: float
    interval: tuple[float, float] | None  # `relative`'s, of 95 %; None for too few rounds
    n: int
    reference_ms: float  # the reference's median in the same rounds
    runtime: str
    threads: int
    device: str
    batch: int = 1
    target: str = ""  # another machine
    size_bytes: int | None = None  # of the files that the runtime reads
    peak_bytes: int | None = None  # of memory, above what the runtime takes without a network
    energy_mj: float | None = None  # millijoules a run

    @property
    def fps(self) -> float:
        """Pictures a second."""
        return 1000 * self.batch / self.median_ms

    @property
    def precision(self) -> float | None:
        """Half the interval's width, as a share of the ratio."""
        if self.interval is None:
            return None
        low, high = self.interval
        return (high - low) / 2 / self.relative


def figures_of(timing: Timing) -> dict[str, Any]:
    """What a Latency says of a timing."""
    own, reference = list(chain(*timing.own)), list(chain(*timing.reference))
    return {
        "median_ms": statistics.median(own),
        "p10_ms": percentile(own, LOW),
        "p90_ms": percentile(own, HIGH),
        "relative": timing.ratio,
        "interval": timing.interval,
        "n": len(own),
        "reference_ms": statistics.median(reference),
    }


class LatencyMeter:
    """Times networks, interleaved with a reference, in eager torch in this very process.

    Eval mode, batch 1, channels last, `threads` threads, a fixed number of rounds: the short form
    of the protocol. Nothing else of ours may run meanwhile.
    """

    def __init__(
        self,
        reference: nn.Module,
        resolution: int,
        *,
        in_chs: int = 3,
        rounds: int = ROUNDS,
        threads: int = 1,
        device: str = "cpu",
        turns: Turns = FREE,
    ) -> None:
        self.turns = turns
        self.reference = self._prepare(reference, device)
        self.x = torch.randn(1, in_chs, resolution, resolution, device=device)
        self.x = self.x.contiguous(memory_format=torch.channels_last)
        blocks = max(1, rounds // BLOCK)
        self.effort = Effort(precision=0, rounds=rounds // blocks, least=blocks, most=blocks)
        self.threads = threads
        self.device = device

    def measure(self, model: nn.Module) -> Latency:
        """The latency of `model`; it is left in eval mode on the meter's device."""
        model = self._prepare(model, self.device)
        with torch.inference_mode(), use_threads(self.threads), self.turns.measuring():
            timers = {OWN: lambda: self._time(model)}
            ((_, timing),) = time_in_turns(timers, lambda: self._time(self.reference), self.effort)
        return Latency(
            **figures_of(timing),
            runtime=f"torch {torch.__version__} eager",
            threads=self.threads,
            device=self.device,
        )

    def measure_reference(self) -> Latency:
        """The reference's own."""
        return self.measure(self.reference)

    def _time(self, model: nn.Module) -> float:
        """Milliseconds of a call."""
        start = time.perf_counter()
        model(self.x)
        synchronise(self.device)
        return (time.perf_counter() - start) * 1000

    @staticmethod
    def _prepare(model: nn.Module, device: str) -> nn.Module:
        return model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told to."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Torch's operators on `n` threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

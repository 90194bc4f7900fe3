"""Measured latency: a network beside a reference in the same minutes, compared by ratio."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Latency:
    """One network's forward times at batch 1, in milliseconds.

    `relative` is the ratio of 10th percentiles to the reference measured in the same rounds: of
    the estimators tried on busy machines, the one that repeats (medians drift with the load).
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    relative: float
    n: int
    reference_ms: float  # the reference's median in the same rounds
    runtime: str
    threads: int
    device: str


class LatencyMeter:
    """Times networks, interleaved with a reference, in eager torch: the short protocol.

    Eval mode, batch 1, channels last, `threads` threads; each timed call follows an untimed one of
    the same network, so that the caches are its own. Nothing else of ours may run meanwhile.
    """

    def __init__(
        self,
        reference: nn.Module,
        resolution: int,
        *,
        in_chs: int = 3,
        rounds: int = 80,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self.reference = self._prepare(reference, device)
        self.x = torch.randn(1, in_chs, resolution, resolution, device=device)
        self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.rounds = rounds
        self.threads = threads
        self.device = device

    def measure(self, model: nn.Module) -> Latency:
        """The latency of `model`; it is left in eval mode on the meter's device."""
        model = self._prepare(model, self.device)
        own, reference = [], []
        with torch.inference_mode(), use_threads(self.threads):
            for _ in range(self.rounds):
                reference.append(self._time(self.reference))
                own.append(self._time(model))
        low, median, high = percentiles(own)
        reference_low, reference_median, _ = percentiles(reference)
        return Latency(
            median_ms=median,
            p10_ms=low,
            p90_ms=high,
            relative=low / reference_low,
            n=self.rounds,
            reference_ms=reference_median,
            runtime=f"torch {torch.__version__} eager",
            threads=self.threads,
            device=self.device,
        )

    def _time(self, model: nn.Module) -> float:
        """Milliseconds of the second of two calls."""
        model(self.x)
        synchronise(self.device)
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


def percentiles(times: list[float]) -> tuple[float, float, float]:
    """10th, 50th and 90th percentile."""
    t: Tensor = torch.tensor(times, dtype=torch.float64)
    low, median, high = t.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return low, median, high

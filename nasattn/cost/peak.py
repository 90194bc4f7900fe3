"""What a machine reaches at its best: multiply-adds and bytes a second, measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn import functional as F

from nasattn.cost.latency import synchronise, use_threads


@dataclass(frozen=True)
class Speed:
    """How much a second, in n tries."""

    best: float
    median: float
    n: int


@dataclass(frozen=True)
class Peak:
    """What eager torch reaches in float32 on a number of threads."""

    product: Speed  # multiply-adds of large matrices
    convolution: Speed  # multiply-adds of a large 3x3 one, for which other kernels are at work
    copy: Speed  # bytes read and written, by a tensor that no cache holds
    runtime: str
    threads: int
    device: str

    @property
    def macs_per_s(self) -> float:
        """The faster of product and convolution, at its best."""
        return max(self.product.best, self.convolution.best)

    @property
    def bytes_per_s(self) -> float:
        """Of main memory, at its best."""
        return self.copy.best

    @property
    def balance(self) -> float:
        """Multiply-adds a byte of work that takes as long to compute as to move."""
        return self.macs_per_s / self.bytes_per_s

    def roof_ms(self, macs: int, moved: int) -> float:
        """The time of work at the peak: of its sums or of its `moved` bytes, whichever is longer.

        Bytes come from main memory; those that stayed in a cache can be faster.
        """
        return 1000 * max(macs / self.macs_per_s, moved / self.bytes_per_s)

    def memory_bound(self, macs: int, moved: int) -> bool:
        """Whether work has fewer multiply-adds a byte than the machine's balance."""
        return macs / self.macs_per_s < moved / self.bytes_per_s


@dataclass(frozen=True)
class Sizes:
    """How large the work is that shows a device's peak."""

    side: int  # of the square matrices
    chs: int  # into and out of the convolution
    map_size: int
    copied: int  # bytes of the tensor: far more than the caches hold


SIZES = {"cpu": Sizes(2048, 256, 28, 2**28), "cuda": Sizes(8192, 1024, 128, 2**30)}


def measure_peak(*, threads: int = 1, device: str = "cpu", n: int = 10) -> Peak:
    """The peak of a machine: each kind of work n times, after a time that does not count.

    A written cache line that is read first counts as written only. On CUDA the product has the
    precision that convolutions may have, which is TF32 by torch's default.
    """
    size = SIZES[torch.device(device).type]
    with torch.inference_mode(), use_threads(threads):
        a, b = torch.randn(2, size.side, size.side, device=device)
        product = torch.empty_like(a)
        x = torch.randn(1, size.chs, size.map_size, size.map_size, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(size.chs, size.chs, 3, 3, device=device)
        weight = weight.contiguous(memory_format=torch.channels_last)
        source = torch.ones(size.copied // 4, device=device)
        target = torch.empty_like(source)

        def speed(work: Callable[[], object], amount: int) -> Speed:
            took = _seconds(work, device, n)
            return Speed(amount / min(took), amount / median(took), n)

        with _precision_of_convolutions(device):
            products = speed(lambda: torch.mm(a, b, out=product), size.side**3)
        convolved = 9 * size.chs**2 * size.map_size**2
        return Peak(
            product=products,
            convolution=speed(lambda: F.conv2d(x, weight, padding=1), convolved),
            copy=speed(lambda: target.copy_(source), 2 * size.copied),
            runtime=f"torch {torch.__version__} eager",
            threads=threads,
            device=device,
        )


def _seconds(work: Callable[[], object], device: str, n: int) -> list[float]:
    """Of each of n calls, after one that is not timed."""
    took = []
    for _ in range(n + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        took.append(time.perf_counter() - start)
    return took[1:]


@contextmanager
def _precision_of_convolutions(device: str) -> Iterator[None]:
    """Matrix products on CUDA as exact as convolutions there, and then as before."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if torch.device(device).type == "cuda":
        convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        matmul.fp32_precision = convolutions.fp32_precision
    try:
        yield
    finally:
        matmul.fp32_precision = before

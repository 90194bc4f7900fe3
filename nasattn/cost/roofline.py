"""A network's layers under the roof of a machine: the time that its peak allows beside theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from nasattn.cost.layer_times import ROUNDS, LayerTimes, time_layers
from nasattn.cost.peak import Peak
from nasattn.cost.traffic import SORTS, Work, count_work


@dataclass(frozen=True)
class RoofedLayer:
    """A part of a network: its work, its own time, and its time at the peak."""

    work: Work
    ms: float
    roof_ms: float
    memory_bound: bool  # it has fewer multiply-adds a byte than the machine's balance


@dataclass(frozen=True)
class Total:
    """Several parts that run one after the other."""

    n: int  # those that compute or move something
    macs: int
    bytes: int
    ms: float
    roof_ms: float
    memory_share: float  # of the time at the roof: what is spent in memory-bound parts

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte."""
        return self.macs / self.bytes if self.bytes else 0.0

    @property
    def roof_share(self) -> float:
        """How much of the roof is reached: above 1 where the data came from the caches."""
        return self.roof_ms / self.ms if self.ms else 0.0

    @property
    def bound(self) -> str:
        """What most of the time at the roof goes to: memory or compute; "" where there is none."""
        if not self.roof_ms:
            return ""
        return "memory" if self.memory_share > 0.5 else "compute"


@dataclass(frozen=True)
class Roofline:
    """A network's layers in their order, and how they were measured."""

    layers: tuple[RoofedLayer, ...]
    times: LayerTimes
    peak: Peak

    @property
    def total(self) -> Total:
        """All layers; its time is the network's without hooks."""
        return sum_up(self.layers, self.times.whole_ms)

    def by_sort(self) -> dict[str, Total]:
        """The layers of each sort together, in the order of SORTS, where there are some."""
        found = {}
        for sort in SORTS:
            if rows := [row for row in self.layers if row.work.sort == sort]:
                found[sort] = sum_up(rows, sum(row.ms for row in rows))
        return found


def measure_roofline(
    model: nn.Module, resolution: int, peak: Peak, *, in_chs: int = 3, rounds: int = ROUNDS
) -> Roofline:
    """Count and time a network's layers on the threads and the device of `peak`.

    The model is on the CPU before, in eval mode on that device after.
    """
    works = count_work(model, resolution, in_chs)
    times = time_layers(
        model,
        resolution,
        in_chs=in_chs,
        rounds=rounds,
        threads=peak.threads,
        device=peak.device,
    )
    return Roofline(tuple(put_under(peak, w, times.own_ms[w.name]) for w in works), times, peak)


def put_under(peak: Peak, work: Work, ms: float) -> RoofedLayer:
    """A part that took `ms`, under the roof of a machine."""
    at_roof = peak.roof_ms(work.macs, work.bytes)
    return RoofedLayer(work, ms, at_roof, peak.memory_bound(work.macs, work.bytes))


def sum_up(rows: Sequence[RoofedLayer], ms: float) -> Total:
    """Parts together, which took `ms`."""
    at_roof = sum(row.roof_ms for row in rows)
    in_memory = sum(row.roof_ms for row in rows if row.memory_bound)
    return Total(
        n=sum(row.work.bytes > 0 for row in rows),
        macs=sum(row.work.macs for row in rows),
        bytes=sum(row.work.bytes for row in rows),
        ms=ms,
        roof_ms=at_roof,
        memory_share=in_memory / at_roof if at_roof else 0.0,
    )

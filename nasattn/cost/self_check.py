"""Whether figures repeat: the same networks measured in two processes."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from scipy.stats import kendalltau
from torch import Tensor, nn

from nasattn.cost.bench import Bench
from nasattn.cost.latency import Latency
from nasattn.errors import EvaluationError
from nasattn.runtimes.protocol import Effort
from nasattn.runtimes.spec import RuntimeSpec
from nasattn.turns import Turns

CLOSE, SHARE, TAU = 0.03, 0.95, 0.95  # what a trustworthy measurement keeps
BUSY = "while True: pass"


@dataclass(frozen=True)
class Twice:
    """Networks measured in two processes."""

    first: Mapping[str, Latency]
    second: Mapping[str, Latency]
    seconds: float  # a network, conversion and parity included

    def difference(self, name: str) -> float:
        """How far the second ratio is from the first, as a share of it."""
        return self.second[name].relative / self.first[name].relative - 1

    @property
    def n_close(self) -> int:
        return sum(abs(self.difference(name)) <= CLOSE for name in self.first)

    @property
    def tau(self) -> float:
        """Kendall's rank correlation of the two."""
        pairs = [(self.first[n].relative, self.second[n].relative) for n in self.first]
        return float(kendalltau(*zip(*pairs, strict=True)).statistic)

    @property
    def holds(self) -> bool:
        return self.n_close >= SHARE * len(self.first) and self.tau >= TAU


def measure_twice(
    models: Mapping[str, nn.Module],
    reference: nn.Module,
    pictures: Tensor,
    spec: RuntimeSpec,
    effort: Effort,
    turns: Turns,
) -> Twice:
    """Two processes, one after the other, in two orders.

    Raises EvaluationError where a network cannot be measured.
    """
    start = time.perf_counter()
    runs = []
    for seed in range(2):
        bench = Bench(spec, reference, pictures, effort=effort, seed=seed, turns=turns)
        try:
            found = {one.name: one for one in bench.measure_all(models)}
        finally:
            bench.close()
        if refused := [one for one in found.values() if one.latency is None]:
            raise EvaluationError(f"{refused[0].name}: {refused[0].reason}")
        runs.append({name: one.latency for name, one in found.items() if one.latency})
    seconds = (time.perf_counter() - start) / 2 / len(models)
    return Twice(runs[0], runs[1], seconds)


@contextmanager
def busy_core() -> Iterator[None]:
    """With a process beside that does nothing but take a core."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()

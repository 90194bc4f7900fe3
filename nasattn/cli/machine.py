"""What a command computes on: the options that say it, and the memory that there is."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from nasattn.cost import count_params
from nasattn.errors import ArchitectureError, EvaluationError, StudyError
from nasattn.evaluate import check_device, is_out_of_memory
from nasattn.runtimes.spec import HERE, RuntimeSpec
from nasattn.spec import Spec
from nasattn.turns import Turns

MOST_PARAMS = 2**31  # 8 GiB of weights, before gradients and what an optimiser keeps
# What a plug-in's module may raise on the meta device, which it need not know.
OFF_META = (RuntimeError, TypeError, ValueError)


class Machine(Spec):
    """What a training runs on."""

    device: str = "cpu"
    threads: Annotated[int, Field(gt=0, le=1024)] = 1

    def use(self) -> None:
        """Check that it can be used; sets the threads. Raises StudyError."""
        check_device(self.device)
        torch.set_num_threads(self.threads)


def check_threads(threads: int) -> int:
    """`threads` if so many processors are there to be timed; raises StudyError."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    have = len(affinity(0)) if affinity else os.cpu_count() or 1
    if not 1 <= threads <= have:
        raise StudyError(f"--threads: must be 1 to {have}, this machine's processors, is {threads}")
    return threads


def check_params(name: str, build: Callable[[], nn.Module]) -> None:
    """ArchitectureError where `build` would allocate more than MOST_PARAMS parameters.

    They are counted on the meta device, which allocates nothing; what cannot be built there is
    left to the build itself.
    """
    params = 0
    with suppress(*OFF_META), torch.device("meta"):
        params = count_params(build())
    if params > MOST_PARAMS:
        raise ArchitectureError(
            f"{name}: has {params:,} parameters; at most {MOST_PARAMS:,} can be built"
        )


@contextmanager
def plain_memory_errors(remedy: str) -> Iterator[None]:
    """Out of memory, in any of torch's words, as one line with what may mend it."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise EvaluationError(f"out of memory; {remedy}") from e


def check_here(spec: RuntimeSpec) -> None:
    """Whether a runtime can be used from here, with its threads and its device."""
    spec.check()
    if spec.target == HERE:
        check_device(spec.device)


def machine_turns(console: Console, cache_dir: Path) -> Turns:
    """This machine's turns between trainings and measurements; a wait is told."""
    words = "waiting for a training to end its epoch, to measure latency alone"
    return Turns((cache_dir / "machine.lock").absolute(), lambda: console.print(words, style="dim"))

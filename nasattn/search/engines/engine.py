"""Job and Source: what an engine runs, and where it comes from and goes to."""

import os
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nasattn.arch import Architecture
from nasattn.evaluate import Evaluation, Meter, OnEpoch, Setting
from nasattn.search.judge import Judge
from nasattn.train.loop import Epoch


@dataclass(frozen=True)
class Job:
    """One attempt to evaluate a network."""

    key: str  # of one run of an engine
    arch: Architecture
    judge: Judge | None = None  # may stop it
    seed: int | None = None  # where it is not the study's


# What is done with a job. It travels to workers by pickle; what it raises is a bug.
Work = Callable[[Job, OnEpoch], Evaluation]


class Source(Protocol):
    """Gives jobs, and takes what becomes of each: one call of `finished` or `lost` for each."""

    @property
    def is_over(self) -> bool:
        """Whether all is done."""

    def next(self) -> Job | None:
        """A job to start; None: none before another one ends, or none at all."""

    def started(self, job: Job, place: str) -> None:
        """It is being evaluated at HOST:PID."""

    def epoch(self, job: Job, epoch: Epoch) -> None: ...
    def finished(self, job: Job, evaluation: Evaluation) -> None: ...

    def lost(self, job: Job, reason: str, trace: str = "") -> None:
        """It came to no end: its worker died, hung, or met a bug, of which there is a trace."""


class Engine(Protocol):
    """Runs jobs."""

    @property
    def name(self) -> str: ...

    @property
    def n_jobs(self) -> int:
        """How many at once."""

    def run(self, source: Source, work: Work) -> None:
        """Run a source's jobs until it is over."""

    def meters(self, setting: Setting, objectives: Sequence[str]) -> Mapping[str, Meter]:
        """What measures latencies for all workers, by objective; {}: each does so itself."""


def here() -> str:
    """HOST:PID of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True)
class InlineEngine:
    """Runs one job at a time, in this very process; a bug passes through."""

    name = "inline"
    n_jobs = 1

    def run(self, source: Source, work: Work) -> None:
        while not source.is_over:
            job = source.next()
            if job is None:
                continue
            source.started(job, here())
            try:
                evaluation = work(job, lambda epoch, job=job: source.epoch(job, epoch))  # type: ignore[misc]
            except Exception as e:
                source.lost(job, f"bug: {e!r}", traceback.format_exc())
                raise
            source.finished(job, evaluation)

    def meters(self, setting: Setting, objectives: Sequence[str]) -> Mapping[str, Meter]:
        return {}


INLINE = InlineEngine()

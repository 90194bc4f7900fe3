"""Turns: trainings share a machine, a latency measurement has it to itself."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from nasattn.errors import StudyError

PATIENCE = 1.0  # seconds, before somebody is told of the wait


@dataclass(frozen=True)
class Turns:
    """One machine's turns, kept by all processes that name the same file; None: nobody waits.

    A training takes a turn an epoch, so that a measurement need not wait for its end; whoever
    waits to measure goes before the next epochs.
    """

    file: Path | None = None
    on_wait: Callable[[], None] | None = None  # called when a measurement has to wait

    @contextmanager
    def training(self) -> Iterator[None]:
        """Beside other trainings, not beside a measurement."""
        if self.file is None:
            yield
            return
        lock = self._lock()
        with self._explained():
            lock.acquire_read()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """With nothing else of ours on the machine."""
        if self.file is None:
            yield
            return
        lock = self._lock()
        with self._explained():
            try:
                lock.acquire_write(PATIENCE)
            except Timeout:
                if self.on_wait:
                    self.on_wait()
                lock.acquire_write()
        try:
            yield
        finally:
            lock.release()

    def _lock(self) -> ReadWriteLock:
        assert self.file is not None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return ReadWriteLock(self.file)
        except OSError as e:
            raise StudyError(f"{self.file}: cannot be locked ({e.strerror or e})") from e

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the lock's database raises, in one line."""
        try:
            yield
        except sqlite3.Error as e:
            raise StudyError(f"{self.file}: cannot be locked ({e})") from e


FREE = Turns()  # nobody waits for anybody

"""Ledger: estimates in a file, a line each, which a process that dies leaves whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nasattn.errors import StudyError, TransientError
from nasattn.estimate.estimator import Estimate
from nasattn.train.loop import Epoch


@dataclass(frozen=True)
class Task:
    """An estimate to make: which estimator, with which seed, of which network."""

    estimator: str
    seed: int
    arch_id: str

    def __str__(self) -> str:
        return f"{self.estimator} {self.seed} {self.arch_id}"

    @classmethod
    def read(cls, text: str) -> "Task":
        estimator, seed, arch_id = text.split()
        return cls(estimator, int(seed), arch_id)


@dataclass
class Ledger:
    """The estimates of a file; a line that was being written when the process died is dropped."""

    path: Path
    rows: dict[Task, Estimate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            data = self.path.read_bytes() if self.path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                with self.path.open("r+b") as file:
                    file.truncate(len(whole))
        except OSError as e:
            raise StudyError(f"{self.path}: cannot be read ({e.strerror or e})") from e
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                task, found = _row(json.loads(line))
            except (ValueError, TypeError, KeyError) as e:
                raise StudyError(f"{self.path}, line {number}: is no estimate") from e
            self.rows[task] = found

    def add(self, task: Task, found: Estimate) -> None:
        """Keep an estimate. Raises TransientError where the file cannot be written."""
        plain = asdict(found)
        plain = {k: plain[k] for k in ("value", "cpu_seconds", "seconds", "reason")}
        curve = [[e.loss, e.top1, e.seconds] for e in found.curve]
        line = json.dumps(asdict(task) | plain | {"curve": curve}) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise TransientError(f"{self.path}: cannot be written ({e.strerror or e})") from e
        self.rows[task] = found


def _row(cells: Mapping[str, object]) -> tuple[Task, Estimate]:
    cells = dict(cells)
    task = Task(*(cells.pop(k) for k in ("estimator", "seed", "arch_id")))  # type: ignore[arg-type]
    curve = enumerate(cells.pop("curve"), start=1)  # type: ignore[arg-type, var-annotated]
    epochs = tuple(Epoch(number, *row) for number, row in curve)
    return task, Estimate(**cells, curve=epochs)  # type: ignore[arg-type]

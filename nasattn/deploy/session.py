"""ExportedSession: an exported network's files, loaded by its runtime in a process of its own."""

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from nasattn.cost.bench import numbers
from nasattn.errors import EvaluationError
from nasattn.runtimes.process import RunnerProcess
from nasattn.runtimes.spec import RuntimeSpec

NAME = "network"


class ExportedSession:
    """Answers pictures, one at a time; a file that crashes its runtime ends that process alone.

    `files`: by the runtime's own names; `shape`: (1, 3, R, R). Raises EvaluationError where they
    cannot be loaded, here and in `logits`.
    """

    def __init__(
        self, runtime: str, files: Mapping[str, bytes], shape: list[int], threads: int = 1
    ) -> None:
        spec = RuntimeSpec(runtime=runtime, threads=threads)
        spec.check()
        self.shape = shape
        self.runner = RunnerProcess(spec)
        package = next(iter(spec.row.runs.values()))
        self.version = f"{package} {self.runner.facts['versions'][package]}"
        try:
            self.runner.tell(
                "load",
                [*files.values(), bytes(4 * math.prod(shape))],
                name=NAME,
                file=spec.row.file,
                sizes={name: len(data) for name, data in files.items()},
                shape=shape,
                threads=threads,
                device=spec.device,
            )
        except EvaluationError:
            self.close()
            raise

    def logits(self, pictures: Tensor, n_classes: int) -> Tensor:
        """(N, 3, R, R) as the network is to see them -> (N, classes)."""
        return torch.cat([self._logits_of(x, n_classes) for x in torch.split(pictures, 1)])

    def _logits_of(self, x: Tensor, n_classes: int) -> Tensor:
        answer = self.runner.tell("answer", [numbers(x)], name=NAME, shape=self.shape)
        found: list[Any] = answer["logits"]
        if len(found) != n_classes:
            raise EvaluationError(
                f"the network gives {len(found)} logits, must be {n_classes}, one a class"
            )
        logits = torch.tensor([found])
        if not logits.isfinite().all():
            raise EvaluationError("the network's outputs are not finite numbers")
        return logits

    def close(self) -> None:
        """End the process."""
        self.runner.close()

    def __enter__(self) -> "ExportedSession":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

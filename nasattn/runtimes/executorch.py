"""ExecuTorch, PyTorch's own runtime for devices, on XNNPACK's kernels."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """`model.pte`."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    logging.getLogger("executorch").setLevel(logging.ERROR)
    program = torch.export.export(model, (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)


class Session:
    """The program's `forward`."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)
        self.program = Runtime.get().load_program(folder / "model.pte")
        self.method, self.shape = self.program.load_method("forward"), shape

    def feed(self, numbers: "array[float]") -> None:
        import torch

        self.x = torch.frombuffer(numbers, dtype=torch.float32).reshape(self.shape).clone()

    def run(self) -> Any:
        return self.method.execute([self.x])[0]

    def answer(self) -> list[float]:
        numbers: list[float] = self.run().flatten().tolist()
        return numbers

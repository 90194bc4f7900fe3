"""LiteRT, which was TensorFlow Lite, on XNNPACK's kernels.

Its converter asks for older packages than nasattn does: it lives in a virtual environment of its
own, and is called as a program. Running a converted network needs `ai-edge-litert` alone.
"""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn

PROGRAM = """
import sys
import torch, litert_torch
program = torch.export.load(sys.argv[1])
(shape,) = [tuple(i.meta["val"].shape) for i in program.graph.nodes
            if i.op == "placeholder" and i.name in program.graph_signature.user_inputs]
litert_torch.convert(program.module(), (torch.zeros(shape),)).export(sys.argv[2])
"""


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """`model.tflite`."""
    import torch

    from nasattn.runtimes.table import RUNTIMES

    exported = folder / "model.pt2"
    torch.export.save(torch.export.export(model, (x,)), exported)
    target = folder / "model.tflite"
    command = [RUNTIMES["litert"].own_python, "-c", PROGRAM, exported, target]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    exported.unlink()
    if done.returncode or not target.is_file():
        lines = done.stderr.strip().splitlines() or ["no word of why"]
        raise RuntimeError(f"litert-torch: {lines[-1]}")


class Session:
    """An interpreter with its tensors allocated."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        file = str(folder / "model.tflite")
        self.interpreter = Interpreter(file, num_threads=threads)
        self.interpreter.allocate_tensors()
        (self.input,) = (d["index"] for d in self.interpreter.get_input_details())
        (self.output,) = (d["index"] for d in self.interpreter.get_output_details())
        self.shape = shape

    def feed(self, numbers: "array[float]") -> None:
        import numpy as np

        x = np.array(numbers, dtype=np.float32).reshape(self.shape)
        self.interpreter.set_tensor(self.input, x)

    def run(self) -> Any:
        self.interpreter.invoke()

    def answer(self) -> list[float]:
        self.run()
        numbers: list[float] = self.interpreter.get_tensor(self.output).ravel().tolist()
        return numbers

"""ONNX Runtime, on its CPU provider."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """An ONNX file."""
    from nasattn.runtimes.onnx_file import export_onnx

    export_onnx(model, x, folder)


class Session:
    """An inference session that runs one operator after the other."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.name, self.shape = self.session.get_inputs()[0].name, shape

    def feed(self, numbers: "array[float]") -> None:
        import numpy as np

        self.inputs = {self.name: np.array(numbers, dtype=np.float32).reshape(self.shape)}

    def run(self) -> Any:
        return self.session.run(None, self.inputs)[0]

    def answer(self) -> list[float]:
        numbers: list[float] = self.run().ravel().tolist()
        return numbers

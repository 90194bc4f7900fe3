"""OpenVINO, in float32: by itself it would take bfloat16 where the processor has it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """An ONNX file, which it reads."""
    from nasattn.runtimes.onnx_file import export_onnx

    export_onnx(model, x, folder)


class Session:
    """An inference request of one stream, of OpenVINO's own file where there is one."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        import openvino

        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the process is pinned already
        }
        own, other = folder / "model.xml", folder / "model.onnx"
        file = own if own.is_file() else other
        try:
            compiled = openvino.Core().compile_model(file, "CPU", config)
        except RuntimeError as e:  # where in OpenVINO it was thrown, then why
            raise RuntimeError(str(e).strip().splitlines()[-1]) from e
        self.request, self.shape = compiled.create_infer_request(), shape

    def feed(self, numbers: "array[float]") -> None:
        import numpy as np
        import openvino

        self.x = np.array(numbers, dtype=np.float32).reshape(self.shape)
        self.request.set_input_tensor(openvino.Tensor(self.x, shared_memory=True))

    def run(self) -> Any:
        self.request.infer()
        return self.request.get_output_tensor().data

    def answer(self) -> list[float]:
        numbers: list[float] = self.run().ravel().tolist()
        return numbers

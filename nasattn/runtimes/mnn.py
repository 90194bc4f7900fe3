"""MNN, Alibaba's runtime for phones; it computes in float32."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path, *, half: bool = False) -> None:
    """`model.mnn`, from an ONNX file; `half`: its weights are kept in float16.

    By the compiled converter alone: the package's own program sends figures about the model to
    its makers, and installs what it needs to do so.
    """
    import _tools  # of MNN

    from nasattn.runtimes.onnx_file import export_onnx

    file = export_onnx(model, x, folder)
    options = ["-f", "ONNX", "--modelFile", file, "--MNNModel", folder / "model.mnn"]
    options += ["--bizCode", "nasattn", *(["--fp16"] if half else [])]
    _tools.mnnconvert(["mnnconvert", *map(str, options)])
    file.unlink()
    if not (folder / "model.mnn").is_file():
        raise RuntimeError("MNN's converter wrote no file")


class Session:
    """A module of MNN's expression interface."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        from MNN import nn

        config = {"backend": "CPU", "precision": "high", "numThread": threads}
        self.manager = nn.create_runtime_manager((config,))
        file = str(folder / "model.mnn")
        try:
            self.module = nn.load_module_from_file(
                file, ["x"], ["logits"], runtime_manager=self.manager
            )
        except SystemError as e:  # the reason is lost on the way to Python
            raise RuntimeError("MNN cannot load model.mnn: it is damaged") from e
        self.shape = shape

    def feed(self, numbers: "array[float]") -> None:
        import numpy as np
        from MNN import expr

        x = np.array(numbers, dtype=np.float32).reshape(self.shape)
        self.x = expr.const(x, self.shape, expr.NCHW)

    def run(self) -> Any:
        (out,) = self.module.forward([self.x])
        return out.read()  # only reading makes it compute

    def answer(self) -> list[float]:
        import numpy as np

        numbers: list[float] = np.asarray(self.run()).ravel().tolist()
        return numbers

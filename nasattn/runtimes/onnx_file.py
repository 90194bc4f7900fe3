"""The ONNX file that several runtimes read."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME, INPUT, OUTPUT = "model.onnx", "x", "logits"
OPSET = 17


def export_onnx(model: "nn.Module", x: "Tensor", folder: Path) -> Path:
    """Write `model.onnx` for inputs of the shape of `x`.

    By the exporter that traces: it takes a tenth of the time of the other one.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer one, and shapes that are constants
        torch.onnx.export(
            model,
            (x,),
            folder / NAME,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=False,
        )
    return folder / NAME

"""TorchScript: a traced network that PyTorch runs without the Python that it was written in."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """`model.pt`, with batch norms folded into the convolutions before them."""
    import torch

    jit: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shapes become constants
        jit.freeze(jit.trace(model, (x,))).save(folder / "model.pt")


class Session:
    """The traced network in torch, float32."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        import torch

        jit: Any = torch.jit
        torch.set_num_threads(threads)
        self.module, self.shape = jit.load(folder / "model.pt"), shape

    def feed(self, numbers: "array[float]") -> None:
        import torch

        self.x = torch.frombuffer(numbers, dtype=torch.float32).reshape(self.shape).clone()

    def run(self) -> Any:
        import torch

        with torch.inference_mode():
            return self.module(self.x)

    def answer(self) -> list[float]:
        numbers: list[float] = self.run().flatten().tolist()
        return numbers

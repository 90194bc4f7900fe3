"""ncnn, Tencent's runtime for phones, by way of pnnx; it computes in float32."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path, *, half: bool = False) -> None:
    """`model.ncnn.param` and `model.ncnn.bin`; `half`: its weights are kept in float16."""
    import pnnx
    import torch

    traced = folder / "model.pt"
    with torch.no_grad(), contextlib.chdir(folder):  # it writes where it stands, too
        named = torch.nn.ModuleDict({"network": model})  # its code cannot begin with a number
        named.forward = model.forward
        pnnx.export(named, str(traced), (x,), fp16=half)
    kept = ("model.ncnn.param", "model.ncnn.bin")
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink()
    if missing := [name for name in kept if not (folder / name).is_file()]:
        raise RuntimeError(f"pnnx wrote no {missing[0]}")


class Session:
    """A network whose inputs are one picture, or one picture after the other."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        import ncnn

        if shape[0] != 1:
            raise RuntimeError(f"ncnn takes one picture at a time, not {shape[0]}")
        self.net, self.shape = ncnn.Net(), shape
        options = self.net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        for load, name in ((self.net.load_param, "param"), (self.net.load_model, "bin")):
            if load(os.fspath(folder / f"model.ncnn.{name}")):
                raise RuntimeError(
                    f"ncnn cannot load model.ncnn.{name}: it is damaged, or has layers that ncnn "
                    "has not"
                )

    def feed(self, numbers: "array[float]") -> None:
        import ncnn
        import numpy as np

        self.x = np.array(numbers, dtype=np.float32).reshape(self.shape[1:])
        self.mat = ncnn.Mat(self.x)

    def run(self) -> Any:
        extractor = self.net.create_extractor()
        extractor.input("in0", self.mat)
        status, out = extractor.extract("out0")
        if status:
            raise RuntimeError(f"ncnn cannot run the network (status {status})")
        return out

    def answer(self) -> list[float]:
        import numpy as np

        numbers: list[float] = np.array(self.run()).ravel().tolist()
        return numbers

"""RUNTIMES: what a network can run on; a row, and a file that converts and loads."""

import os
import shlex
import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nasattn.errors import RuntimeMissingError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

Modules = dict[str, str]  # what is imported: the package on PyPI that has it


class Converter(Protocol):
    """What a runtime's file holds beside `class Session`, which `runner.py` describes."""

    def convert(self, model: "nn.Module", x: "Tensor", folder: Path) -> None:
        """Write the model, in eval mode, for inputs like `x` into an empty folder."""


@dataclass(frozen=True)
class Runtime:
    """A runtime: what it needs to run, and to convert a network of torch's."""

    name: str
    title: str
    file: str  # module in this package
    runs: Modules
    converts: Modules = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    program: str = ""  # package of a converter that lives in a virtual environment of its own
    batches: bool = True  # whether it takes several pictures at once
    reloads: bool = True  # whether a network can be loaded again in short time

    def missing(self, *, runs: bool = True) -> list[str]:
        """Packages that are not installed here; `runs`: those for running it, too."""
        wanted = self.converts | (self.runs if runs else {})
        packages = [package for module, package in wanted.items() if not is_installed(module)]
        own = [self.program] if self.program and not Path(self.own_python).exists() else []
        return list(dict.fromkeys([*packages, *own]))

    @property
    def own_python(self) -> str:
        """The Python of the converter's own environment, which is kept beside nasattn's."""
        name = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        return str(Path(sys.prefix) / f"nasattn-{self.name}" / name)

    @property
    def install(self) -> str:
        """The command that installs it."""
        command = f"pip install 'nasattn[{self.name}]'"
        if not self.program:
            return command
        venv = shlex.quote(str(Path(self.own_python).parents[1]))
        python = shlex.quote(self.own_python)
        packages = " ".join(self.own_packages)
        return f"{command} && python3 -m venv {venv} && {python} -m pip install {packages}"

    @property
    def own_packages(self) -> tuple[str, str]:
        """What the converter's own environment holds: with a torch that reads what ours writes."""
        return self.program, f"torch=={version('torch').split('+')[0]}"

    def load(self) -> Converter:
        """The runtime's file; raises RuntimeMissingError where it cannot convert here."""
        if packages := self.missing(runs=False):
            raise RuntimeMissingError(self.name, packages, self.install, installed())
        module: Any = import_module(f"nasattn.runtimes.{self.file}")
        converter: Converter = module
        return converter


ONNX = {"onnx": "onnx"}
TORCH = {"torch": "torch"}
NUMPY = {"numpy": "numpy"}

RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        Runtime("torch", "PyTorch", "torch_eager", TORCH, devices=("cpu", "cuda")),
        Runtime(
            "torch_compile",
            "PyTorch compiled",
            "torch_compile",
            TORCH,
            devices=("cpu", "cuda"),
            reloads=False,
        ),
        Runtime("torchscript", "TorchScript", "torchscript", TORCH),
        Runtime(
            "onnxruntime",
            "ONNX Runtime",
            "onnxruntime",
            {"onnxruntime": "onnxruntime"} | NUMPY,
            ONNX,
        ),
        Runtime("openvino", "OpenVINO", "openvino", {"openvino": "openvino"} | NUMPY, ONNX),
        Runtime(
            "litert",
            "LiteRT",
            "litert",
            {"ai_edge_litert": "ai-edge-litert"} | NUMPY,
            program="litert-torch==0.10.0",
        ),
        Runtime("ncnn", "ncnn", "ncnn", {"ncnn": "ncnn"} | NUMPY, {"pnnx": "pnnx"}, batches=False),
        Runtime("mnn", "MNN", "mnn", {"MNN": "MNN"} | NUMPY, {"_tools": "MNN"} | ONNX),
        Runtime(
            "executorch",
            "ExecuTorch",
            "executorch",
            {"executorch": "executorch"} | TORCH,
            {"executorch": "executorch"},
        ),
    )
}


def get_runtime(name: str) -> Runtime:
    """A row of RUNTIMES; raises UnknownNameError, which says what is not installed, too."""
    if name not in RUNTIMES:
        raise UnknownRuntimeError("runtime", name, known=RUNTIMES)
    return RUNTIMES[name]


class UnknownRuntimeError(UnknownNameError):
    """A name that is no runtime's."""

    def __str__(self) -> str:
        absent = [row.install for row in RUNTIMES.values() if row.missing()]
        rest = f"; not installed here: {'; '.join(absent)}" if absent else ""
        return f"{super().__str__()}{rest}"


def installed() -> list[str]:
    """The runtimes that convert and run here."""
    return [row.name for row in RUNTIMES.values() if not row.missing()]


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False

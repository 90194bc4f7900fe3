"""FORMATS: the files that a network can be exported to, each with the runtime that runs it."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nasattn.cost.bench import first_line, quiet
from nasattn.deploy import litert_model, onnx_model, openvino_model
from nasattn.deploy.job import Job, Writer
from nasattn.errors import EvaluationError, RuntimeMissingError, StudyError, UnknownNameError
from nasattn.runtimes.table import Modules, Runtime, get_runtime, installed, is_installed

PRECISIONS = ("float32", "float16", "int8")


def by_runtime(name: str, *, half: bool = False) -> Writer:
    """What writes the runtime's own conversion, as it is timed by `nasattn latency`."""

    def write(job: Job, folder: Path) -> None:
        convert: Callable[..., None] = get_runtime(name).load().convert
        more = {"half": True} if half else {}
        convert(job.model, job.x, folder, **more)

    return write


@dataclass(frozen=True)
class Format:
    """A kind of file: its runtime, how that calls the files, and a writer for each precision."""

    name: str
    runtime: str  # row of RUNTIMES
    endings: Mapping[str, str]  # a file of the runtime -> the ending of the exported one
    writers: Mapping[str, Writer]
    needs: Mapping[str, Modules] = field(
        default_factory=dict
    )  # more than the runtime, by precision

    @property
    def row(self) -> Runtime:
        return get_runtime(self.runtime)

    def file_names(self, name: str, precision: str) -> dict[str, str]:
        """A file of the runtime -> the exported one, of a network called `name`."""
        stem = name if precision == PRECISIONS[0] else f"{name}.{precision}"
        return {own: stem + ending for own, ending in self.endings.items()}

    def check(self, precision: str) -> None:
        """Whether it can be written and run here. Raises StudyError or RuntimeMissingError."""
        if precision not in self.writers:
            having = [name for name, row in FORMATS.items() if precision in row.writers]
            raise StudyError(
                f"{self.name}: is not written in {precision}, but in {', '.join(self.writers)}; "
                f"{precision} is of {', '.join(having)}"
            )
        row = self.row
        absent = row.missing()
        more = self.needs.get(precision, {})
        absent += [package for module, package in more.items() if not is_installed(module)]
        if absent:
            install = row.install
            if self.name in SET_UP and row.program in absent:
                install = f"nasattn setup {self.name}, or {install}"
            elif any(package in more.values() for package in absent):
                install = f"pip install {' '.join(absent)}"
            raise RuntimeMissingError(row.name, absent, install, installed())

    def write(self, job: Job, precision: str) -> dict[str, bytes]:
        """The runtime's files by name. Raises EvaluationError where there can be none."""
        try:
            with (
                tempfile.TemporaryDirectory(prefix="nasattn-") as folder,
                torch.no_grad(),
                quiet(),
            ):
                self.writers[precision](job, Path(folder))
                return {own: (Path(folder) / own).read_bytes() for own in self.endings}
        except Exception as e:  # whatever a converter raises, the network is not for this format
            raise EvaluationError(f"cannot be converted ({first_line(e)})") from e


SET_UP = ("tflite",)  # whose converter `nasattn setup` installs

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            "onnxruntime",
            {"model.onnx": ".onnx"},
            {
                "float32": onnx_model.write_float32,
                "float16": onnx_model.write_float16,
                "int8": onnx_model.write_int8,
            },
        ),
        Format(
            "openvino",
            "openvino",
            {"model.xml": ".xml", "model.bin": ".bin"},
            {
                "float32": openvino_model.write_float32,
                "float16": openvino_model.write_float16,
                "int8": openvino_model.write_int8,
            },
            {"int8": {"nncf": "nncf"}},
        ),
        Format(
            "tflite",
            "litert",
            {"model.tflite": ".tflite"},
            {
                "float32": by_runtime("litert"),
                "float16": litert_model.write_float16,
                "int8": litert_model.write_int8,
            },
        ),
        Format(
            "ncnn",
            "ncnn",
            {"model.ncnn.param": ".ncnn.param", "model.ncnn.bin": ".ncnn.bin"},
            {"float32": by_runtime("ncnn"), "float16": by_runtime("ncnn", half=True)},
        ),
        Format(
            "mnn",
            "mnn",
            {"model.mnn": ".mnn"},
            {"float32": by_runtime("mnn"), "float16": by_runtime("mnn", half=True)},
        ),
        Format(
            "executorch", "executorch", {"model.pte": ".pte"}, {"float32": by_runtime("executorch")}
        ),
        Format(
            "torchscript",
            "torchscript",
            {"model.pt": ".pt"},
            {"float32": by_runtime("torchscript")},
        ),
    )
}


def get_format(name: str) -> Format:
    """A row of FORMATS; raises UnknownNameError."""
    if name not in FORMATS:
        raise UnknownNameError("format", name, known=FORMATS)
    return FORMATS[name]

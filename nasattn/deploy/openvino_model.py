"""OpenVINO's own files, `model.xml` and `model.bin`, in float32, float16 and int8."""

import os
from pathlib import Path
from typing import Any

import torch

from nasattn.deploy.job import Job
from nasattn.runtimes.onnx_file import export_onnx

NAME = "model.xml"


def write_float32(job: Job, folder: Path) -> None:
    save(read(job, folder), folder, half=False)


def write_float16(job: Job, folder: Path) -> None:
    """Weights in half precision; what it computes in is the session's choice."""
    save(read(job, folder), folder, half=True)


def write_int8(job: Job, folder: Path) -> None:
    """Static quantisation by NNCF, with the ranges of calibration pictures that it corrects."""
    os.environ["NNCF_CI"] = "1"  # else it would tell its makers of this run
    import nncf

    pictures = nncf.Dataset([x.numpy() for x in torch.split(job.seen, 1)])
    model = nncf.quantize(read(job, folder), pictures, subset_size=len(job.seen))
    save(model, folder, half=False)


def read(job: Job, folder: Path) -> Any:
    """The network as OpenVINO reads it from an ONNX file, which is left in the folder.

    By the runtime alone: the package's converter sends figures about the model to its makers.
    """
    import openvino

    return openvino.Core().read_model(export_onnx(job.model, job.x, folder))


def save(model: Any, folder: Path, *, half: bool) -> None:
    import openvino

    openvino.save_model(model, folder / NAME, compress_to_fp16=half)
    (folder / "model.onnx").unlink()

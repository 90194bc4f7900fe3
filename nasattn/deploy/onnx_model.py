"""ONNX files: with what they are about in their metadata, and in float16 and int8."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasattn.deploy.card import Card, card_of_metadata
from nasattn.deploy.job import Job
from nasattn.errors import WeightsError
from nasattn.runtimes.onnx_file import INPUT, export_onnx

CALIBRATIONS = ("MinMax", "Entropy")  # ONNX Runtime's ways of setting the ranges of maps
STRIDE = 8  # pictures whose maps are in memory at a time


def write_float32(job: Job, folder: Path) -> None:
    """`model.onnx` with its card."""
    stamp(export_onnx(job.model, job.x, folder), job.card)


def write_float16(job: Job, folder: Path) -> None:
    """Weights and maps in half precision, pictures and logits in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    file = export_onnx(job.model, job.x, folder)
    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), file)
    stamp(file, job.card)


def write_int8(job: Job, folder: Path) -> None:
    """Static quantisation: weights int8 by channel, maps uint8, as QDQ.

    Of CALIBRATIONS the one with the smaller squared error on calibration pictures that it has not
    seen.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain = export_onnx(job.model, job.x, folder)
    prepared = folder / "prepared.onnx"
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    with torch.inference_mode():
        expected = job.model(job.unseen)
    made = {way: quantise(prepared, folder / f"{way}.onnx", way, job.seen) for way in CALIBRATIONS}
    errors = {
        way: float((answers(file, job.unseen) - expected).square().mean())
        for way, file in made.items()
    }
    made[min(errors, key=lambda way: errors[way])].replace(plain)
    for file in (prepared, *made.values()):
        file.unlink(missing_ok=True)
    shorten_names(plain)
    stamp(plain, job.card)


def quantise(source: Path, target: Path, calibration: str, pictures: Tensor) -> Path:
    """A quantised file whose ranges come from pictures (N, 3, R, R)."""
    from onnxruntime import quantization as q

    n, stride = len(pictures), min(STRIDE, len(pictures))
    q.quantize_static(
        source,
        target,
        reader(pictures[: n - n % stride]),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
        calibrate_method=q.CalibrationMethod[calibration],
        extra_options={"CalibStridedMinMax": stride},
    )
    return target


def reader(pictures: Tensor) -> Any:
    """Pictures, one at a time, as ONNX Runtime's calibration asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Goes through the pictures of a range once."""

        def __init__(self) -> None:
            self.set_range(0, len(pictures))

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(torch.split(pictures[start_index:end_index], 1))

        def get_next(self) -> dict[str, Any] | None:
            x = next(self.left, None)
            return None if x is None else {INPUT: x.numpy()}

        def __len__(self) -> int:
            return len(pictures)

    return Reader()


def answers(file: Path, pictures: Tensor) -> Tensor:
    """Logits (N, classes) of a file, here."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    logits = [session.run(None, {INPUT: x.numpy()})[0] for x in torch.split(pictures, 1)]
    return torch.cat([torch.from_numpy(one) for one in logits])


def shorten_names(file: Path) -> None:
    """Call every value inside by a number: quantised small networks are half names otherwise."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def of(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"v{len(short)}")

    for tensor in graph.initializer:
        tensor.name = of(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [of(name) for name in node.input]
        node.output[:] = [of(name) for name in node.output]
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, file)


def stamp(file: Path, card: Card) -> None:
    """Write a card into a file's metadata."""
    import onnx

    model = onnx.load(file)
    del model.metadata_props[:]
    for key, value in card.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, file)


def card_inside(path: Path) -> Card | None:
    """The card in a file's metadata, None where there is none. Raises WeightsError."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as e:
        raise WeightsError(f"{path}: cannot be read ({e.strerror or e})") from e
    except (DecodeError, ValueError) as e:
        raise WeightsError(f"{path}: not an ONNX file, or a damaged one") from e
    found = {entry.key: entry.value for entry in model.metadata_props}
    return card_of_metadata(found, str(path)) if "classes" in found else None

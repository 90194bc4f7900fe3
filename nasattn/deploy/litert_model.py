"""TensorFlow Lite files in float16 and int8, by the converter's own environment."""

import subprocess
from pathlib import Path

import numpy as np

from nasattn.deploy.job import Job
from nasattn.runtimes import litert
from nasattn.runtimes.table import RUNTIMES

FILE, PICTURES = "model.tflite", "pictures.npy"
HALF = """
import sys
from ai_edge_quantizer import qtyping, quantizer
q = quantizer.Quantizer(sys.argv[1])
q.update_quantization_recipe(
    regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
    algorithm_key="float_casting",
    op_config=qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT)))
q.quantize().export_model(sys.argv[2])
"""
INT8 = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import (
    algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager)
from ai_edge_quantizer.utils import qsv_utils
q = quantizer.Quantizer(sys.argv[1], recipe.static_wi8_ai8())
for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):  # stay float32
    q.update_quantization_recipe(
        regex=".*", operation_name=end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
((signature, ends),) = Interpreter(sys.argv[1]).get_signature_list().items()
(name,) = ends["inputs"]
pictures = [{name: one[None]} for one in np.load(sys.argv[3])]
rows = recipe_manager.RecipeManager()
rows.load_quantization_recipe(q.get_quantization_recipe())
# q.calibrate takes a moving average of each picture's range, which cuts off what lies outside it.
ranges = calibrator.Calibrator(
    sys.argv[1], num_threads=1, qsv_update_func=qsv_utils.min_max_update)
ranges.calibrate({signature: pictures}, rows)
q.quantize(ranges.get_model_qsvs()).export_model(sys.argv[2])
"""


def write_float16(job: Job, folder: Path) -> None:
    """Weights in half precision."""
    quantise(job, folder, HALF)


def write_int8(job: Job, folder: Path) -> None:
    """Weights in int8 by channel, maps by the smallest and largest of calibration pictures."""
    np.save(folder / PICTURES, job.seen.contiguous().numpy())
    quantise(job, folder, INT8)


def quantise(job: Job, folder: Path, program: str) -> None:
    """Convert, then let a program of the converter's environment change the file."""
    litert.convert(job.model, job.x, folder)
    plain = (folder / FILE).rename(folder / "plain.tflite")
    command = [RUNTIMES["litert"].own_python, "-c", program, plain, folder / FILE]
    command.append(folder / PICTURES)
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    for file in (plain, folder / PICTURES):
        file.unlink(missing_ok=True)
    if done.returncode or not (folder / FILE).is_file():
        lines = done.stderr.strip().splitlines() or ["no word of why"]
        raise RuntimeError(f"ai-edge-quantizer: {lines[-1]}")

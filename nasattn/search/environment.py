"""What a study ran on: versions and machine, as plain data."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("nasattn", "torch", "torchvision", "optuna", "numpy")


def environment() -> dict[str, str]:
    """Versions, processor and accelerator of this machine."""
    found = {name: version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found | {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
    }


def _processor() -> str:
    """The processor's name where Linux tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

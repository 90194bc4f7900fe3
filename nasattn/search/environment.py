"""What a study ran on: versions and machine, as plain data."""

import os
import platform
from importlib.metadata import version

import torch

from nasattn.runtimes.facts import processor

PACKAGES = ("nasattn", "torch", "torchvision", "optuna", "numpy")


def environment() -> dict[str, str]:
    """Versions, processor and accelerator of this machine."""
    found = {name: version(name) for name in PACKAGES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found | {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
    }

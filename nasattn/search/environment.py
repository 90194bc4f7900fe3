"""What a study ran on: versions and machine, as plain data."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import nasattn
from nasattn.runtimes.facts import processor

PACKAGES = ("nasattn", "torch", "torchvision", "optuna", "numpy")
OPTIONAL = ("ray",)
CPUINFO = Path("/proc/cpuinfo")
# Instructions by which torch and oneDNN choose their kernels, and so the order of their sums.
VECTOR = re.compile(r"avx2|avx_\w+|avx512\w+|fma|f16c|amx_\w+|asimd\w*|sve2?|sme2?|bf16|i8mm")


def environment() -> dict[str, str]:
    """Versions, processor and accelerator of this machine; what is not there has no key."""
    found = {name: version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    commit = checkout(Path(nasattn.__file__).parents[1])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return (
        found
        | ({"commit": commit} if commit else {})
        | {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": processor(),
            "vector": vector(),
            "cores": str(os.cpu_count()),
            "gpu": gpu,
        }
    )


def vector(cpuinfo: Path = CPUINFO) -> str:
    """torch's choice of kernels, then the processor's vector instructions where Linux tells them.

    AVX2 fma avx2 f16c
    """
    words = [torch.backends.cpu.get_cpu_capability()]
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, flags = line.partition(":")
            if key.strip() in ("flags", "Features"):  # the latter on ARM
                words += [flag for flag in flags.split() if VECTOR.fullmatch(flag)]
                break
    return " ".join(dict.fromkeys(words))


def checkout(folder: Path) -> str | None:
    """The commit that a folder is a git checkout of, with -dirty where files were changed since.

    None where it is no checkout itself, or there is no git.
    """
    if not (folder / ".git").exists():
        return None
    place = (f"--git-dir={folder / '.git'}", f"--work-tree={folder}")
    what = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    command = ("git", "--no-optional-locks", *place, *what)
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None

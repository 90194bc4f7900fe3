"""`nasattn setup`: the environments of converters that cannot live in nasattn's own."""

import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from nasattn.deploy.formats import SET_UP, get_format
from nasattn.errors import StudyError, UnknownNameError


def setup_command(name: str) -> None:
    """Make a format's environment where `nasattn latency` and `nasattn export` look for it."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if name not in SET_UP:
        raise UnknownNameError("environment", name, known=SET_UP)
    row = get_format(name).row
    python = Path(row.own_python)
    folder = python.parents[1]
    if python.exists():
        console.print(f"{folder} is there already; remove it to make it anew")
        return
    console.print(f"making {folder} with {row.program}: some 6 GB, several minutes")
    try:
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", *row.own_packages])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # a half would be taken for a whole
        raise
    console.print(f"done: nasattn export WEIGHTS --to {name}")


def run(command: list[str]) -> None:
    """Run a program; StudyError with its last words where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as e:
        raise StudyError(f"{command[0]}: cannot be started ({e.strerror or e})") from e
    if done.returncode:
        lines = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()]
        told = [line for line in lines if "error" in line.lower()] or lines or ["no word of why"]
        raise StudyError(f"{' '.join(command[1:4])}: {told[-1]}")

"""The kernels of kernels.cpp as a library: built once a machine, by the compiler that is there."""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("g++", "c++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast"),
    *("-shared", "-fPIC"),
)
PATIENCE = 120  # seconds for building, of which it takes about three

_L, _I, _D, _P = ctypes.c_long, ctypes.c_int, ctypes.c_double, ctypes.c_void_p
SIGNATURES = {  # as in kernels.cpp
    "norm_forward": (_P, _L, _L, _P, _P, _D, _I, _P, _P, _P, _P),
    "norm_backward": (_P, _P, _L, _L, _P, _P, _P, _P, _I, _P, _P, _P),
    "top_forward": (_P, _L, _L, _P),
    "top_backward": (_P, _P, _P, _L, _L, _P),
    "gate_backward": (_P, _P, _P, _L, _L, _L, _I, _P, _P),
    "depthwise_backward": (_P, _P, _P, _L, _L, _L, _L, _L, _L, _P, _P),
    "planar": (_P, _P, _L, _L, _L, _L, _L, _I, _P),
    "planar_weight": (_P, _P, _L, _L, _L, _L, _L, _P),
    "dense_forward": (_P, _P, _L, _L, _L, _L, _L, _I, _P),
    "dense_weight": (_P, _P, _L, _L, _L, _L, _L, _P),
}


class Kernels:
    """The functions of the library; pointers are given as whole numbers."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))

        def function(name: str) -> Callable[..., None]:
            found = library[f"nasattn_{name}"]
            found.argtypes, found.restype = SIGNATURES[name], None
            return found

        self.norm_forward = function("norm_forward")
        self.norm_backward = function("norm_backward")
        self.top_forward = function("top_forward")
        self.top_backward = function("top_backward")
        self.gate_backward = function("gate_backward")
        self.depthwise_backward = function("depthwise_backward")
        self.planar = function("planar")
        self.planar_weight = function("planar_weight")
        self.dense_forward = function("dense_forward")
        self.dense_weight = function("dense_weight")


@cache
def load_kernels() -> Kernels | None:
    """The kernels, from `~/.cache/nasattn/kernels`; built there where they are not.

    None where there is no C++ compiler, or it cannot build them, or they cannot be kept or loaded.
    """
    for name in COMPILERS:
        if compiler := shutil.which(name):
            try:
                return Kernels(build(compiler, Path.home() / ".cache" / "nasattn" / "kernels"))
            except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError):
                continue
    return None


def build(compiler: str, folder: Path) -> Path:
    """The library in a folder, named after its source, the compiler and this processor.

    Raises OSError or subprocess.SubprocessError.
    """
    # What the compiler takes `native` for is said by what it would run.
    asked = [compiler, *FLAGS, "-###", "-c", str(SOURCE)]
    native = subprocess.run(asked, capture_output=True, check=True, timeout=PATIENCE, cwd="/")
    known = b"\0".join([SOURCE.read_bytes(), *_lasting(native.stderr)])
    path = folder / f"{hashlib.sha256(known).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / "kernels.so"
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE)
            made.replace(path)
    return path


def _lasting(said: bytes) -> list[bytes]:
    """The words of a compiler's plan but for places of files, which differ from call to call."""
    places = [tempfile.gettempdir().encode(), str(SOURCE.parent).encode()]
    return [word for word in said.split() if not any(place in word for place in places)]

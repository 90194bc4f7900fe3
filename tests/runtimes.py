"""Runtimes and machines that are not there: `fake`, which needs no package, and an ssh."""

import json
import os
import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

import nasattn.runtimes
from nasattn.runtimes import process
from nasattn.runtimes.protocol import Effort
from nasattn.runtimes.table import RUNTIMES, Runtime
from tests.fake_runtime import N_CLASSES

QUICK = Effort(precision=0, rounds=3, least=1, most=1)
FAKE = Runtime("fake", "Fake", "fake_runtime", {"json": "pytest"})
FILE = Path(__file__).parent / f"{FAKE.file}.py"


class Scale(nn.Module):
    """What the fake runtime computes: (N, C, H, W) -> (N, 3)."""

    def __init__(self, factor: float = 1.0, deed: str = "") -> None:
        super().__init__()
        self.factor, self.deed = factor, deed

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :N_CLASSES] * self.factor


def add_fake_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row `fake`, whose file runners find here, and on other machines."""
    path = [*nasattn.runtimes.__path__, str(FILE.parent)]
    monkeypatch.setitem(RUNTIMES, FAKE.name, FAKE)
    monkeypatch.setattr(nasattn.runtimes, "__path__", path)
    find = f"import nasattn.runtimes as r; r.__path__.append({str(FILE.parent)!r}); "
    monkeypatch.setattr(
        process, "LOCAL", process.LOCAL.replace(process.START, find + process.START)
    )
    own = process.sources
    sent = {f"runtimes/{FILE.name}": FILE.read_bytes()}
    monkeypatch.setattr(process, "sources", lambda: own() | sent)


SSH = """#!{python}
import json, os, pathlib, subprocess, sys
here = pathlib.Path({here!r})
mood = json.loads((here / "mood.json").read_text())
with (here / "calls").open("a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
def end(words):
    print(words, file=sys.stderr)
    sys.stderr.flush()
    os._exit(255)
if mood["refuses"]:
    end(mood["refuses"])
place = {{"PATH": os.environ["PATH"], "TMPDIR": str(here / "tmp")}}
print("Welcome to the machine", flush=True)
there = subprocess.Popen(
    ["sh", "-c", sys.argv[-1]], stdout=subprocess.PIPE, env=place, cwd=here / "home"
)
for i, line in enumerate(there.stdout):
    if i == mood["drops_after"]:
        there.kill()
        sys.stdout.buffer.write(line[: mood["bytes_of_last"]])
        sys.stdout.flush()
        end("client_loop: send disconnect: Broken pipe")
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
sys.exit(there.wait())
"""


class FakeSsh:
    """An `ssh` on the PATH that runs the last of its arguments here, in a folder of its own."""

    target = "ssh://somewhere"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
        self.here = here
        for name in ("bin", "tmp", "home"):
            (here / name).mkdir(parents=True)
        self.be()
        program = here / "bin" / "ssh"
        program.write_text(SSH.format(python=sys.executable, here=str(here)), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def be(self, refuses: str = "", drops_after: int = -1, bytes_of_last: int = 0) -> None:
        """How it is from now on; `drops_after`: lines of answers."""
        mood = {"refuses": refuses, "drops_after": drops_after, "bytes_of_last": bytes_of_last}
        (self.here / "mood.json").write_text(json.dumps(mood), encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        """The command lines by which it was called."""
        lines = (self.here / "calls").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    @property
    def left_behind(self) -> list[Path]:
        """Files of the other machine."""
        return [*(self.here / "tmp").iterdir(), *(self.here / "home").iterdir()]

    def on(self, runtime: str) -> str:
        """A runtime there, by the Python that has what it needs."""
        return f"{runtime}:target={self.target},python={sys.executable}"

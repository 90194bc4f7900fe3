"""A runner that was started: in a Python of its own here, or on another machine through ssh."""

import json
import shlex
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nasattn.errors import EvaluationError
from nasattn.runtimes.spec import HERE, RuntimeSpec

ROOT = Path(__file__).parents[2]
START = "from nasattn.runtimes.runner import main; main()"
LOCAL = f"import sys; sys.path.append({str(ROOT)!r}); {START}"
# What it is sent first: the files that it imports. They are gone when it ends. A nasattn that is
# installed there has what they lack.
REMOTE = f"""
import json, pathlib, sys, tempfile
with tempfile.TemporaryDirectory(prefix="nasattn-") as folder:
    for name, size in json.loads(sys.stdin.buffer.readline()).items():
        file = pathlib.Path(folder, "nasattn", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sys.stdin.buffer.read(size))
    sys.path.insert(0, folder)
    {START}
"""
PACKAGE = b"from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
SSH = (
    "ssh",
    "-T",
    *("-o", "BatchMode=yes"),  # asks for no password
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15"),
)

Answer = dict[str, Any]


class RunnerProcess:
    """Asks a runner; raises EvaluationError where it cannot be started, fails or is lost."""

    def __init__(self, spec: RuntimeSpec, *, cores: int = 0) -> None:
        self.spec = spec
        self.last_words = ""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        try:
            self.process = self._start(command_of(spec))
        except EvaluationError:
            self.errors.close()
            raise
        self._end = weakref.finalize(self, end, self.process, self.errors)
        try:
            if spec.target != HERE:
                files = sources()
                self._send([json.dumps({k: len(v) for k, v in files.items()}) + "\n"])
                self._send(files.values())
            self.facts = self.tell(
                "start", modules=dict(spec.row.runs), threads=spec.threads, cores=cores
            )
        except EvaluationError:
            self.close()
            raise

    def ask(self, do: str, payload: Sequence[bytes] = (), **request: Any) -> Iterator[Answer]:
        """The answers to a request that `payload` follows, up to the last one."""
        self._send([json.dumps({"do": do} | request) + "\n", *payload])
        while True:
            answer = self._receive()
            if "error" in answer:
                raise EvaluationError(f"{self.spec}: {answer['error']}")
            last = answer.pop("done", False)
            yield answer
            if last:
                return

    def tell(self, do: str, payload: Sequence[bytes] = (), **request: Any) -> Answer:
        """The only answer to a request."""
        (answer,) = self.ask(do, payload, **request)
        return answer

    @property
    def is_lost(self) -> bool:
        """Whether the process has ended."""
        return not self._end.alive or self.process.poll() is not None

    def close(self) -> None:
        """End the runner, and with it all that it wrote."""
        self._end()

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors)
        except OSError as e:
            raise EvaluationError(f"{self.spec}: {command[0]} cannot be started ({e})") from e

    def _send(self, pieces: Any) -> None:
        pipe = _pipe(self.process.stdin)
        try:
            for piece in pieces:
                pipe.write(piece.encode() if isinstance(piece, str) else piece)
            pipe.flush()
        except (OSError, ValueError) as e:  # nobody reads any more, or it was closed
            raise self._lost() from e

    def _receive(self) -> Answer:
        for line in _pipe(self.process.stdout):
            with suppress(ValueError):  # a login shell may say other things; or half a line
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.keys() & {"done", "error", "name"}:
                    return answer
        raise self._lost()

    def _lost(self) -> EvaluationError:
        """That the runner is gone, with the last words that it left."""
        if self._end.alive:
            stop(self.process)
            self.errors.seek(0)
            self.last_words = self.errors.read().decode(errors="replace").strip()
            self.close()
        lines, status = self.last_words.splitlines(), self.process.returncode
        return EvaluationError(
            f"{self.spec}: {self.spec.target or 'the process'} was lost "
            f"({lines[-1] if lines else f'status {status}'})"
        )


def command_of(spec: RuntimeSpec) -> list[str]:
    """What starts a runner on a spec's target."""
    if spec.target == HERE:
        return [sys.executable, "-P", "-c", LOCAL]
    there = f"{spec.python} -c {shlex.quote(REMOTE)}"
    return [*SSH, *spec.host, there]


def sources() -> dict[str, bytes]:
    """The files that a runner needs on another machine, by their path in the package."""
    folder = Path(__file__).parent
    files = {f"runtimes/{f.name}": f.read_bytes() for f in sorted(folder.glob("*.py"))}
    return files | {"__init__.py": PACKAGE}


def end(process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
    """End a process, and let its last words go."""
    stop(process)
    errors.close()


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process: by closing its input, or by force where that is not enough."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe

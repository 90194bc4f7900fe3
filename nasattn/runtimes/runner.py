"""The process that times networks: started here or on another machine, it does what it is told.

Requests and answers are lines of JSON on its standard input and output, a request followed by the
bytes of its files. It imports the standard library alone, until a runtime is asked for.

A runtime's file holds a `class Session(folder, shape, threads, device)` with `feed(numbers)`, which
takes a batch of float32; `run()`, which is timed; `answer()`, the logits of a run as a flat list;
and, where it has a better clock, `timed_run()`, which returns milliseconds, or where another
memory counts, `peak_memory()`, which returns bytes.
"""

import json
import os
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, BinaryIO

from nasattn.runtimes import facts
from nasattn.runtimes.protocol import Effort, Timer, time_in_turns

CHUNK = 1 << 20  # bytes of a file that are in memory at a time
MEMORY_RUNS = 5
ENERGY_SECONDS = 1.0

Answer = dict[str, Any]


class CutOffError(Exception):
    """The requests end in the middle of one."""


class Runner:
    """The networks that are loaded, by name, and what can be done with them."""

    def __init__(self, source: BinaryIO, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.sessions: dict[str, Any] = {}
        self.makers: dict[str, Callable[[], Any]] = {}
        self.baseline = 0

    def do(self, request: dict[str, Any]) -> Iterator[Answer]:
        """The answers to a request, of which the last one says `done`."""
        command: Callable[..., Iterator[Answer]] = getattr(self, f"do_{request.pop('do')}")
        yield from command(**request)

    def do_start(self, modules: dict[str, str], threads: int, cores: int) -> Iterator[Answer]:
        """Import what a runtime needs; `cores`: so many are this process's own, 0: any."""
        if threads > (os.cpu_count() or threads):
            raise RuntimeError(f"threads: must be at most {os.cpu_count()} there, is {threads}")
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime would tell its makers of this run
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
        pinned = facts.pin(cores) if cores else []
        versions = {}
        for module, package in modules.items():
            try:
                import_module(module)
            except ImportError as e:
                install = f"python3 -m pip install {' '.join(modules.values())}"
                raise RuntimeError(f"{package} cannot be imported ({e}): {install}") from e
            versions[package] = metadata.version(package)
        self.baseline = facts.peak_memory()
        yield {"done": True, "versions": versions, "pinned": pinned} | facts.machine_facts()

    def do_load(
        self,
        name: str,
        file: str,
        sizes: dict[str, int],
        shape: list[int],
        threads: int,
        device: str,
    ) -> Iterator[Answer]:
        """Take a network's files and make a session; `file` is the runtime's module.

        All bytes are taken before anything may go wrong, so that the next request is understood.
        """
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        for path, size in sizes.items():
            self.take(folder / (Path(path).name.strip(".") or "file"), size)
        numbers = self.take_numbers(4 * _product(shape))
        kind = import_module(f"nasattn.runtimes.{file}").Session

        def make() -> Any:
            session = kind(folder, shape, threads, device)
            session.feed(numbers)
            session.run()
            return session

        self.sessions[name], self.makers[name] = make(), make
        yield {"done": True}

    def do_answer(self, name: str, shape: list[int]) -> Iterator[Answer]:
        """The logits of a batch."""
        session = self.sessions[name]
        session.feed(self.take_numbers(4 * _product(shape)))
        yield {"done": True, "logits": session.answer()}

    def do_forget(self, name: str) -> Iterator[Answer]:
        """Let a network go."""
        self.sessions.pop(name, None)
        self.makers.pop(name, None)
        yield {"done": True}

    def do_time(
        self,
        names: list[str],
        reference: str,
        effort: dict[str, Any],
        seed: int,
        reloads: bool,
    ) -> Iterator[Answer]:
        """The milliseconds of networks, and the reference's in the same rounds."""
        rng = random.Random(seed)

        def load_again(left: Sequence[str]) -> None:
            """Anew, and in another order: so that each lies elsewhere in memory."""
            if reloads:
                for name in rng.sample([*left, reference], len(left) + 1):
                    self.sessions[name] = self.makers[name]()

        timers = {name: self.timer(name) for name in names}
        how = Effort(**effort), seed, load_again
        for name, timing in time_in_turns(timers, self.timer(reference), *how):
            yield {"name": name, "own": timing.own, "reference": timing.reference}
        yield {"done": True, "load": facts.load()}

    def do_memory(self, name: str) -> Iterator[Answer]:
        """Peak memory above what the runtime takes by itself; energy a run where it is readable.

        To be asked of a process that has loaded this one network.
        """
        session = self.sessions[name]
        for _ in range(MEMORY_RUNS):
            session.run()
        peak = facts.peak_memory()
        above = max(peak - self.baseline, 0) if peak else None
        own: Callable[[], int] | None = getattr(session, "peak_memory", None)
        answer: Answer = {"done": True, "peak_bytes": own() if own else above}
        if counters := facts.energy_counters():
            n, before, end = 0, facts.energy(counters), time.monotonic() + ENERGY_SECONDS
            while time.monotonic() < end:
                session.run()
                n += 1
            answer["energy_mj"] = (facts.energy(counters) - before) / n / 1000
        yield answer

    def timer(self, name: str) -> Timer:
        """What runs a network once and returns milliseconds, by its own clock if it has one."""

        def timer() -> float:
            session = self.sessions[name]
            own: Timer | None = getattr(session, "timed_run", None)
            if own is not None:
                return own()
            run, clock = session.run, time.perf_counter
            start = clock()
            run()
            return (clock() - start) * 1000

        return timer

    def take(self, path: Path, size: int) -> None:
        """Write the next bytes to a file, a piece at a time."""
        with path.open("wb") as file:
            while size:
                piece = self.source.read(min(size, CHUNK))
                if not piece:
                    raise CutOffError
                file.write(piece)
                size -= len(piece)

    def take_numbers(self, size: int) -> "array[float]":
        """The next bytes as float32."""
        numbers = array("f")
        data = self.source.read(size)
        if len(data) < size:
            raise CutOffError
        numbers.frombytes(data)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until there are no more; what goes wrong with one is its answer."""

    def say(answer: Answer) -> None:
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.flush()

    with tempfile.TemporaryDirectory(prefix="nasattn-", ignore_cleanup_errors=True) as folder:
        runner = Runner(source, Path(folder))
        while line := source.readline():
            try:
                for answer in runner.do(json.loads(line)):
                    say(answer)
            except CutOffError:
                return
            except Exception as e:
                words = str(e).strip().splitlines() or [""]
                plain = type(e) is RuntimeError and words[0]
                kind = "" if plain else f"{type(e).__name__}: "
                say({"error": f"{kind}{words[0]}".removesuffix(": ")})


def main() -> None:
    """Serve standard input and output; what a library prints goes to standard error."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)


def _product(shape: list[int]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n


if __name__ == "__main__":
    main()

"""Bench: networks timed on the runtime where they will live, in a process of their own."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasattn.cost.latency import Latency, figures_of
from nasattn.cost.parity import Parity, compare, settled
from nasattn.errors import EvaluationError
from nasattn.runtimes.process import RunnerProcess
from nasattn.runtimes.protocol import FULL_EFFORT, Effort, Timing
from nasattn.runtimes.spec import HERE, RuntimeSpec
from nasattn.turns import FREE, Turns

REFERENCE, ALONE = "the reference", "alone"  # a runner's names; networks have numbers
N_TOGETHER = 25  # networks that take turns; more would only take memory
N_PICTURES = 16  # for parity, at least

Files = Mapping[str, bytes]  # by name


@dataclass(frozen=True)
class Converted:
    """A network in a runtime's own form, and what it must answer."""

    files: Files
    logits: Tensor | None  # (N, classes) of the bench's pictures; None: whatever it answers

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.files.values()))


@dataclass(frozen=True)
class Measured:
    """What came of a network: its latency and parity, or why it has none."""

    name: str
    latency: Latency | None = None
    parity: Parity | None = None
    reason: str = ""


class Bench:
    """Times networks beside a reference, by the whole protocol.

    `pictures`: (N, C, H, W), as the networks are to see them. A network is converted, must answer
    them as it did in torch, and is then timed: in a process that is pinned to cores of its own
    where that is possible, on a machine with nothing else of ours running. With `memory` a further
    process finds out what one network takes.
    """

    def __init__(
        self,
        spec: RuntimeSpec,
        reference: nn.Module,
        pictures: Tensor,
        *,
        effort: Effort = FULL_EFFORT,
        memory: bool = False,
        seed: int = 0,
        turns: Turns = FREE,
    ) -> None:
        self.spec, self.reference = spec, reference
        n = -(-max(N_PICTURES, spec.batch) // spec.batch) * spec.batch
        self.pictures = pictures[torch.arange(n) % len(pictures)].float().contiguous()
        self.effort, self.memory, self.seed = effort, memory, seed
        self.turns = turns if spec.target == HERE else FREE
        self._converter = spec.row.load()
        self._converted_reference: Converted | None = None
        self._runner: RunnerProcess | None = None
        self.facts: Mapping[str, Any] = {}  # what the machine that times says of itself

    @property
    def runtime(self) -> str:
        """The runtime and its version there, once it has run: `onnxruntime 1.31.1`."""
        package = next(iter(self.spec.row.runs.values()))
        version = self.facts.get("versions", {}).get(package, "")
        return f"{self.spec.runtime} {version}".rstrip()

    def start(self) -> RunnerProcess:
        """The process that times, with the reference loaded; a new one where there is none.

        Raises EvaluationError where it or the reference does not run.
        """
        if self._runner is not None and self._runner.is_lost:
            self.close()
        if self._runner is None:
            if self._converted_reference is None:
                with blamed("the reference: "):
                    self._converted_reference = self.convert(self.reference)
            runner = RunnerProcess(self.spec, cores=self.spec.threads)
            try:
                with blamed("the reference: "):
                    self.load(runner, REFERENCE, self._converted_reference)
            except EvaluationError:
                runner.close()
                raise
            self._runner, self.facts = runner, runner.facts
        return self._runner

    def measure(self, model: nn.Module) -> Latency:
        """The latency of one network; raises EvaluationError where it has none."""
        (measured,) = self.measure_all({"network": model})
        if measured.latency is None:
            raise EvaluationError(measured.reason)
        return measured.latency

    def measure_reference(self) -> Latency:
        """The reference's own, as a network beside itself."""
        return self.measure(self.reference)

    def measure_all(self, models: Mapping[str, nn.Module | Converted]) -> Iterator[Measured]:
        """What came of each network, some together; those without a latency with the reason."""
        names = list(models)
        for start in range(0, len(names), N_TOGETHER):
            group = {name: models[name] for name in names[start : start + N_TOGETHER]}
            yield from self._measure_group(group)

    def _measure_group(self, models: Mapping[str, nn.Module | Converted]) -> Iterator[Measured]:
        """Networks that take turns."""
        ready: dict[str, tuple[str, Converted, Parity]] = {}  # by the runner's name
        for key, (name, model) in zip(map(str, count()), models.items(), strict=False):
            try:
                converted = model if isinstance(model, Converted) else self.convert(model)
                parity = self.load(self.start(), key, converted)
            except EvaluationError as e:
                yield Measured(name, reason=str(e))
            else:
                ready[key] = name, converted, parity
        try:
            found = self._time(list(ready))
        except EvaluationError as e:
            self.close()
            yield from (Measured(name, reason=str(e)) for name, _, _ in ready.values())
            return
        for key, latency in found.items():
            name, converted, parity = ready[key]
            latency = replace(latency, size_bytes=converted.size_bytes)
            if self.memory:
                with suppress(EvaluationError):  # it stays unknown
                    latency = replace(latency, **self._take(converted))  # type: ignore[arg-type]
            yield Measured(name, latency, parity)
        if self._runner is not None:
            with suppress(EvaluationError):
                for key in ready:
                    self._runner.tell("forget", name=key)

    def _time(self, names: Sequence[str]) -> dict[str, Latency]:
        if not names:
            return {}
        runner = self.start()
        with self.turns.measuring():
            answers = runner.ask(
                "time",
                names=names,
                reference=REFERENCE,
                effort=asdict(self.effort),
                seed=self.seed,
                reloads=self.spec.row.reloads,
            )
            found = [answer for answer in answers if "name" in answer]
        return {a["name"]: self._latency(Timing(a["own"], a["reference"])) for a in found}

    def _latency(self, timing: Timing) -> Latency:
        return Latency(
            **figures_of(timing),
            runtime=self.runtime,
            threads=self.spec.threads,
            device=self.spec.device,
            batch=self.spec.batch,
            target=self.spec.target,
        )

    def _take(self, converted: Converted) -> dict[str, float]:
        """What a network takes in a process that has no other: memory, energy."""
        runner = RunnerProcess(self.spec)
        try:
            self.load(runner, ALONE, replace(converted, logits=None))
            return runner.tell("memory", name=ALONE)
        finally:
            runner.close()

    def convert(self, model: nn.Module) -> Converted:
        """A network in the runtime's form; raises EvaluationError where it cannot be had."""
        x = self.pictures[: self.spec.batch]
        try:
            model = settled(model, self.pictures)
            with torch.inference_mode():
                logits = model(self.pictures)
        except (RuntimeError, ValueError, MemoryError) as e:
            raise EvaluationError(f"cannot be run on {list(x.shape)} ({first_line(e)})") from e
        try:
            with tempfile.TemporaryDirectory(prefix="nasattn-") as folder, torch.no_grad(), quiet():
                self._converter.convert(model, x, Path(folder))
                files = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}
        except Exception as e:  # whatever a converter raises, the network is not for this runtime
            raise EvaluationError(f"{self.spec}: cannot be converted ({first_line(e)})") from e
        return Converted(files, logits)

    def load(self, runner: RunnerProcess, name: str, converted: Converted) -> Parity:
        """Send a network to a runner and see what it answers; raises EvaluationError."""
        spec = self.spec
        batches = torch.split(self.pictures, spec.batch)
        shape = list(batches[0].shape)
        runner.tell(
            "load",
            [*converted.files.values(), numbers(batches[0])],
            name=name,
            file=spec.row.file,
            sizes={file: len(data) for file, data in converted.files.items()},
            shape=shape,
            threads=spec.threads,
            device=spec.device,
        )
        if converted.logits is None:
            return Parity(0.0, 0, 0, 0)
        found: list[float] = []
        for batch in batches:
            found += runner.tell("answer", [numbers(batch)], name=name, shape=shape)["logits"]
        parity = compare(converted.logits, found)
        parity.check()
        return parity

    def close(self) -> None:
        """End the process; the next measurement starts another one."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


@contextmanager
def blamed(words: str) -> Iterator[None]:
    """An EvaluationError with these words before its own."""
    try:
        yield
    except EvaluationError as e:
        raise EvaluationError(f"{words}{e}") from e


def first_line(error: BaseException) -> str:
    """What an error says first, or what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what converters print, from below Python too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(n) for n in (1, 2)]
    try:
        with Path(os.devnull).open("wb") as nowhere:
            for n in (1, 2):
                os.dup2(nowhere.fileno(), n)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for n, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, n)
            os.close(copy)


def numbers(x: Tensor) -> bytes:
    """A tensor as float32, little-endian."""
    return x.numpy().astype("<f4").tobytes()

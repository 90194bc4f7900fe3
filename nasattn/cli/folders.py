"""Folders for results, and how a training that stopped goes on in its own."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from nasattn.errors import EvaluationError, NasattnError, StudyError
from nasattn.files import write_text
from nasattn.tensor_file import FileFacts, read_tensors
from nasattn.train.checkpoint import Checkpoint, check_same_run

CHECKPOINT = "checkpoint.pt"
LOCK = ".lock"

F = TypeVar("F", bound=FileFacts)


def check_folder(folder: Path) -> None:
    """StudyError where results cannot go there; writes nothing."""
    try:
        nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        usable = nearest.is_dir() and not folder.is_symlink()
    except OSError as e:
        raise StudyError(f"{folder}: cannot take results ({e.strerror})") from e
    if not usable and not folder.is_dir():
        raise StudyError(f"{folder}: cannot take results: {nearest} is not a folder")


def make_folder(folder: Path) -> None:
    """A folder, made before anything is trained; StudyError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise StudyError(f"{folder}: cannot be written ({e.strerror})") from e


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """A folder, made where it is not there, for this process alone to write; else StudyError."""
    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StudyError(
            f"{folder}: another process is writing there; wait for it, or -o takes another folder"
        ) from None
    except OSError as e:
        raise StudyError(f"{folder / LOCK}: cannot be locked ({e.strerror or e})") from e
    try:
        yield
    finally:
        lock.release()


def check_target(path: Path, *others: Path | str | None) -> None:
    """StudyError unless a file may be written there: it is absent, or a regular one.

    Nor may it be one of the `others`: what the command reads, and what else it writes.
    """
    try:
        usable = not path.is_symlink() and (path.is_file() or not path.exists())
    except OSError as e:  # a name that no file can have
        raise StudyError(f"{path}: cannot be written ({e.strerror})") from e
    if not usable:
        raise StudyError(f"{path}: must be a new file or a regular one, which is then replaced")
    for other in others:
        if other is not None and _same_file(path, Path(other)):
            raise StudyError(f"{path}: is read or written as {other} by the same command")


def _same_file(a: Path, b: Path) -> bool:
    try:
        b = b.expanduser()
        return a.samefile(b) if a.exists() and b.exists() else a.resolve() == b.resolve()
    except (OSError, RuntimeError):  # the other one is nothing that can be opened
        return False


def write_result(path: Path, text: str) -> None:
    """Write a text file atomically; raises where that cannot be done, or by `check_target`."""
    check_target(path)
    try:
        write_text(path, text)
    except OSError as e:
        raise EvaluationError(f"{path}: cannot be written ({e.strerror or e})") from e


@dataclass(frozen=True)
class RunFolder:
    """A training's folder: its tensors, a file beside them, a checkpoint until all is done."""

    path: Path
    tensors: str
    beside: str
    run: Mapping[str, Any]  # which training it is, as plain data
    ground: Mapping[str, Any] = field(default_factory=dict)  # what else it must go on with

    @property
    def result(self) -> Path:
        return self.path / self.tensors

    @property
    def report(self) -> Path:
        return self.path / self.beside

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.path / CHECKPOINT, {**self.run, **self.ground})

    def earlier(self, kind: type[F]) -> F | None:
        """What the tensors there say of themselves, None where there are none.

        Raises EvaluationError where they are damaged, or of another training.
        """
        if not self.result.exists():
            return None
        with remedy("-o takes another folder, --overwrite replaces it"):
            facts = read_tensors(self.result, kind).facts
            check_same_run(facts.run, self.run, self.result)
        return facts

    def clear(self, *, overwrite: bool) -> list[tuple[Any, ...]]:
        """Make way for the training; returns the curve of what is done of it already.

        With `overwrite` the results of any training go, and a checkpoint unless it is of this one.
        """
        state = None
        try:
            with remedy("-o takes another folder, --overwrite drops it"):
                state = self.checkpoint.read()
        except EvaluationError:
            if not overwrite:
                raise
            self.checkpoint.path.unlink()
        if overwrite:
            for path in (self.result, self.report):
                path.unlink(missing_ok=True)
        return [] if state is None else state["curve"]

    def done(self) -> None:
        """Nothing is left to go on with."""
        self.checkpoint.path.unlink(missing_ok=True)


@contextmanager
def remedy(text: str) -> Iterator[None]:
    """Add to one of our errors what the user can do about it."""
    try:
        yield
    except NasattnError as e:
        raise EvaluationError(f"{e}; {text}") from e

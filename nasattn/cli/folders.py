"""Folders for results, and how a training that stopped goes on in its own."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nasattn.errors import EvaluationError, NasattnError, StudyError
from nasattn.files import write_text
from nasattn.tensor_file import FileFacts, read_tensors
from nasattn.train.checkpoint import Checkpoint, check_same_run

CHECKPOINT = "checkpoint.pt"

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


def write_result(path: Path, text: str) -> None:
    """Write a text file atomically; EvaluationError where that cannot be done."""
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

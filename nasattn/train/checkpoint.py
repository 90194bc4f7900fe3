"""Checkpoint: the state of a training after its latest epoch, kept in one file."""

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator

from nasattn.data.archive import Damaged
from nasattn.errors import EvaluationError, TransientError
from nasattn.files import write_bytes
from nasattn.spec import differences

LAYOUT = 1  # to be raised with every change to what the file holds
SHOWN = 3


class Stateful(Protocol):
    """A part of a training: model, optimiser, schedule."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


@dataclass(frozen=True)
class Checkpoint:
    """Where a training keeps its state; `run` says as plain data which training it is.

    The file holds values, and never code.
    """

    path: Path
    run: Mapping[str, Any]

    def save(
        self, parts: Mapping[str, Stateful], rng: Generator, curve: Sequence[tuple[Any, ...]]
    ) -> None:
        """Write the state atomically. Raises TransientError where that cannot be done."""
        state = {
            "layout": LAYOUT,
            "run": dict(self.run),
            "curve": list(curve),
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "rng": rng.get_state(),
            "torch_rng": torch.get_rng_state(),  # dropout
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        try:
            write_bytes(self.path, buffer.getvalue())
        except OSError as e:
            raise TransientError(f"{self.path}: cannot be written ({e.strerror or e})") from e

    def read(self) -> dict[str, Any] | None:
        """The state that was saved last, if any.

        Raises EvaluationError where it is damaged, or the state of another training.
        """
        try:
            state = load_values(self.path)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise EvaluationError(f"{self.path}: cannot be read ({e.strerror or e})") from e
        except Damaged as e:
            raise EvaluationError(f"{self.path}: not a checkpoint, or a damaged one") from e
        if not isinstance(state, dict) or state.get("layout") != LAYOUT:
            raise EvaluationError(f"{self.path}: not a checkpoint of this version of nasattn")
        check_same_run(state["run"], self.run, self.path)
        return state

    def curve(self) -> list[tuple[Any, ...]]:
        """The rows of the learning curve that was saved; empty without a file."""
        state = self.read()
        return [tuple(row) for row in state["curve"]] if state else []

    def begun(self) -> list[tuple[Any, ...]]:
        """As `curve`; a state that cannot be gone on with is removed."""
        try:
            return self.curve()
        except EvaluationError:  # damaged, or of another version
            self.path.unlink(missing_ok=True)
            return []

    def restore(self, parts: Mapping[str, Stateful], rng: Generator) -> list[tuple[Any, ...]]:
        """Put a training back to where it was saved; its curve so far, empty without a file."""
        state = self.read()
        if state is None:
            return []
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        rng.set_state(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return [tuple(row) for row in state["curve"]]


def load_values(path: Path) -> Any:
    """What `torch.save` wrote, if it is tensors and plain values alone: no file can run code.

    Raises Damaged for other bytes, OSError where the file cannot be opened.
    """
    data = io.BytesIO(path.read_bytes())  # torch itself gives an OSError for a file cut short
    try:
        return torch.load(data, map_location="cpu", weights_only=True)
    except DAMAGE as e:
        raise Damaged("not a file of torch that holds tensors and plain values alone") from e


# What torch.load raises on bytes that it did not write, or that would run code.
DAMAGE = (
    pickle.UnpicklingError,
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
)


def check_same_run(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """EvaluationError naming what differs, unless two trainings are the same."""
    changed = [f"{name}: {a} then, {b} now" for name, a, b in differences(dict(then), dict(now))]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise EvaluationError(
            f"{path}: is of another training ({'; '.join(changed[:SHOWN])}{more})"
        )

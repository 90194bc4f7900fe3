"""What a command computes on: the options that say it, and the memory that there is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import optuna
import torch
from pydantic import Field
from rich.console import Console
from torch import nn

from nasattn.cost import count_params
from nasattn.errors import ArchitectureError, EvaluationError
from nasattn.evaluate import Setting, check_device, is_out_of_memory
from nasattn.search.environment import environment
from nasattn.spec import Spec, differences

MOST_PARAMS = 2**31  # 8 GiB of weights, before gradients and what an optimiser keeps
# What a plug-in's module may raise on the meta device, which it need not know.
OFF_META = (RuntimeError, TypeError, ValueError)


class Machine(Spec):
    """What a training runs on."""

    device: str = "cpu"
    threads: Annotated[int, Field(gt=0, le=1024)] = 1

    def use(self) -> None:
        """Check that it can be used; sets the threads. Raises StudyError."""
        check_device(self.device)
        torch.set_num_threads(self.threads)


def check_params(name: str, build: Callable[[], nn.Module]) -> None:
    """ArchitectureError where `build` would allocate more than MOST_PARAMS parameters.

    They are counted on the meta device, which allocates nothing; what cannot be built there is
    left to the build itself.
    """
    params = 0
    with suppress(*OFF_META), torch.device("meta"):
        params = count_params(build())
    if params > MOST_PARAMS:
        raise ArchitectureError(
            f"{name}: has {params:,} parameters; at most {MOST_PARAMS:,} can be built"
        )


@contextmanager
def plain_memory_errors(remedy: str) -> Iterator[None]:
    """Out of memory, in any of torch's words, as one line with what may mend it."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise EvaluationError(f"out of memory; {remedy}") from e


def prepare(console: Console, study: optuna.Study, setting: Setting) -> float | None:
    """Write down once what this study ran on; returns its reference latency, where it has one."""
    if "environment" not in study.user_attrs:
        if any(row.name == "latency_ms" for row in setting.needed()):
            latency = setting.meter.measure(setting.meter.reference)
            study.set_user_attr("reference_ms", latency.reference_ms)
        study.set_user_attr("n_val", len(setting.data.val_search))
        study.set_user_attr("n_classes", len(setting.data.classes))
    note_environment(console, study)
    reference: float | None = study.user_attrs.get("reference_ms")
    return reference


def note_environment(console: Console, study: optuna.Study) -> None:
    """Write down once what this study ran on, and say what is different now."""
    if "environment" not in study.user_attrs:
        study.set_user_attr("environment", environment())
    for name, then, now in differences(study.user_attrs["environment"], environment()):
        console.print(
            f"note: this study began with {name} {then}, goes on with {now}", markup=False
        )

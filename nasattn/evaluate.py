"""evaluate: from an architecture to its Evaluation, the cheap figures first."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from nasattn.arch import Architecture
from nasattn.bank import Bank
from nasattn.baselines import get_baseline
from nasattn.cost import Latency, LatencyMeter, PieceCounter, StaticCost, count_cost
from nasattn.cost.bench import N_PICTURES, Bench
from nasattn.data import ImageData
from nasattn.data.augment import Normalise, to_float
from nasattn.errors import StudyError, TransientError
from nasattn.files import slug
from nasattn.initial import build_alike
from nasattn.objectives import OBJECTIVES, Constraint, Cost, Objective, get_objective
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import Epoch, subset, to_tensors, train_model
from nasattn.train.recipe import Recipe
from nasattn.turns import FREE, Turns

State = Literal["complete", "infeasible", "stopped", "failed"]
OnEpoch = Callable[[Epoch], None]
# Whether a training ends early, by its curve so far and what was known before it, by objective and
# by estimator; also asked before the first epoch.
Stops = Callable[[Sequence[Epoch], Mapping[str, float]], bool]
# Pictures of what a trained network does with some of the data: PNGs by file name.
Illustrate = Callable[[nn.Module, ImageData], Mapping[str, bytes]]


class Estimated(Protocol):
    """What an estimator says of a network."""

    @property
    def value(self) -> float | None:
        """None where it failed."""

    @property
    def cpu_seconds(self) -> float:
        """What it took."""


# What is said of a network before it is trained, by estimator.
Estimates = Callable[[Architecture, "Setting"], Mapping[str, Estimated]]

LATENCY_REFERENCE = "mobilenet_v2"
ALWAYS_KNOWN = ("macs", "params")
MEMORY_SIGNS = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")


@dataclass(frozen=True)
class Evaluation:
    """What is known of one network after its trial; what was not found is not in `values`."""

    state: State
    values: dict[str, float] = field(default_factory=dict)  # by objective
    violations: dict[str, float] = field(default_factory=dict)  # by constraint; > 0 breaks it
    reason: str = ""  # why it failed, is infeasible or was stopped
    curve: tuple[Epoch, ...] = ()
    estimates: Mapping[str, float] = field(default_factory=dict)  # by estimator; none that failed
    estimate_seconds: Mapping[str, float] = field(default_factory=dict)  # of CPU, by estimator
    static: StaticCost | None = None
    latencies: Mapping[str, Latency] = field(default_factory=dict)  # by objective
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # PNGs by file name
    seconds: float = 0.0
    transient: bool = False  # whether it failed of what another attempt may not meet

    @property
    def known(self) -> dict[str, float]:
        """Values and estimates; one of both is the same figure."""
        return {**self.estimates, **self.values}


class Meter(Protocol):
    """What measures latency: a LatencyMeter, or a Bench."""

    def measure(self, model: nn.Module) -> Latency: ...
    def measure_reference(self) -> Latency: ...


@dataclass(frozen=True)
class Setting:
    """All that evaluations of one study share."""

    data: ImageData
    recipe: Recipe
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0
    device: str = "cpu"
    # the latency reference's median when the study began, by objective
    reference_ms: Mapping[str, float] = field(default_factory=dict)
    # arch_id -> networks whose initial weights it takes over, see `build_alike`
    lineages: Mapping[str, tuple[Architecture, ...]] = field(default_factory=dict)
    turns: Turns = FREE
    bank: Bank | None = None  # shared weights that networks begin with, as far as it has them
    illustrate: Illustrate | None = None  # of networks that were trained to the end
    estimates: Estimates | None = None  # made before a training, for `stops`
    checkpoints: Path | None = None  # folder where trainings keep their state after each epoch
    # what was started to measure, by objective; settings made from this one share it
    meters: dict[str, Meter] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        recipe, n_classes = self.recipe, len(self.data.classes)
        for name in ("train_size", "watch_size"):
            size = getattr(recipe, name)
            if size is not None and size < n_classes:
                raise StudyError(
                    f"{name}: must be at least {n_classes} (a picture a class), is {size}"
                )

    def __getstate__(self) -> dict[str, Any]:
        """To travel to a worker, which starts its own meters unless they say they travel."""
        state = {name: value for name, value in vars(self).items() if name != "counter"}
        travelling = {k: m for k, m in self.meters.items() if getattr(m, "travels", False)}
        return state | {"meters": travelling, "turns": Turns(self.turns.file)}

    def meter(self, objective: Objective) -> Meter:
        """What measures a latency objective beside MobileNetV2 on the same pictures.

        In this very process where the objective names no runtime. Raises EvaluationError where it
        cannot be started.
        """
        if objective.name not in self.meters:
            arch = get_baseline(LATENCY_REFERENCE).architecture.at_resolution(self.data.resolution)
            self.meters[objective.name] = self._make_meter(objective, self.build(arch))
        return self.meters[objective.name]

    def _make_meter(self, objective: Objective, reference: nn.Module) -> Meter:
        if objective.runtime is None:
            size, device, turns = self.data.resolution, self.device, self.turns
            return LatencyMeter(reference, size, device=device, turns=turns)
        images, _ = to_tensors(self.data.train, "cpu")
        some = to_tensors(self.data.val_search, "cpu")[0][:N_PICTURES]
        pictures = Normalise.of(images)(to_float(some))
        return Bench(objective.runtime, reference, pictures, turns=self.turns)

    def build(self, arch: Architecture) -> nn.Module:
        """The network with the study's initial weights (the same seed gives the same ones)."""
        kin = (*self.lineages.get(arch.arch_id, ()), arch)
        model = build_alike(kin, len(self.data.classes), self.seed)
        if self.bank:
            self.bank.fill(arch, model)
        return model

    def checkpoint(self, what: Mapping[str, Any], recipe: Recipe) -> Checkpoint | None:
        """Where a training by a recipe keeps its state; `what` is trained, as plain data.

        None where nothing is to be kept, or cannot be.
        """
        if self.checkpoints is None:
            return None
        with suppress(OSError):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        if not os.access(self.checkpoints, os.W_OK):  # of another machine
            return None
        recipe_id = recipe.recipe_id(self.data.content_hash, mirror=self.data.mirror)
        run = {**what, "recipe_id": recipe_id, "seed": self.seed}
        name = "-".join(slug(str(value)) for value in run.values())
        return Checkpoint(self.checkpoints / f"{name}.pt", run)

    @cached_property
    def normalise(self) -> Normalise:
        """As a training by the recipe has it."""
        pictures = subset(self.data.train, self.recipe.train_size)
        return Normalise.of(to_tensors(pictures, self.device)[0])

    @cached_property
    def counter(self) -> PieceCounter:
        """Counts the static costs of many networks on the study's pictures."""
        return PieceCounter(len(self.data.classes), self.data.resolution)

    def needed(self) -> list[Objective]:
        return needed(self.objectives, self.constraints)


def needed(objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> list[Objective]:
    """Objectives to find, the limited ones and the free ones too, the cheapest first."""
    limited = (c.objective for c in constraints)
    rows = (*objectives, *limited, *(OBJECTIVES[name] for name in ALWAYS_KNOWN))
    return sorted({row.name: row for row in rows}.values(), key=lambda row: row.cost)


@dataclass(frozen=True)
class Sketch:
    """A network that is not built: what a static objective is found from."""

    arch: Architecture
    static: StaticCost


class StoppedError(Exception):
    """A training was ended early."""


class Candidate:
    """A network on its way through an evaluation; each figure is found when first asked for."""

    def __init__(
        self, arch: Architecture, setting: Setting, on_epoch: OnEpoch, stops: Stops
    ) -> None:
        self.arch = arch
        self.setting = setting
        self.on_epoch = on_epoch
        self.stops = stops
        self.values: dict[str, float] = {}  # found so far, by objective
        self.epochs: list[Epoch] = []  # as far as training came
        self.found_static: StaticCost | None = None
        self.latencies: dict[str, Latency] = {}  # by objective
        self.estimated: Mapping[str, Estimated] = {}  # by estimator

    @cached_property
    def model(self) -> nn.Module:
        return self.setting.build(self.arch)

    @cached_property
    def static(self) -> StaticCost:
        self.found_static = count_cost(self.model, self.setting.data.resolution)
        return self.found_static

    def latency_ms(self, objective: str) -> float:
        """The ratio to the reference in the same rounds, times the reference's at the start.

        A machine that is slower today slows the reference as well, and so changes nothing.
        """
        latency = self.setting.meter(get_objective(objective)).measure(self.model)
        self.latencies[objective] = latency
        return latency.relative * self.setting.reference_ms.get(objective, latency.reference_ms)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        """Where a training keeps its state, so that one whose process dies goes on."""
        setting = self.setting
        begin = {"init": setting.bank.identity} if setting.bank else {}
        return setting.checkpoint({"arch_id": self.arch.arch_id} | begin, setting.recipe)

    @property
    def estimates(self) -> dict[str, float]:
        """What its estimators said, but for those that failed."""
        every = ((name, found.value) for name, found in self.estimated.items())
        return {name: value for name, value in every if value is not None}

    @property
    def known(self) -> dict[str, float]:
        return {**self.estimates, **self.values}

    @cached_property
    def curve(self) -> tuple[Epoch, ...]:
        setting = self.setting
        if setting.estimates:
            self.estimated = setting.estimates(self.arch, setting)
            if self.stops((), self.known):
                raise StoppedError("stopped before its training, by its estimates")
        for row in self.rows_before():
            self._keep_epoch(Epoch(*row))  # it may be judged that was not when the process died
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)  # dropout
            train_model(
                self.model,
                setting.data,
                setting.recipe,
                seed=setting.seed,
                device=setting.device,
                on_epoch=self._keep_epoch,
                checkpoint=self.checkpoint,
                turns=setting.turns,
            )
        return tuple(self.epochs)

    def pictures(self) -> Mapping[str, bytes]:
        """What the setting shows of the trained network; nothing where it was not trained."""
        if not (self.setting.illustrate and self.epochs):
            return {}
        try:
            return self.setting.illustrate(self.model, self.setting.data)
        except (RuntimeError, MemoryError) as e:
            if is_out_of_memory(e):  # the figures are there, and count more
                return {}
            raise

    def rows_before(self) -> list[tuple[Any, ...]]:
        """The epochs before the process died; none of a state that cannot be read any more."""
        return self.checkpoint.begun() if self.checkpoint else []

    def forget(self) -> None:
        """Remove the state of a training that needs it no more."""
        if self.checkpoint:
            self.checkpoint.path.unlink(missing_ok=True)

    def _keep_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.on_epoch(epoch)
        n_epochs = self.setting.recipe.epochs
        if epoch.number < n_epochs and self.stops(self.epochs, self.known):
            raise StoppedError(f"stopped after epoch {epoch.number} of {n_epochs}")


def evaluate(
    arch: Architecture,
    setting: Setting,
    on_epoch: OnEpoch = lambda epoch: None,
    stops: Stops = lambda curve, values: False,
) -> Evaluation:
    """Find a network's objectives in order of cost; a broken limit ends it before the next cost.

    `stops` is asked after each epoch but the last and, where the setting has `estimates`, before
    the first. A network that cannot be trained or measured here (not finite, out of memory, shapes
    that do not fit) gives a failed Evaluation with the reason. Other exceptions are bugs and pass
    through. Where the setting has a folder for checkpoints, a training whose process died goes on
    after its last whole epoch.
    """
    start = time.perf_counter()
    candidate = Candidate(arch, setting, on_epoch, stops)
    values = candidate.values
    violations: dict[str, float] = {}
    state: State = "complete"
    reason = ""
    transient = False
    try:
        for cost in Cost:
            for row in (row for row in setting.needed() if row.cost == cost):
                values[row.name] = row.measure(candidate)
            violations |= _violations(setting.constraints, cost, values)
            if broken := [name for name, excess in violations.items() if excess > 0]:
                state = "complete" if cost == Cost.TRAINED else "infeasible"
                reason = f"breaks {', '.join(broken)}"
                break
    except StoppedError as e:
        state, reason = "stopped", str(e)
    except (RuntimeError, ValueError, MemoryError) as e:  # torch's, and our EvaluationError
        state, reason = "failed", one_line(e)
        # A StudyError is that of a machine whose turns cannot be kept.
        transient = is_out_of_memory(e) or isinstance(e, TransientError | StudyError)
    if not transient:
        candidate.forget()
    return Evaluation(
        state,
        values,
        violations,
        reason,
        curve=tuple(candidate.epochs),
        estimates=candidate.estimates,
        estimate_seconds={n: round(e.cpu_seconds, 3) for n, e in candidate.estimated.items()},
        static=candidate.found_static,
        latencies=candidate.latencies,
        pictures=candidate.pictures() if state == "complete" else {},
        seconds=time.perf_counter() - start,
        transient=transient,
    )


@dataclass(frozen=True)
class TrainingEvaluator:
    """Evaluates networks by training them, as `evaluate` does."""

    setting: Setting

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        return evaluate(arch, self.setting, on_epoch, stops)

    def static_values(self, arch: Architecture) -> dict[str, float]:
        """The objectives that are known without building the network, as evaluating finds them.

        Raises RuntimeError or ValueError where it cannot be counted.
        """
        sketch = Sketch(arch, self.setting.counter.count(arch))
        rows = (row for row in self.setting.needed() if row.cost == Cost.STATIC)
        return {row.name: row.measure(sketch) for row in rows}


def _violations(
    constraints: Iterable[Constraint], cost: Cost, values: dict[str, float]
) -> dict[str, float]:
    return {
        str(c): c.violation(values[c.objective.name])
        for c in constraints
        if c.objective.cost == cost
    }


def one_line(error: BaseException) -> str:
    """An error as one line; every form of 'out of memory' under one name."""
    text = str(error).strip().split("\n")[0]
    if is_out_of_memory(error):
        return f"out of memory: {text}".rstrip(": ")
    return text or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on a processor torch says so in a plain RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)


def check_device(device: str) -> str:
    """`device` if torch can use it; raises StudyError saying what is allowed."""
    have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device not in have and not (device == "cuda" and torch.cuda.is_available()):
        raise StudyError(f"device {device!r}: cannot be used here; there is {', '.join(have)}")
    return device

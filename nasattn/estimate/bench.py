"""The bench: networks of a space, their truth by training, and what estimators say of them."""

import csv
import io
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field

from nasattn.arch import Architecture
from nasattn.attention.plugins import plugin_digests
from nasattn.baselines import get_baseline
from nasattn.cost import PieceCounter
from nasattn.data import ImageData
from nasattn.errors import StudyError
from nasattn.estimate.estimator import Estimate, Ground
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.table import FULL, estimate, parts_of, prepare, prepared_for
from nasattn.evaluate import Evaluation, OnEpoch, Setting
from nasattn.search.engines.engine import INLINE, Engine, Job
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch
from nasattn.train.recipe import TrainingSpec

USUAL = (
    "params",
    "naswot",
    "synflow",
    "zen",
    "snip",
    "grad_norm",
    "zico",
    "epochs:1",
    "loss_at:1",
    "end_loss:1",
    "macs+naswot",
    "end_loss:1+naswot+macs",
)
CONTROLS = ("random", "macs")
# No truth has it: an estimate that began with a training's own weights would know its luck.
OWN_SEED = 10_000
N_TRIES = 1000  # networks drawn in a row that are all known, before there are taken to be no more
MAX_RETRIES = 2  # of an estimate whose process died


def _known(name: str) -> str:
    parts_of(name)
    return name


class BenchSpec(TrainingSpec):
    """Which networks are trained, on what, how often; and which estimators are asked."""

    space: str = "mobile"
    networks: Annotated[int, Field(ge=4, le=100_000)] = 60
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of which networks are drawn
    estimators: tuple[Annotated[str, AfterValidator(_known)], ...] = USUAL
    device: str = "cpu"

    def parts(self) -> list[str]:
        """All that are asked, alone or as parts of others."""
        return [*dict.fromkeys(part for name in self.rows() for part in parts_of(name))]

    def rows(self) -> list[str]:
        """The estimators to be ranked, with those that every other one is to be held against."""
        return [*dict.fromkeys((*CONTROLS, *self.estimators))]

    def settings(self, data: ImageData, space: SearchSpace) -> dict[str, Any]:
        """All that every estimate of a folder has in common, as plain data.

        Not the networks, seeds and estimators, of which more may be asked for later.
        """
        recipe = self.recipe.model_dump(mode="json", exclude_defaults=True)
        pictures = {"name": data.name, "hash": data.content_hash}
        code = plugin_digests(space.model_dump_json())
        own = {"data": pictures, "recipe": recipe, "device": self.device}
        return own | ({"plugins": code} if code else {})


@dataclass(frozen=True)
class Drawn:
    """A network of a truth set."""

    name: str  # of a baseline, else its arch_id
    arch: Architecture  # for the pictures
    params: Mapping[str, Any]  # of the space


def draw_networks(space: SearchSpace, n: int, seed: int, resolution: int) -> list[Drawn]:
    """The space's baselines, then networks drawn uniformly choice by choice, all different.

    Fewer are the first ones of more. Raises StudyError where the space has not so many.
    """
    rng, found, tries = Random(seed), dict[str, Drawn](), 0
    baselines = deque(space.baselines)
    while len(found) < n:
        name = baselines.popleft() if baselines else ""
        drawn = get_baseline(name).architecture if name else space.decode(space.sample(rng))
        arch = drawn.at_resolution(resolution)
        if arch.arch_id in found:
            tries += 1
            if tries == N_TRIES:
                raise StudyError(
                    f"networks: space {space.name!r} has {len(found)} that differ at "
                    f"{resolution}x{resolution}, not {n}"
                )
            continue
        tries = 0
        found[arch.arch_id] = Drawn(name or arch.arch_id, arch, space.encode(drawn))
    return [*found.values()]


def truth_tasks(networks: Sequence[Drawn], seeds: int) -> list[Task]:
    """All networks with one seed, then with the next: what is done so far is of use."""
    return [Task(FULL, seed, one.arch.arch_id) for seed in range(seeds) for one in networks]


def estimate_tasks(networks: Sequence[Drawn], parts: Iterable[str]) -> list[Task]:
    """One estimator after the other, each of all networks."""
    return [Task(name, OWN_SEED, one.arch.arch_id) for name in parts for one in networks]


def preparing_tasks(space: SearchSpace, parts: Iterable[str]) -> list[Task]:
    """What estimators need done once for all networks: estimates, as it were, of the space."""
    names = dict.fromkeys(filter(None, map(prepared_for, parts)))
    return [Task(name, OWN_SEED, space.space_id) for name in names]


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def started(self, task: Task) -> None: ...
    def epoch(self, task: Task, epoch: Epoch) -> None: ...
    def finished(self, task: Task, found: Estimate) -> None: ...


@dataclass(frozen=True)
class Estimating:
    """The Work of a bench: the estimate that the job's key names, or the preparing for one."""

    setting: Setting
    ground: Ground | None = None
    by_seed: dict[int, Setting] = field(default_factory=dict)  # what they have counted is kept

    def __call__(self, job: Job, on_epoch: OnEpoch) -> Evaluation:
        task = Task.read(job.key)
        if task.seed not in self.by_seed:
            self.by_seed[task.seed] = replace(self.setting, seed=task.seed)
        name, setting, ground = task.estimator, self.by_seed[task.seed], self.ground
        try:
            if ground and task.arch_id == ground.space.space_id:
                found = prepare(name, setting, ground, on_epoch)
            else:
                found = estimate(name, job.arch, setting, on_epoch, ground)
        except StudyError as e:  # of a machine whose turns cannot be kept, as in `evaluate`
            found = Estimate(None, 0.0, reason=str(e), transient=True)
        return Evaluation(
            "complete" if found.value is not None else "failed",
            {"cpu_seconds": found.cpu_seconds}
            | ({} if found.value is None else {"value": found.value}),
            reason=found.reason,
            curve=found.curve,
            seconds=found.seconds,
            transient=found.transient,
        )


def run_tasks(
    tasks: Sequence[Task],
    networks: Sequence[Drawn],
    ledger: Ledger,
    setting: Setting,
    watcher: Watcher,
    engine: Engine = INLINE,
    ground: Ground | None = None,
) -> list[str]:
    """Make the estimates that the ledger does not hold; each is written when it is made.

    Those that have to be prepared need the ground, and that the tasks for that are done. What meets
    a bug is not written, and the others are made; returns the bugs' traces.
    """
    archs = {one.arch.arch_id: one.arch for one in networks}
    if ground:
        archs[ground.space.space_id] = ground.space.template
    left = deque(task for task in tasks if task not in ledger.rows)
    source = _Tasks(archs, left, ledger, watcher)
    while not source.is_over:
        n_bugs = len(source.traces)
        try:
            engine.run(source, Estimating(setting, ground))
        except Exception:
            if len(source.traces) == n_bugs:
                raise
            # The bug of a job in this very process: the engine ends with it, the bench does not.
    return source.traces


@dataclass
class _Tasks:
    """A Source: one task after the other."""

    archs: Mapping[str, Architecture]
    left: deque[Task]
    ledger: Ledger
    watcher: Watcher
    n_open: int = 0
    attempts: Counter[Task] = field(default_factory=Counter)  # that were lost
    traces: list[str] = field(default_factory=list)  # of bugs

    @property
    def is_over(self) -> bool:
        return not self.left and not self.n_open

    def next(self) -> Job | None:
        if not self.left:
            return None
        task = self.left.popleft()
        self.n_open += 1
        return Job(str(task), self.archs[task.arch_id], seed=task.seed)

    def started(self, job: Job, place: str) -> None:
        self.watcher.started(Task.read(job.key))

    def epoch(self, job: Job, epoch: Epoch) -> None:
        self.watcher.epoch(Task.read(job.key), epoch)

    def finished(self, job: Job, evaluation: Evaluation) -> None:
        values = evaluation.values
        self.end(
            Task.read(job.key),
            Estimate(
                values.get("value"),
                values.get("cpu_seconds", 0.0),
                evaluation.seconds,
                evaluation.reason,
                evaluation.curve,
                evaluation.transient,
            ),
        )

    def lost(self, job: Job, reason: str, trace: str = "") -> None:
        self.traces += [trace] if trace else []
        found = Estimate(None, 0.0, reason=reason, transient=True)
        self.end(Task.read(job.key), found, again=not trace)

    def end(self, task: Task, found: Estimate, *, again: bool = True) -> None:
        """Keep an estimate; what may be met by chance is tried `again`, and another day as well."""
        self.n_open -= 1
        if found.transient:
            self.attempts[task] += 1
            if again and self.attempts[task] <= MAX_RETRIES:
                self.left.appendleft(task)
                return
        else:
            self.ledger.add(task, found)
        self.watcher.finished(task, found)


def truth_of(networks: Sequence[Drawn], ledger: Ledger, seeds: int) -> dict[str, list[float]]:
    """arch_id -> top1 by seed, of the networks whose every training came to its end."""
    found = {}
    for one in networks:
        rows = [ledger.rows.get(Task(FULL, seed, one.arch.arch_id)) for seed in range(seeds)]
        values = [row.value for row in rows if row is not None and row.value is not None]
        if len(values) == seeds:
            found[one.arch.arch_id] = values
    return found


def whole_seeds(networks: Sequence[Drawn], ledger: Ledger) -> int:
    """How many seeds, from 0 on, all networks have been trained by."""
    ids = [one.arch.arch_id for one in networks]
    seeds = 0
    while all(Task(FULL, seeds, arch_id) in ledger.rows for arch_id in ids):
        seeds += 1
    return seeds


def truth_table(
    networks: Sequence[Drawn], truth: Mapping[str, Sequence[float]], counter: PieceCounter
) -> str:
    """The truth as the CSV that `--evaluator table:` reads: arch_id, figures, the space's params.

    Of a network that is not in the truth there is no row.
    """
    parameters = [*dict.fromkeys(name for one in networks for name in one.params)]
    n_seeds = max(map(len, truth.values()), default=0)
    heads = ("network", "arch_id", "macs", "params", *(f"top1_{i}" for i in range(n_seeds)))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*heads, *parameters))
    for one in (one for one in networks if one.arch.arch_id in truth):
        cost, top1 = counter.count(one.arch), truth[one.arch.arch_id]
        chosen = (one.params.get(name, "") for name in parameters)
        writer.writerow((one.name, one.arch.arch_id, cost.macs, cost.params, *top1, *chosen))
    return buffer.getvalue()

"""Replay: propose every network of a stored study again, from what was told before it."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.cost import PieceCounter
from nasattn.errors import StudyError
from nasattn.evaluate import Evaluation, OnEpoch, Sketch, Stops, needed
from nasattn.objectives import Cost
from nasattn.search.driver import Driver, Evaluator
from nasattn.search.engines.engine import Job
from nasattn.search.forecast import Forecast
from nasattn.search.fronts import minimised, ranks
from nasattn.search.history import FORETOLD, GIVEN_UP, named_constraints
from nasattn.search.spec import StudySpec
from nasattn.search.trials import UNSEEN, finished_networks, state_of
from nasattn.space import SearchSpace
from nasattn.spec import parse
from nasattn.train.loop import Epoch

FINDINGS = (
    "arch_id",
    "baseline",
    "values",
    "reason",
    "curve",
    "estimates",
    "stopped_after",
    FORETOLD,
)


@dataclass(frozen=True)
class Digests:
    """SHA-256 of what a study is, in hexadecimal; of no time, place or attempt."""

    config: str  # settings
    table: str  # every trial: params, state, values, limits, curve
    front: str  # the non-dominated networks of those that were trained to the end


@dataclass(frozen=True)
class Replay:
    """A study as it is stored, and as it was proposed again."""

    stored: Digests
    rebuilt: Digests
    n_trials: int
    n_left_out: int  # from the first one on that has not come to its end
    difference: str = ""  # the first trial that came out otherwise

    @property
    def is_exact(self) -> bool:
        return self.stored == self.rebuilt and not self.difference


@dataclass(frozen=True)
class Counting:
    """What is known of networks without a trial, without the pictures."""

    spec: StudySpec
    space: SearchSpace
    counter: PieceCounter

    def static_values(self, arch: Architecture) -> Mapping[str, float]:
        """As TrainingEvaluator has it."""
        sketch = Sketch(arch, self.counter.count(arch))
        rows = needed(self.spec.objective_rows(), self.spec.limits(self.space))
        return {row.name: row.measure(sketch) for row in rows if row.cost == Cost.STATIC}

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        raise AssertionError("nothing is evaluated again")


def read_config(study: optuna.Study) -> tuple[StudySpec, SearchSpace]:
    """The spec and the space that a study was searched with; StudyError where it has none."""
    settings = study.user_attrs.get("settings", {})
    if not isinstance(settings.get("space"), dict) or "sampler" not in settings:
        raise StudyError(f"study {study.study_name!r}: is no search, so there is none to replay")
    fields = {k: v for k, v in settings.items() if k in StudySpec.model_fields and k != "space"}
    fields.pop("latency_model", None)
    if "table" in settings:
        fields |= {"evaluator": f"table:{settings['table']}"}
    where = f"study {study.study_name!r}"
    space = parse(SearchSpace, settings["space"], f"{where}: space", StudyError)
    spec = parse(StudySpec, fields | {"name": study.study_name}, where, StudyError)
    return spec.model_copy(update={"space": space.name}), space


def replay(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluator,
    forecast: Forecast | None = None,
    on_trial: Callable[[int], None] = lambda n: None,
) -> Replay:
    """Ask the sampler for each trial again, with what it knew then, and tell it what was found.

    Nothing is trained: results are those of the study. `on_trial` hears how many are done.
    """
    stored = [t for t in study.get_trials(deepcopy=False) if GIVEN_UP not in t.user_attrs]
    finished = next((i for i, t in enumerate(stored) if not t.state.is_finished()), len(stored))
    numbers = {trial.number: i for i, trial in enumerate(stored)}
    settings = study.user_attrs["settings"]
    kind = "table" if spec.table else "data"
    rebuilt = dict(spec.settings(space, settings[kind], settings[f"{kind}_hash"]))
    rebuilt |= {k: settings[k] for k in ("latency_model",) if k in settings}  # hash of a file
    copy = optuna.create_study(study_name=study.study_name, directions=study.directions)
    difference = ""
    with tempfile.TemporaryDirectory() as scratch:
        driver = _Replayer(
            copy, spec, space, evaluate, {}, Path(scratch), _Silent(), forecast, pending=2**31
        )
        for i, trial in enumerate(stored[:finished]):
            difference = driver.again(trial, {numbers[n] for n in trial.user_attrs.get(UNSEEN, ())})
            if difference:
                break
            on_trial(i + 1)
        while driver.open and driver.settle():
            continue
    return Replay(
        _digests(settings, stored[:finished], study, spec),
        _digests(rebuilt, copy.get_trials(deepcopy=False), copy, spec),
        finished,
        len(stored) - finished,
        difference,
    )


class _Replayer(Driver):
    """A driver that is led through the trials of another study."""

    def again(self, stored: FrozenTrial, unseen: set[int]) -> str:
        """Ask for a trial again; in words what is different from the stored one, if anything."""
        fixed = stored.system_attrs.get("fixed_params")
        baseline = stored.user_attrs.get("baseline")
        if baseline and fixed is None:  # a control's, which were trained in its search
            self.study.add_trial(stored)
            self.remember(self.study.get_trials(deepcopy=False)[-1])
            return ""
        while self.open and not self.open.keys() <= unseen | self.twins():
            self.settle()
        if fixed is not None:
            self.study.enqueue_trial(fixed, {"baseline": baseline} if baseline else None)
        number = len(self.study.get_trials(deepcopy=False)) - (fixed is not None)
        self.ask()
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.params != stored.params:
            return f"trial {stored.number}: {_unlike(stored.params, trial.params)}"
        if number in self.ready:
            self.ready.remove(number)
            job = self.job(number)
            self.finished(job, _recorded(stored))
            return _judged_otherwise(stored, job)
        return ""

    def twins(self) -> set[int]:
        """Open trials of a network that another open one has."""
        return {n for n, one in self.open.items() if one.duplicate_of is not None}


class _Silent:
    def started(self, name: str, spent: int) -> None: ...
    def epoch(self, name: str, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, spent: int) -> None: ...


def _recorded(trial: FrozenTrial) -> Evaluation:
    attributes = trial.user_attrs
    rows = enumerate(attributes.get("curve", ()), start=1)
    return Evaluation(
        state_of(trial),
        attributes["values"],
        named_constraints(trial),
        attributes["reason"],
        curve=tuple(Epoch(number, loss, top1, 0.0) for number, (loss, top1) in rows),
        estimates=attributes.get("estimates", {}),
    )


def _judged_otherwise(stored: FrozenTrial, job: Job) -> str:
    """Where early stopping would have ended another epoch, in words."""
    evaluation = _recorded(stored)
    if job.judge is None or not (evaluation.curve or evaluation.estimates):
        return ""
    last = len(evaluation.curve)
    known = evaluation.known
    ends = [n for n in range(last + 1) if job.judge.stops(evaluation.curve[:n], known)]
    stopped = [last] if evaluation.state == "stopped" else []
    if ends == stopped:
        return ""
    then, now = (f"after epoch {e[0]}" if e else "not" for e in (stopped, ends))
    return f"trial {stored.number}: was stopped {then}, would be {now}"


def _unlike(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    name = next(k for k in [*then, *now] if then.get(k) != now.get(k))
    return f"{name} was {then.get(name)!r}, is {now.get(name)!r}"


def _digests(
    settings: Mapping[str, Any],
    trials: Sequence[FrozenTrial],
    study: optuna.Study,
    spec: StudySpec,
) -> Digests:
    numbers = {trial.number: i for i, trial in enumerate(trials)}

    def row(trial: FrozenTrial) -> dict[str, Any]:
        found = {k: trial.user_attrs[k] for k in FINDINGS if k in trial.user_attrs}
        first = trial.user_attrs.get("duplicate_of")
        return found | {
            "state": trial.state.name,
            "params": trial.params,
            "told": trial.values,
            "constraints": named_constraints(trial),
            "duplicate_of": None if first is None else numbers.get(first),
            UNSEEN: [numbers.get(n) for n in trial.user_attrs.get(UNSEEN, ())],
        }

    networks = [t for t in finished_networks(study) if t.number in numbers]
    front: list[Any] = []
    if networks:
        rank = ranks(minimised([t.values for t in networks], spec.objective_rows()))
        front = [
            [t.user_attrs["arch_id"], t.values]
            for t, r in zip(networks, rank, strict=True)
            if r == 0
        ]
    return Digests(_sha256(dict(settings)), _sha256([row(t) for t in trials]), _sha256(front))


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

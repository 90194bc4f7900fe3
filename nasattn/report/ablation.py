"""What an ablation found: its arms, and each contrast with its statistics and its price."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nasattn.ablation.arms import BASE, FACTORIAL, Contrast
from nasattn.ablation.factorial import Factorial, analyse_factorial
from nasattn.ablation.results import Levels, Runs
from nasattn.ablation.run import finished_trials, run_of
from nasattn.ablation.sequential import Sequential
from nasattn.ablation.statistics import (
    Comparison,
    CostPerPoint,
    compare_pairs,
    cost_per_point,
    paired_differences,
    untested,
)
from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import BASELINES, Published
from nasattn.errors import AblationError, StudyError, UnknownNameError
from nasattn.paths import expand_path, get_path, is_active

COSTS = ("params", "macs", "latency_ms")
GROUND = ("settings", "environment", "n_val", "n_classes")
# A data set's name -> that of the pictures for which figures were published.
PLACES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
TOP1 = ("top1", "top1_error")  # the metrics of a published figure that are a top-1

Curve = tuple[tuple[float, float], ...]  # (loss, top1) after each epoch


@dataclass(frozen=True)
class ArmResult:
    """One arm: what each of its seeds gave. All top-1 are fractions."""

    name: str
    values: Mapping[int, float]  # seed -> top-1
    curves: Mapping[int, Curve] = field(default_factory=dict)  # of the seeds in `values`
    failures: Mapping[int, str] = field(default_factory=dict)  # seed -> reason
    costs: Mapping[str, float] = field(default_factory=dict)  # of COSTS, those that are known
    architecture: Architecture | None = None  # as it was trained
    published: tuple[Published, ...] = ()  # of the same network as drawn for 224 pixels

    def has_run(self, seed: int) -> bool:
        """Whether a seed was run, with success or without."""
        return seed in self.values or seed in self.failures

    @property
    def mean(self) -> float | None:
        """Mean top-1 over the seeds."""
        return fmean(self.values.values()) if self.values else None

    @property
    def failed(self) -> str:
        """`failed: out of memory (seeds 0, 1)`, or nothing."""
        seeds: dict[str, list[int]] = {}
        for seed, reason in sorted(self.failures.items()):
            seeds.setdefault(reason, []).append(seed)
        return "; ".join(
            f"failed: {reason} (seed{'s' * (len(found) > 1)} {', '.join(map(str, found))})"
            for reason, found in seeds.items()
        )


@dataclass(frozen=True)
class Row:
    """A contrast with what its paired seeds say, or the reason why they say nothing yet."""

    contrast: Contrast
    comparison: Comparison | None
    verdict: str
    costs: tuple[CostPerPoint, ...] = ()


@dataclass(frozen=True)
class AblationResult:
    """An ablation as far as it has come."""

    study: str
    base: str  # arm
    arms: Mapping[str, ArmResult]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]  # that any arm was run on
    recipe_id: str  # empty for runs made elsewhere
    levels: Levels = field(default_factory=dict)  # empty: no factorial
    factorial: Factorial | None = None
    notes: tuple[str, ...] = ()
    alpha: float = 0.05
    margin: float | None = None
    looks: Sequential | None = None  # None: judged once, after the last seed
    ground: Mapping[str, Any] = field(default_factory=dict)  # of GROUND, those that are known
    network: str = ""  # name of the base network

    @property
    def n_val(self) -> int:
        """Pictures behind each top-1; 0 where nobody knows."""
        return int(self.ground.get("n_val", 0))

    @property
    def place(self) -> str | None:
        """The pictures whose published figures may stand beside ours; None: there are none."""
        return PLACES.get(self.ground.get("settings", {}).get("data", ""))

    def published_top1(self, arm: str) -> list[Published]:
        """What was published of an arm's top-1, or error, on the same data set."""
        figures = self.arms[arm].published
        return [f for f in figures if f.where == self.place and f.metric in TOP1]


def top1_of(figure: Published) -> float:
    """A published top-1, or 1 - error, as a fraction."""
    return 1 - figure.value if figure.metric == "top1_error" else figure.value


def read_ablation(study: optuna.Study, *, alpha: float = 0.05) -> AblationResult:
    """What `nasattn ablate` has stored so far; the study may be unfinished.

    Raises StudyError for a study that is no ablation, AblationError where trials mix recipes.
    """
    record = study.user_attrs.get("ablation")
    if record is None:
        raise StudyError(f"study {study.study_name!r}: is no ablation")
    trials = finished_trials(study)
    recipe_id = _one_recipe(study.study_name, trials)
    by_arm: dict[str, list[FrozenTrial]] = {name: [] for name in record["arms"]}
    for trial in trials:
        arm = run_of(trial).arm
        if arm not in by_arm:
            raise UnknownNameError("arm", arm, known=by_arm, where=f"trial {trial.number}")
        by_arm[arm].append(trial)
    published = _published()
    arms = {
        name: _arm(name, by_arm[name], published.get(ids["drawn_id"], ()))
        for name, ids in record["arms"].items()
    }
    contrasts = [Contrast(*names) for names in record["contrasts"]]
    pairs = tuple((c.arm, c.reference) for c in contrasts)
    looks = Sequential(tuple(seen), pairs, alpha) if (seen := record.get("looks")) else None
    factorial, notes = _factorial(arms, record["levels"], BASE, alpha)
    return AblationResult(
        study=study.study_name,
        base=BASE,
        arms=arms,
        rows=_rows(arms, contrasts, alpha, record["margin"], looks),
        looks=looks,
        seeds=tuple(sorted({run_of(trial).seed for trial in trials})),
        recipe_id=recipe_id,
        levels=record["levels"],
        factorial=factorial,
        notes=(*record["notes"], *notes),
        alpha=alpha,
        margin=record["margin"],
        ground={name: study.user_attrs[name] for name in GROUND if name in study.user_attrs},
        network=record["base"],
    )


def from_runs(
    runs: Runs, *, name: str = "runs", alpha: float = 0.05, margin: float | None = None
) -> AblationResult:
    """The same of runs made anywhere: every arm against the base, all of them one family."""
    arms = {arm: ArmResult(arm, dict(values)) for arm, values in runs.values.items()}
    factorial, notes = _factorial(arms, runs.levels, runs.base, alpha)
    design = FACTORIAL if factorial else "arms"
    contrasts = [Contrast(arm, runs.base, design) for arm in arms if arm != runs.base]
    return AblationResult(
        study=name,
        base=runs.base,
        arms=arms,
        rows=_rows(arms, contrasts, alpha, margin),
        seeds=tuple(sorted(set().union(*runs.values.values()))),
        recipe_id="",
        levels=runs.levels,
        factorial=factorial,
        notes=notes,
        alpha=alpha,
        margin=margin,
    )


def _one_recipe(study: str, trials: Sequence[FrozenTrial]) -> str:
    """The recipe that all trials share; a table of several would compare nothing."""
    found: dict[str, str] = {}
    for trial in trials:
        run = run_of(trial)
        place = f"arm {run.arm!r}, seed {run.seed}"
        found.setdefault(trial.user_attrs.get("recipe_id", "none"), place)
    if len(found) > 1:
        mixed = " and ".join(f"{recipe} ({place})" for recipe, place in found.items())
        raise AblationError(
            f"study {study!r}: mixes the recipes {mixed}; arms can be compared under one alone"
        )
    return next(iter(found), "")


def _published() -> dict[str, tuple[Published, ...]]:
    """arch_id -> every figure published of that network, each once."""
    found: dict[str, dict[Published, None]] = {}
    for baseline in BASELINES.values():
        figures = found.setdefault(baseline.architecture.arch_id, {})
        figures.update(dict.fromkeys(baseline.published))
    return {arch_id: tuple(figures) for arch_id, figures in found.items()}


def _arm(name: str, trials: Iterable[FrozenTrial], published: tuple[Published, ...]) -> ArmResult:
    values: dict[int, float] = {}
    curves: dict[int, Curve] = {}
    failures: dict[int, str] = {}
    costs: dict[str, float] = {}
    architecture = None
    for trial in sorted(trials, key=lambda trial: run_of(trial).seed):
        seed, attributes = run_of(trial).seed, trial.user_attrs
        found = attributes.get("values", {})
        costs = {key: found[key] for key in COSTS if key in found} | costs  # of the first seed
        if architecture is None and "architecture" in attributes:
            architecture = parse_architecture(json.loads(attributes["architecture"]))
        if trial.state == TrialState.COMPLETE:
            values[seed] = found["top1"]
            curves[seed] = tuple((loss, top1) for loss, top1 in attributes.get("curve", ()))
        else:
            failures[seed] = attributes.get("reason") or "no reason was recorded"
    return ArmResult(name, values, curves, failures, costs, architecture, published)


def _rows(
    arms: Mapping[str, ArmResult],
    contrasts: Sequence[Contrast],
    alpha: float,
    margin: float | None,
    looks: Sequential | None = None,
) -> tuple[Row, ...]:
    """Contrasts with a seed in common are one family; the others say why they have none."""
    for contrast in contrasts:
        for name in (contrast.arm, contrast.reference):
            if name not in arms:
                raise UnknownNameError("arm", name, known=arms, where="contrasts")
    values = {name: arm.values for name, arm in arms.items()}
    common = [c for c in contrasts if values[c.arm].keys() & values[c.reference]]
    tested = [(c.arm, c.reference) for c in common if c.design != FACTORIAL]
    others = [(c.arm, c.reference) for c in common if c.design == FACTORIAL]
    found = {
        (row.arm, row.base): untested(row)
        for row in compare_pairs(values, others, alpha=alpha, margin=margin)
    }
    if looks is None:
        rows = compare_pairs(values, tested, alpha=alpha, margin=margin)
    else:
        rows = tuple(_seen(looks, arms[arm], arms[base]) for arm, base in tested)
    found |= {(row.arm, row.base): row for row in rows}
    return tuple(
        _row(c, arms[c.arm], arms[c.reference], found.get((c.arm, c.reference))) for c in contrasts
    )


def _seen(looks: Sequential, arm: ArmResult, base: ArmResult) -> Comparison:
    """What the looks say of a pair, from the seeds up to the look that stopped it."""
    n_seeds = 0
    while arm.has_run(n_seeds) and base.has_run(n_seeds):
        n_seeds += 1
    by_seed = paired_differences(arm.values, base.values)
    decision, seen = looks.follow([by_seed.get(seed, math.nan) for seed in range(n_seeds)])
    seen = seen if decision != "continue" else looks.looks[-1]
    values = {
        a.name: {seed: value for seed, value in a.values.items() if seed < seen}
        for a in (arm, base)
    }
    (row,) = compare_pairs(values, [(arm.name, base.name)], alpha=looks.alpha)
    return looks.settle(row, decision, seen)


def _row(
    contrast: Contrast, arm: ArmResult, reference: ArmResult, comparison: Comparison | None
) -> Row:
    if comparison is None:
        return Row(contrast, None, _why_not(arm, reference))
    said = "" if contrast.design == FACTORIAL else comparison.verdict  # see the effects
    verdict = "; ".join(filter(None, [said, arm.failed]))
    return Row(
        contrast, comparison, verdict, cost_per_point(comparison, reference.costs, arm.costs)
    )


def _why_not(arm: ArmResult, reference: ArmResult) -> str:
    """Why two arms have no seed in common."""
    if arm.failed:
        return arm.failed
    if reference.failed:
        return f"nothing to compare with: {reference.name} {reference.failed}"
    missing = [a.name for a in (arm, reference) if not a.values]
    return f"{' and '.join(missing)} not run yet" if missing else "no seed in common yet"


def _factorial(
    arms: Mapping[str, ArmResult], levels: Levels, base: str, alpha: float
) -> tuple[Factorial | None, tuple[str, ...]]:
    """The effects of the factors where the arms have levels, or a note why there are none."""
    if not levels:
        return None, ()
    values = {name: arms[name].values for name in levels}
    if not set.intersection(*(set(by_seed) for by_seed in values.values())):
        note = "no factorial effects yet: no seed was run in every arm of the factorial"
        return None, (note,)
    try:
        return analyse_factorial(values, levels, base, alpha=alpha), ()
    except AblationError as e:  # levels of a file that are no two-level design
        return None, (f"no factorial effects: {e}",)


def response_curves(result: AblationResult) -> dict[str, dict[float, ArmResult]]:
    """Swept field -> its value -> arm, values rising; the base stands at its own value.

    A field is left out where a value is no number; the base, where its stages differ in it.
    """
    found: dict[str, dict[float, ArmResult]] = {}
    odd = set()
    for contrast in (row.contrast for row in result.rows if row.contrast.design == "sweep"):
        name, _, text = contrast.arm.rpartition("=")
        try:
            found.setdefault(name, {})[float(text)] = result.arms[contrast.arm]
        except ValueError:
            odd.add(name)
    for name, by_value in found.items():
        own = _own_values(result.arms[result.base].architecture, name)
        if len(own) == 1:
            by_value.setdefault(own.pop(), result.arms[result.base])
    return {name: dict(sorted(by.items())) for name, by in found.items() if name not in odd}


def _own_values(arch: Architecture | None, name: str) -> set[float]:
    """The numbers that a network has in a field, `stages.*.` before it where it is a stage's."""
    if arch is None:
        return set()
    tree = arch.model_dump()
    path = name if name.split(".")[0] in tree else f"stages.*.{name}"
    places = [p for p in expand_path(path, len(arch.stages)) if is_active(tree, p)]
    found = {get_path(arch, place) for place in places}
    return {float(value) for value in found if isinstance(value, int | float)}

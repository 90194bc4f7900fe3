"""Training: the way of a search whose networks are trained, by number or by time."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import optuna
import torch
from rich.console import Console

from nasattn.baselines import get_baseline
from nasattn.cli.data import load_with_progress
from nasattn.cli.machine import check_here, machine_turns
from nasattn.cli.progress import SearchProgress
from nasattn.cli.study import prepare
from nasattn.cli.tuning import tuned
from nasattn.cli.way import Run
from nasattn.estimate.table import combination
from nasattn.evaluate import LATENCY_REFERENCE, Setting, TrainingEvaluator, check_device
from nasattn.objectives import Cost, get_objective
from nasattn.report import Front
from nasattn.report.explanation_sheet import illustrate
from nasattn.report.front_table import front_words
from nasattn.search.driver import Ending
from nasattn.search.engines.engine import Engine, Work
from nasattn.search.forecast import Forecast, read_forecast
from nasattn.search.plan import USED, Deadline, Plan, make_plan
from nasattn.search.probe import probe
from nasattn.search.run import run_search
from nasattn.search.selection import Again
from nasattn.search.spec import StudySpec
from nasattn.search.storage import (
    artifact_dir,
    read_study,
    stored_settings,
    without_password,
)
from nasattn.search.trials import counts
from nasattn.space import SearchSpace
from nasattn.train.tune import WAYS
from nasattn.words import plural


@dataclass(frozen=True)
class Training:
    """Networks are trained on pictures."""

    spec: StudySpec
    setting: Setting
    forecast: Forecast | None = None
    planned: Plan | None = None
    deadline: Deadline | None = None

    @property
    def source(self) -> tuple[str, str]:
        return self.setting.data.name, self.setting.data.content_hash

    def plan(self) -> list[str]:
        spec, data = self.spec, self.setting.data
        size = min(spec.recipe.train_size or len(data.train), len(data.train))
        return [
            f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
            f"{data.resolution}x{data.resolution}, {len(data.classes)} classes",
            f"recipe {spec.recipe.name}, {plural(spec.recipe.epochs, 'epoch')}, {spec.device}, "
            f"{plural(spec.threads, 'thread')}{spec.recipe.way}",
            *(self.planned or make_plan(spec)).lines(),
        ]

    def words(self, front: Front) -> list[str]:
        return front_words(front)

    @property
    def travelling(self) -> int:
        data = self.setting.data
        splits = (data.train, data.val_search, data.val_select)
        return sum(split.images.nbytes + split.labels.nbytes for split in splits)

    def on(self, engine: Engine, spec: StudySpec, storage: str) -> Self:
        names = [row.name for row in self.setting.needed() if row.cost == Cost.MEASURED]
        meters = engine.meters(self.setting, names) if names else {}
        folder = checkpoint_dir(spec, storage)
        setting = replace(self.setting, checkpoints=folder, meters={**meters})
        return replace(self, spec=spec, setting=setting)

    def search(self, study: optuna.Study, space: SearchSpace, run: Run) -> Ending:
        spec, data, console = self.spec, self.setting.data, run.console
        reference_ms = prepare(console, study, self.setting)
        setting = replace(self.setting, reference_ms=reference_ms, illustrate=illustrate)
        facts = {
            "recipe_id": spec.recipe.recipe_id(data.content_hash, mirror=data.mirror),
            "seed": spec.seed,
            "device": spec.device,
            "threads": spec.threads,
        }
        with SearchProgress(
            console,
            study,
            spec,
            setting.objectives,
            space.baselines,
            run.engine.n_jobs,
            self.deadline,
        ) as progress:
            return run_search(
                study,
                spec,
                space,
                TrainingEvaluator(setting),
                facts=facts,
                artifacts=run.artifacts,
                watcher=run.watched_by(progress),
                forecast=self.forecast,
                deadline=self.deadline,
                engine=run.engine,
                command=run.command,
            )

    def fresh_seeds(self) -> list[int]:
        return [self.spec.seed + i for i in range(1, self.spec.n_seeds + 1)]

    @property
    def again(self) -> Work:
        """Judged on val-select, of which the search has seen no picture."""
        data = replace(self.setting.data, val_search=self.setting.data.val_select)
        rows = (get_objective("top1"),)
        assert self.setting.checkpoints
        folder = self.setting.checkpoints / "selection"
        only: dict[str, Any] = {"constraints": (), "estimates": None}
        again = replace(self.setting, data=data, objectives=rows, **only)
        return Again(replace(again, checkpoints=folder))


def train(
    spec: StudySpec, space: SearchSpace, console: Console, cache_dir: Path, *, tune: bool = False
) -> Training:
    """The pictures, and all else that training needs. `tune`: by the fastest way of computing."""
    check_device(spec.device)
    for row in (*spec.objective_rows(), *(c.objective for c in spec.limits(space))):
        if row.runtime:
            check_here(row.runtime)
    torch.set_num_threads(spec.threads)
    limits = spec.limits(space)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    spec = spec.model_copy(update={"resolution": data.resolution})
    rows = spec.objective_rows()
    turns = machine_turns(console, cache_dir)
    setting = Setting(data, spec.recipe, rows, limits, spec.seed, spec.device, turns=turns)
    if tune:
        name = space.baselines[0] if space.baselines else LATENCY_REFERENCE
        arch = get_baseline(name).architecture.at_resolution(data.resolution)
        recipe = tuned(console, name, lambda: setting.build(arch), setting, cache_dir)
        spec, setting = spec.model_copy(update={"recipe": recipe}), replace(setting, recipe=recipe)
    if spec.estimator:
        setting = replace(setting, estimates=combination(spec.estimator, setting))
    forecast = None
    if spec.latency_model:
        names = {row.name for row in setting.needed() if row.cost == Cost.MEASURED}
        path = Path(spec.latency_model)
        forecast = read_forecast(path, names, data.resolution, len(data.classes))
    return Training(spec, setting, forecast)


def as_begun(spec: StudySpec, begun: Mapping[str, Any], *, tuned: bool) -> StudySpec:
    """What was found out when a study began stays, of which these are the settings.

    By time, its early stopping and estimator, where nothing else is said; `tuned`, how steps are
    computed.
    """
    found: dict[str, Any] = {}
    if spec.budget:
        kept = ({"early_stop", "estimator"} - spec.model_fields_set) & begun.keys()
        found |= {name: begun[name] for name in kept}
    if tuned:
        recipe = begun.get("recipe", {})  # a table has none
        way = {name: recipe.get(name, usual) for name, usual in WAYS["float32"].items()}
        found["recipe"] = spec.recipe.model_copy(update=way)
    return spec.model_copy(update=found)


def by_time(
    way: Training, space: SearchSpace, console: Console, storage: str, engine: Engine, began: float
) -> Training:
    """A search whose budget is a time, which has `began`: planned by what trainings take here."""
    spec, done, used = way.spec, 0, 0.0
    if stored_settings(storage, spec.study_name) is not None:
        study = read_study(storage, spec.study_name)
        done = sum(map(counts, study.get_trials(deepcopy=False)))
        used = study.user_attrs.get(USED, 0.0)
    with console.status("timing a few steps of the baselines"):
        pace = probe(way.setting, space)
    used += time.monotonic() - began
    found = make_plan(spec, pace=pace, used=used, done=done, n_jobs=engine.n_jobs)
    spec = found.of(spec)
    assert spec.budget
    end = time.monotonic() + spec.budget - used
    whom = found.finalists, found.seeds
    deadline = Deadline(end, pace.trial, *whom, engine.n_jobs, budget=spec.budget)
    return replace(way, spec=spec, planned=found, deadline=deadline)


def checkpoint_dir(spec: StudySpec, storage: str) -> Path:
    """Where a search's trainings keep their state; workers may have another working folder.

    Two databases may have a study of one name, and artifacts in one folder.
    """
    place = hashlib.sha256(without_password(storage).encode()).hexdigest()[:6]
    folder = artifact_dir(storage) / "checkpoints" / f"{spec.folder_name}-{place}"
    return folder.absolute()

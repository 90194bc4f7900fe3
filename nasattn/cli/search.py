"""`nasattn search`: from options to a front."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import optuna
import torch
from rich.console import Console

from nasattn.cli.app import DEFAULT_STORAGE
from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_folder, make_folder
from nasattn.cli.front import front_table, front_words
from nasattn.cli.look_up import look_up
from nasattn.cli.progress import SearchProgress
from nasattn.cli.study import prepare
from nasattn.cli.words import plural
from nasattn.evaluate import Setting, check_device, evaluate
from nasattn.library import shipped
from nasattn.report import Front, read_front, write_front
from nasattn.search.run import counts, run_search
from nasattn.search.spec import TABLE, StudySpec, load_study_spec
from nasattn.search.storage import artifact_dir, check_storage, open_study
from nasattn.space import SearchSpace, load_space

TABLE_TRIALS = 200  # of a search that trains nothing, where nothing else is said


def search_command(
    study: str | None,
    changes: Mapping[str, Any],
    *,
    storage: str,
    out: Path | None,
    resume: bool,
    cache_dir: Path,
) -> int:
    """Check everything, search, show the front and the next command; returns the exit status."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False)
    if study is None and changes.get("evaluator", "").startswith(TABLE):
        spec = load_study_spec(None, {"n_trials": TABLE_TRIALS, **changes})
    else:
        spec = load_study_spec(study or quick_study(changes), dict(changes))
    space = load_space(spec.space)
    folder = out or Path("runs") / spec.folder_name
    check_folder(folder)
    check_storage(storage, spec.study_name, resume=resume)
    way = look_up(spec, space, changes) if spec.table else train(spec, space, console, cache_dir)
    spec = way.spec
    directions = {row.name: row.direction for row in spec.objective_rows()}
    settings = spec.settings(space, *way.source)
    with open_study(storage, spec.study_name, directions, settings) as opened:
        make_folder(folder)
        make_folder(artifact_dir(storage))
        console.print(plan(way), style="dim", markup=False)
        status = run(opened, space, way, console, artifact_dir(storage))
        front = read_front(opened)
    show_front(console, front, way, folder, storage)
    return status


def quick_study(changes: Mapping[str, Any]) -> str | None:
    """The shipped study SPACE_quick, where there is one for the space."""
    name = f"{changes.get('space', 'mobile')}_quick"
    return name if name in shipped("studies") else None


class Way(Protocol):
    """How networks come by their figures: by training, or from a table."""

    @property
    def spec(self) -> StudySpec:
        """The study, with what the way settles in it."""

    @property
    def source(self) -> tuple[str, str]:
        """Name and hash of the pictures, or of the table."""

    def plan(self) -> list[str]:
        """What is about to happen, in lines of at most 80 columns for usual names."""

    def words(self, front: Front) -> str:
        """How far a front's figures can be trusted."""

    def search(
        self, study: optuna.Study, space: SearchSpace, console: Console, artifacts: Path
    ) -> bool:
        """Search with progress shown; False when it ended early."""


@dataclass(frozen=True)
class Training:
    """Networks are trained on pictures."""

    spec: StudySpec
    setting: Setting

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
            f"{plural(spec.threads, 'thread')}",
        ]

    def words(self, front: Front) -> str:
        return front_words(front)

    def search(
        self, study: optuna.Study, space: SearchSpace, console: Console, artifacts: Path
    ) -> bool:
        spec, data = self.spec, self.setting.data
        setting = replace(self.setting, reference_ms=prepare(console, study, self.setting))
        facts = {
            "recipe_id": spec.recipe.recipe_id(data.content_hash, mirror=data.mirror),
            "seed": spec.seed,
            "device": spec.device,
            "threads": spec.threads,
        }
        with SearchProgress(console, study, spec, setting.objectives, space.baselines) as progress:
            return run_search(
                study,
                spec,
                space,
                lambda arch, on_epoch: evaluate(arch, setting, on_epoch),
                facts=facts,
                artifacts=artifacts,
                watcher=progress,
            )


def train(spec: StudySpec, space: SearchSpace, console: Console, cache_dir: Path) -> Training:
    """The pictures, and all else that training needs."""
    check_device(spec.device)
    torch.set_num_threads(spec.threads)
    limits = spec.limits(space)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    spec = spec.model_copy(update={"resolution": data.resolution})
    rows = spec.objective_rows()
    return Training(spec, Setting(data, spec.recipe, rows, limits, spec.seed, spec.device))


def plan(way: Way) -> str:
    """What is about to happen."""
    spec = way.spec
    limits = f", limits {', '.join(spec.constraints)}" if spec.constraints else ""
    return "\n".join(
        (
            f"study {spec.study_name}: {spec.n_trials} networks of space {spec.space}, seed "
            f"{spec.seed}, sampler {spec.sampler}",
            *way.plan(),
            f"objectives {', '.join(spec.objectives)}{limits}",
        )
    )


def run(
    study: optuna.Study, space: SearchSpace, way: Way, console: Console, artifacts: Path
) -> int:
    """Search with progress shown; 130 when the user stopped it, else 0."""
    done = sum(map(counts, study.get_trials(deepcopy=False)))
    if done >= way.spec.n_trials:
        console.print(
            f"study {way.spec.study_name!r} has {done} trials already; "
            f"--trials {done + 12} for more",
            markup=False,
        )
        return 0
    if done:
        console.print(f"going on after {done} trials")
    try:
        finished = way.search(study, space, console, artifacts)
    except KeyboardInterrupt:
        command = shlex.join(["nasattn", *sys.argv[1:]])
        console.print(
            f"\nstopped, nothing is lost; to go on: {command}", markup=False, soft_wrap=True
        )
        return 130
    if not finished:
        console.print("ended early: nothing new was proposed that keeps to the limits")
    return 0


def show_front(console: Console, front: Front, way: Way, folder: Path, storage: str) -> None:
    """The table, what to make of it, where it is written, and the next command."""
    if not front.rows:
        console.print("no network finished yet")
        return
    paths = write_front(front, folder)
    console.print(front_table(front))
    console.print(way.words(front), style="dim", markup=False)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", markup=False, soft_wrap=True)
    option = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(storage)}"
    console.print(f"look at it: nasattn dashboard{option}", markup=False, soft_wrap=True)

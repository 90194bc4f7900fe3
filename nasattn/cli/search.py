"""`nasattn search`: from options to a front."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console

from nasattn.cli.app import DEFAULT_STORAGE
from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_folder, make_folder
from nasattn.cli.front import front_table, front_words
from nasattn.cli.progress import SearchProgress
from nasattn.cli.words import plural
from nasattn.data import ImageData
from nasattn.evaluate import Setting, check_device, evaluate
from nasattn.library import shipped
from nasattn.report import Front, read_front, write_front
from nasattn.search.environment import environment
from nasattn.search.run import counts, run_search
from nasattn.search.spec import StudySpec, load_study_spec
from nasattn.search.storage import artifact_dir, check_storage, open_study
from nasattn.space import SearchSpace, load_space
from nasattn.spec import differences


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
    spec = load_study_spec(study or quick_study(changes), dict(changes))
    space = load_space(spec.space)
    limits = spec.limits(space)
    check_device(spec.device)
    torch.set_num_threads(spec.threads)
    folder = out or Path("runs") / spec.folder_name
    check_folder(folder)
    check_storage(storage, spec.study_name, resume=resume)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    spec = spec.model_copy(update={"resolution": data.resolution})
    setting = Setting(data, spec.recipe, spec.objective_rows(), limits, spec.seed, spec.device)
    directions = {row.name: row.direction for row in setting.objectives}
    settings = spec.settings(space, data.name, data.content_hash)
    with open_study(storage, spec.study_name, directions, settings) as opened:
        make_folder(folder)
        make_folder(artifact_dir(storage))
        console.print(plan(spec, data), style="dim", markup=False)
        status = run(opened, spec, space, setting, console, artifact_dir(storage))
        front = read_front(opened)
    show_front(console, front, folder, storage)
    return status


def quick_study(changes: Mapping[str, Any]) -> str | None:
    """The shipped study SPACE_quick, where there is one for the space."""
    name = f"{changes.get('space', 'mobile')}_quick"
    return name if name in shipped("studies") else None


def plan(spec: StudySpec, data: ImageData) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    size = min(spec.recipe.train_size or len(data.train), len(data.train))
    limits = f", limits {', '.join(spec.constraints)}" if spec.constraints else ""
    return (
        f"study {spec.study_name}: {spec.n_trials} networks of space {spec.space}, seed "
        f"{spec.seed}, sampler {spec.sampler}\n"
        f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes\n"
        f"recipe {spec.recipe.name}, {plural(spec.recipe.epochs, 'epoch')}, {spec.device}, "
        f"{plural(spec.threads, 'thread')}\n"
        f"objectives {', '.join(spec.objectives)}{limits}"
    )


def run(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    setting: Setting,
    console: Console,
    artifacts: Path,
) -> int:
    """Search with progress shown; 130 when the user stopped it, else 0."""
    done = sum(map(counts, study.get_trials(deepcopy=False)))
    if done >= spec.n_trials:
        console.print(
            f"study {spec.study_name!r} has {done} trials already; --trials {done + 12} for more",
            markup=False,
        )
        return 0
    if done:
        console.print(f"going on after {done} trials")
    setting = replace(setting, reference_ms=prepare(console, study, setting))
    facts = {
        "recipe_id": spec.recipe.recipe_id(setting.data.content_hash, mirror=setting.data.mirror),
        "seed": spec.seed,
        "device": spec.device,
        "threads": spec.threads,
    }
    try:
        with SearchProgress(console, study, spec, setting.objectives, space.baselines) as progress:
            finished = run_search(
                study,
                spec,
                space,
                lambda arch, on_epoch: evaluate(arch, setting, on_epoch),
                facts=facts,
                artifacts=artifacts,
                watcher=progress,
            )
    except KeyboardInterrupt:
        command = shlex.join(["nasattn", *sys.argv[1:]])
        console.print(
            f"\nstopped, nothing is lost; to go on: {command}", markup=False, soft_wrap=True
        )
        return 130
    if not finished:
        console.print("ended early: nothing new was proposed that keeps to the limits")
    return 0


def prepare(console: Console, study: optuna.Study, setting: Setting) -> float | None:
    """Write down once what this study ran on; returns its reference latency, where it has one."""
    if "environment" not in study.user_attrs:
        if any(row.name == "latency_ms" for row in setting.needed()):
            latency = setting.meter.measure(setting.meter.reference)
            study.set_user_attr("reference_ms", latency.reference_ms)
        study.set_user_attr("n_val", len(setting.data.val_search))
        study.set_user_attr("n_classes", len(setting.data.classes))
        study.set_user_attr("environment", environment())
    for name, then, now in differences(study.user_attrs["environment"], environment()):
        console.print(
            f"note: this study began with {name} {then}, goes on with {now}", markup=False
        )
    reference: float | None = study.user_attrs.get("reference_ms")
    return reference


def show_front(console: Console, front: Front, folder: Path, storage: str) -> None:
    """The table, what to make of it, where it is written, and the next command."""
    if not front.rows:
        console.print("no network finished yet")
        return
    paths = write_front(front, folder)
    console.print(front_table(front))
    console.print(front_words(front), style="dim", markup=False)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", markup=False, soft_wrap=True)
    option = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(storage)}"
    console.print(f"look at it: nasattn dashboard{option}", markup=False, soft_wrap=True)

"""`nasattn search`: from options to a front."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from nasattn.cli.by_training import Training, as_begun, by_time, checkpoint_dir, train
from nasattn.cli.commands import storage_option, typed
from nasattn.cli.engines import open_engine
from nasattn.cli.folders import check_folder, make_folder
from nasattn.cli.front import lines, terminal_table
from nasattn.cli.look_up import LookingUp, look_up
from nasattn.cli.selection import select
from nasattn.cli.way import Run, Way
from nasattn.errors import StudyError
from nasattn.library import shipped
from nasattn.objectives import Direction
from nasattn.report import read_front, write_front
from nasattn.report.review import Review
from nasattn.search.control import control_of, share_start
from nasattn.search.driver import Ending
from nasattn.search.engines.engine import Engine
from nasattn.search.run import pending_for
from nasattn.search.samplers import FOLLOWS_FIRST, check_sampler
from nasattn.search.spec import TABLE, StudySpec, load_study_spec
from nasattn.search.storage import (
    artifact_dir,
    check_storage,
    check_study,
    open_study,
    stored_settings,
    write_study,
)
from nasattn.search.trials import counts
from nasattn.space import SearchSpace, load_space
from nasattn.words import plural

ENDINGS: dict[Ending, str] = {
    "budget": "",
    "exhausted": "ended early: no other network of the space was found that keeps to the limits",
    "in vain": "ended early: nothing new was proposed that keeps to the limits",
    "time": "",
}
TABLE_TRIALS = 200  # of a search that trains nothing, where nothing else is said


def search_command(
    study: str | None,
    changes: Mapping[str, Any],
    *,
    storage: str,
    out: Path | None,
    resume: bool,
    as_json: bool,
    cache_dir: Path,
    tune: bool = False,
) -> int:
    """Search by a study file and options; returns the exit status."""
    if study is None and changes.get("evaluator", "").startswith(TABLE):
        spec = load_study_spec(None, {"n_trials": TABLE_TRIALS, **changes})
    else:
        spec = load_study_spec(study or quick_study(changes), dict(changes))
    return search_by(
        spec,
        changes,
        storage=storage,
        out=out,
        resume=resume,
        as_json=as_json,
        cache_dir=cache_dir,
        tune=tune,
    )


def search_by(
    spec: StudySpec,
    changes: Mapping[str, Any],
    *,
    storage: str,
    out: Path | None,
    cache_dir: Path,
    resume: bool = True,
    as_json: bool = False,
    tune: bool = False,
) -> int:
    """Check everything, search, show the front and the next command; returns the exit status.

    `changes` are the options of which a table has no use, should they be given.
    """
    began = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, stderr=as_json)
    check_sampler(spec.sampler)
    space = load_space(spec.space)
    folder = out or Path("runs") / spec.folder_name
    check_folder(folder)
    check_storage(storage, spec.study_name, resume=resume)
    way: Training | LookingUp
    if spec.table:
        if tune:
            raise StudyError("--tune-engine: a search in a table trains nothing")
        way = look_up(spec, space, changes)
    else:
        begun = stored_settings(storage, spec.study_name)
        if begun is not None:
            spec, tune = as_begun(spec, begun, tuned=tune), False
        way = train(spec, space, console, cache_dir, tune=tune)
    with open_engine(way.spec, way.travelling) as engine:
        way = way.on(engine, settle_pending(console, way.spec, storage, engine), storage)
        if isinstance(way, Training) and way.spec.budget:
            check_study(storage, *described(way, space))
            way = by_time(way, space, console, storage, engine, began)
        status = search_on(engine, way, space, console, folder, storage, resume=resume)
    if as_json and (folder / "front.json").is_file():
        print((folder / "front.json").read_text(encoding="utf-8"), end="")  # noqa: T201
    return status


def search_on(
    engine: Engine,
    way: "Training | LookingUp",
    space: SearchSpace,
    console: Console,
    folder: Path,
    storage: str,
    *,
    resume: bool,
) -> int:
    """Search with what has been checked; returns the exit status."""
    began = time.monotonic()
    run = Run(console, engine, artifact_dir(storage), typed(storage))
    control = replace(way, spec=control_of(way.spec)) if way.spec.control else None
    if control:  # whether it may be gone on with is found out before anything is trained
        check_storage(storage, control.spec.study_name, resume=resume)
        check_study(storage, *described(control, space))
    with open_study(storage, *described(way, space)) as opened:
        make_folder(folder)
        make_folder(artifact_dir(storage))
        console.print(plan(way), style="dim", markup=False)
        status = search_and_select(opened, space, way, run)
    try:
        if control and not status:
            with open_study(storage, *described(control, space)) as beside:
                share_start(opened, beside)
                name = control.spec.study_name
                console.print(f"\nrandom search of the same budget: study {name}", style="dim")
                status = search_and_select(beside, space, control, run)
        if not status:
            shutil.rmtree(checkpoint_dir(way.spec, storage), ignore_errors=True)
    finally:
        show_front(console, opened, way, folder, storage)
    if not status:
        with console.status("writing what the dashboard shows"):
            for one in (way, *([control] if control else [])):
                with write_study(storage, one.spec.study_name) as study:
                    Review(study, run.artifacts, began).finish()
    return status


def settle_pending(console: Console, spec: StudySpec, storage: str, engine: Engine) -> StudySpec:
    """The spec with `pending` as it was said, else as the stored study has it, else by the jobs."""
    if spec.pending is None:
        stored = stored_settings(storage, spec.study_name)
        usual = pending_for(engine.n_jobs)
        pending = usual if stored is None else stored.get("pending", 1)
        spec = spec.model_copy(update={"pending": pending})
    assert spec.pending
    if spec.pending < engine.n_jobs:
        console.print(
            f"note: with --pending {spec.pending} no more than so many networks run at once",
            style="dim",
        )
    return spec


def quick_study(changes: Mapping[str, Any]) -> str | None:
    """The shipped study SPACE_quick, where there is one for the space: it is of the digits."""
    name = f"{changes.get('space', 'mobile')}_quick"
    own = changes.get("data", "digits") == "digits"
    return name if own and name in shipped("studies") else None


def described(way: Way, space: SearchSpace) -> tuple[str, dict[str, Direction], dict[str, Any]]:
    """Name, directions and settings of a way's study."""
    directions = {row.name: row.direction for row in way.spec.objective_rows()}
    return way.spec.study_name, directions, way.spec.settings(space, *way.source)


def plan(way: Way) -> str:
    """What is about to happen."""
    spec = way.spec
    limits = f", limits {', '.join(spec.constraints)}" if spec.constraints else ""
    follows = f", which follows {spec.objectives[0]}" if spec.sampler in FOLLOWS_FIRST else ""
    about = "~" if way.planned else ""
    return "\n".join(
        (
            f"study {spec.study_name}: {about}{spec.n_trials} networks of space {spec.space}, seed "
            f"{spec.seed}, sampler {spec.sampler}{follows}",
            *way.plan(),
            f"objectives {', '.join(spec.objectives)}{limits}",
        )
    )


def search_and_select(study: optuna.Study, space: SearchSpace, way: Way, run: Run) -> int:
    """Both with progress shown; 130 when the user stopped it, else 0."""
    console, review = run.console, Review(study, run.artifacts)
    done = sum(map(counts, study.get_trials(deepcopy=False)))
    try:
        if way.deadline is None and done >= way.spec.n_trials:
            console.print(
                f"study {way.spec.study_name!r} has {done} trials already; "
                f"--trials {done + 12} for more",
                markup=False,
            )
        else:
            if done:
                console.print(f"going on after {done} trials")
            ending = way.search(study, space, replace(run, review=review))
            if ENDINGS[ending]:
                console.print(ENDINGS[ending])
        seeds, work = way.fresh_seeds(), way.again
        select(study, way.spec, work, seeds, console, run.engine, way.deadline)
    except KeyboardInterrupt:
        console.print(
            f"\nstopped, nothing is lost; to go on: {run.command}", markup=False, soft_wrap=True
        )
        return 130
    if review.failure:
        console.print(f"notes for the dashboard: {review.failure!r}", style="dim", markup=False)
    return 0


def show_front(console: Console, study: optuna.Study, way: Way, folder: Path, storage: str) -> None:
    """The table, what to make of it, where it is written, and the next command."""
    front = read_front(study)
    if not front.rows:
        spent = sum(map(counts, study.get_trials(deepcopy=False)))
        tried = f"; {plural(spent, 'network')} tried, none keeps to the limits" if spent else ""
        console.print(f"no network finished yet{tried}")
        return
    paths = write_front(front, folder)
    console.print(terminal_table(front))
    console.print(lines(way.words(front)), style="dim", markup=False)
    console.print(f"\nwritten: {', '.join(map(str, paths))}", markup=False, soft_wrap=True)
    look = f"nasattn dashboard{storage_option(storage)}"
    console.print(f"look at it: {look}", markup=False, soft_wrap=True)

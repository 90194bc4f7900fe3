"""`nasattn replay`: whether a stored study is what its settings and its results make it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.progress import Progress

from nasattn.cli.look_up import look_up
from nasattn.cost import PieceCounter
from nasattn.errors import StudyError, UnknownNameError
from nasattn.evaluate import needed
from nasattn.files import content_hash
from nasattn.objectives import Cost
from nasattn.search.driver import Evaluator
from nasattn.search.forecast import Forecast, read_forecast
from nasattn.search.replay import Counting, Replay, read_config, replay
from nasattn.search.spec import TABLE, StudySpec
from nasattn.search.storage import open_storage, without_password
from nasattn.space import SearchSpace
from nasattn.words import plural, printable


def replay_command(name: str, *, storage: str, table: str | None, latency_model: str | None) -> int:
    """Replay a study and say what came out; 1 where it is not what is stored, else 0."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    opened = open_storage(storage)
    names = [found.study_name for found in opened.get_all_studies()]
    if name not in names:
        raise UnknownNameError("study", name, known=names, where=without_password(storage))
    study = optuna.load_study(study_name=name, storage=opened)
    spec, space = read_config(study)
    settings = study.user_attrs["settings"]
    spec, evaluate = static(study, spec, space, settings, table)
    forecast = read_model(study, spec, space, settings, latency_model)
    n = len(study.get_trials(deepcopy=False))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("replaying", total=n)
        found = replay(
            study, spec, space, evaluate, forecast, lambda i: bar.update(task, completed=i)
        )
    return show(console, name, found)


def static(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    settings: Mapping[str, Any],
    table: str | None,
) -> tuple[StudySpec, Evaluator]:
    """What is known of networks without a trial: counted, or from the study's table."""
    if not spec.table:
        classes, side = study.user_attrs.get("n_classes"), spec.resolution
        if classes is None or side is None:
            raise StudyError(f"study {study.study_name!r}: has no trial yet")
        return spec, Counting(spec, space, PieceCounter(classes, side))
    if table is None:
        raise StudyError(
            f"study {study.study_name!r}: was searched in table {settings['table']}; "
            "give it as --table FILE"
        )
    given = spec.model_copy(update={"evaluator": f"{TABLE}{table}"})
    way = look_up(given, space, {})
    if way.source[1] != settings["table_hash"]:
        raise StudyError(f"{table}: is not the table that the study was searched in")
    return given, way.evaluator


def read_model(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    settings: Mapping[str, Any],
    file: str | None,
) -> Forecast | None:
    """The latency model that screened the study's candidates, if one did."""
    if "latency_model" not in settings:
        return None
    if file is None or content_hash(Path(file)) != settings["latency_model"]:
        raise StudyError(
            f"study {study.study_name!r}: was searched with a --latency-model; give that file"
        )
    rows = needed(spec.objective_rows(), spec.limits(space))
    names = {row.name for row in rows if row.cost == Cost.MEASURED}
    assert spec.resolution
    return read_forecast(Path(file), names, spec.resolution, study.user_attrs["n_classes"])


def show(console: Console, name: str, found: Replay) -> int:
    """Each SHA-256 once where both are equal, else both."""
    console.print(f"study {name}: {plural(found.n_trials, 'trial')} proposed again")
    if found.n_left_out:
        console.print(f"{plural(found.n_left_out, 'trial')} left out: not at their end yet")
    rebuilt = asdict(found.rebuilt)
    for what, digest in asdict(found.stored).items():
        same = digest == rebuilt[what]
        console.print(f"  {what:<6} {digest} {'equal' if same else 'stored'}")
        if not same:
            console.print(f"  {'':<6} {rebuilt[what]} replayed")
    if found.is_exact:
        console.print("the study is what its settings and results make it")
        return 0
    first = f": {printable(found.difference)}" if found.difference else ""
    console.print(f"the study is not what its settings and results make it{first}")
    note = "other versions, or results that were changed, can be why: see its environment with"
    console.print(f"{note}\n  nasattn status {name} --json", style="dim")
    return 1

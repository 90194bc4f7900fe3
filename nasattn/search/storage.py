"""One study in an Optuna storage: opened by one writer, gone on with only under equal settings."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from nasattn.errors import StudyError
from nasattn.objectives import Direction
from nasattn.search.spec import differences

DEFAULT_STORAGE = "sqlite:///nasattn.db"


def sqlite_file(url: str) -> Path | None:
    """The file of a sqlite URL; None for other databases; StudyError where it is no URL."""
    try:
        parsed = make_url(url)
    except SQLAlchemyError as e:
        raise StudyError(
            f"storage {url!r}: must be a database URL such as {DEFAULT_STORAGE}"
        ) from e
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(str(parsed.database)) if is_file else None


def artifact_dir(url: str) -> Path:
    """The folder of a storage's artifacts: beside a sqlite file, else in the working folder."""
    file = sqlite_file(url)
    return file.with_name(f"{file.stem}-artifacts") if file else Path("nasattn-artifacts")


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """An Optuna storage; raises StudyError where it cannot be used, or is not there."""
    file = sqlite_file(url)
    if file and not file.parent.is_dir():
        raise StudyError(f"storage {url!r}: there is no folder {file.parent}")
    if file and not file.exists() and not create:
        raise StudyError(f"storage {url!r}: there is no file {file}; `nasattn search` makes one")
    try:
        return RDBStorage(url)
    except (SQLAlchemyError, ImportError, RuntimeError, OSError) as e:
        text = str(getattr(e, "orig", None) or e).split("\n")[0]
        raise StudyError(f"storage {url!r}: cannot be used ({text})") from e


def check_storage(url: str, name: str, *, resume: bool) -> None:
    """StudyError where the storage cannot be used, or, without `resume`, has the study already.

    Writes nothing: a sqlite file that is not there stays absent.
    """
    file = sqlite_file(url)
    if file and file.parent.is_dir() and not file.exists():
        return
    if _has_study(open_storage(url), name) and not resume:
        raise StudyError(
            f"study {name!r} is in {url} already; leave out --no-resume or give a --name"
        )


@contextmanager
def open_study(
    url: str, name: str, directions: Mapping[str, Direction], settings: Mapping[str, Any]
) -> Iterator[optuna.Study]:
    """A study for this process alone to write, made if it is not there.

    `directions` names the objectives. A stored study must have equal `settings`, else StudyError
    names the one that differs. Trials that were running when a process ended go back in the queue
    as they were asked, on entering (it was killed) and on leaving (it was interrupted).
    """
    storage = open_storage(url, create=True)
    with _one_writer(url):
        _check_settings(storage, url, name, settings)
        _requeue(storage, name)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[*directions.values()],
            load_if_exists=True,
        )
        if "settings" not in study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(list(directions))
            study.set_user_attr("settings", dict(settings))
        try:
            yield study
        finally:
            _requeue(storage, name)


@contextmanager
def _one_writer(url: str) -> Iterator[None]:
    file = sqlite_file(url)
    path = file.with_name(f"{file.name}.lock") if file else artifact_dir(url) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise StudyError(
            f"storage {url!r}: another process is writing to it; "
            "wait for it or give this search a --storage of its own"
        ) from None


def _has_study(storage: RDBStorage, name: str) -> bool:
    return any(study.study_name == name for study in storage.get_all_studies())


def _check_settings(storage: RDBStorage, url: str, name: str, settings: Mapping[str, Any]) -> None:
    if not _has_study(storage, name):
        return
    stored = storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get("settings")
    changed = [f"{name!r} was not made by nasattn"] if stored is None else []
    changed += differences(stored or settings, dict(settings))
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise StudyError(
            f"study {name!r} in {url}: settings differ: {changed[0]}{more}; "
            "give the new one a --name of its own"
        )


def _requeue(storage: RDBStorage, name: str) -> None:
    if not _has_study(storage, name):
        return
    study_id = storage.get_study_id_from_name(name)
    for trial in storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)

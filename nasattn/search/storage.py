"""One study in an Optuna storage: opened by one writer, gone on with only under equal settings."""

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import StudyError, UnknownNameError
from nasattn.objectives import Direction
from nasattn.search.history import GIVEN_UP
from nasattn.search.journal import open_journal
from nasattn.search.server import open_server, rdb_storage, reason
from nasattn.search.urls import DRIVERS, FILES, StorageUrl, read_url
from nasattn.search.writer import lost, one_writer
from nasattn.spec import differences

TRIAL = "trial:"  # before STUDY/NUMBER: the network of a stored trial

# What opening a storage raises that is not one, or not ours to use.
_UNUSABLE = (
    SQLAlchemyError,
    StorageInternalError,
    sqlite3.Error,
    ImportError,
    RuntimeError,
    OSError,
    ValueError,
)


# What ends a run that is no bug of ours: a server or a disk went away, or is full.
_OUTSIDE = (OperationalError, InterfaceError, OSError)


def artifact_dir(url: str) -> Path:
    """The folder of a storage's artifacts: beside its file, else in the working folder."""
    return read_url(url).artifacts


def without_password(url: str) -> str:
    """A storage's URL as it may be shown."""
    return read_url(url).shown


def open_storage(url: str, *, create: bool = False) -> BaseStorage:
    """An Optuna storage; raises StudyError where it cannot be used, or is not there."""
    place = read_url(url)
    storage = _find_storage(place, create=create)
    if storage is None:
        missing = f"there is no file {place.file}" if place.file else "there is no study in it"
        raise StudyError(f"storage {place.shown!r}: {missing}; `nasattn search` makes one")
    return storage


def _find_storage(place: StorageUrl, *, create: bool = False) -> BaseStorage | None:
    """A storage; None where there is none and none is to be made, and then nothing is written."""
    file = place.file
    try:
        if place.kind not in FILES:
            return open_server(place, create=create)
        if file and not file.parent.is_dir():
            raise StudyError(f"storage {place.shown!r}: there is no folder {file.parent}")
        if file and not file.exists() and not create:
            return None
        if file and place.kind == "journal":
            return open_journal(file)
        if file and file.exists():
            _check_tables(file, place.shown)
        return rdb_storage(place)
    except StudyError:
        raise
    except _UNUSABLE as e:
        driver = isinstance(e, ImportError) and place.kind in DRIVERS
        remedy = f"; pip install 'nasattn[{place.kind}]'" if driver else ""
        raise StudyError(f"storage {place.shown!r}: cannot be used ({reason(e)}){remedy}") from e


def _check_tables(file: Path, shown: str) -> None:
    """StudyError for a database of somebody else's, in which Optuna would make its tables."""
    try:
        tables = _tables(file, "ro")
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        # A process was killed in mid-commit: sqlite takes that back first, and has to write for it.
        tables = _tables(file, "rw")
    if tables and "studies" not in tables:
        raise StudyError(f"storage {shown!r}: {file} is a database, but not an Optuna storage")


def _tables(file: Path, mode: Literal["ro", "rw"]) -> set[str]:
    """The names of a database's tables."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as database:
        query = "select name from sqlite_master where type = 'table'"
        return {name for (name,) in database.execute(query)}


def check_storage(url: str, name: str, *, resume: bool) -> None:
    """StudyError where the storage cannot be used, or, without `resume`, has the study already.

    Writes nothing: what is not there stays absent.
    """
    place = read_url(url)
    storage = _find_storage(place)
    if storage and _has_study(storage, name) and not resume:
        raise StudyError(
            f"study {name!r} is in {place.shown} already; leave out --no-resume or give a --name"
        )


def check_study(
    url: str, name: str, directions: Mapping[str, Direction], settings: Mapping[str, Any]
) -> None:
    """StudyError where `open_study` would refuse a stored study; writes nothing."""
    place = read_url(url)
    storage = _find_storage(place)
    if storage:
        _check_settings(storage, place, name, directions, settings)


def stored_settings(url: str, name: str) -> dict[str, Any] | None:
    """The settings of the stored study of that name; None where there is none."""
    storage = _find_storage(read_url(url))
    if storage is None or not _has_study(storage, name):
        return None
    attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    settings: dict[str, Any] | None = attributes.get("settings")
    return settings


def find_study(url: str, name: str, settings: Mapping[str, Any]) -> optuna.Study | None:
    """The stored study of that name, to be read; None where there is none with such settings."""
    storage = _find_storage(read_url(url))
    if storage is None or not _has_study(storage, name):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    same = not any(differences(study.user_attrs.get("settings", {}), dict(settings)))
    return study if same else None


def read_study(url: str, name: str | None = None) -> optuna.Study:
    """A stored study, to be read: that of a name, or the only one there is.

    Raises StudyError or UnknownNameError where there is none, or no name was given and there are
    several. A search's control is not one to choose from.
    """
    storage = open_storage(url)
    names = [study.study_name for study in storage.get_all_studies()]
    place = read_url(url).shown
    if name is None:
        own = [n for n in names if not any(n == f"{other}-control" for other in names)]
        if len(own) != 1:
            which = f"name one of {', '.join(own)}" if own else "there is no study yet"
            raise StudyError(f"storage {place!r}: {which}")
        (name,) = own
    if name not in names:
        raise UnknownNameError("study", name, known=names, where=place)
    return optuna.load_study(study_name=name, storage=storage)


def read_trial(url: str, name: str) -> tuple[Architecture, dict[str, Any]]:
    """The network of `trial:STUDY/NUMBER` as it was trained, and the settings of its study.

    Raises StudyError or UnknownNameError for what is not there.
    """
    study, _, number = name.removeprefix(TRIAL).rpartition("/")
    if not (study and number.isdecimal() and len(number) < 10):
        raise StudyError(f"{name}: must be {TRIAL}STUDY/NUMBER, as {TRIAL}mobile-digits/3")
    storage = open_storage(url)
    studies = [found.study_name for found in storage.get_all_studies()]
    if study not in studies:
        raise UnknownNameError("study", study, known=studies, where=read_url(url).shown)
    study_id = storage.get_study_id_from_name(study)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    if int(number) >= len(trials):
        raise StudyError(f"{name}: the study has trials 0 to {len(trials) - 1}")
    text = trials[int(number)].user_attrs.get("architecture")
    if text is None:
        raise StudyError(f"{name}: that trial has no network")
    settings = storage.get_study_user_attrs(study_id).get("settings", {})
    return parse_architecture(json.loads(text), name), settings


@contextmanager
def open_study(
    url: str, name: str, directions: Mapping[str, Direction], settings: Mapping[str, Any]
) -> Iterator[optuna.Study]:
    """A study for this process alone to write, made if it is not there.

    `directions` names the objectives. A stored study must have equal `settings`, else StudyError
    names the one that differs. Trials that were running when a process ended go back in the queue
    as they were asked, on entering (it was killed) and on leaving (it was interrupted).
    """
    place = read_url(url)
    storage = open_storage(url, create=True)
    _check_settings(storage, place, name, directions, settings)
    with _one_line(place), one_writer(place, name, storage) as writer:
        study = optuna.create_study(
            storage=writer.storage,
            study_name=name,
            directions=[*directions.values()],
            load_if_exists=True,
        )
        writer.claim(study._study_id)
        _requeue(writer.storage, study._study_id)
        if "settings" not in study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(list(directions))
            study.set_user_attr("settings", dict(settings))
        try:
            yield study
        finally:
            _requeue(writer.storage, study._study_id)


@contextmanager
def write_study(url: str, name: str) -> Iterator[optuna.Study]:
    """A stored study for this process alone to write beside its trials; nothing is settled.

    Raises StudyError where another process writes to it.
    """
    place = read_url(url)
    storage = open_storage(url)
    with _one_line(place), one_writer(place, name, storage) as writer:
        study = optuna.load_study(study_name=name, storage=writer.storage)
        writer.claim(study._study_id)
        yield study


@contextmanager
def _one_line(place: StorageUrl) -> Iterator[None]:
    """Turn the loss of a storage in mid-run into StudyError."""
    try:
        yield
    except StorageInternalError as e:
        if not isinstance(e.__cause__, _OUTSIDE):
            raise
        raise StudyError(lost(place, e.__cause__)) from e


def _has_study(storage: BaseStorage, name: str) -> bool:
    return any(study.study_name == name for study in storage.get_all_studies())


def _check_settings(
    storage: BaseStorage,
    place: StorageUrl,
    name: str,
    directions: Mapping[str, Direction],
    settings: Mapping[str, Any],
) -> None:
    if not _has_study(storage, name):
        return
    study_id = storage.get_study_id_from_name(name)
    stored = storage.get_study_user_attrs(study_id).get("settings")
    if stored is None:
        same = len(storage.get_study_directions(study_id)) == len(directions)
        if same and not storage.get_n_trials(study_id):
            return  # a process was killed while it made the study
        raise StudyError(f"study {name!r} in {place.shown}: was not made by nasattn; give a --name")
    changed = [
        f"{path}: {short(a)} then, {short(b)} now"
        for path, a, b in differences(stored, dict(settings))
    ]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise StudyError(
            f"study {name!r} in {place.shown}: settings differ: {changed[0]}{more}; "
            "give the new one a --name of its own"
        )


def short(value: object) -> str:
    """A value in at most 60 characters."""
    if value is None:
        return "not there"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _requeue(storage: BaseStorage, study_id: int) -> None:
    """Settle trials that no process runs any more.

    One that was asked in full, or has its params from the queue, goes back there and keeps its
    number. One that was killed in the middle of its proposal is given up: the next one proposes
    the same again.
    """
    for trial in storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        queued = "fixed_params" in trial.system_attrs
        if queued or {"arch_id", "baseline"} & trial.user_attrs.keys():
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
        else:
            storage.set_trial_user_attr(trial_id, GIVEN_UP, "killed while it was proposed")
            storage.set_trial_state_values(trial_id, TrialState.FAIL)

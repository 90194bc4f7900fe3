"""One study in an Optuna storage: opened by one writer, gone on with only under equal settings."""

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import StudyError, UnknownNameError
from nasattn.objectives import Direction
from nasattn.search.history import GIVEN_UP
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


def sqlite_file(url: str) -> Path | None:
    """The file of a sqlite URL; None for other databases; StudyError where it is no URL."""
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError) as e:
        raise StudyError(
            f"storage {url!r}: must be a database URL such as sqlite:///nasattn.db"
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
    name = without_password(url)
    try:
        if file and not file.parent.is_dir():
            raise StudyError(f"storage {name!r}: there is no folder {file.parent}")
        if file and not file.exists() and not create:
            raise StudyError(
                f"storage {name!r}: there is no file {file}; `nasattn search` makes one"
            )
        if file and file.exists():
            _check_tables(file, url)
        return RDBStorage(url)
    except StudyError:
        raise
    except _UNUSABLE as e:
        text = str(getattr(e, "orig", None) or e).split("\n")[0]
        raise StudyError(f"storage {name!r}: cannot be used ({text})") from e


def without_password(url: str) -> str:
    """A storage's URL as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)


def _check_tables(file: Path, url: str) -> None:
    """StudyError for a database of somebody else's, in which Optuna would make its tables."""
    try:
        tables = _tables(file, "ro")
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
        # A process was killed in mid-commit: sqlite takes that back first, and has to write for it.
        tables = _tables(file, "rw")
    if tables and "studies" not in tables:
        raise StudyError(f"storage {url!r}: {file} is a database, but not an Optuna storage")


def _tables(file: Path, mode: Literal["ro", "rw"]) -> set[str]:
    """The names of a database's tables."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True)) as database:
        query = "select name from sqlite_master where type = 'table'"
        return {name for (name,) in database.execute(query)}


def check_storage(url: str, name: str, *, resume: bool) -> None:
    """StudyError where the storage cannot be used, or, without `resume`, has the study already.

    Writes nothing: a sqlite file that is not there stays absent.
    """
    file = sqlite_file(url)
    with suppress(OSError):  # a name that no file can have: open_storage says so
        if file and file.parent.is_dir() and not file.exists():
            return
    if _has_study(open_storage(url), name) and not resume:
        raise StudyError(
            f"study {name!r} is in {without_password(url)} already; "
            "leave out --no-resume or give a --name"
        )


def check_study(
    url: str, name: str, directions: Mapping[str, Direction], settings: Mapping[str, Any]
) -> None:
    """StudyError where `open_study` would refuse a stored study; writes nothing."""
    file = sqlite_file(url)
    if not file or file.exists():
        _check_settings(open_storage(url), url, name, directions, settings)


def stored_settings(url: str, name: str) -> dict[str, Any] | None:
    """The settings of the stored study of that name; None where there is none."""
    file = sqlite_file(url)
    if file and not file.exists():
        return None
    storage = open_storage(url)
    if not _has_study(storage, name):
        return None
    attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    settings: dict[str, Any] | None = attributes.get("settings")
    return settings


def find_study(url: str, name: str, settings: Mapping[str, Any]) -> optuna.Study | None:
    """The stored study of that name, to be read; None where there is none with such settings."""
    file = sqlite_file(url)
    if file and not file.exists():
        return None
    storage = open_storage(url)
    if not _has_study(storage, name):
        return None
    study = optuna.load_study(study_name=name, storage=storage)
    same = not differences(study.user_attrs.get("settings", {}), dict(settings))
    return study if same else None


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
        raise UnknownNameError("study", study, known=studies, where=without_password(url))
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
    storage = open_storage(url, create=True)
    _check_settings(storage, url, name, directions, settings)
    with _one_writer(url):
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
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StudyError(
            f"storage {without_password(url)!r}: another process is writing to it; "
            "wait for it or give this one a --storage of its own"
        ) from None
    except OSError as e:
        raise StudyError(f"{path}: cannot be locked ({e.strerror})") from e
    try:
        yield
    finally:
        lock.release()


def _has_study(storage: RDBStorage, name: str) -> bool:
    return any(study.study_name == name for study in storage.get_all_studies())


def _check_settings(
    storage: RDBStorage,
    url: str,
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
        raise StudyError(
            f"study {name!r} in {without_password(url)}: was not made by nasattn; give a --name"
        )
    changed = [
        f"{path}: {short(a)} then, {short(b)} now"
        for path, a, b in differences(stored, dict(settings))
    ]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise StudyError(
            f"study {name!r} in {without_password(url)}: settings differ: {changed[0]}{more}; "
            "give the new one a --name of its own"
        )


def short(value: object) -> str:
    """A value in at most 60 characters."""
    if value is None:
        return "not there"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _requeue(storage: RDBStorage, name: str) -> None:
    """Settle trials that no process runs any more.

    One that was asked in full, or has its params from the queue, goes back there and keeps its
    number. One that was killed in the middle of its proposal is given up: the next one proposes
    the same again.
    """
    if not _has_study(storage, name):
        return
    study_id = storage.get_study_id_from_name(name)
    for trial in storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        if {"arch_id", "baseline"} & trial.user_attrs.keys():
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
        else:
            storage.set_trial_user_attr(trial_id, GIVEN_UP, "killed while it was proposed")
            storage.set_trial_state_values(trial_id, TrialState.FAIL)

"""The one process that writes to a study."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from sqlalchemy import create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.pool import NullPool

from nasattn.errors import StudyError
from nasattn.search.server import LOCKS, rdb_storage, reason
from nasattn.search.urls import StorageUrl

# Seconds that a writer waits for a server that went away: longer than the server takes to notice
# a dead session (its keepalives), for the lock may be that of our own lost one.
PATIENCE = 90.0
PAUSE = 1.0
SHORTLY = 1.5  # seconds that a file may be locked: a dashboard that writes a note is soon done
TOKEN = "nasattn:writer"  # system attribute of a study: which process opened it last
IS_LAST_WRITER = """
    select 1 from study_system_attributes join studies
    on studies.study_id = study_system_attributes.study_id
    where studies.study_name = %s and study_system_attributes.value_json = %s
"""


def lost(place: StorageUrl, error: BaseException) -> str:
    """What is to be said of a storage that fails in mid-run."""
    return (
        f"storage {place.shown!r}: was lost ({reason(error)}); what is finished is kept, and the "
        "same command goes on"
    )


class Writer(Protocol):
    """Who has the right to write, and through what."""

    @property
    def storage(self) -> BaseStorage:
        """Writes only for as long as the right lasts."""

    def claim(self, study_id: int) -> None:
        """Say in the study, once it is there, that it is ours."""


@contextmanager
def one_writer(place: StorageUrl, study: str, storage: BaseStorage) -> Iterator[Writer]:
    """The right to write: to a whole file, or to one study of a server; else StudyError.

    `storage` is that of the file.
    """
    with _file_writer(place, storage) if place.file else _server_writer(place, study) as writer:
        yield writer


class _FileWriter:
    def __init__(self, storage: BaseStorage) -> None:
        self.storage = storage

    def claim(self, study_id: int) -> None:
        """The lock on the file lasts as long as we do."""


@contextmanager
def _file_writer(place: StorageUrl, storage: BaseStorage) -> Iterator[_FileWriter]:
    assert place.file
    # Not Optuna's FILE.lock of a journal: other programs remove that.
    ending = {"sqlite": "lock", "journal": "writer"}[place.kind]
    path = place.file.with_name(f"{place.file.name}.{ending}")
    lock = FileLock(path, timeout=SHORTLY)
    try:
        lock.acquire()
    except Timeout:
        raise StudyError(
            f"storage {place.shown!r}: another process is writing to it; "
            "wait for it or give this one a --storage of its own"
        ) from None
    except OSError as e:
        raise StudyError(f"{path}: cannot be locked ({e.strerror})") from e
    try:
        yield _FileWriter(storage)
    finally:
        lock.release()


class _TakenError(Exception):
    """Another session has the lock."""


class _ServerWriter:
    """A storage that has one connection to its server, which holds the study's lock.

    So nothing is ever written without the lock. A connection that is lost is made anew, with the
    lock, if no other process has opened the study since; else the writer is done for good.
    """

    def __init__(self, place: StorageUrl, study: str) -> None:
        self.place = place
        self.study = study
        self.engine = create_engine(place.with_driver(), poolclass=NullPool)
        self.token = uuid.uuid4().hex
        self.held = False  # had the lock once
        self.lost = ""  # why it cannot be had again
        self.closed = False
        self.storage = rdb_storage(
            place,
            checked=True,
            creator=self.connect,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
        )

    def claim(self, study_id: int) -> None:
        self.storage.set_study_system_attr(study_id, TOKEN, self.token)

    def close(self) -> None:
        """Let the lock go. The storage can still be read, by connections of a moment."""
        self.closed = True
        self.storage.remove_session()
        self.storage.engine.dispose()
        event.listen(self.storage.engine, "checkin", _end)

    def connect(self) -> DBAPIConnection:
        """A connection that has the lock."""
        if self.lost and not self.closed:
            raise StudyError(self.lost)
        waits = self.held and not self.closed
        until = time.monotonic() + (PATIENCE if waits else 0)
        try:
            while True:
                try:
                    return self._connect()
                except self._failures() as e:
                    if time.monotonic() >= until:
                        raise StudyError(self._message(e)) from e
                time.sleep(PAUSE)
        except BaseException as e:  # Ctrl-C, too: nobody waits twice
            self.lost = str(e) or (
                f"storage {self.place.shown!r}: did not answer before the run was stopped; "
                "the same command goes on"
            )
            raise

    def _failures(self) -> tuple[type[BaseException], ...]:
        dbapi = self.engine.dialect.loaded_dbapi
        return (_TakenError, dbapi.OperationalError, dbapi.InterfaceError)

    def _message(self, error: BaseException) -> str:
        if not isinstance(error, _TakenError):
            return lost(self.place, error)
        before = "the connection was lost, and " if self.held else ""
        return (
            f"study {self.study!r} in {self.place.shown}: {before}another process is writing to "
            "it; wait for it or give this one a --name of its own"
        )

    def _connect(self) -> DBAPIConnection:
        dialect = self.engine.dialect
        args, kwargs = dialect.create_connect_args(self.engine.url)
        connection = dialect.connect(*args, **kwargs)
        try:
            if not self.closed:
                self._take_lock(connection.cursor())
                connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_lock(self, cursor: DBAPICursor) -> None:
        locking = LOCKS[self.place.kind]
        for setting in locking.settings:
            cursor.execute(setting)
        key = locking.key(str(self.engine.url.database), self.study)
        if _first(cursor, locking.take, key) != 1:
            raise _TakenError
        if self.held and not _first(cursor, IS_LAST_WRITER, self.study, json.dumps(self.token)):
            raise StudyError(
                f"study {self.study!r} in {self.place.shown}: the connection was lost, and another "
                "process has written to it since; the same command goes on from there"
            )
        self.held = True


def _first(cursor: DBAPICursor, query: str, *values: object) -> Any:
    """A query's first value; None where it has no row."""
    cursor.execute(query, values)
    row = cursor.fetchone()
    return row[0] if row else None


def _end(connection: Any, record: Any) -> None:
    record.invalidate()


@contextmanager
def _server_writer(place: StorageUrl, study: str) -> Iterator[_ServerWriter]:
    writer = _ServerWriter(place, study)
    try:
        yield writer
    finally:
        writer.close()

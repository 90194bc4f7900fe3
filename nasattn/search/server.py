"""A database server as storage: its tables, its own locks, and what it says when it fails."""

import hashlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.pool import NullPool

from nasattn.errors import StudyError
from nasattn.search.quick import QuickStorage
from nasattn.search.urls import StorageUrl

TABLES = "\0tables"  # in place of a study's name: the lock under which tables are made
# Optuna's columns for what is written as JSON. MySQL's `text` ends at 64 KiB, an ablation of many
# arms does not.
LONG_TEXTS = [
    f"{table}_{kind}_attributes" for table in ("study", "trial") for kind in ("user", "system")
]


@dataclass(frozen=True)
class Locking:
    """A server's own locks, which end with the session that took them."""

    take: str  # gives 1 where the session has it now
    wait: str  # returns when it has it
    key: Callable[[str, str], int | str]  # of database and study
    # What a session needs that is idle while a network is trained, and that is to be found dead
    # when its machine is.
    settings: tuple[str, ...]


def _number(database: str, study: str) -> int:
    """64 bits with a sign; each database has locks of its own."""
    digest = hashlib.sha256(f"nasattn:{study}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _name(database: str, study: str) -> str:
    """At most 64 characters; the locks are those of the whole server."""
    return "nasattn:" + hashlib.sha256(f"{database}:{study}".encode()).hexdigest()[:40]


LOCKS = {
    "postgresql": Locking(
        "select pg_try_advisory_lock(%s)::int",
        "select pg_advisory_lock(%s)",
        _number,
        (
            "set tcp_keepalives_idle = 30",  # a machine that lost its power is noticed in 60 s
            "set tcp_keepalives_interval = 10",
            "set tcp_keepalives_count = 3",
            # Servers before 14 have none.
            "select set_config(name, '0', false) from pg_settings where name = "
            "'idle_session_timeout'",
        ),
    ),
    "mysql": Locking(
        "select get_lock(%s, 0)",
        "select get_lock(%s, 60)",
        _name,
        ("set session wait_timeout = 31536000",),  # 8 hours is usual; this is the longest, a year
    ),
}


def open_server(place: StorageUrl, *, create: bool) -> RDBStorage | None:
    """A server's storage, to be read; None where it holds none yet and none is to be made.

    Its connections end with it. Raises StudyError for a database of somebody else's.
    """
    engine = create_engine(place.with_driver(), poolclass=NullPool)
    if not _has_tables(engine, place):
        if not create:
            return None
        _make_tables(engine, place)
    storage = rdb_storage(place, pool_pre_ping=True)
    weakref.finalize(storage, storage.engine.dispose)
    return storage


def rdb_storage(place: StorageUrl, *, checked: bool = False, **engine_kwargs: Any) -> RDBStorage:
    """Optuna's storage, `checked` where its tables are known to be there and of this version."""
    url = place.url if place.file else place.with_driver()
    # Optuna would fill in what stands in braces.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    return QuickStorage(
        text,
        engine_kwargs=engine_kwargs,
        skip_table_creation=checked,
        skip_compatibility_check=checked,  # needs two connections at once
    )


def _has_tables(engine: Engine, place: StorageUrl) -> bool:
    tables = inspect(engine).get_table_names()
    if tables and "studies" not in tables:
        raise StudyError(
            f"storage {place.shown!r}: has tables of something else; give nasattn a database, "
            "or a schema, of its own"
        )
    return "alembic_version" in tables  # which Optuna makes last


def _make_tables(engine: Engine, place: StorageUrl) -> None:
    """Make Optuna's tables, one process at a time."""
    locking = LOCKS[place.kind]
    with engine.connect() as session:  # the lock ends with it
        key = locking.key(str(engine.url.database), TABLES)
        session.exec_driver_sql(locking.wait, (key,))
        rdb_storage(place, poolclass=NullPool)
        if place.kind == "mysql":
            for table in LONG_TEXTS:
                session.exec_driver_sql(f"alter table {table} modify value_json mediumtext")


def reason(error: BaseException) -> str:
    """What a database's error says, in one line."""
    cause = getattr(error, "orig", None) or error
    words = cause.args[-1] if cause.args and isinstance(cause.args[0], int) else str(cause)
    lines = [line.strip(" -\t") for line in str(words).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # psycopg, which tried several addresses
        return lines[1]
    return lines[0] if lines else type(cause).__name__

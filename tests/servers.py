"""Database servers for tests: each in a folder of its own, reached by a socket file only."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from nasattn.search.urls import read_url

PASSWORD = "s3cret{}/@:"  # much of what must be quoted in a URL
QUOTED = "s3cret%7B%7D%2F%40%3A"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True)
class Kind:
    """How a server is set up, run and reached; {} is its folder."""

    programs: dict[str, tuple[str, ...]]  # by the name used below: any of these
    owner: str  # user of that name, where there is one and we are root
    set_up: str
    run: str
    files: dict[str, str]
    stop: signal.Signals
    url: str  # of folder and database
    first: str  # the database that is there from the beginning
    ready: str  # what the log says when it can be reached


KINDS = {
    "postgresql": Kind(
        {"initdb": ("initdb",), "postgres": ("postgres",)},
        "postgres",
        "initdb -D {}/data -U me -A scram-sha-256 --pwfile={}/password --no-sync",
        "postgres -D {}/data -k {} -F -c listen_addresses=",
        {"password": PASSWORD},
        signal.SIGINT,
        f"postgresql://me:{QUOTED}@/{{1}}?host={{0}}",
        "postgres",
        "ready to accept connections",
    ),
    "mysql": Kind(
        {"install": ("mariadb-install-db",), "mysqld": ("mariadbd", "mysqld")},
        "mysql",
        "install --no-defaults --datadir={}/data --skip-test-db",
        "mysqld --no-defaults --datadir={}/data --socket={}/socket --pid-file={}/pid "
        "--init-file={}/init --skip-networking --innodb-flush-log-at-trx-commit=0",
        {
            "init": f"create or replace user me identified by '{PASSWORD}';\n"
            "grant all on *.* to me;\n"
        },
        signal.SIGTERM,
        f"mysql://me:{QUOTED}@/{{1}}?unix_socket={{0}}/socket",
        "mysql",
        "ready for connections",
    ),
}


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, kind: Kind, folder: Path, programs: dict[str, str], user: str | None):
        self.kind = kind
        self.folder = folder
        self.programs = programs
        self.user = user
        self.numbers = count()
        self.process: subprocess.Popen[bytes] | None = None
        for name, content in kind.files.items():
            (folder / name).write_text(content)
        if self.spawn(kind.set_up).wait():
            raise RuntimeError((folder / "log").read_text())

    def spawn(self, command: str) -> subprocess.Popen[bytes]:
        name, *rest = command.replace("{}", str(self.folder)).split()
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self.programs[name], *rest],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                extra_groups=[] if self.user else None,
                env=ENVIRONMENT,
            )

    def start(self) -> None:
        log = self.folder / "log"
        log.write_text("")
        self.process = self.spawn(self.kind.run)
        until = time.monotonic() + 60
        while self.kind.ready not in log.read_text():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(self.kind.stop)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def execute(self, statement: str) -> None:
        url = read_url(self.url(self.kind.first)).with_driver()
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    def url(self, database: str) -> str:
        return self.kind.url.format(self.folder, database)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test{next(self.numbers)}"
        self.execute(f"create database {name}")
        return self.url(name)


def find(names: tuple[str, ...]) -> str | None:
    """A program, which may be where only servers are."""
    places = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def unprivileged(name: str) -> str | None:
    """The user to run a server as, for root, as whom none runs."""
    if os.getuid():
        return None
    return name if name in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


@contextmanager
def running(name: str) -> Iterator[Server]:
    """A server of that kind; skips where it is not installed, leaves nothing behind."""
    kind = KINDS[name]
    programs = {key: find(names) for key, names in kind.programs.items()}
    found = {key: path for key, path in programs.items() if path}
    if len(found) < len(programs):
        pytest.skip(f"no {name} server is installed here")
    user = unprivileged(kind.owner)
    folder = Path(tempfile.mkdtemp(prefix="nasattn-server-"))
    if user:
        shutil.chown(folder, user)
    try:
        server = Server(kind, folder, found, user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)

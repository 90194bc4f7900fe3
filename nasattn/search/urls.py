"""What a storage's URL says: its kind, its file or its server, and how it may be shown."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from nasattn.errors import StudyError

FILES = ("sqlite", "journal")  # kinds that are a file; the others are a database server
# The drivers of a database server, by SQLAlchemy's name and by module, the one of our extra first.
DRIVERS = {
    "postgresql": {"psycopg": "psycopg", "psycopg2": "psycopg2"},
    "mysql": {"pymysql": "pymysql", "mysqldb": "MySQLdb"},
}
SERVERS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}  # and of which kind
SECRETS = ("password", "passwd", "sslpassword")  # as a URL's options
# What is asked of a server where the URL does not: seconds to wait for its answer; text as text
# from a database without an encoding.
OPTIONS = {
    "postgresql": {"connect_timeout": "10", "client_encoding": "utf8"},
    "mysql": {"connect_timeout": "10"},
}


@dataclass(frozen=True)
class StorageUrl:
    """A storage's URL, taken apart."""

    url: URL
    kind: str
    file: Path | None = None

    @property
    def shown(self) -> str:
        """The URL without passwords."""
        hidden = {key: "..." for key in SECRETS if key in self.url.query}
        text = self.url.update_query_dict(hidden) if hidden else self.url
        return text.render_as_string(hide_password=True)

    @property
    def artifacts(self) -> Path:
        """The folder of its artifacts: beside a file, else in the working folder."""
        if self.file is None:
            return Path("nasattn-artifacts")
        return self.file.with_name(f"{self.file.stem}-artifacts")

    def with_driver(self) -> URL:
        """The URL of a server with the driver that is here; StudyError where there is none."""
        drivers = DRIVERS[self.kind]
        _, _, named = self.url.drivername.partition("+")
        wanted = {named: drivers.get(named, named)} if named else drivers
        for driver, module in wanted.items():
            if find_spec(module):
                url = self.url.set(drivername=f"{self.kind}+{driver}")
                return url.set(query={**OPTIONS[self.kind], **url.query})
        raise StudyError(
            f"storage {self.shown!r}: there is no driver {' or '.join(wanted.values())}; "
            f"pip install 'nasattn[{self.kind}]'"
        )


def read_url(text: str) -> StorageUrl:
    """Take a URL apart; StudyError where it is none, or none that can hold a study."""
    shown = re.sub(r"(://[^/:]*:).*@", r"\1***@", text)
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError) as e:
        raise StudyError(
            f"storage {shown!r}: must be a database URL such as sqlite:///nasattn.db"
        ) from e
    name = url.get_backend_name()
    if name in SERVERS:
        if "@" in f"{url.host}{url.database}":  # the rest of a password, which nobody is to see
            raise StudyError(f"storage {shown!r}: @, / and : in a password are %40, %2F and %3A")
        return StorageUrl(url, SERVERS[name])
    if name not in FILES:
        known = ", ".join((*FILES, *SERVERS))
        raise StudyError(f"storage {shown!r}: cannot be used ({name!r} is none of {known})")
    if name == "journal" and (url.host or not url.database):
        raise StudyError(f"storage {shown!r}: must be journal:///FILE")
    return StorageUrl(url, name, Path(url.database) if url.database else None)

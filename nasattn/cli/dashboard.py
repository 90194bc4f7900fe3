"""`nasattn dashboard`: Optuna Dashboard on a storage, with its artifacts."""

import ipaddress
import logging
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import get_storage
from rich.console import Console

from nasattn.errors import StudyError
from nasattn.search.server import reason
from nasattn.search.storage import artifact_dir, open_storage


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # an open browser does not keep the command from ending


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        """A page asks every few seconds; nobody wants a line for each."""


class _ServerAway(logging.Filter):
    """One line when a database server goes away, and not a traceback for each request."""

    said = ""

    def filter(self, record: logging.LogRecord) -> bool:
        error = sys.exc_info()[1]
        if not isinstance(error, StorageInternalError):
            return True
        before, self.said = self.said, reason(error.__cause__ or error)
        record.msg = f"nasattn: the storage does not answer ({self.said})"
        return self.said != before


def dashboard_command(storage: str, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    opened = open_storage(storage)
    from optuna_dashboard import wsgi

    logging.getLogger("optuna_dashboard._bottle_util").addFilter(_ServerAway())
    cached = get_storage(opened)  # finished trials are read once, not at every look
    app = wsgi(cached, artifact_store=FileSystemArtifactStore(artifact_dir(storage)))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_QuietHandler)
    except (OSError, OverflowError, TypeError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or e
        raise StudyError(
            f"cannot listen on {host}:{port} ({reason}); --host and --port take others"
        ) from e
    names = ", ".join(study.study_name for study in opened.get_all_studies()) or "none yet"
    console.print(f"studies: {names}")
    if not _is_loopback(host):
        console.print("anyone who reaches this machine can read and change them: no password")
    console.print(f"open http://{host}:{port}/dashboard/ (Ctrl-C ends it)")
    with server:
        server.serve_forever()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

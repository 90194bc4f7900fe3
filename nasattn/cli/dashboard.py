"""`nasattn dashboard`: Optuna Dashboard on a storage, with its artifacts."""

import ipaddress
import logging
import sys
import threading
import time
import warnings
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import get_storage
from rich.console import Console

from nasattn.errors import StudyError
from nasattn.report.dashboard import catch_up, is_up_to_date
from nasattn.search.server import reason
from nasattn.search.storage import artifact_dir, open_storage, read_study, write_study

PAUSE = 5.0  # seconds between two looks whether something is new


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

    # Its own plot of importances warns of every parameter that few trials have.
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna.importance")

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
    keeper = threading.Thread(target=keep_up, args=(storage, console), daemon=True)
    keeper.start()
    with server:
        server.serve_forever()


def keep_up(storage: str, console: Console) -> None:
    """Bring notes, pictures and charts of all studies up to date, again and again.

    A study that another process writes to is that one's business; what goes wrong here is said
    once and ends no dashboard.
    """
    said: set[str] = set()
    while True:
        try:
            for summary in open_storage(storage).get_all_studies():
                update(storage, summary.study_name)
        except StudyError as e:
            if not ({str(e)} & said or "another process" in str(e)):
                console.print(f"notes and charts: {e}")
            said.add(str(e))
        time.sleep(PAUSE)


def update(storage: str, name: str) -> None:
    """One study, where it is not up to date and nobody writes to it."""
    if is_up_to_date(read_study(storage, name)):
        return
    with write_study(storage, name) as study:
        catch_up(study, artifact_dir(storage))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

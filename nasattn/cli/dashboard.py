"""`nasattn dashboard`: Optuna Dashboard on a storage, with its artifacts."""

import ipaddress
import logging
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, get_storage
from rich.console import Console

from nasattn.errors import StudyError
from nasattn.report.dashboard import catch_up, is_up_to_date
from nasattn.search.server import reason
from nasattn.search.status import read_status
from nasattn.search.storage import artifact_dir, open_storage, write_study

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
    keeper = threading.Thread(target=keep_up, args=(storage, opened, console), daemon=True)
    keeper.start()
    with server:
        server.serve_forever()


def keep_up(storage: str, opened: BaseStorage, console: Console) -> None:
    """Bring notes, pictures and charts of all studies up to date, again and again.

    What goes wrong is said once, and ends neither the dashboard nor the other studies' notes.
    """
    said: set[str] = set()
    while True:
        try:
            names = [study.study_name for study in opened.get_all_studies()]
        except Exception:  # the server's own requests say that a storage is away
            names = []
        for name in names:
            try:
                update(storage, opened, name)
            except Exception as e:
                line = f"notes and charts of {name}: {e if isinstance(e, StudyError) else repr(e)}"
                if line not in said:
                    console.print(line)
                said.add(line)
        time.sleep(PAUSE)


def update(storage: str, opened: BaseStorage, name: str) -> None:
    """One study of ours, where something is new and no search or ablation writes to it now."""
    study = optuna.load_study(study_name=name, storage=opened)
    if "settings" not in study.user_attrs or is_up_to_date(study):
        return
    run = read_status(opened, name, datetime.now(UTC)).run
    if run and run.state == "running":
        return  # it keeps that up to date itself
    catch_up(study, artifact_dir(storage), lambda: write_study(storage, name))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""`nasattn dashboard`: Optuna Dashboard on a storage, with its artifacts."""

import socket
import warnings

from optuna.artifacts import FileSystemArtifactStore
from rich.console import Console

from nasattn.errors import StudyError
from nasattn.search.storage import artifact_dir, open_storage


def dashboard_command(storage: str, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    opened = open_storage(storage)
    check_port(host, port)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna Dashboard's own deprecations
        from optuna_dashboard import run_server
    console = Console(highlight=False)
    names = ", ".join(study.study_name for study in opened.get_all_studies()) or "none yet"
    console.print(f"studies: {names}", markup=False)
    console.print(f"open http://{host}:{port}/ (Ctrl-C ends it)")
    run_server(
        opened, host=host, port=port, artifact_store=FileSystemArtifactStore(artifact_dir(storage))
    )


def check_port(host: str, port: int) -> None:
    """StudyError where nothing can listen there."""
    try:
        with socket.create_server((host, port)):
            pass
    except (OSError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or e
        raise StudyError(f"cannot listen on {host}:{port} ({reason}); --port takes another") from e

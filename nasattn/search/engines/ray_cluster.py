"""A Ray cluster: one that runs, or one that is started on this machine and ended."""

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray

from nasattn.errors import StudyError
from nasattn.search.status import is_alive

PATIENCE = 5.0  # seconds, for a cluster to answer
STORE = 200_000_000  # bytes of the object store, beside what travels
FOLDER = "nasattn-ray-"  # of temporary files; then the process that made it
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # the study is what is kept
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def cluster(address: str | None, n_cpus: int, store_bytes: int) -> Iterator[Path]:
    """Be connected with the cluster at an address, or start one; gives a folder for files.

    `n_cpus` and `store_bytes` are those of one that is started. Raises StudyError where there is
    none at the address.
    """
    if address not in (None, "auto"):
        _check_answers(address)
    clean()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    own = {
        "num_cpus": n_cpus,
        "include_dashboard": False,
        "object_store_memory": STORE + 2 * store_bytes,
        "_temp_dir": str(folder),
    }
    try:
        with environment(ENVIRONMENT):
            try:
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else own),
                )
            except (ConnectionError, ValueError, RuntimeError, OSError) as e:
                text = str(e).strip().split("\n")[0]
                raise StudyError(f"Ray cluster {address or 'here'}: {text}") from e
            try:
                for name in ("ray.tune", "ray.train", "ray"):
                    logging.getLogger(name).setLevel(logging.CRITICAL)
                yield folder
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_answers(address: str | None) -> None:
    """StudyError where nothing answers at HOST:PORT, for which Ray would wait minutes."""
    host, _, port = (address or "").rpartition(":")
    try:
        if not port.isdecimal():
            raise OSError("must be HOST:PORT, or auto")
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as e:
        raise StudyError(f"Ray cluster {address}: {getattr(e, 'strerror', None) or e}") from e


def count_fits(cpus: float, gpus: float) -> int:
    """How many trials the nodes hold at once."""
    total = 0
    for node in (node for node in ray.nodes() if node["Alive"]):
        have = node["Resources"]
        rooms = [have.get("CPU", 0) / cpus] + ([have.get("GPU", 0) / gpus] if gpus else [])
        total += math.floor(min(rooms) + 1e-9)
    return total


def largest(resource: str) -> float:
    return max(float(node["Resources"].get(resource, 0)) for node in ray.nodes() if node["Alive"])


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Ray is set up by environment variables alone."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def clean() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdecimal() and is_alive(socket.gethostname(), int(pid)) is False:
            shutil.rmtree(folder, ignore_errors=True)

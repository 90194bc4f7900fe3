"""Optuna's journal file: one record a line, appended by one process at a time."""

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

FIRST = b'{"op_code":'  # how every journal of Optuna's begins
CHUNK = 1 << 16  # bytes
# What Optuna raises for records that are none, or not in their place.
_DAMAGES = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)


def open_journal(file: Path) -> JournalStorage:
    """A journal, made where it is not there; ValueError for a file that is none. Mends nothing."""
    if file.exists():
        _check_journal(file)
    try:
        return JournalStorage(_Backend(file))
    except _DAMAGES as e:
        raise ValueError(f"{file} is a damaged journal: {e or type(e).__name__}") from e


def _check_journal(file: Path) -> None:
    """ValueError unless a file is empty or begins as a journal does, be it cut off."""
    if not file.is_file():
        raise ValueError(f"{file} is not a file")
    with file.open("rb") as f:
        start = f.read(len(FIRST))
    if start != FIRST[: len(start)]:
        raise ValueError(f"{file} is not an Optuna journal")


def cut_torn_end(file: Path) -> None:
    """Cut what a process that was killed has written of a record. Needs the lock.

    Readers pass over a last line that is not whole, but one appended to it would make it, and all
    behind it, unreadable for ever.
    """
    with file.open("rb+") as f:
        end = f.seek(0, os.SEEK_END)
        whole = _start_of_last_line(f, end)
        f.seek(whole)
        if not _is_record(f.read(end - whole)):
            f.truncate(whole)


def _start_of_last_line(f: BinaryIO, end: int) -> int:
    start = max(end - 1, 0)  # the last byte may be the line's own end
    while start > 0:
        step = min(CHUNK, start)
        f.seek(start - step)
        found = f.read(step).rfind(b"\n")
        if found >= 0:
            return start - step + found + 1
        start -= step
    return 0


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


class _Backend(JournalFileBackend):
    """Optuna's, which survives a kill in mid-write, and says what is wrong with the file.

    Its lock ends with its process; Optuna's stays behind for 30 s after a kill. Nor is it a file of
    that name, which any other program that has the journal open would remove.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self.file = file
        self.lock = FileLock(file.with_name(f"{file.name}.append"), timeout=60, poll_interval=0.002)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            with self.lock:
                cut_torn_end(self.file)
                with self.file.open("ab") as f:
                    f.write(lines.encode())
                    f.flush()
                    os.fsync(f.fileno())
        except OSError as e:
            raise StorageInternalError(f"{self.file}: {e}") from e

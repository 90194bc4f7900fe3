"""The book of the sealed test splits: each time that one was opened, and by which command."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from nasattn.errors import DataError

BOOK = "test-openings.jsonl"  # in the cache folder, a line an opening


@dataclass(frozen=True)
class Opening:
    """The test split of the pictures with a content hash was looked at."""

    content_hash: str
    when: str  # ISO 8601, UTC
    command: str


def note_opening(cache_dir: Path, content_hash: str, command: str) -> None:
    """Write down that a test split is opened. Raises DataError where the book cannot be written."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps(asdict(Opening(content_hash, when, command)))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with (cache_dir / BOOK).open("a", encoding="utf-8") as book:
            book.write(line + "\n")
    except OSError as e:
        raise DataError(f"{cache_dir / BOOK}: cannot be written ({e.strerror or e})") from e


def read_openings(cache_dir: Path, content_hash: str) -> list[Opening] | None:
    """The openings of one set of pictures, the oldest first; None where they cannot be read.

    The same pictures at another resolution, or dealt out by another seed, are another set. A
    damaged line is none.
    """
    try:
        lines = (cache_dir / BOOK).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError:
        return None
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            opening = Opening(*(str(entry[k]) for k in ("content_hash", "when", "command")))
        except (ValueError, KeyError, TypeError):
            continue
        if opening.content_hash == content_hash:
            found.append(opening)
    return found

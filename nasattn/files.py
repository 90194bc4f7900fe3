"""Plain names for files, and writing them whole or not at all."""

import hashlib
import os
import re
import tempfile
from pathlib import Path


def slug(text: str) -> str:
    """Text as a plain file name: other characters become `_`, and it never leads elsewhere."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip(".")[:100] or "_"


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: into a temporary file beside it, then renamed."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.close()
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def content_hash(path: Path) -> str:
    """12 hex digits over a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

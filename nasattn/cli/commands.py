"""Commands to be shown: the one that was typed, the next one."""

import shlex
import sys

from nasattn.cli.options import DEFAULT_STORAGE
from nasattn.search.storage import without_password


def typed(storage: str) -> str:
    """The command that was typed, to be shown: without a storage's password."""
    shown = [word.replace(storage, without_password(storage)) for word in sys.argv[1:]]
    return shlex.join(["nasattn", *shown])


def storage_option(storage: str) -> str:
    """What a further command needs to find the same storage; without its password."""
    if storage == DEFAULT_STORAGE:
        return ""
    return f" --storage {shlex.quote(without_password(storage))}"

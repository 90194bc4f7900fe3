"""The YAML files that ship with the package, found by name; a path of one's own works as well."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from nasattn.errors import UnknownNameError

Folder = Literal["search_spaces", "studies"]


def shipped(folder: Folder) -> dict[str, Path]:
    """Name -> path of every shipped file of a folder."""
    package = Path(__file__).parent
    installed = package / folder
    source = installed if installed.is_dir() else package.parent / folder  # a checkout
    return {path.stem: path for path in sorted(source.glob("*.yaml"))}


def find_file(folder: Folder, name: str, what: str) -> Path:
    """The shipped file called `name`, else the file at that path; UnknownNameError if neither."""
    files = shipped(folder)
    if name in files:
        return files[name]
    path = Path(name)
    with suppress(OSError):  # a name too long for a file is no file
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    raise UnknownNameError(what, name, known=files)

"""`nasattn export-space`: a search space in a form that another library reads."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from nasattn.errors import SpaceError, UnknownNameError
from nasattn.exchange.nni_space_file import nni_space_file
from nasattn.files import slug, write_text
from nasattn.space import SearchSpace, load_space
from nasattn.words import printable

# By name: (end of the file's name, what writes it).
WRITERS: dict[str, tuple[str, Callable[[SearchSpace], str]]] = {"nni": (".py", nni_space_file)}


def export_space_command(name: str, to: str, out: Path | None) -> None:
    """Write the file, and say what to do with it."""
    if to not in WRITERS:
        raise UnknownNameError("form of a space", to, known=WRITERS)
    suffix, write = WRITERS[to]
    space = load_space(name)
    out = out or Path(f"{slug(space.name).replace('-', '_')}_{to}{suffix}")
    if out.suffix != suffix:
        raise SpaceError(f"--out: {out} must end in {suffix}")
    write_text(out, write(space))
    Console(highlight=False, markup=False, soft_wrap=True).print(f"written: {printable(str(out))}")

"""Errors that a user can mend: what is wrong, where, and what is allowed, in one line."""

import difflib
import reprlib
from collections.abc import Iterable


class NasattnError(ValueError):
    """Base of every error that is the input's fault; the CLI shows it in one line and exits 2.

    A ValueError, so that pydantic's validators may raise it and `parse` adds the place.
    """


class ArchitectureError(NasattnError):
    """An architecture that cannot be built."""


class SpaceError(NasattnError):
    """A search space that is not well-formed, or params or an architecture outside of it."""


class StudyError(NasattnError):
    """A study's settings, or a storage that cannot be used."""


class DataError(NasattnError):
    """Pictures that cannot be read or split."""


class EvaluationError(NasattnError):
    """A network that could not be trained or measured: the trial fails, the search goes on."""


class TransientError(EvaluationError):
    """What another attempt may not meet: a full disk, a process that died."""


class AblationError(NasattnError):
    """An ablation that cannot be designed, or runs that cannot be compared."""


class WeightsError(NasattnError):
    """Weights that cannot be read or written, or do not fit the network."""


class PluginError(NasattnError):
    """A plug-in that cannot be loaded, or a class that cannot be a kind of attention."""


class RuntimeMissingError(NasattnError):
    """A runtime that is not installed where it is needed."""

    def __init__(
        self, name: str, packages: Iterable[str], install: str, installed: Iterable[str]
    ) -> None:
        super().__init__(
            f"runtime {name!r} lacks {', '.join(packages)}: {install}; "
            f"installed here: {', '.join(installed)}"
        )


class UnknownNameError(NasattnError):
    """A name that is not in its table."""

    def __init__(self, what: str, name: object, known: Iterable[str], where: str = "") -> None:
        self.name = name
        place = f"{where}: " if where else ""
        super().__init__(f"{place}unknown {what} {shown(name)}; {hint(name, known)}")


class UnknownAttentionError(UnknownNameError):
    """A kind that is neither built in nor that of a plug-in that could be found."""

    def __str__(self) -> str:
        return f"{super().__str__()} (a plug-in's needs --plugin FILE.py:CLASS)"


def shown(value: object) -> str:
    """A value as code, cut short: what a user typed, or a file's nested bomb."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 2


def hint(name: object, known: Iterable[str]) -> str:
    """'did you mean ...?' when one is near, else the list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(shown(name).strip("'"), known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}"

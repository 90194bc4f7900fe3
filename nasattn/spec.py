"""Typed, frozen values from plain data: the base of every specification, and its clear errors."""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nasattn.errors import NasattnError, StudyError, UnknownNameError, hint, shown


class Spec(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Texts out of a file that will be printed: no control characters, which steer a terminal.
LINE, NAME = r"^\P{Cc}*$", r"^\P{Cc}+$"
Line = Annotated[str, Field(pattern=LINE)]
Name = Annotated[str, Field(pattern=NAME)]

MIN_RESOLUTION, MAX_RESOLUTION = 8, 1024
Resolution = Annotated[int, Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)]  # pixels of a side

# What PyYAML raises beside its own errors: for the 45th of a month, for !!int x, for a deep nest.
NO_VALUE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)

S = TypeVar("S", bound=Spec)


def one_of(what: str, table: Collection[str]) -> AfterValidator:
    """A field that names a row of a table; the error says which there are."""

    def check(name: str) -> str:
        if name not in table:
            raise UnknownNameError(what, name, known=table)
        return name

    return AfterValidator(check)


def parse(cls: type[S], data: object, where: str, error: type[NasattnError]) -> S:
    """`data` as a `cls`; raises `error` with place, value and what is allowed, in one line."""
    try:
        return cls.model_validate(data)
    except ValidationError as invalid:
        _fail(cls, invalid, where, error)


def read_yaml(path: Path, error: type[NasattnError]) -> dict[str, Any]:
    """The mapping in a YAML file; raises `error` when it cannot be read or is no mapping."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictSafeLoader)
    except (OSError, UnicodeDecodeError) as e:
        raise error(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"{place}: not valid YAML ({getattr(e, 'problem', None) or e})") from e
    except NO_VALUE as e:
        raise error(f"{path}: not valid YAML ({type(e).__name__}: {shown(str(e))})") from e
    if not isinstance(data, dict):
        raise error(f"{path}: must be a mapping of fields, is {type(data).__name__}")
    return data


def read_value(text: str) -> Any:
    """A plain value as YAML writes it: 4, 0.5, true, se; text that is none stays text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, *NO_VALUE):
        return text
    return value if isinstance(value, bool | int | float | str) else text


LONGEST_AMOUNT = 40
UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
AMOUNT = re.compile(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?) ?([kKMG]?)")


def read_amount(value: Any) -> Any:
    """40M or 4e7 as 40,000,000; StudyError for other text. What is no text stays."""
    if not isinstance(value, str):
        return value
    match = AMOUNT.fullmatch(value.strip()) if len(value) < LONGEST_AMOUNT else None
    found = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not 1 <= found < 2**63:
        raise StudyError(f"must be an amount like 300k, 40M or 1.5G, is {shown(value)}")
    return round(found)


TIME = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def read_seconds(value: Any) -> float:
    """90s, 30m, 2h or 1h30m as seconds; StudyError for anything else."""
    match = TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    found = 3600 * hours + 60 * minutes + seconds
    if not found:
        raise StudyError(f"must be a time like 90s, 30m, 2h or 1h30m, is {shown(value)}")
    return float(found)


def write_seconds(seconds: float) -> str:
    """Whole seconds as `read_seconds` reads them: 1h30m."""
    hours, rest = divmod(round(seconds), 3600)
    parts = ((hours, "h"), (rest // 60, "m"), (rest % 60, "s"))
    return "".join(f"{n}{unit}" for n, unit in parts if n) or "0s"


class _StrictSafeLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, as YAML's own rule has it and PyYAML does not."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in mapping:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictSafeLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates
)


def _fail(
    cls: type[Spec], invalid: ValidationError, where: str, error: type[NasattnError]
) -> NoReturn:
    errors = invalid.errors(include_url=False)
    # A misspelt field is the cause, the missing one that it leaves behind only the effect.
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    raise error(f"{where}: {_explain(cls, first)}") from invalid


def _explain(cls: type[Spec], first: ErrorDetails) -> str:
    """One pydantic error as 'place: what is wrong (value)'."""
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        fields = _fields_at(cls, first["loc"][:-1])
        return f"unknown field {place!r}; {hint(first['loc'][-1], fields)}"
    if first["type"] == "missing":
        return f"field {place!r} is missing"
    if first["type"] in ("value_error", "assertion_error"):  # our own validators say it all
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    message = first["msg"].replace("Input should be", "must be")
    if first.get("ctx", {}).get("pattern") in (LINE, NAME) and first["input"]:
        message = "must be without control characters"
    return (
        f"{place}: {message}, is {shown(first['input'])}"
        if place
        else f"{message}, is {shown(first['input'])}"
    )


def _fields_at(cls: type[Spec], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the Spec that a pydantic error location leads to from `cls`."""
    for part in loc:
        if isinstance(part, str) and part in fields_of(cls):
            cls = spec_at(cls, part) or cls
    return [info.alias or name for name, info in fields_of(cls).items()]


@cache
def fields_of(cls: type[Spec]) -> Mapping[str, FieldInfo]:
    """The fields of a Spec; pydantic's own property takes long for what is asked so often."""
    return MappingProxyType(cls.model_fields)


@cache
def spec_at(cls: type[Spec], field: str) -> type[Spec] | None:
    """The Spec class inside the annotation of a field, if there is one."""
    return spec_in(fields_of(cls)[field].annotation)


def spec_in(annotation: Any) -> type[Spec] | None:
    """The Spec class inside an annotation such as `tuple[StageSpec, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    found = (spec_in(arg) for arg in get_args(annotation))
    return next((spec for spec in found if spec is not None), None)


def differences(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value in a, value in b) wherever two values of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}.{i}")
    elif a != b:
        yield path, a, b

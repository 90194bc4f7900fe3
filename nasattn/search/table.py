"""A tabular benchmark: networks whose figures are looked up, and nothing is trained.

A table is a .csv or .parquet file with a row a network. What says which network it is: a column
`arch_id`, or else one for each parameter of the space, by its name, empty where the parameter
means nothing in the network. The figures: columns named as our objectives, `top1` (a fraction),
`macs`, `params`, `latency_ms`; or several runs of one, `top1_0`, `top1_1`, ... What estimators say:
columns of their names, `naswot`, `end_loss:50steps`. Other columns are not looked at.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasattn.distributions import Categorical, Distribution, IntRange
from nasattn.errors import ArchitectureError, SpaceError, StudyError, hint, shown
from nasattn.evaluate import one_line
from nasattn.objectives import OBJECTIVES, Cost, Objective, get_objective
from nasattn.space import SearchSpace

ARCH_ID = re.compile("[0-9a-f]{12}")

Cells = Mapping[str, Any]  # a row, by column
Figures = Mapping[str, tuple[float, ...]]  # of a network: the runs of each objective


@dataclass(frozen=True)
class Table:
    """The figures of networks, by arch_id."""

    name: str  # of the file
    content_hash: str
    columns: Mapping[str, tuple[str, ...]]  # objective -> its columns, one a run
    networks: Mapping[str, Figures]
    estimates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by arch_id

    def find(self, name: str, arch_id: str, seed: int) -> float:
        """One figure of a network: run `seed` modulo their number; KeyError without one."""
        runs = self.networks[arch_id][name]
        return runs[seed % len(runs)]

    def knows(self, row: Objective) -> bool:
        """Whether an objective is in the table, or can be counted from a network."""
        return row.name in self.columns or row.cost == Cost.STATIC


def read_table(
    path: Path,
    space: SearchSpace,
    resolution: int | None = None,
    estimators: Sequence[str] = (),
) -> Table:
    """A table of networks of a space, which are adapted to pictures of `resolution` if it is given.

    What `estimators` say of them is in columns of their names, empty where they failed. With
    `arch_id` that is done at once; the networks of parameters are each decoded, which takes half a
    millisecond or more. Raises StudyError naming the file, the row and the column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise StudyError(f"{path}: must be a {' or '.join(READERS)} file")
    try:
        if not path.is_file():
            raise StudyError(f"{path}: there is no such file")
        data = path.read_bytes()
    except OSError as e:
        raise StudyError(f"{path}: cannot be read ({e.strerror or e})") from e
    names, rows = reader(path, data)
    columns = _columns(path, names)
    identify = _identifier(path, names, space, resolution)
    for name in estimators:
        if name not in names:
            raise StudyError(
                f"{path}: no column {name!r}, which the estimator needs: nothing is trained, so "
                f"what it says has to be in the table; {hint(name, names)}"
            )
    networks: dict[str, Figures] = {}
    estimates: dict[str, dict[str, float]] = {}
    places: dict[str, str] = {}
    for place, cells in rows:
        arch_id = identify(place, cells)
        if arch_id in places:
            raise StudyError(f"{place}: network {arch_id} is in {places[arch_id]} as well")
        places[arch_id] = place.removeprefix(f"{path}, ")
        networks[arch_id] = {
            name: tuple(
                _figure(place, column, cells[column], get_objective(name)) for column in runs
            )
            for name, runs in columns.items()
        }
        estimates[arch_id] = {
            name: _estimate(f"{place}, {name}", cells[name])
            for name in estimators
            if not _is_empty(cells[name])
        }
    if not networks:
        raise StudyError(f"{path}: has no row")
    digest = hashlib.sha256(data).hexdigest()[:12]
    return Table(path.name, digest, columns, networks, estimates)


Rows = Iterable[tuple[str, Cells]]  # (place, cells), the place for people


def _read_csv(path: Path, data: bytes) -> tuple[list[str], Rows]:
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        names = next(lines, [])
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except (UnicodeDecodeError, csv.Error) as e:
        raise StudyError(f"{path}: cannot be read as CSV ({e})") from e
    for number, cells in rows:
        if len(cells) != len(names):
            raise StudyError(
                f"{path}, line {number}: has {len(cells)} cells, the head has {len(names)}"
            )
    named = ((f"{path}, line {n}", dict(zip(names, cells, strict=True))) for n, cells in rows)
    return names, named


def _read_parquet(path: Path, data: bytes) -> tuple[list[str], Rows]:
    import pandas as pd  # slow to import

    try:
        frame = pd.read_parquet(io.BytesIO(data), engine="pyarrow")
    except ImportError as e:
        raise StudyError(f"{path}: parquet needs a library; pip install pyarrow") from e
    except (ValueError, OSError) as e:
        raise StudyError(f"{path}: cannot be read as parquet ({one_line(e)})") from e
    frame = frame.astype(object).where(frame.notna(), None)
    names = [str(name) for name in frame.columns]
    rows = enumerate(frame.itertuples(index=False, name=None), start=1)
    return names, ((f"{path}, row {i}", dict(zip(names, row, strict=True))) for i, row in rows)


READERS: dict[str, Callable[[Path, bytes], tuple[list[str], Rows]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _columns(path: Path, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Objective -> its columns: NAME, or NAME_0, NAME_1, ..."""
    for name in names:
        if names.count(name) > 1:
            raise StudyError(f"{path}: column {shown(name)} is there twice")
    columns = {}
    for name in OBJECTIVES:
        found = {n for n in names if n == name or re.fullmatch(rf"{name}_\d+", n)}
        runs = tuple(f"{name}_{i}" for i in range(len(found)))
        if found and found not in ({name}, set(runs)):
            raise StudyError(
                f"{path}: columns {', '.join(sorted(found))}: must be {name} alone, "
                f"or {name}_0, {name}_1, ..."
            )
        if found:
            columns[name] = (name,) if name in found else runs
    if not columns:
        raise StudyError(f"{path}: no column of a figure; known: {', '.join(OBJECTIVES)}, top1_0")
    return columns


def _identifier(
    path: Path, names: list[str], space: SearchSpace, resolution: int | None
) -> Callable[[str, Cells], str]:
    """The function that says which network a row is: (place, cells) -> arch_id."""
    if "arch_id" in names:
        return lambda place, cells: _arch_id(place, cells["arch_id"])
    wanted = {parameter.name: parameter.distribution for parameter in space.free}
    if missing := [name for name in wanted if name not in names]:
        raise StudyError(
            f"{path}: no column 'arch_id', nor one for parameter {missing[0]!r} of space "
            f"{space.name!r}; {hint(missing[0], names)}"
        )

    def identify(place: str, cells: Cells) -> str:
        given = {name: cells[name] for name in wanted if not _is_empty(cells[name])}
        params = {k: _choice(f"{place}, {k}", v, wanted[k]) for k, v in given.items()}
        try:
            arch = space.decode(params)
            return (arch.at_resolution(resolution) if resolution else arch).arch_id
        except (SpaceError, ArchitectureError) as e:
            raise StudyError(f"{place}: {e}") from e

    return identify


def _arch_id(place: str, cell: object) -> str:
    if not isinstance(cell, str) or not ARCH_ID.fullmatch(cell):
        raise StudyError(f"{place}, arch_id: must be 12 digits of 0-9a-f, is {shown(cell)}")
    return cell


def _choice(place: str, cell: object, distribution: Distribution) -> Any:
    """The value of a parameter that a cell writes; numbers may be 3 or 3.0."""
    if isinstance(distribution, Categorical):
        for value in distribution.choices:
            if str(value).casefold() == str(cell).casefold():
                return value
    number = _number(cell)
    if number is not None and distribution.contains(number):
        if isinstance(distribution, Categorical):
            return next(value for value in distribution.choices if value == number)
        return int(number) if isinstance(distribution, IntRange) else number
    raise StudyError(f"{place}: must be {_allowed(distribution)}, is {shown(cell)}")


def _allowed(distribution: Distribution) -> str:
    if isinstance(distribution, Categorical):
        *others, last = map(str, distribution.choices)
        return f"{', '.join(others)} or {last}" if others else last
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step}"
    return f"{distribution.low} to {distribution.high}{step}"


def _figure(place: str, column: str, cell: object, row: Objective) -> float:
    """A figure that a cell writes: finite and not negative, a share at most 1."""
    number = _number(cell)
    if number is None or not math.isfinite(number) or number < 0:
        raise StudyError(f"{place}, {column}: must be a number from 0 on, is {shown(cell)}")
    if row.unit == "%" and number > 1:
        raise StudyError(
            f"{place}, {column}: must be a share from 0 to 1 (93.1 % is 0.931), is {shown(cell)}"
        )
    return number


def _estimate(place: str, cell: object) -> float:
    number = _number(cell)
    if number is None or not math.isfinite(number):
        raise StudyError(f"{place}: must be a number, is {shown(cell)}")
    return number


def _number(cell: object) -> float | None:
    try:
        return None if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _is_empty(cell: object) -> bool:
    return cell is None or cell == ""

"""Finished runs: a top-1 for each arm and seed, from here or from a CSV file made anywhere."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasattn.errors import AblationError, UnknownNameError, shown

COLUMNS = ("arm", "seed", "value")
MAX_SEEDS = 1000  # of a file; the sign flips of more would fill the memory
UNITS = {"fraction": 1, "percent": 100}

Values = Mapping[str, Mapping[int, float]]  # arm -> seed -> top-1, a fraction
Levels = Mapping[str, Mapping[str, str]]  # arm -> factor -> level


@dataclass(frozen=True)
class Runs:
    """What was measured. `levels` is empty where the arms are no factorial design."""

    values: Values
    base: str
    levels: Levels
    unit: str  # 'fraction' or 'percent': how the file had it; `values` are fractions


@dataclass(frozen=True)
class _Row:
    place: str
    arm: str
    seed: int
    value: float
    levels: dict[str, str]


def check_values(values: Values, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse values that are no top-1, and pairs of arms that cannot be compared."""
    for arm, by_seed in values.items():
        for seed, value in by_seed.items():
            if not 0 <= value <= 1:  # NaN is neither
                raise AblationError(f"arm {arm!r}, seed {seed}: top-1 {value} is no fraction")
    for arm, base in pairs:
        for name in (arm, base):
            if name not in values:
                raise UnknownNameError("arm", name, known=values)
        if not values[arm].keys() & values[base].keys():
            raise AblationError(f"arm {arm!r} shares no seed with its base {base!r}")
        if arm == base or list(pairs).count((arm, base)) > 1:
            raise AblationError(f"arm {arm!r} is compared with {base!r} twice, or with itself")


def read_runs_csv(path: Path, base: str | None = None, unit: str | None = None) -> Runs:
    """Runs from a CSV file with columns arm, seed, value, and one more for each factor.

    `unit` is 'fraction' or 'percent'; left out, the values show it, and must then agree. The base
    is `base`, else the arm called 'base', else the first. Raises AblationError with the line.
    """
    if unit not in (None, *UNITS):
        raise UnknownNameError("unit", unit, known=UNITS)
    rows = _read_rows(path)
    unit = unit or _unit(rows)
    values: dict[str, dict[int, float]] = {}
    levels: dict[str, dict[str, str]] = {}
    for row in rows:
        by_seed = values.setdefault(row.arm, {})
        if row.seed in by_seed:
            raise AblationError(f"{row.place}: arm {row.arm!r} has seed {row.seed} twice")
        if not 0 <= row.value <= UNITS[unit]:
            raise AblationError(f"{row.place}: value {row.value:g} is no top-1, 0 to {UNITS[unit]}")
        by_seed[row.seed] = row.value / UNITS[unit]
        if levels.setdefault(row.arm, row.levels) != row.levels:
            other = next(k for k, v in row.levels.items() if v != levels[row.arm][k])
            raise AblationError(
                f"{row.place}: arm {row.arm!r} has two values of {other!r}; columns beside arm, "
                "seed and value are factors, one level an arm"
            )
    runs = Runs(values, _base(path, values, base), levels if rows[0].levels else {}, unit)
    _check_enough(path, runs)
    return runs


def _read_rows(path: Path) -> list[_Row]:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as e:
        raise AblationError(f"{path}: cannot be read ({e.strerror or e})") from e
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        raise AblationError(f"{path}:{line}: is not UTF-8; save it as CSV UTF-8") from e
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_header(path, reader.fieldnames or ())
        rows = [_row(f"{path}:{reader.line_num}", cells) for cells in reader]
    except csv.Error as e:
        raise AblationError(f"{path}:{reader.line_num}: not valid CSV ({e})") from e
    if not rows:
        raise AblationError(f"{path}: holds no runs")
    return rows


def _unit(rows: list[_Row]) -> str:
    """Percent where any value is above 1; a file that has both kinds is refused."""
    percent = next((row for row in rows if row.value > 1), None)
    fraction = next((row for row in rows if 0 < row.value <= 1), None)
    if percent and fraction:
        raise AblationError(
            f"{fraction.place}: value {fraction.value:g} looks like a fraction, {percent.value:g}"
            f" in {percent.place} like a percentage: name the unit, fraction or percent"
        )
    return "percent" if percent else "fraction"


def _check_header(path: Path, header: Sequence[str]) -> None:
    columns = f"columns {shown(','.join(header))}" if header else "an empty file"
    for name in COLUMNS:
        if name not in header:
            raise AblationError(f"{path}:1: needs arm, seed, value, has no {name!r}: {columns}")
    if len(set(header)) < len(header) or "" in header:
        raise AblationError(f"{path}:1: column names must be different, none empty: {columns}")


def _row(place: str, cells: dict[str, str]) -> _Row:
    # DictReader keeps cells without a column under the key None; a column without a cell is None.
    if None in cells or None in cells.values():
        raise AblationError(f"{place}: has more or fewer cells than the first line")
    arm = cells.pop("arm").strip()
    if not arm:
        raise AblationError(f"{place}: the arm has no name")
    seed = cells.pop("seed").strip()
    if not re.fullmatch(r"-?\d{1,18}(\.0*)?", seed):
        raise AblationError(f"{place}: seed {shown(seed)} is not a whole number")
    value = _number(place, "value", cells.pop("value"))
    levels = {factor: level.strip() for factor, level in cells.items()}
    return _Row(place, arm, int(seed.partition(".")[0]), value, levels)


def _number(place: str, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AblationError(f"{place}: {column} {shown(text)} is not a number")
    return number


def _base(path: Path, values: Values, base: str | None) -> str:
    if base is not None and base not in values:
        raise AblationError(f"{path}: no base arm {shown(base)}; the arms are {', '.join(values)}")
    return base or ("base" if "base" in values else next(iter(values)))


def _check_enough(path: Path, runs: Runs) -> None:
    most = max(map(len, runs.values.values()))
    if most > MAX_SEEDS:
        raise AblationError(f"{path}: {most} seeds of an arm; at most {MAX_SEEDS}")
    if len(runs.values) < 2:
        raise AblationError(f"{path}: holds the arm {runs.base!r} alone; needs a base and another")
    for arm, by_seed in runs.values.items():
        shared = len(by_seed.keys() & runs.values[runs.base].keys())
        if shared < 2:
            raise AblationError(
                f"{path}: arm {arm!r} shares {shared} seed with base {runs.base!r}; needs two"
            )

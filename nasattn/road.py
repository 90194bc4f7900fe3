"""Road: one YAML file from a search over a pipeline of steps to a model that runs elsewhere."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from nasattn.errors import StudyError
from nasattn.library import find_file
from nasattn.search.spec import StudySpec
from nasattn.spec import Line, Name, Spec, one_of, parse, read_value, read_yaml
from nasattn.steps import STEPS, Pipeline
from nasattn.train.recipe import MOST_EPOCHS, RECIPES

MOST_SEEDS = 100  # of a final


class Final(Spec):
    """`nasattn final`: its options by their names."""

    top: PositiveInt | None = None
    networks: tuple[Name, ...] | None = None
    seeds: Annotated[PositiveInt, Field(le=MOST_SEEDS)] = 3
    recipe: Annotated[Name, one_of("recipe", RECIPES)] | None = None
    epochs: Annotated[PositiveInt, Field(le=MOST_EPOCHS)] | None = None
    teacher: tuple[Line, ...] = ()
    temperature: float | None = None
    weight: float | None = None
    features: float | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> "Final":
        if self.top is not None and self.networks is not None:
            raise StudyError("takes top or networks, not both")
        for name in ("temperature", "weight", "features") if not self.teacher else ():
            if getattr(self, name) is not None:
                raise StudyError(f"{name}: means nothing without teacher")
        return self


class Predict(Spec):
    """`nasattn predict`: pictures and folders of them, and how many classes of each to show."""

    pictures: Annotated[tuple[Line, ...], Field(min_length=1)]
    top: PositiveInt = 3


class Road(Pipeline):
    """Search, final, pipeline, predictions."""

    search: StudySpec
    final: Final = Final()
    predict: Predict | None = None


def load_pipeline(name: str) -> Pipeline:
    """The steps of a shipped study or of a file, which may be a whole road.

    Raises UnknownNameError or StudyError.
    """
    path = find_file("studies", name, what="study")
    data = read_yaml(path, StudyError)
    found = parse(Road if "search" in data else Pipeline, data, str(path), StudyError)
    if not found.optimize:
        raise StudyError(f"{path}: optimize: has no step; known are {', '.join(STEPS)}")
    return found


def load_road(name: str, changes: Mapping[str, Any]) -> Road:
    """A shipped study or a file, some of its values changed by dotted path: `final.seeds`.

    Raises UnknownNameError or StudyError.
    """
    path = find_file("studies", name, what="study")
    data = read_yaml(path, StudyError)
    if "search" not in data:
        raise StudyError(
            f"{path}: field 'search' is missing: this is no road, but a study by itself"
        )
    parse(Road, data, str(path), StudyError)  # what is wrong now, the file is to blame for
    for place, value in changes.items():
        put(data, place, value)
    return parse(Road, data, "--set", StudyError)


def put(data: Any, place: str, value: Any) -> None:
    """Put a value at a dotted path; a number goes into a list. Raises StudyError."""
    *way, last = place.split(".")
    for part in way:
        inner = spelt_out(at(data, part, place), part)
        data[int(part) if isinstance(data, list) else part] = inner
        data = inner
    at(data, last, place)
    data[int(last) if isinstance(data, list) else last] = value


def spelt_out(value: Any, part: str) -> Any:
    """A mapping or a list of its own, also of a name that stands for one: `qat`, `quick`."""
    if isinstance(value, dict | list):
        return value.copy()  # YAML's aliases share one
    if value is None:
        return {}
    names = {"step": part.isdecimal(), "name": part == "recipe"}
    return next(({key: value} for key, stands in names.items() if stands), value)


def at(data: Any, part: str, place: str) -> Any:
    """What is there; None where a mapping has no such field."""
    if isinstance(data, dict):
        return data.get(part)
    if not isinstance(data, list) or not re.fullmatch("[0-9]{1,3}", part) or int(part) >= len(data):
        raise StudyError(f"--set: there is no {part!r} in {place!r}")
    return data[int(part)]


def read_changes(texts: tuple[str, ...]) -> dict[str, Any]:
    """`--set final.seeds=1` as a path and a plain value. Raises StudyError."""
    found = {}
    for text in texts:
        place, equals, value = text.partition("=")
        if not (place and equals):
            raise StudyError(f"--set: must be like final.seeds=1, is {text!r}")
        found[place] = read_value(value)
    return found

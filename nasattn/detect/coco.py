"""A COCO-format folder: where its files are, and what its annotations say.

The annotations of a split, and its pictures, where the first of PLACES is found. A box is
[x, y, width, height] in pixels from the top left corner. Nothing is opened but the annotations.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat

from nasattn.data.images import Skipped
from nasattn.errors import DataError, shown
from nasattn.spec import Name, Spec, parse

SplitName = Literal["train", "val"]
Side = Annotated[int, Field(gt=0, le=100_000)]

# (annotations, folder of the pictures): the plain form, COCO's own, Roboflow's.
PLACES: dict[SplitName, tuple[tuple[str, str], ...]] = {
    "train": (
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("train/_annotations.coco.json", "train"),
    ),
    "val": (
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "val2017"),
        ("valid/_annotations.coco.json", "valid"),
    ),
}
THINNEST = 0.1  # pixels; a box that is thinner inside of its picture has no area


@dataclass(frozen=True)
class Object:
    """An object in a picture: corners in pixels of the file, label from 1."""

    label: int
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    area: float  # as annotated (of the mask, where there is one), else of the box
    crowd: bool = False  # many objects in one box: never trained on, neither right nor wrong


@dataclass(frozen=True)
class Picture:
    """A picture file and its objects."""

    id: int
    path: Path
    width: int
    height: int
    objects: tuple[Object, ...] = ()
    trouble: str = ""  # why it is not to be opened


@dataclass(frozen=True)
class CocoSplit:
    """The pictures of a split, and what was put right while reading it."""

    name: SplitName
    where: Path  # the annotations
    classes: tuple[str, ...]  # label i + 1 is classes[i]
    pictures: tuple[Picture, ...]
    clipped: int = 0  # boxes that reached out of their picture
    dropped: int = 0  # boxes without area
    skipped: tuple[Skipped, ...] = ()
    sha256: str = field(default="", compare=False)  # of the annotations, 12 hex digits

    @property
    def n_objects(self) -> int:
        """Objects that count: without crowds."""
        return sum(not o.crowd for picture in self.pictures for o in picture.objects)

    @property
    def n_crowds(self) -> int:
        return sum(o.crowd for picture in self.pictures for o in picture.objects)


class Record(Spec):
    """An entry of a COCO file, whose other fields are nobody's business here."""

    model_config = ConfigDict(extra="ignore")


class ImageRecord(Record):
    id: int
    file_name: Name
    width: Side
    height: Side


class AnnotationRecord(Record):
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    area: FiniteFloat | None = None
    iscrowd: bool = False


class CategoryRecord(Record):
    id: int
    name: Name


class CocoFile(Record):
    images: tuple[ImageRecord, ...]
    annotations: tuple[AnnotationRecord, ...]
    categories: tuple[CategoryRecord, ...]


def read_split(folder: Path, name: SplitName) -> CocoSplit:
    """The split `name` of a COCO-format folder.

    Categories become labels 1, 2, ... in the order of their ids. Boxes are cut to their picture;
    one that then has no area is dropped and counted. Raises DataError with file, place, value and
    what is allowed.
    """
    where, home = find_split(folder, name)
    try:
        content = where.read_bytes()
        data = json.loads(content)
    except (OSError, ValueError, RecursionError) as e:
        reason = getattr(e, "strerror", None) or e
        raise DataError(f"{where}: cannot be read as JSON ({reason})") from e
    file = parse(CocoFile, data, str(where), DataError)
    labels = _labels(file, where)
    root = home.resolve()
    objects, clipped, dropped = _objects(file, labels, where)
    pictures = tuple(
        Picture(
            record.id,
            home / record.file_name,
            record.width,
            record.height,
            tuple(objects[record.id]),
            _trouble(record.file_name, home, root, f"{where}: images.{i}.file_name"),
        )
        for i, record in enumerate(file.images)
    )
    if not pictures:
        raise DataError(f"{where}: images: has no picture; needs at least 1")
    classes = tuple(c.name for c in sorted(file.categories, key=lambda c: c.id))
    digest = hashlib.sha256(content).hexdigest()[:12]
    return CocoSplit(name, where, classes, pictures, clipped, dropped, sha256=digest)


def find_split(folder: Path, name: SplitName) -> tuple[Path, Path]:
    """The annotations of a split and the folder of its pictures."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for annotations, pictures in PLACES[name]:
        if (folder / annotations).is_file():
            if not (folder / pictures).is_dir():
                raise DataError(f"{folder}: has {annotations}, but no folder {pictures}")
            return folder / annotations, folder / pictures
    places = " or ".join(annotations for annotations, _ in PLACES[name])
    raise DataError(f"{folder}: no annotations of split {name!r}; looked for {places}")


def check_objects(split: CocoSplit) -> None:
    """DataError where there is nothing to find."""
    if not split.n_objects:
        raise DataError(f"{split.where}: its pictures show no object; scores need at least 1")


def same_classes(split: CocoSplit, classes: tuple[str, ...], whose: str) -> CocoSplit:
    """The split with labels in the order of `classes`; DataError where the names are not the same.

    `whose` says in the error where `classes` come from.
    """
    for name in split.classes:
        if name not in classes:
            raise DataError(f"{split.where}: categories: {shown(name)} is no class of {whose}")
    for name in classes:
        if name not in split.classes:
            raise DataError(f"{split.where}: categories: has no {shown(name)}, a class of {whose}")
    to = {i: classes.index(name) + 1 for i, name in enumerate(split.classes, 1)}
    pictures = tuple(
        replace(p, objects=tuple(replace(o, label=to[o.label]) for o in p.objects))
        for p in split.pictures
    )
    return replace(split, classes=classes, pictures=pictures)


def _labels(file: CocoFile, where: Path) -> dict[int, int]:
    """{category id: label}; every category and picture must be there once."""
    for name, values in (
        ("images.{}.id", [r.id for r in file.images]),
        ("categories.{}.id", [r.id for r in file.categories]),
        ("categories.{}.name", [r.name for r in file.categories]),
    ):
        seen: set[object] = set()
        for i, value in enumerate(values):
            if value in seen:
                raise DataError(f"{where}: {name.format(i)}: {shown(value)} is given twice")
            seen.add(value)
    if not file.categories:
        raise DataError(f"{where}: categories: has no category; needs at least 1")
    return {id: label for label, id in enumerate(sorted(r.id for r in file.categories), 1)}


def _objects(
    file: CocoFile, labels: dict[int, int], where: Path
) -> tuple[dict[int, list[Object]], int, int]:
    """{picture id: objects}, and how many boxes were cut to their picture, how many dropped."""
    images = {record.id: record for record in file.images}
    found: dict[int, list[Object]] = {id: [] for id in images}
    clipped = dropped = 0
    for i, record in enumerate(file.annotations):
        for name, value, known in (
            ("image_id", record.image_id, images),
            ("category_id", record.category_id, labels),
        ):
            if value not in known:
                what = name.removesuffix("_id")
                raise DataError(
                    f"{where}: annotations.{i}.{name}: {value} is the id of no {what} here"
                )
        image = images[record.image_id]
        x, y, width, height = record.bbox
        x1, x2 = (min(max(v, 0.0), float(image.width)) for v in (x, x + width))
        y1, y2 = (min(max(v, 0.0), float(image.height)) for v in (y, y + height))
        if x2 - x1 < THINNEST or y2 - y1 < THINNEST:
            dropped += 1
            continue
        clipped += (x1, y1, x2, y2) != (x, y, x + width, y + height)
        area = (x2 - x1) * (y2 - y1) if record.area is None else record.area
        label = labels[record.category_id]
        found[record.image_id].append(Object(label, (x1, y1, x2, y2), area, record.iscrowd))
    return found, clipped, dropped


def _trouble(file_name: str, home: Path, root: Path, where: str) -> str:
    """Why a picture is not to be opened; a DataError where its name leaves the folder."""
    name = PurePosixPath(file_name)
    windows = PureWindowsPath(file_name)
    if name.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise DataError(
            f"{where}: {shown(file_name)} leads out of {home}; must be a path inside of it"
        )
    path = home / file_name
    try:
        if not path.resolve().is_relative_to(root):
            return "a link that leads outside of the folder"
        if not path.exists():
            return "no such file"
        return "" if path.is_file() else "not a regular file"
    except (OSError, RuntimeError, ValueError) as e:  # a link to itself, a name no file can have
        return getattr(e, "strerror", None) or str(e)

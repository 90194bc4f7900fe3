"""Average precision as COCO defines it, computed by pycocotools."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasattn.detect.coco import Picture
from nasattn.errors import DataError

IOU_50, IOU_75 = 0, 5  # of the ten thresholds 0.50, 0.55, ..., 0.95
ALL_AREAS, HUNDRED_A_PICTURE = 0, 2


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector found in a picture.

    Shapes: boxes (n, 4) corners in pixels of the file; labels (n,) from 1; scores (n,).
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class ClassScore:
    """Average precision of a class, a fraction; None where the pictures show no such object."""

    name: str
    n_objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class Scores:
    """COCO's figures, fractions: means over the classes that the pictures show.

    `map` is also the mean over the IoU thresholds 0.50, 0.55, ..., 0.95.
    """

    map: float
    map50: float
    map75: float
    n_pictures: int
    n_objects: int
    classes: tuple[ClassScore, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Scores":
        """From what `asdict` made of them."""
        return cls(**dict(plain) | {"classes": tuple(ClassScore(**c) for c in plain["classes"])})


def score(pictures: Sequence[Picture], found: Sequence[Found], classes: Sequence[str]) -> Scores:
    """Scores of what was found in each picture, at most 100 a picture; crowds count neither way.

    Raises DataError where there is no object to find, or pycocotools is not installed.
    """
    n_objects = [0] * len(classes)
    for obj in (o for picture in pictures for o in picture.objects if not o.crowd):
        n_objects[obj.label - 1] += 1
    if not sum(n_objects):
        raise DataError("mAP: the pictures show no object; needs at least 1")
    precision = _precision(_truth(pictures), _results(found), len(pictures), len(classes))

    def mean(part: NDArray[np.float64]) -> float | None:
        known = part[part > -1]
        return float(known.mean()) if known.size else None

    rows = tuple(
        ClassScore(name, n, mean(precision[:, :, k]), mean(precision[IOU_50, :, k]))
        for k, (name, n) in enumerate(zip(classes, n_objects, strict=True))
    )
    return Scores(
        map=mean(precision) or 0.0,
        map50=mean(precision[IOU_50]) or 0.0,
        map75=mean(precision[IOU_75]) or 0.0,
        n_pictures=len(pictures),
        n_objects=sum(n_objects),
        classes=rows,
    )


def check_pycocotools() -> None:
    """DataError naming the extra to install, where pycocotools is missing."""
    try:
        import pycocotools  # noqa: F401
    except ImportError as e:
        raise DataError(
            "detection needs pycocotools, which is not installed: pip install 'nasattn[detect]'"
        ) from e


def _truth(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": i,
            "category_id": o.label,
            "bbox": _xywh(o.corners),
            "area": o.area,
            "iscrowd": int(o.crowd),
        }
        for i, picture in enumerate(pictures)
        for o in picture.objects
    ]


def _results(found: Sequence[Found]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": i,
            "category_id": int(label),
            "bbox": _xywh(box),
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
            "iscrowd": 0,
            "score": float(confidence),
        }
        for i, f in enumerate(found)
        for box, label, confidence in zip(f.boxes, f.labels, f.scores, strict=True)
    ]


def _xywh(corners: Sequence[float] | NDArray[np.float64]) -> list[float]:
    x1, y1, x2, y2 = map(float, corners)
    return [x1, y1, x2 - x1, y2 - y1]


def _precision(
    truth: list[dict[str, Any]], results: list[dict[str, Any]], n_pictures: int, n_classes: int
) -> NDArray[np.float64]:
    """COCOeval's precisions for all areas: (IoU thresholds 10, recalls 101, classes); -1: none."""
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(annotations: list[dict[str, Any]]) -> Any:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(n_pictures)],
            "categories": [{"id": k + 1} for k in range(n_classes)],
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations, 1)],
        }
        coco.createIndex()
        return coco

    with redirect_stdout(io.StringIO()):  # it prints what it does
        evaluation = COCOeval(index(truth), index(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]  # (10, 101, K, areas, limits)
    return precision[:, :, :, ALL_AREAS, HUNDRED_A_PICTURE]

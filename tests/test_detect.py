import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import BASELINES
from nasattn.cli import main
from nasattn.cli.folders import one_writer
from nasattn.detect.coco import Object, Picture, read_split, same_classes
from nasattn.detect.file import DetectorFacts
from nasattn.detect.init import init_backbone
from nasattn.detect.loop import (
    DetectEpoch,
    DetectRecipe,
    evaluate_detector,
    in_the_file,
    lr_factor,
    train_detector,
)
from nasattn.detect.model import anchor_strides, build_backbone, build_detector
from nasattn.detect.pictures import check_pictures, fitted_size, read_sample, sample_batches
from nasattn.detect.score import Found, score
from nasattn.errors import ArchitectureError, DataError, EvaluationError, WeightsError
from nasattn.model import build_model
from nasattn.pretrained import Pretrained
from nasattn.tensor_file import parse_metadata, read_tensors, write_tensors
from nasattn.train.checkpoint import Checkpoint

CLASSES = ("rectangle", "ellipse")
STRIDES = (4, 8, 16)
TINY = parse_architecture(
    {
        "stem": {"width": 16},
        "stages": [
            {"depth": 1, "width": width, "stride": stride, "expansion": 2}
            for width, stride in ((16, 1), (24, 2), (32, 2), (48, 2))
        ],
        "head": {"conv_width": 64, "hidden": 32},
    }
)


def draw_split(folder: Path, name: str, n: int, side: int = 64, seed: int = 0) -> dict[str, Any]:
    """Bright rectangles and ellipses on dark noise, one to three a picture, none over another."""
    rng = np.random.default_rng((seed, len(name)))
    (folder / name).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(n):
        noise = rng.integers(0, 80, (side, side, 3)).astype(np.uint8)
        image = Image.fromarray(noise)
        draw = ImageDraw.Draw(image)
        for x, y, w, h in scatter(rng, side, int(rng.integers(1, 4))):
            kind = int(rng.integers(2))
            paint = (draw.rectangle, draw.ellipse)[kind]
            paint((x, y, x + w - 1, y + h - 1), fill=tuple(map(int, rng.integers(120, 256, 3))))
            annotations.append(
                {"id": len(annotations), "image_id": 10 * i, "category_id": (3, 7)[kind]}
                | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )
        image.save(folder / name / f"{i}.png")
        images.append({"id": 10 * i, "file_name": f"{i}.png", "width": side, "height": side})
    categories = [{"id": 7, "name": "ellipse"}, {"id": 3, "name": "rectangle"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    write_coco(folder, name, coco)
    return coco


def scatter(rng: np.random.Generator, side: int, n: int) -> list[tuple[int, int, int, int]]:
    """Up to n boxes (x, y, w, h) of a sixth to half of the side that do not meet."""
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(10 * n):
        w, h = map(int, rng.integers(side // 6, side // 2, 2))
        x, y = int(rng.integers(side - w)), int(rng.integers(side - h))
        apart = (x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in boxes)
        if len(boxes) < n and all(apart):
            boxes.append((x, y, w, h))
    return boxes


def write_coco(folder: Path, name: str, coco: object) -> None:
    path = folder / "annotations" / f"instances_{name}.json"
    path.write_text(coco if isinstance(coco, str) else json.dumps(coco), encoding="utf-8")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO-format folder; not to be written into."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    draw_split(folder, "train", 6)
    draw_split(folder, "val", 3)
    return folder


def tiny_detector(seed: int = 0, resolution: int = 64, arch: Architecture = TINY) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone(arch)
        return build_detector(backbone, len(CLASSES), STRIDES, resolution=resolution, out_chs=16)


def picture(*objects: Object, size: tuple[int, int] = (100, 100)) -> Picture:
    return Picture(0, Path("none.png"), *size, objects)


def found(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Found:
    """(label, score, corners) of each box."""
    return Found(
        np.array([corners for _, _, corners in rows], float).reshape(-1, 4),
        np.array([label for label, _, _ in rows], np.int64),
        np.array([confidence for _, confidence, _ in rows], float),
    )


# --- Reading a folder


def test_read_split_gives_labels_in_the_order_of_category_ids(tmp_path: Path) -> None:
    coco = draw_split(tmp_path, "train", 4)
    split = read_split(tmp_path, "train")
    assert split.classes == CLASSES  # ids 3 and 7, listed the other way round
    assert [p.path.name for p in split.pictures] == ["0.png", "1.png", "2.png", "3.png"]
    flat = [(10 * i, o) for i, p in enumerate(split.pictures) for o in p.objects]
    assert len(flat) == len(coco["annotations"]) == split.n_objects
    for (image_id, obj), a in zip(flat, coco["annotations"], strict=True):
        x, y, w, h = a["bbox"]
        assert image_id == a["image_id"]
        assert obj == Object({3: 1, 7: 2}[a["category_id"]], (x, y, x + w, y + h), w * h)


@pytest.mark.parametrize(
    ("split", "annotations", "pictures"),
    [
        ("train", "annotations/instances_train.json", "train"),
        ("train", "annotations/instances_train2017.json", "train2017"),
        ("train", "train/_annotations.coco.json", "train"),
        ("val", "annotations/instances_val.json", "val"),
        ("val", "annotations/instances_val2017.json", "val2017"),
        ("val", "valid/_annotations.coco.json", "valid"),
    ],
)
def test_read_split_knows_the_usual_places(
    tmp_path: Path, split: Any, annotations: str, pictures: str
) -> None:
    draw_split(tmp_path / "drawn", "train", 1)
    home = tmp_path / "data"
    shutil.copytree(tmp_path / "drawn" / "train", home / pictures)
    (home / annotations).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "drawn" / "annotations" / "instances_train.json", home / annotations)
    read = check_pictures(read_split(home, split))
    assert [p.path for p in read.pictures] == [home / pictures / "0.png"]


def test_read_split_cuts_drops_and_counts_boxes(tmp_path: Path) -> None:
    coco = draw_split(tmp_path, "train", 1)
    boxes = ([-4, 10, 20, 500], [70, 0, 5, 5], [10, 10, 0, 5], [1, 2, 3, 4], [0, 0, 64, 64])
    coco["annotations"] = [{"image_id": 0, "category_id": 3, "bbox": box} for box in boxes]
    coco["annotations"][4]["iscrowd"] = 1
    write_coco(tmp_path, "train", coco)
    split = read_split(tmp_path, "train")
    assert (split.clipped, split.dropped) == (1, 2)  # outside and flat ones are no objects
    assert (split.n_objects, split.n_crowds) == (2, 1)
    assert [o.corners for o in split.pictures[0].objects] == [
        (0, 10, 16, 64),
        (1, 2, 4, 6),
        (0, 0, 64, 64),
    ]
    assert split.pictures[0].objects[1].area == 12  # none given: the box's own
    sample = read_sample(split.pictures[0], 64)
    assert len(sample.boxes) == 2  # a crowd is not trained on


def change(*path: Any, value: Any) -> Callable[[dict[str, Any]], object]:
    """Set coco[path[0]][path[1]]... to a value; None deletes it."""

    def act(coco: dict[str, Any]) -> object:
        at: Any = coco
        for part in path[:-1]:
            at = at[part]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        return coco

    return act


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda coco: "{", "instances_train.json: cannot be read as JSON"),
        (lambda coco: "[" * 100_000, "cannot be read as JSON"),
        (lambda coco: "[1]", "must be a valid dictionary"),
        (change("images", value=None), "field 'images' is missing"),
        (change("images", value=[]), "image_id: 0 is the id of no image here"),
        (change("categories", value=[]), "has no category; needs at least 1"),
        (change("annotations", 0, "bbox", value=None), "field 'annotations.0.bbox' is missing"),
        (change("annotations", 0, "bbox", value=[1, 2, 3]), "annotations.0.bbox"),
        (change("annotations", 0, "bbox", 2, value="wide"), "annotations.0.bbox.2: .*'wide'"),
        (change("annotations", 0, "bbox", 2, value=float("nan")), "bbox.2: must be a finite"),
        (change("annotations", 0, "image_id", value=5), "0.image_id: 5 is the id of no image"),
        (change("annotations", 0, "category_id", value=1), "1 is the id of no category"),
        (change("images", 1, "id", value=0), "images.1.id: 0 is given twice"),
        (change("images", 0, "width", value=0), "images.0.width: must be greater than 0, is 0"),
        (change("images", 0, "width", value=10**30), "images.0.width"),
        (change("categories", 1, "name", value="ellipse"), "'ellipse' is given twice"),
        (
            change("categories", 1, "name", value="a\x1b[2J"),
            "categories.1.name: must be without control",
        ),
        (change("images", 0, "file_name", value="../0.png"), "'../0.png' leads out of"),
        (change("images", 0, "file_name", value="a/../../0.png"), "leads out of"),
        (change("images", 0, "file_name", value="/etc/passwd"), "leads out of"),
        (change("images", 0, "file_name", value="..\\0.png"), "leads out of"),
        (change("images", 0, "file_name", value="C:0.png"), "leads out of"),
    ],
)
def test_read_split_refuses_bad_annotations(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object], message: str
) -> None:
    coco = draw_split(tmp_path, "train", 2)
    write_coco(tmp_path, "train", spoil(coco))
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, "train")


def test_read_split_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_split(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"looked for annotations/instances_val\.json or .*2017"):
        read_split(tmp_path, "val")
    draw_split(tmp_path, "val", 1)
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(DataError, match="but no folder val"):
        read_split(tmp_path, "val")


def test_same_classes_goes_by_name(tmp_path: Path) -> None:
    draw_split(tmp_path, "train", 2)
    split = read_split(tmp_path, "train")
    turned = same_classes(split, ("ellipse", "rectangle"), "val")
    labels = [[o.label for o in p.objects] for p in split.pictures]
    assert [[o.label for o in p.objects] for p in turned.pictures] == [
        [3 - label for label in row] for row in labels
    ]
    with pytest.raises(DataError, match="'ellipse' is no class of the detector"):
        same_classes(split, ("rectangle",), "the detector")
    with pytest.raises(DataError, match="has no 'cat', a class of the detector"):
        same_classes(split, (*CLASSES, "cat"), "the detector")


# --- Pictures


def test_check_pictures_names_what_cannot_be_read(tmp_path: Path) -> None:
    draw_split(tmp_path, "train", 7)
    home = tmp_path / "train"
    (home / "0.png").write_bytes(b"not a picture")
    (home / "1.png").unlink()
    Image.new("RGB", (64, 32)).save(home / "2.png")
    (home / "3.png").write_bytes((home / "6.png").read_bytes()[:200])
    (home / "4.png").unlink()
    (tmp_path / "secret.png").write_bytes((home / "6.png").read_bytes())
    (home / "4.png").symlink_to(tmp_path / "secret.png")
    (home / "5.png").unlink()
    os.mkfifo(home / "5.png")
    split = check_pictures(read_split(tmp_path, "train"))
    assert [p.path.name for p in split.pictures] == ["6.png"]
    reasons = {Path(s.path).name: s.reason for s in split.skipped}
    assert reasons["0.png"] == "not a picture that we know"
    assert reasons["1.png"] == "no such file"
    assert reasons["2.png"] == "is 64x32, its annotations say 64x64"
    assert reasons["3.png"]
    assert reasons["4.png"] == "a link that leads outside of the folder"
    assert reasons["5.png"] == "not a regular file"
    with pytest.raises(DataError, match=r"0\.png: not a picture that we know"):
        read_sample(read_split(tmp_path, "train").pictures[0], 64)
    (home / "6.png").unlink()
    with pytest.raises(DataError, match="none of its pictures can be read"):
        check_pictures(read_split(tmp_path, "train"))


def test_pictures_turn_the_way_that_their_annotations_have_them(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), "blue")
    image.paste("red", (0, 0, 10, 20))  # the left third of what is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees: red on top
    image.save(tmp_path / "a.png", exif=exif)
    stored = read_sample(Picture(0, tmp_path / "a.png", 30, 20), 20).image
    shown = read_sample(Picture(0, tmp_path / "a.png", 20, 30), 20).image
    assert stored.shape == (3, 20, 30)
    assert shown.shape == (3, 30, 20)
    assert stored[:, 10, 2].tolist() == shown[:, 2, 10].tolist() == [255, 0, 0]
    assert stored[:, 10, 27].tolist() == shown[:, 27, 10].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("size", "resolution", "fitted"),
    [
        ((640, 480), 480, (640, 480)),
        ((640, 480), 240, (320, 240)),
        ((480, 640), 96, (96, 128)),
        ((1000, 100), 96, (160, 16)),  # the long side is at most 5/3 of 96
        ((10_000, 10), 96, (160, 1)),
        ((10, 10), 96, (96, 96)),
    ],
)
def test_fitted_size_brings_the_short_side_to_the_resolution(
    size: tuple[int, int], resolution: int, fitted: tuple[int, int]
) -> None:
    assert fitted_size(*size, resolution) == fitted


def test_read_sample_scales_boxes_with_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    obj = Object(2, (10.0, 20.0, 60.0, 45.0), 1250.0)
    sample = read_sample(Picture(0, tmp_path / "a.png", 100, 50, (obj,)), 60)
    assert sample.image.shape == (3, 50, 100)  # 5/3 of 60 is 100: the long side decides
    sample = read_sample(Picture(0, tmp_path / "a.png", 100, 50, (obj,)), 30)
    assert sample.image.shape == (3, 25, 50)
    assert sample.boxes.tolist() == [[5, 10, 30, 22.5]]
    assert sample.labels.tolist() == [2]
    mirrored = sample.flipped()
    assert mirrored.boxes.tolist() == [[20, 10, 45, 22.5]]  # 50 - 30, 50 - 5
    assert torch.equal(mirrored.flipped().image, sample.image)
    boxes = {"boxes": sample.boxes, "labels": sample.labels, "scores": torch.ones(1)}
    assert in_the_file(sample, boxes).boxes.tolist() == [[10, 20, 60, 45]]


def test_sample_batches_keep_their_order(shapes: Path) -> None:
    pictures = read_split(shapes, "train").pictures
    batches = list(sample_batches([pictures[4:], pictures[:3]], 32))
    assert [[s.picture for s in batch] for batch in batches] == [
        list(pictures[4:]),
        list(pictures[:3]),
    ]
    assert list(sample_batches([], 32)) == []


# --- Scores


def test_score_of_what_is_there_is_one() -> None:
    a, b = Object(1, (10, 10, 50, 50), 1600), Object(2, (60, 60, 90, 80), 600)
    scores = score(
        [picture(a, b), picture(b)],
        [found((1, 0.9, a.corners), (2, 0.4, b.corners)), found((2, 0.8, b.corners))],
        ("a", "b", "c"),
    )
    assert (scores.map, scores.map50, scores.map75) == pytest.approx((1, 1, 1))
    assert [(c.name, c.n_objects) for c in scores.classes] == [("a", 1), ("b", 2), ("c", 0)]
    assert [c.ap for c in scores.classes] == [pytest.approx(1), pytest.approx(1), None]
    assert [c.ap50 for c in scores.classes] == [pytest.approx(1), pytest.approx(1), None]
    assert (scores.n_pictures, scores.n_objects) == (2, 3)


def test_score_follows_the_formula() -> None:
    # Box 100 x 10 found as 100 x 6: IoU 0.6 passes 0.50, 0.55 and 0.60 of ten thresholds.
    obj = Object(1, (0, 0, 100, 10), 1000)
    scores = score([picture(obj)], [found((1, 0.9, (0, 0, 100, 6)))], ("a",))
    assert scores.map == pytest.approx(3 / 10)
    assert (scores.map50, scores.map75) == pytest.approx((1, 0))
    # One of two found: precision 1 up to recall 0.5, which is 51 of the 101 recalls.
    pair = [picture(obj), picture(obj)]
    scores = score(pair, [found((1, 0.9, obj.corners)), found()], ("a",))
    assert scores.map50 == pytest.approx(51 / 101)
    # A surer wrong one before the right one: precision 1/2 at every recall.
    wrong = (1, 0.95, (0.0, 50.0, 100.0, 90.0))
    scores = score([picture(obj)], [found(wrong, (1, 0.9, obj.corners))], ("a",))
    assert scores.map50 == pytest.approx(1 / 2)


def test_score_counts_crowds_neither_way() -> None:
    obj = Object(1, (0, 0, 20, 20), 400)
    crowd = Object(1, (50, 50, 100, 100), 2500, crowd=True)
    rows = [(1, 0.9, obj.corners), (1, 0.95, (60.0, 60.0, 80.0, 80.0))]
    scores = score([picture(obj, crowd)], [found(*rows)], ("a",))
    assert scores.map == pytest.approx(1)
    assert scores.n_objects == 1
    with pytest.raises(DataError, match="the pictures show no object"):
        score([picture(crowd)], [found(*rows)], ("a",))


def test_score_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(DataError, match=r"pip install 'nasattn\[detect\]'"):
        score([picture(Object(1, (0, 0, 9, 9), 81))], [found()], ("a",))


# --- The detector


def test_build_detector_pools_the_maps_at_its_strides() -> None:
    model = tiny_detector()
    maps = model.backbone(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "0": (2, 16, 16, 24),
        "1": (2, 16, 8, 12),
        "2": (2, 16, 4, 6),
        "pool": (2, 16, 2, 3),
    }
    # 64 pixels over the last level's 32: anchors of 2 strides.
    assert model.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,))
    names = {name for name, _ in model.named_parameters()}
    kept = {n.split(".")[2] for n in names if n.startswith("backbone.network.")}
    assert kept == {"stem", "stages"}  # no 64 channels, no 32 hidden units, no classes


def test_build_detector_at_800_is_torchvisions() -> None:
    with torch.device("meta"):
        ours = build_detector(build_backbone(TINY), 90, STRIDES, out_chs=256)
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    assert shapes_of(ours.roi_heads) == shapes_of(theirs.roi_heads)
    assert shapes_of(ours.rpn) == shapes_of(theirs.rpn)
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes[:4]
    assert (
        ours.rpn.anchor_generator.aspect_ratios[0] == (theirs.rpn.anchor_generator.aspect_ratios[0])
    )
    assert ours.transform.min_size == theirs.transform.min_size
    assert ours.transform.max_size == theirs.transform.max_size
    assert ours.transform.image_mean == theirs.transform.image_mean
    pools = (ours.roi_heads.box_roi_pool, theirs.roi_heads.box_roi_pool)
    assert len({(p.canonical_scale, p.canonical_level, p.sampling_ratio) for p in pools}) == 1
    for name in ("fg_bg_sampler.batch_size_per_image", "nms_thresh", "score_thresh"):
        for part in ("rpn", "roi_heads"):
            get = [find(find(model, part), name) for model in (ours, theirs)]
            assert get[0] == get[1], f"{part}.{name}"


def shapes_of(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def find(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = getattr(value, part)
    return value


FIRST_OF_FAMILY = {row.family: name for name, row in reversed(BASELINES.items())}


@pytest.mark.parametrize("name", FIRST_OF_FAMILY.values())
def test_build_detector_takes_every_family(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone(BASELINES[name].architecture)
        strides = [s for s in network.strides if s > 2]
        model = build_detector(network, 2, strides, resolution=128, out_chs=8)
        maps = model.backbone(torch.empty(2, 3, 128, 128))
    sides = [maps[str(i)].shape[2] for i in range(len(strides))]
    assert len(sides) >= 1
    # Pooling takes the nearest power of two; AlexNet's unpadded maps are a little smaller.
    assert [2 ** round(np.log2(128 / side)) for side in sides] == strides


@pytest.mark.parametrize(
    ("resolution", "coarsest", "strides"),
    [(800, 32, 8), (512, 32, 8), (320, 32, 5), (96, 16, 3), (64, 32, 2)],
)
def test_anchor_strides_shrink_with_the_pictures(
    resolution: int, coarsest: int, strides: int
) -> None:
    assert anchor_strides(resolution, coarsest) == strides


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ((4, 8, 16, 32), "no map at stride 32; it has 2, 4, 8, 16"),
        ((4, 4), "must ascend, are 4, 4"),
        ((8, 4), "must ascend, are 8, 4"),
        ((), "must ascend, are none"),
    ],
)
def test_build_detector_names_the_strides_that_there_are(
    strides: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build_detector(build_backbone(TINY), 2, strides)


def test_build_detector_refuses_what_gives_no_maps() -> None:
    network: Any = torch.nn.Linear(2, 2)
    with pytest.raises(ArchitectureError, match="Linear: gives no maps at named strides"):
        build_detector(network, 2)


def test_init_backbone_takes_all_but_the_head() -> None:
    whole = build_model(TINY, 10)
    tensors = whole.state_dict()
    backbone = build_backbone(TINY)
    init_backbone(backbone, TINY, Pretrained(tensors, "here"))
    x = torch.rand(2, 3, 32, 32)
    whole.eval(), backbone.eval()
    for stride, ours in backbone.feature_maps(x).items():
        assert torch.equal(ours, whole.feature_maps(x)[stride])
    tensors.pop(next(iter(tensors)))
    with pytest.raises(WeightsError, match="here: does not fit the network"):
        init_backbone(backbone, TINY, Pretrained(tensors, "here"))


# --- Training


def test_lr_factor_warms_up_and_falls_to_zero() -> None:
    factor = lr_factor(DetectRecipe(epochs=10, warmup_steps=3), steps=10)
    # (1/4, 2/4, 3/4, 1, ...) of half a cosine over 100 steps
    assert [factor(i) for i in (0, 1, 50, 100)] == pytest.approx(
        [0.25, 0.5 * (1 + np.cos(np.pi / 100)) / 2, 0.5, 0], abs=1e-12
    )
    assert lr_factor(DetectRecipe(warmup_steps=500), steps=4)(0) == pytest.approx(1 / 5)


def test_train_detector_moves_every_weight_and_repeats(shapes: Path) -> None:
    train, val = read_split(shapes, "train"), read_split(shapes, "val")
    recipe = DetectRecipe(epochs=1, batch_size=3)

    def run(seed: int) -> tuple[Any, list[DetectEpoch]]:
        model = tiny_detector()
        return model, train_detector(model, train, val, recipe, resolution=64, seed=seed)

    start = tiny_detector().state_dict()
    model, curve = run(0)
    unmoved = [n for n, p in model.named_parameters() if torch.equal(p, start[n])]
    assert not unmoved
    assert [e.number for e in curve] == [1]
    assert set(curve[0].parts) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    assert curve[0].loss == pytest.approx(sum(curve[0].parts.values()))
    assert curve[0].scores.n_objects == val.n_objects
    again, repeated = run(0)
    assert repeated[0].parts == curve[0].parts
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert run(1)[1][0].parts != curve[0].parts


@pytest.mark.slow
def test_train_detector_goes_on_to_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    """Stopped after each of its epochs, it ends as if it had not been stopped."""
    train, val = read_split(shapes, "train"), read_split(shapes, "val")
    recipe = DetectRecipe(epochs=3, batch_size=2)

    def run(**options: Any) -> tuple[Any, list[DetectEpoch]]:
        model = tiny_detector()
        return model, train_detector(model, train, val, recipe, resolution=48, seed=3, **options)

    def stop(epoch: DetectEpoch) -> None:
        raise KeyboardInterrupt

    whole, curve = run()
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {"seed": 3})
    for done in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=checkpoint, on_epoch=stop)
        state = checkpoint.read()
        assert state
        assert len(state["curve"]) == done
    again, whole_curve = run(checkpoint=checkpoint, on_epoch=stop)  # nothing is left to do
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert [replace(e, seconds=0.0) for e in whole_curve] == [
        replace(e, seconds=0.0) for e in curve
    ]


def test_train_detector_takes_pictures_without_objects(shapes: Path) -> None:
    train, val = read_split(shapes, "train"), read_split(shapes, "val")
    bare = replace(train, pictures=tuple(replace(p, objects=()) for p in train.pictures))
    recipe = DetectRecipe(epochs=1, batch_size=3)
    (epoch,) = train_detector(tiny_detector(), bare, val, recipe, resolution=32, seed=0)
    assert epoch.parts["loss_box_reg"] == 0
    with pytest.raises(DataError, match="its pictures show no object"):
        evaluate_detector(tiny_detector(), bare, resolution=32)
    with pytest.raises(DataError, match="its pictures show no object"):
        train_detector(tiny_detector(), train, bare, recipe, resolution=32, seed=0)


def test_train_detector_stops_at_a_loss_that_is_not_finite(shapes: Path) -> None:
    train, val = read_split(shapes, "train"), read_split(shapes, "val")
    model = tiny_detector()
    torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias, float("nan"))
    recipe = DetectRecipe(epochs=1, batch_size=3, lr=1e-9)
    with pytest.raises(EvaluationError, match="the loss is nan after epoch 1"):
        train_detector(model, train, val, recipe, resolution=32, seed=0)


def test_evaluate_detector_scores_in_pixels_of_the_file(shapes: Path) -> None:
    """A detector that knows the answer at 32 pixels is right about the files of 64."""
    val = read_split(shapes, "val")

    class Oracle(torch.nn.Module):
        calls = 0

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            answers = [read_sample(p, 32) for p in val.pictures]
            assert [tuple(i.shape) for i in images] == [tuple(a.image.shape) for a in answers]
            return [
                {"boxes": a.boxes, "labels": a.labels, "scores": torch.ones(len(a.labels))}
                for a in answers
            ]

    oracle: Any = Oracle()
    scores = evaluate_detector(oracle, val, resolution=32)
    assert scores.map == pytest.approx(1)
    assert scores.n_objects == val.n_objects


# --- Detector files


def facts(**changes: Any) -> DetectorFacts:
    fields: dict[str, Any] = {
        "name": "tiny",
        "arch": TINY,
        "classes": CLASSES,
        "strides": STRIDES,
        "out_chs": 16,
        "resolution": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "recipe": DetectRecipe(epochs=3),
        "data": "shapes",
        "annotations": {"train": "0" * 12, "val": "1" * 12},
        "seed": 0,
        "versions": {"torch": "2"},
    }
    return DetectorFacts.model_validate(fields | changes)


def test_write_tensors_reads_back_the_same_detector(tmp_path: Path) -> None:
    model = facts().build()
    with torch.no_grad():
        model.train()([torch.rand(3, 64, 64)] * 2, [empty_target()] * 2)  # statistics move
    path = tmp_path / "detector.safetensors"
    write_tensors(path, model, facts(epoch=2, metrics={"map": 0.5}))
    read = read_tensors(path, DetectorFacts)
    assert read.facts == facts(epoch=2, metrics={"map": 0.5})
    again = read.build().eval()
    x = [torch.rand(3, 70, 64)]
    ours, theirs = model.eval()(x)[0], again(x)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [p.name for p in tmp_path.iterdir()] == ["detector.safetensors"]
    with pytest.raises(WeightsError, match="cannot be written"):
        write_tensors(tmp_path / "no" / "such", model, facts())


def empty_target() -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "nasattn-1"}, "not a detector of nasattn .format 'nasattn-1'"),
        ({"classes": "[]"}, "classes"),
        ({"classes": "["}, "classes: not valid JSON"),
        ({"strides": "[4, 0]"}, "strides.1: must be greater than 0, is 0"),
        ({"arch": '{"stem": {}}'}, "arch.stem.width"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"data": "a\x1b[2J"}, "data: must be without control characters"),
        ({"annotations": '{"val": "\\u001b[2J"}'}, "annotations.val: must be without control"),
    ],
)
def test_parse_metadata_refuses_what_is_not_its_own(changes: dict[str, str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        parse_metadata(facts().to_metadata() | changes, DetectorFacts, "here")


def test_read_tensors_refuses_tensors_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = facts().build().state_dict()
    metadata = facts(out_chs=8).to_metadata()
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match="does not fit the network"):
        read_tensors(path, DetectorFacts)
    path.write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_tensors(path, DetectorFacts)


# --- The command


def nasattn(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["nasattn", *arguments])
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        main()
    except SystemExit as e:
        return int(e.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
        torch.set_num_threads(threads)
    return 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Path) -> Path:
    """A folder to work in, with the shapes and a tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(shapes, tmp_path / "shapes")
    Path("tiny.json").write_text(TINY.to_json(), encoding="utf-8")
    return tmp_path


QUICK = ["--data", "shapes", "--resolution", "32", "--fpn-width", "8", "--strides", "4,8,16"]


def test_detect_trains_keeps_and_scores_a_detector(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "shapes" / "train" / "0.png").write_bytes(b"broken")
    command = ["detect", "tiny.json", *QUICK, "--epochs", "2", "--batch-size", "2"]
    assert nasattn(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    folder = place / "runs" / "tiny-shapes-detector"
    assert f"skipped {Path('shapes/train/0.png')}: not a picture that we know" in out
    assert "data shapes: 5 train, 3 val pictures, 2 classes" in out
    assert "2 epochs, batch 2, lr 0.02, short side 32, seed 0, cpu, 1 thread" in out
    assert " 1/2 " in out
    assert " 2/2 " in out
    assert "nasattn detect --weights" in out.splitlines()[-1]
    table = out[out.index("network tiny") : out.index("written:")]
    assert max(map(len, table.splitlines())) <= 80
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["curve"]] == [1, 2]
    assert [row["name"] for row in metrics["scores"]["classes"]] == list(CLASSES)
    file = read_tensors(folder / "detector.safetensors", DetectorFacts)
    assert (file.facts.arch, file.facts.epoch, file.facts.classes) == (TINY, 2, CLASSES)
    assert file.facts.metrics["map"] == metrics["scores"]["map"]
    # Scored by itself, it gets the same figures.
    scored = ["detect", "--weights", str(folder / "detector.safetensors"), "--data", "shapes"]
    assert nasattn(monkeypatch, *scored, "-o", "again") == 0
    shown = f"mAP {100 * metrics['scores']['map']:.1f} %"
    assert shown in out
    assert shown in capsys.readouterr().out
    again = json.loads(Path("again/metrics.json").read_text())
    assert again["scores"] == metrics["scores"]
    assert nasattn(monkeypatch, *command) == 0
    assert "trained already with these settings" in capsys.readouterr().out
    assert nasattn(monkeypatch, *command, "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "is of another training (seed: 0 then, 1 now); -o takes another folder" in error
    assert nasattn(monkeypatch, *command, "--overwrite") == 0
    assert again["scores"] == json.loads((folder / "metrics.json").read_text())["scores"]


def test_detect_starts_from_a_networks_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build_model(TINY, 10)
    save_file(whole.state_dict(), "w.safetensors")
    command = ["detect", "tiny.json", *QUICK, "--epochs", "1", "--lr", "1e-12"]
    assert nasattn(monkeypatch, *command, "--init", "w.safetensors", "-o", "d") == 0
    assert "weights w.safetensors" in capsys.readouterr().out
    tensors = read_tensors(Path("d/detector.safetensors"), DetectorFacts).tensors
    weights = {n: p for n, p in whole.named_parameters() if n.startswith(("stem", "stages"))}
    assert len(weights) > 20
    for name, weight in weights.items():
        assert torch.allclose(tensors[f"backbone.network.{name}"], weight, atol=1e-6), name


def test_detect_says_what_mends_a_training_that_cannot_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", "mobilenet_v2", "--data", "shapes", "--resolution", "32"]
    assert nasattn(monkeypatch, *command, "--fpn-width", "8", "--batch-size", "1") == 2
    assert "choose a higher --batch-size or --resolution" in capsys.readouterr().err

    def run_out(*arguments: object, **options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr("nasattn.cli.detect.train_detector", run_out)
    assert nasattn(monkeypatch, *command) == 2
    assert "out of memory; choose a lower --batch-size" in capsys.readouterr().err

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("nasattn.cli.detect.train_detector", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        nasattn(monkeypatch, *command)


@pytest.mark.slow
def test_detect_goes_on_to_the_same_detector(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def stop_in_the_second_epoch(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate_detector(*arguments, **options)

    monkeypatch.setattr("nasattn.detect.loop.evaluate_detector", stop_in_the_second_epoch)
    command = ["detect", "tiny.json", *QUICK, "--epochs", "3", "-o", "d"]
    assert nasattn(monkeypatch, *command) == 130
    out = capsys.readouterr().out
    assert "stopped, 1 epoch is kept; to go on: nasattn detect tiny.json" in out
    assert "d/detector.safetensors is the detector so far" in out
    assert read_tensors(Path("d/detector.safetensors"), DetectorFacts).facts.epoch == 1
    # Another training does not go on from there; with other pictures it would be another one.
    assert nasattn(monkeypatch, *command, "--lr", "0.01") == 2
    assert "recipe.lr: 0.02 then, 0.01 now" in capsys.readouterr().err
    picture = place / "shapes" / "train" / "0.png"
    content = picture.read_bytes()
    picture.write_bytes(b"broken")
    assert nasattn(monkeypatch, *command) == 2
    assert "pictures.train: 6 then, 5 now" in capsys.readouterr().err
    picture.write_bytes(content)
    # Stopped once more, between the last checkpoint and the detector.
    with monkeypatch.context() as patch:
        patch.setattr("nasattn.cli.detect.write_tensors", stop_at_the_last_epoch)
        assert nasattn(monkeypatch, *command) == 130
    assert read_tensors(Path("d/detector.safetensors"), DetectorFacts).facts.epoch == 2
    capsys.readouterr()
    assert nasattn(monkeypatch, *command) == 0
    assert "going on after epoch 3" in capsys.readouterr().out
    assert sorted(p.name for p in Path("d").iterdir()) == [
        ".lock",
        "detector.safetensors",
        "metrics.json",
    ]
    assert nasattn(monkeypatch, *command[:-1], "whole") == 0
    ours, theirs = (
        read_tensors(Path(f, "detector.safetensors"), DetectorFacts) for f in ("d", "whole")
    )
    assert ours.facts == theirs.facts
    assert all(torch.equal(ours.tensors[name], t) for name, t in theirs.tensors.items())
    curves = [json.loads(Path(f, "metrics.json").read_text())["curve"] for f in ("d", "whole")]
    for row in (*curves[0], *curves[1]):
        del row["seconds"]
    assert curves[0] == curves[1]
    assert [row["epoch"] for row in curves[0]] == [1, 2, 3]


def stop_at_the_last_epoch(path: Path, model: Any, facts: DetectorFacts) -> None:
    """`write_tensors`, but for the last epoch, as if the user typed Ctrl-C there."""
    if facts.epoch == facts.recipe.epochs:
        raise KeyboardInterrupt
    write_tensors(path, model, facts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect"], "--data: which COCO-format folder?"),
        (["detect", "--data", "shapes"], "a NETWORK to train, or the --weights"),
        (["detect", "tinny", *QUICK], "unknown network 'tinny'"),
        (["detect", "mobilenet_v3_large", *QUICK], "gives no maps at named strides"),
        (["detect", "tiny.json", "--data", "shapes"], "no map at stride 32; it has 2, 4, 8, 16"),
        (["detect", "tiny.json", *QUICK, "--strides", "4,x"], "--strides: must be like '4,8,16'"),
        (["detect", "tiny.json", *QUICK, "--strides", "0"], "--strides: must be like '4,8,16', a"),
        (["detect", "tiny.json", *QUICK, "--strides", "-1"], "ascending from 1 up, is '-1'"),
        (["detect", "tiny.json", *QUICK, "--strides", "8,4"], "ascending from 1 up, is '8,4'"),
        (["detect", "tiny.json", *QUICK, "--strides", ","], "ascending from 1 up, is ','"),
        (["detect", "tiny.json", "--data", "nowhere"], "nowhere: no such folder"),
        (["detect", "tiny.json", *QUICK, "--lr", "fast"], "recipe.lr: must be a valid number"),
        (["detect", "tiny.json", *QUICK, "--epochs", "0"], "recipe.epochs: must be greater"),
        (["detect", "tiny.json", *QUICK, "--resolution", "8"], "resolution: must be greater"),
        (["detect", "tiny.json", *QUICK, "--threads", "0"], "threads: must be greater than 0"),
        (["detect", "tiny.json", *QUICK, "--device", "abacus"], "device 'abacus'"),
        (["detect", "tiny.json", *QUICK, "--init", "no.npz"], "no.npz: there is no such file"),
        (["detect", "--weights", "no", "--data", "shapes"], "no: there is no such file"),
        (["detect", "--weights", "no", *QUICK], "--resolution: a detector that is only scored"),
        (["detect", "tiny.json", "--weights", "no", "--data", "shapes"], "one of both"),
        (["detect", "tiny.json", *QUICK, "-o", "tiny.json"], "tiny.json is not a folder"),
    ],
)
def test_detect_bad_input_is_one_line_and_writes_nothing(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    before = sorted(place.rglob("*"))
    assert nasattn(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nasattn: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(place.rglob("*")) == before


def test_detect_without_objects_writes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", "tiny.json", *QUICK, "--epochs", "1", "-o", "d"]
    assert nasattn(monkeypatch, *command) == 0
    path = place / "shapes" / "annotations" / "instances_val.json"
    coco = json.loads(path.read_text(encoding="utf-8"))
    write_coco(place / "shapes", "val", coco | {"annotations": []})
    before = sorted(place.rglob("*"))
    capsys.readouterr()
    for arguments in (
        [*command[:-1], "new"],
        ["detect", "--weights", "d/detector.safetensors", "--data", "shapes", "-o", "new"],
    ):
        assert nasattn(monkeypatch, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "its pictures show no object; scores need at least 1" in captured.err
    assert sorted(place.rglob("*")) == before


def test_detect_writes_where_nobody_else_does(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", "tiny.json", *QUICK, "--epochs", "1", "-o", "d"]
    with one_writer(Path("d")):
        assert nasattn(monkeypatch, *command) == 2
        assert "d: another process is writing there" in capsys.readouterr().err
    assert [path.name for path in Path("d").iterdir()] == [".lock"]
    assert nasattn(monkeypatch, *command) == 0
    # A detector that is called as the scores would be.
    shutil.copy("d/detector.safetensors", "metrics.json")
    content = Path("metrics.json").read_bytes()
    scored = ["detect", "--weights", "metrics.json", "--data", "shapes", "-o", "."]
    capsys.readouterr()
    assert nasattn(monkeypatch, *scored) == 2
    assert "metrics.json: is read or written as metrics.json" in capsys.readouterr().err
    assert Path("metrics.json").read_bytes() == content


def test_detect_refuses_a_backbone_that_no_memory_holds(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = TINY.model_dump()
    for stage in tree["stages"]:
        stage |= {"depth": 9, "width": 16_384}
    Path("huge.json").write_text(parse_architecture(tree).to_json(), encoding="utf-8")
    assert nasattn(monkeypatch, "detect", "huge.json", *QUICK, "-o", "d") == 2
    assert "huge: has " in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert not Path("d").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_train_detector_learns_to_find_shapes(tmp_path: Path, seed: int) -> None:
    """Loss and mAP of docs/detection.md, which gives the figures of the three seeds."""
    draw_split(tmp_path, "train", 64, seed=seed)
    draw_split(tmp_path, "val", 16, seed=seed)
    train, val = read_split(tmp_path, "train"), read_split(tmp_path, "val")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_detector(
            build_backbone(TINY), len(CLASSES), STRIDES, resolution=64, out_chs=32
        )
    untrained = evaluate_detector(model, val, resolution=64).map
    recipe = DetectRecipe(epochs=10, batch_size=2, lr=0.05)
    curve = train_detector(model, train, val, recipe, resolution=64, seed=seed)
    assert curve[-1].loss < 0.6 * curve[0].loss
    assert curve[-1].scores.map > untrained + 0.1

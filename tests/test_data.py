"""Sources of pictures, the split rule, the sealed test split and the cache."""

import os
import shutil
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from sklearn.datasets import load_digits

from nasattn.data import DATASETS, ImageData, Split, load_data, open_test
from nasattn.data.decode import decode_file
from nasattn.data.images import Pictures
from nasattn.data.openings import read_openings
from nasattn.data.splits import split_pictures
from nasattn.errors import DataError

CIFAR_SHEET = Path(__file__).parents[2] / "shared" / "data" / "cifar10" / "test1000.webp"

Load = Callable[..., ImageData]


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_class(folder: Path, n: int, seed: int = 0) -> Path:
    """n different 8x8 PNGs."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.fromarray(noise(seed * 1000 + i, 8, 8, 3)).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A single pool: 10 cats and 20 dogs."""
    write_class(tmp_path / "pets" / "cat", 10, seed=1)
    write_class(tmp_path / "pets" / "dog", 20, seed=2)
    return tmp_path / "pets"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load_data at resolution 8, with a cache of its own."""

    def load(source: object, resolution: int | None = 8, seed: int = 0) -> ImageData:
        return load_data(str(source), resolution, cache_dir=tmp_path / "cache", seed=seed)

    return load


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called when from now on every picture must come out of the cache."""

    def fail(path: Path, resolution: int) -> NoReturn:
        raise AssertionError(f"{path} was decoded")

    return lambda: monkeypatch.setattr("nasattn.data.folder.decode_file", fail)


def per_class(split: Split) -> list[int]:
    return [int(n) for n in np.bincount(split.labels)]


def pictures_of(*splits: Split) -> list[bytes]:
    return [image.tobytes() for split in splits for image in split.images]


def same(a: ImageData, b: ImageData) -> bool:
    facts = [(d.classes, d.n_test, d.skipped, d.content_hash, d.name, d.mirror) for d in (a, b)]
    arrays = [(d.train, d.val_search, d.val_select) for d in (a, b)]
    return facts[0] == facts[1] and all(
        np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels)
        for x, y in zip(*arrays, strict=True)
    )


# --- the split rule


def blank(n_per_class: int) -> Split | None:
    """n pictures in each of three classes; None for none."""
    labels = np.repeat(np.arange(3, dtype=np.int64), n_per_class)
    return Split(np.zeros((len(labels), 3, 1, 1), np.uint8), labels) if n_per_class else None


@pytest.mark.parametrize(
    ("train", "val", "test", "expected"),
    [
        # a single pool: 20 % to test; of the rest 10 %, at least 1, twice
        (4, 0, 0, (1, 1, 1, 1)),
        (10, 0, 0, (6, 1, 1, 2)),
        (13, 0, 0, (8, 1, 1, 3)),  # 2.6 -> 3, 1.0 -> 1
        (19, 0, 0, (11, 2, 2, 4)),  # 3.8 -> 4, 1.5 -> 2
        (100, 0, 0, (64, 8, 8, 20)),
        # beside a test set nothing is sealed
        (3, 0, 1, (1, 1, 1, 1)),
        (25, 0, 7, (19, 3, 3, 7)),  # 2.5 -> 3
        # beside a val set that is halved, the odd one to val-search
        (2, 2, 0, (1, 1, 1, 1)),
        (10, 5, 0, (8, 3, 2, 2)),
        (1, 2, 1, (1, 1, 1, 1)),
        (10, 7, 4, (10, 4, 3, 4)),
    ],
)
def test_split_pictures_follows_the_rule(
    train: int, val: int, test: int, expected: tuple[int, int, int, int]
) -> None:
    pool = blank(train)
    assert pool is not None
    dealt = split_pictures(Pictures(("a", "b", "c"), pool, blank(val), blank(test)), 0, "here")
    found = (dealt.train, dealt.val_search, dealt.val_select, dealt.test)
    assert [per_class(split) for split in found] == [[n] * 3 for n in expected]


@pytest.mark.parametrize(
    ("train", "val", "test", "message"),
    [
        (3, 0, 0, r"^here: class 'a' has 3 pictures in train; needs at least 4"),
        (2, 0, 1, r"^here: class 'a' has 2 pictures in train; needs at least 3"),
        (1, 2, 0, r"^here: class 'a' has 1 picture in train; needs at least 2"),
        (1, 1, 1, r"^here: class 'a' has 1 picture in val; needs at least 2"),
    ],
)
def test_split_pictures_names_a_class_with_too_few(
    train: int, val: int, test: int, message: str
) -> None:
    pool = blank(train)
    assert pool is not None
    with pytest.raises(DataError, match=message):
        split_pictures(Pictures(("a", "b", "c"), pool, blank(val), blank(test)), 0, "here")


def test_splits_share_no_picture_and_lose_none(pets: Path, load: Load, tmp_path: Path) -> None:
    data = load(pets)
    test = open_test(str(pets), 8, command="test", cache_dir=tmp_path / "cache")
    openings = read_openings(tmp_path / "cache", data.content_hash)
    assert openings
    (opening,) = openings
    assert opening.command == "test"
    assert read_openings(tmp_path / "cache", "0" * 12) == read_openings(tmp_path, "") == []
    dealt = pictures_of(data.train, data.val_search, data.val_select, test)
    files = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in pets.rglob("*.png")]
    assert sorted(dealt) == sorted(pixels.tobytes() for pixels in files)
    # cat: 10 -> 2 test, 1, 1, 6; dog: 20 -> 4 test, 1.6 -> 2, 2, 12
    assert per_class(data.train) == [6, 12]
    assert per_class(data.val_search) == per_class(data.val_select) == [1, 2]
    assert per_class(test) == [2, 4]
    assert data.n_test == len(test) == 6


def test_labels_follow_their_pictures(pets: Path, load: Load) -> None:
    data = load(pets)
    cats = {np.asarray(Image.open(path)).tobytes() for path in (pets / "cat").iterdir()}
    for split in (data.train, data.val_search, data.val_select):
        is_cat = [image.transpose(1, 2, 0).tobytes() in cats for image in split.images]
        assert is_cat == [label == data.classes.index("cat") for label in split.labels]


def test_split_hangs_on_the_seed_alone(pets: Path, load: Load, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / "pets"
    for path in sorted(pets.rglob("*.png"), reverse=True):  # written in the opposite order
        (twin / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, twin / path.parent.name)
    assert same(load(pets), load(twin))
    other = load(pets, seed=1)
    assert other.content_hash != load(pets).content_hash
    assert pictures_of(other.train) != pictures_of(load(pets).train)


def test_negative_seed_is_refused(pets: Path, load: Load) -> None:
    with pytest.raises(DataError, match=r"seed of the data split is -1; must be 0 or more"):
        load(pets, seed=-1)


# --- named sets


def test_digits_are_scaled_split_and_not_mirrored(load: Load) -> None:
    data = load("digits")
    raw = load_digits()
    # per class 178 182 177 183 181 182 181 179 174 180: 20 % are 36 36 35 37 36 36 36 36 35 36;
    # 10 % of what is left are 14 15 14 15 15 15 15 14 14 14
    assert data.n_test == 359
    assert len(data.val_search) == len(data.val_select) == 145
    assert len(data.train) == 1797 - 359 - 2 * 145
    assert (data.name, data.mirror, data.classes) == ("digits", False, tuple("0123456789"))
    known = {np.rint(x * 255 / 16).astype(np.uint8).tobytes() for x in raw.images}
    assert all(
        image[channel].tobytes() in known for image in data.train.images for channel in range(3)
    )


def test_digits_are_enlarged_to_their_own_resolution(load: Load) -> None:
    data = load("digits", None)
    assert data.resolution == DATASETS["digits"].resolution == 16
    assert data.train.images.shape == (1148, 3, 16, 16)


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, make: Callable[..., object]) -> None:
    module = SimpleNamespace(CIFAR10=make, CIFAR100=make)
    monkeypatch.setattr("nasattn.data.named.import_module", lambda name: module)


def test_cifar_comes_from_torchvision_without_a_word(
    monkeypatch: pytest.MonkeyPatch, load: Load, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(root: Path, train: bool, download: bool) -> object:
        assert root == tmp_path / "cache" / "torchvision"
        print("100%|########|", file=sys.stderr)  # noqa: T201 - as torchvision does
        n = 40 if train else 6
        labels = [i % 2 for i in range(n)]
        return SimpleNamespace(data=noise(n, n, 32, 32, 3), targets=labels, classes=["cat", "dog"])

    fake_torchvision(monkeypatch, make)
    data = load("cifar10", None)
    assert (data.name, data.resolution, data.mirror, data.n_test) == ("cifar10", 32, True, 6)
    assert per_class(data.train) == [16, 16]  # 20 a class, 2 to each val split
    assert set(pictures_of(data.train)) < {
        x.transpose(2, 0, 1).tobytes() for x in noise(40, 40, 32, 32, 3)
    }
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("Name or service not known"),
        RuntimeError("File not found\n or corrupted."),
        TimeoutError("timed out"),
    ],
)
def test_cifar_without_network_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, load: Load, error: Exception
) -> None:
    def make(**_: object) -> NoReturn:
        raise error

    fake_torchvision(monkeypatch, make)
    with pytest.raises(
        DataError, match=r"^cifar100: cannot be downloaded \(.+\); pass --data"
    ) as e:
        load("cifar100")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("source", ["digitz", "", "no/such/folder", "missing.npz", "a\0b"])
def test_unknown_source_names_what_is_known(load: Load, source: str) -> None:
    with pytest.raises(DataError, match=r"cifar10, cifar100, digits.*folder of class folders.*npz"):
        load(source)


def test_other_file_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a\.zip: must be a folder of class folders or an \.npz"):
        load(tmp_path / "a.zip")


@pytest.mark.parametrize("resolution", [-1, 0, 7, 1025])
def test_resolution_out_of_range_is_refused(pets: Path, load: Load, resolution: int) -> None:
    with pytest.raises(DataError, match=rf"resolution is {resolution}; must be 8 to 1024 pixels"):
        load(pets, resolution)


# --- one picture


def solid(mode: str, colour: Any) -> Image.Image:
    return Image.new(mode, (8, 8), colour)


def palette(transparent: bool = False) -> Image.Image:
    image = solid("P", 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    if transparent:
        image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("ending", "image", "expected"),
    [
        ("jpg", solid("RGB", (60, 60, 60)), (60, 60, 60)),
        ("PNG", solid("RGB", (1, 2, 3)), (1, 2, 3)),
        ("bmp", solid("RGB", (1, 2, 3)), (1, 2, 3)),
        ("ppm", solid("RGB", (1, 2, 3)), (1, 2, 3)),
        ("gif", solid("L", 100), (100, 100, 100)),
        ("pgm", solid("L", 100), (100, 100, 100)),
        ("png", solid("1", 1), (255, 255, 255)),
        ("png", palette(), (10, 20, 30)),
        ("png", palette(transparent=True), (255, 255, 255)),
        # alpha 51/255 = 0.2 on white: 0.2 c + 0.8 * 255
        ("png", solid("RGBA", (200, 100, 0, 51)), (244, 224, 204)),
        ("webp", solid("RGBA", (9, 9, 9, 0)), (255, 255, 255)),
        ("png", solid("LA", (100, 51)), (224, 224, 224)),
        # 16 bits: 25700 * 255 / 65535 = 100
        ("png", solid("I;16", 25700), (100, 100, 100)),
        ("tiff", solid("I;16", 25700), (100, 100, 100)),
        ("tif", solid("I", 65535), (255, 255, 255)),
        ("tif", solid("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        ("jpeg", solid("CMYK", (0, 0, 0, 255)), (0, 0, 0)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_decode_file_makes_rgb(
    tmp_path: Path, ending: str, image: Image.Image, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"a.{ending}"
    image.save(path, lossless=True)  # which the other formats do not look at
    pixels = decode_file(path, 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(
        pixels, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 8, 8))
    )


def test_decode_file_reads_16_bit_pgm(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 8 8 65535\n" + (25700).to_bytes(2, "big") * 64)
    assert (decode_file(path, 8) == 100).all()


def test_decode_file_honours_exif_orientation(tmp_path: Path) -> None:
    pixels = noise(0, 8, 8, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(pixels, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_file(tmp_path / "a.png", 8), expected)


@pytest.mark.parametrize("upright", [False, True])
def test_decode_file_crops_the_centre(tmp_path: Path, upright: bool) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = noise(0, 8, 8, 3)  # the centre square of 16 x 8
    picture = pixels.swapaxes(0, 1) if upright else pixels
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "a.png")
    expected = pixels[:, 4:12].transpose(2, 1, 0) if upright else pixels[:, 4:12].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_file(tmp_path / "a.png", 8), expected)


@pytest.mark.parametrize("size", [5, 64])
def test_decode_file_resizes_as_pillow_does(tmp_path: Path, size: int) -> None:
    image = Image.fromarray(noise(0, size, size, 3))
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_file(tmp_path / "a.png", 16), expected)


def test_decode_file_takes_a_long_thin_picture(tmp_path: Path) -> None:
    Image.new("L", (1_000_000, 1), 7).save(tmp_path / "a.png")  # x 1024: 1 Gpx if resized whole
    assert (decode_file(tmp_path / "a.png", 1024) == 7).all()


# --- a folder


def test_folder_takes_pictures_only(pets: Path, load: Load) -> None:
    before = load(pets)
    shutil.copy(pets / "cat" / "000.png", pets / "cat" / ".hidden.png")
    shutil.copy(pets / "cat" / "000.png", pets / "other.png")
    (pets / "cat" / "notes.txt").write_text("no picture")
    (pets / "data.npz").write_bytes(b"no picture")
    write_class(pets / ".thumbnails", 5)
    write_class(pets / "cat" / "old", 5)
    assert same(load(pets), before)


def test_folder_with_given_splits(load: Load, tmp_path: Path) -> None:
    root = tmp_path / "given"
    for group, n in (("train", 3), ("val", 5), ("test", 4)):
        for seed, name in enumerate(("dog", "cat")):
            write_class(root / group / name, n, seed)
    write_class(root / "extra", 1)
    data = load(f"{root}/")
    assert (data.name, data.classes, data.mirror) == ("given", ("cat", "dog"), True)
    assert [per_class(s) for s in (data.train, data.val_search, data.val_select)] == [
        [3, 3],
        [3, 3],
        [2, 2],
    ]
    assert data.n_test == 8


def test_folder_names_may_be_anything(load: Load, tmp_path: Path) -> None:
    names = ("[bold]red", "a b", "ñandú", "猫", "🐕")
    for seed, name in enumerate(names):
        write_class(tmp_path / "odd" / name, 4, seed)
    assert load(tmp_path / "odd").classes == load(tmp_path / "odd").classes == tuple(sorted(names))


def one_class(root: Path) -> None:
    write_class(root / "cat", 4)


def no_class(root: Path) -> None:
    root.mkdir()


def empty_train(root: Path) -> None:
    (root / "train").mkdir(parents=True)


def strange_class(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / "train" / name, 4)
    write_class(root / "val" / "cow", 4)


def class_without_test(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / "train" / name, 4)
    write_class(root / "test" / "cat", 4)


def few_pictures(root: Path) -> None:
    write_class(root / "cat", 4)
    write_class(root / "dog", 3)


def too_deep(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / "training" / name, 4)
        write_class(root / "testing" / name, 4)


def few_readable(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / name, 4)
    (root / "dog" / "001.png").write_bytes(b"")


def none_readable(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / name, 4)
    for path in (root / "dog").iterdir():
        path.write_bytes(b"")


def linked_class(root: Path) -> None:
    for name in ("cat", "dog"):
        write_class(root / name, 4)
    (root / "eel").symlink_to(write_class(root.parent / "elsewhere", 4))


def linked_train(root: Path) -> None:
    root.mkdir()
    (root / "train").symlink_to(root.parent)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (one_class, r"bad: has the one class 'cat'; needs at least 2$"),
        (no_class, r"bad: has no class; needs at least 2$"),
        (empty_train, r"bad: has no class; needs at least 2$"),
        (strange_class, r"bad: val has class 'cow', which train lacks$"),
        (class_without_test, r"bad: class 'dog' has 0 pictures in test; needs at least 1"),
        (few_pictures, r"bad: class 'dog' has 3 pictures in train; needs at least 4"),
        (too_deep, r"bad: class 'testing' has 0 pictures in train; needs at least 4"),
        (few_readable, r"'dog' has 3 pictures .* \(1 skipped, the first: dog/001\.png: empty file"),
        (none_readable, r"class 'dog': none of its pictures can be read; dog/000\.png: empty file"),
        (
            linked_class,
            r"class 'eel': none of its pictures can be read; eel: a link that leads out",
        ),
        (linked_train, r"train: a link that leads outside of the folder; pass the folder"),
    ],
)
def test_bad_folder(
    load: Load, tmp_path: Path, build: Callable[[Path], None], message: str
) -> None:
    build(tmp_path / "bad")
    with pytest.raises(DataError, match=message) as e:
        load(tmp_path / "bad")
    assert "\n" not in str(e.value)


def test_unreadable_pictures_are_named(pets: Path, load: Load, tmp_path: Path) -> None:
    before = load(pets)
    whole = (pets / "cat" / "000.png").read_bytes()
    cats = pets / "cat"
    (cats / "cut.png").write_bytes(whole[:100])
    (cats / "empty.jpg").write_bytes(b"")
    (cats / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    Image.new("F", (8, 8), 0.5).save(cats / "float.tiff")
    (cats / "loop.png").symlink_to(cats / "loop.png")
    (cats / "none.png").symlink_to(cats / "nothing.png")
    (tmp_path / "secret.png").write_bytes(whole)
    (cats / "out.png").symlink_to(tmp_path / "secret.png")
    (cats / "pipe.png").mkdir()
    (cats / "text.png").write_text("hello")
    data = load(pets)
    assert pictures_of(data.train) == pictures_of(before.train)
    assert {skipped.path: skipped.reason for skipped in data.skipped} == {
        "cat/cut.png": "image file is truncated",
        "cat/empty.jpg": "empty file",
        "cat/eps.png": "not a picture that we know",
        "cat/float.tiff": "mode 'F' with values that are no integers from 0 to 65535",
        "cat/loop.png": "a link that leads nowhere",
        "cat/none.png": "a link that leads nowhere",
        "cat/out.png": "a link that leads outside of the folder",
        "cat/pipe.png": "not a regular file",
        "cat/text.png": "not a picture that we know",
    }
    assert same(load(pets), data)  # the second run, out of the cache, still tells


def test_links_inside_the_folder_are_followed(pets: Path, load: Load) -> None:
    picture = pets / "cat" / "000.png"
    picture.rename(pets / "moved.png")
    before = load(pets).content_hash
    picture.symlink_to(pets / "moved.png")
    data = load(pets)
    assert data.skipped == ()
    assert data.content_hash != before


@pytest.mark.parametrize("size", [8, 16])  # 64 pixels make Pillow warn, 256 make it refuse
def test_decompression_bomb_is_skipped(
    pets: Path, load: Load, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    for path in pets.rglob("*.png"):
        Image.fromarray(noise(0, 7, 7, 3)).save(path)
    Image.new("RGB", (size, size)).save(pets / "dog" / "bomb.png")
    [skipped] = load(pets).skipped
    assert skipped.path == "dog/bomb.png"
    assert "decompression bomb" in skipped.reason


def test_progress_ends_with_all(pets: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load_data(
        str(pets), 8, cache_dir=tmp_path, progress=lambda done, total: told.append((done, total))
    )
    assert told == sorted(told)
    assert told[-1] == (30, 30)


# --- an .npz file


def npz_arrays(**changes: Any) -> dict[str, Any]:
    """20 training pictures, 10 a class, and 4 test pictures; None takes an array away."""
    arrays = {
        "x_train": noise(0, 20, 8, 8, 3),
        "y_train": np.arange(20) % 2,
        "x_test": noise(1, 4, 8, 8, 3),
        "y_test": np.array([0, 0, 1, 1]),
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "sizes", "classes"),
    [
        # 10 a class; beside a test set 1 and 1 to val
        ({}, (16, 2, 2, 4), ("0", "1")),
        ({"classes": np.array(["[b]", "ü"])}, (16, 2, 2, 4), ("[b]", "ü")),
        ({"x_train": noise(0, 20, 8, 8)}, (16, 2, 2, 4), ("0", "1")),
        ({"x_train": noise(0, 20, 8, 8, 1)}, (16, 2, 2, 4), ("0", "1")),
        ({"y_train": (np.arange(20) % 2).astype(np.uint8)[:, None]}, (16, 2, 2, 4), ("0", "1")),
        ({"x_test": noise(1, 4, 30, 20, 3)}, (16, 2, 2, 4), ("0", "1")),
        # 2 of 10 sealed, then 0.8 -> 1 and 1
        ({"x_test": None, "y_test": None}, (12, 2, 2, 4), ("0", "1")),
        (
            {"x_val": noise(2, 6, 8, 8), "y_val": np.array([0, 0, 0, 1, 1, 1])},
            (20, 4, 2, 4),
            ("0", "1"),
        ),
        # three pictures a class suffice beside a test set
        ({"x_train": noise(0, 6, 9, 9), "y_train": np.arange(6) % 2}, (2, 2, 2, 4), ("0", "1")),
        # a stranger beside them, pickled even, is let be
        ({"note": np.array([{"a": 1}], dtype=object)}, (16, 2, 2, 4), ("0", "1")),
    ],
)
def test_npz(
    load: Load,
    tmp_path: Path,
    changes: dict[str, Any],
    sizes: tuple[int, ...],
    classes: tuple[str, ...],
) -> None:
    np.savez_compressed(tmp_path / "my.set.npz", **npz_arrays(**changes))
    data = load(tmp_path / "my.set.npz")
    assert (len(data.train), len(data.val_search), len(data.val_select), data.n_test) == sizes
    assert (data.name, data.classes, data.mirror) == ("my.set", classes, True)
    assert data.train.images.shape[1:] == (3, 8, 8)
    assert data.train.labels.dtype == np.int64


def test_npz_pixels_come_through(load: Load, tmp_path: Path) -> None:
    x = noise(0, 20, 8, 8)
    np.savez(tmp_path / "a.npz", **npz_arrays(x_train=x))
    data = load(tmp_path / "a.npz")
    grey = [image.tobytes() * 3 for image in x]  # the one channel three times
    dealt = pictures_of(data.train, data.val_search, data.val_select)
    assert sorted(dealt) == sorted(grey)
    labels = [*data.train.labels, *data.val_search.labels, *data.val_select.labels]
    assert [grey.index(picture) % 2 for picture in dealt] == labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, r"no array 'x_train'"),
        ({"y_train": None}, r"no array 'y_train'"),
        ({"y_test": None}, r"no array 'y_test'"),
        ({"x_val": noise(0, 4, 8, 8)}, r"no array 'y_val'"),
        (
            {"x_train": np.zeros((20, 8, 8, 3))},
            r"x_train is float64 of shape \(20, 8, 8, 3\); must",
        ),
        ({"x_train": noise(0, 20, 3, 8, 8)}, r"x_train is uint8 of shape \(20, 3, 8, 8\); must be"),
        ({"x_train": noise(0, 20, 8, 8, 4)}, r"x_train is uint8 of shape \(20, 8, 8, 4\); must be"),
        ({"x_train": noise(0, 20, 64)}, r"x_train is uint8 of shape \(20, 64\); must be"),
        (
            {"x_train": noise(0, 0, 8, 8), "y_train": np.arange(0)},
            r"x_train is .*\(0, 8, 8\); must",
        ),
        ({"x_test": noise(0, 4, 0, 8)}, r"x_test is uint8 of shape \(4, 0, 8\); must be"),
        ({"y_train": np.zeros(20)}, r"y_train is float64 of shape \(20,\); must be integers"),
        ({"y_train": np.zeros((20, 2), int)}, r"y_train is int64 of shape \(20, 2\); must be int"),
        ({"y_train": np.zeros(20, bool)}, r"y_train is bool of shape"),
        ({"y_train": np.arange(19) % 2}, r"x_train has 20 pictures, y_train 19 labels"),
        ({"y_train": np.arange(20) % 2 - 1}, r"y_train holds label -1; with 1 classes"),
        (
            {"y_test": np.array([0, 1, 2, 1])},
            r"y_test holds label 2; with 2 classes a label is 0 to 1",
        ),
        ({"y_train": np.full(20, 2**64 - 1, np.uint64)}, r"y_train holds 18446744073709551615"),
        ({"y_train": np.arange(20) * 10**9}, r"y_train goes up to 19000000000 with 20 pictures"),
        (
            {"y_train": np.arange(20) % 2 * 2},
            r"class '1' has 0 pictures in train; needs at least 3",
        ),
        ({"y_train": np.zeros(20, int)}, r"y_test holds label 1; with 1 classes"),
        (
            {"classes": np.array(["a", "a"])},
            r"classes is <U1 of shape \(2,\); must be different str",
        ),
        ({"classes": np.array([1, 2])}, r"classes is int64 of shape \(2,\); must be different str"),
        ({"classes": np.array([["a", "b"]])}, r"classes is <U1 of shape \(1, 2\); must be"),
        ({"classes": np.array(["a"])}, r"y_train holds label 1; with 1 classes"),
        ({"classes": np.array(["a", "b"], object)}, r"classes holds Python objects"),
        ({"x_train": np.array([noise(0, 8, 8), None], object)}, r"x_train holds Python objects"),
    ],
)
def test_bad_npz(load: Load, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **npz_arrays(**changes))
    with pytest.raises(DataError, match=rf"bad\.npz: {message}") as e:
        load(tmp_path / "bad.npz")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("damage", ["empty", "text", "npy", "cut", "flipped"])
def test_damaged_npz(load: Load, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **npz_arrays())
    whole = path.read_bytes()
    pixel = bytes([whole[1000] ^ 1])  # of x_train
    np.save(tmp_path / "one.npy", np.arange(3))
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello",
            "npy": (tmp_path / "one.npy").read_bytes(),
            "cut": whole[:3000],
            "flipped": whole[:1000] + pixel + whole[1001:],
        }[damage]
    )
    expected = r"x_train is damaged" if damage == "flipped" else r"not an \.npz file, or a damaged"
    with pytest.raises(DataError, match=rf"bad\.npz: {expected}"):
        load(path)


# --- the cache, and the sealed test split


def test_second_load_comes_from_the_cache(
    pets: Path, load: Load, no_decoding: Callable[[], None], tmp_path: Path
) -> None:
    first = load(pets)
    no_decoding()
    assert same(load(pets), first)
    assert (
        len(open_test(str(pets), 8, command="test", cache_dir=tmp_path / "cache")) == first.n_test
    )
    names = {path.suffix for path in (tmp_path / "cache").iterdir()}
    assert names == {".npz", ".jsonl"}  # and no temporary file


def test_load_never_needs_the_test_file(
    pets: Path, load: Load, no_decoding: Callable[[], None], tmp_path: Path
) -> None:
    first = load(pets)
    before = open_test(str(pets), 8, command="test", cache_dir=tmp_path / "cache")
    [sealed] = (tmp_path / "cache").glob("*-test.npz")
    sealed.unlink()
    after = open_test(
        str(pets), 8, command="test", cache_dir=tmp_path / "cache", seed=0
    )  # built anew
    assert pictures_of(after) == pictures_of(before)
    sealed.unlink()
    no_decoding()
    assert same(load(pets), first)
    assert not sealed.exists()


def test_resolution_and_seed_have_entries_of_their_own(pets: Path, load: Load) -> None:
    loads = [load(pets, resolution, seed) for resolution in (8, 9) for seed in (0, 1)]
    again = [load(pets, resolution, seed) for resolution in (8, 9) for seed in (0, 1)]
    assert all(map(same, loads, again))
    assert len({data.content_hash for data in loads}) == 4
    assert all(len(data.content_hash) == 12 for data in loads)


def test_content_hash_is_of_the_content(pets: Path, load: Load) -> None:
    before = load(pets)
    for path in pets.rglob("*.png"):
        os.utime(path, ns=(0, 0))
    assert same(load(pets), before)
    Image.new("RGB", (8, 8)).save(pets / "cat" / "003.png")
    assert load(pets).content_hash != before.content_hash


@pytest.mark.skipif(os.name == "nt", reason="Windows has no time of the last status change")
def test_changed_picture_is_seen_though_size_and_time_are_equal(pets: Path, load: Load) -> None:
    picture = pets / "cat" / "a.bmp"
    Image.new("RGB", (8, 8), "red").save(picture)
    before, status = load(pets), picture.stat()
    time.sleep(0.02)  # past the clock tick of the file system
    Image.new("RGB", (8, 8), "blue").save(picture)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert picture.stat().st_size == status.st_size
    assert load(pets).content_hash != before.content_hash


def test_damaged_cache_is_rebuilt(
    pets: Path, load: Load, no_decoding: Callable[[], None], tmp_path: Path
) -> None:
    first = load(pets, 32)  # large enough that zipfile does not read an array in one go
    [path] = (p for p in (tmp_path / "cache").iterdir() if not p.stem.endswith("-test"))
    whole = path.read_bytes()
    cuts = [whole[:n] for n in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    flips = []
    for position in np.random.default_rng(0).integers(0, len(whole), 40):
        flipped = bytearray(whole)
        flipped[position] ^= 4
        flips.append(bytes(flipped))
    # the shape in the first header: 18 pictures (6 cats, 12 dogs) become 10, pixels untouched
    flips.append(whole.replace(b"'shape': (18, 3", b"'shape': (10, 3", 1))
    assert flips[-1] != whole
    for damaged in (*cuts, *flips, b"not a zip"):
        path.write_bytes(damaged)
        assert same(load(pets, 32), first)
    no_decoding()
    assert same(load(pets, 32), first)  # the last one was written anew


def test_damaged_test_file_is_rebuilt(pets: Path, load: Load, tmp_path: Path) -> None:
    load(pets)
    before = open_test(str(pets), 8, command="test", cache_dir=tmp_path / "cache")
    [sealed] = (tmp_path / "cache").glob("*-test.npz")
    sealed.write_bytes(sealed.read_bytes()[:-30])
    after = open_test(str(pets), 8, command="test", cache_dir=tmp_path / "cache")
    assert pictures_of(after) == pictures_of(before)


def test_full_disk_leaves_no_half_file(
    pets: Path, load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill(file: Any, **_: object) -> NoReturn:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(DataError, match=r"cache .*: cannot be written \(No space left on device\)"):
        load(pets)
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_in_the_place_of_a_file_is_refused(pets: Path, load: Load, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match=r"cache .*: cannot be written"):
        load(pets)


# --- real pictures


@pytest.mark.skipif(not CIFAR_SHEET.exists(), reason="needs ../shared/data/cifar10")
def test_real_cifar_folder_and_npz_agree(load: Load, tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(CIFAR_SHEET).convert("RGB"))  # (800, 1280, 3)
    x = sheet.reshape(25, 32, 40, 32, 3).swapaxes(1, 2).reshape(1000, 32, 32, 3)[:200]
    y = np.load(CIFAR_SHEET.with_name("labels.npz"))["test1000"][:200]
    keep = y < 4
    x, y = x[keep], y[keep]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    for i in np.argsort(y, kind="stable"):
        folder = tmp_path / "folders" / str(y[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(folder / f"{i:05d}.png")
    from_npz, from_folder = load(tmp_path / "a.npz", None), load(tmp_path / "folders", None)
    assert from_npz.resolution == 32
    # the rows of a class are in the same order in both, so the same pictures are dealt
    assert sorted(pictures_of(from_npz.train)) == sorted(pictures_of(from_folder.train))
    assert sorted(pictures_of(from_npz.val_select)) == sorted(pictures_of(from_folder.val_select))

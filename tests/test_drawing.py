import io
import json
from itertools import pairwise
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import optuna
import pytest
from PIL import Image

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.table import ATTENTIONS
from nasattn.baselines import BASELINES
from nasattn.errors import ArchitectureError
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.drawings.attention_styles import (
    ATTENTION_STYLES,
    PLUGIN_STYLES,
    paler,
    style_of,
)
from nasattn.report.drawings.difference_drawing import align, draw_difference
from nasattn.report.drawings.drawing import Drawing, Line, Rectangle, Text, fitting, text_width
from nasattn.report.drawings.network_words import network_words, square
from nasattn.report.drawings.stages import stage_rows
from nasattn.space import load_space
from nasattn.zoo import ZOO
from tests.command import assert_refused, nasattn
from tests.sweep import sweep

SVG = "{http://www.w3.org/2000/svg}"
LAM = BASELINES["lam"].architecture
MOBILENET_V2 = BASELINES["mobilenet_v2"].architecture
SPACES = ("mobile", "resnet", "resnest", "alexnet")
DRAWN: dict[str, Drawing] = {}


def drawing_of(name: str) -> Drawing:
    """A baseline's drawing for its own pictures, made once."""
    if name not in DRAWN:
        side, classes = ZOO[name].pictures.resolution, ZOO[name].pictures.num_classes
        DRAWN[name] = draw_architecture(
            BASELINES[name].architecture, title=name, resolution=side, num_classes=classes
        )
    return DRAWN[name]


def parse_svg(drawing: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawing.svg())


def assert_tidy(drawing: Drawing) -> None:
    """Everything lies inside the picture, and no two texts overlap."""
    shapes = [s.box for group in (drawing.rectangles, drawing.lines, drawing.texts) for s in group]
    for left, top, right, bottom in shapes:
        assert left >= 0
        assert top >= 0
        assert right <= drawing.width + 1e-6
        assert bottom <= drawing.height + 1e-6
    texts = drawing.texts
    for i, text in enumerate(texts):
        for other in texts[:i]:
            a, b = text.box, other.box
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{text} overlaps {other}"


@pytest.mark.parametrize("name", BASELINES)
def test_draw_architecture_is_tidy_for_every_baseline(name: str) -> None:
    assert_tidy(drawing_of(name))


@pytest.mark.parametrize("name", BASELINES)
def test_draw_architecture_has_a_rectangle_a_block(name: str) -> None:
    arch = BASELINES[name].architecture
    blocks = parse_svg(drawing_of(name)).findall(f"{SVG}rect[@data-role='block']")
    assert len(blocks) == sum(stage.depth for stage in arch.stages)


@pytest.mark.parametrize("name", BASELINES)
def test_legend_has_exactly_the_kinds_present(name: str) -> None:
    arch = BASELINES[name].architecture
    kinds = {arch.stem.attention.kind, arch.fusion.attention.kind}
    kinds |= {stage.attention.kind for stage in arch.stages}
    found = {entry.split(",")[0] for entry in drawing_of(name).legend}
    assert found == kinds - {"none"}


def test_svg_escapes_texts() -> None:
    title = "<script>alert('x')</script> & \"q\" \x1b[31m\x00"
    drawing = draw_architecture(LAM, title=title)
    root = parse_svg(drawing)
    assert root.find(f"{SVG}title") is not None
    assert not root.findall(f".//{SVG}script")
    assert "<script>alert('x')</script> & \"q\" ?[31m?" in [t.text for t in root.iter(f"{SVG}text")]


def test_svg_and_png_are_deterministic() -> None:
    one, other = (draw_architecture(LAM, title="lam", num_classes=10) for _ in range(2))
    assert one == other
    assert one.svg() == other.svg()
    assert one.png() == other.png()


def test_png_has_the_drawings_size() -> None:
    drawing = drawing_of("lam")
    image = Image.open(io.BytesIO(drawing.png(scale=1)))
    assert image.size == (round(drawing.width), round(drawing.height))


def test_every_kind_has_a_style_of_its_own() -> None:
    assert ATTENTION_STYLES.keys() == ATTENTIONS.keys()
    assert len(set(ATTENTION_STYLES.values())) == len(ATTENTIONS)
    assert style_of("my_attn") == style_of("my_attn")
    assert style_of("my_attn") in PLUGIN_STYLES


def test_paler_leaves_a_share_of_the_colour() -> None:
    # 255 - 0.5 (255 - 0) = 127.5, rounded to even
    assert paler("#ff0000", 0.5) == "#ff8080"
    assert paler("#123456", 1) == "#123456"


def changed_lam(**changes: object) -> Architecture:
    """LAM's network with other fields in its third stage."""
    data = json.loads(LAM.to_json())
    data["stages"][2] |= changes
    return parse_architecture(data)


def sampled(space: str, n: int) -> list[Architecture]:
    loaded, rng = load_space(space), Random(0)
    return [loaded.decode(loaded.sample(rng)) for _ in range(n)]


@pytest.mark.parametrize("space", sweep(SPACES, ["alexnet"]))
def test_draw_is_tidy_for_random_networks_and_their_differences(space: str) -> None:
    networks = sampled(space, 6)
    for arch in networks:
        drawing = draw_architecture(arch, title="long " * 100, resolution=32, num_classes=10)
        assert_tidy(drawing)
        assert drawing.width == 900
    for a, b in pairwise(networks):
        assert_tidy(draw_difference(a, b, ("long " * 100, "b"), num_classes=10))


def blocks_of(drawing: Drawing) -> list[Rectangle]:
    return [r for r in drawing.rectangles if r.role == "block"]


def test_slices_are_to_scale() -> None:
    blocks = blocks_of(drawing_of("lam"))
    first, last = blocks[0], blocks[-1]
    # 112 and 7 pixels, 16 and 160 channels: height and thickness by their roots
    assert first.height / last.height == pytest.approx((112 / 7) ** 0.5)
    assert last.width / first.width == pytest.approx((160 / 16) ** 0.5)


@pytest.mark.parametrize(
    ("placement", "n_stripes", "place"), [("after_spatial", 3, 0.5), ("before_add", 3, 1.0)]
)
def test_attention_stands_inside_the_block_where_it_is(
    placement: str, n_stripes: int, place: float
) -> None:
    arch = parse_architecture(
        {
            "stem": {"width": 8},
            "stages": [
                {"depth": 3, "width": 16, "attention": {"kind": "se", "placement": placement}}
            ],
        }
    )
    drawing = draw_architecture(arch)
    stripes = [r for r in drawing.rectangles if r.role == "attention" and r.height > 15]
    assert len(stripes) == n_stripes
    for block, stripe in zip(blocks_of(drawing), stripes, strict=True):
        assert stripe.fill.lower() == ATTENTION_STYLES["se"].colour.lower()
        assert stripe.x - block.x == pytest.approx(place * (block.width - stripe.width))


def test_attention_after_a_stage_stands_behind_its_last_block() -> None:
    drawing = draw_architecture(
        changed_lam(attention={"kind": "bam", "placement": "after_stage"}), resolution=224
    )
    (bar,) = [line for line in drawing.lines if line.dashed and line.width == 5]
    third = blocks_of(drawing)[5:8]  # stages of 2, 3, 3 blocks
    assert bar.points[0][0] > max(r.box[2] for r in third)


def test_blocks_that_run_for_a_share_are_dashed() -> None:
    drawing = draw_architecture(changed_lam(run_share=0.5))
    # the first of the three changes the width and halves the map: it always runs
    assert [r.dashed for r in blocks_of(drawing)[5:8]] == [False, True, True]
    assert "runs for a share of the pictures" in drawing.legend
    assert "50 % of pictures" in [t.text for t in drawing.texts]


def test_progressive_attention_grows_in_colour() -> None:
    drawing = draw_architecture(parse_architecture(LAM.model_dump() | {"progressive": True}))
    colours = [r.fill for r in drawing.rectangles if r.role == "attention"]
    assert len(set(colours)) == len(LAM.stages)
    assert {"1/6", "6/6"} <= {t.text for t in drawing.texts}


@pytest.mark.parametrize(("kind", "n"), [("none", 0), ("aff", 1), ("multi_scale", 2)])
def test_fusion_has_a_line_a_map(kind: str, n: int) -> None:
    drawing = draw_architecture(parse_architecture(LAM.model_dump() | {"fusion": {"kind": kind}}))
    assert len([line for line in drawing.lines if line.role == "fused"]) == n


def test_draw_architecture_refuses_a_resolution_without_a_map() -> None:
    with pytest.raises(ArchitectureError, match="resolution: must be 4 or more, is 3"):
        draw_architecture(LAM, resolution=3)


def test_draw_architecture_grows_for_many_stages() -> None:
    stages = [{"depth": 200, "width": 8, "stride": 1} for _ in range(64)]
    drawing = draw_architecture(parse_architecture({"stem": {"width": 8}, "stages": stages}))
    assert len(blocks_of(drawing)) == 64 * 200
    assert drawing.width > 900
    assert max(r.box[2] for r in drawing.rectangles) <= drawing.width


def test_fitting_cuts_to_the_width() -> None:
    assert fitting("short", 100) == "short"
    cut = fitting("very " * 100, 100)
    assert cut.endswith("…")
    assert 80 < text_width(cut) <= 100


def test_dashed_line_has_pieces_of_its_dash() -> None:
    # 3 on, 2 off, along 12: 0 to 3, 5 to 8, 10 to 12
    line = Line(((0, 0), (12, 0)), dashed=True)
    assert [(a[0], b[0]) for a, b in line.pieces] == [(0, 3), (5, 8), (10, 12)]


def test_png_shows_rectangles_lines_and_texts() -> None:
    square = Rectangle(2, 2, 4, 4, fill="#ff0000")
    drawing = Drawing(
        20, 20, "t", "d", (square,), (Line(((10, 0), (10, 20)), "#00ff00"),), (Text(12, 18, "█"),)
    )
    image = Image.open(io.BytesIO(drawing.png(scale=1))).convert("RGB")
    assert image.getpixel((4, 4)) == (255, 0, 0)
    assert image.getpixel((7, 7)) == (255, 255, 255)
    assert image.getpixel((10, 10)) == (0, 255, 0)
    assert image.getpixel((15, 14)) == (31, 41, 51)


def differences_of(drawing: Drawing) -> list[str]:
    return [t.text for t in drawing.texts if t.role == "difference"]


def marks_of(drawing: Drawing) -> int:
    return len([r for r in drawing.rectangles if r.role == "changed"])


@pytest.mark.parametrize(
    ("changes", "words", "marks"),
    [
        ({}, "the same network", 0),
        ({"width": 40}, "channels: 32 → 40 (stage 2)", 2),
        ({"depth": 5}, "blocks: 3 → 5 (stage 2)", 2),
        ({"attention": {"kind": "none"}}, "attention: lam → none (stage 2)", 2),
        (
            {"attention": {"kind": "se", "rd_ratio": 4}},
            "attention: lam → se rd_ratio=4 (stage 2)",
            2,
        ),
    ],
)
def test_draw_difference_marks_and_says_what_differs(
    changes: dict[str, object], words: str, marks: int
) -> None:
    drawing = draw_difference(LAM, changed_lam(**changes), ("a", "b"))
    assert differences_of(drawing) == [words]
    assert marks_of(drawing) == marks


def test_draw_difference_says_of_a_stage_that_it_is_only_in_one() -> None:
    said = differences_of(draw_difference(LAM, MOBILENET_V2, ("lam", "v2")))
    assert "stage 6: only in v2" in said
    assert "expansion: 1.5 → 6 (stages 1, 2, 4, 5); 2 → 6 (stage 3)" in said
    assert said[-1].startswith(
        "head: 1\N{MULTIPLICATION SIGN}1 conv, 320; AFF, 3 terms; linear 1152"
    )
    assert said[-1].endswith("1 conv, 1280; dropout 0.2")
    said = differences_of(draw_difference(MOBILENET_V2, LAM, ("v2", "lam")))
    assert "stage 6: only in v2" in said


@pytest.mark.parametrize("space", SPACES)
def test_draw_difference_finds_one_between_any_two_networks(space: str) -> None:
    for a, b in pairwise(sampled(space, 8)):
        assert (differences_of(draw_difference(a, b)) == ["the same network"]) == (a == b)


def test_align_pairs_like_stages_in_their_order() -> None:
    data = json.loads(LAM.to_json())
    del data["stages"][4]  # of 96 channels, with stride 1
    shorter = network_words(parse_architecture(data), 224, 10).stages
    longer = network_words(LAM, 224, 10).stages
    assert align(longer, shorter) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, None), (5, 4)]
    assert align(shorter, longer) == [(0, 0), (1, 1), (2, 2), (3, 3), (None, 4), (4, 5)]
    assert align((), shorter[:1]) == [(None, 0)]


def test_stage_rows_say_every_part() -> None:
    rows = stage_rows(LAM, 224)
    stages = [f"stage {i}" for i in range(6)]
    assert [row.part for row in rows] == ["stem", *stages, "fusion", "head", "whole"]
    third = ("stage 2", "28", "32", "3", "1.5", "3", "lam before_add", "")
    assert rows[3] == third
    assert rows[-2].other == "avg pooling hidden=1152"
    assert rows[-1].other == "act=relu6"


# ---- nasattn draw ----


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_draw_writes_a_network(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "draw", "lam") == 0
    assert capsys.readouterr().out == "written: lam.svg\n"
    assert Path("lam.svg").read_text(encoding="utf-8") == drawing_of("lam").svg()
    assert nasattn(monkeypatch, "draw", "lam", "mobilenet_v2", "-o", "diff.png") == 0
    Image.open("diff.png").verify()
    Path("own.json").write_text(LAM.to_json(), encoding="utf-8")
    assert nasattn(monkeypatch, "draw", "own.json", "--resolution", "32", "--classes", "10") == 0
    assert f"{square(32)} pixels, 10 classes" in Path("own.svg").read_text(encoding="utf-8")
    assert nasattn(monkeypatch, "draw", "lam", "mobilenet_v2") == 0
    assert sorted(p.name for p in here.iterdir()) == [
        "diff.png",
        "lam-mobilenet_v2.svg",
        "lam.svg",
        "own.json",
        "own.svg",
    ]


def test_draw_writes_the_network_of_a_trial(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage="sqlite:///found.db", study_name="found")
    study.set_user_attr("settings", {"data": "digits", "resolution": 16})
    study.set_user_attr("n_classes", 10)
    trial = study.ask()
    trial.set_user_attr("architecture", json.dumps(LAM.at_resolution(16).model_dump()))
    study.tell(trial, 0.5)
    storage = ("--storage", "sqlite:///found.db")
    for name in ("found/0", "trial:found/0"):
        assert nasattn(monkeypatch, "draw", name, "-o", "found.svg", *storage) == 0
        text = Path("found.svg").read_text(encoding="utf-8")
        assert f"{square(16)} pixels, 10 classes" in text
        assert LAM.at_resolution(16).arch_id in text
    assert nasattn(monkeypatch, "draw", "found/0", "lam", *storage) == 0
    assert Path("found_0-lam.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg16"], "vgg16: is a reference; only nasattn's own architectures can be drawn"),
        (["lam", "vgg16"], "vgg16: is a reference"),
        (["lma"], "unknown network 'lma'; did you mean 'lam'?"),
        (["lam", "-o", "lam.jpg"], "--out: lam.jpg must end in .svg or .png"),
        (["lam", "-o", "lam"], "--out: lam must end in .svg or .png"),
        (["lam", "-o", "no/lam.svg"], "--out: no/lam.svg cannot be written (No such file"),
        (["lam", "lam", "lam"], "draw: takes one network or two, not 3"),
        (["found/0"], "there is no file nasattn.db"),
        (["no.json"], "no.json: cannot be read as JSON"),
        (["lam", "--resolution", "2"], "--resolution: must be 8 to 1024, is 2"),
    ],
)
def test_draw_refuses(
    arguments: list[str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(monkeypatch, capsys, ["draw", *arguments], message)

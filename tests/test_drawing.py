import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from nasattn.attention.table import ATTENTIONS
from nasattn.baselines import BASELINES
from nasattn.report.architecture_drawing import draw_architecture
from nasattn.report.attention_styles import ATTENTION_STYLES, style_of
from nasattn.report.drawing import Drawing
from nasattn.zoo import ZOO

SVG = "{http://www.w3.org/2000/svg}"
LAM = BASELINES["lam"].architecture
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

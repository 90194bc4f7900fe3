"""Grad-CAM, attention maps, faithfulness, the sheet, and `nasattn explain` as a user types it."""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.attention import ATTENTIONS, build_attention
from nasattn.cli.explain_pictures import list_pictures, sample
from nasattn.cli.explain_results import verdict
from nasattn.data.augment import Normalise
from nasattn.errors import EvaluationError, UnknownNameError
from nasattn.explain import attention_maps, explain, grad_cam, measure_faithfulness
from nasattn.explain.attention_maps import fit_gate
from nasattn.explain.faithfulness import (
    REFERENCES,
    Areas,
    Difference,
    Faithfulness,
    area,
    blur,
    order,
)
from nasattn.explain.grad_cam import enlarged
from nasattn.fit import load_into
from nasattn.layers import Blend
from nasattn.model import build_model
from nasattn.pretrained import read_pretrained
from nasattn.report.explanation_sheet import (
    CELL,
    GAP,
    HEAD,
    Block,
    Row,
    draw_sheet,
    explain_pictures,
    font,
)
from nasattn.zoo import get_network
from tests.command import assert_refused, nasattn

SHARED = Path(__file__).parents[2] / "shared" / "data"
HALF = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TINY = {
    "stem": {"width": 8},
    "stages": [
        {"depth": 1, "width": 8, "attention": {"kind": "se"}},
        {"depth": 1, "width": 16, "stride": 2, "attention": {"kind": "lam"}},
    ],
    "head": {"dropout": 0.2},
}


def tiny(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_model(parse_architecture(TINY).at_resolution(16), num_classes)


def some(n: int, side: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1))


def some_bytes(n: int, side: int = 16) -> Tensor:
    """Noise, which no format can make much smaller."""
    rng = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, 3, side, side), generator=rng).to(torch.uint8)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


# Grad-CAM


def test_grad_cam_is_the_class_activation_map_before_average_pooling() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    linear = nn.Linear(5, 4)
    x = some(6, 8)
    found = grad_cam(nn.Sequential(features, Mean(), linear), x, target=2)
    # d logit_c / d A_k = w_ck / HW at every pixel, so the map is relu(sum_k w_ck A_k) / HW
    a = features(x).detach().numpy()
    cam = np.einsum("k,nkhw->nhw", linear.weight[2].detach().numpy(), a) / (6 * 6)
    assert found.layer == "0"
    np.testing.assert_allclose(found.maps.numpy(), cam.clip(0), atol=1e-7)
    logits = linear(features(x).mean((2, 3)))
    torch.testing.assert_close(found.probabilities, logits.softmax(1).detach())
    torch.testing.assert_close(found.scores, logits.softmax(1)[:, 2].detach())
    assert found.predicted.tolist() == logits.argmax(1).tolist()


@pytest.mark.parametrize(
    ("name", "resolution", "layer"),
    [
        ("resnet20_cifar", 32, "stages.2"),
        ("lam", 32, "fusion"),
        ("squeezenet", 64, "features"),  # not the map of its classes, which its last layer gives
        ("mobilenet_v3_small", 64, "features"),
        ("shufflenet_v2", 64, "conv5"),
        ("mobilenet_v1", 64, "blocks"),  # timm's
    ],
)
def test_grad_cam_is_captums_at_the_last_map(name: str, resolution: int, layer: str) -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = get_network(name).build(5, resolution)
    x, target = some(1, resolution).repeat(5, 1, 1, 1), torch.arange(5)
    found = grad_cam(model, x, target=target)
    assert found.layer == layer
    theirs = captum.LayerGradCam(model.eval(), model.get_submodule(layer))
    expected = theirs.attribute(x, target, relu_attributions=True)[:, 0].detach()
    assert expected.amax() > 0
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-6 * float(expected.amax()))


def test_grad_cam_takes_the_map_that_is_pooled_not_the_pooled_one() -> None:
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2))
    model = nn.Sequential(features, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 2))
    found = grad_cam(model, some(2, 12))
    assert found.layer == "0.1"
    assert found.maps.shape == (2, 12, 12)


def test_grad_cam_of_a_layer_that_the_next_one_changes_in_place() -> None:
    def build(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3)
        return nn.Sequential(conv, nn.ReLU(inplace), Mean(), nn.Linear(4, 3))

    maps = [grad_cam(build(inplace), some(3, 8), layer="0").maps for inplace in (False, True)]
    assert maps[0].amax() > 0
    torch.testing.assert_close(maps[0], maps[1])


def test_grad_cam_of_a_picture_does_not_hang_on_the_others() -> None:
    model, x = tiny(), some(4)
    together, alone = grad_cam(model, x).maps, grad_cam(model, x[2:3]).maps
    torch.testing.assert_close(together[2:3], alone)


@pytest.mark.parametrize("look", [grad_cam, attention_maps])
def test_a_network_is_left_as_it_was(look: Callable[[nn.Module, Tensor], object]) -> None:
    model = tiny().train()
    for module in list(model.modules())[::3]:
        module.training = False
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    weights = {k: v.clone() for k, v in model.state_dict().items()}

    def state() -> tuple[object, ...]:
        modes = [m.training for m in model.modules()]
        required = [p.requires_grad for p in model.parameters()]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return modes, required, hooks, [p.grad for p in model.parameters()]

    before = state()
    look(model, some(2))
    with pytest.raises(EvaluationError, match="not numbers"):
        look(model, some(2) * float("nan"))
    assert state() == before
    assert not any(before[2])  # type: ignore[arg-type]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_grad_cam_refuses_what_it_cannot_show() -> None:
    model, x = tiny(), some(2)
    with pytest.raises(EvaluationError, match=r"no module of the network gives a map"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2)), x)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'stages.9'; did you mean 'stages"):
        grad_cam(model, x, layer="stages.9")
    with pytest.raises(EvaluationError, match=r"'classifier': gives no map"):
        grad_cam(model, x, layer="classifier")
    with pytest.raises(EvaluationError, match="from 0 to 2"):
        grad_cam(model, x, target=3)
    with pytest.raises(EvaluationError, match="no classifier"):
        grad_cam(nn.Conv2d(3, 2, 1), x)


# Attention maps


def live(kind: str) -> nn.Module:
    """A module whose weights are all drawn, those that start at zero too."""
    torch.manual_seed(0)
    module = build_attention(kind, 16)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def behind(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), module, Mean(), nn.Linear(16, 2))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_maps_tell_what_gates_and_what_adds(kind: str) -> None:
    module, x = live(kind), some(3, 6, 16).relu()
    (row,) = attention_maps(behind(module), x)
    assert (row.name, row.kind) == ("1", kind)
    assert row.adds == (kind in ("nl", "gc", "lgam"))
    y = module(x).detach()
    assert row.channels.shape == (3, 16)
    assert row.spatial.shape == (3, 6, 6)
    if row.adds:
        rms = x.square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(
            row.spatial.square().mean((1, 2)).sqrt() * rms, (y - x).square().mean((1, 2, 3)).sqrt()
        )
    elif kind not in ("sge", "bam"):  # a gate a channel, one a pixel, or one after the other
        assert row.fitted.min() > 1 - 1e-5
    else:
        assert row.fitted.min() > 0.9


@pytest.mark.parametrize(("kind", "over"), [("se", (2, 3)), ("eca", (2, 3)), ("lsa", (1,))])
def test_attention_maps_are_the_gates_themselves(kind: str, over: tuple[int, ...]) -> None:
    module = live(kind)
    x = some(2, 6, 16).abs() + 0.1
    (row,) = attention_maps(behind(module), x)
    gate = (module(x) / x).mean(over).detach()
    own, other = (row.spatial, row.channels) if kind == "lsa" else (row.channels, row.spatial)
    torch.testing.assert_close(own, gate, rtol=1e-4, atol=1e-5)
    level = gate.flatten(1).mean(1).view(-1, *[1] * (other.dim() - 1))
    torch.testing.assert_close(other, level.expand_as(other), rtol=1e-4, atol=1e-5)


def test_attention_maps_count_what_is_made_of_others_once() -> None:
    rows = attention_maps(tiny(), some(2))
    assert [row.kind for row in rows] == ["se", "lam"]
    module, x = live("se"), some(2, 6, 16).abs()
    (whole,) = attention_maps(behind(module), x)
    (half,) = attention_maps(behind(Blend(module, 0.5)), x)
    torch.testing.assert_close(half.channels, 1 + 0.5 * (whole.channels - 1))
    assert attention_maps(nn.Sequential(Mean(), nn.Linear(16, 2)), x) == []


def test_fit_gate_finds_factors_where_inputs_are_zero() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, 5, generator=rng)
    c, s = torch.rand(2, 8, 1, 1, generator=rng) + 0.5, torch.rand(2, 1, 5, 5, generator=rng) + 0.5
    x[:, :, 1:3] *= torch.rand(2, 8, 2, 5, generator=rng) > 0.5
    x[:, 3] = 0  # a channel and a pixel that say nothing
    x[:, :, 4, 4] = 0
    channels, spatial, fitted = fit_gate(x, x * c * s)
    known = torch.ones(8, dtype=torch.bool)
    known[3] = False
    ratio = channels[:, known] / c[:, known, 0, 0]  # one factor a picture
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=0)
    torch.testing.assert_close(channels[:, 3], channels[:, known].mean(1), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        spatial[:, 0] / s[:, 0, 0], spatial[:, 3] / s[:, 0, 3], rtol=1e-3, atol=0
    )
    assert fitted.min() > 1 - 1e-5
    blank = fit_gate(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))
    assert [float(part.mean()) for part in blank] == [1, 1, 1]


# Faithfulness


def test_area_is_the_mean_height() -> None:
    assert area([torch.tensor([1.0, 0.0])] * 5).tolist() == [1, 0]
    assert area([torch.tensor([k / 4]) for k in range(5)]).tolist() == [0.5]
    assert area([torch.tensor([v]) for v in (1.0, 0.0, 0.0)]).tolist() == [0.25]


def test_order_takes_the_highest_first_and_equals_at_random() -> None:
    rng = torch.Generator().manual_seed(0)
    ranks = order(torch.tensor([[[1.0, 9.0], [5.0, 3.0]]]), rng)
    assert ranks.tolist() == [[[0.75, 0.0], [0.25, 0.5]]]
    flat = order(torch.zeros(400, 4, 4), rng)
    assert torch.equal(flat.flatten(1).sort(1).values, (torch.arange(16) / 16).expand(400, -1))
    assert flat.mean(0).sub(15 / 32).abs().max() < 0.08  # 5 standard errors are 0.072


def test_blur_is_scipys_gaussian() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sigma = (0, 0, 4, 4)  # an eighth of the side
    expected = ndimage.gaussian_filter(x.numpy(), sigma, mode="mirror", truncate=3)
    np.testing.assert_allclose(blur(x).numpy(), expected, atol=1e-5)


def brightness(places: Tensor) -> Callable[[Tensor], Tensor]:
    """A network that looks at some pixels alone: its probability is their mean."""

    def ask(x: Tensor) -> Tensor:
        p = (x.mean(1) * places).sum((1, 2)) / places.sum()
        return torch.stack((p, 1 - p), 1)

    return ask


def test_measure_faithfulness_knows_a_map_from_its_opposite() -> None:
    places = torch.zeros(16, 16)
    places[2:6, 10:14] = 1
    x = 0.2 * torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.8 * places
    targets = torch.zeros(12, dtype=torch.int64)
    maps = places.expand(12, -1, -1)
    right = measure_faithfulness(brightness(places), x, maps, targets)
    wrong = measure_faithfulness(brightness(places), x, -maps, targets)
    assert right.references.keys() == REFERENCES.keys()
    torch.testing.assert_close(right.whole, x.mean(1)[:, 2:6, 10:14].mean((1, 2)))
    for name in ("random", "shuffled", "centre"):
        assert right.better(name) is True
        assert wrong.better(name) is False
    # All 16 pixels that count go in the first of 16 steps: whole at 0, blurred from there on.
    expected = (right.whole / 2 + 15.5 * right.blurred) / 16
    torch.testing.assert_close(right.map.deletion, expected)
    # What is linear in the pixels loses by deletion what it gains by insertion.
    for areas in (right.map, *right.references.values()):
        torch.testing.assert_close(areas.deletion + areas.insertion, right.whole + right.blurred)
    again = measure_faithfulness(brightness(places), x, maps, targets)
    assert torch.equal(again.references["random"].deletion, right.references["random"].deletion)


def test_difference_is_the_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 20))
    found = Difference.of(torch.from_numpy(a), torch.from_numpy(b))
    expected = stats.ttest_rel(a, b).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((a - b).mean())
    assert Difference(20, 0.1, 0.05, 0.15).sign == 1
    assert Difference(20, -0.1, -0.15, -0.05).sign == -1
    assert Difference(20, 0.1, -0.05, 0.15).sign == 0
    assert Difference(5, 0.1, 0.05, 0.15).sign == 0  # too few
    assert Difference.of(torch.ones(1), torch.zeros(1)).low is None


def worth(n: int, **gains: tuple[float, float]) -> Faithfulness:
    """A map that deletes lower and inserts higher than the references, by these."""
    spread = torch.linspace(-0.01, 0.01, n)
    level = torch.full((n,), 0.5)
    references = {
        name: Areas(
            level + gains.get(name, (0.1, 0.1))[0] + spread,
            level - gains.get(name, (0.1, 0.1))[1] + spread,
        )
        for name in REFERENCES
    }
    return Faithfulness(Areas(level, level), references, level, level)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (worth(12), "net: the map matters: .* and every other order"),
        (worth(12, centre=(0.1, 0)), "the map matters: .* not shown to beat: centre$"),
        (worth(12, shuffled=(0, 0.1)), "12 pictures do not show that the map matters"),
        (worth(5), "5 pictures cannot tell whether the map matters; give 6 or more"),
    ],
)
def test_verdict_says_no_more_than_was_found(found: Faithfulness, words: str) -> None:
    assert re.search(words, verdict("net", found))


# The sheet


def block(n: int, names: tuple[str, ...] = ("a", "b", "c"), *, attention: bool = False) -> Block:
    return Block("net", names, explain(tiny(), some_bytes(n), HALF, attention=attention))


def test_draw_sheet_has_a_row_a_picture_and_two_columns_a_network() -> None:
    one, two = block(2), block(2, attention=True)
    rows = [Row("first", "a"), Row("second")]
    sheet = draw_sheet(rows, [one, two])
    # The picture's column, two blocks of two cells and two attention modules more, gaps.
    width = CELL + 3 * GAP + 6 * (CELL + GAP) + 2 * 2 * GAP
    assert sheet.width == width
    assert sheet.height > HEAD + 2 * CELL
    pixels = np.asarray(sheet)
    picture = one.explained.pictures[0].permute(1, 2, 0).numpy()  # each pixel 10x10
    place = pixels[HEAD : HEAD + CELL, GAP : GAP + CELL]
    assert np.array_equal(place[5::10, 5::10], picture)
    heat = pixels[HEAD : HEAD + CELL, CELL + 3 * GAP :][:, :CELL]
    values = enlarged(one.explained.heat.maps[:1], (16, 16))[0]
    top, left = divmod(int(values.argmax()), 16)
    red, green, blue = (int(v) for v in heat[10 * top + 5, 10 * left + 5])
    assert min(red, green) > 100 > blue  # viridis ends in yellow


def test_draw_sheet_takes_any_text() -> None:
    names = ("\N{CJK UNIFIED IDEOGRAPH-732B}" * 90, "a\nb\x1b[31m", "\udcff \N{GRINNING FACE}")
    rows = [Row("x" * 500, names[0]), Row("", names[1])]
    plain = draw_sheet([Row(""), Row("")], [block(2)])
    assert draw_sheet(rows, [block(2, names)]).size == plain.size
    assert font(False).getlength("abc") > 0


@pytest.mark.parametrize("side", [32, 224])
def test_explain_pictures_makes_a_small_file(side: int) -> None:
    model = tiny().train()
    data = explain_pictures(
        model, some_bytes(6, side), HALF, ("a", "b", "c"), truths=[0, 1, 2, 0, 1, 2], name="net"
    )
    assert len(data) < 40_000
    sheet = Image.open(io.BytesIO(data))
    assert sheet.format == "PNG"
    assert sheet.width > 3 * 48
    assert model.training


# The command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of a few seconds' training, pictures in class folders, a cache."""
    folder = tmp_path_factory.mktemp("explain")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASATTN_CACHE", str(folder / "cache"))
        os.chdir(folder)
        try:
            Path("tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
            quick = ["--resolution", "16", "--train-size", "64", "--epochs", "1", "-o", "run"]
            assert nasattn(patch, "train", "tiny.json", *quick) == 0
        finally:
            os.chdir(before)
    for i, name in enumerate("0123"):
        (folder / "pictures" / name).mkdir(parents=True)
        for j in range(3):
            pixels = some_bytes(12, 20)[3 * i + j].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / "pictures" / name / f"{j}.png")
    return folder


@pytest.fixture
def at(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, with what was trained in `at`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(trained / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return trained


@pytest.mark.slow
def test_explain_writes_a_sheet_and_all_figures(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(at / "run" / "weights.safetensors")
    arguments = [weights, str(at / "pictures"), "--n", "7", "--attention", "--json", "found.json"]
    assert nasattn(monkeypatch, "explain", *arguments) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.rstrip().endswith("written: explain.png, found.json")
    assert "tiny: mean % of 7 pictures" in out
    assert re.search(r" se +[\d.]+ to [\d.]+ +[\d.]+ to [\d.]+ +100.0", out)
    with Image.open("explain.png") as sheet:
        assert sheet.size[0] == CELL + 3 * GAP + 4 * (CELL + GAP) + 2 * GAP
    found = json.loads(Path("found.json").read_text())
    assert len(found["pictures"]) == 7
    assert all(row["name"] == f"{row['class']}/{row['name'][2:]}" for row in found["pictures"])
    (network,) = found["networks"]
    assert network["layer"] == "stages.1"
    assert set(network["pictures"]["predicted"]) <= set("0123456789")
    assert network["pictures"]["score"] == network["pictures"]["target_score"]
    less = network["references"]["random"]["map_minus_deletion"]
    mean = np.mean(network["pictures"]["deletion"])
    assert less["mean"] == pytest.approx(
        mean - network["references"]["random"]["deletion"], abs=1e-6
    )
    assert [row["kind"] for row in network["attention"]] == ["se", "lam"]
    # The same command, the same figures; another seed, other pictures.
    assert nasattn(monkeypatch, "explain", *arguments) == 0
    assert json.loads(Path("found.json").read_text()) == found
    assert nasattn(monkeypatch, "explain", *arguments, "--seed", "1") == 0
    assert json.loads(Path("found.json").read_text())["pictures"] != found["pictures"]


def test_explain_sets_networks_side_by_side(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(at / "run" / "weights.safetensors")
    arguments = [weights, str(at / "tiny.json"), "--init", weights, "--class", "3"]
    pictures = [str(at / "pictures" / "1" / f"{j}.png") for j in range(2)]
    options = ["--pictures", pictures[1], "--resolution", "16", "--json", "found.json"]
    data = ["--data", "digits"]
    assert nasattn(monkeypatch, "explain", *arguments, pictures[0], *options, *data) == 0
    out = capsys.readouterr().out
    assert "2 pictures cannot tell whether the map matters" in " ".join(out.split())
    one, two = json.loads(Path("found.json").read_text())["networks"]
    assert [network["name"] for network in (one, two)] == [weights, str(at / "tiny.json")]
    assert one["pictures"] == two["pictures"]  # names of classes by the file, and by the data
    assert one["pictures"]["target"] == ["3", "3"]


def test_explain_draws_pictures_of_a_data_set(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(at / "run" / "weights.safetensors")
    arguments = [weights, "--data", "digits", "--n", "18", "-o", "sheet.png", "--json", "f.json"]
    assert nasattn(monkeypatch, "explain", *arguments) == 0
    out = capsys.readouterr().out
    assert "written: sheet.png, f.json (the first 16 of 18 pictures)" in out.replace("\n", " ")
    found = json.loads(Path("f.json").read_text())
    assert len(found["pictures"]) == 18
    assert all(row["name"].startswith("val-select ") for row in found["pictures"])


def test_explain_names_classes_by_class_folders(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Weights for four classes, as there are folders; without normalisation nothing can be said.
    arch = parse_architecture(TINY).at_resolution(16)
    tensors = {k: v.numpy() for k, v in build_model(arch, 4).state_dict().items()}
    np.savez("four.npz", **tensors)
    arguments = ["explain", str(at / "tiny.json"), str(at / "pictures"), "--init", "four.npz"]
    arguments += ["--resolution", "16", "--n", "2"]
    assert_refused(monkeypatch, capsys, arguments, "give --mean and --std, or --data")
    arguments += ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--json", "found.json"]
    assert nasattn(monkeypatch, *arguments) == 0
    (network,) = json.loads(Path("found.json").read_text())["networks"]
    assert network["classes"] == ["0", "1", "2", "3"]


def test_explain_skips_and_names_what_cannot_be_read_in_a_folder(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("some/.hidden").mkdir(parents=True)
    Path("some/broken.png").write_bytes(b"nothing")
    Path("some/link.png").symlink_to(at / "pictures" / "0" / "0.png")
    (at / "pictures/0/1.png").read_bytes()
    for place in ("some/good.png", "some/.hidden/other.png"):
        Path(place).write_bytes((at / "pictures/0/1.png").read_bytes())
    weights = str(at / "run" / "weights.safetensors")
    assert nasattn(monkeypatch, "explain", weights, "some", "--json", "found.json") == 0
    out = capsys.readouterr().out
    assert "skipped broken.png: not a picture that we know" in out
    assert "skipped link.png: a link that leads outside of the folder" in out
    assert json.loads(Path("found.json").read_text())["pictures"] == [
        {"name": "good.png", "class": None}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["W"], "no picture: name picture files or folders"),
        (["P"], "no network: name a .safetensors file"),
        (["W", "resnet999", "P"], "unknown network, picture or folder 'resnet999'; did you mean"),
        (["W", ""], "unknown network, picture or folder ''"),
        (["W", "gone.png"], "gone.png: there is no such picture or folder"),
        (["gone.safetensors", "P"], "gone.safetensors: there is no such file"),
        (["W", "text.png"], "text.png: not a picture that we know"),
        (["W", "empty"], "empty: holds no picture"),
        (["W", "P", "--class", "cat"], "unknown class 'cat'; known: 0, 1, 2"),
        (["W", "P", "-o", "sheet.jpg"], "--out: must end in .png"),
        (["W", "P", "-o", "gone/sheet.png"], "must be a file in a folder that exists"),
        (["W", "text.png", "-o", "text.png"], "is read or written as text.png"),
        (["W", "P", "-o", "empty"], "must be a new file or a regular one"),
        (["W", "P", "--init", "w.npz"], "--init: must be given once for each network"),
        (["resnet20_cifar", "P"], "there are 1, and --init is given 0 times"),
        (["W", "P", "--n", "0"], "--n: must be 1 or more"),
        (["W", "P", "--seed", "-1"], "--seed: must be 0 or more"),
        (["W", "P", "--resolution", "4"], "--resolution: must be 8 to 1024"),
        (["W", "P", "--mean", "0,0,0"], "are given together or not at all"),
        (["W", "P", "--device", "tpu"], "device 'tpu': cannot be used here"),
        (["W", "--data", "nowhere"], "unknown data 'nowhere'"),
    ],
)
def test_explain_bad_input_is_one_line_and_writes_nothing(
    at: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("text", encoding="utf-8")
    short = {"W": str(at / "run/weights.safetensors"), "P": str(at / "pictures")}
    typed = [short.get(word, word) for word in arguments]
    assert_refused(monkeypatch, capsys, ["explain", *typed], message)


def test_sample_keeps_what_was_named_and_draws_from_each_folder(at: Path) -> None:
    files = list_pictures(
        [str(at / "pictures/0/0.png"), str(at / "pictures"), str(at / "pictures/1")]
    )
    assert len(files) == 1 + 12 + 3
    picked = sample(files, 2, seed=0)
    assert [file.place and file.place.name for file in picked] == [
        None,
        *["pictures"] * 2,
        *["1"] * 2,
    ]
    assert sample(files, 2, seed=0) == picked


# A real network

CIFAR, RESNET = SHARED / "cifar10" / "test1000.webp", SHARED / "weights" / "resnet20_cifar10.npz"


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason="needs ../shared/data/cifar10")
@pytest.mark.skipif(not RESNET.exists(), reason="needs ../shared/data/weights")
def test_maps_of_a_trained_network_matter(tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(CIFAR).convert("RGB"))
    tiles = sheet.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    pictures = torch.from_numpy(tiles[:60].transpose(0, 3, 1, 2).copy())
    network = get_network("resnet20_cifar")
    model = network.build(10, 32)
    load_into(model, read_pretrained(str(RESNET), network, tmp_path).tensors, "weights")
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = explain(model, pictures, normalise, faithful=True)
    labels = np.load(CIFAR.parent / "labels.npz")["test1000"][:60]
    assert (found.heat.predicted.numpy() == labels).mean() > 0.8
    assert found.faithfulness is not None
    assert found.faithfulness.better("shuffled")
    assert found.faithfulness.insertion("random").sign == 1

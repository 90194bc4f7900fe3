"""Exporting networks to other runtimes' files, checking them, and asking them about pictures."""

import json
import subprocess
import sys
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nasattn.arch import parse_architecture
from nasattn.compress.narrow import Cuts
from nasattn.compress.prune import prune
from nasattn.deploy.card import Card, parse_card, read_card, weights_id
from nasattn.deploy.export import PARITY, Exam, Outcome, check_place, clear_place, export_all
from nasattn.deploy.fidelity import LIMITS, Fidelity, compare_answers
from nasattn.deploy.formats import FORMATS, PRECISIONS, Format, get_format
from nasattn.deploy.job import Job
from nasattn.deploy.load import format_of, read_exported
from nasattn.deploy.onnx_model import stamp
from nasattn.deploy.session import ExportedSession
from nasattn.errors import (
    EvaluationError,
    NasattnError,
    RuntimeMissingError,
    StudyError,
    UnknownNameError,
    WeightsError,
)
from nasattn.model import build_model
from nasattn.runtimes import torchscript
from nasattn.runtimes.table import RUNTIMES
from nasattn.tensor_file import write_tensors
from nasattn.train.metrics import Share
from nasattn.train.recipe import Recipe
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn
from tests.test_evaluate import TINY

HOSTILE = ("a, \"b\" 'c'", "zwei\nZeilen\x1b[31m", "猫🐈", "; DROP TABLE=classes\\", "  ")
RESOLUTION = 8
QUICK = [("onnx", "float32"), ("onnx", "float16"), ("onnx", "int8")]
LATER = [
    (name, precision)
    for name, row in FORMATS.items()
    for precision in row.writers
    if (name, precision) not in QUICK
]


def skip_if_missing(form: Format, precision: str) -> None:
    try:
        form.check(precision)
    except NasattnError as e:
        pytest.skip(str(e))


def tiny(classes: int = len(HOSTILE)) -> nn.Module:
    """A network whose batch norms have seen pictures: its logits have some range."""
    torch.manual_seed(0)
    model = build_model(TINY, classes)
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(32, 3, RESOLUTION, RESOLUTION))
    return model.eval()


def card_of(model: nn.Module, classes: tuple[str, ...] = HOSTILE, **changes: Any) -> Card:
    fields: dict[str, Any] = {
        "name": "tiny net/1",
        "network_id": TINY.arch_id,
        "arch": TINY.model_dump(mode="json"),
        "classes": classes,
        "resolution": RESOLUTION,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.25, 0.75),
        "weights": weights_id(model),
        "versions": {"torch": torch.__version__},
    }
    return Card(**fields | changes)


def job_of(model: nn.Module, **changes: Any) -> Job:
    x = torch.randn(32, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1))
    return Job(model, x[:1], x, card_of(model, **changes))


def exam_of(job: Job, n: int = 20) -> Exam:
    x = torch.randn(n, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(2))
    return Exam.of(job, x, torch.arange(n) % len(HOSTILE), {"data": "noise"})


def export(form: str, precision: str, folder: Path, model: nn.Module | None = None) -> Outcome:
    job = job_of(model or tiny())
    (outcome,) = export_all(job, [(get_format(form), precision)], exam_of(job), folder)
    return outcome


def first(outcome: Outcome) -> str:
    return next(iter(outcome.files))


# Cards


def test_a_card_is_read_back_with_hostile_names(tmp_path: Path) -> None:
    card = card_of(tiny())
    file = tmp_path / "card.json"
    file.write_text(card.to_json(), encoding="utf-8")
    assert read_card(file) == card
    assert read_card(file).classes == HOSTILE
    assert card.shape == [1, 3, 8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["one"]}, "classes"),
        ({"classes": ["one", ""]}, "classes.1"),
        ({"resolution": 10**9}, "resolution"),
        ({"std": [0.5, 0.0, 0.5]}, "std.1"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"format": "other"}, "format"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_a_card_that_is_not_well_formed_is_refused(changes: dict[str, Any], message: str) -> None:
    data = card_of(tiny()).model_dump(mode="json") | changes
    with pytest.raises(WeightsError, match=f"card.json: .*{message}|card.json: {message}"):
        parse_card(data, "card.json")


def test_weights_id_tells_weights_apart() -> None:
    model = tiny()
    before = weights_id(model)
    assert before == weights_id(tiny())
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert weights_id(model) != before


# Fidelity


def test_compare_answers_by_hand() -> None:
    expected = torch.tensor([[0.0, 10.0], [4.0, 0.0], [2.0, 1.0]])
    found = torch.tensor([[0.0, 10.0], [4.0, 0.5], [1.0, 1.5]])
    one = compare_answers(expected, found, torch.tensor([1, 1, 0]))
    assert one.max_diff == pytest.approx(1.0 / 10.0)  # 2 -> 1, of a range of 0 to 10
    assert (one.agree, one.top1, one.eager_top1) == (Share(2, 3), Share(1, 3), Share(2, 3))


@pytest.mark.parametrize(
    ("precision", "max_diff", "agree", "fault"),
    [
        ("float32", 1e-3, 200, ""),
        ("float32", 1.1e-3, 200, "allowed is 0.001 in float32"),
        ("float32", 1e-6, 199, "199 of 200 pictures get the same class, float32 needs 100 %"),
        ("float16", 1e-2, 198, ""),
        ("float16", 1e-3, 197, "float16 needs 99 %"),
        ("int8", 0.3, 190, ""),
        ("int8", 0.3, 189, "int8 needs 95 %"),
        ("int8", float("nan"), 200, "logits differ by nan"),
    ],
)
def test_a_fault_is_what_breaks_a_limit(
    precision: str, max_diff: float, agree: int, fault: str
) -> None:
    n = 200
    one = Fidelity(max_diff, Share(agree, n), Share(100, n), Share(100, n))
    assert one.fault(precision) == "" if not fault else fault in one.fault(precision)


def test_every_precision_has_a_limit() -> None:
    assert set(LIMITS) == set(PRECISIONS)
    for row in FORMATS.values():
        assert set(row.writers) <= set(PRECISIONS)
        assert "float32" in row.writers
        assert row.runtime in RUNTIMES


# Files


def check_export(form: str, precision: str, folder: Path) -> None:
    """Export a tiny network and ask its files about other pictures."""
    skip_if_missing(get_format(form), precision)
    model = tiny()
    outcome = export(form, precision, folder, model)
    assert (outcome.verdict, outcome.reason) == ("good", "")
    assert outcome.fidelity is not None
    parity = json.loads((folder / PARITY).read_text(encoding="utf-8"))
    row = parity["models"][f"{form} {precision}"]
    assert row["verdict"] == "good"
    assert row["size_bytes"] == sum((folder / f).stat().st_size for f in outcome.files)
    assert row["fidelity"]["agree"]["n"] == row["fidelity"]["top1"]["n"] == 20
    for file in outcome.files:  # whichever of them is named
        found = read_exported(folder / file)
        assert found.card == card_of(model)
        assert found.fault == ""
    x = torch.randn(3, 3, RESOLUTION, RESOLUTION)
    with found.session() as session, torch.inference_mode():
        answers = session.logits(x, len(HOSTILE))
        with pytest.raises(EvaluationError, match="gives 5 logits, must be 7"):
            session.logits(x, 7)
        expected = model(x)
    spread = float(expected.max() - expected.min())
    assert float((answers - expected).abs().max()) <= 2 * LIMITS[precision].max_diff * spread


@pytest.mark.filterwarnings("ignore")  # of converters, which are others' code
@pytest.mark.parametrize(("form", "precision"), QUICK)
def test_an_export_answers_alike_and_is_found_again(
    form: str, precision: str, tmp_path: Path
) -> None:
    check_export(form, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("form", "precision"), LATER)
def test_every_other_export_answers_alike_and_is_found_again(
    form: str, precision: str, tmp_path: Path
) -> None:
    check_export(form, precision, tmp_path)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # of torch.jit, which stays for such files
def test_torchscript_answers_alike_in_this_process(tmp_path: Path) -> None:
    model = tiny()
    files = get_format("torchscript").write(job_of(model), "float32")
    (tmp_path / "model.pt").write_bytes(files["model.pt"])
    session = torchscript.Session(tmp_path, [1, 3, RESOLUTION, RESOLUTION], 1, "cpu")
    x = torch.randn(1, 3, RESOLUTION, RESOLUTION)
    session.feed(array("f", x.flatten().tolist()))
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor([session.answer()]), model(x))


def test_an_onnx_file_needs_nothing_beside_it(tmp_path: Path) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    outcome = export("onnx", "float32", tmp_path)
    alone = tmp_path / "alone" / "model.onnx"
    alone.parent.mkdir()
    (tmp_path / first(outcome)).rename(alone)
    assert read_exported(alone).card == card_of(tiny())


def test_an_onnx_file_has_no_batch_norm_left(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    files = get_format("onnx").write(job_of(tiny()), "float32")
    model = onnx.load_from_string(files["model.onnx"])
    kinds = {node.op_type for node in model.graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds
    assert any(isinstance(m, nn.BatchNorm2d) for m in tiny().modules())


def test_int8_weights_are_bytes_and_pictures_stay_floats() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    skip_if_missing(get_format("onnx"), "int8")
    files = get_format("onnx").write(job_of(tiny()), "int8")
    graph = onnx.load_from_string(files["model.onnx"]).graph
    assert {node.op_type for node in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    kinds = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4]
    assert kinds
    assert set(kinds) == {onnx.TensorProto.INT8}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def broken(self: Format, job: Job, precision: str) -> dict[str, bytes]:
    """Another network than was asked for."""
    torch.manual_seed(5)
    other = build_model(TINY, len(HOSTILE)).eval()
    return WRITE(self, replace(job, model=other), precision)


WRITE = Format.write


def test_a_bad_model_is_kept_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    monkeypatch.setattr(Format, "write", broken)
    outcome = export("onnx", "float32", tmp_path)
    assert outcome.verdict == "bad"
    assert "logits differ by" in outcome.reason
    found = read_exported(tmp_path / first(outcome))
    assert found.fault == f"parity.json calls this model bad: {outcome.reason}"


def test_a_network_that_cannot_be_converted_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    good = export("onnx", "float32", tmp_path)

    def fails(job: Job, folder: Path) -> None:
        raise ValueError("no such\nlayer")

    row = replace(get_format("onnx"), writers={"float32": fails})
    monkeypatch.setitem(FORMATS, "onnx", row)
    outcome = export("onnx", "float32", tmp_path)
    assert (outcome.verdict, outcome.reason) == ("failed", "cannot be converted (no such)")
    assert not (tmp_path / first(good)).exists()  # an earlier one is not taken for this one


def test_a_folder_of_other_weights_is_left_alone(tmp_path: Path) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    export("onnx", "float32", tmp_path)
    card = card_of(tiny())
    check_place(tmp_path, card)
    other = card.model_copy(update={"weights": "other"})
    with pytest.raises(WeightsError, match="belongs to other weights called 'tiny net/1'"):
        check_place(tmp_path, other)
    (tmp_path / "mine.txt").touch()
    clear_place(tmp_path, other)
    check_place(tmp_path, other)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "form", "stem"),
    [
        ("a.onnx", "onnx", "a"),
        ("a.b.int8.onnx", "onnx", "a.b.int8"),
        ("a.xml", "openvino", "a"),
        ("a.bin", "openvino", "a"),
        ("a.ncnn.bin", "ncnn", "a"),
        ("a.ncnn.param", "ncnn", "a"),
        ("a.tflite", "tflite", "a"),
        ("a.pt", "torchscript", "a"),
    ],
)
def test_format_of_goes_by_the_ending(name: str, form: str, stem: str) -> None:
    assert format_of(Path(name)) == (FORMATS[form], stem)


@pytest.mark.parametrize("name", ["a", "a.pth", ".onnx", "a.json"])
def test_format_of_refuses_other_endings(name: str) -> None:
    with pytest.raises(WeightsError, match=r"must be a model: \.bin, "):
        format_of(Path(name))


def test_unknown_formats_and_precisions_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'onxx'; did you mean 'onnx'"):
        get_format("onxx")
    with pytest.raises(StudyError, match="ncnn: is not written in int8, but in float32, float16"):
        get_format("ncnn").check("int8")


# The commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with class folders of pictures, and weights trained on them."""
    place = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    for label in ("a, 'b'", 'quo"te', "猫"):
        (place / "data" / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "data" / label / f"{i}.png")
    write_tensors(place / "tiny.safetensors", tiny(3), facts_of(place / "data"))
    return place


def facts_of(data: Path, cuts: Cuts = ()) -> Facts:
    return Facts(
        name="tiny",
        arch=TINY,
        classes=("a, 'b'", 'quo"te', "猫"),
        resolution=RESOLUTION,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        data=str(data),
        seed=0,
        versions={"torch": torch.__version__},
        recipe=Recipe(epochs=1),
        recipe_id="1",
        content_hash="1",
        pruned=cuts,
    )


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASATTN_CACHE", str(place / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return place


Captured = pytest.CaptureFixture[str]


def test_export_then_predict(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    weights = str(here / "tiny.safetensors")
    status = nasattn(monkeypatch, "export", weights, "--to", "onnx", "-o", "out", "--pictures", "2")
    told = capsys.readouterr().out
    assert status == 0, told
    assert "onnx float32" in told
    assert "good" in told
    lines = [line for line in told.splitlines() if "written to" not in line and "note" not in line]
    assert max(map(len, lines)) <= 80
    names = {p.name for p in Path("out").iterdir()}
    assert {"tiny.json", "tiny.onnx", "parity.json"} <= names
    check_answers(weights, "out/tiny.onnx", here / "data", monkeypatch, capsys)
    picture = str(here / "data" / "猫" / "0.png")
    assert nasattn(monkeypatch, "predict", "out/tiny.onnx", picture, "--top", "2") == 0
    told = capsys.readouterr().out
    assert sum("." in line and "onnxruntime" not in line for line in told.splitlines()) == 2
    assert max(map(len, told.splitlines())) <= 80


def test_a_card_has_the_strides_that_the_pictures_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    stages = [{"depth": 1, "width": 8, "stride": 2} for _ in range(3)]
    plan = parse_architecture({"stem": {"width": 8}, "stages": stages})
    built = plan.at_resolution(RESOLUTION)
    assert built != plan
    Path("mine.json").write_text(plan.to_json(), encoding="utf-8")
    tensors = build_model(built, 3).state_dict()
    np.savez("mine.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    options = ["--init", "mine.npz", "--data", str(here / "data"), "--resolution", str(RESOLUTION)]
    assert nasattn(monkeypatch, "export", "mine.json", *options, "-o", "out") == 0
    card = read_card(Path("out/mine.json"))
    assert card.arch == built.model_dump(mode="json")
    assert card.network_id == built.arch_id


def check_answers(
    weights: str, file: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Both rank the classes of each picture alike."""
    capsys.readouterr()
    answers = []
    for model in (weights, file):
        assert nasattn(monkeypatch, "predict", model, str(data), "--json") == 0
        answers.append(json.loads(capsys.readouterr().out)["pictures"])
    for found in answers:
        assert len(found) == 24
        for one, expected in zip(found, answers[0], strict=True):
            assert one["picture"] == expected["picture"]
            assert [c["class"] for c in one["classes"]] == [c["class"] for c in expected["classes"]]
            assert sum(c["share"] for c in one["classes"]) == pytest.approx(1)


def check_pruned(form: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Export a pruned network's weights file and ask its file."""
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    skip_if_missing(get_format(form), "float32")
    cut = prune(tiny(3), torch.zeros(2, 3, RESOLUTION, RESOLUTION), ratio=0.5)
    facts = facts_of(here / "data", cut.record)
    write_tensors(Path("pruned.safetensors"), cut.model, facts)
    assert nasattn(monkeypatch, "export", "pruned.safetensors", "--to", form, "-o", "out") == 0
    models = json.loads(Path("out", PARITY).read_text(encoding="utf-8"))["models"]
    assert models[f"{form} float32"]["fidelity"]["agree"]["share"] == 1
    file = f"out/{next(iter(models[f'{form} float32']['files']))}"
    card = read_exported(Path(file)).card
    assert card.arch is None
    assert card.network_id == facts.network_id
    assert card.network_id.startswith(f"{TINY.arch_id}-pruned-")
    check_answers("pruned.safetensors", file, here / "data", monkeypatch, capsys)


HALVES = {
    "model.tflite": "litert: ValueError: The model is not a valid Flatbuffer buffer",
    "model.xml": "openvino: .*at offset",
    "model.bin": "openvino: Incorrect weights in bin file!",
    "model.ncnn.param": "ncnn: .*model.ncnn.param: it is damaged, or has layers",
    "model.ncnn.bin": "ncnn: .*model.ncnn.bin: it is damaged, or has layers",
    "model.mnn": "mnn: MNN cannot load model.mnn: it is damaged",
    "model.pte": "executorch: Failed to load program",
    "model.pt": "torchscript: PytorchStreamReader failed",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [form for form in FORMATS if form != "onnx"])
def test_half_a_file_is_refused_with_a_reason(form: str, tmp_path: Path) -> None:
    skip_if_missing(get_format(form), "float32")
    outcome = export(form, "float32", tmp_path)
    for own, name in get_format(form).file_names("tiny_net_1", "float32").items():
        file = tmp_path / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(EvaluationError, match=rf"{name}: cannot be run \({HALVES[own]}"):
            read_exported(file).session()
        file.write_bytes(whole)
    assert read_exported(tmp_path / first(outcome)).fault == ""


@pytest.mark.filterwarnings("ignore")  # of the converter
def test_ncnn_runs_the_shortcut_that_pads(tmp_path: Path) -> None:
    """Option A: every other pixel, of which there is an odd number here."""
    skip_if_missing(get_format("ncnn"), "float32")
    stage = {"block": "basic", "depth": 1, "shortcut": "pad"}
    stages = [stage | {"width": 8}, stage | {"width": 12, "stride": 2}]
    model = build_model(parse_architecture({"stem": {"width": 8}, "stages": stages}), 5).eval()
    x = torch.randn(1, 3, 11, 11)
    files = get_format("ncnn").write(replace(job_of(model), x=x), "float32")
    with ExportedSession("ncnn", files, [1, 3, 11, 11]) as session, torch.inference_mode():
        torch.testing.assert_close(session.logits(x, 5), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of converters, which are others' code
def test_a_pruned_network_is_exported_as_no_architecture(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    check_pruned("onnx", here, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [form for form in FORMATS if form != "onnx"])
def test_a_pruned_network_is_exported_to_every_other_format(
    form: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    check_pruned(form, here, monkeypatch, capsys)


def test_predict_shows_a_class_name_that_would_steer_the_terminal(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    export("onnx", "float32", Path())
    picture = str(here / "data" / "猫" / "0.png")
    assert nasattn(monkeypatch, "predict", "tiny_net_1.onnx", picture) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert r"zwei\nZeilen\x1b" in told


@pytest.mark.filterwarnings("ignore")  # of the converter
def test_export_says_which_precisions_a_format_lacks(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    skip_if_missing(get_format("mnn"), "float32")
    weights = str(here / "tiny.safetensors")
    arguments = ("export", weights, "--to", "mnn", "--precision", "float32,int8", "-o", "out")
    assert nasattn(monkeypatch, *arguments) == 0
    assert "not written, there is no such thing: mnn int8" in capsys.readouterr().out
    assert not Path("out/tiny.int8.mnn").exists()


def test_a_bad_export_ends_with_status_1(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def other(self: Format, job: Job, precision: str) -> dict[str, bytes]:
        torch.manual_seed(5)
        return WRITE(self, replace(job, model=build_model(TINY, 3).eval()), precision)

    monkeypatch.setattr(Format, "write", other)
    skip_if_missing(get_format("onnx"), "float32")
    weights = str(here / "tiny.safetensors")
    assert nasattn(monkeypatch, "export", weights, "--to", "onnx", "-o", "out") == 1
    assert "onnx float32 is bad: logits differ by" in capsys.readouterr().out
    assert Path("out/tiny.onnx").is_file()
    parity = json.loads(Path("out/parity.json").read_text(encoding="utf-8"))
    assert parity["models"]["onnx float32"]["verdict"] == "bad"
    picture = str(here / "data" / "猫" / "0.png")
    assert nasattn(monkeypatch, "predict", "out/tiny.onnx", picture) == 0
    assert "parity.json calls this model bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{w}", "--to", "onxx"], "unknown format 'onxx'"),
        (["export", "{w}", "--to", ","], "--to: names nothing"),
        (["export", "{w}", "--precision", "int4"], "unknown precision 'int4'"),
        (["export", "{w}", "--to", "ncnn", "--precision", "int8"], "not written in int8"),
        (["export", "{w}", "--to", "torchscript", "--pictures", "0"], "--pictures: must be 1"),
        (["export", "{w}", "--to", "torchscript", "--resolution", "9"], "is for 8 pixels"),
        (["export", "no.safetensors", "--to", "torchscript"], "there is no such file"),
        (["export", "{w}", "--to", "torchscript", "-o", "/dev/null/x"], "cannot take results"),
        (["export", "{w}", "--to", "torchscript", "--data", "digits"], "knows 3 classes, digits"),
        (["predict", "{w}", "no.png"], "no.png: No such file"),
        (["predict", "{w}", "{w}"], "tiny.safetensors: not a picture that we know"),
        (["predict", "{w}", "{d}", "--top", "0"], "--top: must be 1 or more"),
        (["predict", "no.onnx", "{d}"], "no.onnx: cannot be read (No such file"),
        (["predict", "no.mp3", "{d}"], "no.mp3: must be a model"),
        (["setup", "onnx"], "unknown environment 'onnx'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    own = {"{w}": str(here / "tiny.safetensors"), "{d}": str(here / "data")}
    nasattn(monkeypatch, "predict", own["{w}"], own["{d}"])  # makes the cache
    capsys.readouterr()
    monkeypatch.setenv("NASATTN_CACHE", str(here / "cache"))
    assert_refused(monkeypatch, capsys, [own.get(a, a) for a in arguments], message)


def cut(folder: Path) -> None:
    file = folder / "tiny_net_1.onnx"
    file.write_bytes(file.read_bytes()[:-200])


def text(folder: Path) -> None:
    (folder / "tiny_net_1.onnx").write_text("no model at all", encoding="utf-8")


def other_classes(folder: Path) -> None:
    stamp(folder / "tiny_net_1.onnx", card_of(tiny(), classes=("one", "two")))


def test_a_file_that_has_changed_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Other weights in a whole file: no runtime can tell."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    skip_if_missing(get_format("onnx"), "float32")
    export("onnx", "float32", Path())
    model = onnx.load("tiny_net_1.onnx")
    weight = model.graph.initializer[0]
    weight.raw_data = weight.raw_data[::-1]
    onnx.save(model, "tiny_net_1.onnx")
    note = "tiny_net_1.onnx has changed since its answers were checked"
    picture = str(here / "data" / "猫" / "0.png")
    assert nasattn(monkeypatch, "predict", "tiny_net_1.onnx", picture) == 0
    assert f"note: {note}" in capsys.readouterr().out
    assert nasattn(monkeypatch, "predict", "tiny_net_1.onnx", picture, "--json") == 0
    assert json.loads(capsys.readouterr().out)["note"] == note


def no_graph(folder: Path) -> None:
    import onnx

    onnx.save(onnx.ModelProto(), folder / "tiny_net_1.onnx")
    stamp(folder / "tiny_net_1.onnx", card_of(tiny()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "tiny_net_1.onnx: not an ONNX file, or a damaged one"),
        (text, "tiny_net_1.onnx: not an ONNX file, or a damaged one"),
        (other_classes, "tiny_net_1.onnx: the network gives 5 logits, must be 2, one a class"),
        (no_graph, "tiny_net_1.onnx: cannot be run (onnxruntime: "),
    ],
)
def test_a_damaged_onnx_file_is_one_line(
    damage: Callable[[Path], None],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    skip_if_missing(get_format("onnx"), "float32")
    export("onnx", "float32", Path())
    damage(Path())
    arguments = ["predict", "tiny_net_1.onnx", str(here / "data")]
    assert_refused(monkeypatch, capsys, arguments, message)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "net.int8.tflite: has no net.json beside it"),
        ("{", "net.json: is not valid JSON"),
        ("[]", "net.json: "),
    ],
)
def test_a_model_without_its_card_is_one_line(
    card: str | None, message: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    Path("net.int8.tflite").write_bytes(b"TFL3")
    if card is not None:
        Path("net.json").write_text(card, encoding="utf-8")
    arguments = ["predict", "net.int8.tflite", str(here / "data")]
    assert_refused(monkeypatch, capsys, arguments, message)


# Environments of converters


def test_setup_makes_the_environment_that_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    calls = []

    def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert nasattn(monkeypatch, "setup", "tflite") == 0
    row = RUNTIMES["litert"]
    assert calls[0][1:] == ["-m", "venv", str(tmp_path / "nasattn-litert")]
    assert calls[1][0] == row.own_python
    assert calls[1][-2:] == [row.program, f"torch=={torch.__version__.split('+')[0]}"]
    assert "nasattn export WEIGHTS --to tflite" in capsys.readouterr().out


def test_a_converter_that_is_not_there_says_how_to_set_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(
        RuntimeMissingError, match=r"litert-torch==.*: nasattn setup tflite, or pip"
    ):
        get_format("tflite").check("float32")


def test_setup_that_fails_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "nasattn-litert" / "bin").mkdir(parents=True, exist_ok=True)
        failed = "pip" in command
        words = "ERROR: No matching distribution found for litert-torch\nbye\n" if failed else ""
        return subprocess.CompletedProcess(command, int(failed), "", words)

    monkeypatch.setattr(subprocess, "run", run)
    assert nasattn(monkeypatch, "setup", "tflite") == 2
    error = capsys.readouterr().err
    assert error == (
        "nasattn: -m pip install: ERROR: No matching distribution found for litert-torch\n"
    )
    assert list(tmp_path.iterdir()) == []

"""`nasattn optimize` and `nasattn run`: steps side by side, and the whole road by one file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from nasattn.cli.train import usual
from nasattn.errors import NasattnError, StudyError
from nasattn.library import shipped
from nasattn.references import REFERENCES
from nasattn.road import load_pipeline, load_road, put, read_changes
from nasattn.spec import parse
from nasattn.steps import STEPS, Export, Pipeline, Prune
from nasattn.tensor_file import TensorFile, read_tensors
from nasattn.train.recipe import RECIPES
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn
from tests.test_cli import TINY_SPACE
from tests.test_cli_train import TINY, TRAIN, WEIGHTS, equal, stop_after, tensors

ONE = {"epochs": 1, "train_size": 64}
ONE_EXPORT = {"step": "export", "to": ["torchscript"], "precision": ["float32"]}
STEP_LIST: list[Any] = [
    {"step": "prune", "ratio": 0.25, "recipe": {"epochs": 2, "train_size": 64}},
    {"step": "distil", "recipe": ONE},
    {"step": "fold"},
    {"step": "export", "to": ["torchscript"], "precision": ["float32"]},
]


def write_steps(steps: list[Any], name: str = "steps.yaml") -> str:
    Path(name).write_text(yaml.safe_dump({"optimize": steps}), encoding="utf-8")
    return name


@pytest.fixture
def trained(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """A tiny network that was trained on a handful of digits."""
    Path("tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    assert nasattn(monkeypatch, *TRAIN) == 0
    capsys.readouterr()
    return str(WEIGHTS)


def optimize(trained: str, steps: str) -> list[str]:
    return ["optimize", trained, "--steps", steps, "--runtime", "torch", "-o", "opt"]


@pytest.mark.slow
def test_optimize_sets_every_step_beside_the_others(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    command = optimize(trained, write_steps(STEP_LIST))
    assert nasattn(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert [f"step {i} of 4: {step['step']}" in out for i, step in enumerate(STEP_LIST, 1)]
    end = out[out.index("after step") :]
    assert max(map(len, end.splitlines())) <= 80
    report = json.loads(Path("opt/optimize.json").read_text())
    names = ["start", "1-prune", "2-distil", "3-fold", "4-torchscript float32"]
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == names
    assert all(name in end for name in names)
    assert all(row["latency"]["relative"] > 0 and row["top1"]["n"] == 145 for row in rows.values())
    assert rows["1-prune"]["params"] < rows["start"]["params"]
    assert rows["2-distil"]["params"] == rows["1-prune"]["params"]
    assert rows["3-fold"]["macs"] == rows["2-distil"]["macs"]
    # A norm of C channels has 2 C parameters, the convolution's new bias C.
    pruned = read_tensors(Path("opt/2-distil/weights.safetensors"), Facts).build()
    widths = sum(part.num_features for part in pruned.modules() if isinstance(part, nn.BatchNorm2d))
    assert rows["2-distil"]["params"] - rows["3-fold"]["params"] == widths
    # Folding and exporting change no answer.
    assert len({rows[name]["top1"]["right"] for name in names[2:]}) == 1
    assert report["steps"][0]["ratio"] == 0.25
    assert "ask it: nasattn predict opt/4-export/tiny.pt PICTURES" in out
    assert nasattn(monkeypatch, "evaluate", "opt/3-fold/weights.safetensors") == 0
    found = 100 * rows["3-fold"]["top1"]["right"] / 145
    assert f"top1 {found:.2f} %" in capsys.readouterr().out
    # The same command again trains and exports nothing.
    before = {path: path.stat().st_mtime_ns for path in Path("opt").rglob("*.safetensors")}
    assert nasattn(monkeypatch, *command) == 0
    again = capsys.readouterr().out
    assert "pruned already" in again
    assert "trained already" in again
    assert "exported already" in again
    changed = {path for path, then in before.items() if path.stat().st_mtime_ns != then}
    assert changed <= {Path("opt/3-fold/weights.safetensors")}
    # Other settings do not replace what is there.
    other = [STEP_LIST[0] | {"ratio": 0.5}]
    assert nasattn(monkeypatch, *optimize(trained, write_steps(other))) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_step_goes_on_to_the_same_weights(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [{"step": "distil", "recipe": ONE | {"epochs": 3}}]
    command = optimize(trained, write_steps(steps))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert nasattn(monkeypatch, *command) == 130
    assert "stopped, 2 epochs are kept; to go on: nasattn optimize" in capsys.readouterr().out
    assert nasattn(monkeypatch, *command) == 0
    assert "going on after epoch 2" in capsys.readouterr().out
    assert nasattn(monkeypatch, *command[:-1], "whole") == 0
    name = "1-distil/weights.safetensors"
    assert equal(tensors(Path("opt") / name), tensors(Path("whole") / name))


def test_train_goes_on_from_a_weights_file(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["train", trained, "--recipe", "finetune", "--epochs", "1", "--train-size", "64"]
    assert nasattn(monkeypatch, *more) == 0
    out = capsys.readouterr().out
    assert "matched by name" in out
    found = read_tensors(Path("runs/tiny-digits-finetune/weights.safetensors"), Facts).facts
    first = read_tensors(Path(trained), Facts).facts
    assert (found.name, found.data, found.resolution) == (first.name, "digits", 8)
    assert found.init.startswith("weights.safetensors ")
    assert found.normalise == first.normalise  # though by other pictures it would be another one


@pytest.mark.slow
def test_a_folded_network_is_not_trained_on(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *optimize(trained, write_steps(["fold"]))) == 0
    capsys.readouterr()
    folded = "opt/1-fold/weights.safetensors"
    facts = read_tensors(Path(folded), Facts).facts
    assert facts.folded
    assert facts.network_id.endswith("-folded")
    assert_refused(monkeypatch, capsys, ["train", folded], f"{folded}: is folded; train or prune")


@pytest.mark.slow
def test_fold_and_export_stay_unless_asked_otherwise(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = optimize(trained, write_steps(["fold", "fold", ONE_EXPORT]))
    assert nasattn(monkeypatch, *command) == 0
    one, two = (read_tensors(Path(f"opt/{i}-fold") / WEIGHTS.name, Facts).facts for i in (1, 2))
    assert one.folded == two.folded != ()
    before = Path("opt/1-fold/weights.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    # Other pictures are asked anew, so that the table's rows are all of as many.
    assert nasattn(monkeypatch, *command, "--pictures", "50") == 0
    out = capsys.readouterr().out
    assert out.count("folded already") == 2
    assert "exported already" not in out
    assert Path("opt/1-fold/weights.safetensors").stat().st_mtime_ns == before
    report = json.loads(Path("opt/optimize.json").read_text())
    assert len({row["top1"]["n"] for row in report["rows"]}) == 1
    # Of other weights, it is not replaced.
    assert nasattn(monkeypatch, *TRAIN, "--seed", "1", "-o", "other", "--overwrite") == 0
    assert nasattn(monkeypatch, *optimize("other/weights.safetensors", "steps.yaml")) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_a_librarys_network_is_not_to_be_pruned_later(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    name = next(iter(REFERENCES))
    command = optimize(name, write_steps(["transfer", {"step": "prune", "ratio": 0.2}]))
    command += ["--init", "x.npz", "--data", "digits"]
    assert_refused(monkeypatch, capsys, command, f"{name}: is a library's network")


def test_usual_resolution_is_the_files(trained: str) -> None:
    file = read_tensors(Path(trained), Facts)
    names = tuple(map(str, range(1000)))
    facts = file.facts.model_copy(update={"resolution": 224, "classes": names})
    found = usual(facts.network, TensorFile(facts, {}, file.path))
    assert found == {"data": "digits", "resolution": 224}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["prun"], "optimize.0: unknown step 'prun'; did you mean 'prune'?"),
        ([{"step": "prune"}], "prune: needs one of ratio, target_macs and target_params"),
        ([{"step": "prune", "rato": 1}], "unknown field 'rato'; did you mean 'ratio'?"),
        ([{"ratio": 1}], "must be a step such as {step: prune, ratio: 0.3}"),
        (["fold", "distil"], "optimize.1: distil cannot follow fold"),
        (["export", "transfer"], "optimize.1: transfer comes first or not at all"),
        ([], "optimize: has no step; known are transfer, distil, prune, qat, fold, export"),
        ([{"step": "prune", "ratio": 0.1, "importance": "l3"}], "unknown importance 'l3'"),
        ([{"step": "export", "to": ["onx"]}], "unknown format 'onx'; did you mean 'onnx'?"),
        ([{"step": "distil", "teacher": ["no.safetensors"]}], "teacher no.safetensors: there is"),
        ([{"step": "distil", "recipe": {"epoch": 2}}], "unknown field 'recipe.epoch'"),
        ([{"step": "distil", "weight": 3}], "weight of distillation: must be from 0 to 1, is 3"),
        ([ONE_EXPORT, {"step": "prune", "ratio": 1.5}], "ratio: must be above 0, at most 0.95"),
        (["transfer", "distil"], "optimize.1: teacher start knows other pictures"),
        (["transfer"], "--data: names the pictures that transfer is to"),
    ],
)
def test_optimize_refuses_before_anything_is_done(
    trained: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: list[Any],
    message: str,
) -> None:
    pytest.importorskip("torch_pruning")
    assert_refused(monkeypatch, capsys, optimize(trained, write_steps(steps)), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.safetensors"], "no.safetensors: there is no such file"),
        (["lam"], "lam: is no .safetensors file; a network needs --init"),
        (["lam", "--init", "x.npz"], "lam: a network by name begins with the step transfer"),
        ([str(WEIGHTS), "--init", "x.npz"], "has weights of its own"),
        ([str(WEIGHTS), "--pictures", "0"], "--pictures: must be 1 or more, is 0"),
        ([str(WEIGHTS), "--runtime", "onnx"], "unknown runtime 'onnx'"),
        ([str(WEIGHTS), "--runtime", "torch:batch=2"], "one picture at a time, batch is 2"),
        ([str(WEIGHTS), "--resolution", "16"], "--resolution: is for steps that train"),
        ([str(WEIGHTS), "--device", "cuda:99"], "cuda"),
        ([str(WEIGHTS), "-o", "tiny.json"], "tiny.json is not a folder"),
        ([str(WEIGHTS), "--steps", "lam"], "unknown field 'base'"),
    ],
)
def test_optimize_refuses_bad_options(
    trained: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    steps = [] if "--steps" in arguments else ["--steps", write_steps(["fold"])]
    assert_refused(monkeypatch, capsys, ["optimize", *arguments, *steps], message)


# ---- Files ----


@pytest.mark.parametrize("name", ["optimize", "own_pictures"])
def test_shipped_pipelines_are_read(name: str) -> None:
    assert load_pipeline(name).optimize
    assert name in shipped("studies")


def test_every_step_that_trains_has_its_recipe_changed_by_field() -> None:
    for name, cls in STEPS.items():
        if "recipe" not in cls.model_fields:
            continue
        fields = {"step": name, "recipe": {"epochs": 17}} | ({"ratio": 0.5} if cls is Prune else {})
        (step,) = parse(Pipeline, {"optimize": [fields]}, "x", StudyError).optimize
        usual = cls.model_fields["recipe"].default
        assert step.plain()["recipe"]["epochs"] == 17
        assert step.plain()["recipe"]["name"] == usual
        assert usual in RECIPES


def test_steps_read_amounts() -> None:
    data = {"optimize": [{"step": "prune", "target_macs": "1.5M"}, "export"]}
    prune, export = parse(Pipeline, data, "x", StudyError).optimize
    assert isinstance(prune, Prune)
    assert prune.target_macs == 1_500_000
    assert isinstance(export, Export)
    with pytest.raises(StudyError, match="must be an amount like 300k, 40M or 1\\.5G, is '3Q'"):
        parse(Pipeline, {"optimize": [{"step": "prune", "target_macs": "3Q"}]}, "x", StudyError)


def test_load_road_takes_changes_by_dotted_path() -> None:
    changes = read_changes(
        ("search.n_trials=3", "final.seeds=1", "optimize.0.ratio=0.5", "search.recipe.epochs=2")
    )
    road = load_road("own_pictures", changes)
    assert (road.search.n_trials, road.final.seeds, road.search.recipe.epochs) == (3, 1, 2)
    (prune, *_) = road.optimize
    assert isinstance(prune, Prune)
    assert prune.ratio == 0.5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("final.seeds",), "--set: must be like final.seeds=1, is 'final.seeds'"),
        (("final.seed=1",), "--set: unknown field 'final.seed'; did you mean 'seeds'?"),
        (("optimize.9.ratio=1",), "--set: there is no '9' in 'optimize.9.ratio'"),
        (("optimize.x=1",), "--set: there is no 'x' in 'optimize.x'"),
        (("description.a.b=1",), "--set: there is no"),
        (("final.seeds=101",), "final.seeds: must be less than or equal to 100"),
        (("final.weight=0.5",), "final: weight: means nothing without teacher"),
        (("final.recipe=slow",), "unknown recipe 'slow'"),
        (("search.n_trials=2020-13-45",), "search.n_trials: must be a valid integer"),
        (("search.n_trials=0",), "search.n_trials: must be greater than 0"),
    ],
)
def test_load_road_refuses_changes_that_do_not_fit(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        load_road("own_pictures", read_changes(texts))


def test_put_changes_a_recipe_that_is_only_named() -> None:
    data: dict[str, Any] = {"search": {"recipe": "quick"}}
    put(data, "search.recipe.epochs", 2)
    assert data == {"search": {"recipe": {"name": "quick", "epochs": 2}}}


def test_put_spells_out_names_and_parts_what_an_alias_shares() -> None:
    shared = {"name": "finetune"}
    steps = ["distil", {"step": "qat", "recipe": shared}, {"step": "prune", "recipe": shared}]
    data: dict[str, Any] = {"optimize": steps}
    put(data, "optimize.0.recipe.epochs", 3)
    put(data, "optimize.1.recipe.epochs", 4)
    assert data["optimize"] == [
        {"step": "distil", "recipe": {"epochs": 3}},
        {"step": "qat", "recipe": {"name": "finetune", "epochs": 4}},
        {"step": "prune", "recipe": {"name": "finetune"}},
    ]


def test_load_road_says_what_is_no_road() -> None:
    with pytest.raises(StudyError, match="field 'search' is missing: this is no road"):
        load_road("mobile_quick", {})


@pytest.mark.slow
def test_the_whole_road_on_a_folder_of_own_pictures(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip("onnxruntime")
    digits = load_digits(n_class=3)
    Path("tiny.yaml").write_text(TINY_SPACE, encoding="utf-8")
    for i, (image, label) in enumerate(zip(digits.images[:240], digits.target, strict=False)):
        folder = Path("pictures") / f"digit [{label}]"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).resize((20, 20)).save(folder / f"{i}.png")
    small = [
        "search.space=tiny.yaml",
        "search.n_trials=3",
        "search.resolution=8",
        "search.recipe.epochs=1",
        "search.recipe.train_size=60",
        "search.finalists=1",
        "search.n_seeds=1",
        "final.seeds=1",
        "final.epochs=2",
        *(f"optimize.{i}.recipe.epochs=1" for i in range(3)),
        *(f"optimize.{i}.recipe.train_size=60" for i in range(3)),
    ]
    command = ["run", "own_pictures", "--data", "pictures", "-o", "road"]
    command += [word for text in small for word in ("--set", text)]
    assert nasattn(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    for i, part in enumerate(("search", "final", "optimize"), 1):
        assert f" {i} of 3: {part} " in out
    report = json.loads(Path("road/optimize/optimize.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names[:4] == ["start", "1-prune", "2-distil", "3-qat"]
    assert names[4:] == ["4-onnx float32", "4-onnx int8"]
    model = report["rows"][-1]["path"]
    assert nasattn(monkeypatch, "predict", model, "pictures/digit [0]/0.png", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)["pictures"]
    assert {one["class"] for one in answer["classes"]} <= {f"digit [{i}]" for i in range(3)}
    # The same line again finds everything done, and the test split stays closed.
    assert nasattn(monkeypatch, *command) == 0
    again = capsys.readouterr().out
    assert "the test split stays closed" in again
    assert again.count("already") >= 5
    torch.set_num_threads(1)

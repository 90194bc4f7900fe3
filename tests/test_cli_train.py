"""`nasattn train` and `nasattn evaluate`, as a user types them."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.cli.folders import check_target, one_writer, write_result
from nasattn.cli.machine import MOST_PARAMS, check_params, plain_memory_errors
from nasattn.data import load_data
from nasattn.errors import ArchitectureError, EvaluationError, StudyError
from nasattn.evaluate import Setting
from nasattn.evaluate import evaluate as evaluate_arch
from nasattn.model import build_model
from nasattn.objectives import get_objective
from nasattn.tensor_file import TensorFile, read_tensors, write_tensors
from nasattn.train.recipe import RECIPES
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn

TINY = {
    "stem": {"width": 8},
    "stages": [{"depth": 1, "width": 8}, {"depth": 1, "width": 16, "stride": 2}],
    "head": {"dropout": 0.2},
}
# A network on a handful of digits: a second or two.
TRAIN = ["train", "tiny.json", "--resolution", "8", "--train-size", "64", "--epochs", "3"]
WEIGHTS = Path("runs/tiny-digits/weights.safetensors")


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    """Every test works in a folder of its own."""
    Path("tiny.json").write_text(json.dumps(TINY), encoding="utf-8")


def read_weights(path: Path) -> TensorFile[Facts]:
    return read_tensors(path, Facts)


def tensors(path: Path) -> dict[str, Tensor]:
    return read_weights(path).tensors


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_train_ends_in_weights_and_evaluate_reads_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    out = capsys.readouterr().out
    assert "data digits: 64 train, 145 val-search pictures of 8x8, 10 classes" in out
    assert "recipe quick, 3 epochs, seed 0, cpu, 1 thread" in out
    assert [f" {i}/3 " in out for i in (1, 2, 3)] == [True] * 3
    assert out.rstrip().endswith(f"measure it: nasattn evaluate {WEIGHTS}")
    assert sorted(path.name for path in WEIGHTS.parent.iterdir()) == [
        ".lock",
        "curve.csv",
        WEIGHTS.name,
    ]
    facts = read_weights(WEIGHTS).facts
    assert (facts.name, facts.data, facts.resolution, facts.seed) == ("tiny", "digits", 8, 0)
    rows = list(csv.DictReader((WEIGHTS.parent / "curve.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["top1"]) == pytest.approx(facts.metrics["top1_val_search"], abs=1e-6)
    # What it is said to reach on val-select is what evaluate finds there.
    arguments = ["evaluate", str(WEIGHTS), "--json", "found.json", "--csv", "found.csv"]
    assert nasattn(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert "data digits: 145 val-select pictures of 8x8, 10 classes" in shown
    assert "sealed" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    found = json.loads(Path("found.json").read_text())
    assert found["top1"]["share"] == facts.metrics["top1_val_select"]
    assert f"top1 {100 * found['top1']['share']:.2f} %" in shown
    assert f"top5 {100 * found['top5']['share']:.2f} %" in shown
    confusion = np.array(found["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.trace() == found["top1"]["right"]
    assert [row["n"] for row in found["classes"]] == confusion.sum(1).tolist()
    table = list(csv.reader(Path("found.csv").read_text().splitlines()))
    assert table[0] == ["class", *map(str, range(10))]
    assert np.array_equal(np.array(table[1:])[:, 1:].astype(int), confusion)


def test_train_gives_the_network_that_a_search_would_give(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert nasattn(monkeypatch, *TRAIN, "--seed", "5") == 0
    recipe = RECIPES["quick"].model_copy(update={"epochs": 3, "train_size": 64})
    data = load_data("digits", 8, cache_dir=cache)
    arch = parse_architecture(TINY).at_resolution(8)
    setting = Setting(data, recipe, (get_objective("top1"),), seed=5)
    found = evaluate_arch(arch, setting).values["top1"]
    assert read_weights(WEIGHTS).facts.metrics["top1_val_search"] == found


def test_evaluate_opens_the_test_split_only_when_told_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sealed(*_: object, **__: object) -> None:
        pytest.fail("the test split was opened")

    with monkeypatch.context() as patch:
        patch.setattr("nasattn.cli.evaluate.open_test", sealed)
        assert nasattn(monkeypatch, *TRAIN) == 0
        for split in ("val_search", "val-search", "val_select", "val-select"):
            assert nasattn(monkeypatch, "evaluate", str(WEIGHTS), "--split", split) == 0
    # train's line and two of evaluate
    assert capsys.readouterr().out.count("145 val-search pictures of 8x8, 10 classes\n") == 3
    assert nasattn(monkeypatch, "evaluate", str(WEIGHTS), "--split", "test") == 0
    out = capsys.readouterr().out
    assert "the sealed test split is opened" in out
    assert "data digits: 359 test pictures" in out


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As if the user typed Ctrl-C when an epoch's line has appeared."""
    from nasattn.cli.epochs import EpochLines

    show = EpochLines.show

    def show_and_stop(self: EpochLines, done: int, *figures: Any) -> None:
        show(self, done, *figures)
        if done == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(EpochLines, "show", show_and_stop)


def test_a_stopped_training_goes_on_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN, "-o", "whole") == 0
    for number in (1, 2):
        with monkeypatch.context() as patch:
            stop_after(patch, number)
            assert nasattn(monkeypatch, *TRAIN) == 130
        kept = "1 epoch is kept" if number == 1 else "2 epochs are kept"
        assert f"stopped, {kept}; to go on: nasattn" in capsys.readouterr().out
        assert not WEIGHTS.exists()
    # Another training does not go on from there, nor does it drop what is there.
    assert nasattn(monkeypatch, *TRAIN, "--seed", "1") == 2
    assert "checkpoint.pt: is of another training (seed: 0 then, 1 now)" in capsys.readouterr().err
    assert nasattn(monkeypatch, *TRAIN) == 0
    out = capsys.readouterr().out
    assert "going on after epoch 2" in out
    assert " 3/3 " in out
    assert " 2/3 " not in out
    assert equal(tensors(WEIGHTS), tensors(Path("whole/weights.safetensors")))
    assert sorted(path.name for path in WEIGHTS.parent.iterdir()) == [
        ".lock",
        "curve.csv",
        WEIGHTS.name,
    ]


def test_overwrite_goes_on_too_when_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    whole = tensors(WEIGHTS)
    assert nasattn(monkeypatch, *TRAIN) == 0
    assert "trained already with these settings" in capsys.readouterr().out
    assert nasattn(monkeypatch, *TRAIN, "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "is of another training (seed: 0 then, 1 now)" in error
    assert "-o takes another folder, --overwrite replaces it" in error
    assert equal(tensors(WEIGHTS), whole)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert nasattn(monkeypatch, *TRAIN, "--seed", "1", "--overwrite") == 130
    assert not WEIGHTS.exists()
    assert nasattn(monkeypatch, *TRAIN, "--seed", "1", "--overwrite") == 0
    assert "going on after epoch 2" in capsys.readouterr().out
    assert read_weights(WEIGHTS).facts.seed == 1
    assert nasattn(monkeypatch, *TRAIN, "--overwrite") == 0
    assert equal(tensors(WEIGHTS), whole)


def test_init_begins_with_another_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    np.savez("two.npz", x_train=x, y_train=np.arange(40) % 2, classes=np.array(["[b]a", "b"]))
    capsys.readouterr()
    arguments = ["train", "tiny.json", "--data", "two.npz", "--resolution", "8", "--epochs", "1"]
    assert nasattn(monkeypatch, *arguments, "--init", str(WEIGHTS), "-o", "two") == 0
    out = capsys.readouterr().out
    assert "tensors, matched by name" in out
    assert "of another number of classes, left fresh: classifier.1.weight, classifier.1.b" in out
    facts = read_weights(Path("two/weights.safetensors")).facts
    assert facts.init.startswith("weights.safetensors ")
    assert nasattn(monkeypatch, "evaluate", "two/weights.safetensors") == 0
    out = capsys.readouterr().out
    assert "[b]a" in out
    assert "top5" not in out  # of two classes
    # Fresh weights are another training than these.
    assert nasattn(monkeypatch, *arguments, "-o", "two") == 2
    assert "init: weights.safetensors" in capsys.readouterr().err


def test_evaluate_measures_weights_from_outside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    weights = read_weights(WEIGHTS)
    np.savez("w.npz", **{name: t.numpy() for name, t in weights.tensors.items()})  # type: ignore[arg-type]
    command = ["evaluate", "tiny.json", "--data", "digits", "--resolution", "8", "--init"]
    right = weights.facts.metrics["top1_val_select"]
    mean, std = (",".join(map(str, v)) for v in (weights.facts.mean, weights.facts.std))
    for init, options in (
        (str(WEIGHTS), []),  # it says how its pictures were normalised
        ("w.npz", ["--mean", mean, "--std", std]),
    ):
        assert nasattn(monkeypatch, *command, init, *options, "--json", "found.json") == 0
        assert json.loads(Path("found.json").read_text())["top1"]["share"] == right
    # What a file does not say is taken from the training split.
    assert nasattn(monkeypatch, *command, "w.npz", "--json", "found.json") == 0
    found = json.loads(Path("found.json").read_text())
    assert found["mean"] != list(weights.facts.mean)
    assert found["mean"] == pytest.approx(weights.facts.mean, abs=0.05)
    capsys.readouterr()


def test_evaluate_opens_only_data_that_are_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a file names is said before it is opened, and is never downloaded."""
    assert nasattn(monkeypatch, *TRAIN) == 0
    weights = read_weights(WEIGHTS)
    capsys.readouterr()

    def opened(*_: object, **__: object) -> None:
        pytest.fail("the data were opened")

    def evaluate(data: str, *options: str) -> int:
        facts = weights.facts.model_copy(update={"data": data})
        write_tensors(Path("w.safetensors"), weights.build(), facts)
        return nasattn(monkeypatch, "evaluate", "w.safetensors", *options)

    with monkeypatch.context() as patch:
        patch.setattr("nasattn.cli.evaluate.load_with_progress", opened)
        for name in ("cifar10", "cifar100", "no/such/folder", "x" * 5000, "~nobody/x"):
            assert evaluate(name) == 2
            captured = capsys.readouterr()
            assert captured.out == f"data: {name}, as w.safetensors says\n"
            assert "which are not here; --data reads others, or downloads a known" in captured.err
    assert evaluate("cifar10", "--data", "digits") == 0
    assert "as w.safetensors says" not in capsys.readouterr().out
    x = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    np.savez("ten.npz", x_train=x, y_train=np.arange(40) % 10)
    assert evaluate("ten.npz") == 0
    assert capsys.readouterr().out.startswith("data: ten.npz, as w.safetensors says\n")


def test_evaluate_shows_no_control_character_of_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    weights = read_weights(WEIGHTS)
    capsys.readouterr()
    for field, value in (
        ("name", "\x1b[2J"),
        ("content_hash", "\x1b]0;title\x07"),
        ("metrics", {"\x1b[2J": 1.0}),
    ):
        facts = weights.facts.model_copy(update={field: value})
        write_tensors(Path("evil.safetensors"), weights.build(), facts)
        assert nasattn(monkeypatch, "evaluate", "evil.safetensors") == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "must be without control characters" in captured.err
        assert captured.err.rstrip("\n").isprintable()


@pytest.mark.slow
def test_commands_without_a_study_import_no_study() -> None:
    code = (
        "import sys, nasattn.cli.train, nasattn.cli.evaluate, nasattn.cli.detect\n"
        "print({'optuna', 'sqlalchemy', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_evaluate_says_that_the_pictures_are_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    assert nasattn(monkeypatch, "evaluate", str(WEIGHTS), "--resolution", "16") == 0
    assert "note: trained on other pictures: digits at 8 " in capsys.readouterr().out
    x = np.zeros((40, 8, 8, 3), np.uint8)
    np.savez("two.npz", x_train=x, y_train=np.arange(40) % 2)
    assert nasattn(monkeypatch, "evaluate", str(WEIGHTS), "--data", "two.npz") == 2
    assert "knows 10 classes, two has 2" in capsys.readouterr().err


def test_evaluate_shows_the_worst_of_many_classes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    x, y = noise.integers(0, 255, (200, 8, 8, 3), np.uint8), np.arange(200) % 25
    names = np.array([f"a class with quite a long name {i:02}" * 2 for i in range(25)])
    np.savez("many.npz", x_train=x, y_train=y, classes=names)
    arguments = ["train", "tiny.json", "--data", "many.npz", "--resolution", "8", "--epochs", "1"]
    assert nasattn(monkeypatch, *arguments, "-o", "many") == 0
    capsys.readouterr()
    assert nasattn(monkeypatch, "evaluate", "many/weights.safetensors") == 0
    out = capsys.readouterr().out
    assert "the worst 20 of 25 classes" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_network_of_a_search_is_trained_at_its_resolution(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"architecture": TINY, "settings": {"resolution": 12}, "n_classes": 10}
    Path("found.json").write_text(json.dumps(found))
    arguments = ["train", "found.json", "--epochs", "1", "--train-size", "32"]
    assert nasattn(monkeypatch, *arguments, "-o", "a") == 0
    assert "pictures of 12x12" in capsys.readouterr().out
    assert nasattn(monkeypatch, *arguments, "--resolution", "8", "-o", "b") == 0
    assert "pictures of 8x8" in capsys.readouterr().out


def test_a_reference_is_trained_and_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "squeezenet", "--resolution", "32", "--train-size", "32", "--epochs", "1"]
    assert nasattn(monkeypatch, *arguments, "-o", "sq") == 0
    assert nasattn(monkeypatch, "evaluate", "sq/weights.safetensors") == 0
    assert "network squeezenet (squeezenet), seed 0, recipe quick, 1 epoch" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lamb"], "unknown network 'lamb'; did you mean 'lam'"),
        (["train", "tiny.json", "--recipe", "slow"], "unknown recipe 'slow'"),
        (["train", "tiny.json", "--epochs", "0"], "recipe.epochs: must be greater than 0, is 0"),
        (["train", "tiny.json", "--seed", "-1"], "seed: must be greater than or equal to 0, is -1"),
        (["train", "tiny.json", "--threads", "0"], "threads: must be greater than 0, is 0"),
        (["train", "tiny.json", "--train-size", "3"], "train_size: must be at least 10"),
        (["train", "tiny.json", "--resolution", "2"], "resolution: must be greater than or equal"),
        (["train", "tiny.json", "--device", "abacus"], "device 'abacus': cannot be used here"),
        (["train", "tiny.json", "--data", "nowhere"], "unknown data 'nowhere'"),
        (["train", "tiny.json", "-o", "bad.npz/x"], "bad.npz is not a folder"),
        (["train", "tiny.json", "--init", "no.npz"], "no.npz: there is no such file"),
        (["train", "tiny.json", "--init", "bad.npz"], "bad.npz: not an .npz file"),
        (["train", "tiny.json", "--init", "bad.bin"], "must be 'torchvision' or a file"),
        (["train", "tiny.json", "--init", "other.npz"], "other.npz: does not fit the network"),
        (["train", "tiny.json", "--init", "torchvision"], "not for that of a file (tiny)"),
        (["train", "squeezenet", "--resolution", "8"], "cannot be run on pictures of 8x8"),
        (["evaluate", "no.safetensors"], "no.safetensors: there is no such file"),
        (["evaluate", "bad.safetensors"], "not a safetensors file"),
        (["evaluate", "lam"], "lam: is no .safetensors file; a network needs --init"),
        (["evaluate", "lamb", "--init", "x.npz", "--data", "digits"], "unknown network 'lamb'"),
        (["evaluate", "lam", "--init", "x.npz"], "--data: names the pictures"),
        (["evaluate", "bad.safetensors", "--init", "x.npz"], "has weights of its own"),
        (["evaluate", "x.safetensors", "--split", "val"], "unknown split 'val'"),
        (["evaluate", "x.safetensors", "--mean", "1,2"], "--mean: must be three numbers"),
        (["evaluate", "x.safetensors", "--mean", "1,2,3"], "are given together or not at all"),
        (["evaluate", "x.safetensors", "--std", "1,0,1"], "--std: must be greater than 0"),
        (["evaluate", "x.safetensors", "--threads", "0"], "--threads: must be 1 or more, is 0"),
        (["evaluate", "x.safetensors", "--device", "abacus"], "device 'abacus'"),
        (["evaluate", "x.safetensors", "--json", "no/x.json"], "must be a file in a folder that"),
        (["evaluate", "x.safetensors", "--csv", "."], "must be a new file or a regular one"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    for name in ("bad.npz", "bad.bin", "bad.safetensors"):
        Path(name).write_bytes(b"garbage")
    np.savez("other.npz", w=np.zeros((3, 4), np.float32))
    assert_refused(monkeypatch, capsys, arguments, message)


def test_a_training_that_diverges_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = RECIPES["quick"].model_copy(update={"lr": 1e30, "name": "wild"})
    monkeypatch.setitem(RECIPES, "wild", wild)
    assert nasattn(monkeypatch, *TRAIN, "--recipe", "wild") == 2
    assert "nasattn: the loss is" in capsys.readouterr().err


def test_damaged_results_are_named_and_can_be_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    WEIGHTS.parent.mkdir(parents=True)
    for name in ("checkpoint.pt", "weights.safetensors"):
        (WEIGHTS.parent / name).write_bytes(b"garbage")
        assert nasattn(monkeypatch, *TRAIN) == 2
        error = capsys.readouterr().err
        assert f"{name}: not a" in error
        assert "--overwrite" in error
    assert nasattn(monkeypatch, *TRAIN, "--overwrite") == 0
    assert read_weights(WEIGHTS).facts.name == "tiny"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "/dev/full"], "/dev/full: must be a new file or a regular one"),
        (["--csv", "/dev/null"], "/dev/null: must be a new file or a regular one"),
        (["--json", "pipe"], "pipe: must be a new file or a regular one"),
        (["--json", "link.json"], "link.json: must be a new file or a regular one"),
        (["--json", "loop"], "loop: must be a new file or a regular one"),
        (["--json", "x" * 300], "File name too long"),
        (["--json", "x/" * 3000], "File name too long"),
        (["--json", "w.safetensors"], "w.safetensors: is read or written as w.safetensors"),
        (["--csv", "./w.safetensors"], "is read or written as w.safetensors by the same command"),
        (["--csv", "hard"], "hard: is read or written as w.safetensors by the same command"),
        (["--json", "a", "--csv", "a"], "a: is read or written as a by the same command"),
        (["--json", "a", "--csv", "./b/../a"], "a: is read or written as a by the same command"),
        (["--data", "two.npz", "--json", "two.npz"], "is read or written as two.npz"),
        (["--json", "two.npz"], "two.npz: is read or written as two.npz"),  # as the weights say
    ],
)
def test_evaluate_replaces_nothing_but_a_result(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    Path("b").mkdir()
    arch = parse_architecture(TINY)
    fields = {"name": "tiny", "arch": arch, "classes": ("a", "b"), "resolution": 8, "seed": 0}
    fields |= {"mean": (0, 0, 0), "std": (1, 1, 1), "data": "two.npz", "versions": {}}
    fields |= {"recipe": RECIPES["quick"], "recipe_id": "0", "content_hash": "0"}
    facts = Facts.model_validate(fields)
    write_tensors(Path("w.safetensors"), facts.build(), facts)
    np.savez("two.npz", x_train=np.zeros((40, 8, 8, 3), np.uint8), y_train=np.arange(40) % 2)
    os.mkfifo("pipe")
    Path("hard").hardlink_to("w.safetensors")
    Path("link.json").symlink_to("two.npz")
    Path("loop").symlink_to("loop")
    held = {name: Path(name).read_bytes() for name in ("w.safetensors", "two.npz")}
    before = sorted(Path.cwd().rglob("*"))
    assert nasattn(monkeypatch, "evaluate", "w.safetensors", *options) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before
    assert held == {name: Path(name).read_bytes() for name in held}
    assert Path("/dev/full").is_char_device()


def test_check_target_lets_a_result_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    check_target(path, tmp_path / "w.safetensors", None)
    for text in ("old", "new"):
        write_result(path, text)
        assert path.read_text() == text
    with pytest.raises(StudyError, match="must be a new file or a regular one"):
        write_result(tmp_path, "a folder")


def test_train_keeps_the_weights_that_it_begins_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TRAIN) == 0
    assert nasattn(monkeypatch, *TRAIN, "--init", str(WEIGHTS), "--overwrite") == 2
    assert "is read or written as" in capsys.readouterr().err
    assert read_weights(WEIGHTS).facts.name == "tiny"


def test_a_second_training_in_a_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with one_writer(WEIGHTS.parent):
        for options in ([], ["--overwrite"], ["--seed", "1"]):
            assert nasattn(monkeypatch, *TRAIN, *options) == 2
            assert "runs/tiny-digits: another process is writing there" in capsys.readouterr().err
        assert not WEIGHTS.exists()
    assert nasattn(monkeypatch, *TRAIN) == 0


def test_a_second_process_cannot_write_in_a_folder(tmp_path: Path) -> None:
    code = "from filelock import FileLock; FileLock('f/.lock', timeout=0).acquire()"
    with one_writer(tmp_path / "f"):
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "f/.lock' could not be acquired" in held.stderr
    subprocess.run([sys.executable, "-c", code], check=True)


def huge() -> Path:
    """tiny.json with layers of terabytes."""
    stages = [{"depth": 9, "width": 16_384, "stride": 1} for _ in range(6)]
    Path("huge.json").write_text(json.dumps(TINY | {"stages": stages}), encoding="utf-8")
    return Path("huge.json")


@pytest.mark.parametrize(
    "arguments",
    [["train", "huge.json"], ["evaluate", "huge.json", "--init", "w.npz", "--data", "digits"]],
)
def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    huge()
    assert nasattn(monkeypatch, *arguments, "--resolution", "8") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"parameters; at most {MOST_PARAMS:,} can be built" in error
    assert not Path("runs").exists()


def test_show_counts_a_huge_file_without_building_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "show", str(huge()), "--resolution", "32") == 0
    assert "M params" in capsys.readouterr().out


@pytest.mark.parametrize("known", [True, False])
def test_show_builds_on_the_cpu_only_a_plugin_that_meta_does_not_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: bool
) -> None:
    def build(*arguments: Any) -> nn.Module:
        torch.ones(1).item()  # no value on meta
        return build_model(*arguments)

    stages = [{"depth": 1, "width": 8, "attention": {"kind": "se"}}]
    Path("se.json").write_text(json.dumps(TINY | {"stages": stages}), encoding="utf-8")
    monkeypatch.setattr("nasattn.zoo.build_model", build)
    monkeypatch.setattr("nasattn.cli.show.PLUGINS", {"se": "own.py:Se"} if known else {})
    assert nasattn(monkeypatch, "show", "se.json", "--resolution", "32") == (0 if known else 2)
    captured = capsys.readouterr()
    shown = captured.out if known else captured.err
    assert ("M params" if known else "se: cannot be built here (") in shown


def test_check_params_allows_exactly_the_most() -> None:
    check_params("fits", lambda: nn.Linear(2**15, 2**16, bias=False))  # 2**31 parameters
    with pytest.raises(ArchitectureError, match="wide: has 2,147,549,184 parameters; at most 2,14"):
        check_params("wide", lambda: nn.Linear(2**15, 2**16))  # 2**16 biases more


def test_check_params_leaves_what_meta_cannot_build_to_the_build() -> None:
    def build() -> nn.Module:
        return nn.Linear(2, int(torch.ones(1).item()))  # no value on meta

    check_params("plug-in", build)
    assert build() is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
)
def test_plain_memory_errors_know_every_form(error: Exception) -> None:
    with (
        pytest.raises(EvaluationError, match=r"^out of memory; less$"),
        plain_memory_errors("less"),
    ):
        raise error


def test_plain_memory_errors_let_a_bug_pass() -> None:
    with pytest.raises(RuntimeError, match="a bug"), plain_memory_errors("less"):
        raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("nasattn.cli.train.train_model", TRAIN),
        ("nasattn.cli.train.measure_answers", TRAIN),
        ("nasattn.cli.evaluate.measure_answers", ["evaluate", "w/weights.safetensors"]),
    ],
)
def test_out_of_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    function: str,
    arguments: list[str],
) -> None:
    def run_out(*_: object, **__: object) -> None:
        torch.empty(2**50)  # a petabyte

    assert nasattn(monkeypatch, *TRAIN, "-o", "w") == 0
    monkeypatch.setattr(function, run_out)
    assert nasattn(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error == "nasattn: out of memory; choose a lower --resolution or a smaller network\n"


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_train_with_broken_weights_makes_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    arch = parse_architecture(TINY)
    state = build_model(arch, 10).state_dict()
    name = next(name for name in state if name.endswith("running_var"))
    arrays = {n: t.numpy() for n, t in state.items()}
    np.savez("w.npz", allow_pickle=False, **arrays | {name: np.full_like(arrays[name], value)})
    assert nasattn(monkeypatch, *TRAIN, "--init", "w.npz") == 2
    assert name in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_kill_9_in_mid_epoch_then_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = [*TRAIN[:-3], "640", "--epochs", "12"]
    code = "from nasattn.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *longer],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    for _ in range(1200):
        if (WEIGHTS.parent / "checkpoint.pt").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not WEIGHTS.exists()
    assert nasattn(monkeypatch, *longer) == 0
    assert "going on after epoch" in capsys.readouterr().out
    assert nasattn(monkeypatch, *longer, "-o", "whole") == 0
    assert equal(tensors(WEIGHTS), tensors(Path("whole/weights.safetensors")))

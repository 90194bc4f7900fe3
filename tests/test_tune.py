"""Ways of computing a training: each learns, and the fastest one is found once and kept."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn

from nasattn.cli import tuning
from nasattn.cli.tuning import tuned
from nasattn.errors import StudyError
from nasattn.evaluate import Setting
from nasattn.model import build_model
from nasattn.train import tune
from nasattn.train.loop import Epoch, train_model
from nasattn.train.recipe import RECIPES, Recipe
from nasattn.train.tune import WAYS, Timing, fastest, time_way, ways_of
from tests.command import assert_refused, nasattn
from tests.test_cli import TINY, TINY_SPACE
from tests.test_fast import tiny_data
from tests.test_prune import tiny

Build = Callable[[], nn.Module]
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.02)


def build() -> nn.Module:
    torch.manual_seed(0)
    return build_model(tiny(), 4)


def curve_of(way: str, device: str = "cpu") -> list[Epoch]:
    model = build()
    recipe = RECIPE.model_copy(update=dict(WAYS[way]))
    curve = train_model(model, tiny_data(), recipe, seed=0, device=device)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return curve


def test_low_precision_trains_plain_weights() -> None:
    plain, low = curve_of("float32"), curve_of("bfloat16")
    assert [epoch.loss for epoch in low] != [epoch.loss for epoch in plain]
    for one, other in zip(low, plain, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.1)


@pytest.mark.slow  # torch compiles for a minute
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's own, about what it is built of
def test_a_compiled_network_learns_the_same() -> None:
    for one, other in zip(curve_of("compiled"), curve_of("float32"), strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_on_cuda(way: str) -> None:
    for one, other in zip(curve_of(way, "cuda"), curve_of("float32"), strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.1)


def test_what_rounds_has_one_way() -> None:
    with pytest.raises(ValidationError, match="quantise int8: takes precision float32"):
        Recipe(epochs=1, quantise="int8", precision="bfloat16")
    with pytest.raises(StudyError, match="quantises"):
        ask(RECIPES["qat"], Path())


def test_settings_of_before_are_as_they_were() -> None:
    assert not {"precision", "compile"} & RECIPES["quick"].model_dump().keys()
    low = RECIPES["quick"].model_copy(update={"precision": "bfloat16"})
    assert Recipe.model_validate(low.model_dump()) == low
    ids = [recipe.recipe_id("0", mirror=True) for recipe in (low, RECIPES["quick"])]
    assert ids[0] != ids[1]


def test_a_way_is_timed_by_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(model: nn.Module, data: Any, recipe: Recipe, **_: Any) -> list[Epoch]:
        assert (recipe.epochs, recipe.train_size, recipe.compile) == (3, 64, "default")
        return [Epoch(n, 1.0, 0.5, seconds) for n, seconds in enumerate((9.0, 1.5, 1.0), 1)]

    monkeypatch.setattr(tune, "train_model", train)
    timing = time_way("compiled", build, tiny_data(), RECIPE, device="cpu")
    assert timing == Timing("compiled", setup_seconds=8.0, step_seconds=0.25)
    assert timing.training_seconds(100) == 33


def test_a_recipe_with_a_way_may_get_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = RECIPE.model_copy(update=dict(WAYS["bfloat16"]))
    trained = []

    def train(model: nn.Module, data: Any, recipe: Recipe, **_: Any) -> list[Epoch]:
        trained.append((recipe.precision, recipe.compile))
        return [Epoch(n, 1.0, 0.5, float(len(trained))) for n in (1, 2, 3)]

    monkeypatch.setattr(tune, "train_model", train)
    assert ask(low, tmp_path) == RECIPE  # the first is the fastest: plain float32
    assert trained == [("float32", "none"), ("bfloat16", "none"), ("float32", "default")]


def test_a_way_that_fails_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> list[Epoch]:
        raise RuntimeError("no\n compiler")

    monkeypatch.setattr(tune, "train_model", fail)
    timing = time_way("compiled", build, tiny_data(), RECIPE, device="cpu")
    assert timing.reason == "no compiler"
    slow = Timing("float32", 0.0, 1e6)
    assert fastest({"compiled": timing, "float32": slow}, 10) == "float32"
    assert fastest({"compiled": timing}, 10) == "float32"


def test_what_is_fastest_hangs_on_how_long_it_trains() -> None:
    timings = {t.way: t for t in (Timing("float32", 0, 0.2), Timing("compiled", 90, 0.1))}
    assert fastest(timings, 100) == "float32"
    assert fastest(timings, 10_000) == "compiled"
    assert "graphs bfloat16" in ways_of("cuda:1")
    assert set(ways_of("cpu")) < WAYS.keys()


def ask(
    recipe: Recipe, cache: Path, shown: io.StringIO | None = None, network: Build = build
) -> Recipe:
    console = Console(width=80, file=shown or io.StringIO())
    return tuned(console, "net", network, Setting(tiny_data(), recipe, ()), cache)


def test_timings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def time_it(way: str, *_: Any, **__: Any) -> Timing:
        asked.append(way)
        return Timing(way, 0.0, 0.1 if way == "bfloat16" else 0.2)

    monkeypatch.setattr(tuning, "time_way", time_it)
    for _ in range(2):
        assert ask(RECIPE, tmp_path, shown := io.StringIO()).precision == "bfloat16"
        assert asked == [*ways_of("cpu")]
        assert shown.getvalue().count("taken") == 1
    assert "12 steps, s" in shown.getvalue()  # 3 epochs of 64 pictures in batches of 16
    (kept,) = (tmp_path / "engines").iterdir()
    for spoilt in ("[", "{}", '[{"way": "of tomorrow", "setup_seconds": 1, "step_seconds": 1}]'):
        kept.write_text(spoilt)
        assert ask(RECIPE, tmp_path).precision == "bfloat16"
    assert len(asked) == 4 * len(ways_of("cpu"))
    other = build_model(tiny(**{"stages.0.width": 8}), 4)  # another network of the same name
    ask(RECIPE, tmp_path, network=lambda: other)
    assert len(asked) == 5 * len(ways_of("cpu"))


def test_a_way_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def time_it(way: str, *_: Any, **__: Any) -> Timing:
        asked.append(way)
        failed = way == "bfloat16" and asked.count(way) == 1
        return Timing(way, 0.0, 0.1 if way == "bfloat16" else 0.2, "no memory" if failed else "")

    monkeypatch.setattr(tuning, "time_way", time_it)
    ways = ways_of("cpu")
    assert [ask(RECIPE, tmp_path).precision for _ in range(3)] == ["float32", *["bfloat16"] * 2]
    assert asked == [*ways, "bfloat16"]


def test_timings_that_cannot_be_kept_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"bfloat16": 0.1}
    monkeypatch.setattr(
        tuning, "time_way", lambda way, *_, **__: Timing(way, 0.0, times.get(way, 0.2))
    )
    (tmp_path / "file").write_text("")
    assert ask(RECIPE, tmp_path / "file", shown := io.StringIO()).precision == "bfloat16"
    assert "not kept: " in shown.getvalue()


def test_the_command_trains_by_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(tmp_path / "cache"))
    times = {"bfloat16": 0.1}
    monkeypatch.setattr(
        tuning, "time_way", lambda way, *_, **__: Timing(way, 0.0, times.get(way, 0.2))
    )
    (tmp_path / "net.json").write_text(tiny().model_dump_json())
    options = ["--epochs", "1", "--train-size", "64", "--resolution", "16"]
    assert nasattn(monkeypatch, "train", "net.json", *options, "--tune-engine") == 0
    assert "1 thread, bfloat16" in capsys.readouterr().out
    table = ["search", "--evaluator", "table:truth.csv", "--tune-engine"]
    assert_refused(monkeypatch, capsys, table, "--tune-engine: a search in a table trains nothing")


def test_a_search_goes_on_by_the_way_that_it_began_with(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {"bfloat16": 0.1}
    monkeypatch.setattr(
        tuning, "time_way", lambda way, *_, **__: Timing(way, 0.0, times.get(way, 0.2))
    )
    (here / "tiny.yaml").write_text(TINY_SPACE)
    command = [*TINY, "--objective", "top1", "--objective", "macs", "--tune-engine"]
    assert nasattn(monkeypatch, *command, "--seeds", "0", "--trials", "1") == 0
    assert "1 thread, bfloat16" in capsys.readouterr().out
    for kept in (here / "cache", Path(os.environ["NASATTN_CACHE"])):
        for file in kept.glob("engines/*"):
            file.unlink()
    times["bfloat16"] = 0.3  # today
    assert nasattn(monkeypatch, *command, "--seeds", "0", "--trials", "2") == 0
    assert "1 thread, bfloat16" in capsys.readouterr().out

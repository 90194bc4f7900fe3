"""`nasattn bench training`: that both loops train alike, what rows say, and what is refused."""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nasattn.arch import Architecture
from nasattn.data import ImageData
from nasattn.errors import EvaluationError, StudyError
from nasattn.model import build_model
from nasattn.testing import tiny_data
from nasattn.train.bench import (
    LOOPS,
    SpeedSpec,
    Timing,
    bench_training,
    share_of,
    sum_up,
    time_epoch,
)
from nasattn.train.loop import train_model
from nasattn.train.plain import OPTIMIZERS, Pictures, changes_of, train_plainly
from nasattn.train.recipe import CROP_AND_FLIP, RECIPES, Augmentation, Recipe
from tests.command import assert_refused, nasattn

TINY: dict[str, Any] = {
    "stem": {"width": 8},
    "stages": [{"depth": 1, "width": 8}, {"depth": 1, "width": 8, "stride": 2}],
}


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(Architecture.model_validate(TINY), 2)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_loops_do_the_same_step(optimizer: str, smoothing: float) -> None:
    """With all pictures in one batch and none of them changed, chance has no part in an epoch."""
    recipe = Recipe(
        epochs=1,
        batch_size=16,
        optimizer=optimizer,
        lr=0.01,
        weight_decay=1e-2,
        label_smoothing=smoothing,
    )
    data, model = tiny_data(), tiny_network()
    before = deepcopy(model.state_dict())
    other = deepcopy(model)
    (ours,) = train_model(model, data, recipe, seed=0)
    (plain,) = train_plainly(other, data, recipe, seed=0)
    assert plain.loss == pytest.approx(ours.loss, rel=1e-5)
    assert plain.top1 == ours.top1
    found = other.state_dict()
    assert any(not torch.equal(found[name], value) for name, value in before.items())
    for name, value in model.state_dict().items():
        # Where a gradient is next to nothing, AdamW's first step takes its sign, lr times.
        atol = 2e-5 if optimizer == "sgd" else 2.1e-2
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=atol)
        if value.is_floating_point():
            assert (found[name] - value).abs().mean() < 1e-3


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle", "plateau", "step"])
def test_plain_training_learns_and_repeats(schedule: str) -> None:
    recipe = Recipe(
        epochs=3,
        batch_size=4,
        lr=0.05,
        schedule=schedule,
        augmentation=CROP_AND_FLIP,
    )
    curves = [train_plainly(tiny_network(), tiny_data(), recipe, seed=1) for _ in range(2)]
    rows = [[(e.number, e.loss, e.top1) for e in curve] for curve in curves]
    assert rows[0] == rows[1]
    assert [row[0] for row in rows[0]] == [1, 2, 3]
    assert rows[0][-1][1] < rows[0][0][1] < math.inf
    assert rows[0][-1][2] > 0.9  # dark or bright


def test_pictures_are_those_of_the_split() -> None:
    split = tiny_data().train
    pictures = Pictures(split, lambda image: torch.from_numpy(np.array(image)))
    assert len(pictures) == 16
    x, y = pictures[3]
    assert isinstance(y, int)
    assert y == split.labels[3]
    assert np.array_equal(x.permute(2, 0, 1), split.images[3])


def test_changes_are_the_recipes() -> None:
    """A crop moves a white picture by at most the border; a flip mirrors where that is allowed."""
    data = tiny_data()
    recipe = Recipe(epochs=1, augmentation=Augmentation(crop=0.25, flip=1.0))
    crop, flip = changes_of(data, recipe)
    torch.manual_seed(0)
    white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
    black = [int((np.array(crop(white))[:, :, 0] == 0).sum(0).min()) for _ in range(50)]
    assert max(black) == 2  # whole rows: 0.25 * 8 pixels at most
    steps = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(np.array(flip(Image.fromarray(steps))), steps[:, ::-1])
    assert len(list(changes_of(replace(data, mirror=False), recipe))) == 1
    assert not list(changes_of(data, Recipe(epochs=1)))


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("resneskt", "rotate"),
        ("alexnet", "lighting"),
        ("transfer", "head_epochs"),
        ("qat", "quantise"),
    ],
)
def test_plain_training_refuses_steps_that_it_lacks(name: str, step: str) -> None:
    message = f"recipe '{name}': the plain loop does no {step}"
    with pytest.raises(StudyError, match=message):
        train_plainly(tiny_network(), tiny_data(), RECIPES[name], seed=0)


def test_sum_up_pairs_the_rounds() -> None:
    # 100 / 1, 2, 4 s plain and 100 / 0.5, 0.5, 0.5 s ours: ratios 2, 4, 8, logs ln 2 * (1, 2, 3).
    plain = [Timing(seconds, 100) for seconds in (1.0, 2.0, 4.0)]
    row = sum_up("net", plain, [Timing(0.5, 100, own_kernels=True)] * 3)
    assert (row.plain, row.plain_range) == (50, (25, 100))
    assert (row.ours, row.ours_range) == (200, (200, 200))
    assert row.ratio == pytest.approx(4)
    half = 4.302653 * math.log(2) / math.sqrt(3)  # t(0.975, 2), sd of the logs: ln 2
    assert row.low == pytest.approx(4 * math.exp(-half))
    assert row.high == pytest.approx(4 * math.exp(half))
    assert (row.n, row.own_kernels) == (3, True)
    assert not sum_up("net", plain, [Timing(0.5, 100)] * 3).own_kernels


def test_share_of_keeps_the_proportion() -> None:
    data = tiny_data(n_per_class=20)  # 40 to train, 40 for validation
    part = share_of(data, 10)
    assert (len(part.train), len(part.val_search)) == (10, 10)
    assert part.train.labels.sum() == 5
    whole = share_of(data, 1000)
    assert (len(whole.train), len(whole.val_search)) == (40, 40)


def test_time_epoch_counts_whole_batches(here: Path) -> None:
    Path("tiny.json").write_text(json.dumps(TINY))
    for loop in LOOPS:
        timing = time_epoch("tiny.json", loop, Recipe(epochs=1, batch_size=5), tiny_data())
        assert timing.n == 15  # of 16
        assert timing.seconds > 0
    assert not time_epoch("tiny.json", "plain", Recipe(epochs=1), tiny_data()).own_kernels


def test_resnet20_is_that_of_cifar() -> None:
    spec = SpeedSpec(networks=("resnet20", "resnet18"))
    assert spec.networks == ("resnet20_cifar", "resnet18")
    assert SpeedSpec().recipe == RECIPES["lam"]
    assert SpeedSpec.model_validate({"recipe": {"batch_size": 64}}).recipe == RECIPES[
        "lam"
    ].model_copy(update={"batch_size": 64})


@pytest.mark.slow
def test_a_training_that_fails_is_an_error_here(here: Path) -> None:
    Path("tiny.json").write_text(json.dumps(TINY))
    recipe = Recipe(epochs=1, batch_size=4, lr=1e30)
    spec = SpeedSpec(networks=("tiny.json",), recipe=recipe)
    with pytest.raises(EvaluationError, match="not numbers"):
        list(bench_training(spec, tiny_data()))


USUAL = (
    *("bench", "training", "--networks", "tiny.json", "--data", "digits", "--resolution", "8"),
    *("--rounds", "3", "--train-size", "150", "--recipe", "quick"),
)


@pytest.mark.slow
def test_bench_training_shows_rates(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tiny.json").write_text(json.dumps(TINY))
    assert nasattn(monkeypatch, *USUAL) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    assert "tiny.json" in said
    for words in ("ours : plain", "3 rounds", "150 pictures", "recipe quick, batches of 32"):
        assert words in said


def test_bench_training_prints_json_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tiny.json").write_text(json.dumps(TINY))
    seen: list[tuple[str, bool]] = []

    def in_turns(spec: SpeedSpec, data: ImageData, on_round: Any) -> Iterator[Any]:
        for number in range(spec.rounds + 1):
            on_round("tiny.json", number)
            seen.append(("tiny.json", number == 0))
        yield sum_up("tiny.json", [Timing(1, 10)] * 3, [Timing(0.5, 10)] * 3)

    monkeypatch.setattr("nasattn.cli.bench_training.bench_training", in_turns)
    assert nasattn(monkeypatch, *USUAL, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert (row["network"], row["low"], row["n"]) == ("tiny.json", None, 3)
    assert row["ratio"] == pytest.approx(2)
    assert (row["plain"], row["ours"], row["own_kernels"]) == (10, 20, False)
    assert {"processor", "torch", "load", "cores"} <= found["machine"].keys()
    assert (found["settings"]["train"], found["settings"]["rounds"]) == (150, 3)
    assert len(seen) == 4


def test_bench_training_ends_on_ctrl_c(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tiny.json").write_text(json.dumps(TINY))

    def stopped(spec: SpeedSpec, data: ImageData, on_round: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("nasattn.cli.bench_training.bench_training", stopped)
    assert nasattn(monkeypatch, *USUAL, "--json") == 130
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "lam,resnet2"], "unknown network 'resnet2'; did you mean"),
        (["--networks", ""], "unknown network ''"),
        (["--networks", "none.json"], "none.json: cannot be read as JSON"),
        (["--rounds", "2"], "options: rounds: must be greater than or equal to 3, is 2"),
        (["--resolution", "4"], "options: resolution: must be greater than or equal to 8, is 4"),
        (["--recipe", "quik"], "unknown recipe 'quik'; did you mean 'quick'"),
        (["--recipe", "alexnet"], "recipe 'alexnet': the plain loop does no lighting"),
        (["--train-size", "5"], "train_size: must be at least 10"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_bench_training_refuses_what_it_cannot_do(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (here / "tiny.json").write_text(json.dumps(TINY))
    assert_refused(monkeypatch, capsys, [*USUAL, *arguments], message)

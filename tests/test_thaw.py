"""Frozen stages: how many parts an epoch trains, and that the frozen ones stay as they were."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.data import ImageData, load_data
from nasattn.errors import StudyError
from nasattn.fit import last_layer
from nasattn.model import build_model
from nasattn.spec import parse
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import Epoch, train_model
from nasattn.train.recipe import RECIPES, Recipe
from nasattn.train.thaw import parts_of, thawing, trained_parts
from nasattn.zoo import ZOO
from tests.command import assert_refused, nasattn
from tests.sweep import sweep

ARCH = {
    "stem": {"width": 4},
    "stages": [{"depth": 1, "width": w, "attention": {"kind": "se"}} for w in (4, 6)],
    "head": {"dropout": 0.2},
}
DECAYING = {"optimizer": "adamw", "weight_decay": 0.1, "train_size": 64, "lr": 0.01}


def recipe_of(epochs: int, head: int, thaw: int, **changes: Any) -> Recipe:
    return Recipe(epochs=epochs, head_epochs=head, thaw_epochs=thaw, **changes)


@pytest.mark.parametrize(
    ("n_parts", "head", "thaw", "expected"),
    [
        (5, 0, 0, [5, 5, 5]),
        (5, 2, 0, [1, 1, 5, 5]),
        (5, 1, 4, [1, 2, 3, 4, 5, 5]),  # a part an epoch
        (5, 1, 2, [1, 3, 5, 5]),
        (7, 0, 4, [3, 4, 6, 7, 7]),  # 1 + 6 k / 4, rounded up
        (3, 1, 6, [1, 2, 2, 2, 3, 3, 3]),  # more epochs than parts
        (1, 2, 2, [1, 1, 1, 1, 1]),
    ],
)
def test_trained_parts_are_equal_shares(
    n_parts: int, head: int, thaw: int, expected: list[int]
) -> None:
    recipe = recipe_of(9, head, thaw)
    assert [trained_parts(n_parts, i, recipe) for i in range(1, len(expected) + 1)] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"epochs": 4, "head_epochs": 2, "thaw_epochs": 3},
            "recipe: head_epochs . thaw_epochs: must be at most the 4 epochs, is 5",
        ),
        ({"epochs": 4, "head_epochs": -1}, "head_epochs: must be greater than .* is -1"),
        ({"epochs": 4, "thaw_epochs": 1.5}, "thaw_epochs: must be a valid integer"),
        ({"epochs": 4, "quantise": "int4"}, "quantise: must be 'none' or 'int8', is 'int4'"),
    ],
)
def test_recipe_refuses_what_does_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(Recipe, fields, "recipe", StudyError)


@pytest.mark.parametrize(
    ("name", "recipe_id"),
    [  # as they were before recipes could freeze and quantise
        ("quick", "b6a4bac05480"),
        ("finetune", "55777ae2237d"),
        ("lam", "ebb81c0f10a1"),
        ("lgam_cifar", "1f91f7218b2a"),
        ("lgam_imagenet", "f4ff796b6d56"),
        ("resneskt", "f043cb697cfd"),
        ("alexnet", "85f5ba4b4519"),
    ],
)
def test_recipe_of_before_has_its_id_and_its_fields(name: str, recipe_id: str) -> None:
    recipe = RECIPES[name]
    assert recipe.recipe_id("0123456789ab", mirror=True) == recipe_id
    # Settings that are stored are compared field by field.
    assert not {"head_epochs", "thaw_epochs", "quantise"} & recipe.model_dump().keys()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("field", [{"head_epochs": 1}, {"thaw_epochs": 1}, {"quantise": "int8"}])
def test_recipe_id_and_dump_know_a_field_that_is_used(field: dict[str, Any]) -> None:
    recipe, plain = Recipe(epochs=5, **field), Recipe(epochs=5)
    assert recipe.recipe_id("0", mirror=True) != plain.recipe_id("0", mirror=True)
    assert recipe.model_dump() == plain.model_dump() | field
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize("name", sweep(ZOO))
def test_parts_of_end_with_the_last_layer_alone(name: str) -> None:
    with torch.device("meta"):
        model = ZOO[name].build(10, 64)
    parts = [part for part in parts_of(model) if any(True for _ in part.parameters())]
    assert len(parts) >= 5
    last = set(last_layer(model))
    assert {id(p) for p in parts[-1].parameters()} == {
        id(p) for n, p in model.named_parameters() if n in last
    }
    inside = {id(p) for part in parts for p in part.parameters()}
    assert inside == {id(p) for p in model.parameters()}  # nothing is frozen for good


@pytest.fixture(scope="module")
def data(cache: Path) -> ImageData:
    return load_data("digits", 8, cache_dir=cache)


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_model(parse_architecture(ARCH, "arch"), 10)


def states(recipe: Recipe, data: ImageData) -> list[dict[str, Tensor]]:
    """The weights and statistics before training and after each epoch."""
    model = network()
    found = [{k: v.clone() for k, v in model.state_dict().items()}]

    def keep(epoch: Epoch) -> None:
        found.append({k: v.clone() for k, v in model.state_dict().items()})

    train_model(model, data, recipe, seed=0, on_epoch=keep)
    return found


def test_train_model_moves_the_parts_that_have_thawed_and_nothing_else(data: ImageData) -> None:
    recipe = recipe_of(5, 1, 3, **DECAYING)
    model = network()
    names = {id(t): n for n, t in model.state_dict(keep_vars=True).items()}
    parts = [
        {names[id(t)] for t in (*part.parameters(), *part.buffers())}
        for part in parts_of(model)
        if any(True for _ in part.parameters())
    ]
    assert len(parts) == 4  # stem, two stages, classifier
    for epoch, (before, after) in enumerate(pairwise(states(recipe, data)), 1):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        n = trained_parts(4, epoch, recipe)
        assert moved == set().union(*parts[4 - n :])


def test_thawing_leaves_a_network_as_free_as_it_was() -> None:
    model = network()
    fixed = next(model.parameters()).requires_grad_(False)
    free = [p for p in model.parameters() if p is not fixed]
    with thawing(model, recipe_of(4, 2, 2)) as begin:
        begin(1)
        assert sum(p.requires_grad for p in model.parameters()) == 2  # weight and bias
        begin(4)
        assert all(p.requires_grad for p in free)
        assert all(module.training for module in model.modules())
        begin(1)
    assert all(p.requires_grad for p in free)
    assert not fixed.requires_grad


class Stop(Exception):
    """The power goes."""


@pytest.mark.parametrize("stop_after", [1, 2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_train_model_goes_on_thawing_where_it_was_stopped(
    tmp_path: Path, data: ImageData, stop_after: int, optimizer: str
) -> None:
    recipe = recipe_of(5, 2, 2, **DECAYING | {"optimizer": optimizer, "schedule": "onecycle"})
    checkpoint = Checkpoint(tmp_path / "c.pt", {})

    def run(stop: int | None, checkpoint: Checkpoint | None) -> dict[str, Tensor]:
        def on_epoch(epoch: Epoch) -> None:
            if epoch.number == stop:
                raise Stop

        model = network()
        torch.manual_seed(5)
        train_model(model, data, recipe, seed=1, checkpoint=checkpoint, on_epoch=on_epoch)
        return model.state_dict()

    whole = run(None, None)
    with pytest.raises(Stop):
        run(stop_after, checkpoint)
    again = run(None, checkpoint)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_train_transfers_weights_to_other_classes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.json").write_text(json.dumps(ARCH), encoding="utf-8")
    train = ["train", "net.json", "--resolution", "8", "--train-size", "64"]
    assert nasattn(monkeypatch, *train, "--epochs", "1", "-o", "first") == 0
    transfer = [*train, "--recipe", "transfer", "--init", "first/weights.safetensors"]
    capsys.readouterr()
    message = "recipe: head_epochs + thaw_epochs: must be at most the 3 epochs, is 9"
    assert_refused(monkeypatch, capsys, [*transfer, "--epochs", "3"], message)
    assert nasattn(monkeypatch, *transfer, "--epochs", "9", "-o", "second") == 0
    assert "recipe transfer, 9 epochs" in capsys.readouterr().out

"""Recipes, augmentation and the training loop, on pictures made by hand."""

import math
from collections.abc import Callable
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from nasattn.data import ImageData, Split
from nasattn.data.augment import (
    ON_BYTES,
    ON_FLOATS,
    Normalise,
    augment,
    brightness,
    contrast,
    crop,
    flip,
    lighting,
    rotate,
    to_float,
)
from nasattn.errors import EvaluationError, StudyError, UnknownNameError
from nasattn.spec import parse
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import (
    OPTIMIZERS,
    SCHEDULES,
    Epoch,
    batches,
    evaluate_top1,
    predict,
    subset,
    train_model,
)
from nasattn.train.metrics import Answers, Share, measure_answers
from nasattn.train.recipe import RECIPES, Augmentation, Recipe, from_named

DATA_HASH = "0123456789ab"


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(n: int, size: int = 9, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Random floats (n, 3, size, size)."""
    return torch.rand(n, 3, size, size, generator=rng(99)) * (high - low) + low


def noise_split(n: int, n_classes: int, seed: int = 0) -> Split:
    """Noise of 8x8 pixels whose channel `label` is brighter: easy, and not symmetric."""
    noise = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % n_classes
    images = noise.integers(0, 100, (n, 3, 8, 8), np.uint8)
    images[np.arange(n), labels] += 100
    return Split(images, labels)


def make_data(n: int = 24, n_classes: int = 3, mirror: bool = True) -> ImageData:
    return ImageData(
        name="tiny",
        resolution=8,
        classes=tuple("abc"[:n_classes]),
        train=noise_split(n, n_classes),
        val_search=noise_split(12, n_classes, seed=1),
        val_select=noise_split(12, n_classes, seed=2),
        n_test=12,
        mirror=mirror,
        skipped=(),
        content_hash=DATA_HASH,
    )


def make_net(n_classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 16, n_classes),
        )


def train(recipe: Recipe, data: ImageData | None = None, seed: int = 0) -> dict[str, Tensor]:
    """The weights and statistics after training a fresh network."""
    net = make_net()
    train_model(net, data or make_data(), recipe, seed=seed)
    return net.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Recipes


@pytest.mark.parametrize(
    ("name", "printed"),
    [  # PAPERS.md, section 9
        (
            "lam",
            {"epochs": 200, "batch_size": 128, "lr": 0.1, "weight_decay": 4e-5}
            | {"schedule": "step", "step_epochs": 30},
        ),
        (
            "lgam_cifar",
            {"epochs": 160, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4}
            | {"schedule": "plateau"},
        ),
        (
            "lgam_imagenet",
            {"epochs": 90, "batch_size": 64, "lr": 0.1, "weight_decay": 1e-4}
            | {"schedule": "step", "step_epochs": 30},
        ),
        (
            "resneskt",
            {"epochs": 100, "batch_size": 8, "lr": 1e-3, "schedule": "step", "step_epochs": 50},
        ),
        (  # Krizhevsky et al., 2012: 90 epochs, lr / 10 when the validation error stops falling
            "alexnet",
            {"epochs": 90, "batch_size": 128, "lr": 0.01, "weight_decay": 5e-4}
            | {"schedule": "plateau"},
        ),
    ],
)
def test_recipes_have_the_papers_numbers(name: str, printed: dict[str, object]) -> None:
    recipe = RECIPES[name].model_dump()
    assert recipe | printed | {"optimizer": "sgd", "momentum": 0.9} == recipe


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("lgam_cifar", {"crop", "flip"}),
        ("lgam_imagenet", {"crop", "flip"}),
        ("resneskt", {"rotate", "brightness", "contrast"}),
        ("alexnet", {"crop", "flip", "lighting"}),
    ],
)
def test_recipes_have_the_papers_augmentation(name: str, steps: set[str]) -> None:
    strengths = RECIPES[name].augmentation.model_dump()
    assert {step for step, strength in strengths.items() if strength} == steps


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_under_their_name(name: str) -> None:
    assert RECIPES[name].name == name


def test_recipe_has_a_row_for_each_of_its_names() -> None:
    fields = Recipe.model_fields
    assert set(get_args(fields["optimizer"].annotation)) == set(OPTIMIZERS)
    assert set(get_args(fields["schedule"].annotation)) == set(SCHEDULES)
    assert set(Augmentation.model_fields) == {*ON_BYTES, *ON_FLOATS}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "recipe: field 'epochs' is missing"),
        ({"epochs": 0}, "recipe: epochs: must be greater than 0, is 0"),
        ({"epochs": 1, "lr": -1}, "recipe: lr: must be greater than 0, is -1"),
        ({"epochs": 1, "optimiser": "sgd"}, "unknown field 'optimiser'; did you mean 'optimizer'"),
        ({"epochs": 1, "schedule": "linear"}, "schedule: must be 'constant', .* is 'linear'"),
        ({"epochs": 1, "augmentation": {"flip": 2}}, "augmentation.flip: must be less .* is 2"),
        ({"epochs": 1, "augmentation": {"blur": 1}}, "unknown field 'augmentation.blur'"),
    ],
)
def test_recipe_refuses(data: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(Recipe, data, "recipe", StudyError)


def recipe_from(value: object) -> Recipe:
    return parse(Recipe, from_named(value), "recipe", StudyError)


@pytest.mark.parametrize("value", ["lam", {"name": "lam"}])
def test_from_named_gives_a_row(value: object) -> None:
    assert recipe_from(value) == RECIPES["lam"]


def test_from_named_changes_only_what_is_said() -> None:
    changed = recipe_from({"name": "lam", "epochs": 3, "augmentation": {"flip": 0}})
    lam = RECIPES["lam"]
    augmentation = lam.augmentation.model_copy(update={"flip": 0.0})
    assert changed == lam.model_copy(update={"epochs": 3, "augmentation": augmentation})
    assert recipe_from("lam") == lam  # the row is as it was


def test_from_named_starts_from_quick_and_leaves_an_own_recipe_alone() -> None:
    assert recipe_from({"epochs": 3}) == RECIPES["quick"].model_copy(update={"epochs": 3})
    assert recipe_from({"name": "own", "epochs": 3, "lr": 1}) == Recipe(epochs=3, lr=1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("quik", r"unknown recipe 'quik'; did you mean 'quick'\?"),
        ({"name": "resnet"}, "unknown recipe 'resnet'"),
    ],
)
def test_from_named_refuses_an_unknown_name(value: object, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        from_named(value)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "quick", "augmentation": 3},
        {"name": "quick", "augmentation": None},
        {"name": ["quick"]},
        {"name": "quick", "epoch": 3},
        ["quick"],
    ],
)
def test_from_named_leads_to_one_of_our_errors(value: object) -> None:
    with pytest.raises((StudyError, UnknownNameError), match=r"augmentation|name|epoch|recipe"):
        recipe_from(value)


def test_recipe_id_is_12_hex_digits() -> None:
    recipe_id = Recipe(epochs=1).recipe_id(DATA_HASH, mirror=True)
    assert len(recipe_id) == 12
    assert set(recipe_id) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "same",
    [
        {"name": "another"},
        {"lr": 1e-1},
        {"epochs": 5.0},
        {"augmentation": {}},
        {"augmentation": {"flip": 0}},
        {"train_size": None},
    ],
)
def test_recipe_id_is_equal_for_equal_settings(same: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"epochs": 5} | same)
    assert recipe.recipe_id(DATA_HASH, mirror=True) == Recipe(epochs=5).recipe_id(
        DATA_HASH, mirror=True
    )


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 6},
        {"batch_size": 64},
        {"optimizer": "adamw"},
        {"lr": 0.2},
        {"momentum": 0.8},
        {"weight_decay": 1e-4},
        {"schedule": "cosine"},
        {"label_smoothing": 0.1},
        {"augmentation": {"flip": 0.5}},
        {"train_size": 100},
    ],
)
def test_recipe_id_differs_with_each_setting(other: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"epochs": 5} | other)
    assert recipe.recipe_id(DATA_HASH, mirror=True) != Recipe(epochs=5).recipe_id(
        DATA_HASH, mirror=True
    )


def test_recipe_id_differs_with_the_pictures() -> None:
    assert Recipe(epochs=5).recipe_id(DATA_HASH, mirror=True) != Recipe(epochs=5).recipe_id(
        "ba9876543210", mirror=True
    )


# Augmentation

STEPS = {**ON_BYTES, **ON_FLOATS}


def test_crop_cuts_a_window_of_the_padded_picture() -> None:
    # 8 pixels, a quarter: a border of 2, and 5 x 5 windows; no pixel inside is 0
    x = torch.randint(1, 256, (400, 3, 8, 8), dtype=torch.uint8, generator=rng(1))
    y = crop(x, 0.25, rng())
    assert y.dtype == torch.uint8
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = set()
    for before, after in zip(padded, y.numpy(), strict=True):
        places = [
            (top, left)
            for top, left in product(range(5), repeat=2)
            if np.array_equal(before[:, top : top + 8, left : left + 8], after)
        ]
        assert len(places) == 1
        found.update(places)
    assert found == set(product(range(5), repeat=2))  # 400 draws of 25 miss one in 2e-6


def test_flip_of_share_one_mirrors_all() -> None:
    x = pictures(4)
    assert torch.equal(flip(x, 1.0, rng()), torch.from_numpy(x.numpy()[..., ::-1].copy()))


def test_flip_mirrors_its_share() -> None:
    x = pictures(1).expand(1000, -1, -1, -1)
    y = flip(x, 0.25, rng())
    mirrored = (y == x.flip(3)).all((1, 2, 3))
    assert ((y == x).all((1, 2, 3)) ^ mirrored).all()
    # binomial: 250, and five standard deviations of sqrt(1000 * 0.25 * 0.75) = 13.7
    assert abs(int(mirrored.sum()) - 250) < 69


def test_rotate_by_nothing_changes_nothing() -> None:
    x = pictures(2)
    torch.testing.assert_close(rotate(x, 0.0, rng()), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("degrees", "quarters"), [(180, 2), (90, 1), (-90, -1)])
def test_rotate_by_quarters_moves_the_pixels(
    degrees: float, quarters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nasattn.data.augment.uniform", lambda n, bound, _: torch.full((n, 1, 1, 1), float(bound))
    )
    x = pictures(2)
    expected = torch.rot90(x, quarters, (2, 3))
    torch.testing.assert_close(rotate(x, degrees, rng()), expected, rtol=0, atol=1e-4)


def test_rotate_turns_by_up_to_its_degrees_either_way() -> None:
    # Grey rises by 1 / 32 a column: twelve rows above the centre, a turn by a shows the grey of
    # 12 sin(a) columns aside, and interpolation is exact on a ramp.
    ramp = (torch.arange(33) / 32).expand(200, 3, 33, 33)
    aside = (rotate(ramp, 15.0, rng())[:, 0, 16 - 12, 16] - 0.5) * 32
    degrees = torch.rad2deg(torch.asin(aside / 12))
    assert degrees.abs().max() <= 15 + 1e-2
    assert degrees.min() < -13  # 200 draws of -15 .. 15 miss the lowest fifteenth in 1e-6
    assert degrees.max() > 13


def test_rotate_fills_corners_with_black() -> None:
    y = rotate(torch.ones(20, 3, 9, 9), 45.0, rng())
    assert ((y >= 0) & (y <= 1 + 1e-5)).all()
    assert (y[:, :, 0, 0] < 1).all()


def test_brightness_of_strength_zero_changes_nothing() -> None:
    x = pictures(3)
    torch.testing.assert_close(brightness(x, 0.0, rng()), x)


def test_brightness_scales_each_picture() -> None:
    x = pictures(200, 3, 0.1, 0.5)
    ratio = brightness(x, 0.3, rng()) / x  # at most 0.65: nothing is clamped
    factor = ratio[:, :1, :1, :1]
    torch.testing.assert_close(ratio, factor.expand_as(ratio))
    assert ((factor >= 0.7 - 1e-5) & (factor <= 1.3 + 1e-5)).all()
    assert factor.min() < 0.75  # 200 draws of 0.7 .. 1.3 miss the lowest twelfth in 3e-8
    assert factor.max() > 1.25


def test_brightness_stays_within_the_range() -> None:
    y = brightness(pictures(50), 1.0, rng())
    assert ((y >= 0) & (y <= 1)).all()


def test_contrast_keeps_the_mean_and_scales_the_distance() -> None:
    x = pictures(200, 4, 0.4, 0.6)
    y = contrast(x, 0.5, rng())  # 0.2 .. 0.8 at most: nothing is clamped
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y.mean((1, 2, 3), keepdim=True), mean)
    factor = y.std((1, 2, 3), keepdim=True) / x.std((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y - mean, (x - mean) * factor, rtol=0, atol=1e-5)
    assert ((factor >= 0.5 - 1e-4) & (factor <= 1.5 + 1e-4)).all()
    assert factor.min() < 0.6
    assert factor.max() > 1.4


def test_lighting_shifts_all_pixels_of_a_picture_alike() -> None:
    x = pictures(5)
    shift = lighting(x, 0.1, rng()) - x
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    assert len({round(value, 6) for value in shift[:, 0, 0, 0].tolist()}) == 5


def test_lighting_follows_the_colour_components() -> None:
    # The shift is V diag(eigenvalues) a with a ~ N(0, strength^2): its covariance is
    # strength^2 V diag(eigenvalues^2) V^T.
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    shift = lighting(torch.zeros(20_000, 3, 1, 1), 0.1, rng()).flatten(1).double().numpy()
    expected = 0.01 * vectors @ np.diag(values**2) @ vectors.T
    # the relative error of a covariance of 20,000 draws is sqrt(2 / 20,000) = 1 %
    np.testing.assert_allclose(np.cov(shift.T), expected, rtol=0.05)


@pytest.mark.parametrize("name", STEPS)
def test_augment_has_one_stream_a_seed(name: str) -> None:
    x = torch.randint(0, 256, (8, 3, 9, 9), dtype=torch.uint8, generator=rng(1))
    first, again, other = (augment(x, {name: 0.5}, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == x.shape


@pytest.mark.parametrize("name", STEPS)
def test_augment_leaves_its_input_alone(name: str) -> None:
    x = torch.randint(0, 256, (8, 3, 9, 9), dtype=torch.uint8, generator=rng(1))
    before = x.clone()
    augment(x, {name: 1.0}, rng())
    assert torch.equal(x, before)


def test_augment_without_steps_only_scales() -> None:
    x = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8, generator=rng(1))
    generator = rng()
    before = generator.get_state()
    y = augment(x, dict.fromkeys(STEPS, 0.0), generator)
    np.testing.assert_allclose(y.numpy(), x.numpy() / 255, rtol=1e-6)
    assert torch.equal(generator.get_state(), before)  # what is left out draws nothing


def test_normalise_gives_each_channel_mean_zero_and_spread_one() -> None:
    x = torch.from_numpy(noise_split(30, 2).images)
    y = Normalise.of(x)(to_float(x))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_normalise_of_a_flat_channel_is_finite() -> None:
    x = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    assert Normalise.of(x)(to_float(x)).abs().max() < 1e-3


# Batches and subsets


@pytest.mark.parametrize(("n", "batch_size", "n_batches"), [(10, 3, 3), (9, 3, 3), (4, 4, 1)])
def test_batches_hold_each_index_at_most_once(n: int, batch_size: int, n_batches: int) -> None:
    dealt = list(batches(n, batch_size, rng()))
    assert [len(batch) for batch in dealt] == [batch_size] * n_batches
    indices = torch.cat(dealt).tolist()
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(n))


def test_batches_leave_others_out_every_epoch() -> None:
    generator = rng()
    epochs = [tuple(torch.cat(list(batches(10, 3, generator))).tolist()) for _ in range(20)]
    assert len(set(epochs)) == 20
    assert {index for epoch in epochs for index in epoch} == set(range(10))


@pytest.mark.parametrize(
    ("size", "per_class"),
    [(3, [1, 1, 1]), (12, [6, 3, 3]), (20, [10, 5, 5]), (40, [20, 10, 10])],
)
def test_subset_takes_the_same_share_of_each_class(size: int, per_class: list[int]) -> None:
    labels = np.repeat(np.arange(3), (20, 10, 10))
    shuffled = np.random.default_rng(0).permutation(labels).astype(np.int64)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    part = subset(Split(images, shuffled), size)
    assert np.bincount(part.labels).tolist() == per_class
    chosen = part.images[:, 0, 0, 0]
    assert np.array_equal(part.labels, shuffled[chosen])  # pictures keep their labels
    for label, n in enumerate(per_class):
        members = set(np.flatnonzero(shuffled == label).tolist())
        own = set(chosen[part.labels == label].tolist())
        assert len(own) == n
        assert own <= members
    assert np.array_equal(chosen, subset(Split(images, shuffled), size).images[:, 0, 0, 0])


@pytest.mark.parametrize("size", [None, 24, 1000])
def test_subset_of_all_is_the_split(size: int | None) -> None:
    split = noise_split(24, 3)
    assert subset(split, size) is split


def test_train_model_trains_on_the_subset_alone() -> None:
    data = make_data(24)
    numbered = np.arange(24, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    chosen = subset(Split(numbered, data.train.labels), 9).images[:, 0, 0, 0]
    spoilt = np.full_like(data.train.images, 255)
    spoilt[chosen] = data.train.images[chosen]
    other = ImageData(**(vars(data) | {"train": Split(spoilt, data.train.labels)}))
    recipe = Recipe(epochs=2, batch_size=3, train_size=9)
    assert equal(train(recipe, data), train(recipe, other))
    whole = recipe.model_copy(update={"train_size": None})
    assert not equal(train(whole, data), train(whole, other))


def test_epochs_but_the_last_are_judged_by_the_watched() -> None:
    data = make_data(24)
    whole, few = (Recipe(epochs=2, batch_size=8, watch_size=size) for size in (None, 2))
    split = data.val_search
    some = ImageData(**(vars(data) | {"val_search": subset(split, 2)}))
    curves = [
        train_model(make_net(), pictures, recipe, seed=0)
        for pictures, recipe in ((data, whole), (data, few), (some, whole))
    ]
    every, watched, spared = ([epoch.top1 for epoch in curve] for curve in curves)
    assert watched == [spared[0], every[1]]


@pytest.mark.parametrize(("n_steps", "n_last"), [(9, 2), (8, 2), (3, 1), (1, 1)])
def test_end_loss_is_that_of_the_last_quarter(
    monkeypatch: pytest.MonkeyPatch, n_steps: int, n_last: int
) -> None:
    losses, real = [], cross_entropy

    def listen(*args: Any, **options: Any) -> Tensor:
        losses.append(found := real(*args, **options))
        return found

    monkeypatch.setattr("nasattn.train.loop.cross_entropy", listen)
    recipe = Recipe(epochs=2, batch_size=2, train_size=2 * n_steps)
    curve = train_model(make_net(), make_data(24), recipe, seed=0)
    for epoch, own in zip(curve, torch.stack(losses).detach().view(2, n_steps), strict=True):
        assert epoch.loss == pytest.approx(own.mean().item())
        assert epoch.end_loss == pytest.approx(own[-n_last:].mean().item())


# Training

FULL = Augmentation(crop=0.1, flip=0.5, rotate=10, brightness=0.1, contrast=0.1, lighting=0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_train_model_repeats_bit_by_bit(optimizer: Any) -> None:
    recipe = Recipe(epochs=2, batch_size=8, lr=0.01, optimizer=optimizer, augmentation=FULL)
    nets = [make_net() for _ in range(3)]
    curves = []
    for net, seed, noise in zip(nets, (1, 1, 2), (5, 6, 5), strict=True):
        torch.manual_seed(noise)  # the global generator is no part of it
        curve = train_model(net, make_data(), recipe, seed=seed)
        curves.append([(epoch.number, epoch.loss, epoch.top1) for epoch in curve])
    first, again, other = (net.state_dict() for net in nets)
    assert equal(first, again)
    assert curves[0] == curves[1]
    assert not equal(first, other)
    assert curves[0] != curves[2]


def test_train_model_learns_an_easy_set() -> None:
    net = make_net()
    seen: list[Epoch] = []
    recipe = Recipe(epochs=8, batch_size=8, lr=0.02)
    curve = train_model(net, make_data(), recipe, seed=0, on_epoch=seen.append)
    assert seen == curve
    assert [epoch.number for epoch in curve] == list(range(1, 9))
    assert curve[0].loss > 2 * curve[-1].loss
    assert curve[-1].loss < math.log(3) / 2  # log(3) is the loss of knowing nothing
    assert curve[-1].top1 > 0.9
    assert all(epoch.seconds >= 0 for epoch in curve)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("n", [6, 24])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_train_model_runs_every_optimizer_and_schedule(
    schedule: Any, optimizer: Any, n: int, epochs: int
) -> None:
    # 6 pictures are fewer than a batch: one step an epoch
    recipe = Recipe(epochs=epochs, batch_size=8, lr=1e-3, schedule=schedule, optimizer=optimizer)
    curve = train_model(make_net(), make_data(n), recipe, seed=0)
    assert [epoch.number for epoch in curve] == list(range(1, epochs + 1))
    assert all(math.isfinite(epoch.loss) and 0 <= epoch.top1 <= 1 for epoch in curve)


@pytest.fixture
def lrs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step that a training takes."""
    taken: list[float] = []

    def spy(make: Callable[[nn.Module, Recipe], Optimizer]) -> Any:
        def make_and_watch(model: nn.Module, recipe: Recipe) -> Optimizer:
            optimizer = make(model, recipe)
            optimizer.register_step_pre_hook(
                lambda opt, *_: taken.append(float(opt.param_groups[0]["lr"]))
            )
            return optimizer

        return make_and_watch

    for name, make in OPTIMIZERS.items():
        monkeypatch.setitem(OPTIMIZERS, name, spy(make))
    return taken


def test_schedule_constant_keeps_the_lr(lrs: list[float]) -> None:
    train(Recipe(epochs=7, batch_size=8, lr=0.01))
    assert lrs == [0.01] * 21


def test_schedule_step_divides_by_ten_after_its_epochs(lrs: list[float]) -> None:
    recipe = Recipe(epochs=5, batch_size=8, lr=0.01, schedule="step", step_epochs=2)
    train(recipe)  # 24 pictures: three steps an epoch
    expected = [lr for lr in (0.01, 0.01, 0.001, 0.001, 0.0001) for _ in range(3)]
    assert lrs == pytest.approx(expected)


def test_schedule_cosine_is_half_a_wave(lrs: list[float]) -> None:
    train(Recipe(epochs=4, batch_size=8, lr=0.01, schedule="cosine"))
    assert lrs == pytest.approx([0.005 * (1 + math.cos(math.pi * t / 12)) for t in range(12)])


def test_schedule_onecycle_rises_and_falls(lrs: list[float]) -> None:
    train(Recipe(epochs=4, batch_size=3, lr=0.01, schedule="onecycle"))  # 32 steps
    top = lrs.index(max(lrs))
    assert 0 < top < 16  # the first three tenths rise
    assert max(lrs) <= 0.01
    assert max(lrs) == pytest.approx(0.01, rel=0.02)
    assert lrs[: top + 1] == sorted(lrs[: top + 1])
    assert lrs[top:] == sorted(lrs[top:], reverse=True)
    assert lrs[-1] < 0.01 / 1000


def test_schedule_onecycle_takes_a_real_step_when_there_is_one(lrs: list[float]) -> None:
    train(Recipe(epochs=1, batch_size=24, lr=0.01, schedule="onecycle"))
    assert len(lrs) == 1
    assert lrs[0] > 0.01 / 1000


def test_schedule_plateau_lowers_the_lr_after_eleven_epochs_without_gain(
    lrs: list[float],
) -> None:
    # An lr that moves no answer, and no running statistics: epoch 1 sets the best, epochs 2 to 12
    # do not beat it, and eleven are more than the patience of ten.
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    recipe = Recipe(epochs=14, batch_size=24, lr=1e-6, schedule="plateau")
    curve = train_model(net, make_data(), recipe, seed=0)
    assert len({epoch.top1 for epoch in curve}) == 1
    assert lrs == pytest.approx([1e-6] * 12 + [1e-7] * 2, abs=0)


def test_train_model_does_not_mirror_where_that_changes_the_class() -> None:
    digits, animals = make_data(mirror=False), make_data(mirror=True)
    upright = Recipe(epochs=1, batch_size=8, lr=0.01)
    mirrored = upright.model_copy(update={"augmentation": Augmentation(flip=1.0)})
    assert equal(train(mirrored, digits), train(upright, digits))
    assert not equal(train(mirrored, animals), train(upright, animals))


def test_train_model_watches_val_search_alone() -> None:
    data = make_data()
    blank = Split(np.zeros_like(data.val_select.images), data.val_select.labels)
    recipe = Recipe(epochs=2, batch_size=8, lr=0.01)
    curves = [
        [(epoch.loss, epoch.top1) for epoch in train_model(make_net(), d, recipe, seed=0)]
        for d in (data, ImageData(**(vars(data) | {"val_select": blank})))
    ]
    assert curves[0] == curves[1]


def test_train_model_raises_when_the_loss_is_not_finite() -> None:
    recipe = Recipe(epochs=5, batch_size=8, lr=1e30)
    with pytest.raises(EvaluationError, match=r"the loss is (nan|inf) after epoch 1 \(lr 1e\+30\)"):
        train_model(make_net(), make_data(), recipe, seed=0)


def test_train_model_raises_when_the_last_step_breaks_the_network() -> None:
    # One step: its loss is that of the first weights, and after it no output is a number. argmax
    # would take nan for the highest logit and answer class 0, which is right for a third.
    recipe = Recipe(epochs=1, batch_size=24, lr=1e38)
    with pytest.raises(EvaluationError, match="not"):
        train_model(make_net(), make_data(), recipe, seed=0)


# Accuracy


class Brightest(nn.Module):
    """A classifier by hand: the class is the brightest channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("n", [4, 256, 300, 1024])
def test_evaluate_top1_is_the_share_that_is_right(n: int) -> None:
    brightest = np.arange(n) % 3
    images = np.zeros((n, 3, 4, 4), np.uint8)
    images[np.arange(n), brightest] = 200
    labels = brightest.astype(np.int64)
    labels[::4] = (labels[::4] + 1) % 3  # every fourth label is wrong
    net = Brightest().train()
    plain = Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert evaluate_top1(net, Split(images, labels), plain) == 0.75
    assert not net.training


def test_evaluate_top1_takes_no_nan_for_an_answer() -> None:
    split = Split(np.zeros((3, 3, 4, 4), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(EvaluationError, match="not"):
        evaluate_top1(Brightest(), split, Normalise((math.nan,) * 3, (1.0,) * 3))


def test_evaluate_top1_normalises() -> None:
    images = np.zeros((1, 3, 4, 4), np.uint8)
    images[0, :] = np.array([51, 102, 153], np.uint8)[:, None, None]  # 0.2, 0.4, 0.6
    split = Split(images, np.array([1]))
    # (0.2 - 0.1) / 1, (0.4 - 0) / 0.1, (0.6 - 0.5) / 1: channel 1 is the highest
    assert evaluate_top1(Brightest(), split, Normalise((0.1, 0.0, 0.5), (1.0, 0.1, 1.0))) == 1.0
    assert evaluate_top1(Brightest(), split, Normalise((0.0,) * 3, (1.0,) * 3)) == 0.0


# Checkpoints


class Stop(Exception):
    """The power goes."""


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), make_net())


def curve_and_weights(
    recipe: Recipe, checkpoint: Checkpoint | None, stop_after: int | None = None
) -> tuple[list[tuple[float, ...]], dict[str, Tensor]]:
    """Train a network with dropout in a process that may be cut short."""

    def stop(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise Stop

    net = dropout_net()
    torch.manual_seed(7)
    curve = train_model(net, make_data(), recipe, seed=1, checkpoint=checkpoint, on_epoch=stop)
    return [astuple(epoch)[:3] for epoch in curve], net.state_dict()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_train_model_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, optimizer: Any, schedule: Any
) -> None:
    recipe = Recipe(
        epochs=5, batch_size=8, lr=0.01, optimizer=optimizer, schedule=schedule, augmentation=FULL
    )
    recipe = recipe.model_copy(update={"step_epochs": 2})
    whole_curve, whole = curve_and_weights(recipe, None)
    for stop_after in (1, 2, 5):
        checkpoint = Checkpoint(tmp_path / f"{stop_after}.pt", {"seed": 1})
        with pytest.raises(Stop):
            curve_and_weights(recipe, checkpoint, stop_after)
        torch.manual_seed(99)  # another process
        curve, weights = curve_and_weights(recipe, checkpoint)
        assert curve == whole_curve
        assert equal(weights, whole)


def test_train_model_waits_for_the_plateau_across_a_stop(tmp_path: Path, lrs: list[float]) -> None:
    # As without a stop: twelve epochs, the patience counted before and after it
    recipe = Recipe(epochs=14, batch_size=24, lr=1e-6, schedule="plateau")
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    for stop_after in (6, None):

        def stop(epoch: Epoch, last: int | None = stop_after) -> None:
            if epoch.number == last:
                raise Stop

        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
        try:
            train_model(net, make_data(), recipe, seed=0, on_epoch=stop, checkpoint=checkpoint)
        except Stop:
            assert len(lrs) == 6
    assert lrs == pytest.approx([1e-6] * 12 + [1e-7] * 2, abs=0)


def test_train_model_without_a_checkpoint_file_starts_anew(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=8, lr=0.01)
    checkpoint = Checkpoint(tmp_path / "c.pt", {"seed": 1})
    assert curve_and_weights(recipe, checkpoint)[0] == curve_and_weights(recipe, None)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_checkpoint_is_of_one_training(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    then = {"seed": 1, "recipe": {"lr": 0.1, "epochs": 2}, "data": "a", "init": ""}
    curve_and_weights(Recipe(epochs=1, batch_size=8), Checkpoint(path, then))
    assert Checkpoint(path, then).read() is not None
    now = {"seed": 2, "recipe": {"lr": 0.2, "epochs": 2}, "data": "b", "init": "c"}
    message = "c.pt: is of another .*data: a then, b now; .*recipe.lr: 0.1 then, 0.2 now and 1 more"
    with pytest.raises(EvaluationError, match=message):
        Checkpoint(path, now).read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a checkpoint, or a damaged one"),
        (b"garbage", "not a checkpoint, or a damaged one"),
        ({"layout": 0}, "not a checkpoint of this version"),
        ([1], "not a checkpoint of this version"),
    ],
)
def test_checkpoint_refuses(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "c.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(EvaluationError, match=f"c.pt: {message}"):
        Checkpoint(path, {}).read()


def test_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    curve_and_weights(Recipe(epochs=1, batch_size=8), checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-200])
    with pytest.raises(EvaluationError, match="damaged"):
        checkpoint.read()


def test_checkpoint_says_where_it_cannot_be_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "no" / "c.pt", {})
    with pytest.raises(EvaluationError, match=r"c.pt: cannot be written \(No such file"):
        curve_and_weights(Recipe(epochs=1, batch_size=8), checkpoint)


# Metrics

PLAIN = Normalise((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Told(nn.Module):
    """A classifier that answers what the first pixels say: logits of 7 classes in a column."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, :7, 0]


def told(n: int = 600) -> tuple[Split, np.ndarray[Any, Any]]:
    """Pictures of random logits, all different, and random labels of 7 classes."""
    noise = np.random.default_rng(0)
    images = np.zeros((n, 3, 8, 8), np.uint8)
    logits = np.array([noise.permutation(7) * 30 for _ in range(n)], np.uint8)
    images[:, 0, :7, 0] = logits
    return Split(images, noise.integers(0, 7, n)), logits


def test_measure_answers_counts_as_numpy_does() -> None:
    split, logits = told()
    answers = measure_answers(Told(), split, PLAIN, 7)
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (split.labels, logits.argmax(1)), 1)
    assert np.array_equal(answers.confusion, expected)
    assert answers.top1 == Share(int((logits.argmax(1) == split.labels).sum()), 600)
    ranked = np.argsort(-logits.astype(int), axis=1)
    right = (ranked[:, :5] == split.labels[:, None]).any(1).sum()
    assert answers.top5 == Share(int(right), 600)
    for label, share in enumerate(answers.by_class()):
        own = split.labels == label
        assert share == Share(int((logits[own].argmax(1) == label).sum()), int(own.sum()))


def test_measure_answers_agrees_with_evaluate_top1() -> None:
    split = noise_split(300, 3, seed=3)
    net = make_net()
    answers = measure_answers(net, split, PLAIN, 3)
    assert answers.top1.value == evaluate_top1(net, split, PLAIN)
    assert answers.top5 is None  # of three classes the first five are always right


def test_answers_mistakes_come_in_order() -> None:
    confusion = np.array([[9, 2, 0], [5, 8, 0], [0, 2, 7]])
    mistakes = list(Answers(confusion, None).mistakes())
    assert mistakes == [(1, 0, 5), (0, 1, 2), (2, 1, 2)]
    assert list(Answers(np.diag([3, 4]), None).mistakes()) == []


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Wilson: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.96
        (915, 1000, 0.8961, 0.9307),
        (0, 10, 0.0, 0.2775),  # z2 / (n + z2) = 3.8416 / 13.8416
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_share_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    assert Share(right, n).interval == pytest.approx((low, high), abs=1e-4)


def test_share_of_nothing_is_no_number() -> None:
    assert math.isnan(Share(0, 0).value)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_predict_keeps_the_order() -> None:
    split, logits = told(600)  # more than two batches
    pairs = list(predict(Told(), split, PLAIN))
    assert [len(y) for _, y in pairs] == [256, 256, 88]
    found = torch.cat([x for x, _ in pairs]).numpy()
    np.testing.assert_allclose(found, logits / 255, rtol=1e-6)
    assert torch.cat([y for _, y in pairs]).tolist() == split.labels.tolist()

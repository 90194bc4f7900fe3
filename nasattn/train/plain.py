"""The loop that everybody writes: pictures one by one by torchvision, a DataLoader, torch as it is.

What `nasattn.train.loop` is measured against. Nobody trains by it.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from nasattn.data import ImageData, Split
from nasattn.data.augment import ON_FLOATS, Normalise
from nasattn.errors import StudyError
from nasattn.train.loop import SCHEDULES, Epoch, subset, to_tensors
from nasattn.train.recipe import Recipe

OPTIMIZERS: dict[str, Callable[[nn.Module, Recipe], Optimizer]] = {
    "sgd": lambda model, r: SGD(
        model.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay
    ),
    "adamw": lambda model, r: AdamW(
        model.parameters(), lr=r.lr, betas=(r.momentum, 0.999), weight_decay=r.weight_decay
    ),
}


class Pictures(Dataset[tuple[Tensor, int]]):
    """A split as torchvision's CIFAR10 gives it: each picture a PIL image, then transformed."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = split.images.transpose(0, 2, 3, 1)  # (N, H, W, C)
        self.labels, self.transform = split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def train_plainly(model: nn.Module, data: ImageData, recipe: Recipe, *, seed: int) -> list[Epoch]:
    """Train in place on the CPU, to the same end as `train_model` but for the random numbers.

    Conditional blocks keep the thresholds that they have. Raises StudyError for a recipe with a
    step that is not done here.
    """
    check_plain(recipe)
    train = subset(data.train, recipe.train_size)
    normalise = Normalise.of(to_tensors(train, "cpu")[0])
    rng = Generator().manual_seed(seed)
    batch_size = min(recipe.batch_size, len(train))
    usual = [transforms.ToTensor(), transforms.Normalize(normalise.mean, normalise.std)]
    changes = transforms.Compose([*changes_of(data, recipe), *usual])
    loader = DataLoader(
        Pictures(train, changes), batch_size, shuffle=True, drop_last=True, generator=rng
    )
    # The last epoch is judged by all of val-search, as in ours.
    judges = [
        DataLoader(Pictures(subset(data.val_search, size), transforms.Compose(usual)), batch_size)
        for size in (recipe.watch_size, None)
    ]
    optimizer = OPTIMIZERS[recipe.optimizer](model, recipe)
    schedule = SCHEDULES[recipe.schedule](optimizer, recipe, len(loader))
    curve = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the transforms' and dropout's
        for number in range(1, recipe.epochs + 1):
            start = time.perf_counter()
            model.train()
            total = 0.0
            for x, y in loader:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()
                total += loss.item()
            top1 = share_right(model, judges[number == recipe.epochs])
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(1 - top1)
            seconds = time.perf_counter() - start
            curve.append(Epoch(number, total / len(loader), top1, seconds))
    return curve


def changes_of(data: ImageData, recipe: Recipe) -> Iterator[Callable[[Any], Any]]:
    """The recipe's random changes of a PIL image."""
    strengths = recipe.strengths(mirror=data.mirror)
    if strengths["crop"]:
        border = max(round(strengths["crop"] * data.resolution), 1)
        yield transforms.RandomCrop(data.resolution, padding=border)
    if strengths["flip"]:
        yield transforms.RandomHorizontalFlip(strengths["flip"])


def share_right(model: nn.Module, loader: "DataLoader[tuple[Tensor, int]]") -> float:
    """Top-1, a fraction."""
    model.eval()
    right = n = 0
    with torch.no_grad():
        for x, y in loader:
            right += int((model(x).argmax(1) == y).sum())
            n += len(y)
    return right / n


def check_plain(recipe: Recipe) -> None:
    """StudyError for a recipe with a step that this loop does not do."""
    steps = {name: getattr(recipe.augmentation, name) for name in ON_FLOATS}
    steps |= {"head_epochs": recipe.head_epochs, "thaw_epochs": recipe.thaw_epochs}
    steps |= {"quantise": recipe.quantise != "none"}
    if asked := [name for name, strength in steps.items() if strength]:
        raise StudyError(
            f"recipe {recipe.name!r}: the plain loop does no {asked[0]}; "
            "its steps are crop and flip alone"
        )

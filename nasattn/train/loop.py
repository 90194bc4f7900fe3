"""The training loop, to be read once from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from nasattn.blocks.shortcut import gates_of, settle_gates
from nasattn.data import ImageData, Split
from nasattn.data.augment import Normalise, augment, to_float
from nasattn.errors import EvaluationError
from nasattn.train.checkpoint import Checkpoint, Stateful
from nasattn.train.distil import Distil
from nasattn.train.fake_int8 import FakeInt8, Ranges
from nasattn.train.fast.swap import keep_memory, own_kernels
from nasattn.train.recipe import Recipe
from nasattn.train.thaw import thawing
from nasattn.turns import FREE, Turns

EVAL_BATCH = 256
SETTLE_BATCH = 512  # training pictures, at most, by which conditional blocks set thresholds


@dataclass(frozen=True)
class Epoch:
    """A row of a learning curve: mean training loss, top-1 (a fraction) on val-search."""

    number: int  # from 1
    loss: float
    top1: float
    seconds: float
    end_loss: float | None = None  # the mean over the last quarter of its steps


OPTIMIZERS: dict[str, Callable[[nn.Module, Recipe], Optimizer]] = {
    "sgd": lambda model, r: SGD(
        model.parameters(),
        r.lr,
        momentum=r.momentum,
        weight_decay=r.weight_decay,
        fused=not (r.head_epochs or r.thaw_epochs),  # it fails where some have no momentum yet
    ),
    "adamw": lambda model, r: AdamW(
        model.parameters(), r.lr, betas=(r.momentum, 0.999), weight_decay=r.weight_decay, fused=True
    ),
}

# Every schedule moves once a step, but for `plateau`, which looks at each epoch's validation.
SCHEDULES: dict[str, Callable[[Optimizer, Recipe, int], LRScheduler]] = {
    "constant": lambda opt, r, n: ConstantLR(opt, factor=1.0),
    "cosine": lambda opt, r, n: CosineAnnealingLR(opt, T_max=r.epochs * n),
    "onecycle": lambda opt, r, n: OneCycleLR(
        # A cycle of one step would take its last lr, a 250,000th of the highest.
        opt,
        max_lr=r.lr,
        total_steps=max(r.epochs * n, 2),
        cycle_momentum=False,
    ),
    "plateau": lambda opt, r, n: ReduceLROnPlateau(opt, factor=0.1, patience=10),
    "step": lambda opt, r, n: StepLR(opt, step_size=r.step_epochs * n, gamma=0.1),
}


def train_model(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    turns: Turns = FREE,
    distil: Distil | None = None,
    normalise: Normalise | None = None,
) -> list[Epoch]:
    """Train in place on data.train, watching data.val_search; returns the learning curve.

    `seed` alone decides order and augmentation. With a `checkpoint` a training that was stopped
    goes on after its last whole epoch, to the same weights as if it had not been stopped (dropout
    included). Each epoch waits for its turn. With `distil` the loss is mixed with its teachers'.
    A recipe of low precision trains in it, and is judged in float32, as is one that compiles.
    By a recipe that quantises, the curve is that of the rounded network, the weights are plain.
    `normalise` is that of weights from elsewhere; None: by the training pictures. Raises
    EvaluationError when the loss is not finite.
    """
    images, labels = to_tensors(subset(data.train, recipe.train_size), device)
    watched = subset(data.val_search, recipe.watch_size)
    norm = normalise or Normalise.of(images)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = OPTIMIZERS[recipe.optimizer](model, recipe)
    parts: dict[str, Stateful] = {"model": model}
    network = model
    if recipe.quantise == "int8":
        parts["ranges"] = ranges = Ranges()
        network = FakeInt8(model, ranges)
    answer: Callable[[Tensor], Tensor] = network
    if recipe.compile != "none":
        answer = torch.compile(network, mode=recipe.compile)
    low = torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
    )
    keep_memory()
    with ExitStack() as stack:
        if answer is model and recipe.precision == "float32":  # all else is left to torch
            stack.enter_context(own_kernels(model))
        mix = stack.enter_context(distil.teaching(model, to_float(images[:1]))) if distil else None
        thaw = stack.enter_context(thawing(model, recipe))

        def begin(epoch: int) -> None:
            network.train()
            thaw(epoch)

        def learn(x: Tensor, y: Tensor) -> Tensor:
            with low:
                logits = answer(norm(x))
                loss = cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
                if mix:
                    loss = mix(loss, logits, x)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        def judge(epoch: int) -> float:
            if gates_of(model):
                some = images[:: len(images) // SETTLE_BATCH + 1]
                settle_gates(network, norm(to_float(some)))
            pictures = watched if epoch < recipe.epochs else data.val_search
            return evaluate_top1(network, pictures, norm, device=device)

        return run_epochs(
            (images, labels),
            recipe,
            optimizer,
            Steps(begin, learn, judge),
            parts,
            seed=seed,
            mirror=data.mirror,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            turns=turns,
        )


@dataclass(frozen=True)
class Steps:
    """What is done in a training; `run_epochs` says when."""

    begin: Callable[[int], None]  # an epoch, by its number
    # x (B, C, H, W), augmented but not normalised, labels (B,) -> the loss, its gradients added
    learn: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[int], float]  # top-1 after an epoch


def run_epochs(
    pictures: tuple[Tensor, Tensor],
    recipe: Recipe,
    optimizer: Optimizer,
    steps: Steps,
    parts: Mapping[str, Stateful],
    *,
    seed: int,
    mirror: bool,
    on_epoch: Callable[[Epoch], None],
    checkpoint: Checkpoint | None,
    turns: Turns,
) -> list[Epoch]:
    """The loop over epochs and batches of any training: its learning curve. See `train_model`.

    `pictures`: uint8 images (N, C, H, W), labels (N,). `parts` is what a checkpoint holds beside
    optimiser and schedule; `mirror`: whether a mirror image keeps its class.
    """
    rng = Generator().manual_seed(seed)
    images, labels = pictures
    strengths = recipe.strengths(mirror=mirror)
    batch_size = min(recipe.batch_size, len(images))
    n_steps = len(images) // batch_size
    schedule = SCHEDULES[recipe.schedule](optimizer, recipe, n_steps)
    parts = {**parts, "optimizer": optimizer, "schedule": schedule}
    curve = [Epoch(*row) for row in checkpoint.restore(parts, rng)] if checkpoint else []
    for number in range(len(curve) + 1, recipe.epochs + 1):
        with turns.training():
            start = time.perf_counter()
            steps.begin(number)
            losses = torch.zeros(n_steps, device=images.device)
            for step, batch in enumerate(batches(len(images), batch_size, rng)):
                optimizer.zero_grad()
                losses[step] = steps.learn(augment(images[batch], strengths, rng), labels[batch])
                optimizer.step()
                if not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()
            mean_loss = losses.mean().item()
            end_loss = losses[-max(n_steps // 4, 1) :].mean().item()
            if not math.isfinite(mean_loss):
                raise EvaluationError(
                    f"the loss is {mean_loss} after epoch {number} (lr {recipe.lr:g})"
                )
            top1 = steps.judge(number)
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(1 - top1)
        seconds = time.perf_counter() - start
        curve.append(Epoch(number, mean_loss, top1, seconds, end_loss))
        if checkpoint:
            checkpoint.save(parts, rng, [astuple(epoch) for epoch in curve])
        on_epoch(curve[-1])
    return curve


def batches(n: int, batch_size: int, rng: Generator) -> Iterator[Tensor]:
    """Indices of shuffled full batches; what is left over sits out this epoch."""
    order = torch.randperm(n, generator=rng)
    yield from torch.split(order[: n - n % batch_size], batch_size)


def subset(split: Split, size: int | None) -> Split:
    """`size` pictures, the same share of every class: one draw for all networks and seeds."""
    if size is None or size >= len(split):
        return split
    labels = torch.from_numpy(np.require(split.labels, requirements="W"))
    rng = Generator().manual_seed(0)
    rank = torch.empty(len(labels))  # a picture's place in its shuffled class, 0 .. 1
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        rank[members] = torch.randperm(len(members), generator=rng) / len(members)
    chosen = rank.argsort(stable=True)[:size].sort().values.numpy()
    return Split(split.images[chosen], split.labels[chosen])


def to_tensors(split: Split, device: str) -> tuple[Tensor, Tensor]:
    """uint8 images (N, C, H, W) and int64 labels (N,) on the device."""
    # What came by way of Ray cannot be written to, of which torch warns.
    images, labels = (np.require(array, requirements="W") for array in (split.images, split.labels))
    return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, normalise: Normalise, *, device: str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, classes) and labels (B,) of each batch, in the split's order.

    Raises EvaluationError when a logit is not a number.
    """
    model.eval()
    images, labels = to_tensors(split, device)
    pairs = zip(torch.split(images, EVAL_BATCH), torch.split(labels, EVAL_BATCH), strict=True)
    for x, y in pairs:
        logits = model(normalise(to_float(x)))
        if logits.isnan().any():  # argmax would take nan for the highest
            raise EvaluationError("the network's outputs are not numbers")
        yield logits, y


def evaluate_top1(
    model: nn.Module, split: Split, normalise: Normalise, *, device: str = "cpu"
) -> float:
    """The share of pictures whose highest logit is their class."""
    answers = predict(model, split, normalise, device=device)
    return sum(int((logits.argmax(1) == y).sum()) for logits, y in answers) / len(split)

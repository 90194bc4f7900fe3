"""Training a detector, to be read once from top to bottom, and scoring it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torchvision.models.detection import FasterRCNN

from nasattn.data.augment import to_float
from nasattn.detect.coco import CocoSplit, Picture, check_objects
from nasattn.detect.pictures import Sample, sample_batches
from nasattn.detect.score import Found, Scores, score
from nasattn.errors import EvaluationError
from nasattn.spec import Spec
from nasattn.train.checkpoint import Checkpoint, Stateful
from nasattn.train.recipe import Share
from nasattn.turns import FREE, Turns

EVAL_BATCH = 8


class DetectRecipe(Spec):
    """SGD with a linear warm-up and a cosine; the only augmentation is the mirror image."""

    epochs: Annotated[int, Field(gt=0, le=100_000)] = 12
    batch_size: PositiveInt = 4
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.02
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 500  # but at most one epoch
    max_norm: PositiveFloat = 10.0  # gradients are scaled down to this length
    flip: Share = 0.5


@dataclass(frozen=True)
class DetectEpoch:
    """A row of a learning curve: mean training loss, whole and by part, and scores on val."""

    number: int  # from 1
    loss: float
    parts: dict[str, float]
    scores: Scores
    seconds: float

    @classmethod
    def of(cls, row: Sequence[Any]) -> "DetectEpoch":
        """From a row of a checkpoint's curve."""
        number, loss, parts, scores, seconds = row
        return cls(number, loss, parts, Scores.of(scores), seconds)

    def as_row(self) -> tuple[Any, ...]:
        """Plain values, in the order of the fields."""
        return self.number, self.loss, self.parts, asdict(self.scores), self.seconds


OnStep = Callable[[int, int], None]  # (steps done, steps of the epoch)


def train_detector(
    model: FasterRCNN,
    train: CocoSplit,
    val: CocoSplit,
    recipe: DetectRecipe,
    *,
    resolution: int,
    seed: int,
    device: str = "cpu",
    on_step: OnStep = lambda done, steps: None,
    on_epoch: Callable[[DetectEpoch], None] = lambda epoch: None,
    checkpoint: Checkpoint | None = None,
    turns: Turns = FREE,
) -> list[DetectEpoch]:
    """Train in place on `train`, watching `val`; returns the learning curve.

    `seed` alone decides order, mirror images and which boxes are sampled; on one processor equal
    seeds give equal weights. With a `checkpoint` a training that was stopped goes on after its
    last whole epoch, to the same weights as if it had not been stopped. Each step waits for its
    turn. Raises EvaluationError when the loss is not finite, DataError where `val` shows no object.
    """
    check_objects(val)
    rng = Generator().manual_seed(seed)
    model.to(device)
    batch_size = min(recipe.batch_size, len(train.pictures))
    steps = len(train.pictures) // batch_size
    optimizer = SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    schedule = LambdaLR(optimizer, lr_factor(recipe, steps))
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # torchvision samples boxes, and dropout units, by this generator
        curve = [DetectEpoch.of(r) for r in checkpoint.restore(parts, rng)] if checkpoint else []
        for number in range(len(curve) + 1, recipe.epochs + 1):
            start = time.perf_counter()
            model.train()
            total: dict[str, Tensor] = {}
            order = torch.randperm(len(train.pictures), generator=rng).tolist()
            batches = [
                [train.pictures[i] for i in order[step * batch_size : (step + 1) * batch_size]]
                for step in range(steps)  # what is left over sits out this epoch
            ]
            for step, samples in enumerate(sample_batches(batches, resolution), 1):
                with turns.training():  # an epoch may take hours
                    mirrored = (torch.rand(batch_size, generator=rng) < recipe.flip).tolist()
                    samples = tuple(
                        sample.flipped() if flip else sample
                        for sample, flip in zip(samples, mirrored, strict=True)
                    )
                    losses: dict[str, Tensor] = model(*inputs(samples, device))
                    loss = torch.stack(tuple(losses.values())).sum()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.max_norm)
                    optimizer.step()
                    schedule.step()
                    for name, part in losses.items():
                        total[name] = (
                            total.get(name, torch.zeros((), device=device)) + part.detach()
                        )
                    on_step(step, steps)
            means = {name: part.item() / steps for name, part in total.items()}
            mean_loss = sum(means.values())
            if not math.isfinite(mean_loss):
                raise EvaluationError(
                    f"the loss is {mean_loss} after epoch {number} (lr {recipe.lr:g});"
                    " try a lower one"
                )
            scores = evaluate_detector(model, val, resolution=resolution, device=device)
            seconds = time.perf_counter() - start
            curve.append(DetectEpoch(number, mean_loss, means, scores, seconds))
            if checkpoint:
                checkpoint.save(parts, rng, [epoch.as_row() for epoch in curve])
            on_epoch(curve[-1])
    return curve


def lr_factor(recipe: DetectRecipe, steps: int) -> Callable[[int], float]:
    """Share of the learning rate at a step: up in a line, then down along half a cosine."""
    warmup = min(recipe.warmup_steps, steps)

    def factor(step: int) -> float:
        rising = min((step + 1) / (warmup + 1), 1.0)
        return rising * (1 + math.cos(math.pi * step / (recipe.epochs * steps))) / 2

    return factor


def inputs(samples: Sequence[Sample], device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Pictures and targets as torchvision takes them."""
    images = [to_float(sample.image.to(device)) for sample in samples]
    targets = [{"boxes": s.boxes.to(device), "labels": s.labels.to(device)} for s in samples]
    return images, targets


@torch.inference_mode()
def evaluate_detector(
    model: nn.Module, split: CocoSplit, *, resolution: int, device: str = "cpu"
) -> Scores:
    """COCO's average precision on a split, in pixels of its files."""
    check_objects(split)
    model.to(device).eval()
    found: list[Found] = []
    pictures = split.pictures
    batches: list[Sequence[Picture]] = [
        pictures[i : i + EVAL_BATCH] for i in range(0, len(pictures), EVAL_BATCH)
    ]
    for samples in sample_batches(batches, resolution):
        outputs = model(inputs(samples, device)[0])
        found += (in_the_file(s, output) for s, output in zip(samples, outputs, strict=True))
    return score(pictures, found, split.classes)


def in_the_file(sample: Sample, output: dict[str, Tensor]) -> Found:
    """A detector's output for a sample, in pixels of the picture's file."""
    boxes = output["boxes"].cpu() / sample.scale  # (n, 4)
    return Found(
        boxes.double().numpy(),
        output["labels"].cpu().numpy(),
        output["scores"].cpu().double().numpy(),
    )

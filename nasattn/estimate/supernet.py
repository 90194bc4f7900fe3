"""Supernet: all networks of a space trained at once, on one bank of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from random import Random
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.nn.modules.batchnorm import _BatchNorm

from nasattn.arch import Architecture
from nasattn.bank import Bank, Subnet, open_bank
from nasattn.blocks.shortcut import RunGate, gates_of, settle_gates
from nasattn.data import Split
from nasattn.data.augment import to_float
from nasattn.estimate.extremes import largest, smallest
from nasattn.evaluate import OnEpoch, Setting
from nasattn.space import SearchSpace
from nasattn.spec import Spec
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import (
    EVAL_BATCH,
    OPTIMIZERS,
    SETTLE_BATCH,
    Steps,
    evaluate_top1,
    predict,
    run_epochs,
    subset,
    to_tensors,
)
from nasattn.train.recipe import Recipe


class SupernetSpec(Spec):
    """How a supernet is trained beside its recipe, and by what its networks are scored."""

    n_random: Annotated[int, Field(ge=0, le=64)] = 2  # networks a step beside the two extremes
    n_calibrate: Annotated[int, Field(ge=2)] = 512  # training pictures, at most, for batch norms
    n_score: Annotated[int, Field(ge=1)] = 512  # pictures of val-search, at most


USUAL = SupernetSpec()


@dataclass(frozen=True)
class Supernet:
    """A space that is trained as one network, on the setting's pictures and by its seed.

    Each step trains the largest network by the labels, and the smallest and some random ones by
    its answers (the sandwich rule and in-place distillation: Yu and Huang, ICCV 2019; Yu et al.,
    "BigNAS", ECCV 2020, section 3), and moves the weights by the sum of the gradients. Pictures,
    optimiser and schedule are the recipe's, which those papers have of their own; nothing thaws
    and nothing is quantised.
    """

    space: SearchSpace
    setting: Setting
    recipe: Recipe
    spec: SupernetSpec = USUAL

    @cached_property
    def extremes(self) -> tuple[Architecture, Architecture]:
        """The largest and the smallest network, by multiply-adds, then by parameters."""
        resolution, counter = self.setting.data.resolution, self.setting.counter

        def size(arch: Architecture) -> tuple[float, ...]:
            cost = counter.count(arch.at_resolution(resolution))
            return cost.macs, cost.params

        big, small = (find(self.space, size) for find in (largest, smallest))
        return big.at_resolution(resolution), small.at_resolution(resolution)

    @property
    def run(self) -> dict[str, Any]:
        """What decides on the weights beside pictures, recipe and seed, as plain data."""
        return {"space": self.space.space_id, "n_random": self.spec.n_random}

    def draw(self, n: int) -> list[Architecture]:
        """The random networks of a training, in their order: the first n of the seed."""
        rng, resolution = Random(self.setting.seed), self.setting.data.resolution
        sampled = (self.space.decode(self.space.sample(rng)) for _ in range(n))
        return [arch.at_resolution(resolution) for arch in sampled]

    def build(self, arch: Architecture, bank: Bank) -> nn.Module:
        """A network with its shared weights, its statistics made good, in eval mode.

        Where the bank has nothing of it (what no trained network had), it keeps initial weights.
        """
        setting = self.setting
        model = setting.build(arch).to(setting.device)
        bank.fill(arch, model)
        some = subset(setting.data.train, self.spec.n_calibrate)
        images = setting.normalise(to_float(to_tensors(some, setting.device)[0]))
        calibrate(model, images)
        if gates_of(model):
            settle_gates(model, images[:SETTLE_BATCH])
        return model

    def score(self, arch: Architecture, bank: Bank) -> float:
        """Minus the mean cross-entropy of a network on some pictures of val-search.

        It tells networks apart that get as many of a few pictures right.
        """
        model, setting = self.build(arch, bank), self.setting
        answers = predict(model, self.pictures, setting.normalise, device=setting.device)
        total = sum(float(cross_entropy(z, y, reduction="sum")) for z, y in answers)
        return -total / len(self.pictures)

    def top1(self, arch: Architecture, bank: Bank) -> float:
        """The share of the same pictures that a network gets right."""
        model, setting = self.build(arch, bank), self.setting
        return evaluate_top1(model, self.pictures, setting.normalise, device=setting.device)

    @property
    def pictures(self) -> Split:
        """Those that networks are scored on: the same share of every class of val-search."""
        return subset(self.setting.data.val_search, self.spec.n_score)

    def train(
        self, on_epoch: OnEpoch = lambda epoch: None, checkpoint: Checkpoint | None = None
    ) -> dict[str, Tensor]:
        """The weights by the bank's keys; the curve is that of the largest network.

        With a `checkpoint` a training that was stopped goes on after its last whole epoch, to the
        same weights. Raises EvaluationError when the loss is not finite.
        """
        with torch.random.fork_rng():
            torch.manual_seed(self.setting.seed)  # dropout
            return self._train(on_epoch, checkpoint)

    def _train(self, on_epoch: OnEpoch, checkpoint: Checkpoint | None) -> dict[str, Tensor]:
        setting, recipe = self.setting, self.recipe
        data, device, num_classes = setting.data, setting.device, len(setting.data.classes)
        images, labels = to_tensors(subset(data.train, recipe.train_size), device)
        drawn_an_epoch = len(images) // min(recipe.batch_size, len(images)) * self.spec.n_random
        drawn = self.draw(recipe.epochs * drawn_an_epoch)
        bank = open_bank((*self.extremes, *drawn), num_classes, setting.seed)
        weights = nn.ParameterList(nn.Parameter(tensor.to(device)) for tensor in bank.values())
        bank = dict(zip(bank, weights, strict=True))
        optimizer = OPTIMIZERS[recipe.optimizer](weights, recipe)
        for group in optimizer.param_groups:
            group["fused"] = False  # it fails where some weights have no momentum yet
        ends = [Subnet.of(arch, num_classes, device) for arch in self.extremes]
        rest = iter(drawn)

        def begin(epoch: int) -> None:
            nonlocal rest
            rest = iter(drawn[(epoch - 1) * drawn_an_epoch :])

        def learn(x: Tensor, y: Tensor) -> Tensor:
            some = islice(rest, self.spec.n_random)
            others = (Subnet.of(arch, num_classes, device) for arch in some)
            x = setting.normalise(x)
            return sandwich(bank, (*ends, *others), x, y, recipe.label_smoothing)

        def judge(epoch: int) -> float:
            return self.top1(self.extremes[0], Bank(bank, "in training"))

        run_epochs(
            (images, labels),
            recipe,
            optimizer,
            Steps(begin, learn, judge),
            {"weights": weights},
            seed=setting.seed,
            mirror=data.mirror,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            turns=setting.turns,
        )
        return {key: weight.detach() for key, weight in bank.items()}


def sandwich(
    bank: Mapping[str, Tensor],
    subnets: Sequence[Subnet],
    x: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Add the gradients of a step to those of the bank; the loss of the first network.

    It learns from the labels, the others the probabilities that it gives: KL(first || other).
    """
    first, *others = subnets
    logits = first(bank, x)
    loss = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    loss.backward()  # type: ignore[no-untyped-call]
    answers = log_softmax(logits.detach(), dim=1)
    for other in others:
        own = log_softmax(other(bank, x), dim=1)
        kl_div(own, answers, reduction="batchmean", log_target=True).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of a network's batch norms to those of its maps of some pictures.

    images: (N, C, H, W), normalised; two or more. Of several batches the mean counts. Dropout
    rests; the network is left in eval mode.
    """
    model.eval()
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            part.reset_running_stats()
            part.momentum = None  # the mean over batches
        if isinstance(part, _BatchNorm | RunGate):
            part.train()
    for batch in images.chunk(-(-len(images) // EVAL_BATCH)):  # none of a single picture
        model(batch)
    model.eval()

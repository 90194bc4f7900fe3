"""Half of ResNet-56's parameters pruned: what accuracy, work and time are left.

    python -m benchmarks.prune WEIGHTS.npz PICTURES --work FOLDER > docs/results/prune.md

WEIGHTS are ResNet-56 for CIFAR-10 as akamaster/pytorch_resnet_cifar10 publishes them, whose
pictures are normalised by ImageNet's mean and spread. PICTURES is a folder with train and test. The
test pictures judge, since the weights have seen all of the training pictures; both networks answer
the same ones, and the interval is one of paired differences. Paper 001 claims a loss of at most 1.1
points where pruning halves MobileNetV2's parameters. The work folder keeps a state an epoch: the
same command goes on with what was stopped.
"""

import argparse
import math
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from nasattn.baselines import get_baseline
from nasattn.compress.prune import cost_of, prune
from nasattn.cost import LatencyMeter
from nasattn.data import Split, load_data, open_test
from nasattn.data.augment import Normalise
from nasattn.fit import load_into
from nasattn.model import build_model
from nasattn.pretrained import read_pretrained
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.loop import Epoch, predict, train_model
from nasattn.train.metrics import Share
from nasattn.train.recipe import CROP_AND_FLIP, Recipe
from nasattn.zoo import read_network

NAME, RESOLUTION = "resnet56_cifar", 32
IMAGENET = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHARE = 0.5  # of the parameters that may stay
CLAIM = 1.1  # points of top-1, paper 001
Z = 1.96
ROUNDS = 400  # of timing, in turns
RECIPE = Recipe(
    epochs=4,
    batch_size=128,
    lr=0.01,
    weight_decay=1e-4,
    schedule="cosine",
    augmentation=CROP_AND_FLIP,
    train_size=20_000,
)


def right(model: nn.Module, split: Split) -> Tensor:
    """Whether each picture is answered right: booleans (N,)."""
    return torch.cat([logits.argmax(1) == y for logits, y in predict(model, split, IMAGENET)])


def paired(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Mean difference of top-1 and its 95 % interval, by Agresti and Min's half pictures.

    A difference counts pictures that one network alone gets right; half a one is added to each
    kind of pair (Statistics in Medicine, 2005), so that no difference has an interval, too.
    """
    won, lost = (after & ~before).sum().item() + 0.5, (before & ~after).sum().item() + 0.5
    n = len(before) + 2
    d = (won - lost) / n
    half = Z * math.sqrt((won + lost) / n - d**2) / math.sqrt(n)
    return (after.float() - before.float()).mean().item(), d - half, d + half


def words(answers: Tensor) -> str:
    share = Share(int(answers.sum()), len(answers))
    low, high = share.interval
    return f"{100 * share.value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    data = load_data(arguments.pictures, RESOLUTION, cache_dir=work)
    test = open_test(arguments.pictures, RESOLUTION, command="benchmarks.prune", cache_dir=work)
    arch = get_baseline(NAME).architecture.at_resolution(RESOLUTION)
    whole = build_model(arch, len(data.classes))
    weights = read_pretrained(str(arguments.weights), read_network(NAME), work)
    load_into(whole, weights.tensors, weights.where)
    example = torch.zeros(1, 3, RESOLUTION, RESOLUTION)
    costs = [cost_of(whole, example)]
    pruned = prune(whole, example, target_params=round(SHARE * costs[0].params))
    model = pruned.model
    costs.append(cost_of(model, example))
    answers = [right(whole, test), right(model, test)]
    run = {"weights": weights.identity, "data": data.content_hash, "seed": 0}
    curve = train_model(
        model,
        data,
        RECIPE,
        seed=0,
        checkpoint=Checkpoint(
            work / "prune.pt", run | {"recipe": RECIPE.model_dump(mode="json"), "share": SHARE}
        ),
        normalise=IMAGENET,
    )
    answers.append(right(model, test))
    latency = LatencyMeter(whole, RESOLUTION, rounds=ROUNDS).measure(model)
    print(page(answers, [(c.params, c.macs) for c in costs], pruned.ratio, curve))
    assert latency.interval is not None
    low, high = latency.interval
    print(
        f"\nLatency of the pruned network, eager, batch 1, one thread: {latency.relative:.2f} of "
        f"the whole one's (95 %:\n{low:.2f} to {high:.2f}; {latency.n} rounds in turns)."
    )


def page(
    answers: list[Tensor], costs: list[tuple[int, int]], ratio: float, curve: list[Epoch]
) -> str:
    """What was measured, as Markdown."""
    whole, cut = costs
    rows = zip(("whole", "pruned", "pruned, fine-tuned"), answers, (whole, cut, cut), strict=True)
    difference, low, high = (100 * v for v in paired(answers[0], answers[2]))
    verdict = "holds" if low >= -CLAIM else "fails" if high < -CLAIM else "is not settled"
    seconds = sum(epoch.seconds for epoch in curve)
    lines = [
        "# Half of ResNet-56's parameters pruned",
        "",
        f"{100 * ratio:.1f} % of the channels inside each residual block, by their l2 norm;"
        " the widths between blocks",
        "stay, since the zero-padded shortcuts put channels at fixed places. Fine-tuned for "
        f"{RECIPE.epochs} epochs of",
        f"{RECIPE.train_size:,} training pictures (SGD, lr {RECIPE.lr}, cosine, batch "
        f"{RECIPE.batch_size}, seed 0): {seconds / 60:.0f} minutes on one thread of a",
        "busy machine.",
        "",
        f"| network | top-1 of {len(answers[0]):,} test pictures (95 %) | parameters | "
        "multiply-adds |",
        "|---|---|---|---|",
        *(f"| {name} | {words(a)} | {p:,} | {m / 1e6:.1f} M |" for name, a, (p, m) in rows),
        "",
        f"Fine-tuned less whole, on the same pictures: {difference:+.1f} points (95 %: {low:+.1f} "
        f"to {high:+.1f}). Paper 001's claim,",
        f"a loss of at most {CLAIM} points (there of MobileNetV2 on ImageNet), {verdict} here.",
        "",
        f"Python {platform.python_version()}, torch {version('torch')}, torch-pruning "
        f"{version('torch-pruning')}; `python -m benchmarks.prune`.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

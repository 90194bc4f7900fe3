"""Does a teacher help? The same student with ResNet-56's lessons and without, by paired seeds.

    python -m benchmarks.distil CIFAR_FOLDER RESNET56.npz STUDENT [OUT]

Trains a row of STUDENTS on 1,000 pictures, six seeds in each of its arms: those of a seed have the
same first weights, order and augmentation. Typed again, it goes on where it stopped. The test
pictures are looked at once, when all are trained.
"""

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nasattn.ablation.statistics import compare_pairs
from nasattn.cli.teacher import Lesson, read_distil
from nasattn.data import ImageData, Split, load_data, open_test
from nasattn.data.augment import Normalise
from nasattn.search.environment import environment
from nasattn.train.attention_transfer import watched
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.distil import Distil, Teacher
from nasattn.train.loop import evaluate_top1, subset, to_tensors, train_model
from nasattn.train.recipe import RECIPES, Augmentation, Recipe
from nasattn.zoo import get_network

SEEDS = range(6)
N_WATCHED = 100  # of the 5,000 val-search pictures: looked at after each epoch, used by nobody
FEATURES = 10.0  # the source's 1,000 / (H W) is 1 to 16 for maps of 32 to 8 pixels


def brief(epochs: int, batch_size: int) -> Recipe:
    """`quick`, on 1,000 pictures that are only mirrored."""
    changes = {"epochs": epochs, "batch_size": batch_size, "train_size": 1000}
    return RECIPES["quick"].model_copy(update=changes | {"augmentation": Augmentation(flip=0.5)})


STUDENTS: dict[str, tuple[Recipe, tuple[str, ...]]] = {  # and the arms
    "resnet20_cifar": (brief(15, 50), ("labels", "taught")),
    "lam": (brief(10, 25), ("labels", "taught", "features")),
}


class Remembering(nn.Module):
    """A frozen model that answers a picture that it has seen before from memory.

    Pictures that are only mirrored come in two forms each. A batch's other pictures act on an
    answer by the rounding of a sum alone. Its maps are remembered by what attention transfer asks
    of them: for each size a map (N, 1, H, W), the root of the squares summed over channels.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.known: dict[bytes, list[Tensor]] = {}  # logits, then maps
        self.shown = nn.ModuleList(nn.Identity() for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        keys = [hashlib.blake2b(one.contiguous().numpy().data).digest() for one in x]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            with watched(self.model) as maps:
                found = [self.model(x[new])]
                found += [m.square().sum(1, keepdim=True).sqrt() for m in maps.last.values()]
            self.known |= {
                keys[i]: list(one) for i, one in zip(new, zip(*found, strict=True), strict=True)
            }
        logits, *maps_now = map(torch.stack, zip(*(self.known[key] for key in keys), strict=True))
        for show, one in zip(self.shown, maps_now, strict=False):
            show(one)
        return logits


@dataclass(frozen=True)
class Bench:
    """What all trainings share."""

    student: str
    recipe: Recipe
    data: ImageData
    lessons: Mapping[str, Distil | None]  # by arm
    out: Path

    def train(self, arm: str, seed: int) -> None:
        """One student to its weights file, unless that is there."""
        path = self.out / f"{arm}-{seed}.pt"
        if path.exists():
            return
        distil = self.lessons[arm]
        run = {"arm": arm, "seed": seed, "recipe": self.recipe.model_dump(mode="json")}
        run |= {"teacher": distil.identity} if distil else {}
        checkpoint = Checkpoint(self.out / f"{arm}-{seed}-checkpoint.pt", run)
        start = time.perf_counter()
        torch.manual_seed(seed)
        model = get_network(self.student).build(len(self.data.classes), self.data.resolution)
        curve = train_model(
            model, self.data, self.recipe, seed=seed, checkpoint=checkpoint, distil=distil
        )
        torch.save(model.state_dict(), path)
        checkpoint.path.unlink()
        seconds = time.perf_counter() - start
        print(f"{arm} {seed}: loss {curve[-1].loss:.3f}, {seconds:.0f} s", flush=True)

    def measure(self, arm: str, seed: int, test: Split) -> float:
        """Top-1 of a student on the test pictures."""
        model = get_network(self.student).build(len(self.data.classes), self.data.resolution)
        model.load_state_dict(torch.load(self.out / f"{arm}-{seed}.pt", weights_only=True))
        images, _ = to_tensors(subset(self.data.train, self.recipe.train_size), "cpu")
        return evaluate_top1(model, test, Normalise.of(images))


def main() -> None:
    """Train all, measure all, compare."""
    folder, weights, student = sys.argv[1:4]
    out = Path(sys.argv[4] if len(sys.argv) > 4 else f"runs/distil-{student}")
    recipe, arms = STUDENTS[student]
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    whole = load_data(folder, cache_dir=out / "cache")
    data = replace(whole, val_search=subset(whole.val_search, N_WATCHED))
    lesson = Lesson(
        (f"resnet56_cifar={weights}",), mean="0.485,0.456,0.406", std="0.229,0.224,0.225"
    )
    distil = read_distil(lesson, whole, out / "cache")
    assert distil
    teachers = tuple(
        Teacher(Remembering(t.model), t.normalise, t.identity) for t in distil.teachers
    )
    taught = replace(distil, teachers=teachers)
    lessons = {"labels": None, "taught": taught, "features": replace(taught, features=FEATURES)}
    bench = Bench(student, recipe, data, lessons, out)
    for seed in SEEDS:
        for arm in arms:
            bench.train(arm, seed)
    test = open_test(folder, command="benchmarks.distil", cache_dir=out / "cache")
    runs = {arm: {seed: bench.measure(arm, seed, test) for seed in SEEDS} for arm in arms}
    found = compare_pairs(runs, [(arm, "labels") for arm in arms[1:]])
    (teacher,) = distil.teachers
    facts = {
        "teacher": distil.identity,
        "teacher_top1": evaluate_top1(teacher.model, test, teacher.normalise),
        "n_test": len(test),
        "runs": runs,
        "comparisons": [vars(one) for one in found],
        "environment": environment(),
    }
    (out / "distil.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()

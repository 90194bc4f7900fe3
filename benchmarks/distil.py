"""Does a teacher help? The same student with ResNet-56's answers and without, by paired seeds.

    python -m benchmarks.distil CIFAR_FOLDER RESNET56.npz STUDENT [OUT]

Trains a row of STUDENTS on 1,000 pictures, six seeds with the teacher and six without: the two of a
seed have the same first weights, order and augmentation. Typed again, it goes on where it stopped.
The test pictures are looked at once, when all are trained.
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nasattn.ablation.statistics import compare_pairs
from nasattn.cli.teacher import Lesson, read_distil
from nasattn.data import ImageData, Split, load_data, open_test
from nasattn.data.augment import Normalise
from nasattn.search.environment import environment
from nasattn.train.checkpoint import Checkpoint
from nasattn.train.distil import Distil, Teacher
from nasattn.train.loop import evaluate_top1, subset, to_tensors, train_model
from nasattn.train.recipe import RECIPES, Augmentation, Recipe
from nasattn.zoo import get_network

SEEDS, ARMS = range(6), ("labels", "taught")
N_WATCHED = 100  # of the 5,000 val-search pictures: looked at after each epoch, used by nobody


def brief(epochs: int, batch_size: int) -> Recipe:
    """`quick`, on 1,000 pictures that are only mirrored."""
    changes = {"epochs": epochs, "batch_size": batch_size, "train_size": 1000}
    return RECIPES["quick"].model_copy(update=changes | {"augmentation": Augmentation(flip=0.5)})


STUDENTS = {"resnet20_cifar": brief(15, 50), "lam": brief(10, 25)}


class Remembering(nn.Module):
    """A frozen model that answers a picture that it has seen before from memory.

    Pictures that are only mirrored come in two forms each. A batch's other pictures act on an
    answer by the rounding of a sum alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.known: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        keys = [hashlib.blake2b(one.contiguous().numpy().data).digest() for one in x]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            self.known |= {keys[i]: y for i, y in zip(new, self.model(x[new]), strict=True)}
        return torch.stack([self.known[key] for key in keys])


@dataclass(frozen=True)
class Bench:
    """What all trainings share."""

    student: str
    recipe: Recipe
    data: ImageData
    distil: Distil
    out: Path

    def train(self, arm: str, seed: int) -> None:
        """One student to its weights file, unless that is there."""
        path = self.out / f"{arm}-{seed}.pt"
        if path.exists():
            return
        distil = self.distil if arm == "taught" else None
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
    bench = Bench(student, STUDENTS[student], data, taught, out)
    for seed in SEEDS:
        for arm in ARMS:
            bench.train(arm, seed)
    test = open_test(folder, command="benchmarks.distil", cache_dir=out / "cache")
    runs = {arm: {seed: bench.measure(arm, seed, test) for seed in SEEDS} for arm in ARMS}
    (found,) = compare_pairs(runs, [("taught", "labels")])
    (teacher,) = distil.teachers
    facts = {
        "teacher": distil.identity,
        "teacher_top1": evaluate_top1(teacher.model, test, teacher.normalise),
        "n_test": len(test),
        "runs": runs,
        "comparison": vars(found),
        "environment": environment(),
    }
    (out / "distil.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()

"""Estimates by shared weights: a supernet is trained once and kept in a file, networks read it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from nasattn.bank import Bank
from nasattn.errors import StudyError, TransientError, WeightsError, shown
from nasattn.estimate.estimator import WHOLE, Length, Subject
from nasattn.estimate.supernet import Supernet
from nasattn.files import content_hash, write_bytes
from nasattn.fit import check_values
from nasattn.tensor_file import read_safetensors
from nasattn.train.checkpoint import check_same_run
from nasattn.train.loop import Epoch

FORMAT = "nasattn-bank-1"


@dataclass(frozen=True)
class BankFile:
    """Where the weights of a supernet are kept, and which training it is that made them."""

    path: Path
    run: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path, run: Mapping[str, Any]) -> "BankFile":
        """The file of a folder that is named by a training."""
        return cls(folder / f"supernet-{'-'.join(map(str, run.values()))}.safetensors", run)

    def write(self, tensors: Mapping[str, Tensor], curve: tuple[Epoch, ...]) -> None:
        """Write the file atomically. Raises TransientError where that cannot be done."""
        rows = [asdict(epoch) for epoch in curve]
        facts = {"format": FORMAT, "run": json.dumps(self.run), "curve": json.dumps(rows)}
        try:
            write_bytes(self.path, save({k: t.cpu() for k, t in tensors.items()}, facts))
        except OSError as e:
            raise TransientError(f"{self.path}: cannot be written ({e.strerror or e})") from e

    def read(self) -> tuple[Bank, tuple[Epoch, ...]]:
        """The weights and the curve of their training.

        Raises WeightsError for what is no such file, EvaluationError for that of another training.
        """
        facts, tensors = read_safetensors(self.path)
        if facts.get("format") != FORMAT:
            raise WeightsError(
                f"{self.path}: not the weights of a supernet (format {shown(facts.get('format'))}, "
                f"must be {FORMAT!r})"
            )
        try:
            run = dict(json.loads(facts["run"]))
            curve = tuple(Epoch(**row) for row in json.loads(facts["curve"]))
        except (ValueError, TypeError, KeyError) as e:
            raise WeightsError(f"{self.path}: does not say how it was trained") from e
        check_same_run(run, self.run, self.path)
        check_values(tensors, str(self.path))
        return Bank(tensors, f"{self.path.stem} {content_hash(self.path)}"), curve


def supernet(subject: Subject) -> float:
    """Minus the cross-entropy of a network on the supernet's weights, which are not trained on."""
    net, file = _trained(subject, subject.length)
    return net.score(subject.arch, _bank(file))


def inherit(subject: Subject) -> float:
    """Top-1 after a shortened training that begins with the supernet's weights.

    The supernet is trained for as long as the recipe says.
    """
    bank = _bank(_trained(subject, WHOLE)[1])
    heir = replace(subject, setting=replace(subject.setting, bank=bank))
    return heir.train(subject.length.of(subject.setting)).top1


def _bank(file: BankFile) -> Bank:
    """What was trained; TransientError where that is still to be done."""
    if not file.path.exists():
        raise TransientError(f"{file.path}: the shared weights are not trained yet")
    return file.read()[0]


def train_supernet(subject: Subject) -> float:
    """Train the supernet of the subject's length, if its file is not there; its largest's top-1."""
    net, file = _trained(subject, subject.length)
    if file.path.exists():
        for epoch in file.read()[1]:
            subject.keep_epoch(epoch)
        return subject.curve[-1].top1
    checkpoint = subject.setting.checkpoint(net.run, net.recipe)
    for row in checkpoint.begun() if checkpoint else ():
        subject.keep_epoch(Epoch(*row))
    tensors = net.train(subject.keep_epoch, checkpoint)
    file.write(tensors, tuple(subject.curve))
    if checkpoint:
        checkpoint.path.unlink(missing_ok=True)
    return subject.curve[-1].top1


def _trained(subject: Subject, length: Length) -> tuple[Supernet, BankFile]:
    """The supernet of a length, and the file for it."""
    if subject.ground is None:
        raise StudyError("estimates by shared weights: need a space, and a folder for its supernet")
    setting = subject.setting
    net = Supernet(subject.ground.space, setting, length.of(setting))
    recipe_id = net.recipe.recipe_id(setting.data.content_hash, mirror=setting.data.mirror)
    run = net.run | {"recipe_id": recipe_id, "seed": setting.seed}
    return net, BankFile.of(subject.ground.folder, run)

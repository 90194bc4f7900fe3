"""ESTIMATORS: what says how good a network will be, by name."""

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, replace

from nasattn.arch import Architecture
from nasattn.errors import StudyError, UnknownNameError, shown
from nasattn.estimate import proxies, shared_weights
from nasattn.estimate.estimator import (
    WHOLE,
    Estimate,
    Estimator,
    Ground,
    Length,
    Subject,
    measure,
)
from nasattn.evaluate import OnEpoch, Setting
from nasattn.words import plural

FULL = "full"


def full(subject: Subject) -> float:
    """Top-1 at the end of the whole training."""
    return subject.train(subject.setting.recipe).top1


def epochs(subject: Subject) -> float:
    """Top-1 after a training that is shortened."""
    return subject.train(subject.length.of(subject.setting)).top1


def loss_at(subject: Subject) -> float:
    """Minus the mean training loss of the last epoch of a training that is shortened.

    Of one epoch, or of steps, it is the area under the loss curve.
    Source: Ru et al., NeurIPS 2021 (arXiv 2006.04492), the sum over training losses of an epoch.
    """
    return -subject.train(subject.length.of(subject.setting), judged=False).loss


def end_loss(subject: Subject) -> float:
    """Minus the mean training loss of the last quarter of the last epoch: what it has come to.

    The beginning of so short a training says more of its rate than of the network.
    """
    found = subject.train(subject.length.of(subject.setting), judged=False).end_loss
    assert found is not None
    return -found


def macs(subject: Subject) -> float:
    return float(subject.setting.counter.count(subject.arch).macs)


def params(subject: Subject) -> float:
    return float(subject.setting.counter.count(subject.arch).params)


def random(subject: Subject) -> float:
    """A number from 0 to 1 that knows nothing, by network and seed."""
    text = f"{subject.arch.arch_id} {subject.setting.seed}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13


ESTIMATORS: dict[str, Estimator] = {
    row.name: row
    for row in (
        Estimator(FULL, full, trains=True),
        Estimator("epochs", epochs, trains=True, has_length=True),
        Estimator("loss_at", loss_at, trains=True, has_length=True),
        Estimator("end_loss", end_loss, trains=True, has_length=True),
        Estimator(
            "supernet",
            shared_weights.supernet,
            has_length=True,
            usual=WHOLE,
            prepare=shared_weights.train_supernet,
        ),
        Estimator(
            "inherit",
            shared_weights.inherit,
            trains=True,
            has_length=True,
            needs="supernet",
        ),
        Estimator("naswot", lambda s: proxies.naswot(s.model, s.images, s.seed)),
        Estimator("synflow", lambda s: proxies.synflow(s.model, s.shape, s.seed)),
        Estimator("zen", lambda s: proxies.zen(s.model, s.shape, s.seed)),
        Estimator("snip", lambda s: proxies.snip(s.model, s.batch, s.seed)),
        Estimator("grad_norm", lambda s: proxies.grad_norm(s.model, s.batch, s.seed)),
        Estimator("zico", lambda s: proxies.zico(s.model, s.halves, s.seed)),
        Estimator("macs", macs),
        Estimator("params", params),
        Estimator("random", random),
    )
}


def get_estimator(name: str) -> tuple[Estimator, Length]:
    """The row and the length that `naswot`, `epochs:2` or `loss_at:40steps` name.

    Raises UnknownNameError or StudyError.
    """
    base, colon, option = name.partition(":")
    if base not in ESTIMATORS:
        raise UnknownNameError("estimator", base, known=ESTIMATORS)
    row = ESTIMATORS[base]
    return row, row.length(option) if colon else row.usual


def prepared_for(name: str) -> str:
    """The estimator to be prepared once for all networks before this one is asked; "" for none."""
    row, _ = get_estimator(name)
    return name if row.prepare else row.needs


def parts_of(combination: str) -> tuple[str, ...]:
    """The estimators of `a+b+c`, of which each is known and there once."""
    names = tuple(combination.split("+"))
    for name in names:
        get_estimator(name)
    if len(set(names)) < len(names):
        raise StudyError(f"estimator {shown(combination)}: names one of its parts twice")
    return names


@dataclass(frozen=True)
class Combination:
    """Several estimators, each of which is asked: `Estimates` of a Setting."""

    parts: tuple[str, ...]

    def __call__(self, arch: Architecture, setting: Setting) -> dict[str, Estimate]:
        return {name: estimate(name, arch, setting) for name in self.parts}


def combination(name: str, setting: Setting) -> Combination:
    """`a+b+c` for a search, which asks each before a training.

    Raises UnknownNameError or StudyError; also for one that would train as long.
    """
    parts = parts_of(name)
    for part in parts:
        row, length = get_estimator(part)
        if prepared_for(part):
            raise StudyError(
                f"estimator {shown(part)}: needs weights that a whole space shares, which a search "
                "does not train"
            )
        shorter = not row.has_length or length.of(setting).epochs < setting.recipe.epochs
        if row.name == FULL or not (shorter or length.unit == "steps"):
            raise StudyError(
                f"estimator {shown(part)}: must be shorter than the training itself, of "
                f"{plural(setting.recipe.epochs, 'epoch')}"
            )
    return Combination(parts)


def estimate(
    name: str,
    arch: Architecture,
    setting: Setting,
    on_epoch: OnEpoch = lambda epoch: None,
    ground: Ground | None = None,
) -> Estimate:
    """What one estimator says of a network on the setting's pictures, by its recipe and seed.

    Nothing of it runs beside a latency measurement that keeps the same turns. Where something is
    `prepared_for` it, it needs the ground on which that was done.
    """
    row, length = get_estimator(name)
    with nullcontext() if row.trains else setting.turns.training():
        return measure(row, Subject(arch, setting, length, on_epoch, ground=ground))


def prepare(
    name: str, setting: Setting, ground: Ground, on_epoch: OnEpoch = lambda epoch: None
) -> Estimate:
    """Do what an estimator needs done once for all networks of a space, and say what it took.

    What is there already is taken from the ground's folder, at the cost that it had. The setting
    is that of the estimates. Raises StudyError for an estimator that prepares nothing.
    """
    row, length = get_estimator(prepared_for(name) or name)
    if row.prepare is None:
        raise StudyError(f"estimator {name!r}: prepares nothing")
    subject = Subject(ground.space.template, setting, length, on_epoch, ground=ground)
    return measure(replace(row, measure=row.prepare), subject)

"""Probe: what trainings of a space take on this machine, from a few steps of its baselines."""

import time
from dataclasses import replace
from random import Random
from statistics import median

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.data import Split
from nasattn.errors import EvaluationError, StudyError
from nasattn.evaluate import Setting, TrainingEvaluator, one_line
from nasattn.objectives import Cost
from nasattn.search.candidates import Candidates
from nasattn.search.plan import Pace
from nasattn.space import SearchSpace
from nasattn.train.loop import train_model

N_PROBED = 3  # networks: baselines, where a space has some
N_STEPS = 4  # of each
N_WATCHED = 256  # pictures of val-search
N_DRAWN = 50  # networks of the space, the median of which is the usual one
FORWARD = 1 / 3  # of a picture's training is spent on one that is only looked at


def probe(setting: Setting, space: SearchSpace) -> Pace:
    """The pace of a search with a setting's pictures and recipe.

    A training is taken to grow with multiply-adds, by the median over the probed networks of what
    each takes. Raises StudyError where none of them can be trained.
    """
    start, side = time.monotonic(), setting.data.resolution
    baselines = [get_baseline(n).architecture.at_resolution(side) for n in space.baselines]
    static, limits = TrainingEvaluator(setting).static_values, setting.constraints
    candidates, rng = Candidates(space, side, static, limits), Random(0)
    drawn = [space.sample(rng) for _ in range(N_DRAWN)]
    sound = [(params, known) for params in drawn if (known := candidates.find(params))]
    if not (sound or baselines):
        raise StudyError(f"budget: none of {N_DRAWN} networks drawn keeps to the limits")
    found = [known.values["macs"] for _, known in sound]
    macs = [static(arch)["macs"] for arch in baselines]
    seconds, measuring, reason = [], 0.0, ""
    for arch in (baselines or [candidates.decode(params) for params, _ in sound])[:N_PROBED]:
        try:
            seconds.append(training_seconds(arch, setting) / static(arch)["macs"])
            measuring = measuring or measuring_seconds(arch, setting)
        except (EvaluationError, RuntimeError, MemoryError) as e:
            reason = one_line(e)
    if not seconds:
        raise StudyError(f"budget: no network of the space can be probed: {reason}")
    a_mac = median(seconds)
    return Pace(
        training=a_mac * median(found or macs),
        measuring=measuring,
        baselines=a_mac * sum(macs) + measuring * len(macs),
        n_baselines=len(macs),
        took=time.monotonic() - start,
    )


def training_seconds(arch: Architecture, setting: Setting) -> float:
    """What a whole training takes, by N_STEPS of one behind a first that does not count."""
    data, recipe, model = setting.data, setting.recipe, setting.build(arch)
    watched = Split(data.val_search.images[:N_WATCHED], data.val_search.labels[:N_WATCHED])
    few, seconds = replace(data, val_search=watched), 0.0
    batch = min(recipe.batch_size, n_pictures(setting))
    for n in (1, min(N_STEPS, epoch_steps(setting))):
        short = recipe.shortened(1, train_size=n * batch)
        (epoch,) = train_model(
            model, few, short, seed=setting.seed, device=setting.device, turns=setting.turns
        )
        seconds = epoch.seconds / (n * batch + FORWARD * len(watched))
    whole = len(data.val_search)  # is looked at once, by the other epochs what the recipe says
    looks = whole + (recipe.epochs - 1) * min(recipe.watch_size or whole, whole)
    return seconds * (recipe.epochs * epoch_steps(setting) * batch + FORWARD * looks)


def measuring_seconds(arch: Architecture, setting: Setting) -> float:
    """What the objectives take that are measured before a training."""
    rows = [row for row in setting.needed() if row.cost == Cost.MEASURED]
    if not rows:
        return 0.0
    meters, model = [setting.meter(row) for row in rows], setting.build(arch)
    start = time.monotonic()
    for meter in meters:
        meter.measure(model)
    return time.monotonic() - start


def n_pictures(setting: Setting) -> int:
    """That a training sees in an epoch, those of the last batch that is not full included."""
    n = len(setting.data.train)
    return min(setting.recipe.train_size or n, n)


def epoch_steps(setting: Setting) -> int:
    return max(n_pictures(setting) // setting.recipe.batch_size, 1)

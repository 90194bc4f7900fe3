"""What an ablation will cost and what it can show, before it runs."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from nasattn.ablation.arms import BASE, FACTORIAL, Design
from nasattn.ablation.designs import find_terms
from nasattn.ablation.factorial import level_rows
from nasattn.ablation.power import detectable_effect, sd_of_difference
from nasattn.ablation.run import Run
from nasattn.ablation.sequential import Sequential
from nasattn.arch import Architecture
from nasattn.data.augment import Normalise, to_float
from nasattn.evaluate import Setting
from nasattn.train.loop import OPTIMIZERS, subset, to_tensors

N_STEPS = 3  # timed, after one that is not
SPREAD = 0.0021  # of top-1 over seeds: the NAS benchmarks' on CIFAR-10 at 0.15 to 0.25 points


@dataclass(frozen=True)
class Power:
    """What one family of tests can show."""

    what: str  # 'an effect', or of a factorial 'a part'
    n_tests: int  # that p is corrected for
    detectable: float | None  # top-1, a fraction; None: no effect can be significant


@dataclass(frozen=True)
class Plan:
    """How many runs are left, how long they take here, and what they can show."""

    n_runs: int
    n_done: int
    seconds: float  # of the runs that are left
    n_seeds: int
    spread: float  # of top-1 over seeds, a fraction
    spread_from: str  # stated, measured, or supposed
    powers: tuple[Power, ...]


def make_plan(
    design: Design,
    runs: Sequence[Run],
    done: set[Run],
    setting: Setting,
    spread: float | None,
    measured: float | None,
    looks: Sequential | None = None,
) -> Plan:
    """Time a few steps of every arm; `spread` is stated, else measured, else SPREAD is supposed."""
    left = [run for run in runs if run not in done]
    per_arm = {arm: time_run(design.arms[arm], setting) for arm in {run.arm for run in left}}
    known = [(spread, "stated"), (measured, "measured"), (SPREAD, "supposed")]
    value, origin = next((v, name) for v, name in known if v is not None)
    n_seeds = len({run.seed for run in runs})
    return Plan(
        n_runs=len(runs),
        n_done=len(runs) - len(left),
        seconds=sum(per_arm[run.arm] for run in left),
        n_seeds=n_seeds,
        spread=value,
        spread_from=origin,
        powers=tuple(_powers(design, n_seeds, value, looks)),
    )


def _powers(
    design: Design, n_seeds: int, spread: float, looks: Sequential | None
) -> Iterator[Power]:
    sd = sd_of_difference(spread)
    if n := sum(c.design != FACTORIAL for c in design.contrasts):
        found = looks.detectable(sd) if looks else detectable_effect(n_seeds, sd, n)
        yield Power("a difference", n, found)
    if design.levels:  # an effect is the mean of half the arms - that of the others
        factors, rows = level_rows(design.levels, design.levels, BASE)
        n, sd = len(find_terms(rows, factors)), 2 * spread / len(rows) ** 0.5
        main = detectable_effect(n_seeds, sd, n, correlation=0.0)
        yield Power("a part's effect", n, main)
        if n > len(factors):
            yield Power("an interaction", n, None if main is None else 2 * main)


def time_run(arch: Architecture, setting: Setting) -> float:
    """Seconds that a whole training of a network takes here, from N_STEPS steps and one batch."""
    recipe, data = setting.recipe, setting.data
    model = setting.build(arch).to(setting.device)
    images, labels = to_tensors(subset(data.train, recipe.train_size), setting.device)
    size = min(recipe.batch_size, len(images))
    normalise = Normalise.of(images[:size])
    optimizer = OPTIMIZERS[recipe.optimizer](model, recipe)
    x, y = normalise(to_float(images[:size])), labels[:size]
    seconds = []
    for _ in range(1 + N_STEPS):
        start = time.perf_counter()
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    model.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        model(x).sum().item()
    forward = (time.perf_counter() - start) / size
    step = min(seconds[1:])
    steps = len(images) // size
    return recipe.epochs * (steps * step + forward * len(data.val_search))

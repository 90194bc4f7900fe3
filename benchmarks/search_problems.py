"""Searches whose truth is known: a public table and two made-up spaces, for comparing samplers.

    problem = PROBLEMS["conditional30"](None)
    params = problem.suggest(trial)                  # plain suggest_* calls of an Optuna trial
    values = problem.evaluate(params, seed=0)        # what a search sees; all are minimised
    share = problem.hypervolume_share([params])      # of the true front's, 0 to 1

A problem is fixed by the constants here; `seed` makes the noise of a training. Nothing is trained.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FixedTrial

Params = dict[str, Any]
Values = tuple[float, ...]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A search space, what a search sees of a network, and the truth.

    `exact` has the objectives that are known without a trial. `identity` is equal iff the networks
    are. `low` and `high` scale the true objectives to 0 and 1; the reference point is 1 in each,
    and `volume` is the hypervolume of the true front in that scale.
    """

    name: str
    objectives: tuple[str, ...]
    distributions: Mapping[str, BaseDistribution]
    suggest: Callable[[BaseTrial], Params]
    evaluate: Callable[[Params, int], Values]
    true: Callable[[Params], Values]
    exact: Mapping[int, Callable[[Params], float]]
    identity: Callable[[Params], Hashable]
    low: Values
    high: Values
    volume: float

    def decode(self, flat: Params) -> Params:
        """A value for each of `distributions` -> the params that mean something there."""
        return self.suggest(FixedTrial(flat))

    def hypervolume_share(self, networks: Sequence[Params]) -> float:
        """The hypervolume of these networks by their true objectives, divided by the front's."""
        if not networks:
            return 0.0
        points = np.array([self.true(params) for params in networks])
        return hypervolume(points, self.low, self.high) / self.volume


def hypervolume(points: Floats, low: Values, high: Values) -> float:
    """Of (n, objectives) minimised, scaled so that `low` is 0 and the reference `high` is 1."""
    scaled = (points - np.array(low)) / (np.array(high) - np.array(low))
    return float(moocore.hypervolume(scaled, ref=np.ones(len(low))))


def suggest_value(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    """Ask a trial for one parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    d: Any = distribution
    ask: Any = trial.suggest_int if isinstance(d, IntDistribution) else trial.suggest_float
    return ask(name, d.low, d.high, step=d.step, log=d.log)


def grid(distribution: BaseDistribution) -> tuple[Any, ...]:
    """All values of a distribution, in order (those here have finitely many)."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    d: Any = distribution
    n = round((d.high - d.low) / d.step)
    return tuple(d.low + i * d.step for i in range(n + 1))


def seed_noise(problem: str, network: Hashable, seed: int) -> float:
    """A standard normal number that depends on the network and the seed alone."""
    digest = hashlib.sha256(repr((problem, network, seed)).encode()).digest()
    return float(np.random.default_rng(int.from_bytes(digest[:8])).standard_normal())


# ---------------------------------------------------------------------------------------------
# NAS-Bench-Macro: 6,561 trained networks

MACRO_STAGES = ((0, 2), (2, 5), (5, 8))  # blocks; the first of each takes stride 2


def macro_identity(code: str) -> str:
    """Equal iff the networks of two codes are: an identity that strides is a convolution, the
    others are nothing, wherever in their stage they stand."""
    return "|".join(code[a] + code[a + 1 : b].replace("0", "") for a, b in MACRO_STAGES)


@cache
def nas_bench_macro(path: Path | None) -> Problem:
    """NAS-Bench-Macro (Su et al., CVPR 2021): the search sees run 0, the truth is their mean.

    e = (A - a) / (A - a1), A the best mean accuracy and a1 the 1st percentile; f = multiply-adds
    between the least and the most. Nothing is drawn: `seed` changes nothing.
    """
    if path is None:
        raise FileNotFoundError("nas_bench_macro needs the path of its table")
    table = pd.read_parquet(path, engine="pyarrow").set_index("arch")
    macs = {str(code): float(n) for code, n in table["flops"].items()}
    seen = {str(code): 100 - float(a) for code, a in table["test_acc_run0"].items()}
    truth = {str(code): 100 - float(a) for code, a in table["test_acc_mean"].items()}
    names = [f"block{i}" for i in range(8)]

    def code_of(params: Params) -> str:
        return "".join(str(params[name]) for name in names)

    def suggest(trial: BaseTrial) -> Params:
        return {name: trial.suggest_categorical(name, (0, 1, 2)) for name in names}

    points = np.array([(truth[code], macs[code]) for code in truth])
    low = tuple(points.min(axis=0).tolist())
    high = (float(np.percentile(points[:, 0], 99)), max(macs.values()))
    return Problem(
        name="nas_bench_macro",
        objectives=("error", "macs"),
        distributions={name: CategoricalDistribution((0, 1, 2)) for name in names},
        suggest=suggest,
        evaluate=lambda params, seed: (seen[code_of(params)], macs[code_of(params)]),
        true=lambda params: (truth[code_of(params)], macs[code_of(params)]),
        exact={1: lambda params: macs[code_of(params)]},
        identity=lambda params: macro_identity(code_of(params)),
        low=low,
        high=high,
        volume=hypervolume(points, low, high),
    )


# ---------------------------------------------------------------------------------------------
# Strong interactions: 36^4 = 1,679,616 networks, all known

WIDTHS, KERNELS, GATES = (16, 24, 40), (3, 5, 7), ("none", "se", "eca", "cbam")
GATE_MACS = {"none": 1.0, "se": 1.02, "eca": 1.01, "cbam": 1.1}
INTERACTION_SPACE: dict[str, tuple[Any, ...]] = {
    f"stage{i}.{part}": choices
    for i in range(4)
    for part, choices in (("width", WIDTHS), ("kernel", KERNELS), ("attention", GATES))
}
SHAPE = tuple(len(choices) for choices in INTERACTION_SPACE.values())
N_PAIRS, N_TRIPLES = 20, 10  # which parameters interact, drawn once
SHARES = {"size": 0.2, "pairs": 0.45, "triples": 0.35}  # of the variance of the error
MEAN_ERROR, ERROR_SPREAD, CHANCE_ERROR, BROKEN, NOISE = 14.0, 2.0, 90.0, 0.02, 0.21  # points


@cache
def interaction_tables() -> tuple[Floats, Floats]:
    """Error in % and mega-multiply-adds of every network, each of shape SHAPE.

    Error: effects of single choices (a larger one is better), of pairs and of triples, each centred
    so that none explains the other; then 2 % of the networks, picked by a hash, are at chance.
    """
    rng = np.random.default_rng(20)
    n = len(SHAPE)
    parts: dict[str, list[tuple[int, ...]]] = {
        "size": [(i,) for i in range(n)],
        "pairs": some(rng, list(itertools.combinations(range(n), 2)), N_PAIRS),
        "triples": some(rng, list(itertools.combinations(range(n), 3)), N_TRIPLES),
    }
    error = np.full(SHAPE, MEAN_ERROR)
    for part, groups in parts.items():
        tables = [centred(rng.standard_normal([SHAPE[i] for i in group])) for group in groups]
        if part == "size":
            tables = [-np.sort(table) for table in tables]
        scale = ERROR_SPREAD * math.sqrt(SHARES[part] / sum(np.var(table) for table in tables))
        for group, table in zip(groups, tables, strict=True):
            error += scale * table.reshape([SHAPE[i] if i in group else 1 for i in range(n)])
    index = np.arange(error.size, dtype=np.uint64).reshape(SHAPE)
    error[mix(index) < np.uint64(BROKEN * 2**64)] = CHANCE_ERROR
    macs = np.zeros(SHAPE)
    for stage, axis in enumerate(range(0, n, 3)):
        width, kernel, gate = np.ix_(WIDTHS, KERNELS, [GATE_MACS[gate] for gate in GATES])
        one = 2.0**stage * (0.05 * width**2 + 0.02 * width * kernel**2) * gate
        macs += one.reshape([1] * axis + [3, 3, 4] + [1] * (n - axis - 3))
    return error, macs


def some(rng: np.random.Generator, groups: list[tuple[int, ...]], n: int) -> list[tuple[int, ...]]:
    """n of the groups, drawn without putting back."""
    return [groups[i] for i in sorted(rng.choice(len(groups), n, replace=False))]


def centred(table: Floats) -> Floats:
    """Without the mean along any axis: a pure interaction."""
    for axis in range(table.ndim):
        table = table - table.mean(axis=axis, keepdims=True)
    return table


def mix(index: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash of whole numbers to 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@cache
def interactions(path: Path | None = None) -> Problem:
    """12 categorical parameters whose effects depend on each other; 2 % of the networks broken.

    The noise of one seed is 0.21 points; broken networks are at 90 % error with every seed. The
    true front is that of all 1,679,616. Scale: error from its least to the 99th percentile of those
    that work, multiply-adds from least to most.
    """
    error, macs = interaction_tables()
    names = tuple(INTERACTION_SPACE)
    places = {name: {c: i for i, c in enumerate(cs)} for name, cs in INTERACTION_SPACE.items()}

    def index(params: Params) -> tuple[int, ...]:
        return tuple(places[name][params[name]] for name in names)

    def suggest(trial: BaseTrial) -> Params:
        return {name: trial.suggest_categorical(name, INTERACTION_SPACE[name]) for name in names}

    def true(params: Params) -> Values:
        return float(error[index(params)]), float(macs[index(params)])

    def evaluate(params: Params, seed: int) -> Values:
        mean, cost = true(params)
        works = mean < CHANCE_ERROR
        return mean + works * NOISE * seed_noise("interactions", index(params), seed), cost

    low = (float(error.min()), float(macs.min()))
    high = (float(np.percentile(error[error < CHANCE_ERROR], 99)), float(macs.max()))
    points = np.column_stack([error.ravel(), macs.ravel()])
    return Problem(
        name="interactions",
        objectives=("error", "macs"),
        distributions={n: CategoricalDistribution(c) for n, c in INTERACTION_SPACE.items()},
        suggest=suggest,
        evaluate=evaluate,
        true=true,
        exact={1: lambda params: float(macs[index(params)])},
        identity=index,
        low=low,
        high=high,
        volume=hypervolume(points, low, high),
    )


# ---------------------------------------------------------------------------------------------
# 30 parameters, 16 of them conditional, three objectives

STEMS, HEADS = (8, 16, 24), ("avg", "gem")
STAGE_WIDTHS = (range(16, 41, 8), range(32, 81, 16), range(64, 161, 32))
POSITIONS, MAX_DEPTH, EXPANSION = (256, 64, 16), 3, 3  # positions of a stage's map
ATTENTIONS = ("none", "se", "spatial", "light")
OPTIONS: dict[str, tuple[str, BaseDistribution]] = {  # of an attention kind
    "se": ("ratio", IntDistribution(4, 16, step=4)),
    "spatial": ("window", CategoricalDistribution((3, 5, 7))),
    "light": ("groups", IntDistribution(1, 8)),
}
GEM_P = FloatDistribution(1.0, 5.0, step=0.5)
FLOOR_ERROR, ERROR_SPAN, HALVING = 4.0, 30.0, 7.0  # %, %, quality that halves what is left
HIGH_ERROR = 18.0  # %, of the reference point: 1 % of 2,000 random networks were worse
NOISE_30 = 0.25  # points
Stage = tuple[tuple[int, ...], str, int]  # kernels (one a block), attention, its option (or 0)
Head = tuple[str, float]
Costs = tuple[float, float, float]  # quality, mega-multiply-adds, milliseconds; all of them add up


def conditional_space() -> dict[str, BaseDistribution]:
    """All 30 parameters, whether or not they mean something."""
    space: dict[str, BaseDistribution] = {"stem.width": CategoricalDistribution(STEMS)}
    for i, widths in enumerate(STAGE_WIDTHS):
        space[f"stage{i}.width"] = IntDistribution(widths[0], widths[-1], step=widths.step)
        space[f"stage{i}.depth"] = IntDistribution(1, MAX_DEPTH)
        for j in range(MAX_DEPTH):
            space[f"stage{i}.kernel{j}"] = CategoricalDistribution(KERNELS)
        space[f"stage{i}.attention"] = CategoricalDistribution(ATTENTIONS)
        for kind, (option, distribution) in OPTIONS.items():
            space[f"stage{i}.{kind}.{option}"] = distribution
    return space | {"head.pool": CategoricalDistribution(HEADS), "head.p": GEM_P}


CONDITIONAL_SPACE = conditional_space()


def suggest_conditional(trial: BaseTrial) -> Params:
    """The parameters that mean something, in order: depth decides how many kernels there are,
    attention which option, pooling whether there is a power."""
    params: Params = {}

    def ask(name: str) -> Any:
        params[name] = suggest_value(trial, name, CONDITIONAL_SPACE[name])
        return params[name]

    ask("stem.width")
    for i in range(len(STAGE_WIDTHS)):
        ask(f"stage{i}.width")
        for j in range(ask(f"stage{i}.depth")):
            ask(f"stage{i}.kernel{j}")
        kind = ask(f"stage{i}.attention")
        if kind in OPTIONS:
            ask(f"stage{i}.{kind}.{OPTIONS[kind][0]}")
    if ask("head.pool") == "gem":
        ask("head.p")
    return params


@cache
def effects() -> dict[str, Floats]:
    """Quality of kernels by stage and block, of neighbouring kernels, of attention by width and
    by depth, and of a window beside a kernel: drawn once."""
    rng = np.random.default_rng(30)
    sizes = {
        "kernel": (3, MAX_DEPTH, 3),
        "neighbours": (3, 3, 3),
        "attention_width": (3, 4, 4),
        "attention_depth": (3, 4, MAX_DEPTH),
        "window_kernel": (3, 3, 3),
    }
    return {name: rng.standard_normal(size) for name, size in sizes.items()}


@cache
def stage_costs(i: int, in_width: int, width: int, stage: Stage) -> Costs:
    """What stage i adds, given the width before it."""
    kernels, kind, option = stage
    table, steps = effects(), STAGE_WIDTHS[i].index(width)
    places = [KERNELS.index(k) for k in kernels]
    growth = math.log2(width / in_width) - 1
    quality = 2.0 * math.log2(width / STAGE_WIDTHS[i][0]) - 0.8 * growth**2
    for j, place in enumerate(places):
        quality += (1.5 + 0.7 * place + 0.8 * table["kernel"][i, j, place]) / (j + 1)
    quality += sum(0.6 * table["neighbours"][i, a, b] for a, b in itertools.pairwise(places))
    row = ATTENTIONS.index(kind)
    if kind != "none":
        quality += 0.8 + 0.7 * table["attention_width"][i, row, steps]
        quality += 0.7 * table["attention_depth"][i, row, len(kernels) - 1]
    if kind == "se":  # a wide stage stands a stronger squeeze
        quality -= 0.8 * (math.log2(option / 4) - 0.6 * steps) ** 2
    if kind == "spatial":
        quality += 0.8 * table["window_kernel"][i, (option - 3) // 2, places[-1]]
    if kind == "light":  # more groups for more blocks
        quality -= 0.3 * (math.log2(option) - len(kernels)) ** 2

    macs = ms = 0.0
    inner = EXPANSION * width
    for kernel in kernels:
        points = POSITIONS[i] * (in_width * inner + inner * width) / 1e6
        depthwise = POSITIONS[i] * inner * kernel**2 / 1e6
        gate_macs, gate_ms = {
            "none": (0.0, 0.0),
            "se": (2 * inner**2 / max(option, 1) / 1e6, 0.03),
            "spatial": (2 * POSITIONS[i] * option**2 / 1e6, 0.02 + 0.01 * option),
            "light": (POSITIONS[i] * inner / max(option, 1) / 1e6, 0.03 + 0.012 * option),
        }[kind]
        macs += points + depthwise + gate_macs
        ms += 0.04 + 0.02 * points + 0.5 * depthwise + gate_ms  # depthwise: bound by memory
        in_width = width
    return quality, macs, ms


def stem_costs(width: int) -> Costs:
    """What the stem adds: a 3x3 convolution of a 32x32 picture, stride 2."""
    macs = POSITIONS[0] * 27 * width / 1e6
    return 1.2 * math.log2(width / STEMS[0]), macs, 0.05 + 0.1 * macs


def head_costs(head: Head) -> Costs:
    """What the pooling adds; generalised-mean pooling of power 1 is the average."""
    pool, p = head
    return (0.0, 0.0, 0.0) if pool == "avg" else (1.5 - 0.5 * abs(p - 3.5), 0.002, 0.06)


def read_conditional(params: Params) -> tuple[int, tuple[int, ...], tuple[Stage, ...], Head]:
    """Params -> stem width, stage widths, stages, head: equal iff the networks are."""
    stages: list[Stage] = []
    for i in range(len(STAGE_WIDTHS)):
        kind, depth = str(params[f"stage{i}.attention"]), params[f"stage{i}.depth"]
        option = params[f"stage{i}.{kind}.{OPTIONS[kind][0]}"] if kind in OPTIONS else 0
        kernels = tuple(int(params[f"stage{i}.kernel{j}"]) for j in range(depth))
        stages.append((kernels, kind, int(option)))
    p = float(params["head.p"]) if params["head.pool"] == "gem" else 1.0
    widths = tuple(int(params[f"stage{i}.width"]) for i in range(len(STAGE_WIDTHS)))
    return int(params["stem.width"]), widths, tuple(stages), ("avg" if p == 1 else "gem", p)


def conditional_costs(params: Params) -> Floats:
    """Quality, mega-multiply-adds and milliseconds of a network: (3,)."""
    stem, widths, stages, head = read_conditional(params)
    before = (stem, *widths)
    parts = [stage_costs(i, before[i], w, stages[i]) for i, w in enumerate(widths)]
    total: Floats = np.array([stem_costs(stem), *parts, head_costs(head)]).sum(axis=0)
    return total


def error_of(quality: Floats) -> Floats:
    """Quality -> error in %: falls with quality, ever more slowly."""
    return FLOOR_ERROR + ERROR_SPAN * 0.5 ** (quality / HALVING)


def all_stages() -> Iterator[Stage]:
    """What a stage can be, but for its width."""
    gates = [("none", 0)] + [(kind, v) for kind, (_, d) in OPTIONS.items() for v in grid(d)]
    for depth in range(1, MAX_DEPTH + 1):
        for kernels in itertools.product(KERNELS, repeat=depth):
            for kind, option in gates:
                yield kernels, kind, option


def all_heads() -> Iterator[Head]:
    yield "avg", 1.0
    yield from (("gem", p) for p in grid(GEM_P) if p > 1)


def conditional_front(stages: Sequence[Stage], heads: Sequence[Head]) -> Floats:
    """The exact front of all networks of these stages and heads: (n, 3), error, macs, ms.

    Given all widths, quality and costs are sums over the stages. So a network on the front has
    stages on their own fronts: sum those, drop what is dominated, for each of the 192 widths.
    """
    tails = best(np.array([head_costs(head) for head in heads]))
    fronts = []
    for stem in STEMS:
        for widths in itertools.product(*STAGE_WIDTHS):
            before = (stem, *widths)
            front = np.array([stem_costs(stem)]) + tails
            for i, width in enumerate(widths):
                front = best(pairwise_sums(front, stage_front(i, before[i], width, tuple(stages))))
            fronts.append(front)
    front = best(np.concatenate(fronts))
    return np.column_stack([error_of(front[:, 0]), front[:, 1:]])


@cache
def stage_front(i: int, in_width: int, width: int, stages: tuple[Stage, ...]) -> Floats:
    return best(np.array([stage_costs(i, in_width, width, stage) for stage in stages]))


def pairwise_sums(a: Floats, b: Floats) -> Floats:
    """(n, 3), (m, 3) -> (n * m, 3)."""
    return (a[:, None] + b[None]).reshape(-1, a.shape[1])


def best(costs: Floats) -> Floats:
    """Rows that are not dominated: quality is maximised, costs are minimised."""
    front: Floats = moocore.filter_dominated(costs, maximise=[True, False, False])
    return front


@cache
def conditional30(path: Path | None = None) -> Problem:
    """30 parameters, of which 14 to 24 mean something in a network; error, macs and latency.

    Latency is no multiple of macs: depthwise convolutions and attention are slow for their
    multiply-adds. The noise of one seed is 0.25 points. The front is exact: `conditional_front`.
    Scale: each objective from the front's least; error to 18 %, costs to the most.
    """

    def true(params: Params) -> Values:
        quality, macs, ms = conditional_costs(params)
        return float(error_of(quality)), float(macs), float(ms)

    def evaluate(params: Params, seed: int) -> Values:
        error, macs, ms = true(params)
        noise = seed_noise("conditional30", read_conditional(params), seed)
        return error + NOISE_30 * noise, macs, ms

    front = conditional_front(tuple(all_stages()), tuple(all_heads()))
    low = tuple(front.min(axis=0).tolist())
    high = (HIGH_ERROR, *most_costs())
    return Problem(
        name="conditional30",
        objectives=("error", "macs", "latency"),
        distributions=CONDITIONAL_SPACE,
        suggest=suggest_conditional,
        evaluate=evaluate,
        true=true,
        exact={
            1: lambda params: float(conditional_costs(params)[1]),
            2: lambda params: float(conditional_costs(params)[2]),
        },
        identity=read_conditional,
        low=low,
        high=high,
        volume=hypervolume(front, low, high),
    )


def most_costs() -> tuple[float, float]:
    """The most multiply-adds and the longest latency of any network: wide all through, and in
    each stage the costliest choice."""
    before = (STEMS[-1], *(widths[-1] for widths in STAGE_WIDTHS))
    rows = [[stem_costs(STEMS[-1])], [head_costs(head) for head in all_heads()]]
    rows += [
        [stage_costs(i, before[i], before[i + 1], stage) for stage in all_stages()]
        for i in range(len(STAGE_WIDTHS))
    ]
    most = sum(np.max(row, axis=0) for row in rows)
    return float(most[1]), float(most[2])


PROBLEMS: dict[str, Callable[[Path | None], Problem]] = {
    "nas_bench_macro": nas_bench_macro,
    "interactions": interactions,
    "conditional30": conditional30,
}

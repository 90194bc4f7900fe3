"""Our sampler and its peers on searches whose truth is known, at equal budgets of 200 trials.

    python -m benchmarks.search --table PATH/nas_bench_macro_cifar10.parquet --out docs/results

Prints the share of the true hypervolume at 20, 50, 100 and 200 trials with 95 % intervals (t over
seeds), the share of duplicates and milliseconds a proposal; writes search.md and search.svg. Each
run is kept in --runs as a CSV file, and one that is there is not run again. Peers that are not
installed are left out, and named.
"""

# pymoo and Syne Tune ship no types.
# mypy: disable-error-code="import-untyped"

import argparse
import csv
import importlib.util
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import optuna
import scipy.stats
from matplotlib import pyplot
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection

from benchmarks.search_problems import PROBLEMS, Params, Problem, Values, grid

BUDGET, BUDGETS, CURVE = 200, (20, 50, 100, 200), tuple(range(10, 201, 10))
POPULATION = 20  # of the NSGAs: the usual 50 or 100 searches nothing before it is full
OURS = "ours"


class Searcher(Protocol):
    """What proposes networks, one after the other."""

    def ask(self) -> Params: ...

    def tell(self, params: Params, values: Values) -> None: ...


@dataclass(frozen=True)
class Sampler:
    """A row of the comparison: how it is made for a problem and a seed, and what was set.

    `most_seeds` is for those that take minutes a search: fewer seeds, by problem; the table says
    how many there were.
    """

    make: Callable[[Problem, int], Searcher]
    settings: str
    packages: tuple[str, ...] = ("optuna",)
    most_seeds: Mapping[str, int] = field(default_factory=dict)


class OptunaSearcher:
    """Any Optuna sampler, by ask and tell and plain `suggest_*` calls."""

    def __init__(self, problem: Problem, sampler: BaseSampler) -> None:
        self.problem = problem
        directions = [StudyDirection.MINIMIZE] * len(problem.objectives)
        self.study = optuna.create_study(sampler=sampler, directions=directions)

    def ask(self) -> Params:
        self.trial = self.study.ask()
        return self.problem.suggest(self.trial)

    def tell(self, params: Params, values: Values) -> None:
        self.study.tell(self.trial, values)


class PymooSearcher:
    """pymoo's NSGA-II with its mixed variables; a generation is told when all of it is known.

    One gene in a network mutates on average. Left alone, pymoo takes each categorical one for a
    problem of its own and mutates half of them: that is nearer to random search, and worse here.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2, binary_tournament
        from pymoo.core.mixed import (
            MixedVariableDuplicateElimination,
            MixedVariableMating,
            MixedVariableSampling,
        )
        from pymoo.core.problem import Problem as PymooProblem
        from pymoo.core.variable import Choice, Integer
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.mutation.rm import ChoiceRandomMutation
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.selection.tournament import TournamentSelection

        def variable(d: BaseDistribution) -> Any:
            values = grid(d)
            if isinstance(d, CategoricalDistribution):
                return Choice(options=list(values))
            return Integer(bounds=(0, len(values) - 1))

        self.problem = problem
        self.values: list[Values] = []
        unique, rate = MixedVariableDuplicateElimination(), 1 / len(problem.distributions)
        mating = MixedVariableMating(
            selection=TournamentSelection(func_comp=binary_tournament),
            mutation={
                Choice: ChoiceRandomMutation(prob_var=rate),
                Integer: PM(vtype=float, repair=RoundingRepair(), prob_var=rate),
            },
            eliminate_duplicates=unique,
        )
        self.algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=MixedVariableSampling(),
            mating=mating,
            eliminate_duplicates=unique,
        )
        variables = {name: variable(d) for name, d in problem.distributions.items()}
        self.pymoo = PymooProblem(vars=variables, n_obj=len(problem.objectives))
        self.algorithm.setup(self.pymoo, seed=seed, termination=("n_gen", BUDGET))
        self.generation = self.algorithm.ask()

    def ask(self) -> Params:
        if len(self.values) == len(self.generation):
            self.algorithm.tell(infills=self.generation)
            self.generation, self.values = self.algorithm.ask(), []
        genes = self.generation[len(self.values)].X
        flat = {
            name: as_plain(genes[name])
            if isinstance(d, CategoricalDistribution)
            else grid(d)[genes[name]]
            for name, d in self.problem.distributions.items()
        }
        return self.problem.decode(flat)

    def tell(self, params: Params, values: Values) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        self.values.append(values)
        if len(self.values) == len(self.generation):
            static = StaticProblem(self.pymoo, F=np.array(self.values))
            Evaluator().eval(static, self.generation)


class SyneTuneSearcher:
    """A searcher of Syne Tune over the flat space; what it is told is scaled by `scale`."""

    def __init__(self, problem: Problem, searcher: Any, scale: Callable[[Values], Values]) -> None:
        from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler
        from syne_tune.optimizer.schedulers.single_fidelity_scheduler import (
            SingleFidelityScheduler,
        )

        self.problem, self.scale = problem, scale
        self.scheduler = AskTellScheduler(
            SingleFidelityScheduler(
                searcher.config_space, metrics=list(problem.objectives), searcher=searcher
            )
        )

    def ask(self) -> Params:
        self.trial = self.scheduler.ask()
        return self.problem.decode(self.trial.config)

    def tell(self, params: Params, values: Values) -> None:
        metrics = dict(zip(self.problem.objectives, self.scale(values), strict=True))
        self.scheduler.tell(self.trial, metrics)


def syne_tune_space(problem: Problem) -> dict[str, Any]:
    """The flat space as Syne Tune writes it."""
    from syne_tune.config_space import choice, finrange

    def domain(d: Any) -> Any:
        values = grid(d)
        if isinstance(d, CategoricalDistribution):
            return choice(list(values))
        return finrange(d.low, d.high, len(values), cast_int=isinstance(d, IntDistribution))

    return {name: domain(d) for name, d in problem.distributions.items()}


def make_mo_rea(problem: Problem, seed: int) -> Searcher:
    """Multi-objective regularized evolution; its random draws come from numpy's global state."""
    from syne_tune.optimizer.schedulers.multiobjective import MultiObjectiveRegularizedEvolution

    np.random.seed(seed)  # noqa: NPY002 - Syne Tune draws from it
    searcher = MultiObjectiveRegularizedEvolution(syne_tune_space(problem), random_seed=seed)
    return SyneTuneSearcher(problem, searcher, lambda values: values)


def make_ehvi(problem: Problem, seed: int) -> Searcher:
    """Expected hypervolume improvement by BoTorch.

    Its reference point is 2 in each objective after negation, whatever their scale. So it is told
    what puts the true reference point there, which other peers do not know. It mixes two precisions
    where BoTorch takes one: double is the default while it proposes.
    """
    import torch
    from syne_tune.optimizer.schedulers.multiobjective.expected_hyper_volume_improvement import (
        ExpectedHyperVolumeImprovement,
    )

    def scale(values: Values) -> Values:
        rows = zip(values, problem.low, problem.high, strict=True)
        return tuple((value - low) / (high - low) - 3 for value, low, high in rows)

    class InDouble(ExpectedHyperVolumeImprovement):  # type: ignore[misc]
        def suggest(self) -> Any:
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64)
            try:
                return super().suggest()
            finally:
                torch.set_default_dtype(before)

    np.random.seed(seed)  # noqa: NPY002 - Syne Tune draws from it
    searcher = InDouble(syne_tune_space(problem), num_init_random=10, random_seed=seed)
    return SyneTuneSearcher(problem, searcher, scale)


def make_ours(problem: Problem, seed: int) -> Searcher:
    from nasattn.search.cost_aware import CostAwareSampler

    space = problem.distributions
    return OptunaSearcher(
        problem, CostAwareSampler(problem.exact, seed, space=space, identity=problem.identity)
    )


def by_optuna(make: Callable[[int], BaseSampler]) -> Callable[[Problem, int], Searcher]:
    return lambda problem, seed: OptunaSearcher(problem, make(seed))


SAMPLERS: dict[str, Sampler] = {
    OURS: Sampler(
        make_ours,
        "CostAwareSampler, defaults; given exact costs, the space and which networks are equal",
        ("nasattn.search.cost_aware",),
    ),
    "random": Sampler(by_optuna(lambda seed: RandomSampler(seed=seed)), "Optuna RandomSampler"),
    "tpe": Sampler(by_optuna(lambda seed: TPESampler(seed=seed)), "Optuna TPESampler, defaults"),
    "tpe_multivariate": Sampler(
        by_optuna(lambda seed: TPESampler(seed=seed, multivariate=True, group=True)),
        "Optuna TPESampler, multivariate, group",
    ),
    "nsga2": Sampler(
        by_optuna(lambda seed: NSGAIISampler(seed=seed, population_size=POPULATION)),
        f"Optuna NSGAIISampler, population {POPULATION}",
    ),
    "nsga3": Sampler(
        by_optuna(lambda seed: NSGAIIISampler(seed=seed, population_size=POPULATION)),
        f"Optuna NSGAIIISampler, population {POPULATION}",
    ),
    "gp": Sampler(
        by_optuna(lambda seed: GPSampler(seed=seed, warn_independent_sampling=False)),
        "Optuna GPSampler, defaults; parameters that not every network has are drawn at random",
        ("optuna", "torch"),
        most_seeds={"nas_bench_macro": 3, "interactions": 3, "conditional30": 1},
    ),
    "pymoo_nsga2": Sampler(
        PymooSearcher,
        f"pymoo NSGA-II, mixed variables, population {POPULATION}, no equal genes, one mutates",
        ("pymoo",),
    ),
    "mo_rea": Sampler(
        make_mo_rea,
        "Syne Tune MO-REA, defaults (populations of 20 and 50 were not better over all)",
        ("syne_tune",),
    ),
    "ehvi": Sampler(
        make_ehvi,
        "Syne Tune EHVI (BoTorch), 10 random first, given the true reference point; two objectives"
        " only, with three it takes many seconds a proposal",
        ("syne_tune", "botorch"),
        most_seeds={"nas_bench_macro": 2, "interactions": 2, "conditional30": 0},
    ),
}
LEFT_OUT = {
    "NNI's evolution": "NNI 3.0 pins filelock below 3.12, nasattn needs 3.20: it does not install"
    " beside it."
}


@dataclass(frozen=True)
class Run:
    """One search: what was proposed, in order, and how long each proposal took."""

    problem: Problem
    sampler: str
    seed: int
    networks: tuple[Params, ...]
    milliseconds: tuple[float, ...]

    def share(self, n: int) -> float:
        """Share of the true hypervolume after n trials."""
        return self.problem.hypervolume_share(self.networks[:n])

    def duplicates(self) -> float:
        """Share of the trials that went to a network proposed before."""
        return 1 - len({self.problem.identity(p) for p in self.networks}) / len(self.networks)

    def late_milliseconds(self) -> float:
        """Median of the last tenth of the proposals."""
        return statistics.median(self.milliseconds[-max(1, len(self.milliseconds) // 10) :])


def search(problem: Problem, name: str, sampler: Sampler, seed: int, n_trials: int = BUDGET) -> Run:
    """Run one search; the seed is that of the sampler and of the noise."""
    searcher = sampler.make(problem, seed)
    networks, milliseconds = [], []
    for _ in range(n_trials):
        start = time.perf_counter()
        params = searcher.ask()
        milliseconds.append(1000 * (time.perf_counter() - start))
        networks.append(params)
        searcher.tell(params, problem.evaluate(params, seed))
    return Run(problem, name, seed, tuple(networks), tuple(milliseconds))


def write_run(run: Run, path: Path) -> None:
    """Write a finished run, all at once: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["milliseconds", *run.problem.objectives, "params"])
        for params, ms in zip(run.networks, run.milliseconds, strict=True):
            values = run.problem.evaluate(params, run.seed)
            rows.writerow([f"{ms:.3f}", *values, json.dumps(params)])
    partial.replace(path)


def read_run(problem: Problem, name: str, seed: int, path: Path) -> Run:
    """Read a run back; one whose values the problem does not give any more is refused."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    networks = tuple(json.loads(row["params"]) for row in rows)
    told = tuple(float(rows[0][objective]) for objective in problem.objectives)
    if told != problem.evaluate(networks[0], seed):
        raise ValueError(f"{path}: {problem.name} has changed since; remove the file")
    return Run(problem, name, seed, networks, tuple(float(row["milliseconds"]) for row in rows))


def as_plain(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def installed(sampler: Sampler) -> bool:
    """Whether all that a sampler needs is there."""
    return all(importlib.util.find_spec(package) is not None for package in sampler.packages)


def run_all(
    problems: Sequence[Problem], samplers: Sequence[str], n_seeds: int, folder: Path
) -> Iterator[Run]:
    """Every run, from its file or by searching; all seeds 0 first, so that a stop leaves rows."""
    for seed in range(n_seeds):
        for problem in problems:
            for name in samplers:
                if seed >= SAMPLERS[name].most_seeds.get(problem.name, n_seeds):
                    continue
                path = folder / problem.name / name / f"{seed}.csv"
                if not path.exists():
                    start = time.perf_counter()
                    write_run(search(problem, name, SAMPLERS[name], seed), path)
                    seconds = time.perf_counter() - start
                    print(f"{problem.name} {name} seed {seed}: {seconds:.1f} s", flush=True)
                yield read_run(problem, name, seed, path)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % interval (none for one seed)."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ± {self.half:.3f}")


def interval(values: Sequence[float]) -> Interval:
    """By Student's t."""
    n = len(values)
    if n < 2:
        return Interval(values[0], None)
    error = statistics.stdev(values) / n**0.5
    return Interval(statistics.fmean(values), float(scipy.stats.t.ppf(0.975, n - 1)) * error)


HEADER = ("sampler", "seeds", *map(str, BUDGETS), "duplicates", "ms a proposal")


def table(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A row a sampler, of the runs of one problem."""
    rows = []
    for name in dict.fromkeys(run.sampler for run in runs):
        own = [run for run in runs if run.sampler == name]
        shares = [str(interval([run.share(n) for run in own])) for n in BUDGETS]
        doubled = statistics.fmean(run.duplicates() for run in own)
        ms = statistics.median(run.late_milliseconds() for run in own)
        rows.append((name, f"{len(own)}", *shares, f"{100 * doubled:.1f} %", f"{ms:.1f}"))
    return rows


def by_problem(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.problem.name, []).append(run)
    return groups


def draw(runs: Sequence[Run], path: Path) -> None:
    """Mean share of the hypervolume against trials, a panel a problem, with 95 % bands."""
    mpl.rcParams["svg.hashsalt"] = "search"  # the same runs give the same file
    groups = by_problem(runs)
    figure, panels = pyplot.subplots(
        1, len(groups), figsize=(5 * len(groups), 4.2), squeeze=False, layout="constrained"
    )
    colours = {name: f"C{i}" for i, name in enumerate(SAMPLERS)}
    for panel, (problem, own) in zip(panels[0], groups.items(), strict=True):
        for name in dict.fromkeys(run.sampler for run in own):
            curves = [[run.share(n) for n in CURVE] for run in own if run.sampler == name]
            bands = [interval(column) for column in zip(*curves, strict=True)]
            means = np.array([band.mean for band in bands])
            halves = np.array([band.half or 0.0 for band in bands])
            width = 2.2 if name == OURS else 1.2
            panel.plot(CURVE, means, color=colours[name], label=name, linewidth=width)
            if len(curves) >= 6:
                low, high = means - halves, means + halves
                panel.fill_between(CURVE, low, high, color=colours[name], alpha=0.15, linewidth=0)
        panel.set(title=problem, xlabel="trials", ylabel="share of the true hypervolume")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize="small")  # two objectives: every sampler took part
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def page(runs: Sequence[Run], absent: Sequence[str]) -> str:
    """The results as Markdown."""
    lines = [
        "# Searches whose truth is known: our sampler and its peers",
        "",
        "Share of the true hypervolume after 20, 50, 100 and 200 trials, mean and 95 % interval",
        "(Student's t over seeds); the search sees one noisy training a network, the share is by",
        "its true values. A network proposed again costs a trial. Milliseconds: median of the last",
        f"{BUDGET // 10} proposals.",
        "",
        "```bash",
        "python -m benchmarks.search --table PATH/nas_bench_macro_cifar10.parquet",
        "```",
        "",
        "![share of the hypervolume against trials](search.svg)",
    ]
    for problem, own in by_problem(runs).items():
        lines += ["", f"## {problem}", "", about(own[0].problem), "", *markdown(table(own))]
    lines += ["", "## Settings", ""]
    used = dict.fromkeys(run.sampler for run in runs)
    lines += [f"- **{name}**: {SAMPLERS[name].settings}" for name in used]
    lines += [f"- left out, not installed: {name}" for name in absent]
    lines += [f"- left out: {name}. {why}" for name, why in LEFT_OUT.items()]
    return "\n".join([*lines, f"- {setup()}", ""])


def about(problem: Problem) -> str:
    """What a problem is, in a line."""
    free = ", ".join(problem.objectives[i] for i in problem.exact)
    n = len(problem.distributions)
    return f"{n} parameters; {', '.join(problem.objectives)}; known without training: {free}."


def markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (HEADER, ("---",) * len(HEADER), *rows)]


def setup() -> str:
    """The versions and the machine."""
    distributions = ("numpy", "optuna", "pymoo", "syne-tune", "botorch", "moocore")
    modules = ("numpy", "optuna", "pymoo", "syne_tune", "botorch", "moocore")
    names = [
        f"{name} {version(name)}"
        for name, module in zip(distributions, modules, strict=True)
        if importlib.util.find_spec(module)
    ]
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    python, cores = platform.python_version(), os.cpu_count()
    return f"{date.today()}; {cores} cores, {threads} threads, python {python}, {', '.join(names)}"


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--table", type=Path, help="NAS-Bench-Macro's table, a parquet file")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=[*SAMPLERS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="kept runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args(argv)
    if "nas_bench_macro" in arguments.problems and not (
        arguments.table and arguments.table.is_file()
    ):
        parser.error("nas_bench_macro needs --table, a file that is there")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    return arguments


def main(argv: Sequence[str]) -> None:
    """Run what is missing; print and write the tables and the plot."""
    arguments = read_arguments(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # peers warn of being experimental, at every trial
    samplers = [name for name in arguments.samplers if installed(SAMPLERS[name])]
    absent = [name for name in arguments.samplers if name not in samplers]
    problems = [PROBLEMS[name](arguments.table) for name in arguments.problems]
    runs = list(run_all(problems, samplers, arguments.seeds, arguments.runs))
    print(setup())
    for problem, own in by_problem(runs).items():
        print(f"\n{problem}")
        for row in (HEADER, *table(own)):
            print(f"{row[0]:18}{row[1]:>6}" + "".join(f"{cell:>16}" for cell in row[2:]))
    for name in absent:
        print(f"left out, not installed: {name}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(runs, arguments.out / "search.svg")
    (arguments.out / "search.md").write_text(page(runs, absent), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

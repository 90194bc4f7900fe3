"""`nasattn bench estimators`: from a space to a table of what each estimator is worth."""

import json
import shlex
import shutil
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nasattn.cli.data import load_with_progress
from nasattn.cli.engines import open_engine
from nasattn.cli.folders import check_folder, one_writer, write_result
from nasattn.cli.machine import machine_turns
from nasattn.cli.study import note_differences
from nasattn.cli.tables import add_row, number_column, table
from nasattn.errors import StudyError
from nasattn.estimate.bench import (
    BenchSpec,
    Drawn,
    draw_networks,
    estimate_tasks,
    preparing_tasks,
    run_tasks,
    truth_of,
    truth_table,
    truth_tasks,
    whole_seeds,
)
from nasattn.estimate.estimator import Estimate, Ground
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.quality import n_top
from nasattn.estimate.ranking import Ranking, rank_estimators
from nasattn.estimate.table import FULL, get_estimator
from nasattn.evaluate import Setting, check_device
from nasattn.files import slug
from nasattn.objectives import get_objective
from nasattn.search.engines.engine import INLINE
from nasattn.search.environment import environment
from nasattn.search.spec import StudySpec
from nasattn.space import load_space
from nasattn.spec import differences, parse
from nasattn.train.loop import Epoch
from nasattn.words import duration, plural, printable

SETTINGS, TRAININGS, ESTIMATES = "bench.json", "trainings.jsonl", "estimates.jsonl"
TRUTH, CHECKPOINTS = "truth.csv", "checkpoints"
SOON = 0.0036  # CPU seconds: what is shorter is done more than a million times an hour
ALL = "all networks"  # of whom something is prepared
SILENCE = 30  # seconds after which a log that is no terminal gets a line


def bench_estimators_command(
    changes: Mapping[str, Any],
    *,
    n_jobs: int,
    out: Path | None,
    as_json: bool,
    cache_dir: Path,
) -> int:
    """Train the truth, estimate, rank; returns the exit status."""
    console = Console(highlight=False, stderr=as_json)
    spec = parse(BenchSpec, dict(changes), "options", StudyError)
    processes = parse(StudySpec, {"n_jobs": n_jobs}, "options", StudyError)
    space = load_space(spec.space)
    check_device(spec.device)
    torch.set_num_threads(1)
    name = f"bench-{slug(Path(spec.space).stem)}-{slug(Path(spec.data).absolute().stem)}"
    folder = out or Path("runs") / name
    check_folder(folder)
    data = load_with_progress(console, spec.data, spec.resolution, cache_dir)
    setting = Setting(
        data,
        spec.recipe,
        (get_objective("top1"),),
        device=spec.device,
        turns=machine_turns(console, cache_dir),
        checkpoints=(folder / CHECKPOINTS).absolute(),
    )
    check_lengths(spec, setting)
    networks = draw_networks(space, spec.networks, spec.seed, data.resolution)
    with one_writer(folder):
        settle(console, folder / SETTINGS, spec.settings(data, space))
        trained, estimated = Ledger(folder / TRAININGS), Ledger(folder / ESTIMATES)
        console.print(introduction(spec, setting), style="dim", markup=False)
        truth, asked = truth_tasks(networks, spec.seeds), estimate_tasks(networks, spec.parts())
        first, ground = preparing_tasks(space, spec.parts()), Ground(space, folder.absolute())
        bugs: list[str] = []
        with open_engine(processes) as engine:
            try:
                for tasks, ledger, by in (
                    (truth, trained, engine),
                    (first, estimated, INLINE),  # in turn: several may need the same
                    (asked, estimated, engine),
                ):
                    with BenchProgress(console, tasks, ledger, networks, by.n_jobs) as progress:
                        how = (setting, progress, by, ground)
                        bugs += run_tasks(tasks, networks, ledger, *how)
            except KeyboardInterrupt:
                command = shlex.join(["nasattn", *sys.argv[1:]])
                console.print(
                    f"\nstopped, nothing is lost; to go on: {command}", markup=False, soft_wrap=True
                )
                return 130
            finally:
                write_truth(folder / TRUTH, networks, trained, setting)
        for trace in bugs[:1]:
            n = plural(len(bugs), "estimate")
            console.print(f"\n{n} met a bug, at first:\n{trace}", markup=False, soft_wrap=True)
        if all(task in trained.rows for task in truth):  # else some are tried another day
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        ranking = rank_estimators(spec, space, networks, trained, estimated)
    show(console, ranking, folder, data.resolution, as_json=as_json)
    return 1 if bugs else 0


def check_lengths(spec: BenchSpec, setting: Setting) -> None:
    """StudyError for a shortened training that the recipe is too short for."""
    for name in spec.parts():
        get_estimator(name)[1].of(setting)


def settle(console: Console, path: Path, settings: Mapping[str, Any]) -> None:
    """Note what is trained in a folder, and where; StudyError where it holds another bench."""
    if not path.exists():
        write_result(path, json.dumps({"settings": settings, "machine": environment()}) + "\n")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        then_all, machine = dict(known["settings"]), dict(known["machine"])
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise StudyError(f"{path}: is not what a bench notes; -o takes another folder") from e
    plain = json.loads(json.dumps(settings))
    for place, then, now in differences(then_all, plain):
        raise StudyError(
            f"{path.parent}: holds another bench ({place}: {printable(str(then))} then, "
            f"{printable(str(now))} now); -o takes another folder"
        )
    note_differences(console, "bench", machine)


def introduction(spec: BenchSpec, setting: Setting) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    data, recipe = setting.data, spec.recipe
    size = min(recipe.train_size or len(data.train), len(data.train))
    return (
        f"truth: {plural(spec.networks, 'network')} of space {printable(spec.space)}, baselines "
        f"first, then drawn uniformly;\n"
        f"{plural(spec.seeds, 'training')} each, by seeds 0 to {spec.seeds - 1}\n"
        f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes\n"
        f"recipe {recipe.name}, {plural(recipe.epochs, 'epoch')}, {spec.device}, one thread\n"
        f"estimators {', '.join(spec.estimators)}"
    )


def write_truth(path: Path, networks: Sequence[Drawn], ledger: Ledger, setting: Setting) -> None:
    """The table for `--evaluator table:`, of the seeds by which all networks have been trained."""
    seeds = whole_seeds(networks, ledger)
    if seeds and (truth := truth_of(networks, ledger, seeds)):
        write_result(path, truth_table(networks, truth, setting.counter))


class BenchProgress:
    """A Watcher for people: a line a training, a line an estimator.

    Time left: the median of what is finished, for each other, less what the running ones have had.
    """

    def __init__(
        self,
        console: Console,
        tasks: Sequence[Task],
        ledger: Ledger,
        networks: Sequence[Drawn],
        n_jobs: int,
    ) -> None:
        self.console, self.n_jobs = console, n_jobs
        self.names = {task.arch_id: ALL for task in tasks}
        self.names |= {one.arch.arch_id: one.name for one in networks}
        self.width = max(map(len, self.names.values()))
        self.left = Counter(task.estimator for task in tasks if task not in ledger.rows)
        self.n_all, self.n_done = len(tasks), len(tasks) - self.left.total()
        self.seconds = defaultdict[str, list[float]](list)  # by estimator
        self.cpu_seconds = defaultdict[str, list[float]](list)
        for task in tasks:
            if found := ledger.rows.get(task):
                self.remember(task, found)
        self.begun: dict[Task, float] = {}  # when what runs was started
        self.last_line = time.monotonic()
        self.status = console.status("")

    def __enter__(self) -> Self:
        if self.n_done:
            self.console.print(f"going on after {self.n_done} of {self.n_all}")
        if self.left[FULL]:
            self.console.print(
                f"{'training':>9}   {'network':<{self.width}} seed   top1 %   CPU-s    left",
                soft_wrap=True,
            )
        self.status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def started(self, task: Task) -> None:
        self.begun[task] = time.monotonic()
        self.say(task)

    def epoch(self, task: Task, epoch: Epoch) -> None:
        where = f"epoch {epoch.number}"
        self.say(task, f", {where}")
        if not self.console.is_terminal and time.monotonic() - self.last_line > SILENCE:
            self.print(f"{'':>9}   {self.names[task.arch_id]} seed {task.seed} {where}")

    def finished(self, task: Task, found: Estimate) -> None:
        self.begun.pop(task, None)
        self.n_done += 1
        self.left[task.estimator] -= 1
        self.remember(task, found)
        count = f"{f'{self.n_done}/{self.n_all}':>9}"
        name = f"{self.names[task.arch_id]:<{self.width}}"
        if found.value is None:
            self.print(f"{count}   {name} {task.estimator} failed: {found.reason}")
        elif task.estimator == FULL:
            took = f"{100 * found.value:>8.2f} {found.cpu_seconds:>7.1f}"
            self.print(f"{count}   {name} {task.seed:>4} {took} {duration(self.rest()):>7}")
        if task.estimator != FULL and not self.left[task.estimator]:
            mean = statistics.fmean(self.cpu_seconds[task.estimator])
            each = "to prepare" if self.names[task.arch_id] == ALL else "a network"
            self.print(f"{count}   {task.estimator}: {mean:.3g} CPU-s {each}")

    def remember(self, task: Task, found: Estimate) -> None:
        self.seconds[task.estimator].append(found.seconds)
        self.cpu_seconds[task.estimator].append(found.cpu_seconds)

    def rest(self) -> float:
        """Seconds by the clock that those take of which one is known how long it takes."""
        usual = {name: statistics.median(known) for name, known in self.seconds.items()}
        now = time.monotonic()
        had = sum(
            min(now - begun, usual.get(task.estimator, 0)) for task, begun in self.begun.items()
        )
        whole = sum(usual.get(name, 0) * n for name, n in self.left.items())
        return max(whole - had, 0) / max(min(self.n_jobs, self.left.total()), 1)

    def say(self, task: Task, more: str = "") -> None:
        """What is running, on a terminal."""
        name = self.names[task.arch_id]
        text = f"{self.n_done + 1}/{self.n_all} {task.estimator} {name}, seed {task.seed}{more}"
        self.status.update(escape(printable(text)))

    def print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, soft_wrap=True)
        self.last_line = time.monotonic()


def show(
    console: Console, ranking: Ranking, folder: Path, resolution: int, *, as_json: bool
) -> None:
    """The table, how it is to be read, and what can be done with the truth."""
    console.print(ranking_table(ranking))
    console.print(words(ranking), style="dim", markup=False)
    if not (folder / TRUTH).exists():  # no seed by which all networks were trained
        console.print("not written: the same command tries what was lost again", style="dim")
    else:
        show_truth(console, ranking.space, folder, resolution)
    if as_json:
        print(json.dumps(asdict(ranking), indent=1))  # noqa: T201


def show_truth(console: Console, space: str, folder: Path, resolution: int) -> None:
    """Where the table is, and the next command."""
    console.print(f"written: {folder / TRUTH}", markup=False, soft_wrap=True)
    console.print(
        f"search in it: nasattn search --space {space} --evaluator table:{folder / TRUTH} "
        f"--resolution {resolution}",
        markup=False,
        soft_wrap=True,
    )


def ranking_table(ranking: Ranking) -> Table:
    """A row an estimator, the best first, below what the truth's noise allows."""
    heads = ("tau [95 %]", "partial", "top 10%", "regret", "CPU-s", "an hour")
    made = table("estimator", *map(number_column, heads), tight=True)
    made.padding = (0, 1, 0, 0)
    noise = ranking.ceiling
    if noise:
        known = with_interval(noise.known, noise.known_low, noise.known_high)
        again = with_interval(noise.again, noise.again_low, noise.again_high)
        add_row(made, ("noise ceiling", known, *[""] * 5), style="bold")
        add_row(made, ("full, once more", again, "", "", "", *cost(ranking.full_cpu_seconds)))
    for row in ranking.rows:
        q = row.quality
        cells = (tau(q.partial), tau(q.top), f"{100 * q.regret:.2f}", *cost(row.cpu_seconds))
        add_row(made, (row.name, with_interval(q.tau, q.low, q.high), *cells))
    return made


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    return tau(value) if low is None else f"{tau(value)} [{tau(low)}, {tau(high)}]"


def tau(value: float | None) -> str:
    """`.66`, `-.12`, or `-` where there is none."""
    return "-" if value is None else f"{value:.2f}".replace("0.", ".", 1)


def cost(cpu_seconds: float | None) -> tuple[str, str]:
    """Processor seconds a network, and networks an hour of one core."""
    if not cpu_seconds:
        return "-", "-"
    seconds = f"{cpu_seconds:.2g}" if cpu_seconds < 10 else f"{cpu_seconds:,.0f}"
    return seconds, f"{3600 / cpu_seconds:,.0f}" if cpu_seconds > SOON else "> 1 M"


def words(ranking: Ranking) -> str:
    """How the table is to be read, in lines of at most 80 columns."""
    k = n_top(ranking.n_networks)
    lines = [
        f"{plural(ranking.n_networks, 'network')}; truth: mean top1 of "
        f"{plural(ranking.seeds, 'training')}, sd {100 * ranking.spread:.2f} points over networks",
        f"tau: Kendall's tau-b; partial: given log macs; top 10%: of the {k} best in truth",
        f"regret: points lost where only the {k} that are said to be best are trained",
    ]
    if ranking.ceiling:
        lines += [
            "noise ceiling: of who knew each network's mean over endless seeds; full, once",
            "more: of another training, against the mean of the others, so one seed fewer",
        ]
    if ranking.n_left_out:
        lines.append(
            f"left out: {plural(ranking.n_left_out, 'network')}, a training of which failed"
        )
    for row in ranking.rows:
        if row.shared_cpu_seconds and "+" not in row.name:
            lines.append(
                f"{row.name}: in its CPU-s is 1/{ranking.n_networks} of the "
                f"{row.shared_cpu_seconds:,.0f} that all share"
            )
        if row.n_failed and "+" not in row.name:
            lines.append(f"{row.name} failed for {plural(row.n_failed, 'network')}, ranked last")
    return "\n".join(lines)

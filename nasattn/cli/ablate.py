"""`nasattn ablate`: from a base network to a table of what each of its parts is worth."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape

from nasattn.ablation.arms import BASE, CONTROL, Design
from nasattn.ablation.capacity import widen_to
from nasattn.ablation.parts import without
from nasattn.ablation.plan import make_plan
from nasattn.ablation.results import read_runs_csv
from nasattn.ablation.run import (
    Run,
    differences_of,
    done_runs,
    finished_trials,
    plan_runs,
    run_ablation,
    run_of,
    top1_by_arm,
)
from nasattn.ablation.sequential import Decision, Sequential
from nasattn.ablation.spec import AblationSpec, load_ablation
from nasattn.ablation.statistics import Pair
from nasattn.arch import Architecture
from nasattn.cli.commands import typed
from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_folder, make_folder
from nasattn.cli.machine import machine_turns
from nasattn.cli.options import DEFAULT_STORAGE
from nasattn.cli.study import prepare
from nasattn.data.named import DATASETS
from nasattn.errors import AblationError, shown
from nasattn.evaluate import Setting, check_device, evaluate
from nasattn.files import slug
from nasattn.objectives import get_objective
from nasattn.report.ablation import AblationResult, from_runs, read_ablation
from nasattn.report.formats import to_rows, write_ablation
from nasattn.report.markup import wrapped
from nasattn.search.storage import (
    TRIAL,
    artifact_dir,
    check_storage,
    find_study,
    open_study,
    read_trial,
)
from nasattn.spec import read_value
from nasattn.train.loop import Epoch
from nasattn.words import duration, plural, printable
from nasattn.zoo import read_network

SILENCE = 30  # seconds after which a log that is no terminal gets a line


@dataclass(frozen=True)
class Options:
    """What the command line says beside the ablation itself."""

    storage: str
    out: Path | None
    plan: bool
    spread: float | None
    as_json: bool
    cache_dir: Path


def ablate_command(
    base: str | None, file: str | None, changes: Mapping[str, Any], options: Options
) -> int:
    """Design, plan or run, compare, write; returns the exit status."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, stderr=options.as_json)
    spec = load_ablation(base, file, dict(changes), usual_settings(base, changes, options.storage))
    check_device(spec.device)
    torch.set_num_threads(spec.threads)
    drawn = spec.design(lambda name: read_architecture(name, options.storage))
    folder = options.out or Path("runs") / slug(spec.study_name)
    check_folder(folder)
    check_storage(options.storage, spec.study_name, resume=True)
    data = load_with_progress(console, spec.data, spec.resolution, options.cache_dir)
    spec = spec.model_copy(update={"resolution": data.resolution})
    if spec.wants_control:
        add_control(drawn, data.resolution, len(data.classes))
    design = drawn.at_resolution(data.resolution)
    looks = spec.looks(design)
    setting = Setting(
        data,
        spec.recipe,
        (get_objective("top1"), get_objective("latency_ms")),
        device=spec.device,
        lineages=design.lineages(),
        turns=machine_turns(console, options.cache_dir),
    )
    settings = spec.settings(design, design.base.arch_id, data.content_hash)
    if options.plan:
        console.print(introduction(spec, design, setting), style="dim", markup=False)
        known = find_study(options.storage, spec.study_name, settings)
        console.print(plan_words(known, spec, design, setting, options.spread), markup=False)
        return 0
    with open_study(options.storage, spec.study_name, {"top1": "maximize"}, settings) as study:
        console.print(introduction(spec, design, setting), style="dim", markup=False)
        make_folder(folder)
        make_folder(artifact_dir(options.storage))
        setting = replace(setting, reference_ms=prepare(console, study, setting))
        describe_study(study, spec, drawn, design, looks)
        study.set_user_attr("command", typed(options.storage))
        status = run(console, study, spec, design, setting, looks, artifact_dir(options.storage))
        result = read_ablation(study)
    if status:
        return status
    show(console, result, folder, options)
    if options.storage == DEFAULT_STORAGE:
        console.print("look at it: nasattn dashboard")
    return 0


def fields(option: str, texts: list[str] | None) -> dict[str, list[Any]] | None:
    """`attention=se,eca` as {'attention': ['se', 'eca']}; values are read as YAML has them."""
    found: dict[str, list[Any]] = {}
    for text in texts or []:
        path, equals, values = text.partition("=")
        if not equals or not path or not values:
            raise AblationError(f"{option} {shown(text)}: must be FIELD=VALUE,VALUE,...")
        found.setdefault(path, []).extend(read_value(value) for value in values.split(","))
    return found or None


def read_architecture(name: str, storage: str) -> Architecture:
    """A network of the zoo, a JSON file, or `trial:STUDY/NUMBER`; a reference has no parts."""
    if name.startswith(TRIAL):
        return read_trial(storage, name)[0]
    architecture = read_network(name).architecture
    if architecture is None:
        raise AblationError(f"{name}: is a reference, which has no parts that can be taken out")
    return architecture


def usual_settings(
    base: str | None, changes: Mapping[str, Any], storage: str
) -> dict[str, Any] | None:
    """Pictures and recipe of the study that a base comes from: what it is good at."""
    if base is None or not base.startswith(TRIAL):
        return None
    settings = read_trial(storage, base)[1]
    data = settings.get("data")
    if "data" not in changes and data not in DATASETS:
        raise AblationError(f"{base}: was searched on the pictures {data!r}; name them by --data")
    kept = ("data", "resolution", "recipe")
    return {name: settings[name] for name in kept if name in settings}


def add_control(design: Design, resolution: int, n_classes: int) -> None:
    """Put in the control arm; where there cannot be one, a note says why."""
    if not design.parts:
        return
    plain = without(design.base, design.parts.values())
    try:
        design.add(CONTROL, widen_to(plain, design.base, resolution, n_classes))
    except AblationError as e:
        design.notes.append(f"no control arm: {str(e).removeprefix('control: ')}")
    else:
        design.compare(CONTROL, BASE, "capacity")


def describe_study(
    study: optuna.Study,
    spec: AblationSpec,
    drawn: Design,
    design: Design,
    looks: Sequential | None,
) -> None:
    """Write down what the runs are, for the report and the dashboard."""
    arms = {
        name: {"arch_id": arch.arch_id, "drawn_id": drawn.arms[name].arch_id}
        for name, arch in design.arms.items()
    }
    facts = {
        "base": spec.base,
        "arms": arms,
        "contrasts": [[c.arm, c.reference, c.design] for c in design.contrasts],
        "levels": design.levels,
        "notes": design.notes,
        "margin": spec.margin,
        "looks": looks.looks if looks else None,
    }
    study.set_user_attr("ablation", facts)


def run(
    console: Console,
    study: optuna.Study,
    spec: AblationSpec,
    design: Design,
    setting: Setting,
    looks: Sequential | None,
    artifacts: Path,
) -> int:
    """Train what is missing; 130 where the user stopped it."""
    by_seed: dict[int, Setting] = {}

    def train(arch: Architecture, seed: int, on_epoch: Any) -> Any:
        if seed not in by_seed:  # latency once: on the first seed
            rows = setting.objectives if seed == 0 else setting.objectives[:1]
            by_seed[seed] = replace(setting, seed=seed, objectives=rows)
        return evaluate(arch, by_seed[seed], on_epoch)

    facts = {
        "recipe_id": spec.recipe.recipe_id(setting.data.content_hash, mirror=setting.data.mirror),
        "device": spec.device,
        "threads": spec.threads,
    }
    n_runs = len(design.arms) * spec.seeds
    progress = AblationProgress(console, study, spec.recipe.epochs, n_runs)

    def wanted(seed: int) -> set[str]:
        if looks is None:
            return set(design.arms)
        differences = differences_of(study, looks.pairs, range(seed))
        progress.look(seed, {pair: looks.follow(d) for pair, d in differences.items()})
        arms = {name for pair in looks.undecided(differences) for name in pair}
        progress.n_runs = len(done_runs(study)) + len(arms) * (spec.seeds - seed)
        return arms

    try:
        with progress:
            run_ablation(
                study,
                design,
                range(spec.seeds),
                train,
                facts=facts,
                artifacts=artifacts,
                watcher=progress,
                wanted=wanted,
            )
    except KeyboardInterrupt:
        command = shlex.join(["nasattn", *sys.argv[1:]])
        console.print(
            f"\nstopped, nothing is lost; to go on: {command}", markup=False, soft_wrap=True
        )
        return 130
    return 0


def spread_of(study: optuna.Study) -> float | None:
    """The spread of top1 over seeds, pooled over the arms with three runs or more."""
    arms = [list(v.values()) for v in top1_by_arm(study).values()]
    variances = [statistics.variance(values) for values in arms if len(values) > 2]
    return statistics.fmean(variances) ** 0.5 if any(variances) else None


def introduction(spec: AblationSpec, design: Design, setting: Setting) -> str:
    """What is about to happen, in lines of at most 80 columns for usual names."""
    data, recipe = setting.data, spec.recipe
    size = min(recipe.train_size or len(data.train), len(data.train))
    arms = printable(", ".join(name for name in design.arms if name != BASE))
    return (
        f"ablation {spec.study_name}: {plural(len(design.arms), 'arm')} of "
        f"{printable(spec.base)}, "
        f"{plural(spec.seeds, 'seed')}\n"
        f"arms {arms}\n"
        f"data {data.name}: {size:,} train, {len(data.val_search):,} val-search pictures of "
        f"{data.resolution}x{data.resolution}, {len(data.classes)} classes\n"
        f"recipe {recipe.name}, {plural(recipe.epochs, 'epoch')}, {spec.device}, "
        f"{plural(spec.threads, 'thread')}"
    )


def plan_words(
    study: optuna.Study | None,
    spec: AblationSpec,
    design: Design,
    setting: Setting,
    spread: float | None,
) -> str:
    """The cost and the power of an ablation, of which a study may hold some runs already."""
    looks = spec.looks(design)
    runs = plan_runs(design, range(spec.seeds))
    done, measured = (done_runs(study), spread_of(study)) if study else (set[Run](), None)
    plan = make_plan(design, runs, done, setting, spread, measured, looks)
    left = plan.n_runs - plan.n_done
    before = f", {plan.n_done} of them done" if plan.n_done else ""
    most = "at most " if looks else ""
    words = [
        f"{most}{plural(plan.n_runs, 'run')}{before}; about {duration(plan.seconds)} for {left}",
        f"spread between seeds {100 * plan.spread:.2f} points ({plan.spread_from})",
    ]
    for power in plan.powers:
        if power.detectable is None:
            words.append(f"{power.what}: not testable with {plan.n_seeds} seeds; --seeds 6")
        else:
            words.append(
                f"{power.what} of {100 * power.detectable:.2f} points is found four times in five, "
                f"with 5 % false alarms\n  in {plural(power.n_tests, 'test')}"
            )
    arguments = [argument for argument in sys.argv[1:] if argument != "--plan"]
    return "\n".join([*words, *design.notes, f"run it: {shlex.join(['nasattn', *arguments])}"])


class AblationProgress:
    """A Watcher for people: a line a run."""

    def __init__(self, console: Console, study: optuna.Study, n_epochs: int, n_runs: int) -> None:
        self.console = console
        self.n_epochs, self.n_runs = n_epochs, n_runs
        self.seconds = [t.user_attrs.get("seconds", 0.0) for t in finished_trials(study)]
        self.run = Run("", 0)
        self.last_line = time.monotonic()
        self.status = console.status("")

    def __enter__(self) -> "AblationProgress":
        if len(self.seconds) < self.n_runs:
            self.console.print(f"{'run':>9}   {'arm':<24} seed   top1 %    took    left")
        self.status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.status.stop()

    def started(self, run: Run, done: int) -> None:
        self.run = run
        self.status.update(
            escape(printable(f"{done + 1}/{self.n_runs} {run.arm}, seed {run.seed}"))
        )

    def epoch(self, epoch: Epoch) -> None:
        where = f"epoch {epoch.number}/{self.n_epochs}"
        self._say(f"{self.run.arm}, seed {self.run.seed}, {where}")
        if not self.console.is_terminal and time.monotonic() - self.last_line > SILENCE:
            self._print(f"{'':>9}   {self.run.arm} seed {self.run.seed} {where}")

    def look(self, seeds: int, decisions: Mapping[Pair, tuple[Decision, int]]) -> None:
        """Say which comparisons the seeds so far have settled."""
        for (arm, reference), (decision, seen) in decisions.items():
            if decision != "continue" and seen == seeds:
                self._print(f"{'':>9}   {arm} vs {reference}, {seeds} seeds: {decision}")

    def finished(self, trial: FrozenTrial, done: int) -> None:
        took = trial.user_attrs.get("seconds", 0.0)
        self.seconds.append(took)
        left = statistics.median(self.seconds) * (self.n_runs - done)
        found = run_of(trial)
        line = f"{f'{done}/{self.n_runs}':>9}   {found.arm:<24} {found.seed:>4}"
        if trial.state == TrialState.COMPLETE:
            times = f"{duration(took):>7} {duration(left) if left else '':>7}"
            self._print(f"{line} {100 * trial.values[0]:>8.2f} {times}")
        else:
            self._print(f"{line} failed: {trial.user_attrs['reason']}")

    def _say(self, text: str) -> None:
        self.status.update(escape(printable(text)))

    def _print(self, line: str) -> None:
        self.console.print(printable(line), markup=False, soft_wrap=True)
        self.last_line = time.monotonic()


def show(console: Console, result: AblationResult, folder: Path, options: Options) -> None:
    """The table and the files."""
    paths = write_ablation(result, folder)
    if options.as_json:
        print(json.dumps({"rows": to_rows(result)}, indent=2))  # noqa: T201
    else:
        console.print(wrapped(result, min(console.width, 100)), markup=False, soft_wrap=True)
    names = ", ".join(path.name for path in paths)
    console.print(f"\nwritten to {folder}: {names}", markup=False, soft_wrap=True)


def compare_command(
    file: Path, base: str | None, changes: Mapping[str, Any], unit: str | None, options: Options
) -> int:
    """The statistics of runs that were made anywhere."""
    console = Console(highlight=False, stderr=options.as_json)
    if idle := [name for name in changes if name != "margin"]:
        raise AblationError(f"--from-csv: the runs are made; leave out {', '.join(idle)}")
    runs = read_runs_csv(file, base, unit)
    result = from_runs(runs, name=file.stem, margin=changes.get("margin"))
    folder = options.out or Path("runs") / slug(f"ablate-{file.stem}")
    check_folder(folder)
    make_folder(folder)
    show(console, result, folder, options)
    return 0

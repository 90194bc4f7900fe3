"""`nasattn final`: the chosen networks of a study, trained for good, then tested once."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from nasattn.baselines.baseline import Pictures
from nasattn.cli.commands import typed
from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import (
    RunFolder,
    check_folder,
    check_target,
    make_folder,
    one_writer,
    write_result,
)
from nasattn.cli.front import lines
from nasattn.cli.machine import machine_turns, plain_memory_errors
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.teacher import Lesson, read_distil
from nasattn.cli.train import CURVE, LESS, WEIGHTS, Job, TrainOptions, build, known_facts, run
from nasattn.data import DATASETS, ImageData, is_here, open_test
from nasattn.data.openings import read_openings
from nasattn.errors import EvaluationError, StudyError
from nasattn.files import slug
from nasattn.report.charts.search_charts import is_ablation
from nasattn.report.finals import (
    Finalist,
    best_finalists,
    final_words,
    named_finalists,
    summary,
)
from nasattn.report.front import read_front
from nasattn.report.markdown import images, to_markdown
from nasattn.report.model_card import model_card, percent, span
from nasattn.road import MOST_SEEDS
from nasattn.search.environment import environment
from nasattn.search.storage import read_study
from nasattn.spec import differences, parse
from nasattn.tensor_file import read_tensors
from nasattn.train.distil import Distil
from nasattn.train.metrics import Share, measure_answers
from nasattn.turns import Turns
from nasattn.weights import Facts
from nasattn.words import plural
from nasattn.zoo import NamedNetwork

RESULT, CARD = "final.json", "MODEL_CARD.md"
LAYOUT = 1  # to be raised with every change to what RESULT holds
FIRST_SEED = 1000  # above the study's own: a search and its selection use at most 101 of them


@dataclass(frozen=True)
class Ask:
    """The options of the command; None where they are left to the study."""

    top: int | None
    networks: tuple[str, ...] | None  # by arch_id, trial or name
    n_seeds: int
    recipe: str | None
    epochs: int | None
    data: str | None
    device: str | None
    threads: int | None


@dataclass(frozen=True)
class Plan:
    """A final that has been checked and is ready to run."""

    study: str
    finalists: tuple[Finalist, ...]
    seeds: tuple[int, ...]
    options: TrainOptions
    data: ImageData
    distil: Distil | None
    folder: Path
    asked: int  # how many networks

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides on the figures, as plain data."""
        found = {
            "study": self.study,
            "networks": {one.name: one.architecture.arch_id for one in self.finalists},
            "seeds": list(self.seeds),
            "recipe": self.options.recipe.model_dump(mode="json", exclude={"name"}),
            "data": self.data.content_hash,
            "resolution": self.data.resolution,
            "teacher": self.distil.identity if self.distil else "",
        }
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain

    def place(self, one: Finalist, seed: int | None = None) -> Path:
        """A network's folder, or that of one of its trainings."""
        folder = self.folder / slug(one.name)
        return folder if seed is None else folder / f"seed-{seed}"


@plain_memory_errors(LESS)
def final_command(
    name: str,
    ask: Ask,
    lesson: Lesson,
    *,
    storage: str,
    out: Path | None,
    overwrite: bool,
    cache_dir: Path,
) -> int:
    """Train what is not trained yet, open the test split, write and show; returns the status."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    study = read_study(storage, name)
    finalists = choose(study, ask)
    options = train_options(study, ask)
    options.use()
    folder = out or Path("runs") / slug(study.study_name) / "final"
    check_folder(folder)
    check_target(folder / RESULT)
    data = load_with_progress(console, options.data, options.resolution, cache_dir)
    say_other_pictures(console, study, data)
    distil = read_distil(lesson, data, cache_dir)
    first = study.user_attrs["settings"].get("seed", 0) + FIRST_SEED
    seeds = tuple((first + i) % 2**32 for i in range(ask.n_seeds))
    asked = len(ask.networks or ()) or ask.top or 1
    plan = Plan(study.study_name, finalists, seeds, options, data, distil, folder, asked)
    with one_writer(folder):
        final = earlier(plan, overwrite=overwrite)
        if final is not None:
            console.print("tested already with these settings: the test split stays closed")
        else:
            if not train_all(console, plan, machine_turns(console, cache_dir), overwrite=overwrite):
                return 130
            final = test_all(console, plan, typed(storage), cache_dir)
            write(plan, final)
    show(console, plan, final)
    return 0


# ---- What is to be done ----


def choose(study: optuna.Study, ask: Ask) -> tuple[Finalist, ...]:
    """The networks: those that are named, else the best of the front."""
    if is_ablation(study) or "settings" not in study.user_attrs:
        raise StudyError(f"study {study.study_name!r}: is not one of `nasattn search`")
    if ask.networks is not None and ask.top is not None:
        raise StudyError("--networks and --top: only one of them at a time")
    if not 1 <= ask.n_seeds <= MOST_SEEDS:
        raise StudyError(f"--seeds: must be 1 to {MOST_SEEDS}, is {ask.n_seeds}")
    if ask.networks is not None:
        return named_finalists(study, ask.networks)
    top = 1 if ask.top is None else ask.top
    if top < 1:
        raise StudyError(f"--top: must be 1 or more, is {top}")
    return best_finalists(read_front(study), top)


def train_options(study: optuna.Study, ask: Ask) -> TrainOptions:
    """How each network is trained: as in the study, but on all training pictures."""
    settings = study.user_attrs["settings"]
    changes = {"name": ask.recipe, "epochs": ask.epochs}
    changes = {k: v for k, v in changes.items() if v is not None}
    base = {} if ask.recipe is not None else settings.get("recipe") or {}
    recipe = {**base, **changes, "train_size": None}
    data = ask.data or settings.get("data", "")
    if ask.data is None and not known(data):
        raise StudyError(
            f"--data: names the pictures of study {study.study_name!r}"
            + (f", which it calls {data!r}" if data else "")
        )
    fields = {
        "data": data,
        "resolution": settings.get("resolution"),
        "recipe": recipe,
        "device": ask.device,
        "threads": ask.threads,
    }
    fields = {k: v for k, v in fields.items() if v is not None}
    return parse(TrainOptions, fields, "final", StudyError)


def known(data: str) -> bool:
    """Whether a study's name of its pictures leads to them: a folder's does from beside it."""
    return bool(data) and (data in DATASETS or is_here(data, cache_dir=Path()))


def say_other_pictures(console: Console, study: optuna.Study, data: ImageData) -> None:
    """A note where the search knew other pictures."""
    then = study.user_attrs["settings"].get("data_hash")
    if then is not None and then != data.content_hash:
        console.print(
            f"note: the study was searched on other pictures ({then}, these are "
            f"{data.content_hash}); what it chose by may be among the test pictures"
        )


class Stored(BaseModel):
    """What RESULT must hold to be shown."""

    model_config = ConfigDict(extra="allow")

    layout: int
    settings: dict[str, Any]
    networks: list[dict[str, Any]]
    test: dict[str, Any]


def earlier(plan: Plan, *, overwrite: bool) -> dict[str, Any] | None:
    """The stored result of the same settings; None where there is none, or it is to go.

    Raises EvaluationError where it is damaged, or of another final.
    """
    path = plan.folder / RESULT
    if overwrite or not path.exists():
        path.unlink(missing_ok=True)
        return None
    remedy = "-o takes another folder, --overwrite replaces it"
    try:
        stored = Stored.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise EvaluationError(f"{path}: is damaged; {remedy}") from e
    if stored.layout != LAYOUT:
        raise EvaluationError(f"{path}: is of another version of nasattn; {remedy}")
    changed = list(differences(stored.settings, plan.settings))
    if changed:
        field, then, now = changed[0]
        raise EvaluationError(
            f"{path}: is of another final ({field}: {then} then, {now} now); {remedy}"
        )
    return stored.model_dump()


# ---- Doing it ----


def train_all(console: Console, plan: Plan, turns: Turns, *, overwrite: bool) -> bool:
    """Each network with each seed, as far as it is not done; False where the user stopped it."""
    if (n := len(plan.finalists)) < plan.asked:
        console.print(f"the front has {plural(n, 'network')}, {plan.asked} were asked for")
    todo = [(seed, one) for seed in plan.seeds for one in plan.finalists]
    console.print(
        f"{plural(len(plan.finalists), 'network')}, {plural(len(plan.seeds), 'seed')} each; then "
        f"the {plan.data.n_test:,} sealed test pictures, once"
    )
    for i, (seed, one) in enumerate(todo, 1):
        console.print(f"\ntraining {i} of {len(todo)}")
        options = plan.options.model_copy(update={"seed": seed})
        network = network_of(plan, one)
        facts = known_facts(network, options, plan.data, distil=plan.distil)
        place = plan.place(one, seed)
        make_folder(place)
        folder = RunFolder(place, WEIGHTS, CURVE, facts.run)
        if not overwrite and folder.earlier(Facts):
            console.print(f"{one.name}, seed {seed}: trained already")
            folder.done()
            continue
        done = len(folder.clear(overwrite=overwrite))
        model = build(network, options, plan.data)
        job = Job(model, options, plan.data, facts, folder, turns, plan.distil)
        if not run(console, job, done):
            return False
    return True


def network_of(plan: Plan, one: Finalist) -> NamedNetwork:
    pictures = Pictures(plan.data.resolution, len(plan.data.classes))
    return NamedNetwork(one.name, one.architecture, pictures)


def test_all(console: Console, plan: Plan, command: str, cache_dir: Path) -> dict[str, Any]:
    """Open the test split and ask every network about it; all there is to say, as plain data."""
    data, options = plan.data, plan.options
    console.print("\nall are trained: the sealed test split is opened")
    test = open_test(options.data, options.resolution, command=command, cache_dir=cache_dir)
    networks = []
    for one in plan.finalists:
        seeds = []
        for seed in plan.seeds:
            path = plan.place(one, seed) / WEIGHTS
            file = read_tensors(path, Facts)
            model = file.build().to(options.device)
            answers = measure_answers(
                model, test, file.facts.normalise, len(data.classes), device=options.device
            )
            seeds.append(
                {
                    "seed": seed,
                    "n": len(test),
                    "right": answers.top1.right,
                    "right_top5": answers.top5.right if answers.top5 else None,
                    "val_select": file.facts.metrics["top1_val_select"],
                    "weights": str(path.relative_to(plan.folder)),
                }
            )
        networks.append(result_of(plan, one, seeds))
    openings = read_openings(cache_dir, data.content_hash) or []
    return {
        "layout": LAYOUT,
        "settings": plan.settings,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe_name": options.recipe.name,
        "data": {
            "name": data.name,
            "classes": data.classes,
            "mirror": data.mirror,
            "n_train": len(data.train),
        },
        "environment": environment(),
        "device": options.device,
        "threads": options.threads,
        "test": {
            "n": len(test),
            "openings": [{"when": o.when, "command": o.command} for o in openings],
        },
        "networks": networks,
    }


def result_of(plan: Plan, one: Finalist, seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is known of one network."""
    cost = network_of(plan, one).count(Pictures(plan.data.resolution, len(plan.data.classes)))
    arch = one.architecture.at_resolution(plan.data.resolution)
    has_top5 = seeds[0]["right_top5"] is not None
    return {
        "network": one.name,
        "arch_id": arch.arch_id,
        "trial": one.trial,
        "architecture": arch.model_dump(mode="json", exclude_defaults=True),
        "params": cost.params,
        "macs": cost.macs,
        "top1": summary([Share(s["right"], s["n"]) for s in seeds]),
        "top5": summary([Share(s["right_top5"], s["n"]) for s in seeds]) if has_top5 else None,
        "seeds": list(seeds),
    }


def write(plan: Plan, final: dict[str, Any]) -> None:
    """The cards, then RESULT, whose presence says that all is done."""
    for one, result in zip(plan.finalists, final["networks"], strict=True):
        place = plan.place(one)
        card = model_card(final, result)
        for name, content in images(card):
            write_result(place / name, content.decode())
        write_result(place / CARD, to_markdown(card, "."))
    write_result(plan.folder / RESULT, json.dumps(final, indent=2) + "\n")


def show(console: Console, plan: Plan, final: dict[str, Any]) -> None:
    """A row a network, what the figures are, and what to type next."""
    columns = ("top1 %", "seeds", "pictures", "top5 %", "params M", "macs M")
    made = table("network", *map(number_column, columns), title=f"{plan.study}: final", tight=True)
    made.padding = (0, 1)
    for one in final["networks"]:
        top1, top5 = one["top1"], one["top5"]
        cells = (percent(top1["mean"]), span(top1["seeds"]), span(top1["pictures"]))
        size = (f"{one['params'] / 1e6:.2f}", f"{one['macs'] / 1e6:.2f}")
        add_row(made, (one["network"], *cells, percent(top5["mean"]) if top5 else "-", *size))
    console.print(made, soft_wrap=False)
    console.print(lines(final_words(final)))
    cards = [str(plan.place(one) / CARD) for one in plan.finalists]
    console.print(f"\nwritten: {plan.folder / RESULT}\n         " + "\n         ".join(cards))
    weights = plan.folder / final["networks"][0]["seeds"][0]["weights"]
    console.print(f"look at it: nasattn explain {shlex.quote(str(weights))} PICTURES")

"""Studies of many stored trials: what do `nasattn status`, the front and the dashboard take?

    python -m benchmarks.stored_trials [WHAT ...] [--trials 100000] [--folder FOLDER]

Makes a study of the mobile space such as `nasattn search` leaves behind after so many trials, in
bulk and without training: params, networks and attributes are those of a search, the figures are
random. Then each way of reading it runs in a process of its own. Seconds are those of the reading
without the imports; memory is the most that the process had, imports included.
"""

import argparse
import hashlib
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal
from wsgiref.util import setup_testing_defaults

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from rich.console import Console

from nasattn.errors import ArchitectureError
from nasattn.runtimes.facts import peak_memory, processor
from nasattn.search.quick import QuickStorage
from nasattn.search.spec import StudySpec
from nasattn.search.status import read_status
from nasattn.search.storage import open_storage
from nasattn.space import SearchSpace, load_space

STUDY, SEED, SPACE = "many", 0, "mobile"
DESIGNS = 500  # networks that are drawn; trials take them in turns, each under an id of its own
PER_HOUR = 720  # trials that ended in an hour
BATCH = 2000  # trials that are written at once
RUNNING = 2
ARTIFACTS = ("architecture.json", "curve.csv")
DASHBOARD_CACHE = 11  # seconds, after which Optuna Dashboard reads trials again
OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "top1": "maximize",
    "macs": "minimize",
    "latency_ms": "minimize",
}
# How trials end, out of 100.
ENDS = ("complete",) * 88 + ("failed",) * 4 + ("stopped",) * 3 + ("again",) * 2 + ("limit",) * 3
STATES = {
    "complete": TrialState.COMPLETE,
    "again": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
    "limit": TrialState.PRUNED,
    "running": TrialState.RUNNING,
}
REASONS = {
    "failed": (
        "out of memory: tried to allocate 2.00 GiB",
        "loss is nan after epoch 2",
        "latency_ms: not settled after 240 rounds",
    ),
    "stopped": ("behind a network that costs no more",),
    "limit": ("macs<=100e6: 120e6",),
}
Row = dict[str, Any]
Design = tuple[list[Row], str]  # rows of the params, without the trial's id; the network's JSON


def make_study(url: str, n: int) -> None:
    """A study of `n` finished trials and two that run, in a storage that is made for it."""
    space, spec = load_space(SPACE), StudySpec(space=SPACE, n_trials=n + 1000)
    storage = RDBStorage(url)
    directions = [*OBJECTIVES.values()]
    study = optuna.create_study(study_name=STUDY, storage=storage, directions=directions)
    study.set_metric_names([*OBJECTIVES])
    start = datetime.now(UTC) - timedelta(hours=n / PER_HOUR)
    run = {"engine": "local", "n_jobs": RUNNING, "pending": RUNNING, "n_trials": spec.n_trials}
    attributes = {
        "settings": spec.settings(space, "digits", "0" * 12),
        "run": run | {"host": "elsewhere", "pid": 1, "started": start.isoformat()},
        **{"n_val": 145, "n_select": 145, "n_classes": 10},
    }
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    trials = draw_trials(space, n, start)
    while batch := [*islice(trials, BATCH)]:
        with storage.engine.begin() as connection:
            for model in batch[0]:
                if rows := [row for trial in batch for row in trial[model]]:
                    connection.execute(model.__table__.insert(), rows)


def draw_trials(space: SearchSpace, n: int, start: datetime) -> Iterator[dict[Any, list[Row]]]:
    """The rows of each trial, by the table where Optuna keeps them."""
    rng = Random(SEED)
    designs = draw_designs(space)
    baselines = dict(enumerate(space.baselines))
    for number in range(n + RUNNING):
        end = "running" if number >= n else rng.choice(ENDS)
        end = "complete" if number in baselines else end
        params, architecture = designs[number % DESIGNS]
        attributes = attributes_of(number, end, architecture, rng)
        if number in baselines:
            attributes["baseline"] = baselines[number]
        system = {"cost_aware:proposal": json.dumps({p["param_name"]: 1.0 for p in params})}
        for i, name in enumerate(ARTIFACTS):
            own_id = uuid(number, i)[:36]
            facts = {"artifact_id": own_id, "filename": name, "encoding": None}
            system[f"artifacts:{own_id}"] = json.dumps(facts | {"mimetype": "text/plain"})
        begun = start.replace(tzinfo=None) + timedelta(hours=number / PER_HOUR)
        own = {"trial_id": number + 1}
        trial = {
            "number": number,
            "study_id": 1,
            "state": STATES[end],
            "datetime_start": begun,
            "datetime_complete": None if end == "running" else begun + timedelta(seconds=5),
        }
        told = attributes.get("values", {}) if STATES[end] == TrialState.COMPLETE else {}
        values = [told[name] for name in OBJECTIVES] if told else []
        yield {
            models.TrialModel: [own | trial],
            models.TrialValueModel: [
                own | {"objective": i, "value": value, "value_type": "FINITE"}
                for i, value in enumerate(values)
            ],
            models.TrialParamModel: [own | row for row in params],
            models.TrialUserAttributeModel: as_rows(own, attributes),
            models.TrialSystemAttributeModel: as_rows(own, system),
        }


def draw_designs(space: SearchSpace) -> list[Design]:
    """Networks of the space, drawn uniformly."""
    study = optuna.create_study(sampler=RandomSampler(seed=SEED))
    found: list[Design] = []
    while len(found) < DESIGNS:
        trial = study.ask()
        try:
            params = space.suggest(trial)
            architecture = space.decode(params).to_json()
        except ArchitectureError:
            continue
        rows = [
            {
                "param_name": name,
                "param_value": kind.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(kind),
            }
            for name, kind in trial.distributions.items()
        ]
        found.append((rows, architecture))
    return found


def attributes_of(number: int, end: str, architecture: str, rng: Random) -> Row:
    """The user attributes of a trial; accuracies saturate with the multiply-adds, with noise."""
    macs = 5e6 * 60 ** rng.random()
    latency = macs / 2e7 + rng.expovariate(1)
    top1 = 0.97 - 0.25 * (5e6 / macs) ** 0.5 - 0.05 * rng.expovariate(1)
    place = f"node{number % 4}:{1000 + number % 7}"
    began = datetime.now(UTC).isoformat()
    facts: Row = {"arch_id": uuid(number, 9)[-12:], "architecture": architecture, "place": place}
    if end == "running":
        return facts | {"since": began, "epoch": 1}
    timing = {"median_ms": latency, "p10_ms": latency, "p90_ms": latency, "relative": 1.0}
    facts |= {
        "values": {"macs": macs, "params": macs / 20, "latency_ms": latency, "top1": top1},
        "reason": rng.choice(REASONS[end]) if end in REASONS else "",
        "seconds": round(rng.uniform(3, 7), 3),
        "curve": [[round(2.0 - i / 3, 5), round(top1 - 0.1 + i / 30, 5)] for i in range(3)],
        "latency": {"latency_ms": timing | {"interval": [latency, latency], "n": 80}},
        **{"recipe_id": "f8fac6b94132", "seed": 0, "device": "cpu", "threads": 1, "since": began},
    }
    if number % 200 == 0:
        facts["attempts"] = [{"reason": "the process was lost", "place": place, "seconds": 2.0}]
    marks = {"again": ("duplicate_of", 0), "stopped": ("stopped_after", 2)}
    return facts | (dict([marks[end]]) if end in marks else {})


def as_rows(own: Row, attributes: Row) -> list[Row]:
    return [own | {"key": key, "value_json": json.dumps(v)} for key, v in attributes.items()]


def uuid(number: int, part: int) -> str:
    """Forty hexadecimal digits that no other number and part have."""
    return hashlib.sha1(f"{number} {part}".encode()).hexdigest()


def read_plain(url: str) -> str:
    study = optuna.load_study(study_name=STUDY, storage=url)
    return f"{len(study.get_trials(deepcopy=False)):,} trials"


def read_quick(url: str) -> str:
    study = optuna.load_study(study_name=STUDY, storage=QuickStorage(url))
    return f"{len(study.get_trials(deepcopy=False)):,} trials"


def status_of(url: str) -> str:
    found = read_status(open_storage(url), STUDY)
    return f"{found.n_done:,} networks done"


def front_of(url: str) -> str:
    """What is left to do for it where a search has read its trials already."""
    from nasattn.cli.front import front_table, front_words
    from nasattn.report.front import read_front

    study = optuna.load_study(study_name=STUDY, storage=QuickStorage(url))
    study.get_trials(deepcopy=False)
    start = time.perf_counter()
    front = read_front(study)
    read = time.perf_counter() - start
    table = io.StringIO()
    Console(file=table, width=80).print(front_table(front), front_words(front))
    drawn = time.perf_counter() - start - read
    return f"{len(front.rows):,} networks: read {read:.1f} s, drawn {drawn:.1f} s"


def dashboard_of(storage: BaseStorage) -> str:
    """The study page's question to Optuna Dashboard, and the next one, when its cache is old."""
    from optuna_dashboard import wsgi

    app = wsgi(storage)
    first, size = ask(app, "after=0")
    time.sleep(DASHBOARD_CACHE)
    again, _ = ask(app, "after=1000000")
    return f"answer {first:.1f} s, {size / 1e6:.0f} MB; every further one {again:.1f} s"


def ask(app: Any, query: str) -> tuple[float, int]:
    """Seconds until a study is answered, and its bytes."""
    environ: Row = {"PATH_INFO": "/api/studies/1", "QUERY_STRING": query}
    setup_testing_defaults(environ)

    def check(status: str, headers: Any, error: Any = None) -> None:
        if not status.startswith("200"):
            raise RuntimeError(status)

    start = time.perf_counter()
    size = sum(map(len, app(environ, check)))
    return time.perf_counter() - start, size


READINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "status": ("nasattn status", status_of),
    "quick": ("all trials by QuickStorage", read_quick),
    "front": ("the front behind it", front_of),
    "plain": ("all trials by Optuna's RDBStorage", read_plain),
    "dashboard_quick": (
        "dashboard on QuickStorage and Optuna's cache",
        lambda url: dashboard_of(get_storage(QuickStorage(url))),
    ),
    "dashboard": ("dashboard on RDBStorage", lambda url: dashboard_of(RDBStorage(url))),
}


def main() -> None:
    """Print a table, as Markdown; or, with --read, one reading for the process that asks."""
    parser = argparse.ArgumentParser(description="What many stored trials cost.")
    parser.add_argument("what", nargs="*", help=f"{', '.join(READINGS)} [all]")
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the storage there [a temporary one]")
    parser.add_argument("--read", choices=READINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    with tempfile.TemporaryDirectory() as scratch:
        file = (options.folder or Path(scratch)) / f"{options.trials}.db"
        url = f"sqlite:///{file}"
        if options.read:
            answer(url, READINGS[options.read][1])
            return
        if not file.exists():
            make_study(url, options.trials)
        print(f"{options.trials:,} trials, {file.stat().st_size / 1e6:,.0f} MB\n")
        print("| what | seconds | peak MB | found |\n| --- | --- | --- | --- |")
        for name in options.what or READINGS:
            title, _ = READINGS[name]
            command = [sys.executable, "-m", __spec__.name, "--read", name]
            command += ["--trials", str(options.trials), "--folder", str(file.parent)]
            done = subprocess.run(command, capture_output=True, text=True)
            words = done.stdout.strip() or f"ended by {done.returncode}"
            print(f"| {title} | {words} |", flush=True)
    packages = ("optuna", "optuna-dashboard", "sqlalchemy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"\n{processor()}, python {platform.python_version()}, {versions}")


def answer(url: str, read: Callable[[str], str]) -> None:
    """Seconds of a reading, megabytes of this process at most, and what was found."""
    start = time.perf_counter()
    words = read(url)
    print(f"{time.perf_counter() - start:.1f} | {peak_memory() / 1e6:,.0f} | {words}")


if __name__ == "__main__":
    main()

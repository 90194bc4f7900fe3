"""run_search: a driver proposes, an engine evaluates, until the budget is spent."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna

from nasattn.evaluate import Evaluation, OnEpoch
from nasattn.search.driver import Driver, Ending, Evaluator, Watcher
from nasattn.search.engines.engine import INLINE, Engine, InlineEngine, Job
from nasattn.search.forecast import Forecast
from nasattn.search.plan import Deadline
from nasattn.search.spec import StudySpec
from nasattn.space import SearchSpace

RUN = "run"  # attribute of a study: by whom it is, or was last, being run


@dataclass(frozen=True)
class Searching:
    """The Work of a search."""

    evaluator: Evaluator

    def __call__(self, job: Job, on_epoch: OnEpoch) -> Evaluation:
        stops = job.judge.stops if job.judge else lambda curve, values: False
        return self.evaluator(job.arch, on_epoch, stops)


def run_search(
    study: optuna.Study,
    spec: StudySpec,
    space: SearchSpace,
    evaluate: Evaluator,
    *,
    facts: dict[str, Any],
    artifacts: Path,
    watcher: Watcher,
    forecast: Forecast | None = None,
    deadline: Deadline | None = None,
    engine: Engine = INLINE,
    command: str = "",
) -> Ending:
    """Search until `spec.n_trials` networks were trained or failed; the baselines come first.

    With a `deadline` until it leaves no room for another one, however many they are.

    Earlier trials of the study count, and no network is evaluated twice. `facts` (recipe_id, seed,
    device) become attributes of every trial; a `forecast` screens candidates and tells the sampler
    of them. `spec.pending` networks are open at once (default: by the engine's jobs). The study
    notes who runs it, and the `command` that goes on with it. Returns what ended the search.
    """
    pending = spec.pending or pending_for(engine.n_jobs)
    driver = Driver(
        study,
        spec,
        space,
        evaluate,
        facts,
        artifacts,
        watcher,
        forecast,
        deadline,
        pending=pending,
        alone=engine.name == InlineEngine.name,
    )
    driver.begin()
    with noted(study, engine, pending, spec.n_trials, command) as note:
        try:
            engine.run(driver, Searching(evaluate))
        finally:
            driver.interrupt()
        assert driver.ending
        note["ending"] = driver.ending
    return driver.ending


def pending_for(n_jobs: int) -> int:
    """How many networks are open at once where nothing is said: for several workers two each.

    So a network that takes twice as long as the others keeps no worker waiting.
    """
    return n_jobs if n_jobs == 1 else 2 * n_jobs


@contextmanager
def noted(
    study: optuna.Study, engine: Engine, pending: int, n_trials: int, command: str
) -> Iterator[dict[str, Any]]:
    """Keep in the study who runs it, and how that ended; `ending` may be put in the note."""
    note: dict[str, Any] = {
        "engine": engine.name,
        "n_jobs": engine.n_jobs,
        "pending": pending,
        "n_trials": n_trials,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _now(),
        "command": command,
    }
    study.set_user_attr(RUN, note)
    ending = "error"
    try:
        yield note
        ending = note["ending"]
    except KeyboardInterrupt:
        ending = "interrupted"
        raise
    finally:
        study.set_user_attr(RUN, note | {"ended": _now(), "ending": ending})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

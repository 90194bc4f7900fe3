"""RayEngine: Ray Tune as the engine, on this machine or a cluster.

A Tune trial is one attempt at one of our jobs. What is proposed, told, redone or given up is the
source's business, so Tune's own retries and stopping are off; Tune places trials and runs them. An
early stop is decided in the worker, by the judge that travels with the job: it then is an end like
any other, and needs no decision of Tune's scheduler, which so has two things to do: kill what
hangs, and keep workers that are idle for the trials to come.
"""

import math
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nasattn.errors import StudyError
from nasattn.evaluate import Meter, Setting
from nasattn.search.engines.engine import Job, Source, Work, here
from nasattn.search.engines.ray_cluster import cluster, count_fits, environment, largest
from nasattn.search.engines.ray_gauge import remote_meters

HELD = 15.0  # seconds that a worker which is done waits at most for others to start
POLL, LONGEST_POLL = 0.05, 0.8  # seconds between two looks whether a worker is needed
NEWS = 2.0  # seconds of a trial after which it is told that it runs, if nothing else is yet
RECOUNT = 5.0  # seconds between two looks at the nodes


@dataclass(frozen=True)
class RayEngine:
    """Runs jobs as trials of Ray Tune. To be made by `connect`."""

    n_jobs: int
    folder: Path  # of temporary files
    cpus: float  # of one trial
    gpus: float
    prepare: Callable[[], None]
    timeout: float | None = None

    name = "ray"

    def run(self, source: Source, work: Work) -> None:
        """Run a source's jobs until it is over. Raises StudyError where no worker can start."""
        bridge = _Bridge(source, self.n_jobs)
        trainable = tune.with_parameters(_Worker, prepare=self.prepare, work=work)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": self.cpus, "gpu": self.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=_Asker(bridge),
                scheduler=_Warden(bridge, self),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="jobs",
                storage_path=str(self.folder / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            ),
        )
        with environment({"TUNE_MAX_PENDING_TRIALS_PG": str(self.n_jobs)}):
            try:
                tuner.fit()
            except Exception:
                if bridge.failure is None:
                    raise
        if bridge.failure:
            raise bridge.failure

    def meters(self, setting: Setting, objectives: Sequence[str]) -> Mapping[str, Meter]:
        """What measures a study's latencies: all on one node."""
        return remote_meters(self.prepare, setting, objectives)


@contextmanager
def connect(
    *,
    n_jobs: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    address: str | None = None,
    prepare: Callable[[], None] = lambda: None,
    timeout: float | None = None,
    store_bytes: int = 0,
) -> Iterator[RayEngine]:
    """An engine on a running cluster, or (no address) on one that is started on this machine.

    `n_jobs`: at once; default: as many as fit in. `store_bytes`: of what travels to the workers.
    Raises StudyError where there is no cluster or a trial fits into none of its nodes.
    """
    n_cpus = math.ceil((n_jobs or os.cpu_count() or 1) * cpus)
    with cluster(address, max(n_jobs or 0, n_cpus), store_bytes) as folder:
        fits = count_fits(cpus, gpus)
        if not fits:
            raise StudyError(
                f"--cpus-per-trial {cpus:g}, --gpus-per-trial {gpus:g}: no node has so "
                f"many; at most {largest('CPU'):g} and {largest('GPU'):g} are on one"
            )
        yield RayEngine(min(n_jobs or fits, fits), folder, cpus, gpus, prepare, timeout)


@dataclass
class _Bridge:
    """What Tune's searcher and scheduler share: the source, and the trials that run."""

    source: Source
    n_jobs: int

    def __post_init__(self) -> None:
        self.jobs: dict[str, Job] = {}  # by Tune's trial id
        self.since: dict[str, float] = {}  # when each began to be evaluated
        self.reasons: dict[str, tuple[str, str]] = {}  # why a trial is lost; and a trace
        self.done: dict[str, Any] = {}  # an Evaluation
        self.stood = False  # whether a worker ever took a job
        self.fallen = 0  # workers that were lost while none did
        self.failure: Exception | None = None  # that ends the run

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune keeps copies of searcher and scheduler, to restore them; we never do."""
        return dict, ()

    @property
    def is_over(self) -> bool:
        return self.failure is not None or self.source.is_over

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What the source raises is kept, to be raised where Tune cannot wrap it."""
        try:
            yield
        except Exception as e:
            self.failure = self.failure or e

    def end(self, trial_id: str) -> None:
        """A trial is over: the source hears of it, once."""
        job = self.jobs.pop(trial_id, None)
        self.since.pop(trial_id, None)
        if job is None:
            return
        if trial_id in self.done:
            self.source.finished(job, self.done.pop(trial_id))
            return
        reason, trace = self.reasons.pop(trial_id, ("its worker was lost", ""))
        self.fallen += not self.stood
        if self.fallen > self.n_jobs:  # more than all at once: not a node that was lost
            self.failure = StudyError(f"no worker can be started: {reason}")
            return
        self.source.lost(job, reason, trace)


class _Asker(Searcher):  # type: ignore[misc]
    """Tune's searcher: what the source gives."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        if self.bridge.is_over:
            return Searcher.FINISHED
        job = None
        with self.bridge.kept():
            job = self.bridge.source.next()
        if job is None:
            return Searcher.FINISHED if self.bridge.is_over else None
        self.bridge.jobs[trial_id] = job
        return {"parcel": _Parcel(job)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        with self.bridge.kept():
            self.bridge.end(trial_id)

    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...


class _Warden(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler: hears results, kills what hangs."""

    def __init__(self, bridge: _Bridge, engine: RayEngine) -> None:
        super().__init__()
        self.bridge, self.engine = bridge, engine
        self.fits, self.counted = 0, -RECOUNT
        self.held: dict[str, float] = {}  # since when, by Tune's trial id
        self.places: dict[str, str] = {}  # of the trials that run
        self.stand: set[str] = set()  # places of workers that were heard of

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        bridge, job = self.bridge, self.bridge.jobs.get(trial.trial_id)
        what, content = result["event"]
        self.places[trial.trial_id] = result["place"]
        self.stand.add(result["place"])
        with bridge.kept():
            if job and trial.trial_id not in bridge.since:
                bridge.stood = True
                bridge.since[trial.trial_id] = time.monotonic()
                bridge.source.started(job, result["place"])
            self.hear(trial, job, what, content)
        if what in ("started", "epoch") or self.hold(tune_controller, trial):
            decision: str = TrialScheduler.CONTINUE
        else:
            decision = TrialScheduler.STOP
            del self.places[trial.trial_id]
            self.held.pop(trial.trial_id, None)
        return decision

    def hear(self, trial: Trial, job: Job | None, what: str, content: Any) -> None:
        """Tell the source what a worker says."""
        bridge = self.bridge
        if job and what == "epoch":
            bridge.source.epoch(job, content)
        elif job and what == "finished":
            bridge.done[trial.trial_id] = content
            bridge.end(trial.trial_id)
        elif job and what == "lost":
            bridge.reasons[trial.trial_id] = content
            bridge.end(trial.trial_id)

    def hold(self, tune_controller: Any, trial: Trial) -> bool:
        """Whether a worker that is done stays: nobody needs it yet, or others still start.

        Tune ends a worker that no trial waits for, and gives one that is done to a trial whose own
        worker is starting, which it ends: with trials that are shorter than a start, their number
        would only fall.
        """
        if self.bridge.is_over:
            return False
        live = tune_controller.get_live_trials()
        if all(one.status != Trial.PENDING for one in live):
            return True
        began = self.held.setdefault(trial.trial_id, time.monotonic())
        return len(self.stand) < self.capacity() and time.monotonic() - began < HELD

    def capacity(self) -> int:
        """How many workers can run now; asked for every few seconds: nodes come and go."""
        now = time.monotonic()
        if now > self.counted + RECOUNT:
            self.counted, self.fits = now, count_fits(self.engine.cpus, self.engine.gpus)
        return min(self.engine.n_jobs, self.fits)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.bridge.reasons.setdefault(trial.trial_id, (_why(trial), ""))
        self.stand.discard(self.places.pop(trial.trial_id, ""))

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Called in every round of Tune's loop; ends it where the search cannot go on."""
        if self.bridge.failure:
            raise self.bridge.failure
        if self.engine.timeout:
            overdue = time.monotonic() - self.engine.timeout
            for trial in tune_controller.get_live_trials():
                began = self.bridge.since.get(trial.trial_id)
                if began is not None and began < overdue:
                    self.bridge.since[trial.trial_id] = math.inf
                    self.bridge.reasons[trial.trial_id] = "it took longer than --trial-timeout", ""
                    ray.kill(trial.temporary_state.ray_actor)
        return super().choose_trial_to_run(tune_controller)


class _Parcel:
    """A job on its way; in Tune's names and files it is its key."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __repr__(self) -> str:
        return self.job.key

    def __deepcopy__(self, memo: object) -> "_Parcel":
        return self


class _Worker(tune.Trainable):  # type: ignore[misc]
    """Evaluates one job after the other; every step brings one event of the job that runs."""

    def setup(self, config: dict[str, Any], prepare: Callable[[], None], work: Work) -> None:
        prepare()
        self.work = work
        self.begin(config["parcel"].job)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.begin(new_config["parcel"].job)
        return True

    def begin(self, job: Job) -> None:
        self.job = job
        self.thread: threading.Thread | None = None
        self.last, self.pause = "", POLL
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()

    def step(self) -> dict[str, Any]:
        if self.last in ("finished", "lost", "held"):
            time.sleep(self.pause)
            self.pause = min(2 * self.pause, LONGEST_POLL)
            self.last, content = "held", None
        elif self.thread is None:
            self.thread = threading.Thread(
                target=_evaluate, args=(self.work, self.job, self.events), daemon=True
            )
            self.thread.start()
            try:
                self.last, content = self.events.get(timeout=NEWS)
            except queue.Empty:
                self.last, content = "started", None
        else:
            self.last, content = self.events.get()
        return {"event": (self.last, content), "place": here()}

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...
    def load_checkpoint(self, checkpoint: Any) -> None: ...


def _evaluate(work: Work, job: Job, events: "queue.Queue[tuple[str, Any]]") -> None:
    try:
        evaluation = work(job, lambda epoch: events.put(("epoch", epoch)))
    except Exception as e:
        events.put(("lost", (f"bug: {e!r}", traceback.format_exc())))
    else:
        events.put(("finished", evaluation))


def _why(trial: Trial) -> str:
    """Why a trial's worker ended, in one line; from Tune's own note of it in our folder."""
    path = trial.error_file
    text = Path(path).read_text() if path and Path(path).is_file() else ""
    if OutOfMemoryError.__name__ in text or "out of memory" in text:
        return "out of memory: Ray killed its worker"
    if "node" in text and ("died" in text or "dead" in text) and "WORKER_DIED" not in text:
        return "its worker's node was lost, or its worker was killed"
    lines = text.strip().splitlines()[1:]  # the first says when
    return f"its worker was lost: {lines[-1].strip()}" if lines else "its worker was lost"

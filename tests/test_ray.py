"""Ray Tune as the engine, on two nodes of one machine."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from nasattn.errors import StudyError
from nasattn.evaluate import Evaluation, TrainingEvaluator
from nasattn.search.engines.engine import Job
from nasattn.search.fronts import minimised, ranks
from nasattn.search.run import Searching
from nasattn.search.spec import StudySpec
from nasattn.search.trials import counts
from nasattn.train.loop import Epoch
from tests.test_engines import Faulty, Slowly, local, search, sequence
from tests.test_evaluate import TINY, setting
from tests.test_search import VARIED

pytest.importorskip("ray", reason="needs ray: pip install 'nasattn[ray]'")
import ray
from ray.cluster_utils import Cluster

from nasattn.search.engines.ray_cluster import FOLDER, clean
from nasattn.search.engines.ray_tune import RayEngine, connect

STARTING = 300  # seconds in which Ray and its workers stand, whatever runs beside them
PASSING = 100  # seconds in which all of Ray is gone: agents of its own take a minute to notice

pytestmark = [pytest.mark.slow, pytest.mark.ray]  # in one process: see of_ray


def of_ray() -> list[psutil.Process]:
    """Processes of Ray that this one has started, or that are left of it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue  # it has ended; in a container, perhaps nobody asks
        words = " ".join([process.info["name"] or "", *(process.info["cmdline"] or ())])
        if any(name in words for name in ("raylet", "gcs_server", "ray::", "ray/_private")):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, with two processors each as far as Ray knows."""
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Ray looks for it
    args = {"num_cpus": 2, "object_store_memory": 150_000_000, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=args)
    started.add_node(num_cpus=2, object_store_memory=150_000_000)
    started.add_node(num_cpus=0, resources={"latency": 1}, object_store_memory=80_000_000)
    own = {process.pid for process in of_ray()}
    yield started
    started.shutdown()
    until = time.monotonic() + PASSING
    while own & {process.pid for process in of_ray()} and time.monotonic() < until:
        time.sleep(0.1)
    assert not own & {process.pid for process in of_ray()}
    assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER}{os.getpid()}-*"))


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[RayEngine]:
    with connect(address=cluster.address, timeout=20) as found:
        assert found.n_jobs == 4
        yield found


def front(trials: list[optuna.trial.FrozenTrial]) -> list[Any]:
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    rows = StudySpec(objectives=("top1", "macs")).objective_rows()
    rank = ranks(minimised([t.values for t in complete], rows))
    return [(t.params, t.values) for t, r in zip(complete, rank, strict=True) if r == 0]


def test_ray_finds_what_local_processes_find(tmp_path: Path, engine: RayEngine) -> None:
    settings: dict[str, Any] = {"early_stop": "rank", "recipe": {"name": "quick", "epochs": 12}}
    slowly = Slowly(n_epochs=12)
    whole = search(tmp_path / "a", slowly, local(2), 40, VARIED, **settings)
    trials = search(tmp_path / "b", slowly, engine, 40, VARIED, **settings)
    assert sequence(trials) == sequence(whole)
    assert any("stopped_after" in trial.user_attrs for trial in trials)
    assert {t.user_attrs["run"]["engine"] for t in [study_of(tmp_path / "b")]} == {"ray"}


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")


PENDING = {"pending": 64}  # others go on while a worker is replaced
PATIENCE = 6.0  # seconds; other tests may run beside it


@dataclass(frozen=True)
class Tabular(Slowly):
    """A law that takes no time."""

    most: float = 0.0


def test_many_trials_with_faults_are_all_there(
    tmp_path: Path, engine: RayEngine, request: pytest.FixtureRequest
) -> None:
    n = request.config.getoption("trials")
    whole = search(tmp_path / "a", Tabular(), local(2), n, VARIED, **PENDING)
    ids = [t.user_attrs["arch_id"] for t in whole if counts(t)]
    rng = Random(0)
    kinds = ["die", "err", "odd", "hang"]
    faults = {arch_id: kinds[i % 4] for i, arch_id in enumerate(rng.sample(ids, n // 20))}
    met = tmp_path / "met"
    met.mkdir()
    impatient = replace(engine, timeout=PATIENCE)
    trials = search(tmp_path / "b", Faulty(met, faults, Tabular()), impatient, n, VARIED, **PENDING)
    done = [t for t in trials if counts(t)]
    assert len(done) == n
    assert len({t.user_attrs["arch_id"] for t in done}) == n
    assert {t.state for t in done} == {TrialState.COMPLETE}
    redone = {t.user_attrs["arch_id"]: t.user_attrs["attempts"] for t in done if lost(t)}
    assert redone.keys() >= faults.keys()  # others may have been beside one that died
    assert len(redone) < 2 * len(faults)
    assert sequence(trials) == sequence(whole)
    assert front(trials) == front(whole)


def lost(trial: optuna.trial.FrozenTrial) -> bool:
    return "attempts" in trial.user_attrs


@pytest.mark.parametrize("n_done", [0, 2])
def test_a_lost_node_costs_no_trial(
    tmp_path: Path, cluster: Cluster, engine: RayEngine, n_done: int
) -> None:
    """Lost while its first workers start, and while they work."""
    whole = search(tmp_path / "a", Slowly(0.5), local(2), 16, VARIED)
    node = cluster.add_node(num_cpus=2, object_store_memory=150_000_000)
    cluster.wait_for_nodes()
    larger = replace(engine, n_jobs=6)
    (raylet,) = (p.process for p in node.all_processes["raylet"])

    def lose() -> None:
        while not tmp_path.joinpath("b").exists() or done(tmp_path / "b") < n_done:
            time.sleep(0.1)
        time.sleep(1)
        raylet.kill()

    threading.Thread(target=lose, daemon=True).start()
    trials = search(tmp_path / "b", Slowly(0.5), larger, 16, VARIED)
    assert raylet.wait(PASSING) == -signal.SIGKILL
    cluster.remove_node(node, allow_graceful=False)
    assert sequence(trials) == sequence(whole)


@dataclass
class Gone:
    """A Source whose storage is away: it raises after so many jobs."""

    jobs: list[Job]
    is_over: bool = False

    def next(self) -> Job | None:
        if not self.jobs:
            raise StudyError("the storage is away")
        return self.jobs.pop()

    def started(self, job: Job, place: str) -> None: ...
    def epoch(self, job: Job, epoch: Epoch) -> None: ...
    def finished(self, job: Job, evaluation: Evaluation) -> None: ...
    def lost(self, job: Job, reason: str, trace: str = "") -> None: ...


@pytest.mark.parametrize("n_jobs", [0, 2])
def test_an_error_of_the_study_ends_the_run_as_it_is(engine: RayEngine, n_jobs: int) -> None:
    arch = VARIED.decode(VARIED.sample(Random(0)))
    source = Gone([Job(str(i), arch) for i in range(n_jobs)])
    with pytest.raises(StudyError, match=r"^the storage is away$"):
        engine.run(source, Searching(Slowly()))


@dataclass
class One(Gone):
    """A Source of one job, which keeps what becomes of it."""

    found: Evaluation | None = None

    def next(self) -> Job | None:
        return self.jobs.pop() if self.jobs else None

    def finished(self, job: Job, evaluation: Evaluation) -> None:
        self.found, self.is_over = evaluation, True


def test_latency_is_measured_on_the_node_that_is_there_for_it(engine: RayEngine) -> None:
    own = setting("top1", "latency_ms")
    own = replace(own, meters={**engine.meters(own, ["latency_ms"])})
    source = One([Job("0", TINY)])
    engine.run(source, Searching(TrainingEvaluator(own)))
    assert source.found
    assert source.found.state == "complete", source.found.reason
    assert source.found.latencies["latency_ms"].n > 0
    assert source.found.values["latency_ms"] > 0
    assert ray.cluster_resources()["latency"] == 1
    assert "latency" not in ray.available_resources()  # the gauge has it


def fall() -> None:
    os._exit(3)


@dataclass
class Endless(Gone):
    """A Source whose jobs never run out."""

    n_given: int = 0

    def next(self) -> Job | None:
        self.n_given += 1
        return Job(str(self.n_given), TINY)


def test_workers_that_fall_as_they_start_end_the_run(engine: RayEngine) -> None:
    source = Endless([])
    with pytest.raises(StudyError, match=r"^no worker can be started: its worker"):
        replace(engine, n_jobs=2, prepare=fall).run(source, Searching(Slowly()))
    assert 3 <= source.n_given <= 6  # more than fit in at once


def test_a_trial_that_fits_nowhere_is_refused(cluster: Cluster) -> None:
    code = (
        "from nasattn.search.engines.ray_tune import connect\n"
        "from nasattn.errors import StudyError\n"
        f"try:\n    connect(address={cluster.address!r}, cpus=3).__enter__()\n"
        "except StudyError as e:\n    print(e)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "no node has so many; at most 2 and 0 are on one" in found.stdout


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:9", "Connection refused"), ("nowhere", "must be HOST:PORT, or auto")],
)
def test_a_cluster_that_is_not_there_is_said_in_one_line(address: str, words: str) -> None:
    with pytest.raises(StudyError, match=f"^Ray cluster {address}: {words}$"):
        connect(address=address).__enter__()


KILLED = """
import sys
from pathlib import Path
from nasattn.search.engines.ray_tune import connect
from nasattn.train.loop import Epoch
from tests.test_engines import Slowly, search
if __name__ == "__main__":
    with connect(n_jobs=2) as engine:
        search(Path(sys.argv[1]), Slowly(0.3), engine, 14)
"""


def test_kill_9_of_the_driver_leaves_no_process_and_loses_nothing(tmp_path: Path) -> None:
    before = {p.pid for p in of_ray()}
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    driver = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    file = tmp_path / "a" / "s.db"
    until = time.monotonic() + STARTING
    while time.monotonic() < until and not (file.exists() and done(tmp_path / "a") >= 2):
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until = time.monotonic() + PASSING
    while {p.pid for p in of_ray()} - before and time.monotonic() < until:
        time.sleep(0.2)
    assert {p.pid for p in of_ray()} - before == set()
    assert 2 <= done(tmp_path / "a") < 14
    trials = search(tmp_path / "a", Slowly(), local(2), 14)
    assert sequence(trials) == sequence(search(tmp_path / "b", Slowly(), local(2), 14))
    # The next start removes what the killed one could not.
    clean()
    assert not list(Path(tempfile.gettempdir()).glob(f"{FOLDER}{driver.pid}-*"))


def done(folder: Path) -> int:
    """How many trials are complete, without opening the storage as Optuna does."""
    query = "select count(*) from trials where state = 'COMPLETE'"
    try:
        with closing(sqlite3.connect(f"file:{folder}/s.db?mode=ro", uri=True)) as database:
            (n,) = database.execute(query).fetchone()
    except sqlite3.OperationalError:
        return 0  # it is just being made
    return int(n)

"""Searches by several processes: what they find, and that nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from nasattn.arch import Architecture
from nasattn.errors import StudyError
from nasattn.evaluate import Evaluation, OnEpoch, Stops
from nasattn.search.driver import Evaluator
from nasattn.search.engines.engine import INLINE, Engine
from nasattn.search.engines.local import LocalEngine
from nasattn.search.run import run_search
from nasattn.search.spec import StudySpec
from nasattn.search.storage import artifact_dir, open_study
from nasattn.search.trials import RUNNING, counts
from nasattn.space import SearchSpace
from nasattn.testing import FakeEvaluator
from tests.test_search import DIRECTIONS, LADDER, VARIED, Quiet


def local(n_jobs: int, **options: Any) -> LocalEngine:
    """Workers that are forked from this process, which has torch already."""
    return LocalEngine(n_jobs, start_method="fork", **options)


def search(
    folder: Path,
    evaluate: Evaluator,
    engine: Engine,
    n_trials: int,
    space: SearchSpace = LADDER,
    **settings: Any,
) -> list[FrozenTrial]:
    """A search in a folder, or the rest of it."""
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{folder}/s.db"
    usual = {"objectives": ("top1", "macs"), "resolution": 16, "sampler": "random", "pending": 4}
    spec = StudySpec.model_validate(usual | settings | {"n_trials": n_trials})
    stored = spec.settings(space, "tiny", "hash")
    with open_study(url, "s", DIRECTIONS, stored) as study:  # type: ignore[arg-type]
        run_search(
            study,
            spec,
            space,
            evaluate,
            facts={"seed": 0},
            artifacts=artifact_dir(url),
            watcher=Quiet(),
            engine=engine,
        )
        return study.get_trials(deepcopy=False)


def sequence(trials: list[FrozenTrial]) -> list[Any]:
    """All that a search found, trial by trial; nothing of how it was run."""
    kept = [t for t in trials if "given_up" not in t.user_attrs]
    numbers = {t.number: i for i, t in enumerate(kept)}

    def facts(trial: FrozenTrial) -> dict[str, Any]:
        found = {k: v for k, v in trial.user_attrs.items() if k not in RUNNING}
        if "unseen" in found:
            found["unseen"] = [numbers[n] for n in found["unseen"]]
        return found

    return [(t.state, t.params, t.values, t.constraints, facts(t)) for t in kept]


@dataclass(frozen=True)
class Slowly:
    """FakeEvaluator's law, each network taking as long as its id says, up to `most` seconds."""

    most: float = 0.02
    n_epochs: int = 1
    estimates: Callable[[Architecture], dict[str, float]] = lambda arch: {}

    def static_values(self, arch: Architecture) -> dict[str, float]:
        return FakeEvaluator().static_values(arch)

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        time.sleep(self.most * int(arch.arch_id[:2], 16) / 255)
        fake = FakeEvaluator(n_epochs=self.n_epochs, estimates=self.estimates)
        return fake(arch, on_epoch, stops)


@dataclass(frozen=True)
class Faulty:
    """As another evaluator, but for the first attempt of some networks: arch_id -> its fault."""

    folder: Path
    faults: dict[str, str]
    evaluator: Evaluator = Slowly()

    def static_values(self, arch: Architecture) -> dict[str, float]:
        return dict(self.evaluator.static_values(arch))

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        met = self.folder / arch.arch_id
        if arch.arch_id in self.faults and not met.exists():
            met.touch()
            found = FAULTS[self.faults[arch.arch_id]]()
            if found:
                return found
        return self.evaluator(arch, on_epoch, stops)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def hang() -> None:
    time.sleep(60)


def err() -> None:
    raise KeyError("a bug")


def odd() -> Evaluation:
    return Evaluation("complete", {"macs": 1.0, "params": 1.0, "top1": float("nan")})


def full() -> Evaluation:
    return Evaluation("failed", reason="out of memory", transient=True)


FAULTS: dict[str, Callable[[], Evaluation | None]] = {
    "die": die,
    "leave": leave,
    "hang": hang,
    "err": err,
    "odd": odd,
    "full": full,
}
REASONS = {
    "die": "its worker was killed by SIGKILL, as the system does when memory runs out",
    "leave": "its worker ended with status 3",
    "hang": "it took longer than --trial-timeout",
    "err": "bug: KeyError('a bug')",
    "odd": "top1 is nan",
    "full": "out of memory",
}


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) - before == set()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "cost_aware"])
def test_what_is_found_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, sampler: str
) -> None:
    found = [
        sequence(search(tmp_path / str(n), Slowly(), local(n), 14, sampler=sampler))
        for n in (1, 2, 4)
    ]
    assert found[0] == found[1] == found[2]
    assert sum(state == TrialState.COMPLETE for state, *_ in found[0]) == 14


@pytest.mark.slow
def test_one_pending_network_is_the_search_of_one_process(tmp_path: Path) -> None:
    whole = search(tmp_path / "a", FakeEvaluator(), INLINE, 10, pending=1)
    assert sequence(search(tmp_path / "b", Slowly(), local(2), 10, pending=1)) == sequence(whole)
    assert all("unseen" not in trial.user_attrs for trial in whole)


def test_no_two_workers_ever_have_the_same_network(tmp_path: Path) -> None:
    few = SearchSpace.model_validate(
        {
            "name": "few",
            "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}]},
            "parameters": {"stages.0.width": [8, 16, 24], "stages.0.kernel": [3, 5]},
        }
    )
    trials = search(tmp_path, Slowly(), local(4), 6, few)
    assert sum(map(counts, trials)) == 6
    firsts = [t.user_attrs["arch_id"] for t in trials if "duplicate_of" not in t.user_attrs]
    assert len(firsts) == len(set(firsts)) == 6
    for trial in trials:
        first = trials[trial.user_attrs.get("duplicate_of", trial.number)]
        assert trial.values == first.values
    assert any("duplicate_of" in t.user_attrs for t in trials)


@pytest.mark.parametrize(
    "fault",
    [f if f in ("die", "err") else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS],
)
def test_a_lost_trial_is_redone_and_says_why(tmp_path: Path, fault: str) -> None:
    whole = search(tmp_path / "a", Slowly(), local(2), 5)
    baseline = whole[0].user_attrs["arch_id"]
    faulty = Faulty(tmp_path, {baseline: fault})
    timeout = 0.5 if fault == "hang" else None
    trials = search(tmp_path / "b", faulty, local(2, timeout=timeout), 5)
    assert sequence(trials) == sequence(whole)
    assert trials[0].user_attrs["baseline"] == "lam"
    (lost,) = trials[0].user_attrs["attempts"]
    assert lost["reason"] == REASONS[fault]
    assert lost["place"].rpartition(":")[2].isdecimal()


def test_a_trial_that_is_lost_again_and_again_fails_with_the_reason(tmp_path: Path) -> None:
    class Always(Slowly):
        def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
            raise KeyError("a bug")

    trials = search(tmp_path, Always(), local(2), 2, max_retries=1)
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.FAIL]
    assert trials[0].user_attrs["reason"] == "bug: KeyError('a bug') (2 attempts)"
    texts = [path.read_text() for path in artifact_dir(f"sqlite:///{tmp_path}/s.db").iterdir()]
    assert any("Traceback" in text and "KeyError: 'a bug'" in text for text in texts)


def test_a_worker_that_cannot_start_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no worker can be started: .* status 3"):
        search(tmp_path, Slowly(), local(2, prepare=leave), 2)
    trials = search(tmp_path, Slowly(), local(2), 2)  # and nothing is lost
    assert [t.user_attrs["baseline"] for t in trials] == ["lam", "lam_ladder"]
    assert all("attempts" not in t.user_attrs for t in trials)


def slow_start() -> None:
    time.sleep(1)


def test_the_time_of_a_trial_begins_when_its_worker_stands(tmp_path: Path) -> None:
    trials = search(tmp_path, Slowly(), local(2, prepare=slow_start, timeout=0.5), 3)
    assert all("attempts" not in trial.user_attrs for trial in trials)


class Minute:
    """A network takes one; may be sent to any process."""

    def static_values(self, arch: Architecture) -> dict[str, float]:
        return FakeEvaluator().static_values(arch)

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        time.sleep(60)
        raise AssertionError


EARLY = """
import sys
import time
from pathlib import Path
from nasattn.search.engines.local import LocalEngine
from tests.test_engines import Minute, search
if __name__ == "__main__":
    print("begins", flush=True)
    status = 0
    try:
        search(Path(sys.argv[1]), Minute(), LocalEngine(2), 4)
    except KeyboardInterrupt:
        status = 130
    time.sleep(3)  # for a worker that is left to say what it has to
    sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.0])  # while the server imports, while workers start
def test_ctrl_c_is_heard_by_the_driver_alone(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", EARLY, str(tmp_path / "a")]
    driver = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert driver.stdout
    assert driver.stdout.readline() == "begins\n"
    time.sleep(seconds)
    os.killpg(driver.pid, signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    said = [line for line in err.splitlines() if "A new study" not in line]  # Optuna
    assert (driver.returncode, said) == (130, [])


@pytest.mark.slow
def test_a_driver_that_is_killed_beside_its_workers_counts_for_no_trial(tmp_path: Path) -> None:
    for i in range(3):
        marker = tmp_path / f"met{i}"
        run = partial(search, tmp_path, Forever(marker), local(1), 1, max_retries=1)
        killed(tmp_path, run, 30, marker)
    trials = search(tmp_path, Slowly(), local(2), 2, max_retries=1)
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert len(trials[0].user_attrs["attempts"]) >= 2  # the place may not have been noted yet


@pytest.mark.slow
def test_a_trial_that_ends_its_own_process_fails_in_the_end(tmp_path: Path) -> None:
    first = search(tmp_path / "a", FakeEvaluator(), INLINE, 1, pending=1)[0]

    class Deadly(Slowly):
        def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
            if arch.arch_id == first.user_attrs["arch_id"]:
                die()
            return FakeEvaluator()(arch, on_epoch, stops)

    folder = tmp_path / "b"
    run = partial(search, folder, Deadly(), INLINE, 3, pending=1, max_retries=1)
    for _ in range(2):
        assert killed(folder, run, 3) == -signal.SIGKILL
    trials = run()
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "the search was killed while it ran (2 attempts)"


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_early_stopping_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, n_jobs: int
) -> None:
    settings: dict[str, Any] = {"early_stop": "rank", "recipe": {"name": "quick", "epochs": 12}}
    slowly = Slowly(n_epochs=12)
    one = search(tmp_path / "a", slowly, local(2), 40, VARIED, **settings)
    other = search(tmp_path / "b", slowly, local(n_jobs), 40, VARIED, **settings)
    assert sequence(one) == sequence(other)
    assert any("stopped_after" in trial.user_attrs for trial in one)


@dataclass(frozen=True)
class Forever(Slowly):
    """Never comes to an end; makes a file when it begins."""

    marker: Path = Path()

    def __init__(self, marker: Path) -> None:
        object.__setattr__(self, "marker", marker)

    def __call__(self, arch: Architecture, on_epoch: OnEpoch, stops: Stops) -> Evaluation:
        time.sleep(0.2)
        self.marker.touch()
        time.sleep(600)
        raise AssertionError


def killed(
    folder: Path, work: Callable[[], object], after: float, marker: Path | None = None
) -> int:
    """Run a search in a process of its own, killed after so many seconds, or when there is a
    marker; its status."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + after
    while time.monotonic() < until and not (marker and marker.exists()):
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    until = time.monotonic() + 10
    while time.monotonic() < until:  # its workers find out by themselves
        left = [p for p in psutil.process_iter() if in_session(p, pid)]
        if not left:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise AssertionError(f"left behind: {left}")


def in_session(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def engine_of(n_jobs: int) -> Engine:
    return INLINE if n_jobs == 1 else local(n_jobs)


KILLS = [
    pytest.param(4, 1),
    pytest.param(1, 17, marks=pytest.mark.slow),
    pytest.param(2, 17, marks=pytest.mark.slow),
    pytest.param(4, 16, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("n_jobs", "n_kills"), KILLS)
def test_kill_9_of_the_driver_changes_nothing(tmp_path: Path, n_jobs: int, n_kills: int) -> None:
    start = time.monotonic()
    whole = sequence(search(tmp_path / "whole", Slowly(), engine_of(n_jobs), 12))
    took = time.monotonic() - start
    rng = Random(n_jobs)
    n_killed = 0
    for i in range(n_kills):
        folder = tmp_path / str(i)
        run = partial(search, folder, Slowly(), engine_of(n_jobs), 12)
        n_killed += killed(folder, run, took * rng.random()) == -signal.SIGKILL
        trials = search(folder, Slowly(), engine_of(n_jobs), 12)
        assert sequence(trials) == whole
        done = [t for t in trials if "given_up" not in t.user_attrs]
        assert {t.state for t in done} == {TrialState.COMPLETE}
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")
        assert study.user_attrs["run"]["ending"] == "budget"
    assert n_killed > n_kills // 2 or n_kills == 1  # others had come to their end

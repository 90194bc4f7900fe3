import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from rich.console import Console

from nasattn.cli import study as cli_study
from nasattn.cli.study import differing_words, note_environment
from nasattn.errors import UnknownNameError
from nasattn.report.front import read_front
from nasattn.search import outcomes
from nasattn.search import quick as quick_storage
from nasattn.search.environment import checkout, environment, vector
from nasattn.search.history import GIVEN_UP
from nasattn.search.outcomes import BUDGET, outcome_of
from nasattn.search.quick import QuickStorage
from nasattn.search.status import Pace, is_alive, read_status
from nasattn.search.trials import counts, is_new, state_of
from tests.command import assert_refused, nasattn
from tests.test_cli import TINY, TINY_SPACE

URL = "sqlite:///nasattn.db"
NOW = datetime.now(UTC).replace(microsecond=0)
LONG = "n" * 100
HOSTILE = "[red]no[/red] \x1b[31m\x1b]0;owned\x07\nsecond line " + "x" * 400
OBJECTIVES = ("top1", "macs")
STORAGES = {
    "sqlite": lambda: RDBStorage(URL),
    "quick": lambda: QuickStorage(URL),
    "cached": lambda: get_storage(URL),
    "journal": lambda: JournalStorage(JournalFileBackend("journal.log")),
    "memory": InMemoryStorage,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(sys.modules[__name__], "NOW", now)  # tests may be collected long before
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def make_study(storage: Any, name: str = "mine", run: Any = None) -> optuna.Study:
    study = optuna.create_study(
        study_name=name, storage=storage, directions=["maximize", "minimize"]
    )
    storage.set_study_system_attr(study._study_id, "study:metric_names", list(OBJECTIVES))
    recipe = {"name": "quick", "epochs": 3}
    study.set_user_attr("settings", {"space": {"name": "mobile"}, "recipe": recipe, "seed": 0})
    if run is not None:
        study.set_user_attr("run", run)
    return study


def run_of(**changes: Any) -> dict[str, Any]:
    """What a run on this machine writes of itself."""
    own = {"engine": "local", "n_jobs": 2, "pending": 3, "n_trials": 20, "host": gethostname()}
    return own | {"pid": os.getpid(), "started": ago(hours=4).isoformat()} | changes


def add(
    study: optuna.Study, state: TrialState, at: datetime | None = None, /, **facts: Any
) -> None:
    """A trial; finished ones took a minute."""
    trial = create_trial(
        state=state,
        values=[0.9, 1e6] if state == TrialState.COMPLETE else None,
        user_attrs=facts,
    )
    if at:
        trial.datetime_complete = at.astimezone().replace(tzinfo=None)
        begun = at - timedelta(minutes=1)
        trial.datetime_start = begun.astimezone().replace(tzinfo=None)
    study.add_trial(trial)


def fill(study: optuna.Study) -> None:
    """Eight networks of the budget, three of them in the last hour; three more trials; queues."""
    lost = [{"reason": "the worker was lost", "place": "a:1", "seconds": 3.0}]
    for minutes in (230, 170, 110, 50, 10):
        add(study, TrialState.COMPLETE, ago(minutes=minutes), arch_id=f"{minutes:012}", reason="")
    add(study, TrialState.PRUNED, ago(minutes=100), stopped_after=2, reason="behind")
    add(study, TrialState.FAIL, ago(minutes=90), reason="out of memory", attempts=lost * 2)
    add(study, TrialState.FAIL, ago(minutes=20), reason="out of memory")
    add(study, TrialState.COMPLETE, ago(minutes=5), duplicate_of=0, reason="")
    add(study, TrialState.PRUNED, ago(minutes=5), reason="macs<=1: 2")
    add(study, TrialState.FAIL, ago(minutes=5), **{GIVEN_UP: "killed", "reason": "no"})
    add(study, TrialState.FAIL, ago(minutes=5), duplicate_of=6, reason="out of memory")
    since = ago(minutes=7).isoformat()
    where: dict[str, Any] = {"place": "node1:77", "since": since}
    add(study, TrialState.RUNNING, None, arch_id="a" * 12, epoch=2, attempts=lost, **where)
    add(study, TrialState.RUNNING, None, baseline="lam", ended=True, **where)
    add(study, TrialState.WAITING, baseline="mobilenet_v2")


@pytest.mark.parametrize("kind", STORAGES)
def test_read_status_counts_what_is_stored_in_any_storage(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "ROWS", 4)  # of 12 that are finished
    storage = STORAGES[kind]()
    study = make_study(storage, run=run_of())
    fill(study)
    found = read_status(storage, "mine", NOW)
    assert dict(found.counts) == {
        "complete": 5,
        "stopped": 1,
        "failed": 2,
        "repeated": 2,
        "infeasible": 1,
    }
    assert (found.n_done, found.n_wanted, found.n_left, found.n_queued) == (8, 20, 12, 1)
    assert found.failures == (("out of memory", 2),)
    assert found.lost == (("the worker was lost", 3),)
    assert found.last_finished == ago(minutes=10)
    assert (found.state, found.kind, found.objectives) == ("running", "search", OBJECTIVES)
    # 3 in the last of 4 hours, 8 in all; 12 are left at 3 an hour
    assert found.pace == Pace(last_hour=3.0, overall=2.0, hours=4.0)
    assert found.seconds_left == 4 * 3600
    first, second = found.pending
    assert (first.trial, first.network, first.epoch, first.attempt) == (12, "a" * 12, 2, 2)
    assert (first.place, first.since, first.waits) == ("node1:77", ago(minutes=7), False)
    assert (second.network, second.waits, second.attempt) == ("lam", True, 1)


def test_read_status_leaves_the_storage_as_it_was() -> None:
    make_study(RDBStorage(URL), run=run_of())
    before = Path("nasattn.db").read_bytes()
    read_status(RDBStorage(URL), "mine")
    assert Path("nasattn.db").read_bytes() == before


@pytest.mark.parametrize(
    ("state", "marks"),
    [
        *product(
            (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL),
            ([], ["duplicate_of"], ["stopped_after"], ["duplicate_of", "stopped_after"]),
        )
    ],
)
def test_outcome_of_is_that_of_the_search(state: TrialState, marks: list[str]) -> None:
    values = [1.0] if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, values=values, user_attrs=dict.fromkeys(marks, 1))
    outcome = outcome_of(state, marks)
    assert (outcome in BUDGET) == counts(trial)
    assert (outcome == "repeated") != is_new(trial)
    assert outcome in ("repeated", state_of(trial))


def gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "alive": ({}, "running since 20"),
    "killed": ({"pid": "gone"}, "stopped: its process is gone"),
    "elsewhere": ({"host": "far"}, "unknown (on far): begun 4.0 h ago"),
    "budget": ({"ending": "budget"}, "finished 5 min ago: all networks were tried"),
    "in vain": ({"ending": "in vain"}, "finished 5 min ago: nothing new was proposed"),
    "interrupted": ({"ending": "interrupted"}, "stopped 5 min ago: interrupted"),
    "error": ({"ending": "error"}, "stopped 5 min ago: by an error"),
    "unheard of": ({"ending": "[b]else"}, "stopped 5 min ago: [b]else"),
}


@pytest.mark.parametrize("name", RUNS)
def test_status_says_who_runs_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = RUNS[name]
    ended = {"ended": (datetime.now(UTC) - timedelta(minutes=5)).isoformat()}
    changes = changes | (ended if "ending" in changes else {})
    changes = changes | ({"pid": gone()} if changes.get("pid") else {})
    started = {"started": (datetime.now(UTC) - timedelta(hours=4)).isoformat()}
    make_study(RDBStorage(URL), run=run_of(**started, **changes))
    assert nasattn(monkeypatch, "status") == 0
    out = capsys.readouterr().out
    assert f"study mine: {words}" in out
    assert ("to go on: the command that began it" in out) == ("stopped" in words)


def test_status_shows_the_command_to_go_on_where_the_run_wrote_it_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"nasattn search --space mobile --name {LONG}"
    make_study(RDBStorage(URL), run=run_of(pid=gone(), command=command))
    assert nasattn(monkeypatch, "status") == 0
    assert f"to go on: {command}\n" in capsys.readouterr().out


def test_is_alive_knows_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_alive(gethostname(), os.getpid()) is True
    assert is_alive(gethostname(), gone()) is False
    assert is_alive("far", os.getpid()) is None
    assert is_alive(gethostname(), 0) is None
    assert is_alive(gethostname(), 2**70) is False

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(gethostname(), 1) is True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="zombies are told from /proc")
def test_is_alive_takes_a_zombie_for_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        until = time.monotonic() + 20
        while is_alive(gethostname(), process.pid) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(process.pid, 0)  # it still has its number: nobody has asked how it ended
        assert is_alive(gethostname(), process.pid) is False
    assert process.returncode == 0


def test_an_older_study_without_a_run_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(RDBStorage(URL))
    study.set_user_attr("selection", {"a": {"1": {}, "2": {}}, "b": {"1": {}}})
    add(study, TrialState.COMPLETE, ago(minutes=30))
    add(study, TrialState.COMPLETE, ago(minutes=10))
    assert nasattn(monkeypatch, "status", "mine") == 0
    out = capsys.readouterr().out
    assert "study mine: nobody runs it" in out
    assert "networks: 2 done (2 complete)" in out
    assert "the best again: 3 trainings with fresh seeds" in out
    assert "pace: 5.7 networks an hour\n" in out  # 2 in the 21 minutes from the first beginning
    add(study, TrialState.RUNNING, arch_id="c" * 12)
    assert nasattn(monkeypatch, "status") == 0
    assert "it does not say who runs it" in capsys.readouterr().out


@pytest.mark.parametrize("run", [{}, "text", {"pid": "x"}, [1], {"started": "yesterday"}])
def test_a_run_that_cannot_be_read_is_as_none(run: Any) -> None:
    storage = InMemoryStorage()
    study = make_study(storage, run=run)
    add(study, TrialState.RUNNING, since=5, attempts="none", epoch="two")
    found = read_status(storage, "mine")
    assert (found.run, found.state) == (None, "unknown")
    assert (found.pending[0].attempt, found.pending[0].epoch) == (1, None)


def test_an_ablation_is_shown_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(study_name="lam-ablation", storage=URL, direction="maximize")
    study.set_user_attr("settings", {"arms": {"base": "0", "no eca": "1"}, "seeds": 6})
    kinds = {
        "arm": CategoricalDistribution(["base", "no eca"]),
        "seed": IntDistribution(0, 9),
    }
    for seed, state in enumerate((TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)):
        params = {"arm": "no eca", "seed": seed}
        value = 0.9 if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=kinds))
    assert nasattn(monkeypatch, "status") == 0
    out = capsys.readouterr().out
    assert "\nablation\n" in out
    assert "networks: 2 of 12 done (1 complete, 1 failed)" in out  # 2 arms on 6 seeds
    assert "no eca seed 2" in out
    assert "no reason given" in out


def hostile_study(name: str) -> None:
    ends = [{"reason": HOSTILE, "place": HOSTILE, "seconds": 1.0}]
    study = make_study(RDBStorage(URL), name, run_of(host=HOSTILE, engine=LONG, command=HOSTILE))
    study.set_user_attr("settings", {"data": HOSTILE, "space": {"name": LONG}})
    for i in range(12):
        add(study, TrialState.FAIL, ago(minutes=i), reason=f"{i} {HOSTILE}")
    add(study, TrialState.RUNNING, baseline=HOSTILE, place=LONG + ":1", attempts=ends)
    add(study, TrialState.RUNNING, arch_id=LONG, place=HOSTILE, epoch=10**9)


@pytest.mark.parametrize("names", [(LONG,), (LONG, "[bold]b[/bold]", "c")])
def test_status_keeps_to_80_columns_and_obeys_no_text(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        hostile_study(name)
    assert nasattn(monkeypatch, "status") == 0
    assert nasattn(monkeypatch, "status", names[-1]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "[red]no[/red]" in out
    assert "5 other reasons" not in out
    assert "4 other reasons" in out  # of 12, 8 are shown


def test_status_of_several_studies_is_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = RDBStorage(URL)
    fill(make_study(storage, "first", run_of()))
    make_study(storage, "second")
    assert nasattn(monkeypatch, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(line for line in lines if "first" in line).split()
    assert first[:5] == ["first", "running", "8/20", "2", "4.0"]
    assert next(line for line in lines if "second" in line).split() == ["second", "idle", "0"]
    assert lines[-1] == "more of one: nasattn status STUDY"


def test_json_has_all_facts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = RDBStorage(URL)
    fill(make_study(storage, "first", run_of()))
    make_study(storage, "second")
    assert nasattn(monkeypatch, "status", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["storage"] == URL
    assert [one["study"] for one in data["studies"]] == ["first", "second"]
    first = data["studies"][0]
    assert (first["n_done"], first["n_left"], first["state"]) == (8, 12, "running")
    assert first["run"]["pid"] == os.getpid()
    assert (
        first["run"]["started"] == ago(hours=4).isoformat().replace("+00:00", "Z")
        or first["run"]["started"] == ago(hours=4).isoformat()
    )
    assert first["failures"] == [["out of memory", 2]]
    assert first["pending"][0]["since"] == ago(minutes=7).isoformat()
    assert nasattn(monkeypatch, "status", "second", "--json") == 0
    assert json.loads(capsys.readouterr().out)["studies"] == data["studies"][1:]


def test_status_answers_while_another_process_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(make_study(RDBStorage(URL), run=run_of()))
    with closing(sqlite3.connect("nasattn.db", isolation_level=None)) as writer:
        writer.execute("begin immediate")
        writer.execute("update trials set state = 'FAIL'")
        assert nasattn(monkeypatch, "status") == 0
    assert "networks: 8 of 20 done" in capsys.readouterr().out


def test_status_of_a_storage_without_studies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    RDBStorage(URL)
    assert nasattn(monkeypatch, "status") == 0
    assert capsys.readouterr().out == f"no study in {URL} yet\n"


def test_status_refuses_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(monkeypatch, capsys, ["status"], "there is no file nasattn.db")
    make_study(RDBStorage(URL))
    assert_refused(monkeypatch, capsys, ["status", "mime"], "did you mean 'mine'?")
    with pytest.raises(UnknownNameError, match="unknown study 'x'"):
        read_status(RDBStorage(URL), "x")


def test_status_reads_what_a_search_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NASATTN_CACHE", "cache")
    Path("tiny.yaml").write_text(TINY_SPACE, encoding="utf-8")
    few = ["--trials", "2", "--seeds", "1", "--objective", "top1", "--objective", "macs"]
    assert nasattn(monkeypatch, *TINY, *few) == 0
    capsys.readouterr()
    assert nasattn(monkeypatch, "status", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["studies"]
    assert (found["state"], found["run"]["ending"]) == ("finished", "budget")
    assert (found["n_done"], found["n_wanted"], found["n_again"]) == (2, 2, 2)
    assert found["objectives"] == ["top1", "macs"]
    assert (found["pending"], found["seconds_left"]) == ([], None)
    assert nasattn(monkeypatch, "status") == 0
    out = capsys.readouterr().out
    assert "ago: all networks were tried" in out
    assert "space tiny, data digits, recipe quick" in out


@pytest.mark.slow
def test_status_answers_without_torch() -> None:
    make_study(RDBStorage(URL), run=run_of())
    code = (
        "import sys; from nasattn.cli import main\n"
        "sys.argv = ['nasattn', 'status']\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environ)
    assert done.returncode == 0


# --- many trials


def every_kind_of_trial(study: optuna.Study) -> None:
    """Trials with params, attributes, steps and infinite values, finished and not."""
    kinds = {
        "kind": CategoricalDistribution(["se", "eca", None]),
        "on": CategoricalDistribution([False, True]),
        "depth": IntDistribution(1, 9),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
    }
    params = {"rate": 0.1, "kind": None, "depth": 3, "on": True}
    for number, state in enumerate(2 * [*TrialState]):
        values = [float("inf"), -float("inf")] if number < 5 else [0.5, number]
        study.add_trial(
            create_trial(
                state=state,
                values=values if state == TrialState.COMPLETE else None,
                params=params if number % 2 else {},
                distributions=kinds if number % 2 else {},
                user_attrs={"b": [1, {"x": None}], "a": "ä"},
                system_attrs={"fixed_params": {"depth": number}},
                intermediate_values={3: 1.5, 1: float("inf")},
                constraints={"macs": number - 3.0},
            )
        )


@pytest.mark.slow
def test_quick_storage_reads_what_optuna_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_storage, "TRIALS", 4)  # of 10 in a study
    for name in ("one", "two"):
        every_kind_of_trial(make_study(RDBStorage(URL), name))
    plain, quick = RDBStorage(URL), QuickStorage(URL)
    for study in plain.get_all_studies():
        i = study._study_id
        expected = plain.get_all_trials(i)
        assert len(expected) == 10
        assert quick.get_all_trials(i) == expected
        assert [[*t.params] for t in quick.get_all_trials(i)] == [[*t.params] for t in expected]
        for states in ((TrialState.RUNNING,), (TrialState.COMPLETE, TrialState.FAIL), ()):
            expected = plain.get_all_trials(i, states=states)
            assert quick.get_all_trials(i, states=states) == expected
        for included, after in ((set(), 4), ({2, 3, 12}, 4), ({1}, 100), ({1, 2}, -1)):
            expected = plain._get_trials(i, None, included, after)
            assert quick._get_trials(i, None, included, after) == expected


def test_a_study_on_quick_storage_goes_on_as_on_optunas() -> None:
    def search(storage: Any) -> list[tuple[Any, ...]]:
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3)
        study = optuna.create_study(storage=storage, sampler=sampler)
        study.enqueue_trial({"x": 0.5})
        study.optimize(lambda t: (t.suggest_float("x", 0, 1) - 0.3) ** 2, n_trials=8)
        return [(t.number, t.state, t.params, t.values) for t in study.get_trials()]

    assert search(QuickStorage("sqlite:///a.db")) == search(RDBStorage("sqlite:///b.db"))


def test_read_front_has_the_best_trials_of_optuna() -> None:
    rng = np.random.default_rng(0)
    study = make_study(RDBStorage(URL))
    architecture = json.dumps({"stem": {"width": 8}, "stages": [{"depth": 2, "width": 8}]})
    for number in range(60):
        top1, macs = map(float, rng.integers(0, 20, 2))
        facts: dict[str, Any] = {
            "arch_id": f"{number:012}",
            "architecture": architecture,
            "reason": "",
        }
        facts |= {"reason": "", "values": {"top1": top1, "macs": macs}}
        study.add_trial(
            create_trial(
                values=[top1, macs],
                user_attrs=facts,
                constraints={"macs<=9": macs - 9} if number % 2 else None,
            )
        )
    front = {row.trial for row in read_front(study).rows if row.on_front}
    assert front == {trial.number for trial in study.best_trials}
    assert len(front) > 1


# --- environment

CPUINFO = "processor\t: 0\nflags\t\t: fpu sse2 avx2 fma smep avx512_bf16 amx_tile\n"


def test_vector_keeps_what_changes_results(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(2 * CPUINFO, encoding="utf-8")
    choice, *flags = vector(tmp_path / "cpuinfo").split()
    assert flags == ["avx2", "fma", "avx512_bf16", "amx_tile"]
    assert vector(tmp_path / "not there") == choice


def test_checkout_names_the_commit_and_whether_files_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ("git", "-C", str(tmp_path), *who, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert checkout(tmp_path) is None
    git("init", "-q")
    assert checkout(tmp_path) is None  # without a commit
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    git("add", "a.py")
    git("commit", "-q", "-m", "Begin")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert checkout(tmp_path) == commit
    (tmp_path / "a.py").write_text("2", encoding="utf-8")
    assert checkout(tmp_path) == f"{commit}-dirty"
    (tmp_path / "inner").mkdir()
    assert checkout(tmp_path / "inner") is None  # somebody else's


def test_checkout_without_git_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout(tmp_path) is None


def notes(then: dict[str, str], now: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(cli_study, "environment", lambda: now)
    study = optuna.create_study()
    study.set_user_attr("environment", then)
    console = Console(width=80)
    with console.capture() as captured:
        note_environment(console, study)
    return captured.get()


def test_note_environment_says_nothing_of_what_an_older_study_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = environment()
    new = {"vector", "commit", "ray"}
    assert notes({k: v for k, v in now.items() if k not in new}, now, monkeypatch) == ""


def test_note_environment_says_shortly_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "AVX512 fma f16c avx2 avx512f avx512dq avx512cd avx512bw avx512vl"
    then = {"torch": "2.13.0", "vector": f"{flags} amx_tile", "ray": "2.60.0", "gpu": "\x1b[31m"}
    text = notes(then, {"torch": "2.14.1", "vector": flags, "gpu": "none"}, monkeypatch)
    assert text.splitlines() == [
        "note: this study began with torch 2.13.0, goes on with 2.14.1",
        "note: this study began with vector amx_tile, goes on with less",
        "note: this study began with ray 2.60.0, goes on with none",
        "note: this study began with gpu \\x1b[31m, goes on with none",
    ]


def test_differing_words_leaves_short_texts_whole() -> None:
    assert differing_words("AMD EPYC", "AMD Ryzen") == ("AMD EPYC", "AMD Ryzen")
    assert differing_words("a " * 40, "a b") == ("less", "b")

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.pool import NullPool

import nasattn.search.writer
from nasattn.arch import Architecture
from nasattn.errors import StudyError
from nasattn.search.history import named_constraints
from nasattn.search.journal import open_journal
from nasattn.search.status import read_status
from nasattn.search.storage import (
    artifact_dir,
    check_storage,
    find_study,
    open_storage,
    open_study,
    read_trial,
    stored_settings,
)
from nasattn.search.trials import counts
from nasattn.search.urls import DRIVERS, read_url
from nasattn.testing import FakeEvaluator
from tests.servers import KINDS as SERVERS
from tests.servers import PASSWORD, Server, running
from tests.sweep import sweep
from tests.test_search import DIRECTIONS, FEW, Search, sequence

FILES = {"sqlite": "sqlite:///s.db", "journal": "journal:///s.log"}
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """Those that were asked for so far."""
    with ExitStack() as stack:
        yield Servers(stack)


class Servers(dict[str, Server]):
    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack

    def __missing__(self, kind: str) -> Server:
        self[kind] = self.stack.enter_context(running(kind))
        return self[kind]


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers[request.param]


@pytest.fixture
def url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """An empty storage of each kind."""
    kind: str = request.param
    return FILES[kind] if kind in FILES else servers[kind].new_database()


every_kind = pytest.mark.parametrize("url", sweep([*FILES, *SERVERS], FILES), indirect=True)
every_server = pytest.mark.parametrize("server", sweep(SERVERS, ["postgresql"]), indirect=True)


class StoredSearch(Search):
    """A search in any storage."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(Path(), FEW, **settings)
        self.url = url

    def trials(self) -> list[FrozenTrial]:
        study = optuna.load_study(study_name="s", storage=open_storage(self.url))
        return study.get_trials(deepcopy=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[FrozenTrial]:
    """A search in one go, in a sqlite file."""
    return StoredSearch(f"sqlite:///{tmp_path_factory.mktemp('whole')}/s.db")(FakeEvaluator(), 5)


@every_kind
def test_a_search_in_pieces_is_the_search_in_one_go(url: str, whole: list[FrozenTrial]) -> None:
    search, fake = StoredSearch(url), FakeEvaluator()

    def interrupt(arch: Architecture) -> None:
        if len(fake.evaluated) == 3:
            raise KeyboardInterrupt

    search(fake, 2)
    fake.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(fake, 5)
    assert [t.state for t in search.trials()].count(TrialState.WAITING) == 1
    fake.before = lambda arch: None
    assert sequence(search(fake, 5)) == sequence(whole)
    assert sequence(search.trials()) == sequence(whole)
    assert len(fake.evaluated) == 5


@every_kind
def test_a_trial_has_its_limits_attributes_and_artifacts(url: str) -> None:
    arch_id = StoredSearch("sqlite:///other.db")(FakeEvaluator(), 1)[0].user_attrs["arch_id"]
    search = StoredSearch(url)
    search(FakeEvaluator(infeasible={arch_id}), 1)
    trial = search.trials()[0]
    assert trial.state == TrialState.PRUNED
    assert named_constraints(trial) == {"macs<=0": trial.user_attrs["values"]["macs"]}
    assert trial.system_attrs["constraints"] == [trial.user_attrs["values"]["macs"]]
    arch, settings = read_trial(url, "trial:s/0")
    assert arch.arch_id == arch_id
    assert settings["space"]["name"] == "few"
    assert stored_settings(url, "s") == settings
    assert find_study(url, "s", settings)
    assert not find_study(url, "s", {**settings, "seed": 1})
    assert any(arch.to_json() in p.read_text() for p in artifact_dir(url).iterdir())


@every_kind
def test_status_reads_every_kind(url: str) -> None:
    StoredSearch(url)(FakeEvaluator(), 3)
    assert read_status(open_storage(url), "s").n_done == 3


@every_kind
def test_long_attributes_are_kept(url: str) -> None:
    with open_study(url, "s", {"top1": "maximize"}, {}) as study:
        study.set_user_attr("long", "é" * 200_000)
        study.ask().set_user_attr("long", "x" * 200_000)
    stored = optuna.load_study(study_name="s", storage=open_storage(url))
    assert stored.user_attrs["long"] == "é" * 200_000
    assert len(stored.get_trials()[0].user_attrs["long"]) == 200_000


@every_kind
def test_other_settings_are_refused(url: str) -> None:
    StoredSearch(url)(FakeEvaluator(), 1)
    with pytest.raises(StudyError, match=r"settings differ: seed: 0 then, 1 now; .*--name"):
        StoredSearch(url, seed=1)(FakeEvaluator(), 1)
    with pytest.raises(StudyError, match="leave out --no-resume"):
        check_storage(url, "s", resume=False)


@every_kind
def test_reading_what_is_not_there_makes_nothing(url: str, tmp_path: Path) -> None:
    check_storage(url, "s", resume=True)
    assert find_study(url, "s", {}) is None
    assert stored_settings(url, "s") is None
    with pytest.raises(StudyError, match=r"there is no .*; `nasattn search` makes one"):
        open_storage(url)
    assert list(tmp_path.iterdir()) == []
    if not read_url(url).file:
        assert tables(url) == []


WRITER = """
import sys, time
from nasattn.search.storage import open_study

with open_study(sys.argv[1], "s", {"top1": "maximize"}, {"a": 1}) as study:
    trial = study.ask()
    trial.suggest_int("x", 1, 3)
    trial.set_user_attr("arch_id", "0")
    print("writing", flush=True)
    time.sleep(600)
"""


@every_kind
def test_one_process_writes_and_after_kill_9_the_next_one_does(url: str) -> None:
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(
        command, cwd=Path.cwd(), env={"PYTHONPATH": str(ROOT)}, stdout=-1
    ) as first:
        try:
            assert first.stdout
            assert first.stdout.readline() == b"writing\n"
            with (
                pytest.raises(StudyError, match="another process is writing to it") as error,
                open_study(url, "s", {"top1": "maximize"}, {"a": 1}),
            ):
                pass
            assert PASSWORD not in str(error.value)
            running = optuna.load_study(study_name="s", storage=open_storage(url)).get_trials()
            assert [t.state for t in running] == [TrialState.RUNNING]  # which was not put back
        finally:
            first.kill()
    with open_study(url, "s", {"top1": "maximize"}, {"a": 1}) as study:
        assert study.get_trials()[0].state == TrialState.WAITING
        again = study.ask()
        assert (again.number, again.params) == (0, running[0].params)


def tables(url: str) -> list[str]:
    return inspect(engine(url)).get_table_names()


def engine(url: str) -> Engine:
    return create_engine(read_url(url).with_driver(), poolclass=NullPool)


@pytest.mark.slow
@every_server
def test_studies_of_one_server_have_a_writer_each(server: Server) -> None:
    url, other = server.new_database(), server.new_database()
    with open_study(url, "s", {"top1": "maximize"}, {}) as study:
        with open_study(url, "t", {"top1": "maximize"}, {}) as beside:
            beside.ask()
        with open_study(other, "s", {"top1": "maximize"}, {}) as elsewhere:
            elsewhere.ask()
        study.ask()
    assert len(study.get_trials()) == len(beside.get_trials()) == 1


@every_server
def test_a_run_survives_a_restart_of_its_server(server: Server, whole: list[FrozenTrial]) -> None:
    search, fake = StoredSearch(server.new_database()), FakeEvaluator()

    def restart(arch: Architecture) -> None:
        if len(fake.evaluated) == 2:
            server.stop()
            server.start()

    fake.before = restart
    assert sequence(search(fake, 5)) == sequence(whole)


ENDS_SESSIONS = {
    "postgresql": "select pg_terminate_backend(pid) from pg_stat_activity "
    "where usename = 'me' and pid != pg_backend_pid()",
    "mysql": "kill user me",
}


def end_sessions(server: Server) -> None:
    """What a firewall does to a connection that is idle for long."""
    kind = read_url(server.url("x")).kind
    if kind == "postgresql":
        server.execute(ENDS_SESSIONS[kind])
    else:
        with engine(server.url(server.kind.first)).connect() as admin:
            own = admin.execute(text("select connection_id()")).scalar()
            listed = admin.execute(text("select id from information_schema.processlist"))
            for (other,) in listed.fetchall():
                if other != own:
                    admin.execute(text(f"kill {other}"))


@pytest.mark.slow
@every_server
def test_a_run_ends_when_another_has_written_since_its_connection_was_lost(
    server: Server,
) -> None:
    url = server.new_database()

    def overtake(arch: Architecture) -> None:
        end_sessions(server)
        assert counts(StoredSearch(url)(FakeEvaluator(), 1)[0])  # its own trial, from the queue

    with pytest.raises(StudyError, match="another process has written to it since") as error:
        StoredSearch(url)(FakeEvaluator(before=overtake), 3)
    assert PASSWORD not in str(error.value)
    trials = StoredSearch(url).trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE]
    assert sum(map(counts, StoredSearch(url)(FakeEvaluator(), 3))) == 3


@every_server
def test_a_run_ends_when_another_writes_after_its_connection_was_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nasattn.search.writer, "PATIENCE", 0)
    url = server.new_database()
    with open_study(url, "s", {"top1": "maximize"}, {}):
        pass
    with ExitStack() as stack:

        def write() -> None:
            with open_study(url, "s", {"top1": "maximize"}, {}) as first:
                end_sessions(server)
                second = stack.enter_context(open_study(url, "s", {"top1": "maximize"}, {}))
                second.ask()
                first.ask()

        with pytest.raises(StudyError, match="was lost, and another process is writing to it"):
            write()
    assert len(find_all(url)) == 1


def find_all(url: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=open_storage(url)).get_trials()


# PyMySQL leaves the socket open on which nobody answers.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@every_server
def test_a_server_that_stays_away_is_one_line_and_nothing_is_lost(
    server: Server, monkeypatch: pytest.MonkeyPatch, whole: list[FrozenTrial]
) -> None:
    monkeypatch.setattr(nasattn.search.writer, "PATIENCE", 0)
    search = StoredSearch(server.new_database())
    fake = FakeEvaluator(before=lambda arch: server.stop() if len(fake.evaluated) == 2 else None)
    try:
        with pytest.raises(StudyError, match=r"was lost .*; what is finished is kept") as error:
            search(fake, 5)
        with pytest.raises(StudyError, match="cannot be used"):
            search.trials()
        del error
        gc.collect()
    finally:
        server.start()
    assert sum(map(counts, search.trials())) == 2
    assert sequence(search(FakeEvaluator(), 5)) == sequence(whole)


@every_server
def test_a_database_of_somebody_else_is_left_alone(server: Server) -> None:
    url = server.new_database()
    with engine(url).begin() as session:
        session.execute(text("create table recipes (name text)"))
    with pytest.raises(StudyError, match="has tables of something else"):
        open_storage(url, create=True)
    assert tables(url) == ["recipes"]


@every_server
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("me:", "you:", r"cannot be used \(.*(authentication failed|Access denied)"),
        ("s3cret", "s4cret", r"cannot be used \(.*(authentication failed|Access denied)"),
        ("/nothing", "/nothing", r"cannot be used \(.*(does not exist|Unknown database)"),
    ],
)
def test_a_server_that_lets_nobody_in_is_one_line(
    server: Server, old: str, new: str, message: str
) -> None:
    with pytest.raises(StudyError, match=message) as error:
        open_storage(server.url("nothing").replace(old, new))
    assert "\n" not in str(error.value)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("journal://host/s.log", "must be journal:///FILE"),
        ("journal://", "must be journal:///FILE"),
        ("journal:///no/such/s.log", "there is no folder no/such"),
        ("journal:///absent.log", "there is no file absent.log"),
        ("journal:///.", "is not a file"),
        ("journal:///" + "x" * 300, "cannot be used"),
        ("journal:///theirs.log", "theirs.log is not an Optuna journal"),
        ("journal:///object.json", "object.json is not an Optuna journal"),
        ("journal:///damaged.log", "damaged.log is a damaged journal: Expecting"),
        ("journal:///odd.log", "odd.log is a damaged journal: Should not reach"),
        (
            "oracle://me:secret@host/db",
            "cannot be used .'oracle' is none of sqlite, journal, postg",
        ),
        ("mysql://me:secret@127.0.0.1:1/db", r"mysql://me:\*\*\*@.*Connection refused"),
        ("postgresql://me:a@secret@h/db", r"postgresql://me:\*\*\*@h/db': @, / and : in a passw"),
        ("postgresql://me:a@b/secret@h/db", r"postgresql://me:\*\*\*@h/db': @, / and : in a pass"),
        ("postgresql://me:secret@h:x/db", r"postgresql://me:\*\*\*@h:x/db': must be a database"),
        ("postgresql://127.0.0.1:1/db?password=secret", r"\?password=\.\.\.': cannot be used"),
        ("postgresql+nosuch://me:secret@h/db", r"no driver nosuch; pip install 'nasattn\[postg"),
    ],
)
def test_an_unusable_storage_is_one_line(tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "theirs.log").write_text("a log of something else\n")
    (tmp_path / "object.json").write_text('{"op": 1}')
    (tmp_path / "damaged.log").write_text('{"op_code":0,\n{"op_code":0}\n')
    (tmp_path / "odd.log").write_text('{"op_code":99,"worker_id":"x"}\n')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StudyError, match=message) as error:
        open_storage(url)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_missing_driver_names_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.search.urls.find_spec", lambda name: None)
    with pytest.raises(StudyError, match=rf"pip install 'nasattn\[{kind}\]'"):
        open_storage(f"{kind}://me@h/db")


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("sqlite:///runs/s.db", "runs/s-artifacts"),
        ("journal:///runs/s.log", "runs/s-artifacts"),
        ("journal:////var/s.log", "/var/s-artifacts"),
        ("postgresql://h/db", "nasattn-artifacts"),
        ("mariadb+pymysql://h/db", "nasattn-artifacts"),
    ],
)
def test_artifacts_are_beside_a_file(url: str, folder: str) -> None:
    assert artifact_dir(url) == Path(folder)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal")
    StoredSearch(f"journal:///{folder}/s.log")(FakeEvaluator(), 2)
    return folder / "s.log"


def records(file: Path) -> list[str]:
    return file.read_text().splitlines()


@pytest.mark.slow
def test_a_journal_cut_at_any_byte_is_read_and_written(journal: Path, tmp_path: Path) -> None:
    whole = journal.read_bytes()
    settings = open_journal(journal).get_study_user_attrs(0)["settings"]
    file = tmp_path / "s.log"
    for n in range(len(whole) - 300, len(whole)):
        file.write_bytes(whole[:n])
        kept = whole[:n].count(b"\n")
        reader = open_storage("journal:///s.log")
        assert file.read_bytes() == whole[:n]  # a reader mends nothing
        with open_study("journal:///s.log", "s", DIRECTIONS, settings):  # type: ignore[arg-type]
            pass
        assert records(file)[:kept] == records(journal)[:kept]
        open_journal(file).set_study_user_attr(0, "after", n)
        assert open_journal(file).get_study_user_attrs(0)["after"] == n
        assert json.loads(records(file)[-1])["user_attr"] == {"after": n}
        assert reader.get_study_user_attrs(0)["after"] == n  # one that was open before


def test_a_journal_cut_in_its_first_record_begins_anew(journal: Path, tmp_path: Path) -> None:
    first = journal.read_bytes().splitlines(keepends=True)[0]
    for n in range(len(first)):
        (tmp_path / "s.log").write_bytes(first[:n])
        with open_study("journal:///s.log", "s", {"top1": "maximize"}, {}) as study:
            assert study.ask().number == 0
        assert len(find_all("journal:///s.log")) == 1


@pytest.mark.parametrize("end", [b"\0\0\0\0", b'{"op_code":\n', b"\n", b"\xff"])
def test_a_last_line_that_is_no_record_is_cut(journal: Path, tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "s.log"
    file.write_bytes(journal.read_bytes() + end)
    before = records(journal)
    open_journal(file).set_study_user_attr(0, "after", 1)
    assert records(file)[:-1] == before


def found(trials: list[FrozenTrial]) -> list[Any]:
    return [(t.params, t.values) for t in trials if counts(t)]


def test_a_search_goes_on_after_a_journal_was_torn(
    journal: Path, tmp_path: Path, whole: list[FrozenTrial]
) -> None:
    search = StoredSearch("journal:///s.log")
    for n in (1, 40, 700, 3000):
        (tmp_path / "s.log").write_bytes(journal.read_bytes()[:-n])
        assert found(search(FakeEvaluator(), 5)) == found(whole)


APPENDS = """
import sys
from pathlib import Path
from nasattn.search.journal import open_journal

storage = open_journal(Path("s.log"))
for i in range(100):
    storage.set_study_user_attr(0, sys.argv[1], i)
"""


def test_two_processes_append_in_turns(journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.log"
    shutil.copy(journal, file)
    commands = [[sys.executable, "-c", APPENDS, name] for name in "ab"]
    environment = {"PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(c, cwd=tmp_path, env=environment) for c in commands]
    assert [process.wait() for process in processes] == [0, 0]
    attributes = open_journal(file).get_study_user_attrs(0)
    assert (attributes["a"], attributes["b"]) == (99, 99)
    assert len(records(file)) == len(records(journal)) + 200


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[FrozenTrial]
) -> None:
    search = StoredSearch("journal:///s.log")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    def fill(arch: Architecture) -> None:
        monkeypatch.setattr("os.fsync", full)

    with pytest.raises(StudyError, match=r"was lost .*No space left on device.*; what is finished"):
        search(FakeEvaluator(before=fill), 3)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sequence(search(FakeEvaluator(), 5)) == sequence(whole)

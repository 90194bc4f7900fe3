import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from nasattn.arch import Architecture
from nasattn.cli.search import quick_study
from nasattn.errors import StudyError, UnknownNameError
from nasattn.search.driver import Evaluator
from nasattn.search.history import named_constraints
from nasattn.search.run import run_search
from nasattn.search.samplers import SAMPLERS
from nasattn.search.spec import StudySpec, load_study_spec
from nasattn.search.storage import artifact_dir, check_storage, open_storage, open_study
from nasattn.search.trials import counts, is_new, state_of
from nasattn.space import SearchSpace
from nasattn.testing import FakeEvaluator
from nasattn.train.loop import Epoch
from tests.nni import some_quick

LADDER = SearchSpace.model_validate(  # a small space: each parameter costs sqlite a commit
    {
        "name": "ladder",
        "template": "lam",
        "parameters": {
            "stages.0.depth": {"type": "int", "low": 1, "high": 3},
            "stages.3.depth": {"type": "int", "low": 1, "high": 8},
            "stages.*.kernel": [3, 5, 7],
            "stages.*.attention.dense": [False, True],
            "fusion.terms": [2, 3],
            "head.hidden": [0, 256, 1037, 1152],
        },
        "baselines": ["lam", "lam_ladder"],
    }
)
FEW = SearchSpace.model_validate(  # six networks
    {
        "name": "few",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}]},
        "parameters": {"stages.0.width": [8, 16, 24], "stages.0.kernel": [3, 5]},
    }
)
VARIED = SearchSpace.model_validate(  # some of its networks beat dearer ones
    {
        "name": "varied",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}] * 3},
        "parameters": {
            "stages.width": {"type": "int", "low": 32, "high": 64, "step": 2},
            "stages.attention.kind": ["none", "se"],
        },
    }
)
DIRECTIONS = {"top1": "maximize", "macs": "minimize"}


QUICK = ("cost_aware", "tpe")
SOME_QUICK = some_quick(SAMPLERS, QUICK)


class Quiet:
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.spent: list[int] = []

    def started(self, name: str, spent: int) -> None:
        self.names.append(name)

    def epoch(self, name: str, epoch: Epoch) -> None: ...

    def finished(self, trial: FrozenTrial, spent: int) -> None:
        self.spent.append(spent)


class Search:
    """A search in a folder, as often as it is called."""

    def __init__(self, folder: Path, space: SearchSpace = LADDER, **settings: Any) -> None:
        self.url = f"sqlite:///{folder}/s.db"
        self.space = space
        usual = {"objectives": ("top1", "macs"), "resolution": 16, "sampler": "random"}
        self.spec = StudySpec.model_validate(usual | settings)
        self.watcher = Quiet()
        self.ending = ""

    def __call__(self, evaluate: Evaluator, n_trials: int) -> list[FrozenTrial]:
        spec = self.spec.model_copy(update={"n_trials": n_trials})
        settings = spec.settings(self.space, "tiny", "hash")
        with open_study(self.url, "s", DIRECTIONS, settings) as study:  # type: ignore[arg-type]
            self.ending = run_search(
                study,
                spec,
                self.space,
                evaluate,
                facts={"seed": 0},
                artifacts=artifact_dir(self.url),
                watcher=self.watcher,
            )
            return study.get_trials(deepcopy=False)

    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name="s", storage=self.url).get_trials(deepcopy=False)


def a_bug(arch: Architecture) -> None:
    raise KeyError("a bug")


def sequence(trials: list[FrozenTrial]) -> list[Any]:
    return [(t.number, t.state, t.params, t.values, t.user_attrs.get("arch_id")) for t in trials]


def test_baselines_run_first_and_the_budget_is_kept(tmp_path: Path) -> None:
    search, fake = Search(tmp_path), FakeEvaluator()
    trials = search(fake, 8)
    assert [t.user_attrs.get("baseline") for t in trials[:4]] == [
        "lam",
        "lam_ladder",
        None,
        None,
    ]
    assert sum(map(counts, trials)) == 8 == len(fake.evaluated)
    assert search.ending == "budget"
    assert search.watcher.spent == list(range(1, 9))


def test_every_trial_says_what_it_was(tmp_path: Path) -> None:
    trial = Search(tmp_path)(FakeEvaluator(), 1)[0]
    arch_id = trial.user_attrs["arch_id"]
    assert trial.user_attrs["baseline"] == "lam"
    assert trial.user_attrs["seed"] == 0
    assert trial.user_attrs["values"]["params"] == trial.user_attrs["values"]["macs"] / 10
    arch = LADDER.decode(trial.params).at_resolution(16)
    assert arch.arch_id == arch_id
    files = {p.read_text() for p in artifact_dir(f"sqlite:///{tmp_path}/s.db").iterdir()}
    assert arch.to_json() + "\n" in files
    assert any(text.startswith("epoch,loss,top1,seconds\n1,") for text in files)


@pytest.mark.parametrize("sampler", SOME_QUICK)
def test_no_network_is_evaluated_twice_and_an_exhausted_space_ends_the_search(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasattn.search.driver.MAX_FREE_TRIALS", 30)
    search, fake = Search(tmp_path, FEW, sampler=sampler), FakeEvaluator()
    trials = search(fake, 50)
    assert sorted(fake.evaluated) == sorted(set(fake.evaluated))
    if sampler in ("cost_aware", "nni_evolution"):  # they know that none is left
        assert search.ending == "exhausted"
        assert [is_new(t) for t in trials] == [True] * 6 + [False]
        assert trials[-1].user_attrs["given_up"] == "nothing is left to propose"
        return
    assert search.ending == "in vain"
    assert [is_new(t) for t in trials[-30:]] == [False] * 30
    again = trials[-1]
    first = trials[again.user_attrs["duplicate_of"]]
    assert (again.values, again.state) == (first.values, first.state)


def test_a_failed_network_counts_and_the_search_goes_on(tmp_path: Path) -> None:
    bad = Search(tmp_path)(FakeEvaluator(), 1)[0].user_attrs["arch_id"]
    other = tmp_path / "other"
    other.mkdir()
    trials = Search(other)(FakeEvaluator(fail={bad}), 4)
    assert trials[0].state == TrialState.FAIL
    assert trials[0].user_attrs["reason"] == "out of memory"
    assert [t.state for t in trials[1:]] == [TrialState.COMPLETE] * 3


def test_an_infeasible_network_is_recorded_and_does_not_count(tmp_path: Path) -> None:
    bad = Search(tmp_path)(FakeEvaluator(), 1)[0].user_attrs["arch_id"]
    other = tmp_path / "other"
    other.mkdir()
    fake = FakeEvaluator(infeasible={bad})
    trials = Search(other)(fake, 4)
    assert trials[0].state == TrialState.PRUNED
    assert trials[0].constraints["macs<=0"] > 0
    assert trials[0].user_attrs["values"]["macs"] > 0
    assert len(trials) == 5
    assert sum(map(counts, trials)) == 4


@pytest.mark.parametrize("sampler", SOME_QUICK)
def test_a_search_in_pieces_is_the_search_in_one_go(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Search(tmp_path / "a", sampler=sampler)(FakeEvaluator(), 14)
    pieces = Search(tmp_path / "b", sampler=sampler)
    for n in (2, 3, 9, 14):
        trials = pieces(FakeEvaluator(), n)
    assert sequence(trials) == sequence(whole)


@pytest.mark.slow
def test_an_interrupted_trial_goes_back_in_the_queue_and_is_redone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Search(tmp_path / "a")(FakeEvaluator(), 14)
    search, fake = Search(tmp_path / "b"), FakeEvaluator()

    def interrupt(arch: Architecture) -> None:
        if len(fake.evaluated) == 12:
            raise KeyboardInterrupt

    fake.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(fake, 14)
    fake.before = lambda arch: None
    assert [t.state for t in search.trials()[-1:]] == [TrialState.WAITING]
    assert sequence(search(fake, 14)) == sequence(whole)
    assert len(fake.evaluated) == 14


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_search import Search
from nasattn.testing import FakeEvaluator

def kill(arch):
    if len(fake.evaluated) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

fake = FakeEvaluator(before=kill)
Search(Path(sys.argv[1]), sampler=sys.argv[3])(fake, 14)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "cost_aware"])
def test_kill_9_in_mid_trial_loses_nothing(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Search(tmp_path / "a", sampler=sampler)(FakeEvaluator(), 14)
    killed = [sys.executable, "-c", KILLED, str(tmp_path / "b"), "2", sampler]
    search = Search(tmp_path / "b", sampler=sampler)
    for done in (2, 4):  # a second kill: two more finished since
        process = subprocess.run(killed, check=False, cwd=Path(__file__).parents[1])
        assert process.returncode == -9
        states = [t.state for t in search.trials()]
        assert states.count(TrialState.COMPLETE) == done
        assert states.count(TrialState.RUNNING) == 1
    fake = FakeEvaluator()
    assert sequence(search(fake, 14)) == sequence(whole)
    assert len(fake.evaluated) == 10


def test_no_network_that_breaks_a_static_limit_is_proposed(tmp_path: Path) -> None:
    macs = [FakeEvaluator().static_values(LADDER.decode(p))["macs"] for p in some_params(40)]
    limit = sorted(macs)[20]
    search = Search(tmp_path, constraints=(f"macs<={limit}",), sampler="cost_aware")
    trials = search(FakeEvaluator(), 12)
    proposed = [t for t in trials if "baseline" not in t.user_attrs]
    assert len(proposed) >= 10
    assert all(t.user_attrs["values"]["macs"] <= limit for t in proposed)


def test_queued_networks_are_tried_by_every_sampler(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search(FakeEvaluator(), 3)
    params = some_params(1)[0]
    optuna.load_study(study_name="s", storage=search.url).enqueue_trial(params)
    assert search(FakeEvaluator(), 4)[3].params == params


def some_params(n: int) -> list[dict[str, Any]]:
    rng = Random(0)
    return [LADDER.sample(rng) for _ in range(n)]


@pytest.mark.slow
def test_a_stopped_network_counts_and_keeps_its_curve(tmp_path: Path) -> None:
    recipe = {"name": "quick", "epochs": 12}
    search = Search(tmp_path, VARIED, sampler="random", early_stop="rank", recipe=recipe)
    trials = search(FakeEvaluator(n_epochs=12), 40)
    stopped = [t for t in trials if state_of(t) == "stopped"]
    assert stopped
    assert sum(map(counts, trials)) == 40
    for trial in stopped:
        attributes = trial.user_attrs
        assert trial.state == TrialState.PRUNED
        assert len(attributes["curve"]) == attributes["stopped_after"] < 12
        assert attributes["reason"] == f"stopped after epoch {attributes['stopped_after']} of 12"
        assert "top1" not in attributes["values"]
        macs = attributes["values"]["macs"]
        top1, foretold_macs = attributes["foretold"]
        assert foretold_macs == macs
        reached = attributes["curve"][-1][1] / len(attributes["curve"])
        assert top1 == pytest.approx(12 * reached, abs=1e-3)  # curves are stored rounded


@pytest.mark.slow
def test_early_stopping_in_pieces_is_that_in_one_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    settings: dict[str, Any] = {
        "sampler": "random",
        "early_stop": "rank",
        "recipe": {"name": "quick", "epochs": 12},
    }
    whole = Search(tmp_path / "a", VARIED, **settings)(FakeEvaluator(n_epochs=12), 30)
    pieces = Search(tmp_path / "b", VARIED, **settings)
    for n in (7, 19, 30):
        trials = pieces(FakeEvaluator(n_epochs=12), n)
    assert sequence(trials) == sequence(whole)
    assert any(state_of(t) == "stopped" for t in trials)


ESTIMATED: dict[str, Any] = {
    "sampler": "random",
    "estimator": "naswot",
    "recipe": {"name": "quick", "epochs": 12},
}


def foresee(arch: Architecture) -> dict[str, float]:
    """What one who knew FakeEvaluator's law, but for one part in a thousand, would say."""
    top1 = FakeEvaluator()(arch).values["top1"]
    return {"naswot": top1 * (1 + int(arch.arch_id[:2], 16) / 255_000)}


def foreseeing() -> FakeEvaluator:
    return FakeEvaluator(n_epochs=12, estimates=foresee)


@pytest.mark.slow
def test_estimates_stop_networks_before_they_are_trained(tmp_path: Path) -> None:
    search = Search(tmp_path, VARIED, **ESTIMATED)
    trials = search(foreseeing(), 20)
    stopped = [t for t in trials if t.user_attrs.get("stopped_after") == 0]
    assert stopped
    assert sum(map(counts, trials)) == 20
    assert all("naswot" in t.user_attrs["estimates"] for t in trials if counts(t))
    for trial in stopped:
        arch = VARIED.decode(trial.params).at_resolution(16)
        assert (trial.state, trial.user_attrs["curve"]) == (TrialState.PRUNED, [])
        top1, macs = trial.user_attrs["foretold"]
        assert top1 == pytest.approx(FakeEvaluator()(arch).values["top1"], abs=0.005)
        assert macs == trial.user_attrs["values"]["macs"]


def test_an_estimator_is_judged_by_rank_unless_the_study_says_none() -> None:
    assert load_study_spec(None, {}).early_stop == "none"
    assert load_study_spec(None, {"estimator": "naswot+macs"}).early_stop == "rank"
    said = {"estimator": "naswot", "early_stop": "none"}
    assert load_study_spec(None, said).early_stop == "none"
    assert load_study_spec(None, {"estimator": "naswot+macs"}).estimators == ("naswot", "macs")


def test_a_study_without_an_estimator_is_stored_as_ever() -> None:
    spec = load_study_spec(None, {})
    assert "estimator" not in spec.settings(FEW, "tiny", "hash")
    asked = load_study_spec(None, {"estimator": "naswot"}).settings(FEW, "tiny", "hash")
    assert (asked["estimator"], asked["early_stop"]) == ("naswot", "rank")


def test_limits_are_written_for_the_dashboard_too(tmp_path: Path) -> None:
    search, fake = Search(tmp_path), FakeEvaluator()
    arch_id = search(fake, 1)[0].user_attrs["arch_id"]
    other = tmp_path / "other"
    other.mkdir()
    trial = Search(other)(FakeEvaluator(infeasible={arch_id}), 1)[0]
    assert trial.system_attrs["constraints"] == [trial.constraints["macs<=0"]]
    assert named_constraints(trial) == {"macs<=0": trial.constraints["macs<=0"]}


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Search(tmp_path)(FakeEvaluator(), 1)
    with pytest.raises(StudyError, match=r"settings differ: seed: 0 then, 1 now; .*--name"):
        Search(tmp_path, seed=1)(FakeEvaluator(), 1)
    longer = Search(tmp_path, recipe={"name": "quick", "epochs": 9})
    with pytest.raises(StudyError, match=r"recipe.epochs: 4 then, 9 now"):
        longer(FakeEvaluator(), 1)
    with pytest.raises(StudyError, match=r"space\..* \(and \d+ more\)"):
        Search(tmp_path, FEW)(FakeEvaluator(), 1)
    assert len(Search(tmp_path).trials()) == 1 + 1  # one done, a baseline in the queue


def test_a_study_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    with pytest.raises(StudyError, match="was not made by nasattn; give a --name"):
        Search(tmp_path)(FakeEvaluator(), 1)


def test_a_study_whose_making_was_killed_is_made_whole(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(study_name="s", storage=url, directions=["maximize", "minimize"])
    assert counts(Search(tmp_path)(FakeEvaluator(), 1)[0])


@pytest.mark.slow
def test_a_trial_killed_while_it_was_proposed_is_proposed_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Search(tmp_path / "a")(FakeEvaluator(), 14)
    search = Search(tmp_path / "b")
    search(FakeEvaluator(), 12)
    study = optuna.load_study(study_name="s", storage=search.url)
    study.ask().suggest_int("stages.0.depth", 1, 3)  # and then the power goes
    trials = search(FakeEvaluator(), 14)
    assert [t.state for t in trials[12:13]] == [TrialState.FAIL]
    assert [(t.params, t.values) for t in trials if counts(t)] == [
        (t.params, t.values) for t in whole if counts(t)
    ]


def test_a_bug_is_shown_once_and_does_not_block_the_study(tmp_path: Path) -> None:
    search = Search(tmp_path)
    with pytest.raises(KeyError, match="a bug"):
        search(FakeEvaluator(before=a_bug), 3)
    assert search.trials()[0].user_attrs["reason"] == "bug: KeyError('a bug')"
    texts = [path.read_text() for path in artifact_dir(search.url).iterdir()]
    assert any("Traceback" in text and "KeyError: 'a bug'" in text for text in texts)
    assert [t.state for t in search(FakeEvaluator(), 3)[:2]] == [
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as database:
        database.execute("create table recipes (name text)")
    before = (tmp_path / "theirs.db").read_bytes()
    with pytest.raises(StudyError, match="is a database, but not an Optuna storage"):
        open_storage(f"sqlite:///{tmp_path}/theirs.db", create=True)
    assert (tmp_path / "theirs.db").read_bytes() == before


def kill_in_mid_commit(file: Path) -> None:
    """Leave a database and its journal as a process does that is killed in a commit."""
    folder = file.parent / "killed"
    folder.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("pragma cache_size = 1")  # what does not fit is in the file already
        database.execute("begin immediate")
        database.execute("create table half (a blob)")
        database.executemany("insert into half values (?)", [(b"x" * 4000,)] * 50)
        for name in (file.name, f"{file.name}-journal"):
            (folder / name).write_bytes((file.parent / name).read_bytes())
        database.execute("rollback")
    for path in folder.iterdir():
        path.replace(file.parent / path.name)
    folder.rmdir()


def test_a_search_goes_on_after_a_kill_in_mid_commit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Search(tmp_path / "a")(FakeEvaluator(), 5)
    search = Search(tmp_path / "b")
    search(FakeEvaluator(), 3)
    file = tmp_path / "b" / "s.db"
    before = file.read_bytes()
    kill_in_mid_commit(file)
    assert file.stat().st_size > len(before)  # it holds half of what was being written
    check_storage(search.url, "s", resume=True)
    assert file.read_bytes() == before
    assert not file.with_name("s.db-journal").exists()
    assert sequence(search(FakeEvaluator(), 5)) == sequence(whole)


def test_a_database_of_somebody_else_killed_in_mid_commit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("create table recipes (name text)")
    before = file.read_bytes()
    kill_in_mid_commit(file)
    with pytest.raises(StudyError, match="is a database, but not an Optuna storage"):
        open_storage(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == before


def test_a_recipe_by_name_replaces_the_studys_own() -> None:
    assert load_study_spec("mobile_quick", {"recipe": {"name": "lam"}}).recipe.epochs == 200
    changed = load_study_spec("mobile_quick", {"recipe": {"train_size": 9}}).recipe
    assert (changed.epochs, changed.train_size) == (3, 9)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../x", "_.._x"),
        ("/etc/x", "_etc_x"),
        ("..", "_"),
        ("<script>alert(1)</script>", "_script_alert_1_script_"),
        ("a b", "a_b"),
    ],
)
def test_a_study_name_never_leads_out_of_the_folder(name: str, folder: str) -> None:
    assert load_study_spec(None, {"name": name}).study_name == name
    assert load_study_spec(None, {"name": name}).folder_name == folder


def test_a_password_is_not_shown() -> None:
    with pytest.raises(StudyError, match=r"postgresql://me:\*\*\*@") as error:
        open_storage("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_only_one_process_writes_to_a_storage(tmp_path: Path) -> None:
    search = Search(tmp_path)

    def second(arch: Architecture) -> None:
        with pytest.raises(StudyError, match="another process is writing to it"):
            Search(tmp_path)(FakeEvaluator(), 1)

    assert counts(search(FakeEvaluator(before=second), 1)[0])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nasattn.db", "must be a database URL such as sqlite"),
        ("sqlite:///{}/no/such/s.db", "there is no folder"),
        ("sqlite:///{}/absent.db", "there is no file"),
        ("sqlite:///{}/garbage.db", "cannot be used .*not a database"),
        ("sqlite:///{}", "cannot be used"),
        ("nosql://host/db", "cannot be used"),
        ("postgresql://h:notaport/db", "must be a database URL"),
        ("sqlite:///" + "x" * 300, "cannot be used"),
    ],
)
def test_an_unusable_storage_is_one_line(tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "garbage.db").write_bytes(b"this is not a database, whatever its name says" * 50)
    with pytest.raises(StudyError, match=message) as error:
        open_storage(url.format(tmp_path))
    assert "\n" not in str(error.value)


def test_check_storage_writes_nothing(tmp_path: Path) -> None:
    check_storage(f"sqlite:///{tmp_path}/s.db", "s", resume=True)
    assert list(tmp_path.iterdir()) == []
    Search(tmp_path)(FakeEvaluator(), 1)
    with pytest.raises(StudyError, match="leave out --no-resume"):
        check_storage(f"sqlite:///{tmp_path}/s.db", "s", resume=False)


def test_a_study_file_is_laid_under_the_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: {name: quick, epochs: 7}\nn_trials: 5\nconstraints: [macs<=1e6]\n")
    spec = load_study_spec(str(path), {"recipe": {"train_size": 99}, "n_trials": 6})
    assert (spec.recipe.epochs, spec.recipe.train_size, spec.n_trials) == (7, 99, 6)
    assert spec.constraints == ("macs<=1000000",)
    assert spec.study_name == "mobile-digits"


def test_a_change_of_the_recipe_keeps_the_rest_of_it() -> None:
    spec = load_study_spec(None, {"recipe": {"epochs": 6}})
    assert spec.recipe == load_study_spec(None, {}).recipe.model_copy(update={"epochs": 6})
    assert spec.recipe.name == "quick"


def test_the_recipe_is_by_the_pictures_unless_it_is_named() -> None:
    def recipe(**changes: Any) -> tuple[str, int]:
        found = load_study_spec(None, changes).recipe
        return found.name, found.epochs

    assert recipe() == recipe(data="digits") == ("quick", 4)
    assert recipe(data="pictures/") == ("steady", 8)
    assert recipe(data="cifar10", recipe={"epochs": 6}) == ("steady", 6)
    assert recipe(data="cifar10", recipe="quick") == ("quick", 4)
    assert recipe(data="digits", recipe={"name": "lam", "epochs": 6}) == ("lam", 6)
    with pytest.raises(StudyError, match=r"^options: data: must be a valid string, is 5$"):
        recipe(data=5)


def test_the_quick_study_is_of_the_digits_alone() -> None:
    assert quick_study({}) == quick_study({"data": "digits"}) == "mobile_quick"
    assert quick_study({"data": "pictures/"}) is None
    assert quick_study({"space": "own.yaml"}) is None


def test_the_quick_study_is_what_the_readme_says() -> None:
    spec = load_study_spec("mobile_quick", {})
    assert (spec.space, spec.data, spec.recipe.name) == ("mobile", "digits", "quick")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": -3}, r"n_trials: must be greater than 0, is -3"),
        ({"n_trials": 0}, r"n_trials: must be greater than 0"),
        ({"seed": -1}, r"seed: must be greater than or equal to 0"),
        ({"resolution": 4}, r"resolution: must be greater than or equal to 8"),
        ({"objectives": ["top1", "speed"]}, r"unknown objective 'speed'"),
        ({"objectives": ["top1", "top1"]}, r"each objective may be named once"),
        ({"objectives": []}, r"objectives"),
        ({"constraints": ["flops<=1"]}, r"unknown objective 'flops'"),
        ({"estimator": "naswut+macs"}, r"unknown estimator 'naswut'; did you mean 'naswot'"),
        ({"estimator": "macs+macs"}, r"estimator: .*names one of its parts twice"),
        ({"sampler": "tpo"}, r"unknown sampler 'tpo'; did you mean 'tpe'"),
        ({"recipe": "quik"}, r"unknown recipe 'quik'; did you mean 'quick'"),
        ({"recipe": {"epochs": 0}}, r"recipe.epochs: must be greater than 0"),
        ({"recipe": {"epoch": 3}}, r"unknown field 'recipe.epoch'; did you mean 'epochs'"),
        ({"seed": 2**64}, r"seed: must be less than 4294967296"),
        ({"name": "a\nb"}, r"name: 'a\\nb': must be 1 to 100 printable characters"),
        ({"name": " "}, r"must be 1 to 100 printable"),
        ({"name": "x" * 101}, r"must be 1 to 100 printable"),
        ({"trials": 3}, r"unknown field 'trials'; did you mean 'n_trials'"),
    ],
)
def test_wrong_study_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((StudyError, UnknownNameError), match=message) as error:
        load_study_spec("mobile_quick", changes)
    assert "\n" not in str(error.value)

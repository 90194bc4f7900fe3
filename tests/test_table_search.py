"""A search of a tabular benchmark: nothing is trained, everything else is a search's."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState

from nasattn.arch import Architecture
from nasattn.baselines.baseline import Pictures
from nasattn.errors import StudyError
from nasattn.evaluate import Evaluation
from nasattn.objectives import get_objective, parse_constraint
from nasattn.search.driver import Evaluator
from nasattn.search.look_up import TableEvaluator, search_table
from nasattn.search.run import run_search
from nasattn.search.spec import StudySpec
from nasattn.search.storage import artifact_dir, open_study
from nasattn.search.table import Table, read_table
from nasattn.search.trials import RUNNING, counts
from nasattn.space import SearchSpace, load_space
from nasattn.testing import FakeEvaluator
from tests.command import assert_refused, nasattn
from tests.nas_bench_macro import write_table
from tests.test_search import Quiet, sequence

SPACE = """
template:
  stem: {width: 8}
  stages: [{depth: 1, width: 8}]
parameters:
  stages.0.width: {type: int, low: 8, high: 24, step: 8}
  stages.0.kernel: [3, 5]
  stages.0.attention.kind: [none, eca, sge]
  stages.0.attention.groups: [1, 2]
"""
PARAMETERS = (
    "stages.0.width",
    "stages.0.kernel",
    "stages.0.attention.kind",
    "stages.0.attention.groups",
)
# Every network of the space: 3 widths, 2 kernels, none, eca, sge of 1 or 2 groups.
NETWORKS = [
    (width, kernel, kind, groups)
    for width in (8, 16, 24)
    for kernel in (3, 5)
    for kind, groups in (("none", ""), ("eca", ""), ("sge", "1"), ("sge", "2"))
]
TOP1, MACS = get_objective("top1"), get_objective("macs")
DIRECTIONS = {"top1": "maximize", "macs": "minimize"}
PUBLIC = Path(__file__).parents[2] / "shared" / "data" / "nas" / "nas_bench_macro_cifar10.parquet"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, with the small space and its table."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("COLUMNS", "80")
    Path("tiny.yaml").write_text(SPACE, encoding="utf-8")
    write_rows("table.csv", [*PARAMETERS, "top1_0", "top1_1", "top1_2", "macs"], rows())


def rows(first: int = 0) -> list[list[Any]]:
    """Accuracies grow with the width, costs too; run k is 0.01 k below run 0."""
    found = []
    for i, (width, kernel, kind, groups) in enumerate(NETWORKS[first:], start=first):
        top1 = 0.5 + width / 100 + i / 1000
        runs = [round(top1 - 0.01 * k, 6) for k in range(3)]
        found.append([width, kernel, kind, groups, *runs, 1e6 * width])
    return found


def write_rows(path: str, head: list[str], lines: list[list[Any]]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])


def tiny() -> SearchSpace:
    return load_space("tiny.yaml")


def network(index: int) -> Architecture:
    """A row of NETWORKS as a network."""
    width, kernel, kind, groups = NETWORKS[index]
    attention: dict[str, Any] = {"kind": kind} | ({"groups": int(groups)} if groups else {})
    stage = {"depth": 1, "width": width, "kernel": kernel, "attention": attention}
    return Architecture.model_validate({"stem": {"width": 8}, "stages": [stage]})


def table() -> Table:
    return read_table(Path("table.csv"), tiny())


def test_read_table_finds_every_network_by_its_parameters() -> None:
    found = table()
    assert found.name == "table.csv"
    assert found.columns == {"top1": ("top1_0", "top1_1", "top1_2"), "macs": ("macs",)}
    assert list(found.networks) == [network(i).arch_id for i in range(len(NETWORKS))]
    # width 16, kernel 3, none: row 8 of the table
    figures = found.networks[network(8).arch_id]
    assert figures == {"top1": (0.668, 0.658, 0.648), "macs": (16e6,)}
    assert [found.find("top1", network(8).arch_id, seed) for seed in (0, 4)] == [0.668, 0.658]


def test_read_table_by_arch_id_needs_no_parameters() -> None:
    lines = [[network(i).arch_id, *row[4:], "a note"] for i, row in enumerate(rows())]
    write_rows("ids.csv", ["arch_id", "top1_0", "top1_1", "top1_2", "macs", "remark"], lines)
    assert read_table(Path("ids.csv"), tiny()).networks == table().networks


def test_read_table_takes_parquet_of_typed_columns() -> None:
    pytest.importorskip("pyarrow")
    frame = pd.read_csv("table.csv", keep_default_na=False)
    groups = "stages.0.attention.groups"
    frame[groups] = pd.to_numeric(frame[groups])  # where it means nothing: not a number
    assert frame[groups].isna().sum() == 12
    frame.to_parquet("table.parquet")
    assert read_table(Path("table.parquet"), tiny()).networks == table().networks


def test_read_table_adapts_networks_to_the_pictures() -> None:
    found = read_table(Path("table.csv"), tiny(), resolution=8)
    small = network(3).at_resolution(4)  # 4 pixels: the stem's stride is 1
    assert small != network(3)
    assert small.arch_id in read_table(Path("table.csv"), tiny(), resolution=4).networks
    assert network(3).arch_id in found.networks


@pytest.mark.parametrize(
    ("value", "cell"),
    [(True, "true"), (True, "True"), (3, "3.0"), (0.5, "0.5"), ("none", "none"), (6, "6")],
)
def test_read_table_reads_values_as_people_write_them(value: Any, cell: str) -> None:
    by_value: dict[Any, tuple[str, Any]] = {
        True: ("head.gem_learnable", [False, True]),
        3: ("stages.0.kernel", [3, 5]),
        0.5: ("head.dropout", {"type": "float", "low": 0, "high": 0.75, "step": 0.25}),
        "none": ("stages.0.attention.kind", ["none", "eca"]),
        6: ("stages.0.expansion", {"type": "int", "low": 1, "high": 6}),
    }
    name, choice = by_value[value]
    template = {
        "stem": {"width": 8},
        "stages": [{"depth": 1, "width": 8}],
        "head": {"pooling": "gem"},
    }
    space = SearchSpace.model_validate(
        {"name": "one", "template": template, "parameters": {name: choice}}
    )
    write_rows("one.csv", [name, "top1"], [[cell, 0.5]])
    assert list(read_table(Path("one.csv"), space).networks) == [
        space.decode({name: value}).arch_id
    ]


HEAD = ",".join(PARAMETERS)
ROW = "8,3,sge,1"
IDS = "arch_id,top1\n0123456789ab"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column of a figure; known: top1, macs, params, latency_ms, top1_0"),
        (f"{HEAD},accuracy\n{ROW},0.5\n", r"no column of a figure"),
        (f"{HEAD},top1\n", r"t.csv: has no row"),
        (f"{HEAD},top1\n{ROW}\n", r"t.csv, line 2: has 4 cells, the head has 5"),
        (f"{HEAD},top1,top1\n{ROW},1,1\n", r"column 'top1' is there twice"),
        (f"{HEAD},top1,top1_0\n{ROW},1,1\n", r"columns top1, top1_0: must be top1 alone"),
        (f"{HEAD},top1_1,top1_2\n{ROW},1,1\n", r"columns top1_1, top1_2: .* top1_0, top1_1"),
        ("stages.0.width,top1\n8,0.5\n", r"no column 'arch_id', nor one for parameter 'stages"),
        (
            HEAD.replace("kernel", "kernels") + f",top1\n{ROW},0.5\n",
            r"parameter 'stages.0.kernel' of space 'tiny'; did you mean 'stages.0.kernels'",
        ),
        (f"{HEAD},top1\n\n{ROW},93.1\n", r"t.csv, line 3, top1: .*0 to 1 \(93.1 % is 0.931\), is"),
        (f"{HEAD},top1\n{ROW},-0.1\n", r"top1: must be a number from 0 on, is '-0.1'"),
        (f"{HEAD},top1\n{ROW},nan\n", r"top1: must be a number from 0 on, is 'nan'"),
        (f"{HEAD},macs\n{ROW},1e999\n", r"macs: must be a number from 0 on, is '1e999'"),
        (f"{HEAD},top1\n{ROW},\n", r"top1: must be a number from 0 on, is ''"),
        (f'{HEAD},top1\n{ROW},"0,5"\n', r"top1: must be a number from 0 on, is '0,5'"),
        (f"{HEAD},top1\n12,3,sge,1,0.5\n", r"line 2, stages.0.width: must be 8 to 24 in steps of"),
        (f"{HEAD},top1\n8,4,sge,1,0.5\n", r"stages.0.kernel: must be 3 or 5, is '4'"),
        (f"{HEAD},top1\n8,3,sgee,1,0.5\n", r"attention.kind: must be none, eca or sge, is 'sgee'"),
        (f"{HEAD},top1\n8,3,sge,,0.5\n", r"line 2: .*'stages.0.attention.groups' is missing"),
        (f"{HEAD},top1\n{ROW},0.5\n{ROW},0.6\n", r"line 3: network \w{12} is in line 2 as well"),
        (f"{HEAD},top1\n8,3,none,1,0.5\n8,3,none,2,0.5\n", r"line 3: network \w{12} is in line 2"),
        (f"{IDS},0.5\n0123456789ab,0.5\n", r"line 3: network 0123456789ab is in line 2 as well"),
        ("arch_id,top1\n1.2E+11,0.5\n", r"arch_id: must be 12 digits of 0-9a-f, is '1.2E\+11'"),
        ('arch_id,top1\n"0123', r"t.csv: cannot be read as CSV"),
        ("arch_id;top1\n0123456789ab;0.5\n", r"no column of a figure"),
    ],
)
def test_read_table_refuses_what_is_wrong_by_its_place(text: str, message: str) -> None:
    Path("t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message) as error:
        read_table(Path("t.csv"), tiny())
    assert str(error.value).startswith("t.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("absent.csv", None, r"absent.csv: there is no such file"),
        ("t.xlsx", b"", r"t.xlsx: must be a .csv or .parquet file"),
        ("t.csv", b"\xff\xfe\x00", r"t.csv: cannot be read as CSV"),
        ("t.parquet", b"PAR1 and no more", r"t.parquet: cannot be read as parquet"),
        ("t.parquet", b"", r"t.parquet: cannot be read as parquet"),
    ],
)
def test_read_table_refuses_what_is_no_table(name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises(StudyError, match=message) as error:
        read_table(Path(name), tiny())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("run", range(3))
@pytest.mark.parametrize("lap", [0, 1])
def test_an_evaluation_sees_the_run_of_the_seed(run: int, lap: int) -> None:
    evaluator = TableEvaluator(table(), (TOP1, MACS), seed=run + 3 * lap)
    found = evaluator(network(8))
    assert found == Evaluation("complete", {"top1": 0.668 - run / 100, "macs": 16e6})


def test_a_network_that_is_not_in_the_table_fails() -> None:
    write_rows("few.csv", [*PARAMETERS, "top1_0", "top1_1", "top1_2", "macs"], rows(first=4))
    evaluator = TableEvaluator(read_table(Path("few.csv"), tiny()), (TOP1,))
    assert evaluator(network(0)) == Evaluation("failed", reason="not in few.csv")
    assert evaluator(network(4)).state == "complete"


def test_a_limit_on_a_cost_hides_the_accuracy() -> None:
    limits = (parse_constraint("macs<=10e6"), parse_constraint("top1>=0.59"))
    evaluator = TableEvaluator(table(), (TOP1, MACS), limits)
    # 16 M of at most 10 M: over by 60 %
    found = evaluator(network(8))
    assert (found.state, found.reason) == ("infeasible", "breaks macs<=10000000")
    assert found.values == {"macs": 16e6}
    assert found.violations == {"macs<=10000000": pytest.approx(0.6)}
    # 0.58 of at least 0.59: a twentieth part and more is not missing, but it is trained
    found = evaluator(network(0))
    assert (found.state, found.reason) == ("complete", "breaks top1>=0.59")
    assert found.violations["top1>=0.59"] == pytest.approx(0.01 / 0.59)


def test_what_the_table_has_not_is_counted() -> None:
    params = get_objective("params")
    evaluator = TableEvaluator(table(), (params, MACS), pictures=Pictures(32, 10))
    # 3x3 stem 3 -> 8 and its norm, depthwise 3x3 of 8 and its norm, 1x1 8 -> 8 and its norm,
    # 8 -> 10 classes with a bias
    n_params = (27 * 8 + 16) + (9 * 8 + 16) + (64 + 16) + 90
    assert evaluator(network(0)).values == {"params": n_params, "macs": 8e6}


def test_an_objective_that_nobody_knows_is_refused() -> None:
    message = r"table.csv: no column 'latency_ms'; known: top1, macs, params"
    with pytest.raises(StudyError, match=message):
        TableEvaluator(table(), (TOP1, get_objective("latency_ms")))
    with pytest.raises(StudyError, match=message):
        TableEvaluator(table(), (TOP1,), (parse_constraint("latency_ms<=3"),))


def write_estimates(name: str, *, failed: int = 0) -> None:
    """The table with what a perfect estimator says; nothing of its first `failed` networks."""
    said = [[*row, "" if i < failed else -2 + row[4]] for i, row in enumerate(rows())]
    head = [*PARAMETERS, "top1_0", "top1_1", "top1_2", "macs", "naswot"]
    write_rows(name, head, said)


def test_read_table_takes_what_estimators_say() -> None:
    write_estimates("said.csv", failed=1)
    found = read_table(Path("said.csv"), tiny(), estimators=["naswot"])
    assert found.networks == table().networks
    assert found.estimates[network(0).arch_id] == {}
    assert found.estimates[network(8).arch_id] == {"naswot": pytest.approx(-2 + 0.668)}
    with pytest.raises(StudyError, match=r"table.csv: no column 'naswot', which the estimator"):
        read_table(Path("table.csv"), tiny(), estimators=["naswot"])


@pytest.mark.slow
def test_estimates_of_a_table_stop_networks_before_they_are_looked_up() -> None:
    write_estimates("said.csv")
    search = Search("a")
    options = {"evaluator": "table:said.csv", "estimator": "naswot", "sampler": "random"}
    search.spec = StudySpec.model_validate(options | {"objectives": ("top1", "macs")})
    said = read_table(Path("said.csv"), tiny(), estimators=["naswot"])
    search.evaluate = TableEvaluator(said, (TOP1, MACS))
    trials = [t for t in search(len(NETWORKS)) if counts(t)]
    stopped = [t for t in trials if t.state == TrialState.PRUNED]
    assert stopped
    looked_up = [t for t in trials if t.state == TrialState.COMPLETE]
    for trial in stopped:  # rightly: one that costs no more is better
        top1, macs = trial.user_attrs["foretold"]
        assert "top1" not in trial.user_attrs["values"]
        assert any(t.values[0] > top1 and t.values[1] <= macs for t in looked_up)


def test_an_estimator_needs_its_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "--space", "tiny.yaml", "--evaluator", "table:table.csv"]
    message = "table.csv: no column 'naswot', which the estimator needs"
    assert_refused(monkeypatch, capsys, [*arguments, "--estimator", "naswot"], message)


class Search:
    """A search of the table in a storage of its own, as often as it is called."""

    def __init__(self, name: str, sampler: str = "random") -> None:
        self.url = f"sqlite:///{name}.db"
        self.space = tiny()
        self.spec = StudySpec(objectives=("top1", "macs"), sampler=sampler)
        self.watcher = Quiet()
        self.evaluate: Evaluator = TableEvaluator(table(), (TOP1, MACS))
        self.search = search_table

    def __call__(self, n_trials: int) -> list[FrozenTrial]:
        spec = self.spec.model_copy(update={"n_trials": n_trials})
        with open_study(self.url, "s", DIRECTIONS, {}) as study:  # type: ignore[arg-type]
            self.search(
                study,
                spec,
                self.space,
                self.evaluate,
                facts={"seed": 0},
                artifacts=artifact_dir(self.url),
                watcher=self.watcher,
            )
            return study.get_trials(deepcopy=False)

    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name="s", storage=self.url).get_trials(deepcopy=False)


# NSGA-II keeps notes of its own from the 21st trial on.
SEARCHES = [("random", 6), pytest.param("nsga2", 22, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("sampler", "n_trials"), SEARCHES)
def test_search_table_finds_what_run_search_finds(sampler: str, n_trials: int) -> None:
    quick, slow = Search("a", sampler), Search("b", sampler)
    slow.search = run_search
    assert sequence(quick(n_trials)) == sequence(slow(n_trials))
    assert quick.watcher.spent == slow.watcher.spent
    assert quick.watcher.names == slow.watcher.names
    attributes = [
        [{k: v for k, v in t.user_attrs.items() if k not in RUNNING} for t in s.trials()]
        for s in (quick, slow)
    ]
    assert attributes[0] == attributes[1]
    texts = [sorted(p.read_text() for p in artifact_dir(s.url).iterdir()) for s in (quick, slow)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == n_trials


@pytest.mark.parametrize(
    ("sampler", "n_trials"),
    [("random", 7), ("tpe", 13), pytest.param("nsga2", 22, marks=pytest.mark.slow)],
)
def test_a_search_in_two_parts_is_the_same(sampler: str, n_trials: int) -> None:
    whole, parts = Search("a", sampler), Search("b", sampler)
    parts(n_trials // 2)
    assert sequence(whole(n_trials)) == sequence(parts(n_trials))


KILLED = """
import os, signal, sys
from nasattn.search.look_up import TableEvaluator
from tests.test_table_search import MACS, TOP1, Search, table

class Killer(TableEvaluator):
    left = 5
    def __call__(self, *arguments):
        if not Killer.left:
            os.kill(os.getpid(), signal.SIGKILL)
        Killer.left -= 1
        return super().__call__(*arguments)

search = Search("b")
search.evaluate = Killer(table(), (TOP1, MACS))
search(12)
"""


@pytest.mark.slow
def test_kill_9_loses_the_trial_that_ran_and_no_other() -> None:
    whole = Search("a")(12)
    search = Search("b")
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    for done in (5, 10):  # a second kill: five more finished since
        process = subprocess.run([sys.executable, "-c", KILLED], check=False, env=path)
        assert process.returncode == -9
        assert sum(map(counts, search.trials())) == done
        assert all(t.state.is_finished() for t in search.trials())
    assert sequence(search(12)) == sequence(whole)


def test_a_bug_is_shown_once_and_does_not_block_the_study() -> None:
    def broken(arch: Architecture) -> None:
        raise KeyError("a bug")

    search = Search("a")
    looked_up, search.evaluate = search.evaluate, FakeEvaluator(before=broken)
    with pytest.raises(KeyError, match="a bug"):
        search(3)
    assert search.trials()[0].user_attrs["reason"] == "bug: KeyError('a bug')"
    search.evaluate = looked_up
    assert [t.state for t in search(3)] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]


def test_networks_that_somebody_queued_come_first() -> None:
    search = Search("a")
    search(2)
    study = optuna.load_study(study_name="s", storage=search.url)
    width, kernel, kind, _ = NETWORKS[20]
    study.enqueue_trial(dict(zip(PARAMETERS, (width, kernel, kind), strict=False)))
    assert search(4)[2].user_attrs["arch_id"] == network(20).arch_id
    assert sum(map(counts, search.trials())) == 4


# The command

COMMAND = ["search", "--space", "tiny.yaml", "--evaluator", "table:table.csv", "--sampler"]


def test_the_command_searches_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "nasattn.cli.by_training.load_with_progress", None
    )  # no pictures are loaded
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "12", "--seed", "1") == 0
    out = capsys.readouterr().out
    assert "study tiny-table: 12 networks of space tiny.yaml, seed 1, sampler random" in out
    assert "table table.csv: 24 networks, nothing is trained" in out
    assert "top1: run 1 of 3, by the seed" in out
    assert "objectives top1, macs\n" in out
    assert "table.csv" in out[out.index("the Pareto front") :]
    assert max(map(len, out.splitlines())) <= 80
    study = optuna.load_study(study_name="tiny-table", storage="sqlite:///nasattn.db")
    trials = [t for t in study.get_trials() if counts(t)]
    assert len(trials) == 12
    best = max(t.values[0] for t in trials)
    by_id = {network(i).arch_id: row for i, row in enumerate(rows())}
    for trial in trials:
        row = by_id[trial.user_attrs["arch_id"]]
        assert trial.values == [row[5], row[7]]  # run 1
    front = json.loads(Path("runs/tiny-table/front.json").read_text())
    assert front["rows"][0]["values"]["top1"] == best
    assert front["settings"]["table"] == "table.csv"
    assert {"data", "data_hash", "recipe", "device"}.isdisjoint(front["settings"])
    assert "n_val" not in front


@pytest.mark.slow
def test_the_command_goes_on_and_knows_another_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "3") == 0
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "5") == 0
    assert "going on after 3 trials" in capsys.readouterr().out
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "5") == 0
    assert "has 5 trials already" in capsys.readouterr().out
    write_rows("table.csv", [*PARAMETERS, "top1_0", "top1_1", "top1_2", "macs"], rows(first=1))
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "6") == 2
    assert re.search(r"settings differ: table_hash: \w{12} then", capsys.readouterr().err)


def test_a_space_that_is_known_whole_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nasattn.search.driver.MAX_FREE_TRIALS", 40)
    Path("tiny.yaml").write_text(SPACE[: SPACE.index("  stages.0.attention")], encoding="utf-8")
    write_rows("table.csv", [*PARAMETERS[:2], "top1"], [[8, 3, 0.5], [16, 3, 0.6]])
    assert nasattn(monkeypatch, *COMMAND, "random") == 0  # of 200 networks, unless --trials says so
    out = capsys.readouterr().out
    assert "study tiny-table: 200 networks" in out
    assert "so counted, for pictures of 224x224, 1,000 classes: macs" in out
    assert "ended early: nothing new was proposed" in out
    # 4 of the 6 networks are not in the table: three are named, the others summed up
    assert len(re.findall(r"/200 +\w{12} +failed: not in table.csv", out)) == 3
    assert "1 more failed: not in table.csv" in out
    study = optuna.load_study(study_name="tiny-table", storage="sqlite:///nasattn.db")
    assert len({t.user_attrs["arch_id"] for t in study.trials}) == 6


@pytest.mark.slow
def test_progress_is_a_line_for_each_new_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "20") == 0
    out = capsys.readouterr().out
    study = optuna.load_study(study_name="tiny-table", storage="sqlite:///nasattn.db")
    found, best = [t for t in study.get_trials() if counts(t)], -1.0
    expected = []
    for spent, trial in enumerate(found, start=1):
        if trial.values[0] > best:
            best = trial.values[0]
            expected.append((f"{spent}/20", trial.user_attrs["arch_id"]))
    assert re.findall(r"^ *(\d+/20) +(\w{12})", out, flags=re.MULTILINE) == expected
    assert 1 <= len(expected) < 20


def test_baselines_are_starred_where_the_table_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "template: mobilenet_v2\nparameters: {stages.*.kernel: [3, 5]}\n"
    Path("tiny.yaml").write_text(space + "baselines: [mobilenet_v2]\n")
    write_rows("table.csv", ["stages.*.kernel", "top1", "macs"], [[3, 0.7, 1e6], [5, 0.8, 2e6]])
    assert nasattn(monkeypatch, *COMMAND, "random", "--trials", "1") == 0
    out = capsys.readouterr().out
    assert re.search(r"1/1 ★ mobilenet_v2 +70.0 +1.00\n", out)
    assert "★ a paper's network" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluator", "trian"], "unknown evaluator 'trian'; did you mean 'train'"),
        (["--evaluator", "table:"], "unknown evaluator 'table:'"),
        (["--evaluator", "table:no.csv"], "no.csv: there is no such file"),
        (["--evaluator", "table:a\0.csv"], "there is no such file"),
        (["--evaluator", f"table:{'x' * 300}.csv"], "cannot be read (File name too long)"),
        (["--evaluator", "table:."], "must be a .csv or .parquet file"),
        (["--evaluator", "table:tiny.yaml"], "tiny.yaml: must be a .csv or .parquet file"),
        (["--evaluator", "table:table.csv", "--objective", "latency_ms"], "no column 'latency_ms'"),
        (
            ["--evaluator", "table:table.csv", "--constraint", "latency_ms<=1"],
            "no column 'latency_ms'; known: top1, macs, params",
        ),
        (
            ["--evaluator", "table:table.csv", "--data", "digits"],
            "data: means nothing with a table",
        ),
        (["--evaluator", "table:table.csv", "--epochs", "3"], "recipe: means nothing with a table"),
        (["--evaluator", "table:table.csv", "--device", "cpu"], "device: means nothing with"),
    ],
)
def test_the_command_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(monkeypatch, capsys, ["search", "--space", "tiny.yaml", *arguments], message)


def test_settings_of_a_training_are_what_they_were() -> None:
    """A study of before there were tables goes on."""
    training = StudySpec().settings(tiny(), "digits", "hash")
    assert training.keys() == {
        *("space", "data", "data_hash", "resolution", "recipe"),
        *("sampler", "early_stop", "seed", "objectives", "constraints", "device"),
    }


@pytest.mark.skipif(not PUBLIC.exists(), reason="needs ../shared/data/nas")
@pytest.mark.slow
def test_nas_bench_macro_is_a_table() -> None:
    write_table(PUBLIC, Path("macro.csv"))
    space = load_space("nb_macro")
    found = read_table(Path("macro.csv"), space)
    assert len(found.networks) == 3**8
    public = pd.read_parquet(PUBLIC, engine="pyarrow").set_index("arch").loc["22212202"]
    kinds = {"0": 1, "1": 3, "2": 6}
    params = {f"stages.{i}.expansion": kinds[digit] for i, digit in enumerate("22212202")}
    for seed in range(3):
        values = TableEvaluator(found, (TOP1, MACS), seed=seed)(space.decode(params)).values
        assert values["top1"] == pytest.approx(public[f"test_acc_run{seed}"] / 100)
        assert (values["macs"], values["params"]) == (public["flops"], public["params"])

"""`nasattn bench estimators`: the truth, what is asked of it, and that nothing is lost."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.cost import count_cost
from nasattn.errors import StudyError
from nasattn.estimate.bench import (
    OWN_SEED,
    BenchSpec,
    Drawn,
    draw_networks,
    estimate_tasks,
    run_tasks,
    truth_of,
    truth_tasks,
    whole_seeds,
)
from nasattn.estimate.estimator import Estimate
from nasattn.estimate.ledger import Ledger, Task
from nasattn.estimate.table import ESTIMATORS, estimate
from nasattn.evaluate import Setting
from nasattn.model import build_model
from nasattn.objectives import get_objective
from nasattn.search.engines.engine import INLINE, Engine
from nasattn.search.engines.local import LocalEngine
from nasattn.search.table import read_table
from nasattn.space import SearchSpace, load_space
from nasattn.testing import tiny_data
from nasattn.train.loop import Epoch
from nasattn.train.recipe import RECIPES
from nasattn.turns import Turns
from tests.command import assert_refused, nasattn, start

LADDER = {
    "template": {
        "stem": {"width": 8},
        "stages": [
            {"depth": 1, "width": 8},
            {"depth": 1, "width": 8, "stride": 2, "attention": {"kind": "se"}},
        ],
    },
    "parameters": {
        "stages.0.depth": {"type": "int", "low": 1, "high": 3},
        "stages.1.width": {"type": "int", "low": 8, "high": 24, "step": 8},
        "stages.1.attention.kind": ["none", "se", "eca"],
    },
}
SPACE = SearchSpace.model_validate({"name": "ladder", **LADDER})
SETTING = Setting(
    tiny_data(resolution=8),
    RECIPES["quick"].model_copy(update={"epochs": 2, "batch_size": 8}),
    (get_objective("top1"),),
)


class Quiet:
    """A Watcher that remembers."""

    def __init__(self) -> None:
        self.done: list[Task] = []
        self.epochs: list[Epoch] = []

    def started(self, task: Task) -> None: ...

    def epoch(self, task: Task, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def finished(self, task: Task, found: Estimate) -> None:
        self.done.append(task)


def test_draw_networks_begins_with_the_baselines() -> None:
    space = load_space("mobile")
    networks = draw_networks(space, 6, 0, 16)
    assert [one.name for one in networks[:3]] == list(space.baselines)
    lam = get_baseline("lam").architecture
    assert networks[0].arch == lam.at_resolution(16)
    for one in networks[3:]:
        assert one.name == one.arch.arch_id
        assert space.decode(one.params).at_resolution(16) == one.arch
    assert len({one.arch.arch_id for one in networks}) == 6
    assert draw_networks(space, 4, 0, 16) == networks[:4]
    assert draw_networks(space, 4, 1, 16)[3] != networks[3]


def test_draw_networks_is_the_spaces_own_sample() -> None:
    first = SPACE.decode(SPACE.sample(Random(5)))
    assert draw_networks(SPACE, 1, 5, 8)[0].arch == first.at_resolution(8)


def test_draw_networks_says_how_many_there_are() -> None:
    assert len(draw_networks(SPACE, 27, 0, 8)) == 27  # 3 depths, 3 widths, 3 kinds
    with pytest.raises(StudyError, match="space 'ladder' has 27 that differ at 8x8, not 28"):
        draw_networks(SPACE, 28, 0, 8)


def test_tasks_have_a_seed_for_all_networks_before_the_next() -> None:
    networks = draw_networks(SPACE, 2, 0, 8)
    a, b = (one.arch.arch_id for one in networks)
    assert truth_tasks(networks, 2) == [
        Task("full", 0, a),
        Task("full", 0, b),
        Task("full", 1, a),
        Task("full", 1, b),
    ]
    assert estimate_tasks(networks, ["macs"]) == [
        Task("macs", OWN_SEED, a),
        Task("macs", OWN_SEED, b),
    ]


def test_spec_asks_for_the_parts_and_the_controls() -> None:
    spec = BenchSpec(estimators=("naswot+params", "params"))
    assert spec.rows() == ["random", "macs", "naswot+params", "params"]
    assert spec.parts() == ["random", "macs", "naswot", "params"]


def test_run_tasks_makes_what_is_missing(tmp_path: Path) -> None:
    networks = draw_networks(SPACE, 2, 0, 8)
    tasks = truth_tasks(networks, 2)
    ledger, watcher = Ledger(tmp_path / "rows"), Quiet()
    run_tasks(tasks[:3], networks, ledger, SETTING, watcher)
    assert watcher.done == tasks[:3]
    assert whole_seeds(networks, ledger) == 1
    ledger = Ledger(tmp_path / "rows")
    watcher = Quiet()
    run_tasks(tasks, networks, ledger, SETTING, watcher)
    assert watcher.done == tasks[3:]
    assert [epoch.number for epoch in watcher.epochs] == [1, 2]
    for one in networks:
        alone = estimate("full", one.arch, SETTING).value
        assert ledger.rows[Task("full", 0, one.arch.arch_id)].value == alone
    truth = truth_of(networks, ledger, 2)
    assert list(truth) == [one.arch.arch_id for one in networks]
    assert all(len(values) == 2 for values in truth.values())


def test_run_tasks_finds_the_same_in_processes(tmp_path: Path) -> None:
    networks = draw_networks(SPACE, 3, 0, 8)
    tasks = truth_tasks(networks, 1) + estimate_tasks(networks, ["naswot", "loss_at:1"])
    found = []
    for engine in (INLINE, LocalEngine(2, start_method="fork")):
        ledger = Ledger(tmp_path / engine.name)
        run_tasks(tasks, networks, ledger, SETTING, Quiet(), engine)
        found.append({task: row.value for task, row in ledger.rows.items()})
    assert found[0] == found[1]


@pytest.mark.parametrize("engine", [INLINE, LocalEngine(2, start_method="fork")])
def test_a_bug_is_shown_never_kept_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    networks = draw_networks(SPACE, 3, 0, 8)
    whole = estimate

    def estimate_or_fail(name: str, arch: Architecture, *rest: Any) -> Estimate:
        if arch == networks[1].arch:
            raise KeyError("a bug")
        return whole(name, arch, *rest)

    tasks, ledger = estimate_tasks(networks, ["macs"]), Ledger(tmp_path / "rows")
    monkeypatch.setattr("nasattn.estimate.bench.estimate", estimate_or_fail)
    (trace,) = run_tasks(tasks, networks, ledger, SETTING, Quiet(), engine)
    assert "Traceback" in trace
    assert "KeyError: 'a bug'" in trace
    assert Ledger(tmp_path / "rows").rows.keys() == {tasks[0], tasks[2]}
    monkeypatch.undo()
    assert run_tasks(tasks, networks, ledger, SETTING, Quiet(), engine) == []
    assert all(ledger.rows[task].value is not None for task in tasks)


@pytest.mark.slow
def test_a_bench_with_a_bug_shows_its_table(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(subject: Any) -> float:
        raise KeyError("a bug")

    row = replace(ESTIMATORS["naswot"], measure=fail)
    monkeypatch.setitem(ESTIMATORS, "naswot", row)
    assert nasattn(monkeypatch, *USUAL, *ASKED) == 1
    out = capsys.readouterr().out
    assert out.count("Traceback") == 1
    assert "6 estimates met a bug, at first:" in out
    assert "naswot failed for 6 networks, ranked last" in out


def test_a_bench_whose_machine_cannot_be_locked_says_so(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (there / "nowhere").write_text("")
    monkeypatch.setattr(
        "nasattn.cli.bench_estimators.machine_turns",
        lambda console, cache_dir: Turns(there / "nowhere" / "machine.lock"),
    )
    assert nasattn(monkeypatch, *USUAL, *ASKED) == 2
    captured = capsys.readouterr()
    assert "machine.lock: cannot be locked" in captured.out
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.slow
def test_a_bench_knows_plugins_and_its_machine(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = {"my_attn": "0" * 12}
    monkeypatch.setattr("nasattn.estimate.bench.plugin_digests", lambda text: digests)
    assert nasattn(monkeypatch, *USUAL, "--estimator", "params") == 0
    noted = there / "b" / "bench.json"
    facts = json.loads(noted.read_text())
    facts["machine"]["processor"] = "an abacus"
    noted.write_text(json.dumps(facts))
    capsys.readouterr()
    assert nasattn(monkeypatch, *USUAL, "--estimator", "params") == 0
    assert "note: this bench began with processor an abacus" in capsys.readouterr().out
    digests["my_attn"] = "1" * 12
    assert nasattn(monkeypatch, *USUAL, "--estimator", "params") == 2
    assert "holds another bench (plugins.my_attn: 000000000000 then" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_prepares_once_for_all_networks(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--estimator", "supernet,inherit:1steps,supernet+inherit:1steps")
    assert nasattn(monkeypatch, *USUAL, *asked, "--json") == 0
    captured = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(captured.out)["rows"]}
    ledger = Ledger(there / "b" / "estimates.jsonl")
    shared = ledger.rows[Task("supernet", OWN_SEED, load_space("ladder.yaml").space_id)]
    assert len(shared.curve) == 2  # the whole recipe
    for name in ("supernet", "inherit:1steps"):
        assert f"{name}:" in captured.err
        every = (found for task, found in ledger.rows.items() if task.estimator == name)
        own = [found.cpu_seconds for found in every if found != shared]
        assert len(own) == 6
        assert rows[name]["shared_cpu_seconds"] == shared.cpu_seconds > 0
        assert rows[name]["cpu_seconds"] == pytest.approx((sum(own) + shared.cpu_seconds) / 6)
        assert rows[name]["n_failed"] == 0
    both, each = rows["supernet+inherit:1steps"], (rows["supernet"], rows["inherit:1steps"])
    assert both["shared_cpu_seconds"] == shared.cpu_seconds  # which was trained once
    together = sum(row["cpu_seconds"] for row in each) - shared.cpu_seconds / 6
    assert both["cpu_seconds"] == pytest.approx(together)
    assert "to prepare" in captured.err
    assert "supernet: in its CPU-s is 1/6 of the " in captured.err
    assert len([*(there / "b").glob("supernet-*.safetensors")]) == 1


def test_truth_leaves_out_what_failed(tmp_path: Path) -> None:
    networks = draw_networks(SPACE, 2, 0, 8)
    ledger = Ledger(tmp_path / "rows")
    values: list[float | None] = [0.5, None, 0.6, 0.7]
    for task, value in zip(truth_tasks(networks, 2), values, strict=True):
        ledger.add(task, Estimate(value, 1.0))
    assert whole_seeds(networks, ledger) == 2
    assert truth_of(networks, ledger, 2) == {networks[0].arch.arch_id: [0.5, 0.6]}


USUAL = (
    *("bench", "estimators", "--space", "ladder.yaml", "--data", "digits", "--resolution", "8"),
    *("--networks", "6", "--seeds", "2", "--train-size", "64", "--epochs", "2", "--out", "b"),
)
ASKED = ("--estimator", "params,naswot,loss_at:1steps+macs")


@pytest.fixture
def there(here: Path) -> Path:
    """A working folder with a small space."""
    (here / "ladder.yaml").write_text(yaml.safe_dump(LADDER))
    return here


def check_truth(folder: Path, seeds: int) -> None:
    """The table is what a search reads, and says what the trainings came to."""
    space = load_space("ladder.yaml")
    table = read_table(folder / "truth.csv", space, 8)
    assert len(table.networks) == 6
    assert table.columns["top1"] == tuple(f"top1_{i}" for i in range(seeds))
    ledger = Ledger(folder / "trainings.jsonl")
    for one in draw_networks(space, 6, 0, 8):
        for seed in range(seeds):
            row = ledger.rows[Task("full", seed, one.arch.arch_id)]
            assert table.find("top1", one.arch.arch_id, seed) == row.value
        cost = count_cost(build_model(one.arch, 10), 8)
        assert table.find("macs", one.arch.arch_id, 0) == cost.macs
        assert table.find("params", one.arch.arch_id, 0) == cost.params


def test_bench_ranks_estimators(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *USUAL, *ASKED) == 0
    said = capsys.readouterr().out
    for words in ("noise ceiling", "full, once more", "loss_at:1steps+macs", "random", "naswot"):
        assert words in said
    head, _, tail = said.partition("search in it:")
    assert max(map(len, head.splitlines())) <= 80
    assert "…" not in said
    check_truth(there / "b", 2)
    assert not (there / "b" / "checkpoints").exists()
    before = {p.name: p.read_bytes() for p in (there / "b").iterdir()}

    assert nasattn(monkeypatch, *USUAL, *ASKED, "--json") == 0  # all is there
    captured = capsys.readouterr()
    assert {p.name: p.read_bytes() for p in (there / "b").iterdir()} == before
    found = json.loads(captured.out)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) != []
    assert set(rows) == {"random", "macs", "params", "naswot", "loss_at:1steps+macs"}
    taus = [row["quality"]["tau"] for row in found["rows"]]
    assert taus == sorted(taus, reverse=True)
    assert (found["n_networks"], found["n_left_out"], found["seeds"]) == (6, 0, 2)
    assert rows["macs"]["quality"]["partial"] is None
    parts = ("loss_at:1steps", "macs")
    ledger = Ledger(there / "b" / "estimates.jsonl")
    every = [(task.estimator, found.cpu_seconds) for task, found in ledger.rows.items()]
    costs = [sum(seconds for asked, seconds in every if asked == name) / 6 for name in parts]
    assert rows["loss_at:1steps+macs"]["cpu_seconds"] == pytest.approx(sum(costs))

    assert nasattn(monkeypatch, *shlex_after(tail)) == 0  # the command that it names
    assert "6 networks, nothing is trained" in capsys.readouterr().out


def shlex_after(tail: str) -> list[str]:
    return [*tail.split("\n")[0].split()[1:], "--trials", "5"]


@pytest.mark.slow
def test_bench_goes_on_with_more(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*USUAL, "--estimator", "params"]
    assert nasattn(monkeypatch, *few, "--seeds", "1") == 0
    said = capsys.readouterr().out
    assert "noise ceiling" not in said
    check_truth(there / "b", 1)
    first = (there / "b" / "trainings.jsonl").read_text()
    assert nasattn(monkeypatch, *few, "--n-jobs", "2") == 0
    assert "going on after 6 of 12" in capsys.readouterr().out
    assert (there / "b" / "trainings.jsonl").read_text().startswith(first)
    check_truth(there / "b", 2)
    assert nasattn(monkeypatch, *few, "--epochs", "3") == 2
    said = capsys.readouterr().err
    assert said == (
        "nasattn: b: holds another bench (recipe.epochs: 2 then, 3 now); -o takes another folder\n"
    )


def test_bench_without_networks_that_train_says_so(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "nasattn.estimate.bench.estimate",
        lambda *given: Estimate(None, 0.0, reason="out of memory"),
    )
    assert nasattn(monkeypatch, *USUAL, *ASKED) == 2
    captured = capsys.readouterr()
    assert "full failed: out of memory" in captured.out
    assert captured.err == "nasattn: 0 networks could be trained, 4 or more must\n"
    assert not (there / "b" / "truth.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "3"], "options: networks: must be greater than or equal to 4, is 3"),
        (["--networks", "28"], "space 'ladder' has 27 that differ at 8x8, not 28"),
        (["--networks", "many"], "'many' is not a whole number"),
        (["--seeds", "0"], "options: seeds: must be greater than or equal to 1, is 0"),
        (["--space", "moblie"], "unknown search space 'moblie'"),
        (["--recipe", "quik"], "unknown recipe 'quik'; did you mean 'quick'"),
        (["--estimator", "params,nazwot"], "unknown estimator 'nazwot'; did you mean 'naswot'"),
        (["--estimator", "macs+macs"], "names one of its parts twice"),
        (["--estimator", ""], "unknown estimator ''"),
        (["--estimator", "loss_at:3steps"], "estimator for 3steps: must be 1 to 2 at"),
        (["--n-jobs", "0"], "options: n_jobs: must be greater than or equal to 1, is 0"),
        (["--device", "tpu"], "device 'tpu': cannot be used here"),
        (["--out", "ladder.yaml"], "ladder.yaml is not a folder"),
        (["--train-size", "5"], "train_size: must be at least 10"),
    ],
)
def test_bench_refuses_what_it_cannot_do(
    there: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(monkeypatch, capsys, [*USUAL, *arguments], message)


@pytest.mark.parametrize("name", ["bench.json", "trainings.jsonl"])
def test_bench_refuses_files_of_others(
    there: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    (there / "b").mkdir()
    (there / "b" / name).write_text("[]\n")
    assert nasattn(monkeypatch, *USUAL, *ASKED) == 2
    assert f"b/{name}" in capsys.readouterr().err


def rows_without_times(folder: Path) -> dict[Task, Any]:
    rows = Ledger(folder / "trainings.jsonl").rows
    return {task: (r.value, [(e.loss, e.top1) for e in r.curve]) for task, r in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", ["2"])
def test_a_killed_bench_goes_on_where_it_stopped(
    there: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    n_jobs: str,
) -> None:
    longer = [*USUAL, "--epochs", "6", "--train-size", "320", "--estimator", "params,epochs:1"]
    assert nasattn(monkeypatch, *longer, "--out", "whole") == 0
    capsys.readouterr()
    killed = [*longer, "--n-jobs", n_jobs]
    lines = 0
    for _ in range(3):  # each time it has come further
        process = start(*killed)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            rows = Path("b/trainings.jsonl")
            begun = any(Path("b/checkpoints").glob("*.pt"))
            if rows.exists() and rows.read_bytes().count(b"\n") > lines and begun:
                break
            time.sleep(0.02)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lines = Path("b/trainings.jsonl").read_bytes().count(b"\n")
    assert 3 <= lines < 12
    assert nasattn(monkeypatch, *killed) == 0
    assert "going on after" in capsys.readouterr().out
    assert rows_without_times(there / "b") == rows_without_times(there / "whole")
    table = (there / "b" / "truth.csv").read_text()
    assert table == (there / "whole" / "truth.csv").read_text()
    values = [
        {task: row.value for task, row in Ledger(there / name / "estimates.jsonl").rows.items()}
        for name in ("b", "whole")
    ]
    assert values[0] == values[1]


def test_drawn_baselines_keep_their_names() -> None:
    named = SearchSpace.model_validate(
        {"name": "lams", "template": "lam", "parameters": {"head.gem_p": [1, 2]}}
        | {"parameters": {"head.dropout": [0.0, 0.2]}, "baselines": ["lam"]}
    )
    (first, second) = draw_networks(named, 2, 0, 16)
    assert isinstance(first, Drawn)
    assert first.name == "lam"
    assert second.params == {"head.dropout": 0.2}

"""`nasattn final` as a user types it: training, one opening of the test split, cards, resuming."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from nasattn.arch import parse_architecture
from nasattn.cli.final import CARD, FIRST_SEED, RESULT
from nasattn.data.openings import read_openings
from nasattn.errors import StudyError, UnknownNameError
from nasattn.report import Front, FrontRow
from nasattn.report.finals import best_finalists, named_finalists, summary
from nasattn.tensor_file import read_tensors
from nasattn.train.metrics import Share
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn, start

SPACE = """
template:
  stem: {width: 4}
  stages: [{depth: 1, width: 8}]
parameters:
  stages.0.width: [8, 12, 16]
  head.pooling: [avg, gem]
"""
SEARCH = [
    *("search", "--space", "space.yaml", "--name", "s", "--resolution", "8", "--trials", "3"),
    *("--train-size", "64", "--epochs", "1", "--seeds", "0"),
    *("--objective", "top1", "--objective", "macs"),
]
FINAL = ["final", "s", "--seeds", "2", "--epochs", "2"]
OUT = Path("runs/s/final")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study, and the cache of its pictures."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NASATTN_CACHE", str(folder / "cache"))
        assert nasattn(patch, *SEARCH) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(searched / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    Path("nasattn.db").write_bytes((searched / "nasattn.db").read_bytes())


@pytest.fixture
def book(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for whoever counts openings."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NASATTN_CACHE", str(folder))
    return folder


def result() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OUT / RESULT).read_text(encoding="utf-8"))
    return found


def test_final_trains_all_and_opens_the_test_split_once(
    book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *FINAL, "--top", "2") == 0
    out = capsys.readouterr().out
    found = result()
    names = [one["network"] for one in found["networks"]]
    assert len(names) in (1, 2)  # as many as are on the front
    assert f"training {2 * len(names)} of {2 * len(names)}" in out
    shown = [line for line in out.splitlines() if not line.startswith("look at it: ")]
    assert max(map(len, shown)) <= 80
    assert "opened 1 time so far" in " ".join(out.split())
    assert "look at it: nasattn explain " in out
    openings = read_openings(book, found["settings"]["data"])
    assert openings
    assert [o.command for o in openings] == [" ".join(["nasattn", *FINAL, "--top", "2"])]
    for one in found["networks"]:
        place = OUT / one["network"]
        for run in one["seeds"]:
            facts = read_tensors(OUT / run["weights"], Facts).facts
            assert facts.seed == run["seed"]
            assert facts.recipe.epochs == 2
            assert facts.recipe.train_size is None
            assert facts.arch
            assert facts.arch.arch_id == one["arch_id"]
            assert run["n"] == 359
        assert [run["seed"] for run in one["seeds"]] == [FIRST_SEED, FIRST_SEED + 1]
        assert one["top1"]["mean"] == pytest.approx(
            np.mean([run["right"] / 359 for run in one["seeds"]])
        )
        card = (place / CARD).read_text(encoding="utf-8")
        for words in (one["arch_id"], "stage 0", "MIT", "359", found["settings"]["data"], "torch"):
            assert words in card
        assert (place / "network.svg").read_text(encoding="utf-8").startswith("<")
    # A second time nothing is trained, and the split stays closed.
    monkeypatch.setattr("nasattn.cli.final.open_test", lambda *_, **__: pytest.fail("opened"))
    assert nasattn(monkeypatch, *FINAL, "--top", "2") == 0
    again = capsys.readouterr().out
    assert "the test split stays closed" in again
    assert again.partition("final\n")[2] == out.partition("final\n")[2]
    assert read_openings(book, found["settings"]["data"]) == openings
    # Other settings are another final.
    assert nasattn(monkeypatch, *FINAL, "--top", "2", "--teacher", run_of(found)) == 2
    assert "is of another final (teacher: " in capsys.readouterr().err


def run_of(found: dict[str, Any]) -> str:
    return str(OUT / found["networks"][0]["seeds"][0]["weights"])


def test_final_counts_what_evaluate_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nasattn(monkeypatch, "final", "s", "--networks", "1", "--seeds", "1") == 0
    (one,) = result()["networks"]
    assert one["trial"] == 1
    assert one["top1"]["seeds"] is None
    (run,) = one["seeds"]
    weights = str(OUT / run["weights"])
    assert nasattn(monkeypatch, "evaluate", weights, "--split", "test", "--json", "e.json") == 0
    found = json.loads(Path("e.json").read_text(encoding="utf-8"))
    assert (found["top1"]["right"], found["top5"]["right"]) == (run["right"], run["right_top5"])


def test_final_says_where_the_front_has_fewer_networks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "final", "s", "--top", "50", "--seeds", "1", "--epochs", "1") == 0
    n = len(result()["networks"])
    assert f"the front has {n} network" in (out := capsys.readouterr().out)
    assert ", 50 were asked for" in out


def test_final_with_a_teacher_says_who(monkeypatch: pytest.MonkeyPatch) -> None:
    base = ["final", "s", "--networks", "0", "--seeds", "1"]
    assert nasattn(monkeypatch, *base) == 0
    teacher = str(OUT / result()["networks"][0]["seeds"][0]["weights"])
    taught = ["--teacher", teacher, "--temperature", "2", "-o", "taught"]
    assert nasattn(monkeypatch, *base, *taught) == 0
    found = json.loads((Path("taught") / RESULT).read_text(encoding="utf-8"))
    assert found["settings"]["teacher"].endswith(", temperature 2, weight 0.9")
    (card,) = Path("taught").glob(f"*/{CARD}")
    assert "those of the teacher" in card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--networks", "0", "--top", "2"], "--networks and --top: only one of them"),
        (["--networks", "7"], "study 's': unknown network '7'"),
        (["--networks", "0,0"], "names a network twice"),
        (["--top", "0"], "--top: must be 1 or more, is 0"),
        (["--seeds", "0"], "--seeds: must be 1 to 100, is 0"),
        (["--recipe", "lamb"], "did you mean 'lam'?"),
        (["--epochs", "0"], "epochs"),
        (["--data", "absent"], "absent"),
        (["--temperature", "3"], "--temperature: means nothing without --teacher"),
    ],
)
def test_final_refuses_in_one_line(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(monkeypatch, capsys, ["final", "s", *options], message)


def test_final_refuses_a_damaged_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    OUT.mkdir(parents=True)
    (OUT / RESULT).write_text("{", encoding="utf-8")
    assert nasattn(monkeypatch, *FINAL) == 2
    assert "is damaged; -o takes another folder" in capsys.readouterr().err


ARCHS = [
    parse_architecture({"stem": {"width": 8 * i}, "stages": [{"depth": 1, "width": 8}]})
    for i in range(1, 5)
]


def front(values: list[tuple[float, float]]) -> Front:
    rows = tuple(
        FrontRow(
            network=f"n{i}",
            is_baseline=False,
            on_front=True,
            trial=i,
            state="complete",
            reason="",
            values={"top1": top1, "macs": macs},
            arch_id=f"n{i}",
            architecture=ARCHS[i],
            facts={},
        )
        for i, (top1, macs) in enumerate(values)
    )
    return Front("s", ("top1", "macs"), rows, {}, {})


def test_best_finalists_are_the_first_or_those_that_add_most() -> None:
    # Two that are almost one: either would do, but not both.
    known = front([(0.9, 100), (0.899, 99.9), (0.7, 50), (0.3, 1)])
    assert [one.name for one in best_finalists(known, 1)] == ["n0"]
    assert [one.name for one in best_finalists(known, 3)][1:] == ["n2", "n3"]
    known = front([(0.9, 100), (0.71, 99), (0.7, 50), (0.3, 1)])
    assert [one.name for one in best_finalists(known, 3)] == ["n0", "n2", "n3"]
    assert [one.name for one in best_finalists(known, 9)] == ["n0", "n1", "n2", "n3"]
    with pytest.raises(StudyError, match="no network on its front"):
        best_finalists(Front("s", ("top1", "macs"), (), {}, {}), 1)


def test_named_finalists_go_by_trial_and_arch_id() -> None:
    study = optuna.load_study(study_name="s", storage="sqlite:///nasattn.db")
    arch_id = study.trials[0].user_attrs["arch_id"]
    assert named_finalists(study, [arch_id]) == named_finalists(study, ["0"])
    with pytest.raises(UnknownNameError, match="unknown network 'x'"):
        named_finalists(study, ["x"])
    with pytest.raises(StudyError, match="twice"):
        named_finalists(study, ["0", arch_id])


def test_summary_is_students_interval_of_the_mean() -> None:
    found = summary([Share(right, 100) for right in (80, 82, 87)])
    mean, sd = 0.83, np.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2)
    half = 4.302653 * sd / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert found["mean"] == pytest.approx(mean)
    assert found["seeds"] == pytest.approx((mean - half, mean + half), rel=1e-6)
    assert found["pictures"] == Share(83, 100).interval
    assert summary([Share(99, 100), Share(90, 100)])["seeds"][1] == 1.0
    assert summary([Share(9, 10), Share(9, 10)])["seeds"] is None


@pytest.mark.slow
def test_final_that_was_killed_goes_on_to_the_same_weights(
    book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    final = ["final", "s", "--networks", "0", "--seeds", "2", "--epochs", "12"]
    process = start(*final)
    kill_after_first(process)
    assert not (OUT / RESULT).exists()
    assert len(list(OUT.rglob("weights.safetensors"))) == 1
    assert list(OUT.rglob("checkpoint.pt"))
    assert not list(book.glob("test-openings.jsonl"))
    assert nasattn(monkeypatch, *final) == 0
    out = capsys.readouterr().out
    assert "trained already" in out
    assert "going on after epoch" in out
    assert nasattn(monkeypatch, *final, "-o", "whole") == 0
    whole = {path.parent.name: path for path in Path("whole").rglob("weights.safetensors")}
    assert len(whole) == 2
    for path in OUT.rglob("weights.safetensors"):
        a = read_tensors(path, Facts).tensors
        b = read_tensors(whole[path.parent.name], Facts).tensors
        assert all(torch.equal(a[name], b[name]) for name in b)


def kill_after_first(process: "subprocess.Popen[str]") -> None:
    """kill -9 once the second training has a whole epoch behind it."""
    for _ in range(2400):
        if process.poll() is not None:
            pytest.fail(f"it ended by itself: {process.communicate()}")
        if list(OUT.rglob("weights.safetensors")) and list(OUT.rglob("seed-1001/checkpoint.pt")):
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail("it did not get there")

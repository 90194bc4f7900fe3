import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image
from rich.console import Console

from nasattn.baselines import get_baseline
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.model import build_model
from nasattn.search.trials import counts
from nasattn.words import printable
from tests.command import assert_refused, nasattn, start, stop_in_mid_trial

TINY_SPACE = """
template:
  stem: {width: 8}
  stages:
    - {depth: 1, width: 8}
    - {depth: 1, width: 16, stride: 2}
parameters:
  stages.attention.kind: [none, eca, lam]
  stages.*.kernel: [3, 5]
"""
# Two networks on a handful of digits: seconds.
TINY = [
    "search",
    "--space",
    "tiny.yaml",
    "--resolution",
    "8",
    "--train-size",
    "64",
    "--epochs",
    "1",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, with a cache of its own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("NASATTN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    Path("tiny.yaml").write_text(TINY_SPACE, encoding="utf-8")


def write_folder(path: Path, *classes: str) -> None:
    for i, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for j in range(10):
            Image.new("RGB", (12, 12), (i * 90, j * 20, 99)).save(path / name / f"{j}.png")


def test_a_search_ends_in_a_front_and_the_next_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TINY, "--trials", "3") == 0
    out = capsys.readouterr().out
    assert "study tiny-digits: 3 networks of space tiny.yaml, seed 0, sampler cost_aware" in out
    assert "data digits: 64 train, " in out
    assert [f"{i}/3" in out for i in (1, 2, 3)] == [True] * 3
    assert "tiny-digits: the Pareto front" in out
    assert "the best 3 networks again, over 3 fresh seeds (9 trainings to do)" in out
    assert "mean over 3 fresh seeds on 145 val-select pictures" in out
    assert "P(front)" in out
    assert out.rstrip().endswith("look at it: nasattn dashboard")
    rows = list(csv.DictReader(Path("runs/tiny-digits/front.csv").read_text().splitlines()))
    front = json.loads(Path("runs/tiny-digits/front.json").read_text())
    assert [row["network"] for row in rows] == [row["network"] for row in front["rows"]]
    assert 0 <= float(rows[0]["top1"]) <= 1
    assert {row["n_seeds"] for row in rows} == {"3"}
    assert all(0 <= float(row["p_front"]) <= 1 for row in rows)
    table = out[out.index("the Pareto front") : out.index("written:")]
    assert max(map(len, table.splitlines())) <= 80
    # A network of the front is shown for the pictures that it was searched for.
    network = f"runs/tiny-digits/architectures/{rows[0]['network']}.json"
    assert nasattn(monkeypatch, "show", network) == 0
    assert "at 8x8, 10 classes" in capsys.readouterr().out
    # What is done is not done again.
    assert nasattn(monkeypatch, *TINY, "--trials", "3") == 0
    out = capsys.readouterr().out
    assert "has 3 trials already; --trials 15 for more" in out
    assert "again, over" not in out


@pytest.mark.slow
def test_without_fresh_seeds_the_front_says_what_it_rests_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TINY, "--trials", "2", "--seeds", "0") == 0
    out = capsys.readouterr().out
    assert "nearer ranks are ties" in out
    assert "P(front)" not in out
    # Asked for later, they come in; of two finalists the best alone.
    assert nasattn(monkeypatch, *TINY, "--trials", "2", "--seeds", "1", "--finalists", "1") == 0
    out = capsys.readouterr().out
    assert "the best network again, over 1 fresh seed (1 training to do)" in out


def test_a_search_asks_its_estimator_before_each_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trials", "2", "--seeds", "0", "--objective", "top1", "--objective", "macs"]
    asked = ["--estimator", "loss_at:1steps+naswot+macs"]
    assert nasattn(monkeypatch, *TINY, *options, *asked) == 0
    assert "before each training loss_at:1steps+naswot+macs" in capsys.readouterr().out
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    for trial in study.get_trials():
        assert trial.user_attrs["estimates"].keys() == {"loss_at:1steps", "naswot", "macs"}
        assert trial.user_attrs["estimates"]["macs"] == trial.user_attrs["values"]["macs"]


def test_a_search_by_time_says_its_plan_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "--objective", "top1", "--objective", "macs", "--budget", "2s"]
    assert nasattn(monkeypatch, *options) == 0
    out = capsys.readouterr().out
    assert re.search(r"study tiny-digits: ~\d+ networks of space tiny.yaml", out)
    assert re.search(r"\nbudget 2s, \d+ s used: about \d+ s of search, ", out)
    assert "a usual network takes" in out
    assert re.search(r"\n +1 +[0-9a-f]{12} ", out)  # the first trial, of nobody knows how many
    assert "tiny-digits: the Pareto front" in out
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    assert study.user_attrs["budget_used"] > 0
    study.set_user_attr("budget_used", 50.0)
    assert nasattn(monkeypatch, *options) == 0
    out = capsys.readouterr().out
    assert "going on after" in out
    assert re.search(r"\nbudget 2s, 5\d s used: ", out)


def test_another_search_by_time_is_found_before_anything_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "--objective", "top1", "--objective", "macs", "--budget", "1s"]
    assert nasattn(monkeypatch, *options) == 0
    capsys.readouterr()
    monkeypatch.setattr("nasattn.cli.by_training.probe", None)
    message = "settings differ: recipe.epochs: 1 then, 2 now"
    assert_refused(monkeypatch, capsys, [*options, "--epochs", "2"], message)


def test_control_gives_random_search_the_same_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, "--objective", "top1", "--objective", "macs", "--seeds", "0", "--control"]
    assert nasattn(monkeypatch, *arguments, "--trials", "3") == 0
    out = capsys.readouterr().out
    assert "random search of the same budget: study tiny-digits-control" in out
    assert "times that of random search, 3 trials each;" in out
    control = json.loads(Path("runs/tiny-digits/front.json").read_text())["control"]
    assert control["n_random"] == 3
    assert 0 < control["random"] < 1.22


@pytest.mark.slow
def test_another_search_in_the_controls_place_is_found_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trials", "1", "--seeds", "0"]
    assert nasattn(monkeypatch, *TINY, *short, "--name", "a-control", "--objective", "macs") == 0
    capsys.readouterr()
    assert nasattn(monkeypatch, *TINY, *short, "--name", "a", "--control") == 2
    captured = capsys.readouterr()
    assert "study 'a-control' in sqlite:///nasattn.db: settings differ" in captured.err
    assert "1/1" not in captured.out
    assert optuna.get_all_study_names("sqlite:///nasattn.db") == ["a-control"]
    # Without a control of its own the search is none the worse for it.
    assert nasattn(monkeypatch, *TINY, *short, "--name", "a") == 0
    assert "random search" not in capsys.readouterr().out


def test_early_stopping_is_in_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TINY, "--trials", "1", "--seeds", "0", "--early-stop", "rank") == 0
    assert "\nearly stopping by rank: not within 1 epoch\n" in capsys.readouterr().out


def test_a_folder_of_pictures_with_limits_and_other_objectives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("pets/train"), "cat", "[red]dog")
    Path("pets/train/cat/broken.png").write_bytes(b"not a picture")
    arguments = ["search", "--space", "tiny.yaml", "--data", "pets", "--resolution", "8"]
    arguments += ["--epochs", "1", "--trials", "2", "--objective", "top1", "--objective", "params"]
    assert nasattn(monkeypatch, *arguments, "--constraint", "macs<=1e12", "--out", "results") == 0
    out = capsys.readouterr().out
    assert "broken.png" in out
    assert "objectives top1, params, limits macs<=1000000000000" in out
    header = Path("results/front.csv").read_text().splitlines()[0]
    assert "latency_ms" not in header
    study = optuna.load_study(study_name="tiny-pets", storage="sqlite:///nasattn.db")
    assert study.trials[0].constraints["macs<=1000000000000"] <= 0


def test_limits_that_nothing_keeps_end_early(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nasattn.search.driver.MAX_FREE_TRIALS", 3)
    assert nasattn(monkeypatch, *TINY, "--trials", "2", "--constraint", "macs<=1") == 0
    out = capsys.readouterr().out
    assert "no other network of the space was found that keeps to the limits" in out
    assert "no network finished yet" in out
    arguments = ["--name", "other", "--sampler", "random", "--constraint", "macs<=1"]
    assert nasattn(monkeypatch, *TINY, "--trials", "2", *arguments) == 0
    assert "ended early: nothing new was proposed" in capsys.readouterr().out


@pytest.mark.slow
def test_results_come_out_of_a_terminal_without_stars() -> None:
    Path("starred.yaml").write_text(
        "template: mobilenet_v2\nparameters: {stages.*.kernel: [3, 5]}\nbaselines: [mobilenet_v2]\n"
    )
    arguments = ["search", "--space", "starred.yaml", "--objective", "macs", "--trials", "1"]
    code = "from nasattn.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert "\\u2605 mobilenet_v2" in done.stdout
    assert Path("runs/starred-digits/front.csv").is_file()


def test_a_place_that_cannot_be_written_is_found_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("nasattn-artifacts").write_text("in the way")
    assert nasattn(monkeypatch, *TINY, "--trials", "1") == 2
    assert "nasattn-artifacts: cannot be written" in capsys.readouterr().err
    assert nasattn(monkeypatch, *TINY, "--trials", "1", "--out", "/proc/x") == 2
    assert "/proc/x: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--space", "mobil"], "unknown search space 'mobil'; did you mean 'mobile'"),
        (
            ["search", "--space", "typo.yaml"],
            "unknown field 'paramters'; did you mean 'parameters'",
        ),
        (["search", "--space", "groups.yaml"], "groups: 3 does not divide the 8 channels"),
        (
            ["search", "--study", "quick"],
            "unknown study 'quick'; known: alexnet, ",
        ),
        (["search", "--trials", "-5"], "n_trials: must be greater than 0, is -5"),
        (["search", "--trials", "many"], "'--trials': 'many' is not a whole number"),
        (["search", "--epochs", "0"], "recipe.epochs: must be greater than 0, is 0"),
        (["search", "--tirals", "5"], "No such option: --tirals"),
        (["search", "--recipe", "slow"], "unknown recipe 'slow'"),
        (["search", "--resolution", "2"], "resolution: must be greater than or equal to 8, is 2"),
        (["search", "--constraint", "flops<=1"], "unknown objective 'flops'"),
        (["search", "--constraint", "macs"], "must be like 'macs<=120e6'"),
        (["search", "--objective", "speed"], "unknown objective 'speed'"),
        (
            ["search", "--sampler", "best"],
            "unknown sampler 'best'; known: cost_aware, nni_evolution, ",
        ),
        (["search", "--early-stop", "asha"], "unknown early stopping rule 'asha'; known: none, r"),
        (["search", "--estimator", "full"], "'full': must be shorter than the training itself"),
        (["search", "--estimator", "naswut"], "unknown estimator 'naswut'; did you mean 'naswot'"),
        (["search", "--estimator", "epochs:3"], "must be shorter than the training itself, of 3"),
        (["search", "--budget", "soon"], "budget: must be a time like 90s, 30m, 2h or 1h30m, is"),
        (["search", "--budget", "1h", "--trials", "3"], "budget: may be given, or n_trials (--tr"),
        (["search", "--seeds", "-1"], "n_seeds: must be greater than or equal to 0, is -1"),
        (["search", "--finalists", "0"], "finalists: must be greater than or equal to 1, is 0"),
        (["search", "--device", "abacus"], "device 'abacus': cannot be used here"),
        (["search", "--storage", "garbage.db"], "must be a database URL"),
        (["search", "--storage", "sqlite:///garbage.db"], "not a database"),
        (["search", "--storage", "sqlite:///no/such.db"], "there is no folder no"),
        (["search", "--storage", f"sqlite:///{'x' * 300}.db"], "cannot be used"),
        (["search", "--out", "garbage.db/x"], "garbage.db is not a folder"),
        (["search", "--data", "nowhere"], "nowhere"),
        (["search", "--data", "empty"], "empty"),
        (["search", "--data", "one"], "one"),
        (["search", "--train-size", "3"], "train_size: must be at least 10"),
        (["show", "lamb"], "unknown network 'lamb'; did you mean 'lam'"),
        (["show", "garbage.json"], "cannot be read as JSON"),
        (["show", "lam", "--resolution", "1"], "--resolution: must be 8 to 1024, is 1"),
        (["show", "lam", "--classes", "0"], "--classes: must be 1 to 100000, is 0"),
        (["dashboard"], "there is no file nasattn.db; `nasattn search` makes one"),
        (["serach"], "No such command 'serach'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    Path("typo.yaml").write_text(TINY_SPACE.replace("parameters", "paramters"))
    groups = TINY_SPACE.replace("[none, eca, lam]", "[sge]") + "  stages.attention.groups: [3]\n"
    Path("groups.yaml").write_text(groups)
    Path("garbage.db").write_bytes(b"no database at all, whatever its name may say" * 40)
    Path("garbage.json").write_text("{")
    Path("empty").mkdir()
    write_folder(Path("one"), "cats")
    assert_refused(monkeypatch, capsys, arguments, message)


@pytest.mark.slow
def test_other_settings_need_another_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *TINY, "--trials", "1") == 0
    assert nasattn(monkeypatch, *TINY, "--trials", "1", "--seed", "1") == 2
    assert "seed: 0 then, 1 now; give the new one a --name" in capsys.readouterr().err
    assert nasattn(monkeypatch, *TINY, "--trials", "1", "--no-resume") == 2
    assert "leave out --no-resume" in capsys.readouterr().err
    assert nasattn(monkeypatch, *TINY, "--trials", "1", "--seed", "1", "--name", "b") == 0


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("nasattn.cli.spaces.spaces_command", broken)
    with pytest.raises(KeyError, match="a bug"):
        nasattn(monkeypatch, "spaces")


def test_spaces_lists_the_shipped_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "spaces") == 0
    out = capsys.readouterr().out
    assert "mobile" in out
    assert "lam_ladder" in out


def test_show_counts_and_sets_published_figures_beside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "show", "lam") == 0
    out = capsys.readouterr().out
    assert "at 224x224, 1000 classes: 2.21 M params, 120.75 M macs" in out
    assert "published: top1 93.5 % (CIFAR-10; 000, Table 2)" in out
    assert nasattn(monkeypatch, "show", "lam", "--json") == 0
    Path("lam.json").write_text(capsys.readouterr().out)
    assert nasattn(monkeypatch, "show", "lam.json", "--resolution", "32", "--classes", "10") == 0
    assert "at 32x32, 10 classes" in capsys.readouterr().out


def test_show_knows_a_file_from_the_zoo_whatever_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is built in memory: a file may ask for any size."""
    devices = []

    def build(*arguments: Any) -> Any:
        devices.append(torch.get_default_device().type)
        return build_model(*arguments)

    monkeypatch.setattr("nasattn.zoo.build_model", build)
    Path("lam.json").write_text(get_baseline("lam").architecture.to_json())
    for network in ("lam.json", "lam"):
        assert nasattn(monkeypatch, "show", network, "--resolution", "32") == 0
    assert set(devices) == {"meta"}
    assert capsys.readouterr().out.count("at 32x32") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer \u2605", "plain, größer \u2605"),
        ("a\x1b[2J\x07\nb", "a\\x1b[2J\\x07\\nb"),
        ("\x9b2J\u202e", "\\x9b2J\\u202e"),
    ],
)
def test_printable_shows_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(("tight", "gap"), [(False, 3), (True, 1)])
def test_table_keeps_to_its_width_and_takes_nothing_for_markup(tight: bool, gap: int) -> None:
    console = Console(width=30, file=io.StringIO())
    made = table(name_column("n"), number_column("m"), "words", tight=tight)
    add_row(made, ("[red]a", "12,345", "folded \x1b[2J" * 3))
    with console.capture() as capture:
        console.print(made)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 30
    first = next(line for line in lines if "[red]a" in line)
    assert first.lstrip().startswith(f"[red]a{' ' * gap}12,345{' ' * gap}folded")
    assert "\x1b" not in capture.get()


def test_no_command_shows_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch) == 0
    assert "search" in capsys.readouterr().out


LONGER = [*TINY[:-4], "--train-size", "640", "--epochs", "4"]


@pytest.mark.slow
def test_kill_9_in_mid_trial_then_the_same_command() -> None:
    process = start(*LONGER, "--trials", "4")
    stop_in_mid_trial("tiny-digits", 2, process)
    process.kill()
    process.communicate()
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    done = [t.number for t in study.get_trials(states=(TrialState.COMPLETE,))]
    running = [t.number for t in study.get_trials(states=(TrialState.RUNNING,))]
    assert len(done) >= 2
    assert len(running) == 1
    again = start(*LONGER, "--trials", "4")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert f"going on after {len(done)} trials" in out
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    assert sum(map(counts, study.trials)) == 4
    assert study.trials[running[0]].state == TrialState.COMPLETE
    new = [t.user_attrs["arch_id"] for t in study.trials if counts(t)]
    assert len(set(new)) == len(new)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(stop: signal.Signals) -> None:
    process = start(*LONGER, "--trials", "40")
    stop_in_mid_trial("tiny-digits", 1, process)
    process.send_signal(stop)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped, nothing is lost; to go on: nasattn search --space tiny.yaml" in out
    assert "the Pareto front" in out
    assert "Traceback" not in err
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    assert not study.get_trials(states=(TrialState.RUNNING,))


@pytest.mark.slow
def test_dashboard_serves_the_studies_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nasattn(monkeypatch, *TINY, "--trials", "1") == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert nasattn(monkeypatch, "dashboard", "--port", str(port)) == 2
    process = start("dashboard", "--port", str(port))
    try:
        assert process.stdout
        assert process.stdout.readline() == "studies: tiny-digits\n"
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
                    studies = json.load(answer)
                break
            except OSError:
                time.sleep(0.1)
        assert "tiny-digits" in json.dumps(studies)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_npz_data_work(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    np.savez("mine.npz", x_train=images, y_train=labels)
    arguments = ["search", "--space", "tiny.yaml", "--data", "mine.npz", "--resolution", "8"]
    assert nasattn(monkeypatch, *arguments, "--epochs", "1", "--trials", "1") == 0
    assert Path("runs/tiny-mine/front.csv").is_file()

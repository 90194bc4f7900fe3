"""The command line, in this process or one of its own, and what all refusals have in common."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nasattn.cli import main
from nasattn.cost.latency import LatencyMeter
from nasattn.search.trials import counts


def nasattn(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["nasattn", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as e:
        return int(e.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return 0


def assert_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Bad input is one line on standard error and exit 2, and nothing is written here."""
    before = sorted(Path.cwd().rglob("*"))
    assert nasattn(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nasattn: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(Path.cwd().rglob("*")) == before


METER_OPTIONS = LatencyMeter.__init__.__kwdefaults__ or {}
USUAL_ROUNDS = METER_OPTIONS["rounds"]


def measure_briefly() -> None:
    """Of a latency in eager torch two rounds instead of all, for the rest of this process."""
    METER_OPTIONS["rounds"] = 2


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a command in a process of its own."""
    code = (
        "from tests.command import measure_briefly; measure_briefly(); "
        "from nasattn.cli import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def in_mid_trial(study_name: str, n: int) -> bool:
    """Whether n trials are finished and the next one is being evaluated."""
    try:
        study = optuna.load_study(study_name=study_name, storage="sqlite:///nasattn.db")
    except Exception:  # the storage is being made
        return False
    trials = study.get_trials(deepcopy=False)
    running = [t for t in trials if t.state == TrialState.RUNNING]
    return sum(map(counts, trials)) >= n and any("architecture" in t.user_attrs for t in running)


def stop_in_mid_trial(study_name: str, n: int, process: "subprocess.Popen[str]") -> None:
    """Freeze a command (SIGSTOP) while it evaluates a network after its n-th."""
    for _ in range(1200):
        if process.poll() is not None:
            pytest.fail(f"the command ended by itself: {process.communicate()}")
        if in_mid_trial(study_name, n):
            process.send_signal(signal.SIGSTOP)  # it may have moved on since it was looked at
            if in_mid_trial(study_name, n):
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    pytest.fail("the command did not get there")

"""The command line in this process, and what every refusal of it has in common."""

import signal
import sys
from pathlib import Path

import pytest

from nasattn.cli import main


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

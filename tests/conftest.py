from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages._rdb.storage import _VersionManager

from tests.command import measure_briefly


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest -m ray -k many --trials 1000 --timeout 0` is the long proof."""
    parser.addoption("--trials", type=int, default=120, help="of tests/test_ray.py's long search")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny tensors on a busy machine: several threads wait for each other ten times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _brief_measurements() -> None:
    """What a search measures is looked at by few tests, and makes most of the time of many."""
    measure_briefly()


@pytest.fixture(autouse=True, scope="session")
def _migrations_read_once() -> None:
    """Optuna runs all files of its migrations for each storage that it opens."""
    make, made = _VersionManager._create_alembic_script, list[Any]()

    def once(self: _VersionManager) -> Any:
        made[:] = made or [make(self)]
        return made[0]

    _VersionManager._create_alembic_script = once  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the tests of a file keep decoded pictures."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, as a user of 80 columns has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path

import pickle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import StudyError
from nasattn.evaluate import Candidate, Setting, check_device, evaluate
from nasattn.objectives import get_objective, parse_constraint
from nasattn.testing import tiny_data
from nasattn.train.loop import Epoch
from nasattn.train.recipe import Recipe
from nasattn.turns import Turns

TINY = parse_architecture({"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}]})
RECIPE = Recipe(epochs=2, batch_size=8, lr=0.01)


def setting(*objectives: str, limits: tuple[str, ...] = (), **changes: Any) -> Setting:
    rows = tuple(get_objective(name) for name in objectives or ("top1", "macs"))
    constraints = tuple(parse_constraint(text) for text in limits)
    return Setting(tiny_data(), changes.pop("recipe", RECIPE), rows, constraints, **changes)


def test_a_complete_evaluation_holds_values_curve_and_time() -> None:
    epochs: list[int] = []
    found = evaluate(TINY, setting(), lambda epoch: epochs.append(epoch.number))
    assert found.state == "complete"
    assert set(found.values) == {"top1", "macs", "params"}
    assert found.values["top1"] == found.curve[-1].top1
    assert epochs == [1, 2] == [epoch.number for epoch in found.curve]
    assert found.seconds > 0
    assert not found.latencies  # nobody asked for it


def test_the_same_seed_gives_the_same_values() -> None:
    first, second = (evaluate(TINY, setting(seed=3)) for _ in range(2))
    assert first.values == second.values
    assert [e.loss for e in first.curve] == [e.loss for e in second.curve]
    assert [e.loss for e in evaluate(TINY, setting(seed=4)).curve] != [e.loss for e in first.curve]


def test_an_evaluation_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    evaluate(TINY, setting())
    assert torch.rand(1) == expected


def test_a_broken_static_limit_ends_it_before_measuring_and_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(self: Candidate, objective: str = "") -> None:
        raise AssertionError("this costs time")

    monkeypatch.setattr(Candidate, "curve", property(never))
    monkeypatch.setattr(Candidate, "latency_ms", never)
    found = evaluate(TINY, setting("top1", "latency_ms", limits=("params<=10",)))
    assert found.state == "infeasible"
    assert found.reason == "breaks params<=10"
    assert found.violations["params<=10"] == pytest.approx(found.values["params"] / 10 - 1)
    assert "top1" not in found.values


def test_a_broken_measured_limit_ends_it_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Candidate) -> None:
        raise AssertionError("this costs time")

    monkeypatch.setattr(Candidate, "curve", property(never))
    found = evaluate(TINY, setting("top1", "latency_ms", limits=("latency_ms<=1e-9",)))
    assert found.state == "infeasible"
    assert found.latencies.keys() == {"latency_ms"}
    assert found.values["latency_ms"] > 0


def test_a_broken_trained_limit_is_complete_with_its_violation() -> None:
    found = evaluate(TINY, setting(limits=("top1>=2",)))
    assert found.state == "complete"
    assert found.violations["top1>=2"] > 0


def test_latency_is_the_ratio_in_the_milliseconds_of_the_first_day() -> None:
    today = setting("latency_ms", reference_ms={"latency_ms": 10.0})
    found = evaluate(TINY, today)
    ratio = found.latencies["latency_ms"].relative
    assert found.values["latency_ms"] == pytest.approx(10.0 * ratio)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory: .enforce fail",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore"), "^mat1 and mat2 shapes"),
    ],
)
def test_what_cannot_run_here_is_a_failed_evaluation(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    monkeypatch.setattr(Setting, "build", lambda self, arch: Broken(1, 1))
    found = evaluate(TINY, setting())
    assert found.state == "failed"
    assert "\n" not in found.reason
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reason)


def test_a_loss_that_is_not_finite_fails_the_trial() -> None:
    found = evaluate(TINY, setting(recipe=Recipe(epochs=3, batch_size=8, lr=1e30)))
    assert found.state == "failed"
    assert "the loss is" in found.reason


def test_a_bug_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Setting, arch: Architecture) -> nn.Module:
        raise KeyError("a bug")

    monkeypatch.setattr(Setting, "build", broken)
    with pytest.raises(KeyError, match="a bug"):
        evaluate(TINY, setting())


def test_too_few_training_pictures_are_refused() -> None:
    with pytest.raises(StudyError, match=r"train_size: must be at least 2 .* is 1"):
        setting(recipe=Recipe(epochs=1, train_size=1))
    with pytest.raises(StudyError, match=r"watch_size: must be at least 2 .* is 1"):
        setting(recipe=Recipe(epochs=1, watch_size=1))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert check_device("cpu") == "cpu"
    for device in ("cuda:77", "abacus"):
        with pytest.raises(
            StudyError, match=f"device '{device}': cannot be used here; there is cpu"
        ):
            check_device(device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_evaluation_runs_on_cuda() -> None:
    found = evaluate(TINY, setting("top1", "macs", "latency_ms", device="cuda"))
    assert found.state == "complete"


class Killed(BaseException):
    """A process that dies."""


def dies_after(n: int) -> Any:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == n:
            raise Killed

    return on_epoch


def test_a_training_whose_process_died_goes_on_after_its_last_epoch(tmp_path: Path) -> None:
    whole = evaluate(TINY, setting(seed=3))
    kept = setting(seed=3, checkpoints=tmp_path / "kept")
    with pytest.raises(Killed):
        evaluate(TINY, kept, dies_after(1))
    (file,) = (tmp_path / "kept").iterdir()
    heard: list[float] = []
    found = evaluate(TINY, kept, lambda epoch: heard.append(epoch.loss))
    assert found.values == whole.values
    assert heard == [e.loss for e in whole.curve] == [e.loss for e in found.curve]
    assert not file.exists()  # it is needed no more


def test_a_training_is_judged_where_its_process_died(tmp_path: Path) -> None:
    kept = setting(checkpoints=tmp_path)
    with pytest.raises(Killed):
        evaluate(TINY, kept, dies_after(1))
    found = evaluate(TINY, kept, stops=lambda curve, values: len(curve) == 1)
    assert (found.state, len(found.curve)) == ("stopped", 1)


def test_a_state_that_cannot_be_read_is_begun_again(tmp_path: Path) -> None:
    kept = setting(seed=3, checkpoints=tmp_path)
    with pytest.raises(Killed):
        evaluate(TINY, kept, dies_after(1))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert evaluate(TINY, kept).values == evaluate(TINY, setting(seed=3)).values


def test_a_full_disk_may_pass_and_a_loss_that_is_no_number_stays(tmp_path: Path) -> None:
    with patch("nasattn.train.checkpoint.write_bytes", side_effect=OSError(28, "No space left")):
        found = evaluate(TINY, setting(checkpoints=tmp_path))
    assert (found.state, found.transient) == ("failed", True)
    assert found.reason.endswith("cannot be written (No space left)")
    diverged = evaluate(TINY, setting(recipe=Recipe(epochs=2, batch_size=8, lr=1e30)))
    assert (diverged.state, diverged.transient) == ("failed", False)


def test_a_setting_travels_without_what_was_started() -> None:
    there = setting("top1", "latency_ms", turns=Turns(Path("lock"), on_wait=print))
    there.meters["latency_ms"] = object()  # type: ignore[assignment]
    assert there.counter
    back = pickle.loads(pickle.dumps(there))
    assert back.meters == {}
    assert back.turns == Turns(Path("lock"))
    assert "counter" not in vars(back)
    assert back.objectives == there.objectives
    assert there.meters  # which stays as it was

"""Latency on a runtime: the bench, parity, turns, measurements, the command and the objective."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console
from torch import Tensor, nn

from nasattn.arch import parse_architecture
from nasattn.cli import latency as cli_latency
from nasattn.cli.by_training import train
from nasattn.cli.latency import effort_of
from nasattn.cli.study import prepare
from nasattn.cost import bench as bench_file
from nasattn.cost.bench import N_TOGETHER, Bench, Measured, numbers, quiet
from nasattn.cost.latency import Latency, figures_of
from nasattn.cost.measurements import MeasuredNetwork, Measurements, read_measurements
from nasattn.cost.parity import TOLERANCE, Parity, compare, settled
from nasattn.cost.self_check import Twice, busy_core
from nasattn.errors import EvaluationError, NasattnError, StudyError
from nasattn.evaluate import Setting, evaluate
from nasattn.objectives import Cost, get_objective, parse_constraint
from nasattn.runtimes import onnxruntime
from nasattn.runtimes.process import RunnerProcess
from nasattn.runtimes.protocol import Timing
from nasattn.runtimes.spec import parse_runtime
from nasattn.runtimes.table import RUNTIMES
from nasattn.search.environment import environment
from nasattn.search.spec import load_study_spec
from nasattn.search.trials import state_of
from nasattn.space import load_space
from nasattn.testing import tiny_data
from nasattn.train.recipe import Recipe
from nasattn.turns import FREE, Turns
from tests.command import assert_refused, nasattn
from tests.runtimes import FAKE, QUICK, FakeSsh, Scale, add_fake_runtime

PICTURES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    add_fake_runtime(monkeypatch)
    yield
    sys.modules.pop(f"nasattn.runtimes.{FAKE.file}", None)


def needs(name: str) -> pytest.MarkDecorator:
    packages = RUNTIMES[name].missing()
    return pytest.mark.skipif(bool(packages), reason=f"{name} lacks {', '.join(packages)}")


needs_onnxruntime = needs("onnxruntime")


def bench(**how: Any) -> Bench:
    spec, reference = parse_runtime(how.pop("runtime", "fake")), how.pop("reference", Scale())
    return Bench(spec, reference, PICTURES, **{"effort": QUICK} | how)


def measure_all(models: Mapping[str, nn.Module], **how: Any) -> dict[str, Measured]:
    """What comes of networks on a bench of their own."""
    one = bench(**how)
    try:
        return {measured.name: measured for measured in one.measure_all(models)}
    finally:
        one.close()


# Figures

LATENCY = Latency(
    median_ms=4.0,
    p10_ms=3.0,
    p90_ms=6.0,
    relative=2.0,
    interval=(1.9, 2.3),
    n=240,
    reference_ms=2.0,
    runtime="fake 1.0",
    threads=1,
    device="cpu",
    batch=8,
)


def test_fps_is_pictures_a_second() -> None:
    assert LATENCY.fps == 8 / 0.004
    assert replace(LATENCY, batch=1).fps == 250


def test_precision_is_half_the_interval_as_a_share_of_the_ratio() -> None:
    assert LATENCY.precision == pytest.approx(0.2 / 2.0)
    assert replace(LATENCY, interval=None).precision is None


def test_figures_are_over_all_rounds_and_the_ratio_over_loads() -> None:
    timing = Timing([[1, 2, 3], [4, 5, 60]], [[1, 1, 1], [2, 2, 2]])
    found = figures_of(timing)
    assert found["median_ms"] == 3.5  # of 1 2 3 4 5 60
    assert found["p10_ms"] == 1.5
    assert found["p90_ms"] == pytest.approx(32.5)
    assert found["reference_ms"] == 1.5
    assert found["relative"] == pytest.approx((1.5 / 1 + 4.5 / 2) / 2)
    assert found["n"] == 6
    assert found["interval"] is None


# Parity


def test_compare_of_equal_logits() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]])
    assert compare(logits, logits.flatten().tolist()) == Parity(0.0, 2, 2, 2)


def test_the_difference_is_a_share_of_the_largest_logit() -> None:
    logits = torch.tensor([[1.0, -20.0, 3.0]])
    assert compare(logits, [1.0, -20.0, 3.01]).max_diff == pytest.approx(0.01 / 20)


def test_only_a_clear_class_must_stay() -> None:
    # The largest logit is 10: two that are nearer than 2 * 0.001 * 10 may swap places.
    logits = torch.tensor([[10.0, 0.0], [5.0, 5.019], [5.0, 5.021]])
    parity = compare(logits, [10.0, 0.0, 5.019, 5.0, 5.0, 5.021])
    assert (parity.n, parity.n_clear, parity.n_agree) == (3, 2, 2)
    swapped = compare(logits, [10.0, 0.0, 5.0, 5.019, 5.021, 5.0])
    assert (swapped.n_clear, swapped.n_agree) == (2, 1)


def test_a_network_of_one_class_has_no_clear_one() -> None:
    assert compare(torch.tensor([[1.0], [2.0]]), [1.0, 2.0]) == Parity(0.0, 2, 0, 0)


def test_logits_of_zero_agree_with_themselves() -> None:
    parity = compare(torch.zeros(2, 3), [0.0] * 6)
    parity.check()
    assert (parity.max_diff, parity.n_clear) == (0.0, 0)


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        ([[1.0, 2.0]], [1.0], "gives 1 logits for 1 pictures, must be 2"),
        ([[1.0, 2.0]], [1.0, 2.0, 3.0], "gives 3 logits for 1 pictures, must be 2"),
        ([[1.0, 2.0]], [1.0, math.nan], "a logit is not a finite number"),
        ([[1.0, 2.0]], [1.0, math.inf], "a logit is not a finite number"),
        ([[1.0, math.nan]], [1.0, 2.0], "a logit is not a finite number"),
    ],
)
def test_compare_refuses_what_is_no_answer(
    expected: list[list[float]], found: list[float], message: str
) -> None:
    with pytest.raises(EvaluationError, match=f"^parity: .*{message}"):
        compare(torch.tensor(expected), found)


@pytest.mark.parametrize(
    ("parity", "message"),
    [
        (Parity(0.5, 16, 16, 16), "logits differ by 0.5 of the largest one, allowed is 0.001"),
        (Parity(math.nan, 16, 16, 16), "logits differ by nan"),
        (Parity(1e-4, 16, 10, 8), "2 of 10 pictures get another class"),
    ],
)
def test_check_refuses_another_network(parity: Parity, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        parity.check()


def test_check_allows_what_kernels_differ_by() -> None:
    Parity(TOLERANCE, 16, 12, 12).check()


def with_norm(*, fresh: bool) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    if not fresh:
        net(torch.rand(8, 3, 8, 8))
    return net.train()


@pytest.mark.parametrize("fresh", [True, False])
def test_settled_leaves_the_network_alone(fresh: bool) -> None:
    net = with_norm(fresh=fresh)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copy = settled(net, torch.rand(16, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert not any(part.training for part in copy.modules())
    assert net[1].momentum == 0.1


def test_settled_sets_batch_norms_that_have_seen_nothing() -> None:
    pictures = torch.rand(16, 3, 8, 8) * 50
    net = with_norm(fresh=True)
    norm = settled(net, pictures).get_submodule("1")
    maps = net[0](pictures)
    assert torch.allclose(norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, maps.var((0, 2, 3)), rtol=1e-4)  # type: ignore[arg-type]


def test_settled_keeps_what_batch_norms_have_learned() -> None:
    net = with_norm(fresh=False)
    copy = settled(net, torch.rand(16, 3, 8, 8) * 50)
    assert all(torch.equal(value, net.state_dict()[k]) for k, value in copy.state_dict().items())


def test_settled_sets_only_the_fresh_ones() -> None:
    net = nn.Sequential(with_norm(fresh=False)[:2], nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    copy = settled(net, torch.rand(16, 3, 8, 8) * 50)
    before, after = net.state_dict(), copy.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}


def test_settled_takes_batch_norms_without_statistics() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    copy = settled(net, torch.rand(4, 3, 2, 2))

    assert not copy.training
    assert not list(copy.buffers())


# The bench


@pytest.mark.usefixtures("_fake")
def test_networks_are_measured_beside_those_that_cannot_be() -> None:
    found = measure_all(
        {
            "good": Scale(2.0),
            "other form": Scale(2.0, "fail to convert"),
            "no load": Scale(2.0, "fail to load"),
            "too much": Scale(2.0, "answer twice as much"),
            "good too": Scale(0.5),
        }
    )
    assert {name: one.reason for name, one in found.items()} == {
        "good": "",
        "other form": "fake: cannot be converted (there is no such layer)",
        "no load": "fake: cannot load",
        "too much": "parity: logits differ by 1 of the largest one, allowed is 0.001",
        "good too": "",
    }
    for name, one in found.items():
        assert (one.latency is None) is bool(one.reason)
        assert one.parity == (None if one.reason else Parity(0.0, 16, 16, 16)), name


@pytest.mark.usefixtures("_fake")
def test_a_latency_says_what_it_was_measured_on() -> None:
    latency = measure_all({"a": Scale(2.0)}, runtime="fake:threads=1,batch=5")["a"].latency
    assert latency is not None
    assert latency.runtime == f"fake {pytest.__version__}"
    assert (latency.threads, latency.batch, latency.device) == (1, 5, "cpu")
    assert (latency.target, latency.n) == ("", 3)
    assert 0 < latency.p10_ms <= latency.median_ms <= latency.p90_ms
    assert latency.interval is None  # of one load
    assert latency.size_bytes == len(json.dumps({"factor": 2.0, "deed": ""}))
    assert latency.peak_bytes is None
    assert latency.energy_mj is None


@pytest.mark.usefixtures("_fake")
def test_memory_is_found_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    first = RunnerProcess.__init__

    def note(self: RunnerProcess, *args: Any, **words: Any) -> None:
        first(self, *args, **words)
        started.append(self.process.pid)

    monkeypatch.setattr(RunnerProcess, "__init__", note)
    found = measure_all({"a": Scale(2.0), "b": Scale(3.0)}, memory=True)
    assert len(set(started)) == 3
    for one in found.values():
        assert one.latency is not None
        if sys.platform == "linux":
            assert one.latency.peak_bytes is not None
            assert 0 <= one.latency.peak_bytes < 2**30


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("deed", ["fail to run alone", "die to run alone"])
def test_no_network_is_lost_with_its_memory(deed: str) -> None:
    found = measure_all({"a": Scale(2.0, deed), "b": Scale(3.0)}, memory=True)
    assert found.keys() == {"a", "b"}
    assert found["b"].latency is not None
    assert found["a"].latency or found["a"].reason


@pytest.mark.usefixtures("_fake")
def test_a_runner_that_dies_while_timing_takes_only_its_group_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_file, "N_TOGETHER", 2)
    models = {"a": Scale(), "b": Scale(2.0, "die to run"), "c": Scale()}
    found = measure_all(models)
    lost = "fake: the process was lost (status -9)"
    assert {name: one.reason for name, one in found.items()} == {"a": lost, "b": lost, "c": ""}


@pytest.mark.usefixtures("_fake")
def test_more_networks_than_take_turns_at_once_are_all_measured() -> None:
    models = {f"net {i}": Scale(1.0 + i) for i in range(N_TOGETHER + 2)}
    found = measure_all(models)
    assert found.keys() == models.keys()
    assert not any(one.reason for one in found.values())


@pytest.mark.usefixtures("_fake")
def test_a_network_may_be_called_reference() -> None:
    one = bench()
    try:
        list(one.measure_all({"reference": Scale(2.0)}))
        assert [m.reason for m in one.measure_all({"other": Scale(2.0)})] == [""]
    finally:
        one.close()


@pytest.mark.usefixtures("_fake")
def test_the_reference_is_measured_beside_itself() -> None:
    one = bench(reference=Scale(2.0))
    try:
        assert one.measure_reference().n == 3
    finally:
        one.close()


@pytest.mark.usefixtures("_fake")
def test_a_reference_that_is_another_network_there_is_named() -> None:
    found = measure_all({"a": Scale()}, reference=Scale(2.0, "answer twice as much"))
    assert found["a"].reason.startswith("the reference: parity: logits differ")


@pytest.mark.usefixtures("_fake")
def test_a_reference_that_cannot_be_converted_is_named() -> None:
    found = measure_all({"a": Scale()}, reference=Scale(2.0, "fail to convert"))
    assert found["a"].reason.startswith("the reference: fake: cannot be converted")


@pytest.mark.usefixtures("_fake")
def test_measure_raises_the_reason() -> None:
    one = bench()
    with pytest.raises(EvaluationError, match=r"^fake: cannot be converted \(there is no such"):
        one.measure(Scale(1.0, "fail to convert"))
    one.close()


@pytest.mark.usefixtures("_fake")
def test_a_network_that_does_not_take_the_pictures_is_refused_alone() -> None:
    found = measure_all({"bad": nn.Linear(7, 3), "good": Scale()})
    assert "shapes cannot be multiplied" in found["bad"].reason
    assert found["good"].latency is not None


@pytest.mark.usefixtures("_fake")
def test_nothing_is_measured_without_networks() -> None:
    assert measure_all({}) == {}


@needs_onnxruntime
def test_a_converter_that_doubles_the_logits_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Doubled(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = 2 * self.model(x)
            return y

    own = onnxruntime.convert
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())

    def convert(model: nn.Module, x: Tensor, folder: Path) -> None:
        own(model if len(model) == 3 else Doubled(model), x, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxruntime, "convert", convert)
    reference = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())
    found = measure_all({"a": net}, runtime="onnxruntime", reference=reference)
    assert found["a"].latency is None
    assert found["a"].reason.startswith("parity: logits differ by 1 of the largest one")


@pytest.mark.parametrize(("batch", "n"), [(1, 16), (5, 20), (16, 16), (33, 33)])
@pytest.mark.usefixtures("_fake")
def test_parity_is_over_whole_batches_of_the_pictures_again_and_again(batch: int, n: int) -> None:
    one = bench(runtime=f"fake:batch={batch}")
    assert one.pictures.shape == (n, 3, 2, 2)
    assert torch.equal(one.pictures[4], PICTURES[0])


def test_numbers_are_float32_by_rows_little_endian() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64).T  # not contiguous
    assert numbers(x).hex() == "0000803f000040400000004000008040"


def run_python(code: str) -> str:
    """What a program of its own prints, without the buffering that tests may ask for."""
    place = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    place["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=place).stdout


@pytest.mark.slow
def test_quiet_is_without_what_is_printed_from_below() -> None:
    code = "import os\nfrom nasattn.cost.bench import quiet\n"
    assert run_python(f"{code}with quiet(): os.system('echo noise')\nprint('word')") == "word\n"


@pytest.mark.slow
def test_quiet_is_without_what_python_prints() -> None:
    code = "from nasattn.cost.bench import quiet\n"
    assert run_python(f"{code}with quiet(): print('noise')\nprint('word')") == "word\n"


def test_quiet_ends_with_an_error() -> None:
    files = Path("/proc/self/fd")
    if not files.is_dir():
        pytest.skip("needs Linux")
    before = len(list(files.iterdir()))
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert len(list(files.iterdir())) == before


# Turns

HEAD = """
import sys
from pathlib import Path
import nasattn.turns
from nasattn.turns import Turns
from filelock import ReadWriteLock, Timeout
nasattn.turns.PATIENCE = 0.02
file, log = Path("machine.lock"), Path("log").open("a", buffering=1)
def say(word): print(word, flush=True)
def wait(): sys.stdin.readline()
"""
TRAINING = """
for epoch in (1, 2):
    with Turns(file).training():
        log.write(f"epoch {epoch}\\n")
        say("in")
        wait()
"""
MEASURING = """
with Turns(file, lambda: say("waits")).measuring():
    log.write("measured\\n")
say("done")
"""
# Comes when somebody waits to measure, which the first reader keeps from it.
LATE = """
while True:
    try:
        with ReadWriteLock(file).read_lock(timeout=0): pass
    except Timeout:
        break
say("sees it")
with Turns(file).training():
    log.write("late epoch\\n")
"""


class Program:
    """A process that says words and waits for lines."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def goes_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


def test_a_measurement_waits_for_an_epoch_and_goes_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    training = Program(TRAINING)
    assert training.hears() == "in"
    measuring = Program(MEASURING)
    assert measuring.hears() == "waits"
    late = Program(LATE)
    assert late.hears() == "sees it"
    training.goes_on()  # the end of its first epoch
    assert measuring.hears() == "done"
    assert training.hears() == "in"
    training.goes_on()
    for program in (training, measuring, late):
        program.end()
    lines = Path("log").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["epoch 1", "measured"]
    assert sorted(lines[2:]) == ["epoch 2", "late epoch"]


def test_trainings_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = [Program(TRAINING), Program(TRAINING)]
    assert [one.hears() for one in both] == ["in", "in"]
    for one in both:
        one.goes_on()
    assert [one.hears() for one in both] == ["in", "in"]
    for one in both:
        one.goes_on()
        one.end()


def test_nobody_is_told_of_a_measurement_that_need_not_wait(tmp_path: Path) -> None:
    waits: list[int] = []
    turns = Turns(tmp_path / "a" / "machine.lock", lambda: waits.append(1))
    with turns.measuring():
        pass
    with turns.training():  # released
        pass
    assert waits == []


def test_a_turn_ends_with_an_error(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "machine.lock")
    for how in (turns.measuring, turns.training, turns.measuring):
        with pytest.raises(KeyError), how():
            raise KeyError


def test_without_a_file_nobody_waits() -> None:
    with FREE.measuring(), FREE.training(), FREE.measuring():
        assert FREE.file is None


@pytest.mark.parametrize("how", ["training", "measuring"])
@pytest.mark.parametrize(
    "place",
    [
        "folder",
        "text/under.lock",
        pytest.param("text"),
    ],
)
def test_a_file_that_cannot_be_locked_is_refused(tmp_path: Path, place: str, how: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no database " * 100)
    with (
        pytest.raises(StudyError, match=f"{place}: cannot be locked"),
        getattr(Turns(tmp_path / place), how)(),
    ):
        pass


@pytest.mark.usefixtures("_fake")
def test_a_bench_takes_its_turn_while_it_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(tmp_path / "machine.lock")
    asked: list[str] = []
    own = RunnerProcess.ask

    def ask(self: RunnerProcess, do: str, *args: Any, **words: Any) -> Iterator[dict[str, Any]]:
        held = False
        try:
            with turns.training():
                pass
        except RuntimeError:  # filelock's: this very process is measuring
            held = True
        asked.append(f"{do} in its turn" if held else do)
        return own(self, do, *args, **words)

    monkeypatch.setattr(RunnerProcess, "ask", ask)
    measure_all({"a": Scale()}, turns=turns)
    assert "time in its turn" in asked
    assert "time" not in asked
    assert {"load", "answer"} <= set(asked)  # for which nobody need wait
    with turns.training():
        pass


# Measurements

NETWORK = {"name": "a", "features": {"conv.macs": 3.0, "conv.kind": "k3"}, "latency_ms": 1.5}
MEASURED = {
    "runtime": "onnxruntime",
    "reference": "mobilenet_v2",
    "reference_ms": 2.0,
    "resolution": 16,
    "num_classes": 10,
    "networks": [NETWORK],
}


def test_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    measured = Measurements(
        runtime="torch:threads=2",
        reference="resnet18",
        reference_ms=1 / 3,
        resolution=32,
        num_classes=10,
        networks=(MeasuredNetwork.model_validate(NETWORK),),
    )
    (tmp_path / "m.json").write_text(measured.to_json(), encoding="utf-8")
    assert read_measurements(tmp_path / "m.json") == measured


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"m\.json: cannot be read as JSON \(No such file"),
        ("{", r"m\.json: cannot be read as JSON"),
        ("[" * 100_000, r"m\.json: cannot be read as JSON"),
        ("[]", r"m\.json: .*must be a valid dictionary"),
        (json.dumps(MEASURED | {"more": 1}), "unknown field 'more'"),
        (json.dumps({k: v for k, v in MEASURED.items() if k != "runtime"}), "'runtime' is missing"),
        (json.dumps(MEASURED | {"runtime": "a\x1b[2J"}), "without control characters"),
        (json.dumps(MEASURED | {"reference_ms": 0}), "reference_ms: must be greater than 0"),
        (json.dumps(MEASURED | {"reference_ms": math.nan}), "reference_ms: must be"),
        (json.dumps(MEASURED | {"resolution": -3}), "resolution: must be greater than 0"),
        (
            json.dumps(MEASURED | {"networks": [NETWORK | {"latency_ms": math.inf}]}),
            r"networks\.0\.latency_ms: must be a finite number",
        ),
        (
            json.dumps(MEASURED | {"networks": [NETWORK | {"features": {"a": [1]}}]}),
            r"networks\.0\.features\.a",
        ),
    ],
)
def test_a_bad_file_of_measurements_is_refused(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "m.json").write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=message) as caught:
        read_measurements(tmp_path / "m.json")
    assert "\n" not in str(caught.value)


def test_too_few_measurements_cannot_be_learned_from() -> None:
    measured = Measurements.model_validate(MEASURED)
    with pytest.raises(EvaluationError, match="8 networks or more, has 1"):
        _ = measured.predictor


def test_measurements_foretell_what_grows_with_their_features() -> None:
    rows = [
        {"name": f"n{i}", "features": {"conv.macs": float(i)}, "latency_ms": 1.0 + i}
        for i in range(12)
    ]
    measured = Measurements.model_validate(MEASURED | {"networks": rows})
    ms, low, high = measured.predictor.predict([{"conv.macs": 5.5}])
    assert low[0] <= ms[0] <= high[0]
    assert ms[0] == pytest.approx(6.5, rel=0.05)


# Whether figures repeat


def twice(*pairs: tuple[float, float]) -> Twice:
    first, second = (
        {f"n{i}": replace(LATENCY, relative=pair[k]) for i, pair in enumerate(pairs)}
        for k in range(2)
    )
    return Twice(first, second, 1.0)


def test_twice_counts_ratios_within_three_per_cent_and_ranks() -> None:
    found = twice((1.0, 1.029), (2.0, 1.95), (3.0, 3.2))
    assert found.difference("n0") == pytest.approx(0.029)
    assert found.difference("n2") == pytest.approx(0.2 / 3)
    assert found.n_close == 2
    assert found.tau == pytest.approx(1.0)
    assert not found.holds  # two of three


def test_twice_holds_where_95_of_a_hundred_and_the_order_repeat() -> None:
    near = [(float(i), i * 1.01) for i in range(1, 20)]
    assert twice(*near, (20.0, 21.9)).holds  # 19 of 20
    assert not twice(*near[:-1], (19.0, 20.9), (30.0, 33.0)).holds  # 18 of 20
    # Close enough, but five of six pairs in order
    swapped = twice((1.0, 1.01), (1.005, 1.0), (2.0, 2.0), (3.0, 3.0))
    assert swapped.n_close == 4
    assert swapped.tau == pytest.approx((5 - 1) / 6)
    assert not swapped.holds


def test_a_busy_core_is_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    own = subprocess.Popen

    def start(*args: Any, **words: Any) -> Any:
        started.append(own(*args, **words))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)

    def beside() -> None:
        with busy_core():
            assert started[0].poll() is None
            raise KeyError

    with pytest.raises(KeyError):
        beside()
    assert started[0].returncode is not None


# The objective


@pytest.mark.parametrize(
    ("text", "name", "heading"),
    [
        ("latency_ms", "latency_ms", "latency_ms"),
        ("latency_ms@torch", "latency_ms@torch", "ms@torch"),
        ("latency_ms@torch:threads=1,batch=1", "latency_ms@torch", "ms@torch"),
        (
            "latency_ms@onnxruntime:batch=2,threads=2",
            "latency_ms@onnxruntime:threads=2,batch=2",
            "ms@onnxruntime:threads=2,batch=2",
        ),
    ],
)
def test_get_objective_of_a_runtime(text: str, name: str, heading: str) -> None:
    row = get_objective(text)
    assert (row.name, row.heading) == (name, heading)
    assert (row.cost, row.direction) == (Cost.MEASURED, "minimize")
    assert (row.runtime is None) is (text == "latency_ms")
    assert get_objective(row.name) == row


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency@torch", "unknown objective 'latency'; did you mean 'latency_ms'"),
        ("latency_ms@", "unknown runtime ''"),
        ("latency_ms@torhc", "unknown runtime 'torhc'; did you mean 'torch'"),
        ("latency_ms@torch:threads=0", "threads: must be greater than 0"),
        ("macs@torch", "objective 'macs@torch': macs is the same on every runtime"),
        ("top1@torch", "top1 is the same on every runtime"),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        get_objective(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("latency_ms@onnxruntime:threads=1<=5", "latency_ms@onnxruntime<=5"),
        ("latency_ms@onnxruntime:threads=2 <= 5e0", "latency_ms@onnxruntime:threads=2<=5"),
        (
            "latency_ms@ncnn:target=ssh://me@pi:22>=0.5",
            "latency_ms@ncnn:target=ssh://me@pi:22>=0.5",
        ),
    ],
)
def test_a_limit_on_a_runtime_is_written_in_its_short_form(text: str, shown: str) -> None:
    constraint = parse_constraint(text)
    assert str(constraint) == shown
    assert parse_constraint(shown) == constraint
    spec = load_study_spec(None, {"constraints": [text]})
    assert spec.constraints == (shown,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency_ms@<=5", "must be like"),
        ("latency_ms@torch", "must be like"),
        ("macs@torch<=5", "is the same on every runtime"),
        ("latency_ms@torch:threads<=5", "'threads' must be OPTION=VALUE"),
        ("latency_ms@torch<=fast", "'fast' is not a number"),
    ],
)
def test_a_limit_on_a_runtime_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        parse_constraint(text)


def test_objectives_of_a_study_are_in_their_short_form_each_once() -> None:
    names = ["top1", "latency_ms@torch:threads=1", "latency_ms"]
    spec = load_study_spec(None, {"objectives": names})
    assert spec.objectives == ("top1", "latency_ms@torch", "latency_ms")
    with pytest.raises(StudyError, match="each objective may be named once"):
        load_study_spec(None, {"objectives": [*names, "latency_ms@torch:batch=1"]})


class FakeMeter:
    """A clock that was read before."""

    def __init__(self, ms: float, reference_ms: float) -> None:
        self.ms, self.reference_ms = ms, reference_ms

    def measure(self, model: nn.Module) -> Latency:
        ratio = self.ms / self.reference_ms
        return replace(LATENCY, relative=ratio, reference_ms=self.reference_ms)

    def measure_reference(self) -> Latency:
        return self.measure(nn.Identity())


ARCH = parse_architecture({"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}]})
ON = "latency_ms@onnxruntime"


def setting(*limits: str) -> Setting:
    rows = tuple(map(get_objective, ("latency_ms", ON)))
    constraints = tuple(map(parse_constraint, limits))
    meters = {"latency_ms": FakeMeter(4.0, 2.0), ON: FakeMeter(9.0, 3.0)}
    recipe = Recipe(epochs=1, batch_size=8)
    return Setting(tiny_data(), recipe, rows, constraints, meters=meters)  # type: ignore[arg-type]


def test_each_latency_is_by_its_own_reference() -> None:
    found = evaluate(ARCH, replace(setting(), reference_ms={"latency_ms": 5.0, ON: 7.0}))
    assert found.values["latency_ms"] == pytest.approx(4 / 2 * 5)
    assert found.values[ON] == pytest.approx(9 / 3 * 7)
    assert {name: one.relative for name, one in found.latencies.items()} == {
        "latency_ms": 2.0,
        ON: 3.0,
    }


def test_without_a_first_day_todays_reference_counts() -> None:
    found = evaluate(ARCH, setting())
    assert (found.values["latency_ms"], found.values[ON]) == pytest.approx((4.0, 9.0))


def test_a_limit_on_a_runtime_ends_an_evaluation() -> None:
    found = evaluate(ARCH, setting(f"{ON}:threads=1<=8"))
    assert found.state == "infeasible"
    assert found.reason == f"breaks {ON}<=8"


def test_settings_made_from_one_share_what_measures() -> None:
    one = setting()
    assert replace(one, seed=3).meter(get_objective(ON)) is one.meter(get_objective(ON))


def prepared(study: optuna.Study, of: Setting) -> dict[str, float]:
    return prepare(Console(quiet=True), study, of)


def test_references_are_written_down_by_objective() -> None:
    study = optuna.create_study()
    assert prepared(study, setting()) == {"latency_ms": 2.0, ON: 3.0}
    assert study.user_attrs["reference_ms"] == {"latency_ms": 2.0, ON: 3.0}
    later = setting()
    later.meters.clear()  # nothing is measured again
    assert prepared(study, later) == {"latency_ms": 2.0, ON: 3.0}


def test_references_of_old_studies_are_those_of_latency_ms() -> None:
    study = optuna.create_study()
    study.set_user_attr("environment", environment())
    assert prepared(study, setting()) == {}
    study.set_user_attr("reference_ms", 4.5)
    assert prepared(study, setting()) == {"latency_ms": 4.5}


# The command

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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a small network and a small space."""
    monkeypatch.setenv("NASATTN_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("tiny.json").write_text(ARCH.to_json(), encoding="utf-8")
    Path("tiny.yaml").write_text(TINY_SPACE, encoding="utf-8")
    return folder


SMALL = ["--resolution", "16", "--classes", "10", "--reference", "resnet20_cifar"]
ON_ORT = ["--runtime", "onnxruntime", *SMALL, "--precision", "0"]


@needs_onnxruntime
@pytest.mark.usefixtures("here")
def test_latency_shows_a_table_and_writes_all_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["latency", "tiny.json", "resnet20_cifar", *ON_ORT, "--json", "all.json"]
    assert nasattn(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "ONNX Runtime" in out
    lines = out.splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith("tiny "))
    assert lines[first + 1].startswith("resnet20_cifar =")  # the reference, the slower one
    assert "1 thread, cpu, " in out
    assert "batch 1 of 16x16" in out
    assert "to resnet20_cifar's in the same rounds" in out
    assert "parity: logits differ from eager torch by at most" in out
    assert "over 16 pictures" in out
    assert "nasattn show tiny.json --layers --latency" in out
    assert max(map(len, lines)) <= 80
    (report,) = json.loads(Path("all.json").read_text())
    assert report["runtime"] == "onnxruntime"
    assert report["version"].startswith("onnxruntime ")
    assert (report["resolution"], report["num_classes"]) == (16, 10)
    assert report["machine"]["cores"] == str(os.cpu_count())
    by_name = {one["name"]: one for one in report["networks"]}
    assert by_name.keys() == {"tiny", "resnet20_cifar"}
    for one in by_name.values():
        latency = Latency(**one["latency"])
        assert asdict(latency).keys() == one["latency"].keys()
        assert latency.n == 240
        assert latency.interval is not None
        assert latency.size_bytes is not None
        assert one["parity"]["max_diff"] <= TOLERANCE
        assert one["reason"] == ""
        if sys.platform == "linux":
            assert latency.peak_bytes is not None


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds where the command line asks for many."""
    monkeypatch.setattr(
        cli_latency, "effort_of", lambda precision: (effort_of(precision), QUICK)[1]
    )


@needs_onnxruntime
@pytest.mark.usefixtures("here", "_quick")
def test_a_network_without_latency_is_said_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_convert(monkeypatch, 2)  # the reference is the first
    arguments = ["latency", "tiny.json", "resnet20_cifar", *ON_ORT, "--no-memory"]
    assert nasattn(monkeypatch, *arguments, "--json", "all.json") == 1
    out = capsys.readouterr().out
    assert "tiny has no latency: onnxruntime: cannot be converted (no such layer)" in out
    assert "resnet20_cifar =" in out
    (report,) = json.loads(Path("all.json").read_text())
    assert [bool(one["latency"]) for one in report["networks"]] == [False, True]
    assert report["networks"][1]["latency"]["peak_bytes"] is None


def fail_to_convert(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """ONNX Runtime has no layer for the network that is converted so many-th."""
    own = onnxruntime.convert
    calls: list[int] = []

    def convert(model: nn.Module, x: Tensor, folder: Path) -> None:
        calls.append(1)
        if len(calls) == number:
            raise RuntimeError("no such layer\nand more words")
        own(model, x, folder)

    monkeypatch.setattr(onnxruntime, "convert", convert)


@pytest.mark.slow
@needs_onnxruntime
@pytest.mark.usefixtures("here", "_quick")
def test_networks_of_a_space_are_learned_from_and_others_foretold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--space", "tiny.yaml", "--samples", "9", "--seed", "3"]
    assert nasattn(monkeypatch, "latency", *few, *ON_ORT, "--no-memory", "--fit", "m.json") == 0
    out = capsys.readouterr().out
    assert "learned from 9 networks: others are foretold with a median error of" in out
    assert "foretell others: nasattn latency NETWORK --predict m.json" in out
    learned = read_measurements(Path("m.json"))
    assert (learned.runtime, learned.reference) == ("onnxruntime", "resnet20_cifar")
    assert (learned.resolution, learned.num_classes, len(learned.networks)) == (16, 10, 9)
    predict = ["latency", "tiny.json", "--predict", "m.json", "--json", "p.json"]
    assert nasattn(monkeypatch, *predict) == 0
    out = capsys.readouterr().out
    assert "foretold for onnxruntime from 9 networks" in out
    found = json.loads(Path("p.json").read_text())
    (row,) = found["networks"]
    assert row["network"] == "tiny"
    assert row["low"] <= row["ms"] <= row["high"]
    assert found["error"] == pytest.approx(learned.predictor.error)
    assert_refused(
        monkeypatch,
        capsys,
        ["latency", "tiny.json", "--predict", "m.json", "--resolution", "32"],
        "m.json: is of --resolution 16, not 32",
    )
    assert_refused(
        monkeypatch,
        capsys,
        ["latency", "tiny.json", "--predict", "m.json", "--classes", "3"],
        "m.json: is of --classes 10, not 3",
    )


@needs_onnxruntime
@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_self_check_says_whether_figures_repeat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["latency", "tiny.json", "resnet20_cifar", *ON_ORT, "--self-check"]
    status = nasattn(monkeypatch, *arguments, "--json", "check.json")
    out = capsys.readouterr().out
    assert "ONNX Runtime, as it is" in out
    assert "ONNX Runtime, one core kept busy" in out
    report = json.loads(Path("check.json").read_text())
    assert [one["what"] for one in report] == ["as it is", "one core kept busy"]
    assert status == int(not all(one["holds"] for one in report))
    for one in report:
        assert one["networks"].keys() == {"tiny", "resnet20_cifar"}
        assert ("figures repeat" in out) is any(one["holds"] for one in report)


TOO_MANY = str((os.cpu_count() or 1) + 1)
LATENCY_OF = ["latency", "tiny.json"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency"], "nothing to measure: name a network, or --space a search space"),
        (["latency", "no_such_net"], "unknown network 'no_such_net'"),
        (["latency", "no.json"], "no.json: cannot be read as JSON"),
        ([*LATENCY_OF, "--reference", "no_such_net"], "unknown network 'no_such_net'"),
        ([*LATENCY_OF, "--runtime", "tvm"], "unknown runtime 'tvm'; known: "),
        ([*LATENCY_OF, "--runtime", "torch:threds=1"], "did you mean 'threads'"),
        ([*LATENCY_OF, "--threads", "0"], "threads: must be greater than 0"),
        ([*LATENCY_OF, "--threads", "two"], "'two' is not a whole number"),
        ([*LATENCY_OF, "--threads", TOO_MANY], f"on this machine, is {TOO_MANY}"),
        ([*LATENCY_OF, "--runtime", f"torch:threads={TOO_MANY}"], f"machine, is {TOO_MANY}"),
        ([*LATENCY_OF, "--batch", "0"], "batch: must be greater than 0"),
        ([*LATENCY_OF, "--device", "abacus"], "device: "),
        ([*LATENCY_OF, "--runtime", "ncnn", "--device", "cuda"], "ncnn runs on cpu only"),
        ([*LATENCY_OF, "--target", "pi"], "must be like ssh://user@host"),
        ([*LATENCY_OF, "--target", "ssh://-oProxyCommand=touch x"], "must be like ssh://"),
        ([*LATENCY_OF, "--precision", "fine"], "--precision: must be 0 to 100 per cent"),
        ([*LATENCY_OF, "--precision", "-1"], "--precision: must be 0 to 100 per cent, is '-1'"),
        ([*LATENCY_OF, "--precision", "101"], "--precision: must be 0 to 100 per cent"),
        ([*LATENCY_OF, "--precision", "nan"], "--precision: must be 0 to 100 per cent"),
        ([*LATENCY_OF, "--resolution", "4"], "--resolution: must be 8 to "),
        ([*LATENCY_OF, "--data", "no_such"], "no_such"),
        ([*LATENCY_OF, "--space", "no_such"], "no_such"),
        ([*LATENCY_OF, "--json", "."], "must be a new file or a regular one"),
        ([*LATENCY_OF, "--json", "a", "--fit", "a"], "is read or written as a by the same"),
        (
            [*LATENCY_OF, "--runtime", "torch", "--runtime", "onnxruntime", "--fit", "f"],
            "--fit: learns one runtime at a time",
        ),
        ([*LATENCY_OF, "--fit", "f", "--predict", "g"], "only one of them at a time"),
        ([*LATENCY_OF, "--self-check", "--fit", "f"], "only one of them at a time"),
        ([*LATENCY_OF, "--predict", "no.json"], "no.json: cannot be read as JSON"),
        *(
            pytest.param([*LATENCY_OF, option, value], option)
            for option, value, why in (
                ("--classes", "0", "0 is taken for what is published"),
                ("--classes", "-1", "a traceback"),
                ("--resolution", "0", "0 is taken for what is published"),
            )
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*args: Any, **words: Any) -> None:
        raise AssertionError("a runner was started")

    monkeypatch.setattr(RunnerProcess, "__init__", never)
    assert_refused(monkeypatch, capsys, arguments, message)


@pytest.mark.usefixtures("here")
def test_a_runtime_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = replace(RUNTIMES["onnxruntime"], runs={"no_such": "no-such"})
    monkeypatch.setitem(RUNTIMES, "onnxruntime", absent)
    message = "lacks no-such: pip install 'nasattn[onnxruntime]'; installed here: torch"
    arguments = [*LATENCY_OF, "--runtime", "onnxruntime"]
    assert_refused(monkeypatch, capsys, arguments, message)


@needs_onnxruntime
@pytest.mark.usefixtures("here")
def test_a_host_that_nobody_knows_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = FakeSsh(monkeypatch, tmp_path / "there")
    ssh.be(refuses="ssh: Could not resolve hostname nowhere: Name or service not known")
    arguments = [*LATENCY_OF, *ON_ORT, "--target", "ssh://nowhere"]
    message = "nowhere was lost (ssh: Could not resolve hostname nowhere: Name or"
    assert_refused(monkeypatch, capsys, arguments, message)


@needs_onnxruntime
@pytest.mark.usefixtures("here", "_quick")
def test_a_network_is_measured_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = FakeSsh(monkeypatch, tmp_path / "there")
    on = ["--runtime", f"onnxruntime:python={sys.executable}", "--target", ssh.target]
    assert nasattn(monkeypatch, *LATENCY_OF, *on, *SMALL, "--no-memory") == 0
    assert "on ssh://somewhere" in " ".join(capsys.readouterr().out.split())
    assert not [p for p in ssh.left_behind if p.name.startswith("nasattn")]


@needs_onnxruntime
@pytest.mark.usefixtures("here", "_quick")
def test_two_files_of_the_same_name_are_two_networks_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    Path("other/tiny.json").write_text(ARCH.to_json(), encoding="utf-8")
    arguments = [*LATENCY_OF, "other/tiny.json", *ON_ORT, "--no-memory", "--json", "all.json"]
    if nasattn(monkeypatch, *arguments) == 0:
        (report,) = json.loads(Path("all.json").read_text())
        assert len(report["networks"]) == 2
    else:
        assert "other/tiny.json" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_too_few_networks_are_refused_before_they_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: Any, **words: Any) -> None:
        raise AssertionError("a runner was started")

    monkeypatch.setattr(RunnerProcess, "__init__", never)
    assert_refused(monkeypatch, capsys, [*LATENCY_OF, *ON_ORT, "--fit", "f.json"], "8 networks")


@needs_onnxruntime
@pytest.mark.usefixtures("here", "_quick")
def test_nothing_is_learned_from_networks_without_latency(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_to_convert(monkeypatch, 1)
    arguments = [*LATENCY_OF, *ON_ORT, "--no-memory", "--fit", "f.json"]
    assert nasattn(monkeypatch, *arguments) in (1, 2)
    assert not Path("f.json").exists()


# In a search

SEARCH = ["search", "--space", "tiny.yaml", "--resolution", "8", "--train-size", "64"]
SEARCH += ["--epochs", "1", "--seeds", "0", "--sampler", "random", "--objective", "top1"]


@pytest.mark.slow
@needs_onnxruntime
@pytest.mark.usefixtures("here")
def test_a_search_goes_on_when_a_runtime_fails_for_one_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = Bench.__init__.__kwdefaults__ or {}
    monkeypatch.setitem(defaults, "effort", QUICK)
    fail_to_convert(monkeypatch, 3)  # the reference is first, as a network and as itself
    arguments = [*SEARCH, "--objective", f"{ON}:threads=1", "--trials", "3"]
    assert nasattn(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "ms@onnxruntime: ONNX Runtime, batch 1, 1 thread, cpu," in out
    study = optuna.load_study(study_name="tiny-digits", storage="sqlite:///nasattn.db")
    assert study.metric_names == ["top1", ON]
    assert study.user_attrs["settings"]["objectives"] == ["top1", ON]
    failed, *others = study.get_trials(deepcopy=False)
    assert (failed.state, state_of(failed)) == (TrialState.FAIL, "failed")
    assert failed.user_attrs["reason"] == "onnxruntime: cannot be converted (no such layer)"
    done = [trial for trial in others if trial.state == TrialState.COMPLETE]
    assert len(done) >= 2
    references = study.user_attrs["reference_ms"]
    assert references.keys() == {ON}
    for trial in done:
        latency = Latency(**trial.user_attrs["latency"][ON])
        assert latency.runtime.startswith("onnxruntime ")
        assert trial.values[1] == pytest.approx(latency.relative * references[ON])
    rows = list(csv.DictReader(Path("runs/tiny-digits/front.csv").read_text().splitlines()))
    assert all(float(row[ON]) > 0 for row in rows)


@pytest.mark.usefixtures("here")
def test_a_search_takes_turns_with_what_measures(cache: Path) -> None:
    spec = load_study_spec(None, {"space": "tiny.yaml", "resolution": 8})
    way = train(spec, load_space("tiny.yaml"), Console(quiet=True), cache)
    assert way.setting.turns.file == cache / "machine.lock"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("runtime", "message"),
    [("absent", "runtime 'absent' lacks no-such"), (f"torch:threads={TOO_MANY}", "threads")],
)
def test_a_search_on_a_runtime_that_cannot_be_used_is_refused_at_once(
    runtime: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = replace(RUNTIMES["onnxruntime"], name="absent", runs={"no_such": "no-such"})
    monkeypatch.setitem(RUNTIMES, "absent", absent)
    arguments = [*SEARCH, "--objective", f"latency_ms@{runtime}", "--trials", "1"]
    assert_refused(monkeypatch, capsys, arguments, message)

"""Runtimes: what a line says of one, the table, runners in this process and in their own."""

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nasattn.arch import parse_architecture
from nasattn.cost.bench import Bench
from nasattn.cost.parity import TOLERANCE
from nasattn.errors import (
    EvaluationError,
    NasattnError,
    RuntimeMissingError,
    StudyError,
    UnknownNameError,
)
from nasattn.model import build_model
from nasattn.runtimes import facts, process, table
from nasattn.runtimes.process import ROOT, RunnerProcess, command_of, sources
from nasattn.runtimes.runner import Runner, serve
from nasattn.runtimes.spec import RuntimeSpec, parse_runtime
from nasattn.runtimes.table import RUNTIMES, Runtime, get_runtime, installed, is_installed
from tests.runtimes import FAKE, QUICK, FakeSsh, Scale, add_fake_runtime
from tests.sweep import sweep

# A line about a runtime


@pytest.mark.parametrize(
    ("text", "expected", "short"),
    [
        ("torch", RuntimeSpec(), "torch"),
        ("torch:", RuntimeSpec(), "torch"),
        ("torch:threads=1,batch=1,device=cpu", RuntimeSpec(), "torch"),
        ("torch:device=cuda:1", RuntimeSpec(device="cuda:1"), "torch:device=cuda:1"),
        (
            "onnxruntime:batch=4,threads=2",
            RuntimeSpec(runtime="onnxruntime", threads=2, batch=4),
            "onnxruntime:threads=2,batch=4",
        ),
        (
            "ncnn:target=ssh://me@[::1]:22,python=~/env/bin/python3",
            RuntimeSpec(runtime="ncnn", target="ssh://me@[::1]:22", python="~/env/bin/python3"),
            "ncnn:target=ssh://me@[::1]:22,python=~/env/bin/python3",
        ),
    ],
)
def test_parse_runtime_reads_a_line(text: str, expected: RuntimeSpec, short: str) -> None:
    spec = parse_runtime(text)
    assert spec == expected
    assert str(spec) == short
    assert parse_runtime(short) == spec


@given(
    st.sampled_from(["onnxruntime", "torch"]),
    st.integers(1, 1024),
    st.integers(1, 4096),
    st.sampled_from(["", "ssh://pi", "ssh://pi@10.0.0.7:2222", "ssh://[fe80::1]"]),
)
def test_what_is_written_of_a_runtime_is_read_back(
    runtime: str, threads: int, batch: int, target: str
) -> None:
    spec = RuntimeSpec(runtime=runtime, threads=threads, batch=batch, target=target)
    assert parse_runtime(str(spec)) == spec


def test_parse_runtime_takes_what_is_left_out_from_defaults() -> None:
    spec = parse_runtime("onnxruntime:threads=2", threads=4, batch=8)
    assert (spec.threads, spec.batch) == (2, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown runtime ''"),
        ("onnxrunntime", "unknown runtime 'onnxrunntime'; did you mean 'onnxruntime'"),
        ("tvm", "unknown runtime 'tvm'; known: .*litert.*torch"),
        ("torch:cuda", "'cuda' must be OPTION=VALUE, each once; options: threads, batch, device"),
        ("torch:threads=1,threads=2", "'threads=2' must be OPTION=VALUE, each once"),
        ("torch:thread=2", "unknown field 'thread'; did you mean 'threads'"),
        ("torch:runtime=ncnn", "the runtime stands before the colon"),
        ("torch:threads=", "threads: .*is ''"),
        ("torch:threads=two", "threads: .*is 'two'"),
        ("torch:threads=0", "threads: must be greater than 0, is '0'"),
        ("torch:threads=1025", "threads: must be less than or equal to 1024"),
        ("torch:batch=-1", "batch: must be greater than 0, is '-1'"),
        ("torch:batch=1.5", "batch: .*is '1.5'"),
        ("torch:device=tpu", "device: .*is 'tpu'"),
        ("torch:device=cuda:", "device: .*is 'cuda:'"),
        ("torch:device=cuda\n", "device: "),
        ("onnxruntime:device=cuda", "device 'cuda': onnxruntime runs on cpu only"),
        ("ncnn:batch=2", "batch 2: ncnn takes one picture at a time"),
        ("torch:python=python3 -c", "python: .*is 'python3 -c'"),
        ("torch:python=a;b", "python: .*is 'a;b'"),
        ("torch:python=$(b)", "python: "),
        ("torch:target=pi", "target: 'pi': must be like ssh://user@host or ssh://host:2222"),
        ("torch:target=http://pi", "must be like ssh://"),
        ("torch:target=ssh://", "must be like ssh://"),
        ("torch:target=ssh://-oProxyCommand=x", "OPTION=VALUE|must be like ssh://"),
        ("torch:target=ssh://-oProxyCommand=touch%20x", "must be like ssh://"),
        ("torch:target=ssh://-lroot", "must be like ssh://"),
        ("torch:target=ssh://-x@host", "must be like ssh://"),
        ("torch:target=ssh://a@-x", "must be like ssh://"),
        ("torch:target=ssh://a b", "must be like ssh://"),
        ("torch:target=ssh://host/path", "must be like ssh://"),
        ("torch:target=ssh://host:port", "must be like ssh://"),
        ("torch:target=ssh://host:123456", "must be like ssh://"),
        ("torch:target=ssh://me:secret@host", "must be like ssh://"),
        ("torch:target=ssh://host\n", "must be like ssh://"),
        ("torch:target=ssh://$(touch x)", "must be like ssh://"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(NasattnError, match=message) as caught:
        parse_runtime(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target", ["ssh://pi:99999", "ssh://pi:0", "ssh://pi:١٢", "ssh://[::::]", "ssh://[1]"]
)
def test_an_address_that_cannot_be_is_refused(target: str) -> None:
    with pytest.raises(StudyError, match="target"):
        parse_runtime(f"torch:target={target}")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("ssh://pi", ["--", "pi"]),
        ("ssh://pi.local:2222", ["-p", "2222", "--", "pi.local"]),
        ("ssh://me@10.0.0.7", ["--", "me@10.0.0.7"]),
        ("ssh://Me.Too-1@pi:22", ["-p", "22", "--", "Me.Too-1@pi"]),
        ("ssh://[fe80::1]", ["--", "fe80::1"]),
        ("ssh://me@[::1]:2222", ["-p", "2222", "--", "me@::1"]),
    ],
)
def test_host_is_what_ssh_is_told(target: str, host: list[str]) -> None:
    assert RuntimeSpec(target=target).host == host


def test_host_keeps_its_case() -> None:
    assert RuntimeSpec(target="ssh://Pi").host == ["--", "Pi"]


def test_command_of_a_target_cannot_be_asked_anything() -> None:
    spec = parse_runtime("torch:target=ssh://me@pi:2222,python=~/env/bin/python")
    command = command_of(spec)
    assert command[0] == "ssh"
    options = command[: command.index("--")]
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes"):
        assert options[options.index(option) - 1] == "-o"
    assert command[-5:-1] == ["-p", "2222", "--", "me@pi"]
    assert command[-1].startswith("~/env/bin/python -c '")


def test_command_of_here_is_this_python_without_the_folder_it_stands_in() -> None:
    assert command_of(RuntimeSpec())[:3] == [sys.executable, "-P", "-c"]


# Before it is used


def test_check_refuses_more_threads_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    RuntimeSpec(threads=4).check()
    with pytest.raises(StudyError, match="threads: must be 1 to 4 on this machine, is 5"):
        RuntimeSpec(threads=5).check()
    RuntimeSpec(threads=5, target="ssh://pi").check()  # of which only a runner can tell


ABSENT = Runtime(
    "absent", "Absent", "absent", {"no_such_module": "no-such"}, {"nor_this": "nor-this"}
)


def test_check_says_what_is_missing_and_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "absent", ABSENT)
    there = ", ".join(installed())
    assert "torch" in there
    assert "absent" not in there
    message = "runtime 'absent' lacks nor-this, no-such: pip install 'nasattn[absent]'; "
    with pytest.raises(RuntimeMissingError, match=re.escape(f"{message}installed here: {there}")):
        RuntimeSpec(runtime="absent").check()
    # What runs it is needed on the target, what converts is needed here.
    with pytest.raises(RuntimeMissingError, match="'absent' lacks nor-this: "):
        RuntimeSpec(runtime="absent", target="ssh://pi").check()
    with pytest.raises(RuntimeMissingError, match="'absent' lacks nor-this: "):
        ABSENT.load()


def test_missing_names_a_package_once() -> None:
    row = Runtime("x", "X", "x", {"no_one": "p", "no_two": "p", "json": "q"}, {"no_three": "p"})
    assert row.missing() == ["p"]


def test_missing_names_the_program_of_a_converter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "an env"))
    row = Runtime("x", "X", "x", {"json": "q"}, program="converter==1.2")
    assert row.missing() == ["converter==1.2"] == row.missing(runs=False)
    venv = f"'{tmp_path}/an env/nasattn-x'"
    assert row.install == (
        f"pip install 'nasattn[x]' && python3 -m venv {venv} && "
        f"'{tmp_path}/an env/nasattn-x/bin/python' -m pip install converter==1.2 torch=="
        + version("torch").split("+")[0]
    )
    Path(row.own_python).parent.mkdir(parents=True)
    Path(row.own_python).touch()
    assert row.missing() == []


def test_an_unknown_name_says_what_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "absent", ABSENT)
    with pytest.raises(UnknownNameError) as caught:
        get_runtime("tvm")
    words = str(caught.value)
    assert words.startswith("unknown runtime 'tvm'; known: ")
    assert all(name in words for name in RUNTIMES)
    assert "; not installed here: " in words
    assert "pip install 'nasattn[absent]'" in words
    assert "nasattn[torch]" not in words  # which is here


def test_an_unknown_name_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RUNTIMES", {"torch": RUNTIMES["torch"]})
    with pytest.raises(UnknownNameError, match=r"known: torch$"):
        get_runtime("tvm")


@pytest.mark.parametrize(
    ("module", "there"),
    [("json", True), ("no_such", False), ("no_such.part", False), ("", False), ("json.x", False)],
)
def test_is_installed_looks_and_does_not_import(module: str, there: bool) -> None:
    assert is_installed(module) is there


def test_each_runtime_has_a_file_and_says_how_to_install_it() -> None:
    for name, row in RUNTIMES.items():
        assert row.name == name
        assert (ROOT / "nasattn" / "runtimes" / f"{row.file}.py").is_file()
        assert row.install.startswith(f"pip install 'nasattn[{name}]'")
        assert "cpu" in row.devices


# A runner in this process


class FakeSession:
    """Answers with the sum of what it is fed, a picture."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        self.folder, self.shape, self.args = folder, shape, (threads, device)
        self.files = {p.name: p.read_bytes() for p in folder.iterdir()}
        self.runs = 0
        if problem := PROBLEMS.get(self.files.get("problem", b"").decode()):
            raise problem

    def feed(self, numbers: Any) -> None:
        self.numbers = list(numbers)

    def run(self) -> None:
        self.runs += 1

    def answer(self) -> list[float]:
        return [sum(self.numbers)]


PROBLEMS = {
    "words": RuntimeError("first line\nsecond line"),
    "no words": RuntimeError(),
    "end of file": EOFError("Ran out of input"),
}


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """nasattn.runtimes.pretended"""
    module = ModuleType("nasattn.runtimes.pretended")
    module.Session = FakeSession  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nasattn.runtimes.pretended", module)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def request(do: str, payload: bytes = b"", **words: Any) -> bytes:
    return json.dumps({"do": do} | words).encode() + b"\n" + payload


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def load(
    name: str = "net", shape: tuple[int, ...] = (1, 2), files: Mapping[str, bytes] = {}
) -> bytes:
    """A request to load a network of these files, on zeros."""
    n = 1
    for side in shape:
        n *= side
    return request(
        "load",
        b"".join(files.values()) + floats(*[0.0] * n),
        name=name,
        file="pretended",
        sizes={file: len(data) for file, data in files.items()},
        shape=shape,
        threads=1,
        device="cpu",
    )


def serve_all(*requests: bytes) -> list[dict[str, Any]]:
    """The answers of a runner that is asked all this."""
    sink = io.BytesIO()
    serve(io.BytesIO(b"".join(requests)), sink)
    return [json.loads(line) for line in sink.getvalue().splitlines()]


FORGET = request("forget", name="nothing")  # a request that cannot fail
DONE = {"done": True}


@pytest.mark.usefixtures("fake_session")
def test_serve_answers_with_the_logits_of_what_it_is_fed() -> None:
    ask = request("answer", floats(1, 2, 4), name="net", shape=[1, 3])
    assert serve_all(load(shape=(1, 3)), ask) == [DONE, DONE | {"logits": [7.0]}]


@pytest.mark.usefixtures("fake_session")
def test_start_says_versions_and_the_machine() -> None:
    start = request("start", modules={"json": "pytest"}, threads=1, cores=0)
    (answer,) = serve_all(start)
    assert answer["done"] is True
    assert answer["versions"] == {"pytest": pytest.__version__}
    assert answer["pinned"] == []
    assert answer["cores"] == str(os.cpu_count())
    assert all(isinstance(answer[name], str) and answer[name] for name in facts.machine_facts())


@pytest.mark.usefixtures("fake_session")
def test_start_sets_the_threads_of_what_it_imports_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    serve_all(request("start", modules={}, threads=2, cores=0))
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "2"


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b"no JSON\n", "JSONDecodeError: "),
        (b"[]\n", "AttributeError: |TypeError: "),
        (b"{}\n", "KeyError: 'do'"),
        (request("dance"), "AttributeError: .*do_dance"),
        (request("forget"), "TypeError: .*name"),
        (request("forget", name="x", more=1), "TypeError: .*more"),
        (request("memory", name="x"), "KeyError: 'x'"),
        (request("start", modules={"no_such": "x"}, threads=1, cores=0), "x cannot be imported"),
        (request("start", modules={}, threads=10**6, cores=0), "^threads: must be at"),
        (load(files={"problem": b"words"}), "^first line$"),
        (load(files={"problem": b"no words"}), "^RuntimeError$"),
        (
            request("time", names=["x"], reference="y", effort={}, seed=0, reloads=True),
            "KeyError: '[xy]'",
        ),
    ],
)
def test_a_request_that_fails_has_one_answer_and_the_next_one_is_understood(
    bad: bytes, error: str
) -> None:
    first, second = serve_all(bad, FORGET)
    assert first.keys() == {"error"}
    assert re.search(error, first["error"])
    assert "\n" not in first["error"]
    assert second == DONE


@pytest.mark.usefixtures("fake_session")
def test_an_end_of_file_in_a_runtime_is_an_error_like_others() -> None:
    first, second = serve_all(load(files={"problem": b"end of file"}), FORGET)
    assert first == {"error": "EOFError: Ran out of input"}
    assert second == DONE


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize("cut", [1, 8, 9, 12])
def test_an_end_within_files_or_numbers_ends_quietly(cut: int) -> None:
    # 8 bytes of numbers, and 4 of a file before
    assert serve_all(FORGET, load(files={"model": b"abcd"})[:-cut]) == [DONE]


@pytest.mark.usefixtures("fake_session")
def test_a_long_file_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.runtimes.runner.CHUNK", 7)
    data = bytes(range(256))
    seen: list[bytes] = []
    monkeypatch.setattr(FakeSession, "run", lambda self: seen.append(self.files["model"]))
    assert serve_all(load(files={"model": data})) == [DONE]
    assert seen == [data]


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/nasattn-escaped", "a/b/escaped"])
def test_names_of_files_never_leave_the_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runner"
    folder.mkdir()
    source = io.BytesIO(load(files={name: b"12"}))
    runner = Runner(source, folder)
    assert list(runner.do(json.loads(source.readline()))) == [DONE]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p.name for p in files] == [Path(name).name]
    assert files[0].parent.parent == folder
    assert not Path("/tmp/nasattn-escaped").exists()


@pytest.mark.usefixtures("fake_session")
def test_the_bytes_of_a_file_that_cannot_be_opened_are_taken() -> None:
    first, second = serve_all(load(files={"..": b"no\nrequest\n"}), FORGET)
    assert first == second == DONE  # under another name


@pytest.mark.usefixtures("fake_session")
def test_nothing_is_left_when_a_runner_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert serve_all(load(files={"model": b"x"}), load(files={"problem": b"words"}))[0] == DONE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake_session")
def test_time_gives_each_network_beside_the_reference() -> None:
    effort = {"precision": 0, "rounds": 4, "least": 2, "most": 2, "seconds": 60.0}
    time = request("time", names=["a", "b"], reference="r", effort=effort, seed=1, reloads=True)
    *loaded, a, b, last = serve_all(load("r"), load("a"), load("b"), time)
    assert loaded == [DONE] * 3
    assert {a["name"], b["name"]} == {"a", "b"}
    for one in (a, b):
        assert [len(times) for times in one["own"]] == [4, 4]
        assert [len(times) for times in one["reference"]] == [4, 4]
        assert all(ms >= 0 for times in one["own"] for ms in times)
    assert last["done"] is True


@pytest.mark.usefixtures("fake_session")
@pytest.mark.parametrize(("reloads", "n"), [(True, 3), (False, 1)])
def test_time_loads_each_network_anew_where_the_runtime_can(
    reloads: bool, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    first = FakeSession.__init__

    def note(self: FakeSession, folder: Path, *rest: Any) -> None:
        first(self, folder, *rest)
        made.append(self.files["model"].decode())

    monkeypatch.setattr(FakeSession, "__init__", note)
    effort = {"precision": 0, "rounds": 2, "least": 3, "most": 3, "seconds": 60.0}
    time = request("time", names=["a"], reference="r", effort=effort, seed=1, reloads=reloads)
    serve_all(load("r", files={"model": b"r"}), load("a", files={"model": b"a"}), time)
    assert sorted(made) == sorted(["a", "r"] * n)


@pytest.mark.usefixtures("fake_session")
def test_a_session_may_have_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSession, "timed_run", lambda self: 12.5, raising=False)
    effort = {"precision": 0, "rounds": 2, "least": 1, "most": 1, "seconds": 60.0}
    time = request("time", names=["a"], reference="a", effort=effort, seed=1, reloads=False)
    _, answer, _ = serve_all(load("a"), time)
    assert answer["own"] == answer["reference"] == [[12.5, 12.5]]


@pytest.mark.usefixtures("fake_session")
def test_what_is_forgotten_cannot_be_asked() -> None:
    found = serve_all(load(), request("forget", name="net"), request("memory", name="net"))
    assert found[-1] == {"error": "KeyError: 'net'"}


@pytest.mark.usefixtures("fake_session")
def test_memory_is_above_what_the_runtime_takes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1000, 3500])
    monkeypatch.setattr(facts, "peak_memory", lambda: next(peaks))
    monkeypatch.setattr(facts, "energy_counters", list)
    start = request("start", modules={}, threads=1, cores=0)
    assert serve_all(start, load(), request("memory", name="net"))[-1] == DONE | {
        "peak_bytes": 2500
    }


@pytest.mark.usefixtures("fake_session")
def test_memory_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "peak_memory", lambda: 0)
    monkeypatch.setattr(facts, "energy_counters", list)
    assert serve_all(load(), request("memory", name="net"))[-1] == DONE | {"peak_bytes": None}


@pytest.mark.usefixtures("fake_session")
def test_energy_is_millijoules_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # 7000 microjoules over 4 runs; the clock moves a quarter of the time a run
    ticks = iter([0.0, 0.0, 0.25, 0.5, 0.75, 1.0])
    joules = iter([1000, 8000])
    monkeypatch.setattr(facts, "energy_counters", lambda: [Path("counter")])
    monkeypatch.setattr(facts, "energy", lambda counters: next(joules))
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("nasattn.runtimes.runner.time", clock)
    answer = serve_all(load(), request("memory", name="net"))[-1]
    assert answer["energy_mj"] == pytest.approx(7.0 / 4)


# Facts


def test_energy_is_the_sum_of_whole_packages(tmp_path: Path) -> None:
    for name, text in (("intel-rapl:0", "5\n"), ("intel-rapl:1", "7\n"), ("intel-rapl:0:0", "9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(text)
    counters = facts.energy_counters(tmp_path)
    assert [p.parent.name for p in counters] == ["intel-rapl:0", "intel-rapl:1"]
    assert facts.energy(counters) == 12
    assert facts.energy_counters(tmp_path / "none") == []


def test_machine_facts_say_what_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "CPU", tmp_path)
    monkeypatch.setattr(facts, "POWERCAP", tmp_path)
    monkeypatch.setattr(facts, "_read", lambda path: "")
    found = facts.machine_facts()
    assert found["governor"] == "not available"
    assert found["processor"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_pin_takes_the_idlest_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(*idle: int) -> str:
        rows = [f"cpu{core} 1 1 1 {ticks} 1" for core, ticks in enumerate(idle)]
        return "\n".join(["cpu 9 9 9 99 9", *rows, "intr 5", "ctxt 7"])

    # Core 3 was idle longest, but is not ours; of ours it is 4 (90 ticks), then 1 (50).
    looks = iter([stat(0, 100, 0, 0, 0), stat(10, 150, 40, 99, 90)])
    taken: list[list[int]] = []
    monkeypatch.setattr(facts, "_read", lambda path: next(looks))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 4})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: taken.append(list(cores)))
    assert facts.pin(2, seconds=0) == [1, 4]
    assert taken == [[4, 1]]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@pytest.mark.parametrize(("n", "read"), [(99, "cpu0 1 1 1 1"), (1, "")])
def test_pin_leaves_alone_what_it_cannot_tell(
    n: int, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("pinned")

    monkeypatch.setattr(facts, "_read", lambda path: read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "sched_setaffinity", never)
    assert facts.pin(n, seconds=0) == []


def test_peak_memory_is_at_least_what_is_held() -> None:
    held = bytearray(b"x") * (64 << 20)
    assert facts.peak_memory() >= len(held)


def test_a_runner_needs_the_standard_library_alone() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import nasattn.runtimes.runner\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names - set(sys.stdlib_module_names) - {'nasattn', '__main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


# Runners in processes of their own

PICTURES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    add_fake_runtime(monkeypatch)
    yield
    sys.modules.pop(f"nasattn.runtimes.{FAKE.file}", None)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    return FakeSsh(monkeypatch, tmp_path / "there")


def bench(runtime: str = "fake", reference: nn.Module | None = None, **how: Any) -> Bench:
    spec = parse_runtime(runtime)
    return Bench(spec, reference or Scale(), PICTURES, **{"effort": QUICK} | how)


@pytest.mark.usefixtures("_fake")
def test_a_runner_process_answers_and_ends() -> None:
    runner = RunnerProcess(parse_runtime("fake"))
    assert runner.facts["versions"] == {"pytest": pytest.__version__}
    assert runner.tell("forget", name="x") == {}
    assert runner.process.poll() is None
    runner.close()
    assert runner.process.returncode == 0


@pytest.mark.usefixtures("_fake")
def test_a_runner_is_pinned_and_its_parent_is_not() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs Linux")
    before = os.sched_getaffinity(0)
    runner = RunnerProcess(parse_runtime("fake"), cores=1)
    try:
        (core,) = runner.facts["pinned"]
        assert os.sched_getaffinity(runner.process.pid) == {core}
        assert os.sched_getaffinity(0) == before
    finally:
        runner.close()


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("starts", [True, False])
def test_a_runner_leaves_no_file_open(starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def open_file() -> Any:
        files.append(tempfile.TemporaryFile())  # noqa: SIM115 - a runner's
        return files[-1]

    monkeypatch.setattr(process, "tempfile", SimpleNamespace(TemporaryFile=open_file))
    if starts:
        del (runner := [RunnerProcess(parse_runtime("fake"))])[:]
        assert not runner
    else:
        monkeypatch.setattr(process, "LOCAL", "")
        with pytest.raises(EvaluationError):
            RunnerProcess(parse_runtime("fake"))
    closed = files[0].closed
    files[0].close()
    assert closed


@pytest.mark.usefixtures("_fake")
def test_a_runner_ends_with_what_holds_it() -> None:
    runner = RunnerProcess(parse_runtime("fake"))
    process = runner.process
    del runner
    assert process.returncode == 0


@pytest.mark.usefixtures("_fake")
def test_an_error_there_is_one_here_and_the_runner_goes_on() -> None:
    runner = RunnerProcess(parse_runtime("fake"))
    try:
        with pytest.raises(EvaluationError, match=r"^fake: KeyError: 'nothing'$"):
            runner.tell("memory", name="nothing")
        assert runner.tell("forget", name="x") == {}
    finally:
        runner.close()


def test_a_package_that_is_missing_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, ssh: FakeSsh
) -> None:
    monkeypatch.setitem(RUNTIMES, "absent", ABSENT)
    with pytest.raises(
        EvaluationError,
        match=r"^absent:target=.*: no-such cannot be imported .*pip install no-such",
    ):
        RunnerProcess(parse_runtime(ssh.on("absent")))


def test_threads_that_are_not_there_are_refused_by_the_runner() -> None:
    with pytest.raises(EvaluationError, match=r"threads: must be at most \d+ there, is 1024"):
        RunnerProcess(RuntimeSpec(runtime="onnxruntime", threads=1024))


def test_a_program_that_cannot_be_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"ssh cannot be started \(.*No such file"):
        RunnerProcess(parse_runtime("onnxruntime:target=ssh://pi"))


@pytest.mark.usefixtures("_fake")
def test_a_killed_runner_is_one_line_and_the_next_measurement_starts_another() -> None:
    one = bench()
    try:
        first = one.start().process
        lost = r"^fake: the process was lost \(status -9\)$"
        with pytest.raises(EvaluationError, match=lost):
            one.measure(Scale(2.0, "die to run"))
        assert first.returncode == -signal.SIGKILL
        assert one.measure(Scale(2.0)).n == 3
        assert one.start().process is not first
    finally:
        one.close()


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("deed", ["", "die to load"])
def test_a_runner_that_is_lost_before_it_times_is_replaced(deed: str) -> None:
    one = bench()
    try:
        if not deed:  # killed from outside, between two measurements
            process = one.start().process
            process.kill()
            process.wait()
        else:
            with pytest.raises(EvaluationError, match="was lost"):
                one.measure(Scale(2.0, deed))
        assert one.measure(Scale(2.0)).n == 3
    finally:
        one.close()


@pytest.mark.usefixtures("_fake")
def test_the_last_words_of_a_runner_are_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "import sys; print('Illegal instruction', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr(process, "LOCAL", words)
    with pytest.raises(EvaluationError, match=r"^fake: the process was lost \(Illegal inst"):
        RunnerProcess(parse_runtime("fake"))


@pytest.mark.usefixtures("_fake")
def test_what_a_runtime_prints_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = (
        "import nasattn.runtimes.runner as r, os; "
        "r.Runner.do_forget = lambda self, name: "
        "(print('{'), os.system('echo {'), iter([{'done': True}]))[-1]; "
    )
    monkeypatch.setattr(process, "LOCAL", f"{process.LOCAL[: -len('main()')]}{prints}main()")
    runner = RunnerProcess(parse_runtime("fake"))
    try:
        assert runner.tell("forget", name="x") == {}
    finally:
        runner.close()


# Other machines


def test_sources_are_what_a_runner_imports() -> None:
    files = sources()
    assert {"__init__.py", "runtimes/runner.py", "runtimes/protocol.py"} <= files.keys()
    assert {f"runtimes/{row.file}.py" for row in RUNTIMES.values()} <= files.keys()
    assert all(data == (ROOT / "nasattn" / k).read_bytes() for k, data in files.items() if "/" in k)


@pytest.mark.usefixtures("_fake")
def test_a_network_is_measured_on_another_machine_and_nothing_stays_there(ssh: FakeSsh) -> None:
    one = bench(ssh.on("fake"), memory=True)
    latency = one.measure(Scale(3.0))
    assert (latency.n, latency.target) == (3, ssh.target)
    assert latency.runtime == f"fake {pytest.__version__}"
    assert latency.peak_bytes is None or latency.peak_bytes >= 0
    assert ssh.left_behind != []
    one.close()
    assert ssh.left_behind == []
    assert len(ssh.calls) == 2  # another one for memory
    for call in ssh.calls:
        assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(call)
        assert call[-3:-1] == ["--", "somewhere"]


def test_a_real_network_is_measured_on_another_machine(ssh: FakeSsh) -> None:
    skip_if_missing(RUNTIMES["onnxruntime"])
    one = Bench(parse_runtime(ssh.on("onnxruntime")), tiny(), torch.rand(4, 3, 8, 8), effort=QUICK)
    (measured,) = one.measure_all({"net": tiny()})
    one.close()
    assert measured.reason == ""
    assert measured.latency is not None
    assert measured.latency.target == ssh.target
    assert measured.parity is not None
    assert measured.parity.max_diff <= TOLERANCE
    assert not [p for p in ssh.left_behind if p.name.startswith("nasattn")]


@pytest.mark.skipif(sys.platform != "linux", reason="its marks are looked for as Linux has them")
def test_onnxruntime_sends_nothing_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_missing(RUNTIMES["onnxruntime"])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    RunnerProcess(parse_runtime("onnxruntime")).close()
    assert not (tmp_path / ".ses").exists()  # the session that its reports are of


@pytest.mark.usefixtures("_fake")
def test_a_host_that_ssh_refuses_is_one_line(ssh: FakeSsh) -> None:
    ssh.be(refuses="Host key verification failed.")
    with pytest.raises(EvaluationError) as caught:
        bench(ssh.on("fake")).measure(Scale())
    words = str(caught.value)
    assert words.startswith("fake:target=ssh://somewhere,")
    assert words.endswith(": ssh://somewhere was lost (Host key verification failed.)")
    assert "\n" not in words


@pytest.mark.usefixtures("_fake")
# Of the answers the 1st is to start, then 17 a network (load, 16 pictures), then the timing.
@pytest.mark.parametrize("lines", [0, 1, 10])
def test_a_connection_that_drops_is_one_line(ssh: FakeSsh, lines: int) -> None:
    ssh.be(drops_after=lines)
    one = bench(ssh.on("fake"))
    with pytest.raises(EvaluationError, match=r"was lost \(client_loop: send disc"):
        one.measure(Scale())
    one.close()


@pytest.mark.usefixtures("_fake")
def test_a_connection_that_drops_while_timing_is_made_again(ssh: FakeSsh) -> None:
    ssh.be(drops_after=1 + 2 * 17)
    one = bench(ssh.on("fake"))
    try:
        with pytest.raises(EvaluationError, match=r"was lost \(client_loop: send disc"):
            one.measure(Scale())
        ssh.be()
        assert one.measure(Scale()).n == 3
    finally:
        one.close()


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("lines", [0, 1 + 2 * 17])
def test_a_connection_that_drops_within_a_line_is_one_line(ssh: FakeSsh, lines: int) -> None:
    ssh.be(drops_after=lines, bytes_of_last=9)
    one = bench(ssh.on("fake"))
    try:
        with pytest.raises(EvaluationError, match=r"was lost \(client_loop"):
            one.measure(Scale())
    finally:
        one.close()


# Every runtime


def tiny() -> nn.Module:
    """A network with attention over channels and over places."""
    stage = {"depth": 1, "width": 8, "attention": {"kind": "cbam"}}
    arch = parse_architecture({"stem": {"width": 8}, "stages": [stage]})
    torch.manual_seed(0)
    return build_model(arch, num_classes=5)


def skip_if_missing(row: Runtime) -> None:
    if packages := row.missing():
        pytest.skip(f"{row.name} lacks {', '.join(packages)}")


@pytest.mark.filterwarnings("ignore")  # of converters, which are others' code
@pytest.mark.parametrize("name", sweep(RUNTIMES, ["torch", "onnxruntime"]))
def test_each_runtime_converts_a_network_that_answers_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_if_missing(RUNTIMES[name])
    monkeypatch.chdir(tmp_path)
    pictures = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    one = Bench(parse_runtime(name), tiny(), pictures, effort=QUICK)
    try:
        (measured,) = one.measure_all({"tiny": tiny()})
    finally:
        one.close()
    assert measured.reason == ""
    assert measured.parity is not None
    assert measured.parity.n == 16  # the six pictures again and again
    assert measured.parity.max_diff <= TOLERANCE
    assert measured.parity.n_agree == measured.parity.n_clear
    latency = measured.latency
    assert latency is not None
    assert re.fullmatch(rf"{name} \d[\w.+]*", latency.runtime)
    assert latency.n == 3
    assert latency.median_ms > 0
    assert latency.relative > 0
    assert latency.size_bytes is not None
    assert latency.size_bytes > 1000
    assert list(tmp_path.iterdir()) == []  # converters leave nothing where one stands


@pytest.mark.filterwarnings("ignore")
def test_ncnn_converts_a_network_whose_parts_have_numbers_for_names() -> None:
    skip_if_missing(RUNTIMES["ncnn"])
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    one = Bench(parse_runtime("ncnn"), tiny(), torch.rand(6, 3, 8, 8), effort=QUICK)
    assert {"model.ncnn.param", "model.ncnn.bin"} == one.convert(net).files.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "mnn"])
def test_runtimes_take_several_pictures_at_once(name: str) -> None:
    skip_if_missing(RUNTIMES[name])
    spec = parse_runtime(f"{name}:batch=5")
    one = Bench(spec, tiny(), torch.rand(6, 3, 8, 8), effort=QUICK)
    try:
        (measured,) = one.measure_all({"tiny": tiny()})
    finally:
        one.close()
    assert measured.reason == ""
    assert measured.parity is not None
    assert measured.parity.n == 20  # four whole batches, 16 pictures at least
    assert measured.latency is not None
    assert measured.latency.fps == pytest.approx(5000 / measured.latency.median_ms)

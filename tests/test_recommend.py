"""`nasattn recommend`: the pick by its rule, and the study file that it writes."""

from pathlib import Path

import pytest
from rich.console import Console

from nasattn.cli.options import amount
from nasattn.cli.recommend import pick_table, pick_words, read_wish
from nasattn.errors import NasattnError, StudyError
from nasattn.recommend import MEASURED, PRIORITIES, PUBLISHED, Known, Wish, pick, published_top1
from nasattn.search.spec import load_study_spec
from nasattn.zoo import ZOO
from tests.command import assert_refused, nasattn

FEW = {name: ZOO[name] for name in ("lam", "mobilenet_v2", "squeezenet", "resnet18_cifar")}
SMALL = ["--resolution", "32", "-o", "own.yaml"]
SPACE = """
template:
  stem: {width: 4}
  stages: [{depth: 1, width: 8}]
parameters:
  stages.0.width: [8, 12]
"""


@pytest.fixture(autouse=True)
def _here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.cli.recommend.ZOO", FEW)


def known(name: str, params: int, macs: int, top1: float, basis: str = PUBLISHED) -> Known:
    return Known(name, "mobile", params, macs, top1, basis)


# a is the most accurate, b small and near, c smaller and far off, d the one with fewest macs.
ABCD = [
    known("a", 900, 9000, 0.90),
    known("b", 500, 5000, 0.88),
    known("c", 100, 6000, 0.60),
    known("d", 600, 4000, 0.87),
]


@pytest.mark.parametrize(
    ("priority", "limits", "name"),
    [
        ("accuracy", {}, "a"),
        ("size", {}, "b"),
        ("power", {}, "d"),
        ("speed", {}, "d"),  # by macs: no latency was measured
        ("accuracy", {"max_params": "550"}, "b"),
        ("size", {"max_params": "0.2k"}, "c"),
        ("accuracy", {"max_macs": "4k"}, "d"),
        ("size", {"min_top1": "0.89"}, "a"),
    ],
)
def test_pick_is_the_cheapest_within_three_points_of_the_best(
    priority: str, limits: dict[str, str], name: str
) -> None:
    none = dict.fromkeys(("max_params", "max_macs", "max_latency", "min_top1"))
    wish = read_wish(priority, **(none | limits))
    found = pick(ABCD, wish, "CIFAR-10", same=True)
    assert found.network.name == name
    assert found.reason.startswith(f"{name}: the {PRIORITIES[priority].words.split()[0]} ")


def test_pick_prefers_what_was_measured_to_what_was_published() -> None:
    mine = known("mine", 700, 7000, 0.5, MEASURED)
    found = pick([*ABCD, mine], Wish("size"), "ImageNet", same=False)
    assert (found.network, found.shown, found.n_other) == (mine, (mine,), 4)


def test_pick_holds_no_limit_against_figures_of_other_pictures() -> None:
    wish = read_wish("size", None, None, "5ms@onnxruntime", "0.89")
    found = pick(ABCD, wish, "ImageNet", same=False)
    assert found.network.name == "b"
    assert found.open == ("latency_ms@onnxruntime<=5", "top1>=0.89")
    with pytest.raises(StudyError, match=r"no known network keeps to params<=10; .* has 100,"):
        pick(ABCD, read_wish("size", "10", None, None, None), "ImageNet", same=False)


def test_pick_by_speed_goes_by_measured_latencies() -> None:
    two = [
        Known(name, "mobile", 1, macs, 0.9, MEASURED, {"latency_ms": ms})
        for name, macs, ms in (("few", 10, 9.0), ("quick", 20, 3.0))
    ]
    assert pick(two, Wish("speed"), "", same=True).network.name == "quick"
    assert pick(two, Wish("power"), "", same=True).network.name == "few"


def test_published_top1_is_that_of_one_data_set() -> None:
    assert published_top1(ZOO["lam"], "CIFAR-10") == pytest.approx(0.935)
    assert published_top1(ZOO["lam"], "ImageNet") == pytest.approx(0.738)
    assert published_top1(ZOO["resnet18_cifar"], "CIFAR-10") == pytest.approx(1 - 0.0568)
    assert published_top1(ZOO["resnet18_cifar"], "ImageNet") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("3M", 3e6), ("300k", 3e5), ("1.5G", 1.5e9), ("2e6", 2e6), (".5 M", 5e5), ("12", 12)],
)
def test_amount_reads_suffixes(text: str, value: float) -> None:
    assert amount("--max-params", text) == value


@pytest.mark.parametrize("text", ["", "M", "-3M", "0", "3T", "3MM", "inf", "nan", "1e999", "٣"])
def test_amount_refuses_what_is_no_number_above_0(text: str) -> None:
    with pytest.raises(NasattnError, match="--max-params: must be an amount like 300k"):
        amount("--max-params", text)


@pytest.mark.parametrize(
    ("priority", "objectives"),
    [
        ("size", ("top1", "params")),
        ("accuracy", ("top1", "macs")),
        ("speed", ("top1", "latency_ms@torch:threads=2")),
        ("power", ("top1", "macs", "latency_ms@torch:threads=2")),
    ],
)
def test_recommend_writes_a_study_that_search_takes(
    priority: str,
    objectives: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits = ["--max-params", "3M", "--max-macs", "300M", "--min-top1", ".9"]
    latency = ["--max-latency", "8ms@torch:threads=2"]
    arguments = ["recommend", "--priority", priority, *limits, *latency, *SMALL]
    assert nasattn(monkeypatch, *arguments) == 0
    spec = load_study_spec("own.yaml", {})
    assert (spec.space, spec.data, spec.resolution) == ("mobile", "digits", 32)
    assert spec.objectives == objectives
    assert set(spec.constraints) == {
        "params<=3000000",
        "macs<=300000000",
        "latency_ms@torch:threads=2<=8",
        "top1>=0.9",
    }
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "> lam" in out or "> mobilenet_v2" in out
    assert "only published, top-1 on ImageNet" in out
    assert "resnet18_cifar" not in out  # nothing of it is published on ImageNet
    assert "nasattn search --study own.yaml" in out
    assert ("power: cannot be measured here" in out) == (priority == "power")


@pytest.mark.slow
def test_recommend_goes_by_a_stored_study_of_the_same_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.yaml").write_text(SPACE, encoding="utf-8")
    search = ["search", "--space", "space.yaml", "--resolution", "8", "--trials", "2"]
    quick = ["--train-size", "64", "--epochs", "1", "--seeds", "0", "--objective", "top1"]
    assert nasattn(monkeypatch, *search, *quick, "--objective", "macs") == 0
    capsys.readouterr()
    arguments = ["recommend", "--priority", "accuracy", "-o", "own.yaml", "--resolution"]
    assert nasattn(monkeypatch, *arguments, "8") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "measured top-1 (these pictures)" in out
    assert "lam" not in out
    # At another resolution they are other pictures.
    Path("own.yaml").unlink()
    assert nasattn(monkeypatch, *arguments, "32") == 0
    assert "published top-1 (ImageNet)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--priority", "sise"], "did you mean 'size'?"),
        (["--priority", "size", "--max-params", "3T"], "--max-params: must be an amount"),
        (["--priority", "size", "--max-latency", "fast"], "must be like 8ms or 8ms@onnxruntime"),
        (["--priority", "size", "--max-latency", "0ms"], "must be like 8ms"),
        (["--priority", "size", "--max-latency", "8ms@onnxrun"], "onnxruntime"),
        (["--priority", "size", "--min-top1", "90"], "--min-top1: must be a fraction above 0"),
        (["--priority", "size", "--max-params", "1k"], "no known network keeps to params<=1000"),
        (["--priority", "size", "--data", "absent"], "unknown data 'absent'"),
        (["--priority", "size", "-o", "taken.yaml"], "taken.yaml: is there already"),
        (["--priority", "size", "-o", "no/study.yaml"], "must be a file in a folder that exists"),
        (["--priority", "size", "--storage", "sqlite:///no.db"], "there is no file no.db"),
        (["--max-params", "3M"], "--priority"),
    ],
)
def test_recommend_refuses_in_one_line(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("taken.yaml").write_text("space: mobile\n", encoding="utf-8")
    assert_refused(monkeypatch, capsys, ["recommend", *options], message)


def test_pick_table_marks_what_was_only_published() -> None:
    one = Known("one", "mobile", 1, 2_000_000, 0.9, MEASURED, {"latency_ms": 9.0})
    other = Known("other", "mobile", 1, 1_000_000, 0.9, PUBLISHED, printed_ms="6.4 ms on RTX 3080")
    for known_one, cells in ((one, ["9.00", "90.0"]), (other, ["6.4 p", "90.0 p"])):
        wish = Wish("power")
        found = pick([known_one], wish, "CIFAR-10", same=True)
        console = Console(width=80)
        with console.capture() as capture:
            console.print(pick_table(found, wish))
        assert all(f"{cell}" in capture.get() for cell in cells)
        assert f"> {known_one.name}" in capture.get()
        assert ("ms: latency_ms, measured by the studies" in pick_words(found, wish, "")) == (
            known_one is one
        )

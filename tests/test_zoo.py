"""The zoo: every published count checked, layers that add up, and the commands that show them."""

import csv
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.attention.table import ATTENTIONS
from nasattn.baselines import BASELINES, get_baseline
from nasattn.baselines.baseline import COUNTED, PICTURES, Pictures, Published
from nasattn.cli import main
from nasattn.cli.zoo import count_words
from nasattn.cost import StaticCost, count_cost
from nasattn.cost.layers import Layer, count_layers
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.model import build_model
from nasattn.parts import StageSpec, StemSpec
from nasattn.references import REFERENCES
from nasattn.report.drawings.stages import other_fields
from nasattn.zoo import (
    ZOO,
    Check,
    NamedNetwork,
    check_published,
    get_network,
    read_network,
    select_networks,
)
from tests.sweep import sweep


def test_zoo_has_every_baseline_and_reference_once() -> None:
    assert not BASELINES.keys() & REFERENCES.keys()
    assert list(ZOO) == [*BASELINES, *REFERENCES]
    assert all(network.name == name and network.source for name, network in ZOO.items())


@pytest.mark.parametrize("name", sweep(ZOO))
def test_check_published_finds_every_verdict_right(name: str) -> None:
    checks = check_published(ZOO[name])
    assert [check.figure for check in checks] == list(ZOO[name].published)
    for check in checks:
        figure = check.figure
        assert (check.cost is not None) == (figure.metric in COUNTED)
        if check.cost and check.counted and check.difference is not None:
            assert not check.cost.uncounted
            assert check.holds, f"{name} {figure}: counted {check.counted}"
            assert check.difference == pytest.approx(check.counted / figure.value - 1)
            assert figure.why or figure.verdict != "no"


def claim(printed: str, verdict: str | None, metric: str = "params") -> Published:
    return Published(metric, printed, "CIFAR-10", "009, Table 9", verdict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figure", "holds"),
    [  # ResNet-20 has 0.2697 M parameters and 40.55 M multiply-adds on CIFAR-10
        (claim("0.27 M", "match"), True),
        (claim("0.27 M", "fit"), True),
        (claim("0.28 M", "match"), False),
        (claim("0.28 M", "no"), True),
        (claim("0.27 M", "no"), False),
        (claim("40.5 M", "match", "macs"), True),
        (claim("81.1 M", "match", "macs"), False),
        (claim("91.3 %", None, "top1"), None),
    ],
)
def test_check_holds_where_the_verdict_is_what_counting_gives(
    figure: Published, holds: bool | None
) -> None:
    resnet20 = NamedNetwork("x", get_baseline("resnet20_cifar").architecture, published=(figure,))
    (check,) = check_published(resnet20)
    assert check.holds is holds
    assert (check.counted is None) == (holds is None)


@pytest.mark.parametrize(
    ("printed", "tolerance", "exact"),
    [
        ("40.5 M", None, True),
        ("40.7 M", 0.01, False),
        ("40.5 M", 0.01, True),
        ("42 M", None, False),
    ],
)
def test_check_is_exact_only_to_the_printed_digits(
    printed: str, tolerance: float | None, exact: bool
) -> None:
    figure = Published("macs", printed, "CIFAR-10", "009, Table 9", "match", tolerance)
    resnet20 = NamedNetwork("x", get_baseline("resnet20_cifar").architecture, published=(figure,))
    assert check_published(resnet20)[0].exact is exact


@pytest.mark.parametrize("name", ["resnet20_cifar", "lam", "squeezenet"])
def test_count_is_that_of_a_real_network(name: str) -> None:
    pictures = Pictures(64, 7)
    network = get_network(name)
    assert network.count(pictures) == count_cost(network.build(7, 64), 64)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("lam", "ImageNet"),
        ("resnet18_cifar", "CIFAR-10"),
        ("wrn16_10", "CIFAR-100"),
        ("resnet18_se", "ImageNet-20"),
        ("resnet56_cifar", "CIFAR-10"),  # nothing of it was counted by the papers
        ("resnet34", "ImageNet"),
        ("mobilenet_v3_small", "ImageNet"),
    ],
)
def test_networks_know_the_pictures_they_are_drawn_for(name: str, key: str) -> None:
    assert get_network(name).pictures == PICTURES[key]


def test_build_adapts_ours_to_small_pictures_and_leaves_references_alone() -> None:
    ours, theirs = (get_network(n).build(5, 32, in_chs=1) for n in ("mobilenet_v2", "squeezenet"))
    strides = [m.stride[0] for net in (ours, theirs) for m in [conv(net)]]
    assert strides == [1, 2]
    assert [net(torch.zeros(1, 1, 32, 32)).shape for net in (ours, theirs)] == [(1, 5)] * 2


def conv(network: nn.Module) -> nn.Conv2d:
    """The first convolution."""
    return next(part for part in network.modules() if isinstance(part, nn.Conv2d))


def test_read_network_takes_names_and_files(tmp_path: Path) -> None:
    assert read_network("lam") is ZOO["lam"]
    lam = get_baseline("lam").architecture
    plain, searched, odd = (tmp_path / f"{n}.json" for n in ("plain", "searched", "odd"))
    plain.write_text(lam.to_json(), encoding="utf-8")
    facts = {"architecture": json.loads(lam.to_json())}
    settings = {"settings": {"resolution": 40}, "n_classes": 6}
    searched.write_text(json.dumps(facts | settings), encoding="utf-8")
    odd.write_text(json.dumps(facts | {"settings": [], "n_classes": "many"}), encoding="utf-8")
    assert [read_network(str(p)).architecture for p in (plain, searched, odd)] == [lam] * 3
    assert read_network(str(plain)).pictures == PICTURES["ImageNet"]
    assert read_network(str(searched)).pictures == Pictures(40, 6)
    assert read_network(str(odd)).pictures == PICTURES["ImageNet"]
    assert read_network(str(plain)).name == "plain"


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("lan", "", UnknownNameError, "unknown network 'lan'; did you mean 'lam'"),
        ("none.json", None, ArchitectureError, "none.json: cannot be read as JSON"),
        ("broken.json", "{", ArchitectureError, "broken.json: cannot be read as JSON"),
        ("list.json", "[1]", ArchitectureError, "list.json"),
        ("deep.json", "[" * 100_000, ArchitectureError, "cannot be read as JSON"),
        ("typo.json", '{"architecture": {"stm": {}}}', ArchitectureError, "unknown field 'stm'"),
    ],
)
def test_read_network_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str | None,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        read_network(name)


def test_select_networks_by_family_and_paper() -> None:
    assert select_networks() == list(ZOO.values())
    assert {n.family for n in select_networks("alexnet")} == {"alexnet"}
    names = [n.name for n in select_networks("reference", "000")]
    assert names == [
        "mobilenet_v1",
        "shufflenet_v1",
        "shufflenet_v2",
        "efficientnet_b0",
        "vgg19",
        "resnet152",
    ]
    with pytest.raises(UnknownNameError, match="unknown family 'mobil'; did you mean 'mobile'"):
        select_networks("mobil")
    with pytest.raises(UnknownNameError, match="unknown paper '2'; known: 000, 001, 002"):
        select_networks(paper="2")
    with pytest.raises(UnknownNameError, match="family 'alexnet': unknown paper '000'; did you"):
        select_networks("alexnet", "000")


# Layers


class Odd(nn.Module):
    """A layer that runs twice, a parameter of its own, a product, and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 1, bias=False)
        self.first = nn.Conv2d(3, 4, 3, padding=1, groups=1)
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.tied = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.tied.weight
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x))).mean((2, 3))
        y: Tensor = self.again(self.tied(x @ self.scale))
        return y


def test_count_layers_takes_odd_networks_apart() -> None:
    assert count_layers(Odd(), resolution=5) == [
        Layer("(root)", "Odd", (4,), 16, 16),
        Layer("twice", "Conv2d 1x1", (4, 5, 5), 16, 2 * 16 * 25),
        Layer("first", "Conv2d 3x3", (4, 5, 5), 27 * 4 + 4, 27 * 4 * 25),
        Layer("tied", "Linear", (4,), 16 + 4, 16),
        Layer("again", "Linear", (4,), 4, 16),  # its weight stands above
        Layer("never", "Linear", (), 4 + 2, 0),
    ]


@pytest.mark.parametrize("name", ["lam", "wrn16_10_lgam", "alexnet_nl", "mobilenet_v3_small"])
def test_layers_add_up_to_the_count(name: str) -> None:
    with torch.device("meta"):
        model = get_network(name).build(10, 64)
    layers, cost = count_layers(model, 64), count_cost(model, 64)
    assert sum(row.params for row in layers) == cost.params
    assert sum(row.macs for row in layers) == cost.macs
    assert len({row.name for row in layers}) == len(layers)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def with_stage(**fields: object) -> Architecture:
    """A small network whose second stage has some fields."""
    stages = [{"depth": 1, "width": 32}, {"depth": 2, "width": 32, "stride": 2, **fields}]
    return Architecture.model_validate({"stem": {"width": 32}, "stages": stages})


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_layers_add_up_with_every_attention(kind: str) -> None:
    with torch.device("meta"):
        model = build_model(with_stage(attention={"kind": kind}), 10)
    layers, cost = count_layers(model, 32), count_cost(model, 32)
    assert (sum(r.params for r in layers), sum(r.macs for r in layers)) == (cost.params, cost.macs)


def test_layers_add_up_to_what_a_picture_costs_for_which_all_parts_run() -> None:
    arch = with_stage(run_share=0.5)
    model = build_model(arch, 10)
    layers, cost = count_layers(model, 32), count_cost(model, 32)
    assert sum(row.macs for row in layers) == cost.max_macs > cost.macs


def test_count_layers_leaves_no_hook_behind_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 9))
    with pytest.raises(RuntimeError, match="Kernel size"):
        count_layers(model, 5)
    assert not model[0]._forward_hooks


# Commands


def nasattn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command, in 80 columns."""
    monkeypatch.setattr(sys, "argv", ["nasattn", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_zoo_fits_80_columns_and_says_what_cannot_be_reproduced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = nasattn(monkeypatch, capsys, "zoo", "--paper", "001")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines()]
    vgg = "vgg16 224/1000 138.36 15470.26 params 138 M +0.3 match 001"
    assert vgg.split() in rows
    assert ["macs", "149", "M", "-2.7", "match", "001"] in rows
    assert ["macs", "56", "M", "x10", "no", "001"] in rows
    assert "cannot be reproduced:\n- mobilenet_v1 macs 56 M (ImageNet; 001, section 4.1)" in out
    assert "000" not in {row[-1] for row in rows if row}


def test_zoo_shows_networks_of_which_nothing_was_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = nasattn(monkeypatch, capsys, "zoo", "--family", "reference")
    rows = [line.split() for line in out.splitlines()]
    assert ["mobilenet_v3_small", "224/1000", "2.54", "56.51"] in rows


def test_zoo_csv_has_every_published_figure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = nasattn(monkeypatch, capsys, "zoo", "--family", "reference", "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert status == 0
    published = [f for row in REFERENCES.values() for f in row.published]
    assert [row["printed"] for row in rows if row["printed"]] == [f.printed for f in published]
    vgg19 = next(row for row in rows if row["network"] == "vgg19")
    # 14 M are printed, 19,632,062,464 counted
    wanted = {"value": "14000000", "counted": "19632062464", "verdict": "no", "holds": "True"}
    assert {key: vgg19[key] for key in wanted} == wanted
    assert vgg19["difference"] == f"{19632062464 / 14e6 - 1:.4f}"
    latency = next(row for row in rows if row["metric"] == "latency_ms")
    empty = ("counted", "difference", "verdict", "resolution")
    assert [latency[key] for key in empty] == [""] * 4
    assert [r["params"] for r in rows if r["network"] == "mobilenet_v3_small"] == ["2542856"]


def test_zoo_markdown_has_the_columns_of_csv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, table, _ = nasattn(monkeypatch, capsys, "zoo", "--family", "alexnet", "--markdown")
    _, text, _ = nasattn(monkeypatch, capsys, "zoo", "--family", "alexnet", "--csv")
    head, rule, *rows = ([c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines())
    assert [head, *rows] == list(csv.reader(text.splitlines()))
    assert set(rule) == {"---"}


def test_zoo_verify_counts_what_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = nasattn(monkeypatch, capsys, "zoo", "--family", "alexnet", "--verify")
    assert status == 0
    assert " ".join(out.split()).startswith(
        "4 published counts: 1 match (1 to the printed digits), 1 fit (by a reading chosen for it),"
        " 2 cannot be reproduced, 0 off"
    )
    assert "- alexnet_nl params 65.7 M (ImageNet; 004, Table 1): 63.10 M counted" in out


@pytest.mark.parametrize(
    ("printed", "words"), [("4.36 G", "4.10 G counted"), ("400 M", "4095.57 M counted")]
)
def test_count_words_are_in_the_printed_unit(printed: str, words: str) -> None:
    figure = claim(printed, "no", "macs")
    check = Check(get_network("lam"), figure, StaticCost(0, 4_095_570_000, 0))
    assert count_words(check) == words


def test_zoo_verify_fails_where_a_figure_is_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = NamedNetwork(
        "wrong",
        get_baseline("resnet20_cifar").architecture,
        family="wrong",
        published=(claim("0.28 M", "match"), claim("0.27 M", "match"), claim("0.27 M", "no")),
    )
    monkeypatch.setattr("nasattn.zoo.ZOO", {"wrong": wrong})
    status, out, err = nasattn(monkeypatch, capsys, "zoo", "--verify")
    assert (status, err) == (1, "")
    assert "3 published counts: 1 match (1 to the printed digits), 0 fit" in out
    assert " 2 off" in " ".join(out.split())
    assert "- wrong params 0.28 M (CIFAR-10; 009, Table 9): off, 0.27 M counted" in out
    assert "cannot be reproduced:" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo", "--csv", "--verify"], "--verify, --markdown, --csv and --json: only one of"),
        (["zoo", "--family", "resnets"], "unknown family 'resnets'; did you mean 'resnet'"),
        (["zoo", "--paper", "5"], "unknown paper '5'"),
        (["show", "vgg16", "--json"], "--json: vgg16 is a reference, no architecture of ours"),
        (["show", "vgg6"], "unknown network 'vgg6'; did you mean 'vgg"),
        (["show", "squeezenet", "--resolution", "8"], "squeezenet: cannot be built here ("),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    status, out, err = nasattn(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("nasattn: ")
    assert err.count("\n") == 1
    assert message in err


def test_show_has_references_with_their_verdicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = nasattn(monkeypatch, capsys, "show", "shufflenet_v2")
    assert status == 0
    assert "shufflenet_v2 at 224x224, 1000 classes: 2.28 M params, 144.91 M macs" in out
    words = " ".join(out.split())
    assert "published: params 2.3 M (ImageNet; 000, Table 2): match, 2.28 M counted" in words
    assert "macs 149 M (ImageNet; 001, Table 1): match, 144.91 M counted; 144.9 M, and" in words
    assert "published: latency_ms 7.2 ms (RTX 3080; 000, Table 2)" in words
    assert "{" not in out


@pytest.mark.parametrize("name", ["lam", "vgg19"])
def test_show_layers_end_in_the_networks_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    _, out, _ = nasattn(monkeypatch, capsys, "show", name, "--layers")
    cost = ZOO[name].count(ZOO[name].pictures)
    total = f"total {cost.params:,} {cost.macs / 1e6:.3f} 100.0"
    assert total in [" ".join(line.split()) for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80


def test_show_layers_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = nasattn(monkeypatch, capsys, "show", "resnet20_cifar", "--layers", "--json")
    rows = json.loads(out)
    # stem: 3x3 convolution of 3 channels to 16 at 32x32
    wanted = {"kind": "Conv2d 3x3", "shape": [16, 32, 32], "params": 432, "macs": 432 * 1024}
    assert rows[0] == wanted | {"name": rows[0]["name"]}
    assert sum(row["macs"] for row in rows) == ZOO["resnet20_cifar"].count(Pictures(32, 10)).macs


def test_show_says_what_a_mean_picture_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "skips.json"
    path.write_text(with_stage(run_share=0.5).to_json(), encoding="utf-8")
    _, out, _ = nasattn(monkeypatch, capsys, "show", str(path), "--resolution", "32")
    cost = count_cost(build_model(with_stage(run_share=0.5), 1000), 32)
    mean, most = (f"{macs / 1e6:.2f} M" for macs in (cost.macs, cost.max_macs))
    assert mean != most
    assert f"{mean} macs ({most} when all parts run)" in " ".join(out.split())
    assert "run_share=0.5" in out


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (StageSpec(depth=2, width=8), ""),
        (StageSpec(depth=2, width=8, stride=2, block="bottleneck"), "bottleneck"),
        (
            StageSpec(depth=1, width=64, block="bottleneck", conv="splat", radix=4, groups=2),
            "bottleneck groups=2 conv=splat radix=4",
        ),
        (StemSpec.model_validate({"width": 8, "pool": True}), "pool=true"),
        (
            StemSpec.model_validate({"width": 8, "attention": {"kind": "se", "rd_ratio": 4}}),
            "attention=se(rd_ratio=4)",
        ),
    ],
)
def test_other_fields_are_those_not_at_their_default(
    part: StageSpec | StemSpec, words: str
) -> None:
    assert other_fields(part, shown=("depth", "width", "stride")) == words


def test_show_forgets_no_field_of_a_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = nasattn(monkeypatch, capsys, "show", "resneskt50_paper")
    stage = out[out.index("stage 1") : out.index("stage 2")].split()
    words = {"28", "512", "bottleneck", "conv=splat", "pool=before", "shortcut=avg", "groups=32"}
    assert words <= set(stage)
    assert max(map(len, out[: out.index("{")].splitlines())) <= 80

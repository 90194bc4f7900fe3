"""Pruning: the right channels go, everywhere that they are, and the file brings them back."""

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from nasattn.arch import Architecture
from nasattn.attention import ATTENTIONS
from nasattn.baselines import BASELINES
from nasattn.compress.graph import IMPORTANCES, ChannelGroup, channel_groups
from nasattn.compress.hints import GROUPED, HINTS, Fixed, Mixer, hint_of, is_depthwise
from nasattn.compress.narrow import Cut, Cuts, narrow
from nasattn.compress.prune import cuts_of, global_cuts, local_cuts, prune
from nasattn.cost import count_params
from nasattn.data import load_data
from nasattn.errors import StudyError, UnknownNameError, WeightsError
from nasattn.model import Network, build_model
from nasattn.paths import replace_paths
from nasattn.tensor_file import read_tensors, write_tensors
from nasattn.train.recipe import RECIPES
from nasattn.weights import Facts
from tests.command import assert_refused, nasattn, start

pytest.importorskip("torch_pruning")

CLASSES = 4
EXAMPLE = torch.zeros(2, 3, 16, 16)

STAGE = {"block": "basic", "width": 16, "depth": 1, "stride": 1}
TINY: dict[str, Any] = {
    "stem": {"width": 16},
    "stages": [STAGE, {"block": "basic", "width": 32, "depth": 2, "stride": 2}],
}


def tiny(**paths: Any) -> Architecture:
    """Three basic blocks of 16 and 32 channels, with some fields changed."""
    return replace_paths(Architecture(**TINY), paths)


def network(arch: Architecture, seed: int = 0) -> Network:
    """With batch norms that have seen something: no scale and shift is the same as another."""
    torch.manual_seed(seed)
    model = build_model(arch, CLASSES)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    return model.eval()


def spread(n: int = 2) -> Tensor:
    return torch.randn(n, *EXAMPLE.shape[1:], generator=torch.Generator().manual_seed(1))


BOTTLENECK = {"block": "bottleneck", "width": 32, "depth": 1, "stride": 2, "expansion": 2}
KINDS: dict[str, Architecture] = {
    "basic": tiny(),
    "se": tiny(**{"stages.1.attention.kind": "se"}),
    "bam": tiny(**{"stages.1.attention.kind": "bam"}),
    "option_a": tiny(**{"stages.1.shortcut": "pad"}),
    "gem": tiny(**{"head.pooling": "gem"}),
    "grid": tiny(**{"head.pooling": "grid", "head.hidden": 24, "head.hidden_layers": 2}),
    "aff": tiny(**{"fusion.kind": "aff"}),
    "head_conv": tiny(**{"head.conv_width": 24}),
    "grouped": Architecture(
        stem={"width": 16}, stages=[STAGE, BOTTLENECK | {"groups": 4}, BOTTLENECK | {"groups": 4}]
    ),
    "sk": Architecture(
        stem={"width": 16}, stages=[STAGE, BOTTLENECK | {"conv": "sk", "groups": 2}]
    ),
    "splat": Architecture(
        stem={"width": 16}, stages=[STAGE, BOTTLENECK | {"conv": "splat", "groups": 2, "radix": 2}]
    ),
    "depthwise": Architecture(
        stem={"width": 16},
        stages=[
            {"block": "inverted_residual", "width": 16, "depth": 2, "stride": 2, "expansion": 2}
        ],
    ),
    "preact": Architecture(
        stem={"width": 16},
        stages=[{"block": "preact_basic", "width": 24, "depth": 2, "stride": 2}],
    ),
}


def silence(model: nn.Module, cuts: Cuts) -> None:
    """Zero what a cut would take away, where it is made, and change nothing else."""
    for cut in cuts:
        gone = torch.tensor(sorted(set(range(cut.width)) - set(cut.kept)))
        for member in cut.members:
            name, _, side = member.rpartition(":")
            module: Any = model.get_submodule(name)
            hint = hint_of(module)
            if isinstance(hint, Mixer) and hint is not GROUPED:
                norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
                for norm in norms if side == "out" else ():
                    if norm.num_features % cut.width == 0 and norm is not module.reduce[1]:
                        for start in range(0, norm.num_features, cut.width):
                            norm.weight.data[start + gone] = norm.bias.data[start + gone] = 0
            elif side == "out" or isinstance(module, nn.BatchNorm2d):
                module.weight.data[gone] = 0
                if module.bias is not None:
                    module.bias.data[gone] = 0
            elif side == "both" and isinstance(module, nn.Conv2d) and is_depthwise(module):
                module.weight.data[gone] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_prune_answers_as_if_the_channels_were_silent(kind: str) -> None:
    """The sharpest test of which channels hang together: nothing else may have changed."""
    model = network(KINDS[kind])
    pruned = prune(model, EXAMPLE, ratio=0.4)
    assert count_params(pruned.model) < count_params(model)
    silence(model, pruned.record)
    with torch.no_grad():
        torch.testing.assert_close(pruned.model(spread()), model(spread()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_narrow_brings_a_pruned_network_back_bit_by_bit(kind: str) -> None:
    pruned = prune(network(KINDS[kind]), EXAMPLE, ratio=0.3)
    fresh = network(KINDS[kind], seed=7)
    narrow(fresh, pruned.record, "fresh")
    fresh.load_state_dict(pruned.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(spread()), pruned.model.eval()(spread()))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("progressive", [False, True])
def test_prune_leaves_every_attention_trainable(attention: str, progressive: bool) -> None:
    options = {"groups": 4} if "groups" in ATTENTIONS[attention].defaults else {}
    fields = {"kind": attention, **options}
    arch = tiny(**{f"stages.{i}.attention.{k}": v for i in (0, 1) for k, v in fields.items()})
    model = network(replace_paths(arch, {"progressive": progressive}))
    pruned = prune(model, EXAMPLE, ratio=0.5).model.train()
    assert count_params(pruned) < count_params(model)
    y = pruned(spread(4))
    y.square().sum().backward()
    assert y.shape == (4, CLASSES)
    # every parameter that had a gradient has one still
    model.train()(spread(4)).square().sum().backward()
    had = {name for name, p in model.named_parameters() if p.grad is not None}
    assert had == {name for name, p in pruned.named_parameters() if p.grad is not None}


def test_hints_cover_every_attention() -> None:
    missing = {row.load() for row in ATTENTIONS.values()} - HINTS.keys()
    assert not missing


def test_prune_keeps_what_option_a_pads() -> None:
    model = network(KINDS["option_a"])
    names = [group.name for group in channel_groups(model, EXAMPLE)]
    # the stem's and the second stage's channels are padded or padded to; inner ones are free
    assert names == [
        "stages.0.0.body.conv1.0",
        "stages.1.0.body.conv1.0",
        "stages.1.1.body.conv1.0",
    ]
    assert any(isinstance(row, Fixed) for row in HINTS.values())


def test_channel_groups_follow_conditional_blocks() -> None:
    model = network(tiny(**{"stages.1.run_share": 0.5}))
    members = [m for group in channel_groups(model, EXAMPLE) for m in group.members]
    assert "stages.1.1.gate:both" in members
    pruned = prune(model, EXAMPLE, ratio=0.5).model
    score: Any = pruned.get_submodule("stages.1.1.gate.score")
    assert score.in_features == 16
    assert pruned.train()(spread(4)).shape == (4, CLASSES)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_channel_groups_score_every_channel(importance: str) -> None:
    model = network(KINDS["splat"])
    model(spread()).square().sum().backward()
    for group in channel_groups(model, EXAMPLE, importance=importance):
        assert group.scores.shape == (group.width,)
        assert group.scores.isfinite().all()


def test_channel_groups_rank_by_the_norm_of_all_weights() -> None:
    """l2 of a block's inner channels: of what makes each, its norm's scale, and what reads it."""
    model = network(KINDS["option_a"])
    ((group, *_),) = [channel_groups(model, EXAMPLE)]
    body: Any = model.get_submodule("stages.0.0.body")
    makes = body.conv1[0].weight.square().sum((1, 2, 3))
    reads = body.conv2[0].weight.square().sum((0, 2, 3))
    scale = body.conv1[1].weight.square()
    expected = (makes + reads + scale) / 3
    torch.testing.assert_close(group.scores, (expected / expected.mean()).detach())


@pytest.mark.parametrize(
    ("kind", "convs"),
    [
        ("grouped", ["spatial.0"]),
        ("sk", ["spatial.branches.0.0", "spatial.branches.1.0"]),
        ("splat", ["spatial.conv.0"]),
    ],
)
def test_channel_groups_count_what_reads_a_channel_in_groups(kind: str, convs: list[str]) -> None:
    """The squared response to an impulse in each channel is the squared norm of what reads it."""
    model = network(KINDS[kind])
    body: Any = model.get_submodule("stages.1.0.body")
    channels = body.reduce[0].out_channels
    reads = torch.zeros(channels)
    for name in convs:
        conv: Any = body.get_submodule(name)
        impulses = torch.zeros(channels, channels, 9, 9)
        impulses[range(channels), range(channels), 4, 4] = 1  # (picture, channel)
        answers = conv2d(
            impulses, conv.weight, padding=4, dilation=conv.dilation, groups=conv.groups
        )
        reads += answers.square().sum((1, 2, 3))
    expected = reads + body.reduce[0].weight.square().sum((1, 2, 3)) + body.reduce[1].weight ** 2
    (group,) = [g for g in channel_groups(model, EXAMPLE) if g.name == "stages.1.0.body.reduce.0"]
    torch.testing.assert_close(group.scores, (expected / expected.mean()).detach())


def group_of(scores: list[float], blocks: int = 1) -> ChannelGroup:
    return ChannelGroup(("a:out",), blocks, torch.tensor(scores))


def test_local_cuts_keep_the_highest_of_each_block() -> None:
    (cut,) = local_cuts([group_of([1, 4, 3, 2, 9, 6, 7, 8], blocks=2)], 0.5)
    assert cut.kept == (1, 2, 4, 7)
    (cut,) = local_cuts([group_of([1, 4, 3, 2])], 0.75)
    assert cut.kept == (1,)


def test_global_cuts_take_the_lowest_wherever_they_are() -> None:
    weak, strong = group_of([0.1, 0.2, 0.3, 2.0]), group_of([1.0, 1.1, 1.2, 0.15])
    first, second = global_cuts([weak, strong], 0.5)  # four of eight: .1, .15, .2, .3
    assert (first.kept, second.kept) == ((3,), (0, 1, 2))


def test_cuts_of_leave_a_channel_in_each_block() -> None:
    (cut,) = cuts_of([group_of([1, 2, 3, 4], blocks=2)], [9])
    assert cut.kept == (1, 3)
    assert cuts_of([group_of([1, 2])], [0]) == ()


def test_prune_reaches_its_target_and_no_more() -> None:
    model = network(KINDS["basic"])
    whole = count_params(model)
    pruned = prune(model, EXAMPLE, target_params=whole // 2)
    assert whole * 0.4 < count_params(pruned.model) <= whole // 2
    assert 0.25 < pruned.ratio < 0.35  # both sides of a layer go: (1 - r)^2 = 1 / 2


def test_prune_ignores_what_it_is_told_to() -> None:
    model = network(KINDS["basic"])
    record = prune(model, EXAMPLE, ratio=0.5, ignore=("stem", "stages.0")).record
    assert record
    assert not any(m.startswith("stages.0.0.body.conv1") for c in record for m in c.members)


def test_prune_keeps_what_an_unknown_attention_is_coupled_to() -> None:
    """A plug-in's module has no hint: it may count on the width that it was built for."""
    model = network(KINDS["se"])
    model.set_submodule("stages.1.0.body.attention", Scale(32))
    pruned = prune(model, EXAMPLE, ratio=0.5)
    cut = {member for cut in pruned.record for member in cut.members if member.endswith(":out")}
    inner = {f"stages.{block}.body.conv1.0:out" for block in ("0.0", "1.0", "1.1")}
    assert cut == inner | {"stem.conv.conv:out", "stages.0.0.body.conv2.0:out"}
    assert pruned.model(spread()).shape == (2, CLASSES)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of"),
        ({"ratio": 0.5, "target_macs": 5}, "give one of"),
        ({"ratio": 1.0}, r"above 0, at most 0\.95, is 1\.0"),
        ({"target_macs": 10**9}, "must be lower, is 1,000,000,000"),
        ({"target_params": 5}, "are left where 95% of the channels go; is 5"),
        ({"ratio": 0.5, "ignore": ("stem", "stages")}, "no layer whose channels can go"),
    ],
)
def test_prune_refuses_what_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        prune(network(KINDS["basic"]), EXAMPLE, **arguments)


def test_prune_refuses_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown layer 'stages\.9'; did you mean"):
        prune(network(KINDS["basic"]), EXAMPLE, ratio=0.5, ignore=("stages.9",))
    with pytest.raises(UnknownNameError, match="did you mean 'taylor'"):
        prune(network(KINDS["basic"]), EXAMPLE, ratio=0.5, importance="tailor")


STEM = "stem.conv.conv:out"


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut(members=("nowhere:out",), width=4, kept=(0,)), "cuts 'nowhere', which is not there"),
        (
            Cut(members=("stem.conv.act:out",), width=4, kept=(0,)),
            "cannot cut 'stem.conv.act:out', of a",
        ),
        (Cut(members=(STEM,), width=16, kept=(3, 1)), "no choice of 16"),
        (Cut(members=(STEM,), width=16, kept=(16,)), "no choice of 16"),
        (Cut(members=(STEM,), width=16, kept=()), "no choice of 16"),
        (Cut(members=(STEM,), width=5, kept=(1,)), "has 16 channels, the cut 5"),
        (
            Cut(members=("stages.1.0.body.spatial.0:in",), width=16, kept=(0, 1)),
            "unequal numbers in its 4 blocks",
        ),
    ],
)
def test_narrow_refuses_a_cut_that_does_not_fit(cut: Cut, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        narrow(network(KINDS["grouped"]), (cut,), "w.safetensors")


def test_prune_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    model = network(KINDS["se"])
    before = copy.deepcopy(model.state_dict())
    prune(model, EXAMPLE, ratio=0.5, importance="random", seed=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def facts_of(arch: Architecture, cuts: Cuts) -> Facts:
    return Facts(
        name="tiny",
        arch=arch,
        classes=tuple("abcd"),
        resolution=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        recipe=RECIPES["quick"],
        recipe_id="0",
        data="pets",
        content_hash="0",
        seed=0,
        versions={},
        pruned=cuts,
    )


@pytest.mark.parametrize("kind", ["splat", "se"])
def test_weights_file_brings_a_pruned_network_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, path = KINDS[kind], tmp_path / "w.safetensors"
    first = prune(network(arch), EXAMPLE, ratio=0.25)
    again = prune(first.model, EXAMPLE, ratio=0.25)  # pruned twice: one cut after the other
    write_tensors(path, again.model, facts_of(arch, first.record + again.record))
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # it is not needed to read
    file = read_tensors(path, Facts)
    assert file.facts.network_id.startswith(f"{arch.arch_id}-pruned-")
    with torch.no_grad():
        assert torch.equal(file.build().eval()(spread()), again.model.eval()(spread()))
    with pytest.raises(StudyError, match=r"pip install 'nasattn\[prune\]'"):
        channel_groups(network(arch), EXAMPLE)


def test_weights_file_refuses_cuts_that_do_not_fit(tmp_path: Path) -> None:
    arch, path = KINDS["se"], tmp_path / "w.safetensors"
    pruned = prune(network(arch), EXAMPLE, ratio=0.25)
    write_tensors(path, pruned.model, facts_of(arch, pruned.record[1:]))
    with pytest.raises(WeightsError, match="does not fit the network"):
        read_tensors(path, Facts)


# ---- nasattn prune, as a user types it

SMALL = {
    "stem": {"width": 8},
    "stages": [
        {"depth": 1, "width": 16},
        {"depth": 1, "width": 16, "stride": 2, "attention": {"kind": "lam"}},
    ],
}
PRUNE = ["prune", "w/weights.safetensors", "--epochs", "2", "--train-size", "64", "-o", "p"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def trained(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """A folder of its own with w/weights.safetensors, of digits at 8x8; what the file says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASATTN_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "80")
    data = load_data("digits", 8, cache_dir=cache)
    arch = Architecture(**SMALL).at_resolution(8)
    torch.manual_seed(0)
    facts = facts_of(arch, ()).model_copy(
        update={"classes": data.classes, "resolution": 8, "data": "digits"}
        | {"content_hash": data.content_hash}
    )
    Path("w").mkdir()
    write_tensors(Path("w/weights.safetensors"), build_model(arch, 10), facts)
    return facts


def test_prune_command_ends_in_weights_that_evaluate_reads(
    trained: Facts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = count_params(trained.build())
    target = ["--target-params", f"{whole / 2000}k"]
    assert nasattn(monkeypatch, *PRUNE, *target) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.rstrip().endswith("measure it: nasattn evaluate p/weights.safetensors")
    report = json.loads(Path("p/prune.json").read_text(encoding="utf-8"))
    states = report["states"]
    assert states["fine-tuned"]["params"] == states["pruned"]["params"] <= whole / 2
    assert states["whole"]["params"] == whole
    assert len(report["curve"]) == 2
    assert report["latency"]["n"] > 0
    file = read_tensors(Path("p/weights.safetensors"), Facts)
    assert (file.facts.mean, file.facts.std) == (trained.mean, trained.std)
    assert [cut.model_dump(mode="json") for cut in file.facts.pruned] == report["cuts"]
    assert sorted(path.name for path in Path("p").iterdir()) == [
        ".lock",
        "prune.json",
        "weights.safetensors",
    ]

    evaluated = ["evaluate", "p/weights.safetensors", "--json", "e.json"]
    assert nasattn(monkeypatch, *evaluated) == 0
    top1 = json.loads(Path("e.json").read_text(encoding="utf-8"))["top1"]
    assert top1["right"] == states["fine-tuned"]["top1"]["right"]

    capsys.readouterr()
    assert nasattn(monkeypatch, *PRUNE, *target) == 0
    assert "pruned already with these settings" in capsys.readouterr().out
    again = ["prune", "p/weights.safetensors", *PRUNE[2:-1], "q", "--ratio", "0.6"]
    assert nasattn(monkeypatch, *again) == 0  # pruned twice
    twice = read_tensors(Path("q/weights.safetensors"), Facts).facts.pruned
    assert twice[: len(file.facts.pruned)] == file.facts.pruned


def test_prune_keeps_multiples_of_what_kernels_take() -> None:
    model = network(tiny())  # groups of 16 and of 32 channels
    for multiple, kept in ((1, {11, 22}), (4, {12, 24}), (8, {16, 24})):
        pruned = prune(model, EXAMPLE, ratio=0.3, multiple=multiple)
        assert {len(cut.kept) for cut in pruned.record} == kept - {16}
        assert pruned.model(spread()).shape == (2, CLASSES)
    with pytest.raises(StudyError, match="what stays must be a multiple of 32"):
        prune(model, EXAMPLE, ratio=0.3, multiple=32)


@pytest.mark.parametrize("kind", ["grouped", "splat"])
def test_prune_keeps_multiples_over_blocks(kind: str) -> None:
    pruned = prune(network(KINDS[kind]), EXAMPLE, ratio=0.4, multiple=4)
    assert all(len(cut.kept) % 4 == 0 for cut in pruned.record)


@pytest.mark.slow
def test_prune_command_goes_on_where_it_was_killed(
    trained: Facts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--ratio", "0.5", "--importance", "taylor", "--epochs", "12"]
    assert nasattn(monkeypatch, *PRUNE, *options) == 0
    whole = read_tensors(Path("p/weights.safetensors"), Facts).tensors
    other = [*PRUNE[:-1], "k", *options]
    process = start(*other)
    while not Path("k/checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()  # kill -9 after the first of twelve epochs
    process.communicate()
    assert process.returncode == -9
    assert nasattn(monkeypatch, *other) == 0
    assert "going on after epoch" in capsys.readouterr().out
    tensors = read_tensors(Path("k/weights.safetensors"), Facts).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in whole.items())


def test_prune_command_shows_each_layer_alone(
    trained: Facts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", "w/weights.safetensors", "--sensitivity", "--n", "40", "--json", "s.json"]
    assert nasattn(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "of 40 val-search pictures" in out
    found = json.loads(Path("s.json").read_text(encoding="utf-8"))
    groups = channel_groups(trained.build(), torch.zeros(1, 3, 8, 8))
    assert [row["name"] for row in found["groups"]] == [group.name for group in groups]
    assert all(share["n"] == 40 for row in found["groups"] for share in row["top1"])
    assert not Path("p").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "0.5", "--target-macs", "40M"], "give one of --ratio, --target-macs"),
        (["--ratio", "half"], "--ratio: 'half' is not a number"),
        (["--target-macs", "40MB"], "--target-macs: must be an amount like 300k, 40M or 1.5G"),
        (["--ratio", "0.5", "--importance", "l3"], "unknown importance 'l3'; known: fpgm, l1"),
        (["--ratio", "0.5", "--epochs", "0"], "recipe.epochs: must be greater than 0"),
    ],
)
def test_prune_command_refuses(
    arguments: list[str],
    message: str,
    trained: Facts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(monkeypatch, capsys, ["prune", "w/weights.safetensors", *arguments], message)


def test_prune_command_names_the_extra_that_is_absent(
    trained: Facts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    arguments = ["prune", "w/weights.safetensors", "--ratio", "0.5"]
    assert_refused(monkeypatch, capsys, arguments, "pip install 'nasattn[prune]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_prune_takes_every_baseline(name: str) -> None:
    """At 30 % of the channels: smaller, runs both ways, comes back bit by bit."""
    arch = BASELINES[name].architecture.at_resolution(32)
    torch.manual_seed(0)
    model, example = build_model(arch, CLASSES), torch.zeros(2, 3, 32, 32)
    pruned = prune(model, example, ratio=0.3)
    assert count_params(pruned.model) < 0.71 * count_params(model)
    x = torch.randn(2, 3, 32, 32)
    y = pruned.model.train()(x)
    assert y.shape == (2, CLASSES)
    y.sum().backward()
    fresh = build_model(arch, CLASSES)
    narrow(fresh, pruned.record, name)
    fresh.load_state_dict(pruned.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), pruned.model.eval()(x))

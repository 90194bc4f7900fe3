"""PieceCounter: what count_cost gives, from pieces that are counted once."""

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention import ATTENTIONS, AttentionKind
from nasattn.baselines import BASELINES
from nasattn.cost import PieceCounter, StaticCost, count_cost, pieces
from nasattn.errors import EvaluationError
from nasattn.library import shipped
from nasattn.model import build_model
from nasattn.space import load_space
from nasattn.spec import Spec
from tests.strategies import Data, architectures

SLOW = pytest.mark.slow
NUM_CLASSES = 7


def counted_whole(arch: Architecture, resolution: int, device: str = "meta") -> StaticCost:
    """The cost of the network in one piece."""
    with torch.device(device):
        model = build_model(arch, NUM_CLASSES)
    return count_cost(model, resolution)


def counted(arch: Architecture, resolution: int) -> StaticCost:
    return PieceCounter(NUM_CLASSES, resolution).count(arch)


def network(*stages: Data, **parts: Any) -> Architecture:
    """Stages of two blocks from 8 to 16 channels, if they say nothing else."""
    full = [{"depth": 2, "width": 16, "expansion": 2} | stage for stage in stages]
    return parse_architecture({"stem": {"width": 8}, "stages": full} | parts)


def by_size(name: str, resolution: int) -> Any:
    """A baseline and a resolution, marked where whole networks take long to count."""
    depth = sum(stage.depth for stage in BASELINES[name].architecture.stages)
    return pytest.param(name, resolution, marks=[SLOW] if depth > 10 or resolution > 32 else [])


@pytest.mark.parametrize(
    ("name", "resolution"), [by_size(n, r) for n in BASELINES for r in (32, 224)]
)
def test_count_equals_count_cost_for_every_baseline(name: str, resolution: int) -> None:
    arch = BASELINES[name].architecture.at_resolution(resolution)
    assert counted(arch, resolution) == counted_whole(arch, resolution)


@pytest.mark.parametrize("n", [1, pytest.param(25, marks=SLOW)])
@pytest.mark.parametrize("name", shipped("search_spaces"))
def test_count_equals_count_cost_over_a_space(name: str, n: int) -> None:
    space, rng = load_space(name), Random(5)
    counter = PieceCounter(NUM_CLASSES, 32)  # for all of them: what they share is taken over
    for _ in range(n):
        arch = space.decode(space.sample(rng)).at_resolution(32)
        assert counter.count(arch) == counted_whole(arch, 32)


@given(architectures())
@settings(max_examples=15, deadline=None)
def test_count_equals_count_cost_for_any_network(data: Data) -> None:
    arch = parse_architecture(data).at_resolution(32)
    assert counted(arch, 32) == counted_whole(arch, 32)


ECA: Data = {"kind": "eca", "dense": True}
LOW_SGE: Data = {"kind": "sge", "placement": "after_stage", "groups": 2}


@pytest.mark.parametrize(
    "arch",
    [
        network({"attention": ECA | {"placement": "after_spatial"}, "stride": 2}),
        network({"attention": ECA | {"placement": "after_stage"}, "stride": 2}),
        network({"run_share": 0.3}),
        network({"run_share": 0.7, "attention": ECA}, {"run_share": 0.5, "attention": LOW_SGE}),
        network({"attention": ECA}, {"attention": LOW_SGE}, progressive=True),
        network({}, {"stride": 2}, fusion={"kind": "aff", "terms": 2}),
        network({}, {"stride": 2}, fusion={"kind": "multi_scale", "attention": ECA}),
        network({}, fusion={"kind": "multi_scale", "attention": ECA}),  # of the final map alone
        network({"block": "preact_basic"}, head={"conv_width": 24, "hidden": 8}, act="silu"),
    ],
)
def test_count_equals_count_cost_part_by_part(arch: Architecture) -> None:
    expected = counted_whole(arch, 19, "cpu")
    assert counted(arch, 19) == expected
    assert expected.uncounted == ()


def test_count_takes_other_pictures() -> None:
    arch = network({})
    assert PieceCounter(3, 12, in_chs=1).count(arch) == count_cost(build_model(arch, 3, 1), 12, 1)


def test_count_is_the_same_without_real_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = network({"attention": {"kind": "nl"}})
    expected = counted(arch, 16)
    monkeypatch.setattr(pieces, "LARGE", 3000)  # the non-local weights of 8x8 positions: 4096
    assert counted(arch, 16) == expected
    monkeypatch.setattr(pieces, "LARGE", 1)
    assert counted(arch, 16) == expected


def test_count_builds_a_piece_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[nn.Module] = []

    class Noted(pieces._ShapeCounter):  # type: ignore[no-untyped-call]
        def run(self, model: nn.Module, *inputs: Any) -> Any:
            runs.append(model)
            return super().run(model, *inputs)

    monkeypatch.setattr(pieces, "_ShapeCounter", Noted)
    counter = PieceCounter(NUM_CLASSES, 16)
    cost = counter.count(network({"depth": 5}))
    assert len(runs) == 5  # stem, two kinds of blocks, the end of the network in two parts
    assert counter.count(network({"depth": 5})) == cost
    assert len(runs) == 5
    counter.count(network({"depth": 4}))  # of what is known
    assert len(runs) == 5
    counter.count(network({"depth": 5, "attention": ECA}))
    assert len(runs) == 6


def test_count_holds_no_more_than_so_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_PIECES", 3)
    counter = PieceCounter(NUM_CLASSES, 16)
    arch = network({}, {"stride": 2})
    assert counter.count(arch) == counter.count(arch) == counted_whole(arch, 16)
    assert len(counter._pieces) <= 3


# Attention from outside


class Shrinking(nn.Module):
    """Half of the map: no attention, and what comes behind it has fewer pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.draw = torch.randn(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : x.shape[2] // 2]


class Shareless(Shrinking):
    """Runs for a share of the pictures, it says, but not in which body."""

    run_share = 0.5


@pytest.fixture
def own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the kind of attention that a class of this file is."""
    row = AttentionKind(f"{__name__}:{request.param}", Spec, "nowhere")
    monkeypatch.setitem(ATTENTIONS, "own", row)
    return "own"


@pytest.mark.parametrize("own", ["Shrinking"], indirect=True)
@pytest.mark.parametrize("placement", ["after_spatial", "before_add", "after_stage"])
def test_count_follows_attention_that_changes_the_map(own: str, placement: str) -> None:
    attention = {"kind": own, "placement": placement}
    arch = network({"depth": 1, "attention": attention}, {"depth": 2, "width": 24})
    expected = counted_whole(arch, 16)
    assert counted(arch, 16) == expected
    assert expected.macs < counted(network({"depth": 1}, {"depth": 2, "width": 24}), 16).macs


@pytest.mark.parametrize(
    ("own", "error"),
    [("Shrinking", RuntimeError), ("Shareless", EvaluationError)],
    indirect=["own"],
)
def test_count_raises_what_count_cost_does(own: str, error: type[Exception]) -> None:
    arch = network({"depth": 2, "attention": {"kind": own}})  # the second block adds its input
    counter = PieceCounter(NUM_CLASSES, 16)
    for count in (counter.count, counter.count, lambda arch: counted_whole(arch, 16)):
        with pytest.raises(error):
            count(arch)


@pytest.mark.parametrize("own", ["Shrinking"], indirect=True)
def test_count_leaves_the_random_state_alone(own: str) -> None:
    before = torch.get_rng_state()
    counted(network({"depth": 1, "attention": {"kind": own}}), 16)
    assert torch.equal(torch.get_rng_state(), before)

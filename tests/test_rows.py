"""Many networks at once: what SpaceRows decodes and RowCounter counts, against one by one."""

from collections.abc import Mapping
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.attention import ATTENTIONS, AttentionKind
from nasattn.baselines import BASELINES
from nasattn.cost import Costs, RowCounter, StaticCost, count_cost, row_counter
from nasattn.distributions import draw
from nasattn.errors import ArchitectureError, SpaceError
from nasattn.library import shipped
from nasattn.model import build_model
from nasattn.rows import SpaceRows
from nasattn.space import SearchSpace, load_space
from nasattn.spec import Spec
from nasattn.walk import as_rows
from tests.sweep import sweep

SLOW = pytest.mark.slow
NUM_CLASSES = 7
SPACES = {name: load_space(name) for name in shipped("search_spaces")}

# What the shipped spaces leave fixed: strides, endless ranges; and blocks that do not mix.
ODD = SearchSpace.model_validate(
    {
        "name": "odd",
        "template": {
            "stem": {"width": 8, "stride": 1},
            "stages": [
                {"depth": 1, "width": 8},
                {"depth": 2, "width": 16, "stride": 2},
                {"depth": 1, "width": 8},
            ],
        },
        "parameters": {
            "stem.convs": [1, 3],
            "stem.attention.kind": ["none", "sge"],
            "stages.*.block": ["basic", "bottleneck", "preact_basic", "conv", "inverted_residual"],
            "stages.*.stride": [1, 2],
            "stages.width": {"type": "int", "low": 4, "high": 16, "step": 4},
            "stages.expansion": {"type": "float", "low": 1, "high": 2},
            "stages.0.pool": ["none", "before", "after"],
            "stages.2.depth": [0, 1, 3],
            "stages.run_share": [1, 0.3],
            "stages.norm": ["batch", "lrn"],
            "stages.attention.kind": ["none", "se", "lgam", "ska"],
            "stages.attention.placement": ["after_spatial", "before_add", "after_stage"],
            "stages.attention.groups": [1, 4, 8],
            "stages.*.attention.rd_ratio": {"type": "int", "low": 1, "high": 64, "log": True},
            "fusion.kind": ["none", "aff", "multi_scale"],
            "fusion.scales": [2, 3, 4],
            "fusion.attention.kind": ["none", "sge"],
            "fusion.attention.groups": [1, 8],
            "head.dropout": {"type": "float", "low": 0, "high": 0.5},
            "head.hidden": [0, 8],
            "act": ["relu", "silu"],
            "progressive": [False, True],
        },
    }
)
MIXED = SearchSpace.model_validate(
    {
        "name": "mixed",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}] * 2},
        "parameters": {
            "stem.norm": ["batch", "none"],
            "stages.block": ["basic", "preact_basic"],
            "stages.width": [8, 12],
            "stages.shortcut": ["conv", "pad"],
        },
    }
)
SPACES |= {"odd": ODD, "mixed": MIXED}


def values(space: SearchSpace, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random values for all parameters, whether or not they mean something or go together."""
    rng = Random(seed)
    return [{p.name: draw(p.distribution, rng) for p in space.free} for _ in range(n)]


def decoded(
    space: SearchSpace, params: Mapping[str, Any], resolution: int | None
) -> Architecture | None:
    try:
        arch = space.decode(params)
    except ArchitectureError:
        return None
    return arch.at_resolution(resolution) if resolution else arch


def figures(costs: Costs, i: int) -> tuple[int, ...]:
    return tuple(int(column[i]) for column in (costs.params, costs.macs, costs.max_macs))


def counted(arch: Architecture, resolution: int) -> StaticCost:
    with torch.device("meta"):
        model = build_model(arch, NUM_CLASSES)
    return count_cost(model, resolution)


@pytest.mark.parametrize("n", [150, pytest.param(400, marks=SLOW)])
@pytest.mark.parametrize("resolution", [None, 32, 96])
@pytest.mark.parametrize("name", sweep(SPACES, ["mobile", "odd"]))
def test_decode_gives_the_networks_of_the_space(name: str, resolution: int, n: int) -> None:
    space = SPACES[name]
    many = values(space, n)
    found = SpaceRows(space, resolution).decode(as_rows(space, many))
    for arch, params in zip(found, many, strict=True):
        expected = decoded(space, params, resolution)
        assert arch == expected
        assert arch is None or expected is None or arch.arch_id == expected.arch_id


def test_some_rows_of_the_odd_space_are_no_network() -> None:
    found = SpaceRows(ODD, 32).decode(as_rows(ODD, values(ODD, 150)))
    assert 10 < sum(arch is not None for arch in found) < 140


@pytest.mark.parametrize("name", SPACES)
def test_settle_keeps_what_the_space_does(name: str) -> None:
    space = SPACES[name]
    many = values(space, 150, seed=1)
    rows = SpaceRows(space, 32).settle(as_rows(space, many))
    assert np.array_equal(rows, as_rows(space, [space.settle(p) for p in many]), equal_nan=True)


def test_decode_goes_on_from_what_it_knows() -> None:
    space = SPACES["mobile"]
    rows, known = as_rows(space, values(space, 60)), SpaceRows(space, 32)
    whole = known.decode(rows)
    assert known.decode(rows[30:]) == whole[30:]
    assert [*known.decode(rows[:1]), *known.decode(rows[1:30])] == whole[:30]
    assert known.decode(rows[:0]) == []


WHOLE = {p.name: p.distribution.values()[0] for p in ODD.free}


@pytest.mark.parametrize(
    ("name", "value"), [("stages.0.width", np.nan), ("stages.0.width", 5), ("head.dropout", 0.6)]
)
def test_row_with_a_value_that_is_missing_or_outside_is_no_network(name: str, value: float) -> None:
    row = as_rows(ODD, [WHOLE])
    assert SpaceRows(ODD, 32).decode(row) == [decoded(ODD, WHOLE, 32)]
    row[0, [p.name for p in ODD.free].index(name)] = value
    assert SpaceRows(ODD, 32).decode(row) == [None]
    assert figures(RowCounter(ODD, 10, 32).count(row), 0) == (-1, -1, -1)


@pytest.mark.parametrize(
    ("params", "message"),
    [({"stages.0.width": 5}, r"stages.0.width = 5, allowed: 4 to 16"), ({"tail": 1}, "no param")],
)
def test_as_rows_refuses_what_is_outside(params: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        as_rows(ODD, [params])


# Counting


# Thousands: benchmarks/count.py --check.
@pytest.mark.parametrize("n", [3, pytest.param(40, marks=SLOW)])
@pytest.mark.parametrize("name", SPACES)
def test_count_equals_count_cost(name: str, n: int) -> None:
    space = SPACES[name]
    many = values(space, n, seed=2)
    counter = RowCounter(space, NUM_CLASSES, 32)
    costs = counter.count(as_rows(space, many))
    assert not costs.uncounted
    for i, params in enumerate(many):
        arch = decoded(space, params, 32)
        if arch is None:
            assert figures(costs, i) == (-1, -1, -1)
            continue
        cost = counted(arch, 32)
        assert figures(costs, i) == (cost.params, cost.macs, cost.max_macs)


BASELINE_PLACES = [
    pytest.param(space, name, marks=[] if space == "mobile" else [SLOW])
    for space in SPACES
    for name in SPACES[space].baselines
]


@pytest.mark.parametrize(("name", "baseline"), BASELINE_PLACES)
@pytest.mark.parametrize("resolution", [32, 224])
def test_count_equals_count_cost_for_baselines(name: str, baseline: str, resolution: int) -> None:
    space, arch = SPACES[name], BASELINES[baseline].architecture
    costs = RowCounter(space, NUM_CLASSES, resolution).count(as_rows(space, [space.encode(arch)]))
    cost = counted(arch.at_resolution(resolution), resolution)
    assert figures(costs, 0) == (cost.params, cost.macs, cost.max_macs)


def test_count_takes_any_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES["nb_macro"]
    counter, rows = RowCounter(space, NUM_CLASSES, 32), as_rows(space, values(space, 20))
    whole = counter.count(rows)
    monkeypatch.setattr(row_counter, "LOT", 6)
    lots = counter.count(rows)
    assert [figures(lots, i) for i in range(20)] == [figures(whole, i) for i in range(20)]
    assert len(counter.count(rows[:0]).macs) == 0


def test_half_rounds_as_python_does() -> None:
    # of 0, 1/4, .. 10 operations: half of a whole number lies between two, and goes to the even one
    found = row_counter.half(np.arange(41), 4).tolist()
    assert found == [round(Fraction(quarters, 4) / 2) for quarters in range(41)]


def test_count_starts_anew_where_it_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES["nb_macro"]
    counter, rows = RowCounter(space, NUM_CLASSES, 32), as_rows(space, values(space, 20))
    before = counter.count(rows)
    monkeypatch.setattr(row_counter, "MAX_HELD", 3)
    old = counter.rows
    assert np.array_equal(counter.count(rows).macs, before.macs)
    assert counter.rows is not old


# Attention from outside


class Shrinking(nn.Module):
    """Half of the map: what comes behind it has fewer pixels, and may not be added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : x.shape[2] // 2]


class Unknown(nn.Module):
    """Runs an operator that no rule can count."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.fft.ifft(torch.fft.fft(x)).real
        return y


@pytest.mark.parametrize("module", [Shrinking, Unknown])
def test_count_takes_any_attention(module: type, monkeypatch: pytest.MonkeyPatch) -> None:
    row = AttentionKind(f"{__name__}:{module.__name__}", Spec, "nowhere")
    monkeypatch.setitem(ATTENTIONS, "own", row)
    space = SearchSpace.model_validate(
        {
            "name": "own",
            "template": {"stem": {"width": 8}, "stages": [{"depth": 2, "width": 8}] * 2},
            "parameters": {
                "stages.depth": [1, 2],
                "stages.width": [8, 16],
                "stages.attention.kind": ["none", "own"],
                "stages.attention.placement": ["after_spatial", "before_add", "after_stage"],
            },
        }
    )
    many = values(space, 40)
    costs, names = RowCounter(space, NUM_CLASSES, 32).count(as_rows(space, many)), set()
    for i, params in enumerate(many):
        arch = decoded(space, params, 32)
        assert arch is not None
        try:
            cost = counted(arch, 32)
        except RuntimeError:  # the shortcut does not fit
            assert figures(costs, i) == (-1, -1, -1)
            continue
        names |= set(cost.uncounted)
        assert figures(costs, i) == (cost.params, cost.macs, cost.max_macs)
    assert costs.uncounted == names
    assert bool(names) == (module is Unknown)

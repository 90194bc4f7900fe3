from collections.abc import Mapping
from random import Random

import pytest

from nasattn.arch import Architecture
from nasattn.objectives import parse_constraint
from nasattn.search.candidates import Candidates, Known
from nasattn.space import SearchSpace
from nasattn.testing import FakeEvaluator

SPACE = SearchSpace.model_validate(
    {
        "name": "few",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}] * 2},
        "parameters": {
            "stages.width": [8, 12],
            "stages.attention.kind": ["none", "sge"],
            "stages.attention.groups": [1, 8],  # 8 do not divide 12
            "head.dropout": {"type": "float", "low": 0.0, "high": 0.5},
        },
    }
)
WHOLE = {
    **{f"stages.{i}.width": 8 for i in range(2)},
    **{f"stages.{i}.attention.kind": "sge" for i in range(2)},
    **{f"stages.{i}.attention.groups": 8 for i in range(2)},
    "head.dropout": 0.0,
}


def candidates(*limits: str) -> Candidates:
    values = FakeEvaluator().static_values
    return Candidates(SPACE, 16, values, [parse_constraint(text) for text in limits])


def test_what_is_known_of_a_network_is_its_id_and_what_costs_nothing() -> None:
    known = candidates().find(WHOLE)
    arch = SPACE.decode(WHOLE).at_resolution(16)
    assert known == Known(arch.arch_id, FakeEvaluator().static_values(arch))
    assert candidates().arch_id(WHOLE) == arch.arch_id
    assert candidates().value("macs")(WHOLE) == FakeEvaluator().static_values(arch)["macs"]


@pytest.mark.parametrize(
    "params",
    [
        WHOLE | {"stages.0.width": 12},  # cannot be built
        {"stages.0.width": 8},  # not all there
        WHOLE | {"stages.0.width": 9},  # outside the space
        WHOLE | {"tail.width": 9},
    ],
)
def test_params_of_no_network_are_of_none_that_may_be_tried(params: dict[str, object]) -> None:
    assert candidates().find(params) is None
    assert candidates().arch_id(params) is None
    assert candidates().value("macs")(params) is None


def test_network_that_breaks_a_static_limit_may_not_be_tried() -> None:
    macs = FakeEvaluator().static_values(SPACE.decode(WHOLE))["macs"]
    assert candidates(f"macs<={macs}").arch_id(WHOLE)
    assert candidates(f"macs<={macs - 1}").arch_id(WHOLE) is None
    assert candidates("top1>=0.9", "latency_ms<=0.1").arch_id(WHOLE)  # not known yet


def test_network_that_cannot_be_counted_may_not_be_tried() -> None:
    def cannot(arch: Architecture) -> Mapping[str, float]:
        raise RuntimeError("shapes do not fit")

    assert Candidates(SPACE, 16, cannot).find(WHOLE) is None


def test_network_is_looked_at_once() -> None:
    seen = []

    def values(arch: Architecture) -> Mapping[str, float]:
        seen.append(arch.arch_id)
        return {"macs": 1.0}

    known = Candidates(SPACE, 16, values)
    for _ in range(3):
        known.find(WHOLE)
        known.arch_id(dict(reversed(WHOLE.items())))
    assert len(seen) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasattn.search.candidates.MAX_REMEMBERED", 5)
    known, rng = candidates(), Random(0)
    for _ in range(50):
        known.find(SPACE.sample(rng))
        assert len(known.known) <= 5


def test_distributions_are_those_that_the_space_suggests() -> None:
    found = candidates().distributions()
    assert list(found) == [parameter.name for parameter in SPACE.free]
    assert found["stages.0.width"].choices == (8, 12)  # type: ignore[attr-defined]
    assert (found["head.dropout"].low, found["head.dropout"].high) == (0.0, 0.5)  # type: ignore[attr-defined]

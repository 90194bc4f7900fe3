import pytest

from nasattn.errors import NasattnError
from nasattn.objectives import OBJECTIVES, Cost, get_objective, parse_constraint


@pytest.mark.parametrize(
    ("text", "shown", "value", "violation"),
    [
        ("macs<=120e6", "macs<=120000000", 180e6, 0.5),  # 60 over 120
        ("macs <= 120e6", "macs<=120000000", 60e6, -0.5),
        ("top1>=0.9", "top1>=0.9", 0.45, 0.5),  # 0.45 under 0.9
        ("top1>=0.9", "top1>=0.9", 0.9, 0.0),
        ("latency_ms<=0", "latency_ms<=0", 3.0, 3.0),  # no share of zero: the excess itself
    ],
)
def test_violation_is_the_share_by_which_a_limit_is_broken(
    text: str, shown: str, value: float, violation: float
) -> None:
    constraint = parse_constraint(text)
    assert str(constraint) == shown
    assert constraint.violation(value) == pytest.approx(violation)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs", "must be like 'macs<=120e6'"),
        ("macs<120", "must be like"),
        ("macs<=many", "'many' is not a number"),
        ("macs<=nan", "'nan' is not a number"),
        ("macs<=inf", "'inf' is not a number"),
        ("flops<=1e6", "unknown objective 'flops'"),
        ("latency<=3", "did you mean 'latency_ms'"),
        ("macs<=1e6; drop", "must be like"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(NasattnError, match=message):
        parse_constraint(text)


def test_objectives_state_direction_unit_and_cost() -> None:
    assert {name: (o.direction, o.unit, o.cost) for name, o in OBJECTIVES.items()} == {
        "top1": ("maximize", "%", Cost.TRAINED),
        "macs": ("minimize", "M", Cost.STATIC),
        "params": ("minimize", "M", Cost.STATIC),
        "latency_ms": ("minimize", "ms", Cost.MEASURED),
    }


def test_values_are_shown_in_their_unit() -> None:
    assert get_objective("top1").show(0.9345) == "93.5"
    assert get_objective("macs").show(120_745_988) == "120.75"
    assert get_objective("top1").say(0.9345) == "top1 93.5 %"
    assert get_objective("latency_ms").say(4.491) == "latency_ms 4.49"
    assert (get_objective("macs").heading, get_objective("latency_ms").heading) == (
        "macs M",
        "latency_ms",
    )

"""What a search foretells of networks that were not measured."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest

from nasattn.arch import Architecture
from nasattn.cli.latency import describe
from nasattn.cost import LatencyPredictor, PieceCounter, count_cost
from nasattn.cost.features import arch_features
from nasattn.cost.predictor import Features
from nasattn.errors import EvaluationError, NasattnError
from nasattn.model import build_model
from nasattn.objectives import parse_constraint
from nasattn.references import REFERENCES
from nasattn.search.candidates import Candidates
from nasattn.search.forecast import Forecast, read_forecast
from nasattn.space import SearchSpace
from nasattn.testing import FakeEvaluator
from nasattn.zoo import get_network

ON = "latency_ms@onnxruntime"
SPACE = SearchSpace.model_validate(
    {
        "name": "few",
        "template": {"stem": {"width": 8}, "stages": [{"depth": 1, "width": 8}] * 2},
        "parameters": {
            "stages.width": [8, 16, 24, 32],
            "stages.depth": [1, 2, 3],
            "stages.attention.kind": ["none", "eca"],
        },
    }
)


def networks(n: int) -> list[Architecture]:
    rng = Random(0)
    return [SPACE.decode(SPACE.sample(rng)).at_resolution(16) for _ in range(n)]


def cost_ms(arch: Architecture) -> float:
    """A device that needs a millisecond a million multiply-adds, and one beside."""
    return 1 + 1e-6 * PieceCounter(10, 16).count(arch).macs


def write(path: Path, **changes: object) -> Path:
    """A file as `nasattn latency --fit` writes it."""
    counter = PieceCounter(10, 16)
    rows = [
        {
            "name": f"n{i}",
            "features": arch_features(arch, counter),
            "latency_ms": cost_ms(arch),
        }
        for i, arch in enumerate(networks(40))
    ]
    data = {
        "runtime": "onnxruntime",
        "reference": "mobilenet_v2",
        "reference_ms": 1.5,
        "resolution": 16,
        "num_classes": 10,
        "networks": rows,
    }
    path.write_text(json.dumps(data | changes))
    return path


def test_arch_features_add_up_to_the_network() -> None:
    counter = PieceCounter(10, 16)
    for arch in networks(5):
        found = arch_features(arch, counter)
        cost = count_cost(build_model(arch, 10), 16)
        macs = sum(float(v) for k, v in found.items() if k.endswith(".macs"))
        params = sum(float(v) for k, v in found.items() if k.endswith(".params"))
        assert (macs, params) == (cost.macs, cost.params)


def test_arch_features_tell_where_attention_runs_and_on_what() -> None:
    stage = {"depth": 2, "width": 16, "expansion": 3}
    after = stage | {"attention": {"kind": "eca", "placement": "after_stage"}}
    inside = stage | {"attention": {"kind": "se", "placement": "after_spatial"}}
    arch = Architecture.model_validate(
        {"stem": {"width": 8, "stride": 1}, "stages": [after, inside, stage]}
    )
    found = arch_features(arch, PieceCounter(10, 8))
    # maps of 16 x 8 x 8 numbers: once behind a stage; in each of two blocks, three times as wide
    assert found["stages.0.eca"] == 1.0
    assert found["stages.0.numbers of eca"] == 16 * 64
    assert found["stages.1.se"] == 2.0
    assert found["stages.1.numbers of se"] == 2 * 3 * 16 * 64
    assert not [name for name in found if name.startswith("stages.2") and "eca" in name]
    assert found["stages.2.blocks"] == 2.0
    assert found["stages.2.kernel"] == "3"


def test_a_forecast_learns_from_a_file(tmp_path: Path) -> None:
    forecast = read_forecast(write(tmp_path / "m.json"), [ON], 16, 10)
    assert forecast.objective == ON
    for arch in networks(60)[40:]:
        value, low, high = forecast(arch)
        assert value == pytest.approx(cost_ms(arch), rel=0.05)
        assert low <= value <= high


@pytest.mark.parametrize(
    ("changes", "objectives", "message"),
    [
        ({}, ["latency_ms"], f"m.json: is of {ON}, which is no objective or limit of this study"),
        ({}, ["latency_ms@ncnn"], "there is latency_ms@ncnn"),
        ({"resolution": 32}, [ON], "is of 32x32 pictures of 10 classes, the study's are of 16x16"),
        ({"num_classes": 2}, [ON], "of 2 classes, the study's are of 16x16 and 10"),
        ({"networks": []}, [ON], "needs the features and latencies of 8 networks or more"),
        ({"reference_ms": -1}, [ON], "m.json: reference_ms: must be greater than 0"),
        ({"extra": 1}, [ON], "m.json: unknown field 'extra'"),
    ],
)
def test_a_file_of_something_else_is_refused(
    changes: dict[str, object], objectives: list[str], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.json", **changes)
    with pytest.raises(NasattnError, match=message):
        read_forecast(path, objectives, 16, 10)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read as JSON"):
        read_forecast(tmp_path / "none.json", [ON], 16, 10)


def test_a_reference_is_not_learned_from() -> None:
    name = next(iter(REFERENCES))
    with pytest.raises(EvaluationError, match=f"{name}: is a reference, no architecture of ours"):
        describe({"lam": get_network("lam"), name: get_network(name)}, 10, 32)


class Told(LatencyPredictor):
    """Foretells the same interval of every network."""

    def __init__(self, ms: float, low: float, high: float) -> None:
        super().__init__()
        self.told = (ms, low, high)

    def predict(self, features: list[Features]) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:  # type: ignore[override]
        ms, low, high = (np.full(len(features), value) for value in self.told)
        return ms, low, high


@pytest.mark.parametrize(
    ("limits", "told", "kept"),
    [
        ((), (3, 2, 4), True),
        ((f"{ON}<=3.5",), (3, 2, 4), True),
        ((f"{ON}<=2.5",), (3, 2, 4), True),  # it may still hold
        ((f"{ON}<=1.5",), (3, 2, 4), False),
        ((f"{ON}>=5",), (3, 2, 4), False),
        ((f"{ON}>=3.5",), (3, 2, 4), True),
        (("latency_ms<=1.5",), (3, 2, 4), True),  # of another runtime
    ],
)
def test_a_forecast_screens_what_cannot_keep_a_limit(
    limits: tuple[str, ...], told: tuple[float, float, float], kept: bool
) -> None:
    params: Mapping[str, object] = SPACE.sample(Random(0))
    forecast = Forecast(ON, Told(*told), PieceCounter(10, 16))
    found = Candidates(
        SPACE, 16, FakeEvaluator().static_values, [parse_constraint(x) for x in limits], forecast
    )
    known = found.find(dict(params))
    assert (known is not None) == kept
    assert found.foretold(dict(params)) == ((3.0,) if kept else (0.0,))
    if known:
        assert known.foretold == 3.0


def test_without_a_forecast_nothing_is_foretold() -> None:
    found = Candidates(SPACE, 16, FakeEvaluator().static_values)
    assert found.foretold(SPACE.sample(Random(0))) == ()

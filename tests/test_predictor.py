from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel
from torch import nn

from benchmarks.latency_predictor import features_of
from nasattn.cost import LatencyPredictor
from nasattn.cost.features import latency_features
from nasattn.cost.predictor import MEAN, WEIGHT, Columns, Features
from nasattn.errors import EvaluationError

FBNET = Path(__file__).parents[2] / "shared/data/nas/fbnet_latency.parquet"
KINDS = ("small", "middle", "large")


def network(rng: np.random.Generator) -> dict[str, float | str]:
    """Six places with a number and a word each."""
    found: dict[str, float | str] = {}
    for place in range(6):
        found[f"stages.{place}.macs"] = float(rng.integers(1, 20))
        found[f"stages.{place}.kind"] = KINDS[rng.integers(3)]
    return found


def truth(features: Features) -> float:
    """Additive: macs, dearer in front, and what each kind costs."""
    total = 20.0
    for place in range(6):
        total += float(features[f"stages.{place}.macs"]) * (1 + 0.1 * (5 - place))
        total += 4.0 * KINDS.index(str(features[f"stages.{place}.kind"]))
    return total


def drawn(n: int, seed: int, noise: float = 0.0) -> tuple[list[Features], list[float]]:
    rng = np.random.default_rng(seed)
    networks: list[Features] = [network(rng) for _ in range(n)]
    return networks, [truth(one) * (1 + noise * rng.standard_normal()) for one in networks]


def test_predict_finds_an_additive_law() -> None:
    predictor = LatencyPredictor().fit(*drawn(50, seed=0))
    networks, latencies = drawn(200, seed=1)
    ms, low, high = predictor.predict(networks)
    assert np.median(np.abs(ms / latencies - 1)) < 0.005
    assert (low <= ms).all()
    assert (ms <= high).all()
    assert predictor.error < 0.01


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_as_often_as_they_promise(coverage: float) -> None:
    held = []
    for seed in range(8):
        predictor = LatencyPredictor(coverage).fit(*drawn(60, seed, noise=0.05))
        networks, latencies = drawn(200, 1000 + seed, noise=0.05)
        _, low, high = predictor.predict(networks)
        held.append(np.mean((low <= latencies) & (latencies <= high)))
    assert np.mean(held) == pytest.approx(coverage, abs=0.07)


def test_error_is_that_of_networks_not_learned_from() -> None:
    """What it says of itself is what others find, and no figure of its own memory."""
    said, found = [], []
    for seed in range(8):
        predictor = LatencyPredictor().fit(*drawn(40, seed, noise=0.1))
        networks, latencies = drawn(100, 1000 + seed, noise=0.1)
        said.append(predictor.error)
        found.append(np.median(np.abs(predictor.predict(networks)[0] / latencies - 1)))
    assert np.mean(said) == pytest.approx(np.mean(found), rel=0.15)


def test_predict_is_the_gaussian_process_of_a_kept_library() -> None:
    """One column: a single linear kernel beside a constant, as scikit-learn has it."""
    rng = np.random.default_rng(0)
    networks: list[Features] = [{"macs": float(x)} for x in rng.uniform(1, 9, 12)]
    latencies = [5 + 2 * float(one["macs"]) + rng.standard_normal() for one in networks]
    predictor = LatencyPredictor().fit(networks, latencies)
    x = np.hstack(
        [b * np.sqrt(w) for b, w in zip(predictor.blocks, predictor.weights, strict=True)]
    )
    # x . x' + MEAN is DotProduct's kernel with sigma_0^2 = MEAN.
    kernel = DotProduct(MEAN**0.5, "fixed") + WhiteKernel(predictor.noise, "fixed")
    reference = GaussianProcessRegressor(kernel, optimizer=None, alpha=0)
    reference.fit(x, (np.array(latencies) - predictor.mean) / predictor.scale)
    mean, sd = reference.predict(x[:3], return_std=True)
    ms, low, high = predictor.predict(networks[:3])
    assert ms == pytest.approx(predictor.mean + predictor.scale * mean)
    assert (high - low) / 2 == pytest.approx(predictor.width * sd * predictor.scale)


def test_loss_gradient_is_its_slope() -> None:
    networks, latencies = drawn(15, seed=0)
    predictor = LatencyPredictor().fit(networks, latencies)
    z = (np.array(latencies) - predictor.mean) / predictor.scale
    theta = np.linspace(WEIGHT - 1, WEIGHT + 1, len(predictor.blocks) + 1)
    _, slope = predictor._loss(theta, z)
    for i in range(len(theta)):
        step = np.eye(len(theta))[i] * 1e-5
        rise = predictor._loss(theta + step, z)[0] - predictor._loss(theta - step, z)[0]
        assert slope[i] == pytest.approx(rise / 2e-5, rel=1e-4, abs=1e-6)


def test_columns_are_sums_and_places_of_what_stands_last() -> None:
    features: list[Features] = [
        {"a.macs": 1.0, "b.macs": 3.0, "a.op": "k3"},
        {"a.macs": 5.0, "a.op": "k5", "b.op": "k3"},
    ]
    columns = Columns.of(features)
    totals, places, counts, chosen = columns._raw(features)
    assert totals.tolist() == [[4], [5]]
    assert places.tolist() == [[1, 3], [5, 0]]
    assert counts.tolist() == [[1, 0], [1, 1]]  # k3, k5
    assert chosen.tolist() == [[1, 0, 0], [0, 1, 1]]  # a is k3, a is k5, b is k3
    for block in columns.blocks(features):
        assert block.mean(axis=0) == pytest.approx(0)
        assert (block**2).sum(axis=1).mean() == pytest.approx(1)


def test_what_was_never_seen_is_nothing() -> None:
    predictor = LatencyPredictor().fit(*drawn(20, seed=0))
    one = drawn(1, seed=5)[0][0]
    ms, *_ = predictor.predict([one, {**one, "stages.9.macs": 9.0, "stages.0.paint": "red"}])
    assert ms[0] == ms[1]


def test_fit_again_forgets_what_was_learned() -> None:
    other = drawn(20, seed=3)
    again = LatencyPredictor().fit(*drawn(30, seed=0)).fit(*other)
    one = drawn(1, seed=9)[0]
    assert again.predict(one)[0] == LatencyPredictor().fit(*other).predict(one)[0]


def test_constant_latency_is_predicted() -> None:
    networks, _ = drawn(12, seed=0)
    ms, low, high = LatencyPredictor().fit(networks, [5.0] * 12).predict(networks)
    assert ms == pytest.approx(5)
    assert (high - low >= 0).all()


@pytest.mark.parametrize(
    ("features", "latencies", "message"),
    [
        ([{"macs": 1.0}] * 3, [1.0] * 3, "8 networks or more, has 3 and 3"),
        ([{"macs": 1.0}] * 9, [1.0] * 8, "has 9 and 8"),
        ([{"macs": 1.0}] * 8, [1.0] * 7 + [0.0], "must be numbers above 0"),
        ([{"macs": 1.0}] * 8, [1.0] * 7 + [float("nan")], "must be numbers above 0"),
        ([{"macs": float("inf")}] * 8, [1.0] * 8, "feature 'macs': must be a finite number or a"),
        ([{"macs": None}] * 8, [1.0] * 8, "or a text, is None"),
    ],
)
def test_fit_refuses_what_cannot_be_learned_from(
    features: list[Features], latencies: list[float], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        LatencyPredictor().fit(features, latencies)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0])
def test_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(EvaluationError, match="coverage: must be between 0 and 1"):
        LatencyPredictor(coverage)


@pytest.mark.skipif(not FBNET.exists(), reason="needs FBNet's measured latencies (not here)")
@pytest.mark.parametrize("device", ["raspi4", "2080ti_1", "pixel3"])
def test_fifty_of_fbnets_networks_rank_the_others(device: str) -> None:
    import pandas as pd

    table = pd.read_parquet(FBNET)[:1000]
    networks = features_of(table)
    latencies = table[f"lat_ms_{device}"].to_numpy()
    found = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(table))
        learned, rest = order[:50], order[50:]
        predictor = LatencyPredictor().fit([networks[i] for i in learned], latencies[learned])
        ms, _, _ = predictor.predict([networks[i] for i in rest])
        found.append(spearmanr(ms, latencies[rest]).statistic)
    assert np.mean(found) > 0.97


def test_latency_features_are_the_layers_work_by_kind() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 1, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )
    assert latency_features(model, 4) == {
        "0.macs of Conv2d 3x3": 3 * 8 * 9 * 16,
        "0.numbers of Conv2d 3x3": 8 * 16,
        "0.Conv2d 3x3": 1,
        "1.macs of Conv2d 5x5 depthwise": 8 * 25 * 16,
        "1.numbers of Conv2d 5x5 depthwise": 8 * 16,
        "1.Conv2d 5x5 depthwise": 1,
        "2.macs of Conv2d 1x1 grouped": 8 * 4 * 16,
        "2.numbers of Conv2d 1x1 grouped": 8 * 16,
        "2.Conv2d 1x1 grouped": 1,
        "4.macs of Linear": 1280,
        "4.numbers of Linear": 10,
        "4.Linear": 1,
    }

"""EARLY_STOP: promotion by rank, what a curve foretells, and when nothing may be stopped."""

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
import statsmodels.api as sm
from optuna.trial import TrialState

from nasattn.search.early_stop import (
    EARLY_STOP,
    NeverStop,
    RankStop,
    Training,
    highest,
    n_better,
    rank_stop,
    read_training,
)
from nasattn.search.fronts import Floats

EPOCHS, RUNG = 10, 5
RULE = RankStop(EPOCHS, (RUNG,), reduction=math.inf, margin=0.0)  # no share is spared


def training(top1: float, macs: float, *, epochs: int = EPOCHS, **costs: float) -> Training:
    """A curve that rises by 0.01 an epoch up to `top1` after the last of EPOCHS."""
    curve = (top1 - 0.01 * (EPOCHS - epoch) for epoch in range(1, epochs + 1))
    return Training(tuple(curve), {"macs": macs, **costs})


def at_rung(top1: float, macs: float) -> Training:
    """A training after epoch RUNG that would come to `top1`."""
    return training(top1, macs, epochs=RUNG)


# Twelve finished networks: 100 M to 1.2 G multiply-adds, 60 % to 71 %, each better than the last.
PEERS = [training(0.60 + 0.01 * i, 1e8 * (i + 1)) for i in range(12)]


@pytest.mark.parametrize(
    ("first", "better"),
    [
        ((0.4, 0.5), 0),  # contributes (1 - .4) * (1 - .5) = .30
        ((1.0, 0.0), 1),  # (1.1 - 1) * (.5 - 0) = .05
        ((0.0, 1.0), 2),  # (.4 - 0) * (1.1 - 1) = .04
        ((0.6, 0.6), 3),  # second rank
        ((0.7, 0.9), 4),  # third rank
    ],
)
def test_n_better_goes_by_rank_and_then_by_hypervolume(
    first: tuple[float, float], better: int
) -> None:
    points = [(0.4, 0.5), (0.0, 1.0), (1.0, 0.0), (0.6, 0.6), (0.7, 0.9)]
    points.remove(first)
    assert n_better(np.array([first, *points])) == better


def test_n_better_of_one_objective_counts_the_smaller() -> None:
    assert n_better(np.array([[3.0], [1.0], [4.0], [2.0]])) == 2


def test_highest_is_what_statsmodels_foretells() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)) * [1, 10, 1e-3] + [0, 50, 1]
    y = x @ [1.0, 0.1, 300.0] + 0.1 * rng.normal(size=20)
    new = np.array([0.5, 45.0, 1.002])
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    told = fit.get_prediction(np.array([[1.0, *new]]))
    expected = told.predicted_mean[0] + 2.5 * told.se_obs[0]
    assert highest(x, y, new[None], 2.5) == pytest.approx(expected, abs=1e-9)


def test_highest_leaves_out_a_broken_network() -> None:
    x = np.arange(12.0)[:, None]
    y = 0.8 + 0.01 * x[:, 0]
    broken = y.copy()
    broken[4] = 0.1  # chance; the usual deviation is 0.03
    assert highest(x, broken, np.array([[20.0]]), 3.0) == pytest.approx(1.0, abs=1e-9)


def test_highest_is_infinite_with_too_few_rows() -> None:
    x = np.array([[1.0], [2.0]])
    assert highest(x, np.array([0.5, 0.6]), np.array([[1.5]]), 1.0) == math.inf


@pytest.mark.parametrize(
    ("top1", "macs", "stops"),
    [
        (0.649, 6e8, True),  # the 600 M network came to 65 %
        (0.651, 6e8, False),
        (0.649, 5.9e8, False),  # the next smaller one came to 64 %
        (0.639, 5.9e8, True),
        (0.500, 9e7, False),  # the smallest of all: nobody to judge it by
        (0.709, 9e9, True),
        (0.711, 9e9, False),
    ],
)
def test_stops_where_a_network_no_dearer_is_better(top1: float, macs: float, stops: bool) -> None:
    # All curves rise alike, so that the final accuracy is foretold exactly.
    assert RULE.stops(at_rung(top1, macs), PEERS) is stops


def test_stops_judges_a_small_network_among_its_own() -> None:
    small, large = at_rung(0.601, 1e8), at_rung(0.649, 6e8)
    assert small.curve[-1] < large.curve[-1]
    assert not RULE.stops(small, PEERS)
    assert RULE.stops(large, PEERS)


@pytest.mark.parametrize(
    ("reduction", "stops"),
    # Twelve of the thirteen are first in rank; the one that is judged stands behind them.
    [(1.0, False), (13 / 12.5, False), (13 / 12, True), (4.0, True)],
)
def test_stops_spares_the_best_share_of_a_rung(reduction: float, stops: bool) -> None:
    rule = replace(RULE, reduction=reduction)
    assert rule.stops(at_rung(0.649, 6e8), PEERS) is stops


def test_stops_counts_the_stopped_and_the_running_for_the_share() -> None:
    behind = [at_rung(0.40 + 0.001 * i, 2e9) for i in range(14)]
    rule = replace(RULE, reduction=2.0)
    judged = at_rung(0.649, 6e8)  # 12 stand before it: of 13, or of 27
    assert rule.stops(judged, PEERS)
    assert not rule.stops(judged, PEERS + behind)
    assert rule.stops(judged, PEERS + [training(0.4, 2e9, epochs=RUNG - 1)] * 14)


def test_promoted_goes_by_the_latest_epochs() -> None:
    rule = replace(RULE, reduction=2.0)
    assert rule.promoted(Training((0.1, 0.1, 0.1, 0.1, 0.9), {"macs": 6e8}), PEERS)
    assert not rule.promoted(Training((0.9, 0.9, 0.1, 0.1, 0.1), {"macs": 6e8}), PEERS)


def noisy_peers() -> list[Training]:
    """Forty networks of one size whose last epochs rise by 0.05 or 0.07, as often."""
    peers = []
    for i in range(40):
        early = [0.50 + 0.005 * (i // 2)] * RUNG
        rise = 0.06 + (0.01 if i % 2 else -0.01)
        peers.append(Training((*early, *[early[0] + rise] * (EPOCHS - RUNG)), {"macs": 1e8}))
    return peers


@pytest.mark.parametrize(("margin", "share"), [(1.0, 0.99), (1.0, 1.01), (3.0, 0.99), (3.0, 1.01)])
def test_stops_leaves_room_for_the_error_of_prediction(margin: float, share: float) -> None:
    # The best came to 0.595 + 0.07. A flat curve at a foretells a + 0.06; the residuals are 0.01,
    # and their variance has 40 - 2 degrees of freedom. New values miss by more: 1 + leverage.
    best, middle = 0.595 + 0.07, 0.5475
    variance = 40 * 0.01**2 / 38
    squares = 2 * sum((0.005 * i - 0.0475) ** 2 for i in range(20))

    def reach(a: float) -> float:
        leverage = 1 / 40 + (a - middle) ** 2 / squares
        return a + 0.06 + margin * math.sqrt(variance * (1 + leverage))

    lowest = next(a for a in np.arange(0.5, 0.7, 1e-5) if reach(a) >= best)
    a = best - (best - lowest) * share
    judged = Training((a,) * RUNG, {"macs": 1e8})
    stops = replace(RULE, margin=margin).stops(judged, noisy_peers())
    assert stops is (share > 1)


@pytest.mark.parametrize(
    ("judged", "peers", "baseline"),
    [
        (at_rung(0.3, 6e8), PEERS, True),
        (at_rung(0.3, math.nan), PEERS, False),
        (at_rung(0.3, math.inf), PEERS, False),
        (Training((0.1, 0.1, math.nan, 0.1, 0.1), {"macs": 6e8}), PEERS, False),
        (Training((), {"macs": 6e8}), PEERS, False),
        (training(0.3, 6e8, epochs=RUNG - 1), PEERS, False),  # no rung
        (training(0.3, 6e8, epochs=RUNG + 1), PEERS, False),
        (at_rung(0.3, 6e8), [], False),
        (at_rung(0.3, 6e8), PEERS[:11], False),  # 2 * (1 + 4 quarters + 1 cost) are needed
        (at_rung(0.3, 6e8), [replace(p, curve=p.curve[:-1]) for p in PEERS], False),
        (at_rung(0.3, 6e8), [replace(p, costs={"params": 1.0}) for p in PEERS], False),
        (at_rung(0.3, 6e8), [replace(p, costs={"macs": math.nan}) for p in PEERS], False),
    ],
)
def test_stops_never(judged: Training, peers: list[Training], baseline: bool) -> None:
    assert RULE.stops(at_rung(0.3, 6e8), PEERS)
    assert not RULE.stops(judged, peers, baseline=baseline)


@pytest.mark.parametrize("top1", [0.649, 0.651])
def test_stops_ignores_peers_without_figures(top1: float) -> None:
    odd = [
        Training((), {}),
        Training((), {"macs": 1.0}),
        Training((math.nan,) * EPOCHS, {"macs": 1.0}),
        Training((0.99,) * EPOCHS, {"macs": math.nan}),
        Training((0.99,) * EPOCHS, {}),
        training(0.99, 1.0, epochs=RUNG - 1),
    ]
    expected = RULE.stops(at_rung(top1, 6e8), PEERS)
    assert RULE.stops(at_rung(top1, 6e8), [*odd, *PEERS, *odd]) is expected


@pytest.mark.parametrize("top1", [0.10, 0.649, 0.651, 0.90])
@pytest.mark.parametrize("margin", [0.0, 3.0])
@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e9])
def test_stops_in_any_unit_of_cost(top1: float, margin: float, factor: float) -> None:
    rule = replace(RULE, margin=margin)
    peers = [replace(p, costs={"macs": p.costs["macs"] * factor}) for p in PEERS]
    expected = rule.stops(at_rung(top1, 6e8), PEERS)
    assert rule.stops(at_rung(top1, 6e8 * factor), peers) is expected


def test_stops_only_what_is_no_cheaper_in_anything() -> None:
    peers = [training(0.60 + 0.01 * (i // 2), 1e8 * (i + 1), params=5e6) for i in range(20)]
    rule = replace(RULE, margin=1.0)
    assert rule.stops(training(0.55, 9e8, params=5e6, epochs=RUNG), peers)
    assert not rule.stops(training(0.55, 9e8, params=4e6, epochs=RUNG), peers)
    assert rule.stops(training(0.55, 9e8, params=6e6, epochs=RUNG), peers)


def test_stops_without_any_cost_goes_by_accuracy() -> None:
    peers = [replace(peer, costs={}) for peer in PEERS]
    assert RULE.stops(Training(at_rung(0.709, 1.0).curve, {}), peers)
    assert not RULE.stops(Training(at_rung(0.711, 1.0).curve, {}), peers)


def test_stops_with_a_cost_that_larger_is_better() -> None:
    # Costs at or below zero are taken as they are: here the third of these, its sign turned.
    peers = [replace(p, costs={"speed": -1e9 / p.costs["macs"]}) for p in PEERS]
    assert RULE.stops(Training(at_rung(0.62, 1.0).curve, {"speed": -1.5}), peers)
    assert not RULE.stops(Training(at_rung(0.62, 1.0).curve, {"speed": -11.0}), peers)


def test_never_stop_goes_on() -> None:
    assert EARLY_STOP["none"](EPOCHS) == NeverStop()
    assert not NeverStop().stops(at_rung(0.1, 1e12), PEERS)


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [
        (1, (0,)),
        (2, (0, 1)),
        (3, (0, 1, 2)),
        (6, (0, 1, 2, 3, 4)),
        (12, (0, 2, 3, 4, 5, 6, 7, 8)),
        (50, (0, *range(9, 34))),
    ],
)
def test_rank_stop_judges_from_a_sixth_to_two_thirds(epochs: int, rungs: tuple[int, ...]) -> None:
    assert EARLY_STOP["rank"](epochs) == rank_stop(epochs) == RankStop(epochs, rungs)


def stored(rule: RankStop, finals: Floats, macs: Floats, speeds: Floats, known: str = "[]") -> str:
    """A search of these networks in turn, as JSON of its curves; `known` was stored before."""
    history: list[list[float]] = json.loads(known)
    for i in range(len(history), len(finals)):
        peers = [Training(tuple(c), {"macs": macs[j]}) for j, c in enumerate(history)]
        curve: list[float] = []
        while len(curve) < rule.epochs:
            left = 1 - (len(curve) + 1) / rule.epochs
            curve.append(float(finals[i] - speeds[i] * left))
            if rule.stops(Training(tuple(curve), {"macs": macs[i]}), peers):
                break
        history.append(curve)
    return json.dumps(history)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_saves_epochs_keeps_its_front_and_goes_on_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    macs = rng.uniform(1e8, 1e9, 60)
    finals = 0.6 + 0.3 * macs / 1e9 - 0.2 * rng.random(60)
    speeds = rng.uniform(0.25, 0.35, 60)
    rule = rank_stop(12)
    whole = stored(rule, finals, macs, speeds)
    curves = json.loads(whole)
    front = [i for i in range(60) if finals[i] >= finals[macs <= macs[i]].max()]
    assert all(len(curves[i]) == 12 for i in front)
    assert sum(map(len, curves)) < 0.8 * 12 * 60
    killed = json.dumps(curves[:30])
    assert stored(rule, finals, macs, speeds, killed) == whole


def test_read_training_reads_a_stored_trial() -> None:
    study = optuna.create_study()
    trial = study.ask()
    assert read_training(study.trials[0].user_attrs, {"macs": 1}) == Training((), {})
    trial.set_user_attr("curve", [[2.3, 0.1], [1.9, 0.3]])
    trial.set_user_attr("values", {"top1": 0.3, "macs": 5e6, "speed": 80.0})
    study.tell(trial, state=TrialState.PRUNED)
    signs = {"macs": 1, "speed": -1, "latency_ms": 1}
    expected = Training((0.1, 0.3), {"macs": 5e6, "speed": -80.0})
    assert read_training(study.trials[0].user_attrs, signs) == expected


def test_foretold_is_what_the_finished_let_expect_and_at_least_what_was_reached() -> None:
    peers = noisy_peers()
    judged = Training((0.5,) * RUNG, {"macs": 1e8})
    foretold = RULE.foretell(judged, peers)
    assert foretold == pytest.approx(RULE.final(judged, peers, margin=0))
    assert RULE.final(judged, peers, margin=3) > foretold
    assert RULE.foretell(replace(judged, curve=(0.999,) * RUNG), peers) >= 0.999
    assert RULE.foretell(judged, []) == 0.5  # nobody to tell by
    assert NeverStop().foretell(judged, peers) == 0.5


# Twenty finished networks of one size, 60 % to 79 %; what `said` of them is a twentieth of that and
# 0.1, what `noise` said has nothing to do with it.
NOISE = np.random.default_rng(1).normal(size=20)
KNOWN = [
    Training((0.6 + i / 100,) * EPOCHS, {"macs": 1e8}, {"said": 0.1 + (0.6 + i / 100) / 20})
    for i in range(20)
]
FIRST = RankStop(EPOCHS, (0,), reduction=math.inf, margin=3.0)


def foreseen(top1: float) -> Training:
    """A network that would come to `top1`, before its training."""
    return Training((), {"macs": 1e8}, {"said": 0.1 + top1 / 20})


@pytest.mark.parametrize(("top1", "stops"), [(0.789, True), (0.791, False), (0.3, True)])
def test_stops_before_a_training_by_a_perfect_estimate(top1: float, stops: bool) -> None:
    assert FIRST.stops(foreseen(top1), KNOWN) is stops
    assert FIRST.foretell(foreseen(top1), KNOWN) == pytest.approx(top1)
    assert not FIRST.stops(foreseen(top1), KNOWN, baseline=True)


def test_an_estimate_weighs_what_it_was_worth() -> None:
    peers = [
        replace(peer, estimates={"noise": noise}) for peer, noise in zip(KNOWN, NOISE, strict=True)
    ]
    # Twenty final accuracies spread by 0.06: three standard errors are more than a half of them.
    for noise in (-2.0, 0.0, 2.0):
        judged = Training((), {"macs": 1e8}, {"noise": noise})
        assert not FIRST.stops(judged, peers)
        assert FIRST.foretell(judged, peers) < 0.79


@pytest.mark.parametrize(("reduction", "stops"), [(21 / 2, True), (21 / 2.5, False)])
def test_the_first_rung_spares_the_best_foretold_share(reduction: float, stops: bool) -> None:
    # Of 21 networks of one size two come out better: the third is spared of a share above 2.
    judged = foreseen(0.775)
    assert replace(FIRST, reduction=reduction).stops(judged, KNOWN) is stops


def test_the_first_rung_counts_those_that_it_stopped() -> None:
    behind = [foreseen(0.4 + i / 1000) for i in range(30)]
    rule = replace(FIRST, reduction=4.0)
    assert rule.stops(foreseen(0.70), KNOWN)  # 9 stand before it, of 21
    assert not rule.stops(foreseen(0.70), KNOWN + behind)  # of 51


@pytest.mark.parametrize(
    ("judged", "peers"),
    [
        (replace(foreseen(0.3), estimates={}), KNOWN),  # every estimator failed
        (replace(foreseen(0.3), estimates={"said": math.nan}), KNOWN),
        (replace(foreseen(0.3), estimates={"else": 1.0}), KNOWN),
        (foreseen(0.3), KNOWN[:9]),
        (foreseen(0.3), [replace(peer, estimates={}) for peer in KNOWN]),
    ],
)
def test_nothing_stops_before_a_training_of_which_too_little_is_known(
    judged: Training, peers: list[Training]
) -> None:
    assert FIRST.stops(foreseen(0.3), KNOWN)
    assert not FIRST.stops(judged, peers)


def test_estimates_tell_beside_a_curve() -> None:
    # What a curve has at the rung says nothing here; the estimate says all.
    curves = [(0.5 + noise / 100,) * RUNG for noise in NOISE]
    peers = [
        replace(peer, curve=(*curve, *peer.curve[RUNG:]))
        for peer, curve in zip(KNOWN, curves, strict=True)
    ]
    rule = replace(RULE, margin=3.0)
    judged = Training((0.5,) * RUNG, {"macs": 1e8}, {"said": 0.1 + 0.7 / 20})
    assert rule.stops(judged, peers)
    assert not rule.stops(replace(judged, estimates={}), peers)


def test_read_training_takes_estimates_that_are_no_costs() -> None:
    values = {"top1": 0.7, "macs": 5e6}
    attributes = {"values": values, "estimates": {"naswot": 300.0, "macs": 5e6}}
    expected = Training((0.7,), {"macs": 5e6}, {"naswot": 300.0})
    assert read_training(attributes, {"macs": 1}) == expected  # it was looked up: no curve

"""Searches of equal processor time, on a made-up truth of which all is known."""

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.equal_cpu_search import (
    WAYS,
    CostAware,
    Truth,
    compare,
    median,
    read_truth,
    search,
)
from nasattn.errors import StudyError
from nasattn.estimate.bench import OWN_SEED
from nasattn.estimate.estimator import Estimate
from nasattn.estimate.ledger import Ledger, Task
from nasattn.train.loop import Epoch

N, EPOCHS, SEEDS = 40, 6, 2
PLAIN, AWARE, RUNGS, ASKED, DEFAULT, BOTH = WAYS


def final(i: int, seed: int) -> float:
    """Top1 of network i: it has little to do with its size; the second seed is 0.01 better."""
    return 0.5 + 0.4 * ((i * 7) % N) / N + 0.01 * seed


def write(folder: Path) -> Path:
    """Networks of 1 to 40 M multiply-adds; an epoch takes 10 s of 20 processor seconds a network,
    an estimate that is right but for a factor 0.1 s."""
    trained, estimated = Ledger(folder / "trainings.jsonl"), Ledger(folder / "estimates.jsonl")
    rows = []
    for i in range(N):
        arch_id = f"{i:012x}"
        for seed in range(SEEDS):
            top1 = final(i, seed)
            curve = tuple(Epoch(k + 1, 1.0, top1 * (k + 1) / EPOCHS, 10.0) for k in range(EPOCHS))
            trained.add(Task("full", seed, arch_id), Estimate(top1, 20.0, 60.0, curve=curve))
        said = None if i == 5 else 3 * final(i, 0)
        estimated.add(Task("naswot", OWN_SEED, arch_id), Estimate(said, 0.1, 0.1))
        rows.append([f"net{i}", arch_id, 1e6 * (i + 1), 1e5, final(i, 0), final(i, 1), i % 3])
    with (folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        head = ["network", "arch_id", "macs", "params", "top1_0", "top1_1", "kernel"]
        csv.writer(file).writerows([head, *rows])
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return read_truth(write(tmp_path_factory.mktemp("bench")), "naswot+macs")


def test_read_truth_finds_curves_times_and_estimates(truth: Truth) -> None:
    assert truth.curves.shape == truth.seconds.shape == (SEEDS, N, EPOCHS)
    assert truth.curves[1, 3, -1] == pytest.approx(final(3, 1))
    assert np.allclose(truth.seconds, 20 / EPOCHS)
    assert truth.estimates[3] == {"naswot": pytest.approx(3 * final(3, 0)), "macs": 4e6}
    assert truth.estimates[5].keys() == {"macs"}  # it failed, and took its time
    assert np.allclose(truth.asking, 0.1)
    assert truth.features.shape == (N, 3)
    assert (truth.features.sum(axis=1) == 1).all()


def test_read_truth_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"truth.csv: there is no such file"):
        read_truth(tmp_path, "naswot")
    with pytest.raises(StudyError, match=r"estimates.jsonl: has no zen of 000000000000"):
        read_truth(write(tmp_path), "zen")


def test_read_truth_leaves_the_files_of_a_bench_that_runs(tmp_path: Path) -> None:
    write(tmp_path)
    half = '{"estimator": "full", "se'
    with (tmp_path / "trainings.jsonl").open("a") as file:
        file.write(half)
    read_truth(tmp_path, "naswot")
    assert (tmp_path / "trainings.jsonl").read_text().endswith(half)


def test_share_is_that_of_all_networks(truth: Truth) -> None:
    assert truth.share(range(N)) == 1
    assert truth.share([]) == 0
    # The front alone is all of it.
    means = truth.curves[:, :, -1].mean(axis=0)
    front = [i for i in range(N) if means[i] >= means[: i + 1].max()]
    assert truth.share(front) == pytest.approx(1)
    assert truth.share(front[1:]) < 1


def test_every_network_is_trained_where_there_is_time(truth: Truth) -> None:
    found = search(truth, PLAIN, 0, budget=1e9)
    assert sorted(found.found) == list(range(N))
    assert found.spent == pytest.approx(20 * N)
    assert (found.n_begun, found.n_untrained) == (N, 0)


def test_a_network_that_is_not_done_in_time_is_lost(truth: Truth) -> None:
    found = search(truth, PLAIN, 0, budget=101.0)  # five of 20 s, and a sixth that is begun
    assert (len(found.found), found.n_begun) == (5, 6)


def test_estimates_leave_networks_untrained_and_none_of_the_front(truth: Truth) -> None:
    found = search(truth, ASKED, 0, budget=1e9)
    assert found.n_untrained > N / 4
    assert found.spent < 20 * N
    assert truth.share(found.found) == pytest.approx(1)
    rungs = search(truth, RUNGS, 0, budget=1e9)
    assert rungs.n_untrained == 0
    assert found.spent < rungs.spent < 20 * N


def test_with_equal_time_estimates_find_more(truth: Truth) -> None:
    shares = [
        [truth.share(search(truth, way, seed, budget=400.0).found) for seed in range(10)]
        for way in (PLAIN, ASKED)
    ]
    assert np.median(shares[1]) > np.median(shares[0])
    assert search(truth, ASKED, 3, budget=400.0) == search(truth, ASKED, 3, budget=400.0)


def test_cost_aware_proposes_each_network_once(truth: Truth) -> None:
    proposer = CostAware(truth, 0)
    order: list[int] = []
    while (i := proposer.ask()) is not None and len(order) < 8:
        order.append(i)
        proposer.tell(i, (final(i, 0), float(truth.macs[i])), stopped=i % 2 == 0)
    assert len(set(order)) == 8
    assert set(order) <= set(range(N))


def test_median_has_the_interval_of_order_statistics() -> None:
    # Of 20 values the 6th and the 15th: 95.9 %
    assert median([i / 100 for i in range(1, 21)]) == "10.5 [6.0, 15.0]"
    assert median([0.5, 0.7]) == "60.0"


def test_compare_says_a_line_for_each_way(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.equal_cpu_search.WAYS", (PLAIN, RUNGS, ASKED))
    lines = list(compare(truth, 0.5, range(6)))
    assert [line[:34].rstrip() for line in lines] == ["", PLAIN.name, RUNGS.name, ASKED.name]
    assert lines[1].count("[") == 1
    assert lines[2].count("[") == 2

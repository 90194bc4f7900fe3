r"""LatencyPredictor on FBNet's measured latencies: learned from few networks, judged on the others.

    python -m benchmarks.latency_predictor PATH/fbnet_latency.parquet
    nasattn latency --space mobile --samples 150 --runtime onnxruntime --resolution 32 \
        --classes 10 --no-memory --fit FILE
    python -m benchmarks.latency_predictor --measurements FILE

A row of the table is a network: which of nine blocks each of its 22 layers has, and its latency on
27 devices. Prints, a device a line: Spearman's correlation of predicted and measured latencies, the
mean relative error, the share of intervals that hold (they promise 90 %), the error that the
predictor says of itself; and how far a one-hot regression of 4,000 networks comes, which is what
the noise of the measurements leaves to be known. With --measurements: on networks of a space of
ours, measured here.
"""

import argparse
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
from scipy.stats import spearmanr, t
from sklearn.linear_model import Ridge

from nasattn.cost import LatencyPredictor
from nasattn.cost.measurements import read_measurements
from nasattn.cost.predictor import Features

OPS = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
N_TEST = 1000
N_CEILING = 4000


def layers() -> Iterator[tuple[int, int, int, int]]:
    """(entering channels, leaving channels, stride, entering resolution) of the 22 layers."""
    in_chs, resolution = 16, 112
    for out_chs, n, stride in STAGES:
        for i in range(n):
            yield in_chs, out_chs, stride if i == 0 else 1, resolution
            resolution //= stride if i == 0 else 1
            in_chs = out_chs


def features_of(table: pd.DataFrame) -> list[Features]:
    """What a predictor is told of each network: block, multiply-adds and numbers, by layer."""
    places = list(enumerate(layers()))
    known = {(i, op): layer_features(i, op, layer) for i, layer in places for op in OPS}
    codes = table.filter(like="layer").to_numpy()
    return [
        {k: v for i, code in enumerate(row) for k, v in known[i, OPS[code]].items()}
        for row in codes
    ]


def layer_features(place: int, op: str, layer: tuple[int, int, int, int]) -> dict[str, float | str]:
    """Multiply-adds of either kind, numbers in the hidden maps, and whether it is there."""
    in_chs, out_chs, stride, resolution = layer
    entering, leaving = resolution**2, (resolution // stride) ** 2
    if op == "skip":
        there = in_chs != out_chs or stride > 1
        pointwise, depthwise, numbers = there * in_chs * out_chs * leaving, 0, 0
    else:
        kernel, expansion = int(op[1]), int(op[4])
        groups = 2 if op.endswith("g2") else 1
        hidden = in_chs * expansion
        pointwise = (in_chs * hidden * entering + hidden * out_chs * leaving) // groups
        depthwise, numbers = hidden * kernel**2 * leaving, hidden * (entering + leaving)
        there = True
    name = f"layer{place:02}"
    return {
        f"{name}.op": op,
        f"{name}.pointwise": float(pointwise),
        f"{name}.depthwise": float(depthwise),
        f"{name}.numbers": float(numbers),
        f"{name}.there": float(there),
    }


def ceiling(codes: np.ndarray, latencies: np.ndarray) -> float:
    """Spearman's correlation that a one-hot regression of most of the table reaches."""
    onehot = (codes[:, :, None] == np.arange(len(OPS))).reshape(len(codes), -1).astype(float)
    model = Ridge(1.0).fit(onehot[:N_CEILING], latencies[:N_CEILING])
    found = spearmanr(model.predict(onehot[N_CEILING:]), latencies[N_CEILING:])
    return float(found.statistic)


def measure(
    networks: list[Features], latencies: np.ndarray, n: int, seed: int
) -> tuple[float, float, float, float]:
    """Spearman, mean relative error, share of intervals that hold, error as the predictor says."""
    order = np.random.default_rng(seed).permutation(len(latencies))
    learned, rest = order[:n], order[n : n + N_TEST]
    predictor = LatencyPredictor().fit([networks[i] for i in learned], latencies[learned])
    ms, low, high = predictor.predict([networks[i] for i in rest])
    true = latencies[rest]
    return (
        float(spearmanr(ms, true).statistic),
        float(np.mean(np.abs(ms / true - 1))),
        float(np.mean((low <= true) & (true <= high))),
        predictor.error,
    )


def judge_file(path: Path, n: int, seeds: int) -> None:
    """Print how well the predictor does on the networks of a file."""
    measured = read_measurements(path)
    latencies = np.array([network.latency_ms for network in measured.networks])
    features = [network.features for network in measured.networks]
    print(f"{len(latencies)} networks measured on {measured.runtime}, learned from {n}")
    figures = np.array([judge(features, latencies, n, seed) for seed in range(seeds)])
    names = ("Spearman", "mean error", "within 10 %", "intervals that hold", "own error")
    for name, column in zip(names, figures.T, strict=True):
        print(f"{name}: {column.mean():.3f}, {column.min():.3f} to {column.max():.3f}")


def judge(
    networks: Sequence[Features], latencies: np.ndarray, n: int, seed: int
) -> tuple[float, float, float, float, float]:
    """Learn from n networks, foretell the others."""
    order = np.random.default_rng(seed).permutation(len(latencies))
    learned, rest = order[:n], order[n:]
    predictor = LatencyPredictor().fit([networks[i] for i in learned], latencies[learned])
    ms, low, high = predictor.predict([networks[i] for i in rest])
    true = latencies[rest]
    off = np.abs(ms / true - 1)
    held = np.mean((low <= true) & (true <= high))
    rank = spearmanr(ms, true).statistic
    return float(rank), float(off.mean()), float(np.mean(off < 0.1)), float(held), predictor.error


def main() -> None:
    """Print a table of all devices, as Markdown."""
    parser = argparse.ArgumentParser(description="LatencyPredictor on FBNet's latencies.")
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--measurements", type=Path, help="of ours, in place of a table")
    parser.add_argument("--networks", type=int, default=50, help="that it learns from")
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    if options.measurements:
        judge_file(options.measurements, options.networks, options.seeds)
        return
    start = time.perf_counter()
    table = pd.read_parquet(options.table)
    networks, codes = features_of(table), table.filter(like="layer").to_numpy()
    print(
        f"{len(table)} networks, learned from {options.networks}, judged on {N_TEST} others, "
        f"{options.seeds} seeds; python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}\n"
    )
    print("| device | Spearman | ceiling | mean error % | intervals that hold % | own error % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for column in table.filter(like="lat_ms").columns:
        latencies = table[column].to_numpy()
        runs = [
            measure(networks, latencies, options.networks, seed) for seed in range(options.seeds)
        ]
        figures = np.array(runs)
        half = t.ppf(0.975, len(runs) - 1) * figures.std(axis=0, ddof=1) / np.sqrt(len(runs))
        (rank, error, held, own), (sure, off, *_) = figures.mean(axis=0), half
        print(
            f"| {column.removeprefix('lat_ms_')} | {rank:.3f} ± {sure:.3f} | "
            f"{ceiling(codes, latencies):.3f} | {100 * error:.1f} ± {100 * off:.1f} | "
            f"{100 * held:.1f} ± {100 * half[2]:.1f} | {100 * own:.1f} |",
            flush=True,
        )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

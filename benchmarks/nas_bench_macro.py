"""Count all 6,561 networks of NAS-Bench-Macro and compare with its table.

    python -m benchmarks.nas_bench_macro PATH/nas_bench_macro_cifar10.parquet

Prints how many rows agree and exits 1 unless all do.
"""

import platform
import sys
import time
from pathlib import Path

import torch

from nasattn.cost import StaticCost
from tests.nas_bench_macro import count_network, read_table


def main(path: Path) -> int:
    """Compare every row; the number of those that differ."""
    torch.set_num_threads(1)
    table = read_table(path)
    start = time.perf_counter()
    counted = {code: count_network(str(code)) for code in table.index}
    seconds = time.perf_counter() - start
    params = {code for code, row in table.iterrows() if counted[code].params == row["params"]}
    macs = {code for code, row in table.iterrows() if counted[code].macs == row["flops"]}
    complete = {code for code, cost in counted.items() if not cost.uncounted}
    print(f"python {platform.python_version()}, torch {torch.__version__}, one thread, meta device")
    for name, rows in (
        ("params equal", params),
        ("multiply-adds equal", macs),
        ("nothing uncounted", complete),
    ):
        print(f"{name:20} {len(rows)} of {len(table)}")
    print(f"{seconds:.0f} s, {1000 * seconds / len(table):.1f} ms a network, built and counted")
    wrong = sorted(set(table.index) - (params & macs & complete))
    for code in wrong[:10]:
        print(f"{code}: {say(counted[code])}, table {dict(table.loc[code, ['params', 'flops']])}")
    return len(wrong)


def say(cost: StaticCost) -> str:
    """A count in a line."""
    return f"counted {cost.params} params, {cost.macs} multiply-adds, uncounted {cost.uncounted}"


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)

"""`nasattn prune --sensitivity`: which layers of a trained network can lose channels."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from nasattn.cli.evaluate import Choice, check_file
from nasattn.cli.folders import write_result
from nasattn.cli.machine import plain_memory_errors
from nasattn.cli.pruning import TORCH_PRUNING, example, load, prepare, read_options, top1
from nasattn.cli.tables import add_row, number_column, table
from nasattn.cli.train import LESS, share_words
from nasattn.compress.graph import channel_groups
from nasattn.compress.sensitivity import RATIOS, Response, sensitivity
from nasattn.errors import StudyError
from nasattn.train.loop import subset
from nasattn.train.metrics import Share


@plain_memory_errors(LESS)
def sensitivity_command(
    target: str,
    changes: Mapping[str, Any],
    choice: Choice,
    *,
    n: int,
    json_file: Path | None,
    cache_dir: Path,
) -> None:
    """Top-1 on val-search after each group of channels alone is pruned."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    options = read_options(changes, choice)
    if n < 1:
        raise StudyError(f"--n: must be 1 or more, is {n}")
    check_file(json_file, target, choice.init, choice.data)
    importance = options.importance
    if importance is None:
        raise StudyError(f"--sensitivity: only with --pruner {TORCH_PRUNING}")
    original, data, options = load(console, target, choice, options, cache_dir)
    split = subset(data.val_search, n)
    prepare(original, data, options)
    groups = channel_groups(original.model, example(data), importance=importance, seed=options.seed)
    original.model.zero_grad()

    def measure(model: nn.Module) -> Share:
        return top1(model.to(options.device), split, original.normalise, data, options)

    whole = measure(original.model)
    console.print(f"top1 {share_words(whole)} val-search pictures, nothing pruned")
    with console.status("pruning one group after the other"):
        rows = list(sensitivity(original.model, groups, measure))
    console.print(sensitivity_table(rows, whole), soft_wrap=False)
    console.print("top1 %, where that share of the layer's channels goes; nothing trained")
    if json_file:
        facts = {
            "weights": target,
            "data": data.name,
            "content_hash": data.content_hash,
            "split": "val_search",
            "n": whole.n,
            "importance": importance,
            "whole": asdict(whole),
            "ratios": RATIOS,
            "groups": [asdict(row) for row in rows],
        }
        write_result(json_file, json.dumps(facts, indent=1) + "\n")
        console.print(f"written: {json_file}")


def sensitivity_table(rows: list[Response], whole: Share) -> Table:
    """A row a group of channels, in the order of the network."""
    heads = [f"{ratio:.0%}".replace("%", " %") for ratio in RATIOS]
    made = table("layer", *map(number_column, ("channels", *heads)))
    worst = min((row.top1[1].value for row in rows), default=whole.value)
    for row in rows:
        cells = (f"{100 * share.value:.1f}" for share in row.top1)
        style = "bold" if row.top1[1].value == worst else None
        add_row(made, (row.name, f"{row.width:,}", *cells), style=style)
    return made

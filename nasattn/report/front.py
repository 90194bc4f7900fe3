"""The Pareto front of a study, with the baselines beside it."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.errors import StudyError
from nasattn.evaluate import State
from nasattn.files import write_text
from nasattn.objectives import Objective, get_objective
from nasattn.parts import FusionSpec
from nasattn.search.control import Control, rank_by_size, read_control
from nasattn.search.fronts import ranks
from nasattn.search.selection import Selected, read_selection
from nasattn.search.trials import finished_networks, is_new, network_of, state_of
from nasattn.train.metrics import Share

GROUND = ("settings", "environment", "n_val", "n_select", "n_classes")
FACTS = ("recipe_id", "seed", "device", "threads", "seconds", "latency", "static")
ARCH_ID = re.compile("[0-9a-f]{12}")
FUSION_WORDS: dict[str, Callable[[FusionSpec], list[str]]] = {
    "none": lambda fusion: [],
    "aff": lambda fusion: ["aff"],
    "multi_scale": lambda fusion: [f"scales{fusion.scales}"],
}


@dataclass(frozen=True)
class FrontRow:
    """A network of the front, or a baseline wherever it came out."""

    network: str  # the baseline's name, else the arch_id
    is_baseline: bool
    on_front: bool
    trial: int
    state: State
    reason: str
    values: dict[str, float]
    arch_id: str
    architecture: Architecture
    facts: dict[str, Any]  # recipe_id, seed, device, threads, seconds, latency with its spread
    selected: Selected | None = None  # of a network that was trained again over fresh seeds

    @property
    def top1(self) -> float | None:
        """The most that is known of it: the mean over fresh seeds, else that of the search."""
        return self.selected.top1 if self.selected else self.values.get("top1")


@dataclass(frozen=True)
class Front:
    """The front of a study: rows sorted by the first objective, the best first.

    Where networks were trained again, the front is theirs alone, by what that came to.
    """

    study: str
    objectives: tuple[str, ...]
    rows: tuple[FrontRow, ...]
    ground: dict[str, Any]  # settings, environment, n_classes, n_val (pictures behind each top1)
    size_ranks: dict[str, float]  # Kendall's tau of top1 with params, macs, depth
    control: Control | None = None
    n_failed_again: int = 0  # trainings with fresh seeds that came to no end
    is_unfinished: bool = False  # whether networks are still to be trained again

    @property
    def is_selected(self) -> bool:
        """Whether networks were trained again."""
        return any(row.selected for row in self.rows)

    @property
    def uncounted(self) -> dict[str, list[str]]:
        """Operators that the multiply-adds leave out, by network; mostly none."""
        found = {row.network: row.facts.get("static", {}).get("uncounted") for row in self.rows}
        return {network: names for network, names in found.items() if names}

    @property
    def has_spread(self) -> bool:
        """Whether networks were trained again more than once."""
        return any(row.selected and row.selected.p_front is not None for row in self.rows)

    @property
    def n_val(self) -> int:
        return int(self.ground.get("n_val", 0))

    def accuracy_margin(self) -> float:
        """Half the 95 % interval of the front's least certain top1 on `n_val` pictures (Wilson).

        It speaks of the pictures alone; another training seed would add to it.
        """
        n = self.n_val
        found = [r.values["top1"] for r in self.rows if r.on_front and "top1" in r.values] or [0.5]
        intervals = [Share(round(top1 * n), n).interval for top1 in found]
        return max((high - low) / 2 for low, high in intervals)


def read_front(study: optuna.Study) -> Front:
    """The front of a study that `nasattn search` made: each network once, feasible ones only."""
    objectives = tuple(study.metric_names or ())
    rows = tuple(get_objective(name) for name in objectives)
    selection = read_selection(study, rows)
    selected = selection.judge()
    front = _on_front(study)
    first = [t for t in study.get_trials(deepcopy=False) if is_new(t) and "arch_id" in t.user_attrs]
    found = []
    for trial in first:
        again = selected.get(trial.user_attrs["arch_id"])
        if again or trial.number in front or "baseline" in trial.user_attrs:
            on_front = again is not None and again.on_front if selected else trial.number in front
            found.append(_row(trial, on_front, again))
    if rows:
        found.sort(key=lambda row: _place(row, rows[0]))
    ground = {name: study.user_attrs[name] for name in GROUND if name in study.user_attrs}
    return Front(
        study.study_name,
        objectives,
        tuple(found),
        ground,
        rank_by_size(study),
        read_control(study, rows) if rows else None,
        selection.n_failed,
        selection.unfinished,
    )


def _on_front(study: optuna.Study) -> set[int]:
    """The trials that no other beats; `study.best_trials` would copy every trial first."""
    trials = finished_networks(study)
    if not trials:
        return set()
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
    rank = ranks(np.array([trial.values for trial in trials]) * signs)
    return {trials[i].number for i in np.flatnonzero(rank == 0)}


def _place(row: FrontRow, leading: Objective) -> float:
    """Where a row stands: by the first objective, the best first; without it, at the end."""
    value = row.top1 if leading.name == "top1" else row.values.get(leading.name)
    return math.inf if value is None else leading.sign * value


def _row(trial: FrozenTrial, on_front: bool, selected: Selected | None) -> FrontRow:
    attributes = trial.user_attrs
    return FrontRow(
        network=attributes.get("baseline", attributes["arch_id"]),
        is_baseline="baseline" in attributes,
        on_front=on_front,
        trial=trial.number,
        state=state_of(trial),
        reason=attributes["reason"],
        values=attributes["values"],
        arch_id=attributes["arch_id"],
        architecture=network_of(trial),
        facts={name: attributes[name] for name in FACTS if name in attributes},
        selected=selected,
    )


def describe(arch: Architecture) -> str:
    """What sets a network apart, in a few words: `lam*6 aff gem4`."""
    everywhere = (arch.stem.attention, *(stage.attention for stage in arch.stages))
    kinds = Counter(spec.kind for spec in everywhere if spec.kind != "none")
    words = [f"{kind}*{n}" if n > 1 else kind for kind, n in kinds.most_common()] or ["plain"]
    words += ["progressive"] if arch.progressive else []
    words += FUSION_WORDS[arch.fusion.kind](arch.fusion)
    share = min(stage.run_share for stage in arch.stages)
    words += [f"run{100 * share:g}%"] if share < 1 else []
    if arch.head.pooling == "gem":
        words.append("gem" if arch.head.gem_learnable else f"gem{arch.head.gem_p:g}")
    return " ".join(words)


def write_front(front: Front, folder: Path) -> list[Path]:
    """Write front.csv, front.json and architectures/NETWORK.json; returns the first two paths.

    Each JSON stands for itself: settings, versions, seed and spread are in it. Raises StudyError
    where the folder cannot be written.
    """
    rows = [_plain(row) for row in front.rows]
    left_out = ("architecture", "facts", "values", "again")
    table = pd.DataFrame(
        {k: v for k, v in row.items() if k not in left_out} | row["values"] | _again(row["again"])
        for row in rows
    )
    texts = {
        "front.csv": table.to_csv(index=False),
        "front.json": _json(
            {"study": front.study, "objectives": front.objectives}
            | front.ground
            | {"size_ranks": front.size_ranks}
            | {"control": asdict(front.control) if front.control else None}
            | {"rows": rows}
        ),
    }
    networks = folder / "architectures"
    try:
        networks.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
        for row in rows:
            write_text(networks / f"{row['network']}.json", _json(row | front.ground))
        for path in networks.glob("*.json"):  # networks that have left the front
            if path.stem not in {row["network"] for row in rows} and ARCH_ID.fullmatch(path.stem):
                path.unlink()
    except OSError as e:
        raise StudyError(f"{folder}: cannot be written ({e.strerror}); --out takes another") from e
    return [folder / name for name in texts]


def _plain(row: FrontRow) -> dict[str, Any]:
    return {
        "network": row.network,
        "baseline": row.is_baseline,
        "on_front": row.on_front,
        "trial": row.trial,
        "state": row.state,
        "reason": row.reason,
        "attention": describe(row.architecture),
        "arch_id": row.arch_id,
        "values": row.values,
        "again": asdict(row.selected) if row.selected else None,
        "facts": row.facts,
        "architecture": row.architecture.model_dump(mode="json", exclude_defaults=True),
    }


def _again(again: dict[str, Any] | None) -> dict[str, Any]:
    """What fresh seeds came to, as columns of the table."""
    if again is None:
        return {}
    columns = {"top1": "top1_again", "half": "top1_again_half", "p_front": "p_front"}
    return {column: again[name] for name, column in columns.items()} | {
        "n_seeds": len(again["runs"])
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"

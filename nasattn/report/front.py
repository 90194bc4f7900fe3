"""The Pareto front of a study, with the baselines beside it."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import StudyError
from nasattn.evaluate import State
from nasattn.files import write_text
from nasattn.parts import FusionSpec
from nasattn.search.run import STATES, is_new
from nasattn.train.metrics import Share

GROUND = ("settings", "environment", "n_val", "n_classes")
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


@dataclass(frozen=True)
class Front:
    """The front of a study: rows sorted by the first objective, the best first."""

    study: str
    objectives: tuple[str, ...]
    rows: tuple[FrontRow, ...]
    ground: dict[str, Any]  # settings, environment, n_val (pictures behind each top1), n_classes

    @property
    def uncounted(self) -> dict[str, list[str]]:
        """Operators that the multiply-adds leave out, by network; mostly none."""
        found = {row.network: row.facts.get("static", {}).get("uncounted") for row in self.rows}
        return {network: names for network, names in found.items() if names}

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
    front = {trial.number for trial in study.best_trials}
    first = [t for t in study.get_trials(deepcopy=False) if is_new(t) and "arch_id" in t.user_attrs]
    wanted = [t for t in first if t.number in front or "baseline" in t.user_attrs]
    rows = [_row(trial, trial.number in front) for trial in wanted]
    maximise = study.directions[0] == StudyDirection.MAXIMIZE
    leading = study.metric_names[0] if study.metric_names else ""
    worst = -math.inf if maximise else math.inf
    rows.sort(key=lambda row: row.values.get(leading, worst), reverse=maximise)
    ground = {name: study.user_attrs[name] for name in GROUND if name in study.user_attrs}
    return Front(study.study_name, tuple(study.metric_names or ()), tuple(rows), ground)


def _row(trial: FrozenTrial, on_front: bool) -> FrontRow:
    attributes = trial.user_attrs
    return FrontRow(
        network=attributes.get("baseline", attributes["arch_id"]),
        is_baseline="baseline" in attributes,
        on_front=on_front,
        trial=trial.number,
        state=STATES[trial.state],
        reason=attributes["reason"],
        values=attributes["values"],
        arch_id=attributes["arch_id"],
        architecture=parse_architecture(json.loads(attributes["architecture"])),
        facts={name: attributes[name] for name in FACTS if name in attributes},
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
    left_out = ("architecture", "facts", "values")
    table = pd.DataFrame(
        {k: v for k, v in row.items() if k not in left_out} | row["values"] for row in rows
    )
    texts = {
        "front.csv": table.to_csv(index=False),
        "front.json": _json(
            {"study": front.study, "objectives": front.objectives} | front.ground | {"rows": rows}
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
        "facts": row.facts,
        "architecture": row.architecture.model_dump(mode="json", exclude_defaults=True),
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"

"""The Pareto front of a study, with the baselines beside it."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from nasattn.arch import Architecture, parse_architecture
from nasattn.files import write_text
from nasattn.search.run import is_new


@dataclass(frozen=True)
class FrontRow:
    """A network of the front, or a baseline wherever it came out."""

    network: str  # the baseline's name, else the arch_id
    is_baseline: bool
    on_front: bool
    trial: int
    state: str  # complete, infeasible or failed
    reason: str
    values: dict[str, float]
    arch_id: str
    architecture: Architecture


@dataclass(frozen=True)
class Front:
    """The front of a study: rows sorted by the first objective, the best first."""

    study: str
    objectives: tuple[str, ...]
    rows: tuple[FrontRow, ...]
    n_val: int  # pictures behind each top1

    def accuracy_margin(self) -> float:
        """Half the 95 % interval of the best row's top1 from one run on `n_val` pictures (Wilson).

        It speaks of the pictures alone; another training seed would add to it.
        """
        best = max((row.values["top1"] for row in self.rows if "top1" in row.values), default=0.5)
        z, n = 1.96, self.n_val
        return z / (1 + z**2 / n) * math.sqrt(best * (1 - best) / n + z**2 / (4 * n**2))


def read_front(study: optuna.Study) -> Front:
    """The front of a study that `nasattn search` made: each network once, feasible ones only."""
    front = {trial.number for trial in study.best_trials}
    first = [t for t in study.get_trials(deepcopy=False) if is_new(t) and "arch_id" in t.user_attrs]
    rows = [_row(t, t.number in front) for t in first if t.number in front or _baseline(t)]
    leading, maximise = 0, study.directions[0] == optuna.study.StudyDirection.MAXIMIZE
    name = study.metric_names[leading] if study.metric_names else ""
    worst = -math.inf if maximise else math.inf
    rows.sort(key=lambda row: row.values.get(name, worst), reverse=maximise)
    return Front(
        study.study_name,
        tuple(study.metric_names or ()),
        tuple(rows),
        int(study.user_attrs.get("n_val", 0)),
    )


STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "infeasible",
    TrialState.FAIL: "failed",
}


def _baseline(trial: FrozenTrial) -> str | None:
    name: str | None = trial.user_attrs.get("baseline")
    return name


def _row(trial: FrozenTrial, on_front: bool) -> FrontRow:
    attributes = trial.user_attrs
    return FrontRow(
        network=_baseline(trial) or attributes["arch_id"],
        is_baseline=_baseline(trial) is not None,
        on_front=on_front,
        trial=trial.number,
        state=STATES[trial.state],
        reason=attributes["reason"],
        values=attributes["values"],
        arch_id=attributes["arch_id"],
        architecture=parse_architecture(json.loads(attributes["architecture"])),
    )


def describe(arch: Architecture) -> str:
    """What sets a network apart, in a few words: `lam*6 aff gem4`."""
    kinds = Counter(s.attention.kind for s in arch.stages if s.attention.kind != "none")
    words = [f"{kind}*{n}" if n > 1 else kind for kind, n in kinds.most_common()] or ["plain"]
    words += [arch.fusion.kind] if arch.fusion.kind != "none" else []
    if arch.head.pooling == "gem":
        words.append("gem" if arch.head.gem_learnable else f"gem{arch.head.gem_p:g}")
    return " ".join(words)


def write_front(front: Front, folder: Path) -> list[Path]:
    """Write front.csv, front.json and each front network's architecture; returns the paths."""
    networks = folder / "architectures"
    networks.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        {
            "network": row.network,
            "baseline": row.is_baseline,
            "on_front": row.on_front,
            "trial": row.trial,
            "state": row.state,
            **row.values,
            "attention": describe(row.architecture),
            "arch_id": row.arch_id,
        }
        for row in front.rows
    )
    rows = [
        {
            "network": row.network,
            "baseline": row.is_baseline,
            "on_front": row.on_front,
            "trial": row.trial,
            "state": row.state,
            "reason": row.reason,
            "values": row.values,
            "arch_id": row.arch_id,
            "architecture": row.architecture.model_dump(mode="json", exclude_defaults=True),
        }
        for row in front.rows
    ]
    head = {"study": front.study, "objectives": front.objectives, "n_val": front.n_val}
    texts = {
        "front.csv": table.to_csv(index=False),
        "front.json": json.dumps(head | {"rows": rows}, indent=2) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    for row in front.rows:
        write_text(networks / f"{row.network}.json", row.architecture.to_json() + "\n")
    return [folder / name for name in texts]

"""The final figures of chosen networks: which they are, and what several seeds came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from nasattn.ablation.statistics import student_interval
from nasattn.arch import Architecture
from nasattn.errors import StudyError, UnknownNameError
from nasattn.objectives import get_objective
from nasattn.report.front import Front, FrontRow
from nasattn.search.fronts import contributions, minimised
from nasattn.search.trials import finished_networks, network_of
from nasattn.train.metrics import Share
from nasattn.words import plural

ALPHA = 0.05


@dataclass(frozen=True)
class Finalist:
    """A network of a study that is trained for good."""

    name: str  # the baseline's, else the arch_id
    trial: int
    architecture: Architecture


def best_finalists(front: Front, n: int) -> tuple[Finalist, ...]:
    """The best of a front: one by the first objective, several by what they add in hypervolume.

    They come in the order of the front. Raises StudyError where nothing is on it.
    """
    rows = [row for row in front.rows if row.on_front]
    if not rows:
        raise StudyError(f"study {front.study!r}: there is no network on its front")
    objectives = [get_objective(name) for name in front.objectives]
    while 1 < n < len(rows):  # without the one that is missed least, again and again
        points = minimised([_values(row, front.objectives) for row in rows], objectives)
        shares = contributions(points, np.zeros(len(rows), dtype=int))
        del rows[int(shares.argmin())]
    return tuple(Finalist(row.network, row.trial, row.architecture) for row in rows[:n])


def _values(row: FrontRow, objectives: Sequence[str]) -> list[float]:
    """What is known of a network, its top1 by fresh seeds where there are any."""
    known = row.values if row.top1 is None else row.values | {"top1": row.top1}
    return [known[name] for name in objectives]


def named_finalists(study: optuna.Study, names: Sequence[str]) -> tuple[Finalist, ...]:
    """Networks of a study by arch_id, by trial or by a baseline's name.

    Raises UnknownNameError for one that the study has not trained to the end, StudyError for one
    that is named twice.
    """
    known: dict[str, Finalist] = {}
    for trial in finished_networks(study):
        arch_id = trial.user_attrs["arch_id"]
        name = trial.user_attrs.get("baseline", arch_id)
        one = Finalist(name, trial.number, network_of(trial))
        known |= {arch_id: one, str(trial.number): one, name: one}
    for name in names:
        if name not in known:
            shown = {one.name for one in known.values()}
            raise UnknownNameError("network", name, shown, where=f"study {study.study_name!r}")
    found = tuple(known[name] for name in names)
    if len({one.trial for one in found}) < len(found):
        raise StudyError(f"--networks: {', '.join(names)} names a network twice")
    return found


def summary(shares: Sequence[Share]) -> dict[str, Any]:
    """One figure of a network over its seeds, as plain data; all shares are of the same pictures.

    `seeds` is Student's 95 % interval of the mean over trainings, None for one of them or where
    all came to the same; `pictures` Wilson's, of the mean on so many pictures.
    """
    values = np.array([share.value for share in shares])
    n = shares[0].n
    low, high = student_interval(values, ALPHA)
    seeds = None if low is None or high is None else (max(low, 0.0), min(high, 1.0))
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "seeds": seeds,
        "pictures": Share(round(float(values.mean()) * n), n).interval,
        "n_seeds": len(values),
        "n_pictures": n,
    }


def final_words(final: Mapping[str, Any]) -> list[str]:
    """What the figures are, and how far they can be trusted, a sentence each."""
    settings, n = final["settings"], final["test"]["n"]
    n_seeds = len(settings["seeds"])
    words = [
        f"mean over {plural(n_seeds, 'training')} on {n:,} test pictures; seeds: Student's 95 % "
        "interval over trainings; pictures: Wilson's, of one accuracy on so many pictures"
    ]
    if len(final["networks"]) > 1:
        few = "fewer than six seeds: " if n_seeds < 6 else ""
        words.append(f"{few}no difference between these networks was tested")
    openings = final["test"]["openings"]
    words.append(
        f"the test split of these pictures was opened {plural(len(openings), 'time')} so far: "
        "choose nothing by these figures"
    )
    return words

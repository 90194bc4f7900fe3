"""What runs in a study, what became of it so far, and how long the rest takes."""

import os
import socket
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, ValidationError

from nasattn.errors import UnknownNameError
from nasattn.search.outcomes import (
    BUDGET,
    Finished,
    Outcome,
    backend_of,
    finished,
    in_utc,
    lost_reasons,
)

# running: its process is there; finished: it came to its own end; stopped: it did not, and nobody
# runs it; idle: nobody wrote down who ran it, and nothing is being evaluated; unknown: it was
# started on another machine, or nobody wrote down who evaluates what is being evaluated.
State = Literal["running", "finished", "stopped", "idle", "unknown"]
Kind = Literal["search", "ablation", "other"]
Reasons = tuple[tuple[str, int], ...]  # most frequent first

ENDED_WELL = ("budget", "exhausted", "in vain")  # a search's own ends; see search.run.Ending
HOUR = timedelta(hours=1)


class Run(BaseModel):
    """The latest call that evaluated networks for a study, as it wrote of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    engine: str = "inline"
    n_jobs: int = 1
    pending: int = 1  # networks that may be evaluated, or wait to be told, at once
    n_trials: int
    host: str
    pid: int
    started: datetime
    ended: datetime | None = None
    ending: str = ""
    command: str = ""

    @property
    def state(self) -> State:
        """Whether its process is still there, or how it ended."""
        if self.ended:
            return "finished" if self.ending in ENDED_WELL else "stopped"
        alive = is_alive(self.host, self.pid)
        return "unknown" if alive is None else "running" if alive else "stopped"


@dataclass(frozen=True)
class Pending:
    """A network that is being evaluated, or whose evaluation waits for those before it."""

    trial: int
    network: str  # a baseline's name, an arch_id, or an ablation's arm and seed
    place: str  # HOST:PID, or ""
    since: datetime | None  # the beginning of this attempt
    epoch: int | None  # the last one that is finished
    attempt: int  # from 1
    waits: bool  # evaluated; is told after the trials before it


@dataclass(frozen=True)
class Pace:
    """Networks of the budget that were finished in an hour."""

    last_hour: float  # of the run, or of as much of it as there was
    overall: float  # since the run was started
    hours: float  # that the run has taken


@dataclass(frozen=True)
class StudyStatus:
    """What is known of a study. `counts` has every outcome; times are aware."""

    study: str
    kind: Kind
    state: State
    run: Run | None
    settings: Mapping[str, Any]
    objectives: tuple[str, ...]
    counts: Mapping[Outcome, int]
    n_wanted: int | None  # networks that the run is to finish; None where nobody wrote it down
    n_queued: int
    n_again: int  # trainings of the best with fresh seeds
    pending: tuple[Pending, ...]
    failures: Reasons
    lost: Reasons  # attempts that were lost, and are or were made again
    pace: Pace | None
    last_finished: datetime | None

    @property
    def n_done(self) -> int:
        """Networks of the budget: trained, stopped or failed."""
        return sum(self.counts[outcome] for outcome in BUDGET)

    @property
    def n_left(self) -> int | None:
        """Networks that are still to be finished."""
        return None if self.n_wanted is None else max(self.n_wanted - self.n_done, 0)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of the last hour; None where it is not known, or the study is finished."""
        if not self.pace or not self.n_left or self.state == "finished":
            return None
        pace = self.pace.last_hour or self.pace.overall
        return 3600 * self.n_left / pace if pace else None


def read_status(storage: BaseStorage, name: str, now: datetime | None = None) -> StudyStatus:
    """The status of one study; writes nothing. Raises UnknownNameError for a study not there."""
    return _read(storage, _find(storage, name), now or datetime.now(UTC))


def read_all(storage: BaseStorage, now: datetime | None = None) -> list[StudyStatus]:
    """The status of every study, in the order of their making."""
    moment = now or datetime.now(UTC)
    studies = sorted(storage.get_all_studies(), key=lambda study: study._study_id)
    return [_read(storage, study, moment) for study in studies]


def _find(storage: BaseStorage, name: str) -> Any:
    studies = {study.study_name: study for study in storage.get_all_studies()}
    if name not in studies:
        raise UnknownNameError("study", name, known=studies)
    return studies[name]


def is_alive(host: str, pid: int) -> bool | None:
    """Whether a process runs; None where that cannot be told from this machine.

    One that has ended is kept as a zombie until its parent asks; in a container, often for ever.
    """
    if host != socket.gethostname() or sys.platform == "win32" or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether Linux says so of a process, after its name in brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2][1] == "Z"
    except (OSError, IndexError):
        return False


def _read(storage: BaseStorage, study: Any, now: datetime) -> StudyStatus:
    attributes, study_id = study.user_attrs, study._study_id
    run = _run_of(attributes.get("run"))
    counts: Counter[Outcome] = Counter()
    failures: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    ends: list[datetime] = []
    first: datetime | None = None
    for trial in finished(storage, study_id):
        counts[trial.outcome] += 1
        lost.update(trial.lost)
        if trial.outcome == "failed":
            failures[trial.reason] += 1
        if trial.outcome in BUDGET and trial.ended:
            ends.append(trial.ended)
            first = _earliest(first, trial)
    ends.sort()
    backend = backend_of(storage)
    states = (TrialState.RUNNING, TrialState.WAITING)
    open_trials = backend.get_all_trials(study_id, deepcopy=False, states=states)
    for one in open_trials:
        lost.update(lost_reasons(one.user_attrs.get("attempts")))
    pending = tuple(_pending(one) for one in open_trials if one.state == TrialState.RUNNING)
    state: State = run.state if run else "unknown" if pending else "idle"
    until = now if state == "running" else run.ended if run else None
    return StudyStatus(
        study=study.study_name,
        kind=_kind_of(attributes),
        state=state,
        run=run,
        settings=_mapping(attributes.get("settings")),
        objectives=tuple(study.system_attrs.get("study:metric_names", ())),
        counts=counts,
        n_wanted=run.n_trials if run else _planned_runs(attributes),
        n_queued=len(open_trials) - len(pending),
        n_again=sum(len(own) for own in _mapping(attributes.get("selection")).values()),
        pending=pending,
        failures=_sorted(failures),
        lost=_sorted(lost),
        pace=_pace(ends, run.started if run else first, until),
        last_finished=ends[-1] if ends else None,
    )


def _run_of(stored: object) -> Run | None:
    """What a run wrote of itself; None in older studies, and where it cannot be read."""
    try:
        run = Run.model_validate(stored)
    except ValidationError:
        return None
    times = {"started": run.started, "ended": run.ended}
    return run.model_copy(update={name: _aware(time) for name, time in times.items()})


def _aware(moment: datetime | None) -> datetime | None:
    """A time that names no zone is UTC."""
    return moment.replace(tzinfo=UTC) if moment and not moment.tzinfo else moment


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _earliest(first: datetime | None, trial: Finished) -> datetime | None:
    begun = trial.began or trial.ended
    return begun if first is None or (begun and begun < first) else first


def _sorted(counts: Counter[str]) -> Reasons:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _kind_of(attributes: Mapping[str, Any]) -> Kind:
    if "ablation" in attributes or "arms" in _mapping(attributes.get("settings")):
        return "ablation"
    return "search" if "settings" in attributes else "other"


def _planned_runs(attributes: Mapping[str, Any]) -> int | None:
    """How many runs an ablation with looks has at most; others do not write it down."""
    settings = _mapping(attributes.get("settings"))
    seeds = settings.get("seeds")
    return len(_mapping(settings.get("arms"))) * seeds if isinstance(seeds, int) else None


def _pending(trial: FrozenTrial) -> Pending:
    facts = trial.user_attrs
    attempts, epoch = facts.get("attempts"), facts.get("epoch")
    return Pending(
        trial=trial.number,
        network=_network(trial),
        place=str(facts.get("place", "")),
        since=_parsed(facts.get("since")) or in_utc(trial.datetime_start),
        epoch=epoch if isinstance(epoch, int) else None,
        attempt=1 + (len(attempts) if isinstance(attempts, list) else 0),
        waits=bool(facts.get("ended")),
    )


def _network(trial: FrozenTrial) -> str:
    if {"arm", "seed"} <= trial.params.keys():
        return f"{trial.params['arm']} seed {trial.params['seed']}"
    facts = trial.user_attrs
    return str(facts.get("baseline") or facts.get("arch_id") or "")


def _parsed(text: object) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(str(text)))
    except ValueError:
        return None


def _pace(ends: Sequence[datetime], since: datetime | None, until: datetime | None) -> Pace | None:
    """The pace of what ended between two times; without the second, up to the last of them."""
    if since is None or not ends:
        return None
    until = max(until or ends[-1], ends[-1])  # a run's end is noted in whole seconds
    if until <= since:
        return None

    def per_hour(start: datetime) -> float:
        n = bisect_right(ends, until) - bisect_left(ends, start)
        return n / ((until - start) / HOUR)

    return Pace(per_hour(max(since, until - HOUR)), per_hour(since), (until - since) / HOUR)

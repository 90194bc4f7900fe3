"""How the finished trials of a study ended, read in one pass however many they are."""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from json import loads
from typing import Any, Literal, NamedTuple

from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from nasattn.search.history import GIVEN_UP

# repeated: its network was tried before; infeasible: it breaks a limit or cannot be built.
Outcome = Literal["complete", "stopped", "failed", "infeasible", "repeated"]
BUDGET: tuple[Outcome, ...] = ("complete", "stopped", "failed")  # those that spend of the budget

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
# User attributes that make one of Optuna's states into one of ours.
MARKS = (GIVEN_UP, "duplicate_of", "stopped_after")
ROWS = 5_000  # that are read at once; in between, others may write


class Finished(NamedTuple):
    """One finished trial."""

    outcome: Outcome
    reason: str  # why it failed; "" for the others
    began: datetime | None
    ended: datetime | None
    lost: tuple[str, ...]  # why earlier attempts were lost


def finished(storage: BaseStorage, study_id: int) -> Iterator[Finished]:
    """The finished trials of a study, without those that were given up.

    Of a database only the columns that this needs are read, a few thousand rows at a time: all of
    100,000 trials, with their params, would take minutes and gigabytes.
    """
    storage = backend_of(storage)
    if isinstance(storage, RDBStorage):
        rows = _from_tables(storage, study_id)
    else:
        rows = _from_trials(storage, study_id)
    for state, marks, reason, began, ended, attempts in rows:
        if GIVEN_UP not in marks:
            outcome = outcome_of(state, marks)
            why = str(reason or "") if outcome == "failed" else ""
            yield Finished(outcome, why, began, ended, lost_reasons(attempts))


def count_finished(storage: BaseStorage, study_id: int) -> int:
    """How many trials of a study are finished; of a database nothing else is read."""
    from optuna.storages._rdb import models
    from sqlalchemy import func, select

    storage = backend_of(storage)
    if not isinstance(storage, RDBStorage):
        trials = storage.get_all_trials(study_id, deepcopy=False)
        return sum(trial.state.is_finished() for trial in trials)
    own = models.TrialModel.__table__
    query = select(func.count()).where(own.c.study_id == study_id, own.c.state.in_(FINISHED))
    with storage.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


def backend_of(storage: BaseStorage) -> BaseStorage:
    """The storage itself, where a study holds it behind Optuna's cache of all trials."""
    backend: BaseStorage = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, BaseStorage) else storage


def outcome_of(state: TrialState, marks: Collection[str]) -> Outcome:
    """How a finished trial ended, by its state and the names of its user attributes."""
    if "duplicate_of" in marks:
        return "repeated"
    if state == TrialState.PRUNED:
        return "stopped" if "stopped_after" in marks else "infeasible"
    return "complete" if state == TrialState.COMPLETE else "failed"


def lost_reasons(attempts: object) -> tuple[str, ...]:
    """Why attempts were lost, out of a trial's attribute `attempts`."""
    if not isinstance(attempts, list):
        return ()
    return tuple(str(one.get("reason", "")) for one in attempts if isinstance(one, Mapping))


# state, names among MARKS, reason, beginning, end, lost attempts
_Row = tuple[TrialState, Collection[str], Any, datetime | None, datetime | None, Any]


def _from_trials(storage: BaseStorage, study_id: int) -> Iterator[_Row]:
    for trial in storage.get_all_trials(study_id, deepcopy=False, states=FINISHED):
        marks = trial.user_attrs
        times = in_utc(trial.datetime_start), in_utc(trial.datetime_complete)
        yield trial.state, marks, marks.get("reason"), *times, marks.get("attempts")


def in_utc(moment: datetime | None) -> datetime | None:
    """A time of a trial, which Optuna tells as that of a local clock."""
    return moment.astimezone(UTC) if moment else None


def _from_tables(storage: RDBStorage, study_id: int) -> Iterator[_Row]:
    from optuna.storages._rdb import models
    from sqlalchemy import and_, select

    trials = models.TrialModel.__table__
    attributes = models.TrialUserAttributeModel.__table__
    marks = [attributes.alias(name) for name in MARKS]
    reason, attempts = attributes.alias("reason"), attributes.alias("attempts")
    joined = trials
    for one in (*marks, reason, attempts):
        own = and_(one.c.trial_id == trials.c.trial_id, one.c.key == one.name)
        if one is reason:
            own = and_(own, trials.c.state == TrialState.FAIL)
        joined = joined.outerjoin(one, own)
    times = trials.c.datetime_start, trials.c.datetime_complete  # naive, in UTC
    there = [one.c.trial_id for one in marks]
    texts = reason.c.value_json, attempts.c.value_json
    query = (
        select(trials.c.trial_id, trials.c.state, *times, *texts, *there)
        .select_from(joined)
        .where(trials.c.study_id == study_id, trials.c.state.in_(FINISHED))
        .order_by(trials.c.trial_id)
        .limit(ROWS)
    )
    last = -1
    with storage.engine.connect() as connection:
        while rows := connection.execute(query.where(trials.c.trial_id > last)).all():
            last = rows[-1].trial_id
            for _, state, began, ended, why, lost, *found in rows:
                names = [name for name, one in zip(MARKS, found, strict=True) if one is not None]
                begun = began and began.replace(tzinfo=UTC)
                until = ended and ended.replace(tzinfo=UTC)
                yield state, names, why and loads(why), begun, until, lost and loads(lost)

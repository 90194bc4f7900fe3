"""QuickStorage: Optuna's storage in a database, with many trials read at once."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from json import dumps, loads
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, or_, select, update

TRIALS = 500  # that are read at once; in between, others may write

Facts = dict[int, dict[Any, Any]]  # by trial_id, then by name

_distribution = cache(json_to_distribution)  # few are different, and nobody changes one


class QuickStorage(RDBStorage):
    """Reads rows, where Optuna lets SQLAlchemy make an object of each row first; writes at once.

    The trials are equal to Optuna's, but share their distributions. What that saves is in
    docs/results/stored_trials.md.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Trials in these states, or all; behind an id, or of the included ones before it."""
        table = models.TrialModel.__table__
        wanted = [table.c.study_id == study_id]
        if states is not None:
            assert isinstance(states, Iterable)
            wanted.append(table.c.state.in_([*states]))
        if trial_id_greater_than > -1:
            newer = table.c.trial_id > trial_id_greater_than
            older = [i for i in included_trial_ids if i <= trial_id_greater_than]
            wanted.append(or_(newer, table.c.trial_id.in_(older)))
        query = select(table).where(*wanted).order_by(table.c.trial_id)
        found: list[FrozenTrial] = []
        with self.engine.connect() as connection:
            # They come first: all that belongs to one that is finished by then is written already.
            rows = connection.execute(query).all()
            for start in range(0, len(rows), TRIALS):
                found += _read(connection, rows[start : start + TRIALS])
        return found

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Several attributes of a trial that is not told yet, in one transaction."""
        with _create_scoped_session(self.scoped_session, True) as session:
            for key, value in attributes.items():
                self._set_trial_attr_without_commit(
                    session, models.TrialUserAttributeModel, trial_id, key, value
                )

    def set_study_system_attrs(self, study_id: int, attributes: Mapping[str, Any]) -> None:
        """Several system attributes of a study, in one transaction."""
        model = models.StudySystemAttributeModel
        own = model.__table__
        with _create_scoped_session(self.scoped_session, True) as session:
            known = select(own.c.key).where(
                own.c.study_id == study_id, own.c.key.in_([*attributes])
            )
            present = set(session.execute(known).scalars())
            for key, value in attributes.items():
                text = dumps(value)
                if key in present:
                    place = own.c.study_id == study_id, own.c.key == key
                    session.execute(update(own).where(*place).values(value_json=text))
                else:
                    session.add(model(study_id=study_id, key=key, value_json=text))


def _read(connection: Connection, rows: Sequence[Row[Any]]) -> list[FrozenTrial]:
    """The trials of these rows, with what the other tables have of them."""
    value, step = models.TrialValueModel, models.TrialIntermediateValueModel
    tables = _Tables(connection, [row.trial_id for row in rows])
    params, kinds = tables.params()
    values = tables.facts(value, "objective", value.stored_repr_to_value, "value", "value_type")
    steps = tables.facts(
        step,
        "step",
        step.stored_repr_to_intermediate_value,
        "intermediate_value",
        "intermediate_value_type",
    )
    user = tables.facts(models.TrialUserAttributeModel, "key", loads, "value_json")
    system = tables.facts(models.TrialSystemAttributeModel, "key", loads, "value_json")
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[value for _, value in sorted(values.get(row.trial_id, {}).items())] or None,
            datetime_start=_local(row.datetime_start),
            datetime_complete=_local(row.datetime_complete),
            params=params.get(row.trial_id, {}),
            distributions=kinds.get(row.trial_id, {}),
            user_attrs=user.get(row.trial_id, {}),
            system_attrs=system.get(row.trial_id, {}),
            intermediate_values=steps.get(row.trial_id, {}),
            trial_id=row.trial_id,
        )
        for row in rows
    ]


@dataclass(frozen=True)
class _Tables:
    connection: Connection
    trial_ids: Sequence[int]

    def params(self) -> tuple[Facts, Facts]:
        """The params of the trials in the order of their asking, and their distributions."""
        own = models.TrialParamModel.__table__
        columns = own.c.param_name, own.c.param_value, own.c.distribution_json
        params, kinds = Facts(), Facts()
        for trial_id, name, value, text in self.rows(own, own.c.param_id, *columns):
            kind = _distribution(text)
            kinds.setdefault(trial_id, {})[name] = kind
            params.setdefault(trial_id, {})[name] = kind.to_external_repr(value)
        return params, kinds

    def facts(self, model: Any, key: str, read: Callable[..., Any], *columns: str) -> Facts:
        """What else is known of the trials: `read` of the columns, by what is in column `key`."""
        own = model.__table__
        found = Facts()
        stored = (own.c[column] for column in columns)
        for trial_id, name, *values in self.rows(own, own.c[key], own.c[key], *stored):
            found.setdefault(trial_id, {})[name] = read(*values)
        return found

    def rows(self, own: Any, order: Any, *columns: Any) -> Sequence[Any]:
        """The id and these columns of all rows that belong to the trials, trial by trial."""
        query = select(own.c.trial_id, *columns).where(own.c.trial_id.in_(self.trial_ids))
        return self.connection.execute(query.order_by(own.c.trial_id, order)).all()


def _local(moment: datetime | None) -> datetime | None:
    """A stored time, which is UTC, as Optuna tells it: by the local clock, naive."""
    return moment and moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

"""QuickStorage: Optuna's storage in a database, with many trials read at once."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from json import loads
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, or_, select

ROWS = 10_000  # that are fetched at once

Facts = dict[int, dict[Any, Any]]  # by trial_id, then by name

_distribution = cache(json_to_distribution)  # few are different, and nobody changes one


class QuickStorage(RDBStorage):
    """Reads rows, where Optuna lets SQLAlchemy make an object of each row first.

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
        with self.engine.connect() as connection:
            return _Reader(connection, wanted).trials()


@dataclass(frozen=True)
class _Reader:
    connection: Connection
    wanted: Sequence[Any]  # conditions on the table of trials

    def trials(self) -> list[FrozenTrial]:
        """The trials that are wanted, by their ids."""
        own = models.TrialModel.__table__
        query = select(own).where(*self.wanted).order_by(own.c.trial_id)
        # They come first: all that belongs to one that is finished by then is written already.
        found = self.connection.execute(query).all()
        if not found:
            return []
        params, kinds = self.params()
        values = self.facts(
            models.TrialValueModel,
            "objective",
            models.TrialValueModel.stored_repr_to_value,
            "value",
            "value_type",
        )
        steps = self.facts(
            models.TrialIntermediateValueModel,
            "step",
            models.TrialIntermediateValueModel.stored_repr_to_intermediate_value,
            "intermediate_value",
            "intermediate_value_type",
        )
        user = self.facts(models.TrialUserAttributeModel, "key", loads, "value_json")
        system = self.facts(models.TrialSystemAttributeModel, "key", loads, "value_json")
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
            for row in found
        ]

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
        for trial_id, name, *stored in self.rows(
            own, own.c[key], own.c[key], *(own.c[column] for column in columns)
        ):
            found.setdefault(trial_id, {})[name] = read(*stored)
        return found

    def rows(self, own: Any, order: Any, *columns: Any) -> Iterable[Any]:
        """The id and these columns of all rows that belong to the trials, trial by trial."""
        trials = models.TrialModel.__table__
        query = (
            select(own.c.trial_id, *columns)
            .join(trials, trials.c.trial_id == own.c.trial_id)
            .where(*self.wanted)
            .order_by(own.c.trial_id, order)
        )
        return self.connection.execution_options(yield_per=ROWS).execute(query)


def _local(moment: datetime | None) -> datetime | None:
    """A stored time, which is UTC, as Optuna tells it: by the local clock, naive."""
    return moment and moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)

"""Catalogue: what is known of a network without a trial."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nasattn.search.encoding import Params, Space
from nasattn.search.values import Floats

MAX_REMEMBERED = 60_000
MAX_LISTED = 10_000  # rows
EVERYTHING = 50_000  # rows of a space that is gone through where no random network is new
N_RESERVE = 10_000  # rows that are drawn of a larger one


@dataclass(frozen=True)
class Knowledge:
    """What a user can say of params without a trial.

    `exact` gives objectives by their index. It or `identity` is None of a network that cannot be
    built, or breaks a limit. `meaningful` puts NaN in place of what means nothing in rows of values
    for all parameters; None: to be learned. `prepare` is told of rows that are about to be looked
    up, for what is faster of many at once.
    """

    exact: Mapping[int, Callable[[Params], float | None]]
    features: Callable[[Params], Sequence[float]] | None
    identity: Callable[[Params], Hashable]
    meaningful: Callable[[Floats], Floats] | None = None
    prepare: Callable[[Floats], object] | None = None


@dataclass(frozen=True)
class Entry:
    """What is known of a network, of which `row` is the usual form; `costs` (its exact objectives)
    and `features` are None where it may not be proposed."""

    row: Floats
    identity: Hashable
    costs: tuple[float, ...] | None = None
    features: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """n networks: rows (n, d), costs (n, m), features (n, q)."""

    rows: Floats
    costs: Floats
    features: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, other: "Batch") -> "Batch":
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Batch(*(np.concatenate(pair) if len(self) else pair[1] for pair in pairs))

    def parts(self) -> tuple[Floats, Floats, Floats]:
        return self.rows, self.costs, self.features


Found = tuple[Floats, Sequence[float], Sequence[float]]  # a network's part of a Batch


def as_batch(found: Sequence[Found]) -> Batch:
    columns = zip(*found, strict=True) if found else ((), (), ())
    return Batch(
        *(np.array(c, dtype=float).reshape(len(found), -1 if found else 0) for c in columns)
    )


@dataclass
class Catalogue:
    """Looks networks of one space up, and remembers them."""

    space: Space
    knowledge: Knowledge
    entries: dict[bytes, Entry | KeyError] = field(default_factory=dict)
    _reserve: Floats | None = None

    @cached_property
    def forms(self) -> dict[Hashable, Floats]:
        """One row for every network of a space that can be listed, so that a model sees equal
        networks as equal."""
        forms: dict[Hashable, Floats] = {}
        every = self.space.every(MAX_LISTED)
        if every is None:
            return forms
        for row in self._prepared(self.space.settle(every)):
            with suppress(KeyError):
                forms.setdefault(self.knowledge.identity(self.space.params(row)), row)
        return forms

    def reserve(self, seed: int) -> Floats:
        """All rows of a space, or many of a large one, that may be proposed; found once."""
        if self._reserve is None:
            every = self.space.every(EVERYTHING)
            rng = np.random.default_rng([seed, N_RESERVE])
            rows = self.space.settle(self.space.draw(rng, N_RESERVE) if every is None else every)
            entries = map(self.entry, self._prepared(rows))
            kept = [not isinstance(e, KeyError) and e.costs is not None for e in entries]
            self._reserve = rows[kept]
        return self._reserve

    def entry(self, row: Floats) -> Entry | KeyError:
        """What is known of a settled row; the KeyError where it needs an unknown parameter."""
        key = row.tobytes()
        if key not in self.entries:
            if len(self.entries) >= MAX_REMEMBERED:
                self.entries.clear()
            self.entries[key] = self._look(row)
        return self.entries[key]

    def new(
        self, rows: Floats, taken: AbstractSet[Hashable]
    ) -> tuple[Batch, list[tuple[Floats, KeyError]]]:
        """Of unsettled rows: the networks that may be proposed and are not taken, each once; and
        the rows that need an unknown parameter."""
        found: dict[Hashable, Found] = {}
        unknown = []
        for row in self._prepared(self.space.settle(rows)):
            entry = self.entry(row)
            if isinstance(entry, KeyError):
                unknown.append((row, entry))
            elif entry.identity in taken or entry.costs is None or entry.features is None:
                continue
            else:
                found.setdefault(entry.identity, (entry.row, entry.costs, entry.features))
        return as_batch(list(found.values())), unknown

    def _prepared(self, rows: Floats) -> Floats:
        """Settled rows, of which those that are new will be looked up at once."""
        if self.knowledge.prepare:
            is_new = np.array([row.tobytes() not in self.entries for row in rows], dtype=bool)
            self.knowledge.prepare(rows[is_new])
        return rows

    def _look(self, row: Floats) -> Entry | KeyError:
        know, params = self.knowledge, self.space.params(row)
        try:
            identity = know.identity(params)
            if identity is None:
                return Entry(row, identity)
            row = self.forms.get(identity, row)
            costs = [function(params) for function in know.exact.values()]
            finite = tuple(float(c) for c in costs if c is not None and np.isfinite(c))
            if len(finite) < len(costs):
                return Entry(row, identity)
            features = tuple(know.features(params)) if know.features else ()
        except KeyError as e:
            return e
        return Entry(row, identity, finite, features)

"""Two-level designs: which arms to run so that every part's effect, and pairs', can be told apart.

Level 0 is the base's, level 1 the changed one. The base is a run of every design here.
Source: Box and Hunter 1961, The 2^(k-p) Fractional Factorial Designs, table of generators.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nasattn.errors import AblationError

Ints = NDArray[np.int64]

# (factors, runs) -> for each factor after the first log2(runs), the factors that it multiplies
GENERATORS: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (4, 8): ((0, 1, 2),),
    (5, 16): ((0, 1, 2, 3),),
    (6, 16): ((0, 1, 2), (1, 2, 3)),
    (6, 32): ((0, 1, 2, 3, 4),),
    (7, 16): ((0, 1, 2), (1, 2, 3), (0, 2, 3)),
    (7, 32): ((0, 1, 2, 3), (0, 1, 3, 4)),
    (7, 64): ((0, 1, 2, 3, 4, 5),),
}
FULL_UP_TO = 10  # factors: 1,024 arms
SEPARATOR = ":"


@dataclass(frozen=True)
class Term:
    """A main effect or an interaction of two, with those that a design cannot tell from it."""

    name: str  # 'se' or 'se:gem'
    word: tuple[int, ...]  # indices of its factors
    aliases: tuple[str, ...]  # '-' before one that comes in with the other sign


@dataclass(frozen=True)
class TwoLevelDesign:
    """Runs as rows of levels (0 base, 1 changed) with the effects that they tell apart."""

    factors: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    resolution: int | None  # None: full, nothing is aliased
    terms: tuple[Term, ...]


def fraction(factors: Sequence[str], runs: int) -> TwoLevelDesign:
    """The full design of 2^k runs, or a known regular fraction of resolution IV or more.

    Raises AblationError with the numbers of runs that there are for so many factors.
    """
    k = len(factors)
    if not 1 <= k <= FULL_UP_TO or len(set(factors)) < k:
        raise AblationError(f"needs 1 to {FULL_UP_TO} different factors, not {', '.join(factors)}")
    known = sorted({2**k} | {r for size, r in GENERATORS if size == k})
    if runs not in known:
        raise AblationError(f"no design of {runs} runs for {k} factors; known: {known}")
    generators = GENERATORS.get((k, runs), ())
    # A made factor is changed where an odd number of those that it multiplies is: that is their
    # product of signs, times the sign that puts the base (nothing changed) among the runs.
    rows = tuple(
        (*levels, *(sum(levels[i] for i in word) % 2 for word in generators))
        for levels in itertools.product((0, 1), repeat=k - len(generators))
    )
    terms = find_terms(np.array(rows), tuple(factors))
    return TwoLevelDesign(tuple(factors), rows, resolution(np.array(rows)), terms)


def resolution(rows: Ints) -> int | None:
    """Length of the shortest product of factors that is constant; None where there is none."""
    signs = 2 * rows - 1  # (runs, factors)
    for length in range(1, rows.shape[1] + 1):
        for word in itertools.combinations(range(rows.shape[1]), length):
            if abs(signs[:, word].prod(axis=1).sum()) == len(rows):
                return length
    return None


def find_terms(rows: Ints, factors: tuple[str, ...]) -> tuple[Term, ...]:
    """The main effects and pairs that a two-level design (runs, factors) tells apart.

    Raises AblationError where two are neither wholly aliased nor orthogonal: no regular design.
    """
    signs = 2 * rows - 1
    terms: list[Term] = []
    columns: list[Ints] = []  # the contrast of each term, +-1
    for size in (1, 2):
        for word in itertools.combinations(range(len(factors)), size):
            name = SEPARATOR.join(factors[i] for i in word)
            contrast = signs[:, word].prod(axis=1)
            overlaps = [int(contrast @ column) for column in columns]
            if contrast.sum() or any(abs(o) not in (0, len(rows)) for o in overlaps):
                raise AblationError(
                    f"no regular design: {name!r} is neither apart from the other effects nor one"
                    f" of them; the {len(rows)} arms must be a full two-level design or a fraction"
                    " as `fraction` makes it"
                )
            same = next((i for i, overlap in enumerate(overlaps) if overlap), None)
            if same is None:
                terms.append(Term(name, word, ()))
                columns.append(contrast)
            else:
                alias = name if overlaps[same] > 0 else f"-{name}"
                terms[same] = replace(terms[same], aliases=(*terms[same].aliases, alias))
    return tuple(terms)

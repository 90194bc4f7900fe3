"""RowCounter: static costs of many networks of a space at once, exact."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from nasattn.arch import Architecture
from nasattn.cost.count import Tally
from nasattn.cost.pieces import Piece, PieceCounter, Shape
from nasattn.errors import EvaluationError
from nasattn.parts import AttentionSpec, FusionSpec, StageSpec, StemSpec
from nasattn.rows import SpaceRows
from nasattn.space import SearchSpace
from nasattn.tables import NONE, Column, Ints, Numbers, Table
from nasattn.walk import Bools, Rows

MAX_HELD = 1_000_000  # numbers in the tables
LOT = 4096  # rows at once: what is looked up stays in the processor's cache
UNITS = 64  # of one operation, in which those that are left out are added up
NOTHING = Piece(Tally(), ())
NOWHERE, INSIDE, AT_END, BEHIND = range(4)  # where attention stands, of a block or of its stage
PLACES = {"after_spatial": INSIDE, "before_add": AT_END, "after_stage": BEHIND}

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Costs:
    """The StaticCost of n networks: (n,); NONE in a row of no network, or none that can be run."""

    params: Ints
    macs: Ints
    max_macs: Ints
    uncounted: frozenset[str] = frozenset()  # operators in any of them that no rule can count


@dataclass(frozen=True)
class Blocks:
    """A stage's first block and each of those behind it, without attention."""

    first: Piece
    later: Piece
    inside: tuple[Shape, Shape]  # what attention in the middle of each would see


@dataclass(frozen=True)
class Some:
    """A piece of each network, by its number, and how often it is there."""

    pieces: Ints
    times: Ints | int = 1


class RowCounter:
    """Counts the networks of a space on pictures of one size as PieceCounter does, many at once.

        RowCounter(space, num_classes=10, resolution=32).count(rows).macs  # (n,)

    A row has a number for each of `space.free`, in that order and as Optuna stores it (of a choice
    its index). What a piece costs PieceCounter finds, once; from then on it is looked up.
    """

    def __init__(
        self, space: SearchSpace, num_classes: int, resolution: int, in_chs: int = 3
    ) -> None:
        self.space = space
        self.counter = PieceCounter(num_classes, resolution, in_chs)
        self._start()

    def count(self, rows: Rows) -> Costs:
        """What `count_cost` gives for the network of each row."""
        lots = [self._count(rows[i : i + LOT]) for i in range(0, max(len(rows), 1), LOT)]
        return Costs(
            np.concatenate([lot.params for lot in lots]),
            np.concatenate([lot.macs for lot in lots]),
            np.concatenate([lot.max_macs for lot in lots]),
            frozenset[str]().union(*(lot.uncounted for lot in lots)),
        )

    def _count(self, rows: Rows) -> Costs:
        tables = (self._blocks, self._attention, self._stage)
        if len(self.rows) + len(self._pieces) + sum(map(len, tables)) > MAX_HELD:
            self._start()
        return self._add_up(*self._find(rows))

    def _start(self) -> None:
        """Empty tables."""
        rows = self.rows = SpaceRows(self.space, self.counter.resolution)
        self._pieces, self._shapes, self._acts = Numbers(), Numbers(), Numbers()
        self._endings, self._shares = Numbers(), Numbers()
        self._pieces.number(NOTHING)

        def table(find: Callable[..., Piece]) -> Table:
            return Table(runs(find), self._pieces)

        self._stem = table(self._find_stem)
        self._blocks = Table(runs(self._find_blocks))
        self._attention = table(self._find_attention)
        self._pair = Table(lambda a, b: (a, b))
        self._stage = table(self._find_stage)
        self._end = Table(self._find_end)
        self._last_layers = table(self._find_last_layers)
        self._maps = Numbers()
        self._map = Table(lambda fusion, shape: (fusion, shape), self._maps)
        self._more = Table(lambda maps, shape: (*self._maps.values[maps], shape), self._maps)
        self._fusion = table(self._find_fusion)
        self._classifier = table(self._find_classifier)

        self._act = Column(rows.roots, lambda root: self._acts.number(root[0]))
        self._preact = Column(rows.frames, lambda frame: frame.stage.kind.preact)
        self._ending = Column(rows.frames, lambda frame: self._endings.number(ending(frame.stage)))
        self._where = Column(rows.attentions, place_of)
        self._fuses = Column(rows.fusions, lambda arch: arch.fusion.kind != "none")
        self._lows = [
            Column(rows.fusions, partial(takes, i)) for i in range(len(self.space.template.stages))
        ]
        shape = self._shapes.number
        self._out = Column(self._pieces, lambda piece: shape(piece.shape))
        self._first = Column(self._blocks.into, lambda blocks: self._pieces.number(blocks.first))
        self._later = Column(self._blocks.into, lambda blocks: self._pieces.number(blocks.later))
        self._inside = [
            Column(self._blocks.into, lambda blocks: shape(blocks.inside[0])),
            Column(self._blocks.into, lambda blocks: shape(blocks.inside[1])),
        ]
        self._share = Column(self._pieces, lambda piece: self._shares.number(piece.run_share))
        self._all = self._shares.number(Fraction(1))
        self._params = Column(self._pieces, lambda piece: piece.tally.params)
        self._flops = Column(self._pieces, lambda piece: piece.tally.flops)
        self._skipped = Column(self._pieces, lambda piece: round(piece.tally.skipped * UNITS))
        self._rounded = Column(
            self._pieces, lambda piece: (piece.tally.skipped * UNITS).denominator > 1
        )
        self._uncounted = Column(self._pieces, lambda piece: bool(piece.tally.uncounted))

    def _find(self, rows: Rows) -> tuple[Bools, list[Some]]:
        """Which rows are networks, and their pieces."""
        parts = self.rows.parts(rows)
        act = self._act(parts.root)
        stem = self._stem(parts.stem, act, self._preact(parts.frames[:, 0]))
        found, shape, last, shapes = [Some(stem)], self._out(stem), parts.frames[:, 0], []
        there = parts.there
        for own in zip(parts.frames.T, parts.attentions.T, parts.depths.T, strict=True):
            pieces, behind = self._count_stage(*own, act, shape)
            is_there = own[0] != NONE
            for some in pieces:
                there = there & (~is_there | (some.pieces != NONE))
            found += [Some(np.where(is_there, s.pieces, 0), s.times) for s in pieces]
            shape, last = np.where(is_there, behind, shape), np.where(is_there, own[0], last)
            shapes.append(shape)
        end = self._end(self._ending(last), parts.head, act)
        found.append(Some(self._last_layers(end, shape)))
        shape = self._out(found[-1].pieces)
        fuses = self._fuses(parts.fusion) == 1
        maps = self._map(np.where(fuses, parts.fusion, NONE), shape)
        for takes_it, low in zip(self._lows, shapes, strict=True):
            maps = np.where(takes_it(parts.fusion) == 1, self._more(maps, low), maps)
        fusion = self._fusion(maps)
        found.append(Some(np.where(fuses, fusion, 0)))
        shape = np.where(fuses, self._out(fusion), shape)
        found.append(Some(self._classifier(end, shape)))
        for some in found:
            there = there & (some.pieces != NONE)
        return there, found

    def _count_stage(
        self, frame: Ints, attention: Ints, depth: Ints, act: Ints, shape: Ints
    ) -> tuple[list[Some], Ints]:
        """A stage's pieces, and the shape behind it.

        The blocks and their attention by themselves, but where the one leaves other maps than it
        found.
        """
        where = self._where(attention)
        blocks = self._blocks(frame, act, shape)
        first, later = self._first(blocks), self._later(blocks)
        out, n_later = self._out(first), depth - 1
        in_block = (where == INSIDE) | (where == AT_END)
        attends = where != NOWHERE, in_block & (n_later > 0)  # of the first or of all; of the later
        own, whole = [], np.zeros(len(frame), dtype=bool)
        for block, inside, on in zip((first, later), self._inside, attends, strict=True):
            seat = np.where(where == INSIDE, inside(blocks), out)
            share = np.where(in_block, self._share(block), self._all)
            piece = self._attention(np.where(on, attention, NONE), seat, share)
            own.append(np.where(on, piece, 0))
            whole |= on & in_block & (self._out(piece) != seat)
        if whole.any():
            pair = self._pair(np.where(whole, frame, NONE), attention)
            stage = self._stage(pair, self._pair(act, depth), shape)
            first = np.where(whole, stage, first)
            own = [np.where(whole, 0, piece) for piece in own]
            n_later = np.where(whole, 0, n_later)
        behind = np.where(where == BEHIND, self._out(own[0]), self._out(first))
        later = np.where(n_later > 0, later, 0)
        return [Some(first), Some(later, n_later), Some(own[0]), Some(own[1], n_later)], behind

    def _add_up(self, there: Bools, found: list[Some]) -> Costs:
        def total(column: Column) -> Ints:
            return sum((column(s.pieces) * s.times for s in found), np.zeros_like(there, np.int64))

        def any_of(column: Column) -> Bools:
            flags: Bools = np.any([column(some.pieces) == 1 for some in found], axis=0)
            return there & flags

        max_macs = total(self._flops) // 2
        macs = max_macs - half(total(self._skipped), UNITS)
        uncounted: set[str] = set()
        for i in np.flatnonzero(any_of(self._rounded) | any_of(self._uncounted)):
            skipped = Fraction(0)
            for some in found:
                tally = self._pieces.values[some.pieces[i]].tally
                skipped += tally.skipped * int(np.broadcast_to(some.times, there.shape)[i])
                uncounted |= tally.uncounted
            macs[i] = max_macs[i] - round(skipped / 2)
        params, macs, max_macs = (
            np.where(there, column, NONE) for column in (total(self._params), macs, max_macs)
        )
        return Costs(params, macs, max_macs, frozenset(uncounted))

    # How each piece is found, which happens once.

    def _find_stem(self, stem: int, act: int, preact: int) -> Piece:
        block = "preact_basic" if preact else "basic"
        return self.counter.stem(
            network(
                stem=self.rows.stems.values[stem],
                stages=(StageSpec(depth=1, width=1, block=block),),
                act=self._acts.values[act],
            )
        )

    def _find_blocks(self, frame: int, act: int, shape: int) -> Blocks:
        own = self.rows.frames.values[frame]
        stage, count = own.stage, partial(self.counter.block, act=self._acts.values[act])
        first = count(own.in_chs, stage, shape=self._shapes.values[shape])
        later = Piece(Tally(), first.shape)
        if stage.depth > 1:
            later = count(stage.width, stage.later, shape=first.shape)
        inside = [stage.inner_width(chs) for chs in (own.in_chs, stage.width)]
        seen = [(chs, *piece.shape[1:]) for chs, piece in zip(inside, (first, later), strict=True)]
        return Blocks(first, later, (seen[0], seen[1]))

    def _find_attention(self, attention: int, shape: int, share: int) -> Piece:
        spec = self.rows.attentions.values[attention]
        piece = self.counter.attention(spec, self._shapes.values[shape])
        return piece.inside(replace(piece, run_share=self._shares.values[share]))

    def _find_stage(self, pair: int, how: int, shape: int) -> Piece:
        (frame, attention), (act, depth) = (self._pair.into.values[k] for k in (pair, how))
        own, spec = self.rows.frames.values[frame], self.rows.attentions.values[attention]
        stage = own.stage.model_copy(update={"depth": depth, "attention": spec})
        return self.counter.stage(
            own.in_chs, stage, self._acts.values[act], self._shapes.values[shape]
        )

    def _find_end(self, last: int, head: int, act: int) -> Architecture:
        return network(
            stem=StemSpec(width=1),
            stages=(self._endings.values[last],),
            head=self.rows.heads.values[head],
            act=self._acts.values[act],
        )

    def _find_last_layers(self, end: int, shape: int) -> Piece:
        return self.counter.last_layers(self._end.into.values[end], self._shapes.values[shape])

    def _find_fusion(self, maps: int) -> Piece:
        fusion, last, *lows = self._maps.values[maps]
        shapes = tuple(self._shapes.values[low] for low in lows)
        arch = self.rows.fusions.values[fusion]
        return self.counter.fusion(arch, shapes, self._shapes.values[last])

    def _find_classifier(self, end: int, shape: int) -> Piece:
        return self.counter.classifier(self._end.into.values[end], self._shapes.values[shape])


def runs(find: Callable[P, T]) -> Callable[P, T]:
    """What raises EvaluationError in place of what torch does where a piece cannot be run."""

    def found(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return find(*args, **kwargs)
        except (RuntimeError, MemoryError) as e:
            raise EvaluationError(str(e)) from e

    return found


def half(skipped: Ints, units: int) -> Ints:
    """Half of so many units each, rounded as Python's `round` does."""
    whole, rest = np.divmod(skipped, 2 * units)
    found: Ints = whole + ((rest > units) | (rest == units) & (whole % 2 == 1))
    return found


def network(**parts: object) -> Architecture:
    """An architecture that need not be checked: its parts were."""
    return Architecture.model_construct(**{"fusion": FusionSpec()} | parts)  # type: ignore[arg-type]


def ending(stage: StageSpec) -> StageSpec:
    """What the layers behind the last stage feel of it."""
    return StageSpec(
        depth=1, width=stage.width, block="preact_basic" if stage.kind.preact else "basic"
    )


def place_of(spec: AttentionSpec) -> int:
    """Where attention stands, as one of PLACES."""
    return NOWHERE if spec.kind == "none" else PLACES[spec.placement]


def takes(stage: int, arch: Architecture) -> bool:
    """Whether a network's fusion takes the map behind a stage."""
    return stage in arch.fusion_stages

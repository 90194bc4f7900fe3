"""SpaceRows: many networks of a space at once, as numbers of the parts that they are made of.

What a part comes to rests on few of the parameters, so few different parts make up any number of
networks. Each is settled once, by Architecture itself, in a small network of its own; the rest is
looking up numbers in tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import ArchitectureError
from nasattn.parts import AttentionSpec, HeadSpec, StageSpec, StemSpec
from nasattn.space import SearchSpace
from nasattn.spec import parse
from nasattn.tables import LARGEST, NONE, Column, Ints, Numbers, Table
from nasattn.walk import Bools, Data, Rows, State, Walk, pattern_tree

ANY_WIDTH = 16  # of what stands beside a part in its small network
ANY: Data = {"depth": 1, "width": ANY_WIDTH}
PROBE = "se"  # attention that fits everywhere, to see where any would stand
ATTENDED = ANY | {"attention": {"kind": PROBE}}


@dataclass(frozen=True)
class Frame:
    """A stage without its attention, and of depth 1, or 2 for any more."""

    in_chs: int
    stage: StageSpec


@dataclass(frozen=True)
class Place:
    """A frame, and how it came to be."""

    in_chs: int
    data: State
    stride: int  # that the pictures leave it
    frame: int


@dataclass(frozen=True)
class Seat:
    """All that attention may feel of its stage: where it was to stand, where it does, how wide."""

    asked: str
    asked_widths: frozenset[int]
    placement: str
    widths: frozenset[int]
    place: Place = field(compare=False)  # any that has it


@dataclass(frozen=True)
class Outline:
    """A network of nothing but strides and kinds of blocks, as drawn and as the pictures leave it.

    `kept` are the stages of the template that it has.
    """

    drawn: Architecture
    adapted: Architecture
    kept: tuple[int, ...]

    def stride(self, stage: int) -> int:
        """Of a stage of the template; 0 where it is left out."""
        if stage not in self.kept:
            return 0
        return self.adapted.stages[self.kept.index(stage)].stride


@dataclass(frozen=True)
class Fusing:
    """A fusion to be, and the stages of the template whose maps it may take."""

    data: Data = field(hash=False)
    outline: Outline
    stages: tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """The parts of n networks by their numbers; of S stages: (n, S), NONE for one that is left out.

    Rows that are no network are not `there`.
    """

    there: Bools
    root: Ints
    stem: Ints
    frames: Ints
    attentions: Ints
    depths: Ints
    fusion: Ints
    head: Ints


class SpaceRows:
    """The networks of a space on pictures of a resolution (None: as they are drawn)."""

    def __init__(self, space: SearchSpace, resolution: int | None) -> None:
        self.resolution = resolution
        self.walk = Walk(space)
        self._states = self.walk.states.values
        n_stages = len(self.walk.stages)

        # What the numbers of `Parts` stand for. A fusion is a whole network around it.
        self.roots, self.stems, self.frames = Numbers(), Numbers(), Numbers()
        self.attentions, self.fusions, self.heads = Numbers(), Numbers(), Numbers()
        self._bare = self.attentions.number(AttentionSpec())

        self._root = Table(self._find_root, self.roots)
        self._stem = Table(self._find_stem, self.stems)
        self._head = Table(self._find_head, self.heads)
        self._shapes = Numbers()
        self._stem_shape = Table(self._find_stem_shape, self._shapes)
        self._stage_shape = Table(self._find_stage_shape)
        self._chain = Table(self._find_chain, self._shapes)
        self._outline = Table(self._find_outline)
        self._place = Table(self._find_place)
        self._placement = Table(self._find_placement)
        self._seat = Table(self._find_seat)
        self._attention = Table(self._find_attention, self.attentions)
        self._fusing = Table(self._find_fusing)
        self._looks = Numbers()
        self._look = Table(lambda fusing: (fusing,), self._looks)
        self._look_at = Table(lambda look, width: (*self._looks.values[look], width), self._looks)
        self._fusion = Table(self._find_fusion, self.fusions)

        states, outlines, fusings = self.walk.states, self._outline.into, self._fusing.into
        self._width = Column(states, lambda s: min(int(s.data.get("width", NONE)), LARGEST))
        self._depth = Column(states, lambda state: int(state.data.get("depth", NONE)))
        self._capped = Column(states, self._find_capped)
        self._attends = Column(states, lambda state: state.data.get("kind", "none") != "none")
        self._strides = [Column(outlines, partial(_stride, i)) for i in range(n_stages)]
        self._fuses = [Column(fusings, partial(_fuses, i)) for i in range(n_stages)]
        self._frame = Column(self._place.into, lambda place: place.frame)
        self.conv_width = Column(self.heads, lambda head: head.conv_width)
        self._whole: dict[tuple[int, ...], StageSpec] = {}

    def __len__(self) -> int:
        """How much is remembered, about."""
        tables = (self._stem, self._head, self._place, self._seat, self._attention, self._look_at)
        return len(self.walk) + sum(map(len, tables)) + len(self._whole)

    def settle(self, rows: Rows) -> Rows:
        """The rows with NaN for what means nothing beside the others; as `space.settle`."""
        return np.where(self.walk(rows).active, rows, np.nan)

    def decode(self, rows: Rows) -> list[Architecture | None]:
        """The networks, as `space.decode` and `at_resolution` give them; None where they refuse."""
        parts = self.parts(rows)
        ends = np.stack([parts.root, parts.stem, parts.fusion, parts.head], axis=1).tolist()
        stages = np.stack([parts.frames, parts.attentions, parts.depths], axis=2).tolist()
        return [
            self._network(inner, *own) if there else None
            for there, own, inner in zip(parts.there.tolist(), ends, stages, strict=True)
        ]

    def _network(
        self, stages: list[list[int]], root: int, stem: int, fusion: int, head: int
    ) -> Architecture:
        act, progressive = self.roots.values[root]
        return Architecture.model_construct(
            stem=self.stems.values[stem],
            stages=tuple(self._stage(*stage) for stage in stages if stage[0] != NONE),
            fusion=self.fusions.values[fusion].fusion,
            head=self.heads.values[head],
            act=act,
            progressive=progressive,
        )

    def _stage(self, *key: int) -> StageSpec:
        if key not in self._whole:
            frame, attention, depth = key
            changes = {"depth": depth, "attention": self.attentions.values[attention]}
            self._whole[key] = self.frames.values[frame].stage.model_copy(update=changes)
        return self._whole[key]

    def parts(self, rows: Rows) -> Parts:
        """What the networks are made of."""
        walked = self.walk(rows)
        states, there = walked.states, walked.there
        stages = [(states[path], states[f"{path}.attention"]) for path in self.walk.stages]
        shape = self._stem_shape(states["stem"])
        for stage, _ in stages:
            shape = self._chain(shape, self._stage_shape(stage))
        outline = self._outline(shape)
        found, widths = [], [self._width(states["stem"])]
        for (stage, attention), stride_of in zip(stages, self._strides, strict=True):
            stride = stride_of(outline)
            is_there = stride > 0
            place = self._place(np.where(is_there, self._capped(stage), NONE), widths[-1], stride)
            seat = self._seat(place, self._placement(attention))
            settled = self._attention(attention, seat)
            settled = np.where(self._attends(attention) == 1, settled, self._bare)
            there = there & (~is_there | (place != NONE) & (settled != NONE))
            found.append((self._frame(place), settled, self._depth(stage)))
            widths.append(np.where(is_there, self._width(stage), widths[-1]))
        frames, attentions, depths = (np.stack(c, axis=1) for c in zip(*found, strict=True))
        head = self._head(states["head"])
        root = self._root(states[""], walked.pattern)
        stem = self._stem(states["stem"], states["stem.attention"], outline)
        fusing = self._fusing(states["fusion"], states["fusion.attention"], outline)
        conv_width = self.conv_width(head)
        out_chs = np.where(conv_width > 0, conv_width, widths[-1])
        fusion = self._fused(fusing, widths[1:], out_chs)
        there = there & (np.minimum.reduce([head, root, stem, fusion]) != NONE)
        return Parts(there, root, stem, frames, attentions, depths, fusion, head)

    def _fused(self, fusing: Ints, widths: Sequence[Ints], out_chs: Ints) -> Ints:
        """The fusion of maps of these widths; those that do not count for it are taken as 0."""
        look = self._look(fusing)
        for fuses, width in zip(self._fuses, widths, strict=True):
            look = self._look_at(look, np.where(fuses(fusing) == 1, width, 0))
        return self._fusion(self._look_at(look, out_chs))

    # How each kind of part is found, which happens once.

    def _data(self, state: int) -> Data:
        found: Data = self._states[state].data
        return found

    def _as_the_pictures_leave(self, data: Data, **changes: Data) -> Architecture:
        """A network, and of it what `at_resolution` makes; `changes` are those that it brings."""
        network = parse_architecture(data)
        if self.resolution is None:
            return network
        again = network.model_dump()
        for name, change in changes.items():
            part = again[name][0] if name == "stages" else again[name]
            part.update(change)
        return parse_architecture(again)

    def _find_root(self, state: int, pattern: int) -> tuple[str, bool]:
        tree = pattern_tree(self.walk.patterns.into.values[pattern])
        data = self._data(state)
        kept = {k: v for k, v in data.items() if Architecture.means(tree | data, k)}
        network = parse_architecture({"stem": {"width": 1}, "stages": [ATTENDED] * 2, **kept})
        return network.act, network.progressive

    def _find_head(self, state: int) -> HeadSpec:
        return parse_architecture(
            {"stem": {"width": 1}, "stages": [ANY], "head": self._data(state)}
        ).head

    def _find_stem(self, state: int, attention: int, outline: int) -> StemSpec:
        adapted = self._outline.into.values[outline].adapted
        return self._as_the_pictures_leave(
            {
                "stem": self._data(state) | {"attention": self._data(attention)},
                "stages": [ANY | {"block": adapted.stages[0].block}],
            },
            stem={"stride": adapted.stem.stride, "pool": adapted.stem.pool},
        ).stem

    def _find_stem_shape(self, state: int) -> tuple[StemSpec]:
        stem = parse(StemSpec, self._data(state), "stem", ArchitectureError)
        kept = {name: getattr(stem, name) for name in ("stride", "kernel", "pool")}
        return (StemSpec(width=ANY_WIDTH, **kept),)

    def _find_stage_shape(self, state: int) -> StageSpec | None:
        data = self._data(state)
        if data["depth"] == 0:
            return None
        stage = parse(StageSpec, data, "stage", ArchitectureError)
        return StageSpec(**ANY, block=stage.block, stride=stage.stride)

    def _find_chain(self, before: int, stage: int) -> tuple[StemSpec | StageSpec | None, ...]:
        return (*self._shapes.values[before], self._stage_shape.into.values[stage])

    def _find_outline(self, shape: int) -> Outline:
        stem, *stages = self._shapes.values[shape]
        kept = tuple(i for i, stage in enumerate(stages) if stage)
        drawn = {"stem": stem.model_dump(), "stages": [stages[i].model_dump() for i in kept]}
        network = parse_architecture(drawn)
        size = self.resolution
        return Outline(network, network.at_resolution(size) if size else network, kept)

    def _find_capped(self, state: State) -> int:
        if "depth" not in state.data:
            return NONE
        return self.walk.states.number(state.changed(depth=min(state.data["depth"], 2)))

    def _settled(self, in_chs: int, data: Data, stride: int) -> StageSpec:
        network = {"stem": {"width": in_chs}, "stages": [data]}
        return self._as_the_pictures_leave(network, stages={"stride": stride}).stages[0]

    def _find_place(self, state: int, in_chs: int, stride: int) -> Place:
        frame = Frame(in_chs, self._settled(in_chs, self._data(state), stride))
        return Place(in_chs, self._states[state], stride, self.frames.number(frame))

    def _find_placement(self, state: int) -> str:
        spec = parse(AttentionSpec, self._data(state), "attention", ArchitectureError)
        return spec.placement

    def _find_seat(self, place: int, placement: int) -> Seat:
        own, asked = self._place.into.values[place], self._placement.into.values[placement]
        data = own.data.data | {"attention": {"kind": PROBE, "placement": asked}}
        widths = parse(StageSpec, data, "stage", ArchitectureError).attention_widths(own.in_chs)
        stage = self._settled(own.in_chs, data, own.stride)
        settled = stage.attention_widths(own.in_chs)
        return Seat(asked, frozenset(widths), stage.attention.placement, frozenset(settled), own)

    def _find_attention(self, state: int, seat: int) -> AttentionSpec:
        place = self._seat.into.values[seat].place
        data = place.data.data | {"attention": self._data(state)}
        return self._settled(place.in_chs, data, place.stride).attention

    def _find_fusing(self, state: int, attention: int, outline: int) -> Fusing:
        found, bare = self._outline.into.values[outline], self._data(state)
        data = found.drawn.model_dump() | {"fusion": bare}
        network = parse_architecture(data)
        stages = set(network.fusion_stages)
        if self.resolution:
            stages |= set(network.at_resolution(self.resolution).fusion_stages)
        whole = bare | {"attention": self._data(attention)}
        return Fusing(whole, found, tuple(found.kept[i] for i in sorted(stages)))

    def _find_fusion(self, look: int) -> Architecture:
        fusing, *widths, out_chs = self._looks.values[look]
        fusing = self._fusing.into.values[fusing]
        data = fusing.outline.drawn.model_dump()
        for stage, i in zip(data["stages"], fusing.outline.kept, strict=True):
            stage["width"] = widths[i] or ANY_WIDTH
        data |= {"fusion": fusing.data, "head": {"conv_width": out_chs}}
        network = parse_architecture(data)
        return network.at_resolution(self.resolution) if self.resolution else network


def _stride(stage: int, outline: Outline) -> int:
    return outline.stride(stage)


def _fuses(stage: int, fusing: Fusing) -> int:
    return int(stage in fusing.stages)

"""Static costs of many architectures: what they have in common is counted once."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import conv_flop_count

from nasattn.arch import Architecture
from nasattn.cost.count import Counter, StaticCost, Tally
from nasattn.layers import attention_of, chain
from nasattn.model import (
    build_classifier,
    build_fusion,
    build_last_conv,
    build_last_norm,
    build_pooling,
    build_stem,
    fused_maps,
)
from nasattn.parts import AttentionSpec, BareAttention, StageSpec

Shape = tuple[int, ...]  # of a picture's map (C, H, W), or of its numbers (C,)

MAX_PIECES = 50_000  # held at a time: about 80 MB
LARGE = 2**21  # numbers in a tensor; from there on the meta device, which holds none, is faster
CONVOLUTION = torch.ops.aten.convolution.default
# What else takes long to compute, while the shape of what it returns is known at once.
HEAVY = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "avg_pool2d")
)
# What fills a tensor with random numbers: methods of Tensor, and functions of torch.nn.init.
DRAWS = {
    *("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_"),
    *("uniform_", "kaiming_uniform_"),
}


@dataclass(frozen=True)
class Piece:
    """What a part of a network costs, and the shape that leaves it."""

    tally: Tally
    shape: Shape
    run_share: Fraction = Fraction(1)  # of the pictures: those for which what is inside it runs

    def inside(self, block: "Piece") -> "Piece":
        """As it counts inside a block that runs for a share of the pictures."""
        share, own = block.run_share, self.tally
        skipped = own.flops * (1 - share) + own.skipped * share
        return Piece(replace(own, skipped=skipped), self.shape)


class PieceCounter:
    """Static costs of many architectures: each piece that they share is built and counted once.

    A piece is what stands behind a map of one shape: the stem, a block without its attention, an
    attention module, the last norm and convolution, the fusion, the pooling with the classifier.
    No weight is drawn (torch's global generator is left as it was) and no product computed.
    """

    def __init__(self, num_classes: int, resolution: int, in_chs: int = 3) -> None:
        self.num_classes = num_classes
        self.resolution = resolution
        self.in_chs = in_chs
        self._pieces: dict[Hashable, Piece] = {}

    def count(self, arch: Architecture) -> StaticCost:
        """What `count_cost` gives for the network of `arch`, strides taken as they stand.

        Raises what building that network and counting it do.
        """
        return joined(list(self.pieces(arch).values())).tally.cost

    def pieces(self, arch: Architecture) -> dict[str, Piece]:
        """A network's pieces by their place, one behind the other; raises as `count` does."""
        found = {"stem": self.stem(arch)}
        shape = found["stem"].shape
        for i, (in_chs, stage) in enumerate(arch.with_in_chs()):
            found[f"stages.{i}"] = piece = self.stage(in_chs, stage, arch.act, shape)
            shape = piece.shape
        lows = tuple(found[f"stages.{i}"].shape for i in arch.fusion_stages)
        found["last"] = self.last_layers(arch, shape)
        if arch.fusion.kind != "none":
            found["fusion"] = self.fusion(arch, lows, found["last"].shape)
            shape = found["fusion"].shape
        else:
            shape = found["last"].shape
        found["head"] = self.classifier(arch, shape)
        return found

    def stem(self, arch: Architecture) -> Piece:
        key = ("stem", arch.stem, arch.act, arch.stages[0].kind.preact)
        shape = (self.in_chs, self.resolution, self.resolution)
        return self._part(key, lambda: build_stem(arch, self.in_chs), shape)

    def stage(self, in_chs: int, stage: StageSpec, act: str, shape: Shape) -> Piece:
        """The blocks of a stage one after the other, and the attention behind them."""

        def find() -> Piece:
            pieces = [self.block(in_chs, stage, act, shape)]
            for _ in range(1, stage.depth):
                pieces.append(self.block(stage.width, stage.later, act, pieces[-1].shape))
            if stage.attention.placement == "after_stage":
                pieces.append(self.attention(stage.attention, pieces[-1].shape))
            return joined(pieces)

        return self._once(("stage", in_chs, stage, act, shape), find)

    def block(self, in_chs: int, stage: StageSpec, act: str, shape: Shape) -> Piece:
        """One block. Its attention, which varies most, is a piece of its own where it can be."""
        whole, spec = stage.model_copy(update={"depth": 1}), stage.attention
        bare = whole.model_copy(update={"attention": AttentionSpec()})

        def built(stage: StageSpec) -> Piece:
            build = partial(stage.kind.load(), in_chs, stage, act=act)
            return self._part(("block", in_chs, stage, act), build, shape)

        if spec.kind == "none" or spec.placement == "after_stage":
            return built(bare)
        block = built(bare)
        inner = spec.placement == "after_spatial"
        place = (stage.inner_width(in_chs) if inner else stage.width, *block.shape[1:])
        attention = self.attention(spec, place)
        if attention.shape != place:  # a plug-in's: what is behind it has other maps
            return built(whole)
        return Piece(block.tally + attention.inside(block).tally, block.shape)

    def attention(self, spec: BareAttention, shape: Shape) -> Piece:
        """An attention module; neither its place nor its strength changes what it costs."""
        key = ("attention", spec.kind, frozenset(spec.model_extra.items()))
        return self._part(key, lambda: chain(attention=attention_of(spec, shape[0])), shape)

    def last_layers(self, arch: Architecture, shape: Shape) -> Piece:
        last = arch.stages[-1]
        key = ("last layers", last.width, last.kind.preact, arch.head.conv_width, arch.act)
        return self._part(
            key, lambda: nn.Sequential(build_last_norm(arch), build_last_conv(arch)), shape
        )

    def fusion(self, arch: Architecture, lows: tuple[Shape, ...], shape: Shape) -> Piece:
        key = ("fusion", arch.fusion, tuple(fused_maps(arch)), arch.out_chs)
        return self._part(key, lambda: build_fusion(arch) or nn.Identity(), shape, lows)

    def classifier(self, arch: Architecture, shape: Shape) -> Piece:
        def build() -> nn.Module:
            classifier = build_classifier(arch.out_chs, arch.head, self.num_classes)
            return nn.Sequential(build_pooling(arch.head), classifier)

        return self._part(("classifier", arch.head, arch.out_chs), build, shape)

    def _part(
        self,
        key: Hashable,
        build: Callable[[], nn.Module],
        shape: Shape,
        lows: tuple[Shape, ...] | None = None,
    ) -> Piece:
        """A part that takes a map of `shape`, or as a fusion does those of `lows` before it."""

        def find() -> Piece:
            try:
                return measure(build, shape, lows)
            except _TooLargeError:
                with torch.device("meta"):
                    return measure(build, shape, lows)

        return self._once((key, shape, lows), find)

    def _once(self, key: Hashable, find: Callable[[], Piece]) -> Piece:
        """The piece of that key, found when it is first asked for."""
        piece = self._pieces.get(key)
        if piece is None:
            piece = find()
            if len(self._pieces) >= MAX_PIECES:
                self._pieces.clear()
            self._pieces[key] = piece
        return piece


def measure(build: Callable[[], nn.Module], shape: Shape, lows: tuple[Shape, ...] | None) -> Piece:
    """Build a part, let zeros of these shapes pass through it, and count."""
    like = torch.empty(0)
    inputs: list[Any] = [] if lows is None else [[zeros(like, (1, *low)) for low in lows]]
    inputs.append(zeros(like, (1, *shape)))
    with torch.random.fork_rng(devices=()):
        with _NoDraws():
            part = build()
        counter = _ShapeCounter()
        y = counter.run(part, *inputs)
    share = Fraction(getattr(part, "run_share", 1))
    return Piece(counter.tally(part), tuple(y.shape[1:]), share)


def joined(pieces: Sequence[Piece]) -> Piece:
    """Several pieces one after the other."""
    return Piece(sum((piece.tally for piece in pieces), Tally()), pieces[-1].shape)


class _ShapeCounter(Counter):  # type: ignore[no-untyped-call]
    """A counter for which shapes are enough: what takes long gives zeros."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is CONVOLUTION and (shape := conv_shape(*args)):
            x, weight, *_ = args
            self.add(conv_flop_count(x.shape, weight.shape, list(shape)))
            return zeros(x, shape)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def result(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operator not in HEAVY:
            return operator(*args, **kwargs)
        like = [x.to("meta") if isinstance(x, Tensor) else x for x in args]
        return zeros(args[0], operator(*like, **kwargs).shape)


class _TooLargeError(Exception):
    """A tensor in a network that is counted with real ones."""


def zeros(like: Tensor, shape: Shape) -> Tensor:
    """Zeros where `like` is; raises _TooLargeError rather than fill the memory."""
    if prod(shape) > LARGE and not like.is_meta:
        raise _TooLargeError
    return like.new_zeros(shape)


def conv_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Shape:
    """What a convolution returns; () for a transposed one, and where torch should refuse."""
    out_chs, in_chs, *kernel = weight.shape
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    fits = x.shape[1] == in_chs * groups and out_chs % groups == 0 and min(sides) > 0
    return (len(x), out_chs, *sides) if fits and not transposed else ()


class _NoDraws(TorchFunctionMode):
    """Tensors that would be filled with random numbers stay as they are."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

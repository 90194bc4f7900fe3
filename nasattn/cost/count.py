"""Static costs: parameters, and multiply-adds of convolutions and matrix products."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nasattn.errors import EvaluationError, shown

# What costs nothing by the convention of the papers' tables, beside the views, the element-wise
# operators and the reductions that torch marks itself: base names of torch's own operators. A
# product that is written as (x * y).sum() is element-wise work, and free, too.
FREE = {
    "element-wise": "hardswish glu log_sigmoid_forward rsub floor_divide _prelu_kernel "
    "rrelu_with_noise",
    "normalisation": "native_batch_norm _native_batch_norm_legit native_layer_norm "
    "_native_batch_norm_legit_no_training native_group_norm _fused_rms_norm cudnn_batch_norm "
    "miopen_batch_norm",
    "softmax": "_softmax _log_softmax _safe_softmax",
    "pooling": "avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "fractional_max_pool2d max_unpool2d",
    "upsampling": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
    "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    "reshaping and padding": "_unsafe_view _reshape_copy cat stack repeat roll flip pixel_shuffle "
    "pixel_unshuffle channel_shuffle unsafe_split unsafe_split_with_sizes im2col col2im "
    "constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d tril "
    "triu",
    "copies and new tensors": "_to_copy copy lift lift_fresh_copy empty empty_like empty_strided "
    "new_empty new_empty_strided zeros zeros_like new_zeros zero ones ones_like new_ones full "
    "full_like new_full fill scalar_tensor arange linspace eye _local_scalar_dense",
    "indexing, sorting, running sums": "index index_select index_put index_add _unsafe_index "
    "gather scatter scatter_add select_scatter slice_scatter embedding take topk sort median "
    "kthvalue nonzero masked_select masked_scatter cumsum cummax cummin",
    "random numbers": "rand rand_like randn randn_like randint randperm uniform normal bernoulli "
    "exponential multinomial native_dropout",
}
BATCH_NORM, TRAINING = torch.ops.aten.native_batch_norm.default, 5  # place of that argument
CLAMP = torch.ops.aten.hardtanh_.default
FREE_NAMES = frozenset(name for names in FREE.values() for name in names.split())
FREE_TAGS = frozenset((torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view))


@dataclass(frozen=True)
class StaticCost:
    """What can be known of a network's cost without training or timing it."""

    params: int
    macs: int  # of one picture; the mean, where a part runs for some pictures only
    max_macs: int  # of a picture for which everything runs
    uncounted: tuple[str, ...] = ()  # operators that ran and that no rule can count


@dataclass(frozen=True)
class Tally:
    """What counting adds up, before it is rounded: the tallies of the parts add up exactly."""

    params: int = 0
    flops: int = 0  # torch's rules give two operations a multiply-add
    skipped: Fraction = Fraction(0)  # operations left out for the mean picture
    uncounted: frozenset[str] = frozenset()

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.params + other.params,
            self.flops + other.flops,
            self.skipped + other.skipped,
            self.uncounted | other.uncounted,
        )

    @property
    def cost(self) -> StaticCost:
        """The figures of a network of which this is everything."""
        return StaticCost(
            params=self.params,
            macs=self.flops // 2 - round(self.skipped / 2),
            max_macs=self.flops // 2,
            uncounted=tuple(sorted(self.uncounted)),
        )


def count_params(model: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers are not counted."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, resolution: int, in_chs: int = 3) -> int:
    """Multiply-adds of one picture of `resolution` x `resolution` pixels; see `count_cost`."""
    return count_cost(model, resolution, in_chs).macs


def count_cost(model: nn.Module, resolution: int, in_chs: int = 3) -> StaticCost:
    """Parameters and multiply-adds of one picture of `resolution` x `resolution` pixels.

    The network runs once in eval mode where it lives (the meta device will do). Convolutions and
    matrix products count, by torch's rules; what is in FREE does not (the convention of the
    papers' tables). An operator with neither a rule nor a place there is `uncounted`.

    A part that is skipped for some pictures has a number `run_share` (the share of the pictures
    for which it runs), a child module `body` of its own, and a flag `run_all`, which it obeys by
    running its body whatever the picture. It counts as run_share times its body; nested shares
    multiply. Raises EvaluationError where a part with a `run_share` is not made so.
    """
    counter = Counter()
    counter.run(model, blank_picture(model, resolution, in_chs))
    return counter.tally(model).cost


def blank_picture(model: nn.Module, resolution: int, in_chs: int = 3) -> Tensor:
    """Zeros (1, in_chs, resolution, resolution) where the model lives, of its type."""
    like = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, in_chs, resolution, resolution, device=like.device, dtype=like.dtype)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of what runs, by torch's rules, and notes what has none."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.share = Fraction(1)  # of the pictures: those that reach what runs now
        self.skipped = Fraction(0)
        self.uncounted: set[str] = set()

    def run(self, model: nn.Module, *inputs: Any) -> Any:
        """What a network returns, which runs once, as `count_cost` says, and is counted."""
        with (
            _eval_mode(model),
            _every_body(model, self),
            torch.no_grad(),
            _plain_attention(),
            self,
        ):
            return model(*inputs)

    def tally(self, model: nn.Module) -> Tally:
        """What was added up, with the parameters of the model that ran."""
        return Tally(count_params(model), self.flops, self.skipped, frozenset(self.uncounted))

    def add(self, flops: int) -> None:
        """Count the operations of what runs now."""
        self.flops += flops
        if self.share != 1:
            self.skipped += flops * (1 - self.share)

    def result(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operator returns; a counter of shapes alone need not compute it."""
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.is_meta:  # where torch takes a millisecond
            if operator is BATCH_NORM and not args[TRAINING]:
                return torch.empty_like(x), *x.new_empty((2, 0))
            if operator is CLAMP:
                return x
        return operator(*args, **kwargs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_free(func):
            return self.result(func, args, kwargs)
        packet = getattr(func, "_overloadpacket", func)  # a higher-order operator has none
        if packet in flop_registry:
            out = self.result(func, args, kwargs)
            self.add(flop_registry[packet](*args, **kwargs, out_val=out))
            return out
        if hasattr(func, "decompose"):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        self.uncounted.add(str(packet))
        return self.result(func, args, kwargs)


@cache
def is_free(operator: Any) -> bool:
    """Whether an operator of the dispatcher is torch's own and free, in place or not."""
    if getattr(operator, "namespace", None) != "aten":
        return False
    name = operator._overloadpacket.__name__.removesuffix("_")
    return name in FREE_NAMES or operator.is_view or not FREE_TAGS.isdisjoint(operator.tags)


@contextmanager
def _every_body(model: nn.Module, counter: Counter) -> Iterator[None]:
    """All parts that may be skipped run, and the counter knows for which share of pictures."""
    with ExitStack() as stack:
        for name, part in model.named_modules():
            if hasattr(part, "run_share"):
                _check_conditional(name or type(part).__name__, part)
                stack.enter_context(_run_all(part, counter))
        yield


@contextmanager
def _run_all(part: Any, counter: Counter) -> Iterator[None]:
    share, outer = Fraction(part.run_share), []

    def enter(*_: object) -> None:
        outer.append(counter.share)
        counter.share *= share

    def leave(*_: object) -> None:
        counter.share = outer.pop()

    handles = [part.body.register_forward_pre_hook(enter), part.body.register_forward_hook(leave)]
    before, part.run_all = part.run_all, True
    try:
        yield
    finally:
        part.run_all = before
        for handle in handles:
            handle.remove()


def _check_conditional(name: str, part: nn.Module) -> None:
    share = part.run_share
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise EvaluationError(
            f"{name}.run_share: must be a number above 0, at most 1, is {shown(share)}"
        )
    if not isinstance(getattr(part, "body", None), nn.Module):
        raise EvaluationError(f"{name}: a part with a run_share needs a child module 'body'")
    if not isinstance(getattr(part, "run_all", None), bool):
        raise EvaluationError(f"{name}: a part with a run_share needs a flag 'run_all'")


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Every part in eval mode, and then each in the mode that it had."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Fused attention has no rule on every device; its plain form is matrix products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention's own in eval mode
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

"""For plug-in authors and our own tests: contracts to keep, tiny pictures, a fake evaluator.

A contract raises AssertionError and says what is broken; it needs no test framework.
"""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.data import ImageData, Split
from nasattn.evaluate import Evaluation
from nasattn.model import build_model
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch

TOLERANCE = 1e-5  # of values of size 1, where only the order of the sums may differ
MAPS = ((8, 8), (7, 7), (5, 9), (1, 1))  # even, odd, not square, one pixel


def attention_contract(
    build: Callable[[int], nn.Module], channels: Sequence[int] = (16, 24)
) -> None:
    """Check that `build(C)` makes a module (N, C, H, W) -> (N, C, H, W) that fits into any network.

    For every width in `channels` and for even, odd, oblong and one-pixel maps, blank ones too: the
    shape stays and values are finite; gradients reach the input and every parameter and are
    finite; the input is not changed in place. In eval mode: the same input gives the same
    output, whatever else is in the batch and however it lies in memory, and a second module with
    the state dict of the first computes the same. Leaves torch's random state as it was.

    Raises AssertionError naming the width, the map and what failed.
    """
    for width in channels:
        for size in MAPS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                x = torch.randn(4, width, *size)
                where = f"{width} channels, map {size[0]}x{size[1]}"
                for picture, note in ((x, ""), (torch.zeros_like(x), " of zeros")):
                    _check_values(build(width), picture, where + note)
                    _check_gradients(build(width), picture, where + note)
                _check_eval(build(width), x, where)
                _check_state_dict(build(width), build(width), x, where)


def space_contract(space: SearchSpace, n: int = 20) -> None:
    """Check that `n` sampled networks decode, encode back and build, and that baselines fit in.

    Raises AssertionError naming the params or the baseline, and what failed.
    """
    rng = Random(0)
    for _ in range(n):
        params = space.sample(rng)
        arch = space.decode(params)
        kept = space.decode(space.encode(arch)) == arch
        _check(kept, "another network comes back from encode and decode", str(params))
        build_model(arch.at_resolution(16), num_classes=2)
    for name in space.baselines:
        arch = get_baseline(name).architecture
        kept = space.decode(space.encode(arch, name)) == arch
        _check(kept, "another network comes back from the space", f"baseline {name}")


def tiny_data(n_per_class: int = 8, resolution: int = 8, seed: int = 0) -> ImageData:
    """Pictures of two classes, dark and bright, that any network tells apart."""
    rng = np.random.default_rng(seed)

    def split(n: int) -> Split:
        labels = np.arange(2 * n, dtype=np.int64) % 2
        noise = rng.integers(0, 60, (2 * n, 3, resolution, resolution))
        return Split((noise + 180 * labels[:, None, None, None]).astype(np.uint8), labels)

    return ImageData(
        name="tiny",
        resolution=resolution,
        classes=("dark", "bright"),
        train=split(n_per_class),
        val_search=split(n_per_class),
        val_select=split(n_per_class),
        n_test=2 * n_per_class,
        mirror=True,
        skipped=(),
        content_hash=f"tiny{n_per_class}{resolution}{seed}",
    )


class FakeEvaluator:
    """Evaluates networks in no time by a made-up but sensible law; counts what it was asked for.

    top1 grows with multiply-adds and with attention, each less and less; equal networks get equal
    values. `fail` and `infeasible` name arch_ids that end so.
    """

    def __init__(self, fail: Collection[str] = (), infeasible: Collection[str] = ()) -> None:
        self.fail = fail
        self.infeasible = infeasible
        self.evaluated: list[str] = []

    def __call__(
        self, arch: Architecture, on_epoch: Callable[[Epoch], None] = lambda epoch: None
    ) -> Evaluation:
        self.evaluated.append(arch.arch_id)
        macs = float(sum(s.depth * s.width**2 * s.expansion for s in arch.stages))
        values = {"macs": macs, "params": macs / 10, "latency_ms": macs**0.5}
        if arch.arch_id in self.fail:
            return Evaluation("failed", reason="out of memory")
        if arch.arch_id in self.infeasible:
            return Evaluation("infeasible", values, {"macs<=0": macs}, "breaks macs<=0")
        n_attention = sum(s.attention.kind != "none" for s in arch.stages)
        top1 = 1 - 1 / (1 + macs / 1e4) - 0.1 / (1 + n_attention)
        epoch = Epoch(1, loss=1 - top1, top1=top1, seconds=0.0)
        on_epoch(epoch)
        return Evaluation("complete", values | {"top1": top1}, curve=(epoch,))


def _check_values(module: nn.Module, x: Tensor, where: str) -> None:
    before = x.clone()
    for training in (True, False):
        mode = "training" if training else "eval"
        with torch.no_grad():
            y = module.train(training)(x)
        _check(y.shape == x.shape, f"shape {tuple(y.shape)} of the output in {mode} mode", where)
        _check(bool(y.isfinite().all()), f"output in {mode} mode is not finite", where)
        _check(torch.equal(x, before), f"input is changed in place in {mode} mode", where)


def _check_gradients(module: nn.Module, x: Tensor, where: str) -> None:
    x = x.clone().requires_grad_()
    y = module.train()(x)
    _check(y.requires_grad, "no gradient flows through the output", where)
    y.backward(torch.randn_like(y))
    for name, tensor in (("input", x), *module.named_parameters()):
        _check(tensor.grad is not None, f"no gradient reaches {name!r}", where)
        finite = tensor.grad is not None and bool(tensor.grad.isfinite().all())
        _check(finite, f"gradient of {name!r} is not finite", where)


@torch.no_grad()
def _check_eval(module: nn.Module, x: Tensor, where: str) -> None:
    module.train()(x)  # running statistics leave their start
    module.eval()
    y = module(x)
    _check(torch.equal(module(x), y), "two calls in eval mode differ", where)
    _check(_close(module(x[:1]), y[:1]), "a picture alone differs from the same in a batch", where)
    strided = x.contiguous(memory_format=torch.channels_last)
    _check(_close(module(strided), y), "channels_last input gives other values", where)


@torch.no_grad()
def _check_state_dict(module: nn.Module, other: nn.Module, x: Tensor, where: str) -> None:
    module.train()(x)  # statistics that are kept outside of the state dict now differ
    # A copy, as a checkpoint is one: the state dict itself shares the tensors.
    other.load_state_dict(deepcopy(module.state_dict()))
    equal = _close(other.eval()(x), module.eval()(x))
    _check(equal, "a second module with the same state dict gives other values", where)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def _check(holds: bool, broken: str, where: str) -> None:
    if not holds:  # not `assert`, which python -O leaves out
        raise AssertionError(f"{where}: {broken}")

"""For plug-in authors and our own tests: contracts to keep, tiny pictures, a fake evaluator.

A contract raises AssertionError and says what is broken; it needs no test framework.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import BytesIO
from random import Random
from typing import Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from nasattn.arch import Architecture
from nasattn.baselines import get_baseline
from nasattn.cost import count_cost
from nasattn.data import ImageData, Split
from nasattn.errors import PluginError
from nasattn.evaluate import Evaluation, OnEpoch, Stops
from nasattn.model import build_model
from nasattn.space import SearchSpace
from nasattn.train.loop import Epoch

TOLERANCE = 1e-5  # of values of size 1, where only the order of the sums may differ
OPSET = 17  # of ONNX
MAX_WHY = 200  # letters
MAPS = ((8, 8), (7, 7), (5, 9), (1, 1))  # even, odd, not square, one pixel


Build = Callable[[int], nn.Module]
Check = Callable[[Build, Tensor, str], None]  # (build, maps, where they come from)


@dataclass(frozen=True)
class Checked:
    """What came of one check: its name, the outcome and, unless it passed, why."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    why: str = ""


def attention_contract(build: Build, channels: Sequence[int] = (16, 24)) -> None:
    """Check that `build(C)` makes a module (N, C, H, W) -> (N, C, H, W) that fits into any network.

    Runs every one of ATTENTION_CHECKS for every width in `channels` and for even, odd, oblong and
    one-pixel maps: the shape stays and values are finite, of blank maps too; gradients reach the
    input and every parameter and are finite; the input is not changed in place. In eval mode:
    the same input gives the same output, whatever else is in the batch and however it lies in
    memory, and a second module with the state dict of the first computes the same. Every operator
    is one that can be counted. Leaves torch's random state as it was.

    Raises AssertionError naming the width, the map and what failed.
    """
    for check in ATTENTION_CHECKS.values():
        for x, where in _inputs(channels):
            _run(check, build, x, where)


def check_attention(build: Build, channels: Sequence[int] = (16, 24)) -> Iterator[Checked]:
    """Each of ATTENTION_CHECKS and EXPORT_CHECKS with its outcome, as soon as it is known.

    Whatever the module raises, to end the process too, is a failure of the check that met it.
    """
    for name, check in (ATTENTION_CHECKS | EXPORT_CHECKS).items():
        try:
            for x, where in _inputs(channels):
                _run(check, build, x, where)
        except _Skipped as e:
            yield Checked(name, "skipped", str(e))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as e:
            yield Checked(name, "failed", _why(e, where))
        else:
            yield Checked(name, "passed")


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
        with torch.device("meta"):
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
    values. `fail` and `infeasible` name arch_ids that end so; `n_epochs` are in a curve, which a
    search may stop, also before it begins where `estimates` say something of a network. `before` is
    called with each network first, and may raise.
    """

    def __init__(
        self,
        fail: Collection[str] = (),
        infeasible: Collection[str] = (),
        n_epochs: int = 1,
        before: Callable[[Architecture], object] = lambda arch: None,
        estimates: Callable[[Architecture], dict[str, float]] = lambda arch: {},
    ) -> None:
        self.fail = fail
        self.infeasible = infeasible
        self.n_epochs = n_epochs
        self.before = before
        self.estimates = estimates
        self.evaluated: list[str] = []

    def static_values(self, arch: Architecture) -> dict[str, float]:
        macs = float(sum(s.depth * s.width**2 * s.expansion for s in arch.stages))
        return {"macs": macs, "params": macs / 10}

    def __call__(
        self,
        arch: Architecture,
        on_epoch: OnEpoch = lambda epoch: None,
        stops: Stops = lambda curve, values: False,
    ) -> Evaluation:
        self.before(arch)
        self.evaluated.append(arch.arch_id)
        values = self.static_values(arch)
        macs = values["macs"]
        values["latency_ms"] = macs**0.5
        if arch.arch_id in self.fail:
            return Evaluation("failed", reason="out of memory")
        if arch.arch_id in self.infeasible:
            return Evaluation("infeasible", values, {"macs<=0": macs}, "breaks macs<=0")
        n_attention = sum(s.attention.kind != "none" for s in arch.stages)
        top1 = 1 - 1 / (1 + macs / 1e4) - 0.1 / (1 + n_attention)
        estimates = self.estimates(arch)
        if estimates and stops((), values | estimates):
            return Evaluation("stopped", values, reason="by its estimates", estimates=estimates)
        curve: list[Epoch] = []
        for number in range(1, self.n_epochs + 1):
            reached = top1 * number / self.n_epochs
            curve.append(Epoch(number, loss=1 - reached, top1=reached, seconds=0.0))
            on_epoch(curve[-1])
            if number < self.n_epochs and stops(curve, values | estimates):
                reason = f"stopped after epoch {number} of {self.n_epochs}"
                found = Evaluation("stopped", values, reason=reason, curve=tuple(curve))
                return replace(found, estimates=estimates)
        values |= {"top1": top1}
        return Evaluation("complete", values, curve=tuple(curve), estimates=estimates)


def _inputs(channels: Sequence[int]) -> Iterator[tuple[Tensor, str]]:
    """Maps of every width and size, each with the words that name it."""
    for width in channels:
        for height, length in MAPS:
            x = torch.randn(4, width, height, length, generator=torch.Generator().manual_seed(0))
            yield x, f"{width} channels, map {height}x{length}"


class _Skipped(Exception):
    """A check that cannot be made here. Ours alone, so that no module can say so of itself."""


def _why(e: BaseException, where: str) -> str:
    """What failed and where, in a line."""
    own = e.__cause__ or e if isinstance(e, PluginError) else e
    line = next(iter(str(own).strip().splitlines()), "")[:MAX_WHY]
    # Ours begin with the place; the module's own, assertions too, know nothing of it.
    if line.startswith(where):
        return line
    if own is e and isinstance(e, PluginError):
        return f"{where}: {line}"
    return f"{where}: {type(own).__name__}: {line}".removesuffix(": ")


def _run(check: Check, build: Build, x: Tensor, where: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        check(build, x, where)


def _outputs(module: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, str]]:
    """What a module makes of a copy of x in either mode."""
    with torch.no_grad():
        for mode in ("training", "eval"):
            yield module.train(mode == "training")(x.clone()), mode


def _blank_too(x: Tensor, where: str) -> tuple[tuple[Tensor, str], ...]:
    return (x, where), (torch.zeros_like(x), f"{where} of zeros")


def _check_shape(build: Build, x: Tensor, where: str) -> None:
    for y, mode in _outputs(build(x.shape[1]), x):
        _check(y.shape == x.shape, f"shape {tuple(y.shape)} of the output in {mode} mode", where)


def _check_finite(build: Build, x: Tensor, where: str) -> None:
    for picture, place in _blank_too(x, where):
        for y, mode in _outputs(build(x.shape[1]), picture):
            _check(bool(y.isfinite().all()), f"output in {mode} mode is not finite", place)


@torch.no_grad()
def _check_input_is_kept(build: Build, x: Tensor, where: str) -> None:
    module = build(x.shape[1])
    for mode in ("training", "eval"):
        given = x.clone()
        module.train(mode == "training")(given)
        _check(torch.equal(given, x), f"input is changed in place in {mode} mode", where)


def _check_gradients(build: Build, x: Tensor, where: str) -> None:
    for picture, place in _blank_too(x, where):
        module = build(x.shape[1]).train()
        given = picture.clone().requires_grad_()
        y = module(given)
        _check(y.requires_grad, "no gradient flows through the output", place)
        y.backward(torch.randn_like(y))
        for name, tensor in (("input", given), *module.named_parameters()):
            _check(tensor.grad is not None, f"no gradient reaches {name!r}", place)
            finite = tensor.grad is not None and bool(tensor.grad.isfinite().all())
            _check(finite, f"gradient of {name!r} is not finite", place)


@torch.no_grad()
def _evaluated(build: Build, x: Tensor) -> nn.Module:
    """A module in eval mode whose running statistics, if any, have left their start."""
    module = build(x.shape[1]).train()
    module(x.clone())
    return module.eval()


@torch.no_grad()
def _check_repeats(build: Build, x: Tensor, where: str) -> None:
    module = _evaluated(build, x)
    _check(torch.equal(module(x), module(x)), "two calls in eval mode differ", where)


@torch.no_grad()
def _check_batch(build: Build, x: Tensor, where: str) -> None:
    module = _evaluated(build, x)
    alone = _close(module(x[:1]), module(x)[:1])
    _check(alone, "a picture alone differs from the same in a batch", where)


@torch.no_grad()
def _check_layout(build: Build, x: Tensor, where: str) -> None:
    module = _evaluated(build, x)
    strided = x.contiguous(memory_format=torch.channels_last)
    _check(_close(module(strided), module(x)), "channels_last input gives other values", where)


@torch.no_grad()
def _check_state_dict(build: Build, x: Tensor, where: str) -> None:
    module, other = _evaluated(build, x), build(x.shape[1])
    # A copy, as a checkpoint is one: the state dict itself shares the tensors.
    other.load_state_dict(deepcopy(module.state_dict()))
    equal = _close(other.eval()(x), module(x))
    _check(equal, "a second module with the same state dict gives other values", where)


def _check_counts(build: Build, x: Tensor, where: str) -> None:
    cost = count_cost(build(x.shape[1]), resolution=x.shape[2], in_chs=x.shape[1])
    _check(not cost.uncounted, f"no rule counts {', '.join(cost.uncounted)}", where)


@torch.no_grad()
def _check_onnx(build: Build, x: Tensor, where: str) -> None:
    if find_spec("onnx") is None:
        raise _Skipped("onnx is not installed")
    import onnx
    from onnx.reference import ReferenceEvaluator

    module, file = _evaluated(build, x), BytesIO()
    # What the exporter warns of, the comparison below judges. Where it fails it writes its graph
    # to standard output, and nothing that it offers turns that off.
    log = mock.patch.object(torch._C, "_jit_onnx_log", create=True)
    with warnings.catch_warnings(), log:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (x,),
            file,  # type: ignore[arg-type]  # a file object will do for this exporter
            dynamo=False,
            opset_version=OPSET,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    model = onnx.load_model_from_string(file.getvalue())
    # On other maps, and fewer, than it was traced with: those may be in it as constants.
    given = -x[:-1]
    try:
        (y,) = ReferenceEvaluator(model).run(None, {"x": given.numpy()})
    except Exception as e:
        words = f"ONNX of {len(x)} pictures does not run with {len(given)} ({type(e).__name__})"
        raise AssertionError(f"{where}: {words}") from e
    _check(_close(torch.from_numpy(y), module(given), 1e-4), "ONNX gives other values", where)


ATTENTION_CHECKS: dict[str, Check] = {
    "the shape stays": _check_shape,
    "values are finite": _check_finite,
    "the input is left as it was": _check_input_is_kept,
    "gradients reach the input and every parameter": _check_gradients,
    "eval mode gives the same again": _check_repeats,
    "pictures of a batch do not meet in eval mode": _check_batch,
    "channels_last gives the same": _check_layout,
    "a state dict holds everything": _check_state_dict,
    "every operator can be counted": _check_counts,
}
EXPORT_CHECKS: dict[str, Check] = {"exports to ONNX": _check_onnx}


def _close(a: Tensor, b: Tensor, tolerance: float = TOLERANCE) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _check(holds: bool, broken: str, where: str) -> None:
    if not holds:  # not `assert`, which python -O leaves out
        raise AssertionError(f"{where}: {broken}")

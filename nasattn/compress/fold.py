"""fold: batch norms that go into the convolutions before them, once nothing is trained any more."""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from nasattn.errors import EvaluationError, WeightsError, shown
from nasattn.spec import Line

Folds = tuple[tuple[Line, Line], ...]  # names of a convolution and of the norm that follows it
CLOSE = 1e-4  # of the logits' range: float32 in another order of sums


def find_folds(model: nn.Module, x: Tensor) -> Folds:
    """The norms that a convolution's output goes to, by what happens to pictures x (N, C, H, W).

    Those of modules that run more than once are left.
    """
    made: list[tuple[Tensor, str]] = []  # tensors stay, so that none is taken for another
    found: dict[str, str] = {}
    runs = Counter[str]()

    def after_conv(name: str, output: Tensor) -> None:
        runs[name] += 1
        made.append((output, name))

    def before_norm(name: str, given: Tensor) -> None:
        runs[name] += 1
        maker = next((conv for tensor, conv in made if tensor is given), None)
        if maker is not None:
            found[maker] = name

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(
                module.register_forward_hook(lambda m, a, out, name=name: after_conv(name, out))
            )
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(
                module.register_forward_pre_hook(lambda m, a, name=name: before_norm(name, a[0]))
            )
    try:
        with torch.inference_mode():
            model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(pair for pair in found.items() if all(runs[name] == 1 for name in pair))


def fold(model: nn.Module, folds: Folds, where: str) -> None:
    """Fold norms into convolutions, in place. Raises WeightsError where one cannot be."""
    for names in folds:
        conv, norm = _pair(model, names, where)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        model.set_submodule(names[1], nn.Identity())


def _pair(model: nn.Module, names: tuple[str, str], where: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    try:
        conv, norm = (model.get_submodule(name) for name in names)
    except AttributeError:
        raise WeightsError(f"{where}: folds {shown(names)}, which are not there") from None
    if not (
        isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
    ):
        raise WeightsError(f"{where}: cannot fold {shown(names[1])} into {shown(names[0])}")
    return conv, norm


def fold_checked(model: nn.Module, x: Tensor, where: str) -> Folds:
    """Fold all that can be, in place; EvaluationError where the network then answers otherwise.

    It would where a convolution's output is read by more than its norm.
    """
    with torch.inference_mode():
        before = model.eval()(x)
        folds = find_folds(model, x)
        fold(model, folds, where)
        after = model(x)
    spread = (before.max() - before.min()).clamp_min(1e-30)
    if not (difference := float((after - before).abs().max() / spread)) <= CLOSE:
        raise EvaluationError(
            f"{where}: answers differ by {difference:.2g} of their range once its norms are folded"
        )
    return folds

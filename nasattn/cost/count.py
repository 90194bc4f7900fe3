"""Static costs: parameters, and multiply-adds of convolutions and matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Number of trainable and frozen parameters; buffers are not counted."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, resolution: int, in_chs: int = 3) -> int:
    """Multiply-adds of one picture of `resolution` x `resolution` pixels in eval mode.

    Convolutions and matrix products count, pooling, normalisation and element-wise work do not
    (the convention of the papers' tables). torch's counter gives two operations a multiply-add.
    """
    x = torch.zeros(1, in_chs, resolution, resolution, device=next(model.parameters()).device)
    counter = FlopCounterMode(display=False)
    with _eval_mode(model), torch.no_grad(), _plain_attention(), counter:
        model(x)
    return int(counter.get_total_flops()) // 2


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
    """Fused attention has no rule in the counter; its plain form is matrix products."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention's own in eval mode
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

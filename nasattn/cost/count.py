"""Static costs: parameters, and multiply-adds of convolutions and matrix products."""

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
    was_training = model.training
    model.eval()
    # Fused attention has no rule in the counter; its plain form is matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    model.train(was_training)
    return int(counter.get_total_flops()) // 2

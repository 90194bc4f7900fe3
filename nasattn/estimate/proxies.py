"""Proxies: scores of a network at initialisation, by one or two batches; higher is better.

Each works on a copy of the network: no hook stays, no weight, statistic or gradient changes. The
seed decides what is drawn (dropout; zen: weights and noise), torch's generator is left as it was.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasattn.blocks.shortcut import ShortcutBlock

Batch = tuple[Tensor, Tensor]  # normalised pictures (N, 3, H, W), labels (N,)

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)  # whose weights count
HINGES = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)  # those of layers.ACTIVATIONS
ALPHA = 0.01  # zen: of the noise, as the paper has it
REPEATS = 4  # zen: draws of weights and noise; the authors' code makes 32 of 64 pictures
ZEN_PICTURES = 16


@contextmanager
def copied(model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """A copy in training mode, all of which runs for every picture, and numbers of a seed."""
    devices = [p.device for p in model.parameters() if p.is_cuda][:1]
    net = deepcopy(model).train()
    for part in net.modules():
        if isinstance(part, ShortcutBlock):
            part.run_all = True
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield net


def weights(model: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers, a layer each; no biases, no norms."""
    return [part.weight for part in model.modules() if isinstance(part, LAYERS)]


def gradients(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Those of the cross-entropy by each of `weights`; zeros where the loss hangs not on one."""
    images, labels = batch
    own = weights(model)
    loss = cross_entropy(model(images), labels)
    found = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
    return list(found)


@torch.no_grad()
def naswot(model: nn.Module, images: Tensor, seed: int = 0) -> float:
    """log |det K| with K_ij = N_A - d_H(c_i, c_j): how differently pictures switch the units.

    c_i is the binary code of picture i, a bit for each of the N_A rectified units (whether its
    input is positive), d_H the Hamming distance. -inf where two pictures have one code.
    Source: Mellor et al., ICML 2021 (arXiv 2006.04647), equation (2). The paper has ReLU alone; we
    take the sign of what enters any of HINGES, inside attention too. Training mode, as there.
    """
    with copied(model, seed) as net:
        n = len(images)
        kernel = torch.zeros(n, n, dtype=torch.float64, device=images.device)

        def compare(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            code = (inputs[0] > 0).flatten(1).float()  # (N, units)
            kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

        for part in (part for part in net.modules() if isinstance(part, HINGES)):
            part.register_forward_pre_hook(compare)
        net(images)
        return float(torch.linalg.slogdet(kernel).logabsdet)


def synflow(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> float:
    """log sum_w |w dR/dw| with R the sum of the outputs of ones, all parameters made absolute.

    shape: (C, H, W) of a picture. Source: Tanaka et al., NeurIPS 2020 (arXiv 2006.05467), equation
    (2), summed over the network as in Abdelfattah et al., ICLR 2021. Its R is the product of all
    absolute weights, for which activations are the identity: here they are, so that no ReLU6 cuts
    off the flow. Eval mode, in which untrained batch norms are the identity. We take the
    logarithm, which changes no rank, and double precision.
    """
    with copied(model, seed) as net:
        net.eval().double()
        skip_hinges(net)
        with torch.no_grad():
            for p in net.parameters():
                p.abs_()
        own = weights(net)
        x = torch.ones(1, *shape, dtype=torch.float64, device=own[0].device)
        flow = torch.autograd.grad(net(x).sum(), own, allow_unused=True, materialize_grads=True)
        score = sum(float((w.detach() * g).abs().sum()) for w, g in zip(own, flow, strict=True))
        return math.log(score) if score else -math.inf


def skip_hinges(model: nn.Module) -> None:
    """Make every activation the identity."""
    for part in model.modules():
        for name, child in part.named_children():
            if isinstance(child, HINGES):
                setattr(part, name, nn.Identity())


def snip(model: nn.Module, batch: Batch, seed: int = 0) -> float:
    """sum_w |w dL/dw|: how much the loss hangs on the connections.

    Source: Lee et al., ICLR 2019 (arXiv 1810.02340), summed over the network as in Abdelfattah et
    al., ICLR 2021.
    """
    with copied(model, seed) as net:
        pairs = zip(weights(net), gradients(net, batch), strict=True)
        return sum(float((w.detach() * g).abs().sum()) for w, g in pairs)


def grad_norm(model: nn.Module, batch: Batch, seed: int = 0) -> float:
    """sum over layers of ||dL/dw||_2. Source: Abdelfattah et al., ICLR 2021 (arXiv 2101.08134)."""
    with copied(model, seed) as net:
        return sum(float(g.norm()) for g in gradients(net, batch))


def zico(model: nn.Module, batches: list[Batch], seed: int = 0) -> float:
    """sum over layers of log sum_w E|g_w| / sd(|g_w|), over the gradients g of two or more batches.

    Source: Li et al., ICLR 2023 (arXiv 2301.11300), equation (13). The spread is that of the
    batches themselves (divided by their number). The authors' code takes that of the signed
    gradients, the paper that of their absolute values, which we follow. Weights without spread are
    left out, as in their code, and layers without any other.
    """
    with copied(model, seed) as net:
        found = [[g.abs() for g in gradients(net, batch)] for batch in batches]
        total = 0.0
        for layer in zip(*found, strict=True):
            mean = torch.stack(layer).mean(0)
            sd = torch.stack([(g - mean).square_() for g in layer]).mean(0).sqrt_()
            spread = sd > 0
            if spread.any():
                total += float((mean[spread] / sd[spread]).sum().log())
        return total


@torch.no_grad()
def zen(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> float:
    """log E ||f(x) - f(x + a e)|| + sum over batch norms of log sqrt(mean_c var_c).

    f is the map before the pooling, x and e are drawn from N(0, 1), and so are the weights; a is
    ALPHA, var_c a channel's variance in the batch, which the norm takes out and the sum puts back.
    shape: (C, H, W) of a picture. Source: Lin et al., ICCV 2021 (arXiv 2102.01063), algorithm 1,
    which removes residual links; so do we, but attention, which the paper has not, stays. The norm
    is Frobenius' as in the paper (the authors' code has a sum of absolutes). The mean over REPEATS
    of the score, each of its own weights and ZEN_PICTURES pictures. A variance is taken with the
    norm's eps, as the norm takes it.
    """
    with copied(model, seed) as net:
        remove_shortcuts(net)
        maps: list[Tensor] = []
        scales: list[float] = []

        def note_scale(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(norm, nn.BatchNorm2d)
            variance = inputs[0].var((0, 2, 3), correction=0).mean() + norm.eps
            scales.append(float(variance.log()) / 2)

        net.get_submodule("pool").register_forward_pre_hook(lambda _, x: maps.append(x[0].clone()))
        norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
        device = next(net.parameters()).device
        scores = []
        for _ in range(REPEATS):
            for w in weights(net):
                w.normal_()
            x, noise = (torch.randn(ZEN_PICTURES, *shape, device=device) for _ in range(2))
            maps.clear()
            scales.clear()
            hooks = [norm.register_forward_pre_hook(note_scale) for norm in norms]
            net(x)
            for hook in hooks:
                hook.remove()
            net(x + ALPHA * noise)
            before, after = maps
            scores.append(float((before - after).flatten(1).norm(dim=1).mean().log()) + sum(scales))
        return sum(scores) / REPEATS


def remove_shortcuts(model: nn.Module) -> None:
    """Leave of every residual block its body and the activation behind it."""
    for part in model.modules():
        if isinstance(part, ShortcutBlock) and part.shortcut is not None:
            part.body, part.shortcut = nn.Sequential(part.body, part.act), None

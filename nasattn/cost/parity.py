"""Parity: a converted network must answer as the one that it was converted from."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasattn.errors import EvaluationError

TOLERANCE = 1e-3  # of the largest logit; float32 kernels differ by some 1e-6 to 1e-4


@dataclass(frozen=True)
class Parity:
    """How near the answers are on some pictures."""

    max_diff: float  # between two logits, as a share of the largest one
    n: int  # pictures
    n_clear: int  # of them, with a highest logit that the tolerance cannot turn
    n_agree: int  # of the clear ones, with the same highest logit

    def check(self) -> None:
        """EvaluationError where the network is another one than was converted."""
        if not self.max_diff <= TOLERANCE:
            raise EvaluationError(
                f"parity: logits differ by {self.max_diff:.2g} of the largest one, "
                f"allowed is {TOLERANCE:g}"
            )
        if self.n_agree < self.n_clear:
            raise EvaluationError(
                f"parity: {self.n_clear - self.n_agree} of {self.n_clear} pictures get another "
                "class"
            )


def compare(expected: Tensor, found: Sequence[float]) -> Parity:
    """Compare logits (N, classes) with a flat list of them; EvaluationError for another number."""
    if len(found) != expected.numel():
        raise EvaluationError(
            f"parity: the converted network gives {len(found)} logits for {len(expected)} "
            f"pictures, must be {expected.numel()}"
        )
    actual = torch.tensor(found, dtype=torch.float64).view(expected.shape)
    wanted = expected.double()
    if not (wanted.isfinite().all() and actual.isfinite().all()):
        raise EvaluationError("parity: a logit is not a finite number")
    scale = wanted.abs().max().clamp_min(1e-30)
    highest = wanted.topk(min(2, wanted.shape[1])).values  # (N, 2)
    clear = (highest[:, 0] - highest[:, -1]) > 2 * TOLERANCE * scale
    agree = (wanted.argmax(1) == actual.argmax(1)) & clear
    return Parity(
        float((wanted - actual).abs().max() / scale),
        len(wanted),
        int(clear.sum()),
        int(agree.sum()),
    )


def settled(model: nn.Module, pictures: Tensor) -> nn.Module:
    """A copy in eval mode on the processor whose batch norms have seen pictures.

    As first made they leave the size of the maps to chance: no parity could be told from logits
    that are all but zero or beyond all numbers.
    """
    model = deepcopy(model).cpu().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    fresh = [m for m in norms if m.running_mean is not None and not m.num_batches_tracked]
    for norm in fresh:
        norm.train()
        norm.momentum = None
    if fresh:
        with torch.no_grad():
            model(pictures)
    return model.eval()

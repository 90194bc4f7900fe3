"""Fidelity: how near an exported network answers to the one that it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nasattn.train.metrics import Share


@dataclass(frozen=True)
class Limit:
    """What makes a model good."""

    max_diff: float  # at most: between two logits, as a share of the range of all of them
    agree: float  # at least: the share of pictures with the same highest logit


LIMITS: Mapping[str, Limit] = {
    "float32": Limit(1e-3, 1.0),  # kernels differ by some 1e-6 to 1e-4
    "float16": Limit(1e-2, 0.99),
    "int8": Limit(0.3, 0.95),
}


@dataclass(frozen=True)
class Fidelity:
    """Answers of an exported network beside eager torch's, on the same pictures."""

    max_diff: float
    agree: Share
    top1: Share  # of the exported network
    eager_top1: Share

    def fault(self, precision: str) -> str:
        """Why a model of such a precision is bad; "" where it is good."""
        limit = LIMITS[precision]
        if not self.max_diff <= limit.max_diff:
            return (
                f"logits differ by {self.max_diff:.2g} of their range, "
                f"allowed is {limit.max_diff:g} in {precision}"
            )
        if not self.agree.value >= limit.agree:
            return (
                f"{self.agree.right} of {self.agree.n} pictures get the same class, "
                f"{precision} needs {100 * limit.agree:g} %"
            )
        return ""

    def plain(self) -> dict[str, Any]:
        """As plain data."""

        def share(one: Share) -> dict[str, Any]:
            return {
                "right": one.right,
                "n": one.n,
                "share": one.value,
                "interval": list(one.interval),
            }

        return {
            "max_diff": self.max_diff,
            "agree": share(self.agree),
            "top1": share(self.top1),
            "eager_top1": share(self.eager_top1),
        }


def compare_answers(expected: Tensor, found: Tensor, labels: Tensor) -> Fidelity:
    """Logits (N, classes) of eager torch and of an exported network, and the true classes (N,)."""
    n, spread = len(expected), (expected.max() - expected.min()).clamp_min(1e-30)
    right, answers = expected.argmax(1), found.argmax(1)
    return Fidelity(
        float((found.double() - expected.double()).abs().max() / spread),
        Share(int((answers == right).sum()), n),
        Share(int((answers == labels).sum()), n),
        Share(int((right == labels).sum()), n),
    )

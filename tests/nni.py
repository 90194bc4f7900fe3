"""NNI 3.0 is a soft need: what uses it is skipped where it is absent."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest

NEEDS_NNI = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("nni", "tensorboard", "pytorch_lightning")),
    reason="NNI 3.0 is not installed (docs/nni.md says how)",
)


def some_quick(samplers: Iterable[str], quick: Iterable[str]) -> list[Any]:
    """Names of samplers, those that are not quick as slow, and NNI's where there is NNI."""
    return [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name not in quick) + [NEEDS_NNI] * name.startswith("nni"),
        )
        for name in samplers
    ]

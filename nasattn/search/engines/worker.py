"""What every process that evaluates does first."""

from collections.abc import Sequence

import torch

from nasattn.attention.plugins import load_plugin


def prepare(threads: int, plugins: Sequence[str]) -> None:
    """Set torch's threads and load the plug-ins that the search has."""
    torch.set_num_threads(threads)
    for target in plugins:
        load_plugin(target)

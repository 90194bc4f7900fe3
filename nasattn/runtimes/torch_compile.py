"""PyTorch's own compiler: kernels made for the network when it is first run, which takes long."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasattn.runtimes import torch_eager

if TYPE_CHECKING:
    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """As for eager torch: it is compiled where it runs."""
    torch_eager.convert(model, x, folder)


NETWORKS = 10_000  # in one process, at most


class Session(torch_eager.Session):
    """A module behind torch.compile; raises where a part of it cannot be compiled."""

    def ready(self, model: Any) -> Any:
        import torch

        torch._inductor.config.compile_threads = 1  # no workers beside what is timed
        # Networks of one class are one function to the compiler, that it would make anew 8 times.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = (
            NETWORKS
        )
        return torch.compile(model, fullgraph=True, dynamic=False)

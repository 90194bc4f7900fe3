"""Machine: the options that say what a command computes on."""

from typing import Annotated

import torch
from pydantic import Field

from nasattn.evaluate import check_device
from nasattn.spec import Spec


class Machine(Spec):
    """What a training runs on."""

    device: str = "cpu"
    threads: Annotated[int, Field(gt=0, le=1024)] = 1

    def use(self) -> None:
        """Check that it can be used; sets the threads. Raises StudyError."""
        check_device(self.device)
        torch.set_num_threads(self.threads)

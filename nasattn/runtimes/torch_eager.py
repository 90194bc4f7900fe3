"""PyTorch, layer by layer: what a network runs on where nothing is converted."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from array import array

    from torch import Tensor, nn


def convert(model: "nn.Module", x: "Tensor", folder: Path) -> None:
    """The module as it is, and the plug-ins that its classes are from.

    A pickle, which only the process reads that is started for it; it needs nasattn there.
    """
    import torch

    from nasattn.attention.plugins import PLUGINS

    torch.save(model, folder / "model.pt")
    targets = [t if ".py:" not in t else str(Path(t).absolute()) for t in PLUGINS.values()]
    (folder / "plugins.json").write_text(json.dumps(targets), encoding="utf-8")


class Session:
    """A module in eval mode, channels last, float32; on a GPU timed by its own events."""

    def __init__(self, folder: Path, shape: list[int], threads: int, device: str) -> None:
        import torch

        from nasattn.attention.plugins import load_plugin

        torch.set_num_threads(threads)
        # A GPU would round the inputs of products to 10 bits: logits then differ by some per cent.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        for target in json.loads((folder / "plugins.json").read_text(encoding="utf-8")):
            load_plugin(target)
        self.shape, self.device = shape, torch.device(device)
        # A whole module, just written by the process that started this one; no file of others.
        model = torch.load(folder / "model.pt", weights_only=False, map_location=self.device)
        self.model = self.ready(model.eval().to(memory_format=torch.channels_last))
        if self.device.type == "cuda":
            self.timed_run, self.peak_memory = self.time_by_events, self.peak_on_device

    def ready(self, model: Any) -> Any:
        """What is called with a picture."""
        return model

    def feed(self, numbers: "array[float]") -> None:
        import torch

        x = torch.frombuffer(numbers, dtype=torch.float32).reshape(self.shape).to(self.device)
        self.x = x.contiguous(memory_format=torch.channels_last)

    def run(self) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(self.x)

    def answer(self) -> list[float]:
        numbers: list[float] = self.run().float().flatten().tolist()
        return numbers

    def peak_on_device(self) -> int:
        """Bytes of the GPU's memory, the network's own among them."""
        import torch

        return torch.cuda.max_memory_allocated(self.device)

    def time_by_events(self) -> float:
        """Milliseconds on the device, from an idle device to its last kernel."""
        import torch

        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        start.record()
        self.run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

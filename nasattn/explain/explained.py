"""explain: all that is to be known of some pictures through the eyes of one network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nasattn.data.augment import Normalise, to_float
from nasattn.explain.attention_maps import AttentionMap, attention_maps
from nasattn.explain.faithfulness import Faithfulness, Progress, measure_faithfulness
from nasattn.explain.grad_cam import HeatMaps, at_rest, grad_cam

BATCH = 32  # pictures whose maps are made at once


@dataclass(frozen=True, eq=False)
class Explained:
    """N pictures, (N, 3, H, W) uint8, and what one network makes of them."""

    pictures: Tensor
    heat: HeatMaps
    attention: tuple[AttentionMap, ...] = ()
    faithfulness: Faithfulness | None = None


def explain(
    model: nn.Module,
    pictures: Tensor,
    normalise: Normalise,
    *,
    target: int | None = None,
    attention: bool = False,
    faithful: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explained:
    """Grad-CAM of uint8 pictures (N, 3, H, W); attention maps and faithfulness if asked for.

    `target` is a class, else the predicted one of each picture. The model computes where it is,
    and is left as it was; what is found is on the processor. Raises EvaluationError for a network
    that cannot be explained.
    """
    device = next(model.parameters()).device
    batches = [normalise(to_float(x.to(device))) for x in torch.split(pictures, BATCH)]
    heat = joined_heat([grad_cam(model, x, target=target) for x in batches])
    rows = joined_rows([attention_maps(model, x) for x in batches]) if attention else ()
    found = None
    if faithful:
        with at_rest(model):
            found = measure_faithfulness(
                lambda x: model(normalise(x.to(device))).softmax(1).cpu(),
                to_float(pictures),
                heat.maps,
                heat.targets,
                seed=seed,
                progress=progress,
            )
    return Explained(pictures, heat, rows, found)


def joined_heat(parts: Sequence[HeatMaps]) -> HeatMaps:
    """The maps of several batches as one."""

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts]).cpu()

    tensors = (joined(name) for name in ("maps", "targets", "predicted", "probabilities"))
    maps, targets, predicted, probabilities = tensors
    return HeatMaps(maps, targets, predicted, probabilities, parts[0].layer)


def joined_rows(parts: Sequence[Sequence[AttentionMap]]) -> tuple[AttentionMap, ...]:
    """The attention maps of several batches, a row a module."""
    return tuple(
        replace(
            rows[0],
            adds=any(row.adds for row in rows),
            channels=torch.cat([row.channels for row in rows]).cpu(),
            spatial=torch.cat([row.spatial for row in rows]).cpu(),
            fitted=torch.cat([row.fitted for row in rows]).cpu(),
        )
        for rows in zip(*parts, strict=True)
    )

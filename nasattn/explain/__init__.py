"""What a trained network looks at: Grad-CAM, attention maps, and whether they can be trusted."""

from nasattn.explain.attention_maps import AttentionMap, attention_maps
from nasattn.explain.explained import Explained, explain
from nasattn.explain.faithfulness import Faithfulness, measure_faithfulness
from nasattn.explain.grad_cam import HeatMaps, grad_cam

__all__ = [
    "AttentionMap",
    "Explained",
    "Faithfulness",
    "HeatMaps",
    "attention_maps",
    "explain",
    "grad_cam",
    "measure_faithfulness",
]

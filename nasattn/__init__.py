"""nasattn: architecture search and ablation for attention-based image classification CNNs."""

__version__ = "0.1.0"

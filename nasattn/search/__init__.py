"""Search: `spec` is a study as a value, `storage` keeps it, `run` asks, evaluates and tells."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasattn.search.cost_aware import CostAwareSampler

__all__ = ["CostAwareSampler"]


def __getattr__(name: str) -> Any:
    """The sampler, imported on use: it brings optuna and scipy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nasattn.search import cost_aware

    return getattr(cost_aware, name)

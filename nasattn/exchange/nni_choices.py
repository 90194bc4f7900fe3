"""A space's parameters as NNI has them: what may be chosen, by which of its shortcuts."""

from collections.abc import Callable, Mapping
from typing import Any

from nasattn.distributions import Categorical, FloatRange, IntRange
from nasattn.errors import ArchitectureError
from nasattn.exchange.nni_library import nni_part
from nasattn.space import Params, SearchSpace

# A distribution as (function of the package nni, its arguments after the label). NNI knows no whole
# numbers by ratio: it draws reals that are rounded, and `as_params` makes them whole.
Shortcut = tuple[str, tuple[Any, ...]]


def shortcut(distribution: Categorical | IntRange | FloatRange) -> Shortcut:
    """How NNI says a distribution."""
    if isinstance(distribution, Categorical):
        return "choice", (list(distribution.choices),)
    low, high = distribution.low, distribution.high
    if distribution.step is not None and not distribution.log:
        n = round((high - low) / distribution.step) + 1
        return "choice", ([low + i * distribution.step for i in range(n)],)
    if isinstance(distribution, IntRange):
        return "qloguniform", (low, high, 1)
    return "loguniform" if distribution.log else "uniform", (low, high)


def as_params(space: SearchSpace, sample: Mapping[str, Any]) -> Params:
    """The params that a sample of NNI stands for, one a parameter of the space."""
    return {
        p.name: int(sample[p.name]) if isinstance(p.distribution, IntRange) else sample[p.name]
        for p in space.free
    }


def as_sample(space: SearchSpace, params: Mapping[str, Any]) -> Params:
    """Params as a sample of NNI, which looks for a value of a grid as it has been given it."""
    sample = dict(params)
    for p in space.free:
        name, arguments = shortcut(p.distribution)
        if p.name in sample and isinstance(p.distribution, FloatRange) and name == "choice":
            sample[p.name] = min(arguments[0], key=lambda value: abs(value - params[p.name]))
    return sample


def as_mutable(space: SearchSpace, refuse: Callable[[Params], str | None], what: str) -> Any:
    """The space as NNI's MutableDict, by name.

    `refuse` says why the network of params may not be sampled, or None where it may. Raises
    StudyError where NNI is absent, `what` being what needs it.
    """
    with nni_part("nni", what) as nni, nni_part("nni.mutable", what) as mutable:
        choices = {}
        for p in space.free:
            name, arguments = shortcut(p.distribution)
            choices[p.name] = getattr(nni, name)(p.name, *arguments)
        return mutable.MutableDict({**choices, "": may_be_sampled(space, refuse, what)})


def buildable(space: SearchSpace) -> Any:
    """NNI's constraint that a sample's choices go together."""

    def refuse(params: Params) -> str | None:
        try:
            space.decode(params)
        except ArchitectureError as e:
            return str(e)
        return None

    return may_be_sampled(space, refuse, "a model space of NNI")


def may_be_sampled(space: SearchSpace, refuse: Callable[[Params], str | None], what: str) -> Any:
    """NNI's constraint that a sample's network is not refused."""
    with nni_part("nni.mutable", what) as mutable:
        base: Any = mutable.Constraint

        class MayBeSampled(base):  # type: ignore[misc]  # NNI has no types
            """Of all parameters together, so that every sampler of NNI draws again."""

            label = "may be sampled"

            def check_contains(self, sample: Mapping[str, Any]) -> Any:
                reason = refuse(as_params(space, sample))
                return None if reason is None else mutable.ConstraintViolation(reason)

        return MayBeSampled()

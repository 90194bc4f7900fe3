"""fit: which tensor of a file goes where in a model; load_into puts them there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from nasattn.errors import WeightsError, shown

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Fit:
    """Which tensor goes where."""

    sources: dict[str, str]  # name in the network -> name in the file
    by_name: bool  # else by order
    fresh: tuple[str, ...] = ()  # left as they are, for they are of another number of classes


def load_into(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, transfer: bool = False
) -> Fit:
    """Copy tensors into a model's parameters and statistics, as `fit` pairs them."""
    found = fit(model, tensors, where, transfer=transfer)
    state = model.state_dict()
    counters = {name: name for name in tensors if is_counter(name) and name in state}
    with torch.no_grad():
        for name, source in (found.sources | counters).items():
            state[name].copy_(tensors[source])
    return found


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, transfer: bool = False
) -> Fit:
    """Pair a model's parameters and statistics with tensors; `where` is what errors call these.

    By name, where the names are the same; else by order, where the kinds (the last part of a name)
    and the shapes are the same one by one. Counts of batches may be absent, and single numbers of
    a kind that the model has not (an accuracy, an epoch) are no weights. With `transfer`, the last
    layer stays fresh where it alone differs, and only in its number of classes.
    Raises WeightsError naming the first tensor that does not fit.
    """
    wanted = {n: t.shape for n, t in model.state_dict().items() if not is_counter(n)}
    kinds = {kind(n) for n in wanted}
    given = {
        n: t.shape
        for n, t in tensors.items()
        if not is_counter(n) and (len(t.shape) > 0 or kind(n) in kinds)
    }
    by_name = given.keys() == wanted.keys()
    last = set(last_layer(model)) if transfer else set()
    sources: dict[str, str] = {}
    fresh = []
    for name, source in zip_longest(wanted, wanted if by_name else given):
        if name and source and kind(name) == kind(source):
            if wanted[name] == given[source]:
                sources[name] = source
                continue
            if name in last and wanted[name][1:] == given[source][1:]:
                fresh.append(name)
                continue
        if not by_name and wanted.keys() & given.keys():  # then names were meant
            name = next((n for n in wanted if n not in given), None)
            source = None if name else next(n for n in given if n not in wanted)
        raise WeightsError(
            f"{where}: does not fit the network: wanted {_describe(name, wanted)}, found "
            f"{_describe(source, given)}; it has {len(given)} tensors, the network {len(wanted)}"
        )
    return Fit(sources, by_name, tuple(fresh))


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """WeightsError for tensors that no network can have: of odd numbers, or not finite ones."""
    for name, tensor in tensors.items():
        odd = tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in FLOATS)
        if odd:
            raise WeightsError(
                f"{where}: {shown(name)} is of type {_type(tensor.dtype)}; must be "
                f"{', '.join(map(_type, FLOATS))}"
            )
        if not tensor.isfinite().all():
            raise WeightsError(f"{where}: {shown(name)} holds values that are not finite")
        if kind(name) == "running_var" and (tensor < 0).any():
            raise WeightsError(f"{where}: {shown(name)} holds a variance below 0")


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_counter(name: str) -> bool:
    """Whether a tensor counts the batches that a batch norm has seen, which nothing reads."""
    return kind(name) == "num_batches_tracked"


def kind(name: str) -> str:
    """The last part of a tensor's name: weight, bias, running_mean, ..."""
    return name.rpartition(".")[2]


def last_layer(model: nn.Module) -> Iterator[str]:
    """Names of the parameters of the last layer (SqueezeNet's is a convolution): the classes'."""
    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    for parameter, _ in model.get_submodule(layers[-1]).named_parameters() if layers else ():
        yield f"{layers[-1]}.{parameter}"


def _describe(name: str | None, shapes: Mapping[str, torch.Size]) -> str:
    if name is None:
        return "nothing"
    return f"{shown(name)} ({'x'.join(map(str, shapes[name])) or 'one number'})"

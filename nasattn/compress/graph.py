"""Which channels hang together in a network, and what each is worth: by torch-pruning."""

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from nasattn.blocks.shortcut import ShortcutBlock
from nasattn.compress.hints import Fixed, Gate, Mixer, hint_of
from nasattn.compress.narrow import port
from nasattn.errors import StudyError, UnknownNameError
from nasattn.fit import last_layer
from nasattn.layers import AdaptiveFeatureFusion, GeM, GridPool, MeanPool

EXTRA = "pruning needs torch-pruning: pip install 'nasattn[prune]'"


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only go together: `members` as those of a Cut, a score a channel."""

    members: tuple[str, ...]
    blocks: int  # equal blocks that must lose the same number each
    scores: Tensor  # (width,), mean 1: comparable between groups

    @property
    def width(self) -> int:
        return len(self.scores)

    @property
    def name(self) -> str:
        """The first layer that makes the channels."""
        return self.members[0].rpartition(":")[0]

    @property
    def makers(self) -> list[str]:
        """The layers that make the channels."""
        ends = (member for member in self.members if member.endswith(":out"))
        return [member.removesuffix(":out") for member in ends]


class Dense(nn.Conv2d):
    """Stands for a Mixer: it has its weights and its shapes, though it computes something else."""

    def __init__(self, taps: Tensor, stride: int) -> None:
        out_chs, in_chs, n = taps.shape
        super().__init__(in_chs, out_chs, (n, 1), stride, bias=False)
        self.weight = nn.Parameter(taps.unsqueeze(3))

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight[:, :, :1], stride=self.stride)


def magnitude(p: int) -> Callable[[Any, int], Any]:
    return lambda tp, seed: tp.importance.GroupMagnitudeImportance(p=p)


def seeded(tp: Any, seed: int) -> Callable[[Any], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return lambda group: torch.rand(len(group[0].idxs), generator=rng)


# How channels are ranked: (the library, a seed) -> (its group -> a score a channel). `taylor` reads
# the gradients of the network's parameters.
IMPORTANCES: dict[str, Callable[[Any, int], Callable[[Any], Tensor]]] = {
    "l2": magnitude(2),
    "l1": magnitude(1),
    "taylor": lambda tp, seed: tp.importance.GroupTaylorImportance(),
    "fpgm": lambda tp, seed: tp.importance.FPGMImportance(),
    "random": seeded,
}


def library() -> Any:
    """torch-pruning; raises StudyError where it is absent."""
    try:
        import torch_pruning
    except ImportError as e:
        raise StudyError(EXTRA) from e
    return torch_pruning


def channel_groups(
    model: nn.Module, example: Tensor, *, importance: str = "l2", seed: int = 0
) -> list[ChannelGroup]:
    """The groups of channels that can be pruned, in the order of the network.

    example: (N, in_chs, H, W), which the network can be run on. What a Fixed module is coupled to,
    and the classes, are no group. Raises StudyError without torch-pruning.
    """
    if importance not in IMPORTANCES:
        raise UnknownNameError("importance", importance, known=IMPORTANCES)
    tp = library()
    twin, fixed = make_twin(model, example)
    score = IMPORTANCES[importance](tp, seed)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of the library, on parameters that the hints know
        graph = tp.DependencyGraph().build_dependency(twin, example, verbose=False)
        order = {name: i for i, (name, _) in enumerate(model.named_modules())}
        found = list(_groups(model, graph, score, fixed))
    return sorted(found, key=lambda group: order[group.name])


def _groups(
    model: nn.Module, graph: Any, score: Callable[[Any], Tensor], fixed: set[str]
) -> Iterator[ChannelGroup]:
    """The library's groups in our words."""
    names = {module: name for name, module in graph.model.named_modules()}
    classes = {f"{name.rpartition('.')[0]}:out" for name in last_layer(model)}
    for group in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
        members, blocks, free = [], 1, True
        for item in group:
            module = item.dep.target.module
            if module not in names:
                continue  # an operation, which has no channels of its own
            name = gate_name(names[module])
            side = _side(graph, module, item.dep.handler)
            free &= name not in fixed and f"{name}:{side}" not in classes
            if free:
                members.append(f"{name}:{side}")
                blocks = lcm(blocks, port(model.get_submodule(name), side)[2])
        if free and (scores := score(group)) is not None:
            yield ChannelGroup(tuple(members), blocks, scores.detach().cpu())


def _side(graph: Any, module: nn.Module, handler: Any) -> str:
    """Which channels a step of the library prunes; both, where they are the same."""
    pruner = graph.get_pruner_of_module(module)
    if pruner.prune_in_channels == pruner.prune_out_channels:
        return "both"
    return "in" if handler == pruner.prune_in_channels else "out"


STANDS_FOR_GATE = ".shortcut.stands_for_gate"


def gate_name(name: str) -> str:
    """The module for which one of the twin stands: a conditional block's shortcut, its gate."""
    if not name.endswith(STANDS_FOR_GATE):
        return name
    return name.removesuffix(STANDS_FOR_GATE) + ".gate"


def make_twin(model: nn.Module, example: Tensor) -> tuple[nn.Module, set[str]]:
    """A copy that a tracer understands, and which of its modules are Fixed.

    Modules with a hint become plain layers of the same shapes; gradients of weights come along.
    """
    widths = _widths(model, example)
    twin = copy.deepcopy(model).eval()
    for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
        its.grad = None if mine.grad is None else mine.grad.detach().clone()
    fixed = set()
    for name, module in list(model.named_modules()):
        if name not in widths or not _is_whole(twin, name):
            continue
        hint = hint_of(module)
        place: Any = twin.get_submodule(name)
        if isinstance(place, ShortcutBlock) and place.gate is not None:
            place.gate = None  # every picture runs; the gate reads the channels of the shortcut
            stand = nn.BatchNorm2d(widths[name][0], affine=False)
            place.shortcut = nn.Sequential()
            place.shortcut.add_module(STANDS_FOR_GATE.rpartition(".")[2], stand)
        elif isinstance(module, GeM | MeanPool | GridPool):
            # Only what pooling does to the order of channels counts: GeM's p is no channel's.
            side = module.side if isinstance(module, GridPool) else 1
            twin.set_submodule(name, nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten()))
        elif isinstance(module, AdaptiveFeatureFusion):
            weights = place.weights.detach()  # scalars of the terms, which are no channel's
            del place.weights
            place.weights = weights
        elif isinstance(hint, Mixer):
            twin.set_submodule(name, _dense(hint, module))
        elif isinstance(hint, Fixed) or (hint is None and name.rpartition(".")[2] in ATTENTION):
            fixed.add(name)
            in_chs, out_chs = widths[name]
            twin.set_submodule(name, Dense(torch.ones(out_chs, in_chs, 1), _stride_of(module)))
        elif isinstance(hint, Gate):
            twin.set_submodule(name, nn.BatchNorm2d(widths[name][0], affine=False))
    return twin.eval(), fixed


ATTENTION = ("attention", "inner_attention")  # where a plug-in's module stands, which has no hint


def _stride_of(module: nn.Module) -> int:
    return int(getattr(module, "stride", 1))


def _is_whole(twin: nn.Module, name: str) -> bool:
    """Whether a module of the network is still in the twin: not a part of what was replaced."""
    try:
        twin.get_submodule(name)
    except AttributeError:
        return False
    return True


def _dense(hint: Mixer, module: nn.Module) -> Dense:
    with torch.no_grad():
        made = Dense(hint.taps(module, lambda p: p.detach()), hint.stride(module))
        if all(p.grad is not None for p in module.parameters()):
            made.weight.grad = hint.taps(module, _gradient).unsqueeze(3)
    return made


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@torch.no_grad()
def _widths(model: nn.Module, example: Tensor) -> dict[str, tuple[int, int]]:
    """Channels in and out of every module that runs."""
    widths: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            first = args[0]
            if isinstance(first, Tensor) and isinstance(out, Tensor):
                widths[name] = first.shape[1], out.shape[1]
            else:
                widths[name] = 0, 0

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if n]
    modes = {part: part.training for part in model.modules()}
    try:
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return widths

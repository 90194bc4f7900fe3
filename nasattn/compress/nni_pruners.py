"""prune_with_nni: NNI's pruners choose the channels, its speedup says where else they go."""

import copy
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from nasattn.compress.hints import Gate, Mixer, hint_of, is_depthwise
from nasattn.compress.narrow import Cut, Cuts
from nasattn.compress.prune import Pruned, check_ignored, is_in, narrowed, prune_by
from nasattn.compress.strands import find_strands, trace
from nasattn.errors import NasattnError, StudyError
from nasattn.exchange.nni_library import nni_part

BATCH = 8  # random pictures, by which the speedup finds out what a channel reaches

Losses = Callable[[nn.Module], Iterable[Tensor]]
Masks = dict[str, dict[str, Tensor]]  # layer -> parameter -> 1 where it stays


def _masks(pruner: Any) -> Masks:
    """The masks that an NNI pruner chooses; its model is left without its wrappers."""
    _, masks = pruner.compress()
    pruner.unwrap_model()
    return {
        layer: {name: mask.cpu() for name, mask in own.items() if mask is not None}
        for layer, own in masks.items()
    }


def _by_weights(name: str) -> Callable[..., Masks]:
    """The masks of a pruner that looks at weights alone."""
    return lambda nni, model, config, losses: _masks(getattr(nni, name)(model, config))


def _taylor(
    nni: Any, model: nn.Module, config: list[dict[str, Any]], losses: Losses | None
) -> Masks:
    """By the sum of (weight x gradient)^2 over the losses; the step that ends it moves nothing."""
    if losses is None:
        raise StudyError("nni-taylor: needs losses, whose gradients it reads")

    def train(model: nn.Module, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        for loss in losses(model):
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with nni_part("nni", "nni-taylor") as top, nni_part("nni.compression", "nni-taylor") as part:
        optimizer = top.trace(torch.optim.SGD)(model.parameters(), lr=0.0)
        evaluator = part.TorchEvaluator(train, optimizer, lambda batch, model: batch)
        return _masks(nni.TaylorPruner(model, config, evaluator, training_steps=1))


# By name: (nni.compression.pruning, model, configuration, losses) -> the masks that it chooses.
NNI_PRUNERS: dict[str, Callable[..., Masks]] = {
    "nni-l1": _by_weights("L1NormPruner"),
    "nni-fpgm": _by_weights("FPGMPruner"),
    "nni-taylor": _taylor,
}


def prune_with_nni(
    model: nn.Module,
    example: Tensor,
    *,
    pruner: str,
    ratio: float | None = None,
    target_macs: int | None = None,
    target_params: int | None = None,
    ignore: Sequence[str] = (),
    losses: Losses | None = None,
    seed: int = 0,
) -> Pruned:
    """A copy of a network without a share of its convolutions' channels, chosen by NNI 3.0.

    `pruner` is a name of NNI_PRUNERS; the rest is as in `prune`. `nni-taylor` reads the gradients
    of `losses`. What comes out is made of the record of cuts alone, and needs no NNI any more.
    Raises StudyError where NNI is absent, stops at a layer, or does what a record cannot say.
    """
    check_ignored(model, ignore)

    def choose(share: float) -> Cuts:
        how: dict[str, Any] = {"pruner": pruner, "ignore": ignore, "losses": losses, "seed": seed}
        return speed_up(model, example, share, **how)[0]

    return prune_by(
        choose, model, example, ratio=ratio, target_macs=target_macs, target_params=target_params
    )


def speed_up(
    model: nn.Module,
    example: Tensor,
    ratio: float,
    *,
    pruner: str,
    ignore: Sequence[str] = (),
    losses: Losses | None = None,
    seed: int = 0,
) -> tuple[Cuts, nn.Module]:
    """NNI's cuts as a record, and the network that it makes of a copy; both were found equal.

    Modules with a hint are one operation to NNI, which leaves them as they are: they are narrowed
    by the record.
    """
    twin = copy.deepcopy(model).eval()
    twin.zero_grad()
    batch = torch.zeros(BATCH, *example.shape[1:])
    with _one_line(twin, pruner):
        graph = trace(twin, batch)
    config = _config(graph, ratio, ignore)
    with (
        nni_part("nni.compression.pruning", pruner) as pruning,
        nni_part("nni.compression.speedup", pruner) as speedup,
        torch.random.fork_rng(devices=[]),
        redirect_stdout(StringIO()),  # the speedup prints
        _one_line(twin, pruner),
    ):
        torch.manual_seed(seed)
        masks = NNI_PRUNERS[pruner](pruning, twin, config, losses)
        run = speedup.ModelSpeedup(twin.cpu(), batch, masks, graph_module=graph)
        run.speedup_model()
    with _one_line(model, pruner):
        cuts = _record(model, run.node_infos)
        made = narrowed(model, cuts).eval()
        for name, module in made.named_modules():
            if hint_of(module) and not isinstance(module, nn.Conv2d):
                twin.set_submodule(name, copy.deepcopy(module))
        _check_same(made, twin)
    with _one_line(made, pruner), torch.no_grad():
        made(batch)
    return cuts, twin.eval()


def _config(graph: GraphModule, ratio: float, ignore: Sequence[str]) -> list[dict[str, Any]]:
    """What NNI is to prune: a group of layers for each strand whose channels may go."""
    config = [
        {
            "op_names": list(strand.layers),
            "sparse_ratio": ratio,
            "dependency_group_id": strand.layers[0],
            "internal_metric_block": strand.blocks,
        }
        for strand in find_strands(graph)
        if strand.is_free and not is_in(strand.layers, ignore)
    ]
    if not config:
        raise StudyError("prune: there is no layer whose channels can go")
    return config


def _record(model: nn.Module, steps: dict[Node, Any]) -> Cuts:
    """What NNI found out, in our words; layers that keep the same channels share a cut."""
    cuts: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for node, step in steps.items():
        if node.op != "call_module":
            continue
        name = str(node.target)
        module = model.get_submodule(name)
        before, after = steps[node.all_input_nodes[0]].output_masks, step.output_masks
        if isinstance(hint_of(module), Gate) and not torch.equal(_stays(before), _stays(after)):
            raise StudyError(f"{name} makes channels of others' remains, which no cut can say")
        for side, mask in _sides(module, before, after).items():
            stays = _stays(mask)
            if not stays.all():
                key = len(stays), tuple(stays.nonzero().flatten().tolist())
                cuts.setdefault(key, []).append(f"{name}:{side}")
    return tuple(
        Cut(members=tuple(dict.fromkeys(members)), width=width, kept=kept)
        for (width, kept), members in cuts.items()
    )


def _sides(module: nn.Module, before: Tensor, after: Tensor) -> dict[str, Tensor]:
    """The sides of a module that a cut can name, with NNI's masks of what comes in and goes out."""
    hint = hint_of(module)
    one_by_one = isinstance(module, nn.Conv2d) and is_depthwise(module)
    if isinstance(hint, Gate) or isinstance(module, nn.BatchNorm2d) or one_by_one:
        return {"both": after}
    if isinstance(hint, Mixer) or isinstance(module, nn.Conv2d | nn.Linear):
        return {"in": before, "out": after}
    return {}


def _stays(mask: Tensor) -> Tensor:
    """Whether each channel of a map, or feature, stays: (C,), of a mask (1, C, H, W) or (1, C)."""
    return mask.transpose(0, 1).flatten(1).any(1)


def _check_same(made: nn.Module, sped_up: nn.Module) -> None:
    """Whether a network from the record has the shapes of the one that NNI made."""
    theirs = sped_up.state_dict()
    for name, tensor in made.state_dict().items():
        own, other = list(tensor.shape), list(theirs[name].shape)
        if own != other:
            raise StudyError(f"NNI makes {name} {other}, where its masks, and cuts, say {own}")


@contextmanager
def _one_line(model: nn.Module, pruner: str) -> Iterator[None]:
    """What NNI or torch.fx cannot see through, as one line that names the layer.

    They raise errors of every kind, which are about the network and not about the user's options.
    """
    try:
        yield
    except NasattnError as e:
        raise StudyError(f"{pruner}: {e}; torch-pruning may do it") from e
    except Exception as e:
        *_, (frame, _) = traceback.walk_tb(e.__traceback__)
        if frame.f_globals.get("__name__", "").startswith("nasattn.compress."):
            raise  # a bug of ours
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise StudyError(
            f"{pruner}: NNI cannot prune this network; it stops at {_place(model, e)}: {reason}; "
            "torch-pruning may do it"
        ) from e


def _place(model: nn.Module, error: Exception) -> str:
    """The module at which it went wrong: of the last frame that looks at one."""
    names = {module: name for name, module in model.named_modules()}
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node, module = frame.f_locals.get("node"), frame.f_locals.get("self")
        if isinstance(node, Node):
            stack = node.meta.get("nn_module_stack") or {"": ""}
            found = str(node.target) if node.op == "call_module" else next(reversed(stack))
        elif isinstance(module, nn.Module) and names.get(module):
            found = names[module]
    return repr(found) if found else "no layer in particular"

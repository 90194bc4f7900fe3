"""Strands: the layers of a traced network that share their channels, whatever lies between."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node, Tracer
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._pytree import tree_leaves

from nasattn.compress.graph import ATTENTION
from nasattn.compress.hints import Fixed, Gate, Mixer, hint_of, is_depthwise
from nasattn.layers import GeM, GridPool, MeanPool


@dataclass(frozen=True)
class Strand:
    """Convolutions that make the same channels: those whose results are added, for instance."""

    layers: tuple[str, ...]
    blocks: int  # equal blocks that must lose the same number each
    is_free: bool  # whether its channels may go


class HintTracer(Tracer):
    """A tracer that does not look into pooling and what has a hint; see `trace`."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            isinstance(m, GeM | MeanPool | GridPool)
            or hint_of(m) is not None
            or _is_unknown(module_qualified_name, m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def path_of_module(self, mod: nn.Module) -> str:
        """A module's name; none for a slice of a Sequential, whose parts have theirs."""
        try:
            return super().path_of_module(mod)
        except NameError:
            return ""


class Sizes(Interpreter):
    """A run that keeps every value in which there is no tensor: sizes, and what is made of them."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.found: dict[Node, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "output" and not any(isinstance(x, Tensor) for x in tree_leaves(value)):
            self.found[n] = value
        return value


def trace(model: nn.Module, batch: Tensor) -> GraphModule:
    """The operations of a network on a batch, with their shapes; its modules are the model's.

    Sizes are numbers, as they are for such a batch. Modules with a hint are one operation each.
    """
    graph = GraphModule(model, HintTracer().trace(model))
    sizes = Sizes(graph)
    with torch.no_grad():
        sizes.run(batch)
    for node in graph.graph.nodes:
        node.args = map_arg(node.args, lambda n: sizes.found.get(n, n))
        node.kwargs = map_arg(node.kwargs, lambda n: sizes.found.get(n, n))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    ShapeProp(graph).propagate(batch)
    return graph


def find_strands(graph: GraphModule) -> list[Strand]:
    """The strands of a traced network, in its order; free are those tied to no Fixed module."""
    parent: dict[Node, Node] = {}

    def find(node: Node) -> Node:
        while parent.setdefault(node, node) is not node:
            node = parent[node]
        return node

    blocks: dict[Node, int] = {}

    def split(nodes: Iterable[Node], n: int) -> None:
        for node in nodes:
            blocks[node] = lcm(blocks.get(node, 1), n)

    tied = set()
    for node, module in _steps(graph):
        sources, hint = node.all_input_nodes, hint_of(module) if module else None
        if isinstance(hint, Mixer):
            split(sources, hint.blocks_in(module))
            split([node], hint.blocks_out(module))
        elif isinstance(module, nn.Linear) or _is_whole_conv(module):
            pass  # its channels are new ones
        else:
            if isinstance(hint, Gate):
                split([node], hint.blocks(module))
            if isinstance(hint, Fixed) or (module and _is_unknown(str(node.target), module)):
                tied |= {node, *sources}
            for source in sources:
                if _width(source) == _width(node) is not None:
                    parent[find(node)] = find(source)

    strands: dict[Node, list[str]] = {}
    for node, module in _steps(graph):
        if isinstance(module, nn.Conv2d):
            strands.setdefault(find(node), []).append(str(node.target))
    fixed = {find(node) for node in tied}
    return [
        Strand(
            tuple(layers),
            lcm(*(n for node, n in blocks.items() if find(node) is root)),
            root not in fixed,
        )
        for root, layers in strands.items()
    ]


def _steps(graph: GraphModule) -> Iterator[tuple[Node, nn.Module | None]]:
    """Every step of a graph, with its module where it is one's call."""
    for node in graph.graph.nodes:
        yield node, graph.get_submodule(node.target) if node.op == "call_module" else None


def _width(node: Node) -> int | None:
    """The channels of a step's result; None where it is no map or vector a picture."""
    shape: Any = getattr(node.meta.get("tensor_meta"), "shape", ())
    return int(shape[1]) if len(shape) > 1 else None


def _is_whole_conv(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d) and not is_depthwise(module)


def _is_unknown(name: str, module: nn.Module) -> bool:
    """Whether it stands in an attention's place and has no hint: a plug-in's module."""
    return name.rpartition(".")[2] in ATTENTION and hint_of(module) is None

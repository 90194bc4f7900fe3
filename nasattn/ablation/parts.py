"""The parts of a network that an ablation takes out and puts in."""

from collections.abc import Iterable, Mapping
from typing import Any

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.table import ATTENTIONS
from nasattn.errors import AblationError, UnknownNameError
from nasattn.paths import expand_path, get_path, is_active, set_path
from nasattn.spec import Spec


class PartSpec(Spec):
    """How a network looks without a part: dotted path -> value, `*` for every stage.

    `-eca` as an attention kind takes that one out of whatever is there (of lam it leaves lsa).
    A part that `needs` others says nothing without them.
    """

    without: dict[str, Any]
    needs: tuple[str, ...] = ()


ATTENTION = ("stem.attention.kind", "stages.*.attention.kind", "fusion.attention.kind")
SWITCHES: dict[str, PartSpec] = {
    "progressive": PartSpec(without={"progressive": False}),
    "run_share": PartSpec(without={"stages.*.run_share": 1.0}),
    "sk": PartSpec(without={"stages.*.conv": "plain"}),
    "splat": PartSpec(without={"stages.*.conv": "plain"}),
    "aff": PartSpec(without={"fusion.kind": "none"}),
    "aff_third_term": PartSpec(without={"fusion.terms": 2}, needs=("aff",)),
    "multi_scale": PartSpec(without={"fusion.kind": "none"}),
    "gem": PartSpec(without={"head.pooling": "avg"}),
    "hidden": PartSpec(without={"head.hidden": 0}),
    "dropout": PartSpec(without={"head.dropout": 0.0}),
}
# The value of the switched field that a part is the presence of, where a field has several.
NAMES_ITS_VALUE = {"sk", "splat", "aff", "multi_scale", "gem"}


def parts_of(arch: Architecture) -> dict[str, PartSpec]:
    """Every part of a network by itself: each attention, then the switches that are on."""
    specs = [arch.stem.attention, *(s.attention for s in arch.stages), arch.fusion.attention]
    kinds = dict.fromkeys(spec.kind for spec in specs if spec.kind != "none")
    single = dict.fromkeys(part for kind in kinds for part in ATTENTIONS[kind].parts or (kind,))
    found = {kind: PartSpec(without=dict.fromkeys(ATTENTION, f"-{kind}")) for kind in single}
    for name, part in SWITCHES.items():
        is_on = name not in NAMES_ITS_VALUE or name in values_at(arch, next(iter(part.without)))
        if is_on and without(arch, [part]) != arch:
            needs = tuple(found)[:1] if name == "progressive" else part.needs
            found[name] = part.model_copy(update={"needs": needs})
    return found


def without(arch: Architecture, parts: Iterable[PartSpec]) -> Architecture:
    """The network with some parts taken out. Raises ArchitectureError for a path that is none."""
    tree = arch.model_dump()
    for part in parts:
        for path, value in part.without.items():
            for place in expand_path(path, len(arch.stages)):
                if is_active(tree, place):
                    _take_out(tree, place, value)
    return parse_architecture(tree)


def values_at(arch: Architecture, path: str) -> list[Any]:
    """The values of a field in all its places."""
    return [get_path(arch, place) for place in expand_path(path, len(arch.stages))]


def _take_out(tree: dict[str, Any], path: str, value: Any) -> None:
    if not (isinstance(value, str) and value.startswith("-")):
        set_path(tree, path, value)
        return
    node: Any = tree
    for step in path.split(".")[:-1]:
        node = node[int(step)] if step.isdigit() else node[step]
    left = _kind_without(node["kind"], value[1:])
    if left != node["kind"]:
        kept = {k: v for k, v in node.items() if left in ATTENTIONS and _has(left, k)}
        set_path(tree, path, left)
        node.update(kept)


def _kind_without(kind: str, part: str) -> str:
    """What is left of an attention kind: `lsa` of `lam` without `eca`, `none` of `se` without."""
    if kind == part:
        return "none"
    left = tuple(p for p in ATTENTIONS[kind].parts if p != part) if kind in ATTENTIONS else ()
    if kind not in ATTENTIONS or left == ATTENTIONS[kind].parts:
        return kind
    if len(left) == 1:
        return left[0]
    return next((k for k, row in ATTENTIONS.items() if row.parts == left), "none")


def _has(kind: str, option: str) -> bool:
    return option in ATTENTIONS[kind].options.model_fields


def check_parts(arch: Architecture, parts: Mapping[str, PartSpec], base: str) -> None:
    """Refuse a part that the network does not have, and one that needs an unknown one."""
    for name, part in parts.items():
        if not name or "+" in name or name.startswith("-") or not name.isprintable():
            raise AblationError(f"part {name!r}: must be printable, without '+' or a leading '-'")
        if without(arch, [part]) == arch:
            raise AblationError(f"part {name!r}: {base} does not have it (nothing would change)")
        for needed in part.needs:
            if needed not in parts:
                raise UnknownNameError("part", needed, known=parts, where=f"parts.{name}.needs")
    for name in parts:
        needs, last = set[str](), {name}
        while last := {n for key in last for n in parts[key].needs} - needs:
            needs |= last
        if name in needs:
            raise AblationError(f"part {name!r}: needs itself")

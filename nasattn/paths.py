"""Dotted paths such as `stages.2.attention.kind`: reading and setting one field of a network."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nasattn.arch import Architecture, parse_architecture
from nasattn.attention.table import ATTENTIONS, all_options
from nasattn.errors import ArchitectureError, hint
from nasattn.parts import BareAttention, Part
from nasattn.spec import fields_of, spec_at


def replace_paths(arch: Architecture, values: Mapping[str, object]) -> Architecture:
    """`arch` with the fields at dotted paths (`stages.2.attention.kind`) set to new values."""
    tree = arch.model_dump()
    for path, value in values.items():
        set_path(tree, path, value)
    return parse_architecture(tree)


def expand_path(path: str, n_stages: int) -> tuple[str, ...]:
    """The places of a path: `stages.*.width` stands for that field of every stage."""
    if not path.startswith("stages.*."):
        return (path,)
    return tuple(path.replace("*", str(i), 1) for i in range(n_stages))


def _walk(tree: Mapping[str, Any], path: str) -> Iterator[tuple[type[Part], Any, str]]:
    """(part, its plain data, the next step) along a dotted path, list indices passed over."""
    part: type[Part] = Architecture
    node: Any = tree
    for step in path.split("."):
        if isinstance(node, list | tuple):
            if not step.isdigit() or int(step) >= len(node):
                raise ArchitectureError(
                    f"no field {path!r}: there are {len(node)} stages, 0 to {len(node) - 1}"
                )
            node = node[int(step)]
            continue
        if not isinstance(node, Mapping):
            raise ArchitectureError(f"no field {path!r}: {step!r} would be inside a plain value")
        own = step in fields_of(part)
        if not own and step not in (known := known_fields(part, [step])):
            raise ArchitectureError(f"no field {path!r}: {step!r} is unknown; {hint(step, known)}")
        yield part, node, step
        inner = spec_at(part, step) if own else None
        part = inner if inner and issubclass(inner, Part) else part
        node = node.get(step)


def known_fields(part: type[Part], asked: Iterable[str] = ()) -> list[str]:
    """Names of a part's fields in their order; for attention, the options of every kind too."""
    fields = list(fields_of(part))
    if issubclass(part, BareAttention):
        fields += all_options(set(asked) - set(fields))
    return fields


def is_active(tree: Mapping[str, Any], path: str) -> bool:
    """Whether the field at `path` means anything in an architecture's plain data."""
    return all(part.means(node, step) for part, node, step in _walk(tree, path))


def path_order(tree: Mapping[str, Any], path: str) -> tuple[int, ...]:
    """A sort key: fields in the order of their parts, what decides first, then by stage."""
    fields = [known_fields(part).index(step) for part, _, step in _walk(tree, path)]
    return (*fields, *(int(step) for step in path.split(".") if step.isdigit()))


def default_of(arch: Architecture, path: str) -> Any:
    """The default of the field at `path`; None where the network has no such stage or option."""
    parent, _, field = path.rpartition(".")
    part: Any = get_path(arch, parent) if parent else arch
    if part is None:
        return None
    cls: type[Part] = type(part)
    if field in fields_of(cls):
        return fields_of(cls)[field].default
    return None if part.kind == "none" else ATTENTIONS[part.kind].defaults.get(field)


def get_path(arch: Architecture, path: str) -> Any:
    """The value of one field; None where the network has no such stage."""
    value: Any = arch
    for step in path.split("."):
        if isinstance(value, tuple):
            if int(step) >= len(value):
                return None
            value = value[int(step)]
        elif isinstance(value, BareAttention) and step not in fields_of(type(value)):
            value = value.options.get(step)
        else:
            value = getattr(value, step)
    return value


def set_path(tree: dict[str, Any], path: str, value: object) -> None:
    """Set one field of an architecture's plain data; ArchitectureError when there is none.

    A new attention kind leaves the options of the old kind behind, but keeps the placement.
    """
    *_, (part, node, field) = _walk(tree, path)
    if issubclass(part, BareAttention) and field == "kind" and node[field] != value:
        for option in node.keys() - fields_of(part).keys():
            del node[option]
    node[field] = value

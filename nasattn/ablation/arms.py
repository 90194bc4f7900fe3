"""The arms of an ablation and what each is compared with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nasattn.ablation.designs import fraction
from nasattn.ablation.parts import PartSpec, check_parts, without
from nasattn.arch import Architecture, parse_architecture
from nasattn.errors import AblationError, UnknownNameError
from nasattn.paths import expand_path, get_path, is_active, set_path

BASE, PLAIN, CONTROL = "base", "plain", "control"
FACTORIAL = "factorial"  # the design whose arms are judged by its effects
MAX_ARMS = 64


@dataclass(frozen=True)
class Contrast:
    """An arm, the arm that it is compared with, and the design that asks for it."""

    arm: str
    reference: str
    design: str  # leave one out, add one in, ladder, factorial, swap, sweep, networks, capacity


@dataclass
class Design:
    """Arms under construction: networks by name, each once, and the contrasts between them."""

    base: Architecture
    parts: Mapping[str, PartSpec]
    arms: dict[str, Architecture] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    levels: dict[str, dict[str, str]] = field(default_factory=dict)  # of a factorial, by arm
    notes: list[str] = field(default_factory=list)  # what a reader of the table should know

    def __post_init__(self) -> None:
        self.arms[BASE] = self.base

    def with_parts(self, on: Iterable[str], *, rung: bool = False) -> str:
        """The arm that has some of the parts and lacks the others; made where it is not there.

        It is called `base` with all parts, `plain` with none, `-eca` without one (and what needs
        it), else `+eca+lsa`; a rung of a ladder always by what it has.
        """
        wanted = set(on)
        kept = [name for name in self.parts if name in wanted]
        left = [key for key in self.parts if key not in kept]
        arch = without(self.base, [self.parts[key] for key in left])
        name = "".join(f"+{key}" for key in kept)
        if not left or not kept:
            name = PLAIN if left else BASE
        elif len(kept) > 1 and set(left) == self.dependents(left[0]):
            lacking = f"-{left[0]}"
            name = name if rung and lacking not in self.arms else lacking
        return self.add(name, arch)

    def add(self, name: str, arch: Architecture) -> str:
        """Put in an arm; a network that stands under another name is refused."""
        for other, present in self.arms.items():
            if present == arch and other != name:
                raise AblationError(f"arms {other!r} and {name!r} are the same network")
            if present != arch and other == name:
                raise AblationError(f"two arms would be called {name!r}")
        self.arms[name] = arch
        if len(self.arms) > MAX_ARMS:
            raise AblationError(f"the design has over {MAX_ARMS} arms; take fewer parts or values")
        return name

    def at_resolution(self, resolution: int) -> "Design":
        """The arms for pictures of a size; refuses two that are the same network there."""
        adapted = Design(self.base.at_resolution(resolution), self.parts)
        for name, arch in self.arms.items():
            adapted.add(name, arch.at_resolution(resolution))
        adapted.contrasts, adapted.levels, adapted.notes = self.contrasts, self.levels, self.notes
        return adapted

    def lineages(self) -> dict[str, tuple[Architecture, ...]]:
        """arch_id of an arm -> the networks that it comes from: the base, ..., its reference."""
        return {
            arch.arch_id: tuple(self.arms[key] for key in self._kin(name))
            for name, arch in self.arms.items()
            if name != BASE
        }

    def _kin(self, name: str) -> list[str]:
        """The base, ..., what an arm's reference is first compared with, the arm's reference."""
        kin: list[str] = []
        while name != BASE:
            name = next((c.reference for c in self.contrasts if c.arm == name), BASE)
            if name in kin:
                raise AblationError(f"networks: {' and '.join(kin)} are compared in a circle")
            kin.insert(0, name)
        return kin

    def compare(self, arm: str, reference: str, design: str) -> None:
        """Ask for a contrast, once and one way round."""
        if arm == reference:
            raise AblationError(f"{design}: {arm!r} is compared with itself")
        if not any({c.arm, c.reference} == {arm, reference} for c in self.contrasts):
            self.contrasts.append(Contrast(arm, reference, design))

    def dependents(self, name: str) -> set[str]:
        """A part and those that say nothing without it."""
        found = {name}
        for _ in self.parts:  # what needs one that needs it, and so on
            found |= {key for key, part in self.parts.items() if found & {*part.needs}}
        return found

    def with_needs(self, name: str) -> set[str]:
        """A part and what it needs."""
        return {key for key in self.parts if name in self.dependents(key)}


def leave_one_out(design: Design) -> None:
    """The base without each part (and what says nothing without it), and without all of them."""
    for name in design.parts:
        kept = [key for key in design.parts if key not in design.dependents(name)]
        if len(kept) < len(design.parts):
            design.compare(design.with_parts(kept), BASE, "leave one out")
    if design.parts:
        design.compare(design.with_parts(()), BASE, "leave all out")


def add_one_in(design: Design) -> None:
    """The plain network with each part (and what that needs), against the same without it."""
    for name in design.parts:
        wanted = design.with_needs(name)
        design.compare(design.with_parts(wanted), design.with_parts(wanted - {name}), "add one in")


def ladder(design: Design, order: Sequence[str]) -> None:
    """Parts put in one after the other, each rung against the one before.

    What a part seems to give hangs on the rungs below it: that is the papers' habit, and its flaw.
    """
    for name in order:
        if name not in design.parts:
            raise UnknownNameError("part", name, known=design.parts, where="ladder")
        if order.count(name) > 1:
            raise AblationError(f"ladder: {name!r} is on it twice")
    for i, name in enumerate(order):
        if missing := [n for n in design.parts[name].needs if n not in order[:i]]:
            raise AblationError(f"ladder: {name!r} needs {missing[0]!r} on a rung below")
        below = design.with_parts(order[:i], rung=True)
        design.compare(design.with_parts(order[: i + 1], rung=True), below, "ladder")


def factorial(design: Design, runs: int | None = None) -> None:
    """Combinations of the parts that stand by themselves, all or `runs` of them; the others stay.

    What a fraction cannot tell apart becomes a note.
    """
    free = [name for name, part in design.parts.items() if not part.needs]
    design.parts = {name: design.parts[name] for name in free}
    plan = fraction(free, runs or 2 ** len(free))
    for row in sorted(plan.rows, key=lambda row: (sum(row), row)):
        out = {name for name, changed in zip(free, row, strict=True) if changed}
        arm = design.with_parts(name for name in free if name not in out)
        design.levels[arm] = {name: "off" if name in out else "on" for name in free}
        if arm != BASE:
            design.compare(arm, BASE, FACTORIAL)
    aliases = [" = ".join((term.name, *term.aliases)) for term in plan.terms if term.aliases]
    if aliases:
        design.notes.append(
            f"fraction: {len(plan.rows)} of {2 ** len(free)} combinations, resolution "
            f"{plan.resolution}; cannot be told apart: {', '.join(aliases)}"
        )


def compare_networks(
    design: Design, networks: Mapping[str, str], read: Callable[[str], Architecture]
) -> None:
    """Other networks, each against the network that it is named with, or the base."""
    for name, reference in networks.items():
        for each in (reference, name):
            if each not in design.arms:
                design.add(each, read(each))
        design.compare(name, reference, "networks")
        if networks.get(reference) == name:
            raise AblationError(f"networks: {name} and {reference} are compared in a circle")
    design.lineages()  # refuses circles


def swap(design: Design, field_path: str, values: Sequence[Any], kind: str = "swap") -> None:
    """The base with other values of a field wherever it stands, against the base."""
    tried = [(value, with_value(design.base, field_path, value)) for value in values]
    others = [(value, arch) for value, arch in tried if arch != design.base]
    if not others:
        raise AblationError(f"{field_path}: the base has that value; name others")
    for value, arch in others:
        name = f"{field_path.removeprefix('stages.*.')}={value}"
        design.compare(design.add(name, arch), BASE, kind)


def with_value(base: Architecture, path: str, value: Any) -> Architecture:
    """`base` with a field set wherever it means something.

    A new attention kind goes where the base has attention, or everywhere if it has none.
    """
    tree = base.model_dump()
    places = [p for p in expand_path(path, len(base.stages)) if is_active(tree, p)]
    if path.endswith("attention.kind"):
        places = [p for p in places if get_path(base, p) != "none"] or places
    if not places:
        raise AblationError(f"{path}: means nothing in the base network")
    for place in places:
        set_path(tree, place, value)
    return parse_architecture(tree)


def build_design(
    base: Architecture, parts: Mapping[str, PartSpec], name: str = "the base"
) -> Design:
    """A design without arms but the base; refuses parts that the base does not have."""
    check_parts(base, parts, name)
    return Design(base, dict(parts))

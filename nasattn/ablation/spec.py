"""AblationSpec: everything that an ablation is told, as one frozen value or one YAML file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from nasattn.ablation.arms import (
    Design,
    add_one_in,
    build_design,
    compare_networks,
    factorial,
    ladder,
    leave_one_out,
    swap,
)
from nasattn.ablation.flips import SEEDS_NEEDED
from nasattn.ablation.parts import PartSpec, parts_of
from nasattn.ablation.power import MAX_SEEDS
from nasattn.ablation.sequential import Sequential
from nasattn.arch import Architecture
from nasattn.errors import AblationError
from nasattn.files import slug
from nasattn.library import find_file, shipped
from nasattn.search.spec import StudyName, Threads, merge
from nasattn.search.storage import TRIAL
from nasattn.spec import parse, read_yaml
from nasattn.train.recipe import TrainingSpec

MIN_SEEDS = 2  # one has no spread
LOOK_EVERY = 2  # seeds
# The fields that each ask for a design of their own.
DESIGNS = ("ladder", "factorial", "fraction", "swap", "sweep", "networks")
SHORT = {"attention": "stages.*.attention.kind"}


class AblationSpec(TrainingSpec):
    """An ablation: of which network, in which arms, trained how and on how many seeds."""

    base: str
    description: str = ""
    name: StudyName | None = None  # default: ablate-BASE-DATA-DESIGN
    # none: every part that the base's own fields show
    parts: dict[str, PartSpec] = Field(default={})
    ladder: tuple[str, ...] = ()  # the order in which parts are put in, one on the other
    factorial: bool = False
    fraction: Annotated[int, Field(gt=1)] | None = None  # of a factorial: so many of its arms
    # dotted path -> other values of the base's field
    swap: dict[str, tuple[Any, ...]] = Field(default={})
    sweep: dict[str, tuple[Any, ...]] = Field(default={})  # the same for numbers: a response curve
    # other networks -> the network that each is compared with: `base`, or a name
    networks: dict[str, str] = Field(default={})
    control: bool = True  # an arm of the base's size without its parts
    seeds: Annotated[int, Field(ge=MIN_SEEDS, le=MAX_SEEDS)] = 6
    sequential: bool = False  # stop a comparison early where a look at its seeds settles it
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None  # top-1: smaller is no difference
    device: str = "cpu"
    threads: Threads = 1

    @property
    def study_name(self) -> str:
        """The name in the storage: the own one, else ablate-BASE-DATA, and what was asked for."""
        base = self.base.removeprefix(TRIAL)
        base = slug(Path(base).stem if base == self.base else base.replace("/", "-"))
        asked = [name for name in (*DESIGNS, "sequential") if getattr(self, name)]
        words = ("ablate", base, slug(Path(self.data).absolute().stem), *asked)
        return self.name or "-".join(words)

    def design(self, read: Callable[[str], Architecture]) -> Design:
        """The arms and what each is compared with; raises AblationError where there are none.

        A plain ablation leaves out and adds in each part; a ladder, a factorial, swaps, sweeps or
        other networks come in its place. `read` gives the network of a name.
        """
        base = read(self.base)
        parts = self.parts or parts_of(base)
        design = build_design(base, parts, self.base)
        if self.factorial or self.fraction:
            factorial(design, self.fraction)
        if self.ladder:
            ladder(design, self.ladder)
        for path, values in self.swap.items():
            swap(design, full_path(path), values)
        for path, values in self.sweep.items():
            swap(design, full_path(path), values, "sweep")
        compare_networks(design, self.networks, read)
        if not any(getattr(self, name) for name in DESIGNS):
            leave_one_out(design)
            add_one_in(design)
        if not design.contrasts:
            raise AblationError(
                f"{self.base}: has no part to take out; --swap attention=se,eca puts some in"
            )
        return design

    @property
    def wants_control(self) -> bool:
        """Whether a control arm belongs to the design: other values and networks need none."""
        return self.control and not (self.swap or self.sweep or self.networks)

    def looks(self, design: Design) -> Sequential | None:
        """When a sequential ablation looks: after six seeds, every second one, and the last."""
        if not self.sequential:
            return None
        first = SEEDS_NEEDED
        if self.seeds <= first:
            raise AblationError(
                f"sequential: the first look is after {first} seeds, so it takes more; --seeds 12"
            )
        if self.margin is not None:
            raise AblationError("sequential: looks at effects alone; leave out the margin")
        if design.levels:
            raise AblationError("sequential: not for a factorial, which needs every seed whole")
        looks = (*range(first, self.seeds, LOOK_EVERY), self.seeds)
        return Sequential(looks, tuple((c.arm, c.reference) for c in design.contrasts))

    def settings(self, design: Design, base_id: str, data_hash: str) -> dict[str, Any]:
        """All that must be equal for stored runs to be gone on with.

        Seeds may be added, but not where looks were planned for a number of them.
        """
        kept = {"recipe", "resolution", "device", "data"}
        arms = {name: arch.arch_id for name, arch in design.arms.items()}
        own = self.model_dump(mode="json", include=kept)
        own |= {"seeds": self.seeds, "sequential": True} if self.sequential else {}
        against = sorted(f"{c.arm} against {c.reference}" for c in design.contrasts)
        facts = {"arms": arms, "base": base_id, "data_hash": data_hash}
        return own | facts | {"contrasts": dict.fromkeys(against, True)}


def full_path(path: str) -> str:
    """`attention` and `attention.groups` are short for those fields of every stage."""
    if path.startswith("attention."):
        return f"stages.*.{path}"
    return SHORT.get(path, path)


def load_ablation(
    base: str | None,
    file: str | None,
    changes: dict[str, Any],
    usual: Mapping[str, Any] | None = None,
) -> AblationSpec:
    """The ablation of a file, or of the study called like the base, or of the base's own parts.

    `usual` holds defaults that files and changes override. Raises UnknownNameError for a name that
    is no file, AblationError for what does not fit.
    """
    if base is None and file is None:
        raise AblationError("--base is missing: the network to take apart, as in --base lam")
    name = file if file is not None or base not in shipped("studies") else base
    data: dict[str, Any] = {}
    if name is not None:
        path = find_file("studies", name, what="study")
        data = read_yaml(path, AblationError)
        if "space" in data:
            raise AblationError(f"{path}: is a search; `nasattn search --study {name}` runs it")
        parse(AblationSpec, data, str(path), AblationError)
        if any(design in changes for design in DESIGNS):  # it comes in the place of the file's
            data = {key: value for key, value in data.items() if key not in DESIGNS}
    given = {"base": base} if base is not None else {}
    merged = merge(dict(usual or {}) | data, given | changes)
    return parse(AblationSpec, merged, "options", AblationError)

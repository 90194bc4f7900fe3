"""AblationSpec: everything that an ablation is told, as one frozen value or one YAML file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nasattn.ablation.arms import (
    Design,
    add_one_in,
    build_design,
    factorial,
    ladder,
    leave_one_out,
    swap,
)
from nasattn.ablation.parts import PartSpec, parts_of
from nasattn.arch import Architecture
from nasattn.errors import AblationError
from nasattn.files import slug
from nasattn.library import find_file, shipped
from nasattn.search.spec import Threads, merge
from nasattn.spec import Spec, parse, read_yaml
from nasattn.train.recipe import Recipe, from_named

MIN_SEEDS = 2  # one has no spread
SHORT = {"attention": "stages.*.attention.kind"}


class AblationSpec(Spec):
    """An ablation: of which network, in which arms, trained how and on how many seeds."""

    base: str
    description: str = ""
    name: str | None = None  # default: ablate-BASE-DATA
    parts: dict[str, PartSpec] = Field(
        default={}
    )  # none: every part that the base's own fields show
    ladder: tuple[str, ...] = ()  # the order in which parts are put in, one on the other
    factorial: bool = False
    swap: dict[str, tuple[Any, ...]] = Field(
        default={}
    )  # dotted path -> other values of the base's field
    sweep: dict[str, tuple[Any, ...]] = Field(default={})  # the same for numbers: a response curve
    control: bool = True  # an arm of the base's size without its parts
    data: str = "digits"
    resolution: Annotated[int, Field(ge=8, le=1024)] | None = None
    recipe: Annotated[Recipe, BeforeValidator(from_named)] = Field(
        default="quick", validate_default=True
    )
    seeds: Annotated[int, Field(ge=MIN_SEEDS, le=1000)] = 6
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None  # top-1: smaller is no difference
    device: str = "cpu"
    threads: Threads = 1

    @property
    def study_name(self) -> str:
        """The name in the storage: the own one, else ablate-BASE-DATA."""
        base = slug(Path(self.base).stem)
        return self.name or f"ablate-{base}-{slug(Path(self.data).absolute().stem)}"

    def design(self, base: Architecture) -> Design:
        """The arms and what each is compared with; raises AblationError where there are none.

        A plain ablation leaves out and adds in each part; a ladder, a factorial, swaps or sweeps
        come in its place.
        """
        parts = self.parts or parts_of(base)
        design = build_design(base, parts, self.base)
        if self.factorial:
            factorial(design)
        if self.ladder:
            ladder(design, self.ladder)
        for path, values in self.swap.items():
            swap(design, full_path(path), values)
        for path, values in self.sweep.items():
            swap(design, full_path(path), values, "sweep")
        if not design.contrasts:
            leave_one_out(design)
            add_one_in(design)
        if not design.contrasts:
            raise AblationError(
                f"{self.base}: has no part to take out; --swap attention=se,eca puts some in"
            )
        return design

    @property
    def wants_control(self) -> bool:
        """Whether a control arm belongs to the design: sweeps and swaps compare like with like."""
        return self.control and not (self.swap or self.sweep)

    def settings(self, design: Design, base_id: str, data_hash: str) -> dict[str, Any]:
        """All that must be equal for stored runs to be gone on with; seeds may be added."""
        kept = {"recipe", "resolution", "device", "data"}
        arms = {name: arch.arch_id for name, arch in design.arms.items()}
        own = self.model_dump(mode="json", include=kept)
        return own | {"arms": arms, "base": base_id, "data_hash": data_hash}


def full_path(path: str) -> str:
    """`attention` and `attention.groups` are short for those fields of every stage."""
    if path.startswith("attention."):
        return f"stages.*.{path}"
    return SHORT.get(path, path)


def load_ablation(base: str | None, file: str | None, changes: dict[str, Any]) -> AblationSpec:
    """The ablation of a file, or of the study called like the base, or of the base's own parts.

    Raises UnknownNameError for a name that is no file, AblationError for what does not fit.
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
    given = {"base": base} if base is not None else {}
    return parse(AblationSpec, merge(data, given | changes), "options", AblationError)

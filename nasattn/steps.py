"""Steps: what is done to a trained network, one after the other, as a part of a YAML file."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, SerializeAsAny, model_validator

from nasattn.errors import StudyError, UnknownNameError, shown
from nasattn.spec import Line, Name, Spec, parse, read_amount
from nasattn.train.recipe import Recipe, changed

START = "start"  # as a teacher: the weights that a pipeline begins with


Amount = Annotated[PositiveInt, BeforeValidator(read_amount)]


class Step(Spec):
    """Something that is done to a trained network."""

    step: ClassVar[str]

    def plain(self) -> dict[str, Any]:
        """As in a file."""
        return {"step": self.step} | self.model_dump(mode="json", exclude_defaults=True)


class Transfer(Step):
    """Train weights of other pictures on those of the road, from the last layer back."""

    step = "transfer"
    recipe: Annotated[Recipe, changed("transfer")] = Field(
        default="transfer", validate_default=True
    )


class Distil(Step):
    """Train on with the answers of trained networks beside the labels."""

    step = "distil"
    teacher: Annotated[tuple[Line, ...], Field(min_length=1)] = (START,)
    temperature: float | None = None
    weight: float | None = None
    features: float | None = None
    recipe: Annotated[Recipe, changed("finetune")] = Field(
        default="finetune", validate_default=True
    )


class Prune(Step):
    """Take channels away and train what is left."""

    step = "prune"
    ratio: float | None = None
    target_macs: Amount | None = None
    target_params: Amount | None = None
    pruner: Name | None = None
    importance: Name | None = None
    multiple: PositiveInt | None = None
    compete: Literal["group", "global"] = "group"
    ignore: tuple[Name, ...] = ()
    recipe: Annotated[Recipe, changed("finetune")] = Field(
        default="finetune", validate_default=True
    )

    @model_validator(mode="after")
    def _one_aim(self) -> "Prune":
        if sum(aim is not None for aim in (self.ratio, self.target_macs, self.target_params)) != 1:
            raise StudyError("needs one of ratio, target_macs and target_params")
        return self


class Qat(Step):
    """Train on as the network will answer in int8."""

    step = "qat"
    recipe: Annotated[Recipe, changed("qat")] = Field(default="qat", validate_default=True)


class Fold(Step):
    """Fold norms into the convolutions before them; after that nothing is trained any more."""

    step = "fold"


class Export(Step):
    """Write files for other runtimes; int8 is quantised by training pictures."""

    step = "export"
    to: Annotated[tuple[Name, ...], Field(min_length=1)] = ("onnx",)
    precision: Annotated[tuple[Name, ...], Field(min_length=1)] = ("float32", "int8")


STEPS: Mapping[str, type[Step]] = {
    cls.step: cls for cls in (Transfer, Distil, Prune, Qat, Fold, Export)
}


def read_step(value: Any) -> Step:
    """`{step: prune, ratio: 0.3}`, or the step's name alone."""
    fields = {"step": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("step"), str):
        raise StudyError(f"must be a step such as {{step: prune, ratio: 0.3}}, is {shown(value)}")
    name = fields["step"]
    if name not in STEPS:
        raise UnknownNameError("step", name, known=STEPS)
    return parse(STEPS[name], {k: v for k, v in fields.items() if k != "step"}, name, StudyError)


class Pipeline(Spec):
    """Steps, one after the other: each begins with what the one before it left."""

    description: str = ""
    optimize: tuple[Annotated[SerializeAsAny[Step], BeforeValidator(read_step)], ...] = ()

    @model_validator(mode="after")
    def _in_order(self) -> "Pipeline":
        kinds = [step.step for step in self.optimize]
        for i, (kind, step) in enumerate(zip(kinds, self.optimize, strict=True)):
            if kinds[0] == "transfer" and isinstance(step, Distil) and START in step.teacher:
                raise StudyError(
                    f"optimize.{i}: teacher {START} knows other pictures, as there is a transfer"
                )
            if kind == "transfer" and i:
                raise StudyError(f"optimize.{i}: transfer comes first or not at all")
            if kind not in ("fold", "export") and "fold" in kinds[:i]:
                raise StudyError(f"optimize.{i}: {kind} cannot follow fold, which ends training")
        return self

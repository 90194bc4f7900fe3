"""Recipe: how a network is trained, as a frozen value; RECIPES holds the papers' own."""

import hashlib
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from nasattn.errors import UnknownNameError
from nasattn.spec import Name, Resolution, Spec

Share = Annotated[float, Field(ge=0, le=1)]
MOST_EPOCHS = 100_000


class Augmentation(Spec):
    """Strengths of the random changes of a training picture; 0 leaves one out."""

    crop: Share = 0.0  # border to pad before a random cut, as a share of the side (CIFAR: 4 / 32)
    flip: Share = 0.0  # share of pictures that are mirrored, where a mirror image keeps its class
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees either way
    brightness: Share = 0.0
    contrast: Share = 0.0
    lighting: Share = 0.0  # shift along ImageNet's colour components, in eigenvalues


class Recipe(Spec):
    """Optimiser, schedule, augmentation, length. A recipe_id names all that acts on the weights."""

    name: Name = "own"
    epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS)]
    batch_size: PositiveInt = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "onecycle", "plateau", "step"] = "constant"
    step_epochs: PositiveInt = 30  # schedule step: lr x 0.1 after every so many epochs
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = Augmentation()
    train_size: PositiveInt | None = None  # train on so many pictures, the same share of each class
    # Epochs but the last are judged by so many of val-search, the same share of each class.
    watch_size: PositiveInt | None = None
    head_epochs: NonNegativeInt = 0  # the last layer alone is trained for so many epochs,
    thaw_epochs: NonNegativeInt = 0  # over so many more the others join it; 0: all at once
    quantise: Literal["none", "int8"] = "none"  # round in the forward pass as an int8 export does
    # How steps are computed (see tune.py): weights stay float32, and networks are judged by it.
    precision: Literal["float32", "bfloat16"] = "float32"  # of the passes; lower is autocast
    compile: Literal["none", "default", "reduce-overhead"] = "none"  # torch's modes; last: graphs

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        frozen = self.head_epochs + self.thaw_epochs
        if frozen > self.epochs:
            raise ValueError(
                f"head_epochs + thaw_epochs: must be at most the {self.epochs} epochs, is {frozen}"
            )
        if self.quantise != "none" and (self.precision, self.compile) != ("float32", "none"):
            raise ValueError(
                f"quantise {self.quantise}: takes precision float32 and compile none, not "
                f"{self.precision} and {self.compile}"
            )
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields of LATER are written where they are used: settings of before them stay equal."""
        fields = {k: field.default for k, field in type(self).model_fields.items() if k in LATER}
        written: dict[str, Any] = handler(self)
        return {k: v for k, v in written.items() if k not in LATER or v != fields[k]}

    @property
    def way(self) -> str:
        """How steps are computed, to end a line: empty, or `, bfloat16, compiled`."""
        words = {"none": "", "default": ", compiled", "reduce-overhead": ", as CUDA graphs"}
        low = "" if self.precision == "float32" else f", {self.precision}"
        return low + words[self.compile]

    def shortened(self, epochs: int, **changes: Any) -> "Recipe":
        """For so many epochs, in which all weights are trained from the first step on."""
        return self.model_copy(
            update={"epochs": epochs, "head_epochs": 0, "thaw_epochs": 0} | changes
        )

    def strengths(self, *, mirror: bool) -> dict[str, float]:
        """The augmentation by step; no flip where a mirrored picture would change its class."""
        return self.augmentation.model_dump() | ({} if mirror else {"flip": 0.0})

    def recipe_id(self, data_hash: str, *, mirror: bool) -> str:
        """12 hex digits for these settings on these pictures; the recipe's name is no part."""
        settings = self.model_dump_json(exclude_defaults=True, exclude={"name", "augmentation"})
        steps = sorted(self.strengths(mirror=mirror).items())
        text = f"{settings} {[step for step in steps if step[1]]} {data_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


LATER = frozenset({"watch_size", "head_epochs", "thaw_epochs", "quantise", "precision", "compile"})
CROP_AND_FLIP = Augmentation(crop=0.125, flip=0.5)
QUICK = Recipe(  # ours: a ranking in seconds, not a final accuracy
    name="quick",
    epochs=4,
    batch_size=32,
    optimizer="adamw",
    lr=4e-3,
    momentum=0.8,
    weight_decay=0.01,
    schedule="onecycle",
    augmentation=Augmentation(crop=0.0625, flip=0.5),
)

# The papers' recipes as far as they are printed (PAPERS.md, section 9); what a paper leaves open
# is said at its row.
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        QUICK,
        # ours: at a rate that deep networks take, for pictures harder than digits
        QUICK.model_copy(update={"name": "steady", "epochs": 8, "lr": 1.5e-3}),
        Recipe(  # ours: what pruning has cost is mostly won back in a few epochs
            name="finetune",
            epochs=5,
            batch_size=32,
            lr=0.01,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=CROP_AND_FLIP,
        ),
        Recipe(  # ours: pretrained weights on a small folder of other pictures
            name="transfer",
            epochs=15,
            batch_size=32,
            lr=0.01,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=CROP_AND_FLIP,
            head_epochs=3,
            thaw_epochs=6,
        ),
        Recipe(  # ours: `finetune` at a tenth of its rate, for weights that are good already
            name="qat",
            epochs=5,
            batch_size=32,
            lr=1e-3,
            weight_decay=1e-4,
            schedule="cosine",
            augmentation=CROP_AND_FLIP,
            quantise="int8",
        ),
        Recipe(  # paper 000; its augmentation is not stated: the usual crop and flip
            name="lam",
            epochs=200,
            weight_decay=4e-5,
            schedule="step",
            augmentation=CROP_AND_FLIP,
        ),
        Recipe(  # paper 002 on CIFAR; "reduced adaptively" is read as on a plateau
            name="lgam_cifar",
            epochs=160,
            weight_decay=5e-4,
            schedule="plateau",
            augmentation=CROP_AND_FLIP,
        ),
        Recipe(  # paper 002 on 20 ImageNet classes
            name="lgam_imagenet",
            epochs=90,
            batch_size=64,
            weight_decay=1e-4,
            schedule="step",
            augmentation=CROP_AND_FLIP,
        ),
        Recipe(  # paper 003: 1e-3 for 50 epochs, then 1e-4; the strengths are not stated
            name="resneskt",
            epochs=100,
            batch_size=8,
            lr=1e-3,
            schedule="step",
            step_epochs=50,
            augmentation=Augmentation(rotate=15, brightness=0.2, contrast=0.2),
        ),
        Recipe(  # paper 004: as AlexNet in 2012
            name="alexnet",
            epochs=90,
            lr=0.01,
            weight_decay=5e-4,
            schedule="plateau",
            augmentation=Augmentation(crop=0.125, flip=0.5, lighting=0.1),
        ),
    )
}


def from_named(value: Any, usual: str = "quick") -> Any:
    """Plain data of a recipe: `lam` or `{name: lam, epochs: 8}` start from a row of RECIPES.

    Without a name they start from the usual one; one that is called `own` starts from nothing.
    Raises UnknownNameError; the fields are checked where the data are parsed as a Recipe.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or value.get("name") == "own":
        return value
    name, changed = value.get("name", usual), value.get("augmentation", {})
    if not isinstance(name, str) or name not in RECIPES:
        raise UnknownNameError("recipe", name, known=[*RECIPES, "own"])
    base = RECIPES[name].model_dump()
    if isinstance(changed, dict):
        changed = base["augmentation"] | changed
    return base | value | {"augmentation": changed}


def changed(name: str) -> BeforeValidator:
    """For a field of plain data: what is given without a name changes the recipe `name`."""
    return BeforeValidator(partial(from_named, usual=name))


def usual_recipe(data: str) -> str:
    """The name of the recipe for pictures of a name, where nobody says another.

    A rate that is best on the digits breaks deep networks on most others: docs/train.md.
    """
    return "quick" if data == "digits" else "steady"


def _for_pictures(value: Any, info: ValidationInfo) -> Any:
    return from_named(value, usual_recipe(info.data.get("data", "digits")))


class TrainingSpec(Spec):
    """On which pictures networks are trained, and by which recipe."""

    data: str = "digits"
    resolution: Resolution | None = None  # default: by the data
    recipe: Annotated[Recipe, BeforeValidator(_for_pictures)] = Field(
        default={}, validate_default=True
    )

"""The values a parameter may take: Optuna's distributions in their short JSON form, typed."""

import math
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nasattn.spec import Spec

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Scalar = bool | int | float | str


class Categorical(Spec):
    """One of some values: `{type: categorical, choices: [se, eca]}`, or just `[se, eca]`."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Scalar, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices: {list(self.choices)} names a value twice")
        return self

    def values(self) -> tuple[Scalar, ...]:
        return self.choices

    def contains(self, value: object) -> bool:
        return value in self.choices

    def suggest(self, trial: "BaseTrial", name: str) -> Any:
        return trial.suggest_categorical(name, self.choices)


class IntRange(Spec):
    """Whole numbers: `{type: int, low: 8, high: 64, step: 8}`, both ends included."""

    type: Literal["int"]
    low: Annotated[int, Field(ge=-1_000_000_000)]
    high: Annotated[int, Field(le=1_000_000_000)]
    step: Annotated[int, Field(ge=1)] = 1
    log: bool = False

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high or (self.high - self.low) % self.step:
            raise ValueError(
                f"low {self.low} must reach high {self.high} in whole steps of {self.step}"
            )
        if self.log and (self.step > 1 or self.low < 1):
            raise ValueError("log: needs step 1 and low >= 1")
        return self

    def values(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def contains(self, value: object) -> bool:
        return value in self.values()

    def suggest(self, trial: "BaseTrial", name: str) -> Any:
        return trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log)


class FloatRange(Spec):
    """Real numbers: `{type: float, low: 1, high: 8}`; with `step` a grid, with `log` by ratio."""

    type: Literal["float"]
    low: Annotated[float, Field(allow_inf_nan=False)]
    high: Annotated[float, Field(allow_inf_nan=False)]
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        n_steps = 0.0 if self.step is None else (self.high - self.low) / self.step
        if n_steps > 1_000_000 or not math.isclose(n_steps, round(n_steps), abs_tol=1e-9):
            raise ValueError(
                f"low {self.low} must reach high {self.high} in whole steps of {self.step}, "
                "at most a million"
            )
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("log: needs low > 0 and no step")
        return self

    def values(self) -> tuple[Scalar, ...]:
        """Both ends (a check's sample of an endless set)."""
        return (self.low, self.high)

    def contains(self, value: object) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def suggest(self, trial: "BaseTrial", name: str) -> Any:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


def _list_is_categorical(data: Any) -> Any:
    return {"type": "categorical", "choices": data} if isinstance(data, list | tuple) else data


Distribution = Annotated[
    Annotated[Categorical | IntRange | FloatRange, Field(discriminator="type")],
    BeforeValidator(_list_is_categorical),
]


def draw(distribution: Categorical | IntRange | FloatRange, rng: Random) -> Scalar:
    """A uniform draw (also where the sampler would draw by ratio)."""
    if isinstance(distribution, FloatRange):
        low, high, step = distribution.low, distribution.high, distribution.step
        return (
            rng.uniform(low, high)
            if step is None
            else low + step * rng.randint(0, int((high - low) / step + 1e-9))
        )
    return rng.choice(distribution.values())

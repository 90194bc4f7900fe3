"""StudySpec: everything that a search is told, as one frozen value or one YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from nasattn.attention.plugins import plugin_digests
from nasattn.errors import StudyError, UnknownNameError
from nasattn.files import content_hash
from nasattn.files import slug as slug
from nasattn.library import find_file
from nasattn.objectives import Constraint, Objective, get_objective, parse_constraint
from nasattn.search.early_stop import EARLY_STOP
from nasattn.search.samplers import SAMPLERS
from nasattn.space import SearchSpace
from nasattn.spec import one_of, parse, read_seconds, read_yaml
from nasattn.train.recipe import TrainingSpec


def _printable(name: str) -> str:
    if not (name.strip() and name.isprintable() and len(name) <= 100):
        raise StudyError(f"{name!r}: must be 1 to 100 printable characters")
    return name


def _known_estimator(name: str | None) -> str | None:
    from nasattn.estimate.table import parts_of  # brings torch

    if name is not None:
        parts_of(name)
    return name


Threads = Annotated[int, Field(gt=0, le=1024)]
StudyName = Annotated[str, AfterValidator(_printable)]

TABLE = "table:"  # before the file of a tabular benchmark
# What means nothing with one.
TRAINING = ("data", "recipe", "early_stop", "latency_model", "device", "threads", "budget")
# How a search is run; of these `pending` alone decides what is proposed.
RUNNING = (
    "engine",
    "n_jobs",
    "pending",
    "trial_timeout",
    "max_retries",
    "cpus_per_trial",
    "gpus_per_trial",
    "address",
)


class StudySpec(TrainingSpec):
    """A search: which space, on which pictures, by which recipe, judged by what, for how long."""

    space: str = "mobile"
    name: StudyName | None = None  # default: SPACE-DATA, or SPACE-TABLE
    description: str = ""
    evaluator: str = "train"  # or table:FILE, which needs no data, recipe or device
    n_trials: Annotated[int, Field(gt=0, le=1_000_000)] = 16
    # for all of it, in place of n_trials: seconds, written 30m or 1h30m
    budget: Annotated[float | None, BeforeValidator(read_seconds)] = None
    sampler: Annotated[str, one_of("sampler", SAMPLERS)] = "cost_aware"
    early_stop: Annotated[str, one_of("early stopping rule", EARLY_STOP)] = "none"
    # asked before each training, and judged with it by early_stop, which then is rank by default
    estimator: Annotated[str | None, AfterValidator(_known_estimator)] = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    n_seeds: Annotated[int, Field(ge=0, le=100)] = 3  # over which the best are trained again
    finalists: Annotated[int, Field(ge=1, le=1000)] | None = None  # how many; see n_finalists
    control: bool = False  # whether a random search of the same budget stands beside it
    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("top1", "macs", "latency_ms")
    constraints: tuple[str, ...] = ()
    latency_model: str | None = None  # a file of `nasattn latency --fit`
    device: str = "cpu"
    threads: Threads = 1  # of the processor; on a busy machine one is faster than several
    engine: Literal["local", "ray"] = "local"
    n_jobs: Annotated[int, Field(ge=1, le=10_000)] | None = None  # at once; see search/engines
    pending: Annotated[int, Field(ge=1, le=20_000)] | None = None  # open at once; see Driver
    trial_timeout: Annotated[float, Field(gt=0)] | None = None  # seconds of one attempt
    max_retries: Annotated[int, Field(ge=0, le=100)] = 2  # of a trial that was lost
    cpus_per_trial: Annotated[float, Field(gt=0)] | None = None  # of Ray; default: threads
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0
    address: str | None = None  # of a Ray cluster that runs

    @model_validator(mode="before")
    @classmethod
    def _estimates_are_judged(cls, data: Any) -> Any:
        asked = isinstance(data, dict) and data.get("estimator") is not None
        return {"early_stop": "rank"} | data if asked else data

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if self.budget is not None:
            if self.table:
                raise StudyError("budget: means nothing with a table, of which nothing is trained")
            if "n_trials" in self.model_fields_set:
                raise StudyError("budget: may be given, or n_trials (--trials), but not both")
            if self.control:
                raise StudyError("budget: a control needs --trials, so that both have as many")
        return self

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(get_objective(name).name for name in names)
        if len(set(names)) < len(names):
            raise StudyError(f"{', '.join(names)}: each objective may be named once")
        return names

    @field_validator("constraints")
    @classmethod
    def _readable_constraints(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(parse_constraint(text)) for text in texts)

    @field_validator("evaluator")
    @classmethod
    def _known_evaluator(cls, name: str) -> str:
        if name != "train" and not (name.startswith(TABLE) and name != TABLE):
            raise UnknownNameError("evaluator", name, known=("train", f"{TABLE}FILE"))
        return name

    @property
    def study_name(self) -> str:
        """The name in the storage: the own one, else SPACE-DATA or SPACE-TABLE."""
        source = self.table or Path(self.data)
        return self.name or f"{slug(Path(self.space).stem)}-{slug(source.absolute().stem)}"

    @property
    def table(self) -> Path | None:
        """The file of the tabular benchmark; None where networks are trained."""
        return None if self.evaluator == "train" else Path(self.evaluator.removeprefix(TABLE))

    @property
    def estimators(self) -> tuple[str, ...]:
        """The parts of the estimator."""
        return tuple(self.estimator.split("+")) if self.estimator else ()

    @property
    def n_epochs(self) -> int:
        """Of a training; what is looked up has come to its end at once."""
        return 1 if self.table else self.recipe.epochs

    @property
    def folder_name(self) -> str:
        """The study's name as that of one folder."""
        return slug(self.study_name)

    @property
    def n_finalists(self) -> int:
        """How many of the best are trained again: one for every eight trials, six at least."""
        usual = self.n_trials if self.table else max(6, self.n_trials // 8)
        return self.finalists or usual

    def objective_rows(self) -> tuple[Objective, ...]:
        return tuple(get_objective(name) for name in self.objectives)

    def limits(self, space: SearchSpace) -> tuple[Constraint, ...]:
        """The study's own limits and those of its space."""
        texts = dict.fromkeys((*space.constraints, *self.constraints))
        return tuple(parse_constraint(text) for text in texts)

    def settings(self, space: SearchSpace, source: str, source_hash: str) -> dict[str, Any]:
        """All that must be equal for a stored study to be gone on with, as plain data.

        `source` is the name of the pictures, or of the table.
        """
        kind = "table" if self.table else "data"
        idle = {"name", "description", "n_trials", "n_seeds", "finalists", "control", "threads"}
        idle |= {"budget", "evaluator", "latency_model", *RUNNING}
        idle |= set(TRAINING) if self.table else set()
        # A study of before there were any goes on.
        idle = idle - {"early_stop"} if self.estimator else idle | {"estimator"}
        own = self.model_dump(mode="json", exclude=idle)
        where = space.model_dump(mode="json", exclude={"description"})
        facts = {"space": where, kind: source, f"{kind}_hash": source_hash}
        if self.pending not in (None, 1):  # proposals depend on it
            own["pending"] = self.pending
        if self.latency_model:  # proposals depend on what is in it
            own["latency_model"] = content_hash(Path(self.latency_model))
        code = plugin_digests(space.model_dump_json())
        return own | facts | ({"plugins": code} if code else {})


def load_study_spec(name: str | None, changes: dict[str, Any]) -> StudySpec:
    """A study file by name or path (None: all defaults), some of its fields changed.

    Of the file of a whole road it is the part `search`. Raises UnknownNameError for a name that is
    no file, StudyError for what does not fit.
    """
    if name is None:
        return parse(StudySpec, changes, "options", StudyError)
    path = find_file("studies", name, what="study")
    data = read_yaml(path, StudyError)
    data = data.get("search", data)
    parse(StudySpec, data, str(path), StudyError)  # what is wrong now, the file is to blame for
    return parse(StudySpec, merge(data, changes), "options", StudyError)


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with changes laid over it; a recipe's fields one by one, unless it is another one."""
    of_size = {"n_trials", "budget"}
    if of_size & changes.keys():  # another budget takes the place of the file's
        base = {k: v for k, v in base.items() if k not in of_size}
    merged = base | changes
    old, new = base.get("recipe"), changes.get("recipe")
    if old is not None and isinstance(new, dict) and "name" not in new:
        merged["recipe"] = ({"name": old} if isinstance(old, str) else old) | new
    return merged

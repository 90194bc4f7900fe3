"""How fast networks train by our loop, beside the one that everybody writes."""

import math
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field

from nasattn.ablation.statistics import student_interval
from nasattn.data import ImageData
from nasattn.errors import EvaluationError, NasattnError
from nasattn.spec import Resolution, Spec
from nasattn.train.fast.swap import own_kernels
from nasattn.train.loop import subset, train_model
from nasattn.train.plain import check_plain, train_plainly
from nasattn.train.recipe import Recipe, changed
from nasattn.zoo import ZOO, read_network

ALPHA = 0.05
LOOPS: dict[str, Callable[..., Any]] = {"plain": train_plainly, "ours": train_model}


def _known(name: str) -> str:
    """`resnet20` is `resnet20_cifar` where nothing else is called so."""
    name = name if name in ZOO or f"{name}_cifar" not in ZOO else f"{name}_cifar"
    read_network(name)
    return name


def _plain(recipe: Recipe) -> Recipe:
    check_plain(recipe)
    return recipe


class SpeedSpec(Spec):
    """Which networks are trained, on what, how often."""

    networks: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], Field(min_length=1)] = (
        *("lam", "mobilenet_v2", "resnet20_cifar"),
    )
    data: str = "digits"
    resolution: Resolution = 32
    recipe: Annotated[Recipe, changed("lam"), AfterValidator(_plain)] = Field(
        default="lam", validate_default=True
    )
    rounds: Annotated[int, Field(ge=3, le=1000)] = 7
    train_size: Annotated[int, Field(gt=0)] = 1280  # training pictures of a round, at most


@dataclass(frozen=True)
class Timing:
    """One epoch and its validation, in seconds of processor time."""

    seconds: float
    n: int  # pictures that were trained on
    own_kernels: bool = False


@dataclass(frozen=True)
class Row:
    """What the rounds of a network came to. Pictures trained on, a second of processor time."""

    network: str
    plain: float  # median over the rounds
    plain_range: tuple[float, float]  # lowest, highest
    ours: float
    ours_range: tuple[float, float]
    ratio: float  # ours to plain: the geometric mean of the rounds' ratios
    low: float | None  # Student's t interval of it, on logs; None where all ratios are equal
    high: float | None
    n: int  # rounds
    own_kernels: bool


def bench_training(
    spec: SpeedSpec,
    data: ImageData,
    on_round: Callable[[str, int], None] = lambda network, number: None,
) -> Generator[Row, None, None]:
    """A row a network. In each round both loops train one epoch from equal weights, in turns.

    Each loop has a process of its own, as ours changes how its process treats freed memory; one of
    the two works at a time, on one thread. `on_round` is told of each round, from 1; of the
    warm-up as 0. Raises EvaluationError where a training fails.
    """
    part = share_of(data, spec.train_size)
    recipe = spec.recipe.model_copy(update={"epochs": 1, "train_size": None, "watch_size": None})
    first = share_of(part, min(recipe.batch_size, len(part.train)))
    with ExitStack() as stack:
        asks = {loop: stack.enter_context(trainer(loop, recipe, first, part)) for loop in LOOPS}
        for network in spec.networks:
            rounds = []
            for number in range(spec.rounds + 1):
                on_round(network, number)
                order = [*asks] if number % 2 else [*reversed(asks)]
                found = {loop: asks[loop](network, warm_up=not number) for loop in order}
                rounds += [found] if number else []
            yield sum_up(network, [r["plain"] for r in rounds], [r["ours"] for r in rounds])


def share_of(data: ImageData, train_size: int) -> ImageData:
    """So many training pictures at most, and the same share of val-search."""
    n = min(train_size, len(data.train))
    n_val = max(round(len(data.val_search) * n / len(data.train)), 1)
    return replace(data, train=subset(data.train, n), val_search=subset(data.val_search, n_val))


def sum_up(network: str, plain: list[Timing], ours: list[Timing]) -> Row:
    """The row of paired timings, a pair a round."""
    rates = [[timing.n / timing.seconds for timing in timings] for timings in (plain, ours)]
    logs = np.log(rates[1]) - np.log(rates[0])
    ends = [None if end is None else math.exp(end) for end in student_interval(logs, ALPHA)]
    return Row(
        network,
        plain=statistics.median(rates[0]),
        plain_range=(min(rates[0]), max(rates[0])),
        ours=statistics.median(rates[1]),
        ours_range=(min(rates[1]), max(rates[1])),
        ratio=math.exp(logs.mean()),
        low=ends[0],
        high=ends[1],
        n=len(logs),
        own_kernels=all(timing.own_kernels for timing in ours),
    )


@contextmanager
def trainer(
    loop: str, recipe: Recipe, first: ImageData, part: ImageData
) -> Iterator[Callable[..., Timing]]:
    """A process that trains by one of LOOPS, as something to call: (network, warm_up) -> Timing."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])  # both take torch from it
    connection, theirs = context.Pipe()
    arguments = (theirs, loop, recipe, first, part)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    with deaf():
        process.start()
    theirs.close()

    def ask(network: str, *, warm_up: bool) -> Timing:
        try:
            connection.send((network, warm_up))
            answer = connection.recv()
        except (EOFError, OSError) as e:
            raise EvaluationError(f"{network}: the process that trains it ({loop}) has died") from e
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Timing)
        return answer

    try:
        yield ask
    finally:
        process.kill()
        process.join()
        connection.close()


@contextmanager
def deaf() -> Iterator[None]:
    """Processes started within never hear Ctrl-C, which is their parent's, who hears it after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    connection: Connection, loop: str, recipe: Recipe, first: ImageData, part: ImageData
) -> None:
    """What a trainer does: one epoch after the other, until nobody asks for more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `deaf` can do nothing
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):
        while True:
            network, warm_up = connection.recv()
            try:
                connection.send(time_epoch(network, loop, recipe, first if warm_up else part))
            except (NasattnError, RuntimeError, MemoryError) as e:
                connection.send(e)


def time_epoch(network: str, loop: str, recipe: Recipe, data: ImageData) -> Timing:
    """Train one epoch from the weights of seed 0; the processor time of this process."""
    torch.manual_seed(0)
    model = read_network(network).build(len(data.classes), data.resolution)
    start = time.process_time()
    LOOPS[loop](model, data, recipe, seed=0)
    seconds = time.process_time() - start
    n = len(data.train)
    with own_kernels(model) as used:
        return Timing(seconds, n - n % min(recipe.batch_size, n), used and loop == "ours")

"""What runs the networks of a search, as its options say."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from nasattn.attention.plugins import PLUGINS
from nasattn.errors import StudyError
from nasattn.search.engines.engine import INLINE, Engine
from nasattn.search.engines.worker import prepare
from nasattn.search.spec import StudySpec

RAY_ONLY = ("address", "cpus_per_trial", "gpus_per_trial")


@contextmanager
def open_engine(spec: StudySpec, travelling: int = 0) -> Iterator[Engine]:
    """The engine of a study; `travelling` bytes go to each of its workers.

    Raises StudyError for options that do not fit together, or a cluster that is not there.
    """
    ready = partial(prepare, spec.threads, tuple(map(absolute, PLUGINS.values())))
    if spec.engine == "ray":
        connect = import_connect()
        with connect(
            n_jobs=spec.n_jobs,
            cpus=spec.cpus_per_trial or spec.threads,
            gpus=spec.gpus_per_trial,
            address=spec.address,
            prepare=ready,
            timeout=spec.trial_timeout,
            store_bytes=travelling,
        ) as engine:
            yield engine
        return
    for name in RAY_ONLY:
        if name in spec.model_fields_set:
            raise StudyError(f"{name}: means nothing without --engine ray")
    if (spec.n_jobs or 1) == 1 and spec.trial_timeout is None:
        yield INLINE
        return
    from nasattn.search.engines.local import LocalEngine

    yield LocalEngine(spec.n_jobs or 1, prepare=ready, timeout=spec.trial_timeout)


def import_connect() -> Callable[..., AbstractContextManager[Engine]]:
    """Ray's way in; StudyError where it is not installed."""
    # What Ray says of workers that die, which we say in our own words; read when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from nasattn.search.engines.ray_tune import connect
    except ModuleNotFoundError as e:
        if (e.name or "").split(".")[0] not in ("ray", "pyarrow"):
            raise
        raise StudyError(f"engine 'ray' lacks {e.name}: pip install 'nasattn[ray]'") from e
    return connect


def absolute(target: str) -> str:
    """A plug-in's target as another working folder understands it."""
    place, _, name = target.rpartition(":")
    return f"{Path(place).absolute()}:{name}" if place.endswith(".py") else target

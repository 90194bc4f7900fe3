"""NNI 3.0, as this project uses it: loaded when it is needed, without a word, beside new torch."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import _pytree

from nasattn.errors import StudyError

# NNI asks for a filelock older than ours, so pip takes the two together with --no-deps alone. It is
# for the locks of its experiments, which `mend_locks` mends.
EXTRA = "needs NNI: pip install 'nasattn[nni]' and then pip install --no-deps nni==3.0"


@contextmanager
def nni_part(name: str, what: str) -> Iterator[Any]:
    """A module of NNI, as 'nni.mutable', that keeps quiet while it is used.

    NNI logs to standard output; that goes nowhere here, and its warnings with it. Raises
    StudyError where it is absent, `what` being what needs it.
    """
    part, log = load_nni(name, what), logging.getLogger("nni")
    handlers, propagate = log.handlers, log.propagate
    log.handlers, log.propagate = [logging.NullHandler()], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield part
    finally:
        log.handlers, log.propagate = handlers, propagate


def load_nni(name: str, what: str) -> Any:
    """A module of NNI; raises StudyError where it is absent, `what` being what needs it."""
    with warnings.catch_warnings(), mended_torch():
        warnings.simplefilter("ignore")  # of what NNI calls that is deprecated by now
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise StudyError(f"{what} {EXTRA} (there is no module {e.name!r})") from e


@contextmanager
def mended_torch() -> Iterator[None]:
    """torch as NNI's modules expect it when they are loaded.

    NNI teaches torch to walk through torch.fx's immutable lists and dicts. torch has long known
    them; the second lesson would replace the first in all of this process, without the paths that
    torch.export asks for. So it is not given.
    """
    register = _pytree._register_pytree_node
    _pytree._register_pytree_node = lambda *args, **kwargs: None
    try:
        yield
    finally:
        _pytree._register_pytree_node = register


def mend_locks() -> None:
    """Let NNI's experiments take their lock with a filelock of this time.

    NNI's lock notes an open file where filelock 3.11 looked for it; later ones look in `_context`,
    and wait for ever. Other locks are not touched.
    """
    with nni_part("nni.tools.nnictl.common_utils", "an experiment") as part:
        part.SimplePreemptiveLock._lock_file_fd = property(
            lambda lock: lock._context.lock_file_fd,
            lambda lock, fd: setattr(lock._context, "lock_file_fd", fd),
        )

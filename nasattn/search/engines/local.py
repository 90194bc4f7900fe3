"""LocalEngine: several processes of this machine, each of which may die without harm."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from nasattn.errors import StudyError
from nasattn.evaluate import Meter, Setting
from nasattn.search.engines.engine import Job, Source, Work, here

CLOSING = 2.0  # seconds for a worker to end by itself
PRELOADED = ["nasattn.evaluate"]  # once, by the server that forks the workers: torch takes seconds


def _nothing() -> None: ...


class LocalEngine:
    """Runs jobs in `n_jobs` worker processes, which end with this one however it ends.

    `prepare` is called in each worker first. An attempt that takes longer than `timeout` seconds is
    lost with its worker. Workers are forked from a clean server process where the system can.
    """

    name = "local"

    def __init__(
        self,
        n_jobs: int,
        *,
        prepare: Callable[[], None] = _nothing,
        timeout: float | None = None,
        start_method: str | None = None,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        method = start_method or ("forkserver" if "forkserver" in methods else "spawn")
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(PRELOADED)
        self.n_jobs, self.prepare, self.timeout = n_jobs, prepare, timeout

    def run(self, source: Source, work: Work) -> None:
        """Run a source's jobs until it is over. Raises StudyError where no worker can start."""
        idle: list[_Worker] = []
        busy: list[_Worker] = []
        stood = False  # whether a worker ever came so far that it could take a job
        try:
            while not source.is_over:
                while len(busy) < self.n_jobs and (job := source.next()):
                    with _without_ctrl_c(self.context.get_start_method()):  # until somebody has it
                        worker = self.worker(idle, work)
                        busy.append(worker)
                    worker.start(job, self.timeout)
                    source.started(job, worker.place)
                if not busy:
                    continue
                pause = min(worker.deadline for worker in busy) - time.monotonic()
                wait([w.connection for w in busy], None if pause == float("inf") else max(pause, 0))
                for worker in list(busy):
                    worker.listen(source)
                    stood = stood or worker.stands
                    if worker.death and not stood:
                        raise StudyError(f"no worker can be started: {worker.death}")
                    if worker.death and worker.job:
                        worker.end(source.lost, worker.death)
                    if worker.job is None:
                        busy.remove(worker)
                        idle += [worker] if worker.process.is_alive() else []
        finally:
            for worker in (*busy, *idle):
                worker.close()

    def worker(self, idle: "list[_Worker]", work: Work) -> "_Worker":
        """An idle one that lives, else a new one."""
        while idle:
            worker = idle.pop()
            if worker.process.is_alive():
                return worker
            worker.close()
        return _Worker(self.context, self.prepare, work)

    def meters(self, setting: Setting, objectives: Sequence[str]) -> Mapping[str, Meter]:
        return {}


class _Worker:
    """A process, and the job that it runs."""

    def __init__(self, context: Any, prepare: Callable[[], None], work: Work) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, work), daemon=True)
        self.process.start()
        theirs.close()
        self.place = f"{here().rpartition(':')[0]}:{self.process.pid}"
        self.stands = False  # whether it came so far that it could take a job
        self.death = ""  # how it died, in words
        self.job: Job | None = None
        self.timeout = float("inf")
        self.deadline = float("inf")

    def start(self, job: Job, timeout: float | None) -> None:
        self.job, self.timeout = job, timeout or float("inf")
        if self.stands:  # else the time runs from then on
            self.deadline = time.monotonic() + self.timeout
        try:
            self.connection.send(job)
        except OSError:
            return  # it died, and `listen` will find out

    def listen(self, source: Source) -> None:
        """Take what the worker says; one that hangs is killed."""
        while self.job and (said := self.hear()):
            self.take(source, *said)
        if self.job and not self.death and time.monotonic() >= self.deadline:
            self.kill()
            self.end(source.lost, "it took longer than --trial-timeout")

    def hear(self) -> tuple[Any, ...]:
        """What the worker says next; () where it says nothing, or has died."""
        try:
            return self.connection.recv() if self.connection.poll() else ()
        except (EOFError, OSError):
            self.process.join()
            self.death = _death(self.process.exitcode)
            return ()

    def take(self, source: Source, what: str, *content: Any) -> None:
        assert self.job
        if what == "stands":
            self.stands = True
            self.deadline = time.monotonic() + self.timeout
        elif what == "epoch":
            source.epoch(self.job, *content)
        elif what == "finished":
            self.end(source.finished, *content)
        else:
            self.end(source.lost, *content)

    def end(self, how: Callable[..., None], *content: Any) -> None:
        """The job's end."""
        job, self.job = self.job, None
        how(job, *content)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """End the process, by itself where it is idle; what it says until then does no harm."""
        if self.job is None:
            with suppress(OSError):
                self.connection.send(None)
            self.process.join(CLOSING)
        if self.process.is_alive():
            self.kill()
        self.connection.close()
        self.process.close()


@contextmanager
def _without_ctrl_c(method: str) -> Iterator[None]:
    """What is started here, the server too, never hears Ctrl-C, which is the driver's.

    The driver hears it afterwards; that its main thread blocks it is not enough, for another
    thread, of OpenMP perhaps, takes it then.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if method == "forkserver":
        resource_tracker.ensure_running()  # else the server starts it, which unblocks Ctrl-C
    heard: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    own = handler is not None and threading.current_thread() is threading.main_thread()
    if own:
        signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if own:
            signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, prepare: Callable[[], None], work: Work) -> None:
    """What a worker does: one job after the other, until nobody is there to give them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be kept from hearing it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()
    connection.send(("stands",))
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            job = None
        if job is None:
            return
        try:
            evaluation = work(job, lambda epoch: connection.send(("epoch", epoch)))
        except Exception as e:
            connection.send(("lost", f"bug: {e!r}", traceback.format_exc()))
        else:
            connection.send(("finished", evaluation))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _death(exitcode: int | None) -> str:
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        more = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"its worker was killed by {name}{more}"
    return f"its worker ended with status {exitcode}"

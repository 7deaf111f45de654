"""Work that splits, done by any `concurrent.futures.Executor`: processes of this machine, or Dask's, Ray's, MPI's.

    for job, result in results(work, jobs, executor): ...

A result must be a function of its job alone: then it does not matter who works, in which order, or how often. A job
that is lost with its worker is done again. What the work itself raises is no loss: it is brought back as a value,
whatever the executor, and raised here at once. An executor that can say how many workers it has, as Dask's can, is
asked while nothing comes: without any for too long, the work ends in an error that says so.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from typing import Any, TypeVar

from gendiff.errors import MissingExtra, RequestError, RequestWarning, WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 4
"""How often a job is given to an executor that loses it."""
AHEAD = 32
"""How many jobs are given to an executor that does not say how many workers it has."""
LOOK = 5.0
"""Seconds without a result after which an executor is asked for its workers, each time."""
FETCH = 30.0
"""Seconds that a result may take on its way before others are fetched first; twice as many the next time."""
PATIENCE = 300.0
"""Seconds without any worker after which the work is given up; `math.inf` where workers queue for hours."""


@dataclass(frozen=True)
class Raised:
    """What some work raised, with its traceback as text."""

    error: Exception
    text: str


def attempt(work: Callable[[Any], Any], job: Any) -> Any:
    """What a worker does: the result, or what was raised."""
    try:
        return work(job)
    except Exception as error:  # noqa: BLE001 - it is raised where the job comes from
        text = "".join(traceback.format_exception(error))
        try:
            pickle.dumps(error)
        except Exception:  # noqa: BLE001 - an error that cannot be sent is told in words
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Raised(error, text)


def results(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    executor: Executor | None = None,
    *,
    again: Callable[[Job, Result], Job | None] = lambda job, result: None,
) -> Iterator[tuple[Job, Result]]:
    """Each job with its result, as they are done.

    Few more jobs than there are workers are with the executor at a time. A job that the executor has lost (a worker
    that is gone, a broken connection, a cancelled future) is given to it again; if the executor itself is broken, what
    is left is done in this process. An executor with a method `workers() -> int` is watched, as is Dask's own.

    Args:
        work: A function that the workers can import.
        jobs: Its arguments.
        executor: Who works; None is this process.
        again: f(job, result) -> the job to do instead, for a result that does not count.

    Raises:
        WorkerError: For a job that was lost `TRIES` times; for an executor without any worker for `PATIENCE` seconds.
    """
    if executor is None:
        yield from ((job, work(job)) for job in jobs)
        return
    own = dask_jobs(executor)
    executor = own or executor
    watch = Watch(executor)
    left, function = iter(jobs), partial(attempt, work)
    ahead = 2 * getattr(executor, "_max_workers", AHEAD // 2)  # and not all: what a job holds is sent with it
    running: dict[Future[Any], tuple[Job, int]] = {}

    def give(job: Job, times: int) -> None:
        """Gives a job to the executor; a broken one works in this process."""
        try:
            future = executor.submit(function, job)
        except BrokenExecutor:
            future = Future()
            future.set_result(attempt(work, job))
        running[future] = job, times

    try:
        while True:
            for job in islice(left, max(ahead - len(running), 0)):
                give(job, 1)
            if not running:
                return
            done = wait(running, timeout=watch.every, return_when=FIRST_COMPLETED).done
            watch.look(bool(done))
            for future in done:
                job, times = running.pop(future)
                try:
                    result = future.result()
                except BrokenExecutor:
                    result = attempt(work, job)
                except Exception as error:
                    if times >= TRIES:
                        raise lost(times, error) from error
                    give(job, times + 1)
                    continue
                if isinstance(result, Raised):
                    result.error.add_note(f"Raised by a worker:\n{result.text}")
                    raise result.error
                instead = again(job, result)
                if instead is None:
                    yield job, result
                else:
                    give(instead, times)
    finally:
        for future in running:
            future.cancel()
        if own is not None:
            own.shutdown(wait=False)


class Watch:
    """Whether an executor has workers, looked at while it gives no results.

    Args:
        executor: Its method `workers()` says how many take work now; one without it is trusted.
    """

    def __init__(self, executor: Executor) -> None:
        found: Any = getattr(executor, "workers", None)
        self.workers: Any = found if callable(found) else None
        self.every = LOOK if self.workers else None
        self.since: float | None = None

    def look(self, found: bool) -> None:
        """Counts the workers, unless there was a result. Raises WorkerError where none was there for too long."""
        if self.workers is None:
            return
        now, reason = time.monotonic(), "it has none"
        try:
            some = found or self.workers() > 0
        except Exception as error:  # noqa: BLE001 - one that cannot be asked gives no results either
            some, reason = False, f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
        if some:
            self.since = None
        elif self.since is None:
            self.since = now
            text = f"No worker of the cluster answers ({reason}): it is waited for, up to {PATIENCE:g} s."
            warnings.warn(text, RequestWarning, stacklevel=3)
        elif now - self.since >= PATIENCE:
            fix = "Start workers (`dask worker SCHEDULER`, as many as died) and run the same again"
            raise WorkerError(f"No worker of the cluster was left for {now - self.since:.0f} s ({reason})", "one", fix)


def lost(times: int, error: BaseException) -> WorkerError:
    """What is said of a job that is lost whenever it is tried."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    fix = "Look into the workers' logs: too little memory for a piece is the usual reason"
    return WorkerError(f"A piece of the work was lost {times} times, the last time by {why}", "workers that live", fix)


class Jobs(Executor):
    """An executor of jobs that can be asked and do not tell, as submitit's are, looked at again and again.

        with Jobs(submitit.AutoExecutor("logs")) as pool: gendiff.draw(model, 10_000, executor=pool, chunk=512)

    Args:
        queue: Its `submit(function, *args)` gives a job with `done()`, `result()` and, perhaps, `cancel()`. What these
            raise is the loss of that job, but for `Later`: it is looked at again.
        every: Seconds between two looks.
    """

    def __init__(self, queue: Any, every: float = 1.0) -> None:
        if not callable(getattr(queue, "submit", None)) or not every > 0:
            raise RequestError(f"Jobs got {queue!r}, every={every!r}", "something with submit, and seconds above 0")
        self.queue, self.every = queue, every
        self.jobs: dict[Future[Any], Any] = {}
        self.over = threading.Event()
        self.watch = threading.Thread(target=self._look, daemon=True)
        self.watch.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs[future] = self.queue.submit(fn, *args, **kwargs)
        return future

    def _look(self) -> None:
        while not (self.over.wait(self.every) and not self.jobs):
            for future, job in list(self.jobs.items()):
                if ended(future, job):
                    del self.jobs[future]
            if self.over.is_set():
                time.sleep(self.every)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future in list(self.jobs) if cancel_futures else ():
            future.cancel()
        self.over.set()
        if wait:
            self.watch.join()


class Later(Exception):
    """A job that is done has no result to fetch yet."""


def ended(future: Future[Any], job: Any) -> bool:
    """Whether a job needs no more looks: it was cancelled, or what became of it is the future's now."""
    try:
        if future.cancelled():
            getattr(job, "cancel", lambda: None)()
            return True
        if not job.done():
            return False
        value, error = job.result(), None
    except Later:
        return False
    except Exception as raised:  # noqa: BLE001 - it is the future's
        value, error = None, raised
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    return True


@dataclass(frozen=True)
class Dask:
    """The client of a Dask cluster, as a queue of `Jobs`.

    Dask's own executor gives equal jobs one key, so that a job which failed cannot be tried again while its future is
    held, and its future never ends where a result is lost while it is fetched and cannot be made again.

    Args:
        client: A `distributed.Client`.
        options: Of its `submit`: workers, resources, retries.
    """

    client: Any
    options: dict[str, Any]

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Task:
        return Task(self.client.submit(fn, *args, **{**self.options, "pure": False}))

    def workers(self) -> int:
        """How many workers take work: those that are paused, for want of memory, do not."""
        if self.client.status != "running":
            raise ConnectionError(f"the scheduler is gone, the client is {self.client.status}")
        known = self.client.scheduler_info().get("workers", {}).values()
        count = len(self.client.nthreads())
        ready = sum(worker.get("status", "running") == "running" for worker in known)
        return ready if len(known) >= count else count  # some versions tell of few


@dataclass
class Task:
    """A future of Dask's. Its result may be lost while it is fetched, and made again by whoever is left."""

    future: Any
    seconds: float = FETCH

    def done(self) -> bool:
        return self.future.done()

    def cancel(self) -> None:
        self.future.cancel()

    def result(self) -> Any:
        try:
            return self.future.result(timeout=self.seconds)
        except TimeoutError as error:  # what the work itself raises comes as a value
            self.seconds *= 2
            raise Later from error


class Tasks(Jobs):
    """`Jobs` of Dask, which says how many workers there are."""

    def __init__(self, queue: Dask) -> None:
        super().__init__(queue, 0.05)

    def workers(self) -> int:
        return self.queue.workers()


def dask_jobs(executor: Executor) -> Tasks | None:
    """An executor of the same cluster, for one that `Client.get_executor` gave; None for any other."""
    module = sys.modules.get("distributed.cfexecutor")
    if module is None or not isinstance(executor, module.ClientExecutor):
        return None
    own: Any = executor
    return Tasks(Dask(own._client, dict(own._kwargs)))


def local(workers: int, method: str = "spawn") -> Executor | None:
    """Processes of this machine, each of one thread; None for none.

    Args:
        workers: How many.
        method: How they begin. "fork" is quick and goes wrong after threads or a GPU were used; "spawn" never does.
    """
    if not workers:
        return None
    context = get_context(method if method in get_all_start_methods() else None)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)


def begin_worker() -> None:
    """A worker leaves the signals that end the work to the process that began it, and ends when that is gone."""
    import torch

    torch.set_num_threads(1)
    leave_signals()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def leave_signals() -> None:
    """Ctrl-C is left to the process that began this one, and other signals end this one at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN if name == "SIGINT" else signal.SIG_DFL)


@contextmanager
def workers_of(workers: int, cluster: str | None, method: str = "spawn") -> Iterator[Executor | None]:
    """Who works for a command: so many local processes, the workers of a Dask cluster, or, for neither, nobody else.

    Args:
        workers: Local processes.
        cluster: The address of a Dask scheduler, tcp://host:8786, or its scheduler file, scheduler.json.
        method: As in `local`.

    Raises:
        RequestError: For both, or a cluster that does not answer.
        MissingExtra: For a cluster without the package distributed.
    """
    if workers and cluster:
        raise RequestError("--workers with --cluster", "one of them: local processes, or the workers of a cluster")
    if not cluster:
        pool = local(workers, method)
        try:
            yield pool
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        return
    try:
        distributed = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise MissingExtra("A Dask cluster", "distributed", "cluster") from error
    try:
        where = {"scheduler_file": cluster} if cluster.endswith(".json") else {"address": cluster}
        client = distributed.Client(**where)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(
            f"No Dask scheduler answers at {cluster} ({reason})", "the address that `dask scheduler` prints",
            "--cluster tcp://HOST:8786, or the file of `dask scheduler --scheduler-file FILE.json`",
        ) from error  # fmt: skip
    with client, client.get_executor() as pool:
        yield pool

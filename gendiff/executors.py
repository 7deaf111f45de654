"""Work that splits, done by any `concurrent.futures.Executor`: processes of this machine, or Dask's, Ray's, MPI's.

    for job, result in results(work, jobs, executor): ...

A result must be a function of its job alone: then it does not matter who works, in which order, or how often. A job
that is lost with its worker is done again. What the work itself raises is no loss: it is brought back as a value,
whatever the executor, and raised here at once.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from typing import Any, TypeVar

from gendiff.errors import MissingExtra, RequestError, WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 4
"""How often a job is given to an executor that loses it."""
AHEAD = 32
"""How many jobs are given to an executor that does not say how many workers it has."""


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
    is left is done in this process.

    Args:
        work: A function that the workers can import.
        jobs: Its arguments.
        executor: Who works; None is this process.
        again: f(job, result) -> the job to do instead, for a result that does not count.

    Raises:
        WorkerError: For a job that was lost `TRIES` times.
    """
    if executor is None:
        yield from ((job, work(job)) for job in jobs)
        return
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
            for future in wait(running, return_when=FIRST_COMPLETED).done:
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


def lost(times: int, error: BaseException) -> WorkerError:
    """What is said of a job that is lost whenever it is tried."""
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    fix = "Look into the workers' logs: too little memory for a piece is the usual reason"
    return WorkerError(f"A piece of the work was lost {times} times, the last time by {why}", "workers that live", fix)


class Jobs(Executor):
    """An executor of jobs that can be asked and do not tell, as submitit's are, looked at again and again.

        with Jobs(submitit.AutoExecutor("logs")) as pool: gendiff.draw(model, 10_000, executor=pool, chunk=512)

    Args:
        queue: Its `submit(function, *args)` gives a job with `done()`, `result()` and, perhaps, `cancel()`.
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
                if future.cancelled():
                    getattr(job, "cancel", lambda: None)()
                elif not job.done():
                    continue
                elif future.set_running_or_notify_cancel():
                    try:
                        future.set_result(job.result())
                    except Exception as error:  # noqa: BLE001 - it is the future's
                        future.set_exception(error)
                del self.jobs[future]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future in list(self.jobs) if cancel_futures else ():
            future.cancel()
        self.over.set()
        if wait:
            self.watch.join()


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

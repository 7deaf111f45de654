"""Work given to executors ends: with its results, or with an error that says who is missing."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from gendiff import executors
from gendiff.errors import RequestWarning, WorkerError
from gendiff.executors import Jobs, Later, results


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What some work gives or raises; work that does not end is a failure, and no wait for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised by who waits
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"the work did not end in {seconds} s"
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(executors, "LOOK", 0.02)
    monkeypatch.setattr(executors, "PATIENCE", 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RequestWarning)
        yield


class Leaving(Executor):
    """Its workers do some jobs and leave; some come back with a time, and do the rest.

    Args:
        stay: How many jobs are done at first.
        back: Seconds after which workers are there again.
        ask: What happens when workers are counted.
    """

    def __init__(self, stay: int, back: float = 1e9, ask: Callable[[], None] = lambda: None) -> None:
        self.stay, self.back, self.ask, self.counted = stay, time.monotonic() + back, ask, 0
        self.left: list[tuple[Future[Any], Any, Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.stay -= 1
        if self.stay >= 0:
            future.set_result(fn(*args))
        else:
            self.left.append((future, fn, args))
        return future

    def workers(self) -> int:
        self.ask()
        self.counted += 1
        if time.monotonic() < self.back:
            return 0
        for future, fn, args in self.left:
            future.set_result(fn(*args))
        self.left.clear()
        return 2


def test_an_executor_without_workers_ends_in_an_error() -> None:
    pool, got = Leaving(3), []
    with pytest.raises(WorkerError, match=r"was left for \d+ s \(it has none\).*Start workers"):
        within(5, lambda: got.extend(results(abs, range(-5, 0), pool)))
    assert pool.counted > 3 and all(future.cancelled() for future, *_ in pool.left)


def test_workers_that_cannot_be_counted_are_none() -> None:
    def refuse() -> None:
        raise ConnectionError("the scheduler is gone\nand more")

    with pytest.raises(WorkerError, match=r"\(ConnectionError: the scheduler is gone\)"):
        within(5, lambda: list(results(abs, [-1], Leaving(0, ask=refuse))))


def test_workers_that_come_back_go_on_and_their_absence_is_said_once() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = within(5, lambda: sorted(r for _, r in results(abs, range(-9, 0), Leaving(4, back=0.15))))
    assert found == list(range(1, 10))
    assert [w.category for w in told] == [RequestWarning] and "waited for, up to 0.3 s" in str(told[0].message)


def test_the_patience_begins_anew_when_workers_were_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gone for over half of it, back for a moment, gone again, thrice over."""

    monkeypatch.setattr(executors, "PATIENCE", 1.0)

    class Coming(Leaving):
        def workers(self) -> int:
            self.counted += 1
            if self.counted % 10:
                time.sleep(0.05)
                return 0
            if self.counted == 30:
                self.back = 0
                super().workers()
            return 1

    assert [r for _, r in within(20, lambda: list(results(abs, [-1], Coming(0))))] == [1]


def test_an_executor_that_gives_results_is_not_counted() -> None:
    pool = Leaving(100)
    assert len(within(5, lambda: list(results(abs, range(50), pool)))) == 50
    assert pool.counted == 0


def test_workers_that_are_slow_are_waited_for() -> None:
    """Longer than the patience, as long as they are there."""

    class Slow(Leaving):
        def workers(self) -> int:
            self.counted += 1
            if self.counted > 40:
                self.back = 0
                super().workers()
            return 1

    pool = Slow(0)
    since = time.monotonic()
    assert [r for _, r in within(20, lambda: list(results(abs, [-1], pool)))] == [1]
    assert time.monotonic() - since > 2 * executors.PATIENCE


class Job:
    """Told by a list what happens when it is asked: what is raised or given, one after the other."""

    def __init__(self, done: list[Any], result: list[Any]) -> None:
        self.answers = {"done": done, "result": result}

    def _next(self, name: str) -> Any:
        here = self.answers[name]
        value = here.pop(0) if len(here) > 1 else here[0]
        if isinstance(value, Exception):
            raise value
        return value

    def done(self) -> bool:
        return self._next("done")

    def result(self) -> Any:
        return self._next("result")


class Queue:
    def __init__(self, *jobs: Job) -> None:
        self.jobs = list(jobs)

    def submit(self, fn: Any, *args: Any) -> Job:
        return self.jobs.pop(0)


def test_a_job_that_cannot_be_asked_is_lost_alone() -> None:
    """The thread that asks lives on: before, one broken job left all others without an end."""
    broken, late = Job([OSError("no such queue")], [0]), Job([False, True], [Later(), Later(), 7])
    with Jobs(Queue(broken, late), 0.01) as pool:
        first, second = pool.submit(abs, 1), pool.submit(abs, 2)
        assert isinstance(first.exception(timeout=5), OSError)
        assert second.result(timeout=5) == 7


def test_a_job_is_given_anew_when_it_could_not_be_asked() -> None:
    with Jobs(Queue(Job([OSError("no such queue")], [0]), Job([True], [7])), 0.01) as pool:
        assert within(5, lambda: list(results(abs, [-7], pool))) == [(-7, 7)]

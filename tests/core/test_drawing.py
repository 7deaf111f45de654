"""Samples drawn by others are those of one process, to the bit, whoever is lost on the way."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gendiff
from gendiff import (
    DDPM,
    Average,
    FeynmanKac,
    GuidanceInterval,
    Model,
    Number,
    Reward,
    drawing,
)
from gendiff.cli import main
from gendiff.errors import RequestError, RequestWarning, WorkerError
from gendiff.executors import TRIES, Jobs, results
from gendiff.lazy import digest
from gendiff.spaces import leaves
from gendiff_images import Images

ROOT = Path(__file__).resolve().parents[2]
FASHION = ROOT / "weights" / "images_fashion.safetensors"


class Alone(Executor):
    """Does each job at once, from its bytes and in a process's stead: nothing is shared with who gave it.

    Args:
        fail: f(number of the job, how often it came) -> what happens to its future; None for nothing.
    """

    def __init__(self, fail: Any = lambda number, times: None) -> None:
        self.fail, self.times = fail, {}  # type: ignore[var-annotated]
        self.sizes: list[int] = []
        self.models: dict[str, Model] = {}

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        number = getattr(args[0], "number", args[0])
        self.times[number] = self.times.get(number, 0) + 1
        wrong = self.fail(number, self.times[number])
        if wrong is not None:
            future.set_exception(wrong)
            return future
        sent = pickle.dumps((fn, args))
        self.sizes.append(len(sent))
        here, drawing.models = drawing.models, self.models
        try:
            fn, args = pickle.loads(sent)  # noqa: S301 - as executors do
            future.set_result(pickle.loads(pickle.dumps(fn(*args))))  # noqa: S301
        finally:
            drawing.models = here
        return future


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of artifacts are equal to the bit."""
    pairs = [(list(leaves(x)), list(leaves(y))) for x, y in zip(a, b, strict=True)]
    return all(torch.equal(torch.as_tensor(p), torch.as_tensor(q)) for x, y in pairs for p, q in zip(x, y, strict=True))


@pytest.fixture(scope="module")
def model() -> Model:
    """An untrained network whose every weight counts, asked for a class and a number."""
    own = Images(size=8, classes=("a", "b", "c"), asked={"weight": Number("kg", mean=1.0, std=2.0)})
    made = Model.new(own, channels=(8, 16))
    for p in made.denoiser.parameters():  # heads begin at zero
        torch.nn.init.normal_(p, std=0.2)
    made.denoiser.eval()
    return made


def pictures(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))


REQUESTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "one value for each": {"label": ["a", None, "c", "b", "b", "a", "c"], "weight": [*range(6), None]},
    "guidance by sample": {"label": "a", "guidance": torch.linspace(1.5, 3, 7)},
    "guidance by condition": {"label": "a", "weight": 2.0, "guidance": {"label": 3.0, "weight": torch.arange(7.0)}},
    "an interval": {"label": "b", "guidance": GuidanceInterval(torch.linspace(1, 3, 7), 0.3, 3.0)},
    "a start for each": {"start": list(pictures(7)), "strength": 0.6},
    "one start": {"start": pictures(1)[0], "strength": 0.6},
    "particles": {"label": "c"},
    "noise on the way": {"sampler": DDPM(3), "corrected": False},
    "bfloat16": {"precision": torch.bfloat16},
}


def mean_of(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


@pytest.mark.parametrize("name", [*REQUESTS, "known parts", "a measurement"])
def test_pieces_are_those_of_one_process(model: Model, name: str) -> None:
    """Samples of 7 in batches of 2: pieces of one batch and of two, each sent alone, in any order."""
    what: dict[str, Any] = {"sampler": DDPM(3), **REQUESTS.get(name, {})}
    if name == "particles":
        what["sampler"] = FeynmanKac(DDPM(3), Reward(mean_of), 3)
    if name == "known parts":
        keep = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5
        what["given"] = gendiff.Given(pictures(7), keep)
    if name == "a measurement":
        what["given"] = model.measurement(Average(2), pictures(7)[..., ::2, ::2], 0.1)
    whole = model.sample(7, seed=5, batch=2, **what)
    assert len({tuple(x.flatten().tolist()) for x in whole}) == 7
    for chunk in (None, 4, 7):
        alone = Alone()
        assert same(gendiff.draw(model, 7, seed=5, batch=2, executor=alone, chunk=chunk, **what), whole)
        assert len(alone.times) == {None: 4, 4: 2, 7: 1}[chunk]
    assert same(gendiff.draw(model, 7, seed=5, batch=2, **what), whole)
    assert not drawing.models


def test_ragged_chains_with_what_is_asked_of_their_sites() -> None:
    model = gendiff.load(ROOT / "weights" / "proteins_structured.safetensors")
    what: dict[str, Any] = {
        "structure": ["H" * 44, "E" * 41, None, "L" * 42],
        "length": [None, None, 40, None],
        "steps": 2,
        "batch": 2,
    }
    found = gendiff.draw(model, 4, executor=Alone(), **what)
    whole = model.sample(4, **what)
    assert [len(chain.pos) if hasattr(chain, "pos") else len(chain) for chain in found] == [44, 41, 40, 42]
    assert digest(found) == digest(whole)


@dataclass(frozen=True)
class Brighter(Images):
    """Finishes its pictures."""

    def finish(self, artifacts: list[Tensor]) -> list[Tensor]:
        return [x + 1 for x in artifacts]


def test_raw_samples_come_beside_finished_ones() -> None:
    model = Model.new(Brighter(size=8), channels=(8,))
    what: dict[str, Any] = {"sampler": DDPM(1), "batch": 2}
    plain = gendiff.draw(model, 5, executor=Alone(), finished=False, **what)
    raw: list[Any] = []
    found = gendiff.draw(model, 5, executor=Alone(), raw=raw.extend, **what)
    assert (
        same(raw, plain)
        and same(found, [x + 1 for x in plain])
        and same(plain, model.sample(5, finished=False, **what))
    )


def test_a_piece_holds_its_own_samples_alone(model: Model) -> None:
    wide = Model.new(Images(size=32), channels=(8,))
    start = torch.rand(64, 1, 32, 32)
    pool = Alone()
    gendiff.draw(wide, 64, batch=1, sampler=DDPM(1), start=list(start), executor=pool)
    numbers = 4 * 32 * 32
    assert min(pool.sizes) < 4 * numbers  # the template, its start, and little else, of 64 times that
    draws = model.draws(7, label="a", batch=2)
    assert draws.select(2, 6).select(1, 3).begin == 3
    with pytest.raises(RequestError, match="samples 5 to 7 of 7"):
        draws.select(5, 8)


def test_a_worker_reads_the_model_where_it_is_or_is_sent_it_once(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path / "model.safetensors")
    large = path.stat().st_size
    what: dict[str, Any] = {"batch": 1, "sampler": DDPM(1), "label": "a"}
    whole = model.sample(5, **what)
    read = Alone()
    assert same(gendiff.draw(path, 5, executor=read, **what), whole)
    assert max(read.sizes) < large / 2 and len(read.models) == 1  # nobody was sent the model
    sent = Alone()
    assert same(gendiff.draw(model, 5, executor=sent, **what), whole)
    count = sum(size > large / 2 for size in sent.sizes)
    assert 1 <= count <= 5  # with those pieces that were on their way when it was found to be lacking
    assert same(gendiff.draw(model, 5, executor=sent, **what), whole)
    assert sum(size > large / 2 for size in sent.sizes) == count  # and not for the next samples
    changed = gendiff.load(path)
    with torch.no_grad():
        next(changed.denoiser.parameters()).add_(0.1)
    found = Alone()
    assert same(gendiff.draw(changed, 5, executor=found, **what), changed.sample(5, **what))
    assert not same(changed.sample(5, **what), whole)
    assert sum(size > large / 2 for size in found.sizes) >= 1  # the file holds another: its digest says so
    path.unlink()
    assert same(gendiff.draw(replaced(model, path), 5, executor=Alone(), **what), whole)


def replaced(model: Model, origin: Path) -> Model:
    out = Model(model.domain, model.denoiser, size=model.size, sampler=model.sampler)  # type: ignore[arg-type]
    out.origin = origin
    return out


LOST = [BrokenExecutor("the worker is gone"), ConnectionResetError("by peer"), CancelledError(), OSError("closed")]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_a_lost_piece_is_drawn_again(model: Model, error: Exception) -> None:
    what: dict[str, Any] = {"batch": 1, "sampler": DDPM(2), "seed": 2}
    whole = model.sample(6, **what)
    pool = Alone(lambda number, times: error if number % 2 and times < 3 else None)
    assert same(gendiff.draw(model, 6, executor=pool, **what), whole)
    broken = isinstance(error, BrokenExecutor)
    assert pool.times[1] <= (2 if broken else 4)  # what a broken executor has lost is drawn here


def test_a_piece_that_is_lost_again_and_again_is_given_up(model: Model) -> None:
    pool = Alone(lambda number, times: ConnectionResetError("by peer") if number == 2 else None)
    with pytest.raises(WorkerError, match=rf"lost {TRIES} times, the last time by ConnectionResetError: by peer"):
        gendiff.draw(model, 6, executor=pool, batch=1, sampler=DDPM(1))
    assert pool.times[2] == TRIES


class Refusing(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        raise ConnectionError("as a network may")


def test_what_the_model_raises_is_raised_at_once(model: Model) -> None:
    wrong = Model.new(Images(size=8), channels=(8,))
    wrong.denoiser.network = Refusing()
    for pool in (Alone(), ThreadPoolExecutor(2)):
        with pytest.raises(ConnectionError, match="as a network may") as caught:
            gendiff.draw(wrong, 6, executor=pool, batch=1, sampler=DDPM(1))
        assert "Raised by a worker" in caught.value.__notes__[0] and "in forward" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_is_told_in_words() -> None:
    class Odd(Exception):
        pass

    def work(job: int) -> int:
        raise Odd("of its own")

    with pytest.raises(RuntimeError, match="Odd: of its own"), ThreadPoolExecutor(1) as pool:
        list(results(work, [1], pool))


def test_pieces_arrive_in_order_and_are_told_once(model: Model) -> None:
    """Whoever is first: the last batch comes last, and one warning counts all."""
    got: list[Any] = []
    shares: list[float] = []
    late = threading.Event()

    class Turned(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            def work(*args: Any) -> Any:
                if args[0].number == 0:
                    late.wait(5)
                out = fn(*args)
                if args[0].number == 3 and not out.absent:
                    late.set()
                return out

            return super().submit(work, *args, **kwargs)

    what: dict[str, Any] = {"batch": 1, "sampler": DDPM(1)}
    with warnings.catch_warnings(), Turned(4) as pool:
        warnings.simplefilter("ignore", RequestWarning)
        found = gendiff.draw(model, 5, executor=pool, arrived=got.append, progress=shares.append, **what)
        assert same(found, model.sample(5, **what)) and [len(batch) for batch in got] == [1] * 5
    assert same([batch[0] for batch in got], found) and shares == sorted(shares) and shares[-1] == 1
    big = Model.new(Images(size=8, mean=0.5, std=1e-3), channels=(8,))
    for p in big.denoiser.parameters():
        torch.nn.init.normal_(p, std=1e4)
    with pytest.warns(RequestWarning) as told:
        gendiff.draw(big, 5, executor=Alone(), **what)
    with pytest.warns(RequestWarning) as alone:
        big.sample(5, **what)
    assert [str(w.message) for w in told] == [str(w.message) for w in alone]


def test_what_cannot_be_cut_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match=r"chunk=3 with batch=2.*chunk=4"):
        gendiff.draw(model, 8, batch=2, chunk=3)
    with pytest.raises(RequestError, match="n=0"):
        gendiff.draw(model, 0)


def test_jobs_are_given_a_few_at_a_time() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(2) as pool:
        for count, _ in enumerate(results(abs, jobs(), pool), 1):
            assert len(taken) <= count + 4
    assert len(taken) == 100


class Slow:
    """A queue of jobs that are done when they are asked for the third time."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def submit(self, fn: Any, *args: Any) -> Any:
        self.jobs.append(Job(fn, args))
        return self.jobs[-1]


class Job:
    def __init__(self, fn: Any, args: Any) -> None:
        self.fn, self.args, self.asked, self.stopped = fn, args, 0, False

    def done(self) -> bool:
        self.asked += 1
        return self.asked > 2

    def cancel(self) -> None:
        self.stopped = True

    def result(self) -> Any:
        if self.args[0] == -3 and self.fn is not abs:
            raise OSError("the node is gone")
        return self.fn(*self.args)


def test_jobs_that_do_not_tell_are_asked() -> None:
    queue = Slow()
    with Jobs(queue, 0.01) as pool:
        assert sorted(result for _, result in results(abs, [-1, -2, 4], pool)) == [1, 2, 4]
        with pytest.raises(WorkerError, match="OSError: the node is gone"):
            list(results(abs, [-3], pool))
        assert len(queue.jobs) == 3 + TRIES
        late = pool.submit(abs, 5)
        assert late.cancel()
    assert queue.jobs[-1].stopped
    with pytest.raises(RequestError, match="Jobs got"):
        Jobs(None)


@pytest.mark.slow
def test_jobs_of_submitit_draw_the_same(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit", reason="needs submitit")
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="local")
    executor.update_parameters(timeout_min=10)
    what: dict[str, Any] = {"steps": 1, "batch": 4}
    with Jobs(executor, 0.2) as pool:
        found = gendiff.draw(FASHION, 8, executor=pool, **what)
    assert same(found, gendiff.load(FASHION).sample(8, **what))


def test_processes_of_this_machine_draw_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped model, read by each process from its file; and the command's files."""
    call = ["sample", str(FASHION), "-n", "6", "--batch", "2", "--steps", "2", "--threads", "1"]
    assert main([*call, "--out", str(tmp_path / "one")]) == 0
    assert main([*call, "--out", str(tmp_path / "two"), "--workers", "2"]) == 0
    names = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    assert len(names) == 7
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    both = [*call, "--out", str(tmp_path / "three"), "--workers", "2", "--cluster", "tcp://localhost:1"]
    assert main(both) == 2 and "one of them" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    "how", [{"n": 2.0}, {"n": 0}, {"n": -1}, {"n": "2"}, {"n": 2, "batch": 1.5}, {"n": 2, "batch": 0}]
)
def test_counts_are_whole_and_positive(how: dict[str, Any]) -> None:
    model = Model.new(Images(size=8, channels=1), channels=(8,), blocks=1)
    with pytest.raises(RequestError, match=r"sample got n=.*whole numbers"):
        model.sample(**how, steps=1)
    assert len(model.sample(np.int64(2), batch=np.int32(1), steps=1)) == 2  # type: ignore[arg-type]

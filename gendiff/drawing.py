"""Samples drawn by many: `draw(model, n, executor=...)` is `model.sample(n)`, its work done by any executor.

    with ProcessPoolExecutor(8) as pool:
        samples = gendiff.draw("runs/mine", 10_000, executor=pool, label="frog", seed=0)

What is asked is planned once and cut into pieces of whole batches; each piece holds what is asked of its own samples
alone. The noise of a sample is keyed by its number, so a piece is the same wherever, whenever and however often it is
drawn: to the bit on machines of one kind, with as many threads. A worker reads the model from the file that it was
loaded from, if it finds it there and its digest is the same; else it says so, and is sent the model, once.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gendiff.errors import GendiffError, RequestError
from gendiff.executors import results
from gendiff.generation import Draws, finished, warn_of
from gendiff.loading import load
from gendiff.model import Model
from gendiff.modelfile import text_digest

KEPT = 2
"""Models that a worker keeps."""

models: dict[str, Model] = {}
"""Those of this process, by what names them; the one used last stands last."""


@dataclass(frozen=True)
class Piece:
    """Some of the samples, to be drawn by whichever process.

    Attributes:
        number: Of the piece.
        draws: What is asked of them.
        key: Names the model: unlike weights have unlike keys.
        path: The model's file; "" for none.
        model: The model, for a worker that lacks it.
        device: Where to draw.
        threads: Of the worker.
        finish: Whether the domain finishes its samples.
        raw: Whether samples are wanted as they were before, too.
    """

    number: int
    draws: Draws
    key: str
    path: str
    model: Model | None
    device: str
    threads: int
    finish: bool
    raw: bool


@dataclass(frozen=True)
class Made:
    """What became of a piece: artifacts, batch by batch, before and after the domain finished them, or `absent` for a
    worker that lacks the model.
    """

    raw: list[list[Any]]
    artifacts: list[list[Any]]
    odd: int = 0
    cut: int = 0
    absent: bool = False


def identity(model: Model) -> str:
    """A digest of a model's weights, all of its domain's own too, and its config; one of its own where it has none."""
    try:
        text = json.dumps(model.config())
    except GendiffError:
        return uuid.uuid4().hex
    return text_digest(model.digest + text)


def model_of(piece: Piece) -> Model | None:
    """The model of a piece; None for one that this process lacks."""
    key = f"{piece.key} {piece.device}"
    found = models.pop(key, None) or piece.model
    if found is None and piece.path:
        with contextlib.suppress(GendiffError, OSError):
            found = load(piece.path)
        if found is not None and identity(found) != piece.key:
            found = None
    if found is None:
        return None
    models[key] = found.to(piece.device)
    for old in list(models)[:-KEPT]:
        models.pop(old, None)
    return found


@contextlib.contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    """A number of threads, for a while: how sums are cut hangs on it."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def make(piece: Piece) -> Made:
    """Draws and decodes the samples of a piece."""
    model = model_of(piece)
    if model is None:
        return Made([], [], absent=True)
    raw: list[list[Any]] = []
    artifacts: list[list[Any]] = []
    domain, draws, done = model.domain, piece.draws, 0

    def arrived(singles: list[Any]) -> None:
        nonlocal done
        new = [domain.decode(x) for x in singles]
        if draws.given is not None:
            new = [domain.completed(x, draws.given, draws.begin + done + k) for k, x in enumerate(new)]
        done += len(singles)
        if domain.finishes and piece.finish:
            if piece.raw:
                raw.append(new)
            new = finished(domain, new)
        artifacts.append(new)

    with so_many_threads(piece.threads):
        drawn = model.drawn(piece.draws, arrived=arrived)
    return Made(raw, artifacts, drawn.odd, drawn.cut)


def draw(
    model: Model | str | Path,
    /,
    n: int,
    *args: Any,
    executor: Executor | None = None,
    chunk: int | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[float], None] | None = None,
    arrived: Callable[[list[Any]], None] | None = None,
    finished: bool = True,
    raw: Callable[[list[Any]], None] | None = None,
    **what: Any,
) -> list[Any]:
    """n new artifacts: those of `model.sample(n, *args, **what)`, to the bit, drawn by an executor's workers.

    Args:
        model: A model, or its file. Workers that find the file, or that of the model, in the same place read it there;
            others are sent the model.
        n: How many.
        args: As in `Model.sample`.
        executor: Who draws: `ProcessPoolExecutor`, Dask's (`Client.get_executor()`), any other; None is this process.
        chunk: Samples of a piece, a multiple of `batch`; one batch by default.
        threads: Of a worker, while it draws; as many as this process has by default, which the bits hang on.
        device: Where workers draw; where the model is by default.
        progress: Called with the share done.
        arrived: Called with the artifacts of each batch, in their order, as soon as all before them are there.
        finished: Whether the domain's `finish` acts on artifacts.
        raw: Called with each batch of artifacts before the domain finishes it, where it does, just before `arrived`.
        what: Everything else, as in `Model.sample`.

    Raises:
        RequestError: For something the domain cannot answer, or a chunk that is no whole number of batches.
        WorkerError: For a piece that is lost again and again. What the model itself raises is raised at once.
    """
    own = model if isinstance(model, Model) else load(model)
    draws = own.draws(n, *args, **what)
    chunk = draws.batch if chunk is None else chunk
    if chunk < 1 or (chunk % draws.batch and chunk < n):
        raise RequestError(
            f"draw got chunk={chunk} with batch={draws.batch}", "a multiple of the batch: pieces are whole batches",
            f"chunk={max(round(chunk / draws.batch), 1) * draws.batch}",
        )  # fmt: skip
    piece = Piece(
        0, draws, key=identity(own), path="" if own.origin is None else str(own.origin.resolve()),
        model=own if executor is None else None, device=str(own.device if device is None else device),
        threads=threads or torch.get_num_threads(), finish=finished, raw=raw is not None,
    )  # fmt: skip
    jobs = (
        replace(piece, number=k, draws=draws.select(at, min(at + chunk, n))) for k, at in enumerate(range(0, n, chunk))
    )
    artifacts: list[Any] = []
    waiting: dict[int, Made] = {}
    following, count, odd, cut = 0, 0, 0, 0
    try:
        for job, made in results(make, jobs, executor, again=with_model(own)):
            waiting[job.number] = made
            count, odd, cut = count + job.draws.n, odd + made.odd, cut + made.cut
            if progress is not None:
                progress(count / n)
            while following in waiting:
                here = waiting.pop(following)
                following += 1
                for i, new in enumerate(here.artifacts):
                    if raw is not None and here.raw:
                        raw(here.raw[i])
                    artifacts.extend(new)
                    if arrived is not None:
                        arrived(new)
    finally:
        for name in [name for name in models if name.startswith(piece.key)]:
            models.pop(name, None)  # this process is no worker, unless its own threads are
    warn_of(n, odd, cut)
    return artifacts


def with_model(model: Model) -> Callable[[Piece, Made], Piece | None]:
    """What is done instead of a piece whose worker lacked the model: the same, with the model."""
    return lambda piece, made: replace(piece, model=model) if made.absent else None

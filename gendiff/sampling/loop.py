r"""The one loop that samples: it reads a solver's rows and moves a state from noise to data.

    x ~ prior;   for each row:  evaluate, mix, move;   known parts are put back after each step of the grid

The loop holds no state between calls, draws noise only where a row injects some, and never looks at the values of a
tensor, so it neither waits for the device nor breaks a compiled graph.

What cannot be written as rows beforehand brings a loop of its own (`Loop`): steps that adapt to each sample, all steps
at once, particles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from gendiff.denoisers import (
    Denoise,
    Prediction,
    carried,
    clean,
    predict,
    refuse_previous,
    shift,
    takes_previous,
)
from gendiff.errors import RequestError, SamplerError
from gendiff.processes import Process
from gendiff.random import Increment, Noise
from gendiff.sampling.solvers import Row, Solver
from gendiff.spaces import State, map_state, tensors, widened


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each move: the move's number, how many there are, the time, state and prediction."""

    number: int
    total: int
    time: float
    state: State
    prediction: State


Callback: TypeAlias = Callable[[Progress], None] | None
"""What is called after each move, if anything."""


class Known(Protocol):
    """What is known of a sample, put back after each step of the grid; `gendiff.Given` is one."""

    def put(self, process: Process, x: State, s: float, noise: Noise) -> State:
        """x_s with its known sites in place."""
        ...


class Draw(NamedTuple):
    """One batch to draw: the arguments of `sample` that every sampler needs; see there."""

    denoiser: Denoise
    like: State
    noise: Noise
    cond: dict[str, Any]
    start: State | None = None
    callback: Callback = None

    def process(self) -> Any:
        """The denoiser's process, bound to the batch's mask."""
        return self.denoiser.process.masked(self.cond.get("mask"))

    def first(self, process: Process, t: float) -> State:
        """The state at the first time t: the given start, or a draw of the prior."""
        return process.prior(self.like, self.noise.fork("prior"), t) if self.start is None else self.start


class Loop(ABC):
    """A sampler with a loop of its own; a frozen dataclass, wherever a `Solver` may stand."""

    def select(self, rows: Any, device: Any = None) -> Loop:
        """The sampler for some of the samples, on a device: with what it holds for each of them."""
        return self

    @abstractmethod
    def draw(self, task: Draw) -> State:
        """One batch of samples, [B, ...]."""


def sample(
    denoiser: Denoise,
    like: State,
    *,
    solver: Solver | Loop | list[Row],
    noise: Noise,
    cond: dict[str, Any] | None = None,
    given: Known | None = None,
    start: State | None = None,
    callback: Callback = None,
) -> State:
    """Draws one batch of samples.

    Args:
        denoiser: Predicts the clean state.
        like: The shapes, dtype and device of the samples, [B, ...]; its values are not read. Samples of half precision
            are drawn in float32.
        solver: The table to follow, e.g. `Heun(18)`, a loop of its own kind, or rows that were written before, by
            `table(solver, process)`: with these the whole call is one graph for torch.compile(fullgraph=True).
        noise: The source of randomness; its index names the B samples.
        cond: Conditions [B, ...], with "mask" for padded batches.
        given: What is known of the sample.
        start: A state at the grid's first time, instead of a draw of the prior.
        callback: Called after each move.

    Returns:
        The state at the grid's last time, [B, ...].

    Raises:
        SamplerError: If parts are given to a sampler that has no grid to put them back on, or shapes do not agree.
    """
    cond, wide = cond or {}, widened(like)
    if any(a is not b for a, b in zip(tensors(wide), tensors(like), strict=True)):
        x = sample(
            denoiser, wide, solver=solver, noise=noise, cond=cond, given=given, start=start, callback=callback
        )  # fmt: skip
        return map_state(lambda part, want: part.to(want.dtype) if part.is_floating_point() else part, x, like)
    if start is not None:
        if isinstance(like, Mapping):
            denoiser.process.space.require("sample got as start", like, start)
        start = map_state(lambda part, want: part.to(want), start, like)
    for name, want, got in shapes(like, start, noise):
        if want != got:
            raise SamplerError(f"sample got {name} {got} for samples of {want}", "one entry for each sample", "")
    task = Draw(denoiser, like, noise, cond, start, callback)
    if isinstance(solver, Loop):
        refuse_previous(denoiser, repr(solver))
        if given is not None:
            raise SamplerError(
                f"{solver!r} got known parts to put back after each step of a grid, and has none",
                "a solver with a grid, or the known parts as a measurement",
                "model.sample(n, given=guidance.known(given, process))",
            )
        return solver.draw(task)
    process = task.process()
    rows = solver if isinstance(solver, list) else table(solver, denoiser.process)

    def first() -> State:
        x = task.first(process, rows[0].t)
        return x if given is None else given.put(process, x, rows[0].t, noise.fork("given").at(-1))

    return run(denoiser, process, rows, first(), noise=noise, cond=cond, given=given, callback=callback)


def run(
    denoiser: Denoise,
    process: Any,
    rows: list[Row],
    x: State,
    *,
    noise: Noise,
    cond: dict[str, Any],
    given: Known | None = None,
    callback: Callback = None,
    first: int = 0,
    past: Sequence[State] = (),
    previous: State | None = None,
) -> State:
    """Moves x through the rows; `process` is already bound to the batch's mask.

    A run may be cut after any row with `last` that no later row redoes: run(..., rows, x, first=k, past=[prediction]),
    with the state and the prediction that a callback saw after row k - 1, goes on as if nothing had happened.

    Args:
        first: The row to begin with; x is the state before it.
        past: Earlier predictions that rows still weigh, newest first (leads, for tables that mix rates).
        previous: The last prediction, for a self-conditioned denoiser.
    """
    told = takes_previous(denoiser)
    churn, known, up = noise.fork("churn"), noise.fork("given"), noise.fork("renoise")
    depth = max(row.reach for row in rows)
    history = list(past)
    shown = history[0] if history else None
    split: Prediction | None = None
    base, drawn, end = x, first, None
    for number, row in enumerate(rows[first:], first):
        if row.move is None:
            x = base = process.renoise(x, row.t, row.s, up.at(number), row.noise_scale)
            history, shown, previous = [], None, None
        else:
            base = base if row.redo else x
            if not (row.redo and row.s == end):  # a move that is redone to the same end keeps its noise
                drawn, end = number, row.s
            if row.at is not None:
                del history[depth - 1 :]
                now = cond if previous is None else {**cond, "previous": previous}
                now = now if row.to is None else {**now, "to": row.to}
                prediction = predict(denoiser, process, x, row.at, now)
                previous = clean(prediction) if told else None
                split, back = prediction if isinstance(prediction, Prediction) else None, carried(prediction)
                history.insert(0, back if row.norms is None else process.lead(x, back, row.norms))
                shown = back if callback is not None else None
                del prediction, back
            # A state that is moved from anew is needed no more: nothing but history, base and the new state is held.
            x = process.resume(x, base)
            fresh = source(churn, rows, number, drawn) if row.draws else None
            x = process.advance(x, history, row.weights, row.norms, row.move, fresh)
            if split is not None:
                x = shift(process, x, split, row.s)
            if given is not None and row.last:
                x = given.put(process, x, row.s, known.at(number))
        if callback is not None:
            callback(Progress(number, len(rows), row.s, x, shown))
    return process.space.project(x)


def shapes(like: State, start: State | None, noise: Noise) -> list[tuple[str, list[int], list[int]]]:
    """What should agree: a name, the shape that is meant and the shape that came."""
    whole = [list(part.shape) for part in tensors(like)]
    pairs = [("noise for", whole[0][:1], list(noise.index.shape))]
    if start is not None:
        pairs += [("a start of", want, list(part.shape)) for want, part in zip(whole, tensors(start), strict=True)]
    return pairs


def source(churn: Noise, rows: Sequence[Row], number: int, drawn: int) -> Noise:
    """Where a row takes its noise from; each descent of a grid that goes up has a Brownian path of its own."""
    row = rows[number]
    if not row.path:
        return churn.at(drawn)
    descent = sum(before.move is None for before in rows[:number])
    return Increment.between(churn.fork(f"path {descent}"), row.t, row.s)


@lru_cache(maxsize=64)
def written(solver: Solver, process: Process) -> list[Row]:
    """The rows of a solver on a process: the same for every batch, so they are written once."""
    return solver.rows(process)


def table(solver: Solver, process: Process) -> list[Row]:
    """The rows, from the cache where solver and process can be its keys."""
    if not isinstance(solver, Solver):
        raise SamplerError(f"The sampler is {solver!r}", "a solver or a loop", "Heun(18)")
    try:
        hash((solver, process))
    except TypeError:  # weights by part are dicts
        return solver.rows(process)
    return written(solver, process)


def replace_solver(sampler: Solver | Loop, f: Callable[[Any], Any], *others: type) -> Any:
    """f of a solver, or of one of other kinds; of a sampler that has a solver, the sampler with f of it in its place.

    Raises:
        RequestError: For a sampler without steps of its own.
    """
    if isinstance(sampler, (Solver, *others)):
        return f(sampler)
    inner = {name: f(value) for name, value in vars(sampler).items() if isinstance(value, Solver)}
    if not inner:
        raise RequestError(
            f"{sampler!r} got steps=, start= or known parts", "a sampler that walks a grid", "model.sample(n, steps=8)"
        )
    return replace(sampler, **inner)  # type: ignore[type-var]

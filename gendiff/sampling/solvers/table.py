r"""What a solver is: rows of numbers.

A solver never touches a state. Given a process and a grid it writes rows; `sampling.loop.run` reads them. A row says

    evaluate the denoiser at time `at` (or not), mix the last predictions with `weights` (newest first) into a target,
    and take the process's exact move t -> s towards it, from x or, with `redo`, from where the last move started.

With c the clock and y = x/n the state on it, dy/dc = (y - x0)/c =: e, and a step with constant x0 is exact. Predictions
are mixed in one of two views, the same in every row of a table:

    points   target = sum_j w_j x0_j                      the clean states themselves
    rates    target = exp_y(sum_j w_j (c_t/c_j) l_j)      l_j = log_{y_j}(x0_j) = -c_j e_j, made with x0_j

In both the weights sum to one, so a constant prediction, or a constant rate, is followed exactly. Rates carry the
families that mix noise predictions; on curved spaces they are tangents in the space's own frame. Processes without
straight rates (`Leaf.straight`) take points in every view. Weights, like clocks, come by part for bundles. All numbers
are float64 on the host.

A corrector redoes the last move r -> t with the prediction made at its end, weights w' in place of w, before the step
t -> s with weights v. Where moves are linear, x_s = keep x + pull target = (keep + pull/n) x + pull sum_j w_j l_j,
these are one row, on the state that was predicted (`merged`):

    u_j = v_j + (pull'/pull) (keep + pull/n) (w'_j - w_j),   w counted from the prediction before

Classes are never drawn anew: a row that redoes a move moves them on, from the time they have reached (`onward`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import Any, ClassVar

from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, NOT_NEGATIVE_OR_INFINITE, SHARE, Range, SamplerError, at_least, check, ordered
from gendiff.processes import Move, Process, pick
from gendiff.sampling.grids import Grid


@dataclass(frozen=True)
class Row:
    """One move of a solver.

    Attributes:
        t: Where the move starts (time).
        s: Where it ends; s > t renoises.
        at: The time at which to evaluate the denoiser first, or None.
        weights: Of the last predictions, newest first; by part for bundles.
        redo: Whether to move from where the last move started, with the noise of that move.
        move: The process's coefficients for t -> s; None for renoising.
        last: Whether this move completes a step of the grid.
        norms: (n at `at`, n at t) where the weights mix rates (then of the l_j, c_t/c_j included), else None; by part.
        noise_scale: Factor on the noise of a renoising, or by part.
        path: Whether the noise is the increment of one Brownian path in t, the same on every grid.
        to: Of a flow map, the time to which its prediction leads, or None for a plain denoiser's prediction.
        reach: How many predictions the weights reach back; known from them.
        draws: Whether the move may need noise; known from it.
    """

    t: float
    s: float
    at: float | None = None
    weights: Any = (1.0,)
    redo: bool = False
    move: Any = None
    last: bool = True
    norms: Any = None
    noise_scale: Setting = 1.0
    path: bool = False
    to: float | None = None
    reach: int = field(init=False, repr=False, compare=False)
    draws: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reach", reach(self.weights))
        object.__setattr__(self, "draws", draws(self.move))


def reach(weights: Any) -> int:
    """The place of the last prediction with a weight, counted from one."""
    if isinstance(weights, dict):
        return max(map(reach, weights.values()))
    return max((j + 1 for j, w in enumerate(weights) if w != 0), default=1)


def draws(move: Any) -> bool:
    """Whether a step by these coefficients may draw noise."""
    if isinstance(move, dict):
        return any(map(draws, move.values()))
    return not isinstance(move, Move) or isinstance(move.churn, Tensor) or move.churn != 0


class Past(list[float]):
    """The earlier times of one descent, newest last; `ahead` counts the steps that follow this one."""

    ahead: int = 0


Setting = float | Mapping[str, float]
"""A number, or one for every part of a bundle by name."""


def by_part(process: Process, setting: Setting) -> Any:
    """A setting for every part of a process by name, or the number itself where there are no parts.

    Raises:
        SamplerError: For names of parts other than the process's.
    """
    return process.per_part(lambda _, own: own, setting)


RANGES = {
    "steps": at_least(1), "order": at_least(1), "orders": at_least(1), "corrector": at_least(0),
    "eta": NOT_NEGATIVE, "noise_scale": NOT_NEGATIVE, "churn": NOT_NEGATIVE, "low": NOT_NEGATIVE,
    "gamma": SHARE, "high": NOT_NEGATIVE_OR_INFINITE, "corrections": at_least(0), "snr": Range(0, 0.5, "(]"),
}  # fmt: skip
"""What the fields of solvers that have these names may be."""


class Solver(ABC):
    """The interface: frozen dataclasses with `steps` and a grid `times`.

    Attributes:
        remembers: Whether a step uses the predictions of those before it.

    Raises:
        SamplerError: For fields of another kind than they declare, or out of `RANGES`, and a solver that remembers
            inside one that takes single steps of another.
    """

    order: ClassVar[int]
    remembers: ClassVar[bool] = False
    steps: int
    times: Grid

    def __post_init__(self) -> None:
        name = type(self).__name__
        check(self, SamplerError, **RANGES)
        if hasattr(self, "low") and hasattr(self, "high"):
            ordered(self, "low", "high", equal=True)
        inner = getattr(self, "solver", None)
        if not self.remembers and inner is not None and inner.remembers:
            raise SamplerError(
                f"{name} got {type(inner).__name__}, which remembers earlier steps",
                "a solver of single steps",
                f"{name}(solver=Heun())",
            )

    @abstractmethod
    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        """The rows of the step t -> s."""

    def correction(self, process: Process, t: float, past: Past) -> Iterator[Row]:
        """The rows, if any, by which a step from t first redoes the last move, with a prediction made at t."""
        return iter(())

    def rows(self, process: Process) -> list[Row]:
        """The whole table. Upward moves renoise and forget what was predicted.

        A time that comes twice counts once; but at the end of the grid it is a step of no length: the orders of those
        before see one more ahead of them, and the last move is corrected if the solver does that.
        """
        out: list[Row] = []
        past = Past()
        times = self.times(process, self.steps)
        if len(times) < 2 or not all(-1e-9 <= t <= 1 + 1e-9 for t in times):
            raise SamplerError(f"{self.times!r} gave the times {times}", "two or more in [0, 1]", "LinearGrid()")
        moves = [(t, s) for t, s in pairwise(times) if not math.isclose(t, s)]
        still = int(len(times) > 1 and math.isclose(times[-1], times[-2]))
        for i, (t, s) in enumerate(moves):
            if s > t:
                out.append(Row(t, s))
                past = Past()
            else:
                past.ahead = next((k for k, (u, v) in enumerate(moves[i + 1 :]) if v > u), len(moves) - i - 1 + still)
                out.extend(self.step(process, t, s, past))
                past.append(t)
        if still:
            past.ahead = 0
            out.extend(self.correction(process, times[-1], past))
        return merged(onward(process, out))

    def evaluations(self, process: Process) -> int:
        """How often the denoiser is evaluated."""
        return sum(row.at is not None for row in self.rows(process))


def onward(process: Process, rows: list[Row]) -> list[Row]:
    """The rows, with the coefficients that a process has for moves which redo others."""
    out: list[Row] = []
    reached, again = 0.0, 0
    for row in rows:
        if row.redo:
            again += 1
            row = replace(row, move=process.redone(row.move, reached, row.s, again))
            reached = min(reached, row.s)
        else:
            reached, again = row.s, 0
        out.append(row)
    return out


def merged(rows: list[Row]) -> list[Row]:
    """The rows, each corrector and the step after it made one where moves are linear; the same states to rounding.

    A last row that redoes such a step starts from the state that was predicted, too: what the step's weights gained,
    u - v, its weights gain as well.
    """
    out: list[Row] = []

    def one(k: int) -> bool:
        """Whether the rows k and k + 1 are a corrector and its step, to be made one."""
        if not 0 <= k < len(rows) - 1:
            return False
        redone, row = rows[k], rows[k + 1]
        return redone.redo and row.at is None and linear(redone.move) and linear(row.move)

    for k, row in enumerate(rows):
        if one(k):
            continue  # the next row takes it in
        if one(k - 1):
            redone = rows[k - 1]
            before = next(r for r in reversed(rows[: k - 1]) if not r.redo and r.move is not None)
            row = replace(row, at=redone.at, weights=joined(before, redone, row))
        if row.redo and k == len(rows) - 1 and one(k - 2):
            row = replace(row, weights=gained(row.weights, out[-1].weights, rows[k - 1].weights))
        out.append(row)
    return out


def gained(weights: Any, u: Any, v: Any) -> Any:
    """w + (u - v), u and v counted from the prediction before, by part."""
    if isinstance(weights, dict):
        return {k: gained(w, pick(u, k), pick(v, k)) for k, w in weights.items()}
    return tuple(w + a - b for w, a, b in zip_longest(weights, (0.0, *u), (0.0, *v), fillvalue=0.0))


def joined(before: Row, redone: Row, row: Row) -> Any:
    """The weights u_j above, by part."""

    def one(w: Any, corrected: Any, v: Any, old: Any, move: Any, n: Any) -> Any:
        if isinstance(move, dict):
            return {k: one(pick(w, k), pick(corrected, k), pick(v, k), old[k], move[k], n and n[k]) for k in move}
        factor = old.pull / move.pull * (move.keep + (move.pull / n[1] if n else 0.0))
        width = max(len(v), len(corrected), len(w) + 1)
        v, corrected, w = (x + (0.0,) * (width - len(x)) for x in (v, corrected, (0.0, *w)))
        return tuple(a + factor * (b - c) for a, b, c in zip(v, corrected, w, strict=True))

    return one(before.weights, redone.weights, row.weights, redone.move, row.move, row.norms)


def linear(move: Any) -> bool:
    """Whether every part's step is a share of the way to its target."""
    return all(map(linear, move.values())) if isinstance(move, dict) else isinstance(move, Move)

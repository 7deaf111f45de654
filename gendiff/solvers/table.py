r"""What a solver is: rows of numbers.

A solver never touches a state. Given a process and a grid it writes rows; `samplers.run` reads them. A row says

    evaluate the denoiser at time `at` (or not), mix the last predictions with `weights` (newest first) into a target,
    and take the process's exact move t -> s towards it, from x or, with `redo`, from where the last move started.

With c the clock and y = x/n the state on it, dy/dc = (y - x0)/c =: e, and a step with constant x0 is exact. Predictions
are mixed in one of two views, the same in every row of a table:

    points   target = sum_j w_j x0_j                      the clean states themselves
    rates    target = exp_y(sum_j w_j (c_t/c_j) l_j)      l_j = log_{y_j}(x0_j) = -c_j e_j, made with x0_j

In both the weights sum to one, so a constant prediction, or a constant rate, is followed exactly. Rates carry the
families that mix noise predictions; on curved spaces they are tangents in the space's own frame. Weights, like clocks,
come by part for bundles. All numbers are float64 on the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from gendiff.processes import Leaf, Move, Process
from gendiff.times import Grid


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
        norms: (n at `at`, n at t) by part where the weights mix rates (then of the l_j, c_t/c_j included), else None.
        spread: Factor on the noise of a renoising.
        path: Whether the noise is the increment of one Brownian path in t, the same on every grid.
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
    spread: float = 1.0
    path: bool = False
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


class Solver(ABC):
    """The interface: frozen dataclasses with `steps` and a grid `times`."""

    order: ClassVar[int]
    steps: int
    times: Grid

    @abstractmethod
    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        """The rows of the step t -> s."""

    def rows(self, process: Process) -> list[Row]:
        """The whole table. Upward moves renoise and forget the past predictions."""
        out: list[Row] = []
        past = Past()
        moves = list(pairwise(self.times(process, self.steps)))
        for i, (t, s) in enumerate(moves):
            if s > t:
                out.append(Row(t, s))
                past = Past()
            else:
                past.ahead = next((k for k, (u, v) in enumerate(moves[i + 1 :]) if v > u), len(moves) - i - 1)
                out.extend(self.step(process, t, s, past))
                past.append(t)
        return out

    def evaluations(self, process: Process) -> int:
        """How often the denoiser is evaluated."""
        return sum(row.at is not None for row in self.rows(process))


def norm(leaf: Leaf, t: float) -> float:
    """n with y = x/n the state on the clock: alpha, or alpha + sigma where the clock is bounded."""
    if leaf.schedule.flow:
        return 1.0
    alpha, sigma = leaf.schedule(t)
    return alpha + sigma if leaf.schedule.bounded else alpha


def norms(process: Process, at: float, t: float) -> Any:
    """What a row that mixes rates needs: (n at the evaluation, n at the start of the move), by part."""
    return process.per_part(lambda leaf: (norm(leaf, at), norm(leaf, t)))

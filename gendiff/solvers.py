r"""Solvers as tables of numbers.

A solver never touches a state. Given a process and a grid it writes rows; `samplers.run` reads them. A row says

    evaluate the denoiser at time `at` (or not), mix the last predictions with `weights` (newest first) into a target,
    and take the process's exact move t -> s towards it, from x or, with `redo`, from where the last move started.

With c the clock, d(x/n)/dc = (x/n - x0)/c, and a step with constant x0 is exact. Hence

    Euler, DDIM    w = (1)                                                             order 1
    Heun           redo the step with w = (c_t/2c_s, 1 - c_t/2c_s) on (D_s, D_t)        order 2 (Karras 2022, Alg. 1)
    DPM++ 2M       w = (1 + h/2h', -h/2h'), h = lambda_s - lambda_t, lambda = logsnr/2  order 2 (Lu et al. 2022, Alg. 2)

Into sigma = 0 every solver takes the first-order step, which is the last prediction itself. Weights, like clocks, come
by part for bundles. All numbers are float64 on the host.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from gendiff.processes import Leaf, Process
from gendiff.times import Grid, LinearGrid


@dataclass(frozen=True)
class Row:
    """One move of a solver.

    Attributes:
        t: Where the move starts (time).
        s: Where it ends; s > t renoises.
        at: The time at which to evaluate the denoiser first, or None.
        weights: Of the last predictions, newest first; by part for bundles.
        redo: Whether to move from where the last move started.
        move: The process's coefficients for t -> s; None for renoising.
        last: Whether this move completes a step of the grid.
    """

    t: float
    s: float
    at: float | None = None
    weights: Any = (1.0,)
    redo: bool = False
    move: Any = None
    last: bool = True


class Solver(ABC):
    """The interface: frozen dataclasses with `steps` and a grid `times`."""

    order: ClassVar[int]
    steps: int
    times: Grid

    @abstractmethod
    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        """The rows of the step t -> s; `past` holds the earlier times of this descent, newest last."""

    def rows(self, process: Process) -> list[Row]:
        """The whole table. Upward moves renoise and forget the past predictions."""
        out: list[Row] = []
        past: list[float] = []
        for t, s in pairwise(self.times(process, self.steps)):
            if s > t:
                out.append(Row(t, s))
                past = []
            else:
                out.extend(self.step(process, t, s, past))
                past.append(t)
        return out

    def evaluations(self, process: Process) -> int:
        """How often the denoiser is evaluated."""
        return sum(row.at is not None for row in self.rows(process))


@dataclass(frozen=True)
class Euler(Solver):
    """The Euler step of the probability flow in the clock; equal to DDIM with eta = 0."""

    order: ClassVar[int] = 1
    steps: int = 50
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        yield Row(t, s, at=t, move=process.move(t, s))


@dataclass(frozen=True)
class DDIM(Solver):
    """Song et al. (2021), Eq. 12: eta = 0 is deterministic, eta = 1 is DDPM.

    Args:
        spread: Factor on the injected noise; below 1 samples colder than the model.
    """

    order: ClassVar[int] = 1
    steps: int = 50
    eta: float = 0.0
    spread: float = 1.0
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        churn = process.per_part(lambda leaf: self.eta * posterior(leaf, t, s))
        yield Row(t, s, at=t, move=process.move(t, s, churn, self.spread))


@dataclass(frozen=True)
class DDPM(Solver):
    """Ancestral sampling with the posterior's variance (Ho et al. 2020, "fixed small"); exact as steps grow."""

    order: ClassVar[int] = 1
    steps: int = 100
    spread: float = 1.0
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        churn = process.per_part(lambda leaf: posterior(leaf, t, s))
        yield Row(t, s, at=t, move=process.move(t, s, churn, self.spread))


@dataclass(frozen=True)
class Heun(Solver):
    """Two evaluations a step, second order: Algorithm 1 of Karras et al. (2022) without churn, on any space."""

    order: ClassVar[int] = 2
    steps: int = 18
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        move = process.move(t, s)
        yield Row(t, s, at=t, move=move, last=s <= 0)
        if s > 0:
            weights = process.per_part(lambda leaf: heun(leaf.schedule.clock(t), leaf.schedule.clock(s)))
            yield Row(t, s, at=s, weights=weights, redo=True, move=move)


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """DPM-Solver++(2M): one evaluation a step, second order, from the last two predictions."""

    order: ClassVar[int] = 2
    steps: int = 20
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        weights = process.per_part(lambda leaf: multistep2(leaf, past[-1], t, s) if past else (1.0,))
        yield Row(t, s, at=t, weights=weights, move=process.move(t, s))


def posterior(leaf: Leaf, t: float, s: float) -> float:
    """sigma_s sqrt(1 - (alpha_t sigma_s/(alpha_s sigma_t))^2): the deviation of q(x_s | x_t, x0)."""
    if s <= 0:
        return 0.0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = leaf.schedule(t), leaf.schedule(s)
    ratio = alpha_t * sigma_s / (alpha_s * sigma_t)
    return sigma_s * math.sqrt(max(1 - ratio * ratio, 0.0))


def heun(c_t: float, c_s: float) -> tuple[float, ...]:
    """Weights of (D_s, D_t) for the trapezoid from clock c_t to c_s."""
    return (c_t / (2 * c_s), 1 - c_t / (2 * c_s))


def multistep2(leaf: Leaf, r: float, t: float, s: float) -> tuple[float, ...]:
    """Weights of (D_t, D_r) for the step t -> s after r -> t; (1,) where a log-SNR is infinite."""
    before, now, then = (leaf.schedule.logsnr(u) for u in (r, t, s))
    ratio = (then - now) / (2 * (now - before))
    return (1 + ratio, -ratio) if math.isfinite(ratio) and ratio > 0 else (1.0,)

r"""What a solver mixes: one view of the probability flow, with two limits.

With c = sigma/alpha, y = x/alpha and x0 = k y + m F, k = d^2/(d^2 + c^2) and m = c d/sqrt(d^2 + c^2) of a width d, the
probability flow dy/dc = (y - x0)/c is, in the angle a = arctan(c/d),

    d/da (y/sqrt(d^2 + c^2)) = -F       so   y_s/r_s = y_t/r_t + sum_j F_j int_s^t L_j da,   r = sqrt(d^2 + c^2)

for F made at the nodes a_j, L_j the Lagrange polynomials. F is what EDM's network emits (Karras et al. 2022), and
(y/r, a) the circle of TrigFlow (Lu & Song 2025): for Gaussian data of deviation d it is zero, and nothing is infinite
or singular at either end, c = 0 and alpha = 0 included. That is `Circle(d)`. Its limits are the views in use:

    d -> 0     y_s = (c_s/c_t) y_t + c_s int x0 d(1/c)      the clean state         `Points`
    d -> inf   y_s = y_t + int e dc,  e = (y - x0)/c        the rate, or noise      `Rates`

whose weights, by families of interpolation, are in `weights`. Where a constant prediction is no constant rate on the
clock (`Leaf.straight` is False: `BrownianSO3`, spheres, classes), every view mixes points.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from gendiff.errors import POSITIVE, check
from gendiff.processes import Gaussian, Leaf, Process
from gendiff.sampling.solvers.weights import Clock, LogSNR, Soft, Variable, adams, lagrange, legendre


class View(ABC):
    """What a solver mixes; see the top of the file."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def weights(self, leaf: Leaf, at: Sequence[float], t: float, s: float, eta: float = 0.0) -> tuple[float, ...]:
        """The weights for the step t -> s of predictions made at the times `at`, newest first."""

    @abstractmethod
    def norms(self, leaf: Leaf, at: float, t: float, s: float) -> tuple[float, float] | None:
        """What a row needs besides: its `norms`, or None where it mixes points."""


@dataclass(frozen=True)
class Points(View):
    """Clean states.

    Args:
        variable: In what they are interpolated.
    """

    variable: Variable = field(default_factory=Soft)

    def weights(self, leaf: Leaf, at: Sequence[float], t: float, s: float, eta: float = 0.0) -> tuple[float, ...]:
        return adams(leaf, at, t, s, self.variable, 1 + eta * eta)

    def norms(self, leaf: Leaf, at: float, t: float, s: float) -> None:
        return None


@dataclass(frozen=True)
class HalfSlope(Points):
    """Points in lambda as SA-Solver mixes them: of two, the slope counts as if the step were even, h^2/2.

    Instead of int (lambda - lambda_t) exp(p (lambda - lambda_s)) d lambda, from which it differs by O(h^3); more than
    two are mixed exactly (Xue et al. 2023, Sec. 6, and the authors' code).
    """

    variable: Variable = field(default_factory=LogSNR)

    def weights(self, leaf: Leaf, at: Sequence[float], t: float, s: float, eta: float = 0.0) -> tuple[float, ...]:
        exact = super().weights(leaf, at, t, s, eta)
        if len(exact) != 2:
            return exact
        now, then, *nodes = (leaf.schedule.logsnr(u) / 2 for u in (t, s, *at))
        p, h = 1 + eta * eta, then - now
        share = -p * h * h / 2 / math.expm1(-p * h) / (nodes[0] - nodes[1])
        return (1 + share, -share) if at[0] == t else (share, 1 - share)


@dataclass(frozen=True)
class Rates(View):
    """Rates e = (y - x0)/c, that is noise predictions, or velocities on a flow's clock.

    Args:
        variable: In what they are interpolated.
    """

    variable: Variable = field(default_factory=LogSNR)

    def weights(self, leaf: Leaf, at: Sequence[float], t: float, s: float, eta: float = 0.0) -> tuple[float, ...]:
        return leads(leaf, t, at, adams(leaf, at, t, s, self.variable, -1.0 if leaf.straight else 1.0))

    def norms(self, leaf: Leaf, at: float, t: float, s: float) -> tuple[float, float] | None:
        return rated(leaf, at, t)


@dataclass(frozen=True)
class Circle(View):
    """EDM's F on TrigFlow's circle; on curved spaces, where a state has no multiples, rates in the clock.

    Args:
        width: d; by default what the process knows of the data's standard deviation (`data_std`), else 1.
        share: Times d. Below 1 it is nearer to mixing clean states, right for data that lie in thin parts.
    """

    width: float | None = None
    share: float = 1.0

    def d(self, leaf: Leaf) -> float:
        """The width on a process."""
        return self.share * (self.width or leaf.data_std or 1.0)

    def __post_init__(self) -> None:
        check(self, share=POSITIVE)
        if self.width is not None:
            check(self, width=POSITIVE)

    def weights(self, leaf: Leaf, at: Sequence[float], t: float, s: float, eta: float = 0.0) -> tuple[float, ...]:
        if not isinstance(leaf, Gaussian):
            return Rates(Clock()).weights(leaf, at, t, s)
        low, high = self.angle(leaf, s), self.angle(leaf, t)
        x, w = legendre(16)
        a = low + (high - low) * (x + 1) / 2
        parts = lagrange([self.angle(leaf, u) for u in at], a) @ w * ((high - low) / 2)
        # x_s = (R_s/R_t) x_t + R_s sum_j F_j parts_j, R = alpha r; F_j = l_j/m_j, and the move pulls its target.
        reach = self.radius(leaf, s) / leaf.move(t, s).pull
        return tuple(reach * part / self.gain(leaf, u) for part, u in zip(parts.tolist(), at, strict=True))

    def norms(self, leaf: Leaf, at: float, t: float, s: float) -> tuple[float, float] | None:
        if not isinstance(leaf, Gaussian):
            return Rates(Clock()).norms(leaf, at, t, s)
        (alpha, sigma), move = leaf.schedule(at), leaf.move(t, s)
        d2 = self.d(leaf) ** 2
        share = d2 * alpha / (d2 * alpha * alpha + sigma * sigma)  # k/alpha, of l = x0 - k y
        stays = float((self.radius(leaf, s) / self.radius(leaf, t) - move.keep) / move.pull)
        return 1 / share if share > 0 else inf, 1 / stays

    def angle(self, leaf: Leaf, t: float) -> float:
        """a = arctan(c/d)."""
        alpha, sigma = leaf.schedule(t)
        return math.atan2(sigma, self.d(leaf) * alpha)

    def radius(self, leaf: Leaf, t: float) -> float:
        """R = alpha r."""
        alpha, sigma = leaf.schedule(t)
        return math.hypot(self.d(leaf) * alpha, sigma)

    def gain(self, leaf: Leaf, t: float) -> float:
        """m, with x0 = k y + m F."""
        return self.d(leaf) * leaf.schedule(t)[1] / self.radius(leaf, t)


def norm(leaf: Leaf, t: float) -> float:
    """n with y = x/n the state on the clock: alpha, or alpha + sigma where the clock is bounded; 1 on curved spaces."""
    return float(leaf.norm(t, 1.0 if leaf.schedule.bounded else inf))


def rated(leaf: Leaf, at: float, t: float) -> tuple[float, float] | None:
    """What a row that mixes rates needs: (n at the evaluation, n at the start of the move); None where it cannot."""
    return (norm(leaf, at), norm(leaf, t)) if leaf.straight else None


def norms(process: Process, at: float, t: float) -> Any:
    """`rated` by part."""
    return process.per_part(lambda leaf: rated(leaf, at, t))


def leads(leaf: Leaf, t: float, nodes: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """The weights of rates made weights of the l_j = -c_j e_j, or of points, after scaling them to the sum one."""
    total, c = sum(weights), leaf.schedule.clock
    if not leaf.straight:
        return tuple(w / total for w in weights)
    # The newest may be the clock's end, c = 0, where no step has a rate to mix.
    return tuple(w / total * c(t) / c(u) if w else 0.0 for w, u in zip(weights, nodes, strict=False))

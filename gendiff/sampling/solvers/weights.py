r"""The weights of every family, as integrals of interpolating polynomials.

With c = sigma/alpha and y the state on the clock, the probability flow's exact solutions are, in the two views of
`views` that have weights of many families,

    y_s = (c_s/c_t) y_t + c_s int x0 d(1/c)          so   w_j = int L_j d(1/c) / (1/c_s - 1/c_t)       points
    y_s = y_t + int e dc,  e = (y - x0)/c            so   w_j = int L_j dc / (c_s - c_t)               rates

for predictions at the nodes c_j, L_j the Lagrange polynomials in any variable q(c). The variable makes the family:

    points, q = lambda = -log c    exponential Adams: DPM-Solver++ 2M in its Heun form, SA-Solver, their SDEs
    points, q = Soft               the same, but smooth at c = 0: it may be kept at full order into the last step
    rates,  q = lambda             DEIS (tAB, logrho)
    rates,  q = c                  LMS
    rates,  q = index              PNDM, iPNDM: the constants of Adams and Bashforth

With noise (eta), 1/c becomes c^-(1 + eta^2), the decay of the mean under the reverse SDE. In lambda both measures are
exp(p lambda) d lambda, p = 1 + eta^2 or -1, integrated by Gauss-Legendre; q at c = 0 is a value, and so are weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

import numpy as np

from gendiff.errors import POSITIVE, check
from gendiff.processes import Leaf, Process
from gendiff.processes.schedules import Schedule


class Variable(ABC):
    """In what a solver interpolates predictions: a monotone function of c = sigma/alpha in [0, inf]."""

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def __call__(self, c: float, schedule: Schedule) -> float:
        """q(c); infinite where it has no value."""


@dataclass(frozen=True)
class LogSNR(Variable):
    """lambda = log(alpha/sigma): no value at either end."""

    def __call__(self, c: float, schedule: Schedule) -> float:
        return -math.log(c) if 0 < c < inf else inf


@dataclass(frozen=True)
class Clock(Variable):
    """The schedule's clock itself."""

    def __call__(self, c: float, schedule: Schedule) -> float:
        return clocked(c, schedule)


@dataclass(frozen=True)
class Soft(Variable):
    """-log(1 + c^2/scale^2)/2: lambda above the data's scale, smooth in c^2 below it, with a value at c = 0.

    Predictions depend on c^2 where the noise is small, so they may be extrapolated to c = 0 in this variable.

    Args:
        scale: The noise level below which predictions settle: about the width of the finest structure.
    """

    scale: float = 0.3

    def __post_init__(self) -> None:
        check(self, scale=POSITIVE)

    def __call__(self, c: float, schedule: Schedule) -> float:
        return -0.5 * math.log1p((c / self.scale) ** 2) if c < inf else inf


@dataclass(frozen=True)
class Index(Variable):
    """The number of the step: constant weights, exact on grids that are even in some variable."""

    def __call__(self, c: float, schedule: Schedule) -> float:
        return inf  # never asked: `adams` knows the constants


def ratio(leaf: Leaf, t: float) -> float:
    """sigma/alpha, infinite where alpha = 0."""
    alpha, sigma = leaf.schedule(t)
    return sigma / alpha if alpha > 0 else inf


def between(leaf: Leaf, t: float, low: float, high: float) -> bool:
    """Whether sigma/alpha is in [low, high]; times are read off levels and back, so a bound is met to nine digits."""
    return low * (1 - 1e-9) <= ratio(leaf, t) <= high * (1 + 1e-9)


def clocked(c: float, schedule: Schedule) -> float:
    """The clock at the ratio sigma/alpha = c."""
    if not schedule.bounded:
        return c
    return c / (1 + c) if c < inf else 1.0


@cache
def legendre(n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    return np.polynomial.legendre.leggauss(n)


def lagrange(nodes: Sequence[float], q: np.ndarray) -> np.ndarray:
    """L_j(q) [len(nodes), len(q)]."""
    if len(nodes) == 1:
        return np.ones((1, len(q)))
    return np.stack([math.prod((q - b) / (a - b) for b in nodes if b != a) for a in nodes])


def integrals(nodes: Sequence[float], q: np.ndarray, mass: np.ndarray) -> tuple[float, ...]:
    """sum_i mass_i L_j(q_i), of the newest nodes only where more would make the rounding of predictions GROWTH times.

    A last step many times as long as those before it, as into c = 0 from a fixed sigma_min, extrapolates far.
    """
    for count in range(len(nodes), 1, -1):
        weights = lagrange(nodes[:count], q) @ mass
        if np.abs(weights).sum() <= GROWTH:  # and not NaN
            return tuple(weights.tolist())
    return (1.0,)


GROWTH = 100.0
"""The largest sum of |weights|."""


def adams(leaf: Leaf, at: Sequence[float], t: float, s: float, variable: Variable, power: float) -> tuple[float, ...]:
    """The weights for the step t -> s of predictions made at the times `at`, newest first.

    Nodes without a value of the variable are left out, unless only the newest remains.

    Args:
        power: p above: 1 + eta^2 mixes points, -1 mixes rates.
    """
    schedule = leaf.schedule
    c_t, c_s = ratio(leaf, t), ratio(leaf, s)
    if isinstance(variable, Index):
        nodes: list[float] = [float(-j) for j in range(len(at))]
        if len(nodes) == 1:
            return (1.0,)
        x, w = legendre()
        return tuple((lagrange(nodes, (x + 1) / 2) @ w / 2).tolist())
    nodes = []
    for u in at:
        q = variable(ratio(leaf, u), schedule)
        if not math.isfinite(q) or any(abs(q - p) < 1e-12 for p in nodes):
            break
        nodes.append(q)
    if len(nodes) < 2 or c_s >= c_t:
        return (1.0,)
    end = variable(0.0, schedule)
    if c_s == 0 and not math.isfinite(end):
        # Infinitely far beyond the nodes. Rates could be followed there, with rounding times steps^(order - 1).
        return (1.0,)
    if power > 0 and c_s == 0:
        return integrals(nodes, np.array([end]), np.ones(1))
    # For rates on a bounded clock the measure is that clock's: kappa = c/(1 + c).
    kappa = power < 0 and schedule.bounded
    start, stop = (clocked(c, schedule) if kappa else c for c in (c_t, c_s))
    low = -math.log(start) if start < inf else -inf
    high = -math.log(stop) if stop > 0 else inf
    reach = 40 / abs(power)
    low, high = max(low, high - reach) if power > 0 else low, min(high, low + reach) if power < 0 else high
    x, w = legendre()
    u = low + (high - low) * (x + 1) / 2
    mass = w * np.exp(power * (u - (high if power > 0 else low)))
    c = np.exp(-u)
    q = np.array([variable(k / (1 - k) if kappa else k, schedule) for k in c.tolist()])
    return integrals(nodes, q, mass / mass.sum())


def plain(process: Process, t: float, s: float) -> Any:
    """The move t -> s of a solver that says nothing of churn: none on flows, on classes their own."""
    return process.move(t, s, process.per_part(lambda leaf: leaf.churn(t, s)))


def posterior(leaf: Leaf, t: float, s: float) -> float:
    """sigma_s sqrt(1 - (alpha_t sigma_s/(alpha_s sigma_t))^2): the deviation of q(x_s | x_t, x0)."""
    return noisy(leaf, t, s, 1.0)


def noisy(leaf: Leaf, t: float, s: float, eta: float | None) -> float:
    """sigma_s sqrt(1 - (c_s/c_t)^(2 eta^2)): the reverse SDE with eta times its noise; eta = 1 is the posterior.

    None is what the part has of its own.
    """
    if eta is None:
        return leaf.churn(t, s)
    if s <= 0 or eta == 0:
        return 0.0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = leaf.schedule(t), leaf.schedule(s)
    share = alpha_t * sigma_s / (alpha_s * sigma_t)
    return sigma_s * math.sqrt(max(1 - share ** (2 * eta * eta), 0.0))


def remaining(leaf: Leaf, t: float, s: float, eta: float | None) -> float:
    """The log-SNR that an ancestral step t -> s reaches before its noise is added, that noise being eta sigma_q."""
    alpha, sigma = leaf.schedule(s)
    down = sigma * sigma - ((eta or 0.0) * posterior(leaf, t, s)) ** 2
    return math.log(alpha * alpha / down) if down > 0 else inf


def heun(c_t: float, c_s: float) -> tuple[float, ...]:
    """Weights of (D_s, D_t) for the trapezoid from clock c_t to c_s."""
    return (c_t / (2 * c_s), 1 - c_t / (2 * c_s))


def multistep2(leaf: Leaf, r: float, t: float, s: float) -> tuple[float, ...]:
    """Weights of (D_t, D_r) for the step t -> s after r -> t; (1,) where a log-SNR is infinite."""
    before, now, then = (leaf.schedule.logsnr(u) for u in (r, t, s))
    share = (then - now) / (2 * (now - before))
    return (1 + share, -share) if math.isfinite(share) and share > 0 else (1.0,)


def multistep3(leaf: Leaf, nodes: Sequence[float], t: float, s: float, eta: float) -> tuple[float, ...]:
    """Weights of (D_t, D_r, D_q), nodes (t, r, q), for the step t -> s of DPM-Solver++(3M); of two if one is infinite.

    With h the step in lambda, p = 1 + eta^2, the Newton polynomial D_t + d1 u/h + d2 (u/h)^2 through the three is
    integrated against exp(p u), but for half of d2 (Lu et al. 2022b and all who followed): a rule of second order.
    """
    lam = [leaf.schedule.logsnr(u) / 2 for u in nodes]
    p, h = 1 + eta * eta, leaf.schedule.logsnr(s) / 2 - lam[0]
    if not math.isfinite(h + sum(lam)):
        return adams(leaf, nodes[:2], t, s, LogSNR(), p)
    r0, r1 = (lam[0] - lam[1]) / h, (lam[1] - lam[2]) / h
    whole = -math.expm1(-p * h)
    phi2 = 1 - whole / (p * h)
    phi3 = phi2 / (p * h) - 0.5
    near = (phi2 * (1 + r0 / (r0 + r1)) - phi3 / (r0 + r1)) / (r0 * whole)
    far = (phi3 - phi2 * r0) / ((r0 + r1) * r1 * whole)
    return 1 + near, far - near, -far


def unipc(leaf: Leaf, at: Sequence[float], t: float, s: float, bh2: bool, ahead: bool) -> tuple[float, ...]:
    """UniPC's weights of predictions at the times `at`, newest first, for the step t -> s (Zhao et al. 2023, Eq. 5).

    The rule sum_k rho_k r_k^(n-1) = n! h phi_n(-h)/B is solved for rho, r_k = (lambda_k - lambda_t)/h.

    Args:
        bh2: B(h) = 1 - exp(-h) rather than h; it decides where the rule is replaced by a half.
        ahead: The corrector: at[0] is s itself, at[1] is t. Else at[0] is t.
    """
    lam = [leaf.schedule.logsnr(u) / 2 for u in at]
    now, then = (leaf.schedule.logsnr(u) / 2 for u in (t, s))
    h = then - now
    base = 1 if ahead else 0
    others = [k for k in range(len(at)) if k != base]
    while others and not math.isfinite(lam[others[-1]]):
        others.pop()
    if not others or not math.isfinite(h) or h <= 0:
        return (1.0,) if not ahead else (0.0, 1.0)
    r = [(lam[k] - now) / h for k in others]
    whole = -math.expm1(-h)  # B for bh2; the exact step's share
    b_h = whole if bh2 else h
    phi, rule = whole / h - 1, []
    factorial = 1.0
    # phi holds h_phi_(i+1) of the recursion phi_(i+1) = phi_i/(-h) - 1/(i+1)!, up to the sign of -h.
    for i in range(1, len(r) + 1):
        factorial *= i
        rule.append(phi * factorial / (-b_h))
        phi = phi / (-h) - 1 / (factorial * (i + 1))
    if len(r) == 1:
        rho = [0.5]
    else:
        rho = np.linalg.solve(np.array([[v**i for v in r] for i in range(len(r))]), np.array(rule)).tolist()
    scale = b_h / whole
    out = [0.0] * (len(others) + 1)
    for k, v, w in zip(others, r, rho, strict=True):
        out[k] += scale * w / v
        out[base] -= scale * w / v
    out[base] += 1.0
    return tuple(out)

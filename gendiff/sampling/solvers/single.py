r"""Solvers that start every step afresh.

    Euler, DDIM    w = (1)                                                              order 1
    DDPM           w = (1), churn = the posterior's deviation                            order 1 (weakly)
    EulerMaruyama  w = (1), the reverse SDE by its slopes in t                           order 1 (weakly)
    Heun           redo the step with w = (c_t/2c_s, 1 - c_t/2c_s) on (D_s, D_t)         order 2 (Karras 2022, Alg. 1)
    Midpoint, RK4  the classical rules, in rates                                         order 2, 4
    DPMSolver      rates, interpolated in lambda at r = 1/2, or 1/3 and 2/3              order 1, 2, 3 (Lu et al. 2022)
    DPMpp2S        points, the prediction at half the step in lambda                     order 2 (Lu et al. 2022b)
    Churn          EDM's: noise is added before each step of another solver              (Karras 2022, Alg. 2)
    Consistency    to the prediction and back to fresh noise                             (Song et al. 2023, Alg. 1)
    FlowMap        whole jumps t -> s of a few-step model, D(x_t, t, to=s)               exact (Kim et al. 2024, Alg. 3)

Default grids keep these orders on every schedule. Even times, which Euler, DDIM and DDPM have by custom, would not:
where sigma/alpha is not smooth in t at t = 0, the last step, into sigma = 0, is too long.

Into sigma = 0 all take the first-order step, which is the last prediction itself: in points, since x/n and the rate
that begins there would leave their rounding.

The process is dx = f x dt + g dW with f = alpha'/alpha and g^2 = 2 sigma^2 k, k = sigma'/sigma - f. Its reversals, eta
times as noisy, have the same marginals (Song et al. 2021, Eq. 6 and 13); with h = t - s, score = (alpha x0 - x)/sigma^2

    x_s = x - h f x + h g^2 (1 + eta^2)/2 score + eta g sqrt(h) z
        = (1 - h f - h (1 + eta^2) k) x + h (1 + eta^2) k alpha x0 + eta sigma sqrt(2 k h) z
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from gendiff.errors import SamplerError
from gendiff.processes import Gaussian, Leaf, Move, Process, leaf_of, schedule_of
from gendiff.sampling.grids import Grid, Karras, LinearGrid, LogSNRGrid, PowerGrid
from gendiff.sampling.solvers.table import Past, Row, Setting, Solver, by_part
from gendiff.sampling.solvers.views import leads, norms
from gendiff.sampling.solvers.weights import LogSNR, adams, between, heun, plain, posterior, ratio, remaining
from gendiff.spaces import leaves


@dataclass(frozen=True)
class Euler(Solver):
    """The Euler step of the probability flow in the clock; equal to DDIM with eta = 0."""

    order: ClassVar[int] = 1
    steps: int = 50
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        yield Row(t, s, at=t, move=plain(process, t, s))


@dataclass(frozen=True)
class DDIM(Solver):
    """Song et al. (2021), Eq. 12: eta = 0 is deterministic, eta = 1 is DDPM.

    Args:
        eta: Share of the posterior's noise, one number or one for every part by name; None is what parts have of their
            own, none on flows.
        noise_scale: Factor on the injected noise, likewise; below 1 samples colder than the model.
    """

    order: ClassVar[int] = 1
    steps: int = 50
    eta: Setting | None = None
    noise_scale: Setting = 1.0
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        yield Row(t, s, at=t, move=ancestral(process, t, s, self.eta, self.noise_scale))


@dataclass(frozen=True)
class DDPM(Solver):
    """Ancestral sampling; exact as steps grow: `DDIM` with eta = 1.

    Classes are moved by their own posterior, which forgets nothing that is shown, and churned as they say themselves
    (`Absorbing(eta=...)`). `DDIM(eta={"pos": 1.0, "kind": 1.0})` remasks: a site forgets what it shows with probability
    1 - (c_s/c_t)^2, c the clock.

    Args:
        noise_scale: Factor on the noise, one number or one for every part by name; on classes a temperature.
        large: Whether its variance is that of the forward step s -> t ("fixed large" of Ho et al. 2020), instead of
            the posterior's ("fixed small"). Classes have no deviation, and are moved as without it.
    """

    order: ClassVar[int] = 1
    steps: int = 100
    noise_scale: Setting = 1.0
    times: Grid = field(default_factory=LinearGrid)
    large: bool = False

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        churn = process.per_part(lambda leaf: posterior(leaf, t, s) if leaf.flows else leaf.churn(t, s))

        def factor(leaf: Leaf, noise_scale: float) -> float:
            # The forward step's deviation is sigma_t/sigma_s times the posterior's; classes have no deviation.
            large = self.large and s > 0 and leaf.flows
            return noise_scale * (leaf.schedule(t)[1] / leaf.schedule(s)[1] if large else 1.0)

        noise_scale = process.per_part(factor, self.noise_scale)
        yield Row(t, s, at=t, move=process.move(t, s, churn, noise_scale))


@dataclass(frozen=True)
class Consistency(Solver):
    """Each step goes all the way to the prediction and back to fresh noise (Song et al. 2023, Alg. 1).

    For models whose single prediction is a sample; with others it is DDIM with noise in full.

    Args:
        low: sigma/alpha of the noise that is still in predictions: a consistency model's sigma_min.
    """

    order: ClassVar[int] = 1
    steps: int = 2
    times: Grid = field(default_factory=Karras)
    low: float = 0.0

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        yield Row(t, s, at=t, move=process.per_part(lambda leaf: self.move(leaf, t, s)))

    def move(self, leaf: Leaf, t: float, s: float) -> Any:
        """x_s = alpha_s x0 + sqrt(sigma_s^2 - alpha_s^2 low^2) z on flat spaces; elsewhere the full churn."""
        alpha, sigma = leaf.schedule(s)
        if not isinstance(leaf, Gaussian):
            return leaf.move(t, s, sigma)
        return Move(0.0, alpha, math.sqrt(max(sigma * sigma - (alpha * self.low) ** 2, 0.0)))


@dataclass(frozen=True)
class FlowMap(Solver):
    """Whole jumps of a few-step model, from each time of the grid to the next, in one evaluation each.

    For flow maps alone (`gendiff.training.fewstep`); such a model is a plain denoiser to every other solver.

    Args:
        gamma: Share of the noise that is drawn anew: each step jumps to the time u at which sigma_u/alpha_u is
            sqrt(1 - gamma^2) sigma_s/alpha_s, and back up to s (Kim et al. 2024, Alg. 3). 0 is deterministic, 1 goes
            all the way to the data, as `Consistency` does.

    Raises:
        SamplerError: For gamma between 0 and 1 where the parts of a bundle would jump to different times.
    """

    order: ClassVar[int] = 1
    steps: int = 4
    gamma: float = 0.0
    times: Grid = field(default_factory=lambda: PowerGrid(1.0))

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        if not self.gamma or s == 0:
            yield Row(t, s, at=t, to=s, move=plain(process, t, s))
            return
        ends = process.per_part(partial(self.lower, s=s))
        first = leaves(ends)[0]
        if any(not math.isclose(end, first, abs_tol=1e-9) for end in leaves(ends)):
            raise SamplerError(f"FlowMap(gamma={self.gamma}) on {process!r}, whose clocks differ", "gamma=0 or 1")
        move = process.per_part(lambda leaf: leaf.move(t, s, self.gamma * leaf.schedule(s)[1]))
        yield Row(t, s, at=t, to=first, move=move)

    def lower(self, leaf: Leaf, s: float) -> float:
        """The time u that is jumped to before noise is added up to s."""
        alpha, sigma = leaf.schedule(s)
        ratio = math.sqrt(1 - self.gamma**2) * sigma / alpha if alpha > 0 else math.inf
        return min(leaf.schedule.unclock(ratio), s) if ratio > 0 else 0.0


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """The reverse SDE in t, as it stands: what "the SDE sampler" of a paper usually is; see the top of the file.

    DDIM and DPMpp2M with noise follow the same SDE with a constant prediction exactly, and need far fewer steps.

    Args:
        eta: Factor on the noise: 1 is the reverse SDE, 0 Euler's method for the probability flow in t.
        noise_scale: Factor on the noise alone, without the drift that belongs to it.

    Raises:
        SamplerError: Where alpha = 0, since the drift is infinite; for processes that are not Gaussian.
    """

    order: ClassVar[int] = 1
    steps: int = 500
    eta: Setting = 1.0
    noise_scale: Setting = 1.0
    times: Grid = field(default_factory=LinearGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        move = process.per_part(lambda leaf, *own: self.move(leaf, t, s, *own), self.eta, self.noise_scale)
        yield Row(t, s, at=t, move=move)

    def move(self, leaf: Leaf, t: float, s: float, eta: float, noise_scale: float) -> Move:
        """The coefficients of the step t -> s; into sigma = 0, the prediction itself."""
        if not isinstance(leaf, Gaussian):
            raise SamplerError(f"EulerMaruyama got {leaf!r}", "Gaussian processes", "DDIM(eta=1.0)")
        alpha, sigma = leaf.schedule(t)
        if alpha <= 0:
            raise SamplerError(
                f"EulerMaruyama begins at t = {t}, where {leaf.schedule!r} has alpha = 0 and an infinite drift",
                "a grid that starts below",
                "EulerMaruyama(times=LinearGrid(start=0.99))",
            )
        if leaf.schedule(s)[1] <= 0:
            return leaf.move(t, s)
        up, down = leaf.schedule.slopes(t)
        h, f, double = t - s, up / alpha, 1 + eta**2
        k = max(down / sigma - f, 0.0)
        pull = h * double * k * alpha
        return Move(1 - h * f - h * double * k, pull, noise_scale * eta * sigma * math.sqrt(2 * k * h))


@dataclass(frozen=True)
class Heun(Solver):
    """Two evaluations a step, second order: Algorithm 1 of Karras et al. (2022) without churn, on any space."""

    order: ClassVar[int] = 2
    steps: int = 18
    times: Grid = field(default_factory=PowerGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        move = plain(process, t, s)
        yield Row(t, s, at=t, move=move, last=s <= 0)
        if s > 0:
            weights = process.per_part(lambda leaf: heun(leaf.schedule.clock(t), leaf.schedule.clock(s)))
            yield Row(t, s, at=s, weights=weights, redo=True, move=move)


@dataclass(frozen=True)
class Midpoint(Solver):
    """Two evaluations a step, the second halfway in time."""

    order: ClassVar[int] = 2
    steps: int = 18
    times: Grid = field(default_factory=PowerGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        if s <= 0:
            yield Row(t, s, at=t, move=plain(process, t, s))
            return
        u = (t + s) / 2
        yield stage(process, t, u, t, (t,), (1.0,))
        yield stage(process, t, s, u, (u, t), (1.0, 0.0), redo=True, last=True)


@dataclass(frozen=True)
class RK4(Solver):
    """Four evaluations a step: Kutta's rule on the clock. Fourth order on flat spaces, second on curved."""

    order: ClassVar[int] = 4
    steps: int = 10
    times: Grid = field(default_factory=partial(PowerGrid, 2.0))

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        if s <= 0:
            yield Row(t, s, at=t, move=plain(process, t, s))
            return
        schedule = schedule_of(process)
        c = (schedule.clock(t) + schedule.clock(s)) / 2
        u = schedule.unclock(c / (1 - c) if schedule.bounded else c)
        yield stage(process, t, u, t, (t,), (1.0,))
        yield stage(process, t, u, u, (u, t), (1.0, 0.0), redo=True)
        yield stage(process, t, s, u, (u, u, t), (1.0, 0.0, 0.0), redo=True)
        yield stage(process, t, s, s, (s, u, u, t), (1 / 6, 1 / 3, 1 / 3, 1 / 6), redo=True, last=True)


@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver-1, 2 and 3: noise predictions, one, two or three evaluations a step.

    Args:
        order: Of every step.
        orders: Of the steps one by one, instead; missing ones are `order`.
        eta: Share of the posterior's noise that is added, at orders 1 and 2: k-diffusion's DPM2 a.
        noise_scale: Factor on that noise.

    Raises:
        SamplerError: For other orders, and noise at order 3.
    """

    steps: int = 10
    order: int = 2  # type: ignore[misc]
    orders: tuple[int, ...] = ()
    times: Grid = field(default_factory=LogSNRGrid)
    eta: Setting | None = None
    noise_scale: Setting = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        every = {self.order, *self.orders}
        if not every <= {1, 2, 3} or (self.eta and 3 in every):
            raise SamplerError(
                f"DPMSolver got orders {sorted(every)} and eta={self.eta}",
                "orders 1, 2 or 3, and noise at 1 and 2 only",
                "DPMSolver(order=2, eta=1.0)",
            )

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        order = self.orders[len(past)] if len(past) < len(self.orders) else self.order
        schedule, move = schedule_of(process), ancestral(process, t, s, self.eta, self.noise_scale)
        now, then = schedule.logsnr(t), reached(process, t, s, self.eta)
        if order == 1 or not math.isfinite(then - now):
            yield Row(t, s, at=t, move=move)
            return
        between = [schedule.time(now + (then - now) * k / order) for k in range(1, order)]
        yield stage(process, t, between[0], t, (t,), (1.0,))
        if order == 2:
            half = stage(process, t, s, between[0], (between[0], t), (1.0, 0.0), redo=True, last=True)
            yield replace(half, move=move)
            return
        u, v = between
        yield stage(process, t, v, u, (u, t), None, redo=True)
        # The last stage interpolates between the first and the third evaluation.
        yield stage(process, t, s, v, (v, u, t), None, redo=True, last=True, skip=1)


@dataclass(frozen=True)
class DPMpp2S(Solver):
    """DPM-Solver++(2S): the prediction that moves is made halfway in lambda.

    Args:
        eta: Share of the posterior's noise that is added: with 1 the ancestral form.
        noise_scale: Factor on that noise.
        inner: Whether the half step gets its own noise too, and ends halfway to s: k-diffusion's DPM++ SDE. Else it
            ends halfway to where the noise is added.
    """

    order: ClassVar[int] = 2
    steps: int = 10
    times: Grid = field(default_factory=Karras)
    eta: Setting | None = None
    noise_scale: Setting = 1.0
    inner: bool = False

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        schedule, move = schedule_of(process), ancestral(process, t, s, self.eta, self.noise_scale)
        now, then = schedule.logsnr(t), reached(process, t, s, 0.0 if self.inner else self.eta)
        if not math.isfinite(then - now):
            yield Row(t, s, at=t, move=move)
            return
        u = schedule.time((now + then) / 2)
        half = ancestral(process, t, u, self.eta if self.inner else 0.0, self.noise_scale)
        yield Row(t, u, at=t, move=half, last=False)
        yield Row(t, s, at=u, weights=(1.0, 0.0), redo=True, move=move)


@dataclass(frozen=True)
class Churn(Solver):
    """Another solver after some noise: before each step from sigma in [low, high], sigma grows by min(churn/n, 0.41).

    Args:
        solver: A solver of single steps, e.g. Heun() or Euler(); its own steps and grid are not used.
        churn: S_churn.
        low: S_tmin.
        high: S_tmax.
        noise_scale: S_noise.
    """

    order: ClassVar[int] = 1
    steps: int = 18
    times: Grid = field(default_factory=Karras)
    solver: Solver = field(default_factory=Heun)
    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    noise_scale: Setting = 1.003

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        leaf = leaf_of(process)
        level = ratio(leaf, t)
        if math.isfinite(level) and between(leaf, t, self.low, self.high):
            up = leaf.schedule.unclock(level * (1 + min(self.churn / self.steps, math.sqrt(2) - 1)))
            if up > t:
                yield Row(t, up, noise_scale=self.noise_scale, last=False)
                t = up
        yield from self.solver.step(process, t, s, Past())


@dataclass(frozen=True)
class OnePath(Solver):
    """Another solver, its noise read off one Brownian path in t: more steps refine the same sample."""

    order: ClassVar[int] = 1
    remembers: ClassVar[bool] = True
    steps: int = 50
    times: Grid = field(default_factory=LinearGrid)
    solver: Solver = field(default_factory=DDPM)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        solver = replace(self.solver, steps=self.steps)  # type: ignore[type-var]
        for row in solver.step(process, t, s, past):
            yield replace(row, path=row.s < row.t)


def ancestral(process: Process, t: float, s: float, eta: Any, noise_scale: Any) -> Any:
    """The move t -> s with eta times the posterior's noise; both may be by part."""
    churn = process.per_part(lambda leaf, eta: leaf.churn(t, s) if eta is None else eta * posterior(leaf, t, s), eta)
    return process.move(t, s, churn, by_part(process, noise_scale))


def reached(process: Process, t: float, s: float, eta: Setting | None) -> float:
    """`remaining` of the first part, whose levels decide where a step is divided."""
    return next(iter(leaves(process.per_part(lambda leaf, eta: remaining(leaf, t, s, eta), eta))))


def stage(
    process: Process,
    t: float,
    s: float,
    at: float,
    nodes: tuple[float, ...],
    weights: tuple[float, ...] | None,
    *,
    redo: bool = False,
    last: bool = False,
    skip: int | None = None,
) -> Row:
    """A row of rates at the times `nodes`, newest first.

    Args:
        weights: For the rates on the first part's clock, or None to interpolate in lambda.
        skip: A node that the interpolation leaves out.
    """

    first = schedule_of(process)

    def mixed(leaf: Leaf) -> tuple[float, ...]:
        if weights is None:
            kept = [u for k, u in enumerate(nodes) if k != skip]
            w = list(adams(leaf, kept, t, s, LogSNR(), -1.0))
            if skip is not None:
                w.insert(skip, 0.0)
        else:
            w = [
                b * (leaf.schedule.clock_slope(u) / first.clock_slope(u) if b else 0.0)
                for b, u in zip(weights, nodes, strict=True)
            ]
        return leads(leaf, t, nodes, w)

    return Row(
        t, s, at=at, weights=process.per_part(mixed), redo=redo, move=plain(process, t, s), last=last,
        norms=norms(process, at, t),
    )  # fmt: skip

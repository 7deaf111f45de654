r"""log p(x) by the probability flow, on any space.

With c a part's clock, y = x/n its state on the straight frame, and v the process's drift at the prediction x0,

    dy/dt = (dlog c/dt) v(y, x0, t)                          v = y - x0 on R^n, -log_y(x0) on curved spaces
    log p(y_0) = log p_1(y_1) + int_0^1 div(dy/dt) dt     log p(x) = log p(y) - dim log n

(Chen et al. 2018; Song et al. 2021), from t = 0 to 1 by Runge-Kutta's classical fourth order in fixed steps, in the
normal chart at each step's start, each sample by itself. The divergence is a trace over the tangent space,

    Exact        sum_i <P e_i, D_{P e_i} v>                  one directional derivative per tangent number
    Hutchinson   mean_k <P z_k, D_{P z_k} v>                 probes z_k drawn once per sample, before the integration

where D_e v is the derivative along exp_x(h e) and P projects to the tangent space (Centered: the subspace; Sphere: the
tangent plane; SO3: left-invariant fields, whose plain trace is the divergence) and to real sites.

Densities are by the space's own volume: Lebesgue's on R^n, that of the (N - 1) D dimensional subspace on Centered, the
metric's on curved ones (SO3 has the volume 8 pi^2, a circle 2 pi); less `space.log_random` they are densities by the
normalised uniform measure. The prior's density is the process's `log_prior`.
"""

from __future__ import annotations

import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.errors import GendiffError
from gendiff.processes import Joint, Leaf, Process
from gendiff.random import Noise
from gendiff.spaces import Product, Space, State, map_state, tensors


@dataclass(frozen=True)
class Likelihood:
    """What `log_likelihood` found.

    Attributes:
        log_p: log p(x) in nats, [B].
        error: Standard error of log_p from the probes, [B]; 0 where the divergence is exact, inf for a single probe.
        end: The state at t = 1 that x flows to.
        dim: Degrees of freedom, [B].
    """

    log_p: Tensor
    error: Tensor
    end: State
    dim: Tensor

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 p per degree of freedom, [B]."""
        return -self.log_p / (self.dim.to(self.log_p) * math.log(2))


class Divergence(ABC):
    """Which directions to differentiate along."""

    @abstractmethod
    def directions(self, like: State, noise: Noise | None) -> list[State]:
        """Arrays of tangent shape, one or more, fixed for the whole integration."""

    @abstractmethod
    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        """The integral of the divergence and its standard error, [B] each, from those along every direction [k, B]."""


@dataclass(frozen=True)
class Exact(Divergence):
    """The whole trace."""

    def directions(self, like: State, noise: Noise | None) -> list[State]:
        return list(basis(like))

    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        return traces.sum(0), torch.zeros_like(traces[0])


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """An unbiased estimate of the trace.

    Args:
        probes: How many random directions.
        gaussian: Normal numbers rather than signs; signs have the smaller variance.
    """

    probes: int = 8
    gaussian: bool = False

    def directions(self, like: State, noise: Noise | None) -> list[State]:
        if noise is None:
            raise GendiffError("Hutchinson got no noise", "a source of probes", "noise=Noise.of(seed, n)")

        def one(x: Tensor, source: Noise) -> Tensor:
            z = source.normal(x.shape, x.dtype)
            return z if self.gaussian else torch.where(z < 0, -1.0, 1.0).to(x.dtype)

        out = []
        for k in range(self.probes):
            source = noise.fork("probe").at(k)
            bundle = isinstance(like, Mapping)
            out.append({n: one(x, source.fork(n)) for n, x in like.items()} if bundle else one(like, source))
        return out

    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        k = len(traces)
        if k == 1:
            return traces[0], torch.full_like(traces[0], math.inf)
        return traces.mean(0), traces.std(0) / k**0.5


@functools.cache
def forward_mode() -> None:
    """Wakes torch's forward-mode derivatives, whose first use warns of what torch itself still does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def basis(like: State) -> Iterator[State]:
    """The unit arrays of a tangent's shape, the same for all samples."""
    for number, x in enumerate(tensors(like)):
        for i in range(x[0].numel()):
            unit = torch.zeros_like(x[:1]).flatten()
            unit[i] = 1
            parts = [torch.zeros_like(p) for p in tensors(like)]
            parts[number] = unit.reshape(x[:1].shape).expand(x.shape)
            yield dict(zip(like, parts, strict=True)) if isinstance(like, Mapping) else parts[0]


def real(space: Space, v: State) -> State:
    """A tangent with padded sites set to zero."""
    return space.each(lambda name, part: real(part, v[name])) if isinstance(space, Product) else space.real(v)


def inner(u: State, v: State) -> Tensor:
    """<u, v> per sample, [B]."""
    return torch.stack([(a * b)[..., None].flatten(1).sum(1) for a, b in zip(tensors(u), tensors(v), strict=True)]).sum(
        0
    )


def with_traces(
    space: Space, velocity: Callable[[State], State], y: State, directions: Sequence[State]
) -> tuple[State, Tensor]:
    """The velocity at y, and <e, D_e velocity> for every direction e, [k, B]."""
    out = []
    v: State = None
    for raw in directions:
        e = real(space, space.tangent(y, raw))
        zero = torch.zeros((), dtype=tensors(y)[0].dtype, device=tensors(y)[0].device)

        def along_e(h: Tensor, e: State = e) -> State:
            return velocity(space.exp(y, space.scale(e, h)))

        v, change = torch.func.jvp(along_e, (zero,), (torch.ones_like(zero),))  # type: ignore[misc]
        out.append(inner(e, change))
    return v, torch.stack(out)


def log_likelihood(
    denoiser: Denoise,
    x0: State,
    *,
    steps: int = 128,
    divergence: Divergence | None = None,
    noise: Noise | None = None,
    cond: dict[str, Any] | None = None,
    least: float | None = None,
    grid: Sequence[float] | None = None,
) -> Likelihood:
    """log p of clean states under the probability flow of a denoiser.

    Args:
        denoiser: Predicts the clean state; differentiable in x.
        x0: Clean states [B, ...].
        steps: Runge-Kutta steps of four evaluations (each with its derivatives).
        divergence: `Exact()`, or `Hutchinson(probes)`, which needs `noise`.
        noise: The source of the probes; its index names the samples.
        cond: Conditions [B, ...], with "mask" for padded batches.
        least: The clock below which the velocity is taken to be constant; 1e-5 in float64, 1e-3 below.
        grid: Times from 0 to 1, instead of `steps` even ones in sqrt t.

    Raises:
        GendiffError: For processes without a probability flow, such as those on categories.
    """
    forward_mode()
    cond = cond or {}
    process = denoiser.process.masked(cond.get("mask"))
    space, method = process.space, divergence or Exact()
    first = tensors(x0)[0]
    start = first_time(process, least or (1e-5 if first.dtype == torch.float64 else 1e-3))
    grid = times(steps) if grid is None else grid
    x = space.project(x0)
    drift(process, x, x, 1.0)  # refuses, before anything is spent, what has no flow
    y = framed(process, x, grid[0], True)
    probes = method.directions(space.log(y, y), noise)

    def at(t: float) -> Callable[[State], State]:
        t = max(t, start)  # the velocity has a limit at 0, of the form 0/0
        rates = process.per_part(lambda leaf: leaf.schedule.clock_slope(t) / leaf.schedule.clock(t))

        def velocity(y: State) -> State:
            guess = denoiser(space.project(framed(process, y, t, False)), t, **cond)
            return space.scale(drift(process, y, guess, t), rates)

        return velocity

    traces = torch.zeros(len(probes), first.shape[0], dtype=first.dtype, device=first.device)
    for t, s in pairwise(grid):
        h, middle = s - t, at((t + s) / 2)
        k1, d1 = with_traces(space, at(t), y, probes)
        k2, d2 = stage(space, middle, y, space.scale(k1, h / 2), probes)
        k3, d3 = stage(space, middle, y, space.scale(k2, h / 2), probes)
        k4, d4 = stage(space, at(s), y, space.scale(k3, h), probes)
        move = map_state(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        y = space.project(space.exp(y, space.scale(move, h)))
        traces = traces + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    end = framed(process, y, grid[-1], False)
    total, error = method.combine(traces)
    stretch = log_norm(process, x, grid[-1]) - log_norm(process, x, grid[0])
    log_p = process.log_prior(end, grid[-1]) + stretch.to(total) + total
    return Likelihood(log_p, error, end, space.dim(x0).to(first.device))


def stage(
    space: Space, velocity: Callable[[State], State], base: State, u: State, directions: Sequence[State]
) -> tuple[State, Tensor]:
    """The velocity at exp_base(u) in the normal chart at base, where Runge-Kutta's sums make sense, and the traces."""
    y = space.exp(base, u)
    v, traces = with_traces(space, velocity, y, directions)
    zero = torch.zeros((), dtype=tensors(y)[0].dtype, device=tensors(y)[0].device)
    _, pulled = torch.func.jvp(  # type: ignore[misc]
        lambda h: space.log(base, space.exp(y, space.scale(v, h))), (zero,), (torch.ones_like(zero),)
    )
    return pulled, traces


def drift(process: Process, y: State, guess: State, t: float) -> State:
    """The drift of every part per unit of its log clock."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: drift(part, y[name], guess[name], t))
    assert isinstance(process, Leaf)
    return process.drift(y, guess, t)


def framed(process: Process, x: State, t: float, inward: bool) -> State:
    """y = x/n(t) by part, or x = n(t) y."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: framed(part, x[name], t, inward))
    assert isinstance(process, Leaf)
    n = process.norm(t)
    return x if n == 1 else x / n if inward else x * n


def log_norm(process: Process, x: State, t: float) -> Tensor:
    """dim log n(t), summed over parts, [B]."""
    if isinstance(process, Joint):
        return torch.stack([log_norm(part, x[name], t) for name, part in process.parts.items()]).sum(0)
    assert isinstance(process, Leaf)
    return process.space.dim(x) * math.log(process.norm(t))


def times(steps: int) -> list[float]:
    """steps + 1 times from 0 to 1, closer together near the data."""
    if steps < 1:
        raise GendiffError(f"log_likelihood got steps={steps}", "at least one step")
    return [(i / steps) ** 2 for i in range(steps + 1)]


def first_time(process: Process, least: float) -> float:
    """The first time at which every part's clock is at least `least`."""
    return max(leaves(process.per_part(lambda leaf: leaf.schedule.unclock(least))))


def leaves(value: Any) -> list[Any]:
    """The values of a nested dict."""
    return [leaf for part in value.values() for leaf in leaves(part)] if isinstance(value, dict) else [value]

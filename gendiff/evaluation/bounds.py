r"""Variational bounds on log p(x), of Gaussian and categorical processes and their joints, at a denoiser.

    continuous   -log p(x) <= start_gap + int_0^1 rate(t) dim error(x_t, D(x_t, t), x) dt + decode       (elbo)
    discrete     -log p(x) <= start_gap + sum over the grid of KL(q(x_s | x_t, x) | p(x_s | x_t)) + decode    (vlb)

(Ho et al. 2020; Kingma et al. 2021, whose rate is -d(SNR)/dt/2; Campbell et al. 2022). At the exact denoiser the
continuous bound is log p itself, for every x. The integral is a mean over `draws` times per sample, one in each of as
many strata of

    G(t) = t/2 + (share of the log-SNR's way from its first value down to `bottom`)/2, averaged over parts

divided by G'(t): nearly even weights, whatever the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, predict, refuse_previous
from gendiff.errors import POSITIVE, GendiffError, whole
from gendiff.processes import Joint, Process
from gendiff.processes.schedules import Time, maths, moving
from gendiff.random import Noise
from gendiff.spaces import State, leaves, per_sample, tensors, widened


@runtime_checkable
class Bounded(Protocol):
    """Leaf processes with a bound; all but `rate` are nats per sample, [B]."""

    def rate(self, t: Time) -> Tensor: ...
    def gap(self, x: Any, guess: Any, x0: Any, t: Time, s: Time) -> Tensor: ...
    def decode(self, x: Any, guess: Any, x0: Any, t: float) -> Tensor: ...
    def start_gap(self, x0: Any) -> Tensor: ...


@dataclass(frozen=True)
class Bound:
    """A bound on log p(x) in nats.

    Attributes:
        log_p: The bound, [B].
        error: Its standard error from the draws, [B]; an upper estimate, since the strata are ignored.
        dim: Degrees of freedom (sites, for categories), [B].
    """

    log_p: Tensor
    error: Tensor
    dim: Tensor

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 of the bound per degree of freedom, [B]."""
        return -self.log_p / (self.dim.to(self.log_p) * torch.tensor(2.0, dtype=torch.float64).log().to(self.log_p))


def each(process: Process, f: Any, *states: State) -> Tensor:
    """The sum over parts of f(leaf, name, *parts of the states), [B]."""
    if isinstance(process, Joint):
        parts = [
            each(part, lambda leaf, _, *xs, name=name: f(leaf, name, *xs), *(x[name] for x in states))
            for name, part in process.parts.items()
        ]
        return torch.stack(parts).sum(0)
    if not isinstance(process, Bounded):
        raise GendiffError(
            f"{process!r} has no variational bound", "Gaussian, Absorbing, UniformCategories, or a Joint"
        )
    return f(process, "", *states)


def progress(process: Process, t: Time, start: float, bottom: float) -> Time:
    """G(t), which rises from about 0 to 1."""

    def share(leaf: Any) -> Time:
        top = leaf.schedule.logsnr(start)
        low = max(bottom, float(leaf.schedule.logsnr(1.0)))
        return (top - maths(t).clip(leaf.schedule.logsnr(t), low, top)) / (top - low)

    ways = leaves(process.per_part(share))
    return 0.5 * t + 0.5 * sum(ways) / len(ways)


def strata(process: Process, u: Tensor, start: float, bottom: float = -14.0) -> tuple[Tensor, Tensor]:
    """Times whose quantiles under G are u in (0, 1), and their weights dt/du, float64."""
    first, last = (progress(process, torch.tensor(t, dtype=torch.float64), start, bottom) for t in (start, 1.0))
    goal = first + (last - first) * u
    low, high = torch.full_like(u, start), torch.ones_like(u)
    for _ in range(60):
        middle = (low + high) / 2
        below = progress(process, middle, start, bottom) < goal
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    t = (low + high) / 2
    return t, (last - first) / progress(process, moving(t), start, bottom).slope


def elbo(
    denoiser: Denoise,
    x0: State,
    noise: Noise,
    *,
    draws: int = 32,
    least: float = 1e-3,
    cond: dict[str, Any] | None = None,
) -> Bound:
    """The continuous-time bound on log p of clean states.

    Args:
        denoiser: Predicts the clean state.
        x0: Clean states [B, ...].
        noise: The source of times and noise; its index names the samples.
        draws: Times per sample, stratified.
        least: The clock at which decoding begins.
        cond: Conditions [B, ...], with "mask" for padded batches.

    Raises:
        GendiffError: For no draws, a clock that is not positive, or processes without a bound.
    """
    whole("elbo", "draws", draws)
    if least not in POSITIVE:
        raise GendiffError(f"elbo got least={least!r}", str(POSITIVE), "elbo(..., least=1e-3)")
    refuse_previous(denoiser, "elbo")
    cond = cond or {}
    process = denoiser.process.masked(cond.get("mask"))
    start, n, x0 = first_time(process, least), tensors(x0)[0].shape[0], widened(x0)
    dims = process.space.dim(x0)
    values = []
    for k in range(draws):
        u = noise.fork("time").at(k).uniform((n,)).cpu()
        t, weight = strata(process, (k + u) / draws, start)
        x = process.noise(x0, t, noise.fork("bound").at(k))
        guess = predict(denoiser, process, x, t, cond)

        def integrand(leaf: Any, name: str, x: State, guess: State, x0: State, t: Tensor = t) -> Tensor:
            error = leaf.error(x, guess, x0, t)
            return error * per_sample(leaf.rate(t), error) * per_sample(leaf.space.dim(x0), error)

        value = each(process, integrand, x, guess, x0)
        values.append(value * per_sample(weight, value))
    stacked = torch.stack(values)
    error = stacked.std(0) / draws**0.5 if draws > 1 else torch.full_like(stacked[0], float("inf"))
    return Bound(-(stacked.mean(0) + ends(denoiser, process, x0, start, noise, cond)), error, dims)


def vlb(
    denoiser: Denoise, x0: State, noise: Noise, *, grid: Sequence[float], cond: dict[str, Any] | None = None
) -> Bound:
    """The bound of ancestral sampling on a grid of times, noisiest first, down to 0 (or to where decoding begins).

    Raises:
        GendiffError: For times that do not fall from 1, where the prior is drawn, or processes without a bound.
    """
    cond, x0 = cond or {}, widened(x0)
    process = denoiser.process.masked(cond.get("mask"))
    refuse_previous(denoiser, "vlb")
    if not grid or not grid[0] == 1 or not all(t > s >= 0 for t, s in pairwise(grid)):
        raise GendiffError(f"vlb got the grid {list(grid)}", "times that fall from 1 on", "LinearGrid()(process, 100)")
    # The step into 0 is the decoding itself.
    *_, start = times = [t for t in grid if t > 0]
    total = torch.zeros(())
    for k, (t, s) in enumerate(pairwise(times)):
        x = process.noise(x0, t, noise.fork("bound").at(k))
        guess = predict(denoiser, process, x, t, cond)
        total = total + each(
            process, lambda leaf, _, x, guess, x0, t=t, s=s: leaf.gap(x, guess, x0, t, s), x, guess, x0
        )
    log_p = -(total + ends(denoiser, process, x0, start, noise, cond))
    return Bound(log_p, torch.full_like(log_p, float("nan")), process.space.dim(x0))


def first_time(process: Process, least: float) -> float:
    """The first time at which every part's clock is at least `least`."""
    return max(leaves(process.per_part(lambda leaf: leaf.schedule.unclock(least))))


def ends(denoiser: Denoise, process: Process, x0: State, start: float, noise: Noise, cond: Mapping[str, Any]) -> Tensor:
    """Nats of the prior's end, and of decoding from `start`, [B]."""
    x = process.noise(x0, start, noise.fork("decode"))
    guess = predict(denoiser, process, x, start, cond)
    decoded = each(process, lambda leaf, _, x, guess, x0: leaf.decode(x, guess, x0, start), x, guess, x0)
    return decoded + each(process, lambda leaf, _, x0: leaf.start_gap(x0), x0)

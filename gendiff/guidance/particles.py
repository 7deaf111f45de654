r"""Particles: K of them for each sample, weighed on the way, resampled within their group.

The target is the sampler's own chain p(x_T) prod p(x_s | x_t), tilted by exp(phi_0(x_0)). With a guess phi_t(x_t) of
the log tilt from x_t, and proposals q, a move t -> s multiplies a particle's weight by

    exp(phi_s(x_s) - phi_t(x_t)) p(x_s | x_t)/q(x_s | x_t)

The product telescopes to exp(phi_0), so any phi gives the exact target as K grows, and the mean weight estimates
Z = E[exp phi_0], without bias. p(x_s | x_t) = N(keep x_t + pull D(x_t), churn^2), q the same with a moved prediction.

    Reward(f, strength)        phi = strength f(D(x_t)), q = p                       Feynman-Kac steering, Singhal 2025
    Likelihood(measured, d)    phi = log N(y; A D(x_t), s^2 + d^2 sigma^2/(d^2 alpha^2 + sigma^2)),
                               q moved by its gradient                               twisted SMC, Wu et al. 2023

A group is resampled (systematically) where its effective sample size (sum w)^2/sum w^2 falls below a share of K: a
choice made on the device, group by group. Particle k of sample i draws its own counter-based noise, so one particle
(K = 1, q = p) is the solver's own sample.

`steer` gives all particles with their weights; `FeynmanKac` is a sampler, and gives one of each group, drawn by weight.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, clean
from gendiff.errors import SamplerError
from gendiff.guidance.inverse import Measurement
from gendiff.guidance.wrappers import differentiable, floored, gradients, tilted
from gendiff.processes import Gaussian, Joint, Move, Process, pick, schedule_of
from gendiff.random import Noise
from gendiff.sampling import Loop, Progress, source, table
from gendiff.sampling.solvers import Row, Solver
from gendiff.spaces import State, inner, map_state, tensors


class Potential(ABC):
    """The interface.

    Attributes:
        gradient: Whether proposals follow the gradient of phi.
    """

    gradient: bool = False

    @abstractmethod
    def __call__(self, x0: State, process: Process, t: float) -> Tensor:
        """phi_t from the prediction D(x_t): [B K]; at t = 0 the log tilt itself."""


@dataclass(frozen=True)
class Reward(Potential):
    """Tilts samples by exp(strength f(x0)).

    Args:
        f: x0 [B K, ...] to [B K].
        strength: Factor; at time t it counts alpha_t^power of it, so that early guesses count less.
    """

    f: Callable[[State], Tensor]
    strength: float = 1.0
    power: float = 0.0

    def __call__(self, x0: State, process: Process, t: float) -> Tensor:
        return self.strength * schedule_of(process)(t)[0] ** self.power * self.f(x0)


@dataclass(frozen=True)
class Likelihood(Potential):
    """Tilts samples by the likelihood of a measurement, whose noise must not be 0.

    Args:
        measured: y, A and s, for one sample or for all.
        data_std: d, the standard deviation of the data.

    Raises:
        SamplerError: For a measurement without noise: no particle meets it exactly.
    """

    gradient = True
    measured: Measurement
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if self.measured.noise <= 0:
            raise SamplerError(
                f"Likelihood got a measurement with noise {self.measured.noise}",
                "a positive standard deviation",
                "Measurement(operator, y, noise=0.05)",
            )

    def __call__(self, x0: State, process: Process, t: float) -> Tensor:
        m, d2 = self.measured, self.data_std**2
        alpha, sigma = schedule_of(process, m.part)(t)
        variance = m.noise**2 + d2 * sigma**2 / (d2 * alpha**2 + sigma**2)
        residual = m.y - m.apply(m.pick(x0))
        count = residual[0].numel()
        return -0.5 * inner(residual, residual) / variance - 0.5 * count * math.log(2 * math.pi * variance)


@dataclass(frozen=True)
class Particles:
    """What `steer` gives.

    Attributes:
        state: [B K, ...], the K particles of a sample beside each other.
        log_weights: [B, K], normalised: logsumexp is 0.
        log_evidence: log Z, [B].
        sizes: Effective sample sizes before each resampling, [moves + 1, B].
    """

    state: State
    log_weights: Tensor
    log_evidence: Tensor
    sizes: Tensor

    def draw(self, noise: Noise) -> State:
        """One particle of each sample, by weight: [B, ...]."""
        b, k = self.log_weights.shape
        u = noise.fork("pick").uniform((b,), self.log_weights.dtype)
        place = torch.searchsorted(self.log_weights.exp().cumsum(1), u[:, None]).clamp_max(k - 1)[:, 0]
        rows = torch.arange(b, device=place.device) * k + place
        return map_state(lambda x: x[rows], self.state)

    def mean(self, f: Callable[[State], Tensor] = lambda x: x) -> Tensor:
        """The weighted mean of f(state) over each sample's particles: [B, ...]."""
        b, k = self.log_weights.shape
        values = f(self.state).unflatten(0, (b, k))
        return (self.log_weights.exp().reshape(b, k, *(1,) * (values.ndim - 2)) * values).sum(1)


@dataclass(frozen=True)
class FeynmanKac(Loop):
    """Particles as a sampler: `model.sample(n, sampler=FeynmanKac(DDPM(100), Reward(f), 16))`.

    Args:
        solver: One evaluation and one move a step, e.g. `DDPM(100)`.
        potential: What tilts.
        particles: K, for each sample.
        threshold: Groups are resampled below this share of K.
    """

    solver: Solver
    potential: Potential
    particles: int = 16
    threshold: float = 0.5

    def draw(
        self,
        denoiser: Denoise,
        like: State,
        *,
        noise: Noise,
        cond: dict[str, Any],
        start: State | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> State:
        found = steer(
            denoiser, like, self.potential, solver=self.solver, noise=noise, particles=self.particles,
            threshold=self.threshold, cond=cond, start=start, callback=callback,
        )  # fmt: skip
        return found.draw(noise)


@torch.no_grad()
def steer(
    denoiser: Denoise,
    like: State,
    potential: Potential,
    *,
    solver: Solver,
    noise: Noise,
    particles: int = 16,
    threshold: float = 0.5,
    cond: dict[str, Any] | None = None,
    start: State | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Particles:
    """Draws B groups of K weighted particles of the tilted sampler.

    Args:
        denoiser: Predicts the clean state; differentiable if the potential's gradient is followed.
        like: Shapes of the B samples; values are not read.
        potential: What tilts.
        solver: One evaluation and one move a step, e.g. `DDPM(100)`; proposals with a gradient need churn.
        noise: Its index names the B samples.
        particles: K.
        threshold: Groups are resampled below this share of K.
        cond: Conditions [B, ...].
        start: States [B, ...] at the grid's first time, from which all particles of a sample set out.
        callback: Called after each move, with all particles.

    Raises:
        SamplerError: If the solver weighs past predictions or redoes steps.
    """
    b, k = tensors(like)[0].shape[0], particles
    cond = {name: each(v, k) for name, v in (cond or {}).items()}
    process = denoiser.process.masked(cond.get("mask"))
    rows = table(solver, denoiser.process)
    check(rows, solver)
    own = replace(noise, index=each(noise.index, k) * k + torch.arange(k, device=noise.index.device).repeat(b))
    potential = grown(potential, b, k, noise.index.device)
    many = map_state(lambda part: each(part, k), like if start is None else start)
    x = process.prior(many, own.fork("prior"), rows[0].t) if start is None else many
    churn, up, ties = own.fork("churn"), own.fork("renoise"), noise.fork("resample")
    last: Any = 0.0
    log_w = torch.zeros(b, k, dtype=precision(x), device=noise.index.device)
    evidence, sizes = log_w[:, 0], []
    for number, row in enumerate(rows):
        x0, target, phi = look(denoiser, potential, process, x, row, cond)
        log_w = log_w + (phi - last).reshape(b, k)
        log_w, evidence, rows_kept, size = resample(log_w, evidence, threshold, ties.at(number))
        sizes.append(size)
        x, x0, target = (map_state(lambda part: part[rows_kept], state) for state in (x, x0, target))  # noqa: B023
        last = phi[rows_kept]
        if row.move is None:
            x = process.renoise(x, row.t, row.s, up.at(number), row.noise_scale)
        else:
            moved = process.take(x, target, row.move, source(churn, rows, number, number))
            if potential.gradient:
                last = last - ratio(process, x, moved, x0, target, row.move)
            x = moved
        if callback is not None:
            callback(Progress(number, len(rows), row.s, x, x0))
    x = process.space.project(x)
    log_w = log_w + (potential(x, process, 0.0) - last).reshape(b, k)
    total = torch.logsumexp(log_w, 1)
    sizes.append(effective(log_w))
    return Particles(x, log_w - total[:, None], evidence + total - math.log(k), torch.stack(sizes))


def look(
    denoiser: Denoise, potential: Potential, process: Process, x: State, row: Row, cond: dict[str, Any]
) -> tuple[State, State, Tensor]:
    """The prediction at x_t, the one that the proposal moves to, and phi."""
    if not potential.gradient or not noisy(row.move):
        x0 = clean(denoiser(x, row.t, **cond))
        return x0, x0, potential(x0, process, row.t)
    t = floored(process, row.t)
    with torch.enable_grad():
        leaf = differentiable(x)
        x0 = clean(denoiser(leaf, t, **cond))
        phi = potential(x0, process, row.t)
        gradient = gradients(phi.sum(), leaf)
    x0 = map_state(torch.Tensor.detach, x0)
    return x0, tilted(process, x0, gradient, t), phi.detach()


def resample(log_w: Tensor, evidence: Tensor, threshold: float, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Systematic resampling of the groups that need it: new weights, evidence, kept rows [B K], effective sizes."""
    b, k = log_w.shape
    size = effective(log_w)
    require_noise = size < threshold * k
    total = torch.logsumexp(log_w, 1)
    u = noise.uniform((b,), log_w.dtype)
    places = (u[:, None] + torch.arange(k, device=log_w.device)) / k
    chosen = torch.searchsorted((log_w - total[:, None]).exp().cumsum(1), places).clamp_max(k - 1)
    stay = torch.arange(k, device=log_w.device).expand(b, k)
    ancestors = torch.where(require_noise[:, None], chosen, stay)
    evidence = evidence + torch.where(require_noise, total - math.log(k), 0.0)
    kept = (ancestors + k * torch.arange(b, device=log_w.device)[:, None]).flatten()
    return torch.where(require_noise[:, None], 0.0, log_w), evidence, kept, size


def effective(log_w: Tensor) -> Tensor:
    """(sum w)^2/sum w^2 of each group: [B]."""
    return (2 * torch.logsumexp(log_w, 1) - torch.logsumexp(2 * log_w, 1)).exp()


def ratio(process: Process, x: State, y: State, x0: State, target: State, move: Any) -> Tensor | float:
    """log p(y | x) - log q(y | x), p with the prediction and q with the target, on flat parts: [B K]."""
    if isinstance(process, Joint):
        return sum((ratio(p, x[n], y[n], x0[n], target[n], pick(move, n)) for n, p in process.parts.items()), start=0.0)
    if not isinstance(process, Gaussian) or not noisy(move):
        return 0.0
    model, proposal = (y - move.keep * x - move.pull * centre for centre in (x0, target))
    return (inner(proposal, proposal) - inner(model, model)) / (2 * move.churn**2)


def noisy(move: Any) -> bool:
    """Whether every flat or curved part of a move injects noise, so that its density is known."""
    if isinstance(move, dict):
        return all(noisy(part) for part in move.values())
    return move is not None and (not isinstance(move, Move) or bool(move.churn > 0))


def check(rows: list[Row], solver: Solver) -> None:
    """Raises SamplerError unless each row evaluates where it starts and moves once."""

    def simple(row: Row) -> bool:
        return row.last and not row.redo and row.norms is None and row.at == row.t and row.reach == 1

    if not all(row.move is None or simple(row) for row in rows):
        raise SamplerError(
            f"Particles got the sampler {solver!r}",
            "one evaluation and one move a step, and no memory of past predictions",
            "DDPM(100)",
        )


def each(value: Any, k: int) -> Any:
    """Every sample k times, beside itself; None and shared values pass."""
    if isinstance(value, dict):
        return {name: each(part, k) for name, part in value.items()}
    return value.repeat_interleave(k, 0) if isinstance(value, Tensor) else value


def precision(x: State) -> torch.dtype:
    """The widest floating type of a state's parts, at least float32."""
    return max((p.dtype for p in tensors(x) if p.is_floating_point()), key=lambda d: d.itemsize, default=torch.float32)


def grown(potential: Potential, b: int, k: int, device: torch.device) -> Potential:
    """A likelihood whose measurements are repeated for the particles of each sample."""
    if not isinstance(potential, Likelihood):
        return potential
    measured = potential.measured.expand(b).select(slice(None), device)
    if len(measured.y) != b:
        raise SamplerError(
            f"Particles got {len(measured.y)} measurements for a batch of {b} samples",
            "one for each sample of the batch, or one for all",
            "model.sample(n, batch=n, ...)",
        )
    return replace(potential, measured=replace(measured, y=each(measured.y, k)))

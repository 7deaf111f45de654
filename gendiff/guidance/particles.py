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
(K = 1, q = p) is the solver's own sample, with predictions in two (CFG++, DPS) too: their shift is that of p and of q.

phi_0 may be -inf: what must not be has weight 0. A guess of -inf on the way is only a guess, and losing its particle
would bias the result: there it counts as the least finite phi of its group, less log K. Where all are -inf at the end,
weights are even, log Z is -inf, and `FeynmanKac` warns. NaN and +inf are refused.

`steer` gives all particles with their weights; `FeynmanKac` is a sampler, and gives one of each group, drawn by weight.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import (
    Denoise,
    Prediction,
    carried,
    clean,
    differentiates,
    for_samples,
    map_prediction,
    predict,
    rows_of,
    shift,
)
from gendiff.errors import NOT_NEGATIVE, POSITIVE, SHARE, SamplerError, at_least, check
from gendiff.guidance.inverse import Measurement
from gendiff.guidance.wrappers import at_hand, differentiable, floored, gradients, readable, tilted
from gendiff.processes import Gaussian, Joint, Move, Process, pick, schedule_of
from gendiff.random import Noise
from gendiff.sampling import Callback, Draw, Loop, Progress, source, table
from gendiff.sampling.solvers import Row, Solver
from gendiff.spaces import State, inner, map_state, require_shape, tensors, widened


class Potential(ABC):
    """The interface.

    Attributes:
        gradient: Whether proposals follow the gradient of phi.
    """

    gradient: bool = False

    @abstractmethod
    def __call__(self, x0: State, process: Process, t: float) -> Tensor:
        """phi_t from the prediction D(x_t): [B K]; at t = 0 the log tilt itself."""

    def select(self, rows: Any, device: torch.device | None = None) -> Potential:
        """The potential of some of the samples, on a device."""
        return self


@dataclass(frozen=True)
class Reward(Potential):
    """Tilts samples by exp(strength f(x0)).

    Args:
        f: x0 [B K, ...] to [B K]; -inf for what must not be.
        strength: Factor; at time t it counts alpha_t^power of it, so that early guesses count less.

    Raises:
        SamplerError: If f gives anything but one number for each particle.
    """

    f: Callable[[State], Tensor]
    strength: float = 1.0
    power: float = 0.0

    def __post_init__(self) -> None:
        check(self, power=NOT_NEGATIVE)

    def __call__(self, x0: State, process: Process, t: float) -> Tensor:
        value, n = self.f(x0), len(tensors(x0)[0])
        require_shape(f"The reward gave for {n} particles", value, (n,), fix="Reward(lambda x: x.flatten(1).sum(1))")
        factor = self.strength * schedule_of(process)(t)[0] ** self.power
        return factor * value if factor else torch.where(value.isnan(), value, 0.0)  # 0 times -inf is 0 here


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
        check(self, data_std=POSITIVE)
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
        residual = m.residual(m.apply(m.pick(x0)))
        count = residual[0].numel()
        return -0.5 * inner(residual, residual) / variance - 0.5 * count * math.log(2 * math.pi * variance)

    def select(self, rows: Any, device: torch.device | None = None) -> Likelihood:
        return replace(self, measured=self.measured.select(rows, device))


@dataclass(frozen=True)
class Particles:
    """What `steer` gives.

    Attributes:
        state: [B K, ...], the K particles of a sample beside each other.
        log_weights: [B, K], normalised: logsumexp is 0. Even where no particle has any weight.
        log_evidence: log Z, [B]; -inf where no particle has any weight.
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
        place = drawn(self.log_weights.exp(), u[:, None])[:, 0]
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

    def __post_init__(self) -> None:
        check(self, particles=at_least(1), threshold=SHARE)

    def select(self, rows: Any, device: torch.device | None = None) -> FeynmanKac:
        return replace(self, potential=self.potential.select(rows, device))

    def draw(self, task: Draw) -> State:
        found = steer(
            task.denoiser, task.like, self.potential, solver=self.solver, noise=task.noise, cond=task.cond,
            particles=self.particles, threshold=self.threshold, start=task.start, callback=task.callback,
        )  # fmt: skip
        lost = found.log_evidence == -math.inf
        if readable(lost) and bool(lost.any()):
            warnings.warn(
                f"{int(lost.sum())} of {len(lost)} samples have no particle that the potential allows (all are -inf):"
                f" they are drawn evenly. More than {self.particles} particles, or a softer potential, may find some.",
                stacklevel=2,
            )
        return found.draw(task.noise)


@differentiates
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
    callback: Callback = None,
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
        SamplerError: If the solver weighs past predictions or redoes steps; for potentials that are NaN or +inf.
    """
    options, like = FeynmanKac(solver, potential, particles, threshold), widened(like)
    start = None if start is None else widened(start)
    b, k, device = tensors(like)[0].shape[0], options.particles, noise.index.device
    group = torch.arange(b, device=device).repeat_interleave(k)
    cond = {name: rows_of(v, group) for name, v in (cond or {}).items()}
    process = denoiser.process.masked(cond.get("mask"))
    rows = table(solver, denoiser.process)
    check_rows(rows, solver)
    own = replace(noise, index=noise.index[group] * k + torch.arange(k, device=device).repeat(b))
    potential, denoiser = grown(potential, b, group), for_samples(denoiser, group)
    many = rows_of(like if start is None else start, group)
    x = process.prior(many, own.fork("prior"), rows[0].t) if start is None else many
    churn, up, ties = own.fork("churn"), own.fork("renoise"), noise.fork("resample")
    log_w = torch.zeros(b, k, dtype=precision(x), device=device)
    evidence, past, sizes, wrong = log_w[:, 0], log_w.flatten(), [], []  # past: what of phi was counted already
    for number, row in enumerate(rows):
        prediction, target, phi = look(denoiser, potential, process, x, row, cond)
        wrong.append(unfit(potential, phi, row.t))
        phi = softened(phi, k)
        log_w, evidence, kept, size = resample((phi - past).reshape(b, k), evidence, threshold, ties.at(number))
        sizes.append(size)
        x, phi = map_state(lambda part: part[kept], x), phi[kept]  # noqa: B023
        prediction, target = (map_prediction(lambda part: part[kept], p) for p in (prediction, target))  # noqa: B023
        past = phi - log_w.flatten()
        if row.move is None:
            x = process.renoise(x, row.t, row.s, up.at(number), row.noise_scale)
        else:
            moved = process.take(x, carried(target), row.move, source(churn, rows, number, number))
            if potential.gradient:
                past = past - ratio(process, x, moved, carried(prediction), carried(target), row.move)
            x = shift(process, moved, target, row.s) if isinstance(target, Prediction) else moved
        if callback is not None:
            callback(Progress(number, len(rows), row.s, x, clean(prediction)))
    x = process.space.project(x)
    phi = potential(x, process, 0.0)
    wrong.append(unfit(potential, phi, 0.0))
    if device.type != "cpu" and readable(phi):
        for flags, t in zip(torch.stack(wrong).cpu(), [*(row.t for row in rows), 0.0], strict=True):
            unfit(potential, torch.where(flags, math.nan, 0.0), t)
    log_w = (phi - past).reshape(b, k)
    total = torch.logsumexp(log_w, 1)
    sizes.append(effective(log_w))
    weights = torch.where(total[:, None] == -math.inf, -math.log(k), log_w - total[:, None])
    return Particles(x, weights, evidence + total - math.log(k), torch.stack(sizes))


def softened(phi: Tensor, k: int) -> Tensor:
    """Guesses on the way, [B K]: -inf as the least finite one of its group, or 0, less log K."""
    groups = phi.unflatten(0, (-1, k))
    allowed = groups > -math.inf
    least = torch.where(allowed, groups, math.inf).amin(1, keepdim=True)
    least = torch.where(allowed.any(1, keepdim=True), least, 0.0)
    return torch.where(allowed, groups, least - math.log(k)).flatten()


def unfit(potential: Potential, phi: Tensor, t: float) -> Tensor:
    """Which values of a potential are NaN or +inf, bool [B K].

    Raises:
        SamplerError: If there is one, where looking waits for no device.
    """
    wrong = phi.isnan() | (phi == math.inf)
    if at_hand(phi) and bool(wrong.any()):
        raise SamplerError(
            f"{type(potential).__name__} gave NaN or inf for {int(wrong.sum())} of {len(phi)} particles at t = {t:.4g}",
            "numbers, or -inf for what must not be",
            "Reward(lambda x: f(x).nan_to_num(nan=-math.inf))",
        )
    return wrong


def look(
    denoiser: Denoise, potential: Potential, process: Process, x: State, row: Row, cond: dict[str, Any]
) -> tuple[Any, Any, Tensor]:
    """The prediction at x_t, the one that the proposal moves to, and phi."""
    if not potential.gradient or not noisy(row.move):
        prediction = predict(denoiser, process, x, row.t, cond)
        return prediction, prediction, potential(clean(prediction), process, row.t)
    t = floored(process, row.t, x)
    with torch.enable_grad():
        leaf = differentiable(x)
        prediction = predict(denoiser, process, leaf, t, cond)
        phi = potential(clean(prediction), process, row.t)
        gradient = gradients(phi.sum(), leaf, more=False)
    prediction = map_prediction(torch.Tensor.detach, prediction)
    target = tilted(process, carried(prediction), gradient, t)
    if isinstance(prediction, Prediction):
        return prediction, Prediction(tilted(process, prediction.x0, gradient, t), target), phi.detach()
    return prediction, target, phi.detach()


def resample(log_w: Tensor, evidence: Tensor, threshold: float, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Systematic resampling of the groups that need it: new weights, evidence, kept rows [B K], effective sizes."""
    b, k = log_w.shape
    size, total = effective(log_w), torch.logsumexp(log_w, 1)
    needy = (size < threshold * k) & (total > -math.inf)
    total = torch.where(needy, total, 0.0)
    u = noise.uniform((b,), log_w.dtype)
    places = (u[:, None] + torch.arange(k, device=log_w.device)) / k
    chosen = drawn((log_w - total[:, None]).exp(), places)
    stay = torch.arange(k, device=log_w.device).expand(b, k)
    ancestors = torch.where(needy[:, None], chosen, stay)
    evidence = evidence + torch.where(needy, total - math.log(k), 0.0)
    kept = (ancestors + k * torch.arange(b, device=log_w.device)[:, None]).flatten()
    return torch.where(needy[:, None], 0.0, log_w), evidence, kept, size


def drawn(weights: Tensor, places: Tensor) -> Tensor:
    """Where shares in (0, 1) of each group's whole weight fall, [B, n]: never on a particle of weight 0."""
    ends = weights.cumsum(1)
    return torch.searchsorted(ends, places * ends[:, -1:]).clamp_max(weights.shape[1] - 1)


def effective(log_w: Tensor) -> Tensor:
    """(sum w)^2/sum w^2 of each group, 0 where there is no weight: [B]."""
    total = torch.logsumexp(log_w, 1)
    return torch.where(total > -math.inf, (2 * total - torch.logsumexp(2 * log_w, 1)).exp(), 0.0)


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


def check_rows(rows: list[Row], solver: Solver) -> None:
    """Raises SamplerError unless each row evaluates where it starts and moves once."""

    def simple(row: Row) -> bool:
        return row.last and not row.redo and row.norms is None and row.at == row.t and row.reach == 1

    if not all(row.move is None or simple(row) for row in rows):
        raise SamplerError(
            f"Particles got the sampler {solver!r}",
            "one evaluation and one move a step, and no memory of past predictions",
            "DDPM(100)",
        )


def precision(x: State) -> torch.dtype:
    """The widest floating type of a state's parts, at least float32."""
    return max((p.dtype for p in tensors(x) if p.is_floating_point()), key=lambda d: d.itemsize, default=torch.float32)


def grown(potential: Potential, b: int, group: Tensor) -> Potential:
    """A potential of B samples for the particles of each: what it holds by sample, at the rows `group`."""
    if isinstance(potential, Likelihood):
        potential.measured.expand(b)
    return potential.select(group)

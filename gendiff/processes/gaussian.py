r"""Gaussian diffusion on flat spaces, by any schedule; z ~ N(0, I):

    noise(x0, t)          x_t = alpha_t x0 + sigma_t z
    renoise(x_t, t -> s)  x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) z,  a = alpha_s/alpha_t,  s > t
    step(x_t, x0, t -> s) x_s = alpha_s x0 + sqrt(sigma_s^2 - churn^2) (x_t - alpha_t x0)/sigma_t + churn noise_scale z
    prior                 x_t ~ sigma_t z

churn = 0 is DDIM and the Euler step of the probability flow; churn = the posterior's standard deviation is DDPM; churn
= sigma_s renoises in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import POSITIVE, check, refuse
from gendiff.processes.base import Leaf, Move, add_scaled, require_noise, square_error
from gendiff.processes.schedules import Linear, Schedule, Time, maths
from gendiff.random import Noise
from gendiff.spaces import Euclidean, Space, Weight, per_sample


@dataclass(frozen=True)
class Gaussian(Leaf):
    """Gaussian diffusion on a flat space, by any schedule.

    Args:
        schedule: t to (alpha, sigma).
        on: `Euclidean()` or `Centered()`.
        data_std: The standard deviation of the data, if it is not 1. `PowerGrid` and `Circle`, the grid and the view of
            `Adams`, go by it; None is what an `EDMHead` says, else 1. Nothing else depends on it.
    """

    schedule: Schedule = field(default_factory=Linear)
    on: Space = field(default_factory=Euclidean)
    data_std: float | None = None

    def __post_init__(self) -> None:
        check(self, data_std=POSITIVE)
        if not self.on.flat:
            refuse(self, "on", "a flat space: Euclidean() or Centered()", "Geodesic(SO3())")

    def noise(self, x0: Tensor, t: Time, noise: Noise) -> Tensor:
        return self.noised(x0, self.on.random(x0, noise), t)

    def noised(self, x0: Tensor, z: Tensor, t: Time) -> Tensor:
        """alpha x0 + sigma z for a given z."""
        alpha, sigma = self.schedule(t)
        return per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * z

    def renoise(self, x: Tensor, t: float, s: float, noise: Noise, noise_scale: float = 1.0) -> Tensor:
        alpha_t, sigma_t = self.schedule(t)
        alpha_s, sigma_s = self.schedule(s)
        a = alpha_s / alpha_t
        return a * x + noise_scale * math.sqrt(max(sigma_s**2 - (a * sigma_t) ** 2, 0.0)) * self.on.random(x, noise)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: float = 1.0) -> Move:
        alpha_t, sigma_t = self.schedule(t)
        alpha_s, sigma_s = self.schedule(s)
        if not isinstance(t, Tensor) and not isinstance(s, Tensor) and not isinstance(churn, Tensor):
            keep = math.sqrt(max(sigma_s**2 - churn**2, 0.0)) / sigma_t if churn else sigma_s / sigma_t  # type: ignore[operator]
            return Move(keep, alpha_s - keep * alpha_t, churn * noise_scale)  # type: ignore[operator]
        m = maths(torch.empty(0))
        if isinstance(churn, Tensor) or churn:
            keep = m.sqrt(m.clip(sigma_s**2 - churn**2, 0.0, math.inf)) / sigma_t  # type: ignore[operator]
        else:  # without a root, whose slope is infinite at sigma_s = 0
            keep = sigma_s / sigma_t
        return Move(keep, alpha_s - keep * alpha_t, churn * noise_scale)  # type: ignore[operator]

    def take(self, x: Tensor, target: Tensor, move: Move, noise: Noise | None = None) -> Tensor:
        if not any(isinstance(w, Tensor) for w in (move.keep, move.pull, move.churn)):
            return self.advance(x, (target,), (1.0,), None, move, noise)
        y = per_sample(move.keep, x) * x + per_sample(move.pull, x) * target
        if isinstance(move.churn, Tensor) or move.churn:
            y = y + per_sample(move.churn, x) * self.on.random(x, require_noise(noise))
        return y

    def lead(self, x: Tensor, x0: Tensor, norms: Any) -> Tensor:
        return x0 if norms is None else torch.sub(x0, x, alpha=1 / norms[0])

    def advance(
        self, x: Tensor, history: Sequence[Tensor], weights: Any, norms: Any, move: Move, noise: Noise | None = None
    ) -> Tensor:
        # One linear combination: keep x + pull sum_j w_j x0_j, or (keep + pull/n) x + pull sum_j w_j l_j.
        pull: Any = move.pull
        keep = move.keep if norms is None else move.keep + pull / norms[1]
        terms = [(x0, pull * w) for x0, w in zip(history, weights, strict=False) if w != 0]
        if abs(keep - 1) < 1e-15 and terms:  # rates at alpha = 1: the state and the first of them, in one operation
            (x0, w), *terms = terms
            y = torch.sub(x, x0, alpha=-w)
        else:
            y = x * keep
        for x0, w in terms:
            add_scaled(y, x0, w)
        if move.churn:
            add_scaled(y, self.on.random(x, require_noise(noise)), move.churn)
        return y

    def prior(self, like: Tensor, noise: Noise, t: float = 1.0) -> Tensor:
        return self.schedule(t)[1] * self.on.random(like, noise)

    def log_prior(self, x: Tensor, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        alpha, sigma = self.schedule(t)
        sigma = math.hypot(sigma, alpha * data_std)
        return self.on.log_random(x / sigma) - (self.on.dim(x) * math.log(sigma)).to(x)

    def error(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time) -> Tensor:
        return square_error(self.on, x, guess, x0)

    def rate(self, t: Time) -> Tensor:
        """The weight of the squared error in the variational bound: -d(alpha^2/sigma^2)/dt/2."""
        (alpha, sigma), (up, down) = self.schedule(t), self.schedule.slopes(t)
        return -(alpha / sigma**2) * (up - alpha * down / sigma)

    def gap(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time, s: Time) -> Tensor:
        """KL [B] of the ancestral step t -> s from the one that knows x0."""
        now, then = (torch.as_tensor(self.schedule.logsnr(u), dtype=torch.float64).exp() for u in (t, s))
        square = self.on.norm2(x, guess - x0)
        return 0.5 * per_sample(then - now, square) * square

    def decode(self, x: Tensor, guess: Tensor, x0: Tensor, t: float) -> Tensor:
        """-log p(x0 | x_t) at the last time, [B]: the mean over x_t, with x0 ~ N(x_t/alpha, (sigma/alpha)^2)."""
        alpha, sigma = self.schedule(t)
        return (0.5 * self.on.dim(x0) * (1 + math.log(2 * math.pi * (sigma / alpha) ** 2))).to(x0)

    def start_gap(self, x0: Tensor) -> Tensor:
        """KL [B] of q(x_1 | x0) from the prior."""
        alpha, sigma = self.schedule(1.0)
        return 0.5 * (alpha / sigma) ** 2 * self.on.norm2(x0, x0)

    def norm(self, t: Time, scale: float) -> Time:
        alpha, sigma = self.schedule(t)
        return alpha + sigma / scale

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.pace(t, scale)

    def drift(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        return y - x0

    def __repr__(self) -> str:
        known = "" if self.data_std is None else f", data_std={self.data_std!r}"
        return f"Gaussian({self.schedule!r}, {self.on!r}{known})"

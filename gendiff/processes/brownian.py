r"""Brownian motion on SO(3): diffusion whose noise is IGSO(3), beside the geodesic flow.

    x_t = x0 g,  g ~ IGSO3(sigma_t)        prior uniform, as sigma(1) is large      (Leach et al. 2022; Yim et al. 2023)

Variances add, as they do on R^n. The score of x_t given x0 points home along the geodesic, v = log_x(x0), w = |v|:

    score = g(w) v,   g = -(d/dw log f_sigma)/w -> 1/sigma^2        drift of the probability flow: -sigma^2 score

A predicted clean rotation stands for the score it would give. With it held constant the flow keeps to the geodesic and
dlog w/dlog sigma = sigma^2 g(w, sigma): a step solves this equation for the angle (Runge-Kutta in at most 96 steps: to
1e-7 for angles below 2.5, to 1e-5 at 3.0, and to 2e-3 next to pi, which the flow leaves as slowly as it can be left)
down to sqrt(sigma_s^2 - churn^2), and adds IGSO3(churn). So every solver, churn included, has exact marginals
at a constant prediction, as the Gaussian process has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import GendiffError, check
from gendiff.processes.base import Leaf, require_noise
from gendiff.processes.schedules import VE, Schedule, Time
from gendiff.random import Noise
from gendiff.spaces import IGSO3, SO3, Space, Weight, per_sample


@dataclass(frozen=True)
class Turn:
    """The numbers of one step: sigma from and to, then the deviation of fresh noise."""

    start: float | Tensor
    end: float | Tensor
    churn: float | Tensor = 0.0


@dataclass(frozen=True)
class BrownianSO3(Leaf):
    """Diffusion of rotations by a schedule of sigma; see the top of the file.

    Args:
        schedule: One with alpha = 1 (VE, EDM), whose sigma(1) is 3 or more: there IGSO(3) is uniform to 4e-4.
    """

    schedule: Schedule = field(default_factory=lambda: VE(0.02, 4.0))
    on: Space = field(default_factory=SO3)

    def __post_init__(self) -> None:
        check(self)
        alpha, sigma = self.schedule(1.0)
        if alpha != 1 or sigma < 2:
            raise GendiffError(
                f"BrownianSO3 got {self.schedule!r}, with alpha = {alpha:.3g} and sigma = {sigma:.3g} at t = 1",
                "alpha = 1 and sigma of 3 or more",
                "BrownianSO3(VE(0.02, 4.0))",
            )

    @property
    def straight(self) -> bool:
        return False  # the angle to a constant prediction does not fall as sigma does

    def noise(self, x0: Tensor, t: Time, noise: Noise) -> Tensor:
        return self.turned(x0, self.schedule(t)[1], noise)

    def renoise(self, x: Tensor, t: float, s: float, noise: Noise, noise_scale: float = 1.0) -> Tensor:
        a, b = self.schedule(t)[1], self.schedule(s)[1]
        return self.turned(x, noise_scale * math.sqrt(max(b * b - a * a, 0.0)), noise)

    def turned(self, x: Tensor, sigma: float | Tensor, noise: Noise) -> Tensor:
        """x times a draw of IGSO3(sigma), sigma a number or [B]; x itself at 0."""
        if isinstance(sigma, Tensor):
            sigma = sigma.to(x.device).expand(x.shape[0]).clamp_min(1e-6)
        elif sigma <= 0:
            return x
        return self.on.project(x @ IGSO3(sigma).sample(tuple(x.shape[:-2]), noise, x.dtype))

    def gain(self, angle: Tensor, sigma: float | Tensor) -> Tensor:
        """sigma^2 g(w, sigma): 1 for small sigma, float64."""
        s = torch.as_tensor(sigma, dtype=torch.float64, device=angle.device)
        # The score is linear at the smallest angles, where its length over the angle is 0/0.
        w = torch.maximum(angle, 2e-4 * s.clamp_max(1.0))
        return -s * s * IGSO3(sigma if not isinstance(sigma, Tensor) else s).score(w) / w

    def home(self, x: Tensor, x0: Tensor, sigma: float | Tensor) -> Tensor:
        """sigma^2 score(x | x0), a tangent at x [B, *sites, 3]; smooth in both."""
        v = self.on.log(x, x0)
        angle = (v.double() ** 2).sum(-1).clamp_min(1e-24).sqrt().clamp_max(math.pi)
        return self.gain(angle, per_sample(sigma, angle)).to(v.dtype)[..., None] * v

    def score(self, x: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The gradient of log p(x_t = x | x0), in the body frame at x: [B, *sites, 3]."""
        sigma = self.schedule(t)[1]
        v = self.home(x, x0, sigma)
        return v / per_sample(sigma * sigma, v)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: float = 1.0) -> Turn:
        start, end = self.schedule(t)[1], self.schedule(s)[1]
        if isinstance(churn, Tensor) or churn:
            square = end * end - churn * churn  # type: ignore[operator]
            end = square.clamp_min(0).sqrt() if isinstance(square, Tensor) else math.sqrt(max(square, 0.0))
        return Turn(start, end, churn * noise_scale)  # type: ignore[operator]

    def take(self, x: Tensor, target: Tensor, move: Turn, noise: Noise | None = None) -> Tensor:
        v = self.on.log(x, target)
        angle = (v.double() ** 2).sum(-1).clamp_min(1e-24).sqrt().clamp_max(math.pi)
        kept = self.kept(angle, move.start, move.end).to(v.dtype)
        y = self.on.exp(x, v * (1 - kept)[..., None])
        if isinstance(move.churn, Tensor) or move.churn:
            y = self.turned(y, move.churn, require_noise(noise))
        return y

    def kept(self, angle: Tensor, start: float | Tensor, end: float | Tensor) -> Tensor:
        """w(end)/w(start) along the flow towards a constant target, by RK4 in log sigma on log w, float64."""
        if isinstance(start, Tensor) or isinstance(end, Tensor):
            first, last = (per_sample(torch.as_tensor(u, dtype=torch.float64).reshape(-1), angle) for u in (start, end))
            high = torch.log(first)  # type: ignore[arg-type]
            steps, width = 48, torch.log(torch.clamp(last, min=1e-9)) - high  # type: ignore[arg-type]
            done = (last > 0).double()  # type: ignore[union-attr]
        else:
            if end <= 0:
                return torch.zeros_like(angle)
            high, done = math.log(start), 1.0
            width = math.log(end) - high
            steps = max(2, min(math.ceil(-24 * width), 96))
        log = torch.zeros_like(angle)
        h = width / steps

        def rate(log: Tensor, place: float) -> Tensor:
            at = high + place * h
            return self.gain(angle * log.exp(), at.exp() if isinstance(at, Tensor) else math.exp(at))

        for i in range(steps):
            k1 = rate(log, i)
            k2 = rate(log + h / 2 * k1, i + 0.5)
            k3 = rate(log + h / 2 * k2, i + 0.5)
            k4 = rate(log + h * k3, i + 1.0)
            log = log + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return log.exp() * done

    def prior(self, like: Tensor, noise: Noise, t: float = 1.0) -> Tensor:
        return self.on.random(like, noise)

    def log_prior(self, x: Tensor, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        return self.on.log_random(x)

    def error(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time) -> Tensor:
        """The squared difference of sigma^2 score per degree of freedom: its minimum is the true score."""
        sigma = self.schedule(t)[1]
        square = self.on.norm2(x, self.home(x, guess, sigma) - self.home(x, x0, sigma))
        return square / per_sample(self.on.dim(x).clamp_min(1), square)

    def norm(self, t: Time, scale: float) -> Time:
        return 1.0

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.clock_slope(t) / self.schedule.clock(t)

    def drift(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        return -self.home(y, x0, self.schedule(t)[1])

"""Flow maps in closed form, and lessons of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gendiff import (
    EDM,
    VP,
    X0,
    Cosine,
    Denoiser,
    Gaussian,
    Linear,
)
from gendiff.denoisers import Normal
from gendiff.random import Noise
from gendiff.training import (
    Lesson,
    stratified,
)
from gendiff.training.fewstep import aim

SCHEDULES = (Linear(), VP(), Cosine(), EDM())


class ExactMap(nn.Module):
    """The flow map of Gaussian data N(mean, deviation^2) on one axis after the other, and a push in one direction.

    With a shift or a spread it is that of other data, whose mean or whose deviation is another.

    Phi_{t->s}(x) = alpha_s mean + (d_s/d_t)(x - alpha_t mean), d_t^2 = alpha_t^2 deviation^2 + sigma_t^2.
    """

    takes_to = True

    def __init__(self, process: Gaussian, mean: Tensor, deviation: Tensor, zero: bool = False) -> None:
        super().__init__()
        self.process, self.mean, self.deviation, self.zero = process, mean, deviation, zero
        self.push, self.shift, self.spread = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(3))

    def end(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (a, b), (c, d) = ((part[:, None] for part in self.process.schedule(u)) for u in (t, s))
        now, then = ((k * k * self.variance + n * n).sqrt() for k, n in ((a, b), (c, d)))
        mean = self.mean + self.shift
        return c * mean + then / now * (x - a * mean)

    @property
    def variance(self) -> Tensor:
        return self.deviation**2 * (2 * self.spread).exp()

    def forward(self, x: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        a, b = (part[:, None] for part in self.process.schedule(t))
        square, mean = self.variance, self.mean + self.shift
        instant = mean + a * square / (a * a * square + b * b) * (x - a * mean)
        to = torch.zeros_like(t) if self.zero else t if to is None else to
        same = (to >= t - 1e-12)[:, None]
        whole = aim(self.process, x, self.end(x, t, to), t, to)
        pushed = self.process.schedule.share(t, 1.0)[:, None] * (1 + (x / (a + b)).cos())
        return torch.where(same, instant, whole) + self.push * pushed


def own_network(denoiser: Denoiser) -> Any:
    """The network of a denoiser, of whatever class."""
    return denoiser.network


def gaussian(schedule: Any, zero: bool = False) -> tuple[Denoiser, Normal, Callable[[int, int], Tensor]]:
    """A flow map, the teacher and the data of one Gaussian."""
    process = Gaussian(schedule)
    mean, deviation = torch.tensor([0.4, -0.7]).double(), torch.tensor([0.5, 1.2]).double()
    exact = Normal(process, mean, torch.diag(deviation**2))
    return Denoiser(ExactMap(process, mean, deviation, zero), X0(), process), exact, exact.draw


def lesson_of(denoiser: Denoiser, draw: Any, teacher: Any, n: int, seed: int = 0, **more: Any) -> Lesson:
    u = stratified(n, Noise.of(seed, 1).fork("times"))
    u = u[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    return Lesson(denoiser, draw(n, seed), u, Noise.of(seed, n).fork("train"), teacher=teacher, **more)

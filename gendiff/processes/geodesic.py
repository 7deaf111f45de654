r"""Flow matching on any space (Chen & Lipman 2024), with kappa = sigma of a flow schedule:

noise   x_t = exp_x0(kappa_t log_x0(z)),  z ~ space.random
step    x_s = lerp(x_t, x0, 1 - kappa_s/kappa_t)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gendiff.errors import GendiffError, check
from gendiff.processes.base import Leaf, Move, require_noise, square_error
from gendiff.processes.schedules import Linear, Schedule, Time
from gendiff.random import Noise
from gendiff.spaces import Space, State, Weight


@dataclass(frozen=True)
class Geodesic(Leaf):
    """Flow matching on any space: noise moves along the geodesic from data to a draw of the reference noise.

    With churn, the direction back to noise is partly redrawn in the tangent space at the prediction: exact at churn 0
    and at churn = kappa (full renoising), a tangent approximation between.

    Args:
        on: Any space.
        schedule: A flow schedule (alpha + sigma = 1); its sigma is kappa.
    """

    on: Space
    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        check(self)
        if not self.schedule.flow:
            raise GendiffError(
                f"Geodesic got the schedule {self.schedule!r}",
                "a flow schedule, alpha + sigma = 1 (Linear, Exponential, Polynomial, or one of them Shifted)",
                "Geodesic(SO3(), Linear())",
            )

    def noise(self, x0: State, t: Time, noise: Noise) -> State:
        return self.noised(x0, self.on.random(x0, noise), t)

    def noised(self, x0: State, z: State, t: Time) -> State:
        return self.on.lerp(x0, z, self.schedule(t)[1])

    def renoise(self, x: State, t: float, s: float, noise: Noise, noise_scale: float = 1.0) -> State:
        (alpha_t, _), (alpha_s, _) = self.schedule(t), self.schedule(s)
        return self.on.lerp(x, self.on.random(x, noise), noise_scale * (1 - alpha_s / alpha_t))

    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: float = 1.0) -> Move:
        kappa_t, kappa_s = self.schedule(t)[1], self.schedule(s)[1]
        if isinstance(churn, Tensor) or churn:
            root = kappa_s**2 - churn**2  # type: ignore[operator]
            root = root.clamp_min(0).sqrt() if isinstance(root, Tensor) else math.sqrt(max(root, 0.0))
            return Move(root / kappa_t, 1 - root / kappa_t, churn * noise_scale)  # type: ignore[operator]
        return Move(kappa_s / kappa_t, 1 - kappa_s / kappa_t)

    def take(self, x: State, target: State, move: Move, noise: Noise | None = None) -> State:
        if not isinstance(move.churn, Tensor) and not move.churn:
            return self.on.lerp(x, target, move.pull)
        back = self.on.scale(self.on.log(target, x), move.keep)
        fresh = self.on.scale(self.on.log(target, self.on.random(x, require_noise(noise))), move.churn)
        return self.on.exp(target, back + fresh)

    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        return self.on.random(like, noise)

    def log_prior(self, x: State, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        return self.on.log_random(x)

    def error(self, x: State, guess: State, x0: State, t: Time) -> Tensor:
        return square_error(self.on, x, guess, x0)

    def norm(self, t: Time, scale: float) -> Time:
        return 1.0

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.clock_slope(t) / self.schedule.clock(t)

    def drift(self, y: State, x0: State, t: Time) -> State:
        return self.on.scale(self.on.log(y, x0), -1.0)

    def __repr__(self) -> str:
        return f"Geodesic({self.on!r}, {self.schedule!r})"

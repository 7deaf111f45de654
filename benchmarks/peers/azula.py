"""azula: its samplers on its own schedules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from .shared import Model, Peer


def peers(c: float) -> list[Peer]:
    """Its samplers, even in the time of its schedules, which begin at sigma/alpha = c, or at 1e6 for the flow."""
    noise, sample, denoise = (import_module(f"azula.{part}") for part in ("noise", "sample", "denoise"))

    class Exact(denoise.Denoiser):
        """Our denoiser as one of azula's."""

        def __init__(self, schedule: Any, model: Model) -> None:
            super().__init__()
            self.schedule, self.model = schedule, model

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior(self.model(x_t, float(alpha), float(sigma)))

    samplers: dict[str, tuple[Any, Callable[[int], int]]] = {
        "DDIM": (sample.DDIMSampler, int),
        "Heun": (sample.HeunSampler, lambda n: n // 2),
        **{
            f"{name} {k}": (partial(getattr(sample, f"{name}Sampler"), order=k), int)
            for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB")
            for k in (2, 3, 4)
        },
    }

    def runs(made: Any, steps: Callable[[int], int], schedule: Any, last: bool) -> Any:
        def run(model: Model, x: Tensor, n: int) -> Tensor:
            walker = made(Exact(schedule, model), steps=steps(n - last), silent=True, dtype=torch.float64)
            (first, _), (alpha, sigma) = (schedule(torch.tensor(u, dtype=torch.float64)) for u in (1.0, 0.0))
            y = walker(float(first) * x if isfinite(c) else x)
            return model(y, float(alpha), float(sigma)) if last else y / float(alpha)

        return run

    out = []
    for low in (1e-3, 1e-2, 3e-2):
        schedules: dict[str, Any] = {}
        if isfinite(c):
            least, cosine = 1 / c, sqrt((1 + low * low) / (1 + c * c))
            schedules[f"VE {low}"] = noise.VESchedule(low, c)
        else:
            least = cosine = 1e-6
        schedules[f"VP {low}"] = noise.VPSchedule(cosine, low)
        schedules[f"cosine {low}"] = noise.CosineSchedule(cosine, low)
        schedules[f"rectified {low}"] = noise.RectifiedSchedule(least, low)
        schedules[f"decay {low}"] = noise.DecaySchedule(least, low)
        for grid, schedule in schedules.items():
            for label, (made, steps) in samplers.items():
                for last in (False, True) if low > 1e-3 else (False,):
                    run = runs(made, steps, schedule, last)
                    out.append(Peer("azula", label, f"{grid}{', denoised' if last else ''}", run))
    return out

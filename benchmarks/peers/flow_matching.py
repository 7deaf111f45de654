"""flow_matching: its ODE solver, with the methods of torchdiffeq."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .k_diffusion import k_sampling
from .shared import LOWS, Model, Peer, tuned


def solved(model: Model, x: Tensor, **how: Any) -> Tensor:
    """Its ODE solver on the exact velocity; its time is 0 for noise."""
    solver = import_module("flow_matching.solver").ODESolver(lambda x, t: -model.velocity(x, 1 - float(t)))
    return solver.sample(x, step_size=None, **how)


def peers() -> list[Peer]:
    """Its ODE solver with torchdiffeq's methods, even in time and on the grid of its picture example."""

    def grid(low: float, top: float, steps: int) -> Tensor:
        if not low:
            return torch.linspace(0, 1, steps + 1)
        sigma = k_sampling().get_sigmas_karras(steps, low, top)
        return torch.cat([torch.zeros(1), 1 - (sigma / (1 + sigma))[1:]])

    def fixed(method: str, cost: int, low: float, top: float) -> Any:
        def run(model: Model, x: Tensor, n: int) -> Tensor:
            return solved(model, x, method=method, time_grid=grid(low, top, n // cost))

        return run

    def free(method: str, model: Model, x: Tensor, tolerance: float) -> Tensor:
        whole = torch.linspace(0, 1, 2)
        return solved(model, x, method=method, rtol=tolerance, atol=tolerance, time_grid=whole)

    out = []
    for method, cost in (("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)):
        out.append(Peer("flow_matching", method, "even", fixed(method, cost, 0.0, 0.0)))
        for low in LOWS:
            out += [Peer("flow_matching", method, f"edm {low} {c}", fixed(method, cost, low, c)) for c in (10.0, 80.0)]
    for method in ("dopri5", "bosh3", "adaptive_heun"):
        run = partial(tuned, partial(free, method))
        out += [Peer("flow_matching", method, "adaptive", run)]
    return out

r"""A grid fitted to a model: the n steps that lose least along the model's own fine trajectories.

On a fine grid t_0 > ... > t_m, with the states x_i and predictions D_i of pilot trajectories, a step i -> j loses

    cost_ij = mean |D(step(x_i, D_i, t_i -> t_j), t_j) - D_j|^2,    at the end |x_m - step|^2

the change that its error makes to the clean state. The path with n steps and the least sum of costs is found by
dynamic programming (as in Chen et al. 2024, "GITS", who measure the error in x). It needs m evaluations of the pilot
batch for the trajectories and m^2/2 for the costs, and works on every space.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.sampling.grids import Fixed, Grid, Karras
from gendiff.spaces import State


@torch.no_grad()
def step_costs(denoiser: Denoise, like: State, *, times: list[float], noise: Noise, cond: dict[str, Any]) -> Tensor:
    """cost_ij of every step of a descending grid, float64 [m + 1, m + 1]; inf unless i < j."""
    process = denoiser.process.masked(cond.get("mask"))
    x, m = process.prior(like, noise.fork("prior"), times[0]), len(times) - 1
    states, predictions = [x], []
    for t, s in pairwise(times):
        # Heun's step where it can be taken: the trajectories are to be the model's, not Euler's.
        now = denoiser(x, t, **cond)
        predictions.append(now)
        y = process.step(x, now, t, s)
        if s > 0:
            weights = process.per_part(
                lambda leaf, t=t, s=s: trapezoid(leaf.schedule.clock(t) / leaf.schedule.clock(s))
            )
            y = process.take(x, process.mix([denoiser(y, s, **cond), now], weights), process.move(t, s))
        x = y
        states.append(x)
    predictions.append(x)
    cost = torch.full((m + 1, m + 1), torch.inf, dtype=torch.float64)
    for j in range(1, m + 1):
        for i in range(j):
            y = process.step(states[i], predictions[i], times[i], times[j])
            guess = denoiser(y, times[j], **cond) if times[j] > 0 else y
            cost[i, j] = process.space.dist2(predictions[j], guess).double().mean().cpu()
    return cost


def trapezoid(ratio: float) -> tuple[float, float]:
    """Heun's weights of (D_s, D_t), ratio = c_t/c_s."""
    return ratio / 2, 1 - ratio / 2


def cheapest(cost: Tensor, steps: int) -> list[int]:
    """The path from the first place to the last in so many steps with the least sum of costs."""
    best, came = cost[0].clone(), []
    for _ in range(steps - 1):
        best, places = (best[:, None] + cost).min(0)
        came.append(places)
    path = [len(cost) - 1]
    for places in reversed(came):
        path.append(int(places[path[-1]]))
    return [0, *reversed(path)]


def fitted_grid(
    denoiser: Denoise,
    like: State,
    steps: int,
    *,
    noise: Noise,
    fine: Grid | None = None,
    places: int = 40,
    cond: dict[str, Any] | None = None,
) -> Fixed:
    """The grid of `steps` steps, among the times of a fine one, that suits the model best.

    Args:
        denoiser: The model, guided or not.
        like: The shapes, dtype and device of the pilot batch, [B, ...].
        steps: How many steps the grid will have.
        noise: The source of the pilot starts.
        fine: The grid to choose from; `Karras()` by default.
        places: How many steps the fine grid has.
        cond: Conditions of the pilots, with "mask" for padded batches.

    Raises:
        SamplerError: Where the fine grid has too few times, or goes up.
    """
    times = (Karras() if fine is None else fine)(denoiser.process, places)
    if not 0 < steps <= len(times) - 1 or any(a <= b for a, b in pairwise(times)):
        raise SamplerError(
            f"A grid of {steps} steps was to be chosen from {len(times) - 1}",
            "a finer grid that only falls",
            "places=40",
        )
    cost = step_costs(denoiser, like, times=times, noise=noise, cond=cond or {})
    return Fixed(tuple(times[i] for i in cheapest(cost, steps)))

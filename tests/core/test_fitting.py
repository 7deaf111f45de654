"""Fitted grids: the best choice by brute force, better than the grids they choose from, on any space."""

from __future__ import annotations

import itertools
import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    EDM,
    SO3,
    Centered,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Karras,
    Linear,
    LinearGrid,
    LogSNRGrid,
    UpAndDown,
    fitted_grid,
    sample,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.sampling import cheapest, step_costs
from gendiff.spaces import State

F64 = torch.float64


def test_the_path_is_the_cheapest() -> None:
    cost = torch.rand(9, 9, dtype=F64, generator=torch.Generator().manual_seed(0)) ** 3
    cost = torch.where(torch.ones(9, 9).triu(1).bool(), cost, torch.inf)
    for steps in range(1, 9):
        path = cheapest(cost, steps)
        every = [[0, *inner, 8] for inner in itertools.combinations(range(1, 8), steps - 1)]
        best = min(every, key=lambda p: sum(float(cost[i, j]) for i, j in pairwise(p)))
        assert path == best


def mixture(schedule: Any) -> Mixture:
    means = torch.tensor([[1.0, 0.2], [-0.6, 0.7], [0.1, -1.0]], dtype=F64)
    return Mixture(Gaussian(schedule), means, 0.02, torch.tensor([0.5, 0.2, 0.3], dtype=F64))


@pytest.mark.parametrize("steps", [5, 8])
def test_a_fitted_grid_beats_what_it_chose_from(steps: int) -> None:
    """On starts it has not seen, by a solver it was not fitted with."""
    model = mixture(EDM())
    grid = fitted_grid(model, torch.empty(64, 2, dtype=F64), steps, noise=Noise.of(1, 64))
    assert len(grid.times) == steps + 1 and grid.times[0] == 1 and grid.times[-1] == 0
    like, noise = torch.empty(256, 2, dtype=F64), Noise.of(7, 256)
    exact = sample(model, like, solver=Heun(400, times=LogSNRGrid(1e-4, 80.0)), noise=noise)

    def error(times: Any) -> float:
        got = sample(model, like, solver=Euler(steps, times=times), noise=noise)
        return float((got - exact).square().mean().sqrt())

    assert error(grid) < 0.75 * min(error(Karras()), error(LogSNRGrid()), error(LinearGrid()))
    assert from_config(json.loads(json.dumps(to_config(grid)))) == grid


class Shrinks:
    """A smooth prediction on frames: everything drawn towards one place."""

    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        target: dict[str, Tensor] = {"pos": torch.tanh(x["pos"]), "rot": torch.eye(3, dtype=F64).expand_as(x["rot"])}
        return self.process.masked(cond.get("mask")).space.project(self.process.space.lerp(target, x, 0.2))


def test_frames_under_a_mask_have_fitted_grids_too() -> None:
    mask = torch.arange(6)[None] < torch.tensor([6, 4, 2, 3])[:, None]
    like = {"pos": torch.empty(4, 6, 3, dtype=F64), "rot": torch.empty(4, 6, 3, 3, dtype=F64)}
    found = []
    for extra in (0, 3):
        padded = {k: torch.empty(4, 6 + extra, *v.shape[2:], dtype=F64) for k, v in like.items()}
        wide = torch.nn.functional.pad(mask, (0, extra))
        cost = step_costs(
            Shrinks(), padded, times=LinearGrid()(Shrinks.process, 8), noise=Noise.of(0, 4), cond={"mask": wide}
        )
        assert bool(torch.isfinite(cost[torch.ones(9, 9).triu(1).bool()]).all())
        found.append(cost)
    torch.testing.assert_close(found[0], found[1])  # padding changes nothing
    grid = fitted_grid(Shrinks(), like, 4, noise=Noise.of(0, 4), fine=LinearGrid(), places=8, cond={"mask": mask})
    assert len(grid.times) == 5


def test_a_grid_cannot_be_chosen_from_fewer_times_or_from_one_that_goes_up() -> None:
    like = torch.empty(2, 2, dtype=F64)
    for steps, fine in [(9, LinearGrid()), (0, LinearGrid()), (3, UpAndDown(LinearGrid(), 2, 2))]:
        with pytest.raises(SamplerError, match="chosen"):
            fitted_grid(mixture(EDM()), like, steps, noise=Noise.of(0, 2), fine=fine, places=8)

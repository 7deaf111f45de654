"""The default solver's rule of orders, and what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.problems import DATA, SCHEDULES
from gendiff import Gaussian, Linear, Noise, PowerGrid, sample
from gendiff.sampling.solvers import RK4, Adams, Circle, Solver


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 14, 15, 16, 20, 40])
def test_adams_is_of_order_two_and_from_fifteen_steps_on_of_order_three(steps: int) -> None:
    """And its corrector is of one prediction more, but not before the last step, nor where it would be too steep."""
    order = 2 if steps < 15 else 3
    assert Adams(steps).predicted() == order
    for process in (Gaussian(Linear()), Gaussian(SCHEDULES["vp"])):
        rows, full = Adams(steps).rows(process), Adams(steps, order, corrector=order + 1).rows(process)
        assert rows[-1] == Adams(steps, order, corrector=0).rows(process)[-1]
        assert rows == full or steps > 1
        if steps >= 8:
            assert rows[:-1] == full[:-1]


def errors(name: str, start: str) -> Callable[[Solver], float]:
    """Root mean square distance of a solver's ends to those of RK4 in 600 evaluations, from 32 starts."""
    denoiser, noise = DATA[name]().on(SCHEDULES[start]), Noise.of(1, 32)
    like = torch.empty(32, denoiser.means.shape[1], dtype=torch.float64)
    x = denoiser.process.prior(like, noise)

    def ends(solver: Solver) -> torch.Tensor:
        return sample(denoiser, like, solver=solver, noise=noise, start=x)

    fine = ends(RK4(150))
    return lambda solver: float((ends(solver) - fine).square().mean().sqrt())


@pytest.mark.parametrize(("name", "start"), [("line5", "flow"), ("spiral40", "vp"), ("lowrank32", "ve")])
def test_more_steps_of_the_default_are_no_worse(name: str, start: str) -> None:
    """From 12 steps of order 2 to 20 of order 3; of order 4 on the circle of all the deviation 1.5 times as far."""
    error = errors(name, start)
    at_20 = error(Adams(20))
    assert at_20 <= error(Adams(12)) and 1.5 * at_20 < error(Adams(20, 4, PowerGrid(), Circle()))

"""What sampling costs beside the network: tensor operations per row and states held, counted exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import DDPM, EDM, DPMpp2M, Euler, Gaussian, Heun
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    RK4,
    Adams,
    DPMpp2S,
    DPMpp3M,
    DPMpp3S,
    DPMSolver,
    Midpoint,
    Points,
    SASolver,
    Solver,
    UniPC,
)
from gendiff.testing import Costs, Plain

LIKE = torch.empty(2, 3, 8)
SOLVERS: list[Solver] = [
    Euler(8),
    DPMpp2M(8),
    DPMpp3M(8),
    Adams(8),
    Adams(8, 2, corrector=3),
    Adams(8, 3, corrector=0),
    Adams(8, view=Points()),
    UniPC(8, 2),
    UniPC(8),
    DEIS(8),
    LMS(8),
    IPNDM(8),
    PNDM(8),
    Heun(8),
    Midpoint(8),
    DPMpp2S(8),
    DPMpp3S(8),
    DPMSolver(8),
    DPMSolver(8, 3),
    RK4(8),
    DDPM(8),
    DPMpp2M(8, eta=1.0),
    SASolver(8),
]


class Copies:
    """Every prediction is a new tensor."""

    process = Gaussian(EDM())

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@torch.no_grad()
def test_operations_and_states_are_as_few_as_the_table_has_numbers(solver: Solver) -> None:
    """A row costs a multiplication (none where it keeps the state whole, as rates do at alpha = 1), an addition for
    each weight, two for fresh noise, one for a rate; no more is held than the start of the move, its end, and the
    predictions that are mixed."""
    rows = solver.rows(Copies.process)
    weights = sum(sum(w != 0 for w in row.weights) for row in rows)
    evaluations = sum(row.at is not None for row in rows)
    rates = sum(row.at is not None and row.norms is not None for row in rows)
    drawn = sum(row.draws for row in rows)
    whole = sum(row.norms is not None and abs(row.move.keep + row.move.pull / row.norms[1] - 1) < 1e-15 for row in rows)
    with Costs(LIKE) as costs:
        sample(Copies(), LIKE, solver=solver, noise=Plain(0, torch.arange(2)))
    made = 2 + evaluations  # the prior's draw and its scaling, and the predictions
    assert costs.operations - made == len(rows) - whole + weights + 2 * drawn + rates
    # A rate is made beside the prediction that it is the rate of, from a state that is then left.
    beside = any(row.redo and row.norms is not None for row in rows)
    stirred = any(row.draws for row in rows)
    assert costs.peak <= 2 + max(row.reach for row in rows) + (beside or stirred)


@torch.no_grad()
def test_the_count_sees_what_is_held() -> None:
    """Copies that a callback keeps are counted, views are not, and what was there before is not."""
    kept: list[Any] = []
    with Costs(LIKE) as costs:
        sample(Copies(), LIKE, solver=Euler(8), noise=Noise.of(0, 2), start=LIKE, callback=kept.append)
    assert costs.peak == 16  # eight states and eight predictions
    x = torch.zeros(4, 2, 3, 8)
    with Costs(LIKE) as costs:
        pieces = [part.view(-1) for part in x.unbind(0)]
        pieces[0].add_(1)
    assert (costs.operations, costs.peak) == (1, 4)


def test_rows_may_be_differentiated() -> None:
    """The sum is made in place, in a tensor that autograd has not seen: the gradient is the composition's."""
    process = Gaussian(EDM(5.0, 3.0))
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    class Squashed:
        def __init__(self, scale: Tensor) -> None:
            self.process, self.scale = process, scale

        def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
            return torch.tanh(self.scale * x)

    def f(x: Tensor, scale: Tensor) -> Tensor:
        return sample(Squashed(scale), x, solver=Adams(5, 3, corrector=3), noise=Noise.of(0, 2), start=x)

    assert torch.autograd.gradcheck(f, (x, scale))

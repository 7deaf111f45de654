"""Every solver on every schedule: finite, ending in what was predicted, and nearer to the exact end with more steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gendiff.sampling.solvers
from gendiff import (
    EDM,
    VE,
    VP,
    Cosine,
    Discrete,
    Exponential,
    Gaussian,
    Laplace,
    Linear,
    LinearGrid,
    Polynomial,
    Shifted,
    Sigmoid,
    TrigFlow,
    ZeroTerminal,
)
from gendiff.denoisers import Normal
from gendiff.random import Noise
from gendiff.sampling import Progress, sample
from gendiff.sampling.solvers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    RK4,
    Adams,
    AnnealedLangevin,
    Calibrated,
    Churn,
    Consistency,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMpp3S,
    DPMSolver,
    Euler,
    EulerMaruyama,
    FlowMap,
    Heun,
    Langevin,
    Midpoint,
    OnePath,
    Points,
    SASolver,
    Solver,
    UniPC,
)

F64 = torch.float64
MEAN = torch.tensor([0.7, -0.4], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)
SCHEDULES = [
    VP(),
    Cosine(),
    VE(),
    EDM(),
    Linear(),
    TrigFlow(),
    Sigmoid(),
    Laplace(),
    ZeroTerminal(VP()),
    Discrete.linear(),
    Discrete.linear().zero_terminal(),
    Discrete.cosine(),
    Shifted(Linear(), 3.0),
    Shifted(VP(), 3.0),
    Polynomial(),
    Polynomial(0.5),
    Exponential(),
]
DETERMINISTIC: list[Solver] = [
    Euler(),
    DDIM(),
    Heun(),
    Midpoint(),
    RK4(),
    DPMSolver(order=1),
    DPMSolver(),
    DPMSolver(order=3),
    DPMpp2S(),
    DPMpp2M(),
    DPMpp3M(),
    DPMpp3S(),
    DPMpp3S(order=2),
    Adams(),
    Adams(order=3, corrector=0),
    Adams(view=Points()),
    Adams(order=3, view=Points(), corrector=0),
    DEIS(),
    LMS(),
    IPNDM(),
    UniPC(),
    UniPC(bh2=False),
    PNDM(),
]
STOCHASTIC: list[Solver] = [
    DDIM(eta=0.5),
    DDPM(),
    DDPM(large=True),
    Consistency(),
    EulerMaruyama(),
    DPMSolver(eta=1.0),
    DPMpp2S(eta=1.0),
    DPMpp2S(eta=1.0, inner=True),
    DPMpp2M(eta=1.0),
    DPMpp3M(eta=1.0),
    SASolver(),
    SASolver(low=0.1, high=2.0),
    Churn(),
    OnePath(),
    Langevin(),
    AnnealedLangevin(corrections=2),
]


def test_none_is_forgotten() -> None:
    named = {v for v in vars(gendiff.sampling.solvers).values() if isinstance(v, type) and issubclass(v, Solver)}
    alone = {Solver, Calibrated, FlowMap}  # a table of its own, and jumps of flow maps (test_fewstep.py)
    assert named - alone == {type(solver) for solver in DETERMINISTIC + STOCHASTIC}


def begun(solver: Solver, schedule: Any, steps: int) -> Solver:
    """With this many steps, from where there is signal if the solver has no step from where there is none."""
    solver = replace(solver, steps=steps)  # type: ignore[type-var]
    late = isinstance(solver, EulerMaruyama | AnnealedLangevin) and schedule(1.0)[0] == 0
    return replace(solver, times=LinearGrid(0.99)) if late else solver  # type: ignore[type-var]


def drawn(solver: Solver, schedule: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Progress]]:
    """The start, the end, and what was seen between, of 16 samples of a Gaussian."""
    process, seen = Gaussian(schedule), []
    data = Normal(process, MEAN.to(dtype), COVARIANCE.to(dtype))
    noise, first = Noise.of(3, 16), solver.times(process, solver.steps)[0]
    start = process.prior(torch.empty(16, 2, dtype=dtype), noise.fork("prior"), first)
    end = sample(data, start, solver=solver, noise=noise, start=start, callback=seen.append)
    return start, end, seen


def ends_well(solver: Solver, schedule: Any, steps: int, dtype: torch.dtype) -> None:
    """The end is finite, and the last prediction where the last row weighs it alone, and no state."""
    chosen = begun(solver, schedule, steps)
    _, end, seen = drawn(chosen, schedule, dtype)
    assert end.dtype == dtype and bool(torch.isfinite(end).all()), (chosen, schedule, dtype)
    last = chosen.rows(Gaussian(schedule))[-1]
    if last.reach == 1 and last.norms is None:
        assert torch.equal(end, seen[-1].prediction), (chosen, schedule, dtype)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])
@pytest.mark.parametrize("solver", DETERMINISTIC + STOCHASTIC, ids=repr)
def test_few_steps_end_in_the_last_prediction(solver: Solver, schedule: Any) -> None:
    ends_well(solver, schedule, 1, torch.float32)
    ends_well(solver, schedule, 3, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])
@pytest.mark.parametrize("solver", DETERMINISTIC + STOCHASTIC, ids=repr)
def test_many_steps_end_in_the_last_prediction(solver: Solver, schedule: Any) -> None:
    for dtype in (torch.float32, F64):
        for steps in (1, 2, 3, 7, 50):
            ends_well(solver, schedule, steps, dtype)


def error(solver: Solver, schedule: Any, steps: int, dtype: torch.dtype = F64) -> float:
    """RMS to the exact end of the probability flow, which is affine: along an axis of variance c, x - alpha m is
    multiplied by sqrt(c/(alpha^2 c + sigma^2))."""
    chosen = replace(solver, steps=steps)  # type: ignore[type-var]
    start, end, _ = drawn(chosen, schedule, dtype)
    alpha, sigma = schedule(chosen.times(Gaussian(schedule), steps)[0])
    values, axes = torch.linalg.eigh(COVARIANCE)
    scale = (values / (alpha * alpha * values + sigma * sigma)).sqrt()
    exact = MEAN + ((start.double() - alpha * MEAN) @ axes * scale) @ axes.T
    return float((end.double() - exact).square().mean().sqrt())


# Every other schedule, and all of them among the slow tests.
HALF = [pytest.param(schedule, marks=[pytest.mark.slow] * (k % 2)) for k, schedule in enumerate(SCHEDULES)]


@pytest.mark.parametrize("schedule", HALF, ids=lambda s: repr(s)[:40])
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=repr)
def test_the_exact_end_is_neared(solver: Solver, schedule: Any) -> None:
    coarse, fine = (error(solver, schedule, n) for n in (10, 40))
    assert fine < 0.75 * coarse and fine < 0.3, (coarse, fine)


ORDERS: list[tuple[Solver, int]] = [
    (Heun(), 2),
    (Midpoint(), 2),
    (RK4(), 4),
    (DPMpp2M(), 2),
    (PNDM(), 2),
    (DPMSolver(), 2),
    (DPMpp2S(), 2),
    (DPMpp3S(order=2), 2),
    (DPMpp3S(), 3),
    (Adams(order=2), 3),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: repr(s)[:40])
@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=lambda v: repr(v) if isinstance(v, Solver) else str(v))
def test_default_grids_keep_the_order(solver: Solver, order: int, schedule: Any) -> None:
    """From the noise end into sigma = 0, on the grid that a user gets who names none."""
    coarse, fine = (error(solver, schedule, n) for n in (64, 128))
    assert fine < 1e-9 or math.log2(coarse / fine) > order - 0.5, (coarse, fine)


@pytest.mark.parametrize("schedule", [EDM(), Discrete.linear().zero_terminal()], ids=repr)
@pytest.mark.parametrize(
    "solver", [Euler(), DPMpp2M(), Adams(), Adams(view=Points()), DEIS(), UniPC(), PNDM()], ids=repr
)
def test_a_thousand_steps_in_single_precision(solver: Solver, schedule: Any) -> None:
    """Rounding does not add up: what is left is the solver's own error, which double precision has too."""
    single, double = (error(solver, schedule, 1000, dtype) for dtype in (torch.float32, F64))
    assert single < 1.05 * double + 2e-5, (single, double)

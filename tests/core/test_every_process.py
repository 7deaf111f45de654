"""The laws of solvers on every process: constant predictions are followed, orders hold, on flat and curved spaces."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from gendiff import (
    DDIM,
    EDM,
    SO3,
    VE,
    VP,
    BrownianSO3,
    Centered,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Joint,
    Linear,
    LinearGrid,
    Polynomial,
    Sphere,
    Torus,
)
from gendiff.denoisers import Normal
from gendiff.errors import SamplerError
from gendiff.processes import Absorbing, Leaf, MarginalCategories, Process, UniformCategories
from gendiff.processes import __dict__ as PROCESSES
from gendiff.random import Noise
from gendiff.sampling import Progress, sample
from gendiff.sampling.solvers import RK4, Adams, Circle, EulerMaruyama, Solver
from gendiff.spaces import State, leaves
from gendiff.testing import Smooth, distance, double, slope
from tests.core.test_every_solver import DETERMINISTIC, STOCHASTIC

N = 2
PROCESS: dict[str, tuple[Process, State]] = {
    "VP": (Gaussian(VP()), torch.empty(N, 3)),
    "EDM": (Gaussian(EDM(5.0)), torch.empty(N, 3)),
    "linear flow": (Gaussian(Linear()), torch.empty(N, 3)),
    "centred": (Gaussian(Polynomial(1.5), Centered()), torch.empty(N, 4, 3)),
    "rotations": (Geodesic(SO3()), torch.empty(N, 2, 3, 3)),
    "torus": (Geodesic(Torus(), Exponential(3.0)), torch.empty(N, 4)),
    "sphere": (Geodesic(Sphere()), torch.empty(N, 2, 3)),
    "Brownian rotations": (BrownianSO3(VE(0.3, 3.0)), torch.empty(N, 3, 3)),
    "bundle": (
        Joint(
            pos=Gaussian(Linear(), Centered()), rot=BrownianSO3(VE(0.3, 3.0)), turn=Geodesic(SO3(), Exponential(3.0))
        ),
        {"pos": torch.empty(N, 3, 3), "rot": torch.empty(N, 3, 3), "turn": torch.empty(N, 3, 3)},
    ),
}
CLASSES: dict[str, Process] = {
    "masks": Absorbing(5),
    "uniform classes": UniformCategories(5),
    "marginal classes": MarginalCategories(5, marginal=(0.4, 0.3, 0.15, 0.1, 0.05)),
}


class Constant:
    """A denoiser that always predicts the same."""

    def __init__(self, process: Process, x0: State) -> None:
        self.process, self.x0 = process, x0

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        return self.x0


def leaf_kinds(process: Process) -> set[type]:
    return {type(leaf) for leaf in leaves(process.per_part(lambda leaf: leaf))}


def test_no_process_is_forgotten() -> None:
    concrete = {
        v for v in PROCESSES.values()
        if isinstance(v, type) and issubclass(v, Leaf) and not getattr(v, "__abstractmethods__", None)
    }  # fmt: skip
    tried = set().union(*(leaf_kinds(process) for process, _ in PROCESS.values()), *map(leaf_kinds, CLASSES.values()))
    assert concrete == tried


def begun(case: str, grid: LinearGrid) -> tuple[Process, State, State]:
    """The process, a clean state, and one on its noisy path where the grid begins."""
    process, like = PROCESS[case]
    like, noise = double(like), Noise.of(11, N)
    x0 = process.space.random(like, noise.fork("clean"))
    return process, x0, process.noise(x0, grid.start, noise)


@pytest.mark.parametrize("case", PROCESS)
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=repr)
def test_a_constant_prediction_is_followed(solver: Solver, case: str) -> None:
    """At every time of the grid the state is where one exact step leads, to rounding."""
    grid = LinearGrid(0.95)
    process, x0, x = begun(case, grid)
    seen: list[Progress] = []
    solver = replace(solver, steps=4, times=grid)  # type: ignore[type-var]
    end = sample(Constant(process, x0), x, solver=solver, noise=Noise.of(0, N), start=x, callback=seen.append)
    if isinstance(solver, Adams) and isinstance(solver.view, Circle) and Gaussian in leaf_kinds(process):
        return  # on flat spaces it follows Gaussian data instead, below
    assert distance(end, x0) < 1e-6
    rows = solver.rows(process)
    for now in seen:
        if rows[now.number].last:
            assert distance(now.state, process.step(x, x0, grid.start, now.time)) < 1e-6, now.time


@pytest.mark.parametrize("width", [0.5, 3.0])
@pytest.mark.parametrize("schedule", [VP(), EDM(5.0), Linear()], ids=repr)
@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_circle_follows_gaussian_data_of_its_width(order: int, schedule: Any, width: float) -> None:
    process = Gaussian(schedule)
    denoiser = Normal(process, torch.zeros(3, dtype=torch.float64), width**2 * torch.eye(3, dtype=torch.float64))
    x = process.prior(torch.empty(N, 3, dtype=torch.float64), Noise.of(1, N))
    solver = Adams(4, order, view=Circle(width))
    end = sample(denoiser, x, solver=solver, noise=Noise.of(0, N), start=x)
    first = solver.times(process, 4)[0]
    alpha, sigma = schedule(first)
    assert distance(end, x * width / math.hypot(width * alpha, sigma)) < 1e-9


@pytest.mark.parametrize("case", [*PROCESS, *CLASSES])
@pytest.mark.parametrize("solver", STOCHASTIC, ids=repr)
def test_noise_ends_in_a_constant_prediction(solver: Solver, case: str) -> None:
    """Solvers with noise end exactly there, on every process they take; the others are refused with a way out."""
    grid = LinearGrid(0.95)
    if case in CLASSES:
        process: Process = CLASSES[case]
        x0: State = torch.arange(3 * N).reshape(N, 3) % 5
        x: State = process.noise(x0, 0.95, Noise.of(11, N))
    else:
        process, x0, x = begun(case, grid)
    solver = replace(solver, steps=3, times=grid)  # type: ignore[type-var]
    if isinstance(solver, EulerMaruyama) and any(not issubclass(kind, Gaussian) for kind in leaf_kinds(process)):
        with pytest.raises(SamplerError, match="DDIM"):
            solver.rows(process)
        return
    end = sample(Constant(process, x0), x, solver=solver, noise=Noise.of(0, N), start=x)
    assert distance(end, x0) < 1e-6


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=repr)
def test_classes_end_in_a_constant_prediction(solver: Solver, case: str) -> None:
    process, x0 = CLASSES[case], torch.arange(3 * N).reshape(N, 3) % 5
    solver = replace(solver, steps=5, times=LinearGrid(0.95))  # type: ignore[type-var]
    x = process.noise(x0, 0.95, Noise.of(11, N))
    assert torch.equal(sample(Constant(process, x0), x, solver=solver, noise=Noise.of(0, N), start=x), x0)


# The part of the noise where orders are measured: no longer than needed, since Brownian steps are integrated finely.
INNER = LinearGrid(0.7, 0.5)


@cache
def fine(case: str) -> tuple[Any, State, State]:
    """A smooth denoiser, a start of its process, and where the probability flow leads from there."""
    process, _, x = begun(case, INNER)
    denoiser = Smooth(process)
    return denoiser, x, sample(denoiser, x, solver=RK4(96, times=INNER), noise=Noise.of(0, N), start=x)


@pytest.mark.parametrize("case", [case for case in PROCESS if case != "bundle"])
@pytest.mark.parametrize("solver", DETERMINISTIC, ids=repr)
def test_orders_hold(solver: Solver, case: str) -> None:
    """Solvers of first order have it, all others have the second at least, on every process."""
    denoiser, x, end = fine(case)
    steps, errors = (6, 12, 24), []
    for n in steps:
        chosen = replace(solver, steps=n, times=INNER)  # type: ignore[type-var]
        found = sample(denoiser, x, solver=chosen, noise=Noise.of(0, N), start=x)
        errors.append(float(denoiser.process.space.dist2(found, end).mean().sqrt()))
    first = isinstance(solver, Euler | DDIM) or solver.order == 1
    order = max(slope(steps, errors), math.log2(errors[-2] / errors[-1]))
    assert errors[-1] < 1e-6 or (abs(order - 1) < 0.2 if first else order > 1.7), (order, errors)

"""The measured order of every deterministic solver, from the same objects, on every kind of space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from gendiff import (
    EDM,
    SO3,
    Centered,
    Cosine,
    DPMpp2M,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Linear,
    LinearGrid,
    Sphere,
    Torus,
)
from gendiff.denoisers import Mixture
from gendiff.processes import Leaf, Process
from gendiff.random import Noise
from gendiff.sampling.grids import Grid
from gendiff.sampling.solvers import Row, Solver, heun, multistep2
from gendiff.spaces import State
from gendiff.testing import Smooth, check_order, slope

F64 = torch.float64
SOLVERS = [Euler(), Heun(), DPMpp2M()]
MEANS = torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.1, -1.0]], dtype=F64)


def mixture(process: Gaussian) -> Mixture:
    return Mixture(process, MEANS, 0.2, torch.tensor([0.5, 0.3, 0.2], dtype=F64))


CASES: dict[str, tuple[Any, State, Callable[[], LinearGrid]]] = {
    "VP cosine": (mixture(Gaussian(Cosine())), torch.empty(8, 2), lambda: LinearGrid(0.9, 0.1)),
    "linear flow": (mixture(Gaussian(Linear())), torch.empty(8, 2), lambda: LinearGrid(0.9, 0.1)),
    "EDM": (mixture(Gaussian(EDM(5.0, 3.0))), torch.empty(8, 2), lambda: LinearGrid(1.0, 0.35)),
    "SO(3)": (Smooth(Geodesic(SO3())), torch.empty(8, 3, 3, 3), lambda: LinearGrid(0.9, 0.2)),
    "torus": (Smooth(Geodesic(Torus())), torch.empty(8, 4), lambda: LinearGrid(0.9, 0.2)),
    "sphere": (Smooth(Geodesic(Sphere())), torch.empty(8, 2, 3), lambda: LinearGrid(0.9, 0.2)),
    "SE(3), two clocks": (
        Smooth(Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))),
        {"pos": torch.empty(8, 4, 3), "rot": torch.empty(8, 4, 3, 3)},
        lambda: LinearGrid(0.9, 0.2),
    ),
}


def start(case: str) -> State:
    denoiser, like, grid = CASES[case]
    like = {k: v.double() for k, v in like.items()} if isinstance(like, dict) else like.double()
    return denoiser.process.prior(like, Noise.of(4, 8), grid().start)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_order(case: str, solver: Solver) -> None:
    denoiser, like, grid = CASES[case]
    fine = Heun(512, times=grid())
    check_order(solver, denoiser, like, grid=grid, start=start(case), reference=fine)


EVEN = LinearGrid()


@dataclass(frozen=True)
class WrongHeun(Solver):
    """Heun with 0.75 where a half belongs."""

    order: ClassVar[int] = 2
    steps: int = 18
    times: Grid = EVEN

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        move = process.move(t, s)
        yield Row(t, s, at=t, move=move, last=False)

        def weights(leaf: Leaf) -> tuple[float, ...]:
            new = 1.5 * heun(leaf.schedule.clock(t), leaf.schedule.clock(s))[0]
            return (new, 1 - new)

        yield Row(t, s, at=s, weights=process.per_part(weights), redo=True, move=move)


@dataclass(frozen=True)
class Wrong2M(Solver):
    """DPM-Solver++(2M) that extrapolates half as far as it should."""

    order: ClassVar[int] = 2
    steps: int = 20
    times: Grid = EVEN

    def step(self, process: Process, t: float, s: float, past: list[float]) -> Iterator[Row]:
        def weights(leaf: Leaf) -> tuple[float, ...]:
            return (1.25, -0.25) if past and multistep2(leaf, past[-1], t, s) != (1.0,) else (1.0,)

        yield Row(t, s, at=t, weights=process.per_part(weights), move=process.move(t, s))


@pytest.mark.parametrize("case", ["linear flow", "SO(3)", "SE(3), two clocks"])
@pytest.mark.parametrize("solver", [WrongHeun(), Wrong2M()], ids=lambda s: type(s).__name__)
def test_a_wrong_weight_shows(case: str, solver: Solver) -> None:
    denoiser, like, grid = CASES[case]
    fine = Heun(512, times=grid())
    with pytest.raises(AssertionError, match="has order"):
        check_order(solver, denoiser, like, grid=grid, start=start(case), reference=fine)


def test_slope_reads_a_power() -> None:
    steps = (8, 16, 32)
    assert slope(steps, [3.0 * n**-2.0 for n in steps]) == pytest.approx(2)

"""Parallel in time: the same sample as the solver's own, in fewer rounds, each sample by itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    DDPM,
    EDM,
    SO3,
    VP,
    Absorbing,
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
    UpAndDown,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture, Prediction
from gendiff.random import Noise
from gendiff.sampling import Parallel, Progress, sample
from gendiff.sampling.solvers import DEIS, PNDM, RK4, Adams, Churn, DPMpp3S, Langevin, OnePath, SASolver, Solver, UniPC
from gendiff.spaces import State, map_state, tensors
from gendiff.testing import Smooth, distance

F64 = torch.float64
MEANS = torch.tensor([[1.0, 0.3], [-0.8, 0.5], [0.1, -1.0]], dtype=F64)


def mixture(process: Gaussian) -> Mixture:
    return Mixture(process, MEANS, 0.2, torch.tensor([0.5, 0.3, 0.2], dtype=F64))


class Counted:
    """A denoiser that counts its calls and the samples in them."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.process = denoiser, denoiser.process
        self.calls: list[int] = []

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        self.calls.append(len(tensors(x)[0]))
        return self.denoiser(x, t, **cond)


class Twofold(Smooth):
    """Two predictions: the state goes back towards the other one."""

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        x0 = super().__call__(x, t, **cond)
        return Prediction(x0, self.process.space.lerp(x0, x, 0.1))


SOLVERS: list[Solver] = [
    Euler(8),
    Heun(5),
    RK4(3),
    DPMpp2M(8),
    Adams(8, 3, corrector=3),
    UniPC(8),
    DEIS(8),
    PNDM(7),
    DDPM(8),
    SASolver(8),
    DPMpp3S(8),
    Churn(6),
    OnePath(3),
    Langevin(4),
    Euler(4, times=UpAndDown(LinearGrid(), 2, 2)),
]
FRAMES = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))
SPACES: dict[str, tuple[Any, State]] = {
    "flat": (Gaussian(EDM()), torch.empty(4, 6, 3, dtype=F64)),
    "SO(3)": (Geodesic(SO3()), torch.empty(4, 2, 3, 3, dtype=F64)),
    "SE(3)": (FRAMES, {"pos": torch.empty(4, 6, 3, dtype=F64), "rot": torch.empty(4, 6, 3, 3, dtype=F64)}),
}


@pytest.mark.parametrize("where", SPACES)
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_at_tolerance_zero_it_is_the_solver(where: str, solver: Solver) -> None:
    process, like = SPACES[where]
    denoiser = Counted(Smooth(process))
    cond: dict[str, Any] = {"push": torch.linspace(-1, 1, 4, dtype=F64)}
    if where == "SE(3)":
        cond["mask"] = torch.arange(6)[None] < torch.tensor([6, 4, 5, 3])[:, None]
    plain = sample(denoiser, like, solver=solver, noise=Noise.of(3, 4), cond=cond)
    rounds = len(denoiser.calls)
    for window in (None, 3):
        denoiser.calls.clear()
        chosen = Parallel(solver, window, tolerance=0.0)
        found = sample(denoiser, like, solver=chosen, noise=Noise.of(3, 4), cond=cond)
        assert distance(found, plain) < 1e-12
        assert len(denoiser.calls) <= rounds and max(denoiser.calls) <= 4 * (window or rounds)


def test_two_predictions_and_callbacks_and_classes() -> None:
    cond, solver = {"push": torch.zeros(4, dtype=F64)}, DPMpp2M(6)
    process, like = SPACES["flat"]
    denoiser = Twofold(process)
    seen: list[list[Progress]] = [[], []]
    ends = [
        sample(denoiser, like, solver=chosen, noise=Noise.of(3, 4), cond=cond, callback=into.append)
        for chosen, into in zip((solver, Parallel(solver, tolerance=0.0)), seen, strict=True)
    ]
    assert distance(*ends) < 1e-12 and len(seen[0]) == 6
    for a, b in zip(*seen, strict=True):
        assert (a.number, a.total, a.time) == (b.number, b.total, b.time)
        assert distance(a.state, b.state) < 1e-12 and distance(a.prediction, b.prediction) < 1e-12

    class Logs:
        process = Absorbing(5)

        def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return self.process.carry(x, torch.sin(x[..., None].double() + torch.arange(5)) * 2)

    words = torch.zeros(4, 7, dtype=torch.int64)
    whole = sample(Logs(), words, solver=DDPM(9), noise=Noise.of(1, 4))
    assert torch.equal(sample(Logs(), words, solver=Parallel(DDPM(9), 4), noise=Noise.of(1, 4)), whole)


@pytest.mark.parametrize("solver", [Euler(50), DDPM(40), DPMpp2M(50)], ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Linear()], ids=repr)
def test_rounds_are_fewer_than_steps_and_samples_their_own(schedule: Any, solver: Solver) -> None:
    data = Counted(mixture(Gaussian(schedule)))
    like = torch.empty(8, 2, dtype=F64)
    plain = sample(data, like, solver=solver, noise=Noise.of(2, 8))
    data.calls.clear()
    chosen = Parallel(solver, 32, tolerance=1e-4)
    found = sample(data, like, solver=chosen, noise=Noise.of(2, 8))
    assert len(data.calls) <= 24, len(data.calls)
    assert distance(found, plain) < 2e-2
    for i in (0, 5):
        one = sample(data, like[:1], solver=chosen, noise=Noise.of(2, 1, i))
        assert distance(one, map_state(lambda p: p[i : i + 1], found)) < 1e-12  # noqa: B023


def test_it_is_a_value() -> None:
    solver = Parallel(Heun(5), window=4)
    assert from_config(json.loads(json.dumps(to_config(solver)))) == solver

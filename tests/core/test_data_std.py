"""Data of another deviation than 1: said once, by the process or an EDMHead, it reaches the default grid and solver."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gendiff
from gendiff import EDM, Adams, Denoiser, EDMHead, Gaussian, Heads, Joint, Linear, Noise, PowerGrid, Velocity, sample
from gendiff.config import from_config, to_config
from gendiff.denoisers import Mixture
from gendiff.errors import GendiffError
from gendiff.sampling.solvers import RK4, Circle

F64 = torch.float64
MEANS = torch.tensor([[1.1, 0.2, 0.0], [-0.9, 0.6, 0.4], [0.2, -1.0, -0.5]], dtype=F64) / 0.6


def data(process: Gaussian, std: float) -> Mixture:
    """Three modes, their deviation about `std`."""
    return Mixture(process, std * MEANS, (0.25 * std) ** 2, torch.tensor([0.5, 0.2, 0.3], dtype=F64))


@pytest.mark.parametrize("schedule", [EDM(80.0), Linear()], ids=repr)
@pytest.mark.parametrize("std", [9.0, 0.1])
def test_told_data_are_sampled_as_data_of_unit_deviation(std: float, schedule: EDM | Linear) -> None:
    """Ten times nearer than when not told; told, they are unit data whose noise is scaled alike, to rounding."""
    noise = Noise.of(3, 24)

    def error(std: float, told: float | None, schedule: EDM | Linear = schedule) -> float:
        process, like = Gaussian(schedule, data_std=told), torch.empty(24, 3, dtype=F64)
        solver = Adams(20, times=PowerGrid(1.65, math.inf))
        start = process.prior(like, noise)
        exact, many = data(Gaussian(schedule, data_std=std), std), RK4(200, PowerGrid(1.5, math.inf))
        fine = sample(exact, like, solver=many, noise=noise, start=start)
        ends = sample(data(process, std), like, solver=solver, noise=noise, start=start)
        return float((ends - fine).square().mean().sqrt()) / std

    alike = Linear() if isinstance(schedule, Linear) else EDM(80.0 / std)
    assert error(std, std) < 0.1 * error(std, None)
    assert error(std, std) == pytest.approx(error(1.0, None, alike), rel=1e-3)


def test_the_grid_and_the_view_scale_with_the_data() -> None:
    """Scaling data and noise alike scales the levels and leaves the weights."""
    plain, told = Gaussian(EDM(80.0)), Gaussian(EDM(720.0), data_std=9.0)
    levels, scaled = ([process.schedule(t)[1] for t in PowerGrid(1.5)(process, 6)] for process in (plain, told))
    assert scaled == pytest.approx([9 * level for level in levels], rel=1e-9)
    for std in (0.02, 0.5):  # it does not begin where such data are long lost, or single steps would be thrown far
        small = Gaussian(EDM(80.0), data_std=std)
        first = [small.schedule(t)[1] for t in PowerGrid(1.5)(small, 6)]
        assert first == pytest.approx([std * level for level in levels], rel=1e-9)
    for row, other in zip(Adams(6).rows(plain), Adams(6).rows(told), strict=True):
        assert other.weights == pytest.approx(row.weights, rel=1e-8)
    assert Adams(6, view=Circle(9.0, 0.4)).rows(told) == Adams(6).rows(told)


def test_a_head_that_knows_tells_the_process() -> None:
    network = nn.Identity()
    told = Denoiser(network, EDMHead(sigma_data=0.5), Gaussian(EDM())).process
    assert told == Gaussian(EDM(), data_std=0.5)
    assert Denoiser(network, EDMHead(1.0), Gaussian(EDM())).process == Gaussian(EDM())
    assert Denoiser(network, EDMHead(0.5), Gaussian(EDM(), data_std=2.0)).process == Gaussian(EDM(), data_std=2.0)
    both = Joint(a=Gaussian(EDM()), b=Gaussian(Linear()))
    bundle = Denoiser(network, Heads(a=EDMHead(0.5), b=Velocity()), both).process
    assert bundle == Joint(a=Gaussian(EDM(), data_std=0.5), b=Gaussian(Linear()))
    assert from_config(to_config(told), gendiff) == told
    assert "data_std=0.5" in repr(told)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_no_deviation_is_refused(std: float) -> None:
    with pytest.raises(GendiffError, match="data_std"):
        Gaussian(EDM(), data_std=std)

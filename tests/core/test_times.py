"""Grids and training times: exact ends, kept noise levels, walks that also go up, even cover on all devices."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats

from gendiff import (
    EDM,
    SO3,
    VP,
    Cosine,
    Discrete,
    DPMpp2M,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Joint,
    Karras,
    Linear,
    LinearGrid,
    LogSNRGrid,
    UpAndDown,
)
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.times import Grid, Levels, LogitNormal, LogNormal, Mixed, Trailing, Uniform, stratified

F64 = torch.float64


@pytest.mark.parametrize("grid", [LinearGrid(), Karras(), LogSNRGrid(), Trailing()], ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Cosine(), EDM(), Linear(), Discrete.linear()], ids=repr)
def test_grids_fall_to_exactly_zero(grid: Grid, schedule: Any) -> None:
    for n in (1, 2, 7, 50):
        times = grid(Gaussian(schedule), n)
        assert times[-1] == 0 and len(times) <= n + 1 and 0 < times[0] <= 1
        assert all(a > b for a, b in pairwise(times))
    with pytest.raises(SamplerError, match="steps=0"):
        grid(Gaussian(schedule), 0)


def test_noise_levels_are_kept_whatever_the_schedule() -> None:
    for schedule in (VP(), Cosine(), EDM(), Linear(), Exponential()):
        times = Karras(0.01, 20.0)(Gaussian(schedule), 9)
        ratios = [schedule(t)[1] / schedule(t)[0] for t in times[:-1]]
        assert ratios == pytest.approx(Karras(0.01, 20.0).sigmas(9), rel=1e-9)
    assert Levels((20.0, 1.0, 0.0))(Gaussian(EDM()), 2)[-1] == 0


def test_levels_beyond_the_schedule_are_moved_to_its_end_once() -> None:
    times = Karras(0.01, 1000.0)(Gaussian(EDM(80.0)), 20)
    assert times[0] == 1 and all(a > b for a, b in pairwise(times))


def test_a_grid_that_also_goes_up_walks_each_stretch_again() -> None:
    process = Gaussian(Linear())
    assert UpAndDown(LinearGrid(), 1, 1)(process, 5) == LinearGrid()(process, 5)
    times = UpAndDown(LinearGrid(), 2, 3)(process, 4)
    assert times == [1.0, 0.75, 0.5, 1.0, 0.75, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    rows = Euler(4, times=UpAndDown(LinearGrid(), 2, 3)).rows(process)
    assert [row.move is None for row in rows] == [b > a for a, b in pairwise(times)]
    rows = DPMpp2M(4, times=UpAndDown(LinearGrid(), 2, 3)).rows(process)
    assert [len(row.weights) for row in rows][3] == 1  # what was predicted before the return is forgotten


def test_the_grid_of_a_bundle_follows_the_part_it_names() -> None:
    process = Joint(pos=Gaussian(Linear()), rot=Geodesic(SO3(), Exponential(3.0)))
    for part, schedule in [("pos", Linear()), ("rot", Exponential(3.0))]:
        times = Karras(0.01, 20.0, part=part)(process, 5)
        assert times == Karras(0.01, 20.0)(Gaussian(schedule), 5)
    with pytest.raises(SamplerError, match="no part 'rto'"):
        Karras(part="rto")(process, 5)


# Training times

UNIFORMS = torch.arange(1, 20000, dtype=F64) / 20000


def test_stratified_times_cover_the_interval_whatever_the_seed() -> None:
    for seed in range(20):
        u = stratified(64, Noise.of(seed, 1))
        assert u.dtype == F64 and torch.equal((u * 64).floor(), torch.arange(64, dtype=F64))
    firsts = torch.stack([stratified(64, Noise.of(seed, 1))[0] for seed in range(500)]) * 64
    assert stats.kstest(firsts.numpy(), "uniform").pvalue > 1e-3  # type: ignore[union-attr]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_stratified_times_are_the_same_on_any_number_of_devices(world: int) -> None:
    whole, share = stratified(64, Noise.of(3, 1)), 64 // world
    parts = [stratified(share, Noise.of(3, 1), total=64, start=rank * share) for rank in range(world)]
    assert torch.equal(torch.cat(parts), whole)


def test_training_times_have_their_distribution() -> None:
    flow = Gaussian(Linear())
    t = LogitNormal(0.4, 0.8).quantile(UNIFORMS, flow)
    logit = torch.log(t / (1 - t))
    assert float(logit.mean()) == pytest.approx(0.4, abs=1e-3) and float(logit.std()) == pytest.approx(0.8, rel=1e-3)
    t = Uniform(0.1, 0.7).quantile(UNIFORMS, flow)
    assert float(t.min()) > 0.1 and float(t.max()) < 0.7 and float(t.mean()) == pytest.approx(0.4)
    for schedule in (EDM(), VP(0.1, 30.0), Cosine(), Linear(), Discrete.linear().zero_terminal()):
        t = LogNormal(-1.2, 1.2).quantile(UNIFORMS, Gaussian(schedule))
        alpha, sigma = schedule(t)
        log = torch.log(sigma / alpha)
        assert t.dtype == F64 and float(log.mean()) == pytest.approx(-1.2, abs=2e-3), schedule
        assert float(log.std()) == pytest.approx(1.2, rel=2e-3)
    joint = Joint(pos=Gaussian(EDM()), rot=Geodesic(SO3()))
    t = LogNormal(0.0, 1.0, part="rot").quantile(UNIFORMS, joint)
    assert torch.equal(t, LogNormal(0.0, 1.0).quantile(UNIFORMS, Gaussian(Linear())))


def test_mixed_times_give_each_distribution_its_share() -> None:
    t = Mixed(Uniform(0.0, 0.5), Uniform(0.5, 1.0), 0.1).quantile(UNIFORMS, Gaussian(Linear()))
    assert float((t > 0.5).double().mean()) == pytest.approx(0.1, abs=1e-3)
    assert stats.kstest((t[t > 0.5] * 2 - 1).numpy(), "uniform").pvalue > 0.5  # type: ignore[union-attr]

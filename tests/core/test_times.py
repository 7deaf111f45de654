"""Grids and training times: exact ends, kept noise levels, walks that also go up, even cover on all devices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from gendiff import (
    AYS,
    EDM,
    SO3,
    VP,
    Absorbing,
    AlignYourSteps,
    Beta,
    BetaGrid,
    Cosine,
    CosineInterpolated,
    Discrete,
    DPMpp2M,
    EDMHead,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Interval,
    Joint,
    Karras,
    Leading,
    Linear,
    LinearGrid,
    Linspace,
    LogSNRGrid,
    LossHistogram,
    Mode,
    PolyExponential,
    Restart,
    Shifted,
    ShiftedGrid,
    UpAndDown,
)
from gendiff.config import from_config, to_config
from gendiff.errors import GendiffError, SamplerError
from gendiff.random import Noise
from gendiff.sampling.grids import EvenParts, Grid, Levels, Trailing
from gendiff.training import Binned, LogitNormal, LogNormal, Mixed, Uniform, stratified

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64
GRIDS: list[Grid] = [LinearGrid(), Karras(), LogSNRGrid(), Trailing(), Leading(), Linspace(), PolyExponential(rho=2.0)]
GRIDS += [BetaGrid(), BetaGrid(sigmas=(0.01, 50.0)), ShiftedGrid(LinearGrid(), 2.0), AlignYourSteps(AYS["sdxl"])]
GRIDS += [EvenParts()]


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Cosine(), EDM(), Linear(), Discrete.linear()], ids=repr)
def test_grids_fall_to_exactly_zero(grid: Grid, schedule: Any) -> None:
    for n in (1, 2, 7, 50):
        times = grid(Gaussian(schedule), n)
        assert times[-1] == 0 and len(times) <= n + 1 and 0 < times[0] <= 1
        assert all(a > b for a, b in pairwise(times))
    with pytest.raises(SamplerError, match="steps=0"):
        grid(Gaussian(schedule), 0)


def test_each_part_of_a_bundle_has_its_share_of_the_steps() -> None:
    clock = Exponential(14.0)
    parts = {"pos": Gaussian(Linear()), "kind": Absorbing(3, clock)}
    times = EvenParts()(Joint(parts), 40)
    shares = [(t + clock(t)[1] / sum(clock(t))) / 2 for t in times]
    assert shares == pytest.approx([1 - k / 40 for k in range(41)], abs=1e-12)
    early = sum(clock(t)[1] / sum(clock(t)) > 0.02 for t in times)
    assert early >= 20  # half of the steps decide the classes, where even times would have a quarter
    only = EvenParts({"pos": 2.0, "kind": 0.0})(Joint(parts), 8)
    assert only == pytest.approx(LinearGrid()(Joint(parts), 8), abs=1e-12)
    nested = EvenParts({"b.pos": 0.0, "b.kind": 0.0})(Joint(a=Joint(parts), b=Joint(parts)), 40)
    assert nested == pytest.approx(times, abs=1e-12)  # parts of one name in two bundles are two
    with pytest.raises(SamplerError, match=r"'kinds'.*pos, kind.*Did you mean .kind"):
        EvenParts({"kinds": 1.0})(Joint(parts), 8)
    with pytest.raises(SamplerError, match="all 0"):
        EvenParts({"pos": 0.0, "kind": 0.0})(Joint(parts), 8)


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


def test_golden_tables_of_noise_levels(golden: Golden) -> None:
    """Every table of the file that is a grid, with its final 0; and the times that go with them."""
    g = golden("sigma_tables")
    ddpm, flow = Discrete.linear(), Linear()
    ends = {"sigma_min": ddpm.clock(ddpm.index(0)), "sigma_max": ddpm.clock(ddpm.index(999))}
    leading, dropping = Leading(), Leading(dropped=1)
    between, rounded = Linspace(rounded=False), Linspace()
    cases: dict[str, tuple[Any, Grid]] = {
        "karras_n7_0.01_50_rho7": (EDM(100.0), Karras(0.01, 50.0)),
        "exponential_n7_0.01_50": (EDM(100.0), LogSNRGrid(0.01, 50.0)),
        "karras_n25_0.002_80_rho7": (EDM(100.0), Karras()),
        "exponential_n25_0.002_80": (EDM(100.0), PolyExponential(rho=1.0)),
        "euler_sigmas_leading_n7": (ddpm, leading),
        "dpm_sigmas_leading_n7": (ddpm, dropping),
        "euler_sigmas_linspace_n7": (ddpm, between),
        "dpm_sigmas_linspace_n7": (ddpm, Linspace(dropped=1)),
        "euler_sigmas_trailing_n7": (ddpm, Trailing()),
        "dpm_sigmas_trailing_n7": (ddpm, Trailing()),
        "dpm_sigmas_use_karras_sigmas_n7": (ddpm, Karras(**ends)),
        "edm_sigmas_n7": (EDM(100.0), Karras()),
    }
    for name, (schedule, grid) in cases.items():
        times = grid(Gaussian(schedule), len(g[name]) - 1)
        ours = torch.tensor([schedule.clock(t) for t in times], dtype=F64)
        torch.testing.assert_close(ours, g[name].double(), rtol=1e-10, atol=0, msg=lambda m, n=name: f"{n}: {m}")
    numbers: dict[str, Grid] = {
        "euler_timesteps_leading_n7": leading,
        "ddim_timesteps_leading_n7": leading,
        "dpm_timesteps_leading_n7": dropping,
        "ddim_timesteps_linspace_n7": rounded,
        "dpm_timesteps_linspace_n7": Linspace(dropped=1),
        "euler_timesteps_trailing_n7": Trailing(),
        "ddim_timesteps_trailing_n7": Trailing(),
        "dpm_timesteps_trailing_n7": Trailing(),
    }
    for name, grid in numbers.items():
        times = grid(Gaussian(ddpm), 7)[:-1]
        assert [t * 1000 - 1 for t in times] == pytest.approx(g[name].tolist(), abs=1e-9), name
    times = Karras(**ends)(Gaussian(ddpm), 7)[:-1]
    assert [round(t * 1000 - 1) for t in times] == g["dpm_timesteps_use_karras_sigmas_n7"].tolist()
    # Flows: a shift of 2 has shifted the last time, 1/1000, before the grid is laid and shifted as a whole.
    for schedule, last, name in [
        (Shifted(flow, 2.0), Shifted(flow, 2.0)(1e-3)[1], "flow_sigmas_shift2_n7"),
        (Shifted(flow, math.exp(0.8)), 1e-3, "flow_sigmas_dynamic_exponential_mu0.8_n7"),
    ]:
        times = Linspace(last=last)(Gaussian(schedule), 7)
        ours = torch.tensor([schedule(t)[1] for t in times], dtype=F64)
        torch.testing.assert_close(ours, g[name].double(), rtol=1e-10, atol=0, msg=lambda m, n=name: f"{n}: {m}")
        moved = ShiftedGrid(Linspace(last=last), schedule.shift)(Gaussian(flow), 7)
        torch.testing.assert_close(torch.tensor(moved, dtype=F64), ours, rtol=1e-12, atol=0)
    edm, x = Gaussian(EDM(100.0)), torch.zeros(1, dtype=F64)
    noise = [float(EDMHead().inputs(edm, x, t)[1]) for t in Karras()(edm, 7)[:-1]]
    assert noise == pytest.approx(g["edm_cnoise_n7"].tolist(), rel=1e-10)


def test_published_steps_are_kept_and_interpolated_in_log_sigma() -> None:
    for table in AYS.values():
        grid = AlignYourSteps(table)
        assert grid.sigmas(10) == pytest.approx(table[:-1], rel=1e-12)
        assert grid.sigmas(20)[::2] == pytest.approx(table[:-1], rel=1e-12)
        middle = math.sqrt(table[3] * table[4])
        assert grid.sigmas(20)[7] == pytest.approx(middle, rel=1e-12)
        assert grid.sigmas(5) == pytest.approx(table[:-1:2], rel=1e-12)


def test_beta_grids_are_quantiles() -> None:
    times = BetaGrid(0.6, 0.6)(Gaussian(Linear()), 10)
    assert times == pytest.approx([float(stats.beta.ppf(1 - i / 10, 0.6, 0.6)) for i in range(11)], abs=1e-12)
    schedule = EDM(80.0)
    times = BetaGrid(0.6, 0.6, (0.002, 80.0))(Gaussian(schedule), 10)
    levels = [0.002 + 79.998 * float(stats.beta.ppf(1 - i / 9, 0.6, 0.6)) for i in range(10)]
    assert [schedule(t)[1] for t in times[:-1]] == pytest.approx(levels, rel=1e-8)


def test_restarts_climb_from_the_low_end_to_the_high_one() -> None:
    process = Gaussian(EDM())
    plain = Karras()(process, 12)
    times = Restart(Karras(), (Interval(1.0, 8.0, 3, 2), Interval(0.05, 0.3, 2, 1)))(process, 12)
    sigma = [process.schedule.clock(t) for t in times]
    assert len(times) == 13 + 3 * 2 + 2 * 1 + 2 + 1 and times[-1] == 0
    ups = [(a, b) for a, b in pairwise(sigma) if b > a]
    assert [b for _, b in ups] == pytest.approx([8.0, 8.0, 0.3], rel=1e-9)
    nearest = min((process.schedule.clock(t) for t in plain), key=lambda v: abs(v - 1.0))
    assert abs(math.log(ups[0][0] / nearest)) < 0.5 and ups[0][0] == ups[1][0]
    assert set(plain) <= set(times)
    rows = Euler(12, times=Restart(Karras(), (Interval(1.0, 8.0, 3, 2),))).rows(process)
    assert sum(row.move is None for row in rows) == 2
    for wrong in ((1.0, 0.5), (0.1, 1.0, 0)):
        with pytest.raises(GendiffError, match="Interval"):
            Interval(*wrong)  # type: ignore[arg-type]
    with pytest.raises(SamplerError, match="Interval"):
        Restart(Karras(), (Interval(1e-6, 1e-5),))(process, 12)


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


def test_more_training_times_have_their_distribution() -> None:
    flow = Gaussian(Linear())
    t = Beta(1.3, 2.1).quantile(UNIFORMS, flow)
    assert stats.kstest(t.numpy(), stats.beta(1.3, 2.1).cdf).pvalue > 0.99  # type: ignore[union-attr]
    for scale in (-1.0, 0.4, 1.29, 1.75):
        t = Mode(scale).quantile(UNIFORMS, flow)
        u = 1 - UNIFORMS  # Esser et al. (2024), Eq. 20, whose u falls
        torch.testing.assert_close(t, 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u))
        assert bool((t.diff() > 0).all()) and float(t.min()) > 0 and float(t.max()) < 1


def test_cosine_interpolated_times_are_a_shifted_cosine() -> None:
    """With equal ends it is the cosine schedule at one resolution, cut at its least and largest noise."""
    process, grid = Gaussian(EDM(2000.0)), CosineInterpolated(64.0, 16.0, 16.0, 1e-3, 1e3, 0.5)
    t = grid.quantile(UNIFORMS, process)
    logsnr = process.schedule.logsnr(t)
    shift = 2 * math.log(16 / 64) - 2 * math.log(0.5)
    angle = torch.atan(torch.exp(-(logsnr - shift) / 2))  # the cosine schedule's own time
    assert float(angle.diff().std() / angle.diff().mean()) < 1e-6
    sigma = torch.exp(-logsnr / 2)
    assert float(sigma[0]) == pytest.approx(1e-3, rel=0.3) and float(sigma[-1]) == pytest.approx(1e3, rel=0.3)
    low, mixed, high = (CosineInterpolated(64.0, a, b).logsnr(UNIFORMS) for a, b in [(16, 16), (16, 64), (64, 64)])
    torch.testing.assert_close(mixed, UNIFORMS * low + (1 - UNIFORMS) * high)


def test_times_follow_the_loss() -> None:
    process, bins = Gaussian(VP()), LossHistogram(-8.0, 8.0, bins=8, floor=0.1)
    assert bins.snapshot() == bins.even
    t = process.schedule.time(torch.linspace(7.9, -7.9, 4000, dtype=F64))
    logsnr = process.schedule.logsnr(t)
    for part in (slice(0, 1500), slice(1500, 4000)):
        bins.update(t[part], torch.where(logsnr[part].abs() < 2, 3.0, 1.0).float(), process)
    learned = bins.snapshot()
    inside, outside = learned.mass[3], learned.mass[0]
    assert sum(learned.mass) == pytest.approx(1) and outside == pytest.approx(0.1 / 8 + 0.9 / (2 * 3 + 6))
    assert inside == pytest.approx(0.1 / 8 + 0.9 * 3 / (2 * 3 + 6))
    drawn = learned.quantile(UNIFORMS, process)
    assert bool((drawn.diff() >= 0).all())
    share = (process.schedule.logsnr(drawn).abs() < 2).double().mean()
    assert float(share) == pytest.approx(2 * inside, abs=1e-3)
    # Unbiased for even log-SNRs, and the same after JSON and after a resume.
    values = process.schedule.logsnr(drawn) ** 2
    weighed = (values * learned.correction(drawn, process)).mean()
    assert float(weighed) == pytest.approx(64 / 3, rel=1e-2)
    assert from_config(json.loads(json.dumps(to_config(learned)))) == learned
    again = LossHistogram(-8.0, 8.0, bins=8, floor=0.1)
    again.load_state_dict(bins.state_dict())
    assert again.snapshot() == learned
    # What was long ago is forgotten.
    for _ in range(20):
        bins.update(t, torch.ones(4000), process)
    assert max(bins.snapshot().mass) < 1.05 * min(bins.snapshot().mass)
    assert isinstance(learned, Binned)


@pytest.mark.parametrize("grid", [*GRIDS, Restart(), AlignYourSteps(AYS["svd"])], ids=repr)
def test_grids_go_through_json(grid: Grid) -> None:
    assert from_config(json.loads(json.dumps(to_config(grid)))) == grid

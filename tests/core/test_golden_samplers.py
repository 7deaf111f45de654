"""Whole trajectories, step by step, against diffusers, k-diffusion and azula, with their starts and their noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    DDIM,
    DDPM,
    EDM,
    VE,
    Discrete,
    DPMpp2M,
    Euler,
    Gaussian,
    Heun,
    Karras,
    Linear,
    LinearGrid,
    LogSNRGrid,
    Shifted,
)
from gendiff.denoisers import Mixture
from gendiff.processes.schedules import Schedule
from gendiff.sampling import sample
from gendiff.sampling.grids import Grid, Levels, Trailing
from gendiff.sampling.solvers import Solver
from gendiff.testing import Recorded

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64


def trajectory(denoiser: Mixture, solver: Solver, start: Tensor, noise: Tensor | None = None) -> Tensor:
    """All states of a run, the start included: [moves + 1, B, D]."""
    states = [start]
    source = Recorded(torch.zeros(0, *start.shape) if noise is None else noise)
    end = sample(denoiser, start, solver=solver, noise=source, start=start, callback=lambda p: states.append(p.state))
    assert torch.equal(end, states[-1])
    return torch.stack(states)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def with_zero(sigmas: Tensor) -> tuple[float, ...]:
    """Noise levels of the model calls, and the end in 0."""
    return (*sigmas.tolist(), 0.0)


@dataclass(frozen=True)
class Times(Grid):
    """Times given one by one."""

    times: tuple[float, ...]

    def __call__(self, process: Any, steps: int) -> list[float]:
        return list(self.times)


@pytest.mark.parametrize("eta", [0, 1])
def test_diffusers_ddim(golden: Golden, mixture: Any, eta: int) -> None:
    """Step by step: where n does not divide 1000, diffusers moves to k - 1000//n and then calls it the next time."""
    g, model = golden("traj_ddim"), mixture(Discrete.linear())
    states, table = g[f"eta{eta}_trailing__states"], model.process.schedule
    times = Trailing()(model.process, 7)
    assert [t * 1000 - 1 for t in times[:-1]] == pytest.approx(g[f"eta{eta}_trailing__timesteps"].tolist())
    assert [table.clock(t) for t in times[:-1]] == pytest.approx(
        g[f"eta{eta}_trailing__model_sigma"].tolist(), rel=1e-10
    )
    solvers: list[Callable[[Grid], Solver]] = [lambda grid: DDIM(1, eta=float(eta), times=grid)]
    solvers.append((lambda grid: DDPM(1, times=grid)) if eta else (lambda grid: Euler(1, times=grid)))
    for solver in solvers:
        for k, t in enumerate(times[:-1]):
            grid = Times((t, max(t - (1000 // 7) / 1000, 0.0)))
            close(trajectory(model, solver(grid), states[k], g["noise"][k][None])[1], states[k + 1])


@pytest.mark.parametrize("n", [1000, 7])
def test_diffusers_ddpm_step(golden: Golden, mixture: Any, n: int) -> None:
    g, model = golden("ddpm_ancestral_step"), mixture(Discrete.linear())
    table = model.process.schedule
    for j, k in enumerate(g[f"timesteps_n{n}"].tolist()):
        t, s = table.index(k), max(table.index(k - 1000 // n), 0.0)
        run = trajectory(model, DDPM(1, times=Times((t, s))), g["x_t"], g["noise"][j][None])
        for head in ("epsilon", "v_prediction", "sample"):
            expected = g[f"fixed_small_{head}_n{n}"][j]
            torch.testing.assert_close(run[1], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tag", ["2M_linspace", "2M_karras"])
def test_diffusers_dpm_solver_multistep(golden: Golden, mixture: Any, tag: str) -> None:
    g, model = golden("traj_dpmpp_multistep"), mixture(Discrete.linear())
    states, sigma = g[f"{tag}__states"], g[f"{tag}__model_sigma"]
    close(trajectory(model, DPMpp2M(7, times=Levels(with_zero(sigma))), states[0]), states)
    if tag == "2M_karras":
        own = Karras(float(sigma[-1]), float(sigma[0]))
        close(trajectory(model, DPMpp2M(7, times=own), states[0]), states)


@pytest.mark.parametrize("schedule", [EDM(), VE(0.001, 100.0)], ids=repr)
def test_k_diffusion(golden: Golden, mixture: Any, schedule: Schedule) -> None:
    g, model = golden("traj_k_diffusion"), mixture(schedule)
    grid, start = Karras(0.01, 50.0), g["x_start"]
    close(trajectory(model, Euler(7, times=grid), start), g["euler__states"])
    close(trajectory(model, DPMpp2M(7, times=grid), start), g["dpmpp_2m__states"])
    close(trajectory(model, DDPM(7, times=grid), start, g["noise"]), g["euler_ancestral__states"])
    heun = trajectory(model, Heun(7, times=grid), start)  # the first half of each step is a state too
    close(heun[[0, 2, 4, 6, 8, 10, 12, 13]], g["heun__states"])
    # What is drawn in a step without churn, or in the last one, is not drawn at all.
    short = trajectory(model, DDPM(7, times=grid), start, g["noise"][:6])
    close(short, g["euler_ancestral__states"])


@pytest.mark.parametrize("tag", ["euler_linspace", "euler_karras", "heun_karras"])
def test_diffusers_euler_and_heun(golden: Golden, mixture: Any, tag: str) -> None:
    g = golden("traj_euler_heun_lms_diffusers")
    sigma, states = g[f"{tag}__model_sigma"], g[f"{tag}__states"]
    levels = Levels(with_zero(sigma if tag.startswith("euler") else sigma[[0, *range(1, 13, 2)]]))
    solver = Euler(7, times=levels) if tag.startswith("euler") else Heun(7, times=levels)
    close(trajectory(mixture(VE(0.001, 200.0)), solver, states[0]), states)
    # The same in the variance-preserving form, whose states are these times alpha.
    model = mixture(Discrete.linear())
    alphas = [1 / (1 + s * s) ** 0.5 for s in levels.sigmas]
    scaled = trajectory(model, solver, alphas[0] * states[0])
    moves = list(range(1, 8)) if tag.startswith("euler") else [i for k in range(1, 8) for i in (k, k)][:-1]
    close(scaled, states * torch.tensor([alphas[i] for i in (0, *moves)], dtype=F64)[:, None, None])


def test_diffusers_euler_ancestral(golden: Golden, mixture: Any) -> None:
    g = golden("traj_euler_ancestral_diffusers")
    states = g["linspace__states"]
    levels = Levels(with_zero(g["linspace__model_sigma"]))
    close(trajectory(mixture(VE(0.001, 200.0)), DDPM(7, times=levels), states[0], g["noise"]), states)


def test_diffusers_edm(golden: Golden, mixture: Any) -> None:
    g, model = golden("traj_edm_diffusers"), mixture(EDM())
    for tag, solver in [("edm_euler", Euler(7, times=Karras())), ("edm_dpmpp2m", DPMpp2M(7, times=Karras()))]:
        close(trajectory(model, solver, g[f"{tag}__states"][0]), g[f"{tag}__states"])


@pytest.mark.parametrize(("tag", "shift"), [("euler_shift1", 1), ("euler_shift2", 2), ("heun_shift3", 3)])
def test_diffusers_flow(golden: Golden, mixture: Any, tag: str, shift: int) -> None:
    g = golden("traj_flow_diffusers")
    states, times = g[f"{tag}__states"], g[f"{tag}__model_sigma"]
    if tag.startswith("heun"):
        times = times[[0, *range(1, 13, 2)]]
    grid = Times(with_zero(times))
    solver = Heun(7, times=grid) if tag.startswith("heun") else Euler(7, times=grid)
    close(trajectory(mixture(Linear()), solver, states[0]), states)
    if shift == 2:  # the shift is the schedule's; applied to their even grid it gives the same run
        even = Times((*torch.linspace(1, 1e-3, 7, dtype=F64).tolist(), 0.0))
        shifted = [Shifted(Linear(), 2.0)(t)[1] for t in even.times]
        assert shifted[1:-2] != pytest.approx(times[1:-1].tolist(), rel=1e-3)  # diffusers shifts its end point twice
        run = trajectory(mixture(Linear()), Euler(7, times=Times(tuple(shifted))), states[0])
        again = trajectory(mixture(Shifted(Linear(), 2.0)), Euler(7, times=even), states[0])
        close(again, run)


@dataclass(frozen=True)
class Table(Schedule):
    """(alpha, sigma) at the times k/n, t = 0 last; a residue of noise may be left at t = 0."""

    alpha: tuple[float, ...]
    sigma: tuple[float, ...]

    def __call__(self, t: Any) -> tuple[Any, Any]:
        k = round((1 - t) * (len(self.alpha) - 1))
        return self.alpha[k], self.sigma[k]

    def time(self, logsnr: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("name", ["VPSchedule", "CosineSchedule"])
def test_azula(golden: Golden, mixture: Any, name: str) -> None:
    g = golden("traj_azula")
    model = mixture(Table(tuple(g[f"{name}__alpha"].tolist()), tuple(g[f"{name}__sigma"].tolist())))
    start, grid = g[f"{name}__x_start"], LinearGrid()
    close(trajectory(model, DDIM(7, times=grid), start)[-1], g[f"{name}__DDIMSampler__end"])
    if name == "CosineSchedule":  # not variance preserving; a step to t = 0 keeps sigma = 1e-3
        assert model.process.schedule(0.0) == (1.0, pytest.approx(1e-3))


def test_exact_probability_flow(golden: Golden, mixture: Any) -> None:
    """A fine second-order run against the ODE's solution; the error falls with the square of the step."""
    g = golden("exact_pf_ode")
    for level in (50, 5):
        exact = g[f"ve_from{level}__y_at_0.5_0.1_0.01_0"]
        for schedule in (EDM(), Discrete.linear(), VE(1e-3, 80.0)):
            model = mixture(schedule)
            t = schedule.unclock(float(level))
            alpha, _ = schedule(t)
            errors = []
            for n in (200, 400):
                grid = LogSNRGrid(1e-4, float(level))
                x = trajectory(model, Heun(n, times=grid), alpha * level * g["z"])[-1]
                errors.append(float((x - exact[-1]).abs().max()))
            assert errors[1] < 2e-4, (schedule, errors)
            assert errors[1] < errors[0] / 3, (schedule, errors)
    model = mixture(Linear())
    ends = [trajectory(model, Heun(n), g["z"])[-1] for n in (400, 800)]
    errors = [float((x - g["flow_from_t1__end"]).abs().max()) for x in ends]
    assert errors[1] < 2e-4 and errors[1] < errors[0] / 3, errors


def test_golden_grids(golden: Golden) -> None:
    g = golden("sigma_tables")
    for n, low, high in [(7, 0.01, 50.0), (25, 0.002, 80.0)]:
        key = f"n{n}_{low:g}_{high:g}"
        karras, even = Karras(low, high), LogSNRGrid(low, high)
        assert [*karras.sigmas(n), 0.0] == pytest.approx(g[f"karras_{key}_rho7"].tolist(), rel=1e-11)
        assert [*even.sigmas(n), 0.0] == pytest.approx(g[f"exponential_{key}"].tolist(), rel=1e-11)
        for schedule in (EDM(), VE(1e-3, 100.0)):
            for grid in (karras, even):
                times = grid(Gaussian(schedule), n)
                levels = [schedule.clock(t) for t in times]
                assert levels == pytest.approx([*grid.sigmas(n), 0.0], rel=1e-11)
    times = torch.tensor(Trailing()(Gaussian(Discrete.linear()), 7), dtype=F64)
    torch.testing.assert_close(Discrete.linear().clock(times), g["dpm_sigmas_trailing_n7"], rtol=1e-10, atol=0)
    edm = torch.tensor([EDM().clock(t) for t in Karras()(Gaussian(EDM()), 7)], dtype=F64)
    torch.testing.assert_close(edm, g["edm_sigmas_n7"], rtol=1e-11, atol=0)

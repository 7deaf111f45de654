"""The multistep, single-step and stochastic families against the trajectories of diffusers, k-diffusion and azula."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import EDM, VE, Discrete, DPMpp2M, Karras, LinearGrid
from gendiff.denoisers import Mixture
from gendiff.processes.schedules import Schedule
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.grids import Levels
from gendiff.sampling.solvers import DEIS, LMS, PNDM, Adams, Consistency, DPMSolver, LogSNR, Points, Solver, UniPC
from gendiff.testing import Recorded

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64


def moves(model: Mixture, solver: Solver, start: Tensor, noise: Tensor | None = None) -> Tensor:
    """The states after every row that moves forward from the last one: [.., B, D]."""
    states = [start]
    source = Recorded(torch.zeros(0, *start.shape) if noise is None else noise)
    rows = solver.rows(model.process)
    kept = [not row.redo for row in rows]
    sample(model, start, solver=solver, noise=source, start=start, callback=lambda p: states.append(p.state))
    return torch.stack([states[0], *(x for x, keep in zip(states[1:], kept, strict=True) if keep)])


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=atol)


def with_zero(sigmas: Tensor) -> Levels:
    return Levels((*sigmas.tolist(), 0.0))


@pytest.mark.parametrize(
    ("tag", "order", "bh2"),
    [("unipc2_bh2_karras", 2, True), ("unipc2_bh1_karras", 2, False), ("unipc3_bh2_linspace", 3, True)],
)
def test_unipc(golden: Golden, mixture: Any, tag: str, order: int, bh2: bool) -> None:
    g, model = golden("traj_unipc"), mixture(Discrete.linear())
    states, sigma = g[f"{tag}__states"], g[f"{tag}__model_sigma"]
    # The bh1 case repeats its last level instead of going to zero: a step of no length, before which x is corrected.
    still = tag == "unipc2_bh1_karras"
    levels = Levels((*sigma.tolist(), float(sigma[-1]))) if still else with_zero(sigma)
    solver = UniPC(7, order, levels, bh2=bh2)
    run = moves(model, solver, states[0])
    close(run, states[: len(run)])
    assert len(run) == (7 if still else 8)
    close(sample(model, states[0], solver=solver, noise=Noise.of(0, 8), start=states[0]), states[-1])


@pytest.mark.parametrize("tag", ["deis2_linspace", "deis2_karras"])
def test_deis(golden: Golden, mixture: Any, tag: str) -> None:
    g, model = golden("traj_deis"), mixture(Discrete.linear())
    states, sigma = g[f"{tag}__states"], g[f"{tag}__model_sigma"]
    # Neither goes to zero: one ends at the first training time, the other repeats its last level.
    table = model.process.schedule
    end = table.clock(table.index(0)) if tag == "deis2_linspace" else float(sigma[-1])
    run = moves(model, DEIS(7, 2, Levels((*sigma.tolist(), end))), states[0])
    close(run, states[: len(run)])
    assert len(run) == (8 if tag == "deis2_linspace" else 7)
    torch.testing.assert_close(run[-1], states[-1], rtol=1e-8, atol=1e-9)


def test_plms(golden: Golden, mixture: Any) -> None:
    g, model = golden("traj_pndm_plms"), mixture(Discrete.linear())
    states, sigma = g["plms_leading__states"], g["plms_leading__model_sigma"]
    table = model.process.schedule
    levels = Levels((*sigma[[0, *range(2, 8)]].tolist(), table.clock(table.index(0))))
    ours = [states[0]]
    sample(
        model, states[0], solver=PNDM(7, times=levels), noise=Noise.of(0, 8), start=states[0],
        callback=lambda p: ours.append(p.state),
    )  # fmt: skip
    # The last level comes twice, a step of no length, which counts no more.
    close(torch.stack(ours), states[:-1])
    close(ours[-1], states[-1])


def test_sde_2m(golden: Golden, mixture: Any) -> None:
    g, model = golden("traj_sde_dpmpp_2m"), mixture(Discrete.linear())
    states = g["karras__states"]
    close(moves(model, DPMpp2M(7, with_zero(g["karras__model_sigma"]), eta=1.0), states[0], g["noise"]), states)
    g = golden("traj_k_diffusion")
    for model in (mixture(EDM()), mixture(VE(0.001, 100.0))):
        run = moves(model, DPMpp2M(7, Karras(0.01, 50.0), eta=1.0), g["x_start"], g["noise"])
        close(run, g["dpmpp_2m_sde__states"])


def test_2m_heun_is_exponential_adams(golden: Golden, mixture: Any) -> None:
    g, model = golden("traj_dpmpp_multistep"), mixture(Discrete.linear())
    states, sigma = g["2M_heun_karras__states"], g["2M_heun_karras__model_sigma"]
    close(moves(model, Adams(7, 2, with_zero(sigma), Points(LogSNR()), 0), states[0]), states)


@pytest.mark.parametrize("steps", [1, 3])
def test_consistency(golden: Golden, mixture: Any, steps: int) -> None:
    """The scheduler forms the prediction c_skip x + c_out F itself; F is the mixture's mean."""
    g, model = golden("traj_consistency"), mixture(EDM())
    states, sigma, low, width = g[f"cm_{steps}steps__states"], g[f"cm_{steps}steps__model_sigma"], 0.002, 0.5

    class PosteriorMean:
        process = model.process

        def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
            s = self.process.schedule(t)[1]
            skip, out = width**2 / ((s - low) ** 2 + width**2), (s - low) * width / math.hypot(s, width)
            return skip * x + out * model(x, t)

    run = moves(PosteriorMean(), Consistency(steps, with_zero(sigma), low), states[0], g["noise"])  # type: ignore[arg-type]
    close(run, states)


def test_dpm_fast(golden: Golden, mixture: Any) -> None:
    g = golden("traj_k_diffusion")
    levels = Levels(tuple(50.0 * (0.01 / 50.0) ** (k / 3) for k in range(4)))
    solver = DPMSolver(3, 3, (3, 3, 1), levels)
    model = mixture(EDM())
    assert solver.evaluations(model.process) == 7
    start = g["x_start"]
    close(sample(model, start, solver=solver, noise=Noise.of(0, 8), start=start), g["dpm_fast__end_at_sigma_min"])


@pytest.mark.parametrize("name", ["VPSchedule", "CosineSchedule"])
def test_azula(golden: Golden, mixture: Any, name: str) -> None:
    g = golden("traj_azula")
    model = mixture(Table(tuple(g[f"{name}__alpha"].tolist()), tuple(g[f"{name}__sigma"].tolist())))
    start = g[f"{name}__x_start"]
    close(moves(model, LMS(7, 3, LinearGrid()), start)[-1], g[f"{name}__zABSampler3__end"])
    close(moves(model, Adams(7, 2, LinearGrid(), Points(LogSNR()), 0), start)[-1], g[f"{name}__xEABSampler2__end"])


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

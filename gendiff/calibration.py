r"""Calibration: a solver's weights, and its grid, fitted to the model it samples from.

A step is linear in its weights. With D_j the last predictions and x^ the end of the step towards D_0 alone,

    x_s = x^ + pull sum_{j >= 1} w_j log_{D_0}(D_j)          (exactly on flat spaces, to first order on curved ones)

so against pilot trajectories of the model itself, followed finely to x*_s, the best weights are a least-squares
solution, step after step from the states that the fitted table itself has reached:

    min_w  sum_i rho_i |log_{x^}(x*_s) - pull sum_j w_j log_{D_0}(D_j)|^2  +  ridge |w - w_analytic|^2

rho_i lowers the say of the few trajectories that end in another mode. The times are chosen among those of the fine
trajectory, by the error at the end on pilots that took no part in the fit: first a family of grids, then one time after
the other. The analytic solver is one of the candidates, so on those pilots the result is never worse than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.errors import SamplerError
from gendiff.processes import Leaf, Process
from gendiff.random import Noise
from gendiff.samplers import run, sample
from gendiff.solvers import Adams, Calibrated, Fitted, SoftGrid, Solver
from gendiff.spaces import State, map_state, tensors
from gendiff.times import Grid


@dataclass(frozen=True)
class Pilot:
    """Fine trajectories of a model: states at times, some to fit and the last to judge by."""

    denoiser: Denoise
    process: Process
    cond: dict[str, Any]
    times: list[float]
    states: list[State]
    fit: int

    def part(self, x: State, fitting: bool) -> State:
        """The samples to fit, or those to judge by."""
        rows = slice(0, self.fit) if fitting else slice(self.fit, None)
        return map_state(lambda p: p[rows], x)

    def conditions(self, fitting: bool) -> dict[str, Any]:
        """Their conditions."""
        rows = slice(0, self.fit) if fitting else slice(self.fit, None)
        return {k: v[rows] if isinstance(v, Tensor) else v for k, v in self.cond.items()}

    def bound(self, fitting: bool) -> Process:
        """The process on those samples."""
        return self.denoiser.process.masked(self.conditions(fitting).get("mask"))


@torch.no_grad()
def calibrate(
    denoiser: Denoise,
    like: State,
    solver: Solver | None = None,
    *,
    evaluations: int | Sequence[int] = (5, 8, 10),
    grid: Grid | None = None,
    cond: dict[str, Any] | None = None,
    start: State | None = None,
    noise: Noise | None = None,
    depth: int = 4,
    fine: int = 192,
    ridge: float = 1e-5,
    refine: int = 1,
) -> Calibrated:
    """A solver for this model, at these numbers of evaluations.

    Args:
        denoiser: The model, guided or not, e.g. `model.denoiser`.
        like: The shapes of the pilots, [B, ...]; 256 are a good number. A quarter of them is kept to judge by.
        solver: The analytic solver to start from, one evaluation a step; Adams by default.
        evaluations: Numbers of steps to fit a table for.
        grid: The only grid to fit on; by default the grid is fitted too.
        cond: Conditions of the pilots.
        start: Their states at the grid's first time, instead of draws of the prior.
        noise: The source of those draws.
        depth: How many predictions a step may mix.
        fine: Steps of the pilots' fine trajectories.
        ridge: How strongly weights are held to the analytic ones, relative to the data.
        refine: How often each time of the grid is moved to where the error is least.

    Returns:
        The solver with the first of these numbers of steps; `model.sample(sampler=..., steps=8)` takes another.

    Raises:
        SamplerError: For fewer than 8 pilots, or a solver with more than one evaluation a step.
    """
    solver = solver or Adams()
    counts = [evaluations] if isinstance(evaluations, int) else list(evaluations)
    n = tensors(like)[0].shape[0]
    if n < 8:
        raise SamplerError(f"calibrate got {n} pilots", "at least 8, of which a quarter judges", "a larger `like`")
    process = denoiser.process
    if solver.evaluations(process) != len(solver.times(process, solver.steps)) - 1:
        raise SamplerError(f"calibrate got {solver!r}", "a solver with one evaluation a step", "calibrate(..., Adams())")
    noise = noise or Noise.of(0, n)
    pilot = follow(denoiser, like, solver, grid, cond or {}, start, noise, fine)
    found = Calibrated(counts[0], solver, ())
    for count in counts:
        found = found.with_table(best(pilot, solver, grid, count, depth, ridge, refine))
    return found


def follow(
    denoiser: Denoise, like: State, solver: Solver, grid: Grid | None, cond: dict[str, Any], start: State | None,
    noise: Noise, fine: int,
) -> Pilot:  # fmt: skip
    """The fine trajectories of the pilots."""
    process = denoiser.process.masked(cond.get("mask"))
    first = (grid or solver.times)(process, 8)[0]
    times = [t for t in SoftGrid(power=1.15)(process, fine) if t < first]
    path = Along((first, *times))
    x = process.prior(like, noise.fork("prior"), first) if start is None else start
    states = [x]
    rows = Adams(len(times), 3, path).rows(process)
    run(denoiser, process, rows, x, noise=noise, cond=cond, callback=lambda p: states.append(p.state))
    n = tensors(like)[0].shape[0]
    return Pilot(denoiser, process, cond, list(path.times), states, n - n // 4)


@dataclass(frozen=True)
class Along(Grid):
    """Given times."""

    times: tuple[float, ...]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return list(self.times)


def best(
    pilot: Pilot, solver: Solver, grid: Grid | None, count: int, depth: int, ridge: float, refine: int
) -> Fitted:
    """The table of `count` steps with the least error on the pilots that judge."""
    own = Along(tuple((grid or solver.times)(pilot.process, count)))
    candidates = [(error(pilot, analytic(pilot, solver, list(own.times), depth)), analytic(pilot, solver, list(own.times), depth))]

    def attempt(places: list[int]) -> None:
        table = fitted(pilot, solver, places, depth, ridge)
        candidates.append((error(pilot, table), table))

    if grid is not None:
        attempt(nearest(pilot, list(own.times)))
        return min(candidates, key=lambda c: c[0])[1]
    scales = [(s, p) for s in (0.03, 0.1, 0.3) for p in (1.0, 1.3, 1.6)]
    grids = [own, *(SoftGrid(s, p) for s, p in scales)]
    tried: dict[tuple[int, ...], float] = {}
    for g in grids:
        places = nearest(pilot, g(pilot.process, count))
        if len(places) == count + 1 and tuple(places) not in tried:
            attempt(places)
            tried[tuple(places)] = candidates[-1][0]
    if not tried:
        return candidates[0][1]
    places = list(min(tried, key=lambda p: tried[p]))
    least = tried[tuple(places)]
    for _ in range(refine):
        for k in range(1, count):
            for jump in (-8, 8, -3, 3, -1, 1):
                moved = places.copy()
                moved[k] += jump
                while places[k - 1] < moved[k] < places[k + 1]:
                    attempt(moved)
                    if candidates[-1][0] >= least:
                        break
                    least, places = candidates[-1][0], moved.copy()
                    moved[k] += jump
    return min(candidates, key=lambda c: c[0])[1]


def nearest(pilot: Pilot, times: list[float]) -> list[int]:
    """The places of the fine trajectory nearest to these times, each once; ends kept."""
    out = [0]
    for t in times[1:-1]:
        k = min(range(len(pilot.times)), key=lambda i: abs(pilot.times[i] - t))
        if out[-1] < k < len(pilot.times) - 1:
            out.append(k)
    return [*out, len(pilot.times) - 1]


def weights_of(solver: Solver, process: Process, times: list[float], k: int) -> Any:
    """The analytic weights of step k."""
    from gendiff.solvers import Past

    past = Past(times[:k])
    past.ahead = len(times) - 2 - k
    rows = list(solver.step(process, times[k], times[k + 1], past))
    return rows[-1].weights


def analytic(pilot: Pilot, solver: Solver, times: list[float], depth: int) -> Fitted:
    """The solver's own weights."""
    return Fitted(tuple(times), tuple(weights_of(solver, pilot.process, times, k) for k in range(len(times) - 1)))


def fitted(pilot: Pilot, solver: Solver, places: list[int], depth: int, ridge: float) -> Fitted:
    """The least-squares weights on the grid of these places, step after step."""
    times = [pilot.times[k] for k in places]
    process, cond = pilot.bound(True), pilot.conditions(True)
    x = pilot.part(pilot.states[0], True)
    history: list[State] = []
    table = []
    for k, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        history = [pilot.denoiser(x, t, **cond), *history[: depth - 1]]
        move = process.move(t, s)
        weights = weights_of(solver, process, times, k)
        if len(history) > 1:
            plain = process.take(x, history[0], move)
            residual = process.space.log(plain, pilot.part(pilot.states[places[k + 1]], True))
            features = [process.space.log(history[0], d) for d in history[1:]]
            pulls = process.per_part(lambda leaf, t=t, s=s: pull(leaf, t, s))
            weights = per_part(solve, residual, features, pulls, weights, ridge)
        table.append(weights)
        x = process.take(x, process.mix(history, weights), move)
    return Fitted(tuple(times), tuple(table))


def pull(leaf: Leaf, t: float, s: float) -> float:
    """How far the end of a step moves with its target."""
    return float(leaf.move(t, s).pull)  # type: ignore[attr-defined]


def per_part(f: Any, residual: State, features: list[State], pulls: Any, weights: Any, ridge: float) -> Any:
    """f for each part of a bundle, or for the only one."""
    if isinstance(residual, dict):
        return {k: f(residual[k], [x[k] for x in features], pulls[k], weights[k], ridge) for k in residual}
    return f(residual, features, pulls, weights, ridge)


def solve(residual: Tensor, features: list[Tensor], pull: float, prior: tuple[float, ...], ridge: float) -> tuple:
    """The weights of one part: ridge regression towards `prior`, samples reweighted once by their residual."""
    m = len(features)
    held = torch.tensor([*prior[1:], *[0.0] * m][:m], dtype=torch.float64)
    a = torch.stack([pull * f.double().flatten(1) for f in features], -1).cpu()  # [B, N, m]
    y = residual.double().flatten(1).cpu()
    w = held
    for robust in (False, True):
        rho = torch.ones(len(y), dtype=torch.float64)
        if robust:
            square = (y - a @ w).square().mean(1)
            rho = 1 / (1 + square / (9 * square.median() + 1e-30))
        gram = torch.einsum("b,bnj,bnk->jk", rho, a, a)
        right = torch.einsum("b,bnj,bn->j", rho, a, y - a @ held)
        size = gram.diagonal().mean()
        if not bool(size > 0):
            return (1 - float(held.sum()), *held.tolist())
        w = held + torch.linalg.solve(gram + ridge * size * torch.eye(m, dtype=torch.float64), right)
    return (1 - float(w.sum()), *w.tolist())


def error(pilot: Pilot, table: Fitted) -> float:
    """Mean square distance to the fine end, over the pilots that judge; the largest fortieth left out."""
    process, cond = pilot.bound(False), pilot.conditions(False)
    x = pilot.part(pilot.states[0], False)
    solver = Calibrated(len(table.weights), Adams(), (table,), Along(table.times))
    y = sample(pilot.denoiser, x, solver=solver, noise=Noise.of(0, tensors(x)[0].shape[0]), cond=cond, start=x)
    square = process.space.dist2(y, pilot.part(pilot.states[-1], False)).sort().values
    kept = square[: max(1, len(square) - len(square) // 40)]
    return float(kept.mean())

r"""Calibration: a solver's weights, and its grid, fitted to the model it samples from.

A step is linear in its weights. With D_j the last predictions and x^ the end of the step towards D_0 alone,

    x_s = x^ + pull sum_{j >= 1} w_j log_{D_0}(D_j)          (exactly on flat spaces, to first order on curved ones)

so against pilot trajectories of the model itself, followed finely to x*_s, the best weights are a least-squares
solution, step after step from the states that the fitted table itself has reached:

    min_w  sum_i rho_i |log_{x^}(x*_s) - pull sum_j w_j log_{D_0}(D_j)|^2  +  ridge |w - w_analytic|^2

rho_i lowers the say of the few trajectories that end in another mode. The times are chosen among those of the fine
trajectory, by the error at the end on pilots that took no part in the fit: first a family of grids, then one time after
the other. A last quarter of the pilots, which saw neither, compares the result with the analytic solver and keeps the
better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.errors import SamplerError
from gendiff.processes import Leaf, Process
from gendiff.random import Noise
from gendiff.samplers import run
from gendiff.solvers import Adams, Calibrated, Fitted, Past, Row, SoftGrid, Solver
from gendiff.spaces import State, map_state, tensors
from gendiff.times import Grid


@dataclass(frozen=True)
class Pilot:
    """Fine trajectories of a model: the states of some samples at times."""

    denoiser: Denoise
    process: Process
    cond: dict[str, Any]
    times: list[float]
    states: list[State]

    def select(self, rows: slice) -> Pilot:
        """Some of the samples."""
        cond = {k: v[rows] if isinstance(v, Tensor) else v for k, v in self.cond.items()}
        process = self.denoiser.process.masked(cond.get("mask"))
        states = [map_state(lambda p: p[rows], x) for x in self.states]
        return Pilot(self.denoiser, process, cond, self.times, states)


@dataclass(frozen=True)
class Pilots:
    """Half of the trajectories are fitted, a quarter chooses the grid, and a quarter has the last word."""

    fit: Pilot
    choose: Pilot
    judge: Pilot


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
        like: The shapes of the pilots, [B, ...]; 256 are a good number. Half are fitted, the rest choose and judge.
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
        raise SamplerError(
            f"calibrate got {n} pilots", "at least 8: half fit, half choose and judge", "a larger `like`"
        )
    process = denoiser.process
    if solver.evaluations(process) != len(solver.times(process, solver.steps)) - 1:
        raise SamplerError(
            f"calibrate got {solver!r}", "a solver with one evaluation a step", "calibrate(..., Adams())"
        )
    noise = noise or Noise.of(0, n)
    pilots = follow(denoiser, like, solver, grid, cond or {}, start, noise, fine)
    found = Calibrated(counts[0], solver, (), solver.times)
    for count in counts:
        table = best(pilots, solver, grid, count, depth, ridge, refine)
        found = found if table is None else found.with_table(table)
    return found


def follow(
    denoiser: Denoise, like: State, solver: Solver, grid: Grid | None, cond: dict[str, Any], start: State | None,
    noise: Noise, fine: int,
) -> Pilots:  # fmt: skip
    """The fine trajectories of the pilots."""
    process = denoiser.process.masked(cond.get("mask"))
    first = (grid or solver.times)(process, 8)[0]
    times = [t for t in SoftGrid(power=1.15)(process, fine) if t < first]
    path = Along((first, *times))
    x = process.prior(like, noise.fork("prior"), first) if start is None else start
    states = [x]
    rows = Adams(len(times), 3, path).rows(process)
    run(denoiser, process, rows, x, noise=noise, cond=cond, callback=lambda p: states.append(p.state))
    whole = Pilot(denoiser, process, cond, list(path.times), states)
    n = tensors(like)[0].shape[0]
    half, third = n // 2, n - n // 4
    return Pilots(*(whole.select(rows) for rows in (slice(half), slice(half, third), slice(third, None))))


@dataclass(frozen=True)
class Along(Grid):
    """Given times."""

    times: tuple[float, ...]

    def __call__(self, process: Process, steps: int) -> list[float]:
        return list(self.times)


def best(
    pilots: Pilots, solver: Solver, grid: Grid | None, count: int, depth: int, ridge: float, refine: int
) -> Fitted | None:
    """The fitted table of `count` steps, or None where the solver itself does better on the pilots that judge."""
    process = pilots.fit.process
    own = (grid or solver.times)(process, count)
    rows = replace(solver, steps=count, times=Along(tuple(own))).rows(process)  # type: ignore[type-var]
    # Weights are held to those of a solver that mixes points.
    points = Adams() if any(row.norms is not None for row in rows) else solver
    tried: dict[tuple[int, ...], tuple[float, Fitted]] = {}

    def attempt(places: list[int]) -> float:
        key = tuple(places)
        if key not in tried:
            table = fitted(pilots.fit, points, places, depth, ridge)
            tried[key] = (error(pilots.choose, table_rows(process, table)), table)
        return tried[key][0]

    shapes = [SoftGrid(scale, power) for scale in (0.03, 0.1, 0.3) for power in (1.0, 1.3, 1.6)]
    for times in [own, *(shape(process, count) for shape in shapes if grid is None)]:
        places = nearest(pilots.fit.times, times)
        if len(places) == count + 1:
            attempt(places)
    if not tried:
        return None
    if grid is None:
        moved(min(tried, key=lambda key: tried[key][0]), attempt, refine)
    least = min(tried.values(), key=lambda value: value[0])[1]
    return least if error(pilots.judge, table_rows(process, least)) < error(pilots.judge, rows) else None


def moved(places: tuple[int, ...], attempt: Callable[[list[int]], float], rounds: int) -> None:
    """Moves one time after the other, as far as the error falls."""
    here, least = list(places), attempt(list(places))
    for _ in range(rounds):
        for k in range(1, len(here) - 1):
            for jump in (-8, 8, -3, 3, -1, 1):
                while here[k - 1] < here[k] + jump < here[k + 1]:
                    there = [*here[:k], here[k] + jump, *here[k + 1 :]]
                    found = attempt(there)
                    if not found < least:
                        break
                    here, least = there, found


def nearest(fine: list[float], times: list[float]) -> list[int]:
    """The places in the fine times nearest to these, each once; ends kept."""
    out = [0]
    for t in times[1:-1]:
        k = min(range(len(fine)), key=lambda i: abs(fine[i] - t))
        if out[-1] < k < len(fine) - 1:
            out.append(k)
    return [*out, len(fine) - 1]


def analytic(process: Process, solver: Solver, times: Sequence[float]) -> Fitted:
    """The solver's own weights on these times (its predictor's, where it corrects)."""
    table, past = [], Past()
    for k, (t, s) in enumerate(pairwise(times)):
        past.ahead = len(times) - 2 - k
        table.append(list(solver.step(process, t, s, past))[-1].weights)
        past.append(t)
    return Fitted(tuple(times), tuple(table))


def fitted(pilot: Pilot, solver: Solver, places: list[int], depth: int, ridge: float) -> Fitted:
    """The least-squares weights on the grid of these places, step after step."""
    times = [pilot.times[k] for k in places]
    process, space = pilot.process, pilot.process.space
    prior = analytic(process, solver, times).weights
    x, history, table = pilot.states[0], [], []
    for k, (t, s) in enumerate(pairwise(times)):
        history = [pilot.denoiser(x, t, **pilot.cond), *history[: depth - 1]]
        move, weights = process.move(t, s), prior[k]
        if len(history) > 1:
            plain = process.take(x, history[0], move)
            residual = space.log(plain, pilot.states[places[k + 1]])
            features = [space.log(history[0], d) for d in history[1:]]
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


def solve(residual: Tensor, features: list[Tensor], pull: float, prior: Any, ridge: float) -> tuple[float, ...]:
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


def table_rows(process: Process, table: Fitted) -> list[Row]:
    """The rows of a fitted table."""
    return Calibrated(len(table.weights), Adams(), (table,), Along(table.times)).rows(process)


def error(pilot: Pilot, rows: list[Row]) -> float:
    """Mean square distance to the fine end; the largest fortieth is left out."""
    x = pilot.states[0]
    n = tensors(x)[0].shape[0]
    y = run(pilot.denoiser, pilot.process, rows, x, noise=Noise.of(0, n), cond=pilot.cond)
    square = pilot.process.space.dist2(y, pilot.states[-1]).sort().values
    return float(square[: max(1, n - n // 40)].mean())

r"""Calibration: a solver's weights, and its grid, fitted to the model it samples from.

A step is linear in its weights. With w those of the analytic solver, l_j the last predictions in its view and x^ the
end of its step,

    x_s = x^ + pull sum_j (v_j - w_j) l_j              (exactly on flat spaces, to first order on curved ones)

so against pilot trajectories of the model itself, followed finely to x*_s, the best weights v are a least-squares
solution, step after step from the states that the fitted table itself has reached:

    min_v  sum_i rho_i |log_{x^}(x*_s) - pull sum_j (v_j - w_j) l_j|^2  +  ridge |v - w|^2

Where points are mixed, weights sum to one and l_j is log_{x0_0}(x0_j). rho_i lowers the say of what lies far off. Grids
are tried among the times of the fine trajectory, by the error at the end on pilots that took no part in the fit. Then
all weights and times together are refined by what they do to the whole run (`polished`),

    min_theta  sum_k c_k sum_i S log(1 + r_ik/S),   r_ik = |log(x*_k, x_k(theta))|^2     by Gauss and Newton, damped

over the times k of the grid. S is the median of r at the end: a few trajectories end in another mode, whatever the
table, and may not outweigh the rest (Cauchy's loss). At the end c is one; the times before share 0.3 of what the end
counts, which keeps many numbers from being fitted to few ends. Derivatives are differences of whole runs: one run of
the pilots for every weight and time, in each round. What is kept is the round of least error on the pilots that
choose. A last quarter of the pilots, which saw neither, compares the result with the analytic solver: the fitted table
is kept if it is better in this loss and in the median, and not surely worse, by two standard errors, in the mean
square. Where the mean square hangs on a few pilots, which end in another mode, as many pilots again as there were are
drawn to judge. What was decided, and by which numbers, is in `Calibrated.notes`; a table that is not kept warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, for_samples, predict, refuse_previous, rows_of
from gendiff.errors import NOT_NEGATIVE, SamplerError, whole
from gendiff.processes import Move, pick
from gendiff.random import Noise
from gendiff.sampling.grids import Grid, PowerGrid
from gendiff.sampling.loop import Callback, run
from gendiff.sampling.solvers import Adams, Calibrated, Fitted, Row, Solver
from gendiff.spaces import State, leaves, tensors, widened

PATH = 0.3  # what all times before the end count, to the end's 1


@dataclass(frozen=True)
class Pilot:
    """Fine trajectories of a model: the states of some samples at times."""

    denoiser: Denoise
    process: Any
    cond: dict[str, Any]
    times: list[float]
    states: list[State]

    def select(self, rows: slice) -> Pilot:
        """Some of the samples."""
        denoiser, cond = for_samples(self.denoiser, rows), rows_of(self.cond, rows)
        process = denoiser.process.masked(cond.get("mask"))
        return Pilot(denoiser, process, cond, self.times, [rows_of(x, rows) for x in self.states])

    def squares(self, rows: list[Row]) -> Tensor:
        """The square distance to the fine end, per sample [B]."""
        return self.process.space.dist2(self.states[-1], self.run(rows))

    def error(self, rows: list[Row], scale: float) -> float:
        """The mean loss at the end."""
        return float(loss(self.squares(rows), scale).mean())

    def run(self, rows: list[Row], callback: Callback = None) -> State:
        """Where rows lead to from the first states."""
        x = self.states[0]
        noise = Noise.of(0, tensors(x)[0].shape[0], device=tensors(x)[0].device)
        return run(self.denoiser, self.process, rows, x, noise=noise, cond=self.cond, callback=callback)

    def run_rows(self, rows: list[Row]) -> Tensor:
        """log(x*, x) at the times that rows lead to, [K, B, N] in float64 on the host."""
        found: dict[float, State] = {}
        self.run(rows, lambda p: found.update({p.time: p.state}))
        return torch.stack([flat(self.process.space.log(self.at(t), x)) for t, x in found.items()])

    def at(self, t: float) -> State:
        """The fine trajectory at a time, on the geodesic between two of its states."""
        k = next(k for k, s in enumerate(self.times) if s <= t)
        if self.times[k] == t:
            return self.states[k]
        share = (self.times[k - 1] - t) / (self.times[k - 1] - self.times[k])
        return self.process.space.lerp(self.states[k - 1], self.states[k], share)


def loss(square: Tensor, scale: float) -> Tensor:
    """S log(1 + r/S)."""
    return scale * torch.log1p(square / scale)


@dataclass(frozen=True)
class Pilots:
    """Half of the trajectories are fitted, a quarter chooses the grid, a quarter has the last word."""

    fit: Pilot
    choose: Pilot
    judge: Pilot
    whole: Pilot


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
    rounds: int = 8,
    otherwise: Solver | None = None,
) -> Calibrated:
    """A solver for this model, at these numbers of evaluations.

    Args:
        denoiser: The model, guided or not, e.g. `model.denoiser`.
        like: The shapes of the pilots, [B, ...]; 256 are a good number. Half are fitted, the rest choose and judge.
        solver: The analytic solver to start from, one evaluation a step; `Adams()` by default.
        evaluations: Numbers of steps to fit a table for.
        grid: The only grid to fit on; by default the grid is fitted too.
        cond: Conditions of the pilots.
        start: Their states at the grid's first time, instead of draws of the prior.
        noise: The source of those draws.
        depth: How many predictions a step may mix; as many as the solver does, if that is more.
        fine: Steps of the pilots' fine trajectories.
        ridge: How strongly weights are held to the analytic ones, relative to the data.
        rounds: At most so many refinements of all numbers together; each costs some dozens of runs.
        otherwise: What the result does at other numbers of steps; the analytic solver by default.

    Returns:
        The solver with the first of these numbers of steps; `model.sample(sampler=..., steps=8)` takes another.

    Raises:
        SamplerError: For fewer than 8 pilots, a solver with more than one evaluation a step, categories,
            or a self-conditioned denoiser.
    """
    refuse_previous(denoiser, "calibrate")
    counts = [evaluations] if isinstance(evaluations, int) else list(evaluations)
    for name, number, least in [*(("evaluations", n, 1) for n in counts), ("depth", depth, 1), ("fine", fine, 2)]:
        whole("calibrate", name, number, least)
    whole("calibrate", "rounds", rounds, 0)
    if not counts or ridge not in NOT_NEGATIVE:
        raise SamplerError(
            f"calibrate got evaluations={evaluations!r}, ridge={ridge!r}", "numbers of steps, and zero or more"
        )
    process, base, like = denoiser.process, solver or Adams(), widened(like)
    n = tensors(like)[0].shape[0]
    if n < 8:
        raise SamplerError(
            f"calibrate got {n} pilots", "at least 8: half fit, half choose and judge", "a larger `like`"
        )
    if solver is None and not single(base, process, counts):
        base = Adams(corrector=0)  # where moves are curved, a corrector is a move of its own
    if not single(base, process, counts):
        raise SamplerError(
            f"calibrate got {base!r}", "a solver with one evaluation and one move a step", "calibrate(..., Adams())"
        )
    if not all(leaves(process.per_part(lambda leaf: leaf.flows))):
        raise SamplerError(f"calibrate got {process!r}", "a process with a probability flow in every part")
    noise = noise or Noise.of(0, n, device=tensors(like)[0].device)
    pilots = follow(denoiser, like, base, grid, cond or {}, start, noise, fine)
    other = otherwise or base
    found = Calibrated(counts[0], base, (), other, other.times)
    more = cache(lambda: follow(denoiser, like, base, grid, cond or {}, None, noise.fork("judge"), fine).whole)
    for count in counts:
        table, note = best(pilots, base, grid, count, depth, ridge, rounds, more if start is None else None)
        found = replace(found if table is None else found.with_table(table), notes=(*found.notes, note))
        if table is None:
            warnings.warn(f"calibrate: {note}", stacklevel=2)
    return found


def single(solver: Solver, process: Any, counts: Sequence[int]) -> bool:
    """Whether each step is one evaluation and one move."""

    def one(count: int) -> bool:
        rows = replace(solver, steps=count).rows(process)  # type: ignore[type-var]
        return len(rows) == count and all(row.at is not None for row in rows)

    return all(map(one, counts))


def follow(
    denoiser: Denoise, like: State, solver: Solver, grid: Grid | None, cond: dict[str, Any], start: State | None,
    noise: Noise, fine: int,
) -> Pilots:  # fmt: skip
    """The fine trajectories of the pilots."""
    process = denoiser.process.masked(cond.get("mask"))
    first = (grid or solver.times)(process, 8)[0]
    times = [t for t in PowerGrid()(process, fine) if t < first]
    path = Along((first, *times))
    x = process.prior(like, noise.fork("prior"), first) if start is None else start
    found = {first: x}  # a move that is redone comes to the same time again, and the last is right
    rows = Adams(len(times), 4, times=path).rows(process)  # many steps on one grid: smooth enough for a high order
    run(denoiser, process, rows, x, noise=noise, cond=cond, callback=lambda p: found.update({p.time: p.state}))
    whole = Pilot(denoiser, process, cond, list(path.times), [found[t] for t in path.times])
    n = tensors(like)[0].shape[0]
    half, third = n // 2, n - n // 4
    fit, choose, judge = (whole.select(rows) for rows in (slice(half), slice(half, third), slice(third, None)))
    return Pilots(fit, choose, judge, whole)


@dataclass(frozen=True)
class Along(Grid):
    """Given times."""

    times: tuple[float, ...]

    def __call__(self, process: Any, steps: int) -> list[float]:
        return list(self.times)


def best(
    pilots: Pilots,
    solver: Solver,
    grid: Grid | None,
    count: int,
    depth: int,
    ridge: float,
    rounds: int,
    more: Callable[[], Pilot] | None,
) -> tuple[Fitted | None, str]:
    """The fitted table of `count` steps, or None where the solver itself does better on the pilots that judge; and why.

    Args:
        more: Further pilots to judge by, if there are any.
    """
    process = pilots.fit.process
    own = (grid or solver.times)(process, count)
    shapes = [PowerGrid(power) for power in (1.0, 1.2, 1.35, 1.5, 1.8, 2.2)]
    tables: list[Fitted] = []
    for times in [own, *(shape(process, count) for shape in shapes if grid is None)]:
        places = nearest(pilots.fit.times, times)
        if len(places) == count + 1:
            tables.append(fitted(pilots.fit, solver, places, depth, ridge))
    if not tables:
        return None, f"{count} steps: no grid fits on the pilots' times; the analytic solver is kept"

    def rows(table: Fitted) -> list[Row]:
        return table_rows(process, solver, table)

    scale = min(float(pilots.fit.squares(rows(table)).median()) for table in tables) + 1e-30
    # The grid that looks best at first need not be the one that can be refined most.
    tables.sort(key=lambda table: pilots.choose.error(rows(table), scale))
    ends = [polished(pilots, solver, table, rounds, grid is None, scale) for table in tables[:2]]
    least = min(ends, key=lambda pair: pair[0])[1]
    theirs = analytic_rows(process, solver, own)
    a, b = pilots.judge.squares(rows(least)), pilots.judge.squares(theirs)
    if more is not None and hangs_on_few(a, b):
        new = more()
        a, b = torch.cat([a, new.squares(rows(least))]), torch.cat([b, new.squares(theirs)])
    kept = better(a, b, scale)
    return least if kept else None, f"{count} steps: {said(a, b, kept)}"


def hangs_on_few(ours: Tensor, theirs: Tensor) -> bool:
    """Whether a sixteenth of the samples decides whose mean square error is the smaller."""
    gain = ours - theirs
    rest = gain[gain.abs().argsort()[: len(gain) - max(len(gain) // 16, 2)]]
    return bool(gain.sum() > 0) != bool(rest.sum() > 0)


def better(ours: Tensor, theirs: Tensor, scale: float) -> bool:
    """Whether square errors [B] are smaller in the loss and the median, and not surely larger in the mean."""
    gain = ours - theirs
    many = float(loss(ours, scale).mean()) < float(loss(theirs, scale).mean()) and bool(ours.median() < theirs.median())
    return many and float(gain.mean()) <= 2 * float(gain.std()) / len(gain) ** 0.5


def said(ours: Tensor, theirs: Tensor, kept: bool) -> str:
    """What was kept, and why."""
    median, mean = (float((f(ours) / f(theirs).clamp_min(1e-300)).sqrt()) for f in (torch.median, torch.mean))
    what = "the fitted table" if kept else "the analytic solver"
    return (
        f"{what} is kept; on {len(ours)} pilots the fitted table's error is {median:.2g} times the analytic solver's"
        f" in the median and {mean:.2g} times in the root mean square"
    )


def nearest(fine: list[float], times: list[float]) -> list[int]:
    """The places in the fine times nearest to these, each once; ends kept."""
    out = [0]
    for t in times[1:-1]:
        k = min(range(len(fine)), key=lambda i: abs(fine[i] - t))
        if out[-1] < k < len(fine) - 1:
            out.append(k)
    return [*out, len(fine) - 1]


def analytic_rows(process: Any, solver: Solver, times: Sequence[float]) -> list[Row]:
    """The solver's own rows on these times."""
    return replace(solver, steps=len(times) - 1, times=Along(tuple(times))).rows(process)  # type: ignore[type-var]


def table_rows(process: Any, solver: Solver, table: Fitted) -> list[Row]:
    """The rows of a fitted table."""
    rows = analytic_rows(process, solver, table.times)
    return [replace(row, weights=w) for row, w in zip(rows, table.weights, strict=True)]


def fitted(pilot: Pilot, solver: Solver, places: list[int], depth: int, ridge: float) -> Fitted:
    """The least-squares weights on the grid of these places, step after step."""
    times = [pilot.times[k] for k in places]
    process, space = pilot.process, pilot.process.space
    x, history, table = pilot.states[0], [], []
    for row, k in zip(analytic_rows(process, solver, times), places[1:], strict=True):
        told = pilot.cond if row.to is None else {**pilot.cond, "to": row.to}
        x0 = predict(pilot.denoiser, pilot.process, x, row.at, told)
        kept = x0 if row.norms is None else process.lead(x, x0, row.norms)
        history = [kept, *history[: max(depth, row.reach) - 1]]
        residual = space.log(process.advance(x, history, row.weights, row.norms, row.move), pilot.states[k])
        weights = per_part(solve, space, residual, history, row.move, row.norms, row.weights, ridge)
        table.append(weights)
        x = process.advance(x, history, weights, row.norms, row.move)
    return Fitted(tuple(times), tuple(table))


def per_part(
    f: Callable[..., Any],
    space: Any,
    residual: State,
    history: list[State],
    move: Any,
    norms: Any,
    weights: Any,
    ridge: float,
) -> Any:
    """f for each part of a bundle, or for the only one."""
    if isinstance(residual, dict):
        return {
            k: per_part(
                f, space.parts[k], residual[k], [x[k] for x in history], move[k], norms and norms[k], weights[k], ridge
            )
            for k in residual
        }
    return f(space, residual, history, move, norms, weights, ridge)


def solve(
    space: Any, residual: Tensor, history: list[Tensor], move: Any, norms: Any, prior: tuple[float, ...], ridge: float
) -> tuple[float, ...]:
    """The weights of one part: ridge regression towards `prior`, samples reweighted once by their residual."""
    points = norms is None
    features = [space.log(history[0], p) for p in history[1:]] if points else history
    m = len(features)
    if not m:
        return prior
    pull = move.pull if isinstance(move, Move) else 1 - move.end / move.start
    a = torch.stack([float(pull) * f.double().flatten(1) for f in features], -1).cpu()  # [B, N, m]
    y = residual.double().flatten(1).cpu()
    change = torch.zeros(m, dtype=torch.float64)
    for robust in (False, True):
        rho = torch.ones(len(y), dtype=torch.float64)
        if robust:
            square = (y - a @ change).square().mean(1)
            rho = 1 / (1 + square / (9 * square.median() + 1e-30))
        gram = torch.einsum("b,bnj,bnk->jk", rho, a, a)
        size = gram.diagonal().mean()
        if not bool(size > 0):
            return prior
        held = ridge * torch.diag(gram.diagonal() + 1e-6 * size)
        change = torch.linalg.solve(gram + held, torch.einsum("b,bnj,bn->j", rho, a, y))
    own = [*prior, *[0.0] * (m + points)][: m + points]
    new = [-float(change.sum()), *change.tolist()] if points else change.tolist()
    return tuple(w + c for w, c in zip(own, new, strict=True))


def polished(
    pilots: Pilots, solver: Solver, table: Fitted, rounds: int, times: bool, scale: float
) -> tuple[float, Fitted]:
    """The table refined by its effect on the whole run, and its error on the pilots that choose."""
    points = [mixed(row.norms) for row in table_rows(pilots.fit.process, solver, table)]
    theta = numbers(table)
    count = len(table.times) - 2
    gaps = [min(a - b, b - c) for a, b, c in zip(table.times, table.times[1:], table.times[2:], strict=False)]
    unit = torch.tensor([1.0] * (len(theta) - count) + gaps, dtype=torch.float64)
    free = [i for i in range(len(theta)) if times or i < len(theta) - count]

    def rows(theta: Tensor) -> list[Row]:
        return table_rows(pilots.fit.process, solver, filled(table, theta, points))

    def each(y: Tensor) -> Tensor:
        return loss(y.square().sum(-1), scale).mean(1)

    y, damping = pilots.fit.run_rows(rows(theta)), 1e-3
    best, least = theta, pilots.choose.error(rows(theta), scale)
    for _ in range(rounds):
        now = each(y)
        say = PATH / max(len(now) - 1, 1) * now[-1] / now.clamp_min(1e-30)
        say[-1] = 1
        rho = say[:, None] / (1 + y.square().sum(-1) / scale)
        columns = []
        for i in free:
            there = theta.clone()
            there[i] += 1e-3 * float(unit[i])
            columns.append((pilots.fit.run_rows(rows(there)) - y) / 1e-3)
        a = torch.stack(columns, -1)
        gram = torch.einsum("kb,kbnj,kbnl->jl", rho, a, a)
        right = torch.einsum("kb,kbnj,kbn->j", rho, a, y)
        for _ in range(6):
            held = damping * torch.diag(gram.diagonal() + 1e-9 * gram.diagonal().mean())
            move = torch.zeros_like(theta)
            move[free] = -torch.linalg.solve(gram + held, right) * unit[free]
            there = theta + move
            if all(a > b for a, b in pairwise([table.times[0], *there[len(theta) - count :].tolist(), 0.0])):
                new = pilots.fit.run_rows(rows(there))
                if float((say * each(new)).sum()) < float((say * now).sum()):
                    theta, y, damping = there, new, damping / 10
                    break
            damping = max(damping * 10, 1e-6)
        else:
            break
        found = pilots.choose.error(rows(theta), scale)
        if found < least:
            best, least = theta, found
    return least, filled(table, best, points)


def numbers(table: Fitted) -> Tensor:
    """All weights and the inner times, float64."""
    weights = (w for row in table.weights for part in leaves(row) for w in part)
    return torch.tensor([*weights, *table.times[1:-1]], dtype=torch.float64)


def mixed(norms: Any) -> Any:
    """Whether points are mixed, by part."""
    return {k: mixed(n) for k, n in norms.items()} if isinstance(norms, dict) else norms is None


def filled(table: Fitted, theta: Tensor, points: list[Any]) -> Fitted:
    """The table with other numbers; where points are mixed the newest weight makes the sum one."""
    source = iter(theta.tolist())

    def part(weights: Any, points: Any) -> Any:
        if isinstance(weights, dict):
            return {k: part(w, pick(points, k)) for k, w in weights.items()}
        w = [next(source) for _ in weights]
        return (1 - sum(w[1:]), *w[1:]) if points else tuple(w)

    weights = tuple(map(part, table.weights, points))
    return Fitted((table.times[0], *source, table.times[-1]), weights)


def flat(x: State) -> Tensor:
    """A tangent as float64 [B, N] on the host."""
    return torch.cat([part.double().flatten(1) for part in tensors(x)], 1).cpu()

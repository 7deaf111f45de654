"""How samplers converge on a trained model: the same starts, against the model's own fine trajectories."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gendiff.model import Model
from gendiff.sampling.grids import LinearGrid, PowerGrid
from gendiff.sampling.solvers import Adams, Calibrated, DPMpp2M, Euler, FittedTimes, Heun, Solver
from gendiff.spaces import tensors


@dataclass(frozen=True)
class Row:
    """One sampler on one grid at one number of steps."""

    sampler: str
    grid: str
    evaluations: int
    error: float
    milliseconds: float


def convergence(
    model: Model, n: int, *, steps: Sequence[int], reference: int, guidance: Any = None, what: dict[str, Any]
) -> list[Row]:
    """RMS per degree of freedom between each sampler's end and that of a fine Heun on the model's own grid.

    Samplers run on the model's own grid, evenly in t, and on that of `Adams`; a model's tables on theirs.
    """
    process, own = model.denoiser.process, model.sampler.times
    own = own.otherwise if isinstance(own, FittedTimes) else own
    asked = {"batch": n, "guidance": guidance, **what}
    truth, masks = model.states(n, sampler=Heun(reference, times=own), **asked)
    space = process.masked(masks[0]).space
    freedom = space.dim(truth[0]).sum()
    grids = list(dict.fromkeys((own, LinearGrid(), PowerGrid())))
    solvers: list[Solver] = [make(1, times=grid) for make in (Euler, Heun, DPMpp2M, Adams) for grid in grids]
    if isinstance(model.sampler, Calibrated):
        solvers.append(model.sampler)
    rows: list[Row] = []
    for solver in solvers:
        for count in steps:
            chosen = dataclasses.replace(solver, steps=count)  # type: ignore[type-var]
            if isinstance(chosen, Calibrated) and all(len(table.weights) != count for table in chosen.tables):
                continue
            since = time.perf_counter()
            x, _ = model.states(n, sampler=chosen, **asked)
            spent = time.perf_counter() - since
            error = float(torch.sqrt(space.dist2(x[0], truth[0]).double().sum() / freedom))
            grid = "fitted" if isinstance(chosen, Calibrated) else repr(chosen.times)
            name, each = type(solver).__name__, 1000 * spent / len(tensors(x[0])[0])
            rows.append(Row(name, grid, chosen.evaluations(process), error, each))
    return rows

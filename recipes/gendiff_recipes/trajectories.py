"""How samplers converge on a trained model: the same starts, against the model's own fine trajectories."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gendiff.model import Model
from gendiff.solvers import Adams, Calibrated, DPMpp2M, Euler, Heun, Solver
from gendiff.spaces import tensors


@dataclass(frozen=True)
class Row:
    """One sampler at one number of steps."""

    sampler: str
    evaluations: int
    error: float
    milliseconds: float


def convergence(model: Model, n: int, *, steps: Sequence[int], reference: int, what: dict[str, Any]) -> list[Row]:
    """RMS per degree of freedom between each sampler's end and a fine Heun's, on the model's own grid.

    A model's own tables are measured too, on the grids that they were fitted with.
    """
    process, grid = model.denoiser.process, model.sampler.times
    truth, masks = model.states(n, sampler=Heun(reference, times=grid), batch=n, **what)
    space = process.masked(masks[0]).space
    freedom = space.dim(truth[0]).sum()
    rows: list[Row] = []
    solvers: list[Solver] = [make(1, times=grid) for make in (Euler, Heun, DPMpp2M, Adams)]
    if isinstance(model.sampler, Calibrated):
        solvers.append(model.sampler)
    for solver in solvers:
        for count in steps:
            chosen = dataclasses.replace(solver, steps=count)  # type: ignore[type-var]
            since = time.perf_counter()
            x, _ = model.states(n, sampler=chosen, batch=n, **what)
            spent = time.perf_counter() - since
            error = torch.sqrt(space.dist2(x[0], truth[0]).double().sum() / freedom)
            name = type(solver).__name__
            rows.append(Row(name, chosen.evaluations(process), float(error), 1000 * spent / len(tensors(x[0])[0])))
    return rows

r"""What is known of a sample: an image around a hole, the sound beside a gap, a motif.

Replacement (Song et al. 2021, App. I.2) keeps the known sites on their own noised path,

    x_s <- where(known, noise(x0_known, s), x_s)

after each step. Alone it is biased: the rest is never told why the known part moved. On a grid that also goes up
(`times.UpAndDown`, RePaint) the two parts are reconciled by walking each stretch again, and the bias goes with the
number of repeats. `resampled` wraps any solver's grid so; it is the default whenever something is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.processes import Process, pick
from gendiff.random import Noise
from gendiff.solvers import Solver
from gendiff.spaces import Centered, Product, Space, State, map_state, over
from gendiff.times import UpAndDown


@dataclass(frozen=True)
class Given:
    """Known sites of the clean state.

    Args:
        x0: The clean state [B, ...]; read where `keep` is True.
        keep: bool [B, *sites] (or by part, or anything that broadcasts to the state): what is known.
    """

    x0: State
    keep: Any

    def put(self, process: Process, x: State, s: float, noise: Noise) -> State:
        """x_s with its known sites replaced by a fresh noising of the known values; exact at s = 0."""
        known = self.x0 if s <= 0 else process.noise(self.x0, s, noise)
        return process.space.where(self.keep, settled(process.space, self.keep, known, x), x)

    def expand(self, n: int) -> Given:
        """The same for n samples, where one was given."""

        def grow(x: Tensor) -> Tensor:
            return x.expand(n, *x.shape[1:]) if x.shape[0] == 1 else x

        return Given(map_state(grow, self.x0), map_state(grow, self.keep))

    def select(self, rows: slice, device: torch.device) -> Given:
        """Some of the samples, on a device."""
        return Given(*(map_state(lambda x: x[rows].to(device), part) for part in (self.x0, self.keep)))


def settled(space: Space, keep: Any, known: State, x: State) -> State:
    """The known sites, on centred spaces moved to where the state has them: there the place of a part is unknown.

    Their mean stays the state's own, so what is replaced is exactly what is known, their differences.
    """
    if isinstance(space, Product):
        return space.each(lambda name, part: settled(part, pick(keep, name), known[name], x[name]))
    if not isinstance(space, Centered):
        return known
    kept = over(keep, x).expand_as(x)  # type: ignore[union-attr]
    if space.mask is not None:
        kept = kept & over(space.mask, x)
    n = kept.sum(-2, keepdim=True).clamp_min(1)
    return known + torch.where(kept, x - known, 0.0).sum(-2, keepdim=True) / n


def resampled(solver: Solver, repeats: int = 10, length: int = 1) -> Solver:
    """The solver on its own grid, each stretch of `length` steps walked `repeats` times."""
    if isinstance(solver.times, UpAndDown):
        return solver
    return replace(solver, times=UpAndDown(solver.times, length, repeats))  # type: ignore[type-var]

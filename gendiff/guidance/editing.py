r"""Starting from something: noise it in part, then sample from there (SDEdit, Meng et al. 2022).

    x_t = noise(x0, t),   t = strength;   then the sampler's own grid from t down

`From` keeps of any grid the times below t, so an edit of strength t costs that share of the grid's steps. A grid that
goes up comes back to t at most: what is above would erase the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gendiff.errors import Range, RequestError, SamplerError, check
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling.grids import Grid, LinearGrid
from gendiff.spaces import SiteKind, State, kinds_of, map_state


@dataclass(frozen=True)
class From(Grid):
    """A grid that begins at a time below its own first, and never goes above it.

    Args:
        grid: Whose times follow.
        start: The first time.

    Raises:
        SamplerError: For a start outside (0, 1], or where the grid has no time below it.
    """

    grid: Grid = field(default_factory=LinearGrid)
    start: float = 0.5

    def __post_init__(self) -> None:
        check(self, SamplerError, start=Range(0, 1, "(]", "a time in (0, 1]"))

    def __call__(self, process: Process, steps: int) -> list[float]:
        times, below = self.grid(process, steps), self.start * (1 - 1e-9)  # rounding makes no step of its own
        entry = next((i for i, t in enumerate(times) if t < below), None)
        if entry is None:
            raise SamplerError(
                f"A sampler was to start at t = {self.start}, and its grid {self.grid!r} ends at t = {times[-1]:.4g}",
                "a start above the last time of the grid",
                f"strength={(1 + times[-1]) / 2:.2g}",
            )
        out = [self.start]
        for t in times[entry:]:
            here = self.start if t >= below else t
            if here != out[-1]:
                out.append(here)
        return out


def start_at(sampler: Any, strength: float) -> Any:
    """A sampler with a grid, that begins at the time `strength`."""
    return replace(sampler, times=From(sampler.times, strength))


def noised_start(
    process: Process, x0: State, like: State, t: float, noise: Noise, cond: dict[str, Any], each: bool = False
) -> State:
    """x_t of a clean state [1 or B, *sites, ...] (padded to the sites of `like`), one draw for each sample.

    With `each` there is one state for each sample, none longer than its sample, padded to the longest of all.
    """
    mask = cond.get("mask")

    def fit(part: Tensor, other: Tensor, sites: SiteKind) -> Tensor:
        elements = None if mask is None or mask.ndim != 2 else mask.sum(1).tolist()
        sizes = {other.shape[1]} if elements is None else set(map(sites.count, elements))
        if (
            part.shape[2:] != other.shape[2:]
            or (other.shape[1] if each else min(sizes)) < part.shape[1]
            or (mask is None and max(sizes) > part.shape[1])
        ):
            raise RequestError(
                f"The artifact to start from has the shape {tuple(part.shape[1:])}",
                f"that of what is asked for, {' and '.join(str((size, *other.shape[2:])) for size in sorted(sizes))}",
                "Ask for samples of the same size",
            )
        wide = part.new_zeros(len(part), *other.shape[1:])
        wide[:, : part.shape[1]] = part
        return wide.to(device=other.device, dtype=other.dtype).expand(other.shape)

    process = process.masked(mask)
    return process.noise(
        process.space.project(map_state(fit, x0, like, kinds_of(process.space, x0))), t, noise.fork("start")
    )

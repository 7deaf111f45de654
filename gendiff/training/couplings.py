r"""Couplings: which noise z an example x0 is joined to in training.

Any joint law of (x0, z) with the right marginals trains a right model; a nearer z makes straighter paths, which take
fewer steps to follow (Tong et al. 2024; Pooladian et al. 2023).

    Independent   z as drawn
    OptimalTransport  the permutation of a batch's z with the least sum of dist2(x0, z)                       (exact)
    Sinkhorn      z_j drawn with probability plan_ij, the plan of transport with entropy                (Cuturi 2013)
    KabschAligned     z rotated onto x0, for clouds of points      (Kabsch 1976; Klein et al. 2023; Song et al. 2023)
    EquivariantOT     z assigned to the points of x0, then rotated onto them                            (the same two)
    Immiscible    the nearest of several z                                                    (Li et al. 2024, 2025)
    Paired        a z from which a model made this x0: reflow                                       (Liu et al. 2023)

Only noise moves: an example keeps its state, its conditions and its mask. Noise is exchanged between samples of equal
conditions only (and equal masks among them; a missing number, NaN, equals another); else conditional models would learn
the coupling's bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.errors import POSITIVE, GendiffError, SamplerError, at_least, check
from gendiff.processes import Joint, Process
from gendiff.random import WORD, Noise
from gendiff.sampling import sample, table
from gendiff.sampling.solvers import Solver
from gendiff.spaces import ELEMENTS, Centered, Product, Space, State, map_state, per_sample, tensors, widened


class Coupling(ABC):
    """The interface; see the top of the file."""

    @abstractmethod
    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        """The noise to join to x0.

        Args:
            process: The process, bound to the batch's mask.
            x0: Clean states [B, ...].
            z: Draws of the reference noise [B, ...].
            noise: A source for what the coupling draws itself.
            cond: Conditions [B, ...], with "mask" for padded batches.
        """


@dataclass(frozen=True)
class Independent(Coupling):
    """The noise as it was drawn."""

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        return z


@dataclass(frozen=True)
class OptimalTransport(Coupling):
    """Exact optimal transport within the batch; solved on the host, so it waits for the device."""

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        from scipy.optimize import linear_sum_assignment

        cost = pairwise(process.space, x0, z).double().cpu()
        block = equals(cond, cost).to(torch.uint8).argmax(1)  # named by its first member
        order = torch.arange(len(cost))
        for first in block.unique():
            members = (block == first).nonzero()[:, 0]
            _, chosen = linear_sum_assignment(cost[members][:, members].numpy())
            order[members] = members[torch.as_tensor(chosen)]
        return take(z, order)


@dataclass(frozen=True)
class Sinkhorn(Coupling):
    """Optimal transport with entropy, on the device; partners are drawn from the plan.

    Args:
        epsilon: The strength of entropy, in units of the mean cost within equal conditions.
        rounds: How often rows and columns are normalised.
    """

    epsilon: float = 0.05
    rounds: int = 100

    def __post_init__(self) -> None:
        check(self, epsilon=POSITIVE, rounds=at_least(1))

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        log = self.log_plan(pairwise(process.space, x0, z).double(), cond)
        # The random number of a pair belongs to the pair, so the order of the batch changes nothing.
        index = noise.index.to(log.device)
        pairs = replace(noise.fork("sinkhorn"), index=((index[:, None] * 0x9E3779B1 + index) & WORD).flatten())
        gumbel = -torch.log(-torch.log(pairs.uniform((log.numel(),)))).reshape(log.shape)
        return take(z, (log + gumbel).argmax(1))

    def log_plan(self, cost: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """log of B plan_ij, rows summing to one; -inf between different conditions. cost is float64 [B, B]."""
        same = equals(cond, cost)
        counts = same.sum(1)
        mean = same.double() @ torch.where(same, cost, 0.0).sum(1) / (counts * counts)
        kernel = torch.where(same, -cost / (self.epsilon * mean.clamp_min(1e-300))[:, None], -torch.inf)
        columns = torch.zeros_like(mean)
        rows = torch.zeros_like(mean)
        for _ in range(self.rounds):
            columns = -torch.logsumexp(kernel + rows[:, None], dim=0)
            rows = -torch.logsumexp(kernel + columns, dim=1)
        return kernel + rows[:, None] + columns


@dataclass(frozen=True)
class KabschAligned(Coupling):
    """Turns the noise of every `Centered` cloud to lie best on its x0; other parts stay as they are.

    Right for models that commute with rotations, or are trained with random ones: the noise is a Gaussian cloud still,
    and its orientation now that of the data.
    """

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        if isinstance(process, Joint):
            return process.each(lambda name, part: self(part, x0[name], z[name], noise, cond))
        return z @ turn(process.space.project(z), process.space.project(x0)) if is_cloud(process.space) else z


@dataclass(frozen=True)
class EquivariantOT(Coupling):
    """Assigns the points of every cloud's noise to those of x0 by the least sum of squares, and turns it onto them.

    Equivariant optimal transport (Klein et al. 2023; Song et al. 2023), within each sample. Right for networks that
    commute with permutations and, on `Centered` spaces, with rotations; on `Euclidean` ones nothing is turned. What
    is no cloud [B, N, D] of elements stays as it is. Solved on the host, so it waits for the device.

    Args:
        rounds: How often; the turn may ask for another assignment.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        check(self, rounds=at_least(1))

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        if isinstance(process, Joint):
            return process.each(lambda name, part: self(part, x0[name], z[name], noise, cond))
        space = process.space
        if not space.flat or space.sites != ELEMENTS or x0.ndim != 3:
            return z
        mask = torch.ones(x0.shape[:2], dtype=torch.bool) if space.mask is None else space.mask
        for _ in range(self.rounds):
            z = torch.gather(z, 1, assigned(x0, z, mask)[..., None].expand_as(z))
            z = z @ turn(space.project(z), space.project(x0)) if is_cloud(space) else z
        return z


@dataclass(frozen=True)
class Immiscible(Coupling):
    """The nearest of several draws, each sample for itself, whatever its batch.

    The noise that is seen in training is then no exact Gaussian: its deviation shrinks slightly, the more so the more
    candidates and the fewer dimensions there are.

    Args:
        candidates: How many draws, the one at hand included.
    """

    candidates: int = 4

    def __post_init__(self) -> None:
        check(self, candidates=at_least(1))

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        best = process.space.dist2(x0, z)
        for k in range(1, self.candidates):
            other = process.endpoint(x0, noise.fork(f"candidate {k}"))
            far = process.space.dist2(x0, other)
            nearer = far < best
            best = torch.where(nearer, far, best)
            z = map_state(lambda new, old, keep=nearer: torch.where(per_sample(keep, new).bool(), new, old), other, z)  # type: ignore[union-attr]
        return z


class Paired(Coupling):
    """The given noise: what `reflow` returned for these x0.

    Args:
        z: [B, ...].
    """

    def __init__(self, z: State) -> None:
        self.z = z

    def __call__(self, process: Process, x0: State, z: State, noise: Noise, cond: Mapping[str, Any]) -> State:
        if [p.shape for p in tensors(self.z)] != [p.shape for p in tensors(z)]:
            raise GendiffError(
                f"Paired noise of the shapes {[tuple(p.shape) for p in tensors(self.z)]}",
                f"{[tuple(p.shape) for p in tensors(z)]}, one for each example of the batch",
            )
        return self.z


@torch.no_grad()
def reflow(
    denoiser: Denoise, like: State, *, solver: Solver, noise: Noise, cond: dict[str, Any] | None = None
) -> tuple[State, State]:
    """Pairs (z, x0) to train a straighter model on: x0 is where the solver leads from z (Liu et al. 2023, Alg. 1).

    Args:
        denoiser: The model to straighten.
        like: The shapes, dtype and device, [B, ...].
        solver: A deterministic solver whose grid starts at t = 1.
        noise: The source of z.
        cond: Conditions [B, ...]; keep them beside the pairs.

    Raises:
        SamplerError: For a solver that starts elsewhere, at a state that is not z on its path.
    """
    first = table(solver, denoiser.process)[0].t
    if first != 1:
        raise SamplerError(
            f"reflow got {solver!r}, whose grid starts at t = {first:.4g}",
            "a grid that starts at t = 1, where the path has come to z",
            f"reflow(..., solver={type(solver).__name__}({solver.steps}, times=LinearGrid()))",
        )
    process, like = denoiser.process.masked((cond or {}).get("mask")), widened(like)
    z = process.endpoint(like, noise.fork("prior"))  # what `sample` itself begins with
    return z, sample(denoiser, like, solver=solver, noise=noise, cond=cond)


def pairwise(space: Space, x: State, z: State, elements: int = 1 << 22) -> Tensor:
    """dist2(x_i, z_j) of all pairs, [B, B], under the mask of x_i; at most so many elements at a time."""
    n = len(tensors(x)[0])
    rows = max(1, elements // max(1, sum(part.numel() for part in tensors(z))))
    out = []
    for first in range(0, n, rows):
        i = torch.arange(first, min(first + rows, n), device=tensors(x)[0].device).repeat_interleave(n)
        j = torch.arange(n, device=i.device).repeat(len(i) // n)
        out.append(under(space, i).dist2(take(x, i), take(z, j)).reshape(-1, n))
    return torch.cat(out)


def under(space: Space, rows: Tensor) -> Space:
    """The space with the masks of some rows of its batch."""
    if isinstance(space, Product):
        return Product({name: under(part, rows) for name, part in space.parts.items()})
    return space if space.mask is None else replace(space, mask=space.mask[rows])


def equals(cond: Mapping[str, Any], cost: Tensor) -> Tensor:
    """Whether samples i and j have equal conditions, bool [B, B] beside `cost`; NaN, a missing number, equals NaN."""
    n = len(cost)
    same = torch.ones(n, n, dtype=torch.bool, device=cost.device)
    for value in flat(cond):
        if isinstance(value, Tensor) and value.ndim and len(value) == n:
            value = value.reshape(n, -1).to(cost.device)
            missing = value.isnan()
            alike = (value[:, None] == value[None]) | (missing[:, None] & missing[None])
            same = same & alike.all(-1)
    return same


def flat(cond: Any) -> list[Any]:
    """All values of nested dicts."""
    return [v for value in cond.values() for v in flat(value)] if isinstance(cond, Mapping) else [cond]


def take(x: State, rows: Tensor) -> State:
    """Some samples of a state."""
    return map_state(lambda part: part[rows.to(part.device)], x)


def assigned(x: Tensor, z: Tensor, mask: Tensor) -> Tensor:
    """Which point of z goes to which of x, by the least sum of squares within each sample: int64 [B, N]."""
    from scipy.optimize import linear_sum_assignment

    cost = -(x.double() @ z.double().mT).cpu()  # |x - z|^2, but for what no assignment changes
    order = torch.arange(x.shape[1]).repeat(len(x), 1)
    for own, costs, real in zip(order, cost, mask.cpu(), strict=True):
        sites = real.nonzero()[:, 0]
        own[sites] = sites[torch.as_tensor(linear_sum_assignment(costs[sites][:, sites].numpy())[1])]
    return order.to(x.device)


def is_cloud(space: Space) -> bool:
    """Whether states are points whose common rotation means nothing."""
    return isinstance(space, Centered)


def turn(z: Tensor, x: Tensor) -> Tensor:
    """The proper rotations R [B, D, D] that minimise |z R - x|, for centred clouds [B, N, D] with zero padding."""
    u, _, vt = torch.linalg.svd((z.mT @ x).double())
    sign = torch.ones_like(u[..., 0])
    sign[..., -1] = torch.linalg.det(u @ vt).sign()
    return ((u * sign[..., None, :]) @ vt).to(z.dtype)

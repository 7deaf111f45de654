"""Room for every residue: predicted chains that overlap are moved apart before the sampler follows them.

Two CA more than two residues apart never come closer than about 3.8 A in real chains, but a prediction made from much
noise is an average of folds, and averages overlap. `untangle` imposes what every clean chain obeys, as position-based
dynamics does (Müller et al. 2007): alternately, each overlapping pair is pushed apart by half its overlap each, and
each CA-CA step is brought back to its length. It commutes with rotation, translation and padding. A closed chain has
one step more, from its last residue to its first, which is mended after the others.

Most pairs never meet. Where values can be looked at without waiting for a device, pushes are summed over a list of
neighbours (Verlet 1967): the pairs nearer than d + s when the list was made. No other pair can come nearer than d
before some residue has moved by s / 2, and then the list is made again; so nothing is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.guidance.wrappers import at_hand

from .networks import Rings, steps_between

SKIN = 0.2  # nm by which pairs in the list may be farther apart than an overlap


def untangle(
    pos: Tensor, mask: Tensor, *, distance: float = 0.39, rounds: int = 10, rings: Rings | None = None
) -> Tensor:
    """CA positions with overlaps removed as far as the chain allows.

    Args:
        pos: `[B, N, 3]`, nm.
        mask: `[B, N]` bool, True where real.
        distance: closer than this, in nm, is an overlap.
        rounds: of pushing and mending.
        rings: which chains are closed.

    Returns:
        Positions `[B, N, 3]`; chains without overlap are returned as they are.
    """
    pairs = mask[:, :, None] & mask[:, None] & (steps_between(rings, pos).abs() > 2)
    half = 0.5 * (mask[:, 1:] & mask[:, :-1])[..., None].to(pos.dtype)
    want = half * (pos[:, 1:] - pos[:, :-1]).norm(dim=-1, keepdim=True)
    parities = [(slice(odd, -1, 2), slice(odd + 1, None, 2), half[:, odd::2], want[:, odd::2]) for odd in (0, 1)]
    push = (Listed if at_hand(pos) else Every)(pairs, distance)
    closure = None if rings is None else Closure(pos, rings)
    for _ in range(rounds):
        pos = pos + push(pos)
        for left, right, share, length in parities:  # steps of one parity share no residue
            step = pos[:, right] - pos[:, left]
            mend = (share - length / step.norm(dim=-1, keepdim=True).clamp_min(1e-3)) * step
            pos[:, left].add_(mend)
            pos[:, right].sub_(mend)
        pos = pos if closure is None else closure(pos)
    return pos


class Closure:
    """The steps from the last residues of closed chains to their first, brought back to their length."""

    def __init__(self, pos: Tensor, rings: Rings) -> None:
        place = torch.arange(pos.shape[1], device=pos.device)
        self.last = ((rings.size > 0) & (place == rings.first + rings.size - 1))[..., None]
        self.first = rings.first[..., None].expand(pos.shape)
        self.length = self.step(pos).norm(dim=-1, keepdim=True)

    def step(self, pos: Tensor) -> Tensor:
        """From each residue to the first of its chain, `[B, N, 3]`."""
        return pos.gather(1, self.first) - pos

    def __call__(self, pos: Tensor) -> Tensor:
        step = self.step(pos)
        mend = torch.where(
            self.last, (0.5 - 0.5 * self.length / step.norm(dim=-1, keepdim=True).clamp_min(1e-3)) * step, 0
        )
        return pos + mend - torch.zeros_like(pos).scatter_add(1, self.first, mend)


class Every:
    """Each residue's mean push `[B, N, 3]` by the residues that overlap with it, looked for among all pairs."""

    def __init__(self, pairs: Tensor, distance: float) -> None:
        self.pairs, self.distance = pairs, distance

    def __call__(self, pos: Tensor) -> Tensor:
        apart = pos[:, :, None] - pos[:, None]
        far = apart.square().sum(-1).clamp_min(1e-6).sqrt()
        overlap = torch.where(self.pairs, (self.distance - far).clamp_min(0), 0.0)
        touched = (overlap > 0).sum(2, keepdim=True).clamp_min(1)
        return ((0.5 * overlap / far)[..., None] * apart).sum(2) / touched


class Listed:
    """The same, looked for among the pairs that were near when a residue had last moved by half of `SKIN`."""

    def __init__(self, pairs: Tensor, distance: float) -> None:
        self.pairs, self.distance = pairs, distance
        self.at: Tensor | None = None

    def __call__(self, pos: Tensor) -> Tensor:
        self.follow(pos.detach())
        flat = pos.reshape(-1, 3)
        apart = flat.index_select(0, self.first) - flat.index_select(0, self.second)
        far = apart.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        overlap = (self.distance - far).clamp_min(0)
        pushes = torch.cat([0.5 * overlap / far * apart, overlap > 0], -1)
        total = pushes.new_zeros(len(flat), 4).index_add_(0, self.first, pushes)
        return (total[:, :3] / total[:, 3:].clamp_min(1)).view_as(pos)

    def follow(self, pos: Tensor) -> None:
        """Makes the list again if a residue has moved too far; positions that are not numbers are near everything."""
        if self.at is not None and float((pos - self.at).norm(dim=-1).max()) < SKIN / 2:
            return
        self.at, n = pos, pos.shape[1]
        apart2 = sum((x[:, :, None] - x[:, None]).square() for x in pos.unbind(-1))
        near = self.pairs & ~(apart2 > (self.distance + SKIN) ** 2)
        found = near.view(-1).nonzero()[:, 0]
        self.first = found // n
        self.second = self.first // n * n + found % n

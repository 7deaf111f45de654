"""Room for every residue: predicted chains that overlap are moved apart before the sampler follows them.

Two CA more than two residues apart never come closer than about 3.8 A in real chains, but a prediction made from much
noise is an average of folds, and averages overlap. `untangle` imposes what every clean chain obeys, as position-based
dynamics does (Müller et al. 2007): alternately, each overlapping pair is pushed apart by half its overlap each, and
each CA-CA step is brought back to its length. It commutes with rotation, translation and padding.
"""

from __future__ import annotations

import torch
from torch import Tensor


def untangle(pos: Tensor, mask: Tensor, *, distance: float = 0.39, rounds: int = 10) -> Tensor:
    """CA positions with overlaps removed as far as the chain allows.

    Args:
        pos: `[B, N, 3]`, nm.
        mask: `[B, N]` bool, True where real.
        distance: closer than this, in nm, is an overlap.
        rounds: of pushing and mending.

    Returns:
        Positions `[B, N, 3]`; chains without overlap are returned as they are.
    """
    place = torch.arange(pos.shape[1], device=pos.device)
    pairs = mask[:, :, None] & mask[:, None] & ((place[:, None] - place).abs() > 2)
    joined = (mask[:, 1:] & mask[:, :-1])[..., None].to(pos.dtype)
    steps = (pos[:, 1:] - pos[:, :-1]).norm(dim=-1, keepdim=True)
    for _ in range(rounds):
        apart = pos[:, :, None] - pos[:, None]
        far = apart.square().sum(-1).clamp_min(1e-6).sqrt()
        overlap = torch.where(pairs, (distance - far).clamp_min(0), 0.0)
        touched = (overlap > 0).sum(2, keepdim=True).clamp_min(1)
        pos = pos + ((0.5 * overlap / far)[..., None] * apart).sum(2) / touched
        for odd in (0, 1):  # steps of one parity share no residue
            step = pos[:, 1:] - pos[:, :-1]
            length = step.norm(dim=-1, keepdim=True).clamp_min(1e-3)
            mend = 0.5 * (1 - steps / length) * step * joined
            mend[:, 1 - odd :: 2] = 0
            pos = pos + torch.nn.functional.pad(mend, (0, 0, 0, 1)) - torch.nn.functional.pad(mend, (0, 0, 1, 0))
    return pos

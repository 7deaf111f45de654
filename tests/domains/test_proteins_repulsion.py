"""Moving apart what overlaps: it removes clashes, keeps the chain, and respects every symmetry."""

from __future__ import annotations

import pytest
import torch

from gendiff import SO3, Noise
from gendiff_proteins.repulsion import untangle


def tangle(n: int = 60, batch: int = 4, seed: int = 0) -> torch.Tensor:
    """Random walks of 0.38 nm steps in a small ball: chains with many overlaps, float64 [batch, n, 3] nm."""
    step = Noise.of(seed, batch).normal((batch, n, 3), torch.float64)
    step = 0.38 * step / step.norm(dim=-1, keepdim=True)
    pos = step.cumsum(1)
    return pos - pos.mean(1, keepdim=True)


def clashes(pos: torch.Tensor, mask: torch.Tensor, below: float = 0.36) -> torch.Tensor:
    place = torch.arange(pos.shape[1])
    far = (pos[:, :, None] - pos[:, None]).square().sum(-1).sqrt()
    pairs = mask[:, :, None] & mask[:, None] & ((place[:, None] - place).abs() > 2)
    return (pairs & (far < below)).sum((1, 2))


def test_overlaps_go_and_steps_stay() -> None:
    pos = tangle()
    mask = torch.ones(4, 60, dtype=torch.bool)
    out = untangle(pos, mask, rounds=60)
    before, after = clashes(pos, mask), clashes(out, mask)
    assert before.min() > 20 and (after < 0.2 * before).all()
    steps = (out[:, 1:] - out[:, :-1]).norm(dim=-1)
    assert (steps - 0.38).abs().mean() < 0.02


def test_a_chain_without_overlap_is_left_alone() -> None:
    pos = torch.arange(30).double()[None, :, None] * torch.tensor([0.38, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(untangle(pos, torch.ones(1, 30, dtype=torch.bool)), pos)


def test_it_commutes_with_rigid_motion_and_padding() -> None:
    pos, mask = tangle(), torch.ones(4, 60, dtype=torch.bool)
    out = untangle(pos, mask)
    turn = SO3().random(torch.empty(1, 3, 3, dtype=torch.float64), Noise.of(1, 1))
    assert (untangle(pos @ turn.mT + 3.0, mask) - (out @ turn.mT + 3.0)).abs().max() < 1e-10
    padded = torch.cat([pos, torch.zeros(4, 9, 3, dtype=torch.float64)], 1)
    real = torch.cat([mask, torch.zeros(4, 9, dtype=torch.bool)], 1)
    assert (untangle(padded, real)[:, :60] - out).abs().max() < 1e-12


@pytest.mark.parametrize("row", [0, 3])
def test_chains_do_not_feel_each_other(row: int) -> None:
    pos, mask = tangle(), torch.ones(4, 60, dtype=torch.bool)
    alone = untangle(pos[row : row + 1], mask[row : row + 1])
    assert (alone - untangle(pos, mask)[row : row + 1]).abs().max() < 1e-12

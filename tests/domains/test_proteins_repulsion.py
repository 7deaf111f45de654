"""Moving apart what overlaps: it removes clashes, keeps the chain, and respects every symmetry."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gendiff import SO3, Noise
from gendiff_proteins import Backbones, repulsion
from gendiff_proteins.repulsion import SKIN, Every, Listed, untangle


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


def untangled_by_all_pairs(pos: torch.Tensor, mask: torch.Tensor, rounds: int = 10) -> torch.Tensor:
    """The same, every pair of every round looked at, and every step mended from a copy: slow, and plainly right."""
    place = torch.arange(pos.shape[1])
    pairs = mask[:, :, None] & mask[:, None] & ((place[:, None] - place).abs() > 2)
    joined = (mask[:, 1:] & mask[:, :-1])[..., None].to(pos.dtype)
    steps = (pos[:, 1:] - pos[:, :-1]).norm(dim=-1, keepdim=True)
    for _ in range(rounds):
        apart = pos[:, :, None] - pos[:, None]
        far = apart.square().sum(-1).clamp_min(1e-6).sqrt()
        overlap = torch.where(pairs, (0.39 - far).clamp_min(0), 0.0)
        touched = (overlap > 0).sum(2, keepdim=True).clamp_min(1)
        pos = pos + ((0.5 * overlap / far)[..., None] * apart).sum(2) / touched
        for odd in (0, 1):
            step = pos[:, 1:] - pos[:, :-1]
            length = step.norm(dim=-1, keepdim=True).clamp_min(1e-3)
            mend = 0.5 * (1 - steps / length) * step * joined
            mend[:, 1 - odd :: 2] = 0
            pos = pos + torch.nn.functional.pad(mend, (0, 0, 0, 1)) - torch.nn.functional.pad(mend, (0, 0, 1, 0))
    return pos


def ragged(n: int, squeezed: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three tangled chains of n, n - 1 and a third of n residues about their centre, and their mask."""
    mask = torch.arange(n) < torch.tensor([[n], [n - 1], [max(n // 3, 4)]])
    return squeezed * tangle(n, 3, seed) * mask[..., None], mask


@pytest.mark.parametrize("n", [5, 60, 171])
@pytest.mark.parametrize("squeezed", [0.0, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("listed", [True, False])
def test_every_overlap_is_found(n: int, squeezed: float, listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains crowded up to a point, so that most residues move far from where the list was made."""
    monkeypatch.setattr(repulsion, "at_hand", lambda pos: listed)
    pos, mask = ragged(n, squeezed)
    assert (untangle(pos, mask) - untangled_by_all_pairs(pos, mask)).abs().max() < 1e-11
    single = pos.float()
    assert (untangle(single, mask) - untangled_by_all_pairs(single, mask)).abs().max() < 1e-6


def test_two_residues_that_were_too_far_apart_to_be_listed_meet_head_on() -> None:
    """Each moves by a little more than half of what the list reaches beyond an overlap, towards the other."""
    pos = torch.arange(8).double()[None, :, None] * torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    pos[0, 5] = pos[0, 1] + torch.tensor([0.0, 0.39 + 1.1 * SKIN, 0.0])
    met = pos.clone()
    met[0, 5, 1] -= 0.6 * SKIN
    met[0, 1, 1] += 0.6 * SKIN
    place = torch.arange(8)
    pairs = ((place[:, None] - place).abs() > 2)[None]
    push = Listed(pairs, 0.39)
    assert not push(pos).any()
    assert torch.allclose(push(met), Every(pairs, 0.39)(met), atol=1e-15) and push(met).any()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_real_chains_with_noise_are_untangled_as_by_all_pairs(data_root: Path, noise: float) -> None:
    chains = [torch.from_numpy(e.ca.copy()) / 10 for e in Backbones(40, 96).load("test", data_root).artifacts[:12]]
    mask = torch.arange(96) < torch.tensor([[len(c)] for c in chains])
    pos = torch.stack([torch.cat([c - c.mean(0), c.new_zeros(96 - len(c), 3)]) for c in chains])
    pos = pos + noise * Noise.of(0, len(pos)).normal(pos.shape, torch.float64) * mask[..., None]
    wanted = untangled_by_all_pairs(pos, mask)
    assert (wanted - pos).abs().max() > 0 or not noise
    assert (untangle(pos, mask) - wanted).abs().max() < 1e-11
    assert (untangle(pos.float(), mask) - untangled_by_all_pairs(pos.float(), mask)).abs().max() < 1e-6


def test_a_chain_alone_is_the_chain_among_others_to_the_bit() -> None:
    """Another chain's list may be made again when this one's need not."""
    pos, mask = ragged(80, 0.5)
    pos, mask = torch.cat([pos, tangle(80)[:2]]).float(), torch.cat([mask, torch.ones(2, 80, dtype=torch.bool)])
    together = untangle(pos, mask)
    for row in range(len(pos)):
        assert torch.equal(untangle(pos[row : row + 1], mask[row : row + 1])[0], together[row])


@pytest.mark.parametrize("listed", [True, False])
def test_gradients_are_those_of_all_pairs(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repulsion, "at_hand", lambda pos: listed)
    pos, mask = ragged(40, 0.6)
    weights = Noise.of(3, 3).normal(pos.shape, torch.float64)
    found = []
    for way in (untangle, untangled_by_all_pairs):
        leaf = pos.clone().requires_grad_()
        found.append(torch.autograd.grad((way(leaf, mask) * weights).sum(), leaf)[0])
    assert found[1][mask].abs().max() > 0.1
    assert (found[0] - found[1])[mask].abs().max() < 1e-9


def test_what_is_given_is_not_changed_and_nothing_hides_what_is_no_number() -> None:
    pos, mask = ragged(30, 0.5)
    before = pos.clone()
    untangle(pos, mask)
    assert torch.equal(pos, before)
    pos[1, 7] = torch.nan
    assert not untangle(pos, mask)[1, :29].isfinite().any()
    assert untangle(pos, mask)[[0, 2]].isfinite().all()

"""Frames: back and forth, proper, and in agreement with Biopython's geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gendiff.random import Noise
from gendiff.spaces import uniform
from gendiff_proteins import ideal
from gendiff_proteins.frames import (
    backbone_from_frames,
    dihedral,
    frames_from_backbone,
    ideal_atoms,
    place,
    place_oxygen,
)
from gendiff_proteins.geometry import geometry_loss
from gendiff_proteins.structure import Structure
from gendiff_proteins.superpose import kabsch, rmsd, tm_align, tm_score


def chain(size: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(ideal.chains(2, size, size, seed)[0])


def random_frames(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    noise = Noise.of(0, 1)
    return 10 * noise.normal((1, count, 3), torch.float64)[0], uniform((1, count), noise, torch.float64)[0]


def test_frames_return_from_their_ideal_atoms() -> None:
    pos, rot = random_frames()
    again, turned = frames_from_backbone(backbone_from_frames(pos, rot))
    assert torch.equal(again, pos)
    assert (turned - rot).abs().max() < 1e-12


def test_frames_are_proper_and_move_with_the_backbone() -> None:
    backbone = chain()
    _, rot = frames_from_backbone(backbone)
    assert (torch.linalg.det(rot) - 1).abs().max() < 1e-12
    assert (rot.mT @ rot - torch.eye(3)).abs().max() < 1e-12
    turn = random_frames(1)[1][0]
    moved_pos, moved_rot = frames_from_backbone(backbone @ turn.T + 3.0)
    assert (moved_rot - turn @ rot).abs().max() < 1e-12
    assert (moved_pos - (backbone[:, 1] @ turn.T + 3.0)).abs().max() < 1e-12


def test_a_mirror_image_has_proper_frames_that_are_not_the_mirrored_ones() -> None:
    backbone, mirror = chain(), torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    _, rot = frames_from_backbone(backbone)
    _, other = frames_from_backbone(backbone @ mirror)
    assert (torch.linalg.det(other) - 1).abs().max() < 1e-12
    assert (other - mirror @ rot @ mirror).abs().max() > 0.5


def test_ideal_chains_lose_nothing_and_real_ones_a_tenth_of_an_angstrom(data_root) -> None:
    backbone = chain()
    error = (backbone_from_frames(*frames_from_backbone(backbone)) - backbone).norm(dim=-1)
    assert error[:, :3].max() < 1e-6
    assert error[:-1, 3].max() < 1e-6
    with np.load(data_root / "proteins" / "backbones.npz") as data:
        offset, atoms = data["offset"], torch.from_numpy(data["bb"].astype(np.float64))
    errors = [
        (backbone_from_frames(*frames_from_backbone(b)) - b)
        for b in (atoms[offset[i] : offset[i + 1]] for i in range(0, len(offset) - 1, 40))
    ]
    assert torch.cat(errors).square().sum(-1).mean().sqrt() < 0.1


def test_dihedral_and_angles_agree_with_biopython() -> None:
    from Bio.PDB.vectors import Vector, calc_angle, calc_dihedral

    points = Noise.of(1, 1).normal((1, 20, 4, 3), torch.float64)[0]
    found = dihedral(*points.unbind(1))
    for four, angle in zip(points.numpy(), found.tolist(), strict=True):
        assert angle == pytest.approx(calc_dihedral(*(Vector(p) for p in four)), abs=1e-9)
    torsion = torch.linspace(-3, 3, 20, dtype=torch.float64)
    d = place(points[:, 0], points[:, 1], points[:, 2], 1.5, 1.9, torsion)
    assert (dihedral(points[:, 0], points[:, 1], points[:, 2], d) - torsion).abs().max() < 1e-9
    for k in range(3):
        b, c, e = (Vector(v[k].tolist()) for v in (points[:, 1], points[:, 2], d))
        assert calc_angle(b, c, e) == pytest.approx(1.9, abs=1e-9)
    assert ((d - points[:, 2]).norm(dim=-1) - 1.5).abs().max() < 1e-12


def test_oxygen_lies_in_the_peptide_plane_and_trans_to_the_next_alpha_carbon() -> None:
    n, ca, c = chain()[:, :3].unbind(1)
    o = place_oxygen(n, ca, c)
    assert ((o - c).norm(dim=-1) - 1.231).abs().max() < 1e-9
    plane = torch.linalg.cross(ca[:-1] - c[:-1], n[1:] - c[:-1])
    assert ((o - c)[:-1] * plane).sum(-1).abs().max() < 1e-9
    torsion = dihedral(o[:-1], c[:-1], n[1:], ca[1:]).abs()
    assert torsion.max() < math.radians(15)  # omega is 180 +- 3


def test_ideal_atoms_have_the_ideal_angle() -> None:
    n, c = ideal_atoms(torch.zeros(1, dtype=torch.float64))
    assert math.degrees(math.acos(float(n @ c / n.norm() / c.norm()))) == pytest.approx(111.0)


def test_kabsch_recovers_a_motion_and_refuses_a_mirror() -> None:
    x = chain()[:, 1]
    turn = random_frames(1)[1][0]
    rotation, shift = kabsch(x, x @ turn.T + torch.tensor([1.0, 2, 3]))
    assert (rotation - turn).abs().max() < 1e-10
    assert (shift - torch.tensor([1.0, 2, 3])).abs().max() < 1e-9
    assert rmsd(x, x @ turn.T) < 1e-5
    mirrored = x * torch.tensor([-1.0, 1, 1])
    assert float(torch.linalg.det(kabsch(x, mirrored)[0])) == pytest.approx(1.0)
    assert rmsd(x, mirrored) > 2.0


def test_kabsch_agrees_with_biopython_under_a_mask() -> None:
    from Bio.PDB.qcprot import QCPSuperimposer

    x, y = chain(seed=0)[:, 1], chain(seed=1)[:, 1]
    mask = torch.arange(40) < 30
    judge = QCPSuperimposer()
    judge.set(y[:30].numpy(), x[:30].numpy())
    judge.run()
    assert float(rmsd(x, y, mask)) == pytest.approx(judge.get_rms(), abs=1e-6)


def test_tm_score_agrees_with_tmtools_and_has_a_gradient() -> None:
    x = chain(48)[:, 1]
    noise = Noise.of(3, 1).normal((1, 48, 3), torch.float64)[0]
    for size in (0.3, 0.8, 1.5):
        y = (x + size * noise).requires_grad_()
        mine = tm_score(y, x)
        theirs = tm_align(*(Structure(np.repeat(v.detach().numpy()[:, None], 4, 1)) for v in (y, x)))
        assert mine.item() == pytest.approx(theirs, abs=0.02)
        mine.backward()
        assert y.grad is not None and torch.isfinite(y.grad).all() and y.grad.abs().max() > 0
    assert float(tm_score(x, x)) == pytest.approx(1.0)
    assert float(tm_score(x * torch.tensor([-1.0, 1, 1]), x)) < 0.6


def test_the_geometry_loss_is_invariant_zero_at_the_truth_and_blind_to_padding() -> None:
    pos, rot = frames_from_backbone(torch.stack([chain(seed=0), chain(seed=1)]))
    x0 = {"pos": 0.1 * pos, "rot": rot}
    mask = torch.ones(2, 40, dtype=torch.bool)
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert geometry_loss(x0, x0, t, mask).max() < 1e-12
    noise = Noise.of(0, 2)
    guess = {"pos": x0["pos"] + 0.05 * noise.normal((2, 40, 3), torch.float64), "rot": rot}
    loss = geometry_loss(guess, x0, t, mask)
    turn = random_frames(1)[1][0]
    moved = {"pos": guess["pos"] @ turn.T + 1.0, "rot": turn @ guess["rot"]}
    assert (geometry_loss(moved, x0, t, mask) / loss - 1).abs().max() < 1e-9
    mask[1, 30:] = False
    short = {k: v[1:, :30] for k, v in guess.items()}, {k: v[1:, :30] for k, v in x0.items()}
    alone = geometry_loss(*short, t[1:], mask[1:, :30])
    assert float(geometry_loss(guess, x0, t, mask)[1]) == pytest.approx(float(alone[0]), rel=1e-9)

"""Poses as rigid bodies with torsions, and the score and the search on them."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import numpy as np
import pytest
import torch

from gendiff.errors import RequestError
from gendiff.spaces import exp_so3

pytest.importorskip("rdkit")
from gendiff_molecules import Molecule, Pocket, read
from gendiff_molecules.docking import Docking, Scoring, ligand_types, pocket_types, terms
from gendiff_molecules.torsions import Kinematics, rotatable


@pytest.fixture(scope="module")
def ligand(tmp_path_factory: pytest.TempPathFactory) -> Molecule:
    path = tmp_path_factory.mktemp("ligand") / "one.smi"
    path.write_text("CC(=O)NCc1ccc(OCC[C@H](N)CO)cc1\n")
    return read(path, coordinates="make")[0]


@pytest.fixture(scope="module")
def pocket(ligand: Molecule) -> Pocket:
    rng = np.random.default_rng(0)
    way = rng.normal(size=(120, 3))
    place = 9.0 * way / np.linalg.norm(way, axis=-1, keepdims=True) + rng.normal(size=(120, 3))
    names = tuple(("CB", "O", "N", "CG")[k % 4] for k in range(120))
    z = np.array([{"C": 6, "O": 8, "N": 7}[name[0]] for name in names])
    numbers = tuple(str(k // 4) for k in range(120))
    return Pocket(z, place, names, ("LEU",) * 120, ("A",) * 120, numbers, np.zeros(3))


def pose_of(moving: Kinematics, seed: int, n: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    spin = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    at = 5 * torch.randn(n, 3, generator=draw, dtype=torch.float64)
    return at, exp_so3(spin), 2 * torch.randn(n, len(moving), generator=draw, dtype=torch.float64)


def test_bonds_that_turn_are_those_a_chemist_would_turn(ligand: Molecule) -> None:
    turning = {frozenset(bond) for bond in rotatable(ligand)}
    z, order = ligand.elements, ligand.orders
    assert len(turning) == 7  # not the amide, not the ring, not methyl or what bears hydrogen alone
    for i, j in turning:
        assert order[i, j] == 1 and min(z[i], z[j]) > 1
    amide = next((i, j) for i, j, kind in ligand.bonds.tolist() if kind == 1 and {z[i], z[j]} == {6, 7}
                 and any(order[c, o] == 2 and z[o] == 8 for c in (i, j) for o in range(len(ligand))))  # fmt: skip
    assert frozenset(amide) not in turning


def test_a_pose_keeps_lengths_angles_and_hands_and_is_read_back(ligand: Molecule) -> None:
    moving = Kinematics(ligand)
    pose = pose_of(moving, 0)
    x = moving.positions(*pose)[0].numpy()
    moved = ligand.moved(x)
    i, j = ligand.bonds[:, :2].T
    for a, b in ((i, j),):
        before, after = (np.linalg.norm(own.positions[a] - own.positions[b], axis=-1) for own in (ligand, moved))
        np.testing.assert_allclose(before, after, atol=1e-9)
    assert moved.labels() == ligand.labels()
    np.testing.assert_allclose(x[moving.root].mean(0), pose[0][0].numpy(), atol=1e-9)
    c, turn, torsions = moving.pose(x)
    np.testing.assert_allclose(
        moving.positions(torch.zeros_like(c), turn, torsions)[0].numpy().std(0), x.std(0), atol=1e-6
    )
    back = moving.positions(torch.zeros_like(c), torch.eye(3, dtype=torch.float64)[None], torsions)[0].numpy()
    rotated = back @ turn[0].numpy().T + c[0].numpy()
    np.testing.assert_allclose(rotated, x, atol=1e-6)
    wrapped = (torsions - pose[2] + np.pi).remainder(2 * np.pi) - np.pi
    assert float(wrapped.abs().max()) < 1e-6


def test_no_torsion_moves_the_root_and_all_change_by_finite_differences(ligand: Molecule) -> None:
    moving = Kinematics(ligand)
    at, turn, torsions = pose_of(moving, 1)
    torsions.requires_grad_(True)
    weight = torch.randn(len(ligand), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def value(tau: torch.Tensor) -> torch.Tensor:
        return (moving.positions(at, turn, tau)[0] * weight).sum()

    (slope,) = torch.autograd.grad(value(torsions), torsions)
    for k in range(len(moving)):
        step = torch.zeros_like(torsions)
        step[0, k] = 1e-5
        with torch.no_grad():
            near = (value(torsions + step) - value(torsions - step)) / 2e-5
        assert float(near) == pytest.approx(float(slope[0, k]), abs=1e-6)
        mask = moving.axes[k][2]
        assert not mask[moving.root].any() and mask.any()
    batch = pose_of(moving, 3, 4)
    together = moving.positions(*batch)
    for k in range(4):
        torch.testing.assert_close(moving.positions(*(part[k : k + 1] for part in batch))[0], together[k])


def test_two_pieces_and_implied_hydrogens_are_refused(ligand: Molecule, pocket: Pocket) -> None:
    apart = Molecule(np.array([6, 6]), np.array([[0.0, 0, 0], [9, 0, 0]]))
    with pytest.raises(RequestError, match="2 pieces"):
        Kinematics(apart)
    with pytest.raises(RequestError, match="leaves hydrogens out"):
        Docking()(Molecule(np.array([6]), np.zeros((1, 3)), implied=True), pocket)
    with pytest.raises(RequestError, match="n=0"):
        Docking()(ligand, pocket, 0)


def test_the_score_is_vina_s_at_a_distance(ligand: Molecule) -> None:
    water = Molecule(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
                     np.array([[0, 1, 1], [0, 2, 1]]))  # fmt: skip
    _, own = ligand_types(water)
    other = pocket_types(Pocket([8], [[0.0, 0, 0]], ("O",), ("LEU",), ("A",), ("1",), np.zeros(3)))
    for r in (2.6, 2.9, 3.4, 5.0, 7.9):
        d = r - 3.4
        expected = -0.035579 * np.exp(-((d / 0.5) ** 2)) - 0.005156 * np.exp(-(((d - 3) / 2) ** 2))
        expected += 0.840245 * min(d, 0) ** 2 - 0.587439 * min(max(-d / 0.7, 0), 1)
        assert float(terms(torch.tensor([[r]]), own, other)) == pytest.approx(expected, abs=1e-6)
    assert float(terms(torch.tensor([[8.1]]), own, other)) == 0
    ethane = ligand_types(Molecule(np.array([6]), np.zeros((1, 3))))[1]
    carbon = pocket_types(Pocket([6], [[0.0, 0, 0]], ("CB",), ("LEU",), ("A",), ("1",), np.zeros(3)))
    near = -0.035579 * np.exp(-(((2.9 - 3.6) / 0.5) ** 2)) - 0.005156 * np.exp(-(((2.9 - 3.6 - 3) / 2) ** 2))
    assert float(terms(torch.tensor([[2.9]]), ethane, other)) == pytest.approx(near + 0.840245 * 0.7**2, abs=1e-6)
    plain = -0.035579 * np.exp(-((0.4 / 0.5) ** 2)) - 0.005156 * np.exp(-((2.6 / 2) ** 2))
    assert float(terms(torch.tensor([[4.2]]), ethane, carbon)) == pytest.approx(plain - 0.035069, abs=1e-6)


def test_the_search_finds_low_poses_of_the_same_molecule(ligand: Molecule, pocket: Pocket) -> None:
    search = Docking(starts=12, rounds=2, steps=25)
    found = search(ligand, pocket, 3, seed=0)
    scores = [one.score for one in found]
    assert scores == sorted(scores) and scores[0] < -1.0 and len(found) <= 3
    for one in found:
        assert one.molecule.smiles() == ligand.smiles() and one.molecule.labels() == ligand.labels()
        assert pocket.overlap(one.molecule) < 0.8
    again = search(ligand, pocket, 3, seed=0)
    np.testing.assert_allclose(again[0].molecule.positions, found[0].molecule.positions)
    assert search(ligand, pocket, 1, seed=1)[0].score != scores[0]


def test_a_turned_pocket_gives_turned_scores(ligand: Molecule, pocket: Pocket) -> None:
    moving = Kinematics(ligand)
    at, turn, torsions = pose_of(moving, 4)
    spin = exp_so3(torch.tensor([0.3, -0.9, 0.5], dtype=torch.float64))
    turned = pocket.moved(spin.numpy(), np.zeros(3))
    first, second = Scoring(moving, pocket), Scoring(moving, turned)
    x = moving.positions(at / 3, turn, torsions)[:, first.heavy]
    y = moving.positions(at / 3 @ spin.T, spin @ turn, torsions)[:, first.heavy]
    assert float(first.between(x)) == pytest.approx(float(second.between(y)), abs=1e-5)
    assert float(first.inside(x)) == pytest.approx(float(second.inside(y)), abs=1e-8)

"""Metrics: against Biopython and the data's own fields, and every signed one must flip in the mirror."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from gendiff_proteins import Ideal, Structure, StructureError, bonding, metrics, rank, write_ranking
from gendiff_proteins.ideal import HELIX, STRAND, build
from gendiff_proteins.superpose import diversity

Real = tuple[list[Structure], np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def real(data_root) -> Real:
    with np.load(data_root / "proteins" / "backbones.npz") as data:
        offset, atoms = data["offset"], data["bb"]
        chosen = np.arange(0, len(offset) - 1, 16)
        chains = [Structure(atoms[offset[i] : offset[i + 1]]) for i in chosen]
        return chains, data["helix"][chosen], data["strand"][chosen]


def turned(torsions: tuple[float, float], size: int = 24) -> Structure:
    return Structure(build(np.tile(np.array(torsions), (1, size, 1)))[0])


def test_an_ideal_helix_and_strand_are_what_they_are() -> None:
    helix, strand = turned(HELIX), turned(STRAND)
    assert metrics.content([helix])[0] > 0.8 and metrics.content([strand])[1] > 0.8
    assert metrics.handedness([helix]) == (1.0, 0.0)
    assert metrics.negative_phi([helix, strand]) == 1.0
    assert metrics.step_share([helix, strand]) == 1.0
    assert metrics.bond_deviation([helix]) < 1e-6
    assert metrics.clash_share([helix, strand]) == 0.0


def test_a_mirrored_helix_is_no_helix() -> None:
    mirror = turned(HELIX).mirrored()
    assert metrics.handedness([mirror]) == (0.0, 1.0)
    assert metrics.content([mirror])[0] == 0.0
    assert metrics.negative_phi([mirror]) == 0.0


def test_real_chains_have_the_known_values_and_flip_in_the_mirror(real: Real) -> None:
    chains = real[0]
    mirrors = [s.mirrored() for s in chains]
    right, left = metrics.handedness(chains)
    assert 0.2 < right < 0.45 and left < 0.04 and right > 5 * left
    assert metrics.handedness(mirrors) == pytest.approx((left, right))
    assert metrics.negative_phi(chains) > 0.9 > 0.1 > metrics.negative_phi(mirrors)
    assert metrics.step_share(chains) == metrics.step_share(mirrors) > 0.97  # blind to it, as they must be
    assert metrics.clash_share(chains) < 0.005
    assert 0.95 < metrics.radius_ratio(chains) < 1.2
    assert metrics.bond_deviation(chains) < 0.03
    assert metrics.ramachandran_divergence(mirrors, chains) > 0.5
    assert metrics.ramachandran_divergence(chains, chains) == pytest.approx(0)
    assert metrics.ramachandran_divergence(chains[::2], chains[1::2]) < 0.05


def test_secondary_structure_agrees_with_the_fields_of_the_data(real: Real) -> None:
    chains, helix, strand = real
    mine = np.array([metrics.content([s]) for s in chains])
    assert np.corrcoef(mine[:, 0], helix)[0, 1] > 0.99
    assert np.corrcoef(mine[:, 1], strand)[0, 1] > 0.95
    assert abs(mine[:, 0].mean() - helix.mean()) < 0.03 and abs(mine[:, 1].mean() - strand.mean()) < 0.03


def test_torsions_agree_with_biopython() -> None:
    from Bio.PDB.vectors import Vector, calc_dihedral

    structure = Ideal(2, 32, 32).load("train")[0].artifact
    phi, psi = metrics.torsions(structure)
    n, ca, c, _ = structure.backbone.swapaxes(0, 1)
    for i in range(1, 31):
        assert phi[i] == pytest.approx(
            math.degrees(calc_dihedral(*map(Vector, (c[i - 1], n[i], ca[i], c[i])))), abs=1e-6
        )
        assert psi[i] == pytest.approx(
            math.degrees(calc_dihedral(*map(Vector, (n[i], ca[i], c[i], n[i + 1])))), abs=1e-6
        )
    assert np.isnan(phi[0]) and np.isnan(psi[-1])


def test_ideal_torsions_come_back_from_the_atoms() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.uniform(-170, 170, (4, 20, 2))
    for backbone, angles in zip(build(wanted), wanted, strict=True):
        structure = Structure(backbone)
        phi, psi = metrics.torsions(structure)
        assert np.abs(phi[1:] - angles[1:, 0]).max() < 1e-6
        assert np.abs(psi[:-1] - angles[:-1, 1]).max() < 1e-6
        assert np.abs(np.abs(metrics.bonds([structure])["omega"]) - 180).max() < 1e-6


def test_bonds_agree_with_biopython_angles() -> None:
    from Bio.PDB.vectors import Vector, calc_angle

    structure = Ideal(2, 32, 32).load("train")[1].artifact
    found = metrics.bonds([structure])
    assert found["CA-C-N"] == pytest.approx(117.2) and found["C-N-CA"] == pytest.approx(121.7)
    assert found["C-N"] == pytest.approx(1.329)
    _, ca, c, _ = structure.backbone[3]
    assert found["CA-C-N"][3] == pytest.approx(
        math.degrees(calc_angle(*map(Vector, (ca, c, structure.backbone[4, 0]))))
    )


def test_nothing_is_measured_across_a_break() -> None:
    helix = turned(HELIX)
    moved = helix.backbone.copy()
    moved[12:] += 30.0
    broken = Structure(moved)
    assert broken.breaks == (11,)
    assert len(metrics.steps([broken])) == 22 and metrics.step_share([broken]) == 1.0
    assert np.isnan(metrics.torsions(broken)[0][12]) and np.isnan(metrics.ca_torsions(broken)[10:12]).all()


def test_clashes_are_counted_by_residue() -> None:
    strand = turned(STRAND)
    backbone = strand.backbone.copy()
    backbone[20:] += strand.ca[5] - strand.ca[22] + 0.5
    assert metrics.clashing(Structure(backbone))[[5, 22]].all()
    assert metrics.clash_share([Structure(backbone)]) > 0.05


def test_divergence_and_distances_are_zero_on_equals_and_bounded() -> None:
    assert metrics.divergence(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1.0)
    assert metrics.divergence(np.array([1.0, 3]), np.array([2.0, 6])) == pytest.approx(0.0)
    helix, strand = turned(HELIX), turned(STRAND)
    assert metrics.turn_distance([helix], [helix]) == 0.0
    assert metrics.turn_distance([helix], [strand]) == pytest.approx(abs(-163.0 - 50 + 360), abs=25)
    assert metrics.radius_distance([helix], [strand]) > 0.5


def test_diversity_is_one_for_copies_and_low_for_different_folds() -> None:
    chains = list(Ideal(24, 40, 48).load("train").artifacts)
    assert diversity(chains[:1] * 3) == pytest.approx(1.0, abs=1e-3)
    assert diversity(chains) < 0.6


def test_every_metric_is_a_number_on_samples_of_any_kind() -> None:
    chains = Ideal(8, 32, 40).load("train").artifacts
    for measure in metrics.MEASURES:
        assert math.isfinite(measure(chains[:4], chains[4:])), measure.name


def test_hydrogen_bond_letters_equal_mkdssp(data_root) -> None:
    """Letters that mkdssp 4.2.2 gave for these chains, written as PDB; turns, bends and blanks are C."""
    with np.load(data_root / "proteins" / "backbones.npz") as data:
        place = {f"{i}_{c}": k for k, (i, c) in enumerate(zip(data["id"], data["chain"], strict=True))}
        for name, letters in DSSP.items():
            span = slice(data["offset"][place[name]], data["offset"][place[name] + 1])
            chain = Structure(data["bb"][span], data["aa"][span].tobytes().decode())
            assert bonding.secondary_structure(chain) == letters, name


def test_hydrogen_bonds_of_an_ideal_helix_and_their_energy_by_hand() -> None:
    helix = turned(HELIX)
    bonds = bonding.hydrogen_bonds(helix)
    assert np.diagonal(bonds, -4).all() and bonding.secondary_structure(helix) == "C" + "H" * 22 + "C"
    d, a = 12, 8
    n, o, c = helix.backbone[d, 0], helix.backbone[a, 3], helix.backbone[a, 2]
    back = helix.backbone[d - 1, 2] - helix.backbone[d - 1, 3]
    h = n + back / math.sqrt((back**2).sum())
    terms = [math.dist(o, n), math.dist(c, h), math.dist(o, h), math.dist(c, n)]
    by_hand = 332 * 0.42 * 0.20 * (1 / terms[0] + 1 / terms[1] - 1 / terms[2] - 1 / terms[3])
    assert bonding.energies(helix)[d, a] == pytest.approx(by_hand, abs=6e-4) and by_hand < -1.5
    proline = Structure(helix.backbone, "A" * 12 + "P" + "A" * 11)
    assert not bonding.hydrogen_bonds(proline)[12].any() and bonding.hydrogen_bonds(proline)[:, 12].any()
    assert metrics.hbond_strand([turned(STRAND)]) == 0.0 and metrics.strand([turned(STRAND)]) > 0.8  # nobody to pair


def test_hydrogen_bonds_do_not_cross_a_break() -> None:
    helix = turned(HELIX)
    two = Structure(helix.backbone, chains=("A",) * 12 + ("B",) * 12)
    assert bonding.secondary_structure(two) == "C" + "H" * 10 + "CC" + "H" * 10 + "C"


def test_angles_omega_and_bonds_see_what_is_bent() -> None:
    helix = turned(HELIX)
    for name, (bias, sd) in metrics.angle_deviations([helix]).items():
        assert abs(bias) < 1e-6 and sd < 1e-6, name
    assert metrics.omega_deviation([helix]) < 1e-6 and metrics.cis_share([helix]) == 0.0
    rng = np.random.default_rng(0)
    shaken = Structure(helix.backbone + 0.1 * rng.standard_normal(helix.backbone.shape))
    assert 4 < metrics.carbonyl_angle_sd([shaken]) < 9 and metrics.bond_share([shaken]) < 0.8
    omega = np.full((1, 24), 180.0)
    omega[0, 10], omega[0, 15] = 0.0, 160.0
    bent = Structure(build(np.tile(np.array(HELIX), (1, 24, 1)), omega)[0])
    assert metrics.cis_share([bent]) == pytest.approx(1 / 23)
    assert metrics.omega_deviation([bent]) == pytest.approx(20 / math.sqrt(23))


def test_atom_clashes_see_what_ca_cannot() -> None:
    strand = turned(STRAND)
    assert metrics.atom_clash_rate([strand]) == 0.0
    other = strand.backbone + (strand.backbone[5, 3] - strand.backbone[12, 0] + np.array([0.0, 0.0, 2.0]))
    both = Structure(np.concatenate([strand.backbone, other]), chains=("A",) * 24 + ("B",) * 24)
    found = np.linalg.norm(both.backbone[:24].reshape(-1, 1, 3) - both.backbone[24:].reshape(1, -1, 3), axis=-1)
    assert metrics.atom_clashes(both) == (found < 2.5).sum() > 0


def test_real_chains_have_sound_peptides(real: Real) -> None:
    chains = real[0]
    assert metrics.bond_share(chains) > 0.99 and metrics.atom_clash_rate(chains) < 0.006
    assert metrics.carbonyl_angle_sd(chains) < 2.5 and metrics.amide_angle_sd(chains) < 3
    assert metrics.omega_deviation(chains) < 10 and metrics.cis_share(chains) < 0.01
    mirrors = [s.mirrored() for s in chains]
    for measure in (metrics.atom_clash_rate, metrics.carbonyl_angle_sd, metrics.omega_deviation):
        assert measure(mirrors) == pytest.approx(measure(chains))  # blind to it, as they must be


def test_ranking_puts_the_broken_and_the_left_handed_last(tmp_path) -> None:
    helix = turned(HELIX)
    moved = helix.backbone.copy()
    moved[12:] += 1.0
    left = Structure(helix.mirrored().backbone)  # the mirror image, said to be of L residues
    chains = [Structure(moved, name="broken"), left, Structure(helix.backbone, name="whole")]
    rows = write_ranking(chains, tmp_path / "rank.csv")
    assert [row["index"] for row in rows] == [2, 0, 1] and [row["rank"] for row in rows] == [1, 2, 3]
    assert rows == rank(chains) and rows[0]["name"] == "whole" and rows[0]["faults"] == 0
    with (tmp_path / "rank.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["name"] for row in found] == ["whole", "broken", ""] and float(found[0]["hbond_helix"]) == 22 / 24
    write_ranking(chains, tmp_path / "rank.json")
    assert len(json.loads((tmp_path / "rank.json").read_text())) == 3
    with pytest.raises(StructureError, match="csv or"):
        write_ranking(chains, tmp_path / "rank.xls")


DSSP = {
    "1PXV_C_C_C": (
        "CCCCEEEEEEEECCGGGCCHHHHHHHHCCCEEEEECCCCEEEEEEECCCCCCCEEEEEEEECCCCEEEEEECCEEEEEEEEEEEECCEEEEEEEECCCCC"
        "BCCCEEEEECC"
    ),
    "1SGP_I_I": ("CCCCCCCCCCCCCCCCCEEECCCCEECCHHHHHHHHHHCCCCCCEEEECCC"),
    "4MNQ_D_D": (
        "CCCEECCCCCEECCCCCEEEEEECCCEEEEEEEEECCCCCEEEEEEECCCCCEEECCCEEEEEECCCEEEEEECCCCGGGCEEEEEEEEECCCCCCCCEE"
        "CCCEEECEECCCCCCCCEEEEEECCCCCCCEEEEEECCCCCCCCCCCCCCCEEECCCEEEEECCCCEEEEEEEEEECCCCCCCCCCCCCCCCCCCCBCCC"
    ),
    "1BD2_E_E": (
        "CEEEECCEEEEECCCCEEEEEEECCCCCEEEEEEECCCCCEEEEEEEEECCEEEECCCCCCEEECCCCCCBCCEEECCCCGGGCEEEEEEEEEGGGCEEE"
        "EEECCCEEEEEECCGGGCBCCEEEEECCCHHHHHHHCEEEEEEEEEEEBCCCEEEEEEECCEEECCCEEECCCCEECCCCCCCCCEEEEEEEEEEHHHHC"
        "CCCCEEEEEEEECCBCCCCCCCCCCCCCBCEEEEEEEECCCC"
    ),
    "1q94_AC_A_A": (
        "CCEEEEEEEEEECCCCCCCCEEEEEEEECCEEEEEEECCCCCCCCEECCHHHHCCCHHHHHHHHHHHHHHHHHHHHHHHHHHHHCCCCCCCCCEEEEEEE"
        "EEECCCCCEEEEEEEEEECCEEEEEECCCCCCEEECCHHHHHHHHHHHHCCHHHHHHHIIIIIHHHHHHHHHHHCHHHHCC"
    ),
    "1KLU_r_u_B_B": (
        "CCCCCCCEEEEEEEEEECCCCEEEEEEEEEECCEEEEEEECCCCCEEECCCCCHHHHHHHCCCHHHHHHHHHHIIIIIIHHHHCCGGGCCCCCCCCBCCE"
        "EEECCCCCCCCEEEEEEEEEECCCCCEEEEEECCCBCCCCEEECCCEECCCCCEEEEEEEEECCCCCCEEEEEEECCCCCCCEEEEEEC"
    ),
    "1FC2_r_u_A_A": ("CCCCCCCCCHHHHHHHHCCCCCCCHHHHHHHHHHHHHCCCCHHHHHHHHHHHHHHHCCCC"),
}

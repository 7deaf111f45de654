"""Molecules: what a constructor refuses, valences and radicals, hands and mirror images, and RDKit and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="needs rdkit: pip install 'gendiff[molecules]'")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gendiff_molecules import Molecule, MoleculeError

SMILES = {
    "alanine": "C[C@H](N)C(=O)O",
    "zwitterion": "C[C@H]([NH3+])C(=O)[O-]",
    "pyrrole": "c1cc[nH]c1",
    "nitrobenzene": "O=[N+]([O-])c1ccccc1",
    "sulfone": "CS(=O)(=O)C",
    "phosphate": "COP(=O)(O)O",
    "alkene": "C/C=C/Cl",
    "nitrile": "CC#N",
    "two centres": "C[C@H](O)[C@@H](F)Cl",
    "salt": "[Na+].CC(=O)[O-]",
}


def made(smiles: str, seed: int = 1, name: str = "made") -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return Molecule.from_rdkit(mol, name=name)


def molecule(*told: Any, **more: Any) -> Molecule:
    """A molecule of lists."""
    return Molecule(*told, **more)


WATER = molecule([1, 8, 1], [[0.76, 0.6, 0], [0, 0, 0], [-0.76, 0.6, 0]], [[0, 1, 1], [2, 1, 1]], name="water")


@pytest.mark.parametrize("smiles", SMILES.values(), ids=SMILES)
def test_rdkit_and_back_is_exact(smiles: str) -> None:
    one = made(smiles)
    other = Molecule.from_rdkit(one.to_rdkit())
    assert (other.elements == one.elements).all() and (other.charges == one.charges).all()
    assert (other.bonds == one.bonds).all() and (other.positions == one.positions).all()
    assert other.name == one.name and not other.implied
    assert one.smiles() == Chem.CanonSmiles(smiles)
    assert not one.faults() and not one.radicals()


def test_importing_the_package_imports_no_rdkit() -> None:
    code = "import sys, gendiff, gendiff_molecules; sys.exit('rdkit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_valences_are_those_of_integers_and_never_lax() -> None:
    assert WATER.sound and WATER.valences.tolist() == [1, 2, 1] and WATER.formula == "H2O"
    chain = molecule([1, 8, 1], np.eye(3), [[0, 1, 1], [0, 2, 1]])  # H:O with two bonds on a hydrogen
    assert not chain.sound
    assert chain.faults() == (
        "atom 1 (H), charge +0, has valence 2; 1 is allowed",
        "atom 2 (O), charge +0, has valence 1; 2 is allowed",
    )
    charged = molecule([8, 1, 1, 1], np.eye(4, 3), [[0, 1, 1], [0, 2, 1], [0, 3, 1]], [1, 0, 0, 0])
    assert charged.sound and charged.formula == "H3O+" and charged.charge == 1
    assert "no valence is known" in molecule([26], [[0.0, 0, 0]]).faults()[0]


def test_an_atom_that_lacks_a_bond_is_a_radical_to_rdkit_and_is_not_sound() -> None:
    hydroxyl = molecule([8, 1], np.eye(2, 3), [[0, 1, 1]])
    assert hydroxyl.radicals() == (0,) and not hydroxyl.sound
    assert hydroxyl.to_rdkit().GetAtomWithIdx(0).GetNumRadicalElectrons() == 1
    assert molecule([8], [[0.0, 0, 0]], implied=True).radicals() == ()


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (([], np.zeros((0, 3))), "0 elements"),
        (([6, 0], np.eye(2, 3)), "atom 2 has atomic number 0"),
        (([6, 119], np.eye(2, 3)), "atom 2 has atomic number 119"),
        (([6, 6], [[0, 0, 0], [0, np.nan, 0]]), "atom 2 is at"),
        (([6, 6], [[0, 0, 0], [0, 1e7, 0]]), "atom 2 is at"),
        (([6, 6], np.eye(2, 3), [[0, 2, 1]]), "atoms 1 to 2"),
        (([6, 6], np.eye(2, 3), [[1, 1, 1]]), "atom 2 with itself"),
        (([6, 6], np.eye(2, 3), [[0, 1, 4]]), "order 4"),
        (([6, 6], np.eye(2, 3), [[0, 1, 1.5]]), "whole numbers"),
        (([6, 6], np.eye(2, 3), [[0, 1, 1], [1, 0, 2]]), "given twice"),
        (([6, 6], np.eye(2, 3), [[0, 1]]), r"\[M, 3\]"),
        (([6, 6], np.eye(3, 3)), "2 elements, positions"),
        (([6, 6], np.eye(2, 3), [[0, 1, 1]], [1]), "1 charges"),
        (([6], np.eye(1, 3), [], [], "x", {"a": [1]}), "property 'a'"),
    ],
)
def test_what_is_no_molecule_is_refused(told: tuple, what: str) -> None:
    with pytest.raises(MoleculeError, match=what):
        molecule(*told)


def test_rdkit_molecules_that_say_more_or_less_are_refused() -> None:
    def placed(smiles: str) -> Chem.Mol:
        mol = Chem.MolFromSmiles(smiles)
        mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
        return mol

    for smiles, what in [("[13CH4]", "isotope 13"), ("C", "4 hydrogens that are no atoms"), ("*[H]", "no element")]:
        with pytest.raises(MoleculeError, match=what):
            Molecule.from_rdkit(placed(smiles))
    with pytest.raises(MoleculeError, match="without positions"):
        Molecule.from_rdkit(Chem.MolFromSmiles("C"))
    with pytest.raises(MoleculeError, match="1-2 are not single"):
        Molecule.from_rdkit(placed("N->[Fe]"), implied=True)
    assert Molecule.from_rdkit(placed("C"), implied=True).implied


def test_rdkit_s_reason_names_the_atom(capfd: pytest.CaptureFixture[str]) -> None:
    carbon = molecule([6, *[1] * 5], np.random.default_rng(0).normal(size=(6, 3)), [[0, k, 1] for k in range(1, 6)])
    with pytest.raises(MoleculeError, match=r"atom 1 \(C\) has valence 5"):
        carbon.to_rdkit()
    assert capfd.readouterr().err == ""


def test_mirror_images_exchange_labels_and_nothing_else() -> None:
    one = made("C[C@H](O)[C@@H](F)Cl")
    two = one.mirrored()
    labels, other = one.labels(), two.labels()
    assert sorted(labels.centres.values()) == sorted(labels.hands) and len(labels.hands) == 2
    assert {k: "S" if v == "R" else "R" for k, v in labels.centres.items()} == dict(other.centres)
    assert one.smiles() != two.smiles() and one.smiles(stereo=False) == two.smiles(stereo=False)
    assert one.inchikey() != two.inchikey() and one.inchikey()[:14] == two.inchikey()[:14]
    assert (two.bonds == one.bonds).all() and (two.mirrored().positions == one.positions).all()


@pytest.mark.parametrize(("smiles", "label"), [("C/C=C/C", "E"), ("C/C=C\\C", "Z")])
def test_double_bonds_are_labelled_from_the_positions(smiles: str, label: str) -> None:
    one = made(smiles)
    assert dict(one.labels().bonds) == {(1, 2): label} == dict(one.mirrored().labels().bonds)


def test_fragments_hydrogens_and_pieces() -> None:
    salt = made("[Na+].CC(=O)[O-]")
    assert [len(piece) for piece in salt.fragments()] == [7, 1] and not salt.sound
    acid = salt.take(salt.fragments()[0])
    assert acid.smiles() == "CC(=O)[O-]" and acid.sound
    bare = acid.without_hydrogens()
    assert bare.implied and len(bare) == 4 and bare.sound and bare.smiles() == acid.smiles()
    assert bare.with_hydrogens().sound and len(bare.with_hydrogens()) == 7
    assert acid.with_hydrogens() is acid


def test_labels_need_no_hydrogen_atoms() -> None:
    one = made(SMILES["alanine"])
    assert one.without_hydrogens().labels() == one.labels() and one.labels().hands == ("S",)


def test_orders_are_a_symmetric_square() -> None:
    orders = WATER.orders
    assert (orders == orders.T).all() and (orders.sum(1) == WATER.valences).all() and np.trace(orders) == 0


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_labels_survive_an_sdf_on_chiral_molecules_of_qm9(count: int, data_root: Path, tmp_path: Path) -> None:
    """CIP labels in = out; the mirror image has every R and S exchanged."""
    from gendiff_molecules import QM9, read, write

    chosen = []
    for example in QM9().load("test", data_root):
        labels = example.artifact.labels()
        if labels.hands:
            chosen.append((example.artifact, labels))
        if len(chosen) == count:
            break
    assert len(chosen) == count
    write([one for one, _ in chosen], tmp_path / "all.sdf")
    swap = {"R": "S", "S": "R", "r": "r", "s": "s"}
    for (one, labels), back in zip(chosen, read(tmp_path / "all.sdf"), strict=True):
        assert back.labels() == labels
        mirror = one.mirrored().labels()
        assert mirror.bonds == labels.bonds
        assert mirror.centres == {k: swap[v] for k, v in labels.centres.items()}


def test_atoms_are_taken_in_the_order_they_are_named_in() -> None:
    chain = Molecule(np.array([6, 7, 8, 1]), np.arange(12.0).reshape(4, 3), np.array([[0, 1, 1], [1, 2, 2], [2, 3, 1]]))
    part = chain.take([2, 3, 1])
    assert part.symbols == ("O", "H", "N") and part.bonds.tolist() == [[0, 1, 1], [0, 2, 2]]
    assert part.positions[0].tolist() == chain.positions[2].tolist()

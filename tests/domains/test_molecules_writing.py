"""Writing molecules: RDKit reads everything again without a word, and what it refuses is written with the reason."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="needs rdkit: pip install 'gendiff[molecules]'")

from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gendiff_molecules import QM9, Molecule, MoleculeError, load, read, write
from gendiff_molecules.toolkit import overheard
from gendiff_molecules.writing import REFUSED, to_sdf


def made(smiles: str, name: str = "made") -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return Molecule.from_rdkit(mol, name=name)


def molecule(*told: Any, **more: Any) -> Molecule:
    """A molecule of lists."""
    return Molecule(*told, **more)


ZWITTERION = made("C[C@H]([NH3+])C(=O)[O-]", "zwitterion")
HYDROXYL = molecule([8, 1], [[0, 0, 0], [0.97, 0, 0]], [[0, 1, 1]], name="hydroxyl")
CROWDED = molecule(
    [6, *[1] * 5], np.random.default_rng(0).normal(0, 2, (6, 3)), [[0, k, 1] for k in range(1, 6)], name="crowded"
)


def rdkit_reads(path: Path) -> tuple[list[Any], list[str]]:
    """What RDKit makes of a file, and what it says."""
    with overheard() as said:
        if path.suffix == ".sdf":
            found = list(Chem.SDMolSupplier(str(path), removeHs=False))
        elif path.suffix == ".mol":
            found = [Chem.MolFromMolFile(str(path), removeHs=False)]
        elif path.suffix == ".pdb":
            found = [Chem.MolFromPDBFile(str(path), removeHs=False)]
        elif path.suffix == ".xyz":
            found = [Chem.MolFromXYZFile(str(path))]
        else:
            found = [mol for mol in Chem.SmilesMolSupplier(str(path), titleLine=False)]  # noqa: C416 - list() finds none
    return found, said


@pytest.mark.parametrize("suffix", [".sdf", ".mol", ".pdb", ".xyz", ".smi"])
def test_rdkit_reads_what_is_written_without_a_word(suffix: str, data_root: Path, tmp_path: Path) -> None:
    every = [ZWITTERION, *(example.artifact for example in QM9().load("test", data_root)[:60:3])]
    batches = [every] if suffix in (".sdf", ".smi") else [[one] for one in every]
    for number, batch in enumerate(batches):
        path = tmp_path / f"{number}{suffix}"
        write(batch, path, properties={"seed": 3, "model": "runs/mine", "request": "logp=1.5"})
        found, said = rdkit_reads(path)
        assert not said and len(found) == len(batch)
        for mol, one in zip(found, batch, strict=True):
            assert mol is not None
            if suffix == ".xyz":
                assert [a.GetAtomicNum() for a in mol.GetAtoms()] == one.elements.tolist()
                continue
            assert Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=suffix == ".smi") == one.smiles(
                stereo=suffix == ".smi"
            )
            if suffix in (".sdf", ".mol"):
                Chem.AssignStereochemistryFrom3D(mol)
                assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == one.smiles()
        if suffix == ".sdf":
            assert all(m is not None and m.GetPropsAsDict()["seed"] == 3 for m in found)
            assert all(m is not None and not m.HasProp(REFUSED) for m in found)


def test_what_rdkit_refuses_is_written_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.sdf"
    write([CROWDED, ZWITTERION], path)
    found, _ = rdkit_reads(path)
    assert [mol is None for mol in found] == [True, False]
    bare = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    assert bare[0].GetProp(REFUSED) == "atom 1 (C) has valence 5; without charge 4 is allowed"
    molecules, report = load(path)
    assert [one.name for one in molecules] == ["zwitterion"]
    assert list(report.dropped) == ["atom 1 (C) has valence 5; without charge 4 is allowed"]
    write([CROWDED, ZWITTERION], tmp_path / "x.smi")
    assert (tmp_path / "x.smi").read_text().startswith("# crowded: atom 1 (C) has valence 5")
    assert [one.name for one in read(tmp_path / "x.smi")] == ["zwitterion"]
    write(CROWDED, tmp_path / "x.pdb")
    assert f"REMARK   1 {REFUSED}: atom 1 (C) has valence 5" in (tmp_path / "x.pdb").read_text()


def test_an_atom_that_lacks_a_bond_gets_no_hydrogen_from_a_reader(tmp_path: Path) -> None:
    """Its valence stands in the file: RDKit reads the radical that RDKit was given."""
    write(HYDROXYL, tmp_path / "x.sdf")
    (mol,), said = rdkit_reads(tmp_path / "x.sdf")
    assert mol is not None and not said
    assert mol.GetAtomWithIdx(0).GetNumRadicalElectrons() == 1 and mol.GetAtomWithIdx(0).GetTotalNumHs() == 0
    assert list(load(tmp_path / "x.sdf")[1].dropped) == ["atom 1 (O) lacks a bond and is a radical"]
    bare = ZWITTERION.without_hydrogens()
    write(bare, tmp_path / "y.sdf")
    (mol,), said = rdkit_reads(tmp_path / "y.sdf")
    assert mol is not None and not said and Chem.MolToSmiles(mol, isomericSmiles=False) == bare.smiles(stereo=False)


def test_more_than_999_atoms_are_v3000(tmp_path: Path) -> None:
    count = 400
    at = np.concatenate([[[4.0 * k, 0, 0], [4.0 * k + 0.76, 0.59, 0], [4.0 * k - 0.76, 0.59, 0]] for k in range(count)])
    bonds = [pair for k in range(count) for pair in ((3 * k, 3 * k + 1, 1), (3 * k, 3 * k + 2, 1))]
    waters = molecule([8, 1, 1] * count, at, bonds, name="waters")
    write(waters, tmp_path / "x.sdf")
    assert "V3000" in (tmp_path / "x.sdf").read_text()
    (back,), report = load(tmp_path / "x.sdf")
    assert (back.bonds == waters.bonds).all() and report.atoms.rows == 1200
    (mol,), said = rdkit_reads(tmp_path / "x.sdf")
    assert mol is not None and not said and mol.GetNumAtoms() == 1200


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=60)
@given(
    name=TEXT,
    values=st.dictionaries(TEXT, st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6), TEXT), max_size=4),
)
def test_any_name_and_property_ends_no_record(
    name: str, values: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Names with $$$$, fields with blank lines or brackets: two records stay two, numbers stay numbers."""
    one = molecule(HYDROXYL.elements, HYDROXYL.positions, HYDROXYL.bonds, [-1, 0], name, values)
    path = tmp_path_factory.mktemp("text") / "x.sdf"
    write([one, one], path)
    molecules, report = load(path)
    assert len(molecules) == 2 and not report.dropped and report.lines.get("that cannot be placed", 0) == 0
    assert all((back.bonds == one.bonds).all() and back.charge == -1 for back in molecules)
    numbers = {k: v for k, v in values.items() if not isinstance(v, str) and k.isalnum() and k.isascii()}
    if len(set(values)) == len(numbers):
        assert dict(molecules[0].properties) == pytest.approx(numbers)


def test_files_are_written_to_the_byte_again_and_gzipped(tmp_path: Path) -> None:
    write(ZWITTERION, tmp_path / "a.sdf.gz", properties={"seed": 1})
    write(ZWITTERION, tmp_path / "b.sdf.gz", properties={"seed": 1})
    assert (tmp_path / "a.sdf.gz").read_bytes() == (tmp_path / "b.sdf.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.sdf.gz").read_bytes()).decode() == to_sdf(ZWITTERION.told(seed=1))
    (back,) = read(tmp_path / "a.sdf.gz")
    assert dict(back.properties) == {"seed": 1} and back.labels() == ZWITTERION.labels()
    write(back, tmp_path / "c.sdf")
    assert (tmp_path / "c.sdf").read_text() == to_sdf(ZWITTERION.told(seed=1))  # nothing drifts by reading and writing


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path, molecules, what in [
        ("x.sd", ZWITTERION, 'Did you mean ".sdf"'),
        ("x.sdf", [], "nothing to write"),
        ("x.pdb", [ZWITTERION, ZWITTERION], r'write\(molecules, "x.sdf"\)'),
        ("x.pdb", ZWITTERION.moved(ZWITTERION.positions + 2e4), "up to 9999 atoms"),
    ]:
        with pytest.raises(MoleculeError, match=what):
            write(molecules, tmp_path / path)

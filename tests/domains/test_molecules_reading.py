"""Reading molecules: every format, everything that files get wrong, and that atoms and bonds add up, also in damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rdkit", reason="needs rdkit: pip install 'gendiff[molecules]'")

from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom

from benchmarks.fuzz_molecules import aromatic, protein, to_mol2, v3000, wrong
from gendiff_molecules import Molecule, MoleculeError, Report, load, read
from gendiff_molecules.writing import to_mol, to_pdb, to_sdf, to_xyz


def made(smiles: str, name: str = "made", seed: int = 1) -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return Molecule.from_rdkit(mol, name=name)


ALANINE = made("C[C@H](N)C(=O)O", "alanine")
ZWITTERION = made("C[C@H]([NH3+])C(=O)[O-]", "zwitterion")
BENZAMIDE = made("NC(=O)c1ccc(Cl)cc1", "benzamide")
PYRROLE = made("c1cc[nH]c1", "pyrrole")
FLAT = Chem.MolFromSmiles("C[C@H](O)CN")
rdDepictor.Compute2DCoords(FLAT)
KINDS = {"SDF": ".sdf", "MOL2": ".mol2", "XYZ": ".xyz", "PDB": ".pdb"}


def put(folder: Path, text: str, name: str = "x.sdf") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def adds_up(path: Path, kind: str) -> tuple[list[Molecule], Report]:
    molecules, report = load(path)
    assert wrong(path.read_text(), kind, molecules, report) == ""
    return molecules, report


def alike(one: Molecule, other: Molecule, digits: float = 2e-3) -> bool:
    same = (one.elements == other.elements).all() and (one.charges == other.charges).all()
    return bool(same and (one.bonds == other.bonds).all() and np.abs(one.positions - other.positions).max() < digits)


@pytest.mark.parametrize("one", [ALANINE, ZWITTERION, BENZAMIDE, PYRROLE], ids=lambda one: one.name)
def test_every_format_gives_the_molecule_back(one: Molecule, tmp_path: Path) -> None:
    """Case 32: hands among it, by CIP labels in and out."""
    texts = {
        "sdf.sdf": to_sdf(one), "v3.sdf": v3000(one), "ar.sdf": aromatic(one), "mol.mol": to_mol(one),
        "kekule.mol2": to_mol2(one, False), "ar.mol2": to_mol2(one, True), "pdb.pdb": to_pdb(one),
        "xyz.xyz": to_xyz(one),
    }  # fmt: skip
    for name, text in texts.items():
        kind = {"sdf": "SDF", "mol": "SDF", "mol2": "MOL2", "pdb": "PDB", "xyz": "XYZ"}[name.rpartition(".")[2]]
        (back,), report = adds_up(put(tmp_path, text, name), kind)
        if "ar" not in name and kind != "XYZ":
            assert alike(one, back), (name, back, report)
        assert back.sound and back.smiles() == one.smiles() and back.labels() == one.labels(), name
        assert not report.notes and not report.dropped, (name, report)
        assert back.mirrored().labels() == one.mirrored().labels()


def test_aromatic_bonds_become_whole_orders_and_keep_every_valence(tmp_path: Path) -> None:
    """Case 33: 1.5 cast to 1 made stable molecules of unstable ones."""
    (one,) = read(put(tmp_path, aromatic(BENZAMIDE)))
    carbons = one.take(np.arange(3, 11))  # the ring with its chlorine
    assert sorted(carbons.bonds[:, 2].tolist()) == [1, 1, 1, 1, 2, 2, 2] and one.faults() == ()


def test_a_ring_that_cannot_be_kekulised_is_named_and_its_repair_offered(tmp_path: Path) -> None:
    """Case 34: SDF as PyMOL writes it, aromatic bonds and no hydrogens."""
    bare = PYRROLE.without_hydrogens()
    lines = to_mol(bare).split("\n")
    lines = [line[:6] + "  4  0" if 9 <= k < 14 else line for k, line in enumerate(lines)]
    path = put(tmp_path, "\n".join([*lines[:-1], "$$$$", ""]))
    molecules, report = load(path)
    (reason,) = report.dropped
    assert molecules == [] and report.atoms.dropped == 5 and report.bonds.dropped == 5
    assert "kekulised" in reason and "atom 4 (N)" in reason and "with a hydrogen on atom 4 (N)" in reason
    with pytest.raises(MoleculeError, match=r"read\(path, repair=True\)"):
        read(path)
    repaired, report = load(path, repair=True, hydrogens="add")
    assert repaired[0].smiles() == "c1cc[nH]c1" and repaired[0].sound
    assert any("a hydrogen was put on atom 4 (N)" in note for note in report.notes)


def test_what_no_hydrogen_repairs_is_dropped_by_name(tmp_path: Path) -> None:
    ring = made("C1CCCC1").without_hydrogens()
    text = to_mol(ring).split("\n")
    text = [line[:6] + "  4  0" if 9 <= k < 14 else line for k, line in enumerate(text)]
    (reason,) = load(put(tmp_path, "\n".join(text)), repair=True)[1].dropped
    assert "kekulised" in reason and "atom 1 (C)" in reason and "repair" not in reason


def test_fragments_are_told_of_kept_reduced_or_refused(tmp_path: Path) -> None:
    """Case 36: disconnected molecules."""
    path = put(tmp_path, to_sdf(made("[Na+].CC(=O)[O-]", "salt")))
    (kept,), report = load(path)
    assert len(kept.fragments()) == 2 and next(iter(report.notes)) == "2 fragments (7, 1 atoms), all kept"
    (largest,), report = load(path, fragments="largest")
    assert largest.sound and (report.atoms.kept, report.atoms.dropped) == (7, 1)
    assert load(path, fragments="refuse")[1].dropped == {"2 fragments (7, 1 atoms)": ("salt",)}


def test_missing_hydrogens_are_implied_or_added_as_asked(tmp_path: Path) -> None:
    """Case 37: as given."""
    path = put(tmp_path, to_sdf(ALANINE.without_hydrogens()))
    (kept,), report = load(path)
    assert kept.implied and len(kept) == 6 and kept.labels() == ALANINE.labels()
    assert report.notes == {"7 hydrogens are missing and implied": ("alanine",)}
    (added,), report = load(path, hydrogens="add")
    assert len(added) == 13 and added.sound and added.labels() == ALANINE.labels()
    assert (report.atoms.kept, report.atoms.added, report.bonds.added) == (6, 7, 7)
    with pytest.raises(MoleculeError, match='"keep" or "add"'):
        load(path, hydrogens="strip")
    with pytest.raises(MoleculeError, match=r'option \'hydrogen\'.*Did you mean "hydrogens"'):
        load(path, hydrogen="add")


def test_a_ligand_called_as_others_are_is_what_its_file_draws(tmp_path: Path) -> None:
    """Case 38: "LIG", or the name of an amino acid, is looked up nowhere."""
    for name in ("LIG", "ATP", "LYS", "DRG"):
        text = protein(0) + "TER\n" + to_pdb(BENZAMIDE).replace("UNL", name)
        molecules, report = adds_up(put(tmp_path, text, "x.pdb"), "PDB")
        assert [one.smiles() for one in molecules] == [BENZAMIDE.smiles()], name
        assert report.skipped == {"residues of a polymer": 3, "water": 1, "single atoms and ions": 1}
        assert molecules[0].properties["residue"] == f"{name}_A_1"


def plain_pdb(one: Molecule) -> str:
    """With every bond once, as most programs write it."""
    lines = to_pdb(one).split("\n")
    for k, line in enumerate(lines):
        if line.startswith("CONECT"):
            lines[k] = line[:11] + "".join(f"{int(word):5d}" for word in dict.fromkeys(line.split()[2:]))
    return "\n".join(lines)


def test_orders_of_a_ligand_come_from_hydrogens_or_a_template(tmp_path: Path) -> None:
    with_h = put(tmp_path, plain_pdb(BENZAMIDE), "h.pdb")
    assert read(with_h)[0].smiles() == BENZAMIDE.smiles()
    bare = put(tmp_path, plain_pdb(BENZAMIDE.without_hydrogens()), "bare.pdb")
    (reason,) = load(bare)[1].dropped
    assert "template=SMILES" in reason
    (one,) = read(bare, template="NC(=O)c1ccc(Cl)cc1", hydrogens="add")
    assert one.smiles() == BENZAMIDE.smiles() and one.sound
    (reason,) = load(bare, template="NC(=O)c1ccccc1")[1].dropped
    assert reason == "the template has 9 heavy atoms, the ligand 10"
    (reason,) = load(bare, template="CCCCCCCCCC")[1].dropped
    assert reason == "the template does not fit the bonds of the ligand"
    with pytest.raises(MoleculeError, match="is no SMILES"):
        load(bare, template="C(C")


def test_bonds_of_xyz_are_perceived_with_the_charge_that_is_said(tmp_path: Path) -> None:
    ion = made("C[NH3+]", "ion")
    bare = to_xyz(ion).replace("charge=1", "")
    (reason,) = load(put(tmp_path, bare, "x.xyz"))[1].dropped
    assert "with charge +0" in reason and "read(path, charge=1)" in reason
    assert read(tmp_path / "x.xyz", charge=1)[0].smiles() == "C[NH3+]"
    assert read(put(tmp_path, to_xyz(ion), "y.xyz"))[0].charge == 1  # its comment says charge=1
    molecules, report = adds_up(put(tmp_path, to_xyz(ALANINE) + to_xyz(BENZAMIDE), "z.xyz"), "XYZ")
    assert len(molecules) == 2 and report.bonds.rows == 0 and report.bonds.added == sum(len(m.bonds) for m in molecules)


def test_two_dimensional_and_no_coordinates_are_refused_or_made(tmp_path: Path) -> None:
    flat = put(tmp_path, Chem.MolToMolBlock(FLAT) + "$$$$\n", "flat.sdf")
    (reason,) = load(flat)[1].dropped
    assert reason == 'two-dimensional coordinates; read(path, coordinates="make") makes some'
    (one,), report = load(flat, coordinates="make", seed=3)
    assert one.smiles() == "C[C@H](O)CN" and one.sound and one.positions[:, 2].std() > 0.1
    assert "positions made by ETKDGv3, seed 3" in report.notes
    assert (read(flat, coordinates="make", seed=3)[0].positions == one.positions).all()
    nowhere = put(tmp_path, to_sdf(ALANINE.moved(0 * ALANINE.positions)), "nowhere.sdf")
    assert next(iter(load(nowhere)[1].dropped)).startswith("no coordinates: all atoms are at one place")
    assert read(nowhere, coordinates="make")[0].smiles(stereo=False) == "CC(N)C(=O)O"


def test_smiles_get_positions_from_the_seed(tmp_path: Path) -> None:
    path = put(
        tmp_path, "smiles name\nC[C@H](N)C(=O)O ala\n# a word\nCC(F)Cl\nC(C\n[13CH4] heavy\n[CH3] radical\n", "x.smi"
    )
    molecules, report = load(path, seed=1)
    assert [one.smiles() for one in molecules][:1] == ["C[C@H](N)C(=O)O"] and all(one.sound for one in molecules)
    assert [one.name for one in molecules] == ["ala", "line 4", "heavy"]
    reasons = list(report.dropped)
    assert "'C(C' is no SMILES" in reasons[0] and "extra open parentheses" in reasons[0]
    assert "atom 1 (C) is a radical" in reasons[1]
    assert "1 centre or bond without a label turned as the seed has it" in report.notes
    assert "isotope labels are not kept: atom 1 (C)" in report.notes
    assert report.lines == {"header": 1, "molecule": 5, "comment": 1}
    assert (read(path, seed=1)[0].positions == molecules[0].positions).all()
    assert not np.allclose(read(path, seed=2)[0].positions, molecules[0].positions)


def record(one: Molecule = ALANINE, line: int = 0, change: str = "", keep: int | None = None) -> str:
    """A record with one line changed, or cut after so many."""
    lines = to_sdf(one).split("\n")
    if change:
        lines[line] = change
    return "\n".join(lines[:keep])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n\n\n\n$$$$\n", "the record is empty"),
        ("x\n\n\n  0  0  0     0  0            999 V2000\nM  END\n$$$$\n", "the record is empty: 0 atoms"),
        (record(line=3, change=" 1x 12  0  0  0  0  0  0  0  0999 V2000"), "the counts line cannot be read"),
        (record(line=3, change=" 14 12  0  0  0  0  0  0  0  0999 V2000"), "atom 14 is called"),
        (record(line=3, change=" 13 13  0  0  0  0  0  0  0  0999 V2000"), "13 atoms and 13 bonds are announced"),
        (record(line=3, change=" 13 11  0  0  0  0  0  0  0  0999 V2000"), "a line beyond the 13 atoms and 11 bonds"),
        (record(keep=20), "13 atoms and 12 bonds are announced, and there are 13 and 3"),
        (record(keep=29), "M  END is missing: the record is cut"),
        (record(line=4, change="    0.0000    0.0000    0.0000 Xq  0  0"), "atom 1 is called 'Xq', which is no"),
        (record(line=4, change="    0.0000    0.0000    0.0000 R#  0  0"), "atom 1 is called 'R#', which is no"),
        (record(line=4, change="       nan    0.0000    0.0000 C   0  0"), "the position of atom 1 cannot be read"),
        (record(line=4, change="    0.0000    1_0.00    0.0000 C   0  0"), "the position of atom 1 cannot be read"),
        (record(line=4, change=" 999999.00    0.0000    0.0000 C   0  0"), "atom 1 (C) is out of range"),
        (record(line=17, change="  1  1  1  0"), "a bond of atom 1 with itself"),
        (record(line=17, change="  1 44  1  0"), "a bond between atoms 1 and 44, where there are 13"),
        (record(line=17, change="  1  2  8  0"), "bond 1 between atoms 1 and 2 is of type 8 (any)"),
        (record(line=17, change="  1  2  3  0"), "atom 1 (C) has valence 6; without charge 4 is allowed"),
        (record(line=17, change="  2  3  1  0"), "the bond 2-3 is given twice"),
        (record(line=29, change="M  CHG  1  44   1\nM  END"), "names atom 44, where there are 13"),
        (record(line=29, change="M  CHG  2   1   1\nM  END"), "cannot be read"),
        (record(line=29, change="M  RAD  1   1   2\nM  END"), "atom 1 (C) is a radical"),
        (to_sdf(ALANINE.moved(0.1 * ALANINE.positions)), "look like nanometres: multiply the positions by 10"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_a_molecule_is_dropped_by_its_reason(
    text: str, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside a sound one, which is kept; not a word on stderr."""
    text = text if text.endswith("$$$$\n") else text + "\n$$$$\n"
    molecules, report = adds_up(put(tmp_path, text + to_sdf(BENZAMIDE)), "SDF")
    assert [one.name for one in molecules] == ["benzamide"] and report.records == 2
    assert reason in next(iter(report.dropped)), report
    assert capfd.readouterr().err == "" and str(report).count("\n") >= 2


def test_a_lost_end_of_a_record_loses_no_record(tmp_path: Path) -> None:
    text = to_sdf(ALANINE).replace("$$$$\n", "") + to_sdf(BENZAMIDE)
    molecules, report = adds_up(put(tmp_path, text), "SDF")
    assert [one.name for one in molecules] == ["alanine", "benzamide"]
    assert report.notes == {"$$$$ is missing behind it": ("alanine",)}


def test_isotopes_nitro_groups_and_metals_are_said(tmp_path: Path) -> None:
    deuterium = to_sdf(ALANINE).replace(" H   0", " D   0", 1)
    (one,), report = load(put(tmp_path, deuterium))
    assert one.sound and "isotope labels are not kept: atom 7 (H)" in report.notes
    nitro = made("C[N+](=O)[O-]")
    lines = to_mol(nitro).split("\n")
    lines = [line for line in lines if not line.startswith("M  CHG")]
    lines = ["  2  4  2  0" if line == "  2  4  1  0" else line for line in lines]
    (one,), report = load(put(tmp_path, "\n".join(lines), "x.mol"))
    assert one.smiles() == "C[N+](=O)[O-]" and next(iter(report.notes)).startswith("written with charges")
    iron = Molecule(np.array([26, 17]), 2.2 * np.eye(2, 3), np.array([[0, 1, 1]]), name="iron")
    (one,), report = load(put(tmp_path, to_sdf(iron)))
    assert "atom 1 (Fe)" in next(iter(report.notes)) and not one.sound


def test_a_damaged_digit_is_said(tmp_path: Path) -> None:
    far = ALANINE.positions.copy()
    far[0, 0] += 5
    (one,), report = load(put(tmp_path, to_sdf(ALANINE.moved(far))))
    assert one.sound and next(iter(report.notes)).startswith("bonds of unlikely length: 1-2 (")


MOL2 = to_mol2(ALANINE, False)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("C.3", "ca ", "has the type 'ca', which is none of Sybyl's types"),
        ("C.3", "Du ", "has the type 'Du', which is no element"),
        ("C.3", "C.9", "has the type 'C.9', which is none of Sybyl's types"),
        ("     1     1     2    1", "     1     1     2   un", "is of type 'un', which is no Kekule bond"),
        ("13 12 1", "13 13 1", "13 atoms and 13 bonds are announced, and there are 13 and 12"),
        ("      2 C2", "      1 C2", "the atom number 1 is given twice"),
        ("      1 C1", "      q C1", "the position of atom 1 cannot be read"),
    ],
)
def test_mol2_that_cannot_be_read_says_why(old: str, new: str, reason: str, tmp_path: Path) -> None:
    assert old in MOL2
    molecules, report = adds_up(put(tmp_path, MOL2.replace(old, new, 1) + to_mol2(PYRROLE, True), "x.mol2"), "MOL2")
    assert [one.name for one in molecules] == ["pyrrole"] and reason in next(iter(report.dropped))


def test_charges_of_mol2_follow_from_its_bonds(tmp_path: Path) -> None:
    """The format has none: ammonium, carboxylate as two aromatic bonds to O.co2, guanidinium, pyridinium."""
    text = to_mol2(ZWITTERION, False)
    bonds = [line for line in text.split("\n") if line.split()[1:] in (["4", "5", "2"], ["4", "6", "1"])]
    assert len(bonds) == 2
    for line in bonds:
        text = text.replace(line, f"{line[:-2]}ar")
    (one,) = read(put(tmp_path, text.replace("O.2", "O.co2").replace("O.3", "O.co2"), "x.mol2"))
    assert one.smiles() == ZWITTERION.smiles() and one.charge == 0 and (one.charges != 0).sum() == 2
    for smiles in ("C[n+]1ccccc1", "NC(N)=[NH2+]", "CC[S-]"):
        own = made(smiles)
        (one,) = read(put(tmp_path, to_mol2(own, True), "y.mol2"))
        assert one.smiles() == Chem.CanonSmiles(smiles)


def test_files_that_are_none_are_refused_with_the_path(tmp_path: Path) -> None:
    for name, data, what in [
        ("none.sdf", None, "there is no such file"),
        ("empty.sdf", b" \n", "the file is empty"),
        ("binary.sdf", b"\x00\x01", "binary data"),
        ("x.docx", b"x", "suffix '.docx' is of no format"),
        ("cut.sdf.gz", gzip.compress(to_sdf(ALANINE).encode())[:60], "cannot be read"),
    ]:
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(MoleculeError, match=what) as error:
            load(path)
        assert str(path) in str(error.value)
    bomb = tmp_path / "bomb.sdf.gz"
    bomb.write_bytes(gzip.compress(b" " * 2_000_000))
    with pytest.raises(MoleculeError, match=r"load\(path, limit="):
        load(bomb, limit=1_000_000)
    packed = tmp_path / "x.sdf.gz"
    packed.write_bytes(gzip.compress(to_sdf(ALANINE).replace("\n", "\r\n").encode()))
    assert alike(read(packed)[0], ALANINE)


SOUND = {
    "SDF": to_sdf(ALANINE) + aromatic(BENZAMIDE) + v3000(ZWITTERION),
    "MOL2": to_mol2(ALANINE, False) + to_mol2(BENZAMIDE, True),
    "XYZ": to_xyz(ALANINE) + to_xyz(PYRROLE),
    "PDB": protein(0) + to_pdb(BENZAMIDE),
}
WORDS = st.sampled_from(
    ["nan", "", "  4", "-1", "99999", "M  END", "$$$$", "@<TRIPOS>ATOM", ">  <x>", "HETATM", "C", "7"]
)


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=60)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 60), WORDS, st.integers(0, 3)), max_size=4))
def test_atoms_and_bonds_add_up_in_any_damage(
    kind: str, edits: list[tuple[int, int, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Words written into lines, lines lost, doubled and cut; every line is of one kind, and what is kept is sound."""
    lines = SOUND[kind].split("\n")
    for place, column, word, how in edits:
        k = place % len(lines)
        line = lines[k]
        new = [line[:column] + word + line[column + len(word) :]], [], [line, line], [line[:column]]
        lines[k : k + 1] = new[how]
        lines = lines or [""]
    path = put(tmp_path_factory.mktemp("damage"), "\n".join(lines) or "x", f"x{KINDS[kind]}")
    try:
        molecules, report = load(path)
    except MoleculeError as error:
        assert str(path) in str(error)
        return
    assert wrong(path.read_text(), kind, molecules, report) == ""
    assert edits or report.records == len(molecules)


def test_the_ligand_series_are_read_whole(data_root: Path, tmp_path: Path) -> None:
    """Eighty series of posed ligands: nothing dropped, every valence right."""
    import tarfile

    with tarfile.open(data_root / "complexes" / "pl_ligands.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    count = 0
    for path in sorted(tmp_path.rglob("*.sdf"))[::4]:
        molecules, report = adds_up(path, "SDF")
        assert not report.dropped and not report.notes and all(one.sound for one in molecules)
        count += len(molecules)
    assert count > 200

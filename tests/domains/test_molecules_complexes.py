"""Pockets and complexes: files read and written in their own frame, pieces of ligands, splits by cluster of protein."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from gendiff.errors import DataError

pytest.importorskip("rdkit")
from gendiff_molecules import Complex, Molecule, Pocket, PocketLigands, load, load_complexes, read, read_complex
from gendiff_molecules.complexes import pieces, series
from gendiff_molecules.pocket_files import read_pocket, read_sites

RNG = np.random.default_rng(0)
ROWS = [  # name, residue, chain, number, element, position, location, occupancy
    ("N", "ALA", "A", "10", "N", (1.0, 2.0, 3.0), "", 1.0),
    ("CA", "ALA", "A", "10", "C", (2.0, 2.0, 3.0), "", 1.0),
    ("HA", "ALA", "A", "10", "H", (2.5, 2.5, 3.0), "", 1.0),
    ("CB", "ALA", "A", "10", "C", (2.0, 3.5, 3.0), "A", 0.3),
    ("CB", "ALA", "A", "10", "C", (2.0, 3.6, 3.1), "B", 0.7),
    ("CA", "GLY", "A", "52A", "C", (6.0, 2.0, 3.0), "", 1.0),
    ("CA", "LEU", "B", "7", "C", (40.0, 2.0, 3.0), "", 1.0),
    ("ZN", "ZN", "A", "301", "Zn", (2.0, 6.0, 3.0), "", 1.0),
    ("O", "HOH", "A", "401", "O", (3.0, 3.0, 3.0), "", 1.0),
    ("C1", "STI", "A", "201", "C", (4.0, 4.0, 4.0), "", 1.0),
    ("O1", "STI", "A", "201", "O", (4.0, 5.2, 4.0), "", 1.0),
    ("C1", "STI", "B", "202", "C", (41.0, 4.0, 4.0), "", 1.0),
]


def as_pdb(rows: list[tuple]) -> str:
    lines = ["HEADER    A PROTEIN", "MODEL        1"]
    for k, (name, residue, chain, number, symbol, (x, y, z), location, share) in enumerate(rows):
        digits, code = (number[:-1], number[-1]) if number[-1].isalpha() else (number, " ")
        kind = "ATOM  " if residue in ("ALA", "GLY", "LEU") else "HETATM"
        padded = name if len(symbol) == 2 else f" {name}"
        lines.append(
            f"{kind}{k + 1:5d} {padded:<4}{location or ' '}{residue:>3} {chain}{digits:>4}{code}   "
            f"{x:8.3f}{y:8.3f}{z:8.3f}{share:6.2f}  0.00          {symbol.upper():>2}"
        )
    second = [line.replace("   1.000", " 900.000") for line in lines[2:3]]
    return "\n".join([*lines, "ENDMDL", "MODEL        2", *second, "ENDMDL", "END", ""])


def as_mmcif(rows: list[tuple]) -> str:
    names = ("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "auth_asym_id",
             "auth_seq_id", "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy",
             "pdbx_PDB_model_num")  # fmt: skip
    lines = ["data_X", "#", "loop_", *(f"_atom_site.{name}" for name in names)]
    for k, (name, residue, chain, number, symbol, (x, y, z), location, share) in enumerate(rows):
        digits, code = (number[:-1], number[-1]) if number[-1].isalpha() else (number, "?")
        told = f'ATOM {k + 1} {symbol} "{name}" {location or "."} {residue} {chain} {digits} {code}'
        lines += [told, f"{x} {y} {z} {share} 1"] if k % 2 else [f"{told} {x} {y} {z} {share} 1"]
    lines.append('ATOM 99 C "CA" . LEU A 1 ? 900 0 0 1 2')
    return "\n".join([*lines, "#", "loop_", "_other.a", "1", ""])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "one.pdb").write_text(as_pdb(ROWS))
    return tmp_path / "one.pdb"


def columns(pocket: Pocket) -> list[tuple]:
    return list(zip(pocket.atoms, pocket.residues, pocket.chains, pocket.numbers, pocket.elements.tolist(),
                    map(tuple, pocket.positions.round(3).tolist()), strict=True))  # fmt: skip


def test_a_pocket_is_whole_residues_without_water_hydrogens_and_its_ligand(file: Path) -> None:
    pocket = read_pocket(file, ligand="STI_A_201")
    assert [(name, number) for name, _, _, number, *_ in columns(pocket)] == [
        ("N", "10"), ("CA", "10"), ("CB", "10"), ("CA", "52A"), ("ZN", "301"),
    ]  # fmt: skip
    assert pocket.positions[2].tolist() == [2.0, 3.6, 3.1]  # the location with the higher occupancy
    np.testing.assert_allclose(pocket.centre, [4.0, 4.6, 4.0])
    assert len(read_pocket(file, ligand="STI_A_201", without=["ZN"])) == 4
    assert {*read_pocket(file, ligand="STI_A_201", radius=2.5).residues} == {"ALA", "ZN"}  # whole residues or none


def test_mmcif_says_what_pdb_says_packed_or_not(file: Path) -> None:
    other = file.with_name("one.cif")
    other.write_text(as_mmcif(ROWS))
    packed = file.with_name("two.pdb.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert len(read_sites(file)) == len(ROWS) - 1  # the first model, one location
    told = [columns(read_pocket(path, centre=(4, 4, 4), radius=60)) for path in (file, other, packed)]
    assert told[0] == told[1] == told[2] and len(told[0]) == 9


def test_a_molecule_marks_the_place_and_what_lies_there_is_left_out(file: Path) -> None:
    mine = Molecule(np.array([6, 8]), np.array([[4.0, 4.1, 4.0], [4.0, 5.3, 4.0]]), np.array([[0, 1, 2]]))
    pocket = read_pocket(file, ligand=mine)
    assert "STI" not in pocket.residues and "ZN" in pocket.residues
    assert columns(pocket) == columns(read_pocket(file, ligand="STI_A_201"))
    assert "STI" in read_pocket(file, centre=(4, 4, 4)).residues


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "without its ligand's place"),
        ({"ligand": "STI_A_201", "centre": (0, 0, 0)}, "a ligand and a centre"),
        ({"ligand": "STI"}, "2 residues are 'STI'; expected one of STI_A_201, STI_B_202"),
        ({"ligand": "ATP"}, "no residue is 'ATP'; expected one of STI, ZN"),
        ({"centre": (500, 0, 0)}, "no atom is within 10 A"),
        ({"centre": (0, 0)}, "three finite numbers"),
        ({"centre": (0, 0, 0), "radius": 0.0}, "a positive number of angstrom"),
    ],
)
def test_a_pocket_without_a_place_is_its_own_error(file: Path, told: dict, said: str) -> None:
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        read_pocket(file, **told)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.txt", "ATOM", "the suffix '.txt'"),
        ("x.pdb", "REMARK\n", "no atoms"),
        ("x.pdb", "", "the file is empty"),
        ("x.cif", "data_x\n_cell.a 1\n", "no atoms"),
        ("x.pdb", as_pdb(ROWS[:1]).replace("   1.000", "   x.000"), "line 3: atom N of ALA_A_10: its position"),
        ("x.cif", as_mmcif(ROWS[:1]).replace("ATOM 1 N", "ATOM 1 Qq"), "its element 'Qq'"),
        ("x.cif", as_mmcif(ROWS[:1]).replace("ATOM 99 C", "ATOM 99"), "a row of _atom_site with 13 values"),
    ],
)
def test_files_that_are_no_proteins_say_why(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_pocket(tmp_path / name, centre=(0, 0, 0))
    with pytest.raises(DataError, match="there is no such file"):
        read_pocket(tmp_path / "none.pdb", centre=(0, 0, 0))


def test_pockets_survive_their_own_files_in_their_own_frame(file: Path, tmp_path: Path) -> None:
    pocket = read_pocket(file, centre=(4, 4, 4), radius=60)
    (tmp_path / "again.pdb").write_text(pocket.pdb())
    assert columns(read_pocket(tmp_path / "again.pdb", centre=(4, 4, 4), radius=60)) == columns(pocket)
    long = Pocket(pocket.elements, pocket.positions, pocket.atoms, pocket.residues,
                  ["AA" if c == "A" else "BB" for c in pocket.chains], pocket.numbers, pocket.centre)  # fmt: skip
    assert {line[21] for line in long.pdb().splitlines() if line.startswith(("ATOM", "HETATM"))} == {"A", "B"}
    with pytest.raises(DataError, match="does not fit the columns of PDB"):
        Pocket(pocket.elements, pocket.positions, pocket.atoms, pocket.residues, pocket.chains,
               ["12345"] * len(pocket), pocket.centre).pdb()  # fmt: skip


def test_a_pocket_refuses_what_is_none() -> None:
    good = [6, 7], RNG.normal(size=(2, 3)), ("CA", "N"), ("ALA",) * 2, ("A",) * 2, ("1",) * 2
    assert len(Pocket(*good, centre=np.zeros(3))) == 2
    for place, value, said in (
        (0, [6, 1], "a pocket with hydrogens"),
        (1, [[0, 0, np.nan]] * 2, "not finite"),
        (3, ("ALA",), "columns of"),
        (0, [], "columns of"),
    ):
        with pytest.raises(DataError, match=said):
            Pocket(*good[:place], value, *good[place + 1 :], centre=np.zeros(3))


@pytest.fixture
def complex_(file: Path, tmp_path: Path) -> Complex:
    (tmp_path / "m.smi").write_text("CC(=O)Nc1ccc(O)cc1 paracetamol")
    (mine,) = read(tmp_path / "m.smi")
    placed = mine.moved(mine.positions - mine.positions.mean(0) + np.array([4.0, 4.0, 7.0]))
    return read_complex(file, placed, radius=40)


def test_a_complex_moves_as_one(complex_: Complex) -> None:
    q, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    moved = complex_.moved(q * np.linalg.det(q), np.array([5.0, -60.0, 7.0]))
    np.testing.assert_allclose(moved.pocket.centre, moved.molecule.positions.mean(0), atol=1e-9)
    assert abs(moved.pocket.overlap(moved.molecule) - complex_.pocket.overlap(complex_.molecule)) < 1e-9
    assert moved.pocket.contacts(moved.molecule) == complex_.pocket.contacts(complex_.molecule) > 0
    centred = moved.centred()
    np.testing.assert_allclose(centred.molecule.positions.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(centred.pocket.centre, 0, atol=1e-9)
    with pytest.raises(DataError, match="a complex of str and Molecule"):
        Complex("x", complex_.molecule)  # type: ignore[arg-type]


def test_a_complex_is_written_in_the_file_s_frame_and_read_again(complex_: Complex, tmp_path: Path) -> None:
    own = Complex(complex_.pocket, complex_.molecule, "one", {"pic50": 7.5})
    protein, ligand = own.write(tmp_path / "out")
    (back,) = read(ligand)
    np.testing.assert_allclose(back.positions, complex_.molecule.positions, atol=1e-4)
    assert float(back.properties["pic50"]) == 7.5 and back.smiles() == complex_.molecule.smiles()
    again = read_complex(protein, back, radius=40)
    assert columns(again.pocket) == columns(complex_.pocket)
    (tmp_path / "whole.pdb").write_text(own.pdb())
    found = {one.formula: one for one in load(tmp_path / "whole.pdb")[0]}
    assert complex_.molecule.formula in found
    np.testing.assert_allclose(found[back.formula].positions, back.positions, atol=1e-3)
    whole = read_pocket(tmp_path / "whole.pdb", ligand="UNL", radius=60)
    assert columns(whole) == columns(read_pocket(protein, centre=(4, 4, 7), radius=60))


def test_pieces_are_sound_and_lie_where_they_lay(tmp_path: Path) -> None:
    (tmp_path / "m.smi").write_text("O=C(Nc1ccccc1)C1CCN(Cc2ccco2)CC1 a")
    (mine,) = read(tmp_path / "m.smi")
    found = pieces(mine, 5, 12, 50)
    assert len(found) > 5 and len({one.smiles() for one in found}) == len({one.inchikey() for one in found})
    for one in found:
        assert one.sound and 5 <= int((one.elements > 1).sum()) <= 12
        far = np.linalg.norm(one.positions[:, None] - mine.positions, axis=-1).min(1)
        moved = np.flatnonzero(far > 1e-9)
        assert 1 <= len(moved) <= 2 and (one.elements[moved] == 1).all()  # caps, and nothing else
        (ends,) = (one.orders[moved].argmax(1),)
        length = np.linalg.norm(one.positions[moved] - one.positions[ends], axis=-1)
        assert ((length > 0.9) & (length < 1.4)).all()
    some = pieces(mine, 5, 12, 3, seed=4)
    assert [len(one) for one in some] == [len(one) for one in pieces(mine, 5, 12, 3, seed=4)] and len(some) == 3
    assert pieces(mine, 30, 40, 3) == []


def test_proteins_are_held_out_by_cluster_and_examples_lie_around_their_pocket(data_root: Path) -> None:
    every = series(data_root)
    held, seen = ({one.known["cluster"] for one in every if one.held == flag} for flag in (True, False))
    assert len(every) == 80 and not held & seen and len(held) == 6 and len(seen) == 35
    assert sum(len(one.ligands) for one in every) == 1110
    assert len(load_complexes("train", data_root)) + len(load_complexes("test", data_root)) == 1110
    for one in every[::10]:
        assert min(one.pocket.overlap(ligand) for ligand in one.ligands) < 0.3  # posed, not far away
        assert one.pocket.contacts(one.ligands[0]) > 2
    test = PocketLigands(pieces=0, most=26, scatter=0.5).load("test", data_root)
    plain = PocketLigands(pieces=0, most=26).load("test", data_root)
    assert len(test) == len(plain) > 20
    off = [example.artifact.positions.mean(0) for example in test]
    assert 0.3 < np.std(off) < 0.7
    for scattered, example in zip(test[:5], plain[:5], strict=True):
        assert np.abs(example.artifact.positions.mean(0)).max() < 1e-9
        for row in (scattered, example):
            np.testing.assert_allclose(row.cond["pocket"].centre, 0, atol=1e-9)
        a, b = (row.cond["pocket"].contacts(row.artifact) for row in (scattered, example))
        assert a == b > 0  # both are in one frame
    with pytest.raises(DataError, match='"train" or "test"'):
        load_complexes("valid", data_root)

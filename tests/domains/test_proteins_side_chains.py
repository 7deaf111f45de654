"""Side chains: read, kept through everything, written, put back with a motif, moved with their residues, measured."""

from __future__ import annotations

import copy
import math
import pickle
import shutil
import subprocess
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff.sampling.solvers import Euler
from gendiff_proteins import (
    Ideal,
    Motif,
    Proteins,
    Relaxation,
    Structure,
    StructureError,
    Structures,
    Symmetric,
    load,
    metrics,
    rank,
    read,
    rebuilt,
    refined,
    scaffold,
    write,
    write_ranking,
)
from gendiff_proteins.atoms import ATOM37, ATOMS_OF, CHI, PLACE, SIDE, SYMMETRIC
from gendiff_proteins.contacts import clashes, contact_order, side_clashes
from gendiff_proteins.names import STANDARD
from gendiff_proteins.side_chains import chi, chirality, near_wells, rotameric
from gendiff_proteins.superpose import rmsd
from gendiff_proteins.symmetry import group


@pytest.fixture(scope="module")
def zoo(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    with tarfile.open(data_root / "proteins" / "parser_zoo.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "parser_zoo"


@pytest.fixture(scope="module")
def lysozyme(zoo: Path) -> Structure:
    return read(zoo / "biotite/pdb/1aki.pdb")


@pytest.fixture(scope="module")
def model() -> gendiff.Model:
    return gendiff.Model.new(Proteins(source=Ideal(count=8)), width=32, depth=2, heads=4, pair=8)


def parsed(path: Path) -> Any:
    """The first model of a file by Biopython, which may not warn."""
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    parser = PDBParser(PERMISSIVE=False) if path.suffix == ".pdb" else MMCIFParser()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parser.get_structure("x", str(path))
    assert found is not None
    return found[0]


def same(a: Structure, b: Structure, within: float = 6e-4) -> None:
    assert (a.sequence, a.numbers, a.chains) == (b.sequence, b.numbers, b.chains)
    np.testing.assert_allclose(a.atom37, b.atom37, atol=within, rtol=0)


def heavy(structure: Structure) -> torch.Tensor:
    """All heavy atoms [M, 3] but OXT."""
    atoms = structure.atom37[:, :-1]
    return torch.from_numpy(atoms[np.isfinite(atoms).all(-1)])


def at(structure: Structure, residue: int, name: str) -> np.ndarray:
    return structure.atom37[residue, ATOM37.index(name)]


def test_the_order_is_alphafolds_and_every_residue_has_its_atoms() -> None:
    order = "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 NH1 "
    assert " ".join(ATOM37) == order + "NH2 OH CZ CZ2 CZ3 NZ OXT"
    assert len(SIDE) == 33 and not {"N", "CA", "C", "O"} & set(SIDE)
    counts = dict(
        zip("ARNDCQEGHILKMFPSTWYV", (5, 11, 8, 8, 6, 9, 9, 4, 10, 8, 8, 9, 8, 11, 7, 6, 7, 14, 12, 7), strict=True)
    )
    assert {letter: 4 + len(names) for letter, names in ATOMS_OF.items()} == counts
    assert all(set(names) <= set(ATOMS_OF[letter]) for letter, names in CHI.items())


@pytest.mark.parametrize("name", ["biotite/pdb/1aki.pdb", "biotite/pdb/1dix.cif", "biopython/PDB/4CUP.cif"])
def test_every_heavy_atom_is_where_biopython_has_it(zoo: Path, name: str) -> None:
    structure, report = load(zoo / name)
    theirs: dict[tuple[str, str], Any] = {}
    for chain in parsed_quietly(zoo / name):
        theirs |= {(chain.id, f"{residue.id[1]}{residue.id[2].strip()}"): residue for residue in chain}
    compared = 0
    for i, key in enumerate(zip(structure.chains, structure.numbers, strict=True)):
        if theirs[key].is_disordered():
            continue
        atoms = {atom.name: atom.coord for atom in theirs[key] if atom.element not in ("H", "D")}
        own = {name: x for name, x in zip(ATOM37, structure.atom37[i], strict=True) if np.isfinite(x).all()}
        assert own.keys() == atoms.keys(), key
        assert all(np.abs(own[name] - atoms[name]).max() < 1e-3 for name in own)
        compared += len(own)
    assert compared > 700 and report.atoms["kept"] >= compared


def parsed_quietly(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from Bio.PDB.MMCIFParser import MMCIFParser
        from Bio.PDB.PDBParser import PDBParser

        found = (PDBParser if path.suffix == ".pdb" else MMCIFParser)(QUIET=True).get_structure("x", str(path))
    assert found is not None
    return found[0]


def test_three_formats_of_one_entry_have_the_same_side_chains(zoo: Path) -> None:
    for name in ("1aki", "1dix", "1k6p"):
        (a, told), *others = (load(zoo / "biotite/pdb" / f"{name}.{end}") for end in ("pdb", "cif", "bcif"))
        assert a.side is not None and np.isfinite(a.side[..., 0]).sum() > 3 * len(a)
        for b, report in others:
            same(a, b, 1e-6)
            assert report.atoms == told.atoms


def test_every_row_of_an_atom_is_counted_once(zoo: Path) -> None:
    counted = 0
    for path in sorted(zoo.rglob("*")):
        if not path.is_file() or path.stat().st_size > 400_000:
            continue
        try:
            structure, report = load(path)
        except StructureError:
            continue
        assert sum(report.atoms.values()) == report.rows and min(report.atoms.values()) >= 0, path
        side = 0 if structure.side is None else np.isfinite(structure.side[..., 0]).sum()
        assert report.atoms["kept"] == 4 * len(structure) - len(report.placed) + side, path
        if path.suffix == ".pdb":
            first = path.read_text(errors="replace").split("\nENDMDL")[0].splitlines()
            assert report.rows == sum(line.startswith(("ATOM", "HETATM")) for line in first), path
            counted += 1
    assert counted > 20


def test_they_survive_all_that_structures_go_through(lysozyme: Structure) -> None:
    side = lysozyme.sides
    chosen = lysozyme["A30-40", "A5"]
    assert np.array_equal(chosen.sides, np.concatenate([side[29:40], side[4:5]]), equal_nan=True)
    (whole,) = lysozyme.pieces()
    again = pickle.loads(pickle.dumps(lysozyme))  # noqa: S301 - as worker processes do
    for other in (whole, again, copy.deepcopy(lysozyme), replace(lysozyme, name="b")):
        assert np.array_equal(other.sides, side, equal_nan=True)
    mirror = lysozyme.mirrored().sides
    assert np.array_equal(mirror[..., 1:], side[..., 1:], equal_nan=True)
    assert np.array_equal(mirror[..., 0], -side[..., 0], equal_nan=True)


def test_where_there_are_none_nothing_is_stored(lysozyme: Structure, tmp_path: Path) -> None:
    bare = replace(lysozyme, side=None)
    write(bare, tmp_path / "a.pdb")
    assert read(tmp_path / "a.pdb").side is None and np.isnan(bare.sides).all()
    glycines = [i for i, letter in enumerate(lysozyme.sequence) if letter == "G"]
    assert (
        lysozyme.take(glycines).side is None
        and replace(lysozyme, side=np.full_like(lysozyme.sides, np.nan)).side is None
    )
    assert np.array_equal(bare.atom37[:, [0, 1, 2, 4]], lysozyme.backbone)
    for name in ("a", "b"):
        write(lysozyme, tmp_path / f"{name}.pdb")
    examples = Structures(str(tmp_path), min_length=20).load("train")
    assert examples.artifacts[0].side is None  # networks see backbones, and a data set's memory is theirs


def test_what_does_not_fit_is_refused(lysozyme: Structure) -> None:
    with pytest.raises(StructureError, match=r"shape \(3, 33, 3\).*\[129, 33, 3\]"):
        replace(lysozyme, side=lysozyme.sides[:3])
    with pytest.raises(StructureError, match=r"atom CG in residue A1, whose letter is A.*side=None"):
        replace(lysozyme, sequence="A" * 129)
    assert replace(lysozyme, sequence="A" * 129, side=None).side is None
    half = lysozyme.sides.copy()
    half[0, 0, 1] = np.nan
    with pytest.raises(StructureError, match="not finite"):
        replace(lysozyme, side=half)


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_what_is_written_comes_back_and_others_read_it(zoo: Path, tmp_path: Path, suffix: str) -> None:
    for name in ("biotite/pdb/1aki.pdb", "biopython/PDB/4ZHL.cif", "gemmi/tests/1orc.pdb"):
        structure, path = read(zoo / name), tmp_path / f"a.{suffix}"
        write(structure, path)
        again, report = load(path)
        same(structure, again)
        assert report.atoms == {"kept": report.rows} and not report.foreign
        theirs = list(parsed(path).get_atoms())
        assert len(theirs) == np.isfinite(structure.atom37[..., 0]).sum()
        assert {atom.element for atom in theirs} == {
            "C",
            "N",
            "O",
            "S",
        } and "SIDE CHAINS OF" in path.read_text().upper()
        for residue in parsed(path).get_residues():
            assert {atom.name for atom in residue} <= {"N", "CA", "C", "O", "OXT", *ATOMS_OF[STANDARD[residue.resname]]}


def test_columns_of_pdb_hold_names_and_elements_where_they_belong(lysozyme: Structure, tmp_path: Path) -> None:
    write(lysozyme, tmp_path / "a.pdb")
    lines = [line for line in (tmp_path / "a.pdb").read_text().splitlines() if line.startswith("ATOM")]
    assert {len(line) for line in lines} == {78}
    assert lines[4][:54] == "ATOM      5  CB  LYS A   1    " + "".join(f"{x:8.3f}" for x in at(lysozyme, 0, "CB"))
    names = [line[12:16] for line in lines if line[22:26] == "   1"]
    assert names == [" N  ", " CA ", " C  ", " O  ", " CB ", " CG ", " CD ", " CE ", " NZ "]
    assert all(line[76:78] == f" {line[13]}" for line in lines) and lines[-1][12:16] == " OXT"


@pytest.mark.skipif(shutil.which("mkdssp") is None, reason="mkdssp is not installed")
def test_mkdssp_reads_every_residue_without_a_warning(lysozyme: Structure, tmp_path: Path) -> None:
    write(lysozyme, tmp_path / "a.cif")
    command = ["mkdssp", "--output-format=dssp", str(tmp_path / "a.cif"), str(tmp_path / "a.dssp")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not done.stderr
    found = (tmp_path / "a.dssp").read_text().splitlines()
    rows = found[next(i for i, line in enumerate(found) if line.startswith("  #  RESIDUE")) + 1 :]
    assert "".join(row[13] if row[13].isupper() else "C" for row in rows) == lysozyme.sequence  # a, b: cystines


RESIDUE = (
    ("N", 0.0, 0.0, 0.0), ("CA", 1.458, 0.0, 0.0), ("C", 2.0, 1.42, 0.0), ("O", 1.25, 2.39, 0.0),
    ("CB", 1.97, -0.77, -1.2), ("OG", 1.5, -0.3, -2.4),
)  # fmt: skip


def rows(*atoms: tuple[str, float, float, float], name: str = "SER", **how: Any) -> str:
    """PDB records of one residue."""
    letter, occupancy, record = how.get("letter", " "), how.get("occupancy", 1.0), how.get("record", "ATOM  ")
    return "".join(
        f"{record}{k:5d}  {atom:<3s}{letter}{name} A{how.get('number', 1):4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
        f"{occupancy:6.2f}  0.00          {how.get('element') or atom[0]:>2s}\n"
        for k, (atom, x, y, z) in enumerate(atoms, start=1)
    )


def loaded(tmp_path: Path, text: str) -> Any:
    (tmp_path / "a.pdb").write_text(text)
    return load(tmp_path / "a.pdb")


def moved(atoms: Any, shift: float) -> list[tuple[str, float, float, float]]:
    return [(name, x, y, z + shift) for name, x, y, z in atoms]


@pytest.mark.parametrize(("occupancy", "shift"), [((0.7, 0.3), 0.1), ((0.3, 0.7), 0.2)])
def test_a_side_chain_at_two_places_is_taken_from_one(tmp_path: Path, occupancy: Any, shift: float) -> None:
    text = rows(*RESIDUE[:4]) + "".join(
        rows(*moved(RESIDUE[4:], z), letter=letter, occupancy=share)
        for z, letter, share in zip((0.1, 0.2), "AB", occupancy, strict=True)
    )
    structure, report = loaded(tmp_path, text)
    assert at(structure, 0, "OG")[2] == pytest.approx(-2.4 + shift, abs=1e-6)
    assert report.atoms == {"kept": 6, "at another location": 2} and report.altlocs == ("A1 SER",)


def test_the_side_chain_is_of_the_location_of_the_backbone(tmp_path: Path) -> None:
    text = rows(*RESIDUE[:4], letter="A", occupancy=0.4) + rows(*RESIDUE[4:], letter="A", occupancy=0.9)
    text += rows(*moved(RESIDUE[:4], 0.5), letter="B", occupancy=0.6)
    text += rows(*moved(RESIDUE[4:], 0.5), letter="B", occupancy=0.1)
    structure, report = loaded(tmp_path, text)
    assert structure.backbone[0, 0, 2] == 0.5 and at(structure, 0, "CB")[2] == pytest.approx(-0.7)
    assert report.atoms == {"kept": 6, "at another location": 6}


def test_modified_residues_keep_what_their_parent_has_and_the_rest_is_said(tmp_path: Path) -> None:
    phosphate = (("P", 1.9, -1.2, -3.6), ("O1P", 1.0, -2.3, -3.9), ("O2P", 3.3, -1.6, -3.4))
    structure, report = loaded(tmp_path, rows(*RESIDUE, *phosphate, name="SEP"))
    assert structure.sequence == "S" and at(structure, 0, "OG")[2] == -2.4
    assert report.foreign == ("A1 SEP: P O1P O2P",) and "A1 SEP: P O1P O2P" in str(report)
    assert report.atoms == {"kept": 6, "that their letter has not": 3}
    selenium = (("CB", 1.97, -0.77, -1.2), ("CG", 1.5, -0.3, -2.4), ("SE", 2.0, -1.2, -4.0), ("CE", 1.0, -0.2, -5.2))
    structure, report = loaded(
        tmp_path,
        rows(*RESIDUE[:4], *selenium[:2], name="MSE")
        + rows(selenium[2], name="MSE", element="SE")
        + rows(selenium[3], name="MSE"),
    )
    assert structure.sequence == "M" and at(structure, 0, "SD")[2] == -4.0 and at(structure, 0, "CE")[2] == -5.2
    assert report.atoms == {"kept": 8} and report.parents == ("A1 MSE",)
    unknown, report = loaded(tmp_path, rows(*RESIDUE, name="UNK"))
    assert unknown.sequence == "X" and unknown.side is None and report.foreign == ("A1 UNK: CB OG",)


def test_hydrogens_are_counted_and_other_names_of_an_atom_known(tmp_path: Path) -> None:
    hydrogens = rows(("H", 0.5, 0.9, 0.3), ("1HB", 1.0, 1.0, 1.0)).replace("           1\n", "           H\n")
    text = rows(*RESIDUE[:5], name="ILE") + rows(("CG1", 1.5, -0.3, -2.4), ("CD", 2.0, -1.2, -3.6), name="ILE")
    structure, report = loaded(tmp_path, text + hydrogens.replace("SER", "ILE"))
    assert at(structure, 0, "CD1")[2] == -3.6 and report.atoms == {"kept": 7, "hydrogens": 2}
    both = text + rows(("CD1", 2.0, -1.2, -3.7), name="ILE")
    structure, report = loaded(tmp_path, both)
    assert at(structure, 0, "CD1")[2] == -3.7 and report.foreign == ("A1 ILE: CD",)
    ends = rows(*RESIDUE[:3], ("OT1", 1.25, 2.39, 0.0), ("OT2", 3.3, 1.6, 0.0), *RESIDUE[4:])
    structure, report = loaded(tmp_path, ends)
    assert structure.backbone[0, 3, 0] == 1.25 and at(structure, 0, "OXT")[0] == 3.3 and not report.placed


@pytest.mark.parametrize("bad", ["     nan", "   1.1.1", " 999.000"])
def test_a_side_chain_atom_without_a_place_costs_itself_alone(tmp_path: Path, bad: str) -> None:
    text = rows(*RESIDUE)
    last = text.splitlines(keepends=True)[-1]
    structure, report = loaded(tmp_path, text.replace(last, last[:30] + bad + last[38:]))
    assert len(structure) == 1 and np.isfinite(at(structure, 0, "CB")).all() and np.isnan(at(structure, 0, "OG")).all()
    assert report.atoms == {"kept": 5, "without a place": 1} and not report.dropped


def test_a_stray_row_of_a_side_chain_is_no_copy_of_its_residue(tmp_path: Path) -> None:
    following = [(name, x, y + 3.8, z) for name, x, y, z in RESIDUE]
    stray = rows(RESIDUE[5])
    text = rows(*RESIDUE) + rows(*following[:2], number=2) + stray + rows(*following[2:], number=2)
    structure, report = loaded(tmp_path, text)
    assert structure.numbers == ("1", "2") and report.atoms == {"kept": 12, "given twice": 1}


def test_a_motif_keeps_its_side_chains_in_a_finished_design(
    model: gendiff.Model, lysozyme: Structure, tmp_path: Path
) -> None:
    motif = scaffold(lysozyme, "8/A5-24/6/A120-129/5")
    wanted = motif.structure
    assert wanted.side is not None and np.isfinite(at(wanted, 29, "OXT")).all()
    for k, design in enumerate(Relaxation(steps=10)(model.sample(2, given=motif, sampler=Euler(3), seed=1))):
        write(design, tmp_path / f"{k}.pdb")
        for one in (design, read(tmp_path / f"{k}.pdb")):
            found = motif.find(one)
            assert float(rmsd(heavy(found), heavy(wanted))) < 1e-3 and len(heavy(found)) == len(heavy(wanted)) > 220
            made = np.setdiff1d(np.arange(len(one)), motif.places)
            assert np.isnan(one.sides[made]).all() and np.isnan(one.sides[:, PLACE["OXT"]]).all()
        assert np.array_equal(motif.find(design).sides[:, :-1], wanted.sides[:, :-1], equal_nan=True)
    ending = scaffold(lysozyme, "8/A120-129")
    assert np.isfinite(at(model.sample(1, given=ending, sampler=Euler(2))[0], -1, "OXT")).all()
    target = scaffold(lysozyme, "A1-129/0 12")
    (beside,) = model.sample(1, given=target, sampler=Euler(2))
    same(beside["A"], lysozyme, 1e-9)


def test_a_motif_about_axes_has_its_side_chains_in_every_image(model: gendiff.Model, lysozyme: Structure) -> None:
    piece = lysozyme["A5-14"]
    across = np.array([9.0, 1.0, 30.0]) - piece.ca.mean(0)
    placed = replace(piece, backbone=piece.backbone + across, side=piece.sides + across)
    asked = Symmetric("D2", 18, motif=Motif(placed, tuple(range(4, 14)), 18))
    (one,) = model.sample(1, given=asked, sampler=Euler(3))
    for k, turn in enumerate(group("D2")):
        image = one.take(list(range(18 * k + 4, 18 * k + 14)))
        np.testing.assert_allclose(image.sides, placed.sides @ turn.T, atol=1e-9)
        assert float(rmsd(heavy(image), heavy(placed))) < 1e-3
    assert np.isnan(one.sides[14:22]).all()
    plain = Symmetric("C2", 18)
    assert model.sample(1, given=plain, sampler=Euler(2))[0].side is None


def inner(structure: Structure) -> np.ndarray:
    """Side chains [N, 33, 3] in the frames of their residues."""
    from gendiff_proteins.frames import frames_from_backbone

    pos, rot = (x.numpy() for x in frames_from_backbone(torch.from_numpy(structure.backbone)))
    return np.einsum("nka,nab->nkb", structure.sides - pos[:, None], rot)


def test_side_chains_go_with_their_residue(lysozyme: Structure) -> None:
    (found,) = refined([lysozyme], noise=0.6)
    steps = np.linalg.norm(found.ca - lysozyme.ca, axis=-1)
    assert steps.max() > 0.05 and np.isfinite(found.atom37).sum() == np.isfinite(lysozyme.atom37).sum()
    np.testing.assert_allclose(inner(found), inner(lysozyme), atol=1e-9)
    assert chirality(found) == chirality(lysozyme)
    held = replace(lysozyme, known=tuple("" if k % 2 else f"A{k + 1}" for k in range(129)))
    (found,) = Relaxation(steps=20)([held])
    assert np.array_equal(found.sides[::2], lysozyme.sides[::2], equal_nan=True)
    assert np.nanmax(np.abs(found.sides[1::2] - lysozyme.sides[1::2])) > 0.01


def test_what_is_rebuilt_keeps_the_rest(model: gendiff.Model, lysozyme: Structure) -> None:
    broken = lysozyme.take([*range(20), *range(24, 129)])
    (one,) = rebuilt(model, broken, sampler=Euler(3))
    old = [*range(20), *range(24, 129)]
    assert one.numbers == lysozyme.numbers and np.isnan(one.sides[20:24]).all()
    assert np.array_equal(one.take(old).sides, broken.sides, equal_nan=True)


def test_chi_and_omega_are_biopythons(zoo: Path) -> None:
    compared = 0
    for name in ("biotite/pdb/1aki.pdb", "gemmi/tests/1orc.pdb"):
        structure, theirs = read(zoo / name), parsed_quietly(zoo / name)
        angles, omega = chi(structure), metrics.omegas(structure)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.atom_to_internal_coordinates()
        places = {key: i for i, key in enumerate(zip(structure.chains, structure.numbers, strict=True))}
        for residue in theirs.get_residues():
            i = places.get((residue.get_parent().id, f"{residue.id[1]}{residue.id[2].strip()}"))
            if i is None or residue.internal_coord is None:
                continue
            own = [*angles[i], omega[i]]
            for k, (x, label) in enumerate(zip(own, ("chi1", "chi2", "chi3", "chi4", "omg"), strict=True)):
                other = residue.internal_coord.get_angle(label)
                assert (other is None) == math.isnan(x), (name, i, label)
                if other is not None:
                    turn = 180 if SYMMETRIC.get(structure.sequence[i]) == k + 1 else 360
                    assert abs((x - other + turn / 2) % turn - turn / 2) < 0.01
                    compared += 1
    assert compared > 450


def test_chi_of_alike_atoms_does_not_hang_on_their_names(lysozyme: Structure) -> None:
    swapped = lysozyme.sides.copy()
    for letter, one, other in (("D", "OD1", "OD2"), ("E", "OE1", "OE2"), ("F", "CD1", "CD2"), ("Y", "CD1", "CD2")):
        own = [i for i, kind in enumerate(lysozyme.sequence) if kind == letter]
        swapped[np.ix_(own, [PLACE[one], PLACE[other]])] = lysozyme.sides[np.ix_(own, [PLACE[other], PLACE[one]])]
    there, again = chi(lysozyme), chi(replace(lysozyme, side=swapped))
    off = np.nanmax(np.abs((again - there + 90) % 180 - 90))
    assert 0 < off < 20  # the two are alike as far as the ring or the group is flat
    one = [(i, SYMMETRIC[kind] - 1) for i, kind in enumerate(lysozyme.sequence) if kind in SYMMETRIC]
    assert all(-90 < x[i, k] <= 90 for x in (there, again) for i, k in one) and len(one) == 15
    a, b = (np.delete(x, [i for i, _ in one], 0) for x in (there, again))
    np.testing.assert_allclose(a, b)


def test_rotamers_of_a_crystal_lie_in_wells_and_random_ones_do_not(lysozyme: Structure) -> None:
    one, two = rotameric([lysozyme])
    assert one > 0.9 and two > 0.8
    assert near_wells(np.array([-60.0, 60, 180, -179, 89, -31, 31, 91, 0, 120])) == pytest.approx(0.7)
    assert near_wells(np.random.default_rng(0).uniform(-180, 180, 4000)) == pytest.approx(0.5, abs=0.03)
    assert all(math.isnan(x) for x in rotameric([replace(lysozyme, side=None)]))
    assert all(
        math.isnan(x) for x in rotameric([lysozyme.take([i for i, k in enumerate(lysozyme.sequence) if k in "PAG"])])
    )


def test_hands_are_l_in_crystals_and_d_in_the_mirror(lysozyme: Structure) -> None:
    said = chirality(lysozyme)
    assert said == "".join("-" if letter == "G" else "L" for letter in lysozyme.sequence)
    assert chirality(lysozyme.mirrored()) == said.replace("L", "D")
    side = lysozyme.sides.copy()
    n, ca, c = lysozyme.backbone[2, :3]
    normal = np.cross(n - ca, c - ca)
    cb = PLACE["CB"]
    side[2, cb] -= 2 * ((side[2, cb] - ca) @ normal) / (normal @ normal) * normal  # to the other side of N, CA, C
    assert chirality(replace(lysozyme, side=side)) == said[:2] + "D" + said[3:]
    assert chirality(replace(lysozyme, side=None)) == "-" * 129


def test_peptides_are_trans_cis_or_twisted() -> None:
    from gendiff_proteins.ideal import HELIX, build

    omega = np.full((1, 24), 180.0)
    omega[0, [3, 10, 15]] = 0.0, 155.0, -100.0
    helix = Structure(build(np.tile(np.array(HELIX), (1, 24, 1)), omega)[0], chains=("A",) * 20 + ("B",) * 4)
    assert metrics.peptides(helix) == {"trans": 20, "cis": 1, "twisted": 1}
    assert metrics.twisted_share([helix]) == pytest.approx(1 / 22)
    assert np.isnan(metrics.omegas(helix)[[0, 20]]).all()


def test_clashes_are_those_of_every_pair(lysozyme: Structure) -> None:
    """A methyl of valine 99 put next to the ring of tyrosine 20; four disulfides and bound neighbours are none."""
    assert clashes(lysozyme) == [("A45 NH2", "A68 NH2", pytest.approx(0.945, abs=1e-3))]  # as the entry has it
    side = lysozyme.sides.copy()
    side[98, PLACE["CG1"]] = at(lysozyme, 19, "CZ") + 0.5
    broken = replace(lysozyme, side=side)
    found = clashes(broken)
    assert ("A20 CZ", "A99 CG1", pytest.approx(3.4 - 0.5 * 3**0.5)) in found and len(found) == side_clashes(broken) > 1
    radii = {"C": 1.7, "N": 1.55, "O": 1.52, "S": 1.8}
    atoms = [
        (i, name[0], x)
        for i, own in enumerate(broken.atom37)
        for name, x in zip(ATOM37, own, strict=True)
        if x[0] == x[0]
    ]
    places, kinds, x = (list(column) for column in zip(*atoms, strict=True))
    far = np.linalg.norm(np.array(x)[:, None] - np.array(x)[None], axis=-1)
    reach = np.array([radii[kind] for kind in kinds])
    near = reach[:, None] + reach[None] - far >= 0.9
    apart = np.subtract.outer(places, places) > 1
    bridges = np.outer(np.array(kinds) == "S", np.array(kinds) == "S")
    assert (near & apart & ~bridges).sum() == len(found) and (near & apart & bridges).sum() == 4
    assert clashes(replace(broken, side=None)) == [] and metrics.atom_clashes(broken) == 0


def test_contact_order_counts_every_pair_of_atoms(lysozyme: Structure) -> None:
    piece = lysozyme["A1-60"]
    two = Structure(
        np.concatenate([piece.backbone, piece.backbone[:20] + 3.0]), chains=("A",) * 60 + ("B",) * 20,
    )  # fmt: skip

    def by_hand(atoms: np.ndarray) -> float:
        apart = [
            j - i
            for i in range(len(atoms)) for j in range(i + 1, len(atoms))
            for a in atoms[i] for b in atoms[j]
            if np.sqrt(((a - b) ** 2).sum()) <= 6.0
        ]  # fmt: skip
        return float(np.mean(apart)) / len(atoms)

    assert contact_order(piece) == pytest.approx(by_hand(piece.backbone))
    assert contact_order(piece, side_chains=True) == pytest.approx(by_hand(piece.atom37))
    alone = [contact_order(two.take(slice(a, b))) for a, b in ((0, 60), (60, 80))]
    assert contact_order(two) == pytest.approx((60 * alone[0] + 20 * alone[1]) / 80)
    assert 0.05 < contact_order(lysozyme, side_chains=True) < 0.2
    assert math.isnan(contact_order(piece.take([4])))


def test_a_ranking_tells_of_side_chains_where_there_are_some(lysozyme: Structure, tmp_path: Path) -> None:
    bare = replace(lysozyme, side=None, name="bare")
    assert "side_clashes" not in rank([bare])[0]
    side = lysozyme.sides.copy()
    side[98, PLACE["CG1"]] = at(lysozyme, 19, "CZ") + 0.5
    broken = replace(lysozyme, side=side, name="broken")
    rows: Any = write_ranking([broken, lysozyme, bare], tmp_path / "rank.csv")
    assert [row["name"] for row in rows] == ["bare", "1aki", "broken"]
    assert [row["d_residues"] for row in rows[1:]] == [0, 0] and rows[1]["rotameric_chi1"] > 0.9
    assert math.isnan(rows[0]["side_clashes"]) and rows[1]["side_clashes"] == 1 < rows[2]["side_clashes"]
    assert all(row["faults"] * 129 == pytest.approx(rows[0]["faults"] * 129 + row["side_clashes"]) for row in rows[1:])
    assert (tmp_path / "rank.csv").read_text().splitlines()[1].endswith(",,,")

"""Files: every specimen of the parser zoo is read or refused with a reason; what is written comes back."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendiff_proteins import Ideal, Report, Structure, StructureError, load, read, write
from gendiff_proteins.ideal import HELIX, build

Row = dict[str, str]


@pytest.fixture(scope="module")
def zoo(data_root, tmp_path_factory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("zoo")
    with tarfile.open(data_root / "proteins" / "parser_zoo.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    with (data_root / "proteins" / "parser_zoo.csv").open(encoding="utf-8") as file:
        return folder, list(csv.DictReader(file))


def helix(size: int = 12) -> Structure:
    return Structure(build(np.tile(np.array(HELIX), (1, size, 1)))[0], "ACDEFGHIKLMNPQRSTVWY"[:size], name="helix")


# Residues that the table calls amino acids with a backbone, but that are no part of a chain (ligands), by file.
NO_CHAIN = ("hetatm", "vu7", "LIG", "unl_ligand", "example_ncaa", "a_structure.pdb", "1EN2_err", "1AKE_err_a")


def attempt(path: Path) -> tuple[tuple[Structure, Report] | None, str]:
    try:
        return load(path), ""
    except StructureError as error:
        return None, str(error)


def test_every_specimen_is_read_or_refused_with_path_and_reason(zoo: tuple[Path, list[Row]]) -> None:
    folder, rows = zoo
    assert len(rows) == 108
    read_ones = 0
    for row in rows:
        path = folder / row["path"]
        found, error = attempt(path)
        if found is None:
            assert str(path) in error and len(error) > len(str(path)) + 10, row
            nothing = row["note"] or not int(row["residues"] or 0)
            no_protein = row["missing_bb"] == row["residues"] or int(row["nucleic"] or 0) > 0
            only_hetero = int(row["hetatm"] or 0) > 0 or row["path"].endswith(("ions.pdb", "dummy_nohead.pdb"))
            broken = int(row["missing_bb"] or 0) > 0
            known = any(name in row["path"] for name in NO_CHAIN)
            assert nothing or no_protein or only_hetero or broken or known, f"{row} was refused: {error}"
            continue
        structure, report = found
        read_ones += 1
        assert len(structure) == report.kept > 0 and np.isfinite(structure.backbone).all()
        if row["ok"] == "0":  # the table's reader could not: a binary file, or one broken on purpose, which is said
            assert ".bcif" in row["path"] or any("rows with" in note for note in report.notes), row
            continue
        assert report.models == int(row["models"]), row
        assert sum(report.chains.values()) == report.kept <= int(row["residues"]), row
        assert len(report.altlocs) <= int(row["altloc"]), row
        assert sum(number[-1].isalpha() for number in structure.numbers) <= int(row["icode"]), row
        assert len(report.parents) >= int(row["mse"]), row
        assert str(report.kept) in str(report)
    assert read_ones >= 65


@pytest.mark.parametrize(
    ("name", "kept", "what"),
    [
        ("biotite/pdb/1aki.cif", 129, {}),
        ("biotite/pdb/1aki.pdb", 129, {}),
        ("biotite/pdb/1dix.pdb", 208, {"icode": 4}),
        ("biopython/PDB/4ZHL.cif", 257, {"icode": 19}),
        ("biopython/PDB/1A8O.pdb", 70, {"parents": 4}),
        ("biopython/PDB/1LCD.pdb", 51, {"models": 3}),
        ("biotite/pdb/4i39.cif", 125, {"altlocs": 125}),
        ("biotite/pdb/1k6p.pdb", 198, {"altlocs": 8}),
        ("biopython/PDB/6WQA.cif", 391, {"altlocs": 6, "breaks": 1}),
        ("gemmi/tests/1orc.pdb", 64, {"icode": 5}),
        ("atomworks/io/2hhb.cif.gz", 574, {}),
        ("pdb-tools/data/dummy_altloc.pdb", 4, {"dropped": 1}),
    ],
)
def test_known_entries_by_name(zoo: tuple[Path, list[Row]], name: str, kept: int, what: dict[str, int]) -> None:
    structure, report = load(zoo[0] / "parser_zoo" / name)
    found = {
        "icode": sum(number[-1].isalpha() for number in structure.numbers),
        "parents": len(report.parents),
        "models": report.models,
        "altlocs": len(report.altlocs),
        "breaks": len(report.breaks),
        "dropped": sum(map(len, report.dropped.values())),
    }
    assert len(structure) == kept
    assert {key: found[key] for key in what} == what


def test_three_formats_of_one_entry_agree(zoo: tuple[Path, list[Row]]) -> None:
    for name in ("1aki", "1dix", "1k6p"):
        a, *others = (load(zoo[0] / "parser_zoo/biotite/pdb" / f"{name}.{end}") for end in ("pdb", "cif", "bcif"))
        for b in others:
            assert a[0].sequence == b[0].sequence and a[0].numbers == b[0].numbers and a[0].chains == b[0].chains
            assert np.abs(a[0].backbone - b[0].backbone).max() < 1e-6
            assert (a[1].residues, a[1].altlocs) == (b[1].residues, b[1].altlocs)


def independent_count(path: Path) -> int:
    """Residues of the first model by chain, number and insertion code, counted without the package's parser."""
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".cif" not in path.name:
        lines = text.split("\nENDMDL")[0].splitlines()
        return len({line[20:27] for line in lines if line.startswith(("ATOM", "HETATM"))})
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    table = MMCIF2Dict(io.StringIO(text))

    def column(name: str, other: str = "") -> list[str]:
        return table.get(f"_atom_site.{name}") or table[f"_atom_site.{other}"]

    rows = list(
        zip(
            column("pdbx_PDB_model_num"),
            column("auth_asym_id", "label_asym_id"),
            column("auth_seq_id", "label_seq_id"),
            column("pdbx_PDB_ins_code"),
            strict=True,
        )
    )
    return len({row for row in rows if row[0] == rows[0][0]})


# Broken in the middle of a row: the counts need not agree.
CUT = ("1AKE_err.cif", "1AKE_err_b.pdb")


def test_residues_in_the_file_are_kept_dropped_or_skipped(zoo: tuple[Path, list[Row]]) -> None:
    counted = 0
    for row in zoo[1]:
        path = zoo[0] / row["path"]
        found, _ = attempt(path)
        if found is None or ".bcif" in path.name or int(row["bytes"]) > 400_000 or path.name in CUT:
            continue
        counted += 1
        assert found[1].residues == independent_count(path), (row["path"], str(found[1]))
    assert counted > 45


def test_calcium_is_no_alpha_carbon(zoo: tuple[Path, list[Row]]) -> None:
    structure, report = load(zoo[0] / "parser_zoo/biopython/PDB/1GBT.cif")
    assert report.skipped["CA"] == 1 and len(structure) == 223


ATOM = "ATOM  {n:5d}  {atom:<3s}{alt}{res} A{num:4d}    {x:8.3f}{y:8.3f}{z:8.3f}{occ:6.2f}  0.00          {el:>2s}\n"


def pdb(residues: list[tuple[int, str, str, float, np.ndarray]]) -> str:
    """PDB text of (number, name, altloc, occupancy, atoms)."""
    lines, n = [], 0
    for num, res, alt, occ, atoms in residues:
        for atom, (x, y, z) in zip(("N", "CA", "C", "O"), atoms, strict=True):
            n += 1
            lines.append(ATOM.format(n=n, atom=atom, alt=alt, res=res, num=num, x=x, y=y, z=z, occ=occ, el=atom[0]))
    return "".join(lines)


@pytest.mark.parametrize(("occupancies", "chosen"), [((0.4, 0.6), 1), ((0.6, 0.4), 0), ((0.5, 0.5), 0)])
def test_the_location_with_the_highest_occupancy_wins_and_a_tie_goes_to_a(tmp_path, occupancies, chosen) -> None:
    atoms = helix(4).backbone
    two = [atoms[1], atoms[1] + 0.5]
    residues = [(1, "ALA", " ", 1.0, atoms[0])]
    residues += [(2, "SER", letter, occ, x) for letter, occ, x in zip("AB", occupancies, two, strict=True)]
    (tmp_path / "a.pdb").write_text(pdb([*residues, (3, "GLY", " ", 1.0, atoms[2])]))
    structure, report = load(tmp_path / "a.pdb")
    assert np.abs(structure.backbone[1] - two[chosen]).max() < 1e-3
    assert report.altlocs == ("A2 SER",)


def test_microheterogeneity_takes_one_residue_whole(tmp_path) -> None:
    atoms = helix(4).backbone
    residues = [(1, "ALA", " ", 1.0, atoms[0]), (2, "SER", "A", 0.3, atoms[1]), (2, "THR", "B", 0.7, atoms[1] + 0.1)]
    (tmp_path / "a.pdb").write_text(pdb([*residues, (3, "GLY", " ", 1.0, atoms[2])]))
    structure = read(tmp_path / "a.pdb")
    assert structure.sequence == "ATG"
    assert np.abs(structure.backbone[1] - atoms[1] - 0.1).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(text.splitlines(keepends=True)[5], ""), "backbone atoms missing"),
        (lambda text: text.replace(text.splitlines()[5][30:38], "     nan"), "coordinates not finite"),
        (lambda text: text.replace(text.splitlines()[5][30:38], " 999.000"), "impossible bond lengths"),
    ],
)
def test_bad_residues_are_dropped_with_the_reason_and_leave_a_break(tmp_path, change, reason) -> None:
    write(helix(), tmp_path / "a.pdb")
    lines = [line for line in (tmp_path / "a.pdb").read_text().splitlines(keepends=True) if line.startswith("ATOM")]
    (tmp_path / "b.pdb").write_text(change("".join(lines)))
    structure, report = load(tmp_path / "b.pdb")
    assert report.dropped == {reason: ("A2 CYS",)}
    assert len(structure) == 11 and structure.breaks == (0,) and report.breaks == ("A1 ALA to A3 ASP",)


def test_a_missing_oxygen_is_placed(tmp_path) -> None:
    write(helix(), tmp_path / "a.pdb")
    lines = (tmp_path / "a.pdb").read_text().splitlines(keepends=True)
    (tmp_path / "b.pdb").write_text("".join(line for line in lines if line[12:16] != " O  "))
    structure, report = load(tmp_path / "b.pdb")
    assert len(report.placed) == 12
    assert np.abs(structure.backbone - helix().backbone)[:-1].max() < 2e-2


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdb", b"", "empty"),
        ("a.pdb", b"  \n \n", "empty"),
        ("a.pdb", b"hello\nworld\n", "no atoms"),
        ("a.cif", b"hello\n", "no data block"),
        ("a.cif", b"data_x\n_entry.id x\n", "no atoms"),
        ("a.cif", b"data_x\nloop_\n_atom_site.id\n_atom_site.type_symbol\n1\n", "damaged mmCIF"),
        ("a.pdb", b"ATOM      1  N   ALA A   1   -1234.567-1234.567-1234.567  1.00\n", "damaged PDB"),
        ("a.pdb", b"ATOM      1  N\n", "damaged PDB"),
        ("a.pdb.gz", b"\x1f\x8bnot gzip", "cannot be read"),
        ("a.bcif", b"\x83\xa7", "damaged BinaryCIF"),
        ("a.mmtf", b"\x83\xa7", "binary format"),
        ("a.pdb", bytes(200), "binary data"),
    ],
)
def test_rubbish_is_one_error_with_the_path(tmp_path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StructureError, match=reason) as error:
        read(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_file_and_a_missing_suffix(tmp_path) -> None:
    with pytest.raises(StructureError, match="no such file"):
        read(tmp_path / "nothing.pdb")
    with pytest.raises(StructureError, match="suffix"):
        write(helix(), tmp_path / "a.xyz")


def test_two_data_blocks_ask_for_one(tmp_path) -> None:
    for k, size in enumerate((10, 12)):
        write(Structure(helix(size).backbone, name=f"part{k}"), tmp_path / f"{k}.cif")
    (tmp_path / "both.cif").write_text((tmp_path / "0.cif").read_text() + (tmp_path / "1.cif").read_text())
    with pytest.raises(StructureError, match=r"several structures \(part0, part1\)"):
        read(tmp_path / "both.cif")
    assert len(read(tmp_path / "both.cif", block="part1")) == 12
    with pytest.raises(StructureError, match="no data block 'part2'"):
        read(tmp_path / "both.cif", block="part2")


@settings(max_examples=40)
@given(
    sequence=st.text("ACDEFGHIKLMNPQRSTVWY", min_size=5, max_size=14),
    first=st.integers(-90, 800),
    codes=st.lists(st.sampled_from(["", "A", "Z"]), min_size=14, max_size=14),
    split=st.integers(1, 4),
    shift=st.tuples(*[st.floats(-800, 800)] * 3),
    suffix=st.sampled_from([".pdb", ".cif", ".pdb.gz"]),
)
def test_what_is_written_comes_back(tmp_path_factory, sequence, first, codes, split, shift, suffix) -> None:
    size = len(sequence)
    names = tuple(f"{first + i}{codes[i]}" for i in range(size))
    chains = ("A",) * split + ("b",) * (size - split)
    written = Structure(helix(12).backbone[np.arange(size) % 12] + np.arange(size)[:, None, None] // 12 * 40.0
                        + np.array(shift), sequence, names, chains, "one")  # fmt: skip
    path = tmp_path_factory.mktemp("round") / f"one{suffix.removesuffix('.gz')}"
    write(written, path)
    if suffix.endswith(".gz"):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    structure, report = load(path)
    assert (structure.sequence, structure.numbers, structure.chains) == (sequence, names, chains)
    assert np.abs(structure.backbone - written.backbone).max() < 6e-4  # three decimals, and Biopython's float32
    assert not report.dropped and structure.name == "one"


def test_models_are_written_one_after_the_other_and_long_ids_need_mmcif(tmp_path) -> None:
    a, b = helix(), Structure(helix().backbone + 5.0, helix().sequence)
    for suffix in ("pdb", "cif"):
        write([a, b], tmp_path / f"two.{suffix}")
        structure, report = load(tmp_path / f"two.{suffix}")
        assert report.models == 2 and np.abs(structure.backbone - a.backbone).max() < 1e-3
    for wide in (
        Structure(a.backbone + 1e4, a.sequence),
        Structure(a.backbone - 1e3, a.sequence),
        Structure(a.backbone, a.sequence, chains=("AAA",) * 12),
        Structure(a.backbone, a.sequence, numbers=tuple(str(10_000 + i) for i in range(12))),
        Structure(np.tile(a.backbone, (2100, 1, 1))),
    ):
        with pytest.raises(StructureError, match="mmCIF"):
            write(wide, tmp_path / "wide.pdb")
    long = Structure(a.backbone + 2e4, a.sequence, chains=("AAA",) * 12)
    write(long, tmp_path / "wide.cif")
    assert read(tmp_path / "wide.cif").chains == long.chains
    with pytest.raises(StructureError, match="nothing to write"):
        write([], tmp_path / "none.pdb")


def test_written_files_say_what_they_are_and_have_whole_columns(tmp_path) -> None:
    write(Structure(helix().backbone), tmp_path / "a.pdb")
    text = (tmp_path / "a.pdb").read_text()
    assert "UNKNOWN TYPE ARE WRITTEN AS GLY" in text and text.endswith("END   \n")
    atoms = [line for line in text.splitlines() if line.startswith("ATOM")]
    assert {len(line) for line in atoms} == {78} and len(atoms) == 48
    assert {line[17:20] for line in atoms} == {"GLY"}


def test_crlf_and_unknown_suffixes_are_sniffed(tmp_path) -> None:
    for suffix in ("pdb", "cif"):
        write(helix(), tmp_path / f"a.{suffix}")
        text = (tmp_path / f"a.{suffix}").read_text().replace("\n", "\r\n")
        (tmp_path / f"{suffix}.txt").write_bytes(text.encode())
        assert read(tmp_path / f"{suffix}.txt").sequence == helix().sequence


def test_selections() -> None:
    backbone = np.concatenate([helix(12).backbone, helix(12).backbone + 50])
    names = ("14", "15", "16", "16A", "16B", "17", "18", "20", "21", "22", "23", "24", *map(str, range(-3, 9)))
    structure = Structure(backbone, numbers=names, chains=("A",) * 12 + ("H",) * 12, name="1abc")
    assert structure["A16-17"].numbers == ("16", "16A", "16B", "17")
    assert structure["A16A"].numbers == ("16A",)
    assert structure["H-3-2"].numbers == ("-3", "-2", "-1", "0", "1", "2")
    assert len(structure["A"]) == 12 and len(structure["A14-18", "H1-2"]) == 9
    for wrong, message in (
        ("B1-2", "no chain 'B'"),
        ("A99", "the nearest residue is 24"),
        ("A18-14", "first residue before its last"),
        ("", "selection"),
    ):
        with pytest.raises(StructureError, match=message):
            structure[wrong]


def test_structures_check_what_they_hold() -> None:
    with pytest.raises(StructureError, match=r"shape \(3, 3\)"):
        Structure(np.zeros((3, 3)))
    with pytest.raises(StructureError, match="not finite"):
        Structure(np.full((3, 4, 3), np.nan))
    with pytest.raises(StructureError, match="2 sequence for 12 residues"):
        Structure(helix().backbone, "AA")
    pieces = Structure(np.concatenate([helix(5).backbone, helix(6).backbone + 20])).pieces()
    assert [len(p) for p in pieces] == [5, 6]


def test_gzip_and_report_text(zoo: tuple[Path, list[Row]]) -> None:
    _, report = load(zoo[0] / "parser_zoo/gemmi/tests/1pfe.cif.gz")
    text = str(report)
    assert "under the parent's letter: 4" in text and "D residues: 2 (B1 DSN, B5 DSN)" in text
    assert "chain B mixes hands" in text and "chain breaks" in text and "model 1 of 1" in text


def test_a_predicted_ring_is_closed_and_its_wrong_hands_are_told(zoo: tuple[Path, list[Row]]) -> None:
    found, report = load(next(zoo[0].rglob("7ubd_from_af3.cif")))
    assert found.cyclic == report.cyclic == ("A",)
    last, first = found.closures[0]
    assert np.linalg.norm(found.backbone[last, 2] - found.backbone[first, 0]) == pytest.approx(1.387, abs=1e-3)
    assert report.mirrored[:2] == ("A1 DAL", "A2 DPR") and found.hands[:2] == "DD"
    assert report.odd_hands == ("A4 DVA", "A6 DPR", "A8 DVA")  # AlphaFold 3 built these as L residues


def test_an_independent_parser_reads_what_is_written(tmp_path) -> None:
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    structure = Ideal(2, 32, 32).load("train")[0].artifact
    for suffix, parser in ((".pdb", PDBParser(QUIET=False)), (".cif", MMCIFParser(QUIET=False))):
        path = tmp_path / f"a{suffix}"
        write(structure, path)
        parsed = parser.get_structure("a", str(path))
        assert parsed is not None
        atoms = list(parsed.get_atoms())
        assert len(atoms) == 128
        assert np.abs(np.stack([atom.coord for atom in atoms]) - structure.backbone.reshape(-1, 3)).max() < 1e-3

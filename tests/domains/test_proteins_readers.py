"""Readers against what programs write in practice: each fault of a file is mended or named, and no residue is lost."""

from __future__ import annotations

import copy
import gzip
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gendiff_proteins import Ideal, Structure, StructureError, Structures, load, read, scaffold, write
from gendiff_proteins.ideal import HELIX, build
from gendiff_proteins.writing import THREE

Lines = list[str]


def helix(size: int = 12, letters: str = "ACDEFGHIKLMN") -> Structure:
    return Structure(build(np.tile(np.array(HELIX), (1, size, 1)))[0], (letters * size)[:size], name="helix")


def pdb_line(serial: str, atom: str, name: str, chain: str, number: str, at: np.ndarray, **how: str) -> str:
    """One ATOM record; `chain` has two columns, `name` four with the first letter of a chain id of two."""
    x, y, z = at
    record, letter, code = how.get("record", "ATOM  "), how.get("letter", " "), how.get("code", " ")
    occupancy, element = how.get("occupancy", "  1.00  0.00"), how.get("element", f"{atom.strip()[0]:>2}")
    return (
        f"{record}{serial:>5} {atom:<4}{letter}{name:<3}{chain:>2}{number:>4}{code}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy}          {element}\n"
    )


def chain(structure: Structure, chain_id: str = "A", **how: str) -> Lines:
    """The lines of a structure; `names` by residue letter, `width` left-justified names, `numbers` a first number."""
    lines, first = [], int(how.pop("first", "1"))
    left = how.pop("left", "")
    for i, (letter, atoms) in enumerate(zip(structure.sequence, structure.backbone, strict=True)):
        for atom, at in zip(("N", "CA", "C", "O"), atoms, strict=True):
            name = atom if left else f" {atom}"
            lines.append(pdb_line(str(len(lines) + 1), name, THREE[letter], chain_id, str(first + i), at, **how))
    return lines


def saved(tmp_path: Path, lines: Lines, name: str = "a.pdb") -> Path:
    path = tmp_path / name
    path.write_text("".join(lines))
    return path


def away(structure: Structure, shift: float) -> Structure:
    return Structure(structure.backbone + shift, structure.sequence)


@pytest.mark.parametrize("between", [["TER\n"], ["TER      49      ASN A  12\n"], []])
def test_a_chain_id_used_twice_keeps_both_chains_apart(tmp_path: Path, between: Lines) -> None:
    path = saved(tmp_path, [*chain(helix()), *between, *chain(away(helix(), 50.0)), "END\n"])
    structure, report = load(path)
    assert len(structure) == report.kept == report.residues == 24
    assert report.chains == {"A": 12, "B": 12} and structure.breaks == (11,)
    assert report.renamed == ("another chain A of 12 residues is called B",) and "called B" in str(report)
    assert np.abs(structure["B3"].backbone - structure["A3"].backbone - 50.0).max() < 1e-6


def test_a_second_copy_does_not_take_an_id_in_use_and_copies_may_differ(tmp_path: Path) -> None:
    lines = [
        *chain(helix()),
        "TER\n",
        *chain(away(helix(8), 50.0), "B"),
        "TER\n",
        *chain(away(helix(9), 90.0)),
        "TER\n",
    ]
    lines += chain(away(helix(10), 130.0))
    _, report = load(saved(tmp_path, lines))
    assert report.chains == {"A": 12, "B": 8, "C": 9, "D": 10}


def test_a_copy_is_seen_even_if_its_first_atom_is_new(tmp_path: Path) -> None:
    second = chain(away(helix(), 50.0))
    second.insert(0, pdb_line("1", " H1", "ALA", "A", "1", np.array([49.0, 50.0, 50.0])))
    structure, report = load(saved(tmp_path, [*chain(helix()), "TER\n", *second]))
    assert report.chains == {"A": 12, "B": 12}
    assert np.abs(structure["B1"].backbone[0, 0] - helix().backbone[0, 0] - 50.0).max() < 1e-3


def test_locations_listed_one_after_the_other_are_no_copies(tmp_path: Path) -> None:
    one, two = chain(helix(), letter="A", occupancy="  0.40  0.00"), chain(away(helix(), 0.3), letter="B")
    structure, report = load(saved(tmp_path, [*one, *two]))
    assert len(structure) == 12 and len(report.altlocs) == 12 and not report.renamed
    assert np.abs(structure.backbone - helix().backbone - 0.3).max() < 1e-3


def test_two_letter_chain_ids(tmp_path: Path) -> None:
    lines = [
        *chain(helix(), "AA"),
        "TER\n",
        *chain(away(helix(), 50.0), "BA"),
        "TER\n",
        *chain(away(helix(5), 99), "C"),
    ]
    structure, report = load(saved(tmp_path, lines))
    assert report.chains == {"AA": 12, "BA": 12, "C": 5} and not report.renamed
    assert structure["BA2-4"].numbers == ("2", "3", "4") and structure.sequence[:12] == helix().sequence


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("CYX", "C"), ("CYM", "C"), ("GLH", "E"), ("ASH", "D"), ("HID", "H"), ("HIE", "H"), ("HIP", "H"),
        ("HSD", "H"), ("HSE", "H"), ("HSP", "H"), ("LYN", "K"), ("MSE", "M"), ("SEP", "S"), ("ASPH", "D"),
        ("GLUH", "E"), ("HISE", "H"), ("CYS2", "C"), ("LYSH", "K"), ("NALA", "A"), ("CGLY", "G"), ("NHID", "H"),
    ],
)  # fmt: skip
def test_names_of_protonation_states_and_termini(tmp_path: Path, name: str, letter: str) -> None:
    lines = [line.replace("CYS ", f"{name:<4}", 1) for line in chain(helix())]
    structure, report = load(saved(tmp_path, lines))
    assert structure.sequence == f"A{letter}DEFGHIKLMN" and set(structure.chains) == {"A"}
    assert report.parents == (f"A2 {name}",)


def test_residues_of_chains_whose_id_ends_in_a_digit() -> None:
    two = np.concatenate([helix().backbone, away(helix(), 50.0).backbone])

    def of(*ids: str) -> Structure:
        return Structure(two, numbers=(*map(str, range(1, 13)),) * 2, chains=tuple(c for c in ids for _ in range(12)))

    for ids, what in ((("A1", "A2"), "A22-4"), (("A", "A2"), "A2:2-4"), (("1", "2"), "22-4"), (("A", "A2"), "A22-4")):
        chosen = of(*ids)[what]
        assert chosen.numbers == ("2", "3", "4") and set(chosen.chains) == {ids[1]}
    assert of("A", "A1")["A1"].numbers == tuple(map(str, range(1, 13)))
    assert set(of("A", "A1")["A:1-2"].chains) == {"A"}
    with pytest.raises(StructureError, match=r'may mean chain A or chain A1.*structure\["A1:2"\]'):
        of("A", "A1")["A12"]
    motif = scaffold(of("1", "2"), "5/2:2-4/5")
    assert motif.length == 13 and set(motif.structure.chains) == {"2"}


def test_phosphoserine_as_hetatm_is_kept_and_a_ligand_named_lys_is_not(tmp_path: Path) -> None:
    lines = [
        line.replace("CYS", "SEP").replace("ATOM  ", "HETATM") if " CYS " in line else line for line in chain(helix())
    ]
    ligand = chain(away(helix(2, "K").take([0]), 30.0), record="HETATM", first="200")
    structure, report = load(saved(tmp_path, [*lines, "TER\n", *ligand]))
    assert structure.sequence == "ASDEFGHIKLMN" and report.skipped == {"LYS": 1} and report.residues == 13


def test_hybrid_36_numbers(tmp_path: Path) -> None:
    lines = []
    for i, number in enumerate(("9998", "9999", "A000", "A001", "A00Z", "ZZZZ", "a000", "a001", "zzzz")):
        lines += [
            line[:6] + ("A0000" if i > 4 else line[6:11]) + line[11:22] + number + line[26:]
            for line in chain(helix())[4 * i : 4 * i + 4]
        ]
    structure, report = load(saved(tmp_path, lines))
    numbers = "9998 9999 10000 10001 10035 1223055 1223056 1223057 2436111".split()  # noqa: SIM905
    assert list(structure.numbers) == numbers and not report.notes
    write(structure, tmp_path / "b.cif")
    assert read(tmp_path / "b.cif").numbers == structure.numbers


def test_left_justified_names_without_element(tmp_path: Path) -> None:
    structure, report = load(saved(tmp_path, chain(helix(), left="yes", element="")))
    assert structure.sequence == helix().sequence and not report.dropped
    ion = pdb_line("90", "CA", " CA", "A", "99", np.ones(3), element="", record="HETATM")
    _, report = load(saved(tmp_path, [*chain(helix(), left="yes", element=""), ion]))
    assert report.kept == 12 and report.skipped == {"CA": 1}


def test_glued_columns_blank_chains_stars_and_negative_numbers(tmp_path: Path) -> None:
    lines = [
        "ATOM  *****" + line[11:].rstrip("\n") + "\r\n"
        for line in chain(helix(), " ", first="-5", occupancy="100.00100.00")
    ]
    structure, report = load(saved(tmp_path, lines))
    assert structure.numbers[:2] == ("-5", "-4") and set(structure.chains) == {""} and report.kept == 12
    assert structure["-5--3"].numbers == ("-5", "-4", "-3")


def test_unreadable_rows_are_counted_and_their_residues_named(tmp_path: Path) -> None:
    lines = chain(helix())
    lines[5] = lines[5][:30] + "-1234.567-1234.567-1234.567" + lines[5][54:]
    lines[9] = lines[9][:20] + "\n"
    lines[16:20] = [line[:22] + "****" + line[26:] for line in lines[16:20]]
    structure, report = load(saved(tmp_path, lines))
    assert len(structure) == 9 and report.residues == 12
    assert report.dropped == {
        "coordinates cannot be read": ("A2 CYS",),
        "backbone atoms missing": ("A3 ASP",),
        "residue number cannot be read": ("A**** PHE",),
    }
    assert any("first in line 10" in note for note in report.notes)


def test_overflowed_numbers_are_residues_each(tmp_path: Path) -> None:
    lines = [line[:22] + "****" + line[26:] if i >= 16 else line for i, line in enumerate(chain(helix(12, "G")))]
    _, report = load(saved(tmp_path, lines))
    assert report.kept == 4 and report.residues == 12


def test_a_trace_and_nanometres_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"only CA atoms are there, for 12 residues.*rebuild"):
        load(saved(tmp_path, [line for line in chain(helix()) if " CA " in line]))
    with pytest.raises(StructureError, match=r"looks like nanometres.*multiply the coordinates by 10"):
        load(saved(tmp_path, chain(Structure(helix().backbone / 10, helix().sequence))))


def test_a_gap_in_the_numbers_is_selected_with_a_warning(tmp_path: Path) -> None:
    lines = [line for line in chain(helix(), first="50") if int(line[22:26]) not in (53, 54)]
    structure = read(saved(tmp_path, lines))
    with pytest.warns(UserWarning, match="53, 54"):
        chosen = structure["A50-58"]
    assert chosen.numbers == ("50", "51", "52", "55", "56", "57", "58")
    plain = Structure(helix().backbone, numbers=(*map(str, range(1, 7)), *map(str, range(10, 16))))  # IMGT: no break
    with pytest.warns(UserWarning, match="7, 8, 9"):
        assert len(plain["A1-15"]) == 12
    assert len(Structure(helix().backbone)["A2-9"]) == 8  # a warning here would fail the test
    inserted = Structure(helix().backbone, numbers=("51", "52", "52A", "53", *map(str, range(54, 62))))
    assert inserted["A51-54"].numbers == ("51", "52", "52A", "53", "54")


MMCIF = {
    "group_PDB": "ATOM", "id": "1", "type_symbol": "C", "label_atom_id": "CA", "label_alt_id": ".",
    "label_comp_id": "ALA", "label_asym_id": "A", "label_entity_id": "1", "label_seq_id": "1",
    "pdbx_PDB_ins_code": "?", "Cartn_x": "0", "Cartn_y": "0", "Cartn_z": "0", "occupancy": "1.0",
    "B_iso_or_equiv": "0.0", "auth_seq_id": "1", "auth_comp_id": "ALA", "auth_asym_id": "A", "auth_atom_id": "CA",
    "pdbx_PDB_model_num": "1",
}  # fmt: skip
OPTIONAL = (
    "group_PDB", "id", "type_symbol", "label_alt_id", "label_entity_id", "pdbx_PDB_ins_code", "occupancy",
    "B_iso_or_equiv", "auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "label_atom_id", "label_comp_id",
    "label_asym_id", "label_seq_id", "pdbx_PDB_model_num",
)  # fmt: skip


def mmcif(structure: Structure, without: str = "", sep: str = "\n") -> str:
    names = [name for name in MMCIF if name != without]
    rows = []
    for i, (letter, atoms) in enumerate(zip(structure.sequence, structure.backbone, strict=True)):
        for atom, (x, y, z) in zip(("N", "CA", "C", "O"), atoms, strict=True):
            row = {**MMCIF, "Cartn_x": f"{x:.3f}", "Cartn_y": f"{y:.3f}", "Cartn_z": f"{z:.3f}", "type_symbol": atom[0]}
            row |= dict.fromkeys(("label_atom_id", "auth_atom_id"), atom)
            row |= dict.fromkeys(("label_comp_id", "auth_comp_id"), THREE[letter])
            row |= dict.fromkeys(("label_seq_id", "auth_seq_id"), str(i + 1))
            rows.append(" ".join(row[name] for name in names))
    return sep.join(["data_x", "_entry.id x", "#", "loop_", *(f"_atom_site.{n}" for n in names), *rows, "#", ""])


@pytest.mark.parametrize("column", OPTIONAL)
def test_mmcif_without_an_optional_column_or_an_entity_table(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.cif"
    path.write_text(mmcif(helix(), column))
    structure, report = load(path)
    assert structure.sequence == helix().sequence and structure.numbers == tuple(map(str, range(1, 13)))
    assert np.abs(structure.backbone - helix().backbone).max() < 1e-3 and not report.notes


@pytest.mark.parametrize("column", ["Cartn_y"])
def test_mmcif_without_a_needed_column_names_it(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.cif"
    path.write_text(mmcif(helix(), column))
    with pytest.raises(StructureError, match="no cartn_y"):
        load(path)


def test_mmcif_words_may_be_quoted_broken_over_lines_or_all_on_one(tmp_path: Path) -> None:
    text = mmcif(helix())
    quoted = text.replace(" CA ", " 'CA' ").replace(" ALA ", ' "ALA" ')
    folded = text.replace(" 1.0 ", "\n1.0 ")
    field = text.replace("_entry.id x", "_struct.title\n;loop_ _atom_site.id 1\ndata_y\n;")
    for other in (quoted, folded, field):
        (tmp_path / "a.cif").write_text(other)
        structure, report = load(tmp_path / "a.cif")
        assert structure.sequence == helix().sequence and not report.notes
    (tmp_path / "a.cif").write_text(mmcif(helix(), sep=" ").replace(" # ", " "))
    assert len(read(tmp_path / "a.cif")) == 12


def test_a_row_that_is_cut_costs_its_residue_only(tmp_path: Path) -> None:
    lines = mmcif(helix()).splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith("ATOM")) + 5
    lines[place] = " ".join(lines[place].split()[:9]) + "\n"
    (tmp_path / "a.cif").write_text("".join(lines))
    structure, report = load(tmp_path / "a.cif")
    assert len(structure) == 11 and report.dropped == {"backbone atoms missing": ("A2 CYS",)}
    assert any("too few values" in note for note in report.notes)


@pytest.mark.parametrize("word", ["loop_", "data_y", "_entry.id"])
def test_rows_behind_a_table_that_ends_too_early_are_said(tmp_path: Path, word: str) -> None:
    lines = mmcif(helix()).splitlines(keepends=True)
    lines.insert(next(i for i, line in enumerate(lines) if line.startswith("ATOM")) + 8, f"{word}\n")
    (tmp_path / "a.cif").write_text("".join(lines))
    _, report = load(tmp_path / "a.cif")
    assert report.kept == 2 and any("40 rows with atoms behind the end" in note for note in report.notes)


def test_two_tables_in_one_block_are_refused(tmp_path: Path) -> None:
    text = mmcif(helix())
    (tmp_path / "a.cif").write_text(text + text[text.index("loop_") :])
    with pytest.raises(StructureError, match="two _atom_site tables"):
        load(tmp_path / "a.cif")


def test_content_decides_before_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(mmcif(helix()))
    (tmp_path / "b.cif").write_text("".join(chain(helix())))
    for name, said in (("a.pdb", "the suffix says PDB, the content is mmCIF"), ("b.cif", "says mmCIF")):
        structure, report = load(tmp_path / name)
        assert len(structure) == 12 and said in report.notes[0]


def test_atom_ids_given_twice_and_no_entity_table_in_our_own_mmcif(tmp_path: Path) -> None:
    write([helix(), helix()], tmp_path / "a.cif")
    lines = [line.split() for line in (tmp_path / "a.cif").read_text().splitlines() if line.startswith("ATOM")]
    ids = [words[1] for words in lines]
    assert len(ids) == len(set(ids)) == 96


def test_what_unfolds_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pdb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(StructureError, match="more than 8 MiB after unpacking"):
        load(path, limit=8 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_names_from_files_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    lines = [line.replace("ALA A", "A\x1b[ A") for line in chain(helix())]
    _, report = load(saved(tmp_path, lines))
    assert "\x1b" not in str(report)


@pytest.fixture(scope="module")
def specimens(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("zoo")
    with tarfile.open(data_root / "proteins" / "parser_zoo.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_folder_lists_every_file_it_does_not_read(specimens: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in specimens:
        if path.name.endswith((".mmtf", ".mmtf.gz", ".bcif")) or path.name in ("1aki.pdb", "1lzh.pdb.gz"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("not a structure\n")
    write(helix(30), folder / "specimen9.pdb")  # held out, by its name
    found = [Structures(str(folder), min_length=20).load(split) for split in ("train", "test")]
    read_files = {example.name.split("_")[0] for examples in found for example in examples}
    rejected = {item.name for examples in found for item in examples.rejected}
    structures = {p.name for p in folder.iterdir() if p.suffix != ".txt"}
    for name in structures:
        assert name in rejected or name.split(".")[0] in read_files, name
    assert sum(name.endswith((".mmtf", ".mmtf.gz")) for name in rejected) == 8
    assert "notes.txt" in rejected


def test_a_long_chain_is_cropped_to_its_most_compact_window_and_the_rest_is_listed(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(helix(100, "ACDEFGHIKL"), tmp_path / f"{name}.pdb")
    for crop in (True, False):
        source = Structures(str(tmp_path), min_length=20, max_length=60, crop=crop)
        if not crop:
            with pytest.raises(Exception, match="crop=False"):
                source.load("train")
            continue
        train, test = source.load("train"), source.load("test")
        assert len(train) + len(test) == 3 and len(train) and len(test)
        for examples in (train, test):
            for example in examples:
                out = [r for r in examples.rejected if r.name.startswith(example.name.split("_")[0] + "_")]
                lost = sum(int(r.name.rsplit("-")[1]) - int(r.name.rsplit("_A")[1].split("-")[0]) + 1 for r in out)
                assert len(example.artifact) == 60 and lost == 40
                assert all("outside the most compact window of 60" in r.reason for r in out)
        assert "cropped" in source.describe()


MUTATED = ("1aki.pdb", "1aki.bcif", "4CUP.cif", "6lyz.bcif", "1pfe.cif.gz", "altloc.cif", "1A8O.pdb")


def test_mutated_files_are_read_or_refused_and_add_up(specimens: list[Path], tmp_path: Path) -> None:
    from benchmarks.fuzz_structures import judge, mutated

    rng = np.random.default_rng(0)
    paths = [next(p for p in specimens if p.name == name) for name in MUTATED]
    outcomes = [judge(mutated(path.read_bytes()[:60_000], path.name, rng), tmp_path / path.name)
                for path in paths for _ in range(6)]  # fmt: skip
    assert set(outcomes) <= {"read", "refused"} and {"read", "refused"} <= set(outcomes)


def test_a_folder_is_parsed_once_and_a_changed_file_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gendiff_proteins import sources

    parsed: list[str] = []
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda path: (parsed.append(path.name), load(path))[1])
    for i in range(4):
        write(Ideal(8, 40 + i, 40 + i).load("train")[0].artifact, tmp_path / f"{i}.pdb")
    first = [len(e.artifact) for e in Structures(str(tmp_path), min_length=20).load("train")]
    assert [len(e.artifact) for e in Structures(str(tmp_path), min_length=21).load("train")] == first
    assert len(parsed) == len(set(parsed)) == len(first)
    changed = tmp_path / parsed[0]
    write(Ideal(8, 60, 60).load("train")[0].artifact, changed)
    assert 60 in [len(e.artifact) for e in Structures(str(tmp_path), min_length=20).load("train")]
    assert len(parsed) == len(first) + 1


@pytest.mark.parametrize("between", [["TER\n"], []])
@pytest.mark.parametrize(
    ("letters", "first"), [("G", "1"), ("GCGGG", "1"), ("ACDEFGHIKLMN", "6"), ("ACDEFGHIKLMN", "1")]
)
def test_chain_id_and_number_name_one_residue(tmp_path: Path, between: Lines, letters: str, first: str) -> None:
    """A second chain under the first one's id, with another sequence or other numbers, is whole under one new id."""
    second = chain(away(helix(12, letters), 50.0), first=first)
    structure, report = load(saved(tmp_path, [*chain(helix()), *between, *second]))
    assert report.chains == {"A": 12, "B": 12}
    assert report.renamed == ("another chain A of 12 residues is called B",)
    assert len(set(zip(structure.chains, structure.numbers, strict=True))) == 24
    assert structure["B"].sequence == helix(12, letters).sequence


def test_two_chains_of_mmcif_under_one_author_id(tmp_path: Path) -> None:
    write(
        Structure(helix().backbone, "G" * 12, numbers=(*map(str, range(1, 7)),) * 2, chains=("A",) * 6 + ("B",) * 6),
        tmp_path / "a.cif",
    )
    rows = [line.split() for line in (tmp_path / "a.cif").read_text().splitlines()]
    text = "\n".join(" ".join([*row[:17], "A", *row[18:]]) if row[:1] == ["ATOM"] else " ".join(row) for row in rows)
    (tmp_path / "b.cif").write_text(text)
    assert load(tmp_path / "b.cif")[1].chains == {"A": 6, "B": 6}


def test_a_location_without_its_backbone_is_not_preferred(tmp_path: Path) -> None:
    lines = []
    for line in chain(helix()):
        if line[22:26].strip() == "5":
            lines.append(line[:16] + "A" + line[17:54] + "  0.40" + line[60:])
            if line[12:16].strip() == "CA":
                lines.append(line[:16] + "B" + line[17:54] + "  0.60" + line[60:])
        else:
            lines.append(line)
    structure, report = load(saved(tmp_path, lines))
    assert len(structure) == 12 and report.altlocs == ("A5 PHE",) and not report.dropped


def test_files_of_one_entry_are_in_one_split_and_nothing_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for i in range(12):
        whole = helix(20 + i)
        write([whole, whole] if i == 0 else whole, folder / f"e{i}.pdb")
        write(whole, folder / "deep" / f"E{i}.cif")
    (folder / "e3.pdb").rename(folder / "e3.pdb1")
    (folder / "._e1.pdb").write_text("")
    (folder / "gone.pdb").symlink_to(tmp_path / "nowhere.pdb")
    (folder / "linked").symlink_to(tmp_path)
    train, test = (Structures(str(folder), 4, 64).load(split) for split in ("train", "test"))
    entries = [{len(example.artifact) for example in examples} for examples in (train, test)]
    assert len(train) + len(test) == 24 and not entries[0] & entries[1]
    assert {item.name for item in train.rejected} == {"._e1.pdb", "gone.pdb", "linked"} and not test.rejected
    assert sum("1 files hold several models" in note for note in (*train.notes, *test.notes)) == 1


def test_pieces_of_a_folder_are_read_again_when_they_are_asked_for(tmp_path):
    chains = [e.artifact for e in Ideal(12, 20, 60).load("train")]
    for i, chain in enumerate(chains):
        write(chain, tmp_path / f"{i}.pdb")
    examples = Structures(str(tmp_path), min_length=20, max_length=40).load("train")
    again = copy.deepcopy(examples)
    cast("Any", again).items.values.make.room = 0
    for a, b in zip(again, examples, strict=True):
        assert np.array_equal(a.artifact.backbone, b.artifact.backbone) and a.cond == b.cond
        assert (a.artifact.numbers, a.artifact.sequence) == (b.artifact.numbers, b.artifact.sequence)
        assert a.artifact.name == a.name == b.name
    assert len(examples) > 1

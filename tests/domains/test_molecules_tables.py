"""Ranked tables and flat drawings: order, reasons, what was asked, hostile names."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gendiff.errors import RequestError

pytest.importorskip("rdkit")
from gendiff_molecules import Molecule, read
from gendiff_molecules.tables import drawn, reason, rows, write_table


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> list[Molecule]:
    path = tmp_path_factory.mktemp("some") / "some.smi"
    path.write_text("CCO a\nC[C@H](N)C(=O)O b\nc1ccccc1O c\nCCCCCCCC d\n")
    return read(path)


def broken(molecule: Molecule) -> Molecule:
    """Without its last bond: an atom lacks one, and there are two pieces."""
    return replace(molecule, bonds=molecule.bonds[:-1], name='x\n"$$$$",<b>')


def test_sound_ones_come_first_then_what_is_near_to_what_was_asked(some: list[Molecule]) -> None:
    table = rows([broken(some[0]), *some], {"logp": 3.0})
    assert [row["rank"] for row in table] == [1, 2, 3, 4, 5]
    assert not table[-1]["sound"] and table[-1]["number"] == 1 and table[-1]["smiles"] == ""
    assert "valence" in table[-1]["reason"] and table[-1]["logp"] is None
    off = [abs(row["logp"] - 3.0) for row in table[:-1]]
    assert off == sorted(off) and table[0]["name"] == "d" and all(row["asked logp"] == 3.0 for row in table)
    by_qed = [row["qed"] for row in rows(some)]
    assert by_qed == sorted(by_qed, reverse=True)
    alanine = next(row for row in table if row["name"] == "b")
    assert alanine["labels"].endswith("S") or alanine["labels"].endswith("R")
    assert alanine["formula"] == "C3H7NO2" and alanine["charge"] == 0 and alanine["atoms"] == 13


def test_the_mirror_image_has_other_labels_and_the_rest_is_the_same(some: list[Molecule]) -> None:
    one, other = (rows([own])[0] for own in (some[1], some[1].mirrored()))
    assert one["labels"] != other["labels"] and one["smiles"] != other["smiles"]
    assert {k: v for k, v in one.items() if k not in ("labels", "smiles")} == {
        k: v for k, v in other.items() if k not in ("labels", "smiles")
    }


def test_reasons_name_the_atom_or_the_pieces(some: list[Molecule]) -> None:
    assert reason(some[0]) == "" and "atom" in reason(broken(some[0]))
    two = Molecule(np.array([2, 2]), np.array([[0.0, 0, 0], [5, 0, 0]]))
    assert reason(two)


def test_files_hold_the_same_rows_whatever_names_say(some: list[Molecule], tmp_path: Path) -> None:
    table = write_table(
        [broken(some[0]), *some], tmp_path / "ranked.csv", asked={"logp": [1, 2, 3, 4, 5]}, about={"seed": 3}
    )
    with (tmp_path / "ranked.csv").open(newline="", encoding="utf8") as stream:
        read_back = list(csv.DictReader(stream))
    told = json.loads((tmp_path / "ranked.json").read_text(encoding="utf8"))
    assert told["seed"] == 3 and told["molecules"] == table
    assert [row["name"] for row in read_back] == [row["name"] for row in table]
    assert write_table([], tmp_path / "none") == [] and (tmp_path / "none.csv").exists()
    with pytest.raises(RequestError, match="2 values for 4"):
        rows(some, {"logp": [1, 2]})


def test_drawings_differ_and_what_is_not_sound_is_drawn_with_its_reason(some: list[Molecule]) -> None:
    first, second = drawn([some[0]]), drawn([some[2]])
    assert first.startswith("<?xml") and first != second and first.count("<path") > 2
    assert drawn([some[1]]) != drawn([some[1].mirrored()])  # a wedge for a dash
    both = drawn([some[0], broken(some[1])])
    assert both.count("<path") > first.count("<path")
    assert drawn([Molecule(np.array([8]), np.zeros((1, 3)))])
    n = 9
    every = np.array([(i, j, 1 + (i + j) % 3) for i in range(n) for j in range(i + 1, n)])
    assert drawn([Molecule(np.full(n, 6), np.random.default_rng(0).normal(size=(n, 3)), every)])  # no chemist's graph
    with pytest.raises(RequestError, match="0 molecules"):
        drawn([])
    with pytest.raises(RequestError, match="1 captions"):
        drawn(some, ["one"])

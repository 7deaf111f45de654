"""Measures and judges of molecules against values that can be counted; sources, their splits and what they reject."""

from __future__ import annotations

import importlib.util
import math
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="needs rdkit: pip install 'gendiff[molecules]'")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from gendiff.errors import DataError
from gendiff.testing import check_measure
from gendiff_molecules import QM7, QM9, Molecule, MoleculeFiles, judges, write
from gendiff_molecules.measures import (
    MEASURES,
    angles,
    apart,
    circular_w1,
    connected,
    describe,
    good,
    graphs,
    lengths,
    share_of,
    summary,
    torsions,
    valid,
)


@cache
def made(smiles: str, seed: int = 1, name: str = "made") -> Molecule:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return Molecule.from_rdkit(mol, name=name)


def molecule(*told: Any, **more: Any) -> Molecule:
    """A molecule of lists."""
    return Molecule(*told, **more)


WATER = molecule([8, 1, 1], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 1], [0, 2, 1]], name="water")
HYDROXYL = WATER.take([0, 1])
TWO = molecule(
    [8, 1, 1] * 2, np.concatenate([WATER.positions, WATER.positions + 5]), [[0, 1, 1], [0, 2, 1], [3, 4, 1], [3, 5, 1]]
)
CROWDED = molecule([6, *[1] * 5], np.eye(6, 3), [[0, k, 1] for k in range(1, 6)])
CHIRAL = made("C[C@H](O)[C@@H](F)Cl")


def test_good_is_stricter_than_what_rdkit_sanitises() -> None:
    every = [WATER, HYDROXYL, TWO, CROWDED]
    assert [valid(one) for one in every] == [True, True, True, False]
    assert [connected(one) for one in every] == [True, True, False, True]
    assert [good(one) for one in every] == [True, False, False, False]
    said = summary(every, [WATER])
    assert said.shares["valid"].value == 0.75 and said.shares["both"].value == 0.5 and said.shares["good"].value == 0.25
    assert said.shares["good"].n == 4 and said.shares["good"].low == pytest.approx(0.0456, abs=1e-4)


def test_geometry_is_counted_by_kind() -> None:
    assert {k: v.tolist() for k, v in lengths(WATER).items()} == {(1, 8, 1): [1.0, 1.0]}
    (kind, values), *rest = angles(WATER).items()
    assert kind == (1, 8, 1) and values.tolist() == pytest.approx([90.0]) and not rest and not torsions(WATER)
    square = molecule([7, 6, 6, 8], [[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 1]], [[0, 1, 1], [1, 2, 1], [2, 3, 1]])
    assert {k: v.tolist() for k, v in torsions(square).items()} == {(7, 6, 6, 8, 1): [pytest.approx(90.0)]}
    assert next(iter(torsions(square.mirrored()).values()))[0] == pytest.approx(-90.0)


def test_a_shift_is_measured_as_long_as_it_is() -> None:
    rng = np.random.default_rng(0)
    base = [{(6, 6, 1): rng.normal(1.5, 0.02, 50)} for _ in range(4)]
    longer = [{kind: values + 0.03 for kind, values in one.items()} for one in base]
    assert apart(base, base) == 0 and apart(longer, base) == pytest.approx(0.03)
    assert math.isnan(apart(base, [{(6, 7, 1): np.ones(50)}]))
    assert circular_w1(np.full(9, 178.0), np.full(9, -178.0)) == pytest.approx(5.0)  # not 356
    assert circular_w1(np.zeros(9), np.full(9, 180.0)) == pytest.approx(180, abs=5)


def test_unique_and_novel_are_counted_among_good_ones() -> None:
    ethanol, other = made("CCO", 1), made("CCO", 2)
    said = summary([ethanol, other, WATER, HYDROXYL], [WATER], training={"CCO"})
    assert said.unique == pytest.approx(2 / 3) and said.novel == pytest.approx(1 / 3)
    assert graphs([ethanol, HYDROXYL]) == ["CCO", ""]
    assert MEASURES["novel"]([ethanol, WATER], [other]) == 0.5


def test_mirror_images_exchange_right_and_left() -> None:
    assert describe(CHIRAL).hands in (("R", "S"), ("S", "R"), ("R", "R"), ("S", "S"))
    one = made("C[C@H](N)C(=O)O")
    assert MEASURES["right_handed"]([one] * 20) == 0.0 and MEASURES["right_handed"]([one.mirrored()] * 20) == 1.0
    assert MEASURES["torsions_w1"]([CHIRAL.mirrored()] * 30, [CHIRAL] * 30) > 10
    for blind in ("bond_lengths_w1", "bond_angles_w1"):
        assert MEASURES[blind]([CHIRAL.mirrored()] * 30, [CHIRAL] * 30) == pytest.approx(0, abs=1e-9)


def test_rings_logp_and_qed_are_rdkit_s() -> None:
    benzene, cyclopropane = describe(made("c1ccccc1")), describe(made("C1CC1"))
    assert benzene.rings == (6,) and cyclopropane.rings == (3,) and benzene.logp == pytest.approx(1.6866)
    assert benzene.qed == pytest.approx(0.4426, abs=1e-3)
    assert MEASURES["rings_apart"]([made("c1ccccc1")], [made("C1CC1")]) == 1.0
    assert MEASURES["logp_w1"]([WATER], [WATER]) == 0.0
    assert math.isnan(describe(HYDROXYL).logp) and describe(HYDROXYL).smiles == ""


@pytest.mark.parametrize("name", MEASURES)
def test_measures_keep_the_law_of_measures(name: str) -> None:
    smiles = ("CCO", "C[C@H](O)CC", "c1ccccc1O", "CC(=O)NC", "C1CC1C", "OCC(F)Cl")
    samples, reference = ([made(one, k + turn) for k, one in enumerate(smiles * 12)] for turn in (1, 100))
    check_measure(MEASURES[name], [*samples, HYDROXYL, TWO, CROWDED], reference)


def test_a_share_has_wilson_s_interval() -> None:
    half = share_of([True] * 50 + [False] * 50)
    assert (round(half.low, 4), round(half.high, 4)) == (0.4038, 0.5962) and math.isnan(share_of([]).value)


def test_samples_are_judged_in_a_seeded_order() -> None:
    every = [WATER, HYDROXYL, TWO, CROWDED, CHIRAL] * 3
    assert judges.shuffled(every, 4, seed=1) == judges.shuffled(every, seed=1)[:4] != every[:4]
    assert len(judges.shuffled(every)) == 15


@pytest.mark.parametrize(("judge", "package"), [("posebusters_judge", "posebusters"), ("gfn2", "tblite")])
def test_a_judge_that_is_not_installed_says_what_to_install(
    judge: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a))
    with pytest.raises(DataError, match=f"pip install {package}"):
        getattr(judges, judge)()


def test_posebusters_passes_data_and_fails_what_rdkit_refuses() -> None:
    """Case 39: what cannot be sanitised has failed, and stops nothing."""
    pytest.importorskip("posebusters", reason="needs posebusters: pip install posebusters")
    ethanol = made("CCO")
    rng = np.random.default_rng(0)
    bad = ethanol.moved(ethanol.positions + rng.normal(0, 0.4, ethanol.positions.shape))
    found = judges.posebusters([ethanol, bad, CROWDED])
    assert [one.passed for one in found] == [True, False, False]
    assert found[1].failed and "valence 5" in found[2].reason


def test_a_relaxation_releases_what_noise_put_in() -> None:
    pytest.importorskip("tblite", reason="needs tblite: pip install tblite")
    ethanol = made("CCO")
    first = judges.relaxed(ethanol)
    again = judges.relaxed(first.molecule)  # type: ignore[arg-type]
    assert first.converged and first.released > 1 > 0.05 > again.released > -1e-6
    noise = np.random.default_rng(0).normal(0, 0.05, ethanol.positions.shape)
    assert judges.relaxed(first.molecule.moved(first.molecule.positions + noise)).released > 5  # type: ignore[union-attr]
    assert "with_hydrogens" in judges.relaxed(ethanol.without_hydrogens()).reason


def test_packed_sets_are_lazy_rows_with_their_numbers(data_root: Path) -> None:
    train, test = QM9().load("train", data_root), QM9().load("test", data_root)
    assert (len(train), len(test)) == (110_075, 5_794) and len(train.rejected) == 1
    assert train.rejected[0].reason == "valence 2 of C with charge +0"
    example = test[3]
    assert example.artifact.sound and example.artifact.name == example.name == test.names[3]
    assert set(example.cond) >= {"logp", "n_rings"} and example.cond == dict(example.artifact.properties)
    assert describe(example.artifact).logp == pytest.approx(example.cond["logp"], abs=1e-4)
    assert not {*train.names[:2000]} & {*test.names[:2000]}
    assert set(QM9().conditions) == {"logp", "n_rings", "binding_energy", "ionization_energy", "dipole"}
    neutral = QM9(charged=False).load("test", data_root)
    assert len(neutral) < len(test) and all(r.reason == "charged" for r in neutral.rejected)
    assert len(pickle.dumps(test[:3][0].artifact)) < 5000
    small = QM7().load("test", data_root)
    assert len(small) == 320 and "hof" in small[0].cond and any(16 in e.artifact.elements for e in small)


def test_files_of_one_s_own_are_split_by_graph_with_reasons(tmp_path: Path) -> None:
    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "C[C@H](O)Cl", "CCCl", "CCBr", "OCCO", "CC#N", "C1CC1"]
    own = [made(one, seed, f"{one} {seed}").told(pic50=float(k)) for k, one in enumerate(smiles) for seed in (1, 2)]
    write(own, tmp_path / "a.sdf")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.smi").write_text("CCCC butane\nC(C broken\n[Na+].[Cl-] salt\nCC(Br)Br two\n")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.mol2").write_text("")
    source = MoleculeFiles(str(tmp_path), elements=("H", "C", "N", "O", "Cl"), asks=("pic50",))
    train, test = source.load("train"), source.load("test")
    assert len(train) + len(test) == 19 and len(test) >= 1
    assert not {e.artifact.smiles(stereo=False) for e in train} & {e.artifact.smiles(stereo=False) for e in test}
    assert {e.cond.get("pic50") for e in (*train, *test)} >= {0.0, 5.0} and set(source.conditions) == {
        "logp",
        "n_rings",
        "pic50",
    }
    reasons = {r.name: r.reason for r in train.rejected}
    assert reasons["sub/b.smi: two" if "sub/b.smi: two" in reasons else "b.smi: two"].startswith("the element Br")
    assert reasons["b.smi: salt"] == "2 fragments (1, 1 atoms)" and "is no SMILES" in reasons["b.smi: broken"]
    assert reasons["empty.mol2"] == "the file is empty" and train.others == ("notes.txt",)
    assert sum(name.startswith("a.sdf: CCBr") for name in reasons) == 2
    assert "positions made by ETKDGv3" in train.report() and "are for tests" in train.report()
    assert len(MoleculeFiles(str(tmp_path / "a.sdf")).load("train")) >= 16
    with pytest.raises(DataError, match="there is no file or folder"):
        MoleculeFiles(str(tmp_path / "none")).load("train")
    with pytest.raises(DataError, match="'Xq' is none"):
        MoleculeFiles("x", elements=("Xq",))
    with pytest.raises(DataError, match="gave no examples"):
        MoleculeFiles(str(tmp_path / "sub" / "b.smi"), max_atoms=1).load("train")

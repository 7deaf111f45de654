"""Side chains on given backbones: geometry there and back, symmetry, padding, what is held, and choosing."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff.domain import collate, data_root
from gendiff.errors import DataError, RequestError
from gendiff.random import Noise
from gendiff.sampling.solvers import Euler
from gendiff.testing import check_domain, randomised
from gendiff.training import Objective, denoising_loss
from gendiff_proteins import (
    AtomicStructures,
    Chis,
    KnownTorsions,
    Packing,
    SideChainFiles,
    SideChains,
    Structure,
    read,
    write,
)
from gendiff_proteins import packing_measures as measures
from gendiff_proteins.atoms import ATOMS_OF, CHI, PLACE, SYMMETRIC
from gendiff_proteins.building import TABLES, angles, lettered, packed, periods, torsions, whole, wrapped
from gendiff_proteins.names import LETTERS
from gendiff_proteins.packing import helix, state_of
from gendiff_proteins.packing_sources import Unit, clusters, completeness, held_out_groups

EVERY = LETTERS + "RKFW"


def drawn(sequence: str = EVERY, seed: int = 0) -> Structure:
    """An ideal helix with side chains at random torsions."""
    chi = np.random.default_rng(seed).uniform(-math.pi, math.pi, (len(sequence), 4))
    return replace(packed(helix(sequence), chi), name=f"helix{seed}")


def turned(one: Structure, seed: int = 0) -> Structure:
    """The same elsewhere."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    shift = np.array([3.0, -40.0, 11.0])
    return replace(one, backbone=one.backbone @ turn.T + shift, side=one.sides @ turn.T + shift)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight chains that are not alike, as files."""
    home = tmp_path_factory.mktemp("sides")
    rng = np.random.default_rng(1)
    for k in range(8):
        write(drawn("".join(rng.choice(list(LETTERS), 32)), k), home / f"{k}.pdb")
    return home


@pytest.fixture(scope="module")
def domain(folder: Path) -> SideChains:
    return SideChains(source=SideChainFiles(str(folder)))


@pytest.fixture(scope="module")
def model(domain: SideChains) -> gendiff.Model:
    made = gendiff.Model.new(domain, width=16, depth=2, edge=8, near=12)
    randomised(made.denoiser.network, 3)
    return made


@pytest.fixture(scope="module")
def lysozyme() -> Structure:
    path = data_root() / "proteins" / "parser_zoo.tar.gz"
    if not path.exists():
        pytest.skip("the data folder has no proteins/parser_zoo.tar.gz")
    return next(one for one in AtomicStructures().load("train", data_root()).artifacts if one.name == "parser_zoo_1aki")


def test_every_atom_of_a_letter_has_a_place_and_a_group() -> None:
    for k, letter in enumerate(LETTERS):
        own = TABLES.group[k]
        assert int((own >= 0).sum()) == len(ATOMS_OF[letter]) and int(TABLES.chis[k]) == len(CHI.get(letter, ()))
        assert int(own.max()) == len(CHI.get(letter, ())) or letter in "G"
        bits = TABLES.twice[k].nonzero().flatten().tolist()
        assert bits == ([SYMMETRIC[letter] - 1] if letter in SYMMETRIC else [])
    assert int(TABLES.chis[len(LETTERS)]) == 0


def test_torsions_come_back_from_what_is_built() -> None:
    chi = np.random.default_rng(0).uniform(-math.pi, math.pi, (len(EVERY), 4))
    one = packed(helix(EVERY), chi)
    found, count = angles(one), TABLES.chis[lettered(EVERY)].numpy()
    assert np.array_equal(np.isfinite(found), np.arange(4) < count[:, None])
    assert np.nanmax(np.abs(wrapped(found - chi))) < 1e-9 and whole(one).all()
    again = packed(helix(EVERY), found)
    np.testing.assert_allclose(again.sides, one.sides, atol=1e-9)


def test_bonds_are_those_of_side_chains() -> None:
    """Every atom behind CB is bonded to one of its side chain, 1.2 to 1.9 A away, whatever the torsions."""
    for seed in range(4):
        one = drawn(seed=seed)
        for i, letter in enumerate(one.sequence):
            spots = np.array([one.backbone[i, 1], *(one.sides[i, PLACE[name]] for name in ATOMS_OF[letter])])
            far = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + 9 * np.eye(len(spots))
            if len(spots) > 1:
                assert (far.min(1) > 1.2).all() and (far.min(1) < 1.9).all(), letter


def test_a_crystal_is_rebuilt_from_its_torsions(lysozyme: Structure) -> None:
    again = packed(lysozyme, angles(lysozyme))
    assert measures.rmsd(again, lysozyme) < 0.6 and np.nanmax(measures.deviations(again, lysozyme)) < 1e-6
    assert measures.rmsd(lysozyme, lysozyme) == 0.0


def test_torsions_and_states_do_not_hang_on_the_place() -> None:
    one = drawn()
    there = turned(one)
    np.testing.assert_allclose(angles(there), angles(one), atol=1e-9)
    which = torsions(one)
    torch.testing.assert_close(state_of(there, which), state_of(one, which), atol=1e-5, rtol=0)
    mirrored = np.nan_to_num(angles(one.mirrored()))
    np.testing.assert_allclose(wrapped(mirrored + np.nan_to_num(angles(one))), 0, atol=1e-9)


def test_alike_atoms_are_one_point_of_the_circle() -> None:
    one = drawn()
    chi = angles(one)
    for i, letter in enumerate(one.sequence):
        if letter in SYMMETRIC:
            chi[i, SYMMETRIC[letter] - 1] += math.pi
    other, which = packed(one, chi), torsions(one)
    a, b = (state_of(x, which).numpy() for x in (one, other))
    np.testing.assert_allclose(wrapped(a - b), 0, atol=1e-5)
    assert np.nanmax(measures.deviations(one, other)) < 1e-6 and measures.rmsd(one, other) < 0.1
    assert np.nanmax(np.abs(one.sides - other.sides)) > 1.5
    assert set(np.unique(periods(one.sequence))) == {math.pi, 2 * math.pi}


def test_a_state_has_the_torsions_that_are_known_and_no_more(domain: SideChains) -> None:
    one = drawn()
    assert len(domain.encode(one)["chi"]) == int(TABLES.chis[lettered(EVERY)].sum())
    side = one.sides.copy()
    side[EVERY.index("K"), PLACE["NZ"]] = np.nan
    assert len(domain.encode(replace(one, side=side))["chi"]) == len(domain.encode(one)["chi"]) - 4
    with pytest.raises(DataError, match="no whole side chain"):
        domain.encode(packed(helix("AGAG"), np.zeros((4, 4))))
    back = domain.decode(domain.encode(one)).on(helix(EVERY))
    np.testing.assert_allclose(wrapped(np.nan_to_num(angles(back) - angles(one)), periods(EVERY)), 0, atol=1e-5)


def test_the_domain_keeps_its_contract(domain: SideChains) -> None:
    assert len(domain.dataset("train")) == 7
    check_domain(domain, requests=[{"backbone": drawn("ARNDCEFY")}, {"backbone": [drawn(EVERY[k:]) for k in range(7)]}])
    check_domain(domain)


def put_out(domain: SideChains, model: gendiff.Model, *many: Structure, t: float = 0.4) -> torch.Tensor:
    """The network's tangents [B, M] for structures as they are, in float64."""
    network, own = copy.deepcopy(model.denoiser.network).double(), domain.conditions["backbone"]
    x, mask = collate([domain.encode(one) for one in many], True, None, domain.process.space)
    cond: Any = own.collate([own.encode(one) for one in many], (mask.shape[1],))  # type: ignore[union-attr]
    cond = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    times = torch.full((len(many),), t, dtype=torch.float64)
    return network({"chi": x["chi"].double()}, times, mask=mask, backbone=cond)["chi"].detach()


def test_padding_and_place_say_nothing_and_the_hand_does(domain: SideChains, model: gendiff.Model) -> None:
    short, long = drawn("ARNDKEFY"), drawn(EVERY + "WWKK")
    alone, both = put_out(domain, model, short)[0], put_out(domain, model, long, short)[1]
    torch.testing.assert_close(both[: len(alone)], alone, atol=1e-9, rtol=0)
    assert float(both[len(alone) :].abs().max()) == 0 and float(alone.abs().min()) > 0
    torch.testing.assert_close(put_out(domain, model, turned(short))[0], alone, atol=1e-4, rtol=0)
    mirror = replace(short.mirrored(), hands="")
    assert float((put_out(domain, model, mirror)[0] - alone).abs().max()) > 1e-3


def test_names_of_alike_atoms_say_nothing(domain: SideChains, model: gendiff.Model) -> None:
    """A phenylalanine turned by half a turn is the same to the network, to rounding of what is not quite flat."""
    one = drawn("AFAAFDEY")
    chi = angles(one)
    for i, letter in enumerate(one.sequence):
        if letter in SYMMETRIC:
            chi[i, SYMMETRIC[letter] - 1] += math.pi
    torch.testing.assert_close(put_out(domain, model, packed(one, chi)), put_out(domain, model, one), atol=1e-4, rtol=0)


def test_the_network_sees_what_side_chains_do(domain: SideChains, model: gendiff.Model) -> None:
    """Turning one side chain changes what is put out for others that are near."""
    one = drawn("AAKALAAWAA")
    chi = angles(one)
    chi[2, 0] += 1.0
    which, apart = torsions(one), (put_out(domain, model, packed(one, chi)) - put_out(domain, model, one))[0].abs()
    assert float(apart[which.residue != 2].max()) > 1e-6


def test_samples_are_the_structure_with_its_side_chains(model: gendiff.Model) -> None:
    one = replace(drawn(), numbers=tuple(str(k + 5) for k in range(len(EVERY))), chains=("B",) * len(EVERY))
    found = model.sample(3, given=replace(one, side=None), sampler=Euler(3), seed=4)
    for made in found:
        assert np.array_equal(made.backbone, one.backbone) and made.sequence == one.sequence
        assert made.numbers == one.numbers and made.chains == one.chains and whole(made).all()
    assert np.nanmax(np.abs(found[0].sides - found[1].sides)) > 0.5
    (third,) = model.sample(3, given=one, sampler=Euler(3), seed=4, batch=1)[2:]
    np.testing.assert_allclose(np.nan_to_num(third.sides), np.nan_to_num(found[2].sides), atol=1e-3)
    (asked,) = model.sample(1, backbone=one, sampler=Euler(3), seed=4)  # asked for by name is given
    np.testing.assert_allclose(np.nan_to_num(asked.sides), np.nan_to_num(found[0].sides), atol=1e-3)
    two = model.sample(2, given=[drawn("ARND"), drawn("EFGHIK")], sampler=Euler(2))
    assert [len(x) for x in two] == [4, 6]


def test_what_is_held_stays_to_the_bit(model: gendiff.Model) -> None:
    one = drawn()
    asked = Packing(one, ("A3-10", "A21"))
    kept = asked.mask
    assert kept.sum() == 9
    made, again = model.sample(2, given=asked, sampler=Euler(3), seed=1)
    assert np.array_equal(made.sides[kept], one.sides[kept], equal_nan=True)
    many = (TABLES.chis[lettered(EVERY)] > 0).numpy()
    assert (np.nanmax(np.abs(made.sides - one.sides), (1, 2), initial=0)[~kept & many] > 0.01).all()
    assert np.nanmax(np.abs(made.sides - again.sides)) > 0.5
    state, _ = model.states(1, given=asked, sampler=Euler(3), seed=1)
    known, keep = asked.known
    torch.testing.assert_close(state[0]["chi"][0][keep], known[keep], atol=1e-6, rtol=0)


def test_what_is_shown_in_training_is_told_and_costs_nothing(domain: SideChains, model: gendiff.Model) -> None:
    x0, mask = collate([domain.encode(drawn(EVERY[:k])) for k in (24, 12, 18)], True, None, domain.process.space)
    assert mask is not None
    way, noise = KnownTorsions(1.0, 0.2, 0.6), Noise.of(3, 3)
    keep = way.told(x0, mask, noise)["held"]
    shown, values = way(domain.process, x0, noise, mask)["chi"]
    assert torch.equal(keep, shown) and torch.equal(values, x0["chi"]) and not bool((keep & ~mask).any())
    share = keep.sum(1) / mask.sum(1)
    assert float(share.min()) > 0.15 and float(share.max()) < 0.75
    own = domain.conditions["backbone"]
    cond: Any = own.collate([own.encode(drawn(EVERY[:k])) for k in (24, 12, 18)], (mask.shape[1],))  # type: ignore[union-attr]
    everything = Objective(known=(KnownTorsions(1.0, 1.0, 1.0),))
    t = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    loss = denoising_loss(model.denoiser, x0, t, noise, objective=everything, mask=mask, backbone=cond)["loss"]
    assert float(loss.detach().abs().max()) < 1e-10
    some = denoising_loss(model.denoiser, x0, t, noise, mask=mask, backbone=cond)["loss"]
    assert float(some.detach().min()) > 0.1


def test_wrong_askings_are_answered(model: gendiff.Model, tmp_path: Path) -> None:
    one = drawn()
    with pytest.raises(RequestError, match="got no backbone"):
        model.domain.request(1)
    with pytest.raises(RequestError, match="lacks atoms"):
        Packing(replace(one, side=None), ("A2",))
    with pytest.raises(RequestError, match="D residue A1"):
        model.sample(1, given=one.mirrored())
    with pytest.raises(RequestError, match="no side chain with a torsion"):
        model.sample(1, given=helix("AGAG"))
    with pytest.raises(RequestError, match="with a structure that is given"):
        model.sample(1, given=one, backbone=one)
    with pytest.raises(RequestError, match="of type str"):
        model.sample(1, backbone="1aki.pdb")
    with pytest.raises(RequestError, match="2 backbones for 3 samples"):
        model.sample(3, backbone=[one, one])
    with pytest.raises(RequestError, match="pdb"):
        model.domain.given(1, held="A1")
    with pytest.raises(RequestError, match="without a backbone"):
        model.domain.write(Chis(np.zeros(3)), tmp_path / "x.pdb")


def test_a_file_is_packed_and_written(model: gendiff.Model, folder: Path, tmp_path: Path) -> None:
    asked = model.domain.given(1, pdb=str(folder / "0.pdb"), held="A1-4,A9")
    (made,) = model.sample(1, given=asked, sampler=Euler(2))
    SideChains().write(made, tmp_path / "made.pdb", remarks=["seed 0"])
    again = read(tmp_path / "made.pdb")
    np.testing.assert_allclose(np.nan_to_num(again.sides), np.nan_to_num(made.sides), atol=1e-3)


def test_alike_proteins_are_one_cluster_and_splits_share_none(folder: Path) -> None:
    rng = np.random.default_rng(3)
    one, other = ("".join(rng.choice(list(LETTERS), 80)) for _ in range(2))
    assert clusters([one, other, one[20:70], other[:40] + "AAAA"]) == [0, 1, 0, 1]
    assert clusters([]) == []
    source = SideChainFiles(str(folder), shortest=20)
    train, test = (source.load(split) for split in ("train", "test"))
    assert len(train) + len(test) == 8 and not {e.name for e in train} & {e.name for e in test} and len(test)
    assert all(e.cond["backbone"] is e.artifact and completeness(e.artifact) == 1 for e in train)
    units = [Unit(drawn(seed=k), "", judged=k > 0) for k in range(6)]
    assert 0 not in held_out_groups(units, range(6))
    with pytest.raises(DataError, match="split"):
        source.load("validation")


def test_files_without_side_chains_are_listed(tmp_path: Path) -> None:
    for k in range(3):
        write(drawn("".join(np.random.default_rng(k).choice(list(LETTERS), 34)), k), tmp_path / f"{k}.pdb")
    write(helix(EVERY * 2), tmp_path / "bare.pdb")
    (tmp_path / "broken.pdb").write_text("ATOM  nonsense\n")
    (tmp_path / "notes.txt").write_text("x")
    reasons = {r.name: r.reason for r in SideChainFiles(str(tmp_path)).load("train").rejected}
    assert "half of the side chains" in reasons["bare"] and "no file of PDB" in reasons["notes.txt"]
    assert "broken.pdb" in reasons


def test_shared_structures_are_split_by_protein(lysozyme: Structure) -> None:
    source = AtomicStructures()
    train, test = (source.load(split, data_root()) for split in ("train", "test"))
    groups = clusters([e.artifact.sequence for e in (*train, *test) if not e.name.startswith("pocket_")])
    count = sum(not e.name.startswith("pocket_") for e in train)
    assert not set(groups[:count]) & set(groups[count:]) and len(set(groups[count:])) >= 8
    assert len(lysozyme) == 129 and not any("bindcraft" in e.name or "AF2" in e.name for e in test)


def test_right_is_within_twenty_degrees_by_symmetry() -> None:
    one = drawn("KFDA")
    chi = angles(one)
    chi[0, 0] += math.radians(19)
    chi[1, 1] += math.radians(199)
    chi[2, 1] += math.radians(90)
    first, both = measures.right(packed(one, np.nan_to_num(chi)), one)
    assert first.tolist()[:3] == [1, 1, 1] and both.tolist()[:3] == [1, 1, 0] and math.isnan(first[3])
    with pytest.raises(DataError, match="same letters"):
        measures.deviations(one, drawn("KFDG"))


def test_rotamers_of_training_beat_random_ones_on_their_own() -> None:
    rng = np.random.default_rng(0)
    wells = np.radians([-60.0, -60, -60, 180, 60])
    made = []
    for k in range(12):
        chi = rng.choice(wells, (len(EVERY), 4)) + rng.normal(0, 0.1, (len(EVERY), 4))
        made.append(replace(packed(helix(EVERY), chi), name=str(k)))
    library = measures.Rotamers.of(made)
    common, chance = (
        np.mean([np.nanmean(measures.right(library.pack(one, how, k), one)[0]) for k, one in enumerate(made)])
        for how in ("letter", "random")
    )
    assert common == pytest.approx(0.6, abs=0.1) and chance == pytest.approx(0.44, abs=0.1)
    assert measures.cell_of("L", wells[[0, 3]]) == measures.cell_of("L", wells[[0, 3]] + 0.5)
    assert measures.cell_of("F", np.array([1.0, 1.5])) == measures.cell_of("F", np.array([1.0, 1.5 - math.pi]))
    assert set(measures.basins(helix(EVERY))[1:-1]) == {"H"}


def test_choosing_prefers_agreement_and_no_overlaps() -> None:
    one = drawn("AKALWAEFLK", 2)
    odd = packed(one, angles(one) + 2.0)
    near = [packed(one, angles(one) + 0.02 * k) for k in range(3)]
    found = measures.agreement([odd, *near])
    assert found.argmin() == 0 and measures.best([odd, *near], 0.0) is not odd
    assert np.nanmax(measures.deviations(measures.consensus([odd, *near], weight=0.0), one)) < 10
    side = one.sides.copy()
    side[8, PLACE["CD1"]] = one.backbone[2, 1] + 0.8
    worse = replace(one, side=side)
    assert measures.overlap(worse) > measures.overlap(one) + 1
    assert measures.best([worse, one], 100.0) is one
    with pytest.raises(DataError, match="no packing"):
        measures.best([])

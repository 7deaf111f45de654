"""Closed chains and mirror images: what is told of a ring turns with its numbering, ends are joined, hands are kept."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gendiff
from gendiff.cli import main
from gendiff.errors import RequestError
from gendiff.sampling.solvers import Euler
from gendiff.testing import randomised
from gendiff_proteins import (
    FrameNetwork,
    Ideal,
    Motif,
    PairFrameNetwork,
    Peptide,
    PlannedProteins,
    Proteins,
    Relaxation,
    Structure,
    StructureError,
    Symmetric,
    bonding,
    hands_seen,
    load,
    metrics,
    rank,
    read,
    scaffold,
    write,
)
from gendiff_proteins.contacts import overlaps
from gendiff_proteins.frames import C_N, frames_from_backbone
from gendiff_proteins.ideal import chains
from gendiff_proteins.motif import LEAP
from gendiff_proteins.names import MIRRORED
from gendiff_proteins.networks import Layout, Rings, steps_between
from gendiff_proteins.pairs import bonded_pairs
from gendiff_proteins.repulsion import untangle
from gendiff_proteins.side_chains import SIDE, chirality

State = dict[str, Tensor]


def ring_of(size: int, seed: int = 0) -> Structure:
    """A flat closed chain of `size` residues: one residue, turned about an axis, with bonds C-N of 1.33 A."""
    step = 2 * np.pi / size
    n, ca, c = (np.array(at) for at in ((-1.2, 0.3, 0.0), (0.0, -0.3, 0.3), (1.25, 0.35, 0.0)))
    turn = np.array([[np.cos(step), -np.sin(step), 0], [np.sin(step), np.cos(step), 0], [0, 0, 1]])
    out = np.array([0.0, -1.0, 0.0])
    low, high, far = 0.0, 100.0, 0.0
    for _ in range(80):  # how far out the residue lies, so that the bond is as long as it should be
        far = (low + high) / 2
        low, high = (low, far) if np.linalg.norm(turn @ (n + far * out) - (c + far * out)) > C_N else (far, high)
    atoms = np.stack([n, ca, c, c + np.array([0.3, 1.1, 0.4])]) + far * out
    every = [atoms @ np.linalg.matrix_power(turn, k).T for k in range(size)]
    noise = np.random.default_rng(seed).normal(0, 0.02, (size, 4, 3))
    return Structure(np.stack(every) + noise, cyclic=("A",))


def awake(network: torch.nn.Module) -> torch.nn.Module:
    return randomised(network).double().eval()


@pytest.fixture(params=[False, True], ids=["frames", "pairs"])
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    if request.param:
        return awake(PairFrameNetwork(32, 3, 4, 16, 8, templates=True))
    return awake(FrameNetwork(32, 2, 4, 16))


def state(n: int, network: torch.nn.Module, batch: int = 2) -> State:
    generator = torch.Generator().manual_seed(n)
    q = torch.linalg.qr(torch.randn(batch, n, 3, 3, generator=generator, dtype=torch.float64))[0]
    x = {
        "pos": torch.randn(batch, n, 3, generator=generator, dtype=torch.float64),
        "rot": q * torch.linalg.det(q)[..., None, None],
    }
    if isinstance(network, PairFrameNetwork):
        x["structure"] = torch.randint(0, 4, (batch, n), generator=generator)
        square = torch.randint(0, 4, (batch, n, n), generator=generator)
        x["pairing"] = gendiff.spaces.to_pairs(torch.maximum(square, square.mT))
    return x


def rolled(x: State, by: int) -> State:
    """Another numbering of closed chains: residue `by` comes first."""
    n = x["pos"].shape[1]
    out = {name: part.roll(-by, 1) for name, part in x.items() if name != "pairing"}
    if "pairing" in x:
        square = gendiff.spaces.to_square(x["pairing"], n).roll((-by, -by), (1, 2))
        out["pairing"] = gendiff.spaces.to_pairs(square)
    return out


def out_of(network: torch.nn.Module, x: State, **told: Any) -> State:
    with torch.no_grad():
        found = network(x, torch.full((len(x["pos"]),), 0.4, dtype=torch.float64), **told)
    return getattr(found, "output", found)


def close(a: State, b: State, within: float = 1e-11) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=within)


@pytest.mark.parametrize("n", [7, 8, 12, 71])  # 71: half way round is beyond the network's reach
def test_what_a_network_says_turns_with_the_numbering_of_a_ring(network: torch.nn.Module, n: int) -> None:
    x, ring = state(n, network), torch.ones(2, n, dtype=torch.bool)
    plain, told = out_of(network, x), out_of(network, x, ring=ring)
    assert float((plain["pos"] - told["pos"]).abs().max()) > 1e-3
    for by in (1, n // 2):
        close(rolled(told, by), out_of(network, rolled(x, by), ring=ring))
        assert float((rolled(plain, by)["pos"] - out_of(network, rolled(x, by))["pos"]).abs().max()) > 1e-3


def test_a_template_on_a_ring_turns_with_it() -> None:
    network = awake(PairFrameNetwork(32, 3, 4, 16, 8, templates=True))
    x, ring = state(9, network), torch.ones(2, 9, dtype=torch.bool)
    known = {name: x[name] for name in ("pos", "rot")} | {"keep": torch.arange(9).repeat(2, 1) > 5}
    told = out_of(network, x, ring=ring, template=known)
    close(rolled(told, 4), out_of(network, rolled(x, 4), ring=ring, template=rolled(known, 4)))


def test_a_ring_turns_with_space_and_has_a_hand(network: torch.nn.Module) -> None:
    x, ring = state(11, network), torch.ones(2, 11, dtype=torch.bool)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    turn = turn * torch.linalg.det(turn)
    told = out_of(network, x, ring=ring)
    moved = {**x, "pos": x["pos"] @ turn.T + 2.0, "rot": turn @ x["rot"]}
    found = out_of(network, moved, ring=ring)
    close({**told, "pos": told["pos"] @ turn.T}, found, 1e-9)
    across = torch.diag(torch.tensor([-1.0, 1.0, 1.0]).double())
    mirror = out_of(network, {**x, "pos": x["pos"] @ across, "rot": across @ x["rot"] @ across}, ring=ring)
    assert float((mirror["pos"] - told["pos"] @ across).abs().max()) > 1e-3


def test_rings_and_open_chains_share_a_batch(network: torch.nn.Module) -> None:
    sizes, closed = (9, 14, 12), (True, False, False)
    singles = [state(n, network, 1) for n in sizes]
    mask = torch.arange(14)[None] < torch.tensor(sizes)[:, None]
    ring = mask & torch.tensor(closed)[:, None]
    more = state(14, network, 3)
    for k, one in enumerate(singles):
        n = sizes[k]
        for name in ("pos", "rot", "structure"):
            if name in more:
                more[name][k, :n] = one[name][0]
        if "pairing" in more:
            square = gendiff.spaces.to_square(more["pairing"], 14)
            square[k, :n, :n] = gendiff.spaces.to_square(one["pairing"], n)[0]
            more["pairing"] = gendiff.spaces.to_pairs(square)
    together = out_of(network, more, mask=mask, ring=ring)
    for k, one in enumerate(singles):
        told = {"ring": torch.ones(1, sizes[k], dtype=torch.bool)} if closed[k] else {}
        alone = out_of(network, one, **told)
        for name in ("pos", "rot"):
            torch.testing.assert_close(alone[name][0], together[name][k, : sizes[k]], rtol=0, atol=1e-11)


def test_a_ring_beside_an_open_chain_turns_alone(network: torch.nn.Module) -> None:
    x = state(19, network)
    index = torch.cat([torch.arange(8), torch.arange(11) + 8 + LEAP]).repeat(2, 1)
    ring = (torch.arange(19) >= 8).repeat(2, 1)
    order = torch.cat([torch.arange(8), 8 + torch.arange(11).roll(-3)])
    moved = {name: part[:, order] for name, part in x.items() if name != "pairing"}
    if "pairing" in x:
        square = gendiff.spaces.to_square(x["pairing"], 19)[:, order][:, :, order]
        moved["pairing"] = gendiff.spaces.to_pairs(square)
    told = out_of(network, x, index=index, ring=ring)
    found = out_of(network, moved, index=index, ring=ring)
    for name in ("pos", "rot"):
        torch.testing.assert_close(told[name][:, order], found[name], rtol=0, atol=1e-11)


def test_places_around_a_ring() -> None:
    mask = torch.arange(9)[None] < 7
    rings = Rings.of(mask, None, mask)
    on = steps_between(rings, mask)[0, :7, :7]
    assert on[0].tolist() == [0, 1, 2, 3, -3, -2, -1] and torch.equal(on, -on.T)
    assert rings.places(2)[0, :7].tolist() == [2, 3, 4, 5, 6, 0, 1] and rings.size[0].tolist() == [7] * 7 + [0, 0]
    even = torch.ones(1, 8, dtype=torch.bool)
    assert steps_between(Rings.of(even, None, even), even)[0, 0].tolist() == [0, 1, 2, 3, -4, -3, -2, -1]
    layout = Layout.of(mask, rings, torch.float64)
    assert layout.left[0, :7].unique().numel() == 1 and torch.equal(layout.left[0, :7], layout.right[0, :7])


def test_the_last_oxygen_of_a_ring_is_placed_by_the_first_residue() -> None:
    pos, rot = frames_from_backbone(torch.from_numpy(ring_of(12).backbone))
    frames, mask = {"pos": pos[None] / 10, "rot": rot[None]}, torch.ones(1, 12, dtype=torch.bool)
    rings = Rings.of(mask, None, mask)
    told, opened = bonded_pairs(frames, mask, rings), bonded_pairs(frames, mask, None)
    torch.testing.assert_close(told[:, :, :11, :8], opened[:, :, :11, :8], rtol=0, atol=1e-12)
    assert float((told - opened)[:, :, 11, :8].abs().max()) > 1e-3
    turned = bonded_pairs({name: part.roll(-3, 1) for name, part in frames.items()}, mask, rings)
    torch.testing.assert_close(told.roll((-3, -3), (1, 2)), turned, rtol=0, atol=1e-12)


def test_overlaps_in_a_ring_are_moved_apart_and_its_closure_kept() -> None:
    one = torch.from_numpy(ring_of(16).ca.copy())[None] / 10
    noise = torch.randn(one.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pos = one * torch.tensor([0.2, 0.9, 1.0]) + 0.01 * noise  # pressed flat, so that it overlaps
    mask = torch.ones(1, 16, dtype=torch.bool)
    rings = Rings.of(mask, None, mask)
    out, open_ = untangle(pos, mask, rounds=40, rings=rings), untangle(pos, mask, rounds=40)

    def step(x: Tensor) -> Tensor:
        return (x - x.roll(-1, 1)).norm(dim=-1)

    kept = (step(out) - step(pos)).abs()[0]
    assert float(kept.amax()) < 0.01 and float(kept[-1]) < 1e-9 and float((out - pos).abs().amax()) > 0.05
    assert float((step(open_) - step(pos)).abs()[0, -1]) > 0.1
    two = mask.repeat(2, 1)
    rings = Rings.of(two, None, two & torch.tensor([[True], [False]]))
    both = untangle(torch.cat([pos, pos]), two, rounds=40, rings=rings)
    torch.testing.assert_close(both[0], out[0], rtol=0, atol=1e-12)
    assert torch.equal(both[1], open_[0])


def test_relaxation_joins_the_ends_and_leaves_open_chains_to_the_bit() -> None:
    ring = ring_of(14)
    torn = replace(ring, backbone=ring.backbone.copy())
    torn.backbone[-1] += np.array([0.0, 0.0, 1.2])
    torn = replace(torn)
    opened, helix = replace(torn, cyclic=()), Structure(chains(1, 20, 20, 3)[0])

    def end(one: Structure) -> float:
        return float(np.linalg.norm(one.backbone[-1, 2] - one.backbone[0, 0]))

    assert end(torn) > 1.6
    relax = Relaxation(place=0.2, steps=200)
    made, free, alone = relax([torn, opened, helix]), relax([opened])[0], relax([helix])[0]
    assert abs(end(made[0]) - C_N) < 0.05 and made[0].cyclic == ("A",)
    assert np.array_equal(made[1].backbone, free.backbone) and np.array_equal(made[2].backbone, alone.backbone)
    assert end(free) > end(made[0]) + 0.1
    mirror = relax([torn.mirrored()])[0]
    np.testing.assert_allclose(mirror.mirrored().backbone, made[0].backbone, atol=1e-6)


def test_measures_go_around_a_ring() -> None:
    ring = ring_of(12)
    opened, turned = replace(ring, cyclic=()), ring.turned(5)
    assert turned.numbers[0] == "6" and turned.closures == ((11, 0),) and turned.turned(7).numbers == ring.numbers
    assert len(metrics.bonds([ring])["C-N"]) == 12 and len(metrics.bonds([opened])["C-N"]) == 11
    assert abs(metrics.bonds([ring])["C-N"] - C_N).max() < 0.1 and len(metrics.steps([ring])) == 12
    every = (lambda s: metrics.torsions(s)[0], lambda s: metrics.torsions(s)[1], metrics.ca_torsions, metrics.omegas)
    for angles in every:
        assert np.isfinite(angles(ring)).all() and not np.isfinite(angles(opened)).all()
        np.testing.assert_allclose(np.roll(angles(ring), -5), angles(turned), atol=1e-6)
    assert metrics.chain_breaks([ring]) == 0
    gone = replace(ring, backbone=np.where(np.arange(12)[:, None, None] < 11, ring.backbone, ring.backbone + 9.0))
    assert metrics.breaks_of(gone)[0] == 2  # after the eleventh, and the closure
    tight = ring_of(30).backbone.copy()
    tight[-1] += 0.6 * (tight[0, 1] - tight[-1, 1])  # the last residue nearly on the first
    near = Structure(tight, cyclic=("A",))
    assert metrics.atom_clashes(replace(near, cyclic=())) > metrics.atom_clashes(near)
    assert len(overlaps(replace(near, cyclic=()))[0]) > len(overlaps(near)[0])


def torus(size: int = 72) -> Structure:
    """A helix of 18 residues to five turns, bent until its end meets its beginning."""
    r, phi, z = (1.526, 2.274, 1.685, 2.004), (-26.2, 0.0, 27.5, 22.1), (-0.926, 0.0, 1.056, 2.232)  # N, CA, C, O
    k, wide = np.arange(size)[:, None], 1.5 * size / (2 * np.pi)
    turn, around = np.radians(np.array(phi) + 100.0 * k), (np.array(z) + 1.5 * k) / wide
    out = wide + np.array(r) * np.cos(turn)
    atoms = np.stack([out * np.cos(around), out * np.sin(around), -np.array(r) * np.sin(turn)], -1)
    return Structure(atoms, cyclic=("A",))


def test_hydrogen_bonds_and_letters_go_around_a_closed_chain() -> None:
    ring = torus()
    bonds, opened = bonding.hydrogen_bonds(ring), bonding.hydrogen_bonds(replace(ring, cyclic=()))
    every = np.arange(72)
    assert metrics.handedness([ring])[0] > 0.9
    assert bonds[every, every - 4].all() and not bonds[every, every - 1].any()
    assert not opened[:4].all(1).any() and bonding.secondary_structure(ring) == "H" * 72
    assert bonding.secondary_structure(replace(ring, cyclic=())).count("H") < 72
    assert bonding.secondary_structure(replace(ring.turned(30), cyclic=())).count("H") < 72


def test_bridges_go_around_a_closed_chain() -> None:
    ring, rng = ring_of(15), np.random.default_rng(2)
    for _ in range(5):
        bonds = rng.random((15, 15)) < 0.25
        found = bonding.bridges(ring, bonds)
        assert np.array_equal(found, found.T) and {1, 2} <= set(found.flat)
        assert found[[0, 14]].any() and not bonding.bridges(replace(ring, cyclic=()), bonds)[[0, 14]].any()
        for by in (1, 4, 7, 14):
            turned = bonding.bridges(ring.turned(by), np.roll(bonds, (-by, -by), (0, 1)))
            assert np.array_equal(np.roll(found, (-by, -by), (0, 1)), turned)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_closed_chains_and_hands_come_back_from_files(tmp_path: Path, suffix: str) -> None:
    sequence = "ACDEFGHIKLMNPQRSTVWY"
    one = replace(ring_of(20), sequence=sequence, hands="D" * 20)
    other = Structure(chains(1, 9, 9, 3)[0] + 60.0, "AGAGAGAGX", chains=("B",) * 9, hands="LLDDLLLLL")
    both = Structure(
        np.concatenate([one.backbone, other.backbone]), one.sequence + other.sequence,
        tuple(f"{k}" for k in range(-3, 17)) + other.numbers, one.chains + other.chains, "both", cyclic=("A",),
        hands=one.hands + other.hands,
    )  # fmt: skip
    path = tmp_path / f"both{suffix}"
    write([both, both], path)
    text = path.read_text()
    assert all(name in text for name in MIRRORED.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back, report = load(path)
    assert back.cyclic == ("A",) == report.cyclic and back.numbers == both.numbers
    assert back.sequence == both.sequence.replace("X", "G") and len(back) == 29
    assert back.hands == "D" * 20 + "LLDLLLLLL"  # a glycine is of its chain's hand
    assert len(report.mirrored) == 20 and not report.parents and not report.odd_hands
    assert any("chain B mixes hands: 1 of 4 residues are D" in note for note in report.notes)
    assert np.abs(back.backbone - both.backbone).max() < 1e-3
    assert "(20)" not in str(report) and "D residues: 20" in str(report) and "chains closed: 1 (A)" in str(report)
    write(replace(both, cyclic=(), hands=""), path)
    plain = load(path)[0]
    assert plain.cyclic == () and plain.hands == "L" * 29
    assert not any(word in path.read_text() for word in ("LINK", "struct_conn", "(D)", "HETATM"))


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_other_readers_see_the_bond_and_the_names(tmp_path: Path, suffix: str) -> None:
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    one = replace(ring_of(9), sequence="ACDEFGHIK", hands="D" * 9, numbers=tuple("123456789"))
    path = tmp_path / f"ring{suffix}"
    write(one, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parser: Any = PDBParser(PERMISSIVE=False) if suffix == ".pdb" else MMCIFParser()
        found = parser.get_structure("ring", str(path))
        assert [r.get_resname() for r in found.get_residues()] == [MIRRORED[c] for c in one.sequence]
        gemmi = pytest.importorskip("gemmi")
        seen = gemmi.read_structure(str(path))
    (bond,) = seen.connections
    ends = [(p.res_id.name, str(p.res_id.seqid), p.atom_name) for p in (bond.partner1, bond.partner2)]
    assert ends == [("DLY", "9", "C"), ("DAL", "1", "N")] and bond.type == gemmi.ConnectionType.Covale
    assert seen[0].find_cra(bond.partner1).atom is not None and seen[0].find_cra(bond.partner2).atom is not None
    assert len(seen[0]["A"].get_polymer()) == 9


def test_bonds_that_close_nothing_are_named_and_copies_are_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "ring.pdb"
    write(replace(ring_of(9), sequence="A" * 9), path)
    text = path.read_text()
    link = next(line for line in text.splitlines() if line.startswith("LINK"))
    path.write_text(text.replace(link, link.replace("A   9", "A   8")))
    found, report = load(path)
    assert found.cyclic == () and any("from C of A8 to N of A1" in note for note in report.notes)
    path.write_text(text.replace(link, link.replace("1555   1555", "1555   2655")))  # a copy of the crystal
    assert load(path)[0].cyclic == () and not load(path)[1].notes
    carbon, nitrogen = link[12:27], link[42:57]
    path.write_text(text.replace(link, link[:12] + nitrogen + link[27:42] + carbon + link[57:]))  # N first
    assert load(path)[0].cyclic == ("A",)


def test_a_hand_that_the_atoms_deny_is_reported(tmp_path: Path) -> None:
    base = Structure(chains(1, 8, 8, 1)[0], "A" * 8)
    n, ca, c = base.backbone[:, :3].swapaxes(0, 1)
    side = np.full((8, len(SIDE), 3), np.nan)
    side[:, SIDE.index("CB")] = ca + 0.568 * (ca - n) - 0.541 * (c - ca) - 0.583 * np.cross(ca - n, c - ca)
    good = replace(base, side=side)
    assert chirality(good) == "L" * 8 and chirality(good.mirrored()) == good.mirrored().hands == "D" * 8
    path = tmp_path / "odd.pdb"
    assert hands_seen(good) == "L" * 8
    lone = replace(base, sequence="AAAGAAAA", side=None)
    seen, (phi, _) = hands_seen(lone), metrics.torsions(lone)
    assert seen[0] == seen[3] == "-" and set(seen) == {"-", "l"} and (phi[1:] < 0).all()
    assert hands_seen(lone.mirrored()) == seen.replace("l", "d")
    write(replace(good, hands="LLLDLLLL"), path)
    found, report = load(path)
    assert found.hands == "LLLDLLLL" and report.odd_hands == ("A4 DAL",)
    assert rank([replace(good, hands="D" * 8)])[0]["d_residues"] == 0


def test_the_mirror_image_twice_is_the_structure() -> None:
    one = replace(ring_of(10), hands="LLLLLDDDDD")
    two = one.mirrored().mirrored()
    assert np.array_equal(one.backbone, two.backbone) and two.hands == one.hands and two.cyclic == one.cyclic
    assert one.mirrored().hands == "DDDDDLLLLL"


@pytest.fixture(scope="module", params=[Proteins, PlannedProteins])
def model(request: pytest.FixtureRequest) -> gendiff.Model:
    size: dict[str, Any] = {"triangle": 4} if request.param is PlannedProteins else {}
    made = gendiff.Model.new(request.param(source=Ideal(count=8)), width=32, depth=2, heads=4, pair=8, **size)
    randomised(made.denoiser.network)
    return made


def test_d_chains_are_the_mirror_images_of_l_chains(model: gendiff.Model) -> None:
    left = model.sample(2, given=Peptide(12), sampler=Euler(3), seed=3)
    right = model.sample(2, given=Peptide(12, hand="D"), sampler=Euler(3), seed=3)
    for one, other in zip(left, right, strict=True):
        assert other.hands == "D" * 12 and one.hands == "L" * 12 and one.cyclic == other.cyclic == ("A",)
        assert np.array_equal(other.mirrored().backbone, one.backbone)
    open_ = model.sample(1, given=Peptide(12, cyclic=False), sampler=Euler(3), seed=3)[0]
    plain = model.sample(1, length=12, fold=None, sampler=Euler(3), seed=3)[0]
    np.testing.assert_allclose(open_.backbone, plain.backbone, atol=1e-4)
    assert np.abs(open_.backbone - left[0].backbone).max() > 1e-3


def test_peptides_of_many_kinds_in_one_batch(model: gendiff.Model) -> None:
    kinds = [Peptide(9), Peptide(14, cyclic=False), Peptide(11, hand="D"), Peptide(12, cyclic=False, hand="D")]
    together = model.sample(4, given=kinds, sampler=Euler(3), seed=1)
    apart = model.sample(4, given=kinds, sampler=Euler(3), seed=1, batch=1)
    for kind, one, other in zip(kinds, together, apart, strict=True):
        assert len(one) == kind.length and one.cyclic == (("A",) if kind.cyclic else ())
        assert one.hands == kind.hand * len(one)
        np.testing.assert_allclose(one.backbone, other.backbone, atol=1e-3)
    lengths = model.sample(2, given=Peptide(), length=[9, 13], sampler=Euler(2))
    assert [len(one) for one in lengths] == [9, 13] and all(one.cyclic for one in lengths)


def test_a_closed_chain_around_a_motif_and_beside_a_target(model: gendiff.Model) -> None:
    target = Structure(chains(1, 30, 30, 3)[0], "ACDEFGHIKLMNPQRSTVWYACDEFGHIKL", chains=("T",) * 30)
    motif = scaffold(target, "4/T11-18/5")
    (one,) = model.sample(1, given=Peptide(motif=motif), sampler=Euler(3))
    assert one.cyclic == ("A",) and np.array_equal(motif.find(one).backbone, target.backbone[10:18])
    beside = scaffold(target, "T1-30/0 10")
    (two,) = model.sample(1, given=Peptide(motif=beside), sampler=Euler(3))
    assert two.cyclic == ("A",) and two.closures == ((39, 30),) and set(two.chains[:30]) == {"T"}
    assert Peptide(motif=beside).ring.tolist() == [False] * 30 + [True] * 10
    (three,) = model.sample(1, given=Peptide(motif=beside, hand="D"), sampler=Euler(3))
    assert three.hands == "L" * 30 + "D" * 10 and np.array_equal(three.backbone[:30], target.backbone)
    mirror = scaffold(target.mirrored(), "4/T11-18/5")
    (four,) = model.sample(1, given=Peptide(motif=mirror, hand="D"), sampler=Euler(3))
    np.testing.assert_allclose(four.mirrored().backbone[4:12], one.backbone[4:12], atol=1e-9)
    assert four.hands == "D" * 17 and four.sequence == one.sequence


def refused(words: str, model: gendiff.Model, **asked: Any) -> None:
    with pytest.raises(RequestError, match=words):
        model.sample(1, sampler=Euler(1), **asked)


def test_what_cannot_be_closed_is_answered(model: gendiff.Model) -> None:
    for size in (6, 1025, True, 9.5):
        with pytest.raises(RequestError, match=f"a closed chain of {size!r} residues, expected 7 to 1024|7 to 1024"):
            Peptide(size)  # type: ignore[arg-type]
    assert Peptide(7).size == 7 and Peptide(1024).size == 1024
    with pytest.raises(RequestError, match="4 to 1024"):
        Peptide(3, cyclic=False)
    with pytest.raises(RequestError, match="L or D"):
        Peptide(9, hand="R")
    with pytest.raises(RequestError, match="True or False"):
        Peptide(9, cyclic="maybe")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="open chains of L residues"):
        Peptide(motif=Symmetric("C3", 12))
    refused("without a length", model, given=Peptide())
    refused("length=12 with a peptide of 9", model, given=Peptide(9), length=12)
    refused("peptides among other things", model, given=[Peptide(9), Symmetric("C2", 9)])
    one = Structure(chains(1, 24, 24, 3)[0], "A" * 24)
    motif = scaffold(one, "3/A5-12/4")
    refused("some have a motif", model, given=[Peptide(15), Peptide(motif=motif)])
    with pytest.raises(RequestError, match="length=9 with a motif in a chain of 15"):
        Peptide(9, motif=motif)
    with pytest.raises(RequestError, match="A5 is L, in a chain of D"):
        Peptide(motif=motif, hand="D")
    broken = Motif(one.take([2, 3, 4, 9, 10, 11]), tuple(range(2, 8)), 12)
    with pytest.raises(RequestError, match="a closed chain with a break"):
        Peptide(motif=broken)
    with pytest.raises(RequestError, match="every chain is known whole"):
        Peptide(motif=Motif(one, tuple(range(24)), 24))
    with pytest.raises(RequestError, match="a closed chain of 6 residues"):
        Peptide(motif=scaffold(one, "1/A5-8/1"))
    domain: Any = model.domain
    with pytest.raises(RequestError, match="symmetry=C3 with closed chains"):
        domain.given(1, cyclic="true", symmetry="C3")
    assert domain.given(2, cyclic="true", hand="d") == Peptide(hand="D")


def test_a_structure_says_only_what_can_be() -> None:
    one = ring_of(9)
    with pytest.raises(StructureError, match="the closed chain 'B' with 0 residues"):
        replace(one, cyclic=("B",))
    with pytest.raises(StructureError, match="the hand 'X'"):
        replace(one, hands="LLLLXLLLL")
    with pytest.raises(StructureError, match="3 hands for 9"):
        replace(one, hands="LLL")
    assert one.take(slice(0, 5)).cyclic == () and one.take(slice(None)).cyclic == ("A",)
    assert one.take(list(range(9))[::-1]).cyclic == ()
    with pytest.raises(StructureError, match="models of which other chains are closed"):
        write([one, replace(one, cyclic=())], "never.pdb")


def test_closed_chains_are_drawn_from_the_command_line(model: gendiff.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    out = tmp_path / "out"
    command = ["sample", str(tmp_path / "m.safetensors"), "-n", "2", "length=14", "cyclic=true", "hand=D", "fold=none"]
    assert main([*command, "--steps", "2", "--out", str(out)]) == 0
    made = read(out / "0000.pdb")
    assert made.cyclic == ("A",) and made.hands == "D" * 14
    assert json.loads((out / "manifest.json").read_text())

"""Molecules in pockets: rotations of both together, padding, frames, what is known, settling, drawing until sound."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportUnhashable=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff.adaptation import begin
from gendiff.conditions import Condition
from gendiff.domain import Example, Examples, collate
from gendiff.errors import RecipeError, RequestError
from gendiff.random import Noise
from gendiff.spaces import exp_so3
from gendiff.testing import randomised
from gendiff.training import Objective, denoising_loss

pytest.importorskip("rdkit")
from gendiff_molecules import (
    KnownAtoms,
    Molecule,
    MoleculeFiles,
    Molecules,
    Pocket,
    Settling,
    Surroundings,
    fragment,
    read,
    sound,
    write,
)
from gendiff_molecules.choosing import faults
from gendiff_molecules.settling import relaxed_among
from gendiff_molecules.sources import MoleculeSource

SMILES = ["CCO", "CC(=O)[O-]", "c1ccccc1O", "C[N+](C)(C)C", "c1ccncc1", "CC(C)=O", "O=C1CCCN1", "FC(F)CCl"]
SMALL: dict[str, Any] = {"width": 32, "pair": 16, "depth": 3, "heads": 4, "vectors": 8, "triangle": 4}
TURN = exp_so3(torch.tensor([0.4, -1.0, 0.8], dtype=torch.float64))


def shell(count: int, seed: int = 0, *, least: float = 4.5, most: float = 9.0) -> Pocket:
    """Atoms around the origin, as many residues of one atom."""
    rng = np.random.default_rng(seed)
    way = rng.normal(size=(count, 3))
    place = way / np.linalg.norm(way, axis=1, keepdims=True) * rng.uniform(least, most, (count, 1))
    words = [tuple(rng.choice(own, count).tolist()) for own in (("CA", "CB", "N"), ("ALA", "ASP", "HEM"))]
    numbers = tuple(str(k + 1) for k in range(count))
    return Pocket(rng.choice([6, 7, 8, 16], count), place, *words, ("A",) * count, numbers, np.zeros(3), f"p{seed}")


@dataclass(frozen=True)
class InShells(MoleculeSource):
    """The molecules of a folder, each in a shell of its own."""

    folder: str

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return {**super().conditions, "pocket": Surroundings(most=40)}

    def load(self, split: str, root: Path | None = None) -> Examples:
        plain = MoleculeFiles(self.folder).load(split)
        return Examples([
            Example(e.artifact.moved(e.artifact.positions - e.artifact.positions.mean(0) + 0.3),
                    {**e.cond, "pocket": shell(30 + 5 * k, k)}, e.name) for k, e in enumerate(plain)
        ])  # fmt: skip

    def describe(self) -> str:
        return "Molecules in shells."


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Molecules:
    home = tmp_path_factory.mktemp("molecules")
    (home / "some.smi").write_text("\n".join(SMILES))
    plain = Molecules(source=InShells(str(home)), templates=True, settling=None)
    return plain.fit(plain.dataset("train").artifacts)


@pytest.fixture(scope="module")
def placed(domain: Molecules) -> gendiff.Model:
    model = gendiff.Model.new(replace(domain, placed=True), **SMALL)
    randomised(model.denoiser.network)
    return model


def network_of(domain: Molecules) -> nn.Module:
    return randomised(domain.network(**SMALL).double())


def batch_of(domain: Molecules, n: int = 4) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    train = domain.dataset("train")[:n]
    x, mask = collate([domain.encode(e.artifact) for e in train], True, None, domain.process.space)
    assert isinstance(x, dict) and mask is not None
    own = domain.conditions["pocket"]
    told = own.collate([own.encode(e.cond["pocket"]) for e in train])
    assert isinstance(told, dict)
    return {**x, "pos": x["pos"].double()}, mask, {**told, "pos": told["pos"].double()}


def out_of(network: nn.Module, x: Any, mask: Tensor, pocket: Any) -> dict[str, Tensor]:
    told = {} if pocket is None else {"pocket": pocket}
    with torch.no_grad():
        return network(x, torch.full((len(mask),), 0.4, dtype=torch.float64), mask=mask, **told)  # type: ignore[no-any-return]


def same(a: dict[str, Tensor], b: dict[str, Tensor], tol: float = 1e-9) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tol) for name in a)


def test_the_network_turns_with_pocket_and_molecule_and_not_with_one_of_them(domain: Molecules) -> None:
    network = network_of(domain)
    x, mask, pocket = batch_of(domain)
    out = out_of(network, x, mask, pocket)
    turned, around = {**x, "pos": x["pos"] @ TURN.T}, {**pocket, "pos": pocket["pos"] @ TURN.T}
    both = out_of(network, turned, mask, around)
    assert same(both, {**out, "pos": out["pos"] @ TURN.T})
    alone = out_of(network, x, mask, around)
    assert not torch.allclose(alone["pos"], out["pos"], atol=1e-6) and not torch.allclose(alone["atom"], out["atom"])
    flip = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    mirrored = out_of(network, {**x, "pos": x["pos"] @ flip}, mask, {**pocket, "pos": pocket["pos"] @ flip})
    assert not torch.allclose(mirrored["pos"], out["pos"] @ flip, atol=1e-6)


def test_padding_order_and_other_pockets_say_nothing(domain: Molecules) -> None:
    network = network_of(domain)
    x, mask, pocket = batch_of(domain)
    out = out_of(network, x, mask, pocket)
    n, m = int(mask[0].sum()), int(pocket["mask"][0].sum())
    pairs = n * (n - 1) // 2
    own = {"pos": x["pos"][:1, :n], "atom": x["atom"][:1, :n], "bond": x["bond"][:1, :pairs]}
    order = torch.randperm(m, generator=torch.Generator().manual_seed(0))
    single = out_of(network, own, mask[:1, :n], {name: part[:1, :m][:, order] for name, part in pocket.items()})
    for name, places in (("pos", n), ("atom", n), ("bond", pairs)):
        torch.testing.assert_close(single[name], out[name][:1, :places], rtol=0, atol=1e-10)


def test_what_is_dropped_is_no_pocket_and_a_new_view_changes_nothing(domain: Molecules) -> None:
    x, mask, pocket = batch_of(domain)
    own = domain.conditions["pocket"]
    gone = own.drop(pocket, torch.ones(len(mask), dtype=torch.bool))
    nothing = own.collate([own.encode(None)] * len(mask))
    network = network_of(domain)
    away = {**nothing, "pos": nothing["pos"].double()}  # type: ignore[dict-item]
    assert same(out_of(network, x, mask, gone), out_of(network, x, mask, away))
    fresh = randomised(domain.network(**SMALL).double())
    for view in fresh.views:  # as they begin
        for last in (view.down, view.push):
            nn.init.zeros_(last.weight)
        nn.init.zeros_(view.down.bias)
    assert same(out_of(fresh, x, mask, pocket), out_of(fresh, x, mask, None))


def test_a_network_without_pockets_is_what_it_was(domain: Molecules) -> None:
    plain = replace(domain, source=MoleculeFiles(domain.source.folder))  # type: ignore[attr-defined]
    without, told = plain.network(**SMALL).double(), network_of(domain)
    names = {name for name in told.state_dict() if not name.startswith("views.")}
    assert set(without.state_dict()) == names and len(told.state_dict()) > len(names)
    without.load_state_dict({name: told.state_dict()[name] for name in names})
    x, mask, _ = batch_of(domain)
    assert same(out_of(without, x, mask, None), out_of(told, x, mask, None), 0.0)


def test_a_network_begins_from_another_s_kinds_by_name(domain: Molecules) -> None:
    few = Molecules(source=domain.source, kinds=("O", "C", "H"), templates=True)
    source, network = network_of(few), domain.network(**SMALL).double()
    before = network.state_dict()["atom.weight"].clone()
    begun = begin(domain, network, few, source)
    assert "atom.weight" in begun.taken and not any(name.startswith("views") for name in begun.new)
    for kind in domain.kinds:
        row = network.state_dict()["atom.weight"][domain.kinds.index(kind)]
        theirs = source.state_dict()["atom.weight"][few.kinds.index(kind)] if kind in few.kinds else None
        assert torch.equal(row, before[domain.kinds.index(kind)] if theirs is None else theirs)
    assert torch.equal(network.state_dict()["atom.weight"][-1], source.state_dict()["atom.weight"][-1])  # the mask
    bias = network.state_dict()["atoms.bias"][domain.kinds.index("C")]
    assert bias == source.state_dict()["atoms.bias"][few.kinds.index("C")]


def test_every_weight_of_the_views_is_trained(domain: Molecules) -> None:
    model = gendiff.Model.new(domain, **SMALL)
    randomised(model.denoiser.network)
    x, mask, pocket = batch_of(domain)
    x, pocket = ({k: v.float() if v.is_floating_point() else v for k, v in part.items()} for part in (x, pocket))
    losses = denoising_loss(
        model.denoiser, x, torch.full((len(mask),), 0.3), Noise.of(0, len(mask)), auxiliary=domain.losses, mask=mask,
        pocket=pocket, objective=Objective(known=(KnownAtoms(0.5),)),
    )  # fmt: skip
    losses["loss"].mean().backward()
    views = [(name, p) for name, p in model.denoiser.network.named_parameters() if name.startswith("views.")]
    assert views and all(p.grad is not None and bool(p.grad.abs().sum() > 0) for _, p in views)


def test_samples_lie_in_the_frame_of_their_pocket(domain: Molecules, placed: gendiff.Model) -> None:
    centred = gendiff.Model.new(domain, **SMALL)
    randomised(centred.denoiser.network)
    for model in (centred, placed):
        pocket, shift = shell(40), np.array([10.0, -20.0, 30.0])
        away = pocket.moved(np.eye(3), shift)
        here = model.sample(3, given=pocket, atoms=[5, 9, 7], steps=3, seed=1)
        there = model.sample(3, given=away, atoms=[5, 9, 7], steps=3, seed=1)
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(a.positions + shift, b.positions, atol=1e-3)
            assert (a.elements == b.elements).all()
        other = model.sample(3, given=[pocket, shell(20, 3), pocket], atoms=[5, 9, 7], steps=3, seed=1)
        np.testing.assert_allclose(other[0].positions, here[0].positions, atol=1e-4)
        assert np.abs(other[1].positions - here[1].positions).max() > 1e-3  # the pocket is looked at
        (single,) = model.sample(1, given=pocket, atoms=5, steps=3, seed=1)
        np.testing.assert_allclose(single.positions, here[0].positions, atol=1e-4)
    assert np.abs(np.mean([m.positions.mean(0) for m in centred.sample(4, given=away, atoms=8, steps=3)], 0)
                  - shift).max() < 1e-3  # fmt: skip


def test_a_placed_state_keeps_its_place(domain: Molecules, placed: gendiff.Model) -> None:
    one = domain.dataset("train")[0].artifact
    back = placed.domain.decode(placed.domain.encode(one))
    np.testing.assert_allclose(back.positions, one.positions, atol=1e-5)
    middle = domain.decode(domain.encode(one)).positions.mean(0)
    assert np.abs(middle).max() < 1e-5 < 0.1 < np.abs(one.positions.mean(0)).max()
    assert "Centered" in repr(domain.process) and "Centered" not in repr(placed.domain.process)


def test_fragments_grow_in_a_pocket_and_stay_where_they_are(domain: Molecules, placed: gendiff.Model) -> None:
    pocket = shell(40).moved(np.eye(3), np.array([10.0, -20.0, 30.0]))
    whole = next(e.artifact for e in domain.dataset("train") if len(e.artifact) > 9)
    whole = whole.moved(whole.positions + pocket.centre + 0.7)
    core = fragment(whole, [0, 1, 2], atoms=10, pocket=pocket)
    for own in placed.sample(2, given=core, steps=4, seed=0):
        np.testing.assert_allclose(own.positions[:3], whole.positions[:3], atol=1e-9)
        assert (own.elements[:3] == whole.elements[:3]).all() and len(own) == 10
        assert np.linalg.norm(own.positions.mean(0) - pocket.centre) < 30
    centred = gendiff.Model.new(domain, **SMALL)
    with pytest.raises(RequestError, match="a model that centres molecules"):
        centred.sample(1, given=core)


def test_requests_that_cannot_be_answered(domain: Molecules, placed: gendiff.Model) -> None:
    with pytest.raises(RequestError, match="without a number of atoms"):
        placed.sample(2, given=shell(20))
    assert len(placed.sample(2, given=[shell(20), shell(30)], steps=2)) == 2  # sizes as in training
    with pytest.raises(RequestError, match="a pocket"):
        placed.sample(1, pocket=3, atoms=5)
    plain = gendiff.Model.new(replace(domain, source=MoleculeFiles(domain.source.folder)), **SMALL)  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="not trained in pockets"):
        plain.sample(1, given=shell(20), atoms=5)
    with pytest.raises(RecipeError):
        Surroundings(most=0)


def test_a_command_line_says_the_pocket_by_files(domain: Molecules, placed: gendiff.Model, tmp_path: Path) -> None:
    pocket = shell(30).moved(np.eye(3), np.array([5.0, 6.0, 7.0]))
    (tmp_path / "p.pdb").write_text(pocket.pdb())
    assert set(placed.domain.givens) == {"protein", "ligand", "centre"}
    told = placed.domain.given(2, protein=str(tmp_path / "p.pdb"), centre="5,6,7")
    assert len(told) == 2 and len(told[0]) == 30 and told[0].centre.tolist() == [5, 6, 7]
    assert placed.domain.given(1, protein=str(tmp_path / "p.pdb"), centre=[5, 6, 7])[0].centre.tolist() == [5, 6, 7]
    mine = next(e.artifact for e in domain.dataset("train"))
    write(mine.moved(mine.positions + pocket.centre), tmp_path / "mine.sdf")
    (own,) = placed.domain.given(1, protein=str(tmp_path / "p.pdb"), ligand=str(tmp_path / "mine.sdf"))
    np.testing.assert_allclose(own.centre, mine.positions.mean(0) + pocket.centre, atol=1e-3)
    assert len(placed.sample(2, given=told, steps=2, seed=0)) == 2
    with pytest.raises(RequestError, match="without a protein"):
        placed.domain.given(1, ligand="STI")
    with pytest.raises(RequestError, match="three numbers"):
        placed.domain.given(1, protein="x.pdb", centre="here")
    assert not Molecules(source=MoleculeFiles(domain.source.folder)).givens  # type: ignore[attr-defined]


@pytest.fixture
def phenol(tmp_path: Path) -> Molecule:
    (tmp_path / "m.smi").write_text("Oc1ccccc1 phenol")
    (mine,) = read(tmp_path / "m.smi")
    return mine.moved(mine.positions - mine.positions.mean(0))


def test_settling_ends_clashes_by_a_rigid_motion_and_moves_nothing_else(phenol: Molecule) -> None:
    tight, rigid = shell(60, 2, least=4.2, most=7.0), Settling(relax=0)
    aside = phenol.moved(phenol.positions + np.array([1.0, 0.5, 0.0]))
    assert tight.overlap(aside) > 0.2
    moved = rigid(aside, tight)
    assert tight.overlap(moved) <= 1e-6
    before, after = (np.linalg.norm(m.positions[:, None] - m.positions, axis=-1) for m in (aside, moved))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert np.linalg.det(np.linalg.lstsq(aside.positions - aside.positions.mean(0),
                                         moved.positions - moved.positions.mean(0), rcond=None)[0]) > 0  # fmt: skip
    wide = shell(60, 2, least=7.5, most=9.0)
    np.testing.assert_allclose(rigid(phenol, wide).positions, phenol.positions, atol=1e-12)
    turn, shift = TURN.numpy(), np.array([3.0, -2.0, 9.0])
    again = rigid(aside.moved(aside.positions @ turn.T + shift), tight.moved(turn, shift))
    np.testing.assert_allclose(again.positions, moved.positions @ turn.T + shift, atol=1e-6)


def test_relaxation_mends_what_was_drawn_and_keeps_clear_of_walls(phenol: Molecule) -> None:
    rng = np.random.default_rng(1)
    bent = phenol.moved(phenol.positions + rng.normal(scale=0.08, size=phenol.positions.shape))
    pocket = shell(60, 2, least=5.5, most=9.0)
    out = Settling()(bent, pocket)
    ring = [k for k in range(len(phenol)) if phenol.elements[k] == 6]

    def off(m: Molecule) -> tuple[float, float]:
        x = m.positions[ring] - m.positions[ring].mean(0)
        i, j = phenol.bonds[(phenol.elements[phenol.bonds[:, :2]] == 6).all(1), :2].T
        return float(np.linalg.svd(x)[1][2]), float(np.linalg.norm(m.positions[i] - m.positions[j], axis=-1).std())

    assert all(a < 0.3 * b for a, b in zip(off(out), off(bent), strict=True))  # flat, and of equal bonds
    heavy = phenol.elements > 1
    assert np.linalg.norm(out.positions - bent.positions, axis=-1)[heavy].max() < 0.6
    near = shell(1, 0, least=3.3, most=3.31)
    left = relaxed_among(phenol, replace(near, positions=near.positions[:, [0, 1, 2]]), 200)
    assert near.overlap(left) <= max(0.0, near.overlap(phenol)) + 1e-6
    broken = Molecule([6, 6, 1], rng.normal(size=(3, 3)) * 2, [[0, 1, 3], [0, 2, 3]])
    np.testing.assert_allclose(relaxed_among(broken, pocket, 50).positions, broken.positions)


def test_faults_count_what_is_unsound(phenol: Molecule) -> None:
    assert faults(phenol) == 0
    wide, tight = shell(40, 1, least=8.0), shell(40, 1, least=1.0, most=2.0)
    assert faults(phenol, wide) == 0 < faults(phenol, tight)
    bare = phenol.take([k for k in range(len(phenol)) if k != len(phenol) - 1])  # one hydrogen too few
    assert faults(bare) == 1
    two = replace(phenol, bonds=phenol.bonds[:-1])
    assert faults(two) >= 2  # a valence at either end, and a piece too many


def test_sound_draws_anew_what_is_not_and_hides_nothing(placed: gendiff.Model) -> None:
    pocket = shell(40)
    told = sound(placed, 3, given=pocket, atoms=[5, 6, 7], tries=3, seed=4, steps=2)
    assert [len(m) for m in told.molecules] == [5, 6, 7] and len(told.faults) == len(told.tries) == 3
    for molecule, count, fault in zip(told.molecules, told.tries, told.faults, strict=True):
        assert count == 3 or fault == 0
        assert abs(faults(molecule, pocket) - fault) < 1e-9
    once = sound(placed, 3, given=pocket, atoms=[5, 6, 7], tries=1, seed=4, steps=2)
    assert all(a <= b for a, b in zip(told.faults, once.faults, strict=True))
    first = placed.sample(3, given=pocket, atoms=[5, 6, 7], seed=4, steps=2)
    for a, b in zip(once.molecules, first, strict=True):
        np.testing.assert_allclose(a.positions, b.positions)
    assert len(sound(placed, 2, tries=2, steps=2).molecules) == 2
    with pytest.raises(RequestError, match="tries=0"):
        sound(placed, 2, tries=0)

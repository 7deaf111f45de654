"""Molecules as a domain: its contract, rotations and mirror images, padding, fragments that are known, valences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gendiff
from gendiff.adaptation import begin
from gendiff.domain import collate
from gendiff.errors import DataError, RequestError
from gendiff.random import Noise
from gendiff.spaces import exp_so3, pair_index, to_pairs
from gendiff.testing import check_domain, randomised
from gendiff.training import Objective, denoising_loss, template

pytest.importorskip("rdkit")
from gendiff_molecules import (
    Fragment,
    KnownAtoms,
    Molecule,
    MoleculeFiles,
    MoleculeNetwork,
    Molecules,
    fragment,
    read,
    write,
)
from gendiff_molecules.domain import kind_of, kinds_of
from gendiff_molecules.networks import Incidence, tally
from gendiff_molecules.sources import census

SMILES = ["CCO", "C[C@H](N)C(=O)O", "c1ccccc1O", "C[N+](C)(C)C", "CC(=O)[O-]", "N#CC1CC1", "OC1CCCCC1", "CN=C=O",
          "C[C@@H](F)O", "c1ccncc1", "CC(C)=O", "O=C1CCCN1"]  # fmt: skip
SMALL: dict[str, Any] = {"width": 32, "pair": 16, "depth": 2, "heads": 4, "vectors": 8, "triangle": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("molecules")
    (home / "some.smi").write_text("\n".join(f"{one} {k}" for k, one in enumerate(SMILES)))
    write(read(home / "some.smi"), home / "some.sdf")
    (home / "some.smi").unlink()
    return home


@pytest.fixture(scope="module")
def domain(folder: Path) -> Molecules:
    plain = Molecules(source=MoleculeFiles(str(folder)), templates=True)
    return plain.fit(plain.dataset("train").artifacts)


@pytest.fixture(scope="module")
def model(domain: Molecules) -> gendiff.Model:
    made = gendiff.Model.new(domain, **SMALL)
    randomised(made.denoiser.network)
    return made


def batch_of(domain: Molecules, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], Tensor]:
    states = [domain.encode(e.artifact) for e in domain.dataset("train")[:4]]
    x, mask = collate(states, True, None, domain.process.space)
    assert isinstance(x, dict) and mask is not None
    return {**x, "pos": x["pos"].to(dtype)}, mask


def test_the_domain_keeps_its_laws(folder: Path) -> None:
    check_domain(Molecules(source=MoleculeFiles(str(folder))))


def test_kinds_join_elements_and_charges(domain: Molecules) -> None:
    assert {"C", "H", "N+", "O-"} <= set(domain.kinds)
    for kind, pair in (("C", ("C", 0)), ("N+", ("N", 1)), ("O-", ("O", -1)), ("Ca+2", ("Ca", 2)), ("S-2", ("S", -2))):
        assert kind_of(kind) == pair
        assert kinds_of(Molecule(np.array([{"C": 6, "N": 7, "O": 8, "Ca": 20, "S": 16}[pair[0]]]), np.zeros((1, 3)),
                                 charges=np.array([pair[1]]))) == [kind]  # fmt: skip
    with pytest.raises(DataError, match="kind of atoms 'Xx'"):
        Molecules(kinds=("C", "Xx"))
    with pytest.raises(DataError, match="each once"):
        Molecules(kinds=("C", "C"))


def test_packed_molecules_are_counted_as_made_ones_are(domain: Molecules) -> None:
    packed = domain.dataset("train").artifacts
    kinds, counts = census(packed)
    other, same = census(list(packed))
    assert kinds == other and {(6, 0), (7, 1), (8, -1)} <= kinds and counts.tolist() == same.tolist()
    assert counts.sum() == len(packed) and census(packed[:1])[1].sum() == 1


def test_what_is_encoded_comes_back_with_its_stereochemistry(domain: Molecules) -> None:
    for example in domain.dataset("train"):
        one = example.artifact
        back = domain.decode(domain.encode(one))
        assert back.smiles() == one.smiles() and back.charge == one.charge
        assert back.labels() == one.labels()
        mirrored = domain.decode(domain.encode(one.mirrored()))
        assert mirrored.smiles() == one.mirrored().smiles()


def test_what_cannot_be_encoded_is_answered(domain: Molecules) -> None:
    iodine = Molecule(np.array([53, 1]), np.array([[0.0, 0, 0], [1.6, 0, 0]]), np.array([[0, 1, 1]]))
    with pytest.raises(DataError, match="atom 1 is I"):
        domain.encode(iodine)
    with pytest.raises(DataError, match="leaves hydrogens out"):
        domain.encode(Molecule(np.array([6]), np.zeros((1, 3)), implied=True))
    with pytest.raises(RequestError, match=r"asked for 'atom'.*Did you mean .atoms"):
        domain.request(2, atom=4)
    with pytest.raises(RequestError, match="atoms=0"):
        domain.request(2, atoms=0)


def out_of(network: torch.nn.Module, x: dict[str, Tensor], mask: Tensor, **told: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(x, torch.full((len(mask),), 0.4, dtype=torch.float64), mask=mask, **told)  # type: ignore[no-any-return]


@pytest.mark.parametrize("parity", [True, False])
def test_networks_turn_with_molecules_and_see_mirror_images_or_not(domain: Molecules, parity: bool) -> None:
    network = randomised(MoleculeNetwork(len(domain.kinds), 32, 16, 2, 4, 8, 4, parity=parity, templates=True).double())
    x, mask = batch_of(domain)
    keep = mask & (torch.arange(mask.shape[1]) < 4)
    told = template(keep, {"pos": x["pos"]})
    out = out_of(network, x, mask, template=told)
    turn = exp_so3(torch.tensor([0.4, -1.0, 0.8], dtype=torch.float64))
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    for matrix, same in ((turn, True), (mirror, not parity)):
        moved = out_of(
            network, {**x, "pos": x["pos"] @ matrix.T}, mask, template={**told, "pos": told["pos"] @ matrix.T}
        )
        close = torch.allclose(moved["pos"], out["pos"] @ matrix.T, rtol=0, atol=1e-9)
        assert close == same
        assert torch.allclose(moved["bond"], out["bond"], rtol=0, atol=1e-9) == same


def test_padding_and_the_order_of_atoms_are_not_seen(domain: Molecules) -> None:
    network = randomised(MoleculeNetwork(len(domain.kinds), 32, 16, 2, 4, 8, 4).double())
    x, mask = batch_of(domain)
    out = out_of(network, x, mask)
    n = int(mask[0].sum())
    count = n * (n - 1) // 2
    alone = {"pos": x["pos"][:1, :n], "atom": x["atom"][:1, :n], "bond": x["bond"][:1, :count]}
    single = out_of(network, alone, mask[:1, :n])
    for name in ("pos", "atom"):
        torch.testing.assert_close(single[name], out[name][:1, :n], rtol=0, atol=1e-10)
    torch.testing.assert_close(single["bond"], out["bond"][:1, :count], rtol=0, atol=1e-10)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    square = torch.zeros(1, n, n, dtype=torch.int64)
    i, j = pair_index(n)
    square[:, i, j] = square[:, j, i] = alone["bond"]
    moved = {"pos": alone["pos"][:, order], "atom": alone["atom"][:, order],
             "bond": to_pairs(square[:, order][:, :, order])}  # fmt: skip
    torch.testing.assert_close(out_of(network, moved, mask[:1, :n])["pos"], single["pos"][:, order], rtol=0, atol=1e-10)


def test_valences_and_lengths_that_are_right_cost_nothing(domain: Molecules) -> None:
    x, mask = batch_of(domain, torch.float32)
    exact = torch.nn.functional.one_hot(x["bond"], 4).float().clamp_min(1e-9).log()
    t = torch.full((len(mask),), 0.5)
    right = {"pos": x["pos"], "bond": exact}
    assert float(domain.valence(right, x, t, mask=mask).abs().max()) < 1e-5
    assert float(domain.lengths(right, x, t, mask=mask).abs().max()) < 1e-6
    padded = {"pos": x["pos"] + 5 * ~mask[..., None], "bond": exact}
    assert float(domain.lengths(padded, x, t, mask=mask).abs().max()) < 1e-6
    none = {"pos": x["pos"], "bond": torch.zeros_like(exact).log_softmax(-1)}
    one = int(mask[0].sum())
    orders = domain.decode({k: v[0, : one * (one - 1) // 2 if k == "bond" else one] for k, v in x.items()}).valences
    expected = np.abs(1.5 * (one - 1) - orders).mean()
    assert float(domain.valence(none, x, t, mask=mask)[0]) == pytest.approx(expected, rel=1e-5)


def test_known_atoms_lie_together_in_their_share_of_the_samples(domain: Molecules) -> None:
    x, mask = batch_of(domain, torch.float32)
    many, masks = {k: v.repeat(300, *[1] * (v.ndim - 1)) for k, v in x.items()}, mask.repeat(300, 1)
    way = KnownAtoms(0.4, 0.2, 0.6)
    noise = Noise.of(0, len(masks))
    keep = way.keep(many, masks, noise)
    some = keep.any(1)
    assert 0.35 < some.double().mean() < 0.45 and not bool((keep & ~masks).any())
    share = (keep.sum(1) / masks.sum(1))[some]
    assert float(share.min()) >= 0.2 and float(share.max()) <= 0.6 + 1 / float(masks.sum(1).min())
    row = int(some.long().argmax())
    far = (many["pos"][row][:, None] - many["pos"][row]).norm(dim=-1)
    inside, outside = keep[row], masks[row] & ~keep[row]
    assert any(
        float(far[k][inside].max()) <= float(far[k][outside].min()) for k in range(len(inside)) if bool(inside[k])
    )
    found = way(domain.process, many, noise, masks)
    i, j = pair_index(masks.shape[1])
    assert torch.equal(found["bond"][0], keep[:, i] & keep[:, j]) and torch.equal(found["atom"][0], keep)
    assert torch.equal(way.told(many, masks, noise)["template"]["keep"], keep)


def test_training_reaches_all_weights(domain: Molecules, model: gendiff.Model) -> None:
    x, mask = batch_of(domain, torch.float32)
    t = torch.full((len(mask),), 0.5, dtype=torch.float64)
    losses = denoising_loss(
        model.denoiser, x, t, Noise.of(0, len(mask)), objective=Objective(known=(KnownAtoms(0.9),), previous=1.0),
        auxiliary=domain.losses, mask=mask,
    )  # fmt: skip
    assert bool(torch.isfinite(losses["loss"]).all())
    losses["loss"].mean().backward()
    silent = [name for name, p in model.denoiser.network.named_parameters() if p.grad is None]
    assert all("asked" in name for name in silent)  # nothing was asked


@pytest.mark.parametrize("templates", [True, False])
def test_what_is_known_is_there_with_its_bonds_and_hand(folder: Path, templates: bool) -> None:
    domain = Molecules(source=MoleculeFiles(str(folder)), templates=templates)
    domain = domain.fit(domain.dataset("train").artifacts)
    model = gendiff.Model.new(domain, **SMALL)
    alanine = next(e.artifact for e in domain.dataset("train") if "C(=O)O" in e.artifact.smiles())
    core = fragment(alanine, "CC(N)C(=O)O", 14)
    made = model.sample(3, given=core, steps=3, seed=1)
    for one in made:
        assert len(one) == 14
        np.testing.assert_allclose(one.positions[: len(core.molecule)], core.molecule.positions, atol=1e-9)
        kept = one.take(range(len(core.molecule)))
        assert np.array_equal(kept.bonds, core.molecule.bonds) and kept.symbols == core.molecule.symbols
        assert core.rmsd(one) < 1e-6
    spin = exp_so3(torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)).numpy()
    elsewhere = made[0].moved(made[0].positions @ spin.T + 3.0)
    assert core.rmsd(elsewhere) < 1e-6 and core.rmsd(made[0].mirrored()) > 0.1
    np.testing.assert_allclose(core.complete(elsewhere).positions, made[0].positions, atol=1e-6)


def test_two_pieces_may_be_joined_and_wrong_fragments_are_answered(domain: Molecules) -> None:
    phenol = next(e.artifact for e in domain.dataset("train") if e.artifact.formula == "C6H6O")
    pieces = Fragment(phenol.take([0, 1, 3]), 9)  # the third is no neighbour of the others
    closed = pieces.closed(9)
    i, j = (index.tolist() for index in pair_index(9))
    known = {(a, b) for a, b, whole in zip(i, j, closed.tolist(), strict=True) if whole}
    assert known == {(0, 1)}
    with pytest.raises(RequestError, match="matches nothing"):
        fragment(phenol, "[Br]", 20)
    with pytest.raises(RequestError, match="SMARTS"):
        fragment(phenol, "c1cc(", 20)
    with pytest.raises(RequestError, match="known atoms in a molecule of 5"):
        Fragment(phenol, 5)
    with pytest.raises(RequestError, match="from 0 to"):
        fragment(phenol, [99], 20)


def test_weights_of_kinds_are_taken_by_name(domain: Molecules) -> None:
    other = replace(domain, kinds=("O", "S", "H", "C"))
    source, fresh = (randomised(MoleculeNetwork(len(one.kinds), 32, 16, 2, 4, 8, 4), seed)
                     for one, seed in ((domain, 1), (other, 2)))  # fmt: skip
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    begun = begin(other, fresh, domain, source)
    named = set(other.vocabulary(fresh))
    assert named == {"atom.weight", "atoms.weight", "atoms.bias", "atom_before.weight", "tally.weight"}
    assert named <= set(begun.taken) and not begun.new
    mine, theirs = fresh.state_dict(), source.state_dict()
    for k, kind in enumerate(other.kinds):
        for name in ("atom.weight", "atoms.weight", "atoms.bias"):
            own = before[name][k] if kind == "S" else theirs[name][domain.kinds.index(kind)]
            assert torch.equal(mine[name][k], own)
        if kind != "S":
            assert torch.equal(
                mine["atom_before.weight"][:, k], theirs["atom_before.weight"][:, domain.kinds.index(kind)]
            )
            assert torch.equal(mine["tally.weight"][:, k], theirs["tally.weight"][:, domain.kinds.index(kind)])
    assert torch.equal(mine["atom.weight"][-1], theirs["atom.weight"][-1])  # what is masked
    assert torch.equal(mine["tally.weight"][:, -6:], theirs["tally.weight"][:, -6:])


def test_what_is_shown_is_counted(domain: Molecules) -> None:
    x, mask = batch_of(domain)
    told = tally(x, Incidence(mask, torch.float64), mask, len(domain.kinds)) * 8
    k = len(domain.kinds)
    for row, real in enumerate(mask.sum(1).tolist()):
        counts = torch.bincount(x["atom"][row][mask[row]], minlength=k + 1).double()
        assert torch.equal(told[row, : k + 1], counts) and told[row, k + 1 :].sum() == real * (real - 1) / 2
        one = domain.decode({name: part[row, : real * (real - 1) // 2 if name == "bond" else real]
                             for name, part in x.items()})  # fmt: skip
        assert told[row, k + 2 : k + 5].tolist() == [(one.bonds[:, 2] == order).sum() for order in (1, 2, 3)]

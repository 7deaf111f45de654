"""Networks of molecules beside one another: rotations, mirror images, the order of atoms, padding, what is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gendiff
from gendiff.domain import collate
from gendiff.errors import RequestError
from gendiff.random import Noise
from gendiff.spaces import exp_so3, pair_index, to_pairs, to_square
from gendiff.testing import check_domain, randomised
from gendiff.training import Objective, denoising_loss, template

pytest.importorskip("rdkit")
from gendiff_molecules import KnownAtoms, MoleculeFiles, Molecules

DESIGNS = ["vectors", "egnn", "transformer"]
SMILES = ["CCO", "C[C@H](N)C(=O)O", "c1ccccc1O", "C[N+](C)(C)C", "CC(=O)[O-]", "N#CC1CC1", "OC1CCCCC1", "CN=C=O",
          "C[C@@H](F)O", "c1ccncc1", "CC(C)=O", "O=C1CCCN1"]  # fmt: skip
SMALL: dict[str, Any] = {"width": 32, "pair": 16, "depth": 2, "heads": 4, "vectors": 8, "triangle": 4}
TURN = exp_so3(torch.tensor([0.4, -1.0, 0.8], dtype=torch.float64))
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Molecules:
    home = tmp_path_factory.mktemp("molecules")
    (home / "some.smi").write_text("\n".join(SMILES))
    plain = Molecules(source=MoleculeFiles(str(home)), templates=True)
    return plain.fit(plain.dataset("train").artifacts)


def network_of(domain: Molecules, design: str, **size: Any) -> nn.Module:
    return randomised(domain.network(design=design, **{**SMALL, **size}).double())  # type: ignore[arg-type]


def batch_of(domain: Molecules) -> tuple[dict[str, Tensor], Tensor]:
    x, mask = collate(
        [domain.encode(e.artifact) for e in domain.dataset("train")[:4]], True, None, domain.process.space
    )
    assert isinstance(x, dict) and mask is not None
    return {**x, "pos": x["pos"].double()}, mask


def told_of(x: dict[str, Tensor], mask: Tensor) -> dict[str, Any]:
    """A first prediction and a template, as a network is told them."""
    logits = {name: torch.linspace(-1, 1, k, dtype=torch.float64).log_softmax(-1) for name, k in (("bond", 4),)}
    before = {"pos": x["pos"] * 0.9, "bond": logits["bond"].expand(*x["bond"].shape, 4)}
    return {"previous": before, "template": template(mask & (torch.arange(mask.shape[1]) < 4), {"pos": x["pos"]})}


def out_of(network: nn.Module, domain: Molecules, x: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    told = told_of(x, mask)
    k = len(domain.kinds)
    told["previous"]["atom"] = torch.zeros(*x["atom"].shape, k, dtype=torch.float64).log_softmax(-1)
    with torch.no_grad():
        return network(x, torch.full((len(mask),), 0.4, dtype=torch.float64), mask=mask, **told)  # type: ignore[no-any-return]


@pytest.mark.parametrize("design", DESIGNS)
def test_who_turns_with_molecules_and_who_sees_mirror_images(domain: Molecules, design: str) -> None:
    network = network_of(domain, design)
    x, mask = batch_of(domain)
    out = out_of(network, domain, x, mask)
    for matrix, same in ((TURN, design != "transformer"), (MIRROR, design == "egnn")):
        moved = out_of(network, domain, {**x, "pos": x["pos"] @ matrix.T}, mask)
        assert torch.allclose(moved["pos"], out["pos"] @ matrix.T, rtol=0, atol=1e-9) == same
        assert torch.allclose(moved["bond"], out["bond"], rtol=0, atol=1e-9) == same
    shifted = out_of(network, domain, {**x, "pos": x["pos"] + 1.5}, mask)
    assert torch.allclose(shifted["atom"], out["atom"], rtol=0, atol=1e-9) == (design == "egnn")


@pytest.mark.parametrize("design", DESIGNS)
def test_no_network_sees_padding_other_molecules_or_the_order_of_atoms(domain: Molecules, design: str) -> None:
    network = network_of(domain, design)
    x, mask = batch_of(domain)
    out = out_of(network, domain, x, mask)
    n = int(mask[0].sum())
    count = n * (n - 1) // 2
    assert n < mask.shape[1] or len(mask) > 1
    alone = {"pos": x["pos"][:1, :n], "atom": x["atom"][:1, :n], "bond": x["bond"][:1, :count]}
    single = out_of(network, domain, alone, mask[:1, :n])
    for name, places in (("pos", n), ("atom", n), ("bond", count)):
        torch.testing.assert_close(single[name], out[name][:1, :places], rtol=0, atol=1e-10)
    order = torch.cat([torch.randperm(4, generator=torch.Generator().manual_seed(1)), torch.arange(4, n).flip(0)])
    square = to_square(alone["bond"], n)
    moved = {"pos": alone["pos"][:, order], "atom": alone["atom"][:, order],
             "bond": to_pairs(square[:, order][:, :, order])}  # fmt: skip
    again = out_of(network, domain, moved, mask[:1, :n])
    torch.testing.assert_close(again["pos"], single["pos"][:, order], rtol=0, atol=1e-10)
    bonds = to_square(single["bond"], n)[:, order][:, :, order]
    i, j = pair_index(n)
    torch.testing.assert_close(again["bond"], bonds[:, i, j], rtol=0, atol=1e-10)


@pytest.mark.parametrize("design", DESIGNS)
def test_every_network_is_a_domain_s_and_all_of_it_is_trained(domain: Molecules, design: str) -> None:
    model = gendiff.Model.new(domain, design=design, **SMALL)
    randomised(model.denoiser.network)
    x, mask = batch_of(domain)
    x = {**x, "pos": x["pos"].float()}
    losses = denoising_loss(
        model.denoiser, x, torch.full((len(mask),), 0.5), Noise.of(0, len(mask)), auxiliary=domain.losses, mask=mask,
        objective=Objective(known=(KnownAtoms(0.9),), previous=1.0),
    )  # fmt: skip
    losses["loss"].mean().backward()
    silent = [name for name, p in model.denoiser.network.named_parameters() if p.grad is None]
    assert all("asked" in name for name in silent)
    (one,) = model.sample(1, atoms=5, steps=2, seed=0)
    assert len(one) == 5


def test_the_networks_differ_and_another_name_is_answered(domain: Molecules) -> None:
    counts = {design: sum(p.numel() for p in domain.network(design=design).parameters()) for design in DESIGNS}  # type: ignore[arg-type]
    assert len(set(counts.values())) == 3
    with pytest.raises(RequestError, match="'transformers'"):
        domain.network(design="transformers")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="heads divide"):
        domain.network(design="transformer", width=30)


def test_molecules_are_turned_by_proper_rotations_each_by_its_own(domain: Molecules) -> None:
    x, _ = batch_of(domain)
    many = {k: v.repeat(8, *[1] * (v.ndim - 1)) for k, v in x.items()}
    turned = replace(domain, turned=True)
    noise = Noise.of(3, len(many["pos"]))
    moved = turned.augment(many, noise)
    assert isinstance(moved, dict)
    lengths = [(pos[:, :, None] - pos[:, None]).norm(dim=-1) for pos in (many["pos"], moved["pos"])]
    torch.testing.assert_close(lengths[0], lengths[1])
    triple = [torch.linalg.det(pos[:, 1:4] - pos[:, :1]) for pos in (many["pos"], moved["pos"])]
    torch.testing.assert_close(triple[0], triple[1])
    apart = (moved["pos"][::4] - moved["pos"][:1]).abs().amax((1, 2))
    assert float(apart[1:].min()) > 1e-2 and torch.equal(moved["bond"], many["bond"])
    again = turned.augment(many, noise)
    assert isinstance(again, dict) and torch.equal(again["pos"], moved["pos"])
    assert domain.augment(many, noise) is many
    with pytest.raises(RequestError, match="variants"):
        turned.variants(domain.dataset("train")[0].artifact)


def test_a_domain_that_turns_keeps_its_laws(domain: Molecules) -> None:
    check_domain(replace(domain, turned=True, templates=False))

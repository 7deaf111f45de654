"""Symmetric oligomers: groups that close, noise and samples that have the symmetry exactly, motifs about the axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff.errors import RequestError
from gendiff.random import Noise
from gendiff.sampling.solvers import DDPM, Euler
from gendiff.spaces import to_square
from gendiff.testing import randomised
from gendiff_proteins import Ideal, Motif, PlannedProteins, Proteins, Relaxation, Structure, Symmetric
from gendiff_proteins.ideal import chains
from gendiff_proteins.symmetry import group, images, related

SIZES = {"C1": 1, "C2": 2, "C7": 7, "c3": 3, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_group_is_one(name: str, size: int) -> None:
    g = group(name)
    assert g.shape == (size, 3, 3)
    np.testing.assert_array_equal(g[0], np.eye(3))
    np.testing.assert_allclose(g @ g.transpose(0, 2, 1), np.broadcast_to(np.eye(3), g.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(g), 1.0, atol=1e-12)
    products = (g[:, None] @ g).reshape(-1, 1, 3, 3)
    assert float(np.abs(products - g).max((-1, -2)).min(1).max()) < 1e-12  # every product is an element
    apart = np.abs(g[:, None] - g).max((-1, -2)) + np.eye(size)
    assert apart.min() > 1e-3  # and all are different


@pytest.mark.parametrize("name", ["", "C0", "D1", "Q", "C", "T3", "C61", 3])
def test_a_group_that_there_is_not_is_answered(name: str) -> None:
    with pytest.raises(RequestError, match="C1 to C60, D2 to D60, T, O or I"):
        group(name)
    with pytest.raises(RequestError, match="4 or more"):
        Symmetric("C3", 3)
    with pytest.raises(RequestError, match="a radius of -1"):
        Symmetric("C3", 30, radius=-1)


@pytest.fixture(scope="module", params=[Proteins, PlannedProteins])
def model(request: pytest.FixtureRequest) -> gendiff.Model:
    size: dict[str, Any] = {"triangle": 4} if request.param is PlannedProteins else {}
    made = gendiff.Model.new(request.param(source=Ideal(count=8)), width=32, depth=2, heads=4, pair=8, **size)
    randomised(made.denoiser.network)
    return made


def error(sample: Structure, name: str, length: int) -> float:
    first = sample.backbone[:length]
    parts = sample.backbone.reshape(-1, length, 4, 3)
    return max(float(np.abs(first @ g.T - part).max()) for g, part in zip(group(name), parts, strict=True))


@pytest.mark.parametrize("name", ["C2", "C5", "D3", "T"])
def test_samples_and_states_are_symmetric(model: gendiff.Model, name: str) -> None:
    asked = Symmetric(name, 9)
    states, _ = model.states(2, given=asked, sampler=DDPM(3), seed=4)
    x, g = states[0], torch.from_numpy(group(name)).float()
    pos = x["pos"].view(2, asked.count, 9, 3)
    torch.testing.assert_close(torch.einsum("gij,bnj->bgni", g, pos[:, 0]), pos, atol=2e-5, rtol=0)
    made = model.sample(2, given=asked, sampler=DDPM(3), seed=4)
    for one in made:
        assert error(one, name, 9) < 1e-9
        assert len(set(one.chains)) == asked.count and one.numbers[:9] == one.numbers[9:18]
    (relaxed,) = Relaxation(steps=20)(made[:1])
    assert error(relaxed, name, 9) < 1e-3


@pytest.mark.parametrize("name", ["D2", "C4"])  # the rotations of C4 are not their own inverses
def test_every_step_is_symmetric_and_the_first_chain_far_enough_out(model: gendiff.Model, name: str) -> None:
    asked = Symmetric(name, 8, radius=14.0)
    domain: Any = model.domain
    given = asked.given(domain.with_nothing).expand(3)
    x = model.denoiser.process.prior(model.domain.request(3, length=32).like, Noise.of(1, 3))
    for s in (1.0, 0.6, 0.0):
        put = given.put(model.denoiser.process, x, s, Noise.of(2, 3))
        pos = put["pos"].view(3, 4, 8, 3)
        assert float(pos[:, 0].mean(1)[:, : 2 if name[0] == "C" else 3].norm(dim=-1).min()) >= 1.4 * (1 - s) - 1e-4
        for k, turn in enumerate(torch.from_numpy(group(name)).float()):
            torch.testing.assert_close(pos[:, 0] @ turn.T, pos[:, k], atol=1e-5, rtol=0)
            rot = put["rot"].view(3, 4, 8, 3, 3)
            torch.testing.assert_close(turn @ rot[:, 0], rot[:, k], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["C3", "D2", "T"])
def test_pairs_of_images_are_alike(name: str) -> None:
    g = torch.from_numpy(group(name)).float()
    count, size = len(g), 4
    generator = torch.Generator().manual_seed(0)
    square = torch.randint(0, 4, (1, count * size, count * size), generator=generator)
    square = torch.maximum(square, square.mT)
    full = related(square, g, size)
    assert torch.equal(full, full.mT)
    # the group acts on residues (k, i) -> (h k, i): whatever h, pairs stay what they are
    for h in g:
        moved = torch.tensor([int((h @ one - g).abs().amax((1, 2)).argmin()) for one in g])
        order = (moved[:, None] * size + torch.arange(size)).flatten()
        assert torch.equal(full[:, order][:, :, order], full)
    x = {"pos": torch.randn(1, count * size, 3), "rot": torch.eye(3).repeat(1, count * size, 1, 1)}
    n = count * size
    x["pairing"] = torch.randint(0, 4, (1, n * (n - 1) // 2), generator=generator)
    again = images(images(x, g, size), g, size)
    torch.testing.assert_close(to_square(images(x, g, size)["pairing"], n), to_square(again["pairing"], n))


def test_a_motif_lies_where_it_lies_to_the_axes(model: gendiff.Model) -> None:
    piece = Structure(chains(1, 16, 16, 3)[0]).take(slice(4, 10))
    placed = Structure(piece.backbone - piece.ca.mean(0) + np.array([9.0, 1.0, 30.0]), piece.sequence)
    asked = Symmetric("C3", 14, motif=Motif(placed, tuple(range(4, 10)), 14))
    for one in model.sample(2, given=asked, sampler=Euler(3)):
        assert np.abs(one.backbone[4:10] - placed.backbone).max() < 1e-9
        assert error(one, "C3", 14) < 1e-9
        assert one.known[:14] == ("",) * 4 + tuple(f"A{k}" for k in range(1, 7)) + ("",) * 4
    domain: Any = model.domain
    given = asked.given(domain.with_nothing)
    assert not given.shown  # the networks never saw a clean motif in noise: it is as noisy as the rest
    x = model.denoiser.process.prior(model.domain.request(1, length=42).like, Noise.of(1, 1))
    dark, clean = (given.put(model.denoiser.process, x, s, Noise.of(2, 1))["rot"][0, 4:10] for s in (0.9, 0.0))
    assert float((dark - clean).abs().max()) > 0.1
    put = given.put(model.denoiser.process, x, 0.0, Noise.of(2, 1))["pos"][
        0, 4:10, :2
    ]  # whatever the other chains were
    np.testing.assert_allclose(10 * put.numpy(), placed.ca[:, :2], atol=1e-4)
    states, _ = model.states(1, given=asked, sampler=Euler(3))
    there = states[0]["pos"][0, 4:10, :2] * 10  # about z nothing is free
    np.testing.assert_allclose(there.numpy(), placed.ca[:, :2], atol=1e-3)
    with pytest.raises(RequestError, match="one length"):
        Symmetric("C3", 15, motif=asked.motif)


def test_lengths_that_do_not_fit_are_answered(model: gendiff.Model) -> None:
    with pytest.raises(RequestError, match="2 chains of 10"):
        model.sample(1, given=Symmetric("C2", 10), length=11)

"""Relaxation: bonds, angles and contacts of real chains, near where they were, each chain for itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gendiff.errors import GendiffError
from gendiff_proteins import Ideal, Proteins, Relaxation, Structure, metrics
from gendiff_proteins.relaxation import Springs, meant


def chains(n: int = 6) -> list[Structure]:
    return [example.artifact for example in Ideal(count=8 * n).load("test")][:n]


def shaken(structure: Structure, sd: float, seed: int = 0) -> Structure:
    noise = np.random.default_rng(seed).normal(0, sd, structure.backbone.shape)
    return replace(structure, backbone=structure.backbone + noise)


def cn(structures: list[Structure]) -> np.ndarray:
    bonds = [np.linalg.norm(s.backbone[1:, 0] - s.backbone[:-1, 2], axis=-1) for s in structures]
    return np.concatenate(bonds)


@pytest.mark.parametrize("sd", [0.1, 0.3])
def test_broken_chains_are_mended_near_where_they_were(sd: float) -> None:
    whole = chains()
    broken = [shaken(s, sd, k) for k, s in enumerate(whole)]
    mended = Relaxation()(broken)
    assert float((np.abs(cn(broken) - 1.329) < 0.1).mean()) < 0.8
    assert float((np.abs(cn(mended) - 1.329) < 0.1).mean()) > 0.99
    assert float((np.abs(metrics.steps(mended) - 3.8) < 0.15).mean()) > 0.98
    moved = [np.linalg.norm(a.backbone - b.backbone, axis=-1) for a, b in zip(mended, broken, strict=True)]
    assert float(np.sqrt(np.mean(np.concatenate(moved) ** 2))) < 1.5 * sd + 0.1
    far = [np.linalg.norm(a.backbone - b.backbone, axis=-1) for a, b in zip(mended, whole, strict=True)]
    assert float(np.concatenate(far).mean()) < 1.1 * math.sqrt(8 / math.pi) * sd  # no farther than the noise was


def test_atoms_that_overlap_are_moved_apart_and_hands_are_kept() -> None:
    first, second = chains(2)[:2]
    near = first.backbone - first.backbone.mean((0, 1)) + np.array([6.0, 0, 0])
    both = Structure(
        np.concatenate([second.backbone - second.backbone.mean((0, 1)), near]),
        chains=("A",) * len(second) + ("B",) * len(first),
    )
    assert metrics.atom_clashes(both) > 3
    apart = Relaxation(place=0.3)([both])[0]
    assert metrics.atom_clashes(apart) == 0
    assert apart.chains == both.chains
    for structure in chains(3):
        mirror = replace(structure, backbone=structure.backbone * np.array([1.0, 1, -1]))
        for one in (structure, mirror):
            before, after = (metrics.torsions(s)[0] for s in (one, Relaxation()([one])[0]))
            seen = np.isfinite(before) & (np.abs(before) > 15) & (np.abs(before) < 165)
            assert (np.sign(before[seen]) == np.sign(after[seen])).all()


def test_a_chain_relaxes_as_if_it_were_alone_wherever_it_lies() -> None:
    broken = [shaken(s, 0.2, k) for k, s in enumerate(chains(4))]
    together = Relaxation()(broken)
    for one, other in zip(broken, together, strict=True):
        assert np.array_equal(Relaxation()([one])[0].backbone, other.backbone)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = [replace(s, backbone=s.backbone @ turn.T + 5.0) for s in broken]
    for one, other in zip(Relaxation()(moved), together, strict=True):
        assert float(np.abs((one.backbone - 5.0) @ turn - other.backbone).max()) < 1e-6
    assert Relaxation()([]) == []
    short = [replace(broken[0].take(slice(0, n)), name=str(n)) for n in (0, 1, 2, 5)]
    assert [(len(s), s.name) for s in Relaxation(steps=3)(short)] == [(0, "0"), (1, "1"), (2, "2"), (5, "5")]
    assert [len(s) for s in Relaxation()(short[:1])] == [0]


def test_the_slope_is_that_of_an_energy() -> None:
    broken = [shaken(s, 0.5, k) for k, s in enumerate(chains(2))]
    relax = Relaxation(place=0.5, contact=0.3)
    raw = torch.from_numpy(np.concatenate([s.backbone for s in broken]))
    springs = Springs.of(broken)
    x = (
        raw + 0.2 * torch.randn(raw.shape, dtype=raw.dtype, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    near = relax.near(x.detach(), [meant(s) for s in broken])

    def far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        atoms = x.reshape(-1, 3)
        return (atoms[a] - atoms[b]).norm(dim=1)

    energy = ((far(springs.a, springs.b) - springs.length) / springs.width).square().sum() / 2
    energy = energy + ((far(springs.oxygen, springs.nitrogen) - 2.95).clamp_min(0) / relax.bond).square().sum() / 2
    energy = energy + ((near[2] - far(near[0], near[1])).clamp_min(0) / relax.contact).square().sum() / 2
    energy = energy + ((x - raw) / relax.place).square().sum() / 2
    (slope,) = torch.autograd.grad(energy, x)
    found = relax.slope(x.detach(), raw, springs, near)
    assert float((slope - found).abs().max()) < 1e-9 * float(slope.abs().max())


def test_what_is_joined() -> None:
    one = chains(1)[0]
    apart = one.backbone.copy()
    apart[10:] += 8.0
    numbers = tuple(str(k + 1) for k in range(len(one)))
    gap = numbers[:10] + tuple(str(k + 5) for k in range(10, len(one)))
    torn = Structure(apart, numbers=numbers)
    assert meant(torn).all()  # a sample's chain, torn
    assert not meant(replace(torn, numbers=gap))[9]  # residues are missing there
    assert not meant(replace(torn, chains=("A",) * 10 + ("B",) * (len(one) - 10)))[9]
    assert meant(replace(one, numbers=gap)).all()  # numbers jump where a bond is


def test_samples_are_finished_where_the_domain_says_so() -> None:
    plain, relaxed = Proteins(), Proteins(relaxation=Relaxation(steps=50))
    broken = [shaken(s, 0.2) for s in chains(2)]
    assert not plain.finishes
    assert plain.finish(broken) is broken
    assert relaxed.finishes
    for one, other in zip(relaxed.finish(broken), Relaxation(steps=50)(broken), strict=True):
        assert np.array_equal(one.backbone, other.backbone)
    with pytest.raises(GendiffError, match="steps"):
        Relaxation(steps=0)

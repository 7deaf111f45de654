"""The domain: the contract, the sources, requests and their errors, and a chain that can be learnt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff import Euler, Model, Sites
from gendiff.config import from_config, to_config
from gendiff.domain import collate
from gendiff.errors import DataError, RequestError
from gendiff.testing import check_domain, randomised
from gendiff.training import Objective, Output, Uniform, denoising_loss, stratified
from gendiff_proteins import Backbones, Ideal, Proteins, Structure, Structures, metrics, read, write
from gendiff_proteins.bonding import three_states
from gendiff_proteins.ideal import chains, program
from gendiff_proteins.sources import FOLDS, fold, held_out

TINY: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "pair": 16}


def test_the_contract() -> None:
    check_domain(Proteins(source=Ideal(8, 32, 40)), tolerance=5e-3)


def test_config_round_trip_of_every_source() -> None:
    import gendiff_proteins

    for source in (Ideal(10), Backbones(50, 80), Structures("folder", 20, 90)):
        domain = Proteins(source=source, rate=2.0)
        assert from_config(to_config(domain), gendiff_proteins) == domain


def test_encode_centres_in_nanometres_and_decode_returns_angstrom() -> None:
    domain, structure = Proteins(), Ideal(8, 40, 40).load("train")[0].artifact
    moved = Structure(structure.backbone + 100.0)
    state = domain.encode(moved)
    assert state["pos"].mean(0).abs().max() < 1e-6
    step = (state["pos"][1:] - state["pos"][:-1]).norm(dim=-1)
    assert (step - 0.38).abs().max() < 0.01
    assert (torch.linalg.det(state["rot"]) - 1).abs().max() < 1e-5
    back = domain.decode(state)
    assert np.abs(back.backbone[:-1] - structure.backbone[:-1]).max() < 1e-3


def test_broken_short_and_long_chains_are_refused() -> None:
    domain, structure = Proteins(), Ideal(8, 40, 40).load("train")[0].artifact
    with pytest.raises(DataError, match=r"chain breaks after A19.*pieces"):
        domain.encode(structure.take([*range(19), *range(25, 40)]))
    with pytest.raises(DataError, match="4 to 1024 residues"):
        domain.encode(structure.take(slice(0, 3)))


def test_requests() -> None:
    request = Proteins().request(3, length=[50, 60, 41], fold=["alpha", None, 2])
    assert request.cond["mask"].sum(1).tolist() == [50, 60, 41]
    assert request.cond["fold"].tolist() == [0, len(FOLDS), 2]
    assert request.like["pos"].shape == (3, 60, 3) and request.like["rot"].shape == (3, 60, 3, 3)
    assert Proteins().request(2, length=40).cond["mask"].all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "length=None"),
        ({"length": 3}, "4 to 1024"),
        ({"length": 5000}, "4 to 1024"),
        ({"length": [40]}, "1 values for 2 samples"),
        ({"lenght": 40}, 'Did you mean "length"'),
        ({"length": 40, "fold": "alhpa"}, 'Did you mean "alpha"'),
        ({"length": True}, "length=True"),
        ({"length": "40"}, "length='40'"),
    ],
)
def test_wrong_requests_are_answered(asked: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Proteins().request(2, **asked)


def test_ideal_chains_are_sound_seeded_and_of_three_kinds() -> None:
    made = chains(36, 32, 64, 5)
    again = chains.__wrapped__(36, 32, 64, 5)
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
    assert not np.array_equal(made[0][:4], chains(36, 32, 64, 6)[0][:4])
    structures = [Structure(b) for b in made]
    assert all(32 <= len(s) <= 64 and not s.breaks for s in structures)
    assert {"alpha", "beta"} < {fold(s) for s in structures}
    assert metrics.step_share(structures) == 1.0 and metrics.clash_share(structures) == 0.0
    assert metrics.radii(structures).max() < 1.3
    apart = [np.linalg.norm(s.ca[:, None] - s.ca, axis=-1)[np.triu_indices(len(s), 3)].min() for s in structures]
    assert min(apart) > 4.2
    rng = np.random.default_rng(0)
    for kind in ("alpha", "beta", "mixed"):
        for length in (16, 47, 96):
            assert sum(size for _, size in program(kind, length, rng)) == length


def test_splits_share_no_cluster_and_no_cluster_dominates(data_root) -> None:
    source = Backbones()
    train, test = source.load("train", data_root), source.load("test", data_root)
    with np.load(data_root / "proteins" / "backbones.npz") as data:
        cluster = {f"{i}_{c}": k for i, c, k in zip(data["id"], data["chain"], data["cluster"].tolist(), strict=True)}
    found = [[cluster[e.name.rsplit("_", 1)[0] if e.name not in cluster else e.name] for e in s] for s in (train, test)]
    assert not set(found[0]) & set(found[1])
    assert max(np.unique(found[0], return_counts=True)[1]) <= source.per_cluster
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.15
    assert all(40 <= len(e.artifact) <= 96 for e in train)
    assert {r.reason for r in train.rejected} == {"the cluster is full"}
    assert [e.name for e in train] == [e.name for e in Backbones().load("train", data_root)]
    assert len(Backbones(fragments=0).load("train", data_root)) < len(train)


def test_held_out_is_about_a_tenth() -> None:
    assert 0.08 < np.mean([held_out(k) for k in range(5000)]) < 0.12


def test_a_folder_of_structures_lists_what_it_rejects(tmp_path) -> None:
    made = [e.artifact for e in Ideal(24, 40, 60).load("train")]
    (tmp_path / "deep").mkdir()
    for i, structure in enumerate(made):
        write(structure, tmp_path / ("deep" if i % 2 else ".") / f"s{i}.{'cif' if i % 3 else 'pdb'}")
    (tmp_path / "bad.pdb").write_text("nothing here\n")
    write(made[0].take(slice(0, 10)), tmp_path / "short.pdb")
    both = [Structures(str(tmp_path)).load(split) for split in ("train", "test")]
    names = [e.name for s in both for e in s]
    assert len(names) == 24 and len(both[1]) < 8
    reasons = {r.name: r.reason for s in both for r in s.rejected}
    assert "no atoms" in reasons["bad.pdb"]
    assert "fewer than 40 residues" in reasons["short_A1-10"]
    assert "rejected" in both[0].report()
    with pytest.raises(DataError, match="no folder"):
        Structures(str(tmp_path / "none")).load("train")


def test_wrong_sources_and_missing_data(tmp_path) -> None:
    with pytest.raises(DataError, match=r"backbones\.npz"):
        Backbones().load("train", tmp_path)
    with pytest.raises(DataError, match="test"):
        Ideal(8).load("validation")
    for wrong in (lambda: Ideal(0), lambda: Ideal(8, 60, 40), lambda: Backbones(50, 40)):
        with pytest.raises(DataError):
            wrong()


def test_files_and_pictures(tmp_path) -> None:
    from PIL import Image

    domain, structures = Proteins(), Ideal(8, 32, 40).load("train").artifacts
    domain.write(structures[0], tmp_path / "a.pdb")
    assert np.abs(domain.read(tmp_path / "a.pdb").backbone - structures[0].backbone).max() < 1e-3
    domain.plot(structures[:5], tmp_path / "a.png")
    domain.plot(structures[:1], tmp_path / "b.png", labels=["$_$ and $x_$"])
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert pixels.shape[1] > 800 and pixels.std() > 5  # something was drawn
    assert read(tmp_path / "a.pdb").name == "a"


def loss_of(domain: Proteins, steps: int) -> tuple[float, float, gendiff.Model]:
    model = gendiff.Model.new(domain, **TINY)
    states = [domain.encode(e.artifact) for e in domain.dataset("train")]
    x0, mask = collate(states, ragged=True)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        noise = gendiff.Noise.of(step, len(states))
        t = Uniform(1e-3).quantile(stratified(len(states), noise.fork("t")), domain.process)
        loss = denoising_loss(
            model.denoiser, x0, t, noise, objective=Objective(Output(0.1), {"rot": 0.5}, 0.2),
            auxiliary=domain.losses, mask=mask, fold=torch.full((len(states),), 4),
        )["loss"].mean()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.denoiser.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[:5])), float(np.mean(losses[-5:])), model


def test_a_short_training_learns_bonds_and_handedness() -> None:
    first, last, model = loss_of(Proteins(source=Ideal(8, 32, 32)), 60)
    assert last < 0.35 * first
    samples = model.sample(4, length=32, steps=20, seed=1)
    assert metrics.step_deviation(samples) < 1.0
    assert metrics.negative_phi(samples) > 0.6
    assert all(math.isfinite(f(samples, samples)) for f in model.domain.metrics().values())


def test_samples_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(0)
    model = gendiff.Model.new(Proteins(source=Ideal(8, 32, 32)), **TINY)
    from gendiff.testing import randomised

    randomised(model.denoiser.network)
    together = model.sample(3, length=[20, 31, 26], steps=5, seed=3)
    alone = model.sample(3, length=[20, 31, 26], steps=5, seed=3, batch=1)
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a.backbone - b.backbone).max() < 1e-2


def test_structure_may_be_asked_of_every_residue() -> None:
    domain = Proteins(source=Ideal(count=8), asked={"structure": Sites(("H", "E", "L"))})
    examples = domain.dataset("train")
    for example in examples[:4]:
        assert example.cond["structure"] == three_states(example.artifact)
    assert any("H" in example.cond["structure"] for example in examples)
    asked = {"length": 20, "structure": "L" + "H" * 18 + "L"}
    check_domain(domain, tolerance=5e-3, requests=[asked, {"length": 12}])
    model = Model.new(domain, width=32, depth=1, heads=2, pair=8)
    randomised(model.denoiser.network)
    patterns = ["H" * 12, "L" + "E" * 7 + "L"]
    whole = model.states(2, length=[12, 9], structure=patterns, sampler=Euler(2), seed=3)[0][0]
    one = model.states(1, length=12, structure=patterns[0], sampler=Euler(2), seed=3)[0][0]
    assert isinstance(whole, dict) and isinstance(one, dict)
    assert torch.allclose(whole["pos"][0], one["pos"][0], atol=1e-4)
    free = model.states(1, length=12, fold=None, sampler=Euler(2), seed=3)[0][0]
    assert isinstance(free, dict) and not torch.allclose(free["pos"][0], one["pos"][0], atol=1e-3)
    with pytest.raises(RequestError, match=r"structure: a value for sites \[11\] of a sample of \[12\]"):
        model.sample(1, length=12, structure="H" * 11)
    with pytest.raises(RequestError, match="structure: 'X' at site 1"):
        model.sample(1, length=2 + 10, structure="HX" + "H" * 10)


def test_a_pattern_of_structure_tells_the_length() -> None:
    model = Model.new(Proteins(asked={"structure": Sites(("H", "E", "L"))}), **TINY)
    assert dict(model.plan(1, structure="H" * 43, fold=None)) == {"structure": "H" * 43, "fold": None}
    chains = model.sample(2, structure=["H" * 43, "E" * 50], fold=None, sampler=Euler(2))
    assert [len(chain) for chain in chains] == [43, 50]
    with pytest.raises(RequestError, match=r"sites \[43\] of a sample of \[60\]"):
        model.sample(1, structure="H" * 43, length=60)

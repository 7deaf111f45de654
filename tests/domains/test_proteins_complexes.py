"""Designs of several chains: where chains begin is seen, targets stay, numbers and letters are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gendiff
from gendiff import Given
from gendiff.cli import main
from gendiff.errors import RequestError
from gendiff.sampling.solvers import Euler
from gendiff.testing import randomised
from gendiff_proteins import (
    Ideal,
    Motif,
    PairFrameNetwork,
    Proteins,
    Relaxation,
    Structure,
    StructureError,
    read,
    scaffold,
    scaffolds,
    write,
)
from gendiff_proteins.ideal import chains
from gendiff_proteins.motif import LEAP
from gendiff_proteins.networks import (
    FrameNetwork,
    Layout,
    Transition,
    crowding_features,
    follows,
    neighbour_features,
)


def target(size: int = 40) -> Structure:
    made = Structure(
        chains(1, size, size, 3)[0], sequence="ACDEFGHIKLMNPQRSTVWY"[: size % 20 or 20] * (size // 20 or 1)
    )
    numbers = tuple(str(101 + k) for k in range(size))
    return Structure(made.backbone + 30.0, made.sequence, numbers, ("T",) * size, "target")


def awake(network: torch.nn.Module) -> torch.nn.Module:
    return randomised(network).double().eval()


def state(n: int, plan: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(2, n, 3, 3, generator=generator, dtype=torch.float64))[0]
    x = {
        "pos": torch.randn(2, n, 3, generator=generator, dtype=torch.float64),
        "rot": q * torch.linalg.det(q)[..., None, None],
    }
    if plan:
        x["structure"] = torch.randint(0, 4, (2, n), generator=generator)
        x["pairing"] = torch.randint(0, 4, (2, n * (n - 1) // 2), generator=generator)
    return x


@pytest.fixture(params=[False, True], ids=["frames", "pairs"])
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    if request.param:
        return awake(PairFrameNetwork(32, 3, 4, 16, 8))
    return awake(FrameNetwork(32, 2, 4, 16))


def out_of(network: torch.nn.Module, x: dict[str, torch.Tensor], **told: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = network(x, torch.full((2,), 0.4, dtype=torch.float64), **told)
    return getattr(found, "output", found)


def test_one_chain_is_the_default(network: torch.nn.Module) -> None:
    x = state(17, plan=isinstance(network, PairFrameNetwork))
    plain, told = out_of(network, x), out_of(network, x, index=torch.arange(17).repeat(2, 1) + 5)
    for name in plain:
        torch.testing.assert_close(plain[name], told[name], rtol=0, atol=1e-12)


def test_a_network_sees_where_a_chain_begins_and_not_how_far_its_number_leaps(network: torch.nn.Module) -> None:
    x = state(17, plan=isinstance(network, PairFrameNetwork))
    index = torch.arange(17).repeat(2, 1)
    two, far, one = index.clone(), index.clone(), out_of(network, x)
    two[:, 9:] += LEAP
    far[:, 9:] += 3 * LEAP
    two, far = out_of(network, x, index=two), out_of(network, x, index=far)
    assert float((two["pos"] - one["pos"]).abs().max()) > 1e-3
    torch.testing.assert_close(two["pos"], far["pos"], rtol=0, atol=1e-12)


def test_padding_says_nothing_about_chains(network: torch.nn.Module) -> None:
    plan = isinstance(network, PairFrameNetwork)
    x, more = state(17, plan), state(22, plan)
    index = torch.arange(17).repeat(2, 1)
    index[:, 6:] += LEAP
    wide = torch.cat([index, torch.tensor([[3, 900, 901, 5, 6]] * 2)], 1)
    padded = {name: torch.cat([x[name], more[name][:, x[name].shape[1] :]], 1) for name in x}
    mask = torch.arange(22).repeat(2, 1) < 17
    plain, told = out_of(network, x, index=index), out_of(network, padded, index=wide, mask=mask)
    torch.testing.assert_close(plain["pos"], told["pos"][:, :17], rtol=0, atol=1e-12)
    torch.testing.assert_close(plain["rot"], told["rot"][:, :17], rtol=0, atol=1e-12)


def test_neighbours_are_those_of_the_same_chain() -> None:
    index = torch.tensor([[0, 1, 2, 202, 203, 204, 206]])
    assert follows(index, 1).tolist() == [[True, True, False, True, True, False, False]]
    assert follows(index, -2).tolist() == [[False, False, True, False, False, True, False]]
    assert follows(index, 0).all()


@pytest.fixture(scope="module")
def model() -> gendiff.Model:
    return gendiff.Model.new(Proteins(source=Ideal(count=8)), width=32, depth=2, heads=4, pair=8)


def test_a_target_stays_where_it_is_with_its_letters_and_numbers(model: gendiff.Model) -> None:
    fixed = target()
    motif = scaffold(fixed, "T101-140/0 12")
    assert motif.chains == ("T", "A") and motif.starts == (0, 40) and motif.length == 52
    assert motif.index.diff().tolist() == [*[1] * 39, LEAP, *[1] * 11]
    for sample in model.sample(2, given=motif, sampler=Euler(3)):
        held = sample.take(slice(0, 40))
        assert np.array_equal(held.backbone, fixed.backbone)
        assert held.sequence == fixed.sequence and held.numbers == fixed.numbers and held.chains == fixed.chains
        made = sample.take(slice(40, None))
        assert set(made.chains) == {"A"} and made.numbers == tuple(map(str, range(1, 13)))
        assert sample.known == tuple(f"T{k}" for k in range(101, 141)) + ("",) * 12


def test_each_design_may_have_a_motif_of_its_own(model: gendiff.Model) -> None:
    fixed = target()
    many = scaffolds(fixed, "5-15/T110-120/5-15/T130-134/2-8", 5, seed=1)
    assert len({one.length for one in many}) > 2
    together = model.sample(5, given=many, sampler=Euler(2), batch=2)
    for one, sample in zip(many, together, strict=True):
        assert len(sample) == one.length
        assert np.array_equal(one.find(sample).backbone, one.structure.backbone)
        rows = sample.mapping
        assert [row["from"] for row in rows] == [f"T{number}" for number in one.structure.numbers]
        assert [row["here"] for row in rows] == [f"A{place + 1}" for place in one.places]
        assert "".join(row["letter"] for row in rows) == one.structure.sequence
    alone = model.sample(1, given=many[0], sampler=Euler(2))[0]
    np.testing.assert_allclose(alone.backbone, together[0].backbone, atol=2e-4)


def test_breaks_in_what_is_known_are_told() -> None:
    fixed = target()
    broken = fixed.take([*range(10), *range(14, 30)])
    motif = Motif(broken, tuple(range(26)), 30)
    assert motif.index.diff().tolist() == [*[1] * 9, 5, *[1] * 19]  # four residues are missing


def test_chain_ids_do_not_meet() -> None:
    fixed = target()
    other = Structure(fixed.backbone - 60.0, fixed.sequence, fixed.numbers, ("A",) * len(fixed), "other")
    both = Structure(
        np.concatenate([fixed.backbone, other.backbone]), fixed.sequence + other.sequence,
        fixed.numbers + other.numbers, fixed.chains + other.chains, "both",
    )  # fmt: skip
    motif = scaffold(both, "10/0 A101-140/0 5/T110-112/5")
    assert motif.chains == ("B", "A", "C")


def test_known_residues_on_top_of_each_other_are_refused() -> None:
    fixed = target()
    twice = Structure(
        np.concatenate([fixed.backbone[:5], fixed.backbone[:5] + 0.3]), numbers=tuple(map(str, range(10))),
        chains=("A",) * 5 + ("B",) * 5,
    )  # fmt: skip
    with pytest.raises(StructureError, match=r"A0 and B5 lie 0\.5 A apart"):
        Motif(twice, tuple(range(10)), 12)
    with pytest.raises(StructureError, match="chains that begin at"):
        Motif(fixed, tuple(range(40)), 40, starts=(0, 40))
    with pytest.raises(StructureError, match="2 ids, each another"):
        Motif(fixed, tuple(range(40)), 50, starts=(0, 40), chains=("A", "A"))


def test_relaxation_holds_what_is_known_and_keeps_chains_apart() -> None:
    fixed = target()
    near = Structure(fixed.backbone + np.array([0.0, 0.0, 1.2]), chains=("B",) * 40, numbers=tuple(map(str, range(40))))
    both = Structure(
        np.concatenate([fixed.backbone, near.backbone]), numbers=fixed.numbers + near.numbers,
        chains=fixed.chains + near.chains, known=("T1",) * 40 + ("",) * 40,
    )  # fmt: skip
    (relaxed,) = Relaxation()([both])
    assert np.array_equal(relaxed.backbone[:40], fixed.backbone)

    def contacts(one: Structure) -> int:
        a, b = one.backbone[:40].reshape(-1, 1, 3), one.backbone[40:].reshape(1, -1, 3)
        return int((np.linalg.norm(a - b, axis=-1) < 2.0).sum())

    assert contacts(relaxed) < contacts(both) / 4


def test_the_last_residue_of_a_chain_and_the_first_of_the_next_may_not_touch() -> None:
    one = target(6)
    other = Structure(one.backbone - one.backbone[0, 1] + one.backbone[-1, 1] + 0.8, chains=("B",) * 6)
    both = Structure(np.concatenate([one.backbone, other.backbone]), chains=("A",) * 6 + ("B",) * 6)
    (relaxed,) = Relaxation(place=0.0)([both])
    before, after = (np.linalg.norm(s.backbone[5, 1] - s.backbone[6, 1]) for s in (both, relaxed))
    assert before < 1.5 < 2.5 < after


def test_a_binder_lies_outside_of_its_hotspots(model: gendiff.Model) -> None:
    fixed = target()
    motif = scaffold(fixed, "T101-140/0 30", hotspots=["T120", "T122-123"])
    assert motif.hotspots == (19, 21, 22) and motif.made.tolist() == [False] * 40 + [True] * 30
    spot = fixed.ca[[19, 21, 22]].mean(0)
    berth = motif.berth() + fixed.ca.mean(0)
    assert np.linalg.norm(berth - spot) == pytest.approx(1.1 * 2.2 * 30**0.38)
    near, crowd = (np.linalg.norm(fixed.ca - one, axis=1) for one in (berth, spot))
    assert (near < 16).sum() < (crowd < 16).sum()  # the way out is the way to where less is
    given, what = model.domain.known(motif, {})
    assert isinstance(given, Given)
    x = model.denoiser.process.prior(model.domain.request(2, **what).like, gendiff.Noise.of(0, 2))
    for s in (0.9, 0.4):
        put = given.expand(2).put(model.denoiser.process, x, s, gendiff.Noise.of(1, 2))["pos"]
        off = put[:, 40:].mean(1) - put[:, :40].mean(1)
        np.testing.assert_allclose(off.numpy(), (1 - s) * 0.1 * np.stack([motif.berth()] * 2), atol=1e-5)
    free = given.expand(2).put(model.denoiser.process, x, 0.2, gendiff.Noise.of(1, 2))["pos"]
    assert float((free[:, 40:] - x["pos"][:, 40:]).abs().max()) < 1e-6
    assert np.array_equal(model.sample(1, given=motif, sampler=Euler(3))[0].backbone[:40], fixed.backbone)


def test_wrong_hotspots_are_answered() -> None:
    fixed = target()
    with pytest.raises(StructureError, match="residue 99 of chain T is not in target"):
        scaffold(fixed, "T101-140/0 30", hotspots=["T99"])
    with pytest.raises(StructureError, match="hotspot T130 is not among"):
        scaffold(fixed, "T101-120/0 30", hotspots=["T130"])
    with pytest.raises(StructureError, match="without a chain that is made whole"):
        scaffold(fixed, "5/T101-120/30", hotspots=["T110"])


def test_what_is_known_may_be_said_in_words(model: gendiff.Model, tmp_path: Path) -> None:
    path, domain = tmp_path / "target.pdb", model.domain
    write(target(), path)
    motifs = domain.given(3, 5, pdb=str(path), contig="5-15/T110-120/5-15")
    assert [one.length for one in motifs] == [
        one.length for one in scaffolds(target(), "5-15/T110-120/5-15", 3, seed=5)
    ]
    (binder,) = domain.given(1, pdb=path, contig="T101-140/0 12", hotspots=["T120", "T124"])
    assert binder.hotspots == (19, 23)
    assert domain.given(2, symmetry="D3").count == 6
    around = domain.given(1, pdb=path, contig="5/T110-120/5", symmetry="C2")
    assert around.length == 21 and around.motif.places == tuple(range(5, 16))
    for said, match in (
        ({"pdb": path}, "pdb was told alone"),
        ({"contig": "10"}, "contig was told alone"),
        ({"hotspots": "A1"}, "without a target"),
        ({"pdb": path, "contig": "T101-140/0 12", "symmetry": "C2"}, "one chain of one length"),
    ):
        with pytest.raises(RequestError, match=match):
            domain.given(1, **dict[str, Any](said))
    with pytest.raises(RequestError, match="C3 without a length"):
        model.sample(1, given=domain.given(1, symmetry="C3"))


def test_the_command_line_takes_the_words(model: gendiff.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model.safetensors")
    write(target(), tmp_path / "target.pdb")

    def run(*words: str) -> int:
        return main(["sample", str(tmp_path / "model.safetensors"), "--steps", "2", *words])

    pdb, out = f"pdb={tmp_path / 'target.pdb'}", tmp_path / "out"
    assert not run("-n", "2", pdb, "contig=T101-140/0 8-12", "hotspots=T120,T124", "--out", str(out))
    made = read(out / "0001.pdb")
    assert made["T"].sequence == target().sequence and made["T"].numbers == target().numbers
    assert np.abs(made["T"].backbone - target().backbone).max() < 6e-4
    text = (out / "0001.pdb").read_text()
    assert "REMARK 999 GIVEN T101 IS T101" in text
    told = json.loads((out / "manifest.json").read_text())["request"]
    assert told["contig"] == "T101-140/0 8-12" and told["hotspots"] == ["T120", "T124"]
    assert not run("-n", "1", "symmetry=C3", "length=12", "--out", str(tmp_path / "c3"))
    assert set(read(tmp_path / "c3" / "0000.pdb").chains) == {"A", "B", "C"}
    assert run("-n", "1", pdb, "contig=T99-120/5", "--out", str(tmp_path / "none")) == 2
    assert not (tmp_path / "none").exists()


def test_what_a_residue_sees_along_its_chain_ends_with_it() -> None:
    """Features of neighbours and the sum along the chain are those of each chain by itself."""
    x, first = state(17), 9
    index = torch.arange(17).repeat(2, 1)
    index[:, first:] += LEAP
    mask, t = torch.ones(2, 17, dtype=torch.bool), torch.full((2,), 0.4, dtype=torch.float64)
    together = neighbour_features(x["pos"], x["rot"], mask, t, index)
    layer = awake(Transition(8))
    assert isinstance(layer, Transition)
    h = torch.randn(2, 17, 8, dtype=torch.float64)
    moved = layer(h, mask, index)
    for part in (slice(0, first), slice(first, 17)):
        alone = neighbour_features(x["pos"][:, part], x["rot"][:, part], mask[:, part], t)
        torch.testing.assert_close(together[:, part], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(moved[:, part], layer(h[:, part], mask[:, part]), rtol=0, atol=1e-12)
    layout = Layout.of(mask, index, torch.float64)
    assert layout.left[0].tolist() == [*range(9), *range(8)]
    assert layout.right[0].tolist() == [*reversed(range(9)), *reversed(range(8))]


def test_what_crowds_a_residue_is_of_other_chains_too() -> None:
    pos = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [9.0, 0, 0]]], dtype=torch.float64)
    rot, mask = torch.eye(3, dtype=torch.float64).repeat(1, 3, 1, 1), torch.ones(1, 3, dtype=torch.bool)
    one = crowding_features(pos, rot, mask, torch.tensor([[0, 1, 2]]))
    two = crowding_features(pos, rot, mask, torch.tensor([[0, 1 + LEAP, 2 + LEAP]]))
    assert float(one[0, 0, 0]) == 0.0 and float(two[0, 0, 0]) > 0.5

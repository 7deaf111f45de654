"""What a pair is told: its neighbours in the square of pairs, hydrogen bonds, and templates of what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gendiff
from gendiff.random import Noise
from gendiff.spaces import exp_so3
from gendiff.testing import randomised
from gendiff.training import KnownSites, Objective, denoising_loss, template
from gendiff_proteins import Backbones, Ideal, Motif, PairFrameNetwork, PlannedProteins, Structure
from gendiff_proteins.frames import frames_from_backbone
from gendiff_proteins.geometry import polar_distances
from gendiff_proteins.ideal import chains
from gendiff_proteins.motif import LEAP
from gendiff_proteins.pairs import Around, known_pairs, polar
from gendiff_proteins.relaxation import Relaxation

N = 15


def frames(n: int = N, count: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, n, 3, dtype=torch.float64, generator=generator)
    return {"pos": 0.5 * torch.randn(count, n, 3, dtype=torch.float64, generator=generator), "rot": exp_so3(vectors)}


def plan(n: int = N, count: int = 2) -> dict[str, Tensor]:
    return {"structure": torch.randint(0, 4, (count, n)), "pairing": torch.randint(0, 4, (count, n * (n - 1) // 2))}


def turned(state: dict[str, Tensor], turn: Tensor, shift: Tensor) -> dict[str, Tensor]:
    return {**state, "pos": state["pos"] @ turn.T + shift, "rot": turn @ state["rot"]}


@pytest.fixture(scope="module")
def network() -> PairFrameNetwork:
    made = PairFrameNetwork(32, 2, 4, 16, 8, 1, templates=True).double()
    randomised(made)
    return made.eval()


def out_of(network: PairFrameNetwork, x: dict[str, Tensor], **told: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(x, torch.full((len(x["pos"]),), 0.4, dtype=torch.float64), **told).output  # type: ignore[no-any-return]


def test_the_square_of_pairs_is_a_window_that_ends_with_chains_and_padding() -> None:
    layer = Around(3).double()
    z = torch.randn(2, 9, 9, 3, dtype=torch.float64)
    mask = torch.arange(9)[None] < torch.tensor([[9], [7]])
    index = torch.arange(9).repeat(2, 1)
    with torch.no_grad():
        plain, told = layer(z, mask, None), layer(z, mask, index)
        torch.testing.assert_close(plain, told, rtol=0, atol=1e-12)
        small = layer(z[1:, :7, :7], torch.ones(1, 7, dtype=torch.bool), None)
        torch.testing.assert_close(plain[1:, :7, :7], small, rtol=0, atol=1e-12)
        index[:, 4:] += LEAP
        apart = layer(z, mask, index)
        alone = layer(z[:, :4, :4], mask[:, :4], None)
        torch.testing.assert_close(apart[:, :4, :4], alone, rtol=0, atol=1e-12)
    assert layer.weigh.bias is not None
    i, j, by_hand = 3, 6, layer.weigh.bias.detach().clone()  # rows of the first chain, columns of the second
    for a in range(-2, 3):
        for b in range(-2, 3):
            if 0 <= i + a < 4 and 4 <= j + b < 9:
                by_hand += layer.weigh.weight[:, 0, a + 2, b + 2].detach() * z[0, i + a, j + b]
    torch.testing.assert_close(apart[0, i, j], by_hand, rtol=0, atol=1e-12)


def test_ladders_are_seen_from_their_neighbours(network: PairFrameNetwork) -> None:
    """A bridge that is known changes what is said of the pair beside it, and of no pair three steps away, at once."""
    layer = Around(4).double()
    e = torch.zeros(1, 12, 12, 4, dtype=torch.float64)
    mask = torch.ones(1, 12, dtype=torch.bool)
    with torch.no_grad():
        before = layer(e, mask, None)
        e[0, 5, 8] = 1.0
        changed = (layer(e, mask, None) - before).abs().sum(-1)[0] > 0
    assert bool(changed[4, 9]) and bool(changed[6, 7]) and bool(changed[6, 9])
    assert int(changed.sum()) == 25 and not bool(changed[5, 11])


def test_polar_distances_are_those_of_hydrogen_bonds_and_do_not_see_padding() -> None:
    one = Structure(chains(1, 30, 30, 2)[0])
    pos, rot = frames_from_backbone(torch.from_numpy(one.backbone))
    state = {"pos": 0.1 * pos[None], "rot": rot[None]}
    found = polar_distances(state)[0]
    nitrogen, oxygen = (torch.from_numpy(one.backbone[:, k].copy()) for k in (0, 3))
    true = 0.1 * (nitrogen[:, None] - oxygen).norm(dim=-1)
    assert float((found - true)[:, :-1].abs().max()) < 0.03  # the last O has no residue after it
    follow = torch.ones(1, 29, dtype=torch.bool)
    bumps = polar(state, follow)
    assert bumps.shape == (1, 30, 30, 16)
    torch.testing.assert_close(bumps[..., :8], bumps[..., 8:].transpose(1, 2))
    cut = follow.clone()
    cut[0, 19] = False
    moved = {**state, "pos": state["pos"].clone()}
    moved["pos"][0, 20:] += 3.0
    torch.testing.assert_close(polar(state, cut)[:, :20, :20], polar(moved, cut)[:, :20, :20])
    assert not torch.allclose(polar(state, follow)[:, :20, :20], polar(moved, follow)[:, :20, :20])


def test_a_template_says_how_residues_lie_to_each_other_and_not_where(network: PairFrameNetwork) -> None:
    x, known = {**frames(), **plan()}, frames(seed=5)
    keep = torch.zeros(2, N, dtype=torch.bool)
    keep[0, 3:8], keep[1, [2, 9, 10]] = True, True
    told = template(keep, known)
    plain, out = out_of(network, x), out_of(network, x, template=told)
    assert all(not torch.allclose(plain[name][k], out[name][k], atol=1e-4) for name in plain for k in range(2))
    turn, shift = exp_so3(torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)), torch.tensor([4.0, -2.0, 1.0])
    elsewhere = out_of(network, x, template=template(keep, turned(known, turn, shift)))
    for name in out:
        torch.testing.assert_close(out[name], elsewhere[name], rtol=0, atol=1e-9)
    both = out_of(network, turned(x, turn, shift), template=told)
    torch.testing.assert_close(both["pos"], out["pos"] @ turn.T, rtol=0, atol=1e-8)
    torch.testing.assert_close(both["pairing"], out["pairing"], rtol=0, atol=1e-8)
    mirrored = {"pos": known["pos"] * torch.tensor([1.0, 1.0, -1.0]), "rot": known["rot"]}
    other = out_of(network, x, template=template(keep, mirrored))
    assert not torch.allclose(other["pos"], out["pos"], atol=1e-6)


def test_nothing_known_is_no_template_and_padding_is_not_seen(network: PairFrameNetwork) -> None:
    x = {**frames(), **plan()}
    nothing = template(torch.zeros(2, N, dtype=torch.bool), frames(seed=5))
    for name, part in out_of(network, x).items():
        torch.testing.assert_close(part, out_of(network, x, template=nothing)[name], rtol=0, atol=1e-12)
    keep, wide = torch.zeros(1, N + 4, dtype=torch.bool), frames(N + 4, 1, seed=7)
    keep[0, 2:6] = True
    mask = torch.arange(N + 4)[None] < N
    count = N * (N - 1) // 2  # pairs of padding come last
    more = {**wide, **plan(N + 4, 1)}
    short = {name: part[:, : count if name == "pairing" else N] for name, part in more.items()}
    cut = {name: part[:, :N] for name, part in template(keep, wide).items()}
    a, b = out_of(network, more, mask=mask, template=template(keep, wide)), out_of(network, short, template=cut)
    torch.testing.assert_close(a["pos"][:, :N], b["pos"], rtol=0, atol=1e-9)
    torch.testing.assert_close(a["pairing"][:, :count], b["pairing"], rtol=0, atol=1e-9)
    assert known_pairs(template(keep, wide)).shape == (1, N + 4, N + 4, 29)


def test_a_motif_is_told_as_a_template_in_one_pass_and_comes_back_exactly() -> None:
    domain = PlannedProteins(source=Ideal(count=8), templates=True)
    model = gendiff.Model.new(domain, width=32, depth=2, heads=4, pair=16, triangle=8)
    randomised(model.denoiser.network)
    one = Structure(chains(1, 40, 40, 3)[0])
    motif = Motif(one.take(slice(5, 17)), tuple(range(10, 22)), 40)
    given, what = domain.known(motif, {})
    assert isinstance(given, gendiff.Given) and given.passes == 1 and not given.shown
    assert what["template"]["keep"].sum() == 12
    made = model.sample(3, given=motif, steps=3, seed=1)
    assert max(motif.rmsd(each) for each in made) < 1e-5
    again = model.sample(1, given=[motif], steps=3, seed=1)[0]
    torch.testing.assert_close(
        torch.from_numpy(again.ca.copy()), torch.from_numpy(made[0].ca.copy()), rtol=0, atol=0.02
    )
    plain = PlannedProteins(source=Ideal(count=8))
    given, what = plain.known(motif, {})
    assert isinstance(given, gendiff.Given) and given.passes == 10 and "template" not in what


def test_templates_are_learnt_and_all_weights_with_them() -> None:
    domain = PlannedProteins(source=Ideal(count=8, min_length=32, max_length=40), templates=True)
    model = gendiff.Model.new(domain, width=32, depth=2, heads=4, pair=16, triangle=8)
    randomised(model.denoiser.network)
    x0 = {name: torch.stack([part[:30] for part in parts]) for name, parts in _frames_of(domain).items()}
    x0["pairing"] = torch.zeros(4, 30 * 29 // 2, dtype=torch.int64)
    objective = Objective(known=(KnownSites(("pos", "rot"), share=0.9),))
    t = torch.full((4,), 0.5, dtype=torch.float64)
    mask = torch.ones(4, 30, dtype=torch.bool)
    losses = denoising_loss(
        model.denoiser, x0, t, Noise.of(0, 4), objective=objective, auxiliary=domain.losses, mask=mask
    )
    losses["loss"].mean().backward()
    assert all(p.grad is not None for p in model.denoiser.network.parameters())


def _frames_of(domain: PlannedProteins) -> dict[str, list[Tensor]]:
    states = [domain.encode(example.artifact) for example in list(domain.dataset("train"))[:4]]
    return {name: [state[name] for state in states] for name in ("pos", "rot", "structure")}


def test_relaxed_designs_keep_what_is_known(data_root: Path) -> None:
    one = Backbones(60, 100, fragments=0).load("test", data_root)[0].artifact
    motif = Motif(one.take(slice(5, 17)), tuple(range(10, 22)), 40)
    domain = PlannedProteins(source=Ideal(count=8), templates=True)
    model = gendiff.Model.new(domain, width=32, depth=2, heads=4, pair=16, triangle=8)
    made = Relaxation()(model.sample(2, given=motif, steps=3, seed=1))
    assert max(motif.rmsd(each) for each in made) < 1e-5

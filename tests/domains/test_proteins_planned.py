"""Plans and sequences as parts: what they are of a structure, what is asked of them, what comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gendiff
from gendiff.errors import DataError, RequestError
from gendiff.sampling.solvers import Euler
from gendiff.spaces import to_square
from gendiff.testing import check_domain, randomised
from gendiff_proteins import FrameNetwork, Ideal, PairFrameNetwork, PlannedProteins, Structure, Topology
from gendiff_proteins.bonding import bridges, ladders, three_states
from gendiff_proteins.ideal import chains
from gendiff_proteins.pairs import PAIRING, STRUCTURE, distances, distogram_loss
from gendiff_proteins.planned import lettered, planned

HAIRPIN = "LLEEEEEELLLEEEEEELLHHHHHHHHLL"


def bundle(n: int = 48, seed: int = 2) -> Structure:
    return Structure(chains(1, n, n, seed)[0], "ACDEFGHIKLMNPQRSTVWY" * 2 + "ACDEFGHI")


def test_bridges_are_the_ladders() -> None:
    for seed in range(6):
        one = bundle(seed=seed)
        kinds = bridges(one)
        assert np.array_equal(kinds, kinds.T) and not kinds.diagonal().any()
        flat = {(i, j) for i, j in np.argwhere(np.triu(kinds)).tolist()}
        simple = [ladder for ladder in ladders(one) if len(ladder.first) == len(ladder.second)]
        for ladder in simple:
            second = ladder.second if ladder.parallel else ladder.second[::-1]
            hits = [pair in flat for pair in zip(ladder.first, second, strict=True)]
            assert hits[0] and hits[-1]
            assert {kinds[pair] for pair in flat & set(zip(ladder.first, second, strict=True))} == {1 + ladder.parallel}


def test_a_plan_is_what_the_structure_has_and_a_topology_says_the_same() -> None:
    one = bundle()
    plan, topology = planned(one), Topology.of(one)
    assert "".join(STRUCTURE[k] for k in plan["structure"]) == three_states(one) == topology.structure
    assert torch.equal(to_square(plan["pairing"][None], 48)[0], torch.from_numpy(bridges(one)).long())
    assert all(torch.equal(topology.classes()[name], plan[name]) for name in plan)
    assert all(bool(keep.all()) for keep in topology.keep().values())
    found = topology.found(one)
    assert found and set(found.values()) == {1.0}


def test_strands_that_pair_face_each_other() -> None:
    topology = Topology(HAIRPIN, pairs=((1, 2, "antiparallel"),))
    assert topology.strands == [(2, 7), (11, 16)]
    assert topology.paired() == [(k, 18 - k, "antiparallel") for k in range(2, 8)]
    assert Topology(HAIRPIN, pairs=((2, 1, "parallel"),)).paired() == [(k, k + 9, "parallel") for k in range(2, 8)]
    moved = Topology(HAIRPIN, pairs=((1, 2, "antiparallel"),), shift=(1,))
    assert moved.paired() == [(k, 19 - k, "antiparallel") for k in range(3, 8)]


def test_what_is_not_said_is_open() -> None:
    nothing = Topology("?" * 20)
    assert not any(bool(keep.any()) for keep in nothing.keep().values())
    letters = Topology(HAIRPIN)
    assert bool(letters.keep()["structure"].all()) and not bool(letters.keep()["pairing"].any())
    part = Topology(HAIRPIN[:19] + "?" * 10, pairs=((1, 2, "antiparallel"),))
    keep = to_square(part.keep()["pairing"][None].long(), 29)[0].bool()
    assert bool(keep[:19, :19].fill_diagonal_(True).all()) and not bool(keep[19:].any())


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"structure": "HHXX"}, "'X' at residue 3"),
        ({"structure": ""}, "a letter for each residue"),
        ({"structure": HAIRPIN, "pairs": ((1, 3, "antiparallel"),)}, "strand 3"),
        ({"structure": HAIRPIN, "pairs": ((1, 1, "parallel"),)}, "with itself"),
        ({"structure": HAIRPIN, "pairs": ((1, 2, "antiparalel"),)}, "antiparallel"),
        ({"structure": HAIRPIN, "pairs": ((1, 2),)}, "first, second, kind"),
        ({"structure": "EEELEEE", "pairs": ((1, 2, "antiparallel"),)}, "a turn of two residues"),
        ({"structure": HAIRPIN, "bridges": ((1, 99, "parallel"),)}, "two of 0 to 28"),
        ({"structure": HAIRPIN, "bridges": (), "pairs": ()}, "one of them"),
        ({"structure": HAIRPIN, "pairs": (), "shift": (1,)}, "1 shifts for 0 pairs"),
    ],
)
def test_wrong_topologies_are_answered(words: dict[str, object], match: str) -> None:
    with pytest.raises(RequestError, match=match):
        Topology(**words)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> gendiff.Model:
    domain = PlannedProteins(source=Ideal(count=8), sequence=True)
    return gendiff.Model.new(domain, width=32, depth=2, heads=4, pair=8, triangle=4)


def test_the_domain_keeps_its_laws() -> None:
    check_domain(PlannedProteins(source=Ideal(8, 32, 40)), tolerance=5e-3)


def test_a_topology_asked_is_in_every_state_of_the_plan(model: gendiff.Model) -> None:
    topology = Topology(HAIRPIN, pairs=((1, 2, "antiparallel"),))
    states, _ = model.states(3, given=topology, sampler=Euler(3))
    asked = topology.classes()
    for name in ("structure", "pairing"):
        assert bool((states[0][name] == asked[name]).all())
    assert len(model.sample(1, given=topology, sampler=Euler(2))[0]) == 29
    with pytest.raises(RequestError, match="length=30 with a topology of 29"):
        model.sample(1, given=topology, length=30)


def test_nothing_is_asked_in_turn_beside_what_is_known(model: gendiff.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sheet that is known "alpha" was asked, the first fold of the turn: the order of classes decided."""
    seen: list[list[int]] = []
    forward = model.denoiser.network.forward

    def watched(*args: object, **cond: torch.Tensor) -> object:
        seen.append(cond["fold"].tolist())
        return forward(*args, **cond)

    monkeypatch.setattr(model.denoiser.network, "forward", watched)
    nothing, asked = [4, 4], [1, 1]  # of alpha, beta, mixed, coil
    topology = Topology(HAIRPIN, pairs=((1, 2, "antiparallel"),))
    model.sample(2, given=topology, steps=1)
    model.sample(2, given=topology, steps=1, fold="beta")
    model.sample(2, start=bundle(), strength=0.5, steps=1)
    model.sample(2, length=32, steps=1)
    assert seen == [nothing, asked, nothing, [0, 1]]


def test_a_backbone_is_given_back_with_a_sequence(model: gendiff.Model) -> None:
    one = bundle()
    for sample in model.sample(2, given=one, sampler=Euler(3)):
        assert np.abs(sample.ca - sample.ca.mean(0) - (one.ca - one.ca.mean(0))).max() < 1e-4
        assert "X" not in sample.sequence
    with pytest.raises(RequestError, match="length=50 with a backbone of 48"):
        model.sample(1, given=one, length=50)


def test_letters_that_are_none_are_answered() -> None:
    with pytest.raises(DataError, match="has 'X' at A3"):
        lettered(Structure(chains(1, 20, 20, 0)[0], "ACX" + "A" * 17))


def test_a_distogram_that_knows_costs_nothing_and_padding_is_not_counted() -> None:
    x0 = {"pos": 0.4 * torch.randn(2, 9, 3)}
    goal = distances(x0["pos"])
    right = 100.0 * torch.nn.functional.one_hot(goal, 24).float()
    mask = torch.ones(2, 9, dtype=torch.bool)
    assert float(distogram_loss({"distogram": right}, x0, mask).max()) < 1e-6
    wrong = right.clone()
    i, j = torch.tril_indices(9, 9, -1)[1], torch.tril_indices(9, 9, -1)[0]
    wrong[:, (i >= 7) | (j >= 7)] = 0.0
    mask[:, 7:] = False
    assert float(distogram_loss({"distogram": wrong}, x0, mask).max()) < 1e-6
    assert PAIRING[0] == "none"


def test_untrained_it_is_a_frame_network_with_the_same_weights() -> None:
    plain = FrameNetwork(32, 2, 4, 16)
    randomised(plain)
    more = PairFrameNetwork(32, 2, 4, 16, 8, 1, sequence=True)
    left = more.load_state_dict(plain.state_dict(), strict=False)
    assert not left.unexpected_keys
    n = 14
    x = {
        "pos": torch.randn(2, n, 3), "rot": torch.linalg.qr(torch.randn(2, n, 3, 3))[0],
        "structure": torch.randint(0, 4, (2, n)), "sequence": torch.randint(0, 21, (2, n)),
        "pairing": torch.randint(0, 4, (2, n * (n - 1) // 2)),
    }  # fmt: skip
    x["rot"] = x["rot"] * torch.linalg.det(x["rot"])[..., None, None]
    t = torch.tensor([0.3, 0.9])
    before = {
        "pos": x["pos"], "structure": torch.randn(2, n, 3), "sequence": torch.randn(2, n, 20),
        "pairing": torch.randn(2, n * (n - 1) // 2, 3),
    }  # fmt: skip
    with torch.no_grad():
        one, other = plain({"pos": x["pos"], "rot": x["rot"]}, t), more(x, t, previous=before).output
    for name in ("pos", "rot"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)

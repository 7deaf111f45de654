"""Letters of a backbone: marginals, likelihoods along an order, mutations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gendiff
from gendiff.errors import RequestError
from gendiff.random import Noise
from gendiff.testing import randomised
from gendiff_proteins import Ideal, PlannedProteins, Proteins, Structure, log_likelihood, marginals, mutations, recovery
from gendiff_proteins.ideal import chains
from gendiff_proteins.pairs import LETTERS
from gendiff_proteins.sequences import MASKED, conditionals, lettered


def chain() -> Structure:
    return Structure(chains(1, 20, 20, 3)[0], "ACDEFGHIKLMNPQRSTVWY", name="here")


@pytest.fixture(scope="module", params=[False, True], ids=["sequence", "with a plan"])
def model(request: pytest.FixtureRequest) -> gendiff.Model:
    domain = PlannedProteins(source=Ideal(count=8), topology=request.param, sequence=True)
    made = gendiff.Model.new(domain, width=32, depth=2, heads=4, pair=8, triangle=4)
    randomised(made.denoiser.network)
    return made


def test_marginals_are_distributions_that_see_all_other_letters(model: gendiff.Model) -> None:
    one = chain()
    found = marginals(model, one)
    assert found.shape == (20, 20) and found.dtype == torch.float64
    torch.testing.assert_close(found.exp().sum(1), torch.ones(20, dtype=torch.float64), atol=1e-5, rtol=0)
    other = marginals(model, Structure(one.backbone, "W" + one.sequence[1:]))
    torch.testing.assert_close(found[0], other[0], atol=1e-5, rtol=0)  # its own letter is not seen
    assert float((found[1:] - other[1:]).abs().max()) > 1e-3
    torch.testing.assert_close(marginals(model, one, batch=3), found, atol=1e-4, rtol=0)


def test_likelihood_is_the_chain_rule_along_its_order(model: gendiff.Model) -> None:
    one, size = chain(), 20
    letters = lettered(one)
    order = Noise.of(5, 1).fork("order").uniform((1, size))[0].argsort().tolist()
    total, shown = 0.0, torch.full((1, size), MASKED)
    for place in order:
        total += float(conditionals(model, one, shown)[0, place, letters[place]])
        shown[0, place] = letters[place]
    assert log_likelihood(model, one, seed=5) == pytest.approx(total, abs=1e-3)
    assert log_likelihood(model, one, seed=6) != pytest.approx(total, abs=1e-3)


def test_it_does_not_hang_on_where_the_chain_lies(model: gendiff.Model) -> None:
    one = chain()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = Structure(one.backbone @ turn.T + 50.0, one.sequence)
    torch.testing.assert_close(marginals(model, one), marginals(model, moved), atol=2e-3, rtol=0)
    mirrored = marginals(model, one.mirrored())
    assert float((marginals(model, one) - mirrored).abs().max()) > 0.01


def test_a_mutation_and_its_return_cancel_and_none_is_zero(model: gendiff.Model) -> None:
    one = chain()
    there, null, two = mutations(model, one, ["D3W", "", "D3W,K9A"])
    assert null == 0.0
    mutant = Structure(one.backbone, "ACW" + one.sequence[3:])
    assert mutations(model, mutant, ["W3D"])[0] == pytest.approx(-there, abs=1e-5)
    found = marginals(model, one)
    assert there == pytest.approx(float(found[2, LETTERS.index("W")] - found[2, LETTERS.index("D")]), abs=1e-4)
    assert two != pytest.approx(there)
    assert mutations(model, one, []) == []


@pytest.mark.parametrize(
    ("word", "match"), [("D3", "old letter"), ("E3W", "D at 3"), ("D99W", "0 residues"), ("D3X", "old letter")]
)
def test_wrong_mutations_are_answered(model: gendiff.Model, word: str, match: str) -> None:
    with pytest.raises(RequestError, match=match):
        mutations(model, chain(), [word])


def test_a_chain_tells_equal_numbers_apart(model: gendiff.Model) -> None:
    one = chain()
    two = Structure(one.backbone, one.sequence, tuple(map(str, [*range(1, 11)] * 2)), ("A",) * 10 + ("B",) * 10)
    with pytest.raises(RequestError, match="name the chain"):
        mutations(model, two, ["D3W"])
    there = mutations(model, two, ["DA:3W"])[0]
    assert abs(there - mutations(model, one, ["D3W"])[0]) > 1e-6  # that the chain ends is seen


def test_a_model_without_a_sequence_is_answered() -> None:
    plain = gendiff.Model.new(Proteins(source=Ideal(count=8)), width=16, depth=1, heads=2, pair=4)
    with pytest.raises(RequestError, match="has no sequence"):
        marginals(plain, chain())


def test_recovery_counts_letters() -> None:
    one = chain()
    assert recovery([Structure(one.backbone, "A" * 20), one], [one, one]) == [0.05, 1.0]

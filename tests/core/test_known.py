"""What is shown in training and in sampling: exactly where and how often it is said, and clean."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gendiff
from gendiff import Absorbing, Gaussian, Given, Heads, Joint, Linear, Logits, Velocity
from gendiff.errors import RecipeError, SamplerError
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import Euler
from gendiff.training import KnownParts, KnownSites, Objective, denoising_loss, template
from gendiff.training.known import shown


class Watching(torch.nn.Module):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []
        self.told: dict[str, Any] = {}

    def forward(self, x: Any, t: torch.Tensor, **cond: Any) -> Any:
        self.seen.append({name: part.clone() for name, part in x.items()})
        self.told = cond
        return {"a": self.weight * x["a"], "b": self.weight + torch.zeros(*x["b"].shape, 3)}


def bundle(n: int = 400) -> tuple[gendiff.Denoiser, Watching, dict[str, torch.Tensor]]:
    process = Joint(a=Gaussian(Linear()), b=Absorbing(3))
    network = Watching()
    x0 = {"a": torch.randn(n, 5, 1), "b": torch.randint(0, 3, (n, 5))}
    return gendiff.Denoiser(network, Heads(a=Velocity(), b=Logits()), process), network, x0


def test_parts_are_shown_in_their_share_of_the_samples_and_others_are_noisy() -> None:
    denoiser, network, x0 = bundle()
    known = (KnownParts(("b",), 0.25), KnownParts(("a", "b"), 0.4))
    t = torch.full((400,), 0.9, dtype=torch.float64)
    denoising_loss(denoiser, x0, t, Noise.of(0, 400), objective=Objective(known=known))
    seen = network.seen[0]
    a, b = ((seen[name] == x0[name]).flatten(1).all(1) for name in "ab")
    assert 0.33 < a.double().mean() < 0.47
    assert bool(b[a].all())  # the second way shows both
    assert 0.47 < b.double().mean() < 0.63  # 1 - .75 x .6 = .55
    hidden = ~b
    assert ((seen["b"] == 3)[hidden].double().mean()) == pytest.approx(0.9, abs=0.03)


def test_a_level_shows_a_part_with_that_much_noise() -> None:
    denoiser, _, x0 = bundle(2000)
    x0["a"] = 3 * x0["a"]  # so that a tenth of it is not what a tenth of the noise is
    process: Any = denoiser.process
    x = shown(
        (KnownParts(("a",), 1.0, level=0.1),), process, x0, process.noise(x0, 1.0, Noise.of(1, 2000)), Noise.of(0, 2000)
    )
    left = x["a"] - 0.9 * x0["a"]
    assert float(left.std()) == pytest.approx(0.1, rel=0.05)


def test_which_samples_are_shown_does_not_hang_on_the_batch() -> None:
    denoiser, _, x0 = bundle(16)
    process: Any = denoiser.process
    way = (KnownParts(("a",), 0.5),)
    x = process.noise(x0, 0.9, Noise.of(1, 16))
    all_of = shown(way, process, x0, x, Noise.of(0, 16))
    half = shown(way, process, {k: v[8:] for k, v in x0.items()}, {k: v[8:] for k, v in x.items()}, Noise.of(0, 8, 8))
    assert torch.equal(all_of["a"][8:], half["a"])


def test_a_part_that_there_is_not_is_answered() -> None:
    denoiser, _, x0 = bundle(4)
    objective = Objective(known=(KnownParts(("bb",), 0.5),))
    with pytest.raises(RecipeError, match="no part 'bb'"):
        denoising_loss(denoiser, x0, torch.full((4,), 0.5, dtype=torch.float64), Noise.of(0, 4), objective=objective)


def test_what_is_known_is_shown_clean_at_every_step_and_given_back() -> None:
    denoiser, network, x0 = bundle(6)
    keep = {"a": torch.zeros(5, dtype=torch.bool), "b": torch.tensor([True, True, False, False, False])}
    given = Given({k: v[:1] for k, v in x0.items()}, {k: v[None] for k, v in keep.items()}, shown=True)
    like = {"a": torch.empty(6, 5, 1), "b": torch.empty(6, 5, dtype=torch.int64)}
    with torch.no_grad():
        out = sample(denoiser, like, solver=Euler(4), noise=Noise.of(0, 6), given=given)
    assert len(network.seen) == 4
    for seen in network.seen:
        assert bool((seen["b"][:, :2] == x0["b"][0, :2]).all())
    assert bool((network.seen[0]["b"][:, 2:] == 3).all())  # the rest begins masked
    assert bool((out["b"][:, :2] == x0["b"][0, :2]).all())


def runs_of(keep: torch.Tensor) -> torch.Tensor:
    """How many runs of True each row has."""
    return (keep[:, :1].long() + (keep[:, 1:] & ~keep[:, :-1]).sum(1, keepdim=True))[:, 0]


def test_runs_of_sites_are_told_in_their_share_within_their_bounds() -> None:
    n, sites = 3000, 40
    lengths = torch.randint(10, sites + 1, (n,))
    mask = torch.arange(sites)[None] < lengths[:, None]
    x0 = {"a": torch.randn(n, sites, 3) + 5, "b": torch.randint(1, 3, (n, sites))}
    way = KnownSites(("a", "b"), share=0.4, least=0.2, most=0.5, runs=2)
    told = way.told(x0, mask, Noise.of(0, n))["template"]
    keep = told["keep"]
    assert not bool((keep & ~mask).any())
    assert all(bool((told[k][keep] == x0[k][keep]).all()) and not told[k][~keep].any() for k in "ab")
    some = keep.any(1)
    assert 0.36 < some.double().mean() < 0.44
    share = keep.sum(1)[some] / lengths[some]
    assert float(share.max()) <= 0.5 + 2 / 10  # each of two runs is rounded up
    one = runs_of(keep[some]) == 1
    assert set(runs_of(keep[some]).tolist()) == {1, 2}
    assert float(share[one].quantile(0.5)) == pytest.approx(0.35, abs=0.05)
    first, last = keep[some].long().argmax(1), (keep[some] * torch.arange(sites)).amax(1)
    assert bool((first == 0).any()) and bool((last == lengths[some] - 1).any())  # runs reach both ends


def test_what_is_told_does_not_hang_on_the_batch_and_reaches_the_network() -> None:
    denoiser, network, x0 = bundle(16)
    way = KnownSites(("a",), name="seen", share=0.5)
    whole, half = way.told(x0, None, Noise.of(0, 16)), way.told({"a": x0["a"][8:]}, None, Noise.of(0, 8, 8))
    assert torch.equal(whole["seen"]["a"][8:], half["seen"]["a"])
    t = torch.full((16,), 0.9, dtype=torch.float64)
    denoising_loss(denoiser, x0, t, Noise.of(0, 16), objective=Objective(known=(way,)))
    assert torch.equal(network.told["seen"]["keep"], whole["seen"]["keep"])
    assert not torch.equal(network.seen[0]["a"], x0["a"])  # the state is as noisy as it was


def test_a_template_has_zeros_where_nothing_is_known() -> None:
    keep = torch.tensor([[True, False, True]])
    told = template(keep, {"a": torch.full((1, 3, 2), torch.nan).masked_fill(keep[..., None], 2.0)})
    assert told["a"].tolist() == [[[2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]]


def test_steps_are_walked_as_often_as_what_is_known_says() -> None:
    x0 = {"a": torch.zeros(1, 5, 1), "b": torch.zeros(1, 5, dtype=torch.int64)}
    keep = dict.fromkeys(x0, torch.ones(1, 5, dtype=torch.bool))
    process: Any = bundle(1)[0].process
    for given, evaluations in ((Given(x0, keep), 31), (Given(x0, keep, passes=3), 10), (Given(x0, keep, passes=1), 4)):
        assert given.paced(Euler(4)).evaluations(process) == evaluations
    assert Given(x0, keep, shown=True).paced(Euler(4)).evaluations(process) == 4
    with pytest.raises(RecipeError, match="passes"):
        Given(x0, keep, passes=0)


def test_parts_are_shown_by_name_and_the_others_are_as_noisy_as_the_rest() -> None:
    denoiser, network, x0 = bundle(200)
    given = Given(x0, {k: torch.ones(200, 5, dtype=torch.bool) for k in x0}, shown={"b": True}, passes=1)
    like = {"a": torch.empty(200, 5, 1), "b": torch.empty(200, 5, dtype=torch.int64)}
    with torch.no_grad():
        out = sample(denoiser, like, solver=Euler(2), noise=Noise.of(0, 200), given=given)
    middle = network.seen[1]  # t = 1/2
    assert bool((middle["b"] == x0["b"]).all())
    assert float((middle["a"] - 0.5 * x0["a"]).std()) == pytest.approx(0.5, rel=0.1)
    assert bool((out["a"] == x0["a"]).all())
    with pytest.raises(SamplerError, match="no part 'c'"):
        Given(x0, given.keep, shown={"c": True})

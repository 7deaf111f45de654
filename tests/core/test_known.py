"""What is shown in training and in sampling: exactly where and how often it is said, and clean."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gendiff
from gendiff import Absorbing, Gaussian, Given, Heads, Joint, Linear, Logits, Velocity
from gendiff.errors import RecipeError
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import Euler
from gendiff.training import KnownParts, Objective, denoising_loss
from gendiff.training.known import shown


class Watching(torch.nn.Module):
    """Keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def forward(self, x: Any, t: torch.Tensor, **cond: Any) -> Any:
        self.seen.append({name: part.clone() for name, part in x.items()})
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

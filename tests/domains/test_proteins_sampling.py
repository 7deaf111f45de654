"""The sampler commutes with rotation: turned noise gives the turned chain, on flow and SDE, guided or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import DDPM, SO3, Centered, Constrained, Denoiser, DPMpp2M, Guided, Heun, Noise, sample
from gendiff.sampling.solvers import Solver
from gendiff.spaces import Space
from gendiff.testing import randomised
from gendiff_proteins import Ideal, Proteins

LENGTHS = [24, 17, 30]


@pytest.fixture(scope="module")
def domain() -> Proteins:
    return Proteins(source=Ideal(count=8))


@pytest.fixture(scope="module")
def denoiser(domain: Proteins) -> Denoiser:
    network = randomised(domain.network(width=32, depth=2, heads=4, pair=8)).double()
    return Denoiser(network, domain.head, domain.process)


def turning(monkeypatch: pytest.MonkeyPatch, turn: Tensor) -> None:
    """From here on every random position and rotation is turned."""
    position, rotation = Centered.random, SO3.random

    def turned_position(self: Space, like: Tensor, noise: Noise) -> Tensor:
        return position(self, like, noise) @ turn.mT  # type: ignore[arg-type]

    def turned_rotation(self: Space, like: Tensor, noise: Noise) -> Tensor:
        return turn @ rotation(self, like, noise)  # type: ignore[arg-type]

    monkeypatch.setattr(Centered, "random", turned_position)
    monkeypatch.setattr(SO3, "random", turned_rotation)


@pytest.mark.parametrize("solver", [Heun(6), DPMpp2M(8), DDPM(8, noise_scale=0.5)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("guided", [False, True])
def test_turned_noise_gives_the_turned_chain(
    domain: Proteins, denoiser: Denoiser, solver: Solver, guided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = domain.request(3, length=LENGTHS, fold="alpha")
    like = {name: part.double() for name, part in request.like.items()}
    model: Any = Constrained(Guided(denoiser, 2.0, domain.without), domain.constrain) if guided else denoiser

    def draw() -> dict[str, Tensor]:
        with torch.no_grad():
            return sample(model, like, solver=solver, noise=Noise.of(7, 3), cond=request.cond)

    plain = draw()
    turn = SO3().random(torch.empty(1, 3, 3, dtype=torch.float64), Noise.of(1, 1))[0]
    turning(monkeypatch, turn)
    turned = draw()
    mask = request.cond["mask"]
    moved = plain["pos"] @ turn.mT - turned["pos"]
    rotated = turn @ plain["rot"] - turned["rot"]
    assert moved[mask].abs().max() < 1e-9
    assert rotated[mask].abs().max() < 1e-9
    assert (plain["pos"] - turned["pos"])[mask].abs().max() > 0.1  # it did turn

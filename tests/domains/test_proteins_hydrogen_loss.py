"""The loss of hydrogen bonds: which bonds count, in which unit, and that padding and noise of other pairs do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gendiff_proteins import Proteins, Structure
from gendiff_proteins.frames import NM
from gendiff_proteins.geometry import hydrogen_bond_loss, polar_distances
from gendiff_proteins.ideal import chains


def frames(seed: int = 3, size: int = 40) -> tuple[Structure, dict[str, torch.Tensor]]:
    one = Structure(chains(1, size, size, seed)[0])
    state = Proteins().encode(one)
    return one, {name: part[None].double() for name, part in state.items()}


def test_distances_are_those_of_the_decoded_chain() -> None:
    one, x = frames()
    decoded = Proteins().decode({name: part[0] for name, part in x.items()}).backbone
    want = np.linalg.norm(decoded[:, None, 0] - decoded[None, :, 3], axis=-1)
    np.testing.assert_allclose(polar_distances(x)[0].numpy() / NM, want, atol=2e-3)  # a length near 0 is not quite 0
    assert len(one) == 40


def test_it_is_the_squared_error_of_the_bonds_of_near_and_of_far_residues() -> None:
    _, x = frames()
    mask, t = torch.ones(1, 40, dtype=torch.bool), torch.tensor([0.3], dtype=torch.float64)
    assert float(hydrogen_bond_loss(x, x, t, mask)) == 0.0
    generator = torch.Generator().manual_seed(0)
    moved = {**x, "pos": x["pos"] + 0.02 * torch.randn(x["pos"].shape, generator=generator, dtype=torch.float64)}
    true, guess = polar_distances(x)[0], polar_distances(moved)[0]
    total = 0.0
    for near in (True, False):
        errors = [
            float((guess[i, j] - true[i, j]) ** 2)
            for i in range(40)
            for j in range(40)
            if true[i, j] < 0.35 and (1 < abs(i - j) <= 5 if near else abs(i - j) > 5)
        ]
        total += sum(errors) / max(len(errors), 1)
    assert total > 0
    assert float(hydrogen_bond_loss(moved, x, t, mask)) == pytest.approx(total / 0.09, rel=1e-9)
    early = torch.tensor([0.01], dtype=torch.float64)
    assert float(hydrogen_bond_loss(moved, x, early, mask)) == pytest.approx(total / 0.01, rel=1e-9)  # the floor is 0.1


def test_padding_does_not_count_and_gradients_are_right() -> None:
    _, x = frames()
    wide = {
        "pos": torch.cat([x["pos"], 0.01 * torch.randn(1, 6, 3, dtype=torch.float64)], 1),
        "rot": torch.cat([x["rot"], torch.eye(3, dtype=torch.float64).repeat(1, 6, 1, 1)], 1),
    }
    mask, t = torch.arange(46)[None] < 39, torch.tensor([0.5], dtype=torch.float64)
    moved = {**wide, "pos": wide["pos"] * 1.02}
    short = {name: part[:, :40] for name, part in moved.items()}
    # 39 residues are real: the 40th is there in both, so that the last real O is placed alike
    one = hydrogen_bond_loss(moved, wide, t, mask)
    other = hydrogen_bond_loss(short, {name: part[:, :40] for name, part in wide.items()}, t, mask[:, :40])
    torch.testing.assert_close(one, other)

    def loss(pos: torch.Tensor) -> torch.Tensor:
        return hydrogen_bond_loss({**x, "pos": pos}, x, t, torch.ones(1, 40, dtype=torch.bool))

    start = (1.01 * x["pos"]).requires_grad_()
    assert torch.autograd.gradcheck(loss, (start,), eps=1e-7, atol=1e-4, fast_mode=True)

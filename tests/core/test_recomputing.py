"""Blocks that are run again going backwards give the same losses and gradients, to the bit, from less that is kept."""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import Domain, Model, Noise, denoising_loss
from gendiff.nn import blocks_of, recomputed
from gendiff.testing import randomised
from gendiff_audio import Audio
from gendiff_images import Images
from gendiff_proteins import Proteins

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / name) for name in ("gendiff_qm9",)]
QM9 = import_module("gendiff_qm9").QM9

CASES: dict[str, tuple[Domain, dict[str, Any], dict[str, Any]]] = {
    "U-Net": (Images(size=8, classes=("a", "b")), {"channels": (8, 16), "dropout": 0.3}, {}),
    "DiT": (Images(size=8), {"width": 32, "depth": 3, "heads": 2, "dropout": 0.3, "previous": True}, {}),
    "mel frames": (Audio(), {"channels": (8, 16), "dropout": 0.2}, {"seconds": 0.2}),
    "frames": (Proteins(), {"width": 16, "depth": 2, "heads": 2, "pair": 8}, {"length": [4, 7]}),
    "molecules": (QM9(), {}, {"atoms": [3, 5]}),
}


def gradients(model: Model, what: dict[str, Any], precision: torch.dtype | None) -> tuple[Tensor, list[Any], int]:
    """The loss, the gradients and how many numbers of activations were kept, with dropout from the same seed."""
    request, denoiser = model.draws(2, **what).request, model.denoiser.train()
    denoiser.precision = precision
    x0 = denoiser.process.space.random(request.like, Noise.of(0, 2))
    kept: list[int] = []
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        loss = denoising_loss(denoiser, x0, torch.tensor([0.3, 0.7]), Noise.of(1, 2), **request.cond)["loss"].mean()
    loss.backward()
    return loss.detach(), [p.grad for p in denoiser.parameters()], sum(kept)


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_recomputed_blocks_give_the_same_gradients_to_the_bit(name: str, precision: torch.dtype | None) -> None:
    domain, size, what = CASES[name]
    model = Model.new(domain, **size)
    randomised(model.denoiser.network)
    other = copy.deepcopy(model)
    loss, grads, kept = gradients(model, what, precision)
    with recomputed(other.denoiser.network) as count:
        again, others, fewer = gradients(other, what, precision)
    assert count == sum(1 for _ in blocks_of(model.denoiser.network)) > 1
    assert torch.equal(loss, again) and fewer < kept
    for a, b in zip(grads, others, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
    assert all("forward" not in vars(block) for block in other.denoiser.modules())


def test_nothing_is_kept_or_run_twice_without_gradients() -> None:
    runs: list[bool] = []

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            runs.append(torch.is_grad_enabled())
            return self.layer(x).sin()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    net = Net()
    with recomputed(net):
        with torch.no_grad():
            net(torch.ones(1, 2))
        assert len(runs) == 2
        net(torch.ones(1, 2)).sum().backward()
        assert len(runs) == 6
    net(torch.ones(1, 2)).sum().backward()
    assert len(runs) == 8

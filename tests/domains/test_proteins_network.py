"""The network: exactly SE(3)-equivariant, not blind to reflection, blind to padding; the same of its e3nn reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gendiff import cite
from gendiff.conditions import Label
from gendiff.domain import collate
from gendiff.errors import RequestError
from gendiff.random import Noise
from gendiff.spaces import exp_so3, uniform
from gendiff.testing import randomised
from gendiff_proteins import FrameNetwork, ideal
from gendiff_proteins.frames import frames_from_backbone
from gendiff_proteins.networks import PointAttention

LENGTHS = (20, 33, 26)
LABELS = {"fold": Label(("a", "b", "c", "d"))}


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    from gendiff_proteins.reference import EquivariantReference

    frames = FrameNetwork(width=32, depth=2, heads=4, pair=16, conditions=LABELS, clock=lambda t: t**2)
    return [randomised(frames).double(), randomised(EquivariantReference(width=16, conditions=LABELS)).double()]


@pytest.fixture(params=[0, 1], ids=["frames", "e3nn"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    if request.param:
        pytest.importorskip("e3nn")
    return networks()[request.param] if request.param else networks()[0]


def batch(mirror: bool = False) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Noisy frames of three lengths, or those of the mirrored atoms."""
    noise = Noise.of(0, 1)
    states = []
    for i, size in enumerate(LENGTHS):
        backbone = torch.from_numpy(ideal.chains(3, 33, 33)[i][:size])
        backbone = backbone + 0.3 * noise.at(i).normal((1, *backbone.shape), torch.float64)[0]
        pos, rot = frames_from_backbone(backbone * torch.tensor([-1.0 if mirror else 1.0, 1.0, 1.0]))
        states.append({"pos": 0.1 * (pos - pos.mean(0)), "rot": rot})
    x, mask = collate(states, ragged=True)
    assert mask is not None
    return x, mask


def run(network: nn.Module, x: dict[str, torch.Tensor], mask: torch.Tensor) -> dict[str, torch.Tensor]:
    n = len(mask)
    t = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)[:n]
    return network(x, t, mask=mask, fold=torch.tensor([0, 2, 4])[:n])


def largest(x: torch.Tensor, mask: torch.Tensor) -> float:
    return (x * mask[..., None]).abs().max().item()


def test_outputs_turn_with_the_input(network: nn.Module) -> None:
    x, mask = batch()
    out = run(network, x, mask)
    assert largest(out["pos"], mask) > 1e-3 and largest(out["rot"], mask) > 1e-3  # not zero, else all is equivariant
    turn = uniform((1, 3), Noise.of(1, 1), torch.float64)[0]  # another rotation and shift for every sample
    shift = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64) * torch.tensor([[1.0], [0.0], [-2.0]])
    moved = {"pos": x["pos"] @ turn.mT + shift[:, None], "rot": turn[:, None] @ x["rot"]}
    again = run(network, moved, mask)
    assert largest(again["pos"] - out["pos"] @ turn.mT, mask) < 1e-9
    assert largest(again["rot"] - out["rot"], mask) < 1e-9


def test_a_mirror_image_is_another_protein(network: nn.Module) -> None:
    (x, mask), (mirrored, _) = batch(), batch(mirror=True)
    out, other = run(network, x, mask), run(network, mirrored, mask)
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert largest(other["pos"] - flip * out["pos"], mask) > 1e-2 * largest(out["pos"], mask)


def test_padding_changes_nothing(network: nn.Module) -> None:
    x, mask = batch()
    out = run(network, x, mask)
    size = LENGTHS[0]
    alone = run(network, {k: v[:1, :size] for k, v in x.items()}, mask[:1, :size])
    for part in ("pos", "rot"):
        assert (alone[part][0] - out[part][0, :size]).abs().max() < 1e-10
    rubbish = {k: torch.where(mask.view(*mask.shape, *[1] * (v.ndim - 2)), v, 7.0) for k, v in x.items()}
    assert all(largest(run(network, rubbish, mask)[k] - out[k], mask) < 1e-10 for k in out)


def test_velocity_has_no_drift(network: nn.Module) -> None:
    x, mask = batch()
    assert (run(network, x, mask)["pos"] * mask[..., None]).sum(1).abs().max() < 1e-10


def test_a_new_network_stands_still() -> None:
    x, mask = batch()
    out = run(FrameNetwork(width=32, depth=2, heads=4, pair=16, conditions=LABELS).double(), x, mask)
    assert all(value.abs().max() == 0 for value in out.values())


def test_labels_matter_and_wrong_ones_are_refused() -> None:
    network, (x, mask) = networks()[0], batch()
    t = torch.full((3,), 0.5, dtype=torch.float64)
    a, b = (network(x, t, mask=mask, fold=torch.full((3,), k))["pos"] for k in (0, 4))
    assert largest(a - b, mask) > 1e-6
    nothing = network(x, t, mask=mask)["pos"]
    assert largest(b - nothing, mask) < 1e-12
    with pytest.raises(RequestError, match="fold"):
        network(x, t, mask=mask, folds=torch.zeros(3, dtype=torch.int64))


def test_time_zero_is_finite_and_differentiable() -> None:
    network, (x, mask) = networks()[0], batch()
    out = network(x, torch.zeros(3, dtype=torch.float64), mask=mask, fold=torch.zeros(3, dtype=torch.int64))
    (out["pos"].square().sum() + out["rot"].square().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_fused_attention_is_invariant_point_attention() -> None:
    """Against the explicit form of Jumper et al. (2021), algorithm 22, with every distance written out."""
    torch.manual_seed(0)
    layer = randomised(PointAttention(24, 3, channels=5, points=2, values=3)).double()
    assert isinstance(layer, PointAttention)
    h = Noise.of(0, 2).normal((2, 9, 24), torch.float64)
    pos = Noise.of(1, 2).normal((2, 9, 3), torch.float64)
    rot = exp_so3(Noise.of(2, 2).normal((2, 9, 3), torch.float64))
    bias = Noise.of(3, 2).normal((2, 3, 9, 9), torch.float64)
    q, k, v = layer.scalars(h).view(2, 9, 3, 15).split(5, -1)
    spots = torch.einsum("bixy,bihpy->bihpx", rot, layer.place(h).view(2, 9, 3, 7, 3)) + pos[:, :, None, None]
    tq, tk, tv = spots.split([2, 2, 3], 3)
    w = layer.sharpness.exp() / 2
    apart = (tq[:, :, None] - tk[:, None]).square().sum((-1, -2))  # [B, i, j, H]
    logits = torch.einsum("bihc,bjhc->bijh", q, k) / 5**0.5 - 0.5 * w * apart + bias.permute(0, 2, 3, 1)
    share = logits.softmax(2)
    said = torch.einsum("bijh,bjhc->bihc", share, v)
    seen = torch.einsum("bijh,bjhpx->bihpx", share, tv) - pos[:, :, None, None]
    seen = torch.einsum("bixy,bihpx->bihpy", rot, seen).flatten(2, 3)
    length = (seen.square().sum(-1) + 1e-8).sqrt()
    wanted = layer.out(torch.cat([said.flatten(2), seen.flatten(2), length], -1))
    assert (layer(h, pos, rot, bias) - wanted).abs().max() < 1e-12


def test_bfloat16_keeps_geometry_exact() -> None:
    network, (x, mask) = networks()[0].float(), batch()
    x = {k: v.float() for k, v in x.items()}
    t, fold = torch.tensor([0.05, 0.5, 0.95]), torch.tensor([0, 2, 4])
    turn = uniform((1, 3), Noise.of(1, 1))[0]
    moved = {"pos": x["pos"] @ turn.mT, "rot": turn[:, None] @ x["rot"]}
    with torch.autocast("cpu", torch.bfloat16):
        out, again = (network(s, t, mask=mask, fold=fold) for s in (x, moved))
    assert all(value.dtype == torch.float32 for value in out.values())
    assert largest(again["pos"] - out["pos"] @ turn.mT, mask) < 0.05 * largest(out["pos"], mask)


def test_the_network_cites_what_it_is_built_of() -> None:
    assert "jumper2021alphafold" in cite(networks()[0])

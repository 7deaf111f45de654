"""Self-conditioning: the last prediction is what a network is told, in loop, guidance and loss, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    X0,
    Absorbing,
    Adams,
    Adaptive,
    Autoguidance,
    Denoiser,
    DPMpp2M,
    Euler,
    FeynmanKac,
    Gaussian,
    Guided,
    Heads,
    Heun,
    Joint,
    Label,
    Linear,
    Logits,
    Objective,
    Parallel,
    Reward,
    UniPC,
    elbo,
    log_likelihood,
    sample,
    vlb,
)
from gendiff.denoisers import takes_previous
from gendiff.errors import SamplerError
from gendiff.guidance import Constrained
from gendiff.nn import DiT, UNet
from gendiff.random import Noise
from gendiff.sampling import calibrate, table
from gendiff.sampling.grids import UpAndDown
from gendiff.sampling.loop import Progress, run
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State, map_state
from gendiff.testing import distance, randomised
from gendiff.training import denoising_loss
from gendiff_audio.networks import MelUNet

F64 = torch.float64


class Recalls(nn.Module):
    """A prediction from x, t, a push and the prediction before, which it writes down."""

    takes_previous = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.4, dtype=F64))
        self.told: list[State | None] = []

    def forward(self, x: State, t: Tensor, push: Tensor | None = None, previous: State | None = None, **_: Any) -> Any:
        self.told.append(previous)

        def one(part: Tensor, before: Tensor | None) -> Tensor:
            if not part.is_floating_point():
                logits = 0.3 * torch.stack([part + k for k in range(3)], -1).to(F64).sin()
                return logits if before is None else logits + 0.2 * before.exp()
            shift = 0.0 if push is None else push.view(-1, *[1] * (part.ndim - 1))
            out = torch.tanh(self.scale * part + shift) + t.view(-1, *[1] * (part.ndim - 1))
            return out if before is None else out - 0.5 * before

        if isinstance(x, dict):
            before = previous if isinstance(previous, dict) else dict.fromkeys(x)
            return {name: one(part, before[name]) for name, part in x.items()}
        return one(x, previous)  # type: ignore[arg-type]


def model() -> tuple[Denoiser, Recalls]:
    network = Recalls()
    return Denoiser(network, X0(), Gaussian(Linear())), network


SOLVERS: list[Solver] = [Euler(4), Heun(3), DPMpp2M(4), Adams(5), UniPC(4)]


@torch.no_grad()
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_samplers_tell_the_last_prediction(solver: Solver) -> None:
    denoiser, network = model()
    made: list[State] = []

    class Watched:
        process = denoiser.process

        def __init__(self) -> None:
            self.denoiser = denoiser

        def __call__(self, x: State, t: Any, **cond: Any) -> State:
            made.append(denoiser(x, t, **cond))
            return made[-1]

    sample(Watched(), torch.empty(3, 2, dtype=F64), solver=solver, noise=Noise.of(0, 3))
    assert len(made) == len(network.told) > 2 and network.told[0] is None
    for told, before in zip(network.told[1:], made, strict=False):
        assert told is not None and distance(told, before) == 0


@torch.no_grad()
def test_both_branches_of_guidance_are_told_the_joint_prediction() -> None:
    denoiser, network = model()
    guided = Guided(Constrained(denoiser, lambda x, t, **_: x), 3.0, lambda cond: {**cond, "push": 0 * cond["push"]})
    assert takes_previous(guided)
    seen: list[Progress] = []
    cond = {"push": torch.tensor([0.5, 1.0], dtype=F64)}
    solver, noise = Euler(3), Noise.of(0, 2)
    whole = sample(guided, torch.empty(2, 2, dtype=F64), solver=solver, noise=noise, cond=cond, callback=seen.append)
    for k in (1, 2):
        told, before = network.told[k], seen[k - 1].prediction
        assert (
            isinstance(told, Tensor) and isinstance(before, Tensor) and torch.equal(told, torch.cat([before, before]))
        )
    for i in range(2):
        part = sample(
            guided,
            torch.empty(1, 2, dtype=F64),
            solver=solver,
            noise=Noise.of(0, 1, i),
            cond={"push": cond["push"][i : i + 1]},
        )
        assert distance(part, whole[i : i + 1]) < 1e-12  # type: ignore[index]


@torch.no_grad()
def test_a_way_up_forgets_and_a_cut_run_goes_on() -> None:
    denoiser, network = model()
    up = Euler(3, times=UpAndDown(Euler().times, 1, 2))
    sample(denoiser, torch.empty(2, 2, dtype=F64), solver=up, noise=Noise.of(0, 2))
    rows = table(up, denoiser.process)
    evaluated = [k for k, row in enumerate(rows) if row.at is not None]
    for told, k in zip(network.told, evaluated, strict=True):
        assert (told is None) == (k == 0 or rows[k - 1].move is None)
    seen: list[Progress] = []
    rows, noise = table(DPMpp2M(6), denoiser.process), Noise.of(1, 2)
    like = torch.empty(2, 2, dtype=F64)
    whole = sample(denoiser, like, solver=rows, noise=noise, callback=seen.append)
    for k in range(1, len(rows)):
        last = seen[k - 1]
        on = run(denoiser, denoiser.process, rows, last.state, noise=noise, cond={}, first=k, past=[last.prediction],
                 previous=last.prediction)  # fmt: skip
        assert distance(on, whole) == 0, k


def test_the_loss_tells_what_a_sampler_would() -> None:
    """From a perfect first prediction, the second sees the same in the loss and in a sampler."""

    class Perfect(nn.Module):
        takes_previous = True

        def __init__(self, x0: Tensor) -> None:
            super().__init__()
            self.x0, self.gain, self.told = x0, nn.Parameter(torch.ones((), dtype=F64)), []

        def forward(self, x: Tensor, t: Tensor, previous: Tensor | None = None, **_: Any) -> Tensor:
            self.told.append((x.detach().clone(), previous))
            return self.gain * (self.x0 if previous is None else 0.5 * previous + 0.1 * x)

    x0, noise, t = torch.randn(3, 2, dtype=F64), Noise.of(0, 3), torch.tensor([0.5, 0.5, 0.5], dtype=F64)
    network = Perfect(x0)
    denoiser = Denoiser(network, X0(), Gaussian(Linear()))
    losses = denoising_loss(denoiser, x0, t, noise, objective=Objective(previous=1.0))
    (first, nothing), (second, told) = network.told
    assert nothing is None and torch.equal(told, x0) and not told.requires_grad and torch.equal(first, second)
    expected = (0.5 * x0 + 0.1 * first - x0).square().mean(1)
    assert distance(losses["loss"].detach(), expected) < 1e-12
    losses["loss"].sum().backward()
    assert network.gain.grad is not None
    network.told.clear()
    x = sample(denoiser, x0, solver=Euler(2), noise=noise, start=None)
    assert torch.equal(network.told[1][1], x0) and x.shape == x0.shape
    network.told.clear()
    denoising_loss(denoiser, x0, t, noise, objective=Objective(previous=0.0))
    assert len(network.told) == 1
    shares = []
    for step in range(200):
        network.told.clear()
        denoising_loss(denoiser, x0, t, noise.at(step))
        shares.append(len(network.told) == 2)
    assert 0.4 < sum(shares) / 200 < 0.6


@torch.no_grad()
def test_bundles_with_classes() -> None:
    process, network = Joint(pos=Gaussian(Linear()), kind=Absorbing(3)), Recalls()
    denoiser = Denoiser(network, Heads(pos=X0(), kind=Logits()), process)
    like = {"pos": torch.empty(2, 4, dtype=F64), "kind": torch.empty(2, 4, dtype=torch.int64)}
    sample(denoiser, like, solver=Euler(3), noise=Noise.of(0, 2))
    told = network.told[1]
    assert isinstance(told, dict) and told["kind"].shape == (2, 4, 3) and told["pos"].shape == (2, 4)


def test_where_there_is_no_prediction_before_it_is_refused() -> None:
    denoiser, _ = model()
    x, noise = torch.randn(2, 2, dtype=F64), Noise.of(0, 2)
    for solver in (Adaptive(1e-3), Parallel(Euler(3)), FeynmanKac(Euler(3), Reward(lambda x: x.sum(1)), 2)):
        with pytest.raises(SamplerError, match="self-conditioned"):
            sample(denoiser, x, solver=solver, noise=noise)
    for likelihood in (
        lambda: log_likelihood(denoiser, x),
        lambda: elbo(denoiser, x, noise),
        lambda: vlb(denoiser, x, noise, grid=[1.0, 0.5, 0.0]),
    ):
        with pytest.raises(SamplerError, match="self-conditioned"):
            likelihood()
    with pytest.raises(SamplerError, match="calibrate got a self-conditioned"):
        calibrate(denoiser, torch.empty(16, 2, dtype=F64), noise=Noise.of(0, 16))


@torch.no_grad()
def test_a_weaker_model_hears_with_its_own_ears() -> None:
    """What the better network embedded, and a prediction that the weaker one is not told, stay with the better."""
    size: dict[str, Any] = {"conditions": {"kind": Label(("a", "b"))}, "width": 32, "depth": 1, "heads": 2}
    networks = [
        randomised(DiT(2, in_channels=2, out_channels=2, previous=told, **size), seed).double()
        for seed, told in ((1, True), (2, False))
    ]
    better, weaker = (Denoiser(network, X0(), Gaussian(Linear())) for network in networks)
    x, cond = torch.randn(3, 2, 4, 4, dtype=F64), {"kind": torch.tensor([0, 1, 2])}
    guided = Autoguidance(better, weaker, 2.0)
    told = guided(x, 0.5, **better.embed(cond), previous=x)
    expected = 2 * better(x, 0.5, **cond, previous=x) - weaker(x, 0.5, **cond)  # type: ignore[operator]
    assert distance(told, expected) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("which", ["DiT", "refined", "U-Net", "mel"])
def test_networks_of_ours(which: str) -> None:
    """No prediction is a prediction of zeros; another one changes the output; padding does not."""
    sites = (8,) if which == "mel" else (6, 4)
    network: Any = {
        "DiT": lambda: DiT(2, in_channels=2, out_channels=2, width=32, depth=2, heads=2, previous=True),
        "refined": lambda: DiT(2, in_channels=2, out_channels=2, width=32, depth=2, heads=2, previous=True, refine=8),
        "U-Net": lambda: UNet(
            2, in_channels=2, out_channels=2, channels=(16, 16), blocks=1, attention=(False, True), previous=True
        ),
        "mel": lambda: MelUNet(2, {}, channels=(16, 16), previous=True),
    }[which]()
    network = randomised(network).double()
    shape = (3, 8, 2) if which == "mel" else (3, 2, *sites)
    x, before, t = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64), torch.full((3,), 0.5, dtype=F64)
    told = network(x, t, previous=before)
    assert torch.equal(network(x, t), network(x, t, previous=torch.zeros_like(x)))
    assert distance(told, network(x, t)) > 1e-3
    assert takes_previous(network) and not takes_previous(
        DiT(2, in_channels=1, out_channels=1, width=16, depth=1, heads=2)
    )
    axis = 1 if which == "mel" else 2
    more = map_state(lambda part: torch.cat([part, torch.randn_like(part)], axis), x)
    long = torch.cat([before, torch.randn_like(before)], axis)
    mask = torch.zeros(3, 2 * sites[0], *sites[1:], dtype=torch.bool)
    mask[:, : sites[0]] = True
    assert distance(network(more, t, mask=mask, previous=long).narrow(axis, 0, sites[0]), told) < 1e-9

"""The loss: equal under every head, minimal at the posterior mean, blind to padding; averages of weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    EDM,
    SO3,
    VP,
    X0,
    Centered,
    Cosine,
    Denoiser,
    EDMHead,
    Eps,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Immiscible,
    Joint,
    Linear,
    Objective,
    Sphere,
    Tangent,
    Torus,
    V,
    Velocity,
    denoising_loss,
)
from gendiff.denoisers import Head, Normal, Sided
from gendiff.errors import CheckpointError, RecipeError
from gendiff.processes import Leaf
from gendiff.random import Noise
from gendiff.spaces import State
from gendiff.testing import randomised
from gendiff.training import EMA, Auxiliary, Clean, Independent, MinSNR, Output, Term
from gendiff.training.losses import noised

F64 = torch.float64
TIMES = torch.tensor([0.1, 0.3, 0.6, 0.95], dtype=F64)


class Toy(nn.Module):
    """A linear network on the last axis; remembers its output."""

    out: Tensor

    def __init__(self, d: int, out: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(d, out or d)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.out = self.inner(x.flatten(x.ndim - 2) if x.shape[-1] != self.inner.in_features else x)
        return self.out


@pytest.mark.parametrize("schedule", [VP(), EDM(), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("head", [Eps(), X0(), V(), Velocity(), EDMHead(0.7)], ids=repr)
def test_the_loss_is_the_squared_error_of_the_networks_own_output(schedule: Any, head: Head) -> None:
    """With w = 1/c_out^2; so eps-loss is SNR-weighted x0-loss, and so on for all of them."""
    process: Leaf = Gaussian(schedule)
    network = randomised(Toy(3).double())
    x0, noise = Noise.of(1, 4).normal((4, 5, 3), F64), Noise.of(2, 4)
    loss = denoising_loss(Denoiser(network, head, process), x0, TIMES, noise, objective=Objective(Output(1e-12)))
    x = process.noise(x0, TIMES, noise.fork("forward"))
    target = head.raw(process, x, x0, TIMES)
    by_hand = (network.out - target).square().flatten(1).mean(1)
    torch.testing.assert_close(loss["loss"], by_hand, rtol=1e-7, atol=1e-12)
    # The weight of x0's own error under each head, written out.
    alpha, sigma = schedule(TIMES)
    d = 0.7
    weight = {
        Eps: alpha**2 / sigma**2,
        X0: torch.ones(4, dtype=F64),
        V: (alpha**2 + sigma**2) ** 2 / sigma**2,
        Velocity: (alpha + sigma) ** 2 / sigma**2,
        EDMHead: (sigma**2 + d * d * alpha**2) / (sigma * d) ** 2,
    }[type(head)]
    guess = head.clean(process, x, network.out, TIMES)
    clean = (guess - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(loss["loss"], weight * clean, rtol=1e-7, atol=1e-12)
    for weighting, w in [(Clean(), 1.0), (MinSNR(5.0), (alpha**2 / sigma**2).clamp_max(5))]:
        loss = denoising_loss(Denoiser(network, head, process), x0, TIMES, noise, objective=Objective(weighting))
        torch.testing.assert_close(loss["loss"], w * clean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("space", "shape"), [(SO3(), (5, 3, 3)), (Torus(), (5, 2)), (Sphere(), (5, 3))], ids=repr)
def test_on_curved_spaces_the_loss_is_velocity_regression(space: Any, shape: tuple[int, ...]) -> None:
    process, head = Geodesic(space, Exponential(3.0)), Tangent()
    x0, noise = space.random(torch.empty(4, *shape, dtype=F64), Noise.of(1, 4)), Noise.of(2, 4)
    d = 9 if isinstance(space, SO3) else shape[-1]
    network = Toy(d, 3 if isinstance(space, SO3) else None).double()
    randomised(network)
    loss = denoising_loss(Denoiser(network, head, process), x0, TIMES, noise, objective=Objective(Output(1e-12)))[
        "loss"
    ]
    x = process.noise(x0, TIMES, noise.fork("forward"))
    emitted = space.tangent(x, network.out)
    error = space.norm2(x, emitted - head.raw(process, x, x0, TIMES)) / space.dim(x)
    torch.testing.assert_close(loss, error, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("head", [X0(), Velocity(), EDMHead(), V(), Eps()], ids=repr)
def test_the_minimum_is_the_posterior_mean(head: Head) -> None:
    """The best affine denoiser at one noise level, fitted through the loss, against the exact one of a Gaussian."""
    n, t = 40000, 0.45
    oracle = Normal(
        Gaussian(VP()), torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
    )
    denoiser = Denoiser(Toy(2).double(), head, oracle.process)
    x0, noise, times = oracle.draw(n), Noise.of(0, n), torch.full((n,), t, dtype=F64)
    optimizer = torch.optim.LBFGS(
        denoiser.parameters(), lr=1, max_iter=60, tolerance_grad=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = denoising_loss(denoiser, x0, times, noise)["loss"].mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    x = torch.randn(100, 2, dtype=F64)
    with torch.no_grad():
        assert float((denoiser(x, t) - oracle(x, t)).abs().max()) < 0.04


def bundle() -> Joint:
    return Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))


class Frames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 6)

    def forward(self, x: State, t: Tensor, mask: Tensor) -> State:
        h = self.inner(torch.cat([x["pos"], x["rot"].flatten(-2)], -1))
        return dict(zip(("pos", "rot"), h.split(3, -1), strict=True))


def batch(longest: int) -> tuple[State, Tensor]:
    """Zero-padded frames of 6, 4, 2 and 1 sites, as `collate` makes them."""
    mask = torch.arange(longest)[None] < torch.tensor([6, 4, 2, 1])[:, None]
    x0 = bundle().space.random(
        {"pos": torch.empty(4, 6, 3, dtype=F64), "rot": torch.empty(4, 6, 3, 3, dtype=F64)}, Noise.of(0, 4)
    )
    padded = {k: torch.zeros(4, longest, *v.shape[2:], dtype=F64) for k, v in x0.items()}
    for k, v in x0.items():
        padded[k][:, :6] = v
        padded[k][~mask] = 0
    return padded, mask


def test_padding_changes_neither_loss_nor_gradient() -> None:
    found = []
    for longest in (6, 11):
        x0, mask = batch(longest)
        denoiser = Denoiser(randomised(Frames().double()), Heads(pos=Velocity(), rot=Tangent()), bundle())
        losses = denoising_loss(denoiser, x0, TIMES, Noise.of(2, 4), mask=mask)
        losses["loss"].sum().backward()
        found.append([losses["loss"].detach(), losses["pos"], losses["rot"], *(p.grad for p in denoiser.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    # Each sample counts by its own degrees of freedom, and is alone what it is in the batch.
    x0, mask = batch(6)
    denoiser = Denoiser(randomised(Frames().double()), Heads(pos=Velocity(), rot=Tangent()), bundle())
    whole = denoising_loss(denoiser, x0, TIMES, Noise.of(2, 4), mask=mask)["loss"]
    for i, n in enumerate((6, 4, 2, 1)):
        one = {k: v[i : i + 1, :n] for k, v in x0.items()}
        alone = denoising_loss(denoiser, one, TIMES[i : i + 1], Noise.of(2, 1, i), mask=mask[i : i + 1, :n])["loss"]
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_are_finite_at_the_ends_of_time(dtype: torch.dtype) -> None:
    times = torch.tensor([0.0, 1e-12, 1e-5, 1.0], dtype=F64)
    x0 = Noise.of(0, 4).normal((4, 3), dtype)
    cases: list[tuple[Leaf, Head]] = [
        (Gaussian(s), h) for s in (VP(), EDM(), Linear(), Cosine()) for h in (X0(), V(), Velocity(), EDMHead())
    ]
    cases += [(Geodesic(Torus()), Tangent()), (Geodesic(Sphere()), Tangent()), (Gaussian(VP()), Eps())]
    for process, head in cases:
        denoiser = Denoiser(randomised(Toy(3)).to(dtype), head, process)
        loss = denoising_loss(denoiser, process.space.project(x0), times, Noise.of(1, 4))["loss"]
        loss.sum().backward()
        assert bool(torch.isfinite(loss).all()), (process, head, loss)
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in denoiser.parameters())


def test_weightings_and_couplings_by_part_and_names_that_are_none() -> None:
    x0, mask = batch(6)
    denoiser = Denoiser(randomised(Frames().double()), Heads(pos=Velocity(), rot=Tangent()), bundle())

    def losses(objective: Objective) -> dict[str, Tensor]:
        return denoising_loss(denoiser, x0, TIMES, Noise.of(2, 4), objective=objective, mask=mask)

    mixed, clean, output = (
        losses(Objective({"pos": Clean(), "rot": Output()})),
        losses(Objective(Clean())),
        losses(Objective()),
    )
    assert torch.equal(mixed["pos"], clean["pos"]) and torch.equal(mixed["rot"], output["rot"])
    assert not torch.equal(clean["rot"], output["rot"])
    process, source = bundle().masked(mask), Noise.of(2, 4)
    plain, coupled = (noised(process, x0, TIMES, source, c, {}) for c in (Independent(), {"pos": Immiscible(8)}))
    assert torch.equal(coupled["rot"], plain["rot"]) and not torch.equal(coupled["pos"], plain["pos"])
    assert not torch.equal(losses(Objective(coupling={"pos": Immiscible(8)}))["pos"], output["pos"])
    for wrong in (
        Objective(parts={"rto": 2.0}),
        Objective({"pos": Clean(), "rto": Clean()}),
        Objective(coupling={"rto": Immiscible()}),
    ):
        with pytest.raises(RecipeError, match=r'no part .rto..*Did you mean "rot"'):
            losses(wrong)


def test_averages_take_buffers_along() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = EMA(network, 0.9)
    for _ in range(3):
        network(torch.randn(64, 3) + 5)
        average.update(network)
    norm, other = network[1], torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    own = {name: b.clone() for name, b in network.named_buffers()}
    assert float(norm.running_mean.abs().max()) > 0.1  # type: ignore[union-attr]
    average.copy_to(other)
    for name, b in other.named_buffers():
        assert torch.equal(b, own[name]), name
    restored = EMA(other, 0.9)
    restored.load_state_dict(average.state_dict())
    network(torch.randn(64, 3) - 5)
    now = {name: b.clone() for name, b in network.named_buffers()}
    with restored.applied(network):
        assert all(torch.equal(b, own[name]) for name, b in network.named_buffers())
    assert all(torch.equal(b, now[name]) for name, b in network.named_buffers())


def test_averages_of_before_there_were_buffers_load() -> None:
    """They keep the buffers of the module; what else is missing or does not fit is named, and nothing is loaded."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    network(torch.randn(64, 3) + 5)
    saved = EMA(network, 0.9)
    saved.update(network)
    old = {key: value for key, value in saved.state_dict().items() if key != "buffers"}
    other = EMA(network, 0.5)
    other.load_state_dict(old)
    assert (other.decay, other.updates) == (0.9, 1)
    for name, b in network.named_buffers():
        assert torch.equal(other.buffers[name], b), name
    fresh, full = EMA(network, 0.5), saved.state_dict()
    short = {name: a for name, a in full["average"].items() if name != "0.weight"}
    wrong = [
        ({**full, "average": short}, r"no '0\.weight' in 'average'"),
        ({**full, "buffers": {}}, r"no '1\.running_mean' in 'buffers'"),
        ({**full, "average": {**full["average"], "0.bias": torch.zeros(4)}}, r"'0\.bias' of shape \[4\]"),
        ({"average": full["average"]}, "lacks 'decay'"),
    ]
    for state, said in wrong:
        with pytest.raises(CheckpointError, match=said):
            fresh.load_state_dict(state)
        assert (fresh.decay, fresh.updates) == (0.5, 0)


def test_parts_and_auxiliary_losses_have_their_factors() -> None:
    x0, mask = batch(6)
    denoiser = Denoiser(randomised(Frames().double()), Heads(pos=Velocity(), rot=Tangent()), bundle())

    def auxiliary(guess: State, clean: State, t: Tensor, **cond: Any) -> Tensor:
        assert guess["pos"].shape == clean["pos"].shape and torch.equal(cond["mask"], mask)
        return t + 1

    low, high = float(TIMES.sort().values[1]), float(TIMES.sort().values[2])
    own = {"one": Auxiliary(auxiliary, Term(3.0)), "two": Auxiliary(auxiliary, Term(2.0, (low, high)))}
    here = ((low <= TIMES) & (high >= TIMES)).double()
    assert here.sum() == 2

    def extra(factors: Any) -> tuple[Tensor, set[str]]:
        objective = Objective(parts={"rot": 0.25}, auxiliary=factors)
        out = denoising_loss(denoiser, x0, TIMES, Noise.of(2, 4), objective=objective, auxiliary=own, mask=mask)
        for name in out.keys() & own:
            torch.testing.assert_close(out[name], TIMES + 1)
        return out["loss"].detach() - out["pos"] - 0.25 * out["rot"], out.keys() & own

    for factors, weight in [
        (0.5, 1.5 + here), ({"one": 0.5}, 1.5 + 2 * here), ({"two": Term(1.0)}, torch.full_like(here, 4.0)),
        ({"one": 0.0}, 2 * here), (0.0, 0 * here),
    ]:  # fmt: skip
        torch.testing.assert_close(extra(factors)[0], weight * (TIMES + 1))
    assert extra({"one": 0.0})[1] == {"two"} and not extra(0.0)[1]
    with pytest.raises(RecipeError, match=r"auxiliary loss 'tow'.*one, two.*two"):
        extra({"tow": 1.0})


def test_the_window_of_a_bundle_holds_for_all_its_times() -> None:
    t = {"pos": torch.tensor([0.1, 0.5, 0.9]), "rot": torch.tensor([0.5, 0.5, 0.5])}
    assert Term(2.0, (0.4, 0.6)).at(t, torch.zeros(3)).tolist() == [0, 2, 0]
    for window in ((1.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(RecipeError, match="window"):
            Term(window=window)


class Beside(nn.Module):
    """A network with a side output."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=F64))

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Sided:
        return Sided(self.scale * x, {"spread": self.scale * t})


def test_side_outputs_reach_losses_and_nothing_else() -> None:
    denoiser = Denoiser(Beside(), Velocity(), Gaussian(Linear()))
    x0, told = torch.randn(4, 3, dtype=F64), {}
    own = {"spread": Auxiliary(lambda guess, x0, t, *, side, **cond: told.update(side) or side["spread"])}
    out = denoising_loss(denoiser, x0, TIMES, Noise.of(2, 4), auxiliary=own)
    torch.testing.assert_close(out["spread"], 2 * TIMES.to(out["spread"]))
    torch.testing.assert_close(out["loss"].detach(), out["denoising"] + out["spread"])
    assert told.keys() == {"spread"} and told["spread"].requires_grad
    assert isinstance(denoiser(x0, 0.5), Tensor)


# Averages


def steps(module: nn.Module, n: int, start: int = 0) -> list[np.ndarray]:
    """n deterministic changes of the weights; what they were after each."""
    out = []
    for k in range(start, start + n):
        with torch.no_grad():
            for i, p in enumerate(module.parameters()):
                p.add_(0.1 * Noise.of(i, 1).at(k).normal((1, p.numel()), F64).reshape(p.shape).to(p.dtype))
        out.append(next(module.parameters()).detach().double().numpy().copy())
    return out


def test_the_average_is_the_recurrence() -> None:
    module = nn.Linear(3, 2).double()
    ema, average = EMA(module, decay=0.9), next(module.parameters()).detach().numpy().copy()
    for k in range(1, 101):
        (weight,) = steps(module, 1, k)
        ema.update(module)
        beta = min(0.9, (1 + k) / (10 + k))
        average = beta * average + (1 - beta) * weight
    np.testing.assert_allclose(ema.average["weight"].numpy(), average, rtol=0, atol=1e-13)
    assert ema.updates == 100


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    """In bfloat16 the average would stall at its start: each change is below half a unit in the last place."""
    module = nn.Linear(4, 4).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.fill_(1.0)
        ema = EMA(module, decay=0.9999)
        ema.updates = 10**6
        module.weight.fill_(2.0)
    for _ in range(5000):
        ema.update(module)
    assert ema.average["weight"].dtype == torch.float32
    assert float(ema.average["weight"].mean()) == pytest.approx(2 - 0.9999**5000, abs=1e-3)
    ema.copy_to(module)
    assert module.weight.dtype == torch.bfloat16


def test_averages_resume_exactly_and_share_nothing() -> None:
    a = nn.Linear(3, 2)
    first = EMA(a, 0.99)
    for k in range(20):
        steps(a, 1, k)
        first.update(a)
    b, second = copy.deepcopy(a), EMA(copy.deepcopy(a), 0.5)
    second.load_state_dict(first.state_dict())
    saved = first.average["weight"].clone()
    for k in range(20, 30):
        steps(b, 1, k)
        second.update(b)
    assert torch.equal(first.average["weight"], saved)  # loading copies
    for k in range(20, 30):
        steps(a, 1, k)
        first.update(a)
    assert torch.equal(first.average["weight"], second.average["weight"]) and first.updates == second.updates == 30


def test_applied_swaps_and_restores_even_after_an_error() -> None:
    module = nn.Linear(3, 2)
    ema = EMA(module, 0.9)
    steps(module, 1)
    own = module.weight.detach().clone()

    def inside() -> None:
        with ema.applied(module):
            assert torch.equal(module.weight, ema.average["weight"]) and not torch.equal(module.weight, own)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        inside()
    assert torch.equal(module.weight, own)

"""Flow maps in closed form and on every space, derivatives by three ways, networks that are told a second time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    EDM,
    SO3,
    VP,
    X0,
    Adams,
    Centered,
    Denoiser,
    EDMHead,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Joint,
    Linear,
    PowerGrid,
    Sphere,
    Torus,
    Velocity,
    sample,
)
from gendiff.conditions import Label, Text
from gendiff.denoisers import default_head
from gendiff.nn import DiT, Jumps, UNet
from gendiff.nn.recomputing import recomputed
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling.solvers import Consistency, FlowMap
from gendiff.spaces import map_state, tensors
from gendiff.testing import check_flow_map, randomised
from gendiff.training import (
    Finite,
    Forward,
    Reverse,
)
from gendiff.training.fewstep import aim, eulerian, jump, velocity
from gendiff_audio.networks import MelUNet
from gendiff_proteins.networks import FrameNetwork
from tests.core.exactmaps import SCHEDULES, gaussian, own_network

B = 6
TEXT = Text().fit(("a red heart", "a dog"))


@torch.no_grad()
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_flow_map_of_a_gaussian_has_no_residual(schedule: Any) -> None:
    denoiser, exact, draw = gaussian(schedule)
    process, x0 = denoiser.process, draw(64, 0)
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    for s in (torch.zeros_like(t), 0.5 * t, 0.95 * t):
        x = process.noise(x0, t, Noise.of(0, 64))
        v = velocity(process, x, exact(x, t), t)
        r = eulerian(denoiser, process, x, t, s, v, Forward(), {"to": s})
        wrong = eulerian(denoiser, process, x, t, s, 1.1 * v, Forward(), {"to": s})
        assert float(r.abs().max()) < 1e-9
        assert float(wrong.abs().max()) > 1e-3
        # the residual is the derivative that the top of `jumps` says it is
        own_network(denoiser).push.fill_(0.3)
        k, low = (process.schedule.share(u, 1.0)[:, None] for u in (t, s))
        guess = denoiser(x, t, to=s)
        moved = [denoiser(x + h * v, t + h, to=s) for h in (1e-5, -1e-5)]
        slope = process.schedule.share(t + 1e-6, 1.0) - process.schedule.share(t - 1e-6, 1.0)
        along = (moved[0] - moved[1]) / 2e-5 / (slope[:, None] / 2e-6)
        by_hand = low / k * (guess - exact(x, t)) + (k - low) * along
        r = eulerian(denoiser, process, x, t, s, v, Forward(), {"to": s})
        assert torch.allclose(r, by_hand, atol=2e-6 * float(by_hand.abs().max() + 1))
        own_network(denoiser).push.zero_()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_flow_map_samples_in_any_number_of_steps(schedule: Any, steps: int) -> None:
    denoiser, exact, _ = gaussian(schedule)
    denoiser.requires_grad_(False)
    like, noise = torch.empty(32, 2, dtype=torch.float64), Noise.of(0, 32)
    few = sample(denoiser, like, solver=FlowMap(steps), noise=noise)
    many = sample(exact, like, solver=Adams(400, times=PowerGrid()), noise=noise)
    assert float((few - many).abs().max()) < 2e-5
    assert check_flow_map(denoiser, like) < 1e-9
    # a plain solver finds the same model a plain denoiser
    heun = [sample(d, like, solver=Heun(24), noise=noise) for d in (denoiser, exact)]
    assert torch.allclose(*heun, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_jumps_with_noise_keep_the_marginals(gamma: float) -> None:
    denoiser, exact, _ = gaussian(Linear())
    n = 20_000
    with torch.no_grad():
        x = sample(denoiser, torch.empty(n, 2).double(), solver=FlowMap(4, gamma), noise=Noise.of(0, n))
    assert torch.allclose(x.mean(0), exact.means[0], atol=0.03)
    assert torch.allclose(x.std(0), torch.tensor([0.5, 1.2]).double(), atol=0.03)


def test_all_the_way_and_back_is_the_consistency_sampler() -> None:
    denoiser, _, _ = gaussian(Linear(), zero=True)
    like, noise = torch.empty(8, 2).double(), Noise.of(3, 8)
    grid = PowerGrid(1.0)
    a = sample(denoiser, like, solver=FlowMap(3, 1.0, times=grid), noise=noise)
    b = sample(denoiser, like, solver=Consistency(3, times=grid), noise=noise)
    assert torch.allclose(a, b, atol=1e-12)


SPACES: dict[str, tuple[Process, tuple[int, ...]]] = {
    "torus": (Geodesic(Torus()), (3,)),
    "sphere": (Geodesic(Sphere()), (2, 3)),
    "so3": (Geodesic(SO3(), Exponential(5.0)), (2, 3, 3)),
    "plane": (Gaussian(VP()), (3,)),
    "centred": (Gaussian(Linear(), Centered()), (4, 3)),
}


class SmoothField(nn.Module):
    """A smooth field of clean states on any space, without a `to`."""

    def __init__(self, process: Process, size: int) -> None:
        super().__init__()
        self.process_ = process
        generator = torch.Generator().manual_seed(0)
        self.w = torch.randn(size, size, generator=generator, dtype=torch.float64) / size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        turned = x.flatten(1).sin() @ self.w + t[:, None]
        v = turned.reshape(x.shape)
        return v[..., 0] if isinstance(self.process_.space, SO3) else v


def rk(denoise: Any, process: Any, x: Tensor, t: Tensor, s: Tensor, steps: int) -> Tensor:
    """Midpoint steps of the flow in the log of the clock, differentiable in everything."""
    space = process.space
    for k in range(steps):
        a, b = t + (s - t) * k / steps, t + (s - t) * (k + 1) / steps
        c = (a + b) / 2
        half = process.step(x, denoise(x, a), a, c)
        # at the middle the flow's own target, seen from the beginning
        v = velocity(process, half, denoise(half, c), c)
        if space.flat:
            x = x + (b - a)[:, *[None] * (x.ndim - 1)] * v
        else:
            here = space.scale(space.carry(x, half, v), b - a)
            x = space.exp(x, here)
    return x


class Followed(nn.Module):
    """The flow map of a field, by following it finely."""

    takes_to = True

    def __init__(self, field: Denoiser, steps: int) -> None:
        super().__init__()
        self.field, self.steps = field, steps

    def forward(self, x: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        assert to is not None
        process = self.field.process
        return aim(process, x, rk(self.field, process, x, t, to, self.steps), t, to)


class AsItIs(X0):
    """A head of any space whose network emits the clean state."""

    def clean(self, process: Any, x: Any, out: Any, t: Any) -> Any:
        return process.space.project(out)


@pytest.mark.parametrize("name", SPACES)
def test_on_every_space_a_followed_flow_is_a_flow_map(name: str) -> None:
    process, point = SPACES[name]
    like = torch.empty(B, *point, dtype=torch.float64)
    field = Denoiser(SmoothField(process, like[0].numel()), default_head(process), process)
    t = torch.linspace(0.3, 0.8, B, dtype=torch.float64)
    x = process.noise(process.space.random(like, Noise.of(0, B).fork("x0")), t, Noise.of(0, B))
    s = 0.4 * t
    errors = []
    for steps in (8, 16):
        flow = Denoiser(Followed(field, steps), AsItIs(), process)
        v = velocity(process, x, field(x, t), t)
        r = eulerian(flow, process, x, t, s, v, Finite(1e-5), {"to": s})
        errors.append(float(process.space.norm2(x, r).max().sqrt()))
    size = float(process.space.norm2(x, velocity(process, x, field(x, t), t)).max().sqrt())
    assert errors[1] < 0.02 * size
    assert errors[1] < errors[0] / 2.5  # the follower's own error, of second order


class Told(SmoothField):
    """A field that bends with the time it jumps to."""

    takes_to = True

    def forward(self, x: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        assert to is not None
        return super().forward(x, t + 0.7 * to) * (1 + to.reshape(-1, *[1] * (len(self.shape) - 1)))

    def __init__(self, process: Process, like: Tensor) -> None:
        super().__init__(process, like[0].numel())
        self.shape = like.shape[:-1] if isinstance(process.space, SO3) else like.shape


@pytest.mark.parametrize("name", SPACES)
def test_the_residual_is_that_of_the_end_seen_from_the_start(name: str) -> None:
    """r = d log_x(Phi_{t->s}(x_t))/d log k, x held still in the logarithm: differences along the curve."""
    process, point = SPACES[name]
    like = torch.empty(B, *point, dtype=torch.float64)
    flow = Denoiser(Told(process, like), default_head(process), process)
    t = torch.linspace(0.4, 0.9, B, dtype=torch.float64)
    s = torch.linspace(0.0, 0.5, B, dtype=torch.float64) * t
    x = process.noise(process.space.random(like, Noise.of(0, B).fork("x0")), t, Noise.of(0, B))
    goal = process.space.random(like, Noise.of(2, B))
    v = velocity(process, x, goal, t)
    r = eulerian(flow, process, x, t, s, v, Forward(), {"to": s})
    space, h, ends = process.space, 1e-5, []
    for k in (1, -1):
        there, now = space.exp(x, space.scale(v, torch.full_like(t, k * h))), t + k * h
        end = jump(flow, process, there, now, s, {"to": s})
        ends.append(space.log(x, end) if not space.flat else end / process.norm(s, 1.0)[:, *[None] * len(point)])  # type: ignore[attr-defined]
    slope = space.scale(ends[0] - ends[1], 1 / (2 * h * process.pace(t, 1.0)))  # type: ignore[attr-defined]
    assert torch.allclose(r, slope, atol=1e-6 * float(slope.abs().max() + 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Process, Any]] = {
    "unet": (
        lambda: UNet(2, in_channels=1, out_channels=1, channels=(16, 32), blocks=1, attention=(False, True), jumps=True,
                     guided=True, conditions={"label": Label(("a", "b"))}),
        Gaussian(Linear()), torch.empty(B, 1, 8, 8),
    ),
    "unet1d": (
        lambda: MelUNet(8, {}, channels=(16, 24), jumps=True, guided=True), Gaussian(EDM()), torch.empty(B, 12, 8),
    ),
    "dit": (
        lambda: DiT(2, in_channels=1, out_channels=1, patch=2, width=32, depth=2, heads=2, refine=8, jumps=True,
                    guided=True, conditions={"label": Label(("a", "b"))}),
        Gaussian(VP()), torch.empty(B, 1, 8, 8),
    ),
    "frames": (
        lambda: FrameNetwork(16, 2, 2, 8, jumps=True, guided=True),
        Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(5.0))),
        {"pos": torch.empty(B, 9, 3), "rot": torch.empty(B, 9, 3, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_of_every_network_by_every_way(name: str, masked: bool) -> None:
    if masked and name in ("unet", "dit"):
        pytest.skip("pictures have no mask")
    make, process, like = NETWORKS[name]
    torch.manual_seed(0)
    network = randomised(make()).double()
    denoiser = Denoiser(network, default_head(process), process)
    like = map_state(Tensor.double, like)
    noise, first = Noise.of(0, B), tensors(like)[0]
    cond: dict[str, Any] = {"guidance": torch.linspace(1, 3, B)}
    if name in ("unet", "dit"):
        cond["label"] = torch.arange(B) % 3
    if masked:
        sites = first.shape[1:2] if name in ("frames", "unet1d") else first.shape[2:]
        mask = torch.ones(B, *sites, dtype=torch.bool)
        mask[1, -2:] = False
        cond["mask"] = mask
    bound = process.masked(cond.get("mask"))
    x0 = bound.space.project(bound.space.random(like, noise.fork("x0")))
    t, s = torch.linspace(0.3, 0.7, B).double(), torch.linspace(0.0, 0.4, B).double()
    x = bound.noise(x0, t, noise)
    v = velocity(bound, x, x0, t)
    told = {**cond, "to": s}
    ways = [eulerian(denoiser, bound, x, t, s, v, way, told) for way in (Forward(), Reverse(), Finite(3e-6))]
    for part, *others in zip(*map(tensors, ways), strict=True):
        for other in others:
            assert float((part - other).abs().max()) < 1e-6 * float(part.abs().max() + 1)
        assert float(part.abs().max()) > 1e-3
    if masked:  # padding changes nothing
        other = process.space.random(like, noise.fork("hidden"))
        hidden = map_state(torch.clone, x)
        for part, junk in zip(tensors(hidden), tensors(other), strict=True):
            part[1, -2:] = junk[1, -2:]
        again = eulerian(denoiser, bound, hidden, t, s, v, Forward(), told)
        for part, same in zip(tensors(again), tensors(ways[0]), strict=True):
            assert torch.allclose(part[cond["mask"]], same[cond["mask"]], atol=1e-12)


@pytest.mark.parametrize("way", [Forward(), Reverse(), Finite(1e-4)], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_of_a_network_that_is_recomputed(name: str, way: Any) -> None:
    make, process, like = NETWORKS[name]
    torch.manual_seed(0)
    network = randomised(make()).double()
    denoiser = Denoiser(network, default_head(process), process)
    x0 = process.space.random(map_state(Tensor.double, like), Noise.of(0, B))
    t = torch.linspace(0.3, 0.7, B).double()
    x = process.noise(x0, t, Noise.of(1, B))
    args = (denoiser, process, x, t, 0.5 * t, velocity(process, x, x0, t), way, {"to": 0.5 * t})
    kept = eulerian(*args)
    with recomputed(network) as blocks:
        again = eulerian(*args)
    assert blocks
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(tensors(kept), tensors(again), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_a_second_time_begins_as_the_one_without(name: str) -> None:
    make, process, like = NETWORKS[name]
    torch.manual_seed(0)
    network = randomised(make()).double()
    for own in network.modules():
        if isinstance(own, Jumps):
            for layers in (own.gap, own.scale):
                assert layers is not None
                for p in layers[-1].parameters():
                    nn.init.zeros_(p)
    denoiser = Denoiser(network, default_head(process), process)
    x = process.space.random(map_state(Tensor.double, like), Noise.of(0, B))
    plain = denoiser(x, 0.6)
    told = denoiser(x, 0.6, to=0.1, guidance=torch.full((B,), 3.0))
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(told), strict=True))


def test_tokens_are_attended_to_in_derivatives() -> None:
    """Cross-attention has a forward derivative, whatever kernel it would take otherwise."""
    network = randomised(
        DiT(2, in_channels=1, out_channels=1, patch=2, width=32, depth=1, heads=2, jumps=True,
            conditions={"caption": TEXT})
    ).double()  # fmt: skip
    own: Any = network.conditioning
    assert own.gives("tokens")
    cond = {"caption": TEXT.collate([TEXT.encode("a red heart"), TEXT.encode("a dog")])}
    process = Gaussian(Linear())
    denoiser = Denoiser(network, Velocity(), process)
    x = torch.randn(2, 1, 24, 24, generator=torch.Generator().manual_seed(0)).double()  # 144 patches: the fused kernel
    t, s = torch.tensor([0.5, 0.7]).double(), torch.tensor([0.1, 0.0]).double()
    told = {**cond, "to": s}
    a, b = (eulerian(denoiser, process, x, t, s, x.sin(), way, told) for way in (Forward(), Finite(3e-6)))
    assert torch.allclose(a, b, atol=1e-6 * float(a.abs().max() + 1))


@functools.cache
def jump_of(n: int) -> Tensor:
    denoiser, _, draw = gaussian(VP())
    x = draw(8, 0)[:n]
    t = torch.linspace(0.2, 0.9, 8).double()[:n]
    return jump(denoiser, denoiser.process, x, t, 0.5 * t, {"to": 0.5 * t})


def test_a_jump_is_the_same_in_every_batch() -> None:
    assert torch.allclose(jump_of(8)[:1], jump_of(1), atol=1e-14)


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    for process, point in (*SPACES.values(), (Gaussian(EDM()), (3,))):
        x0, z = (process.space.random(torch.empty(B, *point).double(), Noise.of(k, B)) for k in (0, 1))
        t = torch.linspace(0.2, 0.8, B).double()
        x, h = process.noised(x0, z, t), 1e-6
        forth, back = (process.space.log(x, process.noised(x0, z, t + k * h)) for k in (1, -1))
        v = velocity(process, x, x0, t)
        assert torch.allclose((forth - back) / (2 * h), v, atol=1e-5 * float(v.abs().max() + 1))


def test_an_edm_head_is_told_both_times_in_its_own_terms() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Net(nn.Module):
        takes_to = True

        def forward(self, x: Tensor, t: Tensor, to: Tensor) -> Tensor:
            seen.append((t, to))
            return x

    process = Gaussian(EDM())
    denoiser = Denoiser(Net(), EDMHead(0.5), process)
    x = torch.randn(3, 2)
    denoiser(x, 0.7, to=0.3)
    for t, got in zip((0.7, 0.3), seen[0], strict=True):
        alpha, sigma = process.schedule(t)
        assert torch.allclose(got.double(), torch.full((3,), (torch.tensor(sigma / alpha).log() / 4).item()).double())
    denoiser(x, 0.7, to=0.0)
    assert float(seen[1][1][0]) == -3.0

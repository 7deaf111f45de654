"""The training step and the sampling loop are one graph each, and never wait for a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gendiff import (
    DDPM,
    EDM,
    SO3,
    VE,
    VP,
    Centered,
    Constrained,
    Cosine,
    Denoiser,
    DPMpp2M,
    EDMHead,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Heun,
    Immiscible,
    Joint,
    KabschAligned,
    Karras,
    Laplace,
    Linear,
    LinearGrid,
    Objective,
    Polynomial,
    Rescheduled,
    Shifted,
    Sigmoid,
    Sinkhorn,
    Sphere,
    Tangent,
    Torus,
    TrigFlow,
    UpAndDown,
    V,
    Velocity,
    ZeroTerminal,
    denoising_loss,
)
from gendiff.processes.schedules import Discrete
from gendiff.random import Noise
from gendiff.sampling import EvenSteps, Flow, sample
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State, tensors
from gendiff.testing import randomised
from gendiff.training import Coupling

B, N = 4, 6
TIMES = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
MASK = torch.arange(N)[None] < torch.tensor([6, 4, 2, 3])[:, None]


class Linear3(nn.Module):
    """A linear map of each site."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, out)

    def forward(self, x: State, t: Tensor, **cond: Any) -> State:
        if isinstance(x, dict):
            h = self.inner(torch.cat([x["pos"], x["rot"].flatten(-2)], -1))
            return dict(zip(("pos", "rot"), h.split(3, -1), strict=True))
        return self.inner(x.flatten(2))


def model(name: str) -> tuple[Denoiser, State, dict[str, Any]]:
    """A denoiser, a template and conditions."""
    vectors, matrices = torch.empty(B, N, 3), torch.empty(B, N, 3, 3)
    joint = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))
    heads = Heads(pos=Velocity(), rot=Tangent())
    denoiser, like, cond = {
        "euclidean": (Denoiser(Linear3(3, 3), EDMHead(), Gaussian(EDM())), vectors, {}),
        "rotations": (Denoiser(Linear3(9, 3), Tangent(), Geodesic(SO3())), matrices, {}),
        "torus": (Denoiser(Linear3(3, 3), Tangent(), Geodesic(Torus())), vectors, {"mask": MASK}),
        "sphere": (Denoiser(Linear3(3, 3), Tangent(), Geodesic(Sphere())), vectors, {}),
        "frames": (Denoiser(Linear3(12, 6), heads, joint), {"pos": vectors, "rot": matrices}, {"mask": MASK}),
    }[name]
    randomised(denoiser.network)
    return denoiser, like, cond


MODELS = ["euclidean", "rotations", "torus", "sphere", "frames"]


def one_graph(f: Callable[..., Any], *args: Any) -> Any:
    """f compiled; it fails where the graph would break, as it does at every look at a tensor's value."""
    torch._dynamo.reset()  # type: ignore[attr-defined]
    return torch.compile(f, fullgraph=True, backend="eager")(*args)


class Watched(TorchDispatchMode):
    """Fails on every operation whose result the host must wait for."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert not name.startswith(self.waits) or name in ("nonzero_static",), f"waits for the device: {name}"
        if name.startswith("index.") or name in ("index", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "indexing by a mask waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits() -> None:
    x = torch.ones(3)
    for wait in (lambda: x.sum().item(), lambda: bool(x.sum() > 1), lambda: x[x > 0], x.nonzero):
        with pytest.raises(AssertionError, match="waits"), Watched():
            wait()


def step(denoiser: Denoiser, objective: Objective | None = None) -> Callable[..., Tensor]:
    def f(x0: State, t: Tensor, index: Tensor, cond: dict[str, Any]) -> Tensor:
        return denoising_loss(denoiser, x0, t, Noise(3, index), objective=objective, **cond)["loss"].mean()

    return f


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_is_one_graph_and_waits_for_nothing(name: str) -> None:
    denoiser, like, cond = model(name)
    x0 = denoiser.process.masked(cond.get("mask")).space.random(like, Noise.of(0, B))
    args = (x0, TIMES, torch.arange(B), cond)
    compiled = one_graph(step(denoiser), *args)
    compiled.backward()
    found = [p.grad.clone() for p in denoiser.parameters() if p.grad is not None]
    denoiser.zero_grad()
    with Watched():
        plain = step(denoiser)(*args)
        plain.backward()
    torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-7)
    for a, p in zip(found, denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-6)


SCHEDULES = [VP(), Cosine(), VE(), Linear(), Polynomial(), TrigFlow(), Sigmoid(), Laplace(), Shifted(Linear(), 3.0)]
SCHEDULES += [ZeroTerminal(VP()), Discrete.linear(), Discrete.cosine().zero_terminal()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_schedule_trains_in_one_graph(schedule: Any) -> None:
    denoiser = Denoiser(randomised(Linear3(3, 3)), V(), Gaussian(schedule))
    args = (Noise.of(0, B).normal((B, N, 3)), TIMES, torch.arange(B), {})
    with Watched():
        plain = step(denoiser)(*args)
    torch.testing.assert_close(one_graph(step(denoiser), *args), plain)


@pytest.mark.parametrize("coupling", [Sinkhorn(rounds=5), Immiscible(3), KabschAligned()], ids=repr)
def test_couplings_on_the_device_wait_for_nothing(coupling: Coupling) -> None:
    denoiser = Denoiser(randomised(Linear3(3, 3)), Velocity(), Gaussian(Linear(), Centered()))
    args = (Noise.of(0, B).normal((B, N, 3)), TIMES, torch.arange(B), {"mask": MASK})
    f = step(denoiser, Objective(coupling=coupling))
    with Watched():
        plain = f(*args)
    torch.testing.assert_close(one_graph(f, *args), plain)


SOLVERS: list[Solver] = [
    Euler(3),
    DDPM(3),
    Heun(3),
    DPMpp2M(4, times=Karras(0.01, 20.0)),
    Euler(3, times=UpAndDown(LinearGrid(), 2, 2)),
]


@pytest.mark.parametrize("name", ["euclidean", "rotations", "frames"])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@torch.no_grad()
def test_the_sampling_loop_is_one_graph_and_waits_for_nothing(name: str, solver: Solver) -> None:
    denoiser, like, cond = model(name)
    process = denoiser.process.masked(cond.get("mask"))
    rows, start = solver.rows(process), process.prior(like, Noise.of(5, B))

    def f(x: State, index: Tensor, cond: dict[str, Any]) -> State:
        return sample(denoiser, x, solver=rows, noise=Noise(3, index), cond=cond, start=x)

    args = (start, torch.arange(B), cond)
    with Watched():
        plain = f(*args)
    for a, b in zip(tensors(one_graph(f, *args)), tensors(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_model_on_another_schedule_samples_in_one_graph() -> None:
    denoiser, like, _ = model("euclidean")
    moved = Rescheduled(denoiser, Linear())
    rows, start = Euler(4).rows(moved.process), moved.process.prior(like, Noise.of(5, B))

    def f(x: State) -> State:
        return sample(moved, x, solver=rows, noise=Noise.of(3, B))

    torch.testing.assert_close(one_graph(f, start), f(start))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_even_steps_of_the_flow_are_one_graph_and_wait_for_nothing(name: str) -> None:
    denoiser, like, cond = model(name)
    solver = EvenSteps(2)
    x = denoiser.process.masked(cond.get("mask")).prior(like, Noise.of(5, B))
    flow = Flow(denoiser, x, solver.ends(denoiser.process), solver.scale, cond)
    with Watched():
        plain = solver.follow(flow, x).state
    found = one_graph(lambda x: solver.follow(flow, x).state, x)
    for a, b in zip(tensors(found), tensors(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_a_user_gives_is_not_looked_at_inside_of_a_graph() -> None:
    denoiser, like, _ = model("euclidean")
    clipped = Constrained(denoiser, lambda x0, t, **cond: x0.clamp(-1, 1))
    x = denoiser.process.prior(like, Noise.of(5, B))
    torch.testing.assert_close(one_graph(lambda x: clipped(x, 0.5), x), clipped(x, 0.5))

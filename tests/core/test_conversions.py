"""Heads into each other, models onto other schedules: against peers, against the algebra, and by what is sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gendiff import (
    EDM,
    SO3,
    VE,
    VP,
    X0,
    Cosine,
    Discrete,
    DPMpp2M,
    EDMHead,
    Eps,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Joint,
    Karras,
    Laplace,
    Linear,
    PathVelocity,
    Polynomial,
    Rescheduled,
    Score,
    Shifted,
    Sigmoid,
    Tangent,
    TrigFlow,
    V,
    Velocity,
    ZeroTerminal,
    convert,
    sample,
)
from gendiff.denoisers import Head, Mixture
from gendiff.errors import SamplerError
from gendiff.random import Noise

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64
HEADS: list[Head] = [Eps(), X0(), V(), Velocity(), EDMHead(0.7), Score(), PathVelocity()]
SCHEDULES = [VP(), Cosine(), EDM(), Linear(), TrigFlow(), Sigmoid(), Laplace(), ZeroTerminal(VP())]


def targets(process: Gaussian, x0: Tensor, z: Tensor, t: float) -> dict[str, Tensor]:
    """What each head would emit, by its definition."""
    (alpha, sigma), (da, ds), d = process.schedule(t), process.schedule.slopes(t), 0.7
    n = (sigma**2 + d * d * alpha**2) ** 0.5
    x = alpha * x0 + sigma * z
    return {
        "Eps": z,
        "X0": x0,
        "V": alpha * z - sigma * x0,
        "Velocity": z - x0,
        "EDMHead": (x0 - d * d * alpha / n**2 * x) * n / (sigma * d),
        "Score": -z / sigma,
        "PathVelocity": da * x0 + ds * z,
    }


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_head_becomes_every_other(schedule: Any) -> None:
    process, x0, z = Gaussian(schedule), *torch.randn(2, 5, 3, dtype=F64).unbind(0)
    for t in (0.2, 0.5, 0.8):
        alpha, sigma = schedule(t)
        x, many = alpha * x0 + sigma * z, torch.full((5,), t, dtype=F64)
        exact = targets(process, x0, z, t)
        for source in HEADS:
            for to in HEADS:
                out = exact[type(source).__name__]
                for time in (t, many):
                    got = convert(process, x, out, time, source, to)
                    torch.testing.assert_close(got, exact[type(to).__name__], rtol=1e-7, atol=1e-8)
            clean = source.clean(process, x, exact[type(source).__name__], t)
            torch.testing.assert_close(clean, x0, rtol=1e-7, atol=1e-8)


def test_what_an_output_does_not_say_is_refused() -> None:
    process, x = Gaussian(Cosine()), torch.ones(2, 3, dtype=F64)
    for to in (X0(), V(), Velocity(), EDMHead()):
        with pytest.raises(SamplerError, match="alpha = 0"):
            convert(process, x, x, 1.0, Eps(), to)
    for source, to in [(X0(), Eps()), (X0(), V()), (X0(), Velocity()), (EDMHead(), Score())]:
        with pytest.raises(SamplerError, match="sigma = 0"):
            convert(process, x, x, 0.0, source, to)
    # What is said at the ends is understood there.
    assert torch.equal(convert(process, x, 3 * x, 0.0, Eps(), V()), 3 * x)  # v = z at the data
    assert torch.equal(convert(process, x, 3 * x, 1.0, V(), X0()), -3 * x)  # v = -x0 in the noise
    torch.testing.assert_close(convert(process, x, 3 * x, 1.0, X0(), Velocity()), -2 * x)
    rotations = Geodesic(SO3())
    r = rotations.space.random(torch.empty(2, 4, 3, 3, dtype=F64), Noise.of(0, 2))
    assert convert(rotations, r, r[..., 0], 0.0, Tangent(), Tangent()) is not None
    with pytest.raises(SamplerError, match="Heads"):
        convert(Joint(pos=process), {"pos": x}, {"pos": x}, 0.5, V(), Eps())


def test_tangents_are_velocities_on_flat_spaces_and_bundles_go_by_part() -> None:
    flat, x, out = Gaussian(Linear()), *torch.randn(2, 2, 3, dtype=F64).unbind(0)
    torch.testing.assert_close(convert(flat, x, out, 0.4, Velocity(), Tangent()), -out)
    joint = Joint(a=flat, b=Gaussian(VP()))
    got = convert(joint, {"a": x, "b": x}, {"a": out, "b": out}, 0.4, Heads(a=V(), b=V()), Heads(a=Eps(), b=X0()))
    torch.testing.assert_close(got["a"], convert(flat, x, out, 0.4, V(), Eps()))
    torch.testing.assert_close(got["b"], convert(Gaussian(VP()), x, out, 0.4, V(), X0()))


def test_golden_conversions(golden: Golden) -> None:
    g = golden("add_noise_v_conversions")
    process = Gaussian(Discrete.linear())
    t = Discrete.linear().index(g["timesteps"].double())
    torch.testing.assert_close(process.noised(g["x0"], g["eps"], t), g["x_t"], rtol=1e-9, atol=1e-10)
    heads: dict[str, Head] = {"eps": Eps(), "x0": X0(), "v": V()}
    values = {"eps": g["eps"], "x0": g["x0"], "v": g["v"]}
    for to, head in heads.items():
        for source, other in heads.items():
            if source != to:
                got = convert(process, g["x_t"], values[source], t, other, head)
                torch.testing.assert_close(got, g[f"{to}_from_{source}"], rtol=1e-7, atol=1e-8)


def test_golden_flow_conversions(golden: Golden) -> None:
    """Velocities of a path from and to its ends; their time, and so the sign of the velocity, is reversed."""
    g = golden("flow_paths")
    t = 1 - g["t"]
    for name, schedule in [("CondOT", Linear()), ("Cosine", Cosine())]:
        process, x, v = Gaussian(schedule), g[f"{name}__x_t"], -g[f"{name}__dx_t"]
        close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
        v0 = convert(process, x, g["x_data"], t, X0(), PathVelocity())
        torch.testing.assert_close(-v0, g[f"{name}__v_from_data"], **close)
        v1 = convert(process, x, g["x_noise"], t, Eps(), PathVelocity())
        torch.testing.assert_close(-v1, g[f"{name}__v_from_noise"], **close)
        torch.testing.assert_close(convert(process, x, v, t, PathVelocity(), X0()), g[f"{name}__data_from_v"], **close)
        torch.testing.assert_close(
            convert(process, x, v, t, PathVelocity(), Eps()), g[f"{name}__noise_from_v"], **close
        )


def mixture(schedule: Any) -> Mixture:
    means = torch.tensor([[1.0, 0.0], [-0.7, 0.7], [0.0, -1.0]], dtype=F64)
    return Mixture(Gaussian(schedule), means, 0.05, torch.tensor([0.5, 0.2, 0.3], dtype=F64))


@pytest.mark.parametrize("old", [EDM(), VP(), Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("new", [Linear(), VP(), TrigFlow(1.0), Sigmoid(), Shifted(Linear(), 3.0), VE()], ids=repr)
def test_a_model_on_another_schedule_is_the_oracle_of_that_schedule(old: Any, new: Any) -> None:
    moved, exact = Rescheduled(mixture(old), new), mixture(new)
    assert moved.process == exact.process
    x = torch.randn(6, 2, dtype=F64)
    for t in (0.05, 0.4, 0.8):
        torch.testing.assert_close(moved(x, t), exact(x, t), rtol=1e-7, atol=1e-9)
    assert bool(torch.isfinite(moved(x, 1.0)).all())
    back = Rescheduled(moved, old)
    torch.testing.assert_close(back(x, 0.4), mixture(old)(x, 0.4), rtol=1e-7, atol=1e-9)


def test_samples_agree_whatever_the_schedule() -> None:
    """The same noise at the same noise levels ends in the same place."""
    solver, z = DPMpp2M(20, times=Karras(0.01, 20.0)), torch.randn(8, 2, dtype=F64)
    ends = []
    for schedule in (EDM(), VP(0.1, 30.0), Linear(), Laplace()):
        model = mixture(EDM()) if isinstance(schedule, EDM) else Rescheduled(mixture(EDM()), schedule)
        start = schedule(schedule.unclock(20.0))
        x = z * 20.0 * start[0]
        ends.append(sample(model, x, solver=solver, noise=Noise.of(0, 8), start=x))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-6, atol=1e-6)


def test_rotations_and_bundles_may_be_rescheduled() -> None:
    process = Joint(pos=Gaussian(Linear()), rot=Geodesic(SO3(), Exponential(3.0)))

    class Echo:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Any, t: Any, **cond: Any) -> Any:
            self.seen, self.t = x, t
            return x

    echo = Echo()
    moved = Rescheduled(echo, {"rot": Polynomial(2.0)})
    x = process.space.random(
        {"pos": torch.empty(2, 4, 3, dtype=F64), "rot": torch.empty(2, 4, 3, 3, dtype=F64)}, Noise.of(0, 2)
    )
    moved(x, 0.5)
    assert torch.equal(echo.seen["rot"], x["rot"]) and torch.equal(echo.seen["pos"], x["pos"])
    assert echo.t["pos"] == 0.5 and Exponential(3.0)(echo.t["rot"])[1] == pytest.approx(0.25)

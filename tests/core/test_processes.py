"""Processes: the kit's laws for every schedule and space, the laws of noise, and golden forward paths."""

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
    Centered,
    Cosine,
    Discrete,
    Euclidean,
    Exponential,
    Gaussian,
    Geodesic,
    Joint,
    Linear,
    Polynomial,
    Shifted,
    Sphere,
    Torus,
)
from gendiff.errors import GendiffError
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.sampling.solvers import posterior
from gendiff.spaces import Space, State
from gendiff.testing import check_process, distance

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64
MASK = torch.arange(6)[None] < torch.tensor([6, 4, 2, 1])[:, None]
SCHEDULES = [
    VP(),
    Cosine(),
    VE(),
    EDM(),
    Linear(),
    Exponential(),
    Polynomial(),
    Shifted(Linear(), 3.0),
    Shifted(VP(), 2.0),
    Discrete.linear(),
    Discrete.cosine(),
    Discrete.linear().zero_terminal(),
]
FLOWS = [Linear(), Exponential(), Exponential(2.0), Polynomial(0.7), Shifted(Linear(), 2.0)]
CURVED = [(SO3(), (6, 3, 3)), (Torus(), (6, 2)), (Sphere(), (6, 3)), (Centered(), (6, 3)), (Euclidean(), (6,))]


def empty(*shape: int) -> Tensor:
    return torch.zeros(4, *shape, dtype=F64)


def bundle() -> tuple[Joint, State]:
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential()))
    return process, {"pos": empty(6, 3), "rot": empty(6, 3, 3)}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_laws_hold_on_flat_spaces(schedule: Any) -> None:
    for space, shape in [(Euclidean(), (3, 4)), (Centered(), (6, 3))]:
        check_process(Gaussian(schedule, space), empty(*shape))
    check_process(Gaussian(schedule, Centered()).masked(MASK), empty(6, 3))


@pytest.mark.parametrize("schedule", FLOWS, ids=repr)
@pytest.mark.parametrize(("space", "shape"), CURVED, ids=repr)
def test_the_laws_hold_on_curved_spaces(schedule: Any, space: Space, shape: tuple[int, ...]) -> None:
    check_process(Geodesic(space, schedule), empty(*shape))
    check_process(Geodesic(space, schedule).masked(MASK), empty(*shape))


def test_the_laws_hold_for_bundles_with_two_clocks() -> None:
    process, like = bundle()
    check_process(process, like)
    check_process(process.masked(MASK), like)
    x0 = process.space.random(like, Noise.of(0, 4))
    x = process.noise(x0, {"pos": 0.3, "rot": 0.9}, Noise.of(1, 4))  # a time by part
    alone = process.noise(x0, 0.3, Noise.of(1, 4)), process.noise(x0, 0.9, Noise.of(1, 4))
    assert torch.equal(x["pos"], alone[0]["pos"]) and torch.equal(x["rot"], alone[1]["rot"])


def test_geodesic_motion_needs_a_flow() -> None:
    with pytest.raises(GendiffError, match="flow schedule"):
        Geodesic(SO3(), Cosine())
    Geodesic(SO3(), Shifted(Exponential(), 2.0))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_noised_data_have_mean_alpha_x0_and_deviation_sigma(schedule: Any) -> None:
    n, process = 4000, Gaussian(schedule)
    x0 = torch.tensor([2.0, -1.0], dtype=F64).expand(n, 2)
    for t in (0.2, 0.7, 1.0):
        alpha, sigma = schedule(t)
        x = process.noise(x0, t, Noise.of(0, n))
        assert float((x.mean(0) - alpha * x0[0]).abs().max()) < 4.5 * sigma / n**0.5
        assert float((x.std(0) / sigma - 1).abs().max()) < 4.5 / (2 * n) ** 0.5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_renoising_gives_the_law_of_the_later_time(schedule: Any) -> None:
    n, process = 20000, Gaussian(schedule)
    x0 = torch.full((n, 1), 1.5, dtype=F64)
    for t, s in [(0.1, 0.6), (0.0, 0.4), (0.4, 1.0)]:
        alpha, sigma = schedule(s)
        x = process.renoise(process.noise(x0, t, Noise.of(0, n)), t, s, Noise.of(1, n))
        assert abs(float(x.mean()) - 1.5 * alpha) < 4.5 * sigma / n**0.5
        assert abs(float(x.std()) / sigma - 1) < 4.5 / (2 * n) ** 0.5


def test_renoising_to_the_end_of_a_compact_space_is_uniform_and_never_leaves_it() -> None:
    process, n = Geodesic(SO3()), 5000
    x0 = torch.eye(3, dtype=F64).expand(n, 3, 3)
    x = process.renoise(process.noise(x0, 0.3, Noise.of(0, n)), 0.3, 1.0, Noise.of(1, n))
    assert float(x.mean(0).abs().max()) < 4.5 * (1 / 3 / n) ** 0.5
    x = process.renoise(x0, 0.0, 0.5, Noise.of(1, n))
    assert distance(x, process.noise(x0, 0.5, Noise.of(1, n))) < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_step_keeps_the_marginal_at_any_churn(schedule: Any, share: float) -> None:
    """With the true x0 as target x_s has mean alpha_s x0 and deviation sigma_s, whatever the churn in [0, sigma_s]."""
    n, process, (t, s) = 20000, Gaussian(schedule), (0.8, 0.5)
    x0 = torch.full((n, 1), 1.5, dtype=F64)
    alpha, sigma = schedule(s)
    x = process.step(process.noise(x0, t, Noise.of(0, n)), x0, t, s, share * sigma, Noise.of(1, n))
    assert abs(float(x.mean()) - 1.5 * alpha) < 4.5 * sigma / n**0.5
    assert abs(float(x.std()) / sigma - 1) < 4.5 / (2 * n) ** 0.5


@pytest.mark.parametrize("schedule", [VP(), Cosine(), Linear(), EDM(), Discrete.linear()], ids=repr)
def test_posterior_is_the_deviation_of_the_reverse_transition(schedule: Any) -> None:
    """From Bayes' rule on q(x_s | x0) and q(x_t | x_s), both Gaussian."""
    for t, s in [(0.9, 0.6), (0.31, 0.3), (0.5, 0.01)]:
        (at, st), (as_, ss) = schedule(t), schedule(s)
        transition = st**2 - (at / as_ * ss) ** 2
        variance = 1 / (1 / ss**2 + (at / as_) ** 2 / transition)
        churn = posterior(Gaussian(schedule), t, s)
        assert churn == pytest.approx(variance**0.5, rel=1e-9)
        move = Gaussian(schedule).move(t, s, churn)
        assert move.keep == pytest.approx(variance * at / as_ / transition, rel=1e-9)
        assert move.pull == pytest.approx(variance * as_ / ss**2, rel=1e-9)
    assert posterior(Gaussian(schedule), 0.3, 0.0) == 0


@pytest.mark.parametrize("process", [Gaussian(VP()), Gaussian(EDM()), Gaussian(Linear()), Geodesic(Torus())], ids=repr)
@pytest.mark.parametrize("churn", [0.0, 0.1])
def test_times_by_sample_are_times_one_by_one(process: Process, churn: float) -> None:
    like = empty(3)
    noise, z = Noise.of(0, 4), Noise.of(1, 4)
    x0, x = process.space.random(like, noise.fork("0")), process.space.random(like, noise.fork("x"))
    t, s = torch.tensor([0.9, 0.7, 0.5, 1.0], dtype=F64), torch.tensor([0.6, 0.3, 0.45, 0.9], dtype=F64)
    many, noised = process.step(x, x0, t, s, churn, z), process.noise(x0, t, z)
    for i in range(4):
        one = slice(i, i + 1)
        alone = process.step(x[one], x0[one], float(t[i]), float(s[i]), churn, z.select(one))
        torch.testing.assert_close(many[one], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(noised[one], process.noise(x0[one], float(t[i]), z.select(one)), rtol=0, atol=1e-12)


def test_spread_scales_only_the_injected_noise() -> None:
    process, like = bundle()
    x, x0 = process.space.random(like, Noise.of(0, 4)), process.space.random(like, Noise.of(1, 4))
    churn = {"pos": 0.2, "rot": 0.0}
    warm, cold = process.move(0.8, 0.5, churn, 1.0), process.move(0.8, 0.5, churn, {"pos": 0.5, "rot": 1.0})
    assert cold["pos"].churn == 0.5 * warm["pos"].churn and cold["pos"].keep == warm["pos"].keep
    y = [process.take(x, x0, m, Noise.of(2, 4))["pos"] for m in (process.move(0.8, 0.5, churn, 0.0), cold, warm)]
    torch.testing.assert_close(y[1] - y[0], (y[2] - y[0]) / 2, rtol=1e-12, atol=1e-14)


def test_churn_without_a_source_of_noise_is_an_error() -> None:
    x = empty(2)
    with pytest.raises(GendiffError, match="no noise"):
        Gaussian(VP()).step(x, x, 0.8, 0.5, 0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_prior_is_the_law_at_the_noisy_end(schedule: Any) -> None:
    n = 10000
    x = Gaussian(schedule).prior(torch.empty(n, 1, dtype=F64), Noise.of(0, n))
    assert abs(float(x.std()) / schedule(1.0)[1] - 1) < 4.5 / (2 * n) ** 0.5


def test_masked_noise_and_prior_are_zero_where_nothing_is() -> None:
    process, like = bundle()
    process = process.masked(MASK)
    x = process.prior(like, Noise.of(0, 4))
    assert bool((x["pos"][~MASK] == 0).all()) and float(x["pos"].sum(1).abs().max()) < 1e-13
    assert torch.equal(x["rot"][~MASK], torch.eye(3, dtype=F64).expand_as(x["rot"][~MASK]))


@pytest.mark.parametrize("space", [SO3(), Sphere(), Torus()], ids=repr)
def test_zeros_at_padded_sites_never_become_nan(space: Space) -> None:
    """Batches are padded with zeros, which are no rotations and no unit vectors."""
    process = Geodesic(space).masked(MASK)
    like = empty(6, 3, 3) if isinstance(space, SO3) else empty(6, 3)
    x0 = torch.where(MASK.reshape(4, 6, *(1,) * (like.ndim - 2)), process.space.random(like, Noise.of(0, 4)), 0.0)
    for t in (0.0, 0.5, 1.0):
        assert bool(torch.isfinite(process.noise(x0, t, Noise.of(1, 4))).all()), t


def test_golden_noising_and_conversions(golden: Golden) -> None:
    g = golden("add_noise_v_conversions")
    process = Gaussian(Discrete.linear())
    t = Discrete.linear().index(g["timesteps"].double())
    torch.testing.assert_close(process.schedule(t)[0] ** 2, g["alphas_cumprod_t"], rtol=1e-11, atol=0)
    x = process.noised(g["x0"], g["eps"], t)
    torch.testing.assert_close(x, g["x_t"], rtol=1e-11, atol=1e-14)


def test_golden_flow_paths(golden: Golden) -> None:
    g = golden("flow_paths")
    t = 1 - g["t"]  # their time runs from noise to data
    for name, schedule in [("CondOT", Linear()), ("Cosine", Cosine())]:
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha, g[f"{name}__alpha"], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(sigma, g[f"{name}__sigma"], rtol=1e-9, atol=1e-10)
        x = Gaussian(schedule).noised(g["x_data"], g["x_noise"], t)
        torch.testing.assert_close(x, g[f"{name}__x_t"], rtol=1e-9, atol=1e-10)


def test_processes_are_equal_by_value_and_print_pasteably() -> None:
    scope = {k: v for k, v in globals().items() if isinstance(v, type)}
    for process in (Gaussian(EDM(50.0), Euclidean()), Geodesic(SO3(), Exponential(7.0)), bundle()[0]):
        assert eval(repr(process), scope) == process
        assert hash(eval(repr(process), scope)) == hash(process)
    with pytest.raises(GendiffError, match="no parts"):
        Joint()


def test_the_kit_finds_a_broken_process() -> None:
    class Tilted(Linear):
        def __call__(self, t: Any) -> tuple[Any, Any]:
            return 1 - t, t + 1e-3

    with pytest.raises(AssertionError, match="noise"):
        check_process(Gaussian(Tilted()), empty(3))

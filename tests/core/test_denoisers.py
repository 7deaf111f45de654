"""Heads: round trips everywhere, golden conversions, endpoints; denoisers: times, dtypes, masks; exact denoisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    EDM,
    SO3,
    VE,
    VP,
    X0,
    Centered,
    Cosine,
    Denoiser,
    Discrete,
    EDMHead,
    Eps,
    Euclidean,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Joint,
    Linear,
    Polynomial,
    Shifted,
    Sphere,
    Tangent,
    Torus,
    V,
    Velocity,
)
from gendiff.denoisers import Head, Mixture, Normal, default_head
from gendiff.errors import SamplerError
from gendiff.random import Noise
from gendiff.spaces import Space, map_state
from gendiff.testing import check_head

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64
SCHEDULES = [
    VP(),
    Cosine(),
    VE(),
    EDM(),
    Linear(),
    Exponential(2.0),
    Polynomial(),
    Shifted(Linear(), 3.0),
    Discrete.linear(),
    Discrete.linear().zero_terminal(),
]
FLAT = [Eps(), X0(), V(), Velocity(), EDMHead(), EDMHead(2.0)]
MASK = torch.arange(6)[None] < torch.tensor([6, 4, 2, 1])[:, None]


def close(a: Tensor, b: Tensor, rtol: float, atol: float) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("head", FLAT, ids=repr)
def test_flat_heads_invert_themselves(schedule: Any, head: Head) -> None:
    check_head(head, Gaussian(schedule), torch.empty(4, 3, 2))
    check_head(head, Gaussian(schedule, Centered()), torch.empty(4, 6, 3))


@pytest.mark.parametrize("schedule", [Linear(), Exponential(), Polynomial(0.7)], ids=repr)
@pytest.mark.parametrize(("space", "shape"), [(SO3(), (6, 3, 3)), (Torus(), (6, 2)), (Sphere(), (6, 3))], ids=repr)
def test_the_tangent_head_inverts_itself(schedule: Any, space: Space, shape: tuple[int, ...]) -> None:
    check_head(Tangent(), Geodesic(space, schedule), torch.empty(4, *shape))
    check_head(Tangent(), Geodesic(space, schedule).masked(MASK), torch.empty(4, *shape))


def test_bundles_have_a_head_by_part() -> None:
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential()))
    like = {"pos": torch.empty(4, 6, 3), "rot": torch.empty(4, 6, 3, 3)}
    check_head(Heads(pos=Velocity(), rot=Tangent()), process, like)
    assert default_head(process) == Heads(pos=Velocity(), rot=Tangent())
    assert default_head(Gaussian(EDM())) == EDMHead() and default_head(Gaussian(Cosine())) == Velocity()
    assert default_head(Geodesic(Torus())) == Tangent()


def test_each_head_is_what_its_name_says() -> None:
    x0, z = (Noise.of(0, 4).fork(s).normal((4, 3), F64) for s in ("x0", "z"))
    for schedule in SCHEDULES:
        process, t = Gaussian(schedule), 0.6
        alpha, sigma = schedule(t)
        x = process.noised(x0, z, t)
        close(Eps().raw(process, x, x0, t), z, 1e-9, 1e-9)
        close(X0().raw(process, x, x0, t), x0, 0, 0)
        close(Velocity().raw(process, x, x0, t), z - x0, 1e-10, 1e-10)
        close(V().raw(process, x, x0, t), alpha * z - sigma * x0, 1e-10, 1e-9)
        assert Eps().scale(process, t) == pytest.approx(sigma / alpha) and X0().scale(process, t) == 1
    process, d = Gaussian(EDM()), 0.5  # Karras et al. (2022), Table 1
    for t in (0.1, 0.5, 0.9):
        s = process.schedule(t)[1]
        x = process.noised(x0, z, t)
        skip, out, into = d * d / (s * s + d * d), s * d / (s * s + d * d) ** 0.5, 1 / (s * s + d * d) ** 0.5
        close(EDMHead(d).clean(process, x, z, t), skip * x + out * z, 1e-13, 0)
        seen, time = EDMHead(d).inputs(process, x, t)
        close(seen, into * x, 1e-13, 0)
        assert time == pytest.approx(float(torch.tensor(s).double().log() / 4))
        assert EDMHead(d).scale(process, t) == pytest.approx(out)


@pytest.mark.parametrize("head", FLAT, ids=repr)
def test_heads_take_floats_and_times_by_sample_alike(head: Head) -> None:
    out, x = Noise.of(0, 3).fork("o").normal((3, 2), F64), Noise.of(0, 3).normal((3, 2), F64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    for schedule in SCHEDULES:
        process = Gaussian(schedule)
        many, seen, scale = head.clean(process, x, out, t), head.inputs(process, x, t), head.scale(process, t)
        for i, u in enumerate(t.tolist()):
            close(many[i : i + 1], head.clean(process, x[i : i + 1], out[i : i + 1], u), 1e-10, 1e-12)
            close(seen[0][i : i + 1], head.inputs(process, x[i : i + 1], u)[0], 1e-12, 1e-14)
            assert float(torch.as_tensor(scale).expand(3)[i]) == pytest.approx(head.scale(process, u))
            assert float(seen[1][i]) == pytest.approx(head.inputs(process, x, u)[1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("head", FLAT, ids=repr)
def test_the_ends_of_the_path_are_ordinary_points(schedule: Any, head: Head) -> None:
    network = nn.Linear(2, 2).double()
    denoiser = Denoiser(Toy(network), head, Gaussian(schedule))
    x = Noise.of(0, 4).normal((4, 2), F64)
    if not isinstance(head, X0):
        close(denoiser(x, 0.0), x, 0, 1e-12)
    if isinstance(head, Eps) and schedule(1.0)[0] == 0:
        with pytest.raises(SamplerError, match="alpha = 0"):
            denoiser(x, 1.0)
    else:
        assert bool(torch.isfinite(denoiser(x, 1.0)).all())


class Toy(nn.Module):
    """Remembers what it was handed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any, t: Any, **cond: Any) -> Any:
        self.seen = x, t, cond
        return map_state(self.inner, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_times_reach_the_network_by_sample_and_never_below_single_precision(dtype: torch.dtype) -> None:
    """bfloat16 would leave 507 of 1000 times distinct."""
    network = Toy(nn.Linear(2, 2)).to(dtype)
    denoiser = Denoiser(network, Velocity(), Gaussian(Linear()))
    times = torch.arange(1, 1001, dtype=F64) / 1000
    x = torch.zeros(1000, 2)
    denoiser(x, times)
    assert network.seen[0].dtype == dtype
    assert network.seen[1].dtype == (F64 if dtype == F64 else torch.float32)
    assert len(network.seen[1].unique()) == 1000
    assert denoiser(x, 0.3).dtype == torch.float32 and network.seen[1].shape == (1000,)
    close(network.seen[1].double(), torch.full((1000,), 0.3, dtype=F64), 1e-6, 0)


def test_the_mask_reaches_the_space_and_the_network() -> None:
    network = Toy(nn.Linear(3, 3)).double()
    denoiser = Denoiser(network, Velocity(), Gaussian(Linear(), Centered()))
    x0 = denoiser(torch.randn(4, 6, 3, dtype=F64), 0.5, mask=MASK).detach()
    assert bool((x0[~MASK] == 0).all()) and float(x0.sum(1).abs().max()) < 1e-13
    assert torch.equal(network.seen[2]["mask"], MASK)


def test_golden_conversions(golden: Golden) -> None:
    g = golden("add_noise_v_conversions")
    process = Gaussian(Discrete.linear())
    t = Discrete.linear().index(g["timesteps"].double())
    x = g["x_t"]
    close(V().raw(process, x, g["x0"], t), g["v"], 1e-8, 1e-8)
    close(Eps().clean(process, x, g["eps"], t), g["x0_from_eps"], 0, 1e-8)
    close(V().clean(process, x, g["v"], t), g["x0_from_v"], 0, 1e-8)
    for head, source, to in [(V(), "v", Eps()), (X0(), "x0", Eps()), (Eps(), "eps", V()), (X0(), "x0", V())]:
        x0 = head.clean(process, x, g[source], t)
        name = f"{'eps' if isinstance(to, Eps) else 'v'}_from_{source}"
        close(to.raw(process, x, x0, t), g[name], 0, 1e-8)


def test_golden_flow_velocities(golden: Golden) -> None:
    g = golden("flow_paths")
    t, process = 1 - g["t"], Gaussian(Linear())
    x = g["CondOT__x_t"]
    # Their time runs the other way, so velocities change sign.
    close(Velocity().raw(process, x, g["x_data"], t), -g["CondOT__dx_t"], 1e-9, 1e-10)
    close(Velocity().raw(process, x, g["x_data"], t), -g["CondOT__v_from_data"], 1e-9, 1e-10)
    close(Velocity().clean(process, x, -g["CondOT__dx_t"], t), g["CondOT__data_from_v"], 1e-9, 1e-10)


def mixture(golden: Golden, process: Gaussian) -> Mixture:
    g = golden("mixture_denoiser")
    return Mixture(process, g["means"], float(g["std"]) ** 2, g["weights"])


def test_golden_exact_denoiser(golden: Golden) -> None:
    class Pair(Linear):
        """(alpha, sigma) given by hand."""

        def __init__(self, alpha: float, sigma: float) -> None:
            object.__setattr__(self, "pair", (alpha, sigma))

        def __call__(self, t: Any) -> tuple[Any, Any]:
            return self.pair  # type: ignore[attr-defined]

    g = golden("mixture_denoiser")
    for i, (alpha, sigma) in enumerate(g["alpha_sigma"].tolist()):
        oracle = mixture(golden, Gaussian(Pair(alpha, sigma)))
        close(oracle(g["x"], 0.5), g["x0_hat"][i], 1e-10, 1e-12)
        close(oracle.log_density(g["x"], 0.5), g["logp_xt"][i], 1e-10, 1e-12)
    g, oracle = golden("likelihood"), mixture(golden, Gaussian(VP()))
    close(oracle.log_density(g["x"]), g["logp_nats"], 1e-12, 0)


def test_exact_denoisers_are_posterior_means() -> None:
    """Against Bayes' rule on a grid, for a correlated mixture on every kind of schedule."""
    axes = torch.linalg.qr(torch.randn(2, 2, 2, dtype=F64)).Q
    means, variances = (
        torch.tensor([[1.0, 0.5], [-1.0, 0.0]], dtype=F64),
        torch.tensor([[0.3, 0.02], [0.1, 0.5]], dtype=F64),
    )
    weights = torch.tensor([0.3, 0.7], dtype=F64)
    u = torch.linspace(-6, 6, 601, dtype=F64)
    points = torch.cartesian_prod(u, u)
    for schedule in (VP(), EDM(), Linear()):
        oracle = Mixture(Gaussian(schedule), means, variances, weights, axes)
        density = oracle.log_density(points).exp()
        assert float(density.sum() * 0.02**2) == pytest.approx(1, abs=1e-9)
        t = schedule.unclock(0.7)
        alpha, sigma = schedule(t)
        x = torch.tensor([[0.3, -0.2]], dtype=F64)
        weight = density * torch.exp(-((x - alpha * points) ** 2).sum(1) / (2 * sigma**2))
        close(oracle(x, t)[0], (weight[:, None] * points).sum(0) / weight.sum(), 1e-9, 1e-10)


def test_exact_denoisers_at_the_ends() -> None:
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=F64)
    oracle = Normal(Gaussian(Linear()), torch.tensor([0.5, -1.0], dtype=F64), cov)
    x = torch.randn(5, 2, dtype=F64)
    close(oracle(x, 0.0), x, 0, 1e-12)
    close(oracle(x, 1.0), oracle.means.expand(5, 2), 0, 1e-12)
    drawn = oracle.draw(20000)
    assert float((torch.cov(drawn.T) - cov).abs().max()) < 5 * 2**0.5 / 20000**0.5
    reference = torch.distributions.MultivariateNormal(oracle.means[0], cov).log_prob(x)
    close(oracle.log_density(x), reference, 1e-10, 1e-12)


def test_the_kit_finds_a_broken_head() -> None:
    class Off(Velocity):
        def coefficients(self, alpha: Any, sigma: Any) -> tuple[Any, Any]:
            return 1 / (alpha + sigma), -sigma

        def raw(self, process: Any, x: Tensor, x0: Tensor, t: Any) -> Tensor:
            return Velocity().raw(process, x, x0, t)

    with pytest.raises(AssertionError, match="round trip"):
        check_head(Off(), Gaussian(VP(), Euclidean()), torch.empty(4, 2))

"""A guided denoiser is a denoiser in its derivatives too: every wrapper, every ordered pair, log p of posteriors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    APG,
    CFG,
    DPS,
    MMPS,
    SO3,
    TMPD,
    VP,
    Autoguidance,
    Average,
    CFGPlusPlus,
    CFGRescale,
    CFGZeroStar,
    ClassifierGuidance,
    Constrained,
    Denoiser,
    DiffPIR,
    Euler,
    FeynmanKac,
    Gaussian,
    Geodesic,
    GuidanceInterval,
    Guided,
    Heads,
    Joint,
    Likelihood,
    Linear,
    Matrix,
    Measurement,
    PiGDM,
    PosteriorMean,
    Rescheduled,
    Tangent,
    Velocity,
    log_likelihood,
    sample,
)
from gendiff.denoisers import Denoise, Normal, Prediction, for_samples, rows_of
from gendiff.errors import SamplerError
from gendiff.guidance import Method, steer
from gendiff.random import Noise
from gendiff.sampling.ode import EvenSteps
from gendiff.sampling.solvers import DDPM
from gendiff.spaces import State, map_state, tensors
from gendiff.testing import distance, randomised

F64 = torch.float64
N, D = 2, 4


class Net(nn.Module):
    """Smooth, and with a Jacobian far from symmetric: nothing may lean on its symmetry."""

    def __init__(self, sites: int = D) -> None:
        super().__init__()
        self.inner, self.outer, self.label = nn.Linear(sites, 8), nn.Linear(8, sites), nn.Embedding(3, 8)

    def forward(self, x: Tensor, t: Tensor, kind: Tensor, **cond: Any) -> Tensor:
        return self.outer(torch.tanh(self.inner(x) + self.label(kind) + t[:, None]))


def network(seed: int = 0) -> Denoiser:
    made = randomised(Net().double(), seed).requires_grad_(False)
    return Denoiser(made, Velocity(), Gaussian(Linear()))


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 2)}


def log_p(x: Tensor, t: Any, **cond: Any) -> Tensor:
    return torch.log_softmax(torch.sin(x), -1)[:, 0]


def squeezed(x0: Tensor, t: Any, **cond: Any) -> Tensor:
    return 2 * torch.tanh(x0 / 2)


OPERATOR = Matrix(torch.tensor([[1.0, -0.5, 0.3, 0.0], [0.2, 0.7, 0.0, -1.0]], dtype=F64))
Y = torch.tensor([[0.4, -0.3], [1.0, 0.2]], dtype=F64)
METHODS: tuple[Method, ...] = (MMPS(1), MMPS(2), TMPD(), PiGDM(), DiffPIR(2.0), DPS(0.7))
RULES: tuple[Any, ...] = (
    2.5,
    torch.tensor([0.5, 3.0], dtype=F64),
    APG(3.0, 0.5, 0.2),
    CFGZeroStar(2.0, still_above=4.0),
    CFGRescale(APG(4.0), 0.5),
    GuidanceInterval(CFG(3.0), 0.3, 3.0),
    CFGPlusPlus(CFG(0.6)),
)
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    **{f"Guided({rule!r})": lambda d, rule=rule: Guided(d, rule, without) for rule in RULES},
    **{str(m): lambda d, m=m: PosteriorMean(d, Measurement(OPERATOR, Y, 0.3, m)) for m in METHODS},
    "Autoguidance": lambda d: Autoguidance(d, Rescheduled(network(1), d.process.schedule), 1.8),
    "ClassifierGuidance": lambda d: ClassifierGuidance(d, log_p, 0.7),
    "ClassifierGuidance by sample": lambda d: ClassifierGuidance(d, log_p, torch.tensor([0.3, 1.1], dtype=F64)),
    "Constrained": lambda d: Constrained(d, squeezed),
    "Rescheduled": lambda d: Rescheduled(d, VP()),
}
COND = {"kind": torch.tensor([0, 1])}


def numbers(prediction: Any) -> Tensor:
    """Everything that a prediction holds, [N, ...]."""
    halves = [prediction.x0, prediction.back] if isinstance(prediction, Prediction) else [prediction]
    return torch.cat([part.flatten(1) for half in halves for part in tensors(half)], 1)


def check_gradient(denoiser: Any, t: Any, x: Tensor, cond: dict[str, Any]) -> None:
    """<w, D(x)> differentiated, against central differences of the values that are given without any gradient."""
    leaf = x.clone().requires_grad_()
    out = numbers(denoiser(leaf, t, **cond))
    w = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=F64)
    (gradient,) = torch.autograd.grad((w * out).sum(), leaf)
    # Five points a coordinate, so that the error is of fourth order in h; all of them as one batch of N 4 D samples.
    h, steps = 2e-4, torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=F64)
    moves = h * steps[:, None, None] * torch.eye(x[0].numel(), dtype=F64)  # [4, D, D]
    many = (x[:, None, None] + moves.reshape(4, -1, *x.shape[1:])).flatten(0, 2)
    rows = torch.arange(len(x)).repeat_interleave(4 * x[0].numel())
    with torch.no_grad():
        assert distance(numbers(denoiser(x, t, **cond)), out.detach()) < 1e-12
        values = numbers(for_samples(denoiser, rows)(many, rows_of(t, rows), **rows_of(cond, rows)))
    below2, below, above, above2 = (w[rows] * values).sum(1).reshape(len(x), 4, -1).unbind(1)
    found = ((below2 - 8 * below + 8 * above - above2) / (12 * h)).reshape(x.shape)
    assert float(gradient.abs().max()) > 1e-2
    assert distance(gradient, found) < 1e-6 * max(1.0, float(found.abs().max()))


def point() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=F64)


@pytest.mark.parametrize("t", [0.4, torch.tensor([0.3, 0.85], dtype=F64)], ids=["float", "tensor"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_has_the_gradient_of_its_values(name: str, t: Any) -> None:
    check_gradient(WRAPPERS[name](network()), t, point(), COND)


@pytest.mark.parametrize(("outer", "inner"), list(product(WRAPPERS, WRAPPERS)))
def test_every_ordered_pair_of_wrappers(outer: str, inner: str) -> None:
    """Methods inside methods are derivatives of derivatives; what belongs to a sample stays with it at every depth."""
    check_gradient(WRAPPERS[outer](WRAPPERS[inner](network())), 0.4, point(), COND)


def bodies() -> tuple[Denoiser, State]:
    process = Joint(pos=Gaussian(Linear()), rot=Geodesic(SO3()))

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.label = nn.Linear(12, 6), nn.Embedding(3, 6)

        def forward(self, x: State, t: Any, kind: Tensor) -> State:
            h = self.inner(torch.cat([x["pos"], x["rot"].flatten(-2)], -1)) + self.label(kind)[:, None]
            return dict(zip(("pos", "rot"), torch.tanh(h).split(3, -1), strict=True))

    made = Denoiser(randomised(Frames().double()).requires_grad_(False), Heads(pos=Velocity(), rot=Tangent()), process)
    like = {"pos": torch.empty(N, 3, 3, dtype=F64), "rot": torch.empty(N, 3, 3, 3, dtype=F64)}
    return made, process.prior(like, Noise.of(0, N))


@pytest.mark.parametrize("name", ["guided", "measured", "classified", "both"])
def test_gradients_flow_through_both_parts_of_a_bundle(name: str) -> None:
    denoiser, x = bodies()
    measured = Measurement(Average(3, (1,)), torch.zeros(1, 1, 3, dtype=F64), 0.2, MMPS(2), "pos")

    def log_p(x: State, t: Any, **cond: Any) -> Tensor:
        return torch.sin(x["pos"] * x["rot"][..., 0]).sum((1, 2))

    made: dict[str, Any] = {
        "guided": Guided(denoiser, APG(2.0), without),
        "measured": PosteriorMean(denoiser, measured),
        "classified": ClassifierGuidance(denoiser, log_p),
        "both": PosteriorMean(Guided(denoiser, 2.0, without), measured),
    }
    directions = map_state(
        lambda part: torch.randn(part.shape, generator=torch.Generator().manual_seed(2), dtype=F64), x
    )
    w = None

    def value(step: float) -> Tensor:
        nonlocal w
        moved = map_state(lambda part, v: part + step * v, x, directions)
        out = numbers(made[name](moved, 0.4, **COND))
        w = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=F64) if w is None else w
        return (w * out).sum()

    step = torch.zeros((), dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(step), step)  # type: ignore[arg-type]
    with torch.no_grad():
        h = 2e-4
        found = (value(-2 * h) - 8 * value(-h) + 8 * value(h) - value(2 * h)) / (12 * h)
    assert abs(float(slope - found)) < 1e-6 * max(1.0, abs(float(found)))


@pytest.mark.parametrize("name", [f"Guided({RULES[2]!r})", "MMPS(iterations=2)", "Autoguidance", "Constrained"])
def test_weights_get_their_gradients(name: str) -> None:
    """Training through a wrapper: the gradient of one weight, by differences; nothing else asks for one."""
    denoiser = network()
    weight = denoiser.network.get_parameter("outer.weight").requires_grad_()
    wrapped, x = WRAPPERS[name](denoiser), point()
    (gradient,) = torch.autograd.grad(numbers(wrapped(x, 0.4, **COND)).sum(), weight)
    with torch.no_grad():
        values = []
        for h in (-1e-5, 1e-5):
            weight[1, 2] += h
            values.append(float(numbers(wrapped(x, 0.4, **COND)).sum()))
            weight[1, 2] -= h
    assert float(gradient[1, 2]) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-5)


def test_nothing_is_kept_where_nothing_asks() -> None:
    """Whoever samples outside torch.no_grad with frozen weights holds no graph from step to step."""
    for name, make in WRAPPERS.items():
        out = make(network())(point(), 0.4, **COND)
        assert not numbers(out).requires_grad, name
    with torch.no_grad():
        for name, make in WRAPPERS.items():
            assert not numbers(make(network())(point().requires_grad_(), 0.4, **COND)).requires_grad, name


def exact() -> tuple[Normal, Tensor, Tensor]:
    """N(mean, C) in three dimensions: the oracle, C and the mean."""
    c = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, 0.2], [0.0, 0.2, 0.5]], dtype=F64)
    mean = torch.tensor([0.2, -0.4, 0.1], dtype=F64)
    return Normal(Gaussian(Linear()), mean, c), c, mean  # alpha is 0 at t = 1, so that p_1 is the prior exactly


def conditioned(rows: Tensor, y: Tensor, noise: float, c: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x given rows x + noise z = y, by Kalman's formulas."""
    gain = c @ rows.mT @ torch.linalg.inv(rows @ c @ rows.mT + noise**2 * torch.eye(len(rows), dtype=F64))
    return mean + gain @ (y - rows @ mean), c - gain @ rows @ c


ROWS, SEEN = torch.tensor([[1.0, -0.5, 0.3]], dtype=F64), torch.tensor([0.7], dtype=F64)
OTHER, ALSO = torch.tensor([[0.0, 1.0, 1.0]], dtype=F64), torch.tensor([-0.2], dtype=F64)


def classifier(oracle: Normal, c: Tensor, mean: Tensor) -> Callable[..., Tensor]:
    """log p(OTHER x0 + 0.5 z = ALSO | x_t), exactly."""

    def log_p(x: Tensor, t: Any, **cond: Any) -> Tensor:
        alpha, sigma = (v if isinstance(v, float) else v[:, None] for v in oracle.process.schedule(t))
        e, q = torch.linalg.eigh(c)
        kept = alpha * e / (alpha * alpha * e + sigma * sigma)  # [(B,) 3]
        x0 = mean + ((x - alpha * mean) @ q * kept) @ q.mT
        left = e * sigma * sigma / (alpha * alpha * e + sigma * sigma)
        s = (((OTHER @ q) ** 2) * left).sum(-1) + 0.25
        r = ALSO - (x0 @ OTHER.mT)[:, 0]
        return -0.5 * r * r / s - 0.5 * torch.log(2 * math.pi * s)

    return log_p


@pytest.mark.parametrize("which", ["measured", "classified", "measured of classified", "classified of measured"])
def test_log_likelihood_of_a_posterior_is_its_closed_form(which: str) -> None:
    oracle, c, mean = exact()
    measured = Measurement(Matrix(ROWS), SEEN[None], 0.4, MMPS(1))
    posterior = [(ROWS, SEEN, 0.4)] if which == "measured" else [(OTHER, ALSO, 0.5)]
    if which == "measured":
        denoiser: Denoise = PosteriorMean(oracle, measured)
    elif which == "classified":
        denoiser = ClassifierGuidance(oracle, classifier(oracle, c, mean))
    else:
        posterior = [(ROWS, SEEN, 0.4), (OTHER, ALSO, 0.5)]
        if which == "measured of classified":
            denoiser = PosteriorMean(ClassifierGuidance(oracle, classifier(oracle, c, mean)), measured)
        else:
            m, v = conditioned(ROWS, SEEN, 0.4, c, mean)
            denoiser = ClassifierGuidance(PosteriorMean(oracle, measured), classifier(oracle, v, m))
    for rows, y, noise in posterior:
        mean, c = conditioned(rows, y, noise, c, mean)
    x = torch.tensor([[0.3, 0.1, -0.2], [1.0, -0.5, 0.4]], dtype=F64)
    closed = torch.distributions.MultivariateNormal(mean, c).log_prob(x)
    solver = EvenSteps(16)
    found = log_likelihood(denoiser, x, solver=solver).log_p
    assert distance(found, closed) < 1e-5, (found, closed)
    if which == "measured of classified":
        with torch.inference_mode():
            again = log_likelihood(denoiser, x[:1], solver=EvenSteps(1)).log_p
        assert distance(again, log_likelihood(denoiser, x[:1], solver=EvenSteps(1)).log_p) < 1e-12


MODES = {"inference": torch.inference_mode, "no_grad": torch.no_grad, "grad": contextlib.nullcontext}


@pytest.mark.parametrize("name", [n for n in WRAPPERS if "Guided" not in n])
def test_inference_mode_gives_the_same_samples(name: str) -> None:
    """Everything but the network is made inside the mode: states, conditions, measurements, scales."""
    found, net = [], network()
    for mode in MODES.values():
        with mode():
            cond = {"kind": torch.tensor([0, 1])}
            inner = Guided(net, torch.tensor([2.0, 3.0], dtype=F64), without)
            measured = Measurement(Matrix(OPERATOR.rows.clone()), Y.clone(), 0.3)
            wrapped = WRAPPERS[name](PosteriorMean(inner, measured))
            like = torch.zeros(N, D, dtype=F64)
            found.append(sample(wrapped, like, solver=Euler(3), noise=Noise.of(0, N), cond=cond))
    assert distance(found[0], found[1]) < 1e-12 and distance(found[0], found[2]) < 1e-12
    again = WRAPPERS[name](network())(found[0], 0.4, **COND)  # a tensor of the mode, used outside
    assert distance(numbers(again), numbers(WRAPPERS[name](network())(found[0].clone(), 0.4, **COND))) < 1e-12


def test_particles_follow_the_gradient_of_a_measured_and_guided_denoiser() -> None:
    """Feynman-Kac by likelihood over a posterior mean: once more a posterior, and the same in inference mode."""
    oracle, c, mean = exact()
    inner = PosteriorMean(oracle, Measurement(Matrix(ROWS), SEEN[None], 0.4))
    potential = Likelihood(Measurement(Matrix(OTHER), ALSO[None], 0.5))
    for rows, y, noise in ((ROWS, SEEN, 0.4), (OTHER, ALSO, 0.5)):
        mean, c = conditioned(rows, y, noise, c, mean)
    like, b = torch.empty(100, 3, dtype=F64), 100
    found = steer(inner, like, potential, solver=DDPM(30), noise=Noise.of(0, b), particles=16)
    means = found.mean()
    assert bool(((means.mean(0) - mean).abs() < 4 * means.std(0) / b**0.5 + 0.03).all()), (means.mean(0), mean)
    with torch.inference_mode():
        again = sample(inner, like[:3], solver=FeynmanKac(DDPM(4), potential, 4), noise=Noise.of(0, 3))
    assert distance(again, sample(inner, like[:3], solver=FeynmanKac(DDPM(4), potential, 4), noise=Noise.of(0, 3))) == 0


def test_a_denoiser_without_a_graph_is_refused() -> None:
    class Frozen:
        process = Gaussian(Linear())

        def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return torch.tanh(x).detach()

    with pytest.raises(SamplerError, match="does not depend on it"):
        PosteriorMean(Frozen(), Measurement(OPERATOR, Y))(point(), 0.4)
    with pytest.raises(SamplerError, match="2 samples"):
        ClassifierGuidance(network(), lambda x, t, **c: x[:, 0] - math.inf)(point(), 0.4, **COND)
    with pytest.raises(SamplerError, match="constrain returned 8 NaN"):
        Constrained(network(), lambda x0, t, **c: x0 * math.nan)(point(), 0.4, **COND)

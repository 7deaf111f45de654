"""Categories against enumerated distributions: marginals, posteriors, bounds, samples, and joints with numbers."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from gendiff import (
    DDIM,
    DDPM,
    RK4,
    VP,
    Absorbing,
    Adams,
    Categorical,
    Churn,
    Denoiser,
    DiscreteFlowMatching,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    Euler,
    Gaussian,
    Given,
    Guided,
    Heads,
    Heun,
    Joint,
    Linear,
    LinearGrid,
    Logits,
    LogSNRGrid,
    MarginalCategories,
    Midpoint,
    UniformCategories,
    Velocity,
    denoising_loss,
    elbo,
    vlb,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import default_head
from gendiff.errors import GendiffError, SamplerError
from gendiff.processes import Bridge, Categories, marginal_of
from gendiff.processes.schedules import Polynomial
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.solvers import AnnealedLangevin, EulerMaruyama, LogSNR, Points
from gendiff.spaces import map_state
from gendiff.testing import check_categories, distance, randomised
from tests.core.test_every_solver import DETERMINISTIC, STOCHASTIC

F64 = torch.float64
K, SITES = 3, 2
TABLE = torch.tensor([[4.0, 1.0, 0.2], [0.5, 3.0, 1.0], [2.0, 0.3, 0.6]], dtype=F64)
TABLE = TABLE / TABLE.sum()
WORDS = torch.tensor(list(itertools.product(range(K), repeat=SITES)))
P = TABLE[WORDS[:, 0], WORDS[:, 1]]
PROCESSES = [
    Absorbing(K),
    UniformCategories(K),
    UniformCategories(K, bridge=DiscreteFlowMatching()),
    Absorbing(K, Polynomial(2.0)),
    MarginalCategories(K, marginal=(0.6, 0.3, 0.1)),
    Absorbing(K, eta=1.0, below=0.7),
]
EXACT = [PROCESSES[0], PROCESSES[1], PROCESSES[4]]


class Enumerated:
    """The exact denoiser of a known distribution over words."""

    def __init__(self, process: Categories, words: Tensor = WORDS, p: Tensor = P) -> None:
        self.process, self.words, self.p = process, words, p

    def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        alpha = torch.as_tensor(self.process.schedule(t)[0], dtype=F64).expand(len(x))[:, None, None, None]
        pi, shown = self.process.pi(x), self.process.indicators(x)[:, None]
        true = self.process.indicators(self.words)[None]
        like = alpha * true + (1 - alpha) * pi  # q(x_t = . | word) [., words, sites, S]
        joint = self.p * (like * shown).sum(-1).prod(-1)
        joint = joint / joint.sum(-1, keepdim=True)
        return torch.einsum("bw,wsk->bsk", joint, true[0][..., : self.process.classes]).log()


def counts(x: Tensor) -> Tensor:
    return torch.bincount(x[:, 0] * K + x[:, 1], minlength=K * K).double()


def chi_square(found: Tensor, p: Tensor) -> float:
    """The chance of a worse fit."""
    expected = p * found.sum()
    return float(chi2.sf(float(((found - expected) ** 2 / expected).sum()), len(p) - 1))


def drawn(n: int, seed: int = 0) -> Tensor:
    cdf = P.cumsum(0)
    return WORDS[torch.searchsorted(cdf, Noise.of(seed, n).uniform((n,))).clamp_max(len(P) - 1)]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_noise_and_steps_have_their_marginals(process: Categories) -> None:
    n, t, s = 20000, 0.7, 0.4
    x0 = drawn(n)
    for x, at in (
        (process.noise(x0, t, Noise.of(1, n)), t),
        (process.renoise(process.noise(x0, s, Noise.of(1, n)), s, t, Noise.of(2, n)), t),
        (process.step(process.noise(x0, t, Noise.of(1, n)), x0, t, s, 0.0, Noise.of(2, n)), s),
        (process.step(process.noise(x0, t, Noise.of(1, n)), x0, t, s, 0.3, Noise.of(2, n)), s),
    ):
        alpha = process.schedule(at)[0]
        for k in range(K):
            some = x[x0[:, 1] == k][:, 1]
            p = alpha * process.indicators(torch.tensor([k]))[0] + (1 - alpha) * process.pi(x)
            found = torch.bincount(some, minlength=len(p)).double()
            assert chi_square(found[p > 0], p[p > 0]) > 1e-4 and float(found[p == 0].sum()) == 0
    assert torch.equal(process.noise(x0, 0.0, Noise.of(1, n)), x0)
    x1 = process.noise(x0, 1.0, Noise.of(1, n))
    assert torch.equal(process.step(x1, x0, 1.0, 0.0, 0.0, Noise.of(2, n)), x0)


@pytest.mark.parametrize("process", EXACT, ids=repr)
def test_the_posterior_is_bayes(process: Categories) -> None:
    """q(x_s | x_t) by enumeration of words and of x_s."""
    t, s = 0.6, 0.35
    denoiser, pi = Enumerated(process), process.pi(WORDS)
    (now, _), (then, _) = process.schedule(t), process.schedule(s)
    a, states = now / then, len(pi)
    eye = torch.eye(states, dtype=F64)
    step = a * eye + (1 - a) * pi  # q(x_t | x_s): rows x_s
    for x in itertools.product(range(states), repeat=SITES):
        shown = torch.tensor([x])
        found = process.reverse(shown, denoiser(shown, t), process.move(t, s))[0]
        found = found / found.sum(-1, keepdim=True)
        clean = [then * process.indicators(WORDS[:, i]) + (1 - then) * pi for i in range(SITES)]  # q(x_s | word)
        joint = torch.einsum("w,wi,wj->ij", P, clean[0], clean[1]) * step[:, x[0]][:, None] * step[:, x[1]][None]
        joint = joint / joint.sum()
        torch.testing.assert_close(found, torch.stack([joint.sum(1), joint.sum(0)]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("solver", [Euler(100), DDPM(100), DDIM(150, eta=0.6)], ids=repr)
def test_samples_have_the_enumerated_distribution(process: Categories, solver: Any) -> None:
    n = 3000
    x = sample(Enumerated(process), torch.empty(n, SITES, dtype=torch.int64), solver=solver, noise=Noise.of(3, n))
    assert x.dtype == torch.int64 and chi_square(counts(x), P) > 1e-4, counts(x) / n


OTHERS: list[Any] = [solver for solver in DETERMINISTIC + STOCHASTIC if not isinstance(solver, DDPM | EulerMaruyama)]
OTHERS = [replace(s, corrections=12) if isinstance(s, AnnealedLangevin) else s for s in OTHERS]


@pytest.mark.parametrize("process", PROCESSES[:2], ids=repr)
@pytest.mark.parametrize("solver", OTHERS, ids=repr)
def test_what_solvers_do_on_a_flow_leaves_categories_their_distribution(process: Categories, solver: Any) -> None:
    """Multistep and redone steps move classes by plain steps: none drawn anew with what it has already decided.

    Noise of one path is new in every step for uniform numbers too, and levels are begun at t = 1, where nothing shows.
    """
    n, divided = 2000, isinstance(solver, Heun | Midpoint | RK4 | DPMpp2S | Churn)
    solver = replace(solver, steps=40 if divided else 60, times=LinearGrid())
    x = sample(Enumerated(process), torch.empty(n, SITES, dtype=torch.int64), solver=solver, noise=Noise.of(3, n))
    assert chi_square(counts(x), P) > 1e-4, counts(x) / n


@dataclass(frozen=True)
class Hasty(Bridge):
    """Moves too seldom: the share of all time instead of what is left."""

    def __call__(self, shown: Tensor, p: Tensor, pi: Tensor, now: Any, then: Any) -> Tensor:
        share = then - now
        return share * p + (1 - share) * shown


def test_wrong_samplers_are_caught() -> None:
    """A wrong jump rate, sites drawn as if independent, and a redone jump that forgets the one made: all below 1e-4."""
    n, like = 5000, torch.empty(5000, SITES, dtype=torch.int64)

    class Forgetful(UniformCategories):
        def redone(self, move: Any, u: float, s: float, again: int) -> Any:
            return move

    independent = (TABLE.sum(1)[:, None] * TABLE.sum(0)).flatten()
    uniform = UniformCategories(K)
    for denoiser, solver in (
        (Enumerated(UniformCategories(K, bridge=Hasty())), Euler(100)),
        (Enumerated(uniform, p=independent), Euler(100)),
        (Enumerated(Forgetful(K)), Midpoint(40, LinearGrid())),
    ):
        x = sample(denoiser, like, solver=solver, noise=Noise.of(3, n))
        assert chi_square(counts(x), P) < 1e-4
    for solver in Euler(100), Midpoint(40, LinearGrid()):
        assert chi_square(counts(sample(Enumerated(uniform), like, solver=solver, noise=Noise.of(3, n))), P) > 1e-4


KINDS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
MEANS, VARIANCES = torch.tensor([-1.0, 0.4, 1.5], dtype=F64), torch.tensor([0.1, 0.4, 0.2], dtype=F64)


class KindAndPlace:
    """The exact denoiser of a class and a number N(mean, variance) of the class."""

    def __init__(self, kind: Categories) -> None:
        self.kind, self.pos = kind, Gaussian(Linear())
        self.process = Joint(kind=kind, pos=self.pos)

    def __call__(self, x: dict[str, Tensor], t: float, **cond: Any) -> dict[str, Tensor]:
        alpha, sigma = self.pos.schedule(t)
        keep, pi = self.kind.schedule(t)[0], self.kind.pi(x["kind"])
        seen = (self.kind.indicators(x["kind"])[:, 0, None] * (keep * torch.eye(K, len(pi)) + (1 - keep) * pi)).sum(-1)
        s = alpha**2 * VARIANCES + sigma**2
        place = -0.5 * (x["pos"] - alpha * MEANS) ** 2 / s - 0.5 * s.log()
        logs = torch.log_softmax(KINDS.log() + seen.log() + place, -1)
        x0 = logs.exp() * (MEANS + alpha * VARIANCES / s * (x["pos"] - alpha * MEANS))
        return {"kind": logs[:, None], "pos": x0.sum(-1, keepdim=True)}


@pytest.mark.parametrize("kind", [*PROCESSES[:3], PROCESSES[4]], ids=repr)
@pytest.mark.parametrize("solver", [DDPM(150), Heun(60), Adams(100), DPMpp2M(100), Midpoint(60)], ids=repr)
def test_a_joint_has_its_frequencies_and_the_moments_of_each_class(kind: Categories, solver: Any) -> None:
    n = 3000
    like = {"kind": torch.empty(n, 1, dtype=torch.int64), "pos": torch.empty(n, 1, dtype=F64)}
    x = sample(KindAndPlace(kind), like, solver=solver, noise=Noise.of(4, n))
    assert chi_square(torch.bincount(x["kind"][:, 0], minlength=K).double(), KINDS) > 1e-4
    for k in range(K):
        places = x["pos"][x["kind"] == k]
        error = 4 * float(VARIANCES[k] / len(places)) ** 0.5
        assert abs(float(places.mean() - MEANS[k])) < error + 0.02
        assert abs(float(places.var() / VARIANCES[k]) - 1) < 4 * (2 / len(places)) ** 0.5 + 0.05


def test_guided_samples_have_the_power_of_the_probabilities() -> None:
    """Independent sites: p^w q^(1 - w), normalised at each site, from masks in any number of steps."""
    process, n, w = Absorbing(K), 4000, 1.7
    full, free = (torch.softmax(Noise.of(i, 1).normal((1, SITES, K), F64), -1) for i in (0, 1))

    class Sites:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Tensor, t: float, *, kind: Tensor, **cond: Any) -> Tensor:
            return torch.where((kind == 1)[:, None, None], full, free).log()

    guided = Guided(Sites(), w, lambda cond: {"kind": torch.zeros_like(cond["kind"])})
    cond = {"kind": torch.ones(n, dtype=torch.int64)}
    x = sample(guided, torch.empty(n, SITES, dtype=torch.int64), solver=Euler(7), noise=Noise.of(0, n), cond=cond)
    power = full[0] ** w * free[0] ** (1 - w)
    power = power / power.sum(-1, keepdim=True)
    exact = (power[0][:, None] * power[1]).flatten()
    assert chi_square(counts(x), exact) > 1e-4
    assert chi_square(counts(x), (full[0, 0][:, None] * full[0, 1]).flatten()) < 1e-4


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_bound_is_log_p_at_the_exact_denoiser_and_below_it_elsewhere(process: Categories) -> None:
    many = 300
    x0 = WORDS.repeat(many, 1)
    noise = Noise.of(0, len(x0))
    bound = elbo(Enumerated(process), x0, noise, draws=8)
    mean = bound.log_p.reshape(many, -1).mean(0)
    error = bound.log_p.reshape(many, -1).std(0) / many**0.5
    assert bool(((mean - P.log()).abs() < 4 * error + 5e-3).all()), (mean, P.log(), error)
    worse = Enumerated(process, p=torch.full_like(P, 1 / len(P)))
    other = elbo(worse, x0, noise, draws=8).log_p.reshape(many, -1)
    assert float((P * other.mean(0)).sum()) < float((P * P.log()).sum())
    assert float((P * mean).sum()) == pytest.approx(
        float((P * P.log()).sum()), abs=4 * float(((P * error) ** 2).sum().sqrt())
    )
    assert bound.dim.tolist() == [2.0] * len(x0)
    coarse = vlb(Enumerated(process), x0, noise, grid=[1.0, 0.8, 0.6, 0.4, 0.2, 0.0]).log_p.reshape(many, -1).mean(0)
    assert float((P * coarse).sum()) < float((P * P.log()).sum()) + 0.02


def test_on_masks_the_error_is_the_weighted_cross_entropy() -> None:
    process, t = Absorbing(4), torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    x0 = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 2, 3]])
    x = process.noise(x0, t, Noise.of(0, 3))
    logs = process.carry(x, torch.log_softmax(Noise.of(1, 3).normal((3, 3, 4), F64), -1))
    cross = -(logs.gather(-1, x0[..., None])[..., 0] * (x == 4)).sum(1) / 3
    torch.testing.assert_close(process.error(x, logs, x0, t), cross)
    torch.testing.assert_close(process.rate(t), 1 / t)


class Toy(nn.Module):
    """Sees classes, numbers, the time and a label."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.label = nn.Embedding(K + 1, 8), nn.Embedding(3, 8)
        self.time, self.pos = nn.Linear(1, 8), nn.Linear(2, 8)
        self.out = nn.Linear(8, K + 2)

    def forward(self, x: dict[str, Tensor], t: Tensor, mask: Tensor, kind: Tensor) -> dict[str, Tensor]:
        h = self.embed(x["kind"]) + self.pos(x["pos"]) + (self.time(t[:, None]) + self.label(kind))[:, None]
        kinds, pos = self.out(torch.tanh(h)).split((K, 2), -1)
        return {"kind": kinds, "pos": pos}


def toy() -> Denoiser:
    process = Joint(kind=Absorbing(K, Polynomial(2.0)), pos=Gaussian(Linear()))
    head = default_head(process)
    assert head == Heads(kind=Logits(), pos=Velocity())
    return Denoiser(randomised(Toy().double()), head, process)


def batch(index: Tensor, length: int = 6) -> tuple[dict[str, Tensor], dict[str, Any]]:
    like = {
        "kind": torch.empty(len(index), length, dtype=torch.int64),
        "pos": torch.empty(len(index), length, 2, dtype=F64),
    }
    return like, {"mask": torch.arange(length)[None] < (3 + index % 4)[:, None], "kind": index % 2}


@pytest.mark.parametrize(
    "solver", [Euler(5), DDPM(5), DDIM(5, eta=0.5), Heun(4), Midpoint(4), Adams(5), DPMpp2M(5)], ids=repr
)
def test_joints_guidance_given_and_batches(solver: Any) -> None:
    """Classes beside numbers, guided, with known parts: sample i is bitwise its own, padding is still."""
    model = toy().requires_grad_(False)
    guided = Guided(model, {"kind": 2.0, "pos": 1.5}, lambda cond: {**cond, "kind": torch.full_like(cond["kind"], 2)})

    def draw(index: Tensor, length: int = 6) -> Any:
        like, cond = batch(index, length)
        x0 = {"kind": torch.ones_like(like["kind"]), "pos": torch.zeros_like(like["pos"])}
        keep = torch.arange(length)[None].expand(len(index), -1) < 1
        return sample(guided, like, solver=solver, noise=Noise(7, index), cond=cond, given=Given(x0, keep))

    whole = draw(torch.arange(12))
    for part in (torch.tensor([5]), torch.tensor([9, 2])):
        one = draw(part)
        assert torch.equal(one["kind"], whole["kind"][part])
        assert distance(one["pos"], whole["pos"][part]) < 1e-12
    assert torch.equal(draw(torch.arange(12), 9)["kind"][:, :6], whole["kind"])
    mask = batch(torch.arange(12))[1]["mask"]
    assert bool((whole["kind"][~mask] == 0).all()) and bool((whole["kind"][mask] < K).all())
    assert bool((whole["kind"][:, 0] == 1).all()) and bool((whole["pos"][:, 0] == 0).all())


def test_the_loss_of_a_joint_trains_every_part() -> None:
    model, index = toy(), torch.arange(8)
    like, cond = batch(index)
    x0 = map_state(torch.ones_like, like)
    x0 = {"kind": torch.where(cond["mask"], x0["kind"], 0), "pos": torch.where(cond["mask"][..., None], x0["pos"], 0)}
    t = torch.linspace(0.05, 1, 8, dtype=F64)
    losses = denoising_loss(model, x0, t, Noise.of(0, 8), **cond)
    losses["loss"].mean().backward()
    assert set(losses) == {"loss", "kind", "pos"} and bool(torch.isfinite(losses["loss"]).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    longer = {"kind": nn.functional.pad(x0["kind"], (0, 3)), "pos": nn.functional.pad(x0["pos"], (0, 0, 0, 3))}
    mask = nn.functional.pad(cond["mask"], (0, 3))
    again = denoising_loss(model, longer, t, Noise.of(0, 8), mask=mask, kind=cond["kind"])
    torch.testing.assert_close(again["loss"], losses["loss"])
    assert elbo(model, x0, Noise.of(0, 8), draws=2, cond=cond).log_p.shape == (8,)


def test_guidance_is_a_power_of_the_probabilities() -> None:
    space = Categorical(classes=4)
    a, b = (torch.softmax(Noise.of(i, 5).normal((5, 2, 4), F64), -1) for i in (0, 1))
    mixed = space.lerp(a.log(), b.log(), 2.5).exp()
    power = a**-1.5 * b**2.5
    torch.testing.assert_close(mixed, power / power.sum(-1, keepdim=True))
    sure = torch.tensor([[1, 3]])
    torch.testing.assert_close(space.exp(sure, space.log(sure, sure)).argmax(-1), sure)
    assert float(space.dist2(sure, sure)) == 0


def test_churn_masks_shown_classes_by_its_square() -> None:
    """Remasking: a shown class that the prediction confirms is masked with probability churn^2/sigma_s (ReMDM)."""
    process, s = Absorbing(3), 0.6
    x = torch.tensor([[0, 1, 2, 3]])
    certain = process.on.logs(torch.tensor([[0, 1, 2, 0]])).double()
    for churn in (0.1, 0.3, 0.6):
        p = process.reverse(x, certain, process.move(0.8, s, churn))
        p = p / p.sum(-1, keepdim=True)
        torch.testing.assert_close(p[0, :3, 3], torch.full((3,), churn**2 / s, dtype=F64))


def test_predictions_know_what_is_shown() -> None:
    process = Absorbing(3)
    x, logs = torch.tensor([[0, 3, 2]]), torch.log_softmax(torch.zeros(1, 3, 3, dtype=F64), -1)
    known = process.carry(x, logs).exp()
    eye = torch.eye(3, dtype=F64)
    torch.testing.assert_close(known, torch.stack([eye[0], torch.full((3,), 1 / 3, dtype=F64), eye[2]])[None])
    assert torch.equal(UniformCategories(3).carry(x.clamp_max(2), logs), logs)


@pytest.mark.parametrize("kind", [Absorbing, UniformCategories], ids=lambda kind: kind.__name__)
def test_no_noise_takes_the_likeliest_class_and_large_noise_is_none(kind: Any) -> None:
    """noise_scale 0 is the limit of a low temperature; DDPM's large variance is none for classes; -1 is refused."""
    process: Categories = kind(3)
    x = process.prior(torch.empty(400, 2, dtype=torch.int64), Noise.of(0, 400))
    logs = torch.log(torch.tensor([0.05, 0.05, 0.9], dtype=F64)).expand(400, 2, 3)
    drawn = process.take(x, logs, process.move(1.0, 0.0, 0.0, 0.0), Noise.of(1, 400))
    assert bool((drawn == 2).all())
    tie = torch.log(torch.tensor([0.45, 0.1, 0.45], dtype=F64)).expand(400, 2, 3)
    counts = torch.bincount(process.take(x, tie, process.move(1.0, 0.0, 0.0, 0.0), Noise.of(2, 400)).flatten())
    assert int(counts[1]) == 0 and abs(int(counts[0]) - 400) < 60
    small, large = (DDPM(10, large=large).rows(process) for large in (False, True))
    assert small == large
    cold = DDPM(10, noise_scale=0.5).rows(process)
    assert [row.move.temperature for row in cold] == [0.5] * 10
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(GendiffError, match="noise_scale"):
            process.move(0.5, 0.2, 0.1, wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: DDIM(4, **k),
        lambda **k: DPMpp2M(4, **k),
        lambda **k: Adams(4, view=Points(LogSNR()), corrector=0, **k),
        lambda **k: DPMpp2S(4, **k),
        lambda **k: DPMpp3M(4, **k),
    ],
    ids=["DDIM", "DPMpp2M", "Adams", "DPMpp2S", "DPMpp3M"],
)
def test_settings_by_part(make: Any) -> None:
    """Each part gets its own eta and noise scale, as if it were alone; a name that is no part is refused."""
    parts = {"a": Gaussian(VP()), "kind": Absorbing(3)}
    joint, times = Joint(parts), LogSNRGrid(0.02, 20.0)
    eta, scale = {"a": 0.8, "kind": 0.0}, {"a": 0.5, "kind": 0.7}
    rows = make(eta=eta, noise_scale=scale, times=times).rows(joint)
    for name, part in parts.items():
        alone = make(eta=eta[name], noise_scale=scale[name], times=times).rows(part)
        ours = [row.move[name] for row in rows]
        if name == "a":  # the first part decides where steps are divided
            assert ours == [row.move for row in alone]
        else:
            assert {move.temperature for move in ours} == {0.7} and {move.renew for move in ours} == {0.0}
    for wrong in ({"a": 1.0}, {"a": 1.0, "kind": 1.0, "knd": 1.0}, {"A": 1.0, "kind": 1.0}):
        for setting in ("eta", "noise_scale"):
            with pytest.raises(SamplerError, match="by part"):
                make(**{"eta": 0.5, setting: wrong}, times=times).rows(joint)
    with pytest.raises(SamplerError, match="no parts"):
        make(eta=eta, times=times).rows(parts["a"])


def test_ddpm_and_churned_bundles_by_part() -> None:
    joint = Joint(a=Gaussian(VP()), kind=UniformCategories(3))
    rows = DDPM(5, noise_scale={"a": 0.4, "kind": 0.0}, times=LinearGrid(1.0, 0.0)).rows(joint)
    plain = DDPM(5).rows(joint)
    for row, other in zip(rows, plain, strict=True):
        assert row.move["a"].churn == pytest.approx(0.4 * other.move["a"].churn)
        assert row.move["kind"].temperature == 0 and row.move["kind"].renew == other.move["kind"].renew
    churned = Churn(6, solver=Euler(), noise_scale={"a": 1.0, "kind": 0.5})
    like = {"a": torch.empty(4, 3, dtype=F64), "kind": torch.empty(4, 2, dtype=torch.int64)}
    x = joint.noise({"a": torch.zeros(4, 3, dtype=F64), "kind": like["kind"].fill_(1)}, 0.5, Noise.of(0, 4))
    whole = joint.renoise(x, 0.5, 0.6, Noise.of(1, 4), churned.noise_scale)
    alone = joint.parts["kind"].renoise(x["kind"], 0.5, 0.6, Noise.of(1, 4).fork("kind"), 0.5)
    assert torch.equal(whole["kind"], alone)


def test_a_low_temperature_takes_the_likeliest() -> None:
    process, n = Absorbing(K), 500
    logs = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log().expand(n, 1, K)
    x = torch.full((n, 1), K)
    sharp = process.take(x, logs, process.move(1.0, 0.0, 0.0, 0.05), Noise.of(0, n))
    assert bool((sharp == 0).all())
    assert (
        chi_square(
            torch.bincount(process.step(x, logs, 1.0, 0.0, 0.0, Noise.of(0, n))[:, 0]).double(), logs[0, 0].exp()
        )
        > 1e-4
    )


def test_configs_and_refusals() -> None:
    for process in PROCESSES:
        assert from_config(json.loads(json.dumps(to_config(process)))) == process
    with pytest.raises(GendiffError, match="flow schedule"):
        Absorbing(3, VP())
    with pytest.raises(GendiffError, match="continuous space"):
        Absorbing(3).drift(torch.zeros(1, 1), torch.zeros(1, 1), 0.5)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_every_kind_keeps_the_laws_of_the_kit(process: Categories) -> None:
    check_categories(process, torch.zeros(4, 3, dtype=torch.int64))
    check_categories(process.masked(torch.tensor([[True, True, False]] * 4)), torch.zeros(4, 3, dtype=torch.int64))


def test_the_kit_catches_a_wrong_bridge_and_a_wrong_distribution() -> None:
    class Short(UniformCategories):
        def pi(self, like: Tensor) -> Tensor:
            return super().pi(like) * 0.9

    for wrong, law in ((UniformCategories(K, bridge=Hasty()), "stays on its path|reaches"), (Short(K), "sums to one")):
        with pytest.raises(AssertionError, match=law):
            check_categories(wrong, torch.zeros(4, 3, dtype=torch.int64))


def test_marginals_are_counted_saved_and_checked() -> None:
    states = [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])]
    marginal = marginal_of(states, 3)
    assert sum(marginal) == 1 and marginal == pytest.approx((5 / 9, 2 / 9, 2 / 9), abs=1e-6)
    process = MarginalCategories(3, marginal=marginal)
    assert from_config(json.loads(json.dumps(to_config(process)))) == process
    x1 = process.prior(torch.zeros(4000, 2, dtype=torch.int64), Noise.of(0, 4000))
    assert chi_square(x1.flatten().bincount(minlength=3).double(), torch.tensor(marginal, dtype=F64)) > 1e-4
    for wrong in ((0.5, 0.5), (0.5, 0.4, 0.2), (-0.1, 0.6, 0.5)):
        with pytest.raises(GendiffError, match=r"marginal=.*3 probabilities that sum to one.*marginal_of"):
            MarginalCategories(3, marginal=wrong)


def test_classes_have_a_churn_of_their_own_where_a_sampler_says_none() -> None:
    """eta of the posterior's, once the chance of noise is at most `below`; what a sampler says goes before it."""
    joint = Joint(a=Gaussian(Linear()), kind=Absorbing(3, eta=1.0, below=0.5))
    for solver in (Euler(8, LinearGrid()), DDPM(8), DDIM(8), Adams(8, times=LinearGrid()), Heun(8, LinearGrid())):
        rows = [row for row in solver.rows(joint) if not row.redo]
        for row in rows:
            assert (row.move["kind"].renew > 0) == (row.s > 0 and row.t <= 0.5), (solver, row.t)
    full = DDIM(8, eta={"a": 0.0, "kind": 1.0}).rows(joint)
    own = DDIM(8).rows(joint)
    assert [r.move["kind"].renew for r in full[4:]] == pytest.approx([r.move["kind"].renew for r in own[4:]])
    assert all(row.move["kind"].renew == 0 for row in DDIM(8, eta=0.0).rows(joint))
    assert all(row.move["kind"].renew == 0 for row in DDPM(8).rows(Joint(a=Gaussian(), kind=Absorbing(3))))
    Adams(8, eta={"a": 0.0, "kind": 1.0}).rows(joint)
    with pytest.raises(SamplerError, match="classes alone"):
        Adams(8, eta={"a": 0.5, "kind": 1.0}).rows(joint)

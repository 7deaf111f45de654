"""The loop: a sample is its own whatever stands beside it, runs can be cut, ends are exact, moments are right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gendiff import (
    DDIM,
    DDPM,
    EDM,
    SO3,
    VP,
    Centered,
    Cosine,
    Denoiser,
    Discrete,
    DPMpp2M,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Given,
    Guided,
    Heads,
    Heun,
    Joint,
    Linear,
    LinearGrid,
    Tangent,
    UpAndDown,
    Velocity,
)
from gendiff.denoisers import Normal
from gendiff.random import Noise
from gendiff.sampling import Progress, run, sample, solvers
from gendiff.sampling import grids as times
from gendiff.sampling.solvers import Solver
from gendiff.spaces import State, map_state, tensors
from gendiff.testing import distance, randomised

F64 = torch.float64
SOLVERS: list[Solver] = [
    Euler(6),
    Heun(4),
    DPMpp2M(6),
    DDIM(6, eta=0.5),
    DDPM(6),
    DDPM(5, noise_scale=0.5, times=UpAndDown(LinearGrid(), length=2, repeats=2)),
]
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=F64)
MEAN = torch.tensor([0.7, -0.4], dtype=F64)


class Toy(nn.Module):
    """A network on frames that sees each site, the mean of the real sites, the time and a label."""

    def __init__(self) -> None:
        super().__init__()
        self.site, self.all = nn.Linear(12, 12), nn.Linear(12, 12)
        self.time, self.label, self.out = nn.Linear(1, 12), nn.Embedding(4, 12), nn.Linear(12, 6)

    def forward(self, x: State, t: Tensor, mask: Tensor, kind: Tensor) -> State:
        h = torch.cat([x["pos"], x["rot"].flatten(-2)], -1)
        real = mask[..., None]
        mean = torch.where(real, self.all(h), 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        h = torch.tanh(self.site(h) + mean + (self.time(t[:, None]) + self.label(kind))[:, None])
        return dict(zip(("pos", "rot"), self.out(h).split(3, -1), strict=True))


@pytest.fixture(scope="module")
def frames() -> Denoiser:
    process = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))
    network = randomised(Toy().double(), 3).requires_grad_(False)
    return Denoiser(network, Heads(pos=Velocity(), rot=Tangent()), process)


def request(index: Tensor, longest: int) -> tuple[State, dict[str, Tensor]]:
    """Templates and conditions of the samples `index`: lengths and kinds by index, padded to `longest`."""
    b = len(index)
    like = {"pos": torch.empty(b, longest, 3, dtype=F64), "rot": torch.empty(b, longest, 3, 3, dtype=F64)}
    return like, {"mask": torch.arange(longest)[None] < (3 + index % 6)[:, None], "kind": index % 3}


def without(cond: dict[str, Any]) -> dict[str, Any]:
    return {**cond, "kind": torch.full_like(cond["kind"], 3)}


def motif(index: Tensor, longest: int) -> Given:
    """The first two sites of each sample, different in each."""
    noise = Noise(99, index)
    x0 = {
        "pos": noise.normal((len(index), longest, 3), F64),
        "rot": SO3().random(torch.empty(len(index), longest, 3, 3, dtype=F64), noise.fork("rot")),
    }
    return Given(x0, (torch.arange(longest) < 2).expand(len(index), longest))


VARIANTS = ["plain", "guided", "given", "guided and given"]


def draw(frames: Denoiser, solver: Solver, index: Tensor, variant: str, longest: int = 8) -> State:
    like, cond = request(index, longest)
    denoiser: Any = Guided(frames, 1.8, without) if "guided" in variant else frames
    given = motif(index, longest) if "given" in variant else None
    return sample(denoiser, like, solver=solver, noise=Noise(5, index), cond=cond, given=given)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__ + type(s.times).__name__)
def test_one_sample_one_seed(frames: Denoiser, solver: Solver, variant: str) -> None:
    """Sample 5 is sample 5 in batches of 64, 7 and 1, and in any order."""
    whole = draw(frames, solver, torch.arange(64), variant)
    order = torch.randperm(64)
    shuffled = draw(frames, solver, order, variant)
    assert distance(shuffled, map_state(lambda p: p[order], whole)) < 1e-12
    for part in (torch.arange(14, 21), torch.tensor([5]), torch.tensor([63])):
        assert distance(draw(frames, solver, part, variant), map_state(lambda p: p[part], whole)) < 1e-12  # noqa: B023
    assert distance(whole, map_state(lambda p: p.roll(1, 0), whole)) > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__ + type(s.times).__name__)
def test_padding_changes_nothing(frames: Denoiser, solver: Solver, variant: str) -> None:
    index = torch.arange(7)
    short, long = draw(frames, solver, index, variant), draw(frames, solver, index, variant, longest=13)
    mask = request(index, 8)[1]["mask"]
    for a, b in zip(tensors(short), tensors(long), strict=True):
        assert float((a - b[:, :8])[mask].abs().max()) < 1e-10
    assert bool((long["pos"][:, 8:] == 0).all())
    assert float(short["pos"].sum(1).abs().max()) < 1e-12
    gram = short["rot"].mT @ short["rot"]
    assert float((gram - torch.eye(3, dtype=F64)).abs().max()) < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__ + type(s.times).__name__)
def test_a_run_may_be_cut_and_resumed(frames: Denoiser, solver: Solver, variant: str) -> None:
    index = torch.arange(5)
    like, cond = request(index, 8)
    denoiser: Any = Guided(frames, 1.8, without) if "guided" in variant else frames
    given, noise = motif(index, 8) if "given" in variant else None, Noise(5, index)
    process = frames.process.masked(cond["mask"])
    rows, start = solver.rows(process), process.prior(like, noise.fork("prior"))
    uncut = run(denoiser, process, rows, start, noise=noise, cond=cond, given=given)
    for k in [k + 1 for k, row in enumerate(rows[:-1]) if row.last]:
        seen: list[Progress] = []
        run(denoiser, process, rows[:k], start, noise=noise, cond=cond, given=given, callback=seen.append)
        cut = seen[-1]
        past = [] if cut.prediction is None else [cut.prediction]
        x = run(denoiser, process, rows, cut.state, noise=noise, cond=cond, given=given, first=k, past=past)
        assert distance(x, uncut) < 1e-12, k


def test_runs_share_nothing_and_draw_nothing_they_do_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Normal(Gaussian(VP()), MEAN, COVARIANCE)
    drawn: list[tuple[int, int]] = []
    original = Noise.normal

    def counting(self: Noise, shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn.append((self.stream, self.step))
        return original(self, shape, dtype)

    monkeypatch.setattr(Noise, "normal", counting)
    like = torch.empty(3, 2, dtype=F64)
    solver = Euler(5)
    a = sample(oracle, like, solver=solver, noise=Noise.of(0, 3))
    assert len(drawn) == 1  # the prior alone
    sample(oracle, like, solver=DDIM(5, eta=0.0), noise=Noise.of(0, 3))
    assert len(drawn) == 2
    sample(oracle, like, solver=DDPM(5), noise=Noise.of(0, 3))
    assert len(drawn) == 2 + 1 + 4 and len(set(drawn[2:])) == 5  # none in the last step, none twice
    assert torch.equal(a, sample(oracle, like, solver=solver, noise=Noise.of(0, 3)))


@pytest.mark.parametrize("schedule", [VP(), Cosine(), EDM(), Linear(), Discrete.linear().zero_terminal()], ids=repr)
@pytest.mark.parametrize("solver", SOLVERS[:5], ids=lambda s: type(s).__name__)
def test_every_solver_runs_from_end_to_end_of_every_schedule(schedule: Any, solver: Solver) -> None:
    """With alpha = 0 at the one end and sigma = 0 at the other; the last step is the prediction itself."""
    oracle, seen = Normal(Gaussian(schedule), MEAN, COVARIANCE), []
    x = sample(oracle, torch.empty(4, 2, dtype=F64), solver=solver, noise=Noise.of(0, 4), callback=seen.append)
    assert bool(torch.isfinite(x).all())
    torch.testing.assert_close(seen[-1].prediction, x, rtol=0, atol=1e-12)
    assert [p.number for p in seen] == list(range(seen[0].total)) and seen[-1].time == 0


def test_evaluations_are_counted() -> None:
    process = Gaussian(Linear())
    assert [s.evaluations(process) for s in (Euler(10), DPMpp2M(10), DDPM(10), Heun(10))] == [10, 10, 10, 19]


def test_solvers_are_values() -> None:
    for solver in SOLVERS:
        assert eval(repr(solver), vars(solvers) | vars(times)) == solver and replace(solver, steps=3).steps == 3  # type: ignore[type-var]

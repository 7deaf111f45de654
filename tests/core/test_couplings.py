"""Couplings: least cost by brute force, marginals kept, conditions and masks apart, the batch's order unimportant."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from gendiff import (
    DDIM,
    DDPM,
    EDM,
    SO3,
    VP,
    Absorbing,
    Centered,
    Churn,
    Denoiser,
    EquivariantOT,
    Euler,
    Exponential,
    Gaussian,
    Geodesic,
    Heun,
    Immiscible,
    Independent,
    Joint,
    KabschAligned,
    Linear,
    LinearGrid,
    Model,
    Objective,
    OptimalTransport,
    Paired,
    Pairs,
    PowerGrid,
    Sinkhorn,
    Sphere,
    Torus,
    Velocity,
    denoising_loss,
    reflow,
    sample,
)
from gendiff.config import from_config, to_config
from gendiff.denoisers import Normal
from gendiff.errors import GendiffError, RequestWarning, SamplerError
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.spaces import State, map_state, uniform
from gendiff.testing import randomised
from gendiff.training import Coupling, Output, pairwise, turn
from gendiff.training.losses import noised
from gendiff_recipes.recipe import Recipe
from tests.core.test_site_kinds import Graphs

Golden = Callable[[str], dict[str, Tensor]]
F64 = torch.float64
FRAMES = Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3(), Exponential(3.0)))


def like(process: Process, n: int) -> State:
    """Something of the process's shape."""
    if isinstance(process, Joint):
        return {"pos": torch.empty(n, 5, 3, dtype=F64), "rot": torch.empty(n, 5, 3, 3, dtype=F64)}
    return torch.empty(n, 5, 3, 3, dtype=F64) if isinstance(process.space, SO3) else torch.empty(n, 5, 3, dtype=F64)


PROCESSES = [
    Gaussian(VP()),
    Gaussian(Linear(), Centered()),
    Geodesic(SO3()),
    Geodesic(Torus()),
    Geodesic(Sphere()),
    FRAMES,
]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_noise_is_the_path_to_its_endpoint(process: Process) -> None:
    x0, t = process.space.random(like(process, 4), Noise.of(1, 4)), torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=F64)
    for mask in (None, torch.arange(5)[None] < torch.tensor([5, 3, 2, 4])[:, None]):
        bound, noise = process.masked(mask), Noise.of(2, 4).fork("x")
        a, b = bound.noise(x0, t, noise), bound.noised(x0, bound.endpoint(x0, noise), t)
        map_state(lambda u, v: torch.testing.assert_close(u, v, rtol=0, atol=0), a, b)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_transport_is_the_best_permutation(process: Process) -> None:
    x0, z = (process.space.random(like(process, 6), Noise.of(seed, 6)) for seed in (1, 2))
    coupled = OptimalTransport()(process, x0, z, Noise.of(0, 6), {})
    cost = pairwise(process.space, x0, z)
    by_hand = torch.stack([process.space.dist2(x0, map_state(lambda p, k=k: p.roll(-k, 0), z)) for k in range(6)])
    for k in range(6):
        torch.testing.assert_close(cost[torch.arange(6), (torch.arange(6) + k) % 6], by_hand[k])
    best = min(sum(float(cost[i, j]) for i, j in enumerate(p)) for p in itertools.permutations(range(6)))
    assert float(process.space.dist2(x0, coupled).sum()) == pytest.approx(best)
    assert best <= float(process.space.dist2(x0, z).sum()) + 1e-9
    one = "pos" if isinstance(process, Joint) else None
    before, after = (z[one], coupled[one]) if one else (z, coupled)
    assert sorted(before.flatten(1).sum(1).tolist()) == sorted(after.flatten(1).sum(1).tolist())


def test_golden_plan_of_transport(golden: Golden) -> None:
    """The plan that linear programming finds between the golden sets, with uniform marginals."""
    g = golden("torchcfm_targets")
    noise, data, process = g["x0_noise"], g["x1_data"], Gaussian(Linear())
    n = len(data)
    cost = pairwise(process.space, data, noise)
    rows = torch.eye(n, dtype=F64).repeat_interleave(n, 1)
    columns = torch.eye(n, dtype=F64).repeat(1, n)
    plan = linprog(cost.flatten().numpy(), A_eq=torch.cat([rows, columns]).numpy(), b_eq=np.full(2 * n, 1 / n)).x
    expected = torch.as_tensor(plan).reshape(n, n) @ noise * n
    torch.testing.assert_close(
        OptimalTransport()(process, data, noise, Noise.of(0, n), {}), expected, rtol=1e-7, atol=1e-9
    )
    if "ot_exact_plan" in g:
        torch.testing.assert_close(torch.as_tensor(plan).reshape(n, n).T, g["ot_exact_plan"], rtol=1e-7, atol=1e-9)


BATCHED: list[Coupling] = [OptimalTransport(), Sinkhorn(), Sinkhorn(0.5, 20)]


@pytest.mark.parametrize("coupling", BATCHED, ids=repr)
def test_noise_never_crosses_conditions_or_masks(coupling: Coupling) -> None:
    n, process = 24, Gaussian(Linear())
    label = torch.arange(n) % 3
    length = 3 + (torch.arange(n) // 3) % 2
    mask = torch.arange(5)[None] < length[:, None]
    bound = process.masked(mask)
    x0, z = (bound.space.random(torch.empty(n, 5, 3, dtype=F64), Noise.of(seed, n)) for seed in (1, 2))
    got = coupling(bound, x0, z, Noise.of(3, n), {"label": label, "mask": mask, "scale": 2.0})
    source = (got[:, None] - z[None]).abs().flatten(2).sum(-1).argmin(1)
    assert torch.equal(got, z[source]) and not torch.equal(source, torch.arange(n))
    assert torch.equal(label[source], label) and torch.equal(length[source], length)
    # Alone, each condition is coupled as in the batch.
    for value in range(3):
        rows = (label == value) & (length == 3)
        sub = process.masked(mask[rows])
        noise = Noise.of(3, n).select(rows)
        alone = coupling(sub, x0[rows], z[rows], noise, {"label": label[rows], "mask": mask[rows]})
        torch.testing.assert_close(alone, got[rows], rtol=0, atol=0)


@pytest.mark.parametrize("coupling", BATCHED, ids=repr)
def test_samples_that_lack_a_property_are_coupled_among_themselves(coupling: Coupling) -> None:
    n, process = 24, Gaussian(Linear())
    x0, z = (Noise.of(seed, n).normal((n, 3), F64) for seed in (1, 2))
    number = (torch.arange(n) % 3).double()
    got = coupling(process, x0, z, Noise.of(3, n), {"a": number, "b": number[:, None].expand(n, 2)})
    number = torch.where(number == 2, torch.nan, number)
    missing = coupling(process, x0, z, Noise.of(3, n), {"a": number, "b": number[:, None].expand(n, 2)})
    torch.testing.assert_close(missing, got, rtol=0, atol=0)


@pytest.mark.parametrize("coupling", [*BATCHED, Independent(), Immiscible(), KabschAligned()], ids=repr)
def test_the_order_of_the_batch_changes_nothing(coupling: Coupling) -> None:
    n, process = 12, Gaussian(Linear(), Centered())
    x0, order = process.space.random(torch.empty(n, 5, 3, dtype=F64), Noise.of(1, n)), torch.randperm(n)
    noise, label = Noise.of(2, n), torch.arange(n) % 2
    z = process.endpoint(x0, noise)
    a = coupling(process, x0, z, noise, {"label": label})
    b = coupling(process, x0[order], z[order], noise.select(order), {"label": label[order]})
    torch.testing.assert_close(a[order], b, rtol=0, atol=1e-12)


def test_sinkhorn_has_its_marginals_and_tends_to_transport() -> None:
    n, process = 16, Gaussian(Linear())
    x0, z = Noise.of(1, n).normal((n, 2), F64), Noise.of(2, n).normal((n, 2), F64)
    cost, label = pairwise(process.space, x0, z), torch.arange(n) % 2
    plan = Sinkhorn(0.1, 300).log_plan(cost, {"label": label}).exp()
    ones = torch.ones(n, dtype=F64)
    torch.testing.assert_close(plan.sum(1), ones, rtol=1e-10, atol=0)
    torch.testing.assert_close(plan.sum(0), ones, rtol=1e-3, atol=0)
    assert float(plan[label[:, None] != label].abs().max()) == 0
    sharp = Sinkhorn(0.002, 5000)(process, x0, z, Noise.of(3, n), {})
    assert float(process.space.dist2(x0, sharp).mean()) == pytest.approx(
        float(process.space.dist2(x0, OptimalTransport()(process, x0, z, Noise.of(3, n), {})).mean()), rel=0.05
    )
    loose = Sinkhorn(1e3).log_plan(cost, {}).exp()
    torch.testing.assert_close(loose, torch.full_like(loose, 1 / n), rtol=0.02, atol=0)
    # Partners are drawn from the plan: over many seeds, as often as it says.
    plan, counts = Sinkhorn(0.3).log_plan(cost, {}).exp(), torch.zeros(n, n, dtype=F64)
    for seed in range(2000):
        got = Sinkhorn(0.3)(process, x0, z, Noise.of(seed, n), {})
        counts += (got[:, None] == z[None]).all(-1)
    assert float(((counts / 2000 - plan).abs() / (plan * (1 - plan) / 2000).sqrt().clamp_min(1e-3)).max()) < 5


def test_transport_keeps_the_marginal_of_the_noise() -> None:
    n, process = 512, Gaussian(Linear())
    x0 = 3 + Noise.of(1, n).normal((n, 2), F64)
    for coupling in (OptimalTransport(), Sinkhorn(0.1)):
        z = coupling(process, x0, Noise.of(2, n).normal((n, 2), F64), Noise.of(3, n), {})
        assert float(z.mean().abs()) < 0.1 and float(z.std()) == pytest.approx(1, abs=0.06)


def test_aligned_noise_lies_on_its_cloud_as_well_as_any_rotation_can() -> None:
    n, process = 6, Gaussian(Linear(), Centered())
    mask = torch.arange(9)[None] < torch.tensor([9, 7, 5, 4, 3, 8])[:, None]
    bound = process.masked(mask)
    x0, z = (bound.space.random(torch.empty(n, 9, 3, dtype=F64), Noise.of(seed, n)) for seed in (1, 2))
    got = KabschAligned()(bound, x0, z, Noise.of(0, n), {})
    r = turn(z, x0)
    torch.testing.assert_close(r.mT @ r, torch.eye(3, dtype=F64).expand(n, 3, 3))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(n, dtype=F64))
    least = bound.space.dist2(x0, got)
    for seed in range(200):
        other = z @ uniform((n,), Noise.of(seed, n), F64)
        assert bool((bound.space.dist2(x0, other) >= least - 1e-9).all())
    assert float(got[~mask].abs().max()) == 0
    torch.testing.assert_close(bound.space.norm2(x0, got), bound.space.norm2(x0, z))
    # A turned cloud is found again, and the pose of the noise stops mattering.
    q = uniform((n,), Noise.of(7, n), F64)
    torch.testing.assert_close(KabschAligned()(bound, x0, x0 @ q, Noise.of(0, n), {}), x0)
    torch.testing.assert_close(KabschAligned()(bound, x0, z @ q, Noise.of(0, n), {}), got)
    frames = FRAMES.masked(mask)
    a = {
        "pos": x0,
        "rot": frames.space.random({"pos": x0, "rot": torch.empty(n, 9, 3, 3, dtype=F64)}, Noise.of(3, n))["rot"],
    }
    b = {"pos": z, "rot": a["rot"]}
    both = KabschAligned()(frames, a, b, Noise.of(0, n), {})
    torch.testing.assert_close(both["pos"], got)
    assert both["rot"] is b["rot"]


def test_immiscible_noise_is_the_nearest_of_its_draws_whatever_the_batch() -> None:
    n, process = 400, Gaussian(Linear())
    x0, noise = 2 * Noise.of(1, n).normal((n, 3), F64), Noise.of(2, n).fork("forward")
    z = process.endpoint(x0, noise)
    got = Immiscible(4)(process, x0, z, noise, {})
    draws = torch.stack([z, *(process.endpoint(x0, noise.fork(f"candidate {k}")) for k in (1, 2, 3))])
    nearest = (draws - x0).square().sum(-1).argmin(0)
    assert torch.equal(got, draws[nearest, torch.arange(n)]) and len(nearest.unique()) == 4
    some = Immiscible(4)(process, x0[5:9], z[5:9], noise.select(slice(5, 9)), {})
    assert torch.equal(some, got[5:9])
    assert Immiscible(1)(process, x0, z, noise, {}) is z
    frames = FRAMES.space.random(like(FRAMES, 4), Noise.of(0, 4))
    far = FRAMES.endpoint(frames, Noise.of(1, 4))
    near = Immiscible(8)(FRAMES, frames, far, Noise.of(1, 4), {})
    assert bool((FRAMES.space.dist2(frames, near) <= FRAMES.space.dist2(frames, far)).all())


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.inner(x)


def test_the_loss_sees_the_coupled_noise() -> None:
    denoiser = Denoiser(randomised(Line().double()), Velocity(), Gaussian(Linear()))
    x0, t, noise = Noise.of(1, 8).normal((8, 2), F64), torch.linspace(0.1, 1, 8, dtype=F64), Noise.of(2, 8)
    plain = denoising_loss(denoiser, x0, t, noise)["loss"]
    z = denoiser.process.endpoint(x0, noise.fork("forward"))
    same = denoising_loss(denoiser, x0, t, noise, coupling=Paired(z))["loss"]
    torch.testing.assert_close(plain, same)
    coupled = OptimalTransport()(denoiser.process, x0, z, noise, {})
    x = denoiser.process.noised(x0, coupled, t)
    by_hand = (denoiser.network(x, t) - (coupled - x0)).square().mean(1)
    torch.testing.assert_close(denoising_loss(denoiser, x0, t, noise, coupling=OptimalTransport())["loss"], by_hand)
    objective = Objective(coupling=OptimalTransport())
    torch.testing.assert_close(denoising_loss(denoiser, x0, t, noise, objective=objective)["loss"], by_hand)
    assert from_config(json.loads(json.dumps(to_config(objective)))) == objective
    with pytest.raises(GendiffError, match="Paired"):
        denoising_loss(denoiser, x0[:4], t[:4], Noise.of(2, 4), coupling=Paired(z))


def test_entropy_is_in_units_of_the_cost_within_equal_conditions() -> None:
    """The plan of one group is what it is alone, whatever the scale of the others."""
    n, process = 12, Gaussian(Linear())
    x0, z = Noise.of(1, n).normal((n, 2), F64), Noise.of(2, n).normal((n, 2), F64)
    far = torch.arange(n) >= 6
    x0 = torch.where(far[:, None], 100 * x0, x0)
    plan = Sinkhorn(0.1).log_plan(pairwise(process.space, x0, z), {"label": far.long()}).exp()
    for rows in (slice(0, 6), slice(6, n)):
        alone = Sinkhorn(0.1).log_plan(pairwise(process.space, x0[rows], z[rows]), {}).exp()
        torch.testing.assert_close(plan[rows, rows], alone, rtol=1e-9, atol=1e-12)


def test_reflow_pairs_have_the_reference_noise_of_their_paths() -> None:
    """z is the end of the path before sigma(1) scales it: the state at t = 1 is `noised(x0, z, 1)`."""
    for schedule in (EDM(20.0), VP()):
        process = Gaussian(schedule)
        oracle = Normal(process, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
        like = torch.empty(500, 2, dtype=F64)
        solver = Heun(20, LinearGrid())
        z, x0 = reflow(oracle, like, solver=solver, noise=Noise.of(0, 500))
        assert float(z.std()) == pytest.approx(1, abs=0.1)
        start = process.schedule(1.0)[1] * z
        assert torch.equal(x0, sample(oracle, like, solver=solver, noise=Noise.of(0, 500), start=start))


def test_reflow_pairs_join_the_ends_of_trajectories() -> None:
    """On a Gaussian the flow is affine, so z and x0 are perfectly correlated; and x0 is what `sample` gives."""
    oracle = Normal(
        Gaussian(Linear()), torch.tensor([1.0, -2.0], dtype=F64), torch.diag(torch.tensor([0.25, 4.0], dtype=F64))
    )
    z, x0 = reflow(oracle, torch.empty(64, 2, dtype=F64), solver=Heun(60), noise=Noise.of(0, 64))
    assert torch.equal(x0, sample(oracle, torch.empty(64, 2, dtype=F64), solver=Heun(60), noise=Noise.of(0, 64)))
    exact = oracle.means[0] + oracle.variances[0].sqrt() * z  # monotone transport, axis by axis
    torch.testing.assert_close(x0, exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("grid", [PowerGrid(), LinearGrid(0.9)], ids=repr)
def test_reflow_refuses_grids_that_do_not_start_at_the_noise(grid: Any) -> None:
    """The line that it offers works."""
    oracle = Normal(Gaussian(VP()), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    like = torch.empty(4, 2, dtype=F64)
    with pytest.raises(SamplerError, match=r"starts at t = 0\.9.*Heun\(5, times=LinearGrid\(\)\)"):
        reflow(oracle, like, solver=Heun(5, grid), noise=Noise.of(0, 4))
    reflow(oracle, like, solver=Heun(5, times=LinearGrid()), noise=Noise.of(0, 4))


def test_points_are_assigned_as_well_as_any_permutation_can() -> None:
    """By brute force over permutations, under masks; then turned; parts that are no clouds stay as they are."""
    n, process = 5, Gaussian(Linear())
    mask = torch.arange(5)[None] < torch.tensor([5, 4, 2, 1, 5])[:, None]
    bound = process.masked(mask)
    x0, z = (bound.space.random(torch.empty(n, 5, 3, dtype=F64), Noise.of(seed, n)) for seed in (1, 2))
    got = EquivariantOT()(bound, x0, z, Noise.of(0, n), {})
    least = bound.space.dist2(x0, got)
    for k in range(n):
        real = int(mask[k].sum())
        costs = [(x0[k, :real] - z[k, list(order)]).square().sum() for order in itertools.permutations(range(real))]
        assert float(least[k]) == pytest.approx(float(torch.stack(costs).min()))
    torch.testing.assert_close(got.square().sum((1, 2)), z.square().sum((1, 2)))
    centred = Gaussian(Linear(), Centered()).masked(mask)
    x0, z = centred.space.project(x0), centred.space.project(z)
    nearer = centred.space.dist2(x0, EquivariantOT()(centred, x0, z, Noise.of(0, n), {}))
    turned = centred.space.dist2(x0, KabschAligned()(centred, x0, z, Noise.of(0, n), {}))
    twice = centred.space.dist2(x0, EquivariantOT(rounds=3)(centred, x0, z, Noise.of(0, n), {}))
    assert bool((nearer <= turned + 1e-9).all()) or float(nearer.sum()) < float(turned.sum())
    assert bool((twice <= nearer + 1e-9).all())
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = x0[:1]
    small = 1e-3 * Noise.of(8, 1).normal((1, 5, 3), F64)
    alike = EquivariantOT()(Gaussian(Linear()), whole, (whole + small)[:, order], Noise.of(0, 1), {})
    torch.testing.assert_close(alike, whole + small)


COUPLINGS = [OptimalTransport(), Sinkhorn(), Immiscible(3), KabschAligned(), EquivariantOT()]


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: type(c).__name__)
def test_classes_stay_independent_of_a_coupling_and_are_not_seen_by_it(coupling: Coupling) -> None:
    """Of a bundle with classes all else is coupled, as if the classes were not there; by part, that part alone."""
    joint = Joint(pos=Gaussian(Linear(), Centered()), kind=Absorbing(3), pair=Absorbing(4, sites=Pairs()))
    x0 = {
        "pos": joint.parts["pos"].space.random(torch.empty(6, 4, 3, dtype=F64), Noise.of(1, 6)),
        "kind": torch.randint(3, (6, 4)), "pair": torch.randint(4, (6, 6)),
    }  # fmt: skip
    t, noise = torch.linspace(0.2, 0.9, 6, dtype=F64), Noise.of(2, 6)
    plain = joint.noise(x0, t, noise)
    alone = noised(Joint(pos=joint.parts["pos"]), {"pos": x0["pos"]}, t, noise, coupling, {})["pos"]
    for said in (coupling, {"pos": coupling}):
        got = noised(joint, x0, t, noise, said, {})
        assert list(got) == list(x0)
        for name in ("kind", "pair"):
            assert torch.equal(got[name], plain[name])
        if said is coupling:
            torch.testing.assert_close(got["pos"], alone)
        assert not torch.equal(got["pos"], plain["pos"])
    with pytest.raises(GendiffError, match="no path to a given noise"):
        noised(joint.parts["kind"], x0["kind"], t, noise, coupling, {})


def test_noise_in_a_sampler_after_training_with_a_coupling_is_said() -> None:
    """Only of parts that were coupled, and never of classes; without a coupling, or noise, nothing is said."""
    untrained = Model.new(Graphs(), width=4)

    def asked(coupling: Any, sampler: Any) -> list[str]:
        recipe = {"objective": to_config(Objective(coupling=coupling))}
        model = Model(untrained.domain, untrained.denoiser, size=untrained.size, recipe=recipe)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.sample(2, sampler=sampler)
        return [str(w.message) for w in found if issubclass(w.category, RequestWarning)]

    calm = dict.fromkeys(("tie", "kind", "far"), 0.0)
    for coupling in ({"pos": KabschAligned()}, KabschAligned()):
        (said,) = asked(coupling, DDPM(2))
        assert said.startswith("DDPM draws noise of 'pos'") and "DDIM(50, eta=0.0)" in said and "'kind'" not in said
        assert len(asked(coupling, Churn(8, solver=Euler()))) == 1
        assert asked(coupling, Euler(2)) == []
    assert asked({"pos": KabschAligned()}, DDIM(3, eta={**calm, "pos": 0.5})) != []
    assert asked({"pos": KabschAligned()}, DDIM(3, eta={**calm, "pos": 0.0, "far": 1.0, "tie": 1.0})) == []
    assert asked(Independent(), DDPM(2)) == [] and asked({"far": Independent()}, DDPM(2)) == []


def test_a_recipe_refuses_a_setting_for_a_part_that_there_is_not() -> None:
    settings: list[dict[str, Any]] = [
        {"coupling": {"poss": KabschAligned()}}, {"weighting": {"poss": Output()}}, {"parts": {"poss": 1}},
    ]  # fmt: skip
    for setting in settings:
        with pytest.raises(GendiffError, match=r"no part 'poss'.*Did you mean \"pos\""):
            Recipe("graphs.wrong", Graphs(), objective=Objective(**setting))

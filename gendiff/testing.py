"""The kit with which a part is proved: one `check_` for each kind of part.

    check_space, check_process, check_schedule, check_head, check_weighting, check_rule, check_order, check_domain

Each raises AssertionError with what failed, on what, by how much; none needs pytest.

    from gendiff.testing import check_domain
    def test_mine(): check_domain(Torsions())
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from gendiff.conditions import Condition
from gendiff.config import from_config, to_config
from gendiff.denoisers import TOLD, Denoise, Denoiser, Head, clean, predict, rows_of
from gendiff.domain import Domain, Request, collate, crop
from gendiff.errors import RequestError
from gendiff.evaluation import Measure, measure_of
from gendiff.guidance import Rule
from gendiff.processes import Categories, Joint, Leaf, Process
from gendiff.processes.schedules import Schedule
from gendiff.random import Noise
from gendiff.sampling import sample
from gendiff.sampling.grids import Grid
from gendiff.sampling.solvers import Euler, Solver
from gendiff.spaces import Categorical, Product, Space, State, leaves, map_state, tensors
from gendiff.training import Weighting, denoising_loss, stratified


def distance(x: State, y: State) -> float:
    """The largest difference between two states, by entries."""
    return max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(tensors(x), tensors(y), strict=True))


def require(value: float, bound: float, what: str) -> None:
    """value <= bound, or an AssertionError that says by how much not."""
    assert value <= bound, f"{what}: {value:.3g}, allowed {bound:.3g}"


def rounding(x: State) -> float:
    """What another order of sums may change in numbers as large as those of x, in their precision; 0 for classes."""
    real = [part for part in tensors(x) if part.is_floating_point() and part.numel()]
    return max((64 * torch.finfo(part.dtype).eps * (1 + float(part.abs().max())) for part in real), default=0.0)


def double(x: State) -> State:
    """The state in float64."""
    return map_state(lambda part: part.double() if part.is_floating_point() else part, x)


def check_space(space: Space, like: State, *, tolerance: float = 1e-9, seed: int = 0) -> None:
    """The laws of a space, in float64.

    exp(x, log(x, y)) = y; log(x, x) = 0; dist2 is symmetric and the squared norm of log; lerp ends at its ends and
    halves the distance (but of distributions over classes); mix of equal points is that point; projections are
    idempotent; noise belongs to its sample. Bundles with classes are tried part by part.

    Args:
        like: A batch of at least 2 states.
    """
    if isinstance(space, Product) and any(isinstance(part, Categorical) for part in space.parts.values()):
        for part, own in space.parts.items():
            check_space(own, like[part], tolerance=tolerance, seed=seed)
        return
    like = double(like)
    n = tensors(like)[0].shape[0]
    noise = Noise.of(seed, n)

    def point(word: str) -> State:
        """A point: noise, or a distribution over classes."""
        if not isinstance(space, Categorical):
            return space.random(like, noise.fork(word))
        return space.project(noise.fork(word).normal((*like.shape, space.classes), torch.float64))

    x, y = point("x"), point("y")
    name = repr(space)
    require(distance(space.project(x), x), tolerance, f"{name}: random points lie in the space")
    require(distance(space.project(space.project(x)), space.project(x)), tolerance, f"{name}: project is idempotent")
    require(distance(space.exp(x, space.log(x, y)), y), tolerance, f"{name}: exp(x, log(x, y)) = y")
    require(float(space.norm2(x, space.log(x, x)).max()), tolerance**2 + 1e-18, f"{name}: log(x, x) = 0")
    forth, back = space.dist2(x, y), space.dist2(y, x)
    require(float(((forth - back).abs() / (1 + forth)).max()), tolerance, f"{name}: dist2 is symmetric")
    require(distance(space.lerp(x, y, 0.0), x), tolerance, f"{name}: lerp(x, y, 0) = x")
    require(distance(space.lerp(x, y, 1.0), y), tolerance, f"{name}: lerp(x, y, 1) = y")
    half = space.dist2(x, space.lerp(x, y, 0.5))
    if not isinstance(space, Categorical):
        off = float(((half - forth / 4).abs() / (1 + forth)).max())
        require(off, tolerance, f"{name}: lerp at 1/2 halves the distance")
    require(distance(space.mix([x, x, x], (0.5, 0.8, -0.3)), x), tolerance, f"{name}: a mix of equal points")
    two = space.mix([x, y], (0.7, 0.3))
    require(distance(two, space.lerp(x, y, 0.3)), tolerance, f"{name}: a mix of two is lerp")
    rows = torch.arange(n - 1, -1, -1)
    bare = space.masked(None)
    again = bare.random(map_state(lambda part: part[rows], like), noise.fork("x").select(rows))
    flipped = map_state(lambda part: part[rows], again)
    own = bare.random(like, noise.fork("x"))
    require(distance(flipped, own), rounding(own), f"{name}: noise moved with the order of the batch")
    assert space.dim(like).shape == (n,), f"{name}: dim is one number a sample"


def check_process(process: Process, like: State, *, tolerance: float = 1e-8, seed: int = 0) -> None:
    """The laws of a process, in float64.

    noise(x0, 0) = x0; with the true x0 as target a step lands on the same path, and the step to 0 lands on x0; two
    half steps are one; clocks fall to 0. Of classes the same holds in distribution (`check_categories`); bundles with
    classes are tried part by part.
    """
    if isinstance(process, Joint) and any(isinstance(part, Categories) for part in process.parts.values()):
        for part, own in process.parts.items():
            check_process(own, like[part], tolerance=tolerance, seed=seed)
        return
    if isinstance(process, Categories):
        check_categories(process, like, tolerance=tolerance, seed=seed)
        return
    like = double(like)
    noise = Noise.of(seed, tensors(like)[0].shape[0])
    space, name = process.space, repr(process)
    x0 = space.random(like, noise.fork("x0"))
    require(distance(process.noise(x0, 0.0, noise), x0), tolerance, f"{name}: noise(x0, 0) = x0")
    x = process.noise(x0, 0.7, noise)
    require(distance(process.step(x, x0, 0.7, 0.0), x0), tolerance, f"{name}: the step to 0 reaches its target")
    on_path = process.noise(x0, 0.3, noise)
    require(distance(process.step(x, x0, 0.7, 0.3), on_path), tolerance, f"{name}: a step to x0 stays on its path")
    half = process.step(process.step(x, x0, 0.7, 0.5), x0, 0.5, 0.3)
    require(distance(half, on_path), tolerance, f"{name}: two steps are one")
    grid = [i / 20 for i in range(20, -1, -1)]
    for clock in leaves(process.per_part(lambda leaf: [leaf.schedule.clock(t) for t in grid])):
        assert all(a > b for a, b in pairwise(clock)), f"{name}: the clock does not fall with t"
        assert clock[-1] == 0, f"{name}: the clock is {clock[-1]} at t = 0"


def check_categories(process: Categories, like: Tensor, *, tolerance: float = 1e-8, seed: int = 0) -> None:
    """The laws of a process on classes, by enumerating what one site may be, in float64.

    pi is a distribution; q(x_t | x0) = alpha delta + (1 - alpha) pi; a step t -> s with the true x0, with churn or
    without, takes it to q(x_s | x0); the bridge's KL and the error vanish at the truth and nowhere fall below 0;
    noise(x0, 0) = x0, and the step to 0 lands on x0; padded sites hold the class 0; clocks fall to 0.
    """
    noise, name, k = Noise.of(seed, len(like)), repr(process), process.classes
    x0 = process.space.random(like, noise.fork("x0"))
    for what, got in (
        ("noise(x0, 0) = x0", process.noise(x0, 0.0, noise)),
        ("the step to 0 reaches its target", process.step(process.noise(x0, 0.7, noise), x0, 0.7, 0.0, noise=noise)),
    ):
        require(distance(process.space.project(got), x0), 0, f"{name}: {what}")
    start = process.prior(like, noise)
    require(distance(process.space.project(start), start), 0, f"{name}: the prior lies in the space")
    bare: Categories = process.masked(None)
    pi = bare.pi(like)
    states, clean = torch.arange(len(pi)), torch.arange(k)
    require(abs(float(pi.sum()) - 1), tolerance, f"{name}: pi sums to one")
    shown = torch.eye(len(pi), dtype=torch.float64)

    def q(t: float) -> Tensor:
        alpha = bare.schedule(t)[0]
        return alpha * shown[:k] + (1 - alpha) * pi

    many = Noise.of(seed, 20000)
    counts = bare.noise(torch.zeros(20000, 1, dtype=torch.int64), 0.6, many).flatten().bincount(minlength=len(pi))
    require(float((counts / 20000 - q(0.6)[0]).abs().max()), 0.02, f"{name}: noise follows q(x_t | x0)")
    x, true = (part.reshape(-1, 1) for part in torch.meshgrid(states, clean, indexing="ij"))
    possible = (q(0.7).T > 0).reshape(-1)
    for churn in (0.0, 0.2):
        step = bare.reverse(x, true, bare.move(0.7, 0.4, churn))[:, 0]
        step = step / step.sum(-1, keepdim=True).clamp_min(1e-300)
        reached = (q(0.7).T[..., None] * step.reshape(len(pi), k, -1)).sum(0)
        require(float((reached - q(0.4)).abs().max()), tolerance, f"{name}: a step stays on its path (churn={churn})")
    guess = noise.fork("guess").select(slice(0, 1)).normal((1, k), torch.float64).log_softmax(-1).expand(len(x), 1, k)
    for t in (0.2, 0.7):
        for own, law in ((true, "vanishes at the truth"), (guess, "is not negative")):
            for what, value in (
                ("error", bare.error(x, own, true, torch.full((len(x),), t, dtype=torch.float64))),
                ("gap", bare.gap(x, own, true, t, t / 2)),
            ):
                value = value[possible]
                off = value.abs() if own is true else -value
                require(float(off.max()), 1e3 * tolerance, f"{name}: the {what} {law} at t={t}")
    clock = [bare.schedule.clock(i / 20) for i in range(20, -1, -1)]
    assert all(a > b for a, b in pairwise(clock)) and clock[-1] == 0, f"{name}: the clock does not fall to 0 with t"


def check_head(head: Head, process: Process, like: State, *, tolerance: float = 1e-8, seed: int = 0) -> None:
    """clean(raw(x0)) = x0 at times across [0, 1], in float64."""
    like = double(like)
    noise = Noise.of(seed, tensors(like)[0].shape[0])
    x0 = process.space.random(like, noise.fork("x0"))
    for t in (1e-3, 0.1, 0.5, 0.9, 0.999):
        x = process.noise(x0, t, noise)
        out = head.raw(process, x, x0, t)
        require(
            distance(head.clean(process, x, out, t), x0), tolerance, f"{head!r} on {process!r} at t={t}: round trip"
        )


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order of convergence: minus the slope of log error against log steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return float(-((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def check_order(
    solver: Solver,
    denoiser: Denoise,
    like: State,
    *,
    grid: Callable[[], Grid],
    steps: Sequence[int] = (16, 32, 64, 128),
    tolerance: float = 0.15,
    reference: Solver | None = None,
    start: State | None = None,
) -> float:
    """Measures a deterministic solver's order on a smooth denoiser, in float64, against a fine reference.

    Args:
        grid: Makes a grid that stays inside (0, 1), where the order is defined.
        reference: A fine solver on the same interval.

    Returns:
        The measured slope; raises AssertionError if it is further than `tolerance` from `solver.order`.
    """
    like = double(like)
    noise = Noise.of(0, tensors(like)[0].shape[0])
    fine = reference or replace(solver, steps=8 * max(steps), times=grid())  # type: ignore[type-var]
    truth = sample(denoiser, like, solver=fine, noise=noise, start=start)
    space = denoiser.process.space
    errors = []
    for n in steps:
        x = sample(denoiser, like, solver=replace(solver, steps=n, times=grid()), noise=noise, start=start)  # type: ignore[type-var]
        errors.append(float(space.dist2(x, truth).mean().sqrt()))
    found = slope(steps, errors)
    assert abs(found - solver.order) <= tolerance, (
        f"{solver!r} has order {found:.3f} on {denoiser.process!r}, claimed {solver.order}"
    )
    return found


def check_flow_map(denoiser: Denoise, like: State, *, seed: int = 0, **cond: Any) -> float:
    """Tries a flow map (`denoiser(x, t, to=s)`): at s = t nothing moves, whatever the network says.

    Returns:
        The semigroup error: how far one jump t -> s ends from two, t -> u -> s, root mean square over samples and
        times, relative to how far the jump goes. A number to report; a trained network has one.
    """
    process, n = denoiser.process.masked(cond.get("mask")), len(tensors(like)[0])
    noise, space = Noise.of(seed, n), process.space
    x1, off, far = process.prior(like, noise), 0.0, 0.0

    def jump(x: State, t: float, s: float) -> State:
        return process.step(x, predict(denoiser, process, x, t, {**cond, "to": s}), t, s)

    with torch.no_grad():
        for t, u, s in ((1.0, 0.6, 0.2), (1.0, 0.5, 0.0), (0.7, 0.3, 0.0)):
            x = x1 if t == 1 else jump(x1, 1.0, t)
            require(float(space.dist2(x, jump(x, t, t)).max()) ** 0.5, 1e-5, f"{denoiser!r}: a jump of no length moves")
            whole, two = jump(x, t, s), jump(jump(x, t, u), u, s)
            off += float(space.dist2(whole, two).mean())
            far += float(space.dist2(x, whole).mean())
    return (off / far) ** 0.5


def check_domain(
    domain: Domain, *, requests: Sequence[dict[str, Any]] = (), tolerance: float = 1e-3, seed: int = 0
) -> None:
    """Tries a domain through the whole contract, with an untrained network.

    Encode and decode round trip (on states: encode(decode(encode(a))) = encode(a)); states fit the space; config round
    trip; batching and padding; request, network, loss with gradients, sampling; sample i does not depend on its batch;
    a wrong keyword is a RequestError.

    Args:
        requests: Keywords to try `request` with; `preview` by default.
        tolerance: Of the round trip, relative to the state's size.
    """
    examples = domain.dataset("train")
    assert len(examples) >= 2, f"{domain!r}: the training set has {len(examples)} examples"
    domain = domain.fit(examples.artifacts[:64]).fit_conditions(examples)
    package = sys.modules[type(domain).__module__.partition(".")[0]]
    again = from_config(json.loads(json.dumps(to_config(domain))), package)
    assert again == domain, f"{domain!r}: its JSON gives {again!r}"

    states = [domain.encode(e.artifact) for e in examples[:8]]
    batch, mask = collate(states, domain.ragged, None, domain.process.space)
    process = domain.process.masked(mask)
    for state, back in zip(states, crop(batch, mask, process.space), strict=True):
        assert distance(state, back) == 0, f"{domain!r}: batching changed a state"
        size = max(float(p.abs().max()) for p in tensors(state) if p.numel()) + 1e-9
        twice = domain.encode(domain.decode(back))
        require(distance(twice, state) / size, tolerance, f"{domain!r}: encode(decode(x)) = x")
    check_space(process.space, batch)
    check_process(process, batch)

    network = randomised(domain.network(), seed).double()
    denoiser = Denoiser(network, domain.head, domain.process)
    n = len(states)
    for asked in requests or [domain.preview(n)]:
        request = domain.request(n, **asked)
        check_request(domain, denoiser, request, n, seed)
    own = domain.conditions
    sites = tuple(tensors(batch)[0].shape[1:]) if mask is None else (mask.shape[1],)
    first = domain.request(n, **(requests[0] if requests else domain.preview(n))).cond
    cond = {k: v for k, v in first.items() if k != "mask" and k not in own}
    for name, condition in own.items():
        cond[name] = condition.collate([condition.encode_example(e.cond.get(name)) for e in examples[:8]], sites)
    if mask is not None:
        cond["mask"] = mask
    t = stratified(n, Noise.of(seed, 1))
    losses = denoising_loss(denoiser, double(batch), t, Noise.of(seed, n), auxiliary=domain.losses, **cond)
    assert losses["loss"].shape == (n,) and bool(torch.isfinite(losses["loss"]).all()), (
        f"{domain!r}: loss {losses['loss']}"
    )
    losses["loss"].mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert not silent, f"{domain!r}: no gradient reaches {silent[:3]}"
    real = examples.artifacts[:48]
    for name, f in domain.metrics().items():
        measure = measure_of(name, f)
        if len(real) >= 2 * measure.least:
            check_measure(measure, real[: len(real) // 2], real[len(real) // 2 :])
    try:
        domain.request(n, **domain.preview(n), nonsense_keyword=1)
    except (RequestError, TypeError):
        return
    raise AssertionError(f"{domain!r}: request() took nonsense_keyword=1 without a word")


@torch.no_grad()
def check_request(domain: Domain, denoiser: Denoiser, request: Request, n: int, seed: int) -> None:
    """Samples a request whole and one by one: the same states, decodable."""
    like = double(request.like)
    assert tensors(like)[0].shape[0] == n, f"{domain!r}: request({n}) gave {tensors(like)[0].shape[0]} templates"
    whole = sample(denoiser, like, solver=Euler(3), noise=Noise.of(seed, n), cond=request.cond)
    for i in (0, n - 1):
        cond = rows_of(request.cond, slice(i, i + 1))
        part = sample(denoiser, row(like, i), solver=Euler(3), noise=Noise.of(seed, 1, i), cond=cond)
        require(distance(part, row(whole, i)), 1e-9, f"{domain!r}: sample {i} depends on its batch")
    for state in crop(
        map_state(lambda x: x.float() if x.is_floating_point() else x, whole),
        request.cond.get("mask"),
        denoiser.process.space,
    )[:2]:
        domain.decode(state)


@torch.no_grad()
def check_condition(condition: Condition, values: Sequence[Any], *, sites: tuple[int, ...] = (), seed: int = 0) -> None:
    """Tries a condition through its contract.

    Its JSON gives it back; its embedder gives what it `gives`; a batch says of each sample what a batch of one says,
    however padded; what is dropped is what is not asked, and dropping moves nothing else; a value of no kind is a
    RequestError.

    Args:
        values: Two or more values of single samples.
        sites: Of a state, for conditions of sites.
    """
    package = sys.modules[type(condition).__module__.partition(".")[0]]
    again = from_config(json.loads(json.dumps(to_config(condition))), package)
    assert again == condition, f"{condition!r}: its JSON gives {again!r}"
    embedder = randomised(condition.embedder(32), seed).double()

    def told(chosen: Sequence[Any], gone: Sequence[bool] = ()) -> list[dict[str, Tensor]]:
        batch = condition.collate([condition.encode(value) for value in chosen], sites)
        out = embedder(condition.drop(batch, torch.tensor(gone)) if gone else batch)
        rows = [{name: part[i] for name, part in out.items() if name in TOLD} for i in range(len(chosen))]
        real = [{**own, "tokens": own["tokens"][own["mask"]]} if "tokens" in own else own for own in rows]
        return [{name: part for name, part in own.items() if name != "mask"} for own in real]

    def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], law: str) -> None:
        for name, part in one.items():
            require(float((part - other[name]).abs().max()), 1e-10, f"{condition!r}: {law} ({name})")

    nothing, whole = told([None])[0], told([*values, None])
    assert set(nothing) == set(condition.gives), f"{condition!r}: gives {condition.gives}, its embedder {set(nothing)}"
    same(whole[-1], nothing, "nothing asked in a batch is nothing asked")
    same({k: v[0] for k, v in embedder(None).items() if k != "mask"}, nothing, "f(None) is nothing asked")
    for i, value in enumerate(values):
        same(whole[i], told([value])[0], f"value {i} depends on its batch")
        apart = max(float((part - nothing[k]).abs().max()) if part.shape == nothing[k].shape else 1.0
                    for k, part in whole[i].items())  # fmt: skip
        assert apart > 1e-6, f"{condition!r}: {value!r} says what nothing says"
    gone = [i % 2 == 0 for i in range(len(values))]
    for i, own in enumerate(told(values, gone)):
        same(own, nothing if gone[i] else whole[i], f"dropping {gone} changed value {i} otherwise")
    try:
        condition.encode(object())
    except RequestError:
        return
    raise AssertionError(f"{condition!r}: encode(object()) was taken without a word")


def check_measure(
    measure: Measure, samples: Sequence[Any], reference: Sequence[Any], *, tolerance: float = 1e-9
) -> None:
    """Tries a measure: each artifact is described by itself, order says nothing, descriptions suffice.

    Args:
        samples: Artifacts, at least `measure.least`.
        reference: Others.
        tolerance: Relative, of the number.
    """
    whole = float(measure(samples, reference))
    own, other = ([row for one in group for row in measure.features([one])] for group in (samples, reference))
    pieces = measure.estimate(own, () if measure.against == "nothing" else other, 0).value
    bound = tolerance * max(1.0, abs(whole))
    require(abs(pieces - whole), bound, f"{measure!r}: described one by one, or all at once")
    if measure.rows is None:  # rows may say which samples are beside which
        order = np.random.default_rng(0).permutation(len(samples))
        turned = float(measure([samples[i] for i in order], reference))
        require(abs(turned - whole), bound, f"{measure!r}: in another order")
    again = measure.estimate(own, other, 8)
    low, high = measure.within
    assert low <= again.low <= again.value <= again.high <= high, f"{measure!r}: {again} outside {measure.within}"


def row(x: State, i: int) -> State:
    """Sample i as a batch of one."""
    return map_state(lambda part: part[i : i + 1], x)


class Smooth:
    """A denoiser of any process, smooth in the state, the time and a condition "push" [B]: orders are measured on it.

    x0 = exp_x(sin(sin(x) W + 1.3 t + push + seen)/2) at every site, W fixed, `seen` a number [B] of all parts of x.
    """

    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        space, parts = self.process.masked(cond.get("mask")).space, tensors(x)
        phase = 1.3 * torch.as_tensor(t, dtype=torch.float64) + cond.get("push", 0.0)
        phase = phase + 0.1 * sum(torch.sin(part.flatten(1)[:, :3]).sum(1) for part in parts)

        def one(space: Space, x: Tensor) -> Tensor:
            sites = space.log(x, x)  # [B, *sites, d]
            u = torch.sin(x.flatten(sites.ndim - 1))
            wave = torch.sin(torch.linspace(0.3, 1.7, u.shape[-1] * sites.shape[-1], dtype=torch.float64))
            field = torch.sin(u @ wave.reshape(u.shape[-1], -1) + phase.reshape(-1, *(1,) * (u.ndim - 1)))
            return space.exp(x, space.tangent(x, 0.5 * field))

        x0 = space.each(lambda name, own: one(own, x[name])) if isinstance(space, Product) else one(space, x)
        return space.project(x0)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every weight drawn anew: zero-initialised layers would make many laws trivially true."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(
                torch.randn(p.shape, generator=generator) * (0.5 / max(p.shape[-1], 1) ** 0.5 if p.ndim > 1 else 0.1)
            )
    return network


class Recorded(Noise):
    """Noise read from an array, to repeat another program's run: draw k of any stream is given[k], [draws, B, ...]."""

    given: Tensor

    def __init__(self, given: Tensor, step: int = 0) -> None:
        super().__init__(0, torch.arange(given.shape[1]), 0, step)
        object.__setattr__(self, "given", given)

    def fork(self, name: str) -> Noise:
        return self

    def at(self, step: int) -> Noise:
        return Recorded(self.given, step)

    def normal(self, shape: Any, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.given[self.step].to(dtype)


class Plain(Noise):
    """Noise that is all ones: what sampling costs beside making random numbers."""

    def normal(self, shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(*shape, dtype=dtype, device=self.index.device)


class Costs(TorchDispatchMode):
    """Counts tensors as large as a state: `with torch.no_grad(), Costs(like) as costs: sample(...)`.

    Attributes:
        operations: How many operations gave one, in place or not; views are free.
        peak: The most that lived at one time of those made inside, in states.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.size = like.numel() * like.element_size()
        self.operations = 0
        self.peak = 0.0
        self.live = WeakIdKeyDictionary()  # a tensor made inside: where its memory is, and how much

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor) and x.numel() * x.element_size() >= self.size:
                self.operations += not func.is_view
                if not any(x is other for other in args):
                    storage = x.untyped_storage()
                    self.live[x] = (storage.data_ptr(), storage.nbytes())
        # Views share their memory.
        self.peak = max(self.peak, sum(dict(self.live.values()).values()) / self.size)
        return out


def check_schedule(schedule: Schedule, *, tolerance: float = 1e-8) -> None:
    """The laws of a schedule: sigma(0) is 0 or small, log-SNRs fall, `time` inverts them, floats equal tensors.

    Slopes are compared with central differences, to the square root of the tolerance.
    """
    name, inner = repr(schedule), [i / 64 for i in range(1, 64)]
    alpha, sigma = schedule(0.0)
    assert alpha > 0 and 0 <= sigma < 0.1 * alpha, (
        f"{name}: data stand at t = 0, which has (alpha, sigma) {(alpha, sigma)}"
    )
    levels = [schedule.logsnr(t) for t in inner]
    assert all(a > b for a, b in pairwise(levels)), f"{name}: the log-SNR does not fall"
    for t, level in zip(inner, levels, strict=True):
        require(abs(schedule.time(level) - t), tolerance, f"{name}: time(logsnr({t})) = {t}")
        h = 1e-6
        difference = [(b - a) / (2 * h) for a, b in zip(schedule(t - h), schedule(t + h), strict=True)]
        for slope_, near in zip(schedule.slopes(t), difference, strict=True):
            require(abs(slope_ - near) / (1 + abs(near)), tolerance**0.5, f"{name}: slopes at {t}")
    many = torch.tensor(inner, dtype=torch.float64)
    for index, values in enumerate(schedule(many)):
        single = torch.tensor([float(schedule(t)[index]) for t in inner], dtype=torch.float64)
        values = torch.as_tensor(values, dtype=torch.float64).expand(len(inner))
        require(distance(values, single), tolerance, f"{name}: tensors and floats agree")


def check_weighting(weighting: Weighting, process: Leaf, head: Head) -> None:
    """A weighting gives one finite, non-negative float64 number for each time."""
    t = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    w = weighting(process, head, t)
    name = repr(weighting)
    assert w.shape == t.shape and w.dtype == t.dtype, (
        f"{name} gave {tuple(w.shape)} {w.dtype} for {tuple(t.shape)} {t.dtype}"
    )
    assert bool(torch.isfinite(w).all()) and bool((w >= 0).all()), f"{name}: weights are finite and not negative: {w}"


def check_rule(rule: Rule, process: Process, like: State, *, tolerance: float = 1e-9, seed: int = 0) -> None:
    """The laws of a guidance rule, in float64.

    Two equal branches give that prediction; sample i does not depend on its batch; a time as a tensor [B] means the
    same as the float; gradients reach both branches.

    Args:
        like: A batch of at least 2 states.
    """
    like, name = double(like), repr(rule)
    n = tensors(like)[0].shape[0]
    noise = Noise.of(seed, n)
    space = process.space
    x, free, full = (space.random(like, noise.fork(part)) for part in ("x", "free", "full"))
    for t in (0.2, 0.7):
        same = clean(rule.join(process, x, full, full, t))
        require(float(space.dist2(same, full).max()), tolerance, f"{name}: equal branches give that prediction")
        joint = clean(rule.join(process, x, free, full, t))
        at = torch.full((n,), t, dtype=torch.float64)
        require(distance(clean(rule.join(process, x, free, full, at)), joint), tolerance, f"{name}: tensor times")
        for i in range(n):
            lone, free_i, full_i, expected = (map_state(lambda p: p[i : i + 1], s) for s in (x, free, full, joint))  # noqa: B023
            alone = clean(rule.join(process, lone, free_i, full_i, t))
            require(distance(alone, expected), tolerance, f"{name}: alone as in a batch")
        branches = [map_state(lambda p: p.detach().requires_grad_(), s) for s in (free, full)]
        out = clean(rule.join(process, x, branches[0], branches[1], t))
        sum(part.square().sum() for part in tensors(out)).backward()  # type: ignore[union-attr]
        for branch in branches:
            for part in tensors(branch):
                if part.grad is not None:
                    assert bool(torch.isfinite(part.grad).all()), f"{name}: gradients are finite"
        assert tensors(branches[1])[0].grad is not None, f"{name}: gradients reach the full branch"

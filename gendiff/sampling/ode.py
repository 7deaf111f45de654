r"""The probability flow of a denoiser, integrated with steps that fit each sample: for sampling and for log p.

With y = x/n a part's state in the frame where its flow is straight, k the clock of that frame and v its drift at the
prediction x0 (see `Leaf`),

    dy/du = (dlog k/du) v(y, x0, t)       v = y - x0 on R^n, -log_y(x0) on curved spaces

      R^n       n = alpha + sigma/scale   k = sigma/(scale alpha + sigma)
      curved    n = 1                     k = the schedule's clock

The variable is u = sigma/(scale alpha + sigma) of one part, the part whose noise ends last, so that every clock is
smooth in u at the clean end. It runs over [0, 1], ends included: u = 1 is pure noise, alpha = 0 or not, and a path that
begins at sigma = 80 costs no more than one that begins at infinity. The scale is about the spread of the data's finest
structure; it changes the cost and not the result. Evaluations per sample at rtol 1e-3 and 1e-6 on eight modes of width
0.1 from sigma = 80 (mean over 128; with step sizes not yet rounded, which leaves 26 and 77 of the last):

    in sigma 111, 221    in asinh(sigma/0.3) 54, 200    in u, scale 1: 29, 92    in u, scale 0.3: 30, 86

At u = 0 the rate is of the form 0/0, so the way below `least` is walked in one straight step by the rate at `least`:
from noise to the last prediction itself, at no cost; towards noise for one evaluation more. Its error is least^2,
against eps/least of rounding in the rate, which is not the same in every batch. (A rate frozen there inside the
Runge-Kutta step is of first order in least: it cost log p 1e-6.) Predictions must go to x as noise ends, as they do
from every head but X0; otherwise the rate has no limit and the steps shrink: let `times` end above 0.

A step is Dormand and Prince's pair of orders 5 and 4 (1980) in the normal chart at its start: k_i is the velocity at
exp_y(h sum_j a_ij k_j), carried back to y (`Space.carry`). Its last stage is the first of the next step: six
evaluations a step. The pair's difference, in units of atol + rtol |y| (|y| = 1 on curved spaces) and as a root mean
square over the sample's own degrees of freedom, is r; the step stands if r <= 1, and the next one is

    h <- h min(10, max(1/5, 0.9 r^(-7/50) r_before^(2/25)))        (Gustafsson's controller; Hairer & Wanner II, IV.2)

rounded to an eighth of an octave. Every sample has its own time, step, error and verdict, and rounding decides
none of them, so a sample is the same in every batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, Prediction, predict
from gendiff.errors import NOT_NEGATIVE, POSITIVE, SamplerError, at_least, check, refuse
from gendiff.processes import Joint, Leaf, Process
from gendiff.processes.schedules import Schedule, Time, maths
from gendiff.sampling.grids import Grid, LinearGrid, counted
from gendiff.sampling.loop import Callback, Draw, Loop, Progress
from gendiff.spaces import Product, Space, State, inner, leaves, map_state, per_sample, tensors

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""c_i and a_ij of the stages after the first; the last row is the step itself."""
DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""The rule of order 5 less that of order 4."""

SINGLE, DOUBLE = 1e-3, 2e-5
"""The share u below which the way is straight, in either precision."""


@dataclass(frozen=True)
class Stage:
    """What is known at one point of a path.

    Attributes:
        rate: dy/dtau, a tangent at y.
        traces: <e, D_e rate> along every direction e, [k, B].
        guess: The clean state that was predicted.
    """

    rate: State
    traces: Tensor
    guess: State


@dataclass(frozen=True)
class Arrival:
    """The end of a flow.

    Attributes:
        state: x there.
        traces: The integrals of the traces along every direction, [k, B].
        evaluations: How often the denoiser was needed, by sample, int64 [B].
    """

    state: State
    traces: Tensor
    evaluations: Tensor


class Flow:
    """The flow of a denoiser between two times, by the share tau in [0, 1] of u's way.

    Args:
        denoiser: Predicts the clean state.
        like: The shapes, dtype and device of the states.
        ends: The times at tau = 0 and 1.
        scale: That of u.
        cond: Conditions [B, ...], with "mask" for padded batches.
        directions: Arrays of tangent shape, along which to take traces.
    """

    def __init__(
        self,
        denoiser: Denoise,
        like: State,
        ends: tuple[float, float],
        scale: float,
        cond: dict[str, Any],
        directions: Sequence[State] = (),
    ) -> None:
        self.denoiser, self.ends, self.scale, self.cond, self.directions = denoiser, ends, scale, cond, directions
        self.process = denoiser.process.masked(cond.get("mask"))
        least = DOUBLE if tensors(like)[0].dtype == torch.float64 else SINGLE
        schedules = leaves(self.process.per_part(lambda leaf: leaf.schedule))
        self.lead: Schedule = min(schedules, key=lambda schedule: schedule.unshare(least, scale))
        start, stop = (self.lead.share(t, scale) for t in ends)
        self.first, self.last = max(start, least), max(stop, least)
        way = self.last - self.first
        self.before, self.after = (self.first - start) / way, (stop - self.last) / way

    def place(self, tau: Time) -> Time:
        """u at tau."""
        return maths(tau).clip(self.first + (self.last - self.first) * tau, 0.0, 1.0)

    def time(self, tau: Time) -> Time:
        """t at tau."""
        return self.lead.unshare(self.place(tau), self.scale)

    def rate(self, tau: Time, y: State) -> tuple[State, State]:
        """(dy/dtau, the prediction) at y; tau a number, or [B]."""
        u, space = self.place(tau), self.process.space
        t = self.lead.unshare(u, self.scale)
        guess = predict(
            self.denoiser, self.process, space.project(framed(self.process, y, t, self.scale, False)), t, self.cond
        )
        if isinstance(guess, Prediction):
            raise SamplerError(
                "A prediction in two parts came to the probability flow, and has none",
                "a denoiser whose prediction is one clean state, or a solver with a grid",
                "Guided(denoiser, scale), or sampler=Heun(18)",
            )
        lead = u * self.lead.pace(t, self.scale) / (self.last - self.first)  # du/dt per unit of tau
        paces = self.process.per_part(lambda leaf: leaf.pace(t, self.scale) / lead)
        return space.scale(drift(self.process, y, guess, t), paces), guess

    def stage(self, tau: Time, y: State) -> Stage:
        """The rate at y with its traces."""
        first = tensors(y)[0]
        if not self.directions:
            v, guess = self.rate(tau, y)
            return Stage(v, first.new_zeros(0, len(first)), guess)
        space, traces = self.process.space, []
        with torch.enable_grad():
            w = map_state(lambda e: torch.zeros_like(e, requires_grad=True), self.directions[0])
            v, guess = self.rate(tau, space.exp(y, w))
            for raw in self.directions:
                e = real(space, space.tangent(y, raw))
                slopes = torch.autograd.grad(inner(v, e).sum(), tensors(w), retain_graph=True)
                each = [inner(slope, part) for slope, part in zip(slopes, tensors(e), strict=True)]
                traces.append(torch.stack(each).sum(0))
        return Stage(map_state(Tensor.detach, v), torch.stack(traces), map_state(Tensor.detach, guess))

    def begin(self, x: State) -> tuple[State, Tensor, Stage, int]:
        """y at tau = 0 for x at the first time, the traces' integrals so far, the stage, and how often it evaluated."""
        y = framed(self.process, x, self.ends[0], self.scale, True)
        stage = self.stage(0.0, y)
        if self.before == 0:
            return y, torch.zeros_like(stage.traces), stage, 1
        y, gain = self.straight(y, stage, self.before)
        return y, gain, self.stage(0.0, y), 2

    def finish(self, y: State, traces: Tensor, stage: Stage, evaluations: Tensor) -> Arrival:
        """The end of the flow from what is known at tau = 1."""
        if self.after != 0:
            y, gain = self.straight(y, stage, self.after)
            traces = traces + gain
        x = framed(self.process, y, self.ends[1], self.scale, False)
        return Arrival(self.process.space.project(x), traces, evaluations)

    def straight(self, y: State, stage: Stage, h: float) -> tuple[State, Tensor]:
        """Where the rate at a stage leads, were it constant, and what the traces gain."""
        return self.process.space.exp(y, self.process.space.scale(stage.rate, h)), stage.traces * h

    def step(self, tau: Time, h: Time, y: State, stage: Stage) -> tuple[State, Tensor, Stage, State, Tensor]:
        """One step of the pair from y, whose stage is known.

        Returns:
            Where it leads, what the integrals of the traces gain, the stage there, and the differences of both.
        """
        space, point = self.process.space, y
        rates, traces = [stage.rate], [stage.traces]
        for node, row in zip(NODES, STAGES, strict=True):
            point = space.exp(y, space.scale(total(row, rates), h))
            stage = self.stage(tau + node * h, point)
            rates.append(space.carry(y, point, stage.rate))
            traces.append(stage.traces)
        gain, doubt = ((h * total(row, traces)).to(stage.traces) for row in (STAGES[-1], DIFFERENCE))
        return space.project(point), gain, stage, space.scale(total(DIFFERENCE, rates), h), doubt


Wanted: TypeAlias = Callable[[Tensor], Tensor] | None


class Path(Loop):
    """A way to follow a flow: a sampler, and how `log_likelihood` integrates.

    Attributes:
        times: A path goes between the first and the last of its times.
        scale: About the spread of the finest structure in the data.
    """

    times: Grid
    scale: float

    @abstractmethod
    def follow(self, flow: Flow, x: State, *, wanted: Wanted = None, callback: Callback = None) -> Arrival:
        """The end of the flow that starts at x.

        Args:
            flow: Of which denoiser, and between which times.
            x: The state at its first time.
            wanted: What the traces' integrals [k, B] are for, [B]: the number whose error is to be small.
            callback: Called after each step.
        """

    def ends(self, process: Process) -> tuple[float, float]:
        """The noisy and the clean time."""
        times = self.times(process, 1)
        return times[0], times[-1]

    def arrival(self, task: Draw) -> Arrival:
        """One batch of samples and what they cost."""
        ends = self.ends(task.denoiser.process)
        flow = Flow(task.denoiser, task.like, ends, self.scale, task.cond)
        return self.follow(flow, task.first(flow.process, ends[0]), callback=task.callback)

    def draw(self, task: Draw) -> State:
        return self.arrival(task).state


@dataclass(frozen=True)
class Adaptive(Path):
    """The probability flow to a tolerance, every sample in steps of its own.

    Args:
        rtol: Error of a step by the size of the state in the straight frame (radian, on curved spaces).
        atol: Error of a step, added to it.
        times: Its first and last times are the ends: LinearGrid() from pure noise, PowerGrid() from sigma = 80.
        scale: About the spread of the finest structure in the data; the cost depends on it, the result does not.
        most: Steps after which to give up.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    times: Grid = field(default_factory=LinearGrid)
    scale: float = 0.3
    most: int = 1000

    def __post_init__(self) -> None:
        check(self, rtol=NOT_NEGATIVE, atol=NOT_NEGATIVE, scale=POSITIVE, most=at_least(1))
        if self.rtol == self.atol == 0:
            refuse(self, "rtol", "a tolerance above zero, or atol above zero")

    def follow(self, flow: Flow, x: State, *, wanted: Wanted = None, callback: Callback = None) -> Arrival:
        space = flow.process.space
        y, traces, stage, spent = flow.begin(x)
        dims = degrees(space, y)
        dim = torch.stack(leaves(dims)).sum(0)
        tau = torch.zeros(len(tensors(y)[0]), dtype=torch.float64, device=tensors(y)[0].device)
        h, before = torch.full_like(tau, 0.5 * max(self.rtol, self.atol) ** 0.2), torch.ones_like(tau)
        evaluations = torch.full_like(tau, spent, dtype=torch.int64)
        number, share, shortest = 0, 0.0, 1.0
        for number in range(counted(self.most)):
            live, left = tau < 1, 1 - tau
            h = torch.minimum(h, left)
            point, gain, new, difference, doubt = flow.step(tau, h, y, stage)
            r = (self.squares(space, y, point, difference, dims) / dim).sqrt()
            if wanted is not None:
                r = torch.maximum(r, wanted(doubt).abs() / (dim * (self.atol + self.rtol)))
            r = r.to(tau)
            good = live & (r <= 1)
            y, traces = space.where(good, point, y), torch.where(good, traces + gain, traces)
            stage = Stage(
                space.where(good, new.rate, stage.rate),
                torch.where(good, new.traces, stage.traces),
                space.where(good, new.guess, stage.guess),
            )
            tau = torch.where(good, torch.where(h < left, tau + h, 1.0), tau)
            growth = torch.exp2(torch.round(8 * torch.log2((0.9 * r**-0.14 * before**0.08).clamp(0.2, 10.0))) / 8)
            h = h * torch.where(good, growth, torch.where(r.isfinite(), growth.clamp_max(1.0), 0.2))
            before = torch.where(good, r.clamp_min(1e-4), before)
            evaluations = evaluations + 6 * live
            # The one wait of a step.
            share, shortest = torch.stack([tau, torch.where(tau < 1, h, 1.0)]).amin(1).tolist() if len(tau) else (1, 1)
            if callback is not None:
                expected = number + 1 if share == 1 else min(math.ceil((number + 1) / max(share, 1e-9)) + 1, self.most)
                state = framed(flow.process, y, flow.time(tau), flow.scale, False)
                callback(Progress(number, expected, flow.time(share), state, stage.guess))
            if share == 1:
                return flow.finish(y, traces, stage, evaluations)
            if shortest < 1e-13:
                break
        raise SamplerError(
            f"{self!r} came to t = {flow.time(share):.4g} in {number + 1} steps, the last of {shortest:.2g} of the way",
            "finite predictions, as smooth as the tolerance is small: float32 carries about 1e-5",
            f"Adaptive(rtol={10 * self.rtol:g}, atol={10 * self.atol:g}), or most={10 * self.most}",
        )

    def squares(self, space: Space, y: State, point: State, difference: State, dims: Any) -> Tensor:
        """The squared difference in units of the tolerance, summed over degrees of freedom: [B]."""
        if isinstance(space, Product):
            each = space.each(lambda k, part: self.squares(part, y[k], point[k], difference[k], dims[k]))
            return torch.stack(list(each.values())).sum(0)
        size: Any = 1.0
        if space.flat:
            size = (torch.maximum(space.norm2(y, y), space.norm2(point, point)) / dims).sqrt()
        return space.norm2(y, difference) / (self.atol + self.rtol * size) ** 2


@dataclass(frozen=True)
class EvenSteps(Path):
    """The probability flow in a number of steps even in u, the same for all samples: nothing waits for the device.

    Args:
        steps: Of six evaluations each, fifth order on every space.
        times: Its first and last times are the ends.
        scale: About the spread of the finest structure in the data.
    """

    steps: int = 16
    times: Grid = field(default_factory=LinearGrid)
    scale: float = 0.3

    def __post_init__(self) -> None:
        check(self, steps=at_least(1), scale=POSITIVE)

    def follow(self, flow: Flow, x: State, *, wanted: Wanted = None, callback: Callback = None) -> Arrival:
        y, traces, stage, spent = flow.begin(x)
        for number in range(counted(self.steps)):
            y, gain, stage, _, _ = flow.step(number / self.steps, 1 / self.steps, y, stage)
            traces = traces + gain
            if callback is not None:
                t = flow.time((number + 1) / self.steps)
                state = framed(flow.process, y, t, flow.scale, False)
                callback(Progress(number, self.steps, t, state, stage.guess))
        first = tensors(y)[0]
        evaluations = torch.full((len(first),), spent + 6 * self.steps, device=first.device)
        return flow.finish(y, traces, stage, evaluations)


def total(weights: Sequence[float], terms: Sequence[State]) -> State:
    """sum_j w_j v_j of the first terms, tangents at one point or tensors."""

    def weighed(*parts: Tensor) -> Tensor:
        v = parts[0] * weights[0]
        for w, part in zip(weights[1:], parts[1:], strict=False):
            v = torch.add(v, part, alpha=w) if w else v
        return v

    return map_state(weighed, *terms)


def real(space: Space, v: State) -> State:
    """A tangent with padded sites set to zero."""
    return space.each(lambda name, part: real(part, v[name])) if isinstance(space, Product) else space.real(v)


def degrees(space: Space, x: State) -> Any:
    """Degrees of freedom, one at least, by part: [B] each."""
    if isinstance(space, Product):
        return space.each(lambda name, part: degrees(part, x[name]))
    return space.dim(x).clamp_min(1).to(x)


def drift(process: Process, y: State, guess: State, t: Time) -> State:
    """The drift of every part per unit of its log clock."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: drift(part, y[name], guess[name], t))
    assert isinstance(process, Leaf)
    return process.drift(y, guess, t)


def framed(process: Process, x: State, t: Time, scale: float, inward: bool) -> State:
    """y = x/n(t) by part, or x = n(t) y."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: framed(part, x[name], t, scale, inward))
    assert isinstance(process, Leaf)
    n = process.norm(t, scale)
    if not isinstance(n, Tensor) and n == 1:
        return x
    return x / per_sample(n, x) if inward else x * per_sample(n, x)

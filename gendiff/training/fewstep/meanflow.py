r"""Flow maps by their derivative in time: MeanFlow, its improved form, and consistency in continuous time.

    MeanFlow                Geng et al. (2025), arXiv:2505.13447: any t -> s;  improved: Geng et al. (2025b), 2512.02012
    ContinuousConsistency   Lu & Song (2024), arXiv:2410.11081 (sCM): s = 0, tangents normalised and warmed up

Both follow the residual r of `jumps`, X <- X - r, which is linear in the direction V of the flow. With V of the example
itself, r has a variance that falls away in the mean only; MeanFlow's improved form differentiates along the model's own
direction instead, D = X(x, t, t), and keeps V where it enters without a derivative:

    r = r(D) + log_x D - log_x x0

Of this r(D) hangs on x_t alone, so that an error may be weighted by it, 1/(w |r(D)|^2 + 1), without a say in which
example is the mean of its x_t: else rare large jumps, between modes, rule the training (five modes on the plane, 2,000
steps, one seed: the instantaneous prediction is 3.7 sampling floors off without it, though of twice the batch, 1.0
with it, a denoiser alone 1.1).

Warm-up (sCM, Sec. 4.1) blends from a denoiser's error to r, c running from 0 to 1:

    c r + (1 - c) (log_x X - log_x x0)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from gendiff.denoisers import predict, rows_of
from gendiff.errors import SHARE, check
from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Consistency, Solver
from gendiff.spaces import State, map_state, tensors
from gendiff.training.fewstep.base import AdaptiveWeight, FewStep, Lesson, tangent_errors, total, two_times, weighted
from gendiff.training.fewstep.derivatives import Derivative, Forward
from gendiff.training.fewstep.jumps import difference, eulerian, velocity


@dataclass(frozen=True)
class MeanFlow(FewStep):
    """MeanFlow: whole jumps between any two times, from data or from a teacher.

    Args:
        same: Share of the examples with s = t, which train the instantaneous prediction.
        zero: Share of the others that jump all the way, s = 0.
        improved: Whether derivatives are taken along the model's own direction (iMF). With a teacher there is nothing
            to improve: its direction has no variance.
        adaptive: The weight of large errors; None is `usual`, power 1, with a teacher; from data that of r(D), and of
            what is not improved none.
        warmup: The share of the training over which r replaces a denoiser's error.
        derivative: How it is computed: `Forward()`, `Reverse()`, `Finite(h)`.
    """

    usual: ClassVar[AdaptiveWeight] = AdaptiveWeight(1.0)
    same: float = 0.5
    zero: float = 0.25
    improved: bool = True
    adaptive: AdaptiveWeight | None = None
    warmup: float = 0.0
    derivative: Derivative = field(default_factory=Forward)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, same=SHARE, zero=SHARE, warmup=SHARE)

    def pairs(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """t and s <= t, float64 [B]."""
        return two_times(lesson, self.same, self.zero)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        t, s = self.pairs(lesson)
        process, scales, x = lesson.process, self.scales(lesson), lesson.noised(t)
        cond = self.told_scales(lesson, scales)
        goal = self.led(lesson, x, t, scales)
        guess = predict(lesson.denoiser, process, x, t, {**cond, **self.toward(s)})
        step = map_state(Tensor.detach, difference(process, x, guess, goal))
        rows = (s < t).nonzero()[:, 0] if self.same else torch.arange(lesson.n)
        ready = 1.0 if not self.warmup else min(lesson.progress / self.warmup, 1.0)
        head, weighting, size = lesson.denoiser.head, lesson.objective.weighting, None
        if len(rows) and ready:
            own, fixed = self.residual(lesson.select(rows), rows, x, t, s, goal, cond)
            here = rows.to(tensors(x)[0].device)
            step = map_state(lambda all_, some: all_.index_add(0, here, ready * (some - all_[here])), step, own)
            if fixed is not None:
                far = map_state(lambda all_, some: torch.zeros_like(all_).index_add(0, here, some), step, fixed)
                size = total(lesson.objective, tangent_errors(process, head, weighting, x, guess, far, t), "")["loss"]
        errors = tangent_errors(process, head, weighting, x, guess, step, t)
        out = total(lesson.objective, errors, "flow")
        return {**out, "loss": weighted(self.adaptive, self.usual, lesson, out["loss"], size)}

    @torch.no_grad()
    def residual(
        self, some: Lesson, rows: Tensor, x: State, t: Tensor, s: Tensor, goal: State, cond: dict[str, Any]
    ) -> tuple[State, State | None]:
        """r of some of the samples; and what of it does not hang on the example, None for no such part."""
        process, here = some.process, rows.to(tensors(x)[0].device)
        x, goal, t, s = rows_of(x, here), rows_of(goal, here), t[rows], s[rows]
        told = rows_of(cond, here)
        along = goal
        if self.improved and some.teacher is None:
            along = predict(some.denoiser, process, x, t, {**told, **self.toward(t)})
        v = velocity(process, x, along, t)
        r = eulerian(some.denoiser, process, x, t, s, v, self.derivative, {**told, **self.toward(s)})
        if along is goal:
            return r, None
        return map_state(torch.add, r, difference(process, x, along, goal)), r


@dataclass(frozen=True)
class ContinuousConsistency(MeanFlow):
    """sCM: jumps to s = 0 alone, tangents normalised and warmed up; with a teacher sCD, without sCT.

    The network need not be told where it jumps. It is sampled by `Consistency`, which goes all the way and back. The
    usual weight normalises tangents (power 1/2).
    """

    jumps = False
    usual = AdaptiveWeight(0.5, 1e-2)
    same: float = field(default=0.0, init=False)
    zero: float = field(default=1.0, init=False)
    improved: bool = field(default=False, init=False)
    warmup: float = 0.3

    def sampler(self, steps: int) -> Solver:
        return Consistency(steps, times=PowerGrid())

    def pairs(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        t = lesson.time(lesson.u)
        return t, torch.zeros_like(t)

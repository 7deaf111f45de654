r"""Flow maps by their composition: two jumps in place of one.

    Shortcut      a jump t -> s is two jumps of the student's own, t -> u -> s         (Frans et al. 2025, 2410.12557)
                  with a teacher the first is the teacher's, in steps of Heun         (CTM, Kim et al. 2024, 2310.02279)
    Progressive   a step of a grid of N is two steps of the teacher on one of 2 N      (Salimans & Ho 2022, 2202.00512)

The end of the two becomes the goal of the one by `aim`: the clean state towards which one step ends there. A share of
the examples trains the instantaneous prediction, at which all compositions begin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from gendiff.denoisers import predict, rows_of
from gendiff.errors import SHARE, at_least, check
from gendiff.processes import Leaf, Process, leaf_of
from gendiff.sampling.grids import Grid, LinearGrid
from gendiff.sampling.solvers import DDIM, Solver
from gendiff.spaces import State, map_state, tensors
from gendiff.training.fewstep.base import (
    AdaptiveWeight,
    FewStep,
    Lesson,
    clean_errors,
    teach,
    total,
    two_times,
    weighted,
)
from gendiff.training.fewstep.jumps import aim, by_leaf, jump, share


def inner(process: Process, t: Tensor, s: Tensor, w: Tensor) -> Tensor:
    """The time u at which the share of noise is a part w of the way from t down to s; of a bundle's first part."""
    leaf = leaf_of(process)
    k, end = share(leaf, t), share(leaf, s)
    return torch.minimum(torch.maximum(leaf.schedule.unshare(k + w * (end - k), 1.0), s), t)


def heun(denoise: Any, process: Any, x: State, t: Tensor, s: Tensor) -> State:
    """One step of Heun's method t -> s; into s = 0 Euler's. Clocks are those of each part."""
    first = denoise(x, t)
    there = process.step(x, first, t, s)
    low = s.clamp_min(1e-4)
    second = denoise(there, low)

    def mean(leaf: Leaf, a: State, b: State) -> State:
        k, end = share(leaf, t), share(leaf, low)
        w = torch.where(s > 1e-4, k / (2 * end), 0.0)
        return leaf.space.lerp(a, b, w)

    return process.step(x, by_leaf(process, mean, first, second), t, s)


@dataclass(frozen=True)
class Shortcut(FewStep):
    """Shortcut models, and consistency trajectories with a teacher.

    Args:
        same: Share of the examples with s = t, which train the instantaneous prediction.
        zero: Share of the others that jump all the way, s = 0.
        steps: Of Heun's method, that a teacher takes from t to u.
        reach: Of t -> s, at most so much is the first jump, u being drawn evenly; without a teacher it is one half.
        adaptive: The weight of large errors; None is `usual`, power 1, with a teacher, and from data one of jumps alone
            (on the plane, 2,000 steps: 1.9 sampling floors in one evaluation, 2.2 without).
    """

    usual: ClassVar[AdaptiveWeight] = AdaptiveWeight(1.0)
    same: float = 0.5
    zero: float = 0.25
    steps: int = 2
    reach: float = 0.5
    adaptive: AdaptiveWeight | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, same=SHARE, zero=SHARE, steps=at_least(1), reach=SHARE)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        t, s = two_times(lesson, self.same, self.zero)
        process, scales, x = lesson.process, self.scales(lesson), lesson.noised(t)
        cond = self.told_scales(lesson, scales)
        guess = predict(lesson.denoiser, process, x, t, {**cond, "to": s})
        goal = map_state(torch.clone, self.led(lesson, x, t, scales))
        rows = (s < t).nonzero()[:, 0] if self.same else torch.arange(lesson.n)
        if len(rows):
            here = rows.to(tensors(x)[0].device)
            own = self.goals(
                lesson.select(rows), rows_of(x, here), t[rows], s[rows], rows_of(cond, here),
                None if scales is None else scales[rows],
            )  # fmt: skip
            goal = map_state(lambda all_, some: all_.index_copy(0, here, some), goal, own)
        errors = clean_errors(lesson, x, guess, goal, t)
        out = total(lesson.objective, errors, "flow")
        fixed = torch.where((s < t).to(out["loss"].device), out["loss"], 0.0)  # two jumps' end hangs on x_t alone
        return {**out, "loss": weighted(self.adaptive, self.usual, lesson, out["loss"], fixed)}

    @torch.no_grad()
    def goals(self, some: Lesson, x: State, t: Tensor, s: Tensor, told: dict[str, Any], scales: Tensor | None) -> State:
        """The clean states towards which one step ends where two do."""
        process = some.process
        if some.teacher is None:
            u = inner(process, t, s, torch.full_like(t, 0.5))
            there = jump(some.denoiser, process, x, t, u, {**told, "to": u})
        else:
            u, there, now = inner(process, t, s, self.reach * some.host("reach")), x, t
            for k in range(self.steps):
                after = inner(process, t, u, torch.full_like(t, (k + 1) / self.steps))
                there = heun(lambda y, a: teach(some, y, a, scales), process, there, now, after)
                now = after
        end = jump(some.denoiser, process, there, u.clamp_min(1e-5), s, {**told, "to": s})
        return aim(process, x, end, t, s)


@dataclass(frozen=True)
class Progressive(FewStep):
    """One round of progressive distillation: N steps of a grid by a teacher of 2 N.

    The student knows one grid alone, and is sampled by `DDIM` on it. `gendiff distill --method progressive` halves in
    rounds, each the teacher of the next.

    Args:
        steps: N, of the student.
        grid: The grid; the teacher's is the same with twice the steps.
    """

    jumps = False
    taught = True
    steps: int = 4
    grid: Grid = field(default_factory=LinearGrid)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, steps=at_least(1))

    def sampler(self, steps: int) -> Solver:
        return DDIM(steps, times=self.grid)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        process, scales = lesson.process, self.scales(lesson)
        times = torch.tensor(self.grid(lesson.denoiser.process, 2 * self.steps), dtype=torch.float64)
        i = (lesson.u * self.steps).long().clamp_max(self.steps - 1)
        t, u, s = times[2 * i], times[2 * i + 1], times[2 * i + 2]
        x = lesson.noised(t)
        with torch.no_grad():
            there = process.step(x, teach(lesson, x, t, scales), t, u)
            end = process.step(there, teach(lesson, there, u, scales), u, s)
            goal = aim(process, x, end, t, s)
        guess = predict(lesson.denoiser, process, x, t, self.told_scales(lesson, scales))
        return total(lesson.objective, clean_errors(lesson, x, guess, goal, t), "step")

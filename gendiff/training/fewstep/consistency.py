r"""Consistency in discrete steps: neighbours on a path have the same end (Song et al. 2023, arXiv:2303.01469).

    |X(x_t, t) - sg X(x_r, r)|,    r < t on the same path,    X(x, 0) = x by every head that is x where sigma = 0

From data x_r has the same x0 and z as x_t (iCT, Song & Dhariwal 2024, 2310.14189); with a teacher it is one step of the
teacher's flow from x_t. The gap shrinks with the training as in ECT (Geng et al. 2024, 2406.14548, Sec. 4): with k the
share of noise and p the progress,

    k_r = k_t (1 - n(t)/q^a),    a = ceil(stages p),    n(t) = 1 + 8 sigmoid(-k/(1 - k))        not below 0

The first stage reaches down to r = 0, where X(x_0) = x_0 is the example: a denoiser. Distances are squares, (d/gap)^2
with d the root mean square over a state and gap = k_t - k_r; or pseudo-Huber's, (sqrt(d^2 + c^2) - c)/gap with c =
0.00054. The latter is the choice for pictures. In a few dimensions, where errors are rare and large between modes, it
finds medians where means are wanted, by a teacher too: of five modes on the plane one evaluation was 8.2 sampling
floors off after 2,500 steps; after 1,500 with c = 1, which is squares for all but the largest, 2.9.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.denoisers import predict
from gendiff.errors import NOT_NEGATIVE, POSITIVE, at_least, check
from gendiff.processes import Leaf, schedule_of
from gendiff.processes.base import square_error
from gendiff.sampling.grids import PowerGrid
from gendiff.sampling.solvers import Consistency, Solver
from gendiff.spaces import State, per_sample
from gendiff.training.fewstep.base import FewStep, Lesson, total
from gendiff.training.fewstep.jumps import by_leaf, either


@dataclass(frozen=True)
class ConsistencyTraining(FewStep):
    """Consistency models in discrete steps, from data (iCT, ECT) or from a teacher (CD).

    Args:
        stages: How often the gap between neighbours shrinks over the training.
        ratio: q, by which it shrinks.
        huber: c of the pseudo-Huber distance, a dimension: 0.00054 for pictures (Song & Dhariwal 2024, Sec. 3.3);
            None is squares.
    """

    jumps = False
    guides = True
    stages: int = 8
    ratio: float = 2.0
    huber: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, stages=at_least(1), ratio=POSITIVE, huber=NOT_NEGATIVE)

    def sampler(self, steps: int) -> Solver:
        return Consistency(steps, times=PowerGrid())

    def earlier(self, lesson: Lesson, t: Tensor) -> tuple[Tensor, Tensor]:
        """The neighbour's time r < t, and the gap of shares k_t - k_r, float64 [B]."""
        schedule = schedule_of(lesson.denoiser.process)
        k = schedule.share(t, 1.0)
        stage = max(1, math.ceil(self.stages * lesson.progress))
        near = 1 + 8 * torch.sigmoid(-k / (1 - k).clamp_min(1e-9))
        left = (1 - near / self.ratio**stage).clamp_min(0.0)
        r = torch.where(left > 0, schedule.unshare(k * left, 1.0), 0.0)
        return torch.minimum(r, t), k * (1 - left)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        process, scales, t = lesson.process, self.scales(lesson), lesson.time(lesson.u)
        cond = self.told_scales(lesson, scales)
        r, gap = self.earlier(lesson, t)
        x = lesson.noised(t)
        guess = predict(lesson.denoiser, process, x, t, cond)
        with torch.no_grad():
            if lesson.teacher is None and scales is None:
                before = lesson.noised(r)
            else:
                before = process.step(x, self.led(lesson, x, t, scales), t, r)
            low = r.clamp_min(1e-5)  # no head is asked at sigma = 0
            goal = predict(lesson.denoiser, process, before, low, cond)
            goal = either(r <= 0, before, goal)
        errors = by_leaf(process, lambda leaf, *states: distance(leaf, states, gap, self.huber), guess, goal)
        return total(lesson.objective, errors, "consistency")


def distance(leaf: Leaf, states: tuple[State, ...], gap: Tensor, huber: float | None) -> Tensor:
    """The weighted distance [B] of one part, of prediction and goal."""
    guess, goal = states
    square = square_error(leaf.space, goal, guess, goal)
    own = per_sample(gap, square)
    return square / own**2 if huber is None else ((square + huber**2).sqrt() - huber) / own

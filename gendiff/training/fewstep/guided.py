r"""What a trained model says, learned by another one.

GuidanceDistillation   X(x_t, t, w) = w D(x_t, t, c) + (1 - w) D(x_t, t)     one evaluation for two
                                                                              (Meng et al. 2023, arXiv:2210.03142)
Reflow                 x0 is where the teacher leads from z, and paths are straight from z to it
                                                                              (Liu et al. 2023, arXiv:2209.03003)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import predict
from gendiff.errors import RecipeError, check
from gendiff.sampling.grids import LinearGrid, PowerGrid
from gendiff.sampling.loop import sample
from gendiff.sampling.solvers import DDIM, Adams, Solver
from gendiff.spaces import map_state
from gendiff.training.fewstep.base import FewStep, Lesson, clean_errors, guided_teacher, teach, total


@dataclass(frozen=True)
class GuidanceDistillation(FewStep):
    """A guided teacher's prediction at every time; the student is sampled as the teacher is, at half the cost."""

    jumps = False
    taught = True
    guidance: float | tuple[float, float] = field(default=(1.0, 4.0), kw_only=True)

    def sampler(self, steps: int) -> Solver:
        return Adams(steps, times=PowerGrid(1.1))

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        process, scales, t = lesson.process, self.scales(lesson), lesson.time(lesson.u)
        x = lesson.noised(t)
        goal = teach(lesson, x, t, scales)
        guess = predict(lesson.denoiser, process, x, t, self.told_scales(lesson, scales))
        return total(lesson.objective, clean_errors(lesson, x, guess, goal, t), "guidance")


@dataclass(frozen=True)
class Reflow(FewStep):
    """One round of reflow: the teacher leads each fresh z to an example of its own, at the cost of its solver.

    The student is an ordinary denoiser with straighter paths; `gendiff distill --method reflow` repeats it in rounds.
    It is sampled by `DDIM`, whose steps are whole along a straight path, also a single one; one of `Adams` is not.

    Args:
        solver: The teacher's, deterministic, from t = 1.
    """

    jumps = False
    taught = True
    solver: Solver = field(default_factory=lambda: Adams(12, times=PowerGrid()))

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self)

    def sampler(self, steps: int) -> Solver:
        return DDIM(steps, times=LinearGrid())

    def expect(self, network: Any, process: Any, teacher: bool) -> None:
        super().expect(network, process, teacher)
        first = self.solver.times(process, self.solver.steps)[0]
        if first != 1:
            raise RecipeError(f"Reflow by {self.solver!r}, which starts at t = {first:.4g}", "a grid from t = 1", "")

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        process, scales, t = lesson.process, self.scales(lesson), lesson.time(lesson.u)
        noise, teacher = lesson.noise.fork("reflow"), guided_teacher(lesson, scales)
        with torch.no_grad():
            z = process.endpoint(lesson.x0, noise.fork("prior"))  # what `sample` itself begins with
            x0 = sample(teacher, lesson.x0, solver=self.solver, noise=noise, cond=dict(lesson.cond))
            x = process.noised(x0, z, t)
        guess = predict(lesson.denoiser, process, x, t, self.told_scales(lesson, scales))
        return total(lesson.objective, clean_errors(lesson, x, guess, map_state(Tensor.detach, x0), t), "flow")

r"""What every few-step training has in common: a lesson goes in, losses per sample come out.

A lesson is a batch with all that a method may need: clean states, stratified uniforms that become times, a teacher if
there is one. The direction in which the flow leads at x_t is told by a prediction of the clean state there, `led`:

    the example's own x0                    training from data, right in the mean over x0 given x_t
    w x0 + (1 - w) D(x_t, t)                the same, guided by the model's own prediction with nothing asked
    the teacher's D(x_t, t), guided or not  distillation
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, Denoiser, clean, for_samples, predict, rows_of, takes
from gendiff.errors import POSITIVE, SHARE, RecipeError, check, refuse
from gendiff.guidance import Guided, ScaleInput
from gendiff.processes import Joint
from gendiff.random import Noise
from gendiff.sampling.solvers import FlowMap, Solver
from gendiff.spaces import State, map_state, per_sample, tensors
from gendiff.training.fewstep.jumps import require_straight
from gendiff.training.losses import DEFAULT, OUTPUT, Objective, noised, part_losses
from gendiff.training.times import TimeDistribution, Uniform


@dataclass(frozen=True)
class Lesson:
    """One batch to learn from.

    Attributes:
        denoiser: The student.
        x0: Clean states [B, ...], float32 or better.
        u: Stratified uniforms, float64 [B] on the host.
        noise: The source of this step's noise.
        cond: Conditions [B, ...], some dropped, with "mask" for padded batches.
        times: Turns uniforms into times.
        objective: Weighting, factors of parts, coupling.
        teacher: A trained denoiser, as it is; None for none.
        without: The conditions with nothing asked, from the full ones (`Domain.without`).
        progress: The share of the training that is over.
        critic: A denoiser of the student's own samples, that learns beside it; None for none.
        choices: The source of what is drawn on the host (second times, kinds, scales), with the same samples; by
            default `noise`, moved there.
    """

    denoiser: Denoiser
    x0: State
    u: Tensor
    noise: Noise
    cond: Mapping[str, Any] = field(default_factory=dict)
    times: TimeDistribution = field(default_factory=Uniform)
    objective: Objective = DEFAULT
    teacher: Denoise | None = None
    without: Callable[..., dict[str, Any]] | None = None
    progress: float = 0.0
    critic: Denoiser | None = None
    choices: Noise | None = None

    @property
    def process(self) -> Any:
        """The student's process, bound to the batch's mask."""
        return self.denoiser.process.masked(self.cond.get("mask"))

    @property
    def n(self) -> int:
        return len(tensors(self.x0)[0])

    def host(self, stream: str) -> Tensor:
        """Uniforms of a stream, float64 [B] on the host."""
        source = self.noise.to("cpu") if self.choices is None else self.choices
        return source.fork(stream).uniform((self.n,))

    def time(self, u: Tensor) -> Tensor:
        """The times at quantiles u, float64 [B]."""
        return self.times.quantile(u, self.denoiser.process)

    def noised(self, t: Tensor) -> State:
        """x_t; at every time on the same path, of one z."""
        noise, coupling = self.noise.fork("forward"), self.objective.coupling
        return noised(self.process, self.x0, t, noise, coupling, self.cond)

    def select(self, rows: Tensor) -> Lesson:
        """The same for some of the samples; rows int64 on the host."""
        here = rows.to(tensors(self.x0)[0].device)
        return replace(
            self, x0=rows_of(self.x0, here), u=self.u[rows], cond=rows_of(dict(self.cond), here),
            noise=self.noise.select(rows), choices=None if self.choices is None else self.choices.select(rows),
            teacher=None if self.teacher is None else for_samples(self.teacher, rows),
        )  # fmt: skip


@dataclass(frozen=True)
class FewStep(ABC):
    """A way to learn to sample in few steps.

    Attributes:
        jumps: Whether the student must be told the time to jump to (`network.jumps=true`).
        taught: Whether it needs a teacher (True), can do without (None), or has none (False).
        guides: Whether a guidance may be learned along.
        guidance: The guidance that the student has in its weights: a scale, or a range (low, high) of scales of which
            one is drawn for each example and told to the network (`network.guided=true`), so that
            `model.sample(guidance=2)` needs one evaluation. 1 is off.
    """

    jumps: ClassVar[bool] = True
    taught: ClassVar[bool | None] = None
    guides: ClassVar[bool] = True
    guidance: float | tuple[float, float] = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        check(self)
        ends = self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)
        if len(ends) > 2 or not all(0 < w < 100 for w in ends) or ends[-1] < ends[0]:
            refuse(self, "guidance", "a scale above 0, or the ends of a range of scales", "guidance=(1.0, 4.0)")
        if not self.guides and self.guidance != 1:
            refuse(self, "guidance", "1: this method learns from data alone", "guidance=1.0")

    @property
    def told(self) -> bool:
        """Whether the network is told the scale."""
        return isinstance(self.guidance, tuple)

    @abstractmethod
    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """ "loss" [B], and beside it what it is made of, detached."""

    def toward(self, s: Tensor) -> dict[str, Tensor]:
        """What the student is told of the time that it jumps to."""
        return {"to": s} if self.jumps else {}

    def sampler(self, steps: int) -> Solver:
        """What a student of it is sampled by."""
        return FlowMap(steps)

    def expect(self, network: Any, process: Any, teacher: bool) -> None:
        """Refuses what this method cannot train.

        Raises:
            RecipeError: With the line that fixes it.
        """
        name = type(self).__name__
        require_straight(name, process)
        if takes(network, "previous"):
            raise RecipeError(f"{name} for a self-conditioned network", "one without", "network.previous=false")
        if self.jumps and not takes(network, "to"):
            raise RecipeError(
                f"{name} for a network that is not told where to jump", "jumps=True", "network.jumps=true"
            )
        if self.told and not takes(network, "guidance"):
            raise RecipeError(
                f"{name}(guidance={self.guidance}) for a network that is not told a scale", "guided=True",
                "network.guided=true",
            )  # fmt: skip
        if self.taught and not teacher:
            raise RecipeError(f"{name} without a teacher", "a trained model", "--from MODEL (start=MODEL)")

    def scales(self, lesson: Lesson) -> Tensor | None:
        """Of each example, float64 [B] on the host; None for none. Ranges are drawn evenly in the logarithm."""
        if isinstance(self.guidance, tuple):
            low, high = (torch.tensor(w, dtype=torch.float64).log() for w in self.guidance)
            return (low + (high - low) * lesson.host("guidance")).exp()
        return None if self.guidance == 1 else torch.full((lesson.n,), self.guidance, dtype=torch.float64)

    def told_scales(self, lesson: Lesson, scales: Tensor | None) -> dict[str, Any]:
        """The conditions of the student: those of the lesson, and the scale where its network is told one."""
        return {**lesson.cond, "guidance": scales} if self.told else dict(lesson.cond)

    @torch.no_grad()
    def led(self, lesson: Lesson, x: State, t: Tensor, scales: Tensor | None) -> State:
        """The clean states that say in which direction the flow leads at x_t; see the top of the file."""
        process = lesson.process
        if lesson.teacher is not None:
            return teach(lesson, x, t, scales)
        if scales is None:
            return lesson.x0
        if lesson.without is None:
            raise RecipeError("guidance without conditions", "guidance=1", "")
        told = {**lesson.without(dict(lesson.cond)), **({"guidance": torch.ones_like(t)} if self.told else {})}
        return process.space.lerp(predict(lesson.denoiser, process, x, t, told), lesson.x0, scales)


def guided_teacher(lesson: Lesson, scales: Tensor | None) -> Any:
    """The teacher, guided by scales [B]: told them where its network takes a scale itself, else by two branches."""
    teacher = lesson.teacher
    assert teacher is not None
    if scales is None:
        return teacher
    if takes(teacher, "guidance"):
        return ScaleInput(teacher, scales)
    return teacher if lesson.without is None else Guided(teacher, scales, lesson.without)


@torch.no_grad()
def teach(lesson: Lesson, x: State, t: Tensor, scales: Tensor | None) -> State:
    """The teacher's prediction, guided by scales [B]."""
    return map_state(Tensor.detach, clean(predict(guided_teacher(lesson, scales), lesson.process, x, t, lesson.cond)))


def two_times(lesson: Lesson, same: float, zero: float) -> tuple[Tensor, Tensor]:
    """t and s <= t, float64 [B], of examples of which a share has s = t, and of the others a share s = 0."""
    t, other = lesson.time(lesson.u), lesson.time(lesson.host("second").clamp(1e-9, 1 - 1e-9))
    first, last = torch.maximum(t, other), torch.minimum(t, other)
    last = torch.where(lesson.host("zero") < zero, 0.0, last)
    still = lesson.host("kind") < same
    return torch.where(still, t, first), torch.where(still, t, last)


def tangent_errors(process: Any, head: Any, weighting: Any, x: State, guess: State, step: State, t: Tensor) -> Any:
    """w(t)/dim |log_x(guess) - sg(log_x(guess) - step)|^2, [B] or by part: its gradient moves guess along -step."""
    if isinstance(process, Joint):
        own = weighting if isinstance(weighting, Mapping) else dict.fromkeys(process.parts, weighting)
        return {
            k: tangent_errors(part, head.parts[k], own.get(k, OUTPUT), x[k], guess[k], step[k], t)
            for k, part in process.parts.items()
        }
    v = process.space.log(x, guess)
    error = process.space.norm2(x, v - (v - step).detach())
    error = error / per_sample(process.space.dim(x).clamp_min(1), error)
    return error * per_sample(weighting(process, head, t), error)


def clean_errors(lesson: Lesson, x: State, guess: State, goal: State, t: Tensor) -> Any:
    """The weighted squared error of a predicted clean state from another, [B] or by part."""
    return part_losses(lesson.process, lesson.denoiser.head, lesson.objective.weighting, x, guess, goal, t)


def total(objective: Objective, errors: Any, name: str) -> dict[str, Tensor]:
    """ "loss", the sum over parts by their factors, and the parts, detached."""
    parts = errors if isinstance(errors, dict) else {name: errors}
    summed = torch.stack([objective.parts.get(k, 1.0) * value for k, value in parts.items()]).sum(0)
    return {"loss": summed, **{k: value.detach() for k, value in parts.items()}}


@dataclass(frozen=True)
class AdaptiveWeight:
    """loss/(of + floor)^power, the divisor without a gradient: errors that are large have less say.

    Power 1/2 with floor c^2 normalises tangents (Lu & Song 2024, Sec. 4.1); 1 is MeanFlow's weight (Geng et al. 2025,
    Eq. 22), both of the loss itself; 0 is the squared error. From data an error has the variance of x0 given x_t in it,
    and what has less say where that is large is no mean: in a few dimensions power 1 finds modes, of pictures, whose
    errors are all of about one size, it does not.
    """

    power: float = 1.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        check(self, power=SHARE, floor=POSITIVE)

    def __call__(self, loss: Tensor, of: Tensor | None = None) -> Tensor:
        """The loss [B], weighted by an error [B], by itself where none is said."""
        return loss if self.power == 0 else loss / ((loss if of is None else of).detach() + self.floor) ** self.power


FROM_DATA = AdaptiveWeight(1.0, 1.0)


def weighted(
    said: AdaptiveWeight | None, usual: AdaptiveWeight, lesson: Lesson, loss: Tensor, fixed: Tensor | None = None
) -> Tensor:
    """The loss [B] by a weight; where none is said by the usual one with a teacher, and from data by `FROM_DATA`.

    Args:
        said: Of the method.
        usual: With a teacher.
        lesson: The batch.
        loss: [B].
        fixed: From data, the size of what in each error hangs on x_t alone, [B]; None for no such part, and then from
            data there is no weight. It favours no example over another at the same x_t: means stay means, and rare
            large jumps have less say.
    """
    if said is None and lesson.teacher is None:
        return loss if fixed is None else FROM_DATA(loss, fixed)
    return (said or usual)(loss)

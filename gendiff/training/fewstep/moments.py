r"""Flow maps by their distributions.

    MomentMatching         jumps t -> s and r -> s, r < t, end in the same distribution: the maximum mean discrepancy of
                           groups of M that share (t, r, s)                    (IMM, Zhou et al. 2025, arXiv:2503.07565)
    DistributionMatching   samples X move as the scores differ, those of the data by the teacher and those of the
                           samples by a critic that learns beside               (DMD, Yin et al. 2024, arXiv:2311.18828)
    ScoreRegularized       a flow map, whose whole jumps are matched so     (rCM, Zheng et al. 2025, arXiv:2510.08431)

With y_i = Phi_{t->s}(x_t^i), z_i = sg Phi_{r->s}(x_r^i), x_r on the path of x_t, and the kernel exp(-d w/sqrt(D)),

    MMD^2 = mean k(y, y') + mean k(z, z') - 2 mean k(y, z)

D the degrees of freedom and w = 1/(k_t - k_s), what a jump moves by for a unit of its network's output. And

    X <- X - (D_critic(x_tau) - D_teacher(x_tau))/mean|X - D_teacher(x_tau)|,    x_tau the sample, noised anew
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import predict, rows_of
from gendiff.errors import POSITIVE, PROPER_SHARE, SHARE, RecipeError, at_least, check, refuse
from gendiff.processes import leaf_of
from gendiff.processes.base import square_error
from gendiff.sampling.grids import LinearGrid
from gendiff.sampling.solvers import Consistency, Solver
from gendiff.spaces import State, map_state, per_sample, tensors
from gendiff.training.fewstep.base import FewStep, Lesson, teach, total
from gendiff.training.fewstep.jumps import by_leaf, difference, either, jump, share
from gendiff.training.fewstep.meanflow import MeanFlow
from gendiff.training.losses import denoising_loss

WARMUP = 0.05
"""The share of the training for which a critic learns before a flow map is matched by it."""


@dataclass(frozen=True)
class MomentMatching(FewStep):
    """Inductive moment matching, from data alone.

    Groups are of samples in a row: on several devices, or in parts, they are others than on one.

    Args:
        group: M; of a batch, so many in a row share their times.
        gap: k_t - k_r, where there is room.
        zero: Share of the groups that jump all the way, s = 0.
    """

    taught = False
    guides = False
    group: int = 4
    gap: float = 0.1
    zero: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, group=at_least(2), gap=PROPER_SHARE, zero=PROPER_SHARE)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        if lesson.cond.get("mask") is not None:
            raise RecipeError("MomentMatching for samples of several sizes", "samples of one size", "")
        m, n = self.group, lesson.n
        if n % m:
            raise RecipeError(f"MomentMatching(group={m}) got a batch of {n}", f"a multiple of {m}", "trainer.batch=64")
        lead = (torch.arange(n) // m) * m
        t = lesson.time(lesson.host("first").clamp(1e-9, 1 - 1e-9)[lead])
        other = lesson.time(lesson.host("second").clamp(1e-9, 1 - 1e-9)[lead])
        t, s = torch.maximum(t, other), torch.minimum(t, other)
        s = torch.where(lesson.host("zero")[lead] < self.zero, 0.0, s)
        process, leaf = lesson.process, leaf_of(lesson.denoiser.process)
        k, end = share(leaf, t), share(leaf, s)
        r = torch.maximum(leaf.schedule.unshare((k - self.gap).clamp_min(1e-9), 1.0), s.clamp_min(1e-5))
        cond, x = {**lesson.cond, "to": s}, lesson.noised(t)
        y = jump(lesson.denoiser, process, x, t, s, cond)
        with torch.no_grad():
            z = jump(lesson.denoiser, process, process.step(x, lesson.x0, t, r), r, s, cond)
        w = 1 / (k - end).clamp_min(1e-3)

        def kernel(leaf: Any, a: State, b: State) -> Tensor:
            d2 = leaf.space.dist2(a, b)
            root = (d2 + 1e-12).sqrt() / per_sample(leaf.space.dim(a).clamp_min(1).sqrt(), d2)
            return torch.exp(-root * per_sample(w / leaf.norm(s, 1.0), d2))  # in the frame x/n

        def discrepancy(leaf: Any, y: State, z: State) -> Tensor:
            terms = []
            for shift in range(1, m):  # pairs of different samples: those of one have the same path
                turned = torch.arange(n).reshape(-1, m).roll(shift, 1).flatten().to(tensors(y)[0].device)
                yy, zz = rows_of(y, turned), rows_of(z, turned)
                terms.append(kernel(leaf, y, yy) + kernel(leaf, z, zz) - 2 * kernel(leaf, y, zz))
            return torch.stack(terms).mean(0)

        return total(lesson.objective, by_leaf(process, discrepancy, y, z), "moments")


@dataclass(frozen=True)
class DistributionMatching(FewStep):
    """Distribution matching without an adversary: one to a few steps, each all the way and back to noise.

    Beside the student a critic learns, a copy of the teacher at first, that denoises the student's samples.

    Args:
        steps: Of the student's grid.
        critic: Steps of the critic for each of the student's.
    """

    jumps = False
    taught = True
    steps: int = 1
    critic: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, steps=at_least(1), critic=at_least(1))

    def sampler(self, steps: int) -> Solver:
        return Consistency(steps, times=LinearGrid())

    def critics(self, lesson: Lesson) -> int:
        """How many steps the critic takes before the student's."""
        return self.critic

    def drawn(self, lesson: Lesson) -> tuple[State, State, Tensor]:
        """x_t, the student's sample of it, and t, of the steps' grid."""
        process = lesson.process
        times = torch.tensor(LinearGrid()(lesson.denoiser.process, self.steps), dtype=torch.float64)
        t = times[(lesson.u * self.steps).long().clamp_max(self.steps - 1)]
        x = lesson.noised(t)
        pure = process.prior(lesson.x0, lesson.noise.fork("prior"))
        x = either(t >= times[0], pure, x)
        told = {**self.told_scales(lesson, self.scales(lesson)), **self.toward(torch.zeros_like(t))}
        return x, predict(lesson.denoiser, process, x, t, told), t

    def critic_losses(self, lesson: Lesson) -> Tensor:
        """The critic's own loss [B] on the student's samples."""
        assert lesson.critic is not None
        with torch.no_grad():
            sample = self.drawn(lesson)[1]
        noise = lesson.noise.fork("critic")
        t = lesson.time(lesson.host("critic").clamp(1e-9, 1 - 1e-9))
        return denoising_loss(
            lesson.critic, map_state(Tensor.detach, sample), t, noise, objective=lesson.objective, **lesson.cond
        )["loss"]

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        assert lesson.critic is not None
        process, scales = lesson.process, self.scales(lesson)
        _, sample, _ = self.drawn(lesson)
        with torch.no_grad():
            tau = lesson.time(lesson.host("tau").clamp(1e-9, 1 - 1e-9)).clamp(0.02, 0.98)
            seen = process.noise(map_state(Tensor.detach, sample), tau, lesson.noise.fork("matching"))
            real = teach(lesson, seen, tau, scales)
            fake = predict(lesson.critic, process, seen, tau, dict(lesson.cond))
            step = difference(process, seen, fake, real)
            far = difference(process, seen, sample, real)

            def normal(leaf: Any, seen: State, step: State, far: State) -> State:
                square = leaf.space.norm2(seen, far)
                size = (square / per_sample(leaf.space.dim(seen).clamp_min(1), square)).sqrt()
                return leaf.space.scale(step, 1 / size.clamp_min(1e-3))

            step = by_leaf(process, normal, seen, step, far)
            goal = by_leaf(process, shifted, sample, step)
        errors = by_leaf(process, lambda leaf, own, aimed: square_error(leaf.space, aimed, own, aimed), sample, goal)
        return total(lesson.objective, errors, "matching")


@dataclass(frozen=True)
class ScoreRegularized(DistributionMatching):
    """A flow map that is matched: what blurs where the network cannot follow the flow is drawn sharp.

    A share of the examples goes into the matching of samples from pure noise, the others into the flow map.

    Args:
        flow: What learns the map; its guidance is this method's.
        begin: The share of the training before the matching, when samples are far from any.
        share: Of the examples, that are matched.
        factor: Of their loss.
    """

    jumps = True
    flow: FewStep = field(default_factory=MeanFlow)
    begin: float = 0.5
    share: float = 0.5
    factor: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, begin=SHARE, share=PROPER_SHARE, factor=POSITIVE)
        if not self.flow.jumps or self.flow.guidance != 1:
            refuse(self, "flow", "a method of whole jumps, without a guidance of its own", "flow=MeanFlow()")

    def sampler(self, steps: int) -> Solver:
        return self.flow.sampler(steps)

    def critics(self, lesson: Lesson) -> int:
        return self.critic if lesson.progress >= self.begin - WARMUP else 0

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        flow = replace(self.flow, guidance=self.guidance)
        if lesson.progress < self.begin:
            return flow.losses(lesson)
        chosen = lesson.host("matched") < self.share
        out: dict[str, Tensor] = {}
        for rows, factor, learn in ((chosen, self.factor, super().losses), (~chosen, 1.0, flow.losses)):
            here = rows.nonzero()[:, 0]
            for name, value in learn(lesson.select(here)).items() if len(here) else ():
                whole = out.setdefault(name, value.new_zeros(lesson.n))
                out[name] = whole.index_add(0, here.to(value.device), factor * value if name == "loss" else value)
        return out


def shifted(leaf: Any, y: State, v: State) -> State:
    """y moved against a tangent."""
    return leaf.space.exp(y, leaf.space.tangent(y, leaf.space.scale(v, -1.0)))

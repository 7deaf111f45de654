r"""Solvers that remember: one evaluation a step, the order from the past.

    DPMpp2M        points  (1 + h/2h', -h/2h')                       order 2 (Lu et al. 2022b, Alg. 2); eta: its SDE
    DPMpp3M        points, three, as published                       order 2
    Adams          any view, interpolated in any variable            any order; see `views` and `weights`
    UniPC          points, the rule of Zhao et al. (2023)            order + 1 with its corrector
    PNDM           rates, constants, first step by the trapezoid     order 2 warming up to 4 (Liu et al. 2022)
    DPMpp3S        points, starting afresh every third step          order 3 (Lu et al. 2022b, singlestep)

A corrector redoes the last move with the new prediction, which costs no evaluation: the step r -> t is taken again with
the weights of (D_t, D_r, ...) before the step t -> s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gendiff.errors import SamplerError
from gendiff.processes import Gaussian, Leaf, Move, Process
from gendiff.sampling.grids import Grid, Karras, LogSNRGrid, PowerGrid
from gendiff.sampling.solvers.table import Past, Row, Setting, Solver, by_part
from gendiff.sampling.solvers.views import Circle, HalfSlope, Points, Rates, View, leads, norms
from gendiff.sampling.solvers.weights import (
    Clock,
    Index,
    LogSNR,
    adams,
    between,
    multistep2,
    multistep3,
    noisy,
    plain,
    unipc,
)
from gendiff.spaces import leaves


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """DPM-Solver++(2M): one evaluation a step, second order, from the last two predictions.

    Args:
        eta: Noise of the reverse SDE: 1 is SDE-DPM-Solver++(2M), first order; the square of k-diffusion's.
        noise_scale: Factor on that noise.
        settle: Whether the last step is of first order wherever it ends, as diffusers has it with fewer than 15 steps;
            into sigma = 0 it is that anyway.
    """

    order: ClassVar[int] = 2
    remembers: ClassVar[bool] = True
    steps: int = 20
    times: Grid = field(default_factory=PowerGrid)
    eta: Setting | None = None
    noise_scale: Setting = 1.0
    settle: bool = False

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        two = past and not (self.settle and not past.ahead)
        weights = process.per_part(lambda leaf: multistep2(leaf, past[-1], t, s) if two else (1.0,))
        churn = process.per_part(lambda leaf, eta: noisy(leaf, t, s, eta), self.eta)
        yield Row(t, s, at=t, weights=weights, move=process.move(t, s, churn, by_part(process, self.noise_scale)))


STEEP = 0.7
"""The largest share of an error of the newest prediction that the default corrector lets into the state it corrects."""


def share(leaf: Leaf, t: float, s: float, weight: float) -> float:
    """What a change of a prediction of this weight makes of the clean state that x_s stands for."""
    move = leaf.move(t, s)
    if not isinstance(move, Move):
        return weight
    return float(move.pull) * weight / (leaf.schedule(s)[0] if isinstance(leaf, Gaussian) else 1.0)


@dataclass(frozen=True)
class Adams(Solver):
    """Exponential Adams of any order, in any view, with or without noise and corrector.

    As it stands it is what to take without reasons to choose. View, grid and orders were chosen by problems with exact
    answers and by trained networks (`benchmarks/defaults.py`). Networks, whose predictions are rougher, want steps that
    are nearer to even: domains take PowerGrid(1.1) or PowerGrid(1.2).

    Args:
        order: Of the predictor, and of the whole without a corrector; with one, the whole is one order better. By
            default 2, from 15 steps on 3. The fourth is better on smooth problems, but weighs predictions with up to
            7 times their rounding and roughness: of proteins it spoils a quarter of the steps along the chain.
        view: What is mixed, and in what variable it is interpolated.
        corrector: Of how many predictions the last move is redone, the newest included; 0 for none. By default
            order + 1, but not before the last step, nor where the redone move would let more than STEEP of an error of
            the newest prediction into the state: the rate (x - x0)/c of a network is least right where c is small.
        eta: Noise of the reverse SDE, for points; by part, classes may have theirs in every view.
        noise_scale: Factor on that noise.
        settle: Lower the order over the last steps.
        low: The sigma/alpha below which a step begins without that noise; with `high`, SA-Solver's tau(t).
        high: The sigma/alpha above which it does.
    """

    remembers: ClassVar[bool] = True
    steps: int = 10
    order: int | None = None  # type: ignore[misc]
    times: Grid = field(default_factory=lambda: PowerGrid(1.65))
    view: View = field(default_factory=lambda: Circle(share=0.4))
    corrector: int | None = None
    eta: Setting | None = None
    noise_scale: Setting = 1.0
    settle: bool = False
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.eta, Mapping):
            self.written(self.eta)

    def written(self, eta: float | None) -> None:
        """Refuses noise on a flow in a view that has none."""
        if eta and not isinstance(self.view, Points):
            raise SamplerError(
                f"Adams got the noise eta={self.eta} in the view {self.view!r}",
                "points, of which alone the reverse SDE is written, or classes alone",
                f"Adams({self.steps}, view=Points(LogSNR()), eta={self.eta})",
            )

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        at, order = (t, *reversed(past)), self.predicted()
        order = min(order, past.ahead + 1) if self.settle else order
        last = self.corrector is None and not past.ahead
        again = [] if last else list(self.correction(process, t, past))
        yield from again
        yield self.row(process, t, s, at[:order], None if again else t)

    def correction(self, process: Process, t: float, past: Past) -> Iterator[Row]:
        corrector = self.predicted() + 1 if self.corrector is None else self.corrector
        if corrector and past:
            order = min(self.predicted(), past.ahead + 2) if self.settle else self.predicted()
            yield self.row(process, past[-1], t, (t, *reversed(past))[:corrector], t, past[: -order - 1 : -1])

    def predicted(self) -> int:
        """The order of the predictor."""
        return (3 if self.steps >= 15 else 2) if self.order is None else self.order

    def row(
        self,
        process: Process,
        t: float,
        s: float,
        nodes: Sequence[float],
        at: float | None,
        kept: Sequence[float] = (),
    ) -> Row:
        """The move t -> s towards the mix of predictions at the nodes; `kept` are those of the move that it redoes."""

        def mixed(leaf: Leaf, eta: float | None) -> tuple[float, ...]:
            if leaf.flows:
                self.written(eta)
            eta = self.noisiness(leaf, t, eta) or 0.0
            w = self.view.weights(leaf, nodes, t, s, eta)
            steep = STEEP if self.corrector is None else math.inf
            if not kept or (len(w) > 1 and share(leaf, t, s, w[0]) <= steep):
                return w
            return (0.0, *self.view.weights(leaf, kept, t, s, eta))  # the move stays as it was

        weights = process.per_part(mixed, self.eta)
        churn = process.per_part(lambda leaf, eta: noisy(leaf, t, s, self.noisiness(leaf, t, eta)), self.eta)
        # The newest prediction alone is the end itself at sigma = 0; its rate would leave the rounding of x/n there.
        alone = s <= 0 and at is not None and set(leaves(weights)) == {(1.0,)}
        return Row(
            t, s, at=at, weights=weights, redo=bool(kept),
            move=process.move(t, s, churn, by_part(process, self.noise_scale)),
            norms=None if alone else process.per_part(lambda leaf: self.view.norms(leaf, nodes[0], t, s)),
        )  # fmt: skip

    def noisiness(self, leaf: Leaf, t: float, eta: float | None) -> float | None:
        """eta for a step that begins at t: 0 outside of [low, high]."""
        return eta if between(leaf, t, self.low, self.high) else 0.0


@dataclass(frozen=True)
class DPMpp3S(Solver):
    """Singlestep DPM-Solver++ on the points of the grid: of `order` points a step is made, one evaluation at each.

    From the first point of a block all its moves start, the k-th with the polynomial in lambda through k predictions;
    then they are forgotten. On grids that are even in lambda (`LogSNRGrid`) these are the published 2S and 3S. The last
    block is as long as what is left of the grid.

    Args:
        steps: Of the grid, each of one evaluation: three are one step of 3S.
        order: Points in a block.
        times: The grid.
    """

    remembers: ClassVar[bool] = True
    steps: int = 21
    order: int = 3  # type: ignore[misc]
    times: Grid = field(default_factory=LogSNRGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        place = len(past) % self.order
        nodes = (t, *reversed(past[len(past) - place :]))
        weights = process.per_part(lambda leaf: adams(leaf, nodes, nodes[-1], s, LogSNR(), 1.0))
        yield Row(
            nodes[-1], s, at=t, weights=weights, redo=place > 0, move=plain(process, nodes[-1], s),
            last=place == self.order - 1 or not past.ahead,
        )  # fmt: skip


@dataclass(frozen=True)
class DPMpp3M(Solver):
    """DPM-Solver++(3M), with eta = 1 its SDE, with the weights that are published and in use.

    They give the second difference half its due and so are of second order. `Adams(n, 3, view=Points(LogSNR()),
    corrector=0)` gives it all, and is of third.

    Args:
        eta: Noise of the reverse SDE: the square of k-diffusion's.
        noise_scale: Factor on that noise.
        midpoint: Whether steps with two predictions are those of DPMpp2M (diffusers), or exact in lambda (k-diffusion).
        settle: Lower the order over the last steps; by default with fewer than 15, as diffusers does.
    """

    order: ClassVar[int] = 2
    remembers: ClassVar[bool] = True
    steps: int = 20
    times: Grid = field(default_factory=Karras)
    eta: Setting | None = None
    noise_scale: Setting = 1.0
    midpoint: bool = True
    settle: bool | None = None

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        settle = self.steps < 15 if self.settle is None else self.settle
        nodes = (t, *reversed(past))[: min(3, past.ahead + 1) if settle else 3]

        def weights(leaf: Leaf, eta: float | None) -> tuple[float, ...]:
            eta = eta or 0.0
            if len(nodes) == 3:
                return multistep3(leaf, nodes, t, s, eta)
            if len(nodes) == 2 and self.midpoint:
                return multistep2(leaf, nodes[1], t, s)
            return adams(leaf, nodes, t, s, LogSNR(), 1 + eta**2)

        churn = process.per_part(lambda leaf, eta: noisy(leaf, t, s, eta), self.eta)
        move = process.move(t, s, churn, by_part(process, self.noise_scale))
        yield Row(t, s, at=t, weights=process.per_part(weights, self.eta), move=move)


def DEIS(steps: int = 20, order: int = 3, times: Grid | None = None, settle: bool | None = None) -> Adams:
    """DEIS, tAB in log rho (Zhang & Chen 2023); it settles with fewer than 15 steps, as diffusers does."""
    settle = steps < 15 if settle is None else settle
    return Adams(steps, order, times or LogSNRGrid(), Rates(LogSNR()), 0, settle=settle)


def LMS(steps: int = 20, order: int = 4, times: Grid | None = None) -> Adams:
    """Linear multistep in sigma (k-diffusion's LMS)."""
    return Adams(steps, order, times or Karras(), Rates(Clock()), 0)


def IPNDM(steps: int = 20, order: int = 4, times: Grid | None = None) -> Adams:
    """Improved PNDM (Zhang & Chen 2023): the constants of Adams and Bashforth from the first step on."""
    return Adams(steps, order, times or PowerGrid(), Rates(Index()), 0)


def SASolver(
    steps: int = 20,
    order: int = 3,
    times: Grid | None = None,
    eta: float = 1.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Adams:
    """SA-Solver (Xue et al. 2023): stochastic Adams, predictor and corrector in lambda.

    Their tau(t) is eta where sigma/alpha is in [low, high], else 0.
    """
    return Adams(steps, order, times or PowerGrid(), HalfSlope(), order, eta, settle=True, low=low, high=high)


@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC: a predictor of the given order and a corrector that raises it by one, at one evaluation a step.

    Args:
        bh2: B(h) = exp(h) - 1, better with few steps; else B(h) = h.
        corrector: Whether to correct.
    """

    remembers: ClassVar[bool] = True
    steps: int = 10
    order: int = 3  # type: ignore[misc]
    times: Grid = field(default_factory=Karras)
    bh2: bool = True
    corrector: bool = True
    settle: bool = True

    def at_most(self, done: int, ahead: int) -> int:
        """The order of a step after `done` steps, with `ahead` to come: it grows from 1 and falls to 1."""
        return min(self.order, done + 1, ahead + 1) if self.settle else min(self.order, done + 1)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        at = (t, *reversed(past))[: self.at_most(len(past), past.ahead)]
        again = list(self.correction(process, t, past))
        yield from again
        weights = process.per_part(lambda leaf: unipc(leaf, at, t, s, self.bh2, False))
        yield Row(t, s, at=None if again else t, weights=weights, move=plain(process, t, s))

    def correction(self, process: Process, t: float, past: Past) -> Iterator[Row]:
        if self.corrector and past:
            # The corrector has the order of the predictor whose move it redoes.
            at = (t, *reversed(past))[: self.at_most(len(past) - 1, past.ahead + 1) + 1]
            weights = process.per_part(lambda leaf: unipc(leaf, at, past[-1], t, self.bh2, True))
            yield Row(past[-1], t, at=t, weights=weights, redo=True, move=plain(process, past[-1], t))


@dataclass(frozen=True)
class PNDM(Solver):
    """PNDM without Runge-Kutta warm-up (PLMS): one evaluation a step, and one more in the first."""

    order: ClassVar[int] = 2
    remembers: ClassVar[bool] = True
    steps: int = 20
    times: Grid = field(default_factory=PowerGrid)

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        def row(at: float, nodes: Sequence[float], w: Sequence[float], redo: bool = False, last: bool = True) -> Row:
            weights = process.per_part(lambda leaf: leads(leaf, t, nodes, w))
            move, both = plain(process, t, s), norms(process, at, t)
            return Row(t, s, at=at, weights=weights, redo=redo, move=move, last=last, norms=both)

        nodes = [t, *reversed(past)][:4]
        if past:
            w = list(process_free(len(nodes)))
            if len(past) < 4 and len(nodes) == len(past) + 1:
                # The trial evaluation of the first step stands before the oldest prediction.
                nodes.insert(-1, past[-1] if len(past) == 1 else nodes[-2])
                w.insert(-1, 0.0)
            yield row(t, nodes, w)
        elif s > 0:
            yield row(t, (t,), (1.0,), last=False)
            yield row(s, (s, t), (0.5, 0.5), redo=True)
        else:
            yield Row(t, s, at=t, move=plain(process, t, s))


def process_free(order: int) -> tuple[float, ...]:
    """The constants of Adams and Bashforth, newest first."""
    return ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))[order - 1]

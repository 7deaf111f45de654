r"""Langevin steps: moves that stay at their noise level and bring x nearer to its law there.

With r = x - alpha x0 = -sigma^2 score(x), the process's own move t -> t with churn = eta sigma redraws a share of r,

    r' = sqrt(1 - eta^2) r + eta sigma z,    to first order   x' = x + delta sigma^2 score + sqrt(2 delta) sigma z

with 2 delta = eta^2: the Langevin step of size delta sigma^2, but exact at a constant prediction. Where a process knows
its move t -> t (geodesics, rotations, categories) the same row corrects there.

    Langevin            after each step of another solver, some corrections       (Song et al. 2021, Alg. 1)
    AnnealedLangevin    corrections alone, level after level                      (Song & Ermon 2019, Alg. 1)

Song et al. take delta sigma^2 = 2 (snr |z|/|score|)^2, the norms averaged over the batch. Here |z|/|score| is replaced
by what it is for noise, sigma, so that samples do not hang together: eta = 2 snr. Song & Ermon's step is eps
sigma_i^2/(2 sigma_L^2), which is eta = sqrt(eps)/sigma_L, 0.45 for their 2e-5 and 0.01: snr = 0.22.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gendiff.errors import SamplerError
from gendiff.processes import Gaussian, Leaf, Move, Process
from gendiff.sampling.grids import Grid, LinearGrid, LogSNRGrid
from gendiff.sampling.solvers.single import DDPM
from gendiff.sampling.solvers.table import Past, Row, Solver
from gendiff.sampling.solvers.weights import plain


@dataclass(frozen=True)
class Langevin(Solver):
    """Another solver with corrections after each of its steps: predictor and corrector.

    Args:
        solver: A solver of single steps, e.g. DDPM() or Euler(); its own steps and grid are not used.
        corrections: Langevin steps after each step, one evaluation each; none at t = 0.
        snr: Their size, in (0, 0.5]; 0.5 redraws all of the noise.

    Raises:
        SamplerError: For another size.
    """

    order: ClassVar[int] = 1
    steps: int = 50
    times: Grid = field(default_factory=LinearGrid)
    solver: Solver = field(default_factory=DDPM)
    corrections: int = 1
    snr: float = 0.16

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        yield from self.solver.step(process, t, s, Past())
        if s > 0:
            yield from corrected(process, s, self.corrections, self.snr)


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin steps at each level of the grid; between levels the signal is rescaled, and at the end x is denoised.

    Args:
        corrections: Langevin steps at each level, one evaluation each.
        snr: Their size, in (0, 0.5].

    Raises:
        SamplerError: For another size, or a level without signal, which cannot be rescaled.
    """

    order: ClassVar[int] = 1
    steps: int = 20
    times: Grid = field(default_factory=LogSNRGrid)
    corrections: int = 20
    snr: float = 0.22

    def step(self, process: Process, t: float, s: float, past: Past) -> Iterator[Row]:
        yield from corrected(process, t, self.corrections, self.snr)
        if s > 0:
            yield Row(t, s, move=process.per_part(lambda leaf: level(leaf, t, s)))
        else:
            yield Row(t, s, at=t, move=plain(process, t, s))


def corrected(process: Process, t: float, count: int, snr: float) -> Iterator[Row]:
    """Langevin steps at t."""
    churn = process.per_part(lambda leaf: 2 * snr * leaf.schedule(t)[1])
    move = process.move(t, t, churn)
    for _ in range(count):
        yield Row(t, t, at=t, move=move)


def level(leaf: Leaf, t: float, s: float) -> Any:
    """From one noise level to the next without a prediction: the signal is rescaled, the noise left as it is."""
    if not isinstance(leaf, Gaussian):
        return leaf.move(t, t)
    alpha = leaf.schedule(t)[0]
    if alpha <= 0:
        raise SamplerError(
            f"AnnealedLangevin begins at t = {t}, where {leaf.schedule!r} has alpha = 0",
            "a grid that starts below",
            "AnnealedLangevin(times=LinearGrid(start=0.99))",
        )
    return Move(leaf.schedule(s)[0] / alpha, 0.0)

"""What all adapters are made of: a peer, the model it is given, and how its evaluations are spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gendiff.denoisers import Mixture
from gendiff.errors import GendiffError

if TYPE_CHECKING:
    from benchmarks.problems import Cloud, Problem

LOWS = (0.002, 0.01, 0.05)


class Model:
    """An exact denoiser that counts its evaluations and refuses more than its limit."""

    def __init__(self, denoiser: Mixture | Cloud, limit: float = float("inf")) -> None:
        self.denoiser, self.limit, self.calls = denoiser, limit, 0

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x = alpha x0 + sigma z]."""
        self.calls += 1
        if self.calls > self.limit:
            raise GendiffError("More evaluations than allowed", f"at most {self.limit}")
        return self.denoiser.predict(x, alpha, max(sigma, 1e-6))

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        """E[z - x0 | x] on the linear path."""
        sigma = max(sigma, 1e-6)
        return (x - self(x, 1 - sigma, sigma)) / sigma


@dataclass(frozen=True)
class Peer:
    """One sampler on one grid; run(model, starts, n) returns the ends."""

    library: str
    sampler: str
    grid: str
    run: Callable[[Model, Tensor, int], Tensor]

    @property
    def name(self) -> str:
        return f"{self.library} {self.sampler}, {self.grid}"

    def error(self, problem: Problem, n: int) -> float:
        """Root mean square per coordinate to the exact ends of the problem.

        Raises:
            GendiffError: If it evaluates more than n times, or ends in something that is not finite.
        """
        model = Model(problem.denoiser, n)
        alpha = problem.denoiser.process.schedule(1.0)[0]
        with double(), torch.no_grad():
            end = self.run(model, problem.x / alpha if alpha else problem.x, n)
        error = float(problem.distances(end).mean().sqrt())
        if not isfinite(error):
            raise GendiffError("Its ends are not finite", "numbers")
        return error


def level(problem: Problem) -> float:
    """sigma/alpha at the start, infinite for the flow."""
    alpha, sigma = problem.denoiser.process.schedule(1.0)
    return sigma / alpha if alpha else float("inf")


@contextmanager
def double() -> Iterator[None]:
    """float64 wherever a library takes torch's default."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def halves(n: int) -> int:
    """Steps of two evaluations, the last of one."""
    return (n + 1) // 2


def tuned(run: Callable[[Model, Tensor, float], Tensor], model: Model, x: Tensor, n: int) -> Tensor:
    """An adaptive sampler at the tightest tolerance, by bisection, that n evaluations pay for."""
    low, high = 1e-8, 10.0

    def fits(tolerance: float) -> bool:
        trial = Model(model.denoiser, n)
        try:
            run(trial, x, tolerance)
        except GendiffError:
            return False
        return True

    if not fits(high):
        raise GendiffError("More evaluations than allowed at any tolerance", f"at most {n}")
    for _ in range(9):
        middle = sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return run(model, x, high)
